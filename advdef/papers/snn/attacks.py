"""Attacks on a spiking network, whose gradient can be taken in several ways, and on a defence with a detector, which
decides between two branches or refuses an image.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from advdef.attacks.adaptive_steps import adaptive_ascent
from advdef.attacks.losses import Goal, LossName, margin
from advdef.attacks.objective import ascend_objective
from advdef.attacks.restarts import best_of_restarts
from advdef.contract import ask, borrowed
from advdef.norms import BallNorm

__all__ = ["both_branches", "in_turn", "unnoticed"]


@torch.inference_mode(False)
def in_turn(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    networks: Sequence[nn.Module],
    steps: int = 100,
    step_size: float = 1.0,
    restarts: int = 1,
    loss: LossName = "ce",
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Stable adaptive PGD along the gradients of several stand-ins in turn, a step each.

    What one derivative of a spike does not see another one may, and the accumulated gradient is of all of them: a mix
    of derivatives within one attack, in the manner of MDSE (https://arxiv.org/abs/2209.03358).

    Args:
        model: The defence; it only judges.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        networks: The stand-ins, at least one, each with the values of ``model``.
        steps: Number of gradient steps in each run, at least 1.
        step_size: Largest size of the first steps, relative to eps; positive.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack what ``model``
            still gets right.
        loss: What is ascended: "ce" (cross-entropy), "margin" (largest wrong logit minus the true one) or "dlr" (the
            margin, made independent of the scale of the logits).
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for no stand-in.
    """
    if not networks:
        raise ValueError("there must be a stand-in")
    if not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(borrowed(network))
        return best_of_restarts(
            partial(adaptive_ascent, relative=step_size, networks=networks), model, images, labels, eps=eps,
            norm="Linf", steps=steps, restarts=restarts, loss=loss, targets=None, any_wrong=False,
            random_start=random_start, start=None, stop_early=stop_early, generator=generator,
        )  # fmt: skip


@torch.inference_mode(False)
def both_branches(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    branches: Sequence[nn.Module],
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ascend the smallest margin over all branches, so that it does not matter which of them the detector chooses.

    Args:
        model: The defence; it only judges.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        branches: Modules that map images to logits, at least one.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack what ``model``
            still gets right.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for no branches.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> x = both_branches(network, image, label, eps=0.1, branches=(network,), steps=3)
    >>> float((x - image).abs().max()) <= 0.1 + 1e-6
    True
    """
    if not branches:
        raise ValueError("there must be a branch")

    def objective(points: Tensor, goal: Goal) -> Tensor:
        return torch.stack([margin(ask(branch, points), goal.labels) for branch in branches]).amin(0)

    with ExitStack() as stack:
        for branch in branches:
            stack.enter_context(borrowed(branch))
        return ascend_objective(
            model, images, labels, eps=eps, objective=objective, network=branches[0], norm=norm, steps=steps,
            step_size=step_size, restarts=restarts, random_start=random_start, stop_early=stop_early,
            generator=generator,
        )  # fmt: skip


@torch.inference_mode(False)
def unnoticed(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    network: nn.Module,
    distance: Callable[[Tensor], Tensor],
    threshold: float,
    weight: float = 10.0,
    enough: float = 1.0,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fool the bare network where the detector stays quiet.

    It ascends min(margin(network(x)), enough) - weight * relu(distance(x) - threshold): once the network is fooled by a
    lead of ``enough`` logits, only the detector counts.

    Args:
        model: The defence; it only judges.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        network: The bare classifier: images to logits.
        distance: What the detector measures: images -> (N,).
        threshold: Up to which distance the detector stays quiet.
        weight: Weight of the detector's term, 0 or more.
        enough: The lead, in logits, beyond which more gains nothing; positive.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack what ``model``
            still gets right.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for a weight that is negative or not
    finite, and for an ``enough`` that is not positive.
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight must be finite and not negative, not {weight}")
    if not enough > 0:
        raise ValueError(f"enough must be positive, not {enough}")

    def objective(points: Tensor, goal: Goal) -> Tensor:
        fooled = margin(ask(network, points), goal.labels).clamp_max(enough)
        return fooled - weight * (distance(points) - threshold).relu()

    return ascend_objective(
        model, images, labels, eps=eps, objective=objective, network=network, norm=norm, steps=steps,
        step_size=step_size, restarts=restarts, random_start=random_start, stop_early=stop_early, generator=generator,
    )  # fmt: skip
