"""Rows of the tables on the page that compares attacks with those of other libraries, by the heads of the columns."""

from advdef.norms import show_eps
from advdef.peers.agreement import Comparison
from advdef.peers.closest import ClosestFound

__all__ = ["closest_row", "comparison_row"]

_SHORT = 0.2  # seconds, below which times tell nothing


def comparison_row(found: Comparison) -> dict[str, str]:
    """What ours and the peer's left, and how they differ; of a peer that is missing, that."""
    size = show_eps(found.eps) if found.norm == "Linf" else f"{found.eps:g}"
    row = {"attack": found.attack, "eps": f"{size} {found.norm}", "peer": found.peer}
    row["ours %"] = f"{100 * found.ours.double().mean():.1f}"
    if found.theirs is None or found.their_seconds is None:
        return row | {"note": "peer not installed here"}
    timed = min(found.seconds, found.their_seconds) > _SHORT
    return row | {
        "peer %": f"{100 * found.theirs.double().mean():.1f}",
        "difference": f"{found.points:+.1f}",
        "only ours / peer": f"{found.only_ours} / {found.only_theirs}",
        "time ratio": f"{found.their_seconds / found.seconds:.1f}" if timed else "–",
        "note": found.note,
    }


def closest_row(found: ClosestFound | None) -> dict[str, str]:
    """What a search for the closest adversarial image found; None where its library is missing."""
    if found is None:
        return {"broken %": "not installed here"}
    return {
        "broken %": f"{100 * found.share:.1f}",
        "median L2": f"{found.l2:.2f}",
        "black and white pixels moved by more than 0.001, %": f"{100 * found.stirred:.1f}",
    }
