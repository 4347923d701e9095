"""Random points of the ball: random search, the control that every attack with a gradient must beat."""

import torch
from torch import Tensor, nn

from advdef.attacks.losses import margin
from advdef.contract import ask, borrowed, check_logits, counts_passes, validate
from advdef.draws import fresh_seed, image_keys
from advdef.norms import BallNorm, ball, spread

__all__ = ["uniform_noise"]

_FORWARD = 512  # most candidates in one forward pass, unless the batch itself is larger


@torch.inference_mode(False)
def uniform_noise(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "Linf",
    draws: int = 100,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The best of ``draws`` random points of the ball: the control that any attack with a gradient must beat.

    Recommended in https://arxiv.org/abs/1902.06705. Needs no gradient.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        norm: "Linf" or "L2".
        draws: Number of points drawn for each image, uniformly from its ball. That of the largest margin is returned,
            or the image itself where none has a larger one.
        stop_early: Drop an image from the batch once it is misclassified.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps, norm=norm)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    best, around = images.clone(), ball(images, budget, norm)
    seed, drawn = fresh_seed(generator), 0
    # a pass is another draw: were several points tried in one, the size of the batch would change what is found
    at_once = 1 if counts_passes(model) else _FORWARD
    with borrowed(model), torch.no_grad():
        logits = ask(model, images)
        check_logits(logits, labels)
        best_margin = margin(logits, labels)
        rows = torch.arange(len(images), device=images.device)
        while drawn < draws:
            if stop_early:
                rows = rows[best_margin[rows] <= 0]
                if len(rows) == 0:
                    break
            copies = range(drawn, min(draws, drawn + max(1, at_once // len(rows))))
            drawn = copies.stop
            several = rows.repeat(len(copies))
            near = around.of(several)
            keys = torch.cat([image_keys(images[rows], seed, number) for number in copies])
            points = near.project(near.sample(keys))
            found, which = margin(ask(model, points), labels[several]).unflatten(0, (len(copies), -1)).max(0)
            points = points[which * len(rows) + torch.arange(len(rows), device=rows.device)]
            better = found > best_margin[rows]
            best[rows] = torch.where(spread(better), points, best[rows])
            best_margin[rows] = torch.where(better, found, best_margin[rows])
    return best
