"""The figures of the page that compares our attacks with those of other libraries."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from advdef.peers.agreement import Comparison
from advdef.peers.budgets import Spent
from advdef.plotting import WIDTH, error_lengths, interval_line, percent_axis
from advdef.statistics import Interval, paired_difference, wilson

__all__ = ["ANOTHER_ALGORITHM", "ours_and_theirs", "passes_and_accuracy"]

ANOTHER_ALGORITHM = frozenset({("single pixel", "torchattacks"), ("universal", "art"), ("JSMA", "art")})
"""Attacks of other libraries that have the name of one of ours and find their images in another way."""

_COLOURS = {"foolbox": "#0072B2", "pyautoattack": "#D55E00", "torchattacks": "#009E73", "art": "#CC79A7"}
_DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2, 2, 2)))


def ours_and_theirs(found: Iterable[Sequence[Comparison]]) -> Figure:
    """Our robust accuracy against the peers', and the difference where both sides have the same algorithm.

    Bars are 95 % intervals over images; those of the difference are paired.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8), width_ratios=(1, 1.2))
    shown = [(c, c.theirs) for comparisons in found for c in comparisons if c.theirs is not None]
    same = [(c, _points(c.ours, theirs)) for c, theirs in shown if (c.attack, c.peer) not in ANOTHER_ALGORITHM]
    lines = list(dict.fromkeys(f"{c.attack} {c.norm}" for c, _ in same))
    left.axline((0, 0), slope=1, color="0.7", lw=1, zorder=0)
    right.axvspan(-1, 1, color="0.9", lw=0, zorder=0)
    for (peer, colour), marker in zip(_COLOURS.items(), "osD^", strict=True):
        style: dict[str, Any] = dict(color=colour, fmt=marker, ms=5, mfc="none", elinewidth=0.6, label=peer)
        mine = [(_left(theirs), _left(c.ours)) for c, theirs in shown if c.peer == peer]
        if not mine:
            continue
        across, up = zip(*mine, strict=True)
        left.errorbar(
            [i.value for i in across], [i.value for i in up], xerr=error_lengths(across), yerr=error_lengths(up),
            **style,
        )  # fmt: skip
        gaps = [(gap, lines.index(f"{c.attack} {c.norm}")) for c, gap in same if c.peer == peer]
        if gaps:
            reaches = error_lengths([gap for gap, _ in gaps])
            right.errorbar([gap.value for gap, _ in gaps], [line for _, line in gaps], xerr=reaches, **style)
    left.set(xlim=(0, 1), ylim=(0, 1))
    percent_axis(left.xaxis, "robust accuracy, peer")
    percent_axis(left.yaxis, "robust accuracy, ours")
    left.legend(fontsize=8)
    right.set_yticks(range(len(lines)), lines, fontsize=8)
    right.invert_yaxis()
    reach = max([3, *(1.1 * max(-gap.low, gap.high) for _, gap in same)])
    right.set(xlabel="ours minus peer, points", xlim=(-reach, reach))
    return figure


def _left(robust: Tensor) -> Interval:
    return wilson(int(robust.sum()), len(robust))


def _points(ours: Tensor, theirs: Tensor) -> Interval:
    """Our robust accuracy minus theirs, in points."""
    found = paired_difference(ours, theirs)
    return Interval(100 * found.value, 100 * found.low, 100 * found.high)


def passes_and_accuracy(found: Sequence[Spent]) -> Figure:
    """Robust accuracy against the passes that an attack may make for an image: a panel per norm, a line per attack.

    Bands are 95 % intervals over images.
    """
    norms = list(dict.fromkeys(one.attack.norm for one in found))
    figure, axes = plt.subplots(len(norms), 1, figsize=(WIDTH, 3.2 * len(norms)), squeeze=False, sharex=True)
    for panel, norm in zip(axes[:, 0], norms, strict=True):
        mine = [one for one in found if one.attack.norm == norm]
        for one in mine:
            beside = [other for other in mine if other.attack.library == one.attack.library]
            style = _DASHES[beside.index(one) % len(_DASHES)]
            ours = one.attack.library == "advdef"
            interval_line(
                panel, one.budgets, [_left(robust) for robust in one.robust], style=style,
                colour=_COLOURS.get(one.attack.library, "#000000"), width=1.6 if ours else 1.2,
                marker="o" if ours else "s", label=f"{one.attack.name}, {one.attack.library}",
            )  # fmt: skip
        panel.set(xscale="log", ylim=(-0.03, 1.03))
        percent_axis(panel.yaxis, f"robust accuracy, {norm}")
        panel.set_xticks(mine[0].budgets, [f"{most:,}" for most in mine[0].budgets])
        panel.minorticks_off()
        panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes[-1, 0].set_xlabel("forward and backward passes allowed for each image")
    return figure
