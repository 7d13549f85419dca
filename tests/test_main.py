"""The command line: what it prints and writes, and that an error is one line and the exit code 1.

Do not break: a test calls `main`, as `python -m fastembed` does.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from formats_cases import D, V, layer_of, numbers
from peers import need

import fastembed
from fastembed import Embedding, EmbeddingBag, formats
from fastembed.__main__ import main

WORDS = [f"wört{row}" for row in range(V)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, message, *arguments):
    """The command ends with 1 and one line with `message` in it, and leaves the files that were there."""
    before = sorted(os.listdir())
    capsys.readouterr()
    assert main(list(arguments)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"fastembed {arguments[0]}: ")
    assert message in printed.err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "target", ["b.npy", "b.npz", "b.safetensors", "b.pt", "b.txt", "b.bin", "b.vec", "b/", "new/b", "b"]
)
@pytest.mark.parametrize("source", ["a.npy", "a.npz", "a.safetensors", "a.pth", "a.txt", "a.bin", "a", "a/"])
def test_convert(source, target):
    """From each to each, words too."""
    layer = layer_of("float32")
    if "." not in source:
        layer.save(source)
        with open("a/vocabulary.txt", "w", encoding="utf-8") as file:
            file.write("".join(f"{word}\n" for word in WORDS))
    else:
        formats.save(layer, source, vocabulary=WORDS if source in ("a.txt", "a.bin") else None)
    words = ["--vocabulary", "words.txt"] if source in ("a.npy", "a.npz", "a.safetensors", "a.pth") else []
    with open("words.txt", "w", encoding="utf-8") as file:
        file.write("\n".join(WORDS))
    assert main(["convert", source, target, *words]) == 0
    assert main(["verify", target]) == 0
    loaded = fastembed.load(target) if "." not in target else formats.load(target)
    assert np.array_equal(numbers(loaded), numbers(layer))
    if "." not in target:
        with open(os.path.join(target, "vocabulary.txt"), encoding="utf-8", newline="") as file:
            assert file.read() == "".join(f"{word}\n" for word in WORDS)
        assert main(["convert", source, target, *words]) == 0  # over it
    elif target in ("b.txt", "b.bin", "b.vec"):
        assert formats.load_vocabulary(target) == WORDS
    assert [name for name in os.listdir() if name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["lora", "int8", "bfloat16", "bag"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int2"])
def test_dtypes_of_saves(dtype, kind):
    """LoRA is merged where the dtype is another; the class stays."""
    layer = EmbeddingBag(V, D, name="items") if kind == "bag" else layer_of(kind)
    layer.save("a")
    assert main(["convert", "a", "b", "--dtype", dtype]) == 0
    loaded = fastembed.load("b")
    expected = fastembed.Table((V, D), dtype)
    ((_, values_vd),) = layer.merged_blocks()
    fastembed.ops.encode(expected.rows, values_vd)
    assert (type(loaded), loaded.dtype, loaded.name) == (type(layer), dtype, "items")
    if (kind, dtype) == ("lora", "float32"):
        assert loaded.lora_enabled
        assert np.array_equal(numbers(loaded), numbers(layer))
    elif kind != dtype:
        assert loaded.embeddings.numpy().tobytes() == expected.numpy().tobytes()
        assert not loaded.lora_enabled


def test_names_and_formats(capsys):
    np.savez("a.npz", x=np.ones((3, 2), "float32"), y=np.zeros((4, 2)), z=np.arange(3))
    assert main(["convert", "a.npz", "b.dat", "--name", "y", "--to", "npy", "--dtype", "float32"]) == 0
    assert np.array_equal(np.load("b.dat"), np.zeros((4, 2), "float32"))
    assert main(["convert", "b.dat", "c.npy", "--from", "npy", "--to", "fastembed"]) == 0
    assert fastembed.load("c.npy").input_dim == 4
    assert main(["convert", "c.npy", "c.txt", "--to", "glove", "--vocabulary", "b.dat"]) == 1
    fails(capsys, "`name` must be that of one matrix", "convert", "a.npz", "d.npy")
    fails(capsys, "`name` must be that of the layer", "convert", "c.npy", "d.npy", "--name", "y")
    fails(capsys, "`path` must end in one of", "convert", "a.npz", "d.dat", "--name", "y")
    fails(capsys, "`path` must end in one of", "info", "b.dat")


def test_words_that_are_no_utf8(capsys):
    with open("a.txt", "wb") as file:
        file.write(b"2 1\na\xff 1\nb 2\n")
    assert main(["convert", "a.txt", "a.npy"]) == 0  # which has no words
    for target in ("b/", "b.bin"):
        fails(capsys, "must hold words in UTF-8", "convert", "a.txt", target)
    assert main(["convert", "a.txt", "b.bin", "--errors", "replace"]) == 0
    assert formats.load_vocabulary("b.bin") == ["a\ufffd", "b"]


def test_errors(capsys):
    formats.save(layer_of("float32"), "a.npy")
    fails(capsys, "No such file", "convert", "missing.npy", "b.npz")
    fails(capsys, "No such file", "info", "missing")
    fails(capsys, "`vocabulary` must be a word for each row", "convert", "a.npy", "b.bin")
    fails(capsys, "'word2vec_binary'", "convert", "a.npy", "b.kv")
    with open("words.txt", "w", encoding="utf-8") as file:
        file.write("one\ntwo\n")
    for target in ("b", "b.bin"):
        fails(
            capsys,
            "a word for each" if "." in target else "a line for each",
            "convert",
            "a.npy",
            target,
            "--vocabulary",
            "words.txt",
        )
    os.mkdir("folder")
    fails(capsys, "`path` must be free or an earlier save", "convert", "a.npy", "folder/")
    with open("cut.npy", "wb") as cut, open("a.npy", "rb") as whole:
        cut.write(whole.read()[:-1])
    for command in (["info"], ["verify"], ["convert", "b"]):
        fails(capsys, "`path` must be a whole file", command[0], "cut.npy", *command[1:])
    layer_of("float32").save("save")
    with open("save/embeddings.npy", "r+b") as file:
        file.truncate(200)
    for command in (["info"], ["verify"], ["convert", "b"]):
        fails(capsys, "`path` must", command[0], "save", *command[1:])
    for wrong in ([], ["convert", "a"], ["what"], ["convert", "a", "b", "--dtype", "int16"]):
        with pytest.raises(SystemExit) as info:
            main(wrong)
        assert info.value.code == 2


def test_what_is_there_stays():
    """A target is replaced by a whole one or not at all."""
    formats.save(layer_of("float32"), "a.npy")
    formats.save(layer_of("float16"), "b.safetensors")
    with open("b.safetensors", "rb") as file:
        before = file.read()
    np.save("bad.npy", np.array([[1.0, np.nan]], "float32"))
    assert main(["convert", "bad.npy", "b.safetensors", "--dtype", "int8"]) == 1
    with open("b.safetensors", "rb") as file:
        assert file.read() == before
    assert main(["convert", "a.npy", "a.npy", "--dtype", "float16"]) == 0  # onto itself
    assert np.load("a.npy").dtype == "float16"
    with open("words.txt", "w", encoding="utf-8") as file:
        file.writelines(f"{word} {word}\n" for word in WORDS)  # with spaces, as GloVe's may be
    assert main(["convert", "a.npy", "save", "--vocabulary", "words.txt"]) == 0
    assert main(["convert", "save", "save", "--dtype", "bfloat16"]) == 0
    assert fastembed.load("save").dtype == "bfloat16"
    with open("save/vocabulary.txt", encoding="utf-8") as file, open("words.txt", encoding="utf-8") as words:
        assert file.read() == words.read()
    assert main(["convert", "save", "a.bin"]) == 1


def test_info(capsys):
    layer = layer_of("float32")
    formats.save(layer, "a.txt", vocabulary=WORDS)
    formats.save(layer, "a.pt")
    np.savez("a.npz", x=np.ones((3, 2), "float32"), z=np.arange(3))
    layer.quantize("int8")
    assert main(["convert", "a.txt", "save", "--dtype", "int8"]) == 0
    fastembed.Checkpoint({"words": layer_of("bfloat16")}, fastembed.optimizers.Adam()).save("training")
    fastembed.Checkpoint(layer_of("float16")).save("alone")
    for path, lines in (
        (
            "a.txt",
            ["format: word2vec", f"bytes: {os.path.getsize('a.txt')}", f"words: {V}", f"(no name): float32 ({V}, {D})"],
        ),
        ("a.pt", ["format: torch", f"weight: float32 ({V}, {D})"]),
        ("a.npz", ["format: npz", "x: float32 (3, 2)", "z: int64 (3,), no table"]),
        ("save", ["format: fastembed", "layer: Embedding", f"shape: ({V}, {D})", "dtype: int8", f"words: {V}"]),
        ("training", ["format: checkpoint", "optimizer: Adam", f"words/embeddings: bfloat16 ({V}, {D})"]),
        ("alone", ["format: checkpoint", "optimizer: None", f"0/embeddings: float16 ({V}, {D})"]),
    ):
        capsys.readouterr()
        assert main(["info", path]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line not in printed] == []
    with open("training/checkpoint.json", encoding="utf-8") as file:
        about = json.load(file)
    for wrong in ("", "3", "{}", json.dumps({**about, "variables": [3]}), json.dumps({**about, "optimizer": 3})):
        with open("training/checkpoint.json", "w", encoding="utf-8") as file:
            file.write(wrong)
        fails(capsys, "", "info", "training")


def test_a_checkpoint_is_not_converted(capsys):
    fastembed.Checkpoint(Embedding(V, D)).save("training")
    fails(capsys, "rows of a checkpoint may have steps to take", "convert", "training", "b.npy")


def test_estimate(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        fastembed, "estimate", lambda *sizes, **how: asked.append((sizes, how)) or "2.5 GB", raising=False
    )
    assert main(["estimate", "1000", "64"]) == 0
    assert main(["estimate", "1000", "64", "--dtype", "bfloat16", "--optimizer", "Adam"]) == 0
    assert capsys.readouterr().out == "2.5 GB\n" * 2
    assert asked == [
        ((1000, 64), {"dtype": "float32", "optimizer": None}),
        ((1000, 64), {"dtype": "bfloat16", "optimizer": "Adam"}),
    ]


def test_as_a_program():
    formats.save(layer_of("float32"), "a.npy")
    path = os.pathsep.join([os.path.dirname(os.path.dirname(fastembed.__file__))])
    how = {"capture_output": True, "text": True, "check": False, "env": {**os.environ, "PYTHONPATH": path}}
    program = [sys.executable, "-m", "fastembed"]
    done = subprocess.run([*program, "info", "a.npy"], **how)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"float32 ({V}, {D})" in done.stdout
    failed = subprocess.run([*program, "info", "b.npy"], **how)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "fastembed info: [Errno 2] No such file or directory: 'b.npy'\n"
    assert fastembed.__version__ in subprocess.run([*program, "--version"], **how).stdout
    for command in ("convert", "info", "verify", "estimate"):
        assert command in subprocess.run([*program, "--help"], **how).stdout


@pytest.mark.parametrize("there", [False, True])
def test_progress(there, monkeypatch, capsys):
    """A bar, only where somebody looks and tqdm is installed."""
    formats.save(layer_of("float32"), "a.npy")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    if there:
        need("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(["convert", "a.npy", "b.pt"]) == 0
    assert ("reading: 100%" in capsys.readouterr().err) == there
