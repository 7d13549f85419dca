"""What all initializers share: the base class, seeds, and the checks of their arguments.

May import: ops, serialization, threads. Do not break: the same seed gives the same bits for any number of threads, on
every instruction set; where `row_wise` is True, rows may be filled in pieces.
"""

import copy
import math
import numbers
import operator

import numpy as np

from fastembed import ops, serialization
from fastembed.threads import Lock

_GOLDEN = 0x9E3779B97F4A7C15  # from one key of a SeedGenerator to its next
_seeds = None  # made when it is needed: importing numpy.random takes as long as all of this package
_lock = Lock()  # two threads never get the same seed


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
    seeds = np.random.default_rng(int(seed))
    with _lock:
        _seeds = seeds


def random_state():
    """The generator that set_random_seed made, or None."""
    return _seeds


def set_random_state(generator):
    """Becomes what random_state() gave."""
    global _seeds
    with _lock:
        _seeds = generator


def _random_key():
    """The next seed for an initializer that was given none."""
    global _seeds
    with _lock:
        if _seeds is None:
            _seeds = np.random.default_rng()
        return int(_seeds.integers(2**63))


# ---- checks --------------------------------------------------------------------------------------------------------


def check_shape(shape):
    """A shape as a tuple of ints of at least 0."""
    try:
        sizes = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise TypeError(f"`shape` must be a tuple of integers. Received: shape={shape!r}") from None
    if any(n < 0 for n in sizes):
        raise ValueError(f"`shape` must have sizes of at least 0. Received: shape={shape!r}")
    return sizes


def check_seed(seed):
    """(what a config holds, the key it starts from or None, whether every call gets other values)."""
    if seed is None:
        return None, None, False
    if isinstance(seed, numbers.Integral) and not isinstance(seed, bool):
        return int(seed), int(seed), False
    if type(seed).__name__ == "SeedGenerator" and hasattr(seed, "get_config"):  # Keras's own object
        seed = {"class_name": "SeedGenerator", "config": seed.get_config()}
    if not isinstance(seed, dict) or seed.get("class_name") != "SeedGenerator":
        raise ValueError(f"`seed` must be an integer, None or a config of a SeedGenerator. Received: seed={seed!r}")
    config = seed.get("config")
    start = config.get("seed") if isinstance(config, dict) else seed
    known = isinstance(config, dict) and set(config) <= {"seed", "name"}
    if not known or isinstance(start, bool) or not isinstance(start, (int, type(None))):
        raise ValueError(
            "`seed` must have, as the config of a SeedGenerator, 'seed', an integer or None, and 'name'. Received: "
            f"seed={seed!r}"
        )
    envelope = {"module": "keras.random", "class_name": "SeedGenerator", "config": config, "registered_name": None}
    return envelope, start, True


# ---- classes -------------------------------------------------------------------------------------------------------


class Initializer(serialization.Configurable):
    """Base class: `fill(table)` writes a table in place; calling it makes a new array.

    Random values are float32 numbers, so a seed gives the same values in tables of float64; constants, and what
    `Orthogonal` makes of random values, are as exact there as float64 is.

    A subclass of yours needs `__call__(shape, dtype=None)`, which returns an array, and `get_config` if its constructor
    takes arguments, as in Keras.

    Example:
        >>> class Halves(fastembed.initializers.Initializer):
        ...     def __call__(self, shape, dtype=None):
        ...         return np.full(shape, 0.5, dtype)
        >>> fastembed.Embedding(10, 2, embeddings_initializer=Halves())(3)
        array([0.5, 0.5], dtype=float32)
    """

    keras_module = "keras.initializers"
    legacy_keys = None  # the keys of its config in Keras 2.9, in order; None: those of get_config
    row_wise = True  # False: it fills whole tables only
    scales_by_length = False  # True: what a row's random numbers are multiplied by depends on the number of rows

    def __call__(self, shape, dtype=None):
        """Returns a new array.

        Args:
            shape: tuple of ints; rows run along the first dimension.
            dtype: "float32", "float64", or None for float32.

        Raises:
            TypeError, ValueError: another dtype; no shape, or one that this initializer does not make.
        """
        name = "float32" if dtype is None else np.dtype(dtype).name
        if name not in ("float32", "float64"):
            raise TypeError(f"`dtype` must be 'float32' or 'float64'. Received: dtype={dtype!r}")
        shape = check_shape(shape)
        array_vd = ops.zeros((shape[0] if shape else 1, math.prod(shape[1:])), name)
        self._write(array_vd, range(len(array_vd)), shape)
        return array_vd.reshape(shape)

    def fill(self, table_vd, first_row=0, num_rows=None):
        """Fills a table, or some of its rows, in place and in parallel.

        Args:
            table_vd: array (rows, d) of a storage dtype, C-contiguous, writeable; a memory map too. Values are those of
                a float32 table, rounded where the dtype is smaller.
            first_row: int, the number in the whole table of the first row given.
            num_rows: int, the rows of the whole table, or None where the rows given are its last. What random values
                row r is made of does not depend on it; how they are scaled may, as in `GlorotUniform`.

        Raises:
            TypeError, ValueError: no such table; rows past the end; a part where `row_wise` is False; a shape that
                this initializer does not make. Nothing was written then.
        """
        table_vd = ops.rows_of(table_vd, "table_vd", writeable=True)
        first_row, rows = operator.index(first_row), len(table_vd)
        num_rows = first_row + rows if num_rows is None else operator.index(num_rows)
        if not 0 <= first_row <= num_rows - rows:
            raise ValueError(
                f"`first_row` must lie in [0, num_rows - {rows}]. Received: first_row={first_row}, num_rows={num_rows}"
            )
        if not self.row_wise and rows != num_rows:
            raise ValueError(
                f"`table_vd` must be a whole table for {type(self).__name__}. Received: {rows} of {num_rows} rows"
            )
        shape = (num_rows, table_vd.dim)
        if not table_vd.coded:
            self._write(ops.decode(table_vd), range(first_row, first_row + rows), shape)
        elif self.row_wise and type(self)._write is not Initializer._write:

            def write(values, start):
                self._write(values, range(first_row + start, first_row + start + len(values)), shape)

            ops.change(table_vd, write)
        else:
            values_vd = ops.zeros(shape)
            self._write(values_vd, range(rows), shape)
            ops.encode(table_vd, values_vd)

    def filler(self, shape, again=False):
        """What makes single rows of a table of `shape`: a function (values_ud, rows_u) that writes the values which
        `fill` gives rows of these numbers, int64, to a float32 or float64 array; again: which it gave them last.

        Raises:
            ValueError: the initializer makes whole tables only.
        """
        if not self.row_wise or type(self)._write is Initializer._write:
            raise ValueError(f"an initializer must make single rows here. Received: {self!r}, which makes whole tables")
        made = self._fixed(again)
        made._write(np.empty((0, shape[1]), np.float32), range(0), shape)  # whatever is wrong is found now
        return lambda values_ud, rows_u: made._write(values_ud, rows_u, shape)

    def _fixed(self, again=False):
        """One that gives the same values at every call: those of the next call of this, or again of the last one."""
        return self

    def _write(self, table_vd, numbers, shape):
        """Fills checked rows, which have these numbers (a range, or int64), of an array of `shape`, whose dimensions
        after the first are one in `table_vd`."""
        if type(self).__call__ is Initializer.__call__:
            raise NotImplementedError(f"{type(self).__name__} has no `__call__`")
        if len(table_vd) != shape[0]:
            raise ValueError(f"`table_vd` must be a whole table. Received: {len(table_vd)} of {shape[0]} rows")
        values = np.asarray(self(shape, dtype=table_vd.dtype.name))
        if values.shape != shape or values.dtype.kind not in "fiub":
            raise ValueError(
                f"an initializer must return numbers of shape {shape}. Received: {values.dtype} of shape {values.shape}"
            )
        np.copyto(table_vd, values, casting="unsafe")

    def get_config(self):
        """Returns {}."""
        return {}

    def clone(self):
        """Returns another initializer with the same config."""
        return type(self).from_config(self.get_config())

    @classmethod
    def from_config(cls, config):
        """Makes the initializer of a config of either Keras generation; a `dtype` in old ones says nothing."""
        return super().from_config({key: value for key, value in dict(config).items() if key != "dtype"})

    def legacy_config(self):
        """Returns the config as Keras 2.9 writes it."""
        if self.legacy_keys is None:
            return self.get_config()
        return {key: getattr(self, key) for key in self.legacy_keys}


class Seeded(Initializer):
    """Base of the random ones. A seed gives the same values at every call, and None is a seed of its own; the config of
    a Keras SeedGenerator gives others each time."""

    def _set_seed(self, seed):
        self.seed, start, self._advances = check_seed(seed)
        self._key = _random_key() if start is None else start

    def _next_key(self, numbers):
        """The key for rows of these numbers. A table that is filled in pieces begins at row 0."""
        with _lock:
            if self._advances and numbers[:1] == range(1):
                self._key += _GOLDEN
            return self._key

    def _fixed(self, again=False):
        made = copy.copy(self)
        made._key, made._advances = self._key if again else self._next_key(range(1)), False
        return made

    def _fill(self, table_vd, kind, a, b, numbers):
        """ops.fill with the next key."""
        which = {"first_row": numbers.start} if isinstance(numbers, range) else {"numbers": numbers}
        ops.fill(table_vd, kind, a, b, self._next_key(numbers), **which)

    def legacy_config(self):
        """Returns the config as Keras 2.9 writes it, where a seed is an integer or None."""
        config = super().legacy_config()
        if isinstance(config.get("seed"), dict):
            config["seed"] = config["seed"]["config"].get("seed")
        return config
