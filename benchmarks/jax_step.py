"""What does the bridge to JAX cost? The standard step (EmbeddingBag, sum) inside `jit` against the plain library's, and
against JAX's own look-up with dense gradients.

May import: fastembed, jax, _harness, training_step. Do not break: before anything is timed, one step of every
contestant on its full table is checked, row by row, against the formulas in float64. The bridge and the plain library
train one table with one optimizer, in turns.
"""

import gc

import jax
import jax.numpy as jnp
import numpy as np
from _harness import OURS, Batches, Contestant, arguments, check, parse, race, report, wanted, write
from training_step import EPSILON, RATE, check_step, expected_rows, made, plain_step

import fastembed

BRIDGE, DENSE = "fastembed.jax", "jax (dense)"
MOST = 1.25  # times the plain library


def bridge_step(layer, chosen, upstream_bd):
    """The same in a JAX program: the look-up, and what its backward pass does with an upstream gradient."""
    words = fastembed.jax.wrap(layer, chosen)
    upstream, anchor = jnp.asarray(upstream_bd), words.init()

    @jax.jit
    def step(anchor, ids, upstream):
        rows, pull = jax.vjp(lambda anchor: words(anchor, ids), anchor)
        return rows, anchor - pull(upstream)[0]

    def run(ids):
        nonlocal anchor
        _, anchor = jax.block_until_ready(step(anchor, ids, upstream))

    return Contestant(BRIDGE, run, lambda ids: jnp.asarray(ids.astype(np.int32)), table_vd=layer.embeddings.numpy())


def dense_step(rows, args, upstream_bd):
    """jnp.take and Adam on all rows: what JAX alone does."""
    upstream = jnp.asarray(upstream_bd)
    state = [jnp.zeros((rows, args.dim)) for _ in range(3)] + [0.0]

    def step(w, m, v, t, ids, upstream):
        _, pull = jax.vjp(lambda w: jnp.take(w, ids, axis=0).sum(1), w)
        (g,) = pull(upstream)
        t, m, v = t + 1, 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        scale = RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return [w - scale * m / (jnp.sqrt(v) + EPSILON), m, v, t]

    step = jax.jit(step, donate_argnums=(0, 1, 2, 3))

    def run(ids):
        nonlocal state
        state = jax.block_until_ready(step(*state, ids, upstream))
        return state[0]

    return Contestant(DENSE, run, lambda ids: jnp.asarray((ids % rows).astype(np.int32)), at_most=5)


def check_dense(contestant, ids_bk, upstream_bd):
    """The first step from zeros, in the rows of the batch and in others."""
    prepared = contestant.prepare(ids_bk)
    table = contestant.run(prepared)
    rows_u, of_n = np.unique(np.asarray(prepared), return_inverse=True)
    grads_ud = np.zeros((len(rows_u), upstream_bd.shape[1]))
    np.add.at(grads_ud, of_n.reshape(-1), np.repeat(upstream_bd.astype(np.float64), ids_bk.shape[1], axis=0))
    right = np.allclose(table[rows_u], expected_rows("Adam", np.zeros_like(grads_ud), grads_ud), 1e-4, 1e-6)
    check(DENSE, right and int((table != 0).any(axis=1).sum()) <= len(rows_u))


def main():
    parser = arguments(__doc__, rounds=21)
    parser.add_argument("--optimizers", default="SGD,RowwiseAdagrad,Adam", help="with commas")
    parser.add_argument("--dense-rows", type=int, default=2_000_000, help="JAX's own table (0: none); 10 GB for ours")
    args = parse(parser)
    layer = fastembed.EmbeddingBag(args.rows, args.dim, combiner="sum")
    upstream_bd = np.random.default_rng(3).standard_normal((args.bags, args.dim)).astype(np.float32) * 0.01
    all_batches = [Batches(kind, args) for kind in args.ids]
    results = []
    for optimizer in args.optimizers.split(","):
        check_step(optimizer, plain_step(layer, made(optimizer), upstream_bd), all_batches[0].next(), upstream_bd)
        gc.collect()  # the state of that optimizer
        chosen = made(optimizer)
        bridge = bridge_step(layer, chosen, upstream_bd)
        check_step(optimizer, bridge, all_batches[0].next(), upstream_bd)
        contestants = [plain_step(layer, chosen, upstream_bd), bridge]
        if optimizer == "Adam" and args.dense_rows:
            dense = dense_step(min(args.dense_rows, args.rows), args, upstream_bd)
            check_dense(dense, all_batches[0].next(), upstream_bd)
            contestants.append(dense)
        for batches in all_batches:
            seconds = race(contestants, batches, args.rounds)
            work = f"forward + backward + {optimizer}"
            report(work, batches.kind, contestants, seconds, args.bags * args.bag_size, args.dim * 4, results)
            ratio = float(np.median(np.array(seconds[BRIDGE]) / seconds[OURS]))
            print(f"{BRIDGE}: {ratio:.2f} times the plain library{wanted(ratio, MOST, below=True)}")
        del contestants, bridge, chosen
    if args.dense_rows:
        dense_rows = min(args.dense_rows, args.rows)
        print(f"\n{DENSE} has {dense_rows:,} rows, the others {args.rows:,}; its time grows with its rows")
    write(args, "jax_step", results)


if __name__ == "__main__":
    main()
