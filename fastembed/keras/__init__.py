"""Layers for real Keras models whose tables live in host memory or files, and are trained row by row.

May import: keras.converting, keras.layers. Do not break: this package alone imports Keras; `fastembed` does not import
it.
"""

from fastembed.keras.converting import convert
from fastembed.keras.layers import Embedding, EmbeddingBag

__all__ = ["Embedding", "EmbeddingBag", "convert"]
