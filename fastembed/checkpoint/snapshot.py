"""What of a training goes to disk in one save: a moment of it, held for as long as the save takes.

May import: checkpoint.files, ops. Do not break: with `wait=False` training goes on, and the bytes on disk are those of
the moment; whoever changes rows that are not written yet first has them copied.
"""

import contextlib
import threading
import weakref

import numpy as np

from fastembed import ops
from fastembed.checkpoint.files import Writing, octets_of, write_all

_BLOCK = 1 << 15  # rows


def copy_rows(octets_vb, lazy, rows, out):
    """Copies rows (a slice, or their numbers) of an array; lazy: the Lazy that knows which of them are made, or None.
    Here, and nowhere else, rows are read for a save."""
    if lazy is not None:
        np.copyto(out, lazy.read(rows))
    elif isinstance(rows, slice):
        np.copyto(out, octets_vb[rows])
    else:
        np.take(octets_vb, rows, axis=0, out=out, mode="clip")


class Touched:
    """A watcher: which rows of a table, and of what is kept of them, have changed since the last save to one path; at
    the beginning all. It leaves the table together with its owner."""

    def __init__(self, table, owner):
        self._table = weakref.ref(table)
        self._mask_v = np.zeros(len(table), bool) if table.lazy is None else ops.sparse_zeros(len(table), bool)
        self._all = True
        table.watchers.append(self)
        weakref.finalize(owner, _leave, table.watchers, self)

    def of(self, table):
        """Whether it watches this table; not any more, when that has got other rows."""
        return self._table() is table and self in table.watchers

    def before(self, rows_u):
        """See `Table.changing`."""
        if rows_u is None:
            self._all = True
        else:
            self._mask_v[rows_u] = True

    def take(self):
        """The rows, int64; None: more than half of all. From now on they count as saved."""
        many = self._all or 2 * np.count_nonzero(self._mask_v) > len(self._mask_v)
        rows_u = None if many else np.flatnonzero(self._mask_v)
        self.clear()
        return rows_u

    def clear(self):
        """All rows count as saved."""
        self._mask_v[np.flatnonzero(self._mask_v)] = False
        self._all = False


def _leave(watchers, watcher):
    with contextlib.suppress(ValueError):
        watchers.remove(watcher)


class Part:
    """The rows of some arrays of one length, for Writing: all rows, or those in `rows_u`, as they are at that moment.

    Args:
        arrays: {NUMBER.WHAT: array}.
        length: rows of each array.
        table: the Table that they belong to, or None.
        rows_u: int64, rising, or None.
        lazies: {name: Lazy} of the arrays whose rows may not be made yet.
    """

    def __init__(self, arrays, length, table=None, rows_u=None, lazies=None):
        self.length = length if rows_u is None else len(rows_u)
        self._octets = {name: octets_of(array, length) for name, array in arrays.items()}
        self._table, self._rows_u, self._lazies = table, rows_u, lazies or {}
        self._about = {}
        for name, array in arrays.items():
            dtype = np.dtype(np.uint16) if array.dtype.name == "bfloat16" else array.dtype
            self._about[name] = dtype, array.shape if rows_u is None else (len(rows_u), *array.shape[1:])

    def writing(self, folder):
        """The Writing of these arrays."""
        return Writing(folder, self._about, self.length, self.copy)

    def copy(self, first, last, outs):
        """See Writing."""
        rows = slice(first, last) if self._rows_u is None else self._rows_u[first:last]
        for name, out in outs.items():
            copy_rows(self._octets[name], self._lazies.get(name), rows, out)
        return True

    def close(self):
        """Nothing is read any more."""


class Snapshot(Part):
    """A Part of a table that is trained meanwhile; a watcher of it."""

    def __init__(self, arrays, length, table, rows_u=None, lazies=None):
        super().__init__(arrays, length, table, rows_u, lazies)
        self._written = np.zeros(self.length, bool)  # or copied, by place in the files
        self._kept_at = np.zeros(self.length, np.int32)  # 1 + the place among the kept of a row that has changed since
        self._kept, self._count = [], 0  # blocks {name: (_BLOCK, bytes)}
        self._writing = self._error = None
        table.watchers.append(self)

    def writing(self, folder):
        self._writing = super().writing(folder)
        return self._writing

    def copy(self, first, last, outs):
        with self._table.lock:
            if self._error is not None:
                raise self._error
            if self._written[first:last].all():
                return False
            super().copy(first, last, outs)
            self._written[first:last] = True
            changed = np.flatnonzero(self._kept_at[first:last])
            blocks, places = np.divmod(self._kept_at[first:last][changed] - 1, _BLOCK)
            for block in np.unique(blocks):
                here = blocks == block
                for name, out in outs.items():
                    out[changed[here]] = self._kept[block][name][places[here]]
        return True

    def before(self, rows_u):
        """See `Table.changing`: rows that are not written yet are kept; or, if all change, written now. What goes wrong
        here is the save's concern, and not that of who trains."""
        try:
            if self._error is None and rows_u is None:
                for number in self._writing.chunks:
                    self._writing.write(number)
            elif self._error is None and self.length:
                self._keep(rows_u)
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise

    def _keep(self, rows_u):
        if self._rows_u is None:
            places = rows_u
        else:
            places = np.minimum(np.searchsorted(self._rows_u, rows_u), self.length - 1)
            places = places[self._rows_u[places] == rows_u]
        places = places[~self._written[places] & (self._kept_at[places] == 0)]
        self._kept_at[places] = np.arange(self._count + 1, self._count + 1 + len(places))
        while len(places):
            at = self._count % _BLOCK
            if at == 0:
                self._kept.append({name: np.empty((_BLOCK, o.shape[1]), np.uint8) for name, o in self._octets.items()})
            these, places = places[: _BLOCK - at], places[_BLOCK - at :]
            rows = these if self._rows_u is None else self._rows_u[these]
            for name, octets in self._octets.items():
                copy_rows(octets, self._lazies.get(name), rows, self._kept[-1][name][at : at + len(these)])
            self._count += len(these)

    def close(self):
        with self._table.lock:
            _leave(self._table.watchers, self)
            self._kept = self._kept_at = self._written = None


class Moment:
    """All that one save writes. live: whether training goes on while it is written."""

    def __init__(self, live):
        self._live = live
        self._parts, self._writings = [], []
        self._taken = []  # (Touched, rows) that count again if the save fails

    def add_alone(self, arrays):
        """Arrays {name: array} that are written whole."""
        for name, array in arrays.items():
            self._parts.append(Part({name: np.array(array) if self._live else array}, array.size))

    def add_table(self, table, arrays, rows_u, lazies):
        """Arrays with a row for each row of a table: whole, or these rows. lazies: see Part."""
        self._parts.append((Snapshot if self._live else Part)(arrays, len(table), table, rows_u, lazies))

    def take(self, touched):
        """The rows that a Touched has."""
        rows_u = touched.take()
        self._taken.append((touched, rows_u))
        return rows_u

    def begin(self, folder):
        """Makes the files, while nobody trains."""
        self._writings += [part.writing(folder) for part in self._parts]

    def write(self, progress):
        """Fills the files; returns what save.json says of them."""
        return write_all(self._writings, 1 if self._live else None, progress)

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        for part in self._parts:
            part.close()
        for touched, rows_u in self._taken if failed else ():
            touched.before(rows_u)


class Background:
    """A save that is written while training goes on; `Checkpoint.save(wait=False)` returns it."""

    def __init__(self, run, inside):
        """inside: for `with`, what is to end with the save."""
        self._run, self._inside, self._error, self.told = run, inside, None, False
        self._thread = threading.Thread(target=self._save, name="fastembed-checkpoint")
        self._thread.start()  # no daemon: the interpreter ends after it

    def _save(self):
        try:
            with self._inside:
                self._run()
        except BaseException as error:
            self._error = error
        self._run = self._inside = None

    @property
    def done(self):
        """Whether it has ended."""
        return not self._thread.is_alive()

    def wait(self):
        """Returns when the save is on disk.

        Raises:
            OSError: the disk is full, ...: what `save` raises.
        """
        self._thread.join()
        self.told = True
        if self._error is not None:
            raise self._error
