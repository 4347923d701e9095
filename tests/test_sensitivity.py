"""Sensitivities are those of their definitions, whatever the batches; chosen neurons are those asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import torch
from cases import each
from contract import seeded
from torch import Tensor, nn

from advdef.attacks import fgsm, uniform_noise
from advdef.evaluation import UnsoundAttack, correct
from advdef.models import SmallResNet
from advdef.papers.sensitivity.interventions import rescaled
from advdef.papers.sensitivity.measure import (
    Definition,
    Pairs,
    SensitivityMeter,
    channel_mask,
    jaccard,
    layer_score,
    make_pairs,
    measure,
    measure_under,
    select,
    sensitivity,
)
from advdef.papers.sensitivity.meter import _FLOOR, _typical
from advdef.taps import tapped

DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
SCALE_FREE: tuple[Definition, ...] = ("relative", "relative_per_pair", "standardized")
Activations = tuple[Tensor, Tensor]
SUMS = 8 * torch.finfo(torch.float32).eps  # of the sum over one map, relative; over the pairs it is float64


def metered(clean: Tensor, adversarial: Tensor, definition: Definition = "absolute", batch: int = 1000) -> Tensor:
    meter = SensitivityMeter()
    for a, b in zip(clean.split(batch), adversarial.split(batch), strict=True):
        meter.update({"layer": a}, {"layer": b})
    return meter.compute(definition)["layer"]


def maps(*shape: int, seed: int = 0) -> Activations:
    """Clean and adversarial activations, about half of them 0."""
    clean, change = torch.randn(2, *shape, generator=seeded(seed))
    return clean.relu(), (clean + 0.3 * change).relu()


def by_loops(clean: Tensor, adversarial: Tensor, definition: Definition) -> list[float]:
    """One neuron, one pair at a time, in float64."""
    found = []
    for c in range(clean.shape[1]):
        a, b = (side[:, c].reshape(len(side), -1).double() for side in (clean, adversarial))
        change, size = [], []
        for x, y in zip(a, b, strict=True):
            difference = y - x
            size.append(float(x.abs().mean()))
            change.append({
                "relative_per_pair": float(difference.abs().mean()) / size[-1] if size[-1] else 1.0,
                "pooled": abs(float(difference.mean())),
                "absolute_l2": float(difference.norm()) / len(x),
                "largest": float(difference.abs().max()),
            }.get(definition, float(difference.abs().mean())))  # fmt: skip
        scale = {"relative": sum(size) / len(size), "standardized": float(a.std(correction=0))}.get(definition, 1.0)
        found.append(sum(change) / len(change) / scale)
    return found


class Two(nn.Module):
    """Channels x and relu(1 - 2x), and the two class scores that are their means."""

    taps = ("maps",)

    def __init__(self) -> None:
        super().__init__()
        convolution = nn.Conv2d(1, 2, 1)
        convolution.weight.data = torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1)
        convolution.bias.data = torch.tensor([0.0, 1.0])
        self.maps = nn.Sequential(convolution, nn.ReLU())
        self.unused = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((2, 3))


PAIR = Pairs(
    torch.tensor([[0.0, 0.5], [1.0, 1.0]]).reshape(2, 1, 1, 2),
    torch.tensor([[0.25, 0.25], [1.0, 0.5]]).reshape(2, 1, 1, 2),
    torch.tensor([1, 0]),
)


@pytest.fixture(scope="module")
def resnet() -> SmallResNet:
    """Batch normalisation has seen data and has weights of its own."""
    torch.manual_seed(0)
    model = SmallResNet((1, 12, 12), 10, width=8)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for _ in range(5):
            model(torch.rand(50, 1, 12, 12))
    return model.eval()


@pytest.fixture(scope="module")
def pairs(resnet: SmallResNet) -> Pairs:
    images = torch.rand(30, 1, 12, 12, generator=seeded())
    return make_pairs(resnet, images, resnet(images).argmax(1), partial(fgsm), eps=0.1)


# the definitions


@each(
    ("definition", "expected"),
    [
        ("absolute", (0.25, 0.25)),  # pairs: 0.25 and 0.25; 0.5 and 0
        ("relative", (0.4, 1.0)),  # over a clean size of 0.25 and 1; 0.5 and 0
        ("relative_per_pair", (0.625, 1.0)),  # 1 and 0.25; 1 and 1, which stands for 0 / 0
        ("pooled", (0.125, 0.0)),  # changes of both signs cancel in the first pair
        ("standardized", (0.25 / math.sqrt(0.171875), 0.25 / math.sqrt(0.1875))),
        ("absolute_l2", ((math.sqrt(0.125) + 0.5) / 4, math.sqrt(0.5) / 4)),
        ("largest", (0.375, 0.25)),
    ],
)
def test_two_channels_by_hand(definition: Definition, expected: tuple[float, float]) -> None:
    assert sensitivity(Two(), PAIR, definition=definition)["maps"].tolist() == pytest.approx(expected)


def test_every_definition_agrees_with_plain_loops() -> None:
    for definition in DEFINITIONS:
        for shape in [(7, 5, 3, 4), (7, 5), (1, 5, 3, 4), (7, 1, 3, 4), (1, 1, 2, 1), (40, 3, 1, 1)]:
            clean, adversarial = maps(*shape)
            clean, adversarial = (
                clean - 0.1,
                adversarial - 0.2,
            )  # of both signs; no map is 0: those have their own tests
            for side in (clean, clean.double()):
                found = metered(side, adversarial.to(side.dtype), definition)
                assert found.shape == (shape[1],)
                assert found.tolist() == pytest.approx(by_loops(clean, adversarial, definition), rel=1e-5)


def test_a_unit_is_a_channel_of_one_position() -> None:
    clean, adversarial = maps(20, 6)
    for definition in DEFINITIONS:
        as_maps = metered(clean[..., None, None], adversarial[..., None, None], definition)
        assert torch.equal(metered(clean, adversarial, definition), as_maps)


def test_the_memory_format_changes_nothing() -> None:
    clean, adversarial = maps(8, 5, 6, 6)
    last = clean.to(memory_format=torch.channels_last), adversarial.to(memory_format=torch.channels_last)
    for definition in DEFINITIONS:
        assert torch.allclose(metered(*last, definition), metered(clean, adversarial, definition), rtol=1e-6)


def test_a_local_change_moves_the_largest_and_not_the_mean() -> None:
    clean = torch.zeros(1, 2, 10, 10)
    local, even = clean.clone(), torch.full_like(clean, 0.01)
    local[:, :, 0, 0] = 1.0
    assert torch.allclose(metered(clean, local), metered(clean, even))
    assert torch.allclose(metered(clean, local, "largest"), 100 * metered(clean, even, "largest"))


# batches


def test_batches_of_any_size_give_the_same() -> None:
    for definition in DEFINITIONS:
        for offset in [0.0, 100.0]:
            clean, adversarial = (side + offset for side in maps(50, 4, 5, 5))
            at_once = metered(clean, adversarial, definition)
            for batch in (1, 7, 49):
                assert torch.allclose(metered(clean, adversarial, definition, batch), at_once, rtol=1e-6, atol=0)


def test_adding_up_many_batches_loses_nothing() -> None:
    clean, adversarial = maps(3000, 2)
    assert torch.allclose(metered(clean, adversarial, batch=7), metered(clean, adversarial), rtol=1e-13, atol=0)


def test_a_small_spread_around_a_large_mean_is_seen() -> None:
    clean, adversarial = (1000 + 0.1 * side for side in maps(50, 4, 5, 5))
    expected = by_loops(clean, adversarial, "standardized")
    assert metered(clean, adversarial, "standardized", 7).tolist() == pytest.approx(expected, rel=1e-6)


def activations(model: nn.Module, pairs: Pairs, batch_size: int) -> dict[str, Activations]:
    """What each of the model's taps gives on both sides of all pairs, each (N, C, positions) in float64."""
    seen: dict[str, list[Tensor]] = {layer: [] for layer in model.taps}
    with torch.no_grad(), tapped(model, list(seen)) as maps:
        for images in (*pairs.images.split(batch_size), *pairs.adversarial.split(batch_size)):
            model(images)
            for layer, values in seen.items():
                values.append(
                    maps[layer].double().flatten(2) if maps[layer].dim() > 2 else maps[layer].double()[..., None]
                )
    clean, adversarial = zip(*(torch.cat(values).chunk(2) for values in seen.values()), strict=True)
    return {layer: (a, b) for layer, a, b in zip(seen, clean, adversarial, strict=True)}


def error_bound(first: Activations, second: Activations, definition: Definition) -> Tensor:
    """(C,): how much a sensitivity may differ between two runs whose activations differ as these do.

    A change c is off by no more than both sides together, a divisor s by no more than the clean side, in the mean or,
    for a standard deviation, in the square mean; so c / s by (error of c + c / s * error of s) / s.
    """
    (clean, adversarial), (error, others) = first, tuple((x - y).abs() for x, y in zip(first, second, strict=True))
    plain = {"absolute_l2": (error + others).norm(dim=2) / clean.shape[2], "largest": (error + others).amax(2)}
    if definition not in SCALE_FREE:
        return plain.get(definition, (error + others).mean(2)).mean(0)
    over = (2,) if definition == "relative_per_pair" else (0, 2)
    change = (adversarial - clean).abs().mean(over)
    scale = clean.std(over, correction=0) if definition == "standardized" else clean.abs().mean(over)
    scale = scale.clamp(min=_FLOOR * _typical(scale))
    found = ((error + others).mean(over) + change / scale * error.square().mean(over).sqrt()) / scale
    return found if definition != "relative_per_pair" else found.mean(0)


def test_the_batch_size_changes_no_choice(resnet: SmallResNet, pairs: Pairs) -> None:
    """Kernels depend on the size of a batch; a sensitivity moves by what the activations differ, and no more."""
    sizes = (1000, 1, 7)
    (at_once, *meters), (maps_at_once, *maps) = zip(
        *((measure(resnet, pairs, batch_size=size), activations(resnet, pairs, size)) for size in sizes), strict=True
    )
    for definition in DEFINITIONS:
        first = at_once.compute(definition)
        for meter, seen in zip(meters, maps, strict=True):
            other = meter.compute(definition)
            for layer, values in first.items():
                allowed = error_bound(maps_at_once[layer], seen[layer], definition)
                assert bool(((other[layer] - values).abs() <= allowed + SUMS * values).all()), (definition, layer)
            assert set(jaccard(select(first, ratio=0.3), select(other, ratio=0.3)).values()) == {1.0}


def test_identical_pairs_give_zero(resnet: SmallResNet, pairs: Pairs) -> None:
    same = Pairs(pairs.images, pairs.images, pairs.labels)
    largest = {layer: float(x.max()) for layer, x in measure(resnet, same).compute("relative_per_pair").items()}
    layers = [layer for layer in resnet.taps if largest[layer] == 0]
    assert len(layers) > 1  # of a channel that is 0 on an image, the ratio per pair is 1 by definition
    for definition in DEFINITIONS:
        found = sensitivity(resnet, same, definition=definition, layers=layers)
        assert all(not bool(values.any()) for values in found.values())


# scale


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_at_the_same_function_only_some_definitions_stay(
    resnet: SmallResNet, pairs: Pairs, definition: Definition
) -> None:
    factors = torch.logspace(-1, 1, 8)
    other = rescaled(resnet, "stages.0.0.inner.1", "stages.0.0.second.0", factors)
    with torch.no_grad():
        assert float((other(pairs.adversarial) - resnet(pairs.adversarial)).abs().max()) < 1e-5
    before, after = (sensitivity(m, pairs, definition=definition) for m in (resnet, other))
    maps, scaled = activations(resnet, pairs, len(pairs)), activations(other, pairs, len(pairs))
    for layer, factor in {"stages.0.0.inner": factors, "stages.0.0": torch.ones(8)}.items():
        clean, adversarial = (side / factor[:, None] for side in scaled[layer])
        allowed = error_bound(maps[layer], (clean, adversarial), definition) + SUMS * before[layer]
        found = after[layer] if definition in SCALE_FREE else after[layer] / factor
        assert bool(((found - before[layer]).abs() <= allowed).all()), layer


def test_a_rescaled_model_names_any_neuron_the_most_sensitive(resnet: SmallResNet, pairs: Pairs) -> None:
    for wanted in range(8):
        factors = torch.ones(8)
        factors[wanted] = 2.0**20
        other = rescaled(resnet, "stages.0.0.inner.1", "stages.0.0.second.0", factors)
        assert torch.equal(other(pairs.images), resnet(pairs.images))
        assert select(sensitivity(other, pairs), k=1)["stages.0.0.inner"].tolist() == [wanted]


# dead channels


@pytest.mark.parametrize(
    ("definition", "dead"), [("relative", [0.0]), ("standardized", [0.0, *torch.linspace(0.1, 9, 40).tolist()])]
)
def test_a_neuron_without_clean_size_or_spread(definition: Definition, dead: list[float]) -> None:
    clean, adversarial = maps(50, 4, 5, 5)
    expected = by_loops(clean, adversarial, definition)
    alive = clean[:, [0, 3]].transpose(0, 1).flatten(1).double()
    typical = float((alive.std(1, correction=0) if definition == "standardized" else alive.mean(1)).max())
    for value in dead:
        clean[:, 1:3] = adversarial[:, 1] = value
        adversarial[:, 2] = value + 0.01
        for batch in (1000, 7):
            found = metered(clean, adversarial, definition, batch).tolist()
            assert found[1] == 0  # silent before and after
            assert found[2] == pytest.approx(0.01 / (1e-3 * typical), rel=1e-4)  # 0.01 is the step in float32 at 9
            assert (found[0], found[3]) == pytest.approx((expected[0], expected[3]), rel=1e-5)


@pytest.mark.parametrize("definition", SCALE_FREE)
def test_a_nearly_dead_neuron_does_not_show_rounding(definition: Definition) -> None:
    """Without a floor under the divisor, these sensitivities move by a hundredth to the double."""
    clean, adversarial = (side.double() for side in maps(50, 6, 5, 5))
    for neuron, size in enumerate((1e-4, 1e-5, 1e-6, 1e-7)):
        clean[:, neuron] *= size
    rounding = 1e-7 * torch.rand(clean.shape, generator=seeded(1), dtype=clean.dtype)
    exact, rounded = (metered(side, adversarial, definition) for side in (clean, clean + rounding))
    assert bool(((rounded - exact).abs() <= 1e-7 / 1e-3 / 0.2 * (1 + exact)).all())  # the typical size is above 0.2


def test_quiet_neurons_are_counted() -> None:
    clean, adversarial = maps(50, 6, 5, 5)
    for scale in (1.0, 1e-6, 1e6):  # of the layer, which changes nothing
        quiet = scale * clean * torch.tensor([0.0, 1e-5, 1e-2, 1.0, 1e6, 1.0])[:, None, None]  # one dead, one nearly
        meter = SensitivityMeter()
        meter.update({"layer": quiet}, {"layer": scale * adversarial})
        assert meter.quiet() == meter.quiet("standardized") == {"layer": 2}


@pytest.mark.parametrize("definition", ["relative", "standardized"])
def test_a_layer_without_clean_size_or_spread(definition: Definition) -> None:
    clean = torch.zeros(3, 2)
    assert metered(clean, torch.tensor([0.0, 0.5]).expand(3, 2), definition).tolist() == [0.0, 1.0]
    assert metered(clean, clean, definition).tolist() == [0.0, 0.0]


def test_the_ratio_per_pair_is_one_where_the_clean_map_is_zero() -> None:
    clean = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    found = metered(clean, torch.tensor([[5.0, 0.0], [1.5, 0.0]]), "relative_per_pair")
    assert found.tolist() == [0.75, 1.0]


# measuring a model


def test_measuring_leaves_no_trace_and_sees_evaluation_mode(resnet: SmallResNet, pairs: Pairs) -> None:
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    expected = sensitivity(resnet, pairs)
    graphs: list[bool] = []
    resnet.train()
    watch = resnet.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
    try:
        resnet.stages[1].eval()
        found = sensitivity(resnet, pairs)
        assert resnet.training
        assert not resnet.stages[1].training
    finally:
        watch.remove()
        resnet.eval()
    assert graphs == [False, False]
    assert all(torch.equal(values, expected[layer]) for layer, values in found.items())
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    assert not any(module._forward_hooks for module in resnet.modules())


def test_layers_may_be_named(resnet: SmallResNet, pairs: Pairs) -> None:
    found = sensitivity(resnet, pairs, layers=["head", "stem"])
    assert {layer: len(values) for layer, values in found.items()} == {"head": 10, "stem": 8}


def test_layers_that_cannot_be_measured_are_named(resnet: SmallResNet, pairs: Pairs) -> None:
    with pytest.raises(ValueError, match=r"SmallResNet has no layer 'stages\.9'; it has stem, .*head"):
        measure(resnet, pairs, layers=["stages.9"])
    with pytest.raises(ValueError, match=r"Sequential names no taps: pass layers, any of 0"):
        measure(nn.Sequential(nn.Linear(1, 1)), pairs)
    with pytest.raises(ValueError, match="a forward pass has no layer 'unused'; expected: maps, unused"):
        measure(Two(), PAIR, layers=["maps", "unused"])


# pairs


@pytest.fixture
def task(network: nn.Module, batch: Activations) -> tuple[nn.Module, Tensor, Tensor]:
    """A model that is right on most images: some of the labels are wrong on purpose."""
    images, labels = batch[0], batch[1].clone()
    labels[::9] = (labels[::9] + 1) % 10
    return network, images, labels


def test_pairs_are_of_the_images_asked_for(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = task
    kept = {
        keep: make_pairs(*task, partial(fgsm), eps=0.1, keep=keep, batch_size=30)
        for keep in ("all", "correct", "successful")
    }
    right = correct(model, images, labels)
    adversarial = fgsm(model, images, labels, eps=0.1)
    turned = right & ~correct(model, adversarial, labels)
    for keep, rows in {"all": torch.ones_like(right), "correct": right, "successful": turned}.items():
        assert 0 < len(kept[keep]) == int(rows.sum())
        assert torch.equal(kept[keep].images, images[rows])
        assert torch.equal(kept[keep].labels, labels[rows])
        assert torch.allclose(kept[keep].adversarial, adversarial[rows])
    assert len({len(found) for found in kept.values()}) == 3


def test_pairs_are_made_in_evaluation_mode(resnet: SmallResNet, pairs: Pairs) -> None:
    resnet.train()
    try:
        found = make_pairs(resnet, pairs.images, pairs.labels, partial(fgsm), eps=0.1)
        assert resnet.training
    finally:
        resnet.eval()
    assert torch.equal(found.adversarial, pairs.adversarial)


def test_random_attacks_draw_from_the_generator(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    noise = partial(uniform_noise, draws=1)
    first, same, other = (make_pairs(*task, noise, eps=0.1, generator=seeded(s)).adversarial for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_what_is_kept_is_what_is_made_and_draws_go_on_after_it(
    task: tuple[nn.Module, Tensor, Tensor], tmp_path: Path
) -> None:
    noise, draws = partial(uniform_noise, draws=1), [seeded(), seeded(), seeded()]
    folders = (None, tmp_path, tmp_path)
    made, first, again = (
        make_pairs(*task, noise, eps=0.1, generator=d, keep="all", resume=f)
        for d, f in zip(draws, folders, strict=True)
    )
    assert torch.equal(first.adversarial, made.adversarial)
    assert torch.equal(again.adversarial, made.adversarial)
    assert torch.equal(draws[1].get_state(), draws[0].get_state())
    assert torch.equal(draws[2].get_state(), draws[0].get_state())
    other = make_pairs(*task, noise, eps=0.1, generator=draws[2], keep="all", resume=tmp_path)
    assert not torch.equal(other.adversarial, made.adversarial)
    assert len(list(tmp_path.iterdir())) == 2

    layers = ["0", "1"]
    plain = measure(task[0], made, layers=layers)
    for _ in range(2):
        found = measure(task[0], made, layers=layers, resume=tmp_path)
        for definition in DEFINITIONS:
            assert list(found.compute(definition)) == layers
            assert all(torch.equal(v, plain.compute(definition)[k]) for k, v in found.compute(definition).items())
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match="needs a generator"):
        make_pairs(*task, noise, eps=0.1, resume=tmp_path)


def test_a_network_is_measured_under_an_attack_as_on_its_pairs(
    resnet: SmallResNet, pairs: Pairs, tmp_path: Path
) -> None:
    model, noise = resnet, partial(uniform_noise, draws=1)
    own = make_pairs(model, pairs.images, pairs.labels, noise, eps=0.1, generator=seeded())
    expected = measure(model, own)
    for folder in (None, tmp_path, tmp_path):
        found = measure_under(model, pairs.images, pairs.labels, noise, eps=0.1, generator=seeded(), resume=folder)
        assert found.quiet() == expected.quiet()
        assert all(torch.equal(values, expected.compute()[layer]) for layer, values in found.compute().items())
    assert len(list(tmp_path.iterdir())) == 1


def test_no_pair_to_keep_is_an_error(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = task
    with pytest.raises(ValueError, match=r"fgsm\(\) at eps 0 turned none of \d+ images"):
        make_pairs(*task, partial(fgsm), eps=0.0, keep="successful")
    wrong = (model(images).argmax(1) + 1) % 10
    with pytest.raises(ValueError, match="classifies none of 100 images correctly"):
        make_pairs(model, images, wrong, partial(fgsm), eps=0.1)
    with pytest.raises(ValueError, match="no choice 'some' of pairs; there are correct, successful, all"):
        make_pairs(model, images, labels, partial(fgsm), eps=0.1, keep="some")  # type: ignore[arg-type]


def test_an_attack_that_cheats_gives_no_pairs(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    def cheat(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, generator: object) -> Tensor:
        return fgsm(model, images, labels, eps=2 * eps)

    with pytest.raises(UnsoundAttack, match="cheat"):
        make_pairs(*task, partial(cheat), eps=0.1)


def test_some_of_the_pairs(pairs: Pairs) -> None:
    assert len(pairs.of(slice(7))) == 7
    some = pairs.of(torch.tensor([3, 1]))
    assert torch.equal(some.adversarial, pairs.adversarial[[3, 1]])
    assert torch.equal(some.labels, pairs.labels[[3, 1]])


@each(
    ("change", "message"),
    [
        (lambda p: (p.images, p.adversarial[:-1], p.labels), r"one shape, not \(2, 1, 1, 2\) and \(1, 1, 1, 2\)"),
        (lambda p: (p.images, p.adversarial, p.labels[:-1]), r"labels must have shape \(2,\)"),
        (lambda p: (p.images, p.adversarial + 0.1, p.labels), r"lie in \[0, 1\]"),
        (lambda p: (p.images - 0.1, p.adversarial, p.labels), r"lie in \[0, 1\]"),
        (lambda p: (p.images[:0], p.adversarial[:0], p.labels[:0]), "N > 0"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(change: Callable[[Pairs], tuple[Tensor, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pairs(*change(PAIR))


# the meter's input

FOUR = torch.ones(2, 3, 4, 4)


@each(
    ("clean", "adversarial", "message"),
    [
        ({"a": FOUR, "b": FOUR}, {"a": FOUR}, "the adversarial side has no layer 'b'; expected: a, b"),
        ({"a": FOUR}, {"a": FOUR, "c": FOUR}, "the adversarial side has an unexpected layer 'c'; expected: a"),
        ({"c": FOUR}, {"c": FOUR}, "this batch has no layer 'a'; expected: a"),
        ({"a": FOUR}, {"a": FOUR[:1]}, r"'a' gives \(2, 3, 4, 4\) on clean images and \(1, 3, 4, 4\) on their"),
        ({"a": FOUR[:, :2]}, {"a": FOUR[:, :2]}, r"'a' gave \(N, \*\(3, 4, 4\)\) before, and now \(2, 2, 4, 4\)"),
        ({"a": FOUR[0]}, {"a": FOUR[0]}, r"'a' must give \(N, C\) or \(N, C, H, W\), none of them 0, not \(3, 4, 4\)"),
        ({"a": FOUR[:0]}, {"a": FOUR[:0]}, r"none of them 0, not \(0, 3, 4, 4\)"),
    ],
)
def test_batches_that_do_not_fit_are_refused_and_add_nothing(
    clean: dict[str, Tensor], adversarial: dict[str, Tensor], message: str
) -> None:
    meter = SensitivityMeter()
    meter.update({"a": FOUR}, {"a": 3 * FOUR})
    with pytest.raises(ValueError, match=message):
        meter.update(clean, adversarial)
    assert meter.compute()["a"].tolist() == [2, 2, 2]


def test_a_meter_needs_pairs_and_a_definition() -> None:
    meter = SensitivityMeter()
    with pytest.raises(ValueError, match="no pairs yet"):
        meter.compute()
    with pytest.raises(ValueError, match="no definition 'l3'; there are absolute, relative, "):
        meter.compute("l3")  # type: ignore[arg-type]


# choosing neurons

SIGMA = {"a": torch.tensor([0.5, 0.1, 0.9, 0.1, 0.9]), "b": torch.tensor([1.0, 2.0, 3.0])}


def test_neurons_are_chosen_by_hand() -> None:
    for which, size, expected in [
        ("top", {"k": 1}, ([2], [2])),  # of equal ones, the first
        ("top", {"k": 3}, ([0, 2, 4], [0, 1, 2])),
        ("bottom", {"k": 1}, ([1], [0])),
        ("top", {"ratio": 0.01}, ([2], [2])),
        ("top", {"ratio": 0.4}, ([2, 4], [1, 2])),
        ("bottom", {"ratio": 0.61}, ([0, 1, 2, 3], [0, 1])),
        ("top", {"ratio": 1.0}, ([0, 1, 2, 3, 4], [0, 1, 2])),
        ("all", {}, ([0, 1, 2, 3, 4], [0, 1, 2])),
        ("all", {"ratio": 0.1}, ([0, 1, 2, 3, 4], [0, 1, 2])),
    ]:
        chosen = select(SIGMA, which=which, **size)  # type: ignore[arg-type]
        assert (chosen["a"].tolist(), chosen["b"].tolist()) == expected
        assert chosen["a"].dtype == torch.int64


def test_a_ratio_that_is_a_whole_number_of_neurons_is_not_rounded_up() -> None:
    for count in (10, 64, 100, 512):
        for whole in range(1, count + 1):
            assert len(select({"a": torch.rand(count)}, ratio=whole / count)["a"]) == whole
    assert len(select({"a": torch.rand(100)}, ratio=0.07)["a"]) == 7  # 0.07 * 100 > 7


def test_random_neurons_are_drawn_from_the_generator_and_evenly() -> None:
    sigma = {"a": torch.arange(10.0), "b": torch.arange(10.0)}
    first, same = (select(sigma, k=3, which="random", generator=seeded()) for _ in range(2))
    assert first["a"].tolist() == same["a"].tolist() == sorted(set(first["a"].tolist()))
    assert first["a"].tolist() != first["b"].tolist()
    generator = seeded()
    counts = torch.zeros(10)
    for _ in range(500):
        counts[select(sigma, k=3, which="random", generator=generator)["a"]] += 1
    assert 100 < float(counts.min()) < float(counts.max()) < 200


@each(
    ("size", "message"),
    [
        ({}, "give either ratio or k"),
        ({"k": 1, "ratio": 0.1}, "give either ratio or k"),
        ({"k": 4}, r"layer 'b' has 3 neurons: k must lie in 1\.\.3, not 4"),
        ({"k": 0}, r"layer 'a' has 5 neurons: k must lie in 1\.\.5, not 0"),
        ({"ratio": 0.0}, r"ratio must lie in \(0, 1\], not 0"),
        ({"ratio": 1.1}, r"ratio must lie in \(0, 1\], not 1\.1"),
        ({"k": 1, "which": "middle"}, "no choice 'middle' of neurons; there are top, bottom, random, all"),
    ],
)
def test_choices_outside_a_layer_are_refused(size: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(SIGMA, **size)  # type: ignore[arg-type]


def test_no_neuron_is_chosen_by_nan() -> None:
    with pytest.raises(ValueError, match="layer 'b' has sensitivities that are not finite"):
        select({"a": torch.ones(3), "b": torch.tensor([1.0, math.nan])}, k=1)


def test_layer_scores_are_means_of_all_or_of_the_top() -> None:
    assert layer_score(SIGMA) == pytest.approx({"a": 0.5, "b": 2.0})
    assert layer_score(SIGMA, top=0.4) == pytest.approx({"a": 0.9, "b": 2.5})


def test_jaccard_by_hand() -> None:
    first = {"a": torch.tensor([0, 1, 2]), "b": torch.tensor([5]), "c": torch.tensor([0, 1]), "d": torch.tensor([])}
    second = {"a": torch.tensor([2, 3]), "b": torch.tensor([5]), "c": torch.tensor([2]), "d": torch.tensor([])}
    assert jaccard(first, second) == {"a": 0.25, "b": 1.0, "c": 0.0, "d": 1.0}
    with pytest.raises(ValueError, match="the second choice has no layer 'b'; expected: a, b"):
        jaccard({"a": first["a"], "b": first["b"]}, {"a": first["a"]})


# where a channel is active


def test_a_mask_is_what_exceeds_a_quarter_of_the_maximum() -> None:
    peaks = torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[-1.0, -2.0], [-1.0, -1.0]]])
    mask = channel_mask(peaks, (4, 4))
    # bilinear: shares 1, 0.75, 0.25, 0 along each axis
    assert mask[0].tolist() == [[True, True, False, False], [True, True, False, False], [False] * 4, [False] * 4]
    assert not bool(mask[1:].any())  # nothing positive
    assert int(channel_mask(peaks, (4, 4), threshold=0.1)[0].sum()) == 8
    assert torch.equal(channel_mask(1000 * peaks, (4, 4)), mask)
    with pytest.raises(ValueError, match=r"\(N, h, w\), none of them 0, not \(2, 2\)"):
        channel_mask(peaks[0], (4, 4))
