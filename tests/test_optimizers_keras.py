"""Every optimizer of Keras 3 against Keras itself, on any backend: the same numbers after many steps.

Do not break: both sides get the same gradients; Keras gets them dense.
"""

import numpy as np
import pytest
from peers import load_keras

from fastembed import IndexedSlices, optimizers, schedules

keras = load_keras()
pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 50
SHAPES = [(12, 5), (7,)]
CASES = [
    ("SGD", {"learning_rate": 0.1}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.8}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.8, "nesterov": True}),
    ("RMSprop", {"learning_rate": 0.02}),
    ("RMSprop", {"learning_rate": 0.02, "rho": 0.8, "epsilon": 1e-3}),
    ("RMSprop", {"learning_rate": 0.02, "rho": 0.8, "momentum": 0.5}),
    ("RMSprop", {"learning_rate": 0.02, "rho": 0.8, "epsilon": 1e-3, "centered": True}),
    ("RMSprop", {"learning_rate": 0.02, "rho": 0.8, "epsilon": 1e-3, "centered": True, "momentum": 0.5}),
    ("Adam", {"learning_rate": 0.02}),
    ("Adam", {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4}),
    ("Adam", {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-4, "amsgrad": True}),
    ("AdamW", {"learning_rate": 0.02}),
    ("AdamW", {"learning_rate": 0.02, "weight_decay": 0.1, "beta_1": 0.8, "amsgrad": True}),
    ("Adadelta", {"learning_rate": 1.0}),
    ("Adadelta", {"learning_rate": 0.5, "rho": 0.8, "epsilon": 1e-3}),
    ("Adagrad", {"learning_rate": 0.1}),
    ("Adagrad", {"learning_rate": 0.1, "initial_accumulator_value": 0.5, "epsilon": 1e-3}),
    ("Adamax", {"learning_rate": 0.02}),
    ("Adamax", {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}),
    ("Adafactor", {"learning_rate": 0.1}),
    ("Adafactor", {"learning_rate": 0.5, "beta_2_decay": -0.5, "epsilon_1": 1e-3, "clip_threshold": 0.5}),
    ("Adafactor", {"learning_rate": 0.1, "epsilon_2": 2.0, "clip_threshold": 100.0, "relative_step": False}),
    ("Nadam", {"learning_rate": 0.02}),
    ("Nadam", {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4}),
    ("Ftrl", {"learning_rate": 0.1}),
    ("Ftrl", {"learning_rate": 0.1, "l1_regularization_strength": 0.5, "l2_regularization_strength": 0.1, "beta": 0.2}),
    ("Ftrl", {"learning_rate": 0.1, "initial_accumulator_value": 0.5, "l2_shrinkage_regularization_strength": 0.1}),
    ("Ftrl", {"learning_rate": 0.1, "learning_rate_power": -0.75, "l1_regularization_strength": 0.1}),
    ("Ftrl", {"learning_rate": 0.1, "learning_rate_power": 0.0}),
    ("Lion", {"learning_rate": 0.01}),
    ("Lion", {"learning_rate": 0.01, "beta_1": 0.5, "beta_2": 0.8}),
    ("Lamb", {"learning_rate": 0.02}),
    ("Lamb", {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
]
every_case = pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
one_of_each = pytest.mark.parametrize(("name", "arguments"), [*dict(CASES).items()], ids=str)


def random_gradients(rng, steps=STEPS):
    """Dense ones, a list for each step with one for each variable; sizes that change from step to step."""
    return [[rng.standard_normal(shape) * 1.1 ** (step % 7) for shape in SHAPES] for step in range(steps)]


def train(name, arguments, start, gradients):
    """Ours: the arrays after all steps. A gradient may be an IndexedSlices."""
    optimizer, arrays = getattr(optimizers, name)(**arguments), [array.copy() for array in start]
    for of_step in gradients:
        optimizer.apply(of_step, arrays)
    optimizer.catch_up()
    return arrays


def train_keras(name, arguments, start, gradients):
    """Keras's: the same, from the dense gradients."""
    optimizer, variables = getattr(keras.optimizers, name)(**arguments), [keras.Variable(array) for array in start]
    for of_step in gradients:
        dense = [g.to_dense() if isinstance(g, IndexedSlices) else g for g in of_step]
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in dense], variables)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def compare(name, arguments, gradients, rng, **ours):
    """Trains both from the same random arrays; `ours`: arguments that Keras does not have."""
    start = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    made = train(name, {**arguments, **ours}, start, gradients)
    expected = train_keras(name, arguments, start, gradients)
    for array, other, before in zip(made, expected, start, strict=True):
        assert np.abs(other - before).max() > 1e-2
        np.testing.assert_allclose(array, other, rtol=2e-4, atol=2e-5)


def test_every_optimizer_is_here():
    theirs = {name for name in optimizers.__all__ if hasattr(keras.optimizers, name)}
    assert {name for name, _ in CASES} == theirs - {"LossScaleOptimizer", "Optimizer", "get"}


@every_case
def test_dense_gradients(name, arguments, rng):
    compare(name, arguments, random_gradients(rng), rng)


@one_of_each
def test_a_schedule(name, arguments, rng):
    """Counted from 0 in both."""
    rate = keras.optimizers.schedules.InverseTimeDecay(arguments["learning_rate"], decay_steps=2, decay_rate=0.25)
    ours = schedules.get(keras.optimizers.schedules.serialize(rate))
    compare(name, {**arguments, "learning_rate": rate}, random_gradients(rng, 10), rng, learning_rate=ours)


# ---- row-sparse gradients --------------------------------------------------------------------------------------------


def sparse_gradients(rng, steps=STEPS):
    """As random_gradients, but the matrix's is row-sparse, with many duplicates; rows have pauses of many steps."""
    gradients = random_gradients(rng, steps)
    for step, of_step in enumerate(gradients):
        rows = rng.integers(0, 3 + step % 8, 20)  # the last rows are never touched
        of_step[0] = IndexedSlices(rng.standard_normal((20, SHAPES[0][1])), rows, SHAPES[0])
    return gradients


@pytest.mark.parametrize("untouched", ["dense", "catch_up"])
@every_case
def test_row_sparse_gradients(name, arguments, untouched, rng):
    """Keras gets the same gradients made dense, and moves rows without a gradient."""
    optimizer = getattr(optimizers, name)
    if untouched in optimizer.modes:
        compare(name, arguments, sparse_gradients(rng), rng, untouched=untouched)
    else:
        with pytest.raises(ValueError, match="`untouched` must be one of"):
            optimizer(untouched=untouched)


BASE = {
    "weight_decay": {"weight_decay": 0.1},
    "clipnorm": {"clipnorm": 0.5},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.1},
    "loss_scale_factor": {"loss_scale_factor": 4.0},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 3},
    "ema": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4},
    "all": {
        "weight_decay": 0.1,
        "global_clipnorm": 0.5,
        "loss_scale_factor": 4.0,
        "gradient_accumulation_steps": 3,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 2,
    },
}


@pytest.mark.parametrize("untouched", ["dense", "catch_up"])
@pytest.mark.parametrize("base", BASE)
@one_of_each
def test_what_the_base_class_gives(name, arguments, base, untouched, rng):
    """With 51 calls, so that gradient accumulation ends with a step."""
    optimizer = getattr(optimizers, name)
    if untouched not in optimizer.modes:
        pytest.skip(f"{name} has no {untouched}")
    arguments = {**arguments, **BASE[base]}
    if keras.backend.backend() == "jax" and base in ("gradient_accumulation_steps", "ema", "all") and name != "Adam":
        pytest.skip("Keras on JAX compiles these at every step; Adam stands for all")
    moves = optimizer(**arguments).at_rest == "weights" or "weight_decay" in arguments
    if untouched == "catch_up" and arguments.get("use_ema") and moves:
        with pytest.raises(ValueError, match="`use_ema` needs"):
            optimizer(**arguments, untouched=untouched).build([np.zeros((3, 2), np.float32)])
        return
    compare(name, arguments, sparse_gradients(rng, 51), rng, untouched=untouched)
