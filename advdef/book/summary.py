"""What a page of results says first and last, made from its records when the site is rendered."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from advdef.book.dumbbells import ByThreat, dumbbells
from advdef.book.endings import ENDINGS, share_in_words
from advdef.book.markup import as_text, budget, in_percent, raw, unrounded
from advdef.book.openings import OPENINGS
from advdef.book.records import COMPARISON, Record, three_attacker_rows
from advdef.claims import VerdictWord, badge
from advdef.data.titles import data_name
from advdef.papers import PAPERS, Paper

__all__ = ["conclusion", "in_short", "papers_in_short", "shown_by_curves"]

_WORDS: tuple[VerdictWord, ...] = get_args(VerdictWord)
_LEAD = {
    "supported": "These runs support:",
    "mixed": "These runs support in some cases and contradict in others:",
    "contradicted": "These runs contradict:",
    "undecided": "These runs cannot tell about:",
}


@dataclass(frozen=True)
class _Shown:
    """What three attackers left of a paper's defence and its references on a data set, at the largest budget."""

    dataset: str
    eps: float
    rows: Mapping[str, ByThreat]
    least: tuple[float, float] | None  # the smallest of several budgets, and what the adaptive attacker left there


def in_short(paper: str, records: Sequence[Record], comparison: Sequence[str] = ()) -> str:
    """The first box on the page of a paper, in Markdown; "" where its records have nothing to say.

    It has a sentence for each data set, how many verdicts have which word, and the three attackers in a picture.
    ``comparison`` are the paragraphs of the page that compares the defences.
    """
    mine = [record for record in records if record["paper"] == paper]
    if not mine:
        return ""
    if paper == COMPARISON:
        return _box(*comparison)
    if paper in OPENINGS:
        return _box(*OPENINGS[paper](mine[0]))
    known = next((known for known in PAPERS if known.id == paper), None)
    shown = [found for record in mine if known and (found := _three(record, known))]
    told = [f"- {_told(_own(known), found)}" for found in shown if known]
    return _box("\n".join(told), _counted(mine), _picture(shown))


def papers_in_short(records: Sequence[Record]) -> str:
    """What the pages of the papers say first, one after the other, in Markdown; without the pictures."""
    parts = []
    for known in PAPERS:
        mine = [record for record in records if record["paper"] == known.id]
        told = [f"- {_told(_own(known), shown)}" for record in mine if (shown := _three(record, known))]
        if told:
            title = f"**[{known.title}](../notebooks/{known.notebook}.ipynb)**"
            parts += [title, "\n".join(told), _counted(mine, page=f"../notebooks/{known.notebook}.html")]
    return "\n\n".join(parts) + "\n" if parts else "No run has judged a paper yet.\n"


def shown_by_curves(paper: str, records: Sequence[Record]) -> str:
    """What a picture of a page's three attackers shows, in plain words: what the last one leaves at the largest budget.

    "" where the records have no such attackers.
    """
    told = []
    for record in (record for record in records if record["paper"] == paper):
        rows = three_attacker_rows(record)
        largest = {
            (defence, model): max(e for d, m, e in rows if (d, m) == (defence, model)) for defence, model, _ in rows
        }
        models = dict.fromkeys(model for _, model in largest)
        for model in models:
            left = [
                f"{name} {share_in_words(rows[name, model, eps]['adaptive'], short=True)}"
                for (name, its), eps in largest.items()
                if its == model
            ]
            most = max(eps for (_, its), eps in largest.items() if its == model)
            where = f"{data_name(record['dataset'])}{f', {model}' if len(models) > 1 else ''}, eps {budget(most)}"
            told.append(f"{where}: {', '.join(left)}")
    return f"Right against an attacker who knows the defence: {'; '.join(told)}." if told else ""


def conclusion(paper: str, records: Sequence[Record]) -> str:
    """The last section of a page, in Markdown: each claim of a paper under the word that its runs gave it.

    Pages that are about no paper say what their own runs found.
    """
    if paper in ENDINGS:
        endings = [said for record in records if record["paper"] == paper and (said := ENDINGS[paper](record))]
        return "\n\n".join(["## Conclusion", *endings]) + "\n" if endings else ""
    by_word: dict[str, dict[str, dict[str, str]]] = {}
    sentences = {}
    for record in (record for record in records if record["paper"] == paper):
        for verdict in record["verdicts"]:
            sentences[verdict["claim"]] = verdict["sentence"]
            found = by_word.setdefault(verdict["verdict"], {}).setdefault(verdict["claim"], {})
            found[data_name(record["dataset"])] = _number(verdict)
    parts = []
    for word, lead in _LEAD.items():
        if word in by_word:
            lines = (_claim(id, sentences[id], numbers) for id, numbers in by_word[word].items())
            parts.append(f"<p>{badge(word)} {lead}</p><ul>{''.join(lines)}</ul>")  # type: ignore[arg-type]
    untested = [id for id in by_word.get("not testable here", {}) if not any(id in by_word.get(w, {}) for w in _LEAD)]
    if untested:
        parts.append(f"<p>Not testable here: {html.escape(', '.join(untested))}.</p>")
    about = "A verdict is about our reconstruction on our data. Each claim leads to the numbers behind its word."
    return f"## Conclusion\n\n{raw(''.join(parts))}\n{about}\n" if parts else ""


def _claim(id: str, sentence: str, numbers: Mapping[str, str]) -> str:
    """A claim with the number that decided it by data set, where the run has one."""
    where, known = html.escape(f"{id} ({', '.join(numbers)})"), {name: told for name, told in numbers.items() if told}
    told = "; ".join(known.values() if len(numbers) == 1 else (f"{name}, {told}" for name, told in known.items()))
    more = f" <small>{html.escape(told)}</small>" if told else ""
    link = f'<a href="../book/verdicts.html#{html.escape(id.lower())}">{where}</a>'
    return f"<li>{link}: {html.escape(sentence)}{more}</li>"


def _number(verdict: Mapping[str, Any]) -> str:
    """What decided a verdict: the conditions that its evidence quotes, with their numbers; "" where it has none."""
    quoted = []
    for condition in verdict.get("conditions", ()):
        told, case = f"{condition['what']}: {condition.get('number', '')}", condition.get("case", "")
        if f"{told}, wanted" in verdict["evidence"]:
            quoted.append(f"{case}, {told}" if case and f"{case}: {told}" in verdict["evidence"] else told)
    return "; ".join(dict.fromkeys(quoted))


def _box(*paragraphs: str) -> str:
    said = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    if not said:
        return ""
    return f"::::{{admonition}} In short\n:class: tip in-short\n\n{said}\n\n::::\n"


def _counted(records: Sequence[Record], page: str = "") -> str:
    """How many verdicts have which word, with a link to them."""
    every = [verdict for record in records for verdict in record["verdicts"]]
    counts = Counter(verdict["verdict"] for verdict in every)
    told = " ".join(f'<span class="pair">{badge(word)} {counts[word]}</span>' for word in _WORDS if counts[word])
    old = sum(bool(verdict.get("old_rules")) for verdict in every)
    why = f" ({old} undecided, as the run did not measure what today's rules ask for)" if old else ""
    return raw(f'<p class="counts"><a href="{page}#verdicts">Verdicts</a>: {told}{why}</p>\n') if told else ""


def _three(record: Record, paper: Paper) -> _Shown | None:
    worst = three_attacker_rows(record)
    own = [(model, eps) for defence, model, eps in worst if defence == paper.own]
    if not own:
        return None
    model = own[0][0]
    budgets = sorted(eps for found, eps in own if found == model)
    claimed = {row["eps"] for row in record["results"] if row["part"] == "claims"}
    eps = max((eps for eps in budgets if eps in claimed), default=budgets[-1])  # the budget of the claims, if any
    names = {paper.undefended: "no defence", paper.adversarial: "adversarial training", paper.own: _own(paper)}
    rows = {told: worst[k, model, eps] for k, told in names.items() if (k, model, eps) in worst}
    smallest = unrounded(worst[paper.own, model, budgets[0]]["adaptive"]).value
    return _Shown(data_name(record["dataset"]), eps, rows, (budgets[0], smallest) if budgets[0] < eps else None)


def _own(paper: Paper) -> str:
    """The paper's defence, with its form where its page has several."""
    return paper.own if paper.own == paper.defence else f"{paper.defence} ({paper.own})"


def _told(own: str, shown: _Shown) -> str:
    mine = shown.rows[own]
    others = " and ".join(
        f"{share_in_words(found['adaptive'], short=True)} with {name}"
        for name, found in shown.rows.items()
        if name != own
    )
    few = ""
    if shown.least:
        smallest, left = shown.least
        few = f" Against one who knows it, {in_percent(left)}\u00a0% stay right at eps {budget(smallest)}."
    return (
        f"**{as_text(shown.dataset)}**, eps {budget(shown.eps)}: of {mine['adaptive']['n']} images, {as_text(own)} "
        f"keeps {share_in_words(mine['oblivious'], short=True)} right against an attacker who does not know of it and "
        f"**{share_in_words(mine['adaptive'])}** against one who does, who leaves {others}.{few}"
    )


def _picture(shown: Sequence[_Shown]) -> str:
    if not shown:
        return ""
    groups = [(f"{one.dataset}, eps {budget(one.eps)}", [*one.rows.items()]) for one in shown]
    return raw(dumbbells(groups, "Images still right under attack, with 95 % intervals."))
