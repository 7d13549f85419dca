"""The storage dtypes of a table, and the Keras dtype policies of a layer, in one place.

May import: NumPy only. Do not break: whatever is not listed here is refused with a TypeError, never converted quietly.

How a table of each dtype appears in NumPy:
    float32, float64, float16: an array (rows, dim).
    bfloat16: likewise, of ml_dtypes.bfloat16 where that package is installed, else of uint16: the upper half of a
        float32.
    int8, int4, int2: a structured array (rows,) of "scale" and "offset", float32, and, by the dtype's name, the codes:
        bytes of one, two or four each, the first in the lowest bits, two's complement. An element is
        scale * code + offset.
"""

import functools
import importlib
import re
from typing import NamedTuple

import numpy as np

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)
_UINT16 = np.dtype(np.uint16)
PLAIN = ("float32", "float64", "bfloat16", "float16")
QUANTISED = {"int8": 8, "int4": 4, "int2": 2}  # bits of a code
STORAGE = (*PLAIN, *QUANTISED)
_HALVES = ("bfloat16", "float16")
# Keras's policies of tables that train: (storage dtype of the table, dtype of what a look-up returns). Where Keras
# computes in the dtype of its half-precision tables, look-ups here return the same values as float32.
_POLICIES = {
    **{name: (name, "float32" if name in _HALVES else name) for name in PLAIN},
    "mixed_float16": ("float32", "float16"),
    "mixed_bfloat16": ("float32", "bfloat16"),
}
TRAINING = tuple(_POLICIES)
# What stands before "_from_" and one of these in Keras's names: int4 with the elements that share a scale (-1: a row).
_MODES = re.compile(r"int8|int4(/(-1|[1-9][0-9]{0,18}))?|int2")


class Policy(NamedTuple):
    """A Keras dtype policy: its name, the storage dtype of the table, the dtype of what a look-up returns."""

    name: str
    storage: str
    compute: np.dtype


def storage(dtype, argument="dtype"):
    """The name of the storage dtype that `dtype` names."""
    name = dtype if isinstance(dtype, str) else _dtype(dtype, argument, STORAGE).name
    if name not in STORAGE:
        raise TypeError(f"`{argument}` must be one of {list(STORAGE)}. Received: {argument}={dtype!r}")
    return name


def real(storage):
    """The dtype in which rows of this storage dtype are pooled and stepped."""
    return FLOAT64 if storage == "float64" else FLOAT32


@functools.cache
def bfloat16():
    """The NumPy dtype of a bfloat16 table."""
    try:
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        return _UINT16


@functools.lru_cache(maxsize=1024)
def of_rows(storage, dim):
    """The NumPy dtype of a table of this storage dtype with rows of `dim` elements."""
    if storage not in QUANTISED:
        return bfloat16() if storage == "bfloat16" else np.dtype(storage)
    size = (dim * QUANTISED[storage] + 7) // 8
    codes = "i1" if storage == "int8" else "u1"
    fields = {"names": ["scale", "offset", storage], "formats": ["f4", "f4", (codes, (size,))], "offsets": [0, 4, 8]}
    return np.dtype({**fields, "itemsize": 8 + (size + 3) // 4 * 4})


@functools.lru_cache(maxsize=1024)
def name_of(dtype):
    """The storage dtype of an array of this dtype, and how many elements a structured one has; (None, 0): none."""
    if dtype.names is None:
        name = "bfloat16" if dtype == _UINT16 else dtype.name
        return (name, 1) if name in PLAIN and dtype.isnative else (None, 0)
    name, codes = dtype.names[-1], dtype[-1]
    if name in QUANTISED and len(codes.shape) == 1:
        dim = codes.shape[0] * 8 // QUANTISED[name]
        if dtype == of_rows(name, dim):
            return name, dim
    return None, 0


def policy(dtype):
    """The `Policy` of a Keras name, a serialized or real Keras policy, or a dtype; None is float32."""
    name = "float32" if dtype is None else dtype
    if isinstance(dtype, dict):
        name = _serialized_name(dtype.get("config"))
    elif not isinstance(dtype, (str, type, np.dtype, type(None))):
        name = getattr(dtype, "name", dtype)
    if isinstance(name, (type, np.dtype)):
        name = _dtype(name, "dtype", TRAINING).name
    mode, quantised, source = name.rpartition("_from_") if isinstance(name, str) else ("", "", None)
    if source not in _POLICIES or (quantised and not _MODES.fullmatch(mode)):
        raise TypeError(
            f"`dtype` must be one of {list(TRAINING)}, or int8, int4 or int2 of one, as in 'int8_from_float32'. "
            f"Received: dtype={dtype!r}"
        )
    stored, computed = _POLICIES[source]
    if computed == "bfloat16" and bfloat16() is _UINT16:
        raise TypeError("`dtype` mixed_bfloat16 needs ml_dtypes: pip install ml_dtypes")
    stored = mode.partition("/")[0] or stored
    return Policy(name, stored, bfloat16() if computed == "bfloat16" else np.dtype(computed))


def _serialized_name(config):
    """The name in the config of a policy; Keras's quantised ones have two parts of it."""
    if not isinstance(config, dict):
        return None
    if isinstance(config.get("mode"), str) and isinstance(config.get("source_name"), str):
        return f"{config['mode']}_from_{config['source_name']}"
    return config.get("name")


def serialized(name):
    """The envelope of a policy, as Keras 3 writes it; of int2, which Keras has not, the name itself."""
    mode, quantised, source = name.rpartition("_from_")
    if mode == "int2":
        return name
    module, kind, config = "keras", "DTypePolicy", {"name": name}
    if quantised:
        module, kind = "keras.dtype_policies", "Int4DTypePolicy" if "/" in mode else "QuantizedDTypePolicy"
        config = {"mode": mode, "source_name": source}
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def quantised(name, mode, dim):
    """The name of the policy of a layer that is quantised. A row has one scale: a block of Keras's int4 holds it."""
    return f"{mode}/{max(128, dim)}_from_{name}" if mode == "int4" else f"{mode}_from_{name}"


def source(name):
    """The name of the policy that a quantised one comes from; another one's own."""
    return name.rpartition("_from_")[2]


def _dtype(dtype, argument, names):
    try:
        if dtype is None or dtype is type(None):  # float64 to NumPy
            raise TypeError("None is no dtype")
        return np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"`{argument}` must be one of {list(names)}. Received: {argument}={dtype!r}") from error
