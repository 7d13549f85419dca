"""Constraints against float64 formulas: alone, where a table begins, where it is assigned to, and inside updates.

Do not break: what an update does to a row is computed here as the oracle's step followed by a formula in float64, and
rows that no gradient touches are compared bit for bit.
"""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import reference as ref

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Table, constraints, ops, optimizers

V, D = 40, 6
DIMS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
AXES = [0, 1, -1, -2, [0, 1], [1, 0], [-1, 0], [1], [0], (0, 1), None]
pytestmark = pytest.mark.filterwarnings("ignore:.*takes norms over all rows")

MAKE = {
    "MaxNorm": lambda axis: constraints.MaxNorm(1.5, axis),
    "UnitNorm": constraints.UnitNorm,
    "MinMaxNorm": lambda axis: constraints.MinMaxNorm(1.0, 2.0, axis=axis),
    "rate": lambda axis: constraints.MinMaxNorm(1.0, 2.0, rate=0.25, axis=axis),
    "NonNeg": lambda axis: constraints.NonNeg(),
}
ROW_WISE = {name: make(1) for name, make in MAKE.items()}
OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.5),
    "momentum": lambda: optimizers.SGD(0.5, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.5, momentum=0.9, nesterov=True),
    "adagrad": lambda: optimizers.Adagrad(0.5),
    "rowwise_adagrad": lambda: optimizers.RowwiseAdagrad(0.5, epsilon=1e-7),
    "adam": lambda: optimizers.Adam(0.5),
}


def formula(name, w, axis=1):
    """The projection in float64."""
    w = np.asarray(w, np.float64)
    if name == "NonNeg":
        return np.maximum(w, 0)
    norms = np.sqrt(np.sum(w**2, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=True))
    wanted = {
        "MaxNorm": np.minimum(norms, 1.5),
        "UnitNorm": 1,
        "MinMaxNorm": np.clip(norms, 1, 2),
        "rate": 0.25 * np.clip(norms, 1, 2) + 0.75 * norms,
    }[name]
    return w * (wanted / (1e-7 + norms))


def rows_of_all_lengths(rng, v=V, d=D):
    """Rows whose norms are near 0.01, 1 and 100, one of zeros, and no two alike."""
    table = ref.random_table(rng, v, d) * 10.0 ** rng.integers(-2, 3, (v, 1))
    table[3] = 0
    return table.astype(np.float32)


# ---- the functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", MAKE)
def test_values(name, axis, rng):
    constraint = MAKE[name](axis)
    for shape in ((V, D), (1, 9), (9, 1)):
        w = (ref.random_table(rng, *shape) * 3).astype(np.float32)
        before = w.copy()
        out = constraint(w)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, formula(name, w, axis), **CLOSE)
        assert np.array_equal(w, before)
        constraint.project(w)
        np.testing.assert_allclose(w, formula(name, before, axis), **CLOSE)


@pytest.mark.parametrize("block", [1, 7, 10**6])
@pytest.mark.parametrize("axis", [0, [0, 1]], ids=str)
def test_columns_in_blocks(axis, block, rng, monkeypatch):
    monkeypatch.setattr(constraints, "_BLOCK", block)
    w = rows_of_all_lengths(rng)
    expected = formula("UnitNorm", w, axis)
    constraints.UnitNorm(axis).enforce(w)
    np.testing.assert_allclose(w, expected, **CLOSE)


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("name", MAKE)
def test_rows_of_any_length(name, d, rng, guarded):
    w = guarded(rows_of_all_lengths(rng, 67, d))
    expected = formula(name, w)
    constraint = ROW_WISE[name]
    np.testing.assert_allclose(constraint(w), expected, **CLOSE)
    ops.project(w, constraint.rows)
    np.testing.assert_allclose(w, expected, **CLOSE)
    assert not w[3].any()


@pytest.mark.parametrize("name", MAKE)
def test_rows_that_are_no_numbers(name, rng):
    """A row of NaN stays one; a norm past float32 harms no other row, and a maximum still bounds it, as in Keras."""
    w = rows_of_all_lengths(rng)
    w[1, 2], w[5] = np.nan, 1e30
    expected = formula(name, w)
    ops.project(w, ROW_WISE[name].rows)
    good = np.delete(np.arange(V), [1, 5])
    np.testing.assert_allclose(w[good], expected[good], **CLOSE)
    assert np.isnan(w[1]).any()
    if name != "NonNeg":
        assert np.isnan(w[1]).all()
    if name in ("MaxNorm", "UnitNorm", "MinMaxNorm"):
        assert not w[5].any()  # its squares overflow, in Keras too
    columns = MAKE[name](0)
    w = rows_of_all_lengths(rng)
    w[2, 3], w[2, 4] = np.nan, np.inf
    columns.project(w)
    assert np.isfinite(w[:, [0, 1, 2, 5]]).all()


@pytest.mark.parametrize("wrong", [2, -3, [], [0, 0], [1, -1], [0, 1, 2], [0, -2], 5], ids=str)
def test_axes_that_no_table_has(wrong):
    for make in (constraints.MaxNorm, constraints.UnitNorm, constraints.MinMaxNorm):
        with pytest.raises(ValueError, match="`axis` must be"):
            Embedding(V, D, embeddings_constraint=make(axis=wrong))


# ---- where a table begins ----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, 0, [0, 1]], ids=str)
@pytest.mark.parametrize("name", MAKE)
def test_first_values_and_assignments(name, axis, rng, tmp_path):
    values = ref.random_table(rng, V, D) * 3
    expected = formula(name, values, axis)

    def initializer(shape, dtype=None):
        return values

    constraint = MAKE[name](axis)
    for number, arguments in enumerate(
        (
            {"weights": values},
            {"embeddings_initializer": initializer},
            {"weights": values, "path": tmp_path / "a.npy"},
            {"embeddings_initializer": initializer, "path": tmp_path / "b.npy"},
        )
    ):
        layer = Embedding(V, D, embeddings_constraint=constraint, **arguments)
        np.testing.assert_allclose(layer.embeddings.numpy(), expected, **CLOSE)
        if number == 2:
            np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, **CLOSE)
    for assign in (layer.embeddings.assign, lambda array: layer.set_weights([array])):
        assign(np.ones((V, D)))
        np.testing.assert_allclose(layer.embeddings.numpy(), formula(name, np.ones((V, D)), axis), **CLOSE)
        assign(values)
        np.testing.assert_allclose(layer.embeddings.numpy(), expected, **CLOSE)


@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("axis", [1, 0, [0, 1]], ids=str)
@pytest.mark.parametrize("name", ["MaxNorm", "UnitNorm", "MinMaxNorm", "NonNeg"])
def test_what_keeps_a_constraint_keeps_its_bits(name, axis, padding_idx, rng):
    """Weights that came from a constrained layer go back as they are, at any length and with a row of zeros too."""
    values = np.abs(rows_of_all_lengths(rng))
    layer = Embedding(V, D, embeddings_constraint=MAKE[name](axis), weights=values, padding_idx=padding_idx)
    for _ in range(3):  # near zero, 1e-7 in the formula keeps the first projections from being exact
        layer.embeddings.enforce()
    kept = layer.get_weights()
    for again in (
        lambda: layer.set_weights(kept),
        lambda: layer.embeddings.assign(kept[0]),
        layer.embeddings.enforce,
        lambda: layer.__init__(V, D, embeddings_constraint=MAKE[name](axis), weights=kept, padding_idx=padding_idx),
    ):
        again()
        assert np.array_equal(layer.get_weights()[0].view(np.uint32), kept[0].view(np.uint32))


def test_constrain_tells_whether_it_wrote(rng):
    unit = ROW_WISE["UnitNorm"].rows
    w = ref.random_table(rng, V, D)
    assert ops.constrain(w, unit)
    assert not ops.constrain(w, unit)
    w[7] *= 1.0001
    assert ops.constrain(w, unit)
    w.flags.writeable = False
    assert not ops.constrain(w, unit)
    w = w * 2
    w.flags.writeable = False
    with pytest.raises(ValueError, match="must be writeable"):
        ops.constrain(w, unit)


def test_a_file_that_is_there_is_not_touched(rng, tmp_path):
    path = tmp_path / "table.npy"
    values = ref.random_table(rng, V, D) * 5
    np.save(path, values)
    layer = Embedding(V, D, path=path, embeddings_constraint=ROW_WISE["UnitNorm"])
    assert np.array_equal(layer.embeddings.numpy(), values)
    optimizers.SGD(0.1).apply_gradients([(layer.gradient([4], np.ones((1, D))), layer.embeddings)])
    np.testing.assert_allclose(np.load(path)[4], formula("UnitNorm", values[[4]] - 0.1)[0], **CLOSE)
    assert np.array_equal(np.delete(np.load(path), 4, 0), np.delete(values, 4, 0))


def test_saved_layers_keep_their_constraint_and_bits(rng, tmp_path):
    layer = Embedding(V, D, weights=rows_of_all_lengths(rng), embeddings_constraint=ROW_WISE["MaxNorm"])
    layer.save(tmp_path / "layer")
    for mode in (None, "r", "c", "r+"):
        again = fastembed.load(tmp_path / "layer", mode)
        assert np.array_equal(again.embeddings.numpy(), layer.embeddings.numpy())
        assert again.embeddings.constraint.get_config() == {"max_value": 1.5, "axis": 1}
        if mode != "r":
            optimizers.SGD(100.0).apply_gradients([(again.gradient([4], np.ones((1, D))), again.embeddings)])
            assert abs(np.linalg.norm(again.embeddings.numpy()[4]) - 1.5) < 1e-4


# ---- updates -----------------------------------------------------------------------------------------


class Oracle:
    """Steps in float64, each followed by the projection of the rows that it touched."""

    def __init__(self, step, name, table):
        accumulator = 0.1 if step == "adagrad" else 0.0
        self.step_name, self.name, self.table, self.t = step, name, table.astype(np.float64), 0
        self.state = ref.initial_state(step, table.shape, accumulator)

    def step(self, gradient, touched):
        self.t += 1
        ref.step(self.step_name, self.table, self.state, gradient, touched, self.t, 0.5)
        rows = sorted(touched)
        self.table[rows] = formula(self.name, self.table[rows])


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("step", OPTIMIZERS)
def test_sparse_updates(step, name, rng):
    layer = Embedding(V, D, weights=ref.random_table(rng, V, D), embeddings_constraint=ROW_WISE[name])
    table, optimizer = layer.embeddings.numpy(), OPTIMIZERS[step]()
    oracle = Oracle(step, name, table)
    for _ in range(6):
        ids, upstream = ref.random_ids(rng, 30, V), rng.standard_normal((30, D))
        before = table.copy()
        optimizer.apply_gradients([(layer.gradient(ids, upstream), layer.embeddings)])
        oracle.step(*ref.gather_gradient((V, D), ids, upstream))
        untouched = np.setdiff1d(np.arange(V), ids)
        assert np.array_equal(table[untouched], before[untouched])
    np.testing.assert_allclose(table, oracle.table, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("step", OPTIMIZERS)
def test_dense_updates(step, name, rng):
    table = Table((V, D), constraint=ROW_WISE[name])
    table.assign(ref.random_table(rng, V, D))
    oracle, optimizer = Oracle(step, name, table.numpy()), OPTIMIZERS[step]()
    for _ in range(4):
        gradient = rng.standard_normal((V, D))
        optimizer.apply([gradient], [table])
        oracle.step(gradient, range(V))
    np.testing.assert_allclose(table.numpy(), oracle.table, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", OPTIMIZERS)
def test_sparse_and_dense_have_the_same_bits(step, rng):
    start, gradient = ref.random_table(rng, V, D), rng.standard_normal((V, D)).astype(np.float32)
    tables = [Table((V, D), constraint=ROW_WISE["rate"]) for _ in range(2)]
    for table, given in zip(tables, (gradient, IndexedSlices(gradient, np.arange(V), (V, D))), strict=True):
        table.assign(start)
        OPTIMIZERS[step]().apply([given], [table])
    assert np.array_equal(tables[0].numpy(), tables[1].numpy())


@pytest.mark.parametrize("d", DIMS)
def test_updates_of_rows_of_any_length(d, rng, guarded):
    for name in MAKE:
        table = guarded(ref.random_table(rng, V, d))
        ids, upstream = ref.random_ids(rng, 50, V - 5), rng.standard_normal((50, d)).astype(np.float32)
        expected = table.astype(np.float64)
        gradient, touched = ref.gather_gradient((V, d), ids, upstream)
        rows = sorted(touched)
        expected[rows] = formula(name, expected[rows] - 0.5 * gradient[rows])
        parts = ops.parts(ids, upstream)
        ops.update(table, parts, "sgd", {"learning_rate": 0.5}, constraint=ROW_WISE[name].rows)
        np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-5)
        dense = guarded(ref.random_table(rng, V, d))
        expected = formula(name, dense.astype(np.float64) - 0.5 * table)
        ops.update_dense(dense, table, "sgd", {"learning_rate": 0.5}, constraint=ROW_WISE[name].rows)
        np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-5)


def test_hot_rows(rng, threads):
    """Rows whose parts are summed by all threads are projected once, after the step."""
    ids = ref.random_ids(rng, 20_000, V)
    ids[rng.random(20_000) < 0.5] = 7
    assert (ids == 7).sum() > 2 * 4096
    upstream = (rng.standard_normal((20_000, D)) + 1).astype(np.float32)
    start = ref.random_table(rng, V, D)
    gradient, _ = ref.gather_gradient((V, D), ids, upstream)
    for name in MAKE:
        expected = formula(name, start - 1e-3 * gradient)
        for number in (1, 2, 7):
            threads(number)
            layer = Embedding(V, D, embeddings_constraint=ROW_WISE[name])
            layer.embeddings.numpy()[...] = start
            optimizers.SGD(1e-3).apply_gradients([(layer.gradient(ids, upstream), layer.embeddings)])
            np.testing.assert_allclose(layer.embeddings.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
def test_updates_of_bags(combiner, rng):
    bag = EmbeddingBag(V, D, combiner, weights=ref.random_table(rng, V, D), embeddings_constraint=ROW_WISE["MaxNorm"])
    table = bag.embeddings.numpy()
    ids, upstream = rng.integers(0, V - 5, (6, 4)), rng.standard_normal((6, D))
    gradient, touched = ref.pool_gradient(table, ids.ravel(), np.arange(0, 25, 4), upstream, None, combiner)
    expected, rows = table.astype(np.float64), sorted(touched)
    expected[rows] = formula("MaxNorm", expected[rows] - 3 * gradient[rows])
    optimizers.SGD(3.0).apply_gradients([(bag.gradient(ids, upstream), bag.embeddings)])
    np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, [0, 1], None], ids=str)
@pytest.mark.parametrize("name", ["MaxNorm", "UnitNorm", "MinMaxNorm", "rate"])
def test_a_constraint_on_the_whole_table(name, axis, rng):
    """As in Keras, after each update; rows that no gradient touches change too."""
    layer = Embedding(V, D, embeddings_constraint=MAKE[name](axis))
    table, expected = layer.embeddings.numpy(), layer.embeddings.numpy().astype(np.float64)
    optimizer = optimizers.SGD(0.5)
    for ids in ([1, 2, 1], [], np.arange(V)):
        upstream = rng.standard_normal((len(ids), D))
        gradient, _ = ref.gather_gradient((V, D), np.array(ids, int), upstream)
        expected = formula(name, expected - 0.5 * gradient, axis)
        optimizer.apply_gradients([(layer.gradient(ids, upstream), layer.embeddings)])
    gradient = rng.standard_normal((V, D))
    expected = formula(name, expected - 0.5 * gradient, axis)
    optimizer.apply([gradient], [layer.embeddings])
    np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-5)


def test_a_padding_row_stays_zero(rng):
    for name in MAKE:
        layer = Embedding(V, D, embeddings_constraint=ROW_WISE[name], padding_idx=2)
        optimizer = optimizers.Adam(1.0)
        for _ in range(3):
            optimizer.apply_gradients([(layer.gradient([1, 2, 3], np.ones((3, D))), layer.embeddings)])
        layer.set_weights([np.ones((V, D))])
        assert not layer.embeddings.numpy()[2].any()
    layer = Embedding(V, D, embeddings_constraint=lambda w: w + 1, padding_idx=2)
    assert not layer.embeddings.numpy()[2].any()


def test_plain_arrays_have_no_constraint(rng):
    """A constraint belongs to a Table; the memory of one is an array like others."""
    layer = Embedding(V, D, embeddings_constraint=ROW_WISE["UnitNorm"])
    optimizers.SGD(1.0).apply([np.full((V, D), -9.0)], [layer.embeddings.numpy()])
    assert (np.linalg.norm(layer.embeddings.numpy(), axis=1) > 2).all()


# ---- threads and instruction sets --------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_any_number_of_threads_gives_the_same_bits(name, rng, threads):
    v, d, n = 30_000, 17, 60_000
    start, ids = ref.random_table(rng, v, d), ref.random_ids(rng, n, v)
    upstream = ref.random_table(rng, n, d)
    found = set()
    for number in (1, 2, 7):
        threads(number)
        table = Table((v, d), constraint=ROW_WISE[name])
        table.assign(start)
        OPTIMIZERS["momentum"]().apply([IndexedSlices(upstream, ids, (v, d))], [table])
        OPTIMIZERS["sgd"]().apply([upstream[:v]], [table])
        found.add(table.numpy().tobytes())
    assert len(found) == 1


def test_every_instruction_set_gives_the_same_bits(run_python):
    program = """
        import hashlib, json, sys
        import numpy as np
        import reference as ref
        from fastembed import ops
        digest = hashlib.sha256()
        kinds = [ops.RowConstraint(ops.NON_NEG), *(ops.RowConstraint(ops.NORM, *numbers) for numbers in
                 ((0.0, 1.5, 1.0), (1.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 2.0, 0.25), (0.0, float("inf"), 1.0)))]
        for d in json.loads(sys.argv[1]):
            rng = np.random.default_rng(d)
            start = (ref.random_table(rng, 50, d) * 10.0 ** rng.integers(-44, 22, (50, 1))).astype(np.float32)
            start[4], start[5, ::2], start[6] = np.nan, np.inf, -0.0
            ids, upstream = ref.random_ids(rng, 400, 45), ref.random_table(rng, 400, d)
            for kind in kinds:
                table = start.copy()
                digest.update(bytes([ops.constrain(table, kind)]))
                ops.update(table, ops.parts(ids, upstream), "sgd", {"learning_rate": 0.1}, constraint=kind)
                ops.update_dense(table, upstream[:50], "sgd", {"learning_rate": 0.1}, constraint=kind)
                digest.update(table.tobytes())
        print(digest.hexdigest())
    """
    found = {run_python(program, json.dumps(DIMS), FASTEMBED_ISA=isa) for isa in ops.usable_isas()}
    assert len(found) == 1


# ---- constraints of one's own ------------------------------------------------------------------------


class Rounded(constraints.Constraint):
    """Without state: two digits."""

    def __call__(self, w):
        return np.round(w, 2)


def test_own_class_and_function(rng):
    for own in (Rounded(), Rounded, lambda w: np.round(w.astype(np.float64), 2)):
        layer = Embedding(V, D, embeddings_constraint=own)
        table = layer.embeddings.numpy()
        assert np.array_equal(table, np.round(table, 2))
        expected = np.round(table - 0.1234, 2)
        optimizers.SGD(0.1234).apply([np.ones((V, D))], [layer.embeddings])
        np.testing.assert_allclose(table, expected, atol=0.0100001)
        assert np.array_equal(table, np.round(table, 2))
        layer.set_weights([np.full((V, D), 0.333)])
        assert np.array_equal(table, np.full((V, D), 0.33, np.float32))


def test_an_own_subclass_of_a_row_wise_one():
    class Half(constraints.UnitNorm):
        low = high = 0.5

    layer = Embedding(V, D, embeddings_constraint=Half(axis=1))
    np.testing.assert_allclose(np.linalg.norm(layer.embeddings.numpy(), axis=1), 0.5, rtol=1e-5)


@pytest.mark.parametrize("returned", [None, 1.0, np.ones(D), np.ones((V, 1)), np.full((V, D), "x")], ids=repr)
def test_an_own_function_that_returns_something_else(returned):
    good = np.ones((V, D), np.float32)
    layer = Embedding(V, D, weights=good, embeddings_constraint=lambda w: returned if w[0, 0] == 2 else w)
    with pytest.raises(ValueError, match="a constraint must return numbers of shape"):
        layer.embeddings.assign(2 * good)
    assert np.array_equal(layer.embeddings.numpy(), 2 * good)


def test_an_own_function_that_raises(rng):
    def fails(w):
        raise RuntimeError("no")

    layer = Embedding(V, D, embeddings_constraint=fails)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            layer([1])
        assert not layer.built


# ---- warnings, copies, names -------------------------------------------------------------------------


def test_the_warning_comes_once(recwarn, rng):
    """When the layer is made, and it points to the line that makes it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer = Embedding(V, D, embeddings_constraint=constraints.MaxNorm(1.0))
        layer([1, 2])
        gradient = layer.gradient([1], np.ones((1, D)))
        optimizers.SGD().apply_gradients([(gradient, layer.embeddings)])
        pickle.loads(pickle.dumps(copy.deepcopy(layer)))([1])
    assert len(caught) == 1
    assert "use axis=1" in str(caught[0].message)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in MAKE:
            Embedding(V, D, embeddings_constraint=ROW_WISE[name])
        Embedding(V, D, embeddings_constraint=np.abs)
        with pytest.raises(UserWarning, match="axis=1"):
            EmbeddingBag(V, D, embeddings_constraint="unit_norm")


@pytest.mark.parametrize("name", MAKE)
def test_copies_keep_it(name, rng):
    for axis in (0, 1):
        layer = Embedding(V, D, weights=ref.random_table(rng, V, D), embeddings_constraint=MAKE[name](axis))
        for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert np.array_equal(again.embeddings.numpy(), layer.embeddings.numpy())
            again.embeddings.assign(np.full((V, D), -2.0))
            expected = formula(name, np.full((V, D), -2.0), axis)
            np.testing.assert_allclose(again.embeddings.numpy(), expected, **CLOSE)
        again = Embedding.from_config(json.loads(json.dumps(layer.get_config())))
        assert again.embeddings_constraint.get_config() == layer.embeddings_constraint.get_config()
        assert type(again.embeddings.constraint) is type(layer.embeddings.constraint)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("max_norm", constraints.MaxNorm),
        ("maxnorm", constraints.MaxNorm),
        ("MaxNorm", constraints.MaxNorm),
        ("min_max_norm", constraints.MinMaxNorm),
        ("non_neg", constraints.NonNeg),
        ("nonneg", constraints.NonNeg),
        ("unit_norm", constraints.UnitNorm),
        ("unitnorm", constraints.UnitNorm),
    ],
)
def test_names(name, cls):
    for identifier in (name, cls, cls(), {"class_name": name, "config": {}}):
        assert type(constraints.get(identifier)) is cls
    assert constraints.get(None) is None
    assert repr(cls()).startswith(cls.__name__ + "(")


def test_config_values_stay_as_they_were_given():
    assert constraints.MaxNorm(2, 1).get_config() == {"max_value": 2, "axis": 1}
    assert type(constraints.MaxNorm(2).get_config()["max_value"]) is int
    assert constraints.MaxNorm(np.float64(1.5), np.int64(1)).get_config() == {"max_value": 1.5, "axis": 1}
    assert json.dumps(constraints.MaxNorm(np.int64(3), [np.int64(0), 1]).get_config())
    assert list(constraints.MinMaxNorm().get_config()) == ["min_value", "max_value", "rate", "axis"]


@pytest.mark.parametrize("value", [-1, np.nan, np.inf, 10**400, 1e308, "1", [1], True, {}, 1j], ids=repr)
def test_wrong_numbers(value):
    for make in (
        constraints.MaxNorm,
        lambda value: constraints.MinMaxNorm(min_value=value),
        lambda value: constraints.MinMaxNorm(max_value=value),
        lambda value: constraints.MinMaxNorm(rate=value),
    ):
        with pytest.raises(ValueError, match=r"must be a (finite )?number of at least 0"):
            make(value)


@pytest.mark.parametrize("axis", ["1", 1.0, True, [True], {}, [[1]], 10**400, "rows"], ids=repr)
def test_wrong_axes(axis):
    for make in (constraints.MaxNorm, constraints.MinMaxNorm, constraints.UnitNorm):
        with pytest.raises(ValueError, match="`axis` must be"):
            make(axis=axis)


@pytest.mark.parametrize("wrong", ["max", "", 3, [], ["max_norm"], int, np.ones(3), optimizers.SGD()], ids=str)
def test_what_is_no_constraint(wrong):
    with pytest.raises((ValueError, TypeError)):
        constraints.get(wrong)


def test_a_table_takes_no_bare_function():
    with pytest.raises(TypeError, match="`constraint` must be"):
        Table((V, D), constraint=np.abs)
