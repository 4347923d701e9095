"""What a process does that computes tasks for another one: it makes sure that both would get the same, and computes."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from advdef.devices import keep_freed_memory
from advdef.grid.study import Cell, DataDiffer, Study
from advdef.store import Damaged, Entry, Key, cache_folder, environment, kept, place, read, tally
from advdef.store.files import write_first

__all__ = ["Done", "Order", "WorkerDiffers", "code_of_package", "finished", "has", "order", "root", "set_up", "work"]

ATTEMPTS, TASKS = "attempts", "tasks"
_OWN = ("threads",)  # of an environment; a worker sets them itself


class WorkerDiffers(RuntimeError):
    """A worker would not get what others get; the message names it, and says what to do."""


@dataclass(frozen=True)
class Order:
    """A task as it is sent to a worker, and the code and versions that the worker must have.

    All of it is plain data: names, numbers and bytes.

    Attributes:
        cell: The study that the task is of.
        call: The study's method.
        arguments: Its arguments, plain values.
        label: The name of the store's entry that says that the task is done.
        key: The key of that entry.
        threads: How many threads compute it.
        code: The hash of the package's code; the worker's must be the same.
        versions: Versions of packages, and torch's settings; the worker's must be the same.
        files: The results that the task needs, by file name, for a worker whose store lacks them.
        send: Whether the worker returns the files that it made, for a sender that does not share its folder.
    """

    cell: Cell
    call: str
    arguments: tuple[Any, ...]
    label: str
    key: Key
    threads: int
    code: str
    versions: Mapping[str, str]
    files: Mapping[str, bytes]
    send: bool


@dataclass(frozen=True)
class Done:
    """A finished task: by whom, in how many seconds, the files that hold its results, and their bytes if asked for."""

    worker: str
    seconds: float
    files: tuple[str, ...]
    content: Mapping[str, bytes]


def order(
    cell: Cell, call: str, arguments: tuple[Any, ...], key: Key, *, threads: int, files: Mapping[str, bytes], send: bool
) -> Order:
    """An order from this process, with its code and versions.

    Args:
        cell: The study that the task is of.
        call: The study's method.
        arguments: Its arguments, plain values.
        key: The key of the store's entry that says that the task is done.
        threads: How many threads compute it.
        files: The results that the task needs, by file name, for a worker whose store lacks them.
        send: Whether the worker returns the files that it made.
    """
    versions = {name: text for name, text in environment().items() if name not in _OWN}
    label = f"{cell.label} {call}"
    return Order(cell, call, arguments, label, key, threads, code_of_package(), versions, files, send)


def work(order: Order) -> Done:
    """Compute a task, and keep its results and the fact that it is done.

    Raises WorkerDiffers where code, versions or data are others here, and whatever the task raises.
    """
    name = f"{socket.gethostname()} (process {os.getpid()})"
    _agree(order, name)
    set_up(order.threads)
    for file, content in order.files.items():
        if not (root() / file).exists():
            write_first(root() / file, content)
    try:
        study = _study(order.cell.label, _Same(order.cell))
    except (DataDiffer, ValueError, RuntimeError, OSError) as failure:
        raise WorkerDiffers(f"worker {name}: {failure}") from failure
    started = time.perf_counter()

    def make() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        with tally.touched() as seen:
            getattr(study, order.call)(*order.arguments)
        return {}, {"files": [file.relative_to(root()).as_posix() for file in dict.fromkeys(seen)]}

    if finished(order.key, order.label) is None:  # one whose results were deleted is done again
        place(cache_folder(TASKS), order.key, label=order.label).unlink(missing_ok=True)
    entry = kept(cache_folder(TASKS), order.key, make, label=order.label)
    files = tuple(entry.facts["files"])
    mark = place(cache_folder(TASKS), order.key, label=order.label).relative_to(root()).as_posix()
    sent = {file: (root() / file).read_bytes() for file in (*files, mark) if order.send and file not in order.files}
    return Done(name, time.perf_counter() - started, files, sent)


def finished(key: Key, label: str) -> tuple[Entry, tuple[str, ...]] | None:
    """What is kept of a finished task, and the files of its results; None for one that is not done here."""
    try:
        entry = read(place(cache_folder(TASKS), key, label=label), key.digest)
    except (Damaged, OSError):
        return None
    files = tuple(entry.facts["files"])
    return (entry, files) if all((root() / file).is_file() for file in files) else None


def has(name: str) -> bool:
    """Whether a file of this name lies in the folder of this process's results."""
    return (root() / name).is_file()


def set_up(threads: int) -> None:
    """Make this process compute as every other one of the grid, with that many threads."""
    torch.set_num_threads(threads)
    keep_freed_memory()


def root() -> Path:
    """The folder that holds all kinds of results."""
    return cache_folder(TASKS).parent


@functools.cache
def code_of_package() -> str:
    """A hash of all code of this package, as it lies here."""
    package = Path(__file__).parents[1]
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".yml"))
    content = hashlib.sha256()
    for path in files:
        content.update(f"{path.relative_to(package).as_posix()}\0".encode())
        content.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return content.hexdigest()[:16]


def _agree(order: Order, name: str) -> None:
    """Raise WorkerDiffers unless code and versions are those of the order."""
    here = environment()
    for package, version in order.versions.items():
        if here[package] != version:
            mine = here[package] or "missing"
            raise WorkerDiffers(
                f"worker {name} has {package} {mine}, not {version or 'none'}: install the same versions there "
                "(pip install -c constraints.txt)"
            )
    if order.code != code_of_package():
        raise WorkerDiffers(f"worker {name} has another code of advdef: check out the same commit there")


class _Same:
    """A cell that can be a key of a cache: equal where its text is."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and repr(self.cell) == repr(other.cell)

    def __hash__(self) -> int:
        return hash(repr(self.cell))


@functools.lru_cache(maxsize=2)
def _study(label: str, same: _Same) -> Study:
    """The study of a cell, which the next task of this process may need again."""
    return same.cell.make(cache_folder(ATTEMPTS))
