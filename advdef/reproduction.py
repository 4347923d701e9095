"""Executes notebooks with papermill, into ``build/<profile>/notebooks``."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advdef.notebookfile import first_difference, parameter_defaults, read_executed, read_pair, replacing
from advdef.repository import InputError, Profile, Repository

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import NotebookNode

__all__ = [
    "Execution",
    "Failure",
    "changed_parameters",
    "execute",
    "out_of_step",
    "reproduce",
    "reproduce_all",
    "run_parameters",
]

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ERROR_LINES = 12
_FOLDERS = ("ADVDEF_DATA", "ADVDEF_CACHE", "ADVDEF_PEERS")


@dataclass(frozen=True)
class Failure:
    """Why a notebook stopped: the number of the cell in the notebook (from 1), and the last lines of its error."""

    cell: int | None
    error: str


@dataclass(frozen=True)
class Execution:
    """One executed notebook: its file (up to the failing cell, if one failed) and how long it took."""

    paper: str
    notebook: Path
    seconds: float
    failure: Failure | None = None


def reproduce(
    repository: Repository,
    paper: str,
    *,
    profile: Profile = "smoke",
    parameters: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Execution:
    """Execute the notebook of a paper in a profile; the records go to ``build/<profile>/results``.

    A run that was interrupted or failed keeps its evaluations in ``build/<profile>/resume``; the next one goes on from
    them. `parameters` are further notebook parameters (dataset, seed, device); `threads` how many the notebook may use
    (default: torch's choice). Raises `InputError` for an unknown paper or parameter; a failing cell is no exception,
    but the `failure` of the result.
    """
    (path,) = repository.select([paper]).values()
    results = repository.results(profile)
    results.mkdir(parents=True, exist_ok=True)
    # a smoke run takes seconds; from the others nothing that has been attacked should have to be attacked again
    resume = repository.build(profile) / "resume" / paper
    execution = execute(
        read_pair(path),
        repository.executed(profile) / path.name,
        paper=paper,
        parameters={"profile": profile, **(parameters or {})},
        environment={
            "ADVDEF_RESULTS": str(results),
            "ADVDEF_RESUME": "" if profile == "smoke" else str(resume),
            # The kernel works in notebooks/, but a relative folder is meant from where the command was given.
            **{name: str(Path(os.environ[name]).resolve()) for name in _FOLDERS if os.environ.get(name)},
            # Threads wait asleep: spinning ones stall a run to a fraction of its speed on a machine that is shared.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
        },
        folder=path.parent,
        progress=progress,
    )
    if execution.failure is None:
        shutil.rmtree(resume, ignore_errors=True)
    return execution


def reproduce_all(
    repository: Repository,
    papers: Sequence[str],
    *,
    profile: Profile = "smoke",
    parameters: Mapping[str, Any] | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> Iterator[Execution]:
    """:func:`reproduce` for several papers, `jobs` at a time; yields each as it ends.

    Notebooks that run side by side get one thread each, and no progress bars. Raises what :func:`reproduce` raises, and
    `InputError` for fewer than one job.
    """
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    run = functools.partial(reproduce, repository, profile=profile, parameters=parameters)
    if min(jobs, len(papers)) <= 1:
        yield from (run(paper, progress=progress) for paper in papers)
        return
    # a fresh interpreter each: a fork of one that has threads may hang
    pool = ProcessPoolExecutor(min(jobs, len(papers)), mp_context=multiprocessing.get_context("spawn"))
    try:
        for done in as_completed([pool.submit(run, paper, threads=1) for paper in papers]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, what has not begun does not begin


def execute(
    notebook: NotebookNode,
    destination: Path,
    *,
    paper: str,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path,
    progress: bool = False,
) -> Execution:
    """Execute a notebook in this interpreter's environment; its working directory is `folder`.

    While it runs, the file is ``NAME.partial.ipynb``. On success it becomes `destination`; when a cell fails it becomes
    ``NAME.failed.ipynb``. What the kernel process itself says goes to ``NAME.log``.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    destination.parent.mkdir(parents=True, exist_ok=True)
    partial, failed = (destination.with_suffix(f".{state}.ipynb") for state in ("partial", "failed"))
    failed.unlink(missing_ok=True)
    log = destination.with_suffix(".log")
    started = time.monotonic()
    with log.open("wb") as stream:
        try:
            papermill.execute_notebook(
                notebook,
                partial,
                parameters=changed_parameters(notebook, parameters),
                cwd=folder,
                progress_bar=progress,
                kernel_name="python3",
                language="python",
                kernel_manager_class=_kernel_here({**os.environ, **environment}, stream.fileno()),
            )
        except PapermillExecutionError as error:
            said = f"{error.ename}: {error.evalue}"
            last = [part for part in error.traceback[-1:] if said not in _ANSI.sub("", part)]
            failure = Failure(_cell_number(partial), _last_lines([said, *last]))
        except DeadKernelError as error:
            failure = Failure(_cell_number(partial), _last_lines([log.read_text(errors="replace"), str(error)]))
        else:
            _finish(partial, destination)
            return Execution(paper, destination, time.monotonic() - started)
    os.replace(partial, failed)
    return Execution(paper, failed, time.monotonic() - started, failure)


def changed_parameters(notebook: NotebookNode, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those parameters that differ from the notebook's defaults: a default run needs no injected cell."""
    defaults = parameter_defaults(notebook)
    for name in parameters:
        if name not in defaults:
            raise InputError(f"unknown notebook parameter {name!r}; parameters: {', '.join(defaults) or 'none'}")
    return {name: value for name, value in parameters.items() if value != defaults[name]}


def run_parameters(
    *, dataset: str | None = None, seed: str | int | None = None, device: str | None = None
) -> dict[str, Any]:
    """Checked notebook parameters; those that are None are left to the notebook. Raises `InputError`.

    >>> run_parameters(dataset="digits", seed="3")
    {'seed': 3, 'dataset': 'digits'}
    """
    chosen: dict[str, Any] = {}
    if seed is not None:
        if not re.fullmatch(r"\d{1,10}", str(seed)) or int(seed) >= 2**32:
            raise InputError(f"seed {seed!r} is not possible; seeds: whole numbers from 0 to {2**32 - 1}")
        chosen["seed"] = int(seed)
    if dataset is not None:
        from advdef.data import DATASETS

        if dataset not in DATASETS:
            raise InputError(f"unknown data set {dataset!r}; data sets: {', '.join(DATASETS)}")
        chosen["dataset"] = dataset
    if device is not None:
        import torch

        here = ["cpu"]
        here += ["mps"] if torch.backends.mps.is_available() else []
        here += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
        if device not in here:
            raise InputError(f"unknown device {device!r}; devices of this machine: {', '.join(here)}")
        chosen["device"] = device
    return chosen


def out_of_step(path: Path) -> int | None:
    """The number of the first cell that differs between a notebook's ``.py`` and ``.ipynb``; None when they agree."""
    text, stored = path.with_suffix(".py"), path.with_suffix(".ipynb")
    if not (text.is_file() and stored.is_file()):
        return None
    return first_difference(read_pair(path), read_executed(stored))


def _kernel_here(environment: dict[str, str], output: int) -> type[AsyncKernelManager]:
    """A kernel manager that always starts this interpreter, whatever kernels are registered on the machine."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    # Kernels listen on TCP by default and say so; a debugger warning comes on top. Both are noise in a batch run.
    argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    class KernelHere(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

        async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
            options.update(env=environment, stdout=output, stderr=output)
            return await super()._async_pre_start_kernel(**options)

        pre_start_kernel = _async_pre_start_kernel

    return KernelHere


def _finish(partial: Path, destination: Path) -> None:
    with replacing(destination) as temporary:
        os.replace(partial, temporary)


def _cell_number(path: Path) -> int | None:
    """The number of the cell that failed, as the reader of the source notebook counts."""
    from papermill.execute import remove_error_markers

    added = {"injected-parameters"}
    cells = remove_error_markers(read_executed(path)).cells
    for number, cell in enumerate((c for c in cells if not added & set(c.metadata.get("tags", []))), start=1):
        if cell.metadata.get("papermill", {}).get("exception"):
            return number
    return None


def _last_lines(parts: list[str]) -> str:
    text = _ANSI.sub("", "\n".join(parts)).rstrip()
    return "\n".join(text.splitlines()[-_ERROR_LINES:])
