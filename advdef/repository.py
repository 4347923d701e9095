"""Where things are in a checkout of the repository, and what a caller may ask of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

__all__ = ["PROFILES", "InputError", "Profile", "Repository", "check_profile", "find"]

Profile = Literal["smoke", "laptop", "paper"]

PROFILES: tuple[Profile, ...] = get_args(Profile)

_NOTEBOOK = re.compile(r"\d\d_(?P<paper>\w+)")


class InputError(ValueError):
    """What was asked for does not exist; the message is one line that says what does."""


@dataclass(frozen=True)
class Repository:
    """A checkout: the folder that holds ``_toc.yml`` and ``notebooks/``."""

    root: Path

    @property
    def notebooks(self) -> dict[str, Path]:
        """The notebooks by paper, in the order of their numbers: ``{"qusecnets": .../01_qusecnets.ipynb}``."""
        stems = {path.stem for path in (self.root / "notebooks").iterdir() if path.suffix in (".py", ".ipynb")}
        found = {stem: match["paper"] for stem in sorted(stems) if (match := _NOTEBOOK.fullmatch(stem))}
        return {paper: self.root / "notebooks" / f"{stem}.ipynb" for stem, paper in found.items()}

    def select(self, papers: Iterable[str] = ()) -> dict[str, Path]:
        """The notebooks of the named papers (all of them when none is named), in the order of their numbers.

        A paper may also be named by its notebook (``01_qusecnets``). Raises `InputError` for an unknown name.
        """
        known = self.notebooks
        by_stem = {path.stem: paper for paper, path in known.items()}
        wanted = []
        for name in papers:
            short = Path(name).name.removesuffix(".ipynb").removesuffix(".py")
            paper = by_stem.get(short, short)
            if paper not in known:
                raise InputError(f"unknown notebook {name!r}; notebooks: {', '.join(known) or 'none'}")
            wanted.append(paper)
        return {paper: path for paper, path in known.items() if not wanted or paper in wanted}

    def build(self, profile: str) -> Path:
        """Everything that a run of a profile leaves behind."""
        return self.root / "build" / profile

    def executed(self, profile: str) -> Path:
        """The executed notebooks of a profile."""
        return self.build(profile) / "notebooks"

    def results(self, profile: str) -> Path:
        """The record files of a profile's runs, in one folder per paper."""
        return self.build(profile) / "results"

    @property
    def committed_results(self) -> Path:
        """The record files that belong to the committed notebooks."""
        return self.root / "book" / "results"


def find(start: Path | None = None) -> Repository:
    """The checkout named by ADVDEF_ROOT, or the one around `start` (default: the current folder)."""
    named = os.environ.get("ADVDEF_ROOT")
    if named:
        root = Path(named).expanduser().resolve()
        if not _is_root(root):
            raise InputError(f"ADVDEF_ROOT={named} is not a checkout of advdef (no _toc.yml beside notebooks/)")
        return Repository(root)
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if _is_root(folder):
            return Repository(folder)
    raise InputError(f"{here} is not inside a checkout of advdef: change to one, or name one in ADVDEF_ROOT")


def check_profile(name: str) -> Profile:
    """The profile of that name.

    >>> check_profile("smoke")
    'smoke'
    >>> check_profile("huge")
    Traceback (most recent call last):
    advdef.repository.InputError: unknown profile 'huge'; profiles: smoke, laptop, paper
    """
    for profile in PROFILES:
        if profile == name:
            return profile
    raise InputError(f"unknown profile {name!r}; profiles: {', '.join(PROFILES)}")


def _is_root(folder: Path) -> bool:
    return (folder / "_toc.yml").is_file() and (folder / "notebooks").is_dir()
