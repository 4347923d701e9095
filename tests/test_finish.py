"""What rendered pages get after Sphinx, in a site of a few words."""

from __future__ import annotations

import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydata_sphinx_theme
import pytest
from fontTools.ttLib import TTFont

from advdef.book.finish import Book, finish
from advdef.evaluation import Results

FACTS = {"date": "2026-01-02", "commit": "abcdef0123+", "seed": 0}
RECORD: dict[str, Any] = {"paper": "trn", "dataset": "mnist", "profile": "smoke", "results": Results()}
RECORD |= {"provenance": FACTS, "verdicts": []}
RUNS = {"04_trn": [RECORD]}
BOOK = Book("advdef", "The authors", "https://x.org/advdef/", "https://git.org/advdef", "1234567890", RUNS)


def site(folder: Path) -> Path:
    png = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + struct.pack(">II", 640, 480)
    image = "".join(f'<img src="../_images/{name}" alt="x">' for name in ("a.png", "b.svg", "none.png"))
    pages = {"notebooks/04_trn": f"<p>{'Words of the page. ' * 30}</p>{image}", "book/intro": "<p>Hello.</p>"}
    for name, body in pages.items():
        path = folder / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<html data-content_root="../"><head><link href="../_static/x.css"></head><body><article><h1>TRN & co'
            f'<a class="headerlink" href="#trn">#</a></h1>{body}<a href="cards.html">cards</a></article></body></html>'
        )
    (folder / "_images").mkdir()
    (folder / "_images/a.png").write_bytes(png)
    (folder / "_images/b.svg").write_text('<svg xmlns="" height="72pt" viewBox="" width="144.5pt"/>')
    (folder / "index.html").write_text("redirect")
    return folder


def test_a_page_says_where_its_numbers_come_from_and_how_to_cite_it(tmp_path: Path) -> None:
    finish(site(tmp_path), BOOK)
    page = (tmp_path / "notebooks/04_trn.html").read_text()
    assert "run of 2026-01-02, profile smoke" in page
    assert 'href="https://git.org/advdef/commit/abcdef0123"><code>abcdef0</code>' in page
    assert "@misc{advdef-04_trn," in page
    assert "title  = {TRN &amp; co}," in page
    assert "https://x.org/advdef/notebooks/04_trn.html" in page
    (file,) = (tmp_path / "_static/records").iterdir()
    assert f"../_static/records/{file.name}" in page
    assert json.loads(file.read_text())["results"] == []


def test_the_attacked_images_of_a_record_can_be_taken_along(tmp_path: Path) -> None:
    kept = tmp_path / "mnist-smoke-seed0.safetensors"
    kept.write_bytes(b"images")
    asked = {"images": kept, "parameters": {"eps": 0.05}}
    finish(site(tmp_path), replace(BOOK, records={"04_trn": [RECORD | asked]}))
    copied = tmp_path / "_static/records/trn-mnist-smoke.safetensors"
    assert copied.read_bytes() == b"images"
    assert "images" not in json.loads(copied.with_suffix(".json").read_text())
    page = (tmp_path / "notebooks/04_trn.html").read_text()
    assert "profile smoke, eps 0.05, code of commit" in page
    assert 'The attacked images: <a href="../_static/records/trn-mnist-smoke.safetensors" download>MNIST</a>' in page
    assert 'href="../book/records.html#attacked-images"' in page


@pytest.mark.parametrize(("commit", "opened"), [("1234567890", "1234567890"), ("1234567890+", "main"), ("", "main")])
def test_a_notebook_opens_elsewhere_at_the_commit_shown_with_its_profile_beside(
    tmp_path: Path, commit: str, opened: str
) -> None:
    page = site(tmp_path) / "notebooks/04_trn.html"
    colab = "https://colab.research.google.com/github/a/b/blob/{}/notebooks/04_trn.ipynb"
    page.write_text(page.read_text().replace("<article>", f'<a href="{colab.format("main")}">Launch</a><article>'))
    finish(tmp_path, replace(BOOK, commit=commit))
    found = page.read_text()
    assert found.count(f'href="{colab.format(opened)}"') == 2
    assert '</h1><p class="launch">' in found
    assert "shows the profile <em>smoke</em>" in found
    assert 'class="launch"' not in (tmp_path / "book/intro.html").read_text()


def test_a_page_of_prose_says_what_it_was_rendered_from(tmp_path: Path) -> None:
    finish(site(tmp_path), BOOK)
    page = (tmp_path / "book/intro.html").read_text()
    assert 'href="https://git.org/advdef/commit/1234567890"><code>1234567</code>' in page
    assert "year   = {2026},\n" in page
    assert "note   = {advdef, commit 1234567, last run of 2026-01-02}" in page


def test_a_browser_that_draws_no_svg_gets_an_icon_too(tmp_path: Path) -> None:
    icon = site(tmp_path) / "_static/icon.png"
    icon.parent.mkdir()
    icon.write_bytes(b"")
    finish(tmp_path, BOOK)
    page = (tmp_path / "book/intro.html").read_text()
    assert '<link rel="icon" type="image/png" sizes="180x180" href="../_static/icon.png">' in page


def test_a_page_tells_other_sites_what_it_is(tmp_path: Path) -> None:
    finish(site(tmp_path), BOOK)
    page = (tmp_path / "notebooks/04_trn.html").read_text()
    assert '<meta property="og:title" content="TRN &amp; co">' in page
    described = page.partition('<meta name="description" content="')[2].partition('"')[0]
    assert described.startswith("Words of the page.")
    assert 100 < len(described) <= 202
    assert '<link rel="canonical" href="https://x.org/advdef/notebooks/04_trn.html">' in page
    assert "<loc>https://x.org/advdef/book/intro.html</loc>" in (tmp_path / "sitemap.xml").read_text()


def test_a_page_is_described_by_its_first_paragraph_and_not_by_the_line_under_its_title(tmp_path: Path) -> None:
    site(tmp_path)
    for page, kind in (("book/intro", 'id="index-0"'), ("notebooks/04_trn", 'class="launch"')):
        path, more = tmp_path / f"{page}.html", f"<p {kind}>{'What stands first. ' * 4}</p>"
        path.write_text(path.read_text().replace("</h1>", f"</h1>{more}"))
    finish(tmp_path, BOOK)
    described = [
        (tmp_path / f"{page}.html").read_text().partition('<meta name="description" content="')[2]
        for page in ("book/intro", "notebooks/04_trn")
    ]
    assert described[0].startswith("What stands first.")
    assert described[1].startswith("Words of the page.")


def test_the_line_over_the_verdicts_names_data_sets_as_prose_does(tmp_path: Path) -> None:
    page = site(tmp_path) / "notebooks/04_trn.html"
    line = '<div class="verdicts"><p><em>Verdicts of this run (fashion_mnist and cifar10)</em></p></div>'
    page.write_text(page.read_text().replace("</h1>", f"</h1>{line}"))
    finish(tmp_path, BOOK)
    assert "Verdicts of this run (Fashion-MNIST and CIFAR-10)" in page.read_text()


def test_images_have_their_size(tmp_path: Path) -> None:
    finish(site(tmp_path), BOOK)
    page = (tmp_path / "notebooks/04_trn.html").read_text()
    assert 'width="640" height="480" src="../_images/a.png"' in page
    assert 'width="193" height="96" src="../_images/b.svg"' in page
    assert page.count('loading="lazy"') == 2


def test_the_first_page_and_that_of_a_wrong_address_stand_elsewhere(tmp_path: Path) -> None:
    finish(site(tmp_path), BOOK)
    first = (tmp_path / "index.html").read_text()
    assert 'data-content_root="./"' in first
    assert 'href="_static/x.css"' in first
    assert 'href="book/cards.html"' in first
    assert 'href="#trn"' in first
    nowhere = (tmp_path / "404.html").read_text()
    assert set(re.findall(r'(?:href|src)="(.*?)"', nowhere)) == {
        "https://x.org/advdef/",
        "https://x.org/advdef/search.html",
    }


@pytest.mark.parametrize("book", [Book("t", "a"), Book("t", "a", records={"04_trn": []})])
def test_a_book_without_an_address_promises_none(tmp_path: Path, book: Book) -> None:
    finish(site(tmp_path), book)
    assert not (tmp_path / "sitemap.xml").exists()
    page = (tmp_path / "notebooks/04_trn.html").read_text()
    assert "canonical" not in page
    assert "og:image" not in page


def test_pages_without_formulas_load_nothing_that_typesets_them(tmp_path: Path) -> None:
    folder, script = site(tmp_path), '<script defer="defer" src="../_static/mathjax/tex-chtml.js"></script>'
    with_formula, without = folder / "notebooks/04_trn.html", folder / "book/intro.html"
    for page, more in ((with_formula, '<span class="math notranslate">x</span>'), (without, "")):
        page.write_text(page.read_text().replace("</head>", f"{script}</head>").replace("</h1>", f"</h1>{more}"))
    finish(folder, BOOK)
    assert "mathjax" in with_formula.read_text()
    assert "mathjax" not in without.read_text()


def test_a_site_has_the_icons_that_it_shows_alone(tmp_path: Path) -> None:
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
    folder = site(tmp_path)
    shutil.copytree(theme, folder / "_static", dirs_exist_ok=True)
    page = folder / "notebooks/04_trn.html"
    page.write_text(
        page.read_text().replace("</h1>", '</h1><i class="fas fa-rocket"></i><i class="fab fa-github"></i>')
    )
    finish(folder, BOOK)
    fonts = folder / "_static/vendor/fontawesome/webfonts"
    assert sum(font.stat().st_size for font in fonts.iterdir()) < 20_000
    with TTFont(fonts / "fa-solid-900.woff") as one, TTFont(fonts / "fa-brands-400.woff") as other:
        solid, brands = set(one.getBestCmap()), set(other.getBestCmap())
    assert 0xF135 in solid  # the rocket
    assert 0xF05A in solid  # that of a note, which a style sheet names
    assert 0xF09B in brands
    style = (folder / "_static/styles/pydata-sphinx-theme.css").read_text()
    assert 'fa-solid-900.woff) format("woff")' in style
    assert ".ttf" not in style
