"""The attack in feature space: make an image look, to a layer, like an image of another class."""

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn

from advdef.attacks._features import Features, ascend_features, typical
from advdef.attacks.losses import Goal
from advdef.contract import validate
from advdef.draws import fresh_seed, image_keys, uniform
from advdef.norms import BallNorm

__all__ = ["feature_adversary"]


@torch.inference_mode(False)
def feature_adversary(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    guides: Tensor,
    guide_labels: Tensor,
    layers: Sequence[str],
    network: nn.Module | None = None,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 5,
    random_start: bool = False,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Descend the distance of an image's features to those of a guide of another class.

    Adversarial manipulation of deep representations (https://arxiv.org/abs/1511.05122), by signed gradients instead of
    L-BFGS. For each image and restart a guide is drawn from ``guides`` (M, C, H, W) in [0, 1], labelled
    ``guide_labels`` (M,). The distance is the sum over ``layers`` of ``network`` (default ``model``; it runs inside
    ``model``) of the mean squared difference, relative to the mean size of the activation of the layer on the guide.
    What is returned is still the iterate of largest margin. The other options and the contract are those of
    :func:`advdef.attacks.pgd`.

    Raises ValueError for an unknown layer, guides of another shape, and a label for which there is no guide.
    """
    images, labels, _ = validate(images, labels, eps, norm=norm)
    guides, guide_labels, _ = validate(guides, guide_labels, 0.0)
    if guides.shape[1:] != images.shape[1:]:
        raise ValueError(f"guides must be like images, {tuple(images.shape[1:])}, not {tuple(guides.shape[1:])}")
    allowed = labels[:, None] != guide_labels.to(labels.device)
    if not bool(allowed.any(1).all()):
        raise ValueError(f"all guides are of class {int(guide_labels[0])}, which is the label of an image")

    seed, restart = fresh_seed(generator), count()

    def draw(rows: Tensor) -> Tensor:
        luck = uniform(image_keys(images[rows], seed, next(restart)), (len(guides),))
        drawn = luck.masked_fill(~allowed[rows], -1.0).argmax(1)
        return guides[drawn.to(guides.device)].to(images)

    def objective(step: int, seen: Features, kept: Features, logits: Tensor, goal: Goal) -> Tensor:
        value = torch.zeros_like(logits[:, 0])
        for layer, guide in kept.items():
            apart = (seen[layer] - guide).flatten(1) / typical(guide)[:, None]
            value = value - apart.square().mean(1)
        return value

    return ascend_features(
        model, images, labels, eps=eps, begin=lambda *_: objective, reference=draw, layers=layers, network=network,
        norm=norm, steps=steps, step_size=step_size, restarts=restarts, random_start=random_start,
        stop_early=stop_early, generator=generator,
    )  # fmt: skip
