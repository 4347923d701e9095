"""Spiking classifiers: images (N, C, H, W) in [0, 1] -> logits (N, K), the mean of their output over time.

An image is shown as a constant current (direct coding), so the first convolution runs once for all time steps. The last
layer is linear, so the mean over time is taken before it. Both save work and change no value.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from advdef.papers.snn.layers import SqueezeExcitation, ThresholdNorm, over_time
from advdef.papers.snn.neurons import LEVELS, Firing

__all__ = ["SmallSpikingResNet", "SpikingResNet", "SpikingVGG", "SpikingVGG11"]


def _levels(levels: int) -> tuple[float, ...]:
    if levels not in range(1, len(LEVELS) + 1):
        raise ValueError(f"levels must be from 1 to {len(LEVELS)}, not {levels!r}")
    return LEVELS[:levels]


def _check(images: Tensor, stem: "_Unit") -> None:
    channels = stem.convolution.in_channels
    if images.dim() != 4 or images.shape[1] != channels:
        raise ValueError(f"built for images (N, {channels}, H, W), not {tuple(images.shape)}")


def _normal(model: nn.Module) -> None:
    """Kaiming's normal initialisation of all convolutions, as in the released code of MLF."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


class _Unit(nn.Module):
    """A convolution, tdBN, a gate if ``gated``, and neurons."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        steps: int,
        thresholds: tuple[float, ...],
        *,
        kernel: int = 3,
        stride: int = 1,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = ThresholdNorm(outputs, thresholds[0])
        self.gate = SqueezeExcitation(outputs) if gated else nn.Identity()
        self.neurons = Firing(steps, thresholds=thresholds)

    def forward(self, maps: Tensor, *, constant: bool = False) -> Tensor:
        spikes: Tensor = self.neurons(self.gate(self.norm(self.convolution(maps))), constant=constant)
        return spikes


class _Block(nn.Module):
    """Two units and a shortcut, added after the neurons: its output are counts of spikes, which grow with depth."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, steps: int, thresholds: tuple[float, ...], gated: bool
    ) -> None:
        super().__init__()
        self.first = _Unit(inputs, outputs, steps, thresholds, stride=stride)
        self.second = _Unit(outputs, outputs, steps, thresholds, gated=gated)
        self.stride, self.shortcut = stride, nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(_Unit(inputs, outputs, steps, thresholds, kernel=1))

    def forward(self, maps: Tensor) -> Tensor:
        # A 1x1 convolution of stride 2 looks at these positions alone; why it is not written so, ResNet's block says.
        seen = maps if self.stride == 1 else F.avg_pool2d(maps, 1, self.stride)
        summed: Tensor = self.second(self.first(maps)) + self.shortcut(seen)
        return summed


class SpikingResNet(nn.Module):
    """Spiking DS-ResNet with multi-level firing: the network of MLF (https://arxiv.org/abs/2210.06386).

    A 3x3 stem, stages of residual blocks of which each but the first halves the resolution, global pooling and a linear
    layer. ``blocks=(3, 3, 3)`` and ``width=64`` give their ResNet-20 (4.33 million parameters). Pixels are shifted and
    scaled to [-1, 1] inside. H and W may be any.

    Args:
        shape: Channels, height and width of the images; only the channels matter.
        num_classes: Number of classes.
        steps: Time steps T.
        levels: Firing levels, 1 to 3; 1 gives plain LIF neurons.
        gated: Add squeeze-and-excitation. Where it goes is our choice: on the current of a block's second neurons, so
            that what leaves is still spikes.
        blocks: Number of blocks of each stage.
        width: Channels of the first stage; they double with each stage.
        stem_stride: Stride of the stem.

    Raises ValueError for levels outside 1 to 3, a stage without a block, and for images with another number of
    channels.

    >>> network = SpikingResNet((3, 32, 32), 10, steps=4)
    >>> f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}"
    '4.33'
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        steps: int = 4,
        levels: int = 3,
        gated: bool = False,
        blocks: Sequence[int] = (3, 3, 3),
        width: int = 64,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if not blocks or min(blocks) < 1:
            raise ValueError(f"each stage needs a block, not {tuple(blocks)}")
        thresholds = _levels(levels)
        self.steps = steps
        self.stem = _Unit(shape[0], width, steps, thresholds, stride=stem_stride)
        stages, inputs = [], width
        for i, depth in enumerate(blocks):
            outputs = width * 2**i
            for j in range(depth):
                stages.append(_Block(inputs, outputs, 2 if i and not j else 1, steps, thresholds, gated))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)
        _normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        _check(images, self.stem)
        maps = self.stages(self.stem(2 * images - 1, constant=True))
        logits: Tensor = self.head(over_time(maps.mean((2, 3)), self.steps))
        return logits


class SmallSpikingResNet(SpikingResNet):
    """Three blocks and a stem of stride 2, for a CPU; as wide, by default, as :class:`advdef.models.SmallResNet`."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        steps: int = 4,
        levels: int = 3,
        gated: bool = False,
        width: int = 16,
    ) -> None:
        super().__init__(
            shape, num_classes, steps=steps, levels=levels, gated=gated, blocks=(1, 1, 1), width=width, stem_stride=2
        )


class SpikingVGG(nn.Module):
    """Spiking VGG: stages of 3x3 convolutions with tdBN and neurons, average pooling between them, and linear layers.

    ``stages`` holds the channels of each stage's convolutions, ``hidden`` the widths of the linear layers with neurons,
    ``steps`` and ``levels`` are those of :class:`SpikingResNet`. Raises ValueError for levels outside 1 to 3, an empty
    stage, and for images whose sides cannot be halved between all stages or that have other channels.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        stages: Sequence[Sequence[int]],
        hidden: Sequence[int] = (),
        steps: int = 4,
        levels: int = 1,
    ) -> None:
        super().__init__()
        if not stages or not all(stages):
            raise ValueError(f"each stage needs a convolution, not {stages}")
        thresholds, inputs = _levels(levels), shape[0]
        scale = 2 ** (len(stages) - 1)
        if shape[1] % scale or shape[2] % scale:
            raise ValueError(f"images of {shape[1]}x{shape[2]} cannot be halved {len(stages) - 1} times")
        self.steps = steps
        layers: list[Any] = []
        for i, channels in enumerate(stages):
            if i:
                layers.append(nn.AvgPool2d(2))
            for outputs in channels:
                layers.append(_Unit(inputs, outputs, steps, thresholds))
                inputs = outputs
        self.stem, self.layers = layers[0], nn.Sequential(*layers[1:])
        inputs *= (shape[1] // scale) * (shape[2] // scale)
        dense: list[nn.Module] = [nn.Flatten()]
        for outputs in hidden:
            dense += [nn.Linear(inputs, outputs), Firing(steps, thresholds=thresholds)]
            inputs = outputs
        self.dense, self.head = nn.Sequential(*dense), nn.Linear(inputs, num_classes)
        _normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        _check(images, self.stem)
        features = self.dense(self.layers(self.stem(2 * images - 1, constant=True)))
        logits: Tensor = self.head(over_time(features, self.steps))
        return logits


class SpikingVGG11(SpikingVGG):
    """The VGG-11 of SNN-RAT (https://openreview.net/forum?id=xwBdjfKt7_W) with tdBN and our neurons.

    >>> f"{sum(p.numel() for p in SpikingVGG11((3, 32, 32), 10).parameters()) / 1e6:.1f}"
    '61.4'
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, steps: int = 4, levels: int = 1) -> None:
        stages = ((64,), (128, 256), (512, 512, 512), (512, 512))
        super().__init__(shape, num_classes, stages=stages, hidden=(4096, 4096), steps=steps, levels=levels)
