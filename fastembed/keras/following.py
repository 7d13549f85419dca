"""The optimizer of a table that does what the optimizer of a Keras model does.

May import: optimizers. Do not break: what Keras's optimizer does and ours would not is an error, never passed over.
"""


import keras

from fastembed import optimizers


def translated(optimizer):
    """Ours, for one of Keras: with its arguments, schedule, and its steps for rows without a gradient.

    Raises:
        ValueError: it has no counterpart.
    """
    return _translated(getattr(optimizer, "inner_optimizer", optimizer))


def _translated(optimizer, **more):
    config = optimizer.get_config()
    name = type(optimizer).__name__
    if config.get("use_ema") and not config.get("ema_overwrite_frequency"):
        raise ValueError(
            "`table_optimizer` must be given where the model's optimizer has `use_ema` and writes its averages when a "
            f"training ends. Received: {name}"
        )
    kind = getattr(optimizers, name, None)
    if kind is None or type(optimizer) is not getattr(keras.optimizers, name, None):
        raise ValueError(
            f"`table_optimizer` must be given where the model's optimizer is none that fastembed has. Received: {name}"
        )
    untouched = "catch_up" if "catch_up" in kind.modes and not config.get("use_ema") else "dense"
    if not isinstance(config["learning_rate"], (float, dict)):
        raise ValueError()
    return kind.from_config({**config, "untouched": untouched, **more})
