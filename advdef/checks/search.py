"""Group C: does the evaluation behave like a white-box attack that has converged?"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from advdef.attacks import Attack, each_class, hop_skip_jump, pgd, square, traced, uniform_noise
from advdef.checks.assumptions import deterministic
from advdef.checks.result import Check, attacked, few, judged, not_run
from advdef.contract import ask, borrowed
from advdef.defenses.base import Defense
from advdef.evaluation import Outcome
from advdef.evaluation.holes.later import FOUND_LATER

__all__ = [
    "adaptive_search_converged",
    "beats_decision_based",
    "beats_gradient_free",
    "beats_noise",
    "beats_one_step",
    "beats_transfer",
    "loss_plateau",
    "monotone_in_eps",
    "restarts_converged",
    "steps_converged",
    "targeted_adds_nothing",
    "unbounded_attack_wins",
    "worst_case_counts",
]


def beats_one_step(direct: Outcome, *, one_step: str = "FGSM", iterative: str = "PGD") -> Check:
    """C1: the iterative attack leaves no more images than one step does, and misses at most 1 % or one (ours) of its
    breaks.

    Athalye et al., https://arxiv.org/abs/1802.00420.
    """
    many, one = direct.survivors(iterative), direct.survivors(one_step)
    alone = int((many & ~one).sum())
    passed = int(many.sum()) <= int(one.sum()) and alone <= few(1, len(many))
    return judged("C1", passed, f"{iterative} leaves {int(many.sum())}, {one_step} {int(one.sum())}")


def steps_converged(
    defence: Defense, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator, steps: int = 20
) -> Check:
    """C2: twice the steps break at most 0.5 points or one image more (ours; https://arxiv.org/abs/1902.06705)."""
    runs = [partial(pgd, steps=count, stop_early=True) for count in (steps, 2 * steps)]
    extra = _extra(defence, runs, images, labels, eps=eps, generator=generator)
    return judged("C2", extra <= few(0.5, len(images)), f"{2 * steps} steps broke {extra} more than {steps}")


def restarts_converged(
    defence: Defense, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator, steps: int = 20,
    restarts: int = 10,
) -> Check:  # fmt: skip
    """C3: twice the restarts break at most 0.5 points or one image more (ours; https://arxiv.org/abs/1902.06705).

    Args:
        defence: What is attacked.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Budget, in Linf.
        generator: Source of the seeds.
        steps: Steps of PGD.
        restarts: Its restarts, and half those of the second run.
    """
    runs = [partial(pgd, steps=steps, restarts=count, stop_early=True) for count in (restarts, 2 * restarts)]
    extra = _extra(defence, runs, images, labels, eps=eps, generator=generator)
    return judged("C3", extra <= few(0.5, len(images)), f"{2 * restarts} restarts broke {extra} more than {restarts}")


def _extra(
    defence: Defense, runs: Sequence[Attack], images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator
) -> int:
    """How many images the second run breaks of those that the first one left."""
    first, second = runs
    before = attacked(defence, first, images, labels, eps=eps, generator=generator)
    after = attacked(defence, second, images, labels, eps=eps, generator=generator, known=before)
    return int(before.robust.sum() - after.robust.sum())


def loss_plateau(
    defence: Defense, images: Tensor, labels: Tensor, *, attack: Attack, eps: float, generator: torch.Generator
) -> Check:
    """C4: where the attack fails, its best loss so far, scaled to [0, 1], grows by at most 0.05 in its last 10 passes.

    Pintor et al., https://arxiv.org/abs/2106.09947, for each image by itself. Here the loss is cross-entropy, and the
    mean over the images that no pass got wrong decides (ours).
    """
    way = traced(attack, defence, images, labels, eps=eps, generator=generator)
    failed = torch.nonzero(~(way.margin > 0).any(0))[:, 0]
    if len(failed) == 0:
        return judged("C4", True, "the attack fails nowhere")
    grown = [_grown(loss[~loss.isnan()]) for loss in way.loss[:, failed].unbind(1)]
    growth = sum(grown) / len(grown)
    return judged("C4", growth <= 0.05, f"grew by {growth:.2f} at the end")


def _grown(loss: Tensor) -> float:
    """By how much the best loss so far, of the losses (S,) on one image, grows in the last ten, as a share of all."""
    best, span = loss.cummax(0).values, loss.amax() - loss.amin()
    return float((best[-1] - best[-min(11, len(best))]) / span.clamp_min(torch.finfo(span.dtype).tiny))


def monotone_in_eps(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    budgets: Sequence[float],
    generator: torch.Generator,
    steps: int = 20,
) -> Check:
    """C5: over at least eight eps, each attacked afresh, accuracy never rises by more than 1 point or one image (ours).

    Carlini et al., https://arxiv.org/abs/1902.06705, and https://github.com/ryderling/DEEPSEC/issues/9. What was broken
    at one eps does not count at the next; else the curve would fall by construction.
    """
    if len(budgets) < 8:
        raise ValueError(f"the curve needs at least 8 budgets, not {len(budgets)}")
    attack = partial(pgd, steps=steps, stop_early=True)
    left = [
        int(attacked(defence, attack, images, labels, eps=eps, generator=generator).robust.sum())
        for eps in sorted(budgets)
    ]
    rise = max(after - before for before, after in pairwise(left))
    return judged("C5", rise <= few(1, len(images)), f"leaves {', '.join(map(str, left))}")


def unbounded_attack_wins(
    defence: Defense, images: Tensor, labels: Tensor, *, generator: torch.Generator, steps: int = 20
) -> Check:
    """C6: with eps = 1 a white-box attack leaves no more than chance, 1/K (https://arxiv.org/abs/1902.06705)."""
    with borrowed(defence, quiet=True), torch.no_grad():
        classes = ask(defence, images[:1]).shape[1]
    attack = partial(pgd, steps=steps, stop_early=True)
    left = attacked(defence, attack, images, labels, eps=1.0, generator=generator).interval.value
    return judged("C6", left <= 1 / classes, f"{100 * left:.0f} % left at eps 1")


def _adds(
    id: str,
    name: str,
    defence: Defense,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    *,
    direct: Outcome,
    generator: torch.Generator,
    allowed: float = 0,
) -> Check:
    """Passes when the attack breaks at most ``allowed`` of the images that the direct attacker left."""
    try:
        after = attacked(defence, attack, images, labels, eps=direct.eps, generator=generator, known=direct)
    except ImportError as error:
        return not_run(id, str(error))
    extra = int(direct.robust.sum() - after.robust.sum())
    return judged(id, extra <= allowed, f"{name} alone broke {extra}")


def beats_gradient_free(
    defence: Defense, images: Tensor, labels: Tensor, *, direct: Outcome, generator: torch.Generator, queries: int = 200
) -> Check:
    """C7: Square breaks at most 0.2 points of what attacks with gradients left (AutoAttack, ``check_square_sr``).

    https://github.com/fra31/auto-attack. Does not run without pyautoattack.
    """
    attack, allowed = partial(square, queries=queries), 0.002 * len(images)
    name = f"Square with {queries:,} queries"
    return _adds("C7", name, defence, attack, images, labels, direct=direct, generator=generator, allowed=allowed)


def beats_decision_based(
    defence: Defense, images: Tensor, labels: Tensor, *, direct: Outcome, generator: torch.Generator, steps: int = 10
) -> Check:
    """C8: HopSkipJump breaks none of what attacks with gradients left (https://arxiv.org/abs/1902.06705).

    Does not run without foolbox, nor on a random defence (B2), whose decisions have no boundary to walk along.
    """
    if deterministic(defence, images, labels).status == "fire":
        return not_run("C8", "the defence is random")
    attack = partial(hop_skip_jump, norm="Linf", steps=steps)
    return _adds("C8", "HopSkipJump", defence, attack, images, labels, direct=direct, generator=generator)


def beats_transfer(direct: Outcome, oblivious: Outcome) -> Check:
    """C9: images replayed from the undefended classifier break nothing that the direct attacker left.

    Carlini et al., https://arxiv.org/abs/1902.06705.
    """
    extra = int((direct.robust & ~oblivious.robust).sum())
    return judged("C9", extra == 0, f"replay alone broke {extra}")


def beats_noise(
    defence: Defense, images: Tensor, labels: Tensor, *, direct: Outcome, generator: torch.Generator,
    draws: int = 10_000,
) -> Check:  # fmt: skip
    """C10: random points of the ball, ``draws`` for each image, break none of what attacks with gradients left.

    Carlini et al., https://arxiv.org/abs/1902.06705.
    """
    attack = partial(uniform_noise, draws=draws, stop_early=True)
    return _adds("C10", "noise", defence, attack, images, labels, direct=direct, generator=generator)


def worst_case_counts(outcome: Outcome) -> Check:
    """C11: no image counts as robust that is wrong without an attack, or that any one of the attacks broke.

    So robust accuracy is the mean over images of the minimum over attacks, and no single attack leaves less
    (https://arxiv.org/abs/1902.06705). An average over attacks (https://github.com/ryderling/DEEPSEC/issues/5) would
    not do.
    """
    if not outcome.findings:
        return not_run("C11", "no attack is on record")
    broken = torch.stack([finding.broken for finding in outcome.findings]).any(0)
    wrong = int((outcome.robust & (~outcome.clean | broken)).sum())
    alone = ", ".join(f"{name} {count}" for name, count in outcome.unique_breaks().items() if count)
    return judged("C11", wrong == 0, f"{wrong} images counted wrongly; broken by one alone: {alone or 'none'}")


def targeted_adds_nothing(
    defence: Defense, images: Tensor, labels: Tensor, *, direct: Outcome, generator: torch.Generator, steps: int = 20,
    classes: int = 9,
) -> Check:  # fmt: skip
    """C13: PGD towards each of the most likely wrong classes breaks at most 0.5 points or one image more (ours).

    Carlini et al., https://arxiv.org/abs/1902.06705, ask for targeted results as well; the bound is ours.

    Args:
        defence: What is attacked.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        direct: The outcome of the direct attacker, whose eps is used.
        generator: Source of the seed.
        steps: Steps of PGD.
        classes: How many wrong classes are aimed at.
    """
    attack = partial(each_class, attack=partial(pgd, steps=steps), classes=classes, stop_early=True)
    allowed = few(0.5, len(images))
    return _adds(
        "C13", "targeted", defence, attack, images, labels, direct=direct, generator=generator, allowed=allowed
    )


def adaptive_search_converged(adaptive: Outcome | None) -> Check:
    """C14: the adaptive attacker's last round, with twice the steps, starts and queries, broke nothing, and neither
    did a later search for holes (ours).

    The rounds are those of :mod:`advdef.evaluation.escalation`.
    """
    if adaptive is None or adaptive.search is None:
        return not_run("C14", "no search that goes on by need")
    later = sum(int(finding.broken.sum()) for finding in adaptive.findings if finding.name == FOUND_LATER)
    more = f"; a search for holes then broke {later}" if later else ""
    return judged("C14", adaptive.search.converged and not later, f"{adaptive.search}{more}")
