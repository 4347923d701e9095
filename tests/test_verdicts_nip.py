"""The rules of NIP's claims, on results made up so that each word comes out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from advdef.claims import Rule, claims, decide
from advdef.papers import how_decided, rules
from advdef.papers.nip import verdicts
from advdef.papers.nip.repair import Repair
from advdef.statistics import Interval

TABLE = claims("nip")
UNDECIDED = {"nip-C7", "nip-C8", "nip-C10"}
NET = "LeNet-5"


def word(rule: Rule, *results: object) -> str:
    return decide(TABLE[rule.claim], "digits", rule(*results)).word


def hits(right: int, n: int = 1_000) -> Tensor:
    """So many of the first images."""
    return torch.arange(n) < right


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


def repaired(defended: int, *, benign: int = 1_000, fooled: int = 1_000) -> Repair:
    """Of 1,000 images that the classifier has right, an attack fools some, and a defence is right on the first."""
    clean = torch.ones(1_000, dtype=torch.bool)
    return Repair(clean, ~hits(fooled), hits(benign), hits(defended), clean, hits(defended))


def contest(variant: Repair, baseline: Repair) -> dict[str, Repair]:
    """With a worse variant and a worse baseline, which do not matter."""
    return {"V1 self": repaired(0), "V2 pred": variant, "none": repaired(0), "noise": baseline}


GOOD, WEAK = repaired(950), repaired(800)


def test_nearly_all_is_nine_of_ten_more_than_the_best_baseline_at_little_cost() -> None:
    rule = verdicts.restores_nearly_all
    good = contest(GOOD, WEAK)
    assert word(rule, {f"{NET}, PGD-min": good, f"{NET}, PGD 0.1": good}) == "supported"
    assert word(rule, {f"{NET}, PGD-min": good, f"{NET}, PGD 0.1": contest(WEAK, repaired(0))}) == "partly"
    assert word(rule, {f"{NET}, PGD-min": contest(WEAK, repaired(0))}) == "not supported"
    assert word(rule, {}) == "not testable here"
    (condition,) = rule({f"{NET}, PGD-min": good})
    assert condition.what == f"{NET}, PGD-min, V2 pred"
    assert condition.number == (
        "restores 95.0 [93.5, 96.2] %, +15.0 [+12.8, +17.2] points against noise, benign +0.0 [-0.2, +0.2]"
    )


@pytest.mark.parametrize(
    ("variant", "baseline", "holds"),
    [
        (repaired(900), repaired(800), True),
        (repaired(899), repaired(800), False),  # restores less than 90 %
        (repaired(950), repaired(940), True),
        (repaired(950), repaired(949), False),  # the interval of the lead reaches zero
        (repaired(950), repaired(960), False),
        (repaired(950, benign=985), WEAK, True),
        (repaired(950, benign=975), WEAK, False),  # the interval of the cost reaches below -3 points
        (repaired(1_000, fooled=0), WEAK, False),  # nothing to restore
    ],
)
def test_each_part_of_restoring_is_needed(variant: Repair, baseline: Repair, holds: bool) -> None:
    (condition,) = verdicts.restores_nearly_all({f"{NET}, PGD-min": contest(variant, baseline)})
    assert condition.holds == holds


def test_of_equally_good_defences_the_first_is_named() -> None:
    found = {"V2 majority": GOOD, "V1 self": GOOD, "noise": WEAK, "none": WEAK}
    (condition,) = verdicts.restores_nearly_all({NET: found})
    assert condition.what == f"{NET}, V2 majority"
    assert "against noise" in condition.number


# C4: steps that fit


def by_eps(*gains: tuple[int, int]) -> dict[str, dict[str, Tensor]]:
    """At each eps the stable step is right on so many images more than the undefended classifier and the fixed step."""
    found = {"0": {"none": hits(900), "step 0.02": hits(890), "stable step": hits(880)}}
    for number, (over_none, over_step) in enumerate(gains, 1):
        others = {"none": hits(500 - over_none), "step 0.02": hits(500 - over_step)}
        found[f"{number}"] = {"stable step": hits(500), **others}
    return found


def test_a_step_of_its_own_must_beat_no_step_and_the_fixed_one() -> None:
    def found(*gains: tuple[int, int]) -> str:
        return word(verdicts.adapts_to_the_size, {NET: by_eps(*gains)}, {NET: "step 0.02"})

    assert found((20, 20), (20, 20)) == "supported"
    assert found((20, 20), (20, 1)) == "partly"  # the interval reaches zero
    assert found((20, 20), (1, 20)) == "partly"
    assert found((20, -20), (-20, 20)) == "not supported"
    assert found() == "not testable here"
    (condition,) = verdicts.adapts_to_the_size({NET: by_eps((20, 10))}, {NET: "step 0.02"})
    assert (condition.what, condition.number) == (
        f"{NET}, eps 1",
        "+2.0 [+1.1, +2.9] against undefended, +1.0 [+0.4, +1.6] against step 0.02 (benign 88.0 and 89.0 %)",
    )


# C5 and C6: over the attacks


@pytest.mark.parametrize("rule", [verdicts.leads_over_eleven_attacks, verdicts.leads_over_thirteen_attacks])
def test_the_best_variant_leads_the_best_baseline(rule: Rule) -> None:
    def rates(variant: float, baseline: float) -> dict[str, Tensor]:
        missing = torch.tensor([torch.nan])  # an image that no attack fooled
        best = {"V1 minus": about(variant), "noise": constant(baseline)}
        found = {"V1 self": about(0.0), **best, "none": constant(0.0)}
        return {name: torch.cat([rate, missing]).double() for name, rate in found.items()}

    assert word(rule, {NET: rates(0.8, 0.77)}) == "supported"
    assert word(rule, {NET: rates(0.8, 0.77), "other": rates(0.8, 0.79)}) == "partly"
    assert word(rule, {NET: rates(0.8, 0.79)}) == "not supported"  # the interval reaches zero
    assert word(rule, {NET: rates(0.7, 0.8)}) == "not supported"
    assert word(rule, {}) == "not testable here"
    (condition,) = rule({NET: rates(0.8, 0.77)})
    assert condition.what == f"{NET}, best variant (V1 minus) − best baseline (noise)"
    assert condition.number == "+3.0 [+1.0, +5.0]"


# C9: under the adaptive attacker


def test_every_variant_must_gain_over_no_defence_and_over_noise() -> None:
    def found(v1: int, v2: int, noise: int | None = 480, seeds: Interval | None = None) -> str:
        robust = {"none": hits(500), "V1 self": hits(v1), "V2 mean-logit": hits(v2), "AT": hits(900)}
        robust |= {} if noise is None else {"random bank, mean-logit": hits(noise)}
        over_seeds = {} if seeds is None else {NET: seeds}
        return word(verdicts.gains_under_adaptive_attack, {NET: robust}, over_seeds)

    assert found(520, 520) == "supported"
    assert found(520, 501) == "partly"  # the interval reaches zero
    assert found(500, 490) == "not supported"
    assert found(520, 520, noise=519) == "not supported"  # as good as noise
    assert found(520, 520, noise=None) == "supported"
    assert found(520, 520, seeds=Interval(0.02, 0.001, 0.04)) == "supported"
    assert found(520, 520, seeds=Interval(0.02, 0.0, 0.04)) == "partly"
    assert word(verdicts.gains_under_adaptive_attack, {NET: {"none": hits(500)}}, {}) == "not testable here"


def test_the_gains_of_a_variant_are_told() -> None:
    robust = {"none": hits(500), "random bank, mean-logit": hits(510), "V1 self": hits(520)}
    gain, seeds = verdicts.gains_under_adaptive_attack({NET: robust}, {NET: Interval(0.01, -0.01, 0.03)})
    told = "+2.0 [+1.1, +2.9] against none, +1.0 [+0.4, +1.6] against random bank, mean-logit"
    assert (gain.what, gain.holds, gain.number) == (f"{NET}, V1 self", True, told)
    assert seeds.what == f"{NET}, V2 mean-logit − undefended, adaptive, over seeds"
    assert (seeds.holds, seeds.number) == (False, "+1.0 [-1.0, +3.0]")
