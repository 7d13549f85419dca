"""IndexedSlices: a row-sparse gradient, expanded only if somebody asks.

May import: ops. Do not break: a gradient of a bag layer holds the bags' upstream gradients, never n x d values.
"""

import numpy as np

from fastembed import ops


class IndexedSlices:
    """The gradient of a table: values[i] belongs to row indices[i]; a row that occurs twice has the sum.

    Args:
        values: float32 or float64 array (n, d). Sums are taken in its dtype, in updates in that of the table.
        indices: n integers: rows of the table.
        dense_shape: (v, d), the table's shape.

    Raises:
        TypeError, ValueError: wrong dtypes or shapes. Ids are checked when the slices are used.

    Source: the names are those of tf.IndexedSlices.

    Example:
        >>> g = fastembed.IndexedSlices(np.ones((3, 2), "float32"), [4, 1, 4], dense_shape=(5, 2))
        >>> g.coalesce().indices
        array([1, 4])
        >>> (g * 0.5).coalesce().values
        array([[0.5, 0.5],
               [1. , 1. ]], dtype=float32)
    """

    __array_ufunc__ = None  # NumPy leaves `*` and `+` to us

    def __init__(self, values, indices, dense_shape):
        self._init(ops.parts(indices, values), dense_shape)

    def _init(self, parts, dense_shape):
        d = parts.upstream_bd.shape[1]
        if len(dense_shape) != 2 or dense_shape[1] != d:
            raise ValueError(f"`dense_shape` must be (v, {d}). Received: dense_shape={dense_shape}")
        self.parts = parts
        self.dense_shape = (int(dense_shape[0]), d)

    @classmethod
    def from_parts(cls, parts, dense_shape):
        """The gradient that `ops.parts` describes; nothing is expanded."""
        slices = cls.__new__(cls)
        slices._init(parts, dense_shape)
        return slices

    @property
    def indices(self):
        """int32 or int64 array (n,): the row of each value, in the order of the ids, without padding."""
        parts = self.parts
        return parts.ids_n if parts.padding < 0 else parts.ids_n[parts.ids_n != parts.padding]

    @property
    def values(self):
        """array (n, d): what each id adds to its row. Expands the gradient of a bag layer."""
        parts = self.parts
        if parts.splits_b1 is None and parts.padding < 0:
            return parts.upstream_bd
        n = len(parts.ids_n)  # the same gradient of a table in which each position has a row of its own
        own_n = np.where(parts.ids_n == parts.padding, n, np.arange(n)) if n else np.empty(0, np.int64)
        own = parts._replace(ids_n=own_n, padding=n if parts.padding >= 0 else -1)
        return ops.reduce(own, ops.group(own, n + 1))[1]

    def coalesce(self):
        """Returns the same gradient with rising, unique indices (int64) and the summed values."""
        rows_u, values_ud = ops.reduce(self.parts, ops.group(self.parts, self.dense_shape[0]))
        return IndexedSlices(values_ud, rows_u, self.dense_shape)

    def to_dense(self):
        """Returns the gradient as an array of `dense_shape`."""
        rows_u, values_ud = ops.reduce(self.parts, ops.group(self.parts, self.dense_shape[0]))
        dense_vd = np.zeros(self.dense_shape, values_ud.dtype)
        dense_vd[rows_u] = values_ud
        return dense_vd

    def __add__(self, other):
        if not isinstance(other, IndexedSlices):
            return NotImplemented
        if other.dense_shape != self.dense_shape:
            raise ValueError(f"`dense_shape` must be {self.dense_shape}. Received: {other.dense_shape}")
        joined = ops.joined(self.parts, other.parts)
        if joined is not None:
            return IndexedSlices.from_parts(joined, self.dense_shape)
        values = np.concatenate([self.values, other.values])
        return IndexedSlices(values, np.concatenate([self.indices, other.indices]), self.dense_shape)

    def __mul__(self, factor):
        if not np.isscalar(factor) and np.ndim(factor):
            return NotImplemented
        parts = self.parts
        upstream_bd = parts.upstream_bd * parts.upstream_bd.dtype.type(factor)
        return IndexedSlices.from_parts(parts._replace(upstream_bd=upstream_bd), self.dense_shape)

    __rmul__ = __mul__

    def __repr__(self):
        return f"<IndexedSlices of {len(self.parts.ids_n)} ids, dense_shape={self.dense_shape}>"
