# Types of optimizers. The arguments that all of them take are the keys of `_Base`.

from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastembed import ops, serialization
from fastembed import schedules as schedules
from fastembed._types import Config, Floats, Gradient, Int, KerasOptimizer, LearningRate, Number, StrPath, Variable
from fastembed.table import Table

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "LossScaleOptimizer",
    "Nadam",
    "Optimizer",
    "PartialRowwiseAdam",
    "RMSprop",
    "RowwiseAdagrad",
    "RowwiseLARS",
    "RowwiseLamb",
    "RowwiseRMSprop",
    "get",
]

_O = TypeVar("_O", bound=Optimizer)
_L = TypeVar("_L")
_Mode = Literal["skip", "dense", "catch_up"]
_Hyper = dict[str, Any]

class _BaseButDecay(TypedDict, total=False):
    clipnorm: Number | None
    global_clipnorm: Number | None
    clipvalue: Number | None
    use_ema: bool
    ema_momentum: Number
    ema_overwrite_frequency: Int | None
    loss_scale_factor: Number | None
    gradient_accumulation_steps: Int | None
    untouched: _Mode
    on_nonfinite: Literal["raise", "skip"]
    state_dtype: Literal["float32", "bfloat16", "int8"]
    rounding: Literal["stochastic", "nearest"]
    rounding_seed: Int
    path: StrPath | None

class _Base(_BaseButDecay, total=False):
    weight_decay: Number | None

class Optimizer(serialization.Configurable):
    name: str
    weight_decay: float | None
    clipnorm: float | None
    global_clipnorm: float | None
    clipvalue: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    untouched: _Mode
    on_nonfinite: Literal["raise", "skip"]
    state_dtype: Literal["float32", "bfloat16", "int8"]
    rounding: Literal["stochastic", "nearest"]
    rounding_seed: int
    calls: int
    skipped: int
    # What a subclass says of itself.
    ranges: ClassVar[Mapping[str, Any]]
    legacy_decay: ClassVar[float]
    modes: ClassVar[tuple[str, ...]]
    decoupled: ClassVar[bool]
    reads_all_rows: ClassVar[bool]
    at_rest: Literal["nothing", "state", "weights"]
    idle: bool
    real: np.dtype[Any]
    plan: Any
    most_replayed: int
    def __init__(
        self, learning_rate: LearningRate, name: str | None, base: dict[str, Any], own: dict[str, Any] | None = None
    ) -> None: ...
    def step(self, ndim: int = 2) -> str: ...
    def first_step(self, ndim: int) -> str: ...
    def initial(self) -> dict[str, float]: ...
    def begin(self, rows: ops.Rows, ndim: int, weight_decay: float) -> dict[str, Any]: ...
    def hyper(self, t: int, rate: float) -> _Hyper: ...
    def num_passes(self, ndim: int) -> int: ...
    def refresh(self, kept: Any) -> None: ...
    def recount(self, kept: Any) -> None: ...
    def settle(self, kept: Any) -> None: ...
    def passes(
        self, t: int, rate: float, own: dict[str, Any], all_rows: bool
    ) -> Generator[tuple[str, _Hyper], Any]: ...
    def rounded(self, value: float) -> float: ...
    def decays(self) -> tuple[float, ...] | None: ...
    def drift(
        self, t: int, rate: float, n_k1: NDArray[np.float64], r_p: NDArray[np.float64]
    ) -> float | NDArray[np.float64]: ...
    @property
    def iterations(self) -> int: ...
    @iterations.setter
    def iterations(self, value: Int) -> None: ...
    @property
    def learning_rate(self) -> float: ...
    @learning_rate.setter
    def learning_rate(self, value: LearningRate) -> None: ...
    @property
    def variables(self) -> list[NDArray[Any]]: ...
    def state(self, variable: Variable) -> dict[str, NDArray[Any]]: ...
    def bytes_of_row(self, storage: str, dim: int) -> int: ...
    def average(self, variable: Variable) -> Floats: ...
    def finalize_variable_values(self, variables: Iterable[Variable]) -> None: ...
    def catch_up(self, variable: Variable | None = None) -> None: ...
    def held(self, variables: Iterable[Variable]) -> AbstractContextManager[Any]: ...
    def settings(self) -> dict[str, Any]: ...
    def described(self) -> dict[str, Any]: ...
    def snapshot(self) -> tuple[dict[str, Any], list[Any]]: ...
    def restored(self, variable: Variable, numbers: dict[str, Any], arrays: dict[str, Any]) -> Any: ...
    def restore(self, numbers: dict[str, Any], variables: list[Any]) -> None: ...
    def flush(self) -> None: ...
    @overload
    def scale_loss(self, loss: float) -> float: ...
    @overload
    def scale_loss(self, loss: _L) -> _L: ...
    def exclude_from_weight_decay(
        self, var_list: Iterable[Variable] | None = None, var_names: Iterable[str] | None = None
    ) -> None: ...
    def decay_of(self, kept: Any) -> float: ...
    def build(self, variables: Iterable[Variable]) -> None: ...
    def kept_of(self, table: Table) -> Any: ...
    def apply(self, gradients: Iterable[Gradient], variables: Iterable[Variable]) -> None: ...
    def apply_gradients(self, grads_and_vars: Iterable[tuple[Gradient, Variable]]) -> None: ...
    def rounding_of(self, kept: Any) -> ops.Rounding | None: ...

# ---- Keras's ---------------------------------------------------------------------------------------------------------

class SGD(Optimizer):
    momentum: float
    nesterov: bool
    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: Number = 0.0,
        nesterov: bool = False,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class RMSprop(Optimizer):
    rho: float
    momentum: float
    epsilon: float
    centered: bool
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: Number = 0.9,
        momentum: Number = 0.0,
        epsilon: Number = 1e-7,
        centered: bool = False,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class _Moments(Optimizer):
    beta_1: float
    beta_2: float
    epsilon: float
    fade: float
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...
    def corrections(self, t: int) -> tuple[float, float]: ...

class Adam(_Moments):
    amsgrad: bool
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        amsgrad: bool = False,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class AdamW(Adam):
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: Number = 0.004,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        amsgrad: bool = False,
        name: str | None = None,
        **base: Unpack[_BaseButDecay],
    ) -> None: ...

class Adadelta(Optimizer):
    rho: float
    epsilon: float
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: Number = 0.95,
        epsilon: Number = 1e-7,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class Adagrad(Optimizer):
    initial_accumulator_value: float
    epsilon: float
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: Number = 0.1,
        epsilon: Number = 1e-7,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class Adamax(_Moments): ...

class Adafactor(Optimizer):
    beta_2_decay: float
    epsilon_1: float
    epsilon_2: float
    clip_threshold: float
    relative_step: bool
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_2_decay: Number = -0.8,
        epsilon_1: Number = 1e-30,
        epsilon_2: Number = 1e-3,
        clip_threshold: Number = 1.0,
        relative_step: bool = True,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class Nadam(_Moments): ...

class Ftrl(Optimizer):
    learning_rate_power: float
    initial_accumulator_value: float
    l1_regularization_strength: float
    l2_regularization_strength: float
    l2_shrinkage_regularization_strength: float
    beta: float
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        learning_rate_power: Number = -0.5,
        initial_accumulator_value: Number = 0.1,
        l1_regularization_strength: Number = 0.0,
        l2_regularization_strength: Number = 0.0,
        l2_shrinkage_regularization_strength: Number = 0.0,
        beta: Number = 0.0,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class Lion(Optimizer):
    beta_1: float
    beta_2: float
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.99,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class Lamb(_Moments): ...

class LossScaleOptimizer(Optimizer):
    inner_optimizer: Optimizer
    initial_scale: float
    dynamic_growth_steps: int
    scale: float
    step_counter: int
    @property  # type: ignore[misc]  # that of the inner optimizer is set
    def iterations(self) -> int: ...
    def __init__(
        self,
        inner_optimizer: Optimizer | Config,
        initial_scale: Number = 2.0**15,
        dynamic_growth_steps: Int = 2000,
        name: str | None = None,
        **base: Any,  # Keras writes defaults in its configs; nothing else is taken
    ) -> None: ...

# ---- ours: of rows ---------------------------------------------------------------------------------------------------

class RowwiseAdagrad(Adagrad):
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: Number = 0.0,
        epsilon: Number = 1e-8,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class PartialRowwiseAdam(_Moments):
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-8,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

class RowwiseLamb(_Moments):
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-8,
        weight_decay: Number = 0.0,
        name: str | None = None,
        **base: Unpack[_BaseButDecay],
    ) -> None: ...

class RowwiseLARS(Optimizer):
    momentum: float
    eta: float
    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: Number = 0.9,
        eta: Number = 0.001,
        weight_decay: Number = 0.0,
        name: str | None = None,
        **base: Unpack[_BaseButDecay],
    ) -> None: ...

class RowwiseRMSprop(Optimizer):
    rho: float
    epsilon: float
    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: Number = 0.9,
        epsilon: Number = 1e-8,
        name: str | None = None,
        **base: Unpack[_Base],
    ) -> None: ...

@overload
def get(identifier: None) -> None: ...
@overload
def get(identifier: _O | type[_O]) -> _O: ...
@overload
def get(identifier: str | Config | KerasOptimizer) -> Optimizer: ...
