"""Look-ups on Keras's NumPy backend, which does not train.

May import: keras.on_any. Do not break: the names are those of the other backends.
"""

from fastembed.keras.on_any import call_of as call_of
from fastembed.keras.on_any import check as check
from fastembed.keras.on_any import eager as eager
from fastembed.keras.on_any import flat_map as flat_map
from fastembed.keras.on_any import place as place


def supports_jit():
    """There is nothing to compile."""
    return False


def opened(anchor, steps, call):
    """The value of the anchor."""
    return anchor.value


def look_up(trained, token, ids, weights, dtype):
    """The rows of ids, or pooled bags, as `dtype`."""
    return trained.look_up(ids, None, weights).astype(dtype, copy=False)
