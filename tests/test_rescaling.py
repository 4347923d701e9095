"""Rescaled models compute the same function with other activations."""

from __future__ import annotations

import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.models import CleverhansCNN, SmallResNet
from advdef.papers.sensitivity.interventions import rescaled
from advdef.taps import tapped

BLOCK = ("stages.0.0.inner.1", "stages.0.0.second.0")


def lived_in(model: nn.Module, images: Tensor) -> nn.Module:
    """A model whose batch normalisation has seen data and has weights of its own."""
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for _ in range(5):
            model(images)
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(20, 3, 16, 16, generator=seeded())


@pytest.fixture
def model(images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    return lived_in(SmallResNet((3, 16, 16), 10, width=8), images)


def activations(model: nn.Module, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    with tapped(model, [layer]) as seen, torch.no_grad():
        logits = model(images)
    return logits, seen[layer]


def test_the_function_stays_and_the_activations_do_not(model: nn.Module, images: Tensor) -> None:
    factors = torch.logspace(-2, 2, 8)
    logits, maps = activations(model, "stages.0.0.inner", images)
    others, scaled = activations(rescaled(model, *BLOCK, factors), "stages.0.0.inner", images)
    assert float((others - logits).abs().max()) < 1e-5
    assert float(logits.std()) > 0.1  # a difference would show
    assert torch.allclose(scaled, factors[:, None, None] * maps, rtol=1e-5, atol=1e-5)


def test_powers_of_two_change_no_bit(model: nn.Module, images: Tensor) -> None:
    factors = 2.0 ** torch.arange(-4, 4)
    assert torch.equal(rescaled(model, *BLOCK, factors)(images), model(images))


def test_training_batches_see_the_same_function_too(model: nn.Module, images: Tensor) -> None:
    other = rescaled(model, *BLOCK, 2.0 ** torch.arange(-4, 4)).train()
    assert torch.equal(other(images), model.train()(images))


def test_a_convolution_without_norm_before_a_flattened_map(images: Tensor) -> None:
    torch.manual_seed(0)
    model = CleverhansCNN((3, 32, 32), 10)
    image = torch.rand(4, 3, 32, 32, generator=seeded())
    other = rescaled(model, "layers.4", "layers.7", 2.0 ** (torch.arange(128) % 5))
    assert torch.equal(other(image), model(image))
    assert not torch.equal(other.layers[4](torch.rand(1, 128, 6, 6)), model.layers[4](torch.rand(1, 128, 6, 6)))


def test_the_model_itself_stays_as_it_was(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rescaled(model, *BLOCK, torch.full((8,), 3.0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("factors", [torch.ones(8).fill_(0), torch.full((8,), -1.0), torch.full((8,), torch.inf)])
def test_factors_must_be_positive_and_finite(model: nn.Module, factors: Tensor) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        rescaled(model, *BLOCK, factors)


@pytest.mark.parametrize(
    ("norm", "following", "error", "message"),
    [
        ("stages.0.0.inner.1", "nowhere", ValueError, "SmallResNet has no layer 'nowhere'; it has stem, "),
        (
            "stages.0.0.inner.2",
            "stages.0.0.second.0",
            TypeError,
            r"'stages\.0\.0\.inner\.2' must be a Conv2d, Linear or",
        ),
        (
            "stages.0.0.inner.1",
            "stages.0.0.second.1",
            TypeError,
            r"'stages\.0\.0\.second\.1' must be a Linear or a Conv",
        ),
        ("stages.0.0.inner.1", "stages.2.0.second.0", ValueError, r"8 neurons and 'stages\.2\.0\.second\.0' 32 inputs"),
        (
            "stages.1.0.inner.1",
            "stages.1.0.second.0",
            ValueError,
            r"16 neurons and .* 16 inputs: no factors \(8,\) fit",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    model: nn.Module, norm: str, following: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rescaled(model, norm, following, torch.ones(8))


def test_norms_without_weights_and_grouped_convolutions_are_refused() -> None:
    layers = [nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)]
    with pytest.raises(TypeError, match=r"'0' must be .* with weights"):
        rescaled(nn.Sequential(*layers), "0", "2", torch.ones(4))
    layers[0] = nn.BatchNorm2d(4)
    with pytest.raises(TypeError, match=r"'2' must be .* of one group"):
        rescaled(nn.Sequential(*layers), "0", "2", torch.ones(4))
