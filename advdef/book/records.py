"""The record of a run: a JSON file whose schema is ``record.schema.json``, with its one writer and its one reader."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from advdef.book.provenance import provenance
from advdef.book.repository import PROFILES, InputError, find
from advdef.book.schemas import check_schema, read_schema
from advdef.book.together import together
from advdef.checks import Check
from advdef.claims import Condition, Verdict
from advdef.data import Dataset
from advdef.evaluation import ATTACKERS, Outcome, Results, Threat
from advdef.evaluation.results import WORST_CASE, Row, unpack_hits
from advdef.norms import Norm
from advdef.papers import PAPERS
from advdef.statistics import Interval, paired_difference
from advdef.store import write_atomically
from advdef.store.files import naming

__all__ = [
    "COMPARISON", "Record", "Run", "Scale", "check_content", "holes_folder", "images_file", "read_record",
    "read_records", "record_schema", "results_folder", "scale", "three_attacker_rows",
]  # fmt: skip

COMPARISON = "five_defences"
"""The page that compares the defences of all papers."""

Record = Mapping[str, Any]
"""The content of a record file, as :meth:`Run.save` writes it; one that was read also has "images", their file."""

Scale = Literal["toy", "small", "paper"]

_SCHEMA = ("advdef.book", "record.schema.json")
_ROUNDED = 1e-4
_MILLION = 1_000_000  # trained numbers; networks below it are toys


def results_folder() -> Path:
    """Where record files go: ``$ADVDEF_RESULTS``, else ``advdef-results`` in the working folder."""
    return Path(os.environ.get("ADVDEF_RESULTS") or "advdef-results")


def holes_folder(paper: str) -> Path | None:
    """Where the checkout keeps what searches for holes broke on a page; None where nobody searched, or outside."""
    try:
        folder = find().committed_results / paper / "holes"
    except InputError:
        return None
    return folder if folder.is_dir() else None


def record_schema() -> dict[str, Any]:
    """The JSON schema of a record file, with a description of every field."""
    return read_schema(*_SCHEMA)


@dataclass
class Run:
    """What one notebook finds on one data set, for ``<results>/<paper>/<dataset>-<profile>-seed<k>.json``.

    Attributes:
        paper: The page, by its name.
        profile: The size of the run: "smoke", "laptop", "gpu" or "paper".
        data: The data set.
        seed: The first seed.
        results: What attacks left of defences: a row for each attack, or for the worst of all.
        comparisons: Paired differences of hits on the same images; :meth:`compare` adds them.
        checks: Checks of evaluations; :meth:`add_checks` adds them.
        costs: What defences cost; :meth:`add_cost` adds it.
        values: Further values, by the names that the page gives them.
        networks: The trained networks; :meth:`add_network` adds them.
        verdicts: What the run decided.
        parameters: What was asked for in the place of the profile's settings: "eps", "images" or "seeds".
        started: When it began, in seconds of :func:`time.perf_counter`.

    Raises ValueError where ``advdef reproduce`` executes the notebook of another paper (``$ADVDEF_PAPER``).
    """

    paper: str
    profile: str
    data: Dataset
    seed: int
    results: Results = field(default_factory=Results)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    networks: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    parameters: Mapping[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        """Before any work: a copied notebook may still have the paper of its original."""
        self._check_paper()

    def _check_paper(self) -> None:
        executed = os.environ.get("ADVDEF_PAPER") or self.paper
        if executed != self.paper:
            raise ValueError(
                f"this is the notebook of {executed!r}, so its record cannot be one of {self.paper!r}: "
                f"name {executed!r} as its paper, or rename its files to NN_{self.paper}"
            )

    def add(
        self, outcome: Outcome, *, part: str, defence: str, threat: Threat, model: str, seed: int | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        """A row for the worst case under ``threat`` and one per attack there, as in :meth:`Results.add`; the data set
        is the run's.

        Args:
            outcome: What an evaluation found.
            part: The table or figure of the page that the rows are for.
            defence: The defence's name.
            threat: What the attacker knows.
            model: The network's name.
            seed: The seed of the training. Default: the run's.
            **more: Further columns of plain values that tell these rows from others.
        """
        self.results.add(
            outcome, part=part, dataset=self.data.name, model=model, defence=defence, threat=threat,
            seed=self.seed if seed is None else seed, **more,
        )  # fmt: skip

    def add_curves(
        self, curves: Mapping[Threat, Mapping[float, Outcome]], *, defence: str, model: str, part: str = "curve",
        main: Collection[float] = (), seed: int | None = None, **more: Any,
    ) -> None:  # fmt: skip
        """The rows of :meth:`add` for each attacker at each budget, one attacker after the other.

        Args:
            curves: What each attacker left at each budget, as :func:`~advdef.evaluation.three_curves` returns it.
            defence: The defence's name.
            model: The network's name.
            part: The table or figure of the page that the rows are for.
            main: Budgets whose rows are for the part "worst" instead.
            seed: The seed of the training. Default: the run's.
            **more: Further columns of plain values that tell these rows from others.
        """
        for threat, curve in curves.items():
            for eps, outcome in curve.items():
                where = "worst" if eps in main else part
                self.add(outcome, part=where, defence=defence, threat=threat, model=model, seed=seed, **more)

    def add_clean(
        self, hits: torch.Tensor, *, defence: str, model: str, part: str = "clean", seed: int | None = None, **more: Any
    ) -> None:
        """One row for accuracy without an attack: the (N,) images that are right."""
        self.add_hits(
            hits, part=part, defence=defence, model=model, threat="clean", attack="none", eps=0.0, seed=seed, **more
        )

    def add_hits(
        self, hits: torch.Tensor, *, part: str, defence: str, model: str, threat: Threat, attack: str,
        eps: float | None, norm: Norm | None = None, seed: int | None = None, **more: Any,
    ) -> None:  # fmt: skip
        """One row for the images that are right under one attack, as in :meth:`Results.add_hits`; the data set is the
        run's.

        Args:
            hits: (N,) booleans, N > 0: which images are right.
            part: The table or figure of the page that the row is for.
            defence: The defence's name.
            model: The network's name.
            threat: What the attacker knows; "clean" where there is none.
            attack: The attack's name; "none" without an attack.
            eps: The budget; None for an attack that looks for the least change.
            norm: The norm of eps.
            seed: The seed of the training. Default: the run's.
            **more: Further columns of plain values that tell this row from others.
        """
        self.results.add_hits(
            hits, part=part, dataset=self.data.name, model=model, defence=defence, threat=threat, attack=attack,
            eps=eps, norm=norm, seed=self.seed if seed is None else seed, **more,
        )  # fmt: skip

    def add_network(self, name: str, model: nn.Module, *, images: int, of: int) -> None:
        """How large a network is, and that it was trained on so many ``of`` the data set's training images."""
        size = sum(weights.numel() for weights in model.parameters())
        _put(self.networks, {"name": name, "parameters": size, "images": images, "of": of}, ("name",))

    @property
    def scale(self) -> Scale:
        """How large the run is, as :func:`scale` tells of its record."""
        return scale({"networks": self.networks, "dataset": self.data.name, "profile": self.profile})

    @property
    def facts(self) -> dict[str, Any]:
        """Which run it is, for files beside its record: page, profile, seed, parameters, its id (``$ADVDEF_RUN``)."""
        told = {"page": self.paper, "profile": self.profile, "seed": self.seed, "parameters": dict(self.parameters)}
        return told | {"run": os.environ.get("ADVDEF_RUN") or None}

    def compare(self, mine: Mapping[str, Any], other: Mapping[str, Any], **where: Any) -> Interval:
        """The paired difference of the hits in two rows, which is recorded, too.

        ``mine`` and ``other`` say what tells the rows apart, ``where`` what they share. Raises as
        :meth:`Results.one` does.
        """
        found = paired_difference(self.results.hits(**where, **mine), self.results.hits(**where, **other))
        told = {"mine": dict(mine), "other": dict(other), "where": where}
        _put(self.comparisons, told | {"value": found.value, "low": found.low, "high": found.high}, tuple(told))
        return found

    def add_checks(self, checks: Sequence[Check], *, defence: str) -> list[str]:
        """The row of checks of a defence; returns the letters of those that fire."""
        for check in checks:
            told = {"id": check.id, "title": check.title, "status": check.status, "detail": check.detail}
            _put(self.checks, {"defence": defence} | told, ("defence", "id"))
        return [check.id for check in checks if check.status == "fire"]

    def add_cost(self, defence: str, *, model: str | None = None, **numbers: float | None) -> None:
        """What a defence costs, in front of a network where that matters, by the schema's names or the page's own."""
        where = {"defence": defence} | ({} if model is None else {"model": model})
        _put(self.costs, where | numbers, ("defence", "model"))

    def save(self) -> Path:
        """Write the record atomically and return its path; it bears the id of the run, ``$ADVDEF_RUN``, if it has one.

        Raises ValueError where another paper's notebook is executed, and for what its reader would refuse.
        """
        self._check_paper()
        path = results_folder() / self.paper / f"{self.data.name}-{self.profile}-seed{self.seed}.json"
        wall = {"wall_seconds": round(time.perf_counter() - self.started, 1), "peak_memory_mib": _peak_memory_mib()}
        content = {
            "schema": 3,
            "paper": self.paper,
            "dataset": self.data.name,
            "profile": self.profile,
            "run": os.environ.get("ADVDEF_RUN") or None,
            "parameters": dict(self.parameters),
            "provenance": provenance(self.data, seed=self.seed) | wall,
            "networks": self.networks,
            "verdicts": [verdict.as_record() for verdict in self.verdicts],
            "comparisons": self.comparisons,
            "checks": self.checks,
            "costs": self.costs,
            "values": _written(self.values),
            "results": self.results.rows,
        }
        written = json.dumps(content, indent=1, allow_nan=False) + "\n"
        _check_what_the_site_shows(content | {"results": check_content(json.loads(written))})
        with naming(path):
            write_atomically(path, written.encode())
        return path


def read_records(*folders: Path, profile: str | None = None, damaged: list[str] | None = None) -> list[Record]:
    """The records in results folders (default: the committed ones of the checkout around; none outside of one).

    In the order of papers and data sets. Where several profiles have some of the same paper and data set, those of the
    larger one count, unless ``profile`` names one; those of several seeds are one record
    (:func:`~advdef.book.together.together`). Raises `InputError` for a file that is no record; with a list ``damaged``,
    what is wrong with such a file is added to it, and the others are read.
    """
    if not folders:
        try:
            folders = (find().committed_results,)
        except InputError:
            return []
    cells: dict[tuple[str, str], list[Record]] = {}
    named = f"*/*{f'-{profile}-seed*' if profile else ''}.json"
    for file in [file for folder in folders for file in sorted(folder.glob(named))]:
        try:
            record = read_record(file)
        except InputError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
        else:
            cells.setdefault((record["paper"], record["dataset"]), []).append(record)
    order = {paper.id: number for number, paper in enumerate(PAPERS)}
    return [together(_largest(cells[cell])) for cell in sorted(cells, key=lambda c: (order.get(c[0], len(order)), c))]


def _largest(records: Sequence[Record]) -> list[Record]:
    """Those of the largest profile."""
    profile = max((record["profile"] for record in records), key=PROFILES.index)
    return [record for record in records if record["profile"] == profile]


def read_record(file: Path, *, anywhere: bool = False) -> Record:
    """The content of ``<paper>/<dataset>-<profile>-seed<k>.json``; with ``anywhere``, of a copy under any name.

    Its results are :class:`~advdef.evaluation.results.Results`, and "images" is the file of the attacked images beside
    it (:mod:`advdef.book.recordimages`), or None. Raises `InputError`, in one line, for a file that is no
    record: not JSON, of another schema, under another name, or with numbers that contradict each other.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
        results = check_content(record)
        run = f"{record['dataset']}-{record['profile']}-seed{record['provenance']['seed']}"
        name = f"{record['paper']}/{run}.json"
        if not anywhere and f"{file.parent.name}/{file.name}" != name:
            raise ValueError(f"it says that it is {name}")
    except ValueError as error:  # not UTF-8 and not JSON are such, too
        raise InputError(f"{file} is not a record file: {error}; restore it, or run its notebook again") from error
    images = images_file(file)
    return dict(record) | {"results": results, "images": images if images.is_file() else None}


def images_file(record: Path) -> Path:
    """Where the attacked images of a record file lie."""
    return record.with_suffix(".safetensors")


def check_content(record: Any) -> Results:
    """The rows of a record as JSON has it.

    Raises ValueError, with where and what, for one that does not fit the schema or itself.
    """
    check_schema(record, *_SCHEMA)
    if record["profile"] not in PROFILES:
        raise ValueError(f"its profile is {record['profile']!r}, not one of {', '.join(PROFILES)}")
    for number, row in enumerate(record["results"]):
        where = f"results/{number}"
        if "accuracy" in row and abs(row["accuracy"] - row["correct"] / row["n"]) > _ROUNDED:
            raise ValueError(f"{where} has an accuracy of {row['accuracy']}, and {row['correct']} of {row['n']}")
        if row.get("hits") is not None and int(unpack_hits(row["hits"], row["n"]).sum()) != row["correct"]:
            raise ValueError(f"{where} has hits that are not {row['correct']} of {row['n']}")
        if row["dataset"] != record["dataset"]:
            raise ValueError(f"{where} is of the data set {row['dataset']}")
    for verdict in record["verdicts"]:
        conditions = [Condition.from_record(told) for told in verdict["conditions"]]
        wrong = [c.what for c, told in zip(conditions, verdict["conditions"], strict=True) if c.word != told["word"]]
        if wrong:
            raise ValueError(f"{verdict['claim']} has words that do not follow from their numbers: {wrong[0]}")
    return Results(record["results"])


def _check_what_the_site_shows(record: Record) -> None:
    """Raise ValueError where the defences that the site looks up by name were not met by all three attackers."""
    paper = next((paper for paper in PAPERS if paper.id == record["paper"]), None)
    wanted = {paper.own, paper.undefended} if paper else set()
    if record["paper"] == COMPARISON:
        wanted = {"undefended", "AT", *(paper.defence for paper in PAPERS)}
    if missing := wanted - {defence for defence, _, _ in three_attacker_rows(record)}:
        raise ValueError(
            f"the site shows worst cases of {', '.join(sorted(missing))} under all three attackers, and this run has "
            'none with the part "worst" or "curve": keep the names in advdef/papers/__init__.py and on the page equal'
        )


def scale(record: Record) -> Scale:
    """How large a run was, from what it recorded.

    "toy": the digits, or no network of a million parameters trained on the whole data set; "paper": the profile of that
    name; "small": what lies between.
    """
    whole = [n["parameters"] for n in record["networks"] if n["images"] == n["of"]]
    if record["dataset"] == "digits" or max(whole, default=0) < _MILLION:
        return "toy"
    return "paper" if record["profile"] == "paper" else "small"


def three_attacker_rows(record: Record) -> dict[tuple[str, str, float], dict[Threat, Row]]:
    """Worst-case rows of the first seed by (defence, network, eps), where all three attackers tried.

    A page that has a table of worst cases beside a curve means the table, which has more images.
    """
    rows = [
        row
        for row in record["results"]
        if row["attack"] == WORST_CASE and row["seed"] == record["provenance"]["seed"] and row["eps"] is not None
    ]
    part = "worst" if any(row["part"] == "worst" for row in rows) else "curve"
    found: dict[tuple[str, str, float], dict[Threat, Row]] = {}
    for row in rows:
        if row["part"] == part:
            found.setdefault((row["defence"], row["model"], row["eps"]), {})[row["threat"]] = row
    return {key: by_threat for key, by_threat in found.items() if set(ATTACKERS) <= set(by_threat)}


def _put(rows: list[dict[str, Any]], row: dict[str, Any], names: tuple[str, ...]) -> None:
    """Add a row in the place of one with the same values under these names, should a cell run again."""
    rows[:] = [known for known in rows if any(known.get(name) != row.get(name) for name in names)] + [row]


def _refuse(constant: str) -> None:
    raise ValueError(f"it has {constant}, which is no number in JSON")


def _written(value: Any) -> Any:
    """A value as JSON has it: an infinite number (the PSNR of equal images, say) is null."""
    if isinstance(value, Mapping):
        return {key: _written(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_written(one) for one in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _peak_memory_mib() -> int | None:
    """Largest resident size of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
