"""The rules that decide the claims of TRN; each gives conditions from measured results.

Results and mappings may hold more than a rule asks for. The bare classifier is the defence "none". Attacks on it are
replayed on it and on "TRN", which may have been trained with several seeds; they may have seen only the first of the
clean images. ``worst`` has what the adaptive attacker leaves at the main eps, and the clean images. ``shares`` are, by
variant or defence, of the five attacks the share that each image withstands, (S, N) for S seeds. Intervals are for
other seeds and other images, or for other images alone where there is one seed.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from advdef.claims import CLEAN, ROBUST, Attacker, Condition, rule
from advdef.evaluation import Results
from advdef.statistics import mean_interval

__all__ = [
    "a_larger_network_restores_better", "benign_accuracy_stays", "exceeds_blind_maps", "exceeds_other_purifications",
    "exceeds_simpler_fusions", "generalises", "holds_against_all_rungs", "label_is_not_needed",
    "restores_the_five_attacks", "restores_unseen_attacks",
]  # fmt: skip

_FIVE = ("FGSM", "FFGSM", "BIM", "MIM", "PGD")
_SEEN = ("FGSM", "PGD")  # in training
_IGNORES = "an attacker who ignores the defence"
_KNOWS = "an attacker who knows it"


def _hits(results: Results, defence: str, threat: str) -> Tensor:
    """What a defence is right on, (S, N), of each seed."""
    found = results.select(defence=defence, threat=threat)
    return torch.stack([found.hits(seed=seed) for seed in sorted(found.values("seed"))])


def _fooled(replay: Results) -> bool:
    """Whether the only attack in the rows took twice the smallest difference that matters from the bare classifier."""
    clean, bare = (replay.hits(defence="none", threat=threat) for threat in ("clean", "oblivious"))
    return (clean[: len(bare)] & ~bare).double().mean().item() >= 2 * ROBUST


def _given_back(what: str, results: Results, case: str, attacker: Attacker = "oblivious") -> Condition:
    """TRN gives back at least half of the accuracy that the only attack in the rows took."""
    clean, bare = (results.hits(defence="none", threat=threat) for threat in ("clean", attacker))
    clean, trn = clean[: len(bare)], _hits(results, "TRN", attacker)
    if clean.sum() <= bare.sum():
        return Condition.half_given_back(what, trn[0], bare=bare, clean=clean, case=case, attacker=attacker)
    half = ((clean.double() + bare.double()) / 2).expand_as(trn)
    what = f"{what}, given back beyond half"
    return Condition.compare(what, trn, half, margin=0.0, case=case, attacker=attacker)


def _known(worst: Results) -> Condition:
    return _given_back("worst case of all that was tried", worst, _KNOWS, "adaptive")


def _exceeds(shares: Mapping[str, Tensor], others: Iterable[str], case: str = "") -> list[Condition]:
    """TRN withstands more of the five attacks than each of the others there."""
    return [
        Condition.compare(f"TRN − {other}", shares["TRN"], shares[other], case=case, attacker="oblivious")
        for other in others
        if other in shares
    ]


def _over_fast_at(worst: Results, case: str, bound: float = 0.0) -> Condition:
    trn, other = (_hits(worst, name, "adaptive") for name in ("TRN", "Fast-AT"))
    return Condition.compare("TRN − Fast-AT", trn, other, bound, case=case, attacker="adaptive")


@rule("TRN-1")
def restores_the_five_attacks(replay: Results, worst: Results) -> list[Condition]:
    """TRN gives back at least half of the accuracy that an attack at the main eps took from the bare classifier. Cases
    are an attacker who ignores the defence, with each of FGSM, FFGSM, BIM, MIM and PGD, and one who knows it, with the
    worst case of all that was tried. Half is itself the bound, without a further margin.

    Raises ValueError where one of these was not tried.
    """
    return [*(_given_back(name, replay.select(attack=("none", name)), _IGNORES) for name in _FIVE), _known(worst)]


@rule("TRN-2")
def exceeds_blind_maps(shares: Mapping[str, Tensor]) -> list[Condition]:
    """On the mean of the five attacks, made by someone who ignores the defence, TRN exceeds each of the same network
    with a map of noise, of another image, and of Sobel's filter, and a network of as many blocks without a map: where
    one of them does as well, the map need not be the reason. Less than 3 points do not matter. On the first data set.
    """
    return _exceeds(shares, ("image only", "random map", "shuffled map", "Sobel map"))


@rule("TRN-3")
def label_is_not_needed(cosines: Mapping[str, Tensor], shares: Mapping[str, Tensor]) -> list[Condition]:
    """Under each of the five attacks the estimate has a mean cosine above 0.5 to the gradient at the true label, over
    fooled images (in theory, 0.5 is what the gradient at any wrong class has that is not the predicted one). And, on
    the first data set, TRN is less than 3 points, the smallest difference that matters, below the same network with the
    oracle's map, on the mean of the five attacks.

    ``cosines`` (N,) by attack; one that fooled the classifier on too few images has none.
    """
    conditions = []
    for attack in [attack for attack in _FIVE if attack in cosines]:
        mean, n = mean_interval(cosines[attack]), int((~cosines[attack].isnan()).sum())
        conditions.append(Condition.above(f"100 × cosine, {attack}", mean, 0.5, margin=0.0, images=n))
    if "oracle map" in shares:
        pair = shares["TRN"], shares["oracle map"]
        conditions.append(Condition.compare("TRN − oracle map", *pair, -ROBUST, attacker="oblivious"))
    return conditions


@rule("TRN-4")
def exceeds_simpler_fusions(shares: Mapping[str, Tensor]) -> list[Condition]:
    """On the mean of the five attacks, made by someone who ignores the defence, TRN exceeds each of the networks that
    stack both inputs, add the streams, or mix them without the gate. Less than 3 points do not matter. On the first
    data set.
    """
    return _exceeds(shares, ("early", "sum", "concat"))


@rule("TRN-5")
def restores_unseen_attacks(replay: Results, worst: Results) -> list[Condition]:
    """As TRN-1, but the attacker who ignores the defence has each attack that training did not see: FFGSM, BIM, MIM,
    targeted PGD, APGD with two losses, Square, C&W and DeepFool. One that took less than 6 points, twice the smallest
    difference that matters, decides nothing.
    """
    unseen = [attack for attack in replay.values("attack") if attack not in ("none", *_SEEN)]
    replays = {attack: replay.select(attack=("none", attack)) for attack in unseen}
    return [*(_given_back(name, rows, _IGNORES) for name, rows in replays.items() if _fooled(rows)), _known(worst)]


@rule("TRN-6")
def benign_accuracy_stays(clean: Results) -> list[Condition]:
    """TRN loses less than 2 points of clean accuracy, twice the smallest difference that matters; the threshold is
    ours. On more images than are attacked, so that the interval can be short enough.
    """
    restored = _hits(clean, "TRN", "clean")
    bare = clean.hits(defence="none", threat="clean").expand_as(restored)
    return [Condition.compare("TRN − undefended, clean", restored, bare, -0.02, margin=CLEAN)]


@rule("TRN-7")
def generalises(settings: Mapping[str, Results], worst: Results) -> list[Condition]:
    """As TRN-1, in settings that are cases: PGD with 1.5 and with 2 times the largest eps of training; on the first
    data set, in front of each classifier that TRN was not trained with, attacked by PGD on that classifier; and an
    attacker who knows the defence, at the main eps. What the paper means by the word is not known to us.
    """
    return [*(_given_back("PGD", replay, what) for what, replay in settings.items()), _known(worst)]


@rule("TRN-8")
def a_larger_network_restores_better(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[Condition]:
    """Where a larger network was trained, it exceeds the smaller one by more than 3 points on the mean of the five
    attacks, made by someone who ignores the defence: many times the cost for less would not be worth it. How the cost
    grows is shown in tables. What the paper means by the word is not known to us.

    ``pairs`` of the larger one's and the smaller one's shares, by the two sizes.
    """
    return [Condition.compare(sizes, *pair, ROBUST, attacker="oblivious") for sizes, pair in pairs.items()]


@rule("TRN-9")
def holds_against_all_rungs(left: Mapping[str, Results]) -> list[Condition]:
    """After all that an attacker who knows the defence tries, on every rung and as one of the three attackers, TRN is
    less than 3 points, the smallest difference that matters, below the network with Fast adversarial training at the
    main eps, which is hard to bypass. Cases are the eps of the ladder. One seed.

    What they left of both, by eps.
    """
    return [_over_fast_at(worst, f"eps {eps}", -ROBUST) for eps, worst in left.items()]


@rule("TRN-10")
def exceeds_other_purifications(shares: Mapping[str, Tensor], worst: Results) -> list[Condition]:
    """Cases are two attackers. Against one who ignores the defence, on the mean of the five attacks, TRN exceeds the
    two other networks that were trained to restore: without a map, and on features as HGD is. Against one who knows it,
    at the main eps, TRN exceeds Fast adversarial training, whose other weights make it no fair opponent under the
    first. Less than 3 points do not matter. JPEG, bit depth, the median and total variation were never meant for such
    attacks: they are shown, and decide nothing. The paper's baselines are not known to us.
    """
    return [*_exceeds(shares, ("image only", "HGD-style"), _IGNORES), _over_fast_at(worst, _KNOWS)]
