"""What differs between two runs, and whether it may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from test_cli import write_record

from advdef.book.moves import Move, difference_lines, differences
from advdef.book.repository import InputError
from advdef.evaluation.results import pack_hits

N = 40
RIGHT = torch.arange(N) < 20


def record(folder: Path, hits: torch.Tensor, *, seed: int = 0, verdict: str = "mixed", more: int = 0) -> Path:
    """A record with one row of hits, and ``more`` of them under other names."""
    write_record(folder, "digits", "smoke", verdict, seed=seed)
    file = folder / f"digits-smoke-seed{seed}.json"
    content = json.loads(file.read_text())
    row: dict[str, Any] = {
        "part": "worst",
        "dataset": "digits",
        "model": "m",
        "defence": "d",
        "threat": "direct",
        "norm": "Linf",
    }
    row |= {"eps": 0.1, "seed": seed, "attack": "worst case", "correct": int(hits.sum()), "low": 0.0, "high": 1.0}
    row |= {"accuracy": int(hits.sum()) / len(hits), **pack_hits(hits)}
    content["results"] = [row | {"defence": f"d{i}" if i else "d"} for i in range(more + 1)]
    file.write_text(json.dumps(content))
    return file


def flipped(count: int, *, both_ways: bool = False) -> torch.Tensor:
    hits = RIGHT.clone()
    hits[:count] = False
    if both_ways:
        hits[20 : 20 + count] = True
    return hits


def moved(one: Path, other: Path, **options: Any) -> list[Move]:
    return differences(one, other, **options)


@pytest.mark.parametrize(
    ("hits", "seed", "allowed", "why"),
    [
        (flipped(2), 0, True, "2 of 40 images flipped; rounding may flip 2"),
        (flipped(3), 0, False, "3 of 40 images flipped; rounding may flip 2"),
        (flipped(6, both_ways=True), 1, True, "other seeds: 6 more right, 6 fewer, p = 1"),
        (flipped(15), 1, False, "other seeds: 0 more right, 15 fewer, p = 6.1e-05"),
        (torch.ones(10, dtype=torch.bool), 0, False, "one seed, so only rounding may differ"),
        (torch.arange(10) < 5, 1, True, "other seeds: 50.0 [35.2, 64.8] and 50.0 [23.7, 76.3]"),
        (torch.arange(100) < 95, 1, False, "other seeds: 50.0 [35.2, 64.8] and 95.0 [88.8, 97.8]"),
    ],
)
def test_hits_may_move_by_rounding_or_by_another_seed(
    tmp_path: Path, hits: torch.Tensor, seed: int, allowed: bool, why: str
) -> None:
    (move,) = moved(record(tmp_path / "a", RIGHT), record(tmp_path / "b", hits, seed=seed))
    assert (move.name, move.allowed, move.why) == ("worst/digits/m/d/direct/0.1/0/worst case", allowed, why)
    assert ("MOVED" in difference_lines([move])) != allowed


def test_nothing_differs_between_a_run_and_itself_and_a_word_or_a_missing_row_does(tmp_path: Path) -> None:
    one = record(tmp_path / "a", RIGHT)
    assert moved(one, one) == []
    word, row = sorted(moved(one, record(tmp_path / "b", RIGHT, verdict="supported", more=1)), key=lambda m: m.name)
    assert (word.name, word.one, word.other, word.allowed) == ("verdict/good-G1", "mixed", "supported", False)
    assert (row.name, row.one, row.why) == ("worst/digits/m/d1/direct/0.1/0/worst case", "–", "in one of them alone")
    (other,) = moved(one, record(tmp_path / "c", RIGHT, verdict="supported", seed=1))
    assert other.allowed


def test_rows_at_another_budget_are_one_difference(tmp_path: Path) -> None:
    one, other = record(tmp_path / "a", RIGHT, more=2), record(tmp_path / "b", RIGHT, more=1)
    content = json.loads(other.read_text())
    content["results"] = [row | {"eps": 0.03} for row in content["results"]]
    other.write_text(json.dumps(content))
    (move,) = moved(one, other)
    assert (move.name, move.one, move.other, move.allowed) == ("eps", "0.1", "0.03", False)
    assert move.why == "budgets of one of them alone, with 3 and 2 values, not compared"
    both = json.loads(one.read_text())
    both["results"] += content["results"]
    other.write_text(json.dumps(both))
    (move,) = moved(one, other)
    assert (move.one, move.other) == ("–", "0.03")


def test_a_run_with_another_parameter_differs(tmp_path: Path) -> None:
    one, other = record(tmp_path / "a", RIGHT), record(tmp_path / "b", RIGHT)
    other.write_text(json.dumps(json.loads(other.read_text()) | {"parameters": {"eps": 0.05}}))
    (move,) = moved(one, other)
    assert (move.name, move.one, move.other, move.allowed) == ("parameter/eps", "–", "0.05", False)


def test_a_baseline_says_how_far_a_value_may_move(tmp_path: Path) -> None:
    one, other = record(tmp_path / "a", RIGHT), record(tmp_path / "b", flipped(5))
    for count in (4, 5):
        kept = {"kind": "hits", "n": N, "value": 0.5, "hits": "0", "flips": count}
        (baseline := tmp_path / "base.json").write_text(
            json.dumps({"variants": {}, "values": {moved(one, other)[0].name: kept}})
        )
        (move,) = moved(one, other, baseline=baseline)
        assert move.allowed == (count == 5)
    with pytest.raises(InputError, match="is no baseline"):
        moved(one, other, baseline=one)


def notebook(path: Path, value: float, *, seed: int = 0) -> Path:
    """An executed notebook that recorded one number."""
    made = nbformat.v4.new_notebook()
    told = {"scrapbook": {"name": "x"}, "advdef": {"kind": "number", "value": value}}
    made.cells = [
        nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"seed = {seed}", metadata={"tags": ["injected-parameters"]}),
        nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", metadata=told)]),
    ]
    nbformat.write(made, path)
    return path


def test_executed_notebooks_are_compared_by_what_they_recorded(tmp_path: Path) -> None:
    one = notebook(tmp_path / "a.ipynb", 1.0)
    assert moved(one, notebook(tmp_path / "b.ipynb", 1.0 + 1e-9)) == []
    assert [move.allowed for move in moved(one, notebook(tmp_path / "b.ipynb", 1.1))] == [False]
    assert [move.allowed for move in moved(one, notebook(tmp_path / "b.ipynb", 1.1, seed=3))] == [True]


def test_what_holds_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    good, empty = record(tmp_path / "a", RIGHT), tmp_path / "empty.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), empty)
    (text := tmp_path / "x.json").write_text('{"a": 1}')
    for file, message in (
        (empty, "is it executed"),
        (text, "is no record, report or executed notebook"),
        (tmp_path / "no.json", "no such file"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            moved(good, file)
        assert "\n" not in str(caught.value)
