"""Files of torch: what torch.load reads we write, what torch.save writes we read, and nothing in a pickle is run.

Do not break: the files of strangers are made here by hand; with torch, where it is installed.
"""

import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from formats_cases import LAYERS, D, V, damaged, layer_of, numbers, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import peer

from fastembed import Embedding, formats
from fastembed.formats import matrix, torch_files


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("kind", LAYERS)
def test_round_trip(kind, suffix, tmp_path, monkeypatch):
    """Quantised tables are float32 there, LoRA is merged. A .bin of torch is told by its content."""
    monkeypatch.setattr(matrix, "BLOCK", 100)
    layer = layer_of(kind, tmp_path)
    path = tmp_path / f"a{suffix}"
    formats.save(layer, path)
    loaded = formats.load(path)
    assert loaded.dtype == (kind if kind in ("float64", "float16", "bfloat16") else "float32")
    assert np.array_equal(numbers(loaded), numbers(layer))
    os.replace(path, tmp_path / "a.bin")
    assert np.array_equal(numbers(formats.load(tmp_path / "a.bin", name="weight")), numbers(layer))


@pytest.fixture
def torch():
    return peer("torch")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("mapped", [False, True])
def test_ours_there(mapped, kind, torch, tmp_path):
    layer = layer_of(kind, tmp_path)
    formats.save(layer, tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mapped)
    dtype = getattr(torch, kind if kind in ("float64", "float16", "bfloat16") else "float32")
    assert (list(state), state["weight"].dtype) == (["weight"], dtype)
    assert state["weight"].data_ptr() % 64 == 0
    for theirs in (torch.nn.Embedding(V, D, dtype=dtype), torch.nn.EmbeddingBag(V, D, dtype=dtype)):
        theirs.load_state_dict(state)
        assert np.array_equal(theirs.weight.detach().double().numpy(), numbers(layer).astype("float64"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_theirs_here(dtype, torch, tmp_path, monkeypatch):
    """Whole models, parameters, checkpoints, one tensor; in their own memory or as a part of another's."""
    monkeypatch.setattr(matrix, "BLOCK", 100)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(V, D, dtype=getattr(torch, dtype))
            self.bag = torch.nn.EmbeddingBag(7, 3)
            self.norm = torch.nn.BatchNorm1d(3)  # with integers

    model, path = Model(), tmp_path / "a.pt"
    expected = model.words.weight.detach()
    torch.save(model.state_dict(), path)
    for name in ("words", "words.weight"):
        layer = formats.load(path, name=name)
        assert (layer.name, layer.dtype) == ("words", dtype)
        assert np.array_equal(numbers(layer).astype("float64"), expected.double().numpy())
    with pytest.raises(
        ValueError, match=r"`name` must be that of one matrix .*'words\.weight'.*; 'bag\.weight', float32"
    ):
        formats.load(path)
    torch.save({"model": {"words": model.words.weight}, "epoch": 3, "lr": [0.1], "none": None}, path)
    assert np.array_equal(numbers(formats.load(path)).astype("float64"), expected.double().numpy())
    large = torch.arange(600).to(expected.dtype).reshape(30, 20)
    for part in (
        large[7:20],
        large[:, 3:9],
        large.T,
        large[3::2, 1::3],
        large[5:6, 2:],
        large[5:, 2:3],
        large[4:5, ::2],
        large.flatten()[40:100].reshape(20, 3),
        large.as_strided((20, 30), (1, 20)),
        large.as_strided((10, 3), (2, 5)),
    ):
        torch.save(part, path)
        assert np.array_equal(numbers(formats.load(path)).astype("float64"), part.double().numpy())
    torch.save(torch.ones(1, dtype=expected.dtype).expand(1000, 1000), path)
    refuses(path, "must hold all elements of its tensors")
    torch.save(large[:0], path)
    refuses(path, "must hold a matrix with rows and columns")


def test_without_checksums(torch, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.arange(6.0).reshape(2, 3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert numbers(formats.load(tmp_path / "a.pt")).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_older_and_other_files_of_theirs(torch, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.ones(3, 2)}, path, _use_new_zipfile_serialization=False)
    refuses(path, "must be a file of torch 1.6 or newer")
    os.replace(path, tmp_path / "a.bin")
    refuses(tmp_path / "a.bin", "must ")
    for thing in (torch.nn.Embedding(3, 2), {"a": torch.ones(3, 2).to_sparse()}, {"a": torch.device("cpu")}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(thing, path)
        refuses(path, r"must hold a state dict\. .*Received: torch\.[\w.]*, which is not run")


# ---- by hand ---------------------------------------------------------------------------------------------------------


class Call:
    """What a stranger pickles: a call of any function."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def write(path, content, octets=bytes(48), prefix="any", **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{prefix}/data.pkl", content)
        archive.writestr(f"{prefix}/data/0", octets)
        for name, value in members.items():
            archive.writestr(f"{prefix}/{name}", value)
    return path


def state(**changes):
    """The pickle of a state dict of one tensor, 4 x 3 of float32, with some of its parts replaced."""
    parts = {
        "kind": b"ctorch\nFloatStorage\n",
        "key": b"X\x01\0\0\x000",
        "size": b"K\x0c",
        "offset": b"K\0",
        "shape": b"K\x04K\x03\x86",
        "strides": b"K\x03K\x01\x86",
        "function": b"ctorch._utils\n_rebuild_tensor_v2\n",
        **changes,
    }
    text = b"\x80\x02}X\x01\0\0\0w%(function)b((X\x07\0\0\0storage%(kind)b%(key)bX\x03\0\0\0cpu%(size)btQ"
    text += b"%(offset)b%(shape)b%(strides)b\x89}tRs."
    return text % {name.encode(): part for name, part in parts.items()}


def test_by_hand(tmp_path):
    path = tmp_path / "a.pt"
    array = np.arange(12, dtype="<f4").reshape(4, 3)
    assert np.array_equal(numbers(formats.load(write(path, state(), array.tobytes()), name="w")), array)
    swapped = write(path, state(), array.astype(">f4").tobytes(), byteorder="big")
    assert np.array_equal(numbers(formats.load(swapped)), array)
    turned = state(shape=b"K\x03K\x04\x86", strides=b"K\x01K\x03\x86")
    assert np.array_equal(numbers(formats.load(write(path, turned, array.tobytes()))), array.T)


HUGE = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"  # 2^63 - 1
NEGATIVE = b"\x8a\x01\xff"


@pytest.mark.parametrize(
    "changes",
    [
        {"size": b"K\x0d"},
        {"size": HUGE},
        {"size": NEGATIVE},
        {"size": b"N"},
        {"key": b"X\x01\0\0\x001"},
        {"key": b"K\0"},
        {"key": b"X\x0b\0\0\x00../data.pkl"},
        {"offset": b"K\x01"},
        {"offset": NEGATIVE},
        {"offset": HUGE},
        {"shape": b"K\x05K\x03\x86"},
        {"shape": NEGATIVE + b"K\x03\x86"},
        {"shape": HUGE + HUGE + b"\x86", "strides": b"K\0K\0\x86"},
        {"shape": HUGE + b"K\x01\x86", "strides": b"K\0K\0\x86"},
        {"shape": b"K\x0c\x85"},
        {"shape": b"N"},
        {"shape": b"\x88K\x03\x86"},
        {"strides": b"K\x04K\x01\x86"},
        {"strides": NEGATIVE + b"K\x01\x86"},
        {"strides": HUGE + b"K\x01\x86"},
        {"strides": b"K\x03\x85"},
        {"kind": b"ctorch\nDoubleStorage\n"},
        {"kind": b"ctorch\nLongStorage\n"},
        {"kind": b"ctorch\nQInt8Storage\n"},
        {"kind": b"X\x01\0\0\0f"},
        {"function": b"ctorch._utils\n_rebuild_qtensor\n"},
        {"function": b"cos\nsystem\n"},
        {"function": b"ctorch\nFloatStorage\n"},
        {"function": b"ctorch\nSize\n"},
    ],
    ids=str,
)
def test_damaged_tensors(changes, tmp_path):
    refuses(write(tmp_path / "a.pt", state(**changes)), "`path` must ")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    calls = [
        (Call(os.system, "touch executed"), r"(posix|nt)\.system, which is not run"),
        (Call(eval, "open('executed', 'w')"), r"(builtins|__builtin__)\.eval, which is not run"),
        (Call(getattr, "text", "upper"), r"(builtins|__builtin__)\.getattr, which is not run"),
        (Call(formats.save, 1, 2), r"fastembed\.formats\.save, which is not run"),
        (Call(np.memmap, "executed"), r"numpy\.memmap, which is not run"),
    ]
    for thing, message in calls:
        for value in (thing, {"weight": thing}, [thing, thing]):
            refuses(write(path, pickle.dumps(value, protocol)), message)
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"N.",
        b"\x80\x02K\x01",
        b"\x80\xff.",
        b"\x80\x02cos\nsystem\nX\x0e\0\0\0touch executed\x85R.",
        b"(S'touch executed'\nios\nsystem\n.",
        b"(cos\nsystem\nX\x0e\0\0\0touch executedo.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch executed\x85R.",
        b"\x80\x02\x82\x01.",  # of the registry of extensions
        b"\x80\x02]r\xff\xff\xff\xff.",  # a place in memory far away
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",  # that many bytes
        b"\x80\x05\x96" + b"\xff" * 5 + b"\0\0\0.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x04\0\0\0evilK\x01sb.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__K\x01\x85s\x86b.",
        b"\x80\x02ctorch\nSize\n}X\x04\0\0\0evilK\x01sb.",
        b"\x80\x02]h\x05.",
        b"\x80\x02}}K\x01s.",
        b"\x80\x02Q.",
        b"P1\n.",
    ],
    ids=str,
)
def test_damaged_pickles(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses(write(tmp_path / "a.pt", content), "`path` must ")
    assert os.listdir(tmp_path) == ["a.pt"]
    assert not hasattr(torch_files._tensor, "evil")
    assert torch_files._tensor.__defaults__ is None


def test_a_dict_in_itself(tmp_path):
    refuses(write(tmp_path / "a.pt", b"\x80\x02}q\0X\x01\0\0\0ah\0s."), "must hold a matrix")


def test_other_zips(tmp_path):
    path = tmp_path / "a.pt"
    for members in ({}, {"a/data.pkl": state(), "b/data.pkl": state()}, {"data.pkl": state()}, {"a/data.pkl": state()}):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        refuses(path, "`path` must ")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", state())
        archive.writestr("a/data/0", bytes(48))
    refuses(path, "or they are compressed")
    with zipfile.ZipFile(path, "w") as archive, archive.open("a/data.pkl", "w") as file:
        file.write(state() + bytes(1 << 20) * 65)
    refuses(path, "a pickle of at most")
    formats.save(Embedding(V, D), tmp_path / "a.npz")
    refuses(tmp_path / "a.npz", "which has no data.pkl", format="torch")


def test_cut_and_changed(tmp_path):
    formats.save(layer_of("float16"), tmp_path / "good.pt")
    damaged(tmp_path / "good.pt", checked=True)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=100), at=st.integers(0, 200))
def test_random_bytes(content, at, tmp_path_factory):
    path = tmp_path_factory.mktemp("random") / "a.pt"
    path.write_bytes(content)
    refuses(path, "`path` must ")
    refuses(write(path, content), "`path` must ")
    good = state()
    write(path, good[:at] + content + good[at + len(content) :])
    try:
        formats.load(path)
    except ValueError as error:
        assert str(error).startswith("`")
