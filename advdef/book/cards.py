"""What the record files of all pages say together: tables across papers, and a result card for each defence."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from advdef.book.markup import budget, in_percent, unrounded
from advdef.book.records import COMPARISON, Record, three_attacker_rows
from advdef.book.repository import PROFILES, InputError
from advdef.claims import claims
from advdef.evaluation.results import Row
from advdef.evaluation.threats import ATTACKERS
from advdef.papers import PAPERS, Paper

__all__ = [
    "REFERENCES", "card_schema", "cards", "comparison_of", "difference_at", "form_cards", "own_pages",
    "reference_cards",
]  # fmt: skip

REFERENCES = ("undefended", "AT")
"""What the defences are compared with."""


def own_pages(records: Iterable[Record]) -> list[dict[str, str]]:
    """Rows of a table: worst cases of each paper's defence on its own page, with the page's references beside it."""
    rows = []
    for record in records:
        paper = next((paper for paper in PAPERS if paper.id == record["paper"]), None)
        if paper is None:
            continue
        worst = three_attacker_rows(record)
        for defence, model, eps in sorted(worst):
            if defence not in (paper.own, *paper.forms):
                continue
            page = f"{paper.title}, {defence}" if paper.forms else paper.title
            row = {"page": page, "data": record["dataset"], "network": model, "eps": budget(eps)}
            for threat in ATTACKERS:
                beside = (worst.get((d, model, eps)) for d in (defence, paper.undefended, paper.adversarial))
                shown = ("–" if found is None else in_percent(unrounded(found[threat]).value) for found in beside)
                row[f"{threat} %"] = " / ".join(shown)
            rows.append(row | {"images": str(worst[defence, model, eps]["adaptive"]["n"])})
    return rows


@functools.cache
def card_schema() -> dict[str, Any]:
    """The JSON schema of a result card, with a description of every field."""
    schema: dict[str, Any] = json.loads(resources.files("advdef.book").joinpath("card.schema.json").read_text("utf-8"))
    return schema


def cards(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The result card of each paper's defence, by paper; empty without a record of the page that compares them.

    Of several such records the one of the largest profile counts. The schema is ``advdef/book/card.schema.json``,
    and the page "Result cards" of the book explains it. Raises `InputError` for a record that lacks what a card needs.
    """
    if not any(record["paper"] == COMPARISON for record in records):
        return {}
    deployed = comparison_of(records)["values"].get("deployed", {})  # of a paper with several forms
    return _made({paper.id: (deployed.get(paper.id, paper.defence), paper) for paper in PAPERS}, records)


def form_cards(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The cards of all that papers propose, by name: of a paper with several forms, of each that was compared."""
    if not any(record["paper"] == COMPARISON for record in records):
        return {}
    compared = comparison_of(records)["results"].values("defence")
    forms = {form: paper for paper in PAPERS for form in paper.forms or (paper.defence,)}
    return _made({form: (form, paper) for form, paper in forms.items() if form in compared}, records)


def reference_cards(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The cards of what the defences are compared with, by name, as :func:`cards` makes those of the papers."""
    if not any(record["paper"] == COMPARISON for record in records):
        return {}
    return _made({name: (name, None) for name in REFERENCES}, records)


def _made(wanted: Mapping[str, tuple[str, Paper | None]], records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    comparison = comparison_of(records)
    try:
        return {id: _card(name, paper, comparison, records) for id, (name, paper) in wanted.items()}
    except (KeyError, StopIteration, ValueError) as error:
        where = f"{COMPARISON}/{comparison['dataset']}-{comparison['profile']}"
        raise InputError(
            f"no cards can be made of the record {where}: it lacks {error}; run that page again"
        ) from error


def comparison_of(records: Iterable[Record]) -> Record:
    """The record that compares the defences, of the largest profile; raises ValueError where there is none."""
    comparisons = [record for record in records if record["paper"] == COMPARISON]
    return max(comparisons, key=lambda record: PROFILES.index(record["profile"]))


def _card(name: str, paper: Paper | None, comparison: Record, records: Sequence[Record]) -> dict[str, Any]:
    every, run = three_attacker_rows(comparison), comparison["provenance"]
    (model,) = comparison["results"].values("model")
    budgets = sorted(eps for defence, _, eps in every if defence == name)
    largest = {defence: every[defence, model, budgets[-1]] for defence in (name, *REFERENCES)}
    clean = comparison["results"].one(part="clean", defence=name)
    (cost,) = (cost for cost in comparison["costs"] if cost["defence"] == name)

    def positive(mine: Mapping[str, str], other: Mapping[str, str]) -> list[float]:
        """Budgets at which the interval of a paired difference lies above zero; none of a defence with itself."""
        if mine == other:
            return []
        return [eps for eps in budgets if difference_at(comparison, eps, mine, other)["low"] > 0]

    ours, adaptive = {"defence": name}, {"threat": "adaptive"}
    return {
        "schema": 1,
        "defence": name,
        "paper": paper and {"id": paper.id, "title": paper.title, "url": f"https://arxiv.org/abs/{paper.arxiv}"},
        "threat_model": {"norm": "Linf", "eps": budgets[-1], "dataset": comparison["dataset"], "model": model},
        "reported": [c.sentence for c in claims(paper.id).values() if c.source == "paper"] if paper else [],
        "ours": {"clean": _share(clean)} | {threat: _share(largest[name][threat]) for threat in ATTACKERS},
        "curve": [{"eps": eps} | {t: every[name, model, eps][t]["accuracy"] for t in ATTACKERS} for eps in budgets],
        "undefended": {"adaptive": _share(largest["undefended"]["adaptive"])},
        "adversarial_training": {"adaptive": _share(largest["AT"]["adaptive"])},
        "cost": {key: value for key, value in cost.items() if key != "defence"},
        "flags": {
            "direct_misleads": positive(ours | {"threat": "direct"}, ours | adaptive),
            "better_than_undefended": positive(ours | adaptive, {"defence": "undefended"} | adaptive),
            "better_than_adversarial_training": positive(ours | adaptive, {"defence": "AT"} | adaptive),
            "checks_fired": [
                check["id"] for check in comparison["checks"] if check["defence"] == name and check["status"] == "fire"
            ],
        },
        "verdicts": [
            {key: verdict[key] for key in ("claim", "verdict")} | {key: record[key] for key in ("dataset", "profile")}
            for record in records
            if paper and record["paper"] == paper.id
            for verdict in record["verdicts"]
        ],
        "run": {"profile": comparison["profile"]}
        | {key: run[key] for key in ("seed", "date", "commit", "device", "data_checksum")},
    }


def difference_at(record: Record, eps: float, mine: Mapping[str, str], other: Mapping[str, str]) -> Mapping[str, Any]:
    """The comparison of these two rows at a budget; raises KeyError where it was not made."""
    for found in record["comparisons"]:
        first, second = (found["where"] | found[side] for side in ("mine", "other"))
        if mine.items() <= first.items() and other.items() <= second.items() and abs(first["eps"] - eps) < 1e-6:
            return found
    raise KeyError(f"comparison of {mine} with {other} at eps {eps:.6g}")


def _share(row: Row) -> dict[str, Any]:
    return {"accuracy": row["accuracy"], "low": row["low"], "high": row["high"], "n": row["n"]}
