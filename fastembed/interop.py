"""Columns of lists and ragged tensors of other libraries as `Ragged`, and back.

May import: arrow, ops, ragged; frameworks inside the functions that make their objects. Do not break: no framework is
imported to read a column, which is known by the module of its type; values are not copied where they lie as a
`Ragged` has them.

Flat columns and tensors need nothing of this: layers take whatever NumPy reads without a copy (see ops.array_of).
"""

import numpy as np

from fastembed import arrow, ops
from fastembed.ragged import Ragged

NULL_ROWS = ("error", "empty")
_TAKEN = (
    "a Ragged, nested lists, an Arrow ListArray or any column of lists with Arrow's PyCapsules (Polars), a pandas "
    "Series of lists, an awkward array of lists, a tf.RaggedTensor or a nested torch tensor, of integers or floats"
)


def as_ragged(column, null_rows="error"):
    """Reads a column of lists as a `Ragged`, on the column's own memory where that is possible.

    No copy: of Arrow's ListArray, LargeListArray, FixedSizeListArray, and ListViewArray in order, sliced or nested, and
    of what has Arrow's PyCapsules (Polars; pandas with ArrowDtype); of awkward's lists with offsets; of an eager
    tf.RaggedTensor on the CPU; of torch's nested tensors with layout=torch.jagged. Row splits are copied where they do
    not start at 0. One copy of the values: of a column in several chunks, of list views in another order, of awkward's
    other layouts, of torch's strided nested tensors, and of null rows that have values. One pass over Python objects:
    of lists, and of pandas columns of objects.

    Lists inside lists are another ragged axis. Lists of one length (Arrow's FixedSizeList, awkward's regular axes)
    of numbers inside a list are vectors: values of shape (n, d).

    Args:
        column: the column. The arrays of Arrow are read-only.
        null_rows: "error"; or "empty": a null instead of a list is an empty list.

    Returns:
        `Ragged`; row splits int32 or int64, as the column has them.

    Raises:
        TypeError: something else, lists of something else than integers and floats, or memory of another device.
        ValueError: a null row, which is named; a null among the values, whose row is named; another `null_rows`.

    Source: Arrow's C data interface; the layouts of awkward; tf.RaggedTensor; torch.nested.

    Example:
        >>> from fastembed.interop import as_ragged
        >>> as_ragged([[3, 1], [], [4]]).to_list()
        [[3, 1], [], [4]]
        >>> as_ragged([[3, 1], None], null_rows="empty").to_list()
        [[3, 1], []]
        >>> layer = fastembed.EmbeddingBag(10, 4)
        >>> layer(as_ragged([[3, 1], [], [4]])).shape
        (3, 4)
    """
    if null_rows not in NULL_ROWS:
        raise ValueError(f"`null_rows` must be one of {list(NULL_ROWS)}. Received: null_rows={null_rows!r}")
    try:
        ragged = _read(column, null_rows)
    except TypeError as error:
        raise TypeError(f"`column` must be {_TAKEN}. Received: {type(column).__name__}: {error}") from error
    values = ragged.flat_values
    if values.dtype.kind not in "iuf":
        _refuse_nulls(values)
        raise TypeError(f"`column` must be {_TAKEN}. Received: {type(column).__name__} of values of {values.dtype}")
    return ragged


def _read(column, null_rows):
    if isinstance(column, Ragged):
        return column
    libraries = {kind.__module__.partition(".")[0] for kind in type(column).__mro__}
    if "awkward" in libraries and hasattr(column, "layout"):
        return _from_awkward(column.layout, null_rows, 0)
    if "tensorflow" in libraries and hasattr(column, "row_splits"):
        return _from_tensorflow(column)
    if "torch" in libraries and getattr(column, "is_nested", False):
        return _from_torch(column)
    if "pandas" in libraries and hasattr(column, "array"):
        if hasattr(column.array, "__arrow_array__") and column.dtype != object:
            return arrow.read(column.array.__arrow_array__(), null_rows)
        column = column.to_numpy()
    if isinstance(column, (list, tuple)) or (isinstance(column, np.ndarray) and column.dtype == object):
        return _from_rows(column, null_rows)
    if arrow.is_column(column):
        return arrow.read(column, null_rows)
    raise TypeError("none of these")


# ---- Python objects ------------------------------------------------------------------------------------------------


def _is_null(thing):
    """None, NaN, and the nulls of pandas."""
    if isinstance(thing, float):
        return thing != thing
    return thing is None or type(thing).__name__ in ("NAType", "NaTType")


def _from_rows(rows, null_rows):
    """From a sequence of lists or arrays."""
    nulls = [at for at, row in enumerate(rows) if _is_null(row)]
    if nulls and null_rows == "error":
        raise arrow.null_row(f"row {nulls[0]}")
    rows = [() if _is_null(row) else row for row in rows] if nulls else list(rows)
    if rows and all(isinstance(row, np.ndarray) and row.dtype != object for row in rows):
        return Ragged.from_row_lengths(np.concatenate(rows), [len(row) for row in rows])
    if any(not hasattr(row, "__len__") or isinstance(row, (str, bytes, dict)) for row in rows):
        raise TypeError("rows that are no lists")
    return Ragged.from_lists(rows)


def _refuse_nulls(values):
    if values.dtype == object:
        for at, value in enumerate(values.reshape(-1)):
            if _is_null(value):
                raise arrow.null_value(f"flat value {at}")


# ---- awkward -------------------------------------------------------------------------------------------------------


def _from_awkward(layout, null_rows, depth):
    """From a layout of lists."""
    if layout.is_option:
        nulls_b = np.asarray(layout.mask_as_bool(valid_when=False))
        if nulls_b.any() and null_rows == "error":
            at = int(nulls_b.argmax())
            raise arrow.null_row(f"row {at}" if depth == 0 else f"an inner list, {depth + 1} deep")
        inner = _from_awkward(layout.project(), null_rows, depth)
        lengths = np.zeros(len(nulls_b), np.int64)
        lengths[~nulls_b] = inner.row_lengths()
        return Ragged.from_row_lengths(inner.values, lengths) if nulls_b.any() else inner
    if layout.is_indexed:
        return _from_awkward(layout.project(), null_rows, depth)
    if layout.is_unknown:  # of no type, as it is empty
        return Ragged.from_lists([])
    if layout.is_numpy and layout.inner_shape:
        layout = layout.to_RegularArray()
    if not layout.is_list or layout.parameter("__array__") is not None:
        raise TypeError(f"a layout {type(layout).__name__} {layout.parameter('__array__') or ''}".rstrip())
    if not hasattr(layout, "offsets"):
        layout = layout.to_ListOffsetArray64(True)
    offsets_b1 = np.asarray(layout.offsets.data)
    if offsets_b1.dtype not in (np.int32, np.int64):
        offsets_b1 = offsets_b1.astype(np.int64)
    first, last = int(offsets_b1[0]), int(offsets_b1[-1])
    splits_b1 = offsets_b1 if first == 0 else offsets_b1 - first
    return Ragged(_awkward_values(layout.content[first:last], splits_b1, null_rows, depth + 1), splits_b1)


def _awkward_values(layout, splits_b1, null_rows, depth):
    """From what lists hold."""
    if layout.is_option and _innermost(layout).is_numpy:
        nulls_n = np.asarray(layout.mask_as_bool(valid_when=False))
        if nulls_n.any():
            row = int(np.searchsorted(splits_b1, int(nulls_n.argmax()), "right")) - 1
            raise arrow.null_value(f"row {row}" if depth == 1 else f"an inner list, {depth} deep")
        layout = layout.project()
    while layout.is_indexed and not layout.is_option:
        layout = layout.project()
    if layout.is_regular:
        layout = layout.maybe_to_NumpyArray() or layout
    if layout.is_unknown:
        return np.empty(0, np.int64)
    if layout.is_numpy and layout.parameter("__array__") is None:
        return np.asarray(layout.data)
    return _from_awkward(layout, null_rows, depth)


def _innermost(layout):
    """What options and indexes stand around."""
    while layout.is_option or layout.is_indexed:
        layout = layout.content
    return layout


# ---- tensors -------------------------------------------------------------------------------------------------------


def _from_tensorflow(tensor):
    inner = tensor.values
    values = _from_tensorflow(inner) if hasattr(inner, "row_splits") else ops.array_of(inner, "column")
    return Ragged(values, ops.array_of(tensor.row_splits, "column"))


def _from_torch(tensor):
    tensor = tensor.detach()
    if str(tensor.layout) != "torch.jagged":
        parts = [ops.array_of(part, "column") for part in tensor.unbind()]
        if any(part.ndim == 0 or part.shape[1:] != parts[0].shape[1:] for part in parts):
            raise TypeError("parts that differ in more than their length")
        values = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return Ragged.from_row_lengths(values, [len(part) for part in parts])
    starts, lengths = ops.array_of(tensor.offsets(), "column"), tensor.lengths()
    values = ops.array_of(tensor.values(), "column")
    if tensor.dim() - values.ndim != 1 or not isinstance(tensor.shape[0], int) or isinstance(tensor.shape[1], int):
        raise TypeError("a nested tensor whose second axis is not the ragged one")
    if lengths is None and len(values) == starts[-1]:
        return Ragged(values, starts)
    sizes = np.diff(starts) if lengths is None else ops.array_of(lengths, "column")
    values, splits, _ = arrow.gathered(values, starts[: len(sizes)].astype(np.int64), sizes.astype(np.int64))
    return Ragged(values, splits)


# ---- and back ------------------------------------------------------------------------------------------------------


def _checked(ragged, most_axes=None):
    """The flat values of a `Ragged` of numbers, contiguous."""
    if not isinstance(ragged, Ragged):
        raise TypeError(f"`ragged` must be a Ragged. Received: {type(ragged).__name__}")
    values = ragged.flat_values
    if values.dtype.kind not in "iuf" or not values.dtype.isnative:
        raise TypeError(f"`ragged` must hold integers or floats. Received: values of dtype {values.dtype}")
    if most_axes is not None and values.ndim > most_axes:
        raise ValueError(f"`ragged` must have values of at most {most_axes} axes. Received: shape {ragged.shape}")
    return np.ascontiguousarray(values)


def to_arrow(ragged):
    """Makes an Arrow array of lists on the memory of a `Ragged`: int64 row splits make a LargeListArray, int32 ones a
    ListArray; each axis of vectors is a FixedSizeListArray inside. No copy, but of values that are not contiguous.

    Args:
        ragged: `Ragged` of integers or floats. Do not write to it while the array is used.

    Returns:
        pyarrow array.

    Raises:
        TypeError: values that are no numbers. ImportError: pyarrow is not installed.
    """
    import pyarrow

    values = _checked(ragged)
    made = pyarrow.array(values.reshape(-1), from_pandas=False)
    for dim in reversed(values.shape[1:]):
        made = pyarrow.FixedSizeListArray.from_arrays(made, dim)
    for splits in reversed(ragged.nested_row_splits):
        kind = pyarrow.ListArray if splits.dtype == np.int32 else pyarrow.LargeListArray
        made = kind.from_arrays(pyarrow.array(np.ascontiguousarray(splits)), made)
    return made


def to_awkward(ragged):
    """Makes an awkward array on the memory of a `Ragged`; axes of vectors are regular. No copy, but of values that are
    not contiguous.

    Args:
        ragged: `Ragged` of integers or floats.

    Returns:
        ak.Array.

    Raises:
        TypeError: values that are no numbers. ImportError: awkward is not installed.
    """
    import awkward

    made = awkward.contents.NumpyArray(_checked(ragged))
    for splits in reversed(ragged.nested_row_splits):
        made = awkward.contents.ListOffsetArray(awkward.index.Index(np.ascontiguousarray(splits)), made)
    return awkward.Array(made)


def to_polars(ragged, name=""):
    """Makes a Polars Series of lists on the memory of a `Ragged`; vectors are Polars's Array. Row splits of int32 are
    copied, as Polars's have 64 bits.

    Args:
        ragged: `Ragged` of integers or floats. Do not write to it while the series is used.
        name: str, of the series.

    Returns:
        polars.Series.

    Raises:
        TypeError: values that are no numbers. ImportError: polars or pyarrow is not installed.
    """
    import polars

    return polars.Series(name, to_arrow(ragged))


def to_pandas(ragged, index=None, name=None):
    """Makes a pandas Series of Arrow lists (ArrowDtype) on the memory of a `Ragged`.

    Args:
        ragged: `Ragged` of integers or floats. Do not write to it while the series is used.
        index, name: as pandas.Series takes them.

    Returns:
        pandas.Series.

    Raises:
        TypeError: values that are no numbers. ImportError: pandas or pyarrow is not installed.
    """
    import pandas

    return pandas.Series(pandas.arrays.ArrowExtensionArray(to_arrow(ragged)), index=index, name=name, copy=False)


def to_tensorflow(ragged):
    """Makes a tf.RaggedTensor of a `Ragged`: a copy, as TensorFlow owns its memory.

    Args:
        ragged: `Ragged` of integers or floats. Row splits of both kinds become int64.

    Returns:
        tf.RaggedTensor.

    Raises:
        TypeError: values that are no numbers. ImportError: tensorflow is not installed.
    """
    import tensorflow

    values, splits = tensorflow.constant(_checked(ragged)), ragged.nested_row_splits
    if len({level.dtype for level in splits}) > 1:
        splits = [level.astype(np.int64) for level in splits]
    return tensorflow.RaggedTensor.from_nested_row_splits(values, splits, validate=False)


def to_torch(ragged):
    """Makes a nested torch tensor (layout=torch.jagged) on the memory of a `Ragged`. Copied are values that are not
    contiguous or read-only, as torch knows no such memory, and row splits of int32.

    Args:
        ragged: `Ragged` of integers or floats with one ragged axis and at least one row.

    Returns:
        torch.Tensor of shape (rows, ragged, ...).

    Raises:
        ValueError: another number of ragged axes; no rows. TypeError: values that are no numbers. ImportError: torch is
            not installed.
    """
    import torch

    values = _checked(ragged)
    if ragged.ragged_rank != 1 or len(ragged) == 0:
        raise ValueError(f"`ragged` must have one ragged axis, and rows, for torch. Received: {ragged!r}")
    values = values if values.flags.writeable else values.copy()
    splits = np.require(ragged.row_splits, np.int64, ("C", "W"))
    return torch.nested.nested_tensor_from_jagged(torch.from_numpy(values), offsets=torch.from_numpy(splits))
