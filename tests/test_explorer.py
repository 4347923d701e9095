"""Looking for oneself: what the data of the page say, and that it answers by keyboard and without a server."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from advdef.book.explorer import Answers, Looked, Shown, explorer, slider, strip
from advdef.data import Dataset
from advdef.evaluation.threats import ATTACKERS, Threat

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
EPS = {"oblivious": 0.5, "direct": 0.25, "adaptive": 0.125}
"""At which budget an attacker breaks the defences of the made-up data, but for the one that nobody breaks."""


def looked(digits: Dataset, images: int = 3) -> Looked:
    """Made up: the restorer falls as ``EPS`` says, to the next digit; the honest defence never does."""
    split = digits.test.sample(images)
    clean, labels = split.images, split.labels
    names = {"TRN": "TRN <1>", "AT": "adversarial training"}
    attacked: dict[tuple[str, Threat, float], Shown] = {}
    for threat in ATTACKERS:
        for eps in (0.125, 0.25, 0.5):
            noise = round(255 * eps) * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).sign()
            fell = eps >= EPS[threat]
            moved = (clean + noise).clamp(0, 255).byte() if fell else clean
            mine = (labels + fell) % 10
            sure = {"TRN": torch.full((images,), 0.87), "AT": torch.full((images,), 0.6)}
            attacked["TRN", threat, eps] = Shown(moved, Answers({"TRN": mine, "AT": labels}, sure), 255 - moved)
            attacked["AT", threat, eps] = Shown(clean, Answers({"AT": labels}))
    before = Answers({"TRN": labels, "AT": labels})
    names_of = [f"digit {k}" for k in range(10)]
    return Looked(
        "digits", names_of, clean, labels, names, before, attacked, 20, "made up & tried", {"TRN": 255 - clean}
    )


def data(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text[text.index("] = ") + 4 : text.rindex(";")])
    return found


def test_the_data_hold_every_image_and_every_answer(digits: Dataset) -> None:
    given = looked(digits)
    told = data(explorer(given)[1])
    assert told["labels"] == given.labels.tolist()
    assert told["budgets"] == ["0.125", "0.25", "0.5"]
    height = given.images.shape[2]
    column = torch.tensor(list(Image.open(io.BytesIO(base64.b64decode(told["images"][1]))).tobytes()))
    tiles = column.reshape(-1, height, given.images.shape[3])
    assert len(tiles) == 1 + 2 * 9 + 1 + 9  # clean, attacked, and what TRN makes of them
    assert torch.equal(tiles[0], given.images[1, 0])
    # TRN's cells come first, the adaptive attacker's at their end
    assert torch.equal(tiles[9], given.attacked["TRN", "adaptive", 0.5].images[1, 0])
    assert torch.equal(tiles[-1], 255 - tiles[9])
    label = int(given.labels[1])
    assert told["answers"][1][0] == [[label], [label]]
    assert told["answers"][1][9] == [[(label + 1) % 10, 87], [label, 60]]
    assert told["answers"][1][-1] == [0, [label]]  # what TRN answers to images made against AT was not kept


def test_a_file_has_no_more_images_than_fit(digits: Dataset) -> None:
    whole = explorer(looked(digits, 6))[1]
    page, less = explorer(looked(digits, 6), limit=len(whole) // 2)
    assert 1 <= len(data(less)["labels"]) < 6
    assert len(less) <= len(whole) // 2 + 100
    shown = len(data(less)["labels"])
    assert f"Of the {shown} images" in page
    assert data(less)["about"] == f"The first {shown} of the 20 test images that were attacked, made up & tried."


def test_the_picture_without_scripts_says_what_it_shows(digits: Dataset) -> None:
    given = looked(digits)
    page, _ = explorer(given)
    label = int(given.labels[0])
    told = re.search(r'alt="([^"]*)"', page)
    assert told is not None
    assert "what the defence makes of it" in told[1]
    assert f"TRN &lt;1&gt; answers digit {label} before and digit {(label + 1) % 10} after" in told[1]
    assert re.search(r"adversarial training</td><td>3</td><td>3</td><td>3</td><td>3</td>", page)
    assert re.search(r"TRN &lt;1&gt;</td><td>0</td><td>0</td><td>0</td><td>3</td>", page)
    picture = Image.open(io.BytesIO(strip(given, 0, "TRN")))
    without = Image.open(io.BytesIO(strip(given, 0, "AT")))
    assert picture.width > without.width > picture.height == without.height


@pytest.fixture
def page(digits: Dataset, browser: Browser, tmp_path: Path) -> Page:
    """Both forms in a file, without a server, as narrow as a phone."""
    (tmp_path / "_static" / "made").mkdir(parents=True)
    (tmp_path / "book").mkdir()
    parts = {"explorer-data.js": explorer(looked(digits)), "slider-data.js": slider(looked(digits), "TRN")}
    body = "".join("".join(re.findall(r"`{4}\{raw\} html\n(.*?)`{4}", part, re.DOTALL)) for part, _ in parts.values())
    for name, (_, content) in parts.items():
        (tmp_path / "_static" / "made" / name).write_text(content, encoding="utf-8")
    (tmp_path / "_static" / "explorer.js").write_bytes((STATIC / "explorer.js").read_bytes())
    head = f'<meta charset="utf-8"><title>t</title><style>{(STATIC / "custom.css").read_text(encoding="utf-8")}</style>'
    (tmp_path / "book" / "page.html").write_text(f"<!doctype html>{head}<body>{body}", encoding="utf-8")
    found = browser.new_context(viewport={"width": 375, "height": 800}).new_page()
    found.goto((tmp_path / "book" / "page.html").as_uri())
    return found


@pytest.mark.slow
def test_it_answers_by_keyboard_and_from_a_file(page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    whole = page.locator("figure[data-explorer=all][data-ready]")
    whole.wait_for()
    said, slide = whole.get_by_role("status"), whole.get_by_role("slider")
    assert "knows the defence, eps 0.5: TRN <1> answers digit" in said.inner_text()
    assert "(87\u00a0%) instead of digit" in said.inner_text()
    slide.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert slide.get_attribute("aria-valuetext") == "no attack"
    assert "which is right" in said.inner_text()
    page.keyboard.press("ArrowRight")  # the smallest budget: only the one who knows the defence breaks it
    assert "instead of" in said.inner_text()
    whole.get_by_label("Attacker").select_option(label="direct: who follows the gradient of the defence")
    assert "nothing that was tried broke TRN <1>" in said.inner_text()
    whole.get_by_label("Defence", exact=True).select_option(label="adversarial training")
    assert whole.locator(".explorer-views > div:visible").count() == 3  # it changes no image
    whole.get_by_role("radio").first.focus()
    before = said.inner_text()
    page.keyboard.press("ArrowDown")
    assert said.inner_text() != before
    assert whole.locator("canvas[role=img]:visible").first.get_attribute("aria-label") is not None
    assert page.evaluate("document.documentElement.scrollWidth") <= 376
    assert errors == []


@pytest.mark.slow
def test_the_small_form_has_a_slider_alone(page: Page) -> None:
    small = page.locator("figure[data-explorer=one][data-ready]")
    small.wait_for()
    assert small.locator("select, table").count() == 0
    small.get_by_role("slider").press("End")
    assert "instead of" in small.get_by_role("status").inner_text()
    # what is drawn is what was recorded: the change shows, amplified, in the second picture
    levels = (
        small.locator("canvas")
        .nth(1)
        .evaluate(
            "canvas => [...new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)]"
        )
    )
    assert len(levels) > 2
