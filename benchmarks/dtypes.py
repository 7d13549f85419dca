"""How fast is each storage dtype? Pooled look-ups and training steps against float32, and int8 and int4 against peers.

May import: fastembed, _harness, _bandwidth, _peers. Do not break: each answer is checked before anything is timed. The
default is a table of 40,000,000 x 64; a race holds no more than two tables, and the peers' one or two.
"""

import gc

import numpy as np
from _bandwidth import random_words
from _harness import Batches, Contestant, arguments, check, parse, race, report, write
from _peers import load_torch, peer

import fastembed
from fastembed import ops

RATE = 0.01
PIECE = 1 << 16  # rows made at a time


def pieces(args):
    """Normal numbers for a table, PIECE rows at a time: the same for everybody."""
    rng = np.random.default_rng(5)
    block = rng.standard_normal((2 * PIECE, args.dim)).astype(np.float32) * np.float32(0.05)
    for start in range(0, args.rows, PIECE):
        shift = int(rng.integers(PIECE))
        yield start, block[shift : shift + min(PIECE, args.rows - start)]


def bag_of(args, dtype):
    """Our layer with a table of a storage dtype."""
    table = fastembed.Table((args.rows, args.dim), dtype)
    for start, values_vd in pieces(args):
        ops.encode(table.rows, np.ascontiguousarray(values_vd), start)
    quantised = dtype in ("int8", "int4", "int2")
    bag = fastembed.EmbeddingBag(
        args.rows, args.dim, combiner="sum", dtype=f"{dtype}_from_float32" if quantised else dtype
    )
    bag.adopt(table)
    return bag


def forward(bag, name=None, **about):
    """The contestant of a look-up."""
    return Contestant(name or bag.embeddings.storage, bag, **about)


def step(bag, optimizer, **about):
    """The contestant of a whole training step."""
    dtype = bag.embeddings.storage
    # A state of one number a row gains nothing by being half of it.
    state_dtype = "float32" if dtype == "float32" or optimizer == "RowwiseAdagrad" else "bfloat16"
    chosen = getattr(fastembed.optimizers, optimizer)(RATE, state_dtype=state_dtype)
    chosen.build([bag.embeddings])
    upstream_bd = None

    def run(ids):
        nonlocal upstream_bd
        if upstream_bd is None:
            upstream_bd = np.random.default_rng(3).standard_normal((len(ids), bag.output_dim)).astype(np.float32) * 0.01
        bag(ids)
        chosen.apply_gradients([(bag.gradient(ids, upstream_bd), bag.embeddings)])

    return Contestant(dtype, run, answer=None, **about)


def fbgemm_bag(args, dtype):
    """FBGEMM's CPU kernel for inference, on rows of its own format (scale and offset in float16)."""
    inference = peer(args, "fbgemm_gpu.split_table_batched_embeddings_ops_inference", "fbgemm")
    if inference is None:
        return None
    import torch
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode

    torch.set_num_threads(args.threads)
    kind = SparseType.INT8 if dtype == "int8" else SparseType.INT4
    spec = [("table", args.rows, args.dim, kind, EmbeddingLocation.HOST)]
    module = inference.IntNBitTableBatchedEmbeddingBagsCodegen(
        spec, device="cpu", output_dtype=SparseType.FP32, pooling_mode=PoolingMode.SUM
    )
    module.initialize_weights()
    (codes, shares), *_ = module.split_embedding_weights()
    bits = 8 if dtype == "int8" else 4
    for start, values_vd in pieces(args):
        packed = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(torch.tensor(values_vd), bits).numpy()
        codes.numpy()[start : start + len(packed)] = packed[:, :-4]
        shares.numpy()[start : start + len(packed)] = packed[:, -4:]
    offsets = (torch.arange(args.bags + 1) * args.bag_size).int()
    run = torch.no_grad()(lambda ids: module(ids, offsets))
    return Contestant("fbgemm", run, lambda ids: torch.from_numpy(ids.reshape(-1).astype(np.int32)), target=1.3)


def torch_bag(args, dtype):
    """torch's quantised EmbeddingBag, by the operator that its module calls."""
    torch = load_torch(args)
    if torch is None:
        return None
    pack = getattr(
        torch.ops.quantized, "embedding_bag_byte_prepack" if dtype == "int8" else "embedding_bag_4bit_prepack"
    )
    packed = torch.cat([pack(torch.tensor(values_vd)) for _, values_vd in pieces(args)])
    look = getattr(
        torch.ops.quantized,
        "embedding_bag_byte_rowwise_offsets" if dtype == "int8" else "embedding_bag_4bit_rowwise_offsets",
    )
    offsets = torch.arange(args.bags + 1) * args.bag_size
    run = torch.no_grad()(lambda ids: look(packed, ids, offsets, mode=0, include_last_offset=True))
    return Contestant("torch", run, lambda ids: torch.from_numpy(ids.reshape(-1)), target=3)


def error_of(dtype, args):
    """How far a sum of a bag may be from that of the float32 rows: of int8 and int4 half a step for each row."""
    steps = {"float32": 1e-6, "bfloat16": 2.0**-9, "float16": 2.0**-12, "int8": 0.6 / 255, "int4": 0.6 / 15}
    return steps[dtype] * args.bag_size * 0.5


def run_race(work, args, all_batches, contestants, dtype, results, limits=()):
    """Checks the answers of look-ups, then the race."""
    contestants = [c for c in contestants if c is not None]
    for batches in all_batches:
        ids = batches.next()
        expected = expected_sums(args, ids)
        for c in contestants:
            if c.answer is not None:
                answer = np.asarray(c.run(c.prepare(ids)))
                off = np.abs(answer - expected).max()
                check(f"{work}: {c.name}", off <= error_of(dtype, args), f"(largest difference {off:.2g})")
        limit = [made for storage in limits for made in random_words(*storage, batches, args.threads)]
        seconds = race([*contestants, *limit], batches, args.rounds)
        report(work, batches.kind, [*contestants, *limit], seconds, ids.size, args.dim * 4, results)


def expected_sums(args, ids):
    """The sums of the float32 rows, in float64."""
    wanted = np.unique(ids)
    rows_ud = np.empty((len(wanted), args.dim))
    for start, values_vd in pieces(args):
        low, high = np.searchsorted(wanted, (start, start + len(values_vd)))
        rows_ud[low:high] = values_vd[wanted[low:high] - start]
    return rows_ud[np.searchsorted(wanted, ids)].sum(1)


def main():
    parser = arguments(__doc__, rounds=21)
    parser.set_defaults(rows=40_000_000)
    parser.add_argument("--races", default="bfloat16,float16,int8,int4,peers,steps", help="with commas")
    parser.add_argument("--optimizers", default="SGD,RowwiseAdagrad", help="of the steps, with commas")
    args = parse(parser)
    races, results = args.races.split(","), []
    all_batches = [Batches(kind, args) for kind in args.ids]
    targets = {"bfloat16": 1.6, "float16": None, "int8": 2.2, "int4": None}
    compared = [dtype for dtype in targets if dtype in races]
    for dtype in compared:
        bags = [bag_of(args, dtype), bag_of(args, "float32")]
        contestants = [forward(bags[0], versus=dtype), forward(bags[1], versus=dtype, target=targets[dtype])]
        limits = [(f"read {bag.embeddings.storage} rows", bag.embeddings.rows.octets_vb) for bag in bags]
        run_race(f"pooled forward, {dtype}", args, all_batches, contestants, dtype, results, limits)
        del bags, contestants, limits
        gc.collect()
    if "float16" in races:
        bags = [bag_of(args, "float16"), bag_of(args, "bfloat16")]
        contestants = [forward(bags[0], versus="float16"), forward(bags[1], versus="float16", target=1 / 1.2)]
        run_race("pooled forward, float16 and bfloat16", args, all_batches, contestants, "bfloat16", results)
        del bags, contestants
        gc.collect()
    for dtype in ("int8", "int4") if "peers" in races else ():
        bag = bag_of(args, dtype)
        contestants = [forward(bag, versus=dtype)]
        for c in (fbgemm_bag(args, dtype), torch_bag(args, dtype)):
            if c is not None:
                c.versus = dtype
                contestants.append(c)
        run_race(f"pooled look-up of {dtype}", args, all_batches, contestants, dtype, results)
        del bag, contestants, c
        gc.collect()
    for optimizer in args.optimizers.split(",") if "steps" in races else ():
        bags = [bag_of(args, "bfloat16"), bag_of(args, "float32")]
        contestants = [
            step(bags[0], optimizer, versus="bfloat16"),
            step(bags[1], optimizer, versus="bfloat16", target=1.3),
        ]
        run_race(f"forward + backward + {optimizer}", args, all_batches, contestants, "bfloat16", results)
        del bags, contestants
        gc.collect()
    write(args, "dtypes", results)


if __name__ == "__main__":
    main()
