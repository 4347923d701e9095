"""One pixel set to black or to white, by trying them."""

import torch
from torch import Tensor, nn

from advdef.attacks.losses import margin
from advdef.contract import ask, borrowed, check_logits, validate
from advdef.draws import fresh_seed, image_keys, uniform
from advdef.norms import spread

__all__ = ["single_pixel"]

_FORWARD = 512  # candidates in one forward pass


@torch.inference_mode(False)
def single_pixel(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    pixels: int = 1000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The best single pixel among ``pixels`` random ones, all channels 0 or all 1 (https://arxiv.org/abs/1612.06299).

    Contract as in :mod:`advdef.attacks.gradient`, for an ``eps`` in pixels (L0, infinity allowed): the attack uses one
    pixel where eps is at least 1, else none. Draws nothing when the image has no more than ``pixels`` pixels: then all
    are tried. Needs no gradient.
    """
    images, labels, budget = validate(images, labels, eps, norm="L0", unbounded=True)
    if pixels < 1:
        raise ValueError(f"pixels must be at least 1, not {pixels}")
    best = images.clone()
    places = torch.arange(images[0, 0].numel(), device=images.device)
    order = places.expand(len(images), -1)
    if pixels < len(places):
        order = uniform(image_keys(images, fresh_seed(generator)), order.shape[1:]).argsort(1)[:, :pixels]
    ends = torch.tensor([0.0, 1.0], dtype=images.dtype, device=images.device)[:, None, None]
    with borrowed(model), torch.no_grad():
        logits = ask(model, images)
        check_logits(logits, labels)
        best_margin = margin(logits, labels)
        allowed = torch.nonzero((budget.flatten() >= 1).expand(len(images)))[:, 0]
        for rows in allowed.split(_FORWARD // 2) if len(allowed) else ():
            first = torch.arange(len(rows), device=rows.device)
            for part in order[rows].split(max(1, _FORWARD // 2 // len(rows)), 1):
                chosen = (part[..., None] == places)[:, :, None, None]
                points = torch.where(chosen, ends, images[rows].flatten(2)[:, None, None])
                points = points.view(-1, *images.shape[1:])  # of image, pixel, end, channel and place
                tried = len(points) // len(rows)
                found, which = margin(ask(model, points), labels[rows].repeat_interleave(tried)).view(-1, tried).max(1)
                points = points[first * tried + which]
                better = found > best_margin[rows]
                best[rows] = torch.where(spread(better), points, best[rows])
                best_margin[rows] = torch.where(better, found, best_margin[rows])
    return best
