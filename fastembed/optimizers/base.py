"""What all optimizers share: their configs, and the way of a step.

May import: optimizers.arguments, .home, .kept, ops, dtypes, slices, table, schedules, serialization, threads.
Do not break: `apply_gradients` checks everything before the first write.

The way of a step: gradients are checked and grouped -> perhaps only added up (`gradient_accumulation_steps`) -> their
norms are taken, if they are to be clipped -> each pass of the step runs over all variables together.
"""

import contextlib
import json
import math
import re
import types

import numpy as np

from fastembed import dtypes, ops, schedules, serialization
from fastembed.optimizers import home
from fastembed.optimizers.arguments import BASE, CHECKS, MODES, OURS, number
from fastembed.optimizers.kept import Kept, count_of, matrix_of
from fastembed.slices import IndexedSlices
from fastembed.table import Table, locked
from fastembed.threads import Lock, Whole

_GOLDEN = 0x9E3779B97F4A7C15  # from the rounding seed of one variable to that of the next


class Optimizer(serialization.Configurable):
    """Base class of the optimizers.

    A gradient is an `IndexedSlices` or a dense float array of the variable's shape; a variable is a `Table`, or a
    C-contiguous NumPy array of float32, float64, bfloat16 or float16 of any rank, which is updated in place. A row that
    occurs several times takes one step with the summed gradient, in float32; that of a float64 variable in float64.

    All take these arguments besides their own:

    Args:
        untouched: what a step does to rows that do not occur in a row-sparse gradient. "skip": nothing. "dense": what
            Keras does, a step with a gradient of zeros; it costs a pass over the whole table. "catch_up": the same, but
            later: when a row is touched or looked up, it first takes the steps that it has missed.
        weight_decay: float, or None. w -= weight_decay learning_rate w before each step, in rows that take it.
        clipnorm: float, or None. The summed gradient of each variable is scaled down to this norm.
        global_clipnorm: float, or None. The gradients of all variables together are.
        clipvalue: float, or None. Summed gradients are cut off at -clipvalue and clipvalue.
        use_ema: bool. Keeps a running average of each variable over the calls: `average`.
        ema_momentum: float, what a call leaves of the average.
        ema_overwrite_frequency: int, or None. Variables become their averages every so many steps.
        loss_scale_factor: float, or None. What the loss was multiplied by (`scale_loss`); gradients are divided by it.
        gradient_accumulation_steps: int, or None. Gradients of so many calls are averaged for one step. They stay
            row-sparse.
        on_nonfinite: what happens where a gradient has an infinite number or NaN; nothing is written. "raise": a
            ValueError. "skip": the call does not count, except in `skipped`.
        state_dtype: the storage dtype of the state: "float32" (float64 for a float64 variable); "bfloat16", of half the
            size; or, where the state is a momentum alone (SGD, Lion, RowwiseLARS), "int8" with a scale for each row, a
            quarter of it.
        rounding: how rows and states of less than 32 bits are rounded after a step. "stochastic": up or down, with a
            probability that makes the mean exact, so that small changes are not lost. "nearest".
        rounding_seed: int, what stochastic rounding depends on, besides the step, the row and the column.
        path: a directory for the state to live in as .npy files (made if it is missing; what `flush` has left there is
            gone on with), or None for memory. It is in no config.
        name: str.

    Example:
        >>> layer = fastembed.Embedding(1000, 8)
        >>> optimizer = fastembed.optimizers.Adagrad(learning_rate=0.1)
        >>> gradient = layer.gradient([3, 5, 3], np.ones((3, 8), "float32"))
        >>> optimizer.apply_gradients([(gradient, layer.embeddings)])
        >>> optimizer.iterations
        1
    """

    keras_module = "keras.optimizers"

    def __init__(self, learning_rate, name, base, own=None):
        # own: its own arguments by name; each is checked, and becomes an attribute and a key of the config
        self.learning_rate = learning_rate
        path = base.pop("path", None)
        unknown = set(base) - set(BASE) - set(OURS)
        if unknown:
            raise TypeError(f"an optimizer takes the arguments of Keras 3's. Received: {sorted(unknown)}")
        self._own = tuple(own or ())
        for argument, value in {**BASE, **OURS, **base, **(own or {})}.items():
            setattr(self, argument, (self.ranges.get(argument) or CHECKS[argument])(argument, value))
        clips = [argument for argument in ("clipnorm", "global_clipnorm", "clipvalue") if getattr(self, argument)]
        if len(clips) > 1:
            raise ValueError(f"only one of `clipnorm`, `global_clipnorm` and `clipvalue` can be set. Received: {clips}")
        if self.untouched not in self.modes:
            raise ValueError(
                f"`untouched` must be one of {list(self.modes)} for {type(self).__name__}. Received: "
                f"untouched={self.untouched!r}"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a string. Received: name={name!r}")
        self.name = name or type(self).__name__.lower()
        self.calls = 0  # of apply_gradients that counted
        self.skipped = 0  # of those that did not, as a gradient was not finite
        self._excluded = (set(), None)  # from weight decay: ids of variables, a pattern of names
        self._variables = {}  # what is kept of each, by id(variable)
        self._held = {}  # the variables themselves
        self._hypers = {}  # the hyperparameters of the step that is being taken, by `real`
        self._lock = Lock()
        self.home = home.at(path)
        if self.home.about is not None:
            with self.home.free_after_an_error():
                self._go_on(self.home.about)

    def __getstate__(self):
        self.catch_up()
        for kept in self._variables.values():
            kept.make(None)
        own = {"_variables": list(self._variables.values()), "_held": list(self._held.values()), "home": home.MEMORY}
        return {**self.__dict__, **own}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._held = {id(variable): variable for variable in state["_held"]}
        self._variables = dict(zip(self._held, state["_variables"], strict=True))
        for kept, variable in zip(self._variables.values(), self._held.values(), strict=True):
            kept.bind(variable)
            kept.attach()
            _tell(variable, self)

    # ---- what a subclass says of itself ----------------------------------------------------------------------------

    ranges = types.MappingProxyType({})  # checks of own arguments, where a name's usual one does not hold
    legacy_keys = None  # own arguments in Keras 2.9, in the order of its config; None: it has no such optimizer
    legacy_decay = 0.0  # what `decay` is in a config of 2.9 that means the same here
    modes = MODES  # the values that `untouched` may have
    decoupled = True  # weight decay is what Optimizer says, not a part of the step
    # What a step without a gradient changes of a row (weight decay aside): "nothing", its "state", or its "weights".
    at_rest = "weights"
    reads_all_rows = False  # what it keeps of a variable comes from all rows: none may be made later
    idle = True  # but it changes nothing of a row that was never touched

    real = dtypes.FLOAT32  # the dtype in which the variable at hand is stepped
    plan = None  # what history.plan gave, and for which config
    most_replayed = 2**31 - 1  # how many of the steps that a row has missed make a difference: the last ones

    def step(self, ndim=2):
        """The name of the step in `ops`, for a variable of so many dimensions."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def first_step(self, ndim):
        """The name of the step of the first pass."""
        return self.step(ndim)

    def initial(self):
        """What parts of the state begin with, by name, where it is not 0."""
        return {}

    def begin(self, rows, ndim, weight_decay):
        """What is kept of a variable (`ops.Rows`) beside the state of its rows: numbers and float64 arrays, by name."""
        return {}

    def hyper(self, t, rate):
        """The hyperparameters of step t = 1, 2, ... with learning rate `rate`, as `ops` takes them."""
        own = {name: getattr(self, name) for name in self._own if name in ops.HYPERPARAMETERS}
        return {"learning_rate": rate, **own}

    def num_passes(self, ndim):
        """How many passes over the rows a step takes, for a variable of so many dimensions."""
        return 1

    def refresh(self, kept):
        """The rows were changed by something else than passes(): brings what begin() made up to date."""

    def recount(self, kept):
        """Rows have come or gone, or changed places: brings what begin() made up to date."""
        self.refresh(kept)

    def settle(self, kept):
        """After a step whose rows or states were rounded, which passes() does not see: mends what begin() made."""

    def passes(self, t, rate, own, all_rows):
        """Yields (step, hyper) for each pass over the rows of a step, and is sent the sums of that pass. own: what
        begin() gave for the variable, to be kept up to date. all_rows: whether rows without a gradient decay."""
        yield self.step(), self._hypers[self.real]

    def rounded(self, value):
        """A number as the step of the variable at hand takes it."""
        return float(self.real.type(value))

    def decays(self):
        """What steps without a gradient multiply each part of the state by, in order; None: there is no closed form."""
        return None

    def drift(self, t, rate, n_k1, r_p):
        """How far step t, without a gradient, moves rows that were touched n steps before, in units of the x of
        fe_lapse (rows.h); float64, to be broadcast to (k, p). Here: not at all.

        n_k1: 1, 2, ..., as a column; r_p: values of the r of fe_lapse, as a row.
        """
        return 0.0

    # ---- what users ask --------------------------------------------------------------------------------------------

    @property
    def iterations(self):
        """int, the steps that were taken."""
        return self.calls // (self.gradient_accumulation_steps or 1)

    @iterations.setter
    def iterations(self, value):
        self.calls = serialization.check_number(value, "iterations", 0) * (self.gradient_accumulation_steps or 1)

    @property
    def learning_rate(self):
        """float >= 0, that of the next step; may be set at any time, to a number or a schedule."""
        if isinstance(self._learning_rate, float):
            return self._learning_rate
        return number("learning_rate", self._learning_rate(self.calls))

    @learning_rate.setter
    def learning_rate(self, value):
        value = schedules.get(value) if isinstance(value, dict) else value
        self._learning_rate = value if callable(value) else number("learning_rate", value)

    @property
    def variables(self):
        """The states of the variables seen so far: arrays of `state_dtype`, the memory itself."""
        with self._lock:
            return [kept.state_vs for kept in self._variables.values() if kept.state_vs is not None]

    def state(self, variable):
        """The state of a variable by Keras's names: arrays that share its memory, up to date at this moment.

        Args:
            variable: a Table or array that was trained or given to `build`.

        Returns:
            dict of arrays of `state_dtype`: (rows, dim), or (rows,) for a number for each row; with `use_ema` "average"
            too. A state of int8 is decoded: new arrays of float32.

        Raises:
            KeyError: the optimizer does not know it.

        Example:
            >>> table = fastembed.Table((5, 2))
            >>> adam = fastembed.optimizers.Adam()
            >>> adam.build([table])
            >>> {name: part.shape for name, part in adam.state(table).items()}
            {'momentum': (5, 2), 'velocity': (5, 2)}
        """
        kept = self._known(variable)
        with self.held([variable]):
            kept.pay(None)
            kept.make(None)
            parts, state_vs = {}, kept.state_vs if self.state_dtype != "int8" else ops.decode(kept.state_rows)
        for name, part in kept.parts.items():
            per_row = ops.STATES[kept.step][name] == ops.ROW
            parts[name] = state_vs[:, part.start] if per_row else state_vs[:, part]
        parts.update({name: array for name, array in kept.own.items() if isinstance(array, np.ndarray)})
        return {**parts, "average": self.average(variable)} if self.use_ema else parts

    def bytes_of_row(self, storage, dim):
        """What is kept of each row of a table of this storage dtype, in bytes."""
        inner = getattr(self, "inner_optimizer", self)
        real = dtypes.real(storage)
        width = ops.state_width(inner.step(), dim)
        state_dtype = "float64" if real == dtypes.FLOAT64 else inner.state_dtype
        size = ops.row_bytes(state_dtype, width) if width else 0
        if inner.untouched == "catch_up" and (inner.at_rest != "nothing" or (inner.decoupled and inner.weight_decay)):
            size += 4  # the step that it has taken last
        return size + (dim * real.itemsize + 4 if inner.use_ema else 0)

    def average(self, variable):
        """The running average of a variable (`use_ema`): floats in its shape, up to date, the memory itself; of
        halves, as steps made them, before they were rounded."""
        if not self.use_ema:
            raise ValueError("`average` needs use_ema=True. Received: use_ema=False")
        kept = self._known(variable)
        with self.held([variable]):
            return kept.average_rows(self.calls, self.ema_momentum).reshape(variable.shape)

    def finalize_variable_values(self, variables):
        """Variables become their running averages, as Keras does at the end of a training with `use_ema`."""
        for variable in variables if self.use_ema else ():
            kept = self._known(variable)
            with self.held([variable]), Whole():
                kept.overwrite(kept.average_rows(self.calls, self.ema_momentum))
                self.refresh(kept)

    def catch_up(self, variable=None):
        """All rows of a variable (None: of all) take the steps that they have missed; nothing to do unless
        untouched="catch_up". Tables do it by themselves when they are read, saved or copied; plain arrays do not.

        Example:
            >>> w = np.zeros((3, 1), "float32")
            >>> adam = fastembed.optimizers.Adam(untouched="catch_up")
            >>> for row in (0, 1):
            ...     adam.apply([fastembed.IndexedSlices(np.ones((1, 1)), [row], (3, 1))], [w])
            >>> before = w.copy()
            >>> adam.catch_up(w)
            >>> (w != before).ravel()  # row 0 has missed the second step
            array([ True, False, False])
        """
        known = list(self._variables.values()) if variable is None else [self._known(variable)]
        with self.held([kept.variable for kept in known]):
            for kept in known:
                kept.pay(None)

    def held(self, variables):
        """For `with`: no other thread takes a step, or lets rows of these variables catch up."""
        return locked(variables, self._lock)

    def settings(self):
        """All arguments by name but `name` and `learning_rate`: those that a checkpoint compares."""
        return {argument: getattr(self, argument) for argument in (*BASE, *self._own, *OURS)}

    def described(self):
        """Its class and settings(), as JSON holds them."""
        return {"class_name": type(self).__name__, "settings": json.loads(json.dumps(self.settings()))}

    def snapshot(self):
        """(numbers, variables) for a checkpoint: counters by name, and what is kept of each variable."""
        rate = self._learning_rate if isinstance(self._learning_rate, float) else None
        return {"calls": self.calls, "skipped": self.skipped, "learning_rate": rate}, [*self._variables.values()]

    def restored(self, variable, numbers, arrays):
        """What is to be kept of a variable whose snapshot this is; nothing has changed yet."""
        kept = self._variables.get(id(variable)) or Kept(variable, self, count_of(numbers, "number"), anew=True)
        return kept.restored(numbers, arrays, self)

    def restore(self, numbers, variables):
        """Becomes what snapshot() gave, with `variables` from restored(), whose tables now owe what they owed then."""
        self.calls, self.skipped = numbers["calls"], numbers["skipped"]
        if numbers["learning_rate"] is not None and isinstance(self._learning_rate, float):
            self.learning_rate = numbers["learning_rate"]
        for kept in self._variables.values():
            if getattr(kept.variable, "debt", None) is kept:
                kept.variable.debt = None
        self._variables = {id(kept.variable): kept for kept in variables}
        self._held = {id(kept.variable): kept.variable for kept in variables}
        for kept in variables:
            _tell(kept.variable, self)
            if kept.owes:
                kept.variable.debt = kept

    def flush(self):
        """Forces the state in `path` to disk, with all that an optimizer of the same arguments needs to go on there, in
        this process or a later one, with the same variables in the same order. Nothing to do without `path`.

        A process that dies after a step and before the next `flush` leaves a state that belongs to no step of the
        training: the directory is refused then, until a Checkpoint is restored.

        Raises:
            OSError: the disk is full, ...

        Example:
            >>> table = fastembed.Table((1000, 16))
            >>> gradient = fastembed.IndexedSlices(np.ones((1, 16), "float32"), [3], table.shape)
            >>> optimizer = fastembed.optimizers.Adagrad(0.1, path=directory + "/state")
            >>> optimizer.apply([gradient], [table])
            >>> optimizer.flush()
            >>> del optimizer
            >>> fastembed.optimizers.Adagrad(0.1, path=directory + "/state").iterations
            1
        """
        if self.home.path is None:
            return
        self.catch_up()  # who opens a table does not know yet of steps that its rows have to take
        with self.held([kept.variable for kept in self._variables.values()]):
            counters, known = self.snapshot()
            variables, small = [], []
            for kept in known:
                numbers, arrays = kept.snapshot()
                in_files = kept.in_files()
                small.append({**arrays, **{k: v for k, v in kept.memory().items() if k not in in_files}})
                variables.append({"shape": list(kept.variable.shape), "numbers": numbers})
            self.home.flush({**self.described(), "counters": counters, "variables": variables}, small)

    def _go_on(self, about):
        """Takes up what flush() left."""
        with home.damage(self.home.path):
            ours = self.described()
            saved = {key: about[key] for key in ours}
            if saved != ours:
                raise ValueError(f"`path` must hold the state of {ours}. Received: {saved}")
            counters = about["counters"]
            self.calls, self.skipped = count_of(counters, "calls"), count_of(counters, "skipped")
            if counters["learning_rate"] is not None and isinstance(self._learning_rate, float):
                self.learning_rate = counters["learning_rate"]

    def scale_loss(self, loss):
        """Returns the loss times `loss_scale_factor`."""
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Variables without weight decay: these, and those whose names hold one of these regular expressions. To be
        called before they are trained.

        Raises:
            ValueError: some are trained already.
        """
        if self._variables:
            raise ValueError("`exclude_from_weight_decay` must come before the first step. Received: a later call")
        self._excluded = ({id(variable) for variable in var_list or ()}, "|".join(var_names or ()) or None)

    def decay_of(self, kept):
        """The weight decay of a variable as `Optimizer` says it; 0: none."""
        listed, pattern = self._excluded
        excluded = id(kept.variable) in listed or (pattern and re.search(pattern, kept.name))
        return 0.0 if excluded or not self.decoupled else self.weight_decay or 0.0

    def build(self, variables):
        """Makes the state of `variables` now instead of at their first gradient."""
        variables = list(variables)
        with self.held(variables):
            for variable in variables:
                self._keep(variable)

    def kept_of(self, table):
        """What it keeps of a table that knows it, or None."""
        return self._variables.get(id(table))

    def _known(self, variable):
        if id(variable) not in self._variables:
            raise KeyError(f"{type(self).__name__} has not trained this variable. Received: {variable!r}")
        return self._variables[id(variable)]

    def _keep(self, variable):
        kept = self._variables.get(id(variable))
        if kept is None:
            _check_variable(variable)
            number = len(self._variables)
            saved = self.home.saved(number)
            kept = _gone_on_with(variable, number, *saved, self) if saved else Kept(variable, self, number)
            self._variables[id(variable)] = kept
            self._held[id(variable)] = variable
            _tell(variable, self)
        kept.attach()
        return kept

    # ---- a step ----------------------------------------------------------------------------------------------------

    def apply(self, gradients, variables):
        """`apply_gradients` with two lists."""
        gradients, variables = list(gradients), list(variables)
        if len(gradients) != len(variables):
            raise ValueError(
                f"`gradients` must be as many as `variables`. Received: {len(gradients)} and {len(variables)}"
            )
        self.apply_gradients(zip(gradients, variables, strict=True))

    def apply_gradients(self, grads_and_vars):
        """One step: updates every variable in place.

        Args:
            grads_and_vars: (gradient, variable) pairs; each variable once.

        Raises:
            TypeError, ValueError: a wrong dtype or shape, a read-only or frozen variable, a variable that comes twice,
                a gradient that is not finite.
            IndexError: an id that is no row. No variable, state or counter has changed then.
            MemoryError: likewise; but where a step has several passes (Lamb, Adafactor, `ema_overwrite_frequency`) and
                a later one finds no memory, rows or states have changed, and the step does not count.
        """
        pairs = list(grads_and_vars)
        with self._lock:
            reason = self._apply(pairs, 1.0 / (self.loss_scale_factor or 1.0))
            if reason and self.on_nonfinite == "raise":
                raise ValueError(f"a gradient must be finite. Received: {reason}")
            self.skipped += bool(reason)

    def _apply(self, pairs, factor):
        """A step with gradients times `factor`. Returns None; or, where one is not finite, what is wrong with it: the
        call does not count then, and nothing has changed."""
        variables, seen = [variable for _, variable in pairs], set()
        for variable in variables:
            _check_variable(variable)
            if id(variable) in seen:
                raise ValueError(f"a variable must come once; add its gradients (+). Received: {variable!r} twice")
            seen.add(id(variable))
        with self.held(variables):
            gradients = [_check_gradient(gradient, variable) for gradient, variable in pairs]
            all_groups = _group(gradients, variables)
            if not all(map(ops.finite, gradients)):
                return _explain_nonfinite(pairs, gradients)
            with Whole():
                return self._write(variables, gradients, all_groups, factor)

    def _write(self, variables, gradients, all_groups, factor):
        """_apply, from the first write on."""
        known = [self._keep(variable) for variable in variables]
        before = [(kept, kept.pending, kept.hyper, kept.rounded, kept.rounding) for kept in self._variables.values()]
        try:
            reason = self._take(variables, known, gradients, all_groups, factor)
        except BaseException:
            _put_back(before)
            raise
        if reason:
            _put_back(before)
            return reason
        if self.ema_overwrite_frequency and (self.iterations + 1) % self.ema_overwrite_frequency == 0:
            for kept in self._variables.values():
                kept.overwrite(kept.average_rows(self.calls + 1, self.ema_momentum))
                self.refresh(kept)
        self.calls += 1
        return None

    def _take(self, variables, known, gradients, all_groups, factor):
        """The step of a call, or its gradients wait for one. Returns what is not finite, or None."""
        steps = self.gradient_accumulation_steps or 1
        takes_step = (self.calls + 1) % steps == 0
        if takes_step:
            t, rate = self._prepare(known)
        if steps > 1:  # `factor` may be another one at the next call
            for kept, gradient, groups in zip(known, gradients, all_groups, strict=True):
                kept.add_pending(gradient, groups, factor)
            if takes_step:
                gradients = [kept.take_pending() for kept in known]
                all_groups = _group(gradients, variables)
                for kept in self._variables.values():
                    kept.pending = None
            factor = 1.0
        if takes_step:
            work = [*zip(known, gradients, all_groups, strict=True)]
            factors = self._clip_factors(work, factor / steps)
            if not np.isfinite(factors).all():
                return "a norm of gradients that is not finite"
            self._step(work, factors, t, rate)
        return None

    def _prepare(self, known):
        """Returns the number of the step to come and its learning rate, and makes its hyperparameters: whatever may be
        wrong with them is found now."""
        t, rate = self.iterations + 1, self.learning_rate
        for kept in known:
            if kept.weight_decay * rate >= 1:
                raise ValueError(f"`weight_decay` times `learning_rate` must be below 1. Received: {self!r}")
        for real in {kept.rows.real for kept in known} or {dtypes.FLOAT32}:
            self.real = real
            self._hypers[real] = self.hyper(t, rate)
        return t, rate

    def _step(self, work, factors, t, rate):
        """The passes of step t, each over all variables together. work: (kept, gradient, groups)."""
        every_row = self.untouched != "skip"
        passes = [
            self.passes(t, rate, kept.own, every_row or isinstance(gradient, np.ndarray)) for kept, gradient, _ in work
        ]
        results = [None] * len(work)
        for kept, gradient, groups in work:
            kept.changing(None if self._steps_all(kept, gradient) else groups)
            kept.rounded += 1
            kept.rounding = self.rounding_of(kept)
        for turn in range(max([kept.num_passes for kept, _, _ in work], default=0)):
            these = [i for i, (kept, _, _) in enumerate(work) if turn < kept.num_passes]
            updates = []
            for i in these:
                self.real = work[i][0].rows.real
                step, hyper = passes[i].send(results[i])
                if turn == 0:
                    work[i][0].hyper = hyper
                    if work[i][0].history is not None:
                        work[i][0].history.prepare(self, t, rate, hyper)
                updates.append(self._update(*work[i], step, hyper, factors[i], turn, t, rate))
            for i, sums in zip(these, ops.run(updates), strict=True):
                results[i] = sums
        for i, (kept, _, _) in enumerate(work):
            self.real = kept.rows.real
            with contextlib.suppress(StopIteration):
                passes[i].send(results[i])
            kept.looked = None
            if kept.history is not None:
                kept.history.add()
                if kept.history.full:
                    kept.pay(None)
                    kept.forget(None)  # frozen rows do not pay
                    kept.history.forget()
            if kept.rounds:
                self.settle(kept)
            if kept.constraint is not None:
                if kept.row_constraint is None:
                    kept.project()
                self.refresh(kept)

    def rounding_of(self, kept):
        """How the rows of a variable are rounded in its last step; None: to the nearest."""
        if self.rounding == "nearest" or not kept.rounds:
            return None
        return ops.Rounding(self.rounding_seed + kept.number * _GOLDEN, kept.rounded)

    def _steps_all(self, kept, gradient):
        """Whether rows without a gradient step, too."""
        if self.untouched != "dense" or isinstance(gradient, np.ndarray):
            return False
        return self.at_rest != "nothing" or kept.weight_decay > 0 or kept.row_constraint is not None

    def _update(self, kept, gradient, groups, step, hyper, factor, turn, t, rate):
        """Pass number `turn` over the rows of a variable, for `ops.run`. What comes before the step comes in the first,
        and what comes after it in the last."""
        first, last = turn == 0, turn == kept.num_passes - 1
        average, constraint = None, kept.row_constraint
        if self.use_ema and (first or last):
            takes = -1.0 if not last else 1.0 if t == 1 else 1 - self.ema_momentum
            average = ops.Average(kept.average_vd, kept.averaged_v, self.calls, self.ema_momentum, takes)
        return ops.Update(
            kept.rows,
            gradient,
            step,
            hyper,
            kept.state_rows,
            groups,
            constraint if last else None,
            self._steps_all(kept, gradient),
            factor,
            self.clipvalue or math.inf,
            kept.weight_decay * rate if first else 0.0,
            kept.scales,
            kept.history.missed() if first and kept.history is not None else None,
            average,
            kept.rounding and kept.rounding._replace(pass_=turn),
        )

    def _clip_factors(self, work, factor):
        """What each gradient is multiplied by, with the norms clipped; NaN where a norm is not finite."""
        norm = self.clipnorm or self.global_clipnorm
        if not norm:
            return [factor] * len(work)
        squares = ops.run([kept.update(gradient, groups, "squares", {}) for kept, gradient, groups in work])
        norms = [factor * math.sqrt(sums[0]) for sums in squares]
        if self.global_clipnorm:
            norms = [math.hypot(*norms)] * len(work)
        return [factor * norm / max(norm, one) if one < math.inf else math.nan for one in norms]

    def get_config(self):
        """Keras 3's keys; ours beside them where they are not the default."""
        config = {"name": self.name, "learning_rate": serialization.serialize(self._learning_rate)}
        config.update({argument: getattr(self, argument) for argument in (*BASE, *self._own)})
        ours = {argument: getattr(self, argument) for argument in OURS}
        return {**config, **{argument: value for argument, value in ours.items() if value != OURS[argument]}}

    def legacy_config(self):
        """The config in the form of Keras 2.9; what 2.9 does not know is in it only where it was set."""
        config = {**self.get_config(), "learning_rate": serialization.serialize(self._learning_rate, version=2)}
        if self.legacy_keys is None:
            return config
        name, rate = config.pop("name"), config.pop("learning_rate")
        own = {key: config.pop(key) for key in self.legacy_keys}
        base = {key: value for key, value in config.items() if key not in BASE or value != BASE[key]}
        return {"name": name, **base, "learning_rate": rate, "decay": self.legacy_decay, **own}

    def __repr__(self):
        defaults, own = {**BASE, **OURS}, {name: getattr(self, name) for name in self._own}
        others = {name: getattr(self, name) for name in defaults if getattr(self, name) != defaults[name]}
        shown = {"name": self.name, "learning_rate": self._learning_rate, **others, **own}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_config(cls, config):
        """Makes the optimizer of a config of Keras 3, or of Keras 2 without `decay`."""
        config = serialization.arguments_of(config, cls)
        decay = config.pop("decay", None)  # Keras 2
        if "path" in config:  # a config of a stranger must not open files
            raise TypeError(f"{cls.__name__} cannot be made from its config: `path` is in no config")
        if decay and decay != cls.legacy_decay:
            raise ValueError(f"`decay` must be {cls.legacy_decay or 0}. Received: decay={decay!r}")
        return super().from_config(config)


def _put_back(before):
    """A step that has failed leaves nothing behind."""
    for kept, *values in before:
        kept.pending, kept.hyper, kept.rounded, kept.rounding = values


def _tell(variable, optimizer):
    """A table knows the optimizers that keep something of its rows."""
    if isinstance(variable, Table):
        variable.optimizers.add(optimizer)


def _gone_on_with(variable, number, saved, small, optimizer):
    """What is kept of a variable, as flush() left it."""
    with home.damage(optimizer.home.path):
        return _restored(variable, number, saved, small, optimizer)


def _restored(variable, number, saved, small, optimizer):
    if saved["shape"] != list(variable.shape):
        raise ValueError(
            f"variables must come in the order that they had, number {number} of shape {saved['shape']}. Received: "
            f"{variable!r} of shape {variable.shape}"
        )
    kept = Kept(variable, optimizer, number)
    memory, in_files = kept.memory(), kept.in_files()
    for what in memory:
        if what not in in_files:
            np.copyto(memory[what], small[what])
    return kept.restored(saved["numbers"], {**small, **memory}, optimizer)


def _check_variable(variable):
    """A table or array that can be updated in place."""
    if isinstance(variable, Table):
        if not variable.trainable:
            raise ValueError(f"a variable must be trainable. Received: {variable!r} with trainable=False")
        ops.check_trains(variable.rows, "variable")
        return
    if not isinstance(variable, np.ndarray):
        raise TypeError(f"a variable must be a Table or a NumPy array. Received: {type(variable).__name__}")
    flags = variable.flags
    plain = dtypes.name_of(variable.dtype)[0] in dtypes.PLAIN
    if not plain or not (flags.c_contiguous and flags.aligned and flags.writeable):
        raise ValueError(
            f"a variable must be a writeable C-contiguous array of {' or '.join(dtypes.PLAIN)}. Received: "
            f"{variable.dtype} of shape {variable.shape}, strides {variable.strides}, writeable={flags.writeable}"
        )


def _check_gradient(gradient, variable):
    """A row-sparse gradient as Parts, or a dense one as a matrix, in the dtype in which the variable is stepped."""
    real = dtypes.real(variable.dtype.name)
    if isinstance(gradient, IndexedSlices):
        if tuple(variable.shape) != gradient.dense_shape:
            raise ValueError(
                f"a gradient must have its variable's shape, {tuple(variable.shape)}. Received: {gradient!r}"
            )
        return ops.parts_as(gradient.parts, real)
    if gradient is None:
        raise ValueError("a gradient must be an IndexedSlices or an array. Received: None")
    return matrix_of(ops.check_floats(gradient, variable.shape, "gradient", real))


def _group(gradients, variables):
    """The groups of each gradient of these variables; None for a dense one. What the last look-up has grouped is not
    grouped again."""
    debts = [getattr(variable, "debt", None) for variable in variables]
    found = [
        debt.groups_of(gradient) if debt is not None and isinstance(gradient, ops.Parts) else None
        for gradient, debt in zip(gradients, debts, strict=True)
    ]
    todo = [i for i, gradient in enumerate(gradients) if isinstance(gradient, ops.Parts) and found[i] is None]
    if todo:
        made = ops.group_all([(gradients[i], _num_rows(variables[i])) for i in todo])
        for i, groups in zip(todo, made, strict=True):
            found[i] = groups
    return found


def _num_rows(variable):
    return variable.shape[0] if variable.shape else 1


def _explain_nonfinite(pairs, gradients):
    for (_, variable), gradient in zip(pairs, gradients, strict=True):
        if not ops.finite(gradient):
            return f"NaN or infinity in the gradient of {variable!r:.100}"
    return "NaN or infinity"
