"""A figure in words: what its lines, bars, points and tables of colours show, read from the figure itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

__all__ = ["figure_in_words"]

_LONG = 900  # characters
_MANY = 12  # points or bars that are told one by one
_BEND = 0.1  # of the range of a line, and it is told that it goes up or down on its way


def figure_in_words(figure: Figure) -> str:
    """What a figure shows, panel by panel, in at most 900 characters.

    A line is told by its ends and, where it bends, by its highest or lowest point; bars and a few points one by one; a
    table of colours by its extremes; of images what stands over them, which may be nothing.

    >>> figure = Figure()
    >>> axes = figure.subplots()
    >>> _ = axes.plot([0.0, 0.1, 0.2], [0.98, 0.9, 0.02], label="TRN")
    >>> _ = axes.set(xlabel="eps", ylabel="accuracy")
    >>> figure_in_words(figure)
    'accuracy against eps, 0 to 0.2: TRN from 0.98 to 0.02.'
    """
    names = dict(_named(figure))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    told = [said for axes in panels if (said := _panel(axes, names))]
    titles = [" ".join(axes.get_title().split()) for axes in panels if axes.images and not _tables(axes)]
    if any(titles):
        told.append(f"Over the columns of images: {'; '.join(title for title in titles if title)}.")
    text = " ".join(told)
    return text if len(text) <= _LONG else f"{text[: text.rfind(' ', 0, _LONG - 2)]} …"


def _panel(axes: Axes, names: dict[tuple[str, ...], str]) -> str:
    """One panel in a sentence."""
    bars = [_bars(axes, found) for found in axes.containers if isinstance(found, BarContainer)]
    lines = [said for line in _lines(axes) if (said := _line(line, names))]
    points = [said for found in axes.collections if isinstance(found, PathCollection) if (said := _points(found))]
    shown = [*bars, *lines, *points, *_tables(axes)]
    if not shown:
        return ""
    across = axes.get_xlabel()
    if across and lines and not bars:
        chosen = isinstance(
            axes.xaxis.get_major_locator(), FixedLocator
        )  # points may stand a little beside their ticks
        places = [axes.get_xticks()] if chosen else [np.asarray(line.get_xdata(), float) for line in _lines(axes)]
        ends = np.concatenate(places)
        across += f", {_short(np.nanmin(ends))} to {_short(np.nanmax(ends))}"
    subject = " against ".join(" ".join(part.split()) for part in (axes.get_ylabel(), across) if part)
    lead = ", ".join(part for part in (" ".join(axes.get_title().split()), subject) if part)
    return f"{lead}: {'; '.join(shown)}." if lead else f"{'; '.join(shown)}."


def _lines(axes: Axes) -> list[Line2D]:
    """The lines that join measured points: neither those of a grid nor the bars of an interval."""
    drawn = (line for line in axes.lines if line.get_transform() == axes.transData)
    return [line for line in drawn if len(np.atleast_1d(line.get_xdata())) > 1]


def _style(line: Line2D) -> tuple[str, ...]:
    return str(line.get_color()), str(line.get_linestyle()), str(line.get_marker())


def _named(figure: Figure) -> Iterator[tuple[tuple[str, ...], str]]:
    """What the legend of one panel calls a line, for the panels that look alike without one."""
    for axes in figure.axes:
        for found in axes.containers:
            if isinstance(found, ErrorbarContainer) and found[0] is not None:
                yield _style(found[0]), str(found.get_label())
        for line in axes.lines:
            if not str(line.get_label()).startswith("_"):
                yield _style(line), str(line.get_label())


def _line(line: Line2D, names: dict[tuple[str, ...], str]) -> str:
    label = str(line.get_label())
    name = names.get(_style(line), "") if label.startswith("_") else label
    values = np.asarray(line.get_ydata(), float)
    values = values[np.isfinite(values)]
    if not name or name.startswith("_") or len(values) < 2 or line.get_linestyle() == "None":
        return ""
    first, last, low, high = values[0], values[-1], values.min(), values.max()
    bend = _BEND * max(high - low, 1e-12)
    way = ""
    if high > max(first, last) + bend:
        way = f" by way of {_short(high)}"
    elif low < min(first, last) - bend:
        way = f" by way of {_short(low)}"
    if not way and _short(first) == _short(last):
        return f"{name} at {_short(first)}"
    return f"{name} from {_short(first)}{way} to {_short(last)}"


def _bars(axes: Axes, bars: BarContainer) -> str:
    lying = bars.orientation == "horizontal"
    values = [float(bar.get_width() if lying else bar.get_height()) for bar in bars]
    ticks = [tick.get_text() for tick in (axes.get_yticklabels() if lying else axes.get_xticklabels())]
    name = "" if str(bars.get_label()).startswith("_") else f"{bars.get_label()} "
    if len(values) > _MANY:
        return f"{name}bars from {_short(min(values))} to {_short(max(values))}"
    if len(ticks) == len(values):
        return name + ", ".join(f"{tick} {_short(value)}" for tick, value in zip(ticks, values, strict=True))
    return name + ", ".join(map(_short, values))


def _points(points: PathCollection) -> str:
    name, places = str(points.get_label()), np.ma.getdata(points.get_offsets())
    if name.startswith("_") or not len(places):
        return ""
    if len(places) <= 3:
        return f"{name} at " + ", ".join(f"({_short(x)}, {_short(y)})" for x, y in places)
    x, y = np.nanmean(places, 0)
    return f"{name}, {len(places)} points around ({_short(x)}, {_short(y)})"


def _tables(axes: Axes) -> list[str]:
    """Matrices of numbers, which have a name for each row, as images of objects do not."""
    found = []
    for image in axes.images:
        values: NDArray[np.float64] = np.ma.filled(np.ma.asarray(image.get_array()).astype(float), np.nan)
        if values.ndim == 2 and len(axes.get_yticks()) == len(values) > 1:
            found.append(f"a table of values from {_short(np.nanmin(values))} to {_short(np.nanmax(values))}")
    return found


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value + 0.0:.2g}" if abs(value) < 10 else f"{value:.3g}"
