"""One ascent with any loss, rule for its steps and start: what the search for holes combines in all ways."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.attacks.auto_pgd import auto_ascent
from advdef.attacks.gradient import steepest_ascent
from advdef.attacks.losses import Goal, LossName
from advdef.attacks.restarts import Ascent, keep_best
from advdef.contract import ask, borrowed, check_logits, own, slope, validate
from advdef.draws import image_keys
from advdef.norms import Ball, BallNorm, ball

__all__ = ["RULES", "ClimbLoss", "Points", "RuleName", "climb", "cosine_ascent", "places"]

ClimbLoss = LossName | Literal["KL"]
RuleName = Literal["APGD", "cosine", "momentum", "steps of 0.02", "steps of 0.1", "steps of 0.5"]


@dataclass(frozen=True, eq=False)
class Points:
    """A point (N, C, H, W) for each of some images (N, C, H, W), which is found by the image's own pixels."""

    images: Tensor
    points: Tensor

    def of(self, images: Tensor) -> Tensor:
        """The points of some images (M, C, H, W); an image that is not among them is its own point."""
        at = places(images, self.images)
        found = own(images)
        known = at >= 0
        found[known] = self.points.to(images)[at[known]]
        return found


def places(images: Tensor, among: Tensor) -> Tensor:
    """Where each image (M, C, H, W) stands among others (N, C, H, W), (M,): the first with its pixels, else -1."""
    if len(images) == 0 or len(among) == 0:
        return torch.full((len(images),), -1, device=images.device)
    others = among.to(images)
    same = image_keys(images, 0)[:, None] == image_keys(others, 0)[None]
    at = torch.where(same.any(1), same.int().argmax(1), -1)
    return torch.where((others[at] == images).flatten(1).all(1), at, -1)


@dataclass(frozen=True)
class _Drift(Goal):
    """Away from the clean answer: ascends the divergence of the answer from that for the image itself."""

    clean: Tensor | None = None

    def of(self, rows: Tensor) -> "_Drift":
        assert self.clean is not None
        return _Drift(self.labels[rows], clean=self.clean[rows])

    def loss(self, name: LossName, logits: Tensor) -> Tensor:
        assert self.clean is not None
        return F.kl_div(logits.log_softmax(1), self.clean, log_target=True, reduction="none").sum(1)


def cosine_ascent(
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
    """An :class:`advdef.attacks.restarts.Ascent` whose steps shrink from half of eps to nothing, along a cosine.

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
        loss: What is ascended.
        stop_early: Leave an image as it is once its goal is reached.
    """
    pace = 0.25 * (1 + torch.cos(torch.arange(steps) * (torch.pi / steps)))
    for step in range(steps + 1):
        last = step == steps
        with torch.set_grad_enabled(not last):
            point = point.detach().requires_grad_(not last)
            logits = ask(model, point)
        with torch.no_grad():
            score = goal.score(logits)
            keep_best(best, best_score, rows, point.detach(), score, stop_early=stop_early)
        if last:
            return
        with torch.enable_grad():
            direction = slope(goal.loss(loss, logits).sum(), point, score <= 0)
        point = around.project(point.detach() + float(pace[step]) * around.eps * around.ascent(direction))


RULES: dict[RuleName, Ascent] = {
    "APGD": auto_ascent,
    "cosine": cosine_ascent,
    "momentum": partial(steepest_ascent, relative=0.1, momentum=1.0),
    "steps of 0.02": partial(steepest_ascent, relative=0.02, momentum=None),
    "steps of 0.1": partial(steepest_ascent, relative=0.1, momentum=None),
    "steps of 0.5": partial(steepest_ascent, relative=0.5, momentum=None),
}
"""Rules for the size of a step, by name; sizes are relative to eps."""


@torch.inference_mode(False)
def climb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "Linf",
    steps: int = 20,
    loss: ClimbLoss = "ce",
    rule: RuleName = "steps of 0.1",
    start: Points | None = None,
    targets: Tensor | None = None,
    any_wrong: bool = False,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One ascent from a given start; draws nothing.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        norm: "Linf" or "L2".
        steps: Number of gradient steps, at least 1.
        loss: One of :data:`advdef.attacks.LOSSES`, or "KL": the divergence from the answer for the image itself, as in
            https://arxiv.org/abs/1901.08573.
        rule: Which of :data:`RULES`.
        start: Where it begins, moved into the ball. Default: at the image.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label. Not for "KL".
        any_wrong: Aim at the targets, but count any wrong class as success.
        stop_early: Leave an image as it is once it is wrong.
        generator: Not used; there so that all attacks are called alike.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps, norm=norm)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r}; there are {', '.join(RULES)}")
    best, around, rows = images.clone(), ball(images, budget, norm), torch.arange(len(images), device=images.device)
    point = images if start is None else around.project(start.of(images))
    with borrowed(model):
        with torch.no_grad():
            logits = ask(model, images)
        check_logits(logits, labels)
        goal = Goal(labels, None if targets is None else own(targets), any_wrong)
        name: LossName = "ce"
        if loss == "KL":
            goal = _Drift(labels, clean=logits.log_softmax(1).clone())
        else:
            name = loss
        goal.check(logits)
        score = goal.score(logits)
        RULES[rule](model, around, goal, rows, point, best, score, steps=steps, loss=name, stop_early=stop_early)
    return best
