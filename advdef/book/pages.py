"""Pages of the site that are made from records when it is rendered: verdicts, status, result cards."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from advdef.book.cardpage import FLAGS, card_page
from advdef.book.cards import card_schema, cards, form_cards, own_pages, reference_cards
from advdef.book.decisions import Chapter, matrix, rules_page, verdicts_page
from advdef.book.earlier import earlier_table
from advdef.book.finding import finding, headline, limits
from advdef.book.markup import rows_of
from advdef.book.records import Record, record_schema
from advdef.book.speed import speed_page
from advdef.book.summary import papers_in_short
from advdef.evaluation.holes.summary import Searched

__all__ = ["generated"]


def generated(
    records: Sequence[Record],
    pages: Sequence[Chapter],
    searches: Sequence[Searched] = (),
    speed: Mapping[str, Mapping[str, Any]] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> dict[str, str]:
    """Files to write into the folder of prose pages, by name: fragments that these include, and the cards.

    >>> sorted(generated([], []))
    ['_generated/cards.md', '_generated/claims.md', '_generated/conclusion.md', '_generated/earlier.md',
     '_generated/finding.md', '_generated/headline.md', '_generated/holes.md', '_generated/limits.md',
     '_generated/matrix.md', '_generated/own_pages.md', '_generated/papers.md', '_generated/record.md',
     '_generated/rules.md', '_generated/schema.md', '_generated/speed.md', '_generated/status.md',
     '_generated/verdicts.md']
    """
    made, beside = cards(records), reference_cards(records)
    links = {
        p.paper: f'<a href="../notebooks/{p.stem}.html" title="{html.escape(p.title)}">{p.stem[:2]}</a>' for p in pages
    }
    return {
        "_generated/matrix.md": matrix(records, pages),
        "_generated/claims.md": matrix(records, pages, page="verdicts.html"),
        "_generated/verdicts.md": verdicts_page(records, pages),
        "_generated/rules.md": rules_page(),
        "_generated/status.md": _status(records, pages),
        "_generated/cards.md": card_page(made | beside),
        "_generated/earlier.md": earlier_table(records, earlier, links),
        "_generated/finding.md": finding(records, made),
        "_generated/headline.md": headline(records, made),
        "_generated/holes.md": _holes(searches, links),
        "_generated/limits.md": limits(records),
        "_generated/conclusion.md": _conclusion(form_cards(records)),
        "_generated/own_pages.md": _own_pages(records),
        "_generated/papers.md": papers_in_short(records),
        "_generated/schema.md": _schema("The fields of a result card", card_schema()),
        "_generated/speed.md": speed_page(speed or {}),
        "_generated/record.md": _schema("The fields of a record", record_schema()),
        **{f"_static/cards/{paper}.json": json.dumps(card, indent=1) + "\n" for paper, card in (made | beside).items()},
    }


def _holes(searches: Sequence[Searched], links: Mapping[str, str]) -> str:
    """One line for each search for holes: what the page's attackers had left, and what is left since."""
    if not searches:
        return "No page has been searched yet.\n"
    body = []
    for search in searches:
        told = *map(str, search.as_row().values()), f"{search.ways} in {search.minutes:.0f} min"
        body.append([links.get(search.page, html.escape(search.page)), *map(html.escape, told)])
    head = ["page", *map(html.escape, searches[0].as_row()), "tried"]
    return rows_of("What searches for holes found, and in what they looked in vain", head, body)


def _own_pages(records: Sequence[Record]) -> str:
    """The worst cases that the pages of the papers found, a line for each defence, network and budget."""
    if not (rows := own_pages(records)):
        return "No page of a paper has been recorded yet.\n"
    caption = "Worst cases on the pages of the papers: defence / undefended / adversarial training, in %"
    return rows_of(caption, list(rows[0]), [[html.escape(cell) for cell in row.values()] for row in rows])


def _status(records: Sequence[Record], pages: Sequence[Chapter]) -> str:
    """One line for each record, and the versions that were used."""
    rows, used = [], dict[str, list[str]]()
    for page, record in ((page, record) for page in pages for record in records if record["paper"] == page.paper):
        facts, commit = record["provenance"], html.escape(record["provenance"]["commit"] or "none")
        told = (
            record["dataset"], record["profile"], facts["date"].replace("-", "\u2011"), _minutes(facts),
            facts["device_name"], str(facts["seed"]),
        )  # fmt: skip
        rows.append(
            [
                f'<a href="../notebooks/{page.stem}.html">{page.stem}</a>',
                *map(html.escape, told),
                f'<code title="{commit}">{commit[:7]}{"+" * commit.endswith("+")}</code>',
            ]
        )
        versions = {
            "Python": facts["python"],
            **{name: version for name, version in facts["versions"].items() if version},
        }
        text = ", ".join(f"{name} {version}" for name, version in versions.items())
        used.setdefault(text, []).append(f"{page.stem} ({record['dataset']})")
    head = ["notebook", "data", "profile", "date", "minutes", "device", "seed", "commit"]
    listed = [[html.escape(text), html.escape(", ".join(runs))] for text, runs in used.items()]
    return "\n".join(
        [
            rows_of("Every run whose numbers stand on this site", head, rows),
            rows_of("The versions that they used", ["versions", "runs"], listed),
        ]
    )


def _minutes(facts: Mapping[str, Any]) -> str:
    """How long a run took, and how long what it read from stored results had taken."""
    stored = facts.get("cached", {}).get("seconds", 0)
    return f"{facts['wall_seconds'] / 60:.1f}" + (f" (+ {stored / 60:.1f} stored)" if stored else "")


def _conclusion(made: Mapping[str, Mapping[str, Any]]) -> str:
    """What the comparison says, a paragraph for each budget."""
    if not made:
        return "No run has compared the defences yet.\n"

    def listed(names: Sequence[str]) -> str:
        told = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0] if names else "none"
        return f"**{told}**{' are' if len(names) > 1 else ' is'}"

    every = list(made.values())
    parts = []
    for eps in [point["eps"] for point in every[0]["curve"]]:
        here = {key: listed([card["defence"] for card in every if eps in card["flags"][key]]) for key in FLAGS}
        parts.append(
            f"- At eps {eps:.3g}, {here['better_than_undefended']} better than no defence, and "
            f"{here['better_than_adversarial_training']} better than adversarial training. "
            f"{here['direct_misleads'].replace('none', 'None')} overstated by an attacker who only follows the "
            "gradient."
        )
    return (
        "*Better* is said of an attacker who knows the defence, by the 95 % interval of a paired difference over the "
        "same images.\n\n" + "\n".join(parts) + "\n"
    )


def _schema(caption: str, schema: Mapping[str, Any]) -> str:
    """The fields that a JSON schema describes."""
    rows = [[f"<code>{name}</code>", html.escape(about)] for name, about in _fields(schema)]
    return rows_of(caption, ["field", "meaning"], rows)


def _fields(schema: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, part in schema.get("properties", {}).items():
        found.append((f"{prefix}{name}", part.get("description", "")))
        found += _fields(part, f"{prefix}{name}.")
        found += _fields(part.get("items", {}), f"{prefix}{name}[].")
    return found
