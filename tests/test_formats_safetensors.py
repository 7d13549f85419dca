"""Safetensors: what the package reads we write, and back; a header is believed as far as bytes are there.

Do not break: the files of others are made here by hand; with the package, where it is installed.
"""

import json
import struct

import numpy as np
import pytest
from formats_cases import LAYERS, D, V, damaged, layer_of, numbers, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import need, peer

from fastembed import Embedding, formats
from fastembed.formats import matrix


def write(path, tensors, octets=b"", header=None):
    """A file of a header and bytes."""
    text = json.dumps(tensors).encode() if header is None else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + octets)
    return path


def tensor(dtype, shape, *offsets):
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize("kind", LAYERS)
def test_round_trip(kind, tmp_path, monkeypatch):
    """Quantised tables are float32 there, LoRA is merged."""
    monkeypatch.setattr(matrix, "BLOCK", 100)
    layer = layer_of(kind, tmp_path)
    formats.save(layer, tmp_path / "a.safetensors")
    loaded = formats.load(tmp_path / "a.safetensors")
    assert loaded.dtype == (kind if kind in ("float64", "float16", "bfloat16") else "float32")
    assert loaded.name == "items"
    assert np.array_equal(numbers(loaded), numbers(layer))
    octets = (tmp_path / "a.safetensors").read_bytes()
    assert struct.unpack("<Q", octets[:8])[0] % 8 == 0  # what is mapped is aligned


@pytest.mark.parametrize("kind", LAYERS)
def test_theirs(kind, tmp_path):
    need("torch")
    numpy, torch = peer("safetensors.numpy"), peer("safetensors.torch")
    layer = layer_of(kind, tmp_path)
    formats.save(layer, tmp_path / "a.safetensors")
    (array,) = torch.load_file(tmp_path / "a.safetensors").values()
    assert str(array.dtype) == f"torch.{kind if kind in ('float64', 'float16', 'bfloat16') else 'float32'}"
    assert np.array_equal(array.double().numpy(), numbers(layer).astype("float64"))
    others = {"a.weight": array.clone(), "b": array.T.contiguous(), "count": array[0].long()}
    torch.save_file(others, tmp_path / "b.safetensors", {"format": "pt"})
    for name, expected in (("a.weight", numbers(layer)), ("b", numbers(layer).T)):
        assert np.array_equal(numbers(formats.load(tmp_path / "b.safetensors", name=name)), expected)
    with pytest.raises(
        ValueError, match=r"`name` must be that of one matrix .*'a\.weight'.*'b', .* of shape \(5, 23\)"
    ):
        formats.load(tmp_path / "b.safetensors")
    if kind != "bfloat16":
        numpy.save_file({"x": numbers(layer)}, tmp_path / "c.safetensors")
        assert np.array_equal(numbers(formats.load(tmp_path / "c.safetensors")), numbers(layer))


def test_by_hand(tmp_path):
    """Two tensors, in another order than their bytes, and one that no table is."""
    bits = np.arange(6, dtype="<u2") + 0x3F80
    octets = bits.tobytes() + np.arange(6, dtype="<f8").tobytes() + bytes(3)
    tensors = {
        "c": tensor("F8_E4M3", [3, 1], 60, 63),
        "b": tensor("F64", [3, 2], 12, 60),
        "a": tensor("BF16", [2, 3], 0, 12),
    }
    path = write(tmp_path / "a.safetensors", {"__metadata__": {"any": "thing"}, **tensors}, octets)
    assert np.array_equal(formats.load(path, name="a").embeddings.numpy().view("u2").ravel(), bits)
    assert np.array_equal(numbers(formats.load(path, name="b")).ravel(), np.arange(6))
    with pytest.raises(ValueError, match="`name` must be that of one matrix of floats"):
        formats.load(path, name="c")
    assert [(each.name, each.storage, each.fits) for each in formats.find(path)] == [
        ("c", "F8_E4M3", False),
        ("b", "float64", True),
        ("a", "bfloat16", True),
    ]
    with pytest.raises(ValueError, match=r"`layer\.name` must be"):
        formats.save(Embedding(V, D, name="__metadata__"), path)


GOOD = {"a": tensor("F32", [2, 2], 0, 16)}


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        3,
        {"a": 3},
        {"a": {}},
        {"a": tensor("F32", [2, 2], 0, 12)},
        {"a": tensor("F32", [2, 2], 4, 20)},
        {"a": tensor("F32", [2, 2], 16, 0)},
        {"a": tensor("F32", [-2, -2], 0, 16)},
        {"a": tensor("F32", [2.0, 2], 0, 16)},
        {"a": tensor("F32", [True, 4], 0, 16)},
        {"a": tensor("F32", [1 << 62, 1 << 62], 0, 16)},
        {"a": tensor("F32", [1 << 40, 1 << 40, 0], 0, 16)},
        {"a": tensor("F32", [0, 4], 0, 16)},
        {"a": tensor("F32", [2, 2], 0, 1 << 70)},
        {"a": tensor("F32", [2, 2], -16, 0)},
        {"a": tensor("F32", [2, 2], 0)},
        {"a": tensor("F32", [2, 2], 0, 16, 16)},
        {"a": tensor("F32", [1] * 1000 + [4], 0, 16)},
        {"a": tensor("F32", None, 0, 16)},
        {"a": tensor(None, [2, 2], 0, 16)},
        {"a": tensor("F32", [1, 2], 0, 8)},
        {"a": tensor("F32", [1, 2], 8, 16)},
        {**GOOD, "b": tensor("F32", [2, 2], 0, 16)},
        {"a": tensor("F32", [1, 3], 0, 12), "b": tensor("F32", [1, 3], 4, 16)},
        {"a": tensor("F16", [1, 2], 0, 4), "b": tensor("F16", [1, 4], 8, 16)},
        {"a": tensor("F64", [2, 2], 0, 16)},
        {"a": tensor("F9", [2, 2], 0, 16)},
    ],
    ids=str,
)
def test_headers(tensors, tmp_path):
    refuses(write(tmp_path / "a.safetensors", tensors, bytes(16)), "`path` must ")


def test_headers_that_are_no_json(tmp_path):
    path = tmp_path / "a.safetensors"
    twice = json.dumps(GOOD)[:-1] + ", " + json.dumps(GOOD)[1:]
    for header in (b"", b"{", b"\xff" * 10, b"[" * 100_000, twice.encode(), b"NaN"):
        refuses(write(path, None, bytes(16), header), "`path` must be a whole .safetensors file")
    for length in (1 << 63, (1 << 64) - 1, 100_000_001, 2000):
        path.write_bytes(struct.pack("<Q", length) + bytes(1000))
        refuses(path, "a header of")
    with open(path, "r+b") as file:  # long enough, but longer than a header may be
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(100_000_100)
    refuses(path, "a header of 100000001 bytes")
    assert np.array_equal(numbers(formats.load(write(path, GOOD, bytes(16)))), np.zeros((2, 2)))


def test_cut_and_changed(tmp_path):
    formats.save(layer_of("float16"), tmp_path / "good.safetensors")
    damaged(tmp_path / "good.safetensors", checked=False)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "a.safetensors"
    path.write_bytes(content)
    refuses(path, "`path` must ")
    refuses(write(path, None, b"", content), "`path` must ")
