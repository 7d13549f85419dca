"""What can go wrong with a checkpoint: kills, full disks, failing fsyncs, damage; and how much memory it takes.

Do not break: each failure is made to happen, and afterwards the last completed save is restored and compared, bit for
bit; each damage is found, and named.
"""

import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from crash import Training
from crash import run as kill_and_restore
from trainings import HEAD, Model, arrays_of, whole, write

import fastembed
from fastembed import Checkpoint, Embedding, checkpoint, optimizers

PHASES = ("base", "delta", "compact", "beside")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "saves" / "training"


@pytest.fixture
def training(path):
    """One with a base and a delta on disk."""
    training = Training()
    training.step()
    training.checkpoint.save(path, extra={"steps": 1})
    training.step()
    training.checkpoint.save(path, delta=True, extra={"steps": 2})
    return training


def act(training, phase, path):
    """Another save."""
    if phase == "compact":
        training.checkpoint.compact(path)
    else:
        done = training.checkpoint.save(path, phase != "base", extra={"steps": training.steps}, wait=phase != "beside")
        if phase == "beside":
            done.wait()


def is_there(path, sums, steps):
    """The save of these steps is the last, and whole."""
    fastembed.verify(path)
    other = Training()
    other.restore(path)
    return other.steps == steps and other.sums() == sums


def tidy(path):
    """Nothing lies there but the saves that are listed."""
    listed = [f"{number:08d}" for number in Checkpoint.saves(path)]
    return sorted(os.listdir(path)) == [*listed, "checkpoint.json"] and os.listdir(path.parent) == [path.name]


# ---- kills, full disks, failing fsyncs -------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("in_files", [False, True], ids=["memory", "files"])
def test_killed_at_any_time(path, in_files):
    """FASTEMBED_KILLS: how often."""
    kills = int(os.environ.get("FASTEMBED_KILLS", "10"))
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(os.urandom(4), "little")
    assert sum(kill_and_restore(kills, path, seed, in_files).values()) == kills


@pytest.mark.parametrize("phase", PHASES)
def test_every_fsync_may_fail(phase, training, path, monkeypatch):
    real, left = os.fsync, [0]

    def fsync(handle):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.EIO, "no more")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    sums, count = training.sums(), 0
    training.step()
    while True:
        count += 1
        left[0] = count
        try:
            act(training, phase, path)
        except OSError as error:
            assert error.errno == errno.EIO
            if Checkpoint.saves(path) != [1, 2]:  # the last one: of the folder that has the new list already
                assert phase == "compact" or is_there(path, training.sums(), 3)
                left[0] = 0
                act(training, phase, path)
                break
            assert is_there(path, sums, 2)
            assert tidy(path)
        else:
            pytest.fail("the last fsync was not reached")
    assert count >= 6
    assert tidy(path)
    assert is_there(path, *((sums, 2) if phase == "compact" else (training.sums(), 3)))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("phase", PHASES)
def test_full_disk(phase, small_disk):
    path, training = small_disk / "training", Training()
    training.step()
    training.checkpoint.save(path, extra={"steps": 1})
    training.step()
    training.checkpoint.save(path, delta=True, extra={"steps": 2})
    sums = training.sums()
    training.step()
    for free in (100, 5000, 20_000, 70_000, 500_000, 3_000_000):
        if phase in ("delta", "beside") and free > 20_000:
            break
        filler = small_disk / "filler"
        with open(filler, "wb") as file:
            room = os.statvfs(small_disk)
            file.write(bytes(max(0, room.f_bavail * room.f_frsize - free)))
        with pytest.raises(OSError, match="No space left"):
            act(training, phase, path)
        filler.unlink()
        assert is_there(path, sums, 2)
        assert sorted(os.listdir(path)) == ["00000001", "00000002", "checkpoint.json"]
    act(training, phase, path)
    assert is_there(path, *((sums, 2) if phase == "compact" else (training.sums(), 3)))


def test_a_limit_on_the_size_of_files(training, path, run_python):
    """The write itself fails, in the middle of the table."""
    pytest.importorskip("resource")
    sums = training.sums()
    program = """
        import resource
        import signal
        import sys
        from crash import Checkpoint, Training

        training = Training()
        training.restore(sys.argv[1])
        training.step()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
        for act in (lambda: training.checkpoint.save(sys.argv[1]), lambda: Checkpoint.compact(sys.argv[1])):
            try:
                act()
            except OSError as error:
                print(error.errno)
    """
    assert run_python(program, path).split() == [str(errno.EFBIG)] * 2
    assert is_there(path, sums, 2)
    assert tidy(path)


def test_an_interrupt(training, path, monkeypatch):
    sums = training.sums()

    def interrupt(*args):
        raise KeyboardInterrupt

    for phase in ("base", "delta", "compact"):
        training.step()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(checkpoint.files._New, "finish", interrupt)
            act(training, phase, path)
        assert tidy(path)
        assert is_there(path, sums, 2)


def test_readers_beside_a_writer(path, run_python):
    """Restores while another process saves, folds and removes: one moment or another, never an error."""
    program = """
        import os
        import sys
        from crash import Training

        path = sys.argv[1]
        training = Training()
        training.step()
        training.checkpoint.save(path, extra={"steps": 1})
        sums = {1: training.sums()}
        for step in range(2, 62):
            training.step()
            sums[step] = training.sums()
        pid = os.fork()
        if pid == 0:
            other = Training()
            other.restore(path)
            while other.steps < 61:
                other.step()
                other.checkpoint.save(path, other.steps % 4 != 0, extra={"steps": other.steps})
                if other.steps % 3 == 0:
                    other.checkpoint.compact(path)
            os._exit(0)
        seen = set()
        while not os.waitpid(pid, os.WNOHANG)[0]:
            training.restore(path)
            assert training.sums() == sums[training.steps]
            seen.add(training.steps)
        print(len(seen))
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    assert int(run_python(program, path, PYTHONWARNINGS="ignore")) > 3


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def chain(path, monkeypatch):
    """A base and two deltas, each of several chunks, and what was saved."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(checkpoint.files, "CHUNK", 8192)
    model = Model(optimizers.Adam(0.05, untouched="catch_up"), v=5000)
    saves = model.checkpoint
    extra = {"order": np.arange(50), "rng": np.random.default_rng(1)}
    for number in range(3):
        model.train(*range(10 * number, 10 * number + 10)).table.scale_learning_rate([number], 0)
        saves.save(path, delta=True, extra=extra)
    assert saves.saves(path) == [1, 2, 3]
    return model, saves


def files_of(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def damage_is_found(path, saves, named):
    for run in (lambda: fastembed.verify(path), lambda: saves.restore(path)):
        with pytest.raises((ValueError, FileNotFoundError), match=named):
            run()


def test_every_flipped_bit(chain, path, rng):
    """A sample of the bits of each file. What a later save has anew is not read for a restore."""
    model, saves = chain
    moment = whole(model)
    for file in files_of(path):
        good = file.read_bytes()
        places = [0, len(good) - 1, *rng.integers(0, len(good), 4)]
        for place in [*places, HEAD] if len(good) > HEAD else places:
            bad = bytearray(good)
            bad[place] ^= 1 << rng.integers(8)
            file.write_bytes(bad)
            named = "checkpoint" if file.name == "checkpoint.json" else file.name
            with pytest.raises(ValueError, match=named):
                fastembed.verify(path)
            try:
                saves.restore(path)
            except ValueError as error:
                assert named in str(error)
            else:
                assert whole(model) == moment
                assert "rows" not in file.name
                assert (path / "00000003" / file.name).exists()
                assert file.parent.name != "00000003"
        file.write_bytes(good)
    saves.restore(path)
    assert whole(model) == moment
    fastembed.verify(path)


def test_the_bytes_of_a_bad_chunk(chain, path):
    _, saves = chain
    chunk = json.loads((path / "00000001" / "save.json").read_text())["files"]["0.state"]["chunk"]
    file = path / "00000001" / "0.state.npy"
    octets = bytearray(file.read_bytes())
    octets[HEAD + 2 * chunk + 5] ^= 1
    file.write_bytes(octets)
    span = f"0.state.npy must be what was written. Received: other bytes from {HEAD + 2 * chunk} to {HEAD + 3 * chunk}"
    with pytest.raises(ValueError, match=span) as caught:
        saves.restore(path)
    assert "a mixture now: restore it from another save" in caught.value.__notes__[0]


def test_files_that_are_cut_or_gone(chain, path):
    """Nothing has changed then."""
    model, saves = chain
    moment = whole(model)
    for file in files_of(path):
        good = file.read_bytes()
        for length in (0, 1, len(good) // 2, len(good) - 1):
            file.write_bytes(good[:length])
            damage_is_found(path, saves, "checkpoint" if file.name == "checkpoint.json" else file.name)
        file.unlink()
        damage_is_found(path, saves, file.name)
        file.write_bytes(good)
    for name in ("00000001", "00000002", "00000003"):
        (path / name).rename(path.parent / "x")
        damage_is_found(path, saves, name)
        (path.parent / "x").rename(path / name)
    assert whole(model) == moment
    saves.restore(path)


def test_saves_that_are_swapped(chain, path):
    """Those of the same layers, and of another time."""
    model, saves = chain
    moment = whole(model)
    for one, other in (("00000002", "00000003"), ("00000001", "00000003")):
        for first, second in ((one, "x"), (other, one), ("x", other)):
            (path / first).rename(path / second)
        damage_is_found(path, saves, "save.json must be what was written")
        for first, second in ((one, "x"), (other, one), ("x", other)):
            (path / first).rename(path / second)
    for name in arrays_of(path / "00000002"):
        if (path / "00000003" / name).exists():
            good = (path / "00000003" / name).read_bytes()
            shutil.copy(path / "00000002" / name, path / "00000003" / name)
            if (path / "00000003" / name).read_bytes() != good:
                damage_is_found(path, saves, f"00000003/{name}")
            (path / "00000003" / name).write_bytes(good)
    saves.restore(path)
    assert whole(model) == moment


def test_nothing_is_folded_of_a_damaged_checkpoint(chain, path):
    model, saves = chain
    names = sorted(os.listdir(path))
    for file in files_of(path):
        if file.suffix == ".npy" and "rows" not in file.name:
            good = file.read_bytes()
            write(file, good[:-1] + bytes([good[-1] ^ 1]))
            if file.parent.name == "00000003" or not (path / "00000003" / file.name).exists():
                with pytest.raises(ValueError, match=file.name):
                    Checkpoint.compact(path)
            file.write_bytes(good)
            assert sorted(os.listdir(path)) == names
    Checkpoint.compact(path)
    moment = whole(model)
    saves.restore(path)
    assert whole(model) == moment


def test_verify(path, tmp_path):
    """A checkpoint, a layer; what is none."""
    with pytest.raises(FileNotFoundError):
        fastembed.verify(path)
    Embedding(30, 4).save(tmp_path / "layer")
    fastembed.verify(tmp_path / "layer")
    file = tmp_path / "layer" / "embeddings.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"embeddings\.npy"):
        fastembed.verify(str(tmp_path / "layer"))


# ---- memory ----------------------------------------------------------------------------------------------------------

MEMORY = """
    import sys
    import numpy as np
    from fastembed import Checkpoint, IndexedSlices, Table, optimizers, verify

    def peak():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

    v, tables = int(sys.argv[2]), [Table((int(sys.argv[2]), 32)) for _ in range(int(sys.argv[3]))]
    adam = optimizers.Adam(untouched="catch_up")
    for table in tables:
        table.numpy().fill(1)
    adam.build(tables)
    saves = Checkpoint(tables, adam)

    def train():
        rows = np.random.default_rng(1).integers(0, v, 1000)
        gradient = IndexedSlices(np.ones((1000, 32)), rows, (v, 32))
        adam.apply([gradient] * len(tables), tables)

    train()
    before = peak()
    for act in (
        lambda: saves.save(sys.argv[1]),
        lambda: (train(), saves.save(sys.argv[1], delta=True)),
        lambda: saves.restore(sys.argv[1]),
        lambda: Checkpoint(tables, adam).restore(sys.argv[1]),
        lambda: saves.compact(sys.argv[1]),
        lambda: verify(sys.argv[1]),
    ):
        act()
        print((peak() - before) >> 20)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is Linux's")
@pytest.mark.parametrize(("rows", "tables"), [(100_000, 1), (1_000_000, 1), (100_000, 10)])
def test_memory_is_that_of_chunks(rows, tables, path, run_python):
    """Tables and state of 39, 390, ten times 39 MB: a chunk (16 MB) for each of 2 threads, a byte for each row."""
    peaks = [int(line) for line in run_python(MEMORY, path, rows, tables, OMP_NUM_THREADS="2").split()]
    assert max(peaks) < 64, peaks
