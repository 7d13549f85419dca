"""Does a table train that memory does not hold? Table and state are in files, made lazily; every row can be asked for.

May import: fastembed, _harness. Linux only. Do not break: rows are compared with their own NumPy training; exit code 1
where they differ.
"""

import pathlib
import shutil
import tempfile
import time

import numpy as np
from _harness import arguments, check, parse, write

import fastembed

RATE, WATCHED = 0.05, 1000


def main():
    parser = arguments(__doc__, rounds=1)
    parser.set_defaults(rows=60_000_000, ids="uniform")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--folder", default=".", help="where the files are made, and removed (default: here)")
    args = parse(parser)
    folder = tempfile.mkdtemp(prefix="huge.", dir=args.folder)
    try:
        train(args, folder)
    finally:
        shutil.rmtree(folder)


def train(args, folder):
    """All steps, and the rows that are watched beside them."""
    initializer = fastembed.initializers.RandomUniform(seed=1)
    needs = fastembed.estimate(args.rows, args.dim, optimizer="adagrad")
    print(needs)
    start = time.perf_counter()
    layer = fastembed.Embedding(args.rows, args.dim, initializer, path=f"{folder}/table.npy", lazy=True)
    optimizer = fastembed.optimizers.Adagrad(RATE, path=f"{folder}/state")
    optimizer.build([layer.embeddings])
    print(f"made in {1e3 * (time.perf_counter() - start):.0f} ms")

    rng = np.random.default_rng(1)
    watched = np.sort(rng.choice(args.rows, WATCHED, replace=False))
    values, squares = np.empty((WATCHED, args.dim), np.float32), np.full((WATCHED, args.dim), 0.1)
    initializer.filler((args.rows, args.dim))(values, watched)
    values = values.astype(np.float64)
    shape, results, seconds, written = (args.bags, args.bag_size), [], [], io("write_bytes")
    for step in range(1, args.steps + 1):
        ids = rng.integers(args.rows, size=shape)
        ids[:, 0] = rng.choice(watched, args.bags)
        start = time.perf_counter()
        rows = layer(ids)
        optimizer.apply_gradients([(layer.gradient(ids, 0.01 * rows + 0.001), layer.embeddings)])
        seconds.append(time.perf_counter() - start)

        counts = np.bincount(np.searchsorted(watched, ids[np.isin(ids, watched)]), minlength=WATCHED)[:, None]
        gradients = counts * (0.01 * values + 0.001)
        squares += gradients**2
        values -= RATE * gradients / np.sqrt(squares + 1e-7)
        if step % max(1, args.steps // 10) == 0:
            line = {"step": step, "ms": 1e3 * float(np.median(seconds)), "worst_ms": 1e3 * max(seconds)}
            line |= {"on_disk_gb": on_disk(folder), "anonymous_gb": status("RssAnon")}
            line["written_gb"] = io("write_bytes") - written
            seconds = []
            results.append(line)
            print("  ".join(f"{name} {value:,.5g}" for name, value in line.items()), flush=True)
    right = np.allclose(layer(watched), values, rtol=1e-4, atol=1e-6)
    check("a row", right, f"differs by {np.abs(layer(watched) - values).max()}")
    start = time.perf_counter()
    layer.embeddings.flush()
    optimizer.flush()
    print(f"flushed in {time.perf_counter() - start:.1f} s; the {WATCHED} watched rows are right")
    write(args, "huge", results)


def on_disk(folder):
    """GB that the files take."""
    return sum(path.stat().st_blocks * 512 for path in pathlib.Path(folder).rglob("*") if path.is_file()) / 1e9


def status(name):
    """GB of this process's memory, by the name in /proc."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name)) / 1e9


def io(name):
    """GB that this process has read or written."""
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e9


if __name__ == "__main__":
    main()
