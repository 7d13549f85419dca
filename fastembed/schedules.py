"""Learning-rate schedules: a number for each step, with Keras's names and configs.

May import: serialization. Do not break: a schedule is a pure function of the step, computed in Python floats.
"""

import math

from fastembed import serialization
from fastembed.serialization import check_number


class LearningRateSchedule(serialization.Configurable):
    """Base class: `schedule(step)` is the learning rate of the step that follows `step` finished ones.

    An optimizer takes one as its `learning_rate`; `optimizer.learning_rate` is then the rate of the next step.

    Example:
        >>> class Halving(fastembed.schedules.LearningRateSchedule):
        ...     def __call__(self, step):
        ...         return 0.5**step
        >>> fastembed.optimizers.SGD(Halving()).learning_rate
        1.0
    """

    keras_module = "keras.optimizers.schedules"

    def __call__(self, step):
        """Returns the rate, a float."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def get_config(self):
        return {}


def _steps(name, value):
    """A number of steps > 0."""
    if check_number(value, name) <= 0:
        raise ValueError(f"`{name}` must be greater than 0. Received: {name}={value!r}")
    return value


class _Decay(LearningRateSchedule):
    """What the schedules share that fall from `initial_learning_rate` within `decay_steps`."""

    def _begin(self, initial_learning_rate, decay_steps, name):
        self.initial_learning_rate = check_number(initial_learning_rate, "initial_learning_rate")
        self.name = name
        self.decay_steps = _steps("decay_steps", decay_steps)

    def get_config(self):
        return {"initial_learning_rate": self.initial_learning_rate, "decay_steps": self.decay_steps}


class _RateDecay(_Decay):
    """Of these, the ones with a `decay_rate`."""

    def __init__(self, initial_learning_rate, decay_steps, decay_rate, staircase=False, name=None):
        self._begin(initial_learning_rate, decay_steps, type(self).__name__ if name is None else name)
        self.decay_rate, self.staircase = check_number(decay_rate, "decay_rate"), staircase

    def _done(self, step):
        done = step / self.decay_steps
        return math.floor(done) if self.staircase else done

    def get_config(self):
        return {**super().get_config(), "decay_rate": self.decay_rate, "staircase": self.staircase, "name": self.name}


class ExponentialDecay(_RateDecay):
    """initial_learning_rate decay_rate^(step / decay_steps)

    Args:
        initial_learning_rate: float.
        decay_steps: int > 0.
        decay_rate: float.
        staircase: bool; True rounds step / decay_steps down.
        name: str.

    Raises:
        TypeError, ValueError: a value that is no finite number, or decay_steps below 1.

    Source: keras.optimizers.schedules.ExponentialDecay.

    Example:
        >>> fastembed.schedules.ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
        0.025
    """

    def __call__(self, step):
        return self.initial_learning_rate * self.decay_rate ** self._done(step)


class InverseTimeDecay(_RateDecay):
    """initial_learning_rate / (1 + decay_rate step / decay_steps). Arguments: see ExponentialDecay.

    Source: keras.optimizers.schedules.InverseTimeDecay.

    Example:
        >>> fastembed.schedules.InverseTimeDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
        0.05
    """

    def __call__(self, step):
        return self.initial_learning_rate / (1 + self.decay_rate * self._done(step))


class PolynomialDecay(_Decay):
    """(initial_learning_rate - end_learning_rate) (1 - step / decay_steps)^power + end_learning_rate

    Args:
        initial_learning_rate: float.
        decay_steps: int > 0; later steps have end_learning_rate.
        end_learning_rate: float.
        power: float.
        cycle: bool; True goes on after decay_steps with the next multiple of it in its place.
        name: str.

    Raises:
        TypeError, ValueError: a value that is no finite number, or decay_steps below 1.

    Source: keras.optimizers.schedules.PolynomialDecay.

    Example:
        >>> fastembed.schedules.PolynomialDecay(0.5, decay_steps=10, end_learning_rate=0.25)(5)
        0.375
    """

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        end_learning_rate=0.0001,
        power=1.0,
        cycle=False,
        name="PolynomialDecay",
    ):
        self._begin(initial_learning_rate, decay_steps, name)
        self.end_learning_rate = check_number(end_learning_rate, "end_learning_rate")
        self.power, self.cycle = check_number(power, "power"), cycle

    def __call__(self, step):
        steps = self.decay_steps
        if self.cycle:
            steps *= max(1, math.ceil(step / steps))
        left = 1 - min(step, steps) / steps
        return (self.initial_learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate

    def get_config(self):
        return {
            **super().get_config(),
            "end_learning_rate": self.end_learning_rate,
            "power": self.power,
            "cycle": self.cycle,
            "name": self.name,
        }


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[i], where i boundaries lie below the step.

    Args:
        boundaries: rising numbers.
        values: numbers, one more than boundaries.
        name: str.

    Raises:
        TypeError, ValueError: as many values as boundaries, or what is no finite number.

    Source: keras.optimizers.schedules.PiecewiseConstantDecay.

    Example:
        >>> schedule = fastembed.schedules.PiecewiseConstantDecay([100, 200], [1.0, 0.5, 0.1])
        >>> schedule(100), schedule(101), schedule(201)
        (1.0, 0.5, 0.1)
    """

    def __init__(self, boundaries, values, name="PiecewiseConstant"):
        if not all(isinstance(numbers, (list, tuple)) for numbers in (boundaries, values)):
            raise TypeError(f"`boundaries` and `values` must be lists. Received: {boundaries!r} and {values!r}")
        if len(boundaries) != len(values) - 1:
            raise ValueError(
                "`values` must be one more than `boundaries`. Received: "
                f"{len(values)} values and {len(boundaries)} boundaries"
            )
        for argument, numbers in (("boundaries", boundaries), ("values", values)):
            for number in numbers:
                check_number(number, argument)
        self.boundaries, self.values, self.name = boundaries, values, name

    def __call__(self, step):
        return self.values[sum(boundary < step for boundary in self.boundaries)]

    def get_config(self):
        return {"boundaries": self.boundaries, "values": self.values, "name": self.name}


class CosineDecay(_Decay):
    """rate ((1 - alpha) (1 + cos(pi step / decay_steps)) / 2 + alpha), after a linear warm-up if asked.

    With `warmup_target` the rate rises from initial_learning_rate to it within `warmup_steps`, and then falls from it
    within `decay_steps`.

    Args:
        initial_learning_rate: float.
        decay_steps: int > 0.
        alpha: float, what is left of the rate at the end, as a fraction.
        name: str.
        warmup_target: float, or None for no warm-up.
        warmup_steps: int.

    Raises:
        TypeError, ValueError: a value that is no finite number, or decay_steps below 1.

    Source: keras.optimizers.schedules.CosineDecay; Loshchilov and Hutter, SGDR, 2017.

    Example:
        >>> schedule = fastembed.schedules.CosineDecay(0.0, 10, warmup_target=1.0, warmup_steps=4)
        >>> schedule(2), schedule(4), schedule(14)
        (0.5, 1.0, 0.0)
    """

    def __init__(
        self, initial_learning_rate, decay_steps, alpha=0.0, name="CosineDecay", warmup_target=None, warmup_steps=0
    ):
        self._begin(initial_learning_rate, decay_steps, name)
        self.alpha, self.warmup_steps = check_number(alpha, "alpha"), check_number(warmup_steps, "warmup_steps")
        self.warmup_target = None if warmup_target is None else check_number(warmup_target, "warmup_target")

    def __call__(self, step):
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return (self.warmup_target - top) * (step / self.warmup_steps) + top
            step, top = step - self.warmup_steps, self.warmup_target
        cosine = 0.5 * (1 + math.cos(math.pi * min(step, self.decay_steps) / self.decay_steps))
        return top * ((1 - self.alpha) * cosine + self.alpha)

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "name": self.name,
            "warmup_target": self.warmup_target,
            "warmup_steps": self.warmup_steps,
        }


class CosineDecayRestarts(LearningRateSchedule):
    """Cosine decays one after the other, each t_mul times as long as the one before and with m_mul times its rate.

    Args:
        initial_learning_rate: float.
        first_decay_steps: int > 0, the length of the first.
        t_mul: float >= 1.
        m_mul: float.
        alpha: float, what is left of the rate at the end, as a fraction.
        name: str.

    Raises:
        TypeError, ValueError: a value that is no finite number, or first_decay_steps below 1.

    Source: keras.optimizers.schedules.CosineDecayRestarts; Loshchilov and Hutter, SGDR, 2017.

    Example:
        >>> schedule = fastembed.schedules.CosineDecayRestarts(1.0, first_decay_steps=10)
        >>> schedule(0), schedule(10), schedule(30)
        (1.0, 1.0, 1.0)
    """

    def __init__(self, initial_learning_rate, first_decay_steps, t_mul=2.0, m_mul=1.0, alpha=0.0, name="SGDRDecay"):
        self.initial_learning_rate = check_number(initial_learning_rate, "initial_learning_rate")
        self.first_decay_steps = _steps("first_decay_steps", first_decay_steps)
        self.t_mul, self.m_mul = check_number(t_mul, "t_mul", 1), check_number(m_mul, "m_mul")
        self.alpha, self.name = check_number(alpha, "alpha"), name

    def __call__(self, step):
        begin, length, top = 0, self.first_decay_steps, self.initial_learning_rate
        if self.t_mul == 1:
            restarts = math.floor(step / length)
            begin, top = restarts * length, top * self.m_mul**restarts
        else:
            while step >= begin + length:
                begin, length, top = begin + length, length * self.t_mul, top * self.m_mul
        cosine = 0.5 * (1 + math.cos(math.pi * (step - begin) / length))
        # alpha counts from the initial rate, as in Keras
        return (1 - self.alpha) * top * cosine + self.alpha * self.initial_learning_rate

    def get_config(self):
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "first_decay_steps": self.first_decay_steps,
            "t_mul": self.t_mul,
            "m_mul": self.m_mul,
            "alpha": self.alpha,
            "name": self.name,
        }


_CLASSES = {
    cls.__name__: cls
    for cls in (
        CosineDecay,
        CosineDecayRestarts,
        ExponentialDecay,
        InverseTimeDecay,
        PiecewiseConstantDecay,
        PolynomialDecay,
    )
}
serialization.know("schedule", _CLASSES)


def get(identifier):
    """Returns a schedule for a config, class or instance.

    Raises:
        ValueError, TypeError: if it is none.

    Example:
        >>> config = {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}
        >>> fastembed.schedules.get({"class_name": "ExponentialDecay", "config": config})(10)
        0.05
    """
    return serialization.get(identifier, "schedule")
