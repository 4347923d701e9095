"""An attack through a few units of the last hidden layer, those that a defence or an analysis names."""

from functools import partial

import torch
from torch import Tensor, nn

from advdef.attacks._features import Features, Objective, ascend_features, check_neurons
from advdef.attacks.composed import each_class
from advdef.attacks.losses import Goal
from advdef.norms import BallNorm

__all__ = ["neuron_targeted"]


def neuron_targeted(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    layer: str,
    head: Tensor,
    units: Tensor,
    classes: int = 9,
    network: nn.Module | None = None,
    norm: BallNorm = "Linf",
    steps: int = 30,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ascend what some units of a layer contribute to the lead of a wrong class, for the likeliest ``classes`` in turn.

    ``layer`` of ``network`` (default ``model``; it runs inside ``model``) gives units (N, C), of which ``head`` (K, C)
    makes the logits. Towards class t of an image of class y the objective is the sum over ``units`` (k,) of
    (head[t, u] - head[y, u]) * unit u. (A loss on a single sensitive neuron attacks nearly as well as one on the whole
    model in https://arxiv.org/abs/2003.09372.) Any wrong class counts as success. The other options and the contract
    are those of :func:`advdef.attacks.pgd`.

    Raises ValueError for an unknown layer, one that does not give (N, C), a head that does not fit it and the logits,
    and for units that it does not have.
    """
    if not len(units):
        raise ValueError("no units")

    def begin(kept: Features, logits: Tensor) -> Objective:
        features = kept[layer]
        if features.dim() != 2:
            raise ValueError(f"layer {layer!r} must give units (N, C), not maps {tuple(features.shape)}")
        check_neurons("units", units, features.shape[1])
        if head.shape != (logits.shape[1], features.shape[1]):
            wanted = (logits.shape[1], features.shape[1])
            raise ValueError(f"head must have shape {wanted}, classes and units of {layer!r}, not {tuple(head.shape)}")
        inside = units.to(features.device)
        weights = head.detach().to(features)[:, inside]

        def objective(step: int, seen: Features, kept: Features, logits: Tensor, goal: Goal) -> Tensor:
            return ((weights[goal.targets] - weights[goal.labels]) * seen[layer][:, inside]).sum(1)

        return objective

    attack = partial(
        ascend_features, begin=begin, layers=(layer,), network=network, norm=norm, steps=steps, step_size=step_size,
        restarts=restarts, random_start=random_start,
    )  # fmt: skip
    return each_class(
        model, images, labels, eps=eps, attack=attack, classes=classes, stop_early=stop_early, generator=generator
    )
