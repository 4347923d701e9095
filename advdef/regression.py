"""Did a notebook's recorded values move? Each value is compared by the tolerance that belongs to it.

- accuracy: the two shares differ by no more than a 99.9 % interval of the difference of two proportions
- count, text: exactly
- number: by no more than its own absolute tolerance
- info: not at all (seconds, say)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advdef.statistics import independent_difference, wilson
from advdef.store import write_atomically

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["Change", "compare", "read_baseline", "recorded_values", "report", "write_baseline"]

Recorded = dict[str, Any]
"""``{"value": ..., "kind": ..., "n": ..., "tolerance": ...}`` as :func:`advdef.records.record` writes it."""
_Z999 = 3.290526731491926


@dataclass(frozen=True)
class Change:
    """One value that moved by more than it may, appeared or disappeared."""

    name: str
    baseline: str
    found: str
    allowed: str


def recorded_values(notebook: "NotebookNode") -> dict[str, Recorded]:
    """The values that :func:`advdef.records.record` left in an executed notebook, by name.

    Raises ValueError for a name that was recorded twice.
    """
    values: dict[str, Recorded] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            metadata = output.get("metadata", {})
            if "advdef" not in metadata:
                continue
            name = metadata["scrapbook"]["name"]
            if name in values:
                raise ValueError(f"{name} is recorded twice")
            values[name] = {key: value for key, value in dict(metadata["advdef"]).items() if value is not None}
    return values


def compare(baseline: Mapping[str, Recorded], found: Mapping[str, Recorded]) -> list[Change]:
    """What changed beyond its tolerance, in the order of the names; new and missing values count."""
    changes = []
    for name in sorted({*baseline, *found}):
        old, new = baseline.get(name), found.get(name)
        if old is None or new is None:
            before, after = ("–" if value is None else str(value["value"]) for value in (old, new))
            changes.append(Change(name, before, after, "to be there in both"))
        elif {**old, "value": None} != {**new, "value": None}:
            changes.append(Change(name, str(old), str(new), "the same kind, n and tolerance"))
        elif (allowed := _violated(old, new)) is not None:
            changes.append(Change(name, f"{old['value']}", f"{new['value']}", allowed))
    return changes


def report(changes: list[Change]) -> str:
    """A table of what moved."""
    rows = [("value", "baseline", "found", "allowed"), *((c.name, c.baseline, c.found, c.allowed) for c in changes)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def read_baseline(path: Path) -> dict[str, Recorded]:
    """A committed baseline; raises FileNotFoundError with the command that writes one."""
    if not path.is_file():
        raise FileNotFoundError(f"no baseline {path}: write it with `nox -s tests -- --update-baselines`")
    values: dict[str, Recorded] = json.loads(path.read_text(encoding="utf-8"))
    return values


def write_baseline(path: Path, values: Mapping[str, Recorded]) -> None:
    """Write a baseline atomically; values of kind "info" are left out."""
    kept = {name: value for name, value in sorted(values.items()) if value["kind"] != "info"}
    write_atomically(path, (json.dumps(kept, indent=1) + "\n").encode())


def _violated(old: Recorded, new: Recorded) -> str | None:
    """The tolerance that was violated, in words, or None."""
    kind, before, after = old["kind"], old["value"], new["value"]
    if kind == "info":
        return None
    if kind == "number":
        close = abs(before - after) <= old["tolerance"]
        return None if close else f"± {old['tolerance']:g}"
    if kind == "accuracy":
        first, second = (wilson(round(share * old["n"]), old["n"], z=_Z999) for share in (before, after))
        moved = independent_difference(second, first)
        return None if moved.low <= 0 <= moved.high else f"a difference that {old['n']} images explain (99.9 %)"
    return None if before == after else "exactly"
