"""What the benchmarks share: batches of ids, contestants in turns, medians, the printed table, the JSON file.

May import: NumPy, psutil, the standard library, and fastembed for its number of threads. Do not break: answers are
checked before anything is timed, contestants take turns in one run, and a batch comes again only after 63 others.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

OURS = "fastembed"
LIMIT = "random-row read"
BATCHES = 64
# Seconds of a turn: a pause, since the threads of the former contestant's runtime spin for a while; untimed; timed.
PAUSE, WARM, TURN = 0.01, 0.015, 0.01


def arguments(description, rounds):
    """The command line; the sizes are those of the README's tables, with `--small` those of its small table."""
    parser = argparse.ArgumentParser(description=description)
    sizes = {"rows": 10_000_000, "dim": 64, "bags": 4096, "bag_size": 26, "rounds": rounds}
    for name, size in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size, help=f"default {size}")
    parser.add_argument("--threads", type=int, default=len(_processors()), help="default: all processors")
    parser.add_argument("--ids", default="", help="uniform, zipf, or both with a comma (default)")
    parser.add_argument("--small", action="store_true", help="100,000 rows, 2048 bags of 10 Zipf ids")
    parser.add_argument("--own-tables", action="store_true", help="each peer has a table of its own; see README.md")
    parser.add_argument("--only", default="", help="the peers to run, with commas (default: all that are installed)")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    return parser


def parse(parser):
    """The arguments. The process is limited to as many processors as it may use threads, whoever starts the threads."""
    args = parser.parse_args()
    if args.small:
        args.rows, args.bags, args.bag_size = 100_000, 2048, 10
    args.ids = (args.ids or ("zipf" if args.small else "uniform,zipf")).split(",")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(_processors())[: args.threads])
    import fastembed

    fastembed.set_num_threads(args.threads)
    print(
        f"{processor()}, {args.threads} threads; table {args.rows:,} x {args.dim}, {args.bags} bags of {args.bag_size}"
    )
    return args


def _processors():
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def processor():
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


class Batches:
    """64 batches of int64 ids (bags, bag size), given out in rotation.

    "uniform", or "zipf": rank r = 1, 2, ... with probability ~ r^-1.05. Rank r is row r * prime mod rows, so that
    frequent rows are no neighbours.
    """

    def __init__(self, kind, args):
        rng = np.random.default_rng(1)
        shape = (BATCHES, args.bags, args.bag_size)
        if kind == "uniform":
            self._ids = rng.integers(args.rows, size=shape)
        elif kind == "zipf":
            cumulative = np.cumsum(np.arange(1, args.rows + 1, dtype=np.float64) ** -1.05)
            ranks = 1 + np.searchsorted(cumulative, rng.random(shape) * cumulative[-1])
            self._ids = np.minimum(ranks, args.rows) * 2_654_435_761 % args.rows
        else:
            raise SystemExit(f"--ids must be uniform or zipf, not {kind!r}")
        self.kind = kind
        self._next = 0

    def next(self):
        """The next batch."""
        self._next += 1
        return self._ids[self._next % BATCHES]


@dataclass
class Contestant:
    """`run(prepare(ids))` does the work; only `run` is timed."""

    name: str
    run: Callable
    prepare: Callable = lambda ids: ids
    answer: Callable | None = np.asarray  # what `run` returns as an array; None: it is checked elsewhere
    versus: str = OURS  # whose time the ratio is taken to
    target: float | None = None  # what the ratio should reach; of ours: the share of the limit
    table_vd: np.ndarray | None = None  # the memory it trains
    at_most: int = 1 << 30  # rounds, for the very slow


def check(name, right, detail=""):
    """Ends the run, with exit code 1, where an answer is wrong."""
    if not right:
        raise SystemExit(f"WRONG ANSWER: {name} {detail}")


def race(contestants, batches, rounds, warm=WARM, turn=TURN):
    """Seconds a call of each contestant, one number a round; who begins a round changes.

    A turn first works for `warm` seconds untimed (one call at least): the frequent rows are then in the caches, as in a
    training loop, and the system has put the threads on different processors, which takes it up to 12 ms. Then come as
    many timed calls as fill `turn` seconds; their median counts. Each call has a batch of its own.
    """
    seconds = {contestant.name: [] for contestant in contestants}
    with watched():
        for number in range(rounds):
            first = number % len(contestants)
            for contestant in contestants[first:] + contestants[:first]:
                if number < contestant.at_most:
                    time.sleep(PAUSE)
                    _calls(contestant, batches, warm)
                    seconds[contestant.name].append(float(np.median(_calls(contestant, batches, turn))))
    return seconds


def _calls(contestant, batches, fill):
    """The seconds of as many calls as fill `fill` seconds."""
    seconds = []
    while sum(seconds) < fill:
        prepared = contestant.prepare(batches.next())
        start = time.perf_counter()
        contestant.run(prepared)
        seconds.append(time.perf_counter() - start)
    return seconds


@contextlib.contextmanager
def watched():
    """Says so if other processes, or other guests of the machine, were busy meanwhile: the times are then worthless."""
    try:
        import psutil
    except ImportError:
        print("psutil: not installed; nobody watches what else the machine does")
        yield
        return

    def others():
        times = psutil.cpu_times()
        own = sum(os.times()[:4])  # this process and the children that it waited for
        return sum(getattr(times, kind, 0) for kind in ("user", "nice", "system", "steal")) - own

    start, before = time.perf_counter(), others()
    yield
    share = (others() - before) / (time.perf_counter() - start)
    if share > 0.05:
        print(f"NOT QUIET: others used {share:.0%} of a processor during this race")


def report(work, kind, contestants, seconds, rows, row_bytes, results, limit=LIMIT):
    """Prints the table of a race and appends its lines to `results`. A ratio is the median of the rounds' ratios."""
    print(f"\n{work}" + (f", {kind} ids" if kind else ""))
    print(f"{'':24} {'ms':>9}  {'quartiles':>19} {'ns/row':>8} {'GB/s':>7} {'share':>6}")
    for c in contestants:
        low, middle, high = (float(q) for q in np.quantile(seconds[c.name], (0.25, 0.5, 0.75)))
        share = _ratio(seconds.get(limit), seconds[c.name])
        ratio = _ratio(seconds[c.name], seconds.get(c.versus)) if c.name not in (c.versus, limit) else None
        line = {"work": work, "ids": kind, "contestant": c.name, "ms": middle * 1e3}
        line |= {"quartiles_ms": [low * 1e3, high * 1e3], "ns_per_row": middle / rows * 1e9}
        line |= {"gb_per_s": rows * row_bytes / middle / 1e9, "share_of_limit": share}
        line |= {"ratio": ratio, "versus": c.versus, "target": c.target}
        results.append(line)
        reached, text = (
            (share, f"{share or 0:.2f} of the limit") if c.name == OURS else (ratio, f"{ratio or 0:.1f} x {c.name}")
        )
        text = "" if reached is None or (c.name == OURS and not c.target) else text + wanted(reached, c.target)
        quartiles = f"{low * 1e3:.3f}..{high * 1e3:.3f}"
        print(
            f"{c.name:24} {middle * 1e3:9.3f}  {quartiles:>19} {line['ns_per_row']:8.2f} {line['gb_per_s']:7.2f} "
            f"{'' if share is None else f'{share:.2f}':>6}  {text}",
            flush=True,
        )


def wanted(reached, target, below=False):
    """The target in words, and whether it was missed."""
    if target is None:
        return ""
    missed = reached > target if below else reached < target
    return f" (target {'under ' if below else ''}{target:g}{', MISSED' if missed else ''})"


def _ratio(above, below):
    """The median of the rounds' ratios."""
    return float(np.median([a / b for a, b in zip(above, below, strict=False)])) if above and below else None


def write(args, script, results):
    """The JSON file, if one was asked for: where and when, the sizes, the lines of all tables."""
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "only")}
        machine = {"processor": processor(), "threads": args.threads, "date": str(datetime.date.today())}
        content = {"script": script, "machine": machine, "settings": settings, "results": results}
        pathlib.Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
