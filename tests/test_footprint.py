"""A network's footprint is what can be counted by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from contract import tiny
from torch import Tensor, nn

from advdef.papers.snn.classifiers import SmallSpikingResNet
from advdef.papers.snn.footprint import Footprint, footprint
from advdef.papers.snn.neurons import LEVELS, Firing, using
from advdef.papers.snn.surrogates import Surrogate


class Spiking(nn.Module):
    """Neurons that see the pixels as a constant current; one row of spikes per image."""

    def __init__(self, *layers: Firing) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> Tensor:
        found = [layer(images, constant=True).unflatten(0, (layer.steps, -1)).sum(0) for layer in self.layers]
        return torch.stack(found).sum(0).flatten(1)


class Keeps(nn.Module):
    """The square of the image, and its product with a parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))
        self.register_buffer("fixed", torch.ones(2000))

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat * images.flatten(1) + self.weight[: flat.shape[1]] * flat + self.fixed[: flat.shape[1]] * flat


def currents(*values: float) -> Tensor:
    """One image for each, of two pixels."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 1, 2).contiguous()


# By hand


def test_parameters_and_multiply_adds_of_layers_that_are_known() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2, bias=False),
        nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Flatten(), nn.Linear(2 * 8 * 8, 5),
    ).eval()  # fmt: skip
    found = footprint(model, torch.rand(3, 3, 8, 8))
    assert found.parameters == (8 * 3 * 9 + 8) + 16 + 8 * 2 + (4 * 2 * 4 + 2) + (128 * 5 + 5)
    assert found.multiply_adds == 16 * 8 * 27 + 16 * 4 * 4 + 16 * 4 * 2 * 4 + 128 * 5
    assert found.spikes == 0


def test_frozen_parameters_count_and_shared_ones_count_once() -> None:
    layer = nn.Linear(4, 4, bias=False).requires_grad_(False)
    found = footprint(nn.Sequential(nn.Flatten(), layer, layer), torch.rand(2, 1, 2, 2))
    assert found.parameters == 16
    assert found.multiply_adds == 2 * 16


@pytest.mark.parametrize(("current", "levels"), [(0.5, 0), (0.7, 1), (1.7, 2), (2.7, 3), (9.0, 3)])
def test_a_neuron_that_fires_at_three_levels_counts_thrice(current: float, levels: int) -> None:
    assert footprint(Spiking(Firing(1)), currents(current)).spikes == 2 * levels
    assert footprint(Spiking(Firing(1, thresholds=LEVELS[:1])), currents(current)).spikes == 2 * min(levels, 1)


def test_spikes_are_counted_over_all_steps_and_layers_and_per_image() -> None:
    """1.5 flows for two steps: level 0.6 fires twice, 1.6 once it has 1.5 / 4 + 1.5, 2.6 never; 0.5 fires once."""
    two = Firing(2)
    assert footprint(Spiking(two), currents(1.5)).spikes == 2 * 3
    assert footprint(Spiking(two), currents(0.5)).spikes == 2 * 1
    assert footprint(Spiking(two), currents(1.5, 0.5, 0.1, 0.1)).spikes == (6 + 2) / 4
    assert footprint(Spiking(two, Firing(1), Firing(1)), currents(1.7)).spikes == 2 * ((2 + 2) + 2 + 2)


def test_spikes_do_not_depend_on_the_surrogate() -> None:
    model = Spiking(Firing(2))
    expected = footprint(model, currents(1.5, 0.5)).spikes
    with using(model, Surrogate("membrane")):
        assert footprint(model, currents(1.5, 0.5)).spikes == expected == 4


def test_each_storage_is_kept_once_and_parameters_and_buffers_not_at_all() -> None:
    images = torch.rand(5, 1, 4, 3)
    found = footprint(Keeps(), images)
    assert found.kept_bytes == 12 * 4
    assert found.parameters == 1000
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 300), nn.Sigmoid(), nn.Linear(300, 2))
    assert footprint(layers, images).kept_bytes == (12 + 300) * 4
    assert footprint(layers.double(), images.double()).kept_bytes == (12 + 300) * 8


def test_neurons_keep_their_currents_alone() -> None:
    for layer in (Firing(1), Firing(4), Firing(4, thresholds=(0.3,), decay=0.5)):
        assert footprint(Spiking(layer), currents(1.0, 2.0)).kept_bytes == 2 * 4


# Networks


def spiking_network(steps: int, levels: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallSpikingResNet((1, 8, 8), 3, steps=steps, levels=levels, width=4).eval()


def test_a_footprint_grows_with_time_at_most_linearly() -> None:
    images = torch.rand(4, 1, 8, 8)
    found = [footprint(spiking_network(steps), images) for steps in (1, 2, 4, 8)]
    assert {one.parameters for one in found} == {sum(p.numel() for p in spiking_network(1).parameters())}
    for one, two in pairwise(found):
        assert one.kept_bytes < two.kept_bytes <= 2 * one.kept_bytes
        assert one.multiply_adds < two.multiply_adds < 2 * one.multiply_adds
    stem = 4 * 9 * 4 * 4  # sees the image once, and so do the pooled maps the head
    once = stem + 16 * 3
    assert [one.multiply_adds - once for one in found] == [(found[0].multiply_adds - once) * t for t in (1, 2, 4, 8)]
    assert found[0].spikes > 0
    assert footprint(spiking_network(4, levels=1), images).kept_bytes == found[2].kept_bytes


def test_it_is_that_of_one_image_however_many_there_are() -> None:
    image = torch.rand(1, 2, 3, 3)
    one, many = (footprint(tiny(), image.expand(n, -1, -1, -1).contiguous()) for n in (1, 7))
    assert one == many
    assert isinstance(one, Footprint)


class Fails(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("no")


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
def test_the_model_and_the_images_are_left_as_they_were(context: type[torch.no_grad]) -> None:
    model, images = spiking_network(2).train(), torch.rand(3, 1, 8, 8)
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    before, kept = {name: value.clone() for name, value in model.state_dict().items()}, images.clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    with context():
        found = footprint(model, images)
        assert torch.is_grad_enabled() is (context is torch.enable_grad)
    assert found == footprint(spiking_network(2), images)  # in evaluation mode
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(bool((parameter.grad == 7.0).all()) for parameter in model.parameters() if parameter.grad is not None)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert images.grad is None


def test_a_model_that_fails_is_left_as_it_was_too() -> None:
    model = nn.Sequential(Firing(1), nn.BatchNorm2d(1), Fails())
    with pytest.raises(RuntimeError, match="no"):
        footprint(model, torch.rand(2, 1, 4, 4))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())
