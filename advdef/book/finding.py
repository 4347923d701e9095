"""The first thing that the site says: one sentence and one picture, made from the record that compares the defences."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from advdef.book.cards import comparison_of, difference_at
from advdef.book.markup import raw
from advdef.book.records import Record, three_attacker_rows
from advdef.evaluation.threats import ATTACKERS, Threat
from advdef.papers import PAPERS

__all__ = ["finding"]

_ROWS = {"undefended": "no defence", "AT": "adversarial training"} | {
    form: paper.title + ("" if paper.title == form else f" ({form})")
    for paper in PAPERS
    for form in paper.forms or (paper.defence,)
}
_LEFT, _RIGHT, _TOP, _STEP = 12, 346, 26, 46  # of the axis, in units of the picture
_WIDTH = 368
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}


def finding(records: Iterable[Record], cards: Mapping[str, Mapping[str, Any]]) -> str:
    """What the comparison found: a sentence, a picture with its legend, and what the picture is of."""
    if not cards:
        return "No run has compared the defences yet.\n"
    comparison = comparison_of(records)
    found, run = three_attacker_rows(comparison), comparison["provenance"]
    eps = max(eps for _, _, eps in found)
    rows = {name: found[name, model, eps] for name in _ROWS for _, model, _ in found if (name, model, eps) in found}
    images = next(iter(rows.values()))["adaptive"]["n"]
    legend = "".join(
        f'<span class="{kind}">{mark}</span> {html.escape(text)} &nbsp; '
        for kind, mark, text in (
            ("oblivious", "○", "ignores the defence"), ("direct", "□", "follows its gradient"),
            ("adaptive", "◆", "knows it, with its 95 % interval"),
        )
    )  # fmt: skip
    about = (
        f"Images still right under attack: {comparison['dataset']}, {images} test images, eps {eps:.3g} of the range "
        f"of a pixel, one trained network each (seed {run['seed']})"
    )
    picture = (
        f'<figure class="finding">{_picture(rows)}<figcaption>{legend}<br>{html.escape(about)}.</figcaption></figure>\n'
    )
    return f"{_sentence(cards, comparison, images)}\n\n{raw(picture)}"


def _sentence(cards: Mapping[str, Mapping[str, Any]], comparison: Record, images: int) -> str:
    better = [card["defence"] for card in cards.values() if card["flags"]["better_than_adversarial_training"]]
    pairs = [(card["defence"], point["eps"]) for card in cards.values() for point in card["curve"]]
    adaptive = {"threat": "adaptive"}
    leads = [
        difference_at(comparison, eps, {"defence": d} | adaptive, {"defence": "AT"} | adaptive) for d, eps in pairs
    ]
    unknown = sum(lead["low"] <= 0 <= lead["high"] for lead in leads)
    count = _COUNTS.get(len(cards), str(len(cards)))
    none = f"None of the {count} defences was seen to beat adversarial training."
    some = f"{' and '.join(better)} beat{'s' if len(better) == 1 else ''} adversarial training at some budget."
    rest = f" In {unknown} of {len(leads)} comparisons the interval cannot tell." if unknown else ""

    def lost(card: Mapping[str, Any]) -> float:
        return float(card["ours"]["oblivious"]["accuracy"] - card["ours"]["adaptive"]["accuracy"])

    worst = max(cards.values(), key=lost)
    before, after = (100 * worst["ours"][threat]["accuracy"] for threat in ("oblivious", "adaptive"))
    return (
        f"**{some if better else none}**{rest} {worst['defence']} keeps {before:.0f} % of {images} images right "
        f"against an attacker who does not know of it, and {after:.0f} % once the attacker does."
    )


def _picture(rows: Mapping[str, Mapping[Threat, Mapping[str, Any]]]) -> str:
    """A line per defence, from what the weakest attacker leaves to what the strongest one does."""
    height = _TOP + _STEP * len(rows) + 22
    parts = []
    for percent in (0, 25, 50, 75, 100):
        x = _x(percent / 100)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{height - 22}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}">{percent} %</text>')
    told = []
    for number, (name, found) in enumerate(rows.items()):
        y = _TOP + _STEP * number + 32
        values = {threat: found[threat]["accuracy"] for threat in ATTACKERS}
        parts.append(f'<text class="name" x="{_LEFT}" y="{y - 14}">{html.escape(_ROWS[name])}</text>')
        parts.append(f'<path class="gap" d="M{_x(min(values.values())):.1f} {y}H{_x(max(values.values())):.1f}"/>')
        low, high = found["adaptive"]["low"], found["adaptive"]["high"]
        parts.append(f'<path class="interval" d="M{_x(low):.1f} {y}H{_x(high):.1f}"/>')
        parts.append(f'<circle class="oblivious" cx="{_x(values["oblivious"]):.1f}" cy="{y}" r="5"/>')
        parts.append(f'<rect class="direct" x="{_x(values["direct"]) - 4:.1f}" y="{y - 4}" width="8" height="8"/>')
        parts.append(f'<path class="adaptive" d="M{_x(values["adaptive"]):.1f} {y - 6}l6 6l-6 6l-6 -6z"/>')
        parts.append(f'<text class="value" x="{_RIGHT}" y="{y - 14}">{100 * values["adaptive"]:.0f} %</text>')
        told.append(f"{_ROWS[name]} {', '.join(f'{threat} {100 * share:.0f} %' for threat, share in values.items())}")
    label = html.escape(f"Images still right under three attackers: {'; '.join(told)}")
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img"><title>{label}</title>{"".join(parts)}</svg>'


def _x(share: float) -> float:
    return _LEFT + share * (_RIGHT - _LEFT)
