"""Other libraries that tests compare with, where they are installed.

May import: pytest and the standard library. Do not break: with FASTEMBED_REQUIRE_PEERS=1 a missing peer is a failure,
so that a machine which should have them cannot skip these tests quietly.
"""

import importlib
import importlib.util
import os
import warnings

import pytest


def need(name):
    """Skips the test or module if there is no package `name`; fails it with FASTEMBED_REQUIRE_PEERS=1."""
    if importlib.util.find_spec(name) is not None:
        return
    if os.environ.get("FASTEMBED_REQUIRE_PEERS") == "1":
        pytest.fail(f"{name} is not installed, and FASTEMBED_REQUIRE_PEERS=1 asks for it", pytrace=False)
    pytest.skip(f"{name} is not installed", allow_module_level=True)


def peer(name):
    """The module `name`, whatever it warns of at import."""
    need(name.partition(".")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def load_keras():
    """Keras 3 on the backend that KERAS_BACKEND names, else on the first that is there."""
    if not os.environ.get("KERAS_BACKEND"):
        there = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
        os.environ["KERAS_BACKEND"] = there[0] if there else "numpy"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return peer("keras")
