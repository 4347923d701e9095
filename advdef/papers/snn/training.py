"""Trains a purifier in front of a frozen classifier, and spiking classifiers by regularised adversarial training.

Regularised adversarial training is a common baseline (SNN-RAT, https://openreview.net/forum?id=xwBdjfKt7_W): after each
step every weight matrix W is drawn towards rows that are orthonormal, W <- (1 + b) W - b W W^T W. Written from a
description of the method; its projection of skip weights has no counterpart in our networks.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.contract import check_frozen
from advdef.data import Split
from advdef.papers.snn.purifier import UNIT, Purifier
from advdef.training import Recipe, cached_pairs, fit, train_at
from advdef.training.pairs import attack_batch

__all__ = ["Losses", "asymmetric", "charbonnier", "orthogonalise", "roughness", "train_purifier", "train_rat"]


def charbonnier(difference: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt(d^2 + eps^2): the absolute value, rounded at zero."""
    return (difference.square() + eps**2).sqrt().mean()


def asymmetric(estimate: Tensor, truth: Tensor, alpha: float = 0.3) -> Tensor:
    """Mean of `|alpha - 1(|e| < |t|)| (e - t)^2`: with alpha below 1/2, too small an estimate costs more.

    CBDNet's loss (https://arxiv.org/abs/1807.04686, eq. 3), whose public re-implementations have the sides exchanged.
    Raises ValueError for an alpha outside (0, 1/2).

    >>> one = torch.ones(1)
    >>> [round(asymmetric(e * one, one).item(), 3) for e in (0.0, 2.0)]
    [0.7, 0.3]
    """
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 1/2, not {alpha}")
    under = (estimate.abs() < truth.abs()).to(estimate.dtype)
    return ((alpha - under).abs() * (estimate - truth).square()).mean()


def roughness(maps: Tensor) -> Tensor:
    """Total variation as CBDNet has it: the mean square of differences between neighbours, in each direction."""
    return maps.diff(dim=-1).square().mean() + maps.diff(dim=-2).square().mean()


@dataclass(frozen=True)
class Losses:
    """Weights: ``charbonnier`` + ``asymmetric`` + ``roughness`` (of the noise map) + ``divergence``.

    The divergence is KL(softmax C(x) || softmax C(P(x'))) of the frozen classifier C. That these four are added is told
    by a secondary source; the weights are CBDNet's and, for the divergence, ours. Raises ValueError for weights that
    are negative or not finite, and where neither Charbonnier nor divergence is left.
    """

    charbonnier: float = 1.0
    asymmetric: float = 0.5
    roughness: float = 0.05
    divergence: float = 0.1

    def __post_init__(self) -> None:
        weights = vars(self).values()
        if not all(0 <= weight < float("inf") for weight in weights) or self.charbonnier + self.divergence == 0:
            raise ValueError(f"weights must be finite and not negative, one of the images' above zero: {self}")


def train_purifier(
    model: Purifier,
    split: Split,
    *,
    generator: torch.Generator,
    classifier: nn.Module,
    recipe: Recipe,
    epochs: int,
    losses: Losses | None = None,
    end_to_end: bool = False,
    pairs_seed: int = 0,
    schedule: Any = "cosine",
    **options: Any,
) -> dict[str, Tensor]:
    """Minimise the ``losses`` over the purifier alone; returns ``{"loss": (epochs,)}``.

    Pairs are made on the classifier alone by ``recipe`` and cached (``pairs_seed`` draws them). With ``end_to_end``
    each batch is attacked when needed, through the purifier as it is then: adversarial training of the purifier. Labels
    serve the attack, and no loss. The weights are those after the last epoch: nothing is chosen.

    ``options`` go to :func:`advdef.training.loop.fit`.

    Raises ValueError for a classifier that is not frozen and for augmentation that is not the recipe's;
    TrainingDiverged when a loss is not finite.
    """
    check_frozen(classifier)
    if {"shift", "flip"} & options.keys():
        raise ValueError("images are moved and mirrored before they are attacked: give shift and flip to the recipe")
    weights = losses or Losses()

    def loss(network: Purifier, images: Tensor, clean: Tensor) -> Tensor:
        noise = network.extract(images)
        restored = network.restore(images, noise).float()
        total = weights.charbonnier * charbonnier(restored.clamp(0, 1) - clean)
        if network.extractor is not None:
            truth = (images - clean) / UNIT
            truth = truth.abs() if network.noise == "magnitude" else truth
            total = total + weights.asymmetric * asymmetric(noise.float(), truth)
            total = total + weights.roughness * roughness(noise.float())
        if weights.divergence:
            with torch.no_grad():
                wanted = classifier(clean).float().log_softmax(1)
            found = classifier(restored.clamp(0, 1)).float().log_softmax(1)
            total = total + weights.divergence * F.kl_div(found, wanted, reduction="batchmean", log_target=True)
        return total

    def cached(network: Any, both: Tensor, labels: Tensor) -> Tensor:
        images, clean = both.chunk(2, 1)
        return loss(network, images, clean)

    def fresh(network: Any, clean: Tensor, labels: Tensor) -> Tensor:
        whole = nn.Sequential(network, classifier)
        with torch.autocast(clean.device.type, enabled=False):
            images = attack_batch(whole, clean, labels, recipe, generator=generator)[0]
        return loss(network, images, clean)

    if end_to_end:
        options |= {"shift": recipe.shift, "flip": recipe.flip}
    else:
        split = cached_pairs(classifier, split, recipe, seed=pairs_seed).split()
    found = fit(
        model, split, epochs=epochs, generator=generator, objective=fresh if end_to_end else cached, schedule=schedule,
        **options,
    )  # fmt: skip
    return {"loss": torch.tensor(found)}


_MANY_ROWS = 200


def orthogonalise(model: nn.Module, beta: float, *, generator: torch.Generator | None = None) -> None:
    """One step for the weights of all convolutions and linear layers, in place.

    Of linear layers with 200 rows and more, 30 % of the rows take part, drawn anew each time. Raises ValueError for a
    beta that is negative or not finite.
    """
    _check_beta(beta)
    with torch.no_grad():
        for module in model.modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            rows = module.weight.flatten(1)
            if isinstance(module, nn.Linear) and len(rows) >= _MANY_ROWS:
                drawn = torch.randperm(len(rows), generator=generator)[: round(0.3 * len(rows))].to(rows.device)
                rows[drawn] = _drawn(rows[drawn], beta)
            else:
                module.weight.copy_(_drawn(rows, beta).view_as(module.weight))


def _check_beta(beta: float) -> None:
    """Raise ValueError for a beta that is negative or not finite."""
    if not 0 <= beta < float("inf"):
        raise ValueError(f"beta must be finite and not negative, not {beta}")


def _drawn(rows: Tensor, beta: float) -> Tensor:
    return (1 + beta) * rows - beta * rows @ rows.T @ rows


def train_rat(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    steps: int,
    epochs: int,
    generator: torch.Generator,
    beta: float = 5e-4,
    **options: Any,
) -> dict[str, Tensor]:
    """Adversarial training with orthogonal weights; ``options`` as in :func:`advdef.training.adversarial.train_at`.

    The original has no weight decay. Raises what ``train_at`` and :func:`orthogonalise` raise.
    """
    _check_beta(beta)
    follow = partial(orthogonalise, model, beta, generator=generator)
    return train_at(
        model, split, eps=eps, steps=steps, epochs=epochs, generator=generator, after_step=follow, **options
    )
