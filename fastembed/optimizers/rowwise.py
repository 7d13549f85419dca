"""Optimizers that know of rows: one number of state for a row, or the length of each row's step by its own norm.

May import: optimizers.adagrad, .adam, .arguments, .base. Do not break: arguments and defaults are FBGEMM's where it
has them.
"""

import types

from fastembed.optimizers.adagrad import Adagrad
from fastembed.optimizers.adam import Moments
from fastembed.optimizers.arguments import number
from fastembed.optimizers.base import Optimizer


class RowwiseAdagrad(Adagrad):
    """Adagrad with one accumulator a row:  a += mean(g^2),  w -= lr g / (sqrt(a) + epsilon)

    A table of v rows needs v floats of state instead of v x d.

    Args:
        learning_rate: float >= 0, or a schedule.
        initial_accumulator_value: float >= 0, a at the beginning.
        epsilon: float >= 0.
        name, base: see `Optimizer`.

    Source: FBGEMM's EXACT_ROWWISE_ADAGRAD.

    Example:
        >>> layer = fastembed.Embedding(100, 8)
        >>> optimizer = fastembed.optimizers.RowwiseAdagrad(0.1)
        >>> optimizer.build([layer.embeddings])
        >>> optimizer.variables[0].shape
        (100, 1)
    """

    keras_module = "fastembed.optimizers"
    legacy_keys = None

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.0, epsilon=1e-8, name=None, **base):
        super().__init__(learning_rate, initial_accumulator_value, epsilon, name, **base)

    def step(self, ndim=2):
        return "rowwise_adagrad"


class PartialRowwiseAdam(Moments):
    """Adam with one v a row:

        m += (g - m)(1 - beta_1),  v += (mean(g^2) - v)(1 - beta_2)
        w -= lr m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    A table of v rows needs v x (d + 1) floats of state instead of 2 v x d.

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_1, beta_2: floats in [0, 1).
        epsilon: float >= 0.
        name, base: see `Optimizer`.

    Source: FBGEMM's PARTIAL_ROWWISE_ADAM.

    Example:
        >>> w = np.zeros((1, 2), "float32")
        >>> fastembed.optimizers.PartialRowwiseAdam(0.5).apply_gradients([(np.array([[1.0, 7.0]]), w)])
        >>> w.round(4)
        array([[-0.1, -0.7]], dtype=float32)
    """

    keras_module = "fastembed.optimizers"
    legacy_keys = None

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8, name=None, **base):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, name, **base)

    def step(self, ndim=2):
        return "partial_rowwise_adam"


class RowwiseLamb(Moments):
    """Lamb with the norms of the row in place of the table's:

        m += (g - m)(1 - beta_1),  v += (g^2 - v)(1 - beta_2)
        u = m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon) + weight_decay w
        w -= lr |w| / |u| u   (lr u, where a norm is 0)

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_1, beta_2: floats in [0, 1).
        epsilon: float >= 0.
        weight_decay: float >= 0; a part of u, and so of the row's steps alone.
        name, base: see `Optimizer`.

    Source: FBGEMM's LAMB.

    Example:
        >>> w = np.full((1, 2), 4.0, "float32")
        >>> fastembed.optimizers.RowwiseLamb(0.5).apply_gradients([(np.array([[1.0, -1.0]]), w)])
        >>> w.round(4)
        array([[2., 6.]], dtype=float32)
    """

    keras_module = "fastembed.optimizers"
    legacy_keys = None
    decoupled = False
    ranges = types.MappingProxyType({"weight_decay": number})

    def __init__(
        self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8, weight_decay=0.0, name=None, **base
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "weight_decay": weight_decay}
        Optimizer.__init__(self, learning_rate, name, base, own)
        self.idle = not self.weight_decay

    def step(self, ndim=2):
        return "rowwise_lamb"

    def decays(self):
        return None


class RowwiseLARS(Optimizer):
    """Momentum, with steps in proportion to the norm of the row:

        rate = lr eta |w| / (|g| + weight_decay |w|)   (lr, where |w| or the denominator is 0)
        m = mu m + rate (g + weight_decay w),  w -= m

    Args:
        learning_rate: float >= 0, or a schedule.
        momentum: float in [0, 1), mu.
        eta: float >= 0, how far a row moves at lr = 1, in units of its norm.
        weight_decay: float >= 0; a part of the gradient, and so of the row's steps alone.
        name, base: see `Optimizer`.

    Source: FBGEMM's LARS_SGD; You et al., Large Batch Training of Convolutional Networks, 2017.

    Example:
        >>> w = np.array([[3.0, 4.0]], "float32")
        >>> fastembed.optimizers.RowwiseLARS(1.0, eta=0.5).apply_gradients([(np.array([[0.0, 2.0]]), w)])
        >>> w
        array([[3. , 1.5]], dtype=float32)
    """

    keras_module = "fastembed.optimizers"
    decoupled = False
    ranges = types.MappingProxyType({"weight_decay": number})

    def __init__(self, learning_rate=0.01, momentum=0.9, eta=0.001, weight_decay=0.0, name=None, **base):
        own = {"momentum": momentum, "eta": eta, "weight_decay": weight_decay}
        super().__init__(learning_rate, name, base, own)
        self.at_rest = "weights" if self.momentum or self.weight_decay else "state"
        self.idle = not self.weight_decay

    def step(self, ndim=2):
        return "rowwise_lars"

    def hyper(self, t, rate):
        return {**super().hyper(t, rate), "scale_g": self.eta}

    def decays(self):
        return None if self.weight_decay else (self.momentum,)

    def drift(self, t, rate, n_k1, r_p):
        return self.rounded(self.momentum) ** n_k1  # x is m, which has the rate in it


class RowwiseRMSprop(Optimizer):
    """RMSprop with one v a row:  v = rho v + (1 - rho) mean(g^2),  w -= lr g / (sqrt(v) + epsilon)

    A table of v rows needs v floats of state instead of v x d.

    Args:
        learning_rate: float >= 0, or a schedule.
        rho: float in [0, 1).
        epsilon: float >= 0.
        name, base: see `Optimizer`.

    Source: FBGEMM's ROWWISE_RMSPROP_AR, without its decay.

    Example:
        >>> w = np.zeros((1, 2), "float32")
        >>> fastembed.optimizers.RowwiseRMSprop(0.5, rho=0.75).apply_gradients([(np.array([[1.0, 7.0]]), w)])
        >>> w.round(4)
        array([[-0.2, -1.4]], dtype=float32)
    """

    keras_module = "fastembed.optimizers"
    at_rest = "state"

    def __init__(self, learning_rate=0.001, rho=0.9, epsilon=1e-8, name=None, **base):
        super().__init__(learning_rate, name, base, {"rho": rho, "epsilon": epsilon})

    def step(self, ndim=2):
        return "rowwise_rmsprop"

    def hyper(self, t, rate):
        return {**super().hyper(t, rate), "beta_2": self.rho}

    def decays(self):
        return (self.rho,)
