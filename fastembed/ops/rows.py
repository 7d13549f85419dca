"""Rows: a table, or the state of its rows, as the core takes it.

May import: dtypes, ops.cores. Do not break: nothing is copied, and what is no such array raises.
"""

import numpy as np

from fastembed import dtypes
from fastembed.ops.cores import core_of


class Rows:
    """A table as the core takes it, checked: the bytes of its rows (v, bytes), the drivers for them, the number of its
    storage dtype there, and how many elements a row has."""

    __slots__ = ("code", "core", "dim", "octets_vb")

    def __init__(self, octets_vb, storage, dim):
        self.octets_vb, self.dim, self.core = octets_vb, dim, core_of(dtypes.real(storage))
        self.code = self.core.codes[storage]

    def __len__(self):
        return len(self.octets_vb)

    @property
    def shape(self):
        """(rows, dim)"""
        return len(self.octets_vb), self.dim

    @property
    def storage(self):
        """The storage dtype's name."""
        return self.core.module.DTYPES[self.code]

    @property
    def real(self):
        """The dtype in which rows are pooled and stepped: float32 or float64."""
        return self.core.real

    @property
    def coded(self):
        """Whether rows are stored as something else."""
        return self.code != 0


def rows_of(table, name="table", writeable=False, dim=None):
    """The `Rows` of a C-contiguous array of a storage dtype; those that are `Rows` already stay it.

    dim: elements of a row, where the dtype does not say it (codes of less than a byte).
    """
    if type(table) is not Rows:
        table = _as_rows(table, name, dim)
    if writeable and not table.octets_vb.flags.writeable:
        raise ValueError(f"`{name}` must be writeable. Received: a read-only array of shape {table.shape}")
    return table


def _as_rows(array, name, dim):
    if not isinstance(array, np.ndarray):
        raise TypeError(f"`{name}` must be a NumPy array. Received: {name} of type {type(array).__name__}")
    storage, most = dtypes.name_of(array.dtype)
    if storage is None:
        known = list(dtypes.STORAGE)
        raise TypeError(f"`{name}` must have a dtype of {known}. Received: {name} of dtype {array.dtype}")
    flags, plain = array.flags, storage in dtypes.PLAIN
    if array.ndim != (2 if plain else 1) or not (flags.c_contiguous and flags.aligned):
        raise ValueError(
            f"`{name}` must be a C-contiguous matrix. Received: shape {array.shape}, strides {array.strides}"
        )
    if plain:
        return Rows(np.asarray(array).view(np.uint8), storage, array.shape[1])
    octets_vb = np.asarray(array).view(np.uint8).reshape(len(array), array.dtype.itemsize)
    return Rows(octets_vb, storage, most if dim is None else dim)


def check_table(table, name="table", writeable=False):
    """A table of float32 or float64, a C-contiguous, aligned matrix. Returns the drivers for it."""
    rows = rows_of(table, name, writeable)
    if rows.coded:
        raise TypeError(f"`{name}` must be float32 or float64. Received: {name} of dtype {table.dtype}")
    return rows.core


def check_trains(rows, name="table"):
    """`Rows` that can be trained: writeable, and no codes."""
    if rows.storage in dtypes.QUANTISED:
        raise TypeError(
            f"`{name}` must have a dtype that trains, one of {list(dtypes.PLAIN)}. Received: {rows.storage}, which is "
            "for look-ups"
        )
    rows_of(rows, name, writeable=True)
