"""A spiking classifier as a defence, or with one that lies in its training: what an attacker knows of its gradient."""

from collections.abc import Mapping

from torch import nn

from advdef.defenses.base import Undefended
from advdef.models.spiking import REDUCED, Surrogate, neurons_of, stand_ins

__all__ = ["SpikingClassifier"]


class SpikingClassifier(Undefended):
    """A spiking network alone. Its surrogates are itself with other derivatives of a spike.

    How well a white-box attack does depends on that derivative (https://arxiv.org/abs/2209.03358), and the one of
    training need not be the attacker's. Raises ValueError for a network without spiking layers.
    """

    def __init__(
        self, classifier: nn.Module, *, twin: nn.Module | None = None, derivatives: Mapping[str, Surrogate] = REDUCED
    ) -> None:
        super().__init__(classifier, twin=twin)
        neurons_of(classifier)
        self.derivatives = dict(derivatives)

    def surrogates(self) -> dict[str, nn.Module]:
        """The same network, through each derivative."""
        return stand_ins(self, self.derivatives)
