"""What adaptive attackers left before their search went on by need, beside what they leave today."""

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advdef.book.markup import budget, rows_of
from advdef.book.records import Record
from advdef.data.titles import data_name
from advdef.evaluation.holes.later import FOUND_LATER
from advdef.evaluation.results import WORST_CASE

__all__ = ["earlier_table", "read_earlier"]

_NAMED = ("paper", "dataset", "part", "model", "defence")


def read_earlier(file: Path) -> list[dict[str, Any]]:
    """The worst cases that runs recorded before the adaptive search went on by need; none where there is no such file.

    Each has "paper", "dataset", "part", "model", "defence" and "eps", "correct", the images that were left of "n", and
    the "commit" of its code.
    """
    return list(json.loads(file.read_text("utf-8"))) if file.is_file() else []


def earlier_table(
    records: Sequence[Record], earlier: Sequence[Mapping[str, Any]], links: Mapping[str, str] | None = None
) -> str:
    """A line for each worst case that is known from before and was measured again, at one budget of each record.

    The budget is that at which most defences are compared, the largest of several. A record that does not say how
    its searches ended is from before itself, and has no line. ``links`` are what to call the pages, in HTML.
    """
    known = {_about(row, row["paper"]): row for row in earlier}
    body = []
    for record in records:
        rows = [row for row in record["results"] if row.get("threat") == "adaptive" and row.get("attack") == WORST_CASE]
        rows = [row for row in rows if row["seed"] == record["provenance"]["seed"]]
        if not any(row.get("search") for row in rows):
            continue
        found = [(row, known[about]) for row in rows if (about := _about(row, record["paper"])) in known]
        sizes = Counter(now["eps"] for now, _ in found)
        main = max(sizes, key=lambda eps: (sizes[eps], eps), default=None)
        page = (links or {}).get(record["paper"], html.escape(record["paper"]))
        mine = [(now, before) for now, before in found if now["eps"] == main]
        body += [
            [html.escape(now["defence"]), page, *_line(record, now, before, _later(record, now))]
            for now, before in mine
        ]
    if not body:
        return "No page has been run again yet.\n"
    head = ["defence", "page", "data", "eps", "before", "now", "how the search ends"]
    return rows_of("What the adaptive attacker left before, and what it leaves now", head, body)


def _about(row: Mapping[str, Any], paper: str) -> tuple[Any, ...]:
    return (*(row.get(name, paper) for name in _NAMED), round(row["eps"], 4))


def _later(record: Record, now: Mapping[str, Any]) -> int:
    """How many images a search for holes broke after the page's own attackers."""
    where = ("part", "dataset", "model", "defence", "threat", "eps", "seed")
    same = (row for row in record["results"] if all(row.get(name) == now.get(name) for name in where))
    return sum(row.get("broken", 0) for row in same if row.get("attack") == FOUND_LATER)


def _line(record: Record, now: Mapping[str, Any], before: Mapping[str, Any], later: int) -> list[str]:
    left = (f"{row['correct']} of {row['n']}" for row in (before, now))
    ended = (now.get("search") or "nothing was left") + (f"; a search for holes then broke {later}" if later else "")
    told = data_name(record["dataset"]), budget(now["eps"]), *left, ended
    return [html.escape(cell) for cell in told]
