"""Moves a run's outputs and records into the repository, where the site and GitHub show them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from advdef.notebookfile import (
    LANGUAGE,
    first_difference,
    read_executed,
    read_pair,
    replacing,
    without_injected,
    write,
)
from advdef.repository import InputError, Profile, Repository

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["record", "with_outputs"]


def record(repository: Repository, paper: str, *, profile: Profile) -> list[Path]:
    """Copy the executed notebook of a paper and its records into the repository; returns the files written.

    Everything is checked before anything is written. Raises `InputError` when there is no successful run to record,
    when its code has been edited since (its prose may have been), or when the run left no record.
    """
    (path,) = repository.select([paper]).values()
    executed = repository.executed(profile) / path.name
    failed = executed.with_suffix(".failed.ipynb")
    again = f"run `advdef reproduce {paper} --profile {profile}` first"
    if failed.is_file():
        raise InputError(f"the last {profile} run of {paper} failed (see {failed}); {again}")
    if not executed.is_file():
        raise InputError(f"nothing to record for {paper}: no {executed}; {again}")
    run, source = read_executed(executed), read_pair(path)
    different = first_difference(source, run, prose=False)
    if different is not None:
        raise InputError(
            f"{path.with_suffix('.py').name} has changed since the {profile} run (cell {different}); {again}"
        )
    records = [file for file in _records(repository, paper, profile) if _belongs(file, run)]
    if not records:
        raise InputError(
            f"the {profile} run of {paper} left no record in {repository.results(profile) / paper}; {again}"
        )

    write(with_outputs(source, run), path)
    targets = [repository.committed_results / paper / file.name for file in records]
    for file, target in zip(records, targets, strict=True):
        with replacing(target) as partial:
            shutil.copyfile(file, partial)
    return [path, *targets]


def with_outputs(source: NotebookNode, run: NotebookNode) -> NotebookNode:
    """The source notebook with the outputs of a run and nothing else of it: no timings, parameters, progress bars.

    Cells are numbered anew, so that a run with an injected cell gives the same numbers as one without.
    """
    import nbformat

    notebook = nbformat.from_dict(dict(source))
    notebook.metadata["language_info"] = dict(LANGUAGE)
    number = 0
    for cell, done in zip(notebook.cells, without_injected(run).cells, strict=True):
        if cell.cell_type != "code":
            continue
        if done.execution_count is not None:
            number += 1
            cell.execution_count = number
        # progress bars are for the person who waits
        cell.outputs = [o for o in done.outputs if (o.output_type, o.get("name")) != ("stream", "stderr")]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    return notebook


def _records(repository: Repository, paper: str, profile: Profile) -> Iterator[Path]:
    for file in sorted((repository.results(profile) / paper).glob(f"*-{profile}.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{file} is not JSON: {error}") from error
        kept = content if isinstance(content, dict) else {}
        found = {key: kept.get(key) for key in ("schema", "paper", "profile")}
        if found != {"schema": 1, "paper": paper, "profile": profile}:
            raise InputError(f"{file} is not a record of {paper} in profile {profile}: it says {found}")
        yield file


def _belongs(record: Path, run: NotebookNode) -> bool:
    """Whether the record was written by this run or after it, not left over from an earlier one."""
    from datetime import datetime

    started = run.metadata.get("papermill", {}).get("start_time")
    return started is None or record.stat().st_mtime >= datetime.fromisoformat(started).timestamp()
