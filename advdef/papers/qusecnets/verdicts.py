"""How the claims about QuSecNets are decided."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from advdef.claims import Condition, rule
from advdef.statistics import Interval, paired_difference

__all__ = [
    "Gains",
    "gain_on_cifar10",
    "gain_on_mnist",
    "little_clean_loss",
    "no_hidden_gradient",
    "gains_in_short",
    "trainable_wins",
]

Gains = Mapping[tuple[str, str, str], Interval]
"""Paired gain in accuracy over the undefended network by (defence, attacker, attack), -1 to 1."""

RELEASED = " released"
"""How the names of the layers end that follow the released code."""


@rule("QSN-1")
def gain_on_mnist(gains: Gains) -> list[Condition]:
    """For constant and trainable quantisation, clean and as released, each of FGSM, BIM, MIM and PGD, oblivious and
    direct: the 95 % interval of the paired gain over the undefended network is not wholly below 50 points.
    """
    return _at_least(gains, 0.5)


@rule("QSN-2")
def gain_on_cifar10(gains: Gains) -> list[Condition]:
    """For constant and trainable quantisation, clean and as released, each of FGSM, BIM, MIM and PGD, oblivious and
    direct: the 95 % interval of the paired gain over the undefended network is not wholly below 10 points.
    """
    return _at_least(gains, 0.1)


@rule("QSN-3")
def trainable_wins(area: Mapping[str, tuple[Interval, Sequence[float]]]) -> list[Condition]:
    """Under each threat model, robust accuracy averaged over the eps of the curve, one number of levels per data set,
    over all seeds: the 95 % interval of the paired difference TQ - CQ lies above zero and every seed agrees on the
    sign.

    ``area`` has, by threat model, that interval and the difference of each seed.
    """
    return [
        Condition(threat, difference.low > 0 and min(by_seed) > 0, f"{difference:+}")
        for threat, (difference, by_seed) in area.items()
    ]


@rule("QSN-4")
def little_clean_loss(right: Mapping[str, Tensor], undefended: Tensor) -> list[Condition]:
    """For constant and trainable quantisation, over all seeds: the 95 % interval of the paired difference to the
    undefended network lies above -5 points.

    ``right`` has, by defence, the hits on clean images (seeds, N), ``undefended`` those of the network alone.
    """
    return [Condition.above(name, paired_difference(hits, undefended), -0.05) for name, hits in right.items()]


@rule("QSN-5")
def no_hidden_gradient(
    robust: Mapping[str, tuple[Tensor, Tensor]], undefended: Mapping[str, tuple[Tensor, Tensor]]
) -> list[Condition]:
    """For constant and trainable quantisation and each eps of the curve where the direct attack shows a gain of at
    least ten points, first seed: an adaptive attacker leaves more than half of that gain (95 % interval over images of
    the gain that is left minus half the direct gain lies above zero).

    Both map a case (of the undefended network: the eps) to hits (N,) under the direct and the adaptive attacker; a case
    is called "defence at eps ...".
    """
    conditions = []
    for case, hits in robust.items():
        direct, adaptive = (
            mine.double() - plain.double()
            for mine, plain in zip(hits, undefended[case.partition(" at ")[2]], strict=True)
        )
        if direct.mean() >= 0.1:
            left = paired_difference(adaptive, 0.5 * direct)
            number = f"{100 * adaptive.mean():+.0f} of {100 * direct.mean():+.0f}"
            conditions.append(Condition(case, left.low > 0, number))
    return conditions


def gains_in_short(gains: Gains) -> str:
    """The smallest and the largest gain of each attacker, for clean and for released layers, in one line."""
    told = []
    for layer in ("clean", "released"):
        for attacker in ("oblivious", "direct"):
            values = [
                100 * gain.value
                for (defence, threat, _), gain in gains.items()
                if threat == attacker and defence.endswith(RELEASED) == (layer == "released")
            ]
            told.append(f"{layer} layers, {attacker}: {min(values):+.0f} to {max(values):+.0f}")
    return f"gains in points, {'; '.join(told)}"


def _at_least(gains: Gains, least: float) -> list[Condition]:
    return [
        Condition.overlaps(f"{defence}, {threat} {attack}", gain, least, 1.0)
        for (defence, threat, attack), gain in gains.items()
    ]
