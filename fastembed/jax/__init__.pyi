# Types of the bridge to JAX.

from collections.abc import Sequence
from typing import Any, Self, TypeAlias, overload

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    Number,
    OptimizerLike,
    PolicyLike,
    RegularizerLike,
    StrPath,
)
from fastembed.bridge import Trained
from fastembed.ragged import Ragged

__all__ = ["Embedding", "EmbeddingBag", "Ids", "Layer", "Token", "look_up", "update", "wrap"]

_Array = jax.Array | ArrayLike
_Anchor: TypeAlias = jax.Array | Token

class Ids:
    pairs: jax.Array
    def __init__(self, ids: ArrayLike) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> Ids: ...
    @overload
    def reshape(self, shape: Sequence[int], /) -> Ids: ...
    @overload
    def reshape(self, *shape: int) -> Ids: ...
    def numpy(self) -> NDArray[np.int64]: ...
    def tree_flatten(self) -> tuple[tuple[Any], None]: ...
    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Any]) -> Self: ...

class Token:
    value: Any
    def __init__(self, value: Any) -> None: ...
    def tree_flatten(self) -> tuple[tuple[Any], None]: ...
    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Any]) -> Self: ...

class Layer:
    trained: Trained
    def __init__(self, layer: layers.Embedding, optimizer: OptimizerLike | None = None) -> None: ...
    @property
    def layer(self) -> layers.Embedding | Any: ...  # or an EmbeddingBag
    @property
    def optimizer(self) -> optimizers.Optimizer | Any: ...  # or None
    @optimizer.setter
    def optimizer(self, optimizer: OptimizerLike | None) -> None: ...
    def init(self) -> jax.Array: ...
    def open(self, anchor: jax.Array) -> Token: ...
    # A Ragged of an Embedding with a Ragged.
    def __call__(
        self, anchor: _Anchor, ids: _Array | Ids | Ragged, weights: _Array | Ragged | None = None
    ) -> jax.Array | Any: ...

class Embedding(Layer):
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
        optimizer: OptimizerLike | None = None,
        dtype: PolicyLike = "float32",
        name: str | None = None,
        trainable: Flag = True,
        path: StrPath | None = None,
        mmap_mode: MmapMode = "r+",
        lazy: Flag = False,
        padding_idx: Int | None = None,
        lora_rank: Int | None = None,
        lora_alpha: Number | None = None,
        quantization_config: Config | None = None,
    ) -> None: ...
    @property
    def layer(self) -> layers.Embedding: ...
    @overload  # type: ignore[override]
    def __call__(self, anchor: _Anchor, ids: Ragged, weights: None = None) -> Ragged: ...
    @overload
    def __call__(self, anchor: _Anchor, ids: _Array | Ids, weights: None = None) -> jax.Array: ...

class EmbeddingBag(Layer):
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
        optimizer: OptimizerLike | None = None,
        dtype: PolicyLike = "float32",
        name: str | None = None,
        trainable: Flag = True,
        path: StrPath | None = None,
        mmap_mode: MmapMode = "r+",
        lazy: Flag = False,
        padding_idx: Int | None = None,
        lora_rank: Int | None = None,
        lora_alpha: Number | None = None,
        quantization_config: Config | None = None,
    ) -> None: ...
    @property
    def layer(self) -> layers.EmbeddingBag: ...
    def __call__(
        self, anchor: _Anchor, ids: _Array | Ids | Ragged, weights: _Array | Ragged | None = None
    ) -> jax.Array: ...

def wrap(layer: layers.Embedding, optimizer: OptimizerLike | None = None) -> Layer: ...
@overload
def look_up(
    layer: layers.EmbeddingBag,
    ids: _Array | Ids | Ragged,
    weights: _Array | Ragged | None = None,
    after: jax.Array | None = None,
) -> jax.Array: ...
@overload
def look_up(layer: layers.Embedding, ids: Ragged, weights: None = None, after: jax.Array | None = None) -> Ragged: ...
@overload
def look_up(
    layer: layers.Embedding, ids: _Array | Ids, weights: None = None, after: jax.Array | None = None
) -> jax.Array: ...
def update(
    layer: layers.Embedding,
    optimizer: optimizers.Optimizer,
    ids: _Array | Ids | Ragged,
    upstream: _Array | Ragged,
    weights: _Array | Ragged | None = None,
    after: jax.Array | None = None,
) -> jax.Array: ...
