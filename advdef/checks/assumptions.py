"""Group B: is the defence of the kind that attacks assume?"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.attacks.gradient import pgd
from advdef.attacks.losses import LOSSES, LossName, margin
from advdef.checks.result import Check, attacked, few, judged
from advdef.contract import ask, borrowed
from advdef.defenses.base import Defense
from advdef.draws import fresh_seed

__all__ = [
    "deterministic",
    "evaluation_mode",
    "gives_logits",
    "graph_intact",
    "no_inner_optimisation",
    "nonzero_gradient",
    "scale_invariant",
    "smooth_predictions",
]


def evaluation_mode(defence: Defense) -> Check:
    """B1: no module is in training mode (https://github.com/RobustBench/robustbench, ``eval.py``)."""
    count = sum(module.training for module in defence.modules())
    return judged("B1", count == 0, f"{count} modules in training mode")


def deterministic(defence: Defense, images: Tensor, labels: Tensor) -> Check:
    """B2: five passes get the same number right, and their normalised logits agree within 1e-4 (L2).

    After AutoAttack (https://github.com/fra31/auto-attack), ``check_randomized``. Where it fires, only an expectation
    over the draws can be attacked.
    """
    with borrowed(defence, quiet=True), torch.no_grad():
        passes = torch.stack([ask(defence, images) for _ in range(5)])
    right = (passes.argmax(2) == labels).sum(1)
    normal = F.normalize(passes, dim=2)
    worst = float((normal - normal[0]).norm(dim=2).max())
    return judged("B2", worst <= 1e-4 and bool((right == right[0]).all()), f"differ by {worst:.0e}")


def gives_logits(defence: Defense, images: Tensor) -> Check:
    """B3: the output does not look like probabilities (AutoAttack, ``check_range_output``)."""
    with borrowed(defence, quiet=True), torch.no_grad():
        output = ask(defence, images)
    sums_to_one = bool(((output.sum(1) - 1).abs() < 1e-4).all())
    low, high = (float(v) for v in torch.aminmax(output))
    return judged("B3", not (low > -1e-5 and high < 1 + 1e-5 and sums_to_one), f"range {low:.1f} to {high:.1f}")


def graph_intact(defence: Defense, images: Tensor, labels: Tensor) -> Check:
    """B4: the backward pass reaches the image without an error (Pintor et al., https://arxiv.org/abs/2106.09947)."""
    try:
        with borrowed(defence, quiet=True):
            point = images.clone().requires_grad_()
            torch.autograd.grad(margin(ask(defence, point), labels).sum(), point)
    except RuntimeError:
        return judged("B4", False, "no way back to the image")
    return judged("B4", True, "reaches the image")


def nonzero_gradient(defence: Defense, images: Tensor, labels: Tensor) -> Check:
    """B5: no image has an input gradient that is zero everywhere or not finite, for cross-entropy and for the margin.

    RobustBench, rule 1 (https://github.com/RobustBench/robustbench), and AutoAttack, ``check_zero_gradients``.
    """
    losses: tuple[LossName, ...] = ("ce", "margin")
    shares = {}
    for name in losses:
        with borrowed(defence, quiet=True):
            point = images.clone().requires_grad_()
            value = LOSSES[name](ask(defence, point), labels).sum()
            # as it is: what an attack sets to zero counts here
            gradient = torch.autograd.grad(value, point, allow_unused=True)[0] if value.requires_grad else None
            size = (torch.zeros_like(point) if gradient is None else gradient).abs().sum((1, 2, 3))
        shares[name] = float(((size == 0) | ~size.isfinite()).float().mean())
    detail = "missing in " + ", ".join(f"{100 * share:.0f} % ({name})" for name, share in shares.items())
    return judged("B5", max(shares.values()) == 0, detail)


def no_inner_optimisation(defence: Defense, images: Tensor) -> Check:
    """B6: classifying without gradients runs no backward pass (RobustBench, rule 3; AutoAttack, ``check_dynamic``).

    A backward pass is noticed by the hooks that autograd calls when it takes out what a forward pass has saved.
    """
    used = []

    def unpack(saved: Tensor) -> Tensor:
        used.append(saved.shape)
        return saved

    hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack)
    try:
        with borrowed(defence, quiet=True), torch.no_grad(), hooks:
            ask(defence, images)
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        return judged("B6", False, "torch.func takes a gradient")  # it refuses such hooks
    return judged("B6", not used, f"{len(used)} saved tensors used by a backward pass")


class _Scaled(nn.Module):
    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.factor * ask(self.model, images)
        return logits


def scale_invariant(
    defence: Defense, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator, steps: int = 20
) -> Check:
    """B7: PGD with the margin leaves as many images on logits times 1e-3, 1 and 1e3; cross-entropy leaves no more.

    Each within 1 point or one image (both ours). AutoAttack, ``flags_doc.md``, names large logits as a cause of zero
    gradients. All four runs start at the same random points.
    """
    seed = fresh_seed(generator)

    def left(loss: LossName, factor: float) -> int:
        attack = partial(pgd, steps=steps, loss=loss, stop_early=True)
        draws, target = torch.Generator().manual_seed(seed), _Scaled(defence, factor)
        return int(attacked(defence, attack, images, labels, eps=eps, generator=draws, target=target).robust.sum())

    margins, entropy = [left("margin", factor) for factor in (1e-3, 1.0, 1e3)], left("ce", 1.0)
    allowed = few(1, len(images))
    passed = max(margins) - min(margins) <= allowed and entropy - margins[1] <= allowed
    return judged("B7", passed, f"margin leaves {', '.join(map(str, margins))}, cross-entropy {entropy}")


def smooth_predictions(
    defence: Defense, images: Tensor, labels: Tensor, *, generator: torch.Generator, perturbations: int = 100
) -> Check:
    """B8: uniform noise of radius 8/255 changes the margin by at most 10 % (ours) of its size, on average.

    Pintor et al., https://arxiv.org/abs/2106.09947, who look at the loss of the attack and name no threshold. Each
    single change counts as 100 % at most; they limit the average instead.
    """
    changes = []
    with borrowed(defence, quiet=True), torch.no_grad():
        before = margin(ask(defence, images), labels)
        size = torch.where(before == 0, torch.ones_like(before), before.abs())
        for _ in range(perturbations):
            noise = torch.rand(images.shape, generator=generator, dtype=images.dtype).to(images.device)
            after = margin(defence((images + (2 * noise - 1) * 8 / 255).clamp(0, 1)), labels)
            changes.append(((after - before).abs() / size).clamp(max=1).mean())
    mean = float(torch.stack(changes).mean())
    return judged("B8", mean <= 0.1, f"margin changes by {100 * mean:.0f} %")
