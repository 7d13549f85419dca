"""Lazy: rows that take their initial values when they are first read or changed.

May import: ops. Do not break: a row that was not made yet has the bits that it would have had from the start, whoever
asks for it and when; and reading many rows at once (a save) makes none of them.
"""

import numpy as np

from fastembed import ops

_AT_ONCE = 1 << 22  # elements


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

    def make(self, rows_n):
        """Makes these rows (int32 or int64 in any order; None: all). Numbers of no row make none: who uses them says
        what is wrong."""
        if rows_n is None:
            for block in ops.blocks(self.rows):
                self._make(self.missing(block))
            return
        if not ops.are_rows(rows_n, len(self.rows)):
            return
        missing_n = rows_n[self.bits(rows_n) == 0]
        if len(missing_n):
            self._make(np.unique(missing_n).astype(np.int64, copy=False))

    def _make(self, rows_u):
        step = max(1, _AT_ONCE // self.rows.dim)
        for start in range(0, len(rows_u), step):
            part_u = rows_u[start : start + step]
            self.rows.octets_vb[part_u] = self._octets(part_u)
            octets_u = part_u >> 3
            starts = np.flatnonzero(np.diff(octets_u, prepend=-1))
            bits = np.left_shift(1, part_u & 7).astype(np.uint8)
            self.made[octets_u[starts]] |= np.bitwise_or.reduceat(bits, starts) if len(bits) else bits

    def _octets(self, rows_u):
        """The bytes that rows begin with."""
        values_ud = ops.zeros((len(rows_u), self.rows.dim), self.rows.real.name)
        self.fill(values_ud, rows_u)
        if not self.rows.coded:
            return values_ud.view(np.uint8)
        coded = ops.rows_of(ops.zeros(values_ud.shape, self.rows.storage), dim=self.rows.dim)
        ops.encode(coded, values_ud)
        return coded.octets_vb

    def read(self, rows):
        """The bytes (n, bytes) of a slice of rows, all as if they were made; none is made."""
        octets_nb, missing_u = self.rows.octets_vb[rows], self.missing(rows)
        if len(missing_u):
            octets_nb = np.array(octets_nb)
            octets_nb[missing_u - (rows.start or 0)] = self._octets(missing_u)
        return octets_nb
