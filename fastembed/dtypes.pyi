# Types of storage dtypes and Keras dtype policies, which go by their names.

from typing import Any, Final, NamedTuple

import numpy as np

from fastembed._types import Config, PolicyLike, Quantised, StorageLike, StorageName

FLOAT32: Final[np.dtype[np.float32]]
FLOAT64: Final[np.dtype[np.float64]]
INT32: Final[np.dtype[np.int32]]
INT64: Final[np.dtype[np.int64]]
PLAIN: Final[tuple[str, ...]]
QUANTISED: Final[dict[str, int]]
STORAGE: Final[tuple[str, ...]]
TRAINING: Final[tuple[str, ...]]

class Policy(NamedTuple):
    name: str
    storage: str
    compute: np.dtype[Any]

def storage(dtype: StorageLike, argument: str = "dtype") -> StorageName: ...
def real(storage: str) -> np.dtype[np.float32] | np.dtype[np.float64]: ...
def bfloat16() -> np.dtype[Any]: ...
def of_rows(storage: StorageName, dim: int) -> np.dtype[Any]: ...
def name_of(dtype: np.dtype[Any]) -> tuple[StorageName | None, int]: ...
def policy(dtype: PolicyLike) -> Policy: ...
def serialized(name: str) -> Config | str: ...
def quantised(name: str, mode: Quantised, dim: int) -> str: ...
def source(name: str) -> str: ...
