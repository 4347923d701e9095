"""How the claims about QuSecNets are decided."""

from collections.abc import Mapping

from torch import Tensor

from advdef.claims import CLEAN, Attacker, Condition, rule

__all__ = [
    "ABSTRACT_GAINS",
    "Gains",
    "gain_on_cifar10",
    "gain_on_mnist",
    "little_clean_loss",
    "no_hidden_gradient",
    "trainable_wins",
]

Gains = Mapping[tuple[str, Attacker, str], tuple[Tensor, Tensor]]
"""Hits (N,) of a defence and of the undefended network by (defence, attacker, attack)."""

ABSTRACT_GAINS: Mapping[str, tuple[float, float]] = {"mnist": (0.50, 0.96), "cifar10": (0.10, 0.50)}
"""[paper] By data set, the range of gains of accuracy on attacked images that the abstract tells of, as shares."""

_RELEASED = " released"  # how the names of the layers end that follow the released code
_WHO = {"oblivious": "ignores them", "direct": "follows their gradient", "adaptive": "knows them"}


@rule("QSN-1")
def gain_on_mnist(pairs: Gains) -> list[Condition]:
    """Constant and trainable quantisation both raise the accuracy on attacked images by at least 50 points, the lower
    end of the abstract's range, over the undefended network under the same attacker (first seed, interval over images).
    Cases are the form of the layers, hard or as released, and the attacker: one who ignores the layers, one who follows
    their gradient (both with each of FGSM, BIM, MIM and PGD), and one who knows them (worst case of all attacks).
    Nobody follows the gradient of hard layers: it is zero, so that this gain is there by construction. The margin of 3
    points only says how many images would decide.
    """
    return _at_least(pairs, ABSTRACT_GAINS["mnist"][0])


@rule("QSN-2")
def gain_on_cifar10(pairs: Gains) -> list[Condition]:
    """As QSN-1, but for a gain of at least 10 points, the lower end of the abstract's range for CIFAR-10: for constant
    and trainable quantisation, with the form of the layers (hard or as released) and the attacker (one who ignores the
    layers, follows their gradient where there is one, or knows them) as cases.
    """
    return _at_least(pairs, ABSTRACT_GAINS["cifar10"][0])


@rule("QSN-3")
def trainable_wins(trainable: Tensor, constant: Tensor) -> list[Condition]:
    """An attacker who knows the defence leaves more of trainable than of constant quantisation with as many levels: the
    difference of their robust accuracies, averaged over the eps of the curve so that no single one decides, lies above
    zero. The interval is for other networks and other images; a difference of less than 3 points does not matter.

    Both are the share of those eps at which an image is right, (S, N) of S seeds.
    """
    return [Condition.compare("TQ − CQ, mean over eps", trainable, constant, attacker="adaptive")]


@rule("QSN-4")
def little_clean_loss(right: Mapping[str, Tensor], undefended: Tensor) -> list[Condition]:
    """Clean accuracy falls by less than 5 points, half of the least gain that the abstract tells of: a larger loss
    would eat up much of it. Constant and trainable quantisation are cases. The interval is for other networks and other
    images; one point of clean accuracy matters.

    ``right`` has, by defence, the hits on clean images (S, N) of S seeds, ``undefended`` those of the network alone.
    """
    return [
        Condition.compare(f"{name} − undefended, clean", hits, undefended, -0.05, margin=CLEAN, case=name)
        for name, hits in right.items()
    ]


@rule("QSN-5")
def no_hidden_gradient(
    robust: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]], undefended: Mapping[str, Tensor]
) -> list[Condition]:
    """Of what hard layers gain under an attacker who follows the gradient, one who knows them leaves at least half, for
    constant and trainable quantisation: else most of that gain was a hidden gradient. The eps of the curve are cases,
    all of them (first seed, interval over images). The gain is over the undefended network under the attacker who tries
    everything; where there is none, nothing is told. Half is itself the bound, without a further margin.

    ``robust`` has, by eps and defence, hits (N,) under the direct and under the adaptive attacker; ``undefended``, by
    eps, those of the network alone under the adaptive one.
    """
    return [
        Condition.half_given_back(
            f"{name} at {eps}, gain left", known, bare=undefended[eps], clean=followed, case=eps, attacker="adaptive"
        )
        for eps, by_defence in robust.items()
        for name, (followed, known) in by_defence.items()
    ]


def _at_least(pairs: Gains, gain: float) -> list[Condition]:
    found = []
    for (defence, attacker, attack), (defended, undefended) in pairs.items():
        released = defence.endswith(_RELEASED)
        if released or attacker != "direct":
            case = f"{'released' if released else 'hard'} layers against an attacker who {_WHO[attacker]}"
            what = f"{defence} − undefended, {attacker} {attack}"
            found.append(Condition.compare(what, defended, undefended, gain, case=case, attacker=attacker))
    return found
