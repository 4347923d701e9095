"""How the claims about NIP are decided."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

from advdef.claims import Condition, rule
from advdef.papers.nip.repair import Repair
from advdef.statistics import Interval, mean_interval, paired_difference

__all__ = [
    "LABEL_FREE",
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

Rates = Mapping[str, Mapping[str, Tensor]]
"""By network and defence, the success rate of each image (N,), NaN where no attack fooled the classifier on it."""

Result = TypeVar("Result")


@rule("nip-C1")
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


@rule("nip-C2")
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


@rule("nip-C3")
def restores_nearly_all(repaired: Mapping[str, Mapping[str, Repair]]) -> list[Condition]:
    """For each network, for PGD-min and for PGD with the main eps, steps chosen on training images (at most one point
    of benign accuracy): the best label-free variant of that cost restores at least 90 % of the fooled images, is right
    on more images than the best baseline of that cost (paired 95 % interval above zero), and keeps benign test accuracy
    (interval above -3 points).

    ``repaired`` has, by case ("network, attack"), what each defence of that cost makes of the same images.
    """
    conditions = []
    for case, found in repaired.items():
        best, rival = _best(found, lambda result: int(result.defended.sum()))
        ours = found[best]
        lead = paired_difference(ours.defended, found[rival].defended)
        kept = paired_difference(ours.benign, ours.clean)
        holds = ours.dsr is not None and ours.dsr.value >= 0.9 and lead.low > 0 and kept.low > -0.03
        number = f"restores {ours.dsr} %, {lead:+} points against {rival}, benign {kept:+}"
        conditions.append(Condition(f"{case}, {best}", holds, number))
    return conditions


@rule("nip-C4")
def adapts_to_the_size(
    right: Mapping[str, Mapping[str, Mapping[str, Tensor]]], fixed: Mapping[str, str]
) -> list[Condition]:
    """For each network, under PGD with the main eps and with twice that: V2 by mean logit with the stability rule is
    right on more images than the undefended classifier, and than with the one fixed step chosen on training images
    (paired 95 % intervals above zero).

    ``right`` has hits (N,) by network, eps ("0": benign) and defence: "none", "stable step" and what ``fixed`` calls
    the one step of that network.
    """
    conditions = []
    for network, by_eps in right.items():
        step = fixed[network]
        benign = " and ".join(f"{100 * by_eps['0'][k].float().mean():.1f}" for k in ("stable step", step))
        for eps, hits in by_eps.items():
            if eps != "0":
                gain, lead = (paired_difference(hits["stable step"], hits[k]) for k in ("none", step))
                number = f"{gain:+} against undefended, {lead:+} against {step} (benign {benign} %)"
                conditions.append(Condition(f"{network}, eps {eps}", gain.low > 0 and lead.low > 0, number))
    return conditions


@rule("nip-C5")
def leads_over_eleven_attacks(rates: Rates) -> list[Condition]:
    """For each network, over the eleven attacks: the success rate of the best label-free variant exceeds that of the
    best baseline, both among those that cost at most one point on benign training images (paired 95 % interval over
    images above zero).
    """
    return _lead(rates)


@rule("nip-C6")
def leads_over_thirteen_attacks(rates: Rates) -> list[Condition]:
    """As C5, with Square and PGD on the margin at the main eps in place of the two attacks that are not known to us."""
    return _lead(rates)


@rule("nip-C9")
def gains_under_adaptive_attack(
    robust: Mapping[str, Mapping[str, Tensor]], over_seeds: Mapping[str, Interval]
) -> list[Condition]:
    """For each network, at half the main eps: each label-free variant that meets the adaptive attacker is right on more
    images than the undefended classifier under attack, and than a bank of white noise decided by mean logit (paired
    95 % intervals over images above zero); on the first data set also V2 by mean logit against the undefended
    classifier, over all seeds.

    ``robust`` has hits (N,) by network and defence, where the white noise may be missing; ``over_seeds`` has the gain
    of V2 by network.
    """
    conditions = []
    for network, found in robust.items():
        others = {name: found[name] for name in ("none", "random bank, mean-logit") if name in found}
        for name in [name for name in LABEL_FREE if name in found]:
            gains = {other: paired_difference(found[name], hits) for other, hits in others.items()}
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


def _best(found: Mapping[str, Result], score: Callable[[Result], float]) -> tuple[str, str]:
    """The best of the variants and the best of the other defences, by their names; of equals the first."""
    ranked = sorted(found, key=lambda name: -score(found[name]))
    return next(n for n in ranked if n in LABEL_FREE), next(n for n in ranked if n not in LABEL_FREE)


def _lead(rates: Rates) -> list[Condition]:
    conditions = []
    for network, found in rates.items():
        best, rival = _best(found, lambda rate: rate.nanmean().item())
        lead = mean_interval(found[best] - found[rival])
        conditions.append(Condition.above(f"{network}, best variant ({best}) − best baseline ({rival})", lead, 0.0))
    return conditions
