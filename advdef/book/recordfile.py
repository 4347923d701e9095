"""Reads record files, and says in one line what is wrong with one that is damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advdef.book.repository import PROFILES, InputError, find
from advdef.papers import PAPERS

__all__ = ["Record", "read_record", "read_records"]

Record = Mapping[str, Any]
"""The content of a record file, as :meth:`advdef.book.records.Run.save` writes it."""

_Kind = type | tuple[type, ...]
_NUMBER, _NONE = (int, float), type(None)
_RECORD: dict[str, _Kind] = {
    "schema": int, "paper": str, "dataset": str, "profile": str, "provenance": dict, "values": dict, "verdicts": list,
    "rows": list,
}  # fmt: skip
_PROVENANCE: dict[str, _Kind] = {
    "seed": int, "date": str, "commit": (str, _NONE), "device_name": str, "python": str, "versions": dict,
    "wall_seconds": _NUMBER,
}  # fmt: skip
_VERDICT: dict[str, _Kind] = {"claim": str, "sentence": str, "source": str, "verdict": str, "evidence": str}
_CONDITION: dict[str, _Kind] = {"what": str, "holds": bool, "number": str}
_CACHED: dict[str, _Kind] = {"entries": int, "seconds": _NUMBER}
_COLUMNS: dict[str, _Kind] = {
    "dataset": str, "model": str, "defence": str, "threat": str, "attack": str, "eps": (*_NUMBER, _NONE), "seed": int,
    "n": int, "correct": _NUMBER, "accuracy": _NUMBER, "low": _NUMBER, "high": _NUMBER,
}  # fmt: skip
_SOURCES = ("paper", "inferred", "secondary")
_WORDS = ("supported", "partly", "not supported", "not testable here")
_ROUNDED = 1e-4


def read_records(folder: Path | None = None, *, profile: str | None = None) -> list[Record]:
    """The records in a results folder (default: the committed ones of the checkout around; none outside of one).

    In the order of papers and data sets. Where several profiles have one of the same paper and data set, the larger
    one counts, unless ``profile`` names one. Raises `InputError` for a file that is no record.
    """
    if folder is None:
        try:
            folder = find().committed_results
        except InputError:
            return []
    records = [read_record(file) for file in sorted(folder.glob(f"*/*{f'-{profile}' if profile else ''}.json"))]
    records.sort(key=lambda record: PROFILES.index(record["profile"]))
    found = {(record["paper"], record["dataset"]): record for record in records}
    order = {paper.id: number for number, paper in enumerate(PAPERS)}
    return [found[key] for key in sorted(found, key=lambda key: (order.get(key[0], len(order)), key))]


def read_record(file: Path) -> Record:
    """The content of ``<paper>/<dataset>-<profile>.json``; raises `InputError` for a file that is no record.

    Names, types, verdicts and shares are checked. Older records lack "run", the id of the run that wrote it.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
        _check(record, file)
    except ValueError as error:  # not UTF-8 and not JSON are such, too
        raise InputError(f"{file} is not a record file: {error}; restore it, or run its notebook again") from error
    return dict(record)


def _check(record: Any, file: Path) -> None:
    _typed("it", record, _RECORD)
    if record["schema"] != 1:
        raise ValueError(f"its schema is {record['schema']}, and this version reads 1")
    if record["profile"] not in PROFILES:
        raise ValueError(f"its profile is {record['profile']!r}, not one of {', '.join(PROFILES)}")
    name = f"{record['paper']}/{record['dataset']}-{record['profile']}.json"
    if f"{file.parent.name}/{file.name}" != name:
        raise ValueError(f"it says that it is {name}")
    if not isinstance(record.get("run"), str | None):
        raise ValueError("its run is no text")
    _typed("its provenance", record["provenance"], _PROVENANCE)
    if "cached" in record["provenance"]:
        _typed("its provenance's cached", record["provenance"]["cached"], _CACHED)
    for verdict in record["verdicts"]:
        _typed("a verdict", verdict, _VERDICT)
        if verdict["source"] not in _SOURCES or verdict["verdict"] not in _WORDS:
            raise ValueError(f"it has an unknown verdict or source: {verdict['verdict']!r}, {verdict['source']!r}")
        for condition in verdict.get("conditions", []):
            _typed("a condition", condition, _CONDITION)
    for number, row in enumerate(record["rows"], start=1):
        _typed(f"row {number}", row, {})
        _typed(f"row {number}", row, {name: kind for name, kind in _COLUMNS.items() if name in row})
        if {"n", "correct", "accuracy"} <= row.keys() and (
            not row["n"] or abs(row["accuracy"] - row["correct"] / row["n"]) > _ROUNDED
        ):
            raise ValueError(f"row {number} has an accuracy of {row['accuracy']}, and {row['correct']} of {row['n']}")


def _typed(what: str, content: Any, fields: Mapping[str, _Kind]) -> None:
    """Raise ValueError unless `content` is an object with these fields, each of its type."""
    if not isinstance(content, dict):
        raise ValueError(f"{what} is no JSON object")
    if missing := sorted(fields.keys() - content.keys()):
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    for name, kind in fields.items():
        if not isinstance(content[name], kind):
            raise ValueError(f"{what} has {name} {content[name]!r:.60}")


def _refuse(constant: str) -> None:
    raise ValueError(f"it has {constant}, which is no number in JSON")
