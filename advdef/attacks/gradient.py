"""The gradient family in the Linf ball: FGSM, BIM, PGD and MIM are one loop with different settings.

All are pure functions ``attack(model, images, labels, *, eps, ...) -> adversarial images``: images (N, C, H, W) in
[0, 1], labels (N,) int64, ``eps`` a number or one per image (N,), in pixel units. They return each image's best iterate
(largest margin on ``model``), keep the ball and [0, 1] exactly, and leave the model's mode, parameters and ``.grad``
untouched. Raises TypeError or ValueError for input that breaks this contract.
"""

import torch
from torch import Tensor, nn

from advdef.attacks._common import borrowed, check_labels, per_image, validate
from advdef.attacks.losses import LOSSES, LossName, margin

__all__ = ["bim", "fgsm", "mim", "pgd"]


def fgsm(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Fast gradient sign method (https://arxiv.org/abs/1412.6572): one step of size eps. Draws nothing."""
    return pgd(model, images, labels, eps=eps, steps=1, step_size=1.0, random_start=False, generator=generator)


def bim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 10,
    step_size: float = 1 / 6,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Basic iterative method (https://arxiv.org/abs/1607.02533): PGD from the image itself.

    The defaults are those of Cleverhans v3.0.1 (0.05 per step for eps 0.3, 10 steps), relative to eps.
    """
    return pgd(
        model,
        images,
        labels,
        eps=eps,
        steps=steps,
        step_size=step_size,
        random_start=False,
        stop_early=stop_early,
        generator=generator,
    )


def mim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 10,
    step_size: float = 1 / 5,
    decay: float = 1.0,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Momentum iterative method (https://arxiv.org/abs/1710.06081): steps along the accumulated normalised gradient.

    The defaults are those of Cleverhans v3.0.1 (0.06 per step for eps 0.3, 10 steps, decay 1), relative to eps.
    """
    return pgd(
        model,
        images,
        labels,
        eps=eps,
        steps=steps,
        step_size=step_size,
        momentum=decay,
        random_start=False,
        stop_early=stop_early,
        generator=generator,
    )


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    loss: LossName = "ce",
    momentum: float | None = None,
    random_start: bool = True,
    start: Tensor | None = None,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent (https://arxiv.org/abs/1706.06083) in the Linf ball.

    ``step_size`` is relative to eps (default 2.5 / steps, at most 1). Restarts attack only what ``model`` still gets
    right. ``start`` (N, C, H, W) replaces the first start point; it is clipped into the ball. With ``stop_early`` an
    image leaves the batch once ``model`` misclassifies it: right when success is judged on this very model; leave it
    off for examples that will be replayed on another one, which a large margin helps. ``generator`` (CPU) draws the
    random starts.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> x = pgd(model, torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), eps=0.1, steps=3)
    >>> float((x - 0.5).abs().max()) <= 0.1 + 1e-6
    True
    """
    budget = validate(images, labels, eps)
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, not {steps} and {restarts}")
    if step_size is not None and not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    if loss not in LOSSES:
        raise ValueError(f"no loss {loss!r}; there are {', '.join(LOSSES)}")
    if start is not None and start.shape != images.shape:
        raise ValueError(f"start must have the shape of images, {tuple(images.shape)}, not {tuple(start.shape)}")
    relative = min(1.0, 2.5 / steps) if step_size is None else step_size
    images = images.detach()
    best = images.clone()
    with borrowed(model):
        with torch.no_grad():
            logits = model(images)
        check_labels(labels, logits)
        best_margin = margin(logits, labels)
        for restart in range(restarts):
            rows = torch.arange(len(images), device=images.device)
            if restart or stop_early:
                rows = rows[best_margin <= 0]
            if len(rows) == 0:
                break
            first = start if restart == 0 else None
            point = images[rows] if first is None else first[rows]
            if first is None and (random_start or restart):
                noise = torch.rand(point.shape, generator=generator, dtype=point.dtype).to(point.device)
                point = point + (2 * noise - 1) * per_image(budget, rows)
            _ascend(
                model, images, labels, budget, rows, point, best, best_margin,
                steps=steps, relative=relative, loss=loss, momentum=momentum, stop_early=stop_early,
            )  # fmt: skip
    return best


def _slope(value: Tensor, point: Tensor) -> Tensor:
    """Gradient as an attacker with plain autograd gets it: zero where the model cuts the graph (a hard decision)."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    (slope,) = torch.autograd.grad(value, point, allow_unused=True)
    return torch.zeros_like(point) if slope is None else slope


def _ascend(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    budget: Tensor,
    rows: Tensor,
    point: Tensor,
    best: Tensor,
    best_margin: Tensor,
    *,
    steps: int,
    relative: float,
    loss: LossName,
    momentum: float | None,
    stop_early: bool,
) -> None:
    """One run from ``point`` over the images ``rows``; writes what it finds into ``best`` and ``best_margin``."""
    ascended = LOSSES[loss]

    def ball(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = per_image(budget, rows)
        return (images[rows] - size).clamp_(min=0), (images[rows] + size).clamp_(max=1), relative * size

    low, high, stride = ball(rows)
    point = torch.minimum(torch.maximum(point, low), high)
    velocity = torch.zeros_like(point)
    for step in range(steps + 1):
        last = step == steps
        with torch.set_grad_enabled(not last):
            point = point.detach().requires_grad_(not last)
            logits = model(point)
        with torch.no_grad():
            found = margin(logits, labels[rows])
            better = found > best_margin[rows]
            best[rows] = torch.where(better[:, None, None, None], point, best[rows])
            best_margin[rows] = torch.where(better, found, best_margin[rows])
        if last:
            return
        with torch.enable_grad():  # the caller may have switched it off
            slope = _slope(ascended(logits, labels[rows]).sum(), point)
        point = point.detach()
        # asking costs a synchronisation, so a GPU is asked less often
        if stop_early and (not images.is_cuda or step % 10 == 9) and bool((found > 0).any()):
            going = found <= 0
            rows, point, slope, velocity = rows[going], point[going], slope[going], velocity[going]
            if len(rows) == 0:
                return
            low, high, stride = ball(rows)
        if momentum is not None:
            size = slope.abs().mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
            slope = velocity = momentum * velocity + slope / size
        point = torch.minimum(torch.maximum(point + stride * slope.sign(), low), high)
