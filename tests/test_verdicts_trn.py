"""The rules of TRN: made-up results give each word that a rule can give, and each bound is met from both sides."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from cases import each
from torch import Tensor

from advdef.claims import Attacker, Condition, Rule, VerdictWord, claims, decide
from advdef.evaluation import Results
from advdef.evaluation.results import WORST_CASE
from advdef.papers import how_decided, rules
from advdef.papers.trn import verdicts

CLAIMS = claims("trn")
FIVE = ("FGSM", "FFGSM", "BIM", "MIM", "PGD")
IGNORES, KNOWS = "an attacker who ignores the defence", "an attacker who knows it"
N = 200


def word(number: int, conditions: Iterable[Condition], *, dataset: str = "cifar10") -> VerdictWord:
    return decide(CLAIMS[f"TRN-{number}"], dataset, tuple(conditions)).word


def words(conditions: Iterable[Condition]) -> list[str]:
    return [condition.word for condition in conditions]


def right(count: int, of: int = N) -> Tensor:
    """The first ``count`` images."""
    return torch.arange(of) < count


WHERE = {"part": "p", "dataset": "cifar10", "model": "small ResNet", "eps": 0.1, "seed": 0}


def replayed(clean: int = 180, of: int = N, **attacks: tuple[int, ...]) -> Results:
    """Rows of some attacks: how many images each leaves the bare classifier, and TRN of each seed, right on."""
    found = Results()
    found.add_hits(right(clean), defence="none", threat="clean", attack="none", **WHERE | {"eps": 0.0})
    for attack, (bare, *seeds) in attacks.items():
        told = {"threat": "oblivious", "attack": attack}
        found.add_hits(right(bare, of), defence="none", **told, **WHERE)
        for seed, count in enumerate(seeds):
            found.add_hits(right(count, of), defence="TRN", **told, **WHERE | {"seed": seed})
    return found


def worst(trn: int, fast_at: int = 100, of: int = N) -> Results:
    """What the worst case leaves of 180 images; the bare classifier has none."""
    found = Results()
    found.add_hits(right(180 * of // N, of), defence="none", threat="clean", attack="none", **WHERE | {"eps": 0.0})
    for defence, count in {"none": 0, "TRN": trn, "Fast-AT": fast_at}.items():
        found.add_hits(right(count, of), defence=defence, threat="adaptive", attack=WORST_CASE, **WHERE)
    return found


GOOD, NEAR, BAD = (20, 150), (20, 104), (20, 60)  # half of what the attack took leaves 100 right
BROKEN, STANDS, CLOSE = worst(4), worst(150), worst(92)  # and here 90


def shares(*accuracies: float, n: int = 1_000) -> Tensor:
    """Of each seed, the share that each image withstands: all or nothing."""
    return torch.stack([right(round(100 * a), of=100).double().repeat(n // 100) for a in accuracies])


def test_every_claim_is_decided_by_a_rule_or_says_why_not() -> None:
    found = rules("trn")
    assert list(found) == [claim for claim in CLAIMS if claim != "TRN-11"]
    assert all(text.strip() for text in how_decided("trn").values())
    assert all(not CLAIMS[claim].decided_by for claim in found)
    assert {getattr(verdicts, name).claim for name in verdicts.__all__} == set(found)
    assert {id for id, claim in CLAIMS.items() if claim.robust} == {f"TRN-{i}" for i in (1, 5, 7, 9, 10)}


# What is given back


@each(
    ("seeds", "expected"),
    [
        ((150,), "holds"),
        ((115,), "holds"),
        ((108,), "undecided"),  # more than half, and no interval above
        ((100,), "undecided"),  # exactly half
        ((92,), "undecided"),
        ((85,), "contradicted"),
        ((20,), "contradicted"),
        ((150, 150, 146), "holds"),
        ((150, 110, 100), "undecided"),  # the first seed was the best
        ((40, 44, 42), "contradicted"),
    ],
)
def test_half_of_what_was_taken_is_given_back(seeds: tuple[int, ...], expected: str) -> None:
    condition, known = verdicts.generalises({"PGD with more": replayed(PGD=(20, *seeds))}, BROKEN)
    assert condition.word == expected
    assert condition.interval.value == pytest.approx(sum(seeds) / len(seeds) / N - 0.5, abs=1e-6)
    assert (condition.attacker, condition.images, condition.seeds) == ("oblivious", N, len(seeds))
    assert (known.attacker, known.case, known.word) == ("adaptive", KNOWS, "contradicted")


def test_an_attack_may_have_seen_the_first_images_alone() -> None:
    condition, _ = verdicts.generalises({"eps": replayed(clean=180, of=150, PGD=(0, 100))}, BROKEN)
    assert (condition.word, condition.images) == ("holds", 150)


@pytest.mark.parametrize("counts", [(180, 180), (190, 195)])
def test_an_attack_that_took_nothing_tells_nothing(counts: tuple[int, int]) -> None:
    condition, _ = verdicts.generalises({"eps": replayed(clean=180, PGD=counts)}, BROKEN)
    assert condition.word == "undecided"
    assert "nothing was taken" in condition.told


@each(
    ("replay", "known", "expected"),
    [
        (GOOD, STANDS, "supported"),
        (GOOD, BROKEN, "mixed"),  # as an attacker who ignores the defence is not enough
        (BAD, STANDS, "mixed"),
        (BAD, BROKEN, "contradicted"),
        (GOOD, CLOSE, "undecided"),
        (NEAR, STANDS, "undecided"),
        (NEAR, BROKEN, "contradicted"),
    ],
)
def test_both_attackers_are_cases(replay: tuple[int, int], known: Results, expected: str) -> None:
    five = replayed(**dict.fromkeys(FIVE, GOOD) | {"MIM": replay}, Square=BAD)
    assert word(1, verdicts.restores_the_five_attacks(five, known)) == expected
    unseen = replayed(FGSM=BAD, PGD=BAD, BIM=GOOD, Square=replay)
    assert word(5, verdicts.restores_unseen_attacks(unseen, known)) == expected
    assert word(7, verdicts.generalises({"PGD with more": replayed(PGD=replay)}, known)) == expected


def test_every_one_of_the_five_has_to_be_there() -> None:
    conditions = verdicts.restores_the_five_attacks(replayed(**dict.fromkeys(FIVE, GOOD)), BROKEN)
    assert [c.what.split(",")[0] for c in conditions[:-1]] == list(FIVE)
    assert [c.case for c in conditions] == [IGNORES] * 5 + [KNOWS]
    with pytest.raises(ValueError, match="no row has threat 'oblivious'"):
        verdicts.restores_the_five_attacks(replayed(**dict.fromkeys(FIVE[:4], GOOD)), BROKEN)


def test_unseen_attacks_are_those_that_training_lacks_and_that_fool() -> None:
    attacks = {"FGSM": GOOD, "PGD": GOOD, "BIM": GOOD, "DeepFool": (180, 190), "Square": GOOD}
    conditions = verdicts.restores_unseen_attacks(replayed(**attacks), STANDS)
    assert [c.what.split(",")[0] for c in conditions[:-1]] == ["BIM", "Square"]
    # alone, the attacker who knows the defence is no case of a wide range of attacks, but still one who decides
    assert words(verdicts.restores_unseen_attacks(replayed(PGD=GOOD, BIM=(180, 180)), STANDS)) == ["holds"]


def test_settings_are_cases() -> None:
    found = {"eps": replayed(PGD=GOOD), "in front of LeNet-5": replayed(PGD=BAD)}
    assert word(7, verdicts.generalises(found, STANDS)) == "mixed"
    assert [c.case for c in verdicts.generalises(found, STANDS)] == [*found, KNOWS]


# Who exceeds whom

SPREAD = shares(0.87, 0.81, 0.80)  # as three seeds of TRN were


@pytest.mark.parametrize(
    ("number", "function", "names"),
    [
        (2, verdicts.exceeds_blind_maps, ("image only", "random map", "shuffled map", "Sobel map")),
        (4, verdicts.exceeds_simpler_fusions, ("early", "sum", "concat")),
        (10, lambda of: verdicts.exceeds_other_purifications(of, STANDS), ("image only", "HGD-style")),
    ],
)
def test_each_competitor_counts_and_nothing_else(number: int, function: Rule, names: tuple[str, ...]) -> None:
    below = {"TRN": shares(0.90, 0.89, 0.91)} | dict.fromkeys(names, shares(0.80, 0.80, 0.79))
    found = function(below | {"heavy": shares(1, 1, 1), "none": shares(0), "JPEG 75": shares(1)})
    assert [c.what for c in found if c.attacker == "oblivious"] == [f"TRN − {name}" for name in names]
    assert word(number, found) == "supported"
    above = function(below | {names[0]: shares(0.97, 0.96, 0.97)})
    assert word(number, above) == ("mixed" if number == 10 else "contradicted")
    alike = function(below | {names[0]: shares(0.90, 0.89, 0.91)})  # no difference that matters
    assert word(number, alike) == ("mixed" if number == 10 else "contradicted")
    unlike = below | {"TRN": SPREAD, names[0]: shares(0.81, 0.82, 0.82)}
    assert word(number, function(unlike)) == "undecided"


def test_a_lead_that_three_seeds_cannot_tell_is_told_by_five() -> None:
    """Nine of nine pairs of seeds spoke for the gate, by so many points."""
    seen = {"early": (9.5, 5.6, 4.0), "sum": (7.8, 3.5, 2.6), "concat": (5.4, 2.0, 0.8)}

    def found(*more: float) -> tuple[Condition, ...]:
        leads = {name: [*by, *(sum(by) / 3 + m for m in more)] for name, by in seen.items()}
        of = {name: torch.stack([right(800 - round(10 * v), 1_000) for v in by]) for name, by in leads.items()}
        return verdicts.exceeds_simpler_fusions(of | {"TRN": right(800, 1_000).expand(3 + len(more), -1)})

    assert words(found()) == ["undecided"] * 3
    assert [condition.needed_seeds for condition in found()] == [6, 6, 5]
    assert word(4, found(0, 0)) == "supported"
    assert word(4, found(-6, -6)) == "undecided"
    assert word(4, found(*[-9] * 12)) == "contradicted"


def test_without_variants_nothing_is_told() -> None:
    only = {"TRN": SPREAD, "predicted": SPREAD}
    assert word(2, verdicts.exceeds_blind_maps(only)) == "not testable here"
    assert word(4, verdicts.exceeds_simpler_fusions({})) == "not testable here"


@each(
    ("trn", "known", "expected"),
    [
        (0.9, STANDS, "supported"),
        (0.9, BROKEN, "mixed"),
        (0.9, worst(104, 100), "undecided"),
        (0.7, BROKEN, "contradicted"),
        (0.7, STANDS, "mixed"),
    ],
)
def test_the_state_of_the_art_has_two_attackers(trn: float, known: Results, expected: str) -> None:
    found = {"TRN": shares(trn, trn, trn)} | dict.fromkeys(("image only", "HGD-style"), shares(0.8, 0.8, 0.8))
    conditions = verdicts.exceeds_other_purifications(found, known)
    assert [c.case for c in conditions] == [IGNORES, IGNORES, KNOWS]
    assert word(10, conditions) == expected
    assert word(10, conditions, dataset="digits") == "not testable here"


# The others


@each(
    ("cosine", "oracle", "expected"),
    [
        (0.6, 0.90, "supported"),
        (0.5, 0.90, "undecided"),
        (0.4, 0.90, "contradicted"),
        (0.6, 0.99, "contradicted"),
        (0.6, 0.93, "undecided"),
        (0.6, None, "supported"),
        (0.5, None, "undecided"),
        (None, 0.90, "supported"),
        (None, None, "not testable here"),
    ],
)
def test_the_estimate_is_near_the_true_gradient(
    cosine: float | None, oracle: float | None, expected: VerdictWord
) -> None:
    spread = torch.linspace(-0.1, 0.1, 101)
    cosines = {} if cosine is None else {"PGD": cosine + spread, "PGD, 0.5 eps": spread}
    variants = {"TRN": shares(0.9, 0.9)} | ({} if oracle is None else {"oracle map": shares(oracle, oracle)})
    found = verdicts.label_is_not_needed(cosines, variants)
    assert len(found) == (cosine is not None) + (oracle is not None)
    assert word(3, found) == expected


def test_a_map_of_zeros_is_no_image_behind_a_cosine() -> None:
    values = torch.tensor([0.6, 0.7, float("nan"), 0.65])
    (condition,) = verdicts.label_is_not_needed({"BIM": values}, {})
    assert (condition.images, condition.number.split()[0]) == (3, "+65.0")


@each(
    ("lost", "expected"),
    [
        ((0, 0, 0), "supported"),
        ((30, 40, 20), "supported"),
        ((90, 70, 80), "undecided"),
        ((120, 20, 30), "undecided"),
        ((200, 210, 205), "contradicted"),
        ((50,), "supported"),
    ],
)
def test_two_points_of_clean_accuracy_may_be_lost(lost: tuple[int, ...], expected: str) -> None:
    """At 5,000 images; 100 are two points."""
    found = Results()
    found.add_hits(right(4_500, 5_000), defence="none", threat="clean", attack="none", **WHERE)
    for seed, count in enumerate(lost):
        hits = right(4_500 - count, 5_000)
        found.add_hits(hits, defence="TRN", threat="clean", attack="none", **WHERE | {"seed": seed})
    assert word(6, verdicts.benign_accuracy_stays(found)) == expected


@each(
    ("larger", "expected"),
    [
        ((0.9, 0.9, 0.9), "supported"),
        ((0.81, 0.81, 0.81), "contradicted"),  # a gain, but none that is worth it
        ((0.83, 0.84, 0.83), "undecided"),
        ((0.98, 0.81, 0.82), "undecided"),
    ],
)
def test_a_larger_network_has_to_gain_three_points(larger: tuple[float, ...], expected: VerdictWord) -> None:
    rule = verdicts.a_larger_network_restores_better
    assert word(8, rule({"TRN-S − TRN-XS": (shares(*larger), shares(0.8, 0.8, 0.8))})) == expected
    assert word(8, rule({})) == "not testable here"


def test_trn_has_to_be_as_hard_to_bypass_as_fast_at() -> None:
    rule = verdicts.holds_against_all_rungs
    above, alike, few, below = worst(150), worst(500, 500, of=1_000), worst(97), worst(40)
    assert word(9, rule({"0.1": above, "0.2": above})) == "supported"
    assert word(9, rule({"0.1": alike})) == "supported"
    assert word(9, rule({"0.1": above, "0.2": below})) == "mixed"
    assert word(9, rule({"0.1": above, "0.2": few})) == "undecided"
    assert word(9, rule({"0.1": below, "0.2": few})) == "contradicted"
    assert word(9, rule({})) == "not testable here"
    (found,) = rule({"0.1": few})
    known: Attacker = "adaptive"
    assert (found.attacker, found.case, found.images) == (known, "eps 0.1", N)
    assert found.needed_images is not None
