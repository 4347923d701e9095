"""HTML within the site's Markdown: what pages made from records are written in."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from advdef.norms import show_eps
from advdef.statistics import Interval, wilson

__all__ = ["as_text", "budget", "in_percent", "raw", "rows_of", "share", "unrounded"]

_ROUNDED = 1e-6
_KEPT = 5.1e-5  # a record keeps four digits of a share


def budget(eps: float) -> str:
    """A budget as :func:`advdef.norms.show_eps` writes it, though records keep six digits of it.

    >>> budget(0.031373)
    '8/255'
    """
    step = round(255 * eps) / 255
    return show_eps(step if abs(step - eps) < _ROUNDED else eps)


def in_percent(share: float) -> str:
    """A share in whole percent, rounded half up.

    >>> in_percent(0.665), in_percent(0.805), in_percent(1 / 3)
    ('67', '81', '33')
    """
    return str((100 * Decimal(repr(share))).quantize(Decimal(1), ROUND_HALF_UP))


def unrounded(row: Mapping[str, Any]) -> Interval:
    """The accuracy in a row of results with its interval, before the record rounded them, where it is of a count.

    >>> f"{unrounded({'accuracy': 0.8025, 'low': 0.7845, 'high': 0.8194, 'n': 2000}).low:.6f}"
    '0.784479'
    """
    kept = Interval(row["accuracy"], row["low"], row["high"])
    counted = wilson(round(row["n"] * kept.value), row["n"])
    same = all(abs(vars(counted)[name] - value) < _KEPT for name, value in vars(kept).items())
    return counted if same else kept


def share(row: Mapping[str, Any]) -> str:
    """The accuracy in a row of results in percent, with its interval, as the tables of the notebooks have it."""
    return f"{unrounded(row)}".replace(", ", ",\u00a0")


def raw(markup: str) -> str:
    """A block of HTML that Sphinx leaves as it is."""
    markup = markup.replace("`", "&#96;")  # a row of them would end the block
    end = "" if markup.endswith("\n") else "\n"  # the last row stands in a line of its own
    return f"````{{raw}} html\n{markup}{end}````\n"


def as_text(text: str) -> str:
    """Words of a record within a sentence of Markdown: nothing in them is markup, and they stay in their line.

    >>> as_text("2026-01-01 <b>`x`</b>")
    '2026-01-01 &#60;b&#62;&#96;x&#96;&#60;&#47;b&#62;'
    """
    return re.sub(r"[^\w .-]", lambda sign: f"&#{ord(sign[0])};", " ".join(text.split()))


def rows_of(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "results") -> str:
    """A table in the form of :func:`advdef.book.page.table`, of a CSS class; cells are HTML, the caption is text."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return raw(
        f'<table class="{kind}" tabindex="0"><caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table>\n"
    )
