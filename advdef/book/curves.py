"""Curves from which values can be read: by mouse, by keyboard, and one by one where many lie together."""

from __future__ import annotations

import html
from collections.abc import Mapping

from advdef.book.markup import budget, in_percent, raw, unrounded
from advdef.book.records import Record
from advdef.data.titles import data_name
from advdef.evaluation.results import WORST_CASE, Row
from advdef.evaluation.threats import ATTACKERS, Threat
from advdef.plotting import look

__all__ = ["curve_rows", "readable_curves"]

_Curves = Mapping[str, Mapping[Threat, Mapping[float, Row]]]

_KNOWS = {"oblivious": "ignores the defence", "direct": "follows its gradient", "adaptive": "knows the defence"}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 250, 180, 34, 230, 8, 156  # in units of a panel
_APART = 38  # so far from each other are the names of budgets
_MARKS = {
    "o": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", "s": "M-3 -3h6v6h-6z", "D": "M0 -4l4 4l-4 4l-4 -4z",
    "^": "M0 -4l4 7h-8z", "v": "M0 4l-4 -7h8z",
    "P": "M-1.3 -4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
    "X": "M-2 -4l2 2l2 -2l2 2l-2 2l2 2l-2 2l-2 -2l-2 2l-2 -2l2 -2l-2 -2z",
    "*": "M0 -4.8L1.1 -1.5H4.6L1.8 .6L2.8 3.9L0 1.9L-2.8 3.9L-1.8 .6L-4.6 -1.5H-1.1z",
}  # fmt: skip
"""Outlines of matplotlib's markers, so that a defence has the same one here and in a figure of the notebook."""


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


def curve_rows(record: Record) -> list[Row]:
    """The rows that a record's curves show: worst cases of its first seed, of the defences that met several budgets.

    Those of the part "curve", and of "worst" at budgets that it leaves out; where there is no such part, of "worst".
    """
    seed = record["provenance"]["seed"]
    rows = [
        r for r in record["results"] if r["attack"] == WORST_CASE and r["seed"] == seed and r["threat"] in ATTACKERS
    ]
    parts = [[row for row in rows if row["part"] == part] for part in ("curve", "worst")]
    drawn = {(row["defence"], row["model"]) for row in next(filter(None, parts), ())}
    found: dict[tuple[str, str], dict[tuple[Threat, float], Row]] = {}
    for row in (row for part in parts for row in part if (row["defence"], row["model"]) in drawn):
        found.setdefault((row["defence"], row["model"]), {}).setdefault((row["threat"], row["eps"]), row)
    several = (cases for cases in found.values() if len({eps for _, eps in cases}) > 1)
    return [row for cases in several for row in cases.values()]


def _curves(record: Record) -> _Curves:
    """The rows of the curves by defence, attacker and budget."""
    rows = curve_rows(record)
    models, found = {row["model"] for row in rows}, dict[str, dict[Threat, dict[float, Row]]]()
    for row in rows:
        name = row["defence"] if len(models) == 1 else f"{row['defence']}, {row['model']}"
        found.setdefault(name, {}).setdefault(row["threat"], {})[row["eps"]] = row
    return {name: {t: dict(sorted(by_eps.items())) for t, by_eps in found[name].items()} for name in found}


def _look(name: str, number: int) -> tuple[str, str]:
    """Colour and mark of a defence; black is the colour of text, so that both themes show it."""
    colour, marker = look(name, number)
    return "currentColor" if colour == "#000000" else colour, _MARKS[marker]


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
