"""The rules that decide the claims about SNN purification, on made-up results: every word that they can give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advdef.claims import Condition, Rule, Verdict, claims, decide
from advdef.evaluation import Results, Threat
from advdef.evaluation.results import WORST_CASE
from advdef.papers import rules
from advdef.papers.snn.measure import detection
from advdef.papers.snn.verdicts import (
    detector_helps,
    levels_and_gate_help,
    one_step_suffices,
    purifier_cleans,
    purifier_combines,
    purifier_does_well,
    purifier_is_better,
)
from advdef.statistics import Interval

PAGE = Path(__file__).resolve().parents[1] / "notebooks" / "05_snn_purification.py"
PGD = "PGD-20"
CLAIMS = claims("snn_purification")
IGNORES, KNOWS = "an attacker who ignores the defence", "an attacker who knows it"


def hits(right: int, of: int = 1_000) -> Tensor:
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


def judged(rule: Rule, conditions: tuple[Condition, ...], dataset: str = "digits") -> Verdict:
    return decide(CLAIMS[rule.claim], dataset, conditions)


def words(conditions: tuple[Condition, ...]) -> list[str]:
    return [condition.word for condition in conditions]


def test_each_claim_has_its_rule_in_words_and_its_section_on_the_page() -> None:
    found = rules("snn_purification")
    assert set(found) == set(CLAIMS)
    assert all(rule.text.endswith(".") for rule in found.values())
    headings = re.findall(r"^# #+ (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}
    assert {claim.section for claim in CLAIMS.values()} <= anchors


def test_every_claim_is_one_of_robustness_that_an_attacker_who_knows_the_defence_tests() -> None:
    assert all(claim.robust for claim in CLAIMS.values())


# of 900 images the attack leaves 100: a half back is 500
STATIC = {"none": hits(900), "FGSM": hits(100), PGD: hits(100)}
KNOWN = {"none": hits(900), WORST_CASE: hits(100)}
BETTER = torch.tensor([1.0, 2.0, 2.0, 3.0]).repeat(25)


def cleaned(fgsm: int, pgd: int, known: int, sharper: Tensor = BETTER) -> tuple[Condition, ...]:
    found = results(
        static={"none": STATIC, "purifier": {"FGSM": hits(fgsm), PGD: hits(pgd)}},
        worst={"none": KNOWN, "purifier": {WORST_CASE: hits(known)}},
    )
    return purifier_cleans(found, sharper={"FGSM": sharper, PGD: BETTER})


@pytest.mark.parametrize(
    ("right", "given"),
    [
        ((800, 800, 800), "supported"),
        ((800, 800, 510), "undecided"),  # the interval contains half
        ((800, 800, 200), "mixed"),
        ((400, 800, 800), "mixed"),  # both attacks are needed
        ((400, 800, 510), "contradicted"),
    ],
)
def test_snn_1_words(right: tuple[int, int, int], given: str) -> None:
    assert judged(purifier_cleans, cleaned(*right)).word == given


def test_snn_1_decibels() -> None:
    # images that the attack or the purifier left as they were have no finite gain, and do not count
    untold = torch.tensor([1.0, 2.0, 3.0, float("inf"), float("-inf"), float("nan")])
    by_name = {c.what: c for c in cleaned(800, 800, 800, untold)}
    found = by_name["PSNR in dB, FGSM"]
    assert (found.number, found.word, found.images, found.attacker) == (
        "+2.0 [-0.5, +4.5]",
        "undecided",
        3,
        "oblivious",
    )
    by_name = {c.what: c for c in cleaned(800, 800, 800, torch.linspace(0.1, 0.2, 100))}
    assert by_name["PSNR in dB, FGSM"].told.endswith("wanted above 0.5, contradicted")  # nobody sees that
    assert by_name["purifier, worst case"].case == KNOWS


def networks(**budgets: Mapping[str, tuple[int, ...]]) -> Results:
    """By budget, how many of 1,000 images the networks of each kind are right on."""
    found = Results()
    for budget, right in budgets.items():
        for network, counts in right.items():
            for seed, n in enumerate(counts):
                found.add_hits(
                    hits(n), part="core", dataset="digits", model="small", defence=network, threat="adaptive",
                    attack=WORST_CASE, eps=0.1, seed=seed, budget=budget,
                )  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("low", "high", "given"),
    [
        ((600, 605, 595), (600, 600, 605), "supported"),
        ((600, 605, 595), (300, 305, 295), "mixed"),
        ((400, 405, 395), (300, 305, 295), "contradicted"),  # where there is no difference that matters
        ((600, 605, 595), (700, 500, 300), "undecided"),  # where its networks differ too much
        ((600,), (600,), "supported"),  # of one seed
    ],
)
def test_snn_2_words(low: tuple[int, ...], high: tuple[int, ...], given: str) -> None:
    plain = {"LIF": (400, 402, 398)[: len(low)], "MLF3": (900,)}
    found = networks(**{"1/255": plain | {"SE-MLF3": low}, "2/255": plain | {"SE-MLF3": high}})
    conditions = levels_and_gate_help(found)
    assert judged(levels_and_gate_help, conditions).word == given


def combined(no_divergence: int, robust: int, clean: int, known: int) -> tuple[Condition, ...]:
    """FGSM-AT is right on 300 of 1,000 images under PGD, on 200 in the worst case and on 3,200 of 4,000 clean ones."""
    both = "purifier + FGSM-AT"
    found = results(
        static={"none": STATIC, "FGSM-AT": {PGD: hits(300)}, both: {PGD: hits(robust)}},
        ablation={"no divergence": {PGD: hits(no_divergence)}},
        worst={"FGSM-AT": {WORST_CASE: hits(200)}, both: {WORST_CASE: hits(known)}},
        clean={"FGSM-AT": {"none": hits(3_200, 4_000)}, both: {"none": hits(clean, 4_000)}},
    )
    return purifier_combines(found, attack=PGD)


@pytest.mark.parametrize(
    ("right", "given"),
    [
        ((800, 400, 3_160, 300), "supported"),
        ((800, 400, 3_120, 300), "undecided"),  # two points of clean accuracy
        ((800, 400, 3_000, 300), "contradicted"),
        ((800, 400, 3_160, 200), "mixed"),  # nothing is gained against one who knows
        ((400, 400, 3_160, 300), "mixed"),
        ((510, 300, 3_160, 200), "contradicted"),
    ],
)
def test_snn_3_words(right: tuple[int, int, int, int], given: str) -> None:
    assert judged(purifier_combines, combined(*right)).word == given


def test_snn_3_a_loss_of_one_point_on_so_many_images_meets_its_bound() -> None:
    (clean,) = (c for c in combined(800, 400, 3_160, 300) if c.what.endswith("clean"))
    assert (clean.word, clean.images, clean.bound, clean.case) == ("holds", 4_000, -0.02, "")


def against(static: int, known: int, rivals: tuple[str, ...] = ("FGSM-AT", "RAT")) -> tuple[Condition, ...]:
    """Rivals are right on 400 of 1,000 images, the purifier on so many."""
    right = {rival: hits(400) for rival in rivals}
    found = results(
        static={k: {PGD: v} for k, v in (right | {"purifier": hits(static)}).items()},
        worst={k: {WORST_CASE: v} for k, v in (right | {"purifier": hits(known)}).items()},
    )
    return purifier_is_better(found, rivals=rivals, attack=PGD)


@pytest.mark.parametrize(
    ("static", "known", "given"),
    [
        (600, 600, "supported"),
        (600, 200, "mixed"),
        (600, 400, "mixed"),
        (200, 200, "contradicted"),
    ],
)
def test_snn_4_words(static: int, known: int, given: str) -> None:
    verdict = judged(purifier_is_better, against(static, known))
    assert (verdict.word, verdict.attacker, verdict.images) == (given, "adaptive", 1_000)


def test_snn_4_an_interval_across_zero_tells_nothing() -> None:
    mine = torch.arange(100) % 2 == 0
    found = results(
        static={"RAT": {PGD: hits(10, 100)}, "purifier": {PGD: hits(60, 100)}},
        worst={"RAT": {WORST_CASE: mine}, "purifier": {WORST_CASE: mine.roll(1)}},
    )
    verdict = judged(purifier_is_better, purifier_is_better(found, rivals=["RAT"], attack=PGD))
    assert verdict.word == "undecided"
    assert "images would tell" in verdict.evidence


def test_snn_4_seconds_memory_and_operations_decide_nothing() -> None:
    told = [c.what for c in against(600, 600)]
    assert told == [f"purifier − {k}, {attack}" for k in ("FGSM-AT", "RAT") for attack in (PGD, WORST_CASE)]


def detected(area: float, slipped: int, static: int, known: int) -> tuple[Condition, ...]:
    """Of 1,000 images 850 are right when clean, and 300 under attack without the gate."""
    found = results(
        static={"gate": {"none": hits(850), PGD: hits(static)}, "purifier": {"none": hits(850), PGD: hits(300)}},
        worst={
            "gate": {"none": hits(850), WORST_CASE: hits(known)},
            "purifier": {"none": hits(850), WORST_CASE: hits(300)},
        },
    )
    interval = Interval(area, area - 0.02, area + 0.02)
    return detector_helps(found, area=interval, images=200, slipped=hits(slipped, 200), attack=PGD)


@pytest.mark.parametrize(
    ("found", "given"),
    [
        ((0.95, 5, 400, 400), ["holds", "holds", "holds", "holds"]),
        ((0.89, 15, 400, 400), ["undecided", "holds", "undecided", "holds"]),
        ((0.85, 40, 200, 200), ["contradicted"] * 4),
        ((0.95, 5, 400, 300), ["holds", "holds", "holds", "contradicted"]),  # the gate changes nothing
    ],
)
def test_snn_5_conditions(found: tuple[float, int, int, int], given: list[str]) -> None:
    conditions = detected(*found)
    assert words(conditions) == given
    assert [c.case for c in conditions] == [IGNORES, IGNORES, KNOWS, KNOWS]
    assert conditions[0].number == str(Interval(found[0], found[0] - 0.02, found[0] + 0.02))
    assert [c.images for c in conditions] == [200, 1_000, 200, 1_000]


@pytest.mark.parametrize(
    ("found", "given"),
    [
        ((0.95, 5, 400, 400), "supported"),
        ((0.95, 15, 400, 400), "undecided"),
        ((0.95, 5, 400, 200), "mixed"),
        ((0.85, 15, 400, 400), "contradicted"),
    ],
)
def test_snn_5_words(found: tuple[float, int, int, int], given: str) -> None:
    assert judged(detector_helps, detected(*found)).word == given


def test_snn_5_what_the_gate_gives_under_attack_it_may_not_take_from_clean_images() -> None:
    static = {"gate": {"none": hits(800), PGD: hits(300)}, "purifier": {"none": hits(900), PGD: hits(200)}}
    worst = {k: {"none": rows["none"], WORST_CASE: rows[PGD]} for k, rows in static.items()}
    area, nobody = Interval(1.0, 0.99, 1.0), hits(0)
    conditions = detector_helps(
        results(static=static, worst=worst), area=area, images=1_000, slipped=nobody, attack=PGD
    )
    assert words(conditions) == ["holds", "undecided", "holds", "undecided"]


def test_snn_5_on_few_images_no_difference_at_all_is_no_equivalence() -> None:
    static = {k: {"none": hits(20, 30), PGD: hits(10, 30)} for k in ("gate", "purifier")}
    worst = {k: {"none": rows["none"], WORST_CASE: rows[PGD]} for k, rows in static.items()}
    area = detection(torch.arange(30.0), torch.arange(30.0) + 100).interval
    conditions = detector_helps(
        results(static=static, worst=worst), area=area, images=30, slipped=hits(0, 20), attack=PGD
    )
    assert words(conditions) == ["holds", "undecided", "undecided", "undecided"]


def stepped(static: int, known: int) -> tuple[Condition, ...]:
    """The purifier that was trained on PGD-7 is right on 800 of 1,000 images, or 400 in the worst case."""
    found = results(
        static={"purifier": {PGD: hits(static)}, "PGD-7 pairs": {PGD: hits(800)}},
        worst={"purifier": {WORST_CASE: hits(known)}, "PGD-7 pairs": {WORST_CASE: hits(400)}},
    )
    return one_step_suffices(found, attack=PGD)


@pytest.mark.parametrize(
    ("static", "known", "given"),
    [
        (800, 400, "supported"),
        (790, 450, "supported"),
        (800, 370, "undecided"),
        (800, 300, "mixed"),
        (700, 370, "contradicted"),
    ],
)
def test_snn_6_words(static: int, known: int, given: str) -> None:
    assert judged(one_step_suffices, stepped(static, known)).word == given


def test_snn_6_needs_a_purifier_trained_on_pgd() -> None:
    nothing = one_step_suffices(results(static={"purifier": {PGD: hits(80)}}), attack=PGD)
    assert judged(one_step_suffices, nothing).word == "not testable here"


@pytest.mark.parametrize(
    ("right", "dataset", "given"),
    [
        ((800, 800, 800), "cifar10", "supported"),
        ((800, 800, 510), "svhn", "undecided"),
        ((800, 800, 400), "svhn", "mixed"),
        ((800, 400, 400), "svhn", "mixed"),
        ((400, 400, 400), "cifar100", "contradicted"),
        ((800, 800, 800), "digits", "not testable here"),
    ],
)
def test_snn_7_words(right: tuple[int, int, int], dataset: str, given: str) -> None:
    static, black, known = map(hits, right)
    found = results(
        static={"none": STATIC, "purifier": {PGD: static}},
        black_box={"none": {WORST_CASE: hits(100)}, "purifier": {WORST_CASE: black}},
        worst={"none": KNOWN, "purifier": {WORST_CASE: known}},
    )
    conditions = purifier_does_well(found, attack=PGD)
    assert judged(purifier_does_well, conditions, dataset).word == given
    assert [c.case for c in conditions] == [IGNORES, "an attacker without its gradient", KNOWS]
    assert [c.attacker for c in conditions] == ["oblivious", "direct", "adaptive"]
