"""The picture that a link to the site shows elsewhere: what three attackers left, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advdef.book.dumbbells import ByThreat
from advdef.book.markup import in_percent, unrounded
from advdef.evaluation.threats import ATTACKERS

__all__ = ["preview"]

_MARKS = {"oblivious": ("o", "#0072b2"), "direct": ("s", "#b26a00"), "adaptive": ("D", "#000000")}


def preview(rows: Sequence[tuple[str, ByThreat]], title: str, path: Path) -> None:
    """Draw the rows into a PNG of 1200 x 630 pixels, as :func:`~advdef.book.dumbbells.dumbbells` does for pages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.3), dpi=100, layout="constrained")
    axes = figure.subplots()
    for line, (_, found) in enumerate(rows):
        shares = [100 * found[threat]["accuracy"] for threat in ATTACKERS]
        axes.plot([min(shares), max(shares)], [line, line], color="#d55e00", alpha=0.35, lw=12, solid_capstyle="butt")
        for threat, share in zip(ATTACKERS, shares, strict=True):
            mark, colour = _MARKS[threat]
            axes.plot(share, line, mark, color=colour, ms=13, mfc=colour if threat == "adaptive" else "white", mew=3)
        axes.text(
            103, line, f"{in_percent(unrounded(found['adaptive']).value)} %", fontsize=20, va="center", weight="bold"
        )
    axes.set(xlim=(-3, 112), ylim=(len(rows) - 0.4, -0.6), xticks=range(0, 101, 25))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=18)
    axes.set_xticklabels([f"{percent} %" for percent in range(0, 101, 25)], fontsize=16)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title, fontsize=20, loc="left", pad=16)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
