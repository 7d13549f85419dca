"""What do threads cost beside torch? Calls of both in turn against the same calls apart, in either order of import.

May import: the standard library, _harness; a case, which has a Python of its own, also NumPy, torch and fastembed. Do
not break: it is the installed library that is measured, with the OpenMP runtime that its wheel carries, so nothing
here may put a checkout on the path; exit code 1 where a ratio is over the limit.

    python benchmarks/beside_torch.py            # each order, torch.add and a step of torch
    python benchmarks/beside_torch.py --alone    # what waiting asleep costs this library's own calls

Both take `--spins default,passive,0,1000,10000`: a row for each way of waiting, set in the environment of the case.
"""

import argparse
import importlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from _harness import watched

LIMIT = 2.0
ORDERS = ("fastembed first", "fastembed used", "torch first")
WORKS = ("torch.add", "a step of torch")
PAUSES = (0, 0.001, 0.02)
PAUSE = 0.01  # seconds before a turn: the threads of the one before spin for a while
TURN = 0.005  # seconds of the calls that are timed, after as many that are not
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def runtimes():
    """The OpenMP runtimes that this process has loaded."""
    lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return sorted(path for path in paths if any(name in path.rsplit("/", 1)[-1] for name in ("gomp", "omp5", "libomp")))


def median(call, pause=0.0, turn=TURN):
    """The median microseconds of the calls of a turn; each begins `pause` seconds after the one before."""
    seconds, begun = [], time.perf_counter()
    while (past := time.perf_counter() - begun) < 2 * turn or len(seconds) < 3:
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        call()
        if past >= turn:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e6


def beside(order, work, rounds):
    """A round is a turn of each alone, then one of pairs. The ratio is a pair's time to the sum of the two apart: the
    median of the rounds' ratios, and that of the best turns, which a busy machine disturbs less."""
    for name in ("torch", "fastembed") if order == "torch first" else ("fastembed", "torch"):
        importlib.import_module(name)
        if order == "fastembed used" and name == "fastembed":  # its runtime has threads before torch comes
            sys.modules[name].EmbeddingBag(100_000, 64)([[1] * 10] * 4096)
    import numpy as np
    import torch

    import fastembed

    torch.set_num_threads(2)
    fastembed.set_num_threads(2)
    layer = fastembed.EmbeddingBag(4096, 64, combiner="sum")
    ids = np.random.default_rng(1).integers(4096, size=(256, 16))  # 1 MB of rows: the size of torch's work
    a, b = torch.ones(1 << 18), torch.ones(1 << 18)

    def step():
        weight.grad = None
        (weight @ inputs).square().mean().backward()
        torch.add(weight.detach(), weight.grad, alpha=-0.1, out=weight.detach())

    weight, inputs = torch.randn(512, 512, requires_grad=True), torch.randn(512, 32)
    theirs = step if work == "a step of torch" else lambda: torch.add(a, b)

    def ours():
        return layer(ids)

    def pair():
        theirs()
        ours()

    expected = layer.embeddings.numpy()[ids].sum(1, dtype=np.float64)
    right = np.allclose(layer(ids), expected, 1e-5, 1e-6) and bool((torch.add(a, b) == 2).all())
    times = {name: [] for name in ("theirs", "ours", "pair")}
    for _ in range(rounds):
        for name, call in {"theirs": theirs, "ours": ours, "pair": pair}.items():
            time.sleep(PAUSE)
            times[name].append(median(call))
    ratios = [pair / (theirs + ours) for theirs, ours, pair in zip(*times.values(), strict=True)]
    best = {name: min(values) for name, values in times.items()}
    found = {"right": right, "ratio": statistics.median(ratios), "best": best["pair"] / (best["theirs"] + best["ours"])}
    found |= {name: statistics.median(values) for name, values in times.items()}
    return found | {"loaded": [f"fastembed: {fastembed.__file__}", *runtimes()]}


def alone(_order, _work, rounds):
    """A look-up of 4096 x 26 and a step of a small table, back to back and after pauses; microseconds by pause."""
    import numpy as np

    import fastembed

    fastembed.set_num_threads(2)
    bag, small = (fastembed.EmbeddingBag(rows, 64, combiner="sum") for rows in (1_000_000, 100_000))
    rng = np.random.default_rng(1)
    ids, small_ids = rng.integers(len(bag.embeddings), size=(4096, 26)), rng.integers(100_000, size=(2048, 10))
    upstream = rng.standard_normal((2048, 64)).astype(np.float32)
    optimizer = fastembed.optimizers.RowwiseAdagrad()

    def step():
        small(small_ids)
        optimizer.apply_gradients([(small.gradient(small_ids, upstream), small.embeddings)])

    times = {}
    for _ in range(rounds):
        for name, call in {"look-up": lambda: bag(ids), "step": step}.items():
            for pause in PAUSES:
                times.setdefault(f"{name}, {pause * 1e3:g} ms", []).append(median(call, pause, 4 * TURN))
    expected = bag.embeddings.numpy()[ids[:9]].sum(1, dtype=np.float64)
    right = np.allclose(bag(ids[:9]), expected, 1e-5, 1e-6)
    return {"right": right, "us": {name: (min(us), statistics.median(us)) for name, us in times.items()}}


def run(case, spin, order, work, rounds):
    """What the case printed, from a Python of its own that waits as `spin` says."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES or spin == "environment"}
    if spin == "passive":
        environment["OMP_WAIT_POLICY"] = "passive"
    elif spin.isdigit():
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, __file__, "--case", json.dumps([case, order, work, rounds])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    if not found["right"]:
        raise SystemExit(f"WRONG ANSWER: {case}, {order}, {work}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41, help="default 41")
    ways = "with commas: environment (as it is; default), default (no variable), passive, or a GOMP_SPINCOUNT"
    parser.add_argument("--spins", default="environment", help=ways)
    parser.add_argument("--alone", action="store_true", help="without torch: what pauses between calls cost")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        case, *rest = json.loads(args.case)
        print(json.dumps({"beside": beside, "alone": alone}[case](*rest)))
        return 0
    spins = args.spins.split(",")
    with watched():
        return show_alone(spins, args.rounds) if args.alone else show_beside(spins, args.rounds)


def show_alone(spins, rounds):
    """A line for each way of waiting."""
    print("microseconds, the best round and the median one, by the pause before each call")
    for spin in spins:
        us = run("alone", spin, "", "", rounds)["us"]
        print(f"{spin:12} " + "; ".join(f"{name} {low:.0f} {middle:.0f}" for name, (low, middle) in us.items()))
    return 0


def show_beside(spins, rounds):
    """A line for each case, the runtimes that were loaded, and whether a ratio is over the limit."""
    print(f"{'waiting':12} {'imported':16} {'work':16}   theirs     ours  in turn us    ratio, of the best")
    loaded, worst = set(), 0.0
    for spin, order, work in itertools.product(spins, ORDERS, WORKS):
        found = run("beside", spin, order, work, rounds)
        worst = max(worst, found["ratio"], found["best"])
        columns = " ".join(f"{found[name]:8.0f}" for name in ("theirs", "ours", "pair"))
        print(f"{spin:12} {order:16} {work:16} {columns}    {found['ratio']:8.2f} {found['best']:8.2f}", flush=True)
        loaded.update(found["loaded"])
    print(*sorted(loaded), sep="\n")
    print(f"largest ratio {worst:.2f} (limit {LIMIT:g}{', EXCEEDED' if worst > LIMIT else ''})")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
