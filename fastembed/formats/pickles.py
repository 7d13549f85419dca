"""Pickles of strangers as data: torch's and gensim's, as far as they consist of plain values and arrays.

May import: nothing of this package. Do not break: no name in a pickle is imported. What may stand for one is listed by
who calls `read`, and is made for that: it keeps what it is given, and does nothing.
"""

import pickle
from typing import ClassVar, NamedTuple

import numpy as np


class Array(NamedTuple):
    """A NumPy array in a pickle: its shape, dtype, whether columns come first, and its bytes."""

    shape: tuple
    dtype: np.dtype
    columns_first: bool
    octets: bytes


class Object:
    """Stands for an object of any class: what its pickle sets is in `state`."""

    state = None

    def __new__(cls, *args):
        return super().__new__(cls)

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.state = state


class Dict(dict):
    """Stands for a dict of a class of its own, whose attributes are dropped."""

    def __setstate__(self, state):
        pass


class _DType(Object):
    """Stands for a NumPy dtype of numbers."""

    def __init__(self, code="", *args):
        self.code = code

    def dtype(self):
        """The dtype. Only the byte order of its state is needed, of (version, order, ...)."""
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "="
        if not (isinstance(self.code, str) and self.code in _CODES and order in ("<", ">", "=", "|")):
            raise ValueError(f"an array must be of numbers. Received: dtype {self.code!r}")
        return np.dtype(self.code).newbyteorder(order)


_CODES = {
    f"{kind}{size}" for kind, sizes in {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}.items() for size in sizes
}


class _Reconstructed(Object):
    """Stands for an array that its state fills: (version, shape, dtype, columns first, bytes)."""

    def array(self):
        """The `Array`."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("an array must have its state. Received: none")
        _, shape, dtype, columns_first, octets = self.state
        return _array(shape, dtype, columns_first, octets)


class _FromBuffer(Object):
    """Stands for an array of protocol 5: bytes, dtype, shape, order."""

    def __init__(self, *args):
        self.state = args

    def array(self):
        """The `Array`."""
        if len(self.state) != 4:
            raise ValueError("an array must have bytes, dtype, shape and order. Received: others")
        octets, dtype, shape, order = self.state
        return _array(shape, dtype, order == "F", octets)


def _array(shape, dtype, columns_first, octets):
    good = isinstance(shape, tuple) and all(type(size) is int and 0 <= size < 1 << 63 for size in shape)
    if not (good and len(shape) < 64 and isinstance(dtype, _DType) and isinstance(octets, (bytes, bytearray))):
        raise ValueError("an array must have a shape, a dtype of numbers, and bytes. Received: others")
    return Array(shape, dtype.dtype(), bool(columns_first), octets)


def _octets(text, encoding):
    """How bytes are written in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes must be written as latin1. Received: others")
    return text.encode("latin1")


def array_of(value):
    """The `Array` that a value of a pickle stands for, or None."""
    return value.array() if isinstance(value, (_Reconstructed, _FromBuffer)) else None


NUMPY = {
    ("numpy", "ndarray"): Object,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _octets,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstructed for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


def read(file, known, persistent=None):
    """The value of a pickle.

    file: open; known: dict of what stands for (module, name); persistent: a function of torch's persistent ids.
    ValueError: it is damaged, or has another name, which is in the message.
    """
    try:
        return _Reader(file, known, persistent).load()
    except (AttributeError, TypeError, LookupError, AssertionError, MemoryError) as error:
        raise ValueError(f"a pickle must be whole. Received: {type(error).__name__}: {error}") from error


class _Reader(pickle._Unpickler):
    """The Python one: that in C takes memory for whatever number a damaged pickle has in it."""

    def __init__(self, file, known, persistent):
        super().__init__(file)
        self._known, self._persistent = known, persistent

    def load_build(self):
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (Object, Dict)):  # not of what stands for a name itself
            raise ValueError("a pickle must have plain values and arrays. Received: one that changes others")
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def find_class(self, module, name):
        if (module, name) not in self._known:
            raise ValueError(f"a pickle must have plain values and arrays. Received: {module}.{name}, which is not run")
        return self._known[module, name]

    def get_extension(self, code):
        raise ValueError(f"a pickle must have plain values and arrays. Received: extension {code}")

    def persistent_load(self, pid):
        if self._persistent is None:
            raise ValueError("a pickle must have plain values and arrays. Received: a persistent id")
        return self._persistent(pid)
