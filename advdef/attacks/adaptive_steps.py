"""Stable adaptive PGD: steps for gradients that are rough or mostly zero, as those through spikes are."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal, LossName
from advdef.attacks.restarts import best_of_restarts, keep_best
from advdef.contract import ask, slope
from advdef.devices import asks_now
from advdef.norms import Ball

__all__ = ["adaptive_ascent", "sa_pgd"]


@torch.inference_mode(False)
def sa_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 100,
    step_size: float = 1.0,
    restarts: int = 1,
    loss: LossName = "ce",
    targets: Tensor | None = None,
    any_wrong: bool = False,
    random_start: bool = True,
    start: Tensor | None = None,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Stable adaptive PGD (https://arxiv.org/abs/2512.22522), in Linf.

    Each pixel has a step of its own: the accumulated gradient over the root of the accumulated squared one, as in Adam,
    but at most ``step_size``. That size is halved at the checkpoints of Auto-PGD, whatever the loss did. Constants are
    those of the authors' code.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        steps: Number of gradient steps in each run, at least 1.
        step_size: Largest size of the first steps, relative to eps; positive.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack the images that
            have not reached their goal.
        loss: What is ascended: "ce" (cross-entropy), "margin" (largest wrong logit minus the true one) or "dlr" (the
            margin, made independent of the scale of the logits).
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        any_wrong: Aim at the targets, but count any wrong class as success.
        random_start: Begin the first run at a random point of the ball; else at the image.
        start: (N, C, H, W), finite: where the first run begins, moved into the ball. Default: as ``random_start`` says.
        stop_early: Drop an image from the batch once its goal is reached.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x = sa_pgd(model, torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), eps=0.1, steps=3)
    >>> float((x - 0.5).abs().max()) <= 0.1 + 1e-6
    True
    """
    if not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    return best_of_restarts(
        partial(adaptive_ascent, relative=step_size), model, images, labels, eps=eps, norm="Linf", steps=steps,
        restarts=restarts, loss=loss, targets=targets, any_wrong=any_wrong, random_start=random_start, start=start,
        stop_early=stop_early, generator=generator,
    )  # fmt: skip


def adaptive_ascent(
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
    networks: Sequence[nn.Module] = (),
) -> None:
    """One run of stable adaptive PGD: an :class:`advdef.attacks.restarts.Ascent`.

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
        relative: Largest size of the first steps, relative to eps.
        networks: Stand-ins that have the values of the model and other gradients; they take turns, a step each.
            Default: the model alone.
    """
    turns, mean, square = networks or (model,), torch.zeros_like(point), torch.zeros_like(point)
    for step, size in enumerate((*_sizes(steps), 0.0)):
        last = step == steps
        with torch.set_grad_enabled(not last):
            point = point.detach().requires_grad_(not last)
            logits = ask(turns[step % len(turns)], point)
        with torch.no_grad():
            found = goal.score(logits)
            keep_best(best, best_score, rows, point, found, stop_early=stop_early)
            going = (best_score[rows] if stop_early else found) <= 0
        if last:
            return
        with torch.enable_grad():  # the caller may have switched it off
            gradient = slope(goal.loss(loss, logits).sum(), point, going)
        point = point.detach()
        if stop_early and asks_now(step, point.device) and not bool(going.all()):
            rows, point, gradient, mean, square = (v[going] for v in (rows, point, gradient, mean, square))
            if len(rows) == 0:
                return
            goal, around = goal.of(going), around.of(going)
        mean, square = 0.5 * mean + _scaled(gradient), 0.8 * square + _scaled(gradient.square())
        change = (mean / square.sqrt().clamp_min(_least(square))).clamp(-1, 1)
        point = around.project(point + relative * size * around.eps * change)


def _sizes(steps: int) -> Iterator[float]:
    """The size of each step, relative to the first."""
    until, fewer, fewest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    size, left = 1.0, until
    for _ in range(steps):
        yield size
        left -= 1
        if left == 0:
            size, until = size / 2, max(until - fewer, fewest)
            left = until


def _scaled(values: Tensor) -> Tensor:
    """Divided by the mean size of each image's values; zeros stay zeros."""
    return values / values.abs().mean((1, 2, 3), keepdim=True).clamp_min(_least(values))


def _least(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
