# Types of the public names.
#
# May import: everything. Do not break: whatever `import fastembed` lets a program use is here. A bridge is one of Any
# where its framework is not installed.

from fastembed import (
    constraints,
    formats,
    initializers,
    interop,
    layers,
    ops,
    optimizers,
    regularizers,
    saving,
    schedules,
    serialization,
)
from fastembed import jax as jax
from fastembed import keras as keras
from fastembed import sklearn as sklearn
from fastembed import torch as torch
from fastembed.checkpoint import Checkpoint, verify
from fastembed.estimate import Estimate, estimate
from fastembed.initializers import set_random_seed
from fastembed.layers import Embedding, EmbeddingBag
from fastembed.ragged import Ragged
from fastembed.saving import load
from fastembed.serialization import register_serializable
from fastembed.slices import IndexedSlices
from fastembed.table import Table
from fastembed.threads import get_num_threads, set_num_threads

__all__ = [
    "Checkpoint",
    "Embedding",
    "EmbeddingBag",
    "Estimate",
    "IndexedSlices",
    "Ragged",
    "Table",
    "__version__",
    "constraints",
    "estimate",
    "formats",
    "get_num_threads",
    "initializers",
    "interop",
    "layers",
    "load",
    "ops",
    "optimizers",
    "register_serializable",
    "regularizers",
    "saving",
    "schedules",
    "serialization",
    "set_num_threads",
    "set_random_seed",
    "show_config",
    "verify",
]

__version__: str

def show_config() -> None: ...
