"""Home: where the state of an optimizer lives: memory, or a directory of .npy files that later processes go on with.

May import: files, memory, ops. Do not break: the files of a directory belong together only while optimizer.json
is there. It goes before the first change, and `flush` makes it anew.

Of variable NUMBER, the directory has NUMBER.WHAT.npy for what is kept of each row ("state", "average", "averaged",
"last", "made"), and NUMBER.small.npz for all else.
"""

import contextlib
import json
import os
import zlib

import numpy as np

from fastembed import files, memory, ops

_FILE, _FORMAT = "optimizer.json", 1
_DAMAGE = (zlib.error, EOFError, NotImplementedError, RuntimeError)  # of a zip file, with zipfile's own
_DAMAGE = (*_DAMAGE, ValueError, LookupError, TypeError, AttributeError, OverflowError)  # of what is in it


@contextlib.contextmanager
def damage(path):
    """Whatever goes wrong inside, where the files of a directory are taken up, is a ValueError that says the path."""
    try:
        yield
    except Exception as error:
        import zipfile  # which would take a sixth of this library's import

        is_ours = isinstance(error, ValueError) and "Received" in str(error)
        if is_ours or not isinstance(error, (zipfile.BadZipFile, *_DAMAGE)):
            raise
        raise ValueError(f"`path` must hold the state of an optimizer. Received: {path!r}: {error!r:.300}") from error


class Memory:
    """The home of an optimizer without `path`."""

    path = None
    about = None

    def array(self, number, what, shape, dtype, sparse, anew=False):
        """(an array of zeros, True). dtype: of a matrix its storage dtype, else NumPy's; sparse: rows that are never
        touched take no memory."""
        if not sparse:
            size = ops.row_bytes(dtype, shape[1]) if len(shape) == 2 else np.dtype(dtype).itemsize
            memory.check_fits(shape[0] * size, f"what an optimizer keeps of {shape[0]:,} rows ({what!r})")
        if len(shape) == 2:
            return ops.zeros(shape, dtype, sparse), True
        return (ops.sparse_zeros if sparse else np.zeros)(shape, dtype), True

    def changing(self):
        """What lives here is about to change."""

    def take(self, arrays):
        """Of arrays that live here, some have other files or lengths now."""

    def saved(self, number):
        """What flush() was told of a variable: (its entry, small arrays), or None."""


class Folder(Memory):
    """A directory that one process trains in. about: what optimizer.json says, or None.

    Raises:
        BlockingIOError: another writer has it. ValueError: optimizer.json is damaged.
    """

    def __init__(self, path):
        self.path = os.path.abspath(os.fspath(path))
        os.makedirs(self.path, exist_ok=True)
        self._lock = files.FileLock(self._name(_FILE))
        self._arrays = {}  # by file
        with self.free_after_an_error():
            self._take_up(path)

    def free_after_an_error(self):
        """For `with`: after an error inside, somebody else may have the directory."""
        return self._lock.free_after_an_error()

    def _take_up(self, path):
        for name in os.listdir(self.path):
            if name.startswith(f".{_FILE}."):  # a killed process has left it
                os.remove(self._name(name))
        try:
            with open(self._name(_FILE), encoding="utf-8") as file:
                self.about = json.load(file)
            if self.about["format"] != _FORMAT:
                raise ValueError(f"`path` must hold format {_FORMAT}. Received: {self.about['format']!r}")
        except FileNotFoundError:
            self.about = None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"`path` must hold the state of an optimizer. Received: {path!r}: {error}") from error
        self._torn = self.about is None and any(name.endswith(".npy") for name in os.listdir(self.path))
        self._whole = self.about is not None

    def _name(self, name):
        return os.path.join(self.path, name)

    def array(self, number, what, shape, dtype, sparse, anew=False):
        """(the array in its file, whether it is new, and zero). anew: whatever is there is made anew.

        Raises:
            ValueError: the file is of another shape or dtype, or of a training that did not end with `flush`.
        """
        file, matrix = self._name(f"{number}.{what}.npy"), len(shape) == 2
        if anew and os.path.exists(file):
            os.remove(file)
        if self._torn and not anew:
            raise ValueError(
                "`path` must hold the state of a training that ended with `flush`; restore a Checkpoint, or take "
                f"another directory. Received: path={self.path!r}"
            )
        new = not os.path.exists(file)
        if not new:
            opened = files.open_rows if matrix else files.open_npy
            array = opened(file, "r+", shape, dtype if matrix else np.dtype(dtype))
        elif matrix:
            array = files.new_rows(file, shape, dtype, sparse)
        else:
            array = np.lib.format.open_memmap(file, "w+", dtype, shape)
        self.take([array])
        return array, new

    def take(self, arrays):
        """Of arrays that live here, some have other files or lengths now."""
        self._arrays.update({os.path.basename(array.filename): array for array in arrays if files.is_written(array)})

    def changing(self):
        """What lives here is about to change: until the next flush() the files do not belong together."""
        if self._whole:
            os.remove(self._name(_FILE))
            self._whole = False

    def saved(self, number):
        """What flush() was told of a variable: (its entry, small arrays), or None."""
        with damage(self.path):
            if self.about is None or number >= len(self.about["variables"]):
                return None
            with (
                open(self._name(f"{number}.small.npz"), "rb") as file,  # np.load leaves a damaged one open
                np.load(file, allow_pickle=False) as small,
            ):
                return self.about["variables"][number], dict(small)

    def flush(self, about, small):
        """Forces all to disk. about: for optimizer.json, with "variables"; small: for each its arrays without files."""
        self.changing()  # what is written now belongs to no earlier optimizer.json
        for array in self._arrays.values():
            array.flush()
        for number, arrays in enumerate(small):
            with open(self._name(f"{number}.small.npz"), "wb") as file:
                np.savez(file, **arrays)
                files.to_disk(file)
        with files.new_file(self._name(_FILE)) as beside, open(beside, "w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, **about}, file, indent=2)
        self._whole, self._torn = True, False


MEMORY = Memory()


def at(path):
    """The home of an optimizer with this `path`."""
    return MEMORY if path is None else Folder(path)
