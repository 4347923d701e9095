"""Renders the site with jupyter-book from notebooks that have already been executed, and from records of their runs."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from advdef.book.control import control_table, read_control
from advdef.book.decisions import Chapter
from advdef.book.earlier import read_earlier
from advdef.book.explorer import explorer_files, looked_at
from advdef.book.finding import compared
from advdef.book.finish import Book, finish
from advdef.book.furniture import figure_data, furnished, gallery
from advdef.book.kernel import ends_with_us
from advdef.book.notebookfile import LANGUAGE, read_executed, title, without_injected, write
from advdef.book.pages import generated
from advdef.book.preview import preview
from advdef.book.provenance import source_commit
from advdef.book.records import Record, read_records
from advdef.book.repository import Repository
from advdef.book.speed import read_speed
from advdef.evaluation.holes.summary import read_searches
from advdef.store.files import held, naming, put_back, replace_folder

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["SiteError", "assemble", "render", "toc_files", "warnings_in"]

# jupyter-book 1 has no __main__ module.
_JUPYTER_BOOK = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
_SUFFIXES = (".md", ".ipynb", ".rst", "")
_WARNING = re.compile(r"\b(WARNING|ERROR|CRITICAL|Error|Exception)\b")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SHOWN = 20
_FULL = 2**20  # bytes; a disk with less is full
_WAIT = 600  # seconds for another process that renders at the same place
_INCLUDED = ("CITATION.cff", "LICENSE")  # pages of prose show them


class SiteError(RuntimeError):
    """The site could not be rendered; the message names the log and shows its warnings."""


def render(
    repository: Repository,
    destination: Path,
    *,
    notebooks: Mapping[str, Path] | None = None,
    records: Sequence[Record] | None = None,
) -> Path:
    """Render the site into ``destination/site`` and return its first page.

    `notebooks` maps a committed notebook's file name to an executed one that takes its place, `records` are those that
    belong to the notebooks shown (default: the committed ones). Nothing is executed, and a warning is an error
    (`SiteError`). The sources stay in ``destination/source``, what jupyter-book said in ``destination/site.log``; an
    earlier site is replaced only by a complete one. Of two that render at the same place the second one waits. Raises
    OSError that names a path where the disk is full or cannot be written.
    """
    with held(destination / "site.lock", f"the site in {destination}", wait=_WAIT), naming(destination):
        return _render(repository, destination, notebooks, records)


def _render(
    repository: Repository,
    destination: Path,
    notebooks: Mapping[str, Path] | None,
    records: Sequence[Record] | None,
) -> Path:
    source, output, log = (destination / name for name in ("source", "site.partial", "site.log"))
    put_back(destination / "site")
    shown = read_records(repository.committed_results) if records is None else records
    assemble(repository, source, notebooks=notebooks or {}, records=shown)
    # A kept build folder would hide warnings: pages that have not changed are not read again.
    shutil.rmtree(output, ignore_errors=True)
    options = ["-W", "-n", "--keep-going", "--path-output", str(output)]
    command = [sys.executable, "-c", ends_with_us() + _JUPYTER_BOOK, "build", *options, str(source)]
    with log.open("wb") as stream:
        finished = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=destination,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            check=False,
        )
    pages = output / "_build" / "html"
    if finished.returncode or not (pages / "index.html").is_file():
        if shutil.disk_usage(destination).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(destination))
        said = log.read_text(encoding="utf-8", errors="replace")
        ended = signal.Signals(-finished.returncode).name if finished.returncode < 0 else ""
        found = warnings_in(said, source) or [f"it was ended by {ended}" if ended else "no warning in the log"]
        more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise SiteError("\n  ".join([f"jupyter-book failed; its output is in {log}", *found[:_SHOWN], *more]))
    finish(pages, _book(repository, shown))
    site = destination / "site"
    replace_folder(pages, site)
    shutil.rmtree(output)
    return site / "index.html"


def assemble(
    repository: Repository, target: Path, *, notebooks: Mapping[str, Path], records: Sequence[Record] = ()
) -> None:
    """Copy what the site is made of to `target`, at the same relative paths, with the notebooks as ``.ipynb`` only.

    What is made of records comes to it. The configuration is told not to execute anything. The set-up cells install
    the package of the commit that the site is rendered from: these notebooks are the ones that readers download.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    root = repository.root
    shutil.copyfile(root / "_toc.yml", target / "_toc.yml")
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")) or {}
    config["execute"] = (config.get("execute") or {}) | {"execute_notebooks": "off"}
    (target / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if (root / "book").is_dir():
        ignored = shutil.ignore_patterns("_build", "results", ".ipynb_checkpoints", "__pycache__")
        shutil.copytree(root / "book", target / "book", ignore=ignored)
    for name in _INCLUDED:
        if (root / name).is_file():
            shutil.copyfile(root / name, target / name)
    for entry in toc_files(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))):
        _copy_page(root, target, entry, notebooks)
    folders = sorted(repository.committed_results.glob("*/holes"))
    searches = [search for folder in folders for search in read_searches(folder)]
    measured = root / "book" / "speed.json"
    speed = read_speed(measured) if measured.is_file() else {}
    made = generated(
        records, list(_pages(repository, target)), searches, speed, read_earlier(root / "book" / "earlier.json")
    )
    made |= {"_generated/control.md": control_table(read_control(root / "book" / "control.json"))}
    made |= explorer_files(looked_at(records))
    address = (config.get("repository") or {}).get("url", "")
    commit = source_commit() if address else None
    for paper, path in repository.notebooks.items():
        page = target / "notebooks" / path.name
        if page.is_file():
            notebook = _pinned(read_executed(page), address, commit)
            made |= figure_data(notebook, paper, records)
            found = made["_generated/finding.md"], made["_generated/conclusion.md"]
            write(furnished(notebook, paper, records, comparison=found), page)
    gallery(target)
    if rows := compared(records):
        preview(rows, "Images still right under attack", target / "book" / "_static" / "made" / "preview.png")
    for name, text in made.items():
        (target / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        (target / "book" / name).write_text(text, encoding="utf-8")


def _pages(repository: Repository, target: Path) -> Iterator[Chapter]:
    """The notebooks that are on the site."""
    for paper, path in repository.notebooks.items():
        page = target / "notebooks" / path.name
        if page.is_file():
            yield Chapter(paper, path.stem, title(read_executed(page)))


def _pinned(notebook: NotebookNode, address: str, commit: str | None) -> NotebookNode:
    """A notebook, whose set-up cell now installs the package of a commit from that address, where it is one."""
    if commit and not commit.endswith("+"):  # else it stands nowhere
        for cell in notebook.cells:
            if "google.colab" in cell.source:
                cell.source = cell.source.replace(f'"git+{address}"', f'"git+{address}@{commit}"')
    return notebook


def toc_files(toc: Any) -> list[str]:
    """The files that a table of contents names, in its order.

    >>> toc_files({"format": "jb-book", "root": "book/intro", "parts": [{"chapters": [{"file": "notebooks/01_a"}]}]})
    ['book/intro', 'notebooks/01_a']
    """
    return list(_toc_files(toc))


def warnings_in(log: str, source: Path) -> list[str]:
    """The lines of jupyter-book's output that tell what is wrong, with paths relative to `source`."""
    lines = (_ANSI.sub("", line).replace(f"{source}{os.sep}", "").strip() for line in log.splitlines())
    return list(dict.fromkeys(line for line in lines if _WARNING.search(line)))


def _book(repository: Repository, records: Sequence[Record]) -> Book:
    """What the configuration and the records say of the whole site."""
    config = yaml.safe_load((repository.root / "_config.yml").read_text(encoding="utf-8")) or {}
    by_page = {
        path.stem: [record for record in records if record["paper"] == paper]
        for paper, path in repository.notebooks.items()
    }
    address = (config.get("html") or {}).get("baseurl", "")
    source = (config.get("repository") or {}).get("url", "")
    return Book(config.get("title", ""), config.get("author", ""), address, source, source_commit() or "", by_page)


def _toc_files(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("root", "file") and isinstance(value, str):
                yield value
            else:
                yield from _toc_files(value)
    elif isinstance(node, list):
        for item in node:
            yield from _toc_files(item)


def _copy_page(root: Path, target: Path, entry: str, notebooks: Mapping[str, Path]) -> None:
    if entry.startswith("notebooks/"):
        name = entry.removesuffix(".ipynb").removesuffix(".py") + ".ipynb"
        page = notebooks.get(Path(name).name, root / name)
        if not page.is_file():
            raise SiteError(f"_toc.yml names {entry}, but there is neither an executed nor a committed {name}")
        notebook = without_injected(read_executed(page))
        # Only an executed notebook says how its code is to be coloured, and without that there is a warning.
        notebook.metadata.setdefault("language_info", LANGUAGE)
        write(notebook, target / name)
        return
    for suffix in _SUFFIXES:
        page = root / f"{entry}{suffix}"
        if page.is_file():
            copy = target / f"{entry}{suffix}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, copy)
            return
    raise SiteError(f"_toc.yml names {entry}, but there is no such file")
