"""Residual networks for small images: ResNet-18 with a 3x3 stem, and narrower, shallower ones for a CPU."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResNet", "ResNet18", "SmallResNet"]


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Block(nn.Module):
    """Two convolutions and a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.inner = _convolution(inputs, outputs, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.stride = stride
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        # A 1x1 convolution of stride 2 looks at these positions alone. Written as one, in channels_last and with fewer
        # than 16 inputs, its backward pass corrupts memory on CPUs (https://github.com/uxlfoundation/oneDNN/issues/6035).
        # Means of one position each are a slice whose gradient keeps the layout of the maps.
        seen = maps if self.stride == 1 else F.avg_pool2d(maps, 1, self.stride)
        summed: Tensor = self.relu(self.second(self.inner(maps)) + self.shortcut(seen))
        return summed


class ResNet(nn.Module):
    """Basic-block residual network (https://arxiv.org/abs/1512.03385) with a 3x3 stem of stride ``stem_stride``.

    Stage i has ``blocks[i]`` blocks of ``width * 2**i`` channels; each stage but the first halves the maps. H and W
    may be any. Images (N, C, H, W) in [0, 1], shifted and scaled to [-1, 1] inside -> logits (N, ``num_classes``).
    ``taps`` names the stem, each block's first convolution and the block itself, all after their ReLU, and the pooled
    features.
    """

    def __init__(
        self, shape: tuple[int, int, int], num_classes: int, *, blocks: Sequence[int], width: int, stem_stride: int = 1
    ) -> None:
        super().__init__()
        self.stem = _convolution(shape[0], width, stem_stride)
        stages, inputs = [], width
        for i, depth in enumerate(blocks):
            outputs = width * 2**i
            stage = []
            for j in range(depth):
                stage.append(_Block(inputs, outputs, stride=2 if i and not j else 1))
                inputs = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, num_classes)
        inside = [f"stages.{i}.{j}" for i, depth in enumerate(blocks) for j in range(depth)]
        self.taps = ("stem", *(tap for block in inside for tap in (f"{block}.inner", block)), "pool")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.head(self.pool(self.stages(self.stem(2 * images - 1))))
        return logits


class ResNet18(ResNet):
    """ResNet-18 for 32x32 images: 3x3 stem without pooling.

    >>> sum(p.numel() for p in ResNet18((3, 32, 32), 10).parameters())
    11173962
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(shape, num_classes, blocks=(2, 2, 2, 2), width=64)


class SmallResNet(ResNet):
    """Three blocks and a stem of stride 2: a 32x32 colour image costs 3.1 million multiply-adds at the default width.

    >>> sum(p.numel() for p in SmallResNet((3, 32, 32), 10).parameters())
    78042
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, width: int = 16) -> None:
        super().__init__(shape, num_classes, blocks=(1, 1, 1), width=width, stem_stride=2)
