"""Optimizers as data: a name, hyperparameters, and which step of `ops.update` they take.

May import: ops, slices, table, schedules, serialization, threads. Do not break: `apply_gradients` checks everything
before the first write, and only rows that a gradient touches change, state included (the arithmetic is in
_rows/rows_impl.h).
"""

import contextlib
import math

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

    def __init__(self, variable, step, initial_state):
        self.variable = variable
        table_vd = self.matrix()
        width = ops.state_width(step, table_vd.shape[1])
        self.state_vs = None
        if width:
            self.state_vs = ops.zeros((len(table_vd), width))
            # All threads touch the pages now, so that no step pays for it.
            ops.fill(self.state_vs, "row", row=np.full(width, initial_state, np.float32))

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

    def __init__(self, learning_rate, name, base):
        self.learning_rate = learning_rate
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

    # What a subclass says of itself.
    initial_state = 0.0

    def step(self):
        """The name of the step in `ops.update`."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def hyper(self, rate):
        """The hyperparameters of step `iterations` with learning rate `rate`, as `ops.update` takes them."""
        return {"learning_rate": rate}

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
            kept = self._variables[id(variable)] = _Variable(variable, self.step(), self.initial_state)
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
            step, hyper = self.step(), self.hyper(rate)
            for (gradient, variable), groups, k in zip(pairs, checked, kept, strict=True):
                constraint = getattr(variable, "constraint", None)
                rows = None if constraint is None else constraint.rows
                if isinstance(gradient, IndexedSlices):
                    ops.update(k.matrix(), gradient.parts, step, hyper, k.state_vs, groups, rows)
                else:
                    ops.update_dense(k.matrix(), groups, step, hyper, k.state_vs, rows)
                if constraint is not None and rows is None:
                    constraint.project(k.matrix())

    def get_config(self):
        return {"name": self.name, "learning_rate": serialization.serialize(self._learning_rate), **self._base}

    def __repr__(self):
        config = {key: value for key, value in self.get_config().items() if key not in self._base}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in config.items())})"

    @classmethod
    def from_config(cls, config):
        """Makes the optimizer of a config of Keras 3, or of Keras 2 without `decay`."""
        config = serialization.arguments_of(config, cls)
        decay = config.pop("decay", None)  # Keras 2
        if decay:
            raise ValueError(f"`decay` must be 0. Received: decay={decay!r}")
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


def _number(name, value, below=None):
    """A float >= 0 (and < below)."""
    return float(serialization.check_number(value, name, 0, below))


class SGD(Optimizer):
    """Gradient descent, with momentum if asked.

        w -= lr g;   with momentum:  m = mu m - lr g,  w += m   (nesterov:  w += mu m - lr g)

    Args:
        learning_rate: float, or a schedule.
        momentum: float in [0, 1). The state of an untouched row stays as it is.
        nesterov: bool.

    Source: keras.optimizers.SGD.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.SGD(0.5).apply_gradients([(np.ones(2), w)])
        >>> w
        array([-0.5, -0.5], dtype=float32)
    """

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, name=None, **base):
        super().__init__(learning_rate, name, base)
        self.momentum = _number("momentum", momentum, below=1)
        if not isinstance(nesterov, (bool, np.bool_)):
            raise TypeError(f"`nesterov` must be True or False. Received: nesterov={nesterov!r}")
        self.nesterov = bool(nesterov)

    def step(self):
        if not self.momentum:
            return "sgd"
        return "nesterov" if self.nesterov else "momentum"

    def hyper(self, rate):
        return {"learning_rate": rate, "momentum": self.momentum}

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


class Adagrad(Optimizer):
    """a += g^2,  w -= lr g / sqrt(a + epsilon)

    Args:
        learning_rate: float, or a schedule.
        initial_accumulator_value: float, a at the beginning.
        epsilon: float.

    Source: keras.optimizers.Adagrad.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Adagrad(1.0, initial_accumulator_value=3.0).apply_gradients([(np.ones(2), w)])
        >>> w
        array([-0.5, -0.5], dtype=float32)
    """

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.1, epsilon=1e-7, name=None, **base):
        super().__init__(learning_rate, name, base)
        self.initial_accumulator_value = _number("initial_accumulator_value", initial_accumulator_value)
        self.epsilon = _number("epsilon", epsilon)

    @property
    def initial_state(self):
        return self.initial_accumulator_value

    def step(self):
        return "adagrad"

    def hyper(self, rate):
        return {"learning_rate": rate, "epsilon": self.epsilon}

    def get_config(self):
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }


class RowwiseAdagrad(Adagrad):
    """Adagrad with one accumulator a row:  a += mean(g^2),  w -= lr g / (sqrt(a) + epsilon)

    A table of v rows needs v floats of state instead of v x d.

    Args:
        learning_rate: float, or a schedule.
        initial_accumulator_value: float, a at the beginning.
        epsilon: float.

    Source: FBGEMM's EXACT_ROWWISE_ADAGRAD.

    Example:
        >>> layer = fastembed.Embedding(100, 8)
        >>> optimizer = fastembed.optimizers.RowwiseAdagrad(0.1)
        >>> optimizer.build([layer.embeddings])
        >>> optimizer.variables[0].shape
        (100, 1)
    """

    keras_module = "fastembed.optimizers"

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.0, epsilon=1e-8, name=None, **base):
        super().__init__(learning_rate, initial_accumulator_value, epsilon, name, **base)

    def step(self):
        return "rowwise_adagrad"


class Adam(Optimizer):
    """Adam on touched rows (t counts the optimizer's steps, not the row's):

        m += (g - m)(1 - beta_1),  v += (g^2 - v)(1 - beta_2)
        w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    Args:
        learning_rate: float, or a schedule.
        epsilon: float.
        beta_1, beta_2: floats in [0, 1).
        amsgrad: False (the other is not there yet).

    Source: keras.optimizers.Adam; on a row-sparse gradient, torch.optim.SparseAdam.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Adam(0.5).apply_gradients([(np.ones(2), w)])
        >>> w.round(4)
        array([-0.5, -0.5], dtype=float32)
    """

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False, name=None, **base):
        super().__init__(learning_rate, name, base)
        if amsgrad is not False:
            raise ValueError(f"`amsgrad` must be False in this version. Received: amsgrad={amsgrad!r}")
        self.beta_1 = _number("beta_1", beta_1, below=1)
        self.beta_2 = _number("beta_2", beta_2, below=1)
        self.epsilon = _number("epsilon", epsilon)

    def step(self):
        return "adam"

    def hyper(self, rate):
        t = self.iterations
        beta_1, beta_2 = float(np.float32(self.beta_1)), float(np.float32(self.beta_2))  # as the step rounds them
        corrected = rate * (1 - beta_2**t) ** 0.5 / (1 - beta_1**t)
        return {
            "learning_rate": corrected,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "amsgrad": False,
        }


_CLASSES = {cls.__name__: cls for cls in (SGD, Adagrad, RowwiseAdagrad, Adam)}
_ALIASES = {"rowwise_adagrad": "RowwiseAdagrad", **{name.lower(): name for name in _CLASSES}}
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
