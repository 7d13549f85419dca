"""Columns and tensors of other libraries: into layers, as `Ragged` and back, and tables out.

Do not break: "no copy" is checked against the memory of the other library, not by what came out.
"""

import array
import gc
import re
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from peers import need, peer

import fastembed
from fastembed import Ragged, Table, ops
from fastembed.interop import as_ragged, to_arrow, to_awkward, to_pandas, to_polars, to_tensorflow, to_torch

ROWS = [[1, 2], [], [3], [4, 5, 6], []]
NESTED = [[[1], [2, 3]], [], [[], [4]]]
VECTORS = [[[1.0, 2.0], [3.0, 4.0]], [], [[5.0, 6.0]]]
RAGGED = {
    "flat": Ragged.from_lists(ROWS),
    "int32 splits": Ragged(np.arange(3.0, dtype=np.float32), np.array([0, 1, 1, 3], np.int32)),
    "nested": Ragged.from_lists(NESTED),
    "vectors": Ragged(np.arange(6.0).reshape(3, 2), [0, 2, 2, 3]),
    "not contiguous": Ragged(np.arange(12, dtype=np.uint8)[::2], [0, 4, 6]),
    "no rows": Ragged.from_lists([]),
    "empty rows": Ragged.from_lists([[], []]),
}


class OnlyDLPack:
    """An array of a library that NumPy knows nothing of."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.device


class OnlyInterface:
    def __init__(self, array):
        self.array, self.__array_interface__ = array, array.__array_interface__


class OnlyArray:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


IDS = np.array([3, 1, 4, 1, 5])
FOREIGN = {
    "dlpack": OnlyDLPack,
    "__array_interface__": OnlyInterface,
    "__array__": OnlyArray,
    "memoryview": memoryview,
    "array": lambda ids: array.array("q", ids.tolist()),
}


# ---- flat ids, values, weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_ids_of_any_kind(make):
    """Look-ups and gradients take whatever NumPy reads, of any shape."""
    layer = fastembed.Embedding(10, 4, mask_zero=True)
    ids, upstream = make(IDS), np.arange(20, dtype=np.float32).reshape(5, 4)
    assert np.array_equal(layer(ids), layer(IDS))
    assert np.array_equal(layer.embeddings[ids], layer(IDS))
    assert layer.compute_mask(ids).tolist() == layer.compute_mask(IDS).tolist()
    for given in (upstream, OnlyDLPack(upstream)):
        gradient, expected = layer.gradient(ids, given).to_dense(), layer.gradient(IDS, upstream).to_dense()
        assert np.array_equal(gradient, expected)
    if make is not FOREIGN["array"]:
        found, shape = ops.flat_ids(ids)
        assert shape == (5,)
        assert np.shares_memory(found, IDS)


def test_dlpack_elsewhere():
    """Weights, matrices of ids, values and row splits, initial weights, assigned values."""
    bag, ids = fastembed.EmbeddingBag(10, 4), np.array([[1, 2], [3, 4]])
    weights, upstream = np.array([[0.5, 1], [2, 3]], np.float32), np.ones((2, 4), np.float32)
    assert np.array_equal(bag(OnlyDLPack(ids), OnlyDLPack(weights)), bag(ids, weights))
    got = bag.gradient(OnlyDLPack(ids), OnlyDLPack(upstream), OnlyDLPack(weights))
    assert np.array_equal(got.to_dense(), bag.gradient(ids, upstream, weights).to_dense())
    splits = np.array([0, 2, 5])
    ragged = Ragged(OnlyDLPack(IDS), OnlyDLPack(splits))
    assert np.shares_memory(ragged.values, IDS)
    assert np.shares_memory(ragged.row_splits, splits)
    assert ragged.with_values(OnlyDLPack(IDS + 1)).to_list() == [[4, 2], [5, 2, 6]]
    values = np.arange(40, dtype=np.float32).reshape(10, 4)
    assert np.array_equal(fastembed.Embedding(10, 4, weights=OnlyDLPack(values)).embeddings.numpy(), values)
    bag.embeddings.assign(OnlyDLPack(values))
    assert np.array_equal(bag.embeddings.numpy(), values)


def test_read_only_ids():
    ids = IDS.copy()
    ids.flags.writeable = False
    layer = fastembed.Embedding(10, 4)
    assert np.array_equal(layer(memoryview(ids)), layer(IDS))


BAD_IDS = [
    (OnlyDLPack(IDS, (2, 0)), TypeError, "`ids` must be in the memory of the CPU. Received: ids of type OnlyDLPack"),
    (OnlyDLPack(IDS + 0.5), ValueError, "whole numbers"),
    ([[1], [2, 3]], ValueError, "fastembed.Ragged.from_lists(...) or fastembed.interop.as_ragged(...)"),
    (np.array([[1], [2, 3]], object), TypeError, "as_ragged(...) makes ids. Received: ids of dtype object"),
    (["a"], TypeError, "`ids` must be integers. Received: ids of dtype <U1"),
]


@pytest.mark.parametrize(("ids", "error", "message"), BAD_IDS, ids=[str(i) for i in range(len(BAD_IDS))])
def test_bad_ids(ids, error, message):
    with pytest.raises(error) as caught:
        fastembed.Embedding(10, 4)(ids)
    assert message in str(caught.value)


def test_pinned_memory_is_read():
    """Memory that the processor and another device share."""
    assert ops.flat_ids(OnlyDLPack(IDS, (1, 0)))[0].tolist() == IDS.tolist()
    for device in (3, 13):
        seen = OnlyArray(IDS)
        seen.__dlpack__, seen.__dlpack_device__ = IDS.__dlpack__, lambda device=device: (device, 0)
        assert np.shares_memory(ops.flat_ids(seen)[0], IDS)


def test_flat_columns_of_arrow():
    pa = peer("pyarrow")
    layer, ids = fastembed.Embedding(10, 4), pa.array(IDS)
    assert np.array_equal(layer(ids), layer(IDS))
    assert np.array_equal(layer(pa.chunked_array([IDS[:2], IDS[2:]])), layer(IDS))
    assert ops.flat_ids(ids)[0].ctypes.data == ids.buffers()[1].address
    with pytest.raises(ValueError, match=r"Received: ids\[1\] = nan"):
        layer(pa.array([1, None]))
    with pytest.raises(TypeError, match="as_ragged"):
        layer(pa.array([[1], [2, 3]]))


def test_flat_columns_of_polars():
    pl = peer("polars")
    layer, ids = fastembed.Embedding(10, 4), pl.Series(IDS)
    assert np.array_equal(layer(ids), layer(IDS))
    assert np.shares_memory(ops.flat_ids(ids)[0], ids.to_numpy(allow_copy=False))
    with pytest.raises(TypeError, match="as_ragged"):
        layer(pl.Series([[1], [2, 3]]))


@pytest.mark.parametrize("dtype", ["int64", "Int64", "int64[pyarrow]", "category"])
def test_flat_columns_of_pandas(dtype):
    pd = peer("pandas")
    if "pyarrow" in dtype:
        need("pyarrow")
    layer, ids = fastembed.Embedding(10, 4), pd.Series(IDS, dtype=dtype)
    assert np.array_equal(layer(ids), layer(IDS))
    if dtype == "int64":
        assert layer(pd.DataFrame({"a": ids, "b": ids})).shape == (5, 2, 4)
    if dtype != "category":
        assert np.shares_memory(ops.flat_ids(ids)[0], ids.to_numpy())


def test_tensors_of_torch():
    torch = peer("torch")
    layer, ids = fastembed.Embedding(10, 4), torch.tensor(IDS)
    assert np.array_equal(layer(ids), layer(IDS))
    assert ops.flat_ids(ids)[0].ctypes.data == ids.data_ptr()
    with pytest.raises(TypeError, match="cpu"):
        layer(ids.to("meta"))
    with pytest.raises(RuntimeError, match="requires grad"):
        layer(torch.ones(2, requires_grad=True))
    with pytest.raises(ValueError, match="as_ragged"):
        layer(torch.nested.nested_tensor([ids], layout=torch.jagged))


def test_tensors_of_jax():
    jax = peer("jax")
    layer, ids = fastembed.Embedding(10, 4), jax.numpy.asarray(IDS, np.int32)
    assert np.array_equal(layer(ids), layer(IDS))
    assert ops.flat_ids(ids)[0].ctypes.data == ids.unsafe_buffer_pointer()
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(layer)(ids)


def test_tensors_of_tensorflow():
    tf = peer("tensorflow")
    layer = fastembed.Embedding(10, 4)
    assert np.array_equal(layer(tf.constant(IDS)), layer(IDS))


# ---- tables out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_dlpack_of_tables(dtype):
    table = Table((4, 3), dtype)
    assert table.__dlpack_device__() == (1, 0)
    for view in (np.from_dlpack(table), np.asarray(table), np.asarray(OnlyInterface(table))):
        assert view.dtype == dtype
        assert view.shape == (4, 3)
        assert view.ctypes.data == table.numpy().ctypes.data
    view = np.asarray(OnlyInterface(table))
    view[1] = 7
    assert table[[1]].tolist() == [[7, 7, 7]]


@pytest.mark.parametrize("make", [np.from_dlpack, OnlyInterface, np.asarray], ids=["dlpack", "interface", "array"])
@pytest.mark.parametrize("rows", [100, 300_000])  # the second has pages of its own, which can move
def test_views_outlive_the_table(make, rows):
    table = Table((rows, 32))
    table.assign(np.full((rows, 32), 2, np.float32))
    view = np.asarray(make(table))
    table.resize(2 * rows)
    table.numpy()[:] = 1
    assert view.shape == (rows, 32)
    assert (view == 2).all()
    gone = weakref.ref(table)
    view = np.asarray(make(table))
    del table
    gc.collect()
    assert (view == 1).all()
    assert make is OnlyInterface or gone() is None  # the memory is kept, not the table


def test_read_only_tables(tmp_path):
    path = tmp_path / "table.npy"
    Table((4, 3), path=path).assign(np.ones((4, 3), np.float32))
    table = Table((4, 3), path=path, mmap_mode="r")
    views = [np.asarray(OnlyInterface(table)), np.asarray(table)]
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":  # with DLPack 1.0
        views.append(np.from_dlpack(table))
    for view in views:
        assert not view.flags.writeable
        assert (view == 1).all()
        assert np.shares_memory(view, table.numpy())
    with pytest.raises(BufferError, match="readonly"):
        table.__dlpack__()


def test_rows_that_wait():
    """Views of tables whose rows are not made, or have steps to take, hold the numbers that look-ups give."""
    layer = fastembed.Embedding(50, 4, fastembed.initializers.RandomUniform(seed=1), lazy=True)
    same = fastembed.Embedding(50, 4, fastembed.initializers.RandomUniform(seed=1))
    assert not hasattr(layer.embeddings, "__array_interface__")  # to ask must not make all rows
    assert not layer.embeddings.lazy.has_made(None)
    assert np.array_equal(np.from_dlpack(layer.embeddings), same.embeddings.numpy())
    assert np.array_equal(np.asarray(layer.embeddings), same.embeddings.numpy())

    dense, behind = (fastembed.Embedding(6, 4, weights=np.ones((6, 4), np.float32)) for _ in range(2))
    for layer, untouched in ((dense, "dense"), (behind, "catch_up")):
        optimizer = fastembed.optimizers.Adam(0.1, untouched=untouched)
        for row in range(6):
            optimizer.apply([layer.gradient([row], np.ones((1, 4), np.float32))], layer.weights)
    np.testing.assert_allclose(np.from_dlpack(behind.embeddings), dense.embeddings.numpy(), rtol=1e-5)
    for _ in range(3):
        optimizer.apply([behind.gradient([0], np.ones((1, 4), np.float32))], behind.weights)
    assert np.array_equal(np.asarray(behind.embeddings), np.array(behind.embeddings.numpy()))


@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
def test_codes_are_no_numbers(dtype):
    layer = fastembed.Embedding(5, 4)
    values = layer(np.arange(5))
    layer.quantize(dtype)
    with pytest.raises(BufferError, match=f"DLPack has no dtype of {dtype}"):
        np.from_dlpack(layer.embeddings)
    assert not hasattr(layer.embeddings, "__array_interface__")
    assert np.abs(np.asarray(layer.embeddings) - values).max() < 0.1


def test_bfloat16():
    """NumPy's DLPack has none; others' has."""
    table = Table((4, 3), "bfloat16")
    table.assign(np.arange(12, dtype=np.float32).reshape(4, 3))
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(table)
    assert not hasattr(table, "__array_interface__")
    assert np.array_equal(np.asarray(table).astype(np.float32), table.to_float32())
    tensor = peer("torch").from_dlpack(table)
    assert str(tensor.dtype) == "torch.bfloat16"
    assert tensor.float().tolist() == table.to_float32().tolist()
    assert tensor.data_ptr() == table.memory.ctypes.data
    assert peer("torch").from_dlpack(OldDLPack(table)).float().tolist() == table.to_float32().tolist()


class OldDLPack:
    """Asks for a capsule as it was before DLPack 1.0."""

    def __init__(self, table):
        self.table = table

    def __dlpack__(self, stream=None, **arguments):
        return self.table.__dlpack__(stream=stream)

    def __dlpack_device__(self):
        return self.table.__dlpack_device__()


def test_tables_in_torch():
    torch = peer("torch")
    table = Table((4, 3))
    tensor = torch.from_dlpack(table)
    tensor[2] = 5
    assert table[[2]].tolist() == [[5, 5, 5]]
    table.resize(5)
    assert tensor[2].tolist() == [5, 5, 5]


def test_tables_in_jax():
    jax = peer("jax")
    table = Table((4, 3))
    table.assign(np.ones((4, 3), np.float32))
    assert jax.dlpack.from_dlpack(table).tolist() == np.ones((4, 3)).tolist()


# ---- as_ragged: Python objects -------------------------------------------------------------------------------------


def objects(rows):
    found = np.empty(len(rows), object)
    found[:] = rows
    return found


@pytest.mark.parametrize("rows", [ROWS, NESTED, [], [[]], [()], [[0.5], [1]]], ids=str)
def test_lists(rows):
    for column in (rows, tuple(rows), objects(rows)):
        ragged = as_ragged(column)
        assert ragged.to_list() == [list(row) for row in rows]
        assert as_ragged(ragged) is ragged
    assert as_ragged([np.array(row) for row in ROWS if row]).to_list() == [row for row in ROWS if row]


def test_nulls_in_lists():
    for null in (None, float("nan")):
        with pytest.raises(ValueError, match=r"Received: null as row 1"):
            as_ragged([[1], null])
        assert as_ragged([null, [1], null], "empty").to_list() == [[], [1], []]
    with pytest.raises(ValueError, match=r"no null values. Received: null in flat value 1"):
        as_ragged([[1, None]])


@pytest.mark.parametrize(
    "column",
    [3, "abc", None, [1, 2], [["a"]], [[True]], ["ab"], [{"a": 1}], np.zeros((2, 2)), IDS, OnlyDLPack(IDS), [[1j]]],
    ids=lambda column: type(column).__name__,
)
def test_what_is_not_taken(column):
    with pytest.raises(TypeError, match=r"`column` must be a Ragged, nested lists, .* Received: "):
        as_ragged(column)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`null_rows` must be one of"):
        as_ragged([[1]], "skip")
    with pytest.raises(ValueError, match="nested to one depth"):
        as_ragged([[1], [[2]]])


# ---- as_ragged: Arrow ----------------------------------------------------------------------------------------------


KINDS = {
    "list": lambda pa: pa.list_(pa.int64()),
    "large_list": lambda pa: pa.large_list(pa.int32()),
    "floats": lambda pa: pa.list_(pa.float32()),
    "list_view": lambda pa: pa.list_view(pa.int64()),
    "large_list_view": lambda pa: pa.large_list_view(pa.uint8()),
    "nested": lambda pa: pa.list_(pa.large_list(pa.int64())),
    "nested views": lambda pa: pa.list_view(pa.list_view(pa.int64())),
    "vectors": lambda pa: pa.list_(pa.list_(pa.float64(), 2)),
    "views of vectors": lambda pa: pa.list_view(pa.list_(pa.float64(), 2)),
    "fixed": lambda pa: pa.list_(pa.int64(), 2),
    "fixed lists of lists": lambda pa: pa.list_(pa.list_(pa.int64()), 2),
    "fixed vectors": lambda pa: pa.list_(pa.list_(pa.int64(), 2), 2),
}


def random_rows(rng, kind, size, nulls):
    """Lists of an Arrow type."""
    pa = peer("pyarrow")

    def value(kind, depth):
        if not pa.types.is_nested(kind):
            return int(rng.integers(200))
        if nulls and not (depth and pa.types.is_fixed_size_list(kind)) and rng.random() < 0.2:
            return None
        length = kind.list_size if pa.types.is_fixed_size_list(kind) else int(rng.integers(4))
        return [value(kind.value_type, depth + 1) for _ in range(length)]

    return [value(kind, 0) for _ in range(size)]


def filled(rows):
    """Nulls as empty lists."""
    return [filled(row) for row in rows or ()] if isinstance(rows, list) or rows is None else rows


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_arrow_against_lists(name, nulls, rng):
    """All kinds of lists, sliced, in chunks and with nulls, against what pyarrow makes of them."""
    pa = peer("pyarrow")
    kind = KINDS[name](pa)
    for size in (0, 1, 2, 30):
        rows = random_rows(rng, kind, size, nulls)
        column = pa.array(rows, kind)
        chunks = pa.chunked_array([column[:3], column[3:3], column[3:20], column[20:]], kind)
        nothing = pa.chunked_array([], kind)
        for part in (column, column[1:], column[5:9], column[size:], column[7:][2:], chunks, chunks[10:], nothing):
            ragged = as_ragged(part, "empty")
            assert ragged.to_list() == filled(part.to_pylist())
            assert ragged.shape[1:] == as_ragged(nothing).shape[1:]
            Ragged(ragged.values, ragged.row_splits)  # its splits pass the checks
            if None in part.to_pylist():
                with pytest.raises(ValueError, match=f"null as row {part.to_pylist().index(None)}$"):
                    as_ragged(part)


def buffers(column):
    return {buffer.address for buffer in column.buffers() if buffer is not None}


@pytest.mark.parametrize("name", KINDS)
def test_arrow_without_a_copy(name, rng):
    pa = peer("pyarrow")
    column = pa.array(random_rows(rng, KINDS[name](pa), 50, False), KINDS[name](pa))
    ragged = as_ragged(column)
    assert ragged.flat_values.ctypes.data in buffers(column)
    assert as_ragged(pa.chunked_array([column])).flat_values.ctypes.data == ragged.flat_values.ctypes.data
    assert not ragged.flat_values.flags.writeable
    assert np.shares_memory(as_ragged(column[20:]).flat_values, ragged.flat_values)
    if name in ("list", "large_list", "nested", "vectors"):
        assert [splits.ctypes.data in buffers(column) for splits in ragged.nested_row_splits].count(False) == 0
    before, expected = ragged.flat_values.ctypes.data, ragged.to_list()
    del column
    gc.collect()
    assert ragged.flat_values.ctypes.data == before
    assert ragged.to_list() == expected


def test_arrow_memory():
    """A column of 100 MB, sliced or not, costs less than 1 MB, also with row splits to copy."""
    pa = peer("pyarrow")
    values = pa.array(np.arange(12_500_000))
    column = pa.ListArray.from_arrays(pa.array(np.arange(0, 12_500_001, 250, dtype=np.int32)), values)
    as_ragged(pa.array(ROWS))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    for part in (column, column[1000:], pa.chunked_array([column])):
        tracemalloc.reset_peak()
        ragged = as_ragged(part)
        assert ragged.flat_values.nbytes > 90_000_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        assert pa.total_allocated_bytes() < before + 1_000_000
        del ragged
    tracemalloc.stop()


def test_arrow_memory_is_released():
    """What the column gave is given back with the last view."""
    pa = peer("pyarrow")
    gc.collect()
    before = pa.total_allocated_bytes()
    column = pa.array([[i] * 10 for i in range(10_000)])
    for part in (column, pa.chunked_array([column, column])):
        ragged = as_ragged(part)
        assert len(ragged) >= 10_000
    del column, part, ragged
    gc.collect()
    assert pa.total_allocated_bytes() < before + 10_000


def test_arrow_views_in_any_order():
    pa = peer("pyarrow")
    values = pa.array([1, 2, 3, 4, 5, 6])
    column = pa.ListViewArray.from_arrays([3, 0, 5, 1, 5], [2, 2, 0, 3, 1], values)
    assert as_ragged(column).to_list() == [[4, 5], [1, 2], [], [2, 3, 4], [6]]
    assert as_ragged(column[2:4]).to_list() == [[], [2, 3, 4]]
    ordered = pa.ListViewArray.from_arrays([1, 0, 3], [2, 0, 3], values)
    assert np.shares_memory(as_ragged(ordered).values, values.to_numpy())


NULL_VALUES = [
    (lambda pa: pa.array([[1], [2, None]]), "null in row 1"),
    (lambda pa: pa.chunked_array([[[1]], [[2], [None]]]), "null in row 2"),
    (lambda pa: pa.array([[[1], [None]]]), "null in an inner list, 2 deep"),
    (lambda pa: pa.array([[], [[1, 2], None]], pa.list_(pa.list_(pa.int8(), 2))), "null in row 1"),
    (lambda pa: pa.array([[[1, None]]], pa.list_(pa.list_(pa.int8(), 2))), "null in row 0"),
    (lambda pa: pa.array([[], [None]]), "null in row 1"),
    (lambda pa: pa.array([[[1], None]]), "null as an inner list, 2 deep"),
    (lambda pa: pa.array([[1], [2, None]], pa.list_view(pa.int64())), "null in row 1"),
]


@pytest.mark.parametrize(("make", "message"), NULL_VALUES, ids=[str(i) for i in range(len(NULL_VALUES))])
def test_arrow_null_values(make, message):
    pa = peer("pyarrow")
    with pytest.raises(ValueError, match=rf"Received: {message}$"):
        as_ragged(make(pa))


def test_arrow_nulls_that_do_not_count():
    """Outside a slice, and below null rows."""
    pa = peer("pyarrow")
    assert as_ragged(pa.array([[1, None], [2]])[1:]).to_list() == [[2]]
    fixed = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2))
    assert as_ragged(fixed, "empty").to_list() == [[1, 2], [], [3, 4]]
    hidden = pa.ListArray.from_arrays([0, 2, 3], pa.array([1, None, 3]), mask=pa.array([True, False]))
    assert as_ragged(hidden, "empty").to_list() == [[], [3]]
    assert as_ragged(pa.array([[], []])).dtype == np.int64  # of Arrow's type null


def test_arrow_of_other_types():
    pa = peer("pyarrow")
    for column in (
        pa.array([1]),
        pa.array([["a"]]),
        pa.array([[True]]),
        pa.array([[{"a": 1}]]),
        pa.array([["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.table({"a": [[1]]}),
    ):
        with pytest.raises(TypeError, match="`column` must be"):
            as_ragged(column)


class Failing:
    """A stream that breaks off."""

    def __init__(self, column):
        pa = peer("pyarrow")

        def batches():
            yield pa.record_batch({"a": column})
            raise RuntimeError("the disk is gone")

        self.reader = pa.RecordBatchReader.from_batches(pa.schema({"a": column.type}), batches())

    def __arrow_c_stream__(self, requested_schema=None):
        return self.reader.__arrow_c_stream__(requested_schema)


def test_streams_that_fail():
    pa = peer("pyarrow")
    with pytest.raises(OSError, match="the disk is gone"):
        as_ragged(Failing(pa.array(ROWS)))


# ---- as_ragged: others ---------------------------------------------------------------------------------------------


def test_polars():
    pl = peer("polars")
    for rows in (ROWS, NESTED, [[], []], []):
        assert as_ragged(pl.Series(rows, dtype=None if rows else pl.List(pl.Int64))).to_list() == rows
    column = pl.Series("ids", ROWS)
    assert as_ragged(column[1:]).to_list() == ROWS[1:]
    both = pl.concat([column, column], rechunk=False)
    assert as_ragged(both).to_list() == ROWS + ROWS
    vectors = as_ragged(pl.Series(VECTORS, dtype=pl.List(pl.Array(pl.Float32, 2))))
    assert vectors.shape == (3, None, 2)
    assert vectors.to_list() == VECTORS
    assert as_ragged(pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2))).to_list() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="null as row 1"):
        as_ragged(pl.Series([[1], None]))
    assert as_ragged(pl.Series([[1], None]), "empty").to_list() == [[1], []]
    for other in (pl.Series([["a"]]), pl.Series([1]), pl.DataFrame({"a": [[1]]})):
        with pytest.raises(TypeError, match="`column` must be"):
            as_ragged(other)


def test_polars_without_a_copy():
    pl = peer("polars")
    need("pyarrow")
    column = pl.Series(ROWS)
    ragged = as_ragged(column)
    assert ragged.values.ctypes.data in buffers(column.to_arrow())
    assert ragged.row_splits.ctypes.data in buffers(column.to_arrow())


def test_pandas():
    pd = peer("pandas")
    for rows in (ROWS, NESTED, []):
        assert as_ragged(pd.Series(rows, dtype=object)).to_list() == rows
    assert as_ragged(pd.Series([np.array([1, 2]), np.array([3])], index=[7, 5])).to_list() == [[1, 2], [3]]
    for null in (None, float("nan"), pd.NA):
        with pytest.raises(ValueError, match="null as row 1"):
            as_ragged(pd.Series([[1], null], dtype=object))
        assert as_ragged(pd.Series([[1], null], dtype=object), "empty").to_list() == [[1], []]
    with pytest.raises(ValueError, match="null in flat value 1"):
        as_ragged(pd.Series([[1, pd.NA]]))
    for other in (pd.Series([1, 2]), pd.Series(["a"]), pd.Series([["a"]]), pd.DataFrame({"a": [1]})):
        with pytest.raises(TypeError, match="`column` must be"):
            as_ragged(other)


def test_pandas_of_arrow():
    pd, pa = peer("pandas"), peer("pyarrow")
    column = pd.Series(ROWS, dtype=pd.ArrowDtype(pa.list_(pa.int64())))
    assert as_ragged(column[2:]).to_list() == ROWS[2:]
    assert as_ragged(column).values.ctypes.data in buffers(column.array.__arrow_array__().chunk(0))
    assert as_ragged(pd.concat([column, column])).to_list() == ROWS + ROWS


def test_awkward():
    ak = peer("awkward")
    for rows in (ROWS, NESTED, [[]], [[0.5]]):
        for column in (ak.Array(rows), ak.Array(rows)[::-1], ak.Array(rows)[1:], ak.Array(rows)[[0, 0]]):
            assert as_ragged(column).to_list() == column.to_list()
    layout = ak.Array(ROWS).layout
    for offsets in (ak.index.Index32, ak.index.IndexU32, ak.index.Index64):
        lists = ak.contents.ListOffsetArray(offsets(np.array([1, 3, 3, 6])), layout.content)
        ragged = as_ragged(ak.Array(lists))
        assert ragged.to_list() == [[2, 3], [], [4, 5, 6]]
        assert np.shares_memory(ragged.values, layout.content.data)
    assert np.shares_memory(as_ragged(ak.Array(layout)).row_splits, layout.offsets.data)
    vectors = ak.to_regular(ak.Array(VECTORS), axis=2)
    assert as_ragged(vectors).shape == (3, None, 2)
    assert as_ragged(vectors).to_list() == VECTORS
    assert as_ragged(ak.Array(np.ones((2, 3)))).to_list() == [[1, 1, 1]] * 2


def test_awkward_nulls():
    ak = peer("awkward")
    with pytest.raises(ValueError, match="null as row 1"):
        as_ragged(ak.Array([[1], None, [2]]))
    for column in (ak.Array([[1], None, [2]]), ak.mask(ak.Array([[1], [5, 5], [2]]), [True, False, True])):
        assert as_ragged(column, "empty").to_list() == [[1], [], [2]]
    with pytest.raises(ValueError, match="null in row 1"):
        as_ragged(ak.Array([[1], [2, None]]))
    with pytest.raises(ValueError, match="null in an inner list, 2 deep"):
        as_ragged(ak.Array([[[1, None]]]))
    with pytest.raises(ValueError, match="null as an inner list, 2 deep"):
        as_ragged(ak.Array([[[1], None], []]))
    assert as_ragged(ak.Array([[[1], None], []]), "empty").to_list() == [[[1], []], []]
    for other in ([1], ["ab"], [["ab"]], [[{"x": 1}]], [[True]], [[1, "a"]]):
        with pytest.raises(TypeError, match="`column` must be"):
            as_ragged(ak.Array(other))


def test_tensorflow():
    tf = peer("tensorflow")
    for rows in (ROWS, NESTED):
        column = tf.ragged.constant(rows)
        ragged = as_ragged(column)
        assert ragged.to_list() == rows
        assert np.shares_memory(ragged.flat_values, memoryview(column.flat_values))
    vectors = as_ragged(tf.ragged.constant(VECTORS, inner_shape=(2,)))
    assert vectors.shape == (3, None, 2)
    assert vectors.to_list() == VECTORS
    assert as_ragged(tf.RaggedTensor.from_row_splits([1, 2], np.array([0, 2], np.int32))).row_splits.dtype == np.int32
    for other in (tf.range(3), tf.ragged.constant([["a"]])):
        with pytest.raises(TypeError, match="`column` must be"):
            as_ragged(other)


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
def test_torch():
    torch = peer("torch")
    parts = [torch.arange(2), torch.arange(0), torch.arange(3)]
    column = torch.nested.nested_tensor(parts, layout=torch.jagged)
    ragged = as_ragged(column)
    assert ragged.to_list() == [[0, 1], [], [0, 1, 2]]
    assert ragged.values.ctypes.data == column.values().data_ptr()
    assert ragged.row_splits.ctypes.data == column.offsets().data_ptr()
    assert as_ragged(torch.nested.nested_tensor(parts)).to_list() == ragged.to_list()
    vectors = [torch.ones(2, 3), torch.zeros(1, 3)]
    column = torch.nested.nested_tensor(vectors, layout=torch.jagged, requires_grad=True)
    assert as_ragged(column).shape == (2, None, 3)
    narrow = torch.nested.narrow(
        torch.arange(12).reshape(3, 4), 1, torch.tensor([0, 1, 0]), torch.tensor([2, 3, 0]), layout=torch.jagged
    )
    assert as_ragged(narrow).to_list() == [[0, 1], [5, 6, 7], []]
    for other in (torch.arange(3), column.transpose(1, 2), torch.nested.nested_tensor(vectors).transpose(1, 2)):
        with pytest.raises(TypeError, match="`column` must be"):
            as_ragged(other)


# ---- and back ------------------------------------------------------------------------------------------------------

BACK = {
    "arrow": (to_arrow, ["pyarrow"]),
    "awkward": (to_awkward, ["awkward"]),
    "polars": (to_polars, ["polars", "pyarrow"]),
    "pandas": (to_pandas, ["pandas", "pyarrow"]),
    "tensorflow": (to_tensorflow, ["tensorflow"]),
    "torch": (to_torch, ["torch"]),
}


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
@pytest.mark.parametrize("case", RAGGED)
@pytest.mark.parametrize("target", BACK)
def test_there_and_back(target, case):
    make, packages = BACK[target]
    for package in packages:
        peer(package)
    ragged = RAGGED[case]
    if target == "torch" and case in ("nested", "no rows"):
        with pytest.raises(ValueError, match=r"`ragged` must have one ragged axis, and rows, for torch"):
            make(ragged)
        return
    back = as_ragged(make(ragged))
    assert back.to_list() == ragged.to_list()
    assert back.shape == ragged.shape
    assert back.dtype == ragged.dtype
    if target != "tensorflow" and case != "not contiguous" and len(ragged.flat_values):
        assert np.shares_memory(back.flat_values, ragged.flat_values)
        if not (case == "int32 splits" and target in ("polars", "torch")):
            assert np.shares_memory(back.row_splits, ragged.row_splits)


def test_names_of_series():
    for package in ("pyarrow", "polars", "pandas"):
        need(package)
    assert to_polars(RAGGED["flat"], "ids").name == "ids"
    series = to_pandas(RAGGED["flat"], index=list("abcde"), name="ids")
    assert (series.name, list(series.index)) == ("ids", list("abcde"))


def test_torch_writes_to_no_read_only_memory():
    need("torch")
    values = np.arange(3)
    values.flags.writeable = False
    to_torch(Ragged(values, [0, 1, 3])).values()[0] = 7
    assert values[0] == 0


@pytest.mark.parametrize("target", BACK)
def test_what_does_not_go_back(target):
    make, packages = BACK[target]
    for package in packages:
        need(package)
    with pytest.raises(TypeError, match=r"`ragged` must be a Ragged. Received: list"):
        make([[1]])
    with pytest.raises(TypeError, match=r"`ragged` must hold integers or floats. Received: values of dtype bool"):
        make(Ragged([True], [0, 1]))


def test_nothing_is_imported(run_python):
    program = """
        import sys
        from fastembed.interop import as_ragged
        as_ragged([[1], [2, 3]])
        print(sorted({"pyarrow", "polars", "pandas", "awkward", "tensorflow", "torch"} & set(sys.modules)))
    """
    assert run_python(program) == "[]\n"


def pages():
    """The programs of docs/interop.md that need other libraries, by these."""
    text = (Path(__file__).parents[1] / "docs" / "interop.md").read_text(encoding="utf-8")
    programs = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    return [(sorted(set(re.findall(r"^import (\w+)", each, re.MULTILINE)) - {"fastembed"}), each) for each in programs]


@pytest.mark.parametrize(("packages", "program"), pages(), ids=[" ".join(packages) for packages, _ in pages()])
def test_page(packages, program):
    for package in packages:
        peer(package)
    exec(program, {})
