"""How long does a step of `fit` take with fastembed.keras, against keras.layers.Embedding in the same model? And what
does the bridge cost: its standard step (EmbeddingBag, sum) against the plain library's.

Run once for each backend: KERAS_BACKEND=tensorflow, torch, jax. May import: fastembed, keras and its backends,
_harness, training_step. Do not break: before anything is timed, both layers take steps in a small model and must have
the same weights after them; the standard step is checked against float64 formulas.
"""

import gc
import os
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
from _harness import OURS, Batches, Contestant, arguments, check, parse, race, report, wanted, write
from training_step import RATE, check_step, made, plain_step

import fastembed
import fastembed.keras

BACKEND = keras.backend.backend()
THEIRS, BRIDGE, EMPTY = "keras Embedding", "fastembed.keras", f"empty program, {BACKEND}"
FASTER, MOST = 10, 1.25


def model_of(words, args):
    """Bags of ids: rows, their sum, a number."""
    ids = keras.Input((args.bag_size,), dtype="int32")
    rows = words(ids)
    pooled = rows if isinstance(words, fastembed.keras.EmbeddingBag) else keras.layers.Lambda(_sum)(rows)
    model = keras.Model(ids, keras.layers.Dense(1)(pooled))
    model.compile(keras.optimizers.Adam(RATE), "mse")
    return model


def _sum(rows):
    return keras.ops.sum(rows, axis=1)


def check_models(args):
    """Both take the same steps; no id comes twice in a batch, as Keras is wrong on TensorFlow then."""
    rows, batch = 32 * args.bag_size, 32
    ids = np.random.default_rng(1).permutation(rows).reshape(batch, args.bag_size).astype(np.int32)
    labels = np.linspace(-1, 1, batch, dtype=np.float32)[:, None]
    table = np.random.default_rng(2).standard_normal((rows, args.dim)).astype(np.float32)
    after = []
    kinds = keras.layers.Embedding, fastembed.keras.Embedding, fastembed.keras.EmbeddingBag
    for kind in kinds:
        keras.utils.set_random_seed(1)
        more = {"combiner": "sum"} if kind is fastembed.keras.EmbeddingBag else {}
        words = kind(rows, args.dim, **more)
        model = model_of(words, args)
        words.set_weights([table])
        model.layers[-1].set_weights([np.full((args.dim, 1), 0.1), np.zeros(1)])
        model.fit(np.tile(ids, (3, 1)), np.tile(labels, (3, 1)), batch_size=batch, shuffle=False, verbose=0)
        after.append(words.get_weights()[0])
    for kind, rows in zip(kinds[1:], after[1:], strict=True):
        check(kind.__name__, np.allclose(rows, after[0], 1e-4, 1e-5) and not np.allclose(rows, table, 1e-4, 1e-5))


def fits(args, results):
    """Seconds a step of `fit`; one layer after the other, as Keras's takes up to seven times its table in memory."""
    batches = Batches(args.ids[0], args)
    labels = np.random.default_rng(3).standard_normal((args.bags, 1)).astype(np.float32)
    kinds = {
        "fastembed EmbeddingBag": (lambda: fastembed.keras.EmbeddingBag(args.rows, args.dim, combiner="sum"), 24),
        "fastembed Embedding": (lambda: fastembed.keras.Embedding(args.rows, args.dim), 12),
        THEIRS: (lambda: keras.layers.Embedding(args.rows, args.dim), 2),
    }
    seconds = {}
    for name, (make, steps) in kinds.items():
        model, times = model_of(make(), args), []
        for number in range(args.rounds + 1):
            ids = np.concatenate([batches.next() for _ in range(steps)]).astype(np.int32)
            given = ids, np.tile(labels, (steps, 1))
            start = time.perf_counter()
            model.fit(*given, batch_size=args.bags, shuffle=False, verbose=0)
            if number:  # the first is compiled
                times.append((time.perf_counter() - start) / steps)
        seconds[name] = float(np.median(times))
        del model
        keras.backend.clear_session()
        gc.collect()
    print(f"\nms a step of fit, Adam, {args.ids[0]} ids, Keras {keras.version()} on {BACKEND}")
    for name, median in seconds.items():
        ratio = seconds[THEIRS] / median
        text = "" if name == THEIRS else f"{ratio:6.0f} x {THEIRS}{wanted(ratio, FASTER)}"
        print(f"{name:24} {median * 1e3:10.2f} {text}", flush=True)
        line = {"work": "fit with Adam", "backend": BACKEND, "ids": args.ids[0], "contestant": name}
        results.append({**line, "ms": median * 1e3, "ratio": ratio})


def bridge_step(layer, chosen, upstream_bd):
    """The same step, in a compiled program of the framework."""
    words = fastembed.keras.EmbeddingBag.from_layer(layer, chosen)
    words.build()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        upstream, prepare = tf.constant(upstream_bd), tf.constant

        @tf.function
        def step(ids):
            with tf.GradientTape() as tape:
                rows = words(ids)
            return tape.gradient(rows, words.anchor.value, output_gradients=upstream)

    elif BACKEND == "torch":
        import torch

        upstream, prepare = torch.from_numpy(upstream_bd), torch.from_numpy

        def step(ids):
            words(ids).backward(upstream)

    else:
        import jax

        upstream, prepare = jax.numpy.asarray(upstream_bd), lambda ids: jax.numpy.asarray(ids.astype(np.int32))

        @jax.jit
        def program(anchor, ids, upstream):
            rows, pull = jax.vjp(lambda anchor: words.stateless_call([anchor], [], ids)[0], anchor)
            return rows, pull(upstream)[0]

        def step(ids):
            jax.block_until_ready(program(words.anchor.value, ids, upstream))

    return Contestant(BRIDGE, step, prepare, table_vd=layer.embeddings.numpy())


def empty_step():
    """A compiled program of the framework that does nothing with a batch: what calling it costs."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return Contestant(EMPTY, tf.function(lambda ids: ids[0, 0]), tf.constant, answer=None)
    if BACKEND == "torch":
        import torch

        return Contestant(EMPTY, lambda ids: ids[0, 0], torch.from_numpy, answer=None)
    import jax

    program = jax.jit(lambda ids: ids[0, 0])
    return Contestant(EMPTY, lambda ids: jax.block_until_ready(program(ids)), jax.numpy.asarray, answer=None)


def overhead(args, results):
    """The bridge against the plain library, on one table with one optimizer."""
    layer = fastembed.EmbeddingBag(args.rows, args.dim, combiner="sum")
    upstream_bd = np.random.default_rng(3).standard_normal((args.bags, args.dim)).astype(np.float32) * 0.01
    check_step("Adam", bridge_step(layer, made("Adam"), upstream_bd), Batches(args.ids[0], args).next(), upstream_bd)
    gc.collect()  # the state of that optimizer
    chosen = made("Adam")
    contestants = [plain_step(layer, chosen, upstream_bd), bridge_step(layer, chosen, upstream_bd), empty_step()]
    for kind in args.ids:
        batches = Batches(kind, args)
        # Long turns: TensorFlow's threads take many steps to settle.
        seconds = race(contestants, batches, args.steps, warm=0.1, turn=0.1)
        report(f"forward + backward + Adam, {BACKEND}", kind, contestants, seconds, args.bags, args.dim * 4, results)
        ratio = float(np.median(np.array(seconds[BRIDGE]) / seconds[OURS]))
        empty = float(np.median(np.array(seconds[EMPTY]) / seconds[OURS]))
        print(f"{BRIDGE}: {ratio:.2f} times the plain library{wanted(ratio, MOST, below=True)}; {empty:.2f} is {EMPTY}")


def main():
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--steps", type=int, default=11, help="rounds of the standard step")
    parser.add_argument("--parts", default="overhead,fit", help="with commas")
    args = parse(parser)
    warnings.simplefilter("ignore")
    check_models(args)
    results = []
    if "overhead" in args.parts:
        overhead(args, results)
    gc.collect()
    if "fit" in args.parts:
        fits(args, results)
    write(args, f"keras_step_{BACKEND}", results)


if __name__ == "__main__":
    main()
