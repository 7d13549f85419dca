"""Adam and what descends from it: AdamW, Adamax, Nadam.

May import: optimizers.base. Do not break: formulas, defaults and config keys are Keras 3's.
"""

import math

import numpy as np

from fastembed.optimizers.base import Optimizer


class Moments(Optimizer):
    """Base class of all that keep running means of the gradient, m, and of its size, v.

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_1, beta_2: floats in [0, 1).
        epsilon: float >= 0.
        name, base: see `Optimizer`.
    """

    legacy_keys = ("beta_1", "beta_2", "epsilon")
    fade = 0.5  # without gradients, what m is divided by falls as beta_2^(fade n)

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, name=None, **base):
        super().__init__(learning_rate, name, base, {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon})

    def corrections(self, t):
        """1 / (1 - beta_1^t) and 1 / (1 - beta_2^t), with the betas as the step rounds them."""
        return tuple(1 / (1 - self.rounded(beta) ** t) for beta in (self.beta_1, self.beta_2))

    def hyper(self, t, rate):
        scale_m, scale_v = self.corrections(t)
        return {**super().hyper(t, rate), "scale_m": scale_m, "scale_v": scale_v}

    def decays(self):
        return (self.beta_1, self.beta_2)

    def drift(self, t, rate, n_k1, r_p):
        hyper = self.hyper(t, rate)
        root = math.sqrt(hyper["scale_v"]) * self.rounded(self.beta_2) ** (self.fade * n_k1)
        below = np.maximum(root * r_p + (1 - r_p), 1e-300)  # 0 at r = 1, after very many steps
        return hyper["learning_rate"] * hyper["scale_m"] * self.rounded(self.beta_1) ** n_k1 / below


class Adam(Moments):
    """Adam (t counts the optimizer's steps, not the row's):

        m += (g - m)(1 - beta_1),  v += (g^2 - v)(1 - beta_2)
        w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_1, beta_2: floats in [0, 1).
        epsilon: float >= 0.
        amsgrad: bool; True divides by the largest v so far.
        name, base: see `Optimizer`.

    Source: keras.optimizers.Adam; on a row-sparse gradient, torch.optim.SparseAdam.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Adam(0.5).apply_gradients([(np.ones(2), w)])
        >>> w.round(4)
        array([-0.5, -0.5], dtype=float32)
    """

    legacy_keys = (*Moments.legacy_keys, "amsgrad")

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, amsgrad=False, name=None, **base):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "amsgrad": amsgrad}
        Optimizer.__init__(self, learning_rate, name, base, own)
        self.fade = 0.0 if self.amsgrad else 0.5

    def step(self, ndim=2):
        return "amsgrad" if self.amsgrad else "adam"

    def hyper(self, t, rate):
        scale_m, scale_v = self.corrections(t)
        rate *= scale_m / math.sqrt(scale_v)
        return {**super().hyper(t, rate), "scale_m": 1.0, "scale_v": 1.0}

    def decays(self):
        return (self.beta_1, self.beta_2, 1.0) if self.amsgrad else (self.beta_1, self.beta_2)


class AdamW(Adam):
    """Adam with weight decay: before each step, w -= lr weight_decay w.

    Args:
        learning_rate: float >= 0, or a schedule.
        weight_decay: float >= 0.
        beta_1, beta_2, epsilon, amsgrad: as in `Adam`.
        name, base: see `Optimizer`.

    Source: keras.optimizers.AdamW.

    Example:
        >>> w = np.ones(2, "float32")
        >>> fastembed.optimizers.AdamW(0.5, weight_decay=0.5).apply_gradients([(np.ones(2), w)])
        >>> w.round(4)
        array([0.25, 0.25], dtype=float32)
    """

    legacy_keys = None

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.004,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
        name=None,
        **base,
    ):
        if weight_decay is None:
            raise ValueError("`weight_decay` must be a finite number of at least 0. Received: weight_decay=None")
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, name, weight_decay=weight_decay, **base)


class Adamax(Moments):
    """Adam with a maximum in place of the mean of squares:

        m += (g - m)(1 - beta_1),  u = max(beta_2 u, |g|)
        w -= lr / (1 - beta_1^t) m / (u + epsilon)

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_1, beta_2: floats in [0, 1).
        epsilon: float >= 0.
        name, base: see `Optimizer`.

    Source: keras.optimizers.Adamax.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Adamax(0.5).apply_gradients([(np.ones(2), w)])
        >>> w.round(4)
        array([-0.5, -0.5], dtype=float32)
    """

    fade = 1.0

    def step(self, ndim=2):
        return "adamax"

    def hyper(self, t, rate):
        return {**super().hyper(t, rate * self.corrections(t)[0]), "scale_m": 1.0, "scale_v": 1.0}


class Nadam(Moments):
    """Adam with Nesterov momentum that rises with t: u_t = beta_1 (1 - 0.96^t / 2), U_t = u_1 u_2 ... u_t,

        m += (g - m)(1 - beta_1),  v += (g^2 - v)(1 - beta_2)
        h = u_(t+1) / (1 - U_(t+1)) m + (1 - u_t) / (1 - U_t) g
        w -= lr h / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Args:
        learning_rate: float >= 0, or a schedule.
        beta_1, beta_2: floats in [0, 1).
        epsilon: float >= 0.
        name, base: see `Optimizer`.

    Source: keras.optimizers.Nadam. (Keras 2.9 has 0.96^(0.004 t).)

    Example:
        >>> w = np.zeros(2, "float32")
        >>> fastembed.optimizers.Nadam(0.5).apply_gradients([(np.ones(2), w)])
        >>> w.round(4)
        array([-0.5314, -0.5314], dtype=float32)
    """

    legacy_decay = 0.004
    _product = (0, 1.0, None)  # t, U_t, the dtype of the step: the last one that was asked for

    def step(self, ndim=2):
        return "nadam"

    def _u(self, t):
        return self.rounded(self.beta_1) * (1 - 0.5 * 0.96**t)

    def _u_product(self, t):
        start, product, real = self._product
        if start > t or real != self.real:
            start, product = 0, 1.0
        for i in range(start + 1, t + 1):
            product *= self._u(i)
            if product < 1e-30:  # 1 - U_t is 1
                product = 0.0
                break
        self._product = (t, product, self.real)
        return product

    def hyper(self, t, rate):
        product, now, following = self._u_product(t), self._u(t), self._u(t + 1)
        return {
            **super().hyper(t, rate),
            "scale_m": following / (1 - product * following),
            "scale_g": (1 - now) / (1 - product),
        }
