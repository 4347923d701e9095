"""Random search by squares from any start: asks for logits alone, so it finds where no gradient leads."""

from typing import Literal

import torch
from torch import Tensor, nn

from advdef.attacks.losses import margin
from advdef.contract import ask, borrowed, check_logits, validate
from advdef.draws import fresh_seed, image_keys, uniform
from advdef.evaluation.holes.climbs import Points
from advdef.norms import ball, spread

__all__ = ["PATTERNS", "PatternName", "patches"]

PatternName = Literal["columns", "rows", "pixels", "none"]

PATTERNS: tuple[PatternName, ...] = ("columns", "rows", "pixels", "none")
"""What lies over the start: stripes or single pixels of plus and minus eps, or nothing."""

_BLOCK = 50  # queries for which numbers are drawn at a time
_SHARES = (0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125)  # of the image that a square covers, as the search goes on
_UNTIL = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)


@torch.inference_mode(False)
def patches(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    queries: int = 1000,
    pattern: PatternName = "columns",
    start: Points | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The search of the Square attack (https://arxiv.org/abs/1912.00049) in Linf, from any point and with any pattern.

    Each query sets a random square of the image to plus or minus eps, and keeps it where the margin grows.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the Linf ball in pixel units: one number for all images.
        queries: How often the model is asked about each image, at least 1.
        pattern: Which of :data:`PATTERNS` is added to the start.
        start: Where it begins, moved into the ball. Default: at the image.
        generator: Source of all random numbers. Default: torch's own.

    An image that is wrong is left alone. The contract is otherwise that of :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps)
    if queries < 1:
        raise ValueError(f"queries must be at least 1, not {queries}")
    if pattern not in PATTERNS:
        raise ValueError(f"no pattern {pattern!r}; there are {', '.join(PATTERNS)}")
    around, seed, best = ball(images, budget, "Linf"), fresh_seed(generator), images.clone()
    channels, height, width = images.shape[1:]
    first = images if start is None else start.of(images)
    if pattern != "none":
        shape = {"columns": (channels, 1, width), "rows": (channels, height, 1), "pixels": images.shape[1:]}[pattern]
        signs = torch.where(uniform(image_keys(images, seed), shape, dtype=images.dtype) < 0.5, -1, 1)
        first = first + eps * signs
    first = around.project(first)
    down, across = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    with borrowed(model), torch.no_grad():
        logits = ask(model, images)
        check_logits(logits, labels)
        score, begun = margin(logits, labels), margin(ask(model, first), labels)
        begins = (score <= 0) & ((begun > score) | (pattern == "none"))
        # where the pattern leads away, the search begins at the image all the same
        best, score = torch.where(spread(begins), first, best), torch.where(begins, begun, score)
        for asked in range(1, queries):
            if (asked - 1) % _BLOCK == 0:
                rows = torch.nonzero(score <= 0)[:, 0]
                if len(rows) == 0:
                    break
                drawn = uniform(image_keys(images[rows], seed, asked), (_BLOCK, 2 + channels), dtype=images.dtype)
                near = around.of(rows)
            share = next(s for s, until in zip(_SHARES, _UNTIL, strict=True) if asked <= until * queries)
            side = min(max(1, round((share * height * width) ** 0.5)), height, width)
            numbers = drawn[:, (asked - 1) % _BLOCK]
            top, left = ((numbers[:, i] * (n - side + 1)).long()[:, None] for i, n in enumerate((height, width)))
            inside = ((down >= top) & (down < top + side))[:, None, :, None]
            inside = inside & ((across >= left) & (across < left + side))[:, None, None, :]
            signs = torch.where(numbers[:, 2:] < 0.5, -1, 1)[:, :, None, None]
            point = near.project(torch.where(inside, images[rows] + eps * signs, best[rows]))
            found = margin(ask(model, point), labels[rows])
            better = (found > score[rows]) & (score[rows] <= 0)
            best[rows] = torch.where(spread(better), point, best[rows])
            score[rows] = torch.where(better, found, score[rows])
    return best
