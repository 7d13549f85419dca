# Types of row-sparse gradients.

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastembed import ops
from fastembed._types import Arrays, Floats, Int, Number

class IndexedSlices:
    parts: ops.Parts
    dense_shape: tuple[int, int]
    def __init__(self, values: Arrays, indices: Arrays, dense_shape: Sequence[Int]) -> None: ...
    @classmethod
    def from_parts(cls, parts: ops.Parts, dense_shape: tuple[int, int]) -> Self: ...
    @property
    def indices(self) -> NDArray[np.signedinteger[Any]]: ...
    @property
    def values(self) -> Floats: ...
    def coalesce(self) -> IndexedSlices: ...
    def to_dense(self) -> Floats: ...
    def __add__(self, other: IndexedSlices) -> IndexedSlices: ...
    def __mul__(self, factor: Number) -> IndexedSlices: ...
    __rmul__ = __mul__
    __array_ufunc__: None
