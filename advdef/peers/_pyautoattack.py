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
    """Auto-PGD. ``start`` is for images that the model all gets right."""
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
    """Auto-PGD with the targeted DLR loss, towards each of the ``classes`` most likely wrong classes."""
    library = module("pyautoattack.autopgd_base")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        wrong = min(classes, peer(images[:1]).shape[1] - 1)
        attack = library.APGDAttack_targeted(
            peer, n_iter=steps, norm=norm, eps=eps, seed=seed, n_target_classes=wrong, device=images.device
        )
        found: Tensor = attack.perturb(images, goal.labels)
        return found

    return believed(model, images, labels, run, eps=eps, norm=norm, generator=generator)
