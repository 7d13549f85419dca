"""The storage dtypes of a table, and the Keras dtype policies of a layer, in one place.

May import: NumPy only. Do not break: whatever is not listed here is refused with a TypeError, never converted quietly.
"""

import importlib
from typing import NamedTuple

import numpy as np

FLOAT32 = np.dtype(np.float32)
STORAGE = {"float32": FLOAT32}
# Keras's names: (dtype of the table, dtype of what a look-up returns).
_POLICIES = {
    "float32": ("float32", "float32"),
    "mixed_float16": ("float32", "float16"),
    "mixed_bfloat16": ("float32", "bfloat16"),
}


class Policy(NamedTuple):
    """A Keras dtype policy: its name, the dtype of the table, the dtype of what a look-up returns."""

    name: str
    storage: np.dtype
    compute: np.dtype


def storage(dtype, argument="dtype"):
    """The storage dtype that `dtype` names."""
    name = dtype if isinstance(dtype, str) else _dtype(dtype, argument, STORAGE).name
    if name not in STORAGE:
        raise TypeError(f"`{argument}` must be one of {sorted(STORAGE)}. Received: {argument}={dtype!r}")
    return STORAGE[name]


def policy(dtype):
    """The `Policy` of a Keras name, a serialized or real Keras policy, or a dtype; None is float32."""
    name = "float32" if dtype is None else dtype
    if isinstance(dtype, dict):
        config = dtype.get("config")
        name = config.get("name") if isinstance(config, dict) else None
    elif not isinstance(dtype, (str, type, np.dtype, type(None))):
        name = getattr(dtype, "name", dtype)
    if not isinstance(name, str):
        name = _dtype(name, "dtype", _POLICIES).name
    if name not in _POLICIES:
        raise TypeError(f"`dtype` must be one of {sorted(_POLICIES)}. Received: dtype={dtype!r}")
    stored, computed = _POLICIES[name]
    return Policy(name, STORAGE[stored], _bfloat16() if computed == "bfloat16" else np.dtype(computed))


def _dtype(dtype, argument, names):
    try:
        return np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"`{argument}` must be one of {sorted(names)}. Received: {argument}={dtype!r}") from error


def _bfloat16():
    """NumPy has no bfloat16 of its own."""
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError as error:
        raise TypeError("`dtype` mixed_bfloat16 needs ml_dtypes: pip install ml_dtypes") from error
