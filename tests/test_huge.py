"""Tables past 2^32 elements and past 2^32 rows, as sparse files of which a few pages are touched.

Do not break: a file is made only where files can be sparse, so no disk is filled; the programs run in a process of
their own, whose peak memory is checked.
"""

import os

import numpy as np
import pytest

from fastembed import Embedding, EmbeddingBag, Table, ops, optimizers

V, D = 70_000_000, 64  # 18 GB
MEMORY = (1000 if "libasan" in os.environ.get("LD_PRELOAD", "") else 100) << 20  # AddressSanitizer has its own
EDGE = 2**31 // D  # the first row whose elements have numbers that no int32 holds
HEAD = f"""
    import resource
    import sys

    import numpy as np
    import reference as ref
    from fastembed import Embedding, EmbeddingBag, Table, ops, optimizers

    V, D, EDGE = {V}, {D}, {EDGE}
    # Rows on both sides of 2^31 and 2^32 elements and of 2^31 and 2^32 bytes, the first and the last.
    ROWS = np.array([0, EDGE // 4, EDGE // 2 - 1, EDGE // 2, EDGE - 1, EDGE, 2 * EDGE - 1, 2 * EDGE, V - 1])
"""
TAIL = """
    if sys.platform == "linux":  # ru_maxrss counts what the parent had in memory before the fork
        with open("/proc/self/status") as status:
            peak = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak)
"""


@pytest.fixture
def sparse(tmp_path):
    """Makes .npy files of zeros that take no room; they are removed afterwards."""
    pytest.importorskip("resource")
    made = []

    def make(shape):
        path = tmp_path / f"sparse{len(made)}.npy"
        made.append(path)
        with open(path, "wb") as file:
            file.truncate(64 << 20)
        if os.stat(path).st_blocks * 512 > 8 << 20:
            pytest.skip(f"the file system of {tmp_path} has no sparse files")
        path.unlink()
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        return path

    yield make
    for path in made:
        path.unlink(missing_ok=True)


def small_peak(printed, more=0):
    assert int(printed) < MEMORY + more


def test_look_ups_and_steps_of_a_layer(sparse, run_python):
    """The layers' own way: a file as path, gradients, an optimizer without state."""
    path = sparse((V, D))
    body = """
    layer = Embedding(V, D, path=sys.argv[1])
    table = layer.embeddings.numpy()
    assert table.shape == (V, D) and isinstance(table, np.memmap)
    values = np.random.default_rng(1).standard_normal((len(ROWS), D)).astype(np.float32)
    table[ROWS] = values
    order = np.random.default_rng(2).integers(0, len(ROWS), 5000)
    for dtype in (np.int32, np.int64, np.uint32, np.float64):
        ids = ROWS[order].astype(dtype)
        assert np.array_equal(layer(ids), values[order])
    assert np.array_equal(layer.embeddings[ROWS], values)

    bag = EmbeddingBag(V, D, "sum")
    bag.adopt(layer.embeddings)
    splits = np.arange(0, 5001, 10)
    for combiner in ops.COMBINERS:
        bag.combiner = combiner
        expected = ref.pool(values, order, splits, None, combiner)
        assert np.allclose(bag(ids.reshape(-1, 10)), expected, atol=1e-5)

    for dtype in (np.int32, np.int64):
        upstream = np.random.default_rng(3).standard_normal((5000, D)).astype(np.float32)
        gradient = layer.gradient(ROWS[order].astype(dtype), upstream)
        expected = values - 0.5 * ref.gather_gradient(values.shape, order, upstream)[0]
        assert gradient.coalesce().indices.tolist() == ROWS.tolist()
        optimizers.SGD(0.5).apply_gradients([(gradient, layer.embeddings)])
        assert np.allclose(table[ROWS], expected, atol=1e-3)
        values = table[ROWS]
    near = np.setdiff1d(np.concatenate([ROWS[1:] - 1, ROWS[:-1] + 1, EDGE // 4 * np.arange(9)]), ROWS)
    assert not table[near].any()
    """
    small_peak(run_python(HEAD + body + TAIL, path))
    # What was written is in the file, and on no other page.
    assert os.stat(path).st_blocks * 512 < 8 << 20
    table = Table((V, D), path=path)
    assert table[[0, EDGE - 1, EDGE, V - 1]].all()


@pytest.mark.parametrize("step", ["momentum", "adagrad", "rowwise_adagrad", "adam"])
def test_steps_with_state_in_a_file(step, sparse, run_python):
    """State of more than 2^31 elements too."""
    width = ops.state_width(step, D)
    body = """
    step = sys.argv[3]
    table, state = (np.load(path, mmap_mode="r+") for path in sys.argv[1:3])
    given = {"momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-3}
    wanted, wanted_state = np.zeros((len(ROWS), D)), ref.initial_state(step, (len(ROWS), D))
    for t in range(1, 4):
        order = np.random.default_rng(t).integers(0, len(ROWS), 2000)
        upstream = np.random.default_rng(-t % 9).standard_normal((2000, D)).astype(np.float32)
        ops.update(table, ops.parts(ROWS[order], upstream), step, ref.hyper(step, t, 0.1, **given), state)
        gradient, touched = ref.gather_gradient(wanted.shape, order, upstream)
        ref.step(step, wanted, wanted_state, gradient, touched, t, 0.1, **given)
    assert np.allclose(table[ROWS], wanted, rtol=1e-4, atol=1e-4)
    wanted = np.concatenate([part.reshape(len(ROWS), -1) for part in wanted_state.values()], axis=1)
    assert np.allclose(state[ROWS], wanted, rtol=1e-4, atol=1e-3)
    """
    paths = sparse((V, D)), sparse((V, width))
    small_peak(run_python(HEAD + body + TAIL, *paths, step))
    assert all(os.stat(path).st_blocks * 512 < 8 << 20 for path in paths)


def test_optimizer_with_a_number_a_row(sparse, run_python):
    """RowwiseAdagrad keeps 4 bytes of state a row in memory, and never a second table."""
    body = """
    layer = Embedding(V, D, path=sys.argv[1])
    optimizer = optimizers.RowwiseAdagrad(0.1, epsilon=0.0)
    gradient = layer.gradient(ROWS, np.full((len(ROWS), D), 3.0))
    optimizer.apply_gradients([(gradient, layer.embeddings)])
    assert optimizer.variables[0].shape == (V, 1)
    assert np.allclose(layer(ROWS), -0.1)
    assert (optimizer.variables[0][ROWS] == 9).all()
    """
    small_peak(run_python(HEAD + body + TAIL, sparse((V, D))), more=4 * V)


def test_more_rows_than_int32(sparse, run_python):
    """Rows of one element: ids themselves are past 2^31, and past 2^32."""
    body = """
    V, D = 2**32 + 1000, 1
    table = np.load(sys.argv[1], mmap_mode="r+")
    assert table.shape == (V, D)
    rows = np.array([0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 1, V - 1])
    values = np.arange(1, 10, dtype=np.float32)
    ops.update(table, ops.parts(np.repeat(rows, 3), np.repeat(-values / 3, 3)[:, None]), "sgd", {"learning_rate": 1})
    assert np.allclose(table[rows, 0], values)
    assert np.allclose(ops.gather(table, rows)[:, 0], values)
    assert np.allclose(ops.gather(table, rows.astype(np.uint64))[:, 0], values)
    assert np.allclose(ops.pool(table, rows, [0, 4, 9], combiner="max")[:, 0], [4, 9])
    parts = ops.parts(rows[::-1], np.ones((9, 1)))
    assert ops.reduce(parts, ops.group(parts, V))[0].tolist() == rows.tolist()
    assert not table[[2, 999, 2**31 + 2, 2**32 - 2, 2**32 + 2]].any()
    """
    small_peak(run_python(HEAD + body + TAIL, sparse((2**32 + 1000, 1))))


def test_too_many_ids_for_one_update(sparse):
    """2^32 of them are refused before one is read."""
    ids = np.load(sparse((2**32,)), mmap_mode="r").view(np.int32)
    parts = ops.parts(ids, np.ones((1, 2), np.float32), [0, len(ids)])
    with pytest.raises(ValueError, match=r"too many ids or rows for one update: 4294967296 ids, 7 rows\."):
        ops.group(parts, 7)


@pytest.mark.parametrize("wrong", [2**31, 2**32, 2**32 + 1, 2**33 + 3, 2**62, 2**63 - 1, -(2**31), -(2**32) + 1])
def test_such_ids_are_no_rows_of_a_small_table(wrong):
    """An id that is cut to 32 bits would be one."""
    layer, bag = Embedding(10, 4), EmbeddingBag(10, 4)
    before = layer.embeddings.numpy().copy()
    ids, message = np.array([1, wrong]), rf"= {wrong} at flat position 1"
    adam = optimizers.Adam()
    for use in (
        lambda: layer(ids),
        lambda: bag(ids[None]),
        lambda: ops.pool(before, ids, [0, 2], np.ones(2), "max"),
        lambda: adam.apply_gradients([(layer.gradient(ids, np.ones((2, 4))), layer.embeddings)]),
    ):
        with pytest.raises(IndexError, match=message):
            use()
    assert np.array_equal(layer.embeddings.numpy(), before)
    assert adam.iterations == 0
