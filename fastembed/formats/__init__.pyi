# Types of files of other libraries.

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple

from numpy.typing import NDArray

from fastembed._types import Progress, StorageLike, StrPath
from fastembed.layers import Embedding

_Format = Literal[
    "keras",
    "keras_weights",
    "keras2_h5",
    "npy",
    "npz",
    "safetensors",
    "torch",
    "word2vec",
    "word2vec_binary",
    "glove",
    "gensim",
]

FORMATS: Final[dict[str, tuple[tuple[str, ...], str]]]
OF_WORDS: Final[tuple[str, ...]]

class _Matrix(NamedTuple):  # of the module formats.matrix
    name: str
    shape: tuple[int, ...]
    storage: str
    blocks: Callable[[], Iterator[NDArray[Any]]] | None = None
    title: str | None = None
    @property
    def fits(self) -> bool: ...

def load(
    path: StrPath,
    format: _Format | None = None,
    name: str | None = None,
    *,
    dtype: StorageLike | None = None,
    table_path: StrPath | None = None,
    progress: Progress | None = None,
) -> Embedding: ...
def save(
    layer: Embedding,
    path: StrPath,
    format: _Format | None = None,
    vocabulary: Iterable[str] | None = None,
    *,
    progress: Progress | None = None,
) -> None: ...
def load_vocabulary(
    path: StrPath, format: _Format | None = None, errors: Literal["strict", "replace", "ignore"] = "strict"
) -> list[str]: ...
def find(path: StrPath, format: _Format | None = None) -> list[_Matrix]: ...
def format_of(path: StrPath, format: _Format | None = None, reading: bool = False) -> _Format: ...
