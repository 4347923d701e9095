"""The gradient family in the Linf and L2 balls: FGSM, FFGSM, BIM, PGD and MIM are one loop with different settings.

All are pure functions ``attack(model, images, labels, *, eps, ...) -> adversarial images``: images (N, C, H, W) in
[0, 1], labels (N,) int64, ``eps`` a number or one per image (N,), in pixel units. They return each image's best iterate
(largest margin on ``model``), keep the ball and [0, 1], and leave the model's mode, parameters and ``.grad`` untouched.

With ``targets`` (N,) the goal is that class instead of any wrong one; ``any_wrong`` then only aims at it. With
``stop_early`` an image leaves the batch once its goal is reached: right when success is judged on this very model;
leave it off for examples that will be replayed on another one, which a large margin helps. ``generator`` (CPU) draws
all random numbers.

Raises TypeError or ValueError for input that breaks this contract. Warns with TrainingModeWarning for a model in
training mode (it is attacked in evaluation mode) and with ProbabilitiesWarning for one that returns no logits.
"""

from functools import partial

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal, LossName
from advdef.attacks.restarts import best_of_restarts
from advdef.contract import ask, slope, validate
from advdef.draws import fresh_seed, image_keys, uniform
from advdef.norms import Ball, BallNorm, spread

__all__ = ["bim", "ffgsm", "fgsm", "mim", "pgd", "rfgsm", "steepest_ascent"]


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "Linf",
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fast gradient sign method (https://arxiv.org/abs/1412.6572): one step of size eps. Draws nothing."""
    return pgd(
        model, images, labels, eps=eps, norm=norm, steps=1, step_size=1.0, targets=targets, random_start=False,
        generator=generator,
    )  # fmt: skip


def ffgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    step_size: float = 1.25,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fast FGSM (https://arxiv.org/abs/2001.03994): one step of 1.25 eps from a random point of the Linf ball."""
    return pgd(model, images, labels, eps=eps, steps=1, step_size=step_size, targets=targets, generator=generator)


def bim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "Linf",
    steps: int = 10,
    step_size: float = 1 / 6,
    targets: Tensor | None = None,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Basic iterative method (https://arxiv.org/abs/1607.02533): PGD from the image itself.

    The defaults are those of Cleverhans v3.0.1 (0.05 per step for eps 0.3, 10 steps), relative to eps.
    """
    return pgd(
        model, images, labels, eps=eps, norm=norm, steps=steps, step_size=step_size, targets=targets,
        random_start=False, stop_early=stop_early, generator=generator,
    )  # fmt: skip


def mim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "Linf",
    steps: int = 10,
    step_size: float = 1 / 5,
    decay: float = 1.0,
    targets: Tensor | None = None,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Momentum iterative method (https://arxiv.org/abs/1710.06081): steps along the accumulated normalised gradient.

    The defaults are those of Cleverhans v3.0.1 (0.06 per step for eps 0.3, 10 steps, decay 1), relative to eps.
    """
    return pgd(
        model, images, labels, eps=eps, norm=norm, steps=steps, step_size=step_size, momentum=decay, targets=targets,
        random_start=False, stop_early=stop_early, generator=generator,
    )  # fmt: skip


@torch.inference_mode(False)
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "Linf",
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    loss: LossName = "ce",
    momentum: float | None = None,
    targets: Tensor | None = None,
    any_wrong: bool = False,
    random_start: bool = True,
    start: Tensor | None = None,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent (https://arxiv.org/abs/1706.06083).

    ``step_size`` is relative to eps (default 2.5 / steps, at most 1). Restarts attack only what ``model`` still gets
    right. ``start`` (N, C, H, W) replaces the first start point; it is moved into the ball.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> x = pgd(model, torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), eps=0.1, steps=3)
    >>> float((x - 0.5).abs().max()) <= 0.1 + 1e-6
    True
    """
    if step_size is not None and not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    relative = min(1.0, 2.5 / max(1, steps)) if step_size is None else step_size
    return best_of_restarts(
        partial(steepest_ascent, relative=relative, momentum=momentum), model, images, labels, eps=eps, norm=norm,
        steps=steps, restarts=restarts, loss=loss, targets=targets, any_wrong=any_wrong, random_start=random_start,
        start=start, stop_early=stop_early, generator=generator,
    )  # fmt: skip


def steepest_ascent(
    model: nn.Module,
    around: Ball,
    goal: Goal,
    rows: Tensor,
    point: Tensor,
    best: Tensor,
    best_score: Tensor,
    *,
    steps: int,
    loss: LossName,
    stop_early: bool,
    relative: float,
    momentum: float | None,
) -> None:
    """An :class:`advdef.attacks.restarts.Ascent` with steps of a fixed size."""
    velocity = torch.zeros_like(point)
    for step in range(steps + 1):
        last = step == steps
        with torch.set_grad_enabled(not last):
            point = point.detach().requires_grad_(not last)
            logits = ask(model, point)
        with torch.no_grad():
            found = goal.score(logits)
            better = found > best_score[rows]
            best[rows] = torch.where(spread(better), point, best[rows])
            best_score[rows] = torch.where(better, found, best_score[rows])
        if last:
            return
        with torch.enable_grad():  # the caller may have switched it off
            direction = slope(goal.loss(loss, logits).sum(), point, found <= 0)
        point = point.detach()
        # asking costs a synchronisation, so a GPU is asked less often
        if stop_early and (not point.is_cuda or step % 10 == 9) and bool((found > 0).any()):
            going = found <= 0
            rows, point, direction, velocity = rows[going], point[going], direction[going], velocity[going]
            if len(rows) == 0:
                return
            goal, around = goal.of(going), around.of(going)
        if momentum is not None:
            length = direction.abs().mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
            direction = velocity = momentum * velocity + direction / length
        point = around.project(point + relative * around.eps * around.ascent(direction))


@torch.inference_mode(False)
def rfgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x' = x + eps/2 sign(noise), then eps/2 sign(gradient at x') (https://arxiv.org/abs/1705.07204), in Linf.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps)
    keys = image_keys(images, fresh_seed(generator))
    signs = uniform(keys, images.shape[1:], dtype=images.dtype).round() * 2 - 1
    return pgd(
        model, images, labels, eps=eps, steps=1, step_size=0.5, targets=targets, start=images + budget / 2 * signs,
        generator=generator,
    )  # fmt: skip
