"""A figure that is wider than a phone shows on which side there is more of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
MEASURED = """figure => ({
    wider: figure.classList.contains("wider"), stop: figure.tabIndex,
    shadows: ["before", "behind"].map(side => parseFloat(figure.style.getPropertyValue(`--${side}`))),
    drawn: getComputedStyle(figure, "::before").content != "none",
    caption: figure.querySelector("figcaption").getBoundingClientRect().left,
    below: document.querySelector("#below").getBoundingClientRect().top,
})"""
HEIGHT = 200


def page_of(width: int, folder: Path) -> Path:
    style, script = ((STATIC / name).read_text("utf-8") for name in ("custom.css", "tables.js"))
    (folder / "a.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}"/>')
    image = f'<img alt="x" src="a.svg" width="{width}" height="{HEIGHT}" style="--width: {width}px">'
    file = folder / "page.html"
    file.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{style}</style><article class="bd-article">'
        f'<div class="cell_output"><figure style="margin: 0">{image}<figcaption>{"A caption. " * 20}</figcaption>'
        '</figure></div><p id="below">x</p></article>'
        '<script>still = document.querySelector("#below").getBoundingClientRect().top</script>'
        f"<script>{script}</script>",
        encoding="utf-8",
    )
    return file


@pytest.mark.slow
def test_a_shadow_is_where_there_is_more_of_a_figure_and_moves_nothing(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_context(viewport={"width": 375, "height": 800}).new_page()
    page.goto(page_of(640, tmp_path).as_uri())
    page.locator("figure.wider").wait_for()
    figure = page.locator("figure")
    begin = figure.evaluate(MEASURED)
    assert (begin["shadows"], begin["drawn"], begin["stop"]) == ([0, 14], True, 0)
    assert begin["below"] == page.evaluate("still")
    for left, shadows in ((100, [14, 14]), (9_999, [14, 0])):
        figure.evaluate("(figure, left) => { figure.scrollLeft = left }", left)
        page.wait_for_function("shadow => document.querySelector('figure').style.cssText.includes(shadow)",
                               arg=f"--before: {shadows[0]}px; --behind: {shadows[1]}px")  # fmt: skip
        assert figure.evaluate(MEASURED)["caption"] == begin["caption"]
    page.emulate_media(media="print")
    assert not figure.evaluate(MEASURED)["drawn"]


@pytest.mark.slow
@pytest.mark.parametrize(("figure", "window"), [(300, 375), (640, 1280)])
def test_a_figure_that_fits_has_none(browser: Browser, tmp_path: Path, figure: int, window: int) -> None:
    page = browser.new_context(viewport={"width": window, "height": 800}).new_page()
    page.goto(page_of(figure, tmp_path).as_uri())
    page.locator("figure[style*=behind]").wait_for()
    found = page.locator("figure").evaluate(MEASURED)
    assert (found["wider"], found["drawn"], found["stop"]) == (False, False, -1)
