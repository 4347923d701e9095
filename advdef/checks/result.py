"""What a check returns, and what several checks need."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from advdef.attacks import Attack
from advdef.defenses.base import Defense
from advdef.evaluation import Attempt, Outcome, evaluate

__all__ = ["TITLES", "Check", "attacked", "few", "judged", "not_run", "passes_of"]

TITLES: Mapping[str, str] = {
    "A1": "inside the budget",
    "A2": "success is reproducible",
    "A3": "reaches known optima",
    "A4": "undefended control falls",
    "A5": "libraries agree",
    "A6": "pixels at 0 and 1 move",
    "A7": "no silent success",
    "A8": "attack sees the defence",
    "B1": "evaluation mode",
    "B2": "deterministic",
    "B3": "gives logits",
    "B4": "graph is not cut",
    "B5": "gradient is not zero",
    "B6": "no optimisation inside",
    "B7": "scale of logits is harmless",
    "B8": "smooth predictions",
    "C1": "iterative beats one step",
    "C2": "steps suffice",
    "C3": "restarts suffice",
    "C4": "loss has levelled off",
    "C5": "falls with eps",
    "C6": "unbounded attack wins",
    "C7": "white box beats gradient-free",
    "C8": "white box beats decision-based",
    "C9": "white box beats transfer",
    "C10": "white box beats noise",
    "C11": "worst case per image",
    "C12": "planted example is found",
    "C13": "targets add nothing",
    "C14": "adaptive search has converged",
    "D1": "expectation has converged",
    "D2": "falls when randomness is fixed",
    "D3": "surrogates add nothing",
    "D4": "components fall alone",
    "D5": "loss fits the defence",
    "D6": "simplest break shown",
    "E1": "threat model stated",
    "E2": "uncertainty stated",
    "E3": "settings recorded",
    "E4": "weights released",
    "E5": "compared with the paper",
    "E6": "cost counted",
}
"""The title of every check by its id.

A: is the attack sound; B: is the defence of the usual kind; C: has the search converged; D: does an adaptive attack
hold together; E: is what a reader needs reported.
"""


_GUARANTEED = ("A1", "C11", "E3")


@dataclass(frozen=True)
class Check:
    """The result of one check.

    "pass" is what an honest white-box evaluation should show, "fire" needs an explanation, "not run" says why in
    ``detail``; "guaranteed" is a pass that the package's own evaluation cannot fail, as it refuses what would.
    """

    id: str
    title: str
    status: Literal["pass", "fire", "not run", "guaranteed"]
    detail: str


def judged(id: str, passed: bool, detail: str) -> Check:
    """The result of a check that ran."""
    held: Literal["pass", "guaranteed"] = "guaranteed" if id in _GUARANTEED else "pass"
    return Check(id, TITLES[id], held if passed else "fire", detail)


def not_run(id: str, why: str) -> Check:
    """The result of a check that did not run, with the reason."""
    return Check(id, TITLES[id], "not run", why)


def few(points: float, images: int) -> float:
    """How many of ``images`` a difference of ``points`` percentage points is, but at least one, which chance can move
    (ours).
    """
    return max(1.0, points / 100 * images)


def attacked(
    defence: Defense,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    target: nn.Module | None = None,
    known: Outcome | Sequence[Outcome] = (),
) -> Outcome:
    """Run one attack and judge it on the defence.

    Args:
        defence: What is judged.
        attack: The attack to run.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Budget, in Linf.
        generator: Source of the seed.
        target: The model that is attacked. Default: the defence.
        known: Earlier outcomes, what they broke being broken.
    """
    attempt = Attempt("attack", attack, defence if target is None else target)
    return evaluate(defence, [attempt], images, labels, eps=eps, generator=generator, known=known)


@contextmanager
def passes_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the logits of every pass through ``model`` inside the block, while an attack runs, say."""
    seen: list[Tensor] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        seen.append(logits.detach())

    handle = model.register_forward_hook(remember)
    try:
        yield seen
    finally:
        handle.remove()
