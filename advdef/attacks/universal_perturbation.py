"""One perturbation for a whole batch of images."""

import torch
from torch import Tensor, nn

from advdef.attacks.losses import LOSSES, margin
from advdef.contract import ask, borrowed, check_logits, slope, validate
from advdef.norms import BallNorm, ball, size

__all__ = ["universal"]


@torch.inference_mode(False)
def universal(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 50,
    step_size: float = 0.1,
    ceiling: float = 9.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Universal perturbation by gradient ascent (https://arxiv.org/abs/1811.11304): the same for all images. Draws
    nothing.

    Much faster than the loop over images of https://arxiv.org/abs/1610.08401. It ascends the sum of the images'
    cross-entropies, and keeps the perturbation that fools most of them (of equals, the one with the largest loss). By
    design, what becomes of an image depends on its batch.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        steps: Number of gradient steps, at least 1.
        step_size: Size of a step, relative to eps.
        ceiling: Where each image's cross-entropy is cut off, so that none counts for too much.
        generator: Not used; there so that all attacks are called alike.

    The contract is otherwise that of :mod:`advdef.attacks.gradient`. Raises TypeError for an eps per image.
    """
    if isinstance(eps, Tensor):
        raise TypeError("a universal perturbation takes one eps for all images, a number")
    images, labels, budget = validate(images, labels, eps, norm=norm)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    if not ceiling > 0:
        raise ValueError(f"ceiling must be positive, not {ceiling}")
    around = ball(images, budget, norm)
    with borrowed(model):
        with torch.no_grad():
            check_logits(ask(model, images), labels)
        shift = best = torch.zeros_like(images[:1])
        most = highest = torch.full((), -1.0, dtype=images.dtype, device=images.device)
        for step in range(steps + 1):
            last = step == steps
            with torch.set_grad_enabled(not last):
                points = around.project(images + shift).requires_grad_(not last)
                logits = ask(model, points)
                total = LOSSES["ce"](logits, labels).clamp(max=ceiling).sum()
            fooled, loss = (margin(logits.detach(), labels) > 0).sum(), total.detach()
            better = (fooled > most) | (fooled == most) & (loss > highest)
            best = torch.where(better, shift, best)
            most, highest = torch.where(better, fooled, most), torch.where(better, loss, highest)
            if not last:
                # of the clipped images, but not through the clipping: there a pixel could not find back
                ascent = around.ascent(slope(total, points).sum(0, keepdim=True))
                shift = _limited(shift + step_size * eps * ascent, eps, norm)
    return around.project(images + best)


def _limited(shift: Tensor, eps: float, norm: BallNorm) -> Tensor:
    """The shift (1, C, H, W), scaled or cut to at most size eps; it is no image, so it need not lie in [0, 1]."""
    if norm == "Linf":
        return shift.clamp(-eps, eps)
    return shift * (eps / size(shift, norm).clamp_min(max(eps, torch.finfo(shift.dtype).tiny)))
