"""How fast is a training step? Forward + backward + update of an EmbeddingBag (sum), by optimizer, against the peers.

May import: fastembed, _harness, _bandwidth, _peers. Do not break: before anything is timed, one step of every
contestant on the full table is checked, row by row, against the formulas in float64.
"""

import os

import numpy as np
from _bandwidth import random_rows
from _harness import OURS, Batches, Contestant, arguments, check, parse, race, report, write
from _peers import fbgemm_module, load_tensorflow, load_torch, peer, torch_weight

import fastembed

# The accumulators begin at 0.1, so that it does not matter where a formula adds its epsilon. Adam divides by |gradient|
# + epsilon in its first step: a larger epsilon keeps the rounding of sums that are almost zero out of the check.
RATE, ACCUMULATOR, EPSILON = 0.01, 0.1, 1e-3
TARGETS = {"RowwiseAdagrad": {"fbgemm": 4}, "Adam": {"torch": 10}, "SGD": {"torch": 3.5, "fbgemm": 3}}


def expected_rows(optimizer, rows_ud, grads_ud):
    """The rows after one step, by the formulas in float64."""
    if optimizer == "SGD":
        return rows_ud - RATE * grads_ud
    if optimizer == "Adam":
        return rows_ud - RATE * grads_ud / (np.abs(grads_ud) + EPSILON / (1 - 0.999) ** 0.5)
    squares = grads_ud**2
    if optimizer == "RowwiseAdagrad":
        squares = squares.mean(1, keepdims=True)
    return rows_ud - RATE * grads_ud / np.sqrt(ACCUMULATOR + squares)


def check_step(optimizer, contestant, ids_bk, upstream_bd):
    """One step of a contestant on its table against `expected_rows`; the rows are put back."""
    table_vd = contestant.table_vd
    rows_u, of_n = np.unique(ids_bk, return_inverse=True)
    others = np.setdiff1d(np.random.default_rng(2).integers(len(table_vd), size=10_000), rows_u)
    before_ud, others_before = table_vd[rows_u].copy(), table_vd[others].copy()
    grads_ud = np.zeros(before_ud.shape)
    np.add.at(grads_ud, of_n.reshape(-1), np.repeat(upstream_bd.astype(np.float64), ids_bk.shape[1], axis=0))
    contestant.run(contestant.prepare(ids_bk))
    expected = expected_rows(optimizer, before_ud.astype(np.float64), grads_ud)
    off = np.abs(table_vd[rows_u] - expected).max()
    right = np.allclose(table_vd[rows_u], expected, 1e-4, 1e-6) and np.array_equal(table_vd[others], others_before)
    table_vd[rows_u] = before_ud
    check(f"{optimizer}: {contestant.name}", right, f"(largest difference {off:.2g})")


def made(optimizer):
    """An optimizer of this library by name, with what all contestants have."""
    hyper = {"Adam": {"epsilon": EPSILON}, "SGD": {}}.get(optimizer, {"initial_accumulator_value": ACCUMULATOR})
    return getattr(fastembed.optimizers, optimizer)(RATE, **hyper)


def plain_step(layer, chosen, upstream_bd):
    """The step of this library, which bridges are compared with."""

    def run(ids):
        layer(ids)
        chosen.apply_gradients([(layer.gradient(ids, upstream_bd), layer.embeddings)])

    return Contestant(OURS, run, table_vd=layer.embeddings.numpy())


def fastembed_step(optimizer, args, table_vd, upstream_bd):
    """The step of this library."""
    bag = fastembed.EmbeddingBag(args.rows, args.dim, combiner="sum")
    bag.adopt(fastembed.Table.wrap(table_vd))
    chosen = made(optimizer)
    chosen.build([bag.embeddings])

    def run(ids):
        bag(ids)
        chosen.apply_gradients([(bag.gradient(ids, upstream_bd), bag.embeddings)])

    return Contestant(OURS, run, table_vd=table_vd)


def torch_step(optimizer, args, table_vd, upstream_bd):
    """torch.nn.EmbeddingBag(sparse=True) and the optimizer that takes its gradient."""
    torch = load_torch(args)
    if torch is None or optimizer == "RowwiseAdagrad":
        return None
    weight = torch_weight(torch, args, table_vd)
    bag = torch.nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", sparse=True)
    if optimizer == "Adagrad":
        chosen = torch.optim.Adagrad(bag.parameters(), RATE, initial_accumulator_value=ACCUMULATOR)
    elif optimizer == "Adam":
        chosen = torch.optim.SparseAdam(list(bag.parameters()), RATE, eps=EPSILON)
    else:
        chosen = torch.optim.SGD(bag.parameters(), RATE)
    upstream = torch.from_numpy(upstream_bd)

    def run(ids):
        chosen.zero_grad()
        bag(ids).backward(upstream)
        chosen.step()

    return Contestant("torch", run, torch.from_numpy, table_vd=weight.numpy())


def fbgemm_step(optimizer, args, table_vd, upstream_bd):
    """FBGEMM's table-batched kernel with its fused optimizer."""
    names = {"RowwiseAdagrad": "EXACT_ROWWISE_ADAGRAD", "SGD": "EXACT_SGD", "Adagrad": "EXACT_ADAGRAD"}
    if optimizer not in names:
        return None
    module = fbgemm_module(args, table_vd, names[optimizer], learning_rate=RATE, eps=1e-10)
    if module is None:
        return None
    import torch

    if optimizer != "SGD":
        module.momentum1_host.data.fill_(ACCUMULATOR)
    offsets = torch.arange(args.bags + 1) * args.bag_size
    upstream = torch.from_numpy(upstream_bd)

    def run(ids):
        module(ids, offsets).backward(upstream)

    trained = module.weights_host.detach().view(args.rows, args.dim).numpy()
    return Contestant("fbgemm", run, lambda ids: torch.from_numpy(ids).view(-1), table_vd=trained)


def keras_step(optimizer, args, table_vd, upstream_bd):
    """Keras 3 on TensorFlow, always on a table of its own. Its rows are not checked: it does not sum repeated ids."""
    if optimizer != "Adagrad":
        return None
    os.environ["KERAS_BACKEND"] = "tensorflow"
    tf, keras = load_tensorflow(args), peer(args, "keras", "keras")
    if tf is None or keras is None:
        return None
    layer = keras.layers.Embedding(args.rows, args.dim)
    layer.build()
    chosen = keras.optimizers.Adagrad(RATE)
    chosen.build([layer.embeddings])
    upstream = tf.constant(upstream_bd)

    def run(ids):
        with tf.GradientTape() as tape:
            pooled = tf.reduce_sum(layer(ids), 1)
        gradient = tape.gradient(pooled, layer.embeddings.value, upstream)
        chosen.apply_gradients([(gradient, layer.embeddings)])

    return Contestant("keras (tensorflow)", run, tf.constant, at_most=2)


def main():
    parser = arguments(__doc__, rounds=21)
    parser.add_argument("--optimizers", default="RowwiseAdagrad,SGD,Adagrad,Adam", help="with commas")
    parser.add_argument("--slow", action="store_true", help="Keras 3 on TensorFlow too: seconds a step, 13 GB")
    args = parse(parser)
    table_vd = fastembed.Embedding(args.rows, args.dim).embeddings.numpy()
    upstream_bd = np.random.default_rng(3).standard_normal((args.bags, args.dim)).astype(np.float32) * 0.01
    all_batches = [Batches(kind, args) for kind in args.ids]
    limits = [random_rows(table_vd, batches, args.threads, rewrite=True) for batches in all_batches]
    makers = [fastembed_step, torch_step, fbgemm_step] + [keras_step] * args.slow
    results = []
    for optimizer in args.optimizers.split(","):
        contestants = [made for maker in makers if (made := maker(optimizer, args, table_vd, upstream_bd))]
        for c in contestants:
            c.target = None if c.name == OURS else 2 if args.small else TARGETS.get(optimizer, {}).get(c.name)
            if c.table_vd is not None:
                check_step(optimizer, c, all_batches[0].next(), upstream_bd)
        for batches, limit in zip(all_batches, limits, strict=True):
            seconds = race(contestants + limit, batches, args.rounds)
            work = f"forward + backward + {optimizer}"
            rows = args.bags * args.bag_size
            report(work, batches.kind, contestants + limit, seconds, rows, args.dim * 4, results)
        del contestants, c  # frees the state of these optimizers
    write(args, "training_step", results)


if __name__ == "__main__":
    main()
