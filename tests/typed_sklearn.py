"""A user's program with scikit-learn, for tests/test_types.py: `mypy --strict` passes, and it runs.

May import: fastembed, scikit-learn, which has no types of its own. Do not break: no cast, no ignored error but that.
"""

from typing import assert_type

import numpy as np
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

import fastembed
from fastembed.sklearn import EmbeddingTransformer

colours = np.array([["red"], ["blue"], ["red"], ["green"]], object)
transformer = EmbeddingTransformer(2, combiner="sum", optimizer=fastembed.optimizers.Adam(), epochs=2, random_state=0)
assert_type(transformer.fit(colours, [1, 0, 1, 0]), EmbeddingTransformer)
assert transformer.transform(colours).shape == (4, 2) and len(transformer.loss_curve_) == 2
assert transformer.get_feature_names_out().tolist() == ["x0_0", "x0_1"]
make_pipeline(transformer, LogisticRegression()).fit(colours, [1, 0, 1, 0])
print("done")
