"""Claims of the papers, the rules that decide them, and the verdicts that a run gives."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Literal

import yaml
from torch import Tensor

from advdef.statistics import Interval, mean_interval, paired_difference

__all__ = [
    "SOURCES", "Claim", "Condition", "Rule", "Verdict", "VerdictWord", "all_claims", "badge", "claims", "decide",
    "rule",
]  # fmt: skip

VerdictWord = Literal["supported", "partly", "not supported", "not testable here"]

SOURCES = {"paper": "paper", "inferred": "implied; our wording", "secondary": "secondary source"}
"""How a page writes where a claim stands."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper that a run can decide.

    ``source`` says where it stands: "paper", "inferred" (implied by the paper) or "secondary" (told by somebody else).
    ``decided_by`` says how it is decided, or why not, where no :class:`Rule` does.
    """

    id: str
    paper: str
    sentence: str
    source: Literal["paper", "inferred", "secondary"]
    decided_by: str = ""
    datasets: tuple[str, ...] = ()  # empty: any

    def about(self, dataset: str) -> bool:
        """Whether the claim speaks of this data set."""
        return not self.datasets or dataset in self.datasets


@dataclass(frozen=True)
class Condition:
    """One thing that must hold for a claim, with the number that decides it."""

    what: str
    holds: bool
    number: str

    @classmethod
    def overlaps(cls, what: str, interval: Interval, low: float, high: float) -> "Condition":
        """The 95 % interval has a point in common with [low, high]."""
        return cls(what, interval.low <= high and interval.high >= low, f"{interval:+}")

    @classmethod
    def half_given_back(cls, what: str, treated: Tensor, *, bare: Tensor, clean: Tensor) -> "Condition":
        """At least half of the accuracy that an attack took is given back, and more than nothing.

        All are hits (N,) on the same images: of ``clean`` ones the attack left ``bare``, and now it is ``treated``.
        """
        gain = paired_difference(treated, bare)
        taken = (clean.double().mean() - bare.double().mean()).item()
        half = mean_interval(treated.double() - (clean.double() + bare.double()) / 2)
        return cls(what, gain.low > 0 and half.low > 0, f"{gain:+} points of {100 * taken:.1f} taken")

    @classmethod
    def above(cls, what: str, interval: Interval, bound: float) -> "Condition":
        """The whole 95 % interval lies above ``bound``."""
        return cls(what, interval.low > bound, f"{interval:+}")


@dataclass(frozen=True)
class Rule:
    """How a claim is decided: a pure function of results, which gives the conditions that must hold.

    It stands in ``advdef/papers/<room>/verdicts.py``; the first paragraph of its docstring is what the site prints.
    """

    claim: str
    function: Callable[..., Iterable[Condition]]

    def __call__(self, *results: Any, **more: Any) -> tuple[Condition, ...]:
        """The conditions of the claim on these results."""
        return tuple(self.function(*results, **more))

    @property
    def text(self) -> str:
        """The rule in words."""
        return " ".join((inspect.getdoc(self.function) or "").partition("\n\n")[0].split())


def rule(claim: str) -> Callable[[Callable[..., Iterable[Condition]]], Rule]:
    """Make a function the rule of the claim of this id.

    >>> @rule("x-1")
    ... def falls(before: float, after: float) -> list[Condition]:
    ...     '''Accuracy under attack falls.'''
    ...     return [Condition("fall", after < before, f"{after - before:+.2f}")]
    >>> falls.text, falls(0.9, 0.5)
    ('Accuracy under attack falls.', (Condition(what='fall', holds=True, number='-0.40'),))
    """
    return lambda function: Rule(claim, function)


@dataclass(frozen=True)
class Verdict:
    """A claim with the word that its conditions give and the numbers behind it."""

    claim: Claim
    dataset: str
    word: VerdictWord
    conditions: tuple[Condition, ...]
    summary: str = ""

    @property
    def evidence(self) -> str:
        """In one line, how many conditions hold, and the summary, or the conditions with their numbers."""
        if self.word == "not testable here":
            if not self.conditions:
                return self.summary or "nothing was measured"
            return f"the claim is about {', '.join(self.claim.datasets)}"
        held = sum(c.holds for c in self.conditions)
        listed = "; ".join(f"{c.what}: {c.number}" + ("" if c.holds else " (fails)") for c in self.conditions)
        return f"{held} of {len(self.conditions)} conditions hold; {self.summary or listed}"

    def as_record(self) -> dict[str, Any]:
        """JSON form for the record file."""
        return {
            "claim": self.claim.id,
            "sentence": self.claim.sentence,
            "source": self.claim.source,
            "verdict": self.word,
            "evidence": self.evidence,
            "conditions": [asdict(c) for c in self.conditions],
        }


def all_claims() -> list[Claim]:
    """The claims of all papers, in the order of ``claims.yml``; raises ValueError where two have the same id."""
    table = yaml.safe_load(resources.files("advdef").joinpath("claims.yml").read_text("utf-8"))
    count = Counter(row["id"] for row in table)
    if twice := [id for id, times in count.items() if times > 1]:
        raise ValueError(f"claims.yml has more than one claim {', '.join(twice)}; keep one of each")
    return [Claim(**{**row, "datasets": tuple(row.get("datasets", ()))}) for row in table]


def claims(paper: str) -> dict[str, Claim]:
    """The claims of one paper by id; raises ValueError for an unknown paper, listing what exists."""
    every = all_claims()
    found = {claim.id: claim for claim in every if claim.paper == paper}
    if not found:
        raise ValueError(f"no claims of {paper!r}; papers: {', '.join(sorted({claim.paper for claim in every}))}")
    return found


def decide(claim: Claim, dataset: str, conditions: Sequence[Condition], *, summary: str = "") -> Verdict:
    """Supported when every condition holds, not supported when none does, partly in between.

    ``summary`` replaces the list of conditions in the one-line evidence.
    Not testable here when the claim is about other data sets, or when nothing was measured.
    """
    held = sum(condition.holds for condition in conditions)
    word: VerdictWord
    if not conditions or not claim.about(dataset):
        word = "not testable here"
    elif held == len(conditions):
        word = "supported"
    else:
        word = "partly" if held else "not supported"
    return Verdict(claim, dataset, word, tuple(conditions), summary)


def badge(word: VerdictWord) -> str:
    """A verdict as HTML.

    >>> badge("not testable here")
    '<span class="verdict not-testable">not testable here</span>'
    """
    kind = "not-testable" if word == "not testable here" else word.replace(" ", "-")
    return f'<span class="verdict {kind}">{word}</span>'
