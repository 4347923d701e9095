"""How close images are to a reference."""

from torch import Tensor

__all__ = ["psnr"]


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in decibels of images (N, C, H, W) in [0, 1]; infinite where they are equal.

    Raises ValueError unless both have the same shape (N, C, H, W).

    >>> import torch
    >>> psnr(torch.full((1, 3, 8, 8), 0.6, dtype=torch.float64), torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64))
    tensor([20.], dtype=torch.float64)
    """
    if images.dim() != 4 or images.shape != reference.shape:
        raise ValueError(
            "images and reference must have the same shape (N, C, H, W), not "
            f"{tuple(images.shape)} and {tuple(reference.shape)}"
        )
    return -10 * (images - reference).square().mean((1, 2, 3)).log10()
