"""Adafactor: a mean of squares for each row and each column, in place of one for each element.

May import: ops, optimizers.base. Do not break: formula, defaults and config keys are Keras 3's.
"""

import math

import numpy as np

from fastembed import ops
from fastembed.optimizers.base import Optimizer

_STATES_SUMMED, _ROWS_SUMMED = 16, 1024  # steps from one sum over states or rows that are rounded to the next


class Adafactor(Optimizer):
    """With beta_2 = 1 - t^beta_2_decay, and rms() the root of the mean of squares over the whole table:

        r = beta_2 r + (1 - beta_2) (mean of g^2 + epsilon_1 over the row),  c likewise for the columns
        u = g / sqrt(r / mean(r) c),   of a vector:  u = g / sqrt(v), where v is the mean for the element
        w -= max(epsilon_2, rms(w)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / clip_threshold)

    A table of v rows needs v floats of state, and d numbers for the columns. A step goes over its rows three times.

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_2_decay: float <= 0.
        epsilon_1, epsilon_2: floats >= 0.
        clip_threshold: float > 0.
        relative_step: bool; it changes nothing (in Keras neither): lr is at most 1 / sqrt(t) in any case.
        name, base: see `Optimizer`.

    Raises:
        ValueError: a variable of rank 3 or more, at its first step.

    Source: keras.optimizers.Adafactor; Shazeer and Stern, Adafactor, 2018.

    Example:
        >>> w = np.full((2, 2), 0.5, "float32")
        >>> fastembed.optimizers.Adafactor(0.5).apply_gradients([(np.full((2, 2), 3.0), w)])
        >>> w
        array([[0.25, 0.25],
               [0.25, 0.25]], dtype=float32)
    """

    at_rest = "state"
    reads_all_rows = True
    idle = False

    def __init__(
        self,
        learning_rate=0.001,
        beta_2_decay=-0.8,
        epsilon_1=1e-30,
        epsilon_2=1e-3,
        clip_threshold=1.0,
        relative_step=True,
        name=None,
        **base,
    ):
        own = {
            "beta_2_decay": beta_2_decay,
            "epsilon_1": epsilon_1,
            "epsilon_2": epsilon_2,
            "clip_threshold": clip_threshold,
            "relative_step": relative_step,
        }
        super().__init__(learning_rate, name, base, own)

    def step(self, ndim=2):
        if ndim > 2:
            raise ValueError(f"a variable of Adafactor must have at most two dimensions. Received: {ndim} of them")
        return "adafactor" if ndim == 2 else "adafactor_vector"

    def first_step(self, ndim):
        return "adafactor_squares" if ndim == 2 else "adafactor_vector_squares"

    def num_passes(self, ndim):
        return 3 if ndim == 2 else 2

    def begin(self, rows, ndim, weight_decay):
        own = {"size": len(rows) * rows.dim, "w_squares": ops.sums(rows)[1], "weight_decay": weight_decay}
        if ndim == 2:
            own |= {"r_sum": 0.0, "c": np.zeros(rows.dim)}
        return own

    def refresh(self, kept):
        kept.own["w_squares"] = ops.sums(kept.rows)[1]

    def recount(self, kept):
        # Of the row that it estimates, r c / mean(r), nothing changes: c follows the mean of r over the rows there are.
        own, before = kept.own, kept.own["r_sum"] / kept.own["size"]
        own["size"] = len(kept.rows) * kept.rows.dim
        own["r_sum"] = ops.sums(kept.state_rows)[0]
        own["c"] *= own["r_sum"] / own["size"] / before if before > 0 else 1.0
        self.refresh(kept)

    def settle(self, kept):
        # Sums that are kept up to date step by step drift away from numbers that are rounded.
        counted = "r_sum" in kept.own and self.untouched != "catch_up"  # else it is never a sum of what is kept
        if counted and self.state_dtype != "float32" and kept.rounded % _STATES_SUMMED == 0:
            kept.own["r_sum"] = ops.sums(ops.rows_of(kept.state_vs))[0]
        if kept.rows.storage != "float32" and kept.rounded % _ROWS_SUMMED == 0:
            kept.pay(None)
            self.refresh(kept)

    def hyper(self, t, rate):
        # 1 - beta_2 falls with t, so the rounding of beta_2 is seen: it is Keras's.
        beta_2 = self.rounded(1 - t**self.beta_2_decay)
        return {"learning_rate": min(rate, 1 / math.sqrt(t)), "beta_2": beta_2, "epsilon": self.epsilon_1}

    def passes(self, t, rate, own, all_rows):
        hyper = self.hyper(t, rate)
        factored, size, kept = "c" in own, max(own["size"], 1), (1 - own["weight_decay"] * rate) ** 2
        if all_rows:  # else rows decay that take the step, and it is seen when it is done
            own["w_squares"] *= kept
        if factored:
            old, new, *columns = yield "adafactor_squares", hyper
            rows, beta_2 = size / max(len(own["c"]), 1), hyper["beta_2"]
            before, own["r_sum"] = own["r_sum"], _replaced(own["r_sum"], old, new)
            if self.untouched == "catch_up":  # as if all rows had taken the step
                added = rows * self.epsilon_1 + sum(columns) / max(len(columns), 1)
                own["r_sum"] = beta_2 * before + (1 - beta_2) * added
            own["c"][:] = beta_2 * own["c"] + (1 - beta_2) * (np.array(columns) / rows + self.epsilon_1)
            hyper["scale_v"] = rows / own["r_sum"] if own["r_sum"] > 0 else 1.0
            hyper["columns"] = own["c"].astype(self.real)
            (u_squares,) = yield "adafactor_norm", hyper
        else:
            (u_squares,) = yield "adafactor_vector_squares", hyper
        hyper["learning_rate"] *= max(self.epsilon_2, math.sqrt(own["w_squares"] / size))
        hyper["learning_rate"] /= max(1.0, math.sqrt(u_squares / size) / self.clip_threshold)
        old, new = yield self.step(2 if factored else 1), hyper
        own["w_squares"] = _replaced(own["w_squares"], old if all_rows else old / kept, new)


def _replaced(total, old, new):
    """A sum in which the part `old` has become `new`; all parts are >= 0, so the rest is, whatever rounding made it."""
    return max(total - old, 0.0) + new
