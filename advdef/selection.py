"""Choices of neurons by a score, how much two choices share, and where in the image a channel is active."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["Which", "channel_mask", "jaccard", "layer_score", "same_layers", "select"]

Which = Literal["top", "bottom", "random", "all"]


def select(
    sigma: Mapping[str, Tensor],
    *,
    ratio: float | None = None,
    k: int | None = None,
    which: Which = "top",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Choose neurons of each layer by their scores, usually sensitivities: layer -> ascending indices (k,).

    Of the C neurons of a layer either ``k`` are chosen, or the share ``ratio`` of them, rounded up. ``which`` says
    which ones: "top" (the largest scores), "bottom" (the smallest), "random", or "all", which needs no size. Of equal
    scores the first ones are taken. Random choices are drawn on the CPU, so that every device sees the same.

    Raises ValueError for a ratio outside (0, 1], a k outside 1..C and scores that are not finite.

    >>> select({"relu": torch.tensor([0.5, 0.1, 0.9, 0.1])}, ratio=0.5)
    {'relu': tensor([0, 2])}
    """
    if which not in get_args(Which):
        raise ValueError(f"no choice {which!r} of neurons; there are {', '.join(get_args(Which))}")
    if (ratio is None) == (k is None) and not (which == "all" and k is None):
        raise ValueError("give either ratio or k")
    if ratio is not None and not 0 < ratio <= 1:
        raise ValueError(f"ratio must lie in (0, 1], not {ratio}")
    chosen = {}
    for layer, values in sigma.items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"layer {layer!r} has sensitivities that are not finite")
        count = len(values)
        # a hair less, as 0.07 * 100 is a hair more than 7
        size = math.ceil((1.0 if ratio is None else ratio) * count - 1e-9) if k is None else k
        if not isinstance(size, int) or not 1 <= size <= count:
            raise ValueError(f"layer {layer!r} has {count} neurons: k must lie in 1..{count}, not {size}")
        if which == "random":
            order = torch.randperm(count, generator=generator).to(values.device)
        else:
            order = values.argsort(descending=which != "bottom", stable=True)
        chosen[layer] = order[: count if which == "all" else size].sort().values
    return chosen


def layer_score(sigma: Mapping[str, Tensor], *, top: float = 1.0) -> dict[str, float]:
    """Mean score of each layer's neurons, or of the share ``top`` of them with the largest scores."""
    return {layer: float(sigma[layer][rows].mean()) for layer, rows in select(sigma, ratio=top).items()}


def jaccard(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    """How much two choices of neurons share, by layer: `|A and B| / |A or B|`, 1 where both are empty.

    Raises ValueError for unequal layers.

    >>> jaccard({"relu": torch.tensor([0, 1, 2])}, {"relu": torch.tensor([1, 2, 3])})
    {'relu': 0.5}
    """
    same_layers("the second choice", b, a)
    sets = {layer: (set(a[layer].tolist()), set(b[layer].tolist())) for layer in a}
    return {layer: len(x & y) / len(x | y) if x | y else 1.0 for layer, (x, y) in sets.items()}


def channel_mask(maps: Tensor, size: tuple[int, int], *, threshold: float = 0.25) -> Tensor:
    """Where in the image a channel is active: its maps (N, h, w) -> booleans (N, H, W), for images of ``size`` (H, W).

    Each map is divided by its maximum, scaled up bilinearly and cut at ``threshold``; a map without a positive value
    gives an empty mask. The way and the threshold are those of the authors' laboratory
    (https://github.com/DIG-Beihang/AISafety).
    """
    if maps.dim() != 3 or maps.numel() == 0:
        raise ValueError(f"maps must have shape (N, h, w), none of them 0, not {tuple(maps.shape)}")
    largest = maps.amax((1, 2), keepdim=True)
    relative = torch.where(largest > 0, maps / largest, 0.0)
    return interpolate(relative[:, None], size, mode="bilinear", align_corners=False)[:, 0] > threshold


def same_layers(what: str, given: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Raise ValueError, naming ``what`` and the layer, unless ``given`` has exactly the layers of ``wanted``."""
    for layer in sorted(given.keys() ^ wanted.keys()):
        fault = "has no" if layer in wanted else "has an unexpected"
        raise ValueError(f"{what} {fault} layer {layer!r}; expected: {', '.join(wanted)}")
