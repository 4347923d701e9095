"""One number of a claim: whether its interval holds, contradicts, or cannot tell, and what would tell."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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

__all__ = ["CLEAN", "ROBUST", "Attacker", "Condition", "ConditionWord", "pooled"]

ConditionWord = Literal["holds", "contradicted", "undecided"]
Attacker = Literal["", "oblivious", "direct", "adaptive"]
"""Whom a number was measured under; "" where no attack plays a part."""

CLEAN = 0.01
"""The smallest difference of clean accuracy that matters, where a rule gives no other margin."""

ROBUST = 0.03
"""The smallest difference of robust accuracy that matters, where a rule gives no other margin."""

_MANY = 10**9  # images, where a condition does not say how many
_CHANCE = 0.025  # of a 95 % interval that lies on the wrong side of a bound
_SIGN = {"above": 1, "below": -1}


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

    def widened(self, tests: int) -> "Condition":
        """The condition with its interval at the level of 5 % / ``tests``.

        The parts of networks and of images in its width grow by different factors, as there are fewer networks.
        """

        def growth(count: int | None) -> float:
            level, alone = (float(stdtrit((count or _MANY) - 1, 1 - chance)) for chance in (_CHANCE / tests, _CHANCE))
            return level / alone

        value, low, high = self.interval.value, self.interval.low, self.interval.high
        half, (seeds, images) = (high - low) / 2, self._halves
        wider = math.hypot(growth(self.seeds) * seeds if seeds else 0.0, growth(self.images) * images)
        factor = wider / half if half else 1.0
        return replace(self, interval=Interval(value, value - factor * (value - low), value + factor * (high - value)))

    @property
    def _halves(self) -> tuple[float, float]:
        """What other networks, and what other images, contribute to half of the interval's width.

        Where a condition over several networks does not say so, its interval is over these alone.
        """
        half = (self.interval.high - self.interval.low) / 2
        if self.half_seeds is not None:
            return self.half_seeds, math.sqrt(max(half**2 - self.half_seeds**2, 0.0))
        return (half, 0.0) if (self.seeds or 1) > 1 else (0.0, half)

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
    of_images = math.fsum(c._halves[1] for c in runs) / len(runs)
    value, half = between.value, math.hypot(of_seeds, of_images)
    images = [c.images for c in runs if c.images]
    interval = Interval(value, value - half, value + half)
    found = replace(
        first, interval=interval, images=min(images, default=None), seeds=len(runs),
        half_seeds=round(of_seeds, 6), needed_images=None, needed_seeds=None, number=f"{interval:+}",
    )  # fmt: skip
    return found._planned(Interval(value, value - of_images, value + of_images) if images else None, between)
