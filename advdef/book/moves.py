"""What differs between two runs of a page, or two reports, and whether it may: by rounding, or by another seed.

The values of a run are the rows of its record and what :func:`advdef.book.glue.record` left in its notebook. Two runs
with one seed may differ by rounding alone, two with different seeds by chance as well.
"""

from __future__ import annotations

import ast
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scipy
from tabulate import tabulate

from advdef.book.notebookfile import UNKNOWN, parameter_defaults, read_executed
from advdef.book.records import check_content
from advdef.book.repository import InputError
from advdef.evaluation.results import MEASURES, Row
from advdef.statistics import wilson

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = [
    "Move", "Recorded", "difference_lines", "differences", "few_flips", "flips", "form_of", "may_flip",
    "recorded_rows", "recorded_values", "violated",
]  # fmt: skip

Recorded = dict[str, Any]
"""``{"kind": ..., "value": ...}``, with ``n`` and ``hits`` for hits, as :func:`~advdef.book.glue.record` has them."""

_FEW = 2  # so many images may flip where none was seen to, if they are no more than a tenth of all
_CHANCE = 0.6  # of a value that goes beyond the largest of four draws: with that many in a page, 1 run in 20 has one
_ERRORS = 0.05  # the chance that seeds alone move any value of a comparison by more than it may
_ROUNDED = 1e-6  # by this share of itself, a number may differ by rounding


@dataclass(frozen=True)
class Move:
    """One value that differs between two runs, and why it may, or by how much it may not."""

    name: str
    one: str
    other: str
    allowed: bool
    why: str


def recorded_values(notebook: NotebookNode) -> dict[str, Recorded]:
    """The values that :func:`advdef.book.glue.record` left in an executed notebook, by name.

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
            values[name] = dict(metadata["advdef"])
    return values


def recorded_rows(rows: Iterable[Row], *, seed: int = 0) -> dict[str, Recorded]:
    """The hits in the rows of a record, by what each row is of; a random defence has the share that was right.

    Single attacks within a worst case are left out: each saw what those before it had left. Networks count from
    ``seed``, the run's first, so that runs of other seeds have equal names.
    """
    values: dict[str, Recorded] = {}
    for row in rows:
        if "tried" in row or "accuracy" not in row:
            continue
        found: Recorded = {"value": row["accuracy"], "n": row["n"]}
        hits = row.get("hits")
        values[_name_of(row, seed)] = found | ({"kind": "number"} if hits is None else {"kind": "hits", "hits": hits})
    return values


def _name_of(row: Row, seed: int) -> str:
    """What a row is of, networks counted from ``seed``."""
    where = row | {"seed": row["seed"] - seed}
    return "/".join(str(v) for name, v in where.items() if name not in (*MEASURES, "norm") and v is not None)


def flips(one: Recorded, other: Recorded) -> int:
    """How many images are right in one run and wrong in the other."""
    return (int(one["hits"], 16) ^ int(other["hits"], 16)).bit_count()


def may_flip(expected: float, n: int, values: int) -> int:
    """How many of n images may flip in a further run of so many values, where about ``expected`` are known to."""
    deviations = statistics.NormalDist().inv_cdf(1 - _CHANCE / max(values, 100))
    return max(few_flips(n), int(expected + deviations * math.sqrt(expected * (1 - expected / n))))


def few_flips(n: int) -> int:
    """How many of n images may flip where none was seen to."""
    return max(1, min(_FEW, n // 10))


def violated(old: Recorded, new: Recorded) -> tuple[str, str] | None:
    """What was found and what a baseline's value allows, in words; None where it allows it."""
    kind, before, after = old["kind"], old["value"], new["value"]
    if kind == "hits":
        moved = flips(old, new)
        return (f"{after}: {moved} of {old['n']} flipped", f"{old['flips']} flips") if moved > old["flips"] else None
    if kind == "number":
        return None if abs(before - after) <= old["tolerance"] else (str(after), f"± {old['tolerance']:g}")
    allowed = old.get("seen", [before])
    return None if kind == "info" or after in allowed else (str(after), " or ".join(map(str, allowed)))


def differences(one: Path, other: Path, *, baseline: Path | None = None) -> list[Move]:
    """All values that differ between two files: records, reports or executed notebooks.

    With one seed, values may differ by what a ``baseline`` (tests/baselines) allows of them; without one, an image in
    ten, at most two, may flip by rounding, and nothing else may differ. With different seeds, a share may move by what
    McNemar's test (for the same images) or two Wilson intervals allow for as many values, and other numbers and words
    may differ: two runs do not tell by how much. Rows at budgets that one run alone has are told as one difference.
    Raises `InputError` for files that hold no such values.
    """
    (mine, seed, budgets), (theirs, their_seed, their_budgets) = (_values(path) for path in (one, other))
    known: dict[str, Recorded] = {} if baseline is None else _allowances(baseline)
    found = []
    alone = _at_other_budgets(budgets, their_budgets), _at_other_budgets(their_budgets, budgets)
    if any(alone):
        counts = " and ".join(map(str, map(len, alone)))
        mine_alone, theirs_alone = (
            ", ".join(f"{eps:g}" for eps in sorted(set(rows.values()))) or "–" for rows in alone
        )
        told = f"budgets of one of them alone, with {counts} values, not compared"
        found.append(Move("eps", mine_alone, theirs_alone, False, told))
    names = sorted({*mine, *theirs} - {*alone[0], *alone[1]})
    for name in names:
        old, new = mine.get(name), theirs.get(name)
        if old is None or new is None:
            before, after = ("–" if value is None else _shown(value) for value in (old, new))
            found.append(Move(name, before, after, False, "in one of them alone"))
        elif old["kind"] != "info" and not _same(old, new):
            if seed != their_seed:
                why = _by_chance(old, new, len(names))
            elif name in known and form_of(known[name]) == form_of(old) == form_of(new):
                beyond = violated(known[name] | {n: old[n] for n in ("value", "hits") if n in old}, new)
                why = (beyond is None, f"the baseline allows {beyond[1]}" if beyond else "the baseline allows it")
            else:
                why = _by_rounding(old, new, len(names))
            found.append(Move(name, _shown(old), _shown(new), *why))
    return found


def difference_lines(moves: Iterable[Move]) -> str:
    """What differs as a table of text, what may not first."""
    ordered = sorted(moves, key=lambda move: move.allowed)
    rows = [(m.name, m.one, m.other, "may" if m.allowed else "MOVED", m.why) for m in ordered]
    return tabulate(
        rows, ("value", "one", "other", "", "why"), maxcolwidths=[60, 24, 24, None, 44], disable_numparse=True
    )


def _at_other_budgets(mine: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    """Those of the first values, with their budgets, at whose budget the other run has nothing."""
    return {name: eps for name, eps in mine.items() if eps not in theirs.values()}


def _values(path: Path) -> tuple[dict[str, Recorded], int, dict[str, float]]:
    """The values in a file, the seed of its run, and the budget of each value that has one."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".ipynb":
        notebook = read_executed(path)
        values, seed = recorded_values(notebook), _seed(notebook)
        if not values:
            raise InputError(f"{path} has recorded nothing: is it executed?")
        return values, seed, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "limits" not in content:  # which a report has, and checks when it is read
            check_content(content)
        seed = int(content["provenance"]["seed"])
        values = recorded_rows(content["results"], seed=seed)
        budgets = {_name_of(row, seed): row["eps"] for row in content["results"] if row.get("eps") is not None}
        words = {f"verdict/{v['claim']}": v["verdict"] for v in content.get("verdicts", ())}
        words |= {f"parameter/{name}": f"{value:g}" for name, value in content.get("parameters", {}).items()}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no record, report or executed notebook: {error}") from error
    budgets = {name: eps for name, eps in budgets.items() if name in values}
    return values | {name: {"kind": "text", "value": word} for name, word in words.items()}, seed, budgets


def _allowances(path: Path) -> dict[str, Recorded]:
    """The values of a baseline, with what each may move by."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values: dict[str, Recorded] = content["values"]
        if "variants" not in content:  # a record has values, too
            raise KeyError("variants")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no baseline") from error
    return values


def form_of(value: Recorded) -> tuple[str | int, ...]:
    """The kind of a value, and of how many images hits are."""
    return (value["kind"], value["n"]) if value["kind"] == "hits" else (value["kind"],)


def _seed(notebook: NotebookNode) -> int:
    """The seed that an executed notebook was given, else its default."""
    seed = parameter_defaults(notebook).get("seed", 0)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            for line in ast.parse(cell.source).body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "seed":
                    seed = ast.literal_eval(line.value)
    return 0 if seed is UNKNOWN else int(seed)


def _same(one: Recorded, other: Recorded) -> bool:
    if one.get("n") != other.get("n"):
        return False
    if one["kind"] == other["kind"] == "hits":
        return flips(one, other) == 0
    if one["kind"] == other["kind"] == "number":
        return math.isclose(one["value"], other["value"], rel_tol=_ROUNDED, abs_tol=1e-12)
    return bool(one["value"] == other["value"] and one["kind"] == other["kind"])


def _by_rounding(one: Recorded, other: Recorded, values: int) -> tuple[bool, str]:
    """Whether runs of one seed may differ so, and why."""
    n = one.get("n")
    if n is None or n != other.get("n"):
        return False, "one seed, so only rounding may differ"
    allowed = may_flip(0.0, n, values)
    if one["kind"] == other["kind"] == "hits":
        moved = flips(one, other)
        return moved <= allowed, f"{moved} of {n} images flipped; rounding may flip {allowed}"
    moved = abs(one["value"] - other["value"]) * n
    return moved <= allowed, f"by {moved:.1f} of {n} images; rounding may by {allowed}"


def _by_chance(one: Recorded, other: Recorded, values: int) -> tuple[bool, str]:
    """Whether runs of different seeds may differ so, and why."""
    if "n" not in one or "n" not in other:
        return True, "other seeds; how much they move it is not known from two runs"
    limit = _ERRORS / max(1, values)
    if one["kind"] == other["kind"] == "hits" and one["n"] == other["n"]:
        first, second = (int(value["hits"], 16) for value in (one, other))
        gained, lost = (second & ~first).bit_count(), (first & ~second).bit_count()
        p = float(scipy.stats.binomtest(gained, gained + lost).pvalue)
        return p >= limit, f"other seeds: {gained} more right, {lost} fewer, p = {p:.2g}"
    ours, theirs = (wilson(round(value["value"] * value["n"]), value["n"]) for value in (one, other))
    return ours.low <= theirs.high and theirs.low <= ours.high, f"other seeds: {ours} and {theirs}"


def _shown(value: Recorded) -> str:
    if value["kind"] in ("hits", "number") and isinstance(value["value"], float):
        return f"{value['value']:.4g}" + (f" of {value['n']}" if "n" in value else "")
    return str(value["value"])
