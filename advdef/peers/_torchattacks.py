"""Attacks of torchattacks."""

from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal
from advdef.norms import Norm
from advdef.peers._library import believed, module

__all__ = [
    "torchattacks_carlini_wagner",
    "torchattacks_deepfool",
    "torchattacks_jsma",
    "torchattacks_mim",
    "torchattacks_single_pixel",
]


def torchattacks_mim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 10,
    step_size: float = 1 / 5,
    decay: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Momentum iterative method in Linf; its last iterate.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units: one number for all images.
        steps: Number of gradient steps.
        step_size: Size of a step, relative to eps.
        decay: Factor by which the accumulated gradient is multiplied before the new one is added.
        generator: Gives the library its seed. Default: torch's own.
    """
    settings = {"eps": eps, "alpha": step_size * eps, "steps": steps, "decay": decay}
    return _torchattacks(model, images, labels, "MIFGSM", settings, eps=eps, norm="Linf", generator=generator)


def torchattacks_jsma(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    theta: float = 1.0,
    targets: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Jacobian-based saliency map attack.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: How many values may change (L0): those of a grey image are its pixels. They change in pairs.
        theta: What a step adds to a value.
        targets: (N,), int64: the class that each image is to be taken for.
        generator: Gives the library its seed. Default: torch's own.
    """
    values = images[0].numel()
    # a hair less than whole pairs, as the share of values is rounded up to pairs again
    settings = {"theta": theta, "gamma": (2 * (min(eps, values) // 2) - 0.5) / values}
    return _torchattacks(
        model, images, labels, "JSMA", settings, eps=eps, norm="L0", targets=targets, generator=generator
    )


def torchattacks_single_pixel(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 10,
    population: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One pixel of any value, by differential evolution (https://arxiv.org/abs/1710.08864).

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: How many pixels may change (L0); it changes one.
        steps: Generations of the evolution, at most.
        population: Size of the population, in all.
        generator: Gives the library its seed. Default: torch's own.
    """
    settings = {"pixels": 1, "steps": steps, "popsize": population, "inf_batch": 1000}
    return _torchattacks(model, images, labels, "OnePixel", settings, eps=eps, norm="L0", generator=generator)


def torchattacks_carlini_wagner(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 50,
    step_size: float = 0.01,
    const: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Carlini & Wagner's L2 attack for one constant; it cannot move pixels that are exactly 0 or 1.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Largest perturbation that counts, in L2: one number for all images. Infinity is allowed.
        steps: Steps of Adam.
        step_size: Learning rate of Adam.
        const: Weight of the loss beside the squared distance.
        generator: Gives the library its seed. Default: torch's own.
    """
    settings = {"c": const, "steps": steps, "lr": step_size}
    return _torchattacks(model, images, labels, "CW", settings, eps=eps, norm="L2", generator=generator)


def torchattacks_deepfool(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 50,
    overshoot: float = 0.02,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DeepFool in L2, whose overshoot is taken at each step and not at the end.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Largest perturbation that counts, in L2: one number for all images. Infinity is allowed.
        steps: Number of gradient steps, at most.
        overshoot: By which share each step goes beyond the linear boundary.
        generator: Gives the library its seed. Default: torch's own.
    """
    settings = {"steps": steps, "overshoot": overshoot}
    return _torchattacks(model, images, labels, "DeepFool", settings, eps=eps, norm="L2", generator=generator)


def _torchattacks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    settings: dict[str, Any],
    *,
    eps: float,
    norm: Norm,
    targets: Tensor | None = None,
    generator: torch.Generator | None,
) -> Tensor:
    kind = getattr(module("torchattacks"), name)

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        attack = kind(peer, **settings)
        if goal.targets is not None:
            attack.set_mode_targeted_by_function(lambda images, labels: goal.targets, quiet=True)
        found: Tensor = attack(images, goal.labels)
        return found

    return believed(model, images, labels, run, eps=eps, norm=norm, targets=targets, generator=generator)
