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


def quantised(dtype, mode, block=128, v=V, d=8, seed=0):
    """A model whose Embedding Keras has quantised (block: of int4, how many elements of a row share a scale)."""
    model = keras.Sequential([layers.Input((3,)), layers.Embedding(v, d, name="items", dtype=dtype)])
    model.layers[0].embeddings.assign(np.random.default_rng(seed).normal(0.1, 1, (v, d)))
    config = keras.quantizers.Int4QuantizationConfig(block_size=block) if mode == "int4" else None
    model.layers[0].quantize(mode, config=config)
    return model


def outputs(model, layer):
    """What look-ups of all rows return, theirs and ours, as float32."""
    ids = np.arange(layer.input_dim)
    theirs = keras.ops.convert_to_numpy(model.layers[0](keras.ops.convert_to_tensor(ids)))
    return np.asarray(theirs, np.float32), np.asarray(layer(ids), np.float32)


# How far a float32 of ours may be from theirs, which is a number of that dtype.
ROUNDING = {"float32": 1e-6, "bfloat16": 2**-8, "float16": 2**-10}


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
def test_their_int8(dtype, suffix, tmp_path):
    model = quantised(dtype, "int8")
    if suffix == ".h5" and dtype == "bfloat16":
        pytest.skip("Keras does not read such a file")
    layer = formats.load(save(model, tmp_path / f"a{suffix}"))
    assert layer.dtype == "int8"
    theirs, ours = outputs(model, layer)
    if suffix == ".weights.h5":  # which do not say a dtype
        np.testing.assert_allclose(ours, theirs, rtol=2**-7 if "bfloat16" in dtype else 1e-6)
        return
    np.testing.assert_allclose(ours, theirs, rtol=ROUNDING[dtype.removeprefix("mixed_")])
    if dtype == "mixed_bfloat16":
        assert layer(np.arange(3)).dtype.name == "bfloat16"
        assert np.mean(ours == theirs) > 0.99
    expected = json.loads(json.dumps(model.layers[0].get_config()))
    assert {key: layer.get_config()[key] for key in expected} == expected


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize(("d", "block"), [(8, 128), (7, 128), (8, None), (7, None), (1, 128), (40, 16), (33, 7)])
def test_their_int4(d, block, suffix, tmp_path, monkeypatch):
    """With one scale for a row it stays int4; with several, float32 has Keras's bits."""
    monkeypatch.setattr(fastembed.saving, "CHUNK", 3000)
    model = quantised("float32", "int4", block, 50, d)
    path = save(model, tmp_path / f"a{suffix}")
    if block is None and suffix == ".weights.h5":
        with pytest.raises(ValueError, match="nothing else says whether they are int8 or int4"):
            formats.load(path)
        return
    layer = formats.load(path)
    one = block is None or d <= block
    assert layer.dtype == ("int4" if one else "float32")
    assert layer.embeddings.shape == (50, d)
    theirs, ours = outputs(model, layer)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7 if one else 0)
    if not one:
        assert np.array_equal(ours, theirs)
        assert (layer.dtype_policy, layer.quantization_config, layer.trainable) == ("float32", None, True)
        assert layer.embeddings.trainable
    elif suffix != ".weights.h5":
        expected = json.loads(json.dumps(model.layers[0].get_config()))
        assert {key: layer.get_config()[key] for key in expected} == expected


@pytest.mark.parametrize("block", [128, None, 3])
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "mixed_float16", "float16"])
def test_their_int4_of_half_precision(dtype, block, tmp_path):
    model = quantised(dtype, "int4", block)
    layer = formats.load(save(model, tmp_path / "a.keras"))
    theirs, ours = outputs(model, layer)
    mixed = dtype.startswith("mixed_")
    assert layer(np.arange(3)).dtype.name == (dtype.removeprefix("mixed_") if mixed else "float32")
    np.testing.assert_allclose(ours, theirs, rtol=ROUNDING[dtype.removeprefix("mixed_")], atol=1e-7)
    if block == 3:
        assert layer.dtype_policy == dtype
    if block == 3 or (block and mixed):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_their_lora_of_quantised_layers(mode, suffix, tmp_path, rng):
    """In files of Keras 3 it is merged, and quantised again; in the layout of Keras 2 it stands beside the table."""
    model = quantised("float32", mode) if mode else keras.Sequential([layers.Input((3,)), layers.Embedding(V, 8)])
    model.layers[0].enable_lora(2, lora_alpha=3)
    model.layers[0].lora_embeddings_a.assign(rng.standard_normal((V, 2)))
    model.layers[0].lora_embeddings_b.assign(rng.standard_normal((2, 8)))
    layer = formats.load(save(model, tmp_path / f"a{suffix}"))
    assert layer.lora_enabled == (suffix == ".h5")
    if suffix != ".h5":  # what Keras itself reads there
        model = keras.models.load_model(save(model, tmp_path / "again.keras"))
    theirs, ours = outputs(model, layer)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16"])
def test_their_dtypes(dtype, suffix, tmp_path):
    model = keras.Sequential([layers.Embedding(V, D, dtype=dtype)])
    model.build((None, 3))
    if dtype == "float64" != model.get_weights()[0].dtype:
        pytest.skip("JAX has no float64 here")
    path = save(model, tmp_path / f"a{suffix}")
    if dtype == "float64" and dtype not in fastembed.dtypes.PLAIN:
        with pytest.raises(TypeError, match=dtype):
            formats.load(path)
        return
    layer = formats.load(path)
    assert bits(layer) == bits(model)
    assert layer.dtype == model.layers[0].variable_dtype
    if not (dtype.startswith("mixed_") and suffix == ".weights.h5"):  # which say no policy
        assert np.array_equal(*outputs(model, layer))


# ---- ours there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        Embedding(V, D, name="items", mask_zero=True),
        Embedding(V, D, initializers.RandomNormal(stddev=0.3, seed=3), trainable=False, input_length=3, padding_idx=2),
        Embedding(1, 1, "ones"),
        Embedding(50_000, 33, name="larger"),
        Embedding(V, D, dtype="mixed_float16"),
        Embedding(V, D, dtype="float16"),
        Embedding(1000, 33, "normal", dtype="bfloat16"),
    ],
    ids=["plain", "frozen", "smallest", "larger", "mixed", "float16", "bfloat16"],
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
        model = keras.Sequential([keras.layers.Embedding(layer.input_dim, layer.output_dim, dtype=layer.dtype_policy)])
        model.build((None, None))
        model.load_weights(tmp_path / name)
        assert bits(model) == bits(layer), name


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["int8", "int4", "int2"])
def test_our_quantised_layer(mode, policy, tmp_path, rng):
    """Keras gets the float32 table that it decodes to."""
    layer = Embedding(V, 7, "normal", dtype=policy, name="items")
    layer.quantize(mode)
    table = layer.embeddings.to_float32()
    for suffix in (".keras", ".h5", ".weights.h5"):
        formats.save(layer, tmp_path / f"a{suffix}")
        if suffix != ".weights.h5":
            model = keras.models.load_model(tmp_path / f"a{suffix}")
            assert model.layers[0].dtype_policy.name == ("float32" if policy == "float16" else policy)
            assert np.array_equal(model.get_weights()[0], table)
            assert np.array_equal(*outputs(model, layer))
        again = formats.load(tmp_path / f"a{suffix}")
        assert (again.dtype, again.embeddings.numpy().tobytes()) == ("float32", table.tobytes())


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
