"""Adagrad: every element has its own rate, which falls.

May import: optimizers.base. Do not break: formula, defaults and config keys are Keras 3's.
"""

from fastembed.optimizers.base import Optimizer


class Adagrad(Optimizer):
    """a += g^2,  w -= lr g / sqrt(a + epsilon)

    Args:
        learning_rate: float >= 0, or a schedule.
        initial_accumulator_value: float >= 0, a at the beginning.
        epsilon: float >= 0.
        name, base: see `Optimizer`.

    Source: keras.optimizers.Adagrad.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Adagrad(1.0, initial_accumulator_value=3.0).apply_gradients([(np.ones(2), w)])
        >>> w
        array([-0.5, -0.5], dtype=float32)
    """

    at_rest = "nothing"
    legacy_keys = ("initial_accumulator_value", "epsilon")

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.1, epsilon=1e-7, name=None, **base):
        own = {"initial_accumulator_value": initial_accumulator_value, "epsilon": epsilon}
        super().__init__(learning_rate, name, base, own)

    def step(self, ndim=2):
        return "adagrad"

    def initial(self):
        return {"accumulator": self.initial_accumulator_value}

    def decays(self):
        return (1.0,)
