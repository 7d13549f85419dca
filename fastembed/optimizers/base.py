"""What all optimizers share: their arguments and configs, the state of variables, and the way of a step.

May import: ops, slices, table, schedules, serialization, threads. Do not break: `apply_gradients` checks everything
before the first write.
"""

import contextlib
import math
import types

import numpy as np

from fastembed import ops, schedules, serialization
from fastembed.slices import IndexedSlices
from fastembed.table import Table
from fastembed.threads import Lock

# What Keras's base class takes besides, in its order, with the values that change nothing: no others are there yet.
_BASE = {
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
_WITHOUT_EFFECT = ("ema_momentum", "ema_overwrite_frequency")  # as long as use_ema is False


class _Variable:
    """A variable under training: its matrix, and the state of its rows (one float32 row for each)."""

    def __init__(self, variable, step, initial):
        self.variable = variable
        table_vd = self.matrix()
        parts = ops.state_parts(step, table_vd.shape[1])
        row_s = np.zeros(ops.state_width(step, table_vd.shape[1]), np.float32)
        for name, part in parts.items():
            row_s[part] = initial.get(name, 0)
        self.state_vs = None
        if len(row_s):
            self.state_vs = ops.zeros((len(table_vd), len(row_s)))
            # All threads touch the pages now, so that no step pays for it.
            ops.fill(self.state_vs, "row", row=row_s)

    def matrix(self):
        """The variable's own memory as a matrix of rows."""
        if isinstance(self.variable, Table):
            return self.variable.numpy()
        return _matrix(self.variable)


class Optimizer(serialization.Configurable):
    """Base class of the optimizers.

    All take the further arguments of Keras 3's optimizers (weight_decay, clipnorm, ...), which have no effect yet and
    so must be None.

    A gradient is an `IndexedSlices` or a dense float array of the variable's shape; a variable is a `Table`, or a
    float32 C-contiguous NumPy array of any rank, which is updated in place. With `IndexedSlices`, rows that do not
    occur keep their values and their state; a row that occurs several times takes one step with the summed gradient.

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
        """own: its arguments by name; each is checked, and becomes an attribute and a key of the config."""
        self.learning_rate = learning_rate
        self._own = tuple(own or ())
        for argument, value in (own or {}).items():
            setattr(self, argument, (self.ranges.get(argument) or _CHECKS[argument])(argument, value))
        unknown = set(base) - set(_BASE)
        if unknown:
            raise TypeError(f"an optimizer takes the arguments of Keras 3's. Received: {sorted(unknown)}")
        for argument, value in base.items():
            if argument not in _WITHOUT_EFFECT and (value is not None and value is not False):
                raise ValueError(
                    f"`{argument}` must be {_BASE[argument]} in this version. Received: {argument}={value!r}"
                )
        self._base = {**_BASE, **base}
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a string. Received: name={name!r}")
        self.name = name or type(self).__name__.lower()
        self.iterations = 0
        self._variables = {}  # by id(variable)
        self._lock = Lock()

    def __getstate__(self):
        state = self.__dict__.copy()
        state["_variables"] = list(self._variables.values())
        return state

    def __setstate__(self, state):
        kept = {id(kept.variable): kept for kept in state["_variables"]}
        self.__dict__.update(state, _variables=kept)

    # ---- what a subclass says of itself ----

    # Whether weight_decay is taken off all rows before a step (as in AdamW), and not a part of the formula.
    decoupled = True
    ranges = types.MappingProxyType({})  # checks of own arguments, where a name's usual one does not hold
    legacy_keys = None  # own arguments in Keras 2.9, in the order of its config; None: it has no such optimizer
    legacy_decay = 0.0  # what `decay` is in a config of 2.9 that means the same here

    def step(self, ndim=2):
        """The name of the step in `ops.update` for variables of rank `ndim`."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def initial(self):
        """What parts of the state begin with, by name, where it is not 0."""
        return {}

    def hyper(self, t, rate):
        """The hyperparameters of step t = 1, 2, ... with learning rate `rate`, as `ops.update` takes them."""
        own = {name: getattr(self, name) for name in self._own if name in ops.HYPERPARAMETERS}
        return {"learning_rate": rate, **own}

    def begin(self, table_vd, ndim):
        """The optimizer's own numbers and float64 arrays for a new variable of rank `ndim`, by name."""
        return {}

    def passes(self, t, rate, own):
        """Yields (step, hyper) for each pass over the rows of a step, and is sent the sums of that pass, of the last
        one too; `own`: what `begin` returned, to be kept up to date."""
        yield self.step(), self.hyper(t, rate)

    # What a step without a gradient changes of a row (weight decay aside): "nothing", its "state", or its "weights".
    at_rest = "weights"

    def decays(self):
        """What steps without a gradient multiply each part of the state by, in order; None: there is no closed form."""
        return None

    def drift(self, t, rate, n_k1, r_p):
        """How far step t, without a gradient, moves rows that were touched n steps before, in units of the x of
        fe_lapse (rows.h); float64, to be broadcast to (k, p). Here: not at all.

        n_k1: 1, 2, ..., as a column; r_p: values of the r of fe_lapse, as a row.
        """
        return 0.0

    # ---- ----

    @property
    def learning_rate(self):
        """float >= 0, that of the next step; may be set at any time, to a number or a schedule."""
        if isinstance(self._learning_rate, float):
            return self._learning_rate
        return _number("learning_rate", self._learning_rate(self.iterations))

    @learning_rate.setter
    def learning_rate(self, value):
        value = schedules.get(value) if isinstance(value, dict) else value
        self._learning_rate = value if callable(value) else _number("learning_rate", value)

    @property
    def variables(self):
        """The states of the variables seen so far: float32 arrays (rows, state width), the memory itself."""
        return [kept.state_vs for kept in self._variables.values() if kept.state_vs is not None]

    def build(self, variables):
        """Makes the state of `variables` now instead of at their first gradient."""
        with self._lock:
            for variable in variables:
                self._keep(variable)

    def _keep(self, variable):
        kept = self._variables.get(id(variable))
        if kept is None:
            _check_variable(variable)
            ndim = len(variable.shape)
            kept = _Variable(variable, self.step(ndim), self.initial())
            kept.own = self.begin(kept.matrix(), ndim)
            self._variables[id(variable)] = kept
        return kept

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
            TypeError, ValueError: a wrong dtype or shape, a read-only or frozen variable, a variable that comes twice.
            IndexError: an id that is no row. No variable, state or counter has changed then.
        """
        pairs = list(grads_and_vars)
        with contextlib.ExitStack() as locks:
            locks.enter_context(self._lock)
            seen = set()
            for _, variable in pairs:
                _check_variable(variable)
                if id(variable) in seen:
                    raise ValueError(f"a variable must come once; add its gradients (+). Received: {variable!r} twice")
                seen.add(id(variable))
            # Every thread takes the locks of the tables in one order.
            for _, variable in sorted(pairs, key=lambda pair: id(pair[1])):
                if isinstance(variable, Table):
                    locks.enter_context(variable.lock)
            checked = [_check_gradient(gradient, variable) for gradient, variable in pairs]
            kept = [self._keep(variable) for _, variable in pairs]
            rate = self.learning_rate
            self.iterations += 1
            for (gradient, variable), groups, k in zip(pairs, checked, kept, strict=True):
                ((step, hyper),) = self.passes(self.iterations, rate, k.own)
                constraint = getattr(variable, "constraint", None)
                rows = None if constraint is None else constraint.rows
                if isinstance(gradient, IndexedSlices):
                    ops.update(k.matrix(), gradient.parts, step, hyper, k.state_vs, groups, rows)
                else:
                    ops.update_dense(k.matrix(), groups, step, hyper, k.state_vs, rows)
                if constraint is not None and rows is None:
                    constraint.project(k.matrix())

    def get_config(self):
        own = {argument: getattr(self, argument) for argument in self._own}
        return {"name": self.name, "learning_rate": serialization.serialize(self._learning_rate), **self._base, **own}

    def legacy_config(self):
        """The config in the form of Keras 2.9; what 2.9 does not know is in it only where it was set."""
        config = {**self.get_config(), "learning_rate": serialization.serialize(self._learning_rate, version=2)}
        if self.legacy_keys is None:
            return config
        name, rate = config.pop("name"), config.pop("learning_rate")
        base = {key: config[key] for key, neutral in _BASE.items() if config[key] != neutral}
        own = {key: config[key] for key in self.legacy_keys}
        return {"name": name, **base, "learning_rate": rate, "decay": self.legacy_decay, **own}

    def __repr__(self):
        config = {key: value for key, value in self.get_config().items() if key not in self._base or key in self._own}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in config.items())})"

    @classmethod
    def from_config(cls, config):
        """Makes the optimizer of a config of Keras 3, or of Keras 2 without `decay`."""
        config = serialization.arguments_of(config, cls)
        decay = config.pop("decay", None)  # Keras 2
        if decay and decay != cls.legacy_decay:
            raise ValueError(f"`decay` must be {cls.legacy_decay or 0}. Received: decay={decay!r}")
        return super().from_config(config)


def _check_variable(variable):
    """A table or array that can be updated in place."""
    if isinstance(variable, Table):
        if not variable.trainable:
            raise ValueError(f"a variable must be trainable. Received: {variable!r} with trainable=False")
        ops.check_table(variable.numpy(), "variable", writeable=True)
        return
    if not isinstance(variable, np.ndarray):
        raise TypeError(f"a variable must be a Table or a NumPy array. Received: {type(variable).__name__}")
    flags = variable.flags
    if variable.dtype != np.float32 or not (flags.c_contiguous and flags.aligned and flags.writeable):
        raise ValueError(
            "a variable must be a writeable C-contiguous float32 array. Received: "
            f"{variable.dtype} of shape {variable.shape}, strides {variable.strides}, writeable={flags.writeable}"
        )


def _check_gradient(gradient, variable):
    """The groups of a row-sparse gradient, or a dense one as a float32 matrix."""
    if isinstance(gradient, IndexedSlices):
        if tuple(variable.shape) != gradient.dense_shape:
            raise ValueError(
                f"a gradient must have its variable's shape, {tuple(variable.shape)}. Received: {gradient!r}"
            )
        return ops.group(gradient.parts, gradient.dense_shape[0])
    if gradient is None:
        raise ValueError("a gradient must be an IndexedSlices or an array. Received: None")
    return _matrix(ops.check_floats(gradient, variable.shape, "gradient"))


def _matrix(array):
    """An array of any rank as a matrix whose rows are its last axis; a view."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1] if array.ndim else 1)


# ---- checks of the arguments, by name --------------------------------------------------------------------------------


def _number(name, value, below=None):
    """A float >= 0 (and < below)."""
    return float(serialization.check_number(value, name, 0, below))


def _fraction(name, value):
    """A float in [0, 1)."""
    return _number(name, value, below=1)


def number_in(above=None, most=None):
    """A check for floats > above and <= most."""

    def check(name, value):
        number = float(serialization.check_number(value, name))
        if (above is not None and number <= above) or (most is not None and number > most):
            rules = [f"greater than {above}"] * (above is not None) + [f"at most {most}"] * (most is not None)
            raise ValueError(f"`{name}` must be {' and '.join(rules)}. Received: {name}={value!r}")
        return number

    return check


def _flag(name, value):
    """A bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


_CHECKS = {
    "momentum": _fraction,
    "nesterov": _flag,
    "initial_accumulator_value": _number,
    "epsilon": _number,
    "beta_1": _fraction,
    "beta_2": _fraction,
    "rho": _fraction,
    "amsgrad": _flag,
    "centered": _flag,
    # Ftrl
    "learning_rate_power": number_in(most=0),
    "l1_regularization_strength": _number,
    "l2_regularization_strength": _number,
    "l2_shrinkage_regularization_strength": _number,
    "beta": _number,
    # Adafactor
    "beta_2_decay": number_in(most=0),
    "epsilon_1": _number,
    "epsilon_2": _number,
    "clip_threshold": number_in(above=0),
    "relative_step": _flag,
    # the row-wise ones
    "eta": _number,
    "weight_decay": _number,
}
