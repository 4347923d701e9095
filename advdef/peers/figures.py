"""The figure of the page that compares our attacks with those of other libraries."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from advdef.devices import exact
from advdef.peers.agreement import Comparison

__all__ = ["ours_and_theirs"]

_COLOURS = {"foolbox": "#0072B2", "pyautoattack": "#D55E00", "torchattacks": "#009E73", "art": "#CC79A7"}
_ANOTHER_ALGORITHM = {("single pixel", "torchattacks"), ("universal", "art"), ("JSMA", "art")}


def ours_and_theirs(found: Iterable[Sequence[Comparison]]) -> Figure:
    """Our robust accuracy against the peers', and the difference where both sides have the same algorithm."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), width_ratios=(1, 1.2))
    shown = [c for comparisons in found for c in comparisons if c.theirs is not None]
    same = [c for c in shown if (c.attack, c.peer) not in _ANOTHER_ALGORITHM]
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
