"""How fast is the bridge to PyTorch? Whole training steps of a small model, against torch's own sparse EmbeddingBag
with SparseAdam; and what the bridge costs beside the plain library.

May import: fastembed, its bridge, torch, _harness, _bandwidth, _peers. Do not break: before anything is timed, one step
of every contestant on the full table is checked, row by row, against the formulas in float64 (of those that share
Adam's state, of one).

At its default size it takes 13 GB: the table, and Adam's state twice; with `--only fastembed` or `--only torch` 8.
"""

import numpy as np
from _bandwidth import random_rows
from _harness import OURS, Batches, Contestant, arguments, check, parse, race, report, wanted, write
from _peers import load_torch

import fastembed

# As in training_step.py: a larger epsilon keeps the rounding of sums that are almost zero out of the check.
RATE, EPSILON = 0.01, 1e-3
SPEED, OVERHEAD = 5, 1.25  # the targets: times as fast as torch; times as slow as the plain library


def stepped(name, rows_ud, grads_ud):
    """The rows after their first step, in float64."""
    if name == "SGD":
        return rows_ud - RATE * grads_ud
    return rows_ud - RATE * grads_ud / (np.abs(grads_ud) + EPSILON / (1 - 0.999) ** 0.5)


def check_step(name, contestant, table_vd, ids_bk, upstream_of):
    """One step of a contestant against stepped(); the rows are put back. upstream_of: of the bags' float64 sums."""
    rows_u, of_n = np.unique(ids_bk, return_inverse=True)
    others = np.setdiff1d(np.random.default_rng(2).integers(len(table_vd), size=10_000), rows_u)
    before_ud, others_before = table_vd[rows_u].copy(), table_vd[others].copy()
    pooled_bd = before_ud.astype(np.float64)[of_n.reshape(ids_bk.shape)].sum(1)
    grads_ud = np.zeros(before_ud.shape)
    np.add.at(grads_ud, of_n.reshape(-1), np.repeat(upstream_of(pooled_bd), ids_bk.shape[1], axis=0))
    contestant.run(contestant.prepare(ids_bk))
    expected = stepped(name, before_ud.astype(np.float64), grads_ud)
    off = np.abs(table_vd[rows_u] - expected).max()
    right = np.allclose(table_vd[rows_u], expected, 1e-4, 1e-5) and np.array_equal(table_vd[others], others_before)
    table_vd[rows_u] = before_ud
    check(f"{name}: {contestant.name}", right, f"(largest difference {off:.2g})")


def ways(torch, layer, optimizer, upstream_bd):
    """The standard step, look-up, backward and update, of the plain library and of the bridge: one layer and one state
    for all."""
    fused = fastembed.torch.EmbeddingBag.from_layer(layer, optimizer=optimizer, fused=True)
    module = fastembed.torch.EmbeddingBag.from_layer(layer)
    steps, upstream = fastembed.torch.Optimizer([module], optimizer), torch.from_numpy(upstream_bd)

    def plain(ids):
        layer(ids)
        optimizer.apply_gradients([(layer.gradient(ids, upstream_bd), layer.embeddings)])

    def at_once(ids):
        fused(ids).backward(upstream)

    def at_step(ids):
        steps.zero_grad()
        module(ids).backward(upstream)
        steps.step()

    return [
        Contestant(OURS, plain),
        Contestant("bridge, fused", at_once, torch.from_numpy),
        Contestant("bridge, Optimizer", at_step, torch.from_numpy),
    ]


class Model:
    """A bag, a linear layer and a sigmoid, on labels that are the same for every batch."""

    def __init__(self, torch, bag, steps, args):
        self.torch, self.bag = torch, bag
        torch.manual_seed(4)
        self.dense = torch.nn.Linear(args.dim, 1)
        self.labels = torch.randint(2, (args.bags, 1)).float()
        self.steps = [*steps, torch.optim.Adam(self.dense.parameters(), RATE)]

    def step(self, ids):
        """A whole training step."""
        for optimizer in self.steps:
            optimizer.zero_grad()
        logits = self.dense(self.bag(ids))
        loss = self.torch.nn.functional.binary_cross_entropy_with_logits(logits, self.labels, reduction="sum")
        loss.backward()
        for optimizer in self.steps:
            optimizer.step()

    def upstream(self, pooled_bd):
        """The gradient of the loss at the bags, in float64, before the first step."""
        weight, bias = (p.detach().double().numpy() for p in (self.dense.weight, self.dense.bias))
        return (1 / (1 + np.exp(-(pooled_bd @ weight.T + bias))) - self.labels.numpy()) @ weight


def contestants_of(torch, args, layer, optimizer, only):
    """(contestant, model) of whole steps."""
    found = []
    if OURS in only:
        bag = fastembed.torch.EmbeddingBag.from_layer(layer)
        model = Model(torch, bag, [fastembed.torch.Optimizer([bag], optimizer)], args)
        found.append((Contestant(OURS, model.step, torch.from_numpy), model))
    if "torch" in only:
        weight = torch.from_numpy(layer.embeddings.numpy())
        bag = torch.nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", sparse=True)
        model = Model(torch, bag, [torch.optim.SparseAdam(list(bag.parameters()), RATE, eps=EPSILON)], args)
        found.append((Contestant("torch", model.step, torch.from_numpy, target=SPEED), model))
    return found


def main():
    parser = arguments(__doc__, rounds=21)
    parser.add_argument("--parts", default="model,SGD,Adam", help="with commas (default: all)")
    args = parse(parser)
    only, args.only = args.only.split(",") if args.only else [OURS, "torch"], ""
    torch = load_torch(args)
    if torch is None:
        return
    import fastembed.torch

    layer = fastembed.EmbeddingBag(args.rows, args.dim, combiner="sum")
    table_vd = layer.embeddings.numpy()
    upstream_bd = np.random.default_rng(3).standard_normal((args.bags, args.dim)).astype(np.float32) * 0.01
    all_batches = [Batches(kind, args) for kind in args.ids]
    limits = [random_rows(table_vd, batches, args.threads, rewrite=True) for batches in all_batches]
    rows, results = args.bags * args.bag_size, []
    adam = fastembed.optimizers.Adam(RATE, epsilon=EPSILON)
    models = contestants_of(torch, args, layer, adam, only) if "model" in args.parts else []
    for contestant, model in models:
        check_step("Adam", contestant, table_vd, all_batches[0].next(), model.upstream)
    for batches, limit in zip(all_batches, limits, strict=True) if models else ():
        contestants = [contestant for contestant, _ in models]
        seconds = race(contestants + limit, batches, args.rounds)
        report("a whole step, with Adam", batches.kind, contestants + limit, seconds, rows, args.dim * 4, results)
    models = contestants = contestant = model = None  # frees torch's state
    for name, optimizer in (("SGD", fastembed.optimizers.SGD(RATE)), ("Adam", adam)):
        if OURS not in only or name not in args.parts.split(","):
            continue
        contestants = ways(torch, layer, optimizer, upstream_bd)
        for contestant in contestants if name == "SGD" else contestants[1:2] * (optimizer.iterations == 0):
            check_step(name, contestant, table_vd, all_batches[0].next(), lambda pooled_bd: upstream_bd)
        for batches, limit in zip(all_batches, limits, strict=True):
            seconds = race(contestants + limit, batches, args.rounds)
            work = f"forward + backward + {name}"
            report(work, batches.kind, contestants + limit, seconds, rows, args.dim * 4, results)
            for way in contestants[1:]:
                ratio = float(np.median(np.divide(seconds[way.name], seconds[OURS])))
                print(f"{way.name}: {ratio:.3f} x the plain library{wanted(ratio, OVERHEAD, below=True)}")
    write(args, "torch_step", results)


if __name__ == "__main__":
    main()
