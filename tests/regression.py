"""Did what a notebook found move? Each row of its record, and each value beside them, by what its baseline allows.

- hits: at most so many images flip as ``flips`` says beside the value
- number: it moves by no more than the ``tolerance`` beside it
- count, text: exactly; one that rounding changes may be any of those ``seen``
- info: not at all (seconds, say)

A seed reproduces a run on one machine, so two runs differ by rounding alone. What that does to a value was measured
when the baseline was written: from runs that round otherwise, and from further seeds.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advdef.book.moves import (
    Recorded,
    few_flips,
    flips,
    form_of,
    may_flip,
    recorded_rows,
    recorded_values,
    violated,
)
from advdef.store import write_atomically

__all__ = [
    "Change", "allowing", "compare", "may_flip", "read_baseline", "recorded_rows", "recorded_values", "report",
    "write_baseline",
]  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One value that moved by more than it may, appeared or disappeared."""

    name: str
    baseline: str
    found: str
    allowed: str


def compare(baseline: Mapping[str, Recorded], found: Mapping[str, Recorded]) -> list[Change]:
    """What changed beyond its allowance, in the order of the names; new and missing values count."""
    changes = []
    for name in sorted({*baseline, *found}):
        old, new = baseline.get(name), found.get(name)
        if old is None or new is None:
            before, after = ("–" if value is None else str(value["value"]) for value in (old, new))
            changes.append(Change(name, before, after, "to be there in both"))
        elif form_of(old) != form_of(new):
            before, after = (" of ".join(map(str, form_of(v))) for v in (old, new))
            changes.append(Change(name, before, after, "the same kind and number"))
        elif (beyond := violated(old, new)) is not None:
            changes.append(Change(name, str(old["value"]), *beyond))
    return changes


def report(changes: list[Change]) -> str:
    """A table of what moved."""
    rows = [("value", "baseline", "found", "allowed"), *((c.name, c.baseline, c.found, c.allowed) for c in changes)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def allowing(
    reference: Mapping[str, Recorded],
    *,
    rounding: Sequence[Mapping[str, Recorded]] = (),
    seeds: Sequence[Mapping[str, Recorded]] = (),
) -> dict[str, Recorded]:
    """The values of a reference run with what each may move by; values of kind "info" are left out.

    ``rounding`` are the values of runs that differ from it by rounding alone, ``seeds`` those of other seeds. Hits: the
    most flips that were seen between the reference and any run of ``rounding``, or the mean share over all values of
    the page where that is larger (few runs show little of one value, and all come from the same networks), and for the
    run to come as many standard deviations of a binomial count with that share as the number of values asks for (2.5
    for a hundred); at least 2, or a tenth of the images where they are fewer than 20. Numbers: the largest of three
    times the largest difference to such a run, a tenth of the standard deviation over the seeds, a millionth of the
    value, and, for a mean of n images, what as many flips as above move it. Counts and texts: whatever such a run gave.
    Raises ValueError for a run of ``rounding`` with other names, kinds or numbers of images than the reference.
    """
    forms = _forms(reference)
    for run in rounding:
        if other := {name for name, _ in forms.items() ^ _forms(run).items()}:
            raise ValueError(f"runs that only round otherwise do not record the same: {', '.join(sorted(other))}")
    hits = [name for name, value in reference.items() if value["kind"] == "hits"]
    shares = [flips(reference[name], run[name]) / reference[name]["n"] for name in hits for run in rounding]
    typical = statistics.fmean(shares) if shares else 0.0
    found = {}
    for name in sorted(forms):
        value, others = reference[name], [run[name] for run in rounding]
        allowed: Recorded = {}
        if value["kind"] == "hits":
            seen = max((flips(value, other) for other in others), default=0)
            allowed["flips"] = may_flip(max(seen, typical * value["n"]), value["n"], len(hits))
        elif value["kind"] == "number":
            moved = max((abs(value["value"] - other["value"]) for other in others), default=0.0)
            spread = [run[name]["value"] for run in (reference, *seeds) if name in run]
            deviation = statistics.stdev(spread) if len(spread) > 1 else 0.0
            least = max(1e-6 * abs(value["value"]), few_flips(value["n"]) / value["n"] if "n" in value else 0.0)
            allowed["tolerance"] = float(f"{max(3 * moved, deviation / 10, least):.3g}")
        elif len(words := {value["value"], *(other["value"] for other in others)}) > 1:
            allowed["seen"] = sorted(words)
        found[name] = {**value, **allowed}
    return found


_ALLOWANCES = ("flips", "tolerance", "seen")


def widened(baseline: Mapping[str, Recorded], run: Mapping[str, Recorded]) -> dict[str, Recorded]:
    """A baseline that also allows what one more run gave, which differs from it by rounding alone.

    Nothing is allowed less than before. Raises ValueError as :func:`allowing` does.
    """
    reference = {n: {k: v for k, v in value.items() if k not in _ALLOWANCES} for n, value in baseline.items()}
    found = allowing(reference, rounding=[run])
    for name, value in found.items():
        old = baseline[name]
        value |= {k: max(value[k], old[k]) for k in ("flips", "tolerance") if k in value}
        if seen := {*value.get("seen", ()), *old.get("seen", ())}:
            value["seen"] = sorted(seen)
    return found


def read_baseline(path: Path) -> dict[str, Recorded]:
    """The values of a committed baseline; raises FileNotFoundError with the command that writes one."""
    if not path.is_file():
        raise FileNotFoundError(f"no baseline {path}: write it with `nox -s baselines -- {path.stem}`")
    values: dict[str, Recorded] = json.loads(path.read_text(encoding="utf-8"))["values"]
    return values


def write_baseline(path: Path, values: Mapping[str, Recorded], *, variants: Mapping[str, Any]) -> None:
    """Write values with their allowances atomically, below the runs (``variants``) that the allowances come from."""
    content = {"variants": dict(variants), "values": dict(sorted(values.items()))}
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _forms(values: Mapping[str, Recorded]) -> dict[str, tuple[str | int, ...]]:
    """The form of all values that are compared, by name."""
    return {name: form_of(value) for name, value in values.items() if value["kind"] != "info"}
