"""What every defence is: a module as deployed, and what an attacker who knows it needs."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from advdef.attacks.suites import Suite
from advdef.contract import ask
from advdef.draws import image_keys

__all__ = ["Defense", "ImageDraws", "Undefended"]

Part = TypeVar("Part", bound=nn.Module)


class Defense(nn.Module, ABC):
    """Images (N, C, H, W) in [0, 1] -> logits (N, classes), as deployed: hard decisions included, no label taken."""

    exact: bool = True
    """Whether every surrogate has the defence's own values. If not, an attack on one of them does not stop at its first
    success, which the defence might not grant, but goes on for a large margin."""

    random: bool = False
    """Whether two passes may differ. A random defence is attacked through the expectation over its draws and judged on
    draws that had no part in the attack (:func:`advdef.evaluation.evaluate`)."""

    @property
    @abstractmethod
    def classifier(self) -> nn.Module:
        """The bare model that an attacker who ignores the defence crafts on."""

    @property
    def network(self) -> nn.Module:
        """The module whose forward and backward passes are counted as the cost of an attack."""
        return self.classifier

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits of the deployed defence."""

    def surrogates(self) -> dict[str, nn.Module]:
        """Differentiable stand-ins, by name. Adaptive attacks run on these and are judged on the defence itself.

        A stand-in should have the defence's own values and only another gradient (see
        :func:`advdef.attacks.straight_through`), so that its best iterate is the defence's best iterate. The parts of
        another defence that this one stands in front of are not its concern: see :meth:`over`.
        """
        return {}

    def adaptive_attacks(self, eps: float) -> Suite:
        """Attacks that exist only because of this defence; called with it as their model, each takes ``steps``."""
        return {}

    def over(self, classifier: nn.Module) -> "Defense":
        """A copy of this defence with another network behind it, which takes its own one's place wherever that is used.

        So the surrogates of a defence in front of a defence are this one's in front of each of the other's.
        """
        return with_parts(self, {id(self.network): classifier})


class Undefended(Defense):
    """The classifier alone: every threat model is the same attack on it.

    A classifier whose defence is its training (adversarial training, say) has a ``twin`` that was trained without it,
    which is what an attacker who ignores the defence crafts on. Set ``random`` for one that draws random numbers.
    """

    def __init__(self, classifier: nn.Module, *, twin: nn.Module | None = None, random: bool = False) -> None:
        super().__init__()
        self._classifier, self._twin, self.random = classifier, twin, random
        self.training = getattr(classifier, "training", False)

    @property
    def classifier(self) -> nn.Module:
        """The twin if there is one, else the classifier itself."""
        return self._classifier if self._twin is None else self._twin

    @property
    def network(self) -> nn.Module:
        """The classifier itself."""
        return self._classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classifier."""
        return ask(self._classifier, images)


class ImageDraws:
    """The random numbers of a defence: for each image, in each pass, by a seed (:mod:`advdef.draws`)."""

    def __init__(self, seed: int = 0) -> None:
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin anew."""
        self.seed, self.passes = seed, 0

    def next_keys(self, images: Tensor) -> Tensor:
        """The keys (N,) of the images (N, C, H, W) in the next pass."""
        self.passes += 1
        return image_keys(images, self.seed, self.passes)


def with_parts(model: Part, parts: Mapping[int, nn.Module]) -> Part:
    """A copy of a model with other modules in place of some, by their id, wherever it refers to them.

    Raises TypeError for a model that cannot be copied.
    """
    try:
        return copy.deepcopy(model, dict(parts))
    except (TypeError, RuntimeError) as failure:
        what = f"{type(model).__name__} cannot be copied to stand in front of another network ({failure})"
        raise TypeError(f"{what}: override its method over(classifier)") from failure


def is_random(model: nn.Module) -> bool:
    """Whether a model is, or has in it, a defence that says that it draws random numbers."""
    return any(isinstance(module, Defense) and module.random for module in model.modules())


def reseed(model: nn.Module, seed: int) -> None:
    """Begin the draws of every part of a model anew that has its own and a method ``reseed(seed)``."""
    for module in model.modules():
        if callable(begin := getattr(module, "reseed", None)):
            begin(seed)
