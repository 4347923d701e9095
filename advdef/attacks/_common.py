"""What every attack does once: validate its input, and borrow the model without leaving a trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["borrowed", "check_labels", "per_image", "validate"]


def validate(images: Tensor, labels: Tensor, eps: float | Tensor) -> Tensor:
    """Check images (N, C, H, W) in [0, 1], labels (N,) and eps; return eps as a tensor (N, 1, 1, 1) or (1, 1, 1, 1).

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
    if not (smallest >= 0 and largest < float("inf")):
        raise ValueError(f"eps must be finite and not negative; seen: {smallest:g} to {largest:g}")
    return budget.reshape(-1, 1, 1, 1)


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise ValueError when a label names no column of the logits (N, classes)."""
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"labels must lie in 0..{logits.shape[1] - 1}; seen: {low} to {high}")


def per_image(values: Tensor, keep: Tensor) -> Tensor:
    """The rows of a per-image tensor that belong to the kept images; a shared value stays shared."""
    return values if len(values) == 1 else values[keep]


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of an attack; every submodule gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
