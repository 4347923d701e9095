"""A small network that the package brings, to try things on: trained on the built-in digits in seconds."""

from functools import partial

from torch import nn

from advdef.data import load
from advdef.models import SmallResNet
from advdef.training import train_standard, trained

__all__ = ["digits_network"]


def digits_network() -> nn.Module:
    """A residual network for the digits, in evaluation mode; trained on first use, and kept in the cache."""
    data = load("digits")
    build = partial(SmallResNet, data.shape, data.num_classes)
    return trained(
        build, train_standard, data, seed=0, epochs=6, learning_rate=3e-3, schedule="one_cycle"
    ).model  # fmt: skip
