"""Optimizers against the float64 oracle: 50 steps, duplicates, tables and plain arrays."""

import pickle

import numpy as np
import pytest
import reference as ref
from test_optimizer_configs import BASE

from fastembed import Embedding, IndexedSlices, Table, optimizers

V, D = 60, 10
STEPS = 50
BETAS = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4}
RMSPROP = {"rho": 0.8, "epsilon": 1e-3}
# The oracle's step, the optimizer, and what both are given.
CASES = {
    "sgd": ("sgd", optimizers.SGD, {}, 0.1),
    "momentum": ("momentum", optimizers.SGD, {"momentum": 0.8}, 0.1),
    "nesterov": ("nesterov", optimizers.SGD, {"momentum": 0.8, "nesterov": True}, 0.1),
    "adagrad": ("adagrad", optimizers.Adagrad, {"initial_accumulator_value": 0.2, "epsilon": 1e-3}, 0.1),
    "rowwise": ("rowwise_adagrad", optimizers.RowwiseAdagrad, {"epsilon": 1e-3}, 0.1),
    "rowwise2": ("rowwise_adagrad", optimizers.RowwiseAdagrad, {"initial_accumulator_value": 0.5}, 0.1),
    "adam": ("adam", optimizers.Adam, BETAS, 0.02),
    "adam of Keras": ("adam", optimizers.Adam, {}, 0.02),
    "amsgrad": ("amsgrad", optimizers.Adam, {**BETAS, "amsgrad": True}, 0.02),
    "adamax": ("adamax", optimizers.Adamax, BETAS, 0.02),
    "nadam": ("nadam", optimizers.Nadam, BETAS, 0.02),
    "rmsprop": ("rmsprop", optimizers.RMSprop, RMSPROP, 0.02),
    "rmsprop, momentum": ("rmsprop_momentum", optimizers.RMSprop, {**RMSPROP, "momentum": 0.5}, 0.02),
    "rmsprop, centered": ("rmsprop_centered", optimizers.RMSprop, {**RMSPROP, "centered": True}, 0.02),
    "rmsprop, both": (
        "rmsprop_centered_momentum",
        optimizers.RMSprop,
        {**RMSPROP, "centered": True, "momentum": 0.5},
        0.02,
    ),
    "adadelta": ("adadelta", optimizers.Adadelta, RMSPROP, 0.5),
    "ftrl": ("ftrl", optimizers.Ftrl, {"l1_regularization_strength": 0.1, "beta": 0.2}, 0.1),
    "ftrl, power": ("ftrl", optimizers.Ftrl, {"learning_rate_power": -0.75, "initial_accumulator_value": 0.5}, 0.1),
    "lion": ("lion", optimizers.Lion, {"beta_1": 0.8, "beta_2": 0.95}, 0.02),
    "partial": ("partial_rowwise_adam", optimizers.PartialRowwiseAdam, BETAS, 0.02),
    "lamb": ("rowwise_lamb", optimizers.RowwiseLamb, {**BETAS, "weight_decay": 0.1}, 0.02),
    "lars": ("rowwise_lars", optimizers.RowwiseLARS, {"momentum": 0.8, "eta": 0.1, "weight_decay": 0.1}, 0.1),
    "rowwise rmsprop": ("rowwise_rmsprop", optimizers.RowwiseRMSprop, RMSPROP, 0.02),
}
EPSILONS = {"rowwise_adagrad": 1e-8}
ACCUMULATORS = {"adagrad": 0.1, "ftrl": 0.1}


class Oracle:
    """The same steps in float64."""

    def __init__(self, case, array):
        self.name, self.make, arguments, self.rate = CASES[case]
        self.arguments = {"epsilon": EPSILONS.get(self.name, 1e-7), **arguments}
        accumulator = self.arguments.pop("initial_accumulator_value", ACCUMULATORS.get(self.name, 0.0))
        for argument in ("nesterov", "amsgrad", "centered"):  # are in the step's name
            self.arguments.pop(argument, None)
        if "eta" in self.arguments:
            self.arguments["trust_coefficient"] = self.arguments.pop("eta")
        self.optimizer = self.make(learning_rate=self.rate, **arguments)
        self.table = array.astype(np.float64).reshape(-1, array.shape[-1])
        self.state = ref.initial_state(self.name, self.table.shape, accumulator)
        self.t = 0

    def step(self, gradient, touched=None):
        self.t += 1
        gradient = gradient.reshape(self.table.shape)
        touched = range(len(self.table)) if touched is None else touched
        ref.step(self.name, self.table, self.state, gradient, touched, self.t, self.rate, **self.arguments)

    def check(self, array):
        np.testing.assert_allclose(array, self.table.reshape(array.shape), rtol=2e-4, atol=2e-5)
        if self.state:
            (state,) = self.optimizer.variables
            parts = [part.reshape(len(self.table), -1) for part in self.state.values()]
            np.testing.assert_allclose(state, np.concatenate(parts, axis=1), rtol=2e-4, atol=2e-5)
        else:
            assert self.optimizer.variables == []
        assert self.optimizer.iterations == self.t


@pytest.mark.parametrize("case", CASES)
def test_table(case, rng):
    """Row-sparse gradients with duplicates: touched rows step, the others keep value and state."""
    layer = Embedding(V, D, weights=ref.random_table(rng, V, D))
    table = layer.embeddings.numpy()
    oracle = Oracle(case, table)
    for step in range(STEPS):
        ids = ref.random_ids(rng, 40, 5 + step)  # the rows from 55 on are never touched
        upstream = rng.standard_normal((40, D))
        before = table.copy()
        states = [state.copy() for state in oracle.optimizer.variables]
        oracle.optimizer.apply_gradients([(layer.gradient(ids, upstream), layer.embeddings)])
        oracle.step(*ref.gather_gradient((V, D), ids, upstream))
        untouched = np.setdiff1d(np.arange(V), ids)
        assert np.array_equal(table[untouched], before[untouched])
        for state, state_before in zip(oracle.optimizer.variables, states, strict=False):
            assert np.array_equal(state[untouched], state_before[untouched])
    oracle.check(table)


@pytest.mark.parametrize("shape", [(7,), (30, 9), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_dense(case, shape, rng):
    """Plain arrays of any rank, dense gradients; a row is the last axis."""
    array = rng.standard_normal(shape).astype(np.float32)
    memory = array
    oracle = Oracle(case, array)
    for step in range(STEPS):
        gradient = rng.standard_normal(shape).astype([np.float32, np.float64][step % 2])
        oracle.optimizer.apply([gradient], [array])
        oracle.step(gradient)
    assert array is memory
    oracle.check(array)


@pytest.mark.parametrize("case", CASES)
def test_dense_and_sparse_agree(case, rng):
    """The same gradient for every row, dense, row-sparse and in another order of the ids: the same bits."""
    start = ref.random_table(rng, V, D)
    tables = [Table((V, D)), start.copy(), start.copy()]
    tables[0].assign(start)
    made = [Oracle(case, start).optimizer for _ in tables]
    for _ in range(5):
        gradient = rng.standard_normal((V, D)).astype(np.float32)
        order = rng.permutation(V)
        made[0].apply_gradients([(IndexedSlices(gradient, np.arange(V), (V, D)), tables[0])])
        made[1].apply_gradients([(gradient, tables[1])])
        made[2].apply_gradients([(IndexedSlices(gradient[order], order, (V, D)), tables[2])])
    assert np.array_equal(tables[0].numpy(), tables[1])
    assert np.array_equal(tables[1], tables[2])


def test_one_optimizer_for_a_whole_model(rng):
    """A table, a matrix and a vector in one call share the number of the step."""
    layer = Embedding(V, D)
    matrix, bias = ref.random_table(rng, 4, 5), np.zeros(5, np.float32)
    oracles = [Oracle("adam", array) for array in (layer.embeddings.numpy(), matrix, bias)]
    adam = oracles[0].optimizer
    adam.build([layer.embeddings, matrix, bias])
    assert [state.shape for state in adam.variables] == [(V, 2 * D), (4, 10), (1, 10)]
    for _ in range(5):
        ids, upstream = ref.random_ids(rng, 9, V), rng.standard_normal((9, D))
        gradients = [rng.standard_normal(matrix.shape), rng.standard_normal(5)]
        adam.apply_gradients(
            [(layer.gradient(ids, upstream), layer.embeddings), (gradients[0], matrix), (gradients[1], bias)]
        )
        oracles[0].step(*ref.gather_gradient((V, D), ids, upstream))
        oracles[1].step(gradients[0])
        oracles[2].step(gradients[1])
    assert adam.iterations == 5
    for oracle, array in zip(oracles, (layer.embeddings.numpy(), matrix, bias), strict=True):
        np.testing.assert_allclose(array, oracle.table.reshape(array.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_empty_gradients(case, rng):
    """A step on no ids counts, and changes nothing else."""
    layer = Embedding(V, D)
    before = layer.embeddings.numpy().copy()
    optimizer = Oracle(case, before).optimizer
    optimizer.build([layer.embeddings])
    states = [state.copy() for state in optimizer.variables]
    nothing = layer.gradient(np.zeros((0, 3), int), np.zeros((0, 3, D)))
    optimizer.apply_gradients([(nothing, layer.embeddings)])
    optimizer.apply_gradients([])
    assert optimizer.iterations == 2
    assert np.array_equal(layer.embeddings.numpy(), before)
    assert all(map(np.array_equal, optimizer.variables, states))
    for shape in ((0,), (0, 3), (3, 0)):
        optimizer.apply([np.zeros(shape)], [np.zeros(shape, np.float32)])


@pytest.mark.parametrize("case", CASES)
def test_pickle_goes_on_where_it_was(case, rng):
    layer = Embedding(V, D)
    optimizer = Oracle(case, layer.embeddings.numpy()).optimizer
    gradients = [layer.gradient(ref.random_ids(rng, 20, V), rng.standard_normal((20, D))) for _ in range(6)]
    for gradient in gradients[:3]:
        optimizer.apply_gradients([(gradient, layer.embeddings)])
    other_layer, other_optimizer = pickle.loads(pickle.dumps((layer, optimizer)))
    for gradient in gradients[3:]:
        optimizer.apply_gradients([(gradient, layer.embeddings)])
        other_optimizer.apply_gradients([(gradient, other_layer.embeddings)])
    assert np.array_equal(layer.embeddings.numpy(), other_layer.embeddings.numpy())
    assert other_optimizer.iterations == 6


@pytest.mark.parametrize("case", CASES)
def test_config(case):
    _, make, arguments, rate = CASES[case]
    optimizer = make(learning_rate=rate, name="n", **arguments)
    config = optimizer.get_config()
    assert config.items() >= {"name": "n", "learning_rate": rate, **arguments}.items()
    again = make.from_config(config)
    assert again.get_config() == config
    name = make.__name__
    for identifier in (make, name, name.lower(), {"class_name": name, "config": config}):
        assert type(optimizers.get(identifier)) is make
    assert optimizers.get(optimizer) is optimizer


def test_defaults():
    """Keras 3's, key for key; RowwiseAdagrad's are FBGEMM's where Keras has none."""
    adagrad = {"learning_rate": 0.001, "initial_accumulator_value": 0.1, "epsilon": 1e-7}
    adam = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False}
    for make, name, own in (
        (optimizers.SGD, "sgd", {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False}),
        (optimizers.Adagrad, "adagrad", adagrad),
        (optimizers.RowwiseAdagrad, "rowwiseadagrad", {**adagrad, "initial_accumulator_value": 0.0, "epsilon": 1e-8}),
        (optimizers.Adam, "adam", adam),
    ):
        rate = own.pop("learning_rate")
        expected = {"name": name, "learning_rate": rate, **BASE, **own}
        assert make().get_config() == expected
        assert list(make().get_config()) == list(expected)


def test_learning_rate_is_settable():
    array, optimizer = np.zeros(2, np.float32), optimizers.SGD(1.0)
    optimizer.apply([np.ones(2)], [array])
    optimizer.learning_rate = 0.25
    optimizer.apply([np.ones(2)], [array])
    assert array.tolist() == [-1.25, -1.25]
