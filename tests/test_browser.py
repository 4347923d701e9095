"""The site in a browser: every page, wide and narrow, light and dark, with all requests to other servers refused."""

from __future__ import annotations

import functools
import gzip
import http.server
import importlib
import inspect
import pkgutil
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import pytest
import yaml

import advdef
from advdef.book.links import check_links
from advdef.book.provenance import source_commit
from advdef.book.repository import Repository
from advdef.book.site import render, toc_files

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route, ViewportSize

pytestmark = [pytest.mark.site, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
PAGES = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text()))
# The pages of the reference come from one template: axe looks at this one, and with --all at every one of them.
OF_THE_REFERENCE = "book/api/qusecnets"
# One style sheet makes all pages dark: axe looks at one of each kind, and with --all at every one.
DARK = ("book/intro", "book/verdicts", "book/cards", "book/glance", OF_THE_REFERENCE)
DARK += ("notebooks/01_qusecnets", "notebooks/30_five_defences", "notebooks/40_your_classifier")
WIDTH = 375
WIDE: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": WIDTH, "height": 800}
TABLET: ViewportSize = {"width": 968, "height": 900}
QUESTIONS = {
    "how to cite": "book/about",
    "citation": "book/about",
    "GPU": "book/rerun",
    "own data": "book/own_data",
    "MNIST accuracy": "notebooks/0",  # that of a paper
    "CIFAR-10": "notebooks/0",
    "obfuscated gradients": "book/glossary",
    "which defence is best": "notebooks/30_five_defences",
}
"""What readers ask the search for, and how the name of one of the first two pages begins that it has to find."""


DECIDES = (
    "adaptive %", "adaptive − AT", "made for it", "multiply-adds, of undefended", "clean accuracy %", "front",
    "ours leave, %", "broken at 1.05 times the optimum, %", "local optimality", "measured", "now",
)  # fmt: skip
"""Columns that decide wherever they stand, the first of these in a table that has several."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, rendered from the committed notebooks."""
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

    def open(self, name: str) -> Page:
        """The page once it has loaded."""
        self.page.goto(f"{self.address}/{name}")
        return self.page


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    yield Visit(context.new_page(), address)
    context.close()


@dataclass(frozen=True)
class Seen:
    """What one visit to a page found: wide, then as wide as a phone, then wide again, light and dark."""

    name: str
    errors: list[str]
    refused: list[str]
    headings: list[str]
    title: str
    images: list[tuple[str, str, bool]]  # address, alternative text, whether it has loaded
    drawings: list[str]
    colab: set[str]  # addresses
    bytes_sent: int
    phone_width: int
    too_wide: list[str]
    undecided: list[str]  # captions of tables that mark no column, or more than one
    wrong: list[str]  # captions of tables in which another column decides than should
    hidden: dict[int, list[str]]  # captions of tables whose deciding column is out of sight, by the window's width
    findings: dict[str, list[str]]  # of axe-core, by theme, where it looked


SHIFTS = """
    window.shifted = window.painted = 0;
    const see = (type, told) =>
        new PerformanceObserver(list => list.getEntries().forEach(told)).observe({type, buffered: true});
    see("layout-shift", entry => { if (!entry.hadRecentInput) shifted += entry.value; });
    see("largest-contentful-paint", entry => { painted = entry.startTime; });
"""
UNDECIDED = """() => [...document.querySelectorAll("table.results")]
    .filter(t => t.tHead.rows[0].cells.length > 1 && t.querySelectorAll("thead .deciding").length != 1)
    .map(t => t.caption.textContent)"""
MARKED = """() => [...document.querySelectorAll("table.results:has(thead .deciding)")].map(t => [
    t.caption.textContent, [...t.tHead.rows[0].cells].map(c => c.textContent.trim()),
    t.querySelector("thead .deciding").textContent.trim()])"""
HIDDEN = """() => [...document.querySelectorAll("table.results:has(.deciding)")].filter(table => {
    if (!table.offsetParent) return false;  // in what is folded
    const [key, deciding] = [".key", ".deciding"].map(k => table.querySelector(`thead ${k}`).getBoundingClientRect());
    const end = table.getBoundingClientRect().left + table.clientWidth;
    return deciding.width == 0 || deciding.left < key.right - 1 || deciding.right > end + 3;  // borders
}).map(table => table.caption.textContent.slice(0, 60))"""
TOO_WIDE = """width => [...document.querySelectorAll("article *")]
    .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 80)).slice(0, 5)"""
# axe-core takes a minute for the longest page, nearly all of it for table rows and words of code that are built alike,
# down to each class and attribute but for addresses: one of them stays, in an odd and in an even row
ONE_OF_EACH = """() => {
    for (const kind of ["tbody tr", "pre span", ".sig span"]) {
        const seen = new Set();
        for (const one of document.querySelectorAll(`article ${kind}`)) {
            const parts = [one.parentElement?.closest("[class]"), one, ...one.querySelectorAll("*")];
            const shape = parts.map(e => [e?.tagName, ...[...(e?.attributes ?? [])]
                .filter(a => !["id", "href"].includes(a.name)).map(a => `${a.name}=${a.value}`)].join()).join("|");
            const key = `${one.sectionRowIndex % 2} ${shape}`;
            if (seen.has(key)) one.remove();
            seen.add(key);
        }
    }
}"""

STOPS = """() => [...document.querySelectorAll("table.results")].filter(table => table.offsetParent)
    .map(table => [table.scrollWidth > table.clientWidth + 1, table.tabIndex === 0])"""
MOVING = """() => [...document.querySelectorAll("*")].flatMap(e => [null, "::before", "::after"].filter(part => {
    const style = getComputedStyle(e, part);
    return `${style.transitionDuration},${style.animationDuration}`.split(",").some(time => parseFloat(time) > 0.01);
}).map(part => `${e.outerHTML.slice(0, 60)} ${part ?? ""}`)).slice(0, 5)"""

OF_COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[BrowserContext]:
    """What all pages are seen in, one after the other."""
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    yield context
    context.close()


ALIKE = [name for name in PAGES if name.startswith("book/api/") and name != OF_THE_REFERENCE]


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.thorough] * (name in ALIKE[1:])) for name in PAGES]
)
def seen(request: pytest.FixtureRequest, window: BrowserContext, address: str, site: Path) -> Iterator[Seen]:
    sync_playwright = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    axe = sync_playwright.Axe()
    visit, asked = Visit(window.new_page(), address), set[str]()
    visit.page.on("request", lambda message: asked.add(urlsplit(message.url).path))
    page = visit.open(f"{request.param}.html")
    # what a reader who goes through the page will see
    page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    page.wait_for_load_state("networkidle")
    # axe asks for files itself, so these are taken down before it
    facts = {
        "name": request.param,
        "errors": list(visit.errors),
        "refused": list(visit.refused),
        "bytes_sent": sum(_sent(site / unquote(path).lstrip("/")) for path in asked),
        "headings": page.locator("h1:visible").evaluate_all("all => all.map(h => h.firstChild.textContent.trim())"),
        "title": page.title(),
        "images": [
            tuple(image)
            for image in page.locator("img").evaluate_all(
                "images => images.map(i => [i.src, i.alt.trim(), i.complete && i.naturalWidth > 0])"
            )
        ],
        "drawings": page.locator("article svg[role=img]:not([aria-hidden=true])").evaluate_all(
            "drawings => drawings.map(d => d.querySelector('title')?.textContent ?? '')"
        ),
        "colab": set(
            page.locator("a[href*='colab.research.google.com']").evaluate_all("links => links.map(a => a.href)")
        ),
    }
    page.set_viewport_size(PHONE)
    facts["phone_width"] = page.evaluate("document.documentElement.scrollWidth")
    facts["too_wide"] = page.evaluate(TOO_WIDE, WIDTH)
    facts["undecided"], facts["hidden"] = page.evaluate(UNDECIDED), {}
    facts["wrong"] = [
        caption for caption, names, marked in page.evaluate(MARKED) if marked != _due(caption, names, marked)
    ]
    for window_ in (PHONE, TABLET, WIDE):
        page.set_viewport_size(window_)
        facts["hidden"][window_["width"]] = page.evaluate(HIDDEN)
    page.evaluate(ONE_OF_EACH)
    page.add_style_tag(content="*, ::before, ::after { transition: none !important }")  # nobody waits for colours
    findings = {}
    looked_at = request.param in DARK or request.config.getoption("all")
    for theme, rules in {"light": {}, "dark": OF_COLOURS}.items() if looked_at else ():
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        findings[theme] = [
            f"{found['impact']}: {found['id']} ({len(found['nodes'])} places, the first {found['nodes'][0]['target']})"
            for found in axe.run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
            if found["impact"] in ("serious", "critical")
        ]
    yield Seen(findings=findings, **facts)
    page.close()


def _due(caption: str, names: list[str], marked: str) -> str:
    """The column that should decide in a table; the one that is marked where nothing says so."""
    profile = re.search(r"this page: profile (\w+)", caption)
    return profile[1] if profile else next((name for name in DECIDES if name in names), marked)


def _sent(file: Path) -> int:
    """What crosses the net for a file: hosts compress text."""
    content = file.read_bytes() if file.is_file() else b""
    return len(gzip.compress(content, 6) if file.suffix in (".html", ".js", ".css", ".svg", ".json") else content)


def test_a_page_is_whole(seen: Seen) -> None:
    """No error, no other server, figures that are described, room on a phone, nothing that axe objects to."""
    path = urlsplit(yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]).path
    commit = source_commit() or "+"
    at = "main" if commit.endswith("+") else commit
    colab = f"https://colab.research.google.com/github/{path.strip('/')}/blob/{at}/{seen.name}.ipynb"
    notebook = seen.name.startswith("notebooks/")
    found = {
        "errors": seen.errors,
        "other servers": seen.refused,
        # the theme keeps a second heading for print
        "heading": [] if len(seen.headings) == 1 and seen.title.startswith(*seen.headings) else seen.headings,
        "images without a text": [source for source, text, _ in seen.images if not text],
        "images that did not load": [source for source, _, loaded in seen.images if not loaded],
        # a figure that its author did not describe would carry myst-nb's path instead
        "paths as texts": [text for _, text, _ in seen.images if re.search(r"\.(png|svg|jpe?g)$", text)],
        "drawings without a title": [number for number, title in enumerate(seen.drawings) if not title],
        "too wide for a phone": seen.too_wide if seen.phone_width > WIDTH + 1 else [],
        "tables that do not say what decides": seen.undecided,
        "tables in which another column decides": seen.wrong,
        **{f"deciding column out of sight at {width}": tables for width, tables in seen.hidden.items()},
        **{f"axe, {theme}": findings for theme, findings in seen.findings.items()},
        "bytes": [] if 10_000 < seen.bytes_sent < 2_000_000 else [seen.bytes_sent],
        "Colab": sorted(seen.colab ^ ({colab} if notebook else set())),
    }
    assert {what: complaint for what, complaint in found.items() if complaint} == {}
    assert seen.headings[0]
    assert (ROOT / f"{seen.name}.ipynb").is_file() == notebook


def test_every_public_name_stands_in_the_reference(site: Path) -> None:
    """The functions and classes that a module without an underscore lists in ``__all__``, under one of their names."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "book" / "api").glob("*.html"))
    described = set(re.findall(r'<dt class="sig[^>]*id="advdef\.([\w.]+)"', pages))
    last = {name.rpartition(".")[2] for name in described}
    missing = []
    for module in pkgutil.walk_packages(advdef.__path__, "advdef."):
        if (
            "._" in module.name
            or module.name in ("advdef.cli", "advdef.report.commands", "advdef.peers")
            or module.name.startswith("advdef.peers.")
        ):
            continue
        imported = importlib.import_module(module.name)
        for name in getattr(imported, "__all__", []):
            kind = getattr(imported, name)
            if (inspect.isclass(kind) or inspect.isfunction(kind)) and name not in last:
                missing.append(f"{module.name}.{name}")
    assert len(described) > 300
    assert missing == []


def test_the_reference_leads_to_the_source(site: Path) -> None:
    page = (site / "book" / "api" / "attacks.html").read_text(encoding="utf-8")
    links = re.findall(r'href="[^"]*/blob/\w+/(advdef/[\w/.]+)#L(\d+)-L(\d+)"', page)
    assert len(links) > 20
    for name, first, last in links:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()[int(first) - 1 : int(last)]
        assert any(line.lstrip().startswith(("def ", "class ", "@")) for line in lines), (name, first)


def test_a_colon_in_the_words_on_a_constant_makes_no_type(site: Path) -> None:
    page = (site / "book" / "api" / "data.html").read_text(encoding="utf-8")
    _, _, constant = page.partition('id="advdef.data.own.OWN')
    assert "before the colon in the name of a data set that is the user’s own:" in constant[:2_000]


def test_all_links_within_the_site_lead_somewhere(site: Path) -> None:
    links = check_links(site)
    assert links.internal > 1000
    assert links.broken == ()
    assert any("arxiv.org" in link for link in links.external)


def test_the_first_page_is_the_introduction(visit: Visit) -> None:
    page = visit.open("index.html")
    page.wait_for_load_state("networkidle")
    assert page.locator("figure.finding svg").count() == 1
    assert page.locator("table.results").count() >= 1
    assert page.locator(".verdict").count() >= 4
    page.click("article a[href='book/verdicts.html'] >> nth=0")
    page.wait_for_url("**/book/verdicts.html")
    assert visit.errors == []


def test_search_finds_the_paper(visit: Visit) -> None:
    page = visit.open("search.html?q=quantis")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    assert any("notebooks/01_qusecnets.html" in link for link in found)
    assert visit.errors == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_search_answers_what_readers_ask(visit: Visit, question: str) -> None:
    page = visit.open(f"search.html?q={quote(question)}")
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('found')")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    pages = list(dict.fromkeys(link.partition(".html")[0] for link in found))
    assert any(name.startswith(QUESTIONS[question]) for name in pages[:2]), pages[:5]


def test_what_the_search_quotes_is_the_text_of_the_page(visit: Visit) -> None:
    page = visit.open("search.html?q=oblivious")
    page.wait_for_selector("#search-results li p.context")
    page.wait_for_load_state("networkidle")
    quoted = page.locator("#search-results li p.context").all_inner_texts()
    assert quoted
    assert not [text for text in quoted if ".pdf" in text or "import " in text or "Show code" in text]


def test_a_long_table_unfolds_and_a_header_sorts(visit: Visit) -> None:
    page = visit.open("notebooks/03_nip.html")
    table = page.locator("table.results[data-shown]:visible").first
    every, shown = table.locator("tbody tr").count(), table.locator("tbody tr:visible")
    assert shown.count() == 12 < every
    button = table.locator("xpath=following-sibling::button[1]")
    button.focus()
    page.keyboard.press("Enter")
    assert shown.count() == every
    assert button.get_attribute("aria-expanded") == "true"
    head = table.locator("th.deciding").first
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    numbers = [
        float(re.sub(r"[^\d.].*", "", text))
        for text in table.locator("td.deciding").all_inner_texts()
        if text[:1].isdigit()
    ]
    assert numbers == sorted(numbers, reverse=True)


def test_a_page_shared_elsewhere_shows_what_it_is(visit: Visit, site: Path) -> None:
    page = visit.open("notebooks/04_trn.html")
    told = {
        name: page.locator(f"meta[{name}]").first.get_attribute("content")
        for name in ("name=description", "property='og:title'", "property='og:image'")
    }
    assert "TRN keeps" in (told["name=description"] or "")
    assert "TRN" in (told["property='og:title'"] or "")
    image = site / "_static" / (told["property='og:image'"] or "").partition("/_static/")[2]
    assert image.is_file()
    assert (site / "sitemap.xml").read_text().count("<loc>") >= len(PAGES)


def test_the_results_at_a_glance_fit_on_four_sheets(visit: Visit) -> None:
    page = visit.open("book/glance.html")
    assert page.locator("figure.finding svg").count() == 1
    assert page.locator("table.matrix").count() == 5  # a table for each paper
    printed = page.pdf(prefer_css_page_size=True)
    assert 1 <= len(re.findall(rb"/Type /Page\b", printed)) <= 4


def test_the_explorer_is_there_or_says_how_to_make_it(visit: Visit) -> None:
    page = visit.open("book/explorer.html")
    if page.locator("figure.explorer").count():
        page.locator("figure.explorer[data-ready]").wait_for()
        slider = page.get_by_role("slider")
        before = page.locator(".explorer-said").inner_text()
        slider.press("Home")
        assert page.locator(".explorer-said").inner_text() != before
    else:
        assert "advdef reproduce five_defences" in page.locator("article").inner_text()
    assert visit.errors == []


@pytest.mark.parametrize(
    ("name", "window"),
    [("index", WIDE), *((name, PHONE) for name in ("index", "book/explorer", "book/protocol", "notebooks/03_nip"))],
)
def test_a_page_stands_still_while_it_loads(visit: Visit, name: str, window: ViewportSize) -> None:
    """What a web vital counts: how far things move that nobody moved, and when the largest thing is painted."""
    visit.page.set_viewport_size(window)
    visit.page.add_init_script(SHIFTS)
    page = visit.open(f"{name}.html")
    page.wait_for_load_state("networkidle")
    shift, paint = page.evaluate("[shifted, painted]")
    print(f"{name}: shift {shift:.3f}, largest paint after {paint:.0f} ms")
    assert shift <= 0.1


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


def test_the_menu_of_a_tablet_opens_over_the_text_and_gives_the_focus_back(visit: Visit) -> None:
    """Between the breakpoints of the two themes, 960 and 992 pixels."""
    visit.page.set_viewport_size(TABLET)
    page = visit.open("index.html")
    toggle, menu = page.locator(".primary-toggle:visible"), page.locator("nav.bd-docs-nav")
    menu.wait_for(state="hidden")
    assert page.locator("article").evaluate("article => article.clientWidth") > 800  # 726 beside a menu
    toggle.press("Enter")
    menu.wait_for(state="visible")
    assert page.evaluate("document.querySelector('dialog[open]').contains(document.activeElement)")
    assert page.evaluate("document.documentElement.scrollWidth") <= TABLET["width"]
    page.keyboard.press("Escape")
    menu.wait_for(state="hidden")
    page.wait_for_function("document.activeElement.matches('.primary-toggle')", timeout=5_000)
    toggle.click()
    menu.wait_for(state="visible")
    page.mouse.click(TABLET["width"] - 50, TABLET["height"] / 2)
    menu.wait_for(state="hidden")
    assert page.evaluate("document.documentElement.scrollWidth") <= TABLET["width"]


def test_only_tables_that_scroll_are_tab_stops(visit: Visit) -> None:
    page = visit.open("notebooks/03_nip.html")
    page.wait_for_load_state("networkidle")
    seen = set[tuple[bool, bool]]()
    for window in (PHONE, WIDE):
        page.set_viewport_size(window)
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seen |= {(scrolls, stop) for scrolls, stop in page.evaluate(STOPS)}
    assert seen == {(True, True), (False, False)}


def test_nothing_moves_for_readers_who_want_less_motion(visit: Visit) -> None:
    visit.page.emulate_media(reduced_motion="reduce")
    assert visit.open("index.html").evaluate(MOVING) == []


def test_an_option_does_not_break_after_its_hyphens(visit: Visit) -> None:
    visit.page.set_viewport_size(PHONE)
    heights = visit.open("book/rerun.html").evaluate(
        """[...document.querySelectorAll("article :not(pre) > code")]
            .filter(code => /^--[a-z]+-[a-z-]+$/.test(code.innerText)).map(code => code.getClientRects().length)"""
    )
    assert set(heights) == {1}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["book/verdicts", "notebooks/04_trn"])
def test_verdicts_can_be_read(visit: Visit, name: str, theme: str) -> None:
    page = visit.open(f"{name}.html")
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
