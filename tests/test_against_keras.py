"""The same layers, configs and steps in Keras 3, where it is installed, on the backend that KERAS_BACKEND names.

Do not break: Keras is imported once for all tests, so its backend is chosen before (TensorFlow, JAX or torch, whichever
is there).
"""

import pickle

import numpy as np
import pytest
import reference as ref
from peers import load_keras, peer

import fastembed
from fastembed import Embedding, initializers, ops, optimizers

keras = load_keras()
pytestmark = pytest.mark.filterwarnings("ignore")

BACKEND = keras.backend.backend()
V, D = 40, 7
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.fixture
def table(rng):
    return ref.random_table(rng, V, D)


# ---- the layer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (0, 3)], ids=str)
def test_look_ups_and_masks(shape, dtype, mask_zero, rng, table):
    theirs = keras.layers.Embedding(V, D, mask_zero=mask_zero, weights=[table])
    ours = Embedding(V, D, mask_zero=mask_zero, weights=[table])
    ids = rng.integers(0, 5, shape).astype(dtype)
    assert np.array_equal(ours(ids), numpy(theirs(ids)))
    mask = theirs.compute_mask(ids)
    assert (ours.compute_mask(ids) is None) == (mask is None) == (not mask_zero)
    if mask_zero:
        assert np.array_equal(ours.compute_mask(ids), numpy(mask))
    assert ours.compute_output_shape(shape) == theirs.compute_output_shape(shape)
    assert ours.count_params() == theirs.count_params()
    assert ours.supports_masking == theirs.supports_masking


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras takes ragged ids on TensorFlow alone")
def test_ragged(rng, table):
    tf = peer("tensorflow")
    theirs, ours = keras.layers.Embedding(V, D, weights=[table]), Embedding(V, D, weights=[table])
    rows = [[1, 2], [], [3, 4, 5]]
    out, expected = ours(fastembed.Ragged.from_lists(rows)), theirs(tf.ragged.constant(rows, dtype="int64"))
    assert np.array_equal(out.values, expected.values.numpy())
    assert np.array_equal(out.row_splits, expected.row_splits.numpy())


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("weighted", [False, True])
def test_combiners_of_tensorflow(weighted, combiner, rng, table):
    tf = peer("tensorflow")
    ids, splits = ref.random_ids(rng, 100, V), ref.random_splits(rng, 100, 20)
    weights = rng.uniform(0.5, 2, 100).astype(np.float32) if weighted else None
    ragged = tf.RaggedTensor.from_row_splits(ids, splits)
    their_weights = tf.RaggedTensor.from_row_splits(weights, splits) if weighted else None
    expected = tf.nn.embedding_lookup_sparse(tf.constant(table), ragged, their_weights, combiner=combiner).numpy()
    np.testing.assert_allclose(ops.pool(table, ids, splits, weights, combiner)[: len(expected)], expected, **CLOSE)
    assert not ops.pool(table, ids, splits, weights, combiner)[len(expected) :].any()


ARGUMENTS = [
    {},
    {"mask_zero": True},
    {"name": "items", "trainable": False},
    {"embeddings_initializer": "zeros"},
    {"embeddings_initializer": "normal"},
    {"dtype": "float32"},
]
INITIALIZERS = {
    "RandomUniform": {"minval": -2.0, "maxval": 3.0, "seed": 5},
    "RandomNormal": {"mean": 1.0, "stddev": 2.0, "seed": 5},
    "Constant": {"value": 2.5},
    "Zeros": {},
    "Ones": {},
}


def same_layer(ours, theirs):
    assert ours.get_config() == theirs.get_config()
    assert list(ours.get_config()) == list(theirs.get_config())
    assert (ours.name, ours.trainable, ours.mask_zero) == (theirs.name, theirs.trainable, theirs.mask_zero)
    assert (ours.input_dim, ours.output_dim) == (theirs.input_dim, theirs.output_dim)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_layer_configs(arguments):
    """From there to here and from here to there, equal to the letter."""
    theirs = keras.layers.Embedding(V, D, **arguments)
    ours = Embedding.from_config(theirs.get_config())
    same_layer(ours, theirs)
    same_layer(ours, keras.layers.Embedding.from_config(ours.get_config()))
    same_layer(Embedding(V, D, **{"name": theirs.name, **arguments}), theirs)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_layer_configs_with_initializers(name):
    theirs = keras.layers.Embedding(V, D, getattr(keras.initializers, name)(**INITIALIZERS[name]))
    ours = Embedding.from_config(pickle.loads(pickle.dumps(theirs.get_config())))
    same_layer(ours, theirs)
    again = keras.layers.Embedding.from_config(ours.get_config())
    again.build()
    low, high = ours.embeddings.numpy().min(), ours.embeddings.numpy().max()
    if name in ("Zeros", "Ones", "Constant"):
        assert np.array_equal(numpy(again.embeddings), ours.embeddings.numpy())
    assert -10 < low <= high < 10


def test_weights_go_both_ways(table):
    theirs, ours = keras.layers.Embedding(V, D), Embedding(V, D)
    theirs.build()
    ours.set_weights(theirs.get_weights())
    assert np.array_equal(ours.embeddings.numpy(), numpy(theirs.embeddings))
    ours.embeddings.assign(table)
    theirs.set_weights(ours.get_weights())
    assert np.array_equal(numpy(theirs.embeddings), table)


def test_input_length_does_no_harm_there():
    ours = Embedding(V, D, input_length=3)
    assert keras.layers.Embedding.from_config(ours.get_config()).input_dim == V


# ---- initializers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializer_configs(name):
    ours = getattr(initializers, name)(**INITIALIZERS[name])
    theirs = keras.initializers.get(fastembed.serialization.serialize(ours))
    assert type(theirs).__name__ == name
    assert theirs.get_config() == ours.get_config()
    assert keras.initializers.serialize(theirs) == fastembed.serialization.serialize(ours)
    again = initializers.get(keras.initializers.serialize(theirs))
    assert type(again) is type(ours)
    assert again.get_config() == ours.get_config()


@pytest.mark.parametrize(
    "name", ["uniform", "random_uniform", "normal", "random_normal", "zeros", "ones", "zero", "one", "Zeros"]
)
def test_initializer_names(name):
    theirs, ours = keras.initializers.get(name), initializers.get(name)
    assert type(theirs).__name__ == type(ours).__name__
    assert theirs.get_config() == ours.get_config()


# ---- optimizers --------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": ("SGD", {"learning_rate": 0.1}),
    "momentum": ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    "nesterov": ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adagrad": ("Adagrad", {"learning_rate": 0.1}),
    "Adagrad with epsilon": ("Adagrad", {"learning_rate": 0.1, "epsilon": 0.5, "initial_accumulator_value": 0.3}),
    "Adam": ("Adam", {"learning_rate": 0.01}),
    "Adam with epsilon": ("Adam", {"learning_rate": 0.01, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.1}),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_dense_steps(case, rng):
    """Two variables, 20 steps, duplicates already summed."""
    name, arguments = OPTIMIZERS[case]
    ours, theirs = getattr(optimizers, name)(**arguments), getattr(keras.optimizers, name)(**arguments)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((V, D), (5,))]
    variables = [keras.Variable(array) for array in arrays]
    for _ in range(20):
        gradients = [rng.standard_normal(array.shape).astype(np.float32) for array in arrays]
        ours.apply(gradients, arrays)
        theirs.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients], variables)
    for array, variable in zip(arrays, variables, strict=True):
        np.testing.assert_allclose(array, numpy(variable), rtol=1e-4, atol=1e-5)
    assert ours.iterations == int(numpy(theirs.iterations))


@pytest.mark.parametrize("case", ["SGD", "Adagrad", "Adagrad with epsilon"])
def test_sparse_steps(case, rng, table):
    """These leave rows without a gradient alone in Keras too, so a row-sparse step is its dense one."""
    name, arguments = OPTIMIZERS[case]
    ours, theirs = getattr(optimizers, name)(**arguments), getattr(keras.optimizers, name)(**arguments)
    layer, variable = Embedding(V, D, weights=table), keras.Variable(table)
    for batch in range(5):
        ids = ref.random_ids(rng, 60, V - 10 + batch)
        gradient = layer.gradient(ids, rng.standard_normal((60, D)))
        theirs.apply([keras.ops.convert_to_tensor(gradient.to_dense())], [variable])
        ours.apply_gradients([(gradient, layer.embeddings)])
    np.testing.assert_allclose(layer.embeddings.numpy(), numpy(variable), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam"])
def test_optimizer_defaults_and_names(name):
    theirs = getattr(keras.optimizers, name)().get_config()
    ours = getattr(optimizers, name)().get_config()
    del ours["name"]  # Keras counts them
    assert set(ours) <= set(theirs)
    for key, value in ours.items():
        assert (theirs[key] is None) == (value is None)
        assert value is None or np.float32(theirs[key]) == np.float32(value)
    for identifier in (name, name.lower()):
        made = optimizers.get(identifier)
        assert type(made).__name__ == type(keras.optimizers.get(identifier)).__name__ == name


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimizer_configs_go_there(case):
    name, arguments = OPTIMIZERS[case]
    ours = getattr(optimizers, name)(**arguments)
    theirs = keras.optimizers.deserialize(fastembed.serialization.serialize(ours)).get_config()
    for key, value in arguments.items():
        assert np.float32(theirs[key]) == np.float32(value)
