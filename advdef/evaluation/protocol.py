"""One protocol for every page: the same three attackers, each as strong on one defence as on the next.

The *oblivious* attacker ignores the defence: it runs ordinary attacks on the classifier behind it. The *direct* one
differentiates through the defence as it is deployed, with the ordinary attacks and with strong ones. The *adaptive* one
runs the strong ones through every surrogate of the defence, and besides them the defence's own attacks, attacks without
gradients, and what fools other models; it keeps what the first two found.

Then it goes on by need (:mod:`advdef.evaluation.escalation`): on the images that it brought nearest to breaking,
through the two surrogates that brought most of them there, with more kinds of attack, twice the steps, five times the
starts and ten times the queries; and as long as that breaks anything, with twice as much again. A page may add attacks,
and outcomes that it found before; it never takes one away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.attack import Attack, Suite
from advdef.attacks.libraries.pyautoattack import square
from advdef.attacks.noise import uniform_noise
from advdef.attacks.suites import cleverhans, strong, thorough
from advdef.defenses.base import Defense
from advdef.evaluation.escalation import escalate, nearest_targets
from advdef.evaluation.outcomes import Outcome, SearchEffort
from advdef.evaluation.robustness import evaluate_curve
from advdef.evaluation.threats import Attempt, Threat, adaptive, direct, oblivious, stand_ins
from advdef.norms import BallNorm

__all__ = ["three_attackers", "three_curves"]

_PORTION = 8  # images that an expensive round looks at before it is asked whether more have to be
_TARGETS = 2  # stand-ins through which it goes


def three_attackers(
    defence: Defense, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator, steps: int = 50,
    restarts: int = 1, queries: int = 500, rounds: int = 3, transfer: Mapping[str, nn.Module] | None = None,
    more: Suite | None = None, norm: BallNorm = "Linf", draws: int = 10, batch_size: int = 250,
    resume: Path | None = None, progress: bool = False,
) -> dict[Threat, Outcome]:  # fmt: skip
    """What each of the three attackers leaves of a defence at one budget, the worst case for every image.

    Args:
        defence: What is judged, as it is deployed.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: The budget, a size in ``norm``.
        generator: Gives the seed; the same seed gives the same outcome, whatever the batch size.
        steps: Steps of each strong attack and of the defence's own attacks, before they grow by need.
        restarts: Random starts of each, likewise.
        queries: Queries of the Square attack (extra ``eval``), likewise; 0 leaves it out.
        rounds: How often the adaptive attacker may go on, each time with twice the effort, as long as that breaks
            images. The first round has twice the steps, five times the restarts and ten times the queries.
        transfer: Other models by name; what the strong suite makes on them is replayed on the defence.
        more: Further attacks on the deployed defence, for the adaptive attacker.
        norm: "Linf" or "L2".
        draws: Passes that judge a defence which draws random numbers.
        batch_size: How many images are attacked at a time.
        resume: A folder that keeps what is finished, so that the same call goes on from there.
        progress: Show a bar.

    Returns the outcomes by attacker; ``search`` of the adaptive one says whether it converged. Raises what
    :func:`~advdef.evaluation.evaluate` raises.

    >>> from advdef.defenses import BitDepth
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images, labels = torch.rand(8, 1, 2, 2), torch.arange(8) % 2
    >>> found = three_attackers(
    ...     BitDepth(network), images, labels, eps=0.1, generator=torch.Generator(), steps=5, queries=0
    ... )
    >>> list(found), bool((found["adaptive"].robust <= found["direct"].robust).all())
    (['oblivious', 'direct', 'adaptive'], True)
    """
    found = three_curves(
        defence, images, labels, budgets=(eps,), generator=generator, steps=steps, restarts=restarts, queries=queries,
        rounds=rounds, transfer=transfer, more=more, norm=norm, draws=draws, batch_size=batch_size, resume=resume,
        progress=progress,
    )  # fmt: skip
    return {threat: curve[eps] for threat, curve in found.items()}


def three_curves(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    budgets: Sequence[float],
    generator: torch.Generator,
    steps: int = 50,
    restarts: int = 1,
    queries: int = 500,
    rounds: int = 3,
    decisive: float | None = None,
    transfer: Mapping[str, nn.Module] | None = None,
    more: Suite | None = None,
    known: Sequence[Mapping[float, Outcome]] = (),
    norm: BallNorm = "Linf",
    draws: int = 10,
    batch_size: int = 250,
    resume: Path | None = None,
    progress: bool = False,
) -> dict[Threat, dict[float, Outcome]]:
    """What each of the three attackers leaves of a defence at each budget, the worst case for every image.

    Args:
        defence: What is judged, as it is deployed.
        images: (N, C, H, W) in [0, 1].
        labels: (N,), int64.
        budgets: Sizes of the perturbation in ``norm``; what fell to a smaller one counts as fallen to a larger one.
        generator: Gives the seed; the same seed gives the same outcome, whatever the batch size.
        steps: Steps of each strong attack and of the defence's own attacks, before they grow by need.
        restarts: Random starts of each, likewise.
        queries: Queries of the Square attack (extra ``eval``), likewise; 0 leaves it out.
        rounds: How often the adaptive attacker may go on, each time with twice the effort, as long as that breaks
            images. The first round has twice the steps, five times the restarts and ten times the queries.
        decisive: The one of the budgets that is worth more than one round, as verdicts rest on it: each further round
            costs four times as much. Default: all of them.
        transfer: Other models by name; what the strong suite makes on them is replayed on the defence.
        more: Further attacks on the deployed defence, for the adaptive attacker.
        known: Outcomes of this defence on these images that were found before, by budget. What they broke, the adaptive
            attacker has broken at that budget and at larger ones; it works on the rest.
        norm: "Linf" or "L2".
        draws: Passes that judge a defence which draws random numbers.
        batch_size: How many images are attacked at a time.
        resume: A folder that keeps what is finished, so that the same call goes on from there.
        progress: Whether to show a bar.

    Returns the outcomes by attacker and budget; ``search`` of an adaptive one says whether it converged. Raises what
    :func:`~advdef.evaluation.evaluate` raises.
    """
    ordinary, powerful = cleverhans(norm=norm), strong(norm=norm, steps=steps, restarts=restarts)
    free = {"noise": partial(uniform_noise, norm=norm)} | dict(more or {}) | _square(norm, queries)
    options: dict[str, Any] = dict(draws=draws, batch_size=batch_size, resume=resume, progress=progress)

    def run(tried: Mapping[float, list[Attempt]], **more: Any) -> dict[float, Outcome]:
        return evaluate_curve(defence, dict(tried), images, labels, generator=generator, norm=norm, **more, **options)

    first = run({eps: oblivious(defence, ordinary) for eps in budgets})
    second = run({eps: direct(defence, {**ordinary, **powerful}) for eps in budgets})
    named = stand_ins(defence)
    through = named or {"defence": defence}
    attempts = partial(adaptive, defence, through=through)
    planned = {
        eps: attempts(powerful, eps=eps, steps=steps, restarts=restarts, transfer=transfer, extra=free)
        for eps in budgets
    }

    def go_on(outcome: Outcome, seed: int) -> Outcome:
        before = [attempt for attempt in planned[outcome.eps] if attempt.target in through.values()]
        chosen = nearest_targets(outcome, before, _TARGETS)
        nearest = {label: target for label, target in through.items() if target in chosen}

        def dearer(effort: SearchEffort) -> list[Attempt]:
            longer = thorough(norm=norm, steps=effort.steps, restarts=effort.restarts)
            found = attempts(
                longer, eps=outcome.eps, steps=effort.steps, restarts=effort.restarts, through=nearest,
                extra=_square(norm, effort.queries),
            )  # fmt: skip
            taken = {attempt.name for attempt in planned[outcome.eps]}
            more = f", {effort.steps} steps, {effort.restarts} starts"
            return [replace(attempt, name=attempt.name + more * (attempt.name in taken)) for attempt in found]

        most = rounds if decisive in (None, outcome.eps) else min(rounds, 1)
        return escalate(
            defence, outcome, dearer, images, labels, effort=SearchEffort(2 * steps, 5 * restarts, 10 * queries),
            rounds=most, portion=_PORTION, seed=seed, **options,
        )  # fmt: skip

    knowing = planned
    if not named:  # the strong attacks on the defence itself are the direct attacker's
        knowing = {eps: [a for a in tried if not a.name.endswith(" through defence")] for eps, tried in planned.items()}
    return {"oblivious": first, "direct": second, "adaptive": run(knowing, known=(first, second, *known), then=go_on)}


def _square(norm: BallNorm, queries: int) -> dict[str, Attack]:
    """Square with so many queries; nothing for none."""
    return {f"Square-{queries}": partial(square, norm=norm, queries=queries)} if queries else {}
