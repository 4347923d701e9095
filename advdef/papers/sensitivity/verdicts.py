"""How the claims about neuron sensitivity and SNS are decided."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from advdef.claims import CLEAN, ROBUST, Condition, rule
from advdef.papers.sensitivity.comparison import Network, relative_change
from advdef.statistics import Interval

__all__ = [
    "accuracy_and_robustness_share_neurons", "lower_sensitivity_makes_robust", "sensitive_neurons_mislead",
    "sensitivity_goes_with_robustness", "stabilizing_makes_robust",
]  # fmt: skip

Levels = Mapping[tuple[str, str], Mapping[Network, float]]
"""Mean sensitivity of each network, by perturbation and definition."""

_HELD = {"equal change": "as much change (L1)", "equal energy": "as much energy (squared L2)"}
_LOST = {
    "random": "as many random neurons", "equal change": "random neurons of as much activation (L1)",
    "equal energy": "random neurons of as much energy (squared L2)",
}  # fmt: skip
_FIXED = ("noise of size eps", "transferred")  # the same for all networks
_WEIGHTS = {"SNS 0.1": "weight 0.1", "SNS": "weight 1"}
_TENTH, _CLOSE = 0.1, -0.3


@rule("SNS-1")
def sensitive_neurons_mislead(restored: Mapping[str, Mapping[str, Tensor]]) -> list[Condition]:
    """Clean activations are put into adversarial passes, one layer at a time; that restores more accuracy, averaged
    over layers and shares of neurons, with the most sensitive neurons than with random ones that carry as much of the
    change. On the standard and on the adversarially trained network, under a full attack and under one that stops when
    the decision turns, all of which are necessary (first seed, intervals over images). What is held equal makes two
    cases, the change in L1 or its energy, the square of L2, since the first favours the sensitive neurons and the
    second the others. Less than 3 points of restored accuracy do not matter.

    ``restored`` has, by network and attack and by control, (shares, layers, N) in [0, 1].
    """
    return [
        Condition.compare(
            f"{network}: most sensitive − {control}", found["most sensitive"].mean((0, 1)),
            found[control].mean((0, 1)), case=f"random neurons of {held}", attacker="direct",
        )
        for control, held in _HELD.items()
        for network, found in restored.items()
    ]  # fmt: skip


@rule("SNS-2")
def lower_sensitivity_makes_robust(levels: Levels, robust: Mapping[str, Tensor]) -> list[Condition]:
    """Necessary: against standard training, adversarial training raises robust accuracy, and it lowers mean sensitivity
    in D1 and in D4 (else only the scale fell) to perturbations that are the same for all networks, noise and
    transferred examples: own examples of a robust network are weaker, so that a change there is nearly true by
    construction. As "by" speaks of a cause: where a penalty added to adversarial training lowers sensitivity to
    transferred examples further, in D1 and in D4, robust accuracy is above that of adversarial training alone; where it
    does not, nothing is told. Weights 1 and 0.1 of the penalty are cases. The attacker knows the defence; robust
    accuracy is for other networks and images, sensitivity for other networks. Less than 3 points, or than a tenth of
    the sensitivity, which is how far networks of one training differ, do not matter.

    ``robust`` has hits (S, N) under the adaptive attacker by training, each with one network per seed.
    """
    lower = [
        _relative(levels[perturbation, definition], "AT", "standard", f"sensitivity {definition} to {perturbation}")
        for perturbation in _FIXED
        for definition in ("D1", "D4")
    ]
    return [_more_robust(robust, "AT", "standard"), *lower, *(_followed(levels, robust, k) for k in _WEIGHTS)]


@rule("SNS-3")
def stabilizing_makes_robust(robust: Mapping[str, Tensor]) -> list[Condition]:
    """An attacker who knows the defence leaves more of SNS than of adversarial training with the same inner attack, and
    more than of the same penalty on random neurons, else it is not the sensitive ones that count (differences of
    networks of one seed, interval for other networks and other images; less than 3 points do not matter). Weights 1 and
    0.1 of the penalty are cases. Neurons are chosen anew before every epoch, and may be others each time (the page
    shows how many stay), so what is tested is to hold whichever are sensitive then, not one set of neurons. The penalty
    on random neurons is of equal size when they are chosen, in L1.

    ``robust`` has hits (S, N) under the adaptive attacker by training.
    """
    return [
        _more_robust(robust, k, other, case)
        for k, case in _WEIGHTS.items()
        for other in ("AT", k.replace("SNS", "SNS random"))
    ]


@rule("SNS-4")
def accuracy_and_robustness_share_neurons(
    lost: Mapping[str, Mapping[tuple[str, str], Mapping[str, Tensor]]],
    clean: Mapping[str, Tensor],
    robust: Mapping[str, Tensor],
) -> list[Condition]:
    """Occluding the most sensitive neurons (set to zero or to their mean, one layer at a time, first seed) costs more
    clean accuracy than occluding random ones, on the standard and on the adversarially trained network, and on the
    latter more accuracy under an attack made anew: all are necessary (intervals over images). Controls are cases: as
    many random neurons, and such as lose as much activation, in L1 or in squared L2, since sensitive neurons may be
    just the active ones. The trade-off is that of the claim, between accuracy and robustness: against standard
    training, adversarial training costs clean accuracy and raises accuracy under an attacker who knows the network (for
    other networks and images). One point of clean and three of robust accuracy matter.

    ``lost[network][mode, neurons][accuracy]`` is (shares, layers, N) in [0, 1]; ``clean`` and ``robust`` have hits
    (S, N) by training.
    """
    measured = [(k, mode, "clean", CLEAN) for k in ("standard", "AT") for mode in ("zero", "mean")]
    measured.append(("AT", "zero", "attacked anew", ROBUST))
    return [
        Condition.compare("clean accuracy, standard − AT", clean["standard"], clean["AT"], margin=CLEAN),
        _more_robust(robust, "AT", "standard"),
        *(
            Condition.compare(
                f"{k} {what}, set to {mode}: {control} − most sensitive", lost[k][mode, control][what].mean((0, 1)),
                lost[k][mode, "most sensitive"][what].mean((0, 1)), margin=margin,
                case=case,
                attacker="direct" if what == "attacked anew" else "",
            )
            for control, case in _LOST.items()
            for k, mode, what, margin in measured
        ),
    ]  # fmt: skip


@rule("SNS-5")
def sensitivity_goes_with_robustness(correlations: Mapping[str, Interval]) -> list[Condition]:
    """Over trained networks that predict more than one class, Spearman's rank correlation of mean sensitivity and
    robust accuracy (PGD) lies below −0.3: at less, ranks share under a tenth of their variance, which is no close
    connection. Necessary are D1 and D4, to own examples, as in the paper, and to transferred ones, which are the same
    for all. Cases are all networks, where it is partly a difference between standard and adversarial training, and the
    adversarially trained ones alone. Networks of one training are not independent: the bootstrap draws whole trainings.

    ``correlations`` are by perturbation, definition and networks.
    """
    return [
        Condition(
            f"rank correlation in %, {what}", interval, _CLOSE, "below", case=f"{what.rpartition(', ')[2]} networks",
            attacker="direct", number=f"{interval:+}",
        )
        for what, interval in correlations.items()
        if not what.endswith("partialled out")
    ]  # fmt: skip


def _more_robust(robust: Mapping[str, Tensor], k: str, other: str, case: str = "") -> Condition:
    return Condition.compare(f"{k} − {other}", robust[k], robust[other], case=case, attacker="adaptive")


def _relative(levels: Mapping[Network, float], k: str, other: str, what: str) -> Condition:
    """Sensitivity falls against another training of the same seeds, in percent of the other's."""
    seeds = sum(training == k and (other, s) in levels for training, s in levels)
    change = relative_change(levels, k, other)
    return Condition.below(f"{what}, {k} against {other}, %", change, margin=_TENTH, seeds=seeds)


def _followed(levels: Levels, robust: Mapping[str, Tensor], k: str) -> Condition:
    """Robust accuracy follows where a penalty lowers sensitivity below that of adversarial training."""
    falls = {d: _relative(levels["transferred", d], k, "AT", f"sensitivity {d}") for d in ("D1", "D4")}
    followed = _more_robust(robust, k, "AT", _WEIGHTS[k])
    for d, fall in falls.items():
        if fall.word != "holds":  # no cause was changed, so that its effect cannot be seen
            number = f"no test, as {d} may not be lower ({fall.number} %)"
            return replace(
                followed, interval=Interval(0.0, -1.0, 1.0), number=number, needed_images=None, needed_seeds=None
            )
    return followed
