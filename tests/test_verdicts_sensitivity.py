"""The rules that decide the claims about neuron sensitivity, on results that are made up: every word comes out."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from advdef.claims import Condition, Rule, VerdictWord, claims, decide
from advdef.evaluation import Results, Threat
from advdef.papers import how_decided, rules
from advdef.papers.sensitivity import verdicts
from advdef.papers.sensitivity.comparison import Gain
from advdef.statistics import Interval

CLAIMS = claims("neuron_sensitivity")
HIGH, TOUCHES, LOW = Interval(0.2, 0.01, 0.3), Interval(0.2, 0.0, 0.3), Interval(-0.2, -0.3, -0.01)
"""Above zero, not wholly above it, and below it."""
NETWORKS = ("standard", "AT", "standard, just turned", "AT, just turned")
DOWN = Interval(-0.69315, -1.38629, -0.001)


def word(rule: Rule, conditions: tuple[Condition, ...]) -> VerdictWord:
    return decide(CLAIMS[rule.claim], "digits", conditions).word


def gain(seeds: Interval, images: Interval) -> Gain:
    return Gain(seeds, images, (0.1, 0.2))


def gains(**changed: Gain) -> dict[tuple[str, str], Gain]:
    """All gains above zero but those named by letters: of SNS or light SNS (s, l) over AT or random neurons (a, r)."""
    pairs = {
        "sa": ("SNS", "AT"), "sr": ("SNS", "SNS random"), "la": ("SNS 0.1", "AT"), "lr": ("SNS 0.1", "SNS random 0.1"),
    }  # fmt: skip
    return {pair: changed.get(letters, gain(HIGH, HIGH)) for letters, pair in pairs.items()}


def ratios(found: Interval, **changed: Interval) -> dict[str, dict[tuple[str, str], Interval]]:
    """The same log ratio everywhere, but for one method on its own examples in D1."""
    table = {}
    for method in ("AT", "ALP", "TRADES", "SNS"):
        table[method] = dict.fromkeys(product(("own examples", "transferred"), ("D1", "D4")), found)
        table[method]["own examples", "D1"] = changed.get(method, found)
    return table


def testevery_claim_but_that_about_the_literature_has_a_rule() -> None:
    found = rules("neuron_sensitivity")
    assert set(found) == set(CLAIMS) - {"neuron_sensitivity-S6"}
    assert all(rule.text.endswith(".") for rule in found.values())
    assert all(not CLAIMS[claim].decided_by for claim in found)
    assert all(how_decided("neuron_sensitivity").values())
    assert decide(CLAIMS["neuron_sensitivity-S6"], "digits", ()).word == "not testable here"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "supported"),
        ({"AT": TOUCHES}, "partly"),
        ({"standard, just turned": LOW}, "partly"),
        (dict.fromkeys(NETWORKS, TOUCHES), "not supported"),
        (dict.fromkeys(NETWORKS, LOW), "not supported"),
    ],
)
def test_sensitive_neurons_restore_more_than_others_of_equal_energy(
    changed: dict[str, Interval], expected: str
) -> None:
    found = verdicts.sensitive_neurons_mislead(dict.fromkeys(NETWORKS, HIGH) | changed)
    assert word(verdicts.sensitive_neurons_mislead, found) == expected
    assert [c.what for c in found] == [f"{k}, lead over equal energy" for k in NETWORKS]
    assert [c.holds for c in found] == [k not in changed for k in NETWORKS]


def test_a_network_without_a_lead_is_no_support() -> None:
    with pytest.raises(KeyError, match="just turned"):
        verdicts.sensitive_neurons_mislead({"standard": HIGH, "AT": HIGH})


UNLIKE = gain(HIGH, TOUCHES)
NO_LESS = Interval(-0.7, -1.4, 0.0)


@pytest.mark.parametrize(
    ("found", "changed", "followed", "expected", "summary"),
    [
        (DOWN, {}, {}, "supported", "12 of 12 comparisons"),
        (DOWN, {"SNS": NO_LESS}, {}, "supported", "12 of 12 comparisons"),  # of SNS nothing is asked
        (DOWN, {"ALP": NO_LESS}, {}, "partly", "11 of 12 comparisons"),
        (DOWN, {}, {"sa": UNLIKE}, "partly", "follows in 1 of 2: SNS above AT: +20.0 [+1.0, +30.0] over seeds"),
        (NO_LESS, {}, {"sa": UNLIKE, "la": gain(TOUCHES, HIGH)}, "not supported", "0 of 12 comparisons"),
    ],
)
def test_lower_sensitivity_makes_robust(
    found: Interval, changed: dict[str, Interval], followed: dict[str, Gain], expected: str, summary: str
) -> None:
    results = ratios(found, **changed), gains(**followed)
    conditions = verdicts.lower_sensitivity_makes_robust(*results)
    assert word(verdicts.lower_sensitivity_makes_robust, conditions) == expected
    assert len(conditions) == 3 * 4 + 2
    assert summary in verdicts.sensitivity_in_short(*results)
    own = conditions[0]
    assert (own.what, own.number) == ("AT, own examples, D1", verdicts.show_log_ratio(found))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "supported"),
        ({"sa": gain(TOUCHES, HIGH)}, "partly"),
        ({"sa": gain(HIGH, TOUCHES)}, "partly"),
        ({"sr": gain(LOW, HIGH)}, "partly"),
        ({"la": gain(HIGH, LOW)}, "partly"),
        ({"sr": gain(HIGH, TOUCHES), "lr": gain(TOUCHES, HIGH)}, "not supported"),
        ({"sa": gain(LOW, LOW), "la": gain(LOW, LOW)}, "not supported"),
    ],
)
def test_stabilizing_has_to_beat_adversarial_training_and_random_neurons(
    changed: dict[str, Gain], expected: str
) -> None:
    found = verdicts.stabilizing_makes_robust(gains(**changed))
    assert word(verdicts.stabilizing_makes_robust, found) == expected
    heavy, light = found
    assert (heavy.what, light.what) == ("weight 1", "weight 0.1")
    assert heavy.holds == (not {"sa", "sr"} & set(changed))
    assert light.holds == (not {"la", "lr"} & set(changed))
    assert "SNS 0.1 above SNS random 0.1: +20.0" in light.number or "lr" in changed


Counts = tuple[tuple[int, int], tuple[int, int]]
"""How many of ten images two networks of each weight are right on, those of the lighter weight first."""


def results(clean: Counts, robust: Counts) -> Results:
    found = Results()
    parts: list[tuple[str, Threat, Counts]] = [
        ("clean", "clean", clean), ("trade-off", "direct", robust), ("trade-off", "clean", LEVEL),
    ]  # fmt: skip  # the last decides nothing
    for part, threat, counts in parts:
        for defence, seeds in zip(("SNS 0.1", "SNS", "AT"), (*counts, (5, 5)), strict=True):
            for seed, n in enumerate(seeds):
                found.add_hits(
                    torch.arange(10) < n, part=part, dataset="digits", model="CNN", defence=defence, threat=threat,
                    attack="PGD", eps=0.1, seed=seed,
                )  # fmt: skip
    return found


FALLS, RISES, LEVEL = ((9, 9), (7, 7)), ((3, 3), (5, 5)), ((9, 9), (9, 9))
NOT_SURE = ((3, 5), (5, 6))  # of two seeds one is much like the other
OCCLUDED = {
    (k, mode, what): HIGH for k in ("standard", "AT") for mode in ("zero", "mean")
    for what in ("clean", "attacked anew", "replayed")
}  # fmt: skip


@pytest.mark.parametrize(
    ("costs", "clean", "robust", "expected"),
    [
        ({}, FALLS, RISES, "supported"),
        ({("AT", "zero", "replayed"): LOW}, FALLS, RISES, "supported"),  # shown, and decides nothing
        ({("AT", "zero", "attacked anew"): TOUCHES}, FALLS, RISES, "partly"),
        ({("standard", "mean", "clean"): TOUCHES}, FALLS, RISES, "partly"),
        ({}, LEVEL, RISES, "partly"),
        ({}, FALLS, NOT_SURE, "partly"),
        ({}, RISES, FALLS, "partly"),
        (dict.fromkeys(OCCLUDED, TOUCHES), RISES, FALLS, "not supported"),
    ],
)
def test_sensitive_neurons_carry_accuracy_and_robustness(
    costs: dict[tuple[str, str, str], Interval], clean: Counts, robust: Counts, expected: str
) -> None:
    found = verdicts.accuracy_and_robustness_share_neurons(OCCLUDED | costs, results(clean, robust))
    assert word(verdicts.accuracy_and_robustness_share_neurons, found) == expected
    assert len(found) == 7
    falls, rises = found[5:]
    assert falls.holds == (clean is FALLS)
    assert rises.holds == (robust is RISES)
    assert found[4].what == "AT, set to zero, attacked anew"


def every(interval: Interval) -> dict[str, Interval]:
    kinds = ("all", "all, activation partialled out", "adversarially trained")
    return {f"{d}, {kind}": interval for d in ("D1", "D4") for kind in kinds}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "supported"),
        ({"D4, all, activation partialled out": HIGH}, "supported"),  # only that of D1 is in the rule
        ({"D1, all, activation partialled out": HIGH}, "partly"),
        ({"D4, adversarially trained": Interval(-0.5, -0.9, 0.0)}, "partly"),
        (dict.fromkeys(("D1, all", "D4, all"), HIGH), "partly"),
        (every(HIGH), "not supported"),
    ],
)
def test_sensitivity_goes_with_robustness(changed: dict[str, Interval], expected: str) -> None:
    correlations = every(LOW) | changed
    found = verdicts.sensitivity_goes_with_robustness(correlations)
    assert word(verdicts.sensitivity_goes_with_robustness, found) == expected
    assert len(found) == 5
    assert found[0].number == verdicts.show_correlation(correlations["D1, all"])


def test_a_correlation_that_is_no_number_is_no_support() -> None:
    nan = float("nan")
    names = [c.what for c in verdicts.sensitivity_goes_with_robustness(every(LOW))]
    found = verdicts.sensitivity_goes_with_robustness(every(LOW) | {names[2]: Interval(nan, nan, nan)})
    assert [c.holds for c in found] == [True, True, False, True, True]
