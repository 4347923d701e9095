"""One protocol for every page: the same three attackers, each as strong on one defence as on the next.

The *oblivious* attacker ignores the defence: he runs ordinary attacks on the classifier behind it. The *direct* one
differentiates through the defence as it is deployed, with the ordinary attacks and with strong ones. The *adaptive* one
runs the strong ones through every surrogate of the defence, and besides them the defence's own attacks, attacks without
gradients, and what fools other models; he keeps what the first two found. Each of his attacks is as long as the
direct one's; he has more of them, since he knows more targets. A page may add attacks, and outcomes that it found
before; it never takes one away.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advdef.attacks.attack import Suite
from advdef.attacks.libraries.pyautoattack import square
from advdef.attacks.noise import uniform_noise
from advdef.attacks.suites import cleverhans, strong
from advdef.defenses.base import Defense
from advdef.evaluation.outcomes import Outcome
from advdef.evaluation.robustness import evaluate_curve
from advdef.evaluation.threats import Threat, adaptive, direct, oblivious, stand_ins
from advdef.norms import BallNorm

__all__ = ["three_attackers", "three_curves"]


def three_attackers(
    defence: Defense, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator, steps: int = 100,
    restarts: int = 1, queries: int = 500, transfer: Mapping[str, nn.Module] | None = None, more: Suite | None = None,
    norm: BallNorm = "Linf", draws: int = 10, batch_size: int = 250, resume: Path | None = None, progress: bool = False,
) -> dict[Threat, Outcome]:  # fmt: skip
    """What each of the three attackers leaves of a defence at one budget; arguments as in :func:`three_curves`.

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
        transfer=transfer, more=more, norm=norm, draws=draws, batch_size=batch_size, resume=resume, progress=progress,
    )  # fmt: skip
    return {threat: curve[eps] for threat, curve in found.items()}


def three_curves(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    budgets: Sequence[float],
    generator: torch.Generator,
    steps: int = 100,
    restarts: int = 1,
    queries: int = 500,
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
        steps: Steps of each strong attack and of the defence's own attacks.
        restarts: Random starts of each strong attack.
        queries: Queries of the Square attack (extra ``eval``); 0 leaves it out.
        transfer: Other models by name; what the strong suite makes on them is replayed on the defence.
        more: Further attacks on the deployed defence, for the adaptive attacker.
        known: Outcomes of this defence on these images that were found before, by budget. What they broke, the adaptive
            attacker has broken at that budget and at larger ones; he works on the rest.
        norm: "Linf" or "L2".
        draws: Passes that judge a defence which draws random numbers.
        batch_size: How many images are attacked at a time.
        resume: A folder that keeps what is finished, so that the same call goes on from there.
        progress: Whether to show a bar.

    Returns the outcomes by attacker and budget. Raises what :func:`~advdef.evaluation.evaluate` raises.
    """
    ordinary, powerful = cleverhans(norm=norm), strong(norm=norm, steps=steps, restarts=restarts)
    free = {"noise": partial(uniform_noise, norm=norm)} | dict(more or {})
    if queries:
        free[f"Square-{queries}"] = partial(square, norm=norm, queries=queries)
    run = partial(
        evaluate_curve, defence, images=images, labels=labels, generator=generator, norm=norm, draws=draws,
        batch_size=batch_size, resume=resume, progress=progress,
    )  # fmt: skip
    first = run({eps: oblivious(defence, ordinary) for eps in budgets})
    second = run({eps: direct(defence, {**ordinary, **powerful}) for eps in budgets})
    knowing = {eps: adaptive(defence, powerful, eps=eps, steps=steps, transfer=transfer, extra=free) for eps in budgets}
    if not stand_ins(defence):  # the strong attacks on the defence itself are the direct attacker's
        knowing = {eps: [a for a in tried if not a.name.endswith(" through defence")] for eps, tried in knowing.items()}
    return {"oblivious": first, "direct": second, "adaptive": run(knowing, known=(first, second, *known))}
