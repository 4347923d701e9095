"""What test files share: small networks and batches, and ways to look on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdef.contract import TrainingModeWarning

Pair = tuple[Tensor, Tensor]
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


def net(shape: Shape = (2, 3, 3)) -> nn.Sequential:
    """A random network that gives every label to some image."""
    return tiny(28, shape)


def random_batch(n: int = 6, shape: Shape = (2, 3, 3)) -> Pair:
    """Images, with the labels that this network gives them."""
    images = torch.rand(n, *shape, generator=seeded())
    return images, net(shape)(images).argmax(1)


class Moved(nn.Module):
    """A network on the image plus an offset."""

    def __init__(self, offset: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.offset, self.network = offset, network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images + self.offset.to(images))
        return logits


class NaNSlope(nn.Sequential):
    """The gradient is NaN where a patch is black (a vector over its length), and NaN pixels give finite logits."""

    def forward(self, images: Tensor) -> Tensor:
        corner = (images * (images > 0.25))[:, :, 0, :2].flatten(1)
        along = corner / corner.norm(dim=1, keepdim=True)
        return super().forward(images.nan_to_num() + 1e-3 * along.nan_to_num().sum(1)[:, None, None, None])


def spoiled(images: Tensor, value: float) -> Tensor:
    """The images with one pixel of the second one replaced."""
    images = images.clone()
    images[1, 0, 0, 0] = value
    return images


def assert_leaves_no_trace(
    attack: Callable[..., Tensor], model: nn.Sequential, images: Tensor, labels: Tensor, eps: float
) -> Tensor:
    """The model (modes, weights, buffers, gradients, hooks) and the images are as before; one warning of the mode."""
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
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    return found


class Seen(list[Any]):
    """What was seen: equal to any other for a key, so that who looks on changes none."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Seen, ()


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """The images that the model is shown."""
    seen = Seen()
    handle = model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    yield seen
    handle.remove()


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
