"""The links of a rendered site: do those within it lead somewhere, and where do the others go?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Links", "check_links"]


@dataclass(frozen=True)
class Links:
    """What was found: how many links lead to a place in the site, those that lead nowhere, and addresses elsewhere."""

    internal: int
    broken: tuple[str, ...]
    """``page: link``, for pages, files and places in a page that do not exist."""
    external: tuple[str, ...]


def check_links(site: Path) -> Links:
    """Every link and embedded file of all pages in the folder ``site``; addresses elsewhere are listed, not asked."""
    site = site.resolve()
    # what lies in _static came with the theme, and is no page
    found = (path for path in sorted(site.rglob("*.html")) if path.relative_to(site).parts[0] != "_static")
    pages = {path: _read(path) for path in found}
    internal, broken, external = 0, list[str](), set[str]()
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme in ("http", "https", ""):
                    external.add(link)
                continue
            internal += 1
            start = site if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            there = target.is_file() and target.is_relative_to(site)
            if not there or (parts.fragment and target in pages and parts.fragment not in pages[target].ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    return Links(internal, tuple(broken), tuple(sorted(external)))


class _Page(HTMLParser):
    """The links and the named places of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        self.links += _targets(tag, given)


def _targets(tag: str, given: dict[str, str]) -> Iterator[str]:
    if tag in ("a", "link") and given.get("href") not in (None, "", "#"):
        yield given["href"]
    if tag in ("img", "script", "iframe", "source") and given.get("src"):
        yield given["src"]


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page
