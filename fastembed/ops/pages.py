"""Memory for tables and results: where they start, in which pages, and how they grow without a copy.

May import: dtypes, memory. Do not break: no page is touched before it is used, and what cannot fit raises before.
"""

import contextlib
import math
import mmap
import sys

import numpy as np

from fastembed import dtypes
from fastembed.memory import check_fits

_LARGE = 1 << 20  # numbers of an array whose place in memory matters
_MAPPED = 1 << 25  # bytes of a table in pages of its own, with which it can grow
_HUGE = 1 << 21  # bytes of a huge page: memory of a multiple of it keeps them when it moves


def empty(shape, size, dtype):
    """A new array; a large one starts at a cache line, as stores past the caches like it (1.15 x)."""
    if size < _LARGE:
        return np.empty(shape, dtype)
    memory = np.empty(size + 16, dtype)
    start = -memory.ctypes.data % 64 // dtype.itemsize
    return memory[start : start + size].reshape(shape)


def row_bytes(storage, dim):
    """The bytes of a row of `dim` elements of a storage dtype."""
    return dtypes.of_rows(storage, dim).itemsize * (dim if storage in dtypes.PLAIN else 1)


def zeros(shape, storage="float32", sparse=False):
    """A table (rows, dim) of zeros whose rows start at cache lines if their length allows; no page is touched yet.
    sparse: in small pages, so that rows which are never touched take no memory."""
    rows, dim = map(int, shape)
    dtype = dtypes.of_rows(storage, dim)
    return _zeros((rows, dim) if storage in dtypes.PLAIN else (rows,), dtype, sparse)


def zeros_like(array, num_rows, sparse=False):
    """The same for an array like this one, with another number of rows (its first dimension).

    Raises:
        MemoryError: it does not fit.
    """
    if not sparse:
        check_fits(array.nbytes // len(array) * num_rows, f"a copy with {num_rows:,} rows")
    return _zeros((num_rows, *array.shape[1:]), array.dtype, sparse)


def _zeros(shape, dtype, sparse):
    size = math.prod(shape) * dtype.itemsize
    if size >= _MAPPED and not sparse and hasattr(mmap, "MAP_ANONYMOUS"):
        return _whole(_map(size), dtype, shape)
    memory = sparse_zeros(size + 64, np.uint8) if sparse else np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def sparse_zeros(shape, dtype):
    """An array of zeros in pages of the smallest size, each of which takes memory when it is first touched."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MAP_ANONYMOUS") or not size:
        return np.zeros(shape, dtype)
    return np.frombuffer(_map(size, sparse=True), dtype).reshape(shape)


class _Pages(mmap.mmap):
    """Memory that can grow without being copied. sparse: most of it is never touched."""

    sparse = False


def _map(size, sparse=False):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sparse and sys.platform == "linux":
        flags |= 0x4000  # MAP_NORESERVE, which Python knows from 3.13 on: more than there is may be mapped
    try:
        pages = _Pages(-1, size if sparse else _in_huge_pages(size), flags)
    except OSError as error:
        raise MemoryError(f"{size:,} bytes cannot be had: {error}") from error
    pages.sparse = sparse
    advice = getattr(mmap, "MADV_NOHUGEPAGE" if sparse else "MADV_HUGEPAGE", None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a system without huge pages
            pages.madvise(advice)
    return pages


def _in_huge_pages(size):
    return -(-size // _HUGE) * _HUGE


def _whole(pages, dtype, shape):
    return np.frombuffer(pages, np.uint8, math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def resized(held, num_rows):
    """The array that the list `held` has, and loses, with another number of rows; new ones are zeros. A large one grows
    or shrinks where it is, unless others see its memory. They keep it then: who grows is copied, who shrinks a view.

    Returns:
        the array, or None: it has to be copied, and `held` has it still.

    Raises:
        MemoryError: `held` has it still.
    """
    pages, size = held[0], held[0].nbytes
    dtype, shape, more = pages.dtype, pages.shape, num_rows - len(pages)
    new_size = size // len(pages) * num_rows
    while isinstance(pages, (np.ndarray, memoryview)):
        pages = pages.base if isinstance(pages, np.ndarray) else pages.obj
    if type(pages) is _Pages and held[0].ctypes.data == np.frombuffer(pages, np.uint8).ctypes.data:
        if not pages.sparse:
            check_fits(new_size - size, f"{more:,} more rows")
        held.clear()
        before = len(pages)
        try:
            pages.resize(new_size if pages.sparse else _in_huge_pages(new_size))
        except (BufferError, SystemError):  # others see it; not on this system
            held.append(_whole(pages, dtype, shape))
        except (OSError, ValueError) as error:
            held.append(_whole(pages, dtype, shape))
            if more > 0:
                raise MemoryError(f"{more:,} more rows cannot be had: {error}") from error
        else:
            octets = np.frombuffer(pages, np.uint8)
            octets[size : -(-before // mmap.PAGESIZE) * mmap.PAGESIZE] = 0  # of rows that were there once
            return _whole(pages, dtype, (num_rows, *shape[1:]))
    return held.pop()[:num_rows] if more <= 0 else None
