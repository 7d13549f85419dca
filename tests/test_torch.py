"""The bridge to PyTorch: the same numbers as its own layers, and what torch asks of a module.

Do not break: settings are those under which both sides have the same formula; programs that need another process, or
none of whose memory may be used yet, run in one.
"""

import copy
import io
import pickle
import re
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import reference as ref
from peers import peer

import fastembed
from fastembed import optimizers

torch = peer("torch")
bridge = peer("fastembed.torch")
pytestmark = pytest.mark.filterwarnings("ignore")

V, D, N, B = 60, 13, 300, 40
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def tensor(array):
    return torch.from_numpy(np.array(array))


def same(a, b):
    return np.array_equal(a.detach().numpy(), b.detach().numpy())


def close(a, b, **how):
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), **(how or CLOSE))


@pytest.fixture
def table(rng):
    return ref.random_table(rng, V, D)


@pytest.fixture
def ids(rng):
    return tensor(ref.random_ids(rng, N, V))


@pytest.fixture
def offsets(rng):
    return tensor(ref.random_splits(rng, N, B))


def pair(table, mode=None, **arguments):
    """Our module and torch's, with the same numbers in tables of their own."""
    if mode is None:
        theirs = torch.nn.Embedding(V, D, _weight=tensor(table))
        return bridge.Embedding(V, D, _weight=tensor(table), **arguments), theirs
    theirs = torch.nn.EmbeddingBag(V, D, mode=mode, _weight=tensor(table))
    return bridge.EmbeddingBag(V, D, mode=mode, _weight=tensor(table), **arguments), theirs


# ---- look-ups and gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(N,), (N // 4, 4), (5, 0), (0,), (N // 12, 3, 4), ()], ids=str)
def test_embedding(shape, dtype, rng, table):
    ours, theirs = pair(table, optimizer=optimizers.SGD(1.0), fused=True)
    ids = tensor(ref.random_ids(rng, int(np.prod(shape)), V).reshape(shape)).to(dtype)
    upstream = tensor(rng.standard_normal((*shape, D)).astype(np.float32))
    out, expected = ours(ids), theirs(ids)
    assert out.shape == expected.shape and out.dtype == torch.float32 and out.requires_grad
    assert same(out, expected)
    out.backward(upstream)
    expected.backward(upstream)
    close(ours.weight, theirs.weight - theirs.weight.grad)


@pytest.mark.parametrize("padding_idx", [0, 5, -1, V - 1])
def test_padding(padding_idx, rng, ids, offsets):
    """As torch: the row is zero at first, keeps what it is given, trains never, and bags pass over it."""
    ours, theirs = bridge.Embedding(V, D, padding_idx), torch.nn.Embedding(V, D, padding_idx)
    assert ours.padding_idx == theirs.padding_idx and (ours.weight[padding_idx] == 0).all()
    given = tensor(rng.standard_normal((V, D)).astype(np.float32))
    for module in (ours, theirs):
        module.load_state_dict({"weight": given})
    assert same(ours(ids), theirs(ids))
    ours = bridge.EmbeddingBag(
        V, D, padding_idx=padding_idx, _weight=given.clone(), optimizer=optimizers.SGD(1.0), fused=True
    )
    theirs = torch.nn.EmbeddingBag(V, D, padding_idx=padding_idx, _weight=given.clone())
    for module in (ours, theirs):
        module(ids, offsets[:-1]).square().sum().backward()
    close(ours(ids, offsets[:-1]) * 0, theirs(ids, offsets[:-1]) * 0)
    close(ours.weight, theirs.weight - theirs.weight.grad)
    assert same(ours.weight[padding_idx], given[padding_idx])


@pytest.mark.parametrize("include_last_offset", [False, True])
@pytest.mark.parametrize(("mode", "weighted"), [("sum", False), ("sum", True), ("mean", False), ("max", False)])
def test_bags(mode, weighted, include_last_offset, rng, table, ids, offsets):
    ours = bridge.EmbeddingBag(
        V,
        D,
        mode=mode,
        include_last_offset=include_last_offset,
        _weight=tensor(table),
        optimizer=optimizers.SGD(1.0),
        fused=True,
    )
    theirs = torch.nn.EmbeddingBag(V, D, mode=mode, include_last_offset=include_last_offset, _weight=tensor(table))
    offsets = offsets if include_last_offset else offsets[:-1]
    weights = tensor(rng.standard_normal(N).astype(np.float32)) if weighted else None
    upstream = tensor(rng.standard_normal((B, D)).astype(np.float32))
    of_weights = []
    for module in (ours, theirs):
        own = None if weights is None else weights.clone().requires_grad_()
        out = module(ids, offsets, own)
        assert out.shape == (B, D)
        out.backward(upstream)
        of_weights.append((out, own))
    (out, own), (expected, their_own) = of_weights
    close(out, expected)
    close(ours.weight, theirs.weight - theirs.weight.grad)
    if weighted:
        close(own.grad, their_own.grad)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_rectangles(mode, table, ids):
    ours, theirs = pair(table, mode)
    close(ours(ids.reshape(-1, 10)), theirs(ids.reshape(-1, 10)))


@pytest.mark.parametrize("mode", ["sum", "mean", "sqrtn"])
def test_weights_in_all_modes(mode, rng, table, ids):
    """Against the formula, differentiated by torch."""
    ids = ids.reshape(-1, 6)
    module = bridge.EmbeddingBag(V, D, mode=mode, _weight=tensor(table), optimizer=optimizers.SGD(1.0), fused=True)
    weights = tensor(rng.uniform(0.5, 2, ids.shape).astype(np.float32)).requires_grad_()
    again, matrix = weights.detach().clone().requires_grad_(), tensor(table).requires_grad_()
    divided = {"sum": 1.0, "mean": again.sum(1), "sqrtn": again.square().sum(1).sqrt()}[mode]
    expected = ((matrix[ids] * again[..., None]).sum(1).T / divided).T
    out = module(ids, per_sample_weights=weights)
    close(out, expected)
    upstream = tensor(rng.standard_normal(out.shape).astype(np.float32))
    out.backward(upstream)
    expected.backward(upstream)
    close(weights.grad, again.grad)
    close(module.weight, matrix - matrix.grad)


def test_half_weights(table, ids):
    module = bridge.EmbeddingBag(V, D, mode="sum", _weight=tensor(table), optimizer="sgd", fused=True)
    weights = torch.full(ids.reshape(-1, 6).shape, 0.5, dtype=torch.bfloat16, requires_grad=True)
    module(ids.reshape(-1, 6), None, weights).sum().backward()
    assert weights.grad.dtype == torch.bfloat16 and weights.grad.abs().sum() > 0


@pytest.mark.parametrize("compiled", [False, True])
def test_jagged(compiled, rng, table):
    ours, bag = pair(table, optimizer=optimizers.SGD(1.0), fused=True)[0], pair(table, "sum")[0]
    rows = [tensor(ref.random_ids(rng, n, V)) for n in (3, 0, 7, 1)]
    ids = torch.nested.nested_tensor(rows, layout=torch.jagged)
    forward = torch.compile(ours) if compiled else ours
    out = forward(ids)
    assert out.is_nested and out.layout == torch.jagged and out.shape[:2] == ids.shape and out.shape[2] == D
    for vectors, row in zip(out.unbind(), rows, strict=True):
        assert same(vectors, tensor(table)[row])
    (out * out).values().sum().backward()
    expected = table.copy()
    np.subtract.at(expected, np.concatenate(rows), 2 * table[np.concatenate(rows)])
    np.testing.assert_allclose(ours.weight.numpy(), expected, **CLOSE)
    weights = torch.nested.nested_tensor([torch.ones(len(row)) for row in rows], layout=torch.jagged)
    for pooled in (bag(ids), bag(ids, None, weights)):
        close(pooled, torch.stack([tensor(table)[row].sum(0) for row in rows]))
    with pytest.raises(ValueError, match="`offsets`"):
        bag(ids, ids.offsets())
    with pytest.raises(ValueError, match="`per_sample_weights` must have the offsets"):
        bag(ids, None, torch.nested.nested_tensor([torch.ones(n) for n in (2, 1, 7, 1)], layout=torch.jagged))
    with pytest.raises(TypeError, match="jagged"):
        ours(torch.nested.nested_tensor(rows))


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16", "float16"])
def test_dtypes(name, ids):
    dtype = getattr(torch, name)
    ours = bridge.Embedding(V, D, dtype=dtype)
    theirs = torch.nn.Embedding(V, D, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    assert ours.layer.dtype == name and ours.weight.dtype == dtype
    assert ours(ids).dtype == dtype and same(ours(ids).float(), theirs(ids).float())
    optimizer = bridge.Optimizer([ours], optimizers.SGD(1.0, rounding="nearest"))
    upstream = torch.ones(N, D, dtype=dtype)
    ours(ids).backward(upstream)
    optimizer.step()
    expected = theirs.weight.detach().float() - torch.bincount(ids, minlength=V)[:, None]
    assert same(ours.weight.float(), expected.to(dtype).float())
    as_float = copy.deepcopy(ours).float()  # the table stays what it is
    assert as_float.layer.dtype == name and as_float(ids).dtype == torch.float32
    assert same(as_float(ids), ours(ids).float())
    taken = bridge.Embedding.from_pretrained(ours.weight)
    assert taken.weight.data_ptr() == ours.weight.data_ptr() and not taken(ids).requires_grad


def test_other_dtypes():
    with pytest.raises(TypeError, match="`dtype` must be one of"):
        bridge.Embedding(V, D, dtype=torch.int8)
    with pytest.raises(TypeError, match="`dtype` must be one of"):
        bridge.Embedding.from_pretrained(torch.ones(3, 2, dtype=torch.int32))


# ---- trainings -------------------------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """Looks the ids up twice, so that gradients are summed."""

    def __init__(self, words, pooled):
        super().__init__()
        self.words, self.pooled = words, pooled
        self.dense = torch.nn.Linear(D, 1)
        with torch.no_grad():
            self.dense.weight.copy_(torch.linspace(0.1, 0.5, D)[None])
            self.dense.bias.zero_()

    def forward(self, ids):
        both = self.words(ids) + (self.words(ids.flip(0)) if not self.pooled else self.words(ids.flip(1)))
        return self.dense(both / 3 if self.pooled else both.mean(1))


# torch adds epsilon to the root, Keras mostly to what is in it; with these the difference is below float32's.
TRAININGS = {
    "SGD": (lambda: optimizers.SGD(0.1), lambda w: torch.optim.SGD(w, 0.1)),
    "momentum": (
        lambda: optimizers.SGD(0.1, momentum=0.9, untouched="dense"),
        lambda w: torch.optim.SGD(w, 0.1, momentum=0.9),
    ),
    "nesterov": (
        lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, untouched="dense"),
        lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, nesterov=True),
    ),
    "Adagrad": (
        lambda: optimizers.Adagrad(0.1, initial_accumulator_value=0.1, epsilon=0.0),
        lambda w: torch.optim.Adagrad(w, 0.1, initial_accumulator_value=0.1, eps=0.0),
    ),
    "Adam": (
        lambda: optimizers.Adam(0.01, epsilon=1e-12, untouched="dense"),
        lambda w: torch.optim.Adam(w, 0.01, eps=1e-12),
    ),
    "Adam, catch_up": (
        lambda: optimizers.Adam(0.01, epsilon=1e-12, untouched="catch_up"),
        lambda w: torch.optim.Adam(w, 0.01, eps=1e-12),
    ),
    "AdamW": (
        lambda: optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-12, untouched="dense"),
        lambda w: torch.optim.AdamW(w, 0.01, weight_decay=0.1, eps=1e-12),
    ),
    "RMSprop": (
        lambda: optimizers.RMSprop(0.01, rho=0.9, epsilon=1e-20, untouched="dense"),
        lambda w: torch.optim.RMSprop(w, 0.01, alpha=0.9, eps=1e-10),
    ),
    "SparseAdam": (
        lambda: optimizers.Adam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-5, untouched="skip"),
        lambda w: torch.optim.SparseAdam(w, 0.01, betas=(0.8, 0.95), eps=1e-5),
    ),
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mode", [None, "sum", "mean"], ids=str)
@pytest.mark.parametrize("name", TRAININGS)
def test_the_same_model(name, mode, fused, rng, table):
    """Ten steps of a small model end with torch's weights; ids come many times, some rows pause."""
    make, make_theirs = TRAININGS[name]
    words, theirs = pair(table, mode, **({"optimizer": make(), "fused": True} if fused else {}))
    theirs.sparse = name == "SparseAdam"
    models = Model(words, mode is not None), Model(theirs, mode is not None)
    steps = [torch.optim.SGD(models[0].parameters(), 0.05), torch.optim.SGD(models[1].dense.parameters(), 0.05)]
    steps.append(make_theirs(list(theirs.parameters())))
    if not fused:
        steps.append(bridge.Optimizer(models[0], make()))
    for step in range(10):
        ids = tensor(ref.random_ids(rng, N, V - 20 + 2 * (step % 5))).reshape(-1, 6)
        labels = tensor(rng.standard_normal((len(ids), 1)).astype(np.float32))
        for optimizer in steps:
            optimizer.zero_grad()
        for model in models:
            torch.nn.functional.mse_loss(model(ids), labels).backward()
        for optimizer in steps:
            optimizer.step()
    close(models[0].dense.weight, models[1].dense.weight, rtol=1e-4, atol=1e-5)
    close(words.weight, theirs.weight, rtol=2e-4, atol=2e-5)
    assert np.abs(words.weight.numpy() - table).max() > 0.01
    assert (words.optimizer if fused else steps[-1].optimizer).iterations == 10
    assert same(words.anchor, torch.zeros(()))


def test_gradients_add_up(rng, table, ids):
    """Those of several backward passes, until somebody zeroes them."""
    module = pair(table)[0]
    optimizer = bridge.Optimizer([module], optimizers.SGD(1.0))

    def expect(times):
        counts = torch.bincount(ids, minlength=V)[:, None]
        close(module.weight, tensor(table) - times * counts)

    def backward():
        module(ids).sum().backward()

    backward()
    backward()
    optimizer.step()
    expect(2)
    optimizer.step()  # nothing is left
    expect(2)
    backward()
    optimizer.zero_grad()
    optimizer.step()
    expect(2)
    backward()
    module.zero_grad()  # of the model
    optimizer.step()
    expect(2)
    backward()
    module.zero_grad()
    backward()
    optimizer.step()
    expect(3)
    optimizer.zero_grad(set_to_none=False)
    backward()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    expect(3)
    backward()
    with torch.no_grad():
        module(ids)
    optimizer.step(backward)
    expect(5)


def test_a_backward_pass_that_fails(table, ids):
    module, optimizer = pair(table)[0], None
    optimizer = bridge.Optimizer([module], optimizers.SGD(1.0))

    def fail(gradient):
        raise KeyError("mine")

    first = torch.zeros(N, D, requires_grad=True)
    first.register_hook(fail)
    with pytest.raises(KeyError, match="mine"):
        (module(ids) + first * 1).sum().backward()
    optimizer.zero_grad()
    module(ids).sum().backward()
    optimizer.step()
    close(module.weight, tensor(table) - torch.bincount(ids, minlength=V)[:, None])


def test_a_module_that_is_gone(table, ids):
    out = pair(table)[0](ids)
    out.sum().backward()


def test_several_tables(rng, table, ids):
    """One optimizer takes one step for all: the norm is that of all gradients."""
    words, bag = pair(table)[0], pair(table, "sum")[0]
    model = torch.nn.ModuleDict({"words": words, "bag": bag, "own": pair(table, optimizer="sgd", fused=True)[0]})
    optimizer = bridge.Optimizer(model, optimizers.SGD(1.0, global_clipnorm=1.0))
    assert optimizer.modules == [words, bag]
    (words(ids).sum() + bag(ids.reshape(-1, 6)).sum()).backward()
    optimizer.step()
    moved = [(module.weight - tensor(table)).square().sum() for module in (words, bag)]
    close(sum(moved).sqrt(), torch.tensor(1.0))
    assert optimizer.optimizer.iterations == 1
    words(ids).sum().backward()  # the other one has no gradient
    optimizer.step()
    assert optimizer.optimizer.iterations == 2


def test_schedulers(table, ids):
    module, theirs = pair(table)
    ours, other = bridge.Optimizer([module], "sgd"), torch.optim.SGD(theirs.parameters(), 0.01)
    schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5) for optimizer in (ours, other)]
    for _ in range(5):
        for model, optimizer in ((module, ours), (theirs, other)):
            optimizer.zero_grad()
            model(ids).sum().backward()
            optimizer.step()
        for schedule in schedules:
            schedule.step()
    close(module.weight, theirs.weight)
    assert ours.param_groups[0]["lr"] == ours.optimizer.learning_rate == 0.01 / 4
    ours = bridge.Optimizer([module], optimizers.SGD(fastembed.schedules.ExponentialDecay(0.1, 1, 0.5)))
    for rate in (0.1, 0.05, 0.025):
        assert ours.param_groups[0]["lr"] == pytest.approx(rate)
        module(ids).sum().backward()
        ours.step()


def test_grad_scaler(table, ids):
    module, theirs = pair(table)
    ours, other = bridge.Optimizer([module], optimizers.SGD(0.1)), torch.optim.SGD(theirs.parameters(), 0.1)
    scaler, again = (torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2) for _ in range(2))
    for factor in (1.0, 2.0, float("inf"), 1.0):
        for model, optimizer, scale in ((module, ours, scaler), (theirs, other, again)):
            optimizer.zero_grad()
            scale.scale(model(ids).sum() * factor).backward()
            scale.step(optimizer)
            scale.update()
        close(module.weight, theirs.weight)
        assert scaler.get_scale() == again.get_scale()
    module(ids).sum().backward()
    scaler.unscale_(ours)
    with pytest.raises(ValueError, match="`unscale_` must not be called"):
        scaler.step(ours)


def test_not_finite(table, ids):
    """The anchor's gradient says so, as the norm of torch's own gradient would; a step raises and writes nothing."""
    module = pair(table)[0]
    optimizer = bridge.Optimizer([module], "adam")
    (module(ids) * float("nan")).sum().backward()
    assert torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0).isnan()
    with pytest.raises(ValueError, match="must be finite"):
        optimizer.step()
    optimizer.zero_grad()
    module(ids).sum().backward()
    assert torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0) == 0
    assert same(module.weight, tensor(table))
    fused = pair(table, optimizer="adam", fused=True)[0]
    with pytest.raises(ValueError, match="must be finite"):
        (fused(ids) * float("nan")).sum().backward()
    assert same(fused.weight, tensor(table))


@pytest.mark.parametrize("fused", [False, True])
def test_frozen(fused, table, ids):
    module = bridge.Embedding.from_pretrained(tensor(table), **({"optimizer": "sgd", "fused": True} if fused else {}))
    dense = torch.nn.Linear(D, 1)
    optimizer = None if fused else bridge.Optimizer([module], "sgd")

    def step():
        dense(module(ids)).sum().backward()
        if not fused:
            optimizer.step()
            optimizer.zero_grad()
        return not same(module.weight, tensor(table))

    assert not step() and dense.weight.grad.abs().sum() > 0
    module.layer.trainable = False
    module.requires_grad_(True)
    assert not step()
    module.layer.trainable = True
    assert step()
    before = module.weight.clone()
    module.requires_grad_(False)
    step()
    module.requires_grad_(True).eval()
    with torch.no_grad():
        assert not module(ids).requires_grad
    assert same(module.weight, before)


def test_rows_of_their_own(table, ids):
    """What the layer offers beside: frozen rows, LoRA, another number of rows."""
    module = pair(table, optimizer=optimizers.SGD(1.0), fused=True)[0]
    module.layer.embeddings.freeze([3, 5])
    module(ids).sum().backward()
    moved = (module.weight != tensor(table)).any(1)
    assert not moved[[3, 5]].any() and moved.any()
    module.layer.resize(V + 10)
    assert module.num_embeddings == len(module.weight) == V + 10
    module(torch.tensor([V + 9])).sum().backward()
    module = pair(table, "sum")[0]
    module.layer.enable_lora(2)
    optimizer = bridge.Optimizer([module], optimizers.SGD(0.1))
    before = module(ids.reshape(-1, 6)).detach()
    for _ in range(2):
        module(ids.reshape(-1, 6)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(module.weight, tensor(table))
    assert (module(ids.reshape(-1, 6)) - before).abs().max() > 1e-4
    with pytest.raises(ValueError, match="merge_lora"):
        module.state_dict()
    module.layer.merge_lora()
    assert not same(module.state_dict()["weight"], tensor(table))


def test_regularizers_and_constraints(table, ids):
    norm = fastembed.constraints.MaxNorm(1.0, axis=1)
    module = bridge.Embedding(V, D, embeddings_constraint=norm, optimizer="sgd", fused=True)
    module(ids).square().sum().backward()
    assert (module.weight.norm(dim=1) < 1.0001).all()


# ---- torch.compile ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mode", [None, "sum"], ids=str)
def test_compile(mode, fused, rng, table):
    """One graph, and the numbers of the eager model, in trainings with duplicates and batches of several sizes."""
    torch.compiler.reset()
    results = []
    batches = [ref.random_ids(rng, n, V).reshape(-1, 6) for n in (300, 300, 60, 120, 240)]
    for compiled in (False, True):
        words = pair(table, mode, **({"optimizer": optimizers.Adam(0.01), "fused": True} if fused else {}))[0]
        model = Model(words, mode is not None)
        steps = [torch.optim.SGD(model.dense.parameters(), 0.05)]
        steps += [] if fused else [bridge.Optimizer(model, optimizers.Adam(0.01))]

        def loss(ids, model=model):
            return model(torch.clamp(ids + 1, max=V - 1)).square().mean()  # ids of the graph's own

        loss = torch.compile(loss, fullgraph=True) if compiled else loss
        for batch in batches:
            for optimizer in steps:
                optimizer.zero_grad()
            loss(tensor(batch)).backward()
            for optimizer in steps:
                optimizer.step()
        results.append((words.weight, model.dense.weight))
        assert (words.optimizer if fused else steps[-1].optimizer).iterations == len(batches)
    for eager, compiled in zip(*results, strict=True):
        close(compiled, eager)


def test_compile_equal_look_ups(table, ids):
    """Two look-ups of the same ids with the same gradient are two: the compiler may not take one for both."""
    torch.compiler.reset()
    module = pair(table, optimizer=optimizers.SGD(1.0), fused=True)[0]
    torch.compile(lambda ids: (module(ids) + module(ids)).sum(), fullgraph=True)(ids).backward()
    close(module.weight, tensor(table) - 2 * torch.bincount(ids, minlength=V)[:, None])


def test_compile_bags(rng, table, ids, offsets):
    """Offsets, weights and their gradient; two modules."""
    torch.compiler.reset()
    weights = tensor(rng.uniform(0.5, 2, N).astype(np.float32))
    results = []
    for compiled in (False, True):
        one, other = (pair(table, mode, optimizer=optimizers.SGD(1.0), fused=True)[0] for mode in ("sum", "max"))
        own = weights.clone().requires_grad_()

        def loss(ids, offsets, own, one=one, other=other):
            return (one(ids, offsets, own) * other(ids, offsets)).sum()

        loss = torch.compile(loss, fullgraph=True) if compiled else loss
        loss(ids, offsets[:-1], own).backward()
        results.append((one.weight, other.weight, own.grad))
    for eager, compiled in zip(*results, strict=True):
        close(compiled, eager)


def test_operators(table, ids, offsets):
    """torch's own checks of the operators: schema, fakes, autograd, compilation."""
    module = pair(table, "sum", optimizer=optimizers.SGD(0.0), fused=True)[0]
    arguments = (module.anchor, ids, offsets, torch.ones(N, requires_grad=True), module.handle, D, True)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.fastembed.look_up.default, arguments, test_utils=checks)


# ---- state dicts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, "sum"], ids=str)
def test_state_dict(mode, table, ids):
    """One key, torch's, on the table's own memory; both ways."""
    ours, theirs = pair(table, mode)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    assert ours.state_dict()["weight"].data_ptr() == ours.layer.embeddings.numpy().ctypes.data
    theirs.weight.data.mul_(3)
    assert str(ours.load_state_dict(theirs.state_dict())) == str(theirs.load_state_dict(theirs.state_dict()))
    assert same(ours.weight, theirs.weight)
    ours.weight.mul_(2)
    theirs.load_state_dict(ours.state_dict())
    assert same(theirs.weight, ours.weight) and not same(theirs.weight, tensor(table) * 3)
    nested = torch.nn.Sequential(ours, torch.nn.Linear(D, 1))
    assert list(nested.state_dict()) == ["0.weight", "1.weight", "1.bias"]
    with pytest.raises(RuntimeError, match="`weight` must have shape"):
        ours.load_state_dict({"weight": torch.ones(V + 1, D)})
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ours.load_state_dict({"weight": tensor(table), "bias": tensor(table)})
    for dtype in (torch.bfloat16, torch.float64):
        ours.load_state_dict({"weight": torch.full((V, D), 0.75, dtype=dtype)})
        assert (ours.weight == 0.75).all()


def test_pretrained(table, ids):
    weight = tensor(table)
    module = bridge.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", optimizer="sgd", fused=True)
    assert module.weight.data_ptr() == weight.data_ptr()
    module(ids.reshape(-1, 6)).sum().backward()
    assert not same(weight, tensor(table))  # it is the memory
    transposed = bridge.Embedding.from_pretrained(weight.T.contiguous().T)
    assert same(transposed.weight, weight) and transposed.weight.data_ptr() != weight.data_ptr()
    with pytest.raises(ValueError, match="`embeddings` must be a matrix"):
        bridge.Embedding.from_pretrained(torch.ones(3))
    with pytest.raises(ValueError, match="`_weight` must have shape"):
        bridge.Embedding(V, D, _weight=torch.ones(D, V))


def test_in_a_file(tmp_path, table, ids):
    made = bridge.Embedding(V, D, _weight=tensor(table), path=tmp_path / "a.npy", optimizer="sgd", fused=True)
    made(ids).sum().backward()
    made.layer.embeddings.flush()
    assert np.array_equal(np.load(tmp_path / "a.npy"), made.weight.numpy())
    lazy = bridge.Embedding(V, D, lazy=True, optimizer="adagrad", fused=True)
    before = lazy(ids).detach()
    lazy(ids).sum().backward()
    assert not same(lazy(ids), before)
    layer = fastembed.Embedding(V, D, weights=table)
    layer.save(tmp_path / "words")
    served = bridge.Embedding.from_layer(fastembed.load(tmp_path / "words", mmap_mode="r"))
    assert same(served(ids), tensor(table)[ids])
    with pytest.raises(TypeError, match=r"`layer` must be a fastembed\.EmbeddingBag"):
        bridge.EmbeddingBag.from_layer(layer)


def test_quantised(table, ids):
    layer = fastembed.EmbeddingBag(V, D, "sum", weights=table)
    layer.quantize("int8")
    module = bridge.EmbeddingBag.from_layer(layer, optimizer="sgd", fused=True)
    module(ids.reshape(-1, 6)).sum().backward()
    close(module(ids.reshape(-1, 6)), pair(table, "sum")[1](ids.reshape(-1, 6)), rtol=0.1, atol=0.3)
    with pytest.raises(TypeError, match="`weight` must be floats"):
        module.state_dict()


def test_first_values():
    torch.manual_seed(5)
    one = bridge.Embedding(2000, 64)
    torch.manual_seed(5)
    assert same(one.weight, bridge.Embedding(2000, 64).weight)
    assert not same(one.weight, bridge.Embedding(2000, 64).weight)
    assert abs(one.weight.mean()) < 0.02 and abs(one.weight.std() - 1) < 0.02
    other = bridge.Embedding(10, 4, embeddings_initializer="ones")
    assert (other.weight == 1).all()


CONTINUED = {
    "SGD": {"class_name": "SGD", "config": {"learning_rate": 0.1}},
    "momentum": {"class_name": "SGD", "config": {"learning_rate": 0.1, "momentum": 0.9, "state_dtype": "int8"}},
    "Adam": {"class_name": "Adam", "config": {"learning_rate": 0.01, "state_dtype": "bfloat16"}},
    "catch_up": {"class_name": "Adam", "config": {"learning_rate": 0.01, "untouched": "catch_up"}},
    "average": {"class_name": "Adagrad", "config": {"learning_rate": 0.1, "use_ema": True}},
    "row-wise": {"class_name": "RowwiseAdagrad", "config": {"learning_rate": 0.1}},
    "accumulated": {"class_name": "Adam", "config": {"learning_rate": 0.1, "gradient_accumulation_steps": 2}},
    "scaled": {
        "class_name": "LossScaleOptimizer",
        "config": {"inner_optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.1}}, "initial_scale": 4.0},
    },
    "Adafactor": {"class_name": "Adafactor", "config": {"learning_rate": 0.1}},
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", CONTINUED)
def test_save_load_continue(name, fused, rng, table, ids):
    """Through a file that torch reads as weights only; the bits of a training that never stopped."""
    batches = [tensor(ref.random_ids(rng, 60, 10 + 7 * (step % 5))) for step in range(10)]

    def begin():
        chosen = optimizers.get(copy.deepcopy(CONTINUED[name]))
        module = pair(table, **({"optimizer": chosen, "fused": True} if fused else {}))[0]
        module.layer.embeddings.scale_learning_rate([3, 4], 0.0)
        return module, None if fused else bridge.Optimizer([module], chosen)

    def train(module, optimizer, batches):
        for batch in batches:
            if optimizer is not None:
                optimizer.zero_grad()
            module(batch).square().sum().backward()
            if optimizer is not None:
                optimizer.step()

    def state(module, optimizer):
        return module.optimizer_state_dict() if optimizer is None else optimizer.state_dict()

    module, optimizer = begin()
    train(module, optimizer, batches[:5])
    file = io.BytesIO()
    torch.save([module.state_dict(), state(module, optimizer)], file)
    train(module, optimizer, batches[5:])
    file.seek(0)
    weights, saved = torch.load(file, weights_only=True)
    other, again = begin()
    train(other, again, batches[3:5])  # something that is to be overwritten
    other.load_state_dict(weights)
    (other.load_optimizer_state_dict if fused else again.load_state_dict)(saved)
    train(other, again, batches[5:])
    assert same(other.weight, module.weight)
    saved, expected = state(other, again), state(module, optimizer)
    for mine, theirs in zip(saved["state"].values(), expected["state"].values(), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert torch.equal(mine[key], theirs[key])


def test_save_load_continue_lazy(ids):
    """The state of a lazy table is made whole, as its weight is."""
    batches = [torch.tensor([3, 5, 3]), torch.tensor([5, 40])]

    def begin():
        module = bridge.Embedding(V, D, lazy=True)
        return module, bridge.Optimizer([module], "adagrad")

    def train(module, optimizer, batch):
        optimizer.zero_grad()
        module(batch).square().sum().backward()
        optimizer.step()

    (one, first), (other, second) = begin(), begin()
    train(one, first, batches[0])
    saved = copy.deepcopy([one.state_dict(), first.state_dict()])
    train(other, second, torch.tensor([7]))
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    for module, optimizer in ((one, first), (other, second)):
        train(module, optimizer, batches[1])
    assert same(one.weight, other.weight)
    assert torch.equal(first.state_dict()["state"][0]["state"], second.state_dict()["state"][0]["state"])


def test_checkpoint(tmp_path, table, ids):
    """Those of this library save what modules train."""
    module = pair(table)[0]
    optimizer = bridge.Optimizer([module], "adam")
    checkpoint = fastembed.Checkpoint(module.layer, optimizer.optimizer)

    def step():
        optimizer.zero_grad()
        module(ids).square().sum().backward()
        optimizer.step()
        return module.weight.clone()

    step()
    checkpoint.save(tmp_path / "training")
    expected = step()
    checkpoint.restore(tmp_path / "training")
    assert same(step(), expected)


def test_states_of_others(table, ids):
    module, theirs = pair(table)
    optimizer = bridge.Optimizer([module], "adam")
    with pytest.raises(ValueError, match=r"must be that of a fastembed\.torch\.Optimizer"):
        optimizer.load_state_dict(torch.optim.Adam(theirs.parameters()).state_dict())
    module(ids).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    for other in ("sgd", optimizers.Adam(beta_1=0.5)):
        with pytest.raises(ValueError, match="the state must be that of"):
            bridge.Optimizer([module], other).load_state_dict(saved)
    with pytest.raises(ValueError, match="2 tables"):
        bridge.Optimizer([module, pair(table)[0]], "adam").load_state_dict(saved)
    with pytest.raises(ValueError, match="must be float32 of shape"):
        bridge.Optimizer([bridge.Embedding(V + 1, D)], "adam").load_state_dict(saved)
    with pytest.raises(ValueError, match="`fused` must be True"):
        module.optimizer_state_dict()
    rate = bridge.Optimizer([module], optimizers.Adam(0.5))
    rate.load_state_dict(saved)
    assert rate.param_groups[0]["lr"] == rate.optimizer.learning_rate == 0.001


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_bad_ids(table, ids):
    module, bag = pair(table, optimizer="sgd", fused=True)[0], pair(table, "sum")[0]
    for bad in (V, -1, 2**40):
        with pytest.raises(IndexError, match=rf"{bad} at flat position 4|\[0, 4\] = {bad}"):
            module(torch.tensor([[1, 2, 3, 3, bad]]))
        with pytest.raises(IndexError, match=str(bad)):
            bag(torch.tensor([[1, 2, 3, 3, bad]]))
    for dtype in (torch.float32, torch.int16, torch.uint8, torch.bool):
        with pytest.raises(TypeError, match="`input` must be int32 or int64"):
            module(torch.ones(3, dtype=dtype))
    with pytest.raises(TypeError, match="`offsets` must be int32 or int64"):
        bag(ids, torch.zeros(1))
    with pytest.raises(ValueError, match="start at 0"):
        bag(ids, torch.tensor([1, 3]))
    with pytest.raises(ValueError, match="`offsets` must be given"):
        bag(ids)
    with pytest.raises(ValueError, match="be None for one of two"):
        bag(ids.reshape(-1, 6), torch.tensor([0]))
    with pytest.raises(ValueError, match="`per_sample_weights` must have the shape"):
        bag(ids, torch.tensor([0]), torch.ones(N - 1))
    assert same(module.weight, tensor(table))


def test_refused_arguments(table):
    for arguments in ({"max_norm": 1.0}, {"scale_grad_by_freq": True}):
        for kind in (bridge.Embedding, bridge.EmbeddingBag):
            with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must not be set"):
                kind(V, D, **arguments)
    for arguments in ({"fused": True}, {"optimizer": "adam"}):
        with pytest.raises(ValueError, match="`optimizer` must be given with fused=True, and only then"):
            bridge.Embedding(V, D, **arguments)
    with pytest.raises(ValueError, match="`padding_idx`"):
        bridge.Embedding(V, D, padding_idx=V)
    with pytest.raises(ValueError, match="`combiner`"):
        bridge.EmbeddingBag(V, D, mode="median")
    fused = pair(table, optimizer="sgd", fused=True)[0]
    for modules in ([], [fused], fused, [torch.nn.Linear(2, 3)], [pair(table)[0]] * 2):
        with pytest.raises(ValueError, match="`modules` must"):
            bridge.Optimizer(modules, "sgd")
    with pytest.raises(ValueError, match="one `param_group`"):
        bridge.Optimizer([pair(table)[0]], "sgd").add_param_group({"params": []})


def test_double_backward(table, ids):
    """Gradients of gradients with respect to a look-up's result are there; those of the table are not."""
    module, theirs = pair(table, optimizer=optimizers.SGD(1.0), fused=True)
    for words in (module, theirs):
        out = words(ids)
        (gradient,) = torch.autograd.grad((out**3).sum(), out, create_graph=True)
        gradient.square().sum().backward()
    close(module.weight, theirs.weight - theirs.weight.grad, rtol=1e-4, atol=1e-2)
    (gradient,) = torch.autograd.grad((module(ids) ** 3).sum(), module.anchor, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        gradient.backward()


# ---- what torch asks of a module -------------------------------------------------------------------------------------


def test_only_the_anchor_is_a_parameter(table):
    module = pair(table)[0]
    assert [(name, p.numel()) for name, p in module.named_parameters()] == [("anchor", 1)]
    assert list(module.buffers()) == [] and not module.weight.requires_grad
    assert repr(bridge.EmbeddingBag(7, 3, mode="max")) == "EmbeddingBag(7, 3, mode='max')"
    assert repr(bridge.Embedding(7, 3, -1, dtype=torch.float16)) == "Embedding(7, 3, padding_idx=6, dtype=float16)"


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("fused", [False, True])
def test_copies(how, fused, table, ids):
    """Train apart from the original, with their optimizer's state."""
    make = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}[how]
    module = pair(table, **({"optimizer": optimizers.Adam(0.1), "fused": True} if fused else {}))[0]
    optimizer = None if fused else bridge.Optimizer([module], optimizers.Adam(0.1))

    def step(module, optimizer):
        module(ids).sum().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        return module.weight.clone()

    step(module, optimizer)
    other, again = make((module, optimizer))
    before = module.weight.clone()
    assert other.handle != module.handle and same(other.weight, before)
    after = step(other, again)
    assert same(module.weight, before) and not same(after, before)
    assert same(step(module, optimizer), after)


def test_memory_is_free_at_once(table, ids):
    module = pair(table, optimizer="adam", fused=True)[0]
    module(ids).sum().backward()
    gone = weakref.ref(module), weakref.ref(module.layer), weakref.ref(module.layer.embeddings)
    del module
    assert [reference() for reference in gone] == [None] * 3


def test_moved(table, ids):
    """`.to` moves the anchor, and what look-ups return goes where that is."""
    module = pair(table, optimizer=optimizers.SGD(1.0), fused=True)[0]
    module.to(torch.bfloat16)
    out = module(ids)
    assert out.dtype == torch.bfloat16 and module.weight.dtype == torch.float32
    out.sum().backward()
    close(module.weight, tensor(table) - torch.bincount(ids, minlength=V)[:, None])
    module.double()
    assert same(module(ids), module.weight.double()[ids])
    module.to("meta")
    assert module(ids).device.type == "meta"
    module.to_empty(device="cpu")  # a new anchor
    module(ids).sum().backward()
    close(module.weight, tensor(table) - 2 * torch.bincount(ids, minlength=V)[:, None])


def test_autocast(table, ids):
    module, theirs = pair(table, optimizer=optimizers.SGD(0.1), fused=True)
    dense = torch.nn.Linear(D, 4)
    for words in (module, theirs):
        with torch.autocast("cpu", torch.bfloat16):
            out = dense(words(ids))
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
    close(module.weight, theirs.weight - 0.1 * theirs.weight.grad, rtol=1e-3, atol=1e-3)


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a GPU; all that it can do is to come back."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device="cuda")
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default:
            if kwargs.get("device", torch.device("cuda")).type == "cpu":
                return args[0].inner.to(dtype=kwargs.get("dtype"))
            return cls(args[0].inner.to(dtype=kwargs["dtype"]))
        if function is torch.ops.aten.detach.default:
            return cls(args[0].inner.detach())
        raise NotImplementedError(function)


def test_tensors_on_other_devices():
    """Without a GPU: what comes from one is brought to the host. What goes there is asked of fake tensors."""
    from fastembed.torch import arrays

    numbers = torch.arange(6.0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        array = arrays.floats_of(Elsewhere(numbers.to(dtype)))
        assert np.array_equal(array, numbers.numpy()) and array.dtype in (np.float32, np.float64)
    assert same(arrays.ids_of(Elsewhere(torch.arange(6))), torch.arange(6))
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        anchor, ids = torch.zeros((), device="cuda"), torch.zeros((3, 4), dtype=torch.int64, device="cuda")
        out = torch.ops.fastembed.look_up(anchor, ids, None, None, 0, D, False)
        assert out.shape == (3, 4, D) and out.device.type == "cuda"
        weights = torch.zeros((3, 4), device="cuda")
        assert torch.ops.fastembed.look_up(anchor, ids, None, weights, 0, D, True).shape == (3, D)


def test_memory_is_shared(table, ids):
    """No copy of ids, upstream gradients or results."""
    from fastembed.torch import arrays

    assert arrays.ids_of(ids) is ids
    upstream = torch.ones(N, D)
    assert arrays.floats_of(upstream).ctypes.data == upstream.data_ptr()
    assert arrays.floats_of(upstream.T).flags.c_contiguous
    array = np.ones((3, 2), np.float32)
    assert arrays.tensor_of(array).data_ptr() == array.ctypes.data


def test_gradients_are_our_own(table, ids):
    """A gradient that waits for its step is not changed by what torch does with the same memory."""
    module, other = pair(table)[0], torch.nn.Parameter(torch.zeros(N, D))
    optimizer = bridge.Optimizer([module], optimizers.SGD(1.0))
    (module(ids) + other).sum().backward()
    (2 * (module(ids) + other)).sum().backward()
    other.grad.mul_(100)
    optimizer.step()
    close(module.weight, tensor(table) - 3 * torch.bincount(ids, minlength=V)[:, None])


@pytest.mark.parametrize("fused", [False, True])
def test_threads(fused, table):
    """Backward passes of several Python threads: no gradient is lost, none counted twice."""
    exact = np.zeros((V, D), np.float32)
    module = pair(exact, **({"optimizer": optimizers.SGD(1.0), "fused": True} if fused else {}))[0]
    optimizer = None if fused else bridge.Optimizer([module], optimizers.SGD(1.0))
    ids = torch.arange(N) % V
    errors = []

    def work():
        try:
            for _ in range(50):
                module(ids).sum().backward()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not fused:
        optimizer.step()
    assert not errors
    assert (module.weight == -200 * N / V).all()


# ---- other processes -------------------------------------------------------------------------------------------------

WORKERS = """
import torch
import fastembed.torch

class Vectors(torch.utils.data.Dataset):
    '''Looks up inside the worker.'''

    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 64

    def __getitem__(self, i):
        with torch.no_grad():
            return self.module(torch.arange(5000) % (i + 1))[:, 0].max()
"""


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_data_loader(how, run_python, tmp_path):
    """Look-ups in workers, after the parent has used all threads, which goes on training afterwards."""
    (tmp_path / "workers.py").write_text(WORKERS)
    program = """
        import sys
        import numpy as np
        import torch
        import fastembed.torch
        import workers

        if __name__ == "__main__":
            fastembed.set_num_threads(4)
            torch.manual_seed(1)
            module = fastembed.torch.Embedding(20_000, 64, optimizer="sgd", fused=True)
            ids = torch.arange(50_000) % 20_000
            module(ids).sum().backward()
            data = workers.Vectors(module)
            loader = torch.utils.data.DataLoader(
                data, batch_size=8, num_workers=2, multiprocessing_context=sys.argv[1], timeout=60
            )
            with torch.no_grad():
                expected = torch.stack([data[i] for i in range(64)])
            assert torch.equal(torch.cat(list(loader)), expected)
            module(ids).sum().backward()
            assert module.optimizer.iterations == 2
            print("good")
    """
    assert run_python(program, how, timeout=150, PYTHONWARNINGS="ignore").endswith("good\n")


def test_fork_while_training(run_python):
    """A child trains on, too, after the parent has used its threads."""
    program = """
        import os
        import torch
        import fastembed.torch

        fastembed.set_num_threads(4)
        module = fastembed.torch.EmbeddingBag(20_000, 64, mode="sum", embeddings_initializer="zeros", fused=True,
                                              optimizer=fastembed.optimizers.SGD(1.0))
        ids = torch.arange(50_000).reshape(-1, 10) % 20_000
        module(ids).sum().backward()
        before = module.weight.clone()
        pid = os.fork()
        if pid == 0:
            torch.set_num_threads(1)  # torch's own threads hang after a fork; a DataLoader does this in its workers
            module(ids).sum().backward()
            os._exit(0 if torch.equal(module.weight, 2 * before) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert torch.equal(module.weight, before)
        print("good")
    """
    assert run_python(program, timeout=60, PYTHONWARNINGS="ignore") == "good\n"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_memory(fused, compiled, run_python):
    """A whole step, with torch's optimizer of all parameters beside, takes no memory of the table's size (128 MB)."""
    program = """
        import sys
        import torch
        import fastembed
        import fastembed.torch

        fused, compiled = (argument == "True" for argument in sys.argv[1:])
        V, D = 500_000, 64

        def high():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

        adam = fastembed.optimizers.Adam(0.01)
        bag = fastembed.torch.EmbeddingBag(V, D, mode="sum", **({"fused": True, "optimizer": adam} if fused else {}))
        model = torch.nn.Sequential(bag, torch.nn.Linear(D, 1))
        steps = [torch.optim.Adam(model.parameters())]
        steps += [] if fused else [fastembed.torch.Optimizer(model, adam)]
        loss = lambda ids: model(ids).sigmoid().mean()
        loss = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss

        def step(ids):
            for optimizer in steps:
                optimizer.zero_grad()
            loss(ids).backward()
            for optimizer in steps:
                optimizer.step()

        adam.build([bag.layer.embeddings])
        step(torch.zeros((2, 2), dtype=torch.int64))
        before = high()
        for _ in range(3):
            step(torch.randint(V, (4096, 26)))
        print(high() - before)
    """
    more = float(run_python(program, fused, compiled, timeout=120, PYTHONWARNINGS="ignore"))
    assert 0 <= more < 50


EXAMPLE = Path(__file__).parents[1] / "examples" / "click_model.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="away from the checkout")
def test_example(run_python):
    """It learns, and does not do better than is possible."""
    program = "import runpy, sys; sys.argv = [sys.argv[1], '--quick']; runpy.run_path(sys.argv[0], run_name='__main__')"
    printed = run_python(program, EXAMPLE, timeout=300, PYTHONWARNINGS="ignore")
    before, *_, after, best = [float(number) for number in re.findall(r"log loss (0\.\d+)", printed)]
    assert best < after < before - 0.1
    areas = [float(number) for number in re.findall(r"area (0\.\d+)", printed)]
    assert 0.7 < areas[-2] < areas[-1]


def test_public_docstrings():
    for kind in (bridge.Embedding, bridge.EmbeddingBag, bridge.Optimizer):
        assert "Example:" in kind.__doc__
        for name in vars(kind):
            if not name.startswith("_") and callable(getattr(kind, name)):
                assert getattr(kind, name).__doc__, name
