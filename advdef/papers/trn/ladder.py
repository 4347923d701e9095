"""A ladder of ten rungs: attacks on a defence that restores images, from one that ignores it to those made for it."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from torch import nn

from advdef.attacks.attack import Suite
from advdef.attacks.auto_pgd import apgd
from advdef.attacks.composed import each_class, warm_started
from advdef.attacks.gradient import pgd
from advdef.attacks.libraries.pyautoattack import square
from advdef.attacks.noise import uniform_noise
from advdef.attacks.suites import stopping
from advdef.defenses.base import Defense
from advdef.evaluation import Attempt, Threat
from advdef.papers.trn.defence import Restoration
from advdef.papers.trn.maps import GradientMap

__all__ = ["RUNGS", "ladder", "rung_attacker"]

RUNGS: Mapping[str, str] = {
    "R0": "oblivious: PGD on the bare classifier",
    "R1": "BPDA: the restoration's gradient is taken for the identity",
    "R2": "the map, made anew at each step, is a constant of the gradient",
    "R3": "end to end, through the classifier's second derivatives",
    "R4": "end to end, with the map's gradient from a smooth twin of the classifier",
    "R5": "other losses: the margin, DLR, and the margin towards single classes",
    "R6": "the bare classifier is kept right, so that the map looks like a clean image's",
    "R7": "APGD with two losses, and PGD from what R0 and R1 end at",
    "R8": "transfer: what fools relatives of the defence",
    "R9": "without a gradient: Square, and uniform noise",
}


def ladder(
    defence: Defense,
    *,
    eps: float,
    steps: int = 100,
    restarts: int = 5,
    classes: int = 9,
    queries: int = 5000,
    twin: nn.Module | None = None,
    transfer: Mapping[str, nn.Module] | None = None,
) -> dict[str, list[Attempt]]:
    """The attempts of each rung, by its name; ``RUNGS`` says what each rung is. All attacks are in Linf.

    Rungs that make no sense for a defence are left out: without restoration there is no R1, without maps R2 is plain
    autograd. R5 and R7 climb the same model as R2; where autograd finds no gradient in that, as in JPEG, look at R1.
    Attacks on models with the defence's own values stop at their first success.

    Args:
        defence: What is attacked.
        eps: The budget, which the defence's own attacks may depend on.
        steps: Steps of every attack with a gradient.
        restarts: Restarts of APGD (R7).
        classes: Wrong classes that R5 aims at in turn.
        queries: Queries of Square (R9), which needs the extra ``eval``.
        twin: Makes maps like the defence's, of a smooth twin of its classifier (R4; for gradient maps alone).
        transfer: Relatives of the defence, by name, which R8 attacks in its stead.
    """
    surrogates = defence.surrogates()
    mapped = surrogates.get("detached map")
    through, ce = mapped or defence, partial(pgd, steps=steps)

    def on(target: nn.Module, attacks: Suite) -> list[Attempt]:
        return [Attempt(name, attack, target) for name, attack in stopping(attacks).items()]

    one = {"PGD": ce}
    starts: dict[str, nn.Module] = {"R0": defence.classifier}
    rungs = {"R0": [Attempt("PGD", ce, defence.classifier)]}
    if "straight-through" in surrogates:
        starts["R1"] = surrogates["straight-through"]
        rungs["R1"] = on(starts["R1"], {"PGD": ce, "PGD, margin": partial(pgd, steps=steps, loss="margin")})
    rungs["R2"] = on(through, one)
    if mapped is not None:
        rungs["R3"] = on(defence, one)
    if twin is not None and isinstance(defence, Restoration) and isinstance(defence.maps, GradientMap):
        rungs["R4"] = on(defence.through(twin), one)
    towards: Any = partial(each_class, attack=partial(pgd, steps=steps, loss="margin"), classes=classes)
    losses = {f"PGD, {loss}": partial(pgd, steps=steps, loss=loss) for loss in ("margin", "dlr")}
    rungs["R5"] = on(through, {**losses, f"PGD, margin towards {classes}": towards})
    own = {name: partial(attack, steps=steps) for name, attack in defence.adaptive_attacks(eps).items()}
    if own:
        rungs["R6"] = [Attempt(name, attack, defence) for name, attack in own.items()]
    strong = {f"APGD, {loss}": partial(apgd, steps=steps, restarts=restarts, loss=loss) for loss in ("ce", "dlr")}
    begun = partial(pgd, steps=steps, loss="margin", stop_early=True)
    rungs["R7"] = on(through, strong) + [
        Attempt(f"PGD, margin from {rung}", partial(warm_started, source=source, first=ce, attack=begun), through)
        for rung, source in starts.items()
    ]
    if transfer:
        rungs["R8"] = [Attempt(f"PGD from {label}", ce, model) for label, model in transfer.items()]
    gradient_free = {"noise": partial(uniform_noise), f"Square-{queries}": partial(square, queries=queries)}
    rungs["R9"] = on(defence, gradient_free)
    return rungs


def rung_attacker(rung: str, rungs: Collection[str]) -> Threat:
    """Which of the three attackers a rung belongs to; ``rungs`` are all that a defence has.

    R0 ignores the defence and is oblivious. R3, plain autograd, is direct; without R3, as there is no map, R2 is.
    """
    if rung == "R0":
        return "oblivious"
    return "direct" if rung == ("R3" if "R3" in rungs else "R2") else "adaptive"
