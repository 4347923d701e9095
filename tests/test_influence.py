"""Influence and direction are what a hand computation gives, for any caller, and leave the model as it was."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from cases import each
from contract import seeded
from torch import Tensor, nn

from advdef.contract import slope
from advdef.models import CleverhansCNN, LeNet5
from advdef.norms import rms_normalised
from advdef.papers.nip.influence import (
    class_directions,
    feature_layer,
    front_and_tail,
    influence,
    inverse_direction,
    trace,
)

Pair = tuple[Tensor, Tensor]


def two_layers(seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Images (2, 3, 3), 12 features after layer "2", four classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(18, 12), activation(), nn.Linear(12, 4)).double().eval()


def pixels(n: int = 6) -> Tensor:
    return torch.rand(n, 2, 3, 3, generator=seeded(), dtype=torch.float64)


def convolutional() -> nn.Sequential:
    """Parts whose mode matters, an output (N, C, H, W) at layer "3" and the same flattened at layer "4"."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(16, 3),
        ).eval()  # fmt: skip


# Influence


def test_influence_is_the_feature_times_the_slope_of_the_score() -> None:
    model, images = two_layers(), pixels()
    features = model[:3](images)
    head, p = model[3].weight, model(images).softmax(1)
    classes = torch.tensor([0, 1, 2, 3, 3, 1])
    rows = head[classes]
    assert torch.allclose(influence(model, images, classes, layer="2"), features * rows, atol=1e-12)
    slopes = p.gather(1, classes[:, None]) * (rows - p @ head)
    by_probability = influence(model, images, classes, layer="2", score="probability")
    assert torch.allclose(by_probability, features * slopes, atol=1e-12)
    assert not by_probability.requires_grad


def test_classes_are_the_predicted_ones_and_the_layer_is_what_the_linear_part_reads_by_default() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LeNet5((1, 28, 28), 10).eval()
    images = torch.rand(5, 1, 28, 28, generator=seeded())
    predicted = model(images).argmax(1)
    assert feature_layer(model) == "flatten"
    assert feature_layer(model, "layers.1") == "layers.1"
    assert torch.equal(influence(model, images), influence(model, images, predicted, layer="flatten"))
    assert torch.equal(inverse_direction(model, images), inverse_direction(model, images, predicted, layer="flatten"))
    other = (predicted + 1) % 10
    assert not torch.equal(inverse_direction(model, images), inverse_direction(model, images, other))


def test_feature_maps_count_flattened() -> None:
    model, images = convolutional(), torch.rand(5, 2, 4, 4, generator=seeded())
    assert torch.equal(influence(model, images, layer="3"), influence(model, images, layer="4"))
    maps, flat = (inverse_direction(model, images, layer=layer, front=2, tail=2) for layer in ("3", "4"))
    assert torch.equal(maps, flat)
    weights = torch.randn(3, 16, generator=seeded())
    assert torch.equal(class_directions(model, images, weights, layer="3"),
                       class_directions(model, images, weights, layer="4"))  # fmt: skip
    assert len(influence(CleverhansCNN((1, 28, 28), 10), torch.rand(2, 1, 28, 28))) == 2


@pytest.mark.parametrize("options", [{"score": "loss"}, {"layer": "9"}])
def test_an_unknown_score_or_layer_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no score 'loss'; there are logit, probability|no layer '9'; it has 0, 1, 2"):
        influence(two_layers(), pixels(), **{"layer": "2", **options})  # type: ignore[arg-type]


def test_a_layer_beside_the_pass_is_refused() -> None:
    model = two_layers()
    model.spare = nn.Identity()
    model.forward = lambda images: model[3](model[:3](images))  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="layer 'spare' takes no part in a forward pass"):
        trace(model, pixels(), layer="spare")


# Front and tail


def test_both_tails_of_a_known_order() -> None:
    values = torch.arange(20.0)[torch.randperm(20, generator=seeded())][None]

    def chosen(sign: int, **options: str) -> list[float]:
        weights = front_and_tail(values, front=5, tail=5, **options)  # type: ignore[arg-type]
        assert sorted(weights[0].tolist()) == [-1.0] * 5 + [0.0] * 10 + [1.0] * 5
        return sorted(values[weights == sign].tolist())

    assert chosen(+1) == chosen(+1, tail_slice="skipping") == [15, 16, 17, 18, 19]
    assert chosen(-1) == [0, 1, 2, 3, 4]
    assert chosen(-1, tail_slice="skipping") == [5, 6, 7, 8, 9]


def test_what_the_skipping_tail_skips_is_as_many_as_the_front_has() -> None:
    weights = front_and_tail(torch.arange(8.0)[None], front=1, tail=3, tail_slice="skipping")
    assert weights.tolist() == [[0, -1, -1, -1, 0, 0, 0, 1]]


def test_shares_are_rounded_up() -> None:
    def sizes(count: int, front: float, tail: float) -> tuple[int, int]:
        weights = front_and_tail(torch.randn(1, count, generator=seeded()), front=front, tail=tail)
        return int((weights == 1).sum()), int((weights == -1).sum())

    assert sizes(512, 0.05, 0.1) == (26, 52)
    assert sizes(100, 0.07, 0.29) == (7, 29)  # 0.07 * 100 is a hair above 7
    assert sizes(3, 0.05, 1) == (1, 1)


def test_ties_are_broken_by_position_and_never_put_a_feature_on_both_sides() -> None:
    assert front_and_tail(torch.zeros(2, 5), front=2, tail=3).tolist() == [[1, 1, -1, -1, -1]] * 2
    tied = torch.randint(0, 3, (200, 400), generator=seeded()).float()
    weights = front_and_tail(tied, front=150, tail=250)  # nothing is left over
    assert bool(((weights == 1).sum(1) == 150).all() & ((weights == -1).sum(1) == 250).all())
    for row, signs in zip(tied[:20].tolist(), weights[:20].tolist(), strict=True):
        ranked = sorted(range(400), key=lambda j: (-row[j], j))
        assert [signs[j] for j in ranked] == [1.0] * 150 + [-1.0] * 250


@each(
    ("options", "message"),
    [
        ({"front": 5, "tail": 6}, r"front 5 and tail 6 \(lowest\) do not fit into 10 features"),
        ({"front": 4, "tail": 3, "tail_slice": "skipping"}, r"front 4 and tail 3 \(skipping\) do not fit"),
        ({"front": 0.6, "tail": 0.5}, "front 6 and tail 5"),
        ({"front": -1, "tail": 5}, "front must not be negative: -1"),
        ({"front": 1.0, "tail": 5}, r"front as a share must lie in \(0, 1\), not 1.0"),
        ({"front": 1, "tail": 0.0}, r"tail as a share must lie in \(0, 1\), not 0.0"),
        ({"front": 1, "tail": 1, "tail_slice": "highest"}, "no tail slice 'highest'; there are lowest, skipping"),
    ],
)
def test_a_front_and_tail_that_cannot_be_are_refused(options: dict[str, int | float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        front_and_tail(torch.zeros(1, 10), **options)  # type: ignore[arg-type]
    assert front_and_tail(torch.zeros(1, 10), front=5, tail=5).abs().sum() == 10


# Direction


def test_a_direction_has_root_mean_square_one(network: nn.Sequential, batch: Pair) -> None:
    for options in ({}, {"front": 1, "score": "probability"}, {"front": 0.05, "tail": 0.05, "tail_slice": "skipping"}):
        direction = inverse_direction(network, batch[0], layer="4", **options)  # type: ignore[arg-type]
        assert direction.shape == batch[0].shape
        assert direction.square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx([1.0] * 100, abs=1e-3)


def test_the_root_mean_square_is_that_of_an_image_and_the_constant_is_the_released_one() -> None:
    gradient = torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert torch.allclose(rms_normalised(gradient), gradient / (2.5 + 1e-5), rtol=1e-7)
    assert torch.allclose(rms_normalised(1e-5 * gradient, eps=0.0), gradient / 2.5)
    several = torch.randn(2, 3, 2, 4, 4, generator=seeded())
    expected = torch.stack([torch.stack([rms_normalised(image) for image in row]) for row in several])
    assert torch.allclose(rms_normalised(several), expected)


def test_the_direction_of_a_linear_network_is_the_weighted_sum_of_its_rows() -> None:
    rows, head = (torch.randn(*shape, generator=seeded(), dtype=torch.float64) for shape in ((12, 18), (4, 12)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 12, bias=False), nn.Identity(), nn.Linear(12, 4, bias=False))
    model = model.double()
    model[1].weight, model[3].weight = nn.Parameter(rows), nn.Parameter(head)
    images, classes = pixels(), torch.tensor([0, 1, 2, 3, 0, 1])
    found = inverse_direction(model, images, classes, front=3, tail=2, layer="2").flatten(1)
    for image, c, direction in zip(images.flatten(1), classes, found, strict=True):
        order = ((rows @ image) * head[c]).argsort()
        wanted = rows[order[-3:]].sum(0) - rows[order[:2]].sum(0)
        assert torch.allclose(direction, wanted / (wanted.square().mean().sqrt() + 1e-5), atol=1e-12)


def test_no_gradient_gives_no_direction() -> None:
    model, images = two_layers(), pixels(3)
    with torch.no_grad():
        model[1].bias[:] = -0.05
    images[1] = 0  # every ReLU is off
    direction = inverse_direction(model, images, front=3, tail=3, layer="2")
    assert bool(torch.isfinite(direction).all())
    assert (direction != 0).flatten(1).any(1).tolist() == [True, False, True]
    assert not bool(influence(model, images, layer="2")[1].any())


def test_an_image_alone_has_the_direction_it_has_in_a_batch(network: nn.Sequential, batch: Pair) -> None:
    images = batch[0][:20]
    together = inverse_direction(network, images, layer="4")
    alone = torch.cat([inverse_direction(network, image[None], layer="4") for image in images])
    assert torch.allclose(together, alone, atol=1e-5)
    values = torch.cat([influence(network, image[None], layer="4") for image in images])
    assert torch.allclose(influence(network, images, layer="4"), values, atol=1e-5)


@pytest.mark.parametrize(("activation", "constant"), [(nn.ReLU, True), (nn.GELU, False)])
def test_the_direction_of_a_piecewise_linear_network_is_constant(activation: type[nn.Module], constant: bool) -> None:
    images = pixels().requires_grad_()
    traced = trace(two_layers(activation=activation), images, layer="2")
    weights = front_and_tail(traced.influence(torch.arange(6) % 4), front=3, tail=3)
    direction = traced.direction(weights, create_graph=True)
    towards = torch.randn(6, 2, 3, 3, generator=seeded(), dtype=torch.float64)
    derivative = slope((direction * towards).sum(), images)
    assert bool((derivative == 0).all()) == constant


def test_weights_that_depend_on_the_image_are_constants_of_the_direction_and_not_of_its_derivative() -> None:
    model, towards = two_layers(activation=nn.GELU), torch.randn(2, 2, 3, 3, generator=seeded(), dtype=torch.float64)
    images = pixels(2).requires_grad_()
    classes = torch.tensor([1, 3])

    def soft(images: Tensor, *, graph: bool) -> tuple[Tensor, Tensor]:
        traced = trace(model, images, layer="2")
        weights = torch.tanh(5 * traced.influence(classes, create_graph=graph))
        return weights, traced.direction(weights, create_graph=graph)

    weights, direction = soft(images, graph=True)
    assert weights.requires_grad
    assert torch.equal(direction, trace(model, images, layer="2").direction(weights.detach()))
    (derivative,) = torch.autograd.grad((direction * towards).sum(), images)
    # along a line, by central differences
    h, line = 1e-5, torch.randn(2, 2, 3, 3, generator=seeded(1), dtype=torch.float64)
    ahead, behind = (soft(images.detach() + move * line, graph=False)[1] for move in (h, -h))
    assert float((derivative * line).sum()) == pytest.approx(
        float(((ahead - behind) * towards).sum() / (2 * h)), rel=1e-5
    )


def test_the_directions_of_several_weightings_are_those_of_each() -> None:
    model, images = convolutional(), torch.rand(5, 2, 4, 4, generator=seeded())
    weights = front_and_tail(torch.randn(7, 16, generator=seeded()), front=3, tail=3)
    found = class_directions(model, images, weights, layer="4")
    traced = trace(model, images, layer="4")
    assert torch.allclose(found, torch.stack([traced.direction(row) for row in weights]), atol=1e-6)
    assert torch.equal(traced.direction(weights[0]), traced.direction(weights[:1].expand(5, -1)))
    assert torch.allclose(class_directions(model, images, weights, layer="4", chunk=3), found, atol=1e-6)
    assert not found.requires_grad


# For any caller


CALLS: dict[str, Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]] = {
    "influence": lambda model, images, classes, weights: influence(model, images, classes, layer="3"),
    "direction": lambda model, images, classes, weights: inverse_direction(
        model, images, classes, front=2, tail=2, layer="3"
    ),
    "directions of classes": lambda model, images, classes, weights: class_directions(
        model, images, weights, layer="3"
    ),
    "traced influence": lambda model, images, classes, weights: trace(model, images, layer="3").influence(classes),
    "traced direction": lambda model, images, classes, weights: trace(model, images, layer="3").direction(weights[0]),
}


@each("call", CALLS.values(), ids=CALLS)
def test_switching_gradients_off_changes_nothing(
    call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
) -> None:
    model, images = convolutional(), torch.rand(3, 2, 4, 4, generator=seeded())
    classes, weights = torch.tensor([2, 0, 1]), torch.randn(3, 16, generator=seeded())
    expected = call(model, images, classes, weights)
    assert not expected.requires_grad
    assert bool(expected.any())
    with torch.no_grad():
        assert torch.equal(call(model, images, classes, weights), expected)
    with torch.inference_mode():
        made_there = images * 1, classes * 1, weights * 1
        assert torch.equal(call(model, *made_there), expected)
    assert torch.equal(call(model, *made_there), expected)


@each("call", CALLS.values(), ids=CALLS)
def test_the_model_is_used_in_evaluation_mode_and_left_as_it_was(
    call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
) -> None:
    model, images = convolutional(), torch.rand(3, 2, 4, 4, generator=seeded()).requires_grad_()
    classes, weights = torch.tensor([2, 0, 1]), torch.randn(3, 16, generator=seeded())
    expected = call(model, images.detach(), classes, weights)
    model.train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    for tensor in (*model.parameters(), images):
        tensor.grad = torch.full_like(tensor, 7.0) if tensor.requires_grad else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(call(model, images, classes, weights), expected)
    assert [module.training for module in model] == [True, True, False, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.bias"]
    grads = [tensor.grad for tensor in (*model.parameters(), images) if tensor.requires_grad]
    assert all(grad is not None and bool((grad == 7.0).all()) for grad in grads)
    assert len(model[3]._forward_hooks) == 0


def test_the_size_of_a_direction_is_not_that_of_the_comment_in_the_released_code() -> None:
    direction = inverse_direction(two_layers(), pixels(), front=2, tail=2, layer="2")
    assert direction.flatten(1).norm(dim=1).tolist() == pytest.approx([math.sqrt(18)] * 6, rel=1e-3)
