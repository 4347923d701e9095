"""The gradient family in Linf and L2 balls: FGSM, FFGSM, R+FGSM, BIM, PGD and MIM are one loop with other settings.

What holds for every attack of the package, unless its description says otherwise:

- It is a pure function ``attack(model, images, labels, *, eps, ...) -> adversarial images``: images (N, C, H, W) in [0,
  1], labels (N,) int64, ``eps`` in pixel units, a number or one per image (N,).
- It returns each image's best iterate, that of the largest margin on ``model``, inside the ball and [0, 1].
- With ``targets`` (N,) the goal is that class in place of any wrong one; with ``any_wrong`` as well, the targets are
  only aimed at, and any wrong class counts as success.
- With ``stop_early`` an image leaves the batch once its goal is reached. That is right where success is judged on this
  very model. Leave it off for images that will be replayed on another one, where a large margin helps.
- All random numbers come from ``generator``.
- The model's mode, parameters and ``.grad``, and the caller's images, are left as they were.

Raises TypeError or ValueError for input that breaks this contract. Warns with TrainingModeWarning for a model in
training mode (it is attacked in evaluation mode) and with ProbabilitiesWarning for one that seems to return
probabilities in place of logits.
"""

from functools import partial

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal, LossName
from advdef.attacks.restarts import best_of_restarts, keep_best
from advdef.contract import ask, slope, validate
from advdef.devices import asks_now
from advdef.draws import fresh_seed, image_keys, uniform
from advdef.norms import Ball, BallNorm

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
    """Fast gradient sign method (https://arxiv.org/abs/1412.6572): one step of size eps from the image. Draws nothing.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        norm: "Linf" or "L2".
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Not used; there so that all attacks are called alike.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
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
    """Fast FGSM (https://arxiv.org/abs/2001.03994): one step from a random point of the Linf ball.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        step_size: Size of the step, relative to eps; positive. A step that leads out of the ball ends at its edge.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
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
    """Basic iterative method (https://arxiv.org/abs/1607.02533): PGD that begins at the image itself. Draws nothing.

    The defaults are those of Cleverhans v3.0.1 (10 steps of 0.05 for eps 0.3).

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        norm: "Linf" or "L2".
        steps: Number of gradient steps, at least 1.
        step_size: Size of a step, relative to eps; positive.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        stop_early: Drop an image from the batch once its goal is reached.
        generator: Not used; there so that all attacks are called alike.

    The contract is that of :mod:`advdef.attacks.gradient`.
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
    """Momentum iterative method (https://arxiv.org/abs/1710.06081): steps along an accumulated, normalised gradient.
    Draws nothing.

    The defaults are those of Cleverhans v3.0.1 (10 steps of 0.06 for eps 0.3).

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        norm: "Linf" or "L2".
        steps: Number of gradient steps, at least 1.
        step_size: Size of a step, relative to eps; positive.
        decay: Factor by which the accumulated gradient is multiplied before the new one is added.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        stop_early: Drop an image from the batch once its goal is reached.
        generator: Not used; there so that all attacks are called alike.

    The contract is that of :mod:`advdef.attacks.gradient`.
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

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units, 8 / 255 say; a number, or one per image (N,).
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps. Default: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack what ``model``
            still gets right.
        loss: What is ascended: "ce" (cross-entropy), "margin" (largest wrong logit minus the true one) or "dlr" (the
            margin, made independent of the scale of the logits).
        momentum: Factor of the accumulated gradient, as in :func:`advdef.attacks.mim`. Default: no momentum.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        any_wrong: Aim at the targets, but count any wrong class as success.
        random_start: Begin at a random point of the ball; else at the image.
        start: (N, C, H, W): where the first run begins, moved into the ball, in place of the random point.
        stop_early: Drop an image from the batch once its goal is reached.
        generator: Source of all random numbers. Default: torch's own.

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
    """One run with steps of a fixed size: the :class:`advdef.attacks.restarts.Ascent` of the gradient family.

    It attacks M of N images; all arguments but ``best`` and ``best_score`` are those of these M alone.

    Args:
        model: Maps images to logits.
        around: The balls around the attacked images.
        goal: What the attack wants of them.
        rows: (M,): their places among all N images.
        point: (M, C, H, W): where the run begins, inside the balls.
        best: (N, C, H, W): each image's best iterate so far; written at ``rows``.
        best_score: (N,): the score of that iterate (:meth:`advdef.attacks.losses.Goal.score`); written at ``rows``.
        steps: Number of gradient steps.
        loss: What is ascended: "ce", "margin" or "dlr".
        stop_early: Leave an image as it is once its goal is reached, and drop it from the run.
        relative: Size of a step, relative to eps.
        momentum: Factor of the accumulated gradient, as ``decay`` in :func:`advdef.attacks.mim`; None: no momentum.
    """
    velocity = torch.zeros_like(point)
    for step in range(steps + 1):
        last = step == steps
        with torch.set_grad_enabled(not last):
            point = point.detach().requires_grad_(not last)
            logits = ask(model, point)
        with torch.no_grad():
            found = goal.score(logits)
            keep_best(best, best_score, rows, point, found, stop_early=stop_early)
            going = (best_score[rows] if stop_early else found) <= 0
        if last:
            return
        with torch.enable_grad():  # the caller may have switched it off
            direction = slope(goal.loss(loss, logits).sum(), point, going)
        point = point.detach()
        if stop_early and asks_now(step, point.device) and not bool(going.all()):
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
    """R+FGSM (https://arxiv.org/abs/1705.07204), in Linf: a random step of eps / 2, then a gradient step of eps / 2.

    The random step is eps / 2 up or down for each value of the image.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps)
    keys = image_keys(images, fresh_seed(generator))
    signs = uniform(keys, images.shape[1:], dtype=images.dtype).round() * 2 - 1
    return pgd(
        model, images, labels, eps=eps, steps=1, step_size=0.5, targets=targets, start=images + budget / 2 * signs,
        generator=generator,
    )  # fmt: skip
