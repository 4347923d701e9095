"""Surrogates of spiking neurons, and the gradients that pass them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import pytest
import snntorch
import torch
from contract import seeded
from spiking import (
    EACH_KIND,
    IMAGES,
    LAYOUTS,
    POINTWISE,
    STEPS,
    assert_close,
    by_leaky,
    currents_of,
    membranes,
    neuron_of,
    no_neuron_outlives_its_test,  # noqa: F401 - runs around each test
    pulled_back,
    written_gradient,
)
from torch import Tensor

from advdef.papers.snn.neurons import Firing, unrolled
from advdef.papers.snn.surrogates import ENSEMBLE, RECTANGLE, REDUCED, Surrogate

# Gradients


@pytest.mark.parametrize("kind", [kind for kind, surrogate in EACH_KIND.items() if surrogate.pointwise])
def test_gradients_are_those_of_snntorch(kind: str) -> None:
    neuron = neuron_of(4, surrogate=EACH_KIND[kind])
    for layout in ("maps", "channels_last", "vectors"):
        currents = currents_of(layout, 4 * IMAGES)
        incoming = torch.randn(currents.shape, generator=seeded(1))
        found = pulled_back(neuron, currents, incoming)
        rows = currents.unflatten(0, (4, IMAGES)), incoming.unflatten(0, (4, IMAGES))
        assert_close(found, pulled_back(lambda x: unrolled(neuron, x)[0], *rows).flatten(0, 1))
        assert_close(found, pulled_back(lambda x: by_leaky(x, neuron), *rows).flatten(0, 1))
        assert bool(found.any())


@pytest.mark.parametrize(
    ("levels", "surrogate"), [(1, RECTANGLE), (2, Surrogate("triangle", 2.0)), (3, Surrogate("arctan"))], ids=str
)
def test_gradients_at_other_levels_and_steps(levels: int, surrogate: Surrogate) -> None:
    for steps, constant in product(STEPS, (False, True)):
        neuron = neuron_of(steps, levels, decay=0.8, surrogate=surrogate)
        currents = currents_of("strided", IMAGES if constant else steps * IMAGES)
        incoming = torch.randn(steps * IMAGES, 5, 3, 4, generator=seeded(1))
        found = pulled_back(lambda x, n=neuron, c=constant: n(x, constant=c), currents, incoming)  # type: ignore[misc]
        rows = currents.expand(steps, *currents.shape) if constant else currents.unflatten(0, (steps, IMAGES))
        by_step = incoming.unflatten(0, (steps, IMAGES))
        expected = pulled_back(lambda x, n=neuron: by_leaky(x, n), rows, by_step)  # type: ignore[misc]
        assert_close(found, expected.sum(0) if constant else expected.flatten(0, 1))


SHAPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rectangle 0.5": lambda d: 2.0 * (d.abs() < 0.25),
    "triangle 3": lambda d: torch.relu(3 - d.abs()) / 9,
    "exponential 0.5, scale 0.3": lambda d: 0.3 * torch.exp(-2 * d.abs()),
    "exponential 2": lambda d: torch.exp(-d.abs() / 2),
    "straight-through": lambda d: 1.0 + 0 * d,
}


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_by_shapes_that_are_written_here(name: str) -> None:
    neuron, currents = neuron_of(4, surrogate=ENSEMBLE[name]), currents_of("maps", 12)
    incoming = torch.randn(currents.shape, generator=seeded(1))
    rows = currents.unflatten(0, (4, 3)), incoming.unflatten(0, (4, 3))
    expected = written_gradient(*rows, neuron, lambda u, c: SHAPES[name](u[-1] - c)).flatten(0, 1)
    found = pulled_back(neuron, currents, incoming)
    assert_close(found, expected)
    one_more = pulled_back(lambda x: by_leaky(x, neuron, shape=SHAPES[name]), *rows)
    assert_close(found, one_more.flatten(0, 1))


def test_double_precision_agrees_with_single() -> None:
    for kind in EACH_KIND:
        neuron = neuron_of(4, surrogate=EACH_KIND[kind])
        for constant in (False, True):
            run, currents = partial(neuron, constant=constant), currents_of("maps", IMAGES if constant else 4 * IMAGES)
            incoming = torch.randn(4 * IMAGES, 5, 3, 4, generator=seeded(1))
            double = pulled_back(run, currents.double(), incoming.double())
            assert double.dtype == torch.float64
            assert torch.equal(run(currents.double()), run(currents).double())
            assert_close(double.float(), pulled_back(run, currents, incoming), atol=5e-5)  # slopes go up to 4 / 0.25
            assert bool(double.any())


def test_half_precision_is_computed_in_single() -> None:
    for name in REDUCED:
        neuron = neuron_of(4, decay=0.9, surrogate=REDUCED[name])
        currents = currents_of("maps", 12).bfloat16()
        incoming = torch.randn(currents.shape, generator=seeded(1)).bfloat16()
        assert neuron(currents).dtype == torch.bfloat16
        assert torch.equal(neuron(currents).float(), neuron(currents.float()))
        half, single = (pulled_back(neuron, currents.to(t), incoming.to(t)) for t in (torch.bfloat16, torch.float32))
        assert half.dtype == torch.bfloat16
        assert torch.allclose(half.float(), single, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("constant", [False, True])
def test_rate_passes_neurons_that_fire_at_all(constant: bool) -> None:
    neuron = neuron_of(4, 2, surrogate=Surrogate("rate"))
    for layout in LAYOUTS:
        currents = currents_of(layout, IMAGES if constant else 4 * IMAGES) - 0.8
        incoming = torch.randn(4 * IMAGES, *currents.shape[1:], generator=seeded(1))
        spikes = neuron(currents, constant=constant).unflatten(0, (4, IMAGES))
        rows = incoming.unflatten(0, (4, IMAGES)) * (spikes.sum(0) > 0)
        found = pulled_back(lambda x: neuron(x, constant=constant), currents, incoming)
        assert_close(found, rows.sum(0) if constant else rows.flatten(0, 1))
        assert 0 < int((found == 0).sum()) < found.numel()


def density(u: list[Tensor], threshold: float) -> Tensor:
    """A normal density whose spread is that of one image's channel, over the steps so far."""
    seen = torch.stack(u)  # (t, N, ...) with channels third, if there are any
    channels = seen if seen.dim() > 3 else seen[:, :, None]
    places = [0, *range(3, channels.dim())]
    mean = channels.mean(places, keepdim=True)
    spread = (channels - mean).square().mean(places, keepdim=True).sqrt()[0]
    spread = spread if seen.dim() > 3 else spread[:, 0]
    return torch.distributions.Normal(spread / 2, spread).log_prob(u[-1] - threshold).exp()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_membrane_follows_the_spread_of_an_images_channel(steps: int, constant: bool) -> None:
    neuron = neuron_of(steps, decay=0.8, surrogate=Surrogate("membrane"))
    for layout in LAYOUTS:
        currents = currents_of(layout, IMAGES if constant else steps * IMAGES)
        scale = torch.tensor([0.5, 1.0, 2.0]).repeat(len(currents) // IMAGES)  # images differ in their spread
        currents = currents * scale.reshape(-1, *[1] * (currents.dim() - 1))
        incoming = torch.randn(steps * IMAGES, *currents.shape[1:], generator=seeded(1))
        rows = currents.expand(steps, *currents.shape) if constant else currents.unflatten(0, (steps, IMAGES))
        expected = written_gradient(rows, incoming.unflatten(0, (steps, IMAGES)), neuron, density)
        found = pulled_back(lambda x: neuron(x, constant=constant), currents, incoming)
        assert_close(found, expected.sum(0) if constant else expected.flatten(0, 1))


def test_membrane_survives_a_channel_without_spread() -> None:
    neuron = neuron_of(1, surrogate=Surrogate("membrane"))
    gradient = pulled_back(neuron, torch.full((2, 3, 2, 2), 0.7), torch.ones(2, 3, 2, 2))
    assert torch.equal(gradient, torch.zeros_like(gradient))  # all membranes lie far from it, in its units


def equations(currents: Tensor, neuron: Firing, slopes: Callable[[Tensor], Tensor], *, reset: bool = False) -> Tensor:
    """Spikes (T, N, ...) by the equations as they are written, for autograd; slopes are a function of distances."""
    total = torch.zeros_like(currents)
    for c in neuron.thresholds:
        known = slopes(torch.stack(membranes(currents.detach(), c, neuron.decay)) - c)
        u, s, fired = torch.zeros_like(currents[0]), torch.zeros_like(currents[0]), []
        for current, slope in zip(currents, known, strict=True):
            u = neuron.decay * (1 - (s if reset else s.detach())) * u + current
            s = (u > c).to(u.dtype) + slope * (u - u.detach())
            fired.append(s)
        total = total + torch.stack(fired)
    return total


def as_wide_as_far(width: float) -> Callable[[Tensor], Tensor]:
    def slopes(distances: Tensor) -> Tensor:
        sizes = distances.abs()
        typical = sizes.mean(0) + 1.5 * (sizes - sizes.mean(0)).abs().mean(0) + 1e-4
        return 1 / (width * typical) / (1 + (math.pi * distances / (width * typical)).square())

    return slopes


@pytest.mark.parametrize(
    ("surrogate", "slopes"),
    [
        (Surrogate("adaptive", 0.65), as_wide_as_far(0.65)),
        (Surrogate("adaptive", 2.0), as_wide_as_far(2.0)),
        (Surrogate("rectangle", reset=True), lambda d: 1.0 * (d.abs() < 0.5)),
        (Surrogate("triangle", 2.0, reset=True), lambda d: torch.relu(2 - d.abs()) / 4),
        (Surrogate("arctan", reset=True), lambda d: 1 / (1 + (math.pi * d).square())),
    ],
    ids=lambda value: str(value) if isinstance(value, Surrogate) else "",
)
@pytest.mark.parametrize("constant", [False, True])
def test_gradients_are_those_of_the_written_equations(
    surrogate: Surrogate, slopes: Callable[[Tensor], Tensor], constant: bool
) -> None:
    neuron = neuron_of(4, decay=0.8, surrogate=surrogate)
    for layout in LAYOUTS:
        currents = currents_of(layout, IMAGES if constant else 4 * IMAGES)
        incoming = torch.randn(4 * IMAGES, *currents.shape[1:], generator=seeded(1))
        rows = currents.expand(4, *currents.shape) if constant else currents.unflatten(0, (4, IMAGES))
        by_hand = partial(equations, neuron=neuron, slopes=slopes, reset=surrogate.reset)
        expected = pulled_back(by_hand, rows, incoming.unflatten(0, (4, IMAGES)))
        found = pulled_back(lambda x: neuron(x, constant=constant), currents, incoming)
        assert_close(found, expected.sum(0) if constant else expected.flatten(0, 1), atol=2e-5)


def test_a_reset_that_is_differentiated_by_hand() -> None:
    # u is 0.75 and 0.375 + 0.75 = 1.125; both are within half a unit of the threshold, so that ds/du is 1
    currents, incoming = torch.tensor([[0.75], [0.75]]), torch.tensor([[2.0], [3.0]])
    constant, passed = (
        Firing(2, thresholds=(1.0,), decay=0.5, surrogate=Surrogate(reset=reset)) for reset in (False, True)
    )
    assert pulled_back(constant, currents, incoming).flatten().tolist() == [2 + 3 * 0.5, 3]
    assert pulled_back(passed, currents, incoming).flatten().tolist() == [2 + 3 * (0.5 - 0.5 * 0.75), 3]


@pytest.mark.parametrize("constant", [False, True])
def test_averaged_gives_each_step_the_mean_over_time(constant: bool) -> None:
    neuron = neuron_of(4, decay=0.8, surrogate=Surrogate("averaged", 2.0))

    def by_hand(currents: Tensor) -> Tensor:
        total, mean = torch.zeros_like(currents), currents.mean(0)
        for c in neuron.thresholds:
            u = torch.stack(membranes(currents.detach(), c, neuron.decay)) + mean - mean.detach()
            total = total + torch.relu(2 - (u.detach() - c).abs()) / 4 * u
        return total

    for layout in LAYOUTS:
        currents = currents_of(layout, IMAGES if constant else 4 * IMAGES)
        incoming = torch.randn(4 * IMAGES, *currents.shape[1:], generator=seeded(1))
        rows = currents.expand(4, *currents.shape) if constant else currents.unflatten(0, (4, IMAGES))
        expected = pulled_back(by_hand, rows, incoming.unflatten(0, (4, IMAGES)))
        found = pulled_back(lambda x: neuron(x, constant=constant), currents, incoming)
        assert_close(found, expected.sum(0) if constant else expected.flatten(0, 1))


def test_one_image_does_not_see_another() -> None:
    for kind in EACH_KIND:
        neuron, currents = neuron_of(4, surrogate=EACH_KIND[kind]), currents_of("maps", 12)
        incoming = torch.ones_like(currents)
        both = pulled_back(neuron, currents, incoming).unflatten(0, (4, 3))
        alone = pulled_back(neuron, currents.unflatten(0, (4, 3))[:, 1].contiguous(), incoming[:4])
        assert torch.allclose(both[:, 1], alone, rtol=1e-5, atol=1e-6)


def test_second_derivatives_are_refused() -> None:
    for dtype in (torch.float32, torch.float64):
        current = torch.tensor([[0.5], [0.7]], dtype=dtype, requires_grad=True)
        spikes = Firing(2, thresholds=(0.6,), surrogate=Surrogate("triangle"))(current)
        (gradient,) = torch.autograd.grad(spikes.square().sum(), current, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(gradient.sum(), current)


# Surrogates


@pytest.mark.parametrize(
    ("surrogate", "slopes"),  # at distances of 0, -0.4, 0.6 and -2
    [
        (Surrogate("rectangle", 1.0), [1, 1, 0, 0]),
        (Surrogate("rectangle", 4.0), [0.25, 0.25, 0.25, 0]),
        (Surrogate("triangle", 1.0), [1, 0.6, 0.4, 0]),
        (Surrogate("triangle", 4.0), [0.25, 0.225, 0.2125, 0.125]),
        (Surrogate("exponential", 2.0, 0.3), [0.3, 0.3 * math.exp(-0.2), 0.3 * math.exp(-0.3), 0.3 * math.exp(-1)]),
        (Surrogate("arctan", 2.0), [1, 1 / (1 + (0.2 * math.pi) ** 2), 1 / (1 + (0.3 * math.pi) ** 2),
                                    1 / (1 + math.pi**2)]),
        (Surrogate("fast sigmoid", 0.5), [1, 1 / 1.8**2, 1 / 2.2**2, 1 / 25]),
        (Surrogate("straight-through"), [1, 1, 1, 1]),
    ],
    ids=str,
)  # fmt: skip
def test_slopes_by_hand(surrogate: Surrogate, slopes: list[float]) -> None:
    found = surrogate.slope(torch.tensor([0, -0.4, 0.6, -2.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx(slopes, rel=1e-12)
    # and neurons have them, on both sides of the threshold
    neuron = Firing(1, thresholds=(0.6,), surrogate=surrogate)
    reached = pulled_back(neuron, torch.tensor([[0.6, 0.2, 1.2, -1.4]]), torch.ones(1, 4))
    assert reached.flatten().tolist() == pytest.approx(slopes, rel=1e-5)


def test_a_rectangle_is_open_at_its_edges() -> None:
    edges = Surrogate("rectangle", 1.0).slope(torch.tensor([-0.5, 0.5, -0.4999, 0.4999]))
    assert edges.tolist() == [0, 0, 1, 1]
    on_edges = pulled_back(Firing(1, thresholds=(1.0,)), torch.tensor([[0.5, 1.5]]), torch.ones(1, 2))
    assert on_edges.flatten().tolist() == [0, 0]


def test_the_rectangles_of_all_levels_cover_a_range_without_a_gap() -> None:
    currents = torch.linspace(0.11, 3.09, 150)[None]
    gradient = pulled_back(Firing(1), currents, torch.ones_like(currents))
    assert bool((gradient >= 1).all())
    assert pulled_back(Firing(1), torch.tensor([[0.09, 3.11]]), torch.ones(1, 2)).tolist() == [[0, 0]]


def test_arctan_is_the_default_of_snntorch() -> None:
    distances = torch.tensor([0.0, 0.1, 1.0, -1.5]).requires_grad_()
    level = snntorch.Leaky(beta=0.5, threshold=1.0)
    spikes, _ = level(1 + distances, torch.zeros(4))
    (gradient,) = torch.autograd.grad(spikes.sum(), distances)
    found = Surrogate("arctan").slope(distances.detach())
    assert torch.allclose(gradient, found, atol=1e-5)
    assert found[:3].tolist() == pytest.approx([1, 0.910, 0.092], abs=5e-4)


@pytest.mark.parametrize("kind", ["membrane", "rate", "adaptive", "averaged"])
def test_rules_for_all_of_time_have_no_slope(kind: Any) -> None:
    assert not Surrogate(kind).pointwise
    with pytest.raises(ValueError, match=f"{kind} has no slope"):
        Surrogate(kind).slope(torch.zeros(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sigmoid",), "no surrogate 'sigmoid'; there are rectangle, triangle"),
        (("rectangle", 0.0), "width must be positive and finite, not 0"),
        (("rectangle", -1.0), "width must be positive and finite, not -1"),
        (("triangle", math.inf), "width must be positive and finite, not inf"),
        (("triangle", math.nan), "width must be positive and finite, not nan"),
        (("exponential", 1.0, 0.0), "scale must be positive and finite, not 0"),
        (("exponential", 1.0, -0.3), "scale must be positive and finite, not -0.3"),
        (("exponential", 1.0, math.inf), "scale must be positive and finite, not inf"),
    ],
)
def test_bad_surrogates_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Surrogate(*arguments)


def test_the_sets_of_surrogates_are_named_by_what_is_in_them() -> None:
    assert len(ENSEMBLE) == 22
    assert len(REDUCED) == 8
    assert all(name == str(s) for found in (ENSEMBLE, REDUCED) for name, s in found.items())
    assert next(iter(REDUCED.values())) == RECTANGLE
    assert {"triangle 0.25", "exponential 0.5, scale 0.3", "rectangle 4", "rate", "membrane"} < set(ENSEMBLE)
    assert len(POINTWISE) == 18


@pytest.mark.parametrize("kind", ["rate", "averaged"])
def test_nothing_passes_a_reset_without_recursion(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind} has no recursion over time"):
        Surrogate(kind, reset=True)
