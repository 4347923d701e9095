"""The long table of what a run measured."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdef.evaluation import Finding, Outcome, Results
from advdef.evaluation.results import WORST_CASE, pack_hits, unpack_hits
from advdef.statistics import wilson

WHERE: dict[str, Any] = {"part": "worst", "dataset": "digits", "model": "CNN", "defence": "CQ", "seed": 7}


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values).bool()


def outcome(**changes: Any) -> Outcome:
    findings = (
        Finding("FGSM", flags(1, 1, 1, 0), flags(1, 0, 0, 0), 0.1234567, 30, 10, "fgsm()"),
        Finding("PGD", flags(0, 1, 1, 0), flags(0, 1, 0, 0), 1.5, 60, 20, "pgd(steps=3)", gradient=0.5),
    )
    return Outcome(8 / 255, flags(1, 1, 1, 0), flags(0, 0, 1, 0), torch.zeros(4, 1, 1, 1), findings, **changes)


@pytest.fixture
def found() -> Results:
    results = Results()
    for defence, threat, eps, hits in [
        ("CQ", "direct", 0.1, (1, 1, 1, 0)),
        ("CQ", "adaptive", 0.1, (0, 0, 1, 0)),
        ("CQ", "adaptive", 0.2, (0, 0, 0, 0)),
        ("TQ", "direct", 0.1, (1, 1, 0, 1)),
    ]:
        results.add_hits(
            flags(*hits),
            **{**WHERE, "defence": defence},
            threat=threat,
            attack=WORST_CASE,
            eps=eps,  # type: ignore[arg-type]
        )
    return results


def test_rows_of_an_outcome() -> None:
    results = Results()
    results.add(outcome(), **WHERE, threat="direct", levels=4)
    shared = WHERE | {"threat": "direct", "norm": "Linf", "eps": 0.031373, "levels": 4}
    low, high = round(wilson(1, 4).low, 4), round(wilson(1, 4).high, 4)
    worst, first, second = results.rows
    counted = {"n": 4, "correct": 1, "accuracy": 0.25, "low": low, "high": high, "hits": "2"}
    assert worst == shared | {"attack": WORST_CASE} | counted
    cost = {"settings": "fgsm()", "tried": 3, "broken": 1, "unique_breaks": 1, "seconds": 0.123}
    cost |= {"forwards": 30, "backwards": 10}
    single = {"n": 4, "correct": 2, "accuracy": 0.5, "low": 0.15, "high": 0.85, "hits": "6"}
    assert first == shared | {"attack": "FGSM"} | cost | single | {
        "low": round(wilson(2, 4).low, 4), "high": round(wilson(2, 4).high, 4),
    }  # fmt: skip
    # PGD saw only what FGSM left: its accuracy alone is not known, and none is given
    assert second == shared | {
        "attack": "PGD", "settings": "pgd(steps=3)", "tried": 2, "broken": 1, "unique_breaks": 1, "seconds": 1.5,
        "forwards": 60, "backwards": 20, "gradient": 0.5,
    }  # fmt: skip


def test_a_random_defence_has_a_share_and_no_hits() -> None:
    results = Results()
    shares = torch.tensor([0.5, 0.25, 1.0, 0.0])
    results.add(outcome(shares=shares, passes=torch.tensor([0.5, 0.375])), **WHERE, threat="direct")
    worst = results.rows[0]
    assert (worst["correct"], worst["accuracy"]) == (1.75, 0.4375)
    assert "hits" not in worst
    with pytest.raises(ValueError, match="CQ under worst case has no hits"):
        results.hits(attack=WORST_CASE)


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_hits_come_back_as_they_were(values: list[bool]) -> None:
    hits = torch.tensor(values)
    packed = pack_hits(hits)
    assert torch.equal(unpack_hits(packed["hits"], packed["n"]), hits)


@pytest.mark.parametrize(("hits", "n"), [("ff", 4), ("8", 3), ("0", 5), ("", 1), ("xy", 8)])
def test_hits_that_do_not_fit_are_refused(hits: str, n: int) -> None:
    with pytest.raises(ValueError, match=r"hits|base 16"):
        unpack_hits(hits, n)


def test_two_rows_that_say_the_same_are_refused(found: Results) -> None:
    again = {**WHERE, "threat": "direct", "attack": WORST_CASE, "eps": 0.1}
    with pytest.raises(ValueError, match=r"two rows for .*defence CQ.* differ in correct, .*hits: give them"):
        found.add_hits(flags(0, 0, 0, 0), **again)
    assert len(found) == 4
    found.add_hits(flags(1, 1, 1, 0), **again)  # a cell that ran again
    assert len(found) == 4
    found.add_hits(flags(0, 0, 0, 0), **again, levels=2)
    assert len(found) == 5


def test_rows_are_found_by_their_columns(found: Results) -> None:
    assert found.hits(defence="CQ", threat="adaptive", eps=0.1).tolist() == [False, False, True, False]
    assert found.interval(defence="TQ") == wilson(3, 4)
    assert len(found.select(defence=("CQ", "TQ"), threat="direct")) == 2
    assert found.values("eps") == [0.1, 0.2]
    assert isinstance(found.frame(), pd.DataFrame)
    assert len(found.frame()) == 4


def test_a_budget_is_found_though_it_is_written_with_six_decimals() -> None:
    results = Results()
    results.add_hits(flags(1), **WHERE, threat="direct", attack="PGD", eps=8 / 255)
    assert results.hits(eps=8 / 255).tolist() == [True]
    with pytest.raises(ValueError, match="no row has eps"):
        results.hits(eps=9 / 255)


def test_what_is_not_there_is_told_with_what_is(found: Results) -> None:
    with pytest.raises(ValueError, match="no row has defence 'SNS'; there are: CQ, TQ"):
        found.hits(threat="direct", defence="SNS")
    with pytest.raises(ValueError, match="no row has colour 'red'; there are: None"):
        found.select(colour="red")
    with pytest.raises(ValueError, match="2 rows fit; say which eps"):
        found.one(defence="CQ", threat="adaptive")
    with pytest.raises(ValueError, match="no rows"):
        Results().one(defence="CQ")


def test_a_pivot_has_a_line_for_each_defence_and_a_column_for_each_attacker(found: Results) -> None:
    table = found.select(eps=0.1).pivot(["defence"], "threat", name="{} %")
    assert table.to_dict("records") == [
        {"defence": "CQ", "direct %": f"{wilson(3, 4)}", "adaptive %": f"{wilson(1, 4)}"},
        {"defence": "TQ", "direct %": f"{wilson(3, 4)}", "adaptive %": "–"},
    ]
    with pytest.raises(ValueError, match="two rows for adaptive of CQ: select more narrowly"):
        found.pivot(["defence"], "threat")
