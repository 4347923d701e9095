"""What the site adds to a notebook before it is rendered: its finding, its conclusion, and how much of it is folded."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advdef.book.curves import readable_curves
from advdef.book.markup import as_text
from advdef.book.records import COMPARISON, Record
from advdef.book.summary import conclusion, in_short, shown_by_curves
from advdef.data.titles import data_name
from advdef.papers import PAPERS

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["furnished", "gallery"]

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


def furnished(
    notebook: NotebookNode, paper: str, records: Sequence[Record], *, comparison: tuple[str, str] = ("", "")
) -> NotebookNode:
    """The notebook with what its records say in short under its title, and a conclusion before its provenance.

    Code is folded. ``comparison`` is what the first page says of the comparison, and its conclusion. A page whose run
    is older than the rules that judge its claims says so. The notebook given is changed.
    """
    from nbformat.v4 import new_markdown_cell

    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not any(tag in _SEEN for tag in tags):
            cell.metadata["tags"] = [*tags, _FOLDED]
        _describe(cell, paper, records)
    for place in [i for i, cell in enumerate(notebook.cells) if _figure(cell) in _CURVES][::-1]:
        for record in [record for record in records if record["paper"] == paper][::-1]:
            if curves := readable_curves(record):
                notebook.cells.insert(place + 1, new_markdown_cell(curves))
    first = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"), None)
    if first is not None and (opening := in_short(paper, records, comparison[:1])):
        title, _, rest = notebook.cells[first].source.partition("\n")
        notebook.cells[first].source = f"{title}\n\n{_index(paper, records)}{opening}\n{rest}"
    if note := _note(paper, records):
        notebook.cells.insert((first or 0) + 1, new_markdown_cell(note))
    known = any(record["paper"] == COMPARISON for record in records)
    ours = f"## Conclusion\n\n{comparison[1]}" if paper == COMPARISON and known else conclusion(paper, records)
    if ours:
        starts = (i for i, cell in enumerate(notebook.cells) if _LAST.match(cell.source))
        notebook.cells.insert(next(starts, len(notebook.cells)), new_markdown_cell(ours))
    return notebook


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
