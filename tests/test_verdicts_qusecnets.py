"""The rules of QuSecNets' claims, on results made up so that each word comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advdef.claims import Rule, claims, decide
from advdef.papers import how_decided, rules
from advdef.papers.qusecnets import verdicts
from advdef.statistics import Interval

TABLE = claims("qusecnets")


def word(rule: Rule, *results: object, dataset: str = "mnist") -> str:
    return decide(TABLE[rule.claim], dataset, rule(*results)).word


def gains(*high: float) -> verdicts.Gains:
    """Intervals that end at these values, of as many attacks."""
    return {("CQ", "direct", f"attack {n}"): Interval(h - 0.1, h - 0.2, h) for n, h in enumerate(high)}


def hits(share: float, n: int = 1_000) -> Tensor:
    """So many of the first images."""
    return torch.arange(n) < share * n


def test_every_claim_has_its_rule_in_words() -> None:
    assert set(rules("qusecnets")) == set(TABLE)
    assert all(len(text) > 40 for text in how_decided("qusecnets").values())
    assert "\n" not in rules("qusecnets")["qusecnets-Q3"].text
    assert rules("somebody else's") == {}


@pytest.mark.parametrize(
    ("rule", "dataset", "least"),
    [(verdicts.gain_on_mnist, "mnist", 0.5), (verdicts.gain_on_cifar10, "cifar10", 0.1)],
)
def test_a_gain_is_at_least_what_the_abstract_says(rule: Rule, dataset: str, least: float) -> None:
    enough, too_little = least, least - 1e-6  # an interval that reaches the bound is not wholly below it
    assert word(rule, gains(enough, 0.9), dataset=dataset) == "supported"
    assert word(rule, gains(enough, too_little), dataset=dataset) == "partly"
    assert word(rule, gains(too_little, -0.3), dataset=dataset) == "not supported"
    assert word(rule, gains(enough), dataset="digits") == "not testable here"


def test_trainable_wins_where_interval_and_seeds_agree() -> None:
    above, across = Interval(0.02, 0.001, 0.04), Interval(0.02, -0.001, 0.04)
    good, split = (above, [0.01, 0.03]), (above, [0.05, -0.01])
    assert word(verdicts.trainable_wins, {"direct": good, "adaptive": good}) == "supported"
    assert word(verdicts.trainable_wins, {"direct": good, "adaptive": split}) == "partly"
    assert word(verdicts.trainable_wins, {"direct": split, "adaptive": (across, [0.01, 0.03])}) == "not supported"


def test_five_points_of_clean_accuracy_are_the_bound() -> None:
    undefended = hits(0.9).expand(2, -1)
    one, ten = hits(0.89).expand(2, -1), hits(0.8).expand(2, -1)
    assert word(verdicts.little_clean_loss, {"CQ": one, "TQ": one}, undefended) == "supported"
    assert word(verdicts.little_clean_loss, {"CQ": one, "TQ": ten}, undefended) == "partly"
    assert word(verdicts.little_clean_loss, {"CQ": ten, "TQ": ten}, undefended) == "not supported"


def test_more_than_half_of_a_direct_gain_must_be_left() -> None:
    plain = {"eps 0.3": (hits(0.1), hits(0.1))}
    real, hidden, small = (hits(0.7), hits(0.6)), (hits(0.7), hits(0.2)), (hits(0.19), hits(0.1))
    rule = verdicts.no_hidden_gradient
    assert word(rule, {"CQ at eps 0.3": real, "TQ at eps 0.3": real}, plain) == "supported"
    assert word(rule, {"CQ at eps 0.3": real, "TQ at eps 0.3": hidden}, plain) == "partly"
    assert word(rule, {"CQ at eps 0.3": hidden}, plain) == "not supported"
    assert word(rule, {"CQ at eps 0.3": small}, plain) == "not testable here"  # no direct gain of ten points
    (condition,) = rule({"CQ at eps 0.3": hidden}, plain)
    assert (condition.what, condition.number) == ("CQ at eps 0.3", "+10 of +60")


def test_the_spread_is_told_by_layer_and_attacker() -> None:
    found = {
        (defence, threat, attack): Interval(value, value, value)
        for defence, add in (("CQ", 0.0), ("CQ released", 0.5))
        for threat, more in (("oblivious", 0.1), ("direct", 0.2))
        for attack, last in (("FGSM", 0.0), ("PGD", 0.02))
        if (value := add + more + last)
    }
    assert verdicts.gains_in_short(found) == (
        "gains in points, clean layers, oblivious: +10 to +12; clean layers, direct: +20 to +22; "
        "released layers, oblivious: +60 to +62; released layers, direct: +70 to +72"
    )
