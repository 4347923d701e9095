"""The comparison of recorded values with a baseline, and what a baseline allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from cases import each
from regression import (
    allowing,
    compare,
    may_flip,
    read_baseline,
    recorded_rows,
    recorded_values,
    report,
    widened,
    write_baseline,
)

from advdef.evaluation.results import Results

Values = dict[str, dict[str, Any]]


def hits(bits: str, **allowed: int) -> dict[str, Any]:
    """As `record` keeps them."""
    packed = f"{int(bits, 2):0{-(-len(bits) // 4)}x}"
    return {"kind": "hits", "value": bits.count("1") / len(bits), "n": len(bits), "hits": packed, **allowed}


def number(value: float, **allowed: Any) -> dict[str, Any]:
    return {"kind": "number", "value": value, **allowed}


def text(value: str, **allowed: list[str]) -> dict[str, Any]:
    return {"kind": "text", "value": value, **allowed}


def names(baseline: Values, found: Values) -> list[str]:
    return [change.name for change in compare(baseline, found)]


def test_hits_move_when_more_images_flip_than_may() -> None:
    before = {"a": hits("1111100000", flips=2)}
    assert not compare(before, {"a": hits("1111100000")})
    assert not compare(before, {"a": hits("0111100001")})
    (change,) = compare(before, {"a": hits("0011100011")})  # the same share, other images
    assert (change.baseline, change.found, change.allowed) == ("0.5", "0.5: 4 of 10 flipped", "2 flips")


def test_counts_and_texts_are_compared_exactly_and_numbers_by_their_tolerance() -> None:
    old = {
        "c": {"kind": "count", "value": 710218},
        "t": text("supported"),
        "edge": text("partly", seen=["partly", "supported"]),
        "n": number(1.0, tolerance=0.1),
    }
    assert compare(old, {**old, "n": number(1.09), "edge": text("supported")}) == []
    far = {
        "c": {"kind": "count", "value": 710219},
        "t": text("partly"),
        "edge": text("not supported"),
        "n": number(1.11),
    }
    assert names(old, far) == ["c", "edge", "n", "t"]


def test_values_that_appear_vanish_or_change_their_kind_are_reported() -> None:
    assert names({"a": hits("01", flips=1)}, {"b": hits("01")}) == ["a", "b"]
    assert names({"a": hits("01", flips=2)}, {"a": hits("010")}) == ["a"]
    assert names({"a": hits("01", flips=2)}, {"a": number(0.5)}) == ["a"]


def test_the_report_names_what_moved() -> None:
    table = report(compare({"digits/clean/CQ": hits("1" * 50, flips=2)}, {"digits/clean/CQ": hits("01" * 25)}))
    assert "digits/clean/CQ" in table
    assert "25 of 50 flipped" in table


def test_rows_of_a_record_are_compared_by_what_they_are_of() -> None:
    right = torch.tensor([True, False, True])
    where = {"part": "worst", "dataset": "digits", "model": "m", "eps": 0.1}
    found = Results()
    found.add_hits(right, defence="TQ", threat="direct", attack="PGD", seed=3, norm="Linf", **where)
    found.append(found.rows[0] | {"attack": "FGSM", "tried": 2, "broken": 1})  # within a worst case
    found.append({**found.rows[0], "defence": "noise", "hits": None, "correct": 1.5, "accuracy": 0.5})
    assert recorded_rows(found, seed=3) == {
        "worst/digits/m/TQ/direct/0.1/0/PGD": {"kind": "hits", "value": 0.6667, "n": 3, "hits": "5"},
        "worst/digits/m/noise/direct/0.1/0/PGD": {"kind": "number", "value": 0.5, "n": 3},
    }


def test_a_value_that_never_flipped_may_as_its_page_does() -> None:
    calm, wild = hits("0" * 40), hits("1" * 12 + "0" * 28)
    found = allowing({"a": calm, "b": calm}, rounding=[{"a": calm, "b": wild}, {"a": calm, "b": calm}])
    assert (found["a"]["flips"], found["b"]["flips"]) == (7, 19)  # 3 of 40 on average
    quiet = allowing({"a": calm, "b": calm}, rounding=[{"a": calm, "b": calm}])
    assert quiet["a"]["flips"] == 2


def test_the_more_values_a_page_has_the_further_one_of_them_may_be_from_what_was_seen() -> None:
    assert [may_flip(9, 100, values) for values in (100, 800)] == [16, 18]
    assert [may_flip(0, n, 100) for n in (5, 20, 500)] == [1, 2, 2]


def test_values_are_read_back_from_an_executed_notebook() -> None:
    output = nbformat.v4.new_output(
        "display_data",
        data={"application/papermill.record/text/plain": "0.5"},
        metadata={"scrapbook": {"name": "a"}, "advdef": hits("10")},
    )
    cell = nbformat.v4.new_code_cell("record", outputs=[output])
    assert recorded_values(nbformat.v4.new_notebook(cells=[cell])) == {"a": hits("10")}
    cell.outputs.append(output)
    with pytest.raises(ValueError, match="a is recorded twice"):
        recorded_values(nbformat.v4.new_notebook(cells=[cell]))


@each(
    ("n", "seen", "allowed"),
    [
        (20, [], 2),
        (20, [0], 2),
        (20, [0, 1], 3),
        (20, [2], 5),
        (20, [5], 9),
        (100, [2], 5),
        (100, [2, 4], 8),
        (500, [59], 77),
        (10, [10], 10),
        (8, [0], 1),
    ],
)
def test_as_many_images_may_flip_as_rounding_flips_and_the_spread_of_one_more_run(
    n: int, seen: list[int], allowed: int
) -> None:
    rounding = [{"a": hits("1" * flips + "0" * (n - flips))} for flips in seen]
    assert allowing({"a": hits("0" * n)}, rounding=rounding) == {"a": hits("0" * n, flips=allowed)}


@each(
    ("rounding", "seeds", "tolerance"),
    [
        ([], [], 2e-6),
        ([2.0], [2.0], 2e-6),
        ([2.001, 1.998], [2.0], 0.006),
        ([2.001], [3.0, 4.0], 0.1),  # the deviation of 2, 3 and 4 is 1
    ],
)
def test_a_number_may_move_by_what_rounding_and_seeds_say(
    rounding: list[float], seeds: list[float], tolerance: float
) -> None:
    runs = [[{"a": number(value)} for value in values] for values in (rounding, seeds)]
    found = allowing({"a": number(2.0)}, rounding=runs[0], seeds=runs[1])
    assert found == {"a": number(2.0, tolerance=pytest.approx(tolerance))}


def test_a_mean_of_images_may_move_by_what_two_of_them_do() -> None:
    for n, tolerance in ((100, 0.02), (15, 1 / 15)):
        found = allowing({"a": number(0.5, n=n)}, rounding=[{"a": number(0.5, n=n + 1)}])
        assert found["a"]["tolerance"] == pytest.approx(tolerance, rel=1e-2)


def test_a_text_that_rounding_changes_may_be_any_that_was_seen() -> None:
    reference = {"a": text("partly"), "b": text("no"), "i": {"kind": "info", "value": 3.0}}
    found = allowing(reference, rounding=[{**reference, "a": text("no")}], seeds=[{**reference, "b": text("yes")}])
    assert found == {"a": text("partly", seen=["no", "partly"]), "b": text("no")}


def test_runs_that_record_other_values_allow_nothing() -> None:
    with pytest.raises(ValueError, match="do not record the same: a, b"):
        allowing({"a": hits("10")}, rounding=[{"a": hits("100"), "b": number(1.0)}])


def test_one_more_run_allows_more_and_never_less() -> None:
    bits = "1" * 100
    baseline = {
        "a": hits(bits, flips=9),
        "b": number(1.0, tolerance=0.5),
        "c": number(1.0, tolerance=0.1),
        "d": text("x", seen=["x", "y"]),
    }
    run = {"a": hits(bits), "b": number(1.1), "c": number(1.2), "d": text("z")}
    found = widened(baseline, run)
    assert found["a"] == baseline["a"]
    assert found["b"] == baseline["b"]
    assert found["c"]["tolerance"] == pytest.approx(0.6)
    assert found["d"]["seen"] == ["x", "y", "z"]
    assert compare(found, run) == []
    assert widened(found, run) == found
    with pytest.raises(ValueError, match="do not record the same: e"):
        widened(baseline, run | {"e": text("x")})


def test_a_baseline_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    with pytest.raises(FileNotFoundError, match="nox -s baselines -- b"):
        read_baseline(path)
    values = {"b": text("x"), "a": hits("10", flips=1)}
    write_baseline(path, values, variants={"reference": "one thread"})
    assert read_baseline(path) == values
    stored = json.loads(path.read_text())
    assert list(stored) == ["variants", "values"]
    assert list(stored["values"]) == ["a", "b"]
