"""Claims of the papers, as ``claims.yml`` lists them, and the rules that decide them."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import yaml

from advdef.claims.conditions import Condition

__all__ = ["SOURCES", "Claim", "Rule", "all_claims", "claims", "rule"]

SOURCES = {"paper": "paper", "inferred": "implied; our wording", "secondary": "secondary source"}
"""How a page writes where a claim stands."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper that a run can decide.

    Attributes:
        id: Its name, as NIP-1.
        paper: The page that decides it.
        sentence: What it says.
        source: Where it stands: "paper", "inferred" (implied by the paper) or "secondary" (told by somebody else).
        decided_by: How it is decided, or why not, where no :class:`Rule` does.
        datasets: The data sets that it speaks of; none named are any.
        section: The anchor of the section on its page that decides it.
        robust: Whether it claims robustness: then it is supported against an attacker who knows the defence, or not.
        changes: Earlier rules: of each the date of the change, what the rule was, and why it is another one now.
    """

    id: str
    paper: str
    sentence: str
    source: Literal["paper", "inferred", "secondary"]
    decided_by: str = ""
    datasets: tuple[str, ...] = ()
    section: str = "verdicts"
    robust: bool = False
    changes: tuple[Mapping[str, str], ...] = ()

    def about(self, dataset: str) -> bool:
        """Whether the claim speaks of this data set."""
        return not self.datasets or dataset in self.datasets


def all_claims() -> list[Claim]:
    """The claims of all papers, in the order of ``claims.yml``; raises ValueError where two have the same id."""
    table = yaml.safe_load(resources.files("advdef").joinpath("claims.yml").read_text("utf-8"))
    count = Counter(row["id"] for row in table)
    if twice := [id for id, times in count.items() if times > 1]:
        raise ValueError(f"claims.yml has more than one claim {', '.join(twice)}; keep one of each")
    lists = ("datasets", "changes")
    return [Claim(**{**row, **{name: tuple(row.get(name, ())) for name in lists}}) for row in table]


def claims(paper: str) -> dict[str, Claim]:
    """The claims of one paper by id; raises ValueError for an unknown paper, listing what exists."""
    every = all_claims()
    found = {claim.id: claim for claim in every if claim.paper == paper}
    if not found:
        raise ValueError(f"no claims of {paper!r}; papers: {', '.join(sorted({claim.paper for claim in every}))}")
    return found


@dataclass(frozen=True)
class Rule:
    """How a claim is decided: a pure function of results, which gives the conditions of the claim.

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

    >>> from advdef.statistics import Interval
    >>> @rule("X-1")
    ... def falls(change: Interval) -> list[Condition]:
    ...     '''Accuracy under attack falls.'''
    ...     return [Condition.below("fall", change)]
    >>> falls.text, falls(Interval(-0.4, -0.5, -0.3))[0].word
    ('Accuracy under attack falls.', 'holds')
    """
    return lambda function: Rule(claim, function)
