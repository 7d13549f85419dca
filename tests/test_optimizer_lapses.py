"""What optimizers say of steps without a gradient, against loops of such steps in float64.

Do not break: the loops are written down from Keras's and FBGEMM's formulas, with g = 0, and know nothing of `drift`.
Betas are numbers that float32 holds exactly.
"""

import numpy as np
import pytest

from fastembed import optimizers

B1, B2 = 0.875, 0.984375


# One step without a gradient: changes the state, and returns what is taken off the weights.


def nothing(o, state, t, rate):
    return 0.0


def decay_by_rho(o, state, t, rate):
    for part in state:
        part *= o.rho
    return 0.0


def momentum(o, state, t, rate):
    (m,) = state
    m *= o.momentum
    return -(o.momentum * m if o.nesterov else m)


def adam(o, state, t, rate):
    m, v = state
    m *= B1
    v *= B2
    return rate * np.sqrt(1 - B2**t) / (1 - B1**t) * m / (np.sqrt(v) + o.epsilon)


def amsgrad(o, state, t, rate):
    m, v, largest = state
    m *= B1
    v *= B2
    largest[:] = np.maximum(largest, v)
    return rate * np.sqrt(1 - B2**t) / (1 - B1**t) * m / (np.sqrt(largest) + o.epsilon)


def adamax(o, state, t, rate):
    m, u = state
    m *= B1
    u[:] = np.maximum(B2 * u, 0)
    return rate / (1 - B1**t) * m / (u + o.epsilon)


def nadam(o, state, t, rate):
    m, v = state
    m *= B1
    v *= B2
    u = [B1 * (1 - 0.5 * 0.96**i) for i in range(1, t + 2)]
    return rate * u[-1] * m / (1 - np.prod(u)) / (np.sqrt(v / (1 - B2**t)) + o.epsilon)


def partial_rowwise_adam(o, state, t, rate):
    m, v = state
    m *= B1
    v *= B2
    return rate * m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + o.epsilon)


def rmsprop_momentum(o, state, t, rate):
    velocity, m, *average = state
    velocity *= o.rho
    m *= o.momentum
    for a in average:
        a *= o.rho
    return m.copy()


def lion(o, state, t, rate):
    (m,) = state
    move = rate * np.sign(o.beta_1 * m)
    m *= o.beta_2
    return move


def lars(o, state, t, rate):
    (m,) = state
    m *= o.momentum
    return m.copy()


# x and r of fe_lapse (rows.h), from the state.


def over_root(o, state):
    root = np.sqrt(state[1])
    return state[0] / (root + o.epsilon), root / (root + o.epsilon)


def over_largest(o, state):
    return state[0] / (np.sqrt(state[2]) + o.epsilon), np.zeros_like(state[0])


def over_norm(o, state):
    return state[0] / (state[1] + o.epsilon), state[1] / (state[1] + o.epsilon)


def part(number, function=np.copy):
    return lambda o, state: (function(state[number]), np.zeros_like(state[number]))


BETAS = {"beta_1": B1, "beta_2": B2, "epsilon": 0.1}
# The optimizer, the parts of its state, a step, and what its lapse is a multiple of.
CASES = [
    (optimizers.SGD(), 0, nothing, None),
    (optimizers.SGD(momentum=0.75), 1, momentum, part(0)),
    (optimizers.SGD(momentum=0.75, nesterov=True), 1, momentum, part(0)),
    (optimizers.Adagrad(), 1, nothing, None),
    (optimizers.RowwiseAdagrad(), 1, nothing, None),
    (optimizers.Adam(**BETAS), 2, adam, over_root),
    (optimizers.Adam(**{**BETAS, "epsilon": 1e-7}), 2, adam, over_root),
    (optimizers.Adam(**BETAS, amsgrad=True), 3, amsgrad, over_largest),
    (optimizers.Adamax(**BETAS), 2, adamax, over_norm),
    (optimizers.Nadam(**BETAS), 2, nadam, over_root),
    (optimizers.PartialRowwiseAdam(**BETAS), 2, partial_rowwise_adam, over_root),
    (optimizers.RMSprop(rho=0.75), 1, decay_by_rho, None),
    (optimizers.RMSprop(rho=0.75, centered=True), 2, decay_by_rho, None),
    (optimizers.RMSprop(rho=0.75, momentum=0.5), 2, rmsprop_momentum, part(1)),
    (optimizers.RMSprop(rho=0.75, momentum=0.5, centered=True), 3, rmsprop_momentum, part(1)),
    (optimizers.Adadelta(rho=0.75), 2, decay_by_rho, None),
    (optimizers.RowwiseRMSprop(rho=0.75), 1, decay_by_rho, None),
    (optimizers.Lion(beta_2=0.75), 1, lion, part(0, np.sign)),
    (optimizers.Lion(beta_2=0.0), 1, lion, part(0, np.sign)),
    (optimizers.RowwiseLARS(momentum=0.75), 1, lars, part(0)),
    (optimizers.RowwiseLARS(momentum=0.0), 1, lars, part(0)),
]


@pytest.mark.parametrize("start", [1, 2, 500])
@pytest.mark.parametrize(("optimizer", "parts", "step", "multiple"), CASES, ids=[repr(case[0]) for case in CASES])
def test_lapses(optimizer, parts, step, multiple, start, rng):
    """40 steps after step `start`, with a rate that changes."""
    state = [rng.standard_normal(20) for _ in range(parts)]
    for i in range(1, parts):
        state[i] = np.abs(state[i]) if step is not rmsprop_momentum else state[i]
    if step is amsgrad:
        state[2] = np.maximum(state[1], state[2])
    before = [values.copy() for values in state]
    x, r = multiple(optimizer, state) if multiple else (np.zeros(20), np.zeros(20))
    moved, expected = np.zeros(20), np.zeros(20)
    for n in range(1, 41):
        t, rate = start + n, 0.1 + 0.05 * np.sin(n)
        expected += step(optimizer, state, t, rate)
        drift = np.broadcast_to(optimizer.drift(t, rate, np.array([[n], [n + 3]]), r[None]), (2, 20))
        moved += drift[0] * x
        later = np.broadcast_to(optimizer.drift(t, rate, np.array([[n + 3]]), r[None]), (1, 20))
        np.testing.assert_array_equal(drift[1:], later)
    np.testing.assert_allclose(moved, expected, rtol=1e-10, atol=1e-12)
    decays = optimizer.decays()
    assert len(decays) == parts
    for values, first, decay in zip(state, before, decays, strict=True):
        np.testing.assert_allclose(values, first * decay**40, rtol=1e-10, atol=1e-300)
    moves = bool((expected != 0).any())
    changes = any((values != first).any() for values, first in zip(state, before, strict=True))
    assert optimizer.at_rest == ("weights" if moves else "state" if changes else "nothing")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("optimizer", [optimizer for optimizer, *_ in CASES], ids=repr)
def test_long_lapses(optimizer):
    """Finite at both ends of r, and after so many steps that every power is 0."""
    n_k1, r_p = np.array([[1], [1000], [10**7]]), np.array([[0.0, 0.5, 1.0]])
    drift = np.broadcast_to(optimizer.drift(10**8, 0.1, n_k1, r_p), (3, 3))
    assert np.isfinite(drift).all()
    if not isinstance(optimizer, optimizers.Lion):
        assert (drift[2] == 0).all()


@pytest.mark.parametrize(
    ("optimizer", "at_rest"),
    [
        (optimizers.Ftrl(), "weights"),
        (optimizers.Lamb(), "weights"),
        (optimizers.RowwiseLamb(), "weights"),
        (optimizers.RowwiseLARS(weight_decay=0.1), "weights"),
        (optimizers.RowwiseLARS(momentum=0.0, weight_decay=0.1), "weights"),
        (optimizers.Adafactor(), "state"),
    ],
    ids=repr,
)
def test_no_closed_form(optimizer, at_rest):
    assert optimizer.decays() is None
    assert optimizer.at_rest == at_rest


def test_every_optimizer_is_here():
    others = {"LossScaleOptimizer", "AdamW", "Ftrl", "Lamb", "RowwiseLamb", "Adafactor", "Optimizer", "get"}
    assert {type(optimizer).__name__ for optimizer, *_ in CASES} == set(optimizers.__all__) - others


def test_nadam_at_any_step():
    """A pure function of the step: after others, and after a leap, the same bits."""
    fresh = {t: optimizers.Nadam(beta_1=0.9).hyper(t, 0.1) for t in (1, 2, 7, 1000, 100_000)}
    nadam = optimizers.Nadam(beta_1=0.9)
    for t in (7, 1, 2, 100_000, 1000, 7):
        assert nadam.hyper(t, 0.1) == fresh[t]
    assert fresh[1000]["scale_m"] == pytest.approx(0.9, rel=1e-6)
