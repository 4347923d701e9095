"""The command ``advdef cache``: what is kept, whether it is whole, and what may go.

No result depends on it: files are checked whenever they are read, and changed code asks for others.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import platformdirs
import typer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cache_app"]

cache_app = typer.Typer(
    no_args_is_help=True,
    help="What is kept of trainings and attacks: list, verify, clear. Results are right without ever using it.",
)
Folder = Annotated[
    Path | None,
    typer.Argument(help="Another folder of results, as a run's resume folder; default: the cache, $ADVDEF_CACHE."),
]

_RESULT = re.compile(r"(.*-)?[0-9a-f]{20}\.safetensors")
_LAST_GOOD = re.compile(r".*[0-9a-f]{20}\.last-good\.safetensors")
_DAMAGED = re.compile(r".*\.safetensors(\.[0-9a-f]{8})?\.damaged")
_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{32}")  # the temporary name of a file whose writer was killed
_OF_A_RUN = ("threads", "dtype")  # of an environment; the rest are versions


@cache_app.command("list")
def list_results(folder: Folder = None) -> None:
    """List what is kept: kind, label, size, age, and the seconds that making it took."""
    from advdef.store import Damaged, header

    root = _root(folder)
    typer.echo(f"in {root}:")
    rows, size, seconds = [], 0, 0.0
    for path in _files(root, _RESULT):
        try:
            told = header(path)
            took = float(told["seconds"])
        except (Damaged, OSError, ValueError):
            told, took = {"kind": "?", "label": path.name}, 0.0
        rows.append((told["kind"], told["label"], _size(path), _age(path), f"{took:.0f} s"))
        size, seconds = size + _bytes(path), seconds + took
    for kind, label, large, old, took_text in rows:
        typer.echo(f"  {kind:<12} {label:<40} {large:>10} {old:>10} {took_text:>9}")
    typer.echo(f"{len(rows)} results, {_human(size)}; making them took {seconds:.0f} s")
    others = [*_files(root, _DAMAGED), *_files(root, _LAST_GOOD), *_files(root, _LEFT_OVER)]
    if others:
        typer.echo(
            f"{len(others)} other files, {_human(sum(map(_bytes, others)))}: damaged, left over, last good weights"
        )


@cache_app.command("verify")
def verify(folder: Folder = None) -> None:
    """Read everything and name what is damaged; exit code 1 if anything is. Nothing is changed."""
    from advdef.store import Damaged, read

    wrong = read_whole = 0
    for path in _files(_root(folder), _RESULT):
        try:
            read(path)
            read_whole += 1
        except (Damaged, OSError) as failure:
            wrong += 1
            typer.echo(f"{path}: {failure}")
    typer.echo(f"{read_whole} whole, {wrong} damaged or of an earlier version")
    if wrong:
        raise typer.Exit(1)


@cache_app.command("clear")
def clear(
    folder: Folder = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all results, not only those of old code.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove what nothing will ask for again: results of changed code or other versions of libraries, damaged files,
    and temporary files older than an hour.

    Results of code that cannot be imported here, as of a notebook, are kept. Used while a run is under way, it may
    cost that run time, never a result.
    """
    root, outdated = _root(folder), _outdated()
    going = [(path, "damaged") for path in _files(root, _DAMAGED)]
    going += [(path, "left over") for path in _files(root, _LEFT_OVER) if time.time() - path.stat().st_mtime > 3600]
    for path in _files(root, _RESULT):
        if (reason := "all" if everything else outdated(path)) is not None:
            going.append((path, reason))
    if everything:
        going += [(path, "all") for path in _files(root, _LAST_GOOD)]
    size = 0
    for path, reason in going:
        size += _bytes(path)
        typer.echo(f"{'would remove' if dry_run else 'removing'} {path} ({reason})")
        if not dry_run:
            path.unlink(missing_ok=True)
    typer.echo(f"{len(going)} files, {_human(size)}{' would be' if dry_run else ''} removed")


def _outdated() -> Callable[[Path], str | None]:
    """Says why nothing will ask for a file's result again, or None."""
    from advdef.store import Damaged, environment, header
    from advdef.store.closure import code_hash, resolve

    here = environment()
    hashes: dict[str, str | None] = {}

    def reason(path: Path) -> str | None:
        try:
            told = header(path)
            around, names = json.loads(told["environment"]), json.loads(told["roots"])
        except Damaged:
            return "damaged, or of an earlier version of advdef"
        except OSError:
            return None
        for name, version in around.items():
            if name not in _OF_A_RUN and here.get(name) != version:
                return f"{name} {version}"
        if told["roots"] not in hashes:
            roots = [resolve(name) for name in names]
            found = [root for root in roots if root is not None]
            hashes[told["roots"]] = code_hash(found) if len(found) == len(roots) else None
        return None if hashes[told["roots"]] in (None, told["code"]) else "of other code"

    return reason


def _root(folder: Path | None) -> Path:
    chosen = folder or os.environ.get("ADVDEF_CACHE")
    root = Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("advdef"))
    if not root.is_dir():
        typer.echo(f"advdef: there is no folder {root}", err=True)
        raise typer.Exit(2 if folder else 0)
    return root


def _files(root: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if pattern.fullmatch(path.name) and path.is_file())


def _bytes(path: Path) -> int:
    return path.stat().st_size


def _size(path: Path) -> str:
    return _human(_bytes(path))


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _age(path: Path) -> str:
    hours = (time.time() - path.stat().st_mtime) / 3600
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
