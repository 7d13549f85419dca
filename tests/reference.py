"""The float64 oracle: what every look-up, gradient and optimizer step must give, in plain loops.

May import: NumPy alone, nothing of the package. Do not break: it must be obviously right, so no cleverness
and no concern for speed. Ids are flat, `splits` are row splits, `weights` None means ones, and the row
`padding_idx` takes part in nothing.
"""

import itertools
import math

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


# ---- optimizers: Keras 3's formulas; rowwise_adagrad is FBGEMM's EXACT_ROWWISE_ADAGRAD ---------------


def initial_state(name, shape, accumulator=0.0):
    """The float64 state of a whole matrix, by name of its part."""
    if name in ("momentum", "nesterov"):
        return {"m": np.zeros(shape)}
    if name == "adagrad":
        return {"a": np.full(shape, accumulator)}
    if name == "rowwise_adagrad":
        return {"a": np.full(shape[0], accumulator)}
    if name == "adam":
        return {"m": np.zeros(shape), "v": np.zeros(shape)}
    return {}


def step(name, table, state, gradient, touched, t, lr, momentum=0.9, epsilon=1e-7, beta_1=0.9, beta_2=0.999):
    """Step number t = 1, 2, ..., in place, on the float64 rows of `touched` alone."""
    for row in touched:
        w, g = table[row], gradient[row]
        if name == "sgd":
            w -= lr * g
        elif name == "momentum":
            m = state["m"][row]
            m[:] = momentum * m - lr * g
            w += m
        elif name == "nesterov":
            m = state["m"][row]
            m[:] = momentum * m - lr * g
            w += momentum * m - lr * g
        elif name == "adagrad":
            a = state["a"][row]
            a += g**2
            w -= lr * g / np.sqrt(a + epsilon)
        elif name == "rowwise_adagrad":
            state["a"][row] += np.mean(g**2)
            w -= lr * g / (np.sqrt(state["a"][row]) + epsilon)
        elif name == "adam":
            m, v = state["m"][row], state["v"][row]
            m += (g - m) * (1 - beta_1)
            v += (g**2 - v) * (1 - beta_2)
            w -= lr * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
        else:
            raise ValueError(name)


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
