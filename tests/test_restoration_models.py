"""Restorers have the size that their table says, start as the identity, and use what they are given."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from cases import each
from contract import seeded
from torch import Tensor, nn

from advdef.papers.trn.models import SIZES, Fusion, ImageRestorer, Restorer, TwoStreamRestorer, _Gate, _ResidualBlock

FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
KINDS = (*FUSIONS, "image")
SMALL = {"width": 8, "streams": 2, "tail": 1}


def build(kind: str, channels: int = 3, map_channels: int = 3, *, opened: bool = False) -> Restorer:
    """A small restorer, ``opened`` with a last convolution that is not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        restorer: Restorer
        if kind == "image":
            restorer = ImageRestorer(channels, **SMALL)
        else:
            assert kind in FUSIONS
            restorer = TwoStreamRestorer(channels, map_channels, **SMALL, fusion=kind)
        if opened:
            nn.init.normal_(restorer.out.weight)
            nn.init.normal_(restorer.out.bias)
    return restorer


def inputs(kind: str, shape: tuple[int, ...] = (2, 3, 6, 5), map_channels: int = 3) -> tuple[Tensor, ...]:
    images = torch.rand(shape, generator=seeded())
    maps = torch.randn(shape[0], map_channels, *shape[2:], generator=seeded(1))
    return (images,) if kind == "image" else (images, maps)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, *given: Tensor) -> int:
    """Of the convolutions, for a single image."""
    total = 0

    def add(module: nn.Module, seen: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += module.weight.numel() * output.shape[2] * output.shape[3]

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(*given)
    return total


# Sizes


@pytest.mark.parametrize(("name", "millions"), [("XS", 0.030), ("S", 0.468), ("B", 1.273)])
def test_parameters_of_colour_restorers(name: str, millions: float) -> None:
    two = parameters(TwoStreamRestorer(3, 3, **SIZES[name]))
    assert two == pytest.approx(1e6 * millions, abs=500)
    # what the control lacks is the gate and the convolution that mixes
    assert 0.95 * two < parameters(ImageRestorer(3, **SIZES[name])) < two


@pytest.mark.parametrize(("name", "billions"), [("XS", 0.030), ("S", 0.476), ("B", 1.30)])
def test_multiply_adds_of_a_colour_image(name: str, billions: float) -> None:
    images = torch.rand(1, 3, 32, 32, generator=seeded())
    two = multiply_adds(TwoStreamRestorer(3, 3, **SIZES[name]), images, images)
    assert two == pytest.approx(1e9 * billions, rel=0.03)
    assert multiply_adds(ImageRestorer(3, **SIZES[name]), images) == pytest.approx(two, rel=0.05)


def test_a_stack_of_maps_costs_only_a_wider_first_convolution() -> None:
    size = SIZES["S"]
    more = parameters(TwoStreamRestorer(3, 30, **size)) - parameters(TwoStreamRestorer(3, 3, **size))
    assert more == 27 * 9 * size["width"]


@each("kind", KINDS)
def test_all_restorers_have_as_many_residual_blocks(kind: str) -> None:
    blocks = [module for module in build(kind).modules() if isinstance(module, _ResidualBlock)]
    assert len(blocks) == 2 * SMALL["streams"] + 1 + SMALL["tail"]


def test_the_early_fusion_is_one_stream_of_all_channels() -> None:
    early, image = build("early", 3, 2), build("image", 5)
    first, last = 5 * 9 * SMALL["width"], 9 * SMALL["width"] + 1
    assert early.get_submodule("head").weight.numel() == first
    assert parameters(early) == parameters(image) - 2 * last  # which returns five channels, not three


# What they compute


@each("kind", KINDS)
def test_an_untrained_restorer_changes_nothing(kind: str) -> None:
    restorer, given = build(kind), inputs(kind)
    assert torch.equal(restorer(*given), torch.zeros_like(given[0]))
    loss = (given[0] - restorer(*given) - 0.5).square().sum()
    assert restorer.out.bias is not None
    gradients = torch.autograd.grad(loss, [restorer.out.weight, restorer.out.bias])
    assert all(bool((gradient != 0).all()) for gradient in gradients)  # but can learn


@each("kind", KINDS)
def test_images_of_any_size_fit(kind: str) -> None:
    for shape in [(2, 1, 28, 28), (2, 3, 32, 32), (1, 3, 7, 7), (3, 1, 9, 4), (1, 2, 1, 1)]:
        restorer = build(kind, shape[1], 4, opened=True)
        found = restorer(*inputs(kind, shape, 4))
        assert found.shape == shape
        assert bool((found != 0).all())


@each("kind", KINDS)
def test_all_inputs_and_all_weights_matter(kind: str) -> None:
    restorer = build(kind, opened=True)
    given = [tensor.requires_grad_() for tensor in inputs(kind)]
    weights = dict(restorer.named_parameters())
    found = torch.autograd.grad(restorer(*given)[0].square().sum(), [*given, *weights.values()])
    for gradient in found[: len(given)]:
        assert bool((gradient[0].flatten(1).norm(dim=1) > 0).all())
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))  # another image of the batch
    still = [name for name, gradient in zip(weights, found[len(given) :], strict=True) if not bool(gradient.any())]
    assert not still


@each("kind", KINDS)
def test_double_precision(kind: str) -> None:
    restorer, given = build(kind, opened=True), inputs(kind)
    expected = restorer(*given)
    found = restorer.double()(*(tensor.double() for tensor in given))
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), expected, atol=1e-5)


def by_hand(restorer: TwoStreamRestorer, images: Tensor, maps: Tensor) -> Tensor:
    """The network with the gate, written out with its weights alone."""
    state = restorer.state_dict()

    def convolved(name: str, seen: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(seen, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def block(name: str, seen: Tensor) -> Tensor:
        return seen + 0.1 * convolved(f"{name}.inner.2", convolved(f"{name}.inner.0", seen).relu())

    skip = one = convolved("head", images)
    two = convolved("map_head", maps)
    for i in range(SMALL["streams"]):
        one, two = block(f"image_stream.{i}", one), block(f"map_stream.{i}", two)
    both = torch.cat([one, two], 1)
    hidden = convolved("fusion.0.weights.1", both.mean((2, 3), keepdim=True)).relu()
    gate = convolved("fusion.0.weights.3", hidden).sigmoid()
    fused = block("fusion.2", convolved("fusion.1", gate * both))
    for i in range(SMALL["tail"]):
        fused = block(f"tail.{i}", fused)
    return convolved("out", fused + skip)


def test_the_gated_network_is_its_formula() -> None:
    restorer, (images, maps) = build("gated", opened=True), inputs("gated")
    assert isinstance(restorer, TwoStreamRestorer)
    assert torch.allclose(restorer(images, maps), by_hand(restorer, images, maps), atol=1e-5)


def test_the_gate_weighs_whole_channels_by_numbers_between_zero_and_one() -> None:
    restorer, seen = build("gated", opened=True), []
    gates = [module for module in restorer.modules() if isinstance(module, _Gate)]
    assert len(gates) == 1
    gates[0].register_forward_hook(lambda module, given, output: seen.append((given[0], output)))
    restorer(*inputs("gated"))
    ((before, after),) = seen
    weights = (after / before).flatten(2)
    assert before.shape[1] == 2 * SMALL["width"]
    assert torch.allclose(weights, weights[..., :1].expand_as(weights), atol=1e-5)
    assert bool(((weights > 0) & (weights < 1)).all())
    assert weights[0, :, 0].std() > 1e-3  # not the same for all channels
    assert not torch.allclose(weights[0], weights[1], atol=1e-5)  # nor for all images
    assert not any(isinstance(module, _Gate) for kind in KINDS if kind != "gated" for module in build(kind).modules())


def test_the_sum_adds_the_streams() -> None:
    """So a map that is the image, through the same weights, counts twice."""
    restorer, (images, _) = build("sum"), inputs("sum")
    assert isinstance(restorer, TwoStreamRestorer)
    restorer.map_head.load_state_dict(restorer.head.state_dict())
    restorer.map_stream.load_state_dict(restorer.image_stream.state_dict())
    seen: list[Tensor] = []
    restorer.fusion[1].register_forward_hook(lambda module, given, output: seen.append(given[0]))
    restorer(images, images)
    assert torch.allclose(seen[0], 2 * restorer.image_stream(restorer.head(images)), atol=1e-6)


# Errors


@each("kind", KINDS)
def test_other_images_are_refused(kind: str) -> None:
    for shape in [(2, 1, 6, 5), (3, 6, 5), (2, 4, 6, 5)]:
        maps = inputs(kind)[1:]
        with pytest.raises(ValueError, match=r"built for images \(N, 3, H, W\), not"):
            build(kind)(torch.rand(shape, generator=seeded()), *maps)


@each("kind", FUSIONS)
def test_missing_maps_are_refused(kind: Fusion) -> None:
    with pytest.raises(ValueError, match="built for 3 channels of maps; there are none"):
        build(kind)(*inputs("image"))


@each("kind", FUSIONS)
def test_other_maps_are_refused(kind: Fusion) -> None:
    for shape in [(2, 1, 6, 5), (2, 3, 5, 6), (1, 3, 6, 5), (3, 6, 5), (2, 3, 1, 1)]:
        with pytest.raises(ValueError, match=r"built for maps \(2, 3, 6, 5\) with these images, not"):
            build(kind)(*inputs("image"), torch.rand(shape, generator=seeded()))


def test_the_control_takes_no_maps() -> None:
    with pytest.raises(ValueError, match=r"built for 0 channels of maps; there are \(2, 3, 6, 5\)"):
        build("image")(*inputs("gated"))


def test_a_two_stream_network_without_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="map_channels must be at least 1, not 0; for none, use ImageRestorer"):
        TwoStreamRestorer(3, 0, **SMALL)


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="no fusion 'late'; there are early, sum, concat, gated, heavy"):
        TwoStreamRestorer(3, 3, **SMALL, fusion="late")  # type: ignore[arg-type]
