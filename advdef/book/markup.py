"""HTML within the site's Markdown: what pages made from records are written in."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from advdef.norms import show_eps

__all__ = ["as_text", "budget", "data_name", "raw", "rows_of", "share"]

_ROUNDED = 1e-6
_NAMES = {
    "cifar10": "CIFAR-10", "digits": "digits", "fashion_mnist": "Fashion-MNIST", "gtsrb": "GTSRB", "mnist": "MNIST",
    "svhn": "SVHN",
}  # fmt: skip


def data_name(dataset: str) -> str:
    """A data set's name in prose; that of an unknown one is its own.

    >>> data_name("fashion_mnist")
    'Fashion-MNIST'
    """
    return _NAMES.get(dataset, dataset)


def budget(eps: float) -> str:
    """A budget as :func:`advdef.norms.show_eps` writes it, though records keep six digits of it.

    >>> budget(0.031373)
    '8/255'
    """
    step = round(255 * eps) / 255
    return show_eps(step if abs(step - eps) < _ROUNDED else eps)


def share(row: Mapping[str, Any]) -> str:
    """The accuracy in a row of results in percent, with its interval."""
    return f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f},\u00a0{100 * row['high']:.1f}]"


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
