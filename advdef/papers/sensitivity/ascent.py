"""What attacks on features share: steps by the sign of a gradient that ascend an objective of layers' outputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Protocol

import torch
from torch import Tensor, nn

from advdef.attacks.gradient import steepest_ascent
from advdef.attacks.losses import Goal, LossName
from advdef.attacks.restarts import best_of_restarts
from advdef.contract import ask
from advdef.norms import Ball, BallNorm
from advdef.taps import tapped

__all__ = ["Begin", "Features", "FeatureObjective", "ascend_features", "check_neurons", "typical"]

Features = Mapping[str, Tensor]
"""The output of each layer by name, (N, C) or (N, C, H, W)."""


class FeatureObjective(Protocol):
    """What a run ascends: one value for each image (N,), which depends on this image alone."""

    def __call__(self, step: int, seen: Features, kept: Features, logits: Tensor, goal: Goal) -> Tensor:
        """``seen`` and ``logits`` are those of the points at ``step`` (0, 1, ...), ``kept`` those of the reference
        images.
        """


Begin = Callable[[Features, Tensor], FeatureObjective]
"""Called at the start of a run with the features and logits of the reference images; checks options, and returns the
objective.
"""


@torch.inference_mode(False)
def ascend_features(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    begin: Begin,
    layers: Sequence[str],
    network: nn.Module | None,
    norm: BallNorm,
    steps: int,
    step_size: float | None,
    restarts: int,
    random_start: bool,
    stop_early: bool,
    generator: torch.Generator | None,
    reference: Callable[[Tensor], Tensor] | None = None,
    targets: Tensor | None = None,
    any_wrong: bool = False,
) -> Tensor:
    """Ascend an objective of features, and return each image's best iterate by the margin of ``model``.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        begin: Makes the objective of a run.
        layers: The layers of ``network`` that the objective sees.
        network: A network that runs once in each forward pass of ``model``. None: the model itself.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. None: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack the images that
            have not reached their goal.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once its goal is reached.
        generator: Source of all random numbers; None: torch's own.
        reference: Maps rows of the batch to images whose features are kept for comparison. Default: the images of these
            rows.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        any_wrong: Aim at the targets, but count any wrong class as success.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    if step_size is not None and not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    relative = min(1.0, 2.5 / max(1, steps)) if step_size is None else step_size
    with tapped(model if network is None else network, layers) as seen:
        return best_of_restarts(
            partial(_run, relative=relative, seen=seen, layers=layers, begin=begin, reference=reference),
            model, images, labels, eps=eps, norm=norm, steps=steps, restarts=restarts, loss="margin", targets=targets,
            any_wrong=any_wrong, random_start=random_start, start=None, stop_early=stop_early, generator=generator,
            together=reference is None,
        )  # fmt: skip


def typical(values: Tensor) -> Tensor:
    """Mean absolute value of each image's values, (N, ...) -> (N,), to divide by: 1 where all of them are zero."""
    sizes = values.detach().abs().flatten(1).mean(1)
    return torch.where(sizes < 1e-12, torch.ones_like(sizes), sizes)


def check_neurons(name: str, neurons: Tensor, number: int) -> None:
    """Raise TypeError or ValueError unless ``neurons`` are int64 indices (k,) below ``number``."""
    if neurons.dtype != torch.int64 or neurons.dim() != 1:
        raise TypeError(f"{name} must be int64 indices (k,), not {neurons.dtype} of shape {tuple(neurons.shape)}")
    if len(neurons) and not (int(neurons.min()) >= 0 and int(neurons.max()) < number):
        raise ValueError(f"{name} must lie in 0..{number - 1}; seen: {int(neurons.min())} to {int(neurons.max())}")


@dataclass(frozen=True, kw_only=True)
class _Aim(Goal):
    """A goal whose loss is an objective of what the latest forward pass gave."""

    objective: FeatureObjective
    seen: Features
    kept: Features
    step: Iterator[int]

    def of(self, rows: Tensor) -> "_Aim":
        goal, kept = super().of(rows), {layer: features[rows] for layer, features in self.kept.items()}
        return replace(self, labels=goal.labels, targets=goal.targets, kept=kept)

    def loss(self, name: LossName, logits: Tensor) -> Tensor:
        return self.objective(next(self.step), self.seen, self.kept, logits, self)


def _run(
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
    seen: dict[str, Tensor],
    layers: Sequence[str],
    begin: Begin,
    reference: Callable[[Tensor], Tensor] | None,
) -> None:
    """An :class:`advdef.attacks.restarts.Ascent`: that of the gradient family, with an objective as its loss."""
    with torch.no_grad():
        logits = ask(model, around.images if reference is None else reference(rows))
    for layer in layers:
        if layer not in seen or len(seen[layer]) != len(rows):
            told = f"{len(seen[layer])} rows for {len(rows)} images" if layer in seen else "nothing"
            raise ValueError(f"layer {layer!r} gives {told}: the network must run once in each pass of the model")
    kept = dict(seen)
    aim = _Aim(
        goal.labels, goal.targets, goal.any_wrong, objective=begin(kept, logits), seen=seen, kept=kept, step=count()
    )
    steepest_ascent(
        model, around, aim, rows, point, best, best_score, steps=steps, loss=loss, stop_early=stop_early,
        relative=relative, momentum=None,
    )  # fmt: skip
