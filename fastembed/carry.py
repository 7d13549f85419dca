"""Carry: the rows of arrays go on in arrays that have another number of rows, or another order.

May import: files, lazy, ops. Do not break: whatever fails, or dies, leaves the arrays and files as they were, each
file as a whole one; what others see of the old memory stays as it is.

A file that keeps its order is changed in place: it is made longer, and the new rows are forced to disk, before its
header counts them, which is one small write; and it is made shorter after its header has forgotten them.
"""

import contextlib
import copy
import functools
import os
import weakref

import numpy as np

from fastembed import files, ops
from fastembed.lazy import bits_of

_ROWS_AT_ONCE = 1 << 20
_AT_ONCE = 1 << 22  # elements, or bytes that are copied


class Carry:
    """One change of arrays that have `old` rows each, for `with`: they have `new` ones at its end, or after an error
    inside it the old ones.

    Args:
        old, new: int, the number of rows before and after.
        from_v: int64 (new,), the old number of each row, -1: it had none. None: the first rows stay.

    Arrays are attributes, which are taken from their holders meanwhile, so that memory which nobody else sees can grow
    in place.
    """

    def __init__(self, old, new, from_v=None):
        self.old, self.new, self.from_v = old, new, from_v
        self._undo = contextlib.ExitStack()
        self._steps = []  # what is left to do when all went well: it may fail
        self._last = []  # what comes then: it cannot fail
        self._after = []  # what comes then, or after an error
        self._cuts = []  # what comes then, when nobody here sees the old files any more

    def __enter__(self):
        return self

    def __exit__(self, kind, error, where):
        while where is not None:  # what failed may still see memory that is to be given back
            with contextlib.suppress(RuntimeError):  # a frame that is running
                where.tb_frame.clear()
            where = where.tb_next
        try:
            with self._undo:
                if kind is None:
                    for step in self._steps:
                        step()
                    self._undo.pop_all()
            for step in self._last if kind is None else ():
                step()
        finally:
            for step in self._after:
                step()
        self._steps.clear()  # they hold old arrays
        for step in self._cuts if kind is None else ():
            step()

    def step(self, function):
        """To be called at the end, if all went well. It may fail."""
        self._steps.append(function)

    def last(self, function):
        """To be called then. It cannot fail."""
        self._last.append(function)

    def after(self, function):
        """To be called after all, and after an error, too."""
        self._after.append(function)

    # ---- arrays ----------------------------------------------------------------------------------------------------

    def array(self, holder, name, sparse=False, touched=None):
        """The attribute `name` of `holder`, an array: has the new rows from now on (if there are less, at the end);
        those that were not there are zeros, to be filled by who calls.

        sparse: rows that are zeros take no memory, and `touched(rows_n)` tells which may be others; None: all.
        """
        if files.is_written(getattr(holder, name)):
            self._in_file(holder, name, sparse, touched)
        elif self.from_v is None and self.new <= self.old:
            self.last(lambda: self._resize(holder, name, self.new))
        else:
            self._in_memory(holder, name, sparse, touched)

    def _resize(self, holder, name, num_rows):
        """In place if possible. Returns None; or the array, where there is no place."""
        held = [holder.__dict__.pop(name)]
        try:
            array = ops.resized(held, num_rows)
            if array is not None:
                setattr(holder, name, array)
        finally:
            if held:
                setattr(holder, name, held[0])
        return held[0] if held else None

    def _in_memory(self, holder, name, sparse, touched):
        if self.from_v is None:
            old = self._resize(holder, name, self.new)
            if old is None:
                self._undo.callback(self._resize, holder, name, self.old)
                return
        old = getattr(holder, name)
        self._undo.callback(setattr, holder, name, old)
        setattr(holder, name, self._copied(old, ops.zeros_like(old, self.new, sparse), touched))

    def _copied(self, old, new, touched):
        old_vb, new_vb = (_octets(array) for array in (old, new))
        size = min(_ROWS_AT_ONCE, max(1, _AT_ONCE // old_vb.shape[1]))
        for start in range(0, self.new, size):
            from_n = self._from(start, min(start + size, self.new))
            carried_n = from_n >= 0
            if touched is not None:
                carried_n &= touched(np.maximum(from_n, 0)) != 0
            if carried_n.all() and type(run(from_n)) is not slice:
                np.take(old_vb, from_n, 0, new_vb[start : start + len(from_n)], "clip")
            else:
                to_n = start + np.flatnonzero(carried_n)
                new_vb[run(to_n)] = old_vb[run(from_n[carried_n])]
        return new

    def _from(self, start, stop):
        """The old numbers of new rows, -1: none."""
        if self.from_v is not None:
            return self.from_v[start:stop]
        from_n = np.arange(start, stop)
        return np.where(from_n < self.old, from_n, -1)

    def _in_file(self, holder, name, sparse, touched):
        old = getattr(holder, name)
        headers = [files.header(old, n) for n in (self.old, self.new)]
        if self.from_v is not None or None in headers:
            self._in_new_file(holder, name, sparse, touched)
            return
        if self.new > self.old:
            self._undo.callback(files.cut, old)
            new = files.extended(old, self.new, sparse)
        else:
            new = files.mapped(old, self.new)
            self._cuts.append(functools.partial(_cut_unseen, weakref.ref(old._mmap), new))

        def count():
            new.flush()
            self._undo.callback(files.write_header, old, headers[0])
            files.write_header(new, headers[1])

        self._undo.callback(setattr, holder, name, old)
        setattr(holder, name, new)
        self.step(count)

    def _in_new_file(self, holder, name, sparse, touched):
        old = getattr(holder, name)
        path = f"{old.filename}.{os.getpid()}.new"
        self._undo.callback(_remove, path)
        new = self._copied(old, files.new_like(path, old, self.new, sparse), touched)
        new.filename = old.filename

        def replace():
            new.flush()
            files.put(path, new.filename)

        self._undo.callback(setattr, holder, name, old)
        setattr(holder, name, new)
        self.step(replace)

    def bits(self, holder, name):
        """The same for an array that has a bit for each row, from the lowest of each byte on."""
        made = getattr(holder, name)
        octets = copy.copy(self)  # the same change, seen from there
        octets.old, octets.new = len(made), (self.new + 7) // 8
        if self.from_v is None:
            if self.new > self.old and self.old % 8:
                made[self.old // 8] &= (1 << self.old % 8) - 1
            del made  # it grows in place
            octets.array(holder, name, sparse=True)
            return
        octets.from_v = np.full(octets.new, -1)
        octets.array(holder, name, sparse=True)
        for start in range(0, self.new, _ROWS_AT_ONCE):
            from_n = self.from_v[start : start + _ROWS_AT_ONCE]
            bits_n = np.where(from_n < 0, 0, bits_of(made, np.maximum(from_n, 0)))
            getattr(holder, name)[start // 8 : (start + len(from_n) + 7) // 8] = np.packbits(bits_n, bitorder="little")

    # ---- rows ------------------------------------------------------------------------------------------------------

    def fresh(self, dim=1):
        """Yields the numbers of rows that were not there, rising, in pieces (int64) for rows of `dim` elements."""
        size = max(1, _AT_ONCE // dim)
        if self.from_v is None:
            for start in range(self.old, self.new, size):
                yield np.arange(start, min(start + size, self.new))
        else:
            rows_u = np.flatnonzero(self.from_v < 0)
            for start in range(0, len(rows_u), size):
                yield rows_u[start : start + size]

    def set_fresh(self, array, value):
        """Gives rows of an array that were not there a value."""
        for rows_u in self.fresh():
            array[run(rows_u)] = value

    def places(self, rows_n):
        """Where old rows are now: int64, -1: nowhere."""
        if self.from_v is None:
            return np.where(rows_n < self.new, rows_n, -1)
        to_v = np.full(self.old, -1)
        to_v[self.from_v[self.from_v >= 0]] = np.flatnonzero(self.from_v >= 0)
        return to_v[rows_n]


def run(rows_n):
    """Row numbers as a slice, where they follow each other."""
    if len(rows_n) and rows_n[-1] - rows_n[0] == len(rows_n) - 1 and (np.diff(rows_n) == 1).all():
        return slice(int(rows_n[0]), int(rows_n[-1]) + 1)
    return rows_n


def _octets(array):
    return np.asarray(array).view(np.uint8).reshape(len(array), -1)


def _cut_unseen(seen, array):
    """Ends a file where its last row does, unless arrays on its old memory map are left, whose readers that would kill.
    Its space is free at the next change then."""
    if seen() is None:
        with contextlib.suppress(OSError):
            files.cut(array)


def _remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
