"""Runs of the pages, each profile, data set and seed in a folder of its own."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advdef.book.cells import PageRun
from advdef.book.execution import Execution, Failure, execute
from advdef.book.notebookfile import UNKNOWN, first_difference, parameter_defaults, read_executed, read_pair
from advdef.book.repository import InputError, Profile, Repository
from advdef.data import dataset_name, find_device
from advdef.grid import Asked
from advdef.grid.executors import end_with_the_parent
from advdef.grid.worker import ATTEMPTS
from advdef.store import cache_folder
from advdef.store.files import explained, held, put_back, replace_folder

__all__ = ["out_of_step", "reproduce", "reproduce_all", "run_parameters"]

_ASKED = tuple(vars(Asked()))
_FOLDERS = ("ADVDEF_DATA", "ADVDEF_CACHE", "ADVDEF_PEERS")


def reproduce(
    repository: Repository,
    paper: str,
    *,
    profile: Profile = "smoke",
    parameters: Mapping[str, Any] | None = None,
    threads: int | None = None,
    from_the_grid: bool = False,
    cell_timeout: float | None = None,
    timeout: float | None = None,
    progress: bool = False,
) -> Execution:
    """Execute the notebook of a paper in a profile, in the folder that its data set and seed have in ``build/``.

    Page and records of an earlier such run are replaced, together, when the notebook has succeeded; both bear the id of
    the run. One that was interrupted or failed keeps its evaluations, and the next one goes on from them.

    Args:
        repository: The checkout that has the notebook.
        paper: The page, by its name.
        profile: The size of the run.
        parameters: Further notebook parameters: "dataset", "seed" and "device", say.
        threads: How many the notebook may use. Default: torch's choice.
        from_the_grid: Read evaluations from the store, where a grid has put them.
        cell_timeout: How many seconds one cell may take. Default: any.
        timeout: How many seconds all cells may take. Default: any.
        progress: Show a bar.

    Raises `InputError` for an unknown paper or parameter, and HeldError where another process is at the same run; a
    failing cell is no exception, but the `failure` of the result.
    """
    ((paper, path),) = repository.select([paper]).items()
    notebook = read_pair(path)
    chosen = {"profile": profile, **(parameters or {})}
    settings = {k: v for k, v in {**parameter_defaults(notebook), **chosen}.items() if v is not UNKNOWN}
    asked = {name: value for name in _ASKED if (value := settings.get(name)) is not None and name in chosen}
    place = repository.run(
        profile, paper, dataset=settings.get("dataset"), seed=settings.get("seed", 0), parameters=asked
    )
    # a smoke run takes seconds; in the others nothing should have to be attacked twice
    resume = str(cache_folder(ATTEMPTS)) if from_the_grid else "" if profile == "smoke" else str(place.resume)
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    notebook.metadata["advdef"] = {"run": run}
    with held(place.lock, f"{paper} ({place.name}, profile {profile})"):
        put_back(place.finished)
        shutil.rmtree(place.attempt, ignore_errors=True)
        results = place.attempt / "results"
        results.mkdir(parents=True)
        execution = execute(
            notebook,
            place.attempt / path.name,
            paper=paper,
            parameters=chosen,
            environment={
                "ADVDEF_RUN": run,
                "ADVDEF_RESULTS": str(results),
                "ADVDEF_RESUME": resume,
                # The kernel works in notebooks/, but a relative folder is meant from where the command was given.
                **{
                    name: str(Path(os.environ[name]).expanduser().resolve())
                    for name in _FOLDERS
                    if os.environ.get(name)
                },
                # Threads wait asleep: spinning ones stall a run to a fraction of its speed on a shared machine.
                "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
                **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
            },
            folder=path.parent,
            cell_timeout=cell_timeout,
            timeout=timeout,
            progress=progress,
        )
        if execution.failure is not None:
            return execution
        replace_folder(place.attempt, place.finished)
        shutil.rmtree(place.resume, ignore_errors=True)
    return replace(execution, notebook=place.finished / path.name, results=place.results)


def reproduce_all(
    repository: Repository,
    runs: Sequence[PageRun | str],
    *,
    profile: Profile = "smoke",
    parameters: Mapping[str, Any] | None = None,
    jobs: int = 1,
    from_the_grid: bool = False,
    cell_timeout: float | None = None,
    timeout: float | None = None,
    progress: bool = False,
) -> Iterator[Execution]:
    """:func:`reproduce` for several runs or papers; yields each as it ends.

    Notebooks that run side by side have a process and one thread each, and no progress bars.

    Args:
        repository: The checkout that has the notebooks.
        runs: What to execute: runs, or pages by name.
        profile: The size of the runs.
        parameters: Further notebook parameters of all runs; where a run has its own, these count.
        jobs: How many notebooks run side by side, at least 1.
        from_the_grid: Read evaluations from the store, where a grid has put them.
        cell_timeout: How many seconds one cell may take. Default: any.
        timeout: How many seconds all cells of a notebook may take. Default: any.
        progress: Show a bar, where notebooks run one after the other.

    Raises `InputError` for fewer than one job, and what :func:`reproduce` raises; where there are several, that is the
    failure of its notebook, and the others go on.
    """
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    one = reproduce if len(runs) == 1 else _reproduce_or_say
    options: dict[str, Any] = {
        "profile": profile, "from_the_grid": from_the_grid, "cell_timeout": cell_timeout, "timeout": timeout
    }  # fmt: skip
    calls = [
        (paper, functools.partial(one, repository, paper, parameters={**(parameters or {}), **own}, **options))
        for paper, own in map(_parameters, runs)
    ]
    if min(jobs, len(runs)) <= 1:
        threads = 1 if from_the_grid else None
        yield from (call(threads=threads, progress=progress) for _, call in calls)
        return
    pool = ThreadPoolExecutor(min(jobs, len(runs)))  # each waits for the process of its notebook
    try:
        for done in as_completed([pool.submit(_in_a_process, repository, call, paper) for paper, call in calls]):
            yield done.result()
    except BaseException:  # what has not begun does not begin, and what is at work ends
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _parameters(run: PageRun | str) -> tuple[str, dict[str, Any]]:
    """The paper of a run, and the parameters that it has of its own."""
    if isinstance(run, str):
        return run, {}
    told = {"seed": run.seed, "dataset": run.dataset, **run.asked.told}
    return run.paper, {name: value for name, value in told.items() if value is not None}


def _in_a_process(repository: Repository, run: Callable[..., Execution], paper: str) -> Execution:
    """Run in a process of its own, so that its death is the failure of this notebook alone."""
    started = time.monotonic()
    fresh = multiprocessing.get_context("spawn")  # a fork of a process that has threads may hang
    with ProcessPoolExecutor(1, mp_context=fresh, initializer=end_with_the_parent) as process:
        try:
            return process.submit(run, threads=1).result()
        except BrokenProcessPool:
            failure = Failure(None, "the process that executed it was killed; the same command goes on from there")
            return Execution(paper, repository.notebooks[paper], time.monotonic() - started, failure)


def _reproduce_or_say(repository: Repository, paper: str, **options: Any) -> Execution:
    """:func:`reproduce`, with what it raises for its input or the disk as a failure."""
    started = time.monotonic()
    try:
        return reproduce(repository, paper, **options)
    except (InputError, OSError) as error:
        said = explained(error) if isinstance(error, OSError) else str(error)
        return Execution(paper, repository.notebooks[paper], time.monotonic() - started, Failure(None, said))


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
    try:
        if dataset is not None:
            chosen["dataset"] = dataset_name(dataset)  # the kernel works in another folder
        if device is not None:
            find_device(device)
            chosen["device"] = device
    except ValueError as error:
        raise InputError(str(error)) from error
    return chosen


def out_of_step(path: Path) -> int | None:
    """The number of the first cell that differs between a notebook's ``.py`` and ``.ipynb``; None when they agree."""
    text, stored = path.with_suffix(".py"), path.with_suffix(".ipynb")
    if not (text.is_file() and stored.is_file()):
        return None
    return first_difference(read_pair(path), read_executed(stored))
