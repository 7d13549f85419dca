"""What a save holds, together with those that it follows: how it is opened, read into memory, verified, folded.

May import: checkpoint.files, checkpoint.series, saving, dtypes, threads. Do not break: all that is said of arrays, and
all that is small, is checked before the first byte of a large array is read to where a training has it.
"""

import functools
import math
import os
import zlib
from typing import NamedTuple

import numpy as np

from fastembed import dtypes, saving
from fastembed.checkpoint.files import Stored, Writing, each, octets_of, read_all, shown, write_all
from fastembed.checkpoint.series import SAVE, NewSave, damage, from_json, numbers, of_one_list, read_list
from fastembed.threads import threads_for

ROWS = ("weights", "scales", "state", "average", "averaged", "last")  # arrays with a row for each row of the table
_DTYPES = (*dtypes.STORAGE, "float64", "int32", "int64")


class Array:
    """An array of a save: a whole one in a file, and rows that deltas have changed since."""

    def __init__(self, kind, base, deltas):
        """kind: as in save.json. base: (level, Stored), None of a lazy table; deltas: [(level, rows_u, Stored)]. A
        level is a save of the chain."""
        name, *shape = kind
        self.dtype = dtypes.bfloat16() if name == "bfloat16" else (base or deltas[0])[-1].dtype
        self.shape = tuple(shape) if name not in dtypes.QUANTISED else tuple(shape[:1])
        self.base, self.deltas = base, deltas

    def verify_deltas(self):
        """Compares them with their checksums: `copy` reads no whole chunks of them."""
        read_all([delta for *_, delta in self.deltas], False)

    def copy(self, number, octets):
        """Puts a chunk of the base into an array (rows, bytes), with all later rows; after `verify_deltas`."""
        stored = self.base[1]
        first, last = stored.span(number)
        stored.read(number, octets)
        for _, rows_u, delta in self.deltas:
            begin, end = np.searchsorted(rows_u, (first, last))
            if begin < end:
                octets[rows_u[begin:end] - first] = delta.read_rows(begin, end)

    def load(self):
        """The array, in memory."""
        return self.base[1].load().view(self.dtype)

    def extremes(self):
        """Integers with the least one, the least but 0, and the largest of the array: enough to check their range."""
        if self.base is None:
            return _extremes([np.zeros(1, self.dtype), *(delta.load().view(self.dtype) for *_, delta in self.deltas)])
        found, stored = np.empty(0, self.dtype), self.base[1]
        self.verify_deltas()
        for number in stored.chunks:
            first, last = stored.span(number)
            octets = np.empty((last - first, stored.unit), np.uint8)
            self.copy(number, octets)
            found = _extremes([found, octets.reshape(-1).view(self.dtype)])
        return found

    def rows(self):
        """The rows that a lazy table had made: int64, rising."""
        return functools.reduce(np.union1d, [rows_u for _, rows_u, _ in self.deltas])

    def copy_rows(self, rows_u, out):
        """Puts some of rows(), one after the other, into an array (rows, bytes); after `verify_deltas`."""
        for _, of_delta, delta in self.deltas:
            begin, end = np.searchsorted(of_delta, (rows_u[0], rows_u[-1] + 1))
            if begin < end:
                out[np.searchsorted(rows_u, of_delta[begin:end])] = delta.read_rows(begin, end)

    def reads(self, array):
        """[(level, function without arguments)], which bring the array's bytes into memory; each returns how many."""
        octets, todo = octets_of(array, self.shape[0] if self.base is None else self.base[1].length), []
        if self.base is not None:
            level, stored = self.base
            todo = [(level, stored, number, slice(*stored.span(number)), octets) for number in stored.chunks]
        for level, rows_u, delta in self.deltas:
            todo += [(level, delta, number, rows_u[slice(*delta.span(number))], octets) for number in delta.chunks]
        return [(level, lambda one=one: _read(*one)) for level, *one in todo]

    @property
    def nbytes(self):
        """Of all files."""
        return sum(stored.nbytes for *_, stored in (*([self.base] if self.base else []), *self.deltas))


def _extremes(arrays):
    values = np.concatenate(arrays)
    others = values[values != 0]
    return np.array([values.min(), values.max(), *([others.min()] if others.size else [])], values.dtype)


def _read(stored, number, rows, octets):
    if isinstance(rows, slice):
        stored.read(number, octets[rows])
        return octets[rows].size
    part = np.empty((len(rows), stored.unit), np.uint8)
    stored.read(number, part)
    octets[rows] = part
    return part.size


def fill(arrays, progress=None):
    """Reads each (Array, memory); in order of the levels, within one all threads beside each other."""
    reads = [one for array, memory in arrays for one in array.reads(memory)]
    nbytes = sum(array.nbytes for array, _ in arrays)
    with shown(progress, nbytes, "restore") as done:
        for level in sorted({level for level, _ in reads}):
            these = [read for at, read in reads if at == level]
            try:
                for count in each(lambda read: read(), these, threads_for(nbytes)):
                    done(count)
            except (OSError, ValueError) as error:
                error.add_note("What was to be restored holds a mixture now: restore it from another save.")
                raise


class Chain(NamedTuple):
    """A save, with those that it follows: its entry in the list, what its save.json says, its arrays by name of the
    variable and WHAT, those of `extra` by their names, and the Stored of all files."""

    entry: dict
    about: dict
    arrays: dict
    extra: dict
    files: list


def open_chain(path, number=None):
    """The Chain of the save of this number, None: of the last. All is checked but the bytes of arrays (those of
    rows.npy are).

    Raises:
        FileNotFoundError: there is no checkpoint, or no file of it. ValueError: damage; there is no such number.
    """
    saves = read_list(path)
    with damage(path):
        by_number = {int(entry["name"]): entry for entry in saves}
    number = max(by_number, default=None) if number is None else number
    if number not in by_number:
        raise ValueError(f"`number` must be one of {list(by_number)}. Received: number={number!r}")
    entries = [by_number[number]]
    with damage(path):
        while entries[0]["after"] is not None:
            entries.insert(0, by_number[int(entries[0]["after"])])
        levels = [_Level(path, entry) for entry in entries]
        about, arrays, files = levels[-1].about, {}, [stored for level in levels for stored in level.files.values()]
        for place, (name, one) in enumerate(about["variables"].items()):
            arrays[name] = {what: _array(levels, name, place, what, kind) for what, kind in one["arrays"].items()}
        extra = {name: levels[-1].files[f"extra.{place}"] for place, name in enumerate(_extra(about))}
    return Chain(entries[-1], about, arrays, extra, files)


class _Level:
    """One save: what its save.json says, and its files as Stored."""

    def __init__(self, path, entry):
        folder = os.path.join(path, entry["name"])
        with open(os.path.join(folder, SAVE), "rb") as file:
            text = file.read()
        if zlib.crc32(text) != entry["digest"]:
            raise ValueError(f"{os.path.join(folder, SAVE)} must be what was written. Received: another checksum")
        self.about = from_json(text.decode(), SAVE)
        self.files, self.rows = {}, {}
        for place, (name, one) in enumerate(self.about["variables"].items()):
            length = one["shape"][0] if one["shape"] else 1
            if one["rows"] is not None:
                self.rows[name] = self._rows(folder, place, one["rows"], length)
                length = one["rows"]
            for what, kind in one["arrays"].items():
                dtype, shape = _as_stored(kind)
                if what in ROWS and one["table"]:
                    self._add(folder, f"{place}.{what}", dtype, (length, *shape[1:]), length)
                else:
                    self._add(folder, f"{place}.{what}", dtype, shape, math.prod(shape))
        for place, (dtype, *shape) in enumerate(_extra(self.about).values()):
            self._add(folder, f"extra.{place}", np.dtype(dtype), tuple(shape), math.prod(shape))

    def _add(self, folder, name, dtype, shape, length):
        self.files[name] = Stored(folder, name, dtype, shape, length, self.about["files"][name])

    def _rows(self, folder, place, count, num_rows):
        self._add(folder, f"{place}.rows", np.dtype(np.int64), (count,), count)
        stored = self.files[f"{place}.rows"]
        rows_u = stored.load()
        if count and (rows_u[0] < 0 or rows_u[-1] >= num_rows or (np.diff(rows_u) <= 0).any()):
            raise ValueError(f"{stored.path} must have rows of the table that rise. Received: others")
        return rows_u


def _extra(about):
    """{name: [dtype, *shape]} of the arrays in `extra`."""
    return {} if about["extra"] is None else about["extra"]["arrays"]


def _as_stored(kind):
    """(dtype, shape) of an array's file."""
    name, *shape = kind
    if name not in _DTYPES:
        raise ValueError(f"an array of a checkpoint must be one of {_DTYPES}. Received: {name!r}")
    if name in dtypes.QUANTISED:
        return dtypes.of_rows(name, shape[1]), tuple(shape[:1])
    return np.dtype("uint16" if name == "bfloat16" else name), tuple(shape)


def _array(levels, name, place, what, kind):
    """The Array of a variable of the last level."""
    deltas, file_name = [], f"{place}.{what}"
    for number in range(len(levels) - 1, -1, -1):
        level = levels[number]
        if level.about["variables"][name]["arrays"][what] != kind and what in ROWS:
            raise ValueError(f"{what!r} of {name} must be the same array in all saves of a chain. Received: others")
        if name not in level.rows or what not in ROWS:
            return Array(kind, (number, level.files[file_name]), deltas)
        deltas.insert(0, (number, level.rows[name], level.files[file_name]))
        if not level.about["variables"][name]["after"]:
            return Array(kind, None, deltas)
    raise ValueError(f"{what!r} of {name} must be whole in the first save. Received: some rows of it")


# ---- verify and fold -------------------------------------------------------------------------------------------------


def verify(path, progress=None):
    """Reads all of a checkpoint, every save of it, or of a layer's save its structure; nothing changes.

    Args:
        path: what `Checkpoint.save` or `layer.save` was given.
        progress: True draws a bar with tqdm; None does so where there is a terminal and it takes over two seconds.

    Raises:
        FileNotFoundError: there is no save, or a file of it is missing.
        ValueError: it is damaged: which file, and which bytes of it.

    Example:
        >>> table = fastembed.Table((10, 4))
        >>> fastembed.Checkpoint(table).save(directory + "/training")
        >>> fastembed.verify(directory + "/training")
    """
    path = os.path.abspath(os.fspath(path))
    if os.path.exists(os.path.join(path, "config.json")):
        saving.load(path, "r")
        return

    def run():
        files = {}
        for number in numbers(path):
            files.update({stored.path: stored for stored in open_chain(path, number).files})
        read_all(files.values(), progress)

    of_one_list(path, run)


def compact(path, keep=1, progress=None):
    """See `Checkpoint.compact`."""
    path = os.path.abspath(os.fspath(path))
    read_list(path)  # nothing is made where there is none
    with NewSave(path) as new:
        chain = open_chain(path)
        if chain.entry["after"] is None:
            return
        for array in [array for arrays in chain.arrays.values() for array in arrays.values()]:
            array.verify_deltas()
        writings = [_writing(new.folder, {f"extra.{at}": stored}) for at, stored in enumerate(chain.extra.values())]
        variables = {}
        for place, (name, arrays) in enumerate(chain.arrays.items()):
            one, rows_u = chain.about["variables"][name], None
            by_rows = {f"{place}.{what}": array for what, array in arrays.items() if one["table"] and what in ROWS}
            if one["initial"] is not None:
                rows_u = arrays["weights"].rows()
                writings += _writings_of_rows(new.folder, f"{place}.rows", rows_u, by_rows)
            elif by_rows:
                writings.append(_writing(new.folder, by_rows))
            alone = {f"{place}.{what}": array for what, array in arrays.items()}
            writings += [_writing(new.folder, {key: array}) for key, array in alone.items() if key not in by_rows]
            variables[name] = {**one, "rows": None if rows_u is None else len(rows_u), "after": False}
        files = write_all(writings, progress=progress)
        new.commit({**chain.about, "variables": variables, "files": files}, None, keep, folds=chain.entry)


def _writing(folder, arrays):
    """A Writing that copies arrays of one length from their files."""
    stored = {name: array.base[1] if isinstance(array, Array) else array for name, array in arrays.items()}
    one = next(iter(stored.values()))

    def copy(first, last, outs):
        for name, out in outs.items():
            array = arrays[name]
            (array.copy if isinstance(array, Array) else array.read)(first // one.rows, out)
        return True

    about = {name: (file.dtype, file.shape) for name, file in stored.items()}
    return Writing(folder, about, one.length, copy, one.rows)


def _writings_of_rows(folder, file_name, rows_u, arrays):
    """The Writings of the rows that a lazy table had made: of their numbers, and of the Arrays."""

    def copy(first, last, outs):
        for name, out in outs.items():
            arrays[name].copy_rows(rows_u[first:last], out)
        return True

    def copy_numbers(first, last, outs):
        np.copyto(outs[file_name], octets_of(rows_u, len(rows_u))[first:last])
        return True

    newest = {name: array.deltas[-1][-1] for name, array in arrays.items()}
    about = {name: (stored.dtype, (len(rows_u), *stored.shape[1:])) for name, stored in newest.items()}
    numbers = Writing(folder, {file_name: (rows_u.dtype, rows_u.shape)}, len(rows_u), copy_numbers)
    return [numbers, Writing(folder, about, len(rows_u), copy)]
