"""A user's program with Keras, for tests/test_types.py: `mypy --strict` passes, and it runs.

May import: fastembed and Keras, which has no types of its own. Do not break: no cast, no ignored error but that.
"""

from typing import Any, assert_type

import keras  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

import fastembed

model = keras.Sequential(
    [
        fastembed.keras.Embedding(1000, 8, keras.initializers.Zeros(), mask_zero=True, table_optimizer="adam"),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(1),
    ]
)
model.compile("sgd", "mse")
model.fit(np.ones((4, 3), np.int32), np.ones((4, 1)), verbose=0)
layer = fastembed.keras.Embedding.from_layer(fastembed.Embedding(10, 4), name="mine")
assert_type(layer, fastembed.keras.Embedding)
assert_type(layer.embeddings, fastembed.Table)
assert_type(layer.get_weights(), list[NDArray[Any]])
assert_type(
    fastembed.keras.EmbeddingBag.from_config(fastembed.keras.EmbeddingBag(3, 2, "sum").get_config()).count_params(), int
)
fastembed.optimizers.get(keras.optimizers.Adam())
fastembed.keras.convert(model, back=True)
print("done")
