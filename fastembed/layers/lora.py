"""LoRA: a change of a table that has low rank, beside it.

May import: table. Do not break: nothing here is as large as the table, but A, which has `rank` columns.
"""

import numbers

import numpy as np

from fastembed.table import Table, check_size

_BLOCK = 1 << 20  # elements of the table that are changed at once


def check_alpha(value):
    """None, or a number that float32 holds."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"`lora_alpha` must be a number or None. Received: lora_alpha={value!r}")
    if value is not None and not abs(value) <= float(np.finfo(np.float32).max):
        raise ValueError(f"`lora_alpha` must be a finite number. Received: lora_alpha={value!r}")
    return value


class Lora:
    """(alpha / rank) A B, with tables A (v, rank) and B (rank, d) of float32."""

    def __init__(self, a, b, alpha, a_initializer):
        self.a, self.b, self.alpha, self.a_initializer = a, b, alpha, a_initializer

    @classmethod
    def new(cls, layer, rank, alpha, a_initializer, b_initializer):
        """For a layer, with initial values."""
        rank, alpha = check_size(rank, "rank"), check_alpha(alpha)
        a = Table((layer.input_dim, rank), name="lora_embeddings_a", trainable=layer.trainable)
        b = Table((rank, layer.output_dim), name="lora_embeddings_b", trainable=layer.trainable)
        a_initializer.fill(a.numpy())
        b_initializer.fill(b.numpy())
        if layer.padding_idx is not None:
            a.numpy()[layer.padding_idx] = 0
        return cls(a, b, rank if alpha is None else alpha, a_initializer)

    @property
    def rank(self):
        """Columns of A, rows of B."""
        return self.b.shape[0]

    @property
    def scale(self):
        """alpha / rank"""
        return np.float32(self.alpha / self.rank)

    def add_to(self, output, looked_up):
        """Adds to an output of W the same look-up in A, times B; both (..., d) and (..., rank)."""
        output += np.matmul(looked_up, self.scale * self.b.numpy(), dtype=output.dtype)

    def gradients(self, upstream_nd, looked_up_nr):
        """The upstream gradient of the look-up in A (n, rank), and the gradient of B (rank, d)."""
        scaled_nd = self.scale * upstream_nd
        return scaled_nd @ self.b.numpy().T, looked_up_nr.T @ scaled_nd

    def add_change(self, values_vd, first_row):
        """Adds the change to rows of the table, from row `first_row` on, block by block."""
        scaled_b = self.scale * self.b.numpy()
        step = max(1, _BLOCK // values_vd.shape[1])
        for start in range(0, len(values_vd), step):
            block = values_vd[start : start + step]
            rows_nr = self.a.numpy()[first_row + start : first_row + start + len(block)]
            block += np.matmul(rows_nr, scaled_b, dtype=block.dtype)
