"""Tensors in files of torch: what `torch.save` makes of a state dict, since torch 1.6 a zip file.

May import: files, matrix, pickles. Do not break: a file is data. Nothing of its pickle is imported or run, and
`torch.load(path, weights_only=True)` reads what we write.

A file `name.pt` has the members `name/data.pkl`, a pickle in which the bytes of a tensor are a persistent id
("storage", a class, key, device, elements), and, not compressed, `name/data/KEY` with these bytes.
Source: torch/serialization.py (torch 2.13).
"""

import io
import math
import struct
import zipfile
from typing import NamedTuple

import numpy as np

from fastembed import files
from fastembed.formats import matrix, pickles
from fastembed.formats.matrix import Matrix

_LARGEST_PICKLE = 64 << 20
_CLASSES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_LEGACY = (
    b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the magic number that a file before torch 1.6 starts with
)


class _Class(NamedTuple):
    """Stands for a class of storages."""

    dtype: str


class _Storage(NamedTuple):
    """The elements of one or several tensors: a member of the zip file."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """Some elements of a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


def _tensor(storage, offset, shape, strides, *rest):
    counts = [offset, *shape, *strides]
    right = isinstance(storage, _Storage) and len(shape) == len(strides) <= 64
    if not right or not all(type(count) is int and 0 <= count < 1 << 63 for count in counts):
        raise ValueError("a tensor must have a storage, an offset, a shape and strides. Received: others")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _storage(pid):
    if not isinstance(pid, tuple) or len(pid) != 5 or not isinstance(pid[1], _Class):
        raise ValueError(f"a storage must have a class and a key. Received: {pid!r}")
    _, kind, key, _, size = pid
    if not isinstance(key, str) or type(size) is not int or size < 0:
        raise ValueError(f"a storage must have a class and a key. Received: {pid!r}")
    return _Storage(key, kind.dtype, size)


_KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
    ("collections", "OrderedDict"): pickles.Dict,
    ("torch", "Size"): tuple,
    **{("torch", name): _Class(dtype) for name, dtype in _CLASSES.items()},
}


# ---- reading ---------------------------------------------------------------------------------------------------------


def find(path, format):
    """The tensors of a file, in dicts of dicts too."""
    with open(path, "rb") as file:
        if _LEGACY in file.read(32):
            raise ValueError(
                f"`path` must be a file of torch 1.6 or newer; torch.load and torch.save make one. Received: "
                f"path={path!r}, which is older"
            )
    with matrix.damage(path, "torch"), matrix.zip_file(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"`path` must be a file of torch.save. Received: path={path!r}, which has no data.pkl")
        member = archive.getinfo(names[0])
        folder = names[0].removesuffix("data.pkl")
        content = io.BytesIO(matrix.member_bytes(archive, member, _LARGEST_PICKLE, "pickle"))
        order = b"little"
        if folder + "byteorder" in archive.namelist():
            with archive.open(folder + "byteorder") as file:
                order = file.read(16)  # however long it says that it is
        try:
            value = pickles.read(content, _KNOWN, _storage)
        except ValueError as error:
            raise ValueError(f"`path` must hold a state dict. Received: path={path!r}: {error}") from error
        tensors = _tensors(value)
        return [_matrix(archive, path, folder, name, tensor, order) for name, tensor in tensors]


def _tensors(value):
    """(name, tensor) of all in a value: a dict, dicts in it, or one tensor."""
    todo, seen, found = [("", value)], set(), []
    for name, each in todo:  # grows
        if isinstance(each, _Tensor):
            found.append((name, each))
        elif isinstance(each, dict) and id(each) not in seen:
            seen.add(id(each))
            todo += [(f"{name}.{key}" if name else key, inner) for key, inner in each.items() if isinstance(key, str)]
    return found


def _matrix(archive, path, folder, name, tensor, order):
    """A tensor, whose storage is there."""
    storage, shape = tensor.storage, tensor.shape
    title = None if name in ("", "weight") else name.removesuffix(".weight")
    found = Matrix(name, shape, storage.dtype, None, title)
    if not found.fits or 0 in shape:
        return found
    dtype = np.dtype(np.uint16 if storage.dtype == "bfloat16" else storage.dtype)
    dtype = dtype.newbyteorder(">" if order.strip() == b"big" else "<")
    about = f"Received: path={path!r}: {name!r}"
    member = archive.NameToInfo.get(f"{folder}data/{storage.key}")
    size = storage.size * dtype.itemsize
    there = 0 if member is None else matrix.member_room(archive, member)
    if there < size or member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"`path` must be a whole file. {about} has {there} bytes of {size}, or they are compressed")
    # Torch does not look at the strides of dimensions with one element.
    strides = [
        stride if length > 1 else usual
        for length, stride, usual in zip(shape, tensor.strides, (shape[1], 1), strict=True)
    ]
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= storage.size or math.prod(shape) > storage.size - tensor.offset:
        raise ValueError(
            f"`path` must hold all elements of its tensors. {about} has shape {shape}, strides {tensor.strides} and "
            f"{storage.size} elements from {tensor.offset} on"
        )
    skip = tensor.offset * dtype.itemsize
    if strides == [shape[1], 1]:
        return found._replace(blocks=lambda: matrix.member_rows(path, member.filename, skip, dtype, shape, "torch"))
    start = matrix.member_start(archive, member) + skip
    strides = [stride * dtype.itemsize for stride in strides]
    return found._replace(blocks=lambda: matrix.strided(path, start, dtype, shape, strides))


# ---- writing ---------------------------------------------------------------------------------------------------------


def save(layer, path, format, vocabulary, progress):
    """Writes a layer; see `fastembed.formats.save`."""
    storage = matrix.plain(layer)
    content = _pickle(storage, layer.input_dim, layer.output_dim)
    with files.new_file(path) as beside, layer.embeddings.lock, zipfile.ZipFile(beside, "x") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
        member = zipfile.ZipInfo("archive/data/0")
        # As torch does, so that the elements can be mapped: they begin at a multiple of 64, after a header of 30 bytes,
        # the name, these 4 + n bytes, and 20 bytes with the size.
        n = -(archive.fp.tell() + 30 + len(member.filename) + 4 + 20) % 64
        member.extra = struct.pack("<HH", 0x4246, n) + b"Z" * n
        with archive.open(member, "w", force_zip64=True) as file:
            for piece in matrix.pieces(layer, storage, progress):
                file.write(piece)


def _pickle(storage, rows, dim):
    """OrderedDict(weight=_rebuild_tensor_v2(storage, 0, (rows, dim), (dim, 1), False, OrderedDict())) in protocol 2."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value):
        octets = value.to_bytes(9, "little")  # never negative
        return b"\x8a" + bytes([len(octets)]) + octets

    kind = next(name for name, dtype in _CLASSES.items() if dtype == storage)
    empty = b"ccollections\nOrderedDict\n)R"
    data = [
        b"(",
        text("storage"),
        b"ctorch\n" + kind.encode() + b"\n",
        text("0"),
        text("cpu"),
        number(rows * dim),
        b"tQ",
    ]
    shape, strides = number(rows) + number(dim) + b"\x86", number(dim) + number(1) + b"\x86"
    tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n(", *data, number(0), shape, strides, b"\x89", empty, b"tR"]
    return b"".join([b"\x80\x02", empty, text("weight"), *tensor, b"s."])
