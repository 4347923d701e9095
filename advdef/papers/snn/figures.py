"""The figures of the page on SNN purification that no other page draws."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from advdef.evaluation import Results
from advdef.papers.snn.measure import Detection
from advdef.plotting import COLOURS, WIDTH, interval_line, legend_below, percent_axis

__all__ = ["detection_curves", "firing_by_layer", "more_steps_and_larger_budgets", "purifier_losses"]

_TONES = {"clean": "#000000", "attacked": "#D55E00", "purified": "#0072B2"}
_ATTACKS = ("#56B4E9", "#0072B2", "#D55E00")


def purifier_losses(losses: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Training loss (epochs,) against the epoch, by variant: one line for each seed, the first one in full colour."""
    figure, panel = plt.subplots(figsize=(5, 3))
    for variant, lines in losses.items():
        for number, line in enumerate(lines):
            shade = {"alpha": 0.5} if number else {"label": variant}
            panel.plot(range(1, len(line) + 1), line, marker=".", color=COLOURS[variant], **shade)
    panel.set(xlabel="epoch", ylabel="loss")
    panel.legend()
    return figure


def firing_by_layer(
    purifier: Mapping[str, Mapping[str, float]],
    classifier: Mapping[str, Mapping[str, float]],
    rasters: Mapping[str, Tensor],
) -> Figure:
    """Spikes per neuron and step in each layer, of the purifier and then of the classifier; beside them, rasters.

    The rates, by layer, are those on "clean", "attacked" and "purified" images; ``rasters`` are spikes (neurons, T) on
    one image of each. Raises KeyError for other kinds of images.
    """
    widths = (4, *[1] * len(rasters))
    figure, (rates, *panels) = plt.subplots(1, len(widths), figsize=(WIDTH, 3.4), gridspec_kw={"width_ratios": widths})
    border = len(next(iter(purifier.values())))
    for kind, line in classifier.items():
        rates.plot(range(border, border + len(line)), list(line.values()), marker=".", color=_TONES[kind], label=kind)
    for kind, line in purifier.items():
        rates.plot(range(border), list(line.values()), marker=".", color=_TONES[kind])
    rates.axvline(border - 0.5, color="0.4", ls="--", lw=0.8)
    rates.set(xlabel="spiking layer", ylabel="spikes per neuron and step")
    rates.legend()
    for panel, (kind, raster) in zip(panels, rasters.items(), strict=True):
        panel.imshow(raster.cpu().numpy(), aspect="auto", vmin=0, vmax=3, interpolation="nearest")
        steps = raster.shape[1]
        panel.set(title=kind, xlabel="step", xticks=range(steps), yticks=[], xticklabels=range(1, steps + 1))
        panel.grid(False)
    panels[0].set_ylabel("neuron")
    return figure


def more_steps_and_larger_budgets(steps: Results, budgets: Results) -> Figure:
    """Accuracy against the number of steps of an attack, and against eps, a line for each defence.

    Both are worst cases, one for each defence, threat and number in the column "steps", or for each defence and eps.
    The line of an oblivious attacker is dotted, in the colour of the defence.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2), sharey=True)
    counts = steps.values("steps")
    for threat in steps.values("threat"):
        met = steps.select(threat=threat)
        for defence in met.values("defence"):
            line = [met.interval(defence=defence, steps=count) for count in counts]
            style, label = (":", f"{defence}, oblivious") if threat == "oblivious" else ("-", defence)
            interval_line(left, counts, line, style=style, marker="o", colour=COLOURS[defence], label=label)
    left.set(xscale="log", xlabel="steps", ylim=(-0.03, 1.03))
    percent_axis(left.yaxis, "accuracy")
    left.set_xticks(counts, [str(count) for count in counts])
    left.minorticks_off()
    legend_below(figure, left)
    for defence in budgets.values("defence"):
        sizes = sorted(budgets.select(defence=defence).values("eps"))
        line = [budgets.interval(defence=defence, eps=eps) for eps in sizes]
        interval_line(right, sizes, line, marker="o", colour=COLOURS[defence], label=defence)
    right.set(xlabel="eps")
    return figure


def detection_curves(detections: Mapping[str, Detection], *, false_alarms: float = 0.05) -> Figure:
    """Share of attacked images found against that of clean images flagged, a curve for each attack.

    A dashed line marks the share ``false_alarms`` that a detector was set to; a dotted one is chance.
    """
    figure, panel = plt.subplots(figsize=(4.6, 3.6))
    for number, (attack, found) in enumerate(detections.items()):
        tone, label = _ATTACKS[number % len(_ATTACKS)], f"{attack}: area {found.area:.2f}"
        panel.plot(found.false_alarms, found.found, color=tone, label=label)
    panel.plot([0, 1], [0, 1], ":", color="0.5")
    panel.axvline(false_alarms, ls="--", color="0.5", lw=0.8)
    panel.set(xlabel="clean images flagged", ylabel="attacked images found")
    panel.legend()
    return figure
