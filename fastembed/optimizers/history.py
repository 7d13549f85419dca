"""History: the steps of one variable, for rows that catch up with them later (untouched="catch_up").

May import: ops, dtypes. Do not break: a row that has caught up with step t is what dense updates would have made of it:
to the bit where steps are replayed, within `TOLERANCE` of its way where they are leaped in closed form.

In a step without a gradient most optimizers multiply the parts of the state by constants, and move a row by x f(r),
where x and r come from the state (fe_lapse in _rows/rows.h) and f changes from step to step. The sum of f over the
steps that a row has missed is a polynomial in r to good accuracy, the same for all rows that were last touched at one
step. So each step has a line of coefficients, and every step adds its f to the lines before it, as far back as rows
still move.
"""

import copy
import math
from typing import NamedTuple

import numpy as np

from fastembed import dtypes, ops

TOLERANCE = 1e-6  # of the way that a row has moved
_TERMS = 6
# Chebyshev nodes for r in [0, 1], and the matrix that makes coefficients of 1, r, r^2, ... from values there.
_NODES_P = (0.5 - 0.5 * np.cos(math.pi * (np.arange(_TERMS) + 0.5) / _TERMS))[None, :]
_TO_TERMS_PP = np.linalg.inv(np.vander(_NODES_P[0], increasing=True)).T
_NEGLIGIBLE = 2.0**-32  # of the first drift: rows move no further
_FARTHEST = 1 << 14  # steps that a row may drift for, to be leaped
_CAPACITY = {True: 1 << 20, False: 1 << 14}  # lines (leaped: 64 bytes, replayed: 56 or 112) before all rows catch up


class Plan(NamedTuple):
    """Which missed steps are leaped: those from number `leap_from` on; earlier ones are replayed (math.inf: all are).
    reach: for how many steps rows drift after their last one; endless: or that they do so for ever."""

    leap_from: float
    reach: int = 0
    endless: bool = False


REPLAY = Plan(math.inf)


def plan(optimizer):
    """The Plan of an optimizer's steps without a gradient."""
    if optimizer.decays() is None:
        return REPLAY
    n_k1 = np.arange(1.0, _FARTHEST + 1)[:, None]
    far_r = np.linspace(0, 1, 65)[None, :]
    reach, leap_from = 1, math.inf
    for t in (10**6, 10_000, 3000, 1000, 300, 100, 20, 5, 2, 1):
        drift_kr = np.broadcast_to(optimizer.drift(t, 1.0, n_k1, far_r), (len(n_k1), far_r.size))
        if not drift_kr.any():
            leap_from = t
            continue
        if (drift_kr == drift_kr[:1, :1]).all():
            return Plan(1, 0, True)
        moves = np.abs(drift_kr).max(1) > _NEGLIGIBLE * np.abs(drift_kr[0]).max()
        reach = max(reach, int(np.flatnonzero(moves)[-1]) + 1)
        way_r = drift_kr.sum(0)
        values_kp = np.broadcast_to(optimizer.drift(t, 1.0, n_k1, _NODES_P), (len(n_k1), _TERMS))
        fitted_r = np.polynomial.polynomial.polyval(far_r[0], values_kp.sum(0) @ _TO_TERMS_PP)
        if reach == _FARTHEST or not np.allclose(fitted_r, way_r, TOLERANCE, 0):
            break
        leap_from = t
    return Plan(leap_from, reach) if leap_from < math.inf else REPLAY


def _plan_of(optimizer):
    """plan(), which takes a tenth of a second, made once for an optimizer of many tables."""
    own = optimizer.settings()
    if optimizer.plan is None or optimizer.plan[0] != own:
        real, optimizer.real = optimizer.real, dtypes.FLOAT32  # one plan, whichever variable comes first
        optimizer.plan = own, plan(optimizer)
        optimizer.real = real
    return optimizer.plan[1]


class History:
    """What the steps of a variable do to rows without a gradient.

    Args:
        optimizer: its decays() and drift() say what such a step does.
        step: the name of the step for `ops`, of several passes the first.
        last_v: int32 (v,), zeros: the step of each row that it has taken last.
        weight_decay: float, the optimizer's for this variable; 0: none.
        replayed: True where missed steps must be taken one after the other.

    The optimizer's `real` is the dtype in which the variable is stepped.
    """

    def __init__(self, optimizer, step, last_v, weight_decay, replayed):
        self.step, self.weight_decay, self.real = step, weight_decay, optimizer.real
        self.last_v = last_v
        self.now = 0
        self.idle = optimizer.idle and not weight_decay
        self.plan = REPLAY if replayed else _plan_of(optimizer)
        self.most = optimizer.most_replayed
        self.decays = tuple(map(optimizer.rounded, optimizer.decays() or ()))
        self.powers = ops.powers(self.decays, self.real)
        self.t = optimizer.iterations  # the optimizer's number of the last step
        self.next = None  # what prepare() has made for add()
        self._begin()

    def _begin(self):
        """Room for the lines of steps to come."""
        self.first = self.now
        self.leaped = self.t + 1 >= self.plan.leap_from
        self.lines = np.zeros((256, 8), np.float64) if self.leaped else np.zeros((256, 14), self.real)

    def replay_only(self):
        """Before the first step: missed steps will be replayed."""
        self.plan = REPLAY
        self._begin()

    def missed(self):
        """How rows catch up with step `now`, for `ops`."""
        about = self.last_v, self.now, self.idle, self.step, self.first
        if not self.leaped:
            return ops.Missed(*about, self.lines, self.most)
        how = self.plan.reach, self.plan.endless, self.weight_decay, self.decays, self.powers
        return ops.Missed(*about, None, self.most, self.lines, *how)

    def prepare(self, optimizer, t, rate, hyper):
        """All that `add` needs to know and to have of step t of the optimizer, before anything of it is written."""
        at = self.now + 1 - self.first
        if at == len(self.lines):
            self.lines = np.concatenate([self.lines, np.zeros_like(self.lines)])
        fade, drift_kp = self.weight_decay * rate, None
        self.lines[at] = 0.0  # nobody reads it yet
        if not self.leaped:
            self.lines[at] = (*ops.numbers(hyper), fade)
        elif self.plan.endless:
            drift_kp = float(optimizer.drift(t, rate, 1, 0))
        else:
            back = min(self.plan.reach, at)
            n_k1 = np.arange(back, 0.0, -1)[:, None]
            drift_kp = np.broadcast_to(optimizer.drift(t, rate, n_k1, _NODES_P), (back, _TERMS)) @ _TO_TERMS_PP
        self.next = t, fade, np.array(1 - fade), drift_kp

    def add(self):
        """The step that was prepared is done: one more of this variable. This takes no memory, so it cannot fail."""
        self.t, fade, keeps, drift_kp = self.next
        self.now += 1
        at = self.now - self.first
        if not self.leaped:
            return
        self.lines[at, _TERMS] = self.lines[at - 1, _TERMS] + math.log1p(-fade)
        if self.plan.endless:
            self.lines[at, _TERMS + 1] = self.lines[at - 1, _TERMS + 1] + drift_kp
            return
        window_kp = self.lines[at - len(drift_kp) : at, :_TERMS]
        if fade:
            window_kp *= keeps
        window_kp += drift_kp

    @property
    def full(self):
        """Whether all rows should catch up now, so that `forget` makes room, or rows can leap from now on."""
        can_leap = self.t + 1 >= self.plan.leap_from and not self.leaped
        return can_leap or self.now - self.first >= _CAPACITY[self.leaped]

    def forget(self):
        """All rows have caught up: earlier steps are not needed any more."""
        self._begin()

    def snapshot(self):
        """(numbers, lines) for a checkpoint: all but `last_v`."""
        leap_from = self.plan.leap_from if self.plan != REPLAY else None
        numbers = {"now": self.now, "first": self.first, "t": self.t, "leaped": self.leaped, "leap_from": leap_from}
        return numbers, self.lines[: self.now - self.first + 1]

    def restored(self, numbers, lines, last_v):
        """A copy with the steps of a snapshot. Its `last_v` is still this one's, and is to become the given one.

        Raises:
            ValueError: they do not fit each other, or this history.
        """
        now, first = numbers["now"], numbers["first"]
        new = copy.copy(self)
        new.plan = REPLAY if numbers["leap_from"] is None else self.plan
        new.t = numbers["t"]
        new._begin()
        if new.leaped != numbers["leaped"] or numbers["leap_from"] not in (None, self.plan.leap_from):
            raise ValueError("a variable must have the constraint that it had. Received: another one")
        if not (type(now) is type(first) is int and 0 <= first <= now < 2**31):
            raise ValueError(f"the steps of a history must be whole numbers that rise. Received: {first!r} to {now!r}")
        if lines.shape != (now - first + 1, new.lines.shape[1]) or lines.dtype != new.lines.dtype:
            raise ValueError(f"a history must have a line for each step. Received: {lines.shape} for {first} to {now}")
        earliest = last_v.min(where=last_v != 0, initial=now) if self.idle else last_v.min(initial=now)
        if earliest < first or last_v.max(initial=0) > now:
            raise ValueError(f"a row's last step must lie in {first} to {now}. Received: another one")
        new.now, new.first = now, first
        new.lines = np.zeros((max(256, 1 << (len(lines) - 1).bit_length()), lines.shape[1]), lines.dtype)
        new.lines[: len(lines)] = lines
        return new
