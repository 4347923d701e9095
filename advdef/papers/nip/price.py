"""What defences cost, in benign accuracy and in time; what was measured can be kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef.data import Split
from advdef.defenses.base import Defense, reseed
from advdef.devices import exact
from advdef.evaluation import Cost, correct, cost
from advdef.store import kept, key

__all__ = ["affordable", "costs", "right_on"]


def right_on(
    defences: Sequence[nn.Module], images: Sequence[Tensor], labels: Tensor, *, resume: Path | None = None
) -> Tensor:
    """Which of N images, in S versions, each of D defences classifies right: (D, S, N) booleans.

    Args:
        defences: What is asked.
        images: The versions, each (N, C, H, W) in [0, 1].
        labels: (N,), int64.
        resume: A folder that keeps what was found.
    """
    for defence in defences:  # a key holds where its draws begin
        reseed(defence, 0)

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = [torch.stack([correct(defence, x, labels) for x in images]) for defence in defences]
        return {"right": torch.stack(found)}, {}

    if resume is None:
        return make()[0]["right"]
    asked = key("right", by=correct, defences=list(defences), images=list(images), labels=labels)
    return kept(resume, asked, make, label="right").tensors["right"].to(labels.device)


def affordable(
    classifier: nn.Module, defences: Mapping[float, nn.Module], benign: Split, *, resume: Path | None = None
) -> tuple[float, ...]:
    """The steps, keys of ``defences``, at which accuracy on benign images is at most one point below the classifier's.

    ``resume`` is a folder that keeps what was found.
    """
    asked, images = [classifier, *defences.values()], [benign.float_images()]
    before, *after = exact(right_on(asked, images, benign.labels, resume=resume)).mean((1, 2)).tolist()
    return tuple(step for step, left in zip(defences, after, strict=True) if left >= before - 0.01 - 1e-9)


def costs(
    defences: Mapping[str, Defense], images: Tensor, *, rounds: int, resume: Path | None = None
) -> dict[str, Cost]:
    """What each defence costs on images (N, C, H, W), by :func:`advdef.evaluation.cost`, measured one after the other.

    ``resume`` is a folder that keeps what was found, the times of the first measurement included.
    """
    for defence in defences.values():
        reseed(defence, 0)

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {name: asdict(cost(defence, images, rounds=rounds)) for name, defence in defences.items()}

    if resume is None:
        found = make()[1]
    else:
        asked = key("costs", by=cost, defences=dict(defences), images=images, rounds=rounds)
        found = kept(resume, asked, make, label="costs").facts
    return {name: Cost(**told) for name, told in found.items()}
