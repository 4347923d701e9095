"""The first thing that the site says: a sentence, a picture and a table, from the record that compares the defences."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from advdef.book.cards import comparison_of, difference_at, form_cards
from advdef.book.dumbbells import ByThreat, dumbbells
from advdef.book.markup import as_text, in_percent, raw, rows_of, share, unrounded
from advdef.book.records import COMPARISON, Record, scale, three_attacker_rows
from advdef.data.titles import data_name
from advdef.evaluation.threats import ATTACKERS
from advdef.papers import PAPERS

__all__ = ["ROW_NAMES", "compared", "finding", "headline", "limits"]

ROW_NAMES = {"undefended": "no defence", "AT": "adversarial training"} | {
    form: paper.title + ("" if paper.title == form else f" ({form})")
    for paper in PAPERS
    for form in paper.forms or (paper.defence,)
}
"""What the first page calls the defences of the comparison, in order."""

_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}
_NAMED = 3  # comparisons that are named one by one
_NONE = "No run has compared the defences yet.\n"


def compared(records: Sequence[Record]) -> list[tuple[str, ByThreat]]:
    """The defences and their references as the first page names them, at the largest budget; none without a record."""
    if not any(record["paper"] == COMPARISON for record in records):
        return []
    return [(ROW_NAMES[name], found) for name, found in _rows(comparison_of(records))[0].items()]


def finding(records: Sequence[Record], cards: Mapping[str, Mapping[str, Any]]) -> str:
    """What the comparison found: a sentence, a picture with its legend, and what the picture is of."""
    if not cards:
        return _NONE
    comparison = comparison_of(records)
    rows, eps = _rows(comparison)
    images, seed = next(iter(rows.values()))["adaptive"]["n"], comparison["provenance"]["seed"]
    about = (
        f"Images still right under attack: {data_name(comparison['dataset'])}, {images} test images, with 95 % "
        f"intervals. A pixel may change by {eps:.3g} of its range; one trained network each (seed {seed})."
    )
    picture = dumbbells([("", compared(records))], about)
    return f"{_sentence(cards, form_cards(records), comparison, images)}\n\n{raw(picture)}"


def headline(records: Sequence[Record], cards: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparison as a table of four columns, with a link to the page of each defence."""
    if not cards:
        return _NONE
    comparison = comparison_of(records)
    rows, eps = _rows(comparison)
    pages = {form: paper.notebook for paper in PAPERS for form in paper.forms or (paper.defence,)}
    lines = []
    for name, found in rows.items():
        clean = comparison["results"].one(part="clean", defence=name)
        label = html.escape(ROW_NAMES[name])
        link = f'<a href="../notebooks/{pages[name]}.html">{label}</a>' if name in pages else label
        lines.append([link, *(share(row) for row in (clean, found["adaptive"], found["oblivious"]))])
    head = ["defence", "clean %", "adaptive %", "oblivious %"]
    about = f"Images right, of {data_name(comparison['dataset'])}, eps {eps:.3g}, with 95 % intervals"
    return rows_of(about, head, lines)


def limits(records: Sequence[Record]) -> str:
    """How large the runs behind the numbers are, in one sentence of Markdown."""
    if not any(record["paper"] == COMPARISON for record in records):
        return _NONE
    comparison = comparison_of(records)
    rows, _ = _rows(comparison)
    sizes = [network["parameters"] for network in comparison["networks"]]
    network = f", on a network of {max(sizes):,} trained numbers" if sizes else ""
    attacked = [found["adaptive"]["n"] for record in records for found in three_attacker_rows(record).values()]
    images = next(iter(rows.values()))["adaptive"]["n"]
    kinds = sorted({scale(record) for record in records}, key=("toy", "small", "paper").index)
    verdicts = [verdict for record in records for verdict in record["verdicts"]]
    undecided = [verdict for verdict in verdicts if verdict["verdict"] == "undecided"]
    old = sum(bool(verdict.get("old_rules")) for verdict in undecided)
    why = f", {old} of them as the run did not measure what today's rules ask for" if old else ""
    return (
        f"The comparison above attacked {images:,} images{network}; this book's pages on the papers attacked "
        f"{min(attacked):,} to {max(attacked):,} with all three attackers. In the words of "
        f"[the verdicts](verdicts.md), the runs are of *{'* and *'.join(kinds)}* scale, and of {len(verdicts)} "
        f"verdicts {len(undecided)} are undecided{why}. [](status.md) lists the runs.\n"
    )


def _rows(comparison: Record) -> tuple[Mapping[str, ByThreat], float]:
    """The defences in their order, at the largest budget."""
    found = three_attacker_rows(comparison)
    eps = max(eps for _, _, eps in found)
    rows = {name: found[name, model, eps] for name in ROW_NAMES for _, model, _ in found if (name, model, eps) in found}
    return rows, eps


def _sentence(
    cards: Mapping[str, Mapping[str, Any]], forms: Mapping[str, Mapping[str, Any]], comparison: Record, images: int
) -> str:
    better = [name for name, card in forms.items() if card["flags"]["better_than_adversarial_training"]]
    pairs = [(name, point["eps"]) for name, card in forms.items() for point in card["curve"]]
    adaptive = {"threat": "adaptive"}
    leads = [
        difference_at(comparison, eps, {"defence": d} | adaptive, {"defence": "AT"} | adaptive) for d, eps in pairs
    ]
    unknown = [
        f"{d} at {eps:.3g}" for (d, eps), lead in zip(pairs, leads, strict=True) if lead["low"] <= 0 <= lead["high"]
    ]
    count = _COUNTS.get(len(cards), str(len(cards)))
    on = f"On {as_text(data_name(comparison['dataset']))}, "
    none = f"{on}none of the {count} defences was seen to beat adversarial training."
    some = f"{on}{' and '.join(better)} beat{'s' if len(better) == 1 else ''} adversarial training at some budget."
    which = f": {', '.join(unknown)}" if len(unknown) <= _NAMED else ""
    budgets = len({eps for _, eps in pairs})
    more = f" in {_COUNTS.get(len(forms), len(forms))} forms" if len(forms) > len(cards) else ""
    of = f"{len(leads)} comparisons ({count} defences{more}, {_COUNTS.get(budgets, budgets)} budgets)"
    rest = f" In {len(unknown)} of {of} the interval cannot tell{which}." if unknown else ""

    def lost(card: Mapping[str, Any]) -> float:
        return float(card["ours"]["oblivious"]["accuracy"] - card["ours"]["adaptive"]["accuracy"])

    worst = max(cards.values(), key=lost)
    before, direct, after = (in_percent(unrounded(worst["ours"][threat]).value) for threat in ATTACKERS)
    then = "already against one who follows its gradient" if direct == after else "once the attacker does"
    return (
        f"**{some if better else none}**{rest} {as_text(worst['defence'])} keeps {before}\u00a0% of {images} "
        f"images right against an attacker who does not know of it, and {after}\u00a0% {then}."
    )
