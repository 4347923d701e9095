"""Maps to compare a gradient map with know nothing of the classifier, or are told the label, and say so."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from contract import seeded, tiny
from torch import Tensor, nn

from advdef.contract import frozen
from advdef.papers.trn.maps import GradientMap, MapScale, OracleMap, RandomMap, ShuffledMap, SobelMap, scaled

SCALES: tuple[MapScale, ...] = get_args(MapScale)


def random_images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape or (5, 2, 3, 3), generator=seeded(), dtype=dtype)


def classifier() -> nn.Module:
    return frozen(tiny(28))


# Noise


def test_the_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    images, maps = random_images(), RandomMap()
    found, before = maps(images), torch.get_rng_state()
    assert found.shape == images.shape
    assert torch.equal(maps(images), found)
    assert torch.equal(RandomMap()(images[[3, 1]]), found[[3, 1]])
    assert torch.equal(maps(images.contiguous(memory_format=torch.channels_last)), found)
    assert torch.equal(maps(images.requires_grad_()), found)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_image_has_a_noise_of_its_own() -> None:
    images = random_images(6, 3, 8, 8)
    images[5] = images[0]
    images[5, 2, 7, 7] += 1e-6  # a single pixel makes another image
    found = RandomMap()(images)
    correlated = torch.corrcoef(found.flatten(1)).fill_diagonal_(0)
    assert float(correlated.abs().max()) < 0.3  # four deviations of what chance gives
    assert float(found.mean()) == pytest.approx(0, abs=0.1)
    assert float(found.std()) == pytest.approx(1, abs=0.1)


# Spatial gradients


def sobel(image: Tensor) -> Tensor:
    """(H, W) -> the length of its gradient, pixel by pixel; beyond the border the image goes on as it ends."""
    height, width = image.shape
    found = torch.zeros(height, width, dtype=image.dtype)

    def at(i: int, j: int) -> float:
        return float(image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)])

    for i in range(height):
        for j in range(width):
            across = sum(w * (at(i + d, j + 1) - at(i + d, j - 1)) for d, w in ((-1, 1), (0, 2), (1, 1)))
            down = sum(w * (at(i + 1, j + d) - at(i - 1, j + d)) for d, w in ((-1, 1), (0, 2), (1, 1)))
            found[i, j] = math.hypot(across, down)
    return found


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 1, 1, 6), (1, 2, 1, 1)])
def test_the_sobel_map_is_that_of_a_loop(shape: tuple[int, ...]) -> None:
    images = random_images(*shape, dtype=torch.float64)
    expected = torch.stack([sobel(channel) for channel in images.flatten(0, 1)]).view_as(images)
    assert torch.allclose(SobelMap(scale="none")(images), expected, atol=2e-6)
    if shape[3] == 4:
        assert torch.allclose(SobelMap()(images), scaled(expected, "mean"), atol=1e-5)
        assert torch.allclose(SobelMap()(images[1:]), SobelMap()(images)[1:])
        last = images.contiguous(memory_format=torch.channels_last)
        assert torch.allclose(SobelMap()(last), SobelMap()(images))


@pytest.mark.parametrize("scale", SCALES)
def test_the_sobel_map_can_be_differentiated_where_the_image_is_flat(scale: MapScale) -> None:
    for dtype in [torch.float32, torch.float64]:
        images = torch.full((2, 1, 4, 4), 0.5, dtype=dtype)
        images[1, 0, 1, 1] = 0.7
        images.requires_grad_()
        found = SobelMap(scale=scale)(images)
        assert found.dtype == dtype
        assert bool(found.isfinite().all())
        assert not bool(found[0].any())
        (gradient,) = torch.autograd.grad((found * random_images(2, 1, 4, 4, dtype=dtype)).sum(), images)
        assert bool(gradient.isfinite().all())
        assert bool((gradient[1] != 0).any()) == (scale != "sign")


# Other images' maps


def test_a_shuffled_map_is_that_of_the_neighbour() -> None:
    images, maps = random_images(), SobelMap()
    own = maps(images)
    found = ShuffledMap(maps)(images)
    assert torch.equal(found[1:], own[:-1])
    assert torch.equal(found[0], own[-1])
    with pytest.raises(ValueError, match="single image has no neighbour"):
        ShuffledMap(maps)(images[:1])


# The answer


def test_the_oracle_is_the_gradient_at_the_true_label() -> None:
    model, images = frozen(tiny(28)).double(), random_images(dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    point = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(model(point), labels, reduction="sum"), point)
    found = OracleMap(model, scale="none")(images, labels=labels)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)
    for scale in SCALES:
        assert torch.allclose(OracleMap(model, scale=scale)(images, labels=labels), scaled(expected, scale))
    assert torch.allclose(OracleMap(model)(images[2:3], labels=labels[2:3]), scaled(expected, "mean")[2:3])
    other = OracleMap(model)(images, labels=(labels + 1) % 4)
    assert bool((other - scaled(expected, "mean")).abs().amax((1, 2, 3)).min() > 1e-3)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_oracle_is_a_constant_in_every_context(context: Callable[[], AbstractContextManager[None]]) -> None:
    maps, labels = OracleMap(classifier()), torch.tensor([0, 1, 2, 3, 0])
    with context():
        images = random_images()
        found = maps(images if torch.is_inference_mode_enabled() else images.requires_grad_(), labels=labels.clone())
    assert not found.requires_grad
    assert torch.equal(found, maps(random_images(), labels=labels))


def test_the_oracle_has_to_be_given_labels_and_nothing_else_can_be() -> None:
    images, labels = random_images(), torch.zeros(5).long()
    oracle = OracleMap(classifier())
    for call in (lambda: oracle(images), lambda: oracle(images, labels)):
        with pytest.raises(TypeError):
            call()
    others = (GradientMap(classifier()), RandomMap(), SobelMap(), ShuffledMap(SobelMap()))
    for maps in others:
        assert list(inspect.signature(maps.forward).parameters) == ["images"]
        with pytest.raises(TypeError):
            maps(images, labels=labels)
    assert not isinstance(oracle, GradientMap)


def test_the_oracle_wants_a_frozen_classifier() -> None:
    with pytest.raises(ValueError, match="trainable parameters"):
        OracleMap(tiny(28))
    model = classifier()
    maps = OracleMap(model).train()
    assert not maps.training
    assert not any(module.training for module in model.modules())
    model.train()
    with pytest.raises(ValueError, match="in training mode"):
        maps(random_images(), labels=torch.zeros(5).long())


@pytest.mark.parametrize(
    "maps", [lambda scale: SobelMap(scale=scale), lambda scale: OracleMap(classifier(), scale=scale)]
)
def test_maps_of_another_scale_print_otherwise(maps: Callable[[MapScale], nn.Module]) -> None:
    """Which is how the cache of weights tells them apart."""
    assert len({repr(maps(scale)) for scale in SCALES}) == len(SCALES)
