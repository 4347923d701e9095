"""What the site adds to a notebook before it is rendered: its finding, its conclusion, the data of its figures."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advdef.book.curves import curve_rows, readable_curves
from advdef.book.markup import as_text, raw
from advdef.book.records import COMPARISON, Record
from advdef.book.summary import conclusion, in_short, shown_by_curves
from advdef.data.titles import data_name
from advdef.evaluation.results import MEASURES, WORST_CASE, Row
from advdef.papers import PAPERS

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["figure_data", "furnished", "gallery"]

_LAST = re.compile(r"## .*provenance|page\.finish\(\)", re.IGNORECASE)
_GALLERY = ("04_trn", "fig-trn-gallery")  # a notebook, and its figure of clean, attacked and restored images
_FOLDED = "hide-input"
_ENTRIES = {
    COMPARISON: ("which defence is best", "comparison of the defences"),
    "your_classifier": ("own data", "own network"),
}
_CURVES = (
    "fig-curves", "fig-sensitivity-curves", "fig-nip-curves", "fig-trn-curves", "fig-snn-curves", "fig-five",
)  # fmt: skip
_SEEN = ("hide-input", "hide-cell", "remove-cell", "remove-input")


def _part(record: Record, *parts: str, **where: tuple[Any, ...]) -> list[Row]:
    """The rows of some parts whose columns have one of the values asked for."""
    wanted = {"part": parts, **where}
    return [row for row in record["results"] if all(row.get(name) in values for name, values in wanted.items())]


def _ladder(record: Record) -> list[Row]:
    """What each rung left of TRN at the main budget, and all of them with the three attackers; once they had an A."""
    rungs = [f"{letter}{number}" for letter in "RA" for number in range(10)]
    rows = _part(record, *rungs, attack=(WORST_CASE,), defence=("TRN",))
    rows += _part(record, "worst", attack=(WORST_CASE,), defence=("TRN",), threat=("adaptive",))
    main = max((row["eps"] for row in rows), default=0.0)
    return [row for row in rows if row["eps"] == main]


_ROWS: Mapping[str, Callable[[Record], list[Row]]] = dict.fromkeys(_CURVES, curve_rows) | {
    "fig-levels": lambda record: _part(record, "levels"),
    "fig-agreement": lambda record: _part(record, "agreement"),
    "fig-trn-ladder": _ladder,
    "fig-tradeoff": lambda record: _part(record, "trade-off"),
    "fig-nip-tradeoff": lambda record: _part(record, "sweep"),
    "fig-nip-elastic": lambda record: _part(record, "elastic"),
    "fig-trn-eps": lambda record: _part(record, "eps", seed=(record["provenance"]["seed"],)),
    "fig-trn-steps": lambda record: _part(record, "steps", attack=(WORST_CASE,)),
    "fig-snn-steps": lambda record: _part(record, "steps", "large", attack=(WORST_CASE,)),
    "fig-apparent": lambda record: _part(record, "worst", attack=(WORST_CASE,), threat=("direct", "adaptive")),
    "fig-your-classifier": lambda record: _part(record, "judged", attack=("none", WORST_CASE)),
}
"""The rows of a record that a figure shows, by its name; others show images, or numbers that they have with them."""
_MEASURED = ("n", "correct", "accuracy", "low", "high")


def furnished(
    notebook: NotebookNode, paper: str, records: Sequence[Record], *, comparison: tuple[str, str] = ("", "")
) -> NotebookNode:
    """The notebook with what its records say in short under its title, and a conclusion before its provenance.

    Code is folded, and a figure leads to its data. ``comparison`` is what the first page says of the comparison, and
    its conclusion. A page whose run is older than the rules that judge its claims says so. The notebook given is
    changed.
    """
    from nbformat.v4 import new_markdown_cell

    records = [record for record in records if record["paper"] == paper]
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not any(tag in _SEEN for tag in tags):
            cell.metadata["tags"] = [*tags, _FOLDED]
        _describe(cell, paper, records)
    for file, place in reversed(_figures(notebook, paper).items()):
        figure = _figure(notebook.cells[place])
        beside = [_data_links(file) if _shown(notebook.cells[place], records) else ""]
        beside += [readable_curves(record) for record in records if figure in _CURVES]
        notebook.cells[place + 1 : place + 1] = [new_markdown_cell(text) for text in beside if text]
    first = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"), None)
    if first is not None and (opening := in_short(paper, records, comparison[:1])):
        title, _, rest = notebook.cells[first].source.partition("\n")
        notebook.cells[first].source = f"{title}\n\n{_index(paper, records)}{opening}\n{rest}"
    if note := _note(paper, records):
        notebook.cells.insert((first or 0) + 1, new_markdown_cell(note))
    ours = f"## Conclusion\n\n{comparison[1]}" if paper == COMPARISON and records else conclusion(paper, records)
    if ours:
        starts = (i for i, cell in enumerate(notebook.cells) if _LAST.match(cell.source))
        notebook.cells.insert(next(starts, len(notebook.cells)), new_markdown_cell(ours))
    return notebook


def figure_data(notebook: NotebookNode, paper: str, records: Sequence[Record]) -> dict[str, str]:
    """What figures of a notebook show, as CSV and JSON files by their names in the folder of prose pages.

    It has the rows of the page's records that a figure shows or, where there are none, the numbers that the run kept
    with the picture; figures of images have neither.
    """
    mine, files = [record for record in records if record["paper"] == paper], dict[str, str]()
    for name, place in _figures(notebook, paper).items():
        cell = notebook.cells[place]
        if rows := _shown(cell, mine):
            written = io.StringIO()
            table = csv.DictWriter(written, list(dict.fromkeys(c for row in rows for c in row)), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
            content = {"caption": cell.metadata["mystnb"]["figure"].get("caption", ""), "rows": rows}
            files[f"{name}.csv"] = written.getvalue()
            files[f"{name}.json"] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return files


def _figures(notebook: NotebookNode, paper: str) -> dict[str, int]:
    """The places of the cells that draw figures, by the names of files with their data."""
    places = [place for place, cell in enumerate(notebook.cells) if _figure(cell)]
    return {f"_static/figures/{paper}-figure-{number}": place for number, place in enumerate(places, start=1)}


def _data_links(file: str) -> str:
    """A line that leads to the data of a figure, in Markdown."""
    links = (f'<a href="../{file}.{kind}" download>{kind.upper()}</a>' for kind in ("csv", "json"))
    return raw(f'<p class="take">The numbers of this figure as {" or ".join(links)}</p>\n')


def _rows(figure: str, records: Iterable[Record]) -> list[Row]:
    """What a figure shows of the records of its page: of what, and how many images were right."""
    found = [row for record in records for row in _ROWS.get(figure, lambda _: [])(record)]
    return [{k: v for k, v in row.items() if v is not None and (k in _MEASURED or k not in MEASURES)} for row in found]


def _shown(cell: NotebookNode, records: Iterable[Record]) -> list[Row]:
    """The numbers of the figure that a cell draws: rows of the records, else those in the metadata of its picture."""
    if rows := _rows(_figure(cell), records):
        return rows
    kept = (o.get("metadata", {}).get("image/svg+xml", {}).get("numbers", []) for o in cell.get("outputs", []))
    return [
        {k: v[i] if isinstance(v, list) else v for k, v in series.items()}
        for found in kept for series in found for i in range(len(series["x"]))
    ]  # fmt: skip


def _describe(cell: NotebookNode, paper: str, records: Sequence[Record]) -> None:
    """Add to the alternative text of a cell's figure what it shows.

    The run has told it beside the picture; of older runs it is known for the curves of the three attackers alone.
    """
    figure = cell.metadata.get("mystnb", {})
    if "alt" not in figure.get("image", {}):
        return
    beside = (o.data.get("text/plain", "") for o in cell.get("outputs", []) if "data" in o and _drawn(o.data))
    words = " ".join(text for text in beside if not text.startswith("<Figure"))
    if not words and _figure(cell) in (*_CURVES, "fig-apparent"):
        words = shown_by_curves(paper, records)
    figure["image"]["alt"] = f"{figure['image']['alt']} {words}".strip()


def _figure(cell: NotebookNode) -> str:
    """The name of the figure that a cell draws; "" for none."""
    return str(cell.metadata.get("mystnb", {}).get("figure", {}).get("name", ""))


def _drawn(data: Mapping[str, Any]) -> bool:
    return any(kind.startswith("image/") for kind in data)


def _index(paper: str, records: Sequence[Record]) -> str:
    """What the search finds this page by, besides its words: its data sets, above all."""
    judged = paper in (COMPARISON, *(known.id for known in PAPERS))  # the others are about attacks, not about data
    names = dict.fromkeys(data_name(record["dataset"]) for record in records if judged and record["paper"] == paper)
    entries = [*_ENTRIES.get(paper, ()), *names, *(f"{name} accuracy" for name in names)]
    return f"```{{index}} {', '.join(f'! {as_text(entry)}' for entry in entries)}\n```\n\n" if entries else ""


def gallery(source: Path) -> None:
    """Put images under attack on the first page, out of an executed notebook, where it has them.

    ``source`` is the folder that the site is rendered from. Its file ``book/_generated/pictures.md`` then shows the
    picture with its own caption; it is empty where there is none.
    """
    from advdef.book.notebookfile import read_executed

    stem, name = _GALLERY
    page, text = source / "notebooks" / f"{stem}.ipynb", ""
    for cell in read_executed(page).cells if page.is_file() else ():
        told = cell.metadata.get("mystnb", {})
        if told.get("figure", {}).get("name") != name:
            continue
        for kind, suffix in (("image/svg+xml", "svg"), ("image/png", "png")):
            found = next((o.data[kind] for o in cell.outputs if kind in o.get("data", {})), None)
            if found is not None and not text:
                image = source / "book" / "_static" / "made" / f"pictures.{suffix}"
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(found.encode() if suffix == "svg" else base64.b64decode(found))
                alt, caption = told.get("image", {}).get("alt", ""), told["figure"].get("caption", "")
                text = (
                    f"```{{figure}} _static/made/pictures.{suffix}\n:alt: {alt}\n:class: pictures\n\n{caption} "
                    f"From [its page](../notebooks/{stem}).\n```\n"
                )
    made = source / "book" / "_generated" / "pictures.md"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(text, encoding="utf-8")


def _note(paper: str, records: Sequence[Record]) -> str:
    """What to say above a page whose run is older than today's rules, or than the hits of single images in it."""
    old = [r for r in records if r["paper"] == paper and _is_old(r)]
    if not old:
        return ""
    date = as_text(old[0]["provenance"]["date"])
    return (
        f"```{{note}}\nTables and figures on this page are those of a run of {date}, by the code of that day. Code, "
        "text and rules have moved on since: where the text speaks of what is not shown, the run is older than the "
        "text, and where the run did not measure what today's rules ask for, the verdicts say so. "
        "[Run it yourself](../book/rerun.md) shows how to make them anew.\n```"
    )


def _is_old(record: Record) -> bool:
    rules = any(verdict.get("old_rules") for verdict in record["verdicts"])
    return rules or not any(row.get("hits") for row in record["results"])
