"""The command ``advdef grid``: what pages compute, on this machine, on several, or as the jobs of an array."""

from __future__ import annotations

import contextlib
import math
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from advdef.book.repository import PROFILES, InputError, Profile, check_profile, find
from advdef.book.terminal import guarded, say

if TYPE_CHECKING:
    from advdef.book.cells import PageRun
    from advdef.grid import Asked, Cell, Progress

__all__ = [
    "DatasetsOption", "EpsOption", "ImagesOption", "SchedulerOption", "SeedsEachOption", "SeedsOption", "TlsOption",
    "page_parameters", "compute", "grid_app",
    "spread_out",
]  # fmt: skip

grid_app = typer.Typer(
    no_args_is_help=True, help="What the pages compute, on processes, a cluster or an array of jobs."
)

Papers = Annotated[list[str] | None, typer.Argument(metavar="[PAPER]...", help="Pages by name; default: all.")]
DatasetsOption = Annotated[
    str | None, typer.Option("--datasets", metavar="NAME,...", help="A run on each; default: the page's own choice.")
]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="So many runs, with other networks each.")]
SchedulerOption = Annotated[
    str | None, typer.Option("--scheduler", metavar="ADDRESS", help="A dask scheduler, as tcp://127.0.0.1:8786.")
]
TlsOption = Annotated[
    str | None,
    typer.Option("--tls", metavar="CA,CERT,KEY", help="Three files, for a scheduler at tls://HOST:PORT."),
]
EpsOption = Annotated[
    float | None, typer.Option("--eps", help="Main budget in Linf, 0.03 say; default: the page's own.")
]
ImagesOption = Annotated[
    int | None, typer.Option("--images", help="How many test images are attacked; default: as the profile says.")
]
SeedsEachOption = Annotated[
    int | None,
    typer.Option("--seeds-each", help="Over how many seeds each run compares; default: as the profile says."),
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads of each task.")]
ProfileOption = Annotated[str, typer.Option("--profile", help=f"One of {', '.join(PROFILES)}.")]
_MINUTE = 60.0


@grid_app.command("run")
@guarded
def run_command(
    papers: Papers = None,
    profile: ProfileOption = "smoke",
    datasets: DatasetsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: SeedsOption = 1,
    eps: EpsOption = None,
    images: ImagesOption = None,
    seeds_each: SeedsEachOption = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, on each worker.  [default: cpu]")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of this machine.")] = 1,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
    index: Annotated[int | None, typer.Option(min=0, help="Which share this job computes, from 0.")] = None,
    of: Annotated[int | None, typer.Option(min=1, help="How many shares there are.")] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Compute what pages need, so that ``advdef reproduce`` finds it."""
    chosen, runs = _runs(papers, profile, datasets, seed, seeds, eps, images, seeds_each)
    if (index is None) != (of is None):
        raise InputError("--index and --of go together: the share of this job, and how many there are")
    if index is not None and of is not None:
        if index >= of:
            raise InputError(f"--index {index} of {of}: the shares are 0 to {of - 1}")
        if scheduler is not None or jobs > 1:
            raise InputError("--index is for jobs without a scheduler, of one process each")
        from advdef.grid import run_share

        with _reporting() as report:
            progress = run_share(_cells(runs, chosen, device), index=index, of=of, threads=threads, report=report)
        finish(progress)
        return
    compute(runs, chosen, device=device, jobs=jobs, scheduler=scheduler, tls=tls, threads=threads)


@grid_app.command("list")
@guarded
def list_command(
    papers: Papers = None,
    profile: ProfileOption = "smoke",
    datasets: DatasetsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: SeedsOption = 1,
    eps: EpsOption = None,
    images: ImagesOption = None,
    seeds_each: SeedsEachOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """List what pages compute, what of it is in the store, and what that took."""
    chosen, runs = _runs(papers, profile, datasets, seed, seeds, eps, images, seeds_each)
    from advdef.grid.engine import planned

    for run in runs:
        for walk in planned(run.cells(chosen), threads=threads):
            items = list(walk.items.values())
            done = [item for item in items if item.over]
            calls = dict.fromkeys(item.task.call for item in items)
            told = ", ".join(f"{sum(i.task.call == call for i in items)} {call}" for call in calls)
            rest = "" if walk.ended else "; what follows depends on these"
            took = sum(item.seconds for item in done)
            told = f"{len(items)} tasks ({told}){rest}; {len(done)} done in {took:.0f} s"
            say(f"{run.label}, {walk.cell.dataset}: {told}")
            if len(done) == len(items) and done:
                most = math.ceil(took / max(walk.longest(), 1e-9))
                say(f"    their longest chain took {walk.longest():.0f} s: more than {most} workers gain nothing")


def compute(
    runs: list[PageRun], profile: Profile, *, device: str | None, jobs: int, scheduler: str | None, tls: str | None,
    threads: int,
) -> None:  # fmt: skip
    """Compute what is missing of these runs; raises `InputError`, and typer's exit where a task failed.

    Args:
        runs: Which runs of pages; of a page that has no study, nothing is computed.
        profile: The size of the runs.
        device: "cpu" or "cuda", on each worker. None: cpu.
        jobs: Processes of this machine, where there is no scheduler.
        scheduler: A dask scheduler, as ``tcp://127.0.0.1:8786``. None: processes of this machine.
        tls: Three files with commas between them, for a scheduler at ``tls://``: the authority's certificate, this
            side's, and its key. None: no certificates.
        threads: Threads of each task.
    """
    if cells := _cells(runs, profile, device):
        finish(spread_out(cells, jobs=jobs, scheduler=scheduler, tls=tls, threads=threads))


def spread_out(cells: list[Cell], *, jobs: int, scheduler: str | None, tls: str | None, threads: int) -> Progress:
    """Compute what is missing of these cells, by processes or a cluster, with a line that tells how far it is.

    Raises `InputError` for a scheduler that is not there, and workers that differ.
    """
    from advdef.grid import NoCluster, WorkerDiffers, cluster, processes, run
    from advdef.grid.worker import root
    from advdef.store.files import write_atomically

    try:
        if scheduler is None:
            with _reporting() as report:
                return run(cells, lambda: processes(jobs), threads=threads, report=report)
        token = root() / f".shared-{uuid.uuid4().hex}"
        write_atomically(token, b"")
        try:
            with cluster(scheduler, token, security=_files(tls)) as found, _reporting() as report:
                if found.apart:
                    say("the workers have folders of their own: results travel")
                return run(cells, found.executor, threads=threads, send=found.apart, report=report)
        finally:
            token.unlink(missing_ok=True)
    except (NoCluster, WorkerDiffers) as failure:
        raise InputError(str(failure)) from failure


def finish(progress: Progress) -> None:
    """Say how it ended; exit code 1 where a task failed."""
    for failed in progress.failed:
        typer.echo(f"FAILED {failed.label}: {failed.error}", err=True)
    if progress.failed:
        typer.echo("what is finished is kept; the same command goes on from there", err=True)
        raise typer.Exit(1)


def page_parameters(eps: float | None, images: int | None, seeds: int | None) -> Asked:
    """What options ask for; raises `InputError` for impossible numbers."""
    from advdef.grid import Asked

    try:
        return Asked(eps, images, seeds)
    except ValueError as impossible:
        raise InputError(str(impossible)) from impossible


def _runs(
    papers: list[str] | None,
    profile: str,
    datasets: str | None,
    seed: int,
    seeds: int,
    eps: float | None,
    images: int | None,
    seeds_each: int | None,
) -> tuple[Profile, list[PageRun]]:
    from advdef.book.cells import page_runs
    from advdef.papers import STUDIES

    chosen = check_profile(profile)
    selected = list(find().select(papers or ()))
    if papers and (without := [paper for paper in selected if paper not in STUDIES]):
        raise InputError(
            f"{', '.join(without)} has nothing for a grid, its page computes all; pages with: {', '.join(STUDIES)}"
        )
    names = split(datasets)
    return chosen, page_runs(
        [p for p in selected if p in STUDIES], profile=chosen, datasets=names, seed=seed, seeds=seeds,
        asked=page_parameters(eps, images, seeds_each),
    )  # fmt: skip


def split(datasets: str | None) -> list[str]:
    """Names that commas part; raises `InputError` for an unknown one."""
    from advdef.book.run import run_parameters

    names = [name.strip() for name in (datasets or "").split(",") if name.strip()]
    for name in names:
        run_parameters(dataset=name)
    return list(dict.fromkeys(names))


def _cells(runs: list[PageRun], profile: Profile, device: str | None) -> list[Cell]:
    return [cell for run in runs for cell in run.cells(profile, device)]


def _files(tls: str | None) -> dict[str, str] | None:
    if tls is None:
        return None
    files = tls.split(",")
    if len(files) != 3:
        raise InputError(f"--tls names three files, the authority's and this side's certificate and key, not {tls!r}")
    return dict(zip(("ca", "cert", "key"), files, strict=True))


@contextlib.contextmanager
def _reporting() -> Iterator[Callable[[Progress], None]]:
    """Progress as one line that changes on a terminal, else as a line a minute."""
    terminal, told, last = sys.stderr.isatty(), "", 0.0

    def report(progress: Progress) -> None:
        nonlocal told, last
        line, now = progress.line(), time.monotonic()
        if line == told or (not terminal and told and now - last < _MINUTE and not progress.ended):
            return
        told, last = line, now
        sys.stderr.write(f"\r\033[K{line}" if terminal else f"grid: {line}\n")
        sys.stderr.flush()

    try:
        yield report
    finally:
        if terminal and told:
            sys.stderr.write("\n")
