# Types of constraints.

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from numpy.typing import ArrayLike, NDArray

from fastembed import ops, serialization
from fastembed._types import Config, Floats, Int, Number

_C = TypeVar("_C", bound=Constraint)
_F = TypeVar("_F", bound=Callable[[Any], Any])
_Axis = Int | Sequence[Int] | None  # a list or tuple

class Constraint(serialization.Configurable):
    @property
    def rows(self) -> ops.RowConstraint | None: ...
    def __call__(self, w: ArrayLike) -> NDArray[Any]: ...
    def project(self, table_vd: Floats) -> None: ...
    def enforce(self, table_vd: Floats) -> None: ...

class NonNeg(Constraint): ...

class _Norm(Constraint):
    low: float
    high: float
    rate: float
    axis: int | list[int] | None

class MaxNorm(_Norm):
    max_value: float
    def __init__(self, max_value: Number = 2, axis: _Axis = 0) -> None: ...

class UnitNorm(_Norm):
    def __init__(self, axis: _Axis = 0) -> None: ...

class MinMaxNorm(_Norm):
    min_value: float
    max_value: float
    def __init__(
        self, min_value: Number = 0.0, max_value: Number = 1.0, rate: Number = 1.0, axis: _Axis = 0
    ) -> None: ...

max_norm = MaxNorm
min_max_norm = MinMaxNorm
non_neg = NonNeg
unit_norm = UnitNorm

@overload
def for_table(constraint: None) -> None: ...
@overload
def for_table(constraint: Callable[[Any], Any]) -> Constraint: ...
def warn_of_columns(constraint: Callable[[Any], Any] | None) -> None: ...
@overload
def get(identifier: None) -> None: ...
@overload
def get(identifier: str | Config) -> Constraint | Any: ...  # a function of the user's goes by its registered name
@overload
def get(identifier: type[_C]) -> _C: ...
@overload
def get(identifier: _F) -> _F | Any: ...  # one of Keras's becomes ours
