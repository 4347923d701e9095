"""What the benchmarks measured, in one file, and the tables and the figure of the page *Speed* that are made of it."""

import html
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from advdef.book.markup import raw, rows_of
from advdef.book.provenance import source_commit
from advdef.devices import processor
from advdef.store import write_atomically

__all__ = ["GOALS", "SpeedGoal", "keep_speed", "read_speed", "speed_page"]

_VERSION = 1
_FIELDS = ("value", "seconds", "told", "run")
_PACKAGES = ("torch", "foolbox", "torchattacks", "pyautoattack", "snntorch", "spikingjelly")


@dataclass(frozen=True)
class SpeedGoal:
    """A number of the benchmarks, and what it should be.

    Attributes:
        group: The kind of number, a table by itself.
        what: What is measured, in words.
        wanted: The goal.
        most: Whether the number should be at most, and not at least, as large.
        unit: What the number counts, written after it.
    """

    group: str
    what: str
    wanted: float
    most: bool = False
    unit: str = "×"

    def met(self, value: float) -> bool:
        """Whether a number is as good as wanted; it counts as it is shown, to two digits after the point."""
        return round(value, 2) <= self.wanted if self.most else round(value, 2) >= self.wanted

    def shown(self) -> str:
        """The goal as the table says it."""
        return f"{'≤' if self.most else '≥'} {self.wanted:g} {self.unit}"


_TIMES, _LIMIT, _MINUTES = "Times as fast as others", "Times the limit of the machine", "Minutes"
_ALONE = {"pgd": "PGD-40", "mim": "MIM-40", "apgd": "APGD-100"}
GOALS: Mapping[str, SpeedGoal] = {
    **{f"{key} end": SpeedGoal(_TIMES, f"{name}, to the end: any library", 1.3) for key, name in _ALONE.items()},
    **{f"{key} used": SpeedGoal(_TIMES, f"{name}, as used: any library", 2.5) for key, name in _ALONE.items()},
    "verdict tenth": SpeedGoal(_TIMES, "Verdict, a tenth left: AutoAttack", 5.0),
    "verdict half": SpeedGoal(_TIMES, "Verdict, half left: AutoAttack", 4.0),
    "snntorch LIF": SpeedGoal(_TIMES, "Spiking step, LIF: snntorch", 2.0),
    "snntorch MLF3": SpeedGoal(_TIMES, "Spiking step, MLF3: snntorch", 2.0),
    "spikingjelly LIF": SpeedGoal(_TIMES, "Spiking step, LIF: spikingjelly", 1.2),
    "spikingjelly MLF3": SpeedGoal(_TIMES, "Spiking step, MLF3: spikingjelly", 1.2),
    "seeds": SpeedGoal(_TIMES, "Four seeds at once: one by one", 1.3),
    "step CleverhansCNN training": SpeedGoal(_LIMIT, "Training step of Cleverhans' CNN", 1.6, most=True),
    "step CleverhansCNN attack": SpeedGoal(_LIMIT, "Step of PGD on Cleverhans' CNN", 1.6, most=True),
    "step SmallResNet training": SpeedGoal(_LIMIT, "Training step of the small ResNet", 2.5, most=True),
    "step SmallResNet attack": SpeedGoal(_LIMIT, "Step of PGD on the small ResNet", 2.5, most=True),
    "reproduce cold": SpeedGoal(_MINUTES, "All pages, nothing stored", 5.0, most=True, unit="min"),
    "reproduce warm": SpeedGoal(_MINUTES, "All pages, networks stored", 3.0, most=True, unit="min"),
}
"""All that the benchmarks keep, by name."""


def keep_speed(
    file: Path, name: str, value: float, *, seconds: Mapping[str, float], told: str, device: torch.device
) -> None:
    """Write one number of ``GOALS`` into the file, beside those that are there, and where and when it was measured.

    Args:
        file: The file; it is replaced at once by one that has the number too.
        name: The number's name; raises KeyError for an unknown one.
        value: The number.
        seconds: Medians of what was compared, by name.
        told: What shows that the results were equal, in words.
        device: Where it was measured.
    """
    unit = GOALS[name].unit  # an unknown name is told before anything is read
    rows = read_speed(file) if file.exists() else {}
    shown = {key: float(f"{took:.4g}") for key, took in seconds.items()}
    rows[name] = {"value": round(value, 3), "unit": unit, "seconds": shown, "told": told, "run": _run(device)}
    kept = {"version": _VERSION, "rows": {key: rows[key] for key in GOALS if key in rows}}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())


def read_speed(file: Path) -> dict[str, dict[str, Any]]:
    """The numbers in a file, by name; raises ValueError that names the file where it is not one of these."""
    again = "measure again: nox -s bench"
    try:
        content = json.loads(file.read_text("utf-8"))
        version, rows = content["version"], content["rows"]
    except (KeyError, TypeError, ValueError) as failure:
        raise ValueError(f"{file} is no file of benchmarks; {again}") from failure
    if version != _VERSION:
        raise ValueError(f"{file} has version {version} of the format, not {_VERSION}; {again}")
    wrong = [name for name, row in rows.items() if name not in GOALS or not set(_FIELDS) <= row.keys()]
    if wrong:
        raise ValueError(f"{file} holds what no benchmark measures, or not all of it: {', '.join(wrong)}; {again}")
    return dict(rows)


def speed_page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The figure, a table for each kind of number, and the machine, in the site's Markdown."""
    if not rows:
        return "Nothing has been measured yet: `nox -s bench`.\n"
    met = sum(GOALS[name].met(row["value"]) for name, row in rows.items())
    parts = [f"Of {len(GOALS)} goals, {len(rows)} were measured and **{met} are met**.\n", raw(_figure(rows, met))]
    for group in dict.fromkeys(goal.group for goal in GOALS.values()):
        listed = [_row(goal, rows.get(name)) for name, goal in GOALS.items() if goal.group == group]
        parts.append(rows_of(group, ["what", "wanted", "measured", "goal", "seconds", "equal results"], listed))
    return "\n".join([*parts, rows_of("Where that was measured", ["numbers", "machine", "versions"], _runs(rows))])


def _row(goal: SpeedGoal, row: Mapping[str, Any] | None) -> list[str]:
    name, wanted = html.escape(goal.what), html.escape(goal.shown())
    if row is None:
        return [name, wanted, "", "not measured", "", ""]
    seconds = "; ".join(f"{key} {took:.3g}" for key, took in row["seconds"].items())
    said = "met" if goal.met(row["value"]) else "<b>not met</b>"
    return [name, wanted, f"{row['value']:.2f} {goal.unit}", said, html.escape(seconds), html.escape(row["told"])]


def _runs(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The machines, each with how many numbers are of it."""
    found: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for row in rows.values():
        key = json.dumps(row["run"], sort_keys=True)
        found[key] = (found.get(key, (0, {}))[0] + 1, row["run"])
    listed = []
    for count, run in found.values():
        where = f"{run['device']}, {run['processor']}, {run['threads']} of {run['cores']} cores; {run['system']}"
        when = f"{run['date']}, commit {(run['commit'] or 'none')[:8]}"
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)
        listed.append([str(count), html.escape(f"{where}; {when}"), html.escape(f"Python {run['python']}, {versions}")])
    return listed


_LEFT, _RIGHT, _STEP, _HEAD = 12, 356, 32, 24  # in units of the picture
_MET, _MISSED = "#0072B2", "#D55E00"


def _figure(rows: Mapping[str, Mapping[str, Any]], met: int) -> str:
    """A bar for each ratio, and a line where it should end."""
    parts, told, y = list[str](), list[str](), 0
    for group, about in ((_TIMES, "more is better"), (_LIMIT, "less is better")):
        here = {name: goal for name, goal in GOALS.items() if goal.group == group and name in rows}
        if not here:
            continue
        top = 1.05 * max(max(goal.wanted, rows[name]["value"]) for name, goal in here.items())
        y += _HEAD
        parts.append(f'<text class="group" x="{_LEFT}" y="{y - 4}">{group}: {about}</text>')
        for name, goal in here.items():
            parts += _bar(goal, rows[name]["value"], y, (_RIGHT - _LEFT) / top)
            reached = "met" if goal.met(rows[name]["value"]) else "not met"
            told.append(f"{goal.what} {rows[name]['value']:.2f}, wanted {goal.shown()}, {reached}")
            y += _STEP
    label = html.escape(f"{met} of {len(rows)} measured goals are met. {'; '.join(told)}.")
    return (
        f'<figure class="finding speed"><svg viewBox="0 0 368 {y + 8}" role="img"><title>{label}</title>'
        f"{''.join(parts)}</svg><figcaption>Bars: what was measured, blue where the goal is met, orange where not. "
        "Lines: the goal.</figcaption></figure>\n"
    )


def _bar(goal: SpeedGoal, value: float, y: int, scale: float) -> list[str]:
    colour, end = _MET if goal.met(value) else _MISSED, _LEFT + goal.wanted * scale
    return [
        f'<text class="name" x="{_LEFT}" y="{y + 12}">{html.escape(goal.what)}</text>',
        f'<text class="value" x="{_RIGHT}" y="{y + 12}">{value:.2f}</text>',
        f'<rect x="{_LEFT}" y="{y + 17}" width="{value * scale:.1f}" height="8" fill="{colour}"/>',
        f'<path d="M{end:.1f} {y + 14}v14" stroke="currentColor" stroke-width="2"/>',
    ]


def _run(device: torch.device) -> dict[str, Any]:
    """Where, by which code and when a number was measured."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{sys.platform} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": source_commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    """The version of a package, which may lie in the folder of libraries that ours are compared with."""
    path = [*sys.path, os.environ.get("ADVDEF_PEERS", "")]
    return next((found.version for found in distributions(name=package, path=path)), None)
