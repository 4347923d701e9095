"""The comparison of recorded values with a baseline."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from advdef.regression import compare, read_baseline, recorded_values, report, write_baseline


def accuracy(value: float, n: int = 100) -> dict[str, object]:
    return {"value": value, "kind": "accuracy", "n": n}


def names(baseline: dict[str, dict[str, object]], found: dict[str, dict[str, object]]) -> list[str]:
    return [change.name for change in compare(baseline, found)]


@pytest.mark.parametrize(
    ("before", "after", "moved"), [(0.5, 0.6, False), (0.5, 0.8, True), (0.0, 0.02, False), (1.0, 0.8, True)]
)
def test_an_accuracy_moves_when_its_sample_cannot_explain_it(before: float, after: float, moved: bool) -> None:
    assert bool(compare({"a": accuracy(before)}, {"a": accuracy(after)})) is moved
    assert bool(compare({"a": accuracy(after)}, {"a": accuracy(before)})) is moved


def test_a_larger_sample_allows_less() -> None:
    assert not compare({"a": accuracy(0.5, 100)}, {"a": accuracy(0.55, 100)})
    assert compare({"a": accuracy(0.5, 10_000)}, {"a": accuracy(0.55, 10_000)})


def test_counts_and_texts_are_compared_exactly_and_numbers_by_their_tolerance() -> None:
    old = {
        "c": {"value": 710218, "kind": "count"},
        "t": {"value": "supported", "kind": "text"},
        "n": {"value": 1.0, "kind": "number", "tolerance": 0.1},
        "i": {"value": 12.0, "kind": "info"},
    }
    near = {**old, "n": {**old["n"], "value": 1.09}, "i": {"value": 99.0, "kind": "info"}}
    assert compare(old, near) == []
    far = {
        "c": {"value": 710219, "kind": "count"},
        "t": {"value": "partly", "kind": "text"},
        "n": {"value": 1.11, "kind": "number", "tolerance": 0.1},
        "i": {"value": 0.0, "kind": "info"},
    }
    assert names(old, far) == ["c", "n", "t"]


def test_values_that_appear_vanish_or_change_their_kind_are_reported() -> None:
    assert names({"a": accuracy(0.5)}, {"b": accuracy(0.5)}) == ["a", "b"]
    assert names({"a": accuracy(0.5, 100)}, {"a": accuracy(0.5, 200)}) == ["a"]


def test_the_report_names_what_moved() -> None:
    table = report(compare({"digits/clean/CQ": accuracy(0.97)}, {"digits/clean/CQ": accuracy(0.5)}))
    assert "digits/clean/CQ" in table
    assert "0.97" in table
    assert "0.5" in table


def test_values_are_read_back_from_an_executed_notebook() -> None:
    output = nbformat.v4.new_output(
        "display_data",
        data={"application/papermill.record/text/plain": "0.5"},
        metadata={"scrapbook": {"name": "a"}, "advdef": {"value": 0.5, "kind": "accuracy", "n": 10, "tolerance": None}},
    )
    cell = nbformat.v4.new_code_cell("record", outputs=[output])
    assert recorded_values(nbformat.v4.new_notebook(cells=[cell])) == {"a": {"value": 0.5, "kind": "accuracy", "n": 10}}
    cell.outputs.append(output)
    with pytest.raises(ValueError, match="a is recorded twice"):
        recorded_values(nbformat.v4.new_notebook(cells=[cell]))


def test_a_baseline_round_trip_leaves_out_what_is_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    with pytest.raises(FileNotFoundError, match="--update-baselines"):
        read_baseline(path)
    write_baseline(path, {"b": {"value": 3.0, "kind": "info"}, "a": accuracy(0.5)})
    assert read_baseline(path) == {"a": accuracy(0.5)}
    assert json.loads(path.read_text()) == {"a": accuracy(0.5)}
