"""Files larger than memory: what is loaded, saved and converted takes the table (or in a file nothing) and a chunk.

Do not break: the limits are those of the documentation; a process that takes more fails.
"""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from formats_cases import LAYERS, layer_of, numbers

import fastembed
from fastembed import Embedding, formats
from fastembed.formats import matrix

ROWS, DIM = 100_000, 500  # 200 MB
SUFFIXES = [".npy", ".npz", ".safetensors", ".pt", ".bin"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory(suffix, tmp_path, run_python):
    """A table of 200 MB: a save takes less than a chunk of 64 MB, a load the table and less than a chunk."""
    program = """
        import pathlib
        import sys
        from fastembed import Embedding, formats

        def peak():
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

        path, task, rows, dim = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
        words = {"vocabulary": [f"w{row}" for row in range(rows)]} if path.endswith(".bin") else {}
        formats.save(Embedding(3, 2), path + path, **words and {"vocabulary": ["a", "b", "c"]})
        formats.load(path + path)
        if task == "save":
            layer = Embedding(rows, dim, "ones")
            layer.build()
        before = peak()
        if task == "save":
            formats.save(layer, path, **words)
        else:
            assert formats.load(path).embeddings.numpy()[-1, -1] == 1
        print(peak() - before)
    """
    arguments = f"a{suffix}", ROWS, DIM
    assert int(run_python(program, arguments[0], "save", *arguments[1:])) < 64 << 20
    assert int(run_python(program, arguments[0], "load", *arguments[1:])) - ROWS * DIM * 4 < 64 << 20


@pytest.mark.parametrize("suffix", [".txt", ".vec.gz"])
def test_memory_of_text(suffix, tmp_path, run_python):
    """Text takes several times a block; with small ones, a table of 32 MB takes little more than itself."""
    program = """
        import gzip
        import resource
        import sys
        from fastembed import Embedding, formats, saving, set_num_threads
        from fastembed.formats import matrix, word_files

        matrix.BLOCK = 1 << 18
        set_num_threads(1)
        formats.save(Embedding(3, 2), "small.txt", vocabulary=["a", "b", "c"])
        formats.load("small.txt")
        opened = gzip.open if sys.argv[1].endswith(".gz") else open
        with opened(sys.argv[1], "wb") as file:
            file.write(b"20000 400\\n")
            for row in range(20_000):
                file.write(b"w%d" % row + b" 1.5" * 400 + b"\\n")
        def limit(more):
            with open("/proc/self/status") as status:
                now = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
            resource.setrlimit(resource.RLIMIT_DATA, (now + more, resource.RLIM_INFINITY))
        limit(8 << 20)
        layer = formats.load(sys.argv[1], table_path="table.npy")
        assert (layer([0, 19_999]) == 1.5).all()
        try:
            formats.load(sys.argv[1])  # 32 MB
        except MemoryError:
            print("too little for the table")
    """
    assert run_python(program, f"a{suffix}") == "too little for the table\n"


LIMITED = """
    import os
    import resource
    import sys
    import fastembed
    import fastembed.__main__
    from fastembed import formats

    fastembed.set_num_threads(1)
    small = fastembed.Embedding(3, 2)
    for suffix in (".npy", ".npz", ".safetensors", ".pt"):  # imports
        formats.save(small, f"small{suffix}")
        formats.load(f"small{suffix}", dtype="int8", table_path="small_table.npy")
        os.remove("small_table.npy")
    formats.save(small, "small.bin", vocabulary=["a", "b", "c"])
    formats.load_vocabulary("small.bin")
    words = [f"w{row}" for row in range(100_000)]
    with open("words.txt", "w") as file:
        file.writelines(word + "\\n" for word in words)
    with open("/proc/self/status") as status:
        now = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + (100 << 20), resource.RLIM_INFINITY))
    try:
        fastembed.Embedding(100_000, 500).build()
        raise SystemExit("there was memory for the table")
    except MemoryError:
        pass
"""


@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_convert_without_memory_for_the_table(dtype, tmp_path, run_python):
    """A table of 200 MB from format to format, where 100 MB are left."""
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "float32", (ROWS, DIM))[-1] = np.arange(DIM)
    steps = ["b.safetensors", "c.pt", "d.npz", "e", "f.bin", "g/", "h.npy"]
    program = (
        LIMITED
        + """
    main = fastembed.__main__.main
    steps, dtype = sys.argv[1].split(","), sys.argv[2:]
    for source, target in zip(steps, steps[1:]):
        extra = ["--vocabulary", "words.txt"] if target == "f.bin" else []
        more = ["--dtype", *dtype] if dtype and target == "e" else []
        assert main(["convert", source, target, *extra, *more]) == 0
        assert main(["verify", target]) == 0
        if source != "a.npy" and os.path.isfile(source):
            os.remove(source)
"""
    )
    run_python(program, ",".join(["a.npy", *steps]), *filter(None, [dtype]))
    array = np.load(tmp_path / "h.npy", mmap_mode="r")
    assert (array.dtype, array.shape) == ("float32", (ROWS, DIM))
    assert not array[:-1].any()
    assert np.abs(array[-1] - np.arange(DIM)).max() <= {None: 0, "bfloat16": 1, "int8": 1}[dtype]
    saved = fastembed.load(tmp_path / "e", mmap_mode="r")
    assert saved.dtype == (dtype or "float32")
    words = (tmp_path / "g" / "vocabulary.txt").read_text().split("\n")
    assert words == [f"w{row}" for row in range(ROWS)] + [""]
    assert [name for name in os.listdir(tmp_path) if name.endswith((".converting", ".saving", ".new"))] == []


# ---- where the table goes, and its dtype -------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".txt"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int8", "int4", "int2"])
def test_dtypes(dtype, suffix, tmp_path, monkeypatch):
    """A table of another dtype is what `assign` makes of the file's rows; in memory and in a file the same."""
    monkeypatch.setattr(matrix, "BLOCK", 100)
    layer = layer_of("float32")
    words = {"vocabulary": [f"w{row}" for row in range(layer.input_dim)]} if suffix in (".bin", ".txt") else {}
    formats.save(layer, tmp_path / f"a{suffix}", **words)
    expected = fastembed.Table(layer.embeddings.shape, dtype)
    fastembed.ops.encode(expected.rows, numbers(layer))
    for path in (None, tmp_path / "table.npy"):
        loaded = formats.load(tmp_path / f"a{suffix}", dtype=dtype, table_path=path)
        assert loaded.dtype == dtype
        assert loaded.embeddings.numpy().tobytes() == expected.numpy().tobytes()
        assert loaded.embeddings.trainable == (dtype not in ("int8", "int4", "int2"))
    assert loaded.embeddings.path == str(tmp_path / "table.npy")
    assert isinstance(loaded.embeddings.numpy(), np.memmap)
    del loaded
    if dtype in ("float32", "float16", "float64"):
        again = Embedding(*expected.shape, dtype=dtype, path=tmp_path / "table.npy")
        assert again.embeddings.numpy().tobytes() == expected.numpy().tobytes()


def test_table_paths(tmp_path):
    layer = layer_of("float32")
    formats.save(layer, tmp_path / "a.npy")
    for path in (tmp_path / "a.npy", tmp_path):
        with pytest.raises(FileExistsError, match="`table_path` must be free"):
            formats.load(tmp_path / "a.npy", table_path=path)
    assert np.array_equal(np.load(tmp_path / "a.npy"), numbers(layer))
    (tmp_path / "b.pt").write_bytes(b"PK")
    with pytest.raises(ValueError):
        formats.load(tmp_path / "b.pt", table_path=tmp_path / "table.npy")
    with pytest.raises(TypeError, match="`dtype` must be one of"):
        formats.load(tmp_path / "a.npy", dtype="int16")
    np.save(tmp_path / "c.npy", np.array([[1.0, np.inf]], "float32"))
    with pytest.raises(ValueError, match="rows must be finite to be int8"):
        formats.load(tmp_path / "c.npy", dtype="int8", table_path=tmp_path / "table.npy")
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "b.pt", "c.npy"]


@pytest.mark.parametrize("kind", LAYERS)
def test_progress(kind, tmp_path, monkeypatch):
    """It grows up to all of it, in load and save."""
    monkeypatch.setattr(matrix, "BLOCK", 100)
    layer = layer_of(kind, tmp_path)
    words = [f"w{row}" for row in range(layer.input_dim)]
    for suffix in [*SUFFIXES, ".txt"]:
        for task in ("save", "load"):
            seen = []

            def progress(done, total, seen=seen):
                seen.append((done, total))

            if task == "save":
                needed = words if suffix in (".bin", ".txt") else None
                formats.save(layer, tmp_path / f"a{suffix}", vocabulary=needed, progress=progress)
            else:
                formats.load(tmp_path / f"a{suffix}", progress=progress)
                assert len(seen) > 2
            assert seen == sorted(seen)
            assert len({total for _, total in seen}) == 1
            assert seen[-1][0] == seen[-1][1] > 0


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".txt"])
def test_failed_saves(suffix, tmp_path, monkeypatch):
    """What was there is there, and nothing beside it."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fastembed.saving.os, "fsync", fail)
    words = {"vocabulary": ["a", "b"]} if suffix in (".bin", ".txt") else {}
    with pytest.raises(OSError, match="No space left"):
        formats.save(Embedding(2, 3), path, **words)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"before"


def test_docs():
    """The table has each format, what reads and writes it, and its suffixes."""
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(formats.FORMATS)
    for name, suffixes, read, write, words, _ in rows:
        own = formats.FORMATS[name.strip("`")][0]
        assert set(own) <= set(re.findall(r"`(.*?)`", suffixes)), name
        assert (read, write) == ("yes", "no" if name == "`gensim`" else "yes")
        assert (words == "yes") == (name.strip("`") in formats.OF_WORDS)
