"""Where things are in a checkout of the repository, and what a caller may ask of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

__all__ = ["PROFILES", "InputError", "Profile", "Repository", "check_profile", "find"]

Profile = Literal["smoke", "laptop", "gpu", "paper"]

PROFILES: tuple[Profile, ...] = get_args(Profile)
"""From the smallest to the largest."""

_NOTEBOOK = re.compile(r"\d\d_(?P<paper>\w+)")


class InputError(ValueError):
    """What was asked for does not exist; the message is one line that says what does."""


@dataclass(frozen=True)
class RunFolder:
    """What one notebook leaves behind for one profile, data set and seed, apart from all others.

    ``finished`` holds the page, its log and ``results`` of the last run that succeeded, ``attempt`` those of one that
    is under way or failed, ``resume`` the evaluations of one that did not end; ``lock`` names who writes.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Data set and seed: ``digits-seed3``."""
        return self.folder.name

    @property
    def dataset(self) -> str:
        """The data set, or "default", the notebook's own choice; with the parameters that were asked for behind it."""
        return self.name.rpartition("-seed")[0]

    @property
    def seed(self) -> str:
        """The seed, as text."""
        return self.name.rpartition("-seed")[2]

    @property
    def finished(self) -> Path:
        """The folder of the last run that succeeded; it is replaced as a whole."""
        return self.folder / "finished"

    @property
    def results(self) -> Path:
        """The record files of the last run that succeeded, in a folder named after the paper."""
        return self.finished / "results"

    @property
    def attempt(self) -> Path:
        """The folder of a run that is under way, was killed, or failed."""
        return self.folder / "attempt"

    @property
    def resume(self) -> Path:
        """Evaluations of a run that did not come to its end."""
        return self.folder / "resume"

    @property
    def lock(self) -> Path:
        """The file that names the process that is writing here."""
        return self.folder / "lock"


@dataclass(frozen=True)
class Repository:
    """A checkout: the folder that holds ``_toc.yml`` and ``notebooks/``."""

    root: Path

    @property
    def notebooks(self) -> dict[str, Path]:
        """The notebooks by paper, in the order of their numbers, as in ``{"qusecnets": .../01_qusecnets.ipynb}``.

        Raises `InputError` where two have the same paper.
        """
        stems = {path.stem for path in (self.root / "notebooks").iterdir() if path.suffix in (".py", ".ipynb")}
        found: dict[str, str] = {}
        for stem in sorted(stems):
            if (match := _NOTEBOOK.fullmatch(stem)) is None:
                continue
            if (other := found.setdefault(match["paper"], stem)) != stem:
                raise InputError(
                    f"notebooks/{other} and notebooks/{stem} both are {match['paper']!r}: give one another name"
                )
        return {paper: self.root / "notebooks" / f"{stem}.ipynb" for paper, stem in found.items()}

    def select(self, papers: Iterable[str] = ()) -> dict[str, Path]:
        """The notebooks of the named papers (all of them when none is named), in the order of their numbers.

        A paper may also be named by its notebook (``01_qusecnets``), and a name with a folder means that very file.
        Raises `InputError` for an unknown name, and for a file that is not one of the notebooks.
        """
        known = self.notebooks
        by_stem = {path.stem: paper for paper, path in known.items()}
        wanted = []
        for name in papers:
            if "/" in name or os.sep in name:
                wanted.append(self._paper_of(Path(name)))
                continue
            short = name.removesuffix(".ipynb").removesuffix(".py")
            paper = by_stem.get(short, short)
            if paper not in known:
                raise InputError(f"unknown notebook {name!r}; notebooks: {', '.join(known) or 'none'}")
            wanted.append(paper)
        return {paper: path for paper, path in known.items() if not wanted or paper in wanted}

    def _paper_of(self, file: Path) -> str:
        """The paper whose notebook that file is."""
        wanted = file.expanduser().resolve()
        for paper, path in self.notebooks.items():
            if wanted in (path.with_suffix(suffix).resolve() for suffix in ("", ".ipynb", ".py")):
                return paper
        there = "is not one of" if file.is_file() else "does not exist, and is not one of"
        raise InputError(f"{file} {there} the notebooks in {self.root / 'notebooks'}: {', '.join(self.notebooks)}")

    def build(self, profile: str) -> Path:
        """Everything that a run of a profile leaves behind."""
        return self.root / "build" / profile

    def run(
        self, profile: str, paper: str, *, dataset: str | None = None, seed: int = 0,
        parameters: Mapping[str, Any] | None = None,
    ) -> RunFolder:  # fmt: skip
        """Where the runs of a notebook go: on a data set (default: its own choice), with a seed.

        Those with further parameters, which are numbers, lie apart: ``digits-eps0.05-seed3``.
        """
        more = "".join(f"-{name}{value:g}" for name, value in (parameters or {}).items())
        chosen = re.sub(r"[^\w.-]", "_", dataset or "default") + more
        return RunFolder(self.build(profile) / "runs" / paper / f"{chosen}-seed{seed}")

    def finished(self, profile: str, paper: str) -> list[RunFolder]:
        """The runs of a notebook that have succeeded, by name."""
        runs = map(RunFolder, sorted((self.build(profile) / "runs" / paper).glob("*-seed*")))
        return [run for run in runs if run.finished.is_dir()]

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
    advdef.book.repository.InputError: unknown profile 'huge'; profiles: smoke, laptop, gpu, paper
    """
    for profile in PROFILES:
        if profile == name:
            return profile
    raise InputError(f"unknown profile {name!r}; profiles: {', '.join(PROFILES)}")


def _is_root(folder: Path) -> bool:
    return (folder / "_toc.yml").is_file() and (folder / "notebooks").is_dir()
