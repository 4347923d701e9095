"""Records of all pages read together: which counts, tables across papers, result cards, pages made from them."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from advdef.ledger import cards, own_pages, read_records
from advdef.pages import Page, generated
from advdef.papers import PAPERS
from advdef.plotting import COLOURS
from advdef.repository import InputError, Repository

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = read_records(Repository(ROOT).committed_results)
PAGES = [Page(paper.id, paper.notebook, f"{paper.title}: a page") for paper in PAPERS]


def put(folder: Path, paper: str, name: str, **changes: Any) -> Path:
    dataset, _, profile = name.rpartition("-")
    record = {"schema": 1, "paper": paper, "dataset": dataset, "profile": profile, "provenance": {"seed": 0}}
    path = folder / paper / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | {"values": {}, "verdicts": [], "rows": []} | changes))
    return path


def worst(defence: str, threat: str, correct: int, *, eps: float = 0.1, **changes: Any) -> dict[str, Any]:
    row = {"attack": "worst case", "defence": defence, "threat": threat, "model": "net", "eps": eps, "seed": 0}
    return row | {"part": "curve", "n": 100, "correct": correct, "accuracy": correct / 100} | changes


def test_the_larger_profile_counts_and_papers_come_in_their_order(tmp_path: Path) -> None:
    put(tmp_path, "trn", "digits-smoke")
    put(tmp_path, "trn", "digits-paper")
    put(tmp_path, "trn", "digits-laptop")
    put(tmp_path, "another", "digits-smoke")
    put(tmp_path, "qusecnets", "mnist-smoke")
    found = [(r["paper"], r["dataset"], r["profile"]) for r in read_records(tmp_path)]
    assert found == [("qusecnets", "mnist", "smoke"), ("trn", "digits", "paper"), ("another", "digits", "smoke")]


def test_files_of_an_earlier_run_can_be_left_out(tmp_path: Path) -> None:
    old = put(tmp_path, "trn", "digits-smoke")
    os.utime(old, (1000, 1000))
    put(tmp_path, "nip", "digits-smoke")
    assert [r["paper"] for r in read_records(tmp_path, since=2000)] == ["nip"]


@pytest.mark.parametrize("text", ["{", "[]", '{"paper": "trn"}'])
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    put(tmp_path, "trn", "digits-smoke").write_text(text)
    with pytest.raises(InputError, match=r"digits-smoke\.json is not a record file"):
        read_records(tmp_path)


def test_a_file_without_a_profile_in_its_name_is_named(tmp_path: Path) -> None:
    put(tmp_path, "trn", "digits-huge")
    with pytest.raises(InputError, match=r"digits-huge\.json is not named"):
        read_records(tmp_path)


def test_no_checkout_has_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADVDEF_ROOT", raising=False)
    assert read_records() == []
    assert own_pages([]) == []
    assert cards([]) == {}


def test_a_row_needs_all_three_attackers_and_shows_the_references_of_its_page(tmp_path: Path) -> None:
    rows = [
        worst(defence, threat, correct)
        for defence, counts in {"TRN": (80, 40, 10), "none": (3, 2, 1), "Fast-AT": (50, 40, 30)}.items()
        for threat, correct in zip(("oblivious", "direct", "adaptive"), counts, strict=True)
    ]
    rows += [
        worst("TRN", "direct", 90, eps=0.2),
        worst("TRN", "direct", 99, seed=1),
        worst("TRN", "direct", 98, part="x"),
    ]
    put(tmp_path, "trn", "digits-smoke", rows=rows)
    (row,) = own_pages(read_records(tmp_path))
    assert row == {
        "page": "TRN",
        "data": "digits",
        "network": "net",
        "eps": "0.1",
        "oblivious %": "80 / 3 / 50",
        "direct %": "40 / 2 / 40",
        "adaptive %": "10 / 1 / 30",
        "images": "100",
    }


def test_a_table_of_worst_cases_goes_before_a_curve(tmp_path: Path) -> None:
    threats = ("oblivious", "direct", "adaptive")
    rows = [worst("TRN", threat, 50) for threat in threats] + [worst("TRN", t, 60, part="worst") for t in threats]
    put(tmp_path, "trn", "digits-smoke", rows=rows)
    (row,) = own_pages(read_records(tmp_path))
    assert row["adaptive %"] == "60 / – / –"


class TestCommitted:
    def test_every_paper_has_its_defence_in_the_record_of_its_page(self) -> None:
        assert {row["page"] for row in own_pages(COMMITTED)} == {paper.title for paper in PAPERS}

    @pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.id)
    def test_cards_fit_their_schema_and_the_record(self, paper: Any) -> None:
        schema = json.loads(resources.files("advdef").joinpath("card.schema.json").read_text("utf-8"))
        card = cards(COMMITTED)[paper.id]
        jsonschema.validate(card, schema)
        ours = card["ours"]
        assert ours["adaptive"]["accuracy"] <= min(ours["direct"]["accuracy"], ours["oblivious"]["accuracy"])
        assert card["curve"][-1]["adaptive"] == ours["adaptive"]["accuracy"]
        assert card["reported"]
        assert card["verdicts"]
        (record,) = (r for r in COMMITTED if r["paper"] == "five_defences")
        (row,) = (
            r
            for r in record["rows"]
            if (r["defence"], r["threat"], r["attack"]) == (paper.defence, "direct", "worst case")
            and r["eps"] == card["threat_model"]["eps"]
        )
        assert row["accuracy"] == ours["direct"]["accuracy"]
        assert card["flags"]["direct_misleads"] == (row["low"] > ours["adaptive"]["high"])

    def test_every_claim_and_verdict_stands_on_the_page(self) -> None:
        text = generated(COMMITTED, PAGES)["_generated/verdicts.md"]
        verdicts = [v for record in COMMITTED for v in record["verdicts"]]
        assert len(verdicts) > 50
        assert all(f'id="{verdict["claim"]}"' in text for verdict in verdicts)
        decisions = text.partition('<section class="claim"')[2]
        assert decisions.count('<span class="verdict') == len(verdicts)

    def test_every_record_stands_on_the_status_page(self) -> None:
        text = generated(COMMITTED, PAGES)["_generated/status.md"]
        rows = [record for record in COMMITTED if record["paper"] in {page.paper for page in PAGES}]
        assert text.count("<tr>") == 1 + len(rows)
        assert all(record["provenance"]["commit"] in text for record in rows)

    def test_the_defences_have_a_colour_each_and_the_same_on_their_page(self) -> None:
        colours = {paper.defence: COLOURS[paper.defence] for paper in PAPERS}
        assert len(set(colours.values()) | {COLOURS["undefended"], COLOURS["AT"]}) == len(PAPERS) + 2
        assert all(COLOURS[paper.own] == COLOURS[paper.defence] for paper in PAPERS)


def test_what_a_record_says_is_text_and_not_markup(tmp_path: Path) -> None:
    verdict = {"claim": "trn-C1", "sentence": "s", "source": "paper", "verdict": "partly"}
    verdict |= {"evidence": "<b>1 < 2</b>"}
    put(tmp_path, "trn", "digits-smoke", verdicts=[verdict])
    records = read_records(tmp_path)
    text = generated(records, []) | {}
    assert "No run has decided" in text["_generated/verdicts.md"]
    records[0]["provenance"].update(  # type: ignore[attr-defined]
        versions={}, wall_seconds=60, date="d", device_name="x", commit="c", python="3"
    )
    text = generated(records, PAGES)
    assert "&lt;b&gt;1 &lt; 2&lt;/b&gt;" in text["_generated/verdicts.md"]


def test_many_conditions_are_folded_and_a_few_are_shown(tmp_path: Path) -> None:
    def page(count: int) -> str:
        conditions = [{"what": f"condition {i}", "holds": i > 0, "number": "+1"} for i in range(count)]
        verdict = {"claim": "trn-C1", "sentence": "s", "source": "paper", "verdict": "partly"}
        verdict |= {"evidence": "x" * 400, "conditions": conditions}
        put(tmp_path, "trn", "digits-smoke", verdicts=[verdict])
        records = read_records(tmp_path)
        records[0]["provenance"].update(  # type: ignore[attr-defined]
            versions={}, wall_seconds=60, date="d", device_name="x", commit="c", python="3"
        )
        return generated(records, PAGES)["_generated/verdicts.md"]

    few, many = page(3), page(20)
    assert "fails: condition 0: +1" in few
    assert "The 3 conditions" not in few
    assert "<details><summary>The 20 conditions (C1, digits)</summary>" in many
    assert "19 of 20 conditions hold" in many
