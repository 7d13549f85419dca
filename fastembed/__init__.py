"""fastembed: embedding tables for the CPU.

The public names and nothing else; see the README. May import: everything. Do not break: importing this package starts
no thread, sets no environment variable, and imports no framework.
"""

from importlib import import_module as _import_module
from os.path import exists as _exists
from os.path import join as _join

if any(_exists(_join(folder, "late_interaction")) for folder in __path__):
    # The files of another distribution lie among ours; whichever was installed last owns this very file.
    raise ImportError(
        "The distribution 'fastembed' (text embedding models, by Qdrant) is installed in the same folder as "
        "'fastembed-cython', and both are called `fastembed` in Python. Keep them in separate environments, or remove "
        "the other one: pip uninstall fastembed && pip install --force-reinstall --no-deps fastembed-cython"
    )

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
from fastembed._config import show_config
from fastembed._version import __version__
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

_BRIDGES = ("jax", "keras", "sklearn", "torch")


def __getattr__(name):
    """Imports a bridge to a framework when somebody asks for it."""
    if name in _BRIDGES:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
