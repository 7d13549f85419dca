"""Look-ups on Keras's NumPy backend, which does not train.

May import: the standard library. Do not break: the names are those of the other backends.
"""

import contextlib


def check(layer):
    """Any table will do."""


def supports_jit():
    """There is nothing to compile."""
    return False


def call_of(context):
    """The call that look-ups belong to, an object with a __dict__; the model that is called; whether it is trained."""
    return context, context.entry_layer, context.get_value("training")


def eager():
    """For `with`: values of variables can be read."""
    return contextlib.nullcontext()


def place():
    """What a look-up's token belongs to."""


def flat_map(function, ids):
    """function(ids)."""
    return function(ids)


def opened(anchor, steps, call):
    """The value of the anchor."""
    return anchor.value


def look_up(trained, token, ids, weights, dtype):
    """The rows of ids, or pooled bags, as `dtype`."""
    return trained.look_up(ids, None, weights).astype(dtype, copy=False)
