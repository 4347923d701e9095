"""What a defence costs at inference: time, passes through its network, and multiply-adds."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from advdef.contract import borrowed
from advdef.defenses.base import Defense
from advdef.devices import wait_for
from advdef.evaluation.judge import counted

__all__ = ["Cost", "cost", "multiply_adds"]


@dataclass(frozen=True)
class Cost:
    """What one image costs: milliseconds when asked ``alone`` and when ``batched``, passes ``forwards`` and
    ``backwards``.
    """

    alone: float
    batched: float
    forwards: float
    backwards: float


def cost(defence: Defense, images: Tensor, *, rounds: int = 20) -> Cost:
    """Measure a defence on images (N, C, H, W): the first one alone, and all as one batch.

    Times are medians over ``rounds`` calls after one that does not count. A backward pass counts once, however deep it
    goes. Raises ValueError for no rounds or no images.
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
    """Median seconds of a call."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        defence(images)
        wait_for(images.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def multiply_adds(model: nn.Module, images: Tensor) -> float:
    """Multiply-adds of convolutions and matrix products for one image: the mean over images (N, C, H, W).

    Those of backward passes inside ``model`` count too. Raises ValueError for no images.
    """
    if len(images) == 0:
        raise ValueError("need at least one image")
    with borrowed(model, quiet=True), torch.no_grad(), _Counting() as counted:
        model(images)
    return counted.flops / 2 / len(images)


class _Counting(TorchDispatchMode):
    """Counts operations like torch's FlopCounterMode, which refuses a backward pass within a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
