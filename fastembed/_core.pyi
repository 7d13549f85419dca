"""Types of the drivers, of _core and _core64. Arrays are C-contiguous; ids are int32 or int64; a suffix names the
dimensions (see README).

Functions that take ids return False where an id or a split is bad; `sort` returns the index of the groups.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]  # _core takes the first, _core64 the second
# The bytes of the rows of a table (v, row_bytes(dtype, d)), beside its dtype's number in DTYPES.
Octets = NDArray[np.uint8]
Ids = NDArray[np.int32] | NDArray[np.int64]
Splits = NDArray[np.int64]
Arguments = NDArray[np.int32]
Hyper = tuple[float, ...]  # the numbers of ops.HYPERPARAMETERS, in order
Constraint = tuple[int, float, float, float]

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

def select_isa(isa: str) -> bool: ...
def has_isa(isa: str) -> bool: ...
def row_bytes(dtype: int, d: int) -> int: ...

# The next five are tables by dtype too: `gather["int64_t"]` takes int64 ids alone.
def check_ids(ids_n: Ids, v: int) -> bool: ...
def find_unmade(ids_n: Ids, v: int, made: Octets, found_n: NDArray[np.int64]) -> int: ...
def gather(table_vb: Octets, dtype: int, ids_n: Ids, out_nd: Floats, num_threads: int) -> bool: ...
def pool(
    table_vb: Octets,
    dtype: int,
    ids_n: Ids,
    splits_b1: Splits,
    weights_n: Floats | None,
    combiner: int,
    padding: int,
    out_bd: Floats,
    arg_bd: Arguments | None,
    num_threads: int,
) -> bool: ...
def weights_gradient(
    table_vb: Octets,
    dtype: int,
    ids_n: Ids,
    splits_b1: Splits,
    weights_n: Floats | None,
    combiner: int,
    padding: int,
    upstream_bd: Floats,
    arg_bd: Arguments | None,
    out_n: Floats,
    num_threads: int,
) -> bool: ...
def group(
    ids_n: Ids,
    splits_b1: Splits | None,
    weights_n: Floats | None,
    combiner: int,
    padding: int,
    v: int,
    bags: int,
) -> Groups: ...
def sort(all_groups: list[Groups], num_threads: int) -> int: ...

class Job:
    def __init__(
        self,
        table_vb: Octets,
        dtype: int,
        d: int,
        state_vb: Octets | None,
        state_dtype: int,
        state_width: int,
        step: int,
        hyper: Hyper,
        constraint: Constraint | None,
    ) -> None: ...
    def round(self, stochastic: bool, seed: int, step: int, pass_: int) -> None: ...
    def parts(
        self, groups: Groups, upstream_bd: Floats, weights_n: Floats | None, arg_bd: Arguments | None
    ) -> None: ...
    def dense(self, grads_vd: Floats) -> None: ...
    def everywhere(self, zeros_d: Floats) -> None: ...
    def without_table(self) -> None: ...
    def columns(self, columns_d: Floats) -> None: ...
    def shape(self, factor: float, limit: float) -> None: ...
    def fade(self, fade: float) -> None: ...
    def scale(self, scales_v: Floats) -> None: ...
    def catch_up(self, last_v: Arguments, now: int, idle: bool, zeros_d: Floats) -> None: ...
    def look(self, groups: Groups) -> None: ...
    def replays(self, replays_th: Floats, first: int, step: int, most: int) -> None: ...
    def leaps(
        self,
        moments_tm: NDArray[np.float64],
        first: int,
        step: int,
        reach: int,
        endless: bool,
        weight_decay: float,
        decays: tuple[float, ...],
        powers_pn: Floats,
    ) -> None: ...
    def average(self, average_vd: Floats, averaged_v: Arguments, calls: int, keeps: float, takes: float) -> None: ...

class Pass:
    def __init__(self, jobs: list[Job], num_threads: int) -> None: ...
    def run(self) -> list[list[float]]: ...

def broken(table_vd: Floats, constraint: Constraint, num_threads: int) -> int: ...
def project(table_vd: Floats, constraint: Constraint, num_threads: int) -> None: ...
def decode(table_vb: Octets, dtype: int, values_vd: Floats, num_threads: int) -> None: ...
def encode_rows(
    table_vb: Octets,
    dtype: int,
    values_vd: Floats,
    first_row: int,
    stochastic: bool,
    seed: int,
    step: int,
    num_threads: int,
) -> None: ...
def finite(x_n: Floats, num_threads: int) -> bool: ...
def sums(table_vd: Floats, num_threads: int) -> tuple[float, float]: ...
def count_unique(groups: Groups) -> int: ...
def touched(groups: Groups, rows_n: NDArray[np.int64]) -> int: ...
def reduce(
    groups: Groups,
    upstream_bd: Floats,
    weights_n: Floats | None,
    arg_bd: Arguments | None,
    rows_u: NDArray[np.int64],
    values_ud: Floats,
    num_threads: int,
) -> None: ...
def fill(
    out_vd: Floats,
    kind: int,
    values: Floats | None,
    a: float,
    b: float,
    p_low: float,
    p_span: float,
    seed: int,
    first_row: int,
    numbers: NDArray[np.int64] | None,
    num_threads: int,
) -> None: ...
