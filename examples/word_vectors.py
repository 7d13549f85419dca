"""Trains word vectors on real text: skip-gram with negative sampling over subwords, as fastText does.

    python examples/word_vectors.py                   the source text of Python's standard library, 2 to 5 minutes
    python examples/word_vectors.py --quick           the same in miniature, a few seconds
    python examples/word_vectors.py --corpus PATH     any text file, or a folder of them

A word's vector is the mean of a bag of rows of one large table: a row for each of its character n-grams, found by
hashing. Training moves it towards the vectors of the words around it, and away from those of random words. Look-ups,
gradients of the tables and updates are the library's; the few lines of calculus between them are NumPy, in `step`.

May import: NumPy, fastembed, tqdm, matplotlib. Do not break: a seed gives the same vectors for any number of threads,
and the text that measures the result is never trained on.
"""

import argparse
import os
import re
import sys
import sysconfig
import time
import zlib
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import fastembed

ROWS, DIM = 2_000_000, 64  # the subword table
WINDOW = 5  # words to the left and to the right that count as context
OFFSETS = np.r_[-WINDOW:0, 1 : WINDOW + 1]
CLOSENESS = ((WINDOW + 1 - np.abs(OFFSETS)) / WINDOW).astype(np.float32)  # near contexts count more
BATCH = 4096  # words in a step
SHARED = 64  # so many words of a step share so many random words
NEGATIVES = 5  # a true pair weighs as much as so many random ones
LEARNING_RATE = 0.4
CANDIDATES = 100  # the ranking test: the true context among 99 random words
SHOWN = ["file", "string", "list", "error", "thread", "socket", "read", "path", "date", "encode", "integer", "parse"]

WORD = re.compile(r"[^\W\d_]{2,}")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


# ---- text to numbers -----------------------------------------------------------------------------------------------


def fail(message):
    """Ends the program with one line and exit code 2."""
    print(f"word_vectors: {message}", file=sys.stderr)
    raise SystemExit(2)


def corpus_files(root, suffix=""):
    """The files of a folder and its subfolders in a fixed order, or the file itself."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        fail(f"neither a file nor a folder: {root}")
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and name not in ("site-packages", "__pycache__")
        )
        files += [Path(folder, name) for name in sorted(names) if name.endswith(suffix)]
    return files


def text_blocks(path):
    """The text of a file, about a million characters at a time; nothing of a binary or unreadable file."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            while (block := file.read(1 << 20)) and "\0" not in block:
                yield block
    except OSError as error:
        tqdm.write(f"skipped {path}: {error.strerror}")


def read_words(files, limit):
    """Words as numbers: int32 array of at most about `limit`, and what word each number stands for."""
    numbers, blocks, count = {}, [np.empty(0, np.int32)], 0
    for path in tqdm(files, desc="reading", unit="file", leave=False):
        for block in text_blocks(path):
            words = WORD.findall(CAMEL.sub(" ", block).lower())
            blocks.append(np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int32))
            count += len(words)
            if count >= limit:
                return np.concatenate(blocks), list(numbers)
    return np.concatenate(blocks), list(numbers)


def keep_frequent(text_n, names, min_count):
    """Drops rare words; returns the text, the words and their counts, numbered from the most frequent down."""
    counts_v = np.bincount(text_n, minlength=len(names))
    order_v = np.argsort(-counts_v, kind="stable")
    order_v = order_v[counts_v[order_v] >= min_count]
    renumbered_v = np.full(len(names), -1, np.int32)
    renumbered_v[order_v] = np.arange(len(order_v))
    text_n = renumbered_v[text_n]
    return text_n[text_n >= 0], [names[i] for i in order_v], counts_v[order_v]


def read_corpus(path, rng, limit, min_count):
    """The text of a file or folder (None: of Python's standard library), its files in random order: see
    `keep_frequent`."""
    root = path or Path(sysconfig.get_paths()["stdlib"])
    files = corpus_files(root, "" if path else ".py")
    files = [files[i] for i in rng.permutation(len(files))]
    text_n, names = read_words(files, limit)
    read = len(text_n)
    text_n, names, counts_v = keep_frequent(text_n, names, min_count)
    if len(names) < 20:
        fail(f"too little text in {root}: {read} words; {len(names)} occur {min_count} times, and 20 must")
    print(f"corpus: {root} (files: {len(files):,}), {read:,} words read, vocabulary {len(names):,}")
    return text_n, names, counts_v


def subword_ids(word, rows=ROWS):
    """Rows of the table for a word: hashes (FNV-1a) of "<word>" and of its n-grams of 3 to 6 characters."""
    text = f"<{word}>"
    grams = [text[i : i + n] for n in range(3, 7) for i in range(len(text) - n + 1) if n < len(text)]
    ids = []
    for gram in [text, *grams]:
        code = 2166136261
        for octet in gram.encode():
            code = (code ^ octet) * 16777619 & 0xFFFFFFFF
        ids.append(code % rows)
    return ids


class Sampler:
    """Draws what a step needs from a text: words, the words around them, and random words."""

    def __init__(self, text_n, counts_v, rng):
        # Very frequent words tell little: most of their occurrences are left out, and windows reach across the gaps.
        limit = max(1e-4 * counts_v.sum(), 100)
        keep_v = np.sqrt(limit / counts_v)
        self.text_n = text_n[rng.random(len(text_n)) < keep_v[text_n]]
        self.rng = rng
        noise_v = np.cumsum(counts_v**0.75)
        self.noise_v = noise_v / noise_v[-1]

    def places(self, size):
        """`size` random places of the text: words (size,), and those around them (size, offsets)."""
        places_b = self.rng.integers(len(self.text_n), size=size)
        return self.text_n[places_b], self.text_n[(places_b[:, None] + OFFSETS) % len(self.text_n)]

    def noise(self, shape):
        """Random words: the more frequent the likelier, by the power 0.75."""
        return np.searchsorted(self.noise_v, self.rng.random(shape), side="right")


# ---- training ------------------------------------------------------------------------------------------------------


def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def step(bag, contexts, optimizer, subwords, sampler, size=BATCH):
    """One training step on `size` words, a multiple of SHARED; returns the loss of a pair.

    Suffixes: b words of the batch, o words around each, g groups of s words with s random words, d dimensions.
    """
    words_b, around_bo = sampler.places(size)
    noise_gs = sampler.noise((size // SHARED, SHARED))
    bags = subwords[words_b]

    word_bd = bag(bags)
    around_bod, noise_gsd = contexts(around_bo), contexts(noise_gs)
    word_gsd = word_bd.reshape(-1, SHARED, DIM)

    # The loss is -log of these: that a true pair is called true, and a random pair random. (The products are small, so
    # that NumPy computes them on one thread and their bits do not depend on the number of threads.)
    right_bo = sigmoid((around_bod @ word_bd[:, :, None])[:, :, 0])
    right_gss = sigmoid(-(word_gsd @ noise_gsd.transpose(0, 2, 1)))

    # Its derivative by the scores of the pairs, then by the vectors.
    true_bo = (right_bo - 1) * CLOSENESS
    random_gss = (1 - right_gss) * np.float32(NEGATIVES * CLOSENESS.sum() / SHARED)
    word_grad_bd = (true_bo[:, None, :] @ around_bod)[:, 0] + (random_gss @ noise_gsd).reshape(-1, DIM)
    around_grad_bod = true_bo[:, :, None] * word_bd[:, None, :]
    noise_grad_gsd = random_gss.transpose(0, 2, 1) @ word_gsd

    optimizer.apply_gradients(
        [
            (bag.gradient(bags, word_grad_bd), bag.embeddings),
            (
                contexts.gradient(around_bo, around_grad_bod) + contexts.gradient(noise_gs, noise_grad_gsd),
                contexts.embeddings,
            ),
        ]
    )
    true_loss = -np.average(np.log(right_bo + 1e-7), axis=1, weights=CLOSENESS).mean()
    return true_loss - NEGATIVES * np.log(right_gss + 1e-7).mean()


def train(bag, contexts, subwords, sampler, total):
    """Trains on `total` words with a progress bar; returns how many it were, fewer after Ctrl-C."""
    optimizer = fastembed.optimizers.RowwiseAdagrad(LEARNING_RATE)
    loss = None
    with tqdm(total=total, desc="training", unit=" words", unit_scale=True, mininterval=0.5) as bar:
        try:
            while bar.n < total:
                latest = step(bag, contexts, optimizer, subwords, sampler)
                loss = latest if loss is None else 0.95 * loss + 0.05 * latest
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                bar.update(BATCH)
        except KeyboardInterrupt:
            pass
        return bar.n


# ---- what it learned -----------------------------------------------------------------------------------------------


def ranking(vectors_vd, contexts, words_p, candidates_pc):
    """Ranks candidates 0 (the true contexts) among all: mean reciprocal rank, mean rank, share of ranks up to 10."""
    scores_pc = np.einsum("pd,pcd->pc", vectors_vd[words_p], contexts(candidates_pc))
    ranks_p = CANDIDATES - (scores_pc[:, :1] > scores_pc[:, 1:]).sum(axis=1)
    return (1 / ranks_p).mean(), ranks_p.mean(), (ranks_p <= 10).mean()


def unit(vectors_vd):
    """Vectors scaled to length 1, so that products are cosines."""
    return vectors_vd / np.linalg.norm(vectors_vd, axis=-1, keepdims=True)


def print_neighbours(bag, vectors_vd, names, counts_v):
    """Prints the nearest frequent words of a dozen words, and of one that is not in the text."""
    shown = [word for word in SHOWN if word in names]
    shown += [word for word in names if len(word) > 4 and word not in shown][: len(SHOWN) - len(shown)]
    misspelt = [word + word[-1] for word in shown if len(word) > 5]
    shown += [word for word in misspelt if word not in names][:1]
    queries_qd = bag(fastembed.Ragged.from_lists([subword_ids(word) for word in shown]))
    frequent = max(np.count_nonzero(counts_v >= 50), 500)
    cosines_qv = unit(queries_qd) @ unit(vectors_vd[:frequent]).T
    print("\nNearest neighbours:")
    for word, cosines_v in zip(shown, cosines_qv, strict=True):
        nearest = [names[i] for i in np.argsort(-cosines_v)[:8] if names[i] != word][:7]
        print(f"{word:>10}: {' '.join(nearest)}{'' if word in names else '   (found by its subwords alone)'}")


def draw(vectors_vd, names, path):
    """Draws words on the plane of their two principal components; the third gives the colour."""
    centred_vd = unit(vectors_vd) - unit(vectors_vd).mean(axis=0)
    axes = np.linalg.svd(centred_vd, full_matrices=False)[2]
    xy_v2, colour_v = centred_vd @ axes[:2].T, centred_vd @ axes[2]
    figure = Figure(figsize=(16, 11), dpi=100)
    plot = figure.add_axes((0.01, 0.01, 0.98, 0.95))
    plot.set(title=f"The {len(names)} most frequent words: three principal components", xticks=[], yticks=[])
    plot.scatter(*xy_v2.T, c=colour_v, cmap="coolwarm", s=14)
    taken = []  # the boxes of the labels so far, in pixels
    for name, xy in zip(names, xy_v2, strict=True):
        width, height = 7 * len(name), 13
        places = [(x, y) for y in (-5, 5, -15, 15, -25, 25) for x in (5, -width - 5, -width / 2)]
        boxes = [plot.transData.transform(xy) + np.array([(x, y), (x + width, y + height)]) for x, y in places]
        clashes = [sum((box[1] > low).all() and (box[0] < high).all() for low, high in taken) for box in boxes]
        best = int(np.argmin(clashes))
        taken.append(boxes[best])
        plot.annotate(name, xy, places[best], textcoords="offset pixels", fontsize=9)
    figure.savefig(path)


# ---- the program ---------------------------------------------------------------------------------------------------


def arguments():
    """The command line."""

    def positive_int(text):
        if int(text) < 1:
            raise ValueError
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--corpus", metavar="PATH", type=Path, help="a text file or a folder of them")
    parser.add_argument("--output", metavar="DIR", type=Path, default="word_vectors", help="default: word_vectors")
    parser.add_argument("--words", metavar="N", type=positive_int, help="how many to train on")
    parser.add_argument("--min-count", metavar="N", type=positive_int, default=5, help="drop words that are rarer")
    parser.add_argument("--threads", metavar="N", type=positive_int, help="default: all processors")
    parser.add_argument("--seed", metavar="N", type=positive_int, default=1, help="it decides the result")
    parser.add_argument("--quick", action="store_true", help="less text and less training: a few seconds")
    return parser.parse_args()


def run(args):
    """Reads, trains, saves, and shows what came of it; returns the exit code."""
    started = time.perf_counter()
    saved, words_file, picture = args.output / "subwords", args.output / "words.txt", args.output / "words.png"
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"no folder {args.output} for the output: {error.strerror}")
    fastembed.set_num_threads(args.threads)
    fastembed.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    limit = 600_000 if args.quick else float("inf")
    text_n, names, counts_v = read_corpus(args.corpus, rng, limit, args.min_count)

    # Every fiftieth piece of the text is held out.
    held_n = np.arange(len(text_n)) // min(1000, -(-len(text_n) // 50)) % 50 == 0
    sampler, held = Sampler(text_n[~held_n], counts_v, rng), Sampler(text_n[held_n], counts_v, rng)
    pairs = 5000
    words_p, around_po = held.places(pairs)
    true_p = around_po[np.arange(pairs), rng.choice(len(OFFSETS), pairs, p=CLOSENESS / CLOSENESS.sum())]
    candidates_pc = np.column_stack([true_p, held.noise((pairs, CANDIDATES - 1))])

    subwords = fastembed.Ragged.from_lists([subword_ids(name) for name in names])
    bag = fastembed.EmbeddingBag(ROWS, DIM, combiner="mean", name="subwords")
    contexts = fastembed.Embedding(len(names), DIM, name="contexts")
    print(f"table:  {ROWS:,} x {DIM}, {len(subwords.values) / len(names):.0f} rows a word")

    before = ranking(bag(subwords), contexts, words_p, candidates_pc)
    total = min(args.words or (1_500_000 if args.quick else 36_000_000), 200 * len(text_n))
    total = -(-total // BATCH) * BATCH
    trained = train(bag, contexts, subwords, sampler, total)
    try:
        bag.save(saved)
        words_file.write_text(
            "".join(f"{word} {n}\n" for word, n in zip(names, counts_v, strict=True)), encoding="utf-8"
        )
    except OSError as error:
        fail(f"not saved: {error}")
    if trained < total:
        print(f"\nStopped by Ctrl-C after {trained:,} of {total:,} words. What is trained so far is saved in {saved}")
        return 130

    vectors_vd = bag(subwords)
    after = ranking(vectors_vd, contexts, words_p, candidates_pc)
    print(f"\nThe true context of {pairs:,} held-out words, among {CANDIDATES - 1} random ones:")
    for when, (mrr, rank, hits) in (("untrained", before), ("trained", after)):
        print(f"  {when:>9}: mean reciprocal rank {mrr:.3f}, mean rank {rank:.1f}, {hits:.1%} in the first 10")
    print_neighbours(bag, vectors_vd, names, counts_v)

    mapped = fastembed.load(saved, mmap_mode="r")
    if not np.array_equal(mapped(subwords), vectors_vd):
        raise RuntimeError(f"{saved} holds other vectors than those that were saved")
    draw(vectors_vd[:200], names[:200], picture)
    print(f"\nseed {args.seed}: checksum {zlib.crc32(vectors_vd):08x}, the same for any number of threads")
    print(f"{saved}: the trained table, loaded again by memory map with equal vectors")
    print(f"{words_file}: the vocabulary with counts\n{picture}: the most frequent words on a plane")
    print(f"{time.perf_counter() - started:.0f} s in all")
    return 0


def main():
    """Runs the program; Ctrl-C outside of training just ends it."""
    try:
        return run(arguments())
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
