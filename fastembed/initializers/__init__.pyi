# Types of initializers.

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastembed import ops, serialization
from fastembed._types import Config, FillRows, Floats, Int, Number, SupportsArray

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "get",
    "set_random_seed",
]

_I = TypeVar("_I", bound=Initializer)
_Shape = Sequence[int]
_Dtype = Literal["float32", "float64"] | type[np.float32] | type[np.float64] | np.dtype[Any] | None
_Seed = Int | Config | Any | None  # a SeedGenerator of Keras, or its config
_Axes = list[int] | tuple[int, ...] | None

def set_random_seed(seed: Int) -> None: ...

class Initializer(serialization.Configurable):
    row_wise: ClassVar[bool]
    scales_by_length: ClassVar[bool]
    def __call__(self, shape: _Shape, dtype: _Dtype = None) -> NDArray[Any]: ...
    def fill(self, table_vd: NDArray[Any] | ops.Rows, first_row: int = 0, num_rows: int | None = None) -> None: ...
    def filler(self, shape: tuple[int, int], again: bool = False) -> FillRows: ...
    def clone(self) -> Initializer: ...

class _Seeded(Initializer):
    seed: int | Config | None
    def __call__(self, shape: _Shape, dtype: _Dtype = None) -> Floats: ...

class Constant(Initializer):
    value: float | NDArray[Any]
    def __init__(self, value: ArrayLike | Config = 0.0) -> None: ...
    @classmethod
    def of_array(cls, array: ArrayLike) -> Constant: ...

class Zeros(Constant):
    def __init__(self) -> None: ...

class Ones(Constant):
    def __init__(self) -> None: ...

class Identity(Initializer):
    gain: float
    def __init__(self, gain: Number = 1.0) -> None: ...

class Orthogonal(_Seeded):
    gain: float
    def __init__(self, gain: Number = 1.0, seed: _Seed = None) -> None: ...

class RandomUniform(_Seeded):
    minval: float
    maxval: float
    def __init__(self, minval: Number = -0.05, maxval: Number = 0.05, seed: _Seed = None) -> None: ...

class RandomNormal(_Seeded):
    mean: float
    stddev: float
    def __init__(self, mean: Number = 0.0, stddev: Number = 0.05, seed: _Seed = None) -> None: ...

class TruncatedNormal(RandomNormal): ...

class VarianceScaling(_Seeded):
    scale: float
    mode: Literal["fan_in", "fan_out", "fan_avg"]
    distribution: Literal["truncated_normal", "untruncated_normal", "uniform"]
    input_axes: list[int] | None
    output_axes: list[int] | None
    def __init__(
        self,
        scale: Number = 1.0,
        mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in",
        distribution: Literal["truncated_normal", "normal", "untruncated_normal", "uniform"] = "truncated_normal",
        seed: _Seed = None,
        input_axes: _Axes = None,
        output_axes: _Axes = None,
    ) -> None: ...

class _Named(VarianceScaling):
    def __init__(self, seed: _Seed = None, input_axes: _Axes = None, output_axes: _Axes = None) -> None: ...

class GlorotUniform(_Named): ...
class GlorotNormal(_Named): ...
class HeUniform(_Named): ...
class HeNormal(_Named): ...
class LecunUniform(_Named): ...
class LecunNormal(_Named): ...

@overload
def get(identifier: None) -> None: ...
@overload
def get(identifier: _I | type[_I]) -> _I: ...
@overload
def get(identifier: str | Config | SupportsArray | Callable[..., Any]) -> Initializer: ...
