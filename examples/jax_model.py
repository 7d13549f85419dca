"""Predicts the next character of a text with JAX: a bag of hashed contexts from a large table, and a small network.

    python examples/jax_model.py                   the source text of Python's standard library, about two minutes
    python examples/jax_model.py --quick           the same in miniature, half a minute
    python examples/jax_model.py --corpus PATH     any text file, or a folder of them

The last 1, 2, ... 8 characters are hashed to a row each of one table of 4,000,000 rows; the mean of these rows goes
through two dense layers to the next character. Look-ups and the updates of the table are the library's, in place and
row by row; all else is JAX, in one `jit`. A dense gradient of this table would take 1 GB, and so would each of Adam's
states, at every step.

May import: NumPy, jax, fastembed. Do not break: the text that measures the result is never trained on.
"""

import argparse
import sysconfig
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fastembed

ROWS, DIM, HIDDEN = 4_000_000, 64, 128
LONGEST = 8  # characters of the longest context
BATCH = 4096  # characters of a step
STEPS = 10  # steps of one compiled program
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
PROMPTS = ["import ", "def __init__(self", "    return ", "raise ValueError("]


# ---- text to numbers -------------------------------------------------------------------------------------------------


def read(path, limit, rng):
    """The text of a file, or of the files of a folder in random order, as numbers of characters; about `limit`."""
    files = [path] if path.is_file() else sorted(path.rglob("*.py" if path == standard_library() else "*"))
    files = [file for file in files if file.is_file() and "site-packages" not in file.parts]
    codes = np.full(256, CHARACTERS.index(" "), np.uint8)
    codes[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS))
    texts, count = [], 0
    for i in rng.permutation(len(files)):
        octets = np.frombuffer(files[i].read_bytes(), np.uint8)
        texts.append(codes[octets[octets < 128]])
        count += len(texts[-1])
        if count >= limit:
            break
    return np.concatenate(texts)[:limit]


def standard_library():
    return Path(sysconfig.get_paths()["stdlib"])


def contexts(text_n, places_b):
    """The rows of the contexts before these places: (places, LONGEST) integers."""
    ids_bk = np.empty((len(places_b), LONGEST), np.int32)
    code_b = np.zeros(len(places_b), np.uint64)
    for length in range(1, LONGEST + 1):
        code_b = (code_b + text_n[places_b - length] + np.uint64(length)) * np.uint64(0x9E3779B97F4A7C15)
        ids_bk[:, length - 1] = (code_b >> np.uint64(24)) % np.uint64(ROWS)
    return ids_bk


# ---- the model -------------------------------------------------------------------------------------------------------


def model(words):
    """The loss, and a program of STEPS steps."""

    def logits(params, ids_bk):
        vectors_bd = words(params["words"], ids_bk)
        return jnp.tanh(vectors_bd @ params["inner"]) @ params["outer"] + params["bias"]

    def loss(params, ids_bk, next_b):
        scores = jax.nn.log_softmax(logits(params, ids_bk))
        return -jnp.take_along_axis(scores, next_b[:, None], axis=1).mean()

    def step(state, batch):
        """Adam for what is JAX's; the anchor's gradient is 0, and so it stays 0."""
        params, m, v, t = state
        value, grads = jax.value_and_grad(loss)(params, *batch)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
        rate = 0.002 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-7), params, m, v)
        return (params, m, v, t + 1), value

    return jax.jit(logits), jax.jit(loss), jax.jit(lambda state, batches: jax.lax.scan(step, state, batches))


def first_params(words, rng):
    """The parameters of the model, the anchor among them."""
    shapes = {"inner": (DIM, HIDDEN), "outer": (HIDDEN, len(CHARACTERS))}
    params = {name: jnp.asarray(rng.normal(0, shape[0] ** -0.5, shape), jnp.float32) for name, shape in shapes.items()}
    return {"words": words.init(), "bias": jnp.zeros(len(CHARACTERS)), **params}


def bits(loss, params, text_n):
    """Bits for a character of a text."""
    places_b = np.arange(LONGEST, len(text_n))
    losses = [
        loss(params, contexts(text_n, part), text_n[part].astype(np.int32))
        for part in np.array_split(places_b, max(1, len(places_b) // BATCH))
    ]
    return float(np.mean(losses) / np.log(2))


def complete(logits, params, prompt, length, rng):
    """Goes on with a prompt: characters as likely as the model says, a little on the safe side."""
    text = [0] * LONGEST + [CHARACTERS.index(character) for character in prompt]
    for _ in range(length):
        scores = np.asarray(logits(params, contexts(np.array(text, np.uint8), np.array([len(text)]))), np.float64)[0]
        chances = np.exp(2 * (scores - scores.max()))
        text.append(int(rng.choice(len(chances), p=chances / chances.sum())))
    return "".join(CHARACTERS[code] for code in text[LONGEST:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a text file, or a folder of them")
    parser.add_argument("--quick", action="store_true", help="half a minute")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    started = time.perf_counter()

    text_n = read(args.corpus or standard_library(), 2_000_000 if args.quick else 20_000_000, rng)
    held_out = min(100_000, len(text_n) // 10)
    if held_out < 1000:
        raise SystemExit(f"jax_model: too little text: {len(text_n):,} characters, and 10,000 are needed")
    test_n, text_n = text_n[:held_out], text_n[held_out:]
    print(f"{len(text_n):,} characters to train on, {held_out:,} to measure; table {ROWS:,} x {DIM}")

    initializer = fastembed.initializers.RandomUniform(-0.05, 0.05, seed=args.seed)
    optimizer = fastembed.optimizers.Adam(0.005)
    words = fastembed.jax.EmbeddingBag(ROWS, DIM, "mean", initializer, optimizer=optimizer)
    logits, loss, steps = model(words)
    params = first_params(words, rng)
    before = bits(loss, params, test_n)

    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, zeros, 1.0)
    programs = 30 if args.quick else 250
    for number in range(programs):
        places_b = rng.integers(LONGEST, len(text_n), STEPS * BATCH)
        ids = contexts(text_n, places_b).reshape(STEPS, BATCH, LONGEST)
        state, losses = steps(state, (ids, text_n[places_b].astype(np.int32).reshape(STEPS, BATCH)))
        if (number + 1) % (programs // 10) == 0:
            print(f"step {(number + 1) * STEPS:5}: {float(losses.mean()) / np.log(2):.3f} bits a character")
    params = state[0]

    after = bits(loss, params, test_n)
    print(f"held-out text: {before:.3f} bits a character untrained, {after:.3f} trained")
    for prompt in PROMPTS:
        print(repr(complete(logits, params, prompt, 40, rng)))
    print(f"{time.perf_counter() - started:.0f} s in all; {words.optimizer.iterations} steps of the table")


if __name__ == "__main__":
    main()
