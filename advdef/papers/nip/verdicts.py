"""How the claims about NIP are decided."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from advdef.claims import CLEAN, Condition, rule
from advdef.evaluation import Results
from advdef.papers.nip.repair import mean_success
from advdef.statistics import Interval, mean_interval, wilson

__all__ = [
    "BASELINES", "LABEL_FREE", "NOISE", "Named", "Shifts", "adapts_to_the_size",
    "gains_under_adaptive_attack", "leads_over_eleven_attacks", "leads_over_thirteen_attacks",
    "lowers_front_and_raises_tail", "moves_front_and_tail", "name_the_best", "restores_nearly_all",
]  # fmt: skip

LABEL_FREE = (
    "V1 self", "V2 pred", "V2 majority", "V2 mean-logit", "V2 max-confidence", "V2 self-confidence", "V3 confidence",
    "V3 recovery",
)  # fmt: skip
"""The variants of NIP that know no label, by their names on the page; each has one step.

"V1 minus" is none of them: it subtracts NIP's direction, and so weakens what NIP strengthens.
"""

NOISE = "random bank, mean-logit"
"""The control of what NIP adds: white noise in the place of its directions."""

BASELINES = (
    NOISE, "random bank, max-confidence", "scrambled bank, mean-logit", "anti-adversary", "bit depth 4", "median 2x2",
    "JPEG 75",
)  # fmt: skip
"""What NIP is compared with. Noise drawn afresh at each call, which no attacker meets twice, is in the tables alone."""

Shifts = Mapping[str, Mapping[str, Mapping[str, Tensor]]]
"""By network and attack, what :func:`advdef.papers.nip.measure.shifts_of_fooled` finds."""

Named = Mapping[str, Mapping[str, str]]
"""By network, the defences that were named on training images, by what they are: "variant", or a kind of baseline."""

_GRADIENT_FREE = ("AUNA", "Pixel", "Pointwise", "Boundary")
_SHIFT = 0.05  # of the mean activation
_KNOWS = "an attacker who knows it"


def name_the_best(scores: Mapping[str, float], fair: Collection[str]) -> dict[str, str]:
    """Which defences are judged, by their scores on training images: of equals the first.

    ``fair`` are those that cost at most one point of benign accuracy there; where none of a kind does, all count.
    """
    variants, baselines = ([k for k in group if k in fair] or group for group in (LABEL_FREE, BASELINES))
    among = {"variant": variants, "baseline of equal benign cost": baselines, "baseline at any benign cost": BASELINES}
    return {what: max(group, key=scores.__getitem__) for what, group in among.items()}


@rule("NIP-1")
def moves_front_and_tail(shifts: Shifts) -> list[Condition]:
    """Front and tail features both move further, by the mean size of their change, than random features of the middle,
    equal in number and nearly equal in activation, and further than under noise of equal length. Each image has the
    mean over the attacks that fooled it. Cases are attacks that follow the gradient and those that do not (Boundary,
    Pointwise, Pixel and AUNA, which is noise itself and meets the first control alone), and networks. Less than 5 % of
    the mean activation does not matter: no feature that moves by a twentieth of it moves strongly.
    """
    return [
        _moved(f"{part} − {control}, size", [f[f"{part}, size"] - f[f"{part}, {control}, size"] for f in given], case)
        for case, found in _kinds(shifts)
        for part, control in product(("front", "tail"), ("matched", "noise"))
        if (given := [f for f in found if f"{part}, {control}" in f])
    ]


@rule("NIP-2")
def lowers_front_and_raises_tail(shifts: Shifts) -> list[Condition]:
    """The front falls and the tail rises, and each does so by more than under either control of NIP-1, in the mean per
    image over the attacks that fooled it. Cases and margin are those of NIP-1.
    """
    conditions = []
    for case, found in _kinds(shifts):
        for part, side in (("front", "falls"), ("tail", "rises")):
            conditions.append(_moved(part, [f[part] for f in found], case, falls=side == "falls"))
            for control in ("matched", "noise"):
                if given := [f[part] - f[f"{part}, {control}"] for f in found if f"{part}, {control}" in f]:
                    conditions.append(_moved(f"{part} − {control}", given, case, falls=side == "falls"))
    return conditions


@rule("NIP-3")
def restores_nearly_all(
    repaired: Mapping[str, Results], robust: Results, benign: Mapping[str, Mapping[str, Tensor]], named: Named
) -> list[Condition]:
    """The label-free variant that scores best on training images restores at least 90 % of the images that the attack
    broke, is right on more of all images than white noise in the place of its directions (else it is not NIP's
    perturbation that does it), and costs less than 3 points of accuracy on benign test images, the smallest gain of
    robust accuracy that would count. Cases are PGD-min, which stops at the boundary, and PGD, which spends the main
    eps, both of which ignore the defence, an attacker who knows it, at half the main eps, and networks. The margins are
    3 points, and 1 point of benign accuracy.

    ``repaired`` has, by attack, rows without one and under it; ``robust`` what the adaptive attacker leaves; ``benign``
    hits (N,) on clean images by network and defence.
    """
    conditions = []
    for network, roles in named.items():
        name, clean, tried = roles["variant"], torch.empty(0), dict[tuple[str, str], list[Tensor]]()
        kept = benign[network][name], benign[network]["none"]
        for case, results in repaired.items():
            found = results.select(model=network)
            (attack,) = (attack for attack in found.values("attack") if attack != "none")
            clean = found.hits(defence="none", threat="clean")
            hits = [found.hits(defence=k, attack=attack) for k in (name, NOISE, "none")]
            tried[f"{case} that ignores it", "oblivious"] = hits
        known = robust.select(model=network)
        tried[_KNOWS, "adaptive"] = [known.hits(defence=k) for k in ("variant", NOISE, "none")]
        for (case, attacker), (right, noise, bare) in tried.items():
            where: dict[str, Any] = {"case": _on(network, case, named), "attacker": attacker}
            broken = clean[: len(bare)] & ~bare
            conditions += [
                _restored(f"restored by {name}", right[broken], **where),
                Condition.compare(f"{name} − white noise", right, noise, **where),
                Condition.compare(f"{name} − undefended, benign", *kept, -0.03, margin=CLEAN, **where),
            ]
    return conditions


@rule("NIP-4")
def adapts_to_the_size(elastic: Results, robust: Results, fixed: Mapping[str, str]) -> list[Condition]:
    """V2 by mean logit with the stability rule, which gives each image a step of its own, is right on more images than
    with the one fixed step chosen on training images, in the mean over the eps of the curve (it adapts; an eps at which
    nobody is right does not decide this alone), and than the undefended classifier at the largest eps (it is good on
    large perturbations; nothing restored there contradicts that). Cases are PGD that ignores the defence, up to twice
    the main eps, an attacker who knows it, at half the main eps and the main one, where it was tried, and networks.
    Less than 3 points do not matter.

    ``elastic`` has rows under PGD of the defences "none", "stable step" and what ``fixed`` calls the one step of a
    network; ``robust`` what the adaptive attacker leaves of "none", "V2 stable step" and "V2 mean-logit".
    """
    conditions = []
    for network, step in fixed.items():
        for case, attacker, results, stable, one in (
            ("PGD that ignores it", "oblivious", elastic.select(attack="PGD"), "stable step", step),
            (_KNOWS, "adaptive", robust, "V2 stable step", "V2 mean-logit"),
        ):
            found = results.select(model=network)
            if stable not in found.values("defence"):
                continue
            sizes = sorted(found.select(defence=stable).values("eps"))
            right = {k: torch.stack([found.hits(defence=k, eps=e) for e in sizes]) for k in (stable, one, "none")}
            where: dict[str, Any] = {"case": _on(network, case, fixed), "attacker": attacker}
            mean = right[stable].double().mean(0), right[one].double().mean(0)
            most = right[stable][-1], right["none"][-1]
            conditions += [
                Condition.compare(f"stable step − {one}, mean over eps", *mean, **where),
                Condition.compare("stable step − undefended, largest eps", *most, **where),
            ]
    return conditions


@rule("NIP-5")
def leads_over_eleven_attacks(repaired: Results, robust: Results, named: Named) -> list[Condition]:
    """The label-free variant that scores best on training images has a higher success rate than the baseline that does,
    in the mean per image over those of eleven attacks that broke it; and an attacker who knows them leaves it more
    images at half the main eps. Cases are these two attackers, networks, and the baselines: the best of those that
    cost, as the variant, at most one point of benign training accuracy, and the best at any benign cost. These two
    controls are fair in different ways. Less than 3 points do not matter.

    ``repaired`` has rows of each defence under each attack, and of "none" without one, too; ``robust`` what the
    adaptive attacker leaves of those that are ``named``.
    """
    return _lead(repaired, robust, named)


@rule("NIP-6")
def leads_over_thirteen_attacks(repaired: Results, robust: Results, named: Named) -> list[Condition]:
    """As NIP-5, but over thirteen attacks: with Square and PGD on the margin at the main eps in place of the two that
    are not known to us.
    """
    return _lead(repaired, robust, named)


@rule("NIP-9")
def gains_under_adaptive_attack(robust: Results, over_seeds: Mapping[str, tuple[Tensor, Tensor]]) -> list[Condition]:
    """At half the main eps, an attacker who knows the defence leaves more images right than of the undefended
    classifier under attack, and more than of white noise in the place of NIP's directions. Cases are the label-free
    variants and networks. For V2 by mean logit on the first network the gain over the undefended classifier is that of
    all trained networks, where there are several: its interval is for other networks and other images. Less than 3
    points do not matter.

    ``robust`` has what that attacker leaves, a row for each network and defence; ``over_seeds`` by network hits (S, N)
    of V2 and of the undefended classifier.
    """
    conditions = []
    networks = robust.values("model")
    for network in networks:
        found = robust.select(model=network)
        right = {name: found.hits(defence=name) for name in found.values("defence")}
        for name in [name for name in LABEL_FREE if name in right]:
            case = _on(network, name, networks)
            several = over_seeds.get(network) if name == "V2 mean-logit" else None
            gain = several or (right[name], right["none"])
            conditions += [
                Condition.compare(f"{name} − undefended", *gain, case=case, attacker="adaptive"),
                Condition.compare(f"{name} − white noise", right[name], right[NOISE], case=case, attacker="adaptive"),
            ]
    return conditions


def _kinds(shifts: Shifts) -> Iterator[tuple[str, list[Mapping[str, Tensor]]]]:
    """What attacks move, by the case that they belong to."""
    for network, by_attack in shifts.items():
        for case, free in (("attacks that follow the gradient", False), ("other attacks", True)):
            if found := [f for attack, f in by_attack.items() if (attack in _GRADIENT_FREE) == free]:
                yield _on(network, case, shifts), found


def _moved(what: str, changes: Sequence[Tensor], case: str, *, falls: bool = False) -> Condition:
    """The mean over attacks, on the images that all of them were tried on; NaN is an image that one did not fool."""
    fewest = min(len(change) for change in changes)
    mean = torch.stack([change[:fewest] for change in changes]).nanmean(0)
    decide = Condition.below if falls else Condition.above
    return decide(
        what, _mean(mean), margin=_SHIFT, case=case, images=int((~mean.isnan()).sum()),
        show="{:+} % of the mean activation".format,
    )  # fmt: skip


def _mean(values: Tensor) -> Interval:
    """Their mean, besides NaN; where there are fewer than two, the widest interval, as nothing is told."""
    return mean_interval(values) if int((~values.isnan()).sum()) > 1 else Interval(0.0, -1.0, 1.0)


def _restored(what: str, right: Tensor, **where: Any) -> Condition:
    """At least 90 % of the images (N,) that an attack broke; where it broke none, nothing is told."""
    if not len(right):
        return Condition(what, Interval(0.5, 0.0, 1.0), 0.9, number="the attack broke nothing", **where)
    share = wilson(int(right.sum()), len(right))
    return Condition.above(what, share, 0.9, images=len(right), show="{} %".format, **where)


def _lead(repaired: Results, robust: Results, named: Named) -> list[Condition]:
    conditions = []
    for network, roles in named.items():
        found, known = repaired.select(model=network), robust.select(model=network)
        variant, *baselines = roles.items()
        for rival, role in {k: role for role, k in reversed(baselines)}.items():
            what = f"{variant[1]} − {rival}"
            ignoring, knowing = (
                _on(network, f"{role} under {who}", named) for who in ("attacks that ignore it", _KNOWS)
            )
            lead = mean_success(found, variant[1]) - mean_success(found, rival)
            images, hits = int((~lead.isnan()).sum()), (known.hits(defence="variant"), known.hits(defence=role))
            conditions += [
                Condition.above(what, _mean(lead), case=ignoring, attacker="oblivious", images=images),
                Condition.compare(what, *hits, case=knowing, attacker="adaptive"),
            ]
    return conditions


def _on(network: str, case: str, networks: Sequence[str] | Mapping[str, object]) -> str:
    """The name of a case, with the network where there are several."""
    return case if len(networks) == 1 else f"{case} ({network})"
