"""What every notebook of the book needs besides results: choices checked in one line, tables, verdict badges."""

import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pandas as pd
import torch
from IPython.display import HTML

from advdef.book.records import Run, provenance
from advdef.checks import Check
from advdef.claims import SOURCES, Verdict, badge
from advdef.data import Split, dataset_info, find_device

__all__ = [
    "Case",
    "check_table",
    "choose",
    "choose_datasets",
    "choose_device",
    "provenance_table",
    "resume_folder",
    "sample",
    "show_eps",
    "table",
    "verdict_table",
]

Settings = TypeVar("Settings")


class Case(SimpleNamespace):
    """What a page knows of one network on one data set; it fills it in as it goes on, and looks results up by it.

    >>> case = Case(name="digits", eps=0.1)
    >>> case.steps = {"V1": 0.02}
    >>> {case: "found"}[case]
    'found'
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]  # a namespace has none


def choose(profiles: Mapping[str, Settings], profile: str) -> Settings:
    """The settings of a profile; raises ValueError with one line that lists what exists."""
    if profile not in profiles:
        raise ValueError(f"unknown profile {profile!r}; profiles: {', '.join(profiles)}")
    return profiles[profile]


def choose_datasets(dataset: str | None, default: Sequence[str]) -> tuple[str, ...]:
    """The one named data set, else the profile's; raises ValueError with one line that lists what exists."""
    names = tuple(default) if dataset is None else (dataset,)
    for name in names:
        dataset_info(name)
    return names


def choose_device(device: str | None) -> torch.device:
    """The named device, else CUDA when there is one, else the CPU; raises ValueError for one that is not here.

    Switches off cuDNN's TF32, whose products have 10 bits: evaluation is in float32.
    """
    torch.backends.cudnn.allow_tf32 = False
    return find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def resume_folder() -> Path | None:
    """Where evaluations keep what they have found, should they be interrupted: ``$ADVDEF_RESUME``, else nowhere."""
    named = os.environ.get("ADVDEF_RESUME")
    return Path(named) if named else None


def sample(split: Split, n: int) -> Split:
    """n images (all, if there are fewer) drawn at random but always the same; a smaller sample is part of a larger one.

    The first images of a test set need not be typical: those of MNIST are the easier half.
    """
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:n].to(split.images.device)
    return Split(split.images[rows], split.labels[rows])


def show_eps(eps: float) -> str:
    """A budget as the field writes it: in steps of 1/255 where it is a whole number of them and no short decimal.

    >>> [show_eps(eps) for eps in (8 / 255, 0.2, 0.01, 64 / 255)]
    ['8/255', '0.2', '0.01', '64/255']
    """
    steps, decimal = round(255 * eps), f"{eps:g}"
    whole = abs(255 * eps - steps) < 1e-6
    return min(f"{steps}/255", decimal, key=len) if whole else decimal


def table(frame: pd.DataFrame, caption: str, *, index: bool = False) -> HTML:
    """A data frame as an HTML table with a caption; cells that hold HTML are left as they are."""
    body = frame.to_html(index=index, escape=False, border=0, classes="results", na_rep="–")
    body = re.sub(r"\[([-+.\d]+), ([-+.\d]+)\]", "[\\1,\u00a0\\2]", body)  # an interval is not broken over lines
    body = body.replace("<table ", '<table tabindex="0" ', 1)  # wide tables scroll, and keyboards should reach them
    return HTML(body.replace("<thead>", f"<caption>{html.escape(caption)}</caption>\n<thead>", 1))


def check_table(rows: Mapping[str, Sequence[Check]], caption: str) -> HTML:
    """Sanity checks as a matrix: one line per check that ran anywhere, one column per defence; what fired says why."""

    def cell(check: Check) -> str:
        if check.status == "fire":
            return f"<strong>FIRES</strong><br><small>{html.escape(check.detail)}</small>"
        return "pass" if check.status == "pass" else "–"

    columns = {name: {f"{c.id} {c.title}": cell(c) for c in row} for name, row in rows.items()}
    frame = pd.DataFrame(columns)
    return table(frame[(frame != "–").any(axis=1)], caption, index=True)


def verdict_table(verdicts: Sequence[Verdict], caption: str) -> HTML:
    """Claims with their verdicts as words with a badge, and the numbers that decide them."""
    rows = [
        {
            "claim": f"<strong>{v.claim.id.split('-')[-1]}</strong> {html.escape(v.claim.sentence)} "
            f"<em>[{SOURCES[v.claim.source]}]</em>",
            "data": v.dataset,
            "verdict": badge(v.word),
            "evidence": html.escape(v.evidence),
        }
        for v in verdicts
    ]
    return table(pd.DataFrame(rows), caption)


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
    return table(pd.DataFrame(columns).map(lambda fact: html.escape(str(fact))), "Provenance of this run", index=True)
