"""What a run took from stored results, and which files it stands on: counted by whoever reads or keeps them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["making", "note", "total", "touch", "touched"]

_seconds: list[float] = []
_watching: list[tuple[int, list[Path]]] = []
_depth: list[None] = []


def note(seconds: float) -> None:
    """Count one stored result that was read instead of made; `seconds` is what it had taken when it was made."""
    _seconds.append(seconds)


def total() -> tuple[int, float]:
    """How many stored results this process has read, and the seconds that they had taken.

    >>> before, _ = total()
    >>> note(2.5)
    >>> total()[0] - before
    1
    """
    return len(_seconds), sum(_seconds)


@contextlib.contextmanager
def making() -> Iterator[None]:
    """A block that makes a result: files that are read or kept inside do not count as files of whoever asked for it."""
    _depth.append(None)
    try:
        yield
    finally:
        _depth.pop()


def touch(path: Path) -> None:
    """Say that a result in this file was read or kept."""
    for depth, seen in _watching:
        if depth == len(_depth):
            seen.append(path)


@contextlib.contextmanager
def touched() -> Iterator[list[Path]]:
    """The files of all results that the block asks for: those that doing the same again would read."""
    watch: tuple[int, list[Path]] = len(_depth), []
    _watching.append(watch)
    try:
        yield watch[1]
    finally:
        _watching[:] = [other for other in _watching if other is not watch]  # equal ones may be there
