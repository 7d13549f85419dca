"""The objects that users hold.

May import: embedding, embedding_bag. Do not break: `Embedding` and `EmbeddingBag` are all that is public.
"""

from fastembed.layers.embedding import Embedding
from fastembed.layers.embedding_bag import EmbeddingBag

__all__ = ["Embedding", "EmbeddingBag"]
