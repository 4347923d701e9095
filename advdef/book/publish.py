"""Moves a run's outputs and records into the repository, where the site and GitHub show them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from advdef.book.notebookfile import (
    LANGUAGE,
    first_difference,
    read_executed,
    read_pair,
    run_id,
    unexecuted,
    without_injected,
    write,
)
from advdef.book.records import images_file, read_record
from advdef.book.repository import InputError, Profile, Repository, RunFolder
from advdef.evaluation.attacked import AttackedImagesError
from advdef.evaluation.packed import read_packed
from advdef.store.files import replacing

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["publish", "with_outputs"]


def publish(
    repository: Repository, paper: str, *, profile: Profile, dataset: str | None = None, seed: int | None = None
) -> list[Path]:
    """Copy the executed notebook of a paper, its records and their images into the repository; returns the files.

    Of several finished runs `dataset` ("default": the notebook's own choice) and `seed` choose one. Page and records
    are taken together: they bear the id of the same run. Everything is checked before anything is written. Raises
    `InputError` when there is no successful run to record, or more than one; when its code has been edited since (its
    prose may have been); when page and records are not of one run; and when the package had changes that no commit has.
    """
    ((paper, path),) = repository.select([paper]).items()
    again = f"run `advdef reproduce {paper} --profile {profile}` first"
    place = _chosen(repository, paper, profile, dataset, seed, again)
    for failed in place.attempt.glob("*.failed.ipynb"):
        raise InputError(f"the last {profile} run of {paper} failed (see {failed}); {again}")
    executed = place.finished / path.name
    if not executed.is_file():
        raise InputError(f"nothing to record for {paper}: no {executed}; {again}")
    run, source = read_executed(executed), read_pair(path)
    different = first_difference(source, run, prose=False)
    if different is not None:
        raise InputError(
            f"{path.with_suffix('.py').name} has changed since the {profile} run (cell {different}); {again}"
        )
    if (cell := unexecuted(run)) is not None:
        raise InputError(f"{executed} was not executed to its end: cell {cell} was left out; {again}")
    records = sorted((place.results / paper).glob("*.json"))
    if not records:
        raise InputError(f"the {profile} run of {paper} left no record in {place.results / paper}; {again}")
    for file in records:
        found, wanted = read_record(file), run_id(run)
        if found["profile"] != profile or found.get("run") != wanted or wanted is None:
            raise InputError(
                f"{file} is of run {found.get('run')} in profile {found['profile']}, and the page beside it of run "
                f"{wanted} in profile {profile}; {again}"
            )

        commit = found["provenance"]["commit"]
        if commit is not None and commit.endswith("+"):
            raise InputError(
                f"{file} was made by code that no commit has ({commit}), so nobody could make it again; commit the "
                f"package, then {again}"
            )
        if found["images"] is not None:
            _check_images(found["images"], wanted)

    write(with_outputs(source, run), path)
    written = [path]
    for file in records:
        target = repository.committed_results / paper / file.name
        if not images_file(file).is_file():
            images_file(target).unlink(missing_ok=True)  # those of an earlier record
        for one, there in ((file, target), (images_file(file), images_file(target))):
            if one.is_file():
                with replacing(there) as partial:
                    shutil.copyfile(one, partial)
                written.append(there)
    return written


def _check_images(file: Path, run: str | None) -> None:
    """Raise `InputError` for attacked images that cannot be read, or are of another run than their record."""
    try:
        found = read_packed(file).facts.get("run")
    except AttackedImagesError as damaged:
        raise InputError(f"{damaged}; run its notebook again") from damaged
    if found != run:
        raise InputError(f"{file} has the images of run {found}, and the record beside it is of run {run}")


def _chosen(
    repository: Repository, paper: str, profile: Profile, dataset: str | None, seed: int | None, again: str
) -> RunFolder:
    """The one finished run that is meant."""
    there = repository.finished(profile, paper)
    meant = [run for run in there if dataset in (None, run.dataset) and (seed is None or str(seed) == run.seed)]
    if len(meant) == 1:
        return meant[0]
    names = ", ".join(run.name for run in there)
    if meant:
        raise InputError(f"{paper} has several {profile} runs: {names}; choose one with --dataset and --seed")
    if there:
        raise InputError(f"{paper} has no such {profile} run; there are: {names}")
    for failed in repository.build(profile).glob(f"runs/{paper}/*/attempt/*.failed.ipynb"):
        raise InputError(f"the last {profile} run of {paper} failed (see {failed}); {again}")
    raise InputError(f"nothing to record for {paper} in {repository.build(profile)}; {again}")


def with_outputs(source: NotebookNode, run: NotebookNode) -> NotebookNode:
    """The source notebook with the outputs and the id of a run and nothing else of it: no timings, no progress bars.

    Cells are numbered anew, so that a run with an injected cell gives the same numbers as one without.
    """
    import nbformat

    notebook = nbformat.from_dict(dict(source))
    notebook.metadata["language_info"] = dict(LANGUAGE)
    if (id := run_id(run)) is not None:
        notebook.metadata["advdef"] = {"run": id}
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
