# Types of saving and loading.

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from fastembed._types import CustomObjects, MmapMode, StrPath
from fastembed.layers import Embedding

_T = TypeVar("_T")

CHUNK: Final[int]

def save(layer: Embedding, path: StrPath) -> None: ...

# An Embedding or an EmbeddingBag: what it was when it was saved. Who knows it annotates the variable.
def load(path: StrPath, mmap_mode: MmapMode | None = None, custom_objects: CustomObjects | None = None) -> Any: ...
def of_one_save(path: str, open_files: Callable[[], _T]) -> _T: ...
def identity(path: StrPath) -> tuple[int, int, int] | None: ...
def refuse_trained_in(path: StrPath, arrays: Iterable[NDArray[Any]]) -> None: ...
def new_directory(path: StrPath, marker: str) -> AbstractContextManager[str]: ...
