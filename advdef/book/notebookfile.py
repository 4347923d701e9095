"""Notebooks as files: reading a pair of ``.py`` and ``.ipynb``, comparing, cleaning, writing whole."""

from __future__ import annotations

import ast
import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advdef.book.repository import InputError
from advdef.store.files import replacing

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = [
    "LANGUAGE",
    "UNKNOWN",
    "difference_note",
    "first_difference",
    "parameter_defaults",
    "read_executed",
    "read_pair",
    "run_id",
    "title",
    "unexecuted",
    "without_injected",
    "write",
]

INJECTED = "injected-parameters"

UNKNOWN: Any = object()
"""The default of a parameter that only running its cell would tell."""

LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
"""What a notebook's metadata say about its language, without the version of the Python that ran it."""


def read_pair(path: Path) -> NotebookNode:
    """The notebook as its text says, without outputs: from ``NAME.py`` where it exists, else from ``NAME.ipynb``.

    The text is what people edit, review and test, so it is what runs. A cell keeps the id that it has in the
    ``.ipynb``, and a new one gets an id from its position and source: reading twice gives the same notebook. Beside a
    whole ``.py`` a damaged ``.ipynb`` counts as none. Raises `InputError` for a file that is damaged, and
    FileNotFoundError where there is none.
    """
    import jupytext

    text, stored = path.with_suffix(".py"), path.with_suffix(".ipynb")
    try:
        old = read_executed(stored) if stored.is_file() else None
    except InputError:
        if not text.is_file():
            raise
        old = None
    notebook = jupytext.reads(_text(text), fmt=".py") if text.is_file() else old
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
    """A notebook with its outputs; raises `InputError` for a file that is no notebook."""
    import nbformat

    content = _text(path)
    try:
        return nbformat.reads(content, as_version=4)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = "not JSON of a notebook" if content.strip() else "empty"
        advice = f"`jupytext --to ipynb {path.with_suffix('.py').name}` makes it anew, without outputs"
        raise InputError(
            f"{path} is {what}; restore it" + (f", or {advice}" if path.with_suffix(".py").is_file() else "")
        ) from error


def run_id(notebook: NotebookNode) -> str | None:
    """The id of the run that executed a notebook; None where ``advdef reproduce`` did not."""
    found = notebook.metadata.get("advdef", {}).get("run")
    return found if isinstance(found, str) else None


def unexecuted(notebook: NotebookNode) -> int | None:
    """The number of the first cell of code that was not executed though it was meant to be; None when all were."""
    for number, cell in enumerate(without_injected(notebook).cells, start=1):
        skipped = "skip-execution" in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and cell.source.strip() and not skipped and cell.execution_count is None:
            return number
    return None


def first_difference(one: NotebookNode, other: NotebookNode, *, prose: bool = True) -> int | None:
    """The number (from 1) of the first cell whose source differs; None when the sources are equal.

    A cell that papermill injected does not count. Without ``prose``, cells of text only need to be at the same places.
    """
    cells = (
        [(c.cell_type, c.source.rstrip() if prose or c.cell_type == "code" else "") for c in without_injected(n).cells]
        for n in (one, other)
    )
    pairs = enumerate(itertools.zip_longest(*cells), start=1)
    return next((number for number, (mine, theirs) in pairs if mine != theirs), None)


def difference_note(path: Path) -> str | None:
    """One line on a notebook whose two files differ: which one runs, which is newer, and how to take either side."""
    text, stored = path.with_suffix(".py"), path.with_suffix(".ipynb")
    if not (text.is_file() and stored.is_file()):
        return None
    try:
        executed = read_executed(stored)
    except InputError as error:
        return f"{text.name} runs; {error}"
    cell = first_difference(read_pair(path), executed)
    if cell is None:
        return None
    newer = max(text, stored, key=lambda file: file.stat().st_mtime)
    folder = path.parent.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.parent
    return (
        f"{text.name} runs; {stored.name} differs from it in cell {cell}, and {newer.name} is the newer one. "
        f"`jupytext --to ipynb --update {folder / text.name}` takes the .py, "
        f"`jupytext --to py:percent {folder / stored.name}` the .ipynb; each drops the edits of the other"
    )


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
    """Names and default values in the cell tagged ``parameters``; {} when there is none.

    A default that is no literal is `UNKNOWN`: only running the cell would tell. Lines of IPython (``%magic``) are
    passed over. Raises `InputError` for a cell that is not Python.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    source = next((c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), "")
    try:
        statements = ast.parse(TransformerManager().transform_cell(source)).body
    except SyntaxError as error:
        raise InputError(f"the cell of parameters is not Python: {error.msg} in its line {error.lineno}") from error
    found: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            try:
                default = ast.literal_eval(statement.value)
            except (ValueError, TypeError):
                default = UNKNOWN
            found |= {target.id: default for target in targets if isinstance(target, ast.Name)}
    return found


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook so that `path` has either its old content or all of the new one."""
    import nbformat

    with replacing(path) as partial:
        nbformat.write(notebook, partial)


def _text(path: Path) -> str:
    """The content of a text file, with or without a byte order mark; raises `InputError` for an unresolved merge."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); restore it") from error
    for number, line in enumerate(content.splitlines(), start=1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            raise InputError(f"{path} has the marks of a merge conflict in line {number}; resolve it first")
    return content


def _lasting_metadata(notebook: NotebookNode) -> NotebookNode:
    """The metadata of a notebook without what one run, or one program that read it, left there."""
    import nbformat

    of_a_run = ("papermill", "widgets", "language_info", "advdef")
    kept = {key: value for key, value in notebook.metadata.items() if key not in of_a_run}
    if "jupytext" in kept:
        reading = ("text_representation", "main_language")
        kept["jupytext"] = {key: value for key, value in kept["jupytext"].items() if key not in reading}
    kept["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.from_dict(kept)
