"""AutoAttack and two of its parts, FAB and Square, from pyautoattack.

Signature and contract are those of :mod:`advdef.attacks.gradient`, with one ``eps`` for all images. The library is not
taken at its word. What exceeds the budget by rounding is moved back into the ball; then the model is asked once more,
and where it is right the image itself is returned. Raises ImportError when the extra ``eval`` is not installed.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from advdef.attacks.libraries.verified import needs, verified
from advdef.attacks.losses import Goal
from advdef.contract import validate
from advdef.norms import BallNorm, ball

__all__ = ["autoattack", "fab", "square"]


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    version: Literal["standard", "rand"] = "standard",
    batch_size: int = 250,
    generator: torch.Generator | None = None,
) -> Tensor:
    """AutoAttack (https://arxiv.org/abs/2003.01690): APGD, targeted APGD, FAB and Square, each on what is left.

    With fewer than ten classes every wrong one is a target.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        version: "standard", or "rand" for models that draw random numbers: APGD with cross-entropy and with DLR, on
            averaged gradients.
        batch_size: How many images the library attacks at a time.
        generator: Source of all random numbers. Default: torch's own.

    Raises ValueError for fewer classes than DLR needs (four; three for "rand"), and in L2 where :func:`square` does.
    """
    if version not in ("standard", "rand"):
        raise ValueError(f"no version {version!r} of AutoAttack; there are standard, rand")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    with needs("pyautoattack"):
        from pyautoattack import AutoAttack

    def perturb(peer: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        classes, needed = peer(images[:1]).shape[1], 4 if version == "standard" else 3
        if classes < needed:
            raise ValueError(f"AutoAttack {version!r} needs at least {needed} classes for its DLR loss, not {classes}")
        _check_tiles(images, norm if version == "standard" else "Linf")
        attack = AutoAttack(peer, norm=norm, eps=eps, version=version, seed=seed, device=images.device)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
        found: Tensor = attack.run_standard_evaluation(images, labels, batch_size=batch_size)[0]
        return found

    return _kept(model, images, labels, perturb, eps=eps, norm=norm, generator=generator)


def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    queries: int = 1000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Square attack (https://arxiv.org/abs/1912.00049): asks for logits alone, and needs no gradient.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        queries: How often the model is asked about each image, at least 1.
        generator: Source of all random numbers. Default: torch's own.

    Raises ValueError in L2 for images whose sides pyautoattack cannot tile, those of 12 or 14 pixels for instance.
    """
    with needs("pyautoattack"):
        from pyautoattack.square import SquareAttack
    if queries < 1:
        raise ValueError(f"queries must be at least 1, not {queries}")

    def perturb(peer: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        _check_tiles(images, norm)
        attack = SquareAttack(peer, eps=eps, norm=norm, n_queries=queries, seed=seed, device=images.device)
        draw = attack.random_choice
        # one draw for all images of a batch, as the places of the squares are: else each depends on the others
        attack.random_choice = lambda shape: draw([1, *shape[1:]] if len(shape) == 4 else shape)
        found: Tensor = attack.perturb(images, labels)
        return found

    return _kept(model, images, labels, perturb, eps=eps, norm=norm, generator=generator)


def fab(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 100,
    targeted: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fast adaptive boundary attack (https://arxiv.org/abs/1907.02044): looks for the smallest perturbation.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in pixel units: one number for all images. Infinity accepts every one.
        norm: "Linf" or "L2".
        steps: Number of gradient steps, at least 1.
        targeted: Run it towards each of the nine most likely wrong classes until one is reached within eps. Untargeted,
            each step needs the gradient of every logit.
        generator: Source of all random numbers. Default: torch's own.
    """
    with needs("pyautoattack"):
        from pyautoattack.fab_pt import FABAttack_PT
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")

    def perturb(peer: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        attack = FABAttack_PT(
            peer, norm=norm, n_iter=steps, eps=eps, seed=seed, targeted=targeted, device=images.device,
            n_target_classes=min(9, peer(images[:1]).shape[1] - 1),
        )  # fmt: skip
        found: Tensor = attack.perturb(images, labels)
        return found

    return _kept(model, images, labels, perturb, eps=eps, norm=norm, generator=generator, unbounded=True)


def _check_tiles(images: Tensor, norm: BallNorm) -> None:
    """Raise ValueError where Square's start in L2, a grid of tiles, would stand out of the image."""
    height, width = images.shape[2:]
    tile, edge = height // 5, height % 5 // 2
    fits = tile == 1 or (tile > 1 and all(edge + side // tile * tile <= side for side in (height, width)))
    if norm == "L2" and not fits:
        raise ValueError(f"pyautoattack's Square has no start in L2 for images of {height} x {width} pixels")


def _kept(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    perturb: Callable[[nn.Module, Tensor, Tensor, int], Tensor],
    *,
    eps: float,
    norm: BallNorm,
    generator: torch.Generator | None,
    unbounded: bool = False,
) -> Tensor:
    """What ``perturb`` finds, moved into the ball and verified."""
    images, labels, budget = validate(images, labels, eps, norm=norm, unbounded=unbounded)
    if isinstance(eps, Tensor):
        raise TypeError("pyautoattack's attacks take one eps for all images, a number")
    ball(images, budget, norm)  # refuses a norm before the work

    def search(peer: nn.Module, images: Tensor, goal: Goal, eps: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        with _quiet():
            found = perturb(peer, images.float(), goal.labels, seed).to(images.dtype)
        return ball(images, eps, norm).project(found), found.isfinite().flatten(1).all(1)

    return verified(model, images, labels, search, eps=budget, targets=None, generator=generator)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence AutoAttack's log, and restore the trace function (a debugger's, say) that one of its checks removes."""
    logger, tracer = logging.getLogger("auto-attack"), sys.gettrace()
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
        sys.settrace(tracer)
