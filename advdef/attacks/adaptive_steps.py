"""Stable adaptive PGD: steps for gradients that are rough or mostly zero, as those through spikes are."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal, LossName
from advdef.attacks.restarts import best_of_restarts, keep_best
from advdef.contract import ask, slope
from advdef.devices import asks_now
from advdef.norms import Ball

__all__ = ["adaptive_ascent", "sa_pgd"]


@torch.inference_mode(False)
def sa_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 100,
    step_size: float = 1.0,
    restarts: int = 1,
    loss: LossName = "ce",
    targets: Tensor | None = None,
    any_wrong: bool = False,
    random_start: bool = True,
    start: Tensor | None = None,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Stable adaptive PGD (https://arxiv.org/abs/2512.22522), in Linf.

    Each pixel has a step of its own: the accumulated gradient over the root of the accumulated squared one, as in Adam,
    but at most ``step_size``. That size is halved at the checkpoints of Auto-PGD, whatever the loss did. Constants are
    those of the authors' code.

    ``step_size`` is that of the first steps, relative to eps; positive. All other parameters and the contract are those
    of :func:`advdef.attacks.pgd`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x = sa_pgd(model, torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), eps=0.1, steps=3)
    >>> float((x - 0.5).abs().max()) <= 0.1 + 1e-6
    True
    """
    if not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, not {step_size}")
    return best_of_restarts(
        partial(adaptive_ascent, relative=step_size), model, images, labels, eps=eps, norm="Linf", steps=steps,
        restarts=restarts, loss=loss, targets=targets, any_wrong=any_wrong, random_start=random_start, start=start,
        stop_early=stop_early, generator=generator,
    )  # fmt: skip


def adaptive_ascent(
    model: nn.Module,
    around: Ball,
    goal: Goal,
    rows: Tensor,
    point: Tensor,
    best: Tensor,
    best_score: Tensor,
    *,
    steps: int,
    loss: LossName,
    stop_early: bool,
    relative: float,
    networks: Sequence[nn.Module] = (),
) -> None:
    """One run of stable adaptive PGD: an :class:`advdef.attacks.restarts.Ascent`.

    ``relative`` is the size of the first steps relative to eps. ``networks`` have the values of the model and other
    gradients; they take turns, a step each (default: the model alone). All other parameters are those of every ascent.
    """
    turns, mean, square = networks or (model,), torch.zeros_like(point), torch.zeros_like(point)
    for step, size in enumerate((*_sizes(steps), 0.0)):
        last = step == steps
        with torch.set_grad_enabled(not last):
            point = point.detach().requires_grad_(not last)
            logits = ask(turns[step % len(turns)], point)
        with torch.no_grad():
            found = goal.score(logits)
            keep_best(best, best_score, rows, point, found, stop_early=stop_early)
            going = (best_score[rows] if stop_early else found) <= 0
        if last:
            return
        with torch.enable_grad():  # the caller may have switched it off
            gradient = slope(goal.loss(loss, logits).sum(), point, going)
        point = point.detach()
        if stop_early and asks_now(step, point.device) and not bool(going.all()):
            rows, point, gradient, mean, square = (v[going] for v in (rows, point, gradient, mean, square))
            if len(rows) == 0:
                return
            goal, around = goal.of(going), around.of(going)
        mean, square = 0.5 * mean + _scaled(gradient), 0.8 * square + _scaled(gradient.square())
        change = (mean / square.sqrt().clamp_min(_least(square))).clamp(-1, 1)
        point = around.project(point + relative * size * around.eps * change)


def _sizes(steps: int) -> Iterator[float]:
    """The size of each step, relative to the first."""
    until, fewer, fewest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    size, left = 1.0, until
    for _ in range(steps):
        yield size
        left -= 1
        if left == 0:
            size, until = size / 2, max(until - fewer, fewest)
            left = until


def _scaled(values: Tensor) -> Tensor:
    """Divided by the mean size of each image's values; zeros stay zeros."""
    return values / values.abs().mean((1, 2, 3), keepdim=True).clamp_min(_least(values))


def _least(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
