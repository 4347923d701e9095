"""The command ``advdef``: judge, check, diff, holes, reproduce, book, record, images, new, data, cache, grid,
verdicts, plan.

Exit codes: 0 all went well; 1 a notebook, the site, a download or the disk failed, another process is at the same run,
or what was judged, checked or compared is not as it should be; 2 the input makes no sense.
Modules are imported where they are used, so that ``advdef --help`` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advdef.book.cache import cache_app
from advdef.book.gridcommand import (
    DatasetsOption,
    EpsOption,
    ImagesOption,
    SchedulerOption,
    SeedsEachOption,
    SeedsOption,
    TlsOption,
    compute,
    grid_app,
    page_parameters,
    split,
)
from advdef.book.holescommand import holes
from advdef.book.repository import PROFILES, InputError, check_profile, find
from advdef.book.terminal import guarded, need, render_site, report_run, say, stop, tolerant, verdict_lines
from advdef.report.commands import ChannelsOption, SizeOption, check, diff, judge

if TYPE_CHECKING:
    from advdef.book.execution import Execution

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adversarial defences, reproduced and attacked.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets: what is here, download, bundles for other machines.")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(grid_app, name="grid")
for command in (judge, check, diff, holes):
    app.command()(command)

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
    tolerant()
    app()


@app.command()
@guarded
def reproduce(
    papers: Papers = None,
    profile: ProfileOption = "smoke",
    dataset: Annotated[str | None, typer.Option(help="Data set; default: the notebook's own choice.")] = None,
    datasets: DatasetsOption = None,
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="Seed of the run.  [default: 0]")] = None,
    seeds: SeedsOption = 1,
    eps: EpsOption = None,
    images: ImagesOption = None,
    seeds_each: SeedsEachOption = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps; default: the best there is.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Processes at a time.  [default: in smoke as many as cores and runs, else 1]", min=1),
    ] = None,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
    cell_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long a cell may take; default: any time.", min=1)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long a notebook may take; default: any time.", min=1)
    ] = None,
    site: Annotated[bool, typer.Option(help="Render the site from the executed notebooks.")] = True,
) -> None:
    """Execute the notebooks of papers, render the site, print the verdicts."""
    repository, chosen = find(), check_profile(profile)
    selected = repository.select(papers or ())
    need("papermill", "jupytext", "ipykernel", "jupyter_book")
    from advdef.book import notebookfile
    from advdef.book import run as reproduction
    from advdef.book.cells import page_runs
    from advdef.book.records import read_records

    if dataset is not None and datasets is not None:
        raise InputError("--dataset names one data set, --datasets several; give one of the two")
    chosen_seed = reproduction.run_parameters(seed=seed).get("seed")
    parameters = reproduction.run_parameters(dataset=dataset, device=device)
    if not selected:
        raise InputError(f"no notebooks in {repository.root / 'notebooks'}")
    names = split(datasets) or ([dataset] if dataset else [])
    asked = page_parameters(eps, images, seeds_each)
    runs = page_runs(list(selected), profile=chosen, datasets=names, seed=chosen_seed, seeds=seeds, asked=asked)
    executions: list[Execution] = []
    for path in selected.values():
        if (note := notebookfile.difference_note(path)) is not None:
            say(f"note: {note}")
    side_by_side = jobs or ((os.cpu_count() or 1) if chosen == "smoke" else 1)
    # processes that outnumber the runs, or long runs, share their parts
    as_tasks = scheduler is not None or (jobs is not None and jobs > (len(runs) if chosen == "smoke" else 1))
    if as_tasks:
        compute(runs, chosen, device=device, jobs=side_by_side, scheduler=scheduler, tls=tls, threads=1)
    say(f"executing {', '.join(path.stem for path in selected.values())}; profile {chosen} ...")
    for execution in reproduction.reproduce_all(
        repository,
        runs,
        profile=chosen,
        parameters=parameters,
        jobs=side_by_side,
        from_the_grid=as_tasks,
        cell_timeout=cell_timeout,
        timeout=timeout,
        progress=sys.stderr.isatty(),
    ):
        executions.append(execution)
        report_run(execution, f"[{len(executions)}/{len(runs)}]")
    done = [execution for execution in executions if not execution.failure]
    rendered = render_site(repository, repository.build(chosen), done) if site else True
    folders = [execution.results for execution in done if execution.results]
    records = read_records(*folders) if folders else []
    typer.echo(f"\n{verdict_lines(records) or 'no verdicts: what ran has no claims, or failed'}")
    if len(done) < len(runs) or not rendered:
        raise typer.Exit(1)


@app.command()
@guarded
def book() -> None:
    """Render the site from the committed notebooks, without executing anything."""
    repository = find()
    need("jupyter_book", "nbformat")
    if not render_site(repository, repository.root / "build" / "committed", []):
        raise typer.Exit(1)


@app.command()
@guarded
def record(
    papers: Papers = None,
    profile: ProfileOption = "laptop",
    dataset: Annotated[
        str | None, typer.Option(help='Of the run on this data set ("default": the notebook\'s own choice).')
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the run with this seed.")] = None,
) -> None:
    """Move the outputs and records of a finished run into the repository; without options, of the only one there is."""
    repository, chosen = find(), check_profile(profile)
    selected = repository.select(papers or ())
    need("jupytext", "nbformat")
    from advdef.book import publish as recording

    # Without names: whatever has been run.
    wanted = [paper for paper in selected if papers or repository.finished(chosen, paper)]
    if not wanted:
        raise InputError(f"nothing to record: no finished run in {repository.build(chosen)}")
    for paper in wanted:
        for file in recording.publish(repository, paper, profile=chosen, dataset=dataset, seed=seed):
            typer.echo(f"recorded {file.relative_to(repository.root)}")


@app.command()
@guarded
def images(
    papers: Papers = None,
    profile: ProfileOption = "laptop",
    dataset: Annotated[str | None, typer.Option(help="Of the runs on this data set.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the runs with this seed.")] = None,
    data: Annotated[
        str | None, typer.Option(help="The data of your own that they are on: npz:FILE or folder:PATH.")
    ] = None,
) -> None:
    """Write the attacked images of finished runs once more, beside their records, from what the store has kept."""
    repository, chosen = find(), check_profile(profile)
    from advdef.book.recordimages import PAGE_LIMIT, save_images_of_record

    runs = [(paper, run) for paper in repository.select(papers or ()) for run in repository.finished(chosen, paper)]
    runs = [(p, run) for p, run in runs if dataset in (None, run.dataset) and (seed is None or str(seed) == run.seed)]
    if not runs:
        raise InputError(f"no such finished run in {repository.build(chosen)}")
    for paper, run in runs:
        records = sorted((run.results / paper).glob("*.json"))
        for file in records:
            typer.echo(save_images_of_record(file, own=data, limit=PAGE_LIMIT // len(records)))


@app.command()
@guarded
def new(
    name: Annotated[str, typer.Argument(help="Name of the module and the notebook, e.g. my_defence.")],
    kind: Annotated[str, typer.Option(help="deterministic, random or trained.")] = "deterministic",
) -> None:
    """Make the files of a further defence: module, claims, notebook, entry in the contents."""
    repository = find()
    need("jupytext", "nbformat")
    from advdef.book.scaffold import new_defence

    for path in new_defence(repository, name, kind=kind):
        typer.echo(path.relative_to(repository.root))
    typer.echo(f"a working example; try it with: advdef reproduce {name}")


@app.command()
@guarded
def verdicts(
    papers: Papers = None,
    profile: Annotated[str | None, typer.Option(help=f"One of {', '.join(PROFILES)}; default: all.")] = None,
    committed: Annotated[
        bool, typer.Option("--committed", help="Of the committed records, not of local runs.")
    ] = False,
) -> None:
    """Print the verdicts on the papers' claims, from the records of runs."""
    from advdef.book.records import read_records

    repository = find()
    profiles = PROFILES if profile is None else (check_profile(profile),)
    selected = repository.select(papers or ())
    records = []
    for name in profiles:
        runs = [run.results for paper in selected for run in repository.finished(name, paper)]
        if places := [repository.committed_results] if committed else runs:
            records += read_records(*places, profile=name)
    found = verdict_lines(record for record in records if record["paper"] in selected)
    typer.echo(found or "no verdicts: run `advdef reproduce` first, or ask for --committed ones")


@app.command()
@guarded
def plan(
    papers: Papers = None,
    profile: ProfileOption = "laptop",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for a program.")] = False,
) -> None:
    """Tell what would decide the claims that runs left undecided: images, networks, time.

    From local runs of the profile, and from the committed records of papers that were not run here.
    """
    from advdef.book.plan import plan as planned
    from advdef.book.plan import plan_lines
    from advdef.book.records import read_records

    repository, chosen = find(), check_profile(profile)
    records = []
    for paper in repository.select(papers or ()):
        folders = [run.results for run in repository.finished(chosen, paper)]
        runs = read_records(*folders) if folders else []
        committed = read_records(repository.committed_results, profile=chosen)
        records += runs or [record for record in committed if record["paper"] == paper]
    if not records:
        raise InputError(f"no run of the profile {chosen} to plan from: advdef reproduce --profile {chosen}")
    steps = planned(records)
    if as_json:
        typer.echo(json.dumps([step.as_json() for step in steps], indent=1))
    else:
        typer.echo(plan_lines(steps) or "every claim that these runs could test is decided")


@data_app.command("list")
@guarded
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
@guarded
def data_fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...")], root: Root = None) -> None:
    """Download data sets (those that are here are only checked)."""
    with _data_errors():
        from advdef import data

        for name in names:
            loaded = data.load(name, root=root)
            typer.echo(f"{name}: {len(loaded.train)} + {len(loaded.test)} images, checksum {loaded.checksum}")


@data_app.command("export")
@guarded
def data_export(
    name: Annotated[str, typer.Argument()],
    folder: Annotated[Path, typer.Argument(help="Where NAME.npz is written.")],
    root: Root = None,
    size: SizeOption = None,
    channels: ChannelsOption = None,
) -> None:
    """Write a data set as one bundle: for a machine without internet, or a folder's pictures resized for a page."""
    with _data_errors():
        from advdef import data
        from advdef.data.own import read_channels, read_size

        sides, planes = read_size(size), read_channels(channels)
        typer.echo(data.export(name, folder, root=root, size=sides, channels=planes))


@contextlib.contextmanager
def _data_errors() -> Iterator[None]:
    from advdef.data import DatasetUnavailable

    try:
        yield
    except ValueError as error:
        raise stop(error, 2) from error
    except DatasetUnavailable as error:
        raise stop(error, 1) from error


if __name__ == "__main__":
    main()
