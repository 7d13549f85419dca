"""The bridge to JAX: what it trains is what JAX trains, in every transformation; nothing hangs, no table is copied.

Do not break: trained weights are compared with `jnp.take` and dense optimizers that are written here in jnp.
"""

import gc
import inspect
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import need, peer
from test_floors import public

import fastembed

need("jax")
jax = peer("jax")
import jax.numpy as jnp  # noqa: E402

V, D = 50, 8
ROUNDING = {"rtol": 2e-5, "atol": 2e-6}


def table(rng, rows=V, dim=D):
    return rng.standard_normal((rows, dim)).astype(np.float32)


def bag(values, optimizer, combiner="sum", **named):
    return fastembed.jax.EmbeddingBag(*values.shape, combiner, weights=values, optimizer=optimizer, **named)


def embedding(values, optimizer, **named):
    return fastembed.jax.Embedding(*values.shape, weights=values, optimizer=optimizer, **named)


def weights_of(words):
    return words.layer.embeddings.numpy()


# ---- the same weights as JAX's own -----------------------------------------------------------------------------------


def dense(name):
    """(first state, step) of a dense optimizer: step(weights, gradient, state, t) -> weights, state."""
    rate = 0.05

    def sgd(w, g, state, t):
        return w - rate * g, state

    def adagrad(w, g, state, t):
        state = state + g * g
        return w - rate * g / jnp.sqrt(state + 1e-7), state

    def adam(w, g, state, t):
        m, v = state
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        scale = rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return w - scale * m / (jnp.sqrt(v) + 1e-7), (m, v)

    zeros = jnp.zeros((V, D))
    return {"SGD": (None, sgd), "Adagrad": (zeros + 0.1, adagrad), "Adam": ((zeros, zeros), adam)}[name]


def ours(name):
    arguments = {} if name == "SGD" else {"untouched": "dense"}
    return getattr(fastembed.optimizers, name)(0.05, **arguments)


def pooled(rows, combiner):
    return {"sum": rows.sum(1), "mean": rows.mean(1), "sqrtn": rows.sum(1) / np.sqrt(rows.shape[1])}[combiner]


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam"])
@pytest.mark.parametrize("kind", ["sum", "mean", "sqrtn", "rows"])
def test_trains_as_jax_does(name, kind, rng):
    """A small model, 30 steps, ids that repeat in a bag and between bags."""
    values, head = table(rng), jnp.asarray(rng.standard_normal(D), jnp.float32)
    ids = rng.integers(0, V // 2, (30, 16, 5))
    ids[:, :, 1] = ids[:, :, 0]
    ids[:, 3] = 7
    labels = rng.standard_normal((30, 16)).astype(np.float32)
    words = embedding(values, ours(name)) if kind == "rows" else bag(values, ours(name), kind)

    def loss(vectors, head, labels):
        vectors = vectors.mean(1) if vectors.ndim == 3 else vectors
        return jnp.mean((jnp.tanh(vectors) @ head - labels) ** 2)

    @jax.jit
    def step(params, ids, labels):
        value, grads = jax.value_and_grad(lambda p: loss(words(p[0], ids), p[1], labels))(params)
        return value, [p - 0.1 * g for p, g in zip(params, grads, strict=True)]

    first, take_step = dense(name)

    @jax.jit
    def step_of_jax(params, ids, labels, state, t):
        def loss_of_jax(p):
            rows = jnp.take(p[0], ids, axis=0)
            return loss(rows if kind == "rows" else pooled(rows, kind), p[1], labels)

        value, (g, head_g) = jax.value_and_grad(loss_of_jax)(params)
        w, state = take_step(params[0], g, state, t)
        return value, [w, params[1] - 0.1 * head_g], state

    params, params_of_jax, state = [words.init(), head], [jnp.asarray(values), head], first
    for number in range(30):
        value, params = step(params, ids[number], labels[number])
        expected, params_of_jax, state = step_of_jax(params_of_jax, ids[number], labels[number], state, number + 1.0)
        np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(weights_of(words), params_of_jax[0], rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(params[1], params_of_jax[1], rtol=2e-4, atol=2e-5)
    assert words.optimizer.iterations == 30
    assert params[0] == 0


def test_gradient_of_weights(rng):
    values, ids = table(rng), rng.integers(0, V, (6, 4))
    per_sample = rng.random((6, 4)).astype(np.float32) + 0.5
    upstream = rng.standard_normal((6, D)).astype(np.float32)
    words = bag(values, fastembed.optimizers.SGD(0.1), "mean")

    def loss(anchor, weights):
        return jnp.vdot(words(anchor, ids, weights), upstream)

    def loss_of_jax(w, weights):
        rows = jnp.take(w, ids, axis=0) * weights[..., None]
        return jnp.vdot(rows.sum(1) / weights.sum(1, keepdims=True), upstream)

    expected = jax.grad(loss_of_jax, (0, 1))(values, per_sample)
    alone = jax.jit(jax.grad(loss, 1))(words.init(), per_sample)
    np.testing.assert_allclose(alone, expected[1], rtol=1e-4, atol=1e-5)
    assert np.array_equal(weights_of(words), values)  # the anchor was not differentiated: no step
    assert words.optimizer.iterations == 0
    _, both = jax.jit(jax.grad(loss, (0, 1)))(words.init(), per_sample)
    np.testing.assert_allclose(both, expected[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights_of(words), values - 0.1 * expected[0], **ROUNDING)
    assert words.optimizer.iterations == 1


# ---- what a step is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit", [False, True])
def test_two_uses_take_one_step(jit, rng):
    """Adam's first step with the summed gradient."""
    values, a, b = table(rng), np.array([[1, 2], [3, 3]]), np.array([[3, 4], [5, 1]])
    words = bag(values, fastembed.optimizers.Adam(0.05))

    def both(look_up):
        return jnp.vdot(look_up(a), look_up(b)) + (look_up(a) ** 2).sum()

    def loss(anchor):
        token = words.open(anchor)
        return both(lambda ids: words(token, ids))

    assert (jax.jit(jax.grad(loss)) if jit else jax.grad(loss))(words.init()) == 0
    gradient = jax.grad(lambda w: both(lambda ids: jnp.take(w, ids, axis=0).sum(1)))(jnp.asarray(values))
    first, take_step = dense("Adam")
    expected, _ = take_step(jnp.asarray(values), gradient, first, 1.0)
    np.testing.assert_allclose(weights_of(words), expected, rtol=1e-4, atol=1e-5)
    assert words.optimizer.iterations == 1


def test_an_anchor_that_is_used_twice(rng):
    words, ids = bag(table(rng), fastembed.optimizers.SGD(0.1)), np.array([[1, 2]])
    anchor = words.init()
    for twice in (
        lambda anchor: words(anchor, ids).sum() + words(anchor, ids).sum(),
        lambda anchor: words(anchor, ids).sum() + words(words.open(anchor), ids).sum(),
        lambda anchor: words(words.open(anchor), ids).sum() + words(words.open(anchor), ids).sum(),
    ):
        for call in (jax.grad(twice), jax.jit(twice)):
            with pytest.raises(ValueError, match="`anchor` must be used once in a function"):
                call(anchor)
        twice(anchor)  # with an array there is nothing to train
    assert words.optimizer.iterations == 0
    with jax.checking_leaks():  # an anchor that is remembered keeps no trace alive
        jax.jit(jax.grad(lambda anchor: words(anchor, ids).sum()))(anchor)
        jax.jit(lambda anchor: words(anchor, ids).sum())(anchor)


def test_equal_uses_count_twice(rng):
    """Equal look-ups with equal gradients: nothing merges their two parts."""
    words = bag(np.zeros((V, D), np.float32), fastembed.optimizers.SGD(1.0))
    ids = jnp.array([[1, 2]])

    @jax.jit
    def part(token, ids):
        return words(token, ids).sum()

    @jax.jit
    def loss(anchor):
        token = words.open(anchor)
        return part(token, ids) + part(token, ids) + words(token, ids).sum() + words(token, ids).sum()

    jax.jit(jax.grad(loss))(words.init())
    assert (weights_of(words)[1:3] == -4).all()
    assert words.optimizer.iterations == 1


def test_two_layers_and_one_that_is_frozen(rng):
    values = table(rng)
    words, others = bag(values, fastembed.optimizers.SGD(0.1)), bag(values, fastembed.optimizers.SGD(0.1))
    frozen, untrained = bag(values, fastembed.optimizers.SGD(0.1), trainable=False), bag(values, None)
    every = [words, others, frozen, untrained]
    ids = np.array([[1, 2], [2, 3]])

    def loss(anchors):
        return sum((part(anchor, ids) ** 2).sum() for part, anchor in zip(every, anchors, strict=True))

    grads = jax.jit(jax.grad(loss))([part.init() for part in every])
    assert [float(g) for g in grads] == [0, 0, 0, 0]
    gradient = jax.grad(lambda w: (jnp.take(w, ids, axis=0).sum(1) ** 2).sum())(jnp.asarray(values))
    for part in (words, others):
        np.testing.assert_allclose(weights_of(part), values - 0.1 * gradient, **ROUNDING)
    for part in (frozen, untrained):
        assert np.array_equal(weights_of(part), values)


def test_no_step_without_gradient(rng):
    values = table(rng)
    words = bag(values, fastembed.optimizers.SGD(0.1))
    rows = jax.jit(words)(words.init(), np.array([[1, 2]]))
    np.testing.assert_allclose(rows, values[1:2] + values[2:3], **ROUNDING)
    jax.jit(jax.grad(lambda x: (words(words.init(), np.array([[1, 2]])) * x).sum()))(1.0)
    assert words.optimizer.iterations == 0


def test_a_step_whose_gradient_is_thrown_away():
    """The effect of a backward pass takes place even where nobody uses the zero that it returns."""
    words = embedding(np.zeros((V, D), np.float32), fastembed.optimizers.SGD(1.0))

    @jax.jit
    def step(anchor, head):
        _, head_g = jax.grad(lambda a, h: (words(a, np.array([3])) * h).sum(), (0, 1))(anchor, head)
        return head_g

    step(words.init(), jnp.ones(D))
    assert (weights_of(words)[3] == -1).all()


def test_upstream_that_does_not_depend_on_rows(rng):
    """The look-up still comes before the update, many times, with large operands."""
    values = np.zeros((20_000, 64), np.float32)
    words = bag(values, fastembed.optimizers.SGD(1.0))
    ids = np.arange(20_000).reshape(2000, 10)

    @jax.jit
    def step(anchor):
        (value, rows), gradient = jax.value_and_grad(lambda a: ((r := words(a, ids)).sum(), r), has_aux=True)(anchor)
        return anchor - gradient, value, rows

    anchor = words.init()
    for number in range(50):
        anchor, value, rows = step(anchor)
        assert value == -10.0 * 2000 * 64 * number
        assert (rows == -10.0 * number).all()


# ---- transformations -------------------------------------------------------------------------------------------------


def test_scan_takes_steps_in_order(rng):
    """Several steps in one program: each look-up sees the update before it."""
    values, ids = table(rng), rng.integers(0, V, (20, 4, 3))
    words = bag(values, fastembed.optimizers.SGD(0.01))

    def step(anchor, ids):
        value, gradient = jax.value_and_grad(lambda a: (words(a, ids) ** 2).sum())(anchor)
        return anchor - gradient, value

    def step_of_jax(w, ids):
        value, gradient = jax.value_and_grad(lambda w: (jnp.take(w, ids, axis=0).sum(1) ** 2).sum())(w)
        return w - 0.01 * gradient, value

    _, seen = jax.jit(lambda anchor: jax.lax.scan(step, anchor, ids))(words.init())
    expected_w, expected = jax.lax.scan(step_of_jax, jnp.asarray(values), ids)
    np.testing.assert_allclose(seen, expected, rtol=1e-4)
    np.testing.assert_allclose(weights_of(words), expected_w, rtol=1e-4, atol=1e-5)
    assert words.optimizer.iterations == 20


def test_scan_inside_of_a_loss(rng):
    """A recurrent model: many look-ups with one token, one step."""
    values, ids = table(rng), rng.integers(0, V, (7, 5))
    words = embedding(values, fastembed.optimizers.Adagrad(0.05))

    def run(look_up):
        def cell(state, ids):
            return jnp.tanh(0.5 * state + look_up(ids)), None

        return (jax.lax.scan(cell, jnp.zeros((5, D)), ids)[0] ** 2).sum()

    def loss(anchor):
        token = words.open(anchor)
        return run(lambda ids: words(token, ids))

    jax.jit(jax.grad(loss))(words.init())
    gradient = jax.grad(lambda w: run(lambda ids: jnp.take(w, ids, axis=0)))(jnp.asarray(values))
    first, take_step = dense("Adagrad")
    np.testing.assert_allclose(
        weights_of(words), take_step(jnp.asarray(values), gradient, first, 1)[0], rtol=1e-4, atol=1e-5
    )
    assert words.optimizer.iterations == 1


@pytest.mark.parametrize("inside", ["look-up", "loss"])
def test_checkpoint(inside, rng):
    values, ids = table(rng), rng.integers(0, V, (4, 3))
    words = bag(values, fastembed.optimizers.SGD(0.1))

    def look_up(anchor, ids):
        return jnp.tanh(words(anchor, ids))

    def loss(anchor):
        return ((jax.checkpoint(look_up) if inside == "look-up" else look_up)(anchor, ids) ** 2).sum()

    jax.jit(jax.grad(jax.checkpoint(loss) if inside == "loss" else loss))(words.init())
    gradient = jax.grad(lambda w: (jnp.tanh(jnp.take(w, ids, axis=0).sum(1)) ** 2).sum())(jnp.asarray(values))
    np.testing.assert_allclose(weights_of(words), values - 0.1 * gradient, **ROUNDING)
    assert words.optimizer.iterations == 1


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("uses", ["anchor", "token"])
@pytest.mark.parametrize("kind", ["rows", "bags", "weighted", "ragged"])
def test_vmap(kind, uses, jit, rng):
    """Look-ups as those of each example, twice inside of each other, and one step with the gradient of all."""
    values, ids = table(rng), rng.integers(0, V, (2, 6, 4, 3))
    per_sample = rng.random(ids.shape).astype(np.float32) + 0.5
    splits = np.sort(rng.integers(0, 13, (2, 6, 4)), axis=-1)
    splits = np.concatenate([np.zeros((2, 6, 1), int), splits, np.full((2, 6, 1), 12)], axis=-1)
    words = (embedding if kind == "rows" else bag)(values, fastembed.optimizers.SGD(0.1))

    def given(ids, weights, splits):
        return {
            "rows": (ids,),
            "bags": (ids,),
            "weighted": (ids, weights),
            "ragged": (fastembed.Ragged._trusted(ids.reshape(-1), splits), weights.reshape(-1)),
        }[kind]

    def take(w, ids, weights, splits):
        rows = jnp.take(w, ids, axis=0)
        if kind == "ragged":
            of_bags = jnp.searchsorted(splits, jnp.arange(12), side="right") - 1
            return jax.ops.segment_sum(rows.reshape(12, D) * weights.reshape(12, 1), of_bags, num_segments=5)
        rows = rows * weights[..., None] if kind == "weighted" else rows
        return rows if kind == "rows" else rows.sum(1)

    def loss(anchor, per_sample):
        token = words.open(anchor) if uses == "token" else anchor
        return (jax.vmap(jax.vmap(lambda *x: words(token, *given(*x))))(ids, per_sample, splits) ** 2).sum()

    def loss_of_jax(w, per_sample):
        return (jax.vmap(jax.vmap(lambda *x: take(w, *x)))(ids, per_sample, splits) ** 2).sum()

    gradient = jax.value_and_grad(loss, (0, 1))
    value, (_, of_weights) = (jax.jit(gradient) if jit else gradient)(words.init(), per_sample)
    expected, (gradient, expected_of_weights) = jax.value_and_grad(loss_of_jax, (0, 1))(jnp.asarray(values), per_sample)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(weights_of(words), values - 0.1 * gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_weights, expected_of_weights, rtol=1e-4, atol=1e-4)
    assert words.optimizer.iterations == 1


def test_gradients_of_single_examples(rng):
    """`vmap` of `grad`: one step with the sum."""
    values, ids = table(rng), rng.integers(0, V, (6, 4, 3))
    words = bag(values, fastembed.optimizers.Adagrad(0.05))
    grads = jax.jit(jax.vmap(jax.grad(lambda a, ids: (words(a, ids) ** 2).sum()), (None, 0)))(words.init(), ids)
    assert grads.tolist() == [0] * 6
    gradient = jax.grad(lambda w: (jnp.take(w, ids, axis=0).sum(2) ** 2).sum())(jnp.asarray(values))
    first, take_step = dense("Adagrad")
    expected = take_step(jnp.asarray(values), gradient, first, 1)[0]
    np.testing.assert_allclose(weights_of(words), expected, rtol=1e-4, atol=1e-5)
    assert words.optimizer.iterations == 1


def test_many_uses_give_the_same_bits(rng):
    """In whichever order XLA's threads hand over the gradients."""
    values, ids = table(rng, 500, 64), rng.integers(0, 500, (12, 300, 4))
    results = []
    for _ in range(5):
        words = bag(values, fastembed.optimizers.SGD(0.1))

        def loss(anchor, words=words):
            token = words.open(anchor)
            return sum((jnp.tanh(words(token, part)) ** 2).sum() for part in ids)

        step, anchor = jax.jit(lambda anchor, loss=loss: anchor - jax.grad(loss)(anchor)), words.init()
        for _ in range(5):
            anchor = step(anchor)
        results.append(weights_of(words).copy())
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_without_jit_and_with_donated_buffers(rng):
    values, ids = table(rng), rng.integers(0, V, (4, 3))
    results = []

    def step(words, anchor, ids):
        return anchor - jax.grad(lambda a: (words(a, ids) ** 2).sum())(anchor)

    def donating(words):
        return jax.jit(lambda anchor, ids: step(words, anchor, ids), donate_argnums=0)

    for how in ("jit", "eager", "disabled", "donated"):
        words = bag(values, fastembed.optimizers.Adam(0.05))
        taken = donating(words) if how == "donated" else lambda *given, words=words: step(words, *given)
        taken = jax.jit(taken) if how == "jit" else taken
        anchor = words.init()
        with jax.disable_jit(how == "disabled"):
            for _ in range(3):
                anchor = taken(anchor, ids)
        results.append(weights_of(words))
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert not np.array_equal(results[0], values)


def test_functions_without_a_tape(rng):
    values, ids = table(rng), np.array([[1, 2], [2, 2]])
    layer = fastembed.EmbeddingBag(V, D, "sum", weights=values)
    optimizer = fastembed.optimizers.SGD(0.5)

    @jax.jit
    def steps(ids):
        done = None
        for _ in range(4):
            rows = fastembed.jax.look_up(layer, ids, after=done)
            done = fastembed.jax.update(layer, optimizer, ids, jnp.ones_like(rows))
        return fastembed.jax.look_up(layer, ids, after=done)

    rows = steps(ids)
    expected = values.copy()
    expected[1] -= 4 * 0.5
    expected[2] -= 4 * 0.5 * 3
    np.testing.assert_allclose(rows, expected[ids].sum(1), **ROUNDING)
    assert optimizer.iterations == 4
    with pytest.raises(TypeError, match="`optimizer` must be a fastembed"):
        fastembed.jax.update(layer, "sgd", ids, rows)
    with pytest.raises(ValueError, match=r"`upstream` must have shape \(2, 8\)"):
        fastembed.jax.update(layer, optimizer, ids, rows[:1])


def test_functions_without_a_tape_take_what_layers_take(rng):
    values, wide = table(rng), fastembed.jax.Ids([[1, 2], [3, 3]])
    layer, plain = (fastembed.EmbeddingBag(V, D, "sum", weights=values) for _ in range(2))
    optimizer, other = fastembed.optimizers.Adam(0.1), fastembed.optimizers.Adam(0.1)
    ragged, weights = fastembed.Ragged.from_lists([[1, 2, 2], [], [4]]), np.float32([1, 2, 3, 4])
    for ids, given in ((wide, None), (ragged, weights), (ragged, ragged.with_values(weights))):
        own = ids if ids is ragged else wide.numpy()
        rows = jax.jit(lambda ids, given: fastembed.jax.look_up(layer, ids, given))(ids, given)
        assert np.array_equal(rows, plain(own, given))
        jax.block_until_ready(fastembed.jax.update(layer, optimizer, ids, rows, given))
        other.apply([plain.gradient(own, np.asarray(rows), given)], [plain.embeddings])
        assert np.array_equal(layer.embeddings.numpy(), plain.embeddings.numpy())
    both = jax.vmap(lambda ids: fastembed.jax.look_up(layer, ids))(np.array([[[1, 2]], [[3, 4]]]))
    assert np.array_equal(both[:, 0], plain([[1, 2], [3, 4]]))
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda x: fastembed.jax.look_up(layer, ragged, x).sum())(weights)


# ---- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_dtypes_of_ids(dtype, rng):
    values = table(rng)
    words = embedding(values, None)
    ids = rng.integers(0, V, (3, 4)).astype(dtype)
    assert np.array_equal(words(words.init(), ids), values[ids])
    assert np.array_equal(jax.jit(words)(words.init(), ids), values[ids])
    assert np.array_equal(words(words.init(), ids.tolist()), values[ids])
    for empty in (ids[:0], ids[:, :0], []):
        assert words(words.init(), empty).shape == (*np.shape(empty), D)


def test_ids_of_64_bits(rng):
    """Ids that differ by 2^32 stay different, through jit, scan, vmap and the update."""
    rows = (1 << 32) + 10
    words = fastembed.jax.Embedding(rows, 1, initializer(rng), lazy=True, optimizer=fastembed.optimizers.SGD(1.0))
    ids = np.array([[5, (1 << 32) + 5, 7], [(1 << 31) + 1, 1, 0]])
    with pytest.raises(TypeError, match=r"must have 64 bits.* Received: dtype int32"):
        words(words.init(), jnp.array([1, 2]))
    before = words.layer(ids)
    wide = fastembed.jax.Ids(ids)
    assert np.array_equal(words(words.init(), ids), before)  # becomes Ids by itself
    assert np.array_equal(jax.jit(words)(words.init(), wide), before)
    assert np.array_equal(jax.vmap(lambda ids: words(words.init(), ids))(wide), before)
    assert np.array_equal(jax.lax.scan(lambda a, ids: (a, words(a, ids)), words.init(), wide)[1], before)
    assert np.array_equal(words(words.init(), wide.reshape(-1)[1:3]), before.reshape(-1, 1)[1:3])

    jax.jit(jax.grad(lambda anchor, ids: words(anchor, ids).sum()))(words.init(), wide)
    np.testing.assert_allclose(words.layer(ids), before - 1)


def initializer(rng):
    return fastembed.initializers.RandomUniform(-1, 1, seed=3)


def test_the_class_of_wide_ids():
    ids = fastembed.jax.Ids([[1, -(1 << 40)], [3, (1 << 40)]])
    assert ids.shape == (2, 2) and ids.ndim == 2 and len(ids) == 2 and "(2, 2)" in repr(ids)
    assert ids.numpy().tolist() == [[1, -(1 << 40)], [3, 1 << 40]]
    assert ids[0].numpy().tolist() == [1, -(1 << 40)]
    assert ids.reshape((4,)).reshape(1, 4).shape == (1, 4)
    assert fastembed.jax.Ids(np.zeros((0, 3), np.int64)).numpy().shape == (0, 3)
    with pytest.raises(TypeError, match="`ids` must be integers"):
        fastembed.jax.Ids([1.0])
    with pytest.raises(ValueError, match=r"`ids` must be below 2\*\*63"):
        fastembed.jax.Ids(np.array([1 << 63], np.uint64))


def test_with_x64(run_python):
    """int64 ids and tables of float64, as they are."""
    run_python(
        """
        import jax, numpy as np
        jax.config.update("jax_enable_x64", True)
        import jax.numpy as jnp
        import fastembed
        rows = (1 << 32) + 10
        initializer = fastembed.initializers.RandomUniform(-1, 1, seed=3)
        words = fastembed.jax.Embedding(rows, 1, initializer, lazy=True, optimizer=fastembed.optimizers.SGD(1.0))
        ids = jnp.array([5, (1 << 32) + 5])
        before = words.layer(np.asarray(ids))
        assert np.array_equal(jax.jit(words)(words.init(), ids), before)
        jax.jit(jax.grad(lambda a: words(a, ids).sum()))(jnp.zeros(()))  # an anchor of float64
        assert np.allclose(words.layer(np.asarray(ids)), before - 1)

        values = np.random.default_rng(1).standard_normal((9, 3))
        bags = fastembed.jax.EmbeddingBag(9, 3, "mean", weights=values, dtype="float64", optimizer="sgd")
        ids, weights = np.array([[1, 2], [3, 3]]), np.array([[0.5, 1.5], [1.0, 2.0]])

        def loss(anchor, weights):
            rows = bags(anchor, ids, weights)
            assert rows.dtype == np.float64
            return (rows**2).sum()

        def loss_of_jax(w, weights):
            pooled = (jnp.take(w, ids, axis=0) * weights[..., None]).sum(1) / weights.sum(1, keepdims=True)
            return (pooled**2).sum()

        got = jax.jit(jax.grad(loss, (0, 1)))(bags.init(), weights)
        expected = jax.grad(loss_of_jax, (0, 1))(values, weights)
        assert np.allclose(got[1], expected[1], rtol=1e-12)
        assert np.allclose(bags.layer.embeddings.numpy(), values - 0.01 * expected[0], rtol=1e-12)
        """
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16"])
def test_storage_dtypes(dtype, rng):
    words = bag(table(rng), fastembed.optimizers.SGD(0.1, rounding="nearest"), dtype=dtype)
    before, ids = words.layer.embeddings.to_real().copy(), np.array([[1, 2], [2, 2]])
    rows = words(words.init(), ids)
    assert rows.dtype == words.layer.compute_dtype
    np.testing.assert_allclose(rows, before[ids].sum(1), rtol=2e-3, atol=2e-3)
    jax.jit(jax.grad(lambda a: words(a, ids).astype(jnp.float32).sum()))(words.init())
    expected = before.copy()
    expected[1] -= 0.1
    expected[2] -= 0.3
    np.testing.assert_allclose(words.layer.embeddings.to_real(), expected, rtol=1e-2, atol=1e-2)


def test_float64_needs_x64(rng):
    with pytest.raises(TypeError, match="float64 needs JAX with `jax_enable_x64`"):
        words = fastembed.jax.Embedding(9, 2, dtype="float64")
        words(words.init(), [1])


# ---- ragged ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit", [False, True])
def test_ragged(jit, rng):
    values = table(rng)
    lists = [[1, 2, 2], [], [3], [4, 1]]
    ragged = fastembed.Ragged.from_lists(lists)
    per_sample = rng.random(6).astype(np.float32)
    for combiner in ("sum", "mean", "max"):
        plain = fastembed.EmbeddingBag(V, D, combiner, weights=values)
        words = bag(values, fastembed.optimizers.Adagrad(0.05), combiner)
        head = rng.standard_normal((4, D)).astype(np.float32)

        def loss(anchor, ragged, weights, words=words, head=head):
            return jnp.vdot(words(anchor, ragged, weights), head)

        rows = (jax.jit if jit else lambda f: f)(lambda *given, words=words: words(*given))
        assert np.array_equal(rows(words.init(), ragged, per_sample), plain(ragged, per_sample))
        gradient = jax.grad(loss, (0, 2))
        _, of_weights = (jax.jit(gradient) if jit else gradient)(words.init(), ragged, per_sample)
        np.testing.assert_allclose(of_weights, plain.weights_gradient(ragged, head, per_sample), rtol=1e-5)
        optimizer = fastembed.optimizers.Adagrad(0.05)
        optimizer.apply([plain.gradient(ragged, head, per_sample)], [plain.embeddings])
        assert np.array_equal(weights_of(words), plain.embeddings.numpy())

    words = embedding(values, fastembed.optimizers.SGD(1.0))
    rows = (jax.jit(words) if jit else words)(words.init(), ragged)
    assert isinstance(rows, fastembed.Ragged)
    assert np.array_equal(rows.values, values[ragged.values])
    assert rows.row_splits.tolist() == [0, 3, 3, 4, 6]
    jax.grad(lambda anchor, ids: words(anchor, ids).values.sum())(words.init(), ragged)
    np.testing.assert_allclose(weights_of(words)[2], values[2] - 2, **ROUNDING)
    with pytest.raises(ValueError, match="ragged rank 1"):
        words(words.init(), fastembed.Ragged.from_lists([[[1]]]))


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, V])
@pytest.mark.parametrize("jit", [False, True])
def test_ids_outside_of_the_table(bad, jit, rng):
    """The position reaches the user, nothing is written, and the next step is as if this one had not been there."""
    values, good = table(rng), np.array([[1, 2], [3, 3]])
    words, other = bag(values, fastembed.optimizers.Adam(0.05)), bag(values, fastembed.optimizers.Adam(0.05))
    ids = good.copy()
    ids[1, 0] = bad

    def loss(anchor, ids):
        token = words.open(anchor)
        return (words(token, good) ** 2).sum() + (words(token, ids) ** 2).sum()

    gradient = jax.jit(jax.grad(loss)) if jit else jax.grad(loss)
    message = rf"IndexError: `ids` must lie in \[0, 50\).*ids\[1, 0\] = {bad}"
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=message):
        jax.block_until_ready(gradient(words.init(), ids))
    assert np.array_equal(weights_of(words), values)
    assert words.optimizer.iterations == 0
    jax.grad(lambda a: (words(a, good) ** 2).sum())(words.init())
    jax.grad(lambda a: (other(a, good) ** 2).sum())(other.init())
    assert np.array_equal(weights_of(words), weights_of(other))


def test_wrong_arguments(rng):
    words, rows = bag(table(rng), None), embedding(table(rng), None)
    anchor = words.init()
    for given, error, message in [
        ((jnp.ones(2), [[1]]), ValueError, r"`anchor` must be a scalar. Received: shape \(2,\)"),
        ((anchor, [[1.0]]), TypeError, "`ids` must be integers. Received: dtype float"),
        ((anchor, jnp.ones((2, 2))), TypeError, "`ids` must be integers. Received: dtype float32"),
        ((anchor, [1, 2]), ValueError, r"`ids` must have shape \(batch, k\).*Received: shape \(2,\)"),
        ((anchor, [[1, 2]], [1.0]), ValueError, r"`weights` must have the shape of ids, \(1, 2\)"),
    ]:
        with pytest.raises(error, match=message):
            words(*given)
    with pytest.raises(ValueError, match="`anchor` must be a scalar"):
        jax.jit(words)(jnp.ones(2), [[1]])
    with pytest.raises(ValueError, match="`weights` must be None"):
        rows(anchor, [1], [1.0])
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: `row_splits` must"):
        jax.jit(words)(anchor, fastembed.Ragged._trusted(jnp.array([1, 2]), jnp.array([0, 3, 2])))
    optimizer = fastembed.optimizers.SGD(0.1)
    words.optimizer = optimizer
    with pytest.raises(ValueError, match="must train one layer"):
        rows.optimizer = optimizer


def test_a_program_that_outlives_its_layer(rng):
    def make():
        words = embedding(table(rng), None)
        compiled = jax.jit(lambda anchor: words(anchor, np.array([1]))).lower(words.init()).compile()
        return compiled, words.init()

    compiled, anchor = make()
    jax.clear_caches()
    gc.collect()
    with pytest.raises(jax.errors.JaxRuntimeError, match="must not outlive"):
        compiled(anchor)


# ---- the rest of a training ------------------------------------------------------------------------------------------


def training(words, steps, ids):
    """Takes steps of a small model."""

    @jax.jit
    def step(anchor, ids):
        return anchor - jax.grad(lambda a: (jnp.tanh(words(a, ids)) ** 2).sum())(anchor)

    anchor = words.init()
    for number in steps:
        anchor = step(anchor, ids[number])


@pytest.mark.parametrize("name", ["Adam", "RowwiseAdagrad"])
def test_saves_and_goes_on(name, rng, tmp_path):
    """The bits of training that never stopped."""
    values, ids = table(rng), rng.integers(0, V, (10, 4, 3))
    make = getattr(fastembed.optimizers, name)
    schedule = fastembed.schedules.ExponentialDecay(0.1, 2, 0.5)
    straight = bag(values, make(schedule))
    training(straight, range(10), ids)

    stopped = bag(values, make(schedule))
    training(stopped, range(6), ids)
    fastembed.Checkpoint(stopped.layer, stopped.optimizer).save(tmp_path / "training")
    stopped.layer.save(tmp_path / "words")
    assert np.array_equal(fastembed.load(tmp_path / "words").embeddings.numpy(), weights_of(stopped))

    further = bag(np.zeros_like(values), make(schedule))
    fastembed.Checkpoint(further.layer, further.optimizer).restore(tmp_path / "training")
    training(further, range(6, 10), ids)
    assert np.array_equal(weights_of(further), weights_of(straight))
    assert further.optimizer.iterations == 10


def test_the_layer_waits_for_steps(rng):
    """`words.layer` is what all steps that were started make of it, though JAX returns before they are taken."""
    words = bag(np.zeros((20_000, 64), np.float32), fastembed.optimizers.SGD(1.0))
    ids = jnp.arange(100_000).reshape(-1, 10) % 20_000

    @jax.jit
    def step(anchor):
        return anchor - jax.grad(lambda a: words(a, ids).sum())(anchor)

    anchor = words.init()
    for number in range(1, 31):
        anchor = step(anchor)
        if number % 10 == 0:
            assert (weights_of(words) == -5 * number).all()


@pytest.mark.parametrize(
    ("arguments", "optimizer"),
    [
        ({}, {"gradient_accumulation_steps": 3}),
        ({}, {"untouched": "catch_up", "weight_decay": 0.01}),
        ({}, {"clipnorm": 0.1, "use_ema": True}),
        ({"embeddings_regularizer": "l2", "activity_regularizer": "l2"}, {}),
        ({"mask_zero": True}, {"state_dtype": "bfloat16"}),
        ({"padding_idx": 3}, {}),
        ({"embeddings_constraint": fastembed.constraints.MaxNorm(1.0, axis=1)}, {}),
        ({"lazy": True, "embeddings_initializer": fastembed.initializers.RandomUniform(seed=1)}, {}),
        ({"combiner": "max"}, {}),
        ({"dtype": "bfloat16"}, {}),
    ],
    ids=str,
)
def test_the_bits_of_the_plain_library(arguments, optimizer, rng):
    ids, upstream = rng.integers(0, V, (6, 4, 3)), rng.standard_normal((6, 4, D)).astype(np.float32)
    values = {} if "lazy" in arguments else {"weights": table(rng)}
    made = [fastembed.EmbeddingBag(V, D, **{"combiner": "sum", **values, **arguments}) for _ in range(2)]
    plain, words = made[0], fastembed.jax.wrap(made[1], fastembed.optimizers.Adam(0.05, **optimizer))
    chosen = fastembed.optimizers.Adam(0.05, **optimizer)

    @jax.jit
    def step(anchor, ids, upstream):
        rows, pull = jax.vjp(lambda anchor: words(anchor, ids), anchor)
        return rows, anchor - pull(upstream)[0]

    anchor = words.init()
    for number in range(6):
        rows, anchor = step(anchor, ids[number], upstream[number])
        assert np.array_equal(rows, plain(ids[number]))
        chosen.apply([plain.gradient(ids[number], upstream[number])], [plain.embeddings])
    assert np.array_equal(words.layer(ids[0]), plain(ids[0]))
    assert np.array_equal(words.layer.embeddings.to_real(), plain.embeddings.to_real())


def test_lora(rng):
    layer = fastembed.EmbeddingBag(V, D, "sum", weights=table(rng))
    layer.enable_lora(2)
    words = fastembed.jax.wrap(layer, fastembed.optimizers.SGD(0.1))
    before = [w.copy() for w in layer.get_weights()]
    ids = np.array([[1, 2], [3, 3]])
    upstream = rng.standard_normal((2, D)).astype(np.float32)
    expected = [g.to_dense() if hasattr(g, "to_dense") else g for g in layer.lora_gradients(ids, upstream)]
    jax.jit(jax.grad(lambda a: jnp.vdot(words(a, ids), upstream)))(words.init())
    after = words.layer.get_weights()
    assert np.array_equal(after[0], before[0])
    for new, old, gradient in zip(after[1:], before[1:], expected, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * gradient, **ROUNDING)


def test_threads(run_python):
    """Several threads train one layer, each with programs of its own: every step is taken, and none hangs."""
    run_python(
        """
        import threading
        import jax, numpy as np
        import jax.numpy as jnp
        import fastembed

        words = fastembed.jax.EmbeddingBag(20_000, 64, "sum", "zeros", optimizer=fastembed.optimizers.SGD(1.0))
        ids = jnp.arange(40_000).reshape(-1, 20) % 20_000
        words.init()

        def train():
            step = jax.jit(lambda a: a - jax.grad(lambda a: words(a, ids).sum())(a))
            anchor = words.init()
            for _ in range(25):
                anchor = step(anchor)
            anchor.block_until_ready()

        threads = [threading.Thread(target=train) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert words.optimizer.iterations == 150
        assert (words.layer.embeddings.numpy() == -300).all()
        """,
        timeout=120,
    )


@pytest.mark.parametrize("what", ["look-up", "step"])
def test_the_end_of_a_process(what, run_python):
    """A program that is still running then neither hangs nor crashes; a step is taken."""
    run_python(
        """
        import sys
        import jax, numpy as np
        import jax.numpy as jnp
        import fastembed

        words = fastembed.jax.Embedding(20_000, 64, "zeros", optimizer=fastembed.optimizers.SGD(1.0))
        ids = jnp.arange(400_000) % 20_000
        run = words if sys.argv[1] == "look-up" else jax.grad(lambda a, ids: words(a, ids).sum())
        run = jax.jit(run)
        anchor = words.init()
        for _ in range(3):
            run(anchor, ids)
        """,
        what,
    )


@pytest.mark.parametrize("flags", ["", "--xla_cpu_multi_thread_eigen=false"])
def test_many_steps_with_large_operands(flags, run_python):
    """27 MB of rows and of gradients in each step, dispatched without waiting, on one processor too; nothing hangs."""
    run_python(
        """
        import os, sys
        if os.environ["XLA_FLAGS"] and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
        import jax, numpy as np
        import jax.numpy as jnp
        import fastembed

        words = fastembed.jax.Embedding(20_000, 64, "zeros", optimizer=fastembed.optimizers.SGD(1.0))
        ids = jnp.arange(106_496) % 20_000
        step = jax.jit(lambda a, s, ids: (a - jax.grad(lambda a: (words(a, ids) * s).sum())(a), s * 1.0))
        anchor, scale = words.init(), jnp.ones((106_496, 64))
        for _ in range(60):
            anchor, scale = step(anchor, scale, ids)
        counts = np.bincount(np.arange(106_496) % 20_000)[:, None]
        assert (words.layer.embeddings.numpy() == -60 * counts).all()
        """,
        timeout=180,
        XLA_FLAGS=flags,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_looks_up(run_python):
    printed = run_python(
        """
        import os, signal, time
        import jax, numpy as np
        import jax.numpy as jnp
        import fastembed

        words = fastembed.jax.EmbeddingBag(20_000, 64, "sum", "zeros", optimizer=fastembed.optimizers.SGD(1.0))
        ids = np.arange(40_000).reshape(-1, 20) % 20_000
        step = jax.jit(lambda a: a - jax.grad(lambda a: words(a, jnp.asarray(ids)).sum())(a))
        step(words.init())
        layer, optimizer = words.layer, words.optimizer
        pid = os.fork()
        if pid == 0:
            assert (layer(ids) == -40).all()
            optimizer.apply([layer.gradient(ids, np.ones((2000, 64), np.float32))], [layer.embeddings])
            assert (layer(ids) == -80).all()
            os._exit(0)
        end = time.monotonic() + 30
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        assert status == 0
        step(words.init())
        assert (words.layer(ids) == -80).all()
        print("good")
        """,
        PYTHONWARNINGS="ignore",
    )
    assert printed == "good\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_memory(run_python):
    """No temporary of the table's size: steps on 2,000,000 x 64 take the table, the state and less than 100 MB."""
    printed = run_python(
        """
        import re
        import jax, numpy as np
        import jax.numpy as jnp
        import fastembed

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

        def train(rows):
            words = fastembed.jax.EmbeddingBag(rows, 64, "sum", "zeros", optimizer=fastembed.optimizers.Adam(0.01))
            step = jax.jit(lambda a, ids: a - jax.grad(lambda a: jnp.tanh(words(a, ids)).sum())(a))
            anchor = words.init()
            for number in range(5):
                ids = np.random.default_rng(number).integers(0, rows, (4096, 26))
                anchor = step(anchor, ids)
            anchor.block_until_ready()

        train(1000)
        small = peak()
        train(2_000_000)
        print(peak() - small - 3 * 2_000_000 * 64 * 4 / 2**20)
        """,
        timeout=120,
    )
    assert float(printed) < 100


EXAMPLE = Path(__file__).parents[1] / "examples" / "jax_model.py"


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are in the checkout alone")
def test_example(run_python):
    """examples/jax_model.py learns something that it has not seen."""
    printed = run_python(
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')",
        EXAMPLE,
        "--quick",
        timeout=180,
    )
    before, after = map(float, re.search(r"held-out text: (\S+) .* untrained, (\S+) trained", printed).groups())
    assert 6 < before < 7 and after < 3


def test_docstrings():
    """Everything public has one."""
    for module in (fastembed.jax, fastembed.jax.core, fastembed.jax.ffi, fastembed.jax.ids):
        assert [name for name, thing in public(module) if not inspect.getdoc(thing)] == []
