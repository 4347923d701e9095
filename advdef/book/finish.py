"""What rendered pages get that Sphinx does not give: tables for readers, data to take along, a face for other sites.

Description, canonical address, sitemap and 404 page are made here, not by sphinxext-opengraph, sphinx-sitemap and
sphinx-notfound-page, as every page is finished from the records after Sphinx anyway: one place does all of it.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advdef.book.icons import with_few_icons
from advdef.book.records import Record, images_file
from advdef.book.tables import presented
from advdef.data.titles import data_name, data_named
from advdef.grid import Asked

__all__ = ["Book", "finish"]

_INTRODUCTION = "book/intro.html"
_TABLES, _RECORDS = "_static/tables", "_static/records"
_ICON = "_static/icon.png"
_COLAB = r"https://colab\.research\.google\.com/github/[^\"/]*/[^\"/]*"
_DESCRIBED = 200  # characters
_PARAGRAPH = re.compile(r"<p((?:\s[^>]*)?)>(.*?)</p>", re.DOTALL)
_RUN_LINE = re.compile(r'<div class="verdicts"><p><em>[^<]*')
_LAUNCH = ' class="launch"'
_LOCAL = re.compile(r'\b(href|src|action|data-content_root)="(?!https?:|//|#|mailto:|data:)([^"]*)"')


@dataclass(frozen=True)
class Book:
    """What the pages of a site have in common.

    Attributes:
        title: Its name.
        author: Who wrote it.
        address: Where it will stand, with "/" at its end; "" where that is not known.
        repository: Where its source stands; "" where that is not known.
        commit: What it was rendered from; "" where that is not known.
        records: The records behind its pages, by the notebook's stem.
    """

    title: str
    author: str
    address: str = ""
    repository: str = ""
    commit: str = ""
    records: Mapping[str, Sequence[Record]] = field(default_factory=dict)


def finish(pages: Path, book: Book) -> None:
    """Change the pages that Sphinx wrote in the folder ``pages``, and add the files that they lead to."""
    left = "_static", "index.html"  # which leads to the introduction, and becomes a copy of it
    found = [page for page in sorted(pages.rglob("*.html")) if page.relative_to(pages).parts[0] not in left]
    for records in book.records.values():
        for record in records:
            file = pages / _RECORDS / _file(record)
            file.parent.mkdir(parents=True, exist_ok=True)
            content = dict(record) | {"results": record["results"].rows}
            images = content.pop("images", None)
            file.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
            if images is not None:
                shutil.copyfile(images, images_file(file))
    (pages / _TABLES).mkdir(parents=True, exist_ok=True)
    for page in found:
        name = page.relative_to(pages).as_posix()
        text, files = _finished(page, name, pages, book)
        page.write_text(text, encoding="utf-8")
        for table, rows in files.items():
            (pages / _TABLES / table).write_text(rows, encoding="utf-8")
    with_few_icons(pages)
    introduction = pages / _INTRODUCTION
    if introduction.is_file():
        text = introduction.read_text(encoding="utf-8")
        (pages / "index.html").write_text(_moved(text, "book/"), encoding="utf-8")
    if book.address:
        (pages / "404.html").write_text(_nowhere(book), encoding="utf-8")
        lines = (f"<url><loc>{book.address}{page.relative_to(pages).as_posix()}</loc></url>" for page in found)
        begin = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        (pages / "sitemap.xml").write_text("\n".join([begin, *lines, "</urlset>\n"]), encoding="utf-8")


def _finished(page: Path, name: str, pages: Path, book: Book) -> tuple[str, dict[str, str]]:
    """A page, and the files with the data of its tables."""
    up = "../" * name.count("/")
    number = re.match(r"(\d\d)_", page.stem)
    prefix = f"{number[1]}-" if number else ""
    text, files = presented(
        _mended(page.read_text(encoding="utf-8")), prefix=prefix, folder=f"{up}{_TABLES}/", stem=page.stem
    )
    text = _launched(text, name, book)
    text = _RUN_LINE.sub(lambda line: data_named(line[0]), text)
    text = re.sub(r"<img\b[^>]*>", lambda image: _sized(image[0], page.parent), text)
    text = text.replace("</head>", f"{_head(text, name, book, icon=(pages / _ICON).is_file())}</head>", 1)
    if "</article>" in text:
        before, _, after = text.rpartition("</article>")
        text = f"{before}{_facts(text, name, up, book)}</article>{after}"
    return text, files


def _mended(page: str) -> str:
    """A page without faults of the theme.

    It says three times how wide a page is. Icons come from a web font, and a second time from a script that is larger
    than most pages. Formulas are typeset by another one, which pages without any load, too. Lists of references have
    the role of a list, but entries that no list may have. What a link to the source says is no name for a screen
    reader.
    """
    first, *others = re.findall(r'<meta name="viewport"[^>]*>\n?', page) or [""]
    for other in others:
        page = page.replace(other, "") if other != first else page
    page = page.replace('"><span class="viewcode-link">', '" aria-label="source code"><span class="viewcode-link">')
    page = re.sub(r"<(script|link)\b[^>]*/fontawesome\.js[^>]*>(</script>)?\n?", "", page)
    if 'class="math' not in page and "\\(" not in page and "$$" not in page:
        page = re.sub(r"<script\b[^>]*/mathjax/[^>]*></script>\n?", "", page)
    return page.replace('role="list" class="citation-list"', 'class="citation-list"').replace(
        ' role="doc-biblioentry"', ""
    )


def _launched(page: str, name: str, book: Book) -> str:
    """A page whose notebook is opened elsewhere as it was at the commit shown, and which says with what profile."""
    if book.commit and not book.commit.endswith("+"):  # else it stands nowhere
        page = re.sub(rf"({_COLAB}/blob/)[^/\"]*/", rf"\g<1>{book.commit}/", page)
    address, records = re.search(rf'{_COLAB}[^"]*', page), book.records.get(Path(name).stem, ())
    if not address or not records:
        return page
    profile = html.escape(records[0]["profile"])
    line = (
        f'<p{_LAUNCH}><a href="{address[0]}">Open in Colab</a> or '
        f'<a href="../book/rerun.html">run it yourself</a>. This page shows the profile <em>{profile}</em>; a notebook '
        "begins with <em>smoke</em>, a small one that takes minutes, as its first code cell says.</p>"
    )
    before, article, after = page.partition("<article")
    return before + article + after.replace("</h1>", f"</h1>{line}", 1)


def _sized(image: str, folder: Path) -> str:
    """An image that says how large it is before it has loaded, and loads when it is near."""
    source = re.search(r'\bsrc="([^"]*)"', image)
    file = folder / source[1] if source else folder
    if 'class="logo' in image or (source and source[1].startswith("data:")) or not file.is_file():
        return image
    size = _size(file.read_bytes())
    if size is None:
        return image.replace("<img", '<img loading="lazy"', 1)
    told = f'<img loading="lazy" decoding="async" style="--width: {size[0]}px" '
    if not re.search(r'\b(width|height)="', image):
        told += f'width="{size[0]}" height="{size[1]}" '
    return image.replace("<img ", told, 1)


def _size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG or SVG in pixels of a page."""
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        width, height = struct.unpack(">II", content[16:24])
        return width, height
    found = re.search(rb'<svg[^>]*\bwidth="([\d.]+)pt"[^>]*\bheight="([\d.]+)pt"', content[:5_000]) or re.search(
        rb'<svg[^>]*\bheight="([\d.]+)pt"[^>]*\bwidth="([\d.]+)pt"', content[:5_000]
    )
    if found is None:
        return None
    ends = [round(float(end) * 96 / 72) for end in found.groups()]
    return (ends[1], ends[0]) if found[0].index(b"height") < found[0].index(b"width") else (ends[0], ends[1])


def _head(page: str, name: str, book: Book, *, icon: bool) -> str:
    """What other sites show of a page."""
    title, said = html.escape(_title(page), quote=True), html.escape(_description(page), quote=True)
    lines = [f'<meta name="description" content="{said}">', '<meta property="og:type" content="article">']
    up = "../" * name.count("/")
    if icon:
        lines.append(f'<link rel="icon" type="image/png" sizes="180x180" href="{up}{_ICON}">')
        lines.append(f'<link rel="apple-touch-icon" href="{up}{_ICON}">')
    told = {"og:title": title, "og:description": said, "og:site_name": html.escape(book.title, quote=True)}
    if book.address:
        lines.append(f'<link rel="canonical" href="{book.address}{name}">')
        told |= {"og:url": f"{book.address}{name}", "og:image": f"{book.address}_static/made/preview.png"}
        lines.append('<meta name="twitter:card" content="summary_large_image">')
    lines += [f'<meta property="{key}" content="{value}">' for key, value in told.items()]
    return "\n".join(line for line in lines if "canonical" not in line or 'rel="canonical"' not in page) + "\n"


def _title(page: str) -> str:
    """The page's own heading."""
    found = re.search(r"<h1[^>]*>(.*?)(?:<a class=\"headerlink|</h1>)", page, re.DOTALL)
    return _text(found[1]) if found else ""


def _description(page: str) -> str:
    """The first words of a page, but for the line that leads to its notebook."""
    _, _, article = page.partition("<article")
    found = (_text(said) for kind, said in _PARAGRAPH.findall(article) if kind != _LAUNCH)
    said = next((text for text in found if len(text) > 40), "")
    return said if len(said) <= _DESCRIBED else f"{said[: said.rfind(' ', 0, _DESCRIBED)]} …"


def _facts(page: str, name: str, up: str, book: Book) -> str:
    """Below an article: the run and the data behind it, and how to cite it."""
    records = book.records.get(Path(name).stem, ())
    title, where = _title(page), f"{book.address}{name}"
    told, note = "", book.title
    date = max((one["provenance"]["date"][:10] for every in book.records.values() for one in every), default="")
    if book.commit:
        told, note = f"<p>Text of commit {_commit(book.commit, book)}.</p>", f"{book.title}, commit {book.commit[:7]}"
    if date:
        note += f", last run of {date}"
    if records:
        facts: Mapping[str, Any] = records[0]["provenance"]
        date, commit = facts["date"][:10], facts["commit"] or ""
        links = _links(up, {one["dataset"]: _file(one) for one in records})
        kept = {one["dataset"]: images_file(Path(_file(one))).name for one in records if one.get("images")}
        profile, other = records[0]["profile"], str(Asked(**records[0].get("parameters", {})))
        told = (
            f"<p>The numbers of this page: run of {html.escape(date)}, profile {html.escape(profile)}{other}, "
            f"code of commit {_commit(commit, book)}. All of them as JSON, for its figures too: {links}; "
            f'<a href="{up}book/records.html">what the fields mean</a>.'
        )
        if kept:
            told += (
                f" The attacked images: {_links(up, kept)}; "
                f'<a href="{up}book/records.html#attacked-images">how to judge them again</a>.'
            )
        told += "</p>"
        note = f"{book.title}, run of {date}, commit {commit[:7] or 'unknown'}"
    if not title or not Path(name).parent.name:
        return ""
    key = re.sub(r"\W+", "-", Path(name).stem.lower())
    year = f"\n  year   = {{{date[:4]}}}," if date else ""
    url = f"\n  url    = {{{where}}}," if book.address else ""
    entry = (
        f"@misc{{advdef-{key},\n  author = {{{{{book.author}}}}},\n  title  = {{{title}}},{year}{url}\n"
        f"  note   = {{{note}}}\n}}"
    )
    cite = f'<details class="cite"><summary>Cite this page</summary><pre>{html.escape(entry)}</pre></details>'
    return f'<div class="page-facts">{told}{cite}</div>'


def _links(up: str, files: Mapping[str, str]) -> str:
    """Links to files, by the names of their data sets."""
    return ", ".join(
        f'<a href="{up}{_RECORDS}/{html.escape(file)}" download>{html.escape(data_name(dataset))}</a>'
        for dataset, file in files.items()
    )


def _commit(commit: str, book: Book) -> str:
    """A commit, with a link to it."""
    shown = f"<code>{html.escape(commit[:7]) or 'unknown'}</code>"
    if not (commit and book.repository):
        return shown
    return f'<a href="{book.repository}/commit/{html.escape(commit.rstrip("+"))}">{shown}</a>'


def _file(record: Record) -> str:
    return f"{record['paper']}-{record['dataset']}-{record['profile']}.json"


def _moved(page: str, folder: str) -> str:
    """A page of ``folder`` as it stands above it."""

    def moved(match: re.Match[str]) -> str:
        address = match[2]
        if match[1] == "data-content_root":
            return 'data-content_root="./"'
        return f'{match[1]}="{address[3:] if address.startswith("../") else f"{folder}{address}"}"'

    return _LOCAL.sub(moved, page)


def _nowhere(book: Book) -> str:
    """The page that a host shows for an address that leads nowhere; it needs no file, as it may stand anywhere."""
    title = html.escape(book.title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>No such page: {title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>:root{color-scheme:light dark}'
        "body{font:1.125rem/1.6 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}</style></head>"
        f'<body><main><h1>No such page</h1><p>This address leads nowhere. <a href="{book.address}">{title} begins here'
        f'</a>; you can also <a href="{book.address}search.html">search it</a>.</p></main></body></html>\n'
    )


def _text(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", markup)).split())
