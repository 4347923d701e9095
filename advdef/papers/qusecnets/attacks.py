"""The level-space attack: a search over all that a hard quantiser can show its network.

For a hard quantiser Q and an Linf budget, a pixel can be given every level between Q(x - eps) and Q(x + eps), and no
other. So f(Q(.)) is as robust on the ball as f is on a box of discrete levels: the attack needs no gradient of Q, and
none can be masked. The evaluation of QuSecNets (https://arxiv.org/abs/1811.01437) has no such attack; it is ours.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor, nn

from advdef.attacks.losses import margin, wrong_classes
from advdef.contract import ask, borrowed, check_logits, slope, validate
from advdef.draws import fresh_seed, image_keys, uniform

__all__ = ["LevelMap", "level_space"]


_SINGLES, _PAIRED = 32, 12  # pixels whose changes are tried one by one, and two at a time


class LevelMap(Protocol):
    """What the attack needs to know of a quantiser; all tensors are (N, C, H, W), and a level is an output value."""

    def hard(self, images: Tensor) -> Tensor:
        """The level of each pixel."""

    def interval(self, images: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest level each pixel can reach within eps."""

    def snap(self, levels: Tensor) -> Tensor:
        """The nearest level that some pixel value is mapped to."""

    def preimage(self, images: Tensor, levels: Tensor) -> Tensor:
        """For each pixel, the nearest value that is mapped to the given level."""


@dataclass
class _Search:
    """The state of one attack: the box, and each image's best levels so far."""

    network: nn.Module
    quantizer: LevelMap
    labels: Tensor
    low: Tensor
    high: Tensor
    best: Tensor
    best_margin: Tensor

    def unbroken(self) -> Tensor:
        return torch.nonzero(self.best_margin <= 0)[:, 0]

    def keep(self, rows: Tensor, levels: Tensor, found: Tensor) -> None:
        """Remember ``levels`` of the images ``rows`` where their margin is the best so far."""
        better = found > self.best_margin[rows]
        self.best[rows] = torch.where(better[:, None, None, None], levels, self.best[rows])
        self.best_margin[rows] = torch.where(better, found, self.best_margin[rows])

    def slope(self, levels: Tensor, labels: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The margin (N,), and the gradient of it or, with a target class (N,), of that class's lead over the label."""
        levels = levels.detach().requires_grad_()
        with torch.enable_grad():  # the caller may have switched it off
            logits = ask(self.network, levels)
            found = value = margin(logits, labels)
            if target is not None:
                value = logits.gather(1, target[:, None]) - logits.gather(1, labels[:, None])
            gradient = slope(value.sum(), levels)
        return found.detach(), gradient

    def ascend(self, point: Tensor, *, steps: int, relaxed: bool, target: Tensor | None) -> None:
        """Steps by the sign of the gradient, from 1/4 down to 1/100 of the box, judged at the rounded levels.

        With ``relaxed`` the gradient is taken at the point between levels, else at the rounded levels.
        """
        rows = self.unbroken()
        point = point[rows]
        for step in range(steps):
            size = 0.25 * 0.04 ** (step / max(1, steps - 1))
            levels = self.quantizer.snap(point)
            wanted = None if target is None else target[rows]
            found, gradient = self.slope(point if relaxed else levels, self.labels[rows], wanted)
            if not relaxed:
                self.keep(rows, levels, found)
                going = found <= 0
                rows, point, gradient = rows[going], point[going], gradient[going]
            if len(rows) == 0:
                return
            low, high = self.low[rows], self.high[rows]
            point = torch.minimum(torch.maximum(point + size * (high - low) * gradient.sign(), low), high)
        with torch.no_grad():
            levels = self.quantizer.snap(point)
            self.keep(rows, levels, margin(ask(self.network, levels), self.labels[rows]))

    def repair(self, rounds: int) -> None:
        """Greedy changes: the pixels with the largest first-order gain go to an end of their range, 32 at a time, then
        fewer.
        """
        count = 32
        for _ in range(rounds):
            rows = self.unbroken()
            if len(rows) == 0:
                return
            levels, before = self.best[rows], self.best_margin[rows].clone()
            _, gradient = self.slope(levels, self.labels[rows])
            target = torch.where(gradient > 0, self.high[rows], self.low[rows])
            gain = (gradient * (target - levels)).flatten(1)
            chosen = torch.zeros_like(gain, dtype=torch.bool)
            chosen.scatter_(1, gain.topk(min(count, gain.shape[1]), 1).indices, True)
            flipped = torch.where((chosen & (gain > 0)).view_as(levels), target, levels)
            with torch.no_grad():
                self.keep(rows, flipped, margin(ask(self.network, flipped), self.labels[rows]))
            if not bool((self.best_margin[rows] > before).any()):
                if count == 1:
                    return
                count //= 2

    def exchange(self, rounds: int) -> None:
        """Ask about single pixels at an end of their range, and about pairs of them; go on from the best, if better.

        It finds what no single change by the gradient leads to. The pixels are those of the largest first-order gain,
        though that be negative.
        """
        for _ in range(rounds):
            rows = self.unbroken()
            if len(rows) == 0:
                return
            levels, before = self.best[rows], self.best_margin[rows].clone()
            _, gradient = self.slope(levels, self.labels[rows])
            ends = torch.stack([self.low[rows], self.high[rows]], 1).flatten(2)  # (M, 2, pixels)
            gain = gradient.flatten(1)[:, None] * (ends - levels.flatten(1)[:, None])
            gain = gain.masked_fill(ends == levels.flatten(1)[:, None], -torch.inf).flatten(1)
            likely = gain.topk(min(_SINGLES, gain.shape[1]), 1).indices
            end, pixel = ends.flatten(1).gather(1, likely), likely % ends.shape[2]
            few = min(_PAIRED, likely.shape[1])
            sets = [(one, one) for one in range(likely.shape[1])] + list(combinations(range(few), 2))
            for first, second in sets:
                moved = levels.flatten(1).clone()
                for place in (first, second):
                    moved.scatter_(1, pixel[:, place, None], end[:, place, None])
                moved = moved.view_as(levels)
                with torch.no_grad():
                    self.keep(rows, moved, margin(ask(self.network, moved), self.labels[rows]))
            if not bool((self.best_margin[rows] > before).any()):
                return


@torch.inference_mode(False)
def level_space(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    network: nn.Module,
    quantizer: LevelMap,
    steps: int = 40,
    restarts: int = 4,
    repairs: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack ``network`` behind a hard ``quantizer`` by searching over the levels that eps allows.

    The first restart begins at the image's own levels and ascends the margin. Each of the others begins at random
    levels of the box and ascends the lead of one wrong class, the most likely first (the margin again when all have had
    their turn); every second one takes its gradient between the levels instead of at them. Greedy changes of pixels
    follow, and in the end changes of single pixels and of pairs, each asked about. What is found is mapped back to
    pixels exactly. It is a heuristic: what it does not break may be breakable. On a linear network with as many
    restarts as classes the result is the optimum.

    Args:
        model: The defence: ``network`` after ``quantizer``.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Linf budget in pixel units; a number, or one per image (N,).
        network: Maps levels (N, C, H, W) to logits (N, K).
        quantizer: Maps pixels to levels.
        steps: Gradient steps in each restart, at least 1.
        restarts: Number of runs, at least 1.
        repairs: Rounds of greedy changes after each run, and at most so many of single pixels and pairs in the end.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`; an image leaves the batch once it is broken.
    """
    images, labels, budget = validate(images, labels, eps)
    if steps < 1 or restarts < 1 or repairs < 0:
        raise ValueError(f"need steps and restarts of at least 1, repairs not negative: {steps}, {restarts}, {repairs}")
    seed = fresh_seed(generator) if restarts > 1 else 0
    low, high = quantizer.interval(images, budget)
    with borrowed(model), borrowed(network):
        levels = quantizer.hard(images)
        with torch.no_grad():
            logits = ask(network, levels)
        check_logits(logits, labels)
        search = _Search(network, quantizer, labels, low, high, levels.clone(), margin(logits, labels))
        wrong = wrong_classes(logits, labels)
        for restart in range(restarts):
            if len(search.unbroken()) == 0:
                break
            point, target = levels, None
            if restart:
                noise = uniform(image_keys(images, seed, restart), levels.shape[1:], dtype=levels.dtype)
                point = low + noise * (high - low)
                target = wrong[:, restart - 1] if restart <= wrong.shape[1] else None
            search.ascend(point, steps=steps, relaxed=restart % 2 == 1, target=target)
            search.repair(repairs)
        search.exchange(repairs)
    return quantizer.preimage(images, search.best)
