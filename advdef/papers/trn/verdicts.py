"""The rules that decide the claims of TRN; each gives conditions from measured results.

A mapping of results may hold more than a rule asks for. ``leads`` say by how much TRN exceeds other variants and
defences on the mean of the five attacks, as :func:`advdef.papers.trn.measure.lead_over` gives it: an interval over
images and, with several seeds, one over seeds. Few variants are trained on other data sets than the first.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from advdef.claims import Condition, rule
from advdef.statistics import Interval, paired_difference

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
_CONTROLS = ("image only", "random map", "shuffled map", "Sobel map")
_FUSIONS = ("early", "sum", "concat")
_PURIFICATIONS = ("JPEG 75", "bit depth 3", "median 2x2", "total variation", "HGD-style", "image only")


class Replayed(NamedTuple):
    """Which of the same images are right, (N,) booleans, where an attack on the bare classifier is replayed.

    ``clean`` and ``bare`` are the bare classifier's, before and under the attack; ``restored`` is TRN's under it.
    """

    clean: Tensor
    bare: Tensor
    restored: Tensor

    @classmethod
    def of(cls, bare: Mapping[str, Tensor], restored: Mapping[str, Tensor], attack: str) -> "Replayed":
        """From hits by attack, those on clean images under "clean"; an attack may have seen only the first few."""
        return cls(bare["clean"][: len(bare[attack])], bare[attack], restored[attack])


def _recovered(what: str, hits: Replayed) -> Condition:
    return Condition.half_given_back(what, hits.restored, bare=hits.bare, clean=hits.clean)


def _exceeds(leads: Mapping[str, Sequence[Interval]], others: Iterable[str]) -> list[Condition]:
    """For each of the others there: every interval of TRN's lead over it lies above zero."""
    return [
        Condition(
            f"TRN − {other}",
            all(interval.low > 0 for interval in leads[other]),
            ", over seeds ".join(f"{interval:+}" for interval in leads[other]),
        )
        for other in others
        if other in leads
    ]


@rule("trn-C1")
def restores_the_five_attacks(attacks: Mapping[str, Replayed]) -> list[Condition]:
    """For each of FGSM, FFGSM, BIM, MIM and PGD, made on the bare classifier at the main eps: TRN gives back at least
    half of the accuracy that the attack took (paired 95 % interval of the gain above half of it).

    Raises KeyError where one of these was not tried.
    """
    return [_recovered(attack, attacks[attack]) for attack in _FIVE]


@rule("trn-C2")
def exceeds_blind_maps(leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """On the mean of the five attacks, TRN exceeds each of the same network with a map of noise, of another image, and
    of Sobel's filter, and a network of as many blocks without a map (paired 95 % interval over images above zero and,
    with several seeds, Student's interval over seeds as well). On the first data set.

    A single condition: where TRN exceeds some of them and not others, the map need not be the reason.
    """
    margins = _exceeds(leads, _CONTROLS)
    told = "; ".join(f"{margin.what}: {margin.number}" for margin in margins)
    return [Condition("more than every control", all(margin.holds for margin in margins), told)] if margins else []


@rule("trn-C3")
def label_is_not_needed(cosines: Mapping[str, Interval], leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """Under each of the five attacks the estimate has a mean cosine above 0.5 to the gradient at the true label (95 %
    interval over fooled images; in theory, 0.5 is what the gradient at any wrong class has that is not the predicted
    one); and, on the first data set, TRN is at most 2 points below the same network with the oracle's map (interval).

    ``cosines`` by attack; one that fooled the classifier on too few images has none.
    """
    conditions = [
        Condition(f"cosine, {attack}", mean.low > 0.5, f"{mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]")
        for attack, mean in cosines.items()
        if attack in _FIVE
    ]
    if "oracle map" in leads:
        conditions.append(Condition.above("TRN − oracle map", leads["oracle map"][0], -0.02))
    return conditions


@rule("trn-C4")
def exceeds_simpler_fusions(leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """On the mean of the five attacks, TRN exceeds the networks that stack both inputs, add the streams, or mix them
    without the gate (intervals as in C2). On the first data set.
    """
    return _exceeds(leads, _FUSIONS)


@rule("trn-C5")
def restores_unseen_attacks(attacks: Mapping[str, Replayed]) -> list[Condition]:
    """As C1, for attacks that training did not see: FFGSM, BIM, MIM, targeted PGD, APGD with two losses, Square, C&W
    and DeepFool.

    An attack that fooled the classifier on no image decides nothing.
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
    """
    return _exceeds(leads, _PURIFICATIONS)
