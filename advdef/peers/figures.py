"""The figures of the page that compares our attacks with those of other libraries."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from advdef.devices import exact
from advdef.peers.agreement import Comparison
from advdef.peers.budgets import Spent
from advdef.plotting import WIDTH

__all__ = ["ANOTHER_ALGORITHM", "ours_and_theirs", "passes_and_accuracy"]

ANOTHER_ALGORITHM = frozenset({("single pixel", "torchattacks"), ("universal", "art"), ("JSMA", "art")})
"""Attacks of other libraries that have the name of one of ours and find their images in another way."""

_COLOURS = {"foolbox": "#0072B2", "pyautoattack": "#D55E00", "torchattacks": "#009E73", "art": "#CC79A7"}
_DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2, 2, 2)))
_ANOTHER_ALGORITHM = {("single pixel", "torchattacks"), ("universal", "art"), ("JSMA", "art")}


def ours_and_theirs(found: Iterable[Sequence[Comparison]]) -> Figure:
    """Our robust accuracy against the peers', and the difference where both sides have the same algorithm."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8), width_ratios=(1, 1.2))
    shown = [c for comparisons in found for c in comparisons if c.theirs is not None]
    same = [c for c in shown if (c.attack, c.peer) not in ANOTHER_ALGORITHM]
    lines = list(dict.fromkeys(f"{c.attack} {c.norm}" for c in same))
    left.axline((0, 0), slope=1, color="0.7", lw=1, zorder=0)
    right.axvspan(-1, 1, color="0.9", lw=0, zorder=0)
    for (peer, colour), marker in zip(_COLOURS.items(), "osD^", strict=True):
        style = {"color": colour, "ls": "", "marker": marker, "ms": 5, "mfc": "none", "label": peer}
        mine = [c for c in shown if c.peer == peer]
        theirs = [float(exact(c.theirs).mean()) for c in mine if c.theirs is not None]
        left.plot(theirs, [float(exact(c.ours).mean()) for c in mine], **style)
        mine = [c for c in same if c.peer == peer]
        right.plot([c.points for c in mine], [lines.index(f"{c.attack} {c.norm}") for c in mine], **style)
    left.set(xlabel="robust accuracy, peer", ylabel="robust accuracy, ours", xlim=(0, 1), ylim=(0, 1))
    left.legend(fontsize=8)
    right.set_yticks(range(len(lines)), lines, fontsize=8)
    right.invert_yaxis()
    reach = max(3, *(1.1 * abs(c.points) for c in same))
    right.set(xlabel="ours minus peer, points", xlim=(-reach, reach))
    return figure


def passes_and_accuracy(found: Sequence[Spent]) -> Figure:
    """Robust accuracy against the passes that an attack may make for an image: a panel per norm, a line per attack."""
    norms = list(dict.fromkeys(one.attack.norm for one in found))
    figure, axes = plt.subplots(len(norms), 1, figsize=(WIDTH, 3.2 * len(norms)), squeeze=False, sharex=True)
    for panel, norm in zip(axes[:, 0], norms, strict=True):
        mine = [one for one in found if one.attack.norm == norm]
        for one in mine:
            beside = [other for other in mine if other.attack.library == one.attack.library]
            style = _DASHES[beside.index(one) % len(_DASHES)]
            ours = one.attack.library == "advdef"
            panel.plot(
                one.budgets, one.left, color=_COLOURS.get(one.attack.library, "#000000"), ls=style,
                lw=1.6 if ours else 1.2, marker="o" if ours else "s", ms=3, mfc="none",
                label=f"{one.attack.name}, {one.attack.library}",
            )  # fmt: skip
        panel.set(ylabel=f"robust accuracy, {norm}", xscale="log", ylim=(-0.03, 1.03))
        panel.set_xticks(mine[0].budgets, [f"{most:,}" for most in mine[0].budgets])
        panel.minorticks_off()
        panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes[-1, 0].set_xlabel("forward and backward passes allowed for each image")
    return figure
