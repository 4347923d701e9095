"""The CNN of the Cleverhans tutorials, the classifier of QuSecNets."""

from torch import Tensor, nn

__all__ = ["CleverhansCNN"]


class CleverhansCNN(nn.Module):
    """Three convolutions and a linear layer; no pooling, no normalisation.

    Source: QuSecNets (https://arxiv.org/abs/1811.01437) names the layers; strides, padding and the He-normal
    initialisation are those of Cleverhans v3.0.1 (``utils_keras.cnn_model``, ``model_zoo/basic_cnn.py``).
    TensorFlow's "same" padding of the first layer is symmetric (3) for every even image side.

    ``shape`` is (C, H, W) with H = W, even and at least 28; images (N, C, H, W) in [0, 1] -> logits
    (N, ``num_classes``). ``taps`` names the ReLU after each convolution. Raises ValueError for other sizes.

    >>> sum(p.numel() for p in CleverhansCNN((1, 28, 28), 10).parameters())
    710218
    """

    taps = ("layers.1", "layers.3", "layers.5")

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if height != width or height < 28 or height % 2:
            raise ValueError(f"CleverhansCNN takes square images with an even side of at least 28, not {shape}")
        side = (height // 2 - 6) // 2 + 1 - 4
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 8, stride=2, padding=3),
            nn.ReLU(),
            nn.Conv2d(64, 128, 6, stride=2),
            nn.ReLU(),
            nn.Conv2d(128, 128, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128 * side * side, num_classes),
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
