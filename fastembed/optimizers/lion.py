"""Lion: steps of one size, by the sign of the momentum.

May import: optimizers.arguments, .base. Do not break: formula, defaults and config keys are Keras 3's.
"""

import types

from fastembed.optimizers.arguments import number_in
from fastembed.optimizers.base import Optimizer


class Lion(Optimizer):
    """w -= lr sign(beta_1 m + (1 - beta_1) g),  m = beta_2 m + (1 - beta_2) g

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_1: float in (0, 1].
        beta_2: float in [0, 1).
        name, base: see `Optimizer`.

    Source: keras.optimizers.Lion; Chen et al., Symbolic Discovery of Optimization Algorithms, 2023.

    Example:
        >>> w = np.zeros(3, "float32")
        >>> fastembed.optimizers.Lion(0.5).apply_gradients([(np.array([3.0, -0.1, 0.0]), w)])
        >>> w
        array([-0.5,  0.5,  0. ], dtype=float32)
    """

    ranges = types.MappingProxyType({"beta_1": number_in(above=0, most=1)})

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.99, name=None, **base):
        super().__init__(learning_rate, name, base, {"beta_1": beta_1, "beta_2": beta_2})

    def step(self, ndim=2):
        return "lion"

    def decays(self):
        return (self.beta_2,)

    def drift(self, t, rate, n_k1, r_p):
        return rate * (self.beta_2 ** (n_k1 - 1) > 0)  # as long as there is an m, whatever its size
