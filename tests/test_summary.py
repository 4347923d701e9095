"""What a page says first and last follows from its records."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from advdef.book.endings import library_comparisons
from advdef.book.furniture import figure_data, furnished, gallery
from advdef.book.records import read_records
from advdef.book.repository import Repository
from advdef.book.summary import conclusion, in_short
from advdef.claims import Claim, Condition, decide
from advdef.evaluation import Results
from advdef.evaluation.results import Row
from advdef.papers import PAPERS
from advdef.statistics import Interval, paired_difference

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = read_records(Repository(ROOT).committed_results)


def row(defence: str, threat: str, correct: int, eps: float = 0.1) -> Row:
    told = {"part": "worst", "dataset": "mnist", "model": "net", "attack": "worst case", "norm": "Linf", "seed": 0}
    told |= {"low": 0.01, "high": 0.99, "n": 100, "correct": correct, "accuracy": correct / 100}
    return told | {"defence": defence, "threat": threat, "eps": eps}


def record(**changes: Any) -> dict[str, Any]:
    counts = {"none": (1, 1, 0), "Fast-AT": (50, 40, 30), "TRN": (80, 40, 10)}
    rows = [
        row(defence, threat, correct, eps)
        for eps, more in ((0.05, 5), (0.1, 0))
        for defence, found in counts.items()
        for threat, correct in zip(("oblivious", "direct", "adaptive"), (n + more for n in found), strict=True)
    ]
    verdicts = [verdict("TRN-1", "supported"), verdict("TRN-9", "contradicted"), verdict("TRN-11", "not testable here")]
    facts = {"seed": 0, "date": "2026-01-02", "commit": "abc"}
    told = {"paper": "trn", "dataset": "mnist", "profile": "smoke", "results": Results(rows), "verdicts": verdicts}
    return told | {"provenance": facts, "comparisons": []} | changes


def verdict(claim: str, word: str) -> dict[str, Any]:
    return {"claim": claim, "verdict": word, "sentence": f"{claim} <holds>.", "evidence": "", "conditions": []}


def test_a_page_says_what_each_attacker_left_how_its_claims_fared_and_shows_it() -> None:
    said = in_short("trn", [record(), record(paper="nip")])
    assert "**MNIST**, eps 0.1: of 100 images, TRN keeps 80\u00a0% right against an attacker who does not know" in said
    assert "**10\u00a0% [1, 99]** against one who does, who leaves 0\u00a0% with no defence and 30\u00a0% with" in said
    assert "Against one who knows it, 15\u00a0% stay right at eps 0.05." in said
    assert said.count('<path class="gap"') == 3
    assert '<span class="verdict supported">supported</span> 1' in said
    assert in_short("trn", [record(paper="nip")]) == ""


def test_the_conclusion_has_each_claim_under_its_word() -> None:
    said = conclusion("trn", [record(), record(dataset="cifar10", verdicts=[verdict("TRN-1", "supported")])])
    supported, _, rest = said.partition("These runs contradict")
    assert "TRN-1 (MNIST, CIFAR-10)</a>: TRN-1 &lt;holds&gt;." in supported
    assert said.count("\n````") == said.count("````") == 2  # what opens and what closes a block have their own lines
    assert "TRN-9" in rest.partition("Not testable here: TRN-11.")[0]
    assert conclusion("trn", [record(verdicts=[])]) == ""


def test_the_conclusion_has_the_number_that_decided_a_claim() -> None:
    rows = (("eps 0.1", "TRN − AT", (-0.3, -0.4, -0.2)), ("eps 0.2", "TRN − JPEG", (-0.2, -0.4, -0.01)))
    conditions = [Condition.above(what, Interval(*ends), case=case) for case, what, ends in rows]
    about = Claim("TRN-9", "trn", "TRN is hard to bypass.", "paper")
    decided = [decide(about, "mnist", found).as_record() for found in (conditions, conditions[:1])]
    told = "eps 0.1, TRN − AT: -30.0 [-40.0, -20.0]</small></li>"
    assert f"bypass. <small>{told}" in conclusion("trn", [record(verdicts=decided[:1])])
    runs = [record(verdicts=decided[1:]), record(dataset="cifar10", verdicts=[verdict("TRN-9", "contradicted")])]
    assert f"bypass. <small>MNIST, {told}" in conclusion("trn", runs[::-1])


def test_a_figure_says_what_it_shows() -> None:
    def figure(name: str, words: str) -> nbformat.NotebookNode:
        cell = new_code_cell("plt.show()")
        cell.metadata["mystnb"] = {"figure": {"name": name}, "image": {"alt": "Lines."}}
        cell.outputs = [new_output("display_data", {"image/png": "", "text/plain": words})]
        return cell

    cells = [
        figure("fig-new", "TRN at 0.4."),
        figure("fig-trn-curves", "<Figure size 1>"),
        figure("x", "<Figure size 1>"),
    ]
    made = furnished(new_notebook(cells=cells), "trn", [record(verdicts=[])])
    new, old, other = (c.metadata["mystnb"]["image"]["alt"] for c in made.cells if "mystnb" in c.metadata)
    assert new == "Lines. TRN at 0.4."
    assert old == (
        "Lines. Right against an attacker who knows the defence: MNIST, eps 0.1: none 0\u00a0%, Fast-AT 30\u00a0%, "
        "TRN 10\u00a0%."
    )
    assert other == "Lines."


@pytest.mark.parametrize("paper", [paper.id for paper in PAPERS])
def test_every_paper_of_the_committed_records_has_both(paper: str) -> None:
    said = in_short(paper, COMMITTED)
    assert said.count("\n- **") == sum(record["paper"] == paper for record in COMMITTED)
    assert '<figure class="finding">' in said
    assert conclusion(paper, COMMITTED).startswith("## Conclusion")


def test_the_budget_that_is_told_is_the_one_that_the_claims_are_about() -> None:
    (mnist,) = [one for one in COMMITTED if (one["paper"], one["dataset"]) == ("qusecnets", "mnist")]
    assert {row["eps"] for row in mnist["results"] if row["part"] == "claims"} == {0.3}
    assert max(row["eps"] for row in mnist["results"] if row["part"] == "curve") == 0.4
    assert "**MNIST**, eps 0.3: of" in in_short("qusecnets", COMMITTED)


@pytest.mark.parametrize("paper", ["broken_on_purpose", "attack_agreement", "your_classifier"])
def test_the_other_pages_say_what_they_found_too(paper: str) -> None:
    said = in_short(paper, COMMITTED)
    assert "**" in said
    assert said.count('<figure class="finding">') == 1
    assert in_short(paper, [record(paper=paper, results=Results(), comparisons=[])]) == ""
    assert conclusion(paper, COMMITTED).startswith("## Conclusion\n\n")
    assert conclusion(paper, [record(paper=paper, results=Results(), comparisons=[], checks=[])]) == ""


def test_the_page_of_planted_faults_concludes_which_checks_told_them_apart() -> None:
    rows = [
        row(defence, threat, correct)
        for defence, counts in {"honest": (0, 0, 0), "scaled": (0, 95, 2)}.items()
        for threat, correct in zip(("oblivious", "direct", "adaptive"), counts, strict=True)
    ]
    fired = [
        {"defence": d, "id": i, "status": "fire"} for d, i in (("honest", "E2"), ("scaled", "E2"), ("scaled", "B5"))
    ]
    silent = [{"defence": "scaled", "id": "B4", "status": "pass"}]
    said = conclusion(
        "broken_on_purpose", [record(paper="broken_on_purpose", results=Results(rows), checks=fired + silent)]
    )
    assert "**scaled** seems to keep 95\u00a0% [1, 99] and keeps 2\u00a0% [1, 99]" in said
    assert "Checks that fired: B5.\n" in said
    assert "the checks that fire there, E2," in said


def test_libraries_are_compared_on_the_hits_where_a_run_kept_them() -> None:
    results = Results()
    about: dict[str, Any] = dict(part="agreement", dataset="mnist", model="cnn", defence="undefended", attack="MIM")
    about |= dict(threat="direct", norm="Linf", eps=0.1, seed=0, beside="foolbox")
    ours, theirs = (torch.arange(100) < n for n in (60, 40))
    results.add_hits(ours, library="advdef", **about)
    results.add_hits(theirs, library="foolbox", **about)
    (found,) = library_comparisons(record(paper="attack_agreement", results=results))
    assert found["other"] == {"library": "foolbox"}
    assert [found[n] for n in ("value", "low", "high")] == list(vars(paired_difference(ours, theirs)).values())
    said = conclusion("attack_agreement", [record(paper="attack_agreement", results=results)])
    assert "MIM (Linf 0.1, foolbox) +20.0 [+11" in said
    assert "no difference was seen" in in_short("attack_agreement", [record(paper="attack_agreement", results=results)])


def test_the_page_of_other_libraries_concludes_where_they_part() -> None:
    def compared(library: str, value: float, attack: str = "MIM") -> dict[str, Any]:
        where = {"attack": attack, "norm": "Linf", "eps": 0.1, "beside": library}
        told = {"mine": {"library": "advdef"}, "other": {"library": library}, "where": where}
        return told | {"value": value, "low": value - 0.02, "high": value + 0.02}

    found = [compared("foolbox", 0.0), compared("foolbox", 0.05), compared("art", -0.4)]
    found.append(compared("art", 0.3, "universal"))  # another algorithm of that name
    run = record(paper="attack_agreement", comparisons=found)
    said = conclusion("attack_agreement", [run])
    assert (
        "**foolbox**: no difference seen in 1 of 2 comparisons; ours left fewer images right in 0, more in 1." in said
    )
    assert "MIM (Linf 0.1, art) -40.0 [-42.0, -38.0]; MIM (Linf 0.1, foolbox) +5.0 [+3.0, +7.0]." in said
    assert "**art**: no difference seen in 0 of 1 comparisons" in said
    assert "another algorithm of that name: universal (art)." in said
    assert "In **1 of 3** comparisons with the same attack" in in_short("attack_agreement", [run])


def page() -> nbformat.NotebookNode:
    cells = [new_markdown_cell("# TRN\n\nA story."), new_code_cell("1 + 1"), new_markdown_cell("## Provenance")]
    cells.insert(2, new_code_cell("2", metadata={"tags": ["hide-cell"]}))
    return new_notebook(cells=cells)


def test_a_notebook_gets_its_finding_its_conclusion_and_folded_code() -> None:
    cells = furnished(page(), "trn", [record()]).cells
    title, *rest = cells[0].source.splitlines()
    assert title == "# TRN"
    assert rest.index("A story.") > rest.index("::::{admonition} In short")
    assert "! MNIST accuracy" in cells[0].source
    assert [cell.source.splitlines()[0] for cell in cells[-2:]] == ["## Conclusion", "## Provenance"]
    assert [cell.metadata["tags"] for cell in cells if cell.cell_type == "code"] == [["hide-input"], ["hide-cell"]]
    unchanged = furnished(page(), "nip", [record()]).cells
    assert [cell.source for cell in unchanged] == [cell.source for cell in page().cells]


def drawn(name: str, told: str = "<Figure>", **more: str) -> nbformat.NotebookNode:
    """A cell that draws a figure, and says something else."""
    figure = {"figure": {"name": name, "caption": "Seen."}, "image": {"alt": "Marks."}}
    shown = [{"image/svg+xml": "<svg/>", "text/plain": told}, *({kind: text} for kind, text in more.items())]
    outputs = [new_output("display_data", data={kind.replace("_", "/"): t for kind, t in d.items()}) for d in shown]
    return new_code_cell("plt.show()", outputs=outputs, metadata={"mystnb": figure})


def test_a_figure_leads_to_its_numbers_where_they_are_rows_of_the_record() -> None:
    def made() -> nbformat.NotebookNode:
        return new_notebook(cells=[*page().cells[:1], drawn("fig-trn-gallery"), drawn("fig-trn-curves")])

    files = figure_data(made(), "trn", [record(), record(paper="nip")])
    assert sorted(files) == ["_static/figures/trn-figure-2.csv", "_static/figures/trn-figure-2.json"]
    told = json.loads(files["_static/figures/trn-figure-2.json"])
    lines = list(csv.DictReader(files["_static/figures/trn-figure-2.csv"].splitlines()))
    assert told["caption"] == "Seen."
    assert len(told["rows"]) == len(lines) == 3 * 3 * 2
    wanted = {"defence": "TRN", "threat": "adaptive", "eps": "0.1", "correct": "10", "n": "100", "low": "0.01"}
    assert any(wanted.items() <= line.items() for line in lines)
    assert not {"hits", "seconds", "settings"} & set(lines[0])
    sources = [cell.source for cell in furnished(made(), "trn", [record()]).cells]
    (place,) = (i for i, source in enumerate(sources) if 'class="take"' in source)
    assert sources[place - 1] == "plt.show()"
    assert 'href="../_static/figures/trn-figure-2.csv" download' in sources[place]
    assert '<figure class="curves">' in sources[place + 1]


def test_a_figure_leads_to_the_numbers_that_its_run_kept_where_no_record_has_them() -> None:
    kept = {"panel": "MNIST", "name": "TRN", "x": ["R0", "all"], "y": [90.0, None]}

    def made() -> nbformat.NotebookNode:
        cell = drawn("fig-thresholds")
        cell.outputs[0].metadata["image/svg+xml"] = {"numbers": [kept]}
        return new_notebook(cells=[*page().cells[:1], cell, drawn("fig-trn-gallery")])

    files = figure_data(made(), "trn", [record()])
    assert sorted(files) == ["_static/figures/trn-figure-1.csv", "_static/figures/trn-figure-1.json"]
    assert files["_static/figures/trn-figure-1.csv"] == "panel,name,x,y\nMNIST,TRN,R0,90.0\nMNIST,TRN,all,\n"
    assert json.loads(files["_static/figures/trn-figure-1.json"])["rows"][1] == kept | {"x": "all", "y": None}
    links = [cell.source for cell in furnished(made(), "trn", [record()]).cells if 'class="take"' in cell.source]
    assert len(links) == 1


def test_the_bars_of_the_ladder_are_rows_at_the_main_budget() -> None:
    rungs = [
        row("TRN", "adaptive", correct, eps) | {"part": part}
        for eps, more in ((0.05, 5), (0.1, 0))
        for part, correct in (("R0", 80 + more), ("R7", 20 + more))
    ]
    told = record()
    told["results"] = Results([*told["results"], *rungs, rungs[-1] | {"attack": "APGD", "correct": 30}])
    notebook = new_notebook(cells=[drawn("fig-trn-ladder")])
    lines = csv.DictReader(figure_data(notebook, "trn", [told])["_static/figures/trn-figure-1.csv"].splitlines())
    assert [(line["part"], line["correct"]) for line in lines] == [("R0", "80"), ("R7", "20"), ("worst", "10")]


@pytest.mark.parametrize(
    ("paper", "figure", "part"),
    [("qusecnets", "fig-levels", "levels"), ("attack_agreement", "fig-agreement", "agreement")],
)
def test_figures_that_are_one_part_of_a_record(paper: str, figure: str, part: str) -> None:
    mine = [found for found in COMMITTED if found["paper"] == paper]
    files = figure_data(new_notebook(cells=[drawn(figure)]), paper, mine)
    rows = json.loads(files[f"_static/figures/{paper}-figure-1.json"])["rows"]
    assert {row["part"] for row in rows} == {part}
    assert len(rows) == sum(row["part"] == part for found in mine for row in found["results"])


@pytest.mark.parametrize("kind", ["image/png", "image/svg+xml"])
def test_the_first_page_shows_images_of_an_executed_notebook(tmp_path: Path, kind: str) -> None:
    gallery(tmp_path)
    assert (tmp_path / "book/_generated/pictures.md").read_text() == ""
    told = {"figure": {"name": "fig-trn-gallery", "caption": "Seen."}, "image": {"alt": "Images."}}
    content = "iVBORw0=" if kind == "image/png" else "<svg/>"
    output = new_output("display_data", data={kind: content})
    (tmp_path / "notebooks").mkdir()
    cells = [new_code_cell("show()", outputs=[output], metadata={"mystnb": told})]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks/04_trn.ipynb")
    gallery(tmp_path)
    text = (tmp_path / "book/_generated/pictures.md").read_text()
    name = text.partition("{figure} ")[2].splitlines()[0]
    assert (tmp_path / "book" / name).read_bytes() in (b"\x89PNG\r", b"<svg/>")
    assert ":alt: Images.\n" in text
    assert "Seen. From [its page]" in text
