"""The classifiers are those of the papers, to the last parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advdef.models import CleverhansCNN


@pytest.mark.parametrize(
    ("shape", "parameters", "maps"),
    [
        ((1, 28, 28), 710_218, [(64, 14, 14), (128, 5, 5), (128, 1, 1)]),
        ((3, 32, 32), 722_250, [(64, 16, 16), (128, 6, 6), (128, 2, 2)]),
    ],
)
def test_cleverhans_cnn(shape: tuple[int, int, int], parameters: int, maps: list[tuple[int, int, int]]) -> None:
    model = CleverhansCNN(shape, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    seen: list[tuple[int, ...]] = []
    for layer in model.layers:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    assert model(torch.rand(2, *shape)).shape == (2, 10)
    assert seen == maps
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear"]


@pytest.mark.parametrize("side", [28, 30, 32, 48, 64])
def test_every_even_side_fits(side: int) -> None:
    assert CleverhansCNN((1, side, side), 7)(torch.rand(1, 1, side, side)).shape == (1, 7)


@pytest.mark.parametrize("shape", [(1, 28, 32), (1, 29, 29), (1, 26, 26), (3, 8, 8)])
def test_other_sides_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="square images with an even side of at least 28"):
        CleverhansCNN(shape, 10)


def test_weights_are_he_normal() -> None:
    torch.manual_seed(0)
    model = CleverhansCNN((3, 32, 32), 10)
    for layer in model.layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
            assert layer.bias is not None
            assert not bool(layer.bias.any())
