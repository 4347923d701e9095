"""The rules that decide the claims of TRN; each gives conditions from measured results.

In each mapping the keys are what the evidence names: attacks, variants, budgets. A lead is TRN minus something else, as
:func:`advdef.papers.trn.measure.lead_over` gives it: an interval over images and, with several seeds, one over seeds.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from advdef.claims import Condition, rule
from advdef.statistics import Interval, mean_interval, paired_difference

__all__ = [
    "Replayed",
    "a_larger_network_restores_better",
    "benign_accuracy_stays",
    "exceeds_blind_maps",
    "exceeds_other_purifications",
    "exceeds_simpler_fusions",
    "generalises",
    "holds_against_all_rungs",
    "label_is_not_needed",
    "restores_the_five_attacks",
    "restores_unseen_attacks",
]

_FIVE = ("FGSM", "FFGSM", "BIM", "MIM", "PGD")
_SEEN = ("FGSM", "PGD")  # in training


class Replayed(NamedTuple):
    """Which of the same images are right, (N,) booleans, where an attack on the bare classifier is replayed.

    ``clean`` and ``bare`` are the bare classifier's, before and under the attack; ``restored`` is TRN's under it.
    """

    clean: Tensor
    bare: Tensor
    restored: Tensor


def _recovered(what: str, hits: Replayed) -> Condition:
    """At least half of the accuracy that the attack took is given back."""
    clean, bare, restored = hits
    gain = paired_difference(restored, bare)
    taken = (clean.double().mean() - bare.double().mean()).item()
    half = mean_interval(restored.double() - (clean.double() + bare.double()) / 2)
    return Condition(what, gain.low > 0 and half.low > 0, f"{gain:+} points of {100 * taken:.1f} taken")


def _leads(other: str, lead: Sequence[Interval]) -> Condition:
    """Every interval of a lead lies above zero."""
    number = ", over seeds ".join(f"{interval:+}" for interval in lead)
    return Condition(f"TRN − {other}", all(interval.low > 0 for interval in lead), number)


@rule("trn-C1")
def restores_the_five_attacks(attacks: Mapping[str, Replayed]) -> list[Condition]:
    """For each of FGSM, FFGSM, BIM, MIM and PGD, made on the bare classifier at the main eps: TRN gives back at least
    half of the accuracy that the attack took (paired 95 % interval of the gain above half of it).

    ``attacks`` holds these five; others do not count.
    """
    return [_recovered(attack, attacks[attack]) for attack in _FIVE]


@rule("trn-C2")
def exceeds_blind_maps(leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """On the mean of the five attacks, TRN exceeds each of the same network with a map of noise, of another image, and
    of Sobel's filter, and a network of as many blocks without a map (paired 95 % interval over images above zero and,
    with several seeds, Student's interval over seeds as well). On the first data set.

    ``leads`` over each of these networks that was trained. A single condition: where TRN exceeds some of them, the map
    need not be the reason.
    """
    margins = [_leads(other, lead) for other, lead in leads.items()]
    told = "; ".join(f"{margin.what}: {margin.number}" for margin in margins)
    return [Condition("more than every control", all(margin.holds for margin in margins), told)] if margins else []


@rule("trn-C3")
def label_is_not_needed(cosines: Mapping[str, Interval], oracle: Interval | None = None) -> list[Condition]:
    """Under each of the five attacks the estimate has a mean cosine above 0.5 to the gradient at the true label (95 %
    interval over fooled images; in theory, 0.5 is what the gradient at any wrong class has that is not the predicted
    one); and, on the first data set, TRN is at most 2 points below the same network with the oracle's map (interval).

    ``cosines`` by attack, of those that fooled the classifier; ``oracle`` is TRN's lead over the oracle, over images.
    """
    conditions = [
        Condition(f"cosine, {attack}", mean.low > 0.5, f"{mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]")
        for attack, mean in cosines.items()
    ]
    return conditions + ([] if oracle is None else [Condition.above("TRN − oracle map", oracle, -0.02)])


@rule("trn-C4")
def exceeds_simpler_fusions(leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """On the mean of the five attacks, TRN exceeds the networks that stack both inputs, add the streams, or mix them
    without the gate (intervals as in C2). On the first data set.

    ``leads`` over each of these networks that was trained.
    """
    return [_leads(other, lead) for other, lead in leads.items()]


@rule("trn-C5")
def restores_unseen_attacks(attacks: Mapping[str, Replayed]) -> list[Condition]:
    """As C1, for attacks that training did not see: FFGSM, BIM, MIM, targeted PGD, APGD with two losses, Square, C&W
    and DeepFool.

    ``attacks`` may hold those of training, too, which are left out, as is one that fooled the classifier on no image.
    """
    unseen = {attack: hits for attack, hits in attacks.items() if attack not in _SEEN}
    return [_recovered(attack, hits) for attack, hits in unseen.items() if bool((hits.clean & ~hits.bare).any())]


@rule("trn-C6")
def benign_accuracy_stays(bare: Tensor, restored: Tensor) -> list[Condition]:
    """TRN loses at most 2 points of clean accuracy (paired 95 % interval above -2 points); the threshold is ours.

    Which clean images (N,) are right in front of the bare classifier, and behind TRN.
    """
    return [Condition.above("TRN − undefended, clean", paired_difference(restored, bare), -0.02)]


@rule("trn-C7")
def generalises(settings: Mapping[str, Replayed]) -> list[Condition]:
    """As C1, under PGD with 1.5 and 2 times the largest eps of training and, on the first data set, in front of each
    classifier that TRN was not trained with, attacked by PGD on that classifier. What the paper means by the word is
    not known to us.
    """
    return [_recovered(what, hits) for what, hits in settings.items()]


@rule("trn-C8")
def a_larger_network_restores_better(gains: Mapping[str, Interval]) -> list[Condition]:
    """Where a larger network was trained, it exceeds the smaller one on the mean of the five attacks (paired 95 %
    interval above zero). How the cost grows is shown in tables. What the paper means by the word is not known to us.

    ``gains`` by the two sizes.
    """
    return [Condition.above(sizes, gain, 0.0) for sizes, gain in gains.items()]


@rule("trn-C9")
def holds_against_all_rungs(trn: Mapping[str, Tensor], fast_at: Mapping[str, Tensor]) -> list[Condition]:
    """At each eps of the ladder: TRN is right on more images after all rungs than the network with Fast adversarial
    training at the main eps (paired 95 % interval above zero).

    Which of the same images (N,) are right after all rungs, by eps.
    """
    return [
        Condition.above(f"TRN − Fast-AT, eps {eps}", paired_difference(right, fast_at[eps]), 0.0)
        for eps, right in trn.items()
    ]


@rule("trn-C10")
def exceeds_other_purifications(leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """On the mean of the five attacks on the bare classifier: TRN exceeds each of JPEG, bit depth, the median, total
    variation, restoration without a map, and the same trained on features as HGD is (intervals as in C2). Adversarial
    training has other weights, for which these attacks are no fair test: see C9. The paper's baselines are not known to
    us.

    ``leads`` over each of these.
    """
    return [_leads(other, lead) for other, lead in leads.items()]
