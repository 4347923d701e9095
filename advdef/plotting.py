"""The figures that more than one notebook draws, in one style with one colour per defence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from advdef.attacks import Trace
from advdef.data.titles import data_named
from advdef.evaluation import Results, Threat
from advdef.figuretext import figure_in_words, figure_numbers
from advdef.statistics import Interval

__all__ = [
    "COLOURS", "WIDTH", "attack_traces", "error_lengths", "image_grid", "interval_line", "legend_below", "look",
    "percent_axis", "robustness_curves", "threat_panels", "use_style", "visible_change",
]  # fmt: skip

WIDTH = 6.7
"""Inches that a page is wide: no figure is wider."""

# Okabe and Ito's palette, which colour-blind readers can tell apart. The five defences that are compared with
# each other (CQ and TQ, SNS, V2 mean-logit, TRN, purifier) have colours of their own, the same on every page.
COLOURS = {
    "undefended": "#000000",
    "CQ": "#56B4E9",
    "TQ": "#0072B2",
    "k-means": "#009E73",
    "CQ released": "#E69F00",
    "TQ released": "#D55E00",
    "bit depth": "#CC79A7",
    "AT": "#7F7F7F",
    "AT + CQ": "#3D348B",
    "standard": "#000000",
    "mixed AT": "#B8860B",
    "ALP": "#D55E00",
    "TRADES": "#0072B2",
    "VS": "#56B4E9",
    "SNS": "#009E73",
    "SNS random": "#CC79A7",
    "SNS 0.1": "#7FCDBB",
    "SNS random 0.1": "#E3BFD3",
    "SNS bottom": "#E69F00",
    "SNS α=1": "#882255",
    "none": "#000000",
    "V0 oracle": "#D55E00",
    "V1 self": "#0072B2",
    "V1 minus": "#B8860B",
    "V2 mean-logit": "#E69F00",
    "V2 max-confidence": "#56B4E9",
    "V2 stable step": "#882255",
    "V3 confidence": "#009E73",
    "random bank, mean-logit": "#CC79A7",
    "noise, 10 draws": "#3D348B",
    "anti-adversary": "#A0522D",
    "another image's direction": "#009E73",
    "best": "#CC79A7",
    "white noise, oracle sign": "#0072B2",
    "TRN": "#D55E00",
    "image only": "#0072B2",
    "Fast-AT": "#7F7F7F",
    "HGD-style": "#56B4E9",
    "JPEG 75": "#E69F00",
    "bit depth 3": "#CC79A7",
    "median 2x2": "#009E73",
    "total variation": "#882255",
    "random map": "#7F7F7F",
    "shuffled map": "#56B4E9",
    "Sobel map": "#009E73",
    "predicted": "#E69F00",
    "stack": "#882255",
    "oracle map": "#CC79A7",
    "early": "#7F7F7F",
    "sum": "#009E73",
    "concat": "#0072B2",
    "heavy": "#CC79A7",
    "purifier": "#882255",
    "ANN purifier": "#0072B2",
    "gate": "#E69F00",
    "end to end": "#D55E00",
    "FGSM-AT": "#7F7F7F",
    "PGD-AT": "#3D348B",
    "RAT": "#B8860B",
    "purifier + FGSM-AT": "#56B4E9",
    "Gaussian blur": "#A0522D",
    "LIF": "#000000",
    "MLF2": "#56B4E9",
    "MLF3": "#0072B2",
    "SE-MLF3": "#D55E00",
    "NIP": "#E69F00",  # that of V2 mean-logit, which stands for it beside the others
}
# of defences without a colour of their own
_OTHERS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7F7F7F")
_MARKERS = "osD^vPX*"
THREAT_STYLES = {"oblivious": (":", "o"), "direct": ("--", "s"), "adaptive": ("-", "D")}


def use_style() -> None:
    """Set the style of all figures: white ground, as they are read in dark mode too, and no text below 8 points.

    A notebook draws them as SVG, whose text stays sharp, and which the same run writes in the same way. Beside it
    stands the figure in words, for those who do not see it, and its numbers are in the metadata of the SVG.
    """
    _as_svg_with_words_and_numbers()
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "figure.dpi": 110,
            "figure.figsize": (WIDTH, 3.4),
            "savefig.bbox": "tight",
            "svg.hashsalt": "advdef",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=_OTHERS),
            "font.size": 9,
            "axes.titlesize": 9,
            "legend.fontsize": 8,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "lines.markersize": 4,
        }
    )


def _as_svg_with_words_and_numbers() -> None:
    from IPython.core.interactiveshell import InteractiveShell

    if InteractiveShell.initialized():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
        formatter = InteractiveShell.instance().display_formatter
        if formatter is not None:
            formatter.formatters["text/plain"].for_type(Figure, _told)
            svg = formatter.formatters["image/svg+xml"]
            svg.for_type(Figure, partial(_with_numbers, svg.lookup_by_type(Figure)))


def _told(figure: Figure, printer: Any, cycle: bool) -> None:
    """Call data sets in a figure what prose calls them, and print what it shows: before it is drawn."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(data_named(text.get_text()))
    printer.text(data_named(figure_in_words(figure)) or repr(figure))


def _with_numbers(draw: Callable[[Figure], str | None], figure: Figure) -> Any:
    """A figure as SVG, with its numbers as metadata, which no program shows; None where nothing is drawn."""
    drawn, numbers = draw(figure), figure_numbers(figure)
    return (drawn, {"numbers": numbers}) if drawn and numbers else drawn


def percent_axis(axis: Axis, label: str = "") -> None:
    """Show shares on an axis in percent, as tables have them; ``label`` says of what, "" leaves that to the caller."""
    axis.set_major_formatter(PercentFormatter(1, symbol=""))
    if label:
        axis.set_label_text(f"{label}, %")


def error_lengths(intervals: Sequence[Interval]) -> list[list[float]]:
    """How far intervals reach below and above their values, as matplotlib's ``errorbar`` asks for it.

    >>> error_lengths([Interval(0.5, 0.25, 1.0)])
    [[0.25], [0.5]]
    """
    return [[i.value - i.low for i in intervals], [i.high - i.value for i in intervals]]


def interval_line(
    axes: Axes, places: Sequence[float], intervals: Sequence[Interval], *, colour: str, label: str | None = None,
    style: str | tuple[float, Sequence[float]] = "-", marker: str = ".", width: float = 1.5,
) -> None:  # fmt: skip
    """A line through the values at these places, with a pale band for their intervals.

    Args:
        axes: Where it is drawn.
        places: Where each interval stands on the x-axis.
        intervals: What is drawn: values with their intervals.
        colour: The colour of line and band.
        label: The line's name in a legend. Default: it has none.
        style: matplotlib's style of the line.
        marker: matplotlib's marker of each value.
        width: The line's width in points.
    """
    (line,) = axes.plot(
        places, [i.value for i in intervals], linestyle=style, marker=marker, color=colour, label=label, linewidth=width
    )  # fmt: skip
    line.intervals = intervals  # type: ignore[attr-defined]  # for figure_numbers
    axes.fill_between(
        places, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.12, linewidth=0
    )


def look(defence: str, number: int) -> tuple[str, str]:
    """Colour and matplotlib's marker of a defence among others, which it has in all their figures.

    ``number`` is its place among them, from 0.

    >>> look("AT", 1)
    ('#7F7F7F', 's')
    """
    return COLOURS.get(defence, _OTHERS[number % len(_OTHERS)]), _MARKERS[number % len(_MARKERS)]


def legend_below(figure: Figure, axes: Axes, *, columns: int = 4) -> None:
    """The legend of one of a figure's panels below all of them, where it hides nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def robustness_curves(results: Results) -> Figure:
    """Robust accuracy against eps: a row per data set, a panel per defence, a line per threat model, 95 % bands.

    The results are worst cases, one for each of these and each eps.
    """
    columns, datasets = 4, [results.select(dataset=name) for name in results.values("dataset")]
    depths = [-(-len(found.values("defence")) // columns) for found in datasets]
    size = (WIDTH, 1.8 * sum(depths) + 0.4)
    figure, axes = plt.subplots(sum(depths), columns, figsize=size, sharey=True, squeeze=False)
    for panel in axes.flat:
        panel.set_visible(False)
    top = 0
    for found, depth in zip(datasets, depths, strict=True):
        rows = axes[top : top + depth]
        for panel, defence in zip(rows.flat, found.values("defence"), strict=False):
            mine = found.select(defence=defence)
            for threat in mine.values("threat"):
                _line(panel, mine.select(threat=threat), label=threat, colour=COLOURS.get(defence, "#000000"))
            panel.set(title=defence, xlabel="eps", ylim=(-0.03, 1.03), visible=True)
        for row in rows:
            percent_axis(row[0].yaxis, f"{found.rows[0]['dataset']}\nrobust accuracy")
        top += depth
    legend_below(figure, axes[0][0])
    return figure


def threat_panels(results: Results) -> Figure:
    """Robust accuracy against eps: a panel per threat model, a line per defence, bars for 95 % intervals.

    The results are worst cases, one for each of these and each eps; raises ValueError where there is none. Points of
    different defences stand a little apart, as many of them lie at zero.
    """
    if not results:
        raise ValueError("there is no defence to draw")
    threats, defences = results.values("threat"), results.values("defence")
    size = (min(WIDTH, 2.9 * len(threats)), 3.3)
    figure, axes = plt.subplots(1, len(threats), figsize=size, sharey=True, squeeze=False)
    for panel, threat in zip(axes[0], threats, strict=True):
        for number, defence in enumerate(defences):
            colour, marker = look(defence, number)
            budgets, intervals = _by_budget(results.select(threat=threat, defence=defence))
            shift = 0.008 * budgets[-1] * (number - (len(defences) - 1) / 2)
            panel.errorbar(
                [eps + shift for eps in budgets], [i.value for i in intervals], yerr=error_lengths(intervals),
                label=defence, color=colour, marker=marker, elinewidth=0.8, linewidth=1.4,
            )  # fmt: skip
        panel.set(title=threat, xlabel="eps", ylim=(-0.03, 1.03), xticks=sorted(results.values("eps")))
        panel.xaxis.set_major_formatter("{x:.3g}")
    percent_axis(axes[0][0].yaxis, "robust accuracy")
    legend_below(figure, axes[0][0])
    return figure


def _line(axes: Axes, results: Results, *, label: Threat, colour: str) -> None:
    budgets, intervals = _by_budget(results)
    line, marker = THREAT_STYLES[label]
    interval_line(axes, budgets, intervals, colour=colour, label=label, style=line, marker=marker)


def _by_budget(results: Results) -> tuple[list[float], list[Interval]]:
    """The budgets in their order, and the accuracy at each."""
    budgets = sorted(results.values("eps"))
    return budgets, [results.interval(eps=eps) for eps in budgets]


def image_grid(rows: Mapping[str, Iterable[Tensor]], *, columns: Sequence[str], size: float = 1.15) -> Figure:
    """Rows of images (N, C, H, W) in [0, 1] with names at the left and a title over each column."""
    count = len(columns)
    size = min(size, (WIDTH - 1) / count)
    figure, axes = plt.subplots(len(rows), count, figsize=(size * count + 1, size * len(rows) + 0.3), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for cell, image in zip(line, images, strict=True):
            pixels = image.detach().cpu().permute(1, 2, 0).squeeze(-1).numpy()
            cell.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            cell.grid(False)
            for spine in cell.spines.values():
                spine.set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for cell, title in zip(axes[0], columns, strict=True):
        cell.set_title(title, fontsize=8)
    return figure


def attack_traces(traces: Mapping[str, Trace], *, eps: float) -> Figure:
    """What attacks go through: loss, margin and size of the perturbation against the passes made, a line per attack.

    Lines are medians over the images, bands hold the middle half of them; an image that an attack has left alone stays
    as it was last seen. ``eps`` is the budget, drawn into the panel of sizes.
    """
    panels = {"loss": "loss", "margin": "margin (positive: wrong)", "size": "size of the perturbation"}
    figure, axes = plt.subplots(1, 3, figsize=(6.7, 2.6))
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        for number, (label, trace) in enumerate(traces.items()):
            low, middle, high = _last_seen(getattr(trace, name)).quantile(torch.tensor([0.25, 0.5, 0.75]), dim=1)
            colour = _OTHERS[number % len(_OTHERS)]
            axis.plot(middle, color=colour, ls=("-", "--", ":", "-.")[number % 4], label=label)
            axis.fill_between(range(len(middle)), low, high, color=colour, alpha=0.12, lw=0)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("pass", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[1].axhline(0, color="0.5", lw=0.8)
    axes[2].axhline(eps, color="0.5", lw=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _last_seen(values: Tensor) -> Tensor:
    """Values (S, N) in which a NaN is replaced by the value above it."""
    values = values.cpu().float()
    rows = torch.arange(len(values))[:, None].expand_as(values)
    return values.gather(0, torch.where(values.isnan(), 0, rows).cummax(0).values)


def visible_change(change: Tensor) -> Tensor:
    """Changes of pixels (N, C, H, W), each image's scaled into [0, 1] to be seen; no change is grey.

    >>> visible_change(torch.tensor([[[[-0.01, 0.0, 0.01]]]]))
    tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """
    size = change.abs().flatten(1).quantile(0.99, dim=1)[:, None, None, None]
    return (0.5 + 0.5 * change / size.clamp_min(1e-12)).clamp(0, 1)
