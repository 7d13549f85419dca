"""Tensors in `.safetensors` files: eight bytes with the length of a header, the header in JSON, the bytes of tensors.

May import: files, matrix, dtypes. Do not break: what a header says is believed only as far as the bytes are there,
each of them of one tensor.

The package of this name is not used: its writer takes the whole table as bytes in memory, and its reader gives NumPy
no bfloat16.
Source: github.com/huggingface/safetensors, "Format" in the README.
"""

import json
import math
import os
import struct

import numpy as np

from fastembed import dtypes, files
from fastembed.formats import matrix
from fastembed.formats.matrix import Matrix

_LONGEST_HEADER = 100_000_000  # as the package has it
_OURS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def find(path, format):
    """The tensors of a file."""
    with open(path, "rb") as file:
        tensors, start = _header(file, path)
    return [_matrix(path, name, tensor, start) for name, tensor in tensors.items()]


def _matrix(path, name, tensor, start):
    shape, theirs = tuple(tensor["shape"]), tensor["dtype"]
    ours = _OURS.get(theirs)

    def blocks():
        with open(path, "rb") as file:
            file.seek(start + tensor["data_offsets"][0])
            dtype = np.dtype(np.uint16 if ours == "bfloat16" else ours)
            yield from matrix.stored(file, dtype.newbyteorder("<"), shape, path)

    found = Matrix(name, shape, ours or theirs, None, name)
    return found._replace(blocks=blocks) if found.fits else found


def _header(file, path):
    """What the header says of each tensor, checked, and where the bytes of tensors begin."""

    def refuse(reason):
        raise ValueError(f"`path` must be a whole .safetensors file. Received: path={path!r}: {reason}")

    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        refuse("no header")
    (length,) = struct.unpack("<Q", start)
    if length > min(_LONGEST_HEADER, size - 8):
        refuse(f"a header of {length} bytes")
    try:
        tensors = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        refuse(error)
    if not isinstance(tensors, dict):
        refuse("a header that is no object")
    tensors.pop("__metadata__", None)
    there, spans = size - 8 - length, []
    for name, tensor in tensors.items():
        if not isinstance(tensor, dict) or not isinstance(tensor.get("dtype"), str):
            refuse(f"{name!r} without a dtype")
        shape, offsets = tensor.get("shape"), tensor.get("data_offsets")
        if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
            refuse(f"{name!r} without a shape or without offsets")
        if not offsets[0] <= offsets[1] <= there:
            refuse(f"{name!r} at {offsets}, of {there} bytes")
        ours = _OURS.get(tensor["dtype"])
        taken = offsets[1] - offsets[0]
        if ours is not None and math.prod(shape) * dtypes.of_rows(ours, 1).itemsize != taken:
            refuse(f"{name!r} of shape {shape} and dtype {tensor['dtype']} in {taken} bytes")
        spans.append(offsets)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            refuse(f"tensors that overlap or leave a hole at byte {min(first, end)}")
        end = last
    if end != there:
        refuse(f"{there - end} bytes of no tensor")
    return tensors, 8 + length


def _unique(pairs):
    """A dict of the pairs of a JSON object; ValueError for a name that comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _naturals(value):
    few = isinstance(value, list) and len(value) <= 64
    return few and all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def save(layer, path, format, vocabulary, progress):
    """Writes a layer; see `fastembed.formats.save`."""
    storage = matrix.plain(layer)
    shape = [layer.input_dim, layer.output_dim]
    size = math.prod(shape) * dtypes.of_rows(storage, 1).itemsize
    tensor = {"dtype": _THEIRS[storage], "shape": shape, "data_offsets": [0, size]}
    if layer.name == "__metadata__":
        raise ValueError(f"`layer.name` must be one that a tensor can have. Received: name={layer.name!r}")
    header = json.dumps({"__metadata__": {"format": "pt"}, layer.name: tensor}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with files.new_file(path) as beside, layer.embeddings.lock, open(beside, "xb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.writelines(matrix.pieces(layer, storage, progress))
