"""Adagrad, and with one accumulator a row.

May import: optimizers.base. Do not break: Adagrad's formula, defaults and config keys are Keras 3's.
"""

from fastembed.optimizers.base import Optimizer


class Adagrad(Optimizer):
    """a += g^2,  w -= lr g / sqrt(a + epsilon)

    Args:
        learning_rate: float, or a schedule.
        initial_accumulator_value: float, a at the beginning.
        epsilon: float.

    Source: keras.optimizers.Adagrad.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Adagrad(1.0, initial_accumulator_value=3.0).apply_gradients([(np.ones(2), w)])
        >>> w
        array([-0.5, -0.5], dtype=float32)
    """

    at_rest = "nothing"

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.1, epsilon=1e-7, name=None, **base):
        own = {"initial_accumulator_value": initial_accumulator_value, "epsilon": epsilon}
        super().__init__(learning_rate, name, base, own)

    def step(self):
        return "adagrad"

    def initial(self):
        return {"accumulator": self.initial_accumulator_value}

    def decays(self):
        return (1.0,)


class RowwiseAdagrad(Adagrad):
    """Adagrad with one accumulator a row:  a += mean(g^2),  w -= lr g / (sqrt(a) + epsilon)

    A table of v rows needs v floats of state instead of v x d.

    Args:
        learning_rate: float, or a schedule.
        initial_accumulator_value: float, a at the beginning.
        epsilon: float.

    Source: FBGEMM's EXACT_ROWWISE_ADAGRAD.

    Example:
        >>> layer = fastembed.Embedding(100, 8)
        >>> optimizer = fastembed.optimizers.RowwiseAdagrad(0.1)
        >>> optimizer.build([layer.embeddings])
        >>> optimizer.variables[0].shape
        (100, 1)
    """

    keras_module = "fastembed.optimizers"

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.0, epsilon=1e-8, name=None, **base):
        super().__init__(learning_rate, initial_accumulator_value, epsilon, name, **base)

    def step(self):
        return "rowwise_adagrad"
