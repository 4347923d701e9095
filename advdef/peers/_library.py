"""Where the libraries are, and what is kept of what they find."""

import importlib
import importlib.metadata
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.libraries.verified import verified
from advdef.attacks.losses import Goal
from advdef.contract import validate
from advdef.norms import Norm, ball, size

__all__ = ["PEERS", "believed", "module", "version"]

PEERS = {
    "foolbox": "foolbox",
    "pyautoattack": "pyautoattack",
    "torchattacks": "torchattacks",
    "art": "adversarial-robustness-toolbox",
}
"""Each library as Python imports it, and as pip installs it."""

_MODULES = {
    "foolbox": ("foolbox.attacks",),
    "pyautoattack": ("pyautoattack.autopgd_base",),
    "torchattacks": ("torchattacks",),
    "art": ("art.attacks.evasion", "art.estimators.classification"),
}
_ROUNDING = 1e-6  # by so much a peer may leave its budget; it is moved back


def version(library: str) -> str:
    """Import one of ``PEERS`` and return its version; raises ImportError where it is missing."""
    for name in _MODULES[library]:
        module(name)
    with _reachable(library):
        return importlib.metadata.version(PEERS[library])


def module(name: str) -> Any:
    """A module of a library; raises ImportError where it is missing."""
    with _reachable(name.partition(".")[0]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@contextmanager
def _reachable(library: str) -> Iterator[None]:
    """Look into the folder of ADVDEF_PEERS too, and there last: nothing in it shall replace what is installed."""
    before, folder = sys.path, os.environ.get("ADVDEF_PEERS")
    sys.path = [*before, folder] if folder else before
    try:
        yield
    except ImportError as error:
        aside = f"pip install --no-deps --target FOLDER {PEERS[library]}, and set ADVDEF_PEERS=FOLDER"
        how = f"pip install {library}" if library in ("foolbox", "pyautoattack") else aside
        raise ImportError(f"{library} is not installed: {how}") from error
    finally:
        sys.path = before


def believed(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Callable[[nn.Module, Tensor, Goal, int], Tensor],
    *,
    eps: float,
    norm: Norm,
    targets: Tensor | None = None,
    generator: torch.Generator | None,
) -> Tensor:
    """What ``attack(peer, images, goal, seed)`` finds inside the budget, verified."""
    images, labels, budget = validate(images, labels, eps, norm=norm, unbounded=True)

    def search(peer: nn.Module, images: Tensor, goal: Goal, eps: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        # torchattacks asks the first parameter for the device
        peer.register_parameter("place", nn.Parameter(images.new_empty(0), requires_grad=False))
        state = random.getstate()  # ART draws from it
        random.seed(seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = attack(peer, images, goal, seed).detach().to(images)
        finally:
            random.setstate(state)
        inside = found.clamp(0, 1)
        allowed = (size(found - images, norm) <= eps.flatten() + _ROUNDING) & (
            size(found - inside, "Linf") <= _ROUNDING
        )
        return ball(images, eps, norm).project(inside) if norm in ("Linf", "L2") else inside, allowed

    return verified(model, images, labels, search, eps=budget, targets=targets, generator=generator)
