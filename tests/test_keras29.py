"""What Keras 2.9.3 answers (keras29_facts.json), held against fastembed, where Keras itself is not needed.

Do not break: every fact is looked at. One that concerns us is equal here too; where fastembed answers otherwise, it is
claimed by a row of DIFFERENCES, whose test says what fastembed does instead. docs/keras.md shows these rows.

The file's own rules are in make_keras29_facts.py: `{"call": ...}` stands for an object, lists may have been tuples, a
`changed` config differs from the first one of its section.
"""

import builtins
import contextlib
import json
import operator
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import reference as ref
from peers import need

import fastembed
from fastembed import (
    Embedding,
    IndexedSlices,
    Ragged,
    Table,
    constraints,
    dtypes,
    initializers,
    optimizers,
    regularizers,
)
from fastembed.serialization import deserialize, serialize

pytestmark = pytest.mark.filterwarnings("ignore:.*takes norms over all rows")

FACTS = json.loads(Path(__file__).with_name("keras29_facts.json").read_text(encoding="utf-8"))
PATTERNS = {tuple(fact["shape"]): np.array(fact["value"], np.float32) for fact in FACTS["patterns"]}
# Sections that say nothing to compare with, and where the others are compared.
ELSEWHERE = {
    "made_with": "versions",
    "patterns": "arrays that the others use",
    "matrices": "arrays that the others use",
    "training_steps": "what `training` starts from",
    "files": "tests of fastembed.formats",
    "fans": "initializer_statistics depend on them",
    "names_in_models": "fastembed has no models",
    "symbolic_shapes": "fastembed has no symbolic inputs: see test_shapes_of_outputs",
}
LOOPED = set()
CLAIMED = {}  # by id of a fact: the topic of the difference
CLOSE = {"rtol": 1e-6, "atol": 1e-7}
ROUNDING = {"float16": {"rtol": 2e-3, "atol": 1e-4}}  # of values that were computed in that dtype


# ---- facts and what stands for them ------------------------------------------------------------------


def make(given):
    """What a JSON value stands for, of fastembed."""
    if isinstance(given, dict) and "call" in given:
        if given["call"].startswith("mixed_precision"):
            return types.SimpleNamespace(**given["with"])
        arguments = {key: np.inf if value == "inf" else make(value) for key, value in given["with"].items()}
        return operator.attrgetter(given["call"])(fastembed)(**arguments)
    if isinstance(given, dict):
        return {
            key: tuple(value) if key == "input_length" and isinstance(value, list) else make(value)
            for key, value in given.items()
        }
    return given


def ids_of(values, kind):
    """Ids as `kind` says: "python", "int64", "numpy bool", "ragged int32"."""
    form, _, dtype = kind.rpartition(" ")
    if kind == "python":
        return values
    if form == "ragged" and values:
        ids = Ragged.from_lists(values)
        return ids.with_values(np.asarray(ids.flat_values, dtype))
    return np.array(values, "str" if dtype == "string" else dtype)


def array(value, dtype=np.float32):
    """A recorded array."""
    flat = np.array(value, object)
    return np.array([float(number) for number in flat.flat], dtype).reshape(flat.shape)


def as_json(value):
    """What JSON holds of it, with the order of keys."""
    return json.loads(json.dumps(value), object_pairs_hook=list)


def error_of(fact):
    """Our class for an error of Keras."""
    names = {"InvalidArgumentError": "IndexError", "UnimplementedError": "TypeError"}
    return getattr(builtins, names.get(fact["error"], fact["error"]))


def label(fact):
    keys = ("given", "made", "change", "without", "weights", "ids", "ids_as", "matrix", "input_shape", "gradient")
    text = " ".join(json.dumps(fact[key]) for key in keys if key in fact) or json.dumps(fact)
    return text.replace('"', "").replace("input_dim: 7, output_dim: 3, ", "").replace("\\u00c4", "A")[:80]


def loop(section, wanted=lambda fact: True):
    """Parametrizes a test with the facts of a section that no difference claims."""
    LOOPED.add(section)
    facts = [fact for fact in FACTS[section] if id(fact) not in CLAIMED and wanted(fact)]
    assert facts
    return pytest.mark.parametrize("fact", facts, ids=label)


class Difference(NamedTuple):
    """A row of the table in docs/keras.md."""

    topic: str
    keras29: str
    keras3: str
    fastembed: str


DIFFERENCES = []


def difference(topic, keras29, keras3, fastembed, **claims):
    """A row of the table, and its test. claims: by section, which of its facts are answered otherwise here; the test
    is then run with each of them."""
    DIFFERENCES.append(Difference(topic, keras29, keras3, fastembed))
    return lambda test: claim(topic, **claims)(test) if claims else test


def claim(topic, **claims):
    """A further test of a difference, with its facts: of those that none above has claimed."""
    facts = [fact for section, claimed in claims.items() for fact in FACTS[section] if claimed(fact)]
    facts = [fact for fact in facts if id(fact) not in CLAIMED]
    assert facts
    CLAIMED.update({id(fact): topic for fact in facts})
    return pytest.mark.parametrize("fact", facts, ids=label)


@pytest.fixture(autouse=True)
def fresh_names(monkeypatch):
    """Names of layers count from 0, as after Keras's clear_session."""
    monkeypatch.setattr("fastembed.layers.embedding._names", {})


@pytest.fixture
def layer():
    return Embedding(5, 2, mask_zero=True, weights=PATTERNS[5, 2])


def filled(given):
    """A layer that holds the pattern."""
    layer = Embedding(**make(given))
    layer.set_weights([PATTERNS[layer.input_dim, layer.output_dim]])
    return layer


# ---- where the generations differ: ids ---------------------------------------------------------------


def kinds_of(*kinds):
    return lambda fact: fact["ids_as"].rpartition(" ")[2] in kinds


@difference(
    "a negative id",
    "InvalidArgumentError on a CPU",
    "counts from the end: -1 is the last row (all backends)",
    "IndexError, with the id and its position",
)
def test_negative_ids(layer):
    with pytest.raises(IndexError, match=r"ids\[0, 1\] = -1 at flat position 1"):
        layer([[0, -1]])


@difference(
    "an id of `input_dim` or more",
    "InvalidArgumentError on a CPU",
    "an error on TensorFlow and torch, NaN on JAX; torch and JAX look at the lower 32 bits of an int64 alone",
    "IndexError, with the id and its position",
)
def test_too_large_ids(layer):
    for number in (5, 2**32 + 1):
        with pytest.raises(IndexError, match=rf"ids\[1\] = {number} at flat position 1"):
            layer(np.array([0, number]))


@difference(
    "an unsigned id past int32",
    "its lower 32 bits: 2**32 + 1 is row 1; 2**32 - 1 is an error, as -1",
    "its lower 32 bits: 2**32 + 1 is row 1 (not on torch, which has no uint64), 2**32 - 1 the last row",
    "IndexError, with the id that was given",
    calls=lambda fact: fact["ids_as"] in ("uint32", "uint64") and fact["ids"][0] > 2**31,
)
def test_large_unsigned_ids(fact, layer):
    with pytest.raises(IndexError, match=str(fact["ids"][0])):
        layer(ids_of(fact["ids"], fact["ids_as"]))


def flat(value):
    """The leaves of nested lists."""
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, list) else [value]


@difference(
    "a float id that is not whole",
    "cut to an integer; yet the mask of 0.5 is True",
    "cut to an integer; yet the mask of 0.5 is True",
    "ValueError (whole ones are taken); the mask is Keras's",
    calls=lambda fact: any(isinstance(number, float) and number % 1 for number in flat(fact["ids"])),
)
def test_fractional_ids(fact, layer):
    ids = ids_of(fact["ids"], fact["ids_as"])
    with pytest.raises(ValueError, match="whole numbers"):
        layer(ids)
    same_mask(layer.compute_mask(ids), fact["compute_mask"])


@difference(
    "bool ids",
    "0 and 1; TypeError with `mask_zero`",
    "0 and 1",
    "TypeError; `compute_mask` gives them back",
    calls=lambda fact: kinds_of("bool")(fact) or fact["ids"] is True,
)
def test_bool_ids(fact):
    layer = filled(fact["given"])
    ids = ids_of(fact["ids"], fact["ids_as"])
    with pytest.raises(TypeError, match="must be integers"):
        layer(ids)
    mask = layer.compute_mask(ids)
    assert np.array_equal(mask, ids) if layer.mask_zero else mask is None


@difference(
    "ids that are no numbers, or complex",
    "errors of several classes; the real part of complex ones",
    "errors of several classes; the real part of complex ones",
    "TypeError",
    calls=lambda fact: fact["ids_as"] in ("string", "complex64") or fact["ids"] in (None, "a"),
)
def test_no_numbers(fact, layer):
    ids = ids_of(fact["ids"], fact["ids_as"])
    for answer in (layer, layer.compute_mask):
        with pytest.raises(TypeError):
            answer(ids)


@difference(
    "a list of ids, a Python number",
    "AttributeError for a list; a number is taken",
    "ValueError for both",
    "both are taken, as NumPy takes them",
    calls=lambda fact: fact["ids_as"] == "python" and isinstance(fact["ids"], list),
)
def test_lists(fact, layer):
    assert np.array_equal(layer(fact["ids"]), PATTERNS[5, 2][np.array(fact["ids"], int)])
    same_mask(layer.compute_mask(fact["ids"]), fact["compute_mask"])


@difference(
    "a SparseTensor",
    "ValueError",
    "made dense on TensorFlow: what is not there is id 0",
    "none of its kind: a `Ragged`, and `EmbeddingBag` for sums",
    calls=lambda fact: fact["ids_as"].startswith("sparse"),
)
def test_sparse_ids(fact, layer):
    with pytest.raises(TypeError):
        layer(types.SimpleNamespace(indices=[[0, 0]], values=[1], dense_shape=[2, 2]))


@difference(
    "the mask of a look-up",
    "`compute_mask`, and `_keras_mask` on the output",
    "`compute_mask`, and `_keras_mask` on the output",
    "`compute_mask` alone: an array carries no mask",
)
def test_outputs_carry_no_mask(layer):
    assert not hasattr(layer([1, 0]), "_keras_mask")


# ---- where the generations differ: losses and gradients ----------------------------------------------


@difference(
    "order of `losses`",
    "[activity, table]",
    "[activity, table]",
    "[activity, table]",
)
def test_order_of_losses():
    layer = Embedding(2, 2, activity_regularizer="l1", embeddings_regularizer="l2", weights=np.ones((2, 2)))
    layer([[0, 0, 0]])
    np.testing.assert_allclose(layer.losses, [0.06, 0.04], rtol=1e-6)


@difference(
    "a table that does not train",
    "its penalty stays in `losses`",
    "its penalty is not in `losses`",
    "as in Keras 3",
    losses=lambda fact: fact["given"].get("trainable") is False,
)
def test_losses_of_a_frozen_table(fact):
    layer = filled(fact["given"])
    layer(fact["ids"])
    np.testing.assert_allclose(layer.losses, fact["losses"][:1], **CLOSE)
    layer.trainable = True
    np.testing.assert_allclose(layer.losses, fact["losses"], **CLOSE)


@difference(
    "activity loss of a scalar id, or of no ids",
    "a scalar's is divided by `output_dim`, the first dimension of the output; none: NaN",
    "a scalar's is divided by `output_dim`; none: 0",
    "as in Keras 3",
)
def test_activity_loss_without_a_batch():
    fact = next(fact for fact in FACTS["losses"] if fact["ids"] == 2 and "activity_regularizer" in fact["given"])
    layer = filled(fact["given"])
    penalty = layer.activity_regularizer(layer(fact["ids"]))
    assert layer.losses == [penalty / 2] == fact["losses"]
    layer(np.zeros((0, 3), int))
    assert layer.losses == [0.0]


@difference(
    "gradient of a table with a regularizer",
    "dense",
    "dense",
    "row-sparse, with the penalty at the touched rows; `regularization_gradient()` has all rows",
)
def test_gradient_with_a_regularizer_is_sparse():
    layer = Embedding(5, 2, embeddings_regularizer="l2")
    assert layer.gradient([1, 3, 1], np.ones((3, 2))).indices.tolist() == [1, 3]
    assert layer.regularization_gradient().shape == (5, 2)


@difference(
    "numbers in a regularizer's config",
    "rounded to float32: 0.01 is 0.009999999776482582",
    "rounded in L1 and OrthogonalRegularizer, not in L2 and L1L2",
    "as the generation that `version` says; the penalty is computed with the number that was given",
)
def test_numbers_of_regularizers():
    rounded = 0.10000000149011612
    for regularizer, of_3 in (
        (regularizers.L1(0.1), {"l1": rounded}),
        (regularizers.L2(0.1), {"l2": 0.1}),
        (regularizers.L1L2(0.1, 0.1), {"l1": 0.1, "l2": 0.1}),
        (regularizers.OrthogonalRegularizer(0.1), {"factor": rounded, "mode": "rows"}),
    ):
        assert regularizer.get_config() == of_3
        assert regularizer.legacy_config() == {key: rounded if key != "mode" else "rows" for key in of_3}


def orthogonality(x, factor, mode, change):
    """The formula, in float64: of the cosines c as they are (change(c) = c) or of their sizes."""
    vectors = np.asarray(x, np.float64) if mode == "rows" else np.asarray(x, np.float64).T
    vectors = vectors / np.sqrt(np.maximum((vectors**2).sum(1, keepdims=True), 1e-12))
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    return factor * change(cosines).sum() / len(cosines)


def is_orthogonal(fact):
    return fact["call"] == "regularizers.OrthogonalRegularizer"


@difference(
    "OrthogonalRegularizer",
    "the mean of the cosines with their signs; the gradient of a zero row has a factor of 1e6",
    "the mean of their sizes; the gradient of a zero row is 0",
    "as in Keras 3",
    regularizer_values=lambda fact: is_orthogonal(fact["given"]) and fact.get("value", "nan") != "nan",
)
def test_orthogonal_regularizer(fact):
    x, rounding = array(FACTS["matrices"][fact["matrix"]]), ROUNDING.get(fact["dtype"], {"rtol": 2e-6})
    regularizer = make(fact["given"])
    settings = regularizer.factor, regularizer.mode
    np.testing.assert_allclose(fact["value"], orthogonality(x, *settings, lambda cosines: cosines), **rounding)
    np.testing.assert_allclose(regularizer(x), orthogonality(x, *settings, np.abs), **rounding)
    eps = 1e-6
    for at in np.ndindex(x.shape):
        high, low = x.astype(np.float64), x.astype(np.float64)
        high[at] += eps
        low[at] -= eps
        if (x if settings[1] == "rows" else x.T)[at[:: 1 if settings[1] == "rows" else -1][0]].any():
            slope = (orthogonality(high, *settings, np.abs) - orthogonality(low, *settings, np.abs)) / (2 * eps)
            np.testing.assert_allclose(regularizer.gradient(x)[at], slope, rtol=1e-4, atol=2e-6)
    zero = ~x.any(1 if settings[1] == "rows" else 0)
    assert not regularizer.gradient(x)[zero if settings[1] == "rows" else (slice(None), zero)].any()


@difference(
    "a negative or bool factor of a regularizer",
    "taken",
    "ValueError for a negative one; True is 1.0",
    "ValueError",
    regularizer_identifiers=lambda fact: (
        any(value is True or value == -1 for value in (fact["given"] or {}).get("with", {}).values())
        if isinstance(fact["given"], dict)
        else False
    ),
)
def test_factors(fact):
    assert "serialized" in fact
    with pytest.raises(ValueError, match="must be a"):
        make(fact["given"])


# ---- where the generations differ: constraints -------------------------------------------------------


@difference(
    "NonNeg of NaN and -infinity",
    "NaN for both; -0.0 for other negative numbers",
    "NaN; 0",
    "as in Keras 3",
    constraint_values=lambda fact: fact["given"]["call"] == "constraints.NonNeg" and fact["matrix"] == 6,
)
def test_non_neg(fact):
    x = array(FACTS["matrices"][fact["matrix"]])
    constraint = constraints.NonNeg()
    assert np.array_equal(constraint(x), [[np.nan, np.inf, 0]], equal_nan=True)
    constraint.project(x)
    assert np.array_equal(x, [[np.nan, np.inf, 0]], equal_nan=True)


@difference(
    "a constraint and a row-sparse gradient",
    "RuntimeError",
    "the whole table is projected",
    "`axis=1` and NonNeg: the touched rows, the others satisfy it already; `axis=0`: the whole table",
    training=lambda fact: fact["constraint"] is not None and fact["gradient"] == "sparse",
    training_a_layer=lambda fact: "error" in fact,
)
def test_constraint_and_sparse_gradient(fact):
    assert fact["error"] == "RuntimeError"
    layer = Embedding(
        5, 2, embeddings_constraint=make({"call": "constraints.MaxNorm", "with": {"max_value": 0.5, "axis": 1}})
    )
    layer.set_weights([PATTERNS[5, 2]])
    before = layer.get_weights()[0]
    optimizers.SGD(0.5).apply_gradients([(layer.gradient([1, 3, 1], np.ones((3, 2))), layer.embeddings)])
    after = layer.embeddings.numpy()
    assert np.array_equal(after[[0, 2, 4]], before[[0, 2, 4]])
    assert not np.array_equal(after[[1, 3]], before[[1, 3]])
    assert np.linalg.norm(after, axis=1).max() < 0.5 + 1e-6


@difference(
    "a constraint before the first update",
    "not looked at",
    "not looked at",
    "holds from the first value on: initial values, `weights=` and `set_weights` are projected",
)
def test_constraint_at_the_beginning():
    clip = constraints.MaxNorm(0.5, axis=1)
    for layer in (
        Embedding(5, 2, embeddings_constraint=clip, embeddings_initializer="ones"),
        Embedding(5, 2, embeddings_constraint=clip, weights=np.ones((5, 2))),
    ):
        np.testing.assert_allclose(np.linalg.norm(layer.embeddings.numpy(), axis=1), 0.5, rtol=1e-6)


@difference(
    "constraints that nothing satisfies: a negative max_value, a min_value above it",
    "taken; zeros, the min_value",
    "taken; what comes out depends on the backend",
    "ValueError for what is negative; otherwise the max_value, as on torch and JAX",
    constraint_identifiers=lambda fact: (
        isinstance(fact["given"], dict) and fact["given"].get("with", {}).get("max_value") == -1
    ),
    constraint_values=lambda fact: (
        fact["given"]["with"].get("max_value") == -1 or fact["given"]["with"].get("min_value") == 2
    ),
)
def test_impossible_constraints(fact):
    if fact["given"]["with"]["max_value"] == -1:
        with pytest.raises(ValueError, match="max_value"):
            make(fact["given"])
    else:
        expected = constraints.MaxNorm(1)(array(FACTS["matrices"][fact["matrix"]]))[1:2]
        np.testing.assert_allclose(
            make(fact["given"])(array(FACTS["matrices"][fact["matrix"]]))[1:2], expected, **CLOSE
        )


BASES = ("Constraint", "Regularizer", "Initializer", "initializer", "RadialConstraint", "radial_constraint")


@difference(
    "base classes by name, and RadialConstraint (of kernels with four dimensions)",
    "taken",
    "base classes are taken, RadialConstraint is unknown",
    "ValueError",
    **{
        f"{kind}_identifiers": lambda fact: (
            fact["given"] in BASES
            or (isinstance(fact["given"], dict) and fact["given"].get("call", "").endswith("RadialConstraint"))
        )
        for kind in ("regularizer", "constraint", "initializer")
    },
    constraint_values=lambda fact: fact["given"]["call"].endswith("RadialConstraint"),
)
def test_base_classes(fact):
    name = fact["given"]["call"].rpartition(".")[2] if isinstance(fact["given"], dict) else fact["given"]
    for module in (constraints, regularizers, initializers):
        with pytest.raises(ValueError, match=name):
            module.get(name)


# ---- where the generations differ: initializers ------------------------------------------------------


@difference(
    "numbers from a seed",
    "others at each call, also of one object (unless tf.random.set_seed)",
    "the same at each call of one object, and of two with one seed",
    "as in Keras 3; the numbers themselves are those of neither",
    seeds=lambda fact: True,
)
def test_seeds(fact):
    assert not fact["same_object"]
    one, two = make(fact["given"]), make(fact["given"])
    table = one((4, 3))
    assert np.array_equal(one((4, 3)), table)
    assert np.array_equal(two((4, 3)), table) == (one.seed is not None)


def makes_no_table(fact):
    given = fact["given"] if isinstance(fact["given"], dict) else {}
    settings = given.get("with", {})
    falling = settings.get("minval", 0) == 1 and settings.get("maxval") == -1
    return falling or settings.get("stddev") == -1 or settings.get("seed") in (1.5, "a")


@difference(
    "a maxval below minval, a negative stddev, a seed that is no integer",
    "taken",
    "taken (a negative stddev fails on torch, when called), but ValueError for the seed",
    "ValueError",
    initializer_identifiers=makes_no_table,
    initializer_values=makes_no_table,
)
def test_initializers_that_make_no_table(fact):
    assert "error" not in fact
    with pytest.raises(ValueError, match=r"minval|stddev|seed"):
        make(fact["given"])


@difference(
    "Constant with a list",
    "a list of the table's shape",
    "whatever can be broadcast: a list of `output_dim` is each row",
    "as in Keras 3",
    initializer_values=lambda fact: fact["given"]["with"].get("value") == [1, 2],
)
def test_constant_rows(fact):
    assert fact["error"] == "TypeError"
    assert make(fact["given"])(fact["shape"]).tolist() == [[1, 2]] * 3


def dtype_of(fact):
    """The name of the dtype or policy that a layer is given; None: none."""
    dtype = fact["given"].get("dtype")
    return dtype["with"]["name"] if isinstance(dtype, dict) else dtype


def no_storage(fact):
    return dtype_of(fact) in {"float64", "int32"} - set(dtypes.PLAIN)


@difference(
    "dtypes of tables",
    "every float and int",
    "every float; int8 and int4 by quantization",
    "float64, float32, float16 and bfloat16; int8, int4 and int2 by quantization; else TypeError",
    layer_configs=no_storage,
    calls=no_storage,
    losses=no_storage,
)
def test_dtypes_of_tables(fact):
    with pytest.raises(TypeError, match="`dtype` must be one of"):
        Embedding(**make(fact["given"]))


@claim("dtypes of tables", initializer_values=lambda fact: fact["dtype"] not in ("float32", "float64"))
def test_dtypes_of_initializers(fact):
    with pytest.raises(TypeError):
        make(fact["given"])(fact["shape"], fact["dtype"])


@claim(
    "dtypes of tables", regularizer_values=lambda fact: fact["dtype"] == "float16" and not is_orthogonal(fact["given"])
)
def test_dtypes_of_regularizers(fact):
    with pytest.raises(TypeError, match="must be float32 or float64"):
        make(fact["given"])(array(FACTS["matrices"][fact["matrix"]], fact["dtype"]))


@difference(
    "look-ups of a float16 or bfloat16 table",
    "have the dtype of the table",
    "have the dtype of the table",
    "float32 of the same values, as NumPy is slow in half precision; mixed policies have float16 and bfloat16",
    calls=lambda fact: dtype_of(fact) in ("float16", "bfloat16"),
)
def test_lookups_of_half_precision(fact):
    layer, ids = filled(fact["given"]), ids_of(fact["ids"], fact["ids_as"])
    assert (layer.dtype, layer.compute_dtype) == (dtype_of(fact), "float32")
    out, wanted = layer(ids), fact["call"]
    assert wanted["output_dtype"] == layer.dtype
    assert (out.to_list() if "splits" in wanted else out.tolist()) == wanted["output"]
    assert (out.flat_values if "splits" in wanted else out).dtype == np.float32
    same_mask(layer.compute_mask(ids), fact["compute_mask"])


@difference(
    "`quantize`",
    "not there",
    "int8: codes in -127..127 and a scale for each row; int4: a scale and a zero for each 128 columns of a row",
    "int8, int4 and int2: a scale and an offset for each row, so that its least and largest number stay as they are",
)
def test_quantize():
    table = np.array([[0.0, 0.25, 1.0], [-3.0, 2.0, -1.0]], np.float32)
    for mode in ("int8", "int4", "int2"):
        layer = Embedding(2, 3, weights=table)
        layer.quantize(mode)
        np.testing.assert_allclose(layer([0, 1])[[0, 0, 1, 1], [0, 2, 0, 1]], [0, 1, -3, 2], atol=1e-6)


@difference(
    "policies of quantised layers",
    "unknown",
    "int8_from_float32, int4/128_from_float32, int4/-1_from_float32 and so on; ValueError for int8 from float16",
    "all are read and written; int8 from float16 and int2_from_float32 are, too, which Keras does not read",
)
def test_policies_of_quantised_layers():
    for name in ("int8_from_float32", "int4/128_from_float32", "int4/-1_from_float16", "int4_from_float32"):
        mode, _, source = name.partition("_from_")
        policy = {"class_name": "QuantizedDTypePolicy", "config": {"mode": mode, "source_name": source}}
        for dtype in (name, policy):
            layer = Embedding(5, 2, dtype=dtype)
            assert (layer.dtype_policy, layer.dtype) == (name, mode[:4])
            assert layer.get_config()["dtype"]["config"] == policy["config"]
            assert Embedding.from_config(layer.get_config()).get_config() == layer.get_config()
    for mode, source, wanted in (
        ("int8", "float16", {"mode": "int8", "source_name": "float16"}),
        ("int4", "float32", {"mode": "int4/128", "source_name": "float32"}),
        ("int2", "float32", None),
    ):
        layer = Embedding(5, 2, dtype=source)
        layer.quantize(mode)
        dtype = layer.get_config()["dtype"]
        assert (dtype == "int2_from_float32") if wanted is None else (dtype["config"] == wanted)
        assert Embedding.from_config(layer.get_config()).get_config() == layer.get_config()


@difference(
    "files of quantised layers",
    "not there",
    "hold the codes",
    "Keras's are read: int8 and int4 stay so, int4 with several scales for a row becomes float32; ours are float32",
)
def test_files_of_quantised_layers(tmp_path):
    """tests/test_formats.py reads Keras's."""
    need("h5py")
    layer = Embedding(5, 2, weights=PATTERNS[5, 2])
    layer.quantize("int8")
    fastembed.formats.save(layer, tmp_path / "a.keras")
    loaded = fastembed.formats.load(tmp_path / "a.keras")
    assert loaded.dtype == "float32"
    assert np.array_equal(loaded(range(5)), layer(range(5)))


@difference(
    "bfloat16 in the HDF5 files of Keras 2",
    "written as two bytes without a meaning, and not read",
    "written as two bytes without a meaning, and not read",
    "both are read; written as float32, which Keras reads",
)
def test_bfloat16_in_hdf5(tmp_path):
    need("h5py")
    import h5py

    layer = Embedding(5, 2, name="n", dtype="bfloat16", weights=PATTERNS[5, 2])
    fastembed.formats.save(layer, tmp_path / "a.h5")
    table = layer.embeddings
    for dtype, array in (("<f4", None), (">f4", table.to_float32().astype(">f4")), ("V2", table.numpy().view("V2"))):
        with h5py.File(tmp_path / "a.h5", "a") as file:
            group = file["model_weights/n/n"]
            if array is not None:
                del group["embeddings:0"]
                group["embeddings:0"] = array
            assert group["embeddings:0"].dtype == dtype
        loaded = fastembed.formats.load(tmp_path / "a.h5")
        assert loaded.dtype == "bfloat16"
        assert loaded.embeddings.numpy().tobytes() == table.numpy().tobytes()


# ---- where the generations differ: arguments, configs and names --------------------------------------

OF_KERAS_2 = ("input_shape", "batch_size", "batch_input_shape", "dynamic", "autocast")


@difference(
    "`input_dim` or `output_dim` that is no int",
    "7.0 and True are taken, building fails for most",
    "ValueError, for NumPy integers too",
    "ValueError, but NumPy integers are taken",
    layer_configs=lambda fact: any(type(fact["given"][key]) is not int for key in ("input_dim", "output_dim")),
)
def test_sizes(fact):
    with pytest.raises(ValueError, match="_dim` must be a positive integer"):
        Embedding(**make(fact["given"]))
    assert Embedding(np.int64(7), np.uint8(3)).get_config()["input_dim"] == 7


@difference(
    "arguments of Keras 2's base layer: input_shape, batch_size, batch_input_shape, dynamic, autocast",
    "taken",
    "input_shape and autocast are taken, else ValueError",
    "TypeError; configs with them are read, and `batch_input_shape` is kept",
    layer_configs=lambda fact: any(key in fact["given"] for key in OF_KERAS_2),
    calls=lambda fact: any(key in fact["given"] for key in OF_KERAS_2),
)
def test_arguments_of_keras_2(fact):
    with pytest.raises(TypeError):
        Embedding(**make(fact["given"]))
    if "ids" not in fact:
        config = recorded(fact)
        made = Embedding.from_config(config).get_config(version=2)
        config.pop("dynamic", None)
        assert as_json(made) == as_json(config)


@difference(
    "an `input_length` of several dimensions, in a config",
    "batch_input_shape is (None, (3, 5)), with which Keras makes no model",
    "`input_length` is dropped",
    "batch_input_shape is (None, 3, 5), with which Keras 2.9 does; the other is read, too",
    layer_configs=lambda fact: isinstance(fact["given"].get("input_length"), list),
)
def test_input_length_of_several_dimensions(fact):
    lengths = fact["given"]["input_length"]
    assert recorded(fact)["batch_input_shape"] == [None, lengths]
    for layer in (Embedding(**make(fact["given"])), Embedding.from_config(recorded(fact))):
        expected = {**recorded(fact), "batch_input_shape": [None, *lengths]}
        assert as_json(layer.get_config(version=2)) == as_json(expected)
    with pytest.raises(TypeError, match="batch_input_shape"):
        Embedding.from_config({**recorded(fact), "batch_input_shape": [None, [[5]]]})


@difference(
    "`input_length` in `compute_output_shape`",
    "fills in what is not known, ValueError for a contradiction",
    "not looked at",
    "as in Keras 2.9",
)
def test_input_length():
    layer = Embedding(5, 2, input_length=5)
    assert layer.compute_output_shape((2, None)) == (2, 5, 2)
    with pytest.raises(ValueError, match="input_length"):
        layer.compute_output_shape((2, 4))


NO_CONFIG = {"class_name": "Zeros"}


@difference(
    "configs of the other generation",
    "Keras 3's keys and policies are errors; an envelope must have a 'config'",
    "`batch_input_shape` and names such as GlorotUniformV2 are errors; a 'config' may be missing",
    "all are read; unknown keys are still a TypeError",
    layer_from_config=lambda fact: (
        "error" in fact
        and any(
            key == "quantization_config" or "module" in (value or {}) or value == NO_CONFIG
            for key, value in fact.get("change", {}).items()
        )
    ),
)
def test_configs_of_keras_3(fact):
    base = FACTS["layer_from_config"][0]["config"]
    made = Embedding.from_config({**base, **fact["change"]}).get_config(version=2)
    if NO_CONFIG in fact["change"].values():
        base = {**base, "embeddings_initializer": {"class_name": "Zeros", "config": {}}}
    assert as_json(made) == as_json(base)


@claim(
    "configs of the other generation",
    **{
        f"{kind}_identifiers": lambda fact: (
            (isinstance(fact["given"], dict) and set(fact["given"]) == {"class_name"})
            or fact["given"] in ("l1l2", "OrthogonalInitializer")
        )
        for kind in ("regularizer", "constraint", "initializer")
    },
    optimizer_identifiers=lambda fact: fact["given"] == {"class_name": "adam"},
)
def test_identifiers_of_keras_3(fact):
    found = []
    for module in (regularizers, constraints, initializers, optimizers):
        with contextlib.suppress(ValueError):
            found.append(module.get(fact["given"]))
    assert len(found) == 1
    assert found[0].get_config() == type(found[0])().get_config()


@difference(
    "short names of Keras 2: l1_l2, maxnorm, nonneg, unitnorm, GlorotUniformV2; `l` for l1 and l2",
    "taken",
    "ValueError; TypeError for `l`",
    "taken",
)
def test_short_names():
    assert regularizers.get("l1_l2").get_config() == {"l1": 0.01, "l2": 0.01}
    assert constraints.get("maxnorm").get_config() == {"max_value": 2, "axis": 0}
    assert regularizers.L2(l=0.5).l2 == 0.5
    with pytest.raises(TypeError, match="no_such"):
        regularizers.L2(no_such=0.5)


@difference(
    "`weights=`",
    "reaches the table at the first call (`build` alone does not), from a list of one array",
    "reaches the table at once, from an array or a list of one",
    "as in Keras 3; also from nested lists",
    given_weights=lambda fact: fact["then"] == "build" or len(fact["weights"]) == 3,
)
def test_given_weights_at_once(fact):
    weights = [np.array(item, np.float32) for item in fact["weights"]]
    fitting = np.shape(weights) in ((1, 3, 2), (3, 2))
    if not fitting:
        with pytest.raises(ValueError, match="`weights` must have shape"):
            Embedding(3, 2, weights=weights)
        return
    layer = Embedding(3, 2, weights=weights)
    assert layer.built
    assert np.array_equal(layer.embeddings.numpy(), PATTERNS[3, 2])


@difference(
    "names of layers",
    "count up from 0 for each class until clear_session; a class _Private gives private__private",
    "the same; a class _Private gives __private; ValueError for a name with '/'",
    "count up for the life of the process; __private; any string is a name",
    names=lambda fact: ["_Private", None] in fact["made"],
)
def test_names_of_private_classes(fact):
    names = [made_layer(*made).name for made in fact["made"]]
    assert names == [*fact["names"][:-1], "__private"]


# ---- where the generations differ: optimizers --------------------------------------------------------


def settings(fact):
    return fact["given"].get("with", {}) if isinstance(fact["given"], dict) else {}


def clips(fact):
    return {key: value for key, value in settings(fact).items() if "clip" in key}


@difference(
    "clipping a row-sparse gradient in which an id is repeated",
    "its parts are clipped, and then summed",
    "on TensorFlow its parts are clipped, and then summed",
    "the sum is clipped, as if the gradient were dense",
    training=clips,
)
def test_clipping_of_repeated_ids(fact):
    """Both formulas in float64; a dense gradient gives the same as the row-sparse one."""
    start, tables = FACTS["training_steps"][0], {}
    ((how, most),) = clips(fact).items()
    for parts in (True, False):
        table = np.array(start["table"])
        for rows, gradient in zip(start["ids"], start["gradients"], strict=True):
            g = np.array(gradient) if parts else ref.gather_gradient((5, 2), rows, gradient)[0]
            g = np.clip(g, -most, most) if how == "clipvalue" else g * most / max(np.sqrt((g**2).sum()), most)
            table -= 0.5 * (ref.gather_gradient((5, 2), rows, g)[0] if parts else g)
        tables[parts] = table
    assert np.abs(tables[True] - tables[False]).max() > 0.05
    np.testing.assert_allclose(array(fact["tables"])[-1], tables[True], rtol=2e-6, atol=1e-6)
    for dense in (False, True):
        np.testing.assert_allclose(steps(fact, dense)[-1], tables[False], rtol=2e-6, atol=1e-6)


@difference(
    "clipvalue beside clipnorm or global_clipnorm",
    "taken: both are done",
    "ValueError",
    "ValueError",
    optimizer_configs=lambda fact: "error" not in fact and len(clips(fact)) > 1,
)
def test_two_ways_to_clip(fact):
    for refuse in (lambda: make(fact["given"]), lambda: optimizers.get(fact["serialized"])):
        with pytest.raises(ValueError, match="only one of `clipnorm`, `global_clipnorm` and `clipvalue`"):
            refuse()


@difference(
    "`decay` of optimizers",
    "there",
    "taken with a warning, and not looked at",
    "ValueError unless it is 0 (or 0.004 for Nadam, see below): a schedule does the same (InverseTimeDecay)",
    optimizer_configs=lambda fact: "error" not in fact and settings(fact).get("decay"),
    training=lambda fact: settings(fact).get("decay"),
)
def test_decay(fact):
    config = fact.get("serialized", fact)["config"]
    with pytest.raises(ValueError, match="`decay` must be 0"):
        optimizers.SGD.from_config(config)
    start, variable = FACTS["training_steps"][0], array(FACTS["training_steps"][0]["table"])
    rate = fastembed.schedules.InverseTimeDecay(0.5, decay_steps=1, decay_rate=0.25)
    optimizer = optimizers.SGD(rate)
    for rows, gradient in zip(start["ids"], start["gradients"], strict=True):
        optimizer.apply_gradients([(IndexedSlices(array(gradient), rows, (5, 2)), variable)])
    if "tables" in fact:
        np.testing.assert_allclose(variable, array(fact["tables"])[-1], **CLOSE)


@difference(
    "`lr` of optimizers; None as an optimizer",
    "`lr` is the learning rate; ValueError for None",
    "ValueError for `lr`; None is None",
    "TypeError for `lr`; None is None",
    optimizer_configs=lambda fact: "lr" in settings(fact),
    optimizer_identifiers=lambda fact: (
        fact["given"] is None or (isinstance(fact["given"], dict) and "lr" in fact["given"].get("config", {}))
    ),
)
def test_lr(fact):
    if fact["given"] is None:
        assert optimizers.get(None) is None
        return
    with pytest.raises(TypeError, match="lr"):
        optimizers.SGD(lr=0.5)


@difference(
    "hyperparameters out of range: a learning rate below 0, a momentum of 1, betas from 1, an epsilon below 0 or None",
    "mostly taken; an epsilon of None is 1e-7",
    "mostly taken",
    "ValueError",
    optimizer_configs=lambda fact: (
        "error" not in fact and any(value in ("a", None, -0.5, 1.5, -1.0) for value in settings(fact).values())
    ),
    training=lambda fact: settings(fact).get("epsilon", 0) is None,
)
def test_hyperparameters(fact):
    with pytest.raises(ValueError, match="must be a finite number"):
        make(fact["given"])


def steps(fact, dense, **more):
    """The table after each of the recorded steps. more: arguments of the optimizer that Keras does not have."""
    start = FACTS["training_steps"][0]
    variable = Table.wrap(array(start["table"]), constraint=constraints.for_table(make(fact["constraint"])))
    optimizer = make({**fact["given"], "with": {**fact["given"]["with"], **more}})
    tables = []
    for rows, gradient in zip(start["ids"], start["gradients"], strict=True):
        slices = IndexedSlices(array(gradient), rows, variable.shape)
        optimizer.apply_gradients([(slices.to_dense() if dense else slices, variable)])
        tables.append(variable.numpy().copy())
    return np.array(tables)


@difference(
    "Adam with a row-sparse gradient",
    "moments of all rows decay, and all rows move: the dense step",
    "the dense step (TensorFlow; there are no row-sparse gradients on torch and JAX)",
    "rows that do not occur keep their values and moments, as in torch's SparseAdam; "
    'as in Keras with untouched="dense" or "catch_up"',
    training=lambda fact: fact["given"]["call"].endswith("Adam") and fact["gradient"] == "sparse",
)
def test_sparse_adam(fact):
    np.testing.assert_allclose(steps(fact, dense=True), array(fact["tables"]), rtol=2e-6, atol=2e-6)
    start, hyper = FACTS["training_steps"][0], make(fact["given"]["with"])
    rate = hyper.pop("learning_rate", 0.001)
    name = "amsgrad" if hyper.pop("amsgrad", False) else "adam"
    table, state = np.array(start["table"]), ref.initial_state(name, (5, 2))
    for t, (rows, gradient) in enumerate(zip(start["ids"], start["gradients"], strict=True), 1):
        summed = IndexedSlices(array(gradient), rows, table.shape).to_dense()
        lr = rate(t - 1) if callable(rate) else rate
        ref.step(name, table, state, summed, sorted(set(rows)), t, lr, **hyper)
    np.testing.assert_allclose(steps(fact, dense=False)[-1], table, rtol=2e-6, atol=2e-6)
    assert np.abs(table - array(fact["tables"])[-1]).max() > 1e-4
    for untouched in ("dense", "catch_up"):
        moved = steps(fact, dense=False, untouched=untouched)
        np.testing.assert_allclose(moved, array(fact["tables"]), rtol=2e-6, atol=2e-6)


@difference(
    "SGD with momentum and a row-sparse gradient",
    "rows that do not occur keep their values and momentum",
    "the dense step: all rows move on",
    'as in Keras 2.9; as in Keras 3 with untouched="dense" or "catch_up"',
)
def test_sparse_momentum():
    facts = [fact for fact in FACTS["training"] if settings(fact).get("momentum") and fact["gradient"] == "sparse"]
    assert len(facts) == 2
    start = FACTS["training_steps"][0]
    for fact in facts:
        np.testing.assert_allclose(steps(fact, dense=False), array(fact["tables"]), rtol=2e-6, atol=2e-6)
        name = "nesterov" if settings(fact).get("nesterov") else "momentum"
        table, state = np.array(start["table"]), ref.initial_state(name, (5, 2))
        for t, (rows, gradient) in enumerate(zip(start["ids"], start["gradients"], strict=True), 1):
            summed = ref.gather_gradient((5, 2), rows, gradient)[0]
            ref.step(name, table, state, summed, range(5), t, 0.5, momentum=0.75)
        assert np.abs(table - array(fact["tables"])[-1]).max() > 0.1
        for untouched in ("dense", "catch_up"):
            moved = steps(fact, dense=False, untouched=untouched)
            np.testing.assert_allclose(moved[-1], table, rtol=2e-6, atol=2e-6)


@difference(
    "the momentum of Nadam",
    "rises with 0.96^(0.004 t), where 0.004 is its `decay`",
    "rises with 0.96^t",
    "as in Keras 3; 2.9 gets its own `decay` in configs",
)
def test_momentum_of_nadam():
    gradients = [[0.5, -1.0], [0.25, 0.5], [-0.125, 0.75]]
    in_29 = [0.8576633334, -1.9962021112]  # tf.keras 2.9: Nadam(0.1) from [1, -2]
    for power in (0.004, 1):

        def u(t, power=power):
            return 0.9 * (1 - 0.5 * 0.96 ** (power * t))

        w, m, v, product = np.array([1.0, -2.0]), 0, 0, 1
        for t, g in enumerate(np.array(gradients), 1):
            m, v, product = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2, product * u(t)
            h = u(t + 1) * m / (1 - product * u(t + 1)) + (1 - u(t)) * g / (1 - product)
            w -= 0.1 * h / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
        if power != 1:
            np.testing.assert_allclose(in_29, w, rtol=1e-6)
    ours, nadam = np.array([1.0, -2.0], np.float32), optimizers.Nadam(0.1)
    for g in gradients:
        nadam.apply([np.array(g)], [ours])
    np.testing.assert_allclose(ours, w, rtol=1e-6)
    assert np.abs(ours - in_29).min() > 1e-3
    assert serialize(nadam, version=2)["config"]["decay"] == 0.004
    assert deserialize(serialize(nadam, version=2)).get_config() == nadam.get_config()


@difference(
    "a repeated id in the squares of Adam and Adagrad",
    "the square of the summed gradient",
    "on TensorFlow the sum of the squares of its parts",
    "the square of the summed gradient",
)
def test_squares_of_repeated_ids():
    table = np.zeros((2, 1), np.float32)
    optimizer = optimizers.Adagrad(1.0, initial_accumulator_value=0.0)
    optimizer.apply_gradients([(IndexedSlices(np.array([[1.0], [2.0]]), [1, 1], (2, 1)), table)])
    np.testing.assert_allclose(table, [[0], [-1]], rtol=1e-6)
    assert optimizer.variables[0].tolist() == [[0], [9]]


@difference(
    "epsilon of Adagrad",
    "w -= lr g / (sqrt(a) + epsilon)",
    "w -= lr g / sqrt(a + epsilon)",
    "as in Keras 3",
    training=lambda fact: fact["given"]["call"].endswith("Adagrad") and settings(fact).get("epsilon") == 0.001,
)
def test_epsilon_of_adagrad(fact):
    start, tables = FACTS["training_steps"][0], {}
    for generation, root in ((2, lambda a: np.sqrt(a) + 0.001), (3, lambda a: np.sqrt(a + 0.001))):
        table, a = np.array(start["table"]), np.zeros((5, 2))
        for rows, gradient in zip(start["ids"], start["gradients"], strict=True):
            g = IndexedSlices(array(gradient), rows, table.shape).to_dense().astype(np.float64)
            a += g**2
            table -= 0.5 * g / root(a)
        tables[generation] = table
    np.testing.assert_allclose(array(fact["tables"])[-1], tables[2], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(steps(fact, dense=False)[-1], tables[3], rtol=2e-6, atol=1e-6)


@difference(
    "names of optimizers",
    "the class: SGD",
    "counted: sgd, sgd_1",
    "sgd, not counted; any case is read",
)
def test_names_of_optimizers():
    assert [optimizers.SGD().name for _ in range(2)] == ["sgd", "sgd"]


# ---- where nothing differs ---------------------------------------------------------------------------


def recorded(fact):
    """The config of a layer."""
    if "serialized" in fact:
        return dict(fact["serialized"]["config"])
    return {**FACTS["layer_configs"][0]["serialized"]["config"], **fact["changed"]}


def need_dtype(given):
    if given.get("dtype") == "mixed_bfloat16":
        need("ml_dtypes")


@loop("layer_configs")
def test_layer_configs(fact):
    need_dtype(fact["given"])
    if "error" in fact:
        with pytest.raises(error_of(fact)):
            Embedding(**make(fact["given"]))
        return
    layer, config = Embedding(**make(fact["given"])), recorded(fact)
    envelope = {"class_name": "Embedding", "config": config}
    assert as_json(layer.get_config(version=2)) == as_json(config)
    assert as_json(serialize(layer, version=2)) == as_json(envelope)
    for again in (Embedding.from_config(config), deserialize(envelope)):
        assert as_json(again.get_config(version=2)) == as_json(config)
    assert layer.supports_masking == fact.get("supports_masking", False)
    built = {**FACTS["layer_configs"][0]["built"], **fact.get("built", {})}
    layer.build((None, 5))
    assert list(layer.embeddings.shape) == built["shape"]
    half = dtype_of(fact) in ("float16", "bfloat16")  # see test_lookups_of_half_precision
    assert (layer.dtype, layer.compute_dtype) == (built["dtype"], "float32" if half else built["compute_dtype"])
    assert f"{layer.embeddings.name}:0" == built["name"]


def test_no_initializer():
    """Keras makes GlorotUniform of it, in both generations."""
    layer = Embedding(4000, 16, embeddings_initializer=None)
    np.testing.assert_allclose(np.abs(layer.embeddings.numpy()).max(), (6 / 4016) ** 0.5, rtol=1e-3)
    assert layer.get_config()["embeddings_initializer"] is None


@loop("layer_from_config")
def test_layer_from_config(fact):
    base = FACTS["layer_from_config"][0]["config"]
    config = {**base, **fact.get("change", {})}
    config = {key: value for key, value in config.items() if key != fact.get("without")}
    if "error" in fact:
        with pytest.raises(error_of(fact)):
            Embedding.from_config(config)
        return
    made = Embedding.from_config(config).get_config(version=2)
    assert as_json(made) == as_json({**base, **fact["changed"]})


def got(module, fact):
    """What `get` makes of an identifier, serialized."""
    if "error" in fact:
        with pytest.raises(error_of(fact)):
            module.get(make(fact["given"]))
        return
    found = module.get(make(fact["given"]))
    assert as_json(serialize(found, version=2)) == as_json(fact["serialized"])
    assert as_json(serialize(module.get(fact["serialized"]), version=2)) == as_json(fact["serialized"])


@loop("initializer_identifiers")
def test_initializer_identifiers(fact):
    got(initializers, fact)


@loop("regularizer_identifiers")
def test_regularizer_identifiers(fact):
    got(regularizers, fact)


@loop("constraint_identifiers")
def test_constraint_identifiers(fact):
    got(constraints, fact)


@loop("initializer_values")
def test_initializer_values(fact):
    if "error" in fact:
        with pytest.raises((ValueError, error_of(fact))):
            make(fact["given"])(fact["shape"])
        return
    assert np.array_equal(make(fact["given"])(fact["shape"]), array(fact["value"]))


@loop("initializer_statistics")
def test_initializer_statistics(fact):
    table = make(fact["given"])(fact["shape"]).astype(np.float64)
    std = fact["std"]
    np.testing.assert_allclose(table.std(), std, rtol=0.02)
    np.testing.assert_allclose(table.mean(), fact["mean"], atol=8 * std / 256)
    bounded = "Normal" not in fact["given"]["call"].replace("TruncatedNormal", "") and "untruncated_normal" not in (
        fact["given"]["with"].values()
    )
    if bounded and not fact["given"]["call"].endswith("Orthogonal"):
        np.testing.assert_allclose([table.min(), table.max()], [fact["min"], fact["max"]], rtol=0.01, atol=0.01 * std)
    else:
        assert np.abs(table - table.mean()).max() < 7 * std
    if "gram_is_identity_within" in fact:
        gram = table.T @ table / fact["given"]["with"].get("gain", 1) ** 2
        assert np.abs(gram - np.eye(16)).max() < fact["gram_is_identity_within"]


@loop("constraint_values")
def test_constraint_values(fact):
    constraint, x = make(fact["given"]), array(FACTS["matrices"][fact["matrix"]], fact["dtype"])
    if "error" in fact:
        if fact["given"]["call"] != "constraints.NonNeg":  # which Keras cannot compute but in float32
            with pytest.raises((ValueError, IndexError)):
                constraint(x)
        return
    rounding = ROUNDING.get(fact["dtype"], CLOSE)
    np.testing.assert_allclose(constraint(x), array(fact["value"]), **rounding)
    if fact["dtype"] == "float32":
        constraint.project(x)
        np.testing.assert_allclose(x, array(fact["value"]), **rounding)


@loop("regularizer_values")
def test_regularizer_values(fact):
    regularizer, x = make(fact["given"]), array(FACTS["matrices"][fact["matrix"]], fact["dtype"])
    if "error" in fact:
        with pytest.raises(error_of(fact)):
            regularizer(x)
        return
    rounding = ROUNDING.get(fact["dtype"], CLOSE)
    gradient = np.zeros(x.shape) if fact["gradient"] is None else array(fact["gradient"])
    np.testing.assert_allclose(regularizer(x), float(fact["value"]), **rounding)
    np.testing.assert_allclose(regularizer.gradient(x), gradient, **rounding)
    if x.ndim == 2:
        np.testing.assert_allclose(regularizer.rows_gradient(x, [0]), gradient[[0]], **rounding)


@loop("losses")
def test_losses_and_gradients(fact):
    """The gradient of all losses: `gradient` at the rows of ids, `regularization_gradient` at the others."""
    layer, ids = filled(fact["given"]), ids_of(fact["ids"], fact["ids_as"])
    out = layer(ids)
    values = out.flat_values if isinstance(out, Ragged) else out
    assert list(values.shape) == fact["upstream_shape"]
    upstream = PATTERNS[values.shape]
    losses, expected, rounding = layer.losses, array(fact["gradient"]), CLOSE
    if layer.compute_dtype == "float16":
        rounding = ROUNDING["float16"]
    regularizer = fact["given"].get("embeddings_regularizer")
    if regularizer and is_orthogonal(regularizer):  # all cosines are positive here, so that signs do not matter
        rounding = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(losses, array(fact["losses"]), **rounding)
    np.testing.assert_allclose((values * upstream).sum() + sum(losses), fact["total"], **rounding)
    gradient = layer.gradient(ids, upstream)
    touched = np.unique(ids.flat_values if isinstance(ids, Ragged) else ids)
    assert gradient.coalesce().indices.tolist() == touched.tolist()
    combined = layer.regularization_gradient() if regularizer else np.zeros((5, 2), np.float32)
    combined[touched] = gradient.to_dense()[touched]
    np.testing.assert_allclose(combined, expected, **rounding)


@loop("losses_over_calls")
def test_losses_over_calls(fact):
    layer = Embedding(**fact["given"])
    counts = [len(layer.losses)]
    layer.build()
    counts.append(len(layer.losses))
    for _ in range(2):
        layer([1, 2])
        counts.append(len(layer.losses))
    assert counts == fact["losses"]


@loop("losses_in_models")
def test_losses_of_several_layers(fact):
    layers = [
        Embedding(
            5,
            2,
            "ones",
            activity_regularizer=regularizers.L1(activity),
            embeddings_regularizer=regularizers.L1(weight),
        )
        for activity, weight in ((1.0, 2.0), (4.0, 8.0))
    ]
    inputs = [fact["ids"], np.ones((2, 6), int) if fact["model"] == "Sequential" else fact["ids"]]
    for layer, ids in zip(layers, inputs, strict=True):
        layer(ids)
    losses = [loss for layer in layers for loss in layer.losses]
    assert losses[: len(fact["losses"])] == fact["losses"]


def same_mask(mask, fact):
    if fact["mask"] is None:
        assert mask is None
        return
    is_ragged = isinstance(mask, Ragged)
    assert is_ragged == (fact.get("mask_type") == "RaggedTensor")
    assert (mask.flat_values if is_ragged else mask).dtype == fact["mask_dtype"]
    assert (mask.to_list() if is_ragged else mask.tolist()) == fact["mask"]


@loop("calls")
def test_calls(fact):
    need_dtype(fact["given"])
    layer, ids = filled(fact["given"]), ids_of(fact["ids"], fact["ids_as"])
    if "error" in fact["call"]:
        where = fact["call"]["message"].partition("]")[0].replace("indices[", "ids[").replace(",", ", ")
        with pytest.raises(error_of(fact["call"])) as error:
            layer(ids)
        if error.type is IndexError:
            assert f"{where}] = " in str(error.value)
    else:
        out, wanted = layer(ids), fact["call"]
        values = out
        if "splits" in wanted:
            assert [splits.tolist() for splits in out.nested_row_splits] == wanted["splits"]
            assert out.row_splits.dtype == wanted["splits_dtype"]
            values = out.flat_values
        assert list(out.shape) == wanted["output_shape"]
        assert values.dtype == wanted["output_dtype"]
        assert (out.to_list() if "splits" in wanted else out.tolist()) == wanted["output"]
    same_mask(layer.compute_mask(ids), fact["compute_mask"])


@loop("given_weights")
def test_given_weights(fact):
    weights = [np.array(item, np.float32) for item in fact["weights"]]
    if "error" in fact:
        for refuse in (lambda: Embedding(3, 2, weights=weights), lambda: Embedding(3, 2).set_weights(weights)):
            with pytest.raises(error_of(fact)):
                refuse()
    else:
        layer = Embedding(3, 2, weights=weights)
        layer([0, 1])
        assert np.array_equal(layer.get_weights()[0], array(fact["table"]))


@loop("output_shapes")
def test_output_shapes(fact):
    layer, shape = Embedding(**make(fact["given"])), tuple(fact["input_shape"])
    if "error" in fact:
        with pytest.raises(error_of(fact)):
            layer.compute_output_shape(shape)
    else:
        assert list(layer.compute_output_shape(shape)) == fact["output_shape"]


@pytest.mark.parametrize("fact", [fact for fact in FACTS["symbolic_shapes"] if not fact["ragged"]], ids=label)
def test_shapes_of_outputs(fact):
    """A call does not look at `input_length`."""
    known = [4 if n is None else n for n in (None, *fact["shape"])]
    out = Embedding(**fact["given"])(np.zeros(known, np.int32))
    assert list(out.shape) == [4 if n is None else n for n in fact["output_shape"]]
    assert out.dtype == fact["output_dtype"]


def made_layer(cls, name):
    return (Embedding if cls == "Embedding" else type(cls, (Embedding,), {}))(3, 2, name=name)


@loop("names")
def test_names(fact):
    if "error" in fact:
        with pytest.raises(error_of(fact)):
            [made_layer(*made) for made in fact["made"]]
        return
    layers = [made_layer(*made) for made in fact["made"]]
    assert [layer.name for layer in layers] == fact["names"]
    assert [serialize(layer, version=2)["class_name"] for layer in layers] == fact["class_names"]


@loop("registered")
def test_registered(fact, monkeypatch):
    monkeypatch.setattr("fastembed.serialization._registered", {})

    @fastembed.register_serializable(package="shop", name="Clicks")
    class Registered(Embedding):
        pass

    @fastembed.register_serializable()
    class NoPackage(Embedding):
        pass

    class NotRegistered(Embedding):
        pass

    cls = {kind.__name__: kind for kind in (Registered, NoPackage, NotRegistered)}[fact["class"]]
    assert as_json(serialize(cls(3, 2), version=2)) == as_json(fact["serialized"])
    if "error" in fact["deserialized"]:
        with pytest.raises(error_of(fact["deserialized"])):
            deserialize(fact["serialized"])
        assert type(deserialize(fact["serialized"], {"NotRegistered": NotRegistered})) is NotRegistered
    else:
        assert type(deserialize(fact["serialized"])).__name__ == fact["deserialized"]["class"]


def same_hyperparameters(optimizer, fact):
    """Its config holds all that Keras's does, but for what is 0 here; a schedule in Keras 3's envelope."""
    assert type(optimizer).__name__ == fact["serialized"]["class_name"]
    ours, config = optimizer.get_config(), {**fact["serialized"]["config"]}
    assert config.pop("decay") == 0
    if isinstance(config["learning_rate"], dict):
        schedule, expected = ours["learning_rate"], config.pop("learning_rate")
        assert schedule["class_name"] == expected["class_name"]
        assert schedule["config"].items() >= {**expected["config"], "name": schedule["config"]["name"]}.items()
    assert ours.items() >= {key: value for key, value in config.items() if key != "name"}.items()


@loop("optimizer_configs")
def test_optimizer_configs(fact):
    if "error" in fact:
        with pytest.raises((TypeError, ValueError)):
            make(fact["given"])
        return
    same_hyperparameters(make(fact["given"]), fact)
    made = optimizers.get(fact["serialized"])
    same_hyperparameters(made, fact)
    assert made.name == fact["serialized"]["config"]["name"]


@loop("optimizer_identifiers")
def test_optimizer_identifiers(fact):
    if "error" in fact:
        with pytest.raises(error_of(fact)):
            optimizers.get(fact["given"])
        return
    same_hyperparameters(optimizers.get(fact["given"]), fact)


@loop("training")
def test_training(fact):
    tables = steps(fact, fact["gradient"] == "dense")
    np.testing.assert_allclose(tables, array(fact["tables"]), rtol=2e-6, atol=2e-6)


@loop("training_a_layer")
def test_training_a_layer(fact):
    """One step of SGD on a mean squared error, with Keras's gradient of the table regularizer at all rows."""
    given = make(fact["given"])
    constraint = given.pop("embeddings_constraint", None)  # which Keras does not enforce before the first update
    layer, ids = Embedding(**given, weights=PATTERNS[5, 2]), np.array(fact["ids"])
    layer.embeddings.constraint = constraints.for_table(constraint)
    error = layer(ids) - array(fact["target"])
    if layer.mask_zero:
        error *= layer.compute_mask(ids)[..., None]
    np.testing.assert_allclose((error**2).mean() + sum(layer.losses), fact["loss"], **CLOSE)
    gradient = layer.gradient(ids, 2 * error / error.size)
    if layer.embeddings_regularizer is not None:
        all_rows = layer.regularization_gradient()
        all_rows[gradient.coalesce().indices] = gradient.coalesce().values
        gradient = all_rows
    make(fact["optimizer"]).apply_gradients([(gradient, layer.embeddings)])
    np.testing.assert_allclose(layer.embeddings.numpy(), array(fact["table_after"]), **CLOSE)


def embeddings_in(value):
    """The envelopes of all Embedding layers in the config of a model."""
    if isinstance(value, dict):
        if value.get("class_name") == "Embedding":
            yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else []:
        yield from embeddings_in(item)


@loop("models")
def test_models(fact):
    found = list(embeddings_in(fact["config"]))
    names = [f"{deserialize(envelope).name}/embeddings:0" for envelope in found]
    assert names == [name for name in fact["weight_names"] if name.endswith("embeddings:0")]
    for envelope in found:
        assert as_json(Embedding.from_config(envelope["config"]).get_config(version=2)) == as_json(envelope["config"])


def test_every_fact_is_looked_at():
    claimed = {section for section, facts in FACTS.items() if all(id(fact) in CLAIMED for fact in facts)}
    assert LOOPED | set(ELSEWHERE) | claimed == set(FACTS)
    assert not LOOPED & set(ELSEWHERE)
    topics = [row.topic for row in DIFFERENCES]
    assert len(set(topics)) == len(topics)
    assert set(CLAIMED.values()) <= set(topics)


def test_the_page_shows_the_differences():
    """docs/keras.md has a row for each, word for word, and no other."""
    page = (Path(__file__).parents[1] / "docs" / "keras.md").read_text(encoding="utf-8")
    table = page.partition("| topic | Keras 2.9 |")[2].splitlines()[2:]
    assert table == [f"| {' | '.join(row)} |" for row in DIFFERENCES]
