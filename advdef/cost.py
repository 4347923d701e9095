"""What a defence costs at inference: time, and passes through its network."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from advdef.attacks._common import borrowed
from advdef.defenses.base import Defense
from advdef.evaluation import counted

__all__ = ["Cost", "cost"]


@dataclass(frozen=True)
class Cost:
    """Milliseconds for an image, alone and in a batch, and passes through the network for one image."""

    alone: float
    batched: float
    forwards: float
    backwards: float


def cost(defence: Defense, images: Tensor, *, rounds: int = 20) -> Cost:
    """Median times over ``rounds``, after one that does not count, for the first image and for all (N, C, H, W).

    A backward pass counts once, however deep it goes. Raises ValueError for no rounds or no images.
    """
    if rounds < 1 or len(images) == 0:
        raise ValueError(f"need at least one round and one image, not {rounds} and {len(images)}")
    passes = {"forward": 0, "backward": 0}
    with borrowed(defence, quiet=True), torch.no_grad():
        with counted(defence, passes):
            defence(images)
        alone, batched = (_median(defence, batch, rounds) / len(batch) for batch in (images[:1], images))
    return Cost(1e3 * alone, 1e3 * batched, passes["forward"] / len(images), passes["backward"] / len(images))


def _median(defence: Defense, images: Tensor, rounds: int) -> float:
    """Seconds for one call."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        defence(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
