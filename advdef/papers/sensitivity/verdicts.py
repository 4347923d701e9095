"""How the claims about neuron sensitivity and SNS are decided: each rule gives the conditions that must hold."""

import math
from collections.abc import Mapping

from advdef.claims import Condition, rule
from advdef.evaluation import Results
from advdef.papers.sensitivity.comparison import Gain
from advdef.statistics import Interval, over_seeds

__all__ = [
    "accuracy_and_robustness_share_neurons", "lower_sensitivity_makes_robust", "sensitive_neurons_mislead",
    "sensitivity_goes_with_robustness", "sensitivity_in_short", "show_correlation", "show_log_ratio",
    "stabilizing_makes_robust",
]  # fmt: skip

Ratios = Mapping[str, Mapping[tuple[str, str], Interval]]
"""Method -> perturbation and definition -> log ratio of its sensitivity to the standard network's."""

Gains = Mapping[tuple[str, str], Gain]
"""What one training gains over another, under the adaptive attacker."""


@rule("SNS-1")
def sensitive_neurons_mislead(leads: Mapping[str, Interval]) -> list[Condition]:
    """Substituting clean activations into adversarial passes, one layer at a time, on the standard and on the
    adversarially trained network, first seed, both under a full attack and under one that stops when the decision
    turns: accuracy averaged over layers and shares of neurons is higher for the most sensitive ones than for random
    ones that carry as much change (paired 95 % interval over images above zero).

    ``leads`` has this difference by network and attack.
    """
    networks = ("standard", "AT", "standard, just turned", "AT, just turned")
    return [Condition.above(f"{k}, lead over equal energy", leads[k], 0.0) for k in networks]


@rule("SNS-2")
def lower_sensitivity_makes_robust(ratios: Ratios, gains: Gains) -> list[Condition]:
    """For AT, ALP and TRADES against standard training of the same seed: the mean sensitivity of all layers is lower,
    in definition D1 and in D4, on the networks' own adversarial examples, on transferred ones and on noise of the same
    size (Student's 95 % interval of the log ratio over seeds below zero). As "by" speaks of a cause: where a penalty
    lowers sensitivity further (SNS with weight 1 and 0.1), robust accuracy under the adaptive attacker is above that
    of AT (over seeds, and over images).

    :func:`sensitivity_in_short` puts these conditions into one sentence.
    """
    return [*_lower(ratios), *_followed(gains)]


def sensitivity_in_short(ratios: Ratios, gains: Gains) -> str:
    """The evidence about S2 in one sentence: it has too many conditions to list."""
    lower, followed = _lower(ratios), _followed(gains)
    down, up = (f"{sum(c.holds for c in found)} of {len(found)}" for found in (lower, followed))
    return (
        f"sensitivity is lower than the standard network's in {down} comparisons; where a penalty lowers it further, "
        f"robust accuracy follows in {up}: {_listed(followed)}"
    )


@rule("SNS-3")
def stabilizing_makes_robust(gains: Gains) -> list[Condition]:
    """For each of two weights of the penalty, 1 and 0.1, robust accuracy under the adaptive attacker, differences
    between networks of one seed on the same images: SNS lies above adversarial training and above the same penalty on
    random neurons (Student's 95 % interval over seeds and the paired one over images both above zero).
    """
    found = []
    for weight, stabilized, random in (("1", "SNS", "SNS random"), ("0.1", "SNS 0.1", "SNS random 0.1")):
        both = [_better(gains, stabilized, "AT"), _better(gains, stabilized, random)]
        found.append(Condition(f"weight {weight}", all(c.holds for c in both), _listed(both)))
    return found


@rule("SNS-4")
def accuracy_and_robustness_share_neurons(
    costs: Mapping[tuple[str, str, str], Interval], results: Results
) -> list[Condition]:
    """Occluding the most sensitive neurons (set to zero or to their mean, one layer at a time, first seed) costs more
    clean accuracy than occluding random ones, and on the adversarially trained network more robust accuracy too,
    attacked anew (paired 95 % intervals over images above zero); and from weight 0.1 to weight 1 of the penalty clean
    accuracy falls and robust accuracy (PGD) rises (Student's 95 % intervals over seeds).

    ``costs`` has what the most sensitive neurons cost more than random ones, by network, what neurons are set to, and
    the accuracy that is measured; ``results`` have rows of both weights for each seed, without an attack in the part
    "clean", and under PGD in the part "trade-off".
    """
    occluded = [
        ("standard", "zero", "clean"), ("standard", "mean", "clean"), ("AT", "zero", "clean"), ("AT", "mean", "clean"),
        ("AT", "zero", "attacked anew"),
    ]  # fmt: skip
    clean, robust = results.select(part="clean"), results.select(part="trade-off", threat="direct")
    return [
        *(Condition.above(f"{k}, set to {mode}, {what}", costs[k, mode, what], 0.0) for k, mode, what in occluded),
        Condition.above("clean accuracy falls from weight 0.1 to 1", _lead(clean, "SNS 0.1", "SNS"), 0.0),
        Condition.above("robust accuracy rises from weight 0.1 to 1", _lead(robust, "SNS", "SNS 0.1"), 0.0),
    ]


@rule("SNS-5")
def sensitivity_goes_with_robustness(correlations: Mapping[str, Interval]) -> list[Condition]:
    """Over all trained networks that predict more than one class, Spearman's rank correlation of mean sensitivity and
    robust accuracy is negative: in D1, in D4, in D1 with the scale of activations partialled out, and in D1 and D4
    among the adversarially trained networks alone (95 % bootstrap interval below zero).
    """
    points = (
        "D1, all", "D4, all", "D1, all, activation partialled out", "D1, adversarially trained",
        "D4, adversarially trained",
    )  # fmt: skip
    return [Condition(what, correlations[what].high < 0, show_correlation(correlations[what])) for what in points]


def show_log_ratio(interval: Interval) -> str:
    """The interval of a logarithm of a ratio, as the ratio.

    >>> show_log_ratio(Interval(-0.69315, -1.38629, 0.0))
    '0.50 [0.25, 1.00]'
    """
    return f"{math.exp(interval.value):.2f} [{math.exp(interval.low):.2f}, {math.exp(interval.high):.2f}]"


def show_correlation(interval: Interval) -> str:
    """The interval of a correlation: with its sign, and not in percent.

    >>> show_correlation(Interval(-0.5, -0.8, 0.1))
    '-0.50 [-0.80, +0.10]'
    """
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def _lower(ratios: Ratios) -> list[Condition]:
    """Robust training lowers sensitivity, in every comparison with standard training."""
    return [
        Condition(f"{k}, {perturbation}, {definition}", ratio.high < 0, show_log_ratio(ratio))
        for k in ("AT", "ALP", "TRADES")
        for (perturbation, definition), ratio in ratios[k].items()
    ]


def _followed(gains: Gains) -> list[Condition]:
    """Robust accuracy follows where a penalty lowers sensitivity further."""
    return [_better(gains, k, "AT") for k in ("SNS", "SNS 0.1")]


def _better(gains: Gains, k: str, other: str) -> Condition:
    """Higher robust accuracy, both for other seeds and for other images."""
    seeds, images, _ = gains[k, other]
    holds = seeds.low > 0 and images.low > 0
    return Condition(f"{k} above {other}", holds, f"{seeds:+} over seeds, {images:+} over images")


def _lead(results: Results, k: str, other: str) -> Interval:
    """By how much the accuracy of one method lies above that of another, over seeds."""
    seeds = results.select(defence=(k, other)).values("seed")
    return over_seeds(
        [results.interval(defence=k, seed=s).value - results.interval(defence=other, seed=s).value for s in seeds]
    )


def _listed(conditions: list[Condition]) -> str:
    return "; ".join(f"{c.what}: {c.number}" for c in conditions)
