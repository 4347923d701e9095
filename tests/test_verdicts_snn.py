"""The rules that decide the claims about SNN purification, on made-up results: every word that they can give."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from advdef.claims import Condition, Rule, claims, decide
from advdef.evaluation import Results, Threat
from advdef.evaluation.results import WORST_CASE
from advdef.papers import rules
from advdef.papers.snn.footprint import Footprint
from advdef.papers.snn.verdicts import (
    detector_helps,
    levels_and_gate_help,
    one_step_suffices,
    purifier_cleans,
    purifier_combines,
    purifier_does_well,
    purifier_is_better_and_cheaper,
)

PGD = "PGD-20"
CLAIMS = claims("snn_purification")


def hits(right: int, of: int = 100) -> Tensor:
    return torch.arange(of) < right


def results(**parts: Mapping[str, Mapping[str, Tensor]]) -> Results:
    """Rows by part, defence and attack; those of the parts "static" and "ablation" are oblivious."""
    found = Results()
    for part, defences in parts.items():
        knows: Threat = "oblivious" if part in ("static", "ablation") else "adaptive"
        for defence, attacks in defences.items():
            for attack, right in attacks.items():
                found.add_hits(
                    right, part=part.replace("_", " "), dataset="digits", model="small", defence=defence, seed=0,
                    threat="clean" if attack == "none" else knows, attack=attack, eps=0.0 if attack == "none" else 0.1,
                )  # fmt: skip
    return found


def worst(**right: Tensor) -> dict[str, dict[str, Tensor]]:
    """By defence, as :func:`results` takes it."""
    return {defence: {WORST_CASE: found} for defence, found in right.items()}


def word(rule: Rule, conditions: tuple[Condition, ...], dataset: str = "digits") -> str:
    return decide(CLAIMS[rule.claim], dataset, conditions).word


def held(conditions: tuple[Condition, ...]) -> list[bool]:
    return [condition.holds for condition in conditions]


def footprint(kept: float, needed: float) -> Footprint:
    return Footprint(parameters=1, multiply_adds=needed, spikes=0.0, kept_bytes=kept)


def test_each_claim_has_a_rule_that_says_what_holds() -> None:
    found = rules("snn_purification")
    assert set(found) == set(CLAIMS)
    assert all(rule.text.endswith(".") for rule in found.values())


# of 90 images the attack leaves 10: a half back is 50
BARE = {"none": hits(90), "FGSM": hits(10), PGD: hits(10)}
BETTER = torch.tensor([1.0, 2.0, 2.0, 3.0])
WORSE = -BETTER


@pytest.mark.parametrize(
    ("right", "gains", "given"),
    [
        ({"FGSM": 80, PGD: 80}, {"FGSM": BETTER, PGD: BETTER}, "supported"),
        ({"FGSM": 80, PGD: 40}, {"FGSM": BETTER, PGD: WORSE}, "partly"),
        ({"FGSM": 40, PGD: 10}, {"FGSM": WORSE, PGD: WORSE}, "not supported"),
        ({}, {}, "not testable here"),
    ],
)
def test_c1_word(right: dict[str, int], gains: dict[str, Tensor], given: str) -> None:
    found = results(static={"none": BARE, "purifier": {attack: hits(n) for attack, n in right.items()}})
    assert word(purifier_cleans, purifier_cleans(found, sharper=gains)) == given


def test_c1_half_is_given_back_only_where_the_run_tells() -> None:
    def holds(right: int) -> bool:
        found = results(static={"none": BARE, "purifier": {PGD: hits(right)}})
        return purifier_cleans(found, sharper={PGD: BETTER})[0].holds

    # the gain is above zero in all of them; 55 is above the half, but its interval contains it
    assert [holds(right) for right in (45, 55, 60)] == [False, False, True]


def test_c1_a_gain_must_be_above_zero_even_where_little_was_taken() -> None:
    def holds(right: int) -> bool:
        bare = {"none": hits(20, 40), PGD: hits(20, 40)}
        found = results(static={"none": bare, "purifier": {PGD: hits(right, 40)}})
        return purifier_cleans(found, sharper={PGD: BETTER})[0].holds

    assert not holds(24)
    assert holds(25)


def test_c1_numbers() -> None:
    # images that the attack or the purifier left as they were have no finite gain, and do not count
    sharper = torch.tensor([1.0, 2.0, 3.0, float("inf"), float("-inf"), float("nan")])
    found = results(static={"none": BARE, "purifier": {"FGSM": hits(80)}})
    conditions = purifier_cleans(found, sharper={"FGSM": sharper})
    assert conditions == (
        Condition("purifier, FGSM", True, "+70.0 [+59.4, +77.8] points of 80.0 taken"),
        Condition("PSNR in dB, FGSM", False, "+2.0 [-0.5, +4.5]"),
    )


def networks(**budgets: Mapping[str, int]) -> Results:
    """By budget, how many of 100 images each network is right on."""
    found = Results()
    for budget, right in budgets.items():
        for network, n in right.items():
            found.add_hits(
                hits(n), part="core", dataset="digits", model="small", defence=network, threat="adaptive",
                attack=WORST_CASE, eps=0.1, seed=0, budget=budget,
            )  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("found", "given"),
    [
        ({"SE-MLF3": 60, "LIF": 40, "MLF3": 40}, "supported"),
        ({"SE-MLF3": 60, "LIF": 40, "MLF3": 60}, "partly"),
        ({"SE-MLF3": 60, "LIF": 59, "MLF3": 60, "MLF2": 0}, "not supported"),
        ({"SE-MLF3": 60, "LIF": 40}, "supported"),
        ({"SE-MLF3": 60}, "not testable here"),
    ],
)
def test_c2_word(found: dict[str, int], given: str) -> None:
    assert word(levels_and_gate_help, levels_and_gate_help(networks(low=found, high=found))) == given


def test_c2_each_budget_meets_each_other_network() -> None:
    low, high = ({"SE-MLF3": n, "LIF": 40, "MLF3": 40} for n in (60, 40))
    conditions = levels_and_gate_help(networks(**{"1/255": low, "2/255": high}))
    pairs = ["SE-MLF3 − LIF", "SE-MLF3 − MLF3"]
    assert [c.what for c in conditions] == [f"{pair}, eps {eps}" for eps in ("1/255", "2/255") for pair in pairs]
    assert held(conditions) == [True, True, False, False]


def combined(no_divergence: int, robust: int, clean: int) -> tuple[Condition, ...]:
    """FGSM-AT is right on 300 of 1,000 images under PGD, and on 800 clean ones."""
    static = {
        "none": BARE,
        "FGSM-AT": {"none": hits(800, 1_000), PGD: hits(300, 1_000)},
        "purifier + FGSM-AT": {"none": hits(clean, 1_000), PGD: hits(robust, 1_000)},
    }
    found = results(static=static, ablation={"no divergence": {PGD: hits(no_divergence)}})
    return purifier_combines(found, attack=PGD)


def test_c3_words_and_the_two_points() -> None:
    cases = [combined(80, 310, 790), combined(80, 310, 780), combined(80, 303, 790), combined(55, 300, 780)]
    assert [held(c) for c in cases] == [[True, True, True], [True, True, False], [True, False, True], [False] * 3]
    assert [word(purifier_combines, c) for c in cases] == ["supported", "partly", "partly", "not supported"]
    assert [c.what for c in cases[0]] == [
        f"no divergence, {PGD}", f"purifier + FGSM-AT − FGSM-AT, {PGD}", "the same, clean",
    ]  # fmt: skip


def rivalled(rivals: dict[str, int], seconds: float, pipeline: Footprint, purifier: int = 60) -> tuple[Condition, ...]:
    """Adversarial training takes 100 seconds, the classifier 2 MiB and 3 million multiply-adds."""
    right = worst(purifier=hits(purifier), **{k: hits(n) for k, n in rivals.items()})
    return purifier_is_better_and_cheaper(
        results(worst=right), seconds=dict.fromkeys(rivals, 100.0) | {"purifier": seconds}, pipeline=pipeline,
        classifier=footprint(2 * 2**20, 3e6),
    )  # fmt: skip


EQUAL, LARGER = footprint(2 * 2**20, 3e6), footprint(2 * 2**20 + 1, 3e6 + 1)


def test_c4_words_and_bounds() -> None:
    rivals = {"FGSM-AT": 40, "RAT": 40, "PGD-AT": 100}
    cases = [rivalled(rivals, 99.0, EQUAL), rivalled(rivals, 100.0, EQUAL), rivalled(rivals, 100.0, LARGER, 41)]
    assert [held(c) for c in cases] == [[True] * 6, [True, True, False, False, True, True], [False] * 6]
    words = ["supported", "partly", "not supported"]
    assert [word(purifier_is_better_and_cheaper, c) for c in cases] == words
    assert held(rivalled(rivals, 99.0, footprint(2 * 2**20, 3e6 + 1)))[-2:] == [True, False]


def test_c4_leaves_out_rivals_that_were_not_trained() -> None:
    conditions = rivalled({"FGSM-AT": 40}, 99.6, footprint(2.6 * 2**20, 30.4e6))
    assert conditions == (
        Condition("purifier − FGSM-AT, worst case", True, "+20.0 [+11.7, +27.5]"),
        Condition("seconds of training, FGSM-AT", True, "100 against 100"),
        Condition("memory of a training image, MiB", False, "2.6 against 2.0"),
        Condition("multiply-adds at inference, millions", False, "30.4 against 3.0"),
    )


@pytest.mark.parametrize(
    ("area", "slipped", "robust", "given"),
    [
        (0.9, 0.1, 30, [True, True, True]),
        (0.89, 0.1, 30, [False, True, True]),
        (0.9, 0.11, 30, [True, False, True]),
        (0.9, 0.1, 21, [True, True, False]),
        (0.89, 0.11, 20, [False, False, False]),
    ],
)
def test_c5_words_and_bounds(area: float, slipped: float, robust: int, given: list[bool]) -> None:
    static = {"gate": {"none": hits(90), PGD: hits(robust)}, "purifier": {"none": hits(90), PGD: hits(20)}}
    conditions = detector_helps(results(static=static), area=area, slipped=slipped, attack=PGD)
    assert held(conditions) == given
    words = {3: "supported", 2: "partly", 0: "not supported"}
    assert word(detector_helps, conditions) == words[sum(given)]
    assert [c.number for c in conditions][:2] == [f"{area:.2f}", f"{100 * slipped:.0f}"]
    assert [c.what for c in conditions] == [
        f"area, {PGD}", "wrong and not flagged %, unnoticed", f"gate on − off, mean of clean and {PGD}",
    ]  # fmt: skip


def test_c5_what_the_gate_gives_under_attack_it_may_not_take_from_clean_images() -> None:
    static = {"gate": {"none": hits(80), PGD: hits(30)}, "purifier": {"none": hits(90), PGD: hits(20)}}
    assert held(detector_helps(results(static=static), area=1.0, slipped=0.0, attack=PGD)) == [True, True, False]


@pytest.mark.parametrize(
    ("one_step", "times", "given", "verdict"),
    [
        (790, 1.1, [True, True], "supported"),
        (790, 1.0, [False, True], "partly"),
        (780, 1.1, [True, False], "partly"),
        (780, 0.9, [False, False], "not supported"),
    ],
)
def test_c6_words_and_bounds(one_step: int, times: float, given: list[bool], verdict: str) -> None:
    variants = {"purifier": {PGD: hits(one_step, 1_000)}, "PGD-7 pairs": {PGD: hits(800, 1_000)}}
    conditions = one_step_suffices(results(ablation=variants), times=times, attack=PGD)
    assert held(conditions) == given
    assert word(one_step_suffices, conditions) == verdict
    assert [c.what for c in conditions] == [
        "time for the same images, PGD-7 / FGSM", f"trained on FGSM − on PGD-7, {PGD}",
    ]  # fmt: skip
    assert conditions[0].number == f"{times:.1f}"


def test_c6_needs_a_purifier_trained_on_pgd() -> None:
    nothing = one_step_suffices(results(ablation={"purifier": {PGD: hits(80)}}), times=4.0, attack=PGD)
    assert word(one_step_suffices, nothing) == "not testable here"


@pytest.mark.parametrize(
    ("right", "dataset", "given"),
    [
        ((80, 80, 80), "cifar10", "supported"),
        ((80, 80, 40), "svhn", "partly"),
        ((40, 80, 40), "svhn", "partly"),
        ((40, 40, 40), "cifar100", "not supported"),
        ((80, 80, 80), "digits", "not testable here"),
    ],
)
def test_c7_word(right: tuple[int, int, int], dataset: str, given: str) -> None:
    static, black, known = map(hits, right)
    found = results(
        static={"none": BARE, "purifier": {PGD: static}},
        black_box=worst(none=hits(10), purifier=black),
        worst={"none": {"none": hits(90), WORST_CASE: hits(0)}, "purifier": {WORST_CASE: known}},
    )
    conditions = purifier_does_well(found, attack=PGD)
    assert word(purifier_does_well, conditions, dataset) == given
    assert [c.what for c in conditions] == [f"purifier, {PGD}", "black box", "worst case"]
    assert [c.number.split("of ")[1] for c in conditions] == ["80.0 taken", "80.0 taken", "90.0 taken"]
