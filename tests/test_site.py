"""Rendering a tiny book without executing it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkout
import nbformat
import pytest
import yaml

from advdef.book.notebookfile import read_executed
from advdef.book.repository import Repository
from advdef.book.site import SiteError, assemble, render, warnings_in


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return checkout.make(tmp_path, {"01_good": checkout.GOOD})


def executed(repository: Repository, path: Path, said: str) -> Path:
    """A stand-in for an executed notebook, with an injected cell."""
    notebook = nbformat.read(repository.notebooks["good"], as_version=4)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text=said)]
    notebook.cells[2].execution_count = 1
    injected = nbformat.v4.new_code_cell("seed = 99", metadata={"tags": ["injected-parameters"]}, id="injected")
    notebook.cells.insert(2, injected)
    nbformat.write(notebook, path)
    return path


@pytest.mark.site
def test_the_executed_notebook_is_rendered_and_an_earlier_site_is_there_until_then(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "build/smoke/site"
    site.mkdir(parents=True)
    (site / "index.html").write_text("earlier")
    seen: list[list[str]] = []
    delete = shutil.rmtree

    def watched(path: Path, **options: bool) -> None:
        seen.append(sorted(found.name for found in site.glob("index.html")))
        delete(path, **options)

    monkeypatch.setattr("shutil.rmtree", watched)
    # The committed notebook would raise nothing, but say nothing either: the outputs come from the given file alone.
    given = executed(repository, tmp_path / "given.ipynb", "hello from the run")
    index = render(repository, tmp_path / "build/smoke", notebooks={"01_good.ipynb": given})
    assert index == tmp_path / "build/smoke/site/index.html"
    page = (index.parent / "notebooks/01_good.html").read_text()
    assert "hello from the run" in page
    assert "seed = 99" not in page
    assert "A tiny book" in (index.parent / "book/intro.html").read_text()
    assert all(names == ["index.html"] for names in seen)  # each time that something is deleted
    assert "A tiny book" in index.read_text()
    assert sorted(path.name for path in site.parent.iterdir()) == ["site", "site.log", "source"]


@pytest.mark.site
def test_a_warning_is_an_error_and_an_earlier_site_stays(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "book/intro.md").write_text("# A tiny book\n\nSee [](nowhere.md) and {ref}`nothing`.\n")
    earlier = tmp_path / "build/x/site/index.html"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("earlier")
    with pytest.raises(SiteError) as caught:
        render(repository, tmp_path / "build/x")
    assert str(tmp_path / "build/x/site.log") in str(caught.value)
    assert "book/intro.md:3: WARNING" in str(caught.value)
    assert "'nothing'" in str(caught.value)
    assert earlier.read_text() == "earlier"


def test_a_full_disk_is_told_with_the_path(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: none)
    with pytest.raises(SiteError, match="no warning in the log"):
        render(repository, tmp_path / "build/x")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left on device: '.*build/x'"):
        render(repository, tmp_path / "build/x")


def test_the_source_tree(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Read me\n")
    (tmp_path / "NOT.md").write_text("# Not in the toc\n")
    toc = (
        "format: jb-book\nroot: book/intro\nparts:\n  - chapters:\n    - file: notebooks/01_good\n    - file: README\n"
    )
    (tmp_path / "_toc.yml").write_text(toc)
    (tmp_path / "book/_build").mkdir()
    assemble(repository, tmp_path / "out", notebooks={})
    copied = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    made = {
        f"book/_generated/{name}.md"
        for name in (
            "cards", "claims", "conclusion", "control", "earlier", "explorer", "finding", "headline", "holes", "limits",
            "matrix", "own_pages", "papers", "pictures", "record", "rules", "schema", "slider", "speed", "status",
            "verdicts",
        )
    }  # fmt: skip
    book = {f"book/{page}.md" for page in ("intro", "verdicts", "records")}
    assert copied == {"_config.yml", "_toc.yml", "README.md", "notebooks/01_good.ipynb"} | book | made
    assert yaml.safe_load((tmp_path / "out/_config.yml").read_text())["execute"] == {"execute_notebooks": "off"}


SET_UP = 'if "google.colab" in sys.modules:\n    source = os.environ.get("ADVDEF_SOURCE", "git+https://git.org/a/b")'


@pytest.mark.parametrize(("commit", "pinned"), [("1234567890ab", "@1234567890ab"), ("1234567890ab+", ""), (None, "")])
def test_a_notebook_to_download_installs_the_package_of_the_commit_shown(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: str | None, pinned: str
) -> None:
    monkeypatch.setattr("advdef.book.site.source_commit", lambda: commit)
    path = repository.notebooks["good"]
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(SET_UP, id="set-up"))
    nbformat.write(notebook, path)
    with (tmp_path / "_config.yml").open("a") as config:
        config.write("repository:\n  url: https://git.org/a/b\n")
    assemble(repository, tmp_path / "out", notebooks={})
    cells = read_executed(tmp_path / "out/notebooks/01_good.ipynb").cells
    assert f'"git+https://git.org/a/b{pinned}")' in cells[1].source
    assert read_executed(path).cells[1].source == SET_UP


def test_other_sites_are_told_one_address_of_the_first_page(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "git":
            return subprocess.CompletedProcess(command, 0, stdout="")
        pages = Path(command[command.index("--path-output") + 1], "_build/html")
        for name in ("book/intro", "book/verdicts", "index"):
            (pages / name).parent.mkdir(parents=True, exist_ok=True)
            (pages / f"{name}.html").write_text(f"<head></head><h1>{name}</h1>")
        return subprocess.CompletedProcess(command, 0)

    with (tmp_path / "_config.yml").open("a") as config:
        config.write("html:\n  baseurl: https://x.org/\n")
    monkeypatch.setattr("advdef.book.site.subprocess.run", built)
    first = render(repository, tmp_path / "build/x")
    listed = re.findall("<loc>(.*?)</loc>", (first.parent / "sitemap.xml").read_text())
    assert listed == ["https://x.org/book/intro.html", "https://x.org/book/verdicts.html"]
    assert '<link rel="canonical" href="https://x.org/book/intro.html">' in first.read_text()


@pytest.mark.parametrize(("rules", "hits", "old"), [(True, "1f", True), (False, None, True), (False, "1f", False)])
def test_a_page_whose_run_is_older_than_its_rules_or_kept_no_hits_says_so(
    repository: Repository, tmp_path: Path, rules: bool, hits: str | None, old: bool
) -> None:
    toc = "format: jb-book\nroot: book/intro\nparts:\n  - chapters:\n    - file: notebooks/01_good\n"
    (tmp_path / "_toc.yml").write_text(toc)
    facts: dict[str, Any] = {"date": "2026-01-01<script>\n```\n", "commit": None, "device_name": "x", "seed": 0}
    facts |= {"python": "3", "versions": {}}
    verdict: dict[str, Any] = {"claim": "good-G1", "sentence": "s", "source": "paper", "evidence": "e"}
    verdict["verdict"] = "undecided"
    verdict |= {"attacker": "", "images": None, "seeds": None, "conditions": [], "old_rules": rules}
    record: dict[str, Any] = {
        "paper": "good",
        "dataset": "digits",
        "profile": "smoke",
        "verdicts": [verdict],
        "networks": [],
        "results": [{"hits": hits}],
    }
    record |= {"provenance": facts | {"wall_seconds": 1}}
    assemble(repository, tmp_path / "out", notebooks={}, records=[record])
    cells = read_executed(tmp_path / "out/notebooks/01_good.ipynb").cells
    notes = [number for number, cell in enumerate(cells) if "a run of 2026-01-01" in cell.source]
    assert notes == ([1] if old else [])
    assert not any("<script" in cell.source for cell in cells)
    assert all(cells[note].source.count("```") == 2 for note in notes)


def test_what_the_contents_name_must_exist(repository: Repository, tmp_path: Path) -> None:
    repository.notebooks["good"].unlink()
    with pytest.raises(SiteError, match=r"neither an executed nor a committed notebooks/01_good\.ipynb"):
        assemble(repository, tmp_path / "out", notebooks={})
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/missing\n")
    with pytest.raises(SiteError, match="book/missing"):
        assemble(repository, tmp_path / "out", notebooks={})


def test_warnings_are_found_once_and_without_colours(tmp_path: Path) -> None:
    log = f"reading\n\x1b[91m{tmp_path}/book/a.md:3: WARNING: bad\x1b[39m\n{tmp_path}/book/a.md:3: WARNING: bad\ndone"
    assert warnings_in(log, tmp_path) == ["book/a.md:3: WARNING: bad"]
