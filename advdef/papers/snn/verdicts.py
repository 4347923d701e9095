"""How the claims about SNN purification are decided: each rule gives the conditions of a claim.

``results`` are the rows of the page, of one seed: "none" is the bare classifier, "purifier" the spiking purifier in
front of it. In the parts "static" and "ablation" (which has the variants of the purifier) images were made at the main
eps, on the bare classifier but for those of "purifier + FGSM-AT" and of "FGSM-AT", which have their own. "worst" has
the worst case of all attackers, "black box" that of attacks without the gradient, and "core" the networks alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from advdef.claims import CLEAN, ROBUST, Condition, rule
from advdef.evaluation import Results
from advdef.evaluation.results import WORST_CASE
from advdef.statistics import Interval, mean_interval, paired_difference, wilson

__all__ = [
    "detector_helps", "levels_and_gate_help", "one_step_suffices", "purifier_cleans", "purifier_combines",
    "purifier_does_well", "purifier_is_better",
]  # fmt: skip

_IGNORES: dict[str, Any] = {"case": "an attacker who ignores the defence", "attacker": "oblivious"}
_KNOWS: dict[str, Any] = {"case": "an attacker who knows it", "attacker": "adaptive"}
_WORST = {"part": "worst", "threat": "adaptive", "attack": WORST_CASE}


@rule("SNN-1")
def purifier_cleans(results: Results, *, sharper: Mapping[str, Tensor]) -> list[Condition]:
    """At least half of the accuracy that the attack took is given back; half is the bound itself, without a further
    margin. Cases are the attackers: one who ignores the purifier (FGSM and PGD on the bare classifier), and one who
    knows it (worst case of all attacks on each). To the former, purified images must also be nearer to the clean ones
    than attacked ones are: the mean difference of PSNR lies above half a decibel, as less is hardly seen. Intervals are
    over images, of one network.

    ``sharper`` has that difference in dB (N,) by attack. It is not finite for images that the attack or purification
    left as they were: these do not count.
    """
    found = [_given_back(results, attack) for attack in sharper]
    for attack, gain in sharper.items():
        kept = gain[gain.isfinite()].double() / 100  # an interval is printed in percent: of this, it is dB
        more: dict[str, Any] = {"margin": 0.005, "images": len(kept), **_IGNORES}
        change = mean_interval(kept) if len(kept) > 1 else Interval(0.0, -1.0, 1.0)
        found.append(Condition.above(f"PSNR in dB, {attack}", change, 0.005, **more))
    return [*found, _given_back_in_all(results)]


@rule("SNN-2")
def levels_and_gate_help(results: Results) -> list[Condition]:
    """SE-MLF3 is right on more images than LIF, the plain network, each attacked through all derivatives and without
    gradients, worst case per image; less than 3 points do not matter. Cases are the budgets: a quarter and half of the
    main eps. With several seeds the interval is for other networks and other images.

    The column "budget" has eps as it is printed; ``results`` have all seeds of both networks.
    """
    core = results.select(part="core", attack=WORST_CASE)

    def hits(network: str, budget: str) -> Tensor:
        found = core.select(defence=network, budget=budget)
        return torch.stack([found.hits(seed=seed) for seed in sorted(found.values("seed"))])

    what = "SE-MLF3 − LIF, worst case"
    return [
        Condition.compare(what, hits("SE-MLF3", eps), hits("LIF", eps), **_KNOWS | {"case": f"eps {eps}"})
        for eps in core.values("budget")
    ]


@rule("SNN-3")
def purifier_combines(results: Results, *, attack: str) -> list[Condition]:
    """The purifier in front of the adversarially trained classifier, which it has never seen, raises its accuracy (less
    than 3 points do not matter), at the cost of less than 2 points of clean accuracy, on many more images than are
    attacked (one point matters). Cases are the attackers: one who ignores the purifier (PGD on that classifier), and
    one who knows it (worst case). To the former, a purifier trained without the classifier's part in the loss also
    gives back half of what PGD took from the bare classifier. Intervals are over images, of one network.

    ``attack`` names PGD. The part "clean" has the two defences on clean images.
    """
    both, alone = "purifier + FGSM-AT", "FGSM-AT"
    first, second = (results.hits(part="clean", defence=k) for k in (both, alone))
    return [
        _given_back(results, attack, "no divergence", part="ablation"),
        *_against_both(results, both, alone, attack),
        Condition.compare(f"{both} − {alone}, clean", first, second, -0.02, margin=CLEAN),
    ]


@rule("SNN-4")
def purifier_is_better(results: Results, *, rivals: Iterable[str], attack: str) -> list[Condition]:
    """The purifier in front of the bare classifier is right on more images than each classifier with adversarial
    training; less than 3 points do not matter. Cases are the attackers: one who ignores the purifier (PGD on the bare
    classifier, and on the rival), and one who knows it (worst case). Intervals are over images, of one network each.
    Training time and resources decide nothing: the former is of unequal work, and a pipeline that contains the
    classifier cannot need less than it does. The page shows both. The paper's baselines are not known to us.

    ``rivals`` are the classifiers with adversarial training, ``attack`` names PGD.
    """
    return [found for rival in rivals for found in _against_both(results, "purifier", rival, attack)]


@rule("SNN-5")
def detector_helps(results: Results, *, area: Interval, images: int, slipped: Tensor, attack: str) -> list[Condition]:
    """The detector finds attacks, and the gate raises the mean of clean accuracy and accuracy under attack over that of
    the purifier alone (one point matters, as half of it is clean accuracy). Cases are the attackers. For one who
    ignores the detector (PGD on the bare classifier) it finds them if the area under its ROC curve is above 0.9: nine
    of ten pairs of an attacked and a clean image in the right order. For one who knows it, if of images made to go
    unnoticed less than a tenth get through: twice the share of clean images that it flags. Intervals are over images;
    the area's takes clean and attacked images for independent.

    ``area`` is over ``images``. ``slipped`` tells which of the images that the bare classifier has right when clean,
    (N,), are wrong there and not flagged. ``attack`` names PGD, "gate" is the purifier behind the detector.
    """
    unnoticed = wilson(int(slipped.sum()), len(slipped)) if len(slipped) else Interval(0.1, 0.0, 1.0)
    return [
        Condition.above(f"area in %, {attack}", area, 0.9, images=images, show=str, **_IGNORES),
        _gate_gains(results, {"part": "static", "attack": attack}, _IGNORES),
        Condition.below("through unnoticed, in %", unnoticed, 0.1, images=len(slipped), show=str, **_KNOWS),
        _gate_gains(results, _WORST, _KNOWS),
    ]


@rule("SNN-6")
def one_step_suffices(results: Results, *, attack: str) -> list[Condition]:
    """The purifier trained on FGSM loses less than 3 points, the least that matters, to the one trained on PGD-7. Cases
    are the attackers: one who ignores the purifiers (PGD on the bare classifier), and one who knows them (worst case).
    Intervals are over images, of one network each. That one step takes less time than seven is true by construction:
    the page shows by how much.

    ``attack`` names PGD. Where the results have no "PGD-7 pairs", the purifier trained on these, nothing is measured.
    """
    if "PGD-7 pairs" not in results.values("defence"):
        return []
    return _against_both(results, "purifier", "PGD-7 pairs", attack, bound=-ROBUST)


@rule("SNN-7")
def purifier_does_well(results: Results, *, attack: str) -> list[Condition]:
    """At least half of the accuracy that the attack took is given back, as in SNN-1. Cases are the attackers: one who
    ignores the purifier (PGD on the bare classifier), one without its gradient (Square, noise and PGD on networks that
    share no weight), and one who knows it (worst case); of the last two, against what they take from the bare one.

    ``attack`` names PGD.
    """
    box: Any = {"part": "black box", "case": "an attacker without its gradient", "attacker": "direct"}
    return [_given_back(results, attack), _given_back_in_all(results, **box), _given_back_in_all(results)]


def _given_back(results: Results, attack: str, defence: str = "purifier", *, part: str = "static") -> Condition:
    treated, bare = results.select(part=part, defence=defence), results.select(part="static", defence="none")
    mine, left, clean = treated.hits(attack=attack), bare.hits(attack=attack), bare.hits(threat="clean")
    return Condition.half_given_back(f"{defence}, {attack}", mine, bare=left, clean=clean, **_IGNORES)


def _given_back_in_all(results: Results, *, part: str = "worst", **who: Any) -> Condition:
    mine, bare = (results.hits(**_WORST | {"part": part, "defence": k}) for k in ("purifier", "none"))
    clean = results.hits(part="worst", threat="clean", defence="none")
    return Condition.half_given_back("purifier, worst case", mine, bare=bare, clean=clean, **_KNOWS | who)


def _against_both(results: Results, mine: str, other: str, attack: str, *, bound: float = 0.0) -> list[Condition]:
    """One defence against another, for the attacker who ignores purifiers and for the one who knows them."""
    found = []
    for attacked, who in (({"part": "static", "attack": attack}, _IGNORES), (_WORST, _KNOWS)):
        first, second = (results.hits(defence=k, **attacked) for k in (mine, other))
        found.append(Condition.compare(f"{mine} − {other}, {attacked['attack']}", first, second, bound, **who))
    return found


def _gate_gains(results: Results, attacked: Mapping[str, str], who: Mapping[str, Any]) -> Condition:
    """What the gate adds to the mean of clean and attacked accuracy."""
    clean = {"part": attacked["part"], "threat": "clean"}
    gate, purifier = (
        torch.stack([results.hits(defence=k, **where) for where in (clean, attacked)]) for k in ("gate", "purifier")
    )
    what, gain = f"gate on − off, mean of clean and {attacked['attack']}", paired_difference(gate, purifier)
    return Condition.above(what, gain, margin=CLEAN, images=gate.shape[1], **who)
