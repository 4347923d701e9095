"""The site in a browser: every page, wide and narrow, light and dark, with all requests to other servers refused."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from advdef.repository import Repository
from advdef.site import render, toc_files

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = [pytest.mark.site, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
PAGES = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text()))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a browser would otherwise look up by itself.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTH = 375


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, rendered from the committed notebooks (not at all without a browser)."""
    return render(Repository(ROOT), tmp_path_factory.mktemp("site")).parent


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Visit:
    """A window that notes what goes wrong in it and which other servers it asks."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.errors: list[str] = []
        self.refused: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route("**/*", self._own_server_only)

    def _own_server_only(self, route: Route) -> None:
        if route.request.url.startswith(self.address):
            route.continue_()
        else:
            self.refused.append(route.request.url)
            route.abort()

    def open(self, name: str, *, settled: bool = False) -> Page:
        """The page once it has loaded; `settled`: and once it has asked for nothing more for half a second."""
        self.page.goto(f"{self.address}/{name}", wait_until="networkidle" if settled else "load")
        return self.page


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield Visit(context.new_page(), address)
    context.close()


@pytest.mark.parametrize("name", PAGES)
class TestPage:
    def test_it_opens_without_errors_and_asks_no_other_server(self, visit: Visit, name: str) -> None:
        page = visit.open(f"{name}.html", settled=True)
        assert visit.errors == []
        assert visit.refused == []
        # The theme keeps a second heading for print.
        assert page.locator("h1:visible").count() == 1
        heading = page.locator("h1:visible").evaluate("h => h.firstChild.textContent.trim()")
        assert heading
        assert page.title().startswith(heading)

    def test_images_have_alternative_text(self, visit: Visit, name: str) -> None:
        page = visit.open(f"{name}.html")
        images = page.locator("img").evaluate_all(
            "images => images.map(i => [i.src, i.alt.trim(), i.naturalWidth > 0])"
        )
        assert [source for source, text, _ in images if not text] == []
        assert [source for source, _, loaded in images if not loaded] == []
        # A figure that its author did not describe would carry myst-nb's path instead.
        assert [text for _, text, _ in images if re.search(r"\.(png|svg|jpe?g)$", text)] == []
        drawings = page.locator("article svg[role=img]:not([aria-hidden=true])").evaluate_all(
            "drawings => drawings.map(d => d.querySelector('title')?.textContent ?? '')"
        )
        assert all(drawings)

    def test_it_fits_a_phone(self, visit: Visit, name: str) -> None:
        visit.page.set_viewport_size({"width": WIDTH, "height": 800})
        page = visit.open(f"{name}.html", settled=True)  # with its formulas
        beyond = """width => [...document.querySelectorAll("article *")]
            .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 80)).slice(0, 5)"""
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH + 1, page.evaluate(beyond, WIDTH)

    def test_links_within_the_site_lead_somewhere(self, visit: Visit, site: Path, name: str) -> None:
        page = visit.open(f"{name}.html")
        links = page.locator("a[href]").evaluate_all("links => links.map(a => a.href)")
        own = {link for link in links if link.startswith(visit.address)}
        assert own
        assert sorted(link for link in own if not _leads_somewhere(link, site)) == []


def _leads_somewhere(link: str, site: Path) -> bool:
    parts = urlsplit(link)
    target = site / unquote(parts.path).lstrip("/")
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return False
    return not parts.fragment or f'id="{unquote(parts.fragment)}"' in target.read_text(encoding="utf-8")


def test_the_first_page_is_the_introduction(visit: Visit) -> None:
    page = visit.open("index.html")
    page.wait_for_url("**/book/intro.html")
    assert page.locator("table.results").count() >= 2  # pasted from a notebook
    assert page.locator(".verdict").count() >= 4


def test_search_finds_the_paper(visit: Visit) -> None:
    page = visit.open("search.html?q=quantis")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    assert any("notebooks/01_qusecnets.html" in link for link in found)
    assert visit.errors == []


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("notebooks/")])
def test_the_colab_button_opens_the_committed_notebook(visit: Visit, name: str) -> None:
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    button = visit.open(f"{name}.html").locator("a[href*='colab.research.google.com']")
    path = urlsplit(address).path.strip("/")
    wanted = f"https://colab.research.google.com/github/{path}/blob/main/{name}.ipynb"
    assert set(button.evaluate_all("links => links.map(a => a.href)")) == {wanted}
    assert (ROOT / f"{name}.ipynb").is_file()


def test_the_references_list_the_paper(visit: Visit) -> None:
    text = visit.open("book/references.html").locator("article").inner_text()
    assert "QuSecNets" in text
    assert "10.1109/IOLTS.2019.8854377" in text


def test_formulas_are_typeset(visit: Visit) -> None:
    page = visit.open("book/protocol.html")
    page.wait_for_selector("mjx-container mjx-math")
    assert page.locator("mjx-merror").count() == 0


def test_dark_mode(visit: Visit) -> None:
    page = visit.open("book/intro.html")
    button = page.locator(".theme-switch-button:visible")
    seen = {}
    for _ in range(3):
        button.click()
        theme = page.evaluate("document.documentElement.dataset.theme")
        seen[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert set(seen) == {"light", "dark"}
    assert seen["light"] != seen["dark"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_verdicts_can_be_read(visit: Visit, theme: str) -> None:
    page = visit.open("book/intro.html")
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    colours = page.locator(".verdict").evaluate_all(
        "badges => badges.map(b => { const s = getComputedStyle(b); return [s.color, s.backgroundColor] })"
    )
    assert min(_contrast(text, ground) for text, ground in colours) >= 4.5  # WCAG 2.2, AA


def _contrast(one: str, other: str) -> float:
    """Contrast ratio of two CSS colours ``rgb(r, g, b)``."""
    darker, lighter = sorted(_luminance(colour) for colour in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
