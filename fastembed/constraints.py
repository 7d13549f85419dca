"""Constraints: what a table has to satisfy after each update.

May import: ops, serialization. Do not break: a constraint on rows has `rows`, which the update applies to the rows that
it touches; any other one goes over the whole table, as in Keras.
"""

import math
import warnings

import numpy as np

from fastembed import ops, serialization

_BLOCK = 1 << 20  # elements of a table that NumPy looks at at once


class Constraint(serialization.Configurable):
    """Base class. A constraint of your own has `__call__(w)`, which returns the projected array."""

    keras_module = "keras.constraints"

    @property
    def rows(self):
        """The `ops.RowConstraint` of a constraint on each row alone; None for one on the whole table."""
        return None

    def __call__(self, w):
        """Returns the projection of an array."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def project(self, table_vd):
        """Projects a float32 or float64 matrix in place, whole."""
        values = np.asarray(self(table_vd))
        if values.shape != table_vd.shape or values.dtype.kind not in "fiu":
            raise ValueError(
                f"a constraint must return numbers of shape {table_vd.shape}. Received: {values.dtype} of shape "
                f"{values.shape}"
            )
        table_vd[...] = values

    def enforce(self, table_vd):
        """Projects a float32 or float64 matrix in place, whole, if it breaks the constraint by more than rounding."""
        if self.rows is not None:
            ops.constrain(table_vd, self.rows)
        else:
            self.project(table_vd)

    def get_config(self):
        return {}


class NonNeg(Constraint):
    """max(w, 0)

    Source: keras.constraints.NonNeg.

    Example:
        >>> fastembed.constraints.NonNeg()(np.array([-1.0, 2.0], "float32"))
        array([0., 2.], dtype=float32)
    """

    @property
    def rows(self):
        return ops.RowConstraint(ops.NON_NEG)

    def __call__(self, w):
        return np.maximum(w, 0)


class _Norm(Constraint):
    """w *= wanted / (1e-7 + norm), wanted = rate clip(norm, low, high) + (1 - rate) norm; norms along `axis`."""

    low, high, rate = 0.0, math.inf, 1.0

    def _set_axis(self, axis):
        axes = axis if isinstance(axis, (list, tuple)) else [axis]
        if axis is not None and not all(
            isinstance(a, (int, np.integer)) and not isinstance(a, bool) and -8 <= a < 8 for a in axes
        ):
            raise ValueError(f"`axis` must be an integer, a list of them or None. Received: axis={axis!r}")
        self.axis = [int(a) for a in axis] if isinstance(axis, (list, tuple)) else None if axis is None else int(axis)

    @property
    def _axes(self):
        if self.axis is None:
            return (0, 1)
        return tuple(self.axis) if isinstance(self.axis, list) else (self.axis,)

    @property
    def _of_table(self):
        """The axes, of a matrix: (0,), (1,) or (0, 1)."""
        axes = tuple(sorted(axis % 2 for axis in self._axes if -2 <= axis < 2))
        if not axes or len(axes) != len(self._axes) or len(set(axes)) != len(axes):
            raise ValueError(f"`axis` must be 0, 1 or [0, 1] for a table, or these less 2. Received: axis={self.axis}")
        return axes

    @property
    def rows(self):
        return ops.RowConstraint(ops.NORM, self.low, self.high, self.rate) if self._of_table == (1,) else None

    def _factor(self, norms, dtype):
        wanted = np.clip(norms, self.low, self.high)
        with np.errstate(invalid="ignore"):
            if self.rate != 1:
                wanted = self.rate * wanted + (1 - self.rate) * norms
            return (wanted / (1e-7 + norms)).astype(dtype)

    def __call__(self, w):
        w = np.asarray(w)
        axes = None if self.axis is None else self._axes
        norms = np.sqrt(np.sum(np.square(w, dtype=np.float64), axis=axes, keepdims=True))
        return w * self._factor(norms, np.result_type(w, np.float32))

    def _blocks(self, table_vd):
        size = max(1, _BLOCK // table_vd.shape[1])
        return (table_vd[start : start + size] for start in range(0, len(table_vd), size))

    def _squares(self, table_vd):
        """The squared norms (1, d) of the columns, or (1, 1) of the whole."""
        squares = np.zeros((1, table_vd.shape[1]))
        for block in self._blocks(table_vd):
            squares += np.square(block, dtype=np.float64).sum(0)
        return squares.sum(keepdims=True) if self._of_table == (0, 1) else squares

    def project(self, table_vd):
        if self.rows is not None:
            ops.project(table_vd, self.rows)
            return
        factor = self._factor(np.sqrt(self._squares(table_vd)), table_vd.dtype)
        for block in self._blocks(table_vd):
            with np.errstate(invalid="ignore"):
                block *= factor

    def enforce(self, table_vd):
        if self.rows is not None:
            ops.constrain(table_vd, self.rows)
            return
        norms = np.sqrt(self._squares(table_vd))
        if ((norms > 0) & (norms < self.low * (1 - 1e-5))).any() or (norms > self.high * (1 + 1e-5)).any():
            self.project(table_vd)


class MaxNorm(_Norm):
    """Norms of at most max_value:  w *= clip(norm, 0, max_value) / (1e-7 + norm)

    Args:
        max_value: float >= 0.
        axis: int or list of ints, along which norms are taken. 1: each row has one, which is what a table of embeddings
            wants. 0 (Keras's default): each column has one, and every update goes over the whole table. None or [0, 1]:
            one of the whole table.

    Raises:
        ValueError: wrong values.

    Source: keras.constraints.MaxNorm.

    Example:
        >>> fastembed.constraints.MaxNorm(1.0, axis=1)(np.array([[3.0, 4.0]], "float32"))
        array([[0.6, 0.8]], dtype=float32)
    """

    def __init__(self, max_value=2, axis=0):
        self.max_value = self.high = serialization.check_number(max_value, "max_value", 0)
        self._set_axis(axis)

    def get_config(self):
        return {"max_value": self.max_value, "axis": self.axis}


class UnitNorm(_Norm):
    """Norms of 1:  w /= 1e-7 + norm

    Args:
        axis: as in `MaxNorm`.

    Source: keras.constraints.UnitNorm.

    Example:
        >>> fastembed.constraints.UnitNorm(axis=1)(np.array([[3.0, 4.0]], "float32"))
        array([[0.6, 0.8]], dtype=float32)
    """

    low = high = 1.0

    def __init__(self, axis=0):
        self._set_axis(axis)

    def get_config(self):
        return {"axis": self.axis}


class MinMaxNorm(_Norm):
    """Norms between two values:  w *= (rate clip(norm, min_value, max_value) + (1 - rate) norm) / (1e-7 + norm)

    Args:
        min_value, max_value: floats >= 0.
        rate: float in [0, 1]; 1 enforces the bounds at once, less moves towards them.
        axis: as in `MaxNorm`.

    Source: keras.constraints.MinMaxNorm.

    Example:
        >>> fastembed.constraints.MinMaxNorm(1.0, 2.0, axis=1)(np.array([[0.3, 0.4]], "float32")).round(3)
        array([[0.6, 0.8]], dtype=float32)
    """

    def __init__(self, min_value=0.0, max_value=1.0, rate=1.0, axis=0):
        self.min_value = self.low = serialization.check_number(min_value, "min_value", 0)
        self.max_value = self.high = serialization.check_number(max_value, "max_value", 0)
        self.rate = serialization.check_number(rate, "rate", 0)
        self._set_axis(axis)

    def get_config(self):
        return {"min_value": self.min_value, "max_value": self.max_value, "rate": self.rate, "axis": self.axis}


# Keras's other names of the classes.
max_norm, min_max_norm, non_neg, unit_norm = MaxNorm, MinMaxNorm, NonNeg, UnitNorm


class _Function(Constraint):
    """A function of one's own as a constraint on the whole table."""

    def __init__(self, function):
        self._function = function

    def __call__(self, w):
        return self._function(w)


def for_table(constraint):
    """What a `Table` needs of a constraint, from any callable; None stays None."""
    return constraint if constraint is None or isinstance(constraint, Constraint) else _Function(constraint)


def warn_of_columns(constraint):
    """Warns of a constraint that makes every update go over the whole table, as Keras's default axis does."""
    if isinstance(constraint, _Norm) and constraint.rows is None:
        warnings.warn(
            f"{constraint!r} takes norms over all rows of the table, so every update rescales the whole table. To "
            "constrain each embedding, which is probably what you want, use axis=1.",
            stacklevel=3,
        )


_CLASSES = {cls.__name__: cls for cls in (MaxNorm, MinMaxNorm, NonNeg, UnitNorm)}
_ALIASES = {
    "max_norm": "MaxNorm",
    "maxnorm": "MaxNorm",
    "min_max_norm": "MinMaxNorm",
    "non_neg": "NonNeg",
    "nonneg": "NonNeg",
    "unit_norm": "UnitNorm",
    "unitnorm": "UnitNorm",
}
serialization.know("constraint", _CLASSES, _ALIASES)


def get(identifier):
    """Returns a constraint for a Keras name ("non_neg"), class, config, callable or instance; None stays None.

    Raises:
        ValueError, TypeError: if nothing goes by that name.

    Example:
        >>> fastembed.constraints.get("max_norm")
        MaxNorm(max_value=2, axis=0)
    """
    return serialization.get(identifier, "constraint")
