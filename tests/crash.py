"""A training that saves all the time, and is killed: after each kill the last completed save is there, bit for bit.

    python tests/crash.py --kills 300 [--files]

May import: fastembed, NumPy. Do not break: what a restored training must be is computed by one that nobody kills.
"""

import argparse
import collections
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib

import numpy as np

from fastembed import Checkpoint, IndexedSlices, Table, optimizers, verify

V, D = 30_000, 16
KINDS = ("base", "delta", "delta", "compact", "delta beside", "base beside")


class Training:
    """Table and optimizer; step number `step` is the same in every process.

    files: a folder in which both live, with a checkpoint to be restored beside it if the folder is there; or None.
    """

    def __init__(self, files=None):
        again = files is not None and files.exists()
        if files is not None:
            files.mkdir(exist_ok=True)
        self.table = Table((V, D), path=None if files is None else files / "table.npy")
        self.optimizer = optimizers.Adam(untouched="catch_up", path=None if files is None else files / "state")
        self.steps = 0
        if not again:
            self.optimizer.build([self.table])
        self.checkpoint = Checkpoint(self.table, self.optimizer)

    def step(self):
        rng = np.random.default_rng(self.steps)
        rows = rng.integers(0, V, 400)
        self.table.current(rows)
        gradient = IndexedSlices(rng.standard_normal((400, D), np.float32), rows, (V, D))
        self.optimizer.apply([gradient], [self.table])
        self.steps += 1

    def restore(self, path):
        self.steps = self.checkpoint.restore(path)["steps"]

    def sums(self):
        """Checksums of every byte."""
        ((kept,),) = [self.optimizer.snapshot()[1]]
        arrays = {"weights": self.table.memory, **kept.memory(), **kept.snapshot()[1]}
        return {name: zlib.crc32(np.ascontiguousarray(array)) for name, array in arrays.items()}


def train(path, files):
    """Saves until it is killed; prints what it begins, and the steps of each save that was completed."""
    there = (path / "checkpoint.json").exists()
    if files is not None and files.exists() and not there:  # of steps that were never saved
        shutil.rmtree(files)
    training = Training(files)
    if there:
        training.restore(path)
    beside = None
    while True:
        kind = KINDS[training.steps % len(KINDS)]
        training.step()
        print("begins", kind, flush=True)
        if beside is not None:
            beside.wait()
            print("has", training.steps - 1, flush=True)
            beside = None
        if kind == "compact":
            training.checkpoint.compact(path, keep=2)
        else:
            extra = {"steps": training.steps}
            delta, wait = kind.startswith("delta"), not kind.endswith("beside")
            beside = training.checkpoint.save(path, delta, keep=2, extra=extra, wait=wait)
            if wait:
                print("has", training.steps, flush=True)


def run(kills, path, seed=1, in_files=False):
    """Kills it so often. in_files: it trains in files, which the next process finds as they are. Returns {what it was
    about to do: kills}."""
    rng = np.random.default_rng(seed)
    reference, expected = Training(), {0: None}
    restored, found = Training(), collections.Counter()
    completed = 0
    for _ in range(kills):
        command = [sys.executable, __file__, "--train", str(path), *(["--files"] if in_files else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            lines = [child.stdout.readline() for _ in range(1 + rng.integers(3))]
            time.sleep(rng.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        assert child.returncode == -signal.SIGKILL, lines
        has = [int(line.split()[1]) for line in lines if line.startswith("has ") and line.endswith("\n")]
        completed = max([completed, *has])
        found[[line for line in lines if line.startswith("begins")][-1].partition(" ")[2].strip()] += 1
        if not completed and not (path / "checkpoint.json").exists():
            continue
        verify(path)
        restored.restore(path)
        assert restored.steps >= completed, f"step {completed} was saved, and {restored.steps} is there"
        while reference.steps < restored.steps:
            reference.step()
            expected[reference.steps] = reference.sums()
        assert restored.sums() == expected[restored.steps], f"other bits at step {restored.steps}"
    return dict(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", action="store_true", help="train in files")
    parser.add_argument("--train", type=pathlib.Path)
    args = parser.parse_args()
    if args.train:
        train(args.train, args.train.parent / "files" if args.files else None)
    folder = pathlib.Path(tempfile.mkdtemp(dir="."))
    try:
        start = time.perf_counter()
        print(run(args.kills, folder / "training", args.seed, args.files))
        print(f"{args.kills} kills in {time.perf_counter() - start:.0f} s: each time the last completed save was there")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
