"""Embedding and EmbeddingBag: the objects that users hold.

May import: everything below. Do not break: a layer keeps no tape. `gradient` depends on its arguments and the table
alone, and look-ups change nothing.
"""

import itertools
import os
import re

import numpy as np

from fastembed import dtypes, initializers, ops, saving, serialization
from fastembed.ragged import Ragged
from fastembed.slices import IndexedSlices
from fastembed.table import Table, check_size
from fastembed.threads import Lock

_names = {}
_names_lock = Lock()


def _automatic_name(cls):
    """embedding, embedding_1, ... as Keras counts."""
    base = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
    with _names_lock:
        number = next(_names.setdefault(base, itertools.count()))
    return f"{base}_{number}" if number else base


class Embedding:
    """Turns ids into vectors: one row of a table for each id.

    Args:
        input_dim: int, rows of the table; ids lie in [0, input_dim).
        output_dim: int, the length of a row.
        embeddings_initializer: what the table holds at first: a Keras name, config or instance.
        embeddings_regularizer, activity_regularizer, embeddings_constraint: None (others are not there yet).
        mask_zero: bool; `compute_mask` then tells where the ids are not 0.
        input_length: int, or None. Kept for configs; it changes nothing.
        weights: an array (input_dim, output_dim) to begin with, or a list of one.
        dtype: storage dtype of the table: "float32".
        name: str, or None for `embedding`, `embedding_1`, ...
        trainable: bool.
        path: a .npy file for the table to live in (made if missing), or None for memory.
        padding_idx: an id whose row is zero and never trains, or None.

    Raises:
        ValueError, TypeError: wrong arguments.

    Source: keras.layers.Embedding (Keras 3.15); padding_idx as in torch.nn.Embedding.

    Example:
        >>> layer = fastembed.Embedding(1000, 64)
        >>> layer(np.array([[4, 8, 15], [16, 23, 42]])).shape
        (2, 3, 64)
        >>> ragged = layer(fastembed.Ragged.from_lists([[4, 8], [15]]))
        >>> ragged.values.shape, ragged.row_splits
        ((3, 64), array([0, 2, 3]))
    """

    keras_module = "keras.layers"

    def __init__(
        self,
        input_dim,
        output_dim,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        activity_regularizer=None,
        embeddings_constraint=None,
        mask_zero=False,
        input_length=None,
        weights=None,
        *,
        dtype="float32",
        name=None,
        trainable=True,
        path=None,
        padding_idx=None,
    ):
        self.input_dim = check_size(input_dim, "input_dim")
        self.output_dim = check_size(output_dim, "output_dim")
        self.embeddings_initializer = initializers.get(
            "uniform" if embeddings_initializer is None else embeddings_initializer
        )
        for argument, value in (
            ("embeddings_regularizer", embeddings_regularizer),
            ("activity_regularizer", activity_regularizer),
            ("embeddings_constraint", embeddings_constraint),
        ):
            if value is not None:
                raise ValueError(f"`{argument}` must be None in this version. Received: {argument}={value!r}")
        self.embeddings_regularizer = self.activity_regularizer = self.embeddings_constraint = None
        self.mask_zero = self.supports_masking = bool(mask_zero)
        self.input_length = int(input_length) if isinstance(input_length, np.integer) else input_length
        self._dtype = dtypes.storage(dtype)
        self.name = _automatic_name(type(self)) if name is None else str(name)
        self._trainable = bool(trainable)
        self.path = None if path is None else os.fspath(path)
        self.padding_idx = None if padding_idx is None else ops.check_padding(padding_idx, self.input_dim)
        self._table = None
        self._build_lock = Lock()
        if weights is not None:
            self._assign(weights[0] if isinstance(weights, (list, tuple)) and len(weights) == 1 else weights)

    # ---- the table -------------------------------------------------------------------------------------------------

    @property
    def built(self):
        """True once the table is there."""
        return self._table is not None

    def build(self, input_shape=None):
        """Makes the table, if it is not there yet. Look-ups and `embeddings` do so by themselves."""
        self._build()

    def _build(self, weights=None):
        """Makes the table with initial values, or these. False if it is there already, in memory or in its file."""
        shape, about = (self.input_dim, self.output_dim), {"name": "embeddings", "trainable": self._trainable}

        def fill(table):
            if weights is None:
                self.embeddings_initializer.fill(table.numpy())
            else:
                table.assign(weights)
            self._clear_padding(table)

        with self._build_lock:
            if self._table is not None:
                return False
            if self.path is None:
                table = Table(shape, self._dtype, **about)
                fill(table)
            elif os.path.exists(self.path):
                self._table = Table(shape, self._dtype, self.path, **about)
                return False
            else:
                table = Table.new_file(self.path, shape, self._dtype, fill, **about)
            self._table = table
            return True

    def adopt(self, table):
        """Uses an existing `Table` of the right shape and dtype from now on; no copy."""
        if table.shape != (self.input_dim, self.output_dim) or table.dtype != self._dtype:
            raise ValueError(
                f"`table` must be {self._dtype} of shape {(self.input_dim, self.output_dim)}. Received: {table!r}"
            )
        table.trainable = self._trainable
        self._table = table

    def _clear_padding(self, table):
        if self.padding_idx is not None:
            table.numpy()[self.padding_idx] = 0

    def _assign(self, array):
        array = np.asarray(array)
        if array.shape != (self.input_dim, self.output_dim):
            raise ValueError(
                f"`weights` must have shape {(self.input_dim, self.output_dim)}. Received: shape {array.shape}"
            )
        if not self._build(array):
            self._table.assign(array)
            self._clear_padding(self._table)

    @property
    def embeddings(self):
        """The `Table`, made at the first call."""
        if self._table is None:
            self.build()
        return self._table

    @property
    def dtype(self):
        """The storage dtype's name, as in Keras."""
        return self._dtype.name

    @property
    def trainable(self):
        """bool; False makes updates of the table an error."""
        return self._trainable

    @trainable.setter
    def trainable(self, value):
        self._trainable = bool(value)
        if self._table is not None:
            self._table.trainable = self._trainable

    @property
    def weights(self):
        """[the Table], or [] before it is made."""
        return [self._table] if self.built else []

    @property
    def trainable_weights(self):
        """`weights` of a trainable layer, else []."""
        return self.weights if self._trainable else []

    @property
    def non_trainable_weights(self):
        """`weights` of a frozen layer, else []."""
        return [] if self._trainable else self.weights

    @property
    def losses(self):
        """[]: there is no regularizer yet."""
        return []

    def get_weights(self):
        """Returns [a copy of the table as an array]."""
        return [np.array(table.numpy()) for table in self.weights]

    def set_weights(self, weights):
        """Copies [array (input_dim, output_dim)] into the table; the padding row stays zero."""
        if not isinstance(weights, (list, tuple)) or len(weights) != 1:
            raise ValueError(f"`weights` must be a list of one array. Received: {type(weights).__name__} of weights")
        self._assign(weights[0])

    def count_params(self):
        """Returns input_dim * output_dim."""
        return self.input_dim * self.output_dim

    # ---- look-ups and gradients ------------------------------------------------------------------------------------

    def __call__(self, ids, out=None):
        """Looks up ids; see `call`."""
        return self.call(ids, out)

    def call(self, ids, out=None):
        """Returns the rows of ids.

        Args:
            ids: integers of any shape (arrays, nested lists, scalars), or a `Ragged` of them.
            out: float32 array of shape ids.shape + (output_dim,) to write to (for a `Ragged`: of its flat values).

        Returns:
            float32 array of shape ids.shape + (output_dim,); for a `Ragged` a `Ragged` with the same row splits.

        Raises:
            IndexError: an id outside [0, input_dim), with its position.
            TypeError, ValueError: ids that are no integers, a wrong `out`. `out` is then as it was.
        """
        table_vd = self.embeddings.numpy()
        if isinstance(ids, Ragged):
            return ids.with_values(ops.gather(table_vd, ids.flat_values, out))
        return ops.gather(table_vd, ids, out)

    def gradient(self, ids, upstream):
        """The gradient of the table.

        Args:
            ids: what `call` was given.
            upstream: float32 or float64, the gradient of the loss with respect to what `call` returned, in its shape
                (for ragged ids a `Ragged`, or its flat values).

        Returns:
            IndexedSlices; rows of repeated ids are summed where it is used. The padding row is left out.
        """
        upstream = _flat_like(ids, upstream, "upstream")
        ids_n, shape = ops.flat_ids(ids.flat_values if isinstance(ids, Ragged) else ids)
        upstream = np.asarray(upstream)
        if upstream.shape != (*shape, self.output_dim):
            raise ValueError(f"`upstream` must have shape {(*shape, self.output_dim)}. Received: {upstream.shape}")
        parts = ops.parts_checked(ids_n, upstream.reshape(len(ids_n), self.output_dim), padding_idx=self.padding_idx)
        return IndexedSlices.from_parts(parts, (self.input_dim, self.output_dim))

    def compute_mask(self, inputs, mask=None):
        """Returns None, or with `mask_zero` where the ids are not 0: bool of their shape, a `Ragged` for a `Ragged`."""
        if not self.mask_zero:
            return None
        if isinstance(inputs, Ragged):
            return inputs.with_values(np.not_equal(inputs.flat_values, 0))
        return np.not_equal(inputs, 0)

    def compute_output_shape(self, input_shape):
        """Returns (*input_shape, output_dim)."""
        return (*input_shape, self.output_dim)

    # ---- configs and files -----------------------------------------------------------------------------------------

    def get_config(self):
        """Returns the Keras 3 config: what `from_config` and real Keras make the layer from. Weights are not in it."""
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": self.dtype},
                "registered_name": None,
            },
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": serialization.serialize(self.embeddings_initializer),
            "embeddings_regularizer": None,
            "activity_regularizer": None,
            "embeddings_constraint": None,
            "mask_zero": self.mask_zero,
            "quantization_config": None,
        }
        for key in ("input_length", "padding_idx", "path"):  # unknown to Keras 3: only where they are set
            if getattr(self, key) is not None:
                config[key] = getattr(self, key)
        return config

    @classmethod
    def from_config(cls, config):
        """Makes a layer from `get_config()`, ours or Keras 3's."""
        config = dict(config)
        policy = config.get("dtype")
        if isinstance(policy, dict):
            config["dtype"] = (policy.get("config") or {}).get("name")
        if config.pop("quantization_config", None) is not None:
            raise ValueError("`quantization_config` must be None in this version. Received: another one")
        return cls(**config)

    def save(self, path):
        """Writes the layer as a directory, atomically; see `fastembed.saving.save`."""
        saving.save(self, path)

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r} input_dim={self.input_dim} output_dim={self.output_dim}>"


def _flat_like(ids, values, name):
    """The flat values of a `Ragged` whose rows are those of `ids`; anything else as it is."""
    if not isinstance(values, Ragged):
        return values
    splits = values.nested_row_splits
    of_ids = ids.nested_row_splits if isinstance(ids, Ragged) else ()
    if len(splits) != len(of_ids) or not all(map(np.array_equal, splits, of_ids)):
        raise ValueError(f"`{name}` must have the row splits of `ids`. Received: {values!r} for ids {ids!r}")
    return values.flat_values


class EmbeddingBag(Embedding):
    """Turns bags of ids into one vector each: the sum, mean, root-scaled sum or maximum of their rows.

    Args:
        input_dim, output_dim: as in `Embedding`.
        combiner: "sum" | "mean" | "sqrtn" | "max"; see `call`.
        mask_zero: id 0 is passed over by pooling, like a `padding_idx` of 0 (but its row is not made zero).
        **arguments: the others of `Embedding`.

    Source: torch.nn.EmbeddingBag; tf.nn.embedding_lookup_sparse.

    Example:
        >>> bag = fastembed.EmbeddingBag(1000, 64, combiner="sum")
        >>> bag(fastembed.Ragged.from_lists([[4, 8], [], [15]])).shape
        (3, 64)
        >>> gradient = bag.gradient(np.array([[1, 2], [2, 3]]), np.ones((2, 64), "float32"))
        >>> gradient.coalesce().values[:, 0]
        array([1., 2., 1.], dtype=float32)
    """

    def __init__(self, input_dim, output_dim, combiner="mean", *args, **arguments):
        super().__init__(input_dim, output_dim, *args, **arguments)
        if combiner not in ops.COMBINERS:
            raise ValueError(f"`combiner` must be one of {list(ops.COMBINERS)}. Received: combiner={combiner!r}")
        self.combiner = combiner
        if self.mask_zero and self.padding_idx not in (None, 0):
            raise ValueError(
                f"`padding_idx` must be 0 or None with mask_zero. Received: padding_idx={self.padding_idx}"
            )
        self.supports_masking = False  # a bag has no time steps left to mask
        self._skipped = 0 if self.mask_zero else self.padding_idx

    def __call__(self, ids, weights=None, out=None):
        """Pools bags of ids; see `call`."""
        return self.call(ids, weights, out)

    def call(self, ids, weights=None, out=None):
        """Returns one vector for each bag.

        With w = weights (or ones): "sum" gives sum_i w_i row_i; "mean" divides it by sum_i w_i; "sqrtn" by
        sqrt(sum_i w_i^2); "max" gives max_i w_i row_i in each column. An empty bag gives zeros.

        Args:
            ids: integers (batch, k), or a `Ragged` of ragged rank 1.
            weights: float32 or float64 in the shape of ids (for a `Ragged` also its flat values), or None.
            out: float32 array (batch, output_dim) to write to.

        Returns:
            float32 array (batch, output_dim).

        Raises:
            IndexError: an id outside [0, input_dim), with its position.
            TypeError, ValueError: ids that are no integers, wrong shapes. `out` is then as it was.
        """
        ids_n, splits_b1, weights_n, shape = self._bags(ids, weights)
        table_vd = self.embeddings.numpy()
        return ops.pool_checked(table_vd, ids_n, splits_b1, weights_n, self.combiner, out, self._skipped, shape)

    def _bags(self, ids, weights):
        """Flat ids, int64 row splits, flat weights, and the shape of the ids."""
        weights = _flat_like(ids, weights, "weights")
        if isinstance(ids, Ragged):
            if ids.ragged_rank != 1 or ids.flat_values.ndim != 1:
                raise ValueError(f"`ids` must be a Ragged of shape (batch, None). Received: shape {ids.shape}")
            ids_n, shape = ops.flat_ids(ids.values)
            return ids_n, np.ascontiguousarray(ids.row_splits, np.int64), weights, shape
        ids_n, shape = ops.flat_ids(ids)
        if len(shape) != 2:
            raise ValueError(f"`ids` must have shape (batch, k) or be a Ragged. Received: shape {shape}")
        if weights is not None:
            weights = np.asarray(weights)
            if weights.shape != shape:
                raise ValueError(f"`weights` must have the shape of ids, {shape}. Received: shape {weights.shape}")
            weights = weights.reshape(-1)
        bags, size = shape
        splits_b1 = np.arange(0, len(ids_n) + 1, size, dtype=np.int64) if size else np.zeros(bags + 1, np.int64)
        return ids_n, splits_b1, weights, shape

    def gradient(self, ids, upstream, weights=None):
        """The gradient of the table.

        Args:
            ids, weights: what `call` was given.
            upstream: float32 or float64 array (batch, output_dim), the gradient of the loss with respect to what `call`
                returned.

        Returns:
            IndexedSlices that hold the bags, not a value for each id. For "max" the table is read now: each column's
            gradient goes to the id that gave the maximum, the first one on ties.
        """
        ids_n, splits_b1, weights_n, _ = self._bags(ids, weights)
        upstream_bd = ops.check_floats(upstream, (len(splits_b1) - 1, self.output_dim), "upstream")
        argmax_bd = None
        if self.combiner == "max":
            argmax_bd = ops.argmax(self.embeddings.numpy(), ids_n, splits_b1, weights_n, self._skipped)
        parts = ops.parts_checked(ids_n, upstream_bd, splits_b1, weights_n, self.combiner, self._skipped, argmax_bd)
        return IndexedSlices.from_parts(parts, (self.input_dim, self.output_dim))

    def weights_gradient(self, ids, upstream, weights):
        """The gradient of the per-sample weights: float32, flat for a `Ragged`, else in the shape of ids."""
        ids_n, splits_b1, weights_n, shape = self._bags(ids, weights)
        gradient_n = ops.weights_gradient(
            self.embeddings.numpy(), ids_n, splits_b1, weights_n, self.combiner, upstream, self._skipped
        )
        return gradient_n.reshape(shape)

    def compute_mask(self, inputs, mask=None):
        """Returns None: a bag has no time steps left to mask."""
        return None

    def compute_output_shape(self, input_shape):
        """Returns (batch, output_dim)."""
        return (input_shape[0], self.output_dim)

    def get_config(self):
        """Returns what `from_config` makes the layer from."""
        return {**super().get_config(), "combiner": self.combiner}


saving.LAYERS.update(Embedding=Embedding, EmbeddingBag=EmbeddingBag)
