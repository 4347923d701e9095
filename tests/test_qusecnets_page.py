"""What the page on QuSecNets measures and tabulates, on a small network and by hand."""

from __future__ import annotations

import pytest
import torch
from contract import seeded, tiny
from torch import Tensor, nn

from advdef.evaluation import Finding, Outcome, Threat, correct
from advdef.evaluation.results import WORST_CASE
from advdef.papers.qusecnets import measure, tables
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.training import Training

N = 4


def right_on(*which: int) -> Tensor:
    return torch.isin(torch.arange(N), torch.tensor(which, dtype=torch.long))


def left(eps: float, **found: Tensor) -> Outcome:
    """What attacks, by name, leave of four images that are right."""
    every, after = right_on(*range(N)), torch.stack([*found.values()]).all(0)
    findings = tuple(Finding(name, every, ~right, 1.0, 1, 1) for name, right in found.items())
    return Outcome(eps, every, after, torch.zeros(N, 1, 1, 1), findings, exhaustive=True)


def curve(*robust: Tensor) -> dict[float, Outcome]:
    return {eps: left(eps, PGD=right) for eps, right in zip((0.1, 0.3), robust, strict=True)}


FOUND: dict[str, dict[Threat, Outcome]] = {
    "undefended": {"oblivious": left(0.3, PGD=right_on(0)), "direct": left(0.3, PGD=right_on(0))},
    "CQ": {"oblivious": left(0.3, PGD=right_on(0, 1, 2, 3)), "direct": left(0.3, PGD=right_on(0, 1))},
}
CURVES: dict[str, dict[Threat, dict[float, Outcome]]] = {
    "undefended": {"direct": curve(right_on(0), right_on()), "adaptive": curve(right_on(0), right_on())},
    "CQ": {"direct": curve(right_on(0, 1, 2, 3), right_on(0, 1, 2)), "adaptive": curve(right_on(0, 1), right_on(1))},
}


def test_both_forms_of_a_layer_are_measured_and_it_is_left_hard() -> None:
    model = Quantized(tiny(0, (1, 4, 4)), Quantizer(2, hardness=5)).eval()
    images, labels = torch.rand(64, 1, 4, 4, generator=seeded()), torch.arange(64) % 4
    model.quantizer.mode = "soft"
    expected = correct(model, images, labels)
    (hard,), (soft,) = measure.hard_and_soft([model], images, labels)
    assert model.quantizer.mode == "hard"
    assert torch.equal(hard, correct(model, images, labels))
    assert torch.equal(soft, expected)
    assert not torch.equal(hard, soft)


def test_gains_are_over_the_undefended_network_under_the_same_attack() -> None:
    gains = measure.gains_over_undefended(FOUND, ["CQ"], ["PGD"])
    assert [*gains] == [("oblivious", "PGD", "CQ"), ("direct", "PGD", "CQ")]
    assert [gain.value for gain in gains.values()] == [0.75, 0.25]
    rows = tables.gain_rows(gains, FOUND["undefended"], (0.9, 0.95))
    assert [(row["attacker"], row["attack"], row["undefended %"]) for row in rows] == [
        ("oblivious", "PGD", "25.0"), ("direct", "PGD", "25.0"),
    ]  # fmt: skip
    assert [row["CQ"].split()[0] for row in rows] == ["+75.0", "+25.0"]
    places = {
        span: [row["CQ"].split("]")[1].strip() for row in tables.gain_rows(gains, FOUND["undefended"], span)]
        for span in ((-1.0, -0.9), (0.2, 0.8), (1.1, 1.2), None)
    }
    assert [*places.values()] == [["above", "above"], ["inside", "inside"], ["below", "below"], ["", ""]]


def test_the_mean_over_eps_is_per_image_and_seed() -> None:
    found = measure.mean_over_eps([CURVES["CQ"]["adaptive"], CURVES["undefended"]["adaptive"]])
    assert found.tolist() == [[0.5, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]
    row = tables.trainable_row(found[[0, 0]], found[[1, 1]])
    assert (row["CQ %"], row["TQ %"], row["by seed"]) == ("12.5", "37.5", "+25.0, +25.0")
    assert row["TQ − CQ, points"].startswith("+25.0 [")


def test_rules_get_pairs_with_and_without_the_defence() -> None:
    pairs = measure.pairs_of_gains(FOUND, CURVES, ["CQ"], ["PGD"], eps=0.3)
    assert [*pairs] == [("CQ", "oblivious", "PGD"), ("CQ", "direct", "PGD"), ("CQ", "adaptive", WORST_CASE)]
    found = [tuple(hits.tolist() for hits in pair) for pair in pairs.values()]
    none, first = [False] * 4, right_on(0).tolist()
    assert found == [([True] * 4, first), (right_on(0, 1).tolist(), first), (right_on(1).tolist(), none)]


def test_robust_images_by_eps_are_those_of_both_attackers() -> None:
    found = measure.robust_by_eps(CURVES, ["CQ"], (0.3, 0.1))
    assert [*found] == ["eps 0.3", "eps 0.1"]
    direct, adaptive = found["eps 0.1"]["CQ"]
    assert direct.all()
    assert torch.equal(adaptive, right_on(0, 1))


@pytest.mark.parametrize(("quantised", "told"), [(True, "0.50"), (False, "–")])
def test_a_row_of_clean_accuracy_says_where_thresholds_lie(quantised: bool, told: str) -> None:
    plain = nn.Flatten()
    defence = Quantized(plain, Quantizer(2, thresholds=torch.tensor([0.5]))) if quantised else plain
    row = tables.clean_row(right_on(0, 1, 2), defence, Training(plain, {}, 7.4, False) if quantised else None)
    assert row["clean accuracy %"].startswith("75.0 [")
    assert row["thresholds"] == told
    assert row["trained in s"] == ("7" if quantised else "–")


def test_the_range_of_the_abstract_is_told_as_the_papers() -> None:
    row = tables.abstract_row((0.5, 0.96), ["CQ", "TQ"])
    assert row["CQ"] == row["TQ"] == "+50 … +96 [paper]"
    assert "not said" in row["attacker"]
