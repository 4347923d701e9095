"""What judging a classifier gives: a file, a table, a figure, and sentences that say what the number means."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from advdef.book.page import show_eps, table
from advdef.book.schemas import check_schema, read_schema
from advdef.evaluation import ATTACKERS, Results, Threat
from advdef.evaluation.attacked import AttackedImages, AttackedImagesError, read_attacked
from advdef.evaluation.holes.climbs import places
from advdef.evaluation.packed import AttackedSet
from advdef.evaluation.results import WORST_CASE
from advdef.report.drawing import accuracy_chart
from advdef.statistics import Interval, paired_difference
from advdef.store import write_atomically
from advdef.store.files import naming

__all__ = ["Report", "ReportError", "compare", "plot_reports", "read_report", "report_schema"]

_SCHEMA = ("advdef.report", "report.schema.json")
_LARGEST = 50_000_000  # bytes of attacked images beside a report, unless the caller says otherwise
_NAMED = 4  # attacks named in a sentence
_KNOWS: Mapping[Threat, str] = {
    "oblivious": "ignores the defence", "direct": "follows its gradient", "adaptive": "knows it",
}  # fmt: skip


class ReportError(ValueError):
    """A file is no report, or two reports cannot be compared; the message says why."""


def report_schema() -> dict[str, Any]:
    """The JSON schema of a report file, with a description of every field."""
    return read_schema(*_SCHEMA)


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What three attackers left of one defence on one data set at one budget; made by ``robustness``.

    Attributes:
        facts: What the file holds, by the names of ``report.schema.json``, but for the rows.
        results: The rows: clean, the worst case under each attacker, and each attack.
        attacked: The images that the adaptive attacker broke; None where they are not at hand.
    """

    facts: Mapping[str, Any]
    results: Results
    attacked: AttackedImages | None = None

    @property
    def title(self) -> str:
        """Defence, network, data, norm and budget in one line."""
        data, threat = self.facts["data"], self.facts["threat"]
        eps = show_eps(threat["eps"]) if threat["norm"] == "Linf" else f"{threat['eps']:g}"
        return f"{self.facts['defence']} on {data['name']}, {threat['norm']} {eps}"

    def interval(self, threat: Threat = "adaptive") -> Interval:
        """Accuracy with its 95 % interval: "clean", or the worst case under an attacker."""
        return self.results.interval(threat=threat, attack="none" if threat == "clean" else WORST_CASE)

    def hits(self, threat: Threat = "adaptive") -> Tensor:
        """For each judged image (N,) whether it is right in that case; of a random defence, the share of passes."""
        if threat in self.facts["shares"]:
            return torch.tensor(self.facts["shares"][threat])
        return self.results.hits(threat=threat, attack="none" if threat == "clean" else WORST_CASE)

    def attacked_set(self, images: Tensor) -> AttackedSet:
        """What became of the judged images (N, C, H, W) under the adaptive attacker, for the file of a record.

        Raises ReportError where the attacked images are not at hand.
        """
        if self.attacked is None:
            raise ReportError(f"the attacked images of {self.title} are not here")
        clean, robust, originals = self.hits("clean").double() > 0.5, self.hits().double() > 0.5, images.cpu()
        rows, moved = places(self.attacked.originals, originals), originals.clone()
        moved[rows], broken = self.attacked.attacked, torch.zeros(len(moved), dtype=torch.bool)
        broken[rows] = True
        threat, kept = self.facts["threat"], clean & robust
        return AttackedSet(self.facts["defence"], "adaptive", threat["eps"], threat["norm"], clean, kept, broken, moved)

    def table(self) -> pd.DataFrame:
        """A row without an attack and one for each attacker: accuracy, interval, and what broke what."""
        count = self.facts["data"]["images"]
        rows = [
            {"attacker": threat, "accuracy %": str(self.interval(threat)), "images": count, "broken by": said}
            for threat, said in [("clean", "–"), *((threat, self._breaks(threat)) for threat in ATTACKERS)]
        ]
        return pd.DataFrame(rows)

    def plot(self) -> Figure:
        """Accuracy without an attack and under each attacker, with 95 % intervals."""
        return plot_reports([self])

    def save(self, path: str | Path, *, limit: int | None = _LARGEST) -> Path:
        """Write the report to ``path``, a .json file, and the attacked images beside it, in a .safetensors file.

        Where the images would take more than ``limit`` bytes, a random sample of them is kept, which the file says.
        Raises ValueError for another ending, and OSError.
        """
        path = Path(path).expanduser()
        if path.suffix != ".json":
            raise ValueError(f"a report is a .json file, not {path.name}")
        beside = path.with_suffix(".safetensors")
        content = {**self.facts, "attacked": beside.name if self.attacked is not None else None}
        written = json.dumps(content | {"results": self.results.rows}, indent=1, allow_nan=False) + "\n"
        _check(json.loads(written))
        if self.attacked is not None:
            self.attacked.save(beside, limit=limit)
        with naming(path):
            write_atomically(path, written.encode())
        return path

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {line}" for line in (self._number(), *self._attackers(), *self._doubts()))])

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(line)}</li>" for line in (self._number(), *self._doubts()))
        return f"{table(self.table(), self.title).data}<ul>{said}</ul>"

    def _breaks(self, threat: Threat) -> str:
        """The attacks that broke most of what those before them had left."""
        rows = [row for row in self.results if row["threat"] == threat and row.get("broken")]
        rows.sort(key=lambda row: -row["broken"])
        named = [f"{row['attack']} {row['broken']}" for row in rows[:_NAMED]]
        return ", ".join(named + [f"{len(rows) - _NAMED} more"] * (len(rows) > _NAMED)) or "none broke more"

    def _number(self) -> str:
        left = f"Robust accuracy {self.interval()} % under an attacker who knows the defence"
        return f"{left}; {self.interval('clean')} % without an attack ({self.facts['data']['images']} images)."

    def _attackers(self) -> list[str]:
        return [
            f"The {threat} attacker {knows} and leaves {self.interval(threat)} %: {self._breaks(threat)}."
            for threat, knows in _KNOWS.items()
        ]

    def _doubts(self) -> list[str]:
        """Which checks fired, what else is to be known, and what the number does not say."""
        checks = self.facts["checks"]
        fired = [f"{check['id']} {check['title']} ({check['detail']})" for check in checks if check["status"] == "fire"]
        ran = sum(check["status"] != "not run" for check in checks)
        ended = self.results.one(threat="adaptive", attack=WORST_CASE).get("search")
        sources = [
            f"source {n} is {source['name']}, {source['right']} of {self.facts['data']['images']} images right"
            for n, source in enumerate(self.facts.get("transfer", ()), start=1)
        ]
        said = [f"The adaptive search: {ended}."] if ended else []
        said += [f"Attacks were transferred from other networks: {'; '.join(sources)}."] if sources else []
        said += [f"Of {ran} checks of the direct attack fired: {'; '.join(fired) or 'none'}."] if ran else []
        return [*said, *self.facts["notes"], *(f"Not said: {limit}." for limit in self.facts["limits"])]


def read_report(path: str | Path) -> Report:
    """The report in a file, with its attacked images where they lie beside it.

    Raises ReportError, in one line, for a file that is no report or contradicts itself; OSError.
    """
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = _check(content)
    except ValueError as error:
        raise ReportError(f"{path} is no report: {error}") from error
    attacked, beside = None, content["attacked"] and path.with_name(Path(content["attacked"]).name)
    if beside and beside.is_file():
        try:
            attacked = read_attacked(beside)
        except AttackedImagesError as error:
            raise ReportError(str(error)) from error
    return Report({name: value for name, value in content.items() if name != "results"}, results, attacked)


def compare(reports: Sequence[Report]) -> pd.DataFrame:
    """A row for each report: accuracies, and by how much the adaptive one lies above that of the first report.

    Differences are in points, with 95 % intervals over the same images. Raises ReportError for no reports, and for
    reports on other images, in other norms or at other budgets.
    """
    if not reports:
        raise ReportError("there is no report to compare")
    first, rows = reports[0], []
    for report in reports:
        for field in ("threat", "judged"):
            if report.facts[field] != first.facts[field]:
                what = {"threat": "another norm or budget", "judged": "other images"}[field]
                raise ReportError(f"{report.title} is on {what} than {first.title}")
        gain = paired_difference(report.hits(), first.hits())
        rows.append(
            {"defence": report.facts["defence"]}
            | {f"{threat} %": str(report.interval(threat)) for threat in ("clean", *ATTACKERS)}
            | {f"adaptive − {first.facts['defence']}": "–" if report is first else f"{gain:+}"}
        )
    return pd.DataFrame(rows)


def plot_reports(reports: Sequence[Report]) -> Figure:
    """Several reports in one figure: a line each, with a mark for each attacker."""
    return accuracy_chart(
        {r.facts["defence"]: {t: r.interval(t) for t in ("clean", *ATTACKERS)} for r in reports},
        f"accuracy, {reports[0].title.partition(', ')[2]}" if reports else "accuracy",
    )


def _check(content: Any) -> Results:
    """The rows of a report; raises ValueError, with where and what, for one that does not fit the schema."""
    check_schema(content, *_SCHEMA)
    results = Results(content["results"])
    for threat in ("clean", *ATTACKERS):
        row = results.one(threat=threat, attack="none" if threat == "clean" else WORST_CASE)
        if row["n"] != content["data"]["images"]:
            raise ValueError(f"the row of {threat} is of {row['n']} images, not {content['data']['images']}")
    return results
