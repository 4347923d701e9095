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

from advdef.devices import exact
from advdef.statistics import (
    Interval,
    detectable,
    images_to_decide,
    mean_interval,
    over_seeds,
    over_seeds_and_images,
    paired_difference,
    seeds_to_decide,
)

__all__ = [
    "CLEAN", "ROBUST", "SOURCES", "Attacker", "Claim", "Condition", "ConditionWord", "Rule", "Verdict", "VerdictWord",
    "all_claims", "badge", "claims", "decide", "expected_wrong", "pooled", "rule",
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
        needed_seeds: How many would bring the interval to ± the margin, where it is undecided for want of networks.
        half_seeds: What other networks alone contribute to half of the interval's width.
        number: The interval as a page shows it.

    Numbers are rounded to six digits, as a record keeps them. An interval that is not finite tells nothing.
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
    half_seeds: float | None = None
    number: str = ""

    def __post_init__(self) -> None:
        ends = vars(self.interval).values()
        if all(map(math.isfinite, ends)):
            object.__setattr__(self, "interval", Interval(*(round(end, 6) for end in ends)))
        else:
            object.__setattr__(self, "interval", Interval(self.bound, self.bound - 1, self.bound + 1))
            object.__setattr__(self, "number", "no number could be computed")

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

        >>> Condition.above("lead", Interval(0.011, -0.084, 0.106)).told
        'lead: +1.1 [-8.4, +10.6], wanted above 0, cannot be told'
        >>> Condition.above("lead", Interval(0.011, -0.084, 0.106), seeds=3).told.partition("told ")[2]
        '(only a difference of 13.6 would show); 9 networks would bring it to ± 3'
        """
        said = {"holds": "holds", "contradicted": "contradicted", "undecided": "cannot be told"}[self.word]
        small = f"no difference that matters (± {100 * self.margin:g})"
        if self.word == "contradicted" and self.interval.low < self.bound < self.interval.high:
            said = small
        elif (
            self.word == "holds"
            and self.bound == 0
            and max(abs(self.interval.low), abs(self.interval.high)) < self.margin
        ):
            said = f"holds, but is {small}"
        tail = ""
        if self.word == "undecided" and (self.images or self.seeds):
            said += f" (only a difference of {100 * detectable(self.interval):.1f} would show)"
            images = f"; about {self.needed_images:,} images would tell" if self.needed_images else ""
            networks = (
                f"{self.needed_seeds:,} networks would bring it to ± {100 * self.margin:g}" if self.needed_seeds else ""
            )
            tail = images + (f"{' and ' if images else '; '}{networks}" if networks else "")
        return f"{self.what}: {self.number}, wanted {self.side} {100 * self.bound:g}, {said}{tail}"

    @classmethod
    def above(
        cls, what: str, interval: Interval, bound: float = 0.0, *, margin: float = ROBUST, case: str = "",
        attacker: Attacker = "", images: int | None = None, seeds: int | None = None,
        show: Callable[[Interval], str] = "{:+}".format,
    ) -> "Condition":  # fmt: skip
        """The whole interval lies above ``bound``.

        Args:
            what: What was measured, as "TRN − image only, PGD".
            interval: The number with its 95 % interval.
            bound: What it is compared with.
            margin: The smallest difference that would matter, in the unit of the interval; 0 where there is none.
            case: Which case of the claim this belongs to; "" belongs to all.
            attacker: Whom it was measured under.
            images: How many images are behind the interval; an undecided condition then says how many would decide it.
            seeds: How many trained networks are behind it, likewise. For an interval over both, use :meth:`compare`.
            show: Writes the number.
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

        Args:
            what: What was measured, as "TRN − image only, PGD".
            treated: Hits (N,); or (S, N) of S trained networks, for whose interval other networks and other images
                count.
            control: Hits of the control on the same images, of the same shape.
            bound: By how much more, as a share.
            margin: The smallest difference that would matter, as a share; 0 where there is none.
            case: Which case of the claim this belongs to; "" belongs to all.
            attacker: Whom it was measured under.
        """
        over_images, networks = paired_difference(treated, control), len(treated) if treated.dim() == 2 else 1
        interval, between = over_images, None
        if networks > 1:
            interval = over_seeds_and_images(treated, control)
            between = over_seeds((exact(treated) - exact(control)).mean(1).tolist())
        found = cls(
            what, interval, bound, margin=margin, case=case, attacker=attacker, images=treated.shape[-1],
            seeds=networks, half_seeds=None if between is None else round((between.high - between.low) / 2, 6),
            number=f"{interval:+}",
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
        taken = (exact(clean).mean() - exact(bare).mean()).item()
        if taken <= 0:
            return cls(what, Interval(0.0, -1.0, 1.0), case=case, attacker=attacker, number="nothing was taken")
        beyond = mean_interval(exact(treated) - (exact(clean) + exact(bare)) / 2)
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
        if self.word != "undecided" or not all(
            map(math.isfinite, vars(over_images or over_seeds or self.interval).values())
        ):
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
            if seeds is not None and seeds <= self.seeds:
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


def pooled(runs: Sequence[Condition]) -> Condition:
    """One condition from those of runs with other networks on the same images: the mean of their numbers.

    To the half-width of Student's interval over the runs that over images, the mean of the runs', is added in squares;
    that over the networks of a run is left out, as the first holds it. Raises ValueError where they do not speak of
    the same.

    >>> runs = [Condition.above("lead", Interval(x, x - 0.03, x + 0.03), images=1000) for x in (0.10, 0.12, 0.11)]
    >>> print(pooled(runs).told)
    lead: +11.0 [+7.1, +14.9], wanted above 0, holds
    """
    first = runs[0]
    if len({(c.what, c.bound, c.side, c.margin, c.case, c.attacker) for c in runs}) != 1:
        raise ValueError(f"{first.what}: these numbers are not of one condition")
    if len(runs) == 1:
        return first
    between = over_seeds([c.interval.value for c in runs])
    of_seeds = (between.high - between.low) / 2
    of_images = math.fsum(_halves(c)[1] for c in runs) / len(runs)
    value, half = between.value, math.hypot(of_seeds, of_images)
    images = [c.images for c in runs if c.images]
    interval = Interval(value, value - half, value + half)
    found = replace(
        first, interval=interval, images=min(images, default=None), seeds=len(runs),
        half_seeds=round(of_seeds, 6), needed_images=None, needed_seeds=None, number=f"{interval:+}",
    )  # fmt: skip
    return found._planned(Interval(value, value - of_images, value + of_images) if images else None, between)


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
                    told = self._told(
                        [c for c in self.conditions if c.case in ("", *names)], word, named=len(names) > 1
                    )
                    parts.append(f"{word} for {' and '.join(names)} ({told})")
            return "; ".join(parts)
        if self.word == "undecided" and all(c.word == "holds" for c in self.conditions):
            return f"{self._count}; but no attacker who knows the defence was tried"
        role = {"supported": "the closest", "contradicted": "against it"}.get(self.word, "open")
        told = self._told(self.conditions, self.word, named=True)
        return f"{self._count}; {role}: {told}" if len(self.conditions) > 1 else told

    def _told(self, conditions: Sequence[Condition], word: VerdictWord, *, named: bool) -> str:
        """The number that decides most clearly, with its case where that is not said already."""
        first = _deciding(conditions, word)[0]
        chance = word == "undecided" and first.word == "contradicted"
        why = f", which may be chance in one of {len(self.conditions)} numbers" if chance else ""
        where = f"{first.case}: " if named and first.case and first.case not in first.what else ""
        return f"{where}{first.told}{why}"

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
    condition contradicts a claim, and each might by chance, those that contradict it have to do so in Hochberg's
    step-up test (Biometrika 75, 1988) at 2.5 %: of m, one alone by an interval at the level of 5 % / m, all of them by
    their own. Of several cases: mixed where the claim is contradicted in some and supported in others, in one at least
    by intervals at the level of 5 % divided by their number; else contradicted where it is so in any, supported where
    it is so in all. A claim of robustness that no attacker who knows the defence has tested is undecided. Not testable
    here when the claim is about other data sets, or when nothing was measured.
    """
    conditions = tuple(conditions)
    if not conditions or not claim.about(dataset):
        return Verdict(claim, dataset, "not testable here", conditions)
    cases = _cases(conditions)
    words = set(cases.values())
    word: VerdictWord = "mixed" if "contradicted" in words and _surely(conditions, cases) else _worst(words)
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
    against = _against(conditions)
    found: dict[str, VerdictWord] = {}
    for name in names:
        needed = [c for c in conditions if c.case in ("", name)]
        supported: VerdictWord = "supported" if all(c.word == "holds" for c in needed) else "undecided"
        found[name] = "contradicted" if any(c in against for c in needed) else supported
    return found


def _against(conditions: Sequence[Condition]) -> list[Condition]:
    """Those that are contradicted beyond chance, by Hochberg's step-up test."""
    alone = [c for c in conditions if c.word == "contradicted"]
    for tests in range(1, len(conditions) + 1):
        found = [c for c in alone if _widened(c, tests).word == "contradicted"]
        if len(found) > len(conditions) - tests:
            return found
    return []


def _surely(conditions: Sequence[Condition], cases: Mapping[str, VerdictWord]) -> bool:
    """Whether a case is supported that would be so with intervals at the level of 5 % / the number of cases."""
    return any(
        all(_widened(c, len(cases)).word == "holds" for c in conditions if c.case in ("", name))
        for name, word in cases.items()
        if word == "supported"
    )


def _widened(condition: Condition, tests: int) -> Condition:
    """The condition with its interval at the level of 5 % / tests; the parts of networks and of images grow apart."""

    def growth(count: int | None) -> float:
        level, alone = (float(stdtrit((count or _MANY) - 1, 1 - chance)) for chance in (_CHANCE / tests, _CHANCE))
        return level / alone

    value, low, high = condition.interval.value, condition.interval.low, condition.interval.high
    half, (seeds, images) = (high - low) / 2, _halves(condition)
    wider = math.hypot(growth(condition.seeds) * seeds if seeds else 0.0, growth(condition.images) * images)
    factor = wider / half if half else 1.0
    return replace(condition, interval=Interval(value, value - factor * (value - low), value + factor * (high - value)))


def _halves(condition: Condition) -> tuple[float, float]:
    """What other networks, and what other images, contribute to half of the interval's width.

    Where a condition over several networks does not say so, its interval is over these alone.
    """
    half = (condition.interval.high - condition.interval.low) / 2
    if condition.half_seeds is not None:
        return condition.half_seeds, math.sqrt(max(half**2 - condition.half_seeds**2, 0.0))
    return (half, 0.0) if (condition.seeds or 1) > 1 else (0.0, half)


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
