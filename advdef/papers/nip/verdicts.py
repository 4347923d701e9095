"""How the claims about NIP are decided."""

from collections.abc import Mapping, Sequence
from itertools import product

from torch import Tensor

from advdef.claims import Condition, rule
from advdef.evaluation import Results
from advdef.papers.nip.repair import mean_success, success
from advdef.statistics import Interval, mean_interval, paired_difference

__all__ = [
    "LABEL_FREE",
    "Fair",
    "Shifts",
    "adapts_to_the_size",
    "gains_under_adaptive_attack",
    "leads_over_eleven_attacks",
    "leads_over_thirteen_attacks",
    "lowers_front_and_raises_tail",
    "moves_front_and_tail",
    "restores_nearly_all",
]

Shifts = Mapping[str, Mapping[str, Mapping[str, Tensor]]]
"""By network and attack, what :func:`advdef.papers.nip.measure.front_and_tail_shifts` finds, (N,) each."""
LABEL_FREE = (
    "V1 self", "V1 minus", "V2 pred", "V2 majority", "V2 mean-logit", "V2 max-confidence", "V2 self-confidence",
    "V3 confidence", "V3 recovery",
)  # fmt: skip
"""The variants that know no label, by their names on the page; each has one step."""

Fair = Mapping[str, Sequence[str]]
"""By network, the defences that cost at most one point on benign training images."""


@rule("NIP-1")
def moves_front_and_tail(shifts: Shifts) -> list[Condition]:
    """For each network, front and tail features: in at least nine of ten attacks (the eleven, PGD-min, and FGSM and PGD
    with the main eps, where they fool enough images), the mean size of their change exceeds that of random features of
    the middle, equal in number and nearly equal in activation, and that under noise of equal length (95 % intervals
    over images above zero; AUNA, noise itself, meets the first control alone).
    """

    def margins(found: Mapping[str, Tensor], part: str) -> list[Tensor]:
        return [found[f"{part}, size"] - found[f"{control}, size"] for control in _controls(found, part)]

    return [
        _in_most(f"{network}, {part} moves more than both controls", [margins(f, part) for f in by_attack.values()])
        for network, by_attack in shifts.items()
        for part in ("front", "tail")
    ]


@rule("NIP-2")
def lowers_front_and_raises_tail(shifts: Shifts) -> list[Condition]:
    """For each network, in at least nine of ten of the same attacks: the front falls, and the tail rises, on average
    and by more than under either control (95 % intervals over images above zero).
    """

    def margins(found: Mapping[str, Tensor], part: str, sign: int) -> list[Tensor]:
        own = found[part]
        return [sign * own, *(sign * (own - found[control]) for control in _controls(found, part))]

    return [
        _in_most(f"{network}, {what} more than both controls", [margins(f, part, sign) for f in by_attack.values()])
        for network, by_attack in shifts.items()
        for part, sign, what in (("front", -1, "front falls"), ("tail", 1, "tail rises"))
    ]


@rule("NIP-3")
def restores_nearly_all(repaired: Mapping[str, Results], fair: Fair) -> list[Condition]:
    """For each network, for PGD-min and for PGD with the main eps, steps chosen on training images (at most one point
    of benign accuracy): the best label-free variant of that cost restores at least 90 % of the fooled images, is right
    on more images than the best baseline of that cost (paired 95 % interval above zero), and keeps benign test accuracy
    (interval above -3 points).

    ``repaired`` has, by attack with its eps, rows of each defence without an attack and under that one.
    """
    conditions = []
    for (network, defences), (case, results) in product(fair.items(), repaired.items()):
        found = results.select(model=network)
        (attack,) = (attack for attack in found.values("attack") if attack != "none")
        right = {name: found.hits(defence=name, attack=attack) for name in defences}
        best, rival = _best({name: int(hits.sum()) for name, hits in right.items()})
        restored, lead = success(found, best, attack), paired_difference(right[best], right[rival])
        kept = paired_difference(*(found.hits(defence=name, threat="clean") for name in (best, "none")))
        holds = restored is not None and restored.value >= 0.9 and lead.low > 0 and kept.low > -0.03
        number = f"restores {restored} %, {lead:+} points against {rival}, benign {kept:+}"
        conditions.append(Condition(f"{network}, {case}, {best}", holds, number))
    return conditions


@rule("NIP-4")
def adapts_to_the_size(right: Mapping[str, Results], fixed: Mapping[str, str]) -> list[Condition]:
    """For each network, under PGD with the main eps and with twice that: V2 by mean logit with the stability rule is
    right on more images than the undefended classifier, and than with the one fixed step chosen on training images
    (paired 95 % intervals above zero).

    ``right`` has, by eps, rows without an attack and under PGD with that eps, of the defences "none", "stable step" and
    what ``fixed`` calls the one step of a network.
    """
    conditions = []
    for (network, step), (eps, results) in product(fixed.items(), right.items()):
        found = results.select(model=network)
        intervals = [found.interval(defence=name, threat="clean") for name in ("stable step", step)]
        benign = " and ".join(f"{100 * interval.value:.1f}" for interval in intervals)
        stable, *others = (found.hits(defence=name, attack="PGD") for name in ("stable step", "none", step))
        gain, lead = (paired_difference(stable, hits) for hits in others)
        number = f"{gain:+} against undefended, {lead:+} against {step} (benign {benign} %)"
        conditions.append(Condition(f"{network}, eps {eps}", gain.low > 0 and lead.low > 0, number))
    return conditions


@rule("NIP-5")
def leads_over_eleven_attacks(repaired: Results, fair: Fair) -> list[Condition]:
    """For each network, over the eleven attacks: the success rate of the best label-free variant exceeds that of the
    best baseline, both among those that cost at most one point on benign training images (paired 95 % interval over
    images above zero).

    ``repaired`` has rows of each defence under each attack, and of "none" without one, too.
    """
    return _lead(repaired, fair)


@rule("NIP-6")
def leads_over_thirteen_attacks(repaired: Results, fair: Fair) -> list[Condition]:
    """As C5, with Square and PGD on the margin at the main eps in place of the two attacks that are not known to us."""
    return _lead(repaired, fair)


@rule("NIP-9")
def gains_under_adaptive_attack(robust: Results, over_seeds: Mapping[str, Interval]) -> list[Condition]:
    """For each network, at half the main eps: each label-free variant that meets the adaptive attacker is right on more
    images than the undefended classifier under attack, and than a bank of white noise decided by mean logit (paired
    95 % intervals over images above zero); on the first data set also V2 by mean logit against the undefended
    classifier, over all seeds.

    ``robust`` has what that attacker leaves, a row for each network and defence, where the white noise may be missing;
    ``over_seeds`` has the gain of V2 by network.
    """
    conditions = []
    for network in robust.values("model"):
        found = robust.select(model=network)
        right = {name: found.hits(defence=name) for name in found.values("defence")}
        others = [name for name in ("none", "random bank, mean-logit") if name in right]
        for name in [name for name in LABEL_FREE if name in right]:
            gains = {other: paired_difference(right[name], right[other]) for other in others}
            number = ", ".join(f"{gain:+} against {other}" for other, gain in gains.items())
            conditions.append(Condition(f"{network}, {name}", all(gain.low > 0 for gain in gains.values()), number))
    return conditions + [
        Condition.above(f"{network}, V2 mean-logit − undefended, adaptive, over seeds", gain, 0.0)
        for network, gain in over_seeds.items()
    ]


def _controls(found: Mapping[str, Tensor], part: str) -> list[str]:
    """The controls of a part that were measured: no noise in [0, 1] is as long as some perturbations."""
    return [name for name in (f"{part}, matched", f"{part}, noise") if name in found]


def _in_most(what: str, margins: list[list[Tensor]]) -> Condition:
    """In at least nine of ten attacks all margins (N,) are above zero, by 95 % intervals over images."""
    good = sum(all(mean_interval(margin).low > 0 for margin in of_attack) for of_attack in margins)
    return Condition(what, bool(margins) and good >= 0.9 * len(margins), f"{good} of {len(margins)} attacks")


def _best(scores: Mapping[str, float]) -> tuple[str, str]:
    """The best of the variants and the best of the other defences, by their names; of equals the first."""
    best, rival = (
        max((n for n in scores if (n in LABEL_FREE) == mine), key=scores.__getitem__) for mine in (True, False)
    )
    return best, rival


def _lead(repaired: Results, fair: Fair) -> list[Condition]:
    conditions = []
    for network, defences in fair.items():
        rates = {name: mean_success(repaired.select(model=network), name) for name in defences}
        best, rival = _best({name: rate.nanmean().item() for name, rate in rates.items()})
        lead = mean_interval(rates[best] - rates[rival])
        conditions.append(Condition.above(f"{network}, best variant ({best}) − best baseline ({rival})", lead, 0.0))
    return conditions
