"""Tables and state in files: one writer at a time, readers at any time, and training that goes on where it ended.

Do not break: each way for a writer to end (closing, dying, a fork) is tried with real processes.
"""

import copy
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastembed
from fastembed import Embedding, IndexedSlices, Table, dtypes, files, initializers, ops, optimizers

V, D = 60, 5
MODES = optimizers.arguments.MODES


def initial():
    return initializers.RandomUniform(-1, 1, seed=3)


def train(layer, optimizer, *steps):
    for number in steps:
        rng = np.random.default_rng(number)
        ids = rng.integers(0, V, (4, 3))
        optimizer.apply([layer.gradient(ids, 0.1 * layer(ids) + rng.standard_normal((4, 3, D)))], [layer.embeddings])


# ---- one writer ------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_the_first_is(tmp_path, run_python):
    path = tmp_path / "table.npy"
    table = Table((V, D), path=path)
    with pytest.raises(BlockingIOError, match=f"one writer at a time, and process {os.getpid()} on ") as caught:
        Table((V, D), path=path)
    assert caught.value.filename == str(path)
    code = """
        import sys, fastembed
        try:
            fastembed.Embedding(60, 5, path=sys.argv[1]).build()
        except BlockingIOError as error:
            print(error)
    """
    assert f"process {os.getpid()} on " in run_python(code, path)
    assert np.array_equal(Table((V, D), path=path, mmap_mode="r").numpy(), table.numpy())
    del table, caught
    assert os.listdir(tmp_path) == ["table.npy"]
    Table((V, D), path=path)


def test_saves_and_state_too(tmp_path):
    Embedding(V, D).save(tmp_path / "saved")
    layer = fastembed.load(tmp_path / "saved", mmap_mode="r+")
    with pytest.raises(BlockingIOError, match="one writer at a time"):
        fastembed.load(tmp_path / "saved", mmap_mode="r+")
    for mode in (None, "r", "c"):
        assert np.array_equal(fastembed.load(tmp_path / "saved", mmap_mode=mode)([3]), layer([3]))
    optimizer = optimizers.Adagrad(path=tmp_path / "state")
    with pytest.raises(BlockingIOError, match="one writer at a time"):
        optimizers.Adagrad(path=tmp_path / "state")
    del optimizer
    optimizers.Adagrad(path=tmp_path / "state")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = """
        import os, signal, sys, fastembed
        table = fastembed.Table((60, 5), path=sys.argv[1])
        table.numpy()[7] = 7
        print("ready", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "table.npy"
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, capture_output=True, timeout=60, cwd=tmp_path.parent)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["table.npy", "table.npy.lock"]
    table = Table((V, D), path=path)
    assert (table.numpy()[7] == 7).all()  # what was written is in the file
    assert f"process {os.getpid()} " in (tmp_path / "table.npy.lock").read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_no_lock_and_takes_none_away(tmp_path, run_python):
    code = """
        import os, sys, time, fastembed
        table = fastembed.Table((60, 5), path=sys.argv[1])
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            del table  # its finalizer runs here
            os.write(ready[1], b".")
            os.read(go[0], 1)
            fastembed.Table((60, 5), path=sys.argv[1])  # the parent's has ended
            os._exit(0)
        os.read(ready[0], 1)
        try:
            fastembed.Table((60, 5), path=sys.argv[1])
            print("two writers")
        except BlockingIOError:
            del table
            os.write(go[1], b".")
            print(os.waitpid(child, 0)[1])
    """
    assert run_python(code, tmp_path / "table.npy") == "0\n"


def test_a_lock_file_that_says_nothing(tmp_path):
    """Of a process that died before it wrote, or of another program."""
    (tmp_path / "table.npy.lock").write_bytes(b"")
    Table((V, D), path=tmp_path / "table.npy")
    lock = files.FileLock(tmp_path / "other.npy")
    (tmp_path / "other.npy.lock").write_bytes(b"\xff\xfe")
    with pytest.raises(BlockingIOError, match="one writer at a time"):
        files.FileLock(tmp_path / "other.npy")
    lock.close()
    assert not os.path.exists(tmp_path / "other.npy.lock")


def test_an_error_leaves_the_file_free(tmp_path):
    path = tmp_path / "table.npy"
    Table((V, D), path=path)
    for arguments in ({"shape": (V + 1, D)}, {"shape": (V, D), "dtype": "float64"}):
        with pytest.raises(ValueError, match="`path` must hold") as caught:
            Table(**arguments, path=path)
        Table((V, D), path=path)
        del caught
    with pytest.raises(FileNotFoundError):
        Table((V, D), path=tmp_path / "none" / "table.npy")
    with pytest.raises(ValueError, match="`mmap_mode` must be one of"):
        Table((V, D), path=path, mmap_mode="w+")


# ---- readers ---------------------------------------------------------------------------------------------------------


def test_readers_see_the_writer_and_cannot_write(tmp_path):
    layer = Embedding(V, D, initial(), path=tmp_path / "table.npy")
    layer.build()
    reader = Embedding(V, D, path=tmp_path / "table.npy", mmap_mode="r")
    private = Embedding(V, D, path=tmp_path / "table.npy", mmap_mode="c")
    gradient = layer.gradient([3], np.ones((1, D)))
    before = layer([3])
    optimizers.SGD(1.0).apply([gradient], [private.embeddings])
    assert np.array_equal(layer([3]), before)
    assert np.array_equal(private([3]), before - 1)
    optimizers.SGD(1.0).apply([gradient], [layer.embeddings])
    assert np.array_equal(reader([3]), before - 1)
    with pytest.raises(ValueError, match="must be writeable"):
        optimizers.SGD(1.0).apply([gradient], [reader.embeddings])
    with pytest.raises(FileNotFoundError):
        Embedding(V, D, path=tmp_path / "none.npy", mmap_mode="r").build()


# ---- training in files -----------------------------------------------------------------------------------------------

STEPPERS = {
    "SGD": {"momentum": 0.9, "state_dtype": "int8"},
    "Adagrad": {"state_dtype": "bfloat16"},
    "Adam": {"gradient_accumulation_steps": 2},
    "AdamW": {},
    "Nadam": {},
    "RMSprop": {"centered": True, "use_ema": True, "ema_overwrite_frequency": 3},
    "Adafactor": {},
    "Lamb": {},
    "RowwiseAdagrad": {"global_clipnorm": 0.5},
}


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("untouched", MODES)
@pytest.mark.parametrize("name", STEPPERS)
def test_training_goes_on(name, untouched, storage, tmp_path):
    """In a new layer and a new optimizer: the same bits as in memory without a pause."""
    arguments = {"untouched": untouched, **STEPPERS[name]}
    if untouched not in getattr(optimizers, name).modes or (untouched == "catch_up" and "use_ema" in arguments):
        pytest.skip("there is no such optimizer")
    if storage == "float64":
        arguments.pop("state_dtype", None)

    def make(path=None, state=None):
        layer = Embedding(V, D, initial(), path=path, dtype=storage)
        return layer, getattr(optimizers, name)(0.05, path=state, **arguments)

    memory = make()
    train(*memory, 0, 1, 2)
    memory[1].catch_up()  # as flush() does
    train(*memory, 3, 4, 5)
    for steps in ((0, 1, 2), (3, 4, 5)):
        layer, optimizer = make(tmp_path / "table.npy", tmp_path / "state")
        train(layer, optimizer, *steps)
        optimizer.flush()
        layer.embeddings.flush()
        if steps[0] == 0:
            del layer, optimizer
    memory[1].catch_up()
    assert (optimizer.calls, optimizer.iterations) == (memory[1].calls, memory[1].iterations)
    assert np.array_equal(memory[0].embeddings.numpy(), layer.embeddings.numpy())
    expected, found = memory[1].state(memory[0].embeddings), optimizer.state(layer.embeddings)
    assert list(expected) == list(found)
    for part, array in expected.items():
        assert np.array_equal(array, found[part]), part
    for kept in optimizer._variables.values():
        assert isinstance(kept.state_vs, np.memmap)


def test_state_that_was_not_flushed_is_refused(tmp_path):
    def full(*arguments, **named):
        raise OSError("full")

    layer, optimizer = Embedding(V, D, initial()), optimizers.Adagrad(path=tmp_path)
    train(layer, optimizer, 0)
    optimizer.flush()
    assert re.search(r'"class_name": "Adagrad"', (tmp_path / "optimizer.json").read_text())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="full"):  # the old one is gone by then
        patch.setattr(np, "savez", full)
        optimizer.flush()
    assert not (tmp_path / "optimizer.json").exists()
    optimizer.flush()
    train(layer, optimizer, 1)
    assert not (tmp_path / "optimizer.json").exists()
    del optimizer
    other = optimizers.Adagrad(path=tmp_path)
    with pytest.raises(ValueError, match="must hold the state of a training that ended with `flush`"):
        train(layer, other, 2)
    del other


def test_a_checkpoint_restores_into_files(tmp_path):
    """Into ones that were not flushed, too."""

    def make():
        return Embedding(V, D, initial(), path=tmp_path / "table.npy"), optimizers.Adam(path=tmp_path / "state")

    layer, optimizer = make()
    train(layer, optimizer, 0, 1)
    fastembed.Checkpoint(layer, optimizer).save(tmp_path / "checkpoint")
    train(layer, optimizer, 2, 3)
    expected = np.array(layer.embeddings.numpy()), np.array(optimizer.variables[0])
    train(layer, optimizer, 4)
    del layer, optimizer
    layer, optimizer = make()
    fastembed.Checkpoint(layer, optimizer).restore(tmp_path / "checkpoint")
    train(layer, optimizer, 2, 3)
    assert np.array_equal(layer.embeddings.numpy(), expected[0])
    assert np.array_equal(optimizer.variables[0], expected[1])
    assert isinstance(optimizer.variables[0], np.memmap)
    optimizer.flush()
    del optimizer
    assert optimizers.Adam(path=tmp_path / "state").iterations == 4


def test_an_error_lets_go_of_the_directory(tmp_path):
    """Though the error, and so what it has gone through, is kept."""
    optimizer = optimizers.Adagrad(0.1, path=tmp_path)
    train(Embedding(V, D), optimizer, 0)
    optimizer.flush()
    del optimizer
    good, kept = (tmp_path / "optimizer.json").read_text(), []
    for text, make in ((good, optimizers.Adam), ("{", optimizers.Adagrad)):
        (tmp_path / "optimizer.json").write_text(text)
        with pytest.raises(ValueError, match="must hold the state") as error:
            make(path=tmp_path)
        kept.append(error.value)
    (tmp_path / "optimizer.json").write_text(good)
    assert optimizers.Adagrad(0.1, path=tmp_path).iterations == 1


def test_what_does_not_fit_the_state_is_refused(tmp_path):
    layer, optimizer = Embedding(V, D), optimizers.Adagrad(0.1, path=tmp_path)
    train(layer, optimizer, 0)
    optimizer.flush()
    del optimizer
    for other in (lambda: optimizers.Adam(path=tmp_path), lambda: optimizers.Adagrad(epsilon=0.5, path=tmp_path)):
        with pytest.raises(ValueError, match="`path` must hold the state of"):
            other()
    optimizer = optimizers.Adagrad(0.3, path=tmp_path)
    assert optimizer.learning_rate == 0.1  # a number goes on, as with a Checkpoint
    with pytest.raises(ValueError, match="variables must come in the order that they had"):
        optimizer.apply([IndexedSlices(np.ones((1, D)), [1], (V + 1, D))], [Table((V + 1, D))])
    del optimizer
    for text in ("{", "{}", "[]", '{"format": 1}', '{"format": 7}', "\xff"):
        (tmp_path / "optimizer.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="`path` must hold the state of an optimizer"):
            optimizers.Adagrad(path=tmp_path)


def test_configs_know_no_path(tmp_path):
    optimizer = optimizers.Adam(path=tmp_path)
    assert "path" not in optimizer.get_config()
    with pytest.raises(TypeError, match="`path` is in no config"):
        optimizers.Adam.from_config({**optimizer.get_config(), "path": str(tmp_path)})
    for argument in ("mmap_mode", "lazy"):
        with pytest.raises(TypeError, match=f"`{argument}` is in no config"):
            Embedding.from_config({**Embedding(3, 3).get_config(), argument: True})


def test_a_copy_of_an_optimizer_lives_in_memory(tmp_path):
    layer, optimizer = Embedding(V, D), optimizers.Adam(path=tmp_path)
    train(layer, optimizer, 0)
    for other_layer, other in (
        copy.deepcopy((layer, optimizer)),
        pickle.loads(pickle.dumps((layer, optimizer))),
    ):
        train(other_layer, other, 1)
        other.flush()
        assert not isinstance(other.variables[0], np.memmap)
    assert not (tmp_path / "optimizer.json").exists()


def test_several_tables(tmp_path):
    tables = [Table((V, 3), name="a"), Table((V, 4), name="b"), np.zeros((2, 3), np.float32)]
    gradients = [np.ones(table.shape) for table in tables]
    optimizer = optimizers.Adam(path=tmp_path)
    optimizer.apply(gradients, tables)
    optimizer.flush()
    names = {name for name in os.listdir(tmp_path) if name.endswith(".npy")}
    assert names == {f"{number}.state.npy" for number in range(3)}
    assert np.load(tmp_path / "1.state.npy").shape == (V, 8)


@pytest.mark.parametrize("storage", dtypes.PLAIN)
def test_flush_writes_the_table(storage, tmp_path):
    layer = Embedding(V, D, initial(), path=tmp_path / "table.npy", dtype=storage)
    optimizer = optimizers.Adam(untouched="catch_up")
    train(layer, optimizer, 0, 1, 2)
    layer.embeddings.flush()
    saved = np.load(tmp_path / "table.npy")
    assert np.array_equal(saved.view(np.uint8), ops.rows_of(layer.embeddings.memory).octets_vb)
    Table((3, 3)).flush()
