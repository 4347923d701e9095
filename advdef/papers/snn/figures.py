"""The figures of the page on SNN purification that no other page draws."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from advdef.papers.snn.measure import Detection
from advdef.plotting import COLOURS

__all__ = ["detection_curves", "firing_by_layer", "more_steps_and_larger_budgets", "purifier_losses"]

_TONES = {"clean": "#000000", "attacked": "#D55E00", "purified": "#0072B2"}
_ATTACKS = ("#56B4E9", "#0072B2", "#D55E00")
_OBLIVIOUS = ", oblivious"


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
    purifier: Mapping[str, Sequence[float]],
    classifier: Mapping[str, Sequence[float]],
    rasters: Mapping[str, Tensor],
) -> Figure:
    """Spikes per neuron and step in each layer, of the purifier and then of the classifier; beside them, rasters.

    The rates are those on "clean", "attacked" and "purified" images; ``rasters`` are spikes (neurons, T) on one image
    of each. Raises KeyError for other kinds of images.
    """
    widths = (4, *[1] * len(rasters))
    figure, (rates, *panels) = plt.subplots(1, len(widths), figsize=(10, 3.4), gridspec_kw={"width_ratios": widths})
    border = len(next(iter(purifier.values())))
    for kind, line in classifier.items():
        rates.plot(range(border, border + len(line)), line, marker=".", color=_TONES[kind], label=kind)
    for kind, line in purifier.items():
        rates.plot(range(border), line, marker=".", color=_TONES[kind])
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


def more_steps_and_larger_budgets(
    steps: Mapping[str, Mapping[int, float]], budgets: Mapping[str, Mapping[float, float]]
) -> Figure:
    """Accuracy against the number of steps of an attack, and against eps, a line for each defence.

    The line of a defence whose name ends in ", oblivious" has its colour, and is dotted.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for label, found in steps.items():
        style = ":" if label.endswith(_OBLIVIOUS) else "-"
        colour = COLOURS[label.removesuffix(_OBLIVIOUS)]
        left.plot(list(found), list(found.values()), style, marker="o", color=colour, label=label)
    counts = list(next(iter(steps.values())))
    left.set(xscale="log", xlabel="steps", ylabel="accuracy", ylim=(-0.03, 1.03))
    left.set_xticks(counts, [str(count) for count in counts])
    left.minorticks_off()
    left.legend(fontsize=8)
    for label, line in budgets.items():
        right.plot(list(line), list(line.values()), marker="o", color=COLOURS[label], label=label)
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
    panel.legend(fontsize=8)
    return figure
