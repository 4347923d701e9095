"""An extension of Sphinx: no code in the search index, and a reference that leads to the source."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import sphinx.search
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

import advdef
from advdef.book.provenance import source_commit

__all__ = ["setup"]

_ROOT = Path(advdef.__file__).parents[1]


class _Prose(sphinx.search.WordCollector):
    """The words of a page without those of its code."""

    def dispatch_visit(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.literal_block):
            raise nodes.SkipNode
        super().dispatch_visit(node)


class _Source:
    """Where something in the reference stands in the repository, for ``sphinx.ext.linkcode``; None where unknown."""

    def __init__(self, repository: str) -> None:
        self.repository, self.commit = repository, (source_commit() or "main").rstrip("+")

    def __call__(self, domain: str, info: dict[str, str]) -> str | None:
        if domain != "py" or not info["module"]:
            return None
        try:
            found: Any = importlib.import_module(info["module"])
            for name in info["fullname"].split("."):
                found = getattr(found, name)
            found = inspect.unwrap(found)
            file = Path(inspect.getsourcefile(found) or "").relative_to(_ROOT)
            lines, first = inspect.getsourcelines(found)
        except (AttributeError, ImportError, OSError, TypeError, ValueError):
            return None  # a constant, say
        return f"{self.repository}/blob/{self.commit}/{file.as_posix()}#L{first}-L{first + len(lines) - 1}"


def _configure(app: Sphinx, config: Config) -> None:
    if config.html_search_scorer:  # Sphinx looks for it where it is run
        config.html_search_scorer = str(Path(app.srcdir) / config.html_search_scorer)
    config.linkcode_resolve = _Source(config.html_theme_options.get("repository_url", ""))


_SHORT = 20  # characters of code that stand on one line, however narrow the page


def _whole(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Mark short code, so that an option does not break after its hyphens."""
    for code in doctree.findall(nodes.literal):
        if len(code.astext()) <= _SHORT:
            code["classes"].append("short")


_COLON = "\ue000"  # for private use: no docstring has it


def _without_type(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Hide a colon in the first line on a constant, before which napoleon would see a type."""
    if what in ("data", "attribute") and lines:
        lines[0] = lines[0].replace(":", _COLON)


def _with_colon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    sphinx.search.WordCollector = _Prose  # type: ignore[misc]
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("config-inited", _configure)
    app.connect("doctree-resolved", _whole)
    app.connect("autodoc-process-docstring", _without_type, priority=100)  # napoleon has 500
    app.connect("autodoc-process-docstring", _with_colon, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
