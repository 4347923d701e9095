"""LeNet-5 and AlexNet with ReLU and max-pooling, for small images, and the CNN of the Cleverhans tutorials."""

from torch import Tensor, nn

__all__ = ["AlexNet", "CleverhansCNN", "LeNet5"]


class CleverhansCNN(nn.Module):
    """Three convolutions of ``width`` and twice ``width`` filters and a linear layer; no pooling, no normalisation.

    Source: QuSecNets (https://arxiv.org/abs/1811.01437) names the layers; strides, padding and the He-normal
    initialisation are those of Cleverhans v3.0.1 (``utils_keras.cnn_model``, ``model_zoo/basic_cnn.py``).
    TensorFlow's "same" padding of the first layer is symmetric (3) for every even image side.

    ``shape`` is (C, H, W) with H = W, even and at least 28; images (N, C, H, W) in [0, 1] -> logits
    (N, ``num_classes``). ``taps`` names the ReLU after each convolution. Raises ValueError for other sizes.

    >>> sum(p.numel() for p in CleverhansCNN((1, 28, 28), 10).parameters())
    710218
    """

    taps = ("layers.1", "layers.3", "layers.5")

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        channels, height, across = shape
        if height != across or height < 28 or height % 2:
            raise ValueError(f"CleverhansCNN takes square images with an even side of at least 28, not {shape}")
        side = (height // 2 - 6) // 2 + 1 - 4
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 8, stride=2, padding=3),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 6, stride=2),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * side * side, num_classes),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.layers(images)
        return logits


class LeNet5(nn.Module):
    """Two 5x5 convolutions of 6 and 16 maps, and three linear layers (LeCun et al., Proceedings of the IEEE 86, 1998).

    The sigmoids, trainable subsampling and sparse connections of the original are ReLU, max-pooling and full
    connections here. ``shape`` is (C, H, W), H and W even and from 28 to 64; images under 32 pixels get a black border
    of 2 first. Images (N, C, H, W) in [0, 1], shifted and scaled to [-1, 1] inside -> logits (N, ``num_classes``).
    ``taps`` names the ReLU after each convolution, and the flattened features. Raises ValueError for other sizes.

    >>> sum(p.numel() for p in LeNet5((1, 28, 28), 10).parameters())
    61706
    """

    taps = ("layers.1", "layers.4", "flatten")

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, *sides = shape
        if any(side % 2 or not 28 <= side <= 64 for side in sides):
            raise ValueError(f"LeNet5 takes images with even sides from 28 to 64, not {shape}")
        self.border = 2 if min(sides) < 32 else 0
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.flatten = nn.Flatten()
        height, width = (((side + 2 * self.border - 4) // 2 - 4) // 2 for side in sides)
        self.head = nn.Sequential(
            nn.Linear(16 * height * width, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        framed = nn.functional.pad(images, (self.border,) * 4)
        logits: Tensor = self.head(self.flatten(self.layers(2 * framed - 1)))
        return logits


class AlexNet(nn.Module):
    """Five 3x3 convolutions and three linear layers: AlexNet (Krizhevsky et al., NIPS 2012) as usual for 32x32 images.

    The first convolution has stride 2; there is no local response normalisation. ``shape`` is (C, H, W), H and W
    multiples of 16; images (N, C, H, W) in [0, 1], shifted and scaled to [-1, 1] inside -> logits
    (N, ``num_classes``). ``taps`` names the ReLU after each convolution, and the flattened features. Raises ValueError
    for other sizes.

    >>> sum(p.numel() for p in AlexNet((3, 32, 32), 10).parameters())
    23272266
    """

    taps = ("layers.1", "layers.4", "layers.7", "layers.9", "layers.11", "flatten")

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if any(side < 16 or side % 16 for side in (height, width)):
            raise ValueError(f"AlexNet takes images whose sides are multiples of 16, not {shape}")
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.flatten = nn.Flatten()
        self.head = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * (height // 16) * (width // 16), 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.head(self.flatten(self.layers(2 * images - 1)))
        return logits
