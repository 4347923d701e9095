"""Defences that add to an image what they look up or compute by its class, and the attacks that know it."""

from abc import abstractmethod
from functools import partial

from torch import Tensor, nn

from advdef.attacks.objective import Offset
from advdef.attacks.suites import Suite
from advdef.defenses.transforms import Preprocessed
from advdef.papers.nip.attacks import precompensated, two_conditions

__all__ = ["AddedOffset", "by_class"]


class AddedOffset(Preprocessed):
    """A defence that adds to an image what it looks up or computes by the class that it takes the image for."""

    @abstractmethod
    def offset(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """What is added (N, C, H, W) to images believed to be of ``classes`` (N,), by default those predicted.

        A constant to autograd.
        """

    def prepare(self, images: Tensor) -> Tensor:
        """The images with their offsets, in [0, 1]."""
        return (images + self.offset(images)).clamp(0, 1)

    def adaptive_attacks(self, eps: float) -> Suite:
        """Towards a class that an image has both before and after the defence; and undoing the defence in advance."""
        return by_class(self.classifier, self.offset)


def by_class(network: nn.Module, offset: Offset) -> Suite:
    """The attacks on a defence that chooses what to add by the class predicted by ``network``."""
    return {
        "two conditions": partial(two_conditions, network=network, offset=offset, stop_early=True),
        "pre-compensated": partial(precompensated, network=network, offset=offset),
    }
