"""How long does it take to create a table with uniform values, in fresh memory each time?

The limit: ones, written by as many threads into fresh memory.

May import: fastembed, _harness, _peers. Do not break: nobody gets memory that was touched before, and each table is
checked before anything is timed.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from _harness import OURS, Contestant, arguments, check, parse, report, watched, write
from _peers import load_tensorflow, load_torch

import fastembed

LOW, HIGH = -0.05, 0.05
ONES = "writing ones"


def contestants(args):
    """Each returns a new table (rows, dim), uniform in [-0.05, 0.05)."""
    shape = (args.rows, args.dim)

    def ours(_):
        layer = fastembed.Embedding(*shape, embeddings_initializer="uniform")
        layer.build()
        return layer.embeddings.numpy()

    yield Contestant(OURS, ours, target=0.5)
    torch = load_torch(args)
    if torch is not None:
        yield Contestant("torch", lambda _: torch.empty(shape).uniform_(LOW, HIGH), target=2)
    tf = load_tensorflow(args)
    if tf is not None:
        yield Contestant("tensorflow", lambda _: tf.random.uniform(shape, LOW, HIGH))

    def numpy(_):
        table_vd = np.random.default_rng().random(shape, dtype=np.float32)
        table_vd *= HIGH - LOW
        table_vd += LOW
        return table_vd

    yield Contestant("numpy Generator", numpy)


def write_ones(args):
    """A new table of ones."""
    table_vd = np.empty((args.rows, args.dim), np.float32)
    with ThreadPoolExecutor(args.threads) as pool:
        list(pool.map(lambda part: part.fill(1), np.array_split(table_vd, args.threads)))
    return table_vd


def looks_uniform(table_vd, shape):
    """Shape, range and moments of the first and last million rows; no row twice in a sample."""
    ends = np.concatenate([table_vd[:1_000_000], table_vd[-1_000_000:]])
    sample = table_vd[:: max(1, len(table_vd) // 10_000)]
    return (
        table_vd.shape == shape
        and ends.min() >= LOW
        and ends.max() <= HIGH  # float32 rounds the upper end up
        and abs(ends.mean(dtype=np.float64)) < 1e-4
        and abs(ends.std(dtype=np.float64) - (HIGH - LOW) / 12**0.5) < 1e-4
        and len(np.unique(sample, axis=0)) == len(sample)
    )


def main():
    args = parse(arguments(__doc__, rounds=5))
    entrants = list(contestants(args))
    for c in entrants:
        check(c.name, looks_uniform(c.answer(c.run(None)), (args.rows, args.dim)))
    entrants.append(Contestant(ONES, lambda _: write_ones(args)))
    seconds = {c.name: [] for c in entrants}
    with watched():
        for number in range(args.rounds):
            first = number % len(entrants)
            for c in entrants[first:] + entrants[:first]:
                start = time.perf_counter()
                table = c.run(None)
                seconds[c.name].append(time.perf_counter() - start)
                del table
    results = []
    report("create a uniform table", "", entrants, seconds, args.rows, args.dim * 4, results, ONES)
    write(args, "create", results)


if __name__ == "__main__":
    main()
