"""Whole tables: as numbers and back, filled, summed up, constrained.

May import: dtypes, ops.checks, .cores, .gradients, .pages, .rows, threads. Do not break: no second table is made;
what is not float32 or float64 is changed in blocks.
"""

import math
from typing import NamedTuple

import numpy as np

from fastembed import dtypes
from fastembed.ops.checks import check_floats
from fastembed.ops.cores import core_of
from fastembed.ops.gradients import finite
from fastembed.ops.pages import empty
from fastembed.ops.rows import Rows, check_table, rows_of
from fastembed.threads import core as _core
from fastembed.threads import threads_for

_BLOCK = 1 << 22  # elements that are decoded at once
_MOMENT = 1 << 25  # elements that are written within a moment; then Ctrl-C is heard


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
    values_vd = empty((len(octets_vb), table.dim), len(octets_vb) * table.dim, table.real)
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
    step = max(1, (elements or _BLOCK) // max(1, table.shape[1]))
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


# The kind in the core, and for normals the first probability and how far they go: 2 standard deviations cut Phi(-2) off
# on either side.
_TAIL = 0.022750131948179207
_FILLS = {
    "uniform": (_core.UNIFORM, 0, 1),
    "normal": (_core.NORMAL, 0, 1),
    "truncated_normal": (_core.NORMAL, _TAIL, 1 - 2 * _TAIL),
    "row": (_core.ROW, 0, 1),
}


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
