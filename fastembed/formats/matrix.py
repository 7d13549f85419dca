"""A matrix in a file of others: what it is called, its rows in blocks, and the layer that is made of it.

May import: layers, and what stands below them. Do not break: memory for a table is taken only after its size was held
against the bytes that are there, and beside the table there are a few blocks, never a second table.
"""

import contextlib
import errno
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastembed import dtypes, ops, saving
from fastembed.layers import Embedding
from fastembed.table import Table

BLOCK = saving.CHUNK // 8  # bytes of a file at a time: what is made of them has several times as many
EXPANSION = 1100  # deflate makes up to 1032 bytes of one
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, OverflowError)
_DAMAGE = (*_DAMAGE, pickle.UnpicklingError, RecursionError)


class Matrix(NamedTuple):
    """An array of a file, perhaps a matrix of floats.

    name: in the file, "" if it has none; shape: of a matrix (rows, dim); storage: the name of its dtype;
    blocks: a function that yields its rows from the first to the last, as arrays of that dtype (bfloat16 as uint16),
    None if nothing here reads it; title: the name of the layer that it is, None if the file has none.
    """

    name: str
    shape: tuple
    storage: str
    blocks: Callable | None = None
    title: str | None = None

    @property
    def fits(self):
        """Whether it can be a table."""
        return len(self.shape) == 2 and self.storage in dtypes.PLAIN

    def __str__(self):
        return f"{self.name!r}, {self.storage} of shape {self.shape}"


class Target(NamedTuple):
    """What `load` is asked for: a storage dtype (None: the file's), a file for the table (None: memory), and a function
    that is told how many bytes of the file were read, and how many there are."""

    dtype: str | None = None
    path: str | None = None
    progress: Callable | None = None

    def policy(self, storage, dim):
        """The dtype policy of a layer whose table in the file is of this storage dtype."""
        storage = self.dtype or storage
        return storage if storage in dtypes.PLAIN else dtypes.quantised("float32", storage, dim)

    def table(self, shape, storage, fill):
        """A table that `fill(table)` has filled."""
        if self.path is not None:
            return Table.new_file(self.path, shape, storage, fill)
        table = Table(shape, storage)
        fill(table)
        return table


def choose(found, name, path):
    """The matrix of this name, or the only one."""
    fitting = [each for each in found if each.fits]
    chosen = fitting if name is None else [each for each in fitting if name in (each.name, each.title)]
    if len(chosen) == 1:
        return chosen[0]
    rule = "`name` must be that of one matrix of floats in the file"
    if not fitting:
        rule = f"`path` must hold a matrix of one of {list(dtypes.PLAIN)}"
    some = [str(each) for each in fitting or found]
    held = "; ".join(some[:20] + ["..."] * (len(some) > 20)) or "no array"
    raise ValueError(f"{rule}. Received: name={name!r}, path={path!r}, which has {held}")


def load(matrix, path, target):
    """The layer of a matrix."""
    if 0 in matrix.shape or max(matrix.shape) >= 1 << 63:
        raise ValueError(f"`path` must hold a matrix with rows and columns. Received: path={path!r}, with {matrix}")
    policy = target.policy(matrix.storage, matrix.shape[1])
    layer = Embedding(*matrix.shape, name=matrix.title, dtype=policy, path=target.path)

    def fill(table):
        row = 0
        for block_nd in matrix.blocks():
            if matrix.storage == table.storage:
                table.rows.octets_vb[row : row + len(block_nd)] = np.ascontiguousarray(block_nd).view(np.uint8)
            else:
                ops.encode(table.rows, ops.decode(np.ascontiguousarray(block_nd)), row)
            row += len(block_nd)
            if target.progress is not None:
                target.progress(row * block_nd[:1].nbytes, matrix.shape[0] * block_nd[:1].nbytes)

    layer.adopt(target.table(matrix.shape, layer.dtype, fill))
    return layer


@contextlib.contextmanager
def damage(path, kind):
    """What a damaged file raises inside becomes a ValueError that says the path."""
    try:
        yield
    except (*_DAMAGE, ValueError, OSError) as error:
        ours = isinstance(error, ValueError) and str(error).startswith("`")
        if ours or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):  # the disk's
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"`path` must be a whole {kind} file. Received: path={path!r}: {reason}") from error


# ---- rows as they lie in a file --------------------------------------------------------------------------------------


def storage_of(dtype):
    """The storage dtype of a file's dtype of either byte order, or None. Two bytes without a meaning, and our own
    uint16, are bfloat16."""
    if dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None:
        return "bfloat16"
    return dtypes.name_of(dtype.newbyteorder("="))[0] if dtype.names is None else None


def zip_file(path):
    """A zip file, open. Members of torch's may have zeros for checksums (`torch.serialization.set_crc32_options`)."""
    archive = zipfile.ZipFile(path)
    for member in archive.infolist():
        if member.CRC == 0:
            del member.CRC  # is not compared then
    return archive


def member_start(archive, member):
    """Where the bytes of a stored member of a zip file begin."""
    archive.fp.seek(member.header_offset)
    names, extra = struct.unpack("<26xHH", archive.fp.read(30))
    return member.header_offset + 30 + names + extra


def member_room(archive, member):
    """How many bytes of a member of a zip file are there, or can be where it is compressed."""
    there = os.fstat(archive.fp.fileno()).st_size - member_start(archive, member)
    packed = max(0, min(there, member.compress_size))
    return min(member.file_size, packed * (1 if member.compress_type == zipfile.ZIP_STORED else EXPANSION))


def member_bytes(archive, member, most, kind):
    """A member of a zip file that has at most `most` bytes; reading takes no more memory, whatever sizes it says."""
    if member.file_size > most:
        raise ValueError(f"`path` must have a {kind} of at most {most} bytes. Received: {member.file_size}")
    with archive.open(member) as file:
        return file.read(member.file_size)


def member_rows(path, member, skip, dtype, shape, kind):
    """Yields the rows of a C-contiguous matrix, `skip` bytes after the beginning of a member of a zip file. All of the
    member is read, and held against its checksum."""
    with damage(path, kind), zip_file(path) as archive, archive.open(member) as file:
        for count in [BLOCK] * (skip // BLOCK) + [skip % BLOCK]:
            file.read(count)
        yield from stored(file, dtype, shape, path)
        while file.read(BLOCK):
            pass


def stored(file, dtype, shape, path):
    """Yields the rows of a C-contiguous matrix, from where an open file is on."""
    dtype = np.dtype(dtype if dtype.kind != "V" else np.uint16)
    size = shape[1] * dtype.itemsize
    for rows in row_blocks(shape, dtype.itemsize):
        octets = file.read((rows.stop - rows.start) * size)
        if len(octets) < (rows.stop - rows.start) * size:
            raise ValueError(f"`path` must be a whole file. Received: path={path!r}, which ends in row {rows.start} on")
        block_nd = np.frombuffer(octets, dtype).reshape(-1, shape[1])
        yield block_nd.astype(dtype.newbyteorder("="), copy=False)


def strided(path, start, dtype, shape, strides):
    """Yields the rows of any other matrix: element (i, j) is at byte start + i * strides[0] + j * strides[1]."""
    dtype = np.dtype(dtype if dtype.kind != "V" else np.uint16)
    for rows in row_blocks(shape, dtype.itemsize):
        here = (rows.stop - rows.start, shape[1])
        count = sum((size - 1) * stride for size, stride in zip(here, strides, strict=True)) + dtype.itemsize
        # Mapped again for each block: what was read of the one before counts no longer.
        octets = np.memmap(path, np.uint8, "r", start + rows.start * strides[0], (count,))
        block_nd = np.ndarray(here, dtype, octets, 0, strides)
        yield block_nd.astype(dtype.newbyteorder("="), order="C")


def row_blocks(shape, itemsize):
    """The rows of a matrix in slices of at most BLOCK bytes."""
    step = max(1, BLOCK // (shape[1] * itemsize))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


# ---- writing ---------------------------------------------------------------------------------------------------------


def plain(layer, known=dtypes.PLAIN):
    """The storage dtype in which a layer is written to a file that has these: float32 where it has not the layer's."""
    return layer.dtype if layer.dtype in known else "float32"


def pieces(layer, storage, progress=None):
    """Yields the bytes of the rows that look-ups give, in chunks."""
    total, done = layer.input_dim * layer.output_dim * dtypes.of_rows(storage, 1).itemsize, 0
    for piece in layer.merged_pieces(storage):
        yield piece
        done += len(piece)
        if progress is not None:
            progress(done, total)
