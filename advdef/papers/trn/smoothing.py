"""Smooth twins of ReLU networks, for whoever differentiates a gradient of the network once more.

Between its kinks the gradient of a ReLU network is constant, but for the softmax, and the softmax saturates: so its
second derivative says little about where the gradient will go. With softplus in place of ReLU it does, which is how
https://arxiv.org/abs/1906.07983 steers gradient maps; and a temperature takes the softmax out of saturation.
"""

import math

import torch
from torch import Tensor, nn

from advdef.contract import borrowed, check_logits, frozen, validate

__all__ = ["matching_temperature", "smoothed"]


class _Tempered(nn.Module):
    """The network's logits, divided by the temperature."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits / self.temperature


def smoothed(network: nn.Module, *, beta: float = 10.0, temperature: float = 1.0) -> nn.Module:
    """A frozen copy with softplus(beta x) / beta in place of every ReLU module, and logits divided by ``temperature``.

    Softplus exceeds ReLU by at most log(2) / beta, at zero. ReLUs that are called as functions stay, and so does
    max-pooling.

    Raises ValueError for a network without an ``nn.ReLU`` module, and for beta or temperature not positive and finite.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> smoothed(network, beta=5).network[2]
    Softplus(beta=5, threshold=20.0)
    """
    for name, value in (("beta", beta), ("temperature", temperature)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, not {value}")
    twin = frozen(_Tempered(network, temperature))
    # one ReLU may stand in many places, each of which has a name
    relus = [name for name, module in twin.named_modules(remove_duplicate=False) if isinstance(module, nn.ReLU)]
    if not relus:
        raise ValueError("the network has no nn.ReLU module to smooth: one that is called as a function does not count")
    for name in relus:
        parent, _, own = name.rpartition(".")
        setattr(twin.get_submodule(parent), own, nn.Softplus(beta).eval())
    return twin


def matching_temperature(network: nn.Module, images: Tensor, *, top: float = 0.9) -> float:
    """The temperature at which the largest softmax probability is ``top`` on average over images (N, C, H, W).

    It is at least 1: where the probabilities are that small already, it is 1. The network is asked in evaluation mode.

    Raises TypeError or ValueError for what are no images or logits, and ValueError unless ``top`` lies between 1/K and
    1.

    >>> image = torch.tensor([[[[0.25, 1.0]]]])  # both pixels are logits here
    >>> matching_temperature(nn.Flatten(), image), round(matching_temperature(nn.Flatten(), image, top=0.6), 3)
    (1.0, 1.85)
    """
    nothing = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    validate(images, nothing, 0.0)
    with borrowed(network, quiet=True), torch.no_grad():
        logits = torch.cat([network(part) for part in images.split(250)])
    check_logits(logits, nothing)
    logits = logits.cpu().double()  # not every device has double precision

    others = logits.shape[1] - 1
    odds = top * others / (1 - top) if top < 1 else 0.0
    if not odds > 1:
        raise ValueError(f"top must lie above 1/{others + 1} and below 1, not {top}")

    def mean_top(temperature: float) -> float:
        return float((logits / temperature).softmax(1).amax(1).mean())

    if mean_top(1.0) <= top:
        return 1.0
    # where the widest spread of logits could at most give this probability
    low, high = 1.0, float((logits.amax(1) - logits.amin(1)).max()) / math.log(odds)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_top(middle) > top else (low, middle)
    return high
