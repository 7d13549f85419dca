"""EmbeddingBag: bags of ids in, one vector for each bag out.

May import: embedding, and what stands below the layers. Do not break: the gradient of a bag layer holds the bags'
upstream gradients, never a value for each id.
"""

import numpy as np

from fastembed import ops, serialization
from fastembed.layers.embedding import Embedding, _flat_like
from fastembed.ragged import Ragged


class EmbeddingBag(Embedding):
    """Turns bags of ids into one vector each: the sum, mean, root-scaled sum or maximum of their rows.

    Args:
        input_dim, output_dim: as in `Embedding`.
        combiner: "sum" | "mean" | "sqrtn" | "max"; see `call`.
        mask_zero: id 0 is passed over by pooling, like a `padding_idx` of 0 (but its row is not made zero).
        **arguments: the others of `Embedding`.

    Raises:
        ValueError, TypeError: wrong arguments.

    Source: torch.nn.EmbeddingBag; tf.nn.embedding_lookup_sparse.

    Example:
        >>> bag = fastembed.EmbeddingBag(1000, 64, combiner="sum")
        >>> bag(fastembed.Ragged.from_lists([[4, 8], [], [15]])).shape
        (3, 64)
        >>> gradient = bag.gradient(np.array([[1, 2], [2, 3]]), np.ones((2, 64), "float32"))
        >>> gradient.coalesce().values[:, 0]
        array([1., 2., 1.], dtype=float32)
    """

    keras_module = "fastembed.layers"

    def __init__(self, input_dim, output_dim, combiner="mean", *args, **arguments):
        if not isinstance(combiner, str) or combiner not in ops.COMBINERS:
            raise ValueError(f"`combiner` must be one of {list(ops.COMBINERS)}. Received: combiner={combiner!r}")
        self.combiner = combiner
        super().__init__(input_dim, output_dim, *args, **arguments)
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
            out: array of `compute_dtype` (batch, output_dim) to write to.

        Returns:
            array of `compute_dtype` (batch, output_dim).

        Raises:
            IndexError: an id outside [0, input_dim), with its position.
            TypeError, ValueError: ids that are no integers, wrong shapes. `out` is then as it was.
        """
        return self._forward(ids, weights, out)

    def _look(self, table, ids, weights, out):
        ids_n, splits_b1, weights_n, shape = self._bags(ids, weights)
        rows = table.current(ids_n, splits_b1, self.combiner, self._skipped)
        return ops.pool_checked(rows, ids_n, splits_b1, weights_n, self.combiner, out, self._skipped, shape)

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
            weights = ops.array_of(weights, "weights")
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
        return self._gradient(ids, upstream, weights)

    def _upstream_shape(self, ids):
        return (len(self._bags(ids, None)[1]) - 1, self.output_dim)

    def _parts(self, ids, upstream_nd, weights):
        ids_n, splits_b1, weights_n, _ = self._bags(ids, weights)
        argmax_bd = None
        if self.combiner == "max":
            argmax_bd = ops.argmax(self.embeddings.current(ids_n), ids_n, splits_b1, weights_n, self._skipped)
        return ops.parts_checked(ids_n, upstream_nd, splits_b1, weights_n, self.combiner, self._skipped, argmax_bd)

    def weights_gradient(self, ids, upstream, weights):
        """The gradient of the per-sample weights, flat for a `Ragged`, else in the shape of ids."""
        ids_n, splits_b1, weights_n, shape = self._bags(ids, weights)
        upstream_bd = self._upstream(ids, upstream, weights)

        def gradient(table, upstream):
            rows = table.current(ids_n)
            return ops.weights_gradient(rows, ids_n, splits_b1, weights_n, self.combiner, upstream, self._skipped)

        gradient_n = gradient(self.embeddings, upstream_bd)
        if self._lora is not None:
            gradient_n += gradient(self._lora.a, self._lora.scale * upstream_bd @ self._lora.b.numpy().T)
        return gradient_n.reshape(shape)

    def _check_lora(self):
        if self.combiner == "max":
            raise ValueError("LoRA needs a combiner that is a sum. Received: combiner='max'")
        super()._check_lora()

    def lora_gradients(self, ids, upstream, weights=None):
        """The gradients of A and B; see `Embedding.lora_gradients`. weights: what `call` was given."""
        return self._lora_gradients(ids, upstream, weights)

    def compute_mask(self, inputs, mask=None):
        """Returns None: a bag has no time steps left to mask."""
        return None

    def compute_output_shape(self, input_shape):
        """Returns (batch, output_dim)."""
        return (input_shape[0], self.output_dim)

    def get_config(self, version=3):
        """Returns what `from_config` makes the layer from."""
        return {**super().get_config(version), "combiner": self.combiner}


serialization.know("layer", {"Embedding": Embedding, "EmbeddingBag": EmbeddingBag})
