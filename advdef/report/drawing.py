"""The figure of reports: what each attacker leaves."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from advdef.evaluation import Threat
from advdef.statistics import Interval

__all__ = ["accuracy_chart"]

_MARKS: Mapping[str, tuple[str, str]] = {
    "clean": ("P", "#7F7F7F"), "oblivious": ("o", "#009E73"), "direct": ("s", "#D55E00"), "adaptive": ("D", "#0072B2"),
}  # fmt: skip
_APART = 0.16  # of marks on one line


def accuracy_chart(lines: Mapping[str, Mapping[Threat, Interval]], label: str) -> Figure:
    """A line for each name, with a mark and a 95 % interval for each case; ``label`` stands at the axis."""
    figure, panel = plt.subplots(figsize=(6.4, 0.9 + 0.55 * len(lines)))
    for place, intervals in enumerate(lines.values()):
        for number, (threat, found) in enumerate(intervals.items()):
            marker, colour = _MARKS[threat]
            panel.errorbar(
                100 * found.value, place + _APART * (number - 1.5), fmt=marker, color=colour, markersize=5, lw=1,
                xerr=[[100 * (found.value - found.low)], [100 * (found.high - found.value)]],
                label=threat if place == 0 else None,
            )  # fmt: skip
    panel.set_yticks(range(len(lines)), list(lines))
    panel.set(xlim=(-3, 103), ylim=(len(lines) - 0.5, -0.5), xlabel=f"{label}, %")
    figure.legend(loc="outside upper center", ncols=4, fontsize=9)
    return figure
