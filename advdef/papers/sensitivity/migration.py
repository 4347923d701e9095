"""Whether change migrates: which neurons training held, and how much of the change they had then and have now."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from advdef.papers.sensitivity.measure import SensitivityMeter
from advdef.selection import jaccard, select

__all__ = ["Migration", "migration", "selections", "share_inside"]


@dataclass(frozen=True)
class Migration:
    """Where change went in a network whose training held some neurons; shares are in [0, 1], and means over layers.

    Attributes:
        selections: How often neurons were chosen.
        turnover: Common share (Jaccard) of one selection and the next, averaged; None where there was only one.
        ever: Share of neurons that were ever held.
        then: Share of all sensitivity that the neurons of the last selection had when they were chosen.
        now: Share that the same neurons have in the finished network, by the definition "absolute" (D1).
        now_standardized: The same by the definition "standardized" (D4).
        kept: Common share (Jaccard) of the same neurons and the most sensitive tenth of the finished network.
    """

    selections: int
    turnover: float | None
    ever: float
    then: float
    now: float
    now_standardized: float
    kept: float


def migration(history: Mapping[str, Tensor], meter: SensitivityMeter) -> Migration:
    """What became of the neurons that ``train_sns`` held.

    ``history`` is what it returned, with at least one selection; ``meter`` has seen the finished network on training
    images.
    """
    sets, now = selections(history), meter.compute()
    held = sets[-1]
    turnover = [share for one, following in pairwise(sets) for share in jaccard(one, following).values()]
    return Migration(
        selections=len(sets),
        turnover=float(np.mean(turnover)) if turnover else None,
        ever=float(np.mean([len(history[f"chosen.{layer}"].unique()) / len(now[layer]) for layer in held])),
        then=share_inside({layer: history[f"sensitivity.{layer}"][-1] for layer in held}, held),
        now=share_inside(now, held),
        now_standardized=share_inside(meter.compute("standardized"), held),
        kept=float(np.mean(list(jaccard(held, select({k: now[k] for k in held}, ratio=0.1)).values()))),
    )


def selections(history: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The neurons (k,) by layer that each selection of a training chose, from what ``train_sns`` returns; maybe none.

    >>> import torch
    >>> selections({"loss": torch.zeros(3), "chosen.relu": torch.tensor([[0, 4], [1, 4]])})
    [{'relu': tensor([0, 4])}, {'relu': tensor([1, 4])}]
    """
    chosen = {name.removeprefix("chosen."): rows for name, rows in history.items() if name.startswith("chosen.")}
    return [dict(zip(chosen, rows, strict=True)) for rows in zip(*chosen.values(), strict=True)]


def share_inside(sigma: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> float:
    """Share of a layer's whole sensitivity (C,) that the neurons ``held`` (k,) have, averaged over their layers.

    >>> import torch
    >>> share_inside({"relu": torch.tensor([3.0, 1.0, 0.0])}, {"relu": torch.tensor([0])})
    0.75
    """
    return float(np.mean([sigma[layer][rows].sum() / sigma[layer].sum() for layer, rows in held.items()]))
