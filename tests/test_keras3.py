"""Regularizers, constraints, LoRA, dtype policies, configs and whole models: the same in Keras 3, on any backend.

Do not break: gradients on Keras's side come from its backend's autodiff, made dense there; values and configs are
compared with what Keras itself returns in the same process, never with numbers written down here.
"""

import json

import numpy as np
import pytest
import reference as ref
from peers import load_keras

import fastembed
from fastembed import Embedding, EmbeddingBag, constraints, optimizers, regularizers, serialization

keras = load_keras()
pytestmark = pytest.mark.filterwarnings("ignore")

BACKEND = keras.backend.backend()
V, D = 25, 6
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def numbers(losses):
    return [float(numpy(loss)) for loss in losses]


def gradients(function, variables):
    """The dense gradients, as arrays, of a scalar that is computed from Keras variables; repeated ids are summed."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = function()
        found = tape.gradient(loss, [variable.value for variable in variables])
        return [np.array(tf.convert_to_tensor(gradient)) for gradient in found]
    if BACKEND == "torch":
        for variable in variables:
            variable.value.grad = None
        function().backward()
        return [variable.value.grad.numpy().copy() for variable in variables]
    if BACKEND == "jax":
        import jax

        def of_values(values):
            pairs = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs, collect_losses=True):
                return function()

        return [np.array(gradient) for gradient in jax.grad(of_values)([variable.value for variable in variables])]
    pytest.skip("the numpy backend of Keras has no gradients")


@pytest.fixture
def table(rng):
    return ref.random_table(rng, V, D)


def same_config(ours, theirs):
    """Equal to the letter, the order of keys too."""
    assert json.dumps(ours.get_config()) == json.dumps(theirs.get_config())


# ---- configs -----------------------------------------------------------------------------------------

REGULARIZERS = [
    None,
    "l1",
    "l2",
    "L1L2",
    "orthogonal_regularizer",
    ("L1", {"l1": 0.3}),
    ("L2", {"l2": 0.3}),
    ("L1L2", {"l1": 0.1, "l2": 0.2}),
    ("L1L2", {"l2": 0.5}),
    ("OrthogonalRegularizer", {"factor": 0.7, "mode": "rows"}),
    ("OrthogonalRegularizer", {"factor": 0.7, "mode": "columns"}),
]
CONSTRAINTS = [
    None,
    "max_norm",
    "unit_norm",
    "non_neg",
    "min_max_norm",
    ("MaxNorm", {"max_value": 1.5, "axis": 1}),
    ("MaxNorm", {"max_value": 1, "axis": [0, 1]}),
    ("UnitNorm", {"axis": -1}),
    ("UnitNorm", {"axis": 1}),
    ("MinMaxNorm", {"min_value": 0.5, "max_value": 1.5, "rate": 0.25, "axis": 1}),
    ("MinMaxNorm", {"min_value": 0.5, "max_value": 1.5, "axis": 0}),
]


def both(module, identifier):
    """The same regularizer or constraint here and in Keras."""
    if not isinstance(identifier, tuple):
        return identifier, identifier
    name, arguments = identifier
    return getattr(getattr(fastembed, module), name)(**arguments), getattr(getattr(keras, module), name)(**arguments)


PARTS = [
    *[("embeddings_regularizer", "regularizers", identifier) for identifier in REGULARIZERS],
    *[("activity_regularizer", "regularizers", identifier) for identifier in REGULARIZERS],
    *[("embeddings_constraint", "constraints", identifier) for identifier in CONSTRAINTS],
]


@pytest.mark.parametrize(("part", "module", "identifier"), PARTS, ids=str)
def test_layer_configs(part, module, identifier):
    """From here to there and from there to here; Keras's own objects are taken too."""
    our, their = both(module, identifier)
    theirs = keras.layers.Embedding(V, D, name="n", **{part: their})
    ours = Embedding(V, D, name="n", **{part: our})
    same_config(ours, theirs)
    same_config(Embedding.from_config(theirs.get_config()), theirs)
    same_config(ours, keras.layers.Embedding.from_config(ours.get_config()))
    same_config(Embedding(V, D, name="n", **{part: their}), theirs)
    envelope = keras.saving.serialize_keras_object(theirs)
    same_config(serialization.deserialize(json.loads(json.dumps(envelope))), theirs)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(serialization.serialize(ours))))
    same_config(again, ours)
    envelope.pop("build_config", None)  # of a layer that is built
    assert serialization.serialize(ours) == envelope
    if their is not None:
        get, kind = getattr(fastembed, module).get, getattr(keras, module)
        assert serialization.serialize(get(our)) == kind.serialize(kind.get(their))
        assert type(get(kind.get(their))) is type(get(our))
    for old in (ours.get_config(version=2), json.loads(json.dumps(ours.get_config(version=2)))):
        del old["batch_input_shape"]  # Keras 3 refuses this one
        assert keras.layers.Embedding.from_config(old).input_dim == V
        same_config(Embedding.from_config(old), Embedding.from_config(old))


@pytest.mark.parametrize(
    "arguments",
    [
        {"lora_rank": 3},
        {"lora_rank": 3, "lora_alpha": 6},
        {"lora_rank": 3, "activity_regularizer": "l2", "embeddings_regularizer": "l1"},
        {"dtype": "mixed_float16"},
        {"dtype": "mixed_float16", "trainable": False, "mask_zero": True, "activity_regularizer": "l1"},
        {"dtype": "mixed_bfloat16"},
        {"dtype": "float16"},
        {"dtype": "bfloat16", "embeddings_regularizer": "l2"},
        {"dtype": "int8_from_float32"},
        {"dtype": "int8_from_mixed_bfloat16"},
        {"dtype": "int8_from_bfloat16"},
        {"dtype": "int4_from_float32"},
        {"dtype": "int4/128_from_float32"},
        {"dtype": "int4/3_from_mixed_float16"},
        {"dtype": "int4/-1_from_float16", "trainable": False},
    ],
    ids=str,
)
def test_other_layer_configs(arguments):
    if "mixed_bfloat16" in arguments.get("dtype", ""):
        pytest.importorskip("ml_dtypes")
    theirs = keras.layers.Embedding(V, D, name="n", **arguments)
    ours = Embedding(V, D, name="n", **arguments)
    same_config(ours, theirs)
    same_config(Embedding.from_config(theirs.get_config()), theirs)
    same_config(ours, keras.layers.Embedding.from_config(ours.get_config()))
    if "lora_alpha" not in arguments:  # Keras forgets it when it builds
        theirs.build()
        ours.build()
        same_config(ours, theirs)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SGD", {}),
        ("SGD", {"learning_rate": 0.25, "momentum": 0.5, "nesterov": True, "name": "mine"}),
        ("Adagrad", {}),
        ("Adagrad", {"learning_rate": 0.25, "initial_accumulator_value": 0.5, "epsilon": 1e-3}),
        ("Adam", {}),
        ("Adam", {"learning_rate": 0.25, "beta_1": 0.5, "beta_2": 0.75, "epsilon": 1e-3}),
    ],
    ids=str,
)
def test_optimizer_configs(name, arguments):
    theirs, cls = getattr(keras.optimizers, name)(**arguments), getattr(optimizers, name)
    ours = cls.from_config(theirs.get_config())
    same_config(ours, theirs)
    same_config(getattr(keras.optimizers, name).from_config(ours.get_config()), theirs)
    same_config(serialization.deserialize(json.loads(json.dumps(keras.optimizers.serialize(theirs)))), theirs)
    same_config(optimizers.get(keras.optimizers.serialize(theirs)), theirs)
    again = keras.optimizers.deserialize(json.loads(json.dumps(serialization.serialize(ours))))
    same_config(again, theirs)
    start = cls(**arguments).get_config()
    there = getattr(keras.optimizers, name).from_config(start).get_config()
    assert {**there, "learning_rate": 0} == {**start, "learning_rate": 0}
    assert there["learning_rate"] == np.float32(start["learning_rate"])


# ---- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identifier", REGULARIZERS[1:], ids=str)
def test_regularizers(identifier, table):
    """Their values, and gradients by autodiff."""
    our, their = both("regularizers", identifier)
    our, their = regularizers.get(our), keras.regularizers.get(their)
    table[3] = 0
    for x in (table, table[:2], np.ascontiguousarray(table.T)):
        np.testing.assert_allclose(our(x), float(numpy(their(keras.ops.convert_to_tensor(x)))), rtol=1e-4, atol=1e-6)
    x = np.delete(table, 3, 0)  # Keras's gradient at a zero row is NaN for some
    variable = keras.Variable(x)
    (expected,) = gradients(lambda: their(variable.value) + 0 * keras.ops.sum(variable.value), [variable])
    np.testing.assert_allclose(our.gradient(x), expected, **CLOSE)


@pytest.mark.parametrize("identifier", CONSTRAINTS[1:], ids=str)
def test_constraints(identifier, rng):
    our, their = both("constraints", identifier)
    our, their = constraints.get(our), keras.constraints.get(their)
    for x in (ref.random_table(rng, V, D), ref.random_table(rng, V, D) * 0.01, np.zeros((3, 2), np.float32)):
        expected = numpy(their(keras.ops.convert_to_tensor(x)))
        np.testing.assert_allclose(our(x), expected, **CLOSE)
        our.project(x)
        np.testing.assert_allclose(x, expected, **CLOSE)


@pytest.mark.parametrize("activity", [None, "l1", ("L2", {"l2": 0.5})], ids=str)
@pytest.mark.parametrize("identifier", REGULARIZERS[:9:2], ids=str)
def test_losses(identifier, activity, table):
    """The lists, before and after calls, for any rank of ids, and frozen."""
    our, their = both("regularizers", identifier)
    our_activity, their_activity = both("regularizers", activity)
    ours = Embedding(V, D, weights=table, embeddings_regularizer=our, activity_regularizer=our_activity)
    theirs = keras.layers.Embedding(
        V, D, weights=table, embeddings_regularizer=their, activity_regularizer=their_activity
    )
    np.testing.assert_allclose(ours.losses, numbers(theirs.losses), **CLOSE)
    shapes = ([[1, 2, 2], [3, 4, 4]], [5, 5, 6, 7], [[[1]], [[2]], [[3]]], 3, np.zeros((0, 3), int))
    for ids in shapes:
        out = ours(ids)
        assert np.array_equal(out, numpy(theirs(keras.ops.convert_to_tensor(np.array(ids, "int32")))))
        np.testing.assert_allclose(ours.losses, numbers(theirs.losses), **CLOSE)
    ours.trainable = theirs.trainable = False
    np.testing.assert_allclose(ours.losses, numbers(theirs.losses), **CLOSE)


def test_gradients_with_regularizers(rng, table):
    ids = ref.random_ids(rng, 12, V - 5).reshape(4, 3)
    upstream = rng.standard_normal((4, 3, D)).astype(np.float32)
    arguments = {"embeddings_regularizer": "l2", "activity_regularizer": "l1"}
    ours, theirs = (make(V, D, weights=table, **arguments) for make in (Embedding, keras.layers.Embedding))

    def loss():
        out = theirs(keras.ops.convert_to_tensor(ids.astype("int32")))
        return keras.ops.sum(out * keras.ops.convert_to_tensor(upstream)) + sum(theirs.losses)

    (expected,) = gradients(loss, [theirs.embeddings])
    np.testing.assert_allclose(whole_gradient(ours, ids, upstream), expected, **CLOSE)


def whole_gradient(layer, ids, upstream):
    """The gradient of all rows, those without ids too: there the table's penalty is all."""
    slices = layer.gradient(ids, upstream).coalesce()
    dense = layer.regularization_gradient()
    dense = np.zeros((layer.input_dim, layer.output_dim), np.float32) if dense is None else dense
    dense[slices.indices] = slices.values
    return dense


@pytest.mark.parametrize("identifier", CONSTRAINTS[1:], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam"])
def test_constrained_training(name, identifier, rng, table):
    """Dense gradients, from a table that satisfies the constraint (here it does from the start, there after a step)."""
    our, their = both("constraints", identifier)
    ours = Embedding(V, D, weights=table, embeddings_constraint=our)
    theirs = keras.layers.Embedding(V, D, weights=ours.get_weights(), embeddings_constraint=their)
    mine, other = getattr(optimizers, name)(0.1), getattr(keras.optimizers, name)(0.1)
    for _ in range(4):
        gradient = rng.standard_normal((V, D)).astype(np.float32)
        mine.apply([gradient], [ours.embeddings])
        other.apply([keras.ops.convert_to_tensor(gradient)], [theirs.embeddings])
        np.testing.assert_allclose(ours.embeddings.numpy(), numpy(theirs.embeddings), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, table, rng):
    """The same bits: rows of a float32 table, rounded once."""
    if policy == "mixed_bfloat16":
        pytest.importorskip("ml_dtypes")
    theirs = keras.layers.Embedding(V, D, weights=table, dtype=policy)
    given = keras.DTypePolicy(policy), policy, theirs.get_config()["dtype"]
    ids = rng.integers(0, V, (3, 4)).astype("int32")
    expected = theirs(keras.ops.convert_to_tensor(ids))
    for dtype in given:
        ours = Embedding(V, D, weights=table, dtype=dtype)
        out = ours(ids)
        assert out.dtype.name == keras.backend.standardize_dtype(expected.dtype) == ours.compute_dtype
        assert np.array_equal(out.astype("float32"), numpy(keras.ops.cast(expected, "float32")))
        assert (ours.dtype, ours.variable_dtype) == (theirs.dtype, theirs.variable_dtype)
        assert ours.compute_dtype == theirs.compute_dtype
        filled = np.zeros(out.shape, out.dtype)
        assert np.array_equal(ours(ids, out=filled), out)


QUANTISED = [
    ("float32", "int8", None),
    ("float32", "int4", None),
    ("float32", "int4", 16),
    ("float32", "int4", -1),
    ("bfloat16", "int8", None),
    ("mixed_float16", "int4", None),
]


@pytest.mark.parametrize(("dtype", "mode", "block"), QUANTISED, ids=str)
def test_configs_of_quantised_layers(dtype, mode, block, table):
    """What Keras writes after `quantize` is read, and written again to the letter; what we write Keras reads."""
    theirs = keras.layers.Embedding(V, D, dtype=dtype, name="n", mask_zero=True)
    theirs.build()
    theirs.quantize(mode, config=block and keras.quantizers.Int4QuantizationConfig(block_size=block))
    config = json.loads(json.dumps(theirs.get_config()))
    for given in (config, theirs.get_config()):
        again = Embedding.from_config(given)
        same_config(again, theirs)
        assert (again.dtype, again.dtype_policy) == (mode, theirs.dtype_policy.name)
        same_config(serialization.deserialize(serialization.serialize(again)), theirs)
    plain = Embedding(V, D, name="n", mask_zero=True, dtype=theirs.dtype_policy)
    assert json.dumps(plain.get_config()) == json.dumps({**config, "quantization_config": None})
    ours = Embedding(V, D, dtype=dtype, name="n", mask_zero=True)
    ours.quantize(mode)
    there = keras.layers.Embedding.from_config(ours.get_config())
    same_config(ours, there)
    there.build()
    assert there.dtype_policy.quantization_mode == mode
    if block is None:
        assert ours.dtype_policy == theirs.dtype_policy.name


def test_what_keras_does_not_read():
    """int2, and int8 of what computes in float16."""
    for dtype, mode in (("float32", "int2"), ("float16", "int8"), ("mixed_float16", "int8")):
        ours = Embedding(V, D, dtype=dtype)
        ours.quantize(mode)
        same_config(Embedding.from_config(ours.get_config()), ours)
        with pytest.raises((TypeError, ValueError), match=r"int2_from_float32|doesn't work well"):
            keras.layers.Embedding.from_config(ours.get_config())
    for dtype in ("float8_from_float32", "gptq/4/128_from_float32"):
        with pytest.raises(TypeError, match="`dtype` must be one of"):
            Embedding(V, D, dtype=keras.dtype_policies.get(dtype))


def test_quantised_mixed_precision(table):
    """Look-ups have the dtype that the policy computes in, as Keras's."""
    pytest.importorskip("ml_dtypes")
    ours, theirs = (make(V, D, weights=table, dtype="mixed_bfloat16") for make in (Embedding, keras.layers.Embedding))
    ours.quantize("int8")
    theirs.quantize("int8")
    ids = np.arange(V, dtype="int32")
    out, expected = ours(ids), theirs(keras.ops.convert_to_tensor(ids))
    assert out.dtype.name == keras.backend.standardize_dtype(expected.dtype) == ours.compute_dtype == "bfloat16"
    assert np.array_equal(out, ours.embeddings.to_float32().astype(out.dtype))
    most = np.abs(table).max(1)[:, None]
    assert (
        np.abs(out.astype(np.float32) - numpy(keras.ops.cast(expected, "float32"))) <= most * (1 / 127 + 2**-6)
    ).all()


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantize(mode, rng):
    """Both are within half a step of what was there: theirs is 1/127 of the largest, or 1/15 of the range of a row."""
    table = ref.random_table(rng, 200, 24) + np.float32(0.3)
    ours, theirs = (make(200, 24, weights=table) for make in (Embedding, keras.layers.Embedding))
    ours.quantize(mode)
    theirs.quantize(mode)
    ids = np.arange(200)
    span, most = np.ptp(table, axis=1)[:, None], np.abs(table).max(1)[:, None]
    steps = {"int8": 2**8 - 1, "int4": 2**4 - 1}[mode]
    our_error = np.abs(ours(ids) - table)
    their_error = np.abs(numpy(theirs(keras.ops.convert_to_tensor(ids.astype("int32")))) - table)
    assert (our_error <= span / steps / 2 * 1.001).all()
    # Keras rounds its zero too, so that an end of the range may be cut by half a step more.
    assert (their_error <= (most / 127 / 2 if mode == "int8" else span / steps) * 1.001).all()
    assert our_error.mean() <= their_error.mean()


# ---- half precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, table, rng):
    """The same values; a step of SGD from Keras's gradient, which is rounded to the dtype of the table."""
    ours, theirs = (make(V, D, weights=table, dtype=dtype) for make in (Embedding, keras.layers.Embedding))
    ids = ref.random_ids(rng, 12, V).reshape(4, 3)
    tensor = keras.ops.convert_to_tensor(ids.astype("int32"))

    def values(found):
        return numpy(keras.ops.cast(found, "float32"))

    expected = theirs(tensor)
    assert np.array_equal(ours(ids), values(expected))
    assert np.array_equal(ours.embeddings.to_float32(), values(theirs.embeddings))
    assert (ours.dtype, ours.dtype_policy) == (theirs.dtype, theirs.dtype_policy.name)
    assert keras.backend.standardize_dtype(expected.dtype) == dtype
    assert (ours.compute_dtype, ours(ids).dtype) == ("float32", np.float32)
    upstream = rng.standard_normal((4, 3, D)).astype(np.float32)
    slices = ours.gradient(ids, upstream)

    def loss():
        return keras.ops.sum(keras.ops.cast(theirs(tensor), "float32") * keras.ops.convert_to_tensor(upstream))

    rounding = {"rtol": 2.0**-6, "atol": 2.0**-5} if dtype == "bfloat16" else {"rtol": 2.0**-9, "atol": 2.0**-8}
    (gradient,) = half_gradients(loss, theirs.embeddings)
    np.testing.assert_allclose(slices.to_dense(), gradient, **rounding)
    optimizers.SGD(0.5).apply([slices], [ours.embeddings])
    keras.optimizers.SGD(0.5).apply([keras.ops.cast(gradient, dtype)], [theirs.embeddings])
    np.testing.assert_allclose(ours.embeddings.to_float32(), values(theirs.embeddings), **rounding)


def half_gradients(function, variable):
    """As gradients, of one variable of half precision: NumPy has no bfloat16 of TensorFlow or torch."""
    if BACKEND == "torch":
        variable.value.grad = None
        function().backward()
        return [variable.value.grad.float().numpy().copy()]
    return [np.asarray(gradient, np.float32) for gradient in gradients(function, [variable])]


# ---- LoRA --------------------------------------------------------------------------------------------


def lora_pair(rng, table, alpha, **arguments):
    ours, theirs = (make(V, D, weights=table, **arguments) for make in (Embedding, keras.layers.Embedding))
    for layer in (ours, theirs):
        layer.enable_lora(3, lora_alpha=alpha)
    a, b = ref.random_table(rng, V, 3), ref.random_table(rng, 3, D)
    ours.set_weights([table, a, b])
    theirs.lora_embeddings_a.assign(a)
    theirs.lora_embeddings_b.assign(b)
    return ours, theirs


@pytest.mark.parametrize("alpha", [None, 6, 0.5])
@pytest.mark.parametrize("regularizer", [None, "l2"])
def test_lora(regularizer, alpha, rng, table):
    ours, theirs = lora_pair(rng, table, alpha, embeddings_regularizer=regularizer)
    same_config(Embedding.from_config(theirs.get_config()), theirs)
    assert (ours.lora_rank, ours.lora_alpha) == (theirs.lora_rank, theirs.lora_alpha)
    assert [w.name for w in ours.trainable_weights] == [w.name for w in theirs.trainable_weights]
    assert ours.count_params() == theirs.count_params()
    np.testing.assert_allclose(ours.losses, numbers(theirs.losses), **CLOSE)
    ids = ref.random_ids(rng, 12, V - 5).reshape(4, 3)
    tensor = keras.ops.convert_to_tensor(ids.astype("int32"))
    np.testing.assert_allclose(ours(ids), numpy(theirs(tensor)), **CLOSE)
    upstream = rng.standard_normal((4, 3, D)).astype(np.float32)

    def loss():
        return keras.ops.sum(theirs(tensor) * keras.ops.convert_to_tensor(upstream)) + sum(theirs.losses)

    rates = optimizers.SGD(0.05), keras.optimizers.SGD(0.05)
    for _ in range(3):
        expected_a, expected_b = gradients(loss, theirs.trainable_weights)
        of_a, of_b = ours.lora_gradients(ids, upstream)
        slices = of_a.coalesce()
        rows = slices.indices
        np.testing.assert_allclose(slices.values, expected_a[rows], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(of_b, expected_b, rtol=1e-3, atol=1e-4)
        dense_a = expected_a.copy()
        dense_a[rows] = slices.values
        rates[0].apply([dense_a, of_b], ours.trainable_weights)
        tensors = [keras.ops.convert_to_tensor(gradient) for gradient in (expected_a, expected_b)]
        rates[1].apply(tensors, theirs.trainable_weights)
        for mine, their in zip(ours.trainable_weights, theirs.trainable_weights, strict=True):
            np.testing.assert_allclose(mine.numpy(), numpy(their), rtol=1e-3, atol=1e-4)
    merged = numpy(theirs.embeddings)
    ours.merge_lora()
    np.testing.assert_allclose(ours.embeddings.numpy(), merged, rtol=1e-3, atol=1e-4)


def test_lora_of_the_constructor(rng):
    """The same initial distribution: A as He's uniform, B zero."""
    ours, theirs = (make(5000, D, lora_rank=4) for make in (Embedding, keras.layers.Embedding))
    for layer in (ours, theirs):
        layer.build()
    a, their_a = ours.lora_embeddings_a.numpy(), numpy(theirs.lora_embeddings_a)
    np.testing.assert_allclose(a.std(), their_a.std(), rtol=0.03)
    np.testing.assert_allclose(np.abs(a).max(), np.abs(their_a).max(), rtol=0.01)
    assert not ours.lora_embeddings_b.numpy().any()
    assert not numpy(theirs.lora_embeddings_b).any()
    with pytest.raises(ValueError):
        theirs.enable_lora(2)
    with pytest.raises(ValueError):
        ours.enable_lora(2)


# ---- a new user's check ------------------------------------------------------------------------------


def embedding_configs(config):
    """The envelopes of all Embedding layers in a model's config."""
    return [layer for layer in config["layers"] if layer["class_name"] == "Embedding"]


def configs_of(model):
    """What a user may have: the config, the same after JSON, and to_json()."""
    text = json.loads(model.to_json())
    for config in (model.get_config(), json.loads(json.dumps(model.get_config())), text["config"]):
        yield embedding_configs(config)


def squares(out, target):
    return keras.ops.mean(keras.ops.square(out - keras.ops.convert_to_tensor(target)))


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam"])
def test_a_sequential_model(name, rng, table):
    """Embedding with a regularizer, masked mean, Dense: outputs, losses and three training steps."""
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(V, D, embeddings_regularizer=keras.regularizers.L2(0.05), mask_zero=True, name="e"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2, name="d"),
        ]
    )
    theirs, dense = model.get_layer("e"), model.get_layer("d")
    theirs.set_weights([table])
    for (envelope,) in configs_of(model):
        ours = serialization.deserialize(envelope)
        same_config(ours, theirs)
        ours = Embedding.from_config(envelope["config"])
        same_config(ours, theirs)
    ours.set_weights(theirs.get_weights())
    bag = EmbeddingBag(V, D, "mean", mask_zero=True, weights=table)
    w, b = (np.array(value) for value in dense.get_weights())
    ids = ref.random_ids(rng, 40, V - 5).reshape(8, 5)
    ids[:, 0] = np.arange(1, 9)  # a row of nothing but masked ids is 0 / 0 in Keras
    target = rng.standard_normal((8, 2)).astype(np.float32)
    tensor = keras.ops.convert_to_tensor(ids.astype("int32"))
    mask = ours.compute_mask(ids)
    assert np.array_equal(mask, numpy(theirs.compute_mask(tensor)))
    mine, other = getattr(optimizers, name)(0.05), getattr(keras.optimizers, name)(0.05)

    def loss():
        return squares(model(tensor), target) + sum(model.losses)

    for step in range(3):
        counts = mask.sum(1, keepdims=True)
        pooled = (ours(ids) * mask[..., None]).sum(1) / counts
        if step == 0:
            np.testing.assert_allclose(bag(ids), pooled, **CLOSE)
        out = pooled @ w + b
        np.testing.assert_allclose(out, numpy(model(tensor)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(ours.losses, numbers(model.losses), **CLOSE)
        upstream = 2 * (out - target) / out.size
        of_ids = (mask / counts)[..., None] * (upstream @ w.T)[:, None]
        made = [whole_gradient(ours, ids, of_ids.astype(np.float32)), pooled.T @ upstream, upstream.sum(0)]
        expected = gradients(loss, model.trainable_weights)
        for gradient, their_gradient in zip(made, expected, strict=True):
            np.testing.assert_allclose(gradient, their_gradient, rtol=1e-3, atol=1e-4)
        mine.apply([gradient.astype(np.float32) for gradient in expected], [ours.embeddings, w, b])
        other.apply([keras.ops.convert_to_tensor(gradient) for gradient in expected], model.trainable_weights)
        for array, variable in zip((ours.embeddings.numpy(), w, b), model.trainable_weights, strict=True):
            np.testing.assert_allclose(array, numpy(variable), rtol=1e-3, atol=1e-4)


def test_a_functional_model(rng):
    """Two Embeddings, one constrained and one with an activity penalty."""
    users, items = keras.Input((), dtype="int32", name="users"), keras.Input((3,), dtype="int32", name="items")
    their_users = keras.layers.Embedding(V, D, embeddings_constraint=keras.constraints.MaxNorm(1.0, axis=1), name="u")
    their_items = keras.layers.Embedding(2 * V, D, "normal", "l2", activity_regularizer="l1", name="i")
    pooled = keras.layers.Flatten()(their_items(items))
    out = keras.layers.Dense(1, name="d")(keras.layers.Concatenate()([their_users(users), pooled]))
    model = keras.Model([users, items], out)
    their_users.set_weights([constraints.MaxNorm(1.0, axis=1)(ref.random_table(rng, V, D))])
    for envelopes in configs_of(model):
        layers = {}
        for envelope in envelopes:
            layer = serialization.deserialize(envelope)
            layers[layer.name] = layer
        assert sorted(layers) == ["i", "u"]
        for name, layer in layers.items():
            same_config(layer, model.get_layer(name))
    for name, layer in layers.items():
        layer.set_weights(model.get_layer(name).get_weights())
    w, b = (np.array(value) for value in model.get_layer("d").get_weights())
    u, i = ref.random_ids(rng, 9, V), ref.random_ids(rng, 27, 2 * V).reshape(9, 3)
    tensors = [keras.ops.convert_to_tensor(array.astype("int32")) for array in (u, i)]
    target = rng.standard_normal((9, 1)).astype(np.float32)
    mine, other = optimizers.SGD(0.5), keras.optimizers.SGD(0.5)
    variables = [their_users.embeddings, their_items.embeddings]
    before = layers["u"].get_weights()[0]
    for _ in range(3):
        features = np.concatenate([layers["u"](u), layers["i"](i).reshape(9, -1)], axis=1)
        out = features @ w + b
        np.testing.assert_allclose(out, numpy(model(tensors)), rtol=1e-3, atol=1e-4)
        losses = [loss for layer in model.layers for loss in numbers(layer.losses)]
        np.testing.assert_allclose(layers["u"].losses + layers["i"].losses, losses, **CLOSE)
        upstream = (2 * (out - target) / out.size) @ w.T
        made = [
            layers["u"].gradient(u, upstream[:, :D]),
            whole_gradient(layers["i"], i, upstream[:, D:].reshape(9, 3, D)),
        ]
        expected = gradients(lambda: squares(model(tensors), target) + sum(model.losses), variables)
        np.testing.assert_allclose(made[0].to_dense(), expected[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(made[1], expected[1], rtol=1e-3, atol=1e-4)
        mine.apply(made, [layers["u"].embeddings, layers["i"].embeddings])
        other.apply([keras.ops.convert_to_tensor(gradient) for gradient in expected], variables)
        for layer, variable in zip((layers["u"], layers["i"]), variables, strict=True):
            np.testing.assert_allclose(layer.embeddings.numpy(), numpy(variable), rtol=1e-3, atol=1e-4)
    untouched = np.setdiff1d(np.arange(V), u)
    assert np.array_equal(layers["u"].embeddings.numpy()[untouched], before[untouched])
