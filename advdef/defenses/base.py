"""What every defence is: the module as deployed, and what an attacker who knows it needs."""

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
    """A defence as deployed: images (N, C, H, W) in [0, 1] -> logits (N, K). No label ever reaches it.

    Its hard decisions are part of it. A subclass gives ``classifier`` and ``forward``, and owes the adaptive attacker
    ``surrogates`` for all that has no gradient, and ``adaptive_attacks`` that are made for it.
    """

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
        """Logits (N, K) of the deployed defence."""

    def surrogates(self) -> dict[str, nn.Module]:
        """Differentiable stand-ins, by name: adaptive attacks run on them and are judged on the defence itself.

        A stand-in should have the defence's own values and only another gradient (see
        :func:`advdef.attacks.straight_through`): then its best iterate is the defence's best iterate. Where this
        defence stands in front of another one, that one has its own stand-ins, and this method need not care (see
        :meth:`over`).
        """
        return {}

    def adaptive_attacks(self, eps: float) -> Suite:
        """Attacks that exist only because of this defence, by name.

        They are called with the defence as their model, and each has the parameters ``steps`` and ``restarts``.
        """
        return {}

    def over(self, classifier: nn.Module) -> "Defense":
        """A copy of this defence in front of another network, which takes the place of its own wherever that is used.

        It is how stacked defences are attacked: each surrogate of the one behind is put behind a copy of the one in
        front.
        """
        return with_parts(self, {id(self.network): classifier})


class Undefended(Defense):
    """The classifier alone: for an attacker who ignores, meets or knows the defence it is the same.

    A classifier that is defended by its training (adversarial training, say) can be given a ``twin`` that was trained
    without it: the oblivious attacker crafts on the twin. Set ``random`` for a classifier that draws random numbers.
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
    """The random numbers of a defence, which follow from the seed, the number of the pass and the image's own pixels.

    See :mod:`advdef.draws`.
    """

    def __init__(self, seed: int = 0) -> None:
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin a new sequence: the next pass is the first one under this seed."""
        self.seed, self.passes = seed, 0

    def next_keys(self, images: Tensor) -> Tensor:
        """The keys (N,) of images (N, C, H, W) in the next pass."""
        self.passes += 1
        return image_keys(images, self.seed, self.passes)


def with_parts(model: Part, parts: Mapping[int, nn.Module]) -> Part:
    """A copy of a model in which other modules, given by the id of what they replace, stand wherever those are used.

    Raises TypeError for a model that cannot be copied.
    """
    try:
        return copy.deepcopy(model, dict(parts))
    except (TypeError, RuntimeError) as failure:
        what = f"{type(model).__name__} cannot be copied to stand in front of another network ({failure})"
        raise TypeError(f"{what}: override its method over(classifier)") from failure


def is_random(model: nn.Module) -> bool:
    """Whether the model is, or has somewhere inside, a defence that says that it draws random numbers."""
    return any(isinstance(module, Defense) and module.random for module in model.modules())


def reseed(model: nn.Module, seed: int) -> None:
    """Call ``reseed(seed)`` of every part of a model that has such a method."""
    for module in model.modules():
        if callable(begin := getattr(module, "reseed", None)):
            begin(seed)
