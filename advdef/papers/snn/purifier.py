"""The purifier: a network that estimates the perturbation and one that takes it off, both spiking or both not.

Source: the abstract of https://arxiv.org/abs/2404.17092, which names noise extraction and a non-blind residual U-Net;
the layers are those of CBDNet (https://arxiv.org/abs/1807.04686), which has the same two parts. A reconstruction.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.papers.snn.layers import over_time
from advdef.papers.snn.neurons import Firing

__all__ = ["UNIT", "NoiseMap", "NoiseExtractor", "Purifier", "UNet"]

NoiseMap = Literal["magnitude", "signed", "none"]

UNIT = 8 / 255
"""The unit of the noise map, in pixel values; in whole pixel values its square would vanish beside the other losses."""

Activation = Callable[[], nn.Module]


class _Currents(nn.Sequential):
    """Convolutions and their neurons in turn; with ``constant`` the first convolution sees one image for all time
    steps.
    """

    def forward(self, maps: Tensor, constant: bool = False) -> Tensor:
        for layer in self:
            maps = layer(maps, constant=constant) if isinstance(layer, Firing) else layer(maps)
            constant = constant and not isinstance(layer, Firing)
        return maps


def _convolutions(inputs: int, outputs: int, depth: int, activation: Activation) -> _Currents:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(outputs if i else inputs, outputs, 3, padding=1), activation()]
    return _Currents(*layers)


class NoiseExtractor(nn.Module):
    """Five convolutions with neurons between them: images (N, C, H, W) -> a noise map (N, C, H, W), the mean over time.

    The map is `|perturbation|`, kept positive by softplus ("magnitude"), or the perturbation itself ("signed").
    """

    def __init__(self, channels: int, width: int, steps: int, activation: Activation, noise: NoiseMap) -> None:
        super().__init__()
        self.steps, self.noise = steps, noise
        self.body = _convolutions(channels, width, 4, activation)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """The noise map in units of ``UNIT``."""
        # linear, so that its mean over time is its value at the mean
        found: Tensor = self.out(over_time(self.body(images, True), self.steps))
        return F.softplus(found) if self.noise == "magnitude" else found


class UNet(nn.Module):
    """CBDNet's non-blind U-Net: images and their noise map (N, 2 C, H, W) -> what is added to the images (N, C, H, W).

    17 convolutions, two poolings, two transposed convolutions that are added to the skips, and no batch normalisation;
    the output is the mean over time.
    """

    def __init__(self, channels: int, width: int, steps: int, activation: Activation) -> None:
        super().__init__()
        self.steps = steps
        self.entrance = _convolutions(2 * channels, width, 2, activation)
        self.down = _convolutions(width, 2 * width, 3, activation)
        self.bottom = _convolutions(2 * width, 4 * width, 6, activation)
        self.rise = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up = _convolutions(2 * width, 2 * width, 3, activation)
        self.last_rise = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.exit = _convolutions(width, width, 2, activation)
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, stacked: Tensor) -> Tensor:
        """What is to be added to the images."""
        wide = self.entrance(stacked, True)
        middle = self.down(F.avg_pool2d(wide, 2))
        low = self.bottom(F.avg_pool2d(middle, 2))
        middle = self.up(middle + self.rise(low))
        wide = self.exit(wide + self.last_rise(middle))
        added: Tensor = self.out(over_time(wide, self.steps))
        return added


class Purifier(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> images without the perturbation, clipped to [0, 1].

    Untrained it changes nothing, as its last convolution starts at zero; the other weights are drawn by Kaiming's rule.

    Args:
        channels: Channels of the images.
        width: Channels of the U-Net's first stage; CBDNet has 64.
        extractor_width: Channels of the noise extraction.
        steps: Time steps T.
        spiking: With False the same layers have ReLU in place of neurons and one time step: a control of equal size.
        noise: What the noise map is: "magnitude" or "signed" (see :class:`NoiseExtractor`), or "none": the U-Net sees
            zeros.
        threshold: That of the neurons. Without batch normalisation, the usual 0.6 leaves most layers without a single
            spike.
        decay: That of the neurons.

    Raises ValueError for an unknown ``noise``; in a call, for images whose sides cannot be halved twice or that have
    other channels.

    >>> images = torch.rand(2, 3, 32, 32)
    >>> torch.equal(Purifier(3, width=4, extractor_width=4)(images), images)  # untrained
    True
    >>> f"{sum(p.numel() for p in Purifier(3, width=64, extractor_width=32).parameters()) / 1e6:.2f}"
    '4.37'
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        extractor_width: int,
        steps: int = 4,
        spiking: bool = True,
        noise: NoiseMap = "magnitude",
        threshold: float = 0.3,
        decay: float = 0.5,
    ) -> None:
        super().__init__()
        if noise not in get_args(NoiseMap):
            raise ValueError(f"no noise map {noise!r}; there are {', '.join(get_args(NoiseMap))}")
        self.channels, self.noise = channels, noise
        steps = steps if spiking else 1

        def neurons() -> nn.Module:
            return Firing(steps, thresholds=(threshold,), decay=decay) if spiking else nn.ReLU()

        self.extractor = NoiseExtractor(channels, extractor_width, steps, neurons, noise) if noise != "none" else None
        self.restorer = UNet(channels, width, steps, neurons)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.restorer.out.weight)

    def extra_repr(self) -> str:
        """What the noise map is, which no weight tells."""
        return f"noise={self.noise!r}"

    def extract(self, images: Tensor) -> Tensor:
        """The noise map (N, C, H, W), in units of ``UNIT`` pixels."""
        self._check(images)
        return torch.zeros_like(images) if self.extractor is None else self.extractor(images)

    def forward(self, images: Tensor) -> Tensor:
        """Purified images."""
        return self.restore(images, self.extract(images)).clamp(0, 1)

    def restore(self, images: Tensor, noise: Tensor) -> Tensor:
        """Purified images for a given noise map, before they are clipped."""
        restored: Tensor = images + self.restorer(torch.cat([images, noise], 1))
        return restored

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ValueError(f"built for images (N, {self.channels}, H, W), not {tuple(images.shape)}")
        if images.shape[2] % 4 or images.shape[3] % 4:
            raise ValueError(
                f"the U-Net halves images twice, and {images.shape[2]}x{images.shape[3]} cannot be: pad them to a "
                "multiple of 4"
            )
