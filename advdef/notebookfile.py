"""Notebooks as files: reading a pair of ``.py`` and ``.ipynb``, comparing, cleaning, writing atomically."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = [
    "LANGUAGE",
    "cell_sources",
    "first_difference",
    "parameter_defaults",
    "read_executed",
    "read_pair",
    "replacing",
    "title",
    "without_injected",
    "write",
]

INJECTED = "injected-parameters"

LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
"""What a notebook's metadata say about its language, without the version of the Python that ran it."""


def read_pair(path: Path) -> NotebookNode:
    """The notebook as its text says, without outputs: from ``NAME.py`` where it exists, else from ``NAME.ipynb``.

    The text is what people edit, review and test, so it is what runs. A cell keeps the id that it has in the
    ``.ipynb``, and a new one gets an id from its position and source: reading twice gives the same notebook.
    """
    import jupytext
    import nbformat

    text, stored = path.with_suffix(".py"), path.with_suffix(".ipynb")
    old = nbformat.read(stored, as_version=4) if stored.is_file() else None
    notebook = jupytext.read(text) if text.is_file() else old
    if notebook is None:
        raise FileNotFoundError(f"no notebook {stored}")
    ids = {(cell.cell_type, cell.source): cell.get("id") for cell in old.cells} if old is not None else {}
    used: set[str] = set()
    for position, cell in enumerate(notebook.cells):
        fallback = hashlib.sha1(f"{position}:{cell.source}".encode()).hexdigest()[:8]
        known = ids.get((cell.cell_type, cell.source))
        cell["id"] = known if known and known not in used else fallback
        used.add(cell["id"])
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = _lasting_metadata(notebook if old is None else old)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def read_executed(path: Path) -> NotebookNode:
    """A notebook with its outputs."""
    import nbformat

    return nbformat.read(path, as_version=4)


def cell_sources(notebook: NotebookNode) -> list[tuple[str, str]]:
    """(type, source) of each cell, without an injected-parameters cell: what must agree within a pair."""
    return [(cell.cell_type, cell.source.rstrip()) for cell in without_injected(notebook).cells]


def first_difference(one: NotebookNode, other: NotebookNode, *, prose: bool = True) -> int | None:
    """The number (from 1) of the first cell whose source differs; None when the sources are equal.

    Without ``prose``, cells of text only need to be at the same places.
    """
    mine, theirs = (
        [(kind, source if prose or kind == "code" else "") for kind, source in cell_sources(notebook)]
        for notebook in (one, other)
    )
    for number, (left, right) in enumerate(zip(mine, theirs, strict=False), start=1):
        if left != right:
            return number
    return None if len(mine) == len(theirs) else min(len(mine), len(theirs)) + 1


def without_injected(notebook: NotebookNode) -> NotebookNode:
    """A copy without the cells in which papermill put the parameters of a run."""
    import nbformat

    kept = [cell for cell in notebook.cells if INJECTED not in cell.metadata.get("tags", [])]
    return nbformat.from_dict({**notebook, "cells": kept})


def title(notebook: NotebookNode) -> str:
    """The first heading of a notebook's prose; "" when there is none."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), "")


def parameter_defaults(notebook: NotebookNode) -> dict[str, Any]:
    """Names and default values in the cell tagged ``parameters``; {} when there is none."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            return dict(_assignments(cell.source))
    return {}


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook so that `path` has either its old content or all of the new one."""
    import nbformat

    with replacing(path) as partial:
        nbformat.write(notebook, partial)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; it takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _lasting_metadata(notebook: NotebookNode) -> NotebookNode:
    """The metadata of a notebook without what one run, or one program that read it, left there."""
    import nbformat

    kept = {
        key: value for key, value in notebook.metadata.items() if key not in ("papermill", "widgets", "language_info")
    }
    if "jupytext" in kept:
        reading = ("text_representation", "main_language")
        kept["jupytext"] = {key: value for key, value in kept["jupytext"].items() if key not in reading}
    kept["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.from_dict(kept)


def _assignments(source: str) -> Iterator[tuple[str, Any]]:
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, ast.literal_eval(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, ast.literal_eval(value)
