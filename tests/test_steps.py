"""Every step of `ops`, and every lapse, against the float64 oracle."""

import math

import numpy as np
import pytest
import reference as ref
from lapses import lapse

from fastembed import IndexedSlices, Table, ops, optimizers

DIMS = [1, 3, 8, 17, 33, 64]
V, N, STEPS = 30, 40, 50
ONE_PASS = [step for step in ops.STATES if step not in ref.SEVERAL_PASSES]
# Numbers that float32 holds exactly, where the rounding of an argument would show.
GIVEN = {"momentum": 0.75, "beta_1": 0.875, "beta_2": 0.96875, "rho": 0.9375, "epsilon": 1e-3}
FTRL = {
    "l1_regularization_strength": 0.05,
    "l2_regularization_strength": 0.02,
    "l2_shrinkage_regularization_strength": 0.01,
    "beta": 0.1,
}
CASES = [(step, GIVEN) for step in ONE_PASS]
CASES += [("ftrl", {**FTRL, "learning_rate_power": -power}) for power in (0.5, 0.8, 0.0)]
CASES += [(step, {**GIVEN, "weight_decay": 0.125}) for step in ("rowwise_lamb", "rowwise_lars")]
CASES += [("rowwise_lars", {**GIVEN, "trust_coefficient": 0.5})]


def columns(state, v):
    """The oracle's state as `ops` holds it."""
    return np.concatenate([part.reshape(v, -1) for part in state.values()], axis=1) if state else None


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{step}-{i}" for i, (step, _) in enumerate(CASES)])
def test_step(case, d, rng):
    """50 row-sparse gradients with duplicates; the rows that none has touched stay as they are."""
    name, arguments = CASES[case]
    start = ref.random_table(rng, V, d)
    table, wanted = start.copy(), start.astype(np.float64)
    wanted_state = ref.initial_state(name, (V, d), accumulator=0.125)
    state = columns(wanted_state, V)
    state = None if state is None else state.astype(np.float32)
    begin = None if state is None else state.copy()
    seen = set()
    for t in range(1, STEPS + 1):
        ids, upstream = ref.random_ids(rng, N, V - 5), rng.standard_normal((N, d)).astype(np.float32)
        ops.update(table, ops.parts(ids, upstream), name, ref.hyper(name, t, 0.0625, **arguments), state)
        gradient, touched = ref.gather_gradient((V, d), ids, upstream)
        ref.step(name, wanted, wanted_state, gradient, touched, t, 0.0625, **arguments)
        seen |= touched
    assert seen == set(range(V - 5))
    assert np.array_equal(table[V - 5 :], start[V - 5 :])
    np.testing.assert_allclose(table, wanted, rtol=5e-5, atol=2e-5)
    if state is not None:
        assert np.array_equal(state[V - 5 :], begin[V - 5 :])
        np.testing.assert_allclose(state, columns(wanted_state, V), rtol=5e-5, atol=2e-5)


SEVERAL = [
    ("lamb", optimizers.Lamb, {}),
    ("lamb", optimizers.Lamb, {"beta_1": 0.875, "beta_2": 0.96875, "epsilon": 1e-3}),
    ("adafactor", optimizers.Adafactor, {}),
    ("adafactor", optimizers.Adafactor, {"beta_2_decay": -0.5, "epsilon_1": 1e-4, "clip_threshold": 0.25}),
    ("adafactor", optimizers.Adafactor, {"epsilon_1": 0.5, "epsilon_2": 2.0, "clip_threshold": 8.0}),
]


@pytest.mark.parametrize(("v", "d", "steps"), [(V, d, STEPS) for d in DIMS] + [(1300, 4, 10)])
@pytest.mark.parametrize(("name", "make", "arguments"), SEVERAL)
def test_several_passes(name, make, arguments, v, d, steps, rng):
    """As test_step, through the optimizers, which carry sums from pass to pass; 1300 rows make several blocks."""
    n = 2 * v
    start = ref.random_table(rng, v, d)
    table, optimizer = Table((v, d)), make(0.0625, **arguments)
    table.assign(start)
    wanted, wanted_state = start.astype(np.float64), ref.initial_state(name, (v, d))
    for t in range(1, steps + 1):
        ids, upstream = ref.random_ids(rng, n, v - 5), rng.standard_normal((n, d)).astype(np.float32)
        optimizer.apply([IndexedSlices(upstream, ids, (v, d))], [table])
        gradient, touched = ref.gather_gradient((v, d), ids, upstream)
        ref.step(name, wanted, wanted_state, gradient, touched, t, 0.0625, **arguments)
    assert np.array_equal(table.numpy()[v - 5 :], start[v - 5 :])
    np.testing.assert_allclose(table.numpy(), wanted, rtol=5e-5, atol=2e-5)
    wanted_state.pop("c", None)  # the optimizer holds it by itself
    np.testing.assert_allclose(optimizer.variables[0], columns(wanted_state, v), rtol=5e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "make", "arguments"), SEVERAL)
def test_several_passes_of_a_vector(name, make, arguments, rng):
    name = "adafactor_vector" if name == "adafactor" else name
    vector, optimizer = rng.standard_normal(1000).astype(np.float32), make(0.0625, **arguments)
    wanted, wanted_state = vector[None].astype(np.float64), ref.initial_state(name, (1, 1000))
    for t in range(1, STEPS + 1):
        gradient = rng.standard_normal(1000).astype(np.float32)
        optimizer.apply([gradient], [vector])
        ref.step(name, wanted, wanted_state, gradient[None], {0}, t, 0.0625, **arguments)
    np.testing.assert_allclose(vector, wanted[0], rtol=5e-5, atol=2e-5)
    np.testing.assert_allclose(optimizer.variables[0], columns(wanted_state, 1), rtol=5e-5, atol=2e-5)


def stepped(name, table, gradient, state=None, **given):
    """One dense step on copies: (table, state); the state is zeros where it is not given."""
    table = np.array(table, np.float32)
    width = ops.state_width(name, table.shape[1])
    state = np.zeros((len(table), width), np.float32) if state is None else np.array(state, np.float32)
    hyper = {"learning_rate": 1.0, "epsilon": 1e-3, "scale_m": 1, "scale_g": 1, "scale_v": 1, "power": 0.5, **given}
    ops.update_dense(table, np.array(gradient, np.float32), name, hyper, state if width else None)
    return table, state


@pytest.mark.parametrize("name", ONE_PASS)
def test_nan_stays(name):
    """A gradient that is NaN can be seen ever after, in its element, or in its row where the row shares a number."""
    start, gradient = np.ones((3, 17), np.float32), np.ones((3, 17))
    gradient[1, [2, 16]] = np.nan
    hyper = {"beta_1": 0.9, "beta_2": 0.9, "momentum": 0.9}
    table, state = stepped(name, start, gradient, **hyper)
    table, state = stepped(name, table, np.ones((3, 17)), state, **hyper)
    wanted = np.isnan(gradient)
    if "rowwise" in name:
        wanted[1] = True
    assert np.array_equal(np.isnan(table), wanted)
    for part, at in ops.state_parts(name, 17).items():
        shared = ops.STATES[name][part] == ops.ROW or name == "rowwise_lars"
        own = wanted if shared else np.isnan(gradient)
        assert np.array_equal(np.isnan(state[:, at]), own[:, : at.stop - at.start]), part


@pytest.mark.parametrize("name", ["rmsprop_centered", "rmsprop_centered_momentum"])
def test_a_constant_gradient_has_no_spread(name):
    """v - a^2 goes to 0, and rounding may not carry it below -epsilon."""
    table, state = np.zeros((1, 64), np.float32), None
    gradient = np.linspace(1, 3000, 64, dtype=np.float32)[None]
    for _ in range(400):
        table, state = stepped(name, table, gradient, state, beta_2=0.9, momentum=0.5, epsilon=1e-7)
    assert np.isfinite(table).all()
    assert (table < -400).all()


@pytest.mark.parametrize("name", ["rowwise_lamb", "rowwise_lars"])
def test_a_norm_of_zero(name):
    """The rate is then the learning rate."""
    zeros, ones = np.zeros((1, 5)), np.ones((1, 5))
    table, _ = stepped(name, zeros, ones, epsilon=0, learning_rate=0.5)
    assert table.tolist() == [[-0.5] * 5]
    table, _ = stepped(name, ones, zeros, epsilon=1, learning_rate=0.5)
    assert table.tolist() == [[1.0] * 5]


@pytest.mark.parametrize("power", [0.0625, 0.25, 0.49, 0.75, 1.0, 1.5, 4.0])
def test_powers_of_ftrl(power):
    """w = -1 / a^power, where the gradient is 0 and the linear part 1."""
    a = np.concatenate([np.logspace(-44, 38, 1001), [1.0, 2.0, 0.5, 1 + 2.0**-23, 1 - 2.0**-24, 3.4e38]])
    a = a.astype(np.float32)[None]
    table, _ = stepped("ftrl", 0 * a, 0 * a, np.concatenate([a, 0 * a + 1], axis=1), power=power)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        wanted = (-1 / (a.astype(np.float64) ** np.float32(power)).astype(np.float32)).astype(np.float32)
    normal = (np.abs(wanted) > 1e-37) & (np.abs(wanted) < 1e37)
    assert normal.sum() > 200
    np.testing.assert_allclose(table[normal], wanted[normal], rtol=1.3e-7)
    assert (table[normal] == wanted[normal]).mean() > 0.99
    table, _ = stepped("ftrl", [[0.0, 0.0]], [[0.0, 0.0]], [[0, 1, 1, 1]], power=power)
    assert table.tolist() == [[-np.inf, -1]]


def test_power_zero_of_ftrl():
    """A constant rate: every power is 1, that of 0 too."""
    table, _ = stepped("ftrl", [[1.0, 1.0, 1.0]], [[0.0, 0.0, 3.0]], [[0, 7, 0, 1, 1, 1]], power=0, l2=0.5)
    assert table.tolist() == [[-0.5, -0.5, -2.0]]


# ---- lapses ----------------------------------------------------------------------------------------------------------


def root(part):
    """x and r of Adam and its like: the first part of the state over the root of another."""

    def x_and_r(state, epsilon):
        below = np.sqrt(state[part]) + epsilon
        return state["momentum"] / below, np.sqrt(state[part]) / below

    return x_and_r


def momentum(state, epsilon):
    return state["momentum"], 0


def nothing(state, epsilon):
    return 0, 0


X_AND_R = {
    "sgd": nothing,
    "momentum": momentum,
    "nesterov": momentum,
    "adagrad": nothing,
    "rowwise_adagrad": nothing,
    "adam": root("velocity"),
    "amsgrad": lambda state, epsilon: (root("velocity_hat")(state, epsilon)[0], 0),
    "rmsprop": nothing,
    "rmsprop_momentum": momentum,
    "rmsprop_centered": nothing,
    "rmsprop_centered_momentum": momentum,
    "adadelta": nothing,
    "adamax": lambda state, epsilon: root("norm")({**state, "norm": state["norm"] ** 2}, epsilon),
    "nadam": root("velocity"),
    "lion": lambda state, epsilon: (np.sign(state["momentum"]), 0),
    "partial_rowwise_adam": root("velocity"),
    "rowwise_lars": momentum,
    "rowwise_rmsprop": nothing,
}
POLYNOMIAL = (0.5, -0.25, 0.75, 1.5, -1.0, 0.3)


@pytest.mark.parametrize("fade", [0.0, 0.25])
@pytest.mark.parametrize("name", X_AND_R)
def test_lapse(name, fade, rng):
    for d in DIMS:
        table = ref.random_table(rng, V, d)
        state = rng.uniform(0.01, 2, (V, ops.state_width(name, d))).astype(np.float32)
        if "momentum" in ops.STATES[name]:
            state[:, ops.state_parts(name, d)["momentum"]] -= 1
        parts = {part: state[:, at].astype(np.float64) for part, at in ops.state_parts(name, d).items()}
        x, r = X_AND_R[name](parts, 0.125)
        move = POLYNOMIAL if np.any(r) else POLYNOMIAL[:1]
        wanted = table - fade * table.astype(np.float64)
        wanted -= sum(term * r**k for k, term in enumerate(move)) * x
        decay = (0.5, 0.75, 0.875)[: len(parts)]
        decayed = [part * factor for part, factor in zip(parts.values(), decay, strict=True)]
        lapse(name, table, state if parts else None, {"epsilon": 0.125}, fade, decay, move)
        np.testing.assert_allclose(table, wanted, rtol=2e-6, atol=2e-6)
        if parts:
            np.testing.assert_allclose(state, np.concatenate(decayed, axis=1), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(ops.STATES) - set(X_AND_R)))
def test_steps_without_a_lapse(name):
    with pytest.raises(ValueError, match=f"{name} has no closed form"):
        lapse(name, np.ones((1, 2), np.float32), np.ones((1, ops.state_width(name, 2)), np.float32), {}, 0.0, (), ())


RHO, MU, B1, B2 = 0.9375, 0.75, 0.875, 0.96875
# decay of a step, and how far step k without a gradient goes in units of x, where epsilon is 0
EXACT = {
    "momentum": ((MU,), lambda k: -(MU**k)),
    "nesterov": ((MU,), lambda k: -(MU ** (k + 1))),
    "rmsprop_momentum": ((RHO, MU), lambda k: MU**k),
    "rmsprop_centered_momentum": ((RHO, MU, RHO), lambda k: MU**k),
    "rowwise_lars": ((MU,), lambda k: MU**k),
    "lion": ((B2,), lambda k: 0.5),
    "adam": ((B1, B2), lambda k: 0.5 * (B1 / math.sqrt(B2)) ** k),
    "amsgrad": ((B1, B2, 1.0), lambda k: 0.5 * B1**k),
    "adamax": ((B1, B2), lambda k: 0.5 * (B1 / B2) ** k),
    "partial_rowwise_adam": ((B1, B2), lambda k: 0.5 * (B1 / math.sqrt(B2)) ** k),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_lapse_is_its_steps(name, rng):
    """n steps whose gradient is 0, one by one and at once."""
    decays, drift = EXACT[name]
    hyper = {"learning_rate": 0.5, "momentum": MU, "beta_1": B1, "beta_2": B2, "scale_m": 1, "scale_v": 1}
    hyper["beta_2"] = RHO if name.startswith("rmsprop") else B2
    table = ref.random_table(rng, V, 17)
    state = rng.uniform(0.5, 2, (V, ops.state_width(name, 17))).astype(np.float32)
    for part, factor in (("velocity", 10), ("velocity_hat", 100)):  # as they are where gradients made them
        if part in ops.STATES[name]:
            state[:, ops.state_parts(name, 17)[part]] *= factor
    one, one_state = table.copy(), state.copy()
    for _ in range(6):
        ops.update_dense(one, np.zeros_like(one), name, hyper, one_state)
    decay = tuple(factor**6 for factor in decays)
    lapse(name, table, state, hyper, 0.0, decay, (sum(drift(k) for k in range(1, 7)),))
    np.testing.assert_allclose(table, one, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(state, one_state, rtol=1e-5)
