"""Arrays in files of NumPy: `.npy`, and `.npz` with several.

May import: files, matrix. Do not break: nothing is unpickled; what np.load reads without pickles we read, and
np.load reads what we write.
"""

import io
import math
import os
import warnings
import zipfile

import numpy as np

from fastembed import files
from fastembed.formats import matrix
from fastembed.formats.matrix import Matrix


def find(path, format):
    """The arrays of a file."""
    if format == "npy":
        with open(path, "rb") as file, matrix.damage(path, ".npy"):
            shape, columns_first, dtype = _header(file, path)
            start = file.tell()
            _check(path, math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - start)
        return [_matrix("", None, path, start, shape, columns_first, dtype)]
    found = []
    with matrix.damage(path, ".npz"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as file:
                shape, columns_first, dtype = _header(file, path)
                skip = file.tell()
            name, stored = member.filename.removesuffix(".npy"), member.compress_type == zipfile.ZIP_STORED
            _check(path, math.prod(shape) * dtype.itemsize, matrix.member_room(archive, member) - skip)
            start = matrix.member_start(archive, member) + skip if stored else None
            array = _matrix(name, name, path, start, shape, columns_first, dtype)
            if array.fits and not columns_first:
                array = array._replace(blocks=_member_blocks(path, member.filename, skip, dtype, shape))
            found.append(array)
    return found


def _member_blocks(path, name, skip, dtype, shape):
    return lambda: matrix.member_rows(path, name, skip, dtype, shape, ".npz")


def _matrix(name, title, path, start, shape, columns_first, dtype):
    """The array whose bytes begin at `start` (None: they are compressed)."""

    def blocks():
        if start is None:
            raise ValueError(
                f"`path` must hold matrices with their rows first, where they are compressed. Received: path={path!r}: "
                f"{name!r} has columns first"
            )
        if columns_first:
            strides = dtype.itemsize, dtype.itemsize * shape[0]
            yield from matrix.strided(path, start, dtype, shape, strides)
            return
        with open(path, "rb") as file:
            file.seek(start)
            yield from matrix.stored(file, dtype, shape, path)

    found = Matrix(name, shape, matrix.storage_of(dtype) or str(dtype), None, title)
    return found._replace(blocks=blocks) if found.fits else found


def _header(file, path):
    """(shape, whether columns come first, dtype) of the array that begins here."""
    header = files.npy_header(file, path)
    version = np.lib.format.read_magic(header)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"`path` must be of version 1 or 2 of .npy. Received: path={path!r}, of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 2
        try:
            shape, columns_first, dtype = read(header, max_header_size=files.LONGEST_HEADER)
        except files.DAMAGED as error:
            raise ValueError(f"`path` must be a whole .npy file. Received: path={path!r}: {error}") from error
    if any(size < 0 for size in shape):
        raise ValueError(f"`path` must be a whole .npy file. Received: path={path!r}, with shape {shape}")
    return shape, columns_first, dtype


def _check(path, size, there):
    if size > there:
        raise ValueError(f"`path` must be a whole file. Received: path={path!r}: of {size} bytes {there} are there")


def save(layer, path, format, vocabulary, progress):
    """Writes a layer; see `fastembed.formats.save`."""
    # .npy has no bfloat16; what np.save makes of it, np.load gives back as bytes without a meaning.
    storage = matrix.plain(layer, ("float32", "float64", "float16"))
    header = io.BytesIO()
    of_array = {"descr": np.dtype(storage).str, "fortran_order": False, "shape": (layer.input_dim, layer.output_dim)}
    np.lib.format.write_array_header_1_0(header, of_array)
    with files.new_file(path) as beside, layer.embeddings.lock:
        rows = matrix.pieces(layer, storage, progress)
        if format == "npy":
            with open(beside, "xb") as file:
                file.write(header.getvalue())
                file.writelines(rows)
            return
        with (
            zipfile.ZipFile(beside, "x") as archive,
            archive.open(f"{layer.name}.npy", "w", force_zip64=True) as file,
        ):
            file.write(header.getvalue())
            for piece in rows:
                file.write(piece)
