"""What contributors and GitHub are told: jobs that exist, paths that exist, and the versions that the tests have."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from cases import each

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GUIDES = [ROOT / name for name in ("CONTRIBUTING.md", "README.md", "SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md")]
HOOKS = ROOT / ".pre-commit-config.yaml"
# by a job, by the reader, or to be filled in
MADE = ("build/", ".nox/", "notebooks/NN_", "tests/baselines/NN_", "advdef-reports/", "train/", "test/")


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)$", text, re.MULTILINE))


@each("file", [*GUIDES, *WORKFLOWS], ids=lambda file: file.name)
def test_jobs_that_are_named_exist(file: Path) -> None:
    jobs = set(re.findall(r"@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text("utf-8")))
    named = re.findall(r"nox (?:--install-only )?-s ((?:[a-z]+ ?)+)", file.read_text("utf-8"))
    assert {job for several in named for job in several.split()} <= jobs


@each("file", GUIDES, ids=lambda file: file.name)
def test_paths_that_are_named_exist(file: Path) -> None:
    text = re.sub(r"```.*?```", "", file.read_text("utf-8"), flags=re.DOTALL)
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    quoted = [name for name in re.findall(r"`(\.?\w[\w./-]*)`", text) if "/" in name]
    named = [name for name in (*linked, *quoted) if not name.startswith(MADE)]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_hooks_have_the_versions_of_the_tests() -> None:
    tested = pins((ROOT / "constraints.txt").read_text("utf-8"))
    hooks = [hook for repo in yaml.safe_load(HOOKS.read_text("utf-8"))["repos"] for hook in repo["hooks"]]
    given = {pin for hook in hooks for pin in hook.get("additional_dependencies", ())}
    assert {name.partition("==")[0] for name in given} >= {"ruff", "jupytext"}
    assert [pin for pin in sorted(given) if tested.get(pin.partition("==")[0]) != pin.partition("==")[2]] == []


def test_colab_has_a_version_of_every_dependency_but_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {re.match(r"[\w.-]+", entry)[0] for entry in project["dependencies"]}  # type: ignore[index]
    assert needed - set(pins((ROOT / ".github" / "colab.txt").read_text("utf-8"))) == {"snntorch"}  # not there yet
