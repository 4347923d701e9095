"""What searches for the closest adversarial image find, ours and those of other libraries."""

from dataclasses import dataclass

from torch import Generator, Tensor, nn

from advdef.attacks.attack import Attack
from advdef.evaluation import correct

__all__ = ["ClosestFound", "search_closest"]


@dataclass(frozen=True)
class ClosestFound:
    """What a search found on images that the model gets right.

    Attributes:
        broken: (N,) booleans: the images that the model, asked again, gets wrong.
        l2: The median size of the changes that broke an image; NaN where none did.
        stirred: Of the pixels of 0 and 1 in the images that were broken, the share that moved by more than 0.001.
    """

    broken: Tensor
    l2: float
    stirred: float

    @property
    def share(self) -> float:
        """The share of the images that were broken."""
        return self.broken.float().mean().item()


def search_closest(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, *, generator: Generator
) -> ClosestFound | None:
    """Let an attack look for the closest adversarial images, without a budget; None where its library is missing.

    Args:
        attack: The attack.
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1]: images that the model gets right.
        labels: (N,), int64.
        generator: Source of the attack's random numbers.
    """
    try:
        moved = attack(model, images, labels, eps=float("inf"), generator=generator)
    except ImportError:
        return None
    broken = ~correct(model, moved, labels)
    change, ends = (moved - images)[broken], ((images == 0) | (images == 1))[broken]
    stirred = (change.abs() > 1e-3)[ends].float().mean().item()
    return ClosestFound(broken, change.flatten(1).norm(dim=1).median().item(), stirred)
