"""Adam and what descends from it.

May import: optimizers.base. Do not break: formulas, defaults and config keys are Keras 3's.
"""

import math

import numpy as np

from fastembed.optimizers.base import Optimizer


class Adam(Optimizer):
    """Adam (t counts the optimizer's steps, not the row's):

        m += (g - m)(1 - beta_1),  v += (g^2 - v)(1 - beta_2)
        w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    Args:
        learning_rate: float, or a schedule.
        epsilon: float.
        beta_1, beta_2: floats in [0, 1).
        amsgrad: False (the other is not there yet).

    Source: keras.optimizers.Adam; on a row-sparse gradient, torch.optim.SparseAdam.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Adam(0.5).apply_gradients([(np.ones(2), w)])
        >>> w.round(4)
        array([-0.5, -0.5], dtype=float32)
    """

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False, name=None, **base):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "amsgrad": amsgrad}
        super().__init__(learning_rate, name, base, own)
        if self.amsgrad:
            raise ValueError(f"`amsgrad` must be False in this version. Received: amsgrad={amsgrad!r}")

    def step(self):
        return "adam"

    def _corrected(self, t, rate):
        """The learning rate with both bias corrections; the betas as the step rounds them."""
        beta_1, beta_2 = float(np.float32(self.beta_1)), float(np.float32(self.beta_2))
        return rate * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)

    def hyper(self, t, rate):
        return {**super().hyper(t, rate), "learning_rate": self._corrected(t, rate)}

    def decays(self):
        return (self.beta_1, self.beta_2)

    def drift(self, t, rate, n_k1, r_p):
        return self._corrected(t, rate) * self.beta_1**n_k1 / (1 - r_p * (1 - self.beta_2 ** (n_k1 / 2)))
