"""Networks that several test files ask for."""

from torch import nn


def small_network() -> nn.Sequential:
    """A quick classifier of 28x28 grey images."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 10),
    )
