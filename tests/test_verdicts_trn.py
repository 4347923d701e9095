"""The rules of TRN: made-up results give each word that a rule can give, and each bound is met from both sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor

from advdef.claims import Condition, Rule, VerdictWord, claims, decide
from advdef.evaluation import Results
from advdef.evaluation.results import WORST_CASE
from advdef.papers import how_decided, rules
from advdef.papers.trn import verdicts
from advdef.statistics import Interval, mean_interval, paired_difference

CLAIMS = claims("trn")
FIVE = ("FGSM", "FFGSM", "BIM", "MIM", "PGD")
UP, DOWN, ACROSS = Interval(0.05, 0.01, 0.09), Interval(-0.05, -0.09, -0.01), Interval(0.01, -0.02, 0.04)


def word(number: str, conditions: Iterable[Condition]) -> VerdictWord:
    return decide(CLAIMS[f"trn-{number}"], "digits", tuple(conditions)).word


def right(count: int, of: int = 200) -> Tensor:
    """The first ``count`` images."""
    return torch.arange(of) < count


WHERE = {"part": "oblivious", "dataset": "digits", "model": "small ResNet", "eps": 0.1, "seed": 0}


def replayed(clean: int = 180, of: int = 200, **attacks: tuple[int, int]) -> Results:
    """Rows of some attacks by name: how many images each leaves the bare classifier and TRN right on."""
    found = Results()
    found.add_hits(right(clean), defence="none", threat="clean", attack="none", **WHERE | {"eps": 0.0})
    for attack, counts in attacks.items():
        for defence, count in zip(("none", "TRN"), counts, strict=True):
            found.add_hits(right(count, of), defence=defence, threat="oblivious", attack=attack, **WHERE)
    return found


GOOD, BAD = (20, 150), (20, 60)  # of 200 images, half of what the attack took leaves 100 right


def test_every_claim_is_decided_by_a_rule_or_says_why_not() -> None:
    found = rules("trn")
    assert list(found) == [claim for claim in CLAIMS if claim != "trn-C11"]
    assert all(text.strip() for text in how_decided("trn").values())
    assert all(not CLAIMS[claim].decided_by for claim in found)
    assert {getattr(verdicts, name).claim for name in verdicts.__all__} == set(found)


def gained(restored: int, bare: int, clean: int) -> Interval:
    """By how much more than half of what was taken is right again."""
    return mean_interval(right(restored).double() - (right(clean).double() + right(bare).double()) / 2)


@pytest.mark.parametrize(
    ("restored", "bare", "clean", "holds"),
    [
        (150, 20, 180, True),
        (113, 20, 180, True),  # the lower end of the gain lies just above half of the loss, which is 80 images
        (112, 20, 180, False),
        (100, 20, 180, False),  # half of it, but no interval above
        (20, 20, 180, False),
        (10, 20, 180, False),
        (180, 180, 180, False),  # nothing was taken, and nothing given back
    ],
)
def test_half_of_what_was_taken_is_given_back(restored: int, bare: int, clean: int, holds: bool) -> None:
    (condition,) = verdicts.generalises({"eps 0.3": replayed(clean, PGD=(bare, restored))})
    assert condition.holds == holds == (gained(restored, bare, clean).low > 0)
    gain = paired_difference(right(restored), right(bare))
    assert condition.what == "eps 0.3"
    assert condition.number == f"{gain:+} points of {(clean - bare) / 2:.1f} taken"


def test_more_than_half_is_not_enough_without_a_gain() -> None:
    # the attack left more right than there was before, so that half of the loss is below zero
    (condition,) = verdicts.generalises({"eps 0.3": replayed(20, PGD=(100, 100))})
    assert gained(restored=100, bare=100, clean=20).low > 0
    assert not condition.holds


def test_an_attack_may_have_seen_the_first_images_alone() -> None:
    (condition,) = verdicts.generalises({"eps 0.3": replayed(clean=180, of=150, PGD=(0, 100))})
    assert condition.holds
    assert condition.number == f"{paired_difference(right(100, 150), right(0, 150)):+} points of 100.0 taken"


@pytest.mark.parametrize(("good", "expected"), [(FIVE, "supported"), (("PGD",), "partly"), ((), "not supported")])
def test_the_five_attacks_all_count(good: tuple[str, ...], expected: str) -> None:
    attacks = {attack: GOOD if attack in good else BAD for attack in FIVE} | {"Square": GOOD}
    conditions = verdicts.restores_the_five_attacks(replayed(**attacks))
    assert [condition.what for condition in conditions] == list(FIVE)
    assert word("C1", conditions) == expected
    del attacks["MIM"]
    with pytest.raises(ValueError, match="no row has threat 'oblivious'"):
        verdicts.restores_the_five_attacks(replayed(**attacks))


@pytest.mark.parametrize(
    ("leads", "expected"),
    [
        ({"image only": [UP], "random map": [UP, UP]}, "supported"),
        ({"image only": [UP], "random map": [UP, ACROSS]}, "not supported"),
        ({"image only": [UP], "random map": [DOWN]}, "not supported"),
        ({"image only": [Interval(0.05, 0.0, 0.1)]}, "not supported"),
        ({"image only": [Interval(0.05, 1e-9, 0.1)]}, "supported"),
        ({"image only": [UP], "predicted": [DOWN], "oracle map": [DOWN]}, "supported"),  # these are no controls
        ({"predicted": [UP]}, "not testable here"),
        ({}, "not testable here"),
    ],
)
def test_the_map_has_to_exceed_all_controls(leads: Mapping[str, list[Interval]], expected: str) -> None:
    conditions = verdicts.exceeds_blind_maps(leads)
    assert len(conditions) == ("image only" in leads)
    assert word("C2", conditions) == expected


def test_the_numbers_of_all_controls_are_told() -> None:
    (condition,) = verdicts.exceeds_blind_maps({"image only": [UP], "random map": [UP, ACROSS]})
    assert condition.what == "more than every control"
    assert condition.number == (
        "TRN − image only: +5.0 [+1.0, +9.0]; TRN − random map: +5.0 [+1.0, +9.0], over seeds +1.0 [-2.0, +4.0]"
    )


@pytest.mark.parametrize(
    ("cosine", "oracle", "expected"),
    [
        (0.501, Interval(0.0, -0.019, 0.02), "supported"),
        (0.5, Interval(0.0, -0.019, 0.02), "partly"),
        (0.501, Interval(0.0, -0.02, 0.02), "partly"),
        (0.5, Interval(0.0, -0.02, 0.02), "not supported"),
        (0.501, None, "supported"),
        (0.5, None, "not supported"),
    ],
)
def test_the_estimate_is_near_the_true_gradient(cosine: float, oracle: Interval | None, expected: str) -> None:
    leads = {"image only": [DOWN]} | ({} if oracle is None else {"oracle map": [oracle, DOWN]})
    conditions = verdicts.label_is_not_needed({"PGD": Interval(0.6, cosine, 0.7)}, leads)
    assert word("C3", conditions) == expected
    assert conditions[0] == Condition("cosine, PGD", cosine > 0.5, "+0.60 [+0.50, +0.70]")


def test_no_fooled_image_and_no_oracle_decide_nothing() -> None:
    assert word("C3", verdicts.label_is_not_needed({}, {"image only": [UP]})) == "not testable here"
    assert word("C3", verdicts.label_is_not_needed({"PGD, 0.5 eps": UP}, {})) == "not testable here"


@pytest.mark.parametrize(
    ("number", "function", "names"),
    [
        ("C4", verdicts.exceeds_simpler_fusions, ("early", "sum", "concat")),
        (
            "C10",
            verdicts.exceeds_other_purifications,
            ("JPEG 75", "bit depth 3", "median 2x2", "total variation", "HGD-style", "image only"),
        ),
    ],
)
def test_each_competitor_counts_and_nothing_else(number: str, function: Rule, names: tuple[str, ...]) -> None:
    above = {key: [UP, UP] for key in (*names, "heavy", "none", "Fast-AT")}
    assert [condition.what for condition in function(above)] == [f"TRN − {name}" for name in names]
    assert word(number, function(above)) == "supported"
    assert word(number, function(above | {"heavy": [DOWN], "Fast-AT": [DOWN]})) == "supported"
    assert word(number, function(above | {names[1]: [UP, ACROSS]})) == "partly"
    assert word(number, function({key: [Interval(0.05, 0.0, 0.1)] for key in names})) == "not supported"
    assert word(number, function({"heavy": [UP]})) == "not testable here"


def test_unseen_attacks_are_those_that_training_lacks_and_that_fool() -> None:
    idle = (180, 190)
    attacks = {"FGSM": GOOD, "PGD": GOOD, "BIM": GOOD, "DeepFool": idle, "Square": GOOD}
    conditions = verdicts.restores_unseen_attacks(replayed(**attacks))
    assert [condition.what for condition in conditions] == ["BIM", "Square"]
    assert word("C5", conditions) == "supported"
    assert word("C5", verdicts.restores_unseen_attacks(replayed(**attacks | {"Square": BAD}))) == "partly"
    assert word("C5", verdicts.restores_unseen_attacks(replayed(PGD=GOOD, BIM=BAD))) == "not supported"
    assert word("C5", verdicts.restores_unseen_attacks(replayed(PGD=GOOD, BIM=idle))) == "not testable here"


@pytest.mark.parametrize(("lost", "expected"), [(0, "supported"), (12, "supported"), (13, "not supported")])
def test_two_points_of_clean_accuracy_may_be_lost(lost: int, expected: str) -> None:
    bare, restored = right(950, of=1_000), right(950 - lost, of=1_000)
    found = Results()
    for defence, hits in {"none": bare, "TRN": restored}.items():
        found.add_hits(hits, defence=defence, threat="clean", attack="none", **WHERE)
    conditions = verdicts.benign_accuracy_stays(found)
    assert word("C6", conditions) == expected
    assert (paired_difference(restored, bare).low > -0.02) == (expected == "supported")


def test_every_setting_counts() -> None:
    good, bad = replayed(PGD=GOOD), replayed(PGD=BAD)
    assert word("C7", verdicts.generalises({"eps 0.3": good, "in front of LeNet-5": good})) == "supported"
    assert word("C7", verdicts.generalises({"eps 0.3": good, "in front of LeNet-5": bad})) == "partly"
    assert word("C7", verdicts.generalises({"eps 0.3": bad})) == "not supported"
    assert word("C7", verdicts.generalises({})) == "not testable here"


def test_a_larger_network_has_to_gain() -> None:
    rule = verdicts.a_larger_network_restores_better
    assert word("C8", rule({"TRN-S − TRN-XS": UP})) == "supported"
    assert word("C8", rule({"TRN-S − TRN-XS": Interval(0.05, 0.0, 0.1)})) == "not supported"
    assert word("C8", rule({"TRN-S − TRN-XS": UP, "TRN-B − TRN-XS": ACROSS})) == "partly"
    assert word("C8", rule({})) == "not testable here"


def left(trn: int, fast_at: int = 50) -> Results:
    """On how many images the worst case leaves both networks right."""
    found = Results()
    for defence, count in {"TRN": trn, "Fast-AT": fast_at}.items():
        found.add_hits(right(count), defence=defence, threat="adaptive", attack=WORST_CASE, **WHERE)
    return found


def test_trn_has_to_stand_above_fast_at_at_every_eps() -> None:
    above, below = left(60), left(40)
    rule = verdicts.holds_against_all_rungs
    assert word("C9", rule({"0.1": above, "0.2": above})) == "supported"
    assert word("C9", rule({"0.1": above, "0.2": below})) == "partly"
    assert word("C9", rule({"0.1": below, "0.2": left(50)})) == "not supported"
    assert word("C9", rule({})) == "not testable here"
    assert [condition.what for condition in rule({"0.1": above})] == ["TRN − Fast-AT, eps 0.1"]


@pytest.mark.parametrize(("more", "holds"), [(4, False), (5, True)])
def test_the_lower_end_of_the_difference_to_fast_at_decides(more: int, holds: bool) -> None:
    (condition,) = verdicts.holds_against_all_rungs({"0.1": left(50 + more)})
    assert condition.holds == holds == (paired_difference(right(50 + more), right(50)).low > 0)
