"""Sizes of perturbations, and the balls that they may lie in: Linf or L2 around each image, cut to [0, 1]."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from advdef.draws import normal, uniform

__all__ = ["Ball", "BallNorm", "Norm", "ball", "per_image", "rms_normalised", "show_eps", "size", "spread"]

BallNorm = Literal["Linf", "L2"]
Norm = Literal["Linf", "L2", "L1", "L0"]


def size(perturbation: Tensor, norm: Norm) -> Tensor:
    """Size of each perturbation: (N, C, H, W) -> (N,). L0 counts a pixel once, however many of its channels changed."""
    if norm not in get_args(Norm):
        raise ValueError(f"no norm {norm!r}; there are {', '.join(get_args(Norm))}")
    if norm == "L0":
        return (perturbation != 0).any(1).flatten(1).sum(1).to(perturbation.dtype)
    return torch.linalg.vector_norm(perturbation.flatten(1), {"Linf": float("inf"), "L2": 2, "L1": 1}[norm], 1)


def spread(values: Tensor) -> Tensor:
    """One value per image, reshaped from (N,) to (N, 1, 1, 1), so that it broadcasts against images."""
    return values[:, None, None, None]


def per_image(values: Tensor, keep: Tensor) -> Tensor:
    """The rows ``keep`` of a tensor with a row per image; a single row, which all images share, stays as it is."""
    return values if len(values) == 1 else values[keep]


class Ball(ABC):
    """A ball around each of the ``images`` (N, C, H, W), of radius ``eps``: (N, 1, 1, 1), or (1, 1, 1, 1) for all."""

    def __init__(self, images: Tensor, eps: Tensor) -> None:
        self.images, self.eps = images, eps

    def of(self, rows: Tensor) -> "Ball":
        """The balls around some of the images."""
        return type(self)(self.images[rows], per_image(self.eps, rows))

    @abstractmethod
    def project(self, points: Tensor) -> Tensor:
        """The points, moved into the ball and into [0, 1]."""

    @abstractmethod
    def ascent(self, slope: Tensor) -> Tensor:
        """The direction, of size 1 in the norm, along which a function with this gradient grows fastest; zero where
        that is.
        """

    @abstractmethod
    def sample(self, keys: Tensor) -> Tensor:
        """A uniformly random point of each ball, which may lie outside [0, 1].

        Drawn by the ``keys`` (N,) of :func:`advdef.draws.image_keys`.
        """


class _Linf(Ball):
    def __init__(self, images: Tensor, eps: Tensor) -> None:
        super().__init__(images, eps)
        self.low, self.high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)

    def project(self, points: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(points, self.low), self.high)

    def ascent(self, slope: Tensor) -> Tensor:
        return slope.sign()

    def sample(self, keys: Tensor) -> Tensor:
        noise = uniform(keys, self.images.shape[1:], dtype=self.images.dtype)
        return self.images + (2 * noise - 1) * self.eps


class _L2(Ball):
    def project(self, points: Tensor) -> Tensor:
        moved = points - self.images
        length = spread(size(moved, "L2")).clamp_min(torch.finfo(points.dtype).tiny)
        # a hair inside, so that rounding does not carry the point out again
        inside = self.images + moved * (self.eps * (1 - 1e-6) / length).clamp(max=1)
        # clipping moves every pixel towards the image, which lies in [0, 1]: it never leaves the ball
        return inside.clamp_(0, 1)

    def ascent(self, slope: Tensor) -> Tensor:
        # a gradient may be so small that its squares vanish
        scaled = slope / spread(size(slope, "Linf")).clamp_min(torch.finfo(slope.dtype).tiny)
        return scaled / spread(size(scaled, "L2")).clamp_min(torch.finfo(slope.dtype).tiny)

    def sample(self, keys: Tensor) -> Tensor:
        shape, dtype = self.images.shape[1:], self.images.dtype
        noise = normal(keys, shape, dtype=dtype)
        radius = uniform(~keys, (), dtype=dtype) ** (1 / shape.numel())
        noise = noise * spread(radius / size(noise, "L2").clamp_min(torch.finfo(dtype).tiny))
        return self.images + noise * self.eps


_BALLS: Mapping[BallNorm, type[Ball]] = {"Linf": _Linf, "L2": _L2}


def ball(images: Tensor, eps: Tensor, norm: BallNorm) -> Ball:
    """The balls of radius ``eps`` around images; raises ValueError for a norm other than Linf and L2."""
    if norm not in _BALLS:
        raise ValueError(f"no ball in norm {norm!r}; there are {', '.join(_BALLS)}")
    return _BALLS[norm](images, eps)


def rms_normalised(gradients: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Gradients (..., C, H, W) divided by their root mean square over the image, plus ``eps``; zero stays zero.

    NIP's released code does the same and calls it an L2 normalisation; the L2 norm itself is sqrt(C * H * W) times as
    large.
    """
    return gradients / (gradients.square().mean((-3, -2, -1), keepdim=True).sqrt() + eps)


def show_eps(eps: float) -> str:
    """A budget as the field writes it: in steps of 1/255 where it is a whole number of them and no short decimal.

    >>> [show_eps(eps) for eps in (8 / 255, 0.2, 0.01, 64 / 255)]
    ['8/255', '0.2', '0.01', '64/255']
    """
    steps, decimal = round(255 * eps), f"{eps:g}"
    whole = abs(255 * eps - steps) < 1e-6
    return min(f"{steps}/255", decimal, key=len) if whole else decimal
