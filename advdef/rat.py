"""Regularised adversarial training of spiking networks, a common baseline.

Source: SNN-RAT (https://openreview.net/forum?id=xwBdjfKt7_W). After each step every weight matrix W is drawn towards
rows that are orthonormal: W <- (1 + b) W - b W W^T W. Written from a description of the method; its projection of skip
weights has no counterpart in our networks.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advdef.data import Split
from advdef.training.adversarial import train_at

__all__ = ["orthogonalise", "train_rat"]

_MANY_ROWS = 200


def orthogonalise(model: nn.Module, beta: float, *, generator: torch.Generator | None = None) -> None:
    """One step for the weights of all convolutions and linear layers, in place.

    Of linear layers with 200 rows and more, 30 % of the rows take part, drawn anew each time. Raises ValueError for a
    beta that is negative or not finite.
    """
    _check_beta(beta)
    with torch.no_grad():
        for module in model.modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            rows = module.weight.flatten(1)
            if isinstance(module, nn.Linear) and len(rows) >= _MANY_ROWS:
                drawn = torch.randperm(len(rows), generator=generator)[: round(0.3 * len(rows))].to(rows.device)
                rows[drawn] = _drawn(rows[drawn], beta)
            else:
                module.weight.copy_(_drawn(rows, beta).view_as(module.weight))


def _check_beta(beta: float) -> None:
    """Raise ValueError for a beta that is negative or not finite."""
    if not 0 <= beta < float("inf"):
        raise ValueError(f"beta must be finite and not negative, not {beta}")


def _drawn(rows: Tensor, beta: float) -> Tensor:
    return (1 + beta) * rows - beta * rows @ rows.T @ rows


def train_rat(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    steps: int,
    epochs: int,
    generator: torch.Generator,
    beta: float = 5e-4,
    **options: Any,
) -> dict[str, Tensor]:
    """Adversarial training with orthogonal weights; ``options`` as in :func:`advdef.training.adversarial.train_at`.

    The original has no weight decay. Raises what ``train_at`` and :func:`orthogonalise` raise.
    """
    _check_beta(beta)
    follow = partial(orthogonalise, model, beta, generator=generator)
    return train_at(
        model, split, eps=eps, steps=steps, epochs=epochs, generator=generator, after_step=follow, **options
    )
