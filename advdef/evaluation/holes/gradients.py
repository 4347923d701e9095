"""The models whose gradients the search for holes follows: the stand-ins of a defence, their mean, smoothed ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advdef.attacks.losses import margin
from advdef.attacks.wrappers import expectation, replace_gradient, straight_through
from advdef.contract import ask, slope
from advdef.defenses.base import Defense, is_random
from advdef.draws import image_keys, normal
from advdef.evaluation.threats import stand_ins

__all__ = ["Guide", "MeanOf", "Smoothed", "guides"]

_COPIES = 8


@dataclass(frozen=True, eq=False)
class Guide:
    """A model that has a gradient, and what one pass through it costs, in passes of the defence."""

    model: nn.Module
    price: int = 1


class MeanOf(nn.Module):
    """The mean logits of several models."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        return torch.stack([ask(model, images) for model in self.models]).mean(0)


class Smoothed(nn.Module):
    """A model's own logits, with the mean gradient over ``copies`` of the image under Gaussian noise of size ``sigma``.

    The noise follows from the pixels (:mod:`advdef.draws`), so it is another one at each point of a search.
    """

    def __init__(self, model: nn.Module, sigma: float, copies: int = _COPIES) -> None:
        super().__init__()
        self.model, self.sigma, self.copies = model, sigma, copies
        self.network = getattr(model, "network", model)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        if not torch.is_grad_enabled():
            return ask(self.model, images)
        with torch.no_grad():
            value = ask(self.model, images)
        noise = [
            normal(image_keys(images, 0, copy), images.shape[1:], dtype=images.dtype) for copy in range(self.copies)
        ]
        return replace_gradient(value, torch.stack([ask(self.model, images + self.sigma * n) for n in noise]).mean(0))


def guides(
    defence: Defense, images: Tensor, labels: Tensor, *, eps: float, through: Mapping[str, nn.Module] | None = None
) -> dict[str, Guide]:
    """All whose gradients may lead out of the defence, by name; at least the defence itself.

    A stand-in with other values than the defence lends it its gradient alone, unless the defence draws random numbers.
    ``through`` are further ones, each with the defence's own values. Left out is what has no gradient at any of the
    images (N, C, H, W).
    """
    random = is_random(defence)
    exact = random or all(part.exact for part in defence.modules() if isinstance(part, Defense))
    found = {
        name: target if exact else straight_through(defence, target) for name, target in stand_ins(defence).items()
    }
    several = list(found.values())
    first = several[0] if several else defence
    made = {"the defence itself": Guide(expectation(defence, _COPIES), _COPIES) if random else Guide(defence)}
    made |= {name: Guide(target) for name, target in found.items()}
    if len(several) > 1:
        first = MeanOf(several) if random else straight_through(defence, MeanOf(several))
        made["the mean of all stand-ins"] = Guide(first, len(several))
    price = made["the mean of all stand-ins"].price if len(several) > 1 else 1
    label = {0: "the defence", 1: next(iter(found), "")}.get(len(several), "the mean of all stand-ins")
    for share in (0.25, 1.0):
        smooth = Guide(Smoothed(first, share * eps), _COPIES * price)
        made[f"{label} under noise of {share:g} eps"] = smooth
    made |= {name: Guide(target) for name, target in (through or {}).items()}
    alive = {name: guide for name, guide in made.items() if _leads(guide.model, images, labels)}
    return alive or {"the defence itself": made["the defence itself"]}


def _leads(model: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Whether the margin has a gradient at any of the images."""
    with torch.enable_grad():
        point = images.clone().requires_grad_()
        return bool(slope(margin(ask(model, point), labels).sum(), point).any())
