"""Row-sparse gradients: Parts (ids, bags and upstream gradients, nothing expanded), sorted by row once.

May import: dtypes, ops.checks, .cores, threads. Do not break: ids are checked where they are sorted, so that an update
of sorted parts can no longer fail.
"""

from typing import NamedTuple

import numpy as np

from fastembed.dtypes import INT64
from fastembed.ops.checks import check_floats, check_padding, check_splits, combiner_code, explain_ids, flat_ids
from fastembed.ops.cores import by_core, core_of
from fastembed.threads import core as _core
from fastembed.threads import threads_for


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
        splits_b1 = np.ascontiguousarray(check_splits(row_splits, len(ids_n)), INT64)
    return parts_checked(ids_n, upstream, splits_b1, weights, combiner, padding_idx, argmax)


def parts_checked(ids_n, upstream, splits_b1=None, weights=None, combiner="sum", padding_idx=None, argmax=None):
    """parts() on ids and splits that were checked before."""
    bags = len(ids_n) if splits_b1 is None else len(splits_b1) - 1
    upstream_bd = check_floats(upstream, (bags, None), "upstream", None)
    weights_n = None if weights is None else check_floats(weights, (len(ids_n),), "weights", upstream_bd.dtype)
    code = combiner_code(combiner)
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
    for module, these in by_core([core_of(parts.upstream_bd.dtype) for parts, _ in gradients]):
        # A key costs about 20 bytes of a row's traffic.
        found = module.sort([all_groups[i] for i in these], threads_for(work * 20))
        if found >= 0 and (bad < 0 or these[found] < bad):
            bad = these[found]
    return all_groups, bad


def look_parts(ids_n, splits_b1=None, combiner="sum", padding_idx=None):
    """What is looked up, as Parts without a gradient, for group_look(); checked before."""
    bags = len(ids_n) if splits_b1 is None else len(splits_b1) - 1
    nothing_b0 = np.empty((bags, 0), np.float32)
    return Parts(ids_n, splits_b1, None, combiner_code(combiner), check_padding(padding_idx), nothing_b0, None)


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


def finite(gradient):
    """Whether all numbers of Parts or of a float32 or float64 array are finite."""
    if isinstance(gradient, Parts):
        return all(finite(array) for array in (gradient.weights_n, gradient.upstream_bd) if array is not None)
    return core_of(gradient.dtype).module.finite(gradient.reshape(-1), threads_for(gradient.nbytes))
