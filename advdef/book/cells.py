"""Which runs a command asks for: pages, data sets and seeds, and what a grid computes of each."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from advdef.book.repository import InputError, Profile
from advdef.data import DatasetUnavailable, find_device, load
from advdef.grid import Asked, Cell, Study
from advdef.papers import STUDIES

__all__ = ["PageRun", "page_runs", "study_of"]


@dataclass(frozen=True)
class PageRun:
    """One execution of a page: on a data set (None: those of its profile), with a seed (None: the page's own)."""

    paper: str
    dataset: str | None = None
    seed: int | None = None
    asked: Asked = field(default_factory=Asked)

    @property
    def label(self) -> str:
        """The run, for people."""
        return f"{self.paper} {self.dataset or 'default'} seed {self.seed or 0}{self.asked}"

    def cells(self, profile: Profile, device: str | None = None) -> list[Cell]:
        """What a grid computes of it, a cell for each data set; none of a page that has no study.

        Raises `InputError` for a data set or a device that is not here, and for numbers that are impossible.
        """
        if self.paper not in STUDIES:
            return []
        study = study_of(self.paper)
        settings = study.profiles[profile]
        names: list[str] = list(settings["datasets"]) if self.dataset is None else [self.dataset]
        try:
            found = find_device(device or "cpu")
            data = {name: load(name, download=False) for name in names}
            settings = self.asked.changed(settings, self.paper, study)
            for loaded in data.values():
                self.asked.fits(loaded)
        except (DatasetUnavailable, ValueError) as failure:
            raise InputError(f"{self.paper}: {failure}") from failure
        return [
            Cell(
                self.paper,
                STUDIES[self.paper],
                name,
                loaded.checksum,
                settings,
                self.seed or 0,
                str(found),
                main=name == names[0],
            )
            for name, loaded in data.items()
        ]


def study_of(paper: str) -> type[Study]:
    """The class that says what a page computes."""
    module, _, name = STUDIES[paper].partition(":")
    found: type[Study] = getattr(importlib.import_module(module), name)
    return found


def page_runs(
    papers: Sequence[str], *, profile: Profile, datasets: Sequence[str] = (), seed: int | None = None, seeds: int = 1,
    asked: Asked | None = None,
) -> list[PageRun]:  # fmt: skip
    """A run for each page, each data set, and so many seeds.

    A page that trains several networks uses as many seeds from its own on; its next run begins after these, so that no
    two runs have a network in common. Raises `InputError` for numbers that are impossible on a page.
    """
    asked = asked or Asked()
    runs, chosen = list[PageRun](), list[str | None](datasets) or [None]
    for paper in papers:
        study = study_of(paper) if paper in STUDIES else None
        try:
            settings = asked.changed(study.profiles[profile], paper, study) if study else {}
        except ValueError as impossible:
            raise InputError(str(impossible)) from impossible
        taken = max([1, *(settings[name] for name in (study.several if study else ()))])
        own = [(seed or 0) + number * taken for number in range(seeds)] if seeds > 1 else [seed]
        runs += [PageRun(paper, dataset, number, asked) for dataset in chosen for number in own]
    return runs
