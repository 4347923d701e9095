"""An attack that begins where another one, on another model, ended."""

import inspect

import torch
from torch import Tensor, nn

from advdef.attacks._types import Attack, describe

__all__ = ["warm_started"]


def warm_started(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    source: nn.Module,
    first: Attack,
    attack: Attack,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``attack`` on ``model`` from what ``first`` finds on ``source`` (a surrogate, or the bare classifier).

    ``attack`` is one that takes a ``start``, like :func:`advdef.attacks.pgd`, whose contract holds. Where the way from
    the image itself is flat or leads astray, a point that fools a relative may be a better one to begin at
    (https://arxiv.org/abs/2002.08347 does so throughout).

    Raises TypeError for an ``attack`` that takes no ``start``.
    """
    if "start" not in inspect.signature(attack).parameters:
        raise TypeError(f"attack must take a start, as pgd and apgd do; {describe(attack)} does not")
    start = first(source, images, labels, eps=eps, generator=generator)
    return attack(model, images, labels, eps=eps, start=start.detach(), generator=generator)
