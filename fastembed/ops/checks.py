"""What functions on arrays are given, checked: ids, row splits, numbers, `out`, and whatever can become an array.

May import: dtypes, ops.cores, threads. Do not break: ids that are bad are found cheaply, by the drivers, and explained
expensively, here: the error names the first one and its position.
"""

import numpy as np

from fastembed.dtypes import FLOAT32, FLOAT64, INT32, INT64
from fastembed.ops.cores import SINGLE
from fastembed.threads import core as _core

COMBINERS = {"sum": _core.SUM, "mean": _core.MEAN, "sqrtn": _core.SQRTN, "max": _core.MAX}
_ON_CPU = (1, 3, 11, 13)  # DLPack's devices whose memory the processor reads: its own, pinned, managed
# Above this a float no longer tells neighbouring integers apart.
_EXACT = {2: 2**11, 4: 2**24, 8: 2**53}


def array_of(array, name):
    """As a NumPy array, without a copy where memory is the CPU's: an array, lists, whatever has the buffer protocol,
    `__array_interface__`, `__array__` or `__dlpack__` (tensors of frameworks, columns of data frames).

    Raises: TypeError for what lies on another device; ValueError for rows of different lengths.
    """
    if type(array) is np.ndarray:
        return array
    foreign = hasattr(array, "__dlpack_device__")
    if foreign:
        try:
            device = array.__dlpack_device__()[0]
        except (BufferError, TypeError, ValueError):  # it has none, as with nulls or in pieces: __array__ knows
            device = 1
        if device not in _ON_CPU:
            raise TypeError(
                f"`{name}` must be in the memory of the CPU. Received: {name} of type {type(array).__name__} on "
                f"DLPack device {int(device)}"
            )
    if foreign and not hasattr(array, "__array__") and not hasattr(array, "__array_interface__"):
        return np.from_dlpack(array)
    try:
        return np.asarray(array)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not getattr(array, "is_nested", False):  # but torch's nested tensors
            raise
        raise ValueError(
            f"`{name}` must be a rectangular array; for rows of different lengths use fastembed.Ragged.from_lists(...) "
            f"or fastembed.interop.as_ragged(...). Received: {name} of type {type(array).__name__}"
        ) from error


def flat_ids(ids, name="ids"):
    """`ids` as a one-dimensional contiguous int32 or int64 array, and their shape.

    Raises: TypeError for bool, object, strings and whatever else is no integer; ValueError for a float that is
    fractional, not finite, or so large that it may stand for several integers; IndexError for an unsigned integer
    past int64.
    """
    if type(ids) is not np.ndarray:
        ids = array_of(ids, name)
        if ids.size == 0 and ids.dtype.kind == "f":  # NumPy's dtype of an empty list
            ids = ids.astype(np.int64)
    shape = ids.shape
    if ids.dtype is not INT64 and ids.dtype is not INT32:
        ids = _integers(ids, name)
    flags = ids.flags
    if not (flags.c_contiguous and flags.aligned):
        ids = ids.copy(order="C")
    if len(shape) != 1:
        ids = ids.reshape(-1)
    return ids, shape


def _integers(ids, name):
    kind, size = ids.dtype.kind, ids.dtype.itemsize
    if kind == "i":
        return ids.astype(INT32 if size <= 4 else INT64)
    if kind == "u":
        if size == 8 and ids.size and ids.max() > np.iinfo(np.int64).max:
            position = int(np.argmax(ids.reshape(-1) > np.iinfo(np.int64).max))
            raise IndexError(
                f"`{name}` must be below 2**63. Received: {name}[{_index(position, ids.shape)}] = "
                f"{int(ids.reshape(-1)[position])} at flat position {position}"
            )
        return ids.astype(INT32 if size <= 2 else INT64)
    if kind == "f" and size in _EXACT:
        exact = (np.abs(ids) <= _EXACT[size]) & (ids == np.floor(ids))
        if not exact.all():
            position = int(np.argmin(exact.reshape(-1)))
            raise ValueError(
                f"`{name}` given as floats must be whole numbers of at most {_EXACT[size]} in size (beyond, "
                f"{ids.dtype} is not exact). Received: {name}[{_index(position, ids.shape)}] = "
                f"{ids.reshape(-1)[position]} at flat position {position}"
            )
        return ids.astype(INT64)
    hint = "; of a column of lists fastembed.interop.as_ragged(...) makes ids" if kind == "O" else ""
    raise TypeError(f"`{name}` must be integers{hint}. Received: {name} of dtype {ids.dtype}")


def _index(position, shape):
    """A flat position as the text between the brackets of an index."""
    return ", ".join(str(int(i)) for i in np.unravel_index(position, shape)) if shape else ""


def explain_ids(ids_n, num_rows, shape=None, name="ids"):
    """Raises the IndexError for ids of which one is no row."""
    bad_n = (ids_n < 0) | (ids_n >= num_rows)
    if not bad_n.any():
        raise RuntimeError(f"`{name}` or `row_splits` changed while they were used")
    position = int(np.argmax(bad_n))
    where = _index(position, ids_n.shape if shape is None else shape)
    raise IndexError(
        f"`{name}` must lie in [0, {num_rows}). Received: {name}[{where}] = {int(ids_n[position])} "
        f"at flat position {position}"
    )


def check_ids(ids_n, num_rows, name="ids"):
    """Raises the IndexError if one of the ids is no row."""
    if not SINGLE.check_ids[ids_n.dtype](ids_n, num_rows):
        explain_ids(ids_n, num_rows, name=name)


def unmade(ids_n, num_rows, made):
    """The rows among flat int32 or int64 ids whose bit in `made` (see Lazy) is 0: int64, rising, each once. None of
    them, where an id is no row."""
    found_n = np.empty(len(ids_n), np.int64)
    count = SINGLE.find_unmade[ids_n.dtype](ids_n, num_rows, made, found_n)
    return np.unique(found_n[: max(0, count)])


def check_splits(row_splits, num_values):
    """`row_splits` as an int32 or int64 array: starts at 0, never falls, ends at `num_values`."""
    splits = array_of(row_splits, "row_splits")
    if splits.size and splits.dtype not in (INT32, INT64):
        raise TypeError(f"`row_splits` must be int32 or int64. Received: dtype {splits.dtype}")
    if splits.ndim != 1 or splits.size == 0:
        raise ValueError(f"`row_splits` must be 1-D and not empty. Received: shape {splits.shape}")
    if splits[0] != 0:
        raise ValueError(f"`row_splits` must start at 0. Received: row_splits[0]={splits[0]}")
    falls = splits[1:] < splits[:-1]
    if falls.any():
        at = int(falls.argmax()) + 1
        received = f"row_splits[{at}]={splits[at]} after {splits[at - 1]}"
        raise ValueError(f"`row_splits` must never fall. Received: {received}")
    if splits[-1] != num_values:
        raise ValueError(
            f"`row_splits` must end at the number of values, {num_values}. "
            f"Received: row_splits[{len(splits) - 1}]={splits[-1]}"
        )
    return splits


def check_floats(array, shape, name, dtype=FLOAT32):
    """float32 or float64 as contiguous numbers of `dtype` (None: its own) in the given shape (None: any size there)."""
    array = array_of(array, name)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise TypeError(f"`{name}` must be float32 or float64. Received: {name} of dtype {array.dtype}")
    if len(array.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        raise ValueError(f"`{name}` must have shape {tuple(shape)}. Received: shape {array.shape}")
    if dtype is None:
        dtype = FLOAT64 if array.dtype.itemsize == 8 else FLOAT32
    if array.dtype is not dtype or not (array.flags.c_contiguous and array.flags.aligned):
        array = array.astype(dtype, order="C")
    return array


def check_out(out, shape, inputs, dtype):
    """`out=` must be a contiguous writeable array of the right shape and dtype, apart from the memory of `inputs`."""
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        kind = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"`out` must be a {dtype} NumPy array. Received: {kind}")
    flags = out.flags
    if out.shape != shape or not (flags.c_contiguous and flags.aligned and flags.writeable):
        raise ValueError(
            f"`out` must be a writeable C-contiguous array of shape {shape}. Received: shape {out.shape}, strides "
            f"{out.strides}, writeable={flags.writeable}"
        )
    if any(np.may_share_memory(out, array) for array in inputs if array is not None):
        raise ValueError("`out` must not overlap the table or the ids. Received: an array that shares their memory")
    return out


def combiner_code(combiner):
    """The number that a combiner has in the core."""
    if not isinstance(combiner, str) or combiner not in COMBINERS:
        raise ValueError(f"`combiner` must be one of {list(COMBINERS)}. Received: combiner={combiner!r}")
    return COMBINERS[combiner]


def check_padding(padding_idx, num_rows=2**63):
    """A padding id as the core takes it: -1 for none."""
    if padding_idx is None:
        return -1
    if isinstance(padding_idx, bool) or not isinstance(padding_idx, (int, np.integer)):
        raise TypeError(f"`padding_idx` must be an integer or None. Received: padding_idx={padding_idx!r}")
    if not 0 <= padding_idx < num_rows:
        raise ValueError(f"`padding_idx` must lie in [0, {num_rows}). Received: padding_idx={padding_idx!r}")
    return int(padding_idx)
