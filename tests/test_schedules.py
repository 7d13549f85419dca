"""Learning-rate schedules: values, configs, optimizers that follow them; and Keras's own, where it is installed.

Do not break: the cases of the comparison with Keras are those of the other tests.
"""

import numpy as np
import pytest
from peers import peer

import fastembed
from fastembed import optimizers, schedules, serialization

CASES = {
    "exponential": ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}),
    "staircase": (
        "ExponentialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5, "staircase": True},
    ),
    "inverse": ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": 3, "decay_rate": 0.5}),
    "inverse staircase": (
        "InverseTimeDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 3, "decay_rate": 0.5, "staircase": True},
    ),
    "polynomial": ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 10}),
    "power": (
        "PolynomialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 10, "end_learning_rate": 0.01, "power": 2.0},
    ),
    "cycle": ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 10, "power": 0.5, "cycle": True}),
    "piecewise": ("PiecewiseConstantDecay", {"boundaries": [3, 11], "values": [1.0, 0.5, 0.1]}),
    "cosine": ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 10, "alpha": 0.1}),
    "warm-up": (
        "CosineDecay",
        {"initial_learning_rate": 0.01, "decay_steps": 10, "warmup_target": 0.1, "warmup_steps": 4},
    ),
    "restarts": ("CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 4}),
    "same length": (
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 4, "t_mul": 1.0, "m_mul": 0.5, "alpha": 0.2},
    ),
    "longer": (
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 3, "t_mul": 1.5, "m_mul": 0.9},
    ),
}
STEPS = [*range(30), 100, 1000]


def made(case):
    name, arguments = CASES[case]
    return getattr(schedules, name)(**arguments)


@pytest.mark.parametrize("case", CASES)
def test_config(case):
    schedule = made(case)
    envelope = serialization.serialize(schedule)
    assert envelope["module"] == "keras.optimizers.schedules"
    for again in (serialization.deserialize(envelope), schedules.get(envelope)):
        assert again.get_config() == schedule.get_config()
        assert [again(step) for step in STEPS] == [schedule(step) for step in STEPS]


@pytest.mark.parametrize("case", CASES)
def test_against_keras(case):
    keras = peer("keras")
    name, arguments = CASES[case]
    theirs, ours = getattr(keras.optimizers.schedules, name)(**arguments), made(case)
    assert list(ours.get_config().items()) == list(theirs.get_config().items())
    assert serialization.serialize(ours) == keras.optimizers.schedules.serialize(theirs)
    expected = [float(theirs(np.float32(step))) for step in STEPS]
    np.testing.assert_allclose([ours(step) for step in STEPS], expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam"])
def test_optimizers_of_keras(name):
    """Configs with a schedule go both ways."""
    keras = peer("keras")
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    theirs = getattr(keras.optimizers, name)(schedule, name="mine")
    ours = optimizers.get(keras.optimizers.serialize(theirs))
    assert ours.get_config() == theirs.get_config()
    again = keras.optimizers.deserialize(serialization.serialize(ours))
    assert again.get_config() == theirs.get_config()


def test_an_optimizer_follows_it():
    schedule = schedules.PiecewiseConstantDecay([1], [1.0, 0.5])  # steps 0 and 1, then the others
    optimizer = optimizers.SGD(schedule)
    w = np.zeros(1, "float32")
    seen = []
    for _ in range(4):
        seen.append(optimizer.learning_rate)
        optimizer.apply_gradients([(np.ones(1), w)])
    assert seen == [1.0, 1.0, 0.5, 0.5]
    assert w[0] == -3
    again = optimizers.get(serialization.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert again.learning_rate == 1.0
    optimizer.learning_rate = 0.25
    assert optimizer.learning_rate == 0.25


def test_a_rate_that_is_none():
    """Found before anything is written."""

    class Wrong(schedules.LearningRateSchedule):
        def __call__(self, step):
            return float("nan")

    w = np.zeros(1, "float32")
    optimizer = optimizers.Adam(Wrong())
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number"):
        optimizer.apply_gradients([(np.ones(1), w)])
    assert (w[0], optimizer.iterations) == (0, 0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 0, "decay_rate": 0.5}),
        ("ExponentialDecay", {"initial_learning_rate": "a", "decay_steps": 1, "decay_rate": 0.5}),
        ("ExponentialDecay", {"initial_learning_rate": float("inf"), "decay_steps": 1, "decay_rate": 0.5}),
        ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": True, "decay_rate": 0.5}),
        ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": -1}),
        ("PolynomialDecay", {"initial_learning_rate": 10**400, "decay_steps": 1}),
        ("PiecewiseConstantDecay", {"boundaries": [1], "values": [1.0]}),
        ("PiecewiseConstantDecay", {"boundaries": 1, "values": 2}),
        ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 1, "alpha": None}),
        ("CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 1, "t_mul": 0.5}),
        ("CosineDecayRestarts", {"nobody": 1}),
    ],
)
def test_refused(name, arguments):
    with pytest.raises((ValueError, TypeError)):
        getattr(schedules, name)(**arguments)
    with pytest.raises((ValueError, TypeError)):
        fastembed.serialization.deserialize({"class_name": name, "config": arguments})
