"""One picture for what three attackers leave of several defences: a line for each, drawn when the site is rendered."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from advdef.book.markup import in_percent, unrounded
from advdef.evaluation.threats import ATTACKERS, Threat

__all__ = ["ByThreat", "dumbbells"]

ByThreat = Mapping[Threat, Mapping[str, Any]]
"""Worst-case rows of one defence, by attacker."""

_LEFT, _RIGHT, _WIDTH, _STEP, _HEAD = 12, 346, 368, 46, 24  # in units of the picture
_LEGEND = (
    ("oblivious", "○", "ignores the defence"),
    ("direct", "□", "follows its gradient"),
    ("adaptive", "◆", "knows the defence"),
)


def dumbbells(groups: Sequence[tuple[str, Sequence[tuple[str, ByThreat]]]], about: str) -> str:
    """A figure in HTML: groups of (name, rows) with a title each, "" for none, and a caption about what is drawn.

    From left to right is the share of images that are still right, of none to all. Each row has a mark and a 95 %
    interval for each attacker, and in numbers what the one who knows the defence leaves.
    """
    parts, told, y = list[str](), list[str](), 4
    for title, rows in groups:
        if title:
            y += _HEAD
            parts.append(f'<text class="group" x="{_LEFT}" y="{y - 6}">{html.escape(title)}</text>')
        for name, found in rows:
            parts += _row(name, found, y + 32)
            shares = ", ".join(f"{threat} {in_percent(unrounded(found[threat]).value)} %" for threat in ATTACKERS)
            told.append(f"{f'{title}, ' if title else ''}{name} {shares}")
            y += _STEP
    axis = []
    for percent in (0, 25, 50, 75, 100):
        x = _x(percent / 100)
        axis.append(f'<path class="grid" d="M{x:.1f} 8V{y + 2}"/>')
        axis.append(f'<text class="tick" x="{x:.1f}" y="{y + 16}">{percent} %</text>')
    label = html.escape(f"Images still right under three attackers: {'; '.join(told)}")
    legend = "".join(f'<span class="{kind}"><b>{mark}</b> {text}</span> ' for kind, mark, text in _LEGEND)
    return (
        f'<figure class="finding"><svg viewBox="0 0 {_WIDTH} {y + 20}" role="img"><title>{label}</title>'
        f"{''.join(axis)}{''.join(parts)}</svg>"
        f'<figcaption><span class="legend">An attacker who {legend}</span>{html.escape(about)}</figcaption></figure>\n'
    )


def _row(name: str, found: ByThreat, y: int) -> list[str]:
    exact = {threat: unrounded(found[threat]) for threat in ATTACKERS}
    values = {threat: interval.value for threat, interval in exact.items()}
    parts = [
        f'<text class="name" x="{_LEFT}" y="{y - 14}">{html.escape(name)}</text>',
        f'<text class="value" x="{_RIGHT}" y="{y - 14}">{in_percent(exact["adaptive"].value)} %</text>',
        f'<path class="gap" d="M{_x(min(values.values())):.1f} {y}H{_x(max(values.values())):.1f}"/>',
    ]
    parts += [
        f'<path class="interval {threat}" d="M{_x(found[threat]["low"]):.1f} {y}H{_x(found[threat]["high"]):.1f}"/>'
        for threat in ATTACKERS
    ]
    told = "; ".join(
        f"{threat} {in_percent(one.value)} % [{in_percent(one.low)}, {in_percent(one.high)}]"
        for threat, one in exact.items()
    )
    return [
        f"<g><title>{html.escape(f'{name}: {told}')}</title>",
        *parts,
        f'<circle class="oblivious" cx="{_x(values["oblivious"]):.1f}" cy="{y}" r="5"/>',
        f'<rect class="direct" x="{_x(values["direct"]) - 4:.1f}" y="{y - 4}" width="8" height="8"/>',
        f'<path class="adaptive" d="M{_x(values["adaptive"]):.1f} {y - 6}l6 6l-6 6l-6 -6z"/></g>',
    ]


def _x(share: float) -> float:
    return _LEFT + share * (_RIGHT - _LEFT)
