"""Trains a purifier in front of a frozen classifier, and spiking classifiers by regularised adversarial training (RAT).

RAT is a common baseline (SNN-RAT, https://openreview.net/forum?id=xwBdjfKt7_W): after each training step every weight
matrix W is drawn towards orthonormal rows, W <- (1 + b) W - b W W^T W. Written from a description of the method; its
projection of skip weights has no counterpart in our networks.
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
    """Mean of sqrt(d^2 + eps^2) over the differences d: their absolute value, rounded off at zero."""
    return (difference.square() + eps**2).sqrt().mean()


def asymmetric(estimate: Tensor, truth: Tensor, alpha: float = 0.3) -> Tensor:
    """Mean of `|alpha - 1(|e| < |t|)| (e - t)^2` for estimate e and truth t: too small an estimate costs more.

    CBDNet's loss (https://arxiv.org/abs/1807.04686, eq. 3); its public re-implementations have the two sides exchanged.
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
    """Total variation as CBDNet has it: the mean square of differences between neighbours, for both directions."""
    return maps.diff(dim=-1).square().mean() + maps.diff(dim=-2).square().mean()


@dataclass(frozen=True)
class Losses:
    """Weights of the losses of a purifier.

    That these four are added is told by a secondary source; the weights are CBDNet's and, for the divergence, ours.
    Raises ValueError for weights that are negative or not finite, and where neither ``charbonnier`` nor ``divergence``
    is left.

    Attributes:
        charbonnier: Of the difference between the purified and the clean image.
        asymmetric: Of the noise map beside the true perturbation.
        roughness: Of the noise map.
        divergence: KL(softmax C(x) || softmax C(P(x'))), with the frozen classifier C and the purifier P.
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

    Labels serve the attack, and no loss. The weights are those after the last epoch: nothing is chosen.

    Args:
        model: The purifier, trained in place.
        split: Clean training images and labels.
        generator: Source of all random numbers but those of cached pairs.
        classifier: The frozen classifier.
        recipe: What is done to images before the purifier sees them.
        epochs: Passes over the images.
        losses: The weights of the losses. Default: ``Losses()``.
        end_to_end: Attack each batch when it is needed, through the purifier as it is then: adversarial training of the
            purifier. Default: read pairs from the cache, made on the classifier alone.
        pairs_seed: Seed of the cached pairs.
        schedule: What happens to the learning rate; see :func:`advdef.training.fit`.
        **options: Go to :func:`advdef.training.fit`.

    Raises ValueError for a classifier that is not frozen, and for ``shift`` or ``flip``, which belong to the recipe;
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
    """Draw the weights of all convolutions and linear layers one step towards orthonormal rows, in place.

    ``beta`` is the size of the step, b in the formula of the module. Of linear layers with 200 rows or more, 30 % of
    the rows take part, drawn anew each time. Raises ValueError for a beta that is negative or not finite.
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
    """Adversarial training with weights that are drawn towards orthonormal rows after each step.

    The original has no weight decay.

    Args:
        model: The network to train, in place.
        split: Training images and labels.
        eps: Linf budget of the inner attack, in pixel units.
        steps: Gradient steps of the inner attack, at least 1.
        epochs: Passes over the split.
        generator: Source of all random numbers.
        beta: Size of the draw towards orthonormal rows, finite and not negative; see :func:`orthogonalise`.
        **options: Go to :func:`advdef.training.train_at`; not ``after_step``, which is used here.

    Returns ``{"loss": (epochs,)}``. Raises what :func:`advdef.training.train_at` raises, and ValueError for another
    beta.
    """
    _check_beta(beta)
    follow = partial(orthogonalise, model, beta, generator=generator)
    return train_at(
        model, split, eps=eps, steps=steps, epochs=epochs, generator=generator, after_step=follow, **options
    )
