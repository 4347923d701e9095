"""A small network that the package brings, to try things on."""

from functools import partial

from torch import nn

from advdef.data import Dataset, load
from advdef.training import train_standard, trained

__all__ = ["digits_network", "small_network"]


def digits_network() -> nn.Module:
    """A small network for the built-in digits, in evaluation mode; trained in seconds on first use, and kept."""
    return small_network(load("digits"))


def small_network(data: Dataset, *, epochs: int = 6, seed: int = 0) -> nn.Module:
    """Two convolutions and a linear layer for a data set, in evaluation mode; trained on first use, and kept."""
    options = {"epochs": epochs, "learning_rate": 5e-3, "schedule": "one_cycle"}
    return trained(partial(_built, data.shape[0], data.num_classes), train_standard, data, seed=seed, **options).model


def _built(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, classes),
    )
