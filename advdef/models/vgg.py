"""VGG-16 for small images: batch normalisation, and one linear layer as its head."""

from torch import Tensor, nn

__all__ = ["VGG16"]


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions in five stages, each stage closed by a pooling that halves the maps.

    Source: configuration D of https://arxiv.org/abs/1409.1556, with batch normalisation (hence no bias in the
    convolutions) and, as usual for 32x32 images, a single linear layer in place of the three.

    ``shape`` is (C, H, W), H and W multiples of 32; images (N, C, H, W) in [0, 1], shifted and scaled to [-1, 1] inside
    -> logits (N, ``num_classes``). ``taps`` names the ReLU after each convolution, and the flattened features. Raises
    ValueError for other sizes.

    >>> sum(p.numel() for p in VGG16((3, 32, 32), 10).parameters())
    14724042
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        inputs, height, width = shape
        wrong = [f"{name} {side}" for name, side in (("height", height), ("width", width)) if side < 32 or side % 32]
        if wrong:
            raise ValueError(f"VGG16 takes images whose sides are multiples of 32, not {' and '.join(wrong)}")
        layers: list[nn.Module] = []
        for outputs, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(inputs * (height // 32) * (width // 32), num_classes)
        self.taps = (*(f"layers.{i}" for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)), "flatten")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.head(self.flatten(self.layers(2 * images - 1)))
        return logits
