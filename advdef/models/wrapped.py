"""Makes a classifier from anywhere one that can be judged: images in [0, 1] to logits, normalisation inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from advdef.contract import logits_of

__all__ = ["Output", "Wrapped", "check_mode", "wrap"]

Output = str | int | Callable[[Any], Tensor]
"""Where the logits are in what a network returns: an attribute or key, a place in a tuple, or a function of it."""


class Wrapped(nn.Module):
    """A network that normalises its images (N, C, H, W) in [0, 1] first, and returns logits (N, K); made by wrap.

    ``taps`` are the layers that defences look at, those that the network names or that :func:`wrap` was told.
    """

    def __init__(
        self, model: nn.Module, mean: Tensor, std: Tensor, output: Output | None, taps: tuple[str, ...] | None
    ) -> None:
        super().__init__()
        self.model, self.output = model, output
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        if taps is not None:
            self.taps = taps
        self.training = getattr(model, "training", False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K); a single logit z for two classes becomes (0, z).

        Raises ValueError where a mean or std of several channels meets images of other channels.
        """
        channels = max(len(self.mean), len(self.std))
        if channels not in (1, images.shape[1]):
            raise ValueError(
                f"mean and std are those of {channels} channels, and the images have {images.shape[1]}: "
                "give one number, or one for each channel"
            )
        mean, std = (value.to(images)[:, None, None] for value in (self.mean, self.std))
        logits = _chosen(self.model((images - mean) / std), self.output)
        if logits.shape in ((len(images),), (len(images), 1)):
            single = logits.reshape(-1)
            return torch.stack([torch.zeros_like(single), single], 1)
        return logits

    def extra_repr(self) -> str:
        """The normalisation."""
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}"


def wrap(
    model: nn.Module,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    output: Output | None = None,
    taps: Sequence[str] | None = None,
) -> Wrapped:
    """The network as one that attacks and evaluations take: images (N, C, H, W) in [0, 1] -> logits (N, K).

    For networks of torchvision, timm, Hugging Face, or one's own. What they return may be a tensor, something with
    ``logits``, or a tuple with one tensor; a single logit z for two classes becomes (0, z).

    Args:
        model: The network, in evaluation mode.
        mean: Subtracted from images in [0, 1]; one number, or one for each channel.
        std: What is divided by then.
        output: Where the logits are, should that not be plain: an attribute or key, a place in a tuple, a function.
        taps: Names of the layers that NIP, SNS and TRN look at, the one that the last linear layer reads at the end.
            Default: those that the network names in its own ``taps``, else that one is looked for.

    Raises TypeError for what is no network, and ValueError for one in training mode whose layers mind it, and for a
    mean or std that cannot be that of images in [0, 1].

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).eval()
    >>> wrap(network, mean=(0.5, 0.5, 0.5), std=0.25)(torch.rand(5, 3, 2, 2)).shape
    torch.Size([5, 2])
    """
    if not isinstance(model, nn.Module):
        kind = "a class: call it, to build one" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"a model must be a torch.nn.Module, not {kind}")
    check_mode(model)
    means, stds = (_numbers(name, value) for name, value in (("mean", mean), ("std", std)))
    if means.abs().max() > 1:
        raise ValueError(
            f"mean {mean} is none of pixels in [0, 1]; if it is in grey levels, divide mean and std by 255"
        )
    if not (stds > 0).all():
        raise ValueError(f"std must be above zero, not {std}")
    if len(means) != len(stds) and 1 not in (len(means), len(stds)):
        raise ValueError(f"mean has {len(means)} channels, std {len(stds)}")
    named = None if taps is None else tuple(f"model.{tap}" for tap in taps)
    for tap in taps or ():
        if tap not in dict(model.named_modules()):
            raise ValueError(f"{type(model).__name__} has no layer {tap!r}; it has {_layers(model)}")
    return Wrapped(model, means, stds, output, named)


def check_mode(model: nn.Module) -> None:
    """Raise ValueError for a model with a layer in training mode that gives other answers there."""
    if any(module.training for module in model.modules() if isinstance(module, _DropoutNd | _NormBase)):
        raise ValueError(
            "the model is in training mode, in which it answers otherwise than deployed: call model.eval()"
        )


def _numbers(name: str, value: float | Sequence[float]) -> Tensor:
    """A number or one for each channel (C,) as a tensor."""
    try:
        found = [float(number) for number in ([value] if isinstance(value, int | float) else value)]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, or one for each channel, not {value!r}") from None
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"{name} must be finite, not {value}")
    return torch.tensor(found)


def _chosen(returned: Any, output: Output | None) -> Tensor:
    """The logits in what a network returned."""
    if output is None:
        return logits_of(returned)
    found: object
    if callable(output):
        found = output(returned)
    elif isinstance(output, int) or isinstance(returned, Mapping):
        try:
            found = returned[output]
        except (KeyError, IndexError, TypeError):
            raise TypeError(
                f"output={output!r} is not in the {type(returned).__name__} that the model returns"
            ) from None
    else:
        found = getattr(returned, output, None)
    if not isinstance(found, Tensor):
        raise TypeError(f"output={output!r} of the {type(returned).__name__} that the model returns is no tensor")
    return found


def _layers(model: nn.Module) -> str:
    names = [name for name, _ in model.named_modules() if name]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
