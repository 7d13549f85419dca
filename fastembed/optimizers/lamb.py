"""Lamb: Adam whose steps are as long as the weights are.

May import: optimizers.adam. Do not break: formula, defaults and config keys are Keras 3's.
"""

import math

from fastembed.optimizers.adam import Moments


class Lamb(Moments):
    """Adam's step, stretched to lr times the norm of the weights:

        m += (g - m)(1 - beta_1),  v += (g^2 - v)(1 - beta_2)
        u = m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)
        w -= lr |w| / |u| u   (lr u, where a norm is 0)

    The norms are those of all rows that the step is for, so a step goes over them twice.

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_1, beta_2: floats in [0, 1).
        epsilon: float >= 0.
        name, base: see `Optimizer`.

    Source: keras.optimizers.Lamb; You et al., Large Batch Optimization for Deep Learning, 2019.

    Example:
        >>> w = np.full(2, 4.0, "float32")
        >>> fastembed.optimizers.Lamb(0.5).apply_gradients([(np.array([1.0, -1.0]), w)])
        >>> w.round(4)
        array([2., 6.], dtype=float32)
    """

    legacy_keys = None
    modes = ("skip", "dense")  # the norms are those of all rows

    def step(self, ndim=2):
        return "lamb"

    def num_passes(self, ndim):
        return 2

    def passes(self, t, rate, own, all_rows):
        hyper = self.hyper(t, rate)
        w_squares, u_squares = yield "lamb_moments", hyper
        ratio = math.sqrt(w_squares) / math.sqrt(u_squares) if w_squares > 0 and u_squares > 0 else 1.0
        yield "lamb", {**hyper, "learning_rate": rate * ratio}

    def decays(self):
        return None
