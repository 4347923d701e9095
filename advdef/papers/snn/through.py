"""Stand-ins for spiking networks, which differ from them in their gradient alone."""

from collections.abc import Mapping

from torch import Tensor, nn

from advdef.papers.snn.neurons import neurons_of, using
from advdef.papers.snn.surrogates import Surrogate

__all__ = ["Through", "spiking_stand_ins"]


class Through(nn.Module):
    """A model with its own values, and the gradient that other surrogates give to its spiking layers.

    ``surrogates`` are those of :func:`advdef.papers.snn.neurons.using`. Weights are shared with the model. Raises
    ValueError for a key that fits no spiking layer, and for a model that has none.
    """

    def __init__(self, model: nn.Module, surrogates: Surrogate | Mapping[str, Surrogate]) -> None:
        super().__init__()
        with using(model, surrogates):
            pass
        self.model, self.surrogates = model, surrogates
        self.network: nn.Module = getattr(model, "network", model)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """What the model makes of the images."""
        with using(self.model, self.surrogates):
            found: Tensor = self.model(images)
        return found


def spiking_stand_ins(
    model: nn.Module, surrogates: Mapping[str, Surrogate | Mapping[str, Surrogate]]
) -> dict[str, nn.Module]:
    """A stand-in for each entry of ``surrogates``; none for a model without spiking layers, whose own gradient is
    exact.
    """
    try:
        neurons_of(model)
    except ValueError:
        return {}
    return {name: Through(model, chosen) for name, chosen in surrogates.items()}
