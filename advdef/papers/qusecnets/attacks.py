"""The level-space attack: exact search over what a hard quantiser can show its network.

For a hard quantiser Q and an Linf budget, every level between Q(x - eps) and Q(x + eps) is reachable and nothing else.
So the robustness of f(Q(.)) on the ball equals that of f on a box of discrete levels: no gradient of Q is needed, and
none can be masked. The evaluation of QuSecNets (https://arxiv.org/abs/1811.01437) has no such attack; it is ours.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from advdef.attacks.losses import margin, wrong_classes
from advdef.contract import ask, borrowed, check_logits, slope, validate
from advdef.draws import fresh_seed, image_keys, uniform

__all__ = ["LevelMap", "level_space"]


class LevelMap(Protocol):
    """What the attack needs to know of a quantiser; all tensors are (N, C, H, W)."""

    def hard(self, images: Tensor) -> Tensor:
        """The level of each pixel."""

    def interval(self, images: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest level each pixel can reach within eps."""

    def snap(self, levels: Tensor) -> Tensor:
        """The nearest level that has a pre-image."""

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
        """Margin (N,), and the gradient of it or of the lead of a target class (N,) over the label."""
        levels = levels.detach().requires_grad_()
        with torch.enable_grad():  # the caller may have switched it off
            logits = ask(self.network, levels)
            found = value = margin(logits, labels)
            if target is not None:
                value = logits.gather(1, target[:, None]) - logits.gather(1, labels[:, None])
            gradient = slope(value.sum(), levels)
        return found.detach(), gradient

    def ascend(self, point: Tensor, *, steps: int, relaxed: bool, target: Tensor | None) -> None:
        """Sign steps that shrink from 1/4 to 1/100 of the box, judged at the rounded levels."""
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
                self.keep(rows, flipped, margin(ask(self.network, flipped), self.labels[rows]))
            if not bool((self.best_margin[rows] > before).any()):
                if count == 1:
                    return
                count //= 2


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
    """Attack ``model`` = ``network`` after a hard ``quantizer`` in the space of levels.

    The first restart starts at the image's own levels and ascends the margin. The others start at random levels of the
    box and ascend the lead of one wrong class each, the most likely ones first (then the margin again); every second
    one takes its gradient at the relaxed point instead of at the rounded levels. ``repairs`` rounds of greedy flips
    follow each. What is found is mapped back to pixels by the exact pre-image. On a linear network with as many
    restarts as classes the result is the optimum.

    Contract as in :mod:`advdef.attacks.gradient`; an image leaves the batch once broken.
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
    return quantizer.preimage(images, search.best)
