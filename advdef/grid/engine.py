"""Runs the tasks of any number of studies, each once: what is in the store is done, the rest goes to an executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

from advdef.grid.study import Cell, Study, Task, key_of
from advdef.grid.worker import ATTEMPTS, Done, Order, WorkerDiffers, finished, order, root, set_up, work
from advdef.store import Key, cache_folder
from advdef.store.files import write_first

__all__ = ["Failed", "Item", "Progress", "Walk", "planned", "run", "run_share"]

State = Literal["waiting", "running", "stored", "done", "failed"]
_LARGE = "pairs/"  # images to learn from, which only what names their task needs
_LIVES = 4  # a task that was at work whenever that many workers died is what kills them


@dataclass(eq=False)
class Item:
    """A task of a cell on its way through a grid.

    Attributes:
        cell: The study that it is of.
        task: The call.
        key: What its mark in the store is kept under.
        after: The tasks that it stands on.
        state: "waiting", "running", "stored" (it was done before), "done" or "failed".
        files: The files of its results and of those that it stands on, under the store's root. Images to learn from are
            among them only for the task that names them.
        seconds: What it took, whenever that was.
        error: Why it failed.
        lives: How many more workers may die while computing it before it counts as failed.
    """

    cell: Cell
    task: Task
    key: Key
    after: tuple[Item, ...]
    state: State = "waiting"
    files: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    lives: int = _LIVES

    @property
    def label(self) -> str:
        """The name that its mark in the store has."""
        return f"{self.cell.label} {self.task.call}"

    @property
    def over(self) -> bool:
        """Whether its results are there."""
        return self.state in ("stored", "done")

    def look(self) -> bool:
        """Whether its results are in the store here; then it is done."""
        if (found := finished(self.key, self.label)) is None:
            return False
        entry, files = found
        self.state, self.seconds = "stored", entry.seconds
        inherited = [file for before in self.after for file in before.files if not file.startswith(_LARGE)]
        self.files = tuple(dict.fromkeys([*files, *inherited]))
        return True

    def order(self, threads: int, *, send: bool) -> Order:
        """What a worker is told."""
        needed = {file for before in self.after for file in before.files} if send else ()
        files = {file: (root() / file).read_bytes() for file in sorted(needed)}
        task = self.task
        return order(self.cell, task.call, task.arguments, self.key, threads=threads, files=files, send=send)

    def take(self, done: Done) -> None:
        """Keep what a worker has sent."""
        for file, content in done.content.items():
            write_first(root() / file, content)
        self.look()
        self.state = "done"


class Walk:
    """The tasks of one cell, which its study tells stage by stage."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self._key = cell, cell.key()
        self._study: Study = cell.make(cache_folder(ATTEMPTS))
        self._further: Iterator[Sequence[Task]] = self._study.stages()
        self.items: dict[Task, Item] = {}
        self.stages: list[list[Item]] = []
        self.ended = False

    def advance(self) -> None:
        """Ask for further stages as long as all tasks so far are done."""
        while not self.ended and all(item.over for item in self.items.values()):
            tasks = next(self._further, None)
            self.ended = tasks is None
            known = set(self.items.values())
            for task in tasks or ():
                self._add(task)
            self.stages.append([item for item in self.items.values() if item not in known])

    def longest(self) -> float:
        """The seconds of the longest chain of tasks that stand on one another, stage after stage: no grid is faster."""
        ends: dict[Item, float] = {}
        before = 0.0
        for stage in self.stages:
            for item in stage:
                ends[item] = item.seconds + max((ends[earlier] for earlier in item.after), default=before)
            before = max(ends.values(), default=before)
        return before

    def _add(self, task: Task) -> Item:
        if task not in self.items:
            after = tuple(self._add(before) for before in task.after)
            item = self.items[task] = Item(self.cell, task, key_of(task, self._key), after)
            item.look()
        return self.items[task]


@dataclass(frozen=True)
class Failed:
    """A task that raised an error, killed its workers, or stands on one that did."""

    label: str
    error: str


@dataclass
class Progress:
    """How far a grid is. Tasks may become more, where what to do next depends on what was found."""

    walks: Sequence[Walk]
    workers: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)

    @property
    def items(self) -> list[Item]:
        """All tasks that are known."""
        return [item for walk in self.walks for item in walk.items.values()]

    @property
    def ended(self) -> bool:
        """Whether nothing is left that could still be done."""
        return not any(item.state in ("waiting", "running") for item in self.items)

    @property
    def failed(self) -> list[Failed]:
        """What failed, and why."""
        found = [item for item in self.items if item.state == "failed"]
        return [Failed(f"{item.cell.label}: {item.task.label}", item.error) for item in found]

    def line(self) -> str:
        """One line: how many tasks are done, running, taken from the store, left, and for how long about."""
        counts = {state: sum(item.state == state for item in self.items) for state in
                  ("done", "running", "stored", "waiting", "failed")}  # fmt: skip
        told = [f"{counts['done']} done", f"{counts['stored']} from the store", f"{counts['running']} with the workers"]
        told.append(f"{counts['waiting']} to do")
        if counts["failed"]:
            told.append(f"{counts['failed']} failed")
        if counts["done"] and (left := counts["running"] + counts["waiting"]):
            pace = (time.monotonic() - self.started) / counts["done"]
            told.append(f"about {pace * left:.0f} s left")
        return ", ".join(told)


Report = Callable[[Progress], None]


def run(
    cells: Sequence[Cell], executor: Callable[[], Executor], *, threads: int = 1, send: bool = False,
    report: Report | None = None,
) -> Progress:  # fmt: skip
    """Compute what is missing of the cells, so that afterwards a page finds it in the store.

    Args:
        cells: What to compute.
        executor: Opens what computes: processes of this machine, or a cluster. It is opened again where it broke.
        threads: Threads of each task. Results may depend on their number in the last bits: pages should use the same.
        send: Whether workers send their results back, as they share no folder with this process.
        report: Called whenever something has changed, and about once a second.

    A task that fails is told in the result, and all others that do not stand on it go on. Raises WorkerDiffers for a
    worker with other code, versions or data, and what opening the executor raises.
    """
    with _set_up(threads):
        progress = Progress([Walk(cell) for cell in cells])
        pool, futures = executor(), dict[Future[Done], Item]()
        try:
            while True:
                for item in _ready(progress):
                    futures[pool.submit(work, item.order(threads, send=send))] = item
                    item.state = "running"
                if report is not None:
                    report(progress)
                if not futures:
                    return progress
                broken = False
                for future in wait(futures, timeout=1, return_when=FIRST_COMPLETED).done:
                    broken = _taken(futures.pop(future), future, progress) or broken
                if broken:  # what was at work there is asked for again; a task that is done keeps its mark
                    for item in futures.values():
                        item.state = "waiting"
                    _close(pool, futures)
                    pool = executor()
        finally:
            _close(pool, futures)


def run_share(
    cells: Sequence[Cell], *, index: int, of: int, threads: int = 1, patience: float = 600,
    report: Report | None = None,
) -> Progress:  # fmt: skip
    """Compute one of ``of`` shares of the tasks in this process: for jobs with a common folder and no scheduler.

    It ends when the tasks of all shares are in the store. A task that needs the result of another share waits for it,
    while others are computed. When no share has finished anything for ``patience`` seconds, this one also computes the
    tasks of the others, whose jobs may be dead.

    Args:
        cells: What to compute.
        index: Which share, from 0.
        of: How many shares there are.
        threads: Threads of each task.
        patience: Seconds until a share takes over from others.
        report: Called before each task, and once a second while it waits.
    """
    if not 0 <= index < of:
        raise ValueError(f"there are the shares 0 to {of - 1}, not {index}")
    with _set_up(threads):
        progress, moved = Progress([Walk(cell) for cell in cells]), time.monotonic()
        while True:
            waiting = _ready(progress)
            if report is not None:
                report(progress)
            if not waiting:
                return progress
            late = time.monotonic() - moved > patience
            mine = [item for item in waiting if late or int(item.key.digest[:8], 16) % of == index]
            for item in mine[:1]:
                future = Future[Done]()
                try:
                    future.set_result(work(item.order(threads, send=False)))
                except Exception as failure:  # noqa: BLE001  # as an executor does
                    future.set_exception(failure)
                _taken(item, future, progress)
            found = sum(item.look() for item in waiting if item.state == "waiting")
            if mine or found:
                moved = time.monotonic()
            else:
                time.sleep(1)


def planned(cells: Sequence[Cell], *, threads: int = 1) -> list[Walk]:
    """The tasks of cells as far as they can be told now, without computing any."""
    with _set_up(threads):
        walks = [Walk(cell) for cell in cells]
        for walk in walks:
            walk.advance()
        return walks


@contextmanager
def _set_up(threads: int) -> Iterator[None]:
    """Keys are those of workers, which set the same."""
    before = torch.get_num_threads()
    set_up(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _close(pool: Executor, futures: dict[Future[Done], Item]) -> None:
    """Let go of what is at work."""
    idle = all(future.done() for future in futures)
    for future in futures:
        future.cancel()
    futures.clear()
    pool.shutdown(wait=idle)  # processes that end by themselves leave no locks behind


def _ready(progress: Progress) -> list[Item]:
    """The tasks that can begin; those that stand on a failed one fail."""
    for walk in progress.walks:
        walk.advance()
    for item in progress.items:  # in an order in which a task follows what it stands on
        if item.state == "waiting" and any(before.state == "failed" for before in item.after):
            item.state, item.error = "failed", "a task that it stands on failed"
    return [item for item in progress.items if item.state == "waiting" and all(before.over for before in item.after)]


def _taken(item: Item, future: Future[Done], progress: Progress) -> bool:
    """Take the result of a task that has ended; whether the executor is broken. Raises WorkerDiffers."""
    try:
        done = future.result()
    except WorkerDiffers:
        raise
    except BrokenExecutor:
        item.lives -= 1
        item.state, item.error = ("waiting", "") if item.lives else ("failed", f"{_LIVES} workers died while at it")
        return True
    except Exception as failure:  # noqa: BLE001  # whatever a task raises is its own failure
        item.state, item.error = "failed", f"{type(failure).__name__}: {failure}"
    else:
        progress.workers.add(done.worker)
        item.take(done)
    return False
