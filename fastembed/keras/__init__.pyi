# Types of the layers for Keras models. Tensors are those of Keras's backend, and Any.

from collections.abc import Sequence
from typing import Any, Self, TypeVar

import keras
from numpy.typing import NDArray

from fastembed import layers, optimizers
from fastembed._types import (
    Arrays,
    Combiner,
    Config,
    ConstraintLike,
    Flag,
    InitializerLike,
    Int,
    MmapMode,
    OptimizerLike,
    RegularizerLike,
    StrPath,
)
from fastembed.table import Table

__all__ = ["Embedding", "EmbeddingBag", "convert"]

_M = TypeVar("_M", bound=keras.Model)

class Embedding(keras.layers.Layer):
    layer: layers.Embedding | Any  # or an EmbeddingBag
    def __init__(
        self,
        input_dim: Int,
        output_dim: Int,
        embeddings_initializer: InitializerLike = "uniform",
        embeddings_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        embeddings_constraint: ConstraintLike = None,
        mask_zero: Flag = False,
        input_length: Int | Sequence[Int | None] | None = None,
        weights: Arrays | Sequence[Arrays] | None = None,
        *,
        table_optimizer: OptimizerLike | None = None,
        path: StrPath | None = None,
        mmap_mode: MmapMode = "r+",
        lazy: Flag = False,
        padding_idx: Int | None = None,
        combiner: None = None,
        **kwargs: Any,
    ) -> None: ...
    @property
    def embeddings(self) -> Table: ...
    @property
    def table_optimizer(self) -> optimizers.Optimizer | Any: ...  # None before a model has trained the table
    @property
    def supports_jit(self) -> bool: ...
    @supports_jit.setter
    def supports_jit(self, value: bool) -> None: ...
    @property
    def trainable(self) -> bool: ...
    @trainable.setter
    def trainable(self, value: bool) -> None: ...
    @property
    def weights(self) -> list[Any]: ...
    def get_weights(self) -> list[NDArray[Any]]: ...
    def set_weights(self, weights: Sequence[Arrays]) -> None: ...
    def count_params(self) -> int: ...
    def build(self, input_shape: Any = None) -> None: ...
    def call(self, inputs: Any) -> Any: ...
    def compute_mask(self, inputs: Any, mask: Any = None) -> Any: ...
    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]: ...
    def compute_output_spec(self, inputs: Any, weights: Any = None) -> keras.KerasTensor: ...
    def get_config(self) -> Config: ...
    @classmethod
    def from_config(cls, config: Config) -> Self: ...
    @classmethod
    def from_layer(
        cls, layer: layers.Embedding, table_optimizer: OptimizerLike | None = None, name: str | None = None
    ) -> Self: ...
    def save_own_variables(self, store: Any) -> None: ...
    def load_own_variables(self, store: Any) -> None: ...

class EmbeddingBag(Embedding):
    def __init__(
        self,
        input_dim: Int,
        output_dim: Int,
        combiner: Combiner = "mean",
        embeddings_initializer: InitializerLike = "uniform",
        embeddings_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        embeddings_constraint: ConstraintLike = None,
        mask_zero: Flag = False,
        input_length: Int | Sequence[Int | None] | None = None,
        weights: Arrays | Sequence[Arrays] | None = None,
        *,
        table_optimizer: OptimizerLike | None = None,
        path: StrPath | None = None,
        mmap_mode: MmapMode = "r+",
        lazy: Flag = False,
        padding_idx: Int | None = None,
        **kwargs: Any,
    ) -> None: ...
    def call(self, inputs: Any, weights: Any = None) -> Any: ...

def convert(model: _M, back: bool = False) -> _M: ...
