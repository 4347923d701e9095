"""Trained networks compared: with each other, and by what goes with robustness."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advdef.contract import borrowed
from advdef.devices import exact
from advdef.evaluation import Results
from advdef.papers.sensitivity.interventions import mean_activations
from advdef.statistics import Interval, over_seeds, over_seeds_and_images, partial_spearman, spearman

__all__ = ["Gain", "activity", "correlations", "gain_over", "relative_change"]

Network = tuple[str, int]
"""A training and its seed."""


class Gain(NamedTuple):
    """How much more robust accuracy one training gives than another, networks of one seed compared.

    ``interval`` is for other networks and other images, ``by_seed`` the difference of each two networks.
    """

    interval: Interval
    by_seed: tuple[float, ...]


def gain_over(results: Results, method: str, other: str) -> Gain:
    """What one training gains over another.

    Of both, ``results`` have one row for each seed, with hits of the same images.
    Raises ValueError where a row is missing or more than one fits, and for fewer than two seeds.
    """
    seeds = results.select(defence=(method, other)).values("seed")
    mine, others = (torch.stack([results.hits(defence=k, seed=s) for s in seeds]) for k in (method, other))
    by_seed = tuple((exact(mine).mean(1) - exact(others).mean(1)).tolist())
    return Gain(over_seeds_and_images(mine, others), by_seed)


def relative_change(levels: Mapping[Network, float], method: str, other: str) -> Interval:
    """By what share a positive number is larger for networks of one training than of another, seed by seed.

    -0.5 means half as large. The interval is Student's, of the logarithm of the ratio over the seeds that both have.
    Raises ValueError for fewer than two.

    >>> relative_change({("AT", 0): 1.0, ("AT", 1): 1.0, ("standard", 0): 4.0, ("standard", 1): 4.0}, "AT", "standard")
    Interval(value=-0.75, low=-0.75, high=-0.75)
    """
    both = [s for k, s in levels if k == method and (other, s) in levels]
    logs = over_seeds([math.log(levels[method, s] / levels[other, s]) for s in both])
    return Interval(*(math.expm1(end) for end in (logs.value, logs.low, logs.high)))


def correlations(
    sensitivities: Mapping[str, Mapping[Network, float]],
    robust: Mapping[Network, float],
    *,
    activations: Mapping[Network, float],
    adversarial: Collection[Network],
) -> dict[str, Interval]:
    """Spearman's rank correlation of sensitivity, by its name, and robust accuracy, over the networks of ``robust``.

    For each sensitivity: over all networks; the same with their mean activation partialled out, which is the scale of a
    network; and over those alone whose training was ``adversarial``. Networks of one training are not independent, so
    that the bootstrap draws trainings anew. Raises as :func:`advdef.statistics.spearman` does.
    """
    accuracy, scale = torch.tensor(list(robust.values())), torch.tensor([activations[key] for key in robust])
    chosen, trainings = torch.tensor([key in adversarial for key in robust]), [k for k, _ in robust]
    some, found = [k for k, s in robust if (k, s) in adversarial], {}
    for label, levels in sensitivities.items():
        values = torch.tensor([levels[key] for key in robust])
        found[f"{label}, all"] = spearman(values, accuracy, groups=trainings)
        found[f"{label}, all, activation partialled out"] = partial_spearman(values, accuracy, scale, groups=trainings)
        found[f"{label}, adversarially trained"] = spearman(values[chosen], accuracy[chosen], groups=some)
    return found


def activity(model: nn.Module, images: Tensor, layers: Sequence[str]) -> tuple[int, float]:
    """How many classes a network predicts at all on images (N, C, H, W), and its layers' mean activation.

    The latter is that on the first 200 images.
    """
    with borrowed(model, quiet=True), torch.no_grad():
        classes = len(model(images).argmax(1).unique())
    means = mean_activations(model, images[:200], layers)
    return classes, float(np.mean([float(values.mean()) for values in means.values()]))
