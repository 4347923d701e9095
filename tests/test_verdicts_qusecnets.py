"""The rules of QuSecNets' claims, on results made up so that each word comes out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advdef.claims import Rule, Verdict, claims, decide
from advdef.papers import how_decided, rules
from advdef.papers.qusecnets import verdicts

PAGE = Path(__file__).resolve().parents[1] / "notebooks" / "01_qusecnets.py"
TABLE = claims("qusecnets")
GAINS = pytest.mark.parametrize(
    ("rule", "dataset", "least"),
    [(verdicts.gain_on_mnist, "mnist", 0.5), (verdicts.gain_on_cifar10, "cifar10", 0.1)],
)


def judged(rule: Rule, *results: object, dataset: str = "mnist") -> Verdict:
    return decide(TABLE[rule.claim], dataset, rule(*results))


def hits(share: float, n: int = 1_000) -> Tensor:
    """So many of the first images."""
    return torch.arange(n) < share * n


def gains(**by_case: float) -> verdicts.Gains:
    """Hits with these gains over a network that is always wrong; a case is "hard_oblivious", say."""
    found: dict[tuple[str, str, str], tuple[Tensor, Tensor]] = {}
    for case, gain in by_case.items():
        form, attacker = case.split("_")
        attacks = ("worst case",) if attacker == "adaptive" else ("FGSM", "PGD")
        for defence in ("CQ", "TQ"):
            name = defence if form == "hard" else f"{defence} released"
            found |= {(name, attacker, attack): (hits(gain), hits(0)) for attack in attacks}
    return found  # type: ignore[return-value]  # attackers are words here


def seeds(*shares: float, n: int = 1_000) -> Tensor:
    """Networks that get so many of the same images right."""
    return torch.stack([hits(share, n) for share in shares])


def test_every_claim_has_its_rule_in_words_and_its_section_on_the_page() -> None:
    assert set(rules("qusecnets")) == set(TABLE)
    assert all(len(text) > 40 and "\n" not in text for text in how_decided("qusecnets").values())
    headings = re.findall(r"^# #+ (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}
    assert {claim.section for claim in TABLE.values()} <= anchors
    assert rules("somebody else's") == {}


@GAINS
def test_a_gain_lies_above_the_lower_end_of_the_abstract(rule: Rule, dataset: str, least: float) -> None:
    assert verdicts.ABSTRACT_GAINS[dataset][0] == least

    def word(**by_case: float) -> str:
        return judged(rule, gains(**by_case), dataset=dataset).word

    enough, near, less = least + 0.1, least + 0.01, least - 0.09
    assert word(hard_oblivious=enough, hard_adaptive=enough) == "supported"
    assert word(hard_oblivious=enough, hard_adaptive=near) == "undecided"  # an interval that reaches the bound
    assert word(hard_oblivious=enough, hard_adaptive=less) == "mixed"
    assert word(hard_adaptive=enough, released_adaptive=less) == "mixed"
    assert word(hard_oblivious=less, hard_adaptive=less, released_direct=near) == "contradicted"
    assert judged(rule, gains(hard_oblivious=enough), dataset="digits").word == "not testable here"


@GAINS
def test_no_gain_is_supported_by_an_attacker_who_does_not_know_the_layers(
    rule: Rule, dataset: str, least: float
) -> None:
    assert judged(rule, gains(hard_oblivious=0.9), dataset=dataset).word == "undecided"
    assert judged(rule, gains(released_direct=0.9), dataset=dataset).word == "undecided"


@GAINS
def test_a_gain_that_a_missing_gradient_gives_counts_for_nothing(rule: Rule, dataset: str, least: float) -> None:
    assert rule(gains(hard_direct=0.9)) == ()
    (first, *_) = rule(gains(released_direct=0.9))
    assert first.case == "released layers against an attacker who follows their gradient"
    assert (first.bound, first.attacker, first.images) == (least, "direct", 1_000)


def test_one_attack_without_the_gain_is_enough_against_a_case() -> None:
    pairs = dict(gains(hard_oblivious=0.7, hard_adaptive=0.7))
    assert judged(verdicts.gain_on_mnist, pairs).word == "supported"
    pairs["TQ", "oblivious", "PGD"] = hits(0.2), hits(0)
    verdict = judged(verdicts.gain_on_mnist, pairs)
    assert verdict.word == "mixed"
    assert "contradicted for hard layers against an attacker who ignores them (TQ − undefended" in verdict.evidence


def test_trainable_wins_over_networks_and_images_together() -> None:
    def found(trainable: Tensor, constant: Tensor) -> Verdict:
        return judged(verdicts.trainable_wins, trainable, constant)

    constant = seeds(0.5, 0.51, 0.49)
    assert found(seeds(0.6, 0.61, 0.59), constant).word == "supported"
    assert found(seeds(0.4, 0.41, 0.39), constant).word == "contradicted"
    assert found(constant, constant).word == "contradicted"  # no difference that matters
    split = found(seeds(0.75, 0.55, 0.45), constant)  # for these networks the interval over images is above zero
    assert split.word == "undecided"
    assert "99 networks would bring it to ± 3" in split.evidence
    assert (split.attacker, split.seeds, split.images) == ("adaptive", 3, 1_000)


def test_five_points_of_clean_accuracy_are_the_bound() -> None:
    undefended = seeds(0.9, 0.91, 0.92)
    one, five, ten = (undefended.clone() for _ in range(3))
    for loss, points in ((one, 10), (five, 50), (ten, 100)):
        for network in loss:
            network[:points] = False
    rule = verdicts.little_clean_loss
    assert judged(rule, {"CQ": one, "TQ": one}, undefended).word == "supported"
    assert judged(rule, {"CQ": one, "TQ": five}, undefended).word == "undecided"
    assert judged(rule, {"CQ": one, "TQ": ten}, undefended).word == "mixed"
    assert judged(rule, {"CQ": ten, "TQ": ten}, undefended).word == "contradicted"


def test_half_of_a_direct_gain_must_be_left_to_one_who_knows() -> None:
    """Hits under the direct and the adaptive attacker, by eps; the undefended network keeps a tenth."""
    real, half, hidden, none = (
        {name: (hits(direct), hits(adaptive)) for name in ("CQ", "TQ")}
        for direct, adaptive in ((0.7, 0.6), (0.7, 0.4), (0.7, 0.2), (0.1, 0.1))
    )

    def found(**robust: dict[str, tuple[Tensor, Tensor]]) -> Verdict:
        return judged(verdicts.no_hidden_gradient, robust, dict.fromkeys(robust, hits(0.1)))

    assert found(small=real, large=real).word == "supported"
    assert found(small=real, large=half).word == "undecided"
    assert found(small=real, large=hidden).word == "mixed"
    assert found(small=hidden, large=half).word == "contradicted"
    assert found(small=real, large=real | {"TQ": hidden["TQ"]}).word == "mixed"  # both layers are needed
    assert found(small=none).word == "undecided"  # where nothing is gained nothing is told
    assert found(small=hidden).attacker == "adaptive"
