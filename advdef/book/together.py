"""Reads the runs of one page with several seeds together: one record of all their networks, one verdict of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from advdef.book.repository import InputError
from advdef.claims import Claim, Condition, all_claims, decide, pooled
from advdef.evaluation.results import MEASURES, Results, Row

if TYPE_CHECKING:
    from advdef.book.records import Record

__all__ = ["together"]


def together(records: Sequence[Record]) -> Record:
    """One record of several, of one page on one data set in one profile, each with another seed.

    It has the rows of all. Each number of a verdict is the mean over the runs, with an interval for other networks and
    other images (:func:`~advdef.claims.conditions.pooled`), and from these follows the word. What runs record besides
    is that of the first; ``provenance`` tells all seeds, and the time of all.
    """
    first, *others = sorted(records, key=lambda record: record["provenance"]["seed"])
    if not others:
        return first
    if len({tuple(sorted(record.get("parameters", {}).items())) for record in records}) > 1:
        raise InputError(f"the runs of {first['paper']} had other parameters each, so they are no runs of one kind")
    runs, every = [first, *others], [record["provenance"] for record in (first, *others)]
    rows: dict[tuple[Any, ...], Row] = {}
    for row in (row for record in runs for row in record["results"]):
        rows.setdefault(tuple((name, row[name]) for name in sorted(row) if name not in MEASURES), row)
    facts = first["provenance"] | {
        "seeds": [facts["seed"] for facts in every],
        "wall_seconds": round(sum(facts["wall_seconds"] for facts in every), 1),
    }
    if all("cached" in told for told in every):
        facts["cached"] = {k: sum(told["cached"][k] for told in every) for k in first["provenance"]["cached"]}
    verdicts = [_verdict(verdict, runs) for verdict in first["verdicts"]]
    return dict(first) | {"results": Results(rows.values()), "provenance": facts, "verdicts": verdicts}


def _verdict(verdict: dict[str, Any], runs: Sequence[Record]) -> dict[str, Any]:
    """A claim decided by the numbers of all runs; one without numbers, or of earlier rules, stays as it is."""
    same = [v for record in runs for v in record["verdicts"] if v["claim"] == verdict["claim"]]
    if any(v.get("old_rules") or not v["conditions"] for v in same):
        return verdict
    numbers: dict[tuple[str, str], list[Condition]] = {}
    for told in (condition for v in same for condition in v["conditions"]):
        numbers.setdefault((told["what"], told.get("case", "")), []).append(Condition.from_record(told))
    known = {claim.id: claim for claim in all_claims()}
    claim = known.get(verdict["claim"]) or Claim(verdict["claim"], "", verdict["sentence"], verdict["source"])
    return decide(claim, runs[0]["dataset"], [pooled(found) for found in numbers.values()]).as_record()
