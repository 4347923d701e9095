"""Evaluation of defences that draw random numbers: an image counts by the share of draws in which it is right.

:func:`advdef.evaluation.evaluate` counts an image as broken once one pass of the defence was wrong. With a randomised
defence that rewards trying often: a coin is wrong sooner or later, whatever the attack. So is the smallest of several
means over a few draws lower than any true mean. Here the attack of each image is chosen by some draws and judged by
others.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from advdef.attacks._balls import Norm, spread
from advdef.attacks._common import validate
from advdef.attacks._types import norm_of
from advdef.defenses.base import Defense
from advdef.evaluation import Attempt, check_sound, correct
from advdef.statistics import Z95, Interval

__all__ = ["Survival", "survival"]


@dataclass(frozen=True, eq=False)
class Survival:
    """What is left of a randomised defence at one eps (in ``norm``) on N images."""

    eps: float
    draws: int
    clean: Tensor  # (N,) share of the draws that are right without an attack
    shares: Tensor  # (N,) the same, in the same draws, under the worst attempt on each image
    attempts: tuple[tuple[str, float], ...]  # each attempt's name and mean share over all images, as tried
    norm: Norm = "Linf"

    @property
    def accuracy(self) -> Interval:
        """Mean of ``shares``, with an interval over images."""
        return _mean(self.shares)


def survival(
    defence: Defense,
    attempts: Iterable[Attempt],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    draws: int = 10,
    norm: Norm = "Linf",
    batch_size: int = 250,
) -> Survival:
    """Run each attempt once on every image (N, C, H, W) in [0, 1] with labels (N,); judge by fresh passes.

    Each result is judged by ``draws`` passes of the defence. The worst attempt on an image, no attack among them, is
    the one with the fewest right; of equals the last, as cheap attacks go first. Another ``draws`` passes of that
    choice are reported. The choice may miss the truly worst attempt by chance, which more draws make rarer.

    A defence with ``reseed(seed)`` meets every attempt with the same random numbers: those seen while an attack is
    crafted, while attempts are compared, and in the report are three sequences. Seeds come from ``generator``, which
    the attacks share.

    Raises UnsoundAttack when an attack leaves its budget, and ValueError for no draws or an attack in another norm.
    """
    validate(images, labels, eps, unbounded=True)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    crafting, choosing, reporting = torch.randint(2**31, (3,), generator=generator).tolist()
    reseed: Callable[[int], None] = getattr(defence, "reseed", lambda seed: None)

    def judged(candidates: Tensor, seed: int) -> Tensor:
        reseed(seed)
        passes = [correct(defence, candidates, labels, batch_size=batch_size) for _ in range(draws)]
        return torch.stack(passes).double().mean(0)

    worst, fewest, means = images, judged(images, choosing), []
    for name, attack, target in ((a.name, a.attack, a.target) for a in attempts):
        if math.isfinite(eps) and norm_of(attack) not in (None, norm):
            raise ValueError(f"{name} is an attack in {norm_of(attack)}, and eps is a size in {norm}")
        reseed(crafting)
        batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        found = torch.cat([attack(target, x, y, eps=eps, generator=generator).detach() for x, y in batches])
        check_sound(name, images, found, eps=eps, norm=norm)
        right = judged(found, choosing)
        means.append((name, float(right.mean())))
        worst, fewest = torch.where(spread(right <= fewest), found, worst), torch.minimum(right, fewest)
    return Survival(eps, draws, judged(images, reporting), judged(worst, reporting), tuple(means), norm)


def _mean(values: Tensor) -> Interval:
    """Mean of values (N,) in [0, 1], whose interval has no zero width where all are alike.

    Two pseudo-images at 0 and two at 1, as Agresti and Coull (The American Statistician 52, 1998) add to a proportion.
    """
    n = len(values) + 4
    centre = (float(values.sum()) + 2) / n
    half = Z95 * math.sqrt(((float((values**2).sum()) + 2) / n - centre**2) / n)
    return Interval(float(values.mean()), max(0.0, centre - half), min(1.0, centre + half))
