"""The rules of NIP's claims, on results made up so that each word comes out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advdef.claims import Rule, Verdict, claims, decide
from advdef.evaluation import Results, Threat
from advdef.papers import how_decided, rules
from advdef.papers.nip import verdicts
from advdef.papers.nip.verdicts import NOISE

PAGE = Path(__file__).resolve().parents[1] / "notebooks" / "03_nip.py"
TABLE = claims("nip")
UNTESTED = {"NIP-7", "NIP-8", "NIP-10"}
NET = "LeNet-5"
NAN = float("nan")
Sizes = tuple[int, ...]


def judged(rule: Rule, *results: object) -> Verdict:
    return decide(TABLE[rule.claim], "digits", rule(*results))


def hits(right: int, n: int = 1_000) -> Tensor:
    """So many of the first images."""
    return torch.arange(n) < right


def note(
    results: Results, defence: str, right: Tensor, attack: str = "none", *, eps: float | None = None, model: str = NET
) -> None:
    """What a defence has right of images, and of images under an attack; the worst case is the adaptive attacker's."""
    known: dict[str, Threat] = {"none": "clean", "worst case": "adaptive"}
    where = {"part": "", "dataset": "digits", "model": model, "attack": attack, "eps": eps, "seed": 0}
    results.add_hits(right, defence=defence, threat=known.get(attack, "oblivious"), **where)


def adaptive(model: str = NET, **right: int) -> Results:
    """What the attacker who knows them leaves of 1,000 images, by defence."""
    names, found = {"noise": NOISE, "equal": "baseline of equal benign cost"}, Results()
    names |= {"any": "baseline at any benign cost", "V1": "V1 self", "V2": "V2 mean-logit"}
    for name, number in right.items():
        note(found, names.get(name, name), hits(number), "worst case", model=model)
    return found


def test_claims_that_a_run_can_decide_have_a_rule_in_words() -> None:
    assert set(rules("nip")) == set(TABLE) - UNTESTED
    told = how_decided("nip")
    assert all(told[claim].startswith("Not decided here") for claim in UNTESTED)
    assert all(len(told[claim]) > 60 and "\n" not in told[claim] for claim in TABLE)


def test_claims_of_robustness_need_one_who_knows_and_all_changed_rules_are_told() -> None:
    assert {id for id, claim in TABLE.items() if claim.robust} == {"NIP-3", "NIP-4", "NIP-5", "NIP-6", "NIP-9"}
    assert {id for id, claim in TABLE.items() if claim.changes} == set(TABLE) - UNTESTED
    headings = re.findall(r"^# ## (.+)$", PAGE.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}
    assert {claim.section for claim in TABLE.values()} <= anchors


def test_what_subtracts_the_direction_is_neither_nip_nor_a_baseline() -> None:
    assert "V1 minus" not in (*verdicts.LABEL_FREE, *verdicts.BASELINES)


def test_the_best_on_training_images_is_named() -> None:
    scores = dict.fromkeys((*verdicts.LABEL_FREE, *verdicts.BASELINES), 0.5)
    scores |= {"V1 minus": 0.9, "V2 majority": 0.7, "V3 recovery": 0.8, "median 2x2": 0.9, "JPEG 75": 0.6}
    roles = ("variant", "baseline of equal benign cost", "baseline at any benign cost")
    fair = ["V1 self", "V2 majority", "V2 pred", "JPEG 75", NOISE]
    assert verdicts.name_the_best(scores, fair) == dict(
        zip(roles, ("V2 majority", "JPEG 75", "median 2x2"), strict=True)
    )
    assert verdicts.name_the_best(scores, [*fair, "median 2x2"])[roles[1]] == "median 2x2"
    dear = verdicts.name_the_best(scores, [])  # each costs more than a point
    assert tuple(dear.values()) == ("V3 recovery", "median 2x2", "median 2x2")
    assert verdicts.name_the_best(dict.fromkeys(scores, 0.5), fair)["variant"] == "V1 self"


# NIP-1 and NIP-2: what attacks move


def about(mean: float) -> Tensor:
    """Values of 100 images that lie 0.1 above and below a mean, so that its interval is 0.02 either way."""
    return mean + 0.1 * torch.tensor([1.0, -1.0]).repeat(50)


def moved(**changes: float) -> dict[str, Tensor]:
    """Changes of front and tail and of their controls under one attack, and their sizes: those named, others zero.

    Those of the controls are the same for all images.
    """
    found = {}
    for part in ("front", "tail"):
        for control in ("", "_matched", "_noise"):
            name, told = part + control, (part + control).replace("_", ", ")
            change = changes.get(name, 0.0)
            size = changes.get(f"{name}_size", abs(change))
            found[told], found[f"{told}, size"] = (
                torch.full((100,), value) if control else about(value) for value in (change, size)
            )
    return found


BOTH, SLIGHTLY, NEITHER, UNCLEAR = (
    moved(front=-by, tail=by, front_size=by, tail_size=by) for by in (0.9, 0.02, 0.0, 0.045)
)
MOVES = pytest.mark.parametrize("rule", [verdicts.moves_front_and_tail, verdicts.lowers_front_and_raises_tail])


@MOVES
def test_attacks_that_follow_the_gradient_are_a_case_and_the_others_another(rule: Rule) -> None:
    def word(**by_attack: dict[str, Tensor]) -> str:
        return judged(rule, {NET: by_attack}).word

    assert word(PGD=BOTH, FGSM=BOTH, Boundary=BOTH) == "supported"
    assert word(PGD=BOTH, FGSM=BOTH, Boundary=NEITHER) == "mixed"
    assert word(PGD=NEITHER, FGSM=NEITHER, AUNA=NEITHER) == "contradicted"
    assert word(PGD=NEITHER, JSMA=NEITHER, Pixel=BOTH) == "mixed"
    assert word(PGD=BOTH, FGSM=NEITHER, BIM=BOTH) == "supported"  # a mean over attacks, and no count of them
    assert word() == "not testable here"
    assert judged(rule, {NET: {"PGD": BOTH}, "ResNet": {"PGD": NEITHER}}).word == "mixed"


@MOVES
def test_an_interval_across_zero_is_no_evidence_against(rule: Rule) -> None:
    changes = {
        part: {"front": -1, "tail": 1}[part.split(",")[0]] * torch.tensor([9.0, -8.0]).repeat(50) for part in BOTH
    }
    wide = {part: values if "matched" in part or "noise" in part else changes[part] for part, values in NEITHER.items()}
    verdict = judged(rule, {NET: {"PGD": wide}})
    assert verdict.word == "undecided"
    assert {c.word for c in verdict.conditions} == {"undecided"}
    assert all(c.needed_images and c.needed_images > 100 for c in verdict.conditions)
    assert "% of the mean activation" in verdict.evidence
    small = judged(rule, {NET: {"PGD": NEITHER}})
    assert {c.word for c in small.conditions} == {"contradicted"}  # within a twentieth of the mean activation


@pytest.mark.parametrize("control", ["matched", "noise"])
@pytest.mark.parametrize(("part", "change"), [("front", -0.9), ("tail", 0.9)])
@MOVES
def test_either_control_can_explain_a_change(rule: Rule, part: str, change: float, control: str) -> None:
    far = {"front": -0.9, "tail": 0.9, f"{part}_{control}": 0.5 * change}
    assert judged(rule, {NET: {"PGD": moved(**far)}}).word == "supported"
    far[f"{part}_{control}"] = change
    assert judged(rule, {NET: {"PGD": moved(**far)}}).word == "contradicted"
    without = {k: v for k, v in moved(**far).items() if control not in k}
    assert judged(rule, {NET: {"AUNA": without}}).word == "supported"  # it is noise: what it lacks is not asked


def test_size_and_direction_are_two_claims() -> None:
    for found in (moved(front=0.9, tail=-0.9), moved(front_size=0.9, tail_size=0.9)):  # the wrong way; to and fro
        assert judged(verdicts.moves_front_and_tail, {NET: {"PGD": found}}).word == "supported"
        assert judged(verdicts.lowers_front_and_raises_tail, {NET: {"PGD": found}}).word == "contradicted"
    falls = moved(front=-0.9, front_matched=-1.5, front_matched_size=0.0, tail=0.9)  # less far than its control
    assert judged(verdicts.lowers_front_and_raises_tail, {NET: {"PGD": falls}}).word == "contradicted"


def test_an_image_has_the_mean_over_the_attacks_that_fooled_it() -> None:
    """Fifty images that all attacks were tried on; on the first ten of them one attack failed."""
    one, other = moved(front_size=0.4, tail_size=0.4), moved(front_size=0.8, tail_size=0.8)
    other = {part: values[:50].clone() for part, values in other.items()}
    for values in other.values():
        values[:10] = NAN
    (first, *_) = verdicts.moves_front_and_tail({NET: {"PGD": one, "FGSM": other}})
    assert first.interval.value == pytest.approx((10 * 0.4 + 40 * 0.6) / 50)
    assert first.images == 50
    nobody = {part: torch.where(torch.arange(50) < 12, NAN, values[:50]) for part, values in one.items()}
    (first, *_) = verdicts.moves_front_and_tail({NET: {"PGD": nobody}})
    assert first.images == 38


# NIP-3: what is restored

NAMED = {"variant": "V2 pred", "baseline of equal benign cost": NOISE, "baseline at any benign cost": "median 2x2"}


def restored(variant: int, noise: int, *, broken: int = 1_000) -> Results:
    """An attack breaks some of 1,000 images; the variant and white noise are right on the first so many."""
    found = Results()
    for name, right in {"V2 pred": variant, NOISE: noise, "V1 self": 1_000, "none": 1_000 - broken}.items():
        note(found, name, hits(1_000))
        note(found, name, hits(right), "PGD")
    return found


def nearly_all(*by_attack: Results, known: tuple[int, int, int] = (950, 600, 0), benign: int = 995) -> Verdict:
    """``known`` are the images that an attacker who knows them leaves the variant, white noise and the network."""
    left = adaptive(**dict(zip(("variant", "noise", "none"), known, strict=True)))
    kept = {NET: {"V2 pred": hits(benign), "none": hits(1_000)}}
    found = {f"PGD {n}": results for n, results in enumerate(by_attack)}
    return judged(verdicts.restores_nearly_all, found, left, kept, {NET: NAMED})


def test_nearly_all_is_nine_of_ten_more_than_noise_at_little_cost() -> None:
    good = restored(950, 700)
    assert nearly_all(good).word == "supported"
    assert nearly_all(good).attacker == "adaptive"
    assert nearly_all(good, known=(100, 100, 0)).word == "mixed"  # it holds as long as nobody knows
    assert nearly_all(good, restored(500, 100)).word == "mixed"
    assert nearly_all(restored(500, 100), known=(0, 0, 0)).word == "contradicted"
    assert nearly_all(restored(905, 700)).word == "undecided"  # the interval contains 90 %
    assert nearly_all(restored(950, 950), known=(950, 950, 0)).word == "contradicted"  # noise does as well
    assert nearly_all(restored(1_000, 1_000, broken=0)).word != "supported"  # nothing to restore


@pytest.mark.parametrize(("kept", "word"), [(985, "supported"), (971, "undecided"), (930, "contradicted")])
def test_a_loss_of_three_points_of_benign_accuracy_is_too_much(kept: int, word: str) -> None:
    assert nearly_all(restored(950, 700), benign=kept).word == word


def test_where_an_attack_breaks_nothing_nothing_is_told() -> None:
    (share, *_) = nearly_all(restored(1_000, 1_000, broken=0)).conditions
    assert (share.word, share.number, share.needed_images) == ("undecided", "the attack broke nothing", None)


# NIP-4: steps that fit


def by_eps(stable: Sizes, fixed: Sizes, none: Sizes, *, known: bool = False, n: int = 1_000) -> Results:
    """So many of n images are right at each eps under PGD, or under the attacker who knows them."""
    names = ("V2 stable step", "V2 mean-logit", "none") if known else ("stable step", "step 0.02", "none")
    found = Results()
    for name, right in zip(names, (stable, fixed, none), strict=True):
        for eps, number in enumerate(right, 1):
            note(found, name, hits(number, n), "worst case" if known else "PGD", eps=float(eps))
        note(found, name, hits(n, n), eps=0.0)
    return found


def test_a_step_of_its_own_leads_the_fixed_one_and_helps_at_the_largest_eps() -> None:
    def word(oblivious: Results, *known: Results) -> str:
        left = known[0].select(attack="worst case") if known else adaptive(none=0)
        return judged(verdicts.adapts_to_the_size, oblivious, left, {NET: "step 0.02"}).word

    good, gone = by_eps((900, 600), (800, 400), (700, 100)), by_eps((900, 0), (800, 0), (700, 0))
    holds, falls = (by_eps(*sizes, known=True) for sizes in (((500, 200), (400, 100), (300, 0)), ((0, 0),) * 3))
    assert word(good, holds) == "supported"
    assert word(good, falls) == "mixed"
    assert word(good) == "undecided"  # nobody who knows it was tried
    assert word(gone, holds) == "mixed"  # nothing is left at the largest eps
    assert word(gone, falls) == "contradicted"
    assert word(by_eps((900, 130), (800, 100), (700, 110)), holds) == "supported"
    near = by_eps((40, 20), (39, 19), (10, 10), n=50)  # a lead of one point, which might be more than three
    assert word(near, holds) == "undecided"


def test_an_eps_at_which_nobody_is_right_does_not_decide_whether_it_adapts() -> None:
    lead, gain = verdicts.adapts_to_the_size(by_eps((900, 0), (700, 0), (700, 0)), adaptive(none=0), {NET: "step 0.02"})
    assert (lead.what, lead.word) == ("stable step − step 0.02, mean over eps", "holds")
    assert lead.interval.value == pytest.approx(0.1)
    assert (gain.what, gain.word) == ("stable step − undefended, largest eps", "contradicted")


# NIP-5 and NIP-6: over the attacks


def fooled(n: int = 1_000, model: str = NET, **right: int) -> Results:
    """An attack breaks all but the last of n + 1 images; so many of them are right again."""
    found, names = Results(), {"variant": "V2 pred", "equal": NOISE, "any": "median 2x2"}
    note(found, "none", hits(n + 1, n + 1), model=model)
    note(found, "none", ~hits(n, n + 1), "PGD", model=model)
    for name, number in right.items():
        note(found, names[name], hits(number, n + 1), "PGD", model=model)
    return found


@pytest.mark.parametrize("rule", [verdicts.leads_over_eleven_attacks, verdicts.leads_over_thirteen_attacks])
def test_the_named_variant_leads_the_named_baselines(rule: Rule) -> None:
    good, falls = adaptive(variant=500, equal=300, any=200), adaptive(variant=0, equal=0, any=0)

    def found(oblivious: Results, known: Results = good) -> Verdict:
        return judged(rule, oblivious, known, {NET: NAMED})

    leads, dear = fooled(variant=800, equal=700, any=600), fooled(variant=800, equal=700, any=900)
    assert found(leads).word == "supported"
    assert found(dear).word == "mixed"  # two fair controls that disagree
    assert found(leads, falls).word == "mixed"  # it leads as long as nobody knows
    assert found(fooled(variant=600, equal=700, any=900), falls).word == "contradicted"
    assert found(fooled(variant=702, equal=700, any=600)).word == "mixed"  # two images in a thousand do not matter
    near = found(fooled(50, variant=36, equal=35, any=10))
    assert near.word == "undecided"  # the interval contains zero, and three points
    assert all(c.needed_images for c in near.conditions if c.word == "undecided")
    assert judged(rule, leads, good, {}).word == "not testable here"
    assert len({c.case for c in near.conditions}) == 4
    assert {c.what for c in near.conditions} == {f"V2 pred − {NOISE}", "V2 pred − median 2x2"}
    alone = rule(leads, good, {NET: NAMED | {"baseline at any benign cost": NOISE}})
    assert len(alone) == 2  # the same baseline is not asked twice


# NIP-9: under the adaptive attacker


def test_variants_are_cases_and_each_must_gain_over_no_defence_and_over_noise() -> None:
    def found(v1: int, v2: int, noise: int = 400, **more: int) -> Verdict:
        robust = adaptive(none=500, V1=v1, V2=v2, noise=noise, AT=900, **more)
        return judged(verdicts.gains_under_adaptive_attack, robust, {})

    assert found(600, 600).word == "supported"
    assert found(600, 502).word == "mixed"  # a fifth of a point does not matter
    assert found(502, 400).word == "contradicted"
    assert found(600, 600, noise=600).word == "contradicted"  # as good as noise
    assert found(600, 600, **{"V1 minus": 0}).word == "supported"  # no variant of NIP
    assert {c.case for c in found(600, 600).conditions} == {"V1 self", "V2 mean-logit"}
    assert judged(verdicts.gains_under_adaptive_attack, adaptive(none=500), {}).word == "not testable here"


def test_a_gain_that_may_be_chance_is_undecided() -> None:
    few = Results()
    for name, right in {"none": 5, NOISE: 5, "V1 self": 7}.items():
        note(few, name, hits(right, 50), "worst case")
    verdict = judged(verdicts.gains_under_adaptive_attack, few, {})
    assert verdict.word == "undecided"
    assert all((c.needed_images or 0) > 50 for c in verdict.conditions)


def test_the_gain_over_networks_counts_where_there_are_several() -> None:
    robust, bare = adaptive(none=500, V2=600, noise=400), torch.stack([hits(500)] * 3)
    alike, unlike = (torch.stack([hits(n) for n in right]) for right in ((600, 610, 620), (600, 400, 800)))

    def found(several: Tensor) -> Verdict:
        return judged(verdicts.gains_under_adaptive_attack, robust, {NET: (several, bare)})

    assert found(alike).word == "supported"
    assert found(unlike).word == "undecided"
    gain = found(unlike).conditions[0]
    assert (gain.seeds, gain.case) == (3, "V2 mean-logit")
    assert (gain.needed_seeds or 0) > 3
