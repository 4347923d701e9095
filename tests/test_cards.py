"""Tables across papers, result cards, and the pages made from them."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

from advdef.book.cards import REFERENCES, cards, comparison_of, form_cards, own_pages, reference_cards
from advdef.book.decisions import Chapter
from advdef.book.markup import in_percent, share
from advdef.book.page import table
from advdef.book.pages import generated
from advdef.book.records import COMPARISON, read_record, read_records, scale
from advdef.book.repository import InputError, Repository
from advdef.claims import Condition, all_claims
from advdef.evaluation import Results
from advdef.papers import PAPERS
from advdef.papers.comparison import FiveDefences
from advdef.plotting import COLOURS
from advdef.statistics import Interval

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads(resources.files("advdef.book").joinpath("card.schema.json").read_text("utf-8"))
COMMITTED = read_records(Repository(ROOT).committed_results)
COMPARED = next(record for record in COMMITTED if record["paper"] == COMPARISON)
PAGES = [Chapter(paper, path.stem, f"{paper}: a page") for paper, path in Repository(ROOT).notebooks.items()]
RAN = {"seed": 0, "date": "d", "commit": "c", "device": "cpu", "device_name": "x", "python": "3", "versions": {}}
RAN |= {"wall_seconds": 60, "data_checksum": "0"}


VERDICT: dict[str, Any] = {
    "claim": "TRN-1", "sentence": "s", "source": "paper", "verdict": "mixed", "evidence": "e", "attacker": "",
    "images": None, "seeds": None, "conditions": [],
}  # fmt: skip


def put(folder: Path, paper: str, name: str, **changes: Any) -> Path:
    dataset, _, profile = name.rpartition("-")
    record = {"schema": 3, "paper": paper, "dataset": dataset, "profile": profile, "run": None, "provenance": RAN}
    empty = {"networks": [], "values": {}, "verdicts": [], "comparisons": [], "checks": [], "costs": [], "results": []}
    path = folder / paper / f"{name}-seed0.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    changes["results"] = [row | {"dataset": dataset} for row in changes.get("results", [])]
    path.write_text(json.dumps(record | empty | changes))
    return path


def worst(defence: str, threat: str, correct: int, *, eps: float = 0.1, **changes: Any) -> dict[str, Any]:
    row = {"attack": "worst case", "defence": defence, "threat": threat, "model": "net", "eps": eps, "seed": 0}
    row |= {"part": "curve", "norm": "Linf", "n": 100, "correct": correct, "accuracy": correct / 100}
    return row | {"low": 0.0, "high": 1.0} | changes


def test_no_records_make_no_rows_and_no_cards() -> None:
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
    put(tmp_path, "trn", "digits-smoke", results=rows)
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


class TestCommitted:
    def test_every_paper_has_its_defence_in_the_record_of_its_page(self) -> None:
        shown = {f"{p.title}, {form}" for p in PAPERS for form in p.forms} | {p.title for p in PAPERS if not p.forms}
        assert {row["page"] for row in own_pages(COMMITTED)} == shown

    @pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.id)
    def test_cards_fit_their_schema_and_the_record(self, paper: Any) -> None:
        card = cards(COMMITTED)[paper.id]
        jsonschema.validate(card, SCHEMA)
        ours = card["ours"]
        assert ours["adaptive"]["accuracy"] <= min(ours["direct"]["accuracy"], ours["oblivious"]["accuracy"])
        assert card["curve"][-1]["adaptive"] == ours["adaptive"]["accuracy"]
        assert card["reported"]
        assert card["verdicts"]

    @pytest.mark.parametrize("name", REFERENCES)
    def test_what_they_are_compared_with_has_cards_too(self, name: str) -> None:
        card = reference_cards(COMMITTED)[name]
        jsonschema.validate(card, SCHEMA)
        assert (card["defence"], card["paper"], card["verdicts"], card["reported"]) == (name, None, [], [])
        row = COMPARED["results"].one(
            part="curve", attack="worst case", threat="adaptive", defence=name, eps=card["threat_model"]["eps"]
        )
        assert card["ours"]["adaptive"]["accuracy"] == row["accuracy"]

    def test_a_person_reads_each_card_on_its_page(self) -> None:
        text = generated(COMMITTED, PAGES)["_generated/cards.md"]
        for file, card in (cards(COMMITTED) | reference_cards(COMMITTED)).items():
            _, _, section = text.partition(f'id="card-{card["defence"].lower()}"')
            told, _, _ = section.partition("</section>")
            assert f"<strong>{in_percent(card['ours']['adaptive']['accuracy'])}\u00a0%</strong>" in told
            assert f'href="../_static/cards/{file}.json"' in told
            assert all(html.escape(sentence) in told for sentence in card["reported"])

    def test_the_pages_of_the_papers_stand_side_by_side(self) -> None:
        rows, text = own_pages(COMMITTED), generated(COMMITTED, PAGES)["_generated/own_pages.md"]
        assert {row["page"].partition(",")[0] for row in rows} == {paper.title for paper in PAPERS}
        assert all(f"<td>{html.escape(cell)}</td>" in text for row in rows for cell in row.values())
        assert "No page" in generated([], PAGES)["_generated/own_pages.md"]

    def test_the_first_page_rounds_as_the_table_of_the_comparison_does(self) -> None:
        shown = (ROOT / "notebooks" / "30_five_defences.ipynb").read_text(encoding="utf-8")
        for row in COMPARED["results"]:
            if row["part"] == "clean":
                assert f"<td>{share(row)}</td>" in shown.replace("\\u00a0", "\u00a0"), row["defence"]

    def test_every_claim_and_verdict_stands_on_the_page(self) -> None:
        text = generated(COMMITTED, PAGES)["_generated/verdicts.md"]
        verdicts = [v for record in COMMITTED for v in record["verdicts"]]
        assert len(verdicts) > 50
        assert all(f'id="{verdict["claim"].lower()}"' in text for verdict in verdicts)
        assert text.count('<li><span class="verdict') == len(verdicts)

    def test_the_first_page_says_what_the_comparison_found(self) -> None:
        text = generated(COMMITTED, PAGES)["_generated/finding.md"]
        made = cards(COMMITTED)
        forms = form_cards(COMMITTED)
        assert [*forms] == ["CQ", "TQ", "SNS", "NIP", "TRN", "purifier"]
        better = [name for name, c in forms.items() if c["flags"]["better_than_adversarial_training"]]
        budgets = len(made["nip"]["curve"])
        assert f"of {6 * budgets} comparisons (five defences in six forms, three budgets) the interval cannot" in text
        assert ("On Fashion-MNIST, none of the five defences was seen to beat" in text) == (not better)
        assert text.count('<path class="adaptive"') == len(comparison_of(COMMITTED)["results"].values("defence"))
        for card in made.values():
            assert f"adaptive {in_percent(card['ours']['adaptive']['accuracy'])} %" in text

    def test_the_first_page_says_how_many_verdicts_are_undecided(self) -> None:
        text = generated(COMMITTED, PAGES)["_generated/limits.md"]
        words = [verdict["verdict"] for record in COMMITTED for verdict in record["verdicts"]]
        assert f"of {len(words)} verdicts {words.count('undecided')} are undecided" in text

    def test_each_form_of_a_paper_on_the_first_page_leads_to_its_page(self) -> None:
        table = generated(COMMITTED, PAGES)["_generated/headline.md"]
        for form in ("CQ", "TQ"):
            assert f'<a href="../notebooks/01_qusecnets.html">QuSecNets ({form})</a>' in table

    def test_the_example_on_the_page_of_records_runs(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = (ROOT / "book" / "records.md").read_text(encoding="utf-8")
        exec(text.partition("```python\n")[2].partition("```")[0], {})
        shown = capsys.readouterr().out
        assert all(paper.defence in shown for paper in PAPERS)

    def test_every_record_stands_on_the_status_page(self) -> None:
        text = generated(COMMITTED, PAGES)["_generated/status.md"]
        rows = [record for record in COMMITTED if record["paper"] in {page.paper for page in PAGES}]
        table, _, versions = text.partition("The versions that they used")
        assert table.count("<tr>") == 1 + len(rows)
        assert all(f"({record['dataset']})" in versions for record in rows)
        assert all(record["provenance"]["commit"] in text for record in rows)

    def test_the_defences_have_a_colour_each_and_the_same_on_their_page(self) -> None:
        colours = [COLOURS[name] for name in FiveDefences.names]
        assert len(set(colours)) == len(colours)
        assert all(COLOURS[paper.own] == COLOURS[paper.defence] for paper in PAPERS)


def comparison(tmp_path: Path, name: str = "digits-smoke", **changes: Any) -> Path:
    """A record of the page that compares the defences, with two budgets."""
    rows, comparisons, checks, costs = [], [], [], []
    forms = (form for paper in PAPERS for form in paper.forms or (paper.defence,))
    for defence in ("undefended", "AT", *forms):
        rows.append(worst(defence, "clean", 90, eps=0.0, attack="none", part="clean") | {"low": 0.8, "high": 0.95})
        for eps, counts in ((0.05, (80, 70, 60)), (0.1, (60, 50, 20))):
            for threat, correct in zip(("oblivious", "direct", "adaptive"), counts, strict=True):
                rows.append(worst(defence, threat, correct, eps=eps) | {"low": 0.1, "high": 0.9})
            where = {"eps": eps, "attack": "worst case"}
            low = 0.01 if eps == 0.1 else -0.01
            mine, other = {"threat": "direct"}, {"threat": "adaptive"}
            told = {"mine": mine, "other": other, "where": where | {"defence": defence}}
            comparisons.append(told | {"value": 0.1, "low": low, "high": 0.2})
            for reference, value, low, high in (("undefended", 0.1, 0.01, 0.2), ("AT", -0.1, -0.2, -0.01)):
                told = {"mine": {"defence": defence}, "other": {"defence": reference}, "where": where | other}
                comparisons.append(told | {"value": value, "low": low, "high": high})
        costs.append({"defence": defence, "training_seconds": 1.0, "multiply_adds_ratio": 2.0})
        costs[-1] |= {"forwards": 1.0, "backwards": 0.0}
        checks.append({"defence": defence, "id": "B5", "title": "t", "detail": ""})
        checks[-1]["status"] = "fire" if defence == "TQ" else "pass"
    found = {"results": rows, "comparisons": comparisons, "checks": checks, "costs": costs}
    return put(tmp_path, "five_defences", name, **(found | changes))


def test_flags_are_the_budgets_at_which_an_interval_lies_above_zero(tmp_path: Path) -> None:
    comparison(tmp_path)
    found = cards(read_records(tmp_path))
    assert set(found) == {paper.id for paper in PAPERS}
    card = found["qusecnets"]
    jsonschema.validate(card, SCHEMA)
    assert card["flags"] == {
        "direct_misleads": [0.1],
        "better_than_undefended": [0.05, 0.1],
        "better_than_adversarial_training": [],
        "checks_fired": ["B5"],
    }
    assert card["threat_model"] == {"norm": "Linf", "eps": 0.1, "dataset": "digits", "model": "net"}
    assert card["curve"] == [
        {"eps": 0.05, "oblivious": 0.8, "direct": 0.7, "adaptive": 0.6},
        {"eps": 0.1, "oblivious": 0.6, "direct": 0.5, "adaptive": 0.2},
    ]
    made = generated(read_records(tmp_path), [])
    assert "0.05, 0.1" in made["_generated/cards.md"]
    assert "never" in made["_generated/cards.md"]
    every = "CQ, TQ, SNS, NIP, TRN and purifier"
    first, second = re.findall(r"^- (.*)", made["_generated/conclusion.md"], re.MULTILINE)
    assert first.startswith(
        f"At eps 0.05, **{every}** are better than no defence, and **none** is better than adversarial"
    )
    assert "**None** is overstated by an attacker who only follows the gradient." in first
    assert f"**{every}** are overstated" in second


def test_half_a_percent_is_rounded_up_and_only_once(tmp_path: Path) -> None:
    half = {"n": 200, "accuracy": 0.805, "low": 0.7447, "high": 0.8539}
    rows = [worst("TRN", threat, 161, **half) for threat in ("oblivious", "direct", "adaptive")]
    put(tmp_path, "trn", "digits-smoke", results=rows)
    records = read_records(tmp_path)
    assert own_pages(records)[0]["adaptive %"].startswith("81 /")
    assert "**81\u00a0% [74, 85]**" in generated(records, PAGES)["_generated/papers.md"]
    kept = {"n": 2000, "accuracy": 0.8025, "low": 0.7845, "high": 0.8194}  # 0.784479 in full
    assert share(kept) == "80.2 [78.4,\u00a081.9]"
    assert share(kept | {"low": 0.7}) == "80.2 [70.0,\u00a081.9]"  # no count's interval


def test_of_several_forms_the_card_is_that_of_the_deployed_one(tmp_path: Path) -> None:
    comparison(tmp_path)
    assert cards(read_records(tmp_path))["qusecnets"]["defence"] == "TQ"
    comparison(tmp_path, values={"deployed": {"qusecnets": "CQ"}})
    card = cards(read_records(tmp_path))["qusecnets"]
    assert card["defence"] == "CQ"
    assert card["flags"]["checks_fired"] == []  # that of the other form is not its own


def test_of_several_comparisons_the_largest_profile_gives_the_cards(tmp_path: Path) -> None:
    comparison(tmp_path, "cifar10-smoke")
    comparison(tmp_path, "mnist-laptop")
    assert cards(read_records(tmp_path))["trn"]["threat_model"]["dataset"] == "mnist"


def test_a_comparison_that_lacks_something_is_named(tmp_path: Path) -> None:
    comparison(tmp_path, comparisons=[])
    with pytest.raises(InputError, match="five_defences/digits-smoke: it lacks"):
        cards(read_records(tmp_path))
    comparison(tmp_path, results=[])
    with pytest.raises(InputError, match="run that page again"):
        cards(read_records(tmp_path))


def test_claims_keep_the_order_of_the_rules_when_data_sets_have_different_ones(tmp_path: Path) -> None:
    def verdicts(*claims: str) -> list[dict[str, Any]]:
        return [VERDICT | {"claim": f"NIP-{number}"} for number in claims]

    put(tmp_path, "nip", "cifar10-smoke", verdicts=verdicts("1", "7", "99"))
    put(tmp_path, "nip", "digits-smoke", verdicts=verdicts("2", "1", "10"))
    text = generated(read_records(tmp_path), PAGES)["_generated/verdicts.md"]
    assert re.findall(r'id="nip-(\w+)"', text) == ["1", "2", "7", "10", "99"]


def test_what_a_record_says_is_text_and_not_markup(tmp_path: Path) -> None:
    put(tmp_path, "trn", "digits-smoke", verdicts=[VERDICT | {"evidence": "<b>1 < 2</b>"}])
    records = read_records(tmp_path)
    text = generated(records, []) | {}
    assert "No run has decided" in text["_generated/matrix.md"]
    assert "No run has compared" in text["_generated/finding.md"]
    text = generated(records, PAGES)
    assert "&lt;b&gt;1 &lt; 2&lt;/b&gt;" in text["_generated/verdicts.md"]


def test_nothing_in_a_record_is_markup_wherever_it_stands(tmp_path: Path) -> None:
    bad = "<script>x</script>"
    condition = Condition.above(bad, Interval(0.1, 0.05, 0.15), case=bad, show=lambda interval: bad).as_record()
    verdict = VERDICT | {"claim": f"TRN-1{bad}", "sentence": bad, "evidence": bad * 20, "conditions": [condition] * 20}
    told = RAN | {"date": bad, "commit": bad, "device_name": bad, "python": bad, "versions": {bad: bad}}
    rows = [worst("TRN", threat, 50, model=bad) for threat in ("oblivious", "direct", "adaptive")]
    path = put(tmp_path, "trn", "digits-smoke", verdicts=[verdict], provenance=told, results=rows)
    records = [{**read_record(path), "dataset": bad}]  # a file cannot have such a name
    pages = generated(records, PAGES)
    shown = table(pd.DataFrame(own_pages(records)), bad)._repr_html_()
    assert "<script" not in "".join([*pages.values(), shown])
    assert shown.count("&lt;script&gt;") == 3
    assert "&lt;script&gt;" in pages["_generated/verdicts.md"]
    assert "&lt;script&gt;" in pages["_generated/status.md"]


def test_nothing_in_the_record_of_the_comparison_or_in_a_title_is_markup() -> None:
    bad = "<script>x</script>\n````\n# A heading\n"
    (comparison,) = (record for record in COMMITTED if record["paper"] == COMPARISON)
    model = comparison["results"].rows[0]["model"]

    def poisoned(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poisoned(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [poisoned(inner) for inner in value]
        where = ("dataset", "profile", "commit", "date", "device", "device_name", "python", "data_checksum", "detail")
        return bad if value == model or (isinstance(value, str) and name in where) else value

    rows = Results(poisoned(comparison["results"].rows))
    record = poisoned({**comparison, "results": None}) | {"results": rows, "profile": "laptop"}
    pages = generated([record], [Chapter(COMPARISON, "30_five_defences", "<script>: a page")])
    seen = "".join(text for name, text in pages.items() if name.endswith(".md"))
    assert "<script" not in seen
    assert "\n# A heading" not in re.sub(r"````{raw} html\n[^`]*````\n", "", seen)
    assert pages["_generated/cards.md"].count("&lt;script&gt;") == 2 + len(PAPERS) + len(REFERENCES)  # and the dates
    assert "&lt;script&gt;" in pages["_generated/finding.md"]


def test_a_row_of_backticks_does_not_end_a_block(tmp_path: Path) -> None:
    put(tmp_path, "trn", "digits-smoke", verdicts=[VERDICT | {"evidence": "\n````\n# A heading\n"}])
    text = generated(read_records(tmp_path), PAGES)["_generated/verdicts.md"]
    assert text.count("````") == 2  # one block


def test_the_status_page_tells_what_came_from_stored_results(tmp_path: Path) -> None:
    put(tmp_path, "trn", "digits-smoke", provenance=RAN | {"cached": {"entries": 4, "seconds": 600.0}})
    put(tmp_path, "nip", "digits-smoke", provenance=RAN | {"cached": {"entries": 0, "seconds": 0}})
    text = generated(read_records(tmp_path), PAGES)["_generated/status.md"]
    assert "<td>1.0 (+ 10.0 stored)</td>" in text
    assert "<td>1.0</td>" in text


def test_conditions_are_folded_away_and_what_was_recorded_is_told(tmp_path: Path) -> None:
    conditions = [Condition.above(f"lead {i}", Interval(0.1, 0.05, 0.15), case="CQ").as_record() for i in range(3)]
    told = {"attacker": "adaptive", "images": 1000, "seeds": 1, "old_rules": True, "conditions": conditions}
    told["evidence"] = "the claim is about cifar10, cifar100"
    put(tmp_path, "trn", "digits-smoke", verdicts=[VERDICT | told])
    text = generated(read_records(tmp_path), PAGES)["_generated/verdicts.md"]
    assert "<br>the claim is about CIFAR-10, CIFAR-100<" in text
    assert "<details><summary>3 conditions (TRN-1, digits)</summary>" in text
    assert "<li>CQ: lead 2: +10.0 [+5.0, +15.0], wanted above 0, holds</li>" in text
    chips = ("attacker knows the defence", "toy scale", "1,000 images", "1 seed", "recorded under the old rules")
    assert re.findall(r'class="chip">([^<]+)', text) == list(chips)


def test_the_matrix_links_each_word_to_the_section_that_decides_it(tmp_path: Path) -> None:
    put(tmp_path, "trn", "digits-smoke", verdicts=[VERDICT, VERDICT | {"claim": "TRN-2", "verdict": "supported"}])
    unknown = VERDICT | {"claim": "TRN-3", "verdict": "not testable here"}
    put(tmp_path, "trn", "cifar10-smoke", verdicts=[VERDICT | {"verdict": "contradicted"}, unknown])
    text = generated(read_records(tmp_path), PAGES)["_generated/matrix.md"]
    first = next(claim for claim in all_claims() if claim.id == "TRN-1")
    assert f'<a href="../notebooks/04_trn.html#{first.section}"><span class="verdict mixed">mixed</span></a>' in text
    assert text.count('title="not testable here">–</span>') == 1  # those that are counted
    assert "would make at most 0.1 wrong" in text


@pytest.mark.parametrize(
    ("dataset", "profile", "parameters", "images", "word"),
    [
        ("digits", "smoke", 10**7, 100, "toy"),
        ("mnist", "laptop", 10**5, 100, "toy"),
        ("mnist", "laptop", 10**7, 100, "small"),
        ("mnist", "laptop", 10**7, 50, "toy"),
        ("mnist", "paper", 10**7, 100, "paper"),
    ],
)
def test_the_scale_follows_from_the_record(
    tmp_path: Path, dataset: str, profile: str, parameters: int, images: int, word: str
) -> None:
    network = {"name": "m", "parameters": parameters, "images": images, "of": 100}
    assert scale(read_record(put(tmp_path, "trn", f"{dataset}-{profile}", networks=[network]))) == word


def test_how_each_claim_is_decided_stands_on_one_page() -> None:
    text = generated([], PAGES)["_generated/rules.md"]
    assert all(f'id="{claim.id.lower()}"' in text for claim in all_claims())
    changed = [claim for claim in all_claims() if claim.changes]
    assert text.count("Why it changed:") == sum(len(claim.changes) for claim in changed)
