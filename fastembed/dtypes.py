"""The storage dtypes of a table, in one place.

May import: NumPy only. Do not break: whatever is not listed here is refused with a TypeError, never converted quietly.
"""

import numpy as np

FLOAT32 = np.dtype(np.float32)
STORAGE = {"float32": FLOAT32}


def storage(dtype, argument="dtype"):
    """The storage dtype that `dtype` names."""
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in STORAGE:
        raise TypeError(f"`{argument}` must be one of {sorted(STORAGE)}. Received: {argument}={dtype!r}")
    return STORAGE[name]
