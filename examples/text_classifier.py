"""Says from which package a few lines of text come: a Keras model with an LSTM over masked text of any length.

    python examples/text_classifier.py             the source text of Python's standard library, two minutes
    python examples/text_classifier.py --quick     the same in miniature, half a minute
    KERAS_BACKEND=jax python ...                   on another backend: tensorflow, jax or torch

A word, and each pair of words that follow each other, is hashed to a row of one large table. The table is
fastembed.keras's: `fit` trains it row by row, with the optimizer that the model is compiled with; Keras sees none of
its numbers but those of the batch. The rest of the model is Keras. Texts are `Ragged`; padded with zeros they go to
the model, whose mask tells the LSTM where they end.

May import: NumPy, keras, fastembed. Do not break: the modules that measure the result are never trained on.
"""

import argparse
import itertools
import os
import re
import sysconfig
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np

import fastembed
import fastembed.keras

ROWS, DIM = 4_000_000, 32
PACKAGES = ["asyncio", "ctypes", "email", "encodings", "http", "json", "logging", "multiprocessing", "sqlite3"]
PACKAGES += ["tkinter", "unittest", "urllib", "xml"]
LINES = 4  # of a text
LONGEST = 80  # rows of a text
TOKEN = re.compile(r"\w+|[^\w\s]")


def row_of(words):
    """The row of some words; row 0 is padding."""
    return 1 + zlib.crc32(" ".join(words).encode()) % (ROWS - 1)


def rows_of(text):
    """The rows of the words of a text, and of its pairs of words, in their order."""
    words = TOKEN.findall(text)
    pairs = itertools.pairwise(words)
    return [row for word, pair in zip(words, pairs, strict=False) for row in (row_of([word]), row_of(pair))]


def texts_of(package):
    """The modules of a package: a list of texts of each, without the lines that name the package."""
    folder = Path(sysconfig.get_path("stdlib"), package)
    for path in sorted(folder.rglob("*.py")):
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line and package not in line.lower()]
        yield ["\n".join(lines[i : i + LINES]) for i in range(0, len(lines), LINES)]


def data(limit, seed):
    """(texts, labels) to train with, and to measure with: other modules, a quarter of them."""
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label, package in enumerate(PACKAGES):
        modules = list(texts_of(package))
        for number, module in zip(rng.permutation(len(modules)), modules, strict=True):
            (train if number % 4 else test).extend((rows_of(text), label) for text in module)
    for part in (train, test):
        rng.shuffle(part)
    return train[:limit], test[: limit // 3]


def padded(part):
    """Ids (texts, longest) with zeros at the ends, and labels."""
    ids = fastembed.Ragged.from_lists([rows or [0] for rows, _ in part], dtype="int32").to_padded(0)
    return ids[:, :LONGEST], np.array([label for _, label in part], "int32")


def new_model():
    """Ids -> rows, with the mask of what is not 0 -> LSTM -> a probability for each package."""
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            fastembed.keras.Embedding(ROWS, DIM, mask_zero=True, name="words"),
            keras.layers.LSTM(48),
            keras.layers.Dense(len(PACKAGES), activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the text, two epochs more")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)
    fastembed.set_random_seed(args.seed)
    train, test = map(padded, data(3000 if args.quick else 30_000, args.seed))
    print(f"{len(train[0])} texts to train with, {len(test[0])} of other modules; {len(PACKAGES)} packages")
    model = new_model()
    print(f"accuracy before training: {model.evaluate(*test, batch_size=256, verbose=0)[1]:.3f}")
    model.fit(*train, batch_size=128, epochs=5 if args.quick else 3, verbose=2)
    accuracy = model.evaluate(*test, batch_size=256, verbose=0)[1]
    print(f"accuracy after training: {accuracy:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        layer = model.get_layer("words").layer
        layer.save(Path(folder, "words"))  # for NumPy programs, without Keras
        served = fastembed.load(Path(folder, "words"), mmap_mode="r")
        assert np.array_equal(served(test[0][:1]), layer(test[0][:1]))
    for text in ("root.title('Hello')\nbutton.pack(side=LEFT)", "self.assertEqual(result, [1, 2])"):
        probabilities = model.predict(padded([(rows_of(text), 0)])[0], verbose=0)[0]
        print(f"{text!r} comes from {PACKAGES[int(probabilities.argmax())]}")


if __name__ == "__main__":
    main()
