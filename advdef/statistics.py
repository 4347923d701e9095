"""Intervals for accuracies and for differences between paired accuracies."""

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Interval", "independent_difference", "paired_difference", "wilson"]

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self}"

    def __format__(self, spec: str) -> str:
        """In percent or points: ``f"{interval}"`` -> ``"93.0 [89.6, 95.4]"``; ``f"{interval:+}"`` keeps the sign."""
        sign = "+" if spec == "+" else ""
        return f"{100 * self.value:{sign}.1f} [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"


def wilson(correct: int, total: int, *, z: float = Z95) -> Interval:
    """Wilson score interval of a proportion (E. B. Wilson, JASA 22, 1927), at 95 % unless ``z`` says otherwise.

    Raises ValueError unless 0 <= correct <= total and total > 0.

    >>> f"{wilson(93, 100)}"
    '93.0 [86.3, 96.6]'
    """
    if total <= 0 or not 0 <= correct <= total:
        raise ValueError(f"need 0 <= correct <= total and total > 0, not {correct} of {total}")
    share, z2 = correct / total, z**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # exactly 0 and 1 at the ends, where rounding would leave a trace
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == total else centre + half
    return Interval(share, low, high)


def independent_difference(treated: Interval, control: Interval) -> Interval:
    """Difference of two independent proportions from their Wilson intervals, at the level of those.

    Newcombe's method 10 (Statistics in Medicine 17, 1998).

    >>> f"{independent_difference(wilson(90, 100), wilson(80, 100)):+}"
    '+10.0 [+0.0, +19.9]'
    """
    value = treated.value - control.value
    low = value - math.hypot(treated.value - treated.low, control.high - control.value)
    high = value + math.hypot(treated.high - treated.value, control.value - control.low)
    return Interval(value, low, high)


def paired_difference(treated: Tensor, control: Tensor) -> Interval:
    """Mean of ``treated - control`` over the same images, with an interval that respects the pairing.

    Both are (N,) booleans (correct or not), or (S, N) for S seeds, which are averaged per image first: the interval is
    over images, for these seeds. The adjusted Wald interval of Agresti and Min (Statistics in Medicine 24, 2005): half
    a pseudo-image in each of the four cells, so that it stays honest near 0 and 1. Raises ValueError for unequal shapes
    or no images.

    >>> import torch
    >>> f"{paired_difference(torch.ones(100, dtype=bool), torch.zeros(100, dtype=bool)):+}"
    '+100.0 [+94.7, +100.0]'
    """
    if treated.shape != control.shape or treated.numel() == 0:
        raise ValueError(f"need two results on the same images, not {tuple(treated.shape)} and {tuple(control.shape)}")
    difference = (treated.double() - control.double()).reshape(-1, treated.shape[-1]).mean(0)
    n = len(difference) + 2
    centre = float(difference.sum()) / n
    variance = (float((difference**2).sum()) + 1) / n - centre**2
    half = Z95 * math.sqrt(max(variance, 0.0) / n)
    return Interval(float(difference.mean()), max(-1.0, centre - half), min(1.0, centre + half))
