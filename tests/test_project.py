"""Files that must agree with each other: pairs of notebooks, dependencies, versions, the repository's address."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import yaml
from torch import Tensor, nn

import advdef
from advdef import checks
from advdef.book.notebookfile import parameter_defaults, read_pair
from advdef.book.repository import Repository
from advdef.book.run import out_of_step
from advdef.papers import PAPERS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
ADDRESS = re.compile(r"github\.com[/:][\w.-]+/[\w-]+|colab\.research\.google\.com/github/[\w.-]+/[\w-]+")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """The normalised names in a list of requirements."""
    return {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", r)[0]).lower() for r in requirements}  # type: ignore[index]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_both_files_have_the_same_cells(self, path: Path) -> None:
        assert path.with_suffix(".ipynb").is_file()
        assert out_of_step(path) is None, f"run: jupytext --update --to ipynb {path.relative_to(ROOT)}"

    def test_the_committed_notebook_shows_a_default_run(self, path: Path) -> None:
        notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.get("kernelspec", {}).get("name") == "python3"
        assert not [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
        assert "papermill" not in notebook.metadata

    def test_parameters_have_their_defaults(self, path: Path) -> None:
        defaults = parameter_defaults(read_pair(path))
        of_all = {"profile": "smoke", "dataset": None, "seed": 0, "device": None}
        of_all |= {"eps": None, "images": None, "seeds": None}
        further = dict.fromkeys(("model", "defences", "transfer")) if path.stem == "40_your_classifier" else {}
        assert defaults == of_all | further

    def test_the_set_up_cell_knows_the_address_of_the_configuration(self, path: Path) -> None:
        address = str(yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]).rstrip("/")
        cells = [c for c in read_pair(path).cells if c.cell_type == "code" and "google.colab" in c.source]
        assert len(cells) == 1, "one set-up cell for Colab"
        assert {"remove-cell", "skip-execution"} <= set(cells[0].metadata.get("tags", []))
        assert set(ADDRESS.findall(cells[0].source)) == {address.removeprefix("https://")}

    def test_the_set_up_cell_shows_what_pip_says_and_where_records_go(self, path: Path) -> None:
        (cell,) = (c.source for c in read_pair(path).cells if c.cell_type == "code" and "google.colab" in c.source)
        assert '%pip install "advdef[eval] @ {source}"' in cell
        assert "/content/advdef-results, and vanish" in cell
        assert "On Colab" in cell
        assert "\n## On Colab\n" in (ROOT / "book" / "rerun.md").read_text("utf-8")


def test_the_address_stands_in_the_configuration_and_the_set_up_cells_alone() -> None:
    address = str(yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]).removeprefix("https://")
    text_files = [
        path
        for pattern in ("*", "advdef/**/*", "book/**/*")
        for path in ROOT.glob(pattern)
        if path.is_file() and path.suffix in (".md", ".py", ".toml", ".cff", ".yml", ".bib", ".txt")
    ]
    found = {str(path.relative_to(ROOT)) for path in text_files if address in path.read_text(encoding="utf-8")}
    assert found == {"_config.yml"}


def test_every_notebook_is_in_the_table_of_contents() -> None:
    toc = (ROOT / "_toc.yml").read_text()
    assert [path.stem for path in NOTEBOOKS if f"notebooks/{path.stem}" not in toc] == []
    assert len(Repository(ROOT).notebooks) == len(NOTEBOOKS)


def test_constraints_pin_every_dependency_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []  # no paths, no +cpu
    extras = project()["optional-dependencies"]
    tested = [r for extra in ("book", "test", "eval", "dev") for r in extras[extra]]
    assert names([*project()["dependencies"], *tested]) - names(lines) == set()


CONDA = {"pytorch": "torch", "python-fastjsonschema": "fastjsonschema"}
"""What conda-forge calls otherwise."""


def test_the_conda_environment_has_the_same_packages() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = names([entry for entry in listed if isinstance(entry, str)]) - {"python", "pip"}
    (from_pip,) = (entry["pip"] for entry in listed if isinstance(entry, dict))
    assert "-e ." in from_pip
    extras = project()["optional-dependencies"]
    wanted = names([*project()["dependencies"], *extras["book"], *extras["test"], *extras["eval"]])
    assert {CONDA.get(name, name) for name in conda} | names(
        [entry for entry in from_pip if not entry.startswith("-")]
    ) == wanted


def test_ranges_of_the_conda_environment_are_those_of_the_package() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (from_pip,) = (entry["pip"] for entry in listed if isinstance(entry, dict))
    given = {
        re.sub(r"^[\w-]+", lambda name: CONDA.get(name[0], name[0]), entry)
        for entry in [*listed, *from_pip]
        if isinstance(entry, str)
    }
    extras = project()["optional-dependencies"]
    for requirement in [*project()["dependencies"], *extras["book"], *extras["test"], *extras["eval"]]:
        assert requirement in given


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == advdef.__version__
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["authors"] == [{"name": "The advdef authors"}]


def test_the_archive_and_the_page_on_citing_say_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    archived = json.loads((ROOT / ".zenodo.json").read_text())
    assert {key: archived[key] for key in ("title", "keywords")} == {k: citation[k] for k in ("title", "keywords")}
    assert archived["creators"] == citation["authors"]
    assert archived["license"] == citation["license"]
    assert archived["version"] == citation["version"]
    assert archived["description"] == " ".join(citation["abstract"].split())
    papers = [found["identifier"].removeprefix("arXiv:") for found in archived["related_identifiers"]]
    assert papers == [paper.arxiv for paper in PAPERS]
    page = (ROOT / "book" / "about.md").read_text()
    assert f"title  = {{{citation['title']}}}" in page
    assert f"note   = {{version {citation['version']}}}" in page


def test_the_ci_script_can_be_executed() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "book/attacks.md", "book/own_data.md"])
def test_the_code_shown_to_readers_runs(
    page: str, batch: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # where one of them saves a report
    monkeypatch.setattr(checks, "QUICK", checks.BRIEF)
    pytest.importorskip("pyautoattack")
    pytest.importorskip("foolbox")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))  # which soon falls: only whether it runs is asked
    images = batch[0][:5]
    labels = network(images).argmax(1)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        given = {"model": network, "classifier": network, "images": images, "labels": labels}
        exec(compile(block, page, "exec"), given)
    assert "[" in capsys.readouterr().out  # an interval at least
