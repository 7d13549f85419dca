"""HDF5 files: which matrices there are, and a matrix in chunks, in and out.

May import: matrix, ops, saving. Do not break: no other file is read, whatever a file links to; and a matrix gets memory
only after its size was held against the bytes that are there.
"""

import contextlib
import math
import re
import struct
import tempfile

import numpy as np

from fastembed import ops, saving
from fastembed.formats.matrix import EXPANSION

_DEEPEST = 100


def h5py():
    """The package h5py, or an ImportError that says how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install 'fastembed-cython[h5]'") from error
    return h5py


@contextlib.contextmanager
def opened(source, path):
    """The h5py.File of a path or an open file, for reading. What h5py raises for a damaged one becomes a ValueError."""
    try:
        with h5py().File(source, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not the file's
            raise
        raise ValueError(f"`path` must be a whole HDF5 file. Received: path={path!r}: {error}") from error


def matrices(file, source, path):
    """Dict of the datasets that have two dimensions: name in the file -> whether it is alone in its group. Strings may
    be read only afterwards: damage that HDF5 cannot stand is found here."""
    package, about = h5py(), f"Received: path={path!r}, with"
    todo, seen, alone, data = [("", file)], {file}, {}, []
    for prefix, group in todo:  # grows
        here, datasets = [], 0
        for name in group:
            if not isinstance(name, str):  # bytes, where they are no UTF-8
                raise ValueError(f"`path` must be a whole HDF5 file. {about} {name!r}")
            place = prefix + name
            if not isinstance(group.get(name, getlink=True), package.HardLink):
                raise ValueError(f"`path` must hold no links to elsewhere. {about} {place!r}")
            item = group[name]
            if isinstance(item, package.Dataset):
                datasets += 1
                here += [place] if len(item.shape or ()) == 2 else []
                start = item.id.get_offset()
                data += [] if start is None else [(start, start + item.id.get_storage_size())]
            elif isinstance(item, package.Group) and item not in seen:  # a file may go round in circles
                if place.count("/") == _DEEPEST:
                    raise ValueError(f"`path` must hold at most {_DEEPEST} groups in each other. {about} {place!r}")
                seen.add(item)
                todo.append((place + "/", item))
        alone.update(dict.fromkeys(here, datasets == 1))
    with contextlib.nullcontext(source) if hasattr(source, "read") else open(source, "rb") as raw:
        _check_heaps(raw, file, data, path)
    return alone


def _check_heaps(raw, file, data, path):
    """Refuses a damaged heap of strings: HDF5 (2.0) reads on for ever where an object of one has no size."""
    size, position = file.id.get_filesize(), 0
    damaged = ValueError(f"`path` must be a whole HDF5 file. Received: path={path!r}, with damaged strings")
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise damaged
    for start, stop in [*sorted(data), (size, size)]:  # heaps lie between datasets, or their chunks
        while position < min(start, size):
            count = min(1 << 20, start - position)
            raw.seek(position)
            for found in re.finditer(rb"GCOL\x01\0\0\0", raw.read(count + 7)):
                at = position + found.start()
                raw.seek(at + 8)
                end = at + int.from_bytes(raw.read(8), "little")
                at += 16
                while end - at >= 16:
                    raw.seek(at)
                    index, length = struct.unpack("<H6xQ", raw.read(16).ljust(16, b"\0"))
                    step = 16 + (length + 7) // 8 * 8 if index else length  # 0 is what is free, with its header
                    if not 16 <= step <= end - at:
                        raise damaged
                    at += step
            position += count
        position = max(position, stop)


def dataset(file, name, path, storages, shape=None):
    """A dataset of one of these dtypes and of this shape (None: any) that can be read, and the name of its dtype."""
    data = file[name]
    about = f"Received: path={path!r}: {name!r}"
    if not isinstance(data, h5py().Dataset):
        raise ValueError(f"`path` must hold an array. {about} is a group")
    dtype = dtype_name(data)
    if dtype not in storages:
        raise TypeError(f"`path` must hold a table of one of {sorted(storages)}. {about} is {dtype}")
    if data.external or data.is_virtual:
        raise ValueError(f"`path` must hold its tables itself. {about} is in other files")
    if shape is not None and data.shape != shape:
        raise ValueError(f"`path` must hold an array of shape {shape}. {about} is of shape {data.shape}")
    size, offset = math.prod(data.shape) * data.dtype.itemsize, data.id.get_offset() or 0
    there = min(data.id.get_storage_size(), file.id.get_filesize() - offset)
    if size > there * (EXPANSION if data.chunks else 1):
        raise ValueError(f"`path` must be a whole file. {about} has {size} bytes, of which {there} are there")
    return data, dtype


def dtype_name(data):
    """The name of a dataset's dtype. HDF5 has no bfloat16: Keras writes two bytes without a meaning (and, but for the
    layout of Keras 2, an attribute)."""
    return "bfloat16" if data.dtype == "V2" else data.dtype.newbyteorder("=").name


def blocks(data, size):
    """Slices of the rows of a dataset, of at most saving.CHUNK bytes where a row takes `size` bytes; its own chunks are
    read once."""
    rows = data.chunks[0] if data.chunks else 1
    step = max(1, saving.CHUNK // size // rows) * rows
    return (slice(start, min(start + step, len(data))) for start in range(0, len(data), step))


def read(data, table, progress=None):
    """Copies a dataset of floats into a table of its shape, some rows at a time."""
    same = dtype_name(data) == table.storage
    for part in blocks(data, data.shape[1] * data.dtype.itemsize):
        if same:
            array_vd = table.memory.view("V2") if table.storage == "bfloat16" else table.memory
            data.read_direct(array_vd, part, part)
        else:
            ops.encode(table.rows, floats(data, part), part.start)
        if progress is not None:
            progress(part.stop, len(data))


def floats(data, rows):
    """Some rows of a dataset of floats, as float32."""
    array = data[rows]
    if dtype_name(data) != "bfloat16":
        return array.astype(np.float32)
    return ops.decode(array.view(np.uint16).reshape(len(array), -1)).reshape(array.shape)


def new_matrix(group, name, shape, storage):
    """A dataset for a table of a storage dtype."""
    data = group.create_dataset(name, shape, "V2" if storage == "bfloat16" else storage)
    if storage == "bfloat16":
        data.attrs["dtype"] = storage
    return data


def pieces(fill, rows, folder):
    """The bytes of a new HDF5 file, one piece after the other. `fill(file)` makes all of it and returns the dataset of
    a matrix, whose bytes are `rows`; a temporary file in `folder` has everything else, and a hole for the matrix."""
    with tempfile.TemporaryFile(dir=folder) as frame:
        try:
            with h5py().File(frame, "w") as file:
                data = fill(file)
                data[:1] = np.zeros((1, data.shape[1]), data.dtype)  # only now HDF5 chooses a place
                offset, size = data.id.get_offset(), math.prod(data.shape) * data.dtype.itemsize
        except SystemError as error:  # of h5py, where writing to `frame` fails
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise
        frame.seek(0)
        yield frame.read(offset)
        yield from rows
        frame.seek(offset + size)
        yield frame.read()


def text(attributes, name):
    """An attribute that is a string; None if there is none or it is something else."""
    if name not in attributes:
        return None
    attribute = attributes.get_id(name)
    if attribute.shape != () or not isinstance(attribute.get_type(), h5py().h5t.TypeStringID):
        return None  # HDF5 is not asked for values of types that it may have misread
    value = attributes[name]
    return value.decode("utf-8") if isinstance(value, bytes) else value
