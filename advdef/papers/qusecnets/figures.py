"""The figures of the page on QuSecNets."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.plotting import COLOURS, WIDTH, interval_line, legend_below, percent_axis
from advdef.statistics import Interval

__all__ = ["accuracy_by_levels", "flippable_pixels", "layer_and_slope", "threshold_paths"]


_LEVELS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#882255")  # from few to many


def layer_and_slope() -> Figure:
    """The released layer at four settings, its slope with dots where it is exactly zero, and the clean layer."""
    pixels = torch.linspace(0, 1, 2001).view(1, 1, 1, -1)
    x = pixels.flatten().numpy()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(WIDTH, 3))
    for levels, hardness in [(2, 5), (16, 1), (4, 50), (4, 500)]:
        released = Quantizer(levels, mode="soft", hardness=hardness, released=True)
        point = pixels.clone().requires_grad_()
        output = released(point)
        slope = torch.autograd.grad(output.sum(), point)[0].flatten().numpy()
        left.plot(x, output.detach().flatten(), label=f"N={levels}, h={hardness}")
        (line,) = middle.plot(x, slope.clip(min=1e-4))
        dead = x[slope == 0][::40]
        middle.plot(dead, np.full(len(dead), 1e-4), ".", color=line.get_color())
    right.plot(x, Quantizer(4, mode="soft", hardness=50)(pixels).detach().flatten(), "--", label="N=4, soft")
    right.plot(x, Quantizer(4, mode="hard", hardness=50)(pixels).detach().flatten(), "-", label="N=4, hard")
    left.set(title="released layer", xlabel="pixel", ylabel="output")
    middle.set(title="its slope", xlabel="pixel", yscale="log")
    right.set(title="clean layer", xlabel="pixel")
    for panel in (left, right):
        panel.legend()
    return figure


def accuracy_by_levels(
    hard: Mapping[str, Mapping[str, Sequence[Interval]]],
    soft: Mapping[str, Mapping[str, Sequence[float]]],
    undefended: Mapping[str, float],
    levels: Sequence[int],
) -> Figure:
    """Clean accuracy against the number of levels: a panel per data set, in it a line per layer, hard and soft."""
    figure, axes = plt.subplots(1, len(hard), figsize=(min(WIDTH, 3.6 * len(hard)), 3), squeeze=False)
    for panel, name in zip(axes[0], hard, strict=True):
        for layer, found in hard[name].items():
            interval_line(panel, levels, found, marker="o", colour=COLOURS[layer], label=layer)
            panel.plot(levels, soft[name][layer], ".:", color=COLOURS[layer])
        panel.axhline(undefended[name], color="black", ls="--", lw=1, label="undefended")
        panel.set(title=name, xlabel="levels N", xscale="log")
        percent_axis(panel.yaxis, "clean accuracy")
        panel.set_xticks(levels, list(map(str, levels)))
        panel.minorticks_off()
    axes[0][0].legend()
    return figure


def threshold_paths(paths: Mapping[str, Mapping[str, Tensor]], pixels: Mapping[str, Tensor]) -> Figure:
    """Thresholds (epochs, K) by data set and scheme, drawn over the histogram of the training pixels in [0, 1]."""
    columns = len(next(iter(paths.values())))
    figure, axes = plt.subplots(len(paths), columns, figsize=(WIDTH, 2.6 * len(paths)), sharey=True, squeeze=False)
    for row, (name, schemes) in zip(axes, paths.items(), strict=True):
        counts, edges = np.histogram(pixels[name].cpu().numpy(), bins=64, range=(0, 1))
        share = np.log1p(counts) / np.log1p(counts).max()
        for panel, (scheme, path) in zip(row, schemes.items(), strict=True):
            panel.barh(edges[:-1], share * (len(path) - 1), height=np.diff(edges), align="edge", color="0.88")
            panel.plot(path.cpu(), ".-", color=COLOURS["TQ"])
            panel.set(title=scheme, ylim=(0, 1))
            panel.grid(False)
        row[0].set_ylabel(f"{name}\nthreshold")
    for panel in axes[-1]:
        panel.set_xlabel("epoch")
    return figure


def flippable_pixels(shares: Mapping[str, Mapping[int, Sequence[float]]], budgets: Sequence[float]) -> Figure:
    """Share of pixels that can change level, by data set and number of levels, and how far one flip moves the input."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    every = list(next(iter(shares.values())))
    sizes = np.asarray(budgets)
    for style, (name, found) in zip(("-", "--", "-."), shares.items(), strict=False):
        for number, levels in enumerate(every):
            left.plot(sizes, found[levels], style, color=_LEVELS[number % len(_LEVELS)], label=f"{name}, N={levels}")
    for number, levels in enumerate(every):
        tone = _LEVELS[number % len(_LEVELS)]
        left.plot(sizes, np.minimum(1, 2 * sizes * (levels - 1)), ":", color=tone, lw=1)
        right.plot(sizes, 1 / (levels - 1) / sizes, color=tone, label=f"N={levels}")
    left.set(xlabel="eps", ylabel="share of pixels that can flip")
    right.set(xlabel="eps", ylabel="jump of a flip / eps", yscale="log")
    legend_below(figure, left, columns=3)
    right.legend()
    return figure
