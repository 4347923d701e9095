"""The level-space attack: exact search over what a hard quantiser can show its network.

For a hard quantiser Q and an Linf budget, every level between Q(x - eps) and Q(x + eps) is reachable and nothing else.
So the robustness of f(Q(.)) on the ball equals that of f on a box of discrete levels: no gradient of Q is needed, and
none can be masked. The evaluation of QuSecNets (https://arxiv.org/abs/1811.01437) has no such attack; it is ours.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from advdef.attacks._common import borrowed, check_labels, validate
from advdef.attacks.losses import margin

__all__ = ["LevelMap", "level_space"]


class LevelMap(Protocol):
    """What the attack needs to know of a quantiser; all tensors are (N, C, H, W)."""

    def hard(self, images: Tensor) -> Tensor:
        """The level of each pixel."""

    def interval(self, images: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest level each pixel can reach within eps."""

    def snap(self, levels: Tensor) -> Tensor:
        """The nearest level."""

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

    def slope(self, levels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Margin (N,) and its gradient with respect to the levels."""
        levels = levels.detach().requires_grad_()
        value = margin(self.network(levels), labels)
        (gradient,) = torch.autograd.grad(value.sum(), levels)
        return value.detach(), gradient

    def ascend(self, rows: Tensor, point: Tensor, *, steps: int, relaxed: bool) -> None:
        """Sign steps that shrink from 1/4 to 1/100 of the box, judged at the rounded levels."""
        for step in range(steps):
            size = 0.25 * 0.04 ** (step / max(1, steps - 1))
            levels = self.quantizer.snap(point)
            found, gradient = self.slope(point if relaxed else levels, self.labels[rows])
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
            self.keep(rows, levels, margin(self.network(levels), self.labels[rows]))

    def repair(self, rounds: int) -> None:
        """Greedy flips: the pixels of largest first-order gain go to an end of their range, 32 at a time down to 1."""
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
                self.keep(rows, flipped, margin(self.network(flipped), self.labels[rows]))
            if not bool((self.best_margin[rows] > before).any()):
                if count == 1:
                    return
                count //= 2


def level_space(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    network: nn.Module,
    quantizer: LevelMap,
    steps: int = 40,
    restarts: int = 3,
    repairs: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack ``model`` = ``network`` after a hard ``quantizer`` in the space of levels.

    The first restart starts at the image's own levels, the others at random levels of the box; every second one takes
    its gradient at the relaxed point instead of at the rounded levels. ``repairs`` rounds of greedy flips follow each.
    What is found is mapped back to pixels by the exact pre-image.

    Contract as in :mod:`advdef.attacks.gradient`; an image leaves the batch once broken.
    """
    validate(images, labels, eps)
    images = images.detach()
    low, high = quantizer.interval(images, eps)
    with borrowed(model), borrowed(network):
        levels = quantizer.hard(images)
        with torch.no_grad():
            logits = network(levels)
        check_labels(labels, logits)
        search = _Search(network, quantizer, labels, low, high, levels.clone(), margin(logits, labels))
        for restart in range(restarts):
            rows = search.unbroken()
            if len(rows) == 0:
                break
            point = levels[rows]
            if restart:
                noise = torch.rand(point.shape, generator=generator, dtype=point.dtype).to(point.device)
                point = low[rows] + noise * (high[rows] - low[rows])
            search.ascend(rows, point, steps=steps, relaxed=restart % 2 == 1)
            search.repair(repairs)
    return quantizer.preimage(images, search.best)
