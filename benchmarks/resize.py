"""What do 10 % more rows cost, and another order of all of them, in memory and in a file?

May import: fastembed, _harness. Unix only. Do not break: every case has a process of its own, whose peak is then the
change's; exit code 1 where growing takes more than the new rows, what optimizers keep of them, and 64 MB.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from _harness import arguments, check, parse, write
from memory import ALLOWED, peak

import fastembed

CASES = ("memory,grow", "memory,shrink", "memory,remap", "file,grow", "file,shrink", "file,remap")


def change(args, where, what, directory):
    """One change of a table with Adagrad's state; prints seconds and bytes as JSON."""
    paths = (f"{directory}/table.npy", f"{directory}/state") if where == "file" else (None, None)
    layer = fastembed.Embedding(args.rows, args.dim, fastembed.initializers.RandomUniform(seed=1), path=paths[0])
    optimizer = fastembed.optimizers.Adagrad(0.1, path=paths[1])
    optimizer.apply([layer.gradient([3, 5], np.ones((2, args.dim)))], [layer.embeddings])
    optimizer.flush()
    layer.embeddings.flush()
    ids = np.arange(0, args.rows // 2, 997)
    rows, words = layer(ids), np.arange(args.rows)
    bytes_before, before = layer.embeddings.nbytes, peak()
    start = time.perf_counter()
    if what == "remap":
        layer.remap(words, words[::-1])
        ids = args.rows - 1 - ids
    else:
        layer.resize(args.rows * (11 if what == "grow" else 9) // 10)
    seconds = time.perf_counter() - start
    check(what, np.array_equal(layer(ids), rows))
    more = 2 * max(0, layer.embeddings.nbytes - bytes_before)
    print(json.dumps({"ms": seconds * 1e3, "peak": peak() - before, "allowed": ALLOWED + more}))


def main():
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--case", help="where,what: one case in this process")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the files are")
    args = parse(parser)
    if args.case:
        return change(args, *args.case.split(","), args.directory)
    results, failed = [], 0
    print(f"{'':16} {'ms':>9} {'MB more at the peak':>20}")
    for case in CASES:
        with tempfile.TemporaryDirectory(dir=args.directory) as directory:
            sizes = [f"--{key}={getattr(args, key)}" for key in ("rows", "dim", "threads")]
            command = [sys.executable, __file__, "--case", case, "--directory", directory, *sizes]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        used = json.loads(done.stdout.splitlines()[-1])
        too_much = case == "memory,grow" and used["peak"] > used["allowed"] and hasattr(os, "sched_getaffinity")
        failed += too_much
        results.append({"work": "resize", "contestant": case, **used})
        print(f"{case:16} {used['ms']:9.0f} {used['peak'] / 1e6:20.0f}{' TOO MUCH' if too_much else ''}", flush=True)
    write(args, "resize", results)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
