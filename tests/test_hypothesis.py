"""Random ids, bags, dtypes, strides and weights against the oracle.

Do not break: the cases are the same at every run (derandomize), so a failure can be repeated.
"""

import numpy as np
import reference as ref
from fuzz import strided
from hypothesis import given, settings
from hypothesis import strategies as st

from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, ops, optimizers

same = settings(derandomize=True, deadline=None, max_examples=60, database=None)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
ID_DTYPES = ["int8", "uint8", "int16", "uint32", "int32", "int64", "uint64", ">i4", ">i8", "float32", "float64"]
sizes, seeds = st.integers(1, 40), st.integers(0, 2**32)
dims = st.integers(1, 40) | st.sampled_from([63, 64, 65, 127])


@st.composite
def id_arrays(draw, v, shape):
    """Integer ids below v, of any integer dtype, and whatever strides; and the plain int64 array."""
    ids = np.random.default_rng(draw(seeds)).integers(0, v, shape)
    if draw(st.booleans()):
        ids = np.minimum(ids, draw(st.integers(0, v - 1)))  # many duplicates
    return draw(strided(ids.astype(draw(st.sampled_from(ID_DTYPES))))), ids


def floats(seed, *shape):
    """Normal numbers, float32 or float64."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype([np.float32, np.float64][seed % 2])


@st.composite
def bags(draw, weighted=None):
    """A table, ids in bags (some of them empty), and all that pooling takes."""
    v, d, seed = draw(sizes), draw(dims), draw(seeds)
    lengths = draw(st.lists(st.integers(0, 9) | st.just(0) | st.integers(0, 150), max_size=12))
    splits = np.cumsum([0, *lengths]).astype(draw(st.sampled_from([np.int32, np.int64])))
    given_ids, ids = draw(id_arrays(v, (splits[-1],)))
    weighted = draw(st.booleans()) if weighted is None else weighted
    # Away from zero and of one sign: a sum of weights near zero has no digits to compare.
    weights = 0.5 + np.abs(floats(seed, len(ids))) if weighted else None
    padding_idx = draw(st.none() | st.integers(0, v - 1))
    combiner = draw(st.sampled_from(list(ops.COMBINERS)))
    table = floats(seed, v, d).astype(np.float32)
    upstream = floats(seed + 1, len(lengths), d)
    return table, given_ids, ids, splits, weights, combiner, padding_idx, upstream


@same
@given(st.data(), sizes, dims, st.lists(st.integers(0, 5), max_size=4), seeds)
def test_gather(data, v, d, shape, seed):
    table = floats(seed, v, d).astype(np.float32)
    given_ids, ids = data.draw(id_arrays(v, shape))
    out = ops.gather(table, given_ids)
    assert out.dtype == np.float32
    assert np.array_equal(out, ref.gather(table, ids))
    layer = Embedding(v, d, weights=table)
    upstream = floats(seed, *ids.shape, d)
    gradient = layer.gradient(given_ids, data.draw(strided(upstream)))
    dense, touched = ref.gather_gradient((v, d), ids, upstream)
    np.testing.assert_allclose(gradient.to_dense(), dense, **CLOSE)
    unique = gradient.coalesce()
    assert unique.indices.tolist() == sorted(touched)
    np.testing.assert_allclose(unique.values, dense[sorted(touched)], **CLOSE)


@same
@given(bags())
def test_pool(bag):
    table, given_ids, ids, splits, weights, combiner, padding_idx, _ = bag
    actual = ops.pool(table, given_ids, splits, weights, combiner, padding_idx=padding_idx)
    np.testing.assert_allclose(actual, ref.pool(table, ids, splits, weights, combiner, padding_idx), **CLOSE)


@same
@given(bags(), st.booleans())
def test_gradient_of_bags(bag, mask_zero):
    table, given_ids, ids, splits, weights, combiner, padding_idx, upstream = bag
    padding_idx = 0 if mask_zero else padding_idx
    v, d = table.shape
    layer = EmbeddingBag(v, d, combiner, mask_zero=mask_zero, padding_idx=None if mask_zero else padding_idx)
    layer.embeddings.numpy()[...] = table  # the padding row is not zero, so pooling must pass over it
    ragged = Ragged(given_ids, splits)
    given_oracle = (weights, combiner, padding_idx)
    np.testing.assert_allclose(layer(ragged, weights), ref.pool(table, ids, splits, *given_oracle), **CLOSE)
    gradient = layer.gradient(ragged, upstream, weights)
    dense, touched = ref.pool_gradient(table, ids, splits, upstream, *given_oracle)
    np.testing.assert_allclose(gradient.to_dense(), dense, **CLOSE)
    assert gradient.coalesce().indices.tolist() == sorted(touched)
    expanded = ref.gather_gradient((v, d), gradient.indices, gradient.values)[0]
    np.testing.assert_allclose(expanded, dense, **CLOSE)
    assert len(gradient.indices) == (ids != padding_idx).sum()


@same
@given(bags(weighted=True))
def test_gradient_of_weights(bag):
    table, given_ids, ids, splits, weights, combiner, padding_idx, upstream = bag
    layer = EmbeddingBag(*table.shape, combiner, padding_idx=padding_idx)
    layer.embeddings.numpy()[...] = table
    actual = layer.weights_gradient(Ragged(given_ids, splits), upstream, weights)
    expected = ref.weights_gradient(table, ids, splits, upstream, weights, combiner, padding_idx)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@same
@given(bags(), st.sampled_from([0.0, 0.5, 2.0]))
def test_one_step_of_sgd(bag, rate):
    table, given_ids, ids, splits, weights, combiner, padding_idx, upstream = bag
    layer = EmbeddingBag(*table.shape, combiner, padding_idx=padding_idx)
    layer.embeddings.numpy()[...] = table
    gradient = layer.gradient(Ragged(given_ids, splits), upstream, weights)
    optimizers.SGD(rate).apply_gradients([(gradient, layer.embeddings)])
    expected = table.astype(np.float64)
    dense, touched = ref.pool_gradient(table, ids, splits, upstream, weights, combiner, padding_idx)
    ref.step("sgd", expected, {}, dense, touched, 1, rate)
    np.testing.assert_allclose(layer.embeddings.numpy(), expected, **CLOSE)
    untouched = sorted(set(range(len(table))) - touched)
    assert np.array_equal(layer.embeddings.numpy()[untouched], table[untouched])


MODES = [
    ("momentum", optimizers.SGD, {"momentum": 0.75}),
    ("adagrad", optimizers.Adagrad, {"initial_accumulator_value": 0.0}),
    ("rowwise_rmsprop", optimizers.RowwiseRMSprop, {"epsilon": 1e-3}),
    ("adam", optimizers.Adam, {"epsilon": 1e-3}),
    ("adamax", optimizers.Adamax, {"epsilon": 1e-3}),
    ("ftrl", optimizers.Ftrl, {"initial_accumulator_value": 0.0, "learning_rate_power": -0.5}),
    ("partial_rowwise_adam", optimizers.PartialRowwiseAdam, {"epsilon": 1e-3}),
    ("rowwise_lars", optimizers.RowwiseLARS, {"weight_decay": 0.1, "eta": 0.1}),
]


@same
@given(st.lists(bags(), min_size=1, max_size=3), st.sampled_from(MODES), st.booleans(), st.booleans(), seeds)
def test_modes(made, optimizer, decays, pooled, seed):
    """Several steps of one table: "skip" is the oracle, and "catch_up" is "dense" up to rounding, whatever is read."""
    step, make, arguments = optimizer
    table = made[0][0]
    (v, d), given_here = table.shape, {**arguments, "learning_rate": 0.125}
    decay = 0.25 if decays and make.decoupled else 0.0
    if decay:
        given_here["weight_decay"] = decay
    layers = {mode: EmbeddingBag(v, d, made[0][5]) for mode in ("skip", "dense", "catch_up")}
    trained = {mode: make(untouched=mode, **given_here) for mode in layers}
    for layer in layers.values():
        layer.embeddings.numpy()[...] = table
    expected, state = table.astype(np.float64), ref.initial_state(step, (v, d))
    of_step = {name: value for name, value in arguments.items() if name in ref.ARGUMENTS}
    of_step |= {"trust_coefficient": arguments["eta"]} if "eta" in arguments else {}
    rng = np.random.default_rng(seed)
    for t, (_, given_ids, ids, splits, *_) in enumerate(made, 1):
        ids = ids % v
        given_ids = ids.astype(rng.choice(["int32", "int64", "uint8"]))
        if pooled:
            upstream = rng.uniform(0.5, 2, (len(splits) - 1, d)).astype(np.float32)
        else:
            upstream = rng.uniform(0.5, 2, (len(ids), d)).astype(np.float32)
        dense = touched = None
        for mode, layer in layers.items():
            if pooled:
                gradient = layer.gradient(Ragged(given_ids, splits), upstream)
            else:
                gradient = IndexedSlices(upstream, given_ids, (v, d))
            if mode == "skip":
                dense, touched = ref.gather_gradient((v, d), gradient.indices, gradient.values)
            elif layer.combiner == "max" and pooled:
                gradient = IndexedSlices(gradient.values, gradient.indices, (v, d))
            trained[mode].apply_gradients([(gradient, layer.embeddings)])
        expected[sorted(touched)] -= decay * 0.125 * expected[sorted(touched)]
        ref.step(step, expected, state, dense, sorted(touched), t, 0.125, **of_step)
        if layers["skip"].combiner == "max" and pooled:
            break  # from here on the largest element may be another one
        looked = rng.integers(0, v, 3)
        np.testing.assert_allclose(layers["catch_up"].embeddings[looked], layers["dense"].embeddings[looked], **CLOSE)
    np.testing.assert_allclose(layers["skip"].embeddings.numpy(), expected, rtol=1e-3, atol=1e-3)
    a, b = layers["dense"].embeddings.numpy(), layers["catch_up"].embeddings.numpy()
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


@same
@given(sizes, dims, st.lists(seeds, min_size=1, max_size=3), st.floats(-4, 4, width=16))
def test_arithmetic_of_slices(v, d, seed_of_each, factor):
    slices = []
    for seed in seed_of_each:
        n = seed % 30
        ids = np.random.default_rng(seed).integers(0, v, n)
        slices.append(IndexedSlices(floats(seed, n, d), ids, (v, d)))
    total, dense = slices[0] * factor, slices[0].to_dense().astype(float) * factor
    for other in slices[1:]:
        total, dense = total + other, dense + other.to_dense()
    np.testing.assert_allclose(total.to_dense(), dense, **CLOSE)
    np.testing.assert_allclose(total.coalesce().to_dense(), dense, **CLOSE)


# ---- Ragged ------------------------------------------------------------------------------------------

rows = st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6), max_size=8)
nested = rows | st.lists(rows, max_size=4) | st.lists(st.lists(rows, max_size=3), max_size=3)


@same
@given(rows, st.sampled_from([np.int32, np.int64]), st.integers(-5, 5))
def test_ragged_round_trips(lists, dtype, padding):
    ragged = Ragged.from_lists(lists, dtype=np.int64)
    ragged = Ragged(ragged.values, ragged.row_splits.astype(dtype))
    lengths = [len(row) for row in lists]
    assert ragged.to_list() == lists
    assert ragged.row_lengths().tolist() == lengths
    assert [row.tolist() for row in ragged] == lists
    assert [ragged[i].tolist() for i in range(-len(lists), len(lists))] == lists * 2
    assert Ragged.from_row_lengths(ragged.values, lengths).to_list() == lists
    rowids = np.repeat(np.arange(len(lists)), lengths)
    assert Ragged.from_value_rowids(ragged.values, rowids, nrows=len(lists)).to_list() == lists
    padded = ragged.to_padded(padding)
    assert padded.shape == (len(lists), max(lengths, default=0))
    assert Ragged.from_padded(padded, row_lengths=lengths).to_list() == lists
    stripped = [row[: 1 + max((i for i, x in enumerate(row) if x != padding), default=-1)] for row in lists]
    assert Ragged.from_padded(padded, padding=padding).to_list() == stripped


@same
@given(rows, st.slices(8))
def test_slices_of_ragged(lists, cut):
    ragged = Ragged.from_lists(lists)
    assert ragged[cut].to_list() == lists[cut]
    assert ragged[cut].shape[0] == len(lists[cut])


@same
@given(nested)
def test_nested_ragged_round_trips(lists):
    ragged = Ragged.from_lists(lists, dtype=np.int64)
    assert ragged.to_list() == lists
    assert ragged[::-1].to_list() == lists[::-1]
    assert len(ragged) == len(lists)
    vectors = ragged.with_values(np.zeros((len(ragged.flat_values), 3)))
    assert vectors.shape == (*ragged.shape, 3)
    assert ragged.with_values(ragged.flat_values).to_list() == lists
