"""Regularizers: values and gradients against float64 formulas and finite differences, and what layers make of them.

Do not break: every gradient is compared with a formula that shares no code with the package, and with differences of
that formula's values.
"""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
import reference as ref

from fastembed import Embedding, EmbeddingBag, IndexedSlices, Ragged, constraints, ops, optimizers, regularizers

V, D = 12, 5
CLOSE = {"rtol": 2e-5, "atol": 1e-6}
COMBINERS = ["sum", "mean", "sqrtn", "max"]


# ---- the formulas, in float64 ------------------------------------------------------------------------


def l1_l2(x, l1, l2):
    x = np.asarray(x, np.float64)
    return l1 * np.abs(x).sum() + l2 * (x**2).sum()


def l1_l2_gradient(x, l1, l2):
    x = np.asarray(x, np.float64)
    return l1 * np.sign(x) + 2 * l2 * x


def orthogonal(x, factor, mode):
    """In plain loops over pairs."""
    vectors = np.asarray(x, np.float64)
    vectors = vectors if mode == "rows" else vectors.T
    total, pairs = 0.0, 0
    for i in range(len(vectors)):
        for j in range(i):
            norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
            total += abs(vectors[i] @ vectors[j]) / norms if norms else 0
            pairs += 1
    return factor * total / pairs


CASES = {
    "L1": (regularizers.L1(0.3), lambda x: l1_l2(x, 0.3, 0)),
    "L2": (regularizers.L2(0.7), lambda x: l1_l2(x, 0, 0.7)),
    "L1L2": (regularizers.L1L2(0.3, 0.7), lambda x: l1_l2(x, 0.3, 0.7)),
    "nothing": (regularizers.L1L2(), lambda x: 0.0),
    "rows": (regularizers.OrthogonalRegularizer(0.4, "rows"), lambda x: orthogonal(x, 0.4, "rows")),
    "columns": (regularizers.OrthogonalRegularizer(0.4, "columns"), lambda x: orthogonal(x, 0.4, "columns")),
}


def differences(function, x, step=1e-6):
    """The gradient of a function of a float64 array by central differences."""
    x, gradient = np.array(x, np.float64), np.zeros(np.shape(x))
    for index in np.ndindex(x.shape):
        middle = x[index]
        x[index] = middle + step
        above = function(x)
        x[index] = middle - step
        gradient[index] = (above - function(x)) / (2 * step)
        x[index] = middle
    return gradient


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype, rng):
    regularizer, formula = CASES[case]
    for shape in ((V, D), (D, V), (2, 3), (5, 1)):
        if case == "columns" and shape[1] < 2:
            continue
        x = rng.standard_normal(shape).astype(dtype)
        value, gradient = regularizer(x), regularizer.gradient(x)
        assert type(value) is float
        np.testing.assert_allclose(value, formula(x), **CLOSE)
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, differences(formula, x), rtol=1e-4, atol=2e-5)
        rows = np.array([len(x) - 1, 0, 1])
        np.testing.assert_allclose(regularizer.rows_gradient(x, rows), gradient[rows], **CLOSE)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (0, 3), (2, 3, 4)], ids=str)
def test_sums_of_any_shape(shape, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    regularizer = regularizers.L1L2(0.3, 0.7)
    np.testing.assert_allclose(regularizer(x), l1_l2(x, 0.3, 0.7), **CLOSE)
    np.testing.assert_allclose(regularizer.gradient(x), l1_l2_gradient(x, 0.3, 0.7), **CLOSE)


def test_infinite_squares_are_no_part_of_l1():
    x = np.full((2, 3), 1e30, np.float32)
    np.testing.assert_allclose(regularizers.L1(0.5)(x), 3e30, rtol=1e-6)
    assert regularizers.L2(0.5)(x) == np.inf
    assert regularizers.L1L2()(x) == 0
    assert np.isnan(regularizers.L2(0.5)(x * np.float32(np.nan)))


@pytest.mark.parametrize("mode", ["rows", "columns"])
@pytest.mark.parametrize("block", [1, 7, 30, 1 << 20])
def test_orthogonal_in_blocks(block, mode, rng, monkeypatch):
    """Whatever the size of blocks: the same numbers, those of the loops."""
    monkeypatch.setattr(regularizers, "_BLOCK", block)
    x = rng.standard_normal((23, 9)).astype(np.float32)
    x[3], x[:, 4] = 0, 0
    regularizer = regularizers.OrthogonalRegularizer(0.5, mode)
    np.testing.assert_allclose(regularizer(x), orthogonal(x, 0.5, mode), **CLOSE)
    gradient = regularizer.gradient(x)
    some = np.delete(np.arange(23), 3) if mode == "rows" else np.arange(23)
    other = np.delete(np.arange(9), 4) if mode == "columns" else np.arange(9)
    expected = differences(lambda x: orthogonal(x, 0.5, mode), x)[np.ix_(some, other)]
    np.testing.assert_allclose(gradient[np.ix_(some, other)], expected, rtol=1e-3, atol=2e-5)
    assert not (gradient[3] if mode == "rows" else gradient[:, 4]).any()  # a zero vector has no direction
    for rows in ([], [5], [22, 0, 3, 7]):
        np.testing.assert_allclose(regularizer.rows_gradient(x, np.array(rows, int)), gradient[rows], **CLOSE)


def test_orthogonal_of_one_vector_is_nan_as_in_keras():
    assert np.isnan(regularizers.OrthogonalRegularizer()(np.ones((1, 3), np.float32)))
    assert np.isnan(regularizers.OrthogonalRegularizer(mode="columns")(np.ones((3, 1), np.float32)))
    for wrong in (np.ones(3, np.float32), np.ones((1, 2, 3), np.float32)):
        with pytest.raises(ValueError, match="must be a matrix"):
            regularizers.OrthogonalRegularizer()(wrong)


# ---- ops.sums ----------------------------------------------------------------------------------------

SIZES = [0, 1, 3, 15, 16, 17, 1023, 1024, 1025, 65535, 65536, 65537, 3 * 65536 + 1031]


def test_sums(rng, guarded, threads):
    """Right, in float64, the same bits for any number of threads, and read from nowhere else."""
    for size in SIZES:
        x = guarded((rng.standard_normal(size) * 10.0 ** rng.integers(-6, 6, size)).astype(np.float32))
        x.flags.writeable = False
        expected = np.abs(x, dtype=np.float64).sum(), np.square(x, dtype=np.float64).sum()
        found = set()
        for number in (1, 2, 7):
            threads(number)
            found.add(ops.sums(x))
        assert len(found) == 1, size
        np.testing.assert_allclose(found.pop(), expected, rtol=1e-5)


def test_sums_read_to_the_end(rng):
    for size in SIZES[1:]:
        x = np.zeros(size, np.float32)
        x[-1] = -3
        assert ops.sums(x) == (3, 9)
        x[-1] = np.nan
        assert np.isnan(ops.sums(x)).all()


def test_sums_have_the_same_bits_on_every_instruction_set(run_python):
    program = """
        import json, sys
        import numpy as np
        from fastembed import ops
        rng = np.random.default_rng(1)
        found = []
        for size in json.loads(sys.argv[1]):
            x = (rng.standard_normal(size) * 10.0 ** rng.integers(-40, 9, size)).astype(np.float32)
            found.append([value.hex() for value in ops.sums(x)])
        print(json.dumps(found))
    """
    found = [run_python(program, json.dumps(SIZES), FASTEMBED_ISA=isa) for isa in ops.usable_isas()]
    assert len(set(found)) == 1


def test_sums_refuse():
    for wrong in ([1, 2], np.ones(3, np.float16), np.ones(3, int), "x", None):
        with pytest.raises(TypeError, match="`array` must be float32 or float64"):
            ops.sums(wrong)


# ---- losses ------------------------------------------------------------------------------------------


def table_of(rng):
    return ref.random_table(rng, V, D)


def test_losses_and_their_order(rng):
    """The activity loss first, divided by the batch size, then the table's, from the table as it is now."""
    table = table_of(rng)
    layer = Embedding(
        V,
        D,
        weights=table,
        embeddings_regularizer=regularizers.L2(0.5),
        activity_regularizer=regularizers.L1L2(0.3, 0.7),
    )
    np.testing.assert_allclose(layer.losses, [l1_l2(table, 0, 0.5)], **CLOSE)
    for ids in ([[1, 2, 2], [0, 3, 11]], [3, 3, 4, 5], 3, np.zeros((2, 0), int), np.ones((2, 3, 2), int)):
        out = layer(ids)
        expected = l1_l2(out, 0.3, 0.7) / len(out)
        assert all(type(loss) is float for loss in layer.losses)
        np.testing.assert_allclose(layer.losses, [expected, l1_l2(table, 0, 0.5)], **CLOSE)
    layer(np.zeros((0, 3), int))
    np.testing.assert_allclose(layer.losses, [0, l1_l2(table, 0, 0.5)], **CLOSE)
    layer(Ragged.from_lists([[1, 2], [], [3]]))
    np.testing.assert_allclose(layer.losses[0], l1_l2(table[[1, 2, 3]], 0.3, 0.7) / 3, **CLOSE)
    layer(Ragged.from_lists([[[1], [2]], [[3, 4]]]))
    np.testing.assert_allclose(layer.losses[0], l1_l2(table[[1, 2, 3, 4]], 0.3, 0.7) / 2, **CLOSE)
    layer([[1]], out=np.zeros((1, 1, D), np.float32))
    np.testing.assert_allclose(layer.losses[0], l1_l2(table[1], 0.3, 0.7), **CLOSE)
    layer.embeddings.assign(2 * table)
    np.testing.assert_allclose(layer.losses[1], l1_l2(2 * table, 0, 0.5), **CLOSE)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert again.losses == layer.losses
    layer.trainable = False
    assert len(layer.losses) == 1  # a frozen table is not penalized


def test_no_losses_without_a_table():
    layer = Embedding(V, D, embeddings_regularizer="l2")
    assert layer.losses == []
    layer.build()
    assert len(layer.losses) == 1
    assert Embedding(V, D, embeddings_regularizer="l2", trainable=False)([1]).shape == (1, D)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_losses_of_bags(combiner, rng):
    bag = EmbeddingBag(V, D, combiner, weights=table_of(rng), activity_regularizer=regularizers.L2(0.5))
    weights = rng.uniform(0.5, 2, (4, 3))
    ids = rng.integers(0, V, (4, 3))
    out = bag(ids, weights)
    np.testing.assert_allclose(bag.losses, [l1_l2(out, 0, 0.5) / 4], **CLOSE)
    out = bag(Ragged.from_lists([[1, 2], [], [3]]))
    np.testing.assert_allclose(bag.losses, [l1_l2(out, 0, 0.5) / 3], **CLOSE)
    bag(np.zeros((0, 3), int))
    assert bag.losses == [0]


def test_a_failed_look_up_leaves_the_losses(rng):
    layer = Embedding(V, D, activity_regularizer="l2")
    layer([1, 2])
    before = layer.losses
    for ids, out in (([V], None), ([0.5], None), ([1], np.zeros((2, D), np.float32))):
        with pytest.raises((IndexError, ValueError)):
            layer(ids, out=out)
        assert layer.losses == before


# ---- gradients of layers -----------------------------------------------------------------------------


KINDS = ["2-D", "1-D", "a number", "ragged", "nested", "3-D"]


def ids_of_kind(kind, rng):
    """(what a layer is given, flat ids, Keras's batch size)"""
    if kind == "ragged":
        ids = Ragged.from_lists([[1, 2, 2], [], [7, 1]])
    elif kind == "nested":
        ids = Ragged.from_lists([[[1], [2, 2]], [], [[7, 1]]])
    else:
        ids = {"2-D": rng.integers(0, 5, (4, 3)), "1-D": np.array([3, 3, 1]), "a number": 3}.get(kind)
        ids = rng.integers(0, 5, (2, 2, 2)) if ids is None else ids
        return ids, np.ravel(ids), len(ids) if np.ndim(ids) else D
    return ids, ids.flat_values, len(ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("both", [False, True])
def test_gradient_of_a_layer(both, padding_idx, kind, rng):
    table = table_of(rng)
    if padding_idx is not None:
        table[padding_idx] = 0
    arguments = {"embeddings_regularizer": regularizers.L1L2(0.2, 0.4)} if both else {}
    layer = Embedding(
        V, D, weights=table, padding_idx=padding_idx, activity_regularizer=regularizers.L2(0.5), **arguments
    )
    ids, flat, batch = ids_of_kind(kind, rng)
    upstream = rng.standard_normal((len(flat), D))

    def loss(table):
        out = table[flat]
        return (out * upstream).sum() + l1_l2(out, 0, 0.5) / batch + (l1_l2(table, 0.2, 0.4) if both else 0)

    expected = differences(loss, table)
    if padding_idx is not None:
        expected[padding_idx] = 0
    whole = upstream if isinstance(ids, Ragged) else upstream.reshape(*np.shape(ids), D)
    before = layer.losses
    slices = layer.gradient(ids, whole)
    assert layer.losses == before
    touched = np.setdiff1d(flat, [padding_idx])
    assert slices.coalesce().indices.tolist() == touched.tolist()
    np.testing.assert_allclose(slices.to_dense()[touched], expected[touched], rtol=1e-4, atol=1e-4)
    if both:  # the other rows have the table's penalty alone
        dense = layer.regularization_gradient()
        dense[touched] = slices.to_dense()[touched]
        if kind != "a number" and padding_idx is None:
            np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-4)
        assert padding_idx is None or not dense[padding_idx].any()
    else:
        assert layer.regularization_gradient() is None


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_gradient_of_a_bag(combiner, padding_idx, weighted, ragged, rng):
    table = table_of(rng)
    if padding_idx is not None:
        table[padding_idx] = 0
    bag = EmbeddingBag(
        V,
        D,
        combiner,
        weights=table,
        padding_idx=padding_idx,
        activity_regularizer=regularizers.L1L2(0.1, 0.5),
        embeddings_regularizer=regularizers.L2(0.25),
    )
    ids = rng.integers(0, 6, (4, 3))
    flat, splits = ids.ravel(), np.array([0, 3, 3, 8, 12]) if ragged else np.arange(0, 13, 3)
    given = Ragged(flat, splits) if ragged else ids
    weights = rng.uniform(0.5, 2, 12) if weighted else None
    upstream = rng.standard_normal((4, D))

    def pool(table, weights):
        return ref.pool(table, flat, splits, weights, combiner, padding_idx)

    def loss(table, weights=weights):
        out = pool(table, weights)
        return (out * upstream).sum() + l1_l2(out, 0.1, 0.5) / 4 + l1_l2(table, 0, 0.25)

    expected = differences(loss, table)
    shaped = weights if weights is None or ragged else weights.reshape(ids.shape)
    slices = bag.gradient(given, upstream, shaped)
    touched = np.setdiff1d(flat, [padding_idx])
    assert slices.coalesce().indices.tolist() == touched.tolist()
    np.testing.assert_allclose(slices.to_dense()[touched], expected[touched], rtol=1e-3, atol=2e-3)
    if weighted:  # the activity loss reaches them too; the table's does not
        of_weights = bag.weights_gradient(given, upstream, shaped)
        wanted = differences(lambda weights: loss(table, weights), weights)
        np.testing.assert_allclose(of_weights.ravel(), wanted, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("make", [Embedding, EmbeddingBag])
def test_gradient_of_nothing(make):
    layer = make(V, D, embeddings_regularizer="l2", activity_regularizer="l2")
    empty = np.zeros((0, 3), int)
    shape = (0, 3, D) if make is Embedding else (0, D)
    slices = layer.gradient(empty, np.zeros(shape))
    assert slices.coalesce().indices.size == 0
    optimizers.SGD(0.1).apply_gradients([(slices, layer.embeddings)])


def test_the_table_penalty_comes_once_for_each_row(rng):
    """Rows that occur often are pulled as strongly as rows that occur once."""
    layer = Embedding(V, D, weights=table_of(rng), embeddings_regularizer=regularizers.L2(0.5))
    table = layer.embeddings.numpy()
    slices = layer.gradient([1, 1, 1, 2], np.zeros((4, D)))
    np.testing.assert_allclose(slices.to_dense()[[1, 2]], table[[1, 2]], **CLOSE)
    more = slices + layer.gradient([2], np.zeros((1, D)))
    np.testing.assert_allclose(more.to_dense()[2], 2 * table[2], **CLOSE)


def test_orthogonal_table_penalty(rng):
    table = table_of(rng)
    for mode in ("rows", "columns"):
        layer = Embedding(V, D, weights=table, embeddings_regularizer=regularizers.OrthogonalRegularizer(0.5, mode))
        expected = differences(lambda x, mode=mode: orthogonal(x, 0.5, mode), table)
        np.testing.assert_allclose(layer.losses, [orthogonal(table, 0.5, mode)], **CLOSE)
        np.testing.assert_allclose(layer.regularization_gradient(), expected, rtol=1e-3, atol=1e-5)
        found = layer.gradient([3, 7, 3], np.zeros((3, D))).to_dense()
        np.testing.assert_allclose(found[[3, 7]], expected[[3, 7]], rtol=1e-3, atol=1e-5)


def test_descent_lowers_the_penalty(rng):
    """The regularization's gradient is that of its loss: steps against it go down."""
    for regularizer in ("l1", "l2", "l1_l2", "orthogonal_regularizer"):
        layer = Embedding(V, D, weights=table_of(rng), embeddings_regularizer=regularizer)
        losses = []
        for _ in range(20):
            optimizers.SGD(0.5).apply([layer.regularization_gradient()], [layer.embeddings])
            losses.append(layer.losses[0])
        assert all(after < before for before, after in itertools.pairwise(losses)), regularizer


def test_frozen_layers(rng):
    layer = Embedding(V, D, trainable=False, weights=table_of(rng), embeddings_regularizer="l2")
    assert layer.losses == []
    gradient = layer.gradient([1], np.ones((1, D)))
    with pytest.raises(ValueError, match="must be trainable"):
        optimizers.SGD().apply_gradients([(gradient, layer.embeddings)])


# ---- regularizers of one's own -----------------------------------------------------------------------


class Centred(regularizers.Regularizer):
    """Its gradient at a row depends on all rows."""

    def __call__(self, x):
        return float(np.square(x - x.mean(0)).sum())

    def gradient(self, x):
        return 2 * (x - x.mean(0))

    def get_config(self):
        return {}


def test_own_class(rng):
    layer = Embedding(V, D, weights=table_of(rng), embeddings_regularizer=Centred(), activity_regularizer=Centred())
    table = layer.embeddings.numpy().astype(np.float64)
    out = layer([3, 4])
    expected = [np.square(out - out.mean(0)).sum() / 2, np.square(table - table.mean(0)).sum()]
    np.testing.assert_allclose(layer.losses, expected, **CLOSE)

    def loss(table):
        out = table[[3, 4]]
        return np.square(out - out.mean(0)).sum() / 2 + np.square(table - table.mean(0)).sum()

    slices = layer.gradient([3, 4], np.zeros((2, D)))
    np.testing.assert_allclose(slices.to_dense()[[3, 4]], differences(loss, table)[[3, 4]], rtol=1e-3, atol=1e-4)


def test_a_function_gives_losses_and_cannot_train(rng):
    layer = Embedding(V, D, weights=table_of(rng), embeddings_regularizer=lambda x: np.float32(3))
    assert layer.losses == [3.0]
    for call in (lambda: layer.gradient([1], np.ones((1, D))), layer.regularization_gradient):
        with pytest.raises(TypeError, match=r"a regularizer needs a method `gradient\(x\)`"):
            call()
    layer = Embedding(V, D, activity_regularizer=lambda x: 5)
    layer([[1], [2]])
    assert layer.losses == [2.5]
    with pytest.raises(TypeError, match="needs a method `gradient"):
        layer.gradient([1], np.ones((1, D)))


# ---- names, configs, wrong values --------------------------------------------------------------------


def test_names():
    for name, expected in (
        ("l1", {"l1": 0.01}),
        ("L1", {"l1": 0.01}),
        ("l2", {"l2": 0.01}),
        ("l1l2", {"l1": 0.0, "l2": 0.0}),
        ("l1_l2", {"l1": 0.01, "l2": 0.01}),
        ("L1L2", {"l1": 0.0, "l2": 0.0}),
        ("orthogonal_regularizer", {"factor": 0.01, "mode": "rows"}),
    ):
        found = regularizers.get(name).get_config()
        assert found.keys() == expected.keys()
        assert {k: v if isinstance(v, str) else round(v, 6) for k, v in found.items()} == expected, name
    assert regularizers.get(None) is None
    instance = regularizers.L2()
    assert regularizers.get(instance) is instance
    assert regularizers.get(regularizers.L1).l1 == 0.01
    assert regularizers.L1(None).l1 == regularizers.L2(None).l2 == 0.01
    assert regularizers.L1L2(None, None).get_config() == {"l1": 0.0, "l2": 0.0}


@pytest.mark.parametrize("case", CASES)
def test_config_round_trip(case):
    regularizer, _ = CASES[case]
    x = np.linspace(-1, 2, 12, dtype=np.float32).reshape(4, 3)
    for again in (
        type(regularizer).from_config(json.loads(json.dumps(regularizer.get_config()))),
        regularizers.get({"class_name": type(regularizer).__name__, "config": regularizer.legacy_config()}),
        copy.deepcopy(regularizer),
    ):
        assert type(again) is type(regularizer)
        np.testing.assert_allclose(again(x), regularizer(x), rtol=1e-6)
    assert repr(regularizer).startswith(type(regularizer).__name__)


def test_the_l_of_keras_2():
    for cls, key in ((regularizers.L1, "l1"), (regularizers.L2, "l2")):
        assert getattr(cls.from_config({"l": 0.25}), key) == 0.25
        assert getattr(regularizers.get({"class_name": cls.__name__, "config": {"l": 0.25}}), key) == 0.25


@pytest.mark.parametrize("value", [-1, -0.1, np.nan, np.inf, 10**400, 1e308, "0.1", [0.1], True, {}, 1j], ids=repr)
def test_wrong_factors(value):
    for make in (
        lambda: regularizers.L1(value),
        lambda: regularizers.L2(l2=value),
        lambda: regularizers.L1L2(l1=value),
        lambda: regularizers.L1L2(l2=value),
        lambda: regularizers.OrthogonalRegularizer(value),
    ):
        with pytest.raises(ValueError, match=r"must be a (finite )?number of at least 0"):
            make()


@pytest.mark.parametrize(
    "wrong",
    ["l3", "", 3, 0.5, b"l2", [], ["l2"], regularizers, int, optimizers.SGD(), constraints.NonNeg(), np.ones(3)],
    ids=str,
)
def test_what_is_no_regularizer(wrong):
    with pytest.raises((ValueError, TypeError)):
        regularizers.get(wrong)
    with pytest.raises((ValueError, TypeError)):
        Embedding(V, D, embeddings_regularizer=wrong)


def test_wrong_mode():
    with pytest.raises(ValueError, match="`mode` must be 'rows' or 'columns'"):
        regularizers.OrthogonalRegularizer(mode="diagonal")


def test_slices_of_a_regularized_layer_are_slices(rng):
    layer = Embedding(V, D, embeddings_regularizer="l2")
    slices = layer.gradient([[1, 2], [2, 3]], np.ones((2, 2, D)))
    assert isinstance(slices, IndexedSlices)
    assert slices.dense_shape == (V, D)
