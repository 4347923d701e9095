"""The rules that decide the claims of TRN; each gives conditions from measured results.

Results and mappings may hold more than a rule asks for. Attacks on the bare classifier are replayed on it, as the
defence "none", and on "TRN"; they may have seen only the first few of the clean images. ``leads`` say by how much TRN
exceeds other variants and defences on the mean of the five attacks, as :func:`advdef.papers.trn.measure.lead_over`
gives it: an interval over images and, with several seeds, one over seeds. Few variants are trained on other data sets
than the first.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from advdef.claims import Condition, rule
from advdef.evaluation import Results
from advdef.statistics import Interval, paired_difference

__all__ = [
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


def _recovered(what: str, replay: Results) -> Condition:
    """TRN gives back what the only attack in the rows took."""
    clean, bare = _undefended(replay)
    return Condition.half_given_back(what, replay.hits(defence="TRN", threat="oblivious"), bare=bare, clean=clean)


def _fooled(replay: Results) -> bool:
    """Whether the only attack in the rows fooled the bare classifier at all."""
    clean, bare = _undefended(replay)
    return bool((clean & ~bare).any())


def _undefended(replay: Results) -> tuple[Tensor, Tensor]:
    """Which images (N,) the bare classifier has right, before and under the only attack in the rows."""
    clean, bare = (replay.hits(defence="none", threat=threat) for threat in ("clean", "oblivious"))
    return clean[: len(bare)], bare


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


@rule("TRN-1")
def restores_the_five_attacks(results: Results) -> list[Condition]:
    """For each of FGSM, FFGSM, BIM, MIM and PGD, made on the bare classifier at the main eps: TRN gives back at least
    half of the accuracy that the attack took (paired 95 % interval of the gain above half of it).

    Raises ValueError where one of these was not tried.
    """
    return [_recovered(attack, results.select(attack=("none", attack))) for attack in _FIVE]


@rule("TRN-2")
def exceeds_blind_maps(leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """On the mean of the five attacks, TRN exceeds each of the same network with a map of noise, of another image, and
    of Sobel's filter, and a network of as many blocks without a map (paired 95 % interval over images above zero and,
    with several seeds, Student's interval over seeds as well). On the first data set.

    A single condition: where TRN exceeds some of them and not others, the map need not be the reason.
    """
    margins = _exceeds(leads, _CONTROLS)
    told = "; ".join(f"{margin.what}: {margin.number}" for margin in margins)
    return [Condition("more than every control", all(margin.holds for margin in margins), told)] if margins else []


@rule("TRN-3")
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


@rule("TRN-4")
def exceeds_simpler_fusions(leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """On the mean of the five attacks, TRN exceeds the networks that stack both inputs, add the streams, or mix them
    without the gate (intervals as in C2). On the first data set.
    """
    return _exceeds(leads, _FUSIONS)


@rule("TRN-5")
def restores_unseen_attacks(results: Results) -> list[Condition]:
    """As C1, for attacks that training did not see: FFGSM, BIM, MIM, targeted PGD, APGD with two losses, Square, C&W
    and DeepFool.

    An attack that fooled the classifier on no image decides nothing.
    """
    unseen = [attack for attack in results.values("attack") if attack not in ("none", *_SEEN)]
    replays = {attack: results.select(attack=("none", attack)) for attack in unseen}
    return [_recovered(attack, replay) for attack, replay in replays.items() if _fooled(replay)]


@rule("TRN-6")
def benign_accuracy_stays(results: Results) -> list[Condition]:
    """TRN loses at most 2 points of clean accuracy (paired 95 % interval above -2 points); the threshold is ours."""
    restored, bare = (results.hits(defence=name, threat="clean") for name in ("TRN", "none"))
    return [Condition.above("TRN − undefended, clean", paired_difference(restored, bare), -0.02)]


@rule("TRN-7")
def generalises(settings: Mapping[str, Results]) -> list[Condition]:
    """As C1, under PGD with 1.5 and 2 times the largest eps of training and, on the first data set, in front of each
    classifier that TRN was not trained with, attacked by PGD on that classifier. What the paper means by the word is
    not known to us.
    """
    return [_recovered(what, replay) for what, replay in settings.items()]


@rule("TRN-8")
def a_larger_network_restores_better(gains: Mapping[str, Interval]) -> list[Condition]:
    """Where a larger network was trained, it exceeds the smaller one on the mean of the five attacks (paired 95 %
    interval above zero). How the cost grows is shown in tables. What the paper means by the word is not known to us.

    ``gains`` by the two sizes.
    """
    return [Condition.above(sizes, gain, 0.0) for sizes, gain in gains.items()]


@rule("TRN-9")
def holds_against_all_rungs(left: Mapping[str, Results]) -> list[Condition]:
    """At each eps of the ladder: TRN is right on more images after all rungs and the three attackers than the network
    with Fast adversarial training at the main eps (paired 95 % interval above zero).

    What they left of both, by eps.
    """
    pairs = {eps: [worst.hits(defence=name) for name in ("TRN", "Fast-AT")] for eps, worst in left.items()}
    return [Condition.above(f"TRN − Fast-AT, eps {eps}", paired_difference(*pair), 0.0) for eps, pair in pairs.items()]


@rule("TRN-10")
def exceeds_other_purifications(leads: Mapping[str, Sequence[Interval]]) -> list[Condition]:
    """On the mean of the five attacks on the bare classifier: TRN exceeds each of JPEG, bit depth, the median, total
    variation, restoration without a map, and the same trained on features as HGD is (intervals as in C2). Adversarial
    training has other weights, for which these attacks are no fair test: see C9. The paper's baselines are not known to
    us.
    """
    return _exceeds(leads, _PURIFICATIONS)
