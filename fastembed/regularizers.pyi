# Types of regularizers.

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastembed import ops, serialization
from fastembed._types import Config, Floats, Number

_R = TypeVar("_R", bound=Regularizer)
_F = TypeVar("_F", bound=Callable[[Any], Any])
_Rows = NDArray[np.integer[Any]]

class Regularizer(serialization.Configurable):
    def __call__(self, x: ArrayLike) -> float: ...
    def gradient(self, x: ArrayLike) -> Floats: ...
    def rows_gradient(self, x: ArrayLike, rows: _Rows) -> Floats: ...

class L1L2(Regularizer):
    of_elements: ClassVar[bool]
    l1: float
    l2: float
    def __init__(self, l1: Number | None = 0.0, l2: Number | None = 0.0) -> None: ...
    def __call__(self, x: ArrayLike | ops.Rows) -> float: ...

class L1(L1L2):
    def __init__(self, l1: Number | None = 0.01, *, l: Number = ...) -> None: ...

class L2(L1L2):
    def __init__(self, l2: Number | None = 0.01, *, l: Number = ...) -> None: ...

class OrthogonalRegularizer(Regularizer):
    factor: float
    mode: Literal["rows", "columns"]
    def __init__(self, factor: Number | None = 0.01, mode: Literal["rows", "columns"] = "rows") -> None: ...

def l1_l2(l1: Number | None = 0.01, l2: Number | None = 0.01) -> L1L2: ...

l1 = L1
l2 = L2
orthogonal_regularizer = OrthogonalRegularizer

@overload
def get(identifier: None) -> None: ...
@overload
def get(identifier: str | Config) -> Regularizer | Any: ...  # a function of the user's goes by its registered name
@overload
def get(identifier: type[_R]) -> _R: ...
@overload
def get(identifier: _F) -> _F | Any: ...  # one of Keras's becomes ours
