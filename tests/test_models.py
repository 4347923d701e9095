"""The classifiers are those of the papers, to the last parameter, and declare where their activations are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from cases import each
from torch import Tensor, nn

from advdef.models import (
    VGG,
    VGG16,
    VGG19,
    AlexNet,
    CleverhansCNN,
    LeNet5,
    ResNet,
    ResNet18,
    SmallResNet,
    SmallVGG,
)
from advdef.taps import default_taps, tapped

Build = Callable[[tuple[int, int, int], int], nn.Module]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("shape", "expected", "maps"),
    [
        ((1, 28, 28), 710_218, [(64, 14, 14), (128, 5, 5), (128, 1, 1)]),
        ((3, 32, 32), 722_250, [(64, 16, 16), (128, 6, 6), (128, 2, 2)]),
    ],
)
def test_cleverhans_cnn(shape: tuple[int, int, int], expected: int, maps: list[tuple[int, int, int]]) -> None:
    model = CleverhansCNN(shape, 10)
    assert parameters(model) == expected
    seen: list[tuple[int, ...]] = []
    for layer in model.layers:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    assert model(torch.rand(2, *shape)).shape == (2, 10)
    assert seen == maps
    half = [filters // 2 for filters, *_ in maps]
    assert [c.out_channels for c in CleverhansCNN(shape, 10, width=32).layers if isinstance(c, nn.Conv2d)] == half
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten", "Linear"]


def test_every_even_side_fits() -> None:
    for side in [28, 30, 32, 48, 64]:
        assert CleverhansCNN((1, side, side), 7)(torch.rand(1, 1, side, side)).shape == (1, 7)


def test_other_sides_are_refused() -> None:
    for shape in [(1, 28, 32), (1, 29, 29), (1, 26, 26), (3, 8, 8)]:
        with pytest.raises(ValueError, match="square images with an even side of at least 28"):
            CleverhansCNN(shape, 10)


def test_weights_are_he_normal() -> None:
    torch.manual_seed(0)
    model = CleverhansCNN((3, 32, 32), 10)
    for layer in model.layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
            assert layer.bias is not None
            assert not bool(layer.bias.any())


# A 3x3 convolution from a to b channels has 9ab weights and no bias, its batch normalisation 2b.
def convolution(a: int, b: int, side: int = 3) -> int:
    return side**2 * a * b + 2 * b


def residual(a: int, b: int) -> int:
    """A block; where it widens, its shortcut is a 1x1 convolution."""
    return convolution(a, b) + convolution(b, b) + (convolution(a, b, 1) if a != b else 0)


def dense(a: int, b: int, normalised: bool = False) -> int:
    """A linear layer from a to b units; batch normalisation in place of its bias gives each of b two numbers."""
    return a * b + (2 * b if normalised else b)


@pytest.mark.parametrize("channels", [1, 3])
def test_parameters_are_counted_by_hand(channels: int) -> None:
    widths = [channels, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    vgg = sum(convolution(a, b) for a, b in pairwise(widths)) + 512 * 10 + 10
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = sum(residual(a, b) for a, b in pairwise(widths))
    resnet = convolution(channels, 64) + blocks + 512 * 10 + 10
    small = convolution(channels, 16) + residual(16, 16) + residual(16, 32) + residual(32, 64) + 64 * 10 + 10
    shape = (channels, 32, 32)
    assert parameters(VGG16(shape, 10)) == vgg
    assert parameters(ResNet18(shape, 10)) == resnet
    assert parameters(SmallResNet(shape, 10)) == small


@pytest.mark.parametrize("channels", [1, 3])
def test_parameters_of_networks_with_hidden_layers_are_counted_by_hand(channels: int) -> None:
    widths = [channels, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    vgg = sum(convolution(a, b) for a, b in pairwise(widths))
    vgg += dense(512, 4096, normalised=True) + dense(4096, 4096, normalised=True) + dense(4096, 10)
    widths = [channels, 16, 16, 32, 32, 64, 64]
    small = sum(convolution(a, b) for a, b in pairwise(widths)) + dense(64 * 4 * 4, 10)
    lenet = 25 * channels * 6 + 6 + 25 * 6 * 16 + 16 + dense(16 * 5 * 5, 120) + dense(120, 84) + dense(84, 10)
    widths = [channels, 64, 192, 384, 256, 256]
    alexnet = sum(9 * a * b + b for a, b in pairwise(widths))
    alexnet += dense(256 * 2 * 2, 4096) + dense(4096, 4096) + dense(4096, 10)
    shape = (channels, 32, 32)
    with torch.device("meta"):
        assert parameters(VGG19(shape, 10)) == vgg
        assert parameters(SmallVGG(shape, 10)) == small
        assert parameters(LeNet5(shape, 10)) == parameters(LeNet5((channels, 28, 28), 10)) == lenet
        assert parameters(AlexNet(shape, 10)) == alexnet


def test_resnet_20_is_that_of_its_paper_up_to_the_projections() -> None:
    """There the two widening blocks have shortcuts without parameters; here they are 1x1 convolutions."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    expected = convolution(3, 16) + sum(residual(a, b) for a, b in pairwise(widths)) + dense(64, 10)
    found = parameters(ResNet((3, 32, 32), 10, blocks=(3, 3, 3), width=16))
    assert found == expected
    assert found - convolution(16, 32, 1) - convolution(32, 64, 1) == 269_722


def multiply_adds(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Of the convolutions and linear layers, for one image."""
    costs: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        costs.append(layer.weight[0].numel() * output[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model.eval()(torch.rand(1, *shape))
    return sum(costs)


def test_the_small_networks_cost_what_their_docstrings_say() -> None:
    for build, millions in ((SmallResNet, "3.1"), (SmallVGG, "9.9")):
        cost = multiply_adds(build((3, 32, 32), 10), (3, 32, 32))
        assert f"{cost / 1e6:.1f}" == millions
        assert f"{millions} million multiply-adds" in " ".join(str(build.__doc__).split())


def maps(*stages: tuple[int, int, int], features: int) -> list[tuple[int, ...]]:
    """Shapes of taps: for each (how many, channels, side) so many maps, then the features before the head."""
    return [(channels, side, side) for many, channels, side in stages for _ in range(many)] + [(features,)]


CASES: list[tuple[Build, tuple[int, int, int], list[tuple[int, ...]]]] = [
    (CleverhansCNN, (1, 28, 28), [(64, 14, 14), (128, 5, 5), (128, 1, 1)]),
    (VGG16, (3, 32, 32), maps((2, 64, 32), (2, 128, 16), (3, 256, 8), (3, 512, 4), (3, 512, 2), features=512)),
    (VGG19, (3, 32, 32), maps((2, 64, 32), (2, 128, 16), (4, 256, 8), (4, 512, 4), (4, 512, 2), features=512)),
    (SmallVGG, (3, 32, 32), maps((2, 16, 32), (2, 32, 16), (2, 64, 8), features=1024)),
    (LeNet5, (1, 28, 28), maps((1, 6, 28), (1, 16, 10), features=400)),
    (LeNet5, (3, 32, 32), maps((1, 6, 28), (1, 16, 10), features=400)),
    (AlexNet, (3, 32, 32), maps((1, 64, 16), (1, 192, 8), (1, 384, 4), (2, 256, 4), features=1024)),
    (ResNet18, (3, 32, 32), maps((5, 64, 32), (4, 128, 16), (4, 256, 8), (4, 512, 4), features=512)),
    (SmallResNet, (1, 28, 28), maps((3, 16, 14), (2, 32, 7), (2, 64, 4), features=64)),
    (SmallResNet, (3, 32, 32), maps((3, 16, 16), (2, 32, 8), (2, 64, 4), features=64)),
]


@pytest.mark.parametrize(
    ("build", "shape", "expected"), CASES, ids=[f"{case[0].__name__}-{case[1][1]}" for case in CASES]
)
class TestTaps:
    def test_taps_are_activations_after_a_relu(
        self, build: Build, shape: tuple[int, int, int], expected: list[tuple[int, ...]]
    ) -> None:
        for training in [True, False]:
            torch.manual_seed(0)
            model = build(shape, 7).train(training)
            with tapped(model, default_taps(model)) as seen:
                assert model(torch.rand(2, *shape)).shape == (2, 7)
            assert [tuple(value.shape[1:]) for value in seen.values()] == expected
            assert list(seen) == list(default_taps(model))  # they are named in the order in which they run
            for name, value in seen.items():
                assert bool((value >= 0).all()), name
                assert bool((value > 0).any()), name
                # features are pooled, which leaves few zeros; anything else is cut off at zero
                assert value.dim() == 2 or bool((value == 0).any()), name
            assert not [name for name, part in model.named_modules() if getattr(part, "inplace", False)]

    def test_the_network_sees_images_from_minus_one_to_one_and_its_head_the_last_tap(
        self, build: Build, shape: tuple[int, int, int], expected: list[tuple[int, ...]]
    ) -> None:
        model, images, given = build(shape, 7).eval(), torch.rand(2, *shape), []
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        head = model.get_submodule("layers.7" if isinstance(model, CleverhansCNN) else "head")
        with tapped(model, default_taps(model)) as seen, torch.no_grad():
            logits = model(images)
            assert torch.equal(head(seen[default_taps(model)[-1]].flatten(1)), logits)
        border = (given[0].shape[3] - images.shape[3]) // 2  # of LeNet-5
        inside = nn.functional.pad(given[0], (-border,) * 4)
        assert torch.equal(inside, images if build is CleverhansCNN else 2 * images - 1)


def test_every_relu_before_the_head_is_tapped_or_inside_a_tapped_branch() -> None:
    builds = (CleverhansCNN, VGG16, VGG19, SmallVGG, LeNet5, AlexNet, ResNet18, SmallResNet)
    for build in builds:
        with torch.device("meta"):
            model = build((3, 32, 32), 10)
        ends = {f"{tap}." for tap in default_taps(model)}
        relus = [n for n, part in model.named_modules() if isinstance(part, nn.ReLU) and not n.startswith("head.")]
        assert [name for name in relus if not any(f"{name}.".startswith(end) for end in ends)] == []


def test_a_residual_block_adds_its_input() -> None:
    model = ResNet((3, 8, 8), 10, blocks=(1, 2), width=4).eval()
    block = model.get_submodule("stages.1.1")
    last = block.get_submodule("second.1")
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -0.25)
    images = torch.rand(2, 8, 4, 4)
    assert torch.equal(block(images), (images - 0.25).clamp_min(0))


def test_wider_and_deeper_networks_declare_their_taps() -> None:
    resnet = ResNet((1, 8, 8), 3, blocks=(1, 2), width=4, stem_stride=2)
    inside = ("stages.0.0.inner", "stages.0.0", "stages.1.0.inner", "stages.1.0", "stages.1.1.inner", "stages.1.1")
    assert default_taps(resnet) == ("stem", *inside, "pool")
    for model, features in ((resnet, 8), (SmallResNet((1, 8, 8), 3, width=4), 16)):
        with tapped(model, default_taps(model)) as seen:
            model(torch.rand(2, 1, 8, 8))
        assert seen["pool"].shape == (2, features)


def test_vgg_takes_every_multiple_of_32() -> None:
    for shape in [(3, 64, 32), (1, 32, 96)]:
        model = VGG16(shape, 3).eval()
        assert model(torch.rand(1, *shape)).shape == (1, 3)


@each(
    ("shape", "named"),
    [
        ((1, 28, 28), "height 28 and width 28"),
        ((3, 48, 64), "height 48"),
        ((3, 32, 33), "width 33"),
        ((3, 0, 32), "height 0"),
        ((3, 32, -32), "width -32"),
    ],
)
def test_vgg_names_the_side_that_is_no_multiple_of_32(shape: tuple[int, int, int], named: str) -> None:
    with pytest.raises(ValueError, match=rf"sides are multiples of 32, not {named}$"):
        VGG16(shape, 10)


def test_other_depths_of_vgg_take_other_sides() -> None:
    assert SmallVGG((1, 8, 24), 3).eval()(torch.rand(2, 1, 8, 24)).shape == (2, 3)
    for build, side in ((SmallVGG, 8), (VGG19, 32)):
        with pytest.raises(
            ValueError, match=f"^{build.__name__} takes .* multiples of {side}, not height 28 and width 28$"
        ):
            build((1, 28, 28), 10)


def test_hidden_layers_of_vgg_are_normalised_and_dropped_out() -> None:
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    with torch.device("meta"):
        head = VGG19((3, 32, 32), 10).get_submodule("head")
    assert [type(part) for part in head.children()] == [*hidden, *hidden, nn.Linear]
    biased = [part.bias is not None for part in head.children() if isinstance(part, nn.Linear)]
    assert biased == [False, False, True]  # what batch normalisation follows needs none
    assert [part.p for part in head.children() if isinstance(part, nn.Dropout)] == [0.5, 0.5]
    one = VGG((1, 4, 6), 3, stages=((2, 1),), hidden=(5,)).eval()
    assert [tuple(part.weight.shape) for part in one.modules() if isinstance(part, nn.Linear)] == [(5, 12), (3, 5)]
    assert one(torch.rand(2, 1, 4, 6)).shape == (2, 3)


def test_lenet_pads_small_images_by_two() -> None:
    small, large = LeNet5((1, 28, 28), 10), LeNet5((1, 32, 32), 10)
    large.load_state_dict(small.state_dict())
    images = torch.rand(2, 1, 28, 28)
    padded = nn.functional.pad(images, (2, 2, 2, 2))  # black, as the background is
    torch.testing.assert_close(large(padded), small(images))


def test_lenet_takes_even_sides_from_28_to_64() -> None:
    for height, width in [(28, 28), (30, 32), (28, 64), (32, 32), (48, 34), (64, 64)]:
        assert LeNet5((1, height, width), 7)(torch.rand(1, 1, height, width)).shape == (1, 7)


def test_lenet_refuses_other_sides() -> None:
    for sides in [(27, 28), (28, 29), (26, 28), (32, 66)]:
        with pytest.raises(ValueError, match=rf"even sides from 28 to 64, not \(1, {sides[0]}, {sides[1]}\)$"):
            LeNet5((1, *sides), 10)


def test_alexnet_takes_multiples_of_16_and_drops_out_before_each_hidden_layer() -> None:
    with torch.device("meta"):
        model = AlexNet((3, 16, 48), 7)
        assert model(torch.rand(1, 3, 16, 48)).shape == (1, 7)
    head = model.get_submodule("head")
    kinds = [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Linear]
    assert [type(part) for part in head.children()] == kinds
    assert [part.p for part in head.children() if isinstance(part, nn.Dropout)] == [0.5, 0.5]
    for shape in ((3, 28, 32), (3, 32, 40), (3, 0, 16)):
        with pytest.raises(ValueError, match=rf"multiples of 16, not \(3, {shape[1]}, {shape[2]}\)$"):
            AlexNet(shape, 10)


@pytest.mark.parametrize("side", [8, 7])
def test_the_shortcut_of_a_block_sees_every_second_position_and_keeps_the_layout_of_gradients(side: int) -> None:
    block = ResNet((3, side, side), 2, blocks=(1, 1), width=4).stages[1][0].eval().to(memory_format=torch.channels_last)  # type: ignore[index,union-attr,operator]
    maps = torch.rand(2, 4, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = block(maps)
    expected = torch.relu(block.second(block.inner(maps)) + block.shortcut(maps[:, :, ::2, ::2]))
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad(made.square().sum(), maps)[0] for made in (found, expected)]
    assert torch.equal(*slopes)
    assert slopes[0].is_contiguous(memory_format=torch.channels_last)
