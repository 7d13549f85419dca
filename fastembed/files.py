"""Tables in .npy files: memory maps, and one writer at a time; files that are there whole or not at all.

May import: dtypes, memory. Do not break: whoever trains in a file holds its lock, and a lock is free as soon as its
holder is dead, however it died.
"""

import contextlib
import datetime
import errno
import io
import json
import mmap
import os
import platform
import tokenize
import warnings
import weakref

import numpy as np

from fastembed import dtypes, memory

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

MODES = ("r", "r+", "c")
LONGEST_HEADER = 10_000  # bytes of the header of a .npy file; NumPy's own limit
# What NumPy raises for the header of a damaged .npy file, beside ValueError.
DAMAGED = (SyntaxError, tokenize.TokenError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)
_locks = weakref.WeakSet()


class FileLock:
    """The right to write a file: a lock of the operating system on a file beside it, PATH.lock, which says who has it.

    It ends with `close`, with the object or with the process; a forked child does not have it.

    Raises:
        BlockingIOError: somebody else has it, and who.
    """

    def __init__(self, path):
        path = os.path.abspath(os.fspath(path))
        lock, handle = f"{path}.lock", None
        while handle is None:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(handle)
                if not _is_at(handle, lock):  # its last holder has removed it in the meantime
                    os.close(handle)
                    handle = None
            except OSError as error:
                holder = os.read(handle, 200).decode(errors="replace").strip() or "somebody else"
                os.close(handle)
                if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    raise
                why = f"one writer at a time, and {holder} has it"
                raise BlockingIOError(errno.EAGAIN, why, path) from None
        since = datetime.datetime.now().isoformat(" ", "seconds")
        with contextlib.suppress(OSError):  # a full disk: then it says less
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {platform.node()} since {since}\n".encode())
        self.handle, self.lock = handle, lock
        self.close = weakref.finalize(self, _unlock, handle, lock, os.getpid())
        _locks.add(self)

    @contextlib.contextmanager
    def free_after_an_error(self):
        """Ends with an error inside, though somebody keeps the error, and with it this object."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def is_held(self):
        """Whether the file that is locked is still the one at its place."""
        return _is_at(self.handle, self.lock)


def _lock(handle):
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        os.lseek(handle, 1 << 20, os.SEEK_SET)  # past what it says, which others read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)


def _is_at(handle, path):
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _unlock(handle, path, process):
    if process != os.getpid():  # the lock is the parent's
        return
    with contextlib.suppress(OSError):  # Windows removes no open file; a lock that is left is free
        if _is_at(handle, path):  # else it is another's
            os.remove(path)
    os.close(handle)


def _after_fork():
    for lock in list(_locks):
        if lock.close.detach() is not None:
            os.close(lock.handle)  # else the lock would outlive the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def open_npy(path, mode, shape, dtype, or_more=False):
    """A .npy file as a memory map ("r", "r+" or "c"); ValueError where it is damaged or holds something else. or_more:
    it may have more rows, as after a change of their number that has ended half-way."""
    with open(path, "rb") as file:
        npy_header(file, path)
    try:
        # NumPy multiplies whatever shape it reads, and warns of headers that Python 2 has written.
        with np.errstate(over="raise"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.lib.format.open_memmap(path, mode="r")  # refuses a file that was cut, which "r+" would fill up
    except (ValueError, EOFError, FloatingPointError, *DAMAGED) as error:
        raise ValueError(f"`path` must be a whole .npy file. Received: {path}: {error}") from error
    wrong = array.shape != shape and not (or_more and array.shape > shape)
    if wrong or array.dtype != dtype or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else ", columns first"
        raise ValueError(
            f"`path` must hold {dtype} of shape {shape}. Received: {path}: {array.dtype} of shape {array.shape}" + order
        )
    return array if mode == "r" else np.memmap(path, dtype, mode, array.offset, array.shape)


def npy_header(file, path):
    """The bytes up to the array in .npy that begins here in an open file, for NumPy to read: it would take up to 4 GB
    for a header before it refuses one that is longer than LONGEST_HEADER."""
    head = file.read(8)
    if head[:6] != b"\x93NUMPY":
        return io.BytesIO(head)
    length = file.read(2 if head[6:7] == b"\1" else 4)
    size = int.from_bytes(length, "little")
    if size > LONGEST_HEADER:
        raise ValueError(
            f"`path` must have a header of at most {LONGEST_HEADER} bytes. Received: path={path!r}: its header "
            f"would have {size} bytes"
        )
    return io.BytesIO(head + length + file.read(size))


def open_rows(path, mode, shape, storage):
    """open_npy for a table (rows, dim) of a storage dtype; of PLAIN ones, for any array. bfloat16 lies in files as
    uint16, which np.load reads."""
    dtype = dtypes.of_rows(storage, shape[1] if storage in dtypes.QUANTISED else 0)
    if storage == "bfloat16":
        array = open_npy(path, mode, shape, np.dtype(np.uint16)).view(dtype)
    else:
        array = open_npy(path, mode, shape if storage in dtypes.PLAIN else shape[:1], dtype)
    _advise(array)
    return array


def new_rows(path, shape, storage, sparse=False):
    """A new file for a table, of zeros. Its space is taken now, as a disk that fills up later would end the process;
    sparse: a row takes space when it is written."""
    dtype = np.dtype(np.uint16) if storage == "bfloat16" else dtypes.of_rows(storage, shape[1])
    np.lib.format.open_memmap(path, "w+", dtype, shape if storage in dtypes.PLAIN else shape[:1])
    if not sparse:
        take_space(path)
    return open_rows(path, "r+", shape, storage)


def take_space(path, start=0):
    """Takes the space on disk of a file now, from byte `start` on.

    Raises:
        OSError: there is too little.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), start, os.fstat(file.fileno()).st_size - start)


def new_like(path, array, num_rows, sparse):
    """A new file of zeros for an array like that of another file, with another number of rows."""
    made = np.lib.format.open_memmap(path, "w+", _in_file(array.dtype), (num_rows, *array.shape[1:]))
    if not sparse:
        take_space(path)
    return made.view(array.dtype)


def _in_file(dtype):
    """The dtype of an array in its file."""
    return np.dtype(np.uint16) if dtype.name == "bfloat16" else dtype


def header(array, num_rows):
    """The first bytes of an array's file if it had this number of rows, or None where they are of another length than
    now. (NumPy leaves room for any number.)"""
    file, descr = io.BytesIO(), np.lib.format.dtype_to_descr(_in_file(array.dtype))
    about = {"descr": descr, "fortran_order": False, "shape": (num_rows, *array.shape[1:])}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue() if file.tell() == array.offset else None


def write_header(array, octets):
    """Writes what header() gave, and forces it to disk."""
    with open(array.filename, "r+b", buffering=0) as file:
        file.write(octets)
        to_disk(file)


def mapped(array, num_rows):
    """The file of an array with another number of rows, whatever its header says."""
    array = np.memmap(array.filename, array.dtype, "r+", array.offset, (num_rows, *array.shape[1:]))
    _advise(array)
    return array


def extended(array, num_rows, sparse):
    """The file of an array with more rows, zeros, whose space is taken now, unless it is `sparse`. Its header stays."""
    size, more = array.offset + array.nbytes, array.nbytes // len(array) * (num_rows - len(array))
    there = os.path.getsize(array.filename)
    os.truncate(array.filename, max(there, size + more))
    if not sparse:
        take_space(array.filename, size)
    new = mapped(array, num_rows)
    left = min(there - size, more)  # of rows that were there once
    new.view(np.uint8).reshape(-1)[array.nbytes : array.nbytes + left] = 0
    return new


def cut(array):
    """Ends the file of an array where its last row does."""
    os.truncate(array.filename, array.offset + array.nbytes)


def _advise(array):
    """Of a file that memory does not hold, pages are read one by one: what lies beside a row is not needed."""
    if array.nbytes > memory.available() // 2 and hasattr(mmap, "MADV_RANDOM"):
        array._mmap.madvise(mmap.MADV_RANDOM)


def is_written(array):
    """Whether an array is a file that is open for training."""
    return isinstance(array, np.memmap) and array.mode in ("r+", "w+")


def to_disk(file):
    """Forces what was written to an open file to disk."""
    file.flush()
    os.fsync(file.fileno())


def directory_to_disk(path):
    """Forces the names of a directory to disk."""
    if os.name == "nt":
        return  # directories cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_file(path, forced=True):
    """The name of a file beside `path`, for the block to make; it is then forced to disk (if `forced`) and
    takes the name `path` at one stroke. After an error it is gone, and `path` is as it was."""
    path = os.path.abspath(os.fspath(path))
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    parent, name = os.path.split(path)
    os.makedirs(parent, exist_ok=True)
    beside = os.path.join(parent, f".{name}.{os.urandom(6).hex()}.saving")
    try:
        yield beside
        if forced:
            put(beside, path)
        else:
            os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def put(beside, path):
    """Forces a file to disk and gives it the name `path` in the same directory, at one stroke."""
    with open(beside, "r+b") as file:
        to_disk(file)
    os.replace(beside, path)
    directory_to_disk(os.path.dirname(path))


def write_json(path, thing):
    """json.dump, forced to disk."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(thing, file, indent=2)
        to_disk(file)
