"""Tables of results as a reader wants them: numbered, split by data set, fit for phones, with their data beside."""

from __future__ import annotations

import ast
import csv
import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from advdef.data.titles import data_named
from advdef.papers import PAPERS

__all__ = ["presented"]

_TABLE = re.compile(r"<table\b[^>]*\bresults\b[^>]*>.*?</table>", re.DOTALL)
_ROW = re.compile(r"<tr\b[^>]*>(.*?)</tr>", re.DOTALL)
_CELL = re.compile(r"<t([hd])\b[^>]*>(.*?)</t\1>", re.DOTALL)
_INTERVAL = re.compile(r"([-+−]?[\d.]+)\s*(\[[^\]]*\])$")
_REASON = re.compile(r"(<strong>\w+</strong>)<br\s*/?><small>([^<]{36,})</small>")  # a word, and a long one why
_TALLY = re.compile(r"(?:[^:<]+: \d+(?:, |$)){4,}")  # name: count, name: count, and so on
_NUMBER = re.compile(r"[-+−±<>≥≤]?\s?\d|–$")
_DATA = ("data", "dataset")
_CONSTANT = ("network", "eps")
_LABELS = ("eps", "step", "seed", "classes", "time steps", "norm", "set to", "attack", "attacker", "image")
_INDEX = ("check", "setting")  # what stands over the names of rows that have no header
_WORST_CASES = (
    "adaptive %", "true %", "worst case %", "tries everything %", ".*, all rungs %", "adaptive − at",
    ".*adaptive.* %", "adaptive", "adaptive − .*", "result", "measured",
)  # fmt: skip
_OTHERS = (
    "mean of five %", r"all \d+", ".*dsr.*", "fooled %", "lead over .*", ".* cost more than .*", "pgd, − .*", ".* − .*",
    "difference", "against .*, points", "left", "now", "ours leave, %", "local optimality", "broken at 1.05 .*",
    "broken %", "made for it", "pgd and own attacks.*", "of these silent", "if flagged .*", "stable step %",
    "transferred, d4", "rank correlation.*", "correlation .*", "inside at the end, d1", "cosine to .*", "front",
    "here %", "here, .*", r"pgd(-20)?( %|: psnr)?", "purifier and classifier: .*", "times .*", ".*multiply-adds.*",
    "broken by autoattack alone", "wrong when asked again",
)  # fmt: skip
_COUNTS = ("images", "parameters", "features", "fooled", "seeds", "passes", "choices", "epoch taken")
"""What the header of a column is that says how much was done, and not what came out."""
_ASIDE = ("The profiles", "The three profiles", "How each claim is decided", "Provenance of this run")
"""How the caption of a table begins that few readers look for: it is folded."""
_FOLDED = 12  # rows that are shown of a long table, which has more than three others
_WORDY = 30  # characters; a column of longer cells is one of words
_WIDE = 7  # columns; in a table with more, the deciding one stands before the others


@dataclass(frozen=True)
class _Table:
    caption: str
    kind: str
    head: list[str]
    rows: list[list[str]]
    own: str  # the defence that its page is about


def presented(page: str, *, prefix: str, folder: str, stem: str) -> tuple[str, dict[str, str]]:
    """A page with its tables of results presented, and their data as files, by name.

    A table gets the number ``prefix`` and its place on the page, an anchor, the name of its data set in the caption,
    and links to its data as CSV and JSON in ``folder``, an address that ends in "/". Of several data sets, each has a
    part of its own. The column that decides is marked, and so are those that label a row; style sheets do the rest.
    ``stem`` is the name of the page's file; on the page of a paper, the column of its defence decides where none says
    more.
    """
    files: dict[str, str] = {}
    own = next((paper.own for paper in PAPERS if paper.notebook == stem), "")

    def present(match: re.Match[str]) -> str:
        number = len(files) // 2 + 1
        table = _read(match[0], own)
        name = f"{stem}-table-{number}"
        files[f"{name}.csv"], files[f"{name}.json"] = _csv(table), _json(table)
        take = (
            f'<p class="take">Table {prefix}{number} as <a href="{folder}{name}.csv" download>CSV</a> or '
            f'<a href="{folder}{name}.json" download>JSON</a></p>'
        )
        parts = "".join(_part(part, f"{prefix}{number}", first=not i) for i, part in enumerate(_parts(table)))
        made = f'<div class="numbered" id="table-{number}">{parts}{take}</div>'
        folded = table.caption.startswith(_ASIDE) and not match.string[: match.start()].rstrip().endswith("</summary>")
        return f"<details><summary>{_text(table.caption)}</summary>{made}</details>" if folded else made

    return _TABLE.sub(present, page), files


def _read(markup: str, own: str) -> _Table:
    caption = re.search(r"<caption>(.*?)</caption>", markup, re.DOTALL)
    head, _, body = markup.partition("</thead>")
    heads = [[cell[1] for cell in _CELL.findall(row)] for row in _ROW.findall(head)]
    # a named index stands in a row of its own
    names = [next((data_named(cell) for cell in column if _text(cell)), "") for column in zip(*heads, strict=False)]
    if names and not _text(names[0]):
        names[0] = "check" if caption and "checks" in caption[1].lower() else "setting"
    rows = [[cell[1] for cell in _CELL.findall(row)] for row in _ROW.findall(body)]
    kind = re.search(r'class="([^"]*)"', markup)
    told, rows = data_named(caption[1]) if caption else "", [row for row in rows if len(row) == len(names)]
    return _Table(told, kind[1] if kind else "", names, rows, own)


def _parts(table: _Table) -> Iterable[_Table]:
    """A table for each data set that it is about."""
    if table.head[:1] and _text(table.head[0]) in _DATA and len(table.head) > 2:
        for name in dict.fromkeys(row[0] for row in table.rows):
            rows = [row[1:] for row in table.rows if row[0] == name]
            caption = f"{data_named(name)}. {table.caption}"
            yield _shorter(replace(table, caption=caption, head=table.head[1:], rows=rows))
    else:
        yield table


def _shorter(table: _Table) -> _Table:
    """A table without a column at its left that is the same in all rows: the caption has it."""
    same = {row[0] for row in table.rows}
    if _text(table.head[0]) not in _CONSTANT or len(same) != 1 or _roles(table)[0] < 2:
        return table
    name, (value,) = _text(table.head[0]), same
    told = value if name == "network" else f"{name} {value}"
    begin, _, rest = table.caption.partition(". ")
    rows = [row[1:] for row in table.rows]
    return _shorter(replace(table, caption=f"{begin}, {told}. {rest}", head=table.head[1:], rows=rows))


def _part(table: _Table, number: str, *, first: bool) -> str:
    numeric = _numeric_columns(table)
    labels, deciding = _roles(table)
    order = list(range(len(table.head)))
    if len(order) > _WIDE and deciding is not None:
        order.remove(deciding)
        order.insert(labels, deciding)
    kinds = {
        column: " ".join(
            name
            for name, holds in (
                ("key", column == 0),
                ("label", 0 < column < labels),
                ("deciding", column == deciding),
                ("number", column in numeric),
                ("words", _wordy(table, column)),
            )
            if holds
        )
        for column in order
    }

    def cell(tag: str, role: str, column: int, content: str) -> str:
        kind = f' class="{kinds[column]}"' if kinds[column] else ""
        return f'<{tag} role="{role}"{kind}>{content}</{tag}>'

    head = "".join(cell("th", "columnheader", column, table.head[column]) for column in order)
    body = []
    for row in table.rows:
        also = " · ".join(_also(table.head[c], row[c]) for c in range(1, labels) if _text(row[c]))
        key = f'{_value(row[0])}<small class="also">{also}</small>' if also else _value(row[0])
        cells = [cell("th", "rowheader", 0, key).replace("<th ", '<th scope="row" ', 1)]
        cells += [cell("td", "cell", column, _value(row[column])) for column in order[1:]]
        body.append(f'<tr role="row">{"".join(cells)}</tr>\n')
    caption = table.caption if first else table.caption.partition(". ")[0]
    fold = f' data-shown="{_FOLDED}"' if len(table.rows) > _FOLDED + 3 else ""
    flows = "matrix" not in table.kind and (len(order) > 2 or deciding in numeric)
    kind = f"{table.kind} flow" if flows else table.kind
    named = f'<span class="table-number">Table {number}</span> {caption}'
    return (
        f'<table class="{kind}" role="table" tabindex="0"{fold}><caption>{named}</caption>\n'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">{"".join(body)}</tbody></table>'
    )


def _also(name: str, value: str) -> str:
    """A label beside the first one; a number says what it is of."""
    return f"{name} {value}" if _NUMBER.match(_text(value)) else data_named(value)


def _roles(table: _Table) -> tuple[int, int | None]:
    """How many columns at the left label a row, and which of the others decides."""
    names = [_text(name).lower() for name in table.head]
    index = names[0] in _INDEX  # then columns are things of one kind, and not kinds of numbers
    numeric = set() if index else _numeric_columns(table)
    wanted = _wanted(table)
    found = {column: _place(name, wanted) for column, name in enumerate(names) if column}
    if not found:
        return 1, None
    sure = len(wanted) - len(_OTHERS)
    results = (c for c in found if (c in numeric and names[c] not in _LABELS) or found[c] < sure)
    labels = 1 if index else next(results, 1)
    others = [column for column in found if column >= labels]
    # without a header that says so, the first number that tells what came out
    return labels, min(others, key=lambda c: (found[c], c not in numeric, names[c] in _COUNTS, c))


def _place(name: str, wanted: Sequence[str]) -> int:
    """Which of the headers wanted a name is, the last one's successor where it is none."""
    return next((place for place, one in enumerate(wanted) if re.fullmatch(one, name)), len(wanted))


def _wanted(table: _Table) -> list[str]:
    """What the header of the deciding column is, the surest first."""
    profile, own = re.search(r"this page: profile (\w+)", table.caption), re.escape(table.own.lower())
    shown = [profile[1].lower()] if profile else []
    mine = [own, f"{own}: .*", rf"\S+ {own}"] if own else []
    return [*shown, *_WORST_CASES, *mine, *_OTHERS]


def _numeric_columns(table: _Table) -> set[int]:
    def numeric(column: int) -> bool:
        cells = [text for row in table.rows if (text := _text(row[column]))]
        return sum(bool(_NUMBER.match(text)) for text in cells) * 2 > len(cells)

    return {column for column in range(1, len(table.head)) if numeric(column)}


def _wordy(table: _Table, column: int) -> bool:
    lengths = sorted(len(_text(row[column])) for row in table.rows)
    return bool(lengths) and lengths[len(lengths) // 2] > _WORDY


def _value(content: str) -> str:
    """A cell with its interval in small print, which a style sheet puts under the number; Python's lists as lists.

    A long reason under a word is folded, and so is a long tally: it would make a row as high as the screen whose other
    cells are empty.
    """
    if content[:1] in "([{" and (told := _listed(html.unescape(content))):
        return data_named(html.escape(told, quote=False))
    if reason := _REASON.fullmatch(content.strip()):
        return f'{reason[1]}<details class="why"><summary>why</summary><small>{reason[2]}</small></details>'
    if _TALLY.fullmatch(content.strip()):
        counts = [int(count) for count in re.findall(r": (\d+)(?=, |$)", content.strip())]
        kinds = f"{sum(counts)} in {len(counts)} kinds"
        return f'<details class="why"><summary>{kinds}</summary><small>{content.strip()}</small></details>'
    found = _INTERVAL.fullmatch(content.strip())
    return f'{found[1]} <small class="ci">{found[2]}</small>' if found else data_named(content)


def _listed(content: str) -> str:
    """What a tuple, list or dictionary of Python holds, as prose lists it; "" for anything else.

    >>> _listed("{'cifar10': ('SmallVGG',), 'mnist': None}")
    'cifar10: SmallVGG; mnist: –'
    """
    try:
        value = ast.literal_eval(content)
    except (SyntaxError, ValueError):
        return ""

    def told(value: object, between: str = ", ") -> str:
        if isinstance(value, dict):
            return "; ".join(f"{told(key)}: {told(one)}" for key, one in value.items())
        if isinstance(value, tuple | list):
            return between.join(told(one) for one in value)
        return "–" if value is None else str(value)

    return told(value) if isinstance(value, tuple | list | dict) else ""


def _text(content: str) -> str:
    """What a cell says, without markup."""
    return html.unescape(re.sub(r"<[^>]*>", " ", content)).replace("\u00a0", " ").strip()


def _csv(table: _Table) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(_lines(table))
    return written.getvalue()


def _json(table: _Table) -> str:
    names, *rows = _lines(table)
    content = {"caption": _text(table.caption), "rows": [dict(zip(names, row, strict=True)) for row in rows]}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _lines(table: _Table) -> list[Sequence[str]]:
    return [[" ".join(_text(cell).split()) for cell in line] for line in (table.head, *table.rows)]
