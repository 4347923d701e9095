"""How much code stands on a page: what takes longer to read belongs to the package, where tests reach it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from advdef.book.notebookfile import read_pair

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("[0-9][0-9]_*.py"))
CELL, FUNCTION = 25, 5  # lines


def lines_of(source: str) -> int:
    """Lines of code in a cell, but for imports and the table of the profiles, which are settings."""
    tree, left = parsed(source), set[int]()
    for node in ast.walk(tree):
        names = [getattr(target, "id", "") for target in getattr(node, "targets", ())]
        if isinstance(node, ast.Import | ast.ImportFrom) or names == ["PROFILES"]:
            left |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    lines = (line.strip() for number, line in enumerate(source.splitlines(), 1) if number not in left)
    return sum(bool(line) and not line.startswith("#") for line in lines)


def parsed(source: str) -> ast.Module:
    return ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source))


def long_functions(source: str) -> Iterator[str]:
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body and (body[-1].end_lineno or 0) - body[0].lineno >= FUNCTION:
                yield f"{node.name} has more than {FUNCTION} lines"
        elif isinstance(node, ast.ClassDef):
            yield f"{node.name} is a class"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_and_functions_are_short(path: Path) -> None:
    cells = [cell.source for cell in read_pair(path).cells if cell.cell_type == "code"]
    assert [f"{source[:60]}: {n} lines" for source in cells if (n := lines_of(source)) > CELL] == []
    assert [told for source in cells for told in long_functions(source)] == []


def test_what_counts_as_code() -> None:
    imports, settings = "# why\nfrom a import (\n    b,\n)\n", 'PROFILES = {\n    "smoke": 1,\n}\n'
    assert lines_of(f"{imports}\n{settings}if b:\n    import c\n\n    %pip install d\n") == 2
    whole = "\n".join(f"    x = {n}" for n in range(FUNCTION))
    assert list(long_functions(f'def f(x):\n    """Says."""\n\n{whole}\n')) == []
    assert list(long_functions(f"def f(x):\n{whole}\n    return x\n")) == ["f has more than 5 lines"]
    assert list(long_functions("class A:\n    pass\n")) == ["A is a class"]
