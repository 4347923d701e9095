"""Auto-PGD: projected gradient ascent with momentum that chooses its own step size.

Croce & Hein 2020, https://arxiv.org/abs/2003.01690, algorithm 1. Their APGD-T, which ascends the targeted DLR loss
towards the nine most likely wrong classes, is ``each_class(..., attack=partial(apgd, loss="dlr"))``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal, LossName
from advdef.attacks.restarts import best_of_restarts, keep_best
from advdef.contract import ask, slope
from advdef.devices import asks_now
from advdef.norms import Ball, BallNorm, spread

__all__ = ["apgd", "auto_ascent"]

_MOMENTUM, _RISING = 0.75, 0.75


@torch.inference_mode(False)
def apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "Linf",
    steps: int = 100,
    restarts: int = 1,
    loss: LossName = "ce",
    targets: Tensor | None = None,
    any_wrong: bool = False,
    start: Tensor | None = None,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Auto-PGD (https://arxiv.org/abs/2003.01690): halves its step where the loss no longer grows.

    It begins with steps of twice eps, checks its progress at fixed points of the run and, where there is too little,
    goes on from the best point with half the step.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        restarts: Number of runs, at least 1, each from a random point. Those after the first attack the images that
            have not reached their goal.
        loss: What is ascended: "ce" (cross-entropy), "margin" (largest wrong logit minus the true one) or "dlr" (the
            margin, made independent of the scale of the logits).
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        any_wrong: Aim at the targets, but count any wrong class as success.
        start: (N, C, H, W), finite: where the first run begins, moved into the ball. Default: a random point of the
            ball.
        stop_early: Drop an image from the batch once its goal is reached.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    return best_of_restarts(
        auto_ascent, model, images, labels, eps=eps, norm=norm, steps=steps, restarts=restarts, loss=loss,
        targets=targets, any_wrong=any_wrong, random_start=True, start=start, stop_early=stop_early,
        generator=generator,
    )  # fmt: skip


@dataclass
class _Path:
    """Where the search of each image stands; every tensor has a row for each image that is still attacked."""

    point: Tensor
    before: Tensor  # the point one step ago
    slope: Tensor
    value: Tensor  # the loss at the point
    top: Tensor  # the point of largest loss so far, its gradient and its loss
    top_slope: Tensor
    top_value: Tensor
    checked: Tensor  # the largest loss at the last checkpoint
    stride: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    halved: Tensor  # whether the last checkpoint halved the step

    def of(self, rows: Tensor) -> "_Path":
        return _Path(*(value[rows] for value in vars(self).values()))


def auto_ascent(
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
) -> None:
    """An :class:`advdef.attacks.restarts.Ascent` with momentum that halves its steps where they lead nowhere.

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
    """

    def look(point: Tensor, *, climb: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Who has not reached its goal, loss and gradient at a point, which is kept where it is the best so far."""
        with torch.set_grad_enabled(climb):
            point = point.detach().requires_grad_(climb)
            logits = ask(model, point)
            value, score = goal.loss(loss, logits), goal.score(logits.detach())
            keep_best(best, best_score, rows, point.detach(), score, stop_early=stop_early)
            going = (best_score[rows] if stop_early else score) <= 0
            direction = slope(value.sum(), point, going) if climb else point
        return going, value.detach(), direction.detach()

    going, value, direction = look(point, climb=True)
    eps = around.eps.expand(len(point), 1, 1, 1)
    none = torch.zeros_like(value)
    path = _Path(point, point, direction, value, point, direction, value, value, 2 * eps, none, none == 0)
    window, next_check = max(int(0.22 * steps), 1), max(int(0.22 * steps), 1)
    for step in range(steps):
        if stop_early and asks_now(step, point.device) and not bool(going.all()):
            rows, path, goal, around = rows[going], path.of(going), goal.of(going), around.of(going)
            if len(rows) == 0:
                return
        share = 1.0 if step == 0 else _MOMENTUM
        proposed = around.project(path.point + path.stride * around.ascent(path.slope))
        moved = share * (proposed - path.point) + (1 - share) * (path.point - path.before)
        path.before, path.point = path.point, around.project(path.point + moved)
        earlier = path.value
        going, path.value, path.slope = look(path.point, climb=step < steps - 1)
        if step == steps - 1:
            return
        path.rises = path.rises + (path.value > earlier)
        higher = path.value > path.top_value
        path.top = torch.where(spread(higher), path.point, path.top)
        path.top_slope = torch.where(spread(higher), path.slope, path.top_slope)
        path.top_value = torch.maximum(path.value, path.top_value)
        if step + 1 == next_check:
            stuck = ~path.halved & (path.checked >= path.top_value)
            path.halved = stuck | (path.rises <= _RISING * window)
            path.stride = torch.where(spread(path.halved), path.stride / 2, path.stride)
            # where the step is halved, the search goes on from the best point
            path.point = torch.where(spread(path.halved), path.top, path.point)
            path.slope = torch.where(spread(path.halved), path.top_slope, path.slope)
            path.value = torch.where(path.halved, path.top_value, path.value)
            path.checked, path.rises = path.top_value, torch.zeros_like(path.rises)
            window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            next_check += window
