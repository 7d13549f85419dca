"""gather, pool, group and update on plain NumPy arrays: every check and every allocation of a step is here.

May import: dtypes, memory, threads (which has loaded _core) and _core64; it alone calls the drivers. Do not break: all
checks come before the first write, and a driver's "bad" is answered with an error that names the culprit (detect
cheaply, explain expensively).

The flow: ids (any array) -> `flat_ids` (int32 or int64, contiguous) -> `gather` / `pool`; a gradient is `Parts`
(ids, bags and upstream gradients, nothing expanded) -> `group` (sorted by row once) -> `update` or `reduce`. An
optimizer makes an `Update` for each of its variables and gives all of them to `run`.
"""

import contextlib
import functools
import math
import mmap
import os
import sys
from typing import NamedTuple

import numpy as np

from fastembed import dtypes
from fastembed.dtypes import FLOAT32, FLOAT64
from fastembed.memory import check_fits
from fastembed.threads import core as _core
from fastembed.threads import threads_for

INSTRUCTION_SETS = ("avx512", "avx2", "base")
COMBINERS = {"sum": _core.SUM, "mean": _core.MEAN, "sqrtn": _core.SQRTN, "max": _core.MAX}
HYPERPARAMETERS = (
    "learning_rate",
    "momentum",
    "beta_1",
    "beta_2",
    "epsilon",
    "weight_decay",
    "scale_m",
    "scale_g",
    "scale_v",
    "l1",
    "l2",
    "l2_shrinkage",
    "power",
)
# The state of a row by step: its parts in order, each with a number for each column (DIM) or one for the row. One
# matrix holds the state of all rows.
DIM, ROW = "dim", "row"
STATES = {
    "sgd": {},
    "momentum": {"momentum": DIM},
    "nesterov": {"momentum": DIM},
    "adagrad": {"accumulator": DIM},
    "rowwise_adagrad": {"accumulator": ROW},
    "adam": {"momentum": DIM, "velocity": DIM},
    "amsgrad": {"momentum": DIM, "velocity": DIM, "velocity_hat": DIM},
    "rmsprop": {"velocity": DIM},
    "rmsprop_momentum": {"velocity": DIM, "momentum": DIM},
    "rmsprop_centered": {"velocity": DIM, "average_gradient": DIM},
    "rmsprop_centered_momentum": {"velocity": DIM, "momentum": DIM, "average_gradient": DIM},
    "adadelta": {"accumulated_grad": DIM, "accumulated_delta_var": DIM},
    "adamax": {"momentum": DIM, "norm": DIM},
    "nadam": {"momentum": DIM, "velocity": DIM},
    "ftrl": {"accumulator": DIM, "linear": DIM},
    "lion": {"momentum": DIM},
    "lamb_moments": {"momentum": DIM, "velocity": DIM},
    "lamb": {"momentum": DIM, "velocity": DIM},
    "adafactor_squares": {"r": ROW},
    "adafactor_norm": {"r": ROW},
    "adafactor": {"r": ROW},
    "adafactor_vector_squares": {"velocity": DIM},
    "adafactor_vector": {"velocity": DIM},
    "partial_rowwise_adam": {"momentum": DIM, "velocity": ROW},
    "rowwise_lamb": {"momentum": DIM, "velocity": DIM},
    "rowwise_lars": {"momentum": DIM},
    "rowwise_rmsprop": {"velocity": ROW},
}

_CODES = {name: code for code, name in enumerate(_core.STEPS)}
_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
_LARGE = 1 << 20  # numbers of an array whose place in memory matters
_MOMENT = 1 << 25  # elements that are written within a moment; then Ctrl-C is heard
_MAPPED = 1 << 25  # bytes of a table in pages of its own, with which it can grow
_HUGE = 1 << 21  # bytes of a huge page: memory of a multiple of it keeps them when it moves
_ON_CPU = (1, 3, 11, 13)  # DLPack's devices whose memory the processor reads: its own, pinned, managed
# Above this a float no longer tells neighbouring integers apart.
_EXACT = {2: 2**11, 4: 2**24, 8: 2**53}


def usable_isas():
    """The instruction sets that this build and processor have, best first."""
    return [isa for isa in INSTRUCTION_SETS if _core.has_isa(isa)]


def _choose_isa():
    """The best instruction set, or the one that FASTEMBED_ISA names."""
    pinned = os.environ.get("FASTEMBED_ISA")
    if pinned and (pinned not in INSTRUCTION_SETS or not _core.select_isa(pinned)):
        raise ImportError(f"FASTEMBED_ISA must be one of {usable_isas()} here. Received: FASTEMBED_ISA={pinned!r}")
    return pinned or next(isa for isa in INSTRUCTION_SETS if _core.select_isa(isa))


isa = _choose_isa()
openmp = _core.OPENMP  # the date of the OpenMP standard that the compiler followed; 0: built without


class Core:
    """The drivers for numbers of one dtype: a module, and those of its functions that take ids by the dtype of these.

    A fused function looks at its arguments' types at every call (2 us); here the choice is made once.
    """

    def __init__(self, module, real):
        self.module, self.real = module, real
        self.codes = {name: code for code, name in enumerate(module.DTYPES)}
        for name in ("check_ids", "find_unmade", "gather", "pool", "weights_gradient", "group"):
            fused = getattr(module, name)
            setattr(self, name, {_INT32: fused["int32_t"], _INT64: fused["int64_t"]})


_single = Core(_core, FLOAT32)


@functools.cache
def _double():
    from fastembed import _core64  # who has no float64 table does not pay for it

    _core64.select_isa(isa)
    return Core(_core64, FLOAT64)


def core_of(dtype):
    """The drivers for arrays of float64, or of anything else that is stepped in float32."""
    return _double() if dtype == FLOAT64 else _single


# ---- checks --------------------------------------------------------------------------------------------------------


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
    if ids.dtype is not _INT64 and ids.dtype is not _INT32:
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
        return ids.astype(_INT32 if size <= 4 else _INT64)
    if kind == "u":
        if size == 8 and ids.size and ids.max() > np.iinfo(np.int64).max:
            position = int(np.argmax(ids.reshape(-1) > np.iinfo(np.int64).max))
            raise IndexError(
                f"`{name}` must be below 2**63. Received: {name}[{_index(position, ids.shape)}] = "
                f"{int(ids.reshape(-1)[position])} at flat position {position}"
            )
        return ids.astype(_INT32 if size <= 2 else _INT64)
    if kind == "f" and size in _EXACT:
        exact = (np.abs(ids) <= _EXACT[size]) & (ids == np.floor(ids))
        if not exact.all():
            position = int(np.argmin(exact.reshape(-1)))
            raise ValueError(
                f"`{name}` given as floats must be whole numbers of at most {_EXACT[size]} in size (beyond, "
                f"{ids.dtype} is not exact). Received: {name}[{_index(position, ids.shape)}] = "
                f"{ids.reshape(-1)[position]} at flat position {position}"
            )
        return ids.astype(_INT64)
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
    if not _single.check_ids[ids_n.dtype](ids_n, num_rows):
        explain_ids(ids_n, num_rows, name=name)


def unmade(ids_n, num_rows, made):
    """The rows among flat int32 or int64 ids whose bit in `made` (see Lazy) is 0: int64, rising, each once. None of
    them, where an id is no row."""
    found_n = np.empty(len(ids_n), np.int64)
    count = _single.find_unmade[ids_n.dtype](ids_n, num_rows, made, found_n)
    return np.unique(found_n[: max(0, count)])


def check_splits(row_splits, num_values):
    """`row_splits` as an int32 or int64 array: starts at 0, never falls, ends at `num_values`."""
    splits = array_of(row_splits, "row_splits")
    if splits.size and splits.dtype not in (_INT32, _INT64):
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


class Rows:
    """A table as the core takes it, checked: the bytes of its rows (v, bytes), the drivers for them, the number of its
    storage dtype there, and how many elements a row has."""

    __slots__ = ("code", "core", "dim", "octets_vb")

    def __init__(self, octets_vb, storage, dim):
        self.octets_vb, self.dim, self.core = octets_vb, dim, core_of(dtypes.real(storage))
        self.code = self.core.codes[storage]

    def __len__(self):
        return len(self.octets_vb)

    @property
    def shape(self):
        """(rows, dim)"""
        return len(self.octets_vb), self.dim

    @property
    def storage(self):
        """The storage dtype's name."""
        return self.core.module.DTYPES[self.code]

    @property
    def real(self):
        """The dtype in which rows are pooled and stepped: float32 or float64."""
        return self.core.real

    @property
    def coded(self):
        """Whether rows are stored as something else."""
        return self.code != 0


def rows_of(table, name="table", writeable=False, dim=None):
    """The `Rows` of a C-contiguous array of a storage dtype; those that are `Rows` already stay it.

    dim: elements of a row, where the dtype does not say it (codes of less than a byte).
    """
    if type(table) is not Rows:
        table = _as_rows(table, name, dim)
    if writeable and not table.octets_vb.flags.writeable:
        raise ValueError(f"`{name}` must be writeable. Received: a read-only array of shape {table.shape}")
    return table


def _as_rows(array, name, dim):
    if not isinstance(array, np.ndarray):
        raise TypeError(f"`{name}` must be a NumPy array. Received: {name} of type {type(array).__name__}")
    storage, most = dtypes.name_of(array.dtype)
    if storage is None:
        known = list(dtypes.STORAGE)
        raise TypeError(f"`{name}` must have a dtype of {known}. Received: {name} of dtype {array.dtype}")
    flags, plain = array.flags, storage in dtypes.PLAIN
    if array.ndim != (2 if plain else 1) or not (flags.c_contiguous and flags.aligned):
        raise ValueError(
            f"`{name}` must be a C-contiguous matrix. Received: shape {array.shape}, strides {array.strides}"
        )
    if plain:
        return Rows(np.asarray(array).view(np.uint8), storage, array.shape[1])
    octets_vb = np.asarray(array).view(np.uint8).reshape(len(array), array.dtype.itemsize)
    return Rows(octets_vb, storage, most if dim is None else dim)


def check_table(table, name="table", writeable=False):
    """A table of float32 or float64, a C-contiguous, aligned matrix. Returns the drivers for it."""
    rows = rows_of(table, name, writeable)
    if rows.coded:
        raise TypeError(f"`{name}` must be float32 or float64. Received: {name} of dtype {table.dtype}")
    return rows.core


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


def _empty(shape, size, dtype):
    """A new array; a large one starts at a cache line, as stores past the caches like it (1.15 x)."""
    if size < _LARGE:
        return np.empty(shape, dtype)
    memory = np.empty(size + 16, dtype)
    start = -memory.ctypes.data % 64 // dtype.itemsize
    return memory[start : start + size].reshape(shape)


def _combiner(combiner):
    if not isinstance(combiner, str) or combiner not in COMBINERS:
        raise ValueError(f"`combiner` must be one of {list(COMBINERS)}. Received: combiner={combiner!r}")
    return COMBINERS[combiner]


# ---- look-ups ------------------------------------------------------------------------------------------------------


def gather(table, ids, out=None):
    """Rows of a table: out[...] = table[ids[...]].

    Args:
        table: array (v, d) of a storage dtype, C-contiguous; a memory map too.
        ids: integers of any shape, 0 <= id < v.
        out: array of shape ids.shape + (d,) to write to, or None for a new one.

    Returns:
        float32 array of shape ids.shape + (d,); of a float64 table float64.

    Raises:
        IndexError: an id outside [0, v), with its position; `out` is then as it was.
        TypeError, ValueError: a wrong dtype, shape or layout.

    Example:
        >>> table = np.arange(6, dtype="float32").reshape(3, 2)
        >>> fastembed.ops.gather(table, [2, 0, 2])
        array([[4., 5.],
               [0., 1.],
               [4., 5.]], dtype=float32)
    """
    rows = rows_of(table)
    core = rows.core
    ids_n, shape = flat_ids(ids)
    v, d = rows.shape
    n = len(ids_n)
    if out is None:
        result = _empty((*shape, d), n * d, core.real)
    else:
        result = check_out(out, (*shape, d), (rows.octets_vb, ids_n), core.real)
        if not core.check_ids[ids_n.dtype](ids_n, v):
            explain_ids(ids_n, v, shape)
    out_nd = result if len(shape) == 1 else result.reshape(n, d)
    if not core.gather[ids_n.dtype](rows.octets_vb, rows.code, ids_n, out_nd, threads_for(n * d * core.real.itemsize)):
        explain_ids(ids_n, v, shape)
    return result


def pool(table, ids, row_splits, weights=None, combiner="sum", out=None, padding_idx=None):
    """One combined row for each bag of ids.

    With w = weights (or ones) and the ids i of bag b: sum_i w_i table[i]; "mean" divides it by sum_i w_i, "sqrtn" by
    sqrt(sum_i w_i^2) (nothing is divided by zero: the result is zero); "max" is max_i w_i table[i] in each column. An
    empty bag gives zeros.

    Args:
        table: array (v, d) of a storage dtype, C-contiguous.
        ids: n integers, 0 <= id < v.
        row_splits: int32 or int64 array (b + 1,): bag k has ids row_splits[k] to row_splits[k + 1].
        weights: float32 or float64 array (n,), or None.
        combiner: "sum", "mean", "sqrtn" or "max".
        out: array (b, d) to write to, or None.
        padding_idx: an id that is passed over, or None.

    Returns:
        float32 array (b, d); of a float64 table float64.

    Raises:
        IndexError: an id outside [0, v), with its position; `out` is then as it was.
        TypeError, ValueError: a wrong dtype, shape, layout or name.

    Source: the combiners of tf.nn.embedding_lookup_sparse.

    Example:
        >>> table = np.arange(6, dtype="float32").reshape(3, 2)
        >>> fastembed.ops.pool(table, [2, 0, 1], row_splits=np.array([0, 2, 2, 3]), combiner="mean")
        array([[2., 3.],
               [0., 0.],
               [2., 3.]], dtype=float32)
    """
    rows = rows_of(table)
    ids_n, shape = flat_ids(ids)
    if len(shape) != 1:
        raise ValueError(f"`ids` must have one dimension. Received: shape {shape}")
    splits_b1 = np.ascontiguousarray(check_splits(row_splits, len(ids_n)), _INT64)
    return pool_checked(rows, ids_n, splits_b1, weights, combiner, out, padding_idx)


def pool_checked(rows, ids_n, splits_b1, weights=None, combiner="sum", out=None, padding_idx=None, shape=None):
    """pool() on ids and splits that were checked before; `shape`: what the ids looked like, for the message."""
    rows = rows_of(rows)
    core = rows.core
    v, d = rows.shape
    code = _combiner(combiner)
    weights_n = None if weights is None else check_floats(weights, (len(ids_n),), "weights", core.real)
    padding = check_padding(padding_idx, v)
    out_shape = (len(splits_b1) - 1, d)
    if out is None:
        out = np.empty(out_shape, core.real)
    else:
        check_out(out, out_shape, (rows.octets_vb, ids_n, weights_n), core.real)
        if not core.check_ids[ids_n.dtype](ids_n, v):
            explain_ids(ids_n, v, shape)
    threads = threads_for(len(ids_n) * d * core.real.itemsize)
    pooled = core.pool[ids_n.dtype]
    if not pooled(rows.octets_vb, rows.code, ids_n, splits_b1, weights_n, code, padding, out, None, threads):
        explain_ids(ids_n, v, shape)
    return out


def argmax(rows, ids_n, splits_b1, weights=None, padding_idx=None):
    """Which id of its bag gives the maximum, for each bag and column: int32 (b, d); -1 where the bag is empty."""
    rows = rows_of(rows)
    bags, d = len(splits_b1) - 1, rows.dim
    if len(ids_n) >= 2**31:
        raise ValueError(f"the gradient of a maximum takes fewer than 2**31 ids. Received: {len(ids_n)} ids")
    weights_n = None if weights is None else check_floats(weights, (len(ids_n),), "weights", rows.real)
    arg_bd = np.empty((bags, d), np.int32)
    scratch_bd = np.empty((bags, d), rows.real)
    padding = check_padding(padding_idx, len(rows))
    pooled = rows.core.pool[ids_n.dtype]
    threads, table = threads_for(len(ids_n) * d * rows.real.itemsize), (rows.octets_vb, rows.code)
    if not pooled(*table, ids_n, splits_b1, weights_n, _core.MAX, padding, scratch_bd, arg_bd, threads):
        explain_ids(ids_n, len(rows))
    return arg_bd


def weights_gradient(rows, ids_n, splits_b1, weights, combiner, upstream, padding_idx=None):
    """The gradient of the weights of pool(): (n,), in the dtype of what it returns."""
    rows = rows_of(rows)
    v, d = rows.shape
    weights_n = check_floats(weights, (len(ids_n),), "weights", rows.real)
    upstream_bd = check_floats(upstream, (len(splits_b1) - 1, d), "upstream", rows.real)
    arg_bd = argmax(rows, ids_n, splits_b1, weights_n, padding_idx) if combiner == "max" else None
    out_n = np.zeros(len(ids_n), rows.real)
    kernel = rows.core.weights_gradient[ids_n.dtype]
    code, padding, table = _combiner(combiner), check_padding(padding_idx, v), (rows.octets_vb, rows.code)
    threads = threads_for(len(ids_n) * d * rows.real.itemsize)
    if not kernel(*table, ids_n, splits_b1, weights_n, code, padding, upstream_bd, arg_bd, out_n, threads):
        explain_ids(ids_n, v)
    return out_n


def check_padding(padding_idx, num_rows=2**63):
    """A padding id as the core takes it: -1 for none."""
    if padding_idx is None:
        return -1
    if isinstance(padding_idx, bool) or not isinstance(padding_idx, (int, np.integer)):
        raise TypeError(f"`padding_idx` must be an integer or None. Received: padding_idx={padding_idx!r}")
    if not 0 <= padding_idx < num_rows:
        raise ValueError(f"`padding_idx` must lie in [0, {num_rows}). Received: padding_idx={padding_idx!r}")
    return int(padding_idx)


# ---- updates -------------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """A row-sparse gradient before any sum: id i adds weight_i * factor_bag * upstream[bag of i] to its row.

    Made and checked by `parts`. splits_b1 None: every id is a bag. Upstream gradients and weights have one dtype:
    float32, or float64.
    """

    ids_n: np.ndarray
    splits_b1: np.ndarray | None
    weights_n: np.ndarray | None
    combiner: int
    padding: int
    upstream_bd: np.ndarray
    argmax_bd: np.ndarray | None


def parts(ids, upstream, row_splits=None, weights=None, combiner="sum", padding_idx=None, argmax=None):
    """Describes the gradient of gather (no `row_splits`) or of pool, without expanding it.

    Args:
        ids: n integers.
        upstream: float32 or float64 array (n, d), or (b, d) with `row_splits`: the gradient of the loss with respect to
            the output of gather or pool. Sums are taken in its dtype, in updates in that of the table.
        row_splits, weights, combiner, padding_idx: as they were given to pool.
        argmax: int32 array (b, d), for combiner "max" only: which id of its bag gave the maximum.

    Returns:
        Parts, for `group`, `reduce` and `update`.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or name.

    Example:
        >>> p = fastembed.ops.parts([4, 1, 4], np.ones((3, 2), "float32"))
        >>> rows, values = fastembed.ops.reduce(p, fastembed.ops.group(p, num_rows=5))
        >>> rows
        array([1, 4])
        >>> values
        array([[1., 1.],
               [2., 2.]], dtype=float32)
    """
    ids_n, _ = flat_ids(ids)
    splits_b1 = None
    if row_splits is not None:
        splits_b1 = np.ascontiguousarray(check_splits(row_splits, len(ids_n)), _INT64)
    return parts_checked(ids_n, upstream, splits_b1, weights, combiner, padding_idx, argmax)


def parts_checked(ids_n, upstream, splits_b1=None, weights=None, combiner="sum", padding_idx=None, argmax=None):
    """parts() on ids and splits that were checked before."""
    bags = len(ids_n) if splits_b1 is None else len(splits_b1) - 1
    upstream_bd = check_floats(upstream, (bags, None), "upstream", None)
    weights_n = None if weights is None else check_floats(weights, (len(ids_n),), "weights", upstream_bd.dtype)
    code = _combiner(combiner)
    if splits_b1 is None and (weights_n is not None or code != _core.SUM):
        raise ValueError("`weights` and `combiner` need `row_splits`. Received: row_splits=None")
    if (argmax is not None) != (code == _core.MAX):
        raise ValueError(f"`argmax` goes with combiner 'max', and only with it. Received: combiner={combiner!r}")
    if argmax is not None and (argmax.dtype != np.int32 or argmax.shape != upstream_bd.shape):
        raise ValueError(
            f"`argmax` must be int32 of shape {upstream_bd.shape}. Received: {argmax.dtype} {argmax.shape}"
        )
    return Parts(ids_n, splits_b1, weights_n, code, check_padding(padding_idx), upstream_bd, argmax)


def joined(first, second):
    """The gradient that is the sum of two, unexpanded; None: they are of different kinds, or of maxima."""
    kinds = [
        (parts.combiner, parts.padding, parts.upstream_bd.dtype, parts.splits_b1 is None, parts.weights_n is None)
        for parts in (first, second)
    ]
    if kinds[0] != kinds[1] or first.argmax_bd is not None:
        return None
    splits_b1, weights_n = first.splits_b1, first.weights_n
    if splits_b1 is not None:
        splits_b1 = np.concatenate([splits_b1, second.splits_b1[1:] + splits_b1[-1]])
    if weights_n is not None:
        weights_n = np.concatenate([weights_n, second.weights_n])
    ids_n = np.concatenate([first.ids_n, second.ids_n])
    upstream_bd = np.concatenate([first.upstream_bd, second.upstream_bd])
    return first._replace(ids_n=ids_n, splits_b1=splits_b1, weights_n=weights_n, upstream_bd=upstream_bd)


def parts_as(parts, dtype):
    """Parts with numbers of this dtype."""
    if parts.upstream_bd.dtype == dtype:
        return parts
    weights_n = None if parts.weights_n is None else parts.weights_n.astype(dtype)
    return parts._replace(upstream_bd=parts.upstream_bd.astype(dtype), weights_n=weights_n)


def group(parts, num_rows):
    """Sorts the parts by row, once: the ids are checked here, so that an update can no longer fail.

    Args:
        parts: Parts.
        num_rows: rows v of the table.

    Returns:
        Groups (opaque): `num_rows`, `num_parts`.

    Raises:
        IndexError: an id outside [0, v), with its position.
        ValueError: more than 2^32 ids, or ids x rows past 64 bits.
    """
    return group_all([(parts, num_rows)])[0]


def group_all(gradients):
    """group() for a list of (parts, num_rows), together: the many small ones share the threads."""
    all_groups, bad = _sorted(gradients)
    if bad >= 0:
        parts, num_rows = gradients[bad]
        explain_ids(parts.ids_n, num_rows)
    return all_groups


def _sorted(gradients):
    """The groups of a list of (parts, num_rows), and the index of the first with an id that is no row; -1: none has."""
    all_groups, work = [], 0
    for (ids_n, splits_b1, weights_n, combiner, padding, upstream_bd, _), num_rows in gradients:
        make = core_of(upstream_bd.dtype).group[ids_n.dtype]
        all_groups.append(make(ids_n, splits_b1, weights_n, combiner, padding, num_rows, len(upstream_bd)))
        work += len(ids_n)
    bad = -1
    for module, these in _by_core([core_of(parts.upstream_bd.dtype) for parts, _ in gradients]):
        # A key costs about 20 bytes of a row's traffic.
        found = module.sort([all_groups[i] for i in these], threads_for(work * 20))
        if found >= 0 and (bad < 0 or these[found] < bad):
            bad = these[found]
    return all_groups, bad


def _by_core(cores):
    """(module, the indices of its cores) for each module that occurs."""
    indices = {}
    for i, core in enumerate(cores):
        indices.setdefault(core.module, []).append(i)
    return indices.items()


def look_parts(ids_n, splits_b1=None, combiner="sum", padding_idx=None):
    """What is looked up, as Parts without a gradient, for group_look(); checked before."""
    bags = len(ids_n) if splits_b1 is None else len(splits_b1) - 1
    nothing_b0 = np.empty((bags, 0), np.float32)
    return Parts(ids_n, splits_b1, None, _combiner(combiner), check_padding(padding_idx), nothing_b0, None)


def group_look(parts, rows):
    """group() for a table of these `Rows`; None where an id is no row."""
    (groups,), bad = _sorted([(parts_as(parts, rows.real), len(rows))])
    return groups if bad < 0 else None


def same_groups(one, other):
    """Whether two Parts have the same groups: they have no weights, and the same ids in the same bags."""
    if one.weights_n is not None or other.weights_n is not None or one.combiner == _core.MAX:
        return False
    if one[3:5] != other[3:5] or (one.splits_b1 is None) != (other.splits_b1 is None):
        return False
    return np.array_equal(one.ids_n, other.ids_n) and (
        one.splits_b1 is None or np.array_equal(one.splits_b1, other.splits_b1)
    )


def touched(groups, rows):
    """The rows that occur in the groups of a gradient of these `Rows`: int64, rising."""
    rows_n = np.empty(groups.num_parts, np.int64)
    return rows_n[: rows.core.module.touched(groups, rows_n)]


def reduce(parts, groups):
    """The gradient with each row once.

    Args:
        parts: Parts.
        groups: what group() gave for them.

    Returns:
        rows_u: int64 array (u,), rising; values_ud: array (u, d), the sums of the parts in their dtype.
    """
    real = parts.upstream_bd.dtype
    module = core_of(real).module
    unique = module.count_unique(groups)
    d = parts.upstream_bd.shape[1]
    rows_u = np.empty(unique, np.int64)
    values_ud = np.empty((unique, d), real)
    threads = threads_for(groups.num_parts * d * real.itemsize)
    module.reduce(groups, parts.upstream_bd, parts.weights_n, parts.argmax_bd, rows_u, values_ud, threads)
    return rows_u, values_ud


def state_parts(step, dim):
    """The parts of the optimizer state of a row of `dim` elements for `step`: slices by name.

    Example:
        >>> fastembed.ops.state_parts("adam", 8)
        {'momentum': slice(0, 8, None), 'velocity': slice(8, 16, None)}
    """
    if step not in STATES:
        raise ValueError(f"`step` must be one of {list(STATES)}. Received: step={step!r}")
    parts, start = {}, 0
    for name, size in STATES[step].items():
        parts[name] = slice(start, start + (dim if size == DIM else 1))
        start = parts[name].stop
    return parts


def state_width(step, dim):
    """The numbers of optimizer state a row of `dim` elements needs for `step`."""
    return sum(part.stop - part.start for part in state_parts(step, dim).values())


_MOMENTUM_ALONE = ("momentum", "nesterov", "lion", "rowwise_lars")


def check_state_dtype(step, storage):
    """Raises a ValueError where the state of a step cannot be kept in this dtype: int8 has the same absolute error for
    all elements of a row, so nothing may be divided by them."""
    if storage == "int8" and STATES[step] and step not in _MOMENTUM_ALONE:
        raise ValueError(
            f"`state_dtype` must be 'float32' or 'bfloat16' for step {step!r}, which divides by its state. Received: "
            "state_dtype='int8'"
        )


class Missed(NamedTuple):
    """How rows take the steps that they have missed, before a step or a look-up.

    last_v: int32 array (v,), the last step of each row, 0: none. now: the last step that is done. idle: rows that were
    never touched have missed nothing. Missed steps are those after `first`: `replays`, (steps, 14) of `real`:
    hyperparameters and weight decay of `step` by which the last `most` of them are taken one after the other; or
    `moments`, float64 (steps, 8), for its closed form, `reach`, `endless`, `weight_decay`, `decays` and their `powers`
    (powers()): see `leap` in _core.pyx.
    """

    last_v: np.ndarray
    now: int
    idle: bool
    step: str
    first: int
    replays: np.ndarray | None = None
    most: int = 2**31 - 1
    moments: np.ndarray | None = None
    reach: int = 0
    endless: bool = False
    weight_decay: float = 0.0
    decays: tuple = ()
    powers: np.ndarray | None = None


def powers(decays, real=FLOAT32, count=512):
    """decays[p] to the powers 0, 1, ... count - 1, as `Missed` takes them: (3, count) of the table's `real`."""
    factors_pn = np.ones((3, count))
    factors_pn[: len(decays), 1:] = np.reshape(decays, (-1, 1))
    return np.multiply.accumulate(factors_pn, axis=1).astype(real)


class Average(NamedTuple):
    """A running average of the rows over calls: average_vd (v, d), the last call in it (int32, v), the calls before
    this one, what a call leaves of it, and what this one takes of the new rows (-1: it is none)."""

    average_vd: np.ndarray
    averaged_v: np.ndarray
    calls: int
    keeps: float
    takes: float


class Rounding(NamedTuple):
    """Stochastic rounding of coded rows: up or down, with a probability that makes the mean exact.

    The choice depends on (seed, step, row number, column) alone: not on threads, instruction sets or other rows.
    """

    seed: int
    step: int
    pass_: int = 0  # of the step, 0 to 3: each rounds in its own way


class Update(NamedTuple):
    """One pass over rows of one variable, for `run`.

    table (an array or `Rows`), gradient (Parts, or an array that has every row; None with groups: their rows only catch
    up), step (None: none), hyper, state, groups, constraint: as update() takes them; a hyper may have "columns", an
    array (d,). everywhere: rows without a gradient step too. factor, limit: summed gradients are multiplied and cut
    off. fade: w -= fade w before the step. scales: (v,) of `real`, by which the learning rate of each row is
    multiplied, 0: the row is left out. missed: Missed. average: Average. rounding: Rounding, None: to the nearest.
    """

    table: np.ndarray
    gradient: object
    step: str | None
    hyper: dict
    state: np.ndarray | None = None
    groups: object = None
    constraint: object = None
    everywhere: bool = False
    factor: float = 1.0
    limit: float = math.inf
    fade: float = 0.0
    scales: np.ndarray | None = None
    missed: Missed | None = None
    average: Average | None = None
    rounding: Rounding | None = None


def check_trains(rows, name="table"):
    """`Rows` that can be trained: writeable, and no codes."""
    if rows.storage in dtypes.QUANTISED:
        raise TypeError(
            f"`{name}` must have a dtype that trains, one of {list(dtypes.PLAIN)}. Received: {rows.storage}, which is "
            "for look-ups"
        )
    rows_of(rows, name, writeable=True)


def _check_update(table, dim, step, hyper, state):
    table = rows_of(table)
    check_trains(table)
    width = state_width(step, table.dim)
    if table.dim != dim:
        raise ValueError(f"`table` must have {dim} columns, as the gradient has. Received: shape {table.shape}")
    if width and state is None:
        wanted = f"a {table.real} array {(len(table), width)}"
        raise ValueError(f"`state` must be {wanted} for step {step!r}. Received: None")
    if state is not None:
        state = rows_of(state, "state", writeable=True)
        check_state_dtype(step, state.storage)
        if state.real != table.real:
            raise TypeError(f"`state` must be float64 where the table is, and only there. Received: {state.storage}")
        if state.shape != (len(table), width) or state.storage in ("int4", "int2"):
            raise ValueError(f"`state` must have shape {(len(table), width)}. Received: shape {state.shape}")
    if step in ("adafactor", "adafactor_norm") and "columns" not in hyper:
        raise ValueError(f"`hyper` must have 'columns' for step {step!r}. Received: {sorted(hyper)}")
    unknown = set(hyper) - set(HYPERPARAMETERS) - {"columns"}
    if unknown:
        raise ValueError(f"`hyper` must have keys of {list(HYPERPARAMETERS)}. Received: {sorted(unknown)}")


def numbers(hyper):
    """A dict of hyperparameters as the core takes them."""
    return tuple([float(hyper.get(name, 0.0)) for name in HYPERPARAMETERS])


_no_gradient = np.zeros(1 << 12, np.float32)


def _zero_row(dim, real):
    zeros = _no_gradient.view(real)
    return zeros if dim <= len(zeros) else np.zeros(dim, real)


def _job(update, known):
    """An Update, checked before, for the core; and how many bytes it will touch, about. known: numbers() by id."""
    _, gradient, step, hyper, state, groups, constraint = update[:7]
    table = rows_of(update.table)
    if id(hyper) not in known:
        known[id(hyper)] = numbers(hyper)
    about = -1 if step is None else _CODES[step], known[id(hyper)], None if constraint is None else tuple(constraint)
    job_of = table.octets_vb, table.code, table.dim
    row_bytes = table.octets_vb.shape[1]
    make = table.core.module.Job
    if state is None:
        job = make(*job_of, None, 0, 0, *about)
    else:
        state = rows_of(state, "state")
        job = make(*job_of, state.octets_vb, state.code, state.dim, *about)
        row_bytes += state.octets_vb.shape[1]
    touched = len(table)
    if isinstance(gradient, Parts):
        upstream_bd = gradient.upstream_bd
        if np.may_share_memory(upstream_bd, table.octets_vb):
            upstream_bd = upstream_bd.copy()  # the step reads what it was before
        job.parts(groups, upstream_bd, gradient.weights_n, gradient.argmax_bd)
        touched = groups.num_parts
    elif gradient is not None:
        job.dense(gradient)
    elif groups is not None:
        job.look(groups)
        touched = groups.num_parts
    if update.everywhere:
        job.everywhere(_zero_row(table.dim, table.real))
        touched = len(table)
    if step == "squares":
        job.without_table()
    if "columns" in hyper:
        job.columns(hyper["columns"])
    if update.factor != 1 or update.limit != math.inf:
        job.shape(update.factor, update.limit)
    if update.fade:
        job.fade(update.fade)
    if update.scales is not None:
        job.scale(update.scales)
    if update.missed is not None:
        _set_missed(job, update.missed, _zero_row(table.dim, table.real))
    if update.average is not None:
        job.average(*update.average)
    if update.rounding is not None:
        job.round(True, update.rounding.seed % 2**64, update.rounding.step, update.rounding.pass_)
    return job, touched * row_bytes


def _set_missed(job, missed, zeros_d):
    job.catch_up(missed.last_v, missed.now, missed.idle, zeros_d)
    if missed.moments is None:
        job.replays(missed.replays, missed.first, _CODES[missed.step], missed.most)
    else:
        how = missed.reach, missed.endless, missed.weight_decay, missed.decays, missed.powers
        job.leaps(missed.moments, missed.first, _CODES[missed.step], *how)


def run(updates):
    """Does a list of `Update`s, checked before, together. Returns for each what its step has summed up, a list.

    Raises:
        MemoryError: nothing was written then.
    """
    known = {}
    jobs = [_job(update, known) for update in updates]
    threads, sums = threads_for(sum(work for _, work in jobs)), [None] * len(jobs)
    by_core = _by_core([rows_of(update.table).core for update in updates])
    passes = [(these, module.Pass([jobs[i][0] for i in these], threads)) for module, these in by_core]
    for these, one in passes:  # all have their memory
        for i, found in zip(these, one.run(), strict=True):
            sums[i] = found
    return sums


def finite(gradient):
    """Whether all numbers of Parts or of a float32 or float64 array are finite."""
    if isinstance(gradient, Parts):
        return all(finite(array) for array in (gradient.weights_n, gradient.upstream_bd) if array is not None)
    return core_of(gradient.dtype).module.finite(gradient.reshape(-1), threads_for(gradient.nbytes))


def update(table, parts, step, hyper, state=None, groups=None, constraint=None, rounding=None):
    """One optimizer step on the rows that a gradient touches, in place.

        table[r], state[r] = step(table[r], state[r], sum of the parts of row r)

    The sum of a row runs over its parts in the order of the ids, in chunks of 512, then over the chunks; so the bits
    never depend on the number of threads.

    Args:
        table: array (v, d) of float32, float64, bfloat16 or float16, C-contiguous, writeable; a memory map too.
        parts: Parts; of another dtype than that in which the table is stepped, they are converted.
        step: a key of `ops.STATES`: "sgd", "adagrad", "adam", ...
        hyper: dict of floats, those of `ops.HYPERPARAMETERS` that the step reads. Adam's learning_rate is the one with
            both bias corrections in it.
        state: array (v, state_width(step, d)) of float32 or bfloat16 (int8, where the state is a momentum alone), of a
            float64 table float64; or None where that is 0.
        groups: what group(parts, v) gave, or None to group here.
        constraint: a `RowConstraint` that the rows satisfy afterwards, or None.
        rounding: a `Rounding`, by which rows and states that are not float32 are rounded; None: to the nearest.

    Raises:
        IndexError: an id outside [0, v). TypeError, ValueError: wrong dtype, shape or name. Nothing was written then.

    Source: Keras 3's formulas; the row-wise ones are FBGEMM's.

    Example:
        >>> table = np.zeros((5, 2), "float32")
        >>> p = fastembed.ops.parts([4, 1, 4], np.ones((3, 2), "float32"))
        >>> fastembed.ops.update(table, p, "sgd", {"learning_rate": 0.5})
        >>> table[[1, 4]]
        array([[-0.5, -0.5],
               [-1. , -1. ]], dtype=float32)
    """
    _check_update(table, parts.upstream_bd.shape[1], step, hyper, state)
    real = rows_of(table).real
    if groups is None or parts.upstream_bd.dtype != real:
        parts = parts_as(parts, real)
        groups = group(parts, len(table))
    run([Update(table, parts, step, hyper, state, groups, constraint, rounding=rounding)])


def update_dense(table, gradient, step, hyper, state=None, constraint=None, rounding=None):
    """update() for a gradient that has every row: float32 or float64, the table's shape."""
    grads_vd = check_floats(gradient, table.shape, "gradient", rows_of(table).real)
    _check_update(table, table.shape[1], step, hyper, state)
    run([Update(table, grads_vd, step, hyper, state, None, constraint, rounding=rounding)])


class RowConstraint(NamedTuple):
    """What each row of a table has to satisfy: NON_NEG: no element is negative; NORM: low <= norm <= high.

    A row is projected by x *= wanted / (1e-7 + norm) with wanted = rate clip(norm, low, high) + (1 - rate) norm.
    """

    kind: int
    low: float = 0.0
    high: float = 0.0
    rate: float = 1.0


NON_NEG, NORM = _core.NON_NEG, _core.NORM


def constrain(table, constraint):
    """Projects all rows of a table in place if one of them breaks the constraint by more than rounding.

    Returns:
        bool: whether one did.

    Example:
        >>> table = np.array([[3.0, 4.0], [0.3, 0.4]], "float32")
        >>> unit = fastembed.ops.RowConstraint(fastembed.ops.NORM, low=1.0, high=1.0)
        >>> fastembed.ops.constrain(table, unit)
        True
        >>> table.round(3)
        array([[0.6, 0.8],
               [0.6, 0.8]], dtype=float32)
    """
    module = check_table(table).module
    threads = threads_for(table.nbytes)
    if not module.broken(table, tuple(constraint), threads):
        return False
    project(table, constraint)
    return True


def project(table, constraint):
    """Projects all rows of a table in place."""
    module = check_table(table, writeable=True).module
    module.project(table, tuple(constraint), threads_for(table.nbytes))


# ---- whole tables --------------------------------------------------------------------------------------------------

# The kind in the core, and for normals the first probability and how far they go: 2 standard deviations cut Phi(-2) off
# on either side.
_TAIL = 0.022750131948179207
_FILLS = {
    "uniform": (_core.UNIFORM, 0, 1),
    "normal": (_core.NORMAL, 0, 1),
    "truncated_normal": (_core.NORMAL, _TAIL, 1 - 2 * _TAIL),
    "row": (_core.ROW, 0, 1),
}


def row_bytes(storage, dim):
    """The bytes of a row of `dim` elements of a storage dtype."""
    return dtypes.of_rows(storage, dim).itemsize * (dim if storage in dtypes.PLAIN else 1)


def zeros(shape, storage="float32", sparse=False):
    """A table (rows, dim) of zeros whose rows start at cache lines if their length allows; no page is touched yet.
    sparse: in small pages, so that rows which are never touched take no memory."""
    rows, dim = map(int, shape)
    dtype = dtypes.of_rows(storage, dim)
    return _zeros((rows, dim) if storage in dtypes.PLAIN else (rows,), dtype, sparse)


def zeros_like(array, num_rows, sparse=False):
    """The same for an array like this one, with another number of rows (its first dimension).

    Raises:
        MemoryError: it does not fit.
    """
    if not sparse:
        check_fits(array.nbytes // len(array) * num_rows, f"a copy with {num_rows:,} rows")
    return _zeros((num_rows, *array.shape[1:]), array.dtype, sparse)


def _zeros(shape, dtype, sparse):
    size = math.prod(shape) * dtype.itemsize
    if size >= _MAPPED and not sparse and hasattr(mmap, "MAP_ANONYMOUS"):
        return _whole(_map(size), dtype, shape)
    memory = sparse_zeros(size + 64, np.uint8) if sparse else np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def sparse_zeros(shape, dtype):
    """An array of zeros in pages of the smallest size, each of which takes memory when it is first touched."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MAP_ANONYMOUS") or not size:
        return np.zeros(shape, dtype)
    return np.frombuffer(_map(size, sparse=True), dtype).reshape(shape)


class _Pages(mmap.mmap):
    """Memory that can grow without being copied. sparse: most of it is never touched."""

    sparse = False


def _map(size, sparse=False):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sparse and sys.platform == "linux":
        flags |= 0x4000  # MAP_NORESERVE, which Python knows from 3.13 on: more than there is may be mapped
    try:
        pages = _Pages(-1, size if sparse else _in_huge_pages(size), flags)
    except OSError as error:
        raise MemoryError(f"{size:,} bytes cannot be had: {error}") from error
    pages.sparse = sparse
    advice = getattr(mmap, "MADV_NOHUGEPAGE" if sparse else "MADV_HUGEPAGE", None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a system without huge pages
            pages.madvise(advice)
    return pages


def _in_huge_pages(size):
    return -(-size // _HUGE) * _HUGE


def _whole(pages, dtype, shape):
    return np.frombuffer(pages, np.uint8, math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def resized(held, num_rows):
    """The array that the list `held` has, and loses, with another number of rows; new ones are zeros. A large one grows
    or shrinks where it is, unless others see its memory. They keep it then: who grows is copied, who shrinks a view.

    Returns:
        the array, or None: it has to be copied, and `held` has it still.

    Raises:
        MemoryError: `held` has it still.
    """
    pages, size = held[0], held[0].nbytes
    dtype, shape, more = pages.dtype, pages.shape, num_rows - len(pages)
    new_size = size // len(pages) * num_rows
    while isinstance(pages, (np.ndarray, memoryview)):
        pages = pages.base if isinstance(pages, np.ndarray) else pages.obj
    if type(pages) is _Pages and held[0].ctypes.data == np.frombuffer(pages, np.uint8).ctypes.data:
        if not pages.sparse:
            check_fits(new_size - size, f"{more:,} more rows")
        held.clear()
        before = len(pages)
        try:
            pages.resize(new_size if pages.sparse else _in_huge_pages(new_size))
        except (BufferError, SystemError):  # others see it; not on this system
            held.append(_whole(pages, dtype, shape))
        except (OSError, ValueError) as error:
            held.append(_whole(pages, dtype, shape))
            if more > 0:
                raise MemoryError(f"{more:,} more rows cannot be had: {error}") from error
        else:
            octets = np.frombuffer(pages, np.uint8)
            octets[size : -(-before // mmap.PAGESIZE) * mmap.PAGESIZE] = 0  # of rows that were there once
            return _whole(pages, dtype, (num_rows, *shape[1:]))
    return held.pop()[:num_rows] if more <= 0 else None


def decode(table, rows=slice(None)):
    """A range of rows as numbers: a new float32 array, or of a float32 or float64 table a view.

    Args:
        table: an array of a storage dtype, or `Rows`.
        rows: slice without a step.
    """
    table = rows_of(table)
    octets_vb = table.octets_vb[rows]
    if not table.coded:
        return octets_vb.view(table.real)
    values_vd = _empty((len(octets_vb), table.dim), len(octets_vb) * table.dim, table.real)
    for these in blocks(values_vd, _MOMENT):
        part_vd = values_vd[these]
        table.core.module.decode(octets_vb[these], table.code, part_vd, threads_for(part_vd.nbytes))
    return values_vd


def encode(table, values, first_row=0, rounding=None):
    """Writes rows of numbers into a table from row `first_row` on.

    Args:
        table: an array of a storage dtype, or `Rows`; writeable.
        values: float32 or float64 array (n, d), C-contiguous.
        rounding: as in update(); codes are always rounded to the nearest.

    Raises:
        ValueError: a number for int8, int4 or int2 that is not finite; the row is named. Nothing was written then.
    """
    table = rows_of(table, writeable=True)
    octets_vb = table.octets_vb[first_row : first_row + len(values)]
    values = values.astype(table.real, copy=False)
    if not table.coded:
        np.copyto(octets_vb.view(table.real), values)
        return
    check_codes(table, values, first_row)
    how = (False, 0, 0) if rounding is None else (True, rounding.seed % 2**64, rounding.step)
    table.core.module.encode_rows(octets_vb, table.code, values, first_row, *how, threads_for(values.nbytes))


def check_codes(table, values, first_row=0):
    """Raises the ValueError of encode() for rows that are not finite."""
    if table.storage in dtypes.QUANTISED and not finite(values):
        row = first_row + int(np.argmin(np.isfinite(values).all(1)))
        raise ValueError(f"rows must be finite to be {table.storage}. Received: row {row} with NaN or infinity")


def blocks(table, elements=None):
    """The rows of a table, or matrix, in slices of at most so many elements; 4 million."""
    step = max(1, (elements or 4 * _LARGE) // max(1, table.shape[1]))
    return [slice(start, min(start + step, len(table))) for start in range(0, len(table), step)]


def change(table, function):
    """Lets `function(values, first_row)` change all rows of a table in place: those of float32 or float64 in one call,
    others in blocks that are decoded and encoded again."""
    table = rows_of(table, writeable=True)
    if not table.coded:
        function(decode(table), 0)
        return
    for rows in blocks(table):
        values_vd = decode(table, rows)
        function(values_vd, rows.start)
        encode(table, values_vd, rows.start)


def sums(array):
    """(sum of |x|, sum of x^2) over a float array of any shape, or the `Rows` of a table, in parallel; the bits never
    depend on the threads."""
    if type(array) is Rows:
        if not array.coded:
            return sums(decode(array))
        found = [sums(decode(array, rows)) for rows in blocks(array)]
        return math.fsum(one for one, _ in found), math.fsum(two for _, two in found)
    flat = check_floats(array, (None,) * np.ndim(array), "array", None).reshape(1, -1)
    return core_of(flat.dtype).module.sums(flat, threads_for(flat.nbytes))


def fill(table, kind, a=0.0, b=0.0, seed=0, first_row=0, row=None, numbers=None):
    """Fills a table in parallel: "uniform" in [a, b); "normal" (mean a, standard deviation b); "truncated_normal", the
    part of it within 2 b of a; "row": copies of `row`.

    Random values are float32 numbers, in a float64 table too, and depend on (seed, row number, column) and the row's
    length alone: not on threads, instruction sets or the number of rows. first_row: the number of the first row here;
    numbers: or those of all rows here, int64.
    """
    core = check_table(table, writeable=True)
    row_d = None if row is None else check_floats(row, (table.shape[1],), "row", core.real)
    code, p_low, p_span = _FILLS[kind]
    for rows in blocks(table, _MOMENT):
        these = None if numbers is None else numbers[rows]
        about = a, b, p_low, p_span, seed % 2**64, first_row + rows.start, these
        core.module.fill(table[rows], code, row_d, *about, threads_for(table[rows].nbytes))
