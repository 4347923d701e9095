"""Conclusions of the pages that judge no paper's claims, in Markdown, from their records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advdef.book.markup import as_text, budget, in_percent, unrounded
from advdef.book.records import Record, three_attacker_rows
from advdef.data.titles import data_name
from advdef.evaluation.results import WORST_CASE
from advdef.evaluation.threats import Threat
from advdef.peers.figures import ANOTHER_ALGORITHM
from advdef.statistics import Interval, paired_difference

__all__ = ["ENDINGS", "library_comparisons", "share_in_words", "worst_by_defence"]

_HONEST = "honest"
_MANY = 8  # comparisons that differ, one by one


def share_in_words(row: Mapping[str, Any], *, short: bool = False) -> str:
    """The accuracy in a row of results in whole percent, with its interval unless ``short``."""
    found = unrounded(row)
    value = f"{in_percent(found.value)}\u00a0%"
    return value if short else f"{value} [{in_percent(found.low)}, {in_percent(found.high)}]"


def _broken(record: Record) -> str:
    """What each planted fault hid, and which checks it set off that the honest network did not."""
    rows = {name: found for (name, _, _), found in three_attacker_rows(record).items()}
    fired = {name: _fired(record, name) for name in rows}
    usual = fired.get(_HONEST, [])
    told = []
    for name, found in rows.items():
        if name != _HONEST:
            seems, keeps = share_in_words(found["direct"]), share_in_words(found["adaptive"])
            letters = ", ".join(letter for letter in fired[name] if letter not in usual)
            told.append(
                f"- **{as_text(name)}** seems to keep {seems} and keeps {keeps} under an attacker who knows the fault. "
                f"Checks that fired: {letters or 'none'}."
            )
    if not told or _HONEST not in rows:
        return ""
    alone = rows[_HONEST]
    ordinary, other = (share_in_words(alone[threat], short=True) for threat in ("direct", "adaptive"))
    first = (
        f"Alone, the network keeps {ordinary} of {alone['direct']['n']} images of "
        f"{data_name(record['dataset'])} right under the ordinary attack and {other} "
        f"under the other one; the checks that fire there, {' and '.join(usual) or 'none'}, say nothing of a fault."
    )
    last = "A number from a gradient attack is worth no more than the checks beside it."
    return "\n\n".join([first, "\n".join(told), last])


def _fired(record: Record, defence: str) -> list[str]:
    return [c["id"] for c in record["checks"] if c["defence"] == defence and c["status"] == "fire"]


def library_comparisons(record: Record) -> list[dict[str, Any]]:
    """The paired difference of each attack to the same one of another library, as recorded or else from the hits.

    What another library does by another algorithm is not the same attack, and is left out.
    """
    return [one for one in _every_comparison(record) if _pair(one) not in ANOTHER_ALGORITHM]


def _pair(one: Mapping[str, Any]) -> tuple[str, str]:
    """The attack of a comparison, and the library that ours was compared with."""
    return one["where"]["attack"], one["other"]["library"]


def _every_comparison(record: Record) -> list[dict[str, Any]]:
    results, found = record["results"], list(record["comparisons"])
    for row in results if not found else ():
        if row.get("hits") and row.get("library") == row.get("beside") is not None:
            told = {"mine": {"library": "advdef"}, "other": {"library": row["library"]}}
            told["where"] = {name: row[name] for name in ("dataset", "attack", "norm", "eps", "beside")}
            ours, theirs = (results.hits(**told["where"], **told[side]) for side in ("mine", "other"))
            found.append(told | vars(paired_difference(ours, theirs)))
    return found


def _agreement(record: Record) -> str:
    """With which libraries the attacks agree, and where they do not."""
    found = library_comparisons(record)
    if not found:
        return ""
    libraries = dict.fromkeys(one["other"]["library"] for one in found)
    told = []
    for library in libraries:
        here = [one for one in found if one["other"]["library"] == library]
        weaker, stronger = sum(one["low"] > 0 for one in here), sum(one["high"] < 0 for one in here)
        alike = f"{len(here) - weaker - stronger} of {len(here)}"
        told.append(
            f"- **{as_text(library)}**: no difference seen in {alike} comparisons; ours left fewer images right in "
            f"{stronger}, more in {weaker}."
        )
    apart = sorted((one for one in found if not one["low"] <= 0 <= one["high"]), key=lambda one: -abs(one["value"]))
    if apart:
        shown = "; ".join(map(_difference, apart[:_MANY]))
        more = f"; and {len(apart) - _MANY} more" if len(apart) > _MANY else ""
        told.append(
            f"- Where an interval does not contain zero, in points, above zero where ours is weaker: {shown}{more}."
        )
    else:
        told.append("- In no comparison does the 95\u00a0% interval of the paired difference lie beside zero.")
    others = dict.fromkeys(pair for one in _every_comparison(record) if (pair := _pair(one)) in ANOTHER_ALGORITHM)
    if others:
        named = ", ".join(f"{as_text(attack)} ({as_text(library)})" for attack, library in others)
        told.append(f"- Not counted, as the library has another algorithm of that name: {named}.")
    images = record["results"].rows[0]["n"]
    last = (
        f"Each comparison is over the same {images} images of {data_name(record['dataset'])}. Agreement is not proof: "
        "two libraries can share a mistake, and the sections above say where we think that a library is wrong."
    )
    return "\n".join(told) + f"\n\n{last}"


def _difference(one: Mapping[str, Any]) -> str:
    where, found = one["where"], Interval(one["value"], one["low"], one["high"])
    size = budget(where["eps"]) if where["norm"] == "Linf" else f"{where['eps']:g}"
    return f"{as_text(where['attack'])} ({as_text(where['norm'])} {size}, {as_text(one['other']['library'])}) {found:+}"


def _yours(record: Record) -> str:
    """What the defences gave the network of the page, and whether AutoAttack found more."""
    rows = worst_by_defence(record, "judged")
    if "undefended" not in rows:
        return ""
    alone = rows.pop("undefended")
    order = sorted(rows.items(), key=lambda item: -item[1]["adaptive"]["accuracy"])
    told = [f"- Alone, the network keeps {share_in_words(alone['adaptive'])} of {alone['adaptive']['n']} images right."]
    for name, found in order:
        gap = found["direct"]["low"] > found["adaptive"]["high"]
        misled = f"; an attacker who only follows its gradient leaves {share_in_words(found['direct'])}" if gap else ""
        told.append(f"- Behind **{as_text(name)}**, {share_in_words(found['adaptive'])}{misled}.")
    beside = {row["attack"]: row for row in record["results"] if row["part"] == "autoattack"}
    if len(beside) == 2:
        ours, theirs = beside["this page's"], beside["AutoAttack"]
        told.append(
            f"- AutoAttack leaves {theirs['correct']} of the {theirs['n']} images right on which both were tried, "
            f"and the attacks of this page {ours['correct']}."
        )
    eps = budget(alone["adaptive"]["eps"])
    first = f"Against an attacker who knows the defence, on {data_name(record['dataset'])}, eps {eps}:"
    last = "These are the numbers of a small network that the page trained. Yours will have others, by the same steps."
    return "\n\n".join([first, "\n".join(told), last])


def worst_by_defence(record: Record, part: str) -> dict[str, dict[Threat, Mapping[str, Any]]]:
    """Worst cases by defence and attacker in one part of a record, of the defences that all attackers met."""
    found: dict[str, dict[Threat, Mapping[str, Any]]] = {}
    for row in record["results"]:
        if row["part"] == part and row["attack"] == WORST_CASE:
            found.setdefault(row["defence"], {})[row["threat"]] = row
    return {name: threats for name, threats in found.items() if len(threats) == 3}


ENDINGS = {"broken_on_purpose": _broken, "attack_agreement": _agreement, "your_classifier": _yours}
"""By page, what makes its conclusion of a record."""
