"""Group D: what an adaptive evaluation must show once group B has found randomness or a broken gradient."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from advdef.attacks import Attack, expectation, pgd
from advdef.checks.result import Check, attacked, few, judged, not_run
from advdef.contract import ask
from advdef.defenses.base import Defense, Undefended, reseed
from advdef.draws import fresh_seed, seeded
from advdef.evaluation import Attempt, evaluate, stand_ins

__all__ = ["components_fall", "expectation_converged", "falls_with_fixed_randomness", "surrogates_add_nothing"]


def expectation_converged(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    draws: Sequence[int] = (1, 5, 20, 50),
    steps: int = 20,
) -> Check:
    """D1: PGD through the mean of the two largest numbers of draws leaves as much, within 1 point or one image (ours).

    By default these are 20 and 50; AutoAttack's "rand" (https://github.com/fra31/auto-attack) takes 20. EOT:
    https://arxiv.org/abs/1707.07397.

    Args:
        defence: The random defence.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Budget, in Linf.
        generator: Source of the seed, the same for all runs.
        draws: Ascending numbers of draws to average over; the last two are compared, all are told.
        steps: Steps of PGD.
    """
    attack = partial(pgd, steps=steps)
    seed = fresh_seed(generator)
    left = []
    for count in draws:
        same, target = torch.Generator().manual_seed(seed), expectation(defence, count)
        outcome = attacked(defence, attack, images, labels, eps=eps, generator=same, target=target)
        left.append(len(images) * outcome.interval.value)
    detail = ", ".join(f"{n:.1f} at {count}" for n, count in zip(left, draws, strict=True))
    return judged("D1", abs(left[-1] - left[-2]) <= few(1, len(images)), f"draws leave {detail}")


class _Seeded(nn.Module):
    """A random model that draws the same numbers in every pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        reseed(self.model, 0)
        with seeded(0, images.device):
            return ask(self.model, images)


def falls_with_fixed_randomness(
    defence: Defense, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator, steps: int = 20
) -> Check:
    """D2: with the same draws in every pass, PGD leaves no more images than of the undefended classifier.

    Within 1 point or one image (ours). Carlini et al., https://arxiv.org/abs/1902.06705.
    """
    attack = partial(pgd, steps=steps)  # without stop_early: torch's generator draws the same only for the same batch
    left = []
    for model in (_Seeded(defence), defence.classifier):
        same = Undefended(model)
        left.append(int(attacked(same, attack, images, labels, eps=eps, generator=generator).robust.sum()))
    return judged("D2", left[0] <= left[1] + few(1, len(images)), f"leaves {left[0]}, undefended {left[1]}")


def surrogates_add_nothing(
    defence: Defense, images: Tensor, labels: Tensor, *, attack: Attack, eps: float, generator: torch.Generator
) -> Check:
    """D3: BPDA through the surrogates breaks at most 1 point or one image more (ours) than the naive gradient.

    Athalye et al., https://arxiv.org/abs/1802.00420. Where it fires, the direct number says nothing about the defence.
    """
    surrogates = stand_ins(defence)
    if not surrogates:
        return not_run("D3", "the defence names no surrogate")
    naive = attacked(defence, attack, images, labels, eps=eps, generator=generator)
    attempts = [Attempt(name, attack, surrogate) for name, surrogate in surrogates.items()]
    after = evaluate(defence, attempts, images, labels, eps=eps, generator=generator, known=naive)
    left, remains = int(naive.robust.sum()), int(after.robust.sum())
    return judged("D3", left - remains <= few(1, len(images)), f"naive gradient leaves {left}, surrogates {remains}")


def components_fall(
    defence: Defense, images: Tensor, labels: Tensor, *, attack: Attack, eps: float, generator: torch.Generator
) -> Check:
    """D4: the undefended classifier and each surrogate, attacked by itself, keep at most 5 % (ours).

    Else the attack, and not the defence, may be why images are left (Carlini et al., https://arxiv.org/abs/1902.06705).
    """
    left = {
        name: attacked(Undefended(model), attack, images, labels, eps=eps, generator=generator).interval.value
        for name, model in {"undefended": defence.classifier, **stand_ins(defence)}.items()
    }
    detail = ", ".join(f"{name} {100 * share:.0f} %" for name, share in left.items())
    return judged("D4", max(left.values()) <= 0.05, f"left: {detail}")
