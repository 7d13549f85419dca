"""Look-ups: the rows of ids, or one combined row for each bag of them.

May import: dtypes, ops.checks, .cores, .pages, .rows, threads. Do not break: with a bad id `out` stays as it was.
"""

import numpy as np

from fastembed.dtypes import INT64
from fastembed.ops.checks import (
    check_floats,
    check_out,
    check_padding,
    check_splits,
    combiner_code,
    explain_ids,
    flat_ids,
)
from fastembed.ops.pages import empty
from fastembed.ops.rows import rows_of
from fastembed.threads import core as _core
from fastembed.threads import threads_for


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
        result = empty((*shape, d), n * d, core.real)
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
    splits_b1 = np.ascontiguousarray(check_splits(row_splits, len(ids_n)), INT64)
    return pool_checked(rows, ids_n, splits_b1, weights, combiner, out, padding_idx)


def pool_checked(rows, ids_n, splits_b1, weights=None, combiner="sum", out=None, padding_idx=None, shape=None):
    """pool() on ids and splits that were checked before; `shape`: what the ids looked like, for the message."""
    rows = rows_of(rows)
    core = rows.core
    v, d = rows.shape
    code = combiner_code(combiner)
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
    code, padding, table = combiner_code(combiner), check_padding(padding_idx, v), (rows.octets_vb, rows.code)
    threads = threads_for(len(ids_n) * d * rows.real.itemsize)
    if not kernel(*table, ids_n, splits_b1, weights_n, code, padding, upstream_bd, arg_bd, out_n, threads):
        explain_ids(ids_n, v)
    return out_n
