"""The same initializers in Keras 3, where it is installed: configs to the letter, both ways; limits and deviations.

Do not break: values are not compared, as every library has its own random numbers.
"""

import json

import numpy as np
import pytest
from peers import load_keras

import fastembed
from fastembed import Embedding, initializers

keras = load_keras()
pytestmark = pytest.mark.filterwarnings("ignore")

ARGUMENTS = [
    ("Constant", {}),
    ("Constant", {"value": 2}),
    ("Constant", {"value": np.arange(6.0).reshape(2, 3)}),
    ("Constant", {"value": np.arange(3, dtype="int32")}),
    ("Zeros", {}),
    ("Ones", {}),
    ("Identity", {}),
    ("RandomUniform", {}),
    ("RandomUniform", {"minval": -2, "maxval": 3.5, "seed": 5}),
    ("RandomNormal", {}),
    ("RandomNormal", {"mean": 1, "stddev": 2.0, "seed": 5}),
    ("TruncatedNormal", {}),
    ("TruncatedNormal", {"mean": 1, "stddev": 2.0, "seed": 5}),
    ("VarianceScaling", {}),
    ("VarianceScaling", {"scale": 2, "mode": "fan_avg", "distribution": "uniform", "seed": 5}),
    ("VarianceScaling", {"distribution": "Normal", "input_axes": [0], "output_axes": [1]}),
    *((name, {}) for name in ("GlorotUniform", "GlorotNormal", "HeUniform", "HeNormal", "LecunUniform", "LecunNormal")),
    ("GlorotUniform", {"seed": 5, "input_axes": [0], "output_axes": [1]}),
    ("Orthogonal", {}),
    ("Orthogonal", {"gain": 2, "seed": 5}),
]


def items(config):
    """Keys and values, in order, all the way down."""
    return json.dumps(config)


@pytest.mark.parametrize(("name", "arguments"), ARGUMENTS, ids=str)
def test_configs(name, arguments):
    ours, theirs = getattr(initializers, name)(**arguments), getattr(keras.initializers, name)(**arguments)
    assert items(ours.get_config()) == items(theirs.get_config())
    envelope = keras.initializers.serialize(theirs)
    assert fastembed.serialization.serialize(ours) == envelope
    for again in (initializers.get(envelope), type(ours).from_config(theirs.get_config()), initializers.get(theirs)):
        assert type(again) is type(ours)
        assert items(again.get_config()) == items(ours.get_config())
    back = keras.initializers.get(fastembed.serialization.serialize(ours))
    assert type(back) is type(theirs)
    assert items(back.get_config()) == items(theirs.get_config())
    assert type(initializers.get(type(theirs))) is type(ours)


def test_gain_of_the_identity():
    """Keras reads it and does not write it; we do both."""
    ours = initializers.Identity(2.5)
    theirs = keras.initializers.get(fastembed.serialization.serialize(ours))
    assert np.array_equal(keras.ops.convert_to_numpy(theirs((3, 4))), ours((3, 4)))


def test_names():
    from keras.src.initializers import ALL_OBJECTS_DICT as theirs

    for name, cls in theirs.items():
        if cls.__name__ == "STFT":
            with pytest.raises(ValueError, match="three dimensions"):
                initializers.get(name)
        elif cls.__name__ != "Initializer":
            assert type(initializers.get(name)).__name__ == cls.__name__
            if cls.__name__ != "Constant":  # a KeyError there
                ours, made = initializers.get(name), keras.initializers.get(name)
                assert items(ours.get_config()) == items(made.get_config())


def test_stft_is_refused():
    for identifier in (keras.initializers.STFT(), keras.initializers.STFT):
        with pytest.raises(ValueError, match="three dimensions"):
            initializers.get(identifier)


def test_seed_generators():
    theirs = keras.initializers.HeNormal(seed=keras.random.SeedGenerator(5))
    ours = initializers.get(keras.initializers.serialize(theirs))
    assert items(ours.get_config()) == items(theirs.get_config())
    assert (ours((20, 3)) != ours((20, 3))).all()
    assert items(initializers.HeNormal(seed=theirs.seed).get_config()) == items(theirs.get_config())
    back = keras.initializers.get(fastembed.serialization.serialize(ours))
    assert back.seed.get_config() == theirs.seed.get_config()
    a, b = (keras.ops.convert_to_numpy(back((20, 3))) for _ in range(2))
    assert (a != b).all()


@pytest.mark.parametrize("shape", [(2000, 30), (30, 2000), (3, 10, 20, 100), (60_000,)], ids=str)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, arguments) for name, arguments in ARGUMENTS if name.endswith(("Uniform", "Normal", "Scaling"))],
    ids=str,
)
def test_ranges_and_deviations(name, arguments, shape):
    """60,000 values on either side: their extremes and standard deviations."""
    arguments = {**arguments, "seed": 7}
    ours = getattr(initializers, name)(**arguments)
    theirs = getattr(keras.initializers, name)(**arguments)
    if "input_axes" in arguments and len(shape) < 2:
        with pytest.raises(ValueError, match="must be axes of the shape"):
            ours(shape)
        return
    a, b = ours(shape).astype(float), keras.ops.convert_to_numpy(theirs(shape)).astype(float)
    assert abs(a.std() / b.std() - 1) < 0.02
    assert abs(a.mean() - b.mean()) < 6 * b.std() / np.sqrt(60_000)
    if name != "RandomNormal":
        assert abs(a.max() - b.max()) < 0.01 * (b.max() - b.min())
        assert abs(a.min() - b.min()) < 0.01 * (b.max() - b.min())


@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (7, 7), (3, 4, 5)], ids=str)
def test_orthogonal(shape):
    """Both are orthonormal in the same way."""
    ours = initializers.Orthogonal(2.0, seed=1)(shape).reshape(-1, shape[-1])
    theirs = keras.ops.convert_to_numpy(keras.initializers.Orthogonal(2.0, seed=1)(shape)).reshape(-1, shape[-1])
    for gram in (lambda m: m.T @ m, lambda m: m @ m.T):
        is_square = min(ours.shape) == len(gram(ours))
        if is_square:
            np.testing.assert_allclose(gram(ours), gram(theirs), atol=1e-5)


def test_instances_tensors_and_functions_of_keras():
    assert Embedding(6, 5, keras.initializers.GlorotNormal(seed=3)).get_config()["embeddings_initializer"] == (
        keras.initializers.serialize(keras.initializers.GlorotNormal(seed=3))
    )
    tensor = keras.ops.arange(6.0)
    assert np.array_equal(initializers.get(keras.ops.reshape(tensor, (2, 3)))((2, 3)), [[0, 1, 2], [3, 4, 5]])

    class Halves(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return keras.ops.full(shape, 0.5, dtype)

    for identifier in (Halves(), Halves, lambda shape, dtype: keras.ops.full(shape, 0.5, dtype)):
        assert (Embedding(6, 5, identifier).embeddings.numpy() == 0.5).all()


@pytest.mark.parametrize(("name", "arguments"), ARGUMENTS, ids=str)
def test_layers(name, arguments):
    """A layer's config goes to Keras and back."""
    theirs = keras.layers.Embedding(2, 3, getattr(keras.initializers, name)(**arguments))
    ours = Embedding.from_config(theirs.get_config())
    assert ours.get_config() == theirs.get_config()
    back = keras.layers.Embedding.from_config(json.loads(json.dumps(ours.get_config())))
    back.build()
    assert back.get_config() == theirs.get_config()
    if name in ("Constant", "Zeros", "Ones", "Identity"):
        assert np.array_equal(keras.ops.convert_to_numpy(back.embeddings), ours.embeddings.numpy())
