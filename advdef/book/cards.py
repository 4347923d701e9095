"""What the record files of all pages say together: tables across papers, and a result card for each defence."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from advdef.book.recordfile import Record, read_records
from advdef.book.repository import PROFILES, InputError
from advdef.claims import claims
from advdef.papers import PAPERS, Paper

__all__ = ["cards", "own_pages", "read_records"]

COMPARISON = "five_defences"
_THREATS = ("oblivious", "direct", "adaptive")


def own_pages(records: Iterable[Record]) -> list[dict[str, str]]:
    """Rows of a table: worst cases of each paper's defence on its own page, with the page's references beside it.

    Cells are HTML, as :func:`advdef.book.page.table` takes them: what the records say is escaped.
    """
    rows = []
    for record in records:
        paper = next((paper for paper in PAPERS if paper.id == record["paper"]), None)
        if paper is None:
            continue
        worst = _worst(record)
        for defence, model, eps in sorted(worst):
            if defence != paper.own:
                continue
            data, network = html.escape(record["dataset"]), html.escape(model)
            row = {"page": paper.title, "data": data, "network": network, "eps": f"{eps:.3g}"}
            for threat in _THREATS:
                beside = (worst.get((d, model, eps)) for d in (defence, paper.undefended, paper.adversarial))
                shown = ("–" if found is None else f"{100 * found[threat]['accuracy']:.0f}" for found in beside)
                row[f"{threat} %"] = " / ".join(shown)
            rows.append(row | {"images": str(worst[defence, model, eps]["adaptive"]["n"])})
    return rows


def cards(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The result card of each paper's defence, by paper; empty without a record of the page that compares them.

    Of several such records the one of the largest profile counts. The schema is ``advdef/book/card.schema.json``,
    and the page "Result cards" of the book explains it. Raises `InputError` for a record that lacks what a card needs.
    """
    comparisons = [record for record in records if record["paper"] == COMPARISON]
    if not comparisons:
        return {}
    comparison = max(comparisons, key=lambda record: PROFILES.index(record["profile"]))
    try:
        return {paper.id: _card(paper, comparison, records) for paper in PAPERS}
    except (KeyError, StopIteration, ValueError) as error:
        where = f"{COMPARISON}/{comparison['dataset']}-{comparison['profile']}"
        raise InputError(
            f"no cards can be made of the record {where}: it lacks {error}; run that page again"
        ) from error


def _card(paper: Paper, comparison: Record, records: Sequence[Record]) -> dict[str, Any]:
    every, values = _worst(comparison), comparison["values"]
    (model,) = {row["model"] for row in comparison["rows"]}
    budgets = sorted(eps for defence, _, eps in every if defence == paper.defence)
    largest = {defence: every[defence, model, budgets[-1]] for defence in (paper.defence, "undefended", "AT")}
    clean = next(r for r in comparison["rows"] if r["defence"] == paper.defence and r["threat"] == "clean")
    run = comparison["provenance"]

    def positive(what: str) -> list[float]:
        """Budgets at which the interval of a paired difference lies above zero."""
        return [eps for eps in budgets if values[f"compared/{paper.defence}/{eps:.6g}"][what][1] > 0]

    return {
        "schema": 1,
        "defence": paper.defence,
        "paper": {"id": paper.id, "title": paper.title, "url": f"https://arxiv.org/abs/{paper.arxiv}"},
        "threat_model": {"norm": "Linf", "eps": budgets[-1], "dataset": comparison["dataset"], "model": model},
        "reported": [claim.sentence for claim in claims(paper.id).values() if claim.source == "paper"],
        "ours": {"clean": _share(clean)} | {threat: _share(largest[paper.defence][threat]) for threat in _THREATS},
        "curve": [
            {"eps": eps} | {t: every[paper.defence, model, eps][t]["accuracy"] for t in _THREATS} for eps in budgets
        ],
        "undefended": {"adaptive": _share(largest["undefended"]["adaptive"])},
        "adversarial_training": {"adaptive": _share(largest["AT"]["adaptive"])},
        "cost": values[f"cost/{paper.defence}"],
        "flags": {
            "direct_misleads": positive("direct − adaptive"),
            "better_than_undefended": positive("adaptive − undefended"),
            "better_than_adversarial_training": positive("adaptive − AT"),
            "checks_fired": values[f"checks/{paper.defence}"],
        },
        "verdicts": [
            {key: verdict[key] for key in ("claim", "verdict")} | {key: record[key] for key in ("dataset", "profile")}
            for record in records
            if record["paper"] == paper.id
            for verdict in record["verdicts"]
        ],
        "run": {"profile": comparison["profile"]}
        | {key: run[key] for key in ("seed", "date", "commit", "device", "data_checksum")},
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
