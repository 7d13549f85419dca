# Types that the stubs of several modules share.
#
# May import: what they name. Do not break: nothing of this is there at run time; a program that wants a name of it
# imports it under `typing.TYPE_CHECKING`.
#
# A return type with `| Any` means: something else may come back, and nobody has to ask which.

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastembed.constraints import Constraint
from fastembed.initializers import Initializer
from fastembed.layers import Embedding
from fastembed.optimizers import Optimizer
from fastembed.ragged import Ragged
from fastembed.regularizers import Regularizer
from fastembed.schedules import LearningRateSchedule
from fastembed.slices import IndexedSlices
from fastembed.table import Table

# ---- plain values ----------------------------------------------------------------------------------------------------

Int: TypeAlias = int | np.integer[Any]
Number: TypeAlias = float | np.floating[Any] | np.integer[Any]
Flag: TypeAlias = bool | np.bool_
StrPath: TypeAlias = str | PathLike[str]
Config: TypeAlias = dict[str, Any]  # JSON values
CustomObjects: TypeAlias = Mapping[str, Callable[..., Any]]
Progress: TypeAlias = Callable[[int, int], object]  # is told (done, in all)

# ---- arrays ----------------------------------------------------------------------------------------------------------

Floats: TypeAlias = NDArray[np.floating[Any]]  # float32, unless the table, or what is summed, is of another dtype

class SupportsDLPack(Protocol):
    """Tensors of frameworks."""

    def __dlpack__(self) -> Any: ...
    def __dlpack_device__(self) -> Any: ...

class SupportsArray(Protocol):
    """Arrays, tables, tensors."""

    def __array__(self) -> Any: ...

Arrays: TypeAlias = ArrayLike | SupportsDLPack  # whatever NumPy reads; see ops.array_of
# A function (values_ud, rows_u) that writes the values of rows of these numbers.
FillRows: TypeAlias = Callable[[NDArray[Any], NDArray[np.int64]], object]

# ---- names -----------------------------------------------------------------------------------------------------------

Combiner: TypeAlias = Literal["sum", "mean", "sqrtn", "max"]
MmapMode: TypeAlias = Literal["r", "r+", "c"]
Quantised: TypeAlias = Literal["int8", "int4", "int2"]
Version: TypeAlias = Literal[2, 3]  # of Keras
StorageName: TypeAlias = Literal["float32", "float64", "bfloat16", "float16", "int8", "int4", "int2"]
StorageLike: TypeAlias = StorageName | np.dtype[Any] | type[Any]

class Named(Protocol):
    """Such as a policy of Keras."""

    @property
    def name(self) -> str: ...

PolicyName: TypeAlias = Literal[
    "float32",
    "float64",
    "bfloat16",
    "float16",
    "mixed_float16",
    "mixed_bfloat16",
    "int8_from_float32",
    "int4_from_float32",
    "int2_from_float32",
]
PolicyLike: TypeAlias = (
    PolicyName | str | type[Any] | np.dtype[Any] | Named | Config | None
)  # int4/256_from_float32, ...

# ---- identifiers -----------------------------------------------------------------------------------------------------

class KerasOptimizer(Protocol):
    """Ours, and Keras's."""

    def apply_gradients(self, grads_and_vars: Any) -> Any: ...
    def get_config(self) -> Any: ...

InitializerLike: TypeAlias = Initializer | type[Any] | str | Config | SupportsArray | Callable[..., Any] | None
RegularizerLike: TypeAlias = Regularizer | type[Any] | str | Config | Callable[[Any], Any] | None
ConstraintLike: TypeAlias = Constraint | type[Any] | str | Config | Callable[[Any], Any] | None
OptimizerLike: TypeAlias = Optimizer | type[Optimizer] | str | Config | KerasOptimizer
LearningRate: TypeAlias = Number | LearningRateSchedule | Callable[[int], float] | Config

# ---- trainings -------------------------------------------------------------------------------------------------------

Gradient: TypeAlias = IndexedSlices | Arrays
Variable: TypeAlias = Table | NDArray[Any]
Trained: TypeAlias = Embedding | Table | NDArray[Any]
Ids: TypeAlias = Ragged | Arrays
