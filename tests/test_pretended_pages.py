"""The pages on a device that is not there (tests/pretend.py): what would fail on a GPU or on a Mac fails here.

With ``--all``, or by ``nox -s pretend``, page 20 gives the numbers of its baseline, for the device computes what the
CPU does; and all pages run on a device that trains in bfloat16 as a GPU does, and has no float64, as that of a Mac. In
every run of the tests a smaller page 20 is tried there (tests/test_notebooks.py).
"""

from __future__ import annotations

from pathlib import Path

import pretend
import pytest
from nbformat import NotebookNode
from regression import compare, read_baseline, report
from test_notebooks import PAPERS, ROOT, found_in
from variants import kernel_settings

from advdef.book.execution import execute
from advdef.book.notebookfile import read_executed, read_pair

pytestmark = pytest.mark.slow


def executed(paper: str, folder: Path, kind: str) -> tuple[NotebookNode, Path]:
    """A page that was executed on a device of a kind, and its records."""
    try:
        pretend.install()
    except pretend.Missing as missing:
        pytest.skip(str(missing))
    path = PAPERS[paper]
    notebook = read_pair(path)
    places = {"ADVDEF_RESULTS": str(folder / "results"), "ADVDEF_CACHE": str(folder / "cache"), "ADVDEF_RESUME": ""}
    execution = execute(
        notebook,
        folder / path.name,
        paper=paper,
        parameters={"device": pretend.NAME},
        environment=places | kernel_settings() | pretend.environment(kind),
        folder=path.parent,
    )
    notebook = read_executed(execution.notebook)
    if execution.failure is not None:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        lines = "\n".join(line for output in outputs for line in output.get("traceback", [])).splitlines()
        called = [line for line in lines if "File " in line or "-->" in line]  # which the error alone does not tell
        pytest.fail("\n".join([*called, f"cell {execution.failure.cell}: {execution.failure.error}"]))
    return notebook, folder / "results" / paper


@pytest.mark.thorough
def test_a_page_finds_on_the_device_what_it_finds_on_the_cpu(tmp_path: Path) -> None:
    paper = "broken_on_purpose"
    found = found_in(*executed(paper, tmp_path, "in float32"))
    expected = read_baseline(ROOT / "tests" / "baselines" / f"{PAPERS[paper].stem}.json")
    changes = compare(expected, {name: value for name, value in found.items() if value["kind"] != "info"})
    assert not changes, report(changes)


@pytest.mark.thorough
@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_every_page_runs_on_the_device(paper: str, tmp_path: Path) -> None:
    _, results = executed(paper, tmp_path, "like both")
    assert len(list(results.glob("*-smoke-seed0.json"))) == 1
