"""What would decide the claims that runs could not: how many images, how many networks, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from advdef.book.records import Record
from advdef.claims import Condition
from advdef.evaluation.results import WORST_CASE

__all__ = ["Step", "plan", "plan_lines"]


@dataclass(frozen=True)
class Step:
    """What would decide one undecided claim on one data set.

    Attributes:
        paper: The page.
        dataset: The data set.
        claim: The claim's id.
        images: How many images that number has now which needs the most.
        needed_images: How many would decide it; None where they are not what is missing.
        seeds: How many trained networks that number has now which needs the most.
        needed_seeds: How many would decide it; None where they are not what is missing.
        available: How many test images there are.
        seconds: What the whole page would take with so many images and networks on the machine of the record; None
            where nothing is known to decide the claim.
        why: The evidence of the verdict.
    """

    paper: str
    dataset: str
    claim: str
    images: int | None
    needed_images: int | None
    seeds: int | None
    needed_seeds: int | None
    available: int
    seconds: int | None
    why: str = ""

    @property
    def possible(self) -> bool:
        """Whether something is known to decide the claim, and there are as many test images."""
        return self.seconds is not None and (self.needed_images or 0) <= self.available

    def as_json(self) -> dict[str, Any]:
        """All of it, plain."""
        return asdict(self) | {"possible": self.possible}


def plan(records: Iterable[Record]) -> list[Step]:
    """A step for each undecided claim in records, the cheapest first, then those that no size here would decide."""
    found = [
        _step(verdict, record)
        for record in records
        for verdict in record["verdicts"]
        if verdict["verdict"] == "undecided"
    ]
    return sorted(found, key=lambda step: (not step.possible, step.seconds or 0))


def plan_lines(steps: Sequence[Step]) -> str:
    """The steps as text, one line each.

    >>> step = Step("nip", "cifar10", "NIP-9", 100, 870, 1, 5, 10_000, 7_500)
    >>> print(plan_lines([step]))
    NIP-9 on cifar10: 870 images (now 100) and 5 networks (now 1); the page then takes about 2.1 h
    """
    return "\n".join(f"{step.claim} on {step.dataset}: {_told(step)}" for step in steps)


def _told(step: Step) -> str:
    needs = []
    if step.needed_images:
        needs.append(f"{step.needed_images:,} images (now {step.images:,})")
    if step.needed_seeds:
        needs.append(f"{step.needed_seeds:,} networks (now {step.seeds:,})")
    if not needs or step.seconds is None:
        return step.why
    if not step.possible:
        return f"{' and '.join(needs)}; there are {step.available:,} test images, so this data set cannot decide it"
    hours = step.seconds / 3600
    time = f"{hours:.1f} h" if hours >= 1 else f"{step.seconds / 60:.0f} min"
    return f"{' and '.join(needs)}; the page then takes about {time}"


def _step(verdict: Mapping[str, Any], record: Record) -> Step:
    conditions = [Condition.from_record(told) for told in verdict["conditions"]]
    open_ones = [condition for condition in conditions if condition.word == "undecided"]
    of_images = max((c for c in open_ones if c.needed_images), key=lambda c: c.needed_images or 0, default=None)
    of_seeds = max((c for c in open_ones if c.needed_seeds), key=lambda c: c.needed_seeds or 0, default=None)
    images, now = (of_images.needed_images, of_images.images) if of_images else (None, verdict["images"])
    seeds, trained = (of_seeds.needed_seeds, of_seeds.seeds) if of_seeds else (None, verdict["seeds"])
    why = "run the page again, it did not measure what today's rule asks for"
    why = why if verdict.get("old_rules") else verdict["evidence"]
    facts = record["provenance"]
    more_images = images / now if images and now else 1.0
    more_seeds = seeds / trained if seeds and trained else 1.0
    whole = facts["wall_seconds"] + (facts.get("cached") or {}).get("seconds", 0.0)
    attacks = sum(row.get("seconds", 0.0) for row in record["results"] if row["attack"] != WORST_CASE)
    seconds = more_seeds * (whole + min(attacks, whole) * (more_images - 1))
    return Step(
        record["paper"], record["dataset"], verdict["claim"], now, images, trained, seeds,
        facts.get("test_images") or 0, round(seconds) if images or seeds else None, why,
    )  # fmt: skip
