"""Intervals for accuracies, for paired differences and their test, for means, and for rank correlations."""

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import scipy
import torch
from scipy.special import stdtrit
from torch import Tensor

from advdef.devices import exact

__all__ = [
    "Interval",
    "McNemar",
    "detectable",
    "images_to_decide",
    "mcnemar",
    "mean_interval",
    "mean_share",
    "over_seeds",
    "over_seeds_and_images",
    "paired_difference",
    "partial_spearman",
    "rank_correlation",
    "seeds_to_decide",
    "spearman",
    "wilson",
]

Z95 = 1.959963984540054
_POWER = 0.8416212335729143  # with this much beyond it, an effect is found in 80 % of runs
_MOST = 10_000  # seeds


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


def wilson(correct: int, total: int) -> Interval:
    """Wilson score interval of a proportion (E. B. Wilson, JASA 22, 1927).

    Written out, as ``scipy.stats.binomtest(...).proportion_ci("wilson")``, which gives the same, takes 300 times as
    long: it also computes an exact test. Raises ValueError unless 0 <= correct <= total and total > 0.

    >>> f"{wilson(93, 100)}"
    '93.0 [86.3, 96.6]'
    """
    if total <= 0 or not 0 <= correct <= total:
        raise ValueError(f"need 0 <= correct <= total and total > 0, not {correct} of {total}")
    share, z2 = correct / total, Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # exactly 0 and 1 at the ends, where rounding would leave a trace
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == total else centre + half
    return Interval(share, low, high)


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
    difference = (exact(treated) - exact(control)).reshape(-1, treated.shape[-1]).mean(0)
    n = len(difference) + 2
    centre = float(difference.sum()) / n
    variance = (float((difference**2).sum()) + 1) / n - centre**2
    half = Z95 * math.sqrt(max(variance, 0.0) / n)
    return Interval(float(difference.mean()), max(-1.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class McNemar:
    """How many images only one of two treatments gets right, and the p-value of that imbalance."""

    only_treated: int
    only_control: int
    p: float


def mcnemar(treated: Tensor, control: Tensor) -> McNemar:
    """Are two results on the same images right equally often? McNemar's exact two-sided test (Psychometrika 12, 1947).

    Both are (N,) booleans, correct or not. Where they differ, which one is right should be the toss of a fair coin; p
    is 1 where they differ nowhere. Raises TypeError for other dtypes and ValueError for other or unequal shapes.

    >>> import torch
    >>> mcnemar(torch.tensor([True] * 10 + [False]), torch.tensor([False] * 10 + [True]))
    McNemar(only_treated=10, only_control=1, p=0.01171875)
    """
    if treated.dtype != torch.bool or control.dtype != torch.bool:
        raise TypeError(f"need booleans, correct or not, not {treated.dtype} and {control.dtype}")
    if treated.shape != control.shape or treated.dim() != 1:
        raise ValueError(f"need two results on the same images, not {tuple(treated.shape)} and {tuple(control.shape)}")
    first, second = int((treated & ~control).sum()), int((control & ~treated).sum())
    differ = first + second
    return McNemar(first, second, float(scipy.stats.binomtest(first, differ).pvalue) if differ else 1.0)


def mean_interval(values: Tensor) -> Interval:
    """Mean of one number per image (N,) with Student's 95 % interval; NaN, where there was none, is skipped.

    Raises ValueError for another shape, for an infinite value and for fewer than two numbers.

    >>> import torch
    >>> f"{mean_interval(torch.tensor([0.01, float('nan'), 0.03, 0.02])):+}"
    '+2.0 [-0.5, +4.5]'
    """
    kept = values[~values.isnan()]
    if values.dim() != 1 or len(kept) < 2 or not bool(kept.isfinite().all()):
        shape = tuple(values.shape)
        raise ValueError(f"need (N,) finite numbers, at least two besides NaN, not {len(kept)} besides NaN in {shape}")
    return over_seeds(kept.tolist())


def mean_share(values: Tensor, passes: Tensor | None = None) -> Interval:
    """Mean of values (N,) in [0, 1], whose interval has no zero width where all are alike.

    Two pseudo-images at 0 and two at 1, as Agresti and Coull (The American Statistician 52, 1998) add to a proportion.
    Values that are shares of the same random ``passes`` (K,) vary with these too, by Student's t: one draw may decide
    for all images at once.
    """
    n = len(values) + 4
    centre = (float(values.sum()) + 2) / n
    squared = Z95**2 * ((float((values**2).sum()) + 2) / n - centre**2) / n
    if passes is not None and len(passes) > 1:
        squared += scipy.stats.t.ppf(0.975, len(passes) - 1) ** 2 * float(exact(passes).var()) / len(passes)
    half = math.sqrt(squared)
    return Interval(float(values.mean()), max(0.0, centre - half), min(1.0, centre + half))


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean of one number per trained network, with Student's 95 % interval for the mean of all such networks.

    Raises ValueError for fewer than two values.

    >>> f"{over_seeds([0.01, 0.03, 0.02]):+}"
    '+2.0 [-0.5, +4.5]'
    """
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs at least two, not {len(values)}")
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def over_seeds_and_images(treated: Tensor, control: Tensor) -> Interval:
    """Mean of ``treated - control``, both (S, N) on the same N images, for other trained networks *and* other images.

    The images are the same for all networks, so both vary at once. The half-widths of Student's interval over networks
    and of :func:`paired_difference` over images are added in squares, less the interaction of both, which each of them
    holds (the method of variance estimates recovery, G. Y. Zou and A. Donner, Statistics in Medicine 27, 2008).
    tests/test_statistics.py simulates how often it is wrong. Raises ValueError for fewer than two networks, and as
    :func:`paired_difference` does.

    >>> import torch
    >>> treated = torch.tensor([[True] * 90 + [False] * 10, [True] * 80 + [False] * 20, [True] * 85 + [False] * 15])
    >>> f"{over_seeds_and_images(treated, torch.zeros(3, 100)):+}"
    '+85.0 [+70.9, +99.1]'
    """
    over_images = paired_difference(treated, control)
    if treated.dim() != 2 or len(treated) < 2:
        raise ValueError(f"need (S, N) with at least two networks, not {tuple(treated.shape)}")
    table = exact(treated) - exact(control)
    (seeds, images), mean = table.shape, float(table.mean())
    by_seed, by_image = table.mean(1), table.mean(0)
    rest = table - by_seed[:, None] - by_image[None, :] + mean
    interaction = float((rest**2).sum()) / ((seeds - 1) * max(images - 1, 1) * seeds * images)
    of_seeds = float(stdtrit(seeds - 1, 0.975)) ** 2 * float(by_seed.var()) / seeds
    of_images = ((over_images.high - over_images.low) / 2) ** 2
    half = math.sqrt(max(of_seeds + of_images - Z95**2 * interaction, of_seeds, of_images))
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half))


def detectable(interval: Interval) -> float:
    """The smallest true difference that an interval of this width would find in 80 % of runs (power 80 %).

    >>> round(detectable(Interval(0.0, -0.062, 0.062)), 3)
    0.089
    """
    return (Z95 + _POWER) / Z95 * (interval.high - interval.low) / 2


def images_to_decide(interval: Interval, images: int, *, margin: float) -> int:
    """How many images would find a difference as large as ``margin`` in 80 % of runs, by the spread seen on ``images``.

    The interval is one over images. For hits with a share d of images on which two results differ, this is 7.85 d /
    margin². Raises ValueError unless the margin is above zero.

    >>> images_to_decide(Interval(0.0, -0.062, 0.062), 100, margin=0.03)
    873
    """
    if margin <= 0:
        raise ValueError(f"a margin is above zero, not {margin}")
    deviation = (interval.high - interval.low) / (2 * Z95) * math.sqrt(images)
    return math.ceil(((Z95 + _POWER) * deviation / margin) ** 2)


def seeds_to_decide(interval: Interval, seeds: int, *, margin: float) -> int | None:
    """How many trained networks would bring Student's interval to ± ``margin``, by the spread seen over ``seeds``.

    None where ten thousand would not. Raises ValueError for fewer than two seeds, and unless the margin is above zero.

    >>> seeds_to_decide(Interval(0.011, -0.084, 0.106), 3, margin=0.03)
    9
    """
    if margin <= 0 or seeds < 2:
        raise ValueError(f"need a margin above zero and at least two seeds, not {margin} and {seeds}")

    def t(k: int) -> float:
        return float(stdtrit(k - 1, 0.975))

    deviation = (interval.high - interval.low) / 2 * math.sqrt(seeds) / t(seeds)
    return next((k for k in range(2, _MOST) if t(k) * deviation / math.sqrt(k) <= margin), None)


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's rank correlation of two samples (N,), with average ranks for ties; NaN where one is constant.

    Raises ValueError for unequal shapes, fewer than three points or NaN.

    >>> import torch
    >>> round(rank_correlation(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 8.0, 27.0, 26.0])), 6)
    0.8
    """
    return float(_correlation(_columns(x, y)))


def spearman(
    x: Tensor, y: Tensor, *, groups: Sequence[Hashable] | None = None, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Rank correlation of two samples (N,) with a percentile bootstrap interval, over points drawn anew as pairs.

    The interval takes the points for independent. Where they are not, as networks of one training are, ``groups`` names
    the group of each point: then whole groups are drawn anew, as many as there are. Resamples without a correlation
    (one sample constant) do not count. Raises as :func:`rank_correlation` does, for fewer than one resample, and for
    groups that are not one for each point.

    >>> import torch
    >>> steps = torch.arange(20.0)
    >>> found = spearman(steps, -(steps**2))
    >>> round(found.value, 6), round(found.low, 6), round(found.high, 6)
    (-1.0, -1.0, -1.0)
    """
    return _bootstrap(_columns(x, y), groups, resamples, seed)


def partial_spearman(
    x: Tensor, y: Tensor, control: Tensor, *, groups: Sequence[Hashable] | None = None, resamples: int = 2000,
    seed: int = 0,
) -> Interval:  # fmt: skip
    """What :func:`spearman` is of ``x`` and ``y`` once the ranks of ``control`` (N,) are partialled out of both.

    NaN where ``control`` has the order of ``x`` or of ``y``, or the reverse: nothing is left to correlate.
    """
    return _bootstrap(_columns(x, y, control), groups, resamples, seed)


def _columns(*samples: Tensor) -> Tensor:
    """Samples (N,) as the rows of one table, on the CPU."""
    shapes = [tuple(sample.shape) for sample in samples]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or len(samples[0]) < 3:
        raise ValueError(f"need samples of one shape (N,) with N >= 3, not {', '.join(map(str, shapes))}")
    table = torch.stack([exact(sample).cpu() for sample in samples])
    if bool(table.isnan().any()):
        raise ValueError("NaN has no rank")
    return table


def _bootstrap(table: Tensor, groups: Sequence[Hashable] | None, resamples: int, seed: int) -> Interval:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    if groups is not None and len(groups) != table.shape[1]:
        raise ValueError(f"need a group for each of {table.shape[1]} points, not {len(groups)}")
    members = dict[Hashable, list[int]]()
    for point, group in enumerate(range(table.shape[1]) if groups is None else groups):
        members.setdefault(group, []).append(point)
    drawn = torch.randint(len(members), (resamples, len(members)), generator=torch.Generator().manual_seed(seed))
    points, by_size = list(members.values()), dict[int, list[list[int]]]()
    for draw in drawn.tolist():  # groups need not be of one size, so neither are resamples
        resample = [point for group in draw for point in points[group]]
        by_size.setdefault(len(resample), []).append(resample)
    found = torch.cat([_correlation(table[:, torch.tensor(rows)]) for rows in by_size.values()])
    ends = torch.tensor([0.025, 0.975], dtype=table.dtype)
    low, high = torch.nanquantile(found, ends).tolist()
    return Interval(float(_correlation(table)), low, high)


def _correlation(table: Tensor) -> Tensor:
    """Rank correlation of two samples along the last axis; of a third one, what it explains is taken out of both.

    NaN where a sample is constant, and where the third one leaves rounding alone.
    """
    ranks = torch.from_numpy(scipy.stats.rankdata(table, axis=-1))
    centred = ranks - ranks.mean(-1, keepdim=True)
    x, y, *control = centred / torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    found = (x * y).sum(-1)
    for z in control:
        xz, yz = (x * z).sum(-1), (y * z).sum(-1)
        left = torch.minimum(1 - xz**2, 1 - yz**2)
        found = (found - xz * yz) / ((1 - xz**2) * (1 - yz**2)).sqrt().where(left > 1e-12, math.nan)
    return found.clamp(-1, 1)
