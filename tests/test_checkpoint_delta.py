"""Deltas, folding, several saves, and saves beside a training: each gives the bits of the moment that it is of.

Do not break: `whole` compares every byte that the library keeps.
"""

import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
from peers import need
from trainings import HEAD, D, Model, V, arrays_of, initial, last_save, whole

import fastembed
from fastembed import Checkpoint, Embedding, IndexedSlices, Table, checkpoint, optimizers

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def path(tmp_path):
    """Where to save: a folder of its own, so that leftovers are seen."""
    return tmp_path / "saves" / "training"


def rows_of(path):
    """How many rows the last save has of each variable; None: it has all."""
    about = json.loads((last_save(path) / "save.json").read_text())
    return [one["rows"] for one in about["variables"].values()]


# ---- every optimizer, in every mode ----------------------------------------------------------------------------------

CLASSES = [getattr(optimizers, name) for name in optimizers.__all__ if name[0].isupper()]
CLASSES = [cls for cls in CLASSES if cls not in (optimizers.Optimizer, optimizers.LossScaleOptimizer)]
CASES = [(cls, mode, "float32", {}) for cls in CLASSES for mode in cls.modes]
CASES += [
    (optimizers.Adam, mode, storage, arguments)
    for mode in optimizers.Adam.modes
    for storage, arguments in (
        ("float32", {"weight_decay": 0.1, "amsgrad": True, "clipnorm": 0.5}),
        ("float32", {"gradient_accumulation_steps": 2}),
        ("bfloat16", {"state_dtype": "bfloat16"}),
        ("float64", {}),
    )
]
CASES += [(optimizers.SGD, "catch_up", "float16", {"momentum": 0.9, "state_dtype": "int8"})]
CASES += [
    (cls, mode, "float32", {"use_ema": True, "ema_momentum": 0.8, **more})
    for cls, mode in (
        (optimizers.Adam, "skip"),
        (optimizers.Adam, "dense"),
        (optimizers.SGD, "dense"),
        (optimizers.Adagrad, "catch_up"),
    )
    for more in ({}, {"ema_overwrite_frequency": 4}, {"gradient_accumulation_steps": 2})
]


@pytest.mark.parametrize(("cls", "mode", "storage", "arguments"), CASES)
def test_goes_on(cls, mode, storage, arguments, path):
    """From a base and deltas, folded and not; in new objects, which go on with deltas themselves."""

    def make():
        return Model(cls(0.05, untouched=mode, **arguments), storage, v=3000)

    model, again, folded = make(), make(), make()
    training = model.checkpoint
    for number in range(5):
        model.train(number)
        training.save(path, delta=True, keep=9)
        if number == 2:  # rows that change by a look-up, and that are frozen
            model.bag([[5, 6, 7]])
            model.table.freeze([3])
    assert training.saves(path) == [1, 2, 3, 4, 5]
    if mode != "dense":  # else all rows change in each step
        assert all(name in arrays_of(last_save(path)) for name in ("0.rows.npy", "0.weights.npy"))
    moment = whole(model)
    other = again.checkpoint
    other.restore(path)
    assert whole(again) == moment
    training.compact(path)
    assert training.saves(path) == [6] or mode == "dense"
    assert set(rows_of(path)) == {None}
    folded.checkpoint.restore(path)
    assert whole(folded) == moment
    for one, saves in ((model, training), (again, other)):
        one.train(5)
        saves.save(path, delta=True)
        one.train(6)
        saves.save(path, delta=True)
    folded.train(5, 6)
    fresh = make()
    fresh.checkpoint.restore(path)
    assert whole(model) == whole(again) == whole(fresh) == whole(folded) != moment


# ---- what a delta has ------------------------------------------------------------------------------------------------


def step(optimizer, table, rows):
    optimizer.apply([IndexedSlices(np.ones((len(rows), table.shape[1])), rows, table.shape)], [table])


@pytest.fixture
def trained(path):
    """(table, optimizer, checkpoint), saved."""
    table, optimizer = Table((V, D)), optimizers.Adam()
    step(optimizer, table, [1, 2])
    saves = Checkpoint(table, optimizer)
    saves.save(path)
    return table, optimizer, saves


def holds(path, table, number=None):
    other = Table(table.shape)
    Checkpoint(other, optimizers.Adam()).restore(path, number)
    return np.array_equal(other, table)


def test_only_rows_that_changed(trained, path):
    table, optimizer, saves = trained
    saves.save(path, delta=True)
    assert rows_of(path) == [0]
    step(optimizer, table, [7, 3, 7])
    table.scale_learning_rate([200], 0.0)  # a new array: all of it
    saves.save(path, delta=True)
    assert rows_of(path) == [None]
    step(optimizer, table, [7, 3, 7])
    table.scale_learning_rate([100], 0.5)
    saves.save(path, delta=True)
    assert np.load(last_save(path) / "0.rows.npy").tolist() == [3, 7, 100]
    assert np.array_equal(np.load(last_save(path) / "0.weights.npy"), table.numpy()[[3, 7, 100]])
    assert holds(path, table)
    step(optimizer, table, range(V // 2 + 1))
    saves.save(path, delta=True)  # most rows
    assert rows_of(path) == [None]
    table.assign(np.ones((V, D)))
    saves.save(path, delta=True)
    assert rows_of(path) == [None]
    with table.lock:
        table.changing(np.array([4]))
        table.numpy()[4] = 7
    saves.save(path, delta=True)
    assert rows_of(path) == [1]
    assert holds(path, table)


def test_without_a_save_that_it_could_follow(trained, path, tmp_path):
    """A delta is a full save then."""
    table, optimizer, saves = trained

    def saved(saves, path, full):
        saves.save(path, delta=True)
        assert rows_of(path) == [None if full else 0]
        assert holds(path, table)

    saved(saves, tmp_path / "other", True)
    saved(saves, path, False)
    saved(Checkpoint(table, optimizer), path, True)  # another object, which has not seen what changed
    saved(saves, path, True)  # since its own is not there any more
    again = Checkpoint(table, optimizer)
    again.restore(path)
    saved(again, path, False)
    shutil.rmtree(path)
    saved(again, path, True)


def test_other_layers(path):
    """A table that takes the place of another one, and one that was not there."""
    layer, layers = Embedding(V, D), {}
    layers["a"] = layer
    saves = Checkpoint(layers)
    saves.layers = layers
    saves.save(path)
    layer.adopt(Table((V, D)))
    saves.save(path, delta=True)
    assert rows_of(path) == [None]
    saves.save(path, delta=True)
    assert rows_of(path) == [0]
    layers["b"] = Table((3, 2))
    saves.save(path, delta=True)
    assert rows_of(path) == [None, None]
    layers["c"] = np.zeros(3, np.float32)
    saves.save(path, delta=True)
    layers["c"] += 1
    saves.save(path, delta=True)
    assert rows_of(path) == [0, 0, None]
    assert np.load(last_save(path) / "2.weights.npy").tolist() == [1, 1, 1]


def test_codes_in_a_delta(path):
    layer, other = Embedding(V, 5, initial(1)), Embedding(V, 5, initial(2))
    for one in (layer, other):
        one.quantize("int4")
    saves = Checkpoint(layer)
    for value in range(3):
        saves.save(path, delta=True)
        with layer.embeddings.lock:
            layer.embeddings.changing(np.array([value, 9]))
            layer.embeddings.memory["scale"][[value, 9]] = value
    saves.save(path, delta=True)
    assert rows_of(path) == [2]
    for _ in range(2):
        Checkpoint(other).restore(path)
        assert other.embeddings.memory.tobytes() == layer.embeddings.memory.tobytes()
        saves.compact(path)


def test_watchers_leave_with_their_checkpoint(path):
    table = Table((V, D))
    for _ in range(3):
        saves = Checkpoint(table)
        saves.save(path)
        saves.save(path, wait=False).wait()
        assert len(table.watchers) == 1
        del saves
        assert not table.watchers


def test_a_delta_that_fails_counts_again(trained, path, monkeypatch):
    table, optimizer, saves = trained
    step(optimizer, table, [9])
    for wait in (True, False):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="disk"):
            patched.setattr(os, "fsync", fails)
            (saves.save(path, delta=True, wait=wait) or saves).wait()
    step(optimizer, table, [5])
    saves.save(path, delta=True)
    assert np.load(last_save(path) / "0.rows.npy").tolist() == [5, 9]
    assert holds(path, table)
    assert sorted(os.listdir(path)) == ["00000001", "00000002", "checkpoint.json"]


def fails(handle):
    raise OSError("disk")


# ---- several saves, and folding --------------------------------------------------------------------------------------


def test_keep(path):
    """Full saves and deltas: so many remain, with all that they need."""
    table = Table((V, D))
    saves = Checkpoint(table)
    moments = {}

    def save(keep, delta, remain):
        number = len(moments) + 1
        with table.lock:
            table.changing(np.array([number]))
            table.numpy()[number] = number
        moments[number] = table.numpy().copy()
        saves.save(path, delta, keep=keep)
        assert saves.saves(path) == remain
        assert sorted(os.listdir(path)) == [*(f"{number:08d}" for number in remain), "checkpoint.json"]
        for number in remain:
            assert holds_of(moments[number], number)

    def holds_of(expected, number):
        other = Table(table.shape)
        Checkpoint(other).restore(path, number)
        return np.array_equal(other, expected)

    save(1, False, [1])
    save(1, True, [1, 2])
    save(1, True, [1, 2, 3])
    save(2, False, [1, 2, 3, 4])
    save(2, True, [4, 5])
    save(2, False, [4, 5, 6])
    save(1, False, [7])
    save(3, False, [7, 8])
    save(3, True, [7, 8, 9])
    saves.compact(path, keep=2)
    assert saves.saves(path) == [8, 10]
    assert holds_of(moments[9], 10)
    assert holds_of(moments[8], 8)
    saves.compact(path, keep=2)  # nothing to fold
    assert saves.saves(path) == [8, 10]
    for wrong in (7, 9, 11, "8", 8.5):
        with pytest.raises(ValueError, match=r"`number` must be one of \[8, 10\]"):
            saves.restore(path, wrong)
    for wrong in (0, -1, 1.0, True, None):
        with pytest.raises(ValueError, match="`keep` must be a positive int"):
            saves.save(path, keep=wrong)
    # Deltas may follow an earlier one.
    saves.restore(path, 8)
    with table.lock:
        table.changing(np.array([0]))
        table.numpy()[0] = 50
    saves.save(path, delta=True, keep=2)
    assert saves.saves(path) == [8, 10, 11]
    assert rows_of(path) == [1]
    assert holds_of(table.numpy(), 11)


def test_chunks_of_any_size(path, monkeypatch):
    """Several chunks, other ones in each save, and in parallel."""
    monkeypatch.setattr(checkpoint.files, "CHUNK", 40_000)
    monkeypatch.setattr(checkpoint.files, "_DIRECT_FROM", 0)

    def make():
        return Model(optimizers.Adam(0.05, untouched="catch_up"), v=30_011)

    model, other = make().train(0), make()
    saves = model.checkpoint
    for number, chunk in enumerate((40_000, 90_000, 4096, 30_000)):
        monkeypatch.setattr(checkpoint.files, "CHUNK", chunk)
        model.train(number)
        saves.save(path, delta=True)
    fastembed.verify(path)
    about = json.loads((path / "00000001" / "save.json").read_text())["files"]["0.state"]
    assert len(about["crc32"].split()) > 20
    assert about["chunk"] % HEAD == 0
    for _ in range(2):
        other.checkpoint.restore(path)
        assert whole(other) == whole(model)
        other.train(9)
        saves.compact(path)


def test_compact_of_nothing(path):
    with pytest.raises(FileNotFoundError):
        Checkpoint.compact(path)
    assert not path.parent.exists()
    (path / "mine").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        Checkpoint.compact(path)
    assert os.listdir(path) == ["mine"]


# ---- what users save besides -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators(name, path):
    """They go on where they were, also in the middle of a 64-bit number."""
    generator = np.random.Generator(getattr(np.random, name)(5))
    generator.integers(10, size=3, dtype=np.uint8)
    saves = Checkpoint(Table((3, 2)))
    saves.save(path, extra={"rng": generator})
    saves.save(path, delta=True, extra={"rng": generator})
    for _ in range(2):
        again = saves.restore(path)["rng"]
        assert type(again.bit_generator) is type(generator.bit_generator)
        expected = np.random.Generator(getattr(np.random, name)(5))
        expected.integers(10, size=3, dtype=np.uint8)
        for _ in range(3):
            assert again.integers(2**31, dtype=np.uint32) == expected.integers(2**31, dtype=np.uint32)
            assert again.standard_normal(3).tolist() == expected.standard_normal(3).tolist()
        saves.compact(path)


def test_extra(path):
    saves = Checkpoint(Table((3, 2)))
    saves.save(path)
    assert saves.restore(path) is None
    given = {
        "order": np.arange(5)[::-1],
        "names": np.array(["a", "bc"]),
        "none of them": np.zeros((0, 3)),
        "/../x y": np.float32([[1, 2], [3, 4]]).T,
        "a number": np.array(7, np.int16),
        "when": np.array("2026-11-25", "M8[D]"),
        "step": 3,
        "nested": {"loss": [0.5, None, "x"], "crc": 2**80},
    }
    for _ in range(2):
        saves.save(path, extra=given, delta=True)
        for _ in range(2):
            again = saves.restore(path)
            assert again.keys() == given.keys()
            for name, value in given.items():
                assert type(again[name]) is type(value)
                assert np.array_equal(again[name], value)
                if isinstance(value, np.ndarray):
                    assert (again[name].dtype, again[name].shape) == (value.dtype, value.shape)
            saves.compact(path)
    for wrong in ([1], {1: 2}, {"a": object()}, {"a": np.array([None])}, {"a": {1, 2}}, {"a": np.random}):
        with pytest.raises(TypeError):
            saves.save(path, extra=wrong)
    assert again.keys() == saves.restore(path).keys()


def test_the_random_state_of_the_library(path):
    fastembed.set_random_seed(5)
    Embedding(3, 2)(0)
    Checkpoint(Table((3, 2))).save(path)
    expected = [Embedding(3, 2)(0) for _ in range(2)]
    fastembed.set_random_seed(6)
    Checkpoint(Table((3, 2))).restore(path)
    assert np.array_equal([Embedding(3, 2)(0) for _ in range(2)], expected)


def test_progress(path, capsys, monkeypatch):
    need("tqdm")
    saves = Checkpoint(Table((3000, 2)))
    saves.save(path, progress=True)
    assert "save: 100%" in capsys.readouterr().err
    saves.restore(path, progress=True)
    assert "restore: 100%" in capsys.readouterr().err
    fastembed.verify(path, progress=True)
    assert "verify: 100%" in capsys.readouterr().err
    for terminal in (False, True):  # short ones draw none
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        saves.save(path)
        saves.restore(path, progress=False)
    assert capsys.readouterr().err == ""


# ---- beside a training -----------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Small chunks, and an event that lets a save write its next ones; all others before it is set: a number."""
    monkeypatch.setattr(checkpoint.files, "CHUNK", 4096)
    gate = threading.Semaphore(0)
    write = checkpoint.files.Writing.write

    def written(self, number):
        if threading.current_thread().name == "fastembed-checkpoint":
            gate.acquire()
        return write(self, number)

    monkeypatch.setattr(checkpoint.files.Writing, "write", written)
    yield gate
    opened(gate)


def opened(gate):
    """All chunks may be written, of many saves."""
    gate.release(1000)


@pytest.mark.parametrize(("cls", "mode"), [(cls, mode) for cls in CLASSES for mode in cls.modes])
def test_beside_a_training(cls, mode, slow, path):
    """The bits of the moment, whatever changes before a chunk, in between, and after it."""

    def make():
        return Model(cls(0.05, untouched=mode), v=3000)

    model = make().train(0, 1)
    saves = model.checkpoint
    saves.save(path)
    model.train(2)
    moment = whole(model)
    saving = saves.save(path, delta=cls.__name__ > "L", wait=False)
    for number in range(3, 9):
        slow.release(2)
        model.train(number)
        model.bag([range(20 * number, 20 * number + 9)])
    opened(slow)
    saving.wait()
    assert saving.done
    assert [len(table.watchers) for table in (model.bag.embeddings, model.table)] == [1, 1]
    other = make()
    other.checkpoint.restore(path)
    assert whole(other) == moment
    # The next delta has what changed since that moment, not since its end.
    saves.save(path, delta=True)
    other.checkpoint.restore(path)
    assert whole(other) == whole(model)


@pytest.mark.parametrize("change", ["assign", "freeze", "restore", "average", "nothing"])
def test_beside_other_changes(change, slow, path, tmp_path):
    def make():
        return Model(optimizers.Adam(0.05, use_ema=True), v=3000)

    model = make().train(0, 1)
    table = model.bag.embeddings
    Checkpoint(table).save(tmp_path / "other")
    model.train(2)
    moment = whole(model)
    saving = model.checkpoint.save(path, wait=False)
    slow.release(1)
    if change == "assign":
        table.assign(np.ones(table.shape))
    elif change == "freeze":
        table.freeze([0, 5, 2999])
        model.train(3)
    elif change == "restore":
        Checkpoint(table).restore(tmp_path / "other")
    elif change == "average":
        model.optimizer.average(table)
    assert not saving.done
    opened(slow)
    saving.wait()
    other = make()
    other.checkpoint.restore(path)
    assert whole(other) == moment


def test_beside_a_thread_that_trains(path):
    """Not in turns, but as it comes."""

    def make():
        return Model(optimizers.Adam(0.05, untouched="catch_up"), v=200_000)

    model, done, stop = make(), [], threading.Event()

    def train():
        while not stop.is_set():
            model.train(len(done))
            done.append(len(done))

    thread = threading.Thread(target=train)
    thread.start()
    saves, steps = model.checkpoint, []
    try:
        for _ in range(6):
            before = len(done)
            while len(done) < before + 3:
                time.sleep(0.001)
            saves.save(path, delta=True, wait=False).wait()
            other = make()
            other.checkpoint.restore(path)
            steps.append(other.optimizer.iterations)
            assert before <= steps[-1] <= len(done) + 1
    finally:
        stop.set()
        thread.join()
    other.train(*range(steps[-1], len(done)))
    assert whole(other) == whole(model)


def test_errors_beside_a_training(trained, path, slow, monkeypatch):
    """They surface in wait() and in the next save, once; training does not see them."""
    _, _, saves = trained
    monkeypatch.setattr(os, "fsync", fails)
    opened(slow)
    saving = saves.save(path, wait=False)
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            saving.wait()
    saves.save(path, wait=False)
    with pytest.raises(OSError, match="disk"):
        saves.save(path)
    monkeypatch.undo()
    assert saves.saves(path) == [1]
    saves.save(path)
    assert saves.saves(path) == [2]
    saving = saves.save(path, wait=False)
    saves.save(path)  # waits for it
    assert saving.done
    assert saves.saves(path) == [4]


def test_a_write_that_fails_in_the_training_thread(trained, path, slow, monkeypatch):
    table, _, saves = trained

    def put(self, octets, at):
        raise OSError("no space")

    saving = saves.save(path, wait=False)
    monkeypatch.setattr(checkpoint.files._New, "put", put)
    table.assign(np.ones((V, D)))
    opened(slow)
    with pytest.raises(OSError, match="no space"):
        saving.wait()
    assert saves.saves(path) == [1]
    assert len(table.watchers) == 1


def test_writers_take_turns(path):
    """Threads that save to one directory, also folds beside a save that is under way."""
    tables = [Table((V, D)) for _ in range(4)]
    for value, table in enumerate(tables):
        table.assign(np.full((V, D), value))

    def save(table):
        saves = Checkpoint(table)
        for _ in range(3):
            saves.save(path, keep=20)
            saves.save(path, delta=True, wait=False, keep=20)
            saves.compact(path, keep=20)

    threads = [threading.Thread(target=save, args=(table,)) for table in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values = []
    for number in Checkpoint.saves(path):
        table = Table((V, D))
        Checkpoint(table).restore(path, number)
        values.append(table.numpy()[0, 0])
        assert (table.numpy() == values[-1]).all()
    assert values.count(values[0]) >= 3
    assert sorted({*values}) == [0, 1, 2, 3]
    assert not [name for name in os.listdir(path) if name.endswith(".saving")]


def test_the_interpreter_ends_after_the_save(path, run_python):
    program = """
        import sys
        import numpy as np
        from fastembed import Checkpoint, Table

        table = Table((200_000, 16))
        table.assign(np.ones((200_000, 16)))
        Checkpoint(table).save(sys.argv[1], wait=False)
    """
    run_python(program, path)
    table = Table((200_000, 16))
    Checkpoint(table).restore(path)
    assert (table.numpy() == 1).all()
