"""PyCapsules, in which libraries hand each other memory: DLPack tensors and Arrow columns.

May import: NumPy only. Do not break: a view keeps what owns its memory alive.
"""

import ctypes

import numpy as np

_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
_BFLOAT = 4  # kDLBfloat
_CODE = {b"dltensor": 20, b"dltensor_versioned": 52}  # where a tensor says the kind of its dtype


def address(capsule, name):
    """The address in a capsule of this name (bytes). ValueError: it has another one, or was used up."""
    return _pointer(capsule, name)


def bfloat16(capsule):
    """The DLPack capsule of an array of uint16, which nobody has used yet, as one of bfloat16: NumPy makes none.

    Source: dlpack.h of DLPack 1.1: DLManagedTensor, DLManagedTensorVersioned.
    """
    name = _name(capsule)
    ctypes.c_uint8.from_address(address(capsule, name) + _CODE[name]).value = _BFLOAT
    return capsule


class _Memory:
    def __init__(self, start, size, dtype, owner):
        self.owner = owner
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": dtype.str, "data": (start, True)}


def view(start, size, dtype, owner):
    """A read-only array of `size` numbers at an address (None where there are none), which keeps `owner` alive."""
    return np.asarray(_Memory(start, size, dtype, owner)) if size else np.empty(0, dtype)
