"""What a step of an optimizer is: its name, hyperparameters and state, and all that may go with it, as `Update`.

May import: dtypes. Do not break: the order of `HYPERPARAMETERS` and of the parts of a state is that of the core.
"""

import math
from typing import NamedTuple

import numpy as np

from fastembed.dtypes import FLOAT32

HYPERPARAMETERS = (
    "learning_rate",
    "momentum",
    "beta_1",
    "beta_2",
    "epsilon",
    "weight_decay",
    "scale_m",
    "scale_g",
    "scale_v",
    "l1",
    "l2",
    "l2_shrinkage",
    "power",
)
# The state of a row by step: its parts in order, each with a number for each column (DIM) or one for the row. One
# matrix holds the state of all rows.
DIM, ROW = "dim", "row"
STATES = {
    "sgd": {},
    "momentum": {"momentum": DIM},
    "nesterov": {"momentum": DIM},
    "adagrad": {"accumulator": DIM},
    "rowwise_adagrad": {"accumulator": ROW},
    "adam": {"momentum": DIM, "velocity": DIM},
    "amsgrad": {"momentum": DIM, "velocity": DIM, "velocity_hat": DIM},
    "rmsprop": {"velocity": DIM},
    "rmsprop_momentum": {"velocity": DIM, "momentum": DIM},
    "rmsprop_centered": {"velocity": DIM, "average_gradient": DIM},
    "rmsprop_centered_momentum": {"velocity": DIM, "momentum": DIM, "average_gradient": DIM},
    "adadelta": {"accumulated_grad": DIM, "accumulated_delta_var": DIM},
    "adamax": {"momentum": DIM, "norm": DIM},
    "nadam": {"momentum": DIM, "velocity": DIM},
    "ftrl": {"accumulator": DIM, "linear": DIM},
    "lion": {"momentum": DIM},
    "lamb_moments": {"momentum": DIM, "velocity": DIM},
    "lamb": {"momentum": DIM, "velocity": DIM},
    "adafactor_squares": {"r": ROW},
    "adafactor_norm": {"r": ROW},
    "adafactor": {"r": ROW},
    "adafactor_vector_squares": {"velocity": DIM},
    "adafactor_vector": {"velocity": DIM},
    "partial_rowwise_adam": {"momentum": DIM, "velocity": ROW},
    "rowwise_lamb": {"momentum": DIM, "velocity": DIM},
    "rowwise_lars": {"momentum": DIM},
    "rowwise_rmsprop": {"velocity": ROW},
}


def state_parts(step, dim):
    """The parts of the optimizer state of a row of `dim` elements for `step`: slices by name.

    Example:
        >>> fastembed.ops.state_parts("adam", 8)
        {'momentum': slice(0, 8, None), 'velocity': slice(8, 16, None)}
    """
    if step not in STATES:
        raise ValueError(f"`step` must be one of {list(STATES)}. Received: step={step!r}")
    parts, start = {}, 0
    for name, size in STATES[step].items():
        parts[name] = slice(start, start + (dim if size == DIM else 1))
        start = parts[name].stop
    return parts


def state_width(step, dim):
    """The numbers of optimizer state a row of `dim` elements needs for `step`."""
    return sum(part.stop - part.start for part in state_parts(step, dim).values())


_MOMENTUM_ALONE = ("momentum", "nesterov", "lion", "rowwise_lars")


def check_state_dtype(step, storage):
    """Raises a ValueError where the state of a step cannot be kept in this dtype: int8 has the same absolute error for
    all elements of a row, so nothing may be divided by them."""
    if storage == "int8" and STATES[step] and step not in _MOMENTUM_ALONE:
        raise ValueError(
            f"`state_dtype` must be 'float32' or 'bfloat16' for step {step!r}, which divides by its state. Received: "
            "state_dtype='int8'"
        )


class Missed(NamedTuple):
    """How rows take the steps that they have missed, before a step or a look-up.

    last_v: int32 array (v,), the last step of each row, 0: none. now: the last step that is done. idle: rows that were
    never touched have missed nothing. Missed steps are those after `first`: `replays`, (steps, 14) of `real`:
    hyperparameters and weight decay of `step` by which the last `most` of them are taken one after the other; or
    `moments`, float64 (steps, 8), for its closed form, `reach`, `endless`, `weight_decay`, `decays` and their `powers`
    (powers()): see `leap` in _drivers/missed.pxi.
    """

    last_v: np.ndarray
    now: int
    idle: bool
    step: str
    first: int
    replays: np.ndarray | None = None
    most: int = 2**31 - 1
    moments: np.ndarray | None = None
    reach: int = 0
    endless: bool = False
    weight_decay: float = 0.0
    decays: tuple = ()
    powers: np.ndarray | None = None


def powers(decays, real=FLOAT32, count=512):
    """decays[p] to the powers 0, 1, ... count - 1, as `Missed` takes them: (3, count) of the table's `real`."""
    factors_pn = np.ones((3, count))
    factors_pn[: len(decays), 1:] = np.reshape(decays, (-1, 1))
    return np.multiply.accumulate(factors_pn, axis=1).astype(real)


class Average(NamedTuple):
    """A running average of the rows over calls: average_vd (v, d), the last call in it (int32, v), the calls before
    this one, what a call leaves of it, and what this one takes of the new rows (-1: it is none)."""

    average_vd: np.ndarray
    averaged_v: np.ndarray
    calls: int
    keeps: float
    takes: float


class Rounding(NamedTuple):
    """Stochastic rounding of coded rows: up or down, with a probability that makes the mean exact.

    The choice depends on (seed, step, row number, column) alone: not on threads, instruction sets or other rows.
    """

    seed: int
    step: int
    pass_: int = 0  # of the step, 0 to 3: each rounds in its own way


class Update(NamedTuple):
    """One pass over rows of one variable, for `run`.

    table (an array or `Rows`), gradient (Parts, or an array that has every row; None with groups: their rows only catch
    up), step (None: none), hyper, state, groups, constraint: as update() takes them; a hyper may have "columns", an
    array (d,). everywhere: rows without a gradient step too. factor, limit: summed gradients are multiplied and cut
    off. fade: w -= fade w before the step. scales: (v,) of `real`, by which the learning rate of each row is
    multiplied, 0: the row is left out. missed: Missed. average: Average. rounding: Rounding, None: to the nearest.
    """

    table: np.ndarray
    gradient: object
    step: str | None
    hyper: dict
    state: np.ndarray | None = None
    groups: object = None
    constraint: object = None
    everywhere: bool = False
    factor: float = 1.0
    limit: float = math.inf
    fade: float = 0.0
    scales: np.ndarray | None = None
    missed: Missed | None = None
    average: Average | None = None
    rounding: Rounding | None = None
