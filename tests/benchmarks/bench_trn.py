"""What TRN costs: its maps, its training from stored pairs against attacks on the fly, and its steps by count.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks

Random images, labels and weights, as speed does not depend on them. Runs alternate and their medians are compared, on
a CPU of the time that the process itself was given. With ADVDEF_BENCH_DEVICE=cuda all of it runs on a GPU. Beside each
time stands what its convolutions and linear layers have to multiply and add.

With t and f for a forward pass of restorer and classifier, an image costs 3 t + 5 f from stored pairs: the map, the
features of the clean image, and the loss behind the restored one take 5 f. On the fly PGD-10 adds 22 f and FGSM 4 f to
the images that they attack. So what stored pairs gain depends on how dear the classifier is beside the restorer and on
how many images get PGD: with 35 % for each attack it is always less than 2.9 times, with 70 % for PGD-10 alone less
than 4.1. The goal of 2.5 times is met there, in front of a classifier that costs more than the restorer, and out of
reach by count in the notebook's own settings, where TRN-B costs twice as much as ResNet-18 and TRN-XS nine times as
much as the small ResNet. The tenth of the images that is held out is judged after either epoch and counts in both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stopwatch import DEVICE, seconds
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from advdef.contract import frozen
from advdef.data import Split
from advdef.evaluation import counted
from advdef.models import ResNet, ResNet18, SmallResNet, SmallVGG
from advdef.papers.trn.maps import GradientMap
from advdef.papers.trn.models import SIZES, TwoStreamRestorer
from advdef.papers.trn.training import train_restorer
from advdef.training import Recipe, train_standard

Shape = tuple[int, int, int]
Build = Callable[[Shape, int], nn.Module]

CLOCK = time.perf_counter if DEVICE.type == "cuda" else time.process_time
CLASSES = 10
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
GOAL = 2.5
BOTH: tuple[str, ...] = ("FGSM", "PGD-10")


class MultiplyAdds(TorchDispatchMode):
    """Counts those of convolutions and matrix products, forward and backward.

    By the formulas of PyTorch's FlopCounterMode, which itself fails on torch.autograd.grad.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=found) // 2
        return found


def multiply_adds(run: Callable[[], object]) -> int:
    with MultiplyAdds() as count:
        run()
    return count.total


def wide(shape: Shape, classes: int) -> ResNet:
    """As wide as ResNet-18, with three blocks instead of eight."""
    return ResNet(shape, classes, blocks=(1, 1, 1), width=64)


def network(build: Build, shape: Shape) -> nn.Module:
    """In the layout that training leaves."""
    torch.manual_seed(0)
    model: nn.Module = build(shape, CLASSES).to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def random_split(shape: Shape, count: int) -> Split:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=draws)
    return Split(images.to(DEVICE), torch.randint(CLASSES, (count,), generator=draws).to(DEVICE))


def epoch(size: str, build: Build, shape: Shape, images: int, attacks: tuple[str, ...] = BOTH) -> Callable[..., object]:
    """``run(fresh=...)`` trains a restorer for an epoch, all images in a batch, after one that makes the pairs."""
    classifier, split = frozen(network(build, shape)), random_split(shape, round(images / 0.9))
    torch.manual_seed(0)
    restorer = TwoStreamRestorer(shape[0], shape[0], **SIZES[size]).to(DEVICE)  # type: ignore[arg-type]
    eps = tuple(share * (0.1 if shape == GREY else 8 / 255) for share in (0.25, 0.5, 0.75, 1.0))

    def run(*, fresh: bool) -> None:
        train_restorer(
            restorer, split, generator=torch.Generator().manual_seed(0), classifier=classifier,
            recipe=Recipe(eps=eps, attacks=attacks), maps=GradientMap(classifier), epochs=1, fresh=fresh,
            batch_size=images,
        )  # fmt: skip

    run(fresh=False)
    return run


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))


@pytest.mark.parametrize(("count", "bound"), [(4, 1.2), (128, 2.5)])
def test_a_map_costs_a_pass_each_way_and_those_of_all_classes_a_backward_pass_each(count: int, bound: float) -> None:
    """For a few images all classes at once are faster; for many, one after the other can be, on a CPU."""
    classifier = frozen(network(SmallResNet, GREY))
    images = torch.rand(count, *GREY, device=DEVICE)
    one, stack = GradientMap(classifier), GradientMap(classifier, "stack", scale="none")

    def class_by_class() -> Tensor:
        point = images.clone().requires_grad_()
        logits, found = classifier(point), list[Tensor]()
        for k in range(CLASSES):
            loss = F.cross_entropy(logits, torch.full((count,), k, device=DEVICE), reduction="sum")
            found += torch.autograd.grad(loss, point, retain_graph=True)
        return torch.cat(found, 1)

    @torch.no_grad()
    def forward() -> None:
        classifier(images)

    passes = {"forward": 0, "backward": 0}
    with counted(classifier, passes):
        one(images)
    assert passes == {"forward": count, "backward": count}
    assert multiply_adds(partial(one, images)) == 2 * multiply_adds(forward)  # none for gradients of weights
    assert multiply_adds(partial(stack, images)) == (1 + CLASSES) * multiply_adds(forward)
    torch.testing.assert_close(stack(images), class_by_class(), atol=1e-6, rtol=1e-3)

    took = seconds(
        {"forward": forward, "map": partial(one, images), "stack": partial(stack, images), "loop": class_by_class},
        rounds=1000 // (count + 20),
        clock=CLOCK,
        warm_up=True,
    )
    print(f"\nmaps of {count} images, {DEVICE}, in forward passes: {took['map'] / took['forward']:.1f}, of all "
          f"{CLASSES} classes at once {took['stack'] / took['forward']:.1f}, class by class "
          f"{took['loop'] / took['forward']:.1f}")  # fmt: skip
    assert took["stack"] <= bound * took["loop"]


@pytest.mark.parametrize(
    ("size", "build", "shape", "images", "attacks", "reaches"),
    [
        pytest.param("XS", SmallResNet, GREY, 128, BOTH, False, id="TRN-XS, small ResNet"),
        pytest.param("XS", SmallVGG, COLOUR, 64, BOTH, False, id="TRN-XS, SmallVGG"),
        pytest.param("B", ResNet18, GREY, 16, BOTH, False, id="TRN-B, ResNet-18"),
        pytest.param("XS", wide, GREY, 32, BOTH, False, id="TRN-XS, wide ResNet"),
        pytest.param("XS", wide, GREY, 32, ("PGD-10",), True, id="TRN-XS, wide ResNet, PGD alone"),
    ],
)
def test_an_epoch_from_stored_pairs_is_faster_than_one_that_attacks(
    size: str,
    build: Build,
    shape: Shape,
    images: int,
    attacks: tuple[str, ...],
    reaches: bool,
    request: pytest.FixtureRequest,
) -> None:
    run = epoch(size, build, shape, images, attacks)
    contestants: dict[str, Callable[[], object]] = {
        "stored": partial(run, fresh=False),
        "on the fly": partial(run, fresh=True),
    }
    count = {name: multiply_adds(contestant) for name, contestant in contestants.items()}
    took = seconds(contestants, 7 if size == "XS" and build is not wide else 3, clock=CLOCK)
    ratio, by_count = (of["on the fly"] / of["stored"] for of in (took, count))
    print(f"\n{request.node.callspec.id}, {' and '.join(attacks)}, {images} images, {DEVICE}: an epoch that attacks "
          f"takes {ratio:.2f} x one from stored pairs, by count {by_count:.2f} x")  # fmt: skip
    assert ratio >= (GOAL if reaches else 1)


@pytest.mark.parametrize(("size", "images"), [("XS", 64), ("S", 16)])
@pytest.mark.parametrize("build", [SmallResNet, wide], ids=lambda build: build.__name__)
def test_a_step_takes_at_most_twice_what_its_count_takes_in_training_the_classifier(
    build: Build, size: str, images: int
) -> None:
    """The wide ResNet is the stricter yardstick: thin channels make a slow classifier, of less work a second."""
    model, split = network(build, GREY), random_split(GREY, 64)
    contestants: dict[str, Callable[[], object]] = {
        "classifier": partial(train_standard, model, split, epochs=1, generator=torch.Generator()),
        "restorer": partial(epoch(size, build, GREY, images), fresh=False),
    }
    count = {name: multiply_adds(contestant) for name, contestant in contestants.items()}
    took = seconds(contestants, 3, clock=CLOCK)
    rates = {name: count[name] / took[name] / 1e9 for name in took}
    ratio = rates["classifier"] / rates["restorer"]
    print(f"\nTRN-{size} in front of {build.__name__}, batches of {images}, {DEVICE}: {rates['restorer']:.0f} billion "
          f"multiply-adds a second, training the classifier {rates['classifier']:.0f}: {ratio:.2f} x")  # fmt: skip
    assert ratio <= 2
