"""What defences share that add something to an image by the class they take it for, and the attacks on that choice."""

from abc import abstractmethod
from functools import partial

from torch import Tensor, nn

from advdef.attacks.objective import Offset
from advdef.attacks.suites import Suite
from advdef.defenses.transforms import Preprocessed
from advdef.papers.nip.attacks import precompensated, two_conditions

__all__ = ["AddedOffset", "by_class"]


class AddedOffset(Preprocessed):
    """A defence that adds to an image an offset that it looks up or computes by the image's predicted class."""

    @abstractmethod
    def offset(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """What is added (N, C, H, W) to images believed to be of ``classes`` (N,), by default those predicted.

        It is a constant to autograd.
        """

    def prepare(self, images: Tensor) -> Tensor:
        """The images with their offsets, clipped to [0, 1]."""
        return (images + self.offset(images)).clamp(0, 1)

    def adaptive_attacks(self, eps: float) -> Suite:
        """Attacks that make the look-up wrong, or undo what it adds in advance."""
        return by_class(self.classifier, self.offset)


def by_class(network: nn.Module, offset: Offset) -> Suite:
    """The attacks on a defence that adds an ``offset`` chosen by the class that ``network`` predicts."""
    return {
        "two conditions": partial(two_conditions, network=network, offset=offset, stop_early=True),
        "pre-compensated": partial(precompensated, network=network, offset=offset),
    }
