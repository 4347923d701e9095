"""What the record files of all pages say together: tables across papers, and a result card for each defence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advdef.claims import claims
from advdef.papers import PAPERS, Paper
from advdef.repository import InputError, find

__all__ = ["Record", "cards", "own_pages", "read_records"]

Record = Mapping[str, Any]
"""The content of a record file, as :meth:`advdef.records.Run.save` writes it."""

COMPARISON = "five_defences"
_THREATS = ("oblivious", "direct", "adaptive")
_PROFILES = ("paper", "laptop", "smoke")  # the larger one counts


def read_records(folder: Path | None = None, *, since: float = 0.0) -> list[Record]:
    """The records in a results folder (default: the committed ones of the checkout around; none outside of one).

    In the order of papers and data sets. Where several profiles have one of the same paper and data set, the larger
    one counts. `since` (seconds since the epoch) leaves out files that were last written before. Raises `InputError`
    for a file that is no record.
    """
    if folder is None:
        try:
            folder = find().committed_results
        except InputError:
            return []
    files = [file for file in folder.glob("*/*.json") if file.stat().st_mtime >= since]
    found: dict[tuple[str, str], Record] = {}
    for file in sorted(files, key=lambda file: _PROFILES.index(_profile(file)), reverse=True):
        record = _read(file)
        found[record["paper"], record["dataset"]] = record
    order = {paper.id: number for number, paper in enumerate(PAPERS)}
    return [found[key] for key in sorted(found, key=lambda key: (order.get(key[0], len(order)), key))]


def own_pages(records: Iterable[Record]) -> list[dict[str, str]]:
    """Rows of a table: worst cases of each paper's defence on its own page, with the page's references beside it."""
    rows = []
    for record in records:
        paper = next((paper for paper in PAPERS if paper.id == record["paper"]), None)
        if paper is None:
            continue
        worst = _worst(record)
        for defence, model, eps in sorted(worst):
            if defence != paper.own:
                continue
            row = {"page": paper.title, "data": record["dataset"], "network": model, "eps": f"{eps:.3g}"}
            for threat in _THREATS:
                beside = (worst.get((d, model, eps)) for d in (defence, paper.undefended, paper.adversarial))
                shown = ("–" if found is None else f"{100 * found[threat]['accuracy']:.0f}" for found in beside)
                row[f"{threat} %"] = " / ".join(shown)
            rows.append(row | {"images": str(worst[defence, model, eps]["adaptive"]["n"])})
    return rows


def cards(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The result card of each paper's defence, by paper; empty without a record of the page that compares them.

    The schema is ``advdef/card.schema.json``, and the page "Result cards" of the book explains it.
    """
    comparison = next((record for record in records if record["paper"] == COMPARISON), None)
    if comparison is None:
        return {}
    return {paper.id: _card(paper, comparison, records) for paper in PAPERS}


def _card(paper: Paper, comparison: Record, records: Sequence[Record]) -> dict[str, Any]:
    eps = max(row["eps"] for row in comparison["rows"] if row["attack"] == "worst case")
    (model,) = {row["model"] for row in comparison["rows"]}
    every = _worst(comparison)
    worst = {defence: parts for (defence, _, e), parts in every.items() if e == eps}
    mine, values = worst[paper.defence], comparison["values"]
    clean = next(r for r in comparison["rows"] if r["defence"] == paper.defence and r["threat"] == "clean")
    stated = claims(paper.id)
    verdicts = [
        {"claim": v["claim"], "dataset": record["dataset"], "profile": record["profile"], "verdict": v["verdict"]}
        for record in records
        if record["paper"] == paper.id
        for v in record["verdicts"]
    ]
    direct, adaptive = mine["direct"], mine["adaptive"]
    return {
        "schema": 1,
        "defence": paper.defence,
        "paper": {"id": paper.id, "title": paper.title, "url": f"https://arxiv.org/abs/{paper.arxiv}"},
        "threat_model": {"norm": "Linf", "eps": eps, "dataset": comparison["dataset"], "model": model},
        "reported": [claim.sentence for claim in stated.values() if claim.source == "paper"],
        "ours": {
            "clean": _share(clean),
            "oblivious": _share(mine["oblivious"]),
            "direct": _share(direct),
            "adaptive": _share(adaptive),
        },
        "curve": [
            {"eps": e} | {threat: parts[threat]["accuracy"] for threat in _THREATS}
            for (defence, _, e), parts in sorted(every.items())
            if defence == paper.defence
        ],
        "undefended": {"adaptive": _share(worst["undefended"]["adaptive"])},
        "adversarial_training": {"adaptive": _share(worst["AT"]["adaptive"])},
        "cost": values[f"cost/{paper.defence}"],
        "flags": {
            "direct_misleads": direct["low"] > adaptive["high"],
            "better_than_undefended": values[f"gain/{paper.defence}/undefended"][1] > 0,
            "better_than_adversarial_training": values[f"gain/{paper.defence}/AT"][1] > 0,
            "checks_fired": values[f"checks/{paper.defence}"],
        },
        "verdicts": verdicts,
        "run": {"profile": comparison["profile"]}
        | {key: comparison["provenance"][key] for key in ("seed", "date", "commit", "device", "data_checksum")},
    }


def _worst(record: Record) -> dict[tuple[str, str, float], dict[str, Mapping[str, Any]]]:
    """Worst-case rows of the first seed by (defence, network, eps), where all three threat models were tried.

    A page that has a table of worst cases beside a curve means the table, which has more images.
    """
    rows = [
        row
        for row in record["rows"]
        if row["attack"] == "worst case"
        and row["seed"] == record["provenance"]["seed"]
        and row.get("part") in ("worst", "curve")
    ]
    if any(row["part"] == "worst" for row in rows):
        rows = [row for row in rows if row["part"] == "worst"]
    found: dict[tuple[str, str, float], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["defence"], row["model"], row["eps"]), {})[row["threat"]] = row
    return {key: parts for key, parts in found.items() if set(_THREATS) <= set(parts)}


def _share(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"accuracy": row["accuracy"], "low": row["low"], "high": row["high"], "n": row["n"]}


def _profile(file: Path) -> str:
    profile = file.stem.rpartition("-")[2]
    if profile not in _PROFILES:
        raise InputError(f"{file} is not named DATASET-PROFILE.json with a profile of {', '.join(_PROFILES)}")
    return profile


def _read(file: Path) -> Record:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if missing := {"paper", "dataset", "profile", "provenance", "values", "verdicts", "rows"} - record.keys():
            raise KeyError(f"it lacks {', '.join(sorted(missing))}")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a record file: {type(error).__name__}: {error}") from error
    return dict(record)
