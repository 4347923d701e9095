"""Maps that hold no knowledge of the classifier, or too much: what a gradient map has to be compared with."""

import zlib
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.gradient_map import MapScale, check_frozen, scaled

__all__ = ["OracleMap", "RandomMap", "ShuffledMap", "SobelMap"]


class RandomMap(nn.Module):
    """Gaussian noise (N, C, H, W), always the same for the same image (N, C, H, W), whatever else is in the batch."""

    def forward(self, images: Tensor) -> Tensor:
        """Noise, drawn on the CPU from a checksum of each image's pixels."""
        draws = torch.Generator()
        noise = [
            torch.randn(image.shape, generator=draws.manual_seed(zlib.crc32(image.numpy().data)), dtype=image.dtype)
            for image in images.detach().cpu().contiguous()
        ]
        return torch.stack(noise).to(images.device)


class SobelMap(nn.Module):
    """Length of the spatial gradient of each channel (N, C, H, W), by Sobel's filters: free, and blind to a classifier.

    Scaled as gradient maps are. The maps of SPSR (https://arxiv.org/abs/2003.13081), from which the words "gradient
    map" and "fusion block" are known, are of this kind.
    """

    def __init__(self, *, scale: MapScale = "mean") -> None:
        super().__init__()
        self.scale = scale
        across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.register_buffer("filters", torch.stack([across, across.T])[:, None], persistent=False)
        self.filters: Tensor

    def extra_repr(self) -> str:
        """What the cache of trained weights tells maps apart by."""
        return f"scale={self.scale!r}"

    def forward(self, images: Tensor) -> Tensor:
        """The maps."""
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
        slopes = F.conv2d(padded, self.filters.to(images))
        # the root of nothing has no derivative
        lengths = (slopes.square().sum(1) + 1e-12).sqrt() - 1e-6
        return scaled(lengths.view_as(images), self.scale)


class ShuffledMap(nn.Module):
    """The maps of other images: each image gets that of its neighbour in the batch.

    Raises ValueError for a single image.
    """

    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> Tensor:
        """The maps (N, M, H, W), each moved on by one image."""
        if len(images) < 2:
            raise ValueError("a single image has no neighbour whose map it could get")
        found: Tensor = self.maps(images).roll(1, 0)
        return found


class OracleMap(nn.Module):
    """The gradient of a frozen classifier's cross-entropy to the *true* class: it tells a restorer the answer.

    No defence has it. Kept apart from :class:`advdef.gradient_map.GradientMap`, which takes no label.
    """

    def __init__(self, classifier: nn.Module, *, scale: MapScale = "mean") -> None:
        super().__init__()
        check_frozen(classifier)
        self.classifier, self.scale = classifier, scale
        self.training = False

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return self

    def extra_repr(self) -> str:
        """What the cache of trained weights tells maps apart by."""
        return f"scale={self.scale!r}"

    def forward(self, images: Tensor, *, labels: Tensor) -> Tensor:
        """The maps (N, C, H, W) for labels (N,), without a gradient."""
        check_frozen(self.classifier)
        with torch.inference_mode(False), torch.enable_grad():
            point = images.detach().clone().requires_grad_()
            loss = F.cross_entropy(self.classifier(point), labels.clone(), reduction="sum")
            return scaled(torch.autograd.grad(loss, point)[0], self.scale)
