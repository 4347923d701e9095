"""What attacks share whose gradient comes from another objective than the logits of the model that judges.

The deployed model, which may have no gradient, only judges the points; the gradient is that of an objective, a function
of some network inside it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.gradient import steepest_ascent
from advdef.attacks.losses import Goal, LossName, margin, wrong_classes
from advdef.attacks.restarts import best_of_restarts
from advdef.contract import ask, borrowed, check_logits, slope, validate
from advdef.norms import Ball, BallNorm, spread

__all__ = ["Candidates", "PointObjective", "Offset", "ascend_objective", "asked", "for_each_class"]

PointObjective = Callable[[Tensor, Goal], Tensor]
"""Called with points (N, C, H, W) and their goal; returns what is ascended, a value (N,) that depends on its point
alone.
"""

Offset = Callable[[Tensor, Tensor], Tensor]
"""Called with points (N, C, H, W) and a class for each (N,); returns what a defence adds for that class (N, C, H, W).
"""

Candidates = Callable[[Tensor, Tensor, Tensor, Tensor], Iterable[Tensor]]
"""Called with images, labels, eps (N,) and a wrong class for each (N,); returns batches of images that might fool."""


def asked(offset: Offset, points: Tensor, targets: Tensor) -> Tensor:
    """What ``offset`` adds to the points, as a constant without gradient; raises ValueError for another shape than
    theirs.
    """
    with torch.no_grad():
        added = offset(points.detach(), targets)
    if added.shape != points.shape:
        raise ValueError(f"offset must return the shape of the points, {tuple(points.shape)}, not {tuple(added.shape)}")
    return added


@torch.inference_mode(False)
def ascend_objective(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    objective: PointObjective,
    network: nn.Module,
    norm: BallNorm,
    steps: int,
    step_size: float | None,
    restarts: int,
    random_start: bool,
    stop_early: bool,
    generator: torch.Generator | None,
    targets: Tensor | None = None,
    any_wrong: bool = False,
    at_once: int | None = None,
) -> Tensor:
    """Ascend an objective, and return each image's best iterate by the margin of ``model``, which may have no gradient.

    Args:
        model: Maps images to logits (N, K); it only judges.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        objective: What is ascended: a function of points (N, C, H, W) and their goal, one value per image.
        network: The network that the objective asks; put into evaluation mode for the time of the attack.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. None: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack the images that
            have not reached their goal.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once its goal is reached.
        generator: Source of all random numbers; None: torch's own.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        any_wrong: Aim at the targets, but count any wrong class as success.
        at_once: Most points that the objective gets in one call, after which its graph is freed. Default: all.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    if step_size is not None and not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    relative = min(1.0, 2.5 / max(1, steps)) if step_size is None else step_size
    with borrowed(model), borrowed(network):
        return best_of_restarts(
            partial(_run, relative=relative, objective=objective, at_once=at_once), model, images, labels, eps=eps,
            norm=norm, steps=steps, restarts=restarts, loss="margin", targets=targets, any_wrong=any_wrong,
            random_start=random_start, start=None, stop_early=stop_early, generator=generator,
        )  # fmt: skip


@torch.inference_mode(False)
def for_each_class(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    network: nn.Module,
    likely: Callable[[Tensor], Tensor],
    classes: int,
    attempt: Candidates,
    norm: BallNorm,
    stop_early: bool,
) -> Tensor:
    """Try something towards each of the most likely wrong classes in turn; return each image's best by ``model``'s
    margin.

    Like restarts, classes after the first get only the images that ``model`` still gets right.

    Args:
        model: Maps images to logits (N, K); it only judges.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball in ``norm``; a number, or one per image (N,).
        network: The network that ``likely`` and ``attempt`` ask; put into evaluation mode for the time of the attack.
        likely: Maps the images to the logits (N, K) that order the classes. Those of ``model`` may be votes or
            decisions, which order nothing.
        classes: How many wrong classes are tried, at least 1.
        attempt: Makes candidate images towards a class, see ``Candidates``.
        norm: The norm of eps.
        stop_early: Leave out, from the start, the images that ``model`` gets wrong anyway.
    """
    images, labels, budget = validate(images, labels, eps, norm=norm)
    budget = budget.flatten().expand(len(images))
    if classes < 1:
        raise ValueError(f"classes must be at least 1, not {classes}")
    best = images.clone()
    with borrowed(model), borrowed(network):
        with torch.no_grad():
            logits = ask(model, images)
            check_logits(logits, labels)
            best_margin = margin(logits, labels)
            order = wrong_classes(likely(images), labels)[:, :classes]
        for number, target in enumerate(order.unbind(1)):
            rows = torch.arange(len(images), device=images.device)
            if number or stop_early:
                rows = rows[best_margin <= 0]
            if len(rows) == 0:
                break
            for found in attempt(images[rows], labels[rows], budget[rows], target[rows]):
                with torch.no_grad():
                    reached = margin(ask(model, found), labels[rows])
                better = reached > best_margin[rows]
                best[rows] = torch.where(spread(better), found, best[rows])
                best_margin[rows] = torch.where(better, reached, best_margin[rows])
    return best


class _Judge(nn.Module):
    """The deployed model without a graph; it remembers the points that it was last asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, points: Tensor) -> Tensor:
        self.points = points
        with torch.no_grad():
            logits = ask(self.model, points)
        return logits


@dataclass(frozen=True, kw_only=True)
class _Aim(Goal):
    """A goal whose loss has the gradient of an objective, taken at the points that were judged last."""

    objective: PointObjective
    judge: _Judge
    at_once: int | None

    def of(self, rows: Tensor) -> "_Aim":
        goal = super().of(rows)
        return replace(self, labels=goal.labels, targets=goal.targets)

    def loss(self, name: LossName, logits: Tensor) -> Tensor:
        points, plain = self.judge.points, Goal(self.labels, self.targets, self.any_wrong)
        parts = torch.arange(len(points), device=points.device).split(self.at_once or len(points))
        direction = torch.cat([_slope(self.objective, points[part], plain.of(part)) for part in parts])
        return (points * direction).flatten(1).sum(1)


def _run(
    model: nn.Module,
    around: Ball,
    goal: Goal,
    *run: Tensor,
    objective: PointObjective,
    at_once: int | None,
    **options: Any,
) -> None:
    """An :class:`advdef.attacks.restarts.Ascent`: that of the gradient family, with an objective as its loss."""
    judge = _Judge(model)
    aim = _Aim(goal.labels, goal.targets, goal.any_wrong, objective=objective, judge=judge, at_once=at_once)
    steepest_ascent(judge, around, aim, *run, momentum=None, **options)


def _slope(objective: PointObjective, point: Tensor, goal: Goal) -> Tensor:
    point = point.detach().requires_grad_()
    return slope(objective(point, goal).sum(), point)
