"""What a page of results says first and last, made from its records when the site is rendered."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from advdef.book.dumbbells import ByThreat, dumbbells
from advdef.book.endings import ENDINGS, library_comparisons, share_in_words
from advdef.book.markup import as_text, budget, data_name, raw
from advdef.book.records import COMPARISON, Record, three_attacker_rows
from advdef.claims import VerdictWord, badge
from advdef.evaluation.results import WORST_CASE
from advdef.evaluation.threats import ATTACKERS
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
    if paper in _OTHERS:
        return _box(*_OTHERS[paper](mine[0]))
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
    by_word: dict[str, dict[str, list[str]]] = {}
    sentences = {}
    for record in (record for record in records if record["paper"] == paper):
        for verdict in record["verdicts"]:
            sentences[verdict["claim"]] = verdict["sentence"]
            found = by_word.setdefault(verdict["verdict"], {})
            found.setdefault(verdict["claim"], []).append(data_name(record["dataset"]))
    parts = []
    for word, lead in _LEAD.items():
        if word in by_word:
            lines = (_claim(id, sentences[id], names) for id, names in by_word[word].items())
            parts.append(f"<p>{badge(word)} {lead}</p><ul>{''.join(lines)}</ul>")  # type: ignore[arg-type]
    untested = [id for id in by_word.get("not testable here", {}) if not any(id in by_word.get(w, {}) for w in _LEAD)]
    if untested:
        parts.append(f"<p>Not testable here: {html.escape(', '.join(untested))}.</p>")
    about = "A verdict is about our reconstruction on our data. Each claim leads to the numbers behind its word."
    return f"## Conclusion\n\n{raw(''.join(parts))}\n{about}\n" if parts else ""


def _claim(id: str, sentence: str, datasets: Sequence[str]) -> str:
    where = html.escape(f"{id} ({', '.join(datasets)})")
    return f'<li><a href="../book/verdicts.html#{html.escape(id.lower())}">{where}</a>: {html.escape(sentence)}</li>'


def _box(*paragraphs: str) -> str:
    said = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    if not said:
        return ""
    return f"::::{{admonition}} In short\n:class: tip in-short\n\n{said}\n\n::::\n"


def _counted(records: Sequence[Record], page: str = "") -> str:
    """How many verdicts have which word, with a link to them."""
    every = [verdict for record in records for verdict in record["verdicts"]]
    counts = Counter(verdict["verdict"] for verdict in every)
    told = " ".join(f"{badge(word)} {counts[word]}" for word in _WORDS if counts[word])
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
    names = {paper.undefended: "no defence", paper.adversarial: "adversarial training", paper.own: _own(paper)}
    rows = {told: worst[k, model, budgets[-1]] for k, told in names.items() if (k, model, budgets[-1]) in worst}
    smallest = worst[paper.own, model, budgets[0]]["adaptive"]["accuracy"]
    return _Shown(data_name(record["dataset"]), budgets[-1], rows, (budgets[0], smallest) if budgets[1:] else None)


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
        few = f" Against one who knows it, {100 * left:.0f}\u00a0% stay right at eps {budget(smallest)}."
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


def _broken(record: Record) -> list[str]:
    """What the page of planted faults found."""
    rows = [(defence, found) for (defence, _, _), found in three_attacker_rows(record).items()]
    planted = [found for defence, found in rows if defence != "honest"]
    if not planted:
        return []
    apparent, true = (max(found[t]["accuracy"] for found in planted) for t in ("direct", "adaptive"))
    images = planted[0]["direct"]["n"]
    said = (
        f"Behind a planted fault, a network without any defence seems to keep up to **{100 * apparent:.0f}\u00a0%** of "
        f"{images} images right under an ordinary attack. An attacker who knows the fault leaves at most "
        f"**{100 * true:.0f}\u00a0%**. The checks on this page are there to tell the two apart."
    )
    about = f"Images still right: {data_name(record['dataset'])}, one network, alone (honest) and behind faults."
    return [said, raw(dumbbells([("", rows)], about))]


def _agreement(record: Record) -> list[str]:
    """What the page that compares attacks with other libraries' found."""
    found = library_comparisons(record)
    weaker, stronger = (sum(c["low"] > 0 for c in found), sum(c["high"] < 0 for c in found))
    if not found:
        return []
    return [
        f"In **{len(found) - weaker - stronger} of {len(found)}** comparisons with the same attack of another library, "
        f"no difference was seen: the 95\u00a0% interval of the paired difference contains zero. In {stronger} ours "
        f"left fewer images right, in {weaker} more."
    ]


def _yours(record: Record) -> list[str]:
    """What the page for a reader's own network found of the one that it shows."""
    rows = [row for row in record["results"] if row["part"] == "judged" and row["defence"] == "undefended"]
    found = {row["threat"]: row for row in rows if row["attack"] == WORST_CASE}
    right = next((row for row in rows if row["threat"] == "clean"), None)
    if right is None or not set(ATTACKERS) <= set(found):
        return []
    return [
        f"The network shown here keeps **{share_in_words(right, short=True)}** of {right['n']} images right without an "
        f"attack and **{share_in_words(found['adaptive'])}** against all attacks at eps "
        f"{budget(found['adaptive']['eps'])}. Put yours in its place: a few lines give the "
        "same three attackers, the same intervals and the same checks."
    ]


_OTHERS = {"broken_on_purpose": _broken, "attack_agreement": _agreement, "your_classifier": _yours}
