"""Spiking networks have the size that the literature says, and compute what a loop over time around them computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from contract import seeded
from torch import Tensor, nn

from advdef.models import SmallResNet
from advdef.papers.snn.classifiers import SmallSpikingResNet, SpikingResNet, SpikingVGG, SpikingVGG11, _Block, _Unit
from advdef.papers.snn.layers import SqueezeExcitation, ThresholdNorm, over_time
from advdef.papers.snn.neurons import Firing, firing_rates, leaky_neurons, neurons_of
from advdef.papers.snn.purifier import NoiseMap, Purifier

NOISES: tuple[NoiseMap, ...] = get_args(NoiseMap)
COLOUR = (3, 32, 32)
Network = SpikingResNet | SpikingVGG | Purifier


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def built(build: Callable[..., Any], *arguments: Any, seed: int = 0, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(*arguments, **options)


@torch.no_grad()
def multiply_adds(model: nn.Module, channels: int = 3) -> int:
    """Of an image of 32x32: those that PyTorch's FlopCounterMode counts, which takes seconds to import."""
    total = 0

    def add(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        places = given[0] if isinstance(module, nn.ConvTranspose2d) else output
        total += weight.numel() * len(places) * places[0, 0].numel()

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    handles = [layer.register_forward_hook(add) for layer in layers]
    model(torch.rand(1, channels, 32, 32, generator=seeded()))
    for handle in handles:
        handle.remove()
    return total


def lively(model: Any) -> Any:
    """With statistics, scales and shifts of batch normalisation as after training, in evaluation mode."""
    generator = seeded(5)
    for module in model.modules():
        if isinstance(module, ThresholdNorm):
            for name, low, high in (
                ("running_mean", -1, 1),
                ("running_var", 0.5, 2),
                ("weight", 0.5, 2),
                ("bias", 0, 1),
            ):
                values = getattr(module, name).data
                values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
    return model.eval()


def images_of(shape: tuple[int, int, int], count: int = 3, seed: int = 1) -> Tensor:
    return torch.rand(count, *shape, generator=seeded(seed))


# Networks as loops over time


class Loop:
    """Layers of one network, step after step: neurons are snntorch's, and their membranes lie here."""

    def __init__(self) -> None:
        self.membranes: dict[Firing, list[Tensor]] = {}

    def fires(self, neuron: Firing, current: Tensor) -> Tensor:
        levels = leaky_neurons(neuron)
        for level, threshold in zip(levels, neuron.thresholds, strict=True):
            level.threshold = torch.tensor(threshold, dtype=current.dtype)  # snntorch rounds it to single precision
        before = self.membranes.get(neuron, [torch.zeros_like(current)] * len(levels))
        found = [level(current, u) for level, u in zip(levels, before, strict=True)]
        self.membranes[neuron] = [u for _, u in found]
        return sum(spikes for spikes, _ in found[1:]) + found[0][0].to(current.dtype)

    def unit(self, unit: _Unit, maps: Tensor, stride: int | None = None) -> Tensor:
        weight, norm = unit.convolution.weight, unit.norm
        current = F.conv2d(maps, weight, stride=stride or unit.convolution.stride, padding=weight.shape[-1] // 2)
        mean, variance, scale, shift = (
            x[:, None, None] for x in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        current = scale * norm.threshold * (current - mean) / (variance + 1e-5).sqrt() + shift
        if isinstance(unit.gate, SqueezeExcitation):
            one, _, two, _ = unit.gate.gate
            hidden = (current.mean((2, 3)) @ one.weight.T + one.bias).clamp_min(0)
            current = current * torch.sigmoid(hidden @ two.weight.T + two.bias)[:, :, None, None]
        return self.fires(unit.neurons, current)

    def layers(self, layers: nn.Sequential, maps: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, _Unit):
                maps = self.unit(layer, maps)
            elif isinstance(layer, Firing):
                maps = self.fires(layer, maps)
            elif isinstance(layer, nn.Conv2d | nn.Linear | nn.Flatten | nn.ReLU):
                maps = layer(maps)
            else:
                maps = F.avg_pool2d(maps, 2)
        return maps

    def block(self, block: _Block, maps: Tensor) -> Tensor:
        shortcut = self.unit(block.shortcut[0], maps, block.stride) if len(block.shortcut) else maps
        return self.unit(block.second, self.unit(block.first, maps)) + shortcut

    def residual(self, network: SpikingResNet, images: Tensor) -> Tensor:
        maps = self.unit(network.stem, 2 * images - 1)
        for block in network.stages:
            maps = self.block(block, maps)
        return network.head(F.adaptive_avg_pool2d(maps, 1).flatten(1))

    def plain(self, network: SpikingVGG, images: Tensor) -> Tensor:
        maps = self.layers(network.layers, self.unit(network.stem, 2 * images - 1))
        return network.head(self.layers(network.dense, maps))

    def extractor(self, purifier: Purifier, images: Tensor) -> Tensor:
        assert purifier.extractor is not None
        return purifier.extractor.out(self.layers(purifier.extractor.body, images))

    def restorer(self, purifier: Purifier, stacked: Tensor) -> Tensor:
        net = purifier.restorer
        wide = self.layers(net.entrance, stacked)
        middle = self.layers(net.down, F.avg_pool2d(wide, 2))
        low = self.layers(net.bottom, F.avg_pool2d(middle, 2))
        middle = self.layers(net.up, middle + net.rise(low))
        return net.out(self.layers(net.exit, wide + net.last_rise(middle)))


def step_by_step(network: Network, images: Tensor) -> Tensor:
    """What a network makes of images, each time step by itself."""
    loop = Loop()
    if isinstance(network, SpikingResNet):
        return torch.stack([loop.residual(network, images) for _ in range(network.steps)]).mean(0)
    if isinstance(network, SpikingVGG):
        return torch.stack([loop.plain(network, images) for _ in range(network.steps)]).mean(0)
    steps = network.restorer.steps
    noise = torch.zeros_like(images)
    if network.extractor is not None:
        noise = torch.stack([loop.extractor(network, images) for _ in range(steps)]).mean(0)
        noise = F.softplus(noise) if network.noise == "magnitude" else noise
    stacked = torch.cat([images, noise], 1)
    added = torch.stack([loop.restorer(network, stacked) for _ in range(steps)]).mean(0)
    return (images + added).clamp(0, 1)


@torch.no_grad()
def assert_a_loop_over_time(network: Any, shape: tuple[int, int, int]) -> None:
    for dtype in (torch.float32, torch.float64):
        network, images = network.to(dtype), images_of(shape).to(dtype)
        found, expected = network(images), step_by_step(network, images)
        assert torch.allclose(found, expected, atol=1e-5), float((found - expected).abs().max())
        assert float(found.std(0).min()) > 1e-4  # images differ in all that comes out
    assert min(firing_rates(network, images).values()) > 0.02


@pytest.mark.parametrize(("levels", "gated", "steps"), [(1, False, 4), (3, False, 3), (3, True, 4), (2, True, 1)])
def test_a_residual_network_is_a_loop_over_time(levels: int, gated: bool, steps: int) -> None:
    options = {"levels": levels, "gated": gated, "steps": steps, "blocks": (1, 2), "width": 6}
    assert_a_loop_over_time(lively(built(SpikingResNet, (3, 8, 6), 5, **options)), (3, 8, 6))


def test_a_small_residual_network_is_a_loop_over_time() -> None:
    network = lively(built(SmallSpikingResNet, (1, 13, 11), 4, width=4, steps=3))
    assert_a_loop_over_time(network, (1, 13, 11))  # sizes that do not halve


@pytest.mark.parametrize(("levels", "hidden", "steps"), [(1, (12, 10), 4), (3, (), 2), (2, (9,), 1)])
def test_a_plain_network_is_a_loop_over_time(levels: int, hidden: tuple[int, ...], steps: int) -> None:
    stages = ((5,), (6, 7), (8,))
    network = built(SpikingVGG, (2, 8, 12), 4, stages=stages, hidden=hidden, levels=levels, steps=steps)
    with torch.no_grad():
        for layer in network.dense:
            if isinstance(layer, nn.Linear):
                layer.weight *= 3  # linear layers have no normalisation, and are nearly dead at first
    assert_a_loop_over_time(lively(network), (2, 8, 12))


def opened(purifier: Purifier) -> Purifier:
    """With a last convolution that is not zero."""
    with torch.no_grad():
        purifier.restorer.out.weight.copy_(0.05 * torch.randn(purifier.restorer.out.weight.shape, generator=seeded(2)))
    return purifier


@pytest.mark.parametrize(("noise", "steps"), [("magnitude", 4), ("signed", 3), ("none", 2), ("magnitude", 1)])
def test_a_purifier_is_a_loop_over_time(noise: NoiseMap, steps: int) -> None:
    purifier = opened(built(Purifier, 2, width=4, extractor_width=6, steps=steps, noise=noise))
    assert_a_loop_over_time(purifier, (2, 8, 12))


# Sizes of classifiers


@pytest.mark.parametrize(
    ("options", "millions", "billions"),
    [
        ({}, 4.33, 0.648),
        ({"gated": True}, 4.36, 0.648),
        ({"blocks": (2, 2, 2), "gated": True}, 2.80, 0.421),
        ({"blocks": (2, 2, 2), "gated": True, "width": 32}, 0.70, 0.106),
    ],
)
def test_sizes_of_residual_networks(options: dict[str, Any], millions: float, billions: float) -> None:
    network = SpikingResNet(COLOUR, 10, **options)
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.005)
    # the table counts the stem at each step; here it runs once
    stem = 27 * network.head.in_features // 4 * 32 * 32
    assert (multiply_adds(network) + 3 * stem) / 4e9 == pytest.approx(billions, abs=0.0005)


def test_size_of_the_smallest_residual_network() -> None:
    network = SpikingResNet(COLOUR, 10, blocks=(1, 1, 1), width=16, gated=True)
    assert parameters(network) / 1e6 == pytest.approx(0.079, abs=0.0005)
    assert (multiply_adds(network) + 3 * 27 * 16 * 32 * 32) / 4e9 == pytest.approx(0.0126, abs=0.0004)
    small = SmallSpikingResNet(COLOUR, 10, gated=True)
    assert parameters(small) == parameters(network)  # but a quarter of the positions
    assert multiply_adds(small) == pytest.approx(multiply_adds(network) / 4, rel=0.01)


def test_size_of_vgg_11() -> None:
    network = SpikingVGG11(COLOUR, 10)
    assert parameters(network) / 1e6 == pytest.approx(61.4, abs=0.05)
    assert (multiply_adds(network) + 3 * 27 * 64 * 32 * 32) / 4e9 == pytest.approx(0.600, abs=0.001)
    assert len(neurons_of(network)) == 10
    assert all(layer.thresholds == (0.6,) for layer in neurons_of(network).values())


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_levels_cost_no_weights(levels: int) -> None:
    network = SmallSpikingResNet(COLOUR, 10, levels=levels)
    assert parameters(network) == parameters(SmallSpikingResNet(COLOUR, 10))
    layers = neurons_of(network).values()
    assert len(layers) == 9  # a stem, two for each of three blocks, and two of shortcuts
    assert all(layer.thresholds == (0.6, 1.6, 2.6)[:levels] for layer in layers)
    norms = [module for module in network.modules() if isinstance(module, ThresholdNorm)]
    assert len(norms) == 9
    assert all(norm.threshold == 0.6 for norm in norms)


def test_the_first_convolution_runs_once() -> None:
    counts = [multiply_adds(SmallSpikingResNet(COLOUR, 10, steps=steps)) for steps in (1, 2, 3)]
    rest = counts[1] - counts[0]
    assert counts[2] - counts[1] == rest
    head = 64 * 10
    assert counts[0] - rest == 27 * 16 * 16 * 16 + head  # and so does the last layer


def test_the_small_network_has_the_channels_of_the_small_resnet() -> None:
    def channels(model: nn.Module) -> set[int]:
        return {module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)}

    assert channels(SmallSpikingResNet(COLOUR, 10)) == channels(SmallResNet(COLOUR, 10))


# What classifiers put out


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 9, 5)])
def test_logits_of_images_of_any_size(shape: tuple[int, int, int]) -> None:
    network = lively(built(SmallSpikingResNet, shape, 7, width=4))
    assert network(images_of(shape)).shape == (3, 7)
    assert network(images_of(shape, 1)).shape == (1, 7)
    assert network(images_of((shape[0], 8, 8))).shape == (3, 7)
    vgg = SpikingVGG((shape[0], 8, 12), 7, stages=((4,), (4,)), hidden=(6,)).eval()
    assert vgg(images_of((shape[0], 8, 12))).shape == (3, 7)


@pytest.mark.parametrize("levels", [1, 3])
def test_blocks_put_out_counts_of_spikes(levels: int) -> None:
    network = lively(built(SpikingResNet, (3, 8, 8), 5, levels=levels, gated=True, blocks=(2, 1), width=8, steps=2))
    seen: list[Tensor] = []
    for block in network.stages:
        block.register_forward_hook(lambda module, given, output: seen.append(output.detach()))
    network(images_of((3, 8, 8)))
    assert [tuple(maps.shape) for maps in seen] == [(6, 8, 8, 8), (6, 8, 8, 8), (6, 16, 4, 4)]
    for maps in seen:
        assert torch.equal(maps, maps.round())
        assert float(maps.min()) == 0
    # stem and block, and once more; after a shortcut with neurons it is two again
    bounds = [2 * levels, 3 * levels, 2 * levels]
    found = [int(maps.max()) for maps in seen]
    assert all(most <= bound for most, bound in zip(found, bounds, strict=True))
    assert max(found) > levels


def test_gates_lie_on_the_residual_current_alone() -> None:
    network = SpikingResNet(COLOUR, 10, gated=True, blocks=(2, 1), width=4)
    names = [f"stages.{i}.second.gate" for i in range(3)]
    assert names == [name for name, module in network.named_modules() if isinstance(module, SqueezeExcitation)]
    assert not any(isinstance(module, SqueezeExcitation) for module in SmallSpikingResNet(COLOUR, 10).modules())


@torch.no_grad()
def test_a_gate_scales_the_current_and_not_the_shortcut() -> None:
    network = lively(built(SpikingResNet, (3, 8, 8), 5, gated=True, blocks=(1, 1), width=8))
    without = lively(SpikingResNet((3, 8, 8), 5, blocks=(1, 1), width=8))
    without.load_state_dict({name: x for name, x in network.state_dict().items() if ".gate." not in name})
    images, block = images_of((3, 8, 8)), network.stages[1]
    maps = network.stages[0](network.stem(2 * images - 1, constant=True))
    shortcut = block.shortcut(maps[:, :, ::2, ::2])
    for module in network.modules():
        if isinstance(module, SqueezeExcitation):
            module.gate[2].weight.zero_()
            module.gate[2].bias.fill_(100.0)  # open
    assert torch.equal(network(images), without(images))
    block.second.gate.gate[2].bias.fill_(-100.0)  # closed: no current, no spikes
    assert torch.equal(block(maps), shortcut)
    block.second.gate.gate[2].bias.zero_()  # half the current
    seen: list[Tensor] = []
    block.second.neurons.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    block(maps)
    assert torch.allclose(seen[0], block.second.norm(block.second.convolution(block.first(maps))) / 2, atol=1e-6)


def test_a_gate_is_its_formula() -> None:
    gate, maps = built(SqueezeExcitation, 32), torch.randn(6, 32, 3, 4, generator=seeded())
    state = gate.state_dict()
    assert [tuple(x.shape) for x in state.values()] == [(2, 32), (2,), (32, 2), (32,)]
    first, bias, second, other = state.values()
    hidden = F.linear(F.adaptive_avg_pool2d(maps, 1).flatten(1), first, bias).relu()
    weights = F.linear(hidden, second, other).sigmoid()
    assert torch.allclose(gate(maps), maps * weights[:, :, None, None], atol=1e-6)
    assert bool((hidden > 0).any())
    assert float(weights.std(0).max()) > 1e-3  # of each time step and image by itself
    assert SqueezeExcitation(5).gate[0].out_features == 1
    assert SqueezeExcitation(32, 4).gate[0].out_features == 8


def test_the_mean_over_time() -> None:
    maps = torch.tensor([[1.0], [10.0], [3.0], [30.0]])
    assert over_time(maps, 2).tolist() == [[2.0], [20.0]]
    assert torch.equal(over_time(maps, 1), maps)


def test_pixels_are_centred_inside() -> None:
    network = lively(built(SmallSpikingResNet, (3, 8, 8), 4, width=4))
    seen: list[Tensor] = []
    network.stem.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    network(torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1).expand(3, 3, 8, 8))
    assert seen[0][:, 0, 0, 0].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("build", [SmallSpikingResNet, lambda *args: SpikingVGG(*args, stages=((8,), (8,)), levels=3)])
def test_all_weights_of_a_classifier_get_a_gradient(build: Callable[..., nn.Module]) -> None:
    network, images = built(build, (3, 16, 16), 5), images_of((3, 16, 16), 8).requires_grad_()
    weights = dict(network.named_parameters())
    loss = F.cross_entropy(network(images), torch.arange(8) % 5)
    gradients = torch.autograd.grad(loss, [images, *weights.values()])
    assert [name for name, x in zip(("", *weights), gradients, strict=True) if not bool(x.any())] == []


def test_convolutions_start_by_kaimings_rule() -> None:
    for network in (built(SpikingResNet, COLOUR, 10, blocks=(1, 1), width=32),
                    built(SpikingVGG, COLOUR, 10, stages=((32,), (64,)))):  # fmt: skip
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                inputs = module.weight[0].numel()
                assert float(module.weight.detach().std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.1)
                assert float(module.weight.detach().abs().max() * (inputs / 2) ** 0.5) > 2  # not uniform


# Normalisation


def test_tdbn_is_its_formula() -> None:
    maps = 3 * torch.randn(6, 4, 5, 5, generator=seeded()) + torch.tensor([1.0, -2.0, 0.0, 5.0])[:, None, None]
    norm = built(ThresholdNorm, 4, 0.6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -0.5, 0.1]))
        norm.bias.copy_(torch.tensor([0.0, 0.5, -1.0, 3.0]))
    mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)

    def formula(mean: Tensor, variance: Tensor) -> Tensor:
        scale = norm.weight * 0.6 / (variance + 1e-5).sqrt()
        return scale[:, None, None] * (maps - mean[:, None, None]) + norm.bias[:, None, None]

    assert torch.allclose(norm(maps), formula(mean, variance), atol=1e-5)
    # statistics of the past: a tenth of those of this batch
    assert torch.allclose(norm.running_mean, 0.1 * mean, atol=1e-6)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * maps.var((0, 2, 3)), atol=1e-5)
    norm.eval()
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([0.5, 1.0, -1.0, 4.0]))
        norm.running_var.copy_(torch.tensor([0.25, 1.0, 2.0, 9.0]))
    kept = norm.running_mean.clone(), norm.running_var.clone()
    assert torch.allclose(norm(maps), formula(*kept), atol=1e-5)
    assert torch.equal(norm.running_mean, kept[0])
    assert torch.equal(norm.running_var, kept[1])
    assert repr(norm) == "ThresholdNorm(4, threshold=0.6)"


def test_tdbn_starts_at_the_size_of_the_threshold() -> None:
    normed = ThresholdNorm(2, 1.6)(7 + 5 * torch.randn(50, 2, 6, 6, generator=seeded()))
    assert torch.allclose(normed.std((0, 2, 3)), torch.full((2,), 1.6), atol=0.01)
    assert torch.allclose(normed.mean((0, 2, 3)), torch.zeros(2), atol=1e-5)


# Errors of classifiers


def test_other_levels_are_refused() -> None:
    for levels in (0, 4, -1, 1.5):
        for build in [SpikingResNet, SmallSpikingResNet, SpikingVGG11]:
            with pytest.raises(ValueError, match=f"levels must be from 1 to 3, not {levels}"):
                build(COLOUR, 10, levels=levels)


def test_stages_without_blocks_are_refused() -> None:
    for blocks in [(), (0,), (1, 0, 1), (2, -1)]:
        with pytest.raises(ValueError, match="each stage needs a block, not"):
            SpikingResNet(COLOUR, 10, blocks=blocks)


def test_images_that_cannot_be_halved_are_refused() -> None:
    for shape in [(3, 30, 32), (3, 32, 30), (1, 28, 31), (3, 2, 2)]:
        with pytest.raises(ValueError, match=rf"images of {shape[1]}x{shape[2]} cannot be halved 2 times"):
            SpikingVGG(shape, 10, stages=((4,), (4,), (4,)))
        SpikingVGG((3, 28, 4), 10, stages=((4,), (4,), (4,)))
        SpikingVGG((3, 27, 31), 10, stages=((4,),))


def test_vgg_11_halves_three_times() -> None:
    with pytest.raises(ValueError, match="images of 28x28 cannot be halved 3 times"):
        SpikingVGG11((1, 28, 28), 10)


def test_bad_steps_of_a_network_are_refused() -> None:
    for steps in [0, 2.0]:
        with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
            SmallSpikingResNet(COLOUR, 10, steps=steps)
        with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
            Purifier(3, width=4, extractor_width=4, steps=steps)


@pytest.mark.parametrize("build", [partial(SmallSpikingResNet, width=4), partial(SpikingVGG, stages=((4,), (4,)))])
def test_images_with_other_channels_are_refused(build: Any) -> None:
    with pytest.raises(ValueError, match="built for images"):
        build((3, 8, 8), 4).eval()(images_of((1, 8, 8)))


def test_empty_stages_are_refused() -> None:
    for stages in [(), ((),), ((4,), ())]:
        with pytest.raises(ValueError, match="each stage needs a convolution"):
            SpikingVGG((3, 8, 8), 4, stages=stages)


# The purifier


@pytest.mark.parametrize(("width", "millions", "billions"), [(64, 4.34, 0.549), (32, 1.09, 0.138), (16, 0.27, 0.035)])
def test_sizes_of_restorers(width: int, millions: float, billions: float) -> None:
    restorer = Purifier(3, width=width, extractor_width=4, noise="none").restorer
    assert parameters(restorer) / 1e6 == pytest.approx(millions, abs=0.005)
    # the table counts first and last convolution at each step; here they run once
    ends = (6 * 9 + 3) * width * 32 * 32
    assert (multiply_adds(restorer, 6) + 3 * ends) / 4e9 == pytest.approx(billions, abs=0.0005)


@pytest.mark.parametrize(("width", "millions"), [(32, 0.030), (16, 0.008)])
def test_sizes_of_extractors(width: int, millions: float) -> None:
    extractor = Purifier(3, width=4, extractor_width=width).extractor
    assert parameters(extractor) / 1e6 == pytest.approx(millions, abs=0.0005)
    ends = 2 * 27 * width * 32 * 32
    assert (multiply_adds(extractor) + 3 * ends) / 4e9 == pytest.approx(millions, abs=0.0006)  # each weight once


def test_parts_of_the_purifier() -> None:
    purifier = Purifier(3, width=8, extractor_width=4, threshold=0.4, decay=0.3)
    layers = neurons_of(purifier)
    assert len(layers) == 20
    assert sum(name.startswith("extractor") for name in layers) == 4
    assert all(layer.thresholds == (0.4,) and layer.decay == 0.3 for layer in layers.values())
    convolutions = [m for m in purifier.restorer.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 17
    assert [m.out_channels for m in convolutions] == [8] * 2 + [16] * 3 + [32] * 6 + [16] * 3 + [8] * 2 + [3]
    default = neurons_of(Purifier(3, width=8, extractor_width=4)).values()
    assert all((layer.thresholds, layer.decay, layer.steps) == ((0.3,), 0.5, 4) for layer in default)


def test_an_untrained_purifier_changes_nothing() -> None:
    for noise, spiking in product(NOISES, (True, False)):
        purifier = built(Purifier, 3, width=4, extractor_width=4, noise=noise, spiking=spiking)
        images = images_of((3, 8, 8))
        assert torch.equal(purifier(images), images)
        # but it can learn
        loss = (purifier(images) - 0.5).square().sum()
        weight, bias = torch.autograd.grad(loss, [purifier.restorer.out.weight, purifier.restorer.out.bias])
        assert bool(weight.flatten(1).any(1).all())
        assert bool(bias.all())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_purifier_is_not_dead_at_the_start(seed: int) -> None:
    purifier = opened(built(Purifier, 3, width=16, extractor_width=32, seed=seed))
    images = images_of((3, 16, 16), 4, seed)
    assert min(firing_rates(purifier, images).values()) > 0.02
    point = images.clone().requires_grad_()
    loss = (purifier(point) - 0.5).square().sum() + purifier.extract(point).square().sum()
    gradients = torch.autograd.grad(loss, [point, *purifier.parameters()])
    names = ["images", *(name for name, _ in purifier.named_parameters())]
    assert len(names) == 1 + 48
    assert [name for name, x in zip(names, gradients, strict=True) if not bool(x.any())] == []


def test_the_extractor_learns_through_the_restorer() -> None:
    purifier = opened(built(Purifier, 3, width=8, extractor_width=8))
    assert purifier.extractor is not None
    loss = (purifier(images_of((3, 16, 16))) - 0.5).square().sum()
    assert all(bool(x.any()) for x in torch.autograd.grad(loss, list(purifier.extractor.parameters())))


def test_the_control_has_as_many_weights_and_no_neurons() -> None:
    for noise in NOISES:
        spiking = built(Purifier, 3, width=8, extractor_width=4, noise=noise)
        plain = built(Purifier, 3, width=8, extractor_width=4, noise=noise, spiking=False)
        assert parameters(plain) == parameters(spiking)
        shapes = [{name: tuple(x.shape) for name, x in model.state_dict().items()} for model in (plain, spiking)]
        assert shapes[0] == shapes[1]
        assert not any(isinstance(module, Firing) for module in plain.modules())
        assert sum(isinstance(module, nn.ReLU) for module in plain.modules()) == len(neurons_of(spiking))
        assert plain.restorer.steps == 1
        images = images_of((3, 8, 8))
        assert opened(plain)(images).shape == images.shape
        assert not torch.equal(opened(plain)(images), opened(spiking)(images))


def test_the_control_is_its_layers() -> None:
    purifier, images = opened(built(Purifier, 2, width=4, extractor_width=5, spiking=False)), images_of((2, 8, 12))
    loop = Loop()
    noise = F.softplus(loop.extractor(purifier, images))
    expected = (images + loop.restorer(purifier, torch.cat([images, noise], 1))).clamp(0, 1)
    assert torch.allclose(purifier(images), expected, atol=1e-6)


@torch.no_grad()
def test_noise_maps() -> None:
    images = images_of((3, 12, 8))
    found = {noise: built(Purifier, 3, width=4, extractor_width=8, noise=noise).extract(images) for noise in NOISES}
    assert list(found) == ["magnitude", "signed", "none"]
    assert all(maps.shape == images.shape for maps in found.values())
    assert float(found["magnitude"].min()) > 0
    assert float(found["signed"].min()) < 0 < float(found["signed"].max())
    assert torch.allclose(found["magnitude"], F.softplus(found["signed"]), atol=1e-6)  # of the same weights
    assert torch.equal(found["none"], torch.zeros_like(images))
    assert built(Purifier, 3, width=4, extractor_width=8, noise="none").extractor is None
    printed = {repr(built(Purifier, 3, width=4, extractor_width=8, noise=noise)) for noise in NOISES}
    assert len(printed) == 3  # though two of them have the same layers


def test_the_restorer_sees_images_and_their_noise() -> None:
    purifier, images = opened(built(Purifier, 3, width=4, extractor_width=8)), images_of((3, 12, 8))
    seen: list[Tensor] = []
    purifier.restorer.register_forward_hook(lambda module, given, output: seen.extend([given[0], output]))
    found = purifier(images)
    assert torch.equal(seen[0], torch.cat([images, purifier.extract(images)], 1))
    assert torch.equal(found, (images + seen[1]).clamp(0, 1))
    noise = torch.rand(images.shape, generator=seeded(8))
    assert torch.equal(purifier.restore(images, noise), images + purifier.restorer(torch.cat([images, noise], 1)))
    assert not torch.equal(purifier.restore(images, noise), purifier.restore(images, 3 * noise))


@torch.no_grad()
def test_purified_images_are_clipped_and_restored_ones_are_not() -> None:
    purifier, images = opened(built(Purifier, 3, width=4, extractor_width=8)), images_of((3, 8, 8))
    purifier.restorer.out.bias.copy_(torch.tensor([2.0, -2.0, 0.0]))
    restored = purifier.restore(images, purifier.extract(images))
    assert float(restored.max()) > 1
    assert float(restored.min()) < 0
    found = purifier(images)
    assert torch.equal(found, restored.clamp(0, 1))
    assert float(found[:, 0].min()) == 1
    assert float(found[:, 1].max()) == 0


def test_one_time_step_is_enough() -> None:
    for noise in NOISES:
        purifier, images = (
            opened(built(Purifier, 1, width=8, extractor_width=8, steps=1, noise=noise)),
            images_of((1, 28, 28)),
        )
        found = purifier(images)
        assert found.shape == images.shape
        assert not torch.equal(found, images)


def test_images_that_cannot_be_halved_twice_are_refused() -> None:
    for size in [(30, 30), (32, 30), (30, 32), (6, 8), (1, 1)]:
        for noise in NOISES:
            purifier, images = Purifier(3, width=4, extractor_width=4, noise=noise), images_of((3, *size))
            for method in (purifier, purifier.extract):
                with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} cannot be: pad them to a multiple of 4"):
                    method(images)


def test_other_images_are_refused() -> None:
    for shape in [(2, 1, 8, 8), (2, 4, 8, 8), (3, 8, 8), (8, 3, 8), (2, 3, 8, 8, 8)]:
        for noise in NOISES:
            purifier = Purifier(3, width=4, extractor_width=4, noise=noise)
            for method in (purifier, purifier.extract):
                with pytest.raises(ValueError, match=r"built for images \(N, 3, H, W\), not"):
                    method(torch.rand(shape, generator=seeded()))


def test_an_unknown_noise_map_is_refused() -> None:
    with pytest.raises(ValueError, match="no noise map 'absolute'; there are magnitude, signed, none"):
        Purifier(3, width=4, extractor_width=4, noise="absolute")  # type: ignore[arg-type]


# Memory


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """Of what the backward pass needs, each storage once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(images)
    return sum(size for pointer, size in kept.items() if pointer not in weights)


@pytest.mark.parametrize("build", [
    lambda steps: SmallSpikingResNet((3, 16, 16), 4, steps=steps, width=8, gated=True),
    lambda steps: Purifier(3, width=8, extractor_width=8, steps=steps),
])  # fmt: skip
def test_memory_grows_at_most_linearly_in_time(build: Callable[[int], nn.Module]) -> None:
    images = images_of((3, 16, 16), 4)
    two, four, eight = (kept_bytes(built(build, steps), images) for steps in (2, 4, 8))
    assert two < four < eight
    assert eight - four <= 2.02 * (four - two)


def test_levels_cost_no_memory() -> None:
    images = images_of((3, 16, 16), 4)
    one, three = (kept_bytes(built(SmallSpikingResNet, (3, 16, 16), 4, levels=k, width=8), images) for k in (1, 3))
    assert three == one
