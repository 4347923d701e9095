"""An extension of Sphinx: the search index holds what a page says, and no code."""

from __future__ import annotations

from typing import Any

import sphinx.search
from docutils import nodes
from sphinx.application import Sphinx

__all__ = ["setup"]


class _Prose(sphinx.search.WordCollector):
    """The words of a page without those of its code."""

    def dispatch_visit(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.literal_block):
            raise nodes.SkipNode
        super().dispatch_visit(node)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    sphinx.search.WordCollector = _Prose  # type: ignore[misc]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
