"""What every attack is held to, shared by the test files of own attacks and of adapters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advdef.attacks import TrainingModeWarning

Shape = tuple[int, int, int]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(seed: int = 0, shape: Shape = (2, 3, 3), classes: int = 4, *, bias: bool = True) -> nn.Sequential:
    """A random network with parts whose mode matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = shape[0] * shape[1] * shape[2]
        return nn.Sequential(
            nn.BatchNorm2d(shape[0]), nn.Flatten(), nn.Linear(inputs, 16), nn.Tanh(), nn.Dropout(0.5),
            nn.Linear(16, classes, bias=bias),
        ).eval()  # fmt: skip


def spoiled(images: Tensor, value: float) -> Tensor:
    """The images with one pixel of the second one replaced."""
    images = images.clone()
    images[1, 0, 0, 0] = value
    return images


def assert_leaves_no_trace(
    attack: Callable[..., Tensor], model: nn.Sequential, images: Tensor, labels: Tensor, eps: float
) -> Tensor:
    """The model's modes, weights, buffers and gradients and the images are as before; one warning of its mode."""
    model.train()
    model[4].eval()  # a mixed mode comes back mixed
    model[2].weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0) if parameter.requires_grad else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = images.clone(), labels.clone()
    with pytest.warns(TrainingModeWarning, match=r"call model\.eval\(\) first") as warned:
        found = attack(model, images, labels, eps=eps, generator=seeded())
    assert len(warned) == 1
    assert [m.training for m in model] == [True, True, True, True, False, True]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name != "2.weight")
        assert parameter.grad is None if name == "2.weight" else bool((parameter.grad == 7.0).all())
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    return found
