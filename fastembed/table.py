"""Table: the matrix of embeddings, and where it lives.

May import: ops, dtypes, threads. Do not break: `numpy()` is the memory itself, never a copy, and it keeps its
address for life.
"""

import os

import numpy as np

from fastembed import dtypes, ops
from fastembed.threads import Lock


class Table:
    """A matrix of embeddings: one row for each id.

    Args:
        shape: (rows, dim), both positive ints.
        dtype: the storage dtype: "float32".
        path: None for memory; or a .npy file that is made if it is missing, and opened for training if it is there.
        name: str.
        trainable: False makes every update of the table a ValueError.
        constraint: what `assign` and updates enforce (see constraints.py), or None.

    Raises:
        ValueError, TypeError: wrong sizes or dtype; a file of another shape.

    A new table is zero. Updates of one table from several Python threads wait for each other (`lock`).

    Example:
        >>> table = fastembed.Table((1000, 16))
        >>> table.assign(np.ones((1000, 16), "float32"))
        >>> table[[3, 4]].shape, table.nbytes
        ((2, 16), 64000)
    """

    def __init__(self, shape, dtype="float32", path=None, *, name="embeddings", trainable=True, constraint=None):
        if not isinstance(shape, (tuple, list)) or len(shape) != 2:
            raise ValueError(f"`shape` must be (rows, dim). Received: shape={shape!r}")
        shape = tuple(check_size(n, f"shape[{axis}]") for axis, n in enumerate(shape))
        storage = dtypes.storage(dtype)
        array = ops.zeros(shape) if path is None else _open(path, shape, storage)
        self._set(array, path, name, trainable, constraint)

    @classmethod
    def new_file(cls, path, shape, dtype, fill, **about):
        """A table in a new file that `fill(table)` has filled before the file gets its name. The space is taken first:
        a disk that fills up later would end the process. Raises OSError where there is too little."""
        beside = f"{os.fspath(path)}.{os.getpid()}.new"
        try:
            table = cls(shape, dtype, beside, **about)
            if hasattr(os, "posix_fallocate"):
                with open(beside, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            fill(table)
            os.replace(beside, path)
        except BaseException:
            if os.path.exists(beside):
                os.remove(beside)
            raise
        table.path = os.fspath(path)
        return table

    @classmethod
    def wrap(cls, array, *, path=None, name="embeddings", trainable=True, constraint=None):
        """A table on the memory of a float32 C-contiguous matrix; no copy. A read-only array gives look-ups only."""
        table = cls.__new__(cls)
        table._set(ops.check_table(array, "array"), path, name, trainable, constraint)
        return table

    def _set(self, array, path, name, trainable, constraint):
        self._array_vd = array
        self.path = None if path is None else os.fspath(path)
        self.name = name
        self.trainable = trainable
        self.constraint = constraint
        self.lock = Lock()

    @property
    def shape(self):
        """(rows, dim)"""
        return self._array_vd.shape

    @property
    def dtype(self):
        """The storage dtype, as a NumPy dtype."""
        return self._array_vd.dtype

    @property
    def nbytes(self):
        """The bytes of the rows."""
        return self._array_vd.nbytes

    def numpy(self):
        """Returns the table's own memory as an array (rows, dim); writing to it writes to the table."""
        return self._array_vd

    def assign(self, array):
        """Copies an array of the same shape into the table; a constraint is then enforced."""
        array = np.asarray(array)
        if array.shape != self.shape or array.dtype.kind not in "fiu":
            raise ValueError(
                f"`array` must be numbers of shape {self.shape}. Received: {array.dtype} of shape {array.shape}"
            )
        ops.check_table(self._array_vd, "table", writeable=True)
        with self.lock:
            np.copyto(self._array_vd, array, casting="same_kind" if array.dtype.kind == "f" else "unsafe")
            self.enforce()

    def enforce(self):
        """Projects the table, whole, if it breaks its constraint."""
        if self.constraint is not None:
            self.constraint.enforce(self._array_vd)

    def __array__(self, dtype=None, copy=None):
        converted = dtype is not None and np.dtype(dtype) != self.dtype
        if converted and copy is False:
            raise ValueError(f"`dtype` must be {self.dtype} where nothing may be copied. Received: dtype={dtype}")
        array = np.asarray(self._array_vd, dtype=dtype)
        return array.copy() if copy and not converted else array

    def __len__(self):
        return len(self._array_vd)

    def __getitem__(self, key):
        """Rows as a new array, for integer ids of any shape; a slice gives a view."""
        if isinstance(key, slice):
            return self._array_vd[key]
        return ops.gather(self._array_vd, key)

    def __repr__(self):
        return f"<Table {self.name!r} shape={self.shape} dtype={self.dtype}>"

    def __getstate__(self):
        state = self.__dict__.copy()
        if isinstance(self._array_vd, np.memmap):  # a copy lives in memory: two writers of one file lose data
            state.update(_array_vd=np.array(self._array_vd), path=None)
        return state


def check_size(value, name):
    """A positive int, from an int or a NumPy integer."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value <= 0:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return int(value)


def open_npy(path, mode, shape, storage):
    """A .npy file as a memory map ("r", "r+" or "c"); ValueError where it is damaged or holds something else."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # refuses a file that was cut, which "r+" would fill up
    except (ValueError, EOFError) as error:
        raise ValueError(f"`path` must be a whole .npy file. Received: {path}: {error}") from error
    if array.shape != shape or array.dtype != storage or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else ", columns first"
        raise ValueError(
            f"`path` must hold {storage} of shape {shape}. Received: {path}: {array.dtype} of shape {array.shape}"
            + order
        )
    return array if mode == "r" else np.lib.format.open_memmap(path, mode=mode)


def _open(path, shape, storage):
    """The file of a table, for training; made, sparse and zero, if there is none."""
    if os.path.exists(path):
        return open_npy(path, "r+", shape, storage)
    return np.lib.format.open_memmap(path, mode="w+", dtype=storage, shape=shape)
