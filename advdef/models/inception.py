"""An Inception network for small images that a CPU can afford."""

import torch
from torch import Tensor, nn

__all__ = ["SmallInception"]


def _convolution(inputs: int, outputs: int, size: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _Mixed(nn.Module):
    """Four branches side by side, of ``each`` channels after a ReLU: 1x1, 3x3, two 3x3, and pooling."""

    def __init__(self, inputs: int, each: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _convolution(inputs, each, 1),
                nn.Sequential(_convolution(inputs, each, 1), _convolution(each, each, 3)),
                nn.Sequential(_convolution(inputs, each, 1), _convolution(each, each, 3), _convolution(each, each, 3)),
                nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), _convolution(inputs, each, 1)),
            ]
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([branch(maps) for branch in self.branches], 1)


class SmallInception(nn.Module):
    """A stem of stride 2 and three Inception modules with poolings between them.

    The modules are those of https://arxiv.org/abs/1409.4842, with two 3x3 convolutions for the 5x5 one, average pooling
    and batch normalisation as in Inception-V3 (https://arxiv.org/abs/1512.00567). Module i has four branches of
    ``width * 2**i`` channels. At the default width a 32x32 colour image costs 6.7 million multiply-adds.

    Images (N, C, H, W) in [0, 1], shifted and scaled to [-1, 1] inside -> logits (N, ``num_classes``). ``taps`` names
    the stem, the modules (all four branches together, after their ReLUs) and the pooled features.

    >>> sum(p.numel() for p in SmallInception((3, 32, 32), 10).parameters())
    191738
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.stem = _convolution(shape[0], width, 3, stride=2)
        self.mixed = nn.Sequential(
            _Mixed(width, width),
            nn.MaxPool2d(3, stride=2, padding=1),
            _Mixed(4 * width, 2 * width),
            nn.MaxPool2d(3, stride=2, padding=1),
            _Mixed(8 * width, 4 * width),
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16 * width, num_classes)
        self.taps = ("stem", "mixed.0", "mixed.2", "mixed.4", "pool")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.head(self.pool(self.mixed(self.stem(2 * images - 1))))
        return logits
