"""What every attack does once: validate its input, look at the model's output, borrow the model without a trace."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["ProbabilitiesWarning", "TrainingModeWarning", "borrowed", "check_logits", "per_image", "slope", "validate"]


class TrainingModeWarning(UserWarning):
    """A model with dropout or batch normalisation came in training mode; it is attacked in evaluation mode."""


class ProbabilitiesWarning(UserWarning):
    """A model seems to return probabilities; losses take logits, and the gradient of a saturated softmax vanishes."""


def validate(images: Tensor, labels: Tensor, eps: float | Tensor, *, unbounded: bool = False) -> Tensor:
    """Check images (N, C, H, W) in [0, 1], labels (N,) and eps; return eps as a tensor (N, 1, 1, 1) or (1, 1, 1, 1).

    ``unbounded`` allows an infinite eps, which means something to attacks that look for the smallest perturbation.
    Raises TypeError for a wrong dtype and ValueError for a wrong shape, range or a value that is not finite.
    """
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], not {images.dtype}; divide bytes by 255")
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images must have shape (N, C, H, W) with N > 0, not {tuple(images.shape)}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, not {labels.dtype}")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must have shape ({len(images)},), not {tuple(labels.shape)}")
    low, high = (float(v) for v in torch.aminmax(images.detach()))
    if not (low >= 0.0 and high <= 1.0):  # also catches NaN, which compares false
        raise ValueError(f"images must be finite and lie in [0, 1]; seen: {low:g} to {high:g}")
    budget = torch.as_tensor(eps, dtype=images.dtype, device=images.device)
    if budget.dim() > 1 or (budget.dim() == 1 and len(budget) != len(images)):
        raise ValueError(f"eps must be a number or have shape ({len(images)},), not {tuple(budget.shape)}")
    smallest, largest = (float(v) for v in torch.aminmax(budget))
    if not (smallest >= 0 and (largest < float("inf") or unbounded)):
        raise ValueError(f"eps must be finite and not negative; seen: {smallest:g} to {largest:g}")
    return budget.reshape(-1, 1, 1, 1)


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless the model gave finite logits (N, classes) in which every label names a column.

    Warns with ProbabilitiesWarning when the rows look like probabilities.
    """
    if logits.dim() != 2 or len(logits) != len(labels):
        raise ValueError(f"the model must return logits ({len(labels)}, classes), not {tuple(logits.shape)}")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the model returns NaN or infinite logits: no attack on it means anything; check its weights")
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"labels must lie in 0..{logits.shape[1] - 1}; seen: {low} to {high}")
    smallest, largest = (float(v) for v in torch.aminmax(logits))
    if smallest >= 0 and largest <= 1 and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        warnings.warn(
            "the model seems to return probabilities; attack its logits: drop the softmax at its end",
            ProbabilitiesWarning,
            stacklevel=3,
        )


def per_image(values: Tensor, keep: Tensor) -> Tensor:
    """The rows of a per-image tensor that belong to the kept images; a shared value stays shared."""
    return values if len(values) == 1 else values[keep]


def slope(value: Tensor, point: Tensor) -> Tensor:
    """Gradient as an attacker with plain autograd gets it: zero where the model cuts the graph (a hard decision)."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
    return torch.zeros_like(point) if gradient is None else gradient


@contextmanager
def borrowed(model: nn.Module, *, quiet: bool = False) -> Iterator[None]:
    """Evaluation mode for the time of an attack; every submodule gets its own mode back.

    Warns with TrainingModeWarning when that changes what the model computes, unless ``quiet``.
    """
    modes = [(module, module.training) for module in model.modules()]
    if not quiet and any(training and isinstance(module, _DropoutNd | _NormBase) for module, training in modes):
        warnings.warn(
            "the model is in training mode; it is attacked and judged in evaluation mode: call model.eval() first",
            TrainingModeWarning,
            stacklevel=4,
        )
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
