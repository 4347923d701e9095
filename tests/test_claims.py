"""Claims and the verdicts that a run gives them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cases import each

import advdef
from advdef.claims import Claim, Condition, all_claims, claims, decide, expected_wrong
from advdef.data import DATASETS
from advdef.papers import how_decided
from advdef.statistics import Interval

ANY = Claim("X-1", "x", "It works.", "paper", "by looking")
MNIST = Claim("X-2", "x", "It works on MNIST.", "inferred", "by looking", ("mnist",))
ROBUST_CLAIM = Claim("X-3", "x", "It is robust.", "paper", robust=True)


def over(low: float, high: float, **more: Any) -> Condition:
    """A condition that wants this interval above zero."""
    return Condition.above("lead", Interval((low + high) / 2, low, high), **more)


YES, NO, MAYBE = over(0.02, 0.06), over(-0.3, -0.1), over(-0.05, 0.07)


@each(
    ("low", "high", "bound", "above", "below"),
    [
        (0.01, 0.05, 0.0, "holds", "contradicted"),
        (-0.05, -0.01, 0.0, "contradicted", "holds"),
        (-0.05, 0.05, 0.0, "undecided", "undecided"),
        (-0.02, 0.02, 0.0, "contradicted", "contradicted"),  # no difference that matters
        (-0.03, 0.02, 0.0, "undecided", "undecided"),  # the margin itself would matter
        (0.01, 0.02, 0.0, "holds", "contradicted"),  # it exists, however little it matters
        (0.51, 0.6, 0.5, "holds", "contradicted"),
        (0.49, 0.51, 0.5, "undecided", "undecided"),  # a bound other than zero asks for no difference
        (-0.05, -0.03, -0.02, "contradicted", "holds"),
    ],
)
def test_a_condition_has_three_outcomes(low: float, high: float, bound: float, above: str, below: str) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert Condition.above("lead", interval, bound).word == above
    assert Condition.below("lead", interval, bound).word == below


@each(
    ("conditions", "word"),
    [
        ([YES, YES], "supported"),
        ([YES, MAYBE], "undecided"),
        ([YES, NO], "contradicted"),
        ([MAYBE, NO], "contradicted"),
        ([], "not testable here"),
    ],
)
def test_every_condition_is_necessary(conditions: list[Condition], word: str) -> None:
    verdict = decide(ANY, "digits", conditions)
    assert verdict.word == word
    assert verdict.conditions == tuple(conditions)


@each(
    ("first", "second", "common", "word"),
    [
        (YES, YES, YES, "supported"),
        (YES, NO, YES, "mixed"),
        (YES, MAYBE, YES, "undecided"),
        (MAYBE, NO, YES, "contradicted"),
        (NO, NO, YES, "contradicted"),
        (YES, NO, MAYBE, "contradicted"),  # what all cases need is not known, so none is supported
        (YES, YES, NO, "contradicted"),
    ],
)
def test_cases_of_a_claim_may_differ(first: Condition, second: Condition, common: Condition, word: str) -> None:
    conditions = [replace(first, case="A"), replace(second, case="B"), common]
    assert decide(ANY, "digits", conditions).word == word


def test_one_condition_of_many_contradicts_only_beyond_chance() -> None:
    """An interval that just misses zero is no surprise among twenty."""
    barely = over(-0.12, -0.002)
    assert decide(ANY, "digits", [barely]).word == "contradicted"
    assert decide(ANY, "digits", [barely] + [YES] * 19).word == "undecided"
    assert decide(ANY, "digits", [barely] + [YES] * 19).evidence.endswith("may be chance in one of 20 numbers")
    small = over(0.001, 0.012)  # a difference that exists, and that a wider interval would call none
    assert decide(ANY, "digits", [small] * 20).word == "supported"


def test_robustness_is_not_supported_by_an_attacker_who_does_not_know_the_defence() -> None:
    seen, known = (over(0.2, 0.4, attacker=attacker) for attacker in ("direct", "adaptive"))
    assert decide(ROBUST_CLAIM, "digits", [seen]).word == "undecided"
    told = decide(ROBUST_CLAIM, "digits", [seen]).evidence
    assert told == "the number holds; but no attacker who knows the defence was tried"
    assert decide(ROBUST_CLAIM, "digits", [seen, known]).word == "supported"
    assert decide(ANY, "digits", [seen]).word == "supported"


def test_a_claim_is_decided_on_its_own_data() -> None:
    assert decide(MNIST, "mnist", [YES]).word == "supported"
    assert decide(MNIST, "digits", [YES]).word == "not testable here"
    assert ANY.about("digits")
    assert MNIST.about("mnist")
    assert not MNIST.about("digits")


def test_hits_of_several_networks_count_networks_and_images() -> None:
    draws = torch.Generator().manual_seed(0)
    control = torch.rand(3, 200, generator=draws) < 0.5
    gains = torch.tensor([0.0, 0.1, 0.2])[:, None]
    treated = control | (torch.rand(3, 200, generator=draws) < 2 * gains)
    alone = Condition.compare("lead", treated[1], control[1])
    assert (alone.word, alone.images, alone.seeds) == ("holds", 200, 1)
    together = Condition.compare("lead", treated, control)
    assert (together.word, together.seeds) == ("undecided", 3)  # all images agree, three networks do not
    assert together.needed_seeds is not None
    assert together.needed_seeds > 3


def test_what_would_decide_is_told() -> None:
    treated = torch.arange(100) < 53
    control = torch.arange(100).flip(0) < 50  # half of the images differ
    found = Condition.compare("lead", treated, control)
    assert found.word == "undecided"
    assert found.needed_images is not None
    assert 5_000 < found.needed_images < 10_000
    assert f"about {found.needed_images:,} images would tell" in found.told
    assert Condition.compare("lead", treated, control, margin=0.1).needed_images == pytest.approx(
        found.needed_images * 0.09, rel=0.01
    )
    assert "would tell" not in YES.told


def test_half_is_given_back() -> None:
    clean, bare = torch.ones(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)

    def found(restored: int) -> Condition:
        return Condition.half_given_back("PGD", torch.arange(200) < restored, bare=bare, clean=clean)

    assert [found(n).word for n in (200, 130, 102, 70, 0)] == [
        "holds", "holds", "undecided", "contradicted", "contradicted"
    ]  # fmt: skip
    assert found(130).number == "+65.0 of 100.0 points, +15.0 [+8.3, +21.7] beyond half"
    nothing = Condition.half_given_back("PGD", clean, bare=clean, clean=clean)
    assert (nothing.word, nothing.number) == ("undecided", "nothing was taken")


def test_evidence_is_a_sentence() -> None:
    assert decide(ANY, "digits", [YES, NO, MAYBE]).evidence == (
        "of 3 numbers 1 holds, 1 contradicted, 1 undecided; against it: lead: -20.0 [-30.0, -10.0], wanted above 0, "
        "contradicted"
    )
    assert decide(ANY, "digits", [MAYBE]).evidence == ("lead: +1.0 [-5.0, +7.0], wanted above 0, cannot be told")
    assert decide(ANY, "digits", [replace(NO, case="A"), replace(NO, case="B")]).evidence == (
        "both numbers are contradicted; against it: A: lead: -20.0 [-30.0, -10.0], wanted above 0, contradicted"
    )
    assert decide(ANY, "digits", [over(-0.02, 0.02)]).evidence.endswith("no difference that matters (± 3)")
    assert decide(ANY, "digits", []).evidence == "by looking"
    assert decide(MNIST, "digits", [YES]).evidence == "the claim is about mnist"
    cases = [replace(YES, case="CQ"), replace(YES, case="JPEG"), replace(NO, case="TQ")]
    assert decide(ANY, "digits", cases).evidence == (
        "supported for CQ and JPEG (CQ: lead: +4.0 [+2.0, +6.0], wanted above 0, holds); "
        "contradicted for TQ (lead: -20.0 [-30.0, -10.0], wanted above 0, contradicted)"
    )


def test_chips_come_from_the_conditions() -> None:
    verdict = decide(
        ANY,
        "digits",
        [over(0.1, 0.2, attacker="oblivious", images=300), over(0.1, 0.2, images=100, attacker="adaptive")],
    )
    assert (verdict.attacker, verdict.images, verdict.seeds) == ("adaptive", 100, None)


def test_a_verdict_as_a_record_is_json_and_its_words_follow_from_its_numbers() -> None:
    record = json.loads(json.dumps(decide(ANY, "digits", [over(0.02, 0.06, images=100, case="A"), NO]).as_record()))
    assert (record["claim"], record["verdict"], record["images"]) == ("X-1", "contradicted", 100)
    assert record["conditions"][0] == {
        "what": "lead", "bound": 0.0, "side": "above", "margin": 0.03, "case": "A", "images": 100,
        "number": "+4.0 [+2.0, +6.0]", "value": 0.04, "low": 0.02, "high": 0.06, "word": "holds",
    }  # fmt: skip
    again = [Condition.from_record(told) for told in record["conditions"]]
    assert [c.word for c in again] == ["holds", "contradicted"]
    assert [c.as_record() for c in again] == record["conditions"]


def test_what_all_say_is_not_lost_among_many() -> None:
    """Each alone is no proof against one of six, but all six together are."""
    barely = [over(-0.12, -0.002, images=100) for _ in range(6)]
    assert decide(ANY, "digits", barely).word == "contradicted"
    assert decide(ANY, "digits", [*barely[:5], YES]).word == "undecided"


def test_images_that_agree_are_not_widened_as_if_they_were_networks() -> None:
    draws = torch.Generator().manual_seed(0)
    control = torch.rand(2000, generator=draws) < 0.6
    treated = control & (torch.rand(2000, generator=draws) < 0.83)  # ten points less, for both networks alike
    worse = Condition.compare("lead", treated.expand(2, -1), control.expand(2, -1))
    assert worse.half_seeds == 0
    assert decide(ANY, "digits", [worse] + [YES] * 9).word == "contradicted"


def test_one_lucky_case_of_many_does_not_make_a_claim_mixed() -> None:
    lucky = over(0.002, 0.12, images=200)
    cases = [replace(NO, case="0"), *(replace(MAYBE, case=str(i)) for i in range(1, 8)), replace(lucky, case="8")]
    assert decide(ANY, "digits", cases).word == "contradicted"
    assert decide(ANY, "digits", [cases[0], cases[-1]]).word == "contradicted"
    assert decide(ANY, "digits", [cases[0], replace(YES, case="8", images=200)]).word == "mixed"


def test_words_follow_from_the_numbers_that_are_kept() -> None:
    edge = Condition.below("correlation", Interval(-0.3, -0.4, -0.30000000000000004), -0.3)
    assert edge.word == Condition.from_record(json.loads(json.dumps(edge.as_record()))).word == "undecided"


def test_what_cannot_be_computed_tells_nothing() -> None:
    for wrong in (math.nan, math.inf):
        found = Condition.above("correlation", Interval(wrong, wrong, wrong), images=30)
        assert (found.word, found.number, found.needed_images) == ("undecided", "no number could be computed", None)
        json.dumps(found.as_record(), allow_nan=False)


@each(("images", "conditions", "seeds"), product((30, 500), (1, 9), (1, 3)))
def test_chance_decides_in_few_runs(images: int, conditions: int, seeds: int) -> None:
    """Without any effect each word that says something comes out in at most 2.5 % of runs, at the sizes of the pages.

    So it is for the conditions of one case and for as many cases. Equivalence is left out: without an effect it is
    right.
    """
    runs, draws = 150, torch.Generator().manual_seed(images + conditions)
    words: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for _ in range(runs):
        pairs = torch.rand(conditions, 2, seeds, images, generator=draws).squeeze(2)
        found = [Condition.compare("lead", a < 0.6, b < 0.6, margin=0.0) for a, b in pairs]
        for cases, counted in words.items():
            told = [replace(one, case=str(number)) for number, one in enumerate(found)] if cases else found
            counted[decide(ANY, "digits", told).word] += 1
    most = 0.025 * runs + 2.5 * (0.025 * 0.975 * runs) ** 0.5
    for counted in words.values():
        assert counted["supported"] <= most
        assert counted["contradicted"] + counted["mixed"] <= most
        assert counted["undecided"] > 0.9 * runs


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows: list[dict[str, Any]] = [
        {"id": "a-1", "paper": "a", "sentence": "One.", "source": "paper", "decided_by": "x", "datasets": ["mnist"]},
        {"id": "a-2", "paper": "a", "sentence": "Two.", "source": "inferred", "decided_by": "y"},
        {"id": "b-1", "paper": "b", "sentence": "Three.", "source": "paper", "decided_by": "z"},
    ]
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(rows))
    monkeypatch.setattr("advdef.claims.catalogue.resources.files", lambda package: tmp_path)
    return tmp_path / "claims.yml"


def test_claims_are_read_by_paper(table: Path) -> None:
    found = claims("a")
    assert list(found) == ["a-1", "a-2"]
    assert found["a-1"] == Claim("a-1", "a", "One.", "paper", "x", ("mnist",))
    assert found["a-2"].datasets == ()
    with pytest.raises(ValueError, match="'c'; papers: a, b"):
        claims("c")


def test_the_package_carries_a_sound_table() -> None:
    text = (Path(advdef.__file__).parent / "claims.yml").read_text("utf-8")
    rows = yaml.safe_load(text)
    assert len({row["id"] for row in rows}) == len(rows)
    for paper in {row["paper"] for row in rows}:
        for name, claim in claims(paper).items():
            assert name == claim.id
            assert re.fullmatch(r"[A-Z][A-Z0-9_]*-\d+", name)
            for change in claim.changes:
                assert set(change) == {"date", "was", "why"}
            assert claim.source in ("paper", "inferred", "secondary")
            assert claim.sentence.strip().endswith(".")
            assert how_decided(paper)[name].strip()
            assert set(claim.datasets) <= set(DATASETS)


def test_the_same_id_twice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "a-A1", "paper": "a", "sentence": "s", "source": "paper", "decided_by": "d"}
    monkeypatch.setattr("advdef.claims.catalogue.yaml.safe_load", lambda text: [row, row | {"id": "a-A2"}, row])
    with pytest.raises(ValueError, match=r"more than one claim a-A1; keep one"):
        claims("a")


def test_ids_of_a_paper_have_one_beginning_and_no_other_paper_has_it() -> None:
    papers = {claim.id.partition("-")[0]: claim.paper for claim in all_claims()}
    assert all(papers[claim.id.partition("-")[0]] == claim.paper for claim in all_claims())
    assert len(papers) == len(set(papers.values()))


def test_how_many_verdicts_chance_gets_wrong() -> None:
    assert expected_wrong(["supported", "mixed", "contradicted", "undecided", "not testable here"]) == pytest.approx(
        0.075
    )
