"""A network that was trained to keep its sensitive neurons still, and the attacks that know which ones these are."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from advdef.attacks.suites import Suite
from advdef.data import Split
from advdef.defenses.base import Undefended
from advdef.papers.sensitivity.attacks import feature_adversary, feature_routing, neuron_targeted
from advdef.selection import select
from advdef.taps import check_layers

__all__ = ["Stabilized"]


class Stabilized(Undefended):
    """A network trained by SNS or one of its variants (https://arxiv.org/abs/1909.06978).

    Its attacks route the change around the neurons that were held still, push the sensitive features, and move features
    towards those of an image with another label. The network is deterministic and differentiable, so there are no
    surrogates.

    Args:
        classifier: The trained network.
        sensitivity: Sensitivities (C,) by layer.
        guides: Images whose features an attack may imitate.
        held: The neurons that training held still, as indices by layer. Default: the sensitive ones.
        ratio: The share of each layer's neurons, those with the largest sensitivities, that counts as sensitive.
        features: The layer (N, C) that ``head`` reads.
        head: The linear layer that makes the logits.
        twin: A network that was trained without SNS, which the oblivious attacker crafts on.

    Raises ValueError for a layer that the network does not have, and where ``sensitivity`` lacks that of ``features``.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        sensitivity: Mapping[str, Tensor],
        guides: Split,
        held: Mapping[str, Tensor] | None = None,
        ratio: float = 0.1,
        features: str = "pool",
        head: str = "head",
        twin: nn.Module | None = None,
    ) -> None:
        super().__init__(classifier, twin=twin)
        check_layers(classifier, [*sensitivity, features, head])
        if features not in sensitivity:
            raise ValueError(f"no sensitivity of {features!r}; there is that of {', '.join(sensitivity)}")
        self.sensitivity, self.sensitive = dict(sensitivity), select(sensitivity, ratio=ratio)
        self.most_sensitive = select({features: sensitivity[features]}, k=1)[features]
        self.held, self.guides = self.sensitive if held is None else dict(held), guides
        check_layers(classifier, self.held)
        self.features, self.head = features, head

    def adaptive_attacks(self, eps: float) -> Suite:
        """Feature routing with four weights; neuron-targeted, at one unit and at all sensitive ones; the feature
        adversary.
        """
        head: Tensor = self.network.get_submodule(self.head).weight.detach()  # type: ignore[operator]
        # what breaks is judged on this very network, so an image is left alone once it is broken
        inside: dict[str, Any] = {"network": self.network, "stop_early": True}
        routing = partial(feature_routing, chosen=self.held, **inside)
        targeted = partial(neuron_targeted, layer=self.features, head=head, **inside)
        maps = [name for name in self.sensitive if name != self.features][-1:]
        guides: dict[str, Any] = {"guides": self.guides.float_images(), "guide_labels": self.guides.labels}
        return {
            f"routing, gamma {gamma:g}, eta {eta:g}": partial(routing, gamma=gamma, eta=eta)
            for gamma, eta in ((0.1, 0.0), (1.0, 0.0), (10.0, 0.0), (1.0, 1.0))
        } | {
            "neuron-targeted, most sensitive unit": partial(targeted, units=self.most_sensitive),
            "neuron-targeted, sensitive units": partial(targeted, units=self.sensitive[self.features]),
            "feature adversary": partial(feature_adversary, layers=(*maps, self.features), **guides, **inside),
        }
