"""Everything that the search for holes tries: loss x gradient x start x rule, libraries, scores and decisions."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

from torch import nn

from advdef.attacks.attack import Attack, Suite
from advdef.attacks.composed import each_class
from advdef.attacks.finite_differences import spsa
from advdef.attacks.libraries.foolbox import boundary, carlini_wagner, ddn, deepfool, ead, hop_skip_jump
from advdef.attacks.libraries.pyautoattack import autoattack, fab, square
from advdef.attacks.wrappers import expectation
from advdef.defenses.base import Defense, is_random
from advdef.evaluation.holes.climbs import RULES, ClimbLoss, Points, climb
from advdef.evaluation.holes.gradients import Guide
from advdef.evaluation.holes.patches import PATTERNS, patches
from advdef.norms import BallNorm

__all__ = ["FAMILIES", "STARTS", "Family", "StartName", "Way", "all_ways"]

Family = Literal["climbs", "towards each class", "scores", "libraries", "decisions"]
StartName = Literal["the image", "a random point", "a corner", "the best so far", "a neighbour", "a neighbour's change",
                    "half the budget", "a relative"]  # fmt: skip

FAMILIES: tuple[Family, ...] = ("climbs", "scores", "towards each class", "libraries", "decisions")
"""Kinds of ways, each of which gets as many passes as the next."""

STARTS: tuple[StartName, ...] = (
    "the image", "a random point", "a corner", "the best so far", "a neighbour", "a neighbour's change",
    "half the budget", "a relative",
)  # fmt: skip
"""Where a way may begin."""

_QUERIES = 50  # of a gradient-free search, for each step of the others
_PAIRS = 16  # of answers in a step of SPSA
_FORWARD = 1 / 3  # what a pass without a gradient costs, in passes with one
_AUTOATTACK = 4_000  # passes of AutoAttack on what it cannot break
_DECISIONS = 1_000  # queries of an attack by decisions
_ONE_BY_ONE = 4_000  # passes that these are worth, as they ask about one point at a time


@dataclass(frozen=True, eq=False)
class Way:
    """One way to search, still without its length.

    Attributes:
        name: What it is, for people.
        family: Its kind.
        target: The model that it attacks.
        attack: The attack, without what :meth:`at` adds.
        price: The passes that a step costs for each image.
        fixed: The passes that it costs besides.
        start: Where it begins; None for one that chooses itself.
        counts: The name of the setting that says how long it is, and how much of that is a step.
        few: The most images that it is tried on at a time; None for any.
    """

    name: str
    family: Family
    target: nn.Module
    attack: Attack
    price: float = 0.0
    fixed: float = 0.0
    start: StartName | None = None
    counts: tuple[str, int] | None = ("steps", 1)
    few: int | None = None

    def passes(self, steps: int) -> float:
        """What it costs for each image, in passes of the defence."""
        return self.fixed + self.price * steps

    def at(self, steps: int, start: Points | None) -> Attack:
        """The attack with so many steps, from these points."""
        told: dict[str, object] = {} if self.counts is None else {self.counts[0]: self.counts[1] * steps}
        told |= {} if start is None else {"start": start}
        inner = self.attack.keywords.get("attack")
        if isinstance(inner, partial):
            return partial(self.attack, attack=partial(inner, **told))
        return partial(self.attack, **told)


def all_ways(
    defence: Defense, guides: dict[str, Guide], *, norm: BallNorm, classes: int, starts: tuple[StartName, ...],
    more: Suite | None = None,
) -> list[Way]:  # fmt: skip
    """Everything that can be tried on a defence, through each of the guides.

    Args:
        defence: What is attacked.
        guides: The models whose gradients are followed, by name.
        norm: "Linf" or "L2".
        classes: How many classes there are.
        starts: Those that exist for this defence.
        more: Further attacks, by name, which are run through each guide that costs no more than the defence.
    """
    asked = expectation(defence, 8) if is_random(defence) else defence
    queries = _QUERIES * (8 if is_random(defence) else 1) * _FORWARD
    return [
        *_climbs(guides, norm, classes, starts),
        *_scores(asked, norm, starts, queries),
        *_libraries(guides, norm, classes, random=is_random(defence), more=more or {}),
        *_decisions(asked, norm),
    ]


def _climbs(guides: dict[str, Guide], norm: BallNorm, classes: int, starts: tuple[StartName, ...]) -> Iterator[Way]:
    losses: tuple[ClimbLoss, ...] = ("ce", "margin", "dlr", "KL")
    for (label, guide), start, rule in product(guides.items(), starts, RULES):
        told = f"by {rule} through {label} from {start}"
        for loss in losses:
            attack = partial(climb, norm=norm, loss=loss, rule=rule)
            yield Way(f"{loss} {told}", "climbs", guide.model, attack, guide.price, start=start)
        for loss in losses[:3]:
            attack = partial(each_class, attack=partial(climb, norm=norm, loss=loss, rule=rule), classes=classes - 1)
            price = guide.price * (classes - 1)
            yield Way(
                f"{loss} towards each class {told}", "towards each class", guide.model, attack, price, start=start
            )


def _scores(asked: nn.Module, norm: BallNorm, starts: tuple[StartName, ...], price: float) -> Iterator[Way]:
    size = ("queries", _QUERIES)
    if _here("pyautoattack"):
        for number in range(3):  # with other draws each
            yield Way(f"Square, draws {number}", "scores", asked, partial(square, norm=norm), price, counts=size)
    if norm == "Linf":
        for pattern, start in product(PATTERNS, starts):
            name = f"squares from {start}" + ("" if pattern == "none" else f" under {pattern}")
            yield Way(name, "scores", asked, partial(patches, pattern=pattern), price, start=start, counts=size)
        for reach in (0.01, 0.1):  # inside a cell of a quantiser, and beyond
            estimated = partial(spsa, samples=_PAIRS, reach=reach)
            yield Way(f"SPSA of reach {reach:g}", "scores", asked, estimated, (2 * _PAIRS + 1) / _QUERIES * price)


def _libraries(guides: dict[str, Guide], norm: BallNorm, classes: int, *, random: bool, more: Suite) -> Iterator[Way]:
    for label, guide in guides.items():
        made = partial(Way, family="libraries", target=guide.model)
        if _here("foolbox"):
            halvings, each = 5, guide.price
            yield made(f"DeepFool through {label}", attack=partial(deepfool, norm=norm), price=each * classes)
            yield made(f"DDN through {label}", attack=partial(ddn, norm=norm), price=each)
            cw = partial(carlini_wagner, norm=norm, binary_search_steps=halvings)
            yield made(f"C&W through {label}", attack=cw, price=each * halvings)
            lasso = partial(ead, norm=norm, binary_search_steps=halvings)
            yield made(f"EAD through {label}", attack=lasso, price=each * halvings)
        if _here("pyautoattack"):
            towards = partial(fab, norm=norm, targeted=True)
            yield made(f"FAB through {label}", attack=towards, price=2 * guide.price * (classes - 1))
            if classes >= 4:
                version: Literal["standard", "rand"] = "rand" if random else "standard"
                whole = partial(autoattack, norm=norm, version=version)
                yield made(f"AutoAttack through {label}", attack=whole, fixed=_AUTOATTACK * guide.price, counts=None)
        if guide.price == 1:
            for name, attack in more.items():
                yield made(f"{name} through {label}", attack=attack, price=guide.price)


def _decisions(asked: nn.Module, norm: BallNorm) -> Iterator[Way]:
    if _here("foolbox"):
        made = partial(Way, family="decisions", target=asked, counts=None, few=4, fixed=_ONE_BY_ONE)
        yield made("HopSkipJump", attack=partial(hop_skip_jump, norm=norm, steps=5, first_evaluations=100))
        yield made("Boundary", attack=partial(boundary, norm=norm, steps=_DECISIONS))


def _here(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
