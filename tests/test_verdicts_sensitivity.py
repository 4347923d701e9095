"""The rules that decide the claims about neuron sensitivity, on results that are made up: every word comes out."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import torch
from cases import each
from torch import Tensor

from advdef.claims import Rule, Verdict, claims, decide
from advdef.papers import how_decided, rules
from advdef.papers.sensitivity import verdicts
from advdef.statistics import Interval

PAGE = Path(__file__).resolve().parents[1] / "notebooks" / "02_neuron_sensitivity.py"
TABLE = claims("neuron_sensitivity")
NETWORKS = ("standard", "AT", "standard, just turned", "AT, just turned")
EQUAL = ("equal change", "equal energy")


def judged(rule: Rule, *results: object) -> Verdict:
    return decide(TABLE[rule.claim], "digits", rule(*results))


def hits(share: float, n: int = 1_000) -> Tensor:
    """So many of the first images."""
    return torch.arange(n) < share * n


def networks(mean: float, spread: float = 0.005) -> Tensor:
    """Five networks that get about so many of the same images right."""
    return torch.stack([hits(mean + spread * step) for step in (-1, -0.5, 0, 0.5, 1)])


def test_every_claim_but_that_about_the_literature_has_a_rule_and_its_section_on_the_page() -> None:
    found = rules("neuron_sensitivity")
    assert set(found) == set(TABLE) - {"SNS-6"}
    assert all(rule.text.endswith(".") for rule in found.values())
    assert all(not TABLE[claim].decided_by for claim in found)
    assert all(how_decided("neuron_sensitivity").values())
    headings = re.findall(r"^# #+ (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}
    assert {claim.section for claim in TABLE.values()} <= anchors
    assert {id for id, claim in TABLE.items() if claim.robust} == {"SNS-2", "SNS-3"}
    assert decide(TABLE["SNS-6"], "digits", ()).word == "not testable here"


def restored(change: float, energy: float, /, **one: float) -> dict[str, dict[str, Tensor]]:
    """Leads over both controls on all networks; ``one`` are those on the standard one."""

    def table(leads: dict[str, float]) -> dict[str, Tensor]:
        shares = {"most sensitive": 0.5} | {f"equal {c}": 0.5 - lead for c, lead in leads.items()}
        return {control: hits(share).double().expand(2, 3, -1) for control, share in shares.items()}

    leads = {"change": change, "energy": energy}
    return dict.fromkeys(NETWORKS, table(leads)) | {"standard": table(leads | one)}


@each(
    ("found", "word"),
    [
        (restored(0.1, 0.1), "supported"),
        (restored(0.1, -0.1), "mixed"),  # what is held equal decides
        (restored(0.1, 0.0), "mixed"),  # an interval within the margin is no lead
        (restored(0.1, 0.1, energy=-0.1), "mixed"),  # one network against a case is enough
        (restored(0.1, 0.1, energy=0.001), "mixed"),
        (restored(-0.1, -0.1), "contradicted"),
    ],
)
def test_sensitive_neurons_restore_more_than_others_of_equal_change_and_of_equal_energy(
    found: dict[str, dict[str, Tensor]], word: str
) -> None:
    verdict = judged(verdicts.sensitive_neurons_mislead, found)
    assert verdict.word == word
    assert len(verdict.conditions) == 2 * 4
    assert (verdict.attacker, verdict.images) == ("direct", 1_000)
    assert {c.case for c in verdict.conditions} == {
        "random neurons of as much change (L1)", "random neurons of as much energy (squared L2)",
    }  # fmt: skip


def test_few_images_cannot_tell_what_sensitive_neurons_restore() -> None:
    coins = torch.rand(2, 40, generator=torch.Generator().manual_seed(0)).round()
    found = {"most sensitive": coins[:1, None]} | dict.fromkeys(EQUAL, coins[1:, None])
    verdict = judged(verdicts.sensitive_neurons_mislead, dict.fromkeys(NETWORKS, found))
    assert verdict.word == "undecided"
    assert "images would tell" in verdict.evidence


def levels(**changed: tuple[float, ...]) -> verdicts.Levels:
    """Sensitivities of five networks of each training, all alike but for a training or "D4 SNS" that is named."""
    plain = {"standard": 1.0, "AT": 0.3, "SNS": 0.1, "SNS 0.1": 0.2}
    found = {}
    for perturbation, definition in product(("noise of size eps", "transferred", "own examples"), ("D1", "D4")):
        table = {}
        for training, level in plain.items():
            values = changed.get(training.replace(" 0.", "_"), (level,) * 5)
            values = changed.get(f"{definition}_{training.replace(' 0.', '_')}", values)
            table |= {(training, seed): value for seed, value in enumerate(values)}
        found[perturbation, definition] = table | {("standard", 5): 9.0}  # a network that has no partners
    return found


def robust(**changed: Tensor) -> dict[str, Tensor]:
    plain = {"standard": networks(0.0, 0), "AT": networks(0.4), "SNS": networks(0.5), "SNS 0.1": networks(0.5)}
    controls = {"SNS random": networks(0.4), "SNS random 0.1": networks(0.4)}
    return plain | controls | {name.replace("_", " "): right for name, right in changed.items()}


WIDE = torch.stack([hits(share) for share in (0.3, 0.5, 0.4, 0.6, 0.3)])
SAME = networks(0.4)


@each(
    ("sensitive", "right", "word"),
    [
        (levels(), robust(), "supported"),
        (levels(), robust(SNS=SAME), "mixed"),
        (levels(), robust(SNS=WIDE), "undecided"),
        (levels(), robust(SNS=SAME) | {"SNS 0.1": SAME}, "contradicted"),
        (levels(SNS=(0.3,) * 5), robust(SNS=SAME), "undecided"),  # nothing was lowered, so nothing is told
        (levels(D4_SNS=(0.2, 0.4, 0.3, 0.1, 0.5)), robust(SNS=SAME), "undecided"),
        (levels(D4_AT=(1.0,) * 5), robust(), "contradicted"),  # only the scale fell
        (levels(AT=(1.02,) * 5), robust(), "contradicted"),
        (levels(AT=(0.3, 3.0, 0.4, 2.0, 0.5)), robust(), "undecided"),
        (levels(), robust(AT=networks(0.0, 0)), "contradicted"),  # no robustness to explain
    ],
)
def test_robust_by_being_less_sensitive(sensitive: verdicts.Levels, right: dict[str, Tensor], word: str) -> None:
    verdict = judged(verdicts.lower_sensitivity_makes_robust, sensitive, right)
    assert verdict.word == word
    assert len(verdict.conditions) == 1 + 4 + 2
    assert verdict.attacker == "adaptive"


def test_what_own_examples_do_decides_nothing() -> None:
    (clear, *_), found = verdicts.lower_sensitivity_makes_robust(levels(), robust()), levels()
    more = {key: dict(table) for key, table in found.items()}
    for definition in ("D1", "D4"):
        more["own examples", definition] = dict.fromkeys(more["own examples", definition], 1.0)
    assert judged(verdicts.lower_sensitivity_makes_robust, more, robust()).word == "supported"
    assert clear.seeds == 5
    lower = verdicts.lower_sensitivity_makes_robust(levels(AT=(0.2, 0.3, 0.25, 0.3, 0.2)), robust())[1]
    assert lower.told.startswith("sensitivity D1 to noise of size eps, AT against standard, %: -75.4 [")
    assert lower.seeds == 5
    *_, untested = verdicts.lower_sensitivity_makes_robust(levels(SNS=(0.3,) * 5), robust(SNS=SAME))
    assert "no test, as D1 may not be lower (+0.0 [+0.0, +0.0] %)" in untested.told


@each(
    ("changed", "word"),
    [
        ({}, "supported"),
        ({"SNS": SAME}, "mixed"),
        ({"SNS random": networks(0.5)}, "mixed"),  # it need not be the sensitive neurons
        ({"SNS": WIDE}, "undecided"),  # this interval is over zero for other networks alone
        ({"SNS": WIDE, "SNS 0.1": SAME}, "contradicted"),
        ({"AT": networks(0.6)}, "contradicted"),
    ],
)
def test_stabilizing_has_to_beat_adversarial_training_and_random_neurons(changed: dict[str, Tensor], word: str) -> None:
    verdict = judged(verdicts.stabilizing_makes_robust, robust() | changed)
    assert verdict.word == word
    assert (verdict.attacker, verdict.images, verdict.seeds) == ("adaptive", 1_000, 5)
    pairs = {(c.case, c.what) for c in verdict.conditions}
    assert pairs == {
        ("weight 1", "SNS − AT"), ("weight 1", "SNS − SNS random"),
        ("weight 0.1", "SNS 0.1 − AT"), ("weight 0.1", "SNS 0.1 − SNS random 0.1"),
    }  # fmt: skip


Lost = dict[str, dict[tuple[str, str], dict[str, Tensor]]]


def lost(**costs: float) -> Lost:
    """What the most sensitive neurons cost more than "random" ones, than "change" and than "energy"; 0.1 by default."""
    left = {"most sensitive": 0.5}
    left |= {
        control: 0.5 + costs.get(control.split()[-1], 0.1) for control in ("random", "equal change", "equal energy")
    }
    return {
        k: {
            (mode, control): dict.fromkeys(("clean", "attacked anew"), hits(share).double().expand(2, 3, -1))
            for mode in ("zero", "mean")
            for control, share in left.items()
        }
        for k in ("standard", "AT")
    }


CLEAN = {"standard": networks(0.6), "AT": networks(0.4)}


@each(
    ("occluded", "clean", "attacked", "word"),
    [
        (lost(), CLEAN, robust(), "supported"),
        (lost(energy=-0.1), CLEAN, robust(), "mixed"),
        (lost(energy=0.015), CLEAN, robust(), "supported"),  # small, and there
        (lost(energy=0.0, change=0.0), CLEAN, robust(), "mixed"),
        (lost(random=-0.1, change=-0.1, energy=-0.1), CLEAN, robust(), "contradicted"),
        (lost(), {"standard": networks(0.4), "AT": networks(0.4)}, robust(), "contradicted"),  # no trade-off
        (lost(), {"standard": WIDE, "AT": networks(0.4)}, robust(), "undecided"),
        (lost(), CLEAN, robust(AT=networks(0.0, 0)), "contradicted"),
    ],
)
def test_sensitive_neurons_carry_accuracy_and_robustness(
    occluded: Lost, clean: dict[str, Tensor], attacked: dict[str, Tensor], word: str
) -> None:
    verdict = judged(verdicts.accuracy_and_robustness_share_neurons, occluded, clean, attacked)
    assert verdict.word == word
    assert len(verdict.conditions) == 2 + 3 * 5
    margins = {c.what.partition(",")[0]: c.margin for c in verdict.conditions[2:]}
    assert margins == {"standard clean": 0.01, "AT clean": 0.01, "AT attacked anew": 0.03}


STRONG, WEAK = Interval(-0.6, -0.8, -0.4), Interval(-0.1, -0.18, -0.02)
NOT_SURE, REVERSED = Interval(-0.5, -0.8, -0.2), Interval(0.4, 0.1, 0.7)


def every(interval: Interval, **changed: Interval) -> dict[str, Interval]:
    """Correlations; those of all networks, or of the trained ones alone, may be named."""
    kinds = {"all": "every", "all, activation partialled out": "", "adversarially trained": "trained"}
    names = product(("own examples", "transferred"), ("D1", "D4"), kinds)
    return {f"{p}, {d}, {kind}": changed.get(kinds[kind], interval) for p, d, kind in names}


NAN = Interval(*[float("nan")] * 3)


@each(
    ("correlations", "word"),
    [
        (every(STRONG), "supported"),
        (every(STRONG, trained=WEAK), "mixed"),  # negative, and not close
        (every(STRONG, trained=NOT_SURE), "undecided"),
        (every(STRONG, trained=REVERSED), "mixed"),
        (every(WEAK), "contradicted"),
        (every(REVERSED), "contradicted"),
        (every(STRONG) | {"transferred, D4, all": WEAK}, "mixed"),
        (every(STRONG) | {"transferred, D4, all, activation partialled out": WEAK}, "supported"),  # shown alone
        (every(STRONG, every=NAN), "undecided"),  # what is no number supports nothing
    ],
)
def test_sensitivity_goes_with_robustness(correlations: dict[str, Interval], word: str) -> None:
    verdict = judged(verdicts.sensitivity_goes_with_robustness, correlations)
    assert verdict.word == word
    assert len(verdict.conditions) == 8
    assert {c.case for c in verdict.conditions} == {"all networks", "adversarially trained networks"}
    assert verdict.conditions[0].told.startswith("rank correlation in %, own examples, D1, all: ")
