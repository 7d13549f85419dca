"""LossScaleOptimizer: an optimizer whose loss is multiplied by a number that follows what gradients bear.

May import: optimizers.arguments, .base, serialization, table. Do not break: arguments and config are Keras 3's; a step
with a gradient that is not finite writes nothing.
"""

import types

from fastembed import serialization
from fastembed.optimizers.arguments import BASE, count, number_in
from fastembed.optimizers.base import Optimizer
from fastembed.table import locked

SMALLEST, LARGEST = 2.0**-126, 2.0**127  # of float32: past them `scale` would be 0 or infinite, and remain so


class LossScaleOptimizer(Optimizer):
    """Divides gradients by `scale`, which halves where one is not finite, and doubles after so many steps without.

    For losses in float16: multiply the loss by `scale` (`scale_loss`) before its gradients are taken. It stays between
    2**-126 and 2**127, where float32 does.

    Args:
        inner_optimizer: Optimizer that takes the steps; its own `loss_scale_factor` is not looked at.
        initial_scale: float > 0.
        dynamic_growth_steps: int > 0, the steps in a row without an infinite gradient after which `scale` doubles.
        name: str.

    Source: keras.optimizers.LossScaleOptimizer.

    Example:
        >>> w = np.ones(1, "float32")
        >>> optimizer = fastembed.optimizers.LossScaleOptimizer(fastembed.optimizers.SGD(1.0), initial_scale=8.0)
        >>> optimizer.apply([np.array([np.inf])], [w])
        >>> optimizer.apply([np.array([2.0])], [w])  # 0.5, scaled by 4
        >>> w, optimizer.scale
        (array([0.5], dtype=float32), 4.0)
    """

    ranges = types.MappingProxyType(
        {
            "initial_scale": number_in(above=0),
            "dynamic_growth_steps": count,
        }
    )

    def __init__(self, inner_optimizer, initial_scale=2.0**15, dynamic_growth_steps=2000, name=None, **base):
        if isinstance(inner_optimizer, dict):
            inner_optimizer = serialization.get(inner_optimizer, "optimizer")
        if not isinstance(inner_optimizer, Optimizer) or isinstance(inner_optimizer, LossScaleOptimizer):
            raise TypeError(f"`inner_optimizer` must be an optimizer. Received: inner_optimizer={inner_optimizer!r}")
        set_here = {argument: value for argument, value in base.items() if value != BASE.get(argument, ())}
        if set_here:
            raise ValueError(f"`inner_optimizer` is where these must be set. Received: {set_here}")
        self.inner_optimizer = inner_optimizer
        own = {"initial_scale": initial_scale, "dynamic_growth_steps": dynamic_growth_steps}
        super().__init__(inner_optimizer._learning_rate, name or "loss_scale_optimizer", {}, own)
        self.scale = self.initial_scale
        self.step_counter = 0  # steps since `scale` changed

    def scale_loss(self, loss):
        """Returns the loss times `scale`."""
        return loss * self.scale

    def apply_gradients(self, grads_and_vars):
        """See `Optimizer.apply_gradients`; a gradient that is not finite is no error."""
        pairs = list(grads_and_vars)
        with self._lock:
            if self.inner_optimizer._apply(pairs, 1.0 / self.scale):
                self.scale, self.step_counter = self.scale / (2 if self.scale > SMALLEST else 1), 0
                self.skipped += 1
            elif self.step_counter == self.dynamic_growth_steps - 1:
                self.scale, self.step_counter = self.scale * (2 if self.scale < LARGEST else 1), 0
            else:
                self.step_counter += 1

    # ---- what a checkpoint asks ------------------------------------------------------------------------------------

    def settings(self):
        """See `Optimizer.settings`."""
        own = {name: getattr(self, name) for name in self._own}
        return {"inner_optimizer": type(self.inner_optimizer).__name__, **own, **self.inner_optimizer.settings()}

    def snapshot(self):
        """See `Optimizer.snapshot`."""
        inner, variables = self.inner_optimizer.snapshot()
        own = {"skipped": self.skipped, "scale": self.scale, "step_counter": self.step_counter}
        return {**own, "inner_optimizer": inner}, variables

    def restored(self, variable, numbers, arrays):
        """See `Optimizer.restored`."""
        return self.inner_optimizer.restored(variable, numbers, arrays)

    def restore(self, numbers, variables):
        """See `Optimizer.restore`."""
        self.skipped, self.scale, self.step_counter = (numbers[name] for name in ("skipped", "scale", "step_counter"))
        self.inner_optimizer.restore(numbers["inner_optimizer"], variables)

    def held(self, variables):
        """See `Optimizer.held`."""
        return locked(variables, self._lock, self.inner_optimizer._lock)

    # ---- all else is the inner optimizer's -------------------------------------------------------------------------

    @property
    def iterations(self):
        """int, the steps that were taken."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        """That of the inner optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.inner_optimizer.learning_rate = value

    @property
    def variables(self):
        """Those of the inner optimizer."""
        return self.inner_optimizer.variables

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """See `Optimizer.exclude_from_weight_decay`."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def build(self, variables):
        """See `Optimizer.build`."""
        self.inner_optimizer.build(variables)

    def state(self, variable):
        """See `Optimizer.state`."""
        return self.inner_optimizer.state(variable)

    def average(self, variable):
        """See `Optimizer.average`."""
        return self.inner_optimizer.average(variable)

    def finalize_variable_values(self, variables):
        """See `Optimizer.finalize_variable_values`."""
        self.inner_optimizer.finalize_variable_values(variables)

    def catch_up(self, variable=None):
        """See `Optimizer.catch_up`."""
        self.inner_optimizer.catch_up(variable)

    def __repr__(self):
        own = {name: getattr(self, name) for name in ("name", "inner_optimizer", *self._own)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in own.items())})"

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": serialization.serialize(self.inner_optimizer),
            "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }

    def legacy_config(self):
        return {**self.get_config(), "inner_optimizer": serialization.serialize(self.inner_optimizer, version=2)}
