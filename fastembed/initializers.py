"""Initializers: what a new table holds. Keras identifiers; values come in parallel from a counter-based generator.

May import: ops, serialization. Do not break: the same seed gives the same bits for any number of threads, on every
instruction set, and row r does not depend on how many rows there are.
"""

import numbers

import numpy as np

from fastembed import ops, serialization

_LARGEST = float(np.finfo(np.float32).max)
_seeds = None  # made when it is needed: importing numpy.random takes as long as all of this package


def set_random_seed(seed):
    """Makes every later initializer without a seed of its own reproducible.

    Args:
        seed: int >= 0.

    Example:
        >>> fastembed.set_random_seed(7)
        >>> a = fastembed.Embedding(10, 4)(3)
        >>> fastembed.set_random_seed(7)
        >>> bool((a == fastembed.Embedding(10, 4)(3)).all())
        True
    """
    global _seeds
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0. Received: seed={seed!r}")
    _seeds = np.random.default_rng(int(seed))


def _random_key():
    """The next seed for an initializer that was given none."""
    global _seeds
    if _seeds is None:
        _seeds = np.random.default_rng()
    return int(_seeds.integers(2**63))


class Initializer(serialization.Configurable):
    """Base class: `fill(table, first_row)` writes a float32 matrix in place; calling it makes a new array."""

    keras_module = "keras.initializers"

    def __call__(self, shape, dtype="float32"):
        """Returns a new array of `shape`; rows run along the first dimension."""
        if np.dtype(dtype) != np.float32:
            raise TypeError(f"`dtype` must be 'float32'. Received: dtype={dtype!r}")
        shape = tuple(int(n) for n in shape)
        rows = shape[0] if shape else 1
        array_vd = ops.zeros((rows, int(np.prod(shape[1:], dtype=np.int64))))
        self.fill(array_vd)
        return array_vd.reshape(shape)

    def fill(self, table_vd, first_row=0):
        """Writes rows first_row, first_row + 1, ... into a float32 matrix."""
        raise NotImplementedError(f"{type(self).__name__} has no fill")


class Constant(Initializer):
    """Every element is `value`.

    Example:
        >>> fastembed.initializers.Constant(2.0)((1, 3))
        array([[2., 2., 2.]], dtype=float32)
    """

    def __init__(self, value=0.0):
        self.value = float(value)

    def fill(self, table_vd, first_row=0):
        ops.fill(table_vd, "row", row=np.full(table_vd.shape[1], self.value, np.float32))

    def get_config(self):
        return {"value": self.value}


class Zeros(Constant):
    """Every element is 0."""

    def __init__(self):
        super().__init__(0.0)

    def get_config(self):
        return {}


class Ones(Constant):
    """Every element is 1."""

    def __init__(self):
        super().__init__(1.0)

    def get_config(self):
        return {}


class _Random(Initializer):
    """A seeded initializer: the same values at every call, as in Keras 3. seed None: a seed of its own."""

    def _set_seed(self, seed):
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, numbers.Integral)):
            raise ValueError(f"`seed` must be an integer or None. Received: seed={seed!r}")
        self.seed = None if seed is None else int(seed)
        self._key = _random_key() if seed is None else self.seed


class RandomUniform(_Random):
    """Uniform in [minval, maxval), in steps of 2^-24 of the range.

    Args:
        minval, maxval: floats, minval <= maxval.
        seed: int or None.

    Source: Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3; 2011).

    Example:
        >>> fastembed.initializers.RandomUniform(seed=1)((10, 4)).shape
        (10, 4)
    """

    def __init__(self, minval=-0.05, maxval=0.05, seed=None):
        self.minval, self.maxval = float(minval), float(maxval)
        if not (self.minval <= self.maxval and abs(self.minval) + abs(self.maxval) < _LARGEST):
            raise ValueError(
                "`minval` must not exceed `maxval`, and their distance must fit float32. Received: "
                f"minval={minval!r}, maxval={maxval!r}"
            )
        self._set_seed(seed)

    def fill(self, table_vd, first_row=0):
        ops.fill(table_vd, "uniform", self.minval, self.maxval, self._key, first_row)

    def get_config(self):
        return {"seed": self.seed, "minval": self.minval, "maxval": self.maxval}


class RandomNormal(_Random):
    """Normal with the given mean and standard deviation, by the quantile of 32 random bits.

    Args:
        mean, stddev: floats, stddev >= 0.
        seed: int or None.

    Source: quantile by Wichura, Algorithm AS 241 (1988).

    Example:
        >>> fastembed.initializers.RandomNormal(stddev=1.0, seed=1)((10, 4)).shape
        (10, 4)
    """

    def __init__(self, mean=0.0, stddev=0.05, seed=None):
        self.mean, self.stddev = float(mean), float(stddev)
        if not (self.stddev >= 0 and abs(self.mean) + 7 * self.stddev < _LARGEST):
            raise ValueError(
                f"`stddev` must be at least 0, and values must fit float32. Received: mean={mean!r}, stddev={stddev!r}"
            )
        self._set_seed(seed)

    def fill(self, table_vd, first_row=0):
        ops.fill(table_vd, "normal", self.mean, self.stddev, self._key, first_row)

    def get_config(self):
        return {"seed": self.seed, "mean": self.mean, "stddev": self.stddev}


_CLASSES = {cls.__name__: cls for cls in (Constant, Zeros, Ones, RandomUniform, RandomNormal)}
_ALIASES = {
    "constant": "Constant",
    "zeros": "Zeros",
    "zero": "Zeros",
    "ones": "Ones",
    "one": "Ones",
    "uniform": "RandomUniform",
    "random_uniform": "RandomUniform",
    "normal": "RandomNormal",
    "random_normal": "RandomNormal",
}
serialization.know("initializer", _CLASSES, _ALIASES)


def get(identifier):
    """Returns an initializer for a Keras name ("uniform"), class, config or instance; None stays None.

    Raises:
        ValueError, TypeError: if nothing goes by that name.

    Example:
        >>> fastembed.initializers.get("uniform")
        RandomUniform(seed=None, minval=-0.05, maxval=0.05)
    """
    return serialization.get(identifier, "initializer")
