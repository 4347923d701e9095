"""Trained networks compared: with each other, and by what goes with robustness."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advdef.contract import borrowed
from advdef.evaluation import Results
from advdef.papers.sensitivity.interventions import mean_activations
from advdef.statistics import Interval, over_seeds, paired_difference, partial_spearman, spearman

__all__ = ["Gain", "activity", "correlations", "gain_over"]

Network = tuple[str, int]
"""A training and its seed."""


class Gain(NamedTuple):
    """How much more robust accuracy one training gives than another, networks of one seed compared.

    ``over_seeds`` is Student's interval (would other networks differ too?), ``over_images`` the paired one (would
    other images?), ``by_seed`` the difference of each two networks.
    """

    over_seeds: Interval
    over_images: Interval
    by_seed: tuple[float, ...]


def gain_over(results: Results, method: str, other: str) -> Gain:
    """What one training gains over another.

    Of both, ``results`` have one row for each seed, with hits of the same images.
    Raises ValueError where a row is missing or more than one fits, and for fewer than two seeds.
    """
    seeds = results.select(defence=(method, other)).values("seed")
    mine, others = (torch.stack([results.hits(defence=k, seed=s) for s in seeds]) for k in (method, other))
    by_seed = tuple((mine.double().mean(1) - others.double().mean(1)).tolist())
    return Gain(over_seeds(by_seed), paired_difference(mine, others), by_seed)


def correlations(
    sensitivities: Mapping[str, Mapping[Network, float]],
    robust: Mapping[Network, float],
    *,
    activations: Mapping[Network, float],
    adversarial: Collection[Network],
) -> dict[str, Interval]:
    """Spearman's rank correlation of sensitivity, by definition, and robust accuracy, over the networks of ``robust``.

    For each definition: over all networks; the same with their mean activation partialled out, which is the scale of a
    network; and over those alone whose training was ``adversarial``. Raises as :func:`advdef.statistics.spearman` does.
    """
    accuracy, scale = torch.tensor(list(robust.values())), torch.tensor([activations[key] for key in robust])
    chosen, found = torch.tensor([key in adversarial for key in robust]), {}
    for label, levels in sensitivities.items():
        values = torch.tensor([levels[key] for key in robust])
        found[f"{label}, all"] = spearman(values, accuracy)
        found[f"{label}, all, activation partialled out"] = partial_spearman(values, accuracy, scale)
        found[f"{label}, adversarially trained"] = spearman(values[chosen], accuracy[chosen])
    return found


def activity(model: nn.Module, images: Tensor, layers: Sequence[str]) -> tuple[int, float]:
    """How many classes a network predicts at all on images (N, C, H, W), and its layers' mean activation.

    The latter is that on the first 200 images.
    """
    with borrowed(model, quiet=True), torch.no_grad():
        classes = len(model(images).argmax(1).unique())
    means = mean_activations(model, images[:200], layers)
    return classes, float(np.mean([float(values.mean()) for values in means.values()]))
