# Types of trainings on disk.

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from fastembed._types import StrPath, Trained
from fastembed.optimizers import Optimizer

__all__ = ["Checkpoint", "verify"]

class _Background:
    """A save that is written while training goes on."""

    @property
    def done(self) -> bool: ...
    def wait(self) -> None: ...

class Checkpoint:
    layers: dict[str, Trained]
    optimizer: Optimizer | None
    def __init__(
        self, layers: Trained | Sequence[Trained] | Mapping[str, Trained], optimizer: Optimizer | None = None
    ) -> None: ...
    @overload
    def save(
        self,
        path: StrPath,
        delta: bool = False,
        *,
        keep: int = 1,
        extra: Mapping[str, Any] | None = None,
        wait: Literal[True] = True,
        progress: bool | None = None,
    ) -> None: ...
    @overload
    def save(
        self,
        path: StrPath,
        delta: bool = False,
        *,
        keep: int = 1,
        extra: Mapping[str, Any] | None = None,
        wait: Literal[False],
        progress: bool | None = None,
    ) -> _Background: ...
    @overload
    def save(
        self,
        path: StrPath,
        delta: bool = False,
        *,
        keep: int = 1,
        extra: Mapping[str, Any] | None = None,
        wait: bool,
        progress: bool | None = None,
    ) -> _Background | None: ...
    def restore(
        self, path: StrPath, number: int | None = None, *, progress: bool | None = None
    ) -> dict[str, Any] | Any: ...  # None where there was no `extra`
    @staticmethod
    def saves(path: StrPath) -> list[int]: ...
    @staticmethod
    def compact(path: StrPath, *, keep: int = 1, progress: bool | None = None) -> None: ...

def verify(path: StrPath, progress: bool | None = None) -> None: ...
