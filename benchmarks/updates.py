"""What does an update cost, optimizer by optimizer, against the traffic of its own memory; and what does catching up?

May import: fastembed, _harness, _bandwidth. Do not break: the traffic is measured in the same turns, on the same memory
and rows: it reads and rewrites each distinct row and its state once, and needs the best prefetch of nine.

Lines: the traffic; the same with the sums of gradient parts, which it leaves out; the update of a row-sparse gradient
of the sum of bags; grouping alone, which is a part of it; then a whole training step (look-up, gradient, update), and
the same with untouched="catch_up".
"""

import numpy as np
from _bandwidth import rewriters
from _harness import Batches, Contestant, arguments, check, parse, race, wanted, write

import fastembed
from fastembed import ops

OPTIMIZERS = {
    "SGD": {},
    "SGD, momentum": {"momentum": 0.9},
    "Adagrad": {},
    "RowwiseAdagrad": {},
    "Adam": {},
    "Adam, amsgrad": {"amsgrad": True},
    "AdamW": {},
    "RMSprop": {},
    "RMSprop, all": {"momentum": 0.9, "centered": True},
    "Adadelta": {},
    "Adamax": {},
    "Nadam": {},
    "Ftrl": {},
    "Lion": {},
    "Lamb": {},
    "Adafactor": {},
    "PartialRowwiseAdam": {},
    "RowwiseLamb": {},
    "RowwiseLARS": {},
    "RowwiseRMSprop": {},
}
TRAFFIC, SUMS, UPDATE, GROUPING, STEP, CATCH_UP = "traffic", "+ sums", "update", "grouping", "step", "step, catch_up"
ROWS = "update without grouping"
# What is compared with what, and the target.
RATIOS = [(ROWS, TRAFFIC, 1.15), (ROWS, SUMS, None), (GROUPING, STEP, 0.25), (CATCH_UP, STEP, 1.5)]


def make(name, table_vd, untouched):
    """A bag, its optimizer with state, and the function that takes a step."""
    bag = fastembed.EmbeddingBag(*table_vd.shape, combiner="sum")
    bag.adopt(fastembed.Table.wrap(table_vd))
    optimizer = getattr(fastembed.optimizers, name.partition(",")[0])(1e-3, untouched=untouched, **OPTIMIZERS[name])
    optimizer.build([bag.embeddings])
    return bag, optimizer


def contestants_of(name, table_vd, upstream_bd, threads, batches):
    """The lines of one optimizer."""
    bag, optimizer = make(name, table_vd, "skip")
    state_vs = optimizer.variables[0] if optimizer.variables else None

    def step(bag, optimizer):
        def run(ids):
            bag(ids)
            optimizer.apply_gradients([(bag.gradient(ids, upstream_bd), bag.embeddings)])

        return run

    def prepare(ids):
        return [(bag.gradient(ids, upstream_bd), bag.embeddings)]

    def best_of(chosen, prepare):
        tried = [Contestant(str(key), _on_rows(one, table_vd, state_vs), prepare) for key, one in chosen.items()]
        seconds = race(tried, batches, 5)
        return min(tried, key=lambda one: np.median(seconds[one.name])).run

    traffic = best_of(rewriters(table_vd.shape[1], threads), np.unique)
    sums = best_of(rewriters(table_vd.shape[1], threads, upstream_bd), parts_of)
    rows_u = np.unique(batches.next())
    before_ud = table_vd[rows_u].copy()
    traffic(rows_u)
    check("traffic", np.array_equal(before_ud, table_vd[rows_u]))  # it multiplies by one
    check_update(name, bag, optimizer, batches.next(), upstream_bd)
    lines = [
        Contestant(TRAFFIC, traffic, np.unique),
        Contestant(SUMS, sums, parts_of),
        Contestant(UPDATE, optimizer.apply_gradients, prepare),
        Contestant(GROUPING, lambda parts: ops.group(parts, len(table_vd)), lambda ids: prepare(ids)[0][0].parts),
        Contestant(STEP, step(bag, optimizer)),
    ]
    if "catch_up" in optimizer.modes:
        lines.append(Contestant(CATCH_UP, step(*make(name, table_vd, "catch_up"))))
    return lines


def check_update(name, bag, optimizer, ids, upstream_bd):
    """A step against that of another optimizer on the touched rows alone, made dense by NumPy."""
    rows_u, of_n = np.unique(ids, return_inverse=True)
    table_vd = bag.embeddings.memory
    small_ud = table_vd[rows_u].copy()
    dense_ud = np.zeros(small_ud.shape)
    np.add.at(dense_ud, of_n.reshape(-1), np.repeat(upstream_bd, ids.shape[1], 0))
    if name not in ("Lamb", "Adafactor"):  # their norms and means are those of another table
        type(optimizer).from_config(optimizer.get_config()).apply([dense_ud], [small_ud])
        optimizer.apply_gradients([(bag.gradient(ids, upstream_bd), bag.embeddings)])
        off = np.abs(table_vd[rows_u] - small_ud)
        check(name, np.quantile(off, 0.999) < 1e-5, f"(largest difference {off.max():.2g})")


def parts_of(ids):
    """The distinct rows of a batch, where the parts of each begin, and the bags of the parts."""
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")
    rows_u, starts = np.unique(flat[order], return_index=True)
    return rows_u, np.append(starts, len(flat)), order // ids.shape[1]


def _on_rows(rewrite, table_vd, state_vs):
    return lambda rows_u: rewrite(table_vd, state_vs, rows_u)


def main():
    parser = arguments(__doc__, rounds=11)
    parser.add_argument("--optimizers", default=";".join(OPTIMIZERS), help="with semicolons (default: all)")
    args = parse(parser)
    table_vd = fastembed.Embedding(args.rows, args.dim).embeddings.numpy()
    upstream_bd = np.random.default_rng(3).standard_normal((args.bags, args.dim)).astype(np.float32) * 0.01
    results = []
    for kind in args.ids:
        batches = Batches(kind, args)
        print(f"\n{kind} ids: ms, and {', '.join(f'{a} / {b}' for a, b, _ in RATIOS)}")
        for name in args.optimizers.split(";"):
            lines = contestants_of(name, table_vd, upstream_bd, args.threads, batches)
            seconds = race(lines, batches, args.rounds)
            seconds[ROWS] = np.subtract(seconds[UPDATE], seconds[GROUPING]).tolist()
            medians = {line.name: float(np.median(seconds[line.name])) * 1e3 for line in lines}
            texts = []
            for one, other, target in RATIOS:
                if one in seconds:
                    ratio = float(np.median(np.divide(seconds[one], seconds[other])))
                    texts.append(f"{ratio:.2f}{wanted(ratio, target, below=True)}")
                    results.append({"optimizer": name, "ids": kind, "work": one, "to": other, "ratio": ratio})
            times = " ".join(f"{text} {ms:.2f}" for text, ms in medians.items())
            print(f"{name:20} {times} | {'; '.join(texts)}", flush=True)
            results.append({"optimizer": name, "ids": kind, "ms": medians})
            del lines
    write(args, "updates", results)


if __name__ == "__main__":
    main()
