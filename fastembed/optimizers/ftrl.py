"""Ftrl: follow the regularized leader.

May import: optimizers.base. Do not break: formula, defaults and config keys are Keras 3's.
"""

from fastembed.optimizers.base import Optimizer


class Ftrl(Optimizer):
    """Follow the regularized leader. With p = -learning_rate_power, l2' = l2 + beta / (2 lr):

        n' = n + g^2,  z += g + 2 l2_shrinkage w - (n'^p - n^p) / lr w,  n = n'
        w = (clip(z, -l1, l1) - z) / (n^p / lr + 2 l2')

    A step sets a weight from n and z alone: what it was before the first step is forgotten, unless l2_shrinkage has
    brought it into z.

    Args:
        learning_rate: float > 0, or a schedule.
        learning_rate_power: float <= 0.
        initial_accumulator_value: float >= 0, n at the beginning.
        l1_regularization_strength, l2_regularization_strength: floats >= 0, l1 and l2.
        l2_shrinkage_regularization_strength: float >= 0, l2_shrinkage.
        beta: float >= 0.
        name, base: see `Optimizer`.

    Source: keras.optimizers.Ftrl; McMahan et al., Ad Click Prediction, 2013.

    Example:
        >>> w = np.zeros(2, "float32")
        >>> ftrl = fastembed.optimizers.Ftrl(1.0, initial_accumulator_value=3.0, l1_regularization_strength=0.5)
        >>> ftrl.apply_gradients([(np.array([1.0, 0.25]), w)])
        >>> w
        array([-0.25,  0.  ], dtype=float32)
    """

    legacy_keys = (
        "initial_accumulator_value",
        "learning_rate_power",
        "l1_regularization_strength",
        "l2_regularization_strength",
        "beta",
        "l2_shrinkage_regularization_strength",
    )

    idle = False  # w becomes 0 where there was no gradient

    def __init__(
        self,
        learning_rate=0.001,
        learning_rate_power=-0.5,
        initial_accumulator_value=0.1,
        l1_regularization_strength=0.0,
        l2_regularization_strength=0.0,
        l2_shrinkage_regularization_strength=0.0,
        beta=0.0,
        name=None,
        **base,
    ):
        own = {
            "learning_rate_power": learning_rate_power,
            "initial_accumulator_value": initial_accumulator_value,
            "l1_regularization_strength": l1_regularization_strength,
            "l2_regularization_strength": l2_regularization_strength,
            "l2_shrinkage_regularization_strength": l2_shrinkage_regularization_strength,
            "beta": beta,
        }
        super().__init__(learning_rate, name, base, own)
        if not self.l2_shrinkage_regularization_strength:
            self.most_replayed = 1  # w follows from the state and the last learning rate

    def step(self, ndim=2):
        return "ftrl"

    def initial(self):
        return {"accumulator": self.initial_accumulator_value}

    def hyper(self, t, rate):
        if rate == 0:
            raise ValueError(f"`learning_rate` of Ftrl must be greater than 0. Received: 0 at step {t}")
        return {
            "learning_rate": rate,
            "l1": self.l1_regularization_strength,
            "l2": self.l2_regularization_strength + self.beta / (2 * rate),
            "l2_shrinkage": self.l2_shrinkage_regularization_strength,
            "power": -self.learning_rate_power,
        }
