"""Tables of float64: look-ups, gradients, steps, layers and files against the float64 oracle, to its own precision.

Do not break: bounds here are those of double precision, except where rows catch up in closed form.
"""

import copy
import hashlib
import json
import pickle

import numpy as np
import pytest
import reference as ref
from test_isa import LAPSES
from test_modes import CASES, MODES, STEPS, D, Oracle, V, batches, fall, made
from test_ops import COMBINERS, DIMS, GIVEN, argmax_of, reduced
from test_ops import STEPS as OPS_STEPS

import fastembed
from fastembed import Embedding, EmbeddingBag, IndexedSlices, Table, constraints, initializers, ops, optimizers

THREADS = (1, 2, 7)


def close(actual, expected, scale=1.0):
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14 * scale)


def random_table(rng, v, d):
    return rng.standard_normal((v, d))


def digest(*arrays):
    """Of arrays of float64; NaN is one value, whichever of two NaNs the processor takes for their sum."""
    return hashlib.sha256(b"".join(np.where(array == array, array, np.nan).tobytes() for array in arrays)).hexdigest()


# ---- plain arrays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", DIMS)
def test_gather(d, rng, guarded):
    table, ids = guarded(random_table(rng, 50, d)), ref.random_ids(rng, 70, 50)
    out = guarded(np.zeros((70, d)))
    assert ops.gather(table, ids, out=out) is out
    assert np.array_equal(out, table[ids])
    assert np.array_equal(ops.gather(table, ids), out)
    with pytest.raises(TypeError, match="`out` must be a float64 NumPy array"):
        ops.gather(table, ids, out=np.zeros((70, d), np.float32))


def test_gather_past_the_caches(rng, guarded):
    for d in (8, 16, 64, 100):
        table, ids = random_table(rng, 1000, d), ref.random_ids(rng, 70_000, 1000)
        out = guarded(np.zeros((70_000, d)))
        assert np.array_equal(ops.gather(table, ids, out=out), table[ids])
        assert np.array_equal(ops.gather(table, ids), table[ids])


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("d", DIMS)
def test_pool_and_gradients(d, combiner, rng, guarded):
    v, n, b = 30, 90, 20
    table = guarded(random_table(rng, v, d))
    ids, splits = ref.random_ids(rng, n, v), ref.random_splits(rng, n, b)
    ids[splits[3] : splits[4]] = 0  # a bag of padding alone
    upstream = rng.standard_normal((b, d))
    for weights in (None, rng.uniform(0.5, 2, n)):
        for padding_idx in (None, 0, v - 1):
            given = (weights, combiner, padding_idx)
            out = guarded(np.zeros((b, d)))
            ops.pool(table, ids, splits, weights, combiner, out, padding_idx)
            close(out, ref.pool(table, ids, splits, *given), scale=10)
            dense, touched = ref.pool_gradient(table, ids, splits, upstream, *given)
            arg = argmax_of(combiner, table, ids, splits, weights, padding_idx)
            rows, values = reduced(ids, upstream, v, splits, *given, argmax=arg)
            assert rows.tolist() == sorted(touched)
            close(values, dense[rows], scale=100)
            if weights is not None:
                gradient = ops.weights_gradient(table, ids, splits, weights, combiner, upstream, padding_idx)
                close(gradient, ref.weights_gradient(table, ids, splits, upstream, *given), scale=100 * d**0.5)


@pytest.mark.parametrize("step", OPS_STEPS)
@pytest.mark.parametrize("d", DIMS)
def test_update(d, step, rng, guarded):
    v, n = 40, 60
    table = guarded(random_table(rng, v, d))
    width = ops.state_width(step, d)
    start = ops.state_parts(step, d).get("accumulator")
    state = guarded(np.zeros((v, width))) if width else None
    if start:
        state[:, start] = 0.1
    wanted, wanted_state = table.copy(), ref.initial_state(step, (v, d), accumulator=0.1)
    for t in range(1, 4):
        ids = ref.random_ids(rng, n, v // t)
        upstream = rng.standard_normal((n, d))
        ops.update(table, ops.parts(ids, upstream), step, ref.hyper(step, t, 0.1, **GIVEN), state)
        gradient, touched = ref.gather_gradient((v, d), ids, upstream)
        ref.step(step, wanted, wanted_state, gradient, touched, t, 0.1, **GIVEN)
        close(table, wanted, scale=1000)
        if width:
            close(state, np.concatenate([x.reshape(v, -1) for x in wanted_state.values()], axis=1), scale=1000)


def test_powers(rng):
    """Of numbers of all sizes, in steps of Ftrl."""
    old = 10.0 ** rng.uniform(-150, 150, (20, 9))
    table, state = np.zeros((20, 9)), np.concatenate([old, np.zeros((20, 9))], 1)
    hyper = {"learning_rate": 1.0, "power": 0.7}
    upstream = np.sqrt(old)
    ops.update(table, ops.parts(np.arange(20), upstream), "ftrl", hyper, state)
    new = old + upstream * upstream
    close(state[:, :9], new)
    np.testing.assert_allclose(table, -upstream / new**0.7, rtol=1e-12)


def test_dtypes_are_converted(rng):
    """Gradients of either dtype for tables of either; the table's decides."""
    ids, upstream = ref.random_ids(rng, 3000, 50), rng.standard_normal((3000, 4))
    for real in (np.float32, np.float64):
        tables = []
        for given in (np.float32, np.float64):
            parts = ops.parts(ids, upstream.astype(np.float32).astype(given))
            for groups in (None, ops.group(parts, 50)):
                table = np.zeros((50, 4), real)
                ops.update(table, parts, "sgd", {"learning_rate": 1.0}, groups=groups)
                tables.append(table)
            table = np.zeros((50, 4), real)
            optimizers.SGD(1.0).apply([IndexedSlices(parts.upstream_bd, ids, (50, 4))], [table])
            tables.append(table)
        assert all(np.array_equal(table, tables[0]) for table in tables)
    single = np.zeros((50, 4), np.float32)
    for table, state in ((tables[0], single), (single, tables[0])):
        with pytest.raises(TypeError, match="`state` must be float64 where the table is, and only there"):
            ops.update(table, ops.parts(ids, upstream), "adagrad", {"learning_rate": 1.0}, state)


def test_finite_numbers(rng):
    for n in (1, 2, 3, 4, 5, 9, 16, 33, 200_000):
        for bad in (np.nan, np.inf, -np.inf):
            x = rng.standard_normal((1, n)) * 1e300
            assert ops.finite(x)
            x[0, rng.integers(n)] = bad
            assert not ops.finite(x)


def test_sums(rng):
    x = rng.standard_normal((700, 333))
    np.testing.assert_allclose(ops.sums(x), (np.abs(x).sum(), np.square(x).sum()), rtol=1e-13)


# ---- the same bits ---------------------------------------------------------------------------------------------------

PROGRAM = """
    import json
    import sys

    import fastembed
    import numpy as np
    import reference as ref
    from fastembed import ops
    from lapses import lapse
    from test_float64 import digest, random_table

    HYPER = {"learning_rate": 0.1, "momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7}
    HYPER |= {"weight_decay": 0.01, "scale_m": 1.1, "scale_g": 0.9, "scale_v": 1.2, "l1": 0.1, "l2": 0.2}
    HYPER |= {"l2_shrinkage": 0.3, "power": 0.7}
    LAPSE = (0.01, (0.9, 0.99, 0.7), (0.5, -0.25, 0.75, 1.5, -1.0, 0.3))
    V, N, B = 60, 12_000, 800
    digests = {}
    threads = json.loads(sys.argv[1])
    for d in (1, 3, 7, 8, 9, 17, 33, 64, 65):
        rng = np.random.default_rng(d)
        ids, splits = ref.random_ids(rng, N, V), ref.random_splits(rng, N, B)
        ids[rng.random(N) < 0.4] = 5
        table = random_table(rng, V, d) * 10.0 ** rng.integers(-320, 100, (V, d))
        upstream = rng.standard_normal((N, d)) * 10.0 ** rng.integers(-200, 4, (N, 1))
        weights, bags = rng.uniform(-1, 2, N), upstream[:B]
        table[7, ::3], table[8, ::2] = np.nan, np.inf
        for num_threads in threads:
            fastembed.set_num_threads(num_threads)
            found = {"gather": digest(ops.gather(table, ids))}
            for combiner in ops.COMBINERS:
                for w, padding_idx in ((None, None), (weights, None), (weights, 5)):
                    given = (ids, splits, w, combiner)
                    name = f"{combiner} {'weighted' if w is not None else 'plain'} {padding_idx}"
                    found[f"pool {name}"] = digest(ops.pool(table, *given, padding_idx=padding_idx))
                    arg = ops.argmax(table, ids, splits, w, padding_idx) if combiner == "max" else None
                    parts = ops.parts(ids, bags, splits, w, combiner, padding_idx, arg)
                    found[f"reduce {name}"] = digest(*ops.reduce(parts, ops.group(parts, V)))
                    if w is not None:
                        gradient = ops.weights_gradient(table, ids, splits, w, combiner, bags, padding_idx)
                        found[f"weights_gradient {name}"] = digest(gradient)
            columns = np.linspace(0.5, 2, d)
            for step, power in [(step, 0.7) for step in ops.STATES] + [("ftrl", 0.5)]:
                width, hyper = ops.state_width(step, d), {**HYPER, "power": power, "columns": columns}
                stepped, state = table.copy(), np.full((V, width), 1e-3) if width else None
                sums = []
                for t in range(2):
                    parts = ops.parts(ids, upstream * 0.1**t)
                    sums += ops.run([ops.Update(stepped, parts, step, hyper, state, ops.group(parts, V))])
                sums += ops.run([ops.Update(stepped, upstream[:V], step, hyper, state)])
                found[f"{step} {power}"] = digest(stepped, np.array(sums), *([] if state is None else [state]))
                try:
                    lapse(step, stepped, state, HYPER, *LAPSE)
                except ValueError:
                    continue
                found[f"lapse {step}"] = digest(stepped, *([] if state is None else [state]))
            for kind in ("uniform", "normal", "truncated_normal"):
                filled, single = np.empty((1001, d)), np.empty((1001, d), np.float32)
                for array in (filled, single):
                    ops.fill(array, kind, -0.7, 0.3, seed=2**40 + d, first_row=2**32 - 50)
                assert (filled == single).all()
                found[kind] = digest(filled)
            first = digests.setdefault(str(d), found)
            assert [name for name in found if found[name] != first[name]] == [], num_threads
    print(json.dumps(digests))
"""


@pytest.fixture(scope="module")
def digests():
    """What each instruction set gave; filled by the test below."""
    return {}


@pytest.mark.parametrize("isa", ops.usable_isas())
def test_same_bits(isa, digests, run_python):
    """On every instruction set and with any number of threads."""
    found = json.loads(run_python(PROGRAM, json.dumps(THREADS if isa == ops.isa else [2]), FASTEMBED_ISA=isa))
    assert all(sum("lapse" in name for name in of_dim) == LAPSES for of_dim in found.values())
    assert found == digests.setdefault("first", found)


def test_same_bits_of_a_training(threads):
    found = set()
    for number in THREADS:
        threads(number)
        rng = np.random.default_rng(5)
        table = Table((3000, 40), "float64")
        table.assign(random_table(rng, 3000, 40))
        optimizer = optimizers.Adam(0.01, untouched="catch_up", weight_decay=0.1, clipnorm=1.0)
        for _ in range(4):
            ids = ref.random_ids(rng, 20_000, 3000)
            optimizer.apply([IndexedSlices(rng.standard_normal((20_000, 40)), ids, (3000, 40))], [table])
        found.add(digest(table.numpy(), *optimizer.variables))
    assert len(found) == 1


# ---- optimizers ------------------------------------------------------------------------------------------------------


def slices(ids, values):
    return IndexedSlices(values, ids, (V, D))


def wide_batches(rng):
    """batches() of float64."""
    for ids, values in batches(rng):
        yield ids, values + rng.standard_normal(values.shape) * 1e-9


@pytest.mark.parametrize("decays", [False, True], ids=["plain", "weight decay, schedule"])
@pytest.mark.parametrize(("case", "mode"), MODES)
def test_oracle(case, mode, decays, rng):
    """50 steps, with look-ups on the way. Missed steps that are leaped are exact to 1e-6 of a row's way."""
    table = Table((V, D), "float64")
    table.assign(random_table(rng, V, D))
    start = table.numpy().copy()
    rate, decay, more = CASES[case][3], None, {}
    if decays:
        rate = more["learning_rate"] = fall(rate)
    if decays and CASES[case][1].decoupled:
        decay = more["weight_decay"] = 0.3
    optimizer, oracle = made(case, untouched=mode, **more), Oracle(case, start, rate, decay)
    bound = {"rtol": 1e-10, "atol": 1e-11}
    if decay and mode == "skip" and "adafactor" in case:  # see test_modes.py
        bound = {"rtol": 3e-4, "atol": 2e-3}
    for t, (ids, values) in enumerate(wide_batches(rng)):
        optimizer.apply_gradients([(slices(ids, values), table)])
        gradient, touched = ref.gather_gradient((V, D), ids, values)
        oracle.step(gradient, touched if mode == "skip" else range(V))
        history = optimizer._known(table).history
        if history is not None and history.leaped:
            bound = {"rtol": 1e-6, "atol": 2e-6}
        if t % 7 == 3:
            some = rng.integers(0, V, 5)
            np.testing.assert_allclose(table[some], oracle.table[some], **bound)
    np.testing.assert_allclose(table.numpy(), oracle.table, **bound)
    state = optimizer.state(table)
    for name, part in oracle.state.items():
        assert state[name].dtype == np.float64
        np.testing.assert_allclose(state[name], part, **{**bound, "rtol": max(bound["rtol"], 1e-9)})


@pytest.mark.parametrize("shape", [(7,), (30, 9), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("case", ["adam of Keras", "nadam", "rowwise", "momentum"])
def test_dense(case, shape, rng):
    """Plain arrays of any rank, beside one of float32 in the same optimizer."""
    array, single = rng.standard_normal(shape), rng.standard_normal(shape).astype(np.float32)
    optimizer, oracle = made(case), Oracle(case, array.reshape(-1, shape[-1]))
    alone, beside = made(case), single.copy()
    for _ in range(STEPS):
        gradient = rng.standard_normal(shape)
        optimizer.apply([gradient, gradient], [array, single])
        alone.apply([gradient], [beside])
        oracle.step(gradient.reshape(oracle.table.shape), range(len(oracle.table)))
    np.testing.assert_allclose(array, oracle.table.reshape(shape), rtol=1e-11, atol=1e-12)
    assert np.array_equal(single, beside)


def test_what_all_optimizers_do(rng):
    """Clipping, averages, accumulation, loss scales and learning rates of rows, by hand."""
    w = rng.standard_normal((20, 5))
    gradients = rng.standard_normal((3, 20, 5))
    start = w.copy()

    array = start.copy()
    optimizers.SGD(0.1, clipnorm=0.7).apply([gradients[0]], [array])
    close(array, start - 0.1 * gradients[0] * 0.7 / np.linalg.norm(gradients[0]))

    arrays = [start.copy(), start.copy()]
    optimizers.SGD(0.1, global_clipnorm=0.7).apply(gradients[:2], arrays)
    close(arrays[0], start - 0.1 * gradients[0] * 0.7 / np.linalg.norm(gradients[:2]))

    array = start.copy()
    optimizers.SGD(0.1, clipvalue=0.3, loss_scale_factor=3.0).apply([gradients[0] * 3.0], [array])
    close(array, start - 0.1 * np.clip(gradients[0], -0.3, 0.3))

    array, ema = start.copy(), optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    wanted = average = start
    for t, gradient in enumerate(gradients):
        ema.apply([gradient], [array])
        wanted = wanted - 0.1 * gradient
        average = wanted if t == 0 else 0.9 * average + 0.1 * wanted
    close(array, wanted)
    close(ema.average(array), average, scale=10)

    array, adds = start.copy(), optimizers.SGD(0.1, gradient_accumulation_steps=3)
    for gradient in gradients[:2]:
        adds.apply([gradient], [array])
    adds.apply([IndexedSlices(gradients[2], np.arange(20), (20, 5))], [array])
    close(array, start - 0.1 * gradients.mean(0), scale=10)

    table = Table((20, 5), "float64")
    table.assign(start)
    table.scale_learning_rate([3], 0.1)
    table.freeze([4])
    optimizers.SGD(0.1).apply([gradients[0]], [table])
    scales = np.ones((20, 1))
    scales[3], scales[4] = 0.1, 0
    close(table.numpy(), start - 0.1 * scales * gradients[0])


def test_state_dtype(rng):
    table = Table((4, 2), "float64")
    with pytest.raises(ValueError, match="`state_dtype` must be 'float32' where a variable"):
        optimizers.Adam(state_dtype="bfloat16").build([table])


@pytest.mark.parametrize(
    "constraint", [constraints.MaxNorm(1.0, axis=1), constraints.UnitNorm(axis=1), constraints.NonNeg()], ids=repr
)
def test_constraints(constraint, rng):
    layer = Embedding(V, D, dtype="float64", embeddings_constraint=constraint, weights=random_table(rng, V, D))
    ids, upstream = ref.random_ids(rng, 20, 9), rng.standard_normal((20, D))
    before = layer.embeddings.numpy().copy()
    gradient, _ = ref.gather_gradient((V, D), ids, upstream)
    optimizers.SGD(0.1).apply([layer.gradient(ids, upstream)], [layer.embeddings])
    rows = np.unique(ids)
    close(layer.embeddings.numpy()[rows], constraint((before - 0.1 * gradient)[rows]), scale=10)


def test_constraint_of_columns(rng):
    start = random_table(rng, V, D)
    with pytest.warns(UserWarning, match="axis"):
        layer = Embedding(V, D, dtype="float64", embeddings_constraint=constraints.MaxNorm(1.0), weights=start)
    norms = np.sqrt(np.square(start).sum(0))
    close(layer.embeddings.numpy(), start * (np.minimum(norms, 1) / (1e-7 + norms)), scale=10)


# ---- layers ----------------------------------------------------------------------------------------------------------


def test_weights_are_kept_in_full(rng):
    start = random_table(rng, V, D)
    layer = Embedding(V, D, dtype="float64", weights=start)
    ids = rng.integers(0, V, (3, 4))
    for got in (layer(ids), layer.embeddings[ids], np.asarray(layer.embeddings)[ids], layer.get_weights()[0][ids]):
        assert got.dtype == np.float64
        assert np.array_equal(got, start[ids])
    assert (layer.dtype, layer.compute_dtype, layer.dtype_policy) == ("float64",) * 3
    assert layer.embeddings.nbytes == V * D * 8
    out = np.empty((3, 4, D))
    assert layer(ids, out=out) is out
    layer.embeddings.assign(start + 1e-12)
    assert np.array_equal(layer.embeddings.numpy(), start + 1e-12)
    assert layer.embeddings.to_float32().dtype == np.float32
    assert np.array_equal(layer.embeddings[2:5], start[2:5] + 1e-12)


@pytest.mark.parametrize("name", ["uniform", "normal", "truncated_normal", "glorot_uniform", "he_normal", "ones"])
def test_initial_values_are_those_of_float32(name):
    """The same seed gives the same values."""
    tables = []
    for dtype in ("float32", "float64"):
        initializer = initializers.get(name)
        if hasattr(initializer, "seed"):
            initializer = type(initializer).from_config({**initializer.get_config(), "seed": 7})
        tables.append(Embedding(1000, 48, initializer, dtype=dtype).embeddings.numpy())
        array = initializer((5, 3), dtype=dtype)
        assert array.dtype == dtype
    assert tables[1].dtype == np.float64
    assert np.array_equal(*tables)


def test_initializers_that_are_exact():
    table = Embedding(300, 7, initializers.Orthogonal(seed=1), dtype="float64").embeddings.numpy()
    close(table.T @ table, np.eye(7), scale=10)
    assert (Embedding(5, 3, initializers.Constant(0.1), dtype="float64").embeddings.numpy() == 0.1).all()
    array = np.arange(15).reshape(5, 3) / 7
    assert np.array_equal(Embedding(5, 3, array, dtype="float64").embeddings.numpy(), array)
    asked = []

    def function(shape, dtype=None):
        asked.append(dtype)
        return np.full(shape, 1 / 3, dtype)

    assert (Embedding(5, 3, function, dtype="float64").embeddings.numpy() == 1 / 3).all()
    assert asked == ["float64"]


@pytest.mark.parametrize("make", [Embedding, EmbeddingBag])
@pytest.mark.parametrize("dtype", ["float64", np.float64])
def test_config_and_files(make, dtype, rng, tmp_path):
    layer = make(V, D, dtype=dtype, padding_idx=3, name="a")
    layer.set_weights([random_table(rng, V, D)])
    for version in (2, 3):
        again = make.from_config(layer.get_config(version))
        assert again.get_config() == layer.get_config()
        assert again.embeddings.dtype == np.float64
    layer.save(tmp_path / "layer")
    for mode in (None, "r", "r+", "c"):
        loaded = fastembed.load(tmp_path / "layer", mode)
        assert loaded.embeddings.dtype == np.float64
        assert np.array_equal(loaded.embeddings.numpy(), layer.embeddings.numpy())
        ids = [[1, 2, 3]]
        assert np.array_equal(loaded(ids), layer(ids))
        if mode == "r+":
            optimizers.SGD(1.0).apply([loaded.gradient(ids, np.ones_like(loaded(ids)))], [loaded.embeddings])
            layer.embeddings.assign(loaded.embeddings.numpy())
    for copied in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert np.array_equal(copied.embeddings.numpy(), layer.embeddings.numpy())
        assert copied.embeddings.storage == "float64"


def test_a_table_in_a_file(rng, tmp_path):
    start = random_table(rng, V, D)
    layer = Embedding(V, D, dtype="float64", path=tmp_path / "table.npy", weights=start)
    optimizers.SGD(0.5).apply([layer.gradient([3], np.ones((1, D)))], [layer.embeddings])
    del layer
    start[3] -= 0.5
    assert np.array_equal(np.load(tmp_path / "table.npy"), start)
    assert np.array_equal(Table((V, D), "float64", tmp_path / "table.npy").numpy(), start)
    with pytest.raises(ValueError, match="`path` must hold float32"):
        Table((V, D), "float32", tmp_path / "table.npy")


@pytest.mark.parametrize("case", ["adam of Keras", "nadam", "adafactor", "ftrl", "momentum"])
@pytest.mark.parametrize("mode", ["skip", "catch_up"])
def test_checkpoint(case, mode, rng, tmp_path):
    """Training goes on with the same bits; so does a pickled one."""
    start, bias = random_table(rng, V, D), rng.standard_normal(4)
    all_batches = list(wide_batches(rng))

    def training():
        table = Table((V, D), "float64")
        table.assign(start)
        table.scale_learning_rate([2], 0.0)
        return table, bias.copy(), made(case, untouched=mode, gradient_accumulation_steps=2)

    def train(table, array, optimizer, these):
        for ids, values in these:
            optimizer.apply([slices(ids, values), values[0, :4].copy()], [table, array])

    whole = training()
    train(*whole, all_batches)
    first = training()
    train(*first, all_batches[:25])
    table, array, optimizer = pickle.loads(pickle.dumps(first))
    fastembed.Checkpoint({"table": first[0], "bias": first[1]}, first[2]).save(tmp_path / "training")
    train(table, array, optimizer, all_batches[25:])
    assert np.array_equal(table.numpy(), whole[0].numpy())
    second = training()
    fastembed.Checkpoint({"table": second[0], "bias": second[1]}, second[2]).restore(tmp_path / "training")
    train(*second, all_batches[25:])
    assert np.array_equal(second[0].numpy(), whole[0].numpy())
    assert np.array_equal(second[1], whole[1])
    other = Table((V, D)), second[1], made(case, untouched=mode, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="float32"):
        fastembed.Checkpoint({"table": other[0], "bias": other[1]}, other[2]).restore(tmp_path / "training")


@pytest.mark.parametrize("regularizer", ["l2", "l1", fastembed.regularizers.OrthogonalRegularizer(0.3)])
@pytest.mark.parametrize("combiner", [None, *COMBINERS])
def test_gradients_by_differences(combiner, regularizer, rng):
    """Of a loss with all that a layer adds to it."""
    v, d, step = 6, 3, 1e-6
    more = {"dtype": "float64", "embeddings_regularizer": regularizer, "activity_regularizer": "l2", "padding_idx": 0}
    layer = Embedding(v, d, **more) if combiner is None else EmbeddingBag(v, d, combiner, **more)
    layer.set_weights([random_table(rng, v, d)])
    ids = np.array([[1, 2, 2], [3, 0, 5], [4, 4, 1]])
    weights = () if combiner is None else (rng.uniform(0.5, 2, ids.shape),)
    upstream = rng.standard_normal(layer(ids).shape)
    table = layer.embeddings.numpy()

    def loss():
        return float((layer(ids, *weights) * upstream).sum()) + sum(layer.losses)

    layer(ids, *weights)
    gradient = layer.gradient(ids, upstream, *weights)
    dense = gradient.to_dense()
    assert dense.dtype == np.float64
    for index in np.ndindex(v, d):
        if index[0] == 0:
            continue
        value, sides = table[index], []
        for side in (step, -step):
            table[index] = value + side
            sides.append(loss())
        table[index] = value
        np.testing.assert_allclose(dense[index], (sides[0] - sides[1]) / (2 * step), rtol=1e-6, atol=1e-8)
    if combiner is not None and regularizer == "l2":
        plain = EmbeddingBag(v, d, combiner, dtype="float64", weights=table)
        by_weight = plain.weights_gradient(ids, upstream, *weights)
        assert by_weight.dtype == np.float64
        for index in np.ndindex(ids.shape):
            sides = []
            for side in (step, -step):
                changed = weights[0].copy()
                changed[index] += side
                sides.append((plain(ids, changed) * upstream).sum())
            np.testing.assert_allclose(by_weight[index], (sides[0] - sides[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_lora(rng):
    """A and B are float32; what they give is float64."""
    start = random_table(rng, V, D)
    layer = Embedding(V, D, dtype="float64", weights=start)
    layer.enable_lora(3, b_initializer="normal")
    assert [table.storage for table in layer.weights] == ["float64", "float32", "float32"]
    ids = ref.random_ids(rng, 20, V)
    a, b = layer.lora_embeddings_a.numpy(), layer.lora_embeddings_b.numpy()
    close(layer(ids), (start + a.astype(np.float64) @ b)[ids], scale=10)
    gradients = layer.lora_gradients(ids, rng.standard_normal((20, D)))
    optimizers.Adam(0.1).apply(gradients, layer.trainable_weights)
    merged = start + a.astype(np.float64) @ b
    close(layer(ids), merged[ids], scale=10)
    layer.merge_lora()
    close(layer.embeddings.numpy(), merged, scale=10)


@pytest.mark.parametrize("mode", ["int8", "int4", "int2"])
def test_quantize(mode, rng):
    """As the same numbers of float32."""
    start = ref.random_table(rng, V, D)
    layers = [Embedding(V, D, dtype=dtype, weights=start) for dtype in ("float32", "float64")]
    for layer in layers:
        layer.quantize(mode)
    assert np.array_equal(layers[0]([1, 2]), layers[1]([1, 2]))


def test_loaded_where_it_is_needed(run_python):
    """Who has no table of float64 does not load the drivers for it."""
    program = """
        import sys
        import numpy as np
        import fastembed

        layer, optimizer = fastembed.EmbeddingBag(100, 8), fastembed.optimizers.Adam(0.1, untouched="catch_up")
        ids = np.array([[1, 2], [3, 4]])
        optimizer.apply([layer.gradient(ids, np.ones((2, 8)))], [layer.embeddings])
        layer(ids)
        print("fastembed._core64" in sys.modules)
        fastembed.Table((3, 2), "float64")
        print("fastembed._core64" in sys.modules)
    """
    assert run_python(program) == "False\nTrue\n"
