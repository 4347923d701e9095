"""Sanity checks of an evaluation: does the defence mask gradients, was the attack a converged white-box attack?

Each check names its criterion and its source. They are necessary at best, never sufficient: a row of passes is no
certificate (Carlini et al., https://arxiv.org/abs/1902.06705).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from advdef.attacks._common import borrowed
from advdef.attacks.gradient import pgd
from advdef.attacks.losses import LOSSES
from advdef.attacks.square import square
from advdef.defenses.base import Defense
from advdef.evaluation import Attempt, Outcome, evaluate

__all__ = [
    "Check",
    "beats_gradient_free",
    "beats_one_step",
    "beats_transfer",
    "deterministic",
    "gives_logits",
    "masking_checks",
    "nonzero_gradient",
    "unbounded_attack_wins",
]


@dataclass(frozen=True)
class Check:
    """One result: "pass" is as an honest white-box evaluation should look, "fire" needs an explanation."""

    id: str
    title: str
    status: Literal["pass", "fire", "not run"]
    detail: str


def _check(id: str, title: str, passed: bool, detail: str) -> Check:
    return Check(id, title, "pass" if passed else "fire", detail)


def deterministic(defence: Defense, images: Tensor) -> Check:
    """B2: five passes agree (L2 distance of normalised logits at most 1e-4; AutoAttack, ``check_randomized``)."""
    with borrowed(defence), torch.no_grad():
        passes = torch.stack([F.normalize(defence(images), dim=1) for _ in range(5)])
    worst = float((passes - passes[0]).norm(dim=2).max())
    return _check("B2", "deterministic", worst <= 1e-4, f"differ by {worst:.0e}")


def gives_logits(defence: Defense, images: Tensor) -> Check:
    """B3: the output is not a probability vector (AutoAttack, ``check_range_output``)."""
    with borrowed(defence), torch.no_grad():
        output = defence(images)
    sums_to_one = bool(((output.sum(1) - 1).abs() < 1e-4).all())
    probabilities = float(output.min()) > -1e-5 and float(output.max()) < 1 + 1e-5 and sums_to_one
    return _check(
        "B3", "gives logits", not probabilities, f"range {float(output.min()):.1f} to {float(output.max()):.1f}"
    )


def nonzero_gradient(defence: Defense, images: Tensor, labels: Tensor) -> Check:
    """B5: no image has an all-zero or non-finite input gradient, for cross-entropy and margin (RobustBench, rule 1)."""
    shares = {}
    with borrowed(defence):
        for name in ("ce", "margin"):
            point = images.clone().requires_grad_()
            value = LOSSES[name](defence(point), labels).sum()
            gradient = None
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
            size = torch.zeros(len(images)) if gradient is None else gradient.abs().sum((1, 2, 3))
            shares[name] = float(((size == 0) | ~size.isfinite()).float().mean())
    detail = "none for " + ", ".join(f"{100 * share:.0f} % ({name})" for name, share in shares.items())
    return _check("B5", "gradient is not zero", max(shares.values()) == 0, detail)


def beats_one_step(direct: Outcome, *, one_step: str = "FGSM", iterative: str = "PGD") -> Check:
    """C1: the iterative attack leaves no more images than one step does (https://arxiv.org/abs/1802.00420)."""
    many, one = (int(direct.survivors(name).sum()) for name in (iterative, one_step))
    return _check("C1", "iterative beats one step", many <= one, f"{iterative} leaves {many}, {one_step} {one}")


def unbounded_attack_wins(
    defence: Defense, images: Tensor, labels: Tensor, *, classes: int, generator: torch.Generator, steps: int = 20
) -> Check:
    """C6: with eps = 1 a white-box attack leaves at most chance (Carlini et al. 2019; ART's security curve)."""
    attempt = Attempt("PGD eps=1", partial(pgd, steps=steps, stop_early=True), defence)
    left = evaluate(defence, [attempt], images, labels, eps=1.0, generator=generator).robust.float().mean().item()
    return _check("C6", "unbounded attack wins", left <= 1 / classes, f"{100 * left:.0f} % left at eps 1")


def beats_gradient_free(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    direct: Outcome,
    generator: torch.Generator,
    queries: int = 200,
) -> Check:
    """C7: Square breaks at most 0.2 points of what gradients left (AutoAttack, ``check_square_sr``)."""
    attempt = Attempt("Square", partial(square, queries=queries), defence)
    after = evaluate(defence, [attempt], images, labels, eps=direct.eps, generator=generator, known=direct)
    extra = int(direct.robust.sum() - after.robust.sum())
    return _check("C7", "white box beats gradient-free", extra <= 0.002 * len(images), f"Square alone broke {extra}")


def beats_transfer(direct: Outcome, oblivious: Outcome) -> Check:
    """C9: nothing is broken by replayed examples that direct access could not break (Carlini et al. 2019)."""
    extra = int((direct.robust & ~oblivious.robust).sum())
    return _check("C9", "white box beats transfer", extra == 0, f"replay alone broke {extra}")


def masking_checks(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    single: Outcome,
    direct: Outcome,
    oblivious: Outcome,
    generator: torch.Generator,
) -> list[Check]:
    """The row for one defence under direct attack: where something fires, the direct number means nothing.

    ``single`` is an exhaustive direct outcome, in which FGSM and PGD saw every image; ``direct`` and ``oblivious`` are
    the outcomes on ``images`` whose worst cases are compared.
    """
    return [
        deterministic(defence, images),
        gives_logits(defence, images),
        nonzero_gradient(defence, images, labels),
        beats_one_step(single),
        unbounded_attack_wins(defence, images, labels, classes=classes, generator=generator),
        beats_gradient_free(defence, images, labels, direct=direct, generator=generator),
        beats_transfer(direct, oblivious),
    ]
