"""Claims of the papers, the rules that decide them, and the verdicts that a run gives."""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Literal, get_args

import yaml
from scipy.special import stdtrit
from torch import Tensor

from advdef.statistics import (
    Interval,
    images_to_decide,
    mean_interval,
    over_seeds,
    over_seeds_and_images,
    paired_difference,
    seeds_to_decide,
)

__all__ = [
    "CLEAN", "ROBUST", "SOURCES", "Attacker", "Claim", "Condition", "ConditionWord", "Rule", "Verdict", "VerdictWord",
    "all_claims", "badge", "claims", "decide", "expected_wrong", "rule",
]  # fmt: skip

ConditionWord = Literal["holds", "contradicted", "undecided"]
VerdictWord = Literal["supported", "mixed", "undecided", "contradicted", "not testable here"]
Attacker = Literal["", "oblivious", "direct", "adaptive"]
"""Whom a number was measured under; "" where no attack plays a part."""

CLEAN = 0.01
"""The smallest difference of clean accuracy that matters, where a rule gives no other margin."""

ROBUST = 0.03
"""The smallest difference of robust accuracy that matters, where a rule gives no other margin."""

SOURCES = {"paper": "paper", "inferred": "implied; our wording", "secondary": "secondary source"}
"""How a page writes where a claim stands."""

_MANY = 10**9  # images, where a condition does not say how many
_CHANCE = 0.025  # of a 95 % interval that lies on the wrong side of a bound
_SIGN = {"above": 1, "below": -1}


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


@dataclass(frozen=True)
class Condition:
    """One thing that a claim says, with the interval that decides it.

    It *holds* when the whole interval lies on the wanted side of the bound, and is *contradicted* when it lies on the
    other. Where the bound is zero the claim speaks of a difference, and is contradicted, too, by an interval
    within ± ``margin``: what difference there may be does not matter. Else it is *undecided*.

    Attributes:
        what: What was measured, as "TRN − image only, PGD".
        interval: The number with its 95 % interval.
        bound: What it is compared with.
        side: Where it should lie, "above" or "below" the bound.
        margin: The smallest difference that would matter, in the unit of the interval; 0 where there is none.
        case: Which case of the claim this belongs to, where the claim speaks of several; "" belongs to all.
        attacker: Whom it was measured under.
        images: How many images are behind the interval.
        seeds: How many trained networks are.
        needed_images: How many would decide it, where it is undecided for want of images.
        needed_seeds: The same of networks.
        number: The interval as a page shows it.
    """

    what: str
    interval: Interval
    bound: float = 0.0
    side: Literal["above", "below"] = "above"
    margin: float = ROBUST
    case: str = ""
    attacker: Attacker = ""
    images: int | None = None
    seeds: int | None = None
    needed_images: int | None = None
    needed_seeds: int | None = None
    number: str = ""

    @property
    def word(self) -> ConditionWord:
        """Whether it holds, is contradicted, or cannot be told from this interval."""
        if self._slack > 0:
            return "holds"
        low, high = self.interval.low - self.bound, self.interval.high - self.bound
        beyond = (high if self.side == "above" else -low) < 0
        alike = self.bound == 0 and -self.margin < low and high < self.margin
        return "contradicted" if beyond or alike else "undecided"

    @property
    def _slack(self) -> float:
        """How far the whole interval is on the wanted side; negative where it is not."""
        near = self.interval.low if self.side == "above" else self.interval.high
        return _SIGN[self.side] * (near - self.bound)

    @property
    def told(self) -> str:
        """The condition in a phrase: what was measured, the number, the bound, and what would decide it.

        >>> Condition.above("TRN − image only", Interval(0.011, -0.084, 0.106), seeds=3).told
        'TRN − image only: +1.1 [-8.4, +10.6], wanted above 0, cannot be told; about 9 seeds would tell'
        """
        said = {"holds": "holds", "contradicted": "contradicted", "undecided": "cannot be told"}[self.word]
        if self.word == "contradicted" and self.interval.low < self.bound < self.interval.high:
            said = f"no difference that matters (± {100 * self.margin:g})"
        needs = [
            f"{count:,} {unit}"
            for count, unit in ((self.needed_images, "images"), (self.needed_seeds, "seeds"))
            if count is not None and self.word == "undecided"
        ]
        tail = f"; about {' and '.join(needs)} would tell" if needs else ""
        return f"{self.what}: {self.number}, wanted {self.side} {_show(self.bound)}, {said}{tail}"

    @classmethod
    def above(
        cls, what: str, interval: Interval, bound: float = 0.0, *, margin: float = ROBUST, case: str = "",
        attacker: Attacker = "", images: int | None = None, seeds: int | None = None,
        show: Callable[[Interval], str] = "{:+}".format,
    ) -> "Condition":  # fmt: skip
        """The whole interval lies above ``bound``.

        ``images`` or ``seeds`` say over how many the interval is, and what would decide it is told in these; over both,
        use :meth:`compare`. ``show`` writes the number.
        """
        found = cls(what, interval, bound, "above", margin, case, attacker, images, seeds, number=show(interval))
        return found._planned(interval if seeds is None else None, interval if seeds is not None else None)

    @classmethod
    def below(cls, what: str, interval: Interval, bound: float = 0.0, **more: Any) -> "Condition":
        """The whole interval lies below ``bound``; the arguments are those of :meth:`above`."""
        found = replace(cls.above(what, interval, bound, **more), side="below", needed_images=None, needed_seeds=None)
        return found._planned(interval if found.seeds is None else None, interval if found.seeds is not None else None)

    @classmethod
    def compare(
        cls, what: str, treated: Tensor, control: Tensor, bound: float = 0.0, *, margin: float = ROBUST,
        case: str = "", attacker: Attacker = "",
    ) -> "Condition":  # fmt: skip
        """More of the same images are right than under a control, by more than ``bound``.

        Hits are (N,), or (S, N) of S trained networks, for whose interval other networks and other images count.
        """
        over_images, networks = paired_difference(treated, control), len(treated) if treated.dim() == 2 else 1
        interval, between = over_images, None
        if networks > 1:
            interval = over_seeds_and_images(treated, control)
            between = over_seeds((treated.double() - control.double()).mean(1).tolist())
        found = cls(
            what, interval, bound, margin=margin, case=case, attacker=attacker, images=treated.shape[-1],
            seeds=networks, number=f"{interval:+}",
        )  # fmt: skip
        return found._planned(over_images, between)

    @classmethod
    def half_given_back(
        cls, what: str, treated: Tensor, *, bare: Tensor, clean: Tensor, case: str = "", attacker: Attacker = ""
    ) -> "Condition":
        """At least half of the accuracy that an attack took is given back.

        All are hits (N,) on the same images: of ``clean`` ones the attack left ``bare``, and now it is ``treated``. The
        number is what is given back beyond that half, in points. Where nothing was taken, nothing is told.
        """
        taken = (clean.double().mean() - bare.double().mean()).item()
        if taken <= 0:
            return cls(what, Interval(0.0, -1.0, 1.0), case=case, attacker=attacker, number="nothing was taken")
        beyond = mean_interval(treated.double() - (clean.double() + bare.double()) / 2)
        gain = paired_difference(treated, bare).value
        # where all images agree, the interval has no width: one more image of either kind keeps it honest
        low, high = min(beyond.low, beyond.value - 1 / len(bare)), max(beyond.high, beyond.value + 1 / len(bare))
        interval = Interval(beyond.value, low, high)
        found = cls(
            what, interval, margin=0.0, case=case, attacker=attacker, images=len(bare), seeds=1,
            number=f"{100 * gain:+.1f} of {100 * taken:.1f} points, {interval:+} beyond half",
        )  # fmt: skip
        return found._planned(interval, None, margin=ROBUST)

    def _planned(
        self, over_images: Interval | None, over_seeds: Interval | None, *, margin: float | None = None
    ) -> "Condition":
        """The condition with what would decide it, by its spread over images and over seeds."""
        if self.word != "undecided":
            return self
        matters = margin or self.margin or abs(self.interval.value - self.bound)
        distance = abs(self.interval.value - self.bound)
        images = seeds = None
        if over_images is not None and self.images and matters > 0:
            images = images_to_decide(over_images, self.images, margin=matters)
            if images <= self.images:  # it is close to the bound: what would an interval this far from it take?
                half = (over_images.high - over_images.low) / 2
                images = math.ceil(self.images * (half / distance) ** 2) if distance else None
        if over_seeds is not None and self.seeds and self.seeds > 1 and matters > 0:
            seeds = seeds_to_decide(over_seeds, self.seeds, margin=matters)
            if seeds <= self.seeds:
                seeds = seeds_to_decide(over_seeds, self.seeds, margin=distance) if distance else None
        return replace(
            self,
            needed_images=images if images and images > (self.images or 0) else None,
            needed_seeds=seeds if seeds and seeds > (self.seeds or 0) else None,
        )

    def as_record(self) -> dict[str, Any]:
        """JSON form for the record file."""
        numbers = {name: round(value, 6) for name, value in vars(self.interval).items()}
        told = {name: value for name, value in vars(self).items() if name != "interval" and value not in ("", None)}
        return told | numbers | {"word": self.word}

    @classmethod
    def from_record(cls, told: Mapping[str, Any]) -> "Condition":
        """The condition that :meth:`as_record` wrote; its word follows from its numbers, and is not read."""
        rest = {name: value for name, value in told.items() if name not in ("value", "low", "high", "word")}
        return cls(interval=Interval(told["value"], told["low"], told["high"]), **rest)


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

    >>> @rule("X-1")
    ... def falls(change: Interval) -> list[Condition]:
    ...     '''Accuracy under attack falls.'''
    ...     return [Condition.below("fall", change)]
    >>> falls.text, falls(Interval(-0.4, -0.5, -0.3))[0].word
    ('Accuracy under attack falls.', 'holds')
    """
    return lambda function: Rule(claim, function)


@dataclass(frozen=True)
class Verdict:
    """A claim with the word that its conditions give and the numbers behind it."""

    claim: Claim
    dataset: str
    word: VerdictWord
    conditions: tuple[Condition, ...]

    @property
    def evidence(self) -> str:
        """The numbers that decide, in one sentence."""
        if self.word == "not testable here":
            about = f"the claim is about {', '.join(self.claim.datasets)}"
            return about if self.conditions else self.claim.decided_by or "nothing was measured"
        cases = _cases(self.conditions)
        if len(cases) > 1 and len(set(cases.values())) > 1:
            parts = []
            for word in get_args(VerdictWord):
                names = [case for case, found in cases.items() if found == word]
                if names:
                    (first, *_) = _deciding([c for c in self.conditions if c.case in ("", names[0])], word)
                    parts.append(f"{word} for {' and '.join(names)} ({first.told})")
            return "; ".join(parts)
        if self.word == "undecided" and all(c.word == "holds" for c in self.conditions):
            return f"{self._count}; but no attacker who knows the defence was tried"
        first = _deciding(self.conditions, self.word)[0]
        chance = self.word == "undecided" and first.word == "contradicted"
        why = f", which may be chance in one of {len(self.conditions)} numbers" if chance else ""
        role = {"supported": "the closest", "contradicted": "against it"}.get(self.word, "open")
        where = f"{first.case}: " if first.case else ""
        told = f"{where}{first.told}{why}"
        return f"{self._count}; {role}: {told}" if len(self.conditions) > 1 else told

    @property
    def _count(self) -> str:
        counts, total = Counter(c.word for c in self.conditions), len(self.conditions)
        if len(counts) == 1:
            (word,) = counts
            if total == 1:
                return "the number holds" if word == "holds" else f"the number is {word}"
            return f"{'both' if total == 2 else f'all {total}'} numbers {'hold' if word == 'holds' else f'are {word}'}"
        many = [f"{counts[word]} {word}" for word in ("holds", "contradicted", "undecided") if counts[word]]
        return f"of {total} numbers {', '.join(many)}".replace("holds", "hold" if counts["holds"] > 1 else "holds")

    @property
    def attacker(self) -> Attacker:
        """The strongest attacker behind the numbers."""
        order: tuple[Attacker, ...] = get_args(Attacker)
        return max((c.attacker for c in self.conditions), key=order.index, default="")

    @property
    def images(self) -> int | None:
        """The fewest images behind any number."""
        return min((c.images for c in self.conditions if c.images), default=None)

    @property
    def seeds(self) -> int | None:
        """The fewest trained networks behind any number."""
        return min((c.seeds for c in self.conditions if c.seeds), default=None)

    def as_record(self) -> dict[str, Any]:
        """JSON form for the record file."""
        return {
            "claim": self.claim.id,
            "sentence": self.claim.sentence,
            "source": self.claim.source,
            "verdict": self.word,
            "evidence": self.evidence,
            "attacker": self.attacker,
            "images": self.images,
            "seeds": self.seeds,
            "conditions": [c.as_record() for c in self.conditions],
        }


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


def decide(claim: Claim, dataset: str, conditions: Sequence[Condition]) -> Verdict:
    """The verdict that conditions give.

    In each case of the claim: contradicted where a condition is, supported where all hold, else undecided. As any one
    condition contradicts a claim, and each might by chance, all intervals are widened for that to the level of 5 %
    divided by the number of the claim's conditions (Bonferroni). Of several cases: mixed where the claim is supported
    in some and contradicted in others, else contradicted where it is so in any, supported where it is so in all. A
    claim of robustness that no attacker who knows the defence has tested is undecided. Not testable here when the claim
    is about other data sets, or when nothing was measured.
    """
    conditions = tuple(conditions)
    if not conditions or not claim.about(dataset):
        return Verdict(claim, dataset, "not testable here", conditions)
    words = set(_cases(conditions).values())
    word: VerdictWord = "mixed" if {"supported", "contradicted"} <= words else _worst(words)
    if word == "supported" and claim.robust and not any(c.attacker == "adaptive" for c in conditions):
        word = "undecided"
    return Verdict(claim, dataset, word, conditions)


def expected_wrong(words: Iterable[VerdictWord]) -> float:
    """How many of these verdicts chance alone would get wrong, at most: 2.5 % of those that say something.

    That holds for a claim that needs all of its conditions, and, as intervals are widened for it, for one that any of
    its conditions contradicts.
    """
    return _CHANCE * sum(word in ("supported", "contradicted", "mixed") for word in words)


def badge(word: VerdictWord) -> str:
    """A verdict as HTML.

    >>> badge("not testable here")
    '<span class="verdict not-testable">not testable here</span>'
    """
    kind = "not-testable" if word == "not testable here" else word
    return f'<span class="verdict {kind}">{word}</span>'


def _cases(conditions: Sequence[Condition]) -> dict[str, VerdictWord]:
    """The word of each case; conditions without a case count in all."""
    names = list(dict.fromkeys(c.case for c in conditions if c.case)) or [""]
    found: dict[str, VerdictWord] = {}
    for name in names:
        needed = [c for c in conditions if c.case in ("", name)]
        supported: VerdictWord = "supported" if all(c.word == "holds" for c in needed) else "undecided"
        against = [c for c in needed if c.word == "contradicted"]
        contradicted = any(_widened(c, len(conditions)).word == "contradicted" for c in against)
        found[name] = "contradicted" if contradicted else supported
    return found


def _widened(condition: Condition, tests: int) -> Condition:
    """The condition with its interval at the level of 5 % / tests."""
    several = condition.seeds is not None and condition.seeds > 1
    count = condition.seeds if several else condition.images
    level, alone = (float(stdtrit((count or _MANY) - 1, 1 - chance)) for chance in (_CHANCE / tests, _CHANCE))
    factor = level / alone
    value, low, high = condition.interval.value, condition.interval.low, condition.interval.high
    return replace(condition, interval=Interval(value, value - factor * (value - low), value + factor * (high - value)))


def _worst(words: set[VerdictWord]) -> VerdictWord:
    order: tuple[VerdictWord, ...] = ("contradicted", "undecided", "supported")
    return next(word for word in order if word in words)


def _deciding(conditions: Iterable[Condition], word: VerdictWord) -> list[Condition]:
    """The conditions that give the word, the clearest first; of those that all hold the closest to the bound."""
    wanted: dict[str, set[ConditionWord]] = {
        "supported": {"holds"}, "contradicted": {"contradicted"}, "undecided": {"undecided", "contradicted"}
    }  # fmt: skip
    found = [c for c in conditions if c.word in wanted[word]]

    def clear(c: Condition) -> float:
        width = c.interval.high - c.interval.low
        return abs(c.interval.value - c.bound) / width if width else math.inf

    return sorted(found, key=clear, reverse=word == "contradicted")


def _show(bound: float) -> str:
    return f"{100 * bound:+g}" if bound else "0"
