"""Optimizers by their Keras names.

May import: everything. Do not break: `get` knows every optimizer.
"""

from fastembed import serialization
from fastembed.optimizers.adagrad import Adagrad, RowwiseAdagrad
from fastembed.optimizers.adam import Adam
from fastembed.optimizers.base import Optimizer
from fastembed.optimizers.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "Optimizer", "RowwiseAdagrad", "get"]

_CLASSES = {cls.__name__: cls for cls in (SGD, Adagrad, RowwiseAdagrad, Adam)}
_ALIASES = {"rowwise_adagrad": "RowwiseAdagrad", **{name.lower(): name for name in _CLASSES}}
serialization.know("optimizer", _CLASSES, _ALIASES)


def get(identifier):
    """Returns an optimizer for a Keras name ("adam"), class, config or instance; None stays None.

    Example:
        >>> fastembed.optimizers.get("sgd")
        SGD(name='sgd', learning_rate=0.01, momentum=0.0, nesterov=False)
    """
    if isinstance(identifier, str):  # Keras does not look at case here
        identifier = _ALIASES.get(identifier.lower(), identifier)
    return serialization.get(identifier, "optimizer")
