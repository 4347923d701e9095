"""Group A: is the attack itself sound? Without that, no other number means anything."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.attacks import Attack
from advdef.attacks.losses import margin
from advdef.checks.result import Check, attacked, judged, not_run, passes_of
from advdef.contract import ask, borrowed
from advdef.defenses.base import Defense, Undefended
from advdef.evaluation import Outcome, check_sound, correct

__all__ = [
    "attacks_the_defence",
    "control_falls",
    "moves_extreme_pixels",
    "no_silent_success",
    "success_is_reproducible",
    "within_budget",
]


def within_budget(images: Tensor, *outcomes: Outcome) -> Check:
    """A1: `|x' - x| <= eps + 1e-6` (ours) in the norm of the outcome, x' exactly in [0, 1], and nothing is NaN.

    Otherwise it raises UnsoundAttack, where AutoAttack (https://github.com/fra31/auto-attack, ``autoattack.py``)
    prints.
    """
    for outcome in outcomes:
        check_sound("the evaluation", images, outcome.adversarial, eps=outcome.eps, norm=outcome.norm)
    return judged("A1", True, f"{len(outcomes)} sets of images")


def success_is_reproducible(defence: Defense, outcome: Outcome, labels: Tensor) -> Check:
    """A2: classified again in float32, one by one and all at once, the found images contradict no verdict.

    https://github.com/fra31/auto-attack/issues/74. The detail gives the smallest margin: how near the next
    contradiction is.
    """
    images = outcome.adversarial.float()
    wrong = torch.zeros_like(outcome.robust)
    for size in (1, len(images)):
        wrong |= correct(defence, images, labels, batch_size=size) != outcome.robust
    with borrowed(defence, quiet=True), torch.no_grad():
        smallest = float(margin(ask(defence, images), labels).abs().min())
    return judged("A2", not wrong.any(), f"{int(wrong.sum())} contradictions, smallest margin {smallest:.0e}")


def control_falls(
    defence: Defense, images: Tensor, labels: Tensor, *, attack: Attack, eps: float, generator: torch.Generator
) -> Check:
    """A4: the same attack at the same eps leaves at most 5 % (ours) of the undefended classifier's images.

    Carlini et al., https://arxiv.org/abs/1902.06705, and https://github.com/ryderling/DEEPSEC/issues/15.
    """
    control = Undefended(defence.classifier)
    left = attacked(control, attack, images, labels, eps=eps, generator=generator).interval.value
    return judged("A4", left <= 0.05, f"{100 * left:.0f} % left of the undefended classifier")


def moves_extreme_pixels(images: Tensor, outcome: Outcome) -> Check:
    """A6: in the images that were broken, at least one of the pixels at exactly 0 or 1 has moved.

    The C&W of torchattacks (https://github.com/Harry24k/adversarial-attacks-pytorch, ``cw.py``) never moves them.
    """
    broken = outcome.clean & ~outcome.robust
    extreme = (images[broken] == 0) | (images[broken] == 1)
    if not bool(extreme.any()):
        return not_run("A6", "no broken image has such a pixel")
    share = float((outcome.adversarial[broken] != images[broken])[extreme].float().mean())
    return judged("A6", share > 0, f"{100 * share:.0f} % of them moved")


def no_silent_success(
    defence: Defense, images: Tensor, labels: Tensor, *, attack: Attack, eps: float, generator: torch.Generator
) -> Check:
    """A7: no image that was misclassified at some step of the attack comes back as one that is classified correctly.

    Pintor et al., https://arxiv.org/abs/2106.09947. For attacks that send the whole batch, in order, in every pass.
    """
    with passes_of(defence) as passes:
        found = attack(defence, images, labels, eps=eps, generator=generator)
    if any(len(logits) != len(labels) for logits in passes):
        return not_run("A7", "the attack sends parts of the batch")
    seen = torch.stack([logits.argmax(1) != labels for logits in passes]).any(0)
    lost = int((seen & correct(defence, found, labels)).sum())
    return judged("A7", lost == 0, f"{lost} successes lost")


def attacks_the_defence(defence: Defense, images: Tensor, targets: Mapping[str, nn.Module]) -> Check:
    """A8: what is attacked has the logits of the defence up to scale (normalised, within 1e-4 as in B2).

    So it may differ from the defence in its backward pass alone (Carlini et al., https://arxiv.org/abs/1902.06705).
    Does not run on random defences, whose logits change from pass to pass.
    """
    with borrowed(defence, quiet=True), torch.no_grad():
        own, again = (F.normalize(ask(defence, images), dim=1) for _ in range(2))
        if float((own - again).norm(dim=1).max()) > 1e-4:
            return not_run("A8", "the defence is random")
        gaps = {}
        for name, target in targets.items():
            with borrowed(target, quiet=True):
                gaps[name] = float((F.normalize(target(images), dim=1) - own).norm(dim=1).max())
    others = [name for name, gap in gaps.items() if gap > 1e-4]
    return judged("A8", not others, f"other values: {', '.join(others)}" if others else f"same in {', '.join(gaps)}")
