"""The attacks that the page on NIP looks at one by one, and six tests of whether those of its attackers work."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advdef.attacks import apgd, fgsm, mim, minimal, pgd, square
from advdef.attacks.attack import Attack, Suite
from advdef.attacks.suites import strong
from advdef.defenses.base import Defense
from advdef.defenses.transforms import Preprocessed
from advdef.evaluation import Attempt, adaptive, evaluate, oblivious

__all__ = ["fixed_suite", "pgd_min", "six_tests"]


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
    """Six tests that working attacks on a defence pass, by name: whether they do, and the numbers.

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

    suite = strong(steps=few, restarts=1)
    whitebox = left(adaptive(defence, suite, eps=eps, steps=few))
    replayed = left(oblivious(defence, suite))
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
