"""A little of each target of fuzz.py, and of the operations of leaks.py and allocations.py.

Do not break: the cases are the same at every run; a long run is one of these files by itself. What a long run finds
gets a test of its own, below or beside the tests of what it was found in.
"""

import ctypes
import gc
import json
import os
import sys
import tracemalloc
import warnings
import zipfile
import zlib

import allocations
import fuzz
import leaks
import numpy as np
import pytest
from peers import need

import fastembed
from fastembed import (
    Checkpoint,
    Embedding,
    IndexedSlices,
    Ragged,
    Table,
    formats,
    initializers,
    ops,
    optimizers,
    serialization,
)

EXAMPLES = {"ids": 60, "bags": 60, "ragged": 80, "configs": 80, "files": 80, "folders": 30, "programs": 12}


@pytest.mark.parametrize("target", EXAMPLES)
def test_target(target):
    fuzz.run(target, seed=1, examples=EXAMPLES[target])


def test_hdf5_in_a_process_of_its_own():
    """HDF5 may crash or hang over a damaged file."""
    need("h5py")
    assert fuzz.run_apart("keras_files", seed=1, examples=20, seconds=300) is None


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no /dev/fd")
def test_nothing_leaks():
    assert not leaks.main(30_000, quiet=True)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None) if os.name == "posix" else None, "mallinfo2"), reason="needs glibc")
def test_a_leak_of_16_bytes_would_be_seen():
    malloc = ctypes.CDLL(None).malloc
    assert leaks.leaks(leaks.growth(lambda: malloc(16), 10_000), 10_000)
    kept = []
    assert leaks.leaks(leaks.growth(lambda: kept.append(object()), 10_000), 10_000)


@pytest.mark.skipif(sys.platform != "linux" or "LD_PRELOAD" in os.environ, reason="malloc of glibc or musl by itself")
def test_allocations_that_fail(tmp_path, run_python):
    """Nothing but a MemoryError comes of it, whichever it is."""
    library = allocations.compiled(tmp_path)
    if library is None:
        pytest.skip("no C compiler")
    printed = run_python("import sys, allocations; sys.exit(allocations.main())", timeout=600, LD_PRELOAD=str(library))
    failed, faults = (int(word) for word in printed.split() if word.isdigit())
    assert failed > 500
    assert faults == 0


# ---- what was found --------------------------------------------------------------------------------------------------


def test_ragged_of_what_is_no_list():
    with pytest.raises(TypeError, match="`rows` must be a list of lists"):
        Ragged.from_lists(0)
    for make in (lambda x: Ragged.from_padded(x, padding=0), lambda x: Ragged.from_row_lengths([1], x)):
        with pytest.raises(ValueError, match="must be a rectangular array"):
            make([[], 0])


def test_rows_that_a_ragged_has_not():
    with pytest.raises(IndexError, match="`index` must be rows of 2, or a mask of them"):
        Ragged([1, 2], [0, 1, 2])[np.array([0, 2])]


def test_ragged_of_complex_numbers_and_records():
    complex_0, records = np.empty(0, complex), np.zeros((2, 2), "i4,i4")
    with pytest.raises(TypeError, match="`row_lengths` must be integers"):
        Ragged.from_row_lengths([], complex_0)
    assert len(Ragged([1], [0, 1])[complex_0]) == 0
    with pytest.raises(TypeError, match="`array` must be numbers"):
        Ragged.from_padded(records, padding=0)
    with pytest.raises(TypeError, match="must be numbers"):
        Ragged(records[0], [0, 2]).to_padded()


def test_old_configs_of_loss_scales():
    optimizer = optimizers.LossScaleOptimizer(optimizers.Adam(0.25), initial_scale=8.0)
    config = serialization.serialize(optimizer, version=2)
    assert config["config"]["inner_optimizer"] == serialization.serialize(optimizers.Adam(0.25), version=2)
    assert serialization.serialize(optimizers.get(config)) == serialization.serialize(optimizer)
    with pytest.raises(TypeError, match="`inner_optimizer` must be an optimizer"):
        optimizers.LossScaleOptimizer(optimizer)


def test_arrays_in_configs_that_are_not_rectangular():
    envelope = {"class_name": "__numpy__", "config": {"value": [[1.0], [1.0, 2.0]], "dtype": "float32"}}
    with pytest.raises(ValueError, match="`value` must be an array of numbers"):
        initializers.get(envelope)


@pytest.mark.parametrize("shape", [f"({10**30}, 3)", f"({2**62}, 3)", f"(11, {2**62})"])
def test_headers_with_numbers_past_64_bits(shape, tmp_path):
    Embedding(11, 3).save(tmp_path / "save")
    file = tmp_path / "save" / "embeddings.npy"
    octets = file.read_bytes()  # NumPy takes 20 spaces more than it needs, for numbers that grow
    old, new = (octets[: octets.index(b"(11, 3)")] + text + b", }" for text in (b"(11, 3)", shape.encode()))
    file.write_bytes(new + octets[len(old) + len(new) - len(old) :])
    for mode in (None, "r", "r+"):
        with pytest.raises(ValueError, match=r"`path` must be a whole \.npy file"):
            fastembed.load(tmp_path / "save", mode)


def test_headers_of_gigabytes(tmp_path):
    """Of a .npy file as long as the header says it is, and of a member of a zip file as long as it is when unpacked."""
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100))
    formats.save(Embedding(11, 3), tmp_path / "a.pt")
    Embedding(11, 3).save(tmp_path / "save")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            if name.endswith("byteorder"):
                new.writestr(name, bytes(100_000_000), zipfile.ZIP_DEFLATED)
            else:
                new.writestr(name, old.read(name))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="`path` must have a header of at most"):
            formats.load(tmp_path / "a.npy")
        formats.load(tmp_path / "b.pt")
        (tmp_path / "save" / "embeddings.npy").write_bytes((tmp_path / "a.npy").read_bytes())
        for mode in (None, "r", "r+"):
            with pytest.raises(ValueError, match="its header would have 4294967295 bytes"):
                fastembed.load(tmp_path / "save", mode)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_members_of_zip_files_that_say_they_are_gigabytes(tmp_path):
    """Stored ones, in the list at the end of the file: as packed, while it is small when it is unpacked."""
    need("h5py")
    formats.save(Embedding(11, 3), tmp_path / "a.keras")
    formats.save(Embedding(11, 3), tmp_path / "a.pt")
    for file, name in ((tmp_path / "a.keras", b"config.json"), (tmp_path / "a.pt", b"data.pkl")):
        octets = bytearray(file.read_bytes())
        at = octets.rindex(b"PK\x01\x02", 0, octets.rindex(name))
        octets[at + 20 : at + 24] = (2**31).to_bytes(4, "little")
        file.write_bytes(octets)
        tracemalloc.start()
        try:
            formats.load(file)
        except ValueError as error:
            assert "whole" in str(error)
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert most < 200_000_000


def test_headers_that_python_2_has_written(tmp_path):
    Embedding(11, 3).save(tmp_path / "save")
    file = tmp_path / "save" / "embeddings.npy"
    file.write_bytes(file.read_bytes().replace(b"(11, 3)", b"(11L,3)", 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode in (None, "r", "c", "r+"):
            assert fastembed.load(tmp_path / "save", mode).input_dim == 11


@pytest.mark.parametrize("rows", [[[b"\0\0"]], [["12"]], [["a", None]], [[{}]]])
def test_ragged_of_other_things_as_integers(rows):
    with pytest.raises(TypeError, match="must be numbers that fit int32"):
        Ragged.from_lists(rows, dtype="i4")


def test_integers_past_64_bits_as_another_dtype():
    for dtype in ("i4", "u1", "i8"):
        with pytest.raises(ValueError, match="`rows` must fit"):
            Ragged.from_lists([[-(2**63) - 1]], dtype=dtype)


STATES = {
    "cut": lambda folder: (folder / "0.small.npz").write_bytes(b"PK\x03\x04"),
    "empty": lambda folder: (folder / "0.small.npz").write_bytes(b""),
    "no numbers": lambda folder: changed(folder, lambda about: about["variables"][0].pop("numbers")),
    "no list": lambda folder: changed(folder, lambda about: about.update(variables=3)),
    "no count": lambda folder: changed(folder, lambda about: about["counters"].update(calls="x")),
    "another count": lambda folder: changed(folder, lambda about: about["counters"].update(calls=10**30)),
}


def changed(folder, change):
    """Another optimizer.json."""
    file = folder / "optimizer.json"
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))


@pytest.mark.parametrize("damage", STATES)
def test_damaged_states_of_optimizers(damage, tmp_path):
    gradient = IndexedSlices(np.ones((1, 2)), [1], (4, 2))

    def train():
        optimizer = optimizers.Adam(0.1, path=tmp_path / "state")
        optimizer.apply([gradient], [Table((4, 2))])
        optimizer.flush()

    train()
    gc.collect()
    STATES[damage](tmp_path / "state")
    with pytest.raises(ValueError, match="Received"):
        train()


LISTS = {
    "no list": lambda saves: 2**31,
    "no entry": lambda saves: [*saves, None],
    "after itself": lambda saves: [{**saves[0], "after": saves[0]["name"]}],
    "in a circle": lambda saves: [{**saves[0], "after": saves[1]["name"]}, saves[1]],
    "after a number": lambda saves: [{**saves[0], "after": 1}, saves[1]],
    "after nothing that is there": lambda saves: [saves[1]],
    "twice": lambda saves: [*saves, saves[1]],
    "no number": lambda saves: [{**saves[0], "name": "../../../x"}],
    "a number that is no text": lambda saves: [{**saves[0], "name": 1}],
    "no digest": lambda saves: [{**saves[0], "digest": None}],
}


@pytest.mark.parametrize("damage", LISTS)
def test_lists_of_saves_that_are_none(damage, tmp_path):
    """With a checksum that fits: whoever follows them comes to an end."""
    path, table = tmp_path / "training", Table((30, 2))
    saves = Checkpoint(table)
    for delta in (False, True):
        table.changing(np.array([1]))
        saves.save(path, delta=delta, keep=2)
    about = json.loads((path / "checkpoint.json").read_text())
    assert [entry["after"] for entry in about["saves"]] == [None, "00000001"]
    about["saves"] = LISTS[damage](about["saves"])
    about.pop("crc32")
    about["crc32"] = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    (path / "checkpoint.json").write_text(json.dumps(about))
    for use in (fastembed.verify, Checkpoint.saves, saves.restore, saves.save):
        with pytest.raises(ValueError, match=r"checkpoint\.json must have|must hold a whole checkpoint"):
            use(path)


@pytest.mark.parametrize("accumulation", [None, 2])
def test_a_step_that_finds_no_memory(accumulation, monkeypatch):
    """Gradients that wait, the numbers of steps and of roundings are as they were: the next call is the same step."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((4, 2)).astype(np.float32)

    def training():
        table = Table((4, 2), "bfloat16")
        adam = optimizers.Adam(0.1, untouched="catch_up", gradient_accumulation_steps=accumulation)
        for _ in range(3):
            adam.apply([values], [table])
        return table, adam

    def fail(updates):
        raise MemoryError("none")

    (table, adam), (other, expected) = training(), training()
    with monkeypatch.context() as patch:
        patch.setattr(ops, "run", fail)
        with pytest.raises(MemoryError):
            adam.apply([values], [table])
    for _ in range(3):
        adam.apply([values], [table])
        expected.apply([values], [other])
    assert table.memory.tobytes() == other.memory.tobytes()
    assert adam.iterations == expected.iterations
