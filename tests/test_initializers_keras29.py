"""The same initializers in Keras 2.9.3, by what it answered: tests/keras29_facts.json.

Do not break: what one of the two refuses and the other does not is listed here, and nothing else may differ.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from fastembed import initializers, serialization

FACTS = json.loads(Path(__file__).with_name("keras29_facts.json").read_text(encoding="utf-8"))
# Keras takes these: a base class that makes nothing, a range upside down, a negative deviation, seeds that fail later.
REFUSED = [
    "Initializer",
    "initializer",
    {"call": "initializers.RandomUniform", "with": {"minval": 1, "maxval": -1}},
    {"call": "initializers.RandomNormal", "with": {"stddev": -1}},
    {"call": "initializers.RandomUniform", "with": {"seed": 1.5}},
    {"call": "initializers.RandomUniform", "with": {"seed": "a"}},
]
# And it knows no config without "config", nor the names of Keras 3.
MORE = [{"class_name": "Zeros"}, "OrthogonalInitializer"]


def make(given):
    if isinstance(given, dict) and "call" in given:
        return getattr(initializers, given["call"].removeprefix("initializers."))(**given["with"])
    return initializers.get(given)


@pytest.mark.parametrize("fact", FACTS["initializer_identifiers"], ids=lambda fact: json.dumps(fact["given"]))
def test_identifiers(fact):
    """Class names, keys, order and values of the form of 2.9; and that form makes the same again."""
    given = fact["given"]
    if given in MORE:
        assert "error" in fact
        make(given)
    elif "error" in fact or given in REFUSED:
        with pytest.raises((ValueError, TypeError)):
            make(given)
    else:
        written = serialization.serialize(make(given), version=2)
        assert written == fact["serialized"]
        if written is not None:
            assert list(written["config"]) == list(fact["serialized"]["config"])
            again = initializers.get(fact["serialized"])
            assert again.get_config() == make(given).get_config()


@pytest.mark.parametrize("fact", FACTS["fans"], ids=lambda fact: str(fact["shape"]))
def test_fans(fact):
    assert initializers.HeNormal()._fans(tuple(fact["shape"])) == tuple(fact["fans"])


@pytest.mark.parametrize("fact", FACTS["initializer_statistics"], ids=lambda fact: json.dumps(fact["given"]))
def test_statistics(fact):
    """64,000 values: ends of what is bounded within 1 %, of what is not within a deviation; moments by their errors."""
    values = make(fact["given"])(fact["shape"]).astype(float)
    n, name = values.size, fact["given"]["call"] + str(fact["given"]["with"])
    bounded = "Uniform" in name or "'uniform'" in name or ("Orthogonal" not in name and "untruncated" not in name)
    near = 0.01 * (fact["max"] - fact["min"]) if bounded and "RandomNormal" not in name else fact["std"]
    assert abs(values.min() - fact["min"]) < near
    assert abs(values.max() - fact["max"]) < near
    assert abs(values.std() / fact["std"] - 1) < 0.015
    assert abs(values.mean() - fact["mean"]) < 6 * fact["std"] / np.sqrt(n)


@pytest.mark.parametrize(
    "fact",
    [fact for fact in FACTS["initializer_values"] if fact["dtype"] == "float32" and "value" in fact],
    ids=lambda fact: json.dumps(fact["given"]),
)
def test_values(fact):
    if fact["given"] in REFUSED:
        return
    assert np.array_equal(
        make(fact["given"])(fact["shape"]), np.array(fact["value"], np.float32).reshape(fact["shape"])
    )
