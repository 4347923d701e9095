"""A network trained to keep its sensitive neurons still, as deployed, with the attacks that know which these are."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from advdef._selection import select
from advdef.attacks import feature_adversary, feature_routing, neuron_targeted
from advdef.attacks.suites import Suite
from advdef.data import Split
from advdef.defenses.base import Undefended
from advdef.taps import check_layers

__all__ = ["Stabilized"]


class Stabilized(Undefended):
    """A network trained by SNS or a sibling (https://arxiv.org/abs/1909.06978).

    Its attacks route the change around the sensitive neurons, push the single ones that matter most, and move features
    towards those of ``guides`` with other labels. ``sensitivity`` holds (C,) for each layer, of which the largest
    ``ratio`` count as sensitive; ``features`` names the layer (N, C) that the linear layer ``head`` reads. The network
    is deterministic and differentiable, so there is nothing to stand in for.

    Raises ValueError for a layer that the network does not have, or features without sensitivity.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        sensitivity: Mapping[str, Tensor],
        guides: Split,
        ratio: float = 0.1,
        features: str = "pool",
        head: str = "head",
        twin: nn.Module | None = None,
    ) -> None:
        super().__init__(classifier, twin=twin)
        check_layers(classifier, dict.fromkeys([*sensitivity, features, head]))
        if features not in sensitivity:
            raise ValueError(f"no sensitivity of {features!r}; there is that of {', '.join(sensitivity)}")
        self.sensitivity, self.guides, self.ratio = dict(sensitivity), guides, ratio
        self.features, self.head = features, head

    def adaptive_attacks(self, eps: float) -> Suite:
        """Feature routing with four weights, neuron-targeted (one unit and all sensitive ones), feature adversary."""
        network, chosen = self.network, select(self.sensitivity, ratio=self.ratio)
        head: Tensor = network.get_submodule(self.head).weight.detach()  # type: ignore[operator]
        routing = partial(feature_routing, chosen=chosen, network=network)
        single = partial(neuron_targeted, layer=self.features, head=head, network=network)
        most = select({self.features: self.sensitivity[self.features]}, k=1)[self.features]
        maps = [name for name in self.sensitivity if name != self.features][-1:]
        guided = partial(feature_adversary, guides=self.guides.float_images(), guide_labels=self.guides.labels)
        return {
            f"routing, gamma {gamma:g}, eta {eta:g}": partial(routing, gamma=gamma, eta=eta)
            for gamma, eta in ((0.1, 0.0), (1.0, 0.0), (10.0, 0.0), (1.0, 1.0))
        } | {
            "neuron-targeted, most sensitive unit": partial(single, units=most),
            "neuron-targeted, sensitive units": partial(single, units=chosen[self.features]),
            "feature adversary": partial(guided, layers=(*maps, self.features), network=network),
        }
