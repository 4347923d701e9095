"""The command ``advdef``: reproduce, book, record, new, data, cache, verdicts.

Exit codes: 0 all went well, 1 a notebook, the site or a download failed, 2 the input makes no sense.
Modules are imported where they are used, so that ``advdef --help`` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from advdef.cache import cache_app
from advdef.repository import PROFILES, InputError, Repository, check_profile, find

if TYPE_CHECKING:
    from advdef.reproduction import Execution

__all__ = ["app", "main"]

P = ParamSpec("P")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adversarial defences, reproduced and attacked.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets: what is here, download, bundles for other machines.")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")

Papers = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PAPER]...", help="Notebooks by name or file, e.g. qusecnets or 01_qusecnets; default: all."
    ),
]
ProfileOption = Annotated[str, typer.Option("--profile", help=f"One of {', '.join(PROFILES)}.")]
Root = Annotated[
    Path | None, typer.Option("--root", help="Folder of the data sets; default: $ADVDEF_DATA, else a cache folder.")
]


def main() -> None:
    """Run the command line."""
    app()


def _guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors that the user can mend into one line and an exit code."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InputError as error:
            raise _stop(error, 2) from error

    return guarded


@app.command()
@_guarded
def reproduce(
    papers: Papers = None,
    profile: ProfileOption = "smoke",
    dataset: Annotated[str | None, typer.Option(help="Data set; default: the notebook's own choice.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="Seed of the run.  [default: 0]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps; default: the best there is.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Notebooks at a time.  [default: one for each core in smoke, else 1]", min=1)
    ] = None,
    site: Annotated[bool, typer.Option(help="Render the site from the executed notebooks.")] = True,
) -> None:
    """Execute the notebooks of papers, render the site, print the verdicts."""
    repository, chosen = find(), check_profile(profile)
    selected = repository.select(papers or ())
    _need("papermill", "jupytext", "ipykernel", "jupyter_book")
    from advdef import reproduction

    parameters = reproduction.run_parameters(dataset=dataset, seed=seed, device=device)
    if not selected:
        raise InputError(f"no notebooks in {repository.root / 'notebooks'}")
    executions: list[Execution] = []
    started = time.time()
    for path in selected.values():
        if (cell := reproduction.out_of_step(path)) is not None:
            _say(f"note: {path.stem}.py runs; {path.name} differs from it in cell {cell} (jupytext --sync mends it)")
    side_by_side = jobs or ((os.cpu_count() or 1) if chosen == "smoke" else 1)
    _say(f"executing {', '.join(path.stem for path in selected.values())}; profile {chosen} ...")
    for execution in reproduction.reproduce_all(
        repository,
        list(selected),
        profile=chosen,
        parameters=parameters,
        jobs=side_by_side,
        progress=sys.stderr.isatty(),
    ):
        executions.append(execution)
        _report(execution, f"[{len(executions)}/{len(selected)}]")
    failed = [execution for execution in executions if execution.failure]
    done = {execution.notebook.name: execution.notebook for execution in executions if not execution.failure}
    rendered = not site or _render(repository, repository.build(chosen), done, since=started)
    # Records of a failed notebook, or of other data sets, are left over from earlier runs.
    _verdicts(repository.results(chosen), {e.paper for e in executions if not e.failure}, chosen, since=started)
    if failed or not rendered:
        raise typer.Exit(1)


@app.command()
@_guarded
def book() -> None:
    """Render the site from the committed notebooks, without executing anything."""
    repository = find()
    _need("jupyter_book", "nbformat")
    if not _render(repository, repository.root / "build" / "committed", {}):
        raise typer.Exit(1)


@app.command()
@_guarded
def record(papers: Papers = None, profile: ProfileOption = "laptop") -> None:
    """Move the outputs and records of a finished run into the repository."""
    repository, chosen = find(), check_profile(profile)
    selected = repository.select(papers or ())
    _need("jupytext", "nbformat")
    from advdef import recording

    # Without names: whatever has been run.
    wanted = [p for p, path in selected.items() if papers or (repository.executed(chosen) / path.name).is_file()]
    if not wanted:
        raise InputError(f"nothing to record: no executed notebook in {repository.executed(chosen)}")
    for paper in wanted:
        for file in recording.record(repository, paper, profile=chosen):
            typer.echo(f"recorded {file.relative_to(repository.root)}")


@app.command()
@_guarded
def new(name: Annotated[str, typer.Argument(help="Name of the module and the notebook, e.g. my_defence.")]) -> None:
    """Make the files of a further defence: module, claims, notebook, entry in the contents."""
    repository = find()
    _need("jupytext", "nbformat")
    from advdef.scaffold import new_defence

    for path in new_defence(repository, name):
        typer.echo(path.relative_to(repository.root))
    typer.echo(f"a working example; try it with: advdef reproduce {name}")


@app.command()
@_guarded
def verdicts(
    papers: Papers = None,
    profile: Annotated[str | None, typer.Option(help=f"One of {', '.join(PROFILES)}; default: all.")] = None,
    committed: Annotated[
        bool, typer.Option("--committed", help="Of the committed records, not of local runs.")
    ] = False,
) -> None:
    """Print the verdicts on the papers' claims, from the records of runs."""
    from advdef.summary import read_verdicts, verdict_table

    repository = find()
    profiles = PROFILES if profile is None else (check_profile(profile),)
    selected = repository.select(papers or ())
    found = [
        verdict
        for name in profiles
        for verdict in read_verdicts(
            repository.committed_results if committed else repository.results(name), papers=selected, profile=name
        )
    ]
    typer.echo(
        verdict_table(found) if found else "no verdicts: run `advdef reproduce` first, or ask for --committed ones"
    )


@data_app.command("list")
@_guarded
def data_list(root: Root = None) -> None:
    """List the data sets and where each would come from."""
    with _data_errors():
        from advdef import data

        typer.echo(f"in {root or data.default_root()}:")
        for entry in data.status(root):
            shape = "x".join(map(str, entry.shape))
            where = f"{entry.source}  {entry.path}" if entry.source == "bundle" else entry.source
            typer.echo(f"  {entry.name:<14} {shape:<8} {entry.num_classes:>3} classes  {where}")


@data_app.command("fetch")
@_guarded
def data_fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...")], root: Root = None) -> None:
    """Download data sets (those that are here are only checked)."""
    with _data_errors():
        from advdef import data

        for name in names:
            loaded = data.load(name, root=root)
            typer.echo(f"{name}: {len(loaded.train)} + {len(loaded.test)} images, checksum {loaded.checksum}")


@data_app.command("export")
@_guarded
def data_export(
    name: Annotated[str, typer.Argument()],
    folder: Annotated[Path, typer.Argument(help="Where NAME.npz is written.")],
    root: Root = None,
) -> None:
    """Write a data set as one bundle, for a machine without internet."""
    with _data_errors():
        from advdef import data

        typer.echo(data.export(name, folder, root=root))


@contextlib.contextmanager
def _data_errors() -> Iterator[None]:
    from advdef.data import BundleError, DatasetUnavailable, UnknownDataset

    try:
        yield
    except (UnknownDataset, BundleError) as error:
        raise _stop(error, 2) from error
    except (DatasetUnavailable, OSError) as error:
        raise _stop(error, 1) from error


def _render(repository: Repository, destination: Path, notebooks: dict[str, Path], *, since: float = 0.0) -> bool:
    """Render the site with these notebooks and the records of their runs, and with committed ones for the rest."""
    from advdef.ledger import read_records
    from advdef.links import check_links
    from advdef.site import SiteError, render

    _say("rendering the site ...")
    stems = {Path(name).stem for name in notebooks}
    here = {paper for paper, path in repository.notebooks.items() if path.stem in stems}
    records = [r for r in read_records(repository.committed_results) if r["paper"] not in here]
    if here:
        records += [r for r in read_records(destination / "results", since=since) if r["paper"] in here]
    try:
        index = render(repository, destination, notebooks=notebooks, records=records)
    except SiteError as error:
        typer.echo(f"advdef: {error}", err=True)
        return False
    links = check_links(index.parent)
    for link in links.broken:
        typer.echo(f"advdef: broken link in {link}", err=True)
    listed = destination / "external-links.txt"
    listed.write_text("".join(f"{link}\n" for link in links.external), encoding="utf-8")
    within = f"{links.internal} within the site, {len(links.broken)} of them broken"
    _say(f"links: {within}; {len(links.external)} addresses elsewhere, listed in {listed}")
    typer.echo(f"site: {index.resolve().as_uri()}")
    return not links.broken


def _report(execution: Execution, number: str) -> None:
    if execution.failure is None:
        _say(f"{number} done in {execution.seconds:.0f} s: {execution.notebook}")
        return
    where = "" if execution.failure.cell is None else f" in cell {execution.failure.cell}"
    error = "\n".join(f"      {line}" for line in execution.failure.error.splitlines())
    typer.echo(f"{number} FAILED{where} after {execution.seconds:.0f} s: {execution.notebook}\n{error}", err=True)


def _verdicts(results: Path, papers: set[str], profile: str, *, since: float) -> None:
    from advdef.summary import read_verdicts, verdict_table

    found = read_verdicts(results, papers=papers, profile=profile, since=since)
    typer.echo(f"\n{verdict_table(found)}" if found else "no verdicts: what ran has no claims, or failed")


def _need(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} is not installed; pip install -e '.[book]' in the checkout brings it")


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def _stop(error: Exception, code: int) -> typer.Exit:
    typer.echo(f"advdef: {' '.join(str(error).split())}", err=True)
    return typer.Exit(code)


if __name__ == "__main__":
    main()
