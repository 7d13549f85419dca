"""untouched="skip", "dense" and "catch_up" of every optimizer, frozen rows, and what the base class does.

Do not break: the oracle is reference.py in float64; "dense" is the oracle with a gradient of zero where there is none.
Bounds of "catch_up" are relative to the way that a row has moved; each was measured, and stands with its number.
"""

import copy
import gc
import itertools
import pickle
import threading
import weakref

import numpy as np
import pytest
import reference as ref
from peers import need
from test_optimizers import ACCUMULATORS, BETAS, CASES, EPSILONS

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, constraints, ops, optimizers, regularizers
from fastembed.optimizers import history

V, D, STEPS = 32, 6, 50
CASES = {
    **CASES,
    "adamw": ("adam", optimizers.AdamW, {**BETAS, "weight_decay": 0.2}, 0.02),
    "lamb of Keras": ("lamb", optimizers.Lamb, BETAS, 0.02),
    "adafactor": ("adafactor", optimizers.Adafactor, {"epsilon_1": 1e-4}, 0.05),
    "adafactor, clipped": ("adafactor", optimizers.Adafactor, {"beta_2_decay": -0.5, "clip_threshold": 0.5}, 0.05),
}
MODES = [(case, mode) for case in CASES for mode in CASES[case][1].modes]
every_mode = pytest.mark.parametrize(("case", "mode"), MODES)
catching_up = pytest.mark.parametrize("case", [case for case, mode in MODES if mode == "catch_up"])


def fall(start):
    """A learning rate that falls to half, by step number from 0."""
    return fastembed.schedules.InverseTimeDecay(start, decay_steps=STEPS, decay_rate=1.0)


PLANS = {}


def made(case, **more):
    _, make, arguments, rate = CASES[case]
    optimizer = make(**{"learning_rate": rate, **arguments, **more})
    if optimizer.untouched == "catch_up":  # plans take their time, and are the same for all tests of a case
        key = (case, *(more.get(name) for name in ("beta_1", "beta_2")))
        config = {name: value for name, value in optimizer.get_config().items() if name != "learning_rate"}
        optimizer.plan = config, PLANS[key] if key in PLANS else PLANS.setdefault(key, history.plan(optimizer))
    return optimizer


class Oracle:
    """The same in float64. decay: decoupled weight decay."""

    def __init__(self, case, start, rate=None, decay=None):
        self.name, make, arguments, own_rate = CASES[case]
        arguments = {"epsilon": EPSILONS.get(self.name, 1e-7), **arguments}
        accumulator = arguments.pop("initial_accumulator_value", ACCUMULATORS.get(self.name, 0.0))
        for argument in ("nesterov", "amsgrad", "centered"):  # are in the step's name
            arguments.pop(argument, None)
        if "eta" in arguments:
            arguments["trust_coefficient"] = arguments.pop("eta")
        self.decay = decay
        if make.decoupled and self.decay is None:
            self.decay = arguments.get("weight_decay", 0.0)
        if make.decoupled:
            arguments.pop("weight_decay", None)
        self.arguments, self.rate = arguments, own_rate if rate is None else rate
        self.table = start.astype(np.float64)
        self.state = ref.initial_state(self.name, self.table.shape, accumulator)
        self.t = 0

    def step(self, gradient, rows):
        """One step, of these rows."""
        self.t += 1
        rate = self.rate(self.t - 1) if callable(self.rate) else self.rate
        rows = sorted(int(row) for row in rows)
        self.table[rows] -= (self.decay or 0.0) * rate * self.table[rows]
        ref.step(self.name, self.table, self.state, gradient, rows, self.t, rate, **self.arguments)


def batches(rng, steps=STEPS, v=V):
    """(ids, values) with many duplicates: row v - 1 never; rows 20 to 29 in every tenth step; row 30 at both ends."""
    for t in range(steps):
        ids = ref.random_ids(rng, 30, 10)
        ids[:4] = rng.integers(10, 20, 4) if t % 3 else 12
        if t % 10 == 0:
            ids[4:8] = rng.integers(20, 30, 4)
        if t in (1, steps - 2):
            ids[8:10] = 30
        yield ids, rng.standard_normal((30, D)).astype(np.float32)


def slices(ids, values, v=V):
    return IndexedSlices(values, ids, (v, values.shape[1]))


def start_of(rng, v=V):
    table = Table((v, D))
    table.assign(ref.random_table(rng, v, D))
    return table, table.numpy().copy()


# ---- against the oracle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decays", [False, True], ids=["plain", "weight decay, schedule"])
@every_mode
def test_oracle(case, mode, decays, rng):
    """50 steps, with look-ups on the way."""
    table, start = start_of(rng)
    rate, decay, more = CASES[case][3], None, {}
    if decays:
        rate = more["learning_rate"] = fall(rate)
    if decays and CASES[case][1].decoupled:
        decay = more["weight_decay"] = 0.3
    # In this mode Adafactor takes the root mean square of the weights before the touched rows have decayed.
    rounding = {"rtol": 3e-4, "atol": 2e-3 if decay and mode == "skip" and "adafactor" in case else 3e-5}
    optimizer, oracle = made(case, untouched=mode, **more), Oracle(case, start, rate, decay)
    for t, (ids, values) in enumerate(batches(rng)):
        optimizer.apply_gradients([(slices(ids, values), table)])
        gradient, touched = ref.gather_gradient((V, D), ids, values)
        oracle.step(gradient, touched if mode == "skip" else range(V))
        if t % 7 == 3:
            some = rng.integers(0, V, 5)
            np.testing.assert_allclose(table[some], oracle.table[some], **rounding)
    if mode == "skip":
        assert np.array_equal(table.memory[V - 1], start[V - 1])
    np.testing.assert_allclose(table.numpy(), oracle.table, **rounding)
    state = optimizer.state(table)
    for name, part in oracle.state.items():
        np.testing.assert_allclose(state[name], part, rtol=3e-4, atol=3e-5)


# ---- catch_up is dense -----------------------------------------------------------------------------------------------


def both(optimizers_of, rng, prepare=lambda table: None, look=True, steps=STEPS, **table_arguments):
    """The same steps with "dense" and "catch_up": tables and optimizers."""
    start, out, seed = ref.random_table(rng, V, D), [], rng.integers(2**31)
    for mode in ("dense", "catch_up"):
        table, optimizer = Table((V, D), **table_arguments), optimizers_of(mode)
        table.assign(start)
        prepare(table)
        same = np.random.default_rng(seed)
        for t, (ids, values) in enumerate(batches(same, steps)):
            optimizer.apply_gradients([(slices(ids, values), table)])
            if look and t % 5 == 0:
                table[same.integers(0, V, 3)]
        out.append((table, optimizer))
    return out


REPLAYED = {
    "ftrl": ("ftrl", {"weight_decay": 0.1}, None),
    "ftrl, shrinkage": ("ftrl", {"l2_shrinkage_regularization_strength": 0.1}, None),
    "lamb": ("lamb", {}, None),
    "lars": ("lars", {}, None),
    "adam, refused": ("adam", {"beta_1": 0.99, "beta_2": 0.9}, None),
    "adamax, refused": ("adamax", {"beta_1": 0.99, "beta_2": 0.9}, None),
    **{f"{case}, NonNeg": (case, {"weight_decay": 0.1}, "nonneg") for case in ("adam", "momentum", "lion")},
    **{f"{case}, scales": (case, {}, "scales") for case in ("adam", "nesterov", "adamax", "lion", "rmsprop, momentum")},
}


@pytest.mark.parametrize("capacity", [None, 3])
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")], ids=str)
@pytest.mark.parametrize("name", REPLAYED)
def test_replays_are_bit_for_bit(name, dtypes, capacity, rng, monkeypatch):
    """Halves too: each missed step is rounded by itself, as it was in "dense"."""
    case, more, how = REPLAYED[name]
    storage, state_dtype = dtypes
    more = {**more, "state_dtype": state_dtype}
    if capacity:
        monkeypatch.setattr(history, "_CAPACITY", {True: capacity, False: capacity})
    prepare = (lambda table: table.scale_learning_rate([1, 25], [0.5, 2.0])) if how == "scales" else (lambda table: 0)
    constraint = constraints.NonNeg() if how == "nonneg" else None
    given = {"constraint": constraint, "dtype": storage}
    ((dense, a), (late, b)) = both(lambda mode: made(case, untouched=mode, **more), rng, prepare, **given)
    assert b._known(late).history.leaped is False
    assert capacity or not np.array_equal(late.memory, dense.memory)  # some rows are behind
    assert np.array_equal(late.numpy(), dense.numpy())
    for part, other in zip(a.variables, b.variables, strict=True):
        assert np.array_equal(part, other)


def test_the_state_of_adafactor(rng):
    ((dense, a), (late, b)) = both(lambda mode: made("adafactor", untouched=mode), rng)
    for name, part in a.state(dense).items():
        np.testing.assert_allclose(b.state(late)[name], part, rtol=2e-6)
    np.testing.assert_allclose(late.numpy(), dense.numpy(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("capacity", [1, 4, 17])
@catching_up
def test_pruned_history(case, capacity, rng, monkeypatch):
    """All rows catch up when the history is full: nothing changes but the rounding of leaps."""
    expected = both(lambda mode: made(case, untouched=mode), rng)[1][0].numpy().copy()
    monkeypatch.setattr(history, "_CAPACITY", {True: capacity, False: capacity})
    pruned, optimizer = both(lambda mode: made(case, untouched=mode), np.random.default_rng(2026))[1]
    if optimizer._known(pruned).history is not None:
        assert optimizer._known(pruned).history.first > STEPS - capacity - 1
    np.testing.assert_allclose(pruned.numpy(), expected, rtol=0, atol=3e-6)


# Of the largest way of an element; what was measured is about half of each bound.
GAPS = [1, 10, 200, 5000]
LEAPED = {
    "momentum": (optimizers.SGD, {"momentum": 0.9}, "momentum"),
    "nesterov": (optimizers.SGD, {"momentum": 0.9, "nesterov": True}, "nesterov"),
    "rmsprop": (optimizers.RMSprop, {"momentum": 0.9}, "rmsprop_momentum"),
    "adam": (optimizers.Adam, {}, "adam"),
    "adam, large epsilon": (optimizers.Adam, {"epsilon": 0.1}, "adam"),
    "amsgrad": (optimizers.Adam, {"amsgrad": True}, "amsgrad"),
    "adamax": (optimizers.Adamax, {}, "adamax"),
    "nadam": (optimizers.Nadam, {}, "nadam"),
    "lion": (optimizers.Lion, {}, "lion"),
    "partial": (optimizers.PartialRowwiseAdam, {}, "partial_rowwise_adam"),
    "adam, refused": (optimizers.Adam, {"beta_1": 0.99, "beta_2": 0.9}, "adam"),
    "adamw": (optimizers.AdamW, {"weight_decay": 0.1}, "adam"),
    "lion, decay": (optimizers.Lion, {"weight_decay": 0.1}, "lion"),
}
BOUNDS = {
    **dict.fromkeys(LEAPED, (4e-7, 5e-7, 8e-7, 8e-7)),
    "adam, refused": (4e-7, 5e-7, 1.5e-6, 8e-6),
    "adamw": (4e-7, 5e-7, 8e-7, 3e-6),
}


def long_gaps(name, rng):
    """One training in which 16 rows for each gap miss their last steps: the largest error of each gap, relative to the
    way that its rows have moved."""
    make, arguments, step = LEAPED[name]
    late = name in ("nadam", "partial")  # the first 1000 steps are replayed: they go by without a gradient
    v, last = 16 * len(GAPS), GAPS[-1] + 5 + 1000 * late
    optimizer, w = make(0.01, untouched="catch_up", **arguments), ref.random_table(rng, v, D) * np.float32(1e-3)
    oracle, state = w.astype(np.float64), ref.initial_state(step, (v, D))
    decay = arguments.get("weight_decay", 0.0)
    given = {key: value for key, value in optimizer.get_config().items() if key in ref.ARGUMENTS}
    given = {key: float(np.float32(value or 0.0)) for key, value in given.items()}  # as steps take them
    groups = [np.arange(16 * i, 16 * i + 16) for i in range(len(GAPS))]
    before = oracle.copy()
    for t in range(1, last + 1):
        gradient = np.zeros((v, D), np.float32)
        touched = [rows for rows, missed in zip(groups, GAPS, strict=True) if 0 <= last - missed - t < 5]
        rows = np.concatenate([*touched, np.zeros(0, int)])
        gradient[rows] = rng.standard_normal((len(rows), D))
        optimizer.apply([slices(rows, gradient[rows], v)], [w])
        oracle -= decay * 0.01 * oracle
        whole_step(step, oracle, gradient, state, t, given)
    kept = optimizer._known(w).history
    assert kept.leaped == (name != "adam, refused")
    assert (kept.first > 0) == late
    behind = w.copy()
    optimizer.catch_up()
    errors = []
    for group in groups:
        assert not np.array_equal(w[group], behind[group])
        way = np.abs(oracle[group] - before[group]).max()
        errors.append(float(np.abs(w[group] - oracle[group]).max() / way))
    return errors


def whole_step(step, table, gradient, state, t, given):
    """A step of all rows at once, where no row has a number of its own."""
    if step == "partial_rowwise_adam":
        a = ref.types.SimpleNamespace(**{**ref.ARGUMENTS, **given})
        m, u = state["momentum"], state["velocity"]
        m += (gradient - m) * (1 - a.beta_1)
        u += (np.mean(gradient**2, axis=1) - u) * (1 - a.beta_2)
        below = np.sqrt(u / (1 - a.beta_2**t)) + a.epsilon
        table -= 0.01 * m / (1 - a.beta_1**t) / below[:, None]
        return
    s = ref.types.SimpleNamespace(**state)
    ref.ROW_BY_ROW[step](table, gradient, s, t, 0.01, ref.types.SimpleNamespace(**{**ref.ARGUMENTS, **given}))


@pytest.mark.parametrize("name", LEAPED)
def test_long_gaps(name, rng):
    assert (np.array(long_gaps(name, rng)) <= BOUNDS[name]).all()


# ---- whatever reads rows ---------------------------------------------------------------------------------------------


def behind(rng, cls=Embedding, case="adam of Keras", **more):
    """A layer whose rows are behind, its optimizer, and the table up to date, from "dense"."""
    layers = []
    start = ref.random_table(rng, V, D)
    for mode in ("dense", "catch_up"):
        layer, optimizer = cls(V, D, weights=start, **more), made(case, untouched=mode, weight_decay=0.1)
        for ids in ([0, 1, 2, 1], [3, 4, 3], [5, 6], [0, 7]):
            values = np.outer(np.arange(1, len(ids) + 1), np.ones(D))
            optimizer.apply_gradients([(IndexedSlices(values, ids, (V, D)), layer.embeddings)])
        layers.append(layer)
    expected = layers[0].embeddings.numpy().copy()
    assert (np.abs(layers[1].embeddings.memory - expected).max(1) > 1e-5).sum() > V - 4
    return layers[1], optimizer, expected


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


READS = {
    "numpy": lambda layer, ids: layer.embeddings.numpy()[ids],
    "asarray": lambda layer, ids: np.asarray(layer.embeddings)[ids],
    "array as float64": lambda layer, ids: np.asarray(layer.embeddings, np.float64)[ids],
    "get_weights": lambda layer, ids: layer.get_weights()[0][ids],
    "a slice": lambda layer, ids: layer.embeddings[:][ids],
    "ids": lambda layer, ids: layer.embeddings[ids],
    "call": lambda layer, ids: layer(ids),
    "int32 ids": lambda layer, ids: layer(ids.astype(np.int32)),
    "uint8 ids": lambda layer, ids: layer(ids.astype(np.uint8)),
    "out": lambda layer, ids: layer(ids, out=np.empty((len(ids), D), np.float32)),
    "pickle": lambda layer, ids: pickle.loads(pickle.dumps(layer))(ids),
    "deepcopy": lambda layer, ids: copy.deepcopy(layer)(ids),
    "deepcopy of the table": lambda layer, ids: copy.deepcopy(layer.embeddings)[ids],
}


@pytest.mark.parametrize("how", READS)
def test_reads_are_up_to_date(how, rng):
    layer, _, expected = behind(rng)
    ids = np.array([0, 5, 2, 30, 2])
    close(READS[how](layer, ids), expected[ids])
    close(READS[how](layer, ids), expected[ids])  # nothing is taken twice
    close(layer.embeddings.numpy(), expected)


def test_a_saved_layer(rng, tmp_path):
    layer, _, expected = behind(rng)
    layer.save(tmp_path / "layer")
    close(fastembed.load(tmp_path / "layer").embeddings.numpy(), expected)


def test_files_of_keras(rng, tmp_path):
    need("h5py")
    layer, _, expected = behind(rng)
    fastembed.formats.save(layer, tmp_path / "layer.weights.h5")
    close(fastembed.formats.load(tmp_path / "layer.weights.h5").embeddings.numpy(), expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
def test_bags_are_up_to_date(combiner, weighted, rng):
    ids, splits = np.array([0, 1, 5, 30, 2, 2, 31]), np.array([0, 3, 3, 5, 7])
    weights = rng.uniform(0.5, 2, 7).astype(np.float32) if weighted else None
    upstream = rng.standard_normal((4, D)).astype(np.float32)
    for first in ("call", "gradient", "weights_gradient"):
        layer, _, expected = behind(np.random.default_rng(5), EmbeddingBag, combiner=combiner)
        bags = Ragged(ids, splits)
        if first == "call":
            close(layer(bags, weights), ref.pool(expected, ids, splits, weights, combiner))
        elif first == "gradient":
            dense, _ = ref.pool_gradient(expected, ids, splits, upstream, weights, combiner)
            close(layer.gradient(bags, upstream, weights).to_dense(), dense)
        elif weighted:
            gradient = layer.weights_gradient(bags, upstream, weights)
            close(gradient, ref.weights_gradient(expected, ids, splits, upstream, weights, combiner))


def test_penalties_are_up_to_date(rng):
    regularizer = regularizers.L2(0.5)
    for read in ("losses", "regularization_gradient", "gradient"):
        layer, _, expected = behind(np.random.default_rng(5), embeddings_regularizer=regularizer)
        if read == "losses":
            close(layer.losses, [0.5 * (expected.astype(np.float64) ** 2).sum()])
        elif read == "regularization_gradient":
            close(layer.regularization_gradient(), expected)
        else:
            gradient = layer.gradient([30, 0], np.ones((2, D))).to_dense()
            close(gradient[[0, 30]], expected[[0, 30]] + 1)


def test_lora_of_a_table_that_is_behind(rng):
    layer, _, expected = behind(rng)
    layer.enable_lora(2)
    close(layer([30, 0]), expected[[30, 0]])
    layer.merge_lora()
    close(layer.embeddings.numpy(), expected)


@pytest.mark.parametrize("bad", [-1, V])
def test_bad_ids_lose_nothing(bad, rng):
    layer, optimizer, expected = behind(rng)
    for look in (
        lambda: layer([0, bad, 5]),
        lambda: layer.embeddings[[0, bad, 5]],
        lambda: optimizer.apply_gradients([(IndexedSlices(np.ones((1, D)), [bad], (V, D)), layer.embeddings)]),
    ):
        with pytest.raises(IndexError):
            look()
    assert optimizer.iterations == 4
    close(layer.embeddings.numpy(), expected)


@pytest.mark.parametrize("pickled", [False, True])
def test_copies_go_on(pickled, rng):
    layer, optimizer, expected = behind(rng)
    pair = (layer, optimizer)
    other, other_optimizer = pickle.loads(pickle.dumps(pair)) if pickled else copy.deepcopy(pair)
    for one, table in ((optimizer, layer.embeddings), (other_optimizer, other.embeddings)):
        for ids in ([1, 2], [8], [8]):
            one.apply_gradients([(IndexedSlices(np.ones((len(ids), D)), ids, (V, D)), table)])
        assert table.debt is one._known(table)
    assert not np.shares_memory(layer.embeddings.memory, other.embeddings.memory)
    close(other([0, 30]), layer([0, 30]))
    close(other.embeddings.numpy(), layer.embeddings.numpy())
    assert np.abs(layer.embeddings.numpy() - expected).min() > 0


SECOND = [(optimizers.SGD, "skip"), *((optimizers.Adam, mode) for mode in ("skip", "dense", "catch_up"))]


@pytest.mark.parametrize(("make", "mode"), SECOND, ids=str)
def test_optimizers_that_take_turns(make, mode, rng):
    """Each goes on where it was, from what the other has made of the table."""
    start, out = ref.random_table(rng, V, D), []
    for first in ("dense", "catch_up"):
        table = Table((V, D))
        table.assign(start)
        a = optimizers.Adam(0.1, untouched=first, weight_decay=0.1)
        b = make(0.1, untouched=mode if mode == "skip" else first, weight_decay=0.2)
        same = np.random.default_rng(1)
        for t, (ids, values) in enumerate(batches(same, 30)):
            (b if t // 4 % 2 else a).apply_gradients([(slices(ids, values), table)])
        out.append(table.numpy().copy())
    close(out[1], out[0])


@pytest.mark.parametrize("case", ["adam", "rmsprop", "rmsprop, momentum", "lion", "ftrl", "adadelta"])
def test_assign_in_between(case, rng):
    """New values; the state has decayed by the steps that were missed."""
    out = []
    start, new = ref.random_table(rng, V, D), ref.random_table(rng, V, D)
    for mode in ("dense", "catch_up"):
        table, optimizer = Table((V, D)), made(case, untouched=mode)
        table.assign(start)
        for t, (ids, values) in enumerate(batches(np.random.default_rng(1), 30)):
            optimizer.apply_gradients([(slices(ids, values), table)])
            if t == 17:
                table.assign(new)
        out.append((table.numpy().copy(), optimizer.state(table)))
    close(out[1][0], out[0][0])
    for name, part in out[0][1].items():
        close(out[1][1][name], part)


def test_look_ups_from_several_threads(rng):
    from test_threads import together

    layer, _, expected = behind(rng)
    start = layer.embeddings.memory.copy()
    for _ in range(20):
        layer.embeddings.memory[...] = start
        layer.embeddings.debt.history.last_v[...] = 0
        together(*(lambda me=me: close(layer(np.arange(V)[me:]), layer.embeddings.memory[me:]) for me in range(4)))
        ids = rng.permutation(V)
        close(layer(ids), layer.embeddings.memory[ids])
    layer, _, expected = behind(np.random.default_rng(2026))
    together(*(lambda me=me: [close(layer([i]), expected[[i]]) for i in range(me, V)] for me in range(4)))
    close(layer.embeddings.memory, expected)


# ---- frozen rows, and rows with a rate of their own ------------------------------------------------------------------

CONSTRAINED = {"free": None, "rows": constraints.UnitNorm(axis=1), "whole": constraints.MaxNorm(0.5, axis=0)}


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("constraint", CONSTRAINED)
@every_mode
@pytest.mark.filterwarnings("ignore:.*takes norms over all rows")
def test_frozen_rows(case, mode, constraint, dense, rng):
    """Not a bit of them changes; state neither."""
    if (constraint == "whole" and mode == "catch_up") or (constraint == "rows" and dense):
        return
    table = Table((V, D), constraint=CONSTRAINED[constraint])
    table.assign(ref.random_table(rng, V, D))
    optimizer, frozen, before = made(case, untouched=mode, weight_decay=0.1), [0, 2, 25, V - 1], None
    for t, (ids, values) in enumerate(batches(rng, 12)):
        if t == 3:
            table.freeze(frozen)
            before = table.numpy()[frozen].copy()
            states = [state[frozen].copy() for state in optimizer.variables]
        gradient = slices(ids, values)
        optimizer.apply_gradients([(gradient.to_dense() if dense else gradient, table)])
    assert np.array_equal(table.numpy()[frozen], before)
    optimizer.catch_up()
    for state, state_before in zip(optimizer.variables, states, strict=True):
        assert np.array_equal(state[frozen], state_before)
    assert (table.memory[[1, 3]] != before[0]).any()
    table.unfreeze(frozen)
    assert np.array_equal(table.numpy()[frozen], before)
    for ids, values in batches(rng, 3):
        optimizer.apply_gradients([(slices(ids, values), table)])
    assert (table.numpy()[[0, 2]] != before[:2]).all()


@catching_up
@pytest.mark.parametrize("capacity", [1 << 14, 5])
def test_unfrozen_rows_have_missed_nothing(case, capacity, rng, monkeypatch):
    monkeypatch.setattr(history, "_CAPACITY", {True: capacity, False: capacity})
    out, start = [], ref.random_table(rng, V, D)
    for mode in ("dense", "catch_up"):
        table, optimizer = Table((V, D)), made(case, untouched=mode)
        table.assign(start)
        for t, (ids, values) in enumerate(batches(np.random.default_rng(3), 40)):
            if t in (5, 25):
                (table.freeze if t == 5 else table.unfreeze)([0, 1, 12, 21, 30, V - 1])
            optimizer.apply_gradients([(slices(ids, values), table)])
        out.append((table.numpy().copy(), optimizer.state(table)))
    if case.startswith("adafactor"):  # its means are those of all rows, and "dense" leaves frozen ones out
        return
    close(out[1][0], out[0][0])
    for name, part in out[0][1].items():
        close(out[1][1][name], part)


def test_averages_and_frozen_rows(rng):
    table, _ = start_of(rng)
    optimizer = optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    for t, (ids, values) in enumerate(batches(rng, 12)):
        if t == 4:
            table.freeze([0, 1])
            before = table.numpy()[:2].copy()
        optimizer.apply_gradients([(slices(ids, values), table)])
    optimizer.finalize_variable_values([table])
    assert np.array_equal(table.numpy()[:2], before)
    assert np.array_equal(table.numpy()[2:], optimizer.average(table)[2:])


ONE_RATE = ["sgd", "momentum", "adagrad", "adam", "adamw", "adamax", "nadam", "rmsprop", "ftrl, power", "lion", "lars"]


@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
@pytest.mark.parametrize("case", ONE_RATE)
def test_scaled_rows(case, mode, rng):
    """Each is what the oracle makes of it with its own rate."""
    table, start = start_of(rng)
    scales = np.where(np.arange(V) % 3 == 0, 0.25, np.where(np.arange(V) % 3 == 1, 1.0, 2.0))
    table.scale_learning_rate(np.arange(V), scales)
    optimizer = made(case, untouched=mode)
    oracles = {scale: Oracle(case, start, scale * CASES[case][3]) for scale in (0.25, 1.0, 2.0)}
    for ids, values in batches(rng):
        optimizer.apply_gradients([(slices(ids, values), table)])
        gradient, touched = ref.gather_gradient((V, D), ids, values)
        for oracle in oracles.values():
            oracle.step(gradient, touched if mode == "skip" else range(V))
    for scale, oracle in oracles.items():
        rows = scales == scale
        np.testing.assert_allclose(table.numpy()[rows], oracle.table[rows], rtol=3e-4, atol=3e-5)


def test_errors_of_scales(rng):
    layer, _, expected = behind(rng)
    table = layer.embeddings
    for rows in ([-1], [V], [0, V]):
        for change in (table.freeze, table.unfreeze, lambda rows: table.scale_learning_rate(rows, 1.0)):
            with pytest.raises(IndexError, match="rows"):
                change(rows)
    for scale in (-0.5, np.nan, np.inf, [1.0, -1.0]):
        with pytest.raises(ValueError, match="`scale` must be finite numbers >= 0"):
            table.scale_learning_rate([0, 1], scale)
    with pytest.raises(ValueError, match="`scale` must be 0 or 1 after the first step"):
        table.scale_learning_rate([0], 0.5)
    assert table.row_scales is None
    close(table.numpy(), expected)
    only_state, other = made("rmsprop", untouched="catch_up"), Table((3, 2))
    only_state.apply_gradients([(IndexedSlices(np.ones((1, 2)), [0], (3, 2)), other)])
    other.scale_learning_rate([0], 0.5)


# ---- what the base class does with row-sparse gradients --------------------------------------------------------------


def summed(ids, values):
    return ref.gather_gradient((V, D), ids, values)


CLIPS = {"clipnorm": 2.0, "global_clipnorm": 2.0, "clipvalue": 0.4, "nothing": None}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_clipping(clip, mode, rng):
    """Two tables and a matrix; norms are those of the summed rows; scaled losses are scaled back first."""
    starts = [ref.random_table(rng, V, D) for _ in range(3)]
    tables = [Table((V, D)), Table((V, D)), starts[2].copy()]
    for table, start in zip(tables[:2], starts, strict=False):
        table.assign(start)
    most = {} if clip == "nothing" else {clip: CLIPS[clip]}
    optimizer = optimizers.Adagrad(0.1, untouched=mode, weight_decay=0.1, loss_scale_factor=4.0, **most)
    optimizer.exclude_from_weight_decay([tables[1]])
    oracles = [Oracle("adagrad", start, 0.1, decay) for start, decay in zip(starts, (0.1, 0.0, 0.1), strict=True)]
    for oracle in oracles:
        oracle.state["accumulator"][:] = 0.1
        oracle.arguments = {"epsilon": 1e-7}
    for (ids, values), (ids_2, values_2) in itertools.pairwise(batches(rng, 21)):
        dense = rng.standard_normal((V, D))
        pairs = [(slices(ids, values), tables[0]), (slices(ids_2, values_2), tables[1]), (dense, tables[2])]
        optimizer.apply_gradients([(gradient * np.float32(4), table) for gradient, table in pairs])
        exact = [summed(ids, values), summed(ids_2, values_2), (dense, range(V))]
        norms = [np.sqrt((gradient**2).sum()) for gradient, _ in exact]
        assert min(norms) > 2
        for (gradient, touched), oracle, norm in zip(exact, oracles, norms, strict=True):
            if clip == "clipvalue":
                gradient = np.clip(gradient, -0.4, 0.4)
            elif clip != "nothing":
                gradient = gradient * 2.0 / (norm if clip == "clipnorm" else np.sqrt(np.sum(np.square(norms))))
            oracle.step(gradient, touched if mode == "skip" else range(V))
    for table, oracle in zip(tables, oracles, strict=True):
        np.testing.assert_allclose(np.asarray(table), oracle.table, rtol=1e-4, atol=1e-5)


def test_decay_is_excluded_by_name():
    tables = [Table((2, 1), name=name) for name in ("items", "words/embeddings")]
    for table in tables:
        table.assign(np.ones((2, 1)))
    optimizer = optimizers.SGD(0.5, weight_decay=0.5, untouched="dense")
    optimizer.exclude_from_weight_decay(var_names=["wor.s"])
    optimizer.apply([IndexedSlices(np.zeros((1, 1)), [0], (2, 1))] * 2, tables)
    assert [table.numpy().ravel().tolist() for table in tables] == [[0.75, 0.75], [1, 1]]
    with pytest.raises(ValueError, match="must come before the first step"):
        optimizer.exclude_from_weight_decay([tables[0]])


@pytest.mark.parametrize("kinds", ["sss", "sds", "dss", "ssd", "ddd"])
@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_accumulation(mode, kinds, rng):
    """Row-sparse and dense gradients in any order: the mean of three calls is one step."""
    table, start = start_of(rng)
    optimizer = optimizers.Adam(0.05, untouched=mode, gradient_accumulation_steps=3)
    oracle = Oracle("adam of Keras", start, 0.05)
    seen = batches(rng, 30)
    for _ in range(10):
        total, touched = np.zeros((V, D)), set()
        for kind in kinds:
            ids, values = next(seen)
            before = table.memory.copy()
            gradient, rows = summed(ids, values)
            total, touched = total + gradient, touched | (set(range(V)) if kind == "d" else rows)
            optimizer.apply_gradients([(gradient if kind == "d" else slices(ids, values), table)])
            waiting = optimizer._known(table).pending
            if kinds == "sss" and waiting is not None:
                assert sum(len(rows_u) for rows_u, _ in waiting) <= 2 * 25
        assert not np.array_equal(table.memory, before)
        oracle.step(total / 3, touched if mode == "skip" else range(V))
    assert optimizer.iterations == 10
    np.testing.assert_allclose(table.numpy(), oracle.table, rtol=1e-4, atol=1e-5)


def test_accumulation_of_a_table_that_is_sometimes_absent():
    """As in Keras: a step is for the variables of its last call, and divides by the number of calls in any case."""
    tables = [np.zeros((3, 1), np.float32) for _ in range(2)]
    optimizer = optimizers.SGD(1.0, gradient_accumulation_steps=2)
    gradient = IndexedSlices(np.full((1, 1), 4.0), [1], (3, 1))
    optimizer.apply([gradient], [tables[0]])
    optimizer.apply([gradient, gradient], tables)
    assert [table[1, 0] for table in tables] == [-4, -2]
    optimizer.apply([gradient, gradient], tables)
    optimizer.apply([gradient], [tables[0]])
    assert [table[1, 0] for table in tables] == [-8, -2]


@pytest.mark.parametrize("growth", [1, 2])
def test_a_scale_that_changes_while_gradients_wait(growth):
    w, inner = np.zeros(1, np.float32), optimizers.SGD(1.0, gradient_accumulation_steps=2)
    optimizer = optimizers.LossScaleOptimizer(inner, initial_scale=4.0, dynamic_growth_steps=growth)
    for number in (1.0, 3.0, 5.0, np.inf, 7.0):
        optimizer.apply([np.array([number]) * optimizer.scale], [w])
    assert w.tolist() == [-8]
    assert optimizer.skipped == 1


@pytest.mark.parametrize(("start", "number", "end"), [(2.0**126, 1.0, 2.0**127), (2.0**-125, np.inf, 2.0**-126)])
def test_a_scale_ends_where_float32_does(start, number, end):
    """Were it infinite or 0, it would remain so."""
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(1.0), initial_scale=start, dynamic_growth_steps=1)
    for _ in range(3):
        optimizer.apply([np.array([number])], [np.zeros(1, np.float32)])
    assert optimizer.scale == end


@pytest.mark.parametrize("overwrite", [None, 4])
@pytest.mark.parametrize("mode", ["skip", "dense"])
@pytest.mark.parametrize("case", ["sgd", "adam", "rmsprop", "rowwise", "adafactor", "lamb of Keras"])
def test_averages(case, mode, overwrite, rng):
    """Of every row, at every moment: the dense average of what the table was after each call."""
    table, _ = start_of(rng)
    optimizer = made(case, untouched=mode, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=overwrite)
    average = None
    for t, (ids, values) in enumerate(batches(rng, 30)):
        optimizer.apply_gradients([(slices(ids, values), table)])
        now = table.numpy().astype(np.float64)
        if overwrite and t % overwrite == overwrite - 1:
            np.testing.assert_array_equal(table.numpy(), optimizer.average(table))
            average = now
        else:
            average = now if average is None else 0.8 * average + 0.2 * now
        if t % 9 == 5 or t == 29:
            np.testing.assert_allclose(optimizer.average(table), average, rtol=2e-6, atol=2e-6)
    optimizer.finalize_variable_values([table])
    np.testing.assert_allclose(table.numpy(), average, rtol=2e-6, atol=2e-6)


# ---- gradients that are not finite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["upstream", "weights", "dense"])
@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_nothing_is_written(mode, on_nonfinite, where, bad, rng):
    bags, other = EmbeddingBag(V, D, "sum", weights=ref.random_table(rng, V, D)), ref.random_table(rng, V, D)
    optimizer = optimizers.Adam(
        0.1,
        untouched=mode,
        on_nonfinite=on_nonfinite,
        weight_decay=0.1,
        gradient_accumulation_steps=2,
        use_ema=mode != "catch_up",
    )
    ids, weights = rng.integers(0, 20, (8, 3)), rng.uniform(0.5, 2, (8, 3)).astype(np.float32)
    upstream, dense = rng.standard_normal((8, D)).astype(np.float32), rng.standard_normal((V, D))

    def call(at=None):
        given = {"upstream": upstream.copy(), "weights": weights.copy(), "dense": dense.copy()}
        if at is not None:
            given[at][-1, -1] = bad
        gradient = bags.gradient(ids, given["upstream"], given["weights"])
        optimizer.apply_gradients([(given["dense"], other), (gradient, bags.embeddings)])

    for _ in range(3):
        call()
    kept = optimizer._known(bags.embeddings)
    arrays = [bags.embeddings.memory, other, *optimizer.variables]
    arrays += [] if kept.average_vd is None else [kept.average_vd, kept.averaged_v]
    arrays += [] if kept.history is None else [kept.history.last_v]
    before, waiting = [array.copy() for array in arrays], copy.deepcopy(kept.pending)
    if on_nonfinite == "raise":
        with pytest.raises(ValueError, match="a gradient must be finite"):
            call(where)
    else:
        call(where)
    assert all(array.tobytes() == old.tobytes() for array, old in zip(arrays, before, strict=True))
    assert len(waiting) == len(kept.pending) == 1
    assert all(map(np.array_equal, waiting[0], kept.pending[0]))
    assert (optimizer.calls, optimizer.iterations, optimizer.skipped) == (3, 1, int(on_nonfinite == "skip"))
    call()
    assert optimizer.iterations == 2
    assert np.isfinite(bags.embeddings.numpy()).all()


# ---- many tables in one call -----------------------------------------------------------------------------------------


@every_mode
def test_twenty_tables(case, mode, rng):
    """The same bits as twenty optimizers."""
    shapes = [(100 + 7 * i, 1 + 3 * i % 19) for i in range(19)] + [(20_000, 4)]
    together, alone, one = [], [], made(case, untouched=mode)
    for v, d in shapes:
        for made_tables in (together, alone):
            made_tables.append(Table((v, d)))
            made_tables[-1].assign(ref.random_table(np.random.default_rng(v), v, d))
    first = made(case, untouched=mode)
    first.build([np.zeros((1, 1), np.float32)])  # what is the same for all of them
    each = [copy.deepcopy(first) for _ in shapes]
    for _ in range(3):
        gradients = []
        for v, d in shapes:
            ids = ref.random_ids(rng, 60, v)
            gradients.append(IndexedSlices(rng.standard_normal((60, d)).astype(np.float32), ids, (v, d)))
        one.apply(gradients, together)
        for optimizer, gradient, table in zip(each, gradients, alone, strict=True):
            optimizer.apply([gradient], [table])
    for table, other in zip(together, alone, strict=True):
        assert np.array_equal(table.numpy(), other.numpy())


@pytest.mark.parametrize("mode", ["skip", "catch_up"])
def test_memory_is_free_at_once(mode):
    """Of a layer and its optimizer that nobody needs any more: no cycle waits for the garbage collector."""
    layer, optimizer = Embedding(V, D), optimizers.Adam(untouched=mode)
    optimizer.apply([layer.gradient([1, 2], np.ones((2, D), np.float32))], [layer.embeddings])
    layer([1])
    watched = [weakref.ref(thing) for thing in (layer.embeddings, optimizer, optimizer._known(layer.embeddings))]
    gc.disable()
    try:
        del layer, optimizer
        assert [ref() for ref in watched] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_a_norm_that_is_not_finite(clip, on_nonfinite):
    """Of finite gradients: nothing is written."""
    w, optimizer = np.ones((3, 2), np.float32), optimizers.Adam(0.1, on_nonfinite=on_nonfinite, **{clip: 1.0})
    huge = IndexedSlices(np.full((2, 2), 3e38), [0, 1], (3, 2))
    if on_nonfinite == "raise":
        with pytest.raises(ValueError, match="a norm of gradients that is not finite"):
            optimizer.apply([huge], [w])
    else:
        optimizer.apply([huge], [w])
        assert optimizer.skipped == 1
    assert (w == 1).all()
    assert optimizer.iterations == 0


@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_a_decay_that_leaves_nothing(mode):
    """Is refused before anything is written, or taken from the gradients that wait."""
    w = np.ones((3, 2), np.float32)
    optimizer = optimizers.SGD(0.5, weight_decay=0.1, gradient_accumulation_steps=2, untouched=mode)
    gradient = IndexedSlices(np.ones((1, 2)), [0], (3, 2))
    optimizer.apply([gradient], [w])
    optimizer.learning_rate = 10.0
    with pytest.raises(ValueError, match="`weight_decay` times `learning_rate` must be below 1"):
        optimizer.apply([gradient], [w])
    assert (w == 1).all()
    optimizer.learning_rate = 0.5
    optimizer.apply([gradient * 3.0], [w])
    np.testing.assert_allclose(w[0], 0.95 - 0.5 * 2, atol=1e-6)


def test_nothing_is_grouped_where_nothing_is_behind(monkeypatch):
    """Look-ups after all rows have caught up, as in serving, cost what they cost without an optimizer."""
    layer, optimizer = Embedding(V, D), optimizers.Adam(untouched="catch_up")
    gradient = layer.gradient([1, 2], np.ones((2, D), np.float32))
    optimizer.apply([gradient], [layer.embeddings])
    optimizer.apply([gradient], [layer.embeddings])
    optimizer.catch_up()
    monkeypatch.setattr(ops, "group_look", None)
    layer([1, 2, 3])
    monkeypatch.undo()
    optimizer.apply([layer.gradient([3], np.ones((1, D), np.float32))], [layer.embeddings])
    before = layer.embeddings.memory.copy()
    layer([1])
    assert (layer.embeddings.memory != before).any(axis=1).tolist() == [row == 1 for row in range(V)]


@pytest.mark.parametrize("mode", ["skip", "dense", "catch_up"])
def test_a_function_as_learning_rate(mode):
    """One that nobody registered, and that is asked once for each step."""
    asked, table = [], Table((3, 2))
    optimizer = optimizers.Adam(lambda step: asked.append(step) or 0.1, untouched=mode)
    for _ in range(3):
        optimizer.apply([IndexedSlices(np.ones((1, 2)), [0], (3, 2))], [table])
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("first", ["sparse", "dense"])
def test_a_refused_norm_leaves_what_waits(first):
    """Gradients of earlier calls still wait, as they were, for the step that follows."""
    w, optimizer = np.zeros((3, 2), np.float32), optimizers.SGD(1.0, clipnorm=1e9, gradient_accumulation_steps=2)

    def gradient(value):
        return IndexedSlices(np.full((1, 2), value), [0], (3, 2))

    optimizer.apply([gradient(1.0) if first == "sparse" else gradient(1.0).to_dense()], [w])
    with pytest.raises(ValueError, match="a norm of gradients that is not finite"):
        optimizer.apply([gradient(3e38)], [w])
    assert optimizer.calls == 1
    optimizer.apply([gradient(3.0)], [w])
    assert w.tolist() == [[-2, -2], [0, 0], [0, 0]]


def test_a_loss_scale_excludes_from_weight_decay():
    for outside in (False, True):
        table, inner = Table((3, 2), name="bias"), optimizers.SGD(0.5, weight_decay=0.5)
        table.assign(np.ones((3, 2)))
        optimizer = optimizers.LossScaleOptimizer(inner)
        (optimizer if outside else inner).exclude_from_weight_decay(var_names=["bias"])
        optimizer.apply([np.zeros((3, 2))], [table])
        assert (table.numpy() == 1).all()


@pytest.mark.parametrize("ask", ["state", "average", "pickle", "catch_up"])
def test_who_asks_waits_for_the_table(ask):
    """Rows catch up, and averages are written, under the table's lock."""
    table, mode = Table((3, 2)), "skip" if ask == "average" else "catch_up"
    optimizer = optimizers.SGD(0.1, momentum=0.9, untouched=mode, use_ema=ask == "average")
    for row in (0, 1):
        optimizer.apply([IndexedSlices(np.ones((1, 2)), [row], (3, 2))], [table])
    asks = {"pickle": lambda: pickle.dumps(optimizer), "catch_up": optimizer.catch_up}
    thread = threading.Thread(target=asks.get(ask, lambda: getattr(optimizer, ask)(table)))
    before = table.memory.copy()
    with table.lock:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert np.array_equal(table.memory, before)
    thread.join()
