"""Files of NumPy: what np.load reads we write, what np.save writes we read.

Do not break: whatever a file says, reading one raises ValueError or gives its rows, and runs nothing.
"""

import io
import struct
import zipfile

import numpy as np
import pytest
from formats_cases import LAYERS, V, damaged, layer_of, numbers, refuses
from hypothesis import given, settings
from hypothesis import strategies as st

from fastembed import Embedding, EmbeddingBag, formats
from fastembed.formats import matrix

SUFFIXES = [".npy", ".npz"]


def member(path):
    array = np.load(path)
    return array if isinstance(array, np.ndarray) else array["items"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", LAYERS)
def test_round_trip(kind, suffix, tmp_path, monkeypatch):
    """np.load reads the values; quantised tables and bfloat16 are float32 there, LoRA is merged."""
    monkeypatch.setattr(matrix, "BLOCK", 100)
    layer = layer_of(kind, tmp_path)
    formats.save(layer, tmp_path / f"a{suffix}")
    array = member(tmp_path / f"a{suffix}")
    assert array.dtype == (kind if kind in ("float64", "float16") else "float32")
    assert np.array_equal(array, numbers(layer))
    loaded = formats.load(tmp_path / f"a{suffix}")
    assert (loaded.dtype, loaded.built) == (array.dtype.name, True)
    assert np.array_equal(numbers(loaded), numbers(layer))
    if suffix == ".npz":
        assert loaded.name == "items"
        with zipfile.ZipFile(tmp_path / "a.npz") as archive:
            assert [each.compress_type for each in archive.infolist()] == [zipfile.ZIP_STORED]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_small_and_bags(shape, suffix, tmp_path):
    bag = EmbeddingBag(*shape, name="items")
    formats.save(bag, tmp_path / f"a{suffix}")
    assert np.array_equal(numbers(formats.load(tmp_path / f"a{suffix}")), bag.embeddings.numpy())


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2", "<u2", "V2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("how", ["npy", "npz", "compressed"])
def test_layouts_of_theirs(how, order, dtype, tmp_path, rng, monkeypatch):
    """Both byte orders, columns first, compressed; uint16 and bytes without a meaning are bfloat16."""
    monkeypatch.setattr(matrix, "BLOCK", 64)
    bits = rng.integers(0x3000, 0x4000, (V, 5), "uint16")
    array = bits.view(dtype) if dtype == "V2" else bits.astype(dtype)
    array = np.asarray(array, order=order)
    path = tmp_path / f"a.{how[:3]}"
    if how == "npy":
        np.save(path, array)
    else:
        path = tmp_path / "a.npz"
        (np.savez if how == "npz" else np.savez_compressed)(path, array)
    if how == "compressed" and order == "F":
        refuses(path, "must hold matrices with their rows first, where they are compressed")
        return
    layer = formats.load(path)
    if dtype in ("<u2", "V2"):
        assert layer.dtype == "bfloat16"
        assert np.array_equal(layer.embeddings.numpy().view(np.uint16), bits)
    else:
        assert layer.dtype == np.dtype(dtype).newbyteorder("=").name
        assert np.array_equal(numbers(layer), array)


def test_which_array(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.ones((3, 2)), b=np.zeros((4, 2), "float32"), c=np.arange(5), d=np.ones((2, 2), "int64"))
    assert formats.load(path, name="b").embeddings.shape == (4, 2)
    assert formats.load(path, name="a").dtype == "float64"
    for name in (None, "c", "d", "e"):
        with pytest.raises(ValueError, match="`name` must be that of one matrix of floats") as info:
            formats.load(path, name=name)
        assert "'a', float64 of shape (3, 2); 'b', float32 of shape (4, 2)" in str(info.value)
    assert [(each.name, each.fits) for each in formats.find(path)] == [("a", 1), ("b", 1), ("c", 0), ("d", 0)]
    np.save(tmp_path / "b.npy", np.ones((2, 2), "int64"))
    refuses(tmp_path / "b.npy", r"must hold a matrix of one of .*'', int64 of shape \(2, 2\)")
    for shape in ((0, 3), (3, 0)):
        np.save(tmp_path / "b.npy", np.ones(shape, "float32"))
        refuses(tmp_path / "b.npy", "must hold a matrix with rows and columns")


def test_objects_are_not_unpickled(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[print, print]], dtype=object), allow_pickle=True)
    refuses(path, "must hold a matrix of one of")
    np.savez(tmp_path / "a.npz", a=np.array([[print]], dtype=object))
    refuses(tmp_path / "a.npz", "must ")


def header(text, version=(1, 0)):
    form = "<H" if version == (1, 0) else "<I"
    return b"\x93NUMPY" + bytes(version) + struct.pack(form, len(text)) + text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9999)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (-1, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1.5, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 4}",
        "{'descr': '<f4', 'shape': (1, 2)}",
        "{'descr': ['f', 4], 'fortran_order': False, 'shape': (1, 2)}",
        "{'descr': '<f16', 'fortran_order': False, 'shape': (1, 1)}",
        "__import__('os').system('touch executed')",
        "[" * 5000,
        "(" * 150,
        "{'a':\n",
        "'''",
        "",
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (7, 7)])
def test_headers(text, version, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = header(text, version) + bytes(16)
    (tmp_path / "a.npy").write_bytes(content)
    refuses(tmp_path / "a.npy", "`path` must ")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    refuses(tmp_path / "a.npz", "`path` must ")
    assert not (tmp_path / "executed").exists()


def test_headers_that_are_too_long(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100))
    refuses(tmp_path / "a.npy", "`path` must ")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_and_changed(suffix, tmp_path):
    formats.save(layer_of("float32"), tmp_path / f"good{suffix}")
    damaged(tmp_path / f"good{suffix}", checked=suffix == ".npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes(suffix, content, tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / f"a{suffix}"
    path.write_bytes(content)
    refuses(path, "`path` must ")
    path.write_bytes(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 2)}") + content)
    refuses(path, "`path` must ")


def test_a_zip_that_claims_more(tmp_path):
    """A small file that would unpack to more than it can hold."""
    first = header("{'descr': '<f4', 'fortran_order': False, 'shape': (500000000, 2)}")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", first + bytes(4_000_000))
    sizes = (struct.pack("<I", len(first) + size) for size in (4_000_000, 4_000_000_000))
    (tmp_path / "a.npz").write_bytes(content.getvalue().replace(*sizes))
    refuses(tmp_path / "a.npz", "`path` must be a whole file")


def test_over_the_trained_file(tmp_path):
    layer = Embedding(V, 3, path=tmp_path / "a.npy")
    layer.build()
    with pytest.raises(ValueError, match="must not be where the table is trained"):
        formats.save(layer, tmp_path / "a.npy")
