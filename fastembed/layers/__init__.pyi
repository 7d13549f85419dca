# Types of the layers.

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self, overload

import numpy as np
from numpy.typing import NDArray

from fastembed._types import (
    Arrays,
    Combiner,
    Config,
    ConstraintLike,
    CustomObjects,
    Flag,
    Floats,
    Ids,
    InitializerLike,
    Int,
    MmapMode,
    Number,
    PolicyLike,
    Quantised,
    RegularizerLike,
    StorageName,
    StrPath,
    Version,
)
from fastembed.constraints import Constraint
from fastembed.initializers import Initializer
from fastembed.ragged import Ragged
from fastembed.regularizers import Regularizer
from fastembed.slices import IndexedSlices
from fastembed.table import Table

__all__ = ["Embedding", "EmbeddingBag"]

_Words = Sequence[Any] | NDArray[Any]  # hashable

class Embedding:
    keras_module: ClassVar[str]
    input_dim: int
    output_dim: int
    embeddings_initializer: Initializer | None
    embeddings_regularizer: Regularizer | Any | None  # or a function of the user's
    activity_regularizer: Regularizer | Any | None
    embeddings_constraint: Constraint | Any | None
    mask_zero: bool
    supports_masking: bool
    input_length: int | tuple[int | None, ...] | None
    name: str
    path: str | None
    padding_idx: int | None
    lora_rank: int | None
    lora_alpha: float | None
    quantization_config: Config | None
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
    def built(self) -> bool: ...
    def build(self, input_shape: Any = None) -> None: ...
    def adopt(self, table: Table) -> None: ...
    @property
    def embeddings(self) -> Table: ...
    @property
    def dtype(self) -> StorageName: ...
    @property
    def variable_dtype(self) -> StorageName: ...
    @property
    def compute_dtype(self) -> str: ...
    @property
    def dtype_policy(self) -> str: ...
    @property
    def trainable(self) -> bool: ...
    @trainable.setter
    def trainable(self, value: Flag) -> None: ...
    @property
    def weights(self) -> list[Table]: ...
    @property
    def trainable_weights(self) -> list[Table]: ...
    @property
    def non_trainable_weights(self) -> list[Table]: ...
    @property
    def losses(self) -> list[float]: ...
    def get_weights(self) -> list[NDArray[Any]]: ...
    def set_weights(self, weights: Sequence[Arrays]) -> None: ...
    def count_params(self) -> int: ...
    def resize(self, input_dim: Int) -> None: ...
    def remap(self, old_vocabulary: _Words, new_vocabulary: _Words) -> None: ...
    @overload
    def __call__(self, ids: Ragged, out: NDArray[Any] | None = None) -> Ragged: ...
    @overload
    def __call__(self, ids: Arrays, out: NDArray[Any] | None = None) -> Floats: ...
    @overload
    def call(self, ids: Ragged, out: NDArray[Any] | None = None) -> Ragged: ...
    @overload
    def call(self, ids: Arrays, out: NDArray[Any] | None = None) -> Floats: ...
    def gradient(self, ids: Ids, upstream: Ids) -> IndexedSlices: ...
    def regularization_gradient(self) -> Floats | Any: ...  # None without a regularizer
    @overload
    def compute_mask(self, inputs: Ragged, mask: Any = None) -> Ragged | Any: ...  # None unless `mask_zero`
    @overload
    def compute_mask(self, inputs: Arrays, mask: Any = None) -> NDArray[np.bool_] | Any: ...
    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]: ...
    @property
    def lora_enabled(self) -> bool: ...
    @property
    def lora_embeddings_a(self) -> Table | Any: ...  # None without LoRA
    @property
    def lora_embeddings_b(self) -> Table | Any: ...
    def enable_lora(
        self,
        rank: Int,
        lora_alpha: Number | None = None,
        a_initializer: InitializerLike = "he_uniform",
        b_initializer: InitializerLike = "zeros",
    ) -> None: ...
    def merge_lora(self) -> None: ...
    def merged_pieces(self, storage: StorageName) -> Iterator[memoryview]: ...
    def merged_blocks(self) -> Iterator[tuple[int, Floats]]: ...
    def lora_gradients(self, ids: Ids, upstream: Ids) -> tuple[IndexedSlices, Floats]: ...
    def quantize(self, mode: Quantised) -> None: ...
    def get_config(self, version: Version = 3) -> Config: ...
    def legacy_config(self) -> Config: ...
    @classmethod
    def from_config(cls, config: Config, custom_objects: CustomObjects | None = None) -> Self: ...
    def save(self, path: StrPath) -> None: ...

class EmbeddingBag(Embedding):
    combiner: Combiner
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
    # It is called with other arguments than an Embedding, and what it returns is never ragged.
    def __call__(  # type: ignore[override]
        self, ids: Ids, weights: Ids | None = None, out: NDArray[Any] | None = None
    ) -> Floats: ...
    def call(  # type: ignore[override]
        self, ids: Ids, weights: Ids | None = None, out: NDArray[Any] | None = None
    ) -> Floats: ...
    def gradient(  # type: ignore[override]
        self, ids: Ids, upstream: Arrays, weights: Ids | None = None
    ) -> IndexedSlices: ...
    def weights_gradient(self, ids: Ids, upstream: Arrays, weights: Ids) -> Floats: ...
    def lora_gradients(  # type: ignore[override]
        self, ids: Ids, upstream: Arrays, weights: Ids | None = None
    ) -> tuple[IndexedSlices, Floats]: ...
    def compute_mask(self, inputs: Ids, mask: Any = None) -> None: ...
