"""A figure in words and in numbers says what was drawn, and a notebook keeps both beside the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from advdef.evaluation import Results
from advdef.figuretext import figure_in_words, figure_numbers
from advdef.peers.agreement import Comparison
from advdef.peers.budgets import Contestant, Spent
from advdef.peers.figures import ours_and_theirs, passes_and_accuracy
from advdef.plotting import WIDTH, image_grid, interval_line, percent_axis, threat_panels
from advdef.statistics import Interval, paired_difference, wilson

ROOT = Path(__file__).resolve().parents[1]
IN_A_NOTEBOOK = """
import json
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from advdef.plotting import use_style

shell = InteractiveShell.instance()
use_style()
drawn, empty = Figure(), Figure()
drawn.subplots().plot([0, 1], [0.9, 0.1], label="TRN")
for figure in (drawn, empty):
    found, metadata = shell.display_formatter.format(figure)
    print(found["text/plain"])
    print(json.dumps([found.get("image/svg+xml", "")[:5], metadata]))
"""


def test_lines_are_told_by_their_ends_and_bends_under_the_names_of_one_legend() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    for panel, label, values in ((left, "TRN", [0.9, 0.2]), (right, "_hidden", [0.5, 0.1])):
        panel.plot([0, 0.1], values, color="#D55E00", label=label)
    left.plot([0, 0.05, 0.1], [0.2, 0.8, 0.3], color="#000000", label="none")
    left.plot([0, 0.1], [0.4, 0.4], color="#0072B2", label="flat")
    left.axhline(0.5, label="chance")
    left.set(title="adaptive", xlabel="eps", ylabel="accuracy")
    right.set(title="direct")
    assert figure_in_words(figure) == (
        "adaptive, accuracy against eps, 0 to 0.1: TRN from 0.9 to 0.2; none from 0.2 by way of 0.8 to 0.3; "
        "flat at 0.4. direct: TRN from 0.5 to 0.1."
    )


def test_a_figure_with_intervals_tells_values_at_the_budgets() -> None:
    results = Results()
    for eps, left in ((0.2, 3), (0.1, 8)):
        hits = torch.arange(10) < left
        where = dict(part="curve", dataset="digits", model="CNN", defence="TQ", attack="worst case", eps=eps, seed=0)
        results.add_hits(hits, threat="adaptive", **where)  # type: ignore[arg-type]
    told = figure_in_words(threat_panels(results))
    assert told == "adaptive, robust accuracy in % against eps, 0.1 to 0.2: TQ from 80 to 30."


def test_bars_points_tables_and_images() -> None:
    figure = Figure()
    bars, points, table = figure.subplots(1, 3)
    bars.bar([0, 1], [0.25, 1200], label="TRN")
    bars.set_xticks([0, 1], ["R0", "R1"])
    points.scatter([1, 2], [3, 4], label="SNS")
    points.scatter([1, 2, 3, 6], [1, 1, 1, 5], label="AT")
    table.imshow(np.array([[1.0, -0.5], [0.25, 1.0]]))
    table.set(xticks=[0, 1], yticks=[0, 1], title="D1")
    told = figure_in_words(figure)
    assert "TRN R0 0.25, R1 1,200." in told
    assert "SNS at (1, 3), (2, 4); AT, 4 points around (3, 2)." in told
    assert "D1: a table of values from -0.5 to 1." in told
    images = image_grid({"clean": torch.rand(2, 1, 4, 4)}, columns=["5 → 3", "7 → 7"])
    assert figure_in_words(images) == "Over the columns of images: 5 → 3; 7 → 7."


def test_marks_that_no_line_joins_are_told_by_the_name_of_their_row_or_their_place() -> None:
    figure = Figure()
    rows, single = figure.subplots(1, 2)
    for line, (seems, true) in enumerate([(96.0, 2.0), (61.0, 60.0)]):
        rows.plot([true, seems], [line, line], color="0.8")
        for label, marker, value, shift in (("apparent", "s", seems, -0.1), ("true", "D", true, 0.1)):
            told = label if line == 0 else None
            rows.errorbar(value, line + shift, xerr=[[1], [1]], fmt=marker, color="#000000", capsize=2, label=told)
    rows.set_yticks([0, 1], ["scaled", "honest"])
    rows.set(xlabel="accuracy, %")
    for place in ((0.9, 0.3), (0.8, 0.4)):
        single.plot(*place, "o", color="#009E73", label="SNS" if place[0] == 0.9 else None)
    single.plot([0.1, 0.2, 0.3, 0.6], [0, 0, 0, 0.4], ls="", marker="^", label="AT")
    single.errorbar([0.1], [0.5], yerr=[[0.1], [0.1]], marker="v", label="TRN")
    assert figure_in_words(figure) == (
        "accuracy in %: apparent scaled 96, honest 61; true scaled 2, honest 60. "
        "SNS at (0.9, 0.3), (0.8, 0.4); AT, 4 points around (0.3, 0.1); TRN at (0.1, 0.5)."
    )


def test_many_marks_in_named_rows_are_told_by_their_ends() -> None:
    figure = Figure()
    panel = figure.subplots()
    panel.plot([0.5, -6, 7], [0, 1, 1], ls="", marker="o", label="foolbox")
    panel.plot(range(13), range(13), ls="", marker="s", label="art")
    panel.plot([], [], ls="", marker="^", label="nothing")
    panel.set_yticks(range(13), ["PGD Linf", "MIM L2", *(f"attack {number}" for number in range(11))])
    assert figure_in_words(figure) == "foolbox PGD Linf 0.5, MIM L2 -6 to 7; art 0 to 12, in 13 rows."


def test_the_figures_of_other_libraries_fit_the_page_and_have_words() -> None:
    hits = torch.arange(10) < 5
    pairs = [
        Comparison("PGD", "Linf", eps, "foolbox", "1", hits, torch.arange(10) < left, 1.0, 1.0, "")
        for eps, left in ((0.1, 5), (0.2, 6))
    ]
    passes = torch.tensor([20.0, 200.0])
    spent = Spent(Contestant("PGD", "advdef", "Linf", len), 0.1, (20, 200), passes, hits.expand(2, 10))
    for figure in (ours_and_theirs([pairs]), passes_and_accuracy([spent])):
        assert figure.get_figwidth() <= WIDTH
        assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 8
        assert "PGD" in figure_in_words(figure)


def test_shares_on_an_axis_in_percent_are_told_and_counted_in_percent() -> None:
    figure = Figure()
    lines, bars, marks = figure.subplots(1, 3)
    lines.plot([0.25, 0.5], [0.9, 0.1], label="TRN")
    bars.bar([0, 1], [0.25, 1.0], label="one")
    marks.errorbar(0.5, 0.25, fmt="o", label="SNS")
    for panel in (lines, bars, marks):
        percent_axis(panel.yaxis, "accuracy")
    percent_axis(lines.xaxis, "success")
    percent_axis(marks.xaxis)
    assert figure_in_words(figure) == (
        "accuracy in % against success in %, 25 to 50: TRN from 90 to 10. accuracy in %: one 25, 100. "
        "accuracy in %: SNS at (50, 25)."
    )
    drawn = [(series["name"], series["x"], series["y"]) for series in figure_numbers(figure)]
    assert drawn == [("TRN", [25, 50], [90, 10]), ("one", [0, 1], [25, 100]), ("SNS", [50], [25])]


def test_numbers_have_their_intervals_and_the_names_at_the_axes() -> None:
    figure = Figure()
    band, rows, bars, table, pictures = figure.subplots(1, 5)
    interval_line(
        band, [1, 10], [Interval(0.5, 0.25, 0.75), Interval(0.1, 0.0, 0.2)], colour="#000000", label="a", style=":"
    )
    band.plot([1, 10], [0.5, 0.1], ":", color="#000000")
    band.axhline(0.5)
    band.set(title="of\nMNIST", xlabel="eps", ylabel="accuracy", xscale="log")
    for line, name in enumerate(("PGD", "FGSM")):
        label = "attack" if name == "PGD" else None
        rows.errorbar(2.0, line + 0.2, xerr=[[0.5], [1.0]], fmt="o", color="#0072B2", capsize=2, label=label)
    rows.set_yticks([0, 1], ["PGD", "FGSM"])
    bars.barh([0, 1], [3, float("nan")])
    bars.set_yticks([0, 1], ["R0", "all"])
    table.imshow(np.array([[1.0, -0.5], [0.25, 1.0]]))
    table.set_xticks([0, 1], ["D1", "D4"])
    table.set_yticks([0, 1], [])
    pictures.imshow(np.zeros((4, 4)))
    pictures.set(xticks=[], yticks=[])
    first, second, *found = figure_numbers(figure)
    assert first == {
        "panel": "of MNIST", "x axis": "eps", "y axis": "accuracy", "name": "a", "x": [1, 10], "y": [0.5, 0.1],
        "y low": [0.25, 0.0], "y high": [0.75, 0.2],
    }  # fmt: skip
    assert second["y"] == [0.5, 0.1]
    assert "y low" not in second
    told = [{key: value for key, value in one.items() if value != ""} for one in found]
    assert told == [
        {"name": "attack", "x": [2], "y": ["PGD"], "x low": [1.5], "x high": [3]},
        {"name": "attack", "x": [2], "y": ["FGSM"], "x low": [1.5], "x high": [3]},
        {"name": "bars", "y": ["R0", "all"], "x": [3, None]},
        {"name": "D1", "x": ["D1", "D4"], "y": [1, -0.5]},
        {"name": "D4", "x": ["D1", "D4"], "y": [0.25, 1]},
    ]


def test_of_a_long_line_few_points_are_kept() -> None:
    figure = Figure()
    figure.subplots().plot(np.linspace(0, 1, 2001))
    (line,) = figure_numbers(figure)
    assert line["name"] == "line 1"
    assert line["x"][:2] == [0, 11]
    assert 100 < len(line["x"]) == len(line["y"]) <= 200


def test_comparisons_with_other_libraries_have_their_intervals() -> None:
    ours, theirs = torch.arange(10) < 5, torch.arange(10) < 6
    pair = Comparison("PGD", "Linf", 0.1, "foolbox", "1", ours, theirs, 1.0, 1.0, "")
    other = Comparison("universal", "Linf", 0.1, "art", "1", ours, theirs, 1.0, 1.0, "")
    found = figure_numbers(ours_and_theirs([[pair, other]]))
    assert [series["name"] for series in found] == ["foolbox", "art", "foolbox"]
    left, gap = wilson(6, 10), paired_difference(ours, theirs)
    assert (found[0]["x"], found[0]["y"]) == ([60], [50])
    ends = [*found[0]["x low"], *found[0]["x high"]]
    assert ends == pytest.approx([100 * left.low, 100 * left.high], abs=0.01)
    assert (found[2]["x"], found[2]["y"]) == ([pytest.approx(-10)], ["PGD Linf"])
    assert found[2]["x high"] == pytest.approx([100 * gap.high], abs=0.01)
    spent = Spent(
        Contestant("PGD", "advdef", "L2", len), 0.1, (20, 200), torch.tensor([20.0, 200.0]), ours.expand(2, 10)
    )
    (line,) = figure_numbers(passes_and_accuracy([spent]))
    assert (line["x"], line["y"]) == ([20, 200], [50, 50])
    assert line["y low"] == pytest.approx(2 * [100 * wilson(5, 10).low], abs=0.01)


def test_a_long_text_is_cut_at_a_word() -> None:
    figure = Figure()
    axes = figure.subplots()
    for number in range(200):
        axes.plot([0, 1], [number, 0], color=(0, 0, number / 255), label=f"line {number}")
    told = figure_in_words(figure)
    assert 800 < len(told) <= 900
    assert told.endswith(" …")


def test_a_notebook_keeps_words_and_numbers_beside_the_picture() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_NOTEBOOK], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    words, kept, nothing, none_kept = done.stdout.splitlines()[-4:]
    assert words == "TRN from 0.9 to 0.1."
    assert nothing.startswith("<Figure size")
    svg, metadata = json.loads(kept)
    assert svg == "<?xml"
    (line,) = metadata["image/svg+xml"]["numbers"]
    assert (line["name"], line["y"]) == ("TRN", [0.9, 0.1])
    assert json.loads(none_kept) == ["", {}]
