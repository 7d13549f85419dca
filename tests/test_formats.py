"""Files of Keras without Keras: what we write we read, in chunks, whole or not at all; bad files raise.

May import: h5py. Do not break: the files of other writers are made here with h5py alone, as Keras 2.9.3 and 3.15.1 lay
them out (tests/test_formats_keras.py has real ones).
"""

import base64
import errno
import json
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from peers import peer

import fastembed
from fastembed import Embedding, EmbeddingBag, formats, initializers, saving
from fastembed.formats import hdf5

h5py = peer("h5py")

V, D = 30, 6
SUFFIXES = [".keras", ".weights.h5", ".h5", ".hdf5"]
WHERE = {".keras": "model.weights.h5", ".weights.h5": "layers/embedding/vars/0"}


def config(name="items", v=V, d=D, **more):
    return {"class_name": "Embedding", "config": {"name": name, "input_dim": v, "output_dim": d, **more}}


def model(*layers, name="model"):
    return {"class_name": "Functional", "config": {"name": name, "layers": list(layers)}}


def write(path, datasets, names=(), model_config=None):
    """An HDF5 file of arrays by place and of names by place; a .keras file around it where the suffix says so."""
    zipped = path.suffix == ".keras"
    inner = path.with_name("inner") if zipped else path
    with h5py.File(inner, "w") as file:
        for place, array in datasets.items():
            file[place] = array
        for place, name in dict(names).items():
            file[place].attrs["name"] = name
        if model_config and not zipped:
            file.attrs["model_config"] = json.dumps(model_config)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(model_config))
            archive.write(inner, "model.weights.h5")
        inner.unlink()
    return path


def table(layer):
    return layer.embeddings.numpy()


@pytest.fixture
def items(rng):
    return rng.standard_normal((V, D)).astype("float32")


# ---- what we write, we read --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "layer",
    [
        Embedding(V, D, name="a", mask_zero=True, trainable=False),
        Embedding(V, D, initializers.RandomNormal(stddev=2.0, seed=5), padding_idx=4),
        Embedding(1, 1, "ones", input_length=3),
        Embedding(70_000, 5),
        Embedding(70_000, 5, dtype="float16"),
        Embedding(V, D, "normal", dtype="bfloat16", padding_idx=4),
    ],
    ids=["masked", "padding", "smallest", "larger", "float16", "bfloat16"],
)
def test_round_trip(layer, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "CHUNK", 100_000)
    path = tmp_path / f"items{suffix}"
    formats.save(layer, str(path))
    assert os.listdir(tmp_path) == [path.name]
    loaded = formats.load(path)
    assert type(loaded) is Embedding
    assert loaded.built
    assert table(loaded).tobytes() == table(layer).tobytes()
    expected = layer.get_config()
    expected.pop("padding_idx", None)
    if suffix != ".h5" and suffix != ".hdf5":
        expected.pop("input_length", None)  # unknown to Keras 3
    if suffix == ".weights.h5":
        expected = Embedding(*layer.embeddings.shape, name=layer.name, dtype=layer.dtype).get_config()
    assert loaded.get_config() == expected
    assert loaded.embeddings.trainable == loaded.trainable
    formats.save(loaded, path)  # over it
    assert table(formats.load(path, name=layer.name)).tobytes() == table(layer).tobytes()


def test_bags_have_weights_only(tmp_path):
    bag = EmbeddingBag(V, D, "sum", name="bag")
    formats.save(bag, tmp_path / "bag.weights.h5")
    loaded = formats.load(tmp_path / "bag.weights.h5")
    assert type(loaded) is Embedding
    assert loaded.name == "bag"
    assert np.array_equal(table(loaded), table(bag))
    for suffix in (".keras", ".h5"):
        with pytest.raises(ValueError, match="Keras has no class EmbeddingBag"):
            formats.save(bag, tmp_path / f"bag{suffix}")
    assert os.listdir(tmp_path) == ["bag.weights.h5"]


def test_what_keras_does_not_know_stays_out(tmp_path):
    layer = Embedding(V, D, path=tmp_path / "rows.npy", padding_idx=3, input_length=4)
    formats.save(layer, tmp_path / "a.keras")
    formats.save(layer, tmp_path / "a.h5")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        assert [member.compress_type for member in archive.infolist()] == [zipfile.ZIP_STORED] * 3
        three = json.loads(archive.read("config.json"))["config"]["layers"][1]["config"]
    with h5py.File(tmp_path / "a.h5") as file:
        two = json.loads(file.attrs["model_config"])["config"]["layers"][1]["config"]
    assert set(two) - set(three) == {"input_length", "batch_input_shape"}
    assert {"padding_idx", "path", "quantization_config"} & set(two) == set()
    assert two["dtype"] == "float32"
    assert "module" not in two["embeddings_initializer"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "int4"])
def test_dtypes_and_places(dtype, suffix, tmp_path, monkeypatch):
    """A table of another dtype, in memory and in a new file: what encoding the rows gives."""
    monkeypatch.setattr(saving, "CHUNK", 1000)
    layer = Embedding(70, D, "normal", name="items", mask_zero=True)
    formats.save(layer, tmp_path / f"a{suffix}")
    expected = fastembed.Table((70, D), dtype)
    fastembed.ops.encode(expected.rows, table(layer))
    for path in (None, tmp_path / "table.npy"):
        seen = []
        about = {"dtype": dtype, "table_path": path, "progress": lambda *now, seen=seen: seen.append(now)}
        loaded = formats.load(tmp_path / f"a{suffix}", **about)
        assert (loaded.dtype, loaded.name, loaded.built) == (dtype, "items", True)
        assert loaded.mask_zero == (suffix != ".weights.h5")
        assert table(loaded).tobytes() == expected.numpy().tobytes()
        assert seen[-1] == (70, 70)
    assert isinstance(table(loaded), np.memmap)
    assert loaded.path == loaded.embeddings.path == str(tmp_path / "table.npy")
    (found,) = formats.find(tmp_path / f"a{suffix}")
    assert (found.title, found.shape, found.storage) == ("items", (70, D), "float32")
    assert np.array_equal(np.concatenate(list(found.blocks())), table(layer))
    with pytest.raises(FileExistsError, match="`table_path` must be free"):
        formats.load(tmp_path / f"a{suffix}", table_path=tmp_path / "table.npy")


def test_layers_in_files(tmp_path):
    """A table that lives in a file, or is mapped read-only, is written like any other, but never over itself."""
    formats.save(Embedding(V, D, "ones", path=tmp_path / "rows.npy"), tmp_path / "a.h5")
    Embedding(V, D, "ones").save(tmp_path / "saved")
    formats.save(fastembed.load(tmp_path / "saved", mmap_mode="r"), tmp_path / "b.keras")
    for name in ("a.h5", "b.keras"):
        assert (table(formats.load(tmp_path / name)) == 1).all()
    layer = Embedding(V, D, path=tmp_path / "rows.h5")
    layer.build()
    with pytest.raises(ValueError, match="must not be where the table is trained"):
        formats.save(layer, tmp_path / "rows.h5")


def test_suffixes(tmp_path):
    layer = Embedding(V, D, name="items")
    formats.save(layer, tmp_path / "A.KERAS")
    formats.save(layer, tmp_path / "plain", format="keras_weights")
    assert zipfile.is_zipfile(tmp_path / "A.KERAS")
    for name, format in (("A.KERAS", None), ("plain", "keras_weights"), ("plain", "keras")):  # content decides
        assert np.array_equal(table(formats.load(tmp_path / name, format)), table(layer))
    for call in (formats.load, lambda path: formats.save(layer, path)):
        with pytest.raises(ValueError, match=r"`path` must end in one of .*'\.weights\.h5'.* Received: path="):
            call(tmp_path / "plain")
    with pytest.raises(ValueError, match="`format` must be one of"):
        formats.load(tmp_path / "plain", format="hdf")
    with pytest.raises(TypeError, match="`name` must be a string or None"):
        formats.load(tmp_path / "A.KERAS", name=3)
    with pytest.raises(FileNotFoundError):
        formats.load(tmp_path / "missing.h5")


@pytest.mark.parametrize("name", ["a/b", "", "."])
def test_names_that_keras_refuses(name, tmp_path):
    layer = Embedding(V, D, name=name)
    for suffix in (".keras", ".h5"):
        with pytest.raises(ValueError, match=r"`layer\.name` must be one that Keras takes"):
            formats.save(layer, tmp_path / f"a{suffix}")
    formats.save(layer, tmp_path / "a.weights.h5")
    if name:
        assert formats.load(tmp_path / "a.weights.h5").name == name
    with pytest.raises(TypeError, match="`layer` must be an Embedding"):
        formats.save(object(), tmp_path / "b.h5")


# ---- which Embedding ---------------------------------------------------------------------------------


def test_weights_of_keras3(tmp_path, items):
    other = np.ones((4, 3), "float32")
    dense = {"layers/dense/vars/0": np.ones((D, 2), "float32"), "layers/dense/vars/1": np.ones(2, "float32")}
    inner = "layers/sequential/layers/embedding/vars/0"
    path = write(
        tmp_path / "a.weights.h5",
        {"layers/embedding/vars/0": items, inner: other, "layers/words/vars/0": other * 2, **dense},
        {"layers/embedding/vars": "items", "layers/words/vars": "mine"},
    )
    for name, expected in (
        ("items", items),
        ("layers/embedding", items),
        ("/layers/embedding/vars/0", items),
        ("embedding", other),  # as files before Keras 3.6, which have no names
        ("layers/sequential", other),
        ("mine", other * 2),  # of a class of its own
        ("layers/words", other * 2),
        ("layers/dense/vars/0", dense["layers/dense/vars/0"]),  # if they insist
    ):
        assert np.array_equal(table(formats.load(path, name=name)), expected), name
    assert formats.load(path, name="layers/embedding").name == "items"
    for name in (None, "dense", "layers", "nothing", ""):
        with pytest.raises(ValueError, match="`name` must be that of one Embedding") as info:
            formats.load(path, name=name)
        assert f"Received: name={name!r}" in str(info.value)
        assert "'items' at layers/embedding/vars/0, 'embedding' at layers/sequential/layers/embedding" in str(
            info.value
        )


def test_weights_of_keras2(tmp_path, items):
    """`embeddings:0` in the group of the layer, or of the model inside the model that it is in."""
    other = np.ones((4, 3), "float32")
    path = write(
        tmp_path / "a.h5",
        {
            "items/items/embeddings:0": items,
            "sub/inner/embeddings:0": other,
            "dense/dense/kernel:0": other,
            "dense/dense/bias:0": other[0],
        },
    )
    for name, expected in (("items", items), ("inner", other), ("sub", other), ("sub/inner/embeddings:0", other)):
        assert np.array_equal(table(formats.load(path, name=name)), expected), name
    assert formats.load(path, name="sub").name == "inner"
    with pytest.raises(ValueError, match=r"'items' at items/items/embeddings:0, 'inner' at sub/inner/embeddings:0$"):
        formats.load(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_whole_models(suffix, tmp_path, items):
    """Two layers of one name in models inside the model, a wrapper, a layer of a class that we do not know."""
    place = {
        ".keras": "layers/{}/vars/0".format,
        ".h5": {
            "embedding": "model_weights/items/items/embeddings:0",
            "sequential/layers/embedding": "model_weights/left/same/embeddings:0",
            "sequential_1/layers/embedding": "model_weights/right/same/embeddings:0",
            "time_distributed/layer": "model_weights/wrap/wrap/embeddings:0",
            "mine": "model_weights/mine/mine/embeddings:0",
        }.get,
    }[suffix]
    sides = [
        {"class_name": "Sequential", "config": {"name": n, "layers": [config("same", 2, 2)]}} for n in ("left", "right")
    ]
    wrap = {"class_name": "TimeDistributed", "config": {"name": "wrap", "layer": config("inside", 3, 2)}}
    custom = {"class_name": "Mine>Words", "config": {"name": "mine", "anything": [1, {"class_name": 3}]}}
    datasets = {
        place("embedding"): items,
        place("sequential/layers/embedding"): np.full((2, 2), 1, "float32"),
        place("sequential_1/layers/embedding"): np.full((2, 2), 2, "float32"),
        place("time_distributed/layer"): np.full((3, 2), 3, "float32"),
        place("mine"): np.full((5, 2), 4, "float32"),
    }
    path = write(
        tmp_path / f"a{suffix}",
        datasets,
        model_config=model(config(mask_zero=True, trainable=False), *sides, wrap, custom),
    )
    found = formats.load(path, name="items")
    assert np.array_equal(table(found), items)
    assert (found.mask_zero, found.trainable) == (True, False)
    assert (table(formats.load(path, name="inside")) == 3).all()
    assert (table(formats.load(path, name="mine")) == 4).all()
    for number, at in ((1, place("sequential/layers/embedding")), (2, place("sequential_1/layers/embedding"))):
        assert (table(formats.load(path, name=at)) == number).all()
        assert (table(formats.load(path, name=at.rpartition("/")[0])) == number).all()
    for name in (None, "same"):
        with pytest.raises(ValueError, match="`name` must be that of one Embedding") as info:
            formats.load(path, name=name)
        assert all(repr(each) in str(info.value) for each in ("items", "same", "inside"))


def test_a_shared_layer_is_one(tmp_path, items):
    """In the configs of two models, in the file of weights once."""
    shared = {"class_name": "Sequential", "config": {"name": "sub", "layers": [config()]}}
    datasets = {"layers/sequential/layers/embedding/vars/0": items}
    names = {"layers/sequential/layers/embedding/vars": "items"}
    path = write(tmp_path / "a.keras", datasets, names, model(shared, config()))
    assert np.array_equal(table(formats.load(path)), items)


def test_sequential_before_2_2_and_checkpoints_of_2_13(tmp_path, items):
    path = write(
        tmp_path / "a.h5",
        {"model_weights/items/items/embeddings:0": items},
        model_config={"class_name": "Sequential", "config": [config()]},
    )
    assert np.array_equal(table(formats.load(path)), items)
    path = write(
        tmp_path / "b.keras", {"_layer_checkpoint_dependencies/embedding/vars/0": items}, model_config=model(config())
    )
    assert np.array_equal(table(formats.load(path)), items)


def test_configs_of_both_kerases(tmp_path, items):
    """The keys that Keras 2.9.3 and 3.15.1 write, and policies that store float32."""
    initializer = {"class_name": "RandomUniform", "config": {"minval": -0.05, "maxval": 0.05, "seed": None}}
    nothing = dict.fromkeys(["embeddings_regularizer", "activity_regularizer", "embeddings_constraint"])
    common = {"trainable": True, "embeddings_initializer": initializer, "mask_zero": True, **nothing}
    two = {"batch_input_shape": [None, 3], "dtype": "float32", "input_length": 3, **common}
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}
    three = {"dtype": policy, "quantization_config": None, "lora_rank": 2, "lora_alpha": 2, **common}
    for number, given in enumerate((two, three)):
        path = write(
            tmp_path / f"{number}.keras", {"layers/embedding/vars/0": items}, model_config=model(config(**given))
        )
        layer = formats.load(path)
        assert (layer.dtype, layer.mask_zero, layer.input_length) == ("float32", True, 3 if number == 0 else None)


@pytest.mark.parametrize("shape", [(V, D), (70_001, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize(
    "storage", [{}, {"chunks": True, "compression": "gzip"}, {"chunks": (7, 2)}, {"chunks": (30, 3)}]
)
def test_other_layouts(storage, dtype, shape, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(saving, "CHUNK", 1000)
    array = rng.standard_normal(shape).astype(dtype)
    if storage.get("chunks") == (7, 2):
        array = array[:500]
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file.create_dataset("layers/embedding/vars/0", data=array, **storage)
    loaded = table(formats.load(tmp_path / "a.weights.h5"))
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, array)


def test_a_compressed_keras_file(tmp_path):
    layer = Embedding(2000, D, name="items")
    formats.save(layer, tmp_path / "a.keras")
    with (
        zipfile.ZipFile(tmp_path / "a.keras") as archive,
        zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert np.array_equal(table(formats.load(tmp_path / "b.keras")), table(layer))
    assert sorted(os.listdir(tmp_path)) == ["a.keras", "b.keras"]


# ---- bad files ---------------------------------------------------------------------------------------


def refuses(path, message, kind=ValueError, name=None):
    with pytest.raises(kind, match=message) as info:
        formats.load(path, name=name)
    assert "`path` must " in str(info.value)
    assert "Received: " in str(info.value)


@pytest.mark.parametrize("dtype", ["float64", "uint16", "int32", "complex64", "S4", "O", "V4"])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_other_dtypes(suffix, dtype, tmp_path):
    """Nothing is converted quietly; the message says what the file holds."""
    path = tmp_path / f"a{suffix}"
    array = np.array([["a"] * D] * V, dtype=h5py.string_dtype()) if dtype == "O" else np.zeros((V, D), dtype)
    write(path, {"layers/embedding/vars/0": array}, model_config=model(config()))
    if dtype in fastembed.dtypes.PLAIN:
        refuses(path, f"must hold float32 of shape .* is {dtype} of shape")
        return
    found = {"S4": "bytes", "O": "", "V4": "void"}.get(dtype, dtype)
    refuses(path, rf"one of \['bfloat16', 'float16', .*'float32'.*\]\. Received: .* is {found}", TypeError)
    if suffix == ".weights.h5" and dtype == "uint16":  # as which the attribute does not mean it
        with h5py.File(path, "a") as file:
            file["layers/embedding/vars/0"].attrs["dtype"] = "bfloat16"
        refuses(path, "is uint16", TypeError)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("storage", [{}, {"chunks": (7, 2), "compression": "gzip"}], ids=["plain", "chunks"])
def test_half_precision(storage, dtype, suffix, tmp_path, items, monkeypatch):
    """As Keras lays it out: bfloat16 as two bytes without a meaning, with an attribute."""
    monkeypatch.setattr(saving, "CHUNK", 100)
    expected = fastembed.Table((V, D), dtype)
    expected.assign(items)
    array = expected.numpy() if dtype == "float16" else expected.numpy().view("V2")
    inner = tmp_path / "inner.weights.h5"
    with h5py.File(inner, "w") as file:
        file.create_dataset("layers/embedding/vars/0", data=array, **storage)
        file["layers/embedding/vars/0"].attrs["dtype"] = dtype
    if suffix == ".keras":
        with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
            archive.writestr("config.json", json.dumps(model(config(name="embedding", dtype=dtype))))
            archive.write(inner, "model.weights.h5")
        inner = tmp_path / "a.keras"
    loaded = formats.load(inner)
    assert (loaded.dtype, loaded.dtype_policy) == (dtype, dtype)
    assert table(loaded).tobytes() == expected.numpy().tobytes()
    assert np.array_equal(loaded([0, 29]), expected[[0, 29]])
    with h5py.File(tmp_path / "b.weights.h5", "w") as file:
        data = np.zeros((V, D), ">f2" if dtype == "float16" else "V2")
        data[...] = array
        file["layers/embedding/vars/0"] = data
    assert table(formats.load(tmp_path / "b.weights.h5")).tobytes() == expected.numpy().tobytes()


def test_a_dtype_that_is_not_the_configs(tmp_path, items):
    halves = items.astype("float16")
    for dtype, array in (("float16", items), ("float32", halves), ("float32", halves.view("V2")), ("bfloat16", halves)):
        path = write(tmp_path / "a.keras", {"layers/embedding/vars/0": array}, model_config=model(config(dtype=dtype)))
        refuses(path, f"must hold {dtype} of shape .* as its config says")
    path = write(
        tmp_path / "a.keras", {"layers/embedding/vars/0": items}, model_config=model(config(dtype="int8_from_float32"))
    )
    refuses(path, "must hold int8 of shape .* as its config says")
    for dtype in ("float32", "float16", "int2_from_float32"):
        for d in (1, D):
            path = quantised(tmp_path / "a.keras", "", (halves[:, :d].astype("int8"), items[:, 0]), dtype=dtype, d=d)
            refuses(path, f"must hold the parts of one {dtype[:4]}.* table, as its config says")


# ---- quantised tables --------------------------------------------------------------------------------

PARTS = ("embeddings", "embeddings_scale", "embeddings_zero", "g_idx")
PLACES = {
    ".keras": [f"layers/embedding/vars/{number}" for number in range(4)],
    ".h5": [f"model_weights/items/s/items/{name}" for name in PARTS],
}
PLACES[".weights.h5"] = PLACES[".keras"]


def quantised(path, mode, parts, source="float32", **more):
    """A file of a layer that Keras has quantised."""
    kind = "Int4DTypePolicy" if "/" in mode else "QuantizedDTypePolicy"
    policy = {"class_name": kind, "config": {"mode": mode, "source_name": source}}
    places = PLACES["".join(path.suffixes)]
    return write(
        path, dict(zip(places, parts, strict=False)), model_config=model(config(**{"dtype": policy, "d": D, **more}))
    )


@pytest.fixture
def int8(rng):
    """Codes and scales as Keras makes them."""
    codes = rng.integers(-127, 128, (V, D)).astype("int8")
    codes[:, 3] = 127
    return codes, rng.uniform(0.1, 30, V).astype("float32")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("form", ["envelope", "name"])
def test_int8(form, suffix, tmp_path, int8, monkeypatch):
    monkeypatch.setattr(saving, "CHUNK", 1000)
    codes, scale = int8
    more = {"dtype": "int8_from_float32"} if form == "name" else {}
    layer = formats.load(quantised(tmp_path / f"a{suffix}", "int8", int8, **more))
    assert (layer.dtype, layer.dtype_policy, layer.embeddings.trainable) == ("int8", "int8_from_float32", False)
    np.testing.assert_allclose(layer(np.arange(V)), codes / scale[:, None], rtol=2e-7)
    for mode in ("int4", "int4/128"):
        refuses(quantised(tmp_path / f"a{suffix}", mode, int8), "must hold the parts of one int4 table, as its config")


def test_int8_of_weights_alone(tmp_path, int8, rng):
    """Codes that reach 127, as Keras's do, are int8; others might be two of int4."""
    codes, scale = int8
    path = tmp_path / "a.weights.h5"
    codes[:3] = 0
    places = PLACES[".keras"]
    layer = formats.load(write(path, {places[0]: codes, places[1]: scale}))
    assert (layer.dtype, layer.embeddings.shape) == ("int8", (V, D))
    np.testing.assert_allclose(layer(np.arange(V)), codes / scale[:, None], rtol=2e-7)
    codes[: V // 2 + 3, 3] = 12
    codes[codes == 127] = 100
    refuses(write(path, {places[0]: codes, places[1]: scale}), "nothing else says whether they are int8 or int4")


def int4(rng, d, groups):
    """The parts of an int4 table as Keras stores it (groups 0: without zeros), and its elements."""
    codes = rng.integers(-8, 8, (V, d)).astype("int8")
    padded = np.pad(codes, ((0, 0), (0, d % 2)))
    packed = (padded[:, ::2] & 15) | (padded[:, 1::2] << 4)
    if not groups:
        scale = rng.uniform(0.1, 30, V).astype("float32")
        return (packed, scale), codes / scale[:, None]
    scale = rng.uniform(0.1, 30, (V, groups)).astype("float32")
    zero = rng.integers(-8, 8, (V, groups)).astype("int8")
    group = np.arange(d, dtype="float32") * groups // d
    of_d = group.astype(int)
    return (packed, scale, zero, group), (codes - zero.astype("float32")[:, of_d]) * scale[:, of_d]


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("groups", [0, 1, 3])
@pytest.mark.parametrize("d", [6, 7])
def test_int4(d, groups, suffix, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(saving, "CHUNK", 1000)
    parts, values = int4(rng, d, groups)
    if suffix == ".weights.h5":
        if not groups:
            return
        path = write(tmp_path / f"a{suffix}", dict(zip(PLACES[".keras"], parts, strict=True)))
    else:
        mode = {0: "int4/-1", 1: "int4/128", 3: "int4/2"}[groups]
        path = quantised(tmp_path / f"a{suffix}", mode, parts, d=d)
    layer = formats.load(path)
    assert layer.embeddings.shape == (V, d)
    assert layer.dtype == ("float32" if groups == 3 else "int4")
    if groups == 3:
        assert table(layer).tobytes() == values.tobytes()
    else:
        np.testing.assert_allclose(layer(np.arange(V)), values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_dtypes_of_quantised_tables(suffix, tmp_path, int8):
    """Codes stay codes."""
    path = quantised(tmp_path / f"a{suffix}", "int8", int8)
    assert formats.load(path, dtype="int8", table_path=tmp_path / "table.npy").dtype == "int8"
    for dtype in ("float32", "int4"):
        with pytest.raises(ValueError, match="`dtype` must be None or 'int8' for this table"):
            formats.load(path, dtype=dtype)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_damaged_quantised_tables(suffix, tmp_path, int8, rng):
    path = tmp_path / f"a{suffix}"
    codes, scale = int8
    for parts in ((codes,), (codes, scale[:-1]), (codes, scale[:, None]), (codes, codes), (codes[:, 1:], scale)):
        refuses(quantised(path, "int8", parts), "must hold ", (ValueError, TypeError))
    for wrong in (0, np.nan, 1e-45):
        scale[4] = wrong
        refuses(quantised(path, "int8", (codes, scale)), "must hold finite scales")
    (packed, scale, zero, group), _ = int4(rng, D, 2)
    good = packed, scale, zero, group
    assert formats.load(quantised(path, "int4/3", good)).dtype == "float32"
    for at, wrong in (
        (0, packed[:, 1:]),
        (0, packed[1:]),
        (1, scale[:, :1]),
        (1, scale[:, 0]),
        (2, zero[:, :1]),
        (2, zero[:, 0]),
        (2, zero.astype("float32")),
        (3, group[1:]),
        (3, group + 1),
        (3, group - 1),
        (3, group + 0.5),
        (3, group * np.nan),
        (3, group[None]),
    ):
        parts = [wrong if at == i else part for i, part in enumerate(good)]
        refuses(quantised(path, "int4/3", parts), "must hold ", (ValueError, TypeError))
    for shape in ((), (V, 2, 1), (0, 2), (V, D + 1)):
        parts = packed, np.ones(shape, "float32"), np.ones(shape, "int8"), group
        refuses(quantised(path, "int4/3", parts), "must hold the parts of one int4 table")
    refuses(quantised(path, "int4/3", good[:3]), "must hold the scales of a quantised table")
    refuses(quantised(path, "int8", good), "must hold the parts of one int8 table")
    refuses(quantised(path, "int4/3", good, v=V + 1), "must hold the parts of one int4 table")
    for mode in ("int2", "float8", "gptq/4/128", "int4/0", "int4/x", "int3"):
        refuses(quantised(path, mode, good), "must hold ", (ValueError, TypeError))
    refuses(quantised(path, "int4/3", good, quantization_config={"a": 1}), "`quantization_config` must be")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["items/embeddings"] = codes
        file.create_group("items/embeddings_scale")
    refuses(tmp_path / "b.h5", "must hold an array")


@pytest.mark.parametrize("mode", ["int8", "int4", "int2"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_our_quantised_layers_are_written_as_float32(suffix, mode, tmp_path, monkeypatch):
    """With offsets, which Keras's tables have not; and LoRA merged."""
    layer = Embedding(V, 5, "normal", name="items")
    layer.quantize(mode)
    formats.save(layer, tmp_path / f"a{suffix}")
    loaded = formats.load(tmp_path / f"a{suffix}")
    assert (loaded.dtype, loaded.dtype_policy) == ("float32", "float32")
    assert table(loaded).tobytes() == layer.embeddings.to_float32().tobytes()
    assert layer.dtype == mode


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_lora_is_merged(suffix, dtype, tmp_path, rng):
    layer = Embedding(V, D, "normal", name="items", dtype=dtype, lora_rank=2)
    layer.build()
    layer.lora_embeddings_b.assign(rng.standard_normal((2, D)))
    expected = Embedding(V, D, dtype=dtype, weights=layer(np.arange(V)))
    formats.save(layer, tmp_path / f"a{suffix}")
    loaded = formats.load(tmp_path / f"a{suffix}")
    assert (loaded.dtype, loaded.lora_enabled) == (dtype, False)
    rtol = 1e-5 if dtype == "float32" else 2**-7
    np.testing.assert_allclose(loaded(np.arange(V)), expected(np.arange(V)), rtol=rtol, atol=1e-6)


def test_lora_beside_the_table(tmp_path, items):
    """As Keras 3 lays it out in HDF5 files of Keras 2."""
    a, b = items[:, :2].copy(), items[:2].copy()
    folder = "model_weights/items/s/items"
    datasets = {f"{folder}/embeddings": items, f"{folder}/lora_embeddings_a": a, f"{folder}/lora_embeddings_b": b}
    path = tmp_path / "a.h5"
    layer = formats.load(write(path, datasets, model_config=model(config(lora_rank=2, lora_alpha=3))))
    assert layer.lora_enabled
    np.testing.assert_allclose(layer(np.arange(V)), items + 1.5 * a @ b, rtol=1e-5, atol=1e-6)
    refuses(write(path, datasets), "must say the `lora_alpha` of its LoRA")
    for more in ({}, {"lora_rank": 3}, {"lora_rank": 10**9}, {"lora_rank": "2"}):
        refuses(write(path, datasets, model_config=model(config(**more))), "must hold an array of shape")
    datasets.pop(f"{folder}/lora_embeddings_b")
    refuses(write(path, datasets, model_config=model(config(lora_rank=2))), "must be a whole HDF5 file")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"path": "/tmp/evil.npy"}, r"with \['path'\]"),
        ({"weights": [[1]]}, r"with \['weights'\]"),
        ({"padding_idx": 1}, r"with \['padding_idx'\]"),
        ({"input_dim": V + 1}, r"float32 of shape \(31, 6\) for 'items', as its config says"),
        ({"input_dim": 10**15}, r"float32 of shape \(1000000000000000, 6\)"),
        ({"input_dim": "many"}, "`input_dim` must be a positive integer"),
        ({"input_dim": None}, "`input_dim` must be a positive integer"),
        ({"dtype": "int16"}, r"`dtype` must be one of \['float32', "),
        ({"dtype": ["float32"]}, "must hold an Embedding of this version"),
        ({"embeddings_initializer": {"class_name": "os.system", "config": {"command": "true"}}}, "'os.system'"),
        ({"embeddings_initializer": {"class_name": "Constant", "config": {"value": 10**400}}}, "within float32"),
        ({"embeddings_initializer": {"class_name": "Constant", "config": {"valu": 1}}}, "cannot be made"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_configs_are_data(suffix, more, message, tmp_path, items):
    place = "layers/embedding/vars/0" if suffix == ".keras" else "model_weights/items/items/embeddings:0"
    path = write(tmp_path / f"a{suffix}", {place: items}, model_config=model(config(**more)))
    refuses(path, message, (ValueError, TypeError))
    assert os.listdir(tmp_path) == [path.name]


def test_configs_that_are_none(tmp_path, items):
    def keras(text):
        names = {"layers/embedding/vars": "items"}
        write(tmp_path / "a.weights.h5", {"layers/embedding/vars/0": items}, names)
        with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "a.weights.h5", "model.weights.h5")
            archive.writestr("config.json", text)
        return tmp_path / "a.keras"

    for text in ("", "{", "[" * 100_000, '{"a":' * 100_000, b"\xff\xfe\xfd", "1" * 5000):
        refuses(keras(text), "must hold a config in JSON")
    refuses(keras(" " * (65 << 20)), "a config of at most 67108864 bytes")
    for text in ("null", "3", "{}", "[]", '{"class_name": "Embedding"}', '{"class_name": 1, "config": []}'):
        assert np.array_equal(table(formats.load(keras(text))), items)  # no Embedding in it: then by the weights alone
    for text in ('{"class_name": "Embedding", "config": []}', '{"class_name": "Embedding", "config": null}'):
        refuses(keras(text), "must hold the weights of ''|`input_dim`|must hold an Embedding", (ValueError, TypeError))
    deep = {"class_name": "Embedding", "config": config()["config"]}
    for _ in range(200):
        deep = {"class_name": "Sequential", "config": {"layers": [deep]}}
    assert np.array_equal(table(formats.load(keras(json.dumps(deep)))), items)


def test_links_to_elsewhere(tmp_path, items):
    write(tmp_path / "secret.h5", {"a": items})
    for link in (h5py.SoftLink("/other"), h5py.ExternalLink(str(tmp_path / "secret.h5"), "a")):
        for place in ("layers/embedding/vars/0", "layers/embedding", "x"):
            path = write(tmp_path / "a.weights.h5", {"other": items})
            with h5py.File(path, "a") as file:
                file[place] = link
            refuses(path, "must hold no links to elsewhere")
            refuses(path, "must hold no links to elsewhere", name=place)


def test_data_elsewhere(tmp_path, items):
    items.tofile(tmp_path / "secret.bin")
    write(tmp_path / "secret.h5", {"a": items})
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        outside = [(str(tmp_path / "secret.bin"), 0, items.nbytes)]
        file.create_dataset("layers/embedding/vars/0", (V, D), "float32", external=outside)
    refuses(tmp_path / "a.weights.h5", "must hold its tables itself")
    layout = h5py.VirtualLayout((V, D), "float32")
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "a", (V, D))
    with h5py.File(tmp_path / "b.weights.h5", "w") as file:
        file.create_virtual_dataset("layers/embedding/vars/0", layout)
    refuses(tmp_path / "b.weights.h5", "must hold its tables itself")


@pytest.mark.parametrize("chunks", [None, (1000, 64)])
def test_huge_shapes_with_no_data(chunks, tmp_path):
    """Refused before any memory is taken: terabytes that are not there, with and without one chunk of them."""
    for rows in (0, 1):
        with h5py.File(tmp_path / "a.weights.h5", "w") as file:
            data = file.create_dataset("layers/embedding/vars/0", (10**10, 64), "float32", chunks=chunks)
            if chunks:
                data[:rows] = 1
        refuses(tmp_path / "a.weights.h5", "has 2560000000000 bytes, of which")


def test_circles_and_depths(tmp_path, items):
    path = write(tmp_path / "a.weights.h5", {"layers/embedding/vars/0": items})
    with h5py.File(path, "a") as file:
        file["layers/round"] = file["layers"]
        file["layers/embedding/root"] = file["/"]
    assert np.array_equal(table(formats.load(path)), items)
    with h5py.File(path, "a") as file:
        group = file
        for _ in range(150):
            group = group.create_group("g")
    refuses(path, "must hold at most 100 groups in each other")


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_no_embedding(suffix, tmp_path):
    kernel = np.ones((4, 3), "float32")
    for datasets, held in (
        ({"a/vars/0": kernel}, "'a' at a/vars/0"),
        ({"b": kernel[0]}, "no matrix"),
        ({}, "no matrix"),
    ):
        path = write(tmp_path / f"a{suffix}", datasets, model_config=model())
        refuses(path, f"must hold an Embedding. Received: name=None, .*, which has {held}")
    for shape in ((3,), (2, 3, 4), (), (0, 3), (3, 0)):
        path = write(
            tmp_path / f"a{suffix}", {"layers/embedding/vars/0": np.ones(shape, "float32")}, model_config=model()
        )
        with pytest.raises(ValueError, match=r"must hold an Embedding|must be a positive integer"):
            formats.load(path)
    if suffix != ".weights.h5":
        path = write(tmp_path / f"a{suffix}", {"b": kernel}, model_config=model(config()))
        refuses(path, "must hold the weights of 'items'")


def test_zips_of_other_kinds(tmp_path, items):
    path = tmp_path / "a.keras"
    for names in ([], ["config.json"], ["model.weights.h5"], ["../config.json", "/model.weights.h5", "a\\b"]):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "{}")
        if names:
            refuses(path, "must hold '|must be a whole HDF5 file")
        else:  # an empty zip begins with other bytes
            refuses(path, "must be a whole HDF5 file")
    assert os.listdir(tmp_path) == ["a.keras"]

    good = write(tmp_path / "b.keras", {"layers/embedding/vars/0": items}, model_config=model(config()))
    content = good.read_bytes()
    place = content.index(items.tobytes())
    path.write_bytes(content[:place] + b"\x99" + content[place + 1 :])
    refuses(path, r"must be a whole \.keras file\. .* Bad CRC-32")
    with zipfile.ZipFile(good) as archive:
        member = archive.getinfo("model.weights.h5")
    sizes = struct.pack("<II", member.compress_size, member.file_size)
    assert content.count(sizes) == 2
    for wrong in (1 << 30, member.file_size + 1):
        path.write_bytes(content.replace(sizes, struct.pack("<II", member.compress_size, wrong)))
        refuses(path, f"has {wrong} bytes, of which {member.file_size} are there")


@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_damage(suffix, tmp_path, rng):
    """Files that were cut, and files with other bytes: they load or raise. The same ones each time: of some 40,000 one
    holds up HDF5 2.0 itself, where the list of what is free in a heap goes round in circles."""
    layer = Embedding(40, 3, initializers.RandomUniform(seed=1), name="items")
    good, path = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    formats.save(layer, good)
    content = good.read_bytes()
    table_at = content.index(table(layer).tobytes())
    for size in {*range(0, len(content) - 1, 97), table_at + 10, len(content) - 1}:
        path.write_bytes(content[:size])
        with pytest.raises((ValueError, OSError)):
            formats.load(path)
    used = np.flatnonzero(np.frombuffer(content, np.uint8))
    for _ in range(400):
        damaged = bytearray(content)
        for at in rng.choice(used, 2):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            formats.load(path)
        except (ValueError, TypeError, OSError) as error:
            assert str(error)
    assert sorted(os.listdir(tmp_path)) == sorted([good.name, path.name])


def test_strings_that_hdf5_never_finishes(tmp_path):
    """An object of a heap that reaches into nothing: HDF5 2.0 loops there. Found by changing bytes."""
    path = tmp_path / "a.weights.h5"
    formats.save(Embedding(V, D, name="items"), path)
    content = bytearray(path.read_bytes())
    size = content.index(b"items\0\0\0") - 8
    assert content[size] == 5
    content[size + 1] = 1
    path.write_bytes(content)
    refuses(path, "with damaged strings")


# ---- whole or not at all, and no more memory than said -----------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_a_save_that_fails_leaves_the_old_file(suffix, tmp_path, monkeypatch, run_python):
    path = tmp_path / "files" / f"a{suffix}"
    formats.save(Embedding(V, D, "ones"), path)
    before = path.read_bytes()

    def kept():
        return path.read_bytes() == before and os.listdir(path.parent) == [path.name]

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for module, name in ((os, "fsync"), (os, "replace"), (fastembed.Table, "pieces"), (hdf5, "pieces")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(OSError, match="No space left"):
                formats.save(Embedding(V, D, "zeros"), path)
        assert kept(), name
    pytest.importorskip("resource")
    program = """
        import resource
        import signal
        import sys
        from fastembed import Embedding, formats

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        layer = Embedding(1_000_000, 6, "zeros")
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        try:
            formats.save(layer, sys.argv[1])
        except OSError as error:
            print(error.errno)
    """
    for limit in (1000, 100_000):
        assert int(run_python(program, path, limit).split()[-1]) == errno.EFBIG
        assert kept(), limit
    (path.parent / f"folder{suffix}").mkdir()
    with pytest.raises(IsADirectoryError):
        formats.save(Embedding(V, D), path.parent / f"folder{suffix}")


def test_permissions_are_those_of_other_files(tmp_path):
    formats.save(Embedding(V, D), tmp_path / "new folder" / "a.h5")
    (tmp_path / "plain").touch()
    assert (tmp_path / "new folder" / "a.h5").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("packed", ["", "zip", "gzip", "int4"])
@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_memory(suffix, packed, tmp_path, run_python):
    """A table of 100 MB: a save takes less than a chunk, a load the table and a chunk."""
    if (suffix == ".keras") != (packed == "zip") and packed:
        pytest.skip("packed in another way")
    program = """
        import pathlib
        import sys
        from fastembed import Embedding, formats
        from fastembed.formats import keras_files

        def peak():
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

        path, task = sys.argv[1:]
        formats.save(Embedding(3, 2), path + ".h5")  # h5py and all
        formats.load(path + ".h5")
        if task == "save":
            layer = Embedding(400_000, 64, "ones")
            layer.build()
        before = peak()
        if task == "save":
            formats.save(layer, path)
        else:
            assert formats.load(path).embeddings.numpy()[-1, -1] == 1
        print(peak() - before)
    """
    path = tmp_path / f"a{suffix}"
    assert int(run_python(program, path, "save")) < 64 << 20
    if packed == "zip":
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as other:
            for member in archive.infolist():
                with archive.open(member) as source, other.open(member.filename, "w", force_zip64=True) as target:
                    while piece := source.read(1 << 20):
                        target.write(piece)
        os.replace(tmp_path / "b", path)
    elif packed == "int4":  # with four scales for a row, which makes it float32
        parts = np.full((400_000, 32), 17, "int8"), np.ones((400_000, 4), "float32"), np.zeros((400_000, 4), "int8")
        write(path, dict(zip(PLACES[".keras"], (*parts, np.arange(64, dtype="float32") // 16), strict=True)))
    elif packed:
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "layers/embedding/vars/0", (400_000, 64), "float32", compression="gzip", chunks=(5000, 64)
            )
            for start in range(0, 400_000, 5000):
                file["layers/embedding/vars/0"][start : start + 5000] = 1
    taken = int(run_python(program, path, "load")) - 400_000 * 64 * 4
    assert taken < 72 << 20


def test_without_h5py(tmp_path, run_python):
    program = """
        import sys
        sys.modules["h5py"] = None
        import fastembed
        for task in (lambda path: fastembed.formats.save(fastembed.Embedding(2, 3), path), fastembed.formats.load):
            for path in sys.argv[1:]:
                try:
                    task(path)
                except ImportError as error:
                    print(error)
    """
    (tmp_path / "a.h5").touch()
    (tmp_path / "a.weights.h5").touch()
    printed = run_python(program, tmp_path / "a.h5", tmp_path / "a.weights.h5").splitlines()
    assert printed == ["HDF5 files need h5py: pip install 'fastembed-cython[h5]'"] * 4
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.weights.h5"]


# ---- real files of TensorFlow 2.9.3 ------------------------------------------------------------------


FACTS = json.loads(Path(__file__).with_name("keras29_facts.json").read_text(encoding="utf-8"))["files"]


@pytest.mark.parametrize("file", FACTS, ids=lambda file: f"{file['model']}-{file['method']}")
def test_files_of_tensorflow_2_9(file, tmp_path):
    """Each of their Embeddings, by its place and by its layer's name; and without a name where there is but one."""
    path = tmp_path / "a.h5"
    path.write_bytes(zlib.decompress(base64.b64decode(file["zlib_base64"])))
    expected = {place: np.float32(value) for place, value in file["datasets"].items() if place.endswith("embeddings:0")}
    assert expected
    for place, values in expected.items():
        by_place, by_name = (formats.load(path, name=name) for name in (place, place.split("/")[-2]))
        assert np.array_equal(table(by_place), values)
        assert np.array_equal(table(by_name), values)
        assert by_name.name == place.split("/")[-2]
    if len(expected) == 1:
        assert np.array_equal(table(formats.load(path)), values)
    else:
        with pytest.raises(ValueError, match="`name` must be that of one Embedding"):
            formats.load(path)
