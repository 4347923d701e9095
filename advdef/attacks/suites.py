"""Suites: named sets of configured attacks, cheap ones first. An attack is a partial; its keywords are its settings."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advdef.attacks.adaptive_steps import sa_pgd
from advdef.attacks.attack import Attack, Suite
from advdef.attacks.auto_pgd import apgd
from advdef.attacks.composed import each_class, minimal
from advdef.attacks.gradient import bim, fgsm, mim, pgd
from advdef.attacks.libraries.foolbox import boundary, deepfool, pointwise
from advdef.attacks.libraries.pyautoattack import square
from advdef.attacks.noise import uniform_noise
from advdef.attacks.sparse import jsma, single_pixel
from advdef.attacks.universal_perturbation import universal
from advdef.norms import BallNorm

__all__ = [
    "Attack",
    "Suite",
    "SuiteName",
    "cleverhans",
    "nip",
    "quick",
    "standard",
    "stopping",
    "strong",
    "suite",
    "thorough",
]

SuiteName = Literal["quick", "standard", "strong", "thorough", "cleverhans", "nip"]

_STOPPABLE = (apgd, bim, each_class, mim, pgd, sa_pgd, uniform_noise)


def suite(name: SuiteName) -> Suite:
    """A suite by its name, with default settings; raises ValueError for an unknown name.

    >>> list(suite("quick"))
    ['FGSM', 'PGD-20 CE', 'PGD-20 margin']
    """
    if name not in _SUITES:
        raise ValueError(f"no suite {name!r}; there are {', '.join(get_args(SuiteName))}")
    return _SUITES[name]()


def quick(*, norm: BallNorm = "Linf") -> Suite:
    """FGSM, and PGD with two losses: for a first look, not for a verdict."""
    return {
        "FGSM": partial(fgsm, norm=norm),
        "PGD-20 CE": partial(pgd, norm=norm),
        "PGD-20 margin": partial(pgd, norm=norm, loss="margin"),
    }


def standard(*, norm: BallNorm = "Linf", steps: int = 100, restarts: int = 1, queries: int = 500) -> Suite:
    """What every defence should face: two short attacks, three of Auto-PGD, and Square, which needs no gradient.

    In the spirit of AutoAttack (https://arxiv.org/abs/2003.01690), but in another order and without FAB: the short
    attacks break what is easy, so that the expensive ones see few images. The targeted DLR loss needs at least four
    classes; the margin takes its place where there are fewer. Square needs the extra ``eval``; ``queries=0`` leaves it
    out.
    """
    found = {
        "FGSM": partial(fgsm, norm=norm),
        "PGD-20 margin": partial(pgd, norm=norm, loss="margin"),
        f"APGD-{steps} CE": partial(apgd, norm=norm, steps=steps, restarts=restarts),
        f"APGD-{steps} DLR towards 9": partial(
            each_class, attack=partial(apgd, norm=norm, steps=steps, restarts=restarts, loss="dlr")
        ),
        f"APGD-{steps} margin towards 3": partial(
            each_class, attack=partial(apgd, norm=norm, steps=steps, restarts=restarts, loss="margin"), classes=3
        ),
    }
    return found | ({f"Square-{queries}": partial(square, norm=norm, queries=queries)} if queries else {})


def strong(*, norm: BallNorm = "Linf", steps: int = 100, restarts: int = 5) -> Suite:
    """For the surrogates of a defence, whose gradient may be rough: PGD and APGD, each with CE and with the margin."""
    return {
        f"PGD-{steps} CE": partial(pgd, norm=norm, steps=steps, restarts=restarts),
        f"PGD-{steps} margin": partial(pgd, norm=norm, steps=steps, restarts=restarts, loss="margin"),
        f"APGD-{steps} CE": partial(apgd, norm=norm, steps=steps, restarts=restarts),
        f"APGD-{steps} margin": partial(apgd, norm=norm, steps=steps, restarts=restarts, loss="margin"),
    }


def thorough(*, norm: BallNorm = "Linf", steps: int = 100, restarts: int = 5) -> Suite:
    """For the few images that :func:`strong` left nearest to breaking: what else an expert would try, and for longer.

    Auto-PGD towards every class (the nine nearest ones, where there are more), and from several starts with two losses;
    and PGD with momentum and steps of a quarter of eps that do not shrink.
    """
    ascent = partial(apgd, norm=norm, steps=steps)
    starts = f"{restarts} start{'s' * (restarts > 1)}"
    return {
        f"APGD-{steps} margin towards 9": partial(each_class, attack=partial(ascent, loss="margin"), order="malt"),
        f"APGD-{steps} CE, {starts}": partial(ascent, restarts=restarts),
        f"APGD-{steps} DLR, {starts}": partial(ascent, restarts=restarts, loss="dlr"),
        f"PGD-{steps} margin in large steps, {starts}": partial(
            pgd, norm=norm, steps=steps, restarts=restarts, loss="margin", momentum=1.0, step_size=0.25
        ),
    }


def cleverhans(*, norm: BallNorm = "Linf") -> Suite:
    """FGSM, BIM, MIM and PGD with the defaults of Cleverhans v3.0.1, with steps relative to eps."""
    return {
        "FGSM": partial(fgsm, norm=norm),
        "BIM": partial(bim, norm=norm),
        "MIM": partial(mim, norm=norm),
        "PGD": partial(pgd, norm=norm, steps=10, step_size=1 / 6),
    }


def nip(*, trials: int = 20, levels: int = 1000, universal_eps: float = 10 / 255, boundary_steps: int = 5000) -> Suite:
    """The eleven attacks that code by the authors of NIP lists, close to the defaults of Foolbox 2.3.0.

    Most look for the smallest perturbation, each in its own norm: evaluate them with ``eps=float("inf")``. DeepFool,
    Pointwise and Boundary need the extra ``eval``. Where they differ from Foolbox 2: the bisection begins with the
    whole range (there with 0.3); the budgets tried upwards are not refined afterwards; JSMA has no limit of steps
    (there 2,000, and 7 for a pixel); and the universal perturbation, whose budget is our choice and which depends on
    the batch, is not there at all.

    Args:
        trials: Halvings of eps for BIM, MI-FGSM and PGD.
        levels: Budgets that FGSM and the noise try upwards.
        universal_eps: Linf budget of the universal perturbation.
        boundary_steps: Steps of the Boundary attack.
    """

    def closest(attack: Attack) -> Attack:
        return partial(minimal, attack=attack, trials=trials)

    return {
        "FGSM": partial(minimal, attack=partial(fgsm), search="upwards", trials=levels),
        "BIM": closest(partial(bim, steps=10, step_size=0.05 / 0.3, stop_early=True)),
        "MI-FGSM": closest(partial(mim, steps=10, step_size=0.06 / 0.3, stop_early=True)),
        "PGD": closest(partial(pgd, steps=40, step_size=0.01 / 0.3, stop_early=True)),
        "DeepFool": partial(deepfool, steps=100),
        "JSMA": partial(jsma, theta=0.1),
        "UAP": partial(at_most, attack=partial(universal), largest=universal_eps),
        "AUNA": partial(minimal, attack=partial(uniform_noise, draws=1), search="upwards", trials=levels),
        "Pixel": partial(single_pixel, pixels=1000),
        "Pointwise": partial(pointwise),
        "Boundary": partial(boundary, steps=boundary_steps),
    }


def at_most(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    attack: Attack,
    largest: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run ``attack`` at eps, but at most at ``largest``: for one that needs a finite budget in an unbounded run.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: The budget in the norm of ``attack``: one number. Infinity is allowed.
        attack: The attack that is run.
        largest: The largest budget that it gets.
        generator: Source of all random numbers. Default: torch's own.
    """
    return attack(model, images, labels, eps=min(eps, largest), generator=generator)


def stopping(suite: Suite) -> Suite:
    """The same attacks with ``stop_early``: they leave an image alone once the attacked model misclassifies it.

    Use it where success is judged on the attacked model itself, so that a larger margin gains nothing.
    """
    return {
        name: partial(attack, stop_early=True) if attack.func in _STOPPABLE else attack
        for name, attack in suite.items()
    }


_SUITES: Mapping[SuiteName, Callable[[], Suite]] = {
    "quick": quick,
    "standard": standard,
    "strong": strong,
    "thorough": thorough,
    "cleverhans": cleverhans,
    "nip": nip,
}
