"""Orthogonal: a random matrix with orthonormal columns, made in the table itself.

May import: ops, serialization, initializers.base.

Do not break: beside the table there are a chunk of its rows and some d x d
matrices, never a second table.
"""

import math

import numpy as np

from fastembed import ops, serialization
from fastembed.initializers.base import Seeded

SMALL = 1 << 18  # elements of a matrix that is copied and given to LAPACK
CHUNK = 1 << 19  # elements that are in float64 at a time


class Orthogonal(Seeded):
    """Random orthonormal columns, times gain; orthonormal rows where there are fewer rows than columns.

    Q of X = Q R, where X is normal and R has a positive diagonal: uniform among all such matrices. A tall table is
    filled with X and becomes X R^-1 in place, R^T R = X^T X. The 3 rows d^2 operations that this takes in float64 are
    NumPy's: from one processor to the next the last bit of a few values in a thousand million may differ.

    Args:
        gain: number.
        seed: int; None for a seed of its own; or the config of a Keras SeedGenerator, for other values at each call.

    Raises:
        TypeError, ValueError: no number; a shape of fewer than two dimensions; a part of a table.

    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural networks (2014);
    Yamamoto et al., Roundoff error analysis of the CholeskyQR2 algorithm (2015).

    Example:
        >>> q = fastembed.initializers.Orthogonal(seed=1)((1000, 4))
        >>> bool(np.allclose(q.T @ q, np.eye(4), atol=1e-6))
        True
    """

    legacy_keys = ("gain", "seed")
    row_wise = False

    def __init__(self, gain=1.0, seed=None):
        self.gain = serialization.check_number(gain, "gain")
        self._set_seed(seed)

    def _write(self, table_vd, numbers, shape):
        if len(shape) < 2:
            raise ValueError(f"`shape` must have two dimensions or more for Orthogonal. Received: shape={shape}")
        matrix = table_vd.reshape(math.prod(shape[:-1]), shape[-1])
        if not matrix.size:
            return
        ops.fill(matrix, "normal", 0.0, 1.0, self._next_key(range(1)))
        tall = matrix if len(matrix) >= matrix.shape[1] else matrix.T
        if tall.size <= SMALL or len(tall) < 2 * tall.shape[1]:
            q, r = np.linalg.qr(tall.astype(np.float64))
            tall[...] = q * (self.gain * np.sign(np.diagonal(r)))
        else:
            _orthonormalize(tall, self.gain)

    def get_config(self):
        """Returns {"seed", "gain"}."""
        return {"seed": self.seed, "gain": self.gain}


def _orthonormalize(tall_vd, gain):
    """X := gain X R^-1, where X^T X = R^T R.

    One round is enough: a normal matrix with twice as many rows as columns has a condition number of about 6, and
    the sums are taken in float64. So nothing but the rounding of the table separates the columns from orthonormal ones.
    """
    v, d = tall_vd.shape
    step = max(d, CHUNK // d)
    gram_dd = np.zeros((d, d))
    for start in range(0, v, step):
        chunk_nd = tall_vd[start : start + step].astype(np.float64)
        gram_dd += chunk_nd.T @ chunk_nd
    inverse_dd = np.linalg.inv(np.linalg.cholesky(gram_dd).T) * gain
    for start in range(0, v, step):
        tall_vd[start : start + step] = tall_vd[start : start + step].astype(np.float64) @ inverse_dd
