"""A search that costs ever more for as long as it still breaks something: the end of the adaptive attacker's work.

Expensive attacks see few images: of what is left, a portion at a time, first those that earlier attacks brought
nearest to the decision boundary. Where one of a portion breaks, the next portion follows; where any broke, all of that
is done again with twice the effort. So the search ends when a doubling broke nothing, or at its limit, and says which.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from advdef.defenses.base import Defense
from advdef.evaluation.outcomes import Outcome, SearchEffort, SearchEnd
from advdef.evaluation.robustness import evaluate
from advdef.evaluation.threats import Attempt

__all__ = ["escalate", "nearest_targets"]


def escalate(
    defence: Defense,
    outcome: Outcome,
    attempts: Callable[[SearchEffort], list[Attempt]],
    images: Tensor,
    labels: Tensor,
    *,
    effort: SearchEffort,
    rounds: int,
    portion: int,
    seed: int,
    **options: Any,
) -> Outcome:
    """Go on where an outcome ended, with ever more expensive attempts, until they break nothing or ``rounds`` are over.

    Args:
        defence: What is judged.
        outcome: What was found before.
        attempts: The attempts of a round; those of another effort have another name.
        images: (N, C, H, W) in [0, 1], those of the outcome.
        labels: (N,), int64.
        effort: That of the first round; each later one has twice that of the one before.
        rounds: Most rounds.
        portion: How many images are looked at before it is asked whether more have to be.
        seed: The seed of the outcome's own evaluation: then a random defence is judged on the same draws.
        options: Those of :func:`advdef.evaluation.evaluate`.

    Returns the outcome with all that was found, and with its ``search``.
    """
    for _ in range(rounds):
        tried, broke, seen = attempts(effort), 0, 0
        left = torch.nonzero(outcome.robust)[:, 0]
        order = left if outcome.margin is None else left[outcome.margin[left].argsort(descending=True, stable=True)]
        for rows in order.split(portion) if len(order) else ():
            before = outcome.robust[rows]
            among = torch.zeros_like(outcome.robust)
            among[rows] = True
            found = evaluate(
                defence, tried, images, labels, eps=outcome.eps, norm=outcome.norm, known=outcome, among=among,
                generator=Generator().manual_seed(seed), **options,
            )  # fmt: skip
            outcome = outcome.followed_by(found)
            fell = int((before & ~outcome.robust[rows]).sum())
            broke, seen = broke + fell, seen + len(rows)
            if not fell:
                break
        outcome = replace(outcome, search=SearchEnd(effort, images=seen, broke=broke))
        if not broke:
            break
        effort = effort.doubled()
    return outcome


def nearest_targets(outcome: Outcome, attempts: Sequence[Attempt], count: int) -> list[nn.Module]:
    """The attacked models, at most ``count``, through which most of the images that are left came nearest to breaking.

    Each of these images has a vote, for the model of the attempt that gave it the largest margin. The model with the
    most votes comes first.
    """
    targets = list(dict.fromkeys(attempt.target for attempt in attempts))
    margins = {finding.name: finding.margin for finding in outcome.findings}
    found = [(attempt.target, margins.get(attempt.name)) for attempt in attempts]
    known = [(target, margin[outcome.robust]) for target, margin in found if margin is not None]
    if len(targets) <= count or not known:
        return targets[:count]
    best = torch.stack([margin for _, margin in known]).argmax(0)
    votes = [sum(int((best == i).sum()) for i, (of, _) in enumerate(known) if of is target) for target in targets]
    ranked = sorted(range(len(targets)), key=lambda i: -votes[i])
    return [targets[i] for i in ranked[:count]]
