"""What the pages that judge no paper's claims say first, in Markdown, from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advdef.book.dumbbells import dumbbells
from advdef.book.endings import library_comparisons, share_in_words, worst_by_defence
from advdef.book.markup import budget, in_percent, raw, unrounded
from advdef.book.records import Record, three_attacker_rows
from advdef.book.strips import strips
from advdef.data.titles import data_name
from advdef.evaluation.results import WORST_CASE
from advdef.evaluation.threats import ATTACKERS
from advdef.statistics import Interval

__all__ = ["OPENINGS"]


def _broken(record: Record) -> list[str]:
    """What the page of planted faults found."""
    rows = [(defence, found) for (defence, _, _), found in three_attacker_rows(record).items()]
    planted = [found for defence, found in rows if defence != "honest"]
    if not planted:
        return []
    apparent, true = (max(unrounded(found[t]).value for found in planted) for t in ("direct", "adaptive"))
    left = "less than **1\u00a0%**" if 0 < true < 0.01 else f"at most **{in_percent(true)}\u00a0%**"
    images = planted[0]["direct"]["n"]
    said = (
        f"Behind a planted fault, a network without any defence seems to keep up to "
        f"**{in_percent(apparent)}\u00a0%** of {images} images right under an ordinary attack. An attacker who knows "
        f"the fault leaves {left}. The checks on this page are there to tell the two apart."
    )
    about = f"Images still right: {data_name(record['dataset'])}, one network, alone (honest) and behind faults."
    return [said, raw(dumbbells([("", rows)], about))]


def _agreement(record: Record) -> list[str]:
    """What the page that compares attacks with other libraries' found."""
    found = library_comparisons(record)
    weaker, stronger = (sum(c["low"] > 0 for c in found), sum(c["high"] < 0 for c in found))
    if not found:
        return []
    return [
        f"In **{len(found) - weaker - stronger} of {len(found)}** comparisons with the same attack of another library, "
        "no difference was seen: the 95\u00a0% interval of the paired difference contains zero. It says that ours left "
        f"fewer images right in {stronger or 'none'}, and more in {weaker or 'none'}.",
        _strips(record, found),
    ]


def _strips(record: Record, found: Sequence[Mapping[str, Any]]) -> str:
    """All comparisons with other libraries in a picture."""
    groups: dict[str, list[Interval]] = {}
    for one in found:
        difference = Interval(one["value"], one["low"], one["high"])
        groups.setdefault(one["other"]["library"], []).append(difference)
    about = (
        f"The share of images of {data_name(record['dataset'])} that our attack leaves right, minus that of the same "
        "attack of another library, in points: a mark for each comparison, with its 95 % interval. Right of zero, ours "
        "is the weaker one."
    )
    return strips(groups, about)


def _yours(record: Record) -> list[str]:
    """What the page for a reader's own network found of the one that it shows."""
    rows = [row for row in record["results"] if row["part"] == "judged" and row["defence"] == "undefended"]
    found = {row["threat"]: row for row in rows if row["attack"] == WORST_CASE}
    right = next((row for row in rows if row["threat"] == "clean"), None)
    if right is None or not set(ATTACKERS) <= set(found):
        return []
    return [
        f"The network shown here keeps **{share_in_words(right, short=True)}** of {right['n']} images right without an "
        f"attack and **{share_in_words(found['adaptive'])}** against all attacks at eps "
        f"{budget(found['adaptive']['eps'])}. Put yours in its place: a few lines give the "
        "same three attackers, the same intervals and the same checks.",
        _behind_defences(record),
    ]


def _behind_defences(record: Record) -> str:
    """The page's own network alone and behind its defences, in a picture."""
    rows = worst_by_defence(record, "judged")
    named = [("no defence" if name == "undefended" else name, threats) for name, threats in rows.items()]
    about = f"Images of {data_name(record['dataset'])} still right: one network, alone and behind defences."
    return raw(dumbbells([("", named)], about))


OPENINGS = {"broken_on_purpose": _broken, "attack_agreement": _agreement, "your_classifier": _yours}
"""By page, what makes the paragraphs of its first box of a record."""
