"""What does LoRA add to a look-up? Ours reads rows of A and multiplies; Keras multiplies the whole table at every call.

May import: fastembed, _harness, _peers. Do not break: both layers hold the same W, A and B, and their answers are
checked before anything is timed.
"""

import os

import numpy as np
from _harness import OURS, Batches, Contestant, arguments, check, parse, race, report, write
from _peers import peer

import fastembed


def ours(args):
    """Our layer with LoRA, and without; W, A and B."""
    plain = fastembed.Embedding(args.rows, args.dim)
    layer = fastembed.Embedding(args.rows, args.dim, weights=plain.embeddings.numpy())
    layer.enable_lora(args.rank, b_initializer="normal")
    weights = layer.get_weights()
    return [Contestant(OURS, layer), Contestant("fastembed without LoRA", plain)], weights


def keras_layers(args, weights):
    """Keras's layer with LoRA, and without."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    keras = peer(args, "keras", "keras")
    if keras is None:
        return
    for name in ("keras", "keras without LoRA"):
        layer = keras.layers.Embedding(args.rows, args.dim)
        layer.build()
        layer.embeddings.assign(weights[0])
        if name == "keras":
            layer.enable_lora(args.rank)
            layer.lora_embeddings_a.assign(weights[1])
            layer.lora_embeddings_b.assign(weights[2])
        yield Contestant(name, layer, keras.ops.convert_to_tensor, keras.ops.convert_to_numpy)


def main():
    parser = arguments(__doc__, rounds=9)
    parser.set_defaults(rows=200_000, bags=2048, bag_size=1, ids="uniform")
    parser.add_argument("--rank", type=int, default=8, help="default 8")
    args = parse(parser)
    contestants, weights = ours(args)
    contestants += keras_layers(args, weights)
    table_vd, a_vr, b_rd = (array.astype(np.float64) for array in weights)
    results = []
    for kind in args.ids:
        batches = Batches(kind, args)
        ids = batches.next()
        for c in contestants:
            change = 0 if "without" in c.name else a_vr[ids] @ b_rd  # alpha is the rank: the scale is 1
            check(c.name, np.allclose(c.answer(c.run(c.prepare(ids))), table_vd[ids] + change, 1e-4, 1e-6))
        seconds = race(contestants, batches, args.rounds)
        report(f"look-up with LoRA of rank {args.rank}", kind, contestants, seconds, ids.size, args.dim * 4, results)
    write(args, "lora", results)


if __name__ == "__main__":
    main()
