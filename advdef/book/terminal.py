"""What the commands print, and how errors end them: one line and an exit code."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import typer
from tabulate import tabulate

from advdef.book.repository import InputError, Repository

if TYPE_CHECKING:
    from advdef.book.execution import Execution
    from advdef.book.records import Record

__all__ = ["guarded", "need", "render_site", "report_run", "say", "stop", "tolerant", "verdict_lines"]

P = ParamSpec("P")
_EVIDENCE = 50  # characters to a line; the other columns take as many


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors that the user can mend into one line and an exit code: 2 for the input, 1 for disk and locks."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InputError as error:
            raise stop(error, 2) from error
        except KeyboardInterrupt as interrupt:
            raise stop("interrupted; the same command goes on from what is finished", 130) from interrupt
        except BrokenPipeError:  # whoever read the output has gone
            raise
        except OSError as error:
            from advdef.store.files import explained

            raise stop(explained(error), 1) from error

    return run


def tolerant() -> None:
    """Let a terminal or file that lacks a character, such as an arrow, show "?" for it."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")


def render_site(repository: Repository, destination: Path, executions: Sequence[Execution]) -> bool:
    """Render the site with what has been executed and its records, and with what is committed for the rest."""
    from advdef.book.links import check_links
    from advdef.book.records import read_records
    from advdef.book.site import SiteError, render

    say("rendering the site ...")
    here = {execution.paper for execution in executions}
    damaged: list[str] = []
    committed = read_records(repository.committed_results, damaged=damaged)
    for said in damaged:
        typer.echo(f"advdef: {said}; the rest of the site is made", err=True)
    records = [record for record in committed if record["paper"] not in here]
    if folders := [execution.results for execution in executions if execution.results]:
        records += read_records(*folders)
    first = sorted(executions, key=lambda execution: execution.run, reverse=True)  # the page of the first run is shown
    notebooks = {execution.notebook.name: execution.notebook for execution in first}
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
    say(f"links: {within}; {len(links.external)} addresses elsewhere, listed in {listed}")
    typer.echo(f"site: {index.resolve().as_uri()}")
    return not links.broken and not damaged


def report_run(execution: Execution, number: str) -> None:
    """Say how one notebook ended."""
    if execution.failure is None:
        say(f"{number} done in {execution.seconds:.0f} s: {execution.notebook}")
        return
    where = "" if execution.failure.cell is None else f" in cell {execution.failure.cell}"
    error = "\n".join(f"      {line}" for line in execution.failure.error.splitlines())
    typer.echo(f"{number} FAILED{where} after {execution.seconds:.0f} s: {execution.notebook}\n{error}", err=True)


def verdict_lines(records: Iterable[Record]) -> str:
    """The verdicts in records as a table of text, in which long evidence continues on the next line; "" without any."""
    rows = []
    for record in records:
        seeds = record["provenance"].get("seeds") or [record["provenance"]["seed"]]
        told = f" seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f" seed {seeds[0]}" if seeds[0] else ""
        run = f"{record['dataset']}-{record['profile']}{told}"
        rows += [(v["claim"], run, v["verdict"], v["evidence"]) for v in record["verdicts"]]
    head = ("claim", "run", "verdict", "evidence")
    return tabulate(rows, head, maxcolwidths=[None, None, None, _EVIDENCE], disable_numparse=True) if rows else ""


def need(*modules: str) -> None:
    """Raise `InputError` that says how to install what is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} is not installed; pip install -e '.[book]' in the checkout brings it")


def say(line: str) -> None:
    """Print a line now, also into a pipe."""
    typer.echo(line)
    sys.stdout.flush()


def stop(error: Exception | str, code: int) -> typer.Exit:
    """Print what went wrong as one line; to be raised."""
    typer.echo(f"advdef: {' '.join(str(error).split())}", err=True)
    return typer.Exit(code)
