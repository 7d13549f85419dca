"""Kept: what an optimizer keeps of one variable.

May import: optimizers.history, .home, carry, files, lazy, ops, table. Do not break: arrays here are the memory itself
(or the file); a table holds its Kept as its debt, which must not hold the table.
"""

import math
import weakref

import numpy as np

from fastembed import files, ops
from fastembed.carry import run
from fastembed.lazy import Lazy
from fastembed.optimizers import home
from fastembed.optimizers.history import REPLAY, History
from fastembed.table import Table

_BOUND = ("_variable", "rows", "state_rows")  # what bind() sets


class Kept:
    """What an optimizer keeps of a variable under training: the state of its rows (a row for each), and what
    else steps need of it. For its table it is the debt: the steps that rows have not taken yet. So the table holds it,
    and it holds the table weakly (the optimizer does so for good): memory is free as soon as nobody needs it."""

    def __init__(self, variable, optimizer, number, anew=False):
        """number: its place among the variables of the optimizer. anew: files that are there are made anew."""
        self.state_vs, self.home = None, optimizer.home
        self.lazy = None  # rows of the state that are not made yet
        self.bind(variable)
        optimizer.real = self.rows.real
        self.number = number
        self.name = getattr(variable, "name", "")
        self.ndim = 2 if isinstance(variable, Table) else variable.ndim
        self.step = optimizer.step(self.ndim)
        self.num_passes = optimizer.num_passes(self.ndim)
        self.parts = ops.state_parts(self.step, self.rows.dim)
        ops.check_state_dtype(self.step, optimizer.state_dtype)
        self._sparse = getattr(variable, "lazy", None) is not None
        if self._sparse and optimizer.reads_all_rows:
            raise ValueError(f"an optimizer must not need all rows of a table with `lazy`. Received: {optimizer!r}")
        self.state_vs = self._new_state(optimizer, anew)
        self.bind(variable)
        self.weight_decay = optimizer.decay_of(self)
        self.own = optimizer.begin(self.rows, self.ndim, self.weight_decay)
        self.moves = optimizer.at_rest == "weights" or self.weight_decay > 0  # without a gradient
        self.history = self._new_history(optimizer, anew)
        self.average_vd = self.averaged_v = None
        if optimizer.use_ema:
            self._new_average(optimizer, anew)
        self.pending = None  # gradients that wait for the next step: a dense sum, or a list of (rows, values)
        self.hyper = {}  # of its last step
        self.looked = None  # the Parts of the last look-up that came here, and their groups
        self.paid = 0  # the step with which all rows have caught up
        self.rounded = 0  # its steps: rows that missed some know the number of each
        self.rounding = None  # how rows were rounded in the last one, as `ops` takes it

    def bind(self, variable):
        """Belongs to this variable from now on."""
        self._variable = weakref.ref(variable)
        self.rows = variable.rows if isinstance(variable, Table) else ops.rows_of(matrix_of(variable), "variable")
        self.state_rows = None if self.state_vs is None else ops.rows_of(self.state_vs)
        if self.lazy is not None:
            self.lazy.rows = self.state_rows

    def _state_dtype(self, optimizer):
        if self.rows.storage != "float64":
            return optimizer.state_dtype
        if optimizer.state_dtype != "float32":
            raise ValueError(
                f"`state_dtype` must be 'float32' where a variable and its state are float64. Received: {optimizer!r}"
            )
        return "float64"

    @property
    def variable(self):
        """The Table or array."""
        return self._variable()

    def __getstate__(self):
        state = {name: value for name, value in self.__dict__.items() if name not in _BOUND}
        own = {name: np.array(value) for name, value in state.items() if isinstance(value, np.memmap)}
        return {**state, **own, "home": home.MEMORY, "lazy": None, "_sparse": False}  # a copy lives in memory

    @property
    def rounds(self):
        """Whether rows or their states are stored as something else than what steps are taken in."""
        return any(rows.coded for rows in (self.rows, self.state_rows) if rows is not None)

    @property
    def constraint(self):
        """What an update enforces, or None."""
        return getattr(self.variable, "constraint", None)

    @property
    def row_constraint(self):
        """The part of it that belongs to each row alone, for `ops`, or None."""
        return None if self.constraint is None else self.constraint.rows

    @property
    def scales(self):
        """Of the learning rate, by row, or None."""
        return getattr(self.variable, "row_scales", None)

    def _new(self, what, shape, dtype, anew):
        return self.home.array(self.number, what, shape, dtype, self._sparse, anew)

    def _new_state(self, optimizer, anew):
        """A row of state for each row, or None. All threads touch the pages of memory now, so that no step pays."""
        if not self.parts:
            return None
        row_s = self._first_row(optimizer)
        shape = len(self.rows), len(row_s)
        state_vs, new = self._new("state", shape, self._state_dtype(optimizer), anew)

        def fill(values_ns, _):
            ops.fill(values_ns, "row", row=row_s)

        if self._sparse and row_s.any():
            made, _ = self._new("made", ((shape[0] + 7) // 8,), np.uint8, anew)
            self.lazy = Lazy(ops.rows_of(state_vs), fill, made)
        elif new and not self._sparse and (row_s.any() or self.home.path is None):
            ops.change(state_vs, fill)
        return state_vs

    def _first_row(self, optimizer):
        """What the state of a row begins with."""
        row_s = np.zeros(max(part.stop for part in self.parts.values()))
        for name, part in self.parts.items():
            row_s[part] = optimizer.initial().get(name, 0)
        return row_s

    def _new_average(self, optimizer, anew):
        if self._sparse:
            raise ValueError(f"`use_ema` keeps averages of all rows, and goes without `lazy`. Received: {optimizer!r}")
        self.average_vd, new = self._new("average", self.rows.shape, self.rows.real.name, anew)
        self.averaged_v, _ = self._new("averaged", (len(self.rows),), np.int32, anew)
        if new:
            for rows in ops.blocks(self.rows):
                np.copyto(self.average_vd[rows], ops.decode(self.rows, rows))
            self.averaged_v[:] = optimizer.calls

    def _new_history(self, optimizer, anew):
        if optimizer.untouched != "catch_up" or (optimizer.at_rest == "nothing" and not self.weight_decay):
            return None
        if self.moves and optimizer.use_ema:
            raise ValueError(
                "`use_ema` needs untouched='skip' or 'dense' where rows move without a gradient. Received: "
                f"untouched='catch_up' with {optimizer!r}"
            )
        if self.moves and self.constraint is not None and self.row_constraint is None:
            raise ValueError(
                "untouched='catch_up' needs a constraint of single rows (`axis=1`, NonNeg). Received: "
                f"{self.constraint!r}, which belongs to the whole table"
            )
        replayed = self.row_constraint is not None or self.scales is not None
        last_v, _ = self._new("last", (len(self.rows),), np.int32, anew)
        return History(optimizer, optimizer.first_step(self.ndim), last_v, self.weight_decay, replayed)

    @property
    def owes(self):
        """Whether it is the table's debt: rows that are not touched have steps to take."""
        return self.history is not None and isinstance(self.variable, Table)

    def attach(self):
        """Becomes the table's debt, if rows that are not touched have steps to take: look-ups then come here first."""
        if not isinstance(self.variable, Table) or self.variable.debt is self:
            return
        if self.variable.debt is not None:  # of another optimizer, which has trained the table until now
            self.variable.debt.pay(None)
            self.variable.debt.forget(None)  # frozen rows do not pay
            self.variable.debt = None
        if self.owes:
            self.changing(None, but_unmade=True)
            self.forget(None)
            self.variable.debt = self

    def changing(self, groups, but_unmade=False):
        """Tells the table and the home that rows of these groups (None: all) are about to change, or their state.
        but_unmade: not those that are not made yet."""
        self.home.changing()
        table = self.variable
        if isinstance(table, Table) and (table.is_told or self.lazy is not None):
            rows_u = None if groups is None else ops.touched(groups, self.rows)
            table.changing(rows_u, but_unmade)
            if not but_unmade:
                self.make(rows_u)

    # ---- what a table asks of its debt ----

    def pay(self, look):
        """The rows of a look-up (Parts), or all (None), take the steps that they have missed."""
        history = self.history
        if history is None or history.now == self.paid or 0 in self.rows.shape:
            return
        groups = None if look is None else ops.group_look(look, self.rows)
        if look is not None and groups is None:  # an id is no row: the look-up says so
            return
        how = {"constraint": self.row_constraint, "missed": history.missed(), "everywhere": look is None}
        self.changing(groups, but_unmade=history.idle)
        how["rounding"] = self.rounding and self.rounding._replace(step=self.rounding.step + 1)
        ops.run([self.update(None, groups, None, self.hyper, **how)])
        if look is None:
            self.paid = history.now
        else:
            self.looked = look._replace(ids_n=look.ids_n.copy()), groups

    def groups_of(self, parts):
        """The groups of a gradient, if those of the last look-up are the same; else None."""
        look, groups = self.looked or (None, None)
        return groups if look is not None and ops.same_groups(look, parts) else None

    def forget(self, rows_n):
        """These rows, or all, have missed nothing."""
        last_v = self.history.last_v
        rows_n = slice(None) if rows_n is None else rows_n
        last_v[rows_n] = np.where(last_v[rows_n] > 0, self.history.now, 0) if self.history.idle else self.history.now

    def check_scales(self, scales_n):
        """Missed steps can be leaped only where all rows have one learning rate."""
        if not self.moves or self.history.plan == REPLAY or np.isin(scales_n, (0, 1)).all():
            return
        if self.history.now == 0:
            self.history.replay_only()
        else:
            raise ValueError(
                "`scale` must be 0 or 1 after the first step with untouched='catch_up'; set others before it. "
                f"Received: scale={scales_n}"
            )

    # ---- what a table asks that gets other rows ----

    def carry(self, carry, optimizer, touched):
        """Its part in `table.rearrange`, after that of the table. touched: which old rows are made."""
        self.looked = None
        if self.state_vs is not None:
            self._carry_state(carry, optimizer, touched)
        if self.average_vd is not None:
            carry.array(self, "average_vd")
            for rows_u in carry.fresh(self.average_vd.shape[1]):
                self.average_vd[run(rows_u)] = ops.decode(self.variable.memory[run(rows_u)])
            carry.array(self, "averaged_v")
            carry.set_fresh(self.averaged_v, optimizer.calls)
        if self.history is not None:
            carry.array(self.history, "last_v", self._sparse)
            carry.set_fresh(self.history.last_v, 0 if self.history.idle else self.history.now)
        if self.pending is not None:
            self._carry_pending(carry)
        carry.after(lambda: self.home.take(self.memory().values()))
        if self.lazy is not None:
            carry.after(lambda: self.home.take([self.lazy.made]))

    def _carry_state(self, carry, optimizer, touched):
        if self.lazy is not None:
            self.lazy.rows = None
            carry.array(self, "state_vs", True, self.lazy.bits)
            carry.bits(self.lazy, "made")
            return
        carry.array(self, "state_vs", self._sparse, touched if self._sparse else None)
        row_s, part = self._first_row(optimizer), ops.zeros_like(self.state_vs, 1)
        if row_s.any():
            ops.encode(part, row_s[None, :])
            carry.set_fresh(self.state_vs, part[0])

    def _carry_pending(self, carry):
        if isinstance(self.pending, np.ndarray):
            carry.array(self, "pending")
            return
        pending = [(carry.places(rows_u), values_ud) for rows_u, values_ud in self.pending]
        pending = [(rows_u[rows_u >= 0], values_ud[rows_u >= 0]) for rows_u, values_ud in pending]
        carry.last(lambda: setattr(self, "pending", pending))

    # ---- what an optimizer asks of its variable ----

    def update(self, gradient, groups, step, hyper, **how):
        """One pass over the rows, for `ops.run`."""
        return ops.Update(self.rows, gradient, step, hyper, self.state_rows, groups, scales=self.scales, **how)

    def average_rows(self, calls, keeps):
        """All averages, up to date after `calls` calls."""
        self.changing(None)
        average = ops.Average(self.average_vd, self.averaged_v, calls, keeps, -1.0)
        ops.run([self.update(None, None, None, {}, average=average, everywhere=True)])
        return self.average_vd

    def overwrite(self, array_vd):
        """Sets all rows, but for those that are frozen."""
        self.changing(None)
        trains_v1 = np.ones((len(array_vd), 1), bool) if self.scales is None else (self.scales > 0)[:, None]

        def put(values_vd, first_row):
            these = slice(first_row, first_row + len(values_vd))
            np.copyto(values_vd, array_vd[these], where=trains_v1[these])

        ops.change(self.rows, put)

    def project(self):
        """Enforces a constraint of the whole table; rows that are frozen count, and stay as they are."""
        self.changing(None)
        frozen = [] if self.scales is None else np.flatnonzero(self.scales == 0)
        values_vd = ops.decode(self.rows)
        before = values_vd[frozen] if len(frozen) else None
        self.constraint.project(values_vd)
        if before is not None:
            values_vd[frozen] = before
        if self.rows.coded:
            ops.encode(self.rows, values_vd)

    def add_pending(self, gradient, groups, factor):
        """Adds a gradient, times `factor`, to those that wait."""
        if isinstance(gradient, np.ndarray):
            waiting, self.pending = self.pending, gradient * gradient.dtype.type(factor)
            if isinstance(waiting, np.ndarray):
                self.pending += waiting
            for rows_u, values_ud in waiting if isinstance(waiting, list) else ():
                self.pending[rows_u] += values_ud
        else:
            rows_u, values_ud = ops.reduce(gradient, groups)
            if factor != 1:
                values_ud *= values_ud.dtype.type(factor)
            if isinstance(self.pending, np.ndarray):
                self.pending = self.pending.copy()  # what waited until now stays as it was
                self.pending[rows_u] += values_ud
            else:
                self.pending = [*(self.pending or []), (rows_u, values_ud)]

    def take_pending(self):
        """Takes the sum of the gradients that wait: Parts, or a matrix."""
        waiting, self.pending = self.pending, None
        if isinstance(waiting, np.ndarray):
            return waiting
        rows_n = np.concatenate([rows_u for rows_u, _ in waiting])
        return ops.parts_checked(rows_n, np.concatenate([values_ud for _, values_ud in waiting]))

    # ---- what a checkpoint asks of it ----

    def memory(self):
        """What it keeps for each row or column: arrays by name, the memory itself."""
        last_v = None if self.history is None else self.history.last_v
        arrays = {"state": self.state_vs, "average": self.average_vd, "averaged": self.averaged_v, "last": last_v}
        arrays |= {f"own.{name}": array for name, array in self.own.items() if isinstance(array, np.ndarray)}
        return {name: array for name, array in arrays.items() if array is not None}

    def in_files(self):
        """The names in memory() of arrays that have files of their own."""
        return {name for name, array in self.memory().items() if files.is_written(array)}

    def make(self, rows_u):
        """Makes rows of the state (None: all) that are not made yet."""
        if self.lazy is not None:
            self.lazy.make(rows_u)

    def snapshot(self):
        """(numbers, arrays) for a checkpoint, by name: all else that it keeps."""
        numbers = {"weight_decay": self.weight_decay, "own": _numbers(self.own), "hyper": _numbers(self.hyper)}
        numbers["number"], numbers["rounded"] = self.number, self.rounded
        arrays = {f"hyper.{name}": array for name, array in self.hyper.items() if isinstance(array, np.ndarray)}
        if self.history is not None:
            numbers["history"], arrays["lines"] = self.history.snapshot()
        if isinstance(self.pending, np.ndarray):
            arrays["pending"] = self.pending
        elif self.pending is not None:
            numbers["pending"] = [len(rows_u) for rows_u, _ in self.pending]
            arrays["pending.rows"] = np.concatenate([rows_u for rows_u, _ in self.pending])
            arrays["pending.values"] = np.concatenate([values_ud for _, values_ud in self.pending])
        return numbers, arrays

    def restored(self, numbers, arrays, optimizer):
        """A copy that is what snapshot() gave; memory() is still this one's, and is to be filled. arrays: memory() at
        that time, too.

        Raises:
            ValueError: the snapshot does not fit the variable.
        """
        if numbers["weight_decay"] != self.weight_decay:
            raise ValueError(f"`weight_decay` of a variable must be {self.weight_decay}. Received: {numbers}")
        if numbers["own"].keys() != _numbers(self.own).keys() or ("history" in numbers) != (self.history is not None):
            raise ValueError(f"{type(optimizer).__name__} must keep of a variable what it kept. Received: {numbers}")
        new = Kept.__new__(Kept)
        new.__dict__.update(self.__dict__)
        new.paid = 0
        new.number, new.rounded = count_of(numbers, "number"), count_of(numbers, "rounded")
        new.rounding = optimizer.rounding_of(new)
        new.own = {**self.own, **_numbers(numbers["own"])}
        new.hyper = _numbers(numbers["hyper"])
        for name in arrays:
            if name.startswith("hyper."):
                _check_array(arrays[name], self.rows.shape[1:], self.rows.real)
                new.hyper[name.removeprefix("hyper.")] = np.array(arrays[name])
        if self.history is not None:
            # Whether its rows have learning rates of their own is in the checkpoint, too.
            replayed = self.row_constraint is not None
            optimizer.real = self.rows.real
            history = History(optimizer, self.history.step, self.history.last_v, self.weight_decay, replayed)
            new.history = history.restored(numbers["history"], arrays["lines"], arrays["last"])
        new.pending = self._restored_pending(numbers.get("pending"), arrays)
        return new

    def _restored_pending(self, sizes, arrays):
        if sizes is None and "pending" not in arrays:
            return None
        if sizes is None:
            _check_array(arrays["pending"], self.rows.shape, self.rows.real)
            return np.array(arrays["pending"])
        rows_n, values_nd = np.array(arrays["pending.rows"]), np.array(arrays["pending.values"])
        _check_array(rows_n, (sum(sizes),), np.int64)
        _check_array(values_nd, (sum(sizes), self.rows.dim), self.rows.real)
        if min(sizes) < 0 or rows_n.min(initial=0) < 0 or rows_n.max(initial=-1) >= len(self.rows):
            raise ValueError("gradients that wait must belong to rows of the variable. Received: others")
        ends = np.cumsum(sizes)[:-1]
        return list(zip(np.split(rows_n, ends), np.split(values_nd, ends), strict=True))


def count_of(numbers, name):
    """A whole number of a snapshot."""
    if type(numbers[name]) is not int or not 0 <= numbers[name] < 2**62:
        raise ValueError(f"{name!r} must be a whole number. Received: {numbers[name]!r}")
    return numbers[name]


def _check_array(array, shape, dtype):
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"an array must be {np.dtype(dtype)} of shape {shape}. Received: {array.dtype} {array.shape}")


def _numbers(kept):
    """The entries of a dict that are numbers, as Python's."""
    numbers = {name: value for name, value in kept.items() if not isinstance(value, np.ndarray)}
    return {name: value if type(value) is int else float(value) for name, value in numbers.items()}


def matrix_of(array):
    """An array of any rank as a matrix whose rows are its last axis; a view."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1] if array.ndim else 1)
