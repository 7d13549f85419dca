"""What holds on a backend that does not say otherwise.

May import: the standard library. Do not break: the names are those that keras.layers calls on each backend.
"""

import contextlib


def check(layer):
    """Any table will do."""


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
