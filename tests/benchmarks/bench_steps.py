"""How far a training step and an attack step are from what the machine can do, and whether several seeds at once pay.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks/bench_steps.py

The limit of a step are its counted multiply-adds at the rate of a large convolution, measured in the same run, on one
thread of a CPU. Networks have random weights and lie in memory as training leaves them, as speed does not depend on
more. With ADVDEF_BENCH_DEVICE=cuda all of it runs on a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from stopwatch import DEVICE, seconds, tell
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.evaluation import multiply_adds
from advdef.models import CleverhansCNN, LeNet5, SmallResNet

BATCH = 128 if DEVICE.type == "cpu" else 512
STEPS, ROUNDS, SEEDS = 10, 7, 4
SHAPES: dict[type[nn.Module], tuple[int, int, int]] = {CleverhansCNN: (1, 28, 28), SmallResNet: (3, 32, 32)}


def setting(kind: type[nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in the layout that training leaves, and images with the labels that it gives them."""
    torch.manual_seed(0)
    model = kind(SHAPES[kind], 10).to(DEVICE, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    images = torch.rand(BATCH, *SHAPES[kind]).to(DEVICE)
    return model, images, model(images).argmax(1)


def step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    model = copy.deepcopy(model).train()
    descent = torch.optim.Adam(model.parameters())
    images = images.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        descent.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        descent.step()

    return run


@pytest.mark.parametrize("kind", list(SHAPES), ids=lambda kind: kind.__name__)
def test_a_step_is_near_the_limit_of_the_machine(kind: type[nn.Module]) -> None:
    model, images, labels = setting(kind)
    forward = multiply_adds(model, images[:2]) * BATCH
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    at_images = multiply_adds(first, images[:2]) * BATCH  # a training step leaves the gradient at the images out
    maps, weights = torch.rand(16, 128, 32, 32, device=DEVICE), torch.rand(128, 128, 3, 3, device=DEVICE)
    maps, weights = (values.contiguous(memory_format=torch.channels_last) for values in (maps, weights))
    took = seconds(
        {
            "large convolution": lambda: F.conv2d(maps, weights, padding=1),
            "training": step(model, images, labels),
            "attack": partial(pgd, model, images, labels, eps=0.01, steps=STEPS),
        },
        ROUNDS,
        warm_up=True,
    )
    peak = maps.numel() * weights[:, 0].numel() / took["large convolution"]
    # PGD looks at the images and at the end besides, and each gradient costs as much as a forward pass
    work = {"training": 3 * forward - at_images, "attack": (2 * STEPS + 2) * forward}
    print(f"\n{kind.__name__}, {BATCH} images, {DEVICE}: {1e-9 * peak:.1f} billion multiply-adds a second at most")
    for name, count in work.items():
        told = f"{1e-9 * count:.2f} billion multiply-adds, {1e-9 * peak:.1f} a second at most"
        tell(f"step {kind.__name__} {name}", took[name] * peak / count, took, told)
    assert all(took[name] * peak / count < 4 for name, count in work.items())


def test_several_seeds_of_one_training_at_once() -> None:
    """Gradients of several LeNet-5, as one batched computation and one after the other."""
    torch.manual_seed(0)
    models = [LeNet5((1, 28, 28), 10).to(DEVICE) for _ in range(SEEDS)]
    images, labels = torch.rand(64, 1, 28, 28, device=DEVICE), torch.randint(10, (64,), device=DEVICE)
    stacked, _ = torch.func.stack_module_state(models)  # type: ignore[arg-type]

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(models[0], parameters, (images,)), labels)

    def at_once() -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.func.vmap(torch.func.grad(loss))(stacked)
        return found

    def in_turn() -> list[tuple[Tensor, ...]]:
        losses = [(model, F.cross_entropy(model(images), labels)) for model in models]
        return [torch.autograd.grad(value, list(model.parameters())) for model, value in losses]

    together, apart = at_once(), in_turn()
    for number, name in enumerate(dict(models[0].named_parameters())):
        expected = torch.stack([grads[number] for grads in apart])
        # sums of 64 images in another order, in float32
        torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-5)
    took = seconds({"at once": at_once, "in turn": in_turn}, ROUNDS, warm_up=True)
    print(f"\n{SEEDS} LeNet-5, 64 images, {DEVICE}")
    tell("seeds", took["in turn"] / took["at once"], took, "equal gradients")
