"""Attacks of pyautoattack."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal
from advdef.norms import BallNorm
from advdef.peers._library import believed, module

__all__ = ["pyautoattack_apgd", "pyautoattack_apgd_t"]


def pyautoattack_apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 100,
    loss: Literal["ce", "dlr"] = "ce",
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Auto-PGD.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        steps: Number of gradient steps.
        loss: What is ascended: "ce" (cross-entropy) or "dlr".
        start: (N, C, H, W): where it begins, for images that the model all gets right. Default: a random point of the
            ball.
        generator: Gives the library its seed. Default: torch's own.
    """
    library = module("pyautoattack.autopgd_base")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        attack = library.APGDAttack(peer, n_iter=steps, norm=norm, eps=eps, seed=seed, loss=loss, device=images.device)
        if start is not None:
            attack.attack_single_run = partial(attack.attack_single_run, x_init=start)
        found: Tensor = attack.perturb(images, goal.labels)
        return found

    return believed(model, images, labels, run, eps=eps, norm=norm, generator=generator)


def pyautoattack_apgd_t(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 100,
    classes: int = 9,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Auto-PGD with the targeted DLR loss, towards each of the most likely wrong classes.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        steps: Number of gradient steps towards each class.
        classes: How many wrong classes are tried; more than K - 1 means all.
        generator: Gives the library its seed. Default: torch's own.
    """
    library = module("pyautoattack.autopgd_base")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        wrong = min(classes, peer(images[:1]).shape[1] - 1)
        attack = library.APGDAttack_targeted(
            peer, n_iter=steps, norm=norm, eps=eps, seed=seed, n_target_classes=wrong, device=images.device
        )
        found: Tensor = attack.perturb(images, goal.labels)
        return found

    return believed(model, images, labels, run, eps=eps, norm=norm, generator=generator)
