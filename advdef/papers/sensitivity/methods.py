"""The trainings that the page compares, the changes to SNS that it tries, and its networks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from advdef.models import VGG16, ResNet18, SmallResNet
from advdef.papers.sensitivity.training import train_sns
from advdef.training import train_alp, train_at, train_standard, train_trades

__all__ = ["ABLATIONS", "COMPARED", "METHODS", "MODELS", "method"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "SmallResNet-8": partial(SmallResNet, width=8),
    "SmallResNet-16": SmallResNet,
    "ResNet18": ResNet18,
    "VGG16": VGG16,
}
"""The architectures."""

METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "standard": (train_standard, {}),
    "AT": (train_at, {}),
    "mixed AT": (train_at, dict(alpha=0.5)),
    "ALP": (train_alp, {}),
    "TRADES": (train_trades, {}),
    "VS": (train_sns, dict(which="all")),
    "SNS": (train_sns, {}),
    "SNS random": (train_sns, dict(which="random")),
    "SNS 0.1": (train_sns, dict(weight=0.1)),
    "SNS random 0.1": (train_sns, dict(weight=0.1, which="random")),
    "SNS bottom": (train_sns, dict(which="bottom")),
    "SNS α=1": (train_sns, dict(alpha=1.0)),
}
"""The trainings, each with what it has of its own."""

COMPARED = ("standard", "AT", "ALP", "TRADES", "SNS", "SNS random", "SNS 0.1", "SNS random 0.1")
"""The trainings that all seeds have; the others have the first."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "weight 0": dict(weight=1e-9),  # only the batches are those of SNS
    "weight 0.3": dict(weight=0.3),
    "weight 3": dict(weight=3.0),
    "weight 10": dict(weight=10.0),
    "ratio 0.02": dict(ratio=0.02),
    "ratio 0.5": dict(ratio=0.5),
    "last half": dict(layers=lambda taps: taps[len(taps) // 2 :]),
    "features only": dict(layers=lambda taps: taps[-1:]),
    "chosen once": dict(reselect_every=None),
    "random once": dict(reselect_every=None, which="random"),
    "relative": dict(relative=True, weight=0.5),
    "cosine": dict(distance="cosine"),
    "alpha 0.5": dict(alpha=0.5),
}
"""SNS with one setting changed at a time (relative: also the weight); ``layers`` choose from those of a network."""


def method(
    name: str, taps: Sequence[str], *, eps: float, steps: int, step_size: float, ramp: int, probe: int, probe_steps: int
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that trains a network by a method or an ablation, and its settings: those given here that it takes,
    and its own.

    Args:
        name: A key of ``METHODS`` or of ``ABLATIONS``.
        taps: The layers of the network, from which some ablations choose.
        eps: Linf budget of the inner attack, in pixel units.
        steps: Its gradient steps.
        step_size: Size of a step, relative to eps.
        ramp: Over how many epochs the weight of a penalty rises.
        probe: On how many images SNS measures sensitivity.
        probe_steps: Steps of PGD that it attacks these with.
    """
    function, own = METHODS[name] if name in METHODS else (train_sns, ABLATIONS[name])
    if "layers" in own:
        own = own | dict(layers=own["layers"](taps))
    attack = dict(eps=eps, steps=steps, step_size=step_size)
    paired = attack | dict(ramp=ramp)
    shared: dict[Any, dict[str, Any]] = {
        train_standard: {},
        train_at: attack,
        train_alp: paired,
        train_trades: paired,
        train_sns: paired | dict(probe=probe, probe_steps=probe_steps),
    }
    return function, shared[function] | own
