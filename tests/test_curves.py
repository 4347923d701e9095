"""Curves to read values from: every point says what it is, and the keyboard reaches each of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle

from advdef.book.curves import curve_rows, readable_curves
from advdef.evaluation import Results
from advdef.evaluation.results import Row
from advdef.plotting import threat_panels

if TYPE_CHECKING:
    from playwright.sync_api import Browser

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
LEFT = {"TRN": (80, 60, 5), "a <b>": (50, 40, 30)}
"""How many of 100 images three attackers leave at the smaller budget; at the larger one half of that."""


def record(*, budgets: tuple[float, ...] = (0.05, 0.1), part: str = "curve") -> dict[str, Any]:
    rows: list[Row] = []
    for defence, counts in LEFT.items():
        for threat, count in zip(("oblivious", "direct", "adaptive"), counts, strict=True):
            for place, eps in enumerate(budgets):
                correct = count // (1 + place)
                told = {
                    "part": part,
                    "dataset": "mnist",
                    "model": "net",
                    "attack": "worst case",
                    "norm": "Linf",
                    "seed": 0,
                }
                told |= {"low": 0.01, "high": 0.99, "n": 100, "correct": correct, "accuracy": correct / 100}
                rows.append(told | {"defence": defence, "threat": threat, "eps": eps})
    return {"paper": "trn", "dataset": "mnist", "results": Results(rows), "provenance": {"seed": 0}}


def test_every_point_says_what_it_is() -> None:
    made = readable_curves(record())
    assert made.count('class="point"') == 2 * 3 * 2
    assert 'data-told="TRN, eps 0.1: 2.0\u00a0% [1.0, 99.0] of 100 images right under an attacker who knows' in made
    assert "<title>An attacker who knows the defence, eps 0.05 to 0.1: TRN 5 % to 2 %; a &lt;b&gt; 30 % to 15 %" in made
    assert "<b>" not in made.replace("<b>oblivious", "").replace("<b>direct", "").replace("<b>adaptive", "")


def test_higher_is_more_accurate_and_further_right_a_larger_budget() -> None:
    places = [
        (float(x), float(y))
        for x, y in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", readable_curves(record()))
    ]  # fmt: skip
    (first_x, first_y), (second_x, second_y) = places[:2]  # TRN and the oblivious attacker: 80, then 40 %
    assert first_x < second_x
    assert first_y < second_y
    assert second_y - first_y == pytest.approx(0.4 * 148, abs=0.2)


def test_one_budget_is_no_curve_and_a_table_of_worst_cases_is_one() -> None:
    assert readable_curves(record(budgets=(0.1,))) == ""
    assert readable_curves(record(part="worst")) == readable_curves(record())


def test_a_budget_that_the_curves_leave_out_is_that_of_the_worst_cases() -> None:
    worst = record(budgets=(0.1, 0.2), part="worst")["results"].rows
    others = [row | {"defence": "other"} for row in worst if row["defence"] == "TRN"]
    found = curve_rows(record() | {"results": Results([*worst, *others, *record()["results"]])})
    assert len(found) == 2 * 3 * 3
    assert {row["defence"] for row in found} == set(LEFT)
    assert {row["part"] for row in found if row["eps"] == 0.1} == {"curve"}


def corners(mark: str) -> list[tuple[float, float]]:
    """The corners of a closed SVG path of straight lines."""
    x = y = 0.0
    found = []
    for step, ends in re.findall(r"([MLHlhv])([^A-Za-z]*)", mark):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", ends)]
        if step in "hv":
            numbers = [numbers[0], 0.0] if step == "h" else [0.0, numbers[0]]
        if step == "H":
            numbers.append(y)
        x, y = (numbers[0], numbers[1]) if step.isupper() else (x + numbers[0], y + numbers[1])
        found.append((x, y))
    return found


def in_a_square(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points scaled into the unit square."""
    scaled = []
    for values in zip(*set(points), strict=True):
        low, high = min(values), max(values)
        scaled.append([(value - low) / (high - low) for value in values])
    return sorted((round(x, 1), round(y, 1)) for x, y in zip(*scaled, strict=True))


def test_a_defence_has_one_colour_and_one_mark_here_and_in_the_figure_of_the_notebook() -> None:
    """Nine defences, some of which have no colour of their own."""
    mpl.use("Agg")
    names = ("undefended", "AT", "CQ", "one", "SNS", "NIP", "another", "purifier", "a ninth")
    trn = [row for row in record()["results"] if row["defence"] == "TRN"]
    results = Results(row | {"defence": name} for name in names for row in trn)
    made = readable_curves(record() | {"results": results})
    legend = re.findall(r'--line: (\S+?)"><path class="line"[^>]*/><path d="([^"]*)"/></g></svg>(.*?)</span>', made)
    containers = threat_panels(results).axes[0].containers
    for (colour, mark, name), container in zip(legend, containers, strict=True):
        line = container.lines[0]
        assert container.get_label() == name
        assert to_hex(line.get_color()) == ("#000000" if colour == "currentColor" else colour.lower())
        style = MarkerStyle(line.get_marker())
        if line.get_marker() == "o":
            assert "a3 3" in mark
        else:
            outline = style.get_path().transformed(style.get_transform()).vertices
            assert in_a_square(corners(mark)) == in_a_square((x, -y) for x, y in outline.round(6).tolist())
    assert len({mark for _, mark, _ in legend}) == 8
    plt.close("all")


@pytest.mark.slow
def test_the_keyboard_reads_values_and_hides_a_defence(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "_static").mkdir()
    (tmp_path / "book").mkdir()
    (tmp_path / "_static" / "curves.js").write_bytes((STATIC / "curves.js").read_bytes())
    body = re.findall(r"`{4}\{raw\} html\n(.*?)`{4}", readable_curves(record()), re.DOTALL)[0]
    style = (STATIC / "custom.css").read_text(encoding="utf-8")
    file = tmp_path / "book" / "page.html"
    file.write_text(f'<!doctype html><meta charset="utf-8"><style>{style}</style>{body}', encoding="utf-8")
    page = browser.new_context(viewport={"width": 375, "height": 800}).new_page()
    page.goto(file.as_uri())
    panel, said = page.locator(".panels svg").nth(2), page.locator(".readout")
    panel.focus()
    assert said.inner_text().startswith("TRN, eps 0.05: 5.0")
    page.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("TRN, eps 0.1: 2.0")
    page.keyboard.press("ArrowDown")
    assert said.inner_text().startswith("a <b>, eps 0.1: 15.0")
    page.get_by_label("a <b>").uncheck()
    assert page.locator('.panels g[data-defence="1"]:visible').count() == 0
    panel.focus()
    page.keyboard.press("ArrowDown")
    assert said.inner_text().startswith("TRN")
    page.locator(".panels svg").first.hover(position={"x": 1, "y": 1})
    assert "ignores the defence" in said.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 376
