"""A figure in words and in numbers: what its lines, bars, points and tables of colours show, read from the figure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, Container, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, PercentFormatter
from numpy.typing import NDArray

__all__ = ["figure_in_words", "figure_numbers"]

_LONG = 900  # characters
_MANY = 12  # points or bars that are told one by one
_BEND = 0.1  # of the range of a line, and it is told that it goes up or down on its way
_DENSE = 200  # points of a line that are kept as numbers


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


def figure_numbers(figure: Figure) -> list[dict[str, Any]]:
    """The numbers that a figure shows: a dictionary for each line or mark, group of bars, and row of a table.

    It has the title of its panel, what stands at the axes, its name, and the lists "x" and "y" of its points, with
    "x low" to "y high" where their intervals are drawn. As at the axes, numbers are in percent or replaced by names. Of
    a line at most 200 points are kept, evenly chosen; images of objects have no numbers.

    >>> figure = Figure()
    >>> _ = figure.subplots().plot([0.0, 0.1], [0.98, 0.9], label="TRN")
    >>> figure_numbers(figure)
    [{'panel': '', 'x axis': '', 'y axis': '', 'name': 'TRN', 'x': [0.0, 0.1], 'y': [0.98, 0.9]}]
    """
    names, found = dict(_named(figure)), list[dict[str, Any]]()
    for axes in figure.axes:
        if axes.get_visible():
            texts = axes.get_title(), axes.get_xlabel(), axes.get_ylabel()
            where = dict(zip(("panel", "x axis", "y axis"), (" ".join(text.split()) for text in texts), strict=True))
            found += [where | series for series in _series(axes, names)]
    return found


def _series(axes: Axes, names: dict[tuple[str, ...], str]) -> Iterator[dict[str, Any]]:
    """What is drawn in one panel, each with its name."""
    errors = [found for found in axes.containers if isinstance(found, ErrorbarContainer) and found[0] is not None]
    ends = {found[0]: found for found in errors}
    caps = {cap for found in errors for cap in found[1]}
    for number, line in enumerate((line for line in _drawn(axes) if line not in caps), start=1):
        places = np.asarray(line.get_xydata(), float)
        told = {"x": (places[:, 0], axes.xaxis), "y": (places[:, 1], axes.yaxis)}
        told |= {end: (values, told[end[0]][1]) for end, values in _intervals(line, ends.get(line))}
        step = max(1, -(-len(places) // _DENSE))
        name = _said(line) or names.get(_style(line)) or f"line {number}"
        yield {"name": name} | {side: _numbers(values[::step], axis) for side, (values, axis) in told.items()}
    for bars in (found for found in axes.containers if isinstance(found, BarContainer)):
        lying = bars.orientation == "horizontal"
        (at, along), (of, size) = [("x", axes.xaxis), ("y", axes.yaxis)][:: -1 if lying else 1]
        centres = [bar.get_y() + bar.get_height() / 2 if lying else bar.get_x() + bar.get_width() / 2 for bar in bars]
        sizes = [bar.get_width() if lying else bar.get_height() for bar in bars]
        where = _texts(along, len(bars)) or _numbers(centres, along)
        yield {"name": _said(bars) or "bars", at: where, of: _numbers(sizes, size)}
    for values in _matrices(axes):
        columns: list[Any] = [*_texts(axes.xaxis, values.shape[1])] or [*range(1, values.shape[1] + 1)]
        named = _texts(axes.yaxis, len(values)) or _texts(axes.xaxis, len(values))
        rows = named or list(map(str, range(1, len(values) + 1)))
        for row, cells in zip(rows, values, strict=True):
            yield {"name": row, "x": columns, "y": list(map(_number, cells))}


def _intervals(line: Line2D, drawn: ErrorbarContainer | None) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The ends of the intervals of a line's points: those that it was drawn with, or those of its error bars."""
    if (known := getattr(line, "intervals", None)) is not None:
        yield "y low", np.asarray([interval.low for interval in known])
        yield "y high", np.asarray([interval.high for interval in known])
    if drawn is not None:
        sides = ["x"] * drawn.has_xerr + ["y"] * drawn.has_yerr
        for side, bars in zip(sides, drawn[2], strict=True):
            ends = np.asarray([path.vertices for path in bars.get_paths()], float).reshape(-1, 2, 2)
            yield f"{side} low", ends[:, 0, "xy".index(side)]
            yield f"{side} high", ends[:, 1, "xy".index(side)]


def _texts(axis: Axis, count: int) -> list[str]:
    """What stands at the ticks of an axis, where so many were chosen and each has a text."""
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return []
    found = [" ".join(tick.get_text().split()) for tick in axis.get_ticklabels()]
    return found if len(found) == count and all(found) else []


def _numbers(values: Iterable[float], axis: Axis) -> list[Any]:
    """Values as an axis shows them: by the names that stand there, or as numbers."""
    if rows := _rows(axis):
        return [rows[min(rows, key=lambda row: abs(row - value))] for value in values]
    return [_number(_scale(axis) * value) for value in values]


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _scale(axis: Axis) -> float:
    """What numbers are multiplied with where an axis shows them."""
    shown = axis.get_major_formatter()
    return 100 / shown.xmax if isinstance(shown, PercentFormatter) else 1.0


def _panel(axes: Axes, names: dict[tuple[str, ...], str]) -> str:
    """One panel in a sentence."""
    bars = [_bars(axes, found) for found in axes.containers if isinstance(found, BarContainer)]
    lines = [said for line in _lines(axes) if (said := _line(axes, line, names))]
    points = [said for found in axes.collections if isinstance(found, PathCollection) if (said := _points(axes, found))]
    shown = [*bars, *lines, *_marks(axes, names), *points, *_tables(axes)]
    if not shown:
        return ""
    across = axes.get_xlabel()
    if across and lines and not bars:
        chosen = isinstance(
            axes.xaxis.get_major_locator(), FixedLocator
        )  # points may stand a little beside their ticks
        places = [axes.get_xticks()] if chosen else [np.asarray(line.get_xdata(), float) for line in _lines(axes)]
        ends = _scale(axes.xaxis) * np.concatenate(places)
        across += f", {_short(np.nanmin(ends))} to {_short(np.nanmax(ends))}"
    subject = " against ".join(" ".join(part.split()) for part in (axes.get_ylabel(), across) if part)
    subject = subject.replace(", %", " in %")
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


def _line(axes: Axes, line: Line2D, names: dict[tuple[str, ...], str]) -> str:
    name = _said(line) or names.get(_style(line), "")
    values = _scale(axes.yaxis) * np.asarray(line.get_ydata(), float)
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
    scale = _scale(axes.xaxis if lying else axes.yaxis)
    values = [scale * float(bar.get_width() if lying else bar.get_height()) for bar in bars]
    ticks = [tick.get_text() for tick in (axes.get_yticklabels() if lying else axes.get_xticklabels())]
    name = f"{_said(bars)} " if _said(bars) else ""
    if len(values) > _MANY:
        return f"{name}bars from {_short(min(values))} to {_short(max(values))}"
    if len(ticks) == len(values):
        return name + ", ".join(f"{tick} {_short(value)}" for tick, value in zip(ticks, values, strict=True))
    return name + ", ".join(map(_short, values))


def _points(axes: Axes, points: PathCollection) -> str:
    name, places = _said(points), _scales(axes) * np.ma.getdata(points.get_offsets())
    return _scattered(name, places) if name and len(places) else ""


def _scales(axes: Axes) -> NDArray[np.float64]:
    return np.asarray([_scale(axes.xaxis), _scale(axes.yaxis)])


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
        places = _scales(axes) * np.concatenate(found)
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
    # the powers of a logarithmic axis are written in TeX
    words = (name for name in named.values() if "$" not in name)
    return named if any(re.search(r"[^\W\d_]{2}", name) for name in words) else {}


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
    """Matrices of numbers in words."""
    return [f"a table of values from {_short(np.nanmin(v))} to {_short(np.nanmax(v))}" for v in _matrices(axes)]


def _matrices(axes: Axes) -> Iterator[NDArray[np.float64]]:
    """Matrices of numbers, which have a tick for each row, as images of objects do not."""
    for image in axes.images:
        values: NDArray[np.float64] = np.ma.filled(np.ma.asarray(image.get_array()).astype(float), np.nan)
        if values.ndim == 2 and len(axes.get_yticks()) == len(values) > 1:
            yield values


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value + 0.0:.2g}" if abs(value) < 10 else f"{value:.3g}"
