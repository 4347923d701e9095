"""Smooth twins are the network in the limit, have the second derivative that it lacks, and leave it alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from contract import seeded, spoiled
from torch import Tensor, nn

from advdef.contract import ProbabilitiesWarning, frozen, slope
from advdef.models import CleverhansCNN
from advdef.papers.trn.maps import GradientMap
from advdef.papers.trn.smoothing import matching_temperature, smoothed


class Block(nn.Module):
    """A sum of two ways, with a ReLU that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        summed: Tensor = self.relu(maps + self.relu(self.inner(maps) - 0.2))
        return summed


def network() -> nn.Sequential:
    """Blocks one of which stands in two places, a ReLU in two more, and parts whose mode matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shared, block = nn.ReLU(), Block()
        return nn.Sequential(
            block, Block(), block, nn.Flatten(), nn.Linear(18, 9), shared, nn.Linear(9, 9), shared, nn.Dropout(),
            nn.Linear(9, 4),
        ).double().eval()  # fmt: skip


def pixels(n: int = 6) -> Tensor:
    return torch.rand(n, 2, 3, 3, generator=seeded(), dtype=torch.float64)


def linear(scale: float = 1.0, classes: int = 4) -> nn.Sequential:
    """Random logits (N, classes) of images (N, 2, 3, 3), in proportion to the scale."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(18, classes)).double()
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


# The smooth twin


def test_softplus_by_hand() -> None:
    model, images = nn.Sequential(nn.Flatten(), nn.ReLU()), torch.tensor([[[[-1.0, 0.0, 0.5]]]])
    expected = [math.log(1 + math.exp(3 * x)) / 3 / 2 for x in (-1, 0, 0.5)]
    assert smoothed(model, beta=3, temperature=2)(images)[0].tolist() == pytest.approx(expected)


def test_the_sharper_the_nearer_to_the_network() -> None:
    model, images = network(), pixels()
    with torch.no_grad():
        errors = [float((smoothed(model, beta=beta)(images) - model(images)).abs().max()) for beta in (1, 10, 100, 1e4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-3


def test_the_temperature_divides_the_logits() -> None:
    model, images = network(), pixels()
    assert torch.allclose(smoothed(model, temperature=4)(images), smoothed(model)(images) / 4, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [network, lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), nn.ReLU])
def test_no_relu_is_left_wherever_it_stands(make: Any) -> None:
    twin = smoothed(make(), beta=7)
    kinds = [type(module) for _, module in twin.named_modules(remove_duplicate=False)]
    assert nn.ReLU not in kinds
    assert kinds.count(nn.Softplus) == [type(m) for _, m in make().named_modules(remove_duplicate=False)].count(nn.ReLU)
    assert {module.beta for module in twin.modules() if isinstance(module, nn.Softplus)} == {7}


def bend(model: nn.Module, images: Tensor) -> Tensor:
    """Gradient of the squared length of the first logit's gradient: zero where the logits are piecewise linear."""
    point = images.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(point)[:, 0].sum(), point, create_graph=True)
    return slope((first**2).sum(), point)


def test_the_second_derivative_that_the_network_lacks() -> None:
    model, images = network(), pixels()
    assert not bool(bend(model, images).any())
    twin = smoothed(model)
    found = bend(twin, images)
    assert bool((found.flatten(1).norm(dim=1) > 1e-3).all())
    point = images[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.autograd.grad(twin(x)[:, 0].sum(), x, create_graph=True)[0], point)


def test_a_gradient_map_of_a_saturated_network_moves_with_the_image_once_smoothed() -> None:
    model, images = network(), pixels()
    with torch.no_grad():
        model[-1].weight.mul_(1000)

    def moved(classifier: nn.Module) -> float:
        point = images.clone().requires_grad_()
        maps = GradientMap(classifier)(point)
        weights = torch.rand(maps.shape, generator=seeded(3), dtype=maps.dtype)
        return float(slope((maps * weights).sum(), point).norm())

    assert moved(frozen(model)) < 1e-3
    assert moved(smoothed(model, temperature=matching_temperature(model, images))) > 1


def test_the_twin_is_frozen_and_the_network_as_before() -> None:
    model = network().train()
    model[1].eval()  # a mixed mode comes back mixed
    before = copy.deepcopy(model)
    twin = smoothed(model, temperature=2)
    twin(pixels())
    assert not any(module.training for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert str(model) == str(before)
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model[4].weight.zero_()
    assert torch.equal(twin(pixels()), smoothed(before, temperature=2)(pixels()))


def test_images_and_logits_keep_their_precision() -> None:
    for dtype in (torch.float32, torch.float64):
        assert smoothed(network().to(dtype))(pixels().to(dtype)).dtype == dtype


def test_a_network_of_the_papers_is_smoothed() -> None:
    model, images = CleverhansCNN((1, 28, 28), 10).eval(), torch.rand(2, 1, 28, 28, generator=seeded())
    assert torch.allclose(smoothed(model, beta=1e4)(images), model(images), rtol=0, atol=1e-3)


class Functional(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).relu()


@pytest.mark.parametrize("model", [Functional(), nn.Sequential(nn.Flatten(), nn.Tanh())])
def test_a_network_without_a_relu_to_replace_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"no nn\.ReLU module"):
        smoothed(model)


def test_what_is_not_positive_and_finite_is_refused() -> None:
    for value in [0.0, -1.0, float("inf"), float("nan")]:
        for name in ["beta", "temperature"]:
            with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
                smoothed(network(), **{name: value})


# The temperature


@pytest.mark.parametrize("top", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_probability_is_reached(top: float, dtype: torch.dtype) -> None:
    model, images = linear(1000).to(dtype), pixels(20).to(dtype)
    found = matching_temperature(model, images, top=top)
    assert found > 1
    logits = model(images).detach().double()
    assert float((logits / found).softmax(1).amax(1).mean()) == pytest.approx(top, abs=1e-9)


def test_the_temperature_of_two_logits_by_hand() -> None:
    """Of logits 0 and 30 the larger has probability 1 / (1 + exp(-30 / T))."""
    model, image = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)), torch.tensor([[[[0.0, 1.0]]]])
    nn.init.eye_(model[1].weight).data.mul_(30)
    assert matching_temperature(model, image) == pytest.approx(30 / math.log(9))


def test_probabilities_that_are_small_already_are_left() -> None:
    images = pixels()
    assert matching_temperature(linear(0.1), images, top=0.9) == 1
    assert matching_temperature(linear(0.0), images, top=math.nextafter(0.25, 1)) == 1


def test_any_probability_above_chance_has_a_temperature() -> None:
    for classes in (3, 10):
        found = matching_temperature(linear(100, classes), pixels(), top=1 / classes + 1e-15)
        assert 1e6 < found < float("inf")


def test_every_image_counts_and_the_network_is_left_as_it_was() -> None:
    model, images = nn.Sequential(nn.Dropout(), linear(100)).train(), pixels(600)
    found = matching_temperature(model, images)
    assert model.training
    assert model[0].training
    with torch.no_grad():
        assert float((model.eval()(images) / found).softmax(1).amax(1).mean()) == pytest.approx(0.9, abs=1e-9)
    assert matching_temperature(model, images[:250]) != pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("top", [0.25, 0.0, -1.0, 1.0, 1.5, float("nan"), float("inf")])
def test_a_probability_that_no_temperature_gives_is_refused(top: float) -> None:
    with pytest.raises(ValueError, match="top must lie above 1/4 and below 1"):
        matching_temperature(linear(), pixels(), top=top)


def test_images_and_logits_that_are_none_are_refused() -> None:
    for images, error, message in (
        (pixels()[:0], ValueError, "N > 0"),
        (255 * pixels(), ValueError, r"\[0, 1\]"),
        (pixels().long(), TypeError, "float32 or float64"),
        (spoiled(pixels(), float("nan")), ValueError, "nan"),
    ):
        with pytest.raises(error, match=message):
            matching_temperature(linear(), images)
    with pytest.raises(ValueError, match=r"logits \(6, classes\)"):
        matching_temperature(nn.Identity(), pixels())
    with pytest.raises(ValueError, match="infinite logits"):
        matching_temperature(linear(float("nan")), pixels())
    with pytest.raises(ValueError, match="one logit z for two classes"):
        matching_temperature(linear(classes=1), pixels())
    with pytest.warns(ProbabilitiesWarning):
        matching_temperature(nn.Sequential(linear(), nn.Softmax(1)), pixels())
