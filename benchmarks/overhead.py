"""What does a call cost, and an import? A look-up of 8 ids against `table[ids]`; a step of twenty tables against one of
one table; `import fastembed` against NumPy's.

May import: fastembed, _harness, _peers. Do not break: contestants take turns; a turn of look-ups is long enough (2000
calls) for the clock, and every import has a Python of its own.
"""

import pathlib
import subprocess
import sys
import time

import numpy as np
from _harness import OURS, Contestant, arguments, check, parse, wanted, watched, write
from _peers import load_torch, torch_weight

import fastembed

CALLS = 2000


def calls(args):
    """Look-ups of 8 ids in a small table."""
    layer = fastembed.Embedding(1000, args.dim)
    table_vd = layer.embeddings.numpy()
    ids = np.array([3, 999, 0, 17, 256, 3, 512, 42])
    out = np.empty((8, args.dim), np.float32)
    check(OURS, np.array_equal(layer(ids), table_vd[ids]) and np.array_equal(layer(ids, out=out), table_vd[ids]))
    yield Contestant("numpy table[ids]", lambda: table_vd[ids])
    yield Contestant(OURS, lambda: layer(ids))
    yield Contestant(f"{OURS} out=", lambda: layer(ids, out=out))
    torch = load_torch(args)
    if torch is not None:
        weight, ids_torch = torch_weight(torch, args, table_vd), torch.from_numpy(ids)
        yield Contestant("torch", torch.no_grad()(lambda: torch.nn.functional.embedding(ids_torch, weight)))


def steps(rows):
    """A step of Adam on twenty tables of 100 rows to `rows`, with 26 ids each: all in one call, and one alone."""
    sizes = np.geomspace(100, rows, 20).astype(int)
    tables = [fastembed.Table((size, 16)) for size in sizes.tolist()]
    rng = np.random.default_rng(0)
    upstream = rng.standard_normal((26, 16)).astype(np.float32)
    pairs = [(fastembed.IndexedSlices(upstream, rng.integers(0, len(t), 26), t.shape), t) for t in tables]
    together, alone = fastembed.optimizers.Adam(), fastembed.optimizers.Adam()
    for gradient, table in pairs:
        optimizer, copy = fastembed.optimizers.Adam(), np.zeros(table.shape, np.float32)
        optimizer.apply_gradients([(gradient, copy)])
        fastembed.optimizers.Adam().apply_gradients([(gradient, table)])
        check("twenty tables", np.array_equal(table.numpy(), copy))
    yield Contestant("one table", lambda: alone.apply_gradients(pairs[-1:]))
    yield Contestant(f"{OURS}, twenty tables", lambda: together.apply_gradients(pairs))


def imports():
    """A new Python that imports a package, and one that imports nothing."""
    for name in ("", "numpy", "fastembed"):
        command = [sys.executable, "-c", f"import {name}" if name else ""]
        yield Contestant(f"import {name}" if name else "python", lambda c=command: subprocess.run(c, check=True))


def interleaved(contestants, rounds, calls):
    """The seconds of a call, one number a round; the first round is not counted."""
    seconds = {c.name: [] for c in contestants}
    with watched():
        for _ in range(rounds + 1):
            for c in contestants:
                start = time.perf_counter()
                for _ in range(calls):
                    c.run()
                seconds[c.name].append((time.perf_counter() - start) / calls)
    return {name: np.array(times[1:]) for name, times in seconds.items()}


def show(work, seconds, versus, unit, factor, target, results):
    """Prints medians, and how much more than `versus` ours takes."""
    print(f"\n{work}")
    for name, times in seconds.items():
        more = float(np.median(times - seconds[versus])) * factor
        goal = target if OURS in name else None
        line = {"work": work, "ids": "", "contestant": name, "ms": float(np.median(times)) * 1e3, "more": more}
        results.append(line | {"unit": unit, "target": goal})
        text = f"{more:+8.2f} {unit} to {versus}" if name != versus else ""
        print(f"{name:24} {np.median(times) * factor:9.2f} {unit}  {text}{wanted(more, goal, below=True)}")


def main():
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--wheel", help="a wheel, whose size is printed")
    args = parse(parser)
    results = []
    seconds = interleaved(list(calls(args)), args.rounds, CALLS)
    show("a look-up of 8 ids", seconds, "numpy table[ids]", "us", 1e6, 5, results)
    seconds = interleaved(list(steps(args.rows)), args.rounds, CALLS // 20)
    one, twenty = seconds.values()
    ratio = float(np.median(twenty / one))
    print(
        f"\na step of one table {np.median(one) * 1e6:.0f} us, of twenty {np.median(twenty) * 1e6:.0f}: "
        f"{ratio:.1f} x{wanted(ratio, 10, below=True)}"
    )
    results.append({"work": "a step of twenty tables, to one", "ids": "", "ratio": ratio, "target": 10})
    show("import", interleaved(list(imports()), args.rounds, 1), "import numpy", "ms", 1e3, 30, results)
    if args.wheel:
        megabytes = pathlib.Path(args.wheel).stat().st_size / 1e6
        print(f"\nwheel: {megabytes:.2f} MB{wanted(megabytes, 2, below=True)}")
        results.append({"work": "wheel", "ids": "", "mb": megabytes, "target": 2})
    write(args, "overhead", results)


if __name__ == "__main__":
    main()
