"""Notebook files that are damaged, and what the cell of parameters says without being run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkout
import nbformat
import pytest

from advdef.book.execution import changed_parameters
from advdef.book.notebookfile import UNKNOWN, difference_note, parameter_defaults, read_executed, read_pair
from advdef.book.publish import publish
from advdef.book.repository import InputError, Repository
from advdef.book.run import out_of_step, reproduce

CONFLICT = "<<<<<<< HEAD\n{content}\n=======\n{{}}\n>>>>>>> theirs\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return checkout.make(tmp_path, {"01_good": checkout.GOOD})


DAMAGED = [
    (lambda text: CONFLICT.format(content=text), "has the marks of a merge conflict in line 1; resolve it first"),
    (lambda text: "", "is empty; restore it"),
    (lambda text: text[:200], "is not JSON of a notebook; restore it"),
    (lambda text: "[]", "is not JSON of a notebook; restore it"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGED, ids=["conflict", "empty", "truncated", "a list"])
def test_a_damaged_notebook_beside_a_whole_text_is_no_obstacle_and_is_named(
    repository: Repository, damage: Any, said: str
) -> None:
    stored = repository.notebooks["good"]
    stored.write_text(damage(stored.read_text()))
    note = difference_note(stored)
    assert note is not None
    assert note.startswith(f"01_good.py runs; {stored} {said}")
    assert "\n" not in note
    assert reproduce(repository, "good").failure is None
    publish(repository, "good", profile="smoke")
    assert difference_note(stored) is None  # it is whole again
    # without the text there is nothing to run
    stored.with_suffix(".py").unlink()
    stored.write_text(damage(stored.read_text()))
    with pytest.raises(InputError, match=f"01_good.ipynb {said}") as caught:
        reproduce(repository, "good")
    assert "\n" not in str(caught.value)


def test_byte_order_marks_are_passed_over(repository: Repository) -> None:
    stored = repository.notebooks["good"]
    before = read_pair(stored)
    for file in (stored, stored.with_suffix(".py")):
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert read_pair(stored) == before
    assert out_of_step(stored) is None
    nbformat.validate(read_executed(stored))


def test_a_text_with_an_unresolved_merge_is_refused(repository: Repository) -> None:
    text = repository.notebooks["good"].with_suffix(".py")
    before = text.read_text() + "\n# %%\n"
    text.write_text(f"{before}<<<<<<< HEAD\n1\n=======\n2\n>>>>>>> theirs\n")
    line = before.count("\n") + 1
    with pytest.raises(InputError, match=rf"01_good\.py has the marks of a merge conflict in line {line}; resolve it"):
        reproduce(repository, "good")


def parameters(*lines: str) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[cell])


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("-3", -3),
        ("[1, (2.5, 'a')]", [1, (2.5, "a")]),
        ("{'a': None}", {"a": None}),
        ("8 / 255", UNKNOWN),
        ("float('inf')", UNKNOWN),
        ("seed + 1", UNKNOWN),
        ("dict(a=3)", UNKNOWN),
        ("open('x')", UNKNOWN),
    ],
)
def test_literals_are_defaults_and_what_needs_the_cell_is_unknown(line: str, value: Any) -> None:
    found = parameter_defaults(parameters("seed = 0", f"x = {line}", f"y: float = {line}", "z: int"))
    assert list(found) == ["seed", "x", "y"]
    assert found["x"] == found["y"] == value


def test_lines_of_ipython_are_passed_over() -> None:
    found = parameter_defaults(parameters("%matplotlib inline", "seed = 3", "!ls", "files = !ls", "a = b = 2"))
    assert found == {"seed": 3, "files": UNKNOWN, "a": 2, "b": 2}


def test_a_cell_that_is_not_python_is_named() -> None:
    with pytest.raises(InputError, match=r"the cell of parameters is not Python: .* in its line 2"):
        parameter_defaults(parameters("seed = 3", "seed = = 3"))


def test_an_unknown_default_is_replaced_where_it_is_asked_for() -> None:
    notebook = parameters("import os", "seed = int(os.environ['SEED'])", "eps = 0.1")
    assert changed_parameters(notebook, {"eps": 0.1}) == {}
    assert changed_parameters(notebook, {"seed": 3}) == {"seed": 3}


def test_a_notebook_with_such_parameters_runs(tmp_path: Path) -> None:
    text = checkout.PARAMETERS.replace(
        "seed = 0", "eps = 8 / 255\nbound = float('inf')\n# %matplotlib inline\nseed = 0"
    )
    repository = checkout.make(tmp_path, {"01_odd": f"{text}\n# %%\nprint(seed, bound, eps * 255)\n"})
    done = reproduce(repository, "odd", parameters={"seed": 4})
    assert done.failure is None
    assert "4 inf 8.0" in checkout.outputs(done.notebook)
