"""Lazy: rows that take their initial values when they are first read or changed.

May import: ops. Do not break: a row that was not made yet has the bits that it would have had from the start, whoever
asks for it and when; and reading many rows at once (a save) makes none of them.
"""

import sys

import numpy as np

from fastembed import ops

_AT_ONCE = 1 << 22  # elements
_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


def bits_of(made, rows_n):
    """The bits of rows, uint8: 1, if they are made."""
    return made[rows_n >> 3] >> (rows_n & 7).astype(np.uint8) & 1


class Lazy:
    """The rows of an array that are not made yet.

    Args:
        rows: ops.Rows, of zeros where they are not made.
        fill: function(values_ud, rows_u) that writes the initial values of rows of these numbers (int64, rising) to a
            new array of the dtype in which they are stepped.
        made: uint8 (v / 8,), a bit for each row, from the lowest on: whether it is made.
    """

    def __init__(self, rows, fill, made):
        self.rows, self.fill, self.made = rows, fill, made

    def bits(self, rows_n):
        """Whether rows are made: uint8, 1 or 0."""
        return bits_of(self.made, rows_n)

    def missing(self, rows):
        """The numbers of the rows of a slice that are not made: int64, rising."""
        start, stop, _ = rows.indices(len(self.rows))
        first = start // 8 * 8
        made = np.unpackbits(self.made[start // 8 : (stop + 7) // 8], bitorder="little")
        return start + np.flatnonzero(made[start - first : stop - first] == 0)

    def made_rows(self):
        """The numbers of the rows that are made: int64, rising."""
        octets_n = np.flatnonzero(self.made)
        places, bits = np.nonzero(np.unpackbits(self.made[octets_n, None], axis=1, bitorder="little"))
        rows_u = octets_n[places] * 8 + bits
        return rows_u[: np.searchsorted(rows_u, len(self.rows))]

    def forget(self):
        """No row is made any more."""
        self.made[np.flatnonzero(self.made)] = 0

    def mark(self, rows_u):
        """These rows (int64, rising) are made: somebody has written them."""
        octets_u = rows_u >> 3
        starts = np.flatnonzero(np.diff(octets_u, prepend=-1))
        if len(starts):
            bits = np.left_shift(1, rows_u & 7).astype(np.uint8)
            self.made[octets_u[starts]] |= np.bitwise_or.reduceat(bits, starts)

    def make(self, rows_n):
        """Makes these rows (int32 or int64 in any order; None: all). Numbers of no row make none: who uses them says
        what is wrong."""
        if rows_n is None:
            for block in ops.blocks(self.rows):
                self._make(self.missing(block))
            return
        self._make(ops.unmade(rows_n, len(self.rows), self.made))

    def has_made(self, rows_n):
        """Whether make() surely has nothing to do; without a lock, so a change of the rows may be under way. Without a
        GIL it is never sure: nothing but a lock says that who sees the bit of a row sees the row."""
        rows, made = self.rows, getattr(self, "made", None)
        if not _HAS_GIL or rows_n is None or rows is None or made is None or 8 * len(made) < len(rows):
            return False
        return not len(ops.unmade(rows_n, len(rows), made))

    def _make(self, rows_u):
        step = max(1, _AT_ONCE // self.rows.dim)
        for start in range(0, len(rows_u), step):
            part_u = rows_u[start : start + step]
            self.rows.octets_vb[part_u] = self.initial(part_u)
            self.mark(part_u)

    def initial(self, rows_u):
        """The bytes that rows of these numbers begin with."""
        values_ud = ops.zeros((len(rows_u), self.rows.dim), self.rows.real.name)
        self.fill(values_ud, rows_u)
        if not self.rows.coded:
            return values_ud.view(np.uint8)
        coded = ops.rows_of(ops.zeros(values_ud.shape, self.rows.storage), dim=self.rows.dim)
        ops.encode(coded, values_ud)
        return coded.octets_vb

    def read(self, rows):
        """The bytes (n, bytes) of rows, a slice or int64 and rising, all as if they were made; none is made."""
        octets_nb = self.rows.octets_vb[rows]
        if isinstance(rows, slice):
            missing_u = self.missing(rows)
            places = missing_u - (rows.start or 0)
        else:
            missing_u = ops.unmade(rows, len(self.rows), self.made)
            places = np.searchsorted(rows, missing_u)
        if len(missing_u):
            octets_nb = np.array(octets_nb)
            octets_nb[places] = self.initial(missing_u)
        return octets_nb
