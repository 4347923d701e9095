"""The guide "Add a defence", followed in a copy of the checkout that has the five papers and no further defence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from regression import allowing, read_baseline, recorded_values, write_baseline

from advdef.book.notebookfile import parameter_defaults, read_pair
from advdef.book.records import read_record
from advdef.book.repository import InputError, Repository
from advdef.book.run import out_of_step
from advdef.book.scaffold import new_defence
from advdef.evaluation import ATTACKERS
from advdef.evaluation.results import WORST_CASE

pytestmark = [pytest.mark.slow, pytest.mark.site]

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "book" / "add_a_defence.md").read_text(encoding="utf-8")
FILES = ("_config.yml", "_toc.yml", "CITATION.cff", "LICENSE", "CHANGELOG.md", "pyproject.toml")
FOLDERS = ("advdef", "book", "notebooks")


def copied(target: Path) -> Repository:
    """The parts of the checkout that a page needs; the reference, half of the work of rendering, has headings alone."""
    for name in FILES:
        (target / name).write_bytes((ROOT / name).read_bytes())
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            further = folder == "notebooks" and "06" <= path.name[:2] < "20"
            if path.is_file() and "__pycache__" not in path.parts and not further:
                copy = target / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    for page in (target / "book").rglob("*.md"):
        text = re.sub(r"```\{eval-rst\}\n.*?```\n", "", page.read_text("utf-8"), flags=re.DOTALL)
        page.write_text(re.sub(r"\{class\}(?=`)", "", text), encoding="utf-8")
    contents = (target / "_toc.yml").read_text().splitlines(keepends=True)
    kept = (line for line in contents if not re.search(r"notebooks/(0[6-9]|1\d)_", line))
    (target / "_toc.yml").write_text("".join(kept))
    return Repository(target)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The checkout after steps 1 to 4 of the guide."""
    repository = copied(tmp_path_factory.mktemp("checkout"))
    assert advdef(repository, "new", "mosaic").splitlines()[:5] == [
        "advdef/defenses/mosaic.py",
        "advdef/claims.yml",
        "notebooks/06_mosaic.py",
        "_toc.yml",
        "notebooks/06_mosaic.ipynb",
    ]
    blocks = dict(re.findall(r"```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)```", GUIDE, re.DOTALL))
    assert sorted(blocks) == ["advdef/claims.yml", "advdef/defenses/mosaic.py", "advdef/defenses/shaken.py"]
    root = repository.root
    (root / "advdef/defenses/mosaic.py").write_text(blocks["advdef/defenses/mosaic.py"])
    before, _, template = (root / "advdef/claims.yml").read_text().partition("- id: MOSAIC-1")
    assert "MOSAIC-2" in template
    (root / "advdef/claims.yml").write_text(before + blocks["advdef/claims.yml"])
    printed = advdef(repository, "reproduce", "mosaic", "--no-site")
    assert "MOSAIC-1" in printed
    assert "MOSAIC-2" in printed
    return repository


def advdef(repository: Repository, *arguments: str) -> str:
    """What the command prints, with the package of the copy."""
    root = str(repository.root)
    environment = {**os.environ, "PYTHONPATH": root, "ADVDEF_ROOT": root, "ADVDEF_CACHE": f"{root}/build/cache"}
    command = [sys.executable, "-m", "advdef.cli", *arguments]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_run_says_what_the_guide_says_of_it(checkout: Repository) -> None:
    rows = read_record(checkout.run("smoke", "mosaic").results / "mosaic" / "digits-smoke-seed0.json")["results"]
    left = {
        threat: rows.hits(part="curve", attack=WORST_CASE, defence="Mosaic", eps=0.1, threat=threat)
        for threat in ATTACKERS
    }
    assert (left["adaptive"] <= (left["direct"] & left["oblivious"])).all()
    notebook = nbformat.read(checkout.run("smoke", "mosaic").finished / "06_mosaic.ipynb", as_version=4)
    values = recorded_values(notebook)
    assert "B5" in str(values["digits/checks/Mosaic"]["value"])
    tables = [o["data"].get("text/html", "") for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
    assert any("<th>D3 " in table for table in tables)  # it only runs where a gradient is missing
    assert "B5" not in str(values["digits/checks/undefended"]["value"])


def test_the_new_files_are_formatted(checkout: Repository) -> None:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if ruff is None:
        pytest.skip("ruff is not installed")
    new = [checkout.notebooks["mosaic"].with_suffix(".py"), checkout.root / "advdef/defenses/mosaic.py"]
    done = subprocess.run([ruff, "format", "--check", "--diff", *new], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_new_page_has_what_the_tests_of_the_project_ask_for(checkout: Repository) -> None:
    page = checkout.notebooks["mosaic"]
    assert out_of_step(page) is None
    further = dict.fromkeys(("eps", "images", "seeds"))
    assert (
        parameter_defaults(read_pair(page))
        == {"profile": "smoke", "dataset": None, "seed": 0, "device": None} | further
    )
    toc = yaml.safe_load((checkout.root / "_toc.yml").read_text())
    papers = next(part for part in toc["parts"] if part["caption"] == "Papers")
    assert papers["chapters"][-1] == {"file": "notebooks/06_mosaic"}
    assert not re.search(r"(?i)new_?defence|THE_ADDRESS", page.with_suffix(".py").read_text())


def test_its_baseline_can_be_written_and_its_run_recorded(checkout: Repository, tmp_path: Path) -> None:
    values = recorded_values(nbformat.read(checkout.run("smoke", "mosaic").finished / "06_mosaic.ipynb", as_version=4))
    write_baseline(tmp_path / "06_mosaic.json", allowing(values), variants={})
    kept = read_baseline(tmp_path / "06_mosaic.json")
    assert {"digits/verdict/MOSAIC-1", "digits/verdict/MOSAIC-2"} <= set(kept)
    assert advdef(checkout, "record", "mosaic", "--profile", "smoke").splitlines() == [
        "recorded notebooks/06_mosaic.ipynb",
        "recorded book/results/mosaic/digits-smoke-seed0.json",
        "recorded book/results/mosaic/digits-smoke-seed0.safetensors",
    ]


@pytest.mark.thorough
def test_the_site_shows_the_page_and_its_verdicts(checkout: Repository) -> None:
    assert " 0 of them broken" in advdef(checkout, "reproduce", "mosaic")
    site = checkout.build("smoke") / "site"
    verdicts = (site / "book/verdicts.html").read_text()
    assert "A mosaic costs little clean accuracy." in verdicts
    assert 'id="mosaic-2"' in verdicts
    assert "06_mosaic" in (site / "book/status.html").read_text()
    assert 'class="verdict' in (site / "notebooks/06_mosaic.html").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-defence", "lower-case"),
        ("class", "lower-case"),
        ("2nd", "lower-case"),
        ("trn", r"taken by notebooks/04_trn\.ipynb"),
        ("broken", r"taken by advdef/defenses/broken\.py"),
        ("os", "a module of Python"),
        ("list", "a word of Python"),
        ("match", "a word of Python"),
        ("con", "no file name on Windows"),
        ("norms", r"taken by advdef/norms\.py"),
        ("papers", "taken by advdef/papers/"),
        ("jpeg", r"taken: advdef/defenses/transforms\.py has a class Jpeg"),
        ("sns", "taken by claims of another page"),
    ],
)
def test_a_name_that_is_none_or_is_taken_is_refused_and_nothing_written(
    checkout: Repository, name: str, message: str
) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in checkout.root.rglob("*") if path.is_file()}

    before = state()
    with pytest.raises(InputError, match=message):
        new_defence(checkout, name)
    assert state() == before
