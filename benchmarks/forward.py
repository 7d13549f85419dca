"""How fast are look-ups? Pooled (EmbeddingBag, sum) and plain, ids (4096, 26) -> (4096, 26, 64), against the peers.

May import: fastembed, _harness, _bandwidth, _peers. Do not break: each answer is checked before anything is timed.
"""

import functools
import gc

import numpy as np
from _bandwidth import random_rows
from _harness import OURS, Batches, Contestant, arguments, check, parse, race, report, write
from _peers import fbgemm_module, load_jax, load_tensorflow, load_torch, torch_weight

import fastembed


def torch_peers(args, table_vd, pooled):
    """torch's functional forms."""
    torch = load_torch(args)
    if torch is None:
        return []
    weight = torch_weight(torch, args, table_vd)
    function = torch.nn.functional.embedding
    if pooled:
        function = functools.partial(torch.nn.functional.embedding_bag, mode="sum")
    run = torch.no_grad()(lambda ids: function(ids, weight))
    return [Contestant("torch", run, torch.from_numpy, target=1.1 if pooled else 1.5)]


def fbgemm_peers(args, table_vd, splits_b1):
    """FBGEMM's table-batched kernel for training."""
    module = fbgemm_module(args, table_vd)
    if module is None:
        return []
    import torch

    offsets = torch.from_numpy(splits_b1)
    run = torch.no_grad()(lambda ids: module(ids, offsets))
    return [Contestant("fbgemm", run, lambda ids: torch.from_numpy(ids).view(-1), target=2)]


def tensorflow_peers(args, table_vd, splits_b1, pooled):
    """tf.nn.embedding_lookup_sparse on ragged ids, and tf.gather, as graph functions."""
    tf = load_tensorflow(args)
    if tf is None:
        return []
    weight = tf.constant(table_vd) if args.own_tables else tf.experimental.dlpack.from_dlpack(table_vd.__dlpack__())
    if not pooled:
        return [Contestant("tensorflow", tf.function(lambda ids: tf.gather(weight, ids)), tf.constant)]

    @tf.function
    def run(ids):
        return tf.nn.embedding_lookup_sparse(weight, ids, None, combiner="sum")

    splits = tf.constant(splits_b1)
    return [Contestant("tensorflow", run, lambda ids: tf.RaggedTensor.from_row_splits(ids.reshape(-1), splits))]


def jax_peers(args, table_vd, pooled):
    """jnp.take (and a sum), compiled."""
    jax = load_jax(args)
    if jax is None:
        return []
    weight = jax.numpy.array(table_vd) if args.own_tables else jax.numpy.from_dlpack(table_vd)

    @jax.jit
    def take(weight, ids):
        rows = jax.numpy.take(weight, ids, axis=0)
        return rows.sum(1) if pooled else rows

    return [Contestant("jax", lambda ids: take(weight, ids).block_until_ready(), jax.numpy.asarray)]


def pooled_contestants(args, table_vd):
    """The contestants of the pooled forward pass."""
    bag = fastembed.EmbeddingBag(args.rows, args.dim, combiner="sum")
    bag.adopt(fastembed.Table.wrap(table_vd))
    splits_b1 = np.arange(args.bags + 1) * args.bag_size
    yield Contestant(OURS, bag, target=0.9)
    yield from torch_peers(args, table_vd, pooled=True)
    yield from fbgemm_peers(args, table_vd, splits_b1)
    yield from tensorflow_peers(args, table_vd, splits_b1, pooled=True)
    yield from jax_peers(args, table_vd, pooled=True)
    yield Contestant("numpy take, sum", lambda ids: table_vd.take(ids, axis=0).sum(1))


def lookup_contestants(args, table_vd):
    """The contestants of the plain look-up, into a fresh array and into a given one."""
    layer = fastembed.Embedding(args.rows, args.dim)
    layer.adopt(fastembed.Table.wrap(table_vd))
    out = np.zeros((args.bags, args.bag_size, args.dim), np.float32)
    yield Contestant(OURS, layer)
    yield from torch_peers(args, table_vd, pooled=False)
    yield from tensorflow_peers(args, table_vd, None, pooled=False)
    yield from jax_peers(args, table_vd, pooled=False)
    yield Contestant("numpy take", lambda ids: table_vd.take(ids, axis=0), target=2)
    ours = f"{OURS} out="
    yield Contestant(ours, lambda ids: layer(ids, out=out), versus=ours)
    yield Contestant("numpy take out=", lambda ids: table_vd.take(ids, axis=0, out=out), versus=ours, target=3)
    clip = functools.partial(table_vd.take, axis=0, out=out, mode="clip")  # without NumPy's copy for mode="raise"
    yield Contestant("numpy take out= clip", clip, versus=ours)


def main():
    args = parse(arguments(__doc__, rounds=21))
    table_vd = fastembed.Embedding(args.rows, args.dim).embeddings.numpy()
    all_batches = [Batches(kind, args) for kind in args.ids]
    limits = [random_rows(table_vd, batches, args.threads) for batches in all_batches]
    results = []
    for work, maker in {"pooled forward": pooled_contestants, "look-up": lookup_contestants}.items():
        contestants = list(maker(args, table_vd))
        for batches, limit in zip(all_batches, limits, strict=True):
            ids = batches.next()
            expected = table_vd[ids].sum(1, dtype=np.float64) if work == "pooled forward" else table_vd[ids]
            for c in contestants:
                c.target = None if args.small else c.target  # a small table is a matter of caches
                answer = c.answer(c.run(c.prepare(ids)))
                right = answer.shape == expected.shape and np.allclose(answer, expected, rtol=1e-5, atol=1e-6)
                check(f"{work}: {c.name}", right)
            seconds = race(contestants + limit, batches, args.rounds)
            report(work, batches.kind, contestants + limit, seconds, ids.size, args.dim * 4, results)
        del contestants, c
        gc.collect()  # with --own-tables each peer holds a table
    write(args, "forward", results)


if __name__ == "__main__":
    main()
