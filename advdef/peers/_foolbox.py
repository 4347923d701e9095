"""Attacks of foolbox."""

from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal
from advdef.norms import BallNorm
from advdef.peers._library import believed, module

__all__ = ["foolbox_bim", "foolbox_fgsm", "foolbox_mim", "foolbox_pgd"]


def foolbox_fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fast gradient sign method, or its L2 form."""
    attack = getattr(module("foolbox.attacks"), f"{norm}FastGradientAttack")(random_start=False)
    return _foolbox(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def foolbox_bim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 10,
    step_size: float = 1 / 6,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Basic iterative method; its last iterate.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        steps: Number of gradient steps.
        step_size: Size of a step, relative to eps.
        generator: Gives the library its seed. Default: torch's own.
    """
    kind = getattr(module("foolbox.attacks"), f"{norm}BasicIterativeAttack")
    attack = kind(steps=steps, rel_stepsize=step_size, random_start=False)
    return _foolbox(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def foolbox_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 20,
    step_size: float | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent; its last iterate.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        steps: Number of gradient steps.
        step_size: Size of a step, relative to eps. Default: 2.5 / steps, at most 1.
        start: (N, C, H, W): where it begins, for images that the model all gets right. Default: a random point of the
            ball.
        generator: Gives the library its seed. Default: torch's own.
    """
    relative = min(1.0, 2.5 / steps) if step_size is None else step_size
    kind = getattr(module("foolbox.attacks"), f"{norm}ProjectedGradientDescentAttack")
    attack = kind(steps=steps, rel_stepsize=relative, random_start=True)
    if start is not None:
        attack.get_random_start = lambda images, epsilon: type(images)(start)
    return _foolbox(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def foolbox_mim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 10,
    step_size: float = 1 / 5,
    decay: float = 1.0,
    as_published: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Momentum iterative method; its last iterate.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        steps: Number of gradient steps.
        step_size: Size of a step, relative to eps.
        decay: Factor by which what was accumulated is multiplied before the new is added.
        as_published: Accumulate gradients, each divided by its L1 norm (https://arxiv.org/abs/1710.06081, eq. 6).
            Foolbox itself accumulates the directions of its steps, which are signs in Linf.
        generator: Gives the library its seed. Default: torch's own.
    """
    kind = getattr(module("foolbox.attacks"), f"{norm}MomentumIterativeFastGradientMethod")
    attack = kind(steps=steps, rel_stepsize=step_size, momentum=decay)
    if as_published:
        scaled = module("foolbox.attacks.gradient_descent_base").normalize_lp_norms
        attack.normalize = lambda gradients, **_: scaled(gradients, p=1)
    return _foolbox(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def _foolbox(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Any,
    *,
    eps: float,
    norm: BallNorm,
    generator: torch.Generator | None,
) -> Tensor:
    foolbox = module("foolbox")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        bounded = foolbox.PyTorchModel(peer, bounds=(0, 1), device=images.device)
        found: Tensor = attack(bounded, images, foolbox.Misclassification(goal.labels), epsilons=eps)[1]
        return found

    return believed(model, images, labels, run, eps=eps, norm=norm, generator=generator)
