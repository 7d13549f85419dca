"""History: the steps of one variable, for rows that catch up with them later (untouched="catch_up").

May import: ops. Do not break: a row that has caught up with step t is what dense updates would have made of it: to the
bit where steps are replayed, within `TOLERANCE` of its way where they are leaped in closed form.

In a step without a gradient most optimizers multiply the parts of the state by constants, and move a row by x f(r),
where x and r come from the state (fe_lapse in _rows/rows.h) and f changes from step to step. The sum of f over the
steps that a row has missed is a polynomial in r to good accuracy, the same for all rows that were last touched at one
step. So each step has a line of coefficients, and every step adds its f to the lines before it, as far back as rows
still move.
"""

import copy
import math

import numpy as np

from fastembed import ops

TOLERANCE = 1e-6  # of the way that a row has moved
_TERMS = 6
# Chebyshev nodes for r in [0, 1], and the matrix that makes coefficients of 1, r, r^2, ... from values there.
_NODES_P = (0.5 - 0.5 * np.cos(math.pi * (np.arange(_TERMS) + 0.5) / _TERMS))[None, :]
_TO_TERMS_PP = np.linalg.inv(np.vander(_NODES_P[0], increasing=True)).T
_NEGLIGIBLE = 2.0**-32  # of the first drift: rows move no further
_FARTHEST = 1 << 14  # steps that a row may drift for, to be leaped
_CAPACITY = {True: 1 << 20, False: 1 << 14}  # lines (leaped: 64 bytes, replayed: 56) before all rows catch up


def plan(optimizer):
    """(reach, endless): for how many steps rows drift after their last one, or that they do so for ever; None where
    missed steps have to be replayed."""
    if optimizer.decays() is None:
        return None
    n_k1 = np.arange(1.0, _FARTHEST + 1)[:, None]
    far_r = np.linspace(0, 1, 65)[None, :]
    reach = 1
    for t in (1, 2, 5, 20, 100, 1000, 10**6):
        drift_kr = np.broadcast_to(optimizer.drift(t, 1.0, n_k1, far_r), (len(n_k1), far_r.size))
        if not drift_kr.any():
            continue
        if (drift_kr == drift_kr[:1, :1]).all():
            return 0, True
        moves = np.abs(drift_kr).max(1) > _NEGLIGIBLE * np.abs(drift_kr[0]).max()
        reach = max(reach, int(np.flatnonzero(moves)[-1]) + 1)
        way_r = drift_kr.sum(0)
        values_kp = np.broadcast_to(optimizer.drift(t, 1.0, n_k1, _NODES_P), (len(n_k1), _TERMS))
        fitted_r = np.polynomial.polynomial.polyval(far_r[0], values_kp.sum(0) @ _TO_TERMS_PP)
        if reach == _FARTHEST or not np.allclose(fitted_r, way_r, TOLERANCE, 0):
            return None
    return reach, False


def _plan_of(optimizer):
    """plan(), which takes a tenth of a second, made once for an optimizer of many tables."""
    own = optimizer.get_config()
    own.pop("learning_rate")
    if optimizer.plan is None or optimizer.plan[0] != own:
        optimizer.plan = own, plan(optimizer)
    return optimizer.plan[1]


class History:
    """What the steps of a variable do to rows without a gradient.

    Args:
        optimizer: its decays() and drift() say what such a step does.
        step: the name of the step for `ops`, of several passes the first.
        num_rows: rows of the variable.
        weight_decay: float, the optimizer's for this variable; 0: none.
        replayed: True where missed steps must be taken one after the other.
    """

    def __init__(self, optimizer, step, num_rows, weight_decay, replayed):
        self.step, self.weight_decay = step, weight_decay
        self.last_v = np.zeros(num_rows, np.int32)
        self.now = self.first = 0
        self.idle = optimizer.idle and not weight_decay
        found = None if replayed else _plan_of(optimizer)
        self.leaped = found is not None
        self.reach, self.endless = found or (0, False)
        self.most = optimizer.most_replayed
        self.decays = tuple(optimizer.decays()) if self.leaped else ()
        self.powers = ops.powers(self.decays) if self.leaped else None
        self.lines = np.zeros((256, 8), np.float64) if self.leaped else np.zeros((256, 14), np.float32)

    def missed(self):
        """How rows catch up with step `now`, for `ops`."""
        about = self.last_v, self.now, self.idle, self.step, self.first
        if not self.leaped:
            return ops.Missed(*about, self.lines, self.most)
        how = self.reach, self.endless, self.weight_decay, self.decays, self.powers
        return ops.Missed(*about, None, self.most, self.lines, *how)

    def add(self, optimizer, t, rate, hyper):
        """Step t of the optimizer is done: one more step of this variable."""
        self.now += 1
        at = self.now - self.first
        if at == len(self.lines):
            self.lines = np.concatenate([self.lines, np.zeros_like(self.lines)])
        fade = self.weight_decay * rate
        if not self.leaped:
            self.lines[at] = (*ops.numbers(hyper), fade)
            return
        self.lines[at, :_TERMS] = 0
        self.lines[at, _TERMS] = self.lines[at - 1, _TERMS] + math.log1p(-fade)
        if self.endless:
            self.lines[at, _TERMS + 1] = self.lines[at - 1, _TERMS + 1] + float(optimizer.drift(t, rate, 1, 0))
            return
        back = min(self.reach, at)
        n_k1 = np.arange(back, 0.0, -1)[:, None]
        drift_kp = np.broadcast_to(optimizer.drift(t, rate, n_k1, _NODES_P), (back, _TERMS))
        window_kp = self.lines[at - back : at, :_TERMS]
        if fade:
            window_kp *= 1 - fade
        window_kp += drift_kp @ _TO_TERMS_PP

    @property
    def full(self):
        """Whether all rows should catch up now, so that `forget` makes room."""
        return self.now - self.first >= _CAPACITY[self.leaped]

    def forget(self):
        """All rows have caught up: earlier steps are not needed any more."""
        self.lines = np.zeros_like(self.lines[:256])
        self.first = self.now

    def snapshot(self):
        """(numbers, lines) for a checkpoint: all but `last_v`."""
        numbers = {"now": self.now, "first": self.first, "leaped": self.leaped}
        return numbers, self.lines[: self.now - self.first + 1]

    def restored(self, numbers, lines, last_v):
        """A copy with the steps of a snapshot. Its `last_v` is still this one's, and is to become the given one.

        Raises:
            ValueError: they do not fit each other, or this history.
        """
        now, first = numbers["now"], numbers["first"]
        if not (type(now) is type(first) is int and 0 <= first <= now < 2**31):
            raise ValueError(f"the steps of a history must be whole numbers that rise. Received: {first!r} to {now!r}")
        if lines.shape != (now - first + 1, self.lines.shape[1]) or lines.dtype != self.lines.dtype:
            raise ValueError(f"a history must have a line for each step. Received: {lines.shape} for {first} to {now}")
        earliest = last_v.min(where=last_v != 0, initial=now) if self.idle else last_v.min(initial=now)
        if earliest < first or last_v.max(initial=0) > now:
            raise ValueError(f"a row's last step must lie in {first} to {now}. Received: another one")
        new = copy.copy(self)
        new.now, new.first = now, first
        new.lines = np.zeros((max(256, 1 << (len(lines) - 1).bit_length()), lines.shape[1]), lines.dtype)
        new.lines[: len(lines)] = lines
        return new
