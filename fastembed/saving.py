"""Layers as directories on disk: config.json, embeddings.npy, and the arrays of LoRA where it is enabled.

May import: files, table, serialization. Do not break: at every moment the path holds the old save or the new one,
whole. A save is written beside its place, forced to disk, and put there by one rename; a failed one leaves nothing
behind."""

import contextlib
import copy
import ctypes
import json
import os
import sys

import numpy as np

from fastembed import files, serialization
from fastembed.table import Table

CHUNK = 64 << 20  # bytes read or written at a time
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def save(layer, path):
    """Writes a layer as a directory: config.json and embeddings.npy, which `np.load` reads.

    Args:
        layer: Embedding or EmbeddingBag.
        path: the directory to make; a save that is there is replaced at one stroke, anything else is refused.

    Raises:
        FileExistsError: `path` is there and is no save of this library.
        ValueError: the table is trained in this very save (`load(path, "r+")`), which has all changes already.
        OSError: the disk is full, ...; `path` is then as it was.

    Example:
        >>> layer = fastembed.Embedding(10, 4, name="items")
        >>> fastembed.saving.save(layer, directory + "/items")
        >>> np.load(directory + "/items/embeddings.npy").shape
        (10, 4)
    """
    with new_directory(path, "config.json") as beside:
        layer.build()
        refuse_trained_in(path, [layer.embeddings.memory])
        for weight in layer.weights:
            with weight.lock:
                _write_table(os.path.join(beside, f"{weight.name}.npy"), weight)
        files.write_json(os.path.join(beside, "config.json"), _envelope(layer))


def _envelope(layer):
    """The layer's class and config. An initializer that cannot be written (a function that nobody registered, a large
    array) is left out: its values are in the table."""
    try:
        return serialization.serialize(layer)
    except (TypeError, ValueError):
        bare = copy.copy(layer)
        bare.embeddings_initializer = None
        return serialization.serialize(bare)


def load(path, mmap_mode=None, custom_objects=None):
    """Reads a layer that `save` wrote.

    Args:
        path: the directory.
        mmap_mode: None reads the table into memory; "r" maps the file, for look-ups only, and shares it with all
            processes that do so; "r+" maps it for training in the file, in one process at a time; "c" maps it and keeps
            changes in memory.
        custom_objects: dict of the classes and functions that the layer's config names and nobody registered, or None.

    Returns:
        Embedding or EmbeddingBag.

    Raises:
        FileNotFoundError: there is no save. ValueError: it is damaged, or `mmap_mode` is unknown. BlockingIOError: it
            is trained elsewhere. MemoryError: the table does not fit.

    Example:
        >>> fastembed.Embedding(10, 4).save(directory + "/items")
        >>> fastembed.load(directory + "/items", mmap_mode="r")([1, 2]).shape
        (2, 4)
    """
    if mmap_mode not in (None, "r", "r+", "c"):
        raise ValueError(f"`mmap_mode` must be None, 'r', 'r+' or 'c'. Received: mmap_mode={mmap_mode!r}")
    path = os.path.abspath(os.fspath(path))
    lock = None
    with contextlib.ExitStack() as held:
        while mmap_mode == "r+" and (lock is None or not lock.is_held()):  # else the directory was replaced just now
            if lock is not None:
                lock.close()
            lock = files.FileLock(os.path.join(path, "embeddings.npy"))
            held.enter_context(lock.free_after_an_error())
            layer, arrays = of_one_save(path, lambda: _open(path, mmap_mode, custom_objects))
        if mmap_mode != "r+":
            layer, arrays = of_one_save(path, lambda: _open(path, mmap_mode or "r", custom_objects))
        layer.adopt(_table(layer, arrays["embeddings"], mmap_mode, lock))
        for weight in layer.weights[1:]:
            weight.assign(arrays[weight.name])
    return layer


def _table(layer, mapped, mmap_mode, lock):
    """The table of a layer that is the mapped file, or a copy of it in memory."""
    if mmap_mode is not None:
        return Table.wrap(mapped, dim=layer.output_dim, path=mapped.filename, lock=lock)
    table = Table((layer.input_dim, layer.output_dim), layer.dtype)
    np.copyto(table.memory, mapped)
    return table


def of_one_save(path, open_files):
    """What `open_files()` returns: again, if another process has replaced the directory `path` in the meantime."""
    while True:
        before = identity(path)
        try:
            opened = open_files()
        except (OSError, ValueError):
            if identity(path) == before:
                raise
        else:
            if identity(path) == before:
                return opened


def identity(path):
    """What tells a directory from the one that takes its place."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _open(path, mode, custom_objects):
    """The layer of a save, without its weights, and these by name, as memory maps."""
    try:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            layer = serialization.deserialize(json.load(file), custom_objects)
        shapes = {"embeddings": (layer.input_dim, layer.output_dim)}
        if layer.lora_rank:
            shapes["lora_embeddings_a"] = (layer.input_dim, layer.lora_rank)
            shapes["lora_embeddings_b"] = (layer.lora_rank, layer.output_dim)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"`path` must hold a save of this library. Received: path={path!r}: {error}") from error
    how = {"embeddings": (mode, layer.dtype)}
    arrays = {}
    for name, shape in shapes.items():
        mode, storage = how.get(name, ("r", "float32"))
        arrays[name] = files.open_rows(os.path.join(path, f"{name}.npy"), mode, shape, storage)
    return layer, arrays


def _write_table(path, table):
    """np.save of a table in pieces, without a copy, forced to disk."""
    with open(path, "wb") as file:
        array = table.memory
        if table.storage == "bfloat16":  # .npy has none
            array = array.view(np.uint16)
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.writelines(table.pieces())
        files.to_disk(file)


def refuse_trained_in(path, arrays):
    """ValueError for an array that lives, and is trained, in a file of the directory `path`."""
    for array in arrays:
        in_file = isinstance(array, np.memmap) and array.mode in ("r+", "w+") and array.filename
        if in_file and os.path.exists(path) and os.path.samefile(os.path.dirname(in_file), path):
            raise ValueError(
                f"`path` must not be where the table is trained; it has all changes. Received: path={str(path)!r}"
            )


@contextlib.contextmanager
def new_directory(path, marker):
    """The name of a new directory beside `path`, for the block to put files in that are forced to disk; it then takes
    the name `path` at one stroke. What is there must be an earlier one, with a file `marker`, and is replaced. After an
    error the new one is gone, and `path` is as it was."""
    import shutil  # here, as most who import this library never save
    import tempfile

    path = os.path.abspath(os.fspath(path))
    if os.path.lexists(path) and not os.path.isfile(os.path.join(path, marker)):
        raise FileExistsError(f"`path` must be free or an earlier save, with a {marker}. Received: path={path!r}")
    parent, name = os.path.split(path)
    os.makedirs(parent, exist_ok=True)
    beside = tempfile.mkdtemp(prefix=f".{name}.", suffix=".saving", dir=parent)
    try:
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o777 & ~umask)
        yield beside
        files.directory_to_disk(beside)
        _put(beside, path)
        files.directory_to_disk(parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # what failed, or the one that was replaced


def _put(new, path):
    """Moves directory `new` to `path`; what was at `path` ends up at `new`, or is gone."""
    if not os.path.lexists(path):
        os.rename(new, path)
        return
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "renameat2"):
            result = libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE)
            if result == 0:
                return
    # Elsewhere two renames: between them a killed process leaves the old save under the name that ends in .replaced.
    import shutil

    old = path + ".replaced"
    shutil.rmtree(old, ignore_errors=True)
    os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old)
