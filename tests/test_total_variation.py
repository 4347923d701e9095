"""Total variation minimisation: that what it finds is the minimiser, and its gradient; see test_preprocessing too."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from contract import seeded
from scipy.optimize import minimize
from torch import Tensor, nn

from advdef.data import Dataset
from advdef.defenses import TotalVariation
from advdef.evaluation import psnr


def smooth(images: Tensor, weight: float = 0.1, iterations: int = 50) -> Tensor:
    return TotalVariation(nn.Flatten(), weight, iterations=iterations).prepare(images)


def variation(images: Tensor, sharpness: float = 0.0) -> Tensor:
    """Isotropic total variation (N,), written as a sum over pixels; a positive ``sharpness`` rounds off its corner."""
    down, right = torch.zeros_like(images), torch.zeros_like(images)
    down[..., :-1, :] = images[..., 1:, :] - images[..., :-1, :]
    right[..., :-1] = images[..., 1:] - images[..., :-1]
    return (down**2 + right**2 + sharpness).sqrt().sum((1, 2, 3))


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(), dtype=torch.float64)


@pytest.mark.parametrize("upright", [False, True])
def test_both_sides_of_an_edge_move_by_the_weight_over_their_width(upright: bool) -> None:
    """Three columns of 0.2 and five of 0.9; the sides meet at the mean when the weight is large."""
    image = torch.tensor([0.2] * 3 + [0.9] * 5, dtype=torch.float64).expand(2, 3, 4, 8)
    image = image.mT if upright else image
    for weight, left, right in ((0.12, 0.24, 0.876), (0.6, 0.4, 0.78), (5.0, 0.6375, 0.6375)):
        expected = image.where(image > 0.5, left).where(image < 0.5, right)
        assert torch.allclose(smooth(image, weight, 2000), expected, rtol=0, atol=1e-9)


def test_a_corner_counts_with_its_diagonal() -> None:
    """The total variation is isotropic: a bright corner costs sqrt(2) times its height above the other pixels."""
    image = torch.tensor([[[[0.8, 0.2], [0.2, 0.2]]]], dtype=torch.float64)
    low = 0.2 + math.sqrt(2) * 0.1 / 3
    expected = torch.tensor([[[[0.8 - math.sqrt(2) * 0.1, low], [low, low]]]], dtype=torch.float64)
    assert torch.allclose(smooth(image, 0.1, 500), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.03, 0.2])
def test_the_minimiser_is_that_of_a_solver_that_knows_only_the_objective(weight: float) -> None:
    images = noise(1, 2, 6, 7)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(flat).view_as(images).requires_grad_()
        value = 0.5 * (point - images).square().sum() + weight * variation(point, 1e-10).sum()
        return value.item(), torch.autograd.grad(value, point)[0].flatten().numpy()

    solved = minimize(objective, images.flatten().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 5000})
    found = smooth(images, weight, 1000)
    assert torch.allclose(found.flatten(), torch.from_numpy(solved.x), rtol=0, atol=2e-3)


def test_the_default_iterations_come_close_to_the_minimiser(digits: Dataset) -> None:
    images = digits.test.float_images()[:20].double()
    for x in (images, (images + 0.1 * torch.randn(images.shape, generator=seeded())).clamp(0, 1)):
        error = (smooth(x) - smooth(x, iterations=1000)).abs()
        assert float(error.max()) < 0.01
        assert float(error.square().mean().sqrt()) < 0.001


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e-4, 0.1, 1e6])
def test_any_weight_and_shape_keep_constant_images_and_the_mean_of_every_channel(weight: float) -> None:
    for shape in [(2, 3, 6, 7), (2, 1, 1, 5), (2, 1, 5, 1), (2, 1, 1, 1)]:
        constant = torch.full(shape, 0.3).requires_grad_()
        kept = smooth(constant, weight)
        assert torch.equal(kept, constant)
        (gradient,) = torch.autograd.grad(kept.sum(), constant)
        assert torch.allclose(gradient, torch.ones(shape))
        images = (0.3 + 0.4 * noise(*shape)).float()
        smoothed = smooth(images, weight)
        assert torch.allclose(smoothed.mean((2, 3)), images.mean((2, 3)))
        assert torch.equal(smoothed, images) == (weight < 1e-20 or shape[2:] == (1, 1))


def test_a_channel_does_not_depend_on_the_others() -> None:
    images = noise(2, 3, 5, 6)
    alone = torch.cat([smooth(images[:, i : i + 1]) for i in range(3)], 1)
    assert torch.allclose(smooth(images), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [0.02, 0.2])
def test_autograd_finds_the_slope_that_finite_differences_find(weight: float) -> None:
    images = (0.3 + 0.4 * noise(1, 2, 3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: smooth(x, weight), images, eps=1e-7, atol=1e-5)


def test_more_weight_leaves_less_variation(digits: Dataset) -> None:
    images = digits.test.float_images()[:20]
    left = [variation(smooth(images, weight)) for weight in (0.0, 0.02, 0.1, 0.3)]
    assert torch.equal(left[0], variation(images))
    assert all(bool((less < more).all()) for more, less in pairwise(left))


def test_noise_on_digits_shrinks(digits: Dataset) -> None:
    clean = digits.test.float_images()[:50]
    noisy = (clean + 0.15 * torch.randn(clean.shape, generator=seeded())).clamp(0, 1)
    assert bool((psnr(smooth(noisy, 0.1), clean) > psnr(noisy, clean) + 1).all())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: TotalVariation(nn.Flatten(), -0.1), "weight must be finite and not negative, not -0.1"),
        (lambda: TotalVariation(nn.Flatten(), float("nan")), "not nan"),
        (lambda: TotalVariation(nn.Flatten(), float("inf")), "not inf"),
        (lambda: TotalVariation(nn.Flatten(), iterations=0), "iterations must be at least 1, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
