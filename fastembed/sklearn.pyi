# Types of the scikit-learn transformer.

from collections.abc import Sequence
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from fastembed._types import Arrays, Combiner, Floats, InitializerLike, OptimizerLike, PolicyLike
from fastembed.layers import Embedding

TARGETS: Final[tuple[str, ...]]

class EmbeddingTransformer(TransformerMixin, BaseEstimator):
    output_dim: int | Sequence[int]
    input_dim: int | Sequence[int | None] | None
    combiner: Combiner
    min_frequency: int
    embeddings_initializer: InitializerLike
    weights: Arrays | Sequence[Arrays | None] | None
    hidden_dim: int
    optimizer: OptimizerLike
    learning_rate: float | None
    epochs: int
    batch_size: int
    target: Literal["auto", "classification", "regression"]
    dtype: PolicyLike
    random_state: int | np.random.RandomState | None
    layers_: list[Embedding | Any]  # an EmbeddingBag for a column of lists
    categories_: list[NDArray[Any] | Any]  # None where ids are as they are
    loss_curve_: list[float]
    n_features_in_: int
    feature_names_in_: NDArray[np.object_]
    def __init__(
        self,
        output_dim: int | Sequence[int] = 16,
        *,
        input_dim: int | Sequence[int | None] | None = None,
        combiner: Combiner = "mean",
        min_frequency: int = 1,
        embeddings_initializer: InitializerLike = "uniform",
        weights: Arrays | Sequence[Arrays | None] | None = None,
        hidden_dim: int = 32,
        optimizer: OptimizerLike = "adam",
        learning_rate: float | None = 0.01,
        epochs: int = 10,
        batch_size: int = 256,
        target: Literal["auto", "classification", "regression"] = "auto",
        dtype: PolicyLike = "float32",
        random_state: int | np.random.RandomState | None = None,
    ) -> None: ...
    def fit(self, X: Any, y: ArrayLike | None = None) -> Self: ...
    def transform(self, X: Any) -> Floats | Any: ...  # a frame after `set_output`
    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]: ...
    def __sklearn_tags__(self) -> Any: ...
