"""How the claims about SNN purification are decided: each rule gives the conditions that must hold.

``results`` are the rows of the page, of one seed: "none" is the bare classifier, "purifier" the spiking purifier in
front of it. In the parts "static" and "ablation" (which has the variants of the purifier) images were made at the main
eps, on the bare classifier but for those of "purifier + FGSM-AT" and of "FGSM-AT", which have their own. "worst" has
the worst case of all attackers, "black box" that of attacks without the gradient, and "core" the networks alone.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from advdef.claims import Condition, rule
from advdef.evaluation import Results
from advdef.evaluation.results import WORST_CASE
from advdef.papers.snn.footprint import Footprint
from advdef.statistics import Interval, mean_interval, paired_difference

__all__ = [
    "detector_helps", "levels_and_gate_help", "one_step_suffices", "purifier_cleans", "purifier_combines",
    "purifier_does_well", "purifier_is_better_and_cheaper",
]  # fmt: skip


@rule("SNN-1")
def purifier_cleans(results: Results, *, sharper: Mapping[str, Tensor]) -> list[Condition]:
    """On images made on the bare classifier at the main eps, for FGSM and for PGD each: at least half of the accuracy
    that the attack took is given back (paired 95 % intervals of the gain above zero and of the gain minus half the loss
    above zero); and purified images are nearer to the clean ones than attacked ones are (95 % interval of the mean
    difference of PSNR above zero).

    ``sharper`` has that difference in dB (N,) by attack. It is not finite for images that the attack or purification
    left as they were: these do not count.
    """
    back = [_given_back_by("purifier", results, attack) for attack in sharper]
    # an interval is printed in percent: of a hundredth of the gain, this is dB
    gains = {attack: mean_interval(found[found.isfinite()].double() / 100) for attack, found in sharper.items()}
    return back + [Condition.above(f"PSNR in dB, {attack}", gain, 0.0) for attack, gain in gains.items()]


@rule("SNN-2")
def levels_and_gate_help(results: Results) -> list[Condition]:
    """At a quarter and at half of the main eps, each network attacked through all derivatives and without gradients,
    worst case per image: SE-MLF3 is right on more images than LIF, and than MLF3 without the gate (paired 95 %
    intervals above zero).

    The column "budget" has eps as it is printed.
    """
    core = results.select(part="core", attack=WORST_CASE)
    return [
        Condition.above(f"SE-MLF3 − {k}, eps {eps}", _gain(core, "SE-MLF3", k, budget=eps), 0.0)
        for eps in core.values("budget")
        for k in ("LIF", "MLF3")
        if k in core.values("defence")
    ]


@rule("SNN-3")
def purifier_combines(results: Results, *, attack: str) -> list[Condition]:
    """Trained without the classifier's part in the loss (but on attacks on it), the purifier gives back half of what
    PGD took, as in C1. And the purifier of the other claims, trained with that part, in front of the adversarially
    trained classifier, which it has never seen, raises its accuracy under PGD on that classifier (paired 95 % interval
    above zero) at the cost of at most 2 points of clean accuracy.

    ``attack`` names PGD; the purifier without the classifier's part is "no divergence".
    """
    static = results.select(part="static")
    gain, cost = (_gain(static, "purifier + FGSM-AT", "FGSM-AT", attack=name) for name in (attack, "none"))
    return [
        _given_back_by("no divergence", results, attack, part="ablation"),
        Condition.above(f"purifier + FGSM-AT − FGSM-AT, {attack}", gain, 0.0),
        Condition.above("the same, clean", cost, -0.02),
    ]


@rule("SNN-4")
def purifier_is_better_and_cheaper(
    results: Results, *, seconds: Mapping[str, float], pipeline: Footprint, classifier: Footprint
) -> list[Condition]:
    """Against FGSM adversarial training and RAT, at the main eps: the purifier in front of the bare classifier is right
    on more images in the worst case (paired 95 % intervals above zero); it is trained in less time (without the bare
    classifier's, on the profile's images and epochs); and no more bytes are kept for a training image and no more
    multiply-adds needed at inference than for the classifier alone (which a pipeline that contains it cannot fulfil:
    the numbers say by how much). The paper's baselines are not known to us.

    ``seconds`` are those of training, by defence; a rival that the results do not have is left out. ``pipeline`` is
    what the purifier and the classifier need together.
    """
    worst = results.select(part="worst", threat="adaptive", attack=WORST_CASE)
    rivals, mine = [k for k in ("FGSM-AT", "RAT") if k in worst.values("defence")], seconds["purifier"]
    gains = {k: _gain(worst, "purifier", k) for k in rivals}
    kept = pipeline.kept_bytes, classifier.kept_bytes
    needed = pipeline.multiply_adds, classifier.multiply_adds
    return [
        *(Condition.above(f"purifier − {k}, worst case", gains[k], 0.0) for k in rivals),
        *(
            Condition(f"seconds of training, {k}", mine < seconds[k], f"{mine:.0f} against {seconds[k]:.0f}")
            for k in rivals
        ),
        _no_more("memory of a training image, MiB", *kept, unit=2**20),
        _no_more("multiply-adds at inference, millions", *needed, unit=1e6),
    ]


@rule("SNN-5")
def detector_helps(results: Results, *, area: float, slipped: float, attack: str) -> list[Condition]:
    """Area under the ROC curve of D at least 0.9 for PGD on the bare classifier; of images made to go unnoticed, at
    most a tenth are wrong on the bare classifier and not flagged; and the mean of clean accuracy and accuracy under PGD
    on the bare classifier rises with the gate (paired 95 % interval above zero).

    ``area`` is the first number, ``slipped`` the second, a share; ``attack`` names PGD, and "gate" is the purifier
    behind the detector.
    """
    static = results.select(part="static")
    gains = [
        static.hits(defence="gate", attack=name).double() - static.hits(defence="purifier", attack=name).double()
        for name in ("none", attack)
    ]
    return [
        Condition(f"area, {attack}", area >= 0.9, f"{area:.2f}"),
        Condition("wrong and not flagged %, unnoticed", slipped <= 0.1, f"{100 * slipped:.0f}"),
        Condition.above(f"gate on − off, mean of clean and {attack}", mean_interval((gains[0] + gains[1]) / 2), 0.0),
    ]


@rule("SNN-6")
def one_step_suffices(results: Results, *, times: float, attack: str) -> list[Condition]:
    """Trained on FGSM, the purifier loses at most 2 points under PGD on the bare classifier to the one trained on PGD-7
    (paired 95 % interval above -2 points); and FGSM takes less time for the same images (as one step must).

    ``times`` is how many times as long making the images with PGD-7 took as with FGSM; ``attack`` names PGD. Where
    the results have no "PGD-7 pairs", the purifier trained on these, nothing is decided.
    """
    variants = results.select(part="ablation", attack=attack)
    if "PGD-7 pairs" not in variants.values("defence"):
        return []
    gain = _gain(variants, "purifier", "PGD-7 pairs")
    return [
        Condition("time for the same images, PGD-7 / FGSM", times > 1, f"{times:.1f}"),
        Condition.above(f"trained on FGSM − on PGD-7, {attack}", gain, -0.02),
    ]


@rule("SNN-7")
def purifier_does_well(results: Results, *, attack: str) -> list[Condition]:
    """At least half of what the attack took is given back, as in C1: under PGD on the bare classifier; without its
    gradient (Square, noise and PGD on other networks, against what the same takes from the bare classifier); and in the
    worst case of all attackers.

    ``attack`` names PGD.
    """
    clean = results.hits(part="worst", threat="clean", defence="none")
    conditions = [_given_back_by("purifier", results, attack)]
    for what, part in (("black box", "black box"), ("worst case", "worst")):
        found = results.select(part=part, threat="adaptive", attack=WORST_CASE)
        mine, bare = (found.hits(defence=k) for k in ("purifier", "none"))
        conditions.append(Condition.half_given_back(what, mine, bare=bare, clean=clean))
    return conditions


def _given_back_by(defence: str, results: Results, attack: str, *, part: str = "static") -> Condition:
    treated, bare = results.select(part=part, defence=defence), results.select(part="static", defence="none")
    return Condition.half_given_back(
        f"{defence}, {attack}",
        treated.hits(attack=attack),
        bare=bare.hits(attack=attack),
        clean=bare.hits(threat="clean"),
    )


def _gain(results: Results, mine: str, other: str, **where: Any) -> Interval:
    """The paired difference of the hits of two defences."""
    return paired_difference(results.hits(defence=mine, **where), results.hits(defence=other, **where))


def _no_more(what: str, mine: float, theirs: float, *, unit: float) -> Condition:
    return Condition(what, mine <= theirs, f"{mine / unit:.1f} against {theirs / unit:.1f}")
