"""What do rows that a step did not touch cost, and what do they do to a training? The three modes, on real text.

May import: fastembed, _harness, matplotlib, examples/word_vectors.py. Do not break: the trainings that are compared
have the same first values, batches and rates; before anything is drawn, "catch_up" is checked against "dense".

    python benchmarks/modes.py                 draws docs/modes.png
    python benchmarks/modes.py --quick         the same in miniature, for CI
    python benchmarks/modes.py --search        no picture: how the learning rates were chosen

The model is that of examples/word_vectors.py, on the same text: a table of subwords, and one of contexts. The losses
are of a table of 100,000 rows, so that all steps of "dense" can be awaited; the times are of the example's 2,000,000
rows too. The ids are those of the text in both: it has fewer subwords than 2,000,000, and the other rows stay idle.
"""

import argparse
import datetime
import pathlib
import sys
import sysconfig
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from _harness import Contestant, check, processor, race

import fastembed
from fastembed import optimizers

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
import word_vectors as example  # noqa: E402

SEED = 1
WORDS = 512  # of a step: few, so that most rows miss most steps
WINDOW = 50  # steps whose losses are averaged
CHECKED = 30  # steps after which "catch_up" and "dense" are compared
# How far their tables may be apart then, in units of the way that they have moved, both in root mean square: where the
# parts of a gradient cancel, Adam makes much of the rounding of single elements.
CLOSE = 1e-5
SAME_LOSS = 1e-4  # and their losses, at any time, in units of the loss: rounding grows in a training
RATES = {"Adam": 0.01, "SGD, momentum": 0.01}  # by --search
GRID = {"Adam": (0.003, 0.01, 0.03, 0.1), "SGD, momentum": (0.003, 0.01, 0.03)}
COLORS = {"dense": "#e08a1e", "catch_up": "#1f6fb2", "skip": "#3c8f4f"}
LINES = {"dense": {"lw": 4, "alpha": 0.5}, "catch_up": {"lw": 1.2}, "skip": {"lw": 1.5, "ls": "--"}}


def make_optimizer(name, rate, mode):
    """An optimizer by its name here."""
    if name == "Adam":
        return optimizers.Adam(rate, untouched=mode)
    return optimizers.SGD(rate, momentum=0.9, untouched=mode)


class Training:
    """The example's model, its first values and its batches, all of SEED."""

    def __init__(self, corpus, rows, name, mode, rate=None):
        text_n, names, counts_v = corpus
        fastembed.set_random_seed(SEED)
        self.subwords = fastembed.Ragged.from_lists([example.subword_ids(word, rows) for word in names])
        self.bag = fastembed.EmbeddingBag(rows, example.DIM, combiner="mean")
        self.contexts = fastembed.Embedding(len(names), example.DIM)
        self.sampler = example.Sampler(text_n, counts_v, np.random.default_rng(SEED))
        self.optimizer = make_optimizer(name, rate or RATES[name], mode)
        self.tables = [self.bag.embeddings, self.contexts.embeddings]
        self.optimizer.build(self.tables)

    def step(self, _=None):
        """One step; returns the loss of its batch, before it."""
        return example.step(self.bag, self.contexts, self.optimizer, self.subwords, self.sampler, WORDS)


def losses(training, steps):
    """The mean loss of each WINDOW of steps, and the milliseconds of a step (the median)."""
    found, seconds = [], []
    for _ in range(steps):
        start = time.perf_counter()
        found.append(training.step())
        seconds.append(time.perf_counter() - start)
    return np.reshape(found, (-1, WINDOW)).mean(axis=1), float(np.median(seconds)) * 1e3


def check_modes(corpus, rows, name):
    """After a few steps, "catch_up" has the tables of "dense", and "skip" has others."""
    trainings = {mode: Training(corpus, rows, name, mode) for mode in COLORS}
    start = [table.numpy().copy() for table in trainings["dense"].tables]
    for training in trainings.values():
        for _ in range(CHECKED):
            training.step()
    for number, start_vd in enumerate(start):
        dense, catch_up, skip = (trainings[mode].tables[number].numpy() for mode in ("dense", "catch_up", "skip"))
        way = np.linalg.norm(dense - start_vd)
        off, other = np.linalg.norm(catch_up - dense) / way, np.linalg.norm(skip - dense) / way
        check(f"{name}: catch_up against dense", off <= CLOSE, f"(table {number}: {off:.2g} of the way)")
        check(f"{name}: skip is something else", other > 100 * CLOSE, f"(table {number}: {other:.2g} of the way)")
        what = ("subwords", "contexts")[number]
        print(f"{name}, {what}, after {CHECKED} steps: from dense, catch_up is {off:.1g} of the way, skip {other:.1g}")


def step_times(corpus, rows, name, warm, rounds):
    """Milliseconds of a step by mode: the median over rounds in which the modes take turns."""
    trainings = {mode: Training(corpus, rows, name, mode) for mode in COLORS}
    for mode, training in trainings.items():
        for _ in range(2 if mode == "dense" else warm):  # rows have missed something then
            training.step()
    contestants = [Contestant(mode, training.step) for mode, training in trainings.items()]
    seconds = race(contestants, Nothing(), rounds)
    return {mode: float(np.median(values)) * 1e3 for mode, values in seconds.items()}


class Nothing:
    """In place of batches: trainings draw their own."""

    def next(self):
        """None."""


def search(corpus, rows, steps):
    """The last mean loss of "dense" and "skip" for each rate of GRID."""
    print(f"the mean loss of steps {steps - WINDOW + 1} to {steps}; table {rows:,} x {example.DIM}")
    for name, rates in GRID.items():
        for rate in rates:
            trainings = {mode: Training(corpus, rows, name, mode, rate) for mode in ("dense", "skip")}
            last = [f"{mode} {losses(training, steps)[0][-1]:.3f}" for mode, training in trainings.items()]
            print(f"{name:16} rate {rate:<6g} {'  '.join(last)}", flush=True)


def draw(curves, times, sizes, note, path):
    """Two panels: losses against steps, and milliseconds as bars."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=(1.4, 1), layout="constrained")
    for name, by_mode in curves.items():
        for mode, means in by_mode.items():
            left.plot(WINDOW * (np.arange(len(means)) + 0.5), means, color=COLORS[mode], **LINES[mode])
        end = by_mode["dense"]
        left.annotate(name, (WINDOW * len(end), end[-1]), (2, 0), textcoords="offset points", va="center", fontsize=9)
    left.set_xlim(0, 1.25 * WINDOW * len(end))
    left.set_title(f"Loss: mean of {WINDOW} steps; table {sizes[0]:,} x {example.DIM}", fontsize=10, loc="left")
    left.set_xlabel("steps", fontsize=9)
    names = list(times)
    bars = [(name, mode) for name in names for mode in COLORS]
    places = [at + 0.8 * (at // len(COLORS)) for at in range(len(bars))][::-1]
    longest = max(max(by_mode.values()) for by_mode in times.values())
    for (name, mode), y in zip(bars, places, strict=True):
        ms = times[name][mode]
        right.barh(y, ms, 0.8, color=COLORS[mode])
        right.text(ms + longest * 0.01, y, f"{ms:.3g}", va="center", fontsize=9)
    right.set_yticks(places, [f"{name}: {mode}" for name, mode in bars], fontsize=9)
    right.set_xlim(0, longest * 1.15)
    right.set_title(f"Milliseconds a step; table {sizes[1]:,} x {example.DIM}", fontsize=10, loc="left")
    right.set_xlabel("ms", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    handles = [plt.Line2D([], [], color=color, **LINES[mode]) for mode, color in COLORS.items()]
    left.legend(handles, [f'untouched="{mode}"' for mode in COLORS], fontsize=9, frameon=False)
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"\nwritten: {path}")


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", metavar="PATH", type=pathlib.Path, help="a text file or a folder of them")
    default = pathlib.Path(__file__).parents[1] / "docs" / "modes.png"
    parser.add_argument("--output", metavar="FILE", type=pathlib.Path, default=default, help="default docs/modes.png")
    parser.add_argument("--steps", metavar="N", type=int, default=3000, help=f"a multiple of {WINDOW}; default 3000")
    parser.add_argument("--threads", metavar="N", type=int, help="default: all processors")
    parser.add_argument("--quick", action="store_true", help="less of everything: 10 seconds")
    parser.add_argument("--search", action="store_true", help="print losses by learning rate, and end")
    return parser.parse_args()


def main():
    args = arguments()
    fastembed.set_num_threads(args.threads)
    words, sizes, warm, rounds = 8_000_000, (100_000, example.ROWS), 150, 15
    if args.quick:
        words, sizes, warm, rounds, args.steps = 200_000, (5_000, 50_000), 10, 2, 3 * WINDOW
    corpus = example.read_corpus(args.corpus, np.random.default_rng(SEED), words, min_count=5)
    if args.search:
        return search(corpus, sizes[0], args.steps)
    curves, times, table = {}, {}, []
    for name in RATES:
        check_modes(corpus, sizes[0], name)
        curves[name], small = {}, {}
        for mode in COLORS:
            curves[name][mode], small[mode] = losses(Training(corpus, sizes[0], name, mode), args.steps)
        apart = np.abs(curves[name]["catch_up"] / curves[name]["dense"] - 1).max()
        check(f"{name}: the losses of catch_up and dense", apart <= SAME_LOSS, f"({apart:.2g} apart)")
        times[name] = step_times(corpus, sizes[1], name, warm, rounds)
        table += [(name, mode, curves[name][mode], small[mode], times[name][mode]) for mode in COLORS]
        print(f"{name}: the losses of catch_up and dense differ by {apart:.1g} at most", flush=True)
    thirds = [args.steps // WINDOW * third // 3 - 1 for third in (1, 2, 3)]
    heads = [f"step {(third + 1) * WINDOW}" for third in thirds] + [f"ms, {rows:,}" for rows in sizes]
    print(f"\n{'loss (the mean of the steps before)':32}" + "".join(f"{head:>15}" for head in heads))
    for name, mode, means, small, large in table:
        numbers = [f"{means[third]:.3f}" for third in thirds] + [f"{small:.2f}", f"{large:.2f}"]
        print(f"{name}, {RATES[name]:g}: {mode:9}".ljust(32) + "".join(f"{number:>15}" for number in numbers))
    corpus_name = args.corpus.name if args.corpus else f"Python {sysconfig.get_python_version()}'s standard library"
    machine = f"{processor()}, {fastembed.get_num_threads()} threads, {datetime.date.today()}"
    note = f"word vectors of {corpus_name}, {WORDS} words a step; {machine}"
    draw(curves, times, sizes, note, args.output)
    return None


if __name__ == "__main__":
    main()
