"""Curves from which values can be read: by mouse, by keyboard, and one by one where many lie together."""

from __future__ import annotations

import html
from collections.abc import Mapping

from advdef.book.markup import budget, in_percent, raw, unrounded
from advdef.book.records import Record
from advdef.data.titles import data_name
from advdef.evaluation.results import WORST_CASE, Row
from advdef.evaluation.threats import ATTACKERS, Threat
from advdef.plotting import COLOURS

__all__ = ["readable_curves"]

_Curves = Mapping[str, Mapping[Threat, Mapping[float, Row]]]

_KNOWS = {"oblivious": "ignores the defence", "direct": "follows its gradient", "adaptive": "knows the defence"}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 250, 180, 34, 230, 8, 156  # in units of a panel
_APART = 38  # so far from each other are the names of budgets
_OTHERS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#7f7f7f")
_MARKS = ("M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", "M-3 -3h6v6h-6z", "M0 -4l4 4l-4 4l-4 -4z", "M0 -4l4 7h-8z")


def readable_curves(record: Record) -> str:
    """What three attackers left of each defence by budget, as an interactive picture in Markdown.

    ``book/_static/curves.js`` reads values out and hides defences. "" where no defence met two budgets.
    """
    rows = _curves(record)
    if not rows:
        return ""
    looks = {name: _look(name, number) for number, name in enumerate(rows)}
    largest = max(eps for by_threat in rows.values() for found in by_threat.values() for eps in found)
    panels = "".join(_panel(threat, rows, looks, largest) for threat in ATTACKERS)
    legend = "".join(
        f'<span data-defence="{number}"><svg viewBox="-8 -5 16 10" aria-hidden="true">'
        f'<g style="--line: {colour}"><path class="line" d="M-8 0H8"/><path d="{mark}"/></g></svg>'
        f"{html.escape(name)}</span> "
        for number, (name, (colour, mark)) in enumerate(looks.items())
    )
    about = (
        f"The curves of {data_name(record['dataset'])} to read values from: robust accuracy against eps, with 95 % "
        "intervals. Point at a panel, or go to it with the tab key and from point to point with the arrows."
    )
    return raw(
        f'<figure class="curves"><div class="legend">{legend}</div><div class="panels">{panels}</div>'
        f'<p class="readout" role="status"></p><figcaption>{html.escape(about)}</figcaption></figure>\n'
        '<script defer src="../_static/curves.js"></script>\n'
    )


def _curves(record: Record) -> _Curves:
    """Worst cases of the first seed by defence, attacker and budget, where a defence met several budgets."""
    seed = record["provenance"]["seed"]
    rows = [
        r for r in record["results"] if r["attack"] == WORST_CASE and r["seed"] == seed and r["threat"] in ATTACKERS
    ]
    part = next((part for part in ("curve", "worst") if any(row["part"] == part for row in rows)), "")
    rows = [row for row in rows if row["part"] == part]
    models, found = {row["model"] for row in rows}, dict[str, dict[Threat, dict[float, Row]]]()
    for row in sorted(rows, key=lambda row: row["eps"]):
        name = row["defence"] if len(models) == 1 else f"{row['defence']}, {row['model']}"
        found.setdefault(name, {}).setdefault(row["threat"], {})[row["eps"]] = row
    return {name: curves for name, curves in found.items() if max(map(len, curves.values())) > 1}


def _look(name: str, number: int) -> tuple[str, str]:
    """Colour and mark of a defence; black is the colour of text, so that both themes show it."""
    colour = COLOURS.get(name, _OTHERS[number % len(_OTHERS)])
    return "currentColor" if colour == "#000000" else colour, _MARKS[number % len(_MARKS)]


def _panel(threat: Threat, rows: _Curves, looks: Mapping[str, tuple[str, str]], largest: float) -> str:
    def x(eps: float) -> float:
        return _LEFT + eps / largest * (_RIGHT - _LEFT)

    def y(share: float) -> float:
        return _BOTTOM - share * (_BOTTOM - _TOP)

    parts, told = list[str](), list[str]()
    for percent in (0, 25, 50, 75, 100):
        level = y(percent / 100)
        parts.append(f'<path class="grid" d="M{_LEFT} {level:.0f}H{_RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 4}" y="{level + 4:.0f}">{percent}</text>')
    here = {name: curves[threat] for name, curves in rows.items() if threat in curves}
    budgets = sorted({eps for found in here.values() for eps in found})
    if not budgets:
        return ""
    free = float(_WIDTH)
    for eps in reversed(budgets):
        if x(eps) + _APART / 2 <= free:
            parts.append(f'<text class="eps" x="{x(eps):.0f}" y="{_BOTTOM + 15}">{budget(eps)}</text>')
            free = x(eps) - _APART / 2
    for name, found in here.items():
        number, (colour, mark) = list(rows).index(name), looks[name]
        line = "L".join(f"{x(eps):.1f} {y(row['accuracy']):.1f}" for eps, row in found.items())
        bars = "".join(f"M{x(eps):.1f} {y(row['low']):.1f}V{y(row['high']):.1f}" for eps, row in found.items())
        points = "".join(
            f'<path class="point" d="{mark}" transform="translate({x(eps):.1f} {y(row["accuracy"]):.1f})" '
            f'data-told="{html.escape(_told(name, eps, row))}"/>'
            for eps, row in found.items()
        )
        parts.append(
            f'<g data-defence="{number}" style="--line: {colour}"><path class="line" d="M{line}"/>'
            f'<path class="bar" d="{bars}"/>{points}</g>'
        )
        ends = [f"{in_percent(unrounded(row).value)} %" for row in found.values()]
        told.append(f"{name} {ends[0]} to {ends[-1]}")
    title = html.escape(
        f"An attacker who {_KNOWS[threat]}, eps {budget(budgets[0])} to {budget(largest)}: {'; '.join(told)}"
    )
    return (
        f'<div><b>{threat}</b><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" tabindex="0"><title>{title}</title>'
        f"{''.join(parts)}</svg></div>"
    )


def _told(name: str, eps: float, row: Row) -> str:
    share, _, interval = f"{unrounded(row)}".partition(" ")
    return (
        f"{name}, eps {budget(eps)}: {share}\u00a0% {interval} of {row['n']} images right under an "
        f"attacker who {_KNOWS[row['threat']]}"
    )
