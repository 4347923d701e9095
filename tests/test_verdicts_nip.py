"""The rules of NIP's claims, on results made up so that each word comes out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from advdef.claims import Rule, claims, decide
from advdef.evaluation import Results, Threat
from advdef.papers import how_decided, rules
from advdef.papers.nip import verdicts
from advdef.statistics import Interval

TABLE = claims("nip")
UNDECIDED = {"nip-C7", "nip-C8", "nip-C10"}
NET = "LeNet-5"


def word(rule: Rule, *results: object) -> str:
    return decide(TABLE[rule.claim], "digits", rule(*results)).word


def hits(right: int, n: int = 1_000) -> Tensor:
    """So many of the first images."""
    return torch.arange(n) < right


def note(
    results: Results,
    defence: str,
    right: Tensor,
    attack: str = "none",
    *,
    model: str = NET,
    threat: Threat | None = None,
) -> None:
    """What a defence has right of images, and of images under an attack."""
    known = threat or ("clean" if attack == "none" else "oblivious")
    results.add_hits(
        right, part="", dataset="digits", model=model, defence=defence, threat=known, attack=attack, eps=None, seed=0
    )


def about(mean: float) -> Tensor:
    """Values of 100 images that lie about 0.1 above and below a mean, so that its interval is 0.02 either way."""
    return mean + 0.1 * torch.tensor([1.0, -1.0]).repeat(50)


def constant(value: float) -> Tensor:
    return torch.full((100,), value)


def test_claims_that_a_run_can_decide_have_a_rule_in_words() -> None:
    assert set(rules("nip")) == set(TABLE) - UNDECIDED
    assert all(len(text) > 40 for text in how_decided("nip").values())
    assert all(how_decided("nip")[claim].startswith("Not decided here") for claim in UNDECIDED)
    assert "\n" not in rules("nip")["nip-C1"].text


# C1 and C2: what attacks move


def moved(**changes: float) -> dict[str, Tensor]:
    """Changes of front and tail and of their controls under one attack, and their sizes: those named, others zero.

    Those of the controls are the same for all images.
    """
    found = {}
    for part in ("front", "tail"):
        for control, values in (("", about), ("_matched", constant), ("_noise", constant)):
            name, told = part + control, (part + control).replace("_", ", ")
            change = changes.get(name, 0.0)
            found[told] = values(change)
            found[f"{told}, size"] = values(changes.get(f"{name}_size", abs(change)))
    return found


BOTH, FRONT, NEITHER = moved(front=-0.9, tail=0.9), moved(front=-0.9), moved()


@pytest.mark.parametrize("rule", [verdicts.moves_front_and_tail, verdicts.lowers_front_and_raises_tail])
def test_front_and_tail_move_more_than_both_controls_in_nine_of_ten_attacks(rule: Rule) -> None:
    def attacks(good: int, of: int, rest: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor]]:
        return {f"attack {n}": BOTH if n < good else rest for n in range(of)}

    assert word(rule, {NET: attacks(9, 10, NEITHER)}) == "supported"
    assert word(rule, {NET: attacks(8, 10, FRONT)}) == "partly"
    assert word(rule, {NET: attacks(8, 10, NEITHER)}) == "not supported"
    assert word(rule, {NET: attacks(1, 1, NEITHER), "other": attacks(0, 1, NEITHER)}) == "partly"
    assert word(rule, {NET: {}}) == "not supported"  # no attack fooled enough images
    assert word(rule, {}) == "not testable here"
    front, tail = rule({NET: attacks(8, 10, FRONT)})
    assert (front.what.split(" more")[0].split()[1], front.holds, front.number) == ("front", True, "10 of 10 attacks")
    assert (tail.what.split(" more")[0].split()[1], tail.holds, tail.number) == ("tail", False, "8 of 10 attacks")


@pytest.mark.parametrize("control", ["matched", "noise"])
@pytest.mark.parametrize(
    ("part", "change"),
    [("front", -0.9), ("tail", 0.9)],
)
def test_either_control_can_explain_a_change(part: str, change: float, control: str) -> None:
    other = {"front": "tail", "tail": "front"}[part]
    for rule in (verdicts.moves_front_and_tail, verdicts.lowers_front_and_raises_tail):
        far = {part: change, other: -change, f"{part}_{control}": 0.9 * change}
        assert word(rule, {NET: {"PGD": moved(**far)}}) == "supported"
        far[f"{part}_{control}"] = 0.99 * change  # the interval of the difference reaches below zero
        assert word(rule, {NET: {"PGD": moved(**far)}}) == "partly"
        without = {k: v for k, v in moved(**far).items() if control not in k}
        assert word(rule, {NET: {"AUNA": without}}) == "supported"


def test_size_and_direction_are_two_claims() -> None:
    wrong_way = {"PGD": moved(front=0.9, tail=-0.9)}
    assert word(verdicts.moves_front_and_tail, {NET: wrong_way}) == "supported"
    assert word(verdicts.lowers_front_and_raises_tail, {NET: wrong_way}) == "not supported"
    to_and_fro = {"PGD": moved(front_size=0.9, tail_size=0.9)}
    assert word(verdicts.moves_front_and_tail, {NET: to_and_fro}) == "supported"
    assert word(verdicts.lowers_front_and_raises_tail, {NET: to_and_fro}) == "not supported"


def test_a_set_that_falls_less_far_than_its_control_has_not_fallen_by_the_attack() -> None:
    falls = moved(front=-0.9, front_matched=-1.5, front_matched_size=0.0, tail=0.9)
    assert word(verdicts.moves_front_and_tail, {NET: {"PGD": falls}}) == "supported"
    assert word(verdicts.lowers_front_and_raises_tail, {NET: {"PGD": falls}}) == "partly"


# C3: what is restored


def contest(variant: int, baseline: int, *, benign: int = 1_000, fooled: int = 1_000) -> Results:
    """An attack fools some of 1,000 images that the classifier has right; the best variant and the best baseline are
    right on the first so many. With a worse variant and a worse baseline, which do not matter.
    """
    found = Results()
    for name, right in {"V1 self": 0, "V2 pred": variant, "noise": baseline}.items():
        note(found, name, hits(benign))
        note(found, name, hits(right), "PGD")
    note(found, "none", hits(1_000))
    note(found, "none", ~hits(fooled), "PGD")
    return found


FAIR = {NET: ("V1 self", "V2 pred", "none", "noise")}


def test_nearly_all_is_nine_of_ten_more_than_the_best_baseline_at_little_cost() -> None:
    rule, good, weak = verdicts.restores_nearly_all, contest(950, 800), contest(800, 0)
    assert word(rule, {"PGD-min": good, "PGD 0.1": good}, FAIR) == "supported"
    assert word(rule, {"PGD-min": good, "PGD 0.1": weak}, FAIR) == "partly"
    assert word(rule, {"PGD-min": weak}, FAIR) == "not supported"
    assert word(rule, {}, FAIR) == "not testable here"
    (condition,) = rule({"PGD-min": good}, FAIR)
    assert condition.what == f"{NET}, PGD-min, V2 pred"
    assert condition.number == (
        "restores 95.0 [93.5, 96.2] %, +15.0 [+12.8, +17.2] points against noise, benign +0.0 [-0.2, +0.2]"
    )


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (contest(900, 800), True),
        (contest(899, 800), False),  # restores less than 90 %
        (contest(950, 940), True),
        (contest(950, 949), False),  # the interval of the lead reaches zero
        (contest(950, 960), False),
        (contest(950, 800, benign=985), True),
        (contest(950, 800, benign=975), False),  # the interval of the cost reaches below -3 points
        (contest(1_000, 800, fooled=0), False),  # nothing to restore
    ],
)
def test_each_part_of_restoring_is_needed(found: Results, holds: bool) -> None:
    fair = {NET: FAIR[NET][:2] + FAIR[NET][3:]}  # undefended images are all right where none is fooled
    (condition,) = verdicts.restores_nearly_all({"PGD-min": found}, fair)
    assert condition.holds == holds


def test_of_equally_good_defences_the_first_is_named() -> None:
    found = Results()
    for name, right in {"V1 self": 950, "V2 majority": 950, "none": 0, "noise": 0}.items():
        note(found, name, hits(1_000))
        note(found, name, hits(right), "PGD")
    (condition,) = verdicts.restores_nearly_all({"PGD": found}, {NET: ("V2 majority", "V1 self", "noise", "none")})
    assert condition.what == f"{NET}, PGD, V2 majority"
    assert "against noise" in condition.number


def test_what_costs_too_much_does_not_count() -> None:
    good = contest(950, 940)
    (condition,) = verdicts.restores_nearly_all({"PGD": good}, {NET: ("V1 self", "none", "noise")})
    assert (condition.what, condition.holds) == (f"{NET}, PGD, V1 self", False)
    assert word(verdicts.restores_nearly_all, {"PGD": good}, {NET: ("V2 pred", "none")}) == "supported"


# C4: steps that fit


def by_eps(*gains: tuple[int, int]) -> dict[str, Results]:
    """At each eps the stable step is right on so many images more than the undefended classifier and the fixed step."""
    found = {}
    for number, (over_none, over_step) in enumerate(gains, 1):
        found[f"{number}"] = Results()
        right = {"none": (900, 500 - over_none), "step 0.02": (890, 500 - over_step), "stable step": (880, 500)}
        for name, (benign, attacked) in right.items():
            note(found[f"{number}"], name, hits(benign))
            note(found[f"{number}"], name, hits(attacked), "PGD")
        note(found[f"{number}"], "stable step", hits(0), "PGD", model="another")
    return found


def test_a_step_of_its_own_must_beat_no_step_and_the_fixed_one() -> None:
    def found(*gains: tuple[int, int]) -> str:
        return word(verdicts.adapts_to_the_size, by_eps(*gains), {NET: "step 0.02"})

    assert found((20, 20), (20, 20)) == "supported"
    assert found((20, 20), (20, 1)) == "partly"  # the interval reaches zero
    assert found((20, 20), (1, 20)) == "partly"
    assert found((20, -20), (-20, 20)) == "not supported"
    assert found() == "not testable here"
    (condition,) = verdicts.adapts_to_the_size(by_eps((20, 10)), {NET: "step 0.02"})
    assert (condition.what, condition.number) == (
        f"{NET}, eps 1",
        "+2.0 [+1.1, +2.9] against undefended, +1.0 [+0.4, +1.6] against step 0.02 (benign 88.0 and 89.0 %)",
    )


# C5 and C6: over the attacks


@pytest.mark.parametrize("rule", [verdicts.leads_over_eleven_attacks, verdicts.leads_over_thirteen_attacks])
def test_the_best_variant_leads_the_best_baseline(rule: Rule) -> None:
    def found(**others: tuple[int, int]) -> Results:
        """So many of 1,000 fooled images are right by the best variant and by the best baseline; one is not fooled."""
        results = Results()
        for network, (variant, baseline) in others.items():
            note(results, "none", hits(1_001, 1_001), model=network)
            note(results, "none", ~hits(1_000, 1_001), "PGD", model=network)
            for name, right in {"V1 self": 0, "V1 minus": variant, "noise": baseline, "dear": 1_000}.items():
                note(results, name, hits(right, 1_001), "PGD", model=network)
        return results

    one, fair = found(CNN=(800, 790)), {"CNN": ("V1 self", "V1 minus", "none", "noise")}
    both = fair | {"MLP": fair["CNN"]}
    assert word(rule, one, fair) == "supported"
    assert word(rule, found(CNN=(800, 790), MLP=(800, 799)), both) == "partly"
    assert word(rule, found(CNN=(800, 799)), fair) == "not supported"  # the interval reaches zero
    assert word(rule, found(CNN=(700, 800)), fair) == "not supported"
    assert word(rule, one, {}) == "not testable here"
    (condition,) = rule(one, fair)
    assert condition.what == "CNN, best variant (V1 minus) − best baseline (noise)"
    assert condition.number == "+1.0 [+0.4, +1.6]"


# C9: under the adaptive attacker


def worst(**right: int | None) -> Results:
    """What that attacker leaves of the first images, by defence."""
    names, found = {"V1": "V1 self", "V2": "V2 mean-logit", "noise": "random bank, mean-logit"}, Results()
    for name, number in right.items():
        if number is not None:
            note(found, names.get(name, name), hits(number), "worst case", threat="adaptive")
    return found


def test_every_variant_must_gain_over_no_defence_and_over_noise() -> None:
    def found(v1: int, v2: int, noise: int | None = 480, seeds: Interval | None = None) -> str:
        over_seeds = {} if seeds is None else {NET: seeds}
        robust = worst(none=500, V1=v1, V2=v2, AT=900, noise=noise)
        return word(verdicts.gains_under_adaptive_attack, robust, over_seeds)

    assert found(520, 520) == "supported"
    assert found(520, 501) == "partly"  # the interval reaches zero
    assert found(500, 490) == "not supported"
    assert found(520, 520, noise=519) == "not supported"  # as good as noise
    assert found(520, 520, noise=None) == "supported"
    assert found(520, 520, seeds=Interval(0.02, 0.001, 0.04)) == "supported"
    assert found(520, 520, seeds=Interval(0.02, 0.0, 0.04)) == "partly"
    assert word(verdicts.gains_under_adaptive_attack, worst(none=500), {}) == "not testable here"


def test_the_gains_of_a_variant_are_told() -> None:
    robust = worst(none=500, noise=510, V1=520)
    gain, seeds = verdicts.gains_under_adaptive_attack(robust, {NET: Interval(0.01, -0.01, 0.03)})
    told = "+2.0 [+1.1, +2.9] against none, +1.0 [+0.4, +1.6] against random bank, mean-logit"
    assert (gain.what, gain.holds, gain.number) == (f"{NET}, V1 self", True, told)
    assert seeds.what == f"{NET}, V2 mean-logit − undefended, adaptive, over seeds"
    assert (seeds.holds, seeds.number) == (False, "+1.0 [-1.0, +3.0]")
