"""Where a run came from."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import advdef
from advdef.book.provenance import provenance
from advdef.data import Dataset


def test_provenance_outside_a_checkout_has_no_commit(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advdef, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance(digits, seed=0)["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert provenance(digits, seed=0)["commit"] is None


def test_the_commit_of_a_project_around_the_installed_package_is_not_ours(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    (tmp_path / "project.py").touch()
    for command in (["init", "-q"], ["add", "project.py"], ["commit", "-qm", "one"]):
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True)
    package = tmp_path / "venv/lib/advdef"
    package.mkdir(parents=True)
    monkeypatch.setattr(advdef, "__file__", str(package / "__init__.py"))
    (package / "__init__.py").touch()
    assert provenance(digits, seed=0)["commit"] is None
    # nor is that of a repository in whose hook this runs
    monkeypatch.undo()
    ours = provenance(digits, seed=0)["commit"]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance(digits, seed=0)["commit"] == ours


def test_the_commit_says_whether_there_are_changes(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "__init__.py").write_text("1\n")
    git("add", "__init__.py")
    git("commit", "-qm", "one")
    monkeypatch.setattr(advdef, "__file__", str(tmp_path / "__init__.py"))
    head = git("rev-parse", "--short=12", "HEAD")
    assert provenance(digits, seed=0)["commit"] == head
    (tmp_path / "__init__.py").write_text("2\n")
    assert provenance(digits, seed=0)["commit"] == head + "+"


def test_a_bundle_with_other_content_than_was_published_says_so(digits: Dataset) -> None:
    assert provenance(digits, seed=0)["data_as_published"] is True
    assert provenance(digits.subset(train=10), seed=0)["data_as_published"] is True  # a part of it
    assert provenance(replace(digits, checksum="0" * 16), seed=0)["data_as_published"] is False
    assert provenance(replace(digits, name="cifar10"), seed=0)["data_as_published"] is None  # not known to us
    assert provenance(replace(digits, name="my own"), seed=0)["data_as_published"] is None
