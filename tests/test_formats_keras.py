"""Files of real Keras 3 load here with equal bits, and ours load there, where it is installed.

Do not break: every file is written by one side and read by the other; the tables are compared bit by bit.
"""

import json
import os
import zipfile

import numpy as np
import pytest
from peers import peer

import fastembed
from fastembed import Embedding, EmbeddingBag, formats, initializers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = peer("keras")
layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")

V, D = 20, 5


def bits(value):
    """The bytes of our table, or of the first weight of their layer or model."""
    if isinstance(value, Embedding):
        return value.embeddings.numpy().tobytes()
    return np.ascontiguousarray(value.get_weights()[0]).tobytes()


def save(model, path):
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def embeddings():
    """A model with an Embedding at every kind of place, and the layers by name."""
    ids, more = layers.Input((3,), dtype="int32"), layers.Input((3,))
    named = {
        "user": layers.Embedding(V, D, name="user", mask_zero=True),
        "item": layers.Embedding(V, D, name="item", trainable=False),
        "inner": layers.Embedding(7, 4, name="inner", embeddings_initializer="normal"),
        "deep": layers.Embedding(6, 3, name="deep"),
        "same": layers.Embedding(5, 2, name="same", embeddings_initializer=keras.initializers.Constant(0.5)),
        "wrapped": layers.Embedding(4, 2, name="wrapped"),
    }
    deeper = keras.Sequential([named["deep"], layers.Dense(2)], name="deeper")
    sub = keras.Sequential([layers.Input((3,)), named["inner"], layers.Dense(3), layers.Flatten()], name="sub")
    entry = layers.Input((3,))
    functional = keras.Model(entry, layers.Concatenate()([deeper(entry), named["same"](entry)]), name="functional_part")
    wrapped = layers.TimeDistributed(named["wrapped"], name="wrap")(layers.Reshape((3, 1))(ids))
    joined = layers.Concatenate()([named["user"](ids), named["item"](more)])
    model = keras.Model([ids, more], [joined, sub(ids), functional(more), layers.Dense(1)(wrapped)])
    model.compile("adam", "mse")
    return model, named


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_their_sequential(suffix, tmp_path):
    model = keras.Sequential([layers.Embedding(V, D, name="items", mask_zero=True)])
    model.build((None, None))
    layer = formats.load(save(model, tmp_path / f"a{suffix}"))
    assert bits(layer) == bits(model)
    assert layer.name == "items"
    ids = np.array([[0, 3, 19], [7, 7, 1]])
    assert np.array_equal(layer(ids), keras.ops.convert_to_numpy(model(ids)))
    if suffix == ".weights.h5":
        return
    theirs, ours = model.layers[0].get_config(), layer.get_config()
    assert {key: ours[key] for key in theirs} == json.loads(json.dumps(theirs))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_their_models_inside_models(suffix, tmp_path):
    model, named = embeddings()
    path = save(model, tmp_path / f"a{suffix}")
    with pytest.raises(ValueError, match="`name` must be that of one Embedding of the file") as info:
        formats.load(path)
    for name, theirs in named.items():
        if name == "wrapped" and suffix == ".weights.h5":  # its place says only: the layer of a wrapper
            assert bits(formats.load(path, name="wrapped")) == bits(theirs)
            continue
        layer = formats.load(path, name=name)
        assert bits(layer) == bits(theirs), name
        assert repr(name) in str(info.value)
        if suffix != ".weights.h5":
            assert (layer.mask_zero, layer.trainable) == (theirs.mask_zero, theirs.trainable)
            assert type(layer.embeddings_initializer).__name__ == type(theirs.embeddings_initializer).__name__


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_their_models_of_a_class(suffix, tmp_path):
    """No layer in the config of the model: by the weights alone."""

    @keras.saving.register_keras_serializable("fastembed_tests")
    class Words(layers.Embedding):
        pass

    @keras.saving.register_keras_serializable("fastembed_tests")
    class Mine(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.table = layers.Embedding(V, D)
            self.words = Words(V, 2, name="special")

        def call(self, ids):
            return self.table(ids), self.words(ids)

    model = Mine()
    model(np.zeros((1, 2), "int32"))
    path = save(model, tmp_path / f"a{suffix}")
    assert bits(formats.load(path, name="special")) == bits(model.words)
    assert bits(formats.load(path, name=model.table.name)) == bits(model.table)


def test_their_registered_subclass_in_a_model(tmp_path):
    @keras.saving.register_keras_serializable("fastembed_tests", name="Embedding")
    class Other(layers.Embedding):
        pass

    model = keras.Sequential([layers.Input((3,)), Other(V, D, name="other"), layers.Dense(2)])
    path = save(model, tmp_path / "a.keras")
    with pytest.raises(ValueError, match="`path` must hold an Embedding"):
        formats.load(path)
    assert bits(formats.load(path, name="other")) == bits(model)


def test_their_shared_layer(tmp_path):
    shared = layers.Embedding(V, D, name="shared")
    ids = layers.Input((3,))
    parts = [keras.Sequential([layers.Input((3,)), shared], name=name) for name in ("left", "right")]
    model = keras.Model(ids, [part(ids) for part in parts])
    for suffix in (".keras", ".weights.h5"):
        assert bits(formats.load(save(model, tmp_path / f"a{suffix}"))) == bits(shared)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_their_lora_is_merged(suffix, tmp_path, rng):
    model = keras.Sequential([layers.Input((3,)), layers.Embedding(V, D, name="items")])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_embeddings_b.assign(rng.standard_normal((2, D)))
    layer = formats.load(save(model, tmp_path / f"a{suffix}"))
    ids = np.arange(V)[None, :3]
    assert np.allclose(layer(ids), keras.ops.convert_to_numpy(model(ids)), atol=1e-6)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_their_quantised_layers_are_refused(suffix, mode, tmp_path):
    model = keras.Sequential([layers.Input((3,)), layers.Embedding(V, 8, name="items")])
    model.quantize(mode)
    with pytest.raises(ValueError, match="quantised"):
        formats.load(save(model, tmp_path / f"a{suffix}"))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"])
def test_their_dtypes(dtype, suffix, tmp_path):
    """A mixed policy stores float32, and loads; the others are refused."""
    model = keras.Sequential([layers.Embedding(V, D, dtype=dtype)])
    model.build((None, 3))
    if dtype == "float64" != model.get_weights()[0].dtype:
        pytest.skip("JAX has no float64 here")
    path = save(model, tmp_path / f"a{suffix}")
    if dtype.startswith("mixed"):
        assert bits(formats.load(path)) == bits(model)
    else:
        with pytest.raises(TypeError, match=dtype):
            formats.load(path)


# ---- ours there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        Embedding(V, D, name="items", mask_zero=True),
        Embedding(V, D, initializers.RandomNormal(stddev=0.3, seed=3), trainable=False, input_length=3, padding_idx=2),
        Embedding(1, 1, "ones"),
        Embedding(50_000, 33, name="larger"),
        Embedding(V, D, dtype="mixed_float16"),
    ],
    ids=["plain", "frozen", "smallest", "larger", "mixed"],
)
def test_our_layer(layer, tmp_path, monkeypatch):
    monkeypatch.setattr(fastembed.saving, "CHUNK", 100_000)
    ids = np.array([[0, 0, 0], [0, layer.input_dim - 1, 0]])
    for suffix in (".keras", ".h5"):
        formats.save(layer, tmp_path / f"a{suffix}")
        model = keras.models.load_model(tmp_path / f"a{suffix}")
        assert type(model) is keras.Sequential
        (theirs,) = model.layers
        assert bits(theirs) == bits(layer)
        expected = layer.get_config()
        assert {key: theirs.get_config()[key] for key in ("name", "trainable", "mask_zero")} == {
            key: expected[key] for key in ("name", "trainable", "mask_zero")
        }
        assert theirs.get_config()["embeddings_initializer"] == expected["embeddings_initializer"]
        assert theirs.dtype_policy.name == layer.dtype_policy
        assert np.array_equal(keras.ops.convert_to_numpy(model(ids)), layer(ids))
        again = save(model, tmp_path / f"again{suffix}")
        assert bits(formats.load(again)) == bits(layer)
    formats.save(layer, tmp_path / "a.weights.h5")
    for name in ("a.weights.h5", "a.keras", "a.h5"):
        model = keras.Sequential([keras.layers.Embedding(layer.input_dim, layer.output_dim)])
        model.build((None, None))
        model.load_weights(tmp_path / name)
        assert bits(model) == bits(layer), name


def test_our_bag_there(tmp_path):
    bag = EmbeddingBag(V, D)
    formats.save(bag, tmp_path / "a.weights.h5")
    model = keras.Sequential([keras.layers.Embedding(V, D)])
    model.build((None, None))
    model.load_weights(tmp_path / "a.weights.h5")
    assert bits(model) == bits(bag)


def test_ids_that_float32_has_not(tmp_path):
    """The model takes whole numbers: Keras's own input, float32, would look up 16,777,216 for this id."""
    layer = Embedding((1 << 24) + 2, 1, "zeros")
    layer.embeddings.numpy()[(1 << 24) + 1] = 7
    for suffix in (".keras", ".h5"):
        formats.save(layer, tmp_path / f"a{suffix}")
        model = keras.models.load_model(tmp_path / f"a{suffix}")
        assert keras.ops.convert_to_numpy(model(np.array([[(1 << 24) + 1]]))) == 7


def test_same_members_as_theirs(tmp_path):
    model = keras.Sequential([layers.Input((None,), dtype="int32"), layers.Embedding(V, D, name="items")])
    with zipfile.ZipFile(save(model, tmp_path / "theirs.keras")) as archive:
        theirs = {member.filename: member.compress_type for member in archive.infolist()}
    formats.save(Embedding(V, D, name="items"), tmp_path / "ours.keras")
    with zipfile.ZipFile(tmp_path / "ours.keras") as archive:
        assert {member.filename: member.compress_type for member in archive.infolist()} == theirs
