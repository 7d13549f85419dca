"""How much memory does a training step take at its peak? Table + optimizer state + O(batch), never a second table.

May import: fastembed, _harness. Unix only. Do not break: every case has a process of its own, whose peak is then the
step's; exit code 1 where it exceeds table + state + 64 MB (Python, NumPy) + twice the batch (ids, output, upstream).
"""

import json
import pathlib
import resource
import subprocess
import sys

import numpy as np
from _harness import arguments, parse, write

import fastembed

OPTIMIZERS = ("SGD", "RowwiseAdagrad", "Adagrad", "Adam")
LAYERS = ("EmbeddingBag", "Embedding")
ALLOWED = 64 << 20


def peak():
    """The peak of this process's resident memory in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # ru_maxrss may be the parent's on Linux
        return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def steps(args, layer_name, optimizer_name):
    """Three training steps; prints the bytes as JSON."""
    rng = np.random.default_rng(1)
    pooled = {"combiner": "sum"} if layer_name == "EmbeddingBag" else {}
    layer = getattr(fastembed, layer_name)(args.rows, args.dim, **pooled)
    optimizer = getattr(fastembed.optimizers, optimizer_name)()
    optimizer.build([layer.embeddings])
    state = sum(array.nbytes for array in optimizer.variables)
    before = peak()
    for _ in range(3):
        ids = rng.integers(args.rows, size=(args.bags, args.bag_size))
        output = layer(ids)
        upstream = np.ones_like(output)
        touched = layer.embeddings[ids[0]]
        optimizer.apply_gradients([(layer.gradient(ids, upstream), layer.embeddings)])
        if np.array_equal(layer.embeddings[ids[0]], touched):
            raise SystemExit("WRONG ANSWER: the step changed nothing")
    batch = ids.nbytes + output.nbytes + upstream.nbytes
    print(
        json.dumps({"table": layer.embeddings.nbytes, "state": state, "batch": batch, "before": before, "peak": peak()})
    )


def main():
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--case", help="layer,optimizer: one case in this process")
    args = parse(parser)
    if args.case:
        return steps(args, *args.case.split(","))
    results, failed = [], 0
    print(f"{'MB':28} {'table':>9} {'state':>9} {'batch':>8} {'peak':>9} {'allowed':>9}")
    for layer in LAYERS:
        for optimizer in OPTIMIZERS:
            case = ["--case", f"{layer},{optimizer}"]
            sizes = [
                f"--{key.replace('_', '-')}={getattr(args, key)}"
                for key in ("rows", "dim", "bags", "bag_size", "threads")
            ]
            done = subprocess.run(
                [sys.executable, __file__, *case, *sizes], stdout=subprocess.PIPE, text=True, check=True
            )
            used = json.loads(done.stdout.splitlines()[-1])
            used["allowed"] = used["table"] + used["state"] + ALLOWED + 2 * used["batch"]
            failed += used["peak"] > used["allowed"]
            results.append({"work": "peak memory", "contestant": f"{layer}, {optimizer}", **used})
            columns = (used[key] / 1e6 for key in ("table", "state", "batch", "peak", "allowed"))
            widths = (9, 9, 8, 9, 9)
            text = " ".join(f"{value:{width}.1f}" for value, width in zip(columns, widths, strict=True))
            print(
                f"{layer + ', ' + optimizer:28} {text}{' TOO MUCH' if used['peak'] > used['allowed'] else ''}",
                flush=True,
            )
    write(args, "memory", results)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
