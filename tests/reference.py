"""The float64 oracle: what every look-up, gradient and optimizer step must give, in plain loops.

May import: NumPy alone, nothing of the package. Do not break: it must be obviously right, so no cleverness
and no concern for speed. Ids are flat, `splits` are row splits, `weights` None means ones, and the row
`padding_idx` takes part in nothing.
"""

import itertools
import math
import types

import numpy as np

# ---- look-ups ----------------------------------------------------------------------------------------


def gather(table, ids):
    """The row of each id: ids.shape + (d,)."""
    ids = np.asarray(ids)
    out = np.zeros((ids.size, table.shape[1]))
    for i, row in enumerate(ids.ravel()):
        out[i] = table[int(row)]
    return out.reshape((*ids.shape, table.shape[1]))


def bags(ids, splits, weights=None, padding_idx=None):
    """For each bag, its (position, row, weight) without padding."""
    for start, end in itertools.pairwise(splits):
        bag = []
        for i in range(int(start), int(end)):
            if ids[i] != padding_idx:
                bag.append((i, int(ids[i]), 1.0 if weights is None else float(weights[i])))
        yield bag


def divisor(bag, combiner):
    """What the sum of a bag is divided by; infinity (so that the quotient is 0) where that would be 0."""
    total = {
        "sum": 1.0,
        "mean": math.fsum(weight for _, _, weight in bag),
        "sqrtn": math.sqrt(math.fsum(weight**2 for _, _, weight in bag)),
    }[combiner]
    return math.inf if total == 0 else total


def winners(table, bag):
    """For each column, the index in the bag of the largest weight * element; the first on ties."""
    products = np.array([weight * table[row].astype(np.float64) for _, row, weight in bag])
    return np.argmax(products.reshape(len(bag), -1), axis=0) if bag else None


def pool(table, ids, splits, weights=None, combiner="sum", padding_idx=None):
    """One vector for each bag: (b, d). An empty bag gives zeros."""
    out = np.zeros((len(splits) - 1, table.shape[1]))
    for b, bag in enumerate(bags(ids, splits, weights, padding_idx)):
        if combiner == "max" and bag:
            for j, k in enumerate(winners(table, bag)):
                _, row, weight = bag[k]
                out[b, j] = weight * float(table[row, j])
        elif combiner != "max":
            for _, row, weight in bag:
                out[b] += weight * table[row].astype(np.float64)
            out[b] /= divisor(bag, combiner)
    return out


# ---- gradients ---------------------------------------------------------------------------------------


def gather_gradient(shape, ids, upstream, padding_idx=None):
    """The dense gradient (v, d) of gather, and the set of rows it touches."""
    dense, touched = np.zeros(shape), set()
    for row, vector in zip(np.ravel(ids), np.reshape(upstream, (-1, shape[1])), strict=True):
        if row != padding_idx:
            dense[int(row)] += vector
            touched.add(int(row))
    return dense, touched


def pool_gradient(table, ids, splits, upstream, weights=None, combiner="sum", padding_idx=None):
    """The dense gradient (v, d) of pool, and the set of rows it touches: all that are in a bag."""
    dense, touched = np.zeros(table.shape), set()
    for b, bag in enumerate(bags(ids, splits, weights, padding_idx)):
        won = winners(table, bag)
        for k, (_, row, weight) in enumerate(bag):
            part = weight * upstream[b].astype(np.float64)
            dense[row] += np.where(won == k, part, 0) if combiner == "max" else part / divisor(bag, combiner)
            touched.add(row)
    return dense, touched


def weights_gradient(table, ids, splits, upstream, weights=None, combiner="sum", padding_idx=None):
    """The gradient (n,) of the per-sample weights of pool; 0 at padding."""
    gradient = np.zeros(len(ids))
    out = pool(table, ids, splits, weights, combiner, padding_idx)
    for b, bag in enumerate(bags(ids, splits, weights, padding_idx)):
        up, won = upstream[b].astype(np.float64), winners(table, bag)
        for k, (i, row, weight) in enumerate(bag):
            element = table[row].astype(np.float64)
            if combiner == "max":
                gradient[i] = (element * up)[won == k].sum()
            elif combiner == "sum":
                gradient[i] = element @ up
            elif combiner == "mean":  # y = sum(w e) / sum(w)
                gradient[i] = (element - out[b]) @ up / divisor(bag, combiner)
            else:  # y = sum(w e) / r with r = sqrt(sum(w^2)), and dr/dw = w / r
                r = divisor(bag, combiner)
                gradient[i] = (element - out[b] * weight / r) @ up / r
    return gradient


# ---- optimizers: Keras 3's formulas; the row-wise ones are FBGEMM's ---------------------------------

# Steps of `ops` that are a pass of an optimizer: they leave sums for the next pass, or need those of the last one.
PASSES = {
    "lamb": ("lamb_moments", "lamb"),
    "adafactor": ("adafactor_squares", "adafactor_norm", "adafactor"),
    "adafactor_vector": ("adafactor_vector_squares", "adafactor_vector"),
}
SEVERAL_PASSES = {step for steps in PASSES.values() for step in steps}

# The parts of the state: those with a number for each element, for each row, for each column.
PARTS = {
    "sgd": ([], [], []),
    "momentum": (["momentum"], [], []),
    "nesterov": (["momentum"], [], []),
    "adagrad": (["accumulator"], [], []),
    "rowwise_adagrad": ([], ["accumulator"], []),
    "adam": (["momentum", "velocity"], [], []),
    "amsgrad": (["momentum", "velocity", "velocity_hat"], [], []),
    "rmsprop": (["velocity"], [], []),
    "rmsprop_momentum": (["velocity", "momentum"], [], []),
    "rmsprop_centered": (["velocity", "average_gradient"], [], []),
    "rmsprop_centered_momentum": (["velocity", "momentum", "average_gradient"], [], []),
    "adadelta": (["accumulated_grad", "accumulated_delta_var"], [], []),
    "adamax": (["momentum", "norm"], [], []),
    "nadam": (["momentum", "velocity"], [], []),
    "ftrl": (["accumulator", "linear"], [], []),
    "lion": (["momentum"], [], []),
    "lamb": (["momentum", "velocity"], [], []),
    "adafactor": ([], ["r"], ["c"]),
    "adafactor_vector": (["velocity"], [], []),
    "partial_rowwise_adam": (["momentum"], ["velocity"], []),
    "rowwise_lamb": (["momentum", "velocity"], [], []),
    "rowwise_lars": (["momentum"], [], []),
    "rowwise_rmsprop": ([], ["velocity"], []),
}

# What a step is given where it is not told otherwise.
ARGUMENTS = {
    "momentum": 0.9,
    "epsilon": 1e-7,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "rho": 0.9,
    "weight_decay": 0.0,
    "trust_coefficient": 0.001,
    "learning_rate_power": -0.5,
    "l1_regularization_strength": 0.0,
    "l2_regularization_strength": 0.0,
    "l2_shrinkage_regularization_strength": 0.0,
    "beta": 0.0,
    "beta_2_decay": -0.8,
    "epsilon_1": 1e-30,
    "epsilon_2": 1e-3,
    "clip_threshold": 1.0,
}


def initial_state(name, shape, accumulator=0.0):
    """The float64 state of a whole matrix, by name of its part."""
    state = {}
    for parts, size in zip(PARTS[name], (shape, shape[:1], shape[1:]), strict=True):
        for part in parts:
            state[part] = np.full(size, accumulator if part == "accumulator" else 0.0)
    return state


def step(name, table, state, gradient, touched, t, lr, **arguments):
    """Step number t = 1, 2, ..., in place, on the float64 rows of `touched` alone."""
    assert set(arguments) <= set(ARGUMENTS), arguments
    a = types.SimpleNamespace(**{**ARGUMENTS, **arguments})
    if name in WHOLE:
        WHOLE[name](table, state, gradient, sorted(touched), t, lr, a)
        return
    for row in touched:
        # Views: (d,), or (1,) where the row has one number.
        s = types.SimpleNamespace(**{part: x[row] if x.ndim == 2 else x[row : row + 1] for part, x in state.items()})
        ROW_BY_ROW[name](table[row], gradient[row], s, t, lr, a)


def sgd(w, g, s, t, lr, a):
    w -= lr * g


def momentum(w, g, s, t, lr, a):
    s.momentum[:] = a.momentum * s.momentum - lr * g
    w += s.momentum


def nesterov(w, g, s, t, lr, a):
    s.momentum[:] = a.momentum * s.momentum - lr * g
    w += a.momentum * s.momentum - lr * g


def adagrad(w, g, s, t, lr, a):
    s.accumulator += g**2
    w -= lr * g / np.sqrt(s.accumulator + a.epsilon)


def rowwise_adagrad(w, g, s, t, lr, a):
    s.accumulator += np.mean(g**2)
    w -= lr * g / (np.sqrt(s.accumulator) + a.epsilon)


def move_moments(g, s, a):
    s.momentum += (g - s.momentum) * (1 - a.beta_1)
    s.velocity += (g**2 - s.velocity) * (1 - a.beta_2)


def adam(w, g, s, t, lr, a):
    move_moments(g, s, a)
    rate = lr * np.sqrt(1 - a.beta_2**t) / (1 - a.beta_1**t)
    w -= rate * s.momentum / (np.sqrt(s.velocity) + a.epsilon)


def amsgrad(w, g, s, t, lr, a):
    move_moments(g, s, a)
    s.velocity_hat[:] = np.maximum(s.velocity_hat, s.velocity)
    rate = lr * np.sqrt(1 - a.beta_2**t) / (1 - a.beta_1**t)
    w -= rate * s.momentum / (np.sqrt(s.velocity_hat) + a.epsilon)


def rmsprop(w, g, s, t, lr, a):
    s.velocity[:] = a.rho * s.velocity + (1 - a.rho) * g**2
    denominator = s.velocity + a.epsilon
    if hasattr(s, "average_gradient"):
        s.average_gradient[:] = a.rho * s.average_gradient + (1 - a.rho) * g
        denominator = s.velocity - s.average_gradient**2 + a.epsilon
    increment = lr * g / np.sqrt(denominator)
    if hasattr(s, "momentum"):
        s.momentum[:] = a.momentum * s.momentum + increment
        w -= s.momentum
    else:
        w -= increment


def adadelta(w, g, s, t, lr, a):
    s.accumulated_grad[:] = a.rho * s.accumulated_grad + (1 - a.rho) * g**2
    delta = -np.sqrt(s.accumulated_delta_var + a.epsilon) / np.sqrt(s.accumulated_grad + a.epsilon) * g
    s.accumulated_delta_var[:] = a.rho * s.accumulated_delta_var + (1 - a.rho) * delta**2
    w += lr * delta


def adamax(w, g, s, t, lr, a):
    s.momentum += (g - s.momentum) * (1 - a.beta_1)
    s.norm[:] = np.maximum(a.beta_2 * s.norm, np.abs(g))
    w -= lr * s.momentum / ((1 - a.beta_1**t) * (s.norm + a.epsilon))


def nadam(w, g, s, t, lr, a):
    def u(k):
        return a.beta_1 * (1 - 0.5 * 0.96**k)

    product = math.prod(u(k) for k in range(1, t + 1))
    move_moments(g, s, a)
    m_hat = u(t + 1) * s.momentum / (1 - product * u(t + 1)) + (1 - u(t)) * g / (1 - product)
    v_hat = s.velocity / (1 - a.beta_2**t)
    w -= lr * m_hat / (np.sqrt(v_hat) + a.epsilon)


def ftrl(w, g, s, t, lr, a):
    power, l1 = -a.learning_rate_power, a.l1_regularization_strength
    l2 = a.l2_regularization_strength + a.beta / (2 * lr)
    accumulator = s.accumulator + g**2
    s.linear += g + 2 * a.l2_shrinkage_regularization_strength * w
    s.linear -= (accumulator**power - s.accumulator**power) / lr * w
    w[:] = (np.clip(s.linear, -l1, l1) - s.linear) / (accumulator**power / lr + 2 * l2)
    s.accumulator[:] = accumulator


def lion(w, g, s, t, lr, a):
    w -= lr * np.sign(a.beta_1 * s.momentum + (1 - a.beta_1) * g)
    s.momentum[:] = a.beta_2 * s.momentum + (1 - a.beta_2) * g


def lamb_move(s, t, a):
    return s.momentum / (1 - a.beta_1**t) / (np.sqrt(s.velocity / (1 - a.beta_2**t)) + a.epsilon)


def trust(w, u):
    """|w| / |u|, or 1 where one of them is 0."""
    w_norm, u_norm = math.sqrt(np.sum(w**2)), math.sqrt(np.sum(u**2))
    return w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1.0


def partial_rowwise_adam(w, g, s, t, lr, a):
    s.momentum += (g - s.momentum) * (1 - a.beta_1)
    s.velocity += (np.mean(g**2) - s.velocity) * (1 - a.beta_2)
    w -= lr * lamb_move(s, t, a)


def rowwise_lamb(w, g, s, t, lr, a):
    move_moments(g, s, a)
    u = lamb_move(s, t, a) + a.weight_decay * w
    w -= lr * trust(w, u) * u


def rowwise_lars(w, g, s, t, lr, a):
    w_norm, g_norm = math.sqrt(np.sum(w**2)), math.sqrt(np.sum(g**2))
    below = g_norm + a.weight_decay * w_norm
    rate = lr * a.trust_coefficient * w_norm / below if w_norm > 0 and below > 0 else lr
    s.momentum[:] = a.momentum * s.momentum + rate * (g + a.weight_decay * w)
    w -= s.momentum


def rowwise_rmsprop(w, g, s, t, lr, a):
    s.velocity[:] = a.rho * s.velocity + (1 - a.rho) * np.mean(g**2)
    w -= lr * g / (np.sqrt(s.velocity) + a.epsilon)


ROW_BY_ROW = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "rowwise_adagrad": rowwise_adagrad,
    "adam": adam,
    "amsgrad": amsgrad,
    "rmsprop": rmsprop,
    "rmsprop_momentum": rmsprop,
    "rmsprop_centered": rmsprop,
    "rmsprop_centered_momentum": rmsprop,
    "adadelta": adadelta,
    "adamax": adamax,
    "nadam": nadam,
    "ftrl": ftrl,
    "lion": lion,
    "partial_rowwise_adam": partial_rowwise_adam,
    "rowwise_lamb": rowwise_lamb,
    "rowwise_lars": rowwise_lars,
    "rowwise_rmsprop": rowwise_rmsprop,
}


# These need the whole table. Where all rows are touched they are Keras's; a row that is not touched has the gradient 0
# and keeps its state and value.


def lamb(table, state, gradient, touched, t, lr, a):
    """The norms are those of the touched rows."""
    s = types.SimpleNamespace(**{part: x[touched] for part, x in state.items()})
    move_moments(gradient[touched], s, a)
    state["momentum"][touched], state["velocity"][touched] = s.momentum, s.velocity
    u = lamb_move(s, t, a)
    table[touched] -= trust(table[touched], u) * lr * u


def rms(x):
    return math.sqrt(np.mean(x**2))


def adafactor_rate(table, t, lr, a):
    return max(a.epsilon_2, rms(table)) * min(lr, 1 / math.sqrt(t))


def adafactor(table, state, gradient, touched, t, lr, a):
    """All means are those of the whole table."""
    beta_2 = 1 - t**a.beta_2_decay
    g = np.zeros(table.shape)
    g[touched] = gradient[touched]
    for row in touched:
        state["r"][row] = beta_2 * state["r"][row] + (1 - beta_2) * np.mean(g[row] ** 2 + a.epsilon_1)
    state["c"][:] = beta_2 * state["c"] + (1 - beta_2) * np.mean(g**2 + a.epsilon_1, axis=0)
    u = np.zeros(table.shape)
    for row in touched:
        u[row] = g[row] / np.sqrt(state["r"][row] / np.mean(state["r"]) * state["c"])
    table -= adafactor_rate(table, t, lr, a) * u / max(1, rms(u) / a.clip_threshold)


def adafactor_vector(table, state, gradient, touched, t, lr, a):
    """For variables that have no rows and columns."""
    beta_2 = 1 - t**a.beta_2_decay
    u = np.zeros(table.shape)
    for row in touched:
        g, v = gradient[row], state["velocity"][row]
        v[:] = beta_2 * v + (1 - beta_2) * (g**2 + a.epsilon_1)
        u[row] = g / np.sqrt(v)
    table -= adafactor_rate(table, t, lr, a) * u / max(1, rms(u) / a.clip_threshold)


WHOLE = {"lamb": lamb, "adafactor": adafactor, "adafactor_vector": adafactor_vector}


def hyper(name, t, lr, **arguments):
    """The hyperparameters that `ops.update` takes for step number t."""
    a = types.SimpleNamespace(**{**ARGUMENTS, **arguments})
    given = {
        "learning_rate": lr,
        "momentum": a.momentum,
        "beta_1": a.beta_1,
        "beta_2": a.beta_2,
        "epsilon": a.epsilon,
        "weight_decay": a.weight_decay,
        "scale_m": 1 / (1 - a.beta_1**t),
        "scale_g": a.trust_coefficient,
        "scale_v": 1 / (1 - a.beta_2**t),
        "l1": a.l1_regularization_strength,
        "l2": a.l2_regularization_strength + a.beta / (2 * lr),
        "l2_shrinkage": a.l2_shrinkage_regularization_strength,
        "power": -a.learning_rate_power,
    }
    if name in ("adam", "amsgrad"):
        given["learning_rate"] *= math.sqrt(1 - a.beta_2**t) / (1 - a.beta_1**t)
    if name == "adamax":
        given["learning_rate"] /= 1 - a.beta_1**t
    if "rmsprop" in name or name == "adadelta":
        given["beta_2"] = a.rho
    if name == "nadam":
        u = [a.beta_1 * (1 - 0.5 * 0.96**k) for k in range(1, t + 2)]
        given["scale_m"] = u[t] / (1 - math.prod(u))
        given["scale_g"] = (1 - u[t - 1]) / (1 - math.prod(u[:t]))
    return given


# ---- inputs ------------------------------------------------------------------------------------------


def random_table(rng, v, d):
    """Normal float32 rows."""
    return rng.standard_normal((v, d)).astype(np.float32)


def random_ids(rng, n, v, dtype=np.int64):
    """Ids with many duplicates: half of them among the first rows; row 0 and row v - 1 are always there."""
    ids = np.where(rng.random(n) < 0.5, rng.integers(0, v, n), rng.integers(0, min(v, 3), n))
    ids[: min(n, 2)] = [0, v - 1][: min(n, 2)]
    return ids.astype(dtype)


def random_splits(rng, n, b):
    """Row splits of n ids in b bags; the first, the last and some other bags are empty (b >= 3)."""
    inner = np.sort(rng.integers(0, n + 1, b - 3))
    return np.concatenate([[0, 0], inner, [n, n]]).astype(np.int64)
