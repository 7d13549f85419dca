"""Optimizers by their Keras names, and those that know of rows.

May import: everything. Do not break: `get` knows every optimizer.
"""

from fastembed import schedules as schedules  # keras.optimizers.schedules
from fastembed import serialization
from fastembed.optimizers.adafactor import Adafactor
from fastembed.optimizers.adagrad import Adagrad
from fastembed.optimizers.adam import Adam, Adamax, AdamW, Nadam
from fastembed.optimizers.base import Optimizer
from fastembed.optimizers.ftrl import Ftrl
from fastembed.optimizers.lamb import Lamb
from fastembed.optimizers.lion import Lion
from fastembed.optimizers.loss_scale import LossScaleOptimizer
from fastembed.optimizers.rmsprop import Adadelta, RMSprop
from fastembed.optimizers.rowwise import PartialRowwiseAdam, RowwiseAdagrad, RowwiseLamb, RowwiseLARS, RowwiseRMSprop
from fastembed.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "LossScaleOptimizer",
    "Nadam",
    "Optimizer",
    "PartialRowwiseAdam",
    "RMSprop",
    "RowwiseAdagrad",
    "RowwiseLARS",
    "RowwiseLamb",
    "RowwiseRMSprop",
    "get",
]

_KERAS = (SGD, RMSprop, Adam, AdamW, Adadelta, Adagrad, Adamax, Adafactor, Nadam, Ftrl, Lion, Lamb, LossScaleOptimizer)
_ROWWISE = (RowwiseAdagrad, PartialRowwiseAdam, RowwiseLamb, RowwiseLARS, RowwiseRMSprop)
_CLASSES = {cls.__name__: cls for cls in (*_KERAS, *_ROWWISE)}
_ALIASES = {
    "partial_rowwise_adam": "PartialRowwiseAdam",
    "rowwise_adagrad": "RowwiseAdagrad",
    "rowwise_lamb": "RowwiseLamb",
    "rowwise_lars": "RowwiseLARS",
    "rowwise_rmsprop": "RowwiseRMSprop",
    **{name.lower(): name for name in _CLASSES},
}
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
