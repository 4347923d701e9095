"""The figures of the page; each function takes what was measured and gives a figure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from advdef.devices import exact
from advdef.papers.sensitivity.comparison import Network
from advdef.papers.sensitivity.experiments import OCCLUDED, Mode
from advdef.plotting import COLOURS, WIDTH, error_lengths, interval_line, legend_below, percent_axis
from advdef.selection import layer_score
from advdef.statistics import Interval, mean_share

__all__ = [
    "draw_links", "draw_occlusion", "draw_overlap", "draw_profiles", "draw_readings", "draw_substitution",
    "draw_trade_off",
]  # fmt: skip

_CONTROLS = (
    ("o-", "#D55E00"), ("s-", "#882255"), ("D-", "#7F7F7F"), ("^--", "#E69F00"), ("v--", "#0072B2"), ("x:", "#009E73"),
)  # fmt: skip
_OTHER = "0.6"  # the grey of networks that have no colour of their own


def draw_readings(tables: Mapping[str, pd.DataFrame], curves: Mapping[str, Mapping[int, float]]) -> Figure:
    """Rank correlations of the readings, a matrix per network, and of D1 from the first n pairs with D1 from all."""
    figure = plt.figure(figsize=(WIDTH, 5.6))
    grid = figure.add_gridspec(2, len(tables), height_ratios=(3, 2))
    axes = [figure.add_subplot(cell) for cell in (*(grid[0, i] for i in range(len(tables))), grid[1, :])]
    for panel, (k, table) in zip(axes, tables.items(), strict=False):
        _matrix(panel, table, title=k, names=panel is axes[0], colours="RdBu", low=-1, pale=(-0.7, 0.7))
    for k, found in curves.items():
        axes[-1].plot(list(found), list(found.values()), "o-", color=COLOURS[k], label=k)
    axes[-1].set(xlabel="pairs", ylabel="rank correlation with all pairs", xscale="log")
    ticks = sorted({n for found in curves.values() for n in found})
    axes[-1].set_xticks(ticks, list(map(str, ticks)))
    axes[-1].minorticks_off()
    axes[-1].legend()
    return figure


def draw_overlap(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Common shares (Jaccard) of choices, a matrix per network."""
    figure, axes = plt.subplots(1, len(tables), figsize=(min(WIDTH, 3.6 * len(tables)), 4.2), squeeze=False)
    for panel, (k, table) in zip(axes[0], tables.items(), strict=True):
        _matrix(panel, table, title=k, names=panel is axes[0][0], colours="viridis", low=0, pale=(0.6, 1))
    return figure


def _matrix(
    panel: Axes, table: pd.DataFrame, *, title: str, names: bool, colours: str, low: float, pale: tuple[float, float]
) -> None:
    """A square table as cells with their numbers, coloured from ``low`` to 1; on what is ``pale`` they are black."""
    panel.imshow(table, vmin=low, vmax=1, cmap=colours)
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        shade = "black" if pale[0] <= value <= pale[1] else "white"
        panel.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)
    panel.set_xticks(range(len(table)), table.columns, rotation=60, ha="right")
    panel.set_yticks(range(len(table)), table.index if names else [])
    panel.set_title(title)
    panel.grid(False)


def draw_profiles(sensitivities: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> Figure:
    """Sensitivity by layer, and its distribution over neurons; a column per definition.

    ``sensitivities[definition][method]`` has (C,) by layer; the distribution is relative to the mean of each layer of
    the first method.
    """
    figure, axes = plt.subplots(2, len(sensitivities), figsize=(WIDTH, 6), squeeze=False)
    for (above, below), (label, found) in zip(axes.T, sensitivities.items(), strict=True):
        reference = layer_score(next(iter(found.values())))
        for k, sigma in found.items():
            above.plot(list(layer_score(sigma).values()), "o-", color=COLOURS[k], label=k)
            values = torch.cat([sigma[layer] / level for layer, level in reference.items()]).numpy().clip(0, 2.5)
            below.hist(values, np.linspace(0, 2.5, 26), histtype="step", color=COLOURS[k], density=True)
        above.set(title=f"{label}, mean of a layer", yscale="log")
        above.set_xticks(range(len(reference)), list(reference), rotation=45, ha="right")
        below.set(xlabel=f"{label} / mean of the standard network", ylabel="density")
    axes[0][0].set_ylabel("sensitivity")
    axes[0][-1].legend(ncol=2)
    return figure


def draw_substitution(restored: Mapping[str, Mapping[str, Tensor]], shares: Sequence[float]) -> Figure:
    """Restored accuracy against the share of substituted neurons, for each control; a panel per network and attack.

    ``restored[network][control]`` is (shares, layers, N), and there are four networks. Bands are 95 % intervals over
    images, of their means over layers.
    """
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 5.6), sharex=True, sharey=True)
    for panel, (k, table) in zip(axes.flat, restored.items(), strict=True):
        for (control, right), (style, tone) in zip(table.items(), _CONTROLS, strict=True):
            interval_line(
                panel, shares, _over_layers(right), marker=style[0], style=style[1:], colour=tone, label=control
            )
        panel.set(title=k)
    for panel in axes[1]:
        panel.set_xlabel("share of the layer's neurons")
    for row in axes:
        percent_axis(row[0].yaxis, "restored accuracy")
    legend_below(figure, axes[0][0], columns=3)
    return figure


def _over_layers(right: Tensor) -> list[Interval]:
    """For each share of (shares, layers, N): the mean over layers of what is right, with its interval over images."""
    return [mean_share(exact(share).mean(0)) for share in right]


def draw_occlusion(
    lost: Mapping[str, Mapping[tuple[Mode, str], Mapping[str, Tensor]]],
    shares: Sequence[float],
    intact: Mapping[str, float],
) -> Figure:
    """Accuracy against the share of neurons that are set to zero, with the intervals of :func:`draw_substitution`.

    ``lost[network]`` is what :func:`~advdef.papers.sensitivity.experiments.occluded_accuracy` gives, ``intact`` has the
    clean accuracy of the whole networks.
    """
    tones = dict(zip(OCCLUDED, ("#D55E00", "#7F7F7F", "#E69F00", "#009E73", "#0072B2"), strict=True))
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.2))
    lines = [
        (axes[0], "standard", "clean", "o-"), (axes[1], "AT", "clean", "o-"), (axes[2], "AT", "attacked anew", "o-"),
        (axes[2], "AT", "replayed", ".:"),
    ]  # fmt: skip
    for which, tone in tones.items():
        for panel, k, what, style in lines:
            line, label = _over_layers(lost[k]["zero", which][what]), which if style == "o-" else None
            interval_line(panel, shares, line, marker=style[0], style=style[1:], colour=tone, label=label)
    for panel, title in zip(axes, ("standard, clean", "AT, clean", "AT, under attack"), strict=True):
        panel.set(title=title, xlabel="share occluded")
    for panel in axes:
        percent_axis(panel.yaxis)
    axes[0].set_ylabel("accuracy, %")
    for panel, k in ((axes[0], "standard"), (axes[1], "AT")):
        panel.axhline(intact[k], color="black", lw=0.8, ls="--")
    legend_below(figure, axes[0], columns=5)
    return figure


def draw_trade_off(
    points: Mapping[Network, tuple[Interval, Interval]], *, methods: Collection[str], seed: int, sweep: Sequence[str]
) -> Figure:
    """Robust against clean accuracy, one point (clean, robust) per network; a line joins ``sweep``, of the first seed.

    Bars are the intervals.

    ``methods`` have colours and stand in the legend, other trainings are named beside their point.
    """
    figure, panel = plt.subplots(figsize=(6.5, 4))
    for (k, s), (clean, robust) in points.items():
        x, y = clean.value, robust.value
        errors: dict[str, Any] = {"xerr": error_lengths([clean]), "yerr": error_lengths([robust]), "elinewidth": 0.6}
        if k in methods:
            panel.errorbar(x, y, fmt="o", color=COLOURS[k], label=k if s == seed else None, **errors)
        else:
            panel.errorbar(x, y, fmt=".", color=_OTHER, **errors)
            panel.annotate(k, (x, y), fontsize=8, xytext=(3, 3), textcoords="offset points")
    line = [[interval.value for interval in points[k, seed]] for k in sweep]
    panel.plot(*zip(*line, strict=True), "-", color=COLOURS["SNS"], lw=1)
    percent_axis(panel.xaxis, "clean accuracy")
    percent_axis(panel.yaxis, "robust accuracy (PGD)")
    panel.legend(ncol=2)
    return figure


def draw_links(
    sensitivities: Mapping[str, Mapping[Network, float]],
    robust: Mapping[Network, Interval],
    *,
    methods: Collection[str],
    seed: int,
) -> Figure:
    """Robust accuracy with its interval against mean sensitivity, one point per network; a panel per definition.

    The legend names ``methods``, by their network of the first seed.
    """
    figure, axes = plt.subplots(1, len(sensitivities), figsize=(WIDTH, 3.5), sharey=True)
    for panel, (label, values) in zip(axes, sensitivities.items(), strict=True):
        for (k, s), accuracy in robust.items():
            named = k if s == seed and k in methods else None
            panel.errorbar(
                values[k, s], accuracy.value, yerr=error_lengths([accuracy]), fmt="o", elinewidth=0.6,
                color=COLOURS.get(k, _OTHER), label=named,
            )  # fmt: skip
        panel.set_xlabel(f"mean sensitivity, {label}")
    percent_axis(axes[0].yaxis, "robust accuracy")
    axes[-1].legend()
    return figure
