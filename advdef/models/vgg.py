"""VGG networks for small images, with batch normalisation: VGG-16, VGG-19, and a narrow one for a CPU."""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["VGG", "VGG16", "VGG19", "SmallVGG"]


class VGG(nn.Module):
    """3x3 convolutions in stages, each closed by a pooling that halves the maps; then linear layers.

    Source: https://arxiv.org/abs/1409.1556, with batch normalisation (hence no bias before it). Stage i has
    ``stages[i] = (channels, convolutions)``; ``hidden`` are the widths of linear layers before the last one, each with
    batch normalisation, ReLU and dropout of one half.

    ``shape`` is (C, H, W), H and W multiples of 2 to the number of stages; images (N, C, H, W) in [0, 1], shifted and
    scaled to [-1, 1] inside -> logits (N, ``num_classes``). ``taps`` names the ReLU after each convolution, and the
    flattened features. Raises ValueError for other sizes.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        stages: Sequence[tuple[int, int]],
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        inputs, height, width = shape
        halved = 2 ** len(stages)
        wrong = [f"{name} {s}" for name, s in (("height", height), ("width", width)) if s < halved or s % halved]
        if wrong:
            kind, given = type(self).__name__, " and ".join(wrong)
            raise ValueError(f"{kind} takes images whose sides are multiples of {halved}, not {given}")
        layers: list[nn.Module] = []
        for outputs, depth in stages:
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        inputs *= (height // halved) * (width // halved)
        dense: list[nn.Module] = []
        for units in hidden:
            dense += [nn.Linear(inputs, units, bias=False), nn.BatchNorm1d(units), nn.ReLU(), nn.Dropout(0.5)]
            inputs = units
        last = nn.Linear(inputs, num_classes)
        self.head: nn.Module = nn.Sequential(*dense, last) if dense else last
        self.taps = (*(f"layers.{i}" for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)), "flatten")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.head(self.flatten(self.layers(2 * images - 1)))
        return logits


class VGG16(VGG):
    """Configuration D with, as usual for 32x32 images, a single linear layer in place of the three.

    >>> sum(p.numel() for p in VGG16((3, 32, 32), 10).parameters())
    14724042
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(shape, num_classes, stages=((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))


class VGG19(VGG):
    """Configuration E with its two hidden layers of 4,096 units; 512 flattened features for a 32x32 image.

    >>> sum(p.numel() for p in VGG19((3, 32, 32), 10).parameters())
    38961610
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        stages = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
        super().__init__(shape, num_classes, stages=stages, hidden=(4096, 4096))


class SmallVGG(VGG):
    """Six convolutions in three stages of 16 to 64 channels; 1,024 flattened features for a 32x32 image.

    A 32x32 colour image costs 9.9 million multiply-adds.

    >>> sum(p.numel() for p in SmallVGG((3, 32, 32), 10).parameters())
    82554
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(shape, num_classes, stages=((16, 2), (32, 2), (64, 2)))
