"""A targeted attack towards one wrong class after the other, the most likely ones first."""

import torch
from torch import Tensor, nn

from advdef.attacks._types import Attack, norm_of
from advdef.attacks.losses import margin, wrong_classes
from advdef.contract import ask, borrowed, check_logits, validate

__all__ = ["each_class"]


@torch.inference_mode(False)
def each_class(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    attack: Attack,
    classes: int = 9,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run ``attack`` (one that takes ``targets``) towards each of the ``classes`` most likely wrong classes.

    An ascent of one class's lead finds what the untargeted loss, drawn to the nearest class, runs past (APGD-T of
    https://arxiv.org/abs/2003.01690). Any wrong class counts as success; each image's largest margin is returned, and
    with ``stop_early`` only what ``model`` still gets right goes on to the next class. The contract is that of
    :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps, norm=norm_of(attack) or "Linf")
    budget = budget.flatten()
    if classes < 1:
        raise ValueError(f"classes must be at least 1, not {classes}")
    best = images.clone()
    with borrowed(model):
        with torch.no_grad():
            logits = ask(model, images)
        check_logits(logits, labels)
        best_margin = margin(logits, labels)
        for target in wrong_classes(logits, labels)[:, :classes].unbind(1):
            rows = torch.arange(len(images), device=images.device)
            if stop_early:
                rows = rows[best_margin <= 0]
            if len(rows) == 0:
                break
            found = attack(
                model, images[rows], labels[rows], eps=budget.expand(len(images))[rows], targets=target[rows],
                any_wrong=True, stop_early=stop_early, generator=generator,
            )  # fmt: skip
            with torch.no_grad():
                reached = margin(ask(model, found), labels[rows])
            better = reached > best_margin[rows]
            best[rows] = torch.where(better[:, None, None, None], found, best[rows])
            best_margin[rows] = torch.where(better, reached, best_margin[rows])
    return best
