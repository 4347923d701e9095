"""Stand-ins for spiking networks, which differ from them in their gradient alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.wrappers import replace_gradient
from advdef.contract import ask
from advdef.defenses.base import with_parts
from advdef.papers.snn.layers import over_time
from advdef.papers.snn.neurons import Firing, LayerRules, neurons_of, rules_of, using
from advdef.papers.snn.surrogates import Surrogate

__all__ = ["Mixed", "Through", "clamped", "spiking_stand_ins"]


class Through(nn.Module):
    """A model with its own values, and the gradient that other surrogates give to its spiking layers.

    ``surrogates`` are those of :func:`advdef.papers.snn.neurons.using`. Weights are shared with the model. Raises
    ValueError for a key that fits no spiking layer, and for a model that has none.
    """

    def __init__(self, model: nn.Module, surrogates: LayerRules) -> None:
        super().__init__()
        rules_of(model, surrogates)
        self.model, self.surrogates = model, surrogates
        self.network: nn.Module = getattr(model, "network", model)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """What the model makes of the images."""
        with using(self.model, self.surrogates):
            found: Tensor = self.model(images)
        return found


class Mixed(nn.Module):
    """A model with its own values, and the mean of the gradients that several surrogates give it.

    It is an expectation over derivatives. Each gets a copy of the batch, and all copies pass the model together, so
    that values with a gradient may round otherwise than those of the model. As
    derivatives differ in size by orders of magnitude, each image's gradient is divided by its mean size before the mean
    is taken. Every entry of ``surrogates`` is as of :class:`Through`; one alone per layer. Raises what that raises, and
    ValueError for no entry.
    """

    def __init__(self, model: nn.Module, surrogates: Sequence[Surrogate | Mapping[str, Surrogate]]) -> None:
        super().__init__()
        if not surrogates:
            raise ValueError("there must be a surrogate")
        each = [rules_of(model, rules) for rules in surrogates]
        self.model, self.copies = model, len(each)
        self.surrogates: dict[str, Any] = {name: tuple(rules[name] for rules in each) for name in each[0]}
        self.network: nn.Module = getattr(model, "network", model)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """What the model makes of the images."""
        if not torch.is_grad_enabled():
            return ask(self.model, images)
        with using(self.model, self.surrogates):
            logits = ask(self.model, _Copied.apply(images, self.copies)).unflatten(0, (self.copies, -1))
        return replace_gradient(logits[0].detach(), logits.sum(0))


class _Copied(torch.autograd.Function):
    """Copies of images along the batch; back comes the mean of their gradients, each divided by its mean size."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, copies: int) -> Tensor:
        ctx.copies = copies
        return images.repeat(copies, *[1] * (images.dim() - 1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        each = grads[0].unflatten(0, (ctx.copies, -1))
        size = each.abs().flatten(2).mean(2).clamp_min(torch.finfo(each.dtype).tiny)
        return (each / size.reshape(*size.shape, *[1] * (each.dim() - 2))).mean(0), None


def spiking_stand_ins(
    model: nn.Module, surrogates: Mapping[str, Surrogate | Mapping[str, Surrogate]]
) -> dict[str, nn.Module]:
    """A stand-in for each entry of ``surrogates``; none for a model without spiking layers, whose own gradient is
    exact.
    """
    try:
        neurons_of(model)
    except ValueError:
        return {}
    return {name: Through(model, chosen) for name, chosen in surrogates.items()}


def clamped(model: nn.Module) -> nn.Module:
    """A copy of a model, with its own values and the gradient of a network without spikes.

    Each spiking layer hands on the gradient of its mean current over time, clamped to [0, K] for K levels: that of a
    ReLU which ends at K. Raises ValueError for a model without spiking layers.
    """
    parts: dict[int, nn.Module] = {}
    for layer in neurons_of(model).values():
        neurons = _Clamped(layer.steps, thresholds=layer.thresholds, decay=layer.decay, surrogate=layer.surrogate)
        parts[id(layer)] = neurons.train(layer.training)
    return with_parts(model, parts)


class _Clamped(Firing):
    """Neurons with their own spikes, and the gradient of their clamped mean current."""

    def forward(self, currents: Tensor, *, constant: bool = False) -> Tensor:
        with torch.no_grad():
            spikes = super().forward(currents, constant=constant)
        if not torch.is_grad_enabled():
            return spikes
        mean = currents if constant else over_time(currents, self.steps)
        rates = mean.clamp(0, len(self.thresholds))
        return replace_gradient(spikes, rates.repeat(self.steps, *[1] * (rates.dim() - 1)))
