"""What every defence is: a module as deployed, and what an attacker who knows it needs."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from advdef.attacks.suites import Suite

__all__ = ["Defense", "Undefended"]


class Defense(nn.Module, ABC):
    """Images (N, C, H, W) in [0, 1] -> logits (N, classes), as deployed: hard decisions included, no label taken."""

    exact: bool = True
    """Whether every surrogate has the defence's own values. If not, an attack on one of them does not stop at its first
    success, which the defence might not grant, but goes on for a large margin."""

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
        :func:`advdef.attacks.straight_through`), so that its best iterate is the defence's best iterate.
        """
        return {}

    def adaptive_attacks(self, eps: float) -> Suite:
        """Attacks that exist only because of this defence; called with it as their model, each takes ``steps``."""
        return {}


class Undefended(Defense):
    """The classifier alone: every threat model is the same attack on it.

    A classifier whose defence is its training (adversarial training, say) has a ``twin`` that was trained without it,
    which is what an attacker who ignores the defence crafts on.
    """

    def __init__(self, classifier: nn.Module, *, twin: nn.Module | None = None) -> None:
        super().__init__()
        self._classifier, self._twin = classifier, twin
        self.training = classifier.training

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
        logits: Tensor = self._classifier(images)
        return logits
