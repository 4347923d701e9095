"""The attacks of the page on NIP, its three attackers, who have one suite, and six tests of whether they work."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advdef.attacks import apgd, fgsm, mim, minimal, pgd, square
from advdef.attacks.attack import Attack, Suite
from advdef.defenses.base import Defense
from advdef.defenses.transforms import Preprocessed
from advdef.evaluation import Attempt, Outcome, Threat, adaptive, direct, evaluate, evaluate_curve, oblivious

__all__ = ["fixed_suite", "pgd_min", "six_tests", "suite_of", "threat_curves", "three_threats"]


def pgd_min(*, trials: int, steps: int) -> Attack:
    """PGD with the smallest eps that fools the classifier, found in so many halvings; it stops on the boundary."""
    return partial(minimal, attack=partial(pgd, steps=steps, stop_early=True), trials=trials)


def fixed_suite(*, steps: int, queries: int) -> Suite:
    """Attacks that use all of their budget and go past the boundary."""
    return {
        "FGSM": partial(fgsm),
        "PGD": partial(pgd, steps=steps),
        "MI-FGSM, fixed": partial(mim, steps=steps),
        "PGD, margin": partial(pgd, steps=steps, loss="margin"),
        "APGD": partial(apgd, steps=steps),
        "APGD, DLR": partial(apgd, steps=steps, loss="dlr"),
        "Square": partial(square, queries=queries),
    }


def suite_of(steps: int) -> Suite:
    """What all three attackers run: PGD on the cross-entropy, and APGD on the margin."""
    return {"PGD": partial(pgd, steps=steps), "APGD, margin": partial(apgd, steps=steps, loss="margin")}


def threat_curves(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    budgets: Sequence[float],
    steps: int,
    seed: int,
    extra: Suite | None = None,
    resume: Path | None = None,
) -> dict[Threat, dict[float, Outcome]]:
    """Outcomes by attacker and eps (Linf) on images (N, C, H, W) with labels (N,); the adaptive one knows the others'.

    ``steps`` are those of each attack, ``extra`` further attacks of the adaptive attacker. All three start from the
    same ``seed``. In the folder ``resume`` what is finished is kept.
    """
    suite = suite_of(steps)
    plans: dict[Threat, dict[float, list[Attempt]]] = {
        "oblivious": {eps: oblivious(defence, suite) for eps in budgets},
        "direct": {eps: direct(defence, suite) for eps in budgets},
        "adaptive": {eps: adaptive(defence, suite, eps=eps, steps=steps, extra=extra) for eps in budgets},
    }
    found: dict[Threat, dict[float, Outcome]] = {}
    for threat, plan in plans.items():
        known = list(found.values()) if threat == "adaptive" else ()
        generator = torch.Generator().manual_seed(seed)
        found[threat] = evaluate_curve(defence, plan, images, labels, generator=generator, known=known, resume=resume)
    return found


def three_threats(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    seed: int,
    extra: Suite | None = None,
    resume: Path | None = None,
) -> dict[Threat, Outcome]:
    """Outcomes by attacker at one eps; see :func:`threat_curves`."""
    found = threat_curves(defence, images, labels, budgets=(eps,), steps=steps, seed=seed, extra=extra, resume=resume)
    return {threat: curve[eps] for threat, curve in found.items()}


def six_tests(
    defence: Defense,
    unstepped: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    huge: float,
    steps: tuple[int, int],
    queries: int,
    seed: int,
    resume: Path | None = None,
) -> dict[str, tuple[bool, str]]:
    """What must hold if the attacks on a defence work: name -> whether it does, and the numbers.

    Args:
        defence: With a surrogate "straight-through".
        unstepped: The same with step 0, which must be the classifier.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        eps: The budget of the tests, in Linf.
        huge: A budget that must leave nothing.
        steps: A few, for most tests, and many.
        queries: Queries of the Square attack.
        seed: Of every attack.
        resume: A folder that keeps what is finished.
    """
    few, many = steps
    through = defence.surrogates()["straight-through"]

    def left(attempts: list[Attempt], size: float = eps) -> float:
        generator = torch.Generator().manual_seed(seed)
        outcome = evaluate(defence, attempts, images, labels, eps=size, generator=generator, resume=resume)
        return outcome.robust.float().mean().item()

    def straight(number: int) -> list[Attempt]:
        return [Attempt("PGD", partial(pgd, steps=number, stop_early=True), through)]

    whitebox = left(adaptive(defence, suite_of(few), eps=eps, steps=few))
    replayed = left(oblivious(defence, suite_of(few)))
    blackbox = left([Attempt("Square", partial(square, queries=queries), defence)])
    short, long = left(straight(few)), left(straight(many))
    unbounded = left(straight(many), huge)
    with torch.no_grad():
        edited, plain = unstepped(images), defence.classifier(images)
    same = torch.equal(edited.argmax(1), plain.argmax(1))
    if isinstance(defence, Preprocessed):  # others average logits, which rounds
        same = torch.equal(edited, plain)
    point = images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(through(point), labels, reduction="sum")
    (slope,) = torch.autograd.grad(loss, point)
    flat = int((slope.flatten(1).abs().amax(1) == 0).sum())
    return {
        "(i) adaptive attacks alone leave no more than oblivious ones": (
            whitebox <= replayed, _shares(whitebox, replayed)
        ),
        "(ii) a huge eps leaves nothing": (unbounded == 0, _shares(unbounded)),
        "(iii) ten times the steps change less than a point": (abs(short - long) < 0.01 + 1e-9, _shares(short, long)),
        "(iv) white box beats Square": (whitebox <= blackbox, _shares(whitebox, blackbox)),
        "(v) step 0 is the bare classifier": (same, ""),
        "(vi) no zero gradients": (flat == 0, f"{flat} of {len(images)}"),
    }  # fmt: skip


def _shares(*values: float) -> str:
    return " / ".join(f"{100 * value:.0f} %" for value in values)
