"""What every notebook of the book does in the same way: its settings, data, runs, tables, verdicts, provenance."""

import html
import math
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Number
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pandas as pd
import torch
from IPython.display import HTML
from torch import Tensor, nn

from advdef.book.cells import study_of
from advdef.book.decisions import claim_card
from advdef.book.glue import Kind, record
from advdef.book.provenance import provenance
from advdef.book.recordimages import PAGE_LIMIT, save_images, save_images_of_study
from advdef.book.records import Run, Scale, holes_folder
from advdef.checks import Check
from advdef.claims import Condition, Verdict, claims, decide
from advdef.data import Dataset, Split, dataset_name, find_device, load
from advdef.devices import keep_freed_memory
from advdef.evaluation import Results
from advdef.evaluation.packed import AttackedSet
from advdef.grid import Asked, Study
from advdef.norms import show_eps
from advdef.papers import STUDIES, how_decided

__all__ = [
    "Case",
    "Page",
    "check_table",
    "choose",
    "choose_datasets",
    "choose_device",
    "provenance_table",
    "resume_folder",
    "sample",
    "show_eps",
    "table",
    "verdict_cards",
]

_LARGEST = 3 * 32 * 32  # values of an image: what the sizes of the profiles were chosen for
Settings = TypeVar("Settings")
AnyStudy = TypeVar("AnyStudy", bound=Study)


class Case(SimpleNamespace):
    """What a page knows of one network on one data set; it fills it in as it goes on, and looks results up by it.

    >>> case = Case(name="digits", eps=0.1)
    >>> case.steps = {"V1": 0.02}
    >>> {case: "found"}[case]
    'found'
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]  # a namespace has none


class Page:
    """A notebook's settings and runs, and what all notebooks show alike.

    Attributes:
        paper: The page's name in claims and records.
        profile: The name of the size that was chosen.
        settings: The settings of that profile, with what was asked for in their place.
        seed: The first seed.
        device: Where tensors live.
        resume: Where evaluations keep what they have found, should they be interrupted.
        data: The data sets, by name.
        runs: What is found on each data set, by its name.
        run_line: Which run this is, in one line.
    """

    def __init__(
        self, paper: str, profiles: Mapping[str, Mapping[str, Any]], profile: str, *, dataset: str | None = None,
        seed: int = 0, device: str | None = None, train: int | None = None, eps: float | None = None,
        images: int | None = None, seeds: int | None = None,
    ) -> None:  # fmt: skip
        """Choose, and load the data.

        Args:
            paper: The page's name.
            profiles: The settings of each size, by its name; "datasets" are the names of its data sets.
            profile: The size.
            dataset: A data set in the place of the profile's.
            seed: The first seed.
            device: "cpu", "cuda" or "mps"; None is a GPU where there is one.
            train: At most so many training images; None are all.
            eps: The main budget in Linf, in the place of the profile's or the study's.
            images: How many test images are attacked, in the place of the profile's.
            seeds: Over how many seeds the page compares, likewise.

        Raises ValueError, with what exists, for an unknown profile, data set or device, and for numbers that are
        impossible here.
        """
        self.paper, self.profile, self.seed = paper, profile, seed
        asked = Asked(eps, images, seeds)
        self.settings = asked.changed(choose(profiles, profile), paper, _study(paper))
        self.device = choose_device(device)
        keep_freed_memory()
        chosen = choose_datasets(dataset, self.settings["datasets"])
        self.data = {data.name: data for data in (load(name, device=self.device) for name in chosen)}
        for data in self.data.values():
            asked.fits(data)
            _warn_of_size(data)
            if not len(data.train) and _study(paper) is not None:
                raise ValueError(f"{data.name} has no training images, and this page trains its networks")
        self.settings = _of_what_there_is(self.settings, _study(paper), self.data.values())
        names = tuple(self.data)
        self._whole = {name: len(data.train) for name, data in self.data.items()}
        if train is not None:
            self.data = {name: d.subset(train=min(train, len(d.train))) for name, d in self.data.items()}
        self.resume = resume_folder()
        self.runs = {name: Run(paper, profile, data, seed, parameters=asked.told) for name, data in self.data.items()}
        self.run_line = f"profile {profile}, {' and '.join(names)}, seed {seed}, device {self.device.type}{asked}"
        record("run_line", self.run_line)
        self._profiles = profiles
        self._studies: dict[str, Study] = {}
        self._attacked: dict[str, Callable[[Path, int], Path]] = {}

    @property
    def run(self) -> Run:
        """The run of a page that has one data set."""
        (run,) = self.runs.values()
        return run

    def add_network(
        self, name: str, model: nn.Module, *, dataset: str | None = None, images: int | None = None
    ) -> None:
        """Record how large a network is, and on how many images it was trained: all that the page loads, by default.

        ``dataset`` is needed on a page that has several.
        """
        run = self.run if dataset is None else self.runs[dataset]
        known, whole = len(run.data.train), self._whole[run.data.name]
        run.add_network(name, model, images=known if images is None else images, of=whole)

    def studies(self, kind: type[AnyStudy]) -> dict[str, AnyStudy]:
        """What the page computes on each data set, by its name; a grid may have computed it before."""
        first, options = next(iter(self.data)), {"seed": self.seed, "resume": self.resume}
        options["holes"] = holes_folder(self.paper)
        made = {
            name: kind(data, self.settings, main=name == first, **options)  # type: ignore[arg-type]
            for name, data in self.data.items()
        }
        self._studies.update(made)
        return made

    def add_attacked(
        self, sets: Sequence[AttackedSet], images: Tensor, labels: Tensor, defence: Callable[[str], nn.Module], *,
        dataset: str | None = None,
    ) -> None:  # fmt: skip
        """Keep what attackers made of test images beside the record: of a page without a study, which keeps its own.

        Args:
            sets: What they made, as :func:`~advdef.evaluation.packed.attacked_sets` has it of outcomes.
            images: (N, C, H, W): the test images that they met.
            labels: (N,), int64.
            defence: The defence of a name in ``sets``.
            dataset: Which one, on a page that has several.
        """
        run = self.run if dataset is None else self.runs[dataset]

        def save(record_file: Path, limit: int) -> Path:
            return save_images(record_file, run.data, images, labels, sets, defence, run.facts, limit=limit)

        self._attacked[run.data.name] = save

    def draws(self, offset: int = 0) -> torch.Generator:
        """Random draws that depend on the page's seed and on nothing before them; offsets keep uses apart."""
        return torch.Generator().manual_seed(1_000 * self.seed + offset)

    def budget(self, eps: float, dataset: str | None = None) -> str:
        """A budget as text: by :func:`~advdef.norms.show_eps` on colour images, a decimal of three digits on grey ones.

        ``dataset`` is needed on a page that has several.
        """
        data = (self.run if dataset is None else self.runs[dataset]).data
        return show_eps(eps) if data.shape[0] == 3 else f"{eps:.3g}"

    def results(self, **where: Any) -> Results:
        """The rows of all data sets, or those that :meth:`Results.select` leaves."""
        return Results(row for run in self.runs.values() for row in run.results).select(**where)

    def profiles(self) -> HTML:
        """The table of the profiles' settings, folded; with what they mean, where the page's study says so."""
        frame, caption = pd.DataFrame(self._profiles).map(_setting), f"The profiles; this page: {self.run_line}"
        if (study := _study(self.paper)) is not None:
            frame.insert(0, "meaning", [study.meanings.get(name, "") for name in frame.index])
        title = f"The settings of this run: profile {self.profile}"
        return HTML(f"<details><summary>{title}</summary>{table(frame, caption, index=True).data}</details>")

    def headline(self, frame: pd.DataFrame, caption: str) -> HTML:
        """The table that other pages of the book paste."""
        shown = table(frame, caption)
        record("headline_table", shown)
        return shown

    def checks(
        self, found: Mapping[tuple[str, str], Sequence[Check]], caption: str, *, exact: Collection[str] = ()
    ) -> HTML:
        """The table of sanity checks by (data set, defence), which are recorded with the letters of those that fire.

        ``exact`` are the defences on whose letters every machine agrees, so that a test compares them.
        """
        shown = {}
        for (dataset, defence), row in found.items():
            fired = self.runs[dataset].add_checks(row, defence=defence)
            kind: Kind = "text" if defence in exact else "info"
            record(f"{dataset}/checks/{defence}", ", ".join(fired) or "none", kind=kind)
            shown[defence if len(self.runs) == 1 else f"{dataset}: {defence}"] = row
        return check_table(shown, caption)

    def verdicts(
        self, conditions: Mapping[str, Mapping[str, Iterable[Condition]]], *, volatile: Collection[str] = ()
    ) -> HTML:
        """The verdicts, which are recorded; a claim about other data is named in the caption alone.

        Args:
            conditions: What the rules give, by data set and by the claim's id.
            volatile: Ids of claims whose word a test does not compare, as rounding decides it.

        Raises ValueError for the id of a claim that this page does not have.
        """
        stated = claims(self.paper)
        if unknown := [id for found in conditions.values() for id in found if id not in stated]:
            raise ValueError(f"no claim {unknown[0]}; those of {self.paper} are {', '.join(stated)}")
        shown, elsewhere = list[Verdict](), set[str]()
        for run in self.runs.values():
            run.verdicts = []
        for id, claim in stated.items():
            for dataset in [name for name in self.runs if id in conditions.get(name, {})]:
                verdict = decide(claim, dataset, tuple(conditions[dataset][id]))
                self.runs[dataset].verdicts.append(verdict)
                kind: Kind = "info" if id in volatile else "text"
                record(f"{dataset}/verdict/{id}", verdict.word, kind=kind)
                if claim.about(dataset):
                    shown.append(verdict)
                else:
                    elsewhere.add(id)
        about = f"; about other data: {', '.join(sorted(elsewhere))}" if elsewhere else ""
        scales = {name: run.scale for name, run in self.runs.items()}
        verdicts = verdict_cards(shown, f"Verdicts of this run ({self.run_line}{about})", scales)
        record("verdict_table", verdicts)
        return verdicts

    def rules(self) -> HTML:
        """The table of how each claim is decided."""
        rows = [{"claim": id, "the rule": text} for id, text in how_decided(self.paper).items()]
        return table(pd.DataFrame(rows), "How each claim is decided")

    def finish(self) -> HTML:
        """Write the records and the images that were attacked; returns the table of where their numbers come from."""
        limit = PAGE_LIMIT // len(self.runs)
        for name, run in self.runs.items():
            record_file = run.save()
            if name in self._attacked:
                self._attacked[name](record_file, limit)
            elif name in self._studies:
                save_images_of_study(self._studies[name], record_file, run.facts, limit=limit)
        return provenance_table(self.runs.values())


def _setting(value: Any) -> str:
    """A setting as text, with numbers as budgets are written."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_setting(one)}" for name, one in value.items())
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_setting, value))})"
    return show_eps(value) if isinstance(value, float) else str(value)


def _warn_of_size(data: Dataset) -> None:
    """Say so where images are larger than any that the profiles' sizes were chosen for."""
    values = math.prod(data.shape)
    if values > _LARGEST:
        shape = " x ".join(map(str, data.shape))
        warnings.warn(
            f"images of {shape} in {data.name} hold {values / _LARGEST:.1f} times the values of CIFAR-10's, and this "
            "page takes at least as many times as long: smaller pictures, images=8 or the profile smoke shorten it",
            stacklevel=3,
        )


def _study(paper: str) -> type[Study] | None:
    """The class that says what a page computes, where it has one."""
    return study_of(paper) if paper in STUDIES else None


def _of_what_there_is(settings: dict[str, Any], study: type[Study] | None, data: Iterable[Dataset]) -> dict[str, Any]:
    """The settings, with no more attacked images than the smallest data set has."""
    counts = ("images",) if study is None else (study.met, *study.fewer)
    there = min(len(one.test) for one in data)
    return settings | {name: min(settings[name], there) for name in counts if settings.get(name)}


def choose(profiles: Mapping[str, Settings], profile: str) -> Settings:
    """The settings of a profile; raises ValueError with one line that lists what exists."""
    if profile not in profiles:
        raise ValueError(f"unknown profile {profile!r}; profiles: {', '.join(profiles)}")
    return profiles[profile]


def choose_datasets(dataset: str | None, default: Sequence[str]) -> tuple[str, ...]:
    """The one named data set, else the profile's; raises ValueError with one line that lists what exists."""
    return tuple(map(dataset_name, default if dataset is None else (dataset,)))


def choose_device(device: str | None) -> torch.device:
    """The named device, else CUDA when there is one, else the CPU; raises ValueError for one that is not here."""
    return find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def resume_folder() -> Path | None:
    """Where evaluations keep what they have found, should they be interrupted: ``$ADVDEF_RESUME``, else nowhere."""
    named = os.environ.get("ADVDEF_RESUME")
    return Path(named) if named else None


def sample(split: Split, n: int) -> Split:
    """:meth:`advdef.data.Split.sample`."""
    return split.sample(n)


def table(frame: pd.DataFrame, caption: str, *, index: bool = False) -> HTML:
    """A data frame as an HTML table with a caption; text is escaped, and a cell of IPython's class HTML is markup."""
    frame = frame.rename(index=_escaped, columns=_escaped).rename_axis(index=_escaped, columns=_escaped)
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column):
            frame.isetitem(place, column.map(_cell).astype(object))
    body = frame.to_html(index=index, escape=False, border=0, classes="results", na_rep="–")
    body = re.sub(r"\[([-+.\d]+), ([-+.\d]+)\]", "[\\1,\u00a0\\2]", body)  # an interval is not broken over lines
    body = body.replace("<table ", '<table tabindex="0" ', 1)  # wide tables scroll, and keyboards should reach them
    return HTML(body.replace("<thead>", f"<caption>{html.escape(caption)}</caption>\n<thead>", 1))


def _escaped(text: Any) -> Any:
    return html.escape(text, quote=False) if isinstance(text, str) else text


def _cell(value: Any) -> Any:
    """A cell as pandas is to write it: markup as it is, numbers and what is missing untouched, the rest as text."""
    if isinstance(value, HTML):
        return value.data
    plain = value is None or isinstance(value, Number) or value is pd.NA
    return value if plain else _escaped(str(value))


def check_table(rows: Mapping[str, Sequence[Check]], caption: str) -> HTML:
    """Sanity checks as a matrix, a column per defence: those that fired anywhere, with why, and the others folded."""

    def cell(check: Check) -> str | HTML:
        if check.status == "fire":
            return HTML(f"<strong>FIRES</strong><br><small>{html.escape(check.detail)}</small>")
        return "–" if check.status == "not run" else check.status

    columns = {name: {f"{c.id} {c.title}": cell(c) for c in row} for name, row in rows.items()}
    frame = pd.DataFrame(columns)
    frame = frame[(frame != "–").any(axis=1)]
    fired = frame.map(lambda cell: isinstance(cell, HTML)).any(axis=1)
    ids = ", ".join(str(name).partition(" ")[0] for name in frame.index[fired]) or "none"
    shown = table(frame[fired], f"{caption}; of {len(frame)} that ran {int(fired.sum())} fired: {ids}", index=True)
    others = table(frame[~fired], f"{caption}; those that did not fire", index=True)
    folded = f"<details><summary>The other {int((~fired).sum())} checks</summary>{others.data}</details>"
    return HTML(f"{shown.data}{folded}" if fired.any() else others.data)


def verdict_cards(verdicts: Sequence[Verdict], caption: str, scales: Mapping[str, Scale]) -> HTML:
    """Claims with their verdicts, as the page of verdicts shows them; ``scales`` are those of the runs, by data set."""
    by_claim: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_claim.setdefault(verdict.claim.id, []).append(verdict)
    cards = (
        claim_card(found[0].claim, [(v.as_record(), v.dataset, scales[v.dataset]) for v in found])
        for found in by_claim.values()
    )
    return HTML(f'<div class="verdicts"><p><em>{html.escape(caption)}</em></p>{"".join(cards)}</div>')


def provenance_table(runs: Iterable[Run]) -> HTML:
    """What ran where: one column per data set."""
    columns = {}
    for run in runs:
        facts = {"profile": run.profile} | provenance(run.data, seed=run.seed)
        versions = ", ".join(f"{name} {version}" for name, version in facts.pop("versions").items() if version)
        stored = facts.pop("cached")
        stored = (
            f"{stored['entries']} results, which had taken {stored['seconds']:.0f} s" if stored["entries"] else "none"
        )
        told = {name.replace("_", " "): value for name, value in facts.items()}
        columns[run.data.name] = told | {"from stored results": stored, "versions": versions}
    return table(pd.DataFrame(columns).map(str), "Provenance of this run", index=True)
