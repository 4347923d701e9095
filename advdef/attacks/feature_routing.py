"""The attack made for a defence that stabilises some neurons: it works through the others."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from advdef.attacks._features import Features, Objective, ascend_features, check_neurons, typical
from advdef.attacks.losses import Goal, margin
from advdef.norms import BallNorm

__all__ = ["feature_routing"]


def feature_routing(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    chosen: Mapping[str, Tensor],
    gamma: float = 1.0,
    eta: float = 0.0,
    network: nn.Module | None = None,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ascend the margin, and with it the change of the neurons that are not ``chosen``.

    Sensitive Neuron Stabilizing (https://arxiv.org/abs/1909.06978) holds the chosen neurons (layer -> int64 indices) of
    the named layers of ``network`` (default ``model``; it runs inside ``model``). With d(l, m) the mean size of the
    change of neuron m of layer l since the clean image, two thirds of the steps ascend

        margin / s + sum over l of (gamma * mean of d(l, m), m not chosen, - eta * mean of d(l, m), m chosen) / s(l)

    and the last third the margin alone. The divisors, constants of the gradient, free gamma and eta of the scale of
    model and layers: s is the mean absolute deviation of the logits at the point, s(l) the mean size of the activations
    of the layer on the clean image. The other options and the contract are those of :func:`advdef.attacks.pgd`.

    Raises ValueError for an unknown layer, an index that it does not have, and gamma or eta negative or not finite.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> found = feature_routing(model, image, label, eps=0.1, chosen={"2": torch.tensor([0])}, steps=6)
    >>> float((found - image).abs().max()) <= 0.1 + 1e-6
    True
    """
    for name, weight in (("gamma", gamma), ("eta", eta)):
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, not {weight}")

    def begin(kept: Features, logits: Tensor) -> Objective:
        weights = {layer: _weights(layer, features, chosen[layer], gamma, eta) for layer, features in kept.items()}

        def objective(step: int, seen: Features, kept: Features, logits: Tensor, goal: Goal) -> Tensor:
            value = margin(logits, goal.labels) / typical(logits - logits.mean(1, keepdim=True))
            if 3 * (step + 1) > 2 * steps:
                return value
            for layer, clean in kept.items():
                moved = (seen[layer] - clean).abs().reshape(*clean.shape[:2], -1).mean(2)
                value = value + moved @ weights[layer] / typical(clean)
            return value

        return objective

    return ascend_features(
        model, images, labels, eps=eps, begin=begin, layers=tuple(chosen), network=network, norm=norm, steps=steps,
        step_size=step_size, restarts=restarts, random_start=random_start, stop_early=stop_early, generator=generator,
    )  # fmt: skip


def _weights(layer: str, features: Tensor, chosen: Tensor, gamma: float, eta: float) -> Tensor:
    """(C,): the factor of each neuron's change in the objective."""
    check_neurons(f"the chosen neurons of {layer!r}", chosen, features.shape[1])
    held = torch.zeros(features.shape[1], device=features.device, dtype=features.dtype)
    held[chosen.to(held.device)] = 1
    return gamma * (1 - held) / (1 - held).sum().clamp_min(1) - eta * held / held.sum().clamp_min(1)
