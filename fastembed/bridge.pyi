# Types of what the bridges to frameworks share.

from typing import Any

from numpy.typing import NDArray

from fastembed._types import Arrays, Floats, OptimizerLike
from fastembed.layers import Embedding
from fastembed.optimizers import Optimizer

class Trained:
    layer: Embedding | Any  # or an EmbeddingBag
    def __init__(self, layer: Embedding, optimizer: OptimizerLike | None = None) -> None: ...
    @property
    def optimizer(self) -> Optimizer | None: ...
    @optimizer.setter
    def optimizer(self, optimizer: OptimizerLike | None) -> None: ...
    @property
    def trains(self) -> bool: ...
    @property
    def pools(self) -> bool: ...
    def look_up(
        self,
        ids: Arrays,
        row_splits: Arrays | None = None,
        weights: Arrays | None = None,
        out: NDArray[Any] | None = None,
    ) -> Floats: ...
    def collect(
        self, ids: Arrays, upstream: Arrays, row_splits: Arrays | None = None, weights: Arrays | None = None
    ) -> None: ...
    def weights_gradient(
        self,
        ids: Arrays,
        upstream: Arrays,
        row_splits: Arrays | None = None,
        weights: NDArray[Any] | None = None,
    ) -> Floats: ...
    def take(self) -> list[Any] | None: ...
    def step(self) -> None: ...
