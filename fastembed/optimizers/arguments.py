"""The arguments of optimizers: those of Keras's base class and ours, and what each may be.

May import: serialization, table. Do not break: a value that passes its check can be kept, compared and written to a
config.
"""

import numpy as np

from fastembed import serialization
from fastembed.table import check_size

MODES = ("skip", "dense", "catch_up")


def number(name, value, below=None):
    """A float >= 0 (and < below)."""
    return float(serialization.check_number(value, name, 0, below))


def _fraction(name, value):
    """A float in [0, 1)."""
    return number(name, value, below=1)


def number_in(above=None, most=None):
    """A check for floats > above and <= most."""

    def check(name, value):
        found = float(serialization.check_number(value, name))
        if (above is not None and found <= above) or (most is not None and found > most):
            rules = [f"greater than {above}"] * (above is not None) + [f"at most {most}"] * (most is not None)
            raise ValueError(f"`{name}` must be {' and '.join(rules)}. Received: {name}={value!r}")
        return found

    return check


def _flag(name, value):
    """A bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def count(name, value):
    """An int > 0."""
    return check_size(value, name)


def _seed(name, value):
    """An int >= 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**64:
        raise ValueError(f"`{name}` must be an integer >= 0 and below 2**64. Received: {name}={value!r}")
    return int(value)


def _or_none(check):
    """What passes the check, or None."""
    return lambda name, value: None if value is None else check(name, value)


def _one_of(*values):
    """One of these."""

    def check(name, value):
        if value not in values:
            raise ValueError(f"`{name}` must be one of {list(values)}. Received: {name}={value!r}")
        return value

    return check


# What Keras's base class takes besides, in its order, and what only we take; with defaults.
BASE = {
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
OURS = {
    "untouched": "skip",
    "on_nonfinite": "raise",
    "state_dtype": "float32",
    "rounding": "stochastic",
    "rounding_seed": 0,
}

CHECKS = {
    "weight_decay": _or_none(number),
    "clipnorm": _or_none(number_in(above=0)),
    "global_clipnorm": _or_none(number_in(above=0)),
    "clipvalue": _or_none(number_in(above=0)),
    "use_ema": _flag,
    "ema_momentum": _fraction,
    "ema_overwrite_frequency": _or_none(count),
    "loss_scale_factor": _or_none(number_in(above=0)),
    "gradient_accumulation_steps": _or_none(count),
    "untouched": _one_of(*MODES),
    "on_nonfinite": _one_of("raise", "skip"),
    "state_dtype": _one_of("float32", "bfloat16", "int8"),
    "rounding": _one_of("stochastic", "nearest"),
    "rounding_seed": _seed,
    "momentum": _fraction,
    "nesterov": _flag,
    "initial_accumulator_value": number,
    "epsilon": number,
    "beta_1": _fraction,
    "beta_2": _fraction,
    "rho": _fraction,
    "amsgrad": _flag,
    "centered": _flag,
    # Ftrl
    "learning_rate_power": number_in(most=0),
    "l1_regularization_strength": number,
    "l2_regularization_strength": number,
    "l2_shrinkage_regularization_strength": number,
    "beta": number,
    # Adafactor
    "beta_2_decay": number_in(most=0),
    "epsilon_1": number,
    "epsilon_2": number,
    "clip_threshold": number_in(above=0),
    "relative_step": _flag,
    # LARS
    "eta": number,
}
