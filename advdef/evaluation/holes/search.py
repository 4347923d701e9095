"""The search for holes: everything that can be tried, on the images that an adaptive attacker left, as time allows."""

import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from advdef.attacks.attack import Suite
from advdef.attacks.losses import margin
from advdef.contract import NaNGradientWarning, NoGradientWarning, ask, borrowed
from advdef.defenses.base import is_random, reseed
from advdef.draws import seeded
from advdef.evaluation.batches import Batches
from advdef.evaluation.crafting import craft
from advdef.evaluation.holes.climbs import Points
from advdef.evaluation.holes.gradients import guides
from advdef.evaluation.holes.judged import Hunt, Judged, Tried
from advdef.evaluation.holes.starts import Sources, begin
from advdef.evaluation.holes.ways import FAMILIES, StartName, Way, all_ways
from advdef.evaluation.judge import Judge, derived
from advdef.norms import BallNorm

__all__ = ["hunt"]

_STEPS, _MOST_STEPS = 20, 400
_BATCH = 250


def hunt(
    judged: Judged,
    *,
    eps: float,
    seed: int = 0,
    minutes: float | None = None,
    rounds: int | None = None,
    passes: int = 500,
    more: Suite | None = None,
    through: Mapping[str, nn.Module] | None = None,
    draws: int = 10,
    resume: Path | None = None,
    told: Callable[[str], None] | None = None,
) -> Hunt:
    """Search for adversarial images that the adaptive attacker of a page did not find at one budget.

    It tries all combinations of loss, gradient, start and rule for the steps, searches without gradients, and the
    libraries through each stand-in. In rounds: a round has twice as many steps as the one before, and in it each kind
    of way gets as many passes as the next. The images nearest to breaking come first; ways that have helped are tried
    again with more steps, in turn with ways that are new. What a seed begins with, and in which order, does not depend
    on the time: that only ends the search.

    Args:
        judged: The defence, the images, and what was left of them.
        eps: One of the budgets in ``judged.adaptive``.
        seed: Of all draws, and of the order.
        minutes: When to stop; None is never, before all is broken or ``rounds`` are over.
        rounds: How many rounds; None is any number.
        passes: What each kind of way may cost in the first round, in passes of the defence for each image; each further
            round has twice as many.
        more: Further attacks, by name, such as those of other libraries.
        through: Further stand-ins, by name, each with the defence's own values, whose gradients are followed as well.
        draws: Passes that judge a defence which draws random numbers.
        resume: A folder that keeps each result, so that the same search, begun again, goes on from there.
        told: Is given a line for each broken image.

    Raises ValueError for a budget that the page does not have, and where neither ``minutes`` nor ``rounds`` ends it.
    """
    if minutes is None and rounds is None:
        raise ValueError("a search needs an end: minutes or rounds")
    if eps not in judged.adaptive:
        raise ValueError(f"no budget {eps:g}; there are {', '.join(f'{e:g}' for e in judged.adaptive)}")
    search = _Search(judged, eps, seed, draws, resume, told)
    until = None if minutes is None else time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        for model in dict.fromkeys((judged.defence, *judged.relatives.values())):
            stack.enter_context(borrowed(model, quiet=True))
        stack.enter_context(warnings.catch_warnings())
        for category in (NoGradientWarning, NaNGradientWarning):
            warnings.simplefilter("ignore", category)
        ended = "nothing was left" if not len(search.rows()) else search.run(until, rounds, passes, more, through)
        return search.found(ended)


class _Search:
    """Where a search stands: for each image the best point, its margin on the deployed defence, and who broke it."""

    def __init__(
        self, judged: Judged, eps: float, seed: int, draws: int, resume: Path | None, told: Callable[[str], None] | None
    ) -> None:
        outcome = judged.adaptive[eps]
        self.judged, self.eps, self.seed, self.resume, self.told = judged, eps, seed, resume, told
        self.norm: BallNorm = outcome.norm  # type: ignore[assignment]  # pages judge in balls
        self.images, self.labels = judged.images, judged.labels
        self.draws = draws if is_random(judged.defence) else 0
        self.judge = Judge(
            judged.defence, self.images, self.labels, eps=eps, norm=outcome.norm, seed=seed, draws=self.draws,
            batch_size=_BATCH, folder=None,
        )  # fmt: skip
        self.left, self.broken = outcome.robust.clone(), torch.zeros_like(outcome.robust)
        self.best = self.images.clone()
        self.fallen = outcome.clean & ~outcome.robust  # those that others may learn from
        self.fallen_to = outcome.adversarial.to(self.images).clone()
        self.by: dict[int, str] = {}
        self.tried: list[Tried] = []
        self.times: dict[str, int] = {}
        self.gains: dict[str, int] = {}
        self.starts: dict[tuple[str, int, tuple[int, ...]], Points] = {}
        every = torch.arange(len(self.images), device=self.images.device)
        self.score = torch.full((len(self.images),), float("-inf"), device=self.images.device)
        rows = every[self.left]
        if len(rows):
            self.score[rows] = self._margins(self.images[rows], rows)

    def rows(self) -> Tensor:
        """The images that still stand, those nearest to breaking first."""
        rows = torch.nonzero(self.left & ~self.broken)[:, 0]
        return rows[self.score[rows].argsort(descending=True, stable=True)]

    def run(
        self, until: float | None, rounds: int | None, first: int, more: Suite | None,
        through: Mapping[str, nn.Module] | None,
    ) -> str:  # fmt: skip
        """Search until everything is broken or the time or the rounds are over; says which."""
        rows = self.rows()
        with seeded(self.seed, self.images.device):
            found = guides(self.judged.defence, self.images[rows], self.labels[rows], eps=self.eps, through=through)
            classes = ask(self.judged.defence, self.images[rows[:1]]).shape[1]
        plain = [guide.model for guide in found.values() if guide.price == 1]
        self.guide = plain[min(1, len(plain) - 1)] if plain else next(iter(found.values())).model
        ways = all_ways(
            self.judged.defence, found, norm=self.norm, classes=classes, starts=self._sources(rows).possible(),
            more=more,
        )  # fmt: skip
        order = torch.randperm(len(ways), generator=torch.Generator().manual_seed(self.seed)).tolist()
        ways = [ways[place] for place in order]
        for number in itertools.count():
            if rounds is not None and number >= rounds:
                return f"after {rounds} rounds"
            steps, passes = min(_STEPS * 2**number, _MOST_STEPS), first * 2**number
            standing = self.rows()
            half = (len(standing) + 1) // 2
            for group in (standing[:half], standing[half:]):
                for way in self._turn(ways, steps, passes):
                    rows = group[~self.broken[group]]
                    if len(rows) == 0:
                        break
                    if until is not None and time.monotonic() >= until:
                        return "the time was over"
                    self._try(way, steps, number, rows if way.few is None else rows[: way.few])
            if len(self.rows()) == 0:
                return "nothing was left"
        raise AssertionError

    def _turn(self, ways: list[Way], steps: int, passes: int) -> Iterator[Way]:
        """What is tried in a round: always of the kind that has had the fewest passes in it."""
        queues, spent = (
            {f: self._queue([w for w in ways if w.family == f]) for f in FAMILIES},
            dict.fromkeys(FAMILIES, 0.0),
        )
        while queues:
            family = min(queues, key=lambda name: spent[name])
            way = next((w for w in queues[family] if w.passes(steps) <= 2 * passes), None)
            if way is None or spent[family] >= passes:
                del queues[family]
                continue
            spent[family] += way.passes(steps)
            yield way

    def _queue(self, ways: list[Way]) -> Iterator[Way]:
        """New ways in turn with those that have helped most, and last those that have not."""
        new = [way for way in ways if way.name not in self.times]
        helped = sorted((w for w in ways if self.gains.get(w.name)), key=lambda w: -self.gains[w.name])
        idle = [way for way in ways if way.name in self.times and not self.gains[way.name]]
        for pair in itertools.zip_longest(new, helped):
            yield from (way for way in pair if way is not None)
        yield from idle

    def _try(self, way: Way, steps: int, number: int, rows: Tensor) -> None:
        """Run one way on some images, and keep what is better than all before it."""
        started = time.perf_counter()
        label = f"{way.name}, {steps} steps" if way.counts is not None else way.name
        seed = derived(self.seed, f"{number} {label}")
        start = None if way.start is None else self._start(way.start, number, rows, seed)
        found = craft(
            way.target, {label: way.at(steps, start)}, self.images[rows], self.labels[rows], eps=self.eps,
            norm=self.norm, generator=torch.Generator().manual_seed(seed), batch_size=_BATCH, resume=self.resume,
        )[label]  # fmt: skip
        margins = self._margins(found, rows)
        better = margins > self.score[rows]
        self.best[rows[better]], self.score[rows[better]] = found[better], margins[better]
        fell = self.judge.shares(found, "choose", rows) <= 0.5
        # what other passes, or another batch, do not confirm is no break
        fell[fell.clone()] = self.judge.shares(found[fell], "report", rows[fell]) <= 0.5
        self.broken[rows[fell]], self.fallen[rows[fell]] = True, True
        self.best[rows[fell]] = self.fallen_to[rows[fell]] = found[fell]
        for row in rows[fell].tolist():
            self.by[row] = label
            if self.told is not None:
                self.told(f"image {row} by {label}")
        self.times[way.name] = self.times.get(way.name, 0) + 1
        self.gains[way.name] = self.gains.get(way.name, 0) + int(better.sum()) + 1_000 * int(fell.sum())
        self.tried.append(Tried(way.name, steps, len(rows), int(fell.sum()), time.perf_counter() - started))

    def _start(self, name: StartName, number: int, rows: Tensor, seed: int) -> Points:
        """Where a way begins; starts that an attack leads to are the same for all ways of a round."""
        dear = name in ("half the budget", "a relative")
        seed = derived(self.seed, f"{number} {name}") if dear else seed
        asked = (name, seed, tuple(rows.tolist()))
        found = self.starts.get(asked)
        if found is None:
            with seeded(seed, self.images.device):
                found = begin(name, self._sources(rows), seed)
        if dear:
            self.starts[asked] = found
        return found

    def _margins(self, points: Tensor, rows: Tensor) -> Tensor:
        """How far each point is beyond the boundary of the deployed defence, the mean of its draws."""
        defence, seed = self.judged.defence, derived(self.seed, "choose")

        def of(part: Tensor) -> Tensor:
            reseed(defence, seed)
            with torch.no_grad(), seeded(seed, points.device):
                passes = [
                    margin(ask(defence, points[part]), self.labels[rows[part]]) for _ in range(max(1, self.draws))
                ]
            return torch.stack(passes).mean(0)

        return Batches(_BATCH)(of, torch.arange(len(points), device=points.device))

    def _sources(self, rows: Tensor) -> Sources:
        fallen = torch.nonzero(self.fallen)[:, 0]
        return Sources(
            self.images[rows], self.labels[rows], self.best[rows], self.images[fallen], self.labels[fallen],
            self.fallen_to[fallen], getattr(self, "guide", self.judged.defence),
            tuple(self.judged.relatives.values()), self.eps, self.norm,
        )  # fmt: skip

    def found(self, ended: str) -> Hunt:
        """What was found so far, with a word on the end."""
        return Hunt(self.left, self.broken, self.best, dict(self.by), tuple(self.tried), ended)
