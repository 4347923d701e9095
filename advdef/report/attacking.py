"""The three attackers and the checks of their attack, run on a defence that is ready to be judged."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from advdef import checks
from advdef.attacks import fgsm, suites
from advdef.checks import Check
from advdef.data import Split
from advdef.defenses.base import is_random
from advdef.evaluation import Outcome, Threat, direct, evaluate, three_attackers
from advdef.grid import shards
from advdef.norms import BallNorm
from advdef.report.deployed import Deployed

__all__ = ["JudgingEffort", "check_attack", "image_parts", "meet_attackers", "meet_attackers_on"]

_SHORT = 10  # steps below which an evaluation is a first look
_CHECKED = {*checks.FAST, "D3", "D4"} - {"B1", "E2"}  # training mode is refused; that it is one network, the limits say
_PART_OF = 100  # images


@dataclass(frozen=True)
class JudgingEffort:
    """How much is tried on each image; the names are those of :func:`robustness`.

    Attributes:
        steps: Steps of each strong attack, before they grow by need. Below ten the checks are brief as well.
        restarts: Random starts of each strong attack, likewise.
        queries: Queries of the Square attack, likewise; 0 leaves it out.
        rounds: How often the adaptive attacker may go on with twice the effort, as long as that breaks images.
        epochs: Of each training that the defence needs.
        seed: Of trainings and attacks.
        draws: Passes that judge a defence which draws random numbers.
        batch_size: How many images are attacked at a time.
    """

    steps: int = 50
    restarts: int = 1
    queries: int = 500
    rounds: int = 3
    epochs: int = 5
    seed: int = 0
    draws: int = 10
    batch_size: int = 100

    @property
    def queried(self) -> int:
        """The queries of Square, where the library that has it is here."""
        return self.queries if importlib.util.find_spec("pyautoattack") is not None else 0

    def numbers(self, offset: int) -> torch.Generator:
        """Random draws that depend on the seed alone; offsets keep uses apart."""
        return torch.Generator().manual_seed(1_000 * self.seed + offset)


def meet_attackers(
    case: Deployed,
    test: Split,
    effort: JudgingEffort,
    *,
    eps: float,
    norm: BallNorm,
    resume: Path | None,
    progress: bool = False,
) -> dict[Threat, Outcome]:
    """What each of the three attackers leaves of a defence; many images are attacked in parts, one after the other.

    Args:
        case: The defence.
        test: The images that are attacked, and their labels.
        effort: How much is tried.
        eps: The budget, a size in ``norm``.
        norm: "Linf" or "L2".
        resume: A folder that keeps what is finished, so that the same call goes on from there; None keeps nothing.
        progress: Show a bar.
    """
    found = [
        meet_attackers_on(case, test, rows, effort, eps=eps, norm=norm, resume=resume, progress=progress)
        for rows in image_parts(len(test))
    ]
    return {threat: Outcome.joined([part[threat] for part in found]) for threat in found[0]}


def meet_attackers_on(
    case: Deployed, test: Split, rows: slice, effort: JudgingEffort, *, eps: float, norm: BallNorm, resume: Path | None,
    progress: bool = False,
) -> dict[Threat, Outcome]:  # fmt: skip
    """What each of the three attackers leaves of a defence on one part of the images.

    Args:
        case: The defence.
        test: All images that are attacked, and their labels.
        rows: The part of them that is attacked here.
        effort: How much is tried.
        eps: The budget, a size in ``norm``.
        norm: "Linf" or "L2".
        resume: A folder that keeps what is finished, so that the same call goes on from there; None keeps nothing.
        progress: Show a bar.
    """
    return three_attackers(
        case.defence, test.float_images()[rows], test.labels[rows], eps=eps, norm=norm, generator=effort.numbers(1),
        steps=effort.steps, restarts=effort.restarts, queries=effort.queried, rounds=effort.rounds, draws=effort.draws,
        transfer=case.transfer, batch_size=effort.batch_size, resume=resume, progress=progress,
    )  # fmt: skip


def image_parts(images: int) -> list[slice]:
    """The parts that so many images are attacked in: the search by need looks at the nearest images of each."""
    return shards(images, _PART_OF)


def check_attack(
    case: Deployed, test: Split, found: Mapping[Threat, Outcome], effort: JudgingEffort, *, resume: Path | None
) -> list[Check]:
    """The row of checks of the direct attacker; where its attacks are short, so are the checks."""
    size = checks.BRIEF if effort.steps < _SHORT else checks.QUICK
    x, y, eps, few = test.float_images(), test.labels, found["direct"].eps, slice(size.images)
    plain = {"FGSM": partial(fgsm), "PGD": suites.cleverhans()["PGD"]}
    single = evaluate(
        case.defence, direct(case.defence, plain), x[few], y[few], eps=eps, generator=effort.numbers(2),
        exhaustive=True, resume=resume,
    )  # fmt: skip
    card = {"goal": "any wrong class", "norm": "Linf", "eps": eps, "knowledge": "all of the defence but its draws"}
    card["randomised"] = "what the defence draws" if is_random(case.defence) else "nothing"
    return checks.row(
        case.defence, x, y, eps=eps, generator=effort.numbers(3), single=single, direct=found["direct"],
        oblivious=found["oblivious"], adaptive=found["adaptive"], card=card, effort=size,
        only=_CHECKED, resume=resume,
    )  # fmt: skip
