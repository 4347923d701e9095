"""Claims and the verdicts that a run gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import advdef
from advdef.claims import Claim, Condition, Verdict, claims, decide
from advdef.data import DATASETS
from advdef.papers import how_decided
from advdef.statistics import Interval

ANY = Claim("x-1", "x", "It works.", "paper", "by looking")
MNIST = Claim("x-2", "x", "It works on MNIST.", "inferred", "by looking", ("mnist",))
YES, NO = Condition("one", True, "+5.0"), Condition("two", False, "-1.0")


@pytest.mark.parametrize(
    ("claim", "conditions", "word"),
    [
        (ANY, [YES, YES], "supported"),
        (ANY, [YES, NO], "partly"),
        (ANY, [NO, NO], "not supported"),
        (ANY, [], "not testable here"),
        (MNIST, [YES], "not testable here"),
        (MNIST, [], "not testable here"),
    ],
)
def test_verdicts(claim: Claim, conditions: list[Condition], word: str) -> None:
    verdict = decide(claim, "digits", conditions)
    assert verdict.word == word
    assert verdict.conditions == tuple(conditions)


def test_a_claim_is_decided_on_its_own_data() -> None:
    assert decide(MNIST, "mnist", [YES]).word == "supported"
    assert ANY.about("digits")
    assert MNIST.about("mnist")
    assert not MNIST.about("digits")


def test_evidence_gives_the_numbers() -> None:
    assert decide(ANY, "digits", [YES, NO]).evidence == "1 of 2 conditions hold; one: +5.0; two: -1.0 (fails)"
    assert decide(ANY, "digits", [YES, NO], summary="in short").evidence == "1 of 2 conditions hold; in short"
    assert decide(ANY, "digits", []).evidence == "nothing was measured"
    assert decide(ANY, "digits", [], summary="about history").evidence == "about history"
    assert decide(MNIST, "digits", [YES], summary="in short").evidence == "the claim is about mnist"
    assert decide(MNIST, "digits", [YES]).evidence == "the claim is about mnist"


@pytest.mark.parametrize(
    ("low", "high", "overlaps", "above"),
    [
        (0.5, 0.6, True, True),
        (0.3, 0.5, True, True),
        (0.2, 0.49, False, True),
        (0.97, 0.99, False, True),
        (0.1, 0.99, True, False),
        (0.96, 0.99, True, True),
        (0.12, 0.3, False, False),
    ],
)
def test_conditions_on_intervals(low: float, high: float, overlaps: bool, above: bool) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert Condition.overlaps("gain", interval, 0.5, 0.96).holds == overlaps
    assert Condition.above("gain", interval, 0.12).holds == above
    assert Condition.above("gain", interval, 0.12).number == f"{interval:+}"


def test_a_verdict_as_a_record_is_json() -> None:
    record = decide(ANY, "digits", [YES, NO]).as_record()
    assert json.loads(json.dumps(record)) == {
        "claim": "x-1",
        "sentence": "It works.",
        "source": "paper",
        "verdict": "partly",
        "evidence": "1 of 2 conditions hold; one: +5.0; two: -1.0 (fails)",
        "conditions": [
            {"what": "one", "holds": True, "number": "+5.0"},
            {"what": "two", "holds": False, "number": "-1.0"},
        ],
    }


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows: list[dict[str, Any]] = [
        {"id": "a-1", "paper": "a", "sentence": "One.", "source": "paper", "decided_by": "x", "datasets": ["mnist"]},
        {"id": "a-2", "paper": "a", "sentence": "Two.", "source": "inferred", "decided_by": "y"},
        {"id": "b-1", "paper": "b", "sentence": "Three.", "source": "paper", "decided_by": "z"},
    ]
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(rows))
    monkeypatch.setattr("advdef.claims.resources.files", lambda package: tmp_path)
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
            assert name.startswith(f"{paper}-")
            assert claim.source in ("paper", "inferred", "secondary")
            assert claim.sentence.strip().endswith(".")
            assert how_decided(paper)[name].strip()
            assert set(claim.datasets) <= set(DATASETS)
    words = get_args(Verdict.__dataclass_fields__["word"].type)
    assert not words or "partly" in words


def test_the_same_id_twice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "a-A1", "paper": "a", "sentence": "s", "source": "paper", "decided_by": "d"}
    monkeypatch.setattr("advdef.claims.yaml.safe_load", lambda text: [row, row | {"id": "a-A2"}, row])
    with pytest.raises(ValueError, match=r"more than one claim a-A1; keep one"):
        claims("a")
