"""The quantiser of QuSecNets (https://arxiv.org/abs/1811.01437): few pixel values, at thresholds that can be learnt.

The layer "as released" follows code that the paper's second author published; the other one is our reconstruction.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.attacks.wrappers import replace_gradient
from advdef.data import Split

__all__ = ["Quantizer", "Mode", "kmeans_thresholds"]


Mode = Literal["hard", "soft", "straight_through"]


class Quantizer(nn.Module):
    """Pixels in [0, 1] -> one of ``levels`` values in [0, 1], each pixel by itself: a sum of steps at thresholds.

    With N levels there are K = N - 1 thresholds, by default t_i = i/N. The soft layer is (1/K) sum_i sigmoid(h (x -
    t_i)), the hard one (1/K) sum_i 1[x > t_i].

    The released layer has K = N thresholds, the last one at 1.0; its sum is divided by N - 1 and clipped to [0, 1]. It
    is soft only. Where the sum exceeds 1 the clip makes the gradient zero: for N = 2 exactly above 1 - 1/(2N), for
    larger N nearer to 1 or, if h is small, nowhere.

    Args:
        levels: Number N of output values, at least 2.
        mode: "hard", "soft", or "straight_through": the values of hard with the gradient of soft.
        hardness: Slope h of the soft steps, per unit of pixel value; positive.
        trainable: Whether the thresholds take a gradient.
        channels: Number of channels that have thresholds of their own. Default: one set for all pixels.
        thresholds: (K,), or (channels, K), in place of the equidistant ones.
        released: Whether this is the layer of the released code.

    Raises ValueError for arguments outside these ranges.

    >>> Quantizer(4)(torch.tensor([0.1, 0.3, 0.6, 0.9]))
    tensor([0.0000, 0.3333, 0.6667, 1.0000])
    """

    def __init__(
        self,
        levels: int,
        *,
        mode: Mode = "hard",
        hardness: float = 10.0,
        trainable: bool = False,
        channels: int | None = None,
        thresholds: Tensor | None = None,
        released: bool = False,
    ) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"a quantiser needs at least 2 levels, not {levels}")
        if not hardness > 0:
            raise ValueError(f"hardness must be positive, not {hardness}")
        if released and mode != "soft":
            raise ValueError(f"the released layer is soft; mode {mode!r} does not exist for it")
        count = levels if released else levels - 1
        shape = (count,) if channels is None else (channels, count)
        if thresholds is None:
            thresholds = (torch.arange(1, count + 1) / levels).expand(shape)
        if thresholds.shape != shape:
            raise ValueError(f"{levels} levels need thresholds of shape {shape}, not {tuple(thresholds.shape)}")
        self.levels, self.mode, self.released, self.trainable = levels, mode, released, trainable
        self.thresholds = nn.Parameter(thresholds.clone().float(), requires_grad=trainable)
        self.register_buffer("hardness", torch.tensor(float(hardness)))
        self.hardness: Tensor

    def extra_repr(self) -> str:
        """The arguments: two quantisers print alike only if they are built alike."""
        values = [round(v, 6) for v in self.thresholds.detach().flatten().tolist()]
        return (
            f"levels={self.levels}, mode={self.mode}, hardness={float(self.hardness):g}, trainable={self.trainable}, "
            f"released={self.released}, thresholds={values}"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Quantised pixels, in the shape of ``images``."""
        if self.mode == "soft":
            return self.soft(images)
        hard = self.hard(images)
        return replace_gradient(hard, self.soft(images)) if self.mode == "straight_through" else hard

    def soft(self, images: Tensor, hardness: float | Tensor | None = None, *, clip: bool = True) -> Tensor:
        """The soft layer at ``hardness`` (default: its own); ``clip=False`` leaves out the released layer's clip."""
        slope = self.hardness if hardness is None else hardness
        total = torch.zeros_like(images)
        for threshold in self._per_channel().unbind(-1):
            total = total + torch.sigmoid(slope * (images - threshold))
        total = total / (self.levels - 1)
        return total.clamp(0, 1) if self.released and clip else total

    def hard(self, images: Tensor) -> Tensor:
        """The hard layer: the limit of ``soft`` at infinite hardness. Its gradient is zero, and autograd finds none."""
        return self._count(images).to(images.dtype) / (self.levels - 1)

    def interval(self, images: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and the highest level that each pixel can be given within ``eps``: a number, or (N, 1, 1, 1)."""
        return self.hard((images - eps).clamp(min=0)), self.hard((images + eps).clamp(max=1))

    def snap(self, levels: Tensor) -> Tensor:
        """The nearest output level that has a pixel value; where thresholds coincide, the level between has none."""
        if self.thresholds.dim() == 1:
            return self._snap(levels, self.thresholds)
        return torch.stack([self._snap(levels[:, c], own) for c, own in enumerate(self.thresholds)], 1)

    def preimage(self, images: Tensor, levels: Tensor) -> Tensor:
        """The pixel value nearest to ``images`` that is mapped exactly to ``levels``.

        Raises ValueError when a level is empty (two thresholds coincide, or one lies outside (0, 1)).
        """
        index, own = torch.round(levels * (self.levels - 1)).long(), self._count(images)
        ordered = self._per_channel().detach().sort(-1).values.expand(1, images.shape[1], 1, 1, -1)
        # cell k is (t_k, t_k+1]: entered from below just above t_k, from above exactly at t_k+1
        above = torch.nextafter(ordered, torch.full_like(ordered, 2.0)).expand(*images.shape, -1)
        enter_up = above.gather(-1, (index - 1).clamp(min=0)[..., None])[..., 0]
        below = ordered.expand(*images.shape, -1)
        enter_down = below.gather(-1, index.clamp(max=below.shape[-1] - 1)[..., None])[..., 0]
        result = torch.where(index > own, enter_up, torch.where(index < own, enter_down, images))
        if not torch.equal(self._count(result), index) or bool(((result < 0) | (result > 1)).any()):
            raise ValueError("some levels have no pre-image: thresholds coincide or lie outside (0, 1)")
        return result

    def set_hardness(self, hardness: float) -> None:
        """Set the slope of the soft steps (per unit of pixel value)."""
        self.hardness.fill_(hardness)

    def _snap(self, levels: Tensor, thresholds: Tensor) -> Tensor:
        """Nearest level whose cell (t_k, t_k+1] of these thresholds (K,) has a point in [0, 1]."""
        ordered = thresholds.detach().sort().values
        starts, ends = F.pad(ordered, (1, 0), value=-1.0), F.pad(ordered, (0, 1), value=2.0)
        there = torch.nonzero((starts < ends) & (starts < 1) & (ends >= 0))[:, 0].clamp(max=self.levels - 1)
        values = there.to(levels.dtype) / (self.levels - 1)
        return values[torch.bucketize(levels.detach().contiguous(), (values[1:] + values[:-1]) / 2)]

    def _per_channel(self) -> Tensor:
        """Thresholds that broadcast against (N, C, H, W) when one of them is taken from the last axis."""
        return self.thresholds if self.thresholds.dim() == 1 else self.thresholds[None, :, None, None, :]

    def _count(self, images: Tensor) -> Tensor:
        """Index of each pixel's level: the number of thresholds strictly below it, at most levels - 1."""
        with torch.no_grad():
            if self.thresholds.dim() == 1:
                count = torch.bucketize(images.detach().contiguous(), self.thresholds.sort().values)
            elif images.shape[1] != len(self.thresholds):
                raise ValueError(f"thresholds for {len(self.thresholds)} channels, images {tuple(images.shape)}")
            else:
                count = torch.stack(
                    [
                        torch.bucketize(images[:, c].detach().contiguous(), own.sort().values)
                        for c, own in enumerate(self.thresholds)
                    ],
                    1,
                )
            return count.clamp(max=self.levels - 1)


def kmeans_thresholds(split: Split, levels: int, *, channels: int | None = None, iterations: int = 50) -> Tensor:
    """Thresholds fitted to the pixels of a split by 1-D k-means (Lloyd-Max): (K,), or (channels, K).

    They lie half-way between neighbouring centres: the control that learned thresholds must beat, as it is blind to the
    labels. Computed exactly, on the histogram of the 256 grey levels; centres start equally spaced, and one without
    pixels stays where it is.
    """
    per_channel = split.images.transpose(0, 1).flatten(1) if channels else split.images.flatten()[None]
    values = torch.arange(256, device=split.images.device) / 255
    thresholds = []
    for pixels in per_channel:
        weights = torch.bincount(pixels.long(), minlength=256).float()
        centres = (torch.arange(levels, device=values.device) + 0.5) / levels
        for _ in range(iterations):
            owner = torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
            mass = torch.zeros(levels, device=values.device).index_add_(0, owner, weights)
            total = torch.zeros(levels, device=values.device).index_add_(0, owner, weights * values)
            centres = torch.where(mass > 0, total / mass.clamp(min=1), centres)
        thresholds.append((centres[1:] + centres[:-1]) / 2)
    return torch.stack(thresholds) if channels else thresholds[0]
