# Types of learning-rate schedules.

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from fastembed import serialization
from fastembed._types import Config, Number

_S = TypeVar("_S", bound=LearningRateSchedule)
_F = TypeVar("_F", bound=Callable[[int], float])

class LearningRateSchedule(serialization.Configurable):
    def __call__(self, step: int) -> float: ...

class _Decay(LearningRateSchedule):
    initial_learning_rate: float
    decay_steps: float
    name: str

class _RateDecay(_Decay):
    decay_rate: float
    staircase: bool
    def __init__(
        self,
        initial_learning_rate: Number,
        decay_steps: Number,
        decay_rate: Number,
        staircase: bool = False,
        name: str | None = None,
    ) -> None: ...

class ExponentialDecay(_RateDecay): ...
class InverseTimeDecay(_RateDecay): ...

class PolynomialDecay(_Decay):
    end_learning_rate: float
    power: float
    cycle: bool
    def __init__(
        self,
        initial_learning_rate: Number,
        decay_steps: Number,
        end_learning_rate: Number = 0.0001,
        power: Number = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None: ...

class PiecewiseConstantDecay(LearningRateSchedule):
    boundaries: Sequence[Number]
    values: Sequence[Number]
    name: str
    def __init__(
        self,
        boundaries: list[int] | list[float] | tuple[Number, ...],
        values: list[int] | list[float] | tuple[Number, ...],
        name: str = "PiecewiseConstant",
    ) -> None: ...

class CosineDecay(_Decay):
    alpha: float
    warmup_target: float | None
    warmup_steps: float
    def __init__(
        self,
        initial_learning_rate: Number,
        decay_steps: Number,
        alpha: Number = 0.0,
        name: str = "CosineDecay",
        warmup_target: Number | None = None,
        warmup_steps: Number = 0,
    ) -> None: ...

class CosineDecayRestarts(LearningRateSchedule):
    initial_learning_rate: float
    first_decay_steps: float
    t_mul: float
    m_mul: float
    alpha: float
    name: str
    def __init__(
        self,
        initial_learning_rate: Number,
        first_decay_steps: Number,
        t_mul: Number = 2.0,
        m_mul: Number = 1.0,
        alpha: Number = 0.0,
        name: str = "SGDRDecay",
    ) -> None: ...

@overload
def get(identifier: None) -> None: ...
@overload
def get(identifier: str | Config) -> LearningRateSchedule | Any: ...  # or what the user has registered
@overload
def get(identifier: type[_S]) -> _S: ...
@overload
def get(identifier: _F) -> _F | Any: ...  # one of Keras's becomes ours
