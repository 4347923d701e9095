"""R+FGSM: half of the budget by chance, half along the sign of the gradient."""

import torch
from torch import Tensor, nn

from advdef.attacks.gradient import pgd
from advdef.contract import validate
from advdef.draws import fresh_seed, image_keys, uniform

__all__ = ["rfgsm"]


@torch.inference_mode(False)
def rfgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x' = x + eps/2 sign(noise), then eps/2 sign(gradient at x') (https://arxiv.org/abs/1705.07204), in Linf.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps)
    keys = image_keys(images, fresh_seed(generator))
    signs = uniform(keys, images.shape[1:], dtype=images.dtype).round() * 2 - 1
    return pgd(
        model, images, labels, eps=eps, steps=1, step_size=0.5, targets=targets, start=images + budget / 2 * signs,
        generator=generator,
    )  # fmt: skip
