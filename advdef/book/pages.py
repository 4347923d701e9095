"""Pages of the site that are made from records when it is rendered: verdicts, status, result cards."""

from __future__ import annotations

import functools
import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from advdef.book.cards import card_schema, cards
from advdef.book.records import Record, record_schema
from advdef.claims import SOURCES, VerdictWord, all_claims, badge
from advdef.papers import how_decided

__all__ = ["Chapter", "generated"]

_WORDS: tuple[VerdictWord, ...] = get_args(VerdictWord)
_LONG = 260  # characters of evidence; beyond that its conditions are listed one by one
_MANY = 8  # of them; more are folded away
_FLAGS = {
    "direct_misleads": "direct misleads",
    "better_than_undefended": "better than undefended",
    "better_than_adversarial_training": "better than AT",
}


@dataclass(frozen=True)
class Chapter:
    """A notebook on the site: its paper, its file's stem and its title."""

    paper: str
    stem: str
    title: str


def generated(records: Sequence[Record], pages: Sequence[Chapter]) -> dict[str, str]:
    """Files to write into the folder of prose pages, by name: fragments that these include, and the cards.

    >>> sorted(generated([], []))
    ['_generated/cards.md', '_generated/conclusion.md', '_generated/record.md', '_generated/schema.md',
     '_generated/status.md', '_generated/verdicts.md']
    """
    made = cards(records)
    return {
        "_generated/verdicts.md": _verdicts(records, pages),
        "_generated/status.md": _status(records, pages),
        "_generated/cards.md": _cards(made),
        "_generated/conclusion.md": _conclusion(made),
        "_generated/schema.md": _schema("The fields of a result card", card_schema()),
        "_generated/record.md": _schema("The fields of a record", record_schema()),
        **{f"_static/cards/{paper}.json": json.dumps(card, indent=1) + "\n" for paper, card in made.items()},
    }


def _verdicts(records: Sequence[Record], pages: Sequence[Chapter]) -> str:
    """A table of counts, then each claim with what every run decided."""
    by_paper = {page: [r for r in records if r["paper"] == page.paper and r["verdicts"]] for page in pages}
    shown = {page: found for page, found in by_paper.items() if found}
    if not shown:
        return "No run has decided a claim yet.\n"
    rows = []
    for page, found in shown.items():
        words = Counter(verdict["verdict"] for record in found for verdict in record["verdicts"])
        short = html.escape(page.title.partition(":")[0])
        rows.append([f'<a href="#{_label(page)}">{short}</a>', *(str(words[word]) for word in _WORDS)])
    about = "Verdicts by page: each claim counts once for every data set on which it was tried"
    parts = [_table(about, ["page", *_WORDS], rows)]
    for page, found in shown.items():
        verdicts = {v["claim"]: v for record in found for v in record["verdicts"]}
        order = [id for id in _rules() if id in verdicts] + [id for id in verdicts if id not in _rules()]
        blocks = [_claim(verdicts[id], found, page) for id in order]
        parts.append(f"({_label(page)})=\n## {page.title}\n\n{_raw(''.join(blocks))}")
    return "\n".join(parts)


def _label(page: Chapter) -> str:
    return page.paper.replace("_", "-")


def _claim(claim: Mapping[str, Any], records: Iterable[Record], page: Chapter) -> str:
    """What all runs decided about the claim of a verdict."""
    decisions = (_decision(v, r) for r in records for v in r["verdicts"] if v["claim"] == claim["claim"])
    rule = _rules().get(claim["claim"], "The record does not say.")
    short = html.escape(claim["claim"].split("-")[-1])
    return (
        f'<section class="claim" id="{html.escape(claim["claim"])}">'
        f"<p><strong>{short}</strong> {html.escape(claim['sentence'])} <em>[{SOURCES[claim['source']]}]</em></p>"
        f"<ul>{''.join(decisions)}</ul>"
        f"<details><summary>How {short} is decided</summary><p>{html.escape(rule)}</p></details>"
        f'<p><a href="../notebooks/{page.stem}.html#verdicts">{short} on its page</a></p></section>\n'
    )


@functools.cache
def _rules() -> dict[str, str]:
    """How each claim is decided, by id."""
    papers = dict.fromkeys(claim.paper for claim in all_claims())
    return {id: text for paper in papers for id, text in how_decided(paper).items()}


def _decision(verdict: Mapping[str, Any], record: Record) -> str:
    evidence, conditions = verdict["evidence"], verdict.get("conditions", [])
    listed = ""
    if len(evidence) > _LONG and conditions:
        evidence = f"{sum(c['holds'] for c in conditions)} of {len(conditions)} conditions hold"
        lines = (f"{'holds' if c['holds'] else 'fails'}: {c['what']}: {c['number']}" for c in conditions)
        listed = f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"
        if len(conditions) > _MANY:
            where = html.escape(f"{verdict['claim'].split('-')[-1]}, {record['dataset']}")
            listed = f"<details><summary>The {len(conditions)} conditions ({where})</summary>{listed}</details>"
    head = f"{badge(verdict['verdict'])} <strong>{html.escape(record['dataset'])}</strong>"
    return f"<li>{head}: {html.escape(evidence)}{listed}</li>"


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
            _table("Every run whose numbers stand on this site", head, rows),
            _table("The versions that they used", ["versions", "runs"], listed),
        ]
    )


def _minutes(facts: Mapping[str, Any]) -> str:
    """How long a run took, and how long what it read from stored results had taken."""
    stored = facts.get("cached", {}).get("seconds", 0)
    return f"{facts['wall_seconds'] / 60:.1f}" + (f" (+ {stored / 60:.1f} stored)" if stored else "")


def _cards(made: Mapping[str, Mapping[str, Any]]) -> str:
    """The cards as a table, with a link to each file."""
    if not made:
        return "No run has compared the defences yet.\n"

    rows = []
    for paper, card in made.items():
        ours, flags, adaptive = card["ours"], card["flags"], card["ours"]["adaptive"]
        rows.append(
            [
                f'<a href="../_static/cards/{paper}.json">{card["defence"]}</a>',
                *(f"{100 * ours[key]['accuracy']:.1f}" for key in ("clean", "oblivious", "direct")),
                f"{100 * adaptive['accuracy']:.1f} [{100 * adaptive['low']:.1f},&nbsp;{100 * adaptive['high']:.1f}]",
                *(", ".join(f"{eps:.3g}" for eps in flags[key]) or "never" for key in _FLAGS),
            ]
        )
    threat = next(iter(made.values()))["threat_model"]
    about = f"{threat['dataset']}, {threat['model']}, {threat['norm']}, eps {threat['eps']:.3g}"
    head = ["card", "clean %", "oblivious %", "direct %", "adaptive %", *_FLAGS.values()]
    return _table(f"The result cards ({about})", head, rows)


def _conclusion(made: Mapping[str, Mapping[str, Any]]) -> str:
    """One paragraph on the comparison."""
    if not made:
        return "No run has compared the defences yet.\n"

    def listed(names: Sequence[str]) -> str:
        return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0] if names else "none"

    every = list(made.values())
    parts = []
    for eps in [point["eps"] for point in every[0]["curve"]]:
        here = {key: listed([card["defence"] for card in every if eps in card["flags"][key]]) for key in _FLAGS}
        parts.append(
            f"- eps {eps:.3g}: better than no defence: **{here['better_than_undefended']}**; "
            f"better than adversarial training: **{here['better_than_adversarial_training']}**; "
            f"overstated by an attacker who only follows the gradient: **{here['direct_misleads']}**."
        )
    return (
        "Under an attacker who knows the defence, by 95 % intervals of paired differences:\n\n"
        + "\n".join(parts)
        + "\n"
    )


def _schema(caption: str, schema: Mapping[str, Any]) -> str:
    """The fields that a JSON schema describes."""
    rows = [[f"<code>{name}</code>", html.escape(about)] for name, about in _fields(schema)]
    return _table(caption, ["field", "meaning"], rows)


def _fields(schema: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, part in schema.get("properties", {}).items():
        found.append((f"{prefix}{name}", part.get("description", "")))
        found += _fields(part, f"{prefix}{name}.")
        found += _fields(part.get("items", {}), f"{prefix}{name}[].")
    return found


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in the form of :func:`advdef.book.page.table`; cells are HTML."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return _raw(
        f'<table class="results" tabindex="0"><caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table>\n"
    )


def _raw(markup: str) -> str:
    markup = markup.replace("`", "&#96;")  # a row of them would end the block
    return f"````{{raw}} html\n{markup}````\n"
