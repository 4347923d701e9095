"""Networks that restore images: with one stream for the image and one for a map of it, or with the image's alone."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["SIZES", "Fusion", "ImageRestorer", "Restorer", "TwoStreamRestorer"]

SIZES: Mapping[str, Mapping[str, int]] = {
    "XS": {"width": 16, "streams": 2, "tail": 1},
    "S": {"width": 48, "streams": 4, "tail": 2},
    "B": {"width": 64, "streams": 6, "tail": 4},
}
"""Channels, and residual blocks of each stream and of the tail. On RGB they have 0.03, 0.47 and 1.27 million
parameters.
"""

Fusion = Literal["early", "sum", "concat", "gated", "heavy"]


class _ResidualBlock(nn.Module):
    """x + 0.1 conv(relu(conv(x))), without normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width))

    def forward(self, maps: Tensor) -> Tensor:
        summed: Tensor = maps + 0.1 * self.inner(maps)
        return summed


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _blocks(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(width) for _ in range(depth)))


class _Gate(nn.Module):
    """Each channel times a number in (0, 1), which a small network makes of the means of all channels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        gated: Tensor = maps * self.weights(maps)
        return gated


class _Sum(nn.Module):
    """Both halves of the channels, added."""

    def forward(self, maps: Tensor) -> Tensor:
        first, second = maps.chunk(2, 1)
        return first + second


def _fusion(kind: Fusion, width: int) -> nn.Module:
    """What makes ``width`` channels of the ``2 * width`` of both streams."""
    if kind == "heavy":
        return nn.Sequential(_ResidualBlock(2 * width), _conv(2 * width, width))
    mixed = _Sum() if kind == "sum" else nn.Conv2d(2 * width, width, 1)
    gate = [_Gate(2 * width, width // 4)] if kind == "gated" else []
    return nn.Sequential(*gate, mixed, _ResidualBlock(width))


class Restorer(nn.Module):
    """Images (N, C, H, W) in [0, 1] and maps of them (N, M, H, W) -> what is to be subtracted, (N, C, H, W).

    H and W may be any. The last convolution starts at zero, so an untrained restorer changes nothing. ``map_channels``
    is M; 0 for a restorer that sees the images alone. Raises ValueError for images or maps of another shape.
    """

    def __init__(self, channels: int, map_channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.channels, self.map_channels = channels, map_channels
        self.tail = _blocks(width, depth)
        self.out = _conv(width, channels)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def check(self, images: Tensor, maps: Tensor | None) -> None:
        """Raise ValueError unless images and maps have the channels that this network was built for."""
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ValueError(f"built for images (N, {self.channels}, H, W), not {tuple(images.shape)}")
        if (maps is not None) != (self.map_channels > 0):
            there = "there are none" if maps is None else f"there are {tuple(maps.shape)}"
            raise ValueError(f"built for {self.map_channels} channels of maps; {there}")
        wanted = (len(images), self.map_channels, *images.shape[2:])
        if maps is not None and maps.shape != wanted:
            raise ValueError(f"built for maps {wanted} with these images, not {tuple(maps.shape)}")


class TwoStreamRestorer(Restorer):
    """TRN, a reconstruction: a stream for the image, one for its gradient map, and a block that fuses them.

    The abstract of https://arxiv.org/abs/2202.01117 names the two streams and the Fusion Block; all else is our choice.
    Each input goes through a convolution and ``streams`` residual blocks; then come the fusion, ``tail`` residual
    blocks, and a long skip from the first convolution of the image.

    ``fusion`` says how ``2 * width`` channels become ``width``:

    - "gated": a gate that sees the means of all channels weights them, a 1x1 convolution mixes them, and a residual
      block follows;
    - "concat": the same without the gate;
    - "sum": the same with the streams added instead;
    - "heavy": a residual block on the channels of both, in the manner of SPSR (https://arxiv.org/abs/2003.13081);
    - "early": no fusion; both inputs are stacked in front of one stream of as many blocks.
    """

    def __init__(
        self, channels: int, map_channels: int, *, width: int, streams: int, tail: int, fusion: Fusion = "gated"
    ) -> None:
        if fusion not in get_args(Fusion):
            raise ValueError(f"no fusion {fusion!r}; there are {', '.join(get_args(Fusion))}")
        if map_channels < 1:
            raise ValueError(f"map_channels must be at least 1, not {map_channels}; for none, use ImageRestorer")
        super().__init__(channels, map_channels, width, tail)
        self.kind = fusion
        if fusion == "early":
            self.head = _conv(channels + map_channels, width)
            self.trunk = _blocks(width, 2 * streams + 1)
            return
        self.head, self.map_head = _conv(channels, width), _conv(map_channels, width)
        self.image_stream, self.map_stream = _blocks(width, streams), _blocks(width, streams)
        self.fusion = _fusion(fusion, width)

    def forward(self, images: Tensor, maps: Tensor | None = None) -> Tensor:
        """What is to be subtracted from the images."""
        self.check(images, maps)
        assert maps is not None
        if self.kind == "early":
            skip = self.head(torch.cat([images, maps], 1))
            fused = self.trunk(skip)
        else:
            skip = self.head(images)
            fused = self.fusion(torch.cat([self.image_stream(skip), self.map_stream(self.map_head(maps))], 1))
        residual: Tensor = self.out(self.tail(fused) + skip)
        return residual


class ImageRestorer(Restorer):
    """A control without a map: a single stream with as many residual blocks as both streams and the fusion of TRN.

    >>> one, two = ImageRestorer(3, **SIZES["B"]), TwoStreamRestorer(3, 3, **SIZES["B"])
    >>> [sum(p.numel() for p in network.parameters()) for network in (one, two)]
    [1259075, 1273363]
    """

    def __init__(self, channels: int, *, width: int, streams: int, tail: int) -> None:
        super().__init__(channels, 0, width, tail)
        self.head, self.trunk = _conv(channels, width), _blocks(width, 2 * streams + 1)

    def forward(self, images: Tensor, maps: Tensor | None = None) -> Tensor:
        """What is to be subtracted from the images."""
        self.check(images, maps)
        skip = self.head(images)
        residual: Tensor = self.out(self.tail(self.trunk(skip)) + skip)
        return residual
