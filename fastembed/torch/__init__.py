"""The bridge to PyTorch: modules on tables of this library, and their optimizers.

May import: torch.modules, torch.optimizer. Do not break: the public names are those of torch, with its arguments.
`docs/torch.md` says how it works.
"""

from fastembed.torch.modules import Embedding, EmbeddingBag
from fastembed.torch.optimizer import Optimizer

__all__ = ["Embedding", "EmbeddingBag", "Optimizer"]
