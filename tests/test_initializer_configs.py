"""Initializers: names, configs, arrays, functions, and arguments that are refused.

Do not break: names, keys and defaults are written out here as Keras 2.9.0 and 3.15.1 print them, not computed.
"""

import copy
import json
import pickle

import numpy as np
import pytest

import fastembed
from fastembed import Embedding, initializers
from fastembed.initializers import Constant, Identity, Initializer, Ones, Orthogonal, RandomNormal, RandomUniform, Zeros

AXES = {"input_axes": None, "output_axes": None}
# name: (the config of Keras 3.15, the config of Keras 2.9), each in its order.
DEFAULTS = {
    "Constant": ({"value": 0.0}, {"value": 0}),
    "Zeros": ({}, {}),
    "Ones": ({}, {}),
    "Identity": ({}, {"gain": 1.0}),
    "RandomUniform": (
        {"seed": None, "minval": -0.05, "maxval": 0.05},
        {"minval": -0.05, "maxval": 0.05, "seed": None},
    ),
    "RandomNormal": ({"seed": None, "mean": 0.0, "stddev": 0.05}, {"mean": 0.0, "stddev": 0.05, "seed": None}),
    "TruncatedNormal": ({"seed": None, "mean": 0.0, "stddev": 0.05}, {"mean": 0.0, "stddev": 0.05, "seed": None}),
    "VarianceScaling": (
        {"seed": None, "scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal", **AXES},
        {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal", "seed": None},
    ),
    "GlorotUniform": ({"seed": None, **AXES}, {"seed": None}),
    "GlorotNormal": ({"seed": None, **AXES}, {"seed": None}),
    "HeUniform": ({"seed": None, **AXES}, {"seed": None}),
    "HeNormal": ({"seed": None, **AXES}, {"seed": None}),
    "LecunUniform": ({"seed": None, **AXES}, {"seed": None}),
    "LecunNormal": ({"seed": None, **AXES}, {"seed": None}),
    "Orthogonal": ({"seed": None, "gain": 1.0}, {"gain": 1.0, "seed": None}),
}
# Every other string that names an initializer in Keras 2.9 or 3.15.
NAMES = {
    "ConstantV2": "Constant",
    "GlorotNormalV2": "GlorotNormal",
    "GlorotUniformV2": "GlorotUniform",
    "HeNormalV2": "HeNormal",
    "HeUniformV2": "HeUniform",
    "IdentityInitializer": "Identity",
    "IdentityV2": "Identity",
    "LecunNormalV2": "LecunNormal",
    "LecunUniformV2": "LecunUniform",
    "OnesV2": "Ones",
    "OrthogonalInitializer": "Orthogonal",
    "OrthogonalV2": "Orthogonal",
    "RandomNormalV2": "RandomNormal",
    "RandomUniformV2": "RandomUniform",
    "TruncatedNormalV2": "TruncatedNormal",
    "VarianceScalingV2": "VarianceScaling",
    "ZerosV2": "Zeros",
    "constant": "Constant",
    "glorot_normal": "GlorotNormal",
    "glorot_normalV2": "GlorotNormal",
    "glorot_uniform": "GlorotUniform",
    "glorot_uniformV2": "GlorotUniform",
    "he_normal": "HeNormal",
    "he_normalV2": "HeNormal",
    "he_uniform": "HeUniform",
    "he_uniformV2": "HeUniform",
    "identity": "Identity",
    "lecun_normal": "LecunNormal",
    "lecun_normalV2": "LecunNormal",
    "lecun_uniform": "LecunUniform",
    "lecun_uniformV2": "LecunUniform",
    "normal": "RandomNormal",
    "one": "Ones",
    "ones": "Ones",
    "orthogonal": "Orthogonal",
    "random_normal": "RandomNormal",
    "random_uniform": "RandomUniform",
    "truncated_normal": "TruncatedNormal",
    "uniform": "RandomUniform",
    "variance_scaling": "VarianceScaling",
    "zero": "Zeros",
    "zeros": "Zeros",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name):
    """Keys, order and values, in both generations."""
    cls = getattr(initializers, name)
    keras_3, keras_2 = DEFAULTS[name]
    for made in (cls(), initializers.get(name), initializers.get(cls), initializers.get({"class_name": name})):
        assert type(made) is cls
        assert list(made.get_config().items()) == list(keras_3.items())
        assert list(made.legacy_config().items()) == list(keras_2.items())
    assert fastembed.serialization.serialize(cls()) == {
        "module": "keras.initializers",
        "class_name": name,
        "config": keras_3,
        "registered_name": None,
    }
    for config in (keras_3, keras_2, {}, {**keras_2, "dtype": "float32"}):
        assert cls.from_config(config).get_config() == keras_3


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    cls = getattr(initializers, NAMES[name])
    for identifier in (name, {"class_name": name, "config": {}}, {"class_name": name}):
        made = initializers.get(identifier)
        assert type(made) is cls
        assert made.get_config() == DEFAULTS[NAMES[name]][0]


def test_nothing_else_has_a_name():
    assert set(initializers._CLASSES) | set(initializers._ALIASES) == {
        *DEFAULTS,
        *NAMES,
        *("STFT", "STFTInitializer", "stft"),
    }
    assert initializers.get(None) is None


INSTANCES = [
    Constant(2.5),
    Constant(3),
    Constant(np.float32(0.5)),
    Constant([[1, 2, 3]]),
    Constant(np.arange(3, dtype="float16")),
    Identity(2.5),
    RandomUniform(-2.0, 3.0, seed=4),
    RandomUniform(0, 1, seed=2**70),
    RandomNormal(1.0, 2.0, seed=np.int64(4)),
    initializers.TruncatedNormal(1.0, 2.0, seed=4),
    initializers.VarianceScaling(2, "fan_out", "Uniform", 4, [0], (1,)),
    initializers.VarianceScaling(2, "fan_avg", "normal", 4),
    initializers.GlorotNormal(4, input_axes=[0], output_axes=[1]),
    initializers.HeUniform(seed=-1),
    Orthogonal(-0.5, seed=4),
]


@pytest.mark.parametrize("initializer", INSTANCES, ids=repr)
def test_round_trips(initializer):
    """Through a config, its JSON, the form of 2.9, a pickle and a copy: the same config and the same values."""
    name, config = type(initializer).__name__, initializer.get_config()
    assert json.loads(json.dumps(config)) == config
    made = [
        type(initializer).from_config(config),
        initializers.get(fastembed.serialization.serialize(initializer)),
        initializers.get({"class_name": name, "config": config}),
        initializer.clone(),
        pickle.loads(pickle.dumps(initializer)),
        copy.deepcopy(initializer),
    ]
    for again in made:
        assert type(again) is type(initializer)
        assert again.get_config() == config
    if "input_axes" not in config or config["input_axes"] is None:
        made.append(type(initializer).from_config(json.loads(json.dumps(initializer.legacy_config()))))
    for again in made:
        assert np.array_equal(again((5, 3)), initializer((5, 3)))
    assert initializers.get(initializer) is initializer


def test_values_that_configs_hold():
    """What was given, as plain Python numbers."""
    for config, types in (
        (RandomUniform(0, np.float64(1), seed=np.int32(3)).get_config(), (int, int, float)),
        (RandomNormal(np.array(0), 1).get_config(), (type(None), int, int)),
        (Constant(np.float32(2)).get_config(), (float,)),
    ):
        assert tuple(type(value) for value in config.values()) == types
    scaling = initializers.VarianceScaling(distribution="NORMAL")
    assert scaling.distribution == "truncated_normal"
    assert Identity(1).get_config() == {}
    assert Identity(2).get_config() == {"gain": 2}
    with pytest.raises(ValueError, match="must be None in a config of Keras"):
        initializers.HeNormal(input_axes=[0], output_axes=[1]).legacy_config()


@pytest.mark.parametrize(
    "identifier", ["STFT", "stft", "STFTInitializer", {"class_name": "STFT", "config": {}}], ids=str
)
def test_stft_is_refused(identifier):
    with pytest.raises(ValueError, match="three dimensions"):
        initializers.get(identifier)


# ---- constants and shapes ----------------------------------------------------------------------------


def test_constants(guarded):
    for d in (1, 3, 16, 65):
        for initializer, value in ((Zeros(), 0), (Ones(), 1), (Constant(-2.5), -2.5), (Constant(), 0)):
            table = guarded(np.full((9, d), 7, np.float32))
            initializer.fill(table)
            assert (table == value).all()
    for value in (np.nan, np.inf, -np.inf):
        assert np.array_equal(Constant(value)((2, 2)), np.full((2, 2), value, np.float32), equal_nan=True)


@pytest.mark.parametrize("d", [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127])
def test_nothing_is_written_outside(d, guarded):
    for name in DEFAULTS:
        getattr(initializers, name)().fill(guarded(np.zeros((23, d), np.float32)))
    Constant(np.arange(d)).fill(guarded(np.zeros((23, d), np.float32)))
    initializers.get(np.ones((23, d))).fill(guarded(np.zeros((23, d), np.float32)))


@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 3), (0, 3), (3, 0), (2, 3, 4)], ids=str)
def test_shapes(shape):
    for name in DEFAULTS:
        initializer = getattr(initializers, name)()
        if (name == "Identity" and len(shape) != 2) or (name == "Orthogonal" and len(shape) < 2):
            with pytest.raises(ValueError, match="`shape` must have two dimensions"):
                initializer(shape)
            continue
        for dtype in (None, "float32", np.float32, "float64", np.float64):
            array = initializer(shape, dtype)
            assert array.shape == shape
            assert array.dtype == dtype or (dtype is None and array.dtype == np.float32)
            assert np.isfinite(array).all()
    with pytest.raises(TypeError, match="`dtype` must be 'float32' or 'float64'"):
        Ones()((2, 2), dtype="float16")
    for wrong, error in (((-1, 2), ValueError), ((2.5, 2), TypeError), (3, TypeError), ("ab", TypeError)):
        with pytest.raises(error, match="`shape` must"):
            Ones()(wrong)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 5), (3, 64), (65, 33), (0, 3), (3, 0)], ids=str)
def test_identity(shape):
    assert np.array_equal(Identity()(shape), np.eye(*shape, dtype=np.float32))
    pieces = np.full(shape, 9, np.float32)
    for row in range(shape[0]):
        Identity(-2).fill(pieces[row : row + 1], first_row=row, num_rows=shape[0])
    assert np.array_equal(pieces, -2 * np.eye(*shape, dtype=np.float32))


def test_rows_of_a_table():
    table = np.full((4, 3), 7, np.float32)
    for first_row, num_rows in ((-1, None), (1, 4), (0, 3), (2**62, 3)):
        with pytest.raises(ValueError, match="`first_row` must lie in"):
            RandomUniform().fill(table, first_row, num_rows)
    for whole in (Orthogonal(), initializers.get(lambda shape, dtype: np.ones(shape))):
        for first_row, num_rows in ((0, 5), (1, None)):
            with pytest.raises(ValueError, match="`table_vd` must be a whole table"):
                whole.fill(table, first_row, num_rows)
    frozen = np.zeros((4, 3), np.float32)
    frozen.flags.writeable = False
    for name in DEFAULTS:
        strided = np.zeros((4, 6), np.float32)[:, ::2]
        for wrong in (frozen, strided, np.zeros((4, 3), int), np.zeros(3, np.float32), [[1.0]]):
            with pytest.raises((ValueError, TypeError), match="`table_vd` must"):
                getattr(initializers, name)().fill(wrong)
    assert (table == 7).all()


# ---- arrays and functions ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint64", "bool"])
def test_arrays(dtype, rng):
    array = rng.integers(0, 2, (6, 5)).astype(dtype)
    for identifier in (array, array[::-1, ::-1], np.asfortranarray(array)):
        made = initializers.get(identifier)
        assert np.array_equal(Embedding(6, 5, identifier).embeddings.numpy(), identifier)
        assert np.array_equal(made((6, 5)), identifier)
        config = json.loads(json.dumps(made.get_config()))
        assert config == {
            "value": {"class_name": "__numpy__", "config": {"value": identifier.tolist(), "dtype": dtype}}
        }
        again = Constant.from_config(config)
        assert again.value.dtype == dtype
        assert np.array_equal(again((6, 5)), identifier)
        assert made.legacy_config() == {"value": identifier.tolist()}
        parts = np.empty((6, 5), np.float32)
        for first_row in (0, 3):
            made.fill(parts[first_row : first_row + 3], first_row, 6)
        assert np.array_equal(parts, identifier)
        for shape in ((5, 6), (6, 5, 1), (12, 5), (6,), ()):
            with pytest.raises(ValueError, match=r"`shape` must be \(6, 5\)"):
                made(shape)
    assert "(6, 5)" in repr(initializers.get(array))


def test_arrays_that_broadcast():
    row, column = np.arange(3.0), np.arange(4.0)[:, None]
    for value, shape in ((row, (4, 3)), ([0, 1, 2], (4, 3)), (row[None], (4, 3)), (column, (4, 3)), (row, (2, 4, 3))):
        assert np.array_equal(Constant(value)(shape), np.broadcast_to(value, shape))
    for value, shape in ((row, (3, 4)), (column, (3, 3)), (np.ones((1, 4, 3)), (4, 3)), (row, ())):
        with pytest.raises(ValueError, match="`value` must broadcast"):
            Constant(value)(shape)
    for name in ("__numpy__", "__tensor__"):
        envelope = {"class_name": name, "config": {"value": [1.0, 2.0], "dtype": "float32"}}
        assert np.array_equal(Constant(envelope)((1, 2)), [[1, 2]])


def test_arrays_in_configs_have_a_limit():
    made = initializers.get(np.zeros((2**10 + 1, 2**10), bool))
    for config in (made.get_config, made.legacy_config):
        with pytest.raises(ValueError, match="`weights=`"):
            config()


def halves(shape, dtype=None):
    return np.full(shape, 0.5, dtype)


class Halves:
    """As Keras users write them."""

    def __call__(self, shape, dtype=None):
        return np.full(shape, 0.5, dtype)

    def get_config(self):
        return {}


class OurHalves(Initializer):
    def __call__(self, shape, dtype=None):
        return [[0.5] * shape[1]] * shape[0]


@pytest.mark.parametrize(
    "identifier",
    [halves, lambda shape, dtype: halves(shape), Halves(), Halves, OurHalves(), OurHalves],
    ids=["function", "lambda", "object", "class", "initializer", "class of initializers"],
)
def test_functions(identifier):
    table = Embedding(6, 5, identifier).embeddings.numpy()
    assert (table == 0.5).all()
    made = initializers.get(identifier)
    assert initializers.get(made) is made
    assert np.shape(made((2, 3))) == (2, 3)
    assert repr(made)


def test_functions_have_no_config():
    made = initializers.get(halves)
    assert made.stands_for is halves
    with pytest.raises(TypeError, match=r"a function has no config; .* Received: Function\(halves\)"):
        made.get_config()
    with pytest.raises(TypeError, match="must be registered"):
        fastembed.serialization.serialize(made)
    assert initializers.get(Halves()).get_config() == {}


@fastembed.register_serializable("tests")
def quarters(shape, dtype=None):
    return np.full(shape, 0.25, dtype)


@fastembed.register_serializable("tests")
class Quarters(Halves):
    def __call__(self, shape, dtype=None):
        return quarters(shape, dtype)


@pytest.mark.parametrize("identifier", [quarters, Quarters(), Quarters], ids=["function", "object", "class"])
def test_what_is_registered_has_one(identifier):
    layer = Embedding(6, 5, identifier)
    for config in (layer.get_config(), json.loads(json.dumps(layer.get_config()))):
        again = Embedding.from_config(config)
        assert (again.embeddings.numpy() == 0.25).all()
        assert again.get_config() == layer.get_config()
    for version in (2, 3):
        envelope = fastembed.serialization.serialize(layer.embeddings_initializer, version)
        assert (initializers.get(envelope)((2, 3)) == 0.25).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda shape: np.ones(shape),
        lambda shape, dtype: np.ones(shape[::-1]),
        lambda shape, dtype: 1.0,
        lambda shape, dtype: None,
        lambda shape, dtype: np.full(shape, "a"),
        lambda shape, dtype: np.ones(shape, complex),
    ],
)
def test_functions_that_fail(function):
    table = np.full((4, 3), 7, np.float32)
    with pytest.raises((TypeError, ValueError)):
        initializers.get(function).fill(table)
    assert (table == 7).all()


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        "glorot",
        "UNIFORM",
        "Initializer",
        "os.system",
        3,
        1.5,
        True,
        [],
        dict,
        np.zeros(3, complex),
        np.array(["a"]),
        np.array([None]),
        fastembed.optimizers.SGD(),
        {},
        {"class_name": None},
        {"class_name": ["Zeros"]},
        {"class_name": "Uniform"},
        {"class_name": "Function", "config": {"function": "print"}},
        {"class_name": "Zeros", "config": 3},
        {"class_name": "Zeros", "config": {"value": 1}},
        {"class_name": "Zeros", "config": {1: 1}},
        {"config": {}},
    ],
    ids=str,
)
def test_unknown(identifier):
    for use in (initializers.get, lambda x: Embedding(3, 2, x)):
        with pytest.raises((ValueError, TypeError)):
            use(identifier)


@pytest.mark.parametrize("name", DEFAULTS)
def test_unknown_keys(name):
    with pytest.raises(TypeError, match="'nobody'"):
        getattr(initializers, name).from_config({"nobody": 1})


HUGE = 10**400
HOSTILE = [
    HUGE,
    -HUGE,
    10**5000,
    "1",
    "",
    b"1",
    None,
    True,
    1j,
    {},
    {"class_name": "SeedGenerator"},
    {"class_name": "SeedGenerator", "config": {"seed": "1"}},
    {"class_name": "SeedGenerator", "config": {"seed": 1, "more": 1}},
    {"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}},
    {"class_name": "__numpy__", "config": {"value": ["os"], "dtype": "float32"}},
    {"class_name": "__numpy__", "config": {"value": [HUGE], "dtype": "int8"}},
    {"class_name": "__numpy__", "config": {"value": [[1], [1, 2]], "dtype": "int8"}},
    {"class_name": "__numpy__", "config": {"value": [1], "dtype": ["float32"]}},
    {"class_name": "__numpy__", "config": None},
    {"class_name": "Zeros", "config": {}},
    [],
    [None],
    [{}],
    [HUGE],
    [[1], [1, 2]],
    float("nan"),
    float("inf"),
    1e39,
    -1e300,
    object(),
    np.array([1, 2]),
    np.bool_(True),
]
NUMBERS = {
    "RandomUniform": ["minval", "maxval"],
    "RandomNormal": ["mean", "stddev"],
    "TruncatedNormal": ["mean", "stddev"],
    "VarianceScaling": ["scale", "mode", "distribution"],
    "Identity": ["gain"],
    "Orthogonal": ["gain"],
}


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_hostile_values(value):
    for name, arguments in NUMBERS.items():
        for argument in arguments:
            with pytest.raises((ValueError, TypeError)):
                getattr(initializers, name).from_config({argument: value})


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_hostile_seeds_axes_and_constants(value):
    """Some are good: an axis list may be empty, a seed as large as one likes, a constant not finite."""
    for make, argument in (
        (RandomUniform, "seed"),
        (Orthogonal, "seed"),
        (initializers.HeNormal, "input_axes"),
        (initializers.VarianceScaling, "output_axes"),
        (Constant, "value"),
    ):
        try:
            made = make.from_config({argument: value})
            if not (make is Constant and isinstance(made.value, np.ndarray)):
                made((3, 2))
        except (ValueError, TypeError) as error:
            assert str(error)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        ("RandomUniform", {"minval": 1.0, "maxval": 0.0}, "`minval` must not exceed `maxval`"),
        ("RandomUniform", {"minval": "0"}, "`minval` must be a finite number, within float32. Received: minval='0'"),
        ("RandomNormal", {"stddev": -1}, "`stddev` must be at least 0"),
        ("RandomNormal", {"mean": 1e39}, r"`mean` must be a finite number, within float32. Received: mean=1e\+39"),
        ("TruncatedNormal", {"stddev": np.nan}, "`stddev` must be a finite number, .*Received: stddev=nan"),
        ("VarianceScaling", {"scale": 0}, "`scale` must be greater than 0. Received: scale=0"),
        ("VarianceScaling", {"mode": "fan"}, r"`mode` must be one of \['fan_in', .*Received: mode='fan'"),
        ("VarianceScaling", {"distribution": "t"}, "`distribution` must be one of .*Received: distribution='t'"),
        ("GlorotUniform", {"input_axes": 0}, "`input_axes` must be a list of integers or None. Received: input_axes=0"),
        ("GlorotUniform", {"output_axes": [0.5]}, "`output_axes` must be a list of integers"),
        ("Orthogonal", {"seed": 1.5}, "`seed` must be an integer, None or .*Received: seed=1.5"),
        ("Orthogonal", {"gain": np.inf}, "`gain` must be a finite number"),
        ("Constant", {"value": "1"}, "`value` must be a number, within float32. Received: value='1'"),
        ("Constant", {"value": {"a": 1}}, "`value` must be a number or an array"),
    ],
)
def test_messages(make, arguments, message):
    for build in (getattr(initializers, make), lambda **given: getattr(initializers, make).from_config(given)):
        with pytest.raises((ValueError, TypeError), match=message):
            build(**arguments)


def test_zeros_and_ones_take_no_value():
    for cls in (Zeros, Ones):
        assert cls().get_config() == {}
        with pytest.raises(TypeError):
            cls(3.0)
