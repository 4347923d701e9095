"""What all attacks by ascent in a ball share: they check their input, ask the model once, and run from each start."""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from advdef.attacks.losses import LOSSES, Goal, LossName
from advdef.contract import ask, borrowed, check_logits, counts_passes, own, validate
from advdef.draws import fresh_seed, image_keys
from advdef.norms import Ball, BallNorm, ball, spread

__all__ = ["TOGETHER", "Ascent", "best_of_restarts", "keep_best"]

TOGETHER = 128
"""Images in a batch up to which several runs are made at once: few images cost hardly less than these."""


class Ascent(Protocol):
    """One run of an attack, from one start point; it writes what it finds into ``best`` and ``best_score``."""

    def __call__(
        self,
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
        """Attack M of the N images; all arguments but the two that hold the best are those of these M alone.

        Args:
            model: Maps images to logits.
            around: The balls around the attacked images.
            goal: What the attack wants of them.
            rows: (M,): their places among all N images.
            point: (M, C, H, W): where the run begins, inside the balls.
            best: (N, C, H, W): each image's best iterate so far; written at ``rows``.
            best_score: (N,): the score of that iterate (:meth:`advdef.attacks.losses.Goal.score`); written at ``rows``.
            steps: Number of gradient steps.
            loss: What is ascended.
            stop_early: Leave an image as it is once its goal is reached, and drop it from the run.
        """


def best_of_restarts(
    ascend: Ascent,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm,
    steps: int,
    restarts: int,
    loss: LossName,
    targets: Tensor | None,
    any_wrong: bool,
    random_start: bool,
    start: Tensor | None,
    stop_early: bool,
    generator: torch.Generator | None,
    together: bool = True,
) -> Tensor:
    """Check the input, run ``ascend`` from each start, and return each image's best iterate.

    Args:
        ascend: Makes one run from one start.
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack the images that
            have not reached their goal.
        loss: What is ascended: "ce" (cross-entropy), "margin" (largest wrong logit minus the true one) or "dlr" (the
            margin, made independent of the scale of the logits).
        targets: (N,), int64: the class that each image is to be taken for; None: any but its label.
        any_wrong: Aim at the targets, but count any wrong class as success.
        random_start: Begin the first run at a random point of the ball; else at the image.
        start: (N, C, H, W), finite: where the first run begins, moved into the ball; None: as ``random_start`` says.
        stop_early: Drop an image from the batch once its goal is reached.
        generator: Source of all random numbers; None: torch's own.
        together: Allow several runs in one batch: all of them for few images, else those after the first. Each image
            gets what it would get from one run after the other; the ``rows`` of ``ascend`` are then places in that
            batch. A model that counts its passes to draw random numbers has one run at a time all the same.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for fewer than one step or run, for an
    unknown loss, and for a start of another shape or with values that are not finite.
    """
    images, labels, budget = validate(images, labels, eps, norm=norm)
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, not {steps} and {restarts}")
    if loss not in LOSSES:
        raise ValueError(f"no loss {loss!r}; there are {', '.join(LOSSES)}")
    if start is not None and start.shape != images.shape:
        raise ValueError(f"start must have the shape of images, {tuple(images.shape)}, not {tuple(start.shape)}")
    if start is not None and not bool(torch.isfinite(start).all()):
        raise ValueError("start must be finite")
    best, around = images.clone(), ball(images, budget, norm)
    goal = Goal(labels, None if targets is None else own(targets), any_wrong)
    seed = fresh_seed(generator) if random_start or restarts > 1 else 0
    with borrowed(model):
        with torch.no_grad():
            logits = ask(model, images)
        check_logits(logits, labels)
        goal.check(logits)
        best_score = goal.score(logits)
        together = together and not counts_passes(model)
        done = 0
        while done < restarts:
            rows = torch.arange(len(images), device=images.device)
            if done or stop_early:
                rows = rows[best_score <= 0]
            if len(rows) == 0:
                break
            runs = min(restarts - done, TOGETHER // len(rows)) if together else 1
            runs = max(1, runs if done or runs == restarts else 1)  # most images need one run: all only if they fit
            several = rows.repeat(runs)
            near = around.of(several)
            given = images if start is None else own(start)
            begun = [given[rows]] if done == 0 and (start is not None or not random_start) else []
            drawn = [image_keys(images[rows], seed, number) for number in range(done + len(begun), done + runs)]
            point = torch.cat([*begun, *(around.of(rows).sample(keys) for keys in drawn)])
            run = partial(ascend, model, near, goal.of(several), steps=steps, loss=loss, stop_early=stop_early)
            if runs == 1:
                run(rows, near.project(point), best, best_score)
            else:
                found, score = best[several], best_score[several]
                run(torch.arange(len(several), device=rows.device), near.project(point), found, score)
                _choose(best, best_score, rows, found.unflatten(0, (runs, -1)), score.unflatten(0, (runs, -1)))
            done += runs
    return best


def _choose(best: Tensor, best_score: Tensor, rows: Tensor, found: Tensor, score: Tensor) -> None:
    """Of several runs (R, M, C, H, W) with their scores (R, M), keep for each image the first that reached its goal, as
    if later ones had not been; where none did, the one that came nearest.
    """
    won = score > 0
    chosen = torch.where(won.any(0), won.int().argmax(0), score.argmax(0))
    each = torch.arange(len(rows), device=rows.device)
    best[rows], best_score[rows] = found[chosen, each], score[chosen, each]


def keep_best(
    best: Tensor, best_score: Tensor, rows: Tensor, point: Tensor, score: Tensor, *, stop_early: bool
) -> None:
    """Write the points (M, C, H, W) into ``best`` at ``rows`` where their score (M,) is higher than ``best_score``.

    With ``stop_early`` the first point that reaches the goal stays, whatever follows: how long such an image remains in
    the batch depends on the device (:func:`advdef.devices.asks_now`), and the result must not.
    """
    earlier = best_score[rows]
    better = score > earlier
    if stop_early:
        better &= earlier <= 0
    best[rows] = torch.where(spread(better), point, best[rows])
    best_score[rows] = torch.where(better, score, earlier)
