"""Arguments of optimizers: Keras 3's names, order and defaults, its configs and those of Keras 2.9, and wrong values.

Do not break: what Keras has is written down here, and compared with Keras itself where that is installed. The configs
of 2.9 were printed by TensorFlow 2.9.3, which is not there in CI.
"""

import inspect
import json
import pickle

import numpy as np
import pytest
from peers import load_keras

from fastembed import optimizers, schedules, serialization

BASE = {
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
ADAM = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
FTRL = {
    "learning_rate": 0.001,
    "learning_rate_power": -0.5,
    "initial_accumulator_value": 0.1,
    "l1_regularization_strength": 0.0,
    "l2_regularization_strength": 0.0,
    "l2_shrinkage_regularization_strength": 0.0,
    "beta": 0.0,
}
ADAFACTOR = {
    "learning_rate": 0.001,
    "beta_2_decay": -0.8,
    "epsilon_1": 1e-30,
    "epsilon_2": 1e-3,
    "clip_threshold": 1.0,
    "relative_step": True,
}
KERAS = {
    "SGD": {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
    "RMSprop": {"learning_rate": 0.001, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False},
    "Adam": {**ADAM, "amsgrad": False},
    "AdamW": {"learning_rate": 0.001, "weight_decay": 0.004, **ADAM, "amsgrad": False},
    "Adadelta": {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-7},
    "Adagrad": {"learning_rate": 0.001, "initial_accumulator_value": 0.1, "epsilon": 1e-7},
    "Adamax": ADAM,
    "Adafactor": ADAFACTOR,
    "Nadam": ADAM,
    "Ftrl": FTRL,
    "Lion": {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.99},
    "Lamb": ADAM,
}
# FBGEMM's arguments and defaults, but for its learning rate of 0.01 for all.
ROWWISE = {
    "RowwiseAdagrad": {"learning_rate": 0.001, "initial_accumulator_value": 0.0, "epsilon": 1e-8},
    "PartialRowwiseAdam": {**ADAM, "epsilon": 1e-8},
    "RowwiseLamb": {**ADAM, "epsilon": 1e-8, "weight_decay": 0.0},
    "RowwiseLARS": {"learning_rate": 0.01, "momentum": 0.9, "eta": 0.001, "weight_decay": 0.0},
    "RowwiseRMSprop": {"learning_rate": 0.001, "rho": 0.9, "epsilon": 1e-8},
}
DEFAULTS = {**KERAS, **ROWWISE}
OTHERS = {
    "learning_rate": 0.25,
    "momentum": 0.5,
    "nesterov": True,
    "rho": 0.75,
    "epsilon": 0.125,
    "centered": True,
    "beta_1": 0.5,
    "beta_2": 0.75,
    "amsgrad": True,
    "weight_decay": 0.5,
    "initial_accumulator_value": 0.5,
    "learning_rate_power": -0.75,
    "l1_regularization_strength": 0.125,
    "l2_regularization_strength": 0.25,
    "l2_shrinkage_regularization_strength": 0.5,
    "beta": 0.5,
    "beta_2_decay": -0.5,
    "epsilon_1": 1e-20,
    "epsilon_2": 0.01,
    "clip_threshold": 2.0,
    "relative_step": False,
    "eta": 0.5,
}


def classes(names=DEFAULTS):
    return pytest.mark.parametrize("name", names)


def other_arguments(name):
    """For each argument of its own a value that is not the default."""
    return {argument: OTHERS[argument] for argument in DEFAULTS[name]}


def plain(config):
    """What a JSON file makes of it."""
    return json.loads(json.dumps(config))


def same(ours, theirs):
    """Equal to the letter, the order of keys too."""
    assert json.dumps(ours) == json.dumps(theirs)


def test_all_are_here():
    assert set(DEFAULTS) == set(optimizers.__all__) - {"LossScaleOptimizer", "Optimizer", "get"}


@classes()
def test_defaults(name):
    cls, own = getattr(optimizers, name), dict(DEFAULTS[name])
    rate = own.pop("learning_rate")
    same(cls().get_config(), {"name": name.lower(), "learning_rate": rate, **BASE, **own})
    arguments = list(inspect.signature(cls).parameters)
    assert arguments == [*DEFAULTS[name], "name", "base"]
    assert all(f"{argument}" in cls.__doc__ for argument in own)


@classes()
def test_round_trips(name):
    cls = getattr(optimizers, name)
    for arguments in ({}, {**other_arguments(name), "name": "mine"}):
        optimizer = cls(**arguments)
        config = optimizer.get_config()
        assert config.items() >= arguments.items()
        envelope = serialization.serialize(optimizer)
        assert envelope["module"] == ("keras.optimizers" if name in KERAS else "fastembed.optimizers")
        for again in (
            cls.from_config(plain(config)),
            cls(*[config[argument] for argument in DEFAULTS[name]], config["name"]),
            optimizers.get({"class_name": name, "config": plain(config)}),
            serialization.deserialize(plain(envelope)),
            serialization.deserialize(plain(serialization.serialize(optimizer, version=2))),
            pickle.loads(pickle.dumps(optimizer)),
        ):
            assert type(again) is cls
            same(again.get_config(), config)


@classes()
def test_names(name):
    cls = getattr(optimizers, name)
    assert all(type(optimizers.get(known)) is cls for known in (cls, name, name.lower(), name.upper()))
    words = {"RowwiseRMSprop": "rowwise_rmsprop", "RowwiseLARS": "rowwise_lars"}
    if name in ROWWISE:
        assert type(optimizers.get(words.get(name) or serialization.snake_case(name))) is cls


RANGES = [
    (("momentum", "rho", "beta_1", "beta_2"), [-0.1, 1.0, 1.5]),
    (("epsilon", "epsilon_1", "epsilon_2", "initial_accumulator_value", "beta", "eta", "weight_decay"), [-1e-9]),
    (("l1_regularization_strength", "l2_regularization_strength", "l2_shrinkage_regularization_strength"), [-1e-9]),
    (("learning_rate_power", "beta_2_decay"), [1e-9]),
    (("clip_threshold",), [0.0, -1.0]),
    (("nesterov", "centered", "amsgrad", "relative_step"), [2.0, 0]),
]
NO_NUMBERS = [None, "0.1", np.nan, np.inf, [0.1], True, 1e39]
NO_FLAGS = [None, "True", [True], np.nan]


@classes()
def test_wrong_values(name):
    cls = getattr(optimizers, name)
    for argument, default in DEFAULTS[name].items():
        (outside,) = [values for names, values in RANGES if argument in names] or [[-1.0]]
        if (name, argument) == ("Lion", "beta_1"):  # Keras's range
            assert cls(beta_1=1).beta_1 == 1
            outside = [0.0, -0.1, 1.5]
        for value in outside + (NO_FLAGS if isinstance(default, bool) else NO_NUMBERS):
            if argument == "learning_rate" and value is None:
                continue
            with pytest.raises((TypeError, ValueError), match=f"`{argument}` must be"):
                cls(**{argument: value})
            with pytest.raises((TypeError, ValueError), match=f"`{argument}` must be"):
                cls.from_config({**cls().get_config(), argument: value})
    with pytest.raises(TypeError, match="no_such"):
        cls(no_such=1)
    with pytest.raises(TypeError, match="no_such"):
        cls.from_config({**cls().get_config(), "no_such": 1})


def test_a_learning_rate_of_0():
    """Ftrl divides by it, and says so before anything is written."""
    table = np.ones((2, 2), np.float32)
    ftrl = optimizers.Ftrl(schedules.PiecewiseConstantDecay([0], [0.0, 0.5]))
    with pytest.raises(ValueError, match="`learning_rate` of Ftrl must be greater than 0"):
        ftrl.apply([np.ones((2, 2))], [table])
    assert (table == 1).all()


# ---- Keras 3 itself ----------------------------------------------------------------------------------


@pytest.fixture
def keras():
    return load_keras()


@classes(KERAS)
@pytest.mark.filterwarnings("ignore")
def test_keras(name, keras):
    """The same arguments, and configs that go both ways."""
    cls, their_cls = getattr(optimizers, name), getattr(keras.optimizers, name)
    own = [key for key in inspect.signature(their_cls).parameters if key in DEFAULTS[name]]
    assert own == list(DEFAULTS[name])
    for arguments in ({}, {**other_arguments(name), "name": "mine"}):
        theirs = their_cls(**arguments)
        config = theirs.get_config()
        ours = cls.from_config(plain(config))
        same(ours.get_config(), config)
        same(their_cls.from_config(plain(ours.get_config())).get_config(), config)
        for given in (theirs, keras.optimizers.serialize(theirs), plain(keras.optimizers.serialize(theirs))):
            same(optimizers.get(given).get_config(), config)
        if keras.backend.backend() != "torch":  # there Keras names classes of its own
            assert serialization.serialize(ours) == keras.optimizers.serialize(theirs)
        again = keras.saving.deserialize_keras_object(plain(serialization.serialize(ours)))
        assert isinstance(again, their_cls)
        same(again.get_config(), config)
        rounded = {**cls(**arguments).get_config(), "learning_rate": config["learning_rate"], "name": config["name"]}
        same(rounded, config)  # Keras counts names, and rounds the rate to float32
    if name != "Lamb":  # which Keras 3.15 does not know by its name
        assert isinstance(keras.optimizers.get(name.lower()), their_cls)
    assert type(optimizers.get(their_cls)) is cls


# ---- Keras 2.9 ---------------------------------------------------------------------------------------

# tf.keras.optimizers.<name>().get_config()
LEGACY = {
    "SGD": {"name": "SGD", "learning_rate": 0.01, "decay": 0.0, "momentum": 0.0, "nesterov": False},
    "RMSprop": {
        "name": "RMSprop",
        "learning_rate": 0.001,
        "decay": 0.0,
        "rho": 0.9,
        "momentum": 0.0,
        "epsilon": 1e-07,
        "centered": False,
    },
    "Adam": {
        "name": "Adam",
        "learning_rate": 0.001,
        "decay": 0.0,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-07,
        "amsgrad": False,
    },
    "Adadelta": {"name": "Adadelta", "learning_rate": 0.001, "decay": 0.0, "rho": 0.95, "epsilon": 1e-07},
    "Adagrad": {
        "name": "Adagrad",
        "learning_rate": 0.001,
        "decay": 0.0,
        "initial_accumulator_value": 0.1,
        "epsilon": 1e-07,
    },
    "Adamax": {
        "name": "Adamax",
        "learning_rate": 0.001,
        "decay": 0.0,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-07,
    },
    "Nadam": {
        "name": "Nadam",
        "learning_rate": 0.001,
        "decay": 0.004,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-07,
    },
    "Ftrl": {
        "name": "Ftrl",
        "learning_rate": 0.001,
        "decay": 0.0,
        "initial_accumulator_value": 0.1,
        "learning_rate_power": -0.5,
        "l1_regularization_strength": 0.0,
        "l2_regularization_strength": 0.0,
        "beta": 0.0,
        "l2_shrinkage_regularization_strength": 0.0,
    },
}


@pytest.mark.parametrize("name", LEGACY)
def test_keras_29(name):
    """Its configs are read, and written letter for letter; they say less than Keras 3's, and nothing else."""
    cls = getattr(optimizers, name)
    legacy = LEGACY[name]
    assert set(legacy) - {"name", "decay"} == set(DEFAULTS[name])
    for changed in ({}, {**other_arguments(name), "name": "mine"}):
        config = {**legacy, **changed}
        for ours in (
            cls.from_config(config),
            optimizers.get({"class_name": name, "config": config}),
            cls(**{key: value for key, value in config.items() if key != "decay"}),
        ):
            same(serialization.serialize(ours, version=2), {"class_name": name, "config": config})
            assert ours.get_config().items() >= {key: config[key] for key in config if key != "decay"}.items()
    for decay in (0.1, "0.1", True):
        with pytest.raises(ValueError, match="`decay` must be 0"):
            cls.from_config({**legacy, "decay": decay})


def test_schedules_in_keras_29():
    """The form of 2.9 inside too."""
    rate = {
        "class_name": "ExponentialDecay",
        "config": {
            "initial_learning_rate": 0.5,
            "decay_steps": 2,
            "decay_rate": 0.25,
            "staircase": False,
            "name": None,
        },
    }
    optimizer = optimizers.Adamax.from_config({**LEGACY["Adamax"], "learning_rate": rate})
    optimizer.iterations = 4
    assert optimizer.learning_rate == 0.5 * 0.25**2
    written = serialization.serialize(optimizer, version=2)["config"]
    assert list(written) == list(LEGACY["Adamax"])
    assert set(written["learning_rate"]) == set(rate)
    assert written["learning_rate"]["config"].items() >= {**rate["config"], "name": "ExponentialDecay"}.items()


@classes(sorted(set(DEFAULTS) - set(LEGACY)))
def test_what_keras_29_does_not_have(name):
    """Keeps its config, in the envelope of 2.9."""
    optimizer = getattr(optimizers, name)()
    envelope = serialization.serialize(optimizer, version=2)
    same(envelope, {"class_name": name, "config": optimizer.get_config()})


@pytest.mark.parametrize("argument", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_in_keras_29(argument):
    """tf.keras.optimizers.SGD(clipnorm=1.0).get_config(), and so on."""
    config = {"name": "SGD", argument: 1.0, "learning_rate": 0.01, "decay": 0.0, "momentum": 0.0, "nesterov": False}
    optimizer = optimizers.SGD.from_config(config)
    assert optimizer.get_config()[argument] == 1
    same(optimizer.legacy_config(), config)


def test_a_learning_rate_that_is_any_function_is_shown():
    """Though it can be in no config."""

    def rate(t):
        return 0.5

    scaled = optimizers.LossScaleOptimizer(optimizers.Adam(rate, untouched="dense"), initial_scale=4.0)
    assert f"Adam(name='adam', learning_rate={rate!r}, untouched='dense', beta_1=0.9" in repr(scaled)
    assert repr(scaled).endswith("initial_scale=4.0, dynamic_growth_steps=2000)")
    assert repr(optimizers.SGD(0.5)) == "SGD(name='sgd', learning_rate=0.5, momentum=0.0, nesterov=False)"
