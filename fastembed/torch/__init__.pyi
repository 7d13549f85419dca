# Types of the bridge to PyTorch.

from collections.abc import Callable, Iterable
from typing import Any, Self, TypedDict, Unpack, overload

import torch
from torch import Tensor

from fastembed import layers, optimizers
from fastembed._types import (
    Combiner,
    ConstraintLike,
    InitializerLike,
    Int,
    MmapMode,
    Number,
    OptimizerLike,
    RegularizerLike,
    StrPath,
)
from fastembed.bridge import Trained

__all__ = ["Embedding", "EmbeddingBag", "Optimizer"]

_Device = torch.device | str | int | None

class _Arguments(TypedDict, total=False):
    embeddings_initializer: InitializerLike
    embeddings_regularizer: RegularizerLike
    activity_regularizer: RegularizerLike
    embeddings_constraint: ConstraintLike
    name: str | None
    path: StrPath | None
    mmap_mode: MmapMode
    lazy: bool
    lora_rank: Int | None
    lora_alpha: Number | None

class _OfTensor(_Arguments, total=False):
    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    sparse: bool
    device: _Device
    dtype: torch.dtype | None
    optimizer: OptimizerLike | None
    fused: bool

class _OfTensorBag(_OfTensor, total=False):
    mode: Combiner
    include_last_offset: bool

class _Module(torch.nn.Module):
    anchor: torch.nn.Parameter
    trained: Trained
    fused: bool
    embedding_dim: int
    pooled: bool
    @property
    def optimizer(self) -> optimizers.Optimizer | Any: ...  # None unless `fused`
    @property
    def num_embeddings(self) -> int: ...
    @property
    def padding_idx(self) -> int | None: ...
    @property
    def weight(self) -> Tensor: ...
    def take_gradients(self) -> list[Any] | None: ...
    def optimizer_state_dict(self) -> dict[str, Any]: ...
    def load_optimizer_state_dict(self, state_dict: dict[str, Any]) -> None: ...
    def extra_repr(self) -> str: ...

class Embedding(_Module):
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: _Device = None,
        dtype: torch.dtype | None = None,
        *,
        optimizer: OptimizerLike | None = None,
        fused: bool = False,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @classmethod
    def from_layer(
        cls,
        layer: layers.Embedding,
        *,
        optimizer: OptimizerLike | None = None,
        fused: bool = False,
        device: _Device = None,
        dtype: torch.dtype | None = None,
    ) -> Self: ...
    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **arguments: Unpack[_OfTensor]) -> Self: ...
    @property
    def layer(self) -> layers.Embedding: ...
    def forward(self, input: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor) -> Tensor: ...

class EmbeddingBag(_Module):
    include_last_offset: bool
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: Combiner = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: _Device = None,
        dtype: torch.dtype | None = None,
        *,
        optimizer: OptimizerLike | None = None,
        fused: bool = False,
        _freeze: bool = False,
        **arguments: Unpack[_Arguments],
    ) -> None: ...
    @classmethod
    def from_layer(
        cls,
        layer: layers.EmbeddingBag,
        *,
        optimizer: OptimizerLike | None = None,
        fused: bool = False,
        device: _Device = None,
        dtype: torch.dtype | None = None,
    ) -> Self: ...
    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **arguments: Unpack[_OfTensorBag]) -> Self: ...
    @property
    def layer(self) -> layers.EmbeddingBag: ...
    @property
    def mode(self) -> Combiner: ...
    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor: ...
    def __call__(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor: ...

class Optimizer(torch.optim.Optimizer):
    modules: list[Embedding | EmbeddingBag]
    optimizer: optimizers.Optimizer
    def __init__(
        self, modules: torch.nn.Module | Iterable[Embedding | EmbeddingBag], optimizer: OptimizerLike
    ) -> None: ...
    def add_param_group(self, param_group: dict[str, Any]) -> None: ...
    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...
