"""fastembed.keras: real Keras models whose tables are ours.

Run once for each backend of Keras. Do not break: what is compared with is a layer of Keras with a dense gradient, made
of one-hot vectors; `keras.layers.Embedding` itself does not sum repeated ids on TensorFlow.
"""

import gc
import os
import re
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
from peers import load_keras

keras = load_keras()

import fastembed  # noqa: E402
import fastembed.keras as bridge  # noqa: E402

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.filterwarnings("default")  # of frameworks
trains = pytest.mark.skipif(BACKEND == "numpy", reason="Keras does not train on NumPy")
N, D, K = 50, 4, 5


class DenseGradient(keras.layers.Layer):
    """Look-ups as products with one-hot vectors."""

    def __init__(self, table):
        super().__init__(autocast=False)
        self.initial = table

    def build(self, shape):
        self.table = self.add_weight(shape=self.initial.shape)
        self.table.assign(self.initial)

    def call(self, ids):
        return keras.ops.matmul(keras.ops.one_hot(ids, len(self.initial)), self.table)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def table(rng):
    return rng.normal(size=(N, D)).astype("float32")


@pytest.fixture
def data(rng):
    """72 rows of ids with repetitions, and targets: batches of 16, and one of 8."""
    return rng.integers(0, 20, (72, K)).astype("int32"), rng.normal(size=(72, 1)).astype("float32")


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def model_of(*layers, inputs=K, dtype="int32"):
    """A Sequential whose Dense layers start with the same numbers each time."""
    model = keras.Sequential([keras.Input((inputs,), dtype=dtype), *layers])
    for layer in model.layers[1:]:
        if not isinstance(layer, (bridge.Embedding, keras.layers.Embedding, DenseGradient)):
            first = [np.linspace(-0.5, 0.5, w.size, dtype="float32").reshape(w.shape) for w in layer.get_weights()]
            layer.set_weights(first)
    return model


def flat_model(layer):
    return model_of(layer, keras.layers.Flatten(), keras.layers.Dense(1))


def fit(model, optimizer, data, epochs=2, **how):
    model.compile(optimizer, "mse", **how)
    model.fit(*data, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model


def rows(layer):
    return layer.get_weights()[0]


# ---- look-ups ------------------------------------------------------------------------------------------------------


def test_the_example_of_the_reference_page():
    model = keras.Sequential()
    model.add(bridge.Embedding(1000, 64, input_length=10))
    input_array = np.random.randint(1000, size=(32, 10))  # noqa: NPY002
    model.compile("rmsprop", "mse")
    output_array = model.predict(input_array, verbose=0)
    assert output_array.shape == (32, 10, 64)
    np.testing.assert_array_equal(output_array, rows(model.layers[0])[input_array])


def test_made_beforehand(table):
    """Built without a model, in memory or in a file, then used in one."""
    layer = bridge.Embedding(N, D, weights=table)
    layer.build()
    ids = keras.Input((3,), dtype="int32")
    model = keras.Model(ids, keras.layers.Dense(1)(layer(ids)))
    assert model.output_shape == (None, 3, 1)
    assert model.predict(np.array([[1, 2, 3]]), verbose=0).shape == (1, 3, 1)


def test_calls(table):
    layer = bridge.Embedding(N, D, weights=table)
    for shape in ((3,), (2, 3), (2, 1, 3), (0, 3)):
        ids = np.arange(np.prod(shape)).reshape(shape).astype("int32")
        np.testing.assert_array_equal(array(layer(ids)), table[ids])
    assert layer.compute_output_shape((None, 7)) == (None, 7, D)
    bag = bridge.EmbeddingBag(N, D, combiner="sum", weights=table)
    ids, weights = np.array([[1, 2], [2, 2]], "int32"), np.array([[0.5, 2], [1, 1]], "float32")
    np.testing.assert_allclose(array(bag(ids)), table[ids].sum(1), rtol=1e-6)
    np.testing.assert_allclose(array(bag(ids, weights)), (table[ids] * weights[..., None]).sum(1), rtol=1e-6)
    assert bag.compute_output_shape((None, 7)) == (None, D)


def test_weights_as_in_keras(table):
    layer = bridge.Embedding(N, D, weights=table)
    layer.build()
    assert layer.count_params() == N * D
    assert tuple(layer.weights[0].shape) == (N, D)
    np.testing.assert_array_equal(layer.weights[0].numpy(), table)
    layer.set_weights([table * 2])
    np.testing.assert_array_equal(rows(layer), table * 2)
    model = flat_model(layer)
    before = model.get_weights()
    layer.set_weights([table])
    model.set_weights(before)
    np.testing.assert_array_equal(rows(layer), table * 2)
    assert [tuple(variable.shape) for variable in layer.trainable_variables] == [()]
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert f"{N * D}" in "\n".join(lines)


def test_ids_that_float32_does_not_hold():
    layer = bridge.Embedding((1 << 24) + 1, 1, "zeros", lazy=True)
    with pytest.raises(ValueError, match="dtype='int64'"):
        layer(keras.Input((3,)))
    assert layer(keras.Input((3,), dtype="int64")).shape == (None, 3, 1)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has 32-bit ids")
def test_ids_of_64_bits():
    layer = bridge.Embedding(1 << 41, 1, fastembed.initializers.RandomUniform(seed=1), lazy=True)
    ids = np.array([[3, (1 << 40) + 3]])
    result = array(layer(ids))
    assert result[0, 0] != result[0, 1]
    np.testing.assert_array_equal(result, layer.layer(ids))


def test_masks(table):
    ids = np.array([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]], "int32")
    lstm = keras.layers.LSTM(3)
    ours = model_of(bridge.Embedding(N, D, mask_zero=True, weights=table), lstm)
    theirs = keras.Sequential([keras.Input((K,), dtype="int32"), keras.layers.Embedding(N, D, mask_zero=True), lstm])
    theirs.layers[0].set_weights([table])
    np.testing.assert_array_equal(ours.predict(ids, verbose=0), theirs.predict(ids, verbose=0))
    np.testing.assert_array_equal(array(ours.layers[0].compute_mask(ids)), ids != 0)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras has ragged tensors on TensorFlow alone")
@pytest.mark.parametrize("eager", [False, True])
def test_ragged(table, eager):
    import tensorflow as tf

    lists = [[1, 2, 3], [], [3, 3]]
    ids, target = tf.ragged.constant(lists, dtype=tf.int64), np.ones((3, D), "float32")
    layer = bridge.Embedding(N, D, weights=table, mask_zero=True)
    result = layer(ids)
    np.testing.assert_array_equal(result.flat_values, table[[1, 2, 3, 3, 3]])
    np.testing.assert_array_equal(result.row_splits, ids.row_splits)
    assert layer.compute_mask(ids).to_list() == [[True] * len(row) for row in lists]
    nested = tf.ragged.constant([[[1], []], [[2, 3]]], dtype=tf.int64)
    assert layer(nested).shape.as_list() == [2, None, None, D]

    bag = bridge.EmbeddingBag(N, D, combiner="sum", weights=table, table_optimizer=fastembed.optimizers.SGD(0.1))
    plain = fastembed.EmbeddingBag(N, D, combiner="sum", weights=table)
    model = keras.Sequential([keras.Input((None,), dtype="int64", ragged=True), bag])
    model.compile("sgd", "mse", run_eagerly=eager)
    ragged = fastembed.Ragged.from_lists(lists, dtype="int64")
    np.testing.assert_array_equal(model.predict(ids, verbose=0), plain(ragged))
    model.fit(tf.data.Dataset.from_tensors((ids, target)), verbose=0)
    gradient = plain.gradient(ragged, (2 / target.size * (plain(ragged) - target)).astype("float32"))
    fastembed.optimizers.SGD(0.1).apply([gradient], [plain.embeddings])
    np.testing.assert_allclose(rows(bag), plain.embeddings.numpy(), rtol=1e-6, atol=1e-7)


# ---- training ------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.9)),
    "adam": lambda: keras.optimizers.Adam(0.05),
    "amsgrad": lambda: keras.optimizers.Adam(0.05, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "clipnorm": lambda: keras.optimizers.Adagrad(0.1, clipnorm=0.05),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "adamax": lambda: keras.optimizers.Adamax(0.05),
    "lamb": lambda: keras.optimizers.Lamb(0.05),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "accumulation": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.SGD(0.1, loss_scale_factor=8.0),
}


@trains
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_a_dense_gradient(name, table, data):
    """The model's optimizer, translated, does what Keras's does with a dense gradient; repeated ids too."""
    theirs, ours = DenseGradient(table), bridge.Embedding(N, D, weights=table)
    of_theirs = fit(flat_model(theirs), OPTIMIZERS[name](), data)
    of_ours = fit(flat_model(ours), OPTIMIZERS[name](), data)
    np.testing.assert_allclose(rows(ours), array(theirs.table), rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(rows(of_ours.layers[-1]), rows(of_theirs.layers[-1]), rtol=2e-4, atol=2e-5)
    assert np.abs(rows(ours) - table).max() > 1e-3
    assert ours.table_optimizer.iterations == (5 if name == "accumulation" else 10)


@trains
@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=str)
def test_ways_to_run(how, table, data):
    expected = bridge.Embedding(N, D, weights=table)
    fit(flat_model(expected), "adam", data)
    layer = bridge.Embedding(N, D, weights=table)
    model = flat_model(layer)
    if BACKEND == "tensorflow" and how.get("jit_compile"):
        with pytest.raises(ValueError, match="jit_compile"):
            model.compile("adam", "mse", **how)
        return
    fit(model, "adam", data, **how)
    np.testing.assert_allclose(rows(layer), rows(expected), rtol=1e-5, atol=1e-6)


@trains
@pytest.mark.parametrize("eager", [False, True])
def test_a_layer_that_is_called_twice(eager, table, data):
    """One step with the sum of the gradients of all its calls."""

    def trained(layer):
        left, right = keras.Input((K,), dtype="int32"), keras.Input((K,), dtype="int32")
        both = keras.layers.Concatenate()([keras.layers.Flatten()(layer(left)), keras.layers.Flatten()(layer(right))])
        dense = keras.layers.Dense(1)
        model = keras.Model([left, right], dense(both))
        dense.set_weights([np.linspace(-1, 1, 2 * K * D).reshape(-1, 1), np.zeros(1)])
        fit(model, keras.optimizers.Adam(0.05), ([data[0], data[0][::-1]], data[1]), run_eagerly=eager)
        return layer

    ours, theirs = trained(bridge.Embedding(N, D, weights=table)), trained(DenseGradient(table))
    np.testing.assert_allclose(rows(ours), array(theirs.table), rtol=2e-4, atol=2e-5)
    assert ours.table_optimizer.iterations == 10


class Subclassed(keras.Model):
    def __init__(self, table):
        super().__init__()
        self.words = bridge.Embedding(N, D, weights=table)
        self.bag = bridge.EmbeddingBag(N, D, combiner="mean", weights=table, table_optimizer="adagrad")
        self.dense = keras.layers.Dense(1)

    def call(self, ids):
        return self.dense(keras.ops.mean(self.words(ids), axis=1) + self.bag(ids))


@trains
def test_a_subclassed_model(table, data):
    model = fit(Subclassed(table), "adam", data)
    assert model.words.table_optimizer.iterations == model.bag.table_optimizer.iterations == 10
    assert type(model.bag.table_optimizer) is fastembed.optimizers.Adagrad
    assert np.abs(rows(model.words) - table).max() > 1e-3
    assert np.isfinite(model.evaluate(*data, verbose=0))


@trains
def test_learning_rates_are_followed(table, data):
    def trained(layer):
        model = flat_model(layer)
        model.compile(keras.optimizers.Adagrad(0.05), "mse")
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch, _: 0.05 / (1 + epoch))
        for _ in range(2):
            model.fit(*data, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[schedule])
        model.optimizer.learning_rate = 0.5
        model.fit(*data, batch_size=16, epochs=1, shuffle=False, verbose=0)
        return layer

    ours, theirs = trained(bridge.Embedding(N, D, weights=table)), trained(DenseGradient(table))
    assert ours.table_optimizer.learning_rate == pytest.approx(0.5)
    np.testing.assert_allclose(rows(ours), array(theirs.table), rtol=2e-4, atol=2e-5)


@trains
def test_two_models_with_one_layer(table, data):
    """Each has its own optimizer and its state."""
    layer = bridge.Embedding(N, D, weights=table)
    first, second = flat_model(layer), flat_model(layer)
    first.compile(keras.optimizers.SGD(0.1), "mse")
    second.compile(keras.optimizers.Adam(0.1), "mse")
    for _ in range(2):
        for model, kind in ((first, "SGD"), (second, "Adam")):
            model.fit(*data, batch_size=24, epochs=1, verbose=0)
            model.fit(data[0][:5], data[1][:5], epochs=1, verbose=0)  # traced once more
            assert type(layer.table_optimizer).__name__ == kind
    assert layer.table_optimizer.iterations == 8


@trains
def test_weights_of_bags_have_gradients(table, data):
    ids, importance = keras.Input((K,), dtype="int32"), keras.Input((K,))
    scale = keras.layers.Dense(K, kernel_initializer="ones")
    bag = bridge.EmbeddingBag(N, D, combiner="sum", weights=table)
    model = keras.Model([ids, importance], keras.layers.Dense(1)(bag(ids, weights=scale(importance))))
    losses = []
    model.compile(keras.optimizers.SGD(0.001), "mse")
    given = [data[0], np.full((72, K), 0.3, "float32")]
    losses = model.fit(given, data[1], epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert np.abs(rows(scale) - 1).max() > 1e-5
    assert np.abs(rows(bag) - table).max() > 1e-5
    bag.trainable = False  # the weights' gradient is still there
    model.compile(keras.optimizers.SGD(0.001), "mse")
    before, kernel = rows(bag), rows(scale)
    model.fit(given, data[1], epochs=1, verbose=0)
    np.testing.assert_array_equal(rows(bag), before)
    assert np.abs(rows(scale) - kernel).max() > 1e-7


@trains
def test_frozen(table, data):
    layer = bridge.Embedding(N, D, weights=table, trainable=False)
    model = fit(flat_model(layer), "adam", data)
    np.testing.assert_array_equal(rows(layer), table)
    layer.trainable = True
    fit(model, "adam", data)
    assert np.abs(rows(layer) - table).max() > 1e-3


@trains
def test_regularizers_and_constraints(table, data):
    layer = bridge.Embedding(
        N,
        D,
        weights=table,
        activity_regularizer=keras.regularizers.L2(0.1),
        embeddings_regularizer=keras.regularizers.L2(0.01),
        embeddings_constraint=keras.constraints.MaxNorm(0.5, axis=1),
    )
    assert isinstance(layer.layer.embeddings_regularizer, fastembed.regularizers.L2)
    fit(flat_model(layer), keras.optimizers.SGD(0.01), data)
    assert np.linalg.norm(rows(layer), axis=1).max() <= 0.5 + 1e-6
    theirs = keras.layers.Embedding(N, D, activity_regularizer=keras.regularizers.L2(0.1))
    ours = bridge.Embedding(N, D, activity_regularizer=keras.regularizers.L2(0.1), weights=table)
    losses = [flat_model(one) for one in (ours, theirs)]
    theirs.set_weights([table])
    for model in losses:
        model.compile("sgd", "mse")
    evaluated = [model.evaluate(*data, verbose=0) for model in losses]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-5)


@trains
@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (lambda: keras.optimizers.Adam(global_clipnorm=1.0), "together"),
        (lambda: keras.optimizers.Adam(use_ema=True), "averages"),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "scale of the loss"),
        (lambda: type("Own", (keras.optimizers.SGD,), {"__module__": "mine"})(), "none that fastembed has"),
    ],
)
def test_optimizers_without_a_counterpart(optimizer, reason, table, data):
    """Never passed over; a look-up needs none."""
    if reason == "averages" and BACKEND == "jax":
        pytest.skip("Keras itself fails with use_ema on JAX, where an error comes up in between")
    layer = bridge.Embedding(N, D, weights=table)
    model = flat_model(layer)
    model.compile(optimizer(), "mse")
    model.predict(data[0], verbose=0)
    with pytest.raises(ValueError, match=reason):
        model.fit(*data, verbose=0)
    np.testing.assert_array_equal(rows(layer), table)
    if reason in ("together", "averages"):
        given = bridge.Embedding(N, D, weights=table, table_optimizer=keras.optimizers.Adam(0.1))
        fit(flat_model(given), optimizer(), data)
        assert given.table_optimizer.iterations == 10


@trains
def test_frozen_layers_need_no_optimizer(table, data):
    layer = bridge.Embedding(N, D, weights=table, trainable=False)
    fit(flat_model(layer), keras.optimizers.Adam(global_clipnorm=1.0), data)
    np.testing.assert_array_equal(rows(layer), table)


@trains
def test_constraints_of_the_whole_table(table, data):
    """Keras's default axis; each step then goes over the table, as in Keras."""
    limit = keras.constraints.MaxNorm(1.0)
    layer = bridge.Embedding(N, D, weights=table, embeddings_constraint=limit)
    fit(flat_model(layer), "adam", data)
    assert layer.table_optimizer.untouched == "dense"
    assert np.linalg.norm(rows(layer), axis=0).max() <= 1 + 1e-5


@trains
@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_a_loop_of_its_own_on_jax(table, data):
    """`stateless_call` of a model that calls a layer twice: one step."""
    import jax

    layer = bridge.Embedding(N, D, weights=table, table_optimizer=fastembed.optimizers.SGD(0.5))
    ids = keras.Input((K,), dtype="int32")
    model = keras.Model(ids, layer(ids) + layer(ids))

    @jax.jit
    def step(trainable, ids):
        return jax.grad(lambda trainable: model.stateless_call(trainable, [], ids)[0].sum())(trainable)

    jax.block_until_ready(step([variable.value for variable in model.trainable_variables], data[0]))
    assert layer.table_optimizer.iterations == 1
    expected = table - np.bincount(data[0].ravel(), minlength=N)[:, None]
    np.testing.assert_allclose(rows(layer), expected.astype("float32"), rtol=1e-5)


@trains
def test_a_scaled_loss_needs_the_scale(table, data):
    layer = bridge.Embedding(N, D, weights=table, table_optimizer="sgd")
    with pytest.raises(ValueError, match="loss_scale_factor"):
        fit(flat_model(layer), keras.optimizers.SGD(loss_scale_factor=8.0), data)


@trains
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16", "float64"])
def test_dtypes(policy, table, data):
    if policy == "float64" and BACKEND == "jax":
        pytest.skip("JAX has float64 with jax_enable_x64 alone")
    layer = bridge.Embedding(N, D, weights=table, dtype=policy, table_optimizer=fastembed.optimizers.SGD(0.1))
    model = flat_model(layer)
    assert layer.embeddings.storage == policy.removeprefix("mixed_").replace("bfloat16", layer.variable_dtype)
    assert keras.backend.standardize_dtype(layer(data[0]).dtype) == policy.removeprefix("mixed_")
    before = np.array(rows(layer), "float32")
    fit(model, "sgd", data)
    assert np.abs(np.array(rows(layer), "float32") - before).max() > 1e-3


@trains
def test_ids_outside(table, data):
    ids = data[0].copy()
    ids[40, 2] = N
    layer = bridge.Embedding(N, D, weights=table)
    model = flat_model(layer)
    model.compile("adam", "mse")
    with pytest.raises(Exception, match=r"must lie in \[0, 50\)"):
        model.fit(ids, data[1], batch_size=72, epochs=2, verbose=0)
        model.get_weights()  # JAX says it when results are read
    np.testing.assert_array_equal(rows(layer), table)


@trains
def test_no_optimizer_is_no_training(table, data):
    """A loop of one's own with a layer that has no optimizer: an error in the backward pass."""
    layer = bridge.Embedding(N, D, weights=table)
    layer.build()
    with pytest.raises(Exception, match="table_optimizer"):
        backward(layer, data[0])
    given = bridge.Embedding(N, D, weights=table, table_optimizer=fastembed.optimizers.SGD(0.5))
    given.build()
    backward(given, data[0])
    expected = table - 0.5 * np.bincount(data[0].ravel(), minlength=N)[:, None]
    np.testing.assert_allclose(rows(given), expected.astype("float32"), rtol=1e-5)


def backward(layer, ids):
    """The gradient of the sum of what a layer returns, in the framework's own way."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(ids))
            return tape.gradient(loss, [layer.anchor.value])

        step()
    elif BACKEND == "torch":
        layer(ids).sum().backward()
    else:
        import jax

        def loss(anchor):
            return layer.stateless_call([anchor], [], ids)[0].sum()

        jax.block_until_ready(jax.jit(jax.grad(loss))(layer.anchor.value))


@trains
def test_early_stopping_brings_the_table_back(data):
    layer = bridge.Embedding(N, D)
    model = flat_model(layer)
    model.compile(keras.optimizers.Adam(0.5), "mse")
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    other = (data[0][::-1], data[1])
    history = model.fit(*data, validation_data=other, epochs=6, verbose=0, callbacks=[stop]).history
    assert model.evaluate(*other, verbose=0) == pytest.approx(min(history["val_loss"]), rel=1e-5)


# ---- saving --------------------------------------------------------------------------------------------------------


@trains
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"dtype": "bfloat16"},
        {"mask_zero": True},
        {"table_optimizer": "adam"},
        {"table_optimizer": fastembed.optimizers.RowwiseAdagrad(0.1)},
    ],
    ids=str,
)
def test_save_load_continue(arguments, data, tmp_path):
    """The bits of a training that never stopped."""
    model = fit(flat_model(bridge.Embedding(N, D, **arguments)), keras.optimizers.Adam(0.01), data)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data[0], verbose=0), model.predict(data[0], verbose=0))
    assert loaded.layers[0].get_config() == model.layers[0].get_config()
    for one in (model, loaded):
        one.fit(*data, batch_size=16, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.layers[0].table_optimizer.iterations == 20


@trains
def test_weights_files_are_those_of_keras(data, tmp_path):
    ours = fit(flat_model(bridge.Embedding(N, D)), "adam", data)
    theirs = flat_model(keras.layers.Embedding(N, D))
    ours.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    expected = ours.predict(data[0], verbose=0)
    np.testing.assert_allclose(theirs.predict(data[0], verbose=0), expected, rtol=1e-6)
    again = flat_model(bridge.Embedding(N, D))
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    again.load_weights(tmp_path / "theirs.weights.h5")
    np.testing.assert_array_equal(again.predict(data[0], verbose=0), expected)
    layer = fastembed.formats.load(tmp_path / "ours.weights.h5", name=ours.layers[0].name)
    np.testing.assert_array_equal(layer.embeddings.numpy(), rows(ours.layers[0]))


@trains
def test_a_table_beside_the_model(data, tmp_path):
    path = tmp_path / "words.npy"
    layer = bridge.Embedding(N, D, path=path)
    model = fit(flat_model(layer), "adam", data)
    model.save(tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size < 60_000
    expected = model.predict(data[0], verbose=0)
    with pytest.warns(UserWarning, match="to be read, not to be trained"):
        reader = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reader.predict(data[0], verbose=0), expected)
    with pytest.raises(Exception, match=r"writeable|reading|read-only"):
        reader.fit(*data, verbose=0)
        reader.get_weights()
    del reader, model, layer
    keras.backend.clear_session()
    gc.collect()  # lets the file go
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data[0], verbose=0), expected)
    loaded.fit(*data, batch_size=16, epochs=1, verbose=0)
    assert loaded.layers[0].table_optimizer.iterations == 15
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), rows(loaded.layers[0]))
    config = loaded.layers[0].get_config()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="path"):
        bridge.Embedding.from_config(config)


def test_configs():
    layer = bridge.Embedding(
        N, D, "zeros", "l2", mask_zero=True, padding_idx=0, name="words", table_optimizer=keras.optimizers.Adam(0.5)
    )
    again = bridge.Embedding.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.table_optimizer.learning_rate == 0.5
    bag = bridge.EmbeddingBag(N, D, combiner="sqrtn")
    again = keras.layers.deserialize(keras.layers.serialize(bag))
    assert type(again) is bridge.EmbeddingBag
    assert again.get_config() == bag.get_config()
    with pytest.raises(ValueError, match="combiner"):
        bridge.EmbeddingBag(N, D, combiner="median")


def test_around_a_layer_that_is_there(table):
    layer = fastembed.EmbeddingBag(N, D, combiner="sum", weights=table)
    ours = bridge.EmbeddingBag.from_layer(layer, "sgd")
    assert ours.embeddings is layer.embeddings
    np.testing.assert_array_equal(array(ours(np.array([[1, 2]], "int32"))), layer([[1, 2]]))
    with pytest.raises(TypeError, match="layer"):
        bridge.Embedding.from_layer(layer)


# ---- converting ----------------------------------------------------------------------------------------------------


class Theirs(keras.Model):
    def __init__(self):
        super().__init__()
        self.words = keras.layers.Embedding(N, D)
        self.more = [keras.layers.Embedding(N, D)]
        self.named = {"items": keras.layers.Embedding(N, D)}
        self.dense = keras.layers.Dense(1)

    def call(self, ids):
        vectors = self.words(ids) + self.more[0](ids) + self.named["items"](ids)
        return self.dense(keras.ops.mean(vectors, axis=1))


def functional():
    ids = keras.Input((K,), dtype="int32")
    words = keras.layers.Embedding(N, D, mask_zero=True, embeddings_regularizer="l2")
    inner = keras.Sequential([keras.Input((K,), dtype="int32"), keras.layers.Embedding(N, D), keras.layers.Flatten()])
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(words(ids)), inner(ids)])
    return keras.Model(ids, keras.layers.Dense(1)(joined))


def embeddings_in(model):
    found = [layer for layer in model._flatten_layers() if type(layer).__name__ == "Embedding"]
    return [type(layer).__module__.partition(".")[0] for layer in found]


@pytest.mark.parametrize("make", [lambda: flat_model(keras.layers.Embedding(N, D)), functional, Theirs])
def test_convert(make, data):
    model = make()
    before = array(model(data[0]))
    number = len(embeddings_in(model))
    ours = bridge.convert(model)
    assert embeddings_in(ours) == ["fastembed"] * number
    np.testing.assert_array_equal(array(ours(data[0])), before)
    if BACKEND != "numpy":
        fit(ours, "adam", data)
    trained = array(ours(data[0]))
    back = bridge.convert(ours, back=True)
    assert embeddings_in(back) == ["keras"] * number
    np.testing.assert_allclose(array(back(data[0])), trained, rtol=1e-6)
    assert len(back.weights) == len(make_built(make, data).weights)


def make_built(make, data):
    model = make()
    model(data[0])
    return model


def test_what_cannot_be_converted():
    with pytest.raises(ValueError, match="padding_idx"):
        bridge.convert(flat_model(bridge.Embedding(N, D, padding_idx=0)), back=True)
    with pytest.raises(ValueError, match="lora_rank"):
        bridge.convert(flat_model(keras.layers.Embedding(N, D, lora_rank=2)))


# ---- threads, processes, memory ------------------------------------------------------------------------------------


@trains
def test_threads(table, data):
    """Models in several threads, each with a layer around the same table: no step is lost."""
    plain = fastembed.Embedding(N, D, "zeros")
    plain.build()
    layers = [bridge.Embedding.from_layer(plain, fastembed.optimizers.SGD(1.0)) for _ in range(3)]
    for layer in layers:
        layer.build()
        backward(layer, data[0])  # compiled before there are threads

    def work(layer):
        for _ in range(5):
            backward(layer, data[0])

    threads = [threading.Thread(target=work, args=(layer,)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    expected = -18.0 * np.bincount(data[0].ravel(), minlength=N)[:, None]
    np.testing.assert_array_equal(plain.embeddings.numpy(), np.broadcast_to(expected, (N, D)))


@trains
def test_a_model_leaves_nothing_behind(table, data):
    layer = bridge.Embedding(N, D, weights=table)
    model = fit(flat_model(layer), "adam", data)
    gone = weakref.ref(layer.layer.embeddings)
    del layer, model
    keras.backend.clear_session()
    gc.collect()
    assert gone() is None


@trains
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is not there")
def test_a_child_after_fork(run_python):
    """A worker process that was forked from a training looks up rows."""
    program = """
        import os
        import sys
        import warnings
        import numpy as np
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import keras
        import fastembed.keras

        layer = fastembed.keras.EmbeddingBag(1000, 64, combiner="sum")
        model = keras.Sequential([keras.Input((26,), dtype="int32"), layer, keras.layers.Dense(1)])
        model.compile("adam", "mse")
        ids = np.random.default_rng(0).integers(0, 1000, (4096, 26)).astype("int32")
        model.fit(ids, np.ones((4096, 1)), batch_size=1024, verbose=0)
        expected = layer.layer(ids)
        warnings.simplefilter("ignore")
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(layer.layer(ids), expected) else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    run_python(program)


@trains
def test_memory(run_python):
    """Steps of fit take nothing as large as the table."""
    program = """
        import os
        import numpy as np
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import keras
        import fastembed.keras

        def peak():
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

        rows = 1_000_000
        layer = fastembed.keras.EmbeddingBag(rows, 64, combiner="sum", table_optimizer=fastembed.optimizers.Adam())
        model = keras.Sequential([keras.Input((26,), dtype="int32"), layer, keras.layers.Dense(1)])
        model.compile("adam", "mse")
        rng = np.random.default_rng(0)
        ids, labels = rng.integers(0, rows, (4096 * 4, 26)).astype("int32"), rng.normal(size=(4096 * 4, 1))
        model.fit(ids[:8192], labels[:8192], batch_size=4096, verbose=0)
        before = peak()
        model.fit(ids, labels, batch_size=4096, epochs=3, verbose=0)
        print(round(peak() - before))
    """
    assert int(run_python(program).splitlines()[-1]) < 100  # the table has 244, its state twice that


EXAMPLE = Path(__file__).parents[1] / "examples" / "text_classifier.py"


@trains
@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the examples are not there")
def test_the_example():
    """examples/text_classifier.py learns to tell packages apart."""
    ran = subprocess.run([sys.executable, EXAMPLE, "--quick"], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    before, after = (float(found) for found in re.findall(r"training: ([\d.]+)", ran.stdout))
    assert before < 0.2 < 0.25 < after
