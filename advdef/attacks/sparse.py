"""Attacks that change few pixels: JSMA, which follows a saliency map, and the best single pixel, found by trial."""

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal, margin, wrong_classes
from advdef.contract import ask, borrowed, check_logits, cleaned, counts_passes, validate
from advdef.draws import fresh_seed, image_keys, uniform
from advdef.norms import size, spread

__all__ = ["jsma", "single_pixel"]

_PAIRS = 20_000_000  # most pairs looked at at once


@torch.inference_mode(False)
def jsma(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    theta: float = 1.0,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Jacobian-based saliency map attack (https://arxiv.org/abs/1511.07528), on the logits. Draws nothing.

    Each step adds ``theta`` to the two values of the image that together do most for the target and against all other
    classes. An image is done when its goal is reached, when its next pair would exceed eps, or when no pair helps.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: How many pixels may change (L0), whatever number of their channels; a number, or one per image (N,).
            Infinity is allowed.
        theta: What a step adds: from -1 to 1, not 0. A value within a hundredth of theta of the end of [0, 1] counts as
            having reached it.
        targets: (N,), int64: the class that each image is to be taken for. Default: the most likely wrong class is
            aimed at, and any wrong class ends the search.
        generator: Not used; there so that all attacks are called alike.

    The contract is otherwise that of :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps, norm="L0", unbounded=True)
    budget = budget.flatten().expand(len(images))
    if not 0 < abs(theta) <= 1:
        raise ValueError(f"theta must lie in -1..1 and not be 0, not {theta}")
    sign = 1 if theta > 0 else -1
    points, best = images.clone(), images.clone()
    with borrowed(model):
        with torch.no_grad():
            logits = ask(model, images)
        check_logits(logits, labels)
        aims = wrong_classes(logits, labels)[:, 0] if targets is None else targets
        goal = Goal(labels, aims, any_wrong=targets is None)
        goal.check(logits)
        best_score = goal.score(logits)
        rows = torch.nonzero(best_score <= 0)[:, 0]
        while len(rows):
            now = points[rows]
            moved = (now + theta).clamp(0, 1)
            # a value next to its end has no room for a step that would count
            stuck, now = (moved - now).abs() < 0.01 * abs(theta), now.requires_grad_()
            with torch.enable_grad():
                logits = ask(model, now)
                aimed = sign * logits.gather(1, aims[rows, None]).sum()
                against = aimed - sign * logits.sum()
            score = goal.of(rows).score(logits.detach())
            better = score > best_score[rows]
            best[rows] = torch.where(spread(better), points[rows], best[rows])
            best_score[rows] = torch.where(better, score, best_score[rows])
            if not logits.requires_grad:  # a hard decision: there is no saliency
                cleaned(None, now)
                break
            rise, fall = (
                cleaned(torch.autograd.grad(value, now, retain_graph=True, allow_unused=True)[0], now)
                for value in (aimed, against)
            )
            pair, value = _best_pair(*(slope.masked_fill(stuck, float("-inf")).flatten(1) for slope in (rise, fall)))
            values = moved.flatten(1).gather(1, pair)
            moved = now.detach().flatten(1).scatter(1, pair, values).view_as(moved)
            going = (score <= 0) & (value > 0) & (size(moved - images[rows], "L0") <= budget[rows])
            rows = rows[going]
            points[rows] = moved[going]
    return best


def _best_pair(rise: Tensor, fall: Tensor) -> tuple[Tensor, Tensor]:
    """The pair p, q with the largest (rise_p + rise_q)(fall_p + fall_q), both sums positive: two (N, D) -> (N, 2),
    (N,).

    The product is 0 where there is no such pair. The result is exact although few pairs are looked at: the product
    grows with both sums, so a value that two others surpass in both rise and fall is never needed, since one of the two
    is free to take its place.
    """
    order = rise.argsort(dim=1, descending=True, stable=True)
    rise, fall = rise.gather(1, order), fall.gather(1, order)
    nothing = torch.full_like(fall[:, :1], float("-inf"))
    # the highest and the second highest fall among the values before each one, whose rise is no smaller
    highest = torch.cat([nothing, fall[:, :-1].cummax(1).values], 1)
    second = torch.cat([nothing, torch.minimum(fall, highest)[:, :-1].cummax(1).values], 1)
    needed = fall > second
    width = max(1, int(needed.sum(1).max()))
    kept = needed.byte().argsort(dim=1, descending=True, stable=True)[:, :width]
    order, rise, fall = (values.gather(1, kept) for values in (order, rise.where(needed, float("-inf")), fall))
    pair, best = torch.zeros_like(order[:, :1]).expand(-1, 2), torch.zeros_like(rise[:, 0])
    places = torch.arange(width, device=rise.device)
    for part in places.split(max(1, _PAIRS // (len(rise) * width))):
        up, down = (values[:, part, None] + values[:, None] for values in (rise, fall))
        helps = (up > 0) & (part[:, None] != places)  # and down > 0, or the product does not exceed 0
        found, which = torch.where(helps, up * down, 0).flatten(1).max(1)
        better = found > best
        pair = torch.where(better[:, None], torch.stack([part[which // width], which % width], 1), pair)
        best = torch.where(better, found, best)
    return order.gather(1, pair), best


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
    """The best of many single-pixel changes, all channels to 0 or all to 1 (https://arxiv.org/abs/1612.06299).

    ``eps`` counts pixels (L0, infinity allowed): one pixel is changed where it is at least 1, else none. ``pixels``
    places are drawn for each image; where an image has no more, all are tried and nothing is drawn. Needs no gradient.
    The contract is otherwise that of :mod:`advdef.attacks.gradient`.
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
        at_once = 1 if counts_passes(model) else _FORWARD // 2  # as in advdef.attacks.noise
        for rows in allowed.split(_FORWARD // 2) if len(allowed) else ():
            first = torch.arange(len(rows), device=rows.device)
            for part in order[rows].split(max(1, at_once // len(rows)), 1):
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
