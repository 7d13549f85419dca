"""gather, pool, reduce and update on plain arrays against the oracle."""

import numpy as np
import pytest
import reference as ref

import fastembed
from fastembed import ops

DIMS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000]
COMBINERS = ["sum", "mean", "sqrtn", "max"]
STEPS = [step for step in ops.STATES if step not in ref.SEVERAL_PASSES]
GIVEN = {"momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-3}
SMALL = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
LARGE = ["int64", "uint64", "longlong", ">i4", ">i8"]
FLOATS = ["float16", "float32", "float64", ">f8"]
CHUNK = 512


def close(actual, expected, scale=1.0):
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6 * scale)


def argmax_of(combiner, table, ids, splits, weights, padding_idx):
    return ops.argmax(table, ids, splits, weights, padding_idx) if combiner == "max" else None


@pytest.mark.parametrize("d", DIMS)
def test_gather(d, rng, guarded):
    table, ids = guarded(ref.random_table(rng, 50, d)), ref.random_ids(rng, 70, 50)
    out = guarded(np.zeros((70, d), np.float32))
    assert ops.gather(table, ids, out=out) is out
    assert np.array_equal(out, ref.gather(table, ids))
    assert np.array_equal(ops.gather(table, ids), out)


def test_gather_past_the_caches(rng, guarded):
    """Large results go another way to memory, from 4 MiB on, aligned or not."""
    for d in (16, 64, 100):
        table, ids = ref.random_table(rng, 1000, d), ref.random_ids(rng, 70_000, 1000)
        out = guarded(np.zeros((70_000, d), np.float32))
        assert np.array_equal(ops.gather(table, ids, out=out), table[ids])
        assert np.array_equal(ops.gather(table, ids), table[ids])


@pytest.mark.parametrize("dtype", SMALL + LARGE + FLOATS)
def test_id_dtypes(dtype, rng):
    table = ref.random_table(rng, 100, 5)
    ids = ref.random_ids(rng, 60, 100)
    given = ids.astype(dtype)
    splits = ref.random_splits(rng, 60, 9)
    upstream = rng.standard_normal((60, 5))
    assert np.array_equal(ops.gather(table, given), table[ids])
    assert np.array_equal(ops.pool(table, given, splits), ops.pool(table, ids, splits))
    assert np.array_equal(ops.pool(table, given, splits.astype(np.int32)), ops.pool(table, ids, splits))
    for a, b in zip(reduced(given, upstream, 100), reduced(ids, upstream, 100), strict=True):
        assert np.array_equal(a, b)


def reduced(ids, upstream, v, *args, **kwargs):
    parts = ops.parts(ids, upstream, *args, **kwargs)
    return ops.reduce(parts, ops.group(parts, v))


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 1, 3), (0,), (0, 3), (3, 0), (2, 0, 0)], ids=str)
def test_shapes_and_strides(shape, rng):
    table = ref.random_table(rng, 40, 6)
    ids = np.asarray(rng.integers(0, 40, shape))
    wide = np.zeros((*(2 * n for n in shape), 2), np.int64)
    strided = wide[(*(slice(None, None, 2) for _ in shape), ..., 1)]
    strided[...] = ids
    backwards = ids[tuple(slice(None, None, -1) for _ in shape)]
    lists = [ids.tolist()] if ids.size else []  # a list does not tell the shape of nothing
    for given in (ids, np.array(ids, order="F"), strided, strided.astype(np.int32), *lists):
        assert np.array_equal(ops.gather(table, given), ref.gather(table, ids))
    assert np.array_equal(ops.gather(table, backwards), ref.gather(table, backwards))
    assert ops.gather(table, ids).shape == (*shape, 6)


def test_unaligned_ids(rng):
    ids = rng.integers(0, 40, 9)
    unaligned = np.frombuffer(b"x" + ids.tobytes(), np.int64, offset=1)
    table = ref.random_table(rng, 40, 6)
    assert np.array_equal(ops.gather(table, unaligned), table[ids])


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("d", DIMS)
def test_pool_and_gradients(d, combiner, rng, guarded):
    v, n, b = 30, 90, 20
    table = guarded(ref.random_table(rng, v, d))
    ids, splits = ref.random_ids(rng, n, v), ref.random_splits(rng, n, b)
    ids[splits[3] : splits[4]] = 0  # a bag of padding alone
    upstream = rng.standard_normal((b, d)).astype(np.float32)
    signed = rng.uniform(0.5, 2, n).astype(np.float32) * rng.choice([-1, 1, 1], n).astype(np.float32)
    for weights in (None, rng.uniform(0.5, 2, n).astype(np.float32), signed if combiner != "mean" else None):
        for padding_idx in (None, 0, v - 1):
            given = (weights, combiner, padding_idx)
            out = guarded(np.zeros((b, d), np.float32))
            assert ops.pool(table, ids, splits, weights, combiner, out, padding_idx) is out
            close(out, ref.pool(table, ids, splits, *given))
            assert np.array_equal(ops.pool(table, ids, splits, *given[:2], padding_idx=padding_idx), out)

            dense, touched = ref.pool_gradient(table, ids, splits, upstream, *given)
            arg = argmax_of(combiner, table, ids, splits, weights, padding_idx)
            rows, values = reduced(ids, upstream, v, splits, *given, argmax=arg)
            assert rows.tolist() == sorted(touched)
            close(values, dense[rows], scale=10)

            if weights is not None:
                gradient = ops.weights_gradient(table, ids, splits, weights, combiner, upstream, padding_idx)
                close(gradient, ref.weights_gradient(table, ids, splits, upstream, *given), scale=10 * d**0.5)


def test_pool_of_many_and_of_long_bags(rng):
    """Bags longer than a block of pointers, and more bags than a thread takes at a time."""
    table = ref.random_table(rng, 300, 9)
    for lengths in ([5000, 0, 1, 2500], [0, 1, 2] * 3000, [40] * 300):
        splits = np.concatenate([[0], np.cumsum(lengths)])
        ids = ref.random_ids(rng, splits[-1], 300)
        weights = rng.uniform(0.5, 2, len(ids))
        for combiner in COMBINERS:
            for w, padding_idx in ((None, None), (weights, None), (weights, 1)):
                expected = ref.pool(table, ids, splits, w, combiner, padding_idx)
                actual = ops.pool(table, ids, splits, w, combiner, padding_idx=padding_idx)
                np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-3)


def test_max_ties_and_nan():
    table = np.array([[1, 2], [1, 5], [np.nan, 0], [-1, -1]], np.float32)
    splits = np.array([0, 2, 4, 5])
    assert ops.argmax(table, np.array([0, 1, 0, 0, 3]), splits).tolist() == [[0, 1], [0, 0], [0, 0]]
    pooled = ops.pool(table, [0, 2, 2, 0, 3], splits, combiner="max")
    assert np.isnan(pooled[:2, 0]).all()
    assert pooled[2].tolist() == [-1, -1]


def test_weights_that_sum_to_zero():
    table = np.ones((2, 3), np.float32)
    for weights, combiner in (([1.0, -1.0], "mean"), ([0.0, 0.0], "mean"), ([0.0, 0.0], "sqrtn")):
        assert ops.pool(table, [0, 1], [0, 2], weights, combiner).tolist() == [[0, 0, 0]]
        upstream = np.ones((1, 3))
        assert reduced([0, 1], upstream, 2, [0, 2], weights, combiner)[1].tolist() == [[0, 0, 0]] * 2
        gradient = ops.weights_gradient(
            table, np.array([0, 1]), np.array([0, 2]), np.array(weights), combiner, upstream
        )
        assert gradient.tolist() == [0, 0]


def in_chunks(vectors):
    """The promised order: float32, one after the other in chunks of 512, then the sums of the chunks."""
    total = None
    for start in range(0, len(vectors), CHUNK):
        chunk = np.add.accumulate(vectors[start : start + CHUNK], axis=0, dtype=np.float32)[-1]
        total = chunk if total is None else total + chunk
    return total


@pytest.mark.parametrize("d", [1, 17, 64])
def test_hot_rows(d, rng):
    """Rows with far more than 10,000 duplicates, next to rare ones: the value, and the promised bits."""
    n, v = 60_000, 500
    ids = rng.integers(0, v, n)
    ids[rng.random(n) < 0.4] = 7
    ids[rng.random(n) < 0.3] = v - 1
    ids[: CHUNK + 1] = 3
    upstream = rng.standard_normal((n, d)).astype(np.float32)
    rows, values = reduced(ids, upstream, v)
    dense, touched = ref.gather_gradient((v, d), ids, upstream)
    assert rows.tolist() == sorted(touched)
    np.testing.assert_allclose(values, dense[rows], rtol=1e-3, atol=1e-3)
    assert max(np.bincount(ids)[[7, v - 1]]) > 10_000
    for row, value in zip(rows, values, strict=True):
        assert np.array_equal(value, in_chunks(upstream[ids == row])), row

    table = np.zeros((v, d), np.float32)
    ops.update(table, ops.parts(ids, upstream), "sgd", {"learning_rate": 1.0})
    assert np.array_equal(table[rows], -values)

    splits = np.arange(0, n + 1, 10)
    bags = rng.standard_normal((n // 10, d)).astype(np.float32)
    _, values = reduced(ids, bags, v, splits)
    per_id = np.repeat(bags, 10, axis=0)
    for row, value in zip(rows, values, strict=True):
        assert np.array_equal(value, in_chunks(per_id[ids == row])), row


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_upstream_dtypes_and_strides(dtype, rng):
    ids, splits = ref.random_ids(rng, 50, 20), ref.random_splits(rng, 50, 8)
    plain = rng.standard_normal((50, 6)).astype(dtype)
    weights = rng.uniform(1, 2, 50).astype(dtype)
    wide = np.zeros((100, 12), dtype)
    wide[::2, ::2] = plain
    wide_weights = np.zeros(100, dtype)
    wide_weights[::2] = weights
    for given in (wide[::2, ::2], np.asfortranarray(plain)):
        values = reduced(ids, given, 20)[1]
        assert values.dtype == dtype
        assert np.array_equal(values, reduced(ids, plain, 20)[1])
    expected = reduced(ids, plain[:8], 20, splits, weights)
    actual = reduced(ids, wide[:16:2, ::2], 20, splits, wide_weights[::2])
    assert np.array_equal(actual[1], expected[1])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("d", DIMS)
def test_update(d, step, rng, guarded):
    v, n = 40, 60
    table = guarded(ref.random_table(rng, v, d))
    width = ops.state_width(step, d)
    start = ops.state_parts(step, d).get("accumulator")
    state = guarded(np.zeros((v, width), np.float32)) if width else None
    if start:
        state[:, start] = 0.1
    wanted, wanted_state = table.astype(np.float64), ref.initial_state(step, (v, d), accumulator=0.1)
    for t in range(1, 4):
        ids = ref.random_ids(rng, n, v // t)
        upstream = rng.standard_normal((n, d)).astype(np.float32)
        before, state_before = table.copy(), None if state is None else state.copy()
        ops.update(table, ops.parts(ids, upstream), step, ref.hyper(step, t, 0.1, **GIVEN), state)
        gradient, touched = ref.gather_gradient((v, d), ids, upstream)
        ref.step(step, wanted, wanted_state, gradient, touched, t, 0.1, **GIVEN)
        close(table, wanted, scale=10)
        untouched = sorted(set(range(v)) - touched)
        assert np.array_equal(table[untouched], before[untouched])
        if width:
            close(state, np.concatenate([x.reshape(v, -1) for x in wanted_state.values()], axis=1), scale=30)
            assert np.array_equal(state[untouched], state_before[untouched])


def test_update_with_groups_made_before(rng):
    ids, splits = ref.random_ids(rng, 5000, 300), ref.random_splits(rng, 5000, 100)
    upstream, weights = rng.standard_normal((100, 8)), rng.uniform(1, 2, 5000)
    tables = [ref.random_table(rng, 300, 8)] * 2
    for combiner in COMBINERS:
        tables = [table.copy() for table in tables]
        arg = argmax_of(combiner, tables[0], ids, splits, weights, None)
        parts = ops.parts(ids, upstream, splits, weights, combiner, argmax=arg)
        # The parts that groups are made for may be gone when they are used.
        copies = (ids.copy(), upstream, splits.copy(), weights.copy())
        groups = ops.group(ops.parts(*copies, combiner, argmax=arg), 300)
        del copies
        assert groups.num_rows == 300
        assert groups.num_parts == 5000
        ops.update(tables[0], parts, "sgd", {"learning_rate": 0.1})
        ops.update(tables[1], parts, "sgd", {"learning_rate": 0.1}, groups=groups)
        assert np.array_equal(*tables)


def test_upstream_that_is_the_table(rng):
    """Rows of the table as upstream: the step reads what they were before it."""
    ids = ref.random_ids(rng, 3000, 3000)
    table = ref.random_table(rng, 3000, 64)
    expected = table.copy()
    ops.update(expected, ops.parts(ids, table.copy()), "sgd", {"learning_rate": 1.0})
    ops.update(table, ops.parts(ids, table), "sgd", {"learning_rate": 1.0})
    assert np.array_equal(table, expected)


@pytest.mark.parametrize("v", [0, 4])
@pytest.mark.parametrize("d", [0, 5])
def test_empty(v, d):
    table = np.ones((v, d), np.float32)
    no_ids = np.zeros(0, np.int64)
    assert ops.gather(table, []).shape == (0, d)
    assert ops.gather(table, np.zeros((3, 0), np.int32)).shape == (3, 0, d)
    for combiner in COMBINERS:
        for splits in ([0], [0, 0, 0]):
            b = len(splits) - 1
            assert np.array_equal(ops.pool(table, [], splits, combiner=combiner), np.zeros((b, d)))
            assert np.array_equal(ops.pool(table, [], splits, np.zeros(0), combiner), np.zeros((b, d)))
            arg = argmax_of(combiner, table, no_ids, np.array(splits), None, None)
            upstream = np.ones((b, d))
            rows, values = reduced([], upstream, v, splits, combiner=combiner, argmax=arg)
            assert rows.shape == (0,)
            assert rows.dtype == np.int64
            assert values.shape == (0, d)
    for step in STEPS:
        state = np.ones((v, ops.state_width(step, d)), np.float32)
        state_or_none = state if state.shape[1] else None
        ops.update(table, ops.parts([], np.zeros((0, d))), step, ref.hyper(step, 1, 0.1), state_or_none)
        assert (table == 1).all()
        assert (state == 1).all()


def test_padding_alone_touches_nothing(rng):
    table = ref.random_table(rng, 4, 3)
    rows, values = reduced([2, 2], np.ones((2, 3)), 4, padding_idx=2)
    assert rows.shape == (0,)
    assert values.shape == (0, 3)
    assert not ops.pool(table, [2, 2], [0, 2], padding_idx=2).any()


# ---- sums of gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_bags_are_added_unexpanded(rng, combiner, weighted):
    """The sum of two gradients holds the bags of both; of maxima, and of different kinds, a value for each id."""
    bag = fastembed.EmbeddingBag(40, 3, combiner=combiner)
    found, dense = [], np.zeros((40, 3))
    for bags in (5, 7):
        ids = rng.integers(0, 40, (bags, 4))
        upstream = rng.normal(size=(bags, 3)).astype("float32")
        weights = rng.random((bags, 4)).astype("float32") if weighted else None
        found.append(bag.gradient(ids, upstream, weights))
        dense += found[-1].to_dense()
    both = found[0] + found[1]
    assert len(both.parts.upstream_bd) == (48 if combiner == "max" else 12)
    np.testing.assert_allclose(both.to_dense(), dense, rtol=1e-5, atol=1e-6)
    one = fastembed.IndexedSlices(np.ones((2, 3), "float32"), [1, 39], (40, 3))
    np.testing.assert_allclose((found[0] + one).to_dense(), found[0].to_dense() + one.to_dense(), rtol=1e-5, atol=1e-6)
