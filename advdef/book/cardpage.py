"""The result cards for people: a table of all, and a section for each with what to know before a number is quoted."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from advdef.book.markup import budget, in_percent, raw, rows_of, share, unrounded
from advdef.claims import VerdictWord, badge
from advdef.data.titles import data_name

__all__ = ["FLAGS", "card_page"]

FLAGS = {
    "direct_misleads": "direct misleads",
    "better_than_undefended": "better than undefended",
    "better_than_adversarial_training": "better than AT",
}
"""What a card says of a defence, by the name of its field."""

_Card = Mapping[str, Any]


def card_page(cards: Mapping[str, _Card]) -> str:
    """The cards, by the name of their file without its suffix; one of a reference has no paper."""
    if not cards:
        return "No run has compared the defences yet.\n"
    threat = next(iter(cards.values()))["threat_model"]
    about = f"{data_name(threat['dataset'])}, {threat['model']}, {threat['norm']}, eps {budget(threat['eps'])}"
    head = ["defence", "adaptive %", "clean %", "oblivious %", "direct %", *FLAGS.values()]
    rows = [_row(card) for card in cards.values()]
    return rows_of(f"The result cards ({about})", head, rows) + "\n".join(_section(*found) for found in cards.items())


def _row(card: _Card) -> list[str]:
    values = (share(card["ours"][key]) for key in ("adaptive", "clean", "oblivious", "direct"))
    name = html.escape(card["defence"])
    return [f'<a href="#{_anchor(card)}">{name}</a>', *values, *(_budgets(card["flags"][key]) for key in FLAGS)]


def _anchor(card: _Card) -> str:
    return f"card-{card['defence'].lower()}"


def _budgets(budgets: Sequence[float]) -> str:
    return ", ".join(map(budget, budgets)) or "never"


def _section(file: str, card: _Card) -> str:
    """A card in words."""
    ours, flags, paper, run = card["ours"], card["flags"], card["paper"], card["run"]
    name = html.escape(card["defence"])
    told = paper["title"] if paper else {"AT": "adversarial training"}.get(card["defence"], str(card["defence"]))
    title = name if told == card["defence"] else f"{name}: {html.escape(told)}"
    kept = "; ".join(f"eps {budget(point['eps'])}: {in_percent(point['adaptive'])}\u00a0%" for point in card["curve"])
    adaptive, oblivious, clean = (
        f"{in_percent(unrounded(ours[k]).value)}\u00a0%" for k in ("adaptive", "oblivious", "clean")
    )
    left = (
        f"Keeps <strong>{adaptive}</strong> of {ours['adaptive']['n']} images right against an attacker who knows it, "
        f"{oblivious} against one who does not; without an attack {clean} of {ours['clean']['n']:,}. By budget, "
        f"against the first: {kept}."
    )
    facts = [left]
    if flags["direct_misleads"]:
        facts.append(
            f"Its gradient misleads at eps {_budgets(flags['direct_misleads'])}: an attacker who follows it leaves "
            "more images right than one who knows the defence."
        )
    facts.append(f"Sanity checks that fired: {html.escape(', '.join(flags['checks_fired'])) or 'none'}.")
    if card["verdicts"]:
        counts = Counter(verdict["verdict"] for verdict in card["verdicts"])
        words: Iterable[VerdictWord] = get_args(VerdictWord)
        told = " ".join(f"{badge(word)} {counts[word]}" for word in words if counts[word])
        facts.append(f'<a href="verdicts.html">Verdicts</a> on its paper: {told}')
    if paper:
        reported = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in card["reported"])
        facts.append(
            f'<a href="{html.escape(paper["url"])}">The paper</a> reports:<ul>{reported}</ul>' if reported else ""
        )
    facts.append(
        f"Run of {html.escape(run['date'][:10])}, profile {html.escape(run['profile'])}, seed {run['seed']}: "
        f'<a href="../_static/cards/{html.escape(file)}.json" download>the card as JSON</a>.'
    )
    listed = "".join(f"<li>{fact}</li>" for fact in facts if fact)
    return raw(f'<section class="card-of-defence" id="{_anchor(card)}"><h3>{title}</h3><ul>{listed}</ul></section>\n')
