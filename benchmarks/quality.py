"""What do storage dtypes and their rounding cost in quality, against float32? On real text, and on clicks made up here.

May import: fastembed, _harness, examples/word_vectors.py, matplotlib. Do not break: all trainings of a seed have the
same first values and batches, what measures is never trained on, and float32 must learn far better than chance.

    python benchmarks/quality.py --json benchmarks/quality.json --plot docs/dtypes.png      what docs/dtypes.md shows
    python benchmarks/quality.py --quick                                                    the same in miniature

"words" is the example: subwords, skip-gram, RowwiseAdagrad. "clicks" has 24 fields of Zipf ids, 1,471,480 rows in all;
a hidden factorisation machine draws the labels, and one of 16 columns (a weight and 15 factors a row) learns them; each
example is seen once. "drifted" goes on from the float32 table of "clicks, Adam" with a small learning rate, after the
hidden weights have changed. The bias of the machine is float32 always.
"""

import argparse
import copy
import datetime
import json
import pathlib
import sys
import time

import numpy as np
from _harness import check, processor

import fastembed
from fastembed import optimizers, schedules

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import word_vectors as example

START_ROUNDED = "float32, start rounded"  # a control: float32 training from first values rounded to bfloat16
TRAINED = {  # storage, rounding, state_dtype
    "float32": ("float32", "nearest", "float32"),
    START_ROUNDED: ("float32", "nearest", "float32"),
    "bfloat16, stochastic": ("bfloat16", "stochastic", "float32"),
    "bfloat16, nearest": ("bfloat16", "nearest", "float32"),
    "float16, stochastic": ("float16", "stochastic", "float32"),
    "float16, nearest": ("float16", "nearest", "float32"),
    "bfloat16, state too, stochastic": ("bfloat16", "stochastic", "bfloat16"),
    "bfloat16, state too, nearest": ("bfloat16", "nearest", "bfloat16"),
}
SERVED = {f"float32, served as {name}": name for name in ("bfloat16", "float16", "int8", "int4", "int2")}
CURVES = {"float32": "k-", "bfloat16, stochastic": "C0--", "bfloat16, nearest": "C3-", "float16, nearest": "C1-"}
FIELDS = (2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 350, 600, 1000, 2000, 4000, 8000, 15_000)
LARGE_FIELDS = (30_000, 60_000, 100_000, 200_000, 350_000, 700_000)
ZIPF, DIM, BATCH, BIAS = 1.05, 16, 2048, -1.5


class Words:
    """The task of examples/word_vectors.py: loss of held-out pairs, mean reciprocal rank of true contexts."""

    metric, points = "MRR", 1

    def __init__(self, quick):
        self.rows, self.steps, self.size = (50_000, 60, 1024) if quick else (example.ROWS, 1000, example.BATCH)
        self.pairs, self.at_least = (2000, 0.08) if quick else (10_000, 0.2)  # chance: 0.05
        limit = 600_000 if quick else 20_000_000
        self.corpus = example.read_corpus(None, np.random.default_rng(0), limit, min_count=5)
        self.subwords = fastembed.Ragged.from_lists([example.subword_ids(name, self.rows) for name in self.corpus[1]])

    def start(self, seed):
        """What a seed decides: the text that is held out, and what of it is ranked. Returns the float32 layers."""
        text_n, _, counts_v = self.corpus
        rng = np.random.default_rng(seed)
        held_n = (np.arange(len(text_n)) // min(1000, -(-len(text_n) // 50)) + seed) % 50 == 0
        self.training, self.seed = (text_n[~held_n], counts_v), seed
        held = example.Sampler(text_n[held_n], counts_v, rng)
        self.words_p, around_po = held.places(self.pairs)
        offsets_p = rng.choice(len(example.OFFSETS), self.pairs, p=example.CLOSENESS / example.CLOSENESS.sum())
        true_p = around_po[np.arange(self.pairs), offsets_p]
        self.candidates_pc = np.column_stack([true_p, held.noise((self.pairs, example.CANDIDATES - 1))])
        fastembed.set_random_seed(seed)
        bag = fastembed.EmbeddingBag(self.rows, example.DIM, combiner="mean")
        return [bag, fastembed.Embedding(len(counts_v), example.DIM)]

    def begin(self):
        """A training starts."""
        self.sampler = example.Sampler(*self.training, np.random.default_rng(self.seed))

    def step(self, layers, optimizer, _):
        """Trains on a batch."""
        example.step(*layers, optimizer, self.subwords, self.sampler, self.size)

    def quality(self, layers):
        """The held-out loss, and the metric."""
        bag, contexts = layers
        vectors_vd, losses, ranks = bag(self.subwords), [], []
        for part in np.array_split(np.arange(self.pairs), 10):
            scores_pc = np.einsum("pd,pcd->pc", vectors_vd[self.words_p[part]], contexts(self.candidates_pc[part]))
            noise_p = np.logaddexp(0, scores_pc[:, 1:]).mean(axis=1)
            losses.append(np.logaddexp(0, -scores_pc[:, 0]) + example.NEGATIVES * noise_p)
            ranks.append(example.CANDIDATES - (scores_pc[:, :1] > scores_pc[:, 1:]).sum(axis=1))
        return float(np.concatenate(losses).mean()), float((1 / np.concatenate(ranks)).mean())


def machine(rows_bfd):
    """A factorisation machine, of a weight and factors in each row: the scores of examples, the sums of their rows."""
    sums_bd = np.ones(rows_bfd.shape[1], np.float32) @ rows_bfd
    flat_bn, weights_bf = rows_bfd.reshape(len(rows_bfd), -1), rows_bfd[:, :, 0]
    squares_b = np.einsum("bn,bn->b", flat_bn, flat_bn) - np.einsum("bf,bf->b", weights_bf, weights_bf)
    return sums_bd[:, 0] + 0.5 * ((sums_bd[:, 1:] ** 2).sum(axis=1) - squares_b), sums_bd


class Clicks:
    """The log loss and the AUC of held-out examples."""

    metric = "AUC"

    def __init__(self, quick, before=None):
        """before: the `Clicks` whose last float32 table is trained further, now that the world has drifted."""
        self.sizes = np.array(FIELDS if quick else FIELDS + LARGE_FIELDS)
        self.steps, self.held, self.at_least = (100, 10_000, 0.55) if quick else (400, 50_000, 0.65)  # chance: 0.5
        self.before, self.points = before, 5 if before else 1

    def examples(self, rng, size):
        """Ids (examples, fields), labels, and the probabilities that drew them."""
        # The inverse of a continuous power law, cut to whole ranks; the ids of a field come after those of the former.
        power, ends = 1 - ZIPF, self.sizes + 1.0
        ranks = (1 + rng.random((size, len(ends))) * (ends**power - 1)) ** (1 / power)
        first = np.cumsum(self.sizes) - self.sizes
        ids_bf = (first + np.minimum(ranks.astype(np.int64) - 1, self.sizes - 1)).astype(np.int32)
        chance_b = example.sigmoid(machine(fastembed.ops.gather(self.hidden_vk, ids_bf))[0] + BIAS)
        return ids_bf, (rng.random(size) < chance_b).astype(np.float32), chance_b

    def start(self, seed):
        """What a seed decides: the hidden model and all examples. Returns the float32 layer."""
        rng, before, rows = np.random.default_rng([seed, self.before is not None]), self.before, int(self.sizes.sum())
        weights_v1 = rng.normal(0, 0.2, (rows, 1))
        if before:
            weights_v1 = 0.8 * before.hidden_vk[:, :1] + 0.6 * weights_v1
        factors_vk = before.hidden_vk[:, 1:] if before else rng.normal(0, 0.146, (rows, 8))
        self.hidden_vk = np.concatenate([weights_v1, factors_vk], axis=1).astype(np.float32)
        self.held_ids_bf, self.held_labels_b, chance_b = self.examples(rng, self.held)
        self.limit = log_loss(chance_b, self.held_labels_b), area(chance_b, self.held_labels_b)
        self.batches = [self.examples(rng, BATCH)[:2] for _ in range(self.steps)]
        fastembed.set_random_seed(seed)
        layer = fastembed.Embedding(rows, DIM)
        layer.embeddings.numpy()[:, 0] = 0
        return before.float32 if before else [layer]

    def begin(self):
        """A training starts."""
        self.bias, self.bias_optimizer = np.full(1, BIAS, np.float32), optimizers.SGD(0.01)

    def step(self, layers, optimizer, number):
        """Trains on a batch: the derivative of the log loss by the rows."""
        (layer,), (ids_bf, labels_b) = layers, self.batches[number]
        rows_bfd = layer(ids_bf)
        scores_b, sums_bd = machine(rows_bfd)
        errors_b = (example.sigmoid(scores_b + self.bias) - labels_b) / np.float32(BATCH)
        gradient_bfd = np.subtract(sums_bd[:, None], rows_bfd)
        gradient_bfd *= errors_b[:, None, None]
        gradient_bfd[:, :, 0] = errors_b[:, None]
        optimizer.apply([layer.gradient(ids_bf, gradient_bfd)], [layer.embeddings])
        self.bias_optimizer.apply([errors_b.sum(keepdims=True)], [self.bias])

    def quality(self, layers):
        """The held-out log loss, and the metric."""
        parts = np.array_split(self.held_ids_bf, max(1, self.held // 4000))
        scores_b = np.concatenate([machine(layers[0](part))[0] for part in parts]) + self.bias
        chance_b = example.sigmoid(scores_b.astype(np.float64))
        return log_loss(chance_b, self.held_labels_b), area(chance_b, self.held_labels_b)


def log_loss(chance_b, labels_b):
    """The mean of -log of the probability of what came."""
    return float(-np.log(np.where(labels_b == 1, chance_b, 1 - chance_b)).mean())


def area(chance_b, labels_b):
    """AUC: how often, of a click and another, the click has the higher probability."""
    labels_b = labels_b[np.argsort(chance_b, kind="stable")].astype(np.float64)
    return float(((1 - labels_b).cumsum() * labels_b).sum() / labels_b.sum() / (1 - labels_b).sum())


def stored(layer, storage):
    """A copy of a float32 layer in another storage dtype."""
    if storage in SERVED.values() and storage.startswith("int"):
        other = copy.deepcopy(layer)
        other.quantize(storage)
        return other
    other = type(layer).from_config({**layer.get_config(), "dtype": storage})
    other.embeddings.assign(layer.embeddings.numpy())
    return other


def run(task, make_optimizer, seed):
    """(loss, metric) of what is held out, by variant: those of the points of its training, or the one of serving."""
    first = task.start(seed)
    task.begin()
    found = {"limit": getattr(task, "limit", None), "start": [task.quality(first)]}
    for name, (storage, rounding, state_dtype) in TRAINED.items():
        layers = [stored(layer, storage) for layer in first]
        if name == START_ROUNDED:
            for layer in layers:
                layer.embeddings.assign(stored(layer, "bfloat16").embeddings.to_float32())
        optimizer = make_optimizer(task.steps, rounding=rounding, state_dtype=state_dtype, rounding_seed=seed)
        found[name] = []
        task.begin()
        for number in range(task.steps):
            task.step(layers, optimizer, number)
            if (number + 1) % (task.steps // task.points) == 0:
                found[name].append(task.quality(layers))
        if name == "float32":
            (loss, metric), (loss_before, _) = found[name][-1], found["start"][0]
            check("float32 learns", metric > task.at_least and loss < loss_before, f"({loss:.4f}, {metric:.4f})")
            task.float32 = layers
            for served, dtype in SERVED.items():
                found[served] = [task.quality([stored(layer, dtype) for layer in layers])]
    return found


def tables(results):
    """Markdown: losses above float32's of the same seed, in percent; and metrics, in thousandths."""
    for number, what in enumerate(("loss: % above float32", "MRR or AUC: thousandths above float32")):
        yield f"| {what}, mean (seeds: lowest to highest) | " + " | ".join(results) + " |"
        yield "|" + " --- |" * (len(results) + 1)
        for name in (*TRAINED, *SERVED):
            cells = []
            for result in results.values():
                mine, exact = (np.array([seed[n][-1][number] for seed in result["seeds"]]) for n in (name, "float32"))
                values = mine if name == "float32" else 1000 * (mine - exact) if number else 100 * (mine / exact - 1)
                form = "{:.4f}" if name == "float32" else "{:+.2f}" if number else "{:+.3f}"
                cells.append("{1} ({0} to {2})".format(*map(form.format, (min(values), values.mean(), max(values)))))
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""


def draw(results, note, path):
    """Left: losses above float32's, by variant. Right: those of the last task against steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), width_ratios=(1.3, 1), layout="constrained")
    names = [name for name in (*TRAINED, *SERVED) if name != "float32"]
    for at, (head, result) in enumerate(results.items()):
        exact = np.array([seed["float32"][-1][0] for seed in result["seeds"]])
        for y, name in enumerate(names):
            percent = 100 * (np.array([seed[name][-1][0] for seed in result["seeds"]]) / exact - 1)
            place = y + 0.18 * (at - 1.5)
            left.plot([percent.min(), percent.max()], [place] * 2, color=f"C{at}", lw=1)
            left.plot(percent.mean(), place, "o", ms=4, color=f"C{at}", label=None if y else head)
    left.axvline(0, color="0.7", lw=0.8, zorder=0)
    left.set_xscale("symlog", linthresh=0.1)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_title("Held-out loss, % above float32 (linear up to 0.1): mean, all seeds", fontsize=10, loc="left")
    points = len(result["seeds"][0]["float32"])
    steps = result["steps"] // points * np.arange(points + 1)
    for name, line in CURVES.items():
        curves = [[quality[0] for quality in [*seed["start"], *seed[name]]] for seed in result["seeds"]]
        right.plot(steps, np.mean(curves, axis=0), line, lw=1.4, label=name)
    right.set_title(f"Held-out loss, {head}: mean of the seeds", fontsize=10, loc="left")
    right.set_xlabel("steps", fontsize=9)
    for axes in (left, right):
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", default=[1, 2, 3], help="default 1 2 3")
    parser.add_argument("--threads", metavar="N", type=int, help="default: all processors; changes no result")
    parser.add_argument("--quick", action="store_true", help="less of everything: 20 s a seed")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all results there")
    parser.add_argument("--plot", metavar="FILE", type=pathlib.Path, help="draw them there")
    args = parser.parse_args()
    fastembed.set_num_threads(args.threads)
    words, clicks = Words(args.quick), Clicks(args.quick)
    tasks = {
        "words, RowwiseAdagrad": (words, lambda _, **how: optimizers.RowwiseAdagrad(example.LEARNING_RATE, **how)),
        "clicks, Adagrad": (clicks, lambda _, **how: optimizers.Adagrad(0.05, initial_accumulator_value=0.0, **how)),
        "clicks, Adam": (clicks, lambda n, **how: optimizers.Adam(schedules.CosineDecay(0.005, n), **how)),
        "drifted, Adam": (Clicks(args.quick, clicks), lambda _, **how: optimizers.Adam(0.0001, **how)),
    }
    results = {head: {"steps": task.steps, "metric": task.metric, "seeds": []} for head, (task, _) in tasks.items()}
    for seed in args.seeds:
        for head, (task, make_optimizer) in tasks.items():
            start = time.perf_counter()
            results[head]["seeds"].append(run(task, make_optimizer, seed))
            print(f"seed {seed}, {head}: {time.perf_counter() - start:.0f} s", flush=True)
    print("", *tables(results), sep="\n")
    note = f"{len(args.seeds)} seeds; {processor()}, {datetime.date.today()}"
    if args.json:
        args.json.write_text(json.dumps({"note": note, "results": results}) + "\n")
    if args.plot:
        draw(results, note, args.plot)


if __name__ == "__main__":
    main()
