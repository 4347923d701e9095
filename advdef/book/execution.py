"""Executes one notebook with papermill, and says where and why it stopped."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advdef.book.kernel import Ended, environment_of, how_it_ended, kernel_manager, refuse_to_end
from advdef.book.notebookfile import parameter_defaults, read_executed, unexecuted
from advdef.book.repository import InputError
from advdef.store.files import naming, scratch

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import NotebookNode

__all__ = ["Execution", "Failure", "changed_parameters", "execute"]

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ERROR_LINES = 12
_START = 300  # seconds until a kernel has to answer; imports from a slow disk take a minute


@dataclass(frozen=True)
class Failure:
    """Why a notebook stopped: the number of the cell in the notebook (from 1), and the last lines of its error."""

    cell: int | None
    error: str


@dataclass(frozen=True)
class Execution:
    """One executed notebook: its file (up to the failing cell, if one failed), how long it took, and its records."""

    paper: str
    notebook: Path
    seconds: float
    failure: Failure | None = None
    results: Path | None = None

    @property
    def run(self) -> tuple[str, int]:
        """Data set and seed, from the folder of a run that succeeded."""
        dataset, _, seed = ("" if self.results is None else self.results.parents[1].name).rpartition("-seed")
        return dataset, int(seed or 0)


def execute(
    notebook: NotebookNode,
    destination: Path,
    *,
    paper: str,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path,
    cell_timeout: float | None = None,
    timeout: float | None = None,
    progress: bool = False,
) -> Execution:
    """Execute a notebook in this interpreter's environment, but without the user's settings of Jupyter and plots.

    While it runs, the file is ``NAME.partial.ipynb``. On success it becomes `destination`; when a cell fails, ends the
    kernel, is left out, or takes too long, it becomes ``NAME.failed.ipynb``. A kernel that dies before the first cell,
    or does not answer, is started once more. What the kernel process itself says goes to ``NAME.log``.

    Args:
        notebook: The notebook.
        destination: The file that it is to become, ``NAME.ipynb``.
        paper: The page that it is, by its name.
        parameters: Notebook parameters; those that differ from its defaults are injected.
        environment: Variables that the kernel gets besides those of this process.
        folder: Its working directory.
        cell_timeout: How many seconds one cell may take. Default: any.
        timeout: How many seconds all cells may take. Default: any.
        progress: Show a bar.

    Raises `InputError` for an unknown parameter, and OSError that names the path where a file cannot be written.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial, failed = (destination.with_suffix(f".{state}.ipynb") for state in ("partial", "failed"))
    failed.unlink(missing_ok=True)
    log = destination.with_suffix(".log")
    started = time.monotonic()

    def left() -> float:
        """How many seconds the notebook may still take."""
        return math.inf if timeout is None else timeout - (time.monotonic() - started)

    for last in (False, True):
        with log.open("ab" if last else "wb") as stream, scratch() as own, naming(partial):
            failure = _failure(
                notebook,
                partial,
                kernel_manager(environment_of(own) | {**environment, "ADVDEF_PAPER": paper}, stream.fileno(), own),
                left=left,
                cell_timeout=cell_timeout,
                log=log,
                parameters=changed_parameters(notebook, parameters),
                cwd=folder,
                progress_bar=progress,
            )
        if failure is None:
            os.replace(partial, destination)
            return Execution(paper, destination, time.monotonic() - started)
        if failure.cell is not None or left() <= 0:
            break
    os.replace(partial, failed)
    return Execution(paper, failed, time.monotonic() - started, failure)


def _failure(
    notebook: NotebookNode,
    partial: Path,
    kernel: type[AsyncKernelManager],
    *,
    left: Callable[[], float],
    cell_timeout: float | None,
    log: Path,
    **options: Any,
) -> Failure | None:
    """Execute a notebook into a file, by a kernel of that class; what went wrong, or None."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    def may_take(cell: Any) -> int | None:
        """How many seconds the next cell may take."""
        if left() <= 0:  # many short cells take long, too
            raise CellTimeoutError
        limit = min(left(), math.inf if cell_timeout is None else cell_timeout)
        return None if math.isinf(limit) else max(1, round(limit))

    try:
        papermill.execute_notebook(
            notebook,
            partial,
            kernel_name="python3",
            language="python",
            on_cell_executed=refuse_to_end,
            timeout_func=may_take,
            start_timeout=max(1, round(min(left(), _START))),
            kernel_manager_class=kernel,
            **options,
        )
    except PapermillExecutionError as error:
        said = f"{error.ename}: {error.evalue}"
        last = [part for part in error.traceback[-1:] if said not in _ANSI.sub("", part)]
        return Failure(_cell_number(partial), _last_lines([said, *last]))
    except Ended as error:
        return Failure(_cell_number(partial), str(error))
    except CellTimeoutError:
        return Failure(_cell_number(partial), "the cell took longer than it may (--cell-timeout, --timeout)")
    except (DeadKernelError, RuntimeError) as error:  # the latter for one that does not start, or in no time
        said = log.read_text(encoding="utf-8", errors="replace")
        return Failure(_cell_number(partial), _last_lines([said, str(error), how_it_ended(kernel)]))
    left_out = unexecuted(read_executed(partial))
    return None if left_out is None else Failure(left_out, "the cell was not executed")


def changed_parameters(notebook: NotebookNode, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those parameters that differ from the notebook's defaults: a default run needs no injected cell.

    A default that is not known counts as another value. Raises `InputError` for a name that is none.
    """
    defaults = parameter_defaults(notebook)
    for name in parameters:
        if name not in defaults:
            raise InputError(f"unknown notebook parameter {name!r}; parameters: {', '.join(defaults) or 'none'}")
    return {name: value for name, value in parameters.items() if value != defaults[name]}


def _cell_number(path: Path) -> int | None:
    """The number of the cell that failed, as the reader of the source notebook counts.

    When the kernel died, no cell is marked, but the last one that was begun is it.
    """
    from papermill.execute import remove_error_markers

    added, begun = {"injected-parameters"}, None
    cells = remove_error_markers(read_executed(path)).cells
    for number, cell in enumerate((c for c in cells if not added & set(c.metadata.get("tags", []))), start=1):
        told = cell.metadata.get("papermill", {})
        if told.get("exception"):
            return number
        if told.get("start_time"):
            begun = number
    return begun


def _last_lines(parts: list[str]) -> str:
    text = _ANSI.sub("", "\n".join(parts)).rstrip()
    return "\n".join(text.splitlines()[-_ERROR_LINES:])
