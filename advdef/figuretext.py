"""A figure in words: what its lines, bars, points and tables of colours show, read from the figure itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, Container, ErrorbarContainer
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

    A line is told by its ends and, where it bends, by its highest or lowest point; bars and a few points or marks one
    by one; a table of colours by its extremes; of images what stands over them, which may be nothing.

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
    shown = [*bars, *lines, *_marks(axes, names), *points, *_tables(axes)]
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
    return [line for line in _drawn(axes) if _joined(line)]


def _drawn(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if line.get_transform() == axes.transData]


def _joined(line: Line2D) -> bool:
    return line.get_linestyle() != "None" and len(np.atleast_1d(line.get_xdata())) > 1


def _style(line: Line2D) -> tuple[str, ...]:
    return str(line.get_color()), str(line.get_linestyle()), str(line.get_marker())


def _named(figure: Figure) -> Iterator[tuple[tuple[str, ...], str]]:
    """What the legend of one panel calls a line, for the panels that look alike without one."""
    for axes in figure.axes:
        for found in axes.containers:
            if isinstance(found, ErrorbarContainer) and found[0] is not None and _said(found):
                yield _style(found[0]), _said(found)
        for line in axes.lines:
            if _said(line):
                yield _style(line), _said(line)


def _said(drawn: Artist | Container) -> str:
    """What a legend calls something; "" where it would not name it."""
    label = str(drawn.get_label() or "")
    return "" if label.startswith("_") else label


def _line(line: Line2D, names: dict[tuple[str, ...], str]) -> str:
    name = _said(line) or names.get(_style(line), "")
    values = np.asarray(line.get_ydata(), float)
    values = values[np.isfinite(values)]
    if not name or len(values) < 2:
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
    name = f"{_said(bars)} " if _said(bars) else ""
    if len(values) > _MANY:
        return f"{name}bars from {_short(min(values))} to {_short(max(values))}"
    if len(ticks) == len(values):
        return name + ", ".join(f"{tick} {_short(value)}" for tick, value in zip(ticks, values, strict=True))
    return name + ", ".join(map(_short, values))


def _points(points: PathCollection) -> str:
    name, places = _said(points), np.ma.getdata(points.get_offsets())
    return _scattered(name, places) if name and len(places) else ""


def _scattered(name: str, places: NDArray[np.float64]) -> str:
    if len(places) <= 3:
        return f"{name} at " + ", ".join(f"({_short(x)}, {_short(y)})" for x, y in places)
    x, y = np.nanmean(places, 0)
    return f"{name}, {len(places)} points around ({_short(x)}, {_short(y)})"


def _marks(axes: Axes, names: dict[tuple[str, ...], str]) -> list[str]:
    """Marks that no line joins, with their intervals or without: those that look alike are told together.

    Where an axis has names in the place of numbers, each mark has the name that it stands nearest to.
    """
    alike: dict[str, list[NDArray[np.float64]]] = {}
    for line in _drawn(axes):
        name = names.get(_style(line), "")
        if name and np.size(line.get_xdata()) and not _joined(line):
            alike.setdefault(name, []).append(
                np.column_stack([np.atleast_1d(ends).astype(float) for ends in line.get_data()])
            )
    told = []
    for name, found in alike.items():
        places = np.concatenate(found)
        for which, axis in ((1, axes.yaxis), (0, axes.xaxis)):
            if rows := _rows(axis):
                told.append(f"{name} {_by_row(places[:, which], places[:, 1 - which], rows)}")
                break
        else:
            told.append(_scattered(name, places))
    return told


def _rows(axis: Axis) -> dict[float, str]:
    """The names that stand at an axis in the place of numbers, by where they stand."""
    named = {
        float(place): tick.get_text() for place, tick in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    }
    return named if any(re.search(r"[^\W\d_]{2}", name) for name in named.values()) else {}


def _by_row(places: NDArray[np.float64], values: NDArray[np.float64], rows: dict[float, str]) -> str:
    found: dict[str, list[float]] = {}
    for place, value in zip(places, values, strict=True):
        found.setdefault(rows[min(rows, key=lambda row: abs(row - place))], []).append(float(value))
    if len(found) > _MANY:
        return _span(values.tolist(), f", in {len(found)} rows")
    return ", ".join(f"{name} {_span(mine)}" for name, mine in found.items())


def _span(values: Sequence[float], more: str = "") -> str:
    low, high = _short(min(values)), _short(max(values))
    return (low if low == high else f"{low} to {high}") + more


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
