# Types of estimates of memory.

from typing import NamedTuple

from fastembed._types import Int, OptimizerLike, StorageLike

class Estimate(NamedTuple):
    input_dim: int
    output_dim: int
    dtype: str
    optimizer: str | None
    table: int
    state: int
    available: int
    @property
    def total(self) -> int: ...
    @property
    def fits(self) -> bool: ...

def estimate(
    input_dim: Int, output_dim: Int, dtype: StorageLike = "float32", optimizer: OptimizerLike | None = None
) -> Estimate: ...
