"""Gradient descent, with momentum if asked.

May import: optimizers.base. Do not break: formulas, defaults and config keys are Keras 3's.
"""

from fastembed.optimizers.base import Optimizer


class SGD(Optimizer):
    """Gradient descent, with momentum if asked.

        w -= lr g;   with momentum:  m = mu m - lr g,  w += m   (nesterov:  w += mu m - lr g)

    Args:
        learning_rate: float >= 0, or a schedule.
        momentum: float in [0, 1), mu.
        nesterov: bool.
        name, base: see `Optimizer`.

    Source: keras.optimizers.SGD.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.SGD(0.5).apply_gradients([(np.ones(2), w)])
        >>> w
        array([-0.5, -0.5], dtype=float32)
    """

    legacy_keys = ("momentum", "nesterov")

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, name=None, **base):
        super().__init__(learning_rate, name, base, {"momentum": momentum, "nesterov": nesterov})
        self.at_rest = "weights" if self.momentum else "nothing"

    def step(self, ndim=2):
        if not self.momentum:
            return "sgd"
        return "nesterov" if self.nesterov else "momentum"

    def decays(self):
        return (self.momentum,) if self.momentum else ()

    def drift(self, t, rate, n_k1, r_p):
        return -(self.rounded(self.momentum) ** (n_k1 + self.nesterov))  # x is m, which has the rate in it
