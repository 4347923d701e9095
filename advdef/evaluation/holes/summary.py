"""What searches for holes came to, also where they found nothing, in one file beside what they broke."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advdef.store import write_atomically

__all__ = ["Searched", "add_search", "read_searches"]

_NAME = "searches.json"


@dataclass(frozen=True)
class Searched:
    """One search at one budget.

    Attributes:
        page: The page.
        dataset: The data set.
        profile: The size of the page's run.
        seed: Its first seed.
        defence: The defence, by its name on the page.
        eps: The budget.
        images: How many images the page's attackers met.
        before: How many the page's own attacks left.
        after: How many are left after the search, and what earlier ones broke.
        by: What broke each image that fell.
        ways: How many ways were tried.
        minutes: How long they took.
    """

    page: str
    dataset: str
    profile: str
    seed: int
    defence: str
    eps: float
    images: int
    before: int
    after: int
    by: list[str]
    ways: int
    minutes: float

    def as_row(self) -> dict[str, Any]:
        """A line of a table for people."""
        broke = "; ".join(f"{n} by {way}" if n > 1 else way for way, n in Counter(self.by).most_common())
        return {
            "defence": self.defence, "data": self.dataset, "eps": f"{self.eps:.3g}", "images": self.images,
            "left by the page": self.before, "left": self.after, "what broke the others": broke or "–",
        }  # fmt: skip


def add_search(folder: Path, done: Searched) -> Path:
    """Add a search to those in a folder, in the place of one of the same, and return their file."""
    kept = {_of(one): asdict(one) for one in (*read_searches(folder), done)}
    path = folder / _NAME
    write_atomically(
        path, (json.dumps([kept[of] for of in sorted(kept)], indent=1, ensure_ascii=False) + "\n").encode()
    )
    return path


def read_searches(folder: Path) -> list[Searched]:
    """The searches in a folder; none where nobody searched."""
    path = folder / _NAME
    return [Searched(**told) for told in json.loads(path.read_text("utf-8"))] if path.is_file() else []


def _of(one: Searched) -> tuple[str, str, str, int, str, float, int]:
    return one.page, one.dataset, one.profile, one.seed, one.defence, one.eps, one.images
