"""SPSA: PGD along a gradient that differences of the model's own answers estimate."""

import torch
from torch import Tensor, nn

from advdef.attacks.gradient import pgd
from advdef.attacks.losses import LossName
from advdef.attacks.wrappers import replace_gradient
from advdef.contract import ask
from advdef.draws import fresh_seed, image_keys, uniform

__all__ = ["spsa"]


@torch.inference_mode(False)
def spsa(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 20,
    samples: int = 16,
    reach: float = 0.05,
    step_size: float | None = None,
    restarts: int = 1,
    loss: LossName = "margin",
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """PGD in Linf without a gradient: simultaneous perturbations estimate one (SPSA, https://arxiv.org/abs/1802.05666).

    A step asks the model 2 * samples + 1 times for each image: at the point, and at both sides of it along random
    signs. What is estimated is the gradient of the logits, so the loss may be any.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        steps: Number of steps in each run, at least 1.
        samples: Pairs of answers in each step, at least 1.
        reach: How far to each side the model is asked, in pixel units; positive. Where the model is constant in cells,
            as behind a quantiser, it has to cross their borders.
        step_size: Size of a step, relative to eps. Default: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first attack what ``model`` still gets right.
        loss: What is ascended: "ce" (cross-entropy), "margin" (largest wrong logit minus the true one) or "dlr" (the
            margin, made independent of the scale of the logits).
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x = spsa(model, torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), eps=0.1, steps=3)
    >>> float((x - 0.5).abs().max()) <= 0.1 + 1e-6
    True
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    if not 0 < reach < float("inf"):
        raise ValueError(f"reach must be positive and finite, not {reach}")
    return pgd(
        _Estimated(model, samples, reach, fresh_seed(generator)), images, labels, eps=eps, steps=steps,
        step_size=step_size, restarts=restarts, loss=loss, stop_early=stop_early, generator=generator,
    )  # fmt: skip


class _Estimated(nn.Module):
    """A model's own logits, with the mean of what differences along random signs say of their gradient."""

    def __init__(self, model: nn.Module, samples: int, reach: float, seed: int) -> None:
        super().__init__()
        self.model, self.samples, self.reach, self.seed = model, samples, reach, seed
        self.network: nn.Module = getattr(model, "network", model)
        self.training = getattr(model, "training", False)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = ask(self.model, images)
        if not torch.is_grad_enabled():
            return logits
        carrier = torch.zeros_like(logits)
        for sample in range(self.samples):
            drawn = uniform(image_keys(images, self.seed, sample), images.shape[1:], dtype=images.dtype)
            signs = 1 - 2 * (drawn < 0.5).to(images.dtype)
            with torch.no_grad():
                ahead, behind = (ask(self.model, (images + r * signs).clamp(0, 1)) for r in (self.reach, -self.reach))
            along = (images * signs).flatten(1).sum(1, keepdim=True)  # whose gradient the signs are
            carrier = carrier + (ahead - behind) * along / (2 * self.reach * self.samples)
        return replace_gradient(logits, carrier)
