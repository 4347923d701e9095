"""The link checker finds what is broken, and nothing else."""

from __future__ import annotations

from pathlib import Path

from advdef.book.links import check_links


def put(site: Path, name: str, body: str) -> None:
    path = site / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><html><body>{body}</body></html>")


def test_pages_places_and_files_that_do_not_exist_are_named(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.html",
        '<a href="b/c.html#here">ok</a> <a href="b/c.html#there">no place</a> <a href="none.html">no page</a>'
        '<a href="#top">no place</a> <a href="#">top</a> <img src="none.png"> <a href="b/">folder</a>'
        '<a href="https://example.org/x">out</a> <a href="mailto:a@b.org">mail</a> <a href="//example.org/y">out</a>',
    )
    put(
        tmp_path, "b/c.html", '<p id="here"></p> <a name="old"></a> <a href="../a.html">back</a> <a href="#old">own</a>'
    )
    put(tmp_path, "b/index.html", "")
    put(tmp_path, "_static/theme.html", '<script src="{{ path }}"></script>')
    found = check_links(tmp_path)
    assert found.broken == ("a.html: b/c.html#there", "a.html: none.html", "a.html: #top", "a.html: none.png")
    assert found.external == ("//example.org/y", "https://example.org/x")
    assert found.internal == 8


def test_spaces_and_queries_in_addresses(tmp_path: Path) -> None:
    put(tmp_path, "a page.html", '<a href="a%20page.html?x=1">me</a>')
    found = check_links(tmp_path)
    assert (found.internal, found.broken) == (1, ())


def test_a_link_out_of_the_site_is_broken_even_where_there_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "outside.html").write_text("")
    put(tmp_path / "site", "b/a.html", '<a href="../../outside.html">out</a> <a href="/b/a.html">from the root</a>')
    assert check_links(tmp_path / "site").broken == ("b/a.html: ../../outside.html",)
