"""The peak signal-to-noise ratio."""

from __future__ import annotations

import pytest
import torch
from contract import seeded

from advdef.evaluation import psnr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_image_has_its_own_ratio_and_ten_times_the_error_costs_20_decibels(dtype: torch.dtype) -> None:
    reference = torch.full((4, 3, 5, 6), 0.5, dtype=dtype)
    errors = torch.tensor([0.5, 0.1, -0.1, 0.01], dtype=dtype)
    found = psnr(reference + errors[:, None, None, None], reference)
    assert found.dtype == dtype
    assert found.tolist() == pytest.approx([6.0206, 20, 20, 40], abs=1e-3)


def test_the_squared_error_is_averaged_over_the_whole_image() -> None:
    reference, images = torch.zeros(1, 2, 5, 10), torch.zeros(1, 2, 5, 10)
    images[0, 1, 2, 3] = 1.0
    assert psnr(images, reference).item() == pytest.approx(20)
    assert psnr(reference, images).item() == pytest.approx(20)


def test_equal_images_have_an_infinite_ratio() -> None:
    images = torch.rand(2, 1, 4, 4, generator=seeded())
    assert psnr(images, images.clone()).tolist() == [float("inf")] * 2


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 3, 4, 4), (2, 3, 4), ()])
def test_unlike_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"same shape \(N, C, H, W\), not \(2, 3, 4, 4\) and"):
        psnr(torch.zeros(2, 3, 4, 4), torch.zeros(shape))
    with pytest.raises(ValueError, match=r"same shape \(N, C, H, W\), not"):
        psnr(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4))
