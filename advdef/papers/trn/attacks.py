"""The decoy: an attack on a defence that goes by the gradient of its own classifier."""

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal, margin
from advdef.attacks.objective import ascend_objective
from advdef.contract import ask, borrowed
from advdef.norms import BallNorm

__all__ = ["decoy"]


@torch.inference_mode(False)
def decoy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    network: nn.Module,
    through: nn.Module,
    weight: float = 1.0,
    lead: float = 1.0,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fool the defence while the bare classifier stays right, so that its gradient map looks like a clean image's.

    It ascends margin(through(x)) - weight * relu(margin(network(x)) + lead). A margin is positive where the model is
    wrong, so the second term is zero while the classifier is right by at least ``lead``. Of two images that fool the
    defence, the one with the larger margin there is returned, whatever the classifier says of it. With weight 0 this is
    PGD with the margin on ``through``.

    Args:
        model: The defence; it only judges.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        network: The bare classifier: images to logits.
        through: A stand-in for the defence that can be differentiated: images to logits.
        weight: Weight of the second term, 0 or more.
        lead: By how many logits the classifier is to be right, 0 or more.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack what ``model``
            still gets right.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for a weight or a lead that is negative or
    not finite.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> x = decoy(network, image, label, eps=0.1, network=network, through=network, weight=0.5, steps=3)
    >>> float((x - image).abs().max()) <= 0.1 + 1e-6
    True
    """
    for name, value in (("weight", weight), ("lead", lead)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, not {value}")

    def objective(points: Tensor, goal: Goal) -> Tensor:
        penalty = (margin(ask(network, points), goal.labels) + lead).relu()
        return margin(ask(through, points), goal.labels) - weight * penalty

    with borrowed(through):
        return ascend_objective(
            model, images, labels, eps=eps, objective=objective, network=network, norm=norm, steps=steps,
            step_size=step_size, restarts=restarts, random_start=random_start, stop_early=stop_early,
            generator=generator,
        )  # fmt: skip
