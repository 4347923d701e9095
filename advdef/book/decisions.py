"""What the site says of claims, made from records when it is rendered: every verdict, and how each is decided."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from advdef.book.markup import raw, rows_of
from advdef.book.records import Record, Scale, scale
from advdef.claims import SOURCES, Claim, Condition, VerdictWord, all_claims, badge, expected_wrong
from advdef.data.titles import data_name, data_named
from advdef.papers import PAPERS, how_decided

__all__ = ["Chapter", "claim_card", "matrix", "rules_page", "verdicts_page"]

_WORDS: tuple[VerdictWord, ...] = get_args(VerdictWord)
_PAGES = {claim.paper for claim in all_claims()}
_ATTACKERS = {
    "oblivious": "attacker ignores the defence",
    "direct": "attacker follows its gradient",
    "adaptive": "attacker knows the defence",
}


@dataclass(frozen=True)
class Chapter:
    """A notebook on the site: its paper, its file's stem and its title."""

    paper: str
    stem: str
    title: str


def matrix(records: Sequence[Record], chapters: Sequence[Chapter], *, page: str = "") -> str:
    """How many verdicts have which word, and a table of claims by data sets for each page.

    Claims lead to where they stand on ``page``, by default on the one that shows the table.
    """
    shown = _decided(records, chapters)
    if not shown:
        return "No run has decided a claim yet.\n"
    every = [verdict for found in shown.values() for record in found for verdict in record["verdicts"]]
    return "\n".join([_counted(every), *(_matrix(chapter, found, page) for chapter, found in shown.items())])


def verdicts_page(records: Sequence[Record], chapters: Sequence[Chapter]) -> str:
    """Each claim with what every run decided."""
    parts = []
    for chapter, found in _decided(records, chapters).items():
        claims = [_claim(claim, found, chapter) for claim in _claims(found)]
        parts.append(f"({_label(chapter)})=\n## {html.escape(chapter.title)}\n\n{raw(''.join(claims))}")
    return "\n".join(parts)


def _decided(records: Sequence[Record], chapters: Sequence[Chapter]) -> dict[Chapter, list[Record]]:
    """The records with verdicts, by page."""
    by_page = {chapter: [r for r in records if r["paper"] == chapter.paper and r["verdicts"]] for chapter in chapters}
    return {chapter: found for chapter, found in by_page.items() if found}


def rules_page() -> str:
    """Each claim with its rule, and with what an earlier rule was and why it was changed."""
    parts = []
    for paper in PAPERS:
        rules = how_decided(paper.id)
        parts.append(f"## {paper.title}\n\n{raw(''.join(_rule(claim, rules) for claim in _of(paper.id)))}")
    return "\n".join(parts)


def _of(paper: str) -> list[Claim]:
    return [claim for claim in all_claims() if claim.paper == paper]


def _rule(claim: Claim, rules: Mapping[str, str]) -> str:
    changes = "".join(
        f"<li><strong>Until {html.escape(str(change['date']))}:</strong> {html.escape(change['was'])} "
        f"<strong>Why it changed:</strong> {html.escape(change['why'])}</li>"
        for change in claim.changes
    )
    return (
        f'<section class="claim" id="{claim.id.lower()}">{_sentence(claim)}<p>{html.escape(rules[claim.id])}</p>'
        f"{f'<ul>{changes}</ul>' if changes else ''}</section>\n"
    )


def _counted(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many verdicts have which word, and how many of them chance may have got wrong."""
    counts = Counter(verdict["verdict"] for verdict in verdicts)
    told = ", ".join(f'<span class="pair">{badge(word)} {counts[word]}</span>' for word in _WORDS if counts[word])
    wrong = expected_wrong([verdict["verdict"] for verdict in verdicts if not verdict.get("old_rules")])
    old = sum(bool(verdict.get("old_rules")) for verdict in verdicts)
    why = f" {old} of the undecided (°) are of runs that did not measure what today's rules ask for." if old else ""
    chance = f"Of the decided ones, the choice of images and networks would make at most {wrong:.1f} wrong on average."
    return raw(f"<p>{told}. {chance}{why}</p>\n")


def _matrix(chapter: Chapter, records: Sequence[Record], page: str) -> str:
    """Claims by data sets; each word links to the section of the notebook that decides it."""
    head = ["claim", *(_name(record) for record in records)]
    lines = []
    for claim in _claims(records):
        id = html.escape(claim.id)
        cells = [f'<a href="{page}#{id.lower()}">{id}</a> {html.escape(claim.sentence)}']
        for record in records:
            found = next((v for v in record["verdicts"] if v["claim"] == claim.id), None)
            if found is None or found["verdict"] == "not testable here":
                cells.append('<span title="not testable here">–</span>' if found else "")
                continue
            mark = '<small title="recorded under earlier rules">°</small>' if found.get("old_rules") else ""
            cells.append(f'<a href="{_section(claim, chapter)}">{badge(found["verdict"])}</a>{mark}')
        lines.append(cells)
    return rows_of(chapter.title.partition(":")[0], head, lines, kind="results matrix")


def _name(record: Record) -> str:
    """The data set's name in prose, as HTML."""
    return html.escape(data_name(record["dataset"]))


def _claims(records: Iterable[Record]) -> list[Claim]:
    """The claims that records decide, in the order of ``claims.yml``; others as the records tell of them."""
    told = {verdict["claim"]: verdict for record in records for verdict in record["verdicts"]}
    known = {claim.id: claim for claim in all_claims()}
    others = [id for id in told if id not in known]
    unknown = {id: Claim(id, "", told[id]["sentence"], told[id]["source"], "The record does not say.") for id in others}
    return [*(claim for id, claim in known.items() if id in told), *unknown.values()]


def _claim(claim: Claim, records: Sequence[Record], chapter: Chapter) -> str:
    """What all runs decided about a claim."""
    decided = [(v, r["dataset"], scale(r)) for r in records for v in r["verdicts"] if v["claim"] == claim.id]
    link = f'<p><a href="{_section(claim, chapter)}">{html.escape(claim.id)} on its page</a></p>'
    return claim_card(claim, decided, link)


def claim_card(claim: Claim, decided: Iterable[tuple[Mapping[str, Any], str, Scale]], more: str = "") -> str:
    """A claim with what was decided of it, as HTML: for each data set the verdict as recorded and the run's scale.

    Beside each word stand attacker, scale and sample; conditions and rule are folded away. ``more`` is HTML at the end.
    """
    id = html.escape(claim.id)
    rule = how_decided(claim.paper).get(claim.id, "") if claim.paper in _PAGES else claim.decided_by
    decisions = "".join(_decision(claim, *found) for found in decided)
    return (
        f'<section class="claim" id="{id.lower()}">{_sentence(claim)}<ul>{decisions}</ul>'
        f"<details><summary>How {id} is decided</summary><p>{html.escape(rule)}</p></details>{more}</section>\n"
    )


def _sentence(claim: Claim) -> str:
    told = html.escape(claim.sentence)
    return f"<p><strong>{html.escape(claim.id)}</strong> {told} <em>[{SOURCES[claim.source]}]</em></p>"


def _section(claim: Claim, chapter: Chapter) -> str:
    return f"../notebooks/{chapter.stem}.html#{claim.section}"


def _label(chapter: Chapter) -> str:
    return chapter.paper.replace("_", "-")


def _decision(claim: Claim, verdict: Mapping[str, Any], dataset: str, size: Scale) -> str:
    """A word with its chips, the sentence that gives it, and all conditions folded away."""
    name = html.escape(data_name(dataset))
    chips = [f"{size} scale"]
    if verdict["verdict"] != "not testable here":
        counts = {unit: verdict[unit] for unit in ("images", "seeds") if verdict[unit]}
        chips.insert(0, _ATTACKERS.get(verdict["attacker"], ""))
        chips += [f"{count:,} {unit if count > 1 else unit[:-1]}" for unit, count in counts.items()]
    if verdict.get("old_rules"):
        chips.append("recorded under the old rules")
    told = "".join(f'<span class="chip">{html.escape(chip)}</span> ' for chip in chips if chip)
    head = f"{badge(verdict['verdict'])} <strong>{name}</strong> {told}"
    conditions = [Condition.from_record(condition) for condition in verdict["conditions"]]
    listed = ""
    if len(conditions) > 1:
        lines = (f"{c.case}: {c.told}" if c.case else c.told for c in conditions)
        where = f"{html.escape(verdict['claim'])}, {name}"
        listed = "".join(f"<li>{html.escape(data_named(line))}</li>" for line in lines)
        listed = f"<details><summary>{len(conditions)} conditions ({where})</summary><ul>{listed}</ul></details>"
    why = claim.decided_by if claim.decided_by.startswith("Not decided here") else verdict["evidence"]
    return f"<li>{head}<br>{html.escape(data_named(why))}{listed}</li>"
