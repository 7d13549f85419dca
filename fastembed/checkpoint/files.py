"""Arrays on disk: .npy files that are written and read in chunks, several at a time, with a checksum of each chunk.

May import: dtypes, threads. Do not break: no chunk that differs from what was written is taken for it, and memory is
that of a chunk for each thread, however large the array.

Data begin at byte 4096, and chunks are multiples of that: so large files are written past the page cache (O_DIRECT),
which takes a fifth of the time.
"""

import contextlib
import errno
import io
import math
import mmap
import os
import struct
import sys
import zlib

import numpy as np

from fastembed.threads import get_num_threads, threads_for

HEAD = 4096  # bytes before the data; what O_DIRECT asks offsets, sizes and addresses to be multiples of
CHUNK = 16 << 20  # bytes of all arrays that are written together
_PIECE = 1 << 20  # bytes of a chunk that are read at a time
_DIRECT = getattr(os, "O_DIRECT", 0)
_DIRECT_FROM = 1 << 20  # bytes of a file


class Writing:
    """Arrays of one length on their way to files: `write(number)` of each chunk in any order, then `finish`.

    Args:
        folder: where the files are made; they must not be there.
        arrays: {name of the file without .npy: (dtype, shape)}.
        length: the rows of each array (of an array alone, its elements may be its rows).
        copy: copy(first, last, outs) puts these rows of all arrays into outs {name: (last - first, bytes) uint8}; it
            returns False where they were written already.
        rows: rows of a chunk, or None.
    """

    def __init__(self, folder, arrays, length, copy, rows=None):
        self._files = {name: _New(folder, name, *array, length) for name, array in arrays.items()}
        self._length, self._copy = length, copy
        units = [file.unit for file in self._files.values()]
        step = HEAD // math.gcd(HEAD, *units)  # rows whose bytes are a multiple of HEAD in every array
        self._rows = rows or step * max(1, CHUNK // (step * max(1, sum(units))))
        self._free, self._begun = [], 0  # buffers of chunks that are done, for those that are not yet begun
        self._size = min(self._rows, -(-length // step) * step) * sum(units)
        self.chunks = range(-(-length // self._rows) if sum(units) else 0)
        self.nbytes = length * sum(units)
        for file in self._files.values():
            file.sums += [0] * len(self.chunks)

    def write(self, number):
        """Writes a chunk of each array; returns the number of bytes."""
        first = number * self._rows
        last = min(first + self._rows, self._length)
        self._begun += 1
        try:
            octets = self._free.pop()
        except IndexError:
            octets = _aligned(self._size)
        outs, at = {}, 0
        for name, file in self._files.items():
            size = (last - first) * file.unit
            outs[name] = octets[at : at + size].reshape(last - first, file.unit)
            at += -(-size // HEAD) * HEAD
        written = 0
        if self._copy(first, last, outs):
            at = 0
            for name, file in self._files.items():
                size = outs[name].size
                end = at + -(-size // HEAD) * HEAD
                file.sums[1 + number] = zlib.crc32(octets[at : at + size])
                octets[at + size : end] = 0  # finish() cuts it off
                file.put(octets[at:end], HEAD + first * file.unit)
                at, written = end, written + size
        if self._begun < len(self.chunks):
            self._free.append(octets)
        else:
            self._free.clear()
        return written

    def finish(self):
        """Forces the files to disk. Returns {name: what `Stored` needs of it}."""
        for file in self._files.values():
            file.finish()
        return {name: file.about(self._rows) for name, file in self._files.items()}


class _New:
    """A file under way."""

    def __init__(self, folder, name, dtype, shape, length):
        self._path = os.path.join(folder, f"{name}.npy")
        nbytes = math.prod(shape) * dtype.itemsize
        self.unit = nbytes // length if length else 0
        self._size = HEAD + nbytes
        head = _aligned(HEAD)
        head[:] = np.frombuffer(_head(dtype, shape), np.uint8)
        self.sums = [zlib.crc32(head)]
        self._flags = os.O_WRONLY | getattr(os, "O_BINARY", 0) | (_DIRECT if self._size >= _DIRECT_FROM else 0)
        os.close(os.open(self._path, self._flags & ~_DIRECT | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            self.put(head, 0)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._flags & _DIRECT:
                raise
            self._flags &= ~_DIRECT  # not on this file system
            self.put(head, 0)
        if self._flags & _DIRECT:  # a full disk is found now, and chunks can be written beside each other
            self._reserve()

    def put(self, octets, at):
        """Writes bytes to a place of the file."""
        handle = os.open(self._path, self._flags)
        try:
            os.lseek(handle, at, os.SEEK_SET)
            octets = memoryview(octets)
            while octets:
                octets = octets[os.write(handle, octets) :]
        finally:
            os.close(handle)

    def _reserve(self):
        with open(self._path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, self._size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not on this file system
                    raise

    def finish(self):
        with open(self._path, "r+b") as file:
            file.truncate(self._size)
            os.fsync(file.fileno())

    def about(self, rows):
        return {"chunk": rows * self.unit, "crc32": " ".join(f"{value:08x}" for value in self.sums)}


class Stored:
    """An array in a file that Writing made; the file is opened only while it is read.

    Args:
        folder, name, dtype, shape, length: as for Writing.
        about: what Writing.finish() gave for it.

    Raises:
        ValueError: the file is cut, or holds another array. FileNotFoundError: there is none.
    """

    def __init__(self, folder, name, dtype, shape, length, about):
        self.path = os.path.join(folder, f"{name}.npy")
        self.dtype, self.shape, self.length = dtype, shape, length
        self.nbytes = math.prod(shape) * dtype.itemsize
        self.unit = self.nbytes // length if length else 0
        self._chunk = about["chunk"]
        self._sums = [int(value, 16) for value in about["crc32"].split()]
        self.chunks = range(-(-self.nbytes // self._chunk) if self.nbytes else 0)
        self.rows = self._chunk // self.unit if self.unit else 0  # of a chunk
        if len(self._sums) != 1 + len(self.chunks) or (self.nbytes and self.rows * self.unit != self._chunk):
            raise ValueError(f"{self.path} must have a checksum for each chunk. Received: {len(self._sums)}")
        size = os.stat(self.path).st_size
        if size != HEAD + self.nbytes:
            raise ValueError(f"{self.path} must have {HEAD + self.nbytes} bytes. Received: {size}")
        with open(self.path, "rb") as file:
            head = file.read(HEAD)
        if zlib.crc32(head) != self._sums[0]:
            raise self._damaged(0, HEAD)
        if _read_head(head) != (dtype, shape):
            raise ValueError(f"{self.path} must hold {dtype} of shape {shape}. Received: {_read_head(head)}")

    def span(self, number):
        """(first, last) row of a chunk."""
        return number * self.rows, min((number + 1) * self.rows, self.length)

    def read(self, number, octets):
        """Reads a chunk into an array of bytes; ValueError unless it is what was written."""
        first, last = self.span(number)
        if self._read_into(octets.reshape(-1), first) != self._sums[1 + number]:
            raise self._damaged(HEAD + first * self.unit, HEAD + last * self.unit)

    def read_rows(self, first, last):
        """Rows as bytes; nobody compares them with the checksum."""
        octets = np.empty((last - first, self.unit), np.uint8)
        self._read_into(octets.reshape(-1), first)
        return octets

    def load(self):
        """The whole array."""
        array = np.empty(self.shape, self.dtype)
        octets = octets_of(array, self.length)
        for number in self.chunks:
            self.read(number, octets[slice(*self.span(number))])
        return array

    def verify(self, number):
        """Reads a chunk, and forgets it."""
        first, last = self.span(number)
        self.read(number, np.empty((last - first) * self.unit, np.uint8))
        return (last - first) * self.unit

    def _read_into(self, octets, first_row):
        """Returns the checksum, made while the bytes are in the caches."""
        left, crc32 = memoryview(octets), 0
        with open(self.path, "rb", buffering=0) as file:
            file.seek(HEAD + first_row * self.unit)
            while left:
                count = file.readinto(left[:_PIECE])
                if not count:
                    raise self._damaged(file.tell(), file.tell() + len(left))
                crc32, left = zlib.crc32(left[:count], crc32), left[count:]
        return crc32

    def _damaged(self, first, last):
        return ValueError(f"{self.path} must be what was written. Received: other bytes from {first} to {last}")


def each(function, items, num_threads):
    """Yields function(item) for all items, in order; so many threads work on them."""
    if num_threads == 1 or len(items) < 2:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(num_threads) as pool:
        yield from pool.map(function, items)


@contextlib.contextmanager
def shown(progress, total, what):
    """A function to be called with numbers of bytes that are done. It draws a bar with tqdm: if progress is True; if it
    is None, after two seconds, where there is a terminal and tqdm."""
    tqdm = None
    if progress or (progress is None and sys.stderr is not None and sys.stderr.isatty()):
        try:
            from tqdm import tqdm
        except ImportError:
            if progress:
                raise
    if tqdm is None:
        yield lambda count: None
        return
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, delay=0 if progress else 2) as bar:
        yield bar.update


def write_all(writings, num_threads=None, progress=None):
    """Writes all chunks, and forces the files to disk. Returns what save.json says of the files."""
    jobs = [(writing, number) for writing in writings for number in writing.chunks]
    nbytes = sum(writing.nbytes for writing in writings)
    with shown(progress, nbytes, "save") as done:
        for count in each(lambda job: job[0].write(job[1]), jobs, num_threads or threads_for(nbytes)):
            done(count)
    files = {}
    for about in each(Writing.finish, writings, num_threads or get_num_threads()):
        files.update(about)
    return files


def read_all(files, progress=None):
    """Compares all chunks of these Stored with their checksums."""
    jobs = [(stored, number) for stored in files for number in stored.chunks]
    nbytes = sum(stored.nbytes for stored in files)
    with shown(progress, nbytes, "verify") as done:
        for count in each(lambda job: job[0].verify(job[1]), jobs, threads_for(nbytes)):
            done(count)


def octets_of(array, length):
    """The bytes of a C-contiguous array, (length, bytes of a row); a view."""
    octets = np.asarray(array).reshape(-1).view(np.uint8)
    return octets.reshape(length, octets.size // length if length else 0)


def _aligned(size):
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8)


def _head(dtype, shape):
    """The header of a .npy file, filled up to HEAD bytes."""
    file = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    magic, text = file.getvalue()[:8], file.getvalue()[10:].rstrip()
    return magic + struct.pack("<H", HEAD - 10) + text.ljust(HEAD - 11) + b"\n"


def _read_head(octets):
    file = io.BytesIO(octets)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return dtype, shape
