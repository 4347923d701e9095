"""What the page on QuSecNets measures besides accuracy under attack: both forms of a layer, gains, means over eps."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from advdef.devices import exact
from advdef.evaluation import Outcome, Threat, correct
from advdef.evaluation.results import WORST_CASE
from advdef.norms import show_eps
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.verdicts import Gains
from advdef.statistics import Interval, paired_difference

__all__ = ["gains_over_undefended", "hard_and_soft", "mean_over_eps", "pairs_of_gains", "robust_by_eps"]

Curve = Mapping[float, Outcome]

_FOLLOWERS: tuple[Literal["oblivious", "direct"], ...] = ("oblivious", "direct")


def hard_and_soft(models: Iterable[Quantized], images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Hits (N,) of each model with its layer hard, and with the same weights soft; all are left hard."""
    hard, soft = list[Tensor](), list[Tensor]()
    for model in models:
        model.quantizer.mode = "soft"
        soft.append(correct(model, images, labels))
        model.quantizer.mode = "hard"
        hard.append(correct(model, images, labels))
    return hard, soft


def gains_over_undefended(
    found: Mapping[str, Mapping[Threat, Outcome]], defences: Collection[str], attacks: Collection[str]
) -> dict[tuple[Threat, str, str], Interval]:
    """By (attacker, attack, defence), the gain of accuracy over the undefended network under the same attack.

    ``found`` is by defence, "undefended" among them, and attacker; every attack met every image. The attackers are
    those who do not know the defence, oblivious and direct.
    """
    without = found["undefended"]
    return {
        (threat, attack, k): paired_difference(found[k][threat].survivors(attack), without[threat].survivors(attack))
        for threat in _FOLLOWERS
        for attack in attacks
        for k in defences
    }


def mean_over_eps(curves: Iterable[Curve]) -> Tensor:
    """For each of S curves, one per seed: the share of its eps at which each image is robust, (S, N)."""
    return torch.stack([torch.stack([exact(left.robust) for left in curve.values()]).mean(0) for curve in curves])


def pairs_of_gains(
    found: Mapping[str, Mapping[Threat, Outcome]],
    curves: Mapping[str, Mapping[Threat, Curve]],
    defences: Collection[str],
    attacks: Collection[str],
    *,
    eps: float,
) -> Gains:
    """Hits of each defence and of the undefended network, on the same images, for the rules that ask for gains.

    Under the oblivious and the direct attacker there is a pair for each single attack, from ``found``, as in
    :func:`gains_over_undefended`; under the adaptive one there is one for the worst case at ``eps``, from ``curves``.
    Both are by defence and attacker.
    """
    single: Gains = {
        (k, threat, attack): (found[k][threat].survivors(attack), found["undefended"][threat].survivors(attack))
        for k in defences
        for threat in _FOLLOWERS
        for attack in attacks
    }
    bare = curves["undefended"]["adaptive"][eps].robust
    known: Gains = {(k, "adaptive", WORST_CASE): (curves[k]["adaptive"][eps].robust, bare) for k in defences}
    return {**single, **known}


def robust_by_eps(
    curves: Mapping[str, Mapping[Threat, Curve]], defences: Collection[str], budgets: Sequence[float]
) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    """By eps, as "eps 0.3", and defence, which images (N,) are robust to the direct and to the adaptive attacker."""
    return {
        f"eps {show_eps(eps)}": {
            k: (curves[k]["direct"][eps].robust, curves[k]["adaptive"][eps].robust) for k in defences
        }
        for eps in budgets
    }
