"""HTML within the site's Markdown: what pages made from records are written in."""

import html
from collections.abc import Iterable, Sequence

__all__ = ["raw", "rows_of"]


def raw(markup: str) -> str:
    """A block of HTML that Sphinx leaves as it is."""
    markup = markup.replace("`", "&#96;")  # a row of them would end the block
    return f"````{{raw}} html\n{markup}````\n"


def rows_of(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "results") -> str:
    """A table in the form of :func:`advdef.book.page.table`, of a CSS class; cells are HTML, the caption is text."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return raw(
        f'<table class="{kind}" tabindex="0"><caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table>\n"
    )
