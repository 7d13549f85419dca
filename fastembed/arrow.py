"""Columns of lists in Arrow's memory layout, whoever made them, as `Ragged`.

May import: capsules, ragged. Do not break: nothing but NumPy is needed, and no value is copied that lies as a `Ragged`
has it; a view keeps the column's memory alive. A column is read through Arrow's C data interface, by its PyCapsules.

Source: arrow.apache.org, "The Arrow C data interface", "The Arrow PyCapsule Interface", "Arrow columnar format".
"""

import ctypes

import numpy as np

from fastembed import capsules
from fastembed.ragged import Ragged

_NUMBERS = {"c": "i1", "C": "u1", "s": "i2", "S": "u2", "i": "i4", "I": "u4", "l": "i8", "L": "u8"}
_NUMBERS = {code: np.dtype(name) for code, name in {**_NUMBERS, "e": "f2", "f": "f4", "g": "f8"}.items()}
_NOTHING = "n"  # the type of values where all lists are empty
_LISTS = {"+l": np.dtype(np.int32), "+L": np.dtype(np.int64)}
_LIST_VIEWS = {"+vl": np.dtype(np.int32), "+vL": np.dtype(np.int64)}
_FIXED = "+w:"


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
    ("dictionary", ctypes.c_void_p),
    ("release", _release),
    ("private_data", ctypes.c_void_p),
]
_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    ("dictionary", ctypes.c_void_p),
    ("release", _release),
    ("private_data", ctypes.c_void_p),
]
_Stream._fields_ = [
    ("get_schema", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
    ("get_next", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
    ("get_last_error", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)),
    ("release", _release),
    ("private_data", ctypes.c_void_p),
]


class _Owner:
    """A schema or an array that a stream gave; it is released when nothing refers to it any more."""

    def __init__(self, kind):
        self.it = kind()

    def __del__(self):
        if self.it.release:
            self.it.release(ctypes.addressof(self.it))


def is_column(column):
    """Whether an object offers Arrow's memory."""
    return hasattr(column, "__arrow_c_array__") or hasattr(column, "__arrow_c_stream__")


def read(column, null_rows):
    """A column of lists of numbers as a `Ragged`; see interop.as_ragged. TypeError: of something else."""
    if hasattr(column, "__arrow_c_array__"):
        of_schema, of_array = column.__arrow_c_array__()
        kind = _kind(_Schema.from_address(capsules.address(of_schema, b"arrow_schema")))
        chunks = [(_Array.from_address(capsules.address(of_array, b"arrow_array")), of_array)]
    else:
        kind, chunks = _read_stream(column.__arrow_c_stream__())
    if isinstance(kind, np.dtype):
        raise TypeError(f"a column of {kind}")
    found, first_row = [], 0
    for array, owner in chunks:
        found.append(_Reader(owner, null_rows, first_row).rows(kind, array, 0, array.length, 0))
        first_row += array.length
    return joined(found) if found else _empty(kind, 0)


def _read_stream(capsule):
    """The kind of the chunks, and them with their owners."""
    at = capsules.address(capsule, b"arrow_array_stream")
    stream, schema, chunks = _Stream.from_address(at), _Owner(_Schema), []

    def get(function, into):
        if function(at, ctypes.addressof(into)) != 0:
            said = stream.get_last_error(at)
            raise OSError(f"the column cannot be read: {(said or b'no reason given').decode(errors='replace')}")

    get(stream.get_schema, schema.it)
    while True:
        owner = _Owner(_Array)
        get(stream.get_next, owner.it)
        if not owner.it.release:  # the end
            return _kind(schema.it), chunks
        chunks.append((owner.it, owner))


def _kind(schema):
    """A dtype; or for lists their format and the kind of what they hold."""
    code = schema.format.decode()
    if schema.dictionary:
        raise TypeError("a column with a dictionary")
    if code == _NOTHING:
        return np.dtype(np.int64)
    if code in _NUMBERS:
        return _NUMBERS[code]
    if code in _LISTS or code in _LIST_VIEWS or code.startswith(_FIXED):
        return code, _kind(schema.children[0].contents)
    raise TypeError(f"a column of Arrow format {code!r}")


def _is_vector(kind, depth):
    """Lists of one length with numbers, inside a list: another axis of the values."""
    return depth > 0 and kind[0].startswith(_FIXED) and isinstance(kind[1], np.dtype)


def _empty(kind, depth):
    if isinstance(kind, np.dtype):
        return np.empty(0, kind)
    if _is_vector(kind, depth):
        return np.empty((0, int(kind[0].removeprefix(_FIXED))), kind[1])
    return Ragged(_empty(kind[1], depth + 1), np.zeros(1, np.int64))


class _Reader:
    """Reads a chunk."""

    def __init__(self, owner, null_rows, first_row):
        self.owner, self.null_rows, self.first_row = owner, null_rows, first_row

    def rows(self, kind, array, start, length, depth):
        """`length` lists from `start` on, counted from where the array begins."""
        code, nulls_b = kind[0], self._nulls(array, start, length)
        if nulls_b is not None and self.null_rows == "error":
            raise null_row(self._where(int(nulls_b.argmax()), depth))
        if code in _LIST_VIEWS:
            return self._listed(kind, array, start, length, depth, nulls_b)
        if code in _LISTS:
            offsets_b1 = self._buffer(array, 1, start, length + 1 if length else 0, _LISTS[code])
            offsets_b1 = offsets_b1 if length else np.zeros(1, _LISTS[code])
        else:
            offsets_b1 = np.arange(array.offset + start, array.offset + start + length + 1, dtype=np.int64)
            offsets_b1 *= int(code.removeprefix(_FIXED))
        first, last = int(offsets_b1[0]), int(offsets_b1[-1])
        splits_b1 = offsets_b1 if first == 0 else offsets_b1 - first
        values, bad_n = self._values(kind[1], array.children[0].contents, first, last - first, depth + 1)
        if nulls_b is not None:
            keep_n = np.repeat(~nulls_b, np.diff(splits_b1))
            splits_b1 = _splits_of(np.where(nulls_b, 0, np.diff(splits_b1)))
            if not keep_n.all():
                values, bad_n = values[keep_n], None if bad_n is None else bad_n[keep_n]
        return self._ragged(values, bad_n, splits_b1, depth)

    def _listed(self, kind, array, start, length, depth, nulls_b):
        """Lists that may lie in any order."""
        offsets_b = self._buffer(array, 1, start, length, _LIST_VIEWS[kind[0]]).astype(np.int64)
        sizes_b = self._buffer(array, 2, start, length, _LIST_VIEWS[kind[0]]).astype(np.int64)
        if nulls_b is not None:
            sizes_b[nulls_b] = 0
        offsets_b[sizes_b == 0] = offsets_b.max(initial=0)  # empty ones lie nowhere
        first, last = int(offsets_b.min(initial=offsets_b.max(initial=0))), int((offsets_b + sizes_b).max(initial=0))
        values, bad_n = self._values(kind[1], array.children[0].contents, first, last - first, depth + 1)
        values, splits_b1, at_n = gathered(values, offsets_b - first, sizes_b)
        return self._ragged(values, bad_n if bad_n is None or at_n is None else bad_n[at_n], splits_b1, depth)

    def _ragged(self, values, bad_n, splits_b1, depth):
        if bad_n is not None and bad_n.any():
            row = int(np.searchsorted(splits_b1, int(bad_n.argmax()), "right")) - 1
            raise null_value(self._where(row, depth))
        return Ragged(values, splits_b1)

    def _values(self, kind, array, start, length, depth):
        """The values of lists, and which are null (None: none)."""
        if isinstance(kind, np.dtype):
            if array.n_buffers == 0:  # of the type that has nulls alone
                return np.zeros(length, kind), np.ones(length, bool)
            return self._buffer(array, 1, start, length, kind), self._nulls(array, start, length)
        if not _is_vector(kind, depth):
            return self.rows(kind, array, start, length, depth), None
        dim = int(kind[0].removeprefix(_FIXED))
        inner = array.children[0].contents
        values_n, bad_n = self._values(kind[1], inner, (array.offset + start) * dim, length * dim, depth + 1)
        bad = None if bad_n is None else bad_n.reshape(length, dim).any(1)
        nulls = self._nulls(array, start, length)
        both = [mask for mask in (bad, nulls) if mask is not None]
        return values_n.reshape(length, dim), np.logical_or.reduce(both) if both else None

    def _buffer(self, array, number, start, length, dtype):
        begin = array.buffers[number] or 0
        return capsules.view(begin + (array.offset + start) * dtype.itemsize, length, dtype, self.owner)

    def _nulls(self, array, start, length):
        """Which entries are null; None: none of them."""
        if array.null_count == 0 or length == 0 or not array.n_buffers or not array.buffers[0]:
            return None
        first = array.offset + start
        size = (first + length + 7) // 8 - first // 8
        octets = capsules.view(array.buffers[0] + first // 8, size, np.dtype(np.uint8), self.owner)
        nulls = np.unpackbits(octets, bitorder="little")[first % 8 :][:length] == 0
        return nulls if nulls.any() else None

    def _where(self, row, depth):
        return f"row {self.first_row + row}" if depth == 0 else f"an inner list, {depth + 1} deep"


# ---- what other columns need, too ----------------------------------------------------------------------------------


def null_row(where):
    """The error for a null instead of a list."""
    return ValueError(f'`column` must have no null rows; null_rows="empty" makes them empty. Received: null as {where}')


def null_value(where):
    """The error for a null among numbers."""
    return ValueError(f"`column` must have no null values. Received: null in {where}")


def gathered(values, starts, sizes):
    """Lists of these starts and sizes as values and row splits; and which values they are: None where they lie one
    after the other, and nothing is copied."""
    splits = _splits_of(sizes)
    filled = sizes > 0
    if splits[-1] == len(values) and np.array_equal(starts[filled], splits[:-1][filled]):
        return values, splits, None
    at = np.repeat(starts - splits[:-1], sizes) + np.arange(splits[-1])
    return values[at], splits, at


def joined(chunks):
    """Several `Ragged` one after the other: a copy, unless one alone has rows."""
    chunks = [chunk for chunk in chunks if len(chunk)] or chunks[:1]
    if len(chunks) == 1:
        return chunks[0]
    inner = [chunk.values for chunk in chunks]
    lengths = np.concatenate([chunk.row_lengths() for chunk in chunks])
    return Ragged(joined(inner) if isinstance(inner[0], Ragged) else np.concatenate(inner), _splits_of(lengths))


def _splits_of(lengths):
    splits = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits
