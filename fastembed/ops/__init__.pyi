# Types of the functions on plain arrays; `Rows` and arrays of a storage dtype are both tables to them.

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastembed._core import Groups
from fastembed._types import Arrays, Combiner, Floats, Int, StorageName

_Table: TypeAlias = NDArray[Any] | Rows
_Ids: TypeAlias = NDArray[np.signedinteger[Any]]  # flat, int32 or int64
_Splits: TypeAlias = NDArray[np.int64]
_Hyper: TypeAlias = dict[str, Any]  # floats; and "columns", an array

INSTRUCTION_SETS: Final[tuple[str, ...]]
COMBINERS: Final[dict[str, int]]
HYPERPARAMETERS: Final[tuple[str, ...]]
DIM: Final = "dim"
ROW: Final = "row"
STATES: Final[dict[str, dict[str, str]]]
NON_NEG: Final[int]
NORM: Final[int]
isa: str
openmp: int

def usable_isas() -> list[str]: ...

class Core:
    module: ModuleType
    real: np.dtype[Any]
    codes: dict[str, int]
    def __init__(self, module: ModuleType, real: np.dtype[Any]) -> None: ...

def core_of(dtype: np.dtype[Any]) -> Core: ...

# ---- checks ----------------------------------------------------------------------------------------------------------

def array_of(array: Arrays, name: str) -> NDArray[Any]: ...
def flat_ids(ids: Arrays, name: str = "ids") -> tuple[_Ids, tuple[int, ...]]: ...
def explain_ids(ids_n: _Ids, num_rows: int, shape: tuple[int, ...] | None = None, name: str = "ids") -> None: ...
def check_ids(ids_n: _Ids, num_rows: int, name: str = "ids") -> None: ...
def unmade(ids_n: _Ids, num_rows: int, made: NDArray[np.uint8]) -> NDArray[np.int64]: ...
def check_splits(row_splits: Arrays, num_values: int) -> _Ids: ...

class Rows:
    octets_vb: NDArray[np.uint8]
    code: int
    core: Core
    dim: int
    def __init__(self, octets_vb: NDArray[np.uint8], storage: StorageName, dim: int) -> None: ...
    def __len__(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def storage(self) -> StorageName: ...
    @property
    def real(self) -> np.dtype[Any]: ...
    @property
    def coded(self) -> bool: ...

def rows_of(table: _Table, name: str = "table", writeable: bool = False, dim: int | None = None) -> Rows: ...
def check_table(table: _Table, name: str = "table", writeable: bool = False) -> Core: ...
def check_floats(
    array: Arrays, shape: tuple[int | None, ...], name: str, dtype: np.dtype[Any] | None = ...
) -> Floats: ...
def check_out(out: NDArray[Any], shape: tuple[int, ...], inputs: Any, dtype: np.dtype[Any]) -> NDArray[Any]: ...

# ---- look-ups --------------------------------------------------------------------------------------------------------

def gather(table: _Table, ids: Arrays, out: NDArray[Any] | None = None) -> Floats: ...
def pool(
    table: _Table,
    ids: Arrays,
    row_splits: Arrays,
    weights: Arrays | None = None,
    combiner: Combiner = "sum",
    out: NDArray[Any] | None = None,
    padding_idx: Int | None = None,
) -> Floats: ...
def pool_checked(
    rows: _Table,
    ids_n: _Ids,
    splits_b1: _Splits,
    weights: Arrays | None = None,
    combiner: Combiner = "sum",
    out: NDArray[Any] | None = None,
    padding_idx: Int | None = None,
    shape: tuple[int, ...] | None = None,
) -> Floats: ...
def argmax(
    rows: _Table, ids_n: _Ids, splits_b1: _Splits, weights: Arrays | None = None, padding_idx: Int | None = None
) -> NDArray[np.int32]: ...
def weights_gradient(
    rows: _Table,
    ids_n: _Ids,
    splits_b1: _Splits,
    weights: Arrays,
    combiner: Combiner,
    upstream: Arrays,
    padding_idx: Int | None = None,
) -> Floats: ...
def check_padding(padding_idx: Int | None, num_rows: int = ...) -> int: ...

# ---- updates ---------------------------------------------------------------------------------------------------------

class Parts(NamedTuple):
    ids_n: _Ids
    splits_b1: _Splits | None
    weights_n: Floats | None
    combiner: int
    padding: int
    upstream_bd: Floats
    argmax_bd: NDArray[np.int32] | None

def parts(
    ids: Arrays,
    upstream: Arrays,
    row_splits: Arrays | None = None,
    weights: Arrays | None = None,
    combiner: Combiner = "sum",
    padding_idx: Int | None = None,
    argmax: NDArray[np.int32] | None = None,
) -> Parts: ...
def parts_checked(
    ids_n: _Ids,
    upstream: Arrays,
    splits_b1: _Splits | None = None,
    weights: Arrays | None = None,
    combiner: Combiner = "sum",
    padding_idx: Int | None = None,
    argmax: NDArray[np.int32] | None = None,
) -> Parts: ...
def joined(first: Parts, second: Parts) -> Parts | None: ...
def parts_as(parts: Parts, dtype: np.dtype[Any]) -> Parts: ...
def group(parts: Parts, num_rows: int) -> Groups: ...
def group_all(gradients: list[tuple[Parts, int]]) -> list[Groups]: ...
def look_parts(
    ids_n: _Ids, splits_b1: _Splits | None = None, combiner: Combiner = "sum", padding_idx: Int | None = None
) -> Parts: ...
def group_look(parts: Parts, rows: Rows) -> Groups | None: ...
def same_groups(one: Parts, other: Parts) -> bool: ...
def touched(groups: Groups, rows: Rows) -> NDArray[np.int64]: ...
def reduce(parts: Parts, groups: Groups) -> tuple[NDArray[np.int64], Floats]: ...
def state_parts(step: str, dim: int) -> dict[str, slice]: ...
def state_width(step: str, dim: int) -> int: ...
def check_state_dtype(step: str, storage: str) -> None: ...

class Missed(NamedTuple):
    last_v: NDArray[np.int32]
    now: int
    idle: bool
    step: str
    first: int
    replays: Floats | None = None
    most: int = ...
    moments: NDArray[np.float64] | None = None
    reach: int = 0
    endless: bool = False
    weight_decay: float = 0.0
    decays: tuple[float, ...] = ()
    powers: Floats | None = None

def powers(decays: tuple[float, ...], real: np.dtype[Any] = ..., count: int = 512) -> Floats: ...

class Average(NamedTuple):
    average_vd: Floats
    averaged_v: NDArray[np.int32]
    calls: int
    keeps: float
    takes: float

class Rounding(NamedTuple):
    seed: int
    step: int
    pass_: int = 0

class Update(NamedTuple):
    table: _Table
    gradient: Parts | Floats | None
    step: str | None
    hyper: _Hyper
    state: _Table | None = None
    groups: Groups | None = None
    constraint: RowConstraint | None = None
    everywhere: bool = False
    factor: float = 1.0
    limit: float = ...
    fade: float = 0.0
    scales: Floats | None = None
    missed: Missed | None = None
    average: Average | None = None
    rounding: Rounding | None = None

def check_trains(rows: Rows, name: str = "table") -> None: ...
def numbers(hyper: _Hyper) -> tuple[float, ...]: ...
def run(updates: list[Update]) -> list[list[float]]: ...
def finite(gradient: Parts | Floats) -> bool: ...
def update(
    table: NDArray[Any],
    parts: Parts,
    step: str,
    hyper: _Hyper,
    state: _Table | None = None,
    groups: Groups | None = None,
    constraint: RowConstraint | None = None,
    rounding: Rounding | None = None,
) -> None: ...
def update_dense(
    table: NDArray[Any],
    gradient: Arrays,
    step: str,
    hyper: _Hyper,
    state: _Table | None = None,
    constraint: RowConstraint | None = None,
    rounding: Rounding | None = None,
) -> None: ...

class RowConstraint(NamedTuple):
    kind: int
    low: float = 0.0
    high: float = 0.0
    rate: float = 1.0

def constrain(table: Floats, constraint: RowConstraint) -> bool: ...
def project(table: Floats, constraint: RowConstraint) -> None: ...

# ---- whole tables ----------------------------------------------------------------------------------------------------

def row_bytes(storage: StorageName, dim: int) -> int: ...
def zeros(shape: tuple[int, int], storage: StorageName = "float32", sparse: bool = False) -> NDArray[Any]: ...
def zeros_like(array: NDArray[Any], num_rows: int, sparse: bool = False) -> NDArray[Any]: ...
def sparse_zeros(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]: ...
def resized(held: list[NDArray[Any]], num_rows: int) -> NDArray[Any] | None: ...
def decode(table: _Table, rows: slice = ...) -> Floats: ...
def encode(table: _Table, values: Floats, first_row: int = 0, rounding: Rounding | None = None) -> None: ...
def check_codes(table: Rows, values: Floats, first_row: int = 0) -> None: ...
def blocks(table: _Table, elements: int | None = ...) -> list[slice]: ...
def change(table: _Table, function: Callable[[Floats, int], object]) -> None: ...
def sums(array: ArrayLike | Rows) -> tuple[float, float]: ...
def fill(
    table: Floats,
    kind: Literal["uniform", "normal", "truncated_normal", "row"],
    a: float = 0.0,
    b: float = 0.0,
    seed: int = 0,
    first_row: int = 0,
    row: Arrays | None = None,
    numbers: NDArray[np.int64] | None = None,
) -> None: ...
