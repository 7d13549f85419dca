"""Ragged: rows of different lengths, as one array of values and one of row splits.

May import: ops. Do not break: row splits are checked here, once, when an object is made, so whoever
holds a `Ragged` need not check them again.
"""

import itertools
import operator

import numpy as np

from fastembed import ops


def _integers(numbers, name):
    """`numbers` as a 1-D int64 array; TypeError and ValueError name the argument."""
    array = ops.array_of(numbers, name)
    kind = array.dtype.kind
    if kind not in "iu" and (array.size or kind != "f"):  # NumPy's dtype of an empty list
        raise TypeError(f"`{name}` must be integers. Received: dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"`{name}` must be 1-D. Received: shape {array.shape}")
    return array.astype(np.int64)


def _refuse(faults, numbers, name, rule):
    """ValueError with the position and value of the first True of `faults`, if there is one."""
    if faults.any():
        at = int(faults.argmax())
        raise ValueError(f"`{name}` must {rule}. Received: {name}[{at}]={numbers[at]}")


def _exactly(given, dtype, name):
    """`given` as `dtype`; ValueError where an integer or bool dtype would change a value."""
    dtype = np.dtype(dtype)
    texts = given.dtype.kind in "SU" and dtype.kind not in "SUO"
    if texts or "V" in (given.dtype.kind, dtype.kind) or (given.dtype.kind == "c" and dtype.kind != "c"):
        raise TypeError(f"`{name}` must be numbers that fit {dtype}. Received: dtype {given.dtype}")
    try:
        with np.errstate(invalid="ignore"):
            array = given.astype(dtype)
    except OverflowError as error:  # integers of Python
        raise ValueError(f"`{name}` must fit {dtype}. Received: an integer past 64 bits") from error
    except (TypeError, ValueError) as error:  # other objects
        raise TypeError(f"`{name}` must be numbers that fit {dtype}. Received: {error}") from error
    changed = array != given
    if array.dtype.kind in "biu" and changed.any():
        raise ValueError(f"`{name}` must fit {array.dtype}. Received: {given[changed][0]}")
    return array


def _splits_of(row_lengths):
    """Row splits, int64, of checked row lengths."""
    splits = np.zeros(len(row_lengths) + 1, np.int64)
    np.cumsum(row_lengths, out=splits[1:])
    return splits


class Ragged:
    """Rows of different lengths: row i is `values[row_splits[i]:row_splits[i + 1]]`.

    The arrays are kept as given and not copied, so do not write to `row_splits` afterwards. `==` compares
    identity, as for any plain object; to compare contents, compare `to_list()`.

    Args:
        values: array of any dtype and shape `(n, ...)`: ids `(n,)`, vectors `(n, d)`; or another `Ragged` of
            n rows, which makes a nested one.
        row_splits: int32 or int64, shape `(rows + 1,)`: starts at 0, never falls, ends at n. Both may be arrays of
            other libraries in the memory of the CPU (by `__array__`, `__array_interface__` or DLPack).

    Raises:
        TypeError: `row_splits` is neither int32 nor int64.
        ValueError: `row_splits` breaks its rule (the message names the first position that does), or `values`
            has no first axis.

    Source: the row partition of TensorFlow's `RaggedTensor`.

    Example:
        >>> ids = Ragged([7, 8, 9], [0, 2, 2, 3])
        >>> ids
        Ragged(shape=(3, None), dtype=int64)
        >>> ids.to_list()
        [[7, 8], [], [9]]
        >>> ids[0]
        array([7, 8])
    """

    __slots__ = ("_row_splits", "_values")

    def __init__(self, values, row_splits):
        if not isinstance(values, Ragged):
            values = ops.array_of(values, "values")
            if values.ndim == 0:
                raise ValueError(f"`values` must have at least one axis. Received: shape {values.shape}")
        splits = ops.check_splits(row_splits, len(values))
        self._values = values
        self._row_splits = splits

    @classmethod
    def _trusted(cls, values, row_splits):
        """A `Ragged` of parts that are known to fit: no check."""
        ragged = cls.__new__(cls)
        ragged._values = values
        ragged._row_splits = row_splits
        return ragged

    @classmethod
    def from_lists(cls, rows, dtype=None):
        """Makes a `Ragged` of nested lists.

        Args:
            rows: lists of numbers, nested to one depth of at least 2. Tuples and arrays count as lists.
            dtype: dtype of the values; None takes the one NumPy gives them, int64 where there are none.

        Returns:
            `Ragged` with int64 row splits; nested where the lists are deeper than 2.

        Raises:
            ValueError: the depth is below 2 or differs, or an integer `dtype` would change a value.

        Example:
            >>> Ragged.from_lists([[[1], []], [], [[2, 3]]]).shape
            (3, None, None)
        """
        try:
            level, nested_splits = list(rows), []
        except TypeError:
            raise TypeError(f"`rows` must be a list of lists. Received: {rows!r:.100}") from None
        while True:
            lists = [isinstance(item, (list, tuple)) or getattr(item, "ndim", 0) > 0 for item in level]
            if not any(lists) and (level or nested_splits):
                break
            if not all(lists):
                item = level[lists.index(False)]
                raise ValueError(f"`rows` must be nested to one depth. Received: {item!r} beside a list")
            nested_splits.append(_splits_of([len(item) for item in level]))
            level = list(itertools.chain.from_iterable(level))
        if not nested_splits:
            raise ValueError(f"`rows` must be a list of lists. Received: a list with {level[0]!r}")
        values = np.array(level) if level else np.empty(0, np.int64)
        if dtype is not None:
            values = _exactly(values, dtype, "rows")
        for splits in reversed(nested_splits):
            values = cls._trusted(values, splits)
        return values

    @classmethod
    def from_row_lengths(cls, values, row_lengths):
        """Makes a `Ragged` of values and the length of each row.

        Args:
            values: as for `Ragged`.
            row_lengths: integers >= 0, shape `(rows,)`, whose sum is `len(values)`.

        Returns:
            `Ragged` with int64 row splits.

        Raises:
            TypeError: `row_lengths` are not integers.
            ValueError: a length is negative, or the sum is wrong.

        Example:
            >>> Ragged.from_row_lengths([1, 2, 3], [2, 0, 1]).to_list()
            [[1, 2], [], [3]]
        """
        lengths = _integers(row_lengths, "row_lengths")
        _refuse(lengths < 0, lengths, "row_lengths", "be 0 or more")
        return cls(values, _splits_of(lengths))

    @classmethod
    def from_value_rowids(cls, values, value_rowids, nrows=None):
        """Makes a `Ragged` of values and the row of each value.

        Args:
            values: as for `Ragged`.
            value_rowids: integers >= 0 that never fall, shape `(len(values),)`.
            nrows: number of rows; None means the last row id + 1.

        Returns:
            `Ragged` with int64 row splits.

        Raises:
            TypeError: `value_rowids` are not integers.
            ValueError: a row id is negative, falls or is not below `nrows`, or there is not one for each
                value.

        Example:
            >>> Ragged.from_value_rowids([1, 2, 3], [0, 0, 2], nrows=4).to_list()
            [[1, 2], [], [3], []]
        """
        rowids = _integers(value_rowids, "value_rowids")
        _refuse(rowids < 0, rowids, "value_rowids", "be 0 or more")
        _refuse(np.diff(rowids, prepend=0) < 0, rowids, "value_rowids", "never fall")
        last = int(rowids[-1]) if rowids.size else -1
        nrows = last + 1 if nrows is None else operator.index(nrows)
        if nrows <= last or nrows < 0:
            raise ValueError(f"`nrows` must be 0 or more and above the last row id. Received: {nrows}")
        return cls(values, _splits_of(np.bincount(rowids, minlength=nrows)))

    @classmethod
    def from_padded(cls, array, row_lengths=None, padding=None):
        """Makes a `Ragged` of a rectangular array, without its padding.

        Args:
            array: shape `(rows, columns, ...)`.
            row_lengths: integers from 0 to `columns`, shape `(rows,)`: how many first entries of each row to
                keep.
            padding: a value; the run of it at the end of each row is dropped (a vector counts as padding
                where it equals the value throughout). With neither argument, rows are kept whole.

        Returns:
            `Ragged` with int64 row splits.

        Raises:
            TypeError: `row_lengths` are not integers.
            ValueError: `array` has fewer than two axes, a length does not fit, or both arguments are given.

        Example:
            >>> Ragged.from_padded([[5, 0, 6, 0], [0, 0, 0, 0]], padding=0).to_list()
            [[5, 0, 6], []]
        """
        array = ops.array_of(array, "array")
        if array.ndim < 2:
            raise ValueError(f"`array` must have at least two axes. Received: shape {array.shape}")
        if row_lengths is not None and padding is not None:
            raise ValueError("One of `row_lengths` and `padding` must be None. Received: both")
        rows, columns = array.shape[:2]
        if row_lengths is not None:
            lengths = _integers(row_lengths, "row_lengths")
            if len(lengths) != rows:
                raise ValueError(f"`row_lengths` must have {rows} lengths. Received: {len(lengths)}")
            _refuse((lengths < 0) | (lengths > columns), lengths, "row_lengths", f"be from 0 to {columns}")
        elif padding is not None:
            if array.dtype.kind == "V":
                raise TypeError(f"`array` must be numbers. Received: dtype {array.dtype}")
            kept = (array != padding).any(axis=tuple(range(2, array.ndim)))
            lengths = np.where(kept, np.arange(1, columns + 1), 0).max(axis=1, initial=0)
        else:
            lengths = np.full(rows, columns)
        values = array[np.arange(columns) < lengths[:, None]]
        return cls._trusted(values, _splits_of(lengths))

    @property
    def values(self):
        """The rows one after another: an array, or the inner `Ragged` of a nested one."""
        return self._values

    @property
    def row_splits(self):
        """Where rows start and end in `values`: int32 or int64, shape `(rows + 1,)`."""
        return self._row_splits

    @property
    def flat_values(self):
        """The array of values below all levels."""
        return self._values.flat_values if isinstance(self._values, Ragged) else self._values

    @property
    def nested_row_splits(self):
        """The row splits of all levels, a tuple, outermost first."""
        inner = self._values.nested_row_splits if isinstance(self._values, Ragged) else ()
        return (self._row_splits, *inner)

    @property
    def ragged_rank(self):
        """How many axes are ragged."""
        return len(self.nested_row_splits)

    @property
    def shape(self):
        """The shape, with None for each ragged axis."""
        return (len(self), None, *self._values.shape[1:])

    @property
    def ndim(self):
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self):
        """The dtype of the flat values."""
        return self.flat_values.dtype

    def __len__(self):
        return len(self._row_splits) - 1

    def __iter__(self):
        for start, stop in itertools.pairwise(self._row_splits.tolist()):
            yield self._values[start:stop]

    def __getitem__(self, index):
        """Row `index` (an array, or a `Ragged` of a nested one); a `Ragged` for a slice, row numbers or a bool mask."""
        if isinstance(index, slice):
            rows = range(len(self))[index]
            if rows.step == 1:
                splits = self._row_splits[rows.start : max(rows.stop, rows.start) + 1]
                return self._trusted(self._values[splits[0] : splits[-1]], splits - splits[0])
            return self._take(np.arange(rows.start, rows.stop, rows.step))
        if isinstance(index, (list, np.ndarray)) and np.ndim(index) == 1:
            index = np.asarray(index) if len(index) else np.empty(0, np.int64)
            if index.dtype.kind not in "iub":
                raise TypeError(f"`index` must be integers or a mask. Received: {index.dtype} of shape {index.shape}")
            try:
                rows = np.arange(len(self))[index]
            except IndexError as error:
                raise IndexError(f"`index` must be rows of {len(self)}, or a mask of them. Received: {error}") from None
            return self._take(rows)
        try:
            row = range(len(self))[index]
        except TypeError:
            raise TypeError(f"`index` must be an integer, a slice or row numbers. Received: {index!r}") from None
        except IndexError:
            raise IndexError(f"`index` must be a row of {len(self)}. Received: {index}") from None
        return self._values[self._row_splits[row] : self._row_splits[row + 1]]

    def _take(self, rows):
        """A copy of these rows in this order."""
        lengths = self.row_lengths()[rows]
        splits = _splits_of(lengths)
        at = np.repeat(self._row_splits[rows] - splits[:-1], lengths) + np.arange(splits[-1])
        values = self._values._take(at) if isinstance(self._values, Ragged) else self._values[at]
        return self._trusted(values, splits.astype(self._row_splits.dtype))

    def row_lengths(self):
        """Computes the length of each row.

        Returns:
            array, shape `(rows,)`, of the dtype of the row splits.

        Example:
            >>> Ragged([1, 2, 3], [0, 2, 3]).row_lengths()
            array([2, 1])
        """
        return np.diff(self._row_splits)

    def to_list(self):
        """Converts to nested lists of Python numbers.

        Returns:
            list of one list a row.

        Example:
            >>> Ragged([[1.0, 2.0], [3.0, 4.0]], [0, 0, 2]).to_list()
            [[], [[1.0, 2.0], [3.0, 4.0]]]
        """
        values = self._values.to_list() if isinstance(self._values, Ragged) else self._values.tolist()
        return [values[start:stop] for start, stop in itertools.pairwise(self._row_splits.tolist())]

    def to_padded(self, default_value=0):
        """Converts to a rectangular array as wide as the longest row.

        Args:
            default_value: a number; fills the places that have no value.

        Returns:
            array, shape `(rows, longest, ...)`; every ragged axis of a nested one is padded.

        Raises:
            ValueError: the values are integers or bools, and their dtype would change `default_value`.

        Example:
            >>> Ragged([1, 2, 3], [0, 2, 3]).to_padded(-1)
            array([[ 1,  2],
                   [ 3, -1]])
        """
        values = self._values.to_padded(default_value) if isinstance(self._values, Ragged) else self._values
        fill = _exactly(np.asarray(default_value), values.dtype, "default_value")
        lengths = self.row_lengths()
        longest = int(lengths.max(initial=0))
        padded = np.full((len(self), longest, *values.shape[1:]), fill)
        padded[np.arange(longest) < lengths[:, None]] = values
        return padded

    def with_values(self, values):
        """Makes a `Ragged` with the same rows and other values, such as the vectors of these ids.

        In a nested one the flat values are replaced, and all levels of rows stay.

        Args:
            values: array, shape `(len(flat_values), ...)`, or a `Ragged` of so many rows.

        Returns:
            `Ragged` that shares the row splits.

        Raises:
            ValueError: the number of values differs.

        Example:
            >>> Ragged([1, 2, 3], [0, 2, 3]).with_values([[0.1], [0.2], [0.3]]).to_list()
            [[[0.1], [0.2]], [[0.3]]]
        """
        if isinstance(self._values, Ragged):
            return self._trusted(self._values.with_values(values), self._row_splits)
        if not isinstance(values, Ragged):
            values = ops.array_of(values, "values")
        if values.shape[:1] != self._values.shape[:1]:
            raise ValueError(f"`values` must have {len(self._values)} rows. Received: shape {values.shape}")
        return self._trusted(values, self._row_splits)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("A `Ragged` is no rectangular array: call `to_padded()`, or use `flat_values`.")

    def __repr__(self):
        return f"Ragged(shape={self.shape}, dtype={self.dtype})"
