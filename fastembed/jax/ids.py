"""Ids of 64 bits in JAX programs, whatever `jax_enable_x64` says; and `Ragged` as a pytree.

May import: ragged. Do not break: JAX cuts int64 to int32 without a word. No id is lost where this module sees it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fastembed.ragged import Ragged

_INT32 = np.iinfo(np.int32)


@jax.tree_util.register_pytree_node_class
class Ids:
    """int64 ids, as pairs of uint32 that go through `jit`, `scan` and `vmap` without `jax_enable_x64`.

    NumPy arrays of int64 whose values need it become `Ids` by themselves where a layer is given them; but an array that
    is an argument of a function under `jit` is cut to int32 by JAX before anyone sees it: make it `Ids` outside.

    Args:
        ids: integers of any shape: a NumPy array, nested lists.

    Raises:
        TypeError, ValueError: what is no integer below 2**63.

    Example:
        >>> ids = Ids(np.array([[7, 5_000_000_000]]))
        >>> ids.shape
        (1, 2)
        >>> jax.jit(lambda ids: ids[:, 1:])(ids).numpy()
        array([[5000000000]])
    """

    def __init__(self, ids):
        given = np.asarray(ids)
        if given.dtype.kind not in "iu":
            raise TypeError(f"`ids` must be integers. Received: dtype {given.dtype}")
        if given.dtype == np.uint64 and given.size and given.max() > np.iinfo(np.int64).max:
            raise ValueError(f"`ids` must be below 2**63. Received: {given.max()}")
        wide = np.ascontiguousarray(given, np.int64)
        self.pairs = jnp.asarray(wide.view(np.uint32).reshape(*given.shape, 2))

    @property
    def shape(self):
        """The shape of the ids."""
        return self.pairs.shape[:-1]

    @property
    def ndim(self):
        """The number of axes of the ids."""
        return len(self.shape)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        """Some of the ids; index: what NumPy takes, without `...`."""
        return self._of(self.pairs[index])

    def reshape(self, *shape):
        """Returns the ids in another shape."""
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return self._of(self.pairs.reshape(*shape, 2))

    def numpy(self):
        """Returns the ids as a NumPy array of int64."""
        return wide(np.asarray(self.pairs))

    @classmethod
    def _of(cls, pairs):
        ids = cls.__new__(cls)
        ids.pairs = pairs
        return ids

    def tree_flatten(self):
        """For JAX."""
        return (self.pairs,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """For JAX."""
        return cls._of(*children)

    def __repr__(self):
        return f"<Ids of shape {self.shape}>"


def wide(pairs):
    """The int64 array in an array of pairs of uint32."""
    return pairs.view(np.int64)[..., 0]


def traced(ids):
    """Integers as something that goes into a JAX program without loss: a JAX array or `Ids`."""
    if isinstance(ids, (Ids, jax.Array)):
        return ids
    ids = np.asarray(ids)
    if ids.size == 0 and ids.dtype.kind == "f":  # NumPy's dtype of an empty list
        ids = ids.astype(np.int32)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"`ids` must be integers. Received: dtype {ids.dtype}")
    narrow = ids.dtype.itemsize < 8 or jax.config.jax_enable_x64
    if not narrow and ids.size and (ids.min() < _INT32.min or ids.max() > _INT32.max):
        return Ids(ids)
    return jnp.asarray(ids)


def _flatten_ragged(ragged):
    values = ragged.values
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        values = traced(values)
    return (values, ragged.row_splits), None


jax.tree_util.register_pytree_node(Ragged, _flatten_ragged, lambda _, parts: Ragged._trusted(*parts))
