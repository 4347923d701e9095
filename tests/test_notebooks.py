"""Every notebook, executed by papermill in the smoke profile: does it run, and did its numbers move?

The baselines are in tests/baselines; ``nox -s baselines`` (tests/baselines.py) writes them, and nothing else does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pretend
import pytest
from regression import compare, read_baseline, recorded_rows, recorded_values, report
from variants import kernel_settings

from advdef.book.execution import execute
from advdef.book.notebookfile import read_pair
from advdef.book.recordimages import PAGE_LIMIT, agreeing
from advdef.book.records import images_file, read_record
from advdef.book.repository import Repository
from advdef.data import load
from advdef.evaluation import ATTACKERS
from advdef.evaluation.attacked import rejudge
from advdef.evaluation.packed import read_packed

ROOT = Path(__file__).resolve().parents[1]
PAPERS = Repository(ROOT).notebooks

pytestmark = pytest.mark.slow

Run = tuple[str, nbformat.NotebookNode, Path]
CHOICE = "P = notebook.choose(PROFILES, profile)"
SMALLER = {
    "attack_agreement": """PROFILES["smoke"] |= dict(
    epochs={1: 4, 3: 4}, steps=2, rounds=1, optimise=10, spending=4
)""",
    "broken_on_purpose": """from dataclasses import replace
PROFILES["smoke"] |= dict(train=300, epochs=1, steps=2, draws=2)
EFFORT["smoke"] = replace(EFFORT["smoke"], images=4, few_images=2, steps=2, queries=5, draws=4, targets=1)""",
}


def executed(
    paper: str, folder: Path, parameters: dict[str, Any], settings: Mapping[str, str] = os.environ, changes: str = "",
    environment: Mapping[str, str] | None = None,
) -> Run:  # fmt: skip
    """A paper, its executed notebook and its results; weights are trained anew, so that training is tested too.

    ``changes`` is code that changes the sizes of the profiles, before one is chosen.
    """
    path = PAPERS[paper]
    notebook = read_pair(path)
    for cell in notebook.cells if changes else ():
        cell.source = cell.source.replace(CHOICE, f"{changes}\n{CHOICE}")
    execution = execute(
        notebook,
        folder / path.name,
        paper=paper,
        parameters=parameters,
        environment={
            "ADVDEF_RESULTS": str(folder / "results"),
            "ADVDEF_CACHE": str(folder / "cache"),
        }
        | kernel_settings(settings)
        | dict(environment or {}),
        folder=path.parent,
    )
    assert execution.failure is None, f"cell {execution.failure.cell}: {execution.failure.error}"
    return paper, nbformat.read(execution.notebook, as_version=4), folder / "results" / paper


def found_in(notebook: nbformat.NotebookNode, results: Path) -> dict[str, dict[str, Any]]:
    """What the regression test compares: the rows of the records, and the values beside them."""
    found = recorded_values(notebook)
    for record in map(read_record, sorted(results.glob("*.json"))):
        found |= recorded_rows(record["results"], seed=record["provenance"]["seed"])
    return found


@pytest.fixture(scope="module", params=sorted(PAPERS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return executed(request.param, tmp_path_factory.mktemp(request.param), {})


def test_another_seed_runs_too(reseeded: str, tmp_path: Path) -> None:
    """With ``--all``: no baseline speaks of it, but the record is complete and the values are of the same names."""
    paper, notebook, results = executed(reseeded, tmp_path, {"seed": 1})
    (file,) = results.glob("*-smoke-seed*.json")
    assert json.loads(file.read_text())["provenance"]["seed"] == 1
    baseline = read_baseline(ROOT / "tests" / "baselines" / f"{PAPERS[paper].stem}.json")
    assert set(baseline) <= set(found_in(notebook, results))


def test_recorded_values_agree_with_the_baseline(run: Run) -> None:
    paper, notebook, results = run
    found, path = found_in(notebook, results), ROOT / "tests" / "baselines" / f"{PAPERS[paper].stem}.json"
    assert found, "the notebook records nothing"
    changes = compare(read_baseline(path), {name: value for name, value in found.items() if value["kind"] != "info"})
    assert not changes, f"{paper} has moved:\n{report(changes)}"


def test_the_record_is_complete(run: Run) -> None:
    paper, _, results = run
    (file,) = results.glob("*-smoke-seed*.json")
    record = read_record(file)  # which raises for what does not fit the schema
    assert (record["paper"], record["profile"]) == (paper, "smoke")
    assert len(record["results"])
    is_paper = PAPERS[paper].stem < "20"  # from there on come pages about the attacks, which claim nothing
    assert bool(record["verdicts"]) == is_paper


def test_the_run_fits_into_a_small_machine(run: Run) -> None:
    _, _, results = run
    (file,) = results.glob("*-smoke-seed*.json")
    assert json.loads(file.read_text())["provenance"]["peak_memory_mib"] < 2.5 * 1024


def test_every_figure_has_a_caption_and_alternative_text(run: Run) -> None:
    _, notebook, _ = run
    figures = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and any("image/svg+xml" in output.get("data", {}) for output in cell.outputs)
    ]
    assert figures
    for cell in figures:
        described = cell.metadata.get("mystnb", {})
        assert described.get("figure", {}).get("caption"), cell.source[:80]
        assert described.get("image", {}).get("alt"), cell.source[:80]


def test_nothing_is_printed_by_accident(run: Run) -> None:
    _, notebook, _ = run
    streams = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
    assert [o.text for o in streams if o.name == "stdout" or "Warning" in o.text] == []


def test_the_attacked_images_of_a_run_hold_and_say_what_its_record_says(run: Run) -> None:
    paper, _, results = run
    files = {file: images_file(file) for file in results.glob("*.json")}
    assert files
    if paper == "attack_agreement":  # it compares attacks, and has no defence whose verdict is to be checked
        assert not any(images.exists() for images in files.values())
        return
    assert sum(images.stat().st_size for images in files.values()) <= PAGE_LIMIT
    for file, images in files.items():
        kept, record = read_packed(images), read_record(file)
        assert kept.facts["run"] == record["run"]
        assert {one.threat for one in kept.sets} <= set(ATTACKERS)
        assert sum(int(one.broken.sum()) for one in kept.sets) > 0
        data = load(record["dataset"])
        assert all(rejudge(kept.broken(one), data=data).holds for one in kept.sets)
        compared, same = agreeing(kept, record["results"])
        assert same == compared > 0


@pytest.mark.parametrize("paper", [pytest.param("attack_agreement", marks=pytest.mark.thorough), "broken_on_purpose"])
def test_another_budget_and_few_images_run_too(paper: str, tmp_path: Path) -> None:
    """The one of the defences on a device that refuses what CUDA or MPS refuses (tests/pretend.py)."""
    asked, environment = dict[str, Any](eps=0.05, images=8), dict[str, str]()
    if paper == "broken_on_purpose":
        try:
            pretend.install()
        except pretend.Missing as missing:
            pytest.skip(str(missing))
        asked["device"], environment = pretend.NAME, pretend.environment("like both")
    _, notebook, results = executed(paper, tmp_path, asked, changes=SMALLER[paper], environment=environment)
    assert any(SMALLER[paper] in cell.source for cell in notebook.cells)
    (file,) = results.glob("*.json")
    record = read_record(file)
    assert record["parameters"] == {"eps": 0.05, "images": 8}
    assert record["provenance"]["device"] == asked.get("device", "cpu")
    attacked = [row for row in record["results"] if row.get("norm") == "Linf" and row["part"] in ("worst", "agreement")]
    assert {row["n"] for row in attacked if "n" in row} == {8}  # what few images were left for has no accuracy
    assert 0.05 in {row["eps"] for row in attacked}
    if paper == "broken_on_purpose":
        assert {row["eps"] for row in attacked} == {0.05}
