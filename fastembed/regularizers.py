"""Regularizers: penalties on a table or on a layer's output, and their gradients.

May import: ops, serialization. Do not break: a table is read in blocks, in parallel where it is large; no second table
is made, except by `gradient`, whose result is one.
"""

import math

import numpy as np

from fastembed import ops, serialization

_BLOCK = 1 << 22  # cosines, or elements of a table, that are looked at at once


class Regularizer(serialization.Configurable):
    """Base class. A regularizer of your own has `__call__(x)` -> number and `gradient(x)` -> array like x."""

    keras_module = "keras.regularizers"

    def __call__(self, x):
        """Returns the penalty of an array."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def gradient(self, x):
        """Returns the penalty's gradient in the shape of x: float32, of float64 float64."""
        raise NotImplementedError(f"{type(self).__name__} has no gradient")

    def rows_gradient(self, x, rows):
        """Returns rows of `gradient(x)`."""
        return self.gradient(x)[rows]


class L1L2(Regularizer):
    """l1 sum |x| + l2 sum x^2

    Args:
        l1, l2: floats >= 0; None is 0.

    Raises:
        ValueError: a factor that is negative or no finite number.

    Source: keras.regularizers.L1L2.

    Example:
        >>> regularizer = fastembed.regularizers.L1L2(l1=1.0, l2=10.0)
        >>> regularizer(np.array([[1.0, -2.0]]))
        53.0
        >>> regularizer.gradient(np.array([[1.0, -2.0]], "float32"))
        array([[ 21., -41.]], dtype=float32)
    """

    of_elements = True  # a sum over elements: rows need no other rows

    def __init__(self, l1=0.0, l2=0.0):
        self.l1 = _factor("l1", l1, 0.0)
        self.l2 = _factor("l2", l2, 0.0)

    def __call__(self, x):
        """x: an array, or the `ops.Rows` of a table."""
        magnitudes, squares = ops.sums(x)
        return (self.l1 and self.l1 * magnitudes) + (self.l2 and self.l2 * squares)  # 0 x infinity is 0 here

    def gradient(self, x):
        x = _as_real(x)
        gradient = x.dtype.type(2 * self.l2) * x
        if self.l1:
            gradient += x.dtype.type(self.l1) * np.sign(x)
        return gradient

    def rows_gradient(self, x, rows):
        return self.gradient(np.asarray(x)[rows])

    def get_config(self):
        return {"l1": self.l1, "l2": self.l2}

    def legacy_config(self):
        return {key: _float32(value) for key, value in self.get_config().items()}


class L1(L1L2):
    """l1 sum |x|

    Args:
        l1: float >= 0; `l` in Keras 2.

    Source: keras.regularizers.L1.

    Example:
        >>> fastembed.regularizers.L1(0.5)(np.array([1.0, -3.0]))
        2.0
    """

    def __init__(self, l1=0.01, **old):
        super().__init__(l1=_factor("l1", _old_name(old, l1), 0.01))

    def get_config(self):
        return {"l1": _float32(self.l1)}  # as Keras 3 rounds it, though not in L2


class L2(L1L2):
    """l2 sum x^2

    Args:
        l2: float >= 0; `l` in Keras 2.

    Source: keras.regularizers.L2.

    Example:
        >>> fastembed.regularizers.L2(0.5)(np.array([1.0, -3.0]))
        5.0
    """

    def __init__(self, l2=0.01, **old):
        super().__init__(l2=_factor("l2", _old_name(old, l2), 0.01))

    def get_config(self):
        return {"l2": self.l2}


class OrthogonalRegularizer(Regularizer):
    """factor times the mean of |cosine| over all pairs of rows (or columns).

    Rows of a large table are very many pairs: as in Keras, the cost grows with their square.

    Args:
        factor: float >= 0.
        mode: "rows" or "columns".

    Raises:
        ValueError: a wrong factor or mode, or (when called) an array that is no matrix.

    Source: keras.regularizers.OrthogonalRegularizer (Keras 3; in 2.9 the cosines have their signs).

    Example:
        >>> regularizer = fastembed.regularizers.OrthogonalRegularizer(factor=1.0)
        >>> round(regularizer(np.array([[1.0, 0.0], [-1.0, 1.0]])), 4)
        0.7071
    """

    def __init__(self, factor=0.01, mode="rows"):
        self.factor = _factor("factor", factor, 0.01)
        if mode not in ("rows", "columns"):
            raise ValueError(f"`mode` must be 'rows' or 'columns'. Received: mode={mode!r}")
        self.mode = mode

    def __call__(self, x):
        x = _check_matrix(x)
        if self.mode == "columns":
            cosines, _ = _column_cosines(x)
            total = np.abs(cosines).sum()
        else:
            norms = _row_norms(x)
            blocks = (_row_cosines(x, norms, rows) for rows in _blocks(np.arange(len(x)), len(x)))
            total = sum(np.abs(cosines).sum(dtype=np.float64) for cosines in blocks)
        return float(self._weight(x) * total)

    def gradient(self, x):
        return self.rows_gradient(x, np.arange(len(x)))

    def rows_gradient(self, x, rows):
        x = _as_real(_check_matrix(x))
        real = x.dtype.type
        weight = real(2 * self._weight(x))
        if self.mode == "columns":
            cosines, norms = _column_cosines(x)
            signs = np.sign(cosines)
            pull = real(signs / norms[:, None] / norms)
            some = x[rows]
            return weight * (some @ pull - some * real((signs * cosines).sum(0) / norms**2))
        gradient = np.empty((len(rows), x.shape[1]), x.dtype)
        norms, done = _row_norms(x), 0
        for some in _blocks(np.asarray(rows), len(x)):
            cosines = _row_cosines(x, norms, some)
            signs, own = np.sign(cosines), norms[some, None]
            pull = (signs / norms) @ x / own - x[some] * ((signs * cosines).sum(1, keepdims=True) / own**2)
            gradient[done : done + len(some)] = weight * pull
            done += len(some)
        return gradient

    def _weight(self, x):
        size = x.shape[0 if self.mode == "rows" else 1]
        return self.factor * 0.5 / (size * (size - 1) / 2) if size > 1 else math.nan  # 0 / 0 in Keras

    def get_config(self):
        return {"factor": _float32(self.factor), "mode": self.mode}


def _as_real(x):
    """An array as float32, or float64 if it is that."""
    x = np.asarray(x)
    return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)


def _check_matrix(x):
    x = np.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"an array for OrthogonalRegularizer must be a matrix. Received: shape {x.shape}")
    return x


def _row_norms(x):
    """The length of each row, 1 for a zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", x, x))
    norms[norms == 0] = 1
    return norms


def _row_cosines(x, norms, rows):
    """Between some of the rows and all; 0 of a row with itself."""
    cosines = x[rows] @ x.T / (norms[rows, None] * norms)
    cosines[np.arange(len(rows)), rows] = 0
    return cosines


def _column_cosines(x):
    """Between all columns, 0 of a column with itself; and their lengths, 1 for a zero. Sums of blocks are float64."""
    gram = np.zeros((x.shape[1], x.shape[1]))
    size = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x), size):
        block = x[start : start + size]
        gram += block.T @ block
    norms = np.sqrt(np.diag(gram))
    norms[norms == 0] = 1
    cosines = gram / (norms[:, None] * norms)
    np.fill_diagonal(cosines, 0)
    return cosines, norms


def _blocks(rows, width):
    """`rows` in pieces, so that a matrix with a row for each and `width` columns stays small."""
    size = max(1, _BLOCK // max(1, width))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _old_name(old, value):
    """A factor, which Keras 2 also took as `l`."""
    if set(old) - {"l"}:
        raise TypeError(f"a regularizer takes its factors alone. Received: {sorted(old)}")
    return old.get("l", value)


def _float32(value):
    return float(np.float32(value))


def _factor(name, value, default):
    """A float >= 0; None is the default."""
    return default if value is None else float(serialization.check_number(value, name, 0))


def l1_l2(l1=0.01, l2=0.01):
    """Returns L1L2, with Keras 2's defaults for the name "l1_l2".

    Args:
        l1, l2: floats >= 0.

    Example:
        >>> fastembed.regularizers.l1_l2()
        L1L2(l1=0.01, l2=0.01)
    """
    return L1L2(l1, l2)


# Keras's other names of the classes.
l1, l2, orthogonal_regularizer = L1, L2, OrthogonalRegularizer

_CLASSES = {cls.__name__: cls for cls in (L1, L2, L1L2, OrthogonalRegularizer)}
_ALIASES = {
    "l1": "L1",
    "l2": "L2",
    "l1l2": "L1L2",
    "orthogonal_regularizer": "OrthogonalRegularizer",
}
serialization.know("regularizer", _CLASSES, _ALIASES)


def get(identifier):
    """Returns a regularizer for a Keras name ("l2"), class, config, callable or instance; None stays None.

    Raises:
        ValueError, TypeError: if nothing goes by that name.

    Example:
        >>> fastembed.regularizers.get("l2")
        L2(l2=0.01)
    """
    if isinstance(identifier, str) and identifier == "l1_l2":
        return l1_l2()
    if isinstance(identifier, dict) and identifier.get("class_name") == "l1_l2":
        config = {"l1": 0.01, "l2": 0.01, **(identifier.get("config") or {})}
        identifier = {**identifier, "class_name": "L1L2", "config": config}
    return serialization.get(identifier, "regularizer")
