"""Defences that edit the image before the classifier sees it, untrained and without a label.

NIP is compared with them. None resists an attacker who takes the gradient at the edited image for that at the image
(BPDA, https://arxiv.org/abs/1802.00420), which is the surrogate here.
"""

import io
from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from advdef.attacks.wrappers import replace_gradient
from advdef.contract import ask
from advdef.defenses.base import Defense

__all__ = ["BitDepth", "GaussianBlur", "Jpeg", "Median", "Preprocessed", "TotalVariation"]


class Preprocessed(Defense):
    """A classifier that sees edited images; a subclass says by ``prepare`` how they are edited."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self._classifier = classifier
        self.training = getattr(classifier, "training", False)

    @property
    def classifier(self) -> nn.Module:
        """The classifier, fed with the images as they come."""
        return self._classifier

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """The edited images (N, C, H, W), in [0, 1]: what the classifier sees."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classifier on edited images; raises ValueError for a ``prepare`` that changes their shape."""
        prepared = self.prepare(images)
        if not isinstance(prepared, Tensor) or prepared.shape != images.shape:
            found = tuple(prepared.shape) if isinstance(prepared, Tensor) else type(prepared).__name__
            wanted = f"a tensor of shape {tuple(images.shape)}, as it was given"
            raise ValueError(f"{type(self).__name__}.prepare must return {wanted}, not {found}")
        return ask(self._classifier, prepared)

    def surrogates(self) -> dict[str, nn.Module]:
        """BPDA: the deployed values, with the gradient at the edited image for that at the image."""
        return {"straight-through": _StraightThrough(self)}


class _StraightThrough(nn.Module):
    def __init__(self, defence: Preprocessed) -> None:
        super().__init__()
        self.defence, self.network = defence, defence.network

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            prepared = self.defence.prepare(images)
        if torch.is_grad_enabled():
            prepared = replace_gradient(prepared, images)
        return ask(self.network, prepared)


class BitDepth(Preprocessed):
    """Pixels rounded to 2^bits equally spaced values, one squeezer of Xu et al. (https://arxiv.org/abs/1704.01155).

    Feature squeezing was broken in https://arxiv.org/abs/1706.04701. Raises ValueError unless bits are 1 to 8.

    >>> BitDepth(nn.Flatten(), bits=1)(torch.tensor([[[[0.2, 0.7]]]]))
    tensor([[0., 1.]])
    """

    def __init__(self, classifier: nn.Module, bits: int = 4) -> None:
        super().__init__(classifier)
        if bits not in range(1, 9):
            raise ValueError(f"bits must be a whole number from 1 to 8, not {bits}")
        self.bits = bits

    def prepare(self, images: Tensor) -> Tensor:
        """Rounded pixels; a half goes to the even level."""
        top = 2**self.bits - 1
        return (images * top).round() / top


class Median(Preprocessed):
    """The 2x2 median of each channel, the other squeezer of Xu et al. (https://arxiv.org/abs/1704.01155).

    As in scipy's ``median_filter(size=2, mode="reflect")``, the window of a pixel reaches up and left, and of its four
    values the third smallest is taken. It was broken with :class:`BitDepth`.
    """

    def prepare(self, images: Tensor) -> Tensor:
        """Filtered pixels. Each is one of the pixels in its window, and autograd leads to that one."""
        padded = F.pad(images, (1, 0, 1, 0), mode="replicate")
        left, right = padded[..., :-1], padded[..., 1:]
        low, high = torch.minimum(left, right), torch.maximum(left, right)
        # the second largest of two ordered pairs: the smaller of both maxima, or a minimum above it
        return torch.minimum(high[:, :, :-1], high[:, :, 1:]).maximum(torch.maximum(low[:, :, :-1], low[:, :, 1:]))


class GaussianBlur(Preprocessed):
    """Each channel blurred with a Gaussian of ``sigma`` pixels, cut off at three sigma; at the edges pixels are
    repeated.

    The simplest filter against a perturbation of high frequency. Raises ValueError for a sigma that is not positive.
    """

    def __init__(self, classifier: nn.Module, sigma: float = 0.5) -> None:
        super().__init__(classifier)
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma must be positive and finite, not {sigma}")
        self.sigma = sigma

    def prepare(self, images: Tensor) -> Tensor:
        """Blurred pixels."""
        reach = max(1, round(3 * self.sigma))
        along = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
        weights = torch.exp(-0.5 * (along / self.sigma).square())
        weights = weights / weights.sum()
        kernel = (weights[:, None] * weights).expand(images.shape[1], 1, -1, -1)
        padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
        return F.conv2d(padded, kernel, groups=images.shape[1]).clamp(0, 1)


class Jpeg(Preprocessed):
    """Compression to JPEG by Pillow, whose defaults include colours at half the resolution.

    Proposed in https://arxiv.org/abs/1608.00853; broken in https://arxiv.org/abs/1802.00420. Images are rounded to
    whole grey levels and compressed on the CPU, so autograd finds no gradient. Raises ValueError unless quality is 1 to
    100 and images are grey or RGB.
    """

    def __init__(self, classifier: nn.Module, quality: int = 75) -> None:
        super().__init__(classifier)
        if quality not in range(1, 101):
            raise ValueError(f"quality must be a whole number from 1 to 100, not {quality}")
        self.quality = quality

    def prepare(self, images: Tensor) -> Tensor:
        """Compressed and decompressed images."""
        if images.shape[1] not in (1, 3):
            raise ValueError(f"JPEG takes grey or RGB images, not {images.shape[1]} channels")
        pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        decoded = torch.from_numpy(np.stack([self._coded(image) for image in pixels])).to(images.device)
        return decoded.permute(0, 3, 1, 2).to(images.dtype) / 255

    def _coded(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W, C) of bytes, written to a file in memory and read again."""
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=self.quality)
        return np.asarray(Image.open(file)).reshape(image.shape)


class TotalVariation(Preprocessed):
    """The image u that minimises `|u - x|^2 / 2 + weight * TV(u)` for the image x, clipped to [0, 1].

    TV is the isotropic total variation, of each channel by itself. In the manner of Guo et al.
    (https://arxiv.org/abs/1711.00117), who also drop pixels at random, which is not done here; broken in
    https://arxiv.org/abs/1802.00420.

    ``iterations`` are steps of accelerated gradient projection on the dual problem (Beck & Teboulle,
    https://doi.org/10.1109/TIP.2009.2028250). On digits the defaults come within 0.01 of u; a larger weight needs more.
    Autograd goes through all of them. Weight 0 changes nothing.

    Raises ValueError for a weight that is negative or not finite, and for fewer than one iteration.

    >>> TotalVariation(nn.Flatten(), weight=0.1)(torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]]))
    tensor([[0.0500, 0.0500, 0.9500, 0.9500]])
    """

    def __init__(self, classifier: nn.Module, weight: float = 0.1, *, iterations: int = 50) -> None:
        super().__init__(classifier)
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be finite and not negative, not {weight}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {iterations}")
        self.weight, self.iterations = weight, iterations

    def prepare(self, images: Tensor) -> Tensor:
        """Smoothed images; the mean of each channel stays as it is, except for what is clipped."""
        # the differences' squared norm is below 8; a shorter step converges too, which lets the weight be 0
        step = 1 / (8 * max(self.weight, 1e-6))
        ahead = flow = torch.zeros_like(_differences(images))
        for k in range(self.iterations):
            moved = ahead + step * _differences(images + self.weight * _divergence(ahead))
            # to at most length 1; clamped before the root, whose gradient at zero would be infinite
            moved = moved * moved.square().sum(0).clamp(min=1).rsqrt()
            ahead, flow = moved + k / (k + 3) * (moved - flow), moved
        return (images + self.weight * _divergence(flow)).clamp(0, 1)


def _differences(images: Tensor) -> Tensor:
    """(2, N, C, H, W): each pixel's difference to the one below and to the one on its right; zero at the border."""
    return torch.stack([images.diff(dim=-2, append=images[..., -1:, :]), images.diff(dim=-1, append=images[..., -1:])])


def _divergence(flow: Tensor) -> Tensor:
    """(N, C, H, W): what flows out of each pixel less what flows in; minus the transpose of ``_differences``.

    No flow may cross the border; that of the differences never does.
    """
    return F.pad(flow[0], (0, 0, 1, 0)).diff(dim=-2) + F.pad(flow[1], (1, 0)).diff(dim=-1)
