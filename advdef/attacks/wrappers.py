"""Wrappers of a model that make any attack on it adaptive, own or from a library: BPDA and EOT."""

from typing import Any

import torch
from torch import Tensor, nn

from advdef.contract import ask

__all__ = ["expectation", "replace_gradient", "straight_through"]


class _ReplaceGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, carrier: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def replace_gradient(value: Tensor, carrier: Tensor) -> Tensor:
    """``value``, exactly and not by adding and subtracting, with the gradient of ``carrier``, which has its shape."""
    if value.shape != carrier.shape:
        raise ValueError(f"value and carrier must have one shape, not {tuple(value.shape)} and {tuple(carrier.shape)}")
    result: Tensor = _ReplaceGradient.apply(value, carrier)
    return result


def _network(model: nn.Module) -> nn.Module:
    """The module whose passes are the cost of asking ``model`` (see :class:`advdef.defenses.Defense`)."""
    found: nn.Module = getattr(model, "network", model)
    return found


class _StraightThrough(nn.Module):
    def __init__(self, model: nn.Module, surrogate: nn.Module) -> None:
        super().__init__()
        self.model, self.surrogate, self.network = model, surrogate, _network(model)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            value = ask(self.model, images)
        return replace_gradient(value, ask(self.surrogate, images)) if torch.is_grad_enabled() else value


def straight_through(model: nn.Module, surrogate: nn.Module) -> nn.Module:
    """BPDA (https://arxiv.org/abs/1802.00420), as a module: the logits of ``model``, the gradient of ``surrogate``."""
    return _StraightThrough(model, surrogate)


class _Expectation(nn.Module):
    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        self.model, self.samples, self.network = model, samples, _network(model)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([ask(self.model, images) for _ in range(self.samples)]).mean(0)


def expectation(model: nn.Module, samples: int) -> nn.Module:
    """EOT (https://arxiv.org/abs/1707.07397), as a module: the mean logits of ``samples`` passes of a random model."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    return _Expectation(model, samples)


def is_expectation(model: nn.Module) -> bool:
    """Whether a model is one that :func:`expectation` made."""
    return isinstance(model, _Expectation)
