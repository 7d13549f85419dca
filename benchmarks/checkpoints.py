"""How fast are a checkpoint's save, delta and load, against the disk itself and the files of others?

May import: fastembed, _harness, the peers. Do not break: all contestants move the same bytes within one round, each
write is forced to disk before its clock stops, and each file is read back and compared before anything is timed.

The disk itself: a file written in pieces of 16 MB by `os.write`, through the page cache and past it (O_DIRECT, as
`dd oflag=direct`), and `np.fromfile`. Cold: the file's pages were dropped from the page cache.
"""

import argparse
import importlib
import json
import mmap
import os
import pathlib
import shutil
import sys
import time

import numpy as np
from _harness import check, processor, watched

import fastembed

PIECE = 16 << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="default 10000000")
    parser.add_argument("--dim", type=int, default=64, help="default 64")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--folder", default=".", help="where to write: the disk that is measured (default: here)")
    parser.add_argument("--only", default="", help="contestants, with commas (default: all)")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    args = parser.parse_args()
    folder = pathlib.Path(args.folder) / f"checkpoints-{os.getpid()}"
    folder.mkdir(parents=True)
    print(f"{processor()}, {fastembed.get_num_threads()} threads; table {args.rows:,} x {args.dim}, in {folder.parent}")
    try:
        run(args, folder)
    finally:
        shutil.rmtree(folder)


class Raw:
    """A file without a format."""

    def __init__(self, table_vd, file, direct):
        self.table_vd, self.file = table_vd, file
        self.flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if direct else 0)
        self.piece = np.frombuffer(mmap.mmap(-1, PIECE), np.uint8)

    def save(self):
        """A write for each piece, then fsync."""
        octets = self.table_vd.reshape(-1).view(np.uint8)
        handle = os.open(self.file, self.flags, 0o644)
        for start in range(0, len(octets), PIECE):
            piece = self.piece[: min(PIECE, len(octets) - start)]
            np.copyto(piece, octets[start : start + PIECE])
            check("raw", os.write(handle, self.piece[: -(-len(piece) // 4096) * 4096]) >= len(piece))
        os.ftruncate(handle, len(octets))
        os.fsync(handle)
        os.close(handle)

    def load(self):
        """What the others are measured against."""
        return np.fromfile(self.file, self.table_vd.dtype).reshape(self.table_vd.shape)


class Ours:
    """A checkpoint; a load is into tables that are there, as it is with a training."""

    def __init__(self, table, again, file):
        self.table, self.again, self.file = table, again, file
        self.checkpoint = fastembed.Checkpoint(table)

    def save(self):
        self.checkpoint.save(self.file)

    def load(self):
        fastembed.Checkpoint(self.again).restore(self.file)
        return self.again.memory


class Delta(Ours):
    """One row of a hundred, after a full save."""

    def __init__(self, table, again, file):
        super().__init__(table, again, file)
        self.rng = np.random.default_rng(1)
        self.checkpoint.save(file)
        self.rows = len(table) // 100

    def touch(self):
        rows = np.sort(self.rng.choice(len(self.table), self.rows, replace=False))
        with self.table.lock:
            self.table.changing(rows)
            self.table.memory[rows] += 1

    def save(self):
        self.checkpoint.save(self.file, delta=True)


class Saver:
    """A pair of functions of another library; what it wrote is forced to disk before the clock stops."""

    def __init__(self, file, save, load):
        self.file, self._save, self.load = file, save, load

    def save(self):
        self._save()
        to_disk(self.file)


def to_disk(file):
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def peer(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name}: not installed")
        return None


def contestants(table, again, folder):
    """{name: one}; each with save(), load()."""
    table_vd = table.memory
    found = {"raw": Raw(table_vd, folder / "raw", False)}
    if hasattr(os, "O_DIRECT"):
        found["raw direct"] = Raw(table_vd, folder / "direct", True)
    found["fastembed"] = Ours(table, again, folder / "ours")
    npy = folder / "table.npy"
    found["np.save"] = Saver(npy, lambda: np.save(npy, table_vd), lambda: np.load(npy))
    torch, safetensors = peer("torch"), peer("safetensors.numpy")
    if torch is not None:
        file, tensor = folder / "table.pt", torch.from_numpy(table_vd)
        found["torch.save"] = Saver(file, lambda: torch.save(tensor, file), lambda: torch.load(file).numpy())
    if safetensors is not None:
        safe = folder / "table.safetensors"
        arrays = {"table": table_vd}
        found["safetensors"] = Saver(
            safe, lambda: safetensors.save_file(arrays, safe), lambda: safetensors.load_file(safe)["table"]
        )
    return found


def drop(file):
    """The file's pages leave the page cache."""
    for one in [*file.rglob("*.npy")] if file.is_dir() else [file]:
        handle = os.open(one, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def run(args, folder):
    layer = fastembed.Embedding(args.rows, args.dim, fastembed.initializers.RandomUniform(-1, 1, seed=1))
    layer.build()
    table = layer.embeddings
    again = fastembed.Table(table.shape)
    again.memory[:] = 0  # its pages are there
    racers = contestants(table, again, folder)
    racers = {name: one for name, one in racers.items() if not args.only or name in args.only.split(",")}
    for name, one in racers.items():
        one.save()
        check(name, np.array_equal(one.load(), table.memory))
    delta = Delta(table, again, folder / "delta")
    delta.touch()
    delta.save()
    check("delta", np.array_equal(delta.load(), table.memory))
    seconds = {}

    def timed(work, name, run):
        start = time.perf_counter()
        run()
        seconds.setdefault((work, name), []).append(time.perf_counter() - start)

    with watched():
        for number in range(args.rounds):
            order = list(racers.items())
            for name, one in order[number % len(order) :] + order[: number % len(order)]:
                timed("save", name, one.save)
                if hasattr(os, "posix_fadvise"):
                    drop(one.file)
                    timed("load, cold", name, one.load)
                timed("load, warm", name, one.load)
            for _ in range(3):
                delta.touch()
                timed("delta of 1 %", "fastembed", delta.save)
    report(args, seconds, table.nbytes)


def report(args, seconds, nbytes):
    results = []
    for work in dict.fromkeys(work for work, _ in seconds):
        print(f"\n{work:24} {'s':>8} {'quartiles':>15} {'GB/s':>7}  times ours (median of rounds)")
        ours = seconds.get((work, "fastembed"))
        for (of, name), times in seconds.items():
            if of != work:
                continue
            low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
            ratio = float(np.median(np.divide(times, ours))) if ours else float("nan")
            done = nbytes / (100 if "delta" in work else 1)
            print(f"{name:24} {middle:8.3f} {f'{low:.3f}..{high:.3f}':>15} {done / middle / 1e9:7.2f} {ratio:6.2f}")
            results.append({"work": work, "contestant": name, "seconds": middle, "ratio": ratio})
    if ("save", "fastembed") in seconds:
        full, delta = (np.median(seconds[key, "fastembed"]) for key in ("save", "delta of 1 %"))
        print(f"\na delta of 1 % is {full / delta:.0f} x faster than a full save (target 20)")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps({"script": "checkpoints", "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
