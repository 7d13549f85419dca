"""Types of the drivers, of _core and _core64. Arrays are C-contiguous; ids are int32 or int64; a suffix names the
dimensions (see README).

Functions that take ids return False where an id or a split is bad; `sort` returns the index of the groups.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32] | NDArray[np.float64]  # _core takes the first, _core64 the second
# The bytes of the rows of a table (v, row_bytes(dtype, d)), beside its dtype's number in DTYPES.
_Octets = NDArray[np.uint8]
_Ids = NDArray[np.int32] | NDArray[np.int64]
_Splits = NDArray[np.int64]
_Arguments = NDArray[np.int32]
_Hyper = tuple[float, ...]  # the numbers of ops.HYPERPARAMETERS, in order
_Constraint = tuple[int, float, float, float]

SUM: Final[int]
MEAN: Final[int]
SQRTN: Final[int]
MAX: Final[int]
UNIFORM: Final[int]
NORMAL: Final[int]
ROW: Final[int]
NON_NEG: Final[int]
NORM: Final[int]
OPENMP: Final[int]
STEPS: Final[tuple[str, ...]]
DTYPES: Final[tuple[str, ...]]

class Groups:
    num_rows: Final[int]
    unique: Final[int]
    @property
    def num_parts(self) -> int: ...

def max_threads() -> int: ...
def end_team() -> bool: ...
def select_isa(isa: str) -> bool: ...
def has_isa(isa: str) -> bool: ...
def row_bytes(dtype: int, d: int) -> int: ...

# The next five are tables by dtype too: `gather["int64_t"]` takes int64 ids alone.
def check_ids(ids_n: _Ids, v: int) -> bool: ...
def find_unmade(ids_n: _Ids, v: int, made: _Octets, found_n: NDArray[np.int64]) -> int: ...
def gather(table_vb: _Octets, dtype: int, ids_n: _Ids, out_nd: _Floats, num_threads: int) -> bool: ...
def pool(
    table_vb: _Octets,
    dtype: int,
    ids_n: _Ids,
    splits_b1: _Splits,
    weights_n: _Floats | None,
    combiner: int,
    padding: int,
    out_bd: _Floats,
    arg_bd: _Arguments | None,
    num_threads: int,
) -> bool: ...
def weights_gradient(
    table_vb: _Octets,
    dtype: int,
    ids_n: _Ids,
    splits_b1: _Splits,
    weights_n: _Floats | None,
    combiner: int,
    padding: int,
    upstream_bd: _Floats,
    arg_bd: _Arguments | None,
    out_n: _Floats,
    num_threads: int,
) -> bool: ...
def group(
    ids_n: _Ids,
    splits_b1: _Splits | None,
    weights_n: _Floats | None,
    combiner: int,
    padding: int,
    v: int,
    bags: int,
) -> Groups: ...
def sort(all_groups: list[Groups], num_threads: int) -> int: ...

class Job:
    def __new__(
        cls,
        table_vb: _Octets,
        dtype: int,
        d: int,
        state_vb: _Octets | None,
        state_dtype: int,
        state_width: int,
        step: int,
        hyper: _Hyper,
        constraint: _Constraint | None,
    ) -> Job: ...
    def round(self, stochastic: bool, seed: int, step: int, pass_: int) -> None: ...
    def parts(
        self, groups: Groups, upstream_bd: _Floats, weights_n: _Floats | None, arg_bd: _Arguments | None
    ) -> None: ...
    def dense(self, grads_vd: _Floats) -> None: ...
    def everywhere(self, zeros_d: _Floats) -> None: ...
    def without_table(self) -> None: ...
    def columns(self, columns_d: _Floats) -> None: ...
    def shape(self, factor: float, limit: float) -> None: ...
    def fade(self, fade: float) -> None: ...
    def scale(self, scales_v: _Floats) -> None: ...
    def catch_up(self, last_v: _Arguments, now: int, idle: bool, zeros_d: _Floats) -> None: ...
    def look(self, groups: Groups) -> None: ...
    def replays(self, replays_th: _Floats, first: int, step: int, most: int) -> None: ...
    def leaps(
        self,
        moments_tm: NDArray[np.float64],
        first: int,
        step: int,
        reach: int,
        endless: bool,
        weight_decay: float,
        decays: tuple[float, ...],
        powers_pn: _Floats,
    ) -> None: ...
    def average(self, average_vd: _Floats, averaged_v: _Arguments, calls: int, keeps: float, takes: float) -> None: ...

class Pass:
    def __new__(cls, jobs: list[Job], num_threads: int) -> Pass: ...
    def run(self) -> list[list[float]]: ...

def broken(table_vd: _Floats, constraint: _Constraint, num_threads: int) -> int: ...
def project(table_vd: _Floats, constraint: _Constraint, num_threads: int) -> None: ...
def decode(table_vb: _Octets, dtype: int, values_vd: _Floats, num_threads: int) -> None: ...
def encode_rows(
    table_vb: _Octets,
    dtype: int,
    values_vd: _Floats,
    first_row: int,
    stochastic: bool,
    seed: int,
    step: int,
    num_threads: int,
) -> None: ...
def finite(x_n: _Floats, num_threads: int) -> bool: ...
def sums(table_vd: _Floats, num_threads: int) -> tuple[float, float]: ...
def count_unique(groups: Groups) -> int: ...
def touched(groups: Groups, rows_n: NDArray[np.int64]) -> int: ...
def reduce(
    groups: Groups,
    upstream_bd: _Floats,
    weights_n: _Floats | None,
    arg_bd: _Arguments | None,
    rows_u: NDArray[np.int64],
    values_ud: _Floats,
    num_threads: int,
) -> None: ...
def fill(
    out_vd: _Floats,
    kind: int,
    values: _Floats | None,
    a: float,
    b: float,
    p_low: float,
    p_span: float,
    seed: int,
    first_row: int,
    numbers: NDArray[np.int64] | None,
    num_threads: int,
) -> None: ...
