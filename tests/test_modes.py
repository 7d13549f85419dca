"""untouched="skip", "dense" and "catch_up" of every optimizer, frozen rows, and what the base class does.

Do not break: the oracle is reference.py in float64; "dense" is the oracle with a gradient of zero where there is none.
Bounds of "catch_up" are relative to the way that a row has moved; each was measured, and stands with its number.
"""

import copy
import itertools
import pickle

import numpy as np
import pytest
import reference as ref
from test_optimizers import ACCUMULATORS, BETAS, CASES, EPSILONS

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, Table, constraints, optimizers, regularizers
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


def made(case, **more):
    _, make, arguments, rate = CASES[case]
    return make(**{"learning_rate": rate, **arguments, **more})


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
@pytest.mark.parametrize("name", REPLAYED)
def test_replays_are_bit_for_bit(name, capacity, rng, monkeypatch):
    case, more, how = REPLAYED[name]
    if capacity:
        monkeypatch.setattr(history, "_CAPACITY", {True: capacity, False: capacity})
    prepare = (lambda table: table.scale_learning_rate([1, 25], [0.5, 2.0])) if how == "scales" else (lambda table: 0)
    constraint = constraints.NonNeg() if how == "nonneg" else None
    ((dense, a), (late, b)) = both(lambda mode: made(case, untouched=mode, **more), rng, prepare, constraint=constraint)
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


# What was measured, of the way that an element has moved, is about half of each bound: largest over 64 x 6 elements.
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
# v / (1 - beta_2^t) changes too much in the first steps for a polynomial: these are replayed.
REFUSED = ("nadam", "partial", "adam, refused")
BOUNDS = dict.fromkeys(LEAPED, (2e-6, 2e-6, 2e-6, 2e-6))


def long_gaps(name, rng):
    """One training in which 16 rows for each gap miss their last steps: the largest error of each gap, relative to the
    way that its rows have moved."""
    make, arguments, step = LEAPED[name]
    v, last = 16 * len(GAPS), GAPS[-1] + 5
    optimizer, w = make(0.01, untouched="catch_up", **arguments), ref.random_table(rng, v, D) * np.float32(1e-3)
    oracle, state = w.astype(np.float64), ref.initial_state(step, (v, D))
    decay = arguments.get("weight_decay", 0.0)
    given = {key: value for key, value in optimizer.get_config().items() if key in ref.ARGUMENTS}
    given = {key: float(np.float32(value or 0.0)) for key, value in given.items()}  # as steps take them
    groups = [np.arange(16 * i, 16 * i + 16) for i in range(len(GAPS))]
    before = oracle.copy()
    for t in range(1, last + 1):
        gradient = np.zeros((v, D), np.float32)
        rows = np.concatenate([group for group, gap in zip(groups, GAPS, strict=True) if 0 <= last - gap - t < 5] + [[]])
        rows = rows.astype(int)
        gradient[rows] = rng.standard_normal((len(rows), D))
        optimizer.apply([slices(rows, gradient[rows], v)], [w])
        oracle -= decay * 0.01 * oracle
        whole_step(step, oracle, gradient, state, t, given)
    assert optimizer._known(w).history.leaped == (name not in REFUSED)
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
