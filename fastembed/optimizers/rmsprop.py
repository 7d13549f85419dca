"""RMSprop and Adadelta: running means of squares.

May import: optimizers.base. Do not break: formulas, defaults and config keys are Keras 3's.
"""

from fastembed.optimizers.base import Optimizer


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of squares:

        v = rho v + (1 - rho) g^2;   centered:  a = rho a + (1 - rho) g
        w -= lr g / sqrt(v + epsilon)   (centered:  lr g / sqrt(v - a^2 + epsilon))
        with momentum, for that last move s:  m = mu m + s,  w -= m

    Args:
        learning_rate: float >= 0, or a schedule.
        rho: float in [0, 1).
        momentum: float in [0, 1), mu.
        epsilon: float >= 0.
        centered: bool.
        name, base: see `Optimizer`.

    Source: keras.optimizers.RMSprop.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.RMSprop(0.5, rho=0.75).apply_gradients([(np.ones(2), w)])
        >>> w.round(4)
        array([-1., -1.], dtype=float32)
    """

    legacy_keys = ("rho", "momentum", "epsilon", "centered")

    def __init__(self, learning_rate=0.001, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False, name=None, **base):
        own = {"rho": rho, "momentum": momentum, "epsilon": epsilon, "centered": centered}
        super().__init__(learning_rate, name, base, own)
        self.at_rest = "weights" if self.momentum else "state"

    def step(self, ndim=2):
        return "rmsprop" + "_centered" * self.centered + "_momentum" * (self.momentum > 0)

    def hyper(self, t, rate):
        return {**super().hyper(t, rate), "beta_2": self.rho}

    def decays(self):
        return (self.rho, *[self.momentum] * (self.momentum > 0), *[self.rho] * self.centered)

    def drift(self, t, rate, n_k1, r_p):
        return self.rounded(self.momentum) ** n_k1  # x is m, which has the rate in it


class Adadelta(Optimizer):
    """Steps as large as the last ones were, in the root mean square:

        a = rho a + (1 - rho) g^2,  s = sqrt(b + epsilon) / sqrt(a + epsilon) g
        b = rho b + (1 - rho) s^2,  w -= lr s

    Args:
        learning_rate: float >= 0, or a schedule.
        rho: float in [0, 1).
        epsilon: float >= 0.
        name, base: see `Optimizer`.

    Source: keras.optimizers.Adadelta.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Adadelta(1.0, rho=0.75, epsilon=0.25).apply_gradients([(np.ones(2), w)])
        >>> w.round(4)
        array([-0.7071, -0.7071], dtype=float32)
    """

    at_rest = "state"
    legacy_keys = ("rho", "epsilon")

    def __init__(self, learning_rate=0.001, rho=0.95, epsilon=1e-7, name=None, **base):
        super().__init__(learning_rate, name, base, {"rho": rho, "epsilon": epsilon})

    def step(self, ndim=2):
        return "adadelta"

    def hyper(self, t, rate):
        return {**super().hyper(t, rate), "beta_2": self.rho}

    def decays(self):
        return (self.rho, self.rho)
