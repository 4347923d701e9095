"""Spiking neurons: what they fire, the gradients that pass them, what computes them, and how to swap gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import pytest
import snntorch
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.papers.snn import cpu as _cpu
from advdef.papers.snn import fused as _fused
from advdef.papers.snn.neurons import (
    LEVELS,
    DeadNetworkWarning,
    Firing,
    firing_rates,
    leaky_neurons,
    neurons_of,
    unrolled,
    using,
)
from advdef.papers.snn.surrogates import ENSEMBLE, RECTANGLE, REDUCED, Surrogate
from advdef.papers.snn.through import Mixed, Through, spiking_stand_ins

EACH_KIND = {surrogate.kind: surrogate for surrogate in ENSEMBLE.values()}
POINTWISE = {name: surrogate for name, surrogate in ENSEMBLE.items() if surrogate.pointwise}
LAYOUTS = ("maps", "channels_last", "strided", "vectors")
STEPS = (1, 2, 4, 7)
IMAGES = 3

Slope = Callable[[list[Tensor], float], Tensor]


@pytest.fixture(autouse=True)
def _no_neuron_outlives_its_test() -> Iterator[None]:
    kept = list(snntorch.SpikingNeuron.instances)
    yield
    snntorch.SpikingNeuron.instances[:] = kept


def currents_of(layout: str, rows: int, seed: int = 0) -> Tensor:
    """Currents at which neurons of all levels fire, and stay silent."""
    shape = {"vectors": (13,), "strided": (5, 3, 8)}.get(layout, (5, 3, 4))
    currents = 1.5 * torch.randn(rows, *shape, generator=seeded(seed)) + 0.8
    if layout == "channels_last":
        return currents.contiguous(memory_format=torch.channels_last)
    return currents[..., ::2] if layout == "strided" else currents


def neuron_of(steps: int, levels: int = 3, *, decay: float = 0.25, surrogate: Surrogate = RECTANGLE) -> Firing:
    return Firing(steps, thresholds=LEVELS[:levels], decay=decay, surrogate=surrogate)


def membranes(currents: Tensor, threshold: float, decay: float) -> list[Tensor]:
    """Those of one level by the written equation."""
    u, s, found = torch.zeros_like(currents[0]), torch.zeros_like(currents[0]), []
    for current in currents:
        u = decay * (1 - s) * u + current
        s = (u > threshold).to(u.dtype)
        found.append(u)
    return found


def written(currents: Tensor, neuron: Firing) -> Tensor:
    """Spikes (T, N, ...) of currents (T, N, ...)."""
    levels = [torch.stack(membranes(currents, c, neuron.decay)) > c for c in neuron.thresholds]
    return torch.stack(levels).sum(0).to(currents.dtype)


def written_gradient(currents: Tensor, incoming: Tensor, neuron: Firing, slope: Slope) -> Tensor:
    """Gradient (T, N, ...) at currents (T, N, ...), for a slope that sees the membranes so far."""
    total = torch.zeros_like(currents)
    for c in neuron.thresholds:
        u, later = membranes(currents, c, neuron.decay), torch.zeros_like(currents[0])
        for t in reversed(range(len(currents))):
            later = incoming[t] * slope(u[: t + 1], c) + neuron.decay * (u[t] <= c) * later
            total[t] += later
    return total


def by_leaky(currents: Tensor, neuron: Firing, *, shape: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Spikes (T, N, ...) of neurons that are built here, with states that are handed on."""

    def passed(distance: Tensor, incoming: Tensor, spikes: Tensor) -> Tensor:
        return incoming * (shape or neuron.surrogate.slope)(distance)

    total: list[Tensor] = [torch.zeros_like(currents[0])] * len(currents)
    for threshold in neuron.thresholds:
        rule = snntorch.surrogate.custom_surrogate(passed)
        level = snntorch.Leaky(beta=neuron.decay, threshold=threshold, reset_mechanism="zero", spike_grad=rule)
        state = torch.zeros_like(currents[0])
        for t, current in enumerate(currents):
            spikes, state = level(current, state)
            total[t] = total[t] + spikes
    return torch.stack(total)


def pulled_back(function: Callable[[Tensor], Tensor], currents: Tensor, incoming: Tensor) -> Tensor:
    point = currents.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    (found,) = torch.autograd.grad(function(point), point, incoming)
    return found


def assert_close(found: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert torch.allclose(found, expected, rtol=1e-5, atol=atol), float((found - expected).abs().max())


# Spikes


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_spikes_are_those_of_the_equations_and_of_snntorch(levels: int) -> None:
    for steps, layout in product(STEPS, LAYOUTS):
        neuron = neuron_of(steps, levels)
        currents = currents_of(layout, steps * IMAGES)
        found, rows = neuron(currents), currents.unflatten(0, (steps, IMAGES))
        assert found.shape == currents.shape
        assert torch.equal(found, written(rows, neuron).flatten(0, 1))
        assert torch.equal(found, unrolled(neuron, rows)[0].flatten(0, 1))
        assert torch.equal(found, by_leaky(rows, neuron).flatten(0, 1))
        assert set(found.unique().tolist()) == {float(value) for value in range(levels + 1)}


@pytest.mark.parametrize("levels", [1, 3])
def test_a_constant_current_is_one_that_is_repeated(levels: int) -> None:
    for steps, layout in product(STEPS, LAYOUTS):
        neuron = neuron_of(steps, levels, decay=0.9)
        currents = currents_of(layout, IMAGES)
        repeated = currents.repeat(steps, *[1] * (currents.dim() - 1))
        found = neuron(currents, constant=True)
        assert torch.equal(found, neuron(repeated))
        assert torch.equal(found, written(repeated.unflatten(0, (steps, IMAGES)), neuron).flatten(0, 1))
        if steps > 1:
            assert not torch.equal(found[:IMAGES], found[IMAGES : 2 * IMAGES])  # charge is kept from step to step


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_spikes_at_other_decays_and_thresholds(decay: float) -> None:
    neuron, currents = Firing(4, thresholds=(0.3, 0.7, 2.0, 2.25), decay=decay), currents_of("maps", 12)
    rows = currents.unflatten(0, (4, 3))
    assert torch.equal(neuron(currents), written(rows, neuron).flatten(0, 1))
    assert torch.equal(neuron(currents), by_leaky(rows, neuron).flatten(0, 1))


def test_time_comes_first() -> None:
    neuron, currents = neuron_of(2, 1, decay=1.0), torch.tensor([[0.5], [0.0], [0.5], [0.5]])
    # two neurons: 0.5 and 0.5, which fires at the second step, and 0 and 0.5
    assert neuron(currents).flatten().tolist() == [0, 0, 1, 0]


def test_one_neuron_by_hand() -> None:
    neuron = Firing(4, thresholds=(1.0,), decay=0.5)
    currents = torch.tensor([[0.75], [0.75], [0.875], [0.5]])
    # membranes: 0.75, 1.125 (fires), 0.875 (from rest), 0.9375
    assert neuron(currents).flatten().tolist() == [0, 1, 0, 0]
    # from the last: 7; 5 + 7 / 2 = 8.5; 3, the reset cuts; 2 + 3 / 2
    gradient = pulled_back(neuron, currents, torch.tensor([[2.0], [3.0], [5.0], [7.0]]))
    assert gradient.flatten().tolist() == [3.5, 3.0, 8.5, 7.0]


def test_levels_by_hand() -> None:
    neuron = Firing(2, thresholds=(0.5, 1.5), decay=0.5, surrogate=Surrogate("triangle", 1.0))
    currents = torch.tensor([[1.25], [0.75]])
    # first level: 1.25 fires, 0.75 fires; second: 1.25 does not, 0.625 + 0.75 = 1.375 does not
    assert neuron(currents).flatten().tolist() == [1, 1]
    # slopes of the first: 1 - 0.75 = 0.25 and 1 - 0.25 = 0.75; of the second 0.75 and 0.875
    gradient = pulled_back(neuron, currents, torch.tensor([[2.0], [4.0]]))
    assert gradient.flatten().tolist() == [2 * 0.25 + (2 * 0.75 + 4 * 0.875 / 2), 4 * 0.75 + 4 * 0.875]


def test_a_membrane_at_its_threshold_does_not_fire() -> None:
    neuron = Firing(1, thresholds=(0.5, 1.5, 2.5))
    above = torch.nextafter(torch.tensor([0.5, 1.5, 2.5]), torch.tensor(9.0))
    assert neuron(torch.tensor([[0.5, 1.5, 2.5]])).flatten().tolist() == [0, 1, 2]
    assert neuron(above[None]).flatten().tolist() == [1, 2, 3]
    # at a decay of 1 charge adds up to the threshold, and is not reset there
    assert Firing(3, thresholds=(0.5,), decay=1.0)(torch.tensor([[0.25], [0.25], [0.25]])).flatten().tolist() == [
        0, 0, 1,
    ]  # fmt: skip


def test_each_call_starts_from_rest() -> None:
    neuron, currents = neuron_of(2, decay=1.0), currents_of("maps", 6)
    first = neuron(currents)
    neuron(currents + 1)
    assert torch.equal(neuron(currents), first)


def test_spikes_do_not_depend_on_the_surrogate() -> None:
    for kind in EACH_KIND:
        for layout, constant in product(LAYOUTS, (False, True)):
            currents = currents_of(layout, IMAGES if constant else 4 * IMAGES)
            found = neuron_of(4, surrogate=EACH_KIND[kind])(currents, constant=constant)
            assert torch.equal(found, neuron_of(4)(currents, constant=constant))


@pytest.mark.parametrize("surrogate", [RECTANGLE, Surrogate("membrane"), Surrogate("rate")], ids=str)
def test_currents_stay_as_they_were(surrogate: Surrogate) -> None:
    currents = currents_of("maps", 12).requires_grad_()
    before = currents.detach().clone()
    spikes = neuron_of(4, surrogate=surrogate)(currents)
    kept = spikes.detach().clone()
    incoming = torch.ones_like(spikes)
    spikes.backward(incoming)
    assert torch.equal(currents, before)
    assert torch.equal(spikes, kept)
    assert bool((incoming == 1).all())


def test_channels_last_maps_stay_so() -> None:
    currents = currents_of("channels_last", 12).requires_grad_()
    spikes = neuron_of(4)(currents)
    assert spikes.is_contiguous(memory_format=torch.channels_last)
    assert neuron_of(4)(currents_of("maps", 12)).is_contiguous()


def test_empty_batches() -> None:
    assert neuron_of(4)(torch.zeros(0, 5, 3, 4)).shape == (0, 5, 3, 4)
    assert neuron_of(4)(torch.zeros(0, 7), constant=True).shape == (0, 7)


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


# Memory


def saved_by(function: Callable[[], object]) -> list[Tensor]:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function()
    return kept


def bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_nothing_but_the_current_is_kept_for_the_backward_pass() -> None:
    for name in REDUCED:
        for steps in STEPS:
            currents = currents_of("maps", IMAGES).requires_grad_()
            neuron = neuron_of(steps, surrogate=REDUCED[name])
            kept = saved_by(lambda c=currents, n=neuron: n(c, constant=True))  # type: ignore[misc]
            assert bytes_of(kept) == currents.numel() * 4  # a constant one once
        for steps, layout in product(STEPS, LAYOUTS):
            currents = currents_of(layout, steps * IMAGES).requires_grad_()
            neuron = neuron_of(steps, surrogate=REDUCED[name])
            kept = saved_by(lambda c=currents, n=neuron: n(c))  # type: ignore[misc]
            assert len(kept) == 1
            assert bytes_of(kept) == currents.numel() * 4  # so K does not matter, and T only by the current
            # which lies where it lay, where it can
            assert kept[0].data_ptr() == currents.data_ptr() or layout == "strided" or name == "membrane"


def test_nothing_is_kept_without_a_gradient() -> None:
    assert not saved_by(lambda: neuron_of(4)(currents_of("maps", 12)))
    assert not neuron_of(4)(currents_of("maps", 12)).requires_grad


# The paths that compute it

SIZES = (1, 511, 512, 513, 2000)


def static_of(steps: int, surrogate: Surrogate = RECTANGLE, *, constant: bool = False, levels: int = 3) -> Any:
    unit = _fused.Unit(steps, LEVELS[:levels], 0.7, surrogate)
    return _fused._Static(unit, constant, torch.float32)


def flat(rows: int, size: int, seed: int = 0) -> Tensor:
    return 1.5 * torch.randn(rows, size, generator=seeded(seed)) + 0.8


MODES = ((1, False), (4, False), (4, True))


def test_numba_fires_as_torch_does() -> None:
    for size, (steps, constant), levels in product(SIZES, MODES, (1, 3)):
        static, current = static_of(steps, constant=constant, levels=levels), flat(1 if constant else steps, size)
        found = _fused._on_cpu(static.unit, (steps, size), current)
        assert torch.equal(found, _fused._spikes(current, static))
        assert bool(found.any()) or size == 1


def test_numba_passes_gradients_as_torch_does() -> None:
    resets = [Surrogate(kind, 1.5, 0.7, reset=True) for kind in ("rectangle", "triangle", "arctan")]
    for surrogate in (*(Surrogate(kind, 1.5, 0.7) for kind in _cpu.KINDS), *resets):
        rule = _fused._BACKWARD.get(surrogate.kind, _fused._by_slope)
        for (steps, constant), size in product(MODES, SIZES):
            static = static_of(steps, surrogate, constant=constant)
            current, incoming = flat(1 if constant else steps, size), torch.randn(steps, size, generator=seeded(1))
            found = _fused._on_cpu(static.unit, tuple(current.shape), current, incoming)
            assert_close(found, rule(current, incoming, static), atol=5e-6)
            assert bool(found.any()) or size == 1


def test_numba_knows_each_surrogate_that_looks_at_one_neuron() -> None:
    alone = {surrogate.kind for surrogate in POINTWISE.values()} | {"fast sigmoid", "adaptive", "averaged"}
    assert set(_cpu.KINDS) == alone


def test_numba_takes_single_precision_on_a_cpu_and_torch_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = _fused._on_cpu
    monkeypatch.setattr(
        _fused, "_on_cpu", lambda unit, shape, *given: (seen.append(len(given)), original(unit, shape, *given))[1]
    )

    def calls(surrogate: Surrogate, dtype: torch.dtype = torch.float32) -> list[int]:
        seen.clear()
        currents = currents_of("maps", 12).to(dtype)
        pulled_back(neuron_of(4, surrogate=surrogate), currents, torch.ones_like(currents))
        return list(seen)

    assert calls(RECTANGLE) == [1, 2]
    assert calls(Surrogate("rate")) == [1, 1]  # the backward pass asks which neurons fire
    assert calls(Surrogate("membrane")) == [1]
    assert calls(Surrogate("adaptive")) == [1, 2]
    assert calls(RECTANGLE, torch.float64) == []
    assert calls(RECTANGLE, torch.bfloat16) == []


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Triton pretended, and the options of each compilation, which changes nothing."""
    seen: list[dict[str, Any]] = []

    def compile_nothing(module: nn.Module, **options: Any) -> nn.Module:
        seen.append(options)
        return module

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(_fused, "has_triton", lambda: True)
    _fused._kernel.cache_clear()
    yield seen
    _fused._kernel.cache_clear()


@pytest.mark.parametrize(
    ("steps", "levels", "dtype"),
    [
        (1, 1, torch.float32), (4, 3, torch.float32), (4, 3, torch.float64), (3, 1, torch.bfloat16),
        (1, 2, torch.bfloat16),
    ],
)  # fmt: skip
def test_graphs_compute_what_the_functions_compute(
    compilations: list[Any], steps: int, levels: int, dtype: torch.dtype
) -> None:
    computed_in = torch.promote_types(dtype, torch.float32)
    neuron = Firing(steps, thresholds=LEVELS[:levels], decay=0.7)
    static = _fused._Static(_fused.Unit(steps, neuron.thresholds, 0.7, RECTANGLE), False, computed_in)
    graphs = [_fused._kernel(function, static, i + 1) for i, function in enumerate((_fused._spikes, _fused._by_slope))]
    assert all(isinstance(graph, torch.fx.GraphModule) for graph in graphs)
    for size in (1, 20, 300):  # the same for all sizes
        current, incoming = flat(steps, size).to(dtype), torch.randn(steps, size, generator=seeded(1)).to(dtype)
        spikes, gradient = graphs[0](current), graphs[1](current, incoming)
        assert spikes.dtype == gradient.dtype == dtype
        assert torch.equal(spikes, _fused._spikes(current, static))
        assert torch.equal(gradient, _fused._by_slope(current, incoming, static))
        wide, sent = current.to(computed_in), incoming.to(computed_in)
        assert torch.equal(spikes.to(computed_in), written(wide, neuron))
        expected = written_gradient(wide, sent, neuron, lambda u, c: RECTANGLE.slope(u[-1] - c))
        assert torch.allclose(gradient.to(computed_in), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert compilations == [{"dynamic": True}] * 2


def test_each_kernel_is_compiled_once(compilations: list[Any]) -> None:
    first = _fused._kernel(_fused._spikes, static_of(4), 1)
    assert _fused._kernel(_fused._spikes, static_of(4), 1) is first
    assert len(compilations) == 1
    others = [
        _fused._kernel(_fused._spikes, static_of(3), 1),
        _fused._kernel(_fused._spikes, static_of(4, levels=2), 1),
        _fused._kernel(_fused._by_slope, static_of(4), 2),
    ]
    assert len({id(kernel) for kernel in (first, *others)}) == len(compilations) == 4


def passes(static: Any) -> Iterator[tuple[Any, tuple[Tensor, ...]]]:
    """What is computed for a neuron, and of what."""
    steps = static.unit.steps
    current = flat(1 if static.constant else steps, 60).reshape(-1, 3, 20)
    incoming = torch.randn(steps, 3, 20, generator=seeded(1))
    yield _fused._spikes, (current,)
    if static.unit.surrogate.kind != "rate":
        yield _fused._BACKWARD.get(static.unit.surrogate.kind, _fused._by_slope), (current, incoming)


@pytest.mark.parametrize("constant", [False, True])
def test_what_runs_seldom_is_not_compiled(compilations: list[Any], constant: bool) -> None:
    for surrogate in ENSEMBLE.values():
        static = static_of(4, surrogate, constant=constant)
        for function, given in passes(static) if constant or surrogate != RECTANGLE else ():
            assert torch.equal(_fused._kernel(function, static, len(given))(*given), function(*given, static))
    assert not compilations


def test_nothing_is_compiled_without_triton(compilations: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fused, "has_triton", lambda: False)
    static = static_of(4)
    for function, given in passes(static):
        assert torch.equal(_fused._kernel(function, static, len(given))(*given), function(*given, static))
    assert not compilations


class OnCuda(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def test_a_gpu_gets_the_graph_and_contiguous_tensors(compilations: list[Any]) -> None:
    static = static_of(4)
    current, incoming = flat(20, 4).T, torch.randn(20, 4, generator=seeded(1)).T
    passes: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (_fused._spikes, (current,)),
        (_fused._by_slope, (current, incoming)),
    ]
    for function, given in passes:
        graph, seen = _fused._kernel(function, static, len(given)), []
        assert isinstance(graph, torch.fx.GraphModule)
        handle = graph.register_forward_pre_hook(lambda module, x, seen=seen: seen.extend(x))  # type: ignore[misc]
        found = _fused._run(function, static.unit, (4, 20), *(x.as_subclass(OnCuda) for x in given))
        handle.remove()
        assert [x.is_contiguous() for x in seen] == [True] * len(given)
        assert torch.equal(found.as_subclass(Tensor), function(*given, static))
    assert len(compilations) == 2


def test_one_kernel_for_spikes_serves_all_surrogates(compilations: list[Any]) -> None:
    current, calls = flat(4, 20), []
    graph = _fused._kernel(_fused._spikes, static_of(4), 1)
    assert isinstance(graph, torch.fx.GraphModule)
    graph.register_forward_hook(lambda module, given, spikes: calls.append(1))
    surrogates = (*ENSEMBLE.values(), Surrogate("fast sigmoid"))
    for surrogate in surrogates:
        static = static_of(4, surrogate)
        found = _fused._spiking(current.as_subclass(OnCuda), static.unit)
        assert torch.equal(found.as_subclass(Tensor), _fused._spikes(current, static))
    assert len(calls) == len(surrogates)
    constant = _fused._spiking(current[:1].as_subclass(OnCuda), static_of(4).unit)
    assert torch.equal(constant.as_subclass(Tensor), _fused._spikes(current[:1], static_of(4, constant=True)))
    assert len(compilations) == 1


# Errors


@pytest.mark.parametrize("kind", ["rate", "averaged"])
def test_nothing_passes_a_reset_without_recursion(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind} has no recursion over time"):
        Surrogate(kind, reset=True)


def test_snntorch_passes_no_reset_and_has_one_surrogate() -> None:
    for surrogate in (Surrogate(reset=True), (RECTANGLE, OTHER)):
        with pytest.raises(ValueError, match="have one surrogate, which does not pass their reset"):
            leaky_neurons(Firing(2, surrogate=surrogate))


STEPS_MESSAGE = "steps must be a whole number of at least 1, not"
THRESHOLDS_MESSAGE = "thresholds must be finite and increase, from above 0, not"
DECAY_MESSAGE = r"decay must lie in \[0, 1\], not"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"steps": steps}, STEPS_MESSAGE) for steps in (0, 2.0, "4", None)],
        *[({"thresholds": found}, THRESHOLDS_MESSAGE) for found in ((), (0.0,), (0.6, 0.6), (1.6, 0.6))],
        *[({"thresholds": (0.6, value)}, THRESHOLDS_MESSAGE) for value in (math.inf, math.nan)],
        *[({"decay": decay}, DECAY_MESSAGE) for decay in (-0.01, 1.01, math.nan)],
    ],
)
def test_bad_neurons_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Firing(**{"steps": 4, **options})


def test_other_numbers_of_currents_are_refused() -> None:
    for layout, surrogate in product(LAYOUTS, (RECTANGLE, Surrogate("membrane"))):
        neuron = neuron_of(4, surrogate=surrogate)
        with pytest.raises(ValueError, match="6 currents are no whole number of images at 4 steps"):
            neuron(currents_of(layout, 6))
        assert len(neuron(currents_of(layout, 6), constant=True)) == 24


def test_neurons_print_what_they_are() -> None:
    text = repr(Firing(4, thresholds=(0.3,), decay=0.5, surrogate=Surrogate("exponential", 2.0, 0.3)))
    assert text == "Firing(4, thresholds=(0.3,), decay=0.5, surrogate=exponential 2, scale 0.3)"
    assert str(Surrogate("adaptive", 0.65, reset=True)) == "adaptive 0.65, through the reset"


# Step by step


@pytest.mark.parametrize(("split", "layout"), [(1, "maps"), (3, "vectors"), (6, "maps")])
def test_steps_in_two_pieces_are_steps_at_once(split: int, layout: str) -> None:
    neuron = neuron_of(7, decay=0.9)
    currents = currents_of(layout, 7 * IMAGES).unflatten(0, (7, IMAGES))
    whole, last = unrolled(neuron, currents)
    first, state = unrolled(neuron, currents[:split])
    second, end = unrolled(neuron, currents[split:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(end, last)
    assert torch.equal(whole.flatten(0, 1), neuron(currents.flatten(0, 1)))
    assert not torch.equal(unrolled(neuron, currents[split:])[0], second)  # the state counts
    expected = torch.stack([membranes(currents, c, neuron.decay)[-1] for c in neuron.thresholds])
    assert torch.equal(last, expected)


def test_gradients_pass_the_state() -> None:
    neuron = neuron_of(7, decay=0.9, surrogate=Surrogate("arctan"))
    currents = currents_of("maps", 7 * IMAGES).unflatten(0, (7, IMAGES))
    incoming = torch.randn(currents.shape, generator=seeded(1))

    def pieces(x: Tensor) -> Tensor:
        first, state = unrolled(neuron, x[:3])
        return torch.cat([first, unrolled(neuron, x[3:], state)[0]])

    assert_close(
        pulled_back(pieces, currents, incoming), pulled_back(lambda x: unrolled(neuron, x)[0], currents, incoming)
    )


def test_nothing_leaks_between_calls() -> None:
    neuron = neuron_of(4, decay=1.0)
    currents = currents_of("maps", 12).unflatten(0, (4, 3)).requires_grad_()
    first, second = unrolled(neuron, currents), unrolled(neuron, currents)
    assert torch.equal(first[0], second[0])
    gradients = [torch.autograd.grad(spikes.sum(), currents)[0] for spikes, _ in (first, second)]
    assert torch.equal(*gradients)


def test_given_states_stay_as_they_were() -> None:
    neuron, currents = neuron_of(2), currents_of("maps", 6).unflatten(0, (2, 3))
    states = torch.rand(3, 3, 5, 3, 4, generator=seeded())
    before = states.clone()
    unrolled(neuron, currents, states)
    assert torch.equal(states, before)


def test_snntorch_does_not_collect_the_neurons() -> None:
    other = snntorch.Leaky(beta=0.5)
    before = list(snntorch.SpikingNeuron.instances)
    assert any(kept is other for kept in before)
    neuron = neuron_of(4)
    leaky_neurons(neuron)
    unrolled(neuron, currents_of("maps", 12).unflatten(0, (4, 3)))
    neuron(currents_of("maps", 12))
    after = snntorch.SpikingNeuron.instances
    assert len(after) == len(before)
    assert all(a is b for a, b in zip(after, before, strict=True))


def test_leaky_neurons_are_the_levels() -> None:
    levels = leaky_neurons(Firing(4, thresholds=(0.5, 1.25), decay=0.75))
    assert [(float(level.threshold), float(level.beta)) for level in levels] == [(0.5, 0.75), (1.25, 0.75)]
    assert [level.reset_mechanism for level in levels] == ["zero", "zero"]
    distances = torch.tensor([0.25, 0.6], requires_grad=True)
    spikes, _ = levels[0](distances + 0.5, torch.zeros(2))
    assert torch.autograd.grad(spikes.sum(), distances)[0].tolist() == [1, 0]


def test_states_of_another_shape_are_refused() -> None:
    for shape in ((3, 5), (2, 3, 6), (3, 2, 5), (2, 3, 5, 1), (1, 3, 5)):
        with pytest.raises(ValueError, match=r"states must have shape \(2, 3, 5\), membranes of each level, not"):
            unrolled(neuron_of(4, 2), torch.zeros(4, 3, 5), torch.zeros(shape))


# Other gradients


class Net(nn.Module):
    """Neurons at four places, some of whose names begin alike, and logits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(6, 12), Firing(2), nn.Sequential(nn.Linear(12, 12), Firing(2)))
            self.body2 = nn.Sequential(nn.Linear(12, 12), Firing(2))
            self.last = Firing(2, surrogate=Surrogate("arctan"))
            self.head = nn.Linear(12, 3)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.head:
                with torch.no_grad():
                    module.weight *= 3

    def forward(self, images: Tensor) -> Tensor:
        spikes: Tensor = self.last(self.body2(self.body(images.repeat(2, 1))))
        logits: Tensor = self.head(spikes.unflatten(0, (2, -1)).mean(0))
        return logits


NAMES = ["body.1", "body.2.1", "body2.1", "last"]
OTHER = Surrogate("straight-through")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 6, generator=seeded(3))


def input_gradient(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    weights = torch.randn(model(images).shape, generator=seeded(4))
    return pulled_back(model, images, weights)


def kinds(model: nn.Module) -> list[str]:
    return [layer.surrogate.kind for layer in neurons_of(model).values()]


def test_neurons_by_name() -> None:
    net = Net()
    assert list(neurons_of(net)) == NAMES
    assert neurons_of(net)["body.2.1"] is net.body[2][1]
    alone = Firing(2)
    assert neurons_of(alone) == {"": alone}


def test_using_changes_gradients_and_no_value(images: Tensor) -> None:
    net = Net()
    values, gradient = net(images), input_gradient(net, images)
    with using(net, OTHER):
        assert kinds(net) == ["straight-through"] * 4
        assert torch.equal(net(images), values)
        other = input_gradient(net, images)
    assert kinds(net) == ["rectangle"] * 3 + ["arctan"]
    assert not torch.allclose(other, gradient)
    assert torch.equal(input_gradient(net, images), gradient)
    assert torch.equal(net(images), values)


def test_using_takes_the_layers_below_a_name() -> None:
    for chosen, expected in [
        ({"body": OTHER}, [1, 1, 0, 0]),
        ({"body2": OTHER}, [0, 0, 1, 0]),
        ({"body.2": OTHER}, [0, 1, 0, 0]),
        ({"body.2.1": OTHER, "last": OTHER}, [0, 1, 0, 1]),
        ({"": OTHER}, [1, 1, 1, 1]),
        ({}, [0, 0, 0, 0]),
    ]:
        net = Net()
        with using(net, chosen):
            assert [int(layer.surrogate is OTHER) for layer in neurons_of(net).values()] == expected
        assert kinds(net) == ["rectangle"] * 3 + ["arctan"]


@pytest.mark.parametrize("turn", [1, -1])
def test_the_longest_name_counts(turn: int) -> None:
    chosen = {"": Surrogate("rate"), "body": Surrogate("triangle"), "body.2": OTHER}
    net = Net()
    with using(net, dict(list(chosen.items())[::turn])):
        assert kinds(net) == ["triangle", "straight-through", "rate", "rate"]


def test_surrogates_come_back_after_an_exception() -> None:
    net = Net()

    def fail() -> None:
        with using(net, OTHER), using(net, {"body": Surrogate("rate")}):
            assert kinds(net) == ["rate", "rate", "straight-through", "straight-through"]
            raise RuntimeError("the third wheel")

    with pytest.raises(RuntimeError, match="third wheel"):
        fail()
    assert kinds(net) == ["rectangle"] * 3 + ["arctan"]


def test_the_gradient_may_be_taken_after_the_block(images: Tensor) -> None:
    net, point = Net(), images.clone().requires_grad_()
    with using(net, OTHER):
        expected = input_gradient(net, images)
        inside = net(point)
    weights = torch.randn(inside.shape, generator=seeded(4))
    (after,) = torch.autograd.grad(inside, point, weights)
    assert torch.equal(after, expected)
    # and that of values from before the block is not changed by it
    outside = net(point)
    with using(net, OTHER):
        (before,) = torch.autograd.grad(outside, point, weights)
    assert torch.equal(before, input_gradient(net, images))


def test_names_without_spiking_layers_are_refused() -> None:
    net = Net()
    for prefix in ("bod", "body.1.", "body.0", "head", "body.2.1.0", "Body"):
        message = f"no spiking layer lies in '{prefix}'; layers: body.1, body.2.1, body2.1, last"
        with pytest.raises(ValueError, match=message), using(net, {"body": OTHER, prefix: OTHER}):
            pass
        with pytest.raises(ValueError, match=message):
            Through(net, {"body": OTHER, prefix: OTHER})
        assert kinds(net) == ["rectangle"] * 3 + ["arctan"]


def test_models_without_spiking_layers_are_refused() -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(ValueError, match="Sequential has no spiking layer"):
        neurons_of(plain)
    with pytest.raises(ValueError, match="Sequential has no spiking layer"), using(plain, OTHER):
        pass
    with pytest.raises(ValueError, match="Sequential has no spiking layer"):
        Through(plain, OTHER)
    with pytest.raises(ValueError, match="Sequential has no spiking layer"):
        firing_rates(plain, torch.zeros(1, 2))
    assert spiking_stand_ins(plain, {"one": OTHER}) == {}


def test_a_stand_in_has_other_gradients_and_the_same_values(images: Tensor) -> None:
    net = Net()
    with using(net, OTHER):
        expected = input_gradient(net, images)
    through = Through(net, OTHER)
    assert torch.equal(through(images), net(images))
    assert torch.equal(input_gradient(through, images), expected)
    assert not torch.allclose(expected, input_gradient(net, images))
    assert kinds(net) == ["rectangle"] * 3 + ["arctan"]
    part = Through(net, {"body.2": OTHER})
    with using(net, {"body.2": OTHER}):
        assert torch.equal(input_gradient(part, images), input_gradient(net, images))
    assert not torch.allclose(input_gradient(part, images), expected)


def test_a_stand_in_shares_weights_and_mode() -> None:
    net = Net()
    weights = {id(parameter) for parameter in net.parameters()}
    assert {id(parameter) for parameter in Through(net, OTHER).parameters()} == weights
    assert Through(net, OTHER).training
    assert not Through(net.eval(), OTHER).training
    assert not net.training
    assert Through(net, OTHER).train().training
    assert net.training


class Defence(nn.Module):
    """A model around another, which it calls its network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(2 * images)
        return logits


def test_stand_ins_of_models_in_models(images: Tensor) -> None:
    net = Net()
    outer = Defence(net)
    with using(net, OTHER):
        expected = input_gradient(outer, images)
    assert not torch.allclose(expected, input_gradient(outer, images))
    for model in (Through(outer, OTHER), Defence(Through(net, OTHER)), Through(outer, {"network": OTHER})):
        assert torch.equal(model(images), outer(images))
        assert torch.equal(input_gradient(model, images), expected)
    some = Through(outer, {"network.body2": OTHER})
    with using(net, {"body2": OTHER}):
        assert torch.equal(input_gradient(some, images), input_gradient(outer, images))
    assert Through(outer, OTHER).network is net
    assert Through(net, OTHER).network is net


def test_a_mix_has_the_mean_of_the_gradients_and_the_same_values(images: Tensor) -> None:
    net = Net()
    mixed: list[Any] = [OTHER, RECTANGLE, Surrogate("membrane"), {"body": Surrogate("rate"), "last": OTHER}]
    found, pulled = Mixed(net, mixed), [input_gradient(Through(net, rules), images) for rules in mixed]
    sizes = [gradient.abs().mean(1, keepdim=True).clamp_min(1e-30) for gradient in pulled]
    assert max(float(size.max()) for size in sizes) > 2 * min(float(size.min()) for size in sizes)
    expected = torch.stack([gradient / size for gradient, size in zip(pulled, sizes, strict=True)]).mean(0)
    assert not pulled[1][0].any()  # this image has no gradient through the rectangle
    assert_close(input_gradient(found, images), expected)
    assert_close(found(images), net(images))  # but for rounding, as all copies are one batch
    with torch.no_grad():
        assert torch.equal(found(images), net(images))
    assert kinds(net) == ["rectangle"] * 3 + ["arctan"]
    assert found.network is net


def test_a_mix_of_one_and_of_an_image_without_gradient(images: Tensor) -> None:
    net = Net()
    alone = input_gradient(Through(net, OTHER), images)
    found = input_gradient(Mixed(net, [OTHER]), images)
    assert_close(found, alone / alone.abs().mean(1, keepdim=True))
    dead = input_gradient(Mixed(net, [Surrogate("rectangle", 1e-6)]), images)
    assert torch.equal(dead, torch.zeros_like(dead))
    with pytest.raises(ValueError, match="there must be a surrogate"):
        Mixed(net, [])


def test_stand_ins_by_name(images: Tensor) -> None:
    net = Net()
    found = spiking_stand_ins(net, {"one": OTHER, "two": {"last": Surrogate("rate")}})
    assert list(found) == ["one", "two"]
    gradients = [input_gradient(model, images) for model in (*found.values(), net)]
    assert torch.equal(gradients[0], input_gradient(Through(net, OTHER), images))
    assert torch.equal(gradients[1], input_gradient(Through(net, {"last": Surrogate("rate")}), images))
    assert not any(torch.allclose(gradients[i], gradients[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    with pytest.raises(ValueError, match="no spiking layer lies in 'first'"):
        spiking_stand_ins(net, {"one": {"first": OTHER}})


# Firing rates


class Scaled(nn.Module):
    """Two layers of neurons after a factor each; each image is two numbers."""

    def __init__(self, one: float, two: float) -> None:
        super().__init__()
        self.factors = one, two
        self.first, self.second = Firing(2, thresholds=(1.0, 2.0), decay=0.5), Firing(2, thresholds=(0.5,), decay=1.0)
        self.dropout, self.norm = nn.Dropout(0.9), nn.BatchNorm1d(2)
        self.norm.eval()

    def forward(self, images: Tensor) -> Tensor:
        images = self.norm(self.dropout(images.flatten(1)))
        spikes: Tensor = self.second(self.factors[1] * self.first(self.factors[0] * images, constant=True))
        return spikes


PICTURES = torch.tensor([0.875, 2.5, 0.25, 1.5]).reshape(2, 2, 1, 1) * math.sqrt(1 + 1e-5)  # of the norm's eps


def test_rates_by_hand() -> None:
    # first layer, levels 1 and 2 at decay 1/2: 0.875 fires at step 2 and never; 2.5 twice and twice; 0.25 never; 1.5
    # twice, and at step 2 (2.25)
    # second layer, at 0.5: currents (0, 1), (2, 2), (0, 0), (1, 2), times a quarter: 0.25 never; 0.5 not, but 1 is; 0;
    # 0.25, and with 0.5 it is
    rates = firing_rates(Scaled(1.0, 0.25), PICTURES)
    assert list(rates) == ["first", "second"]
    assert rates["first"] == pytest.approx((1 + 4 + 0 + 3) / 8)
    assert rates["second"] == pytest.approx((0 + 1 + 0 + 1) / 8)


@pytest.mark.parametrize(
    ("one", "two", "dead"), [(1.0, 0.1, ["second"]), (0.1, 1.0, ["first", "second"]), (1.0, 1.0, [])]
)
def test_dead_layers_are_named(one: float, two: float, dead: list[str]) -> None:
    model = Scaled(one, two)
    if not dead:
        assert min(firing_rates(model, PICTURES).values()) > 0  # and warns not
        return
    with pytest.warns(DeadNetworkWarning, match=rf"no neuron fires in {', '.join(dead)}: no gradient") as warned:
        rates = firing_rates(model, PICTURES)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert [name for name, rate in rates.items() if rate == 0] == dead


def test_rates_leave_the_model_as_it_was() -> None:
    model = Scaled(1.0, 0.25)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    firing_rates(model, PICTURES)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match="running_mean should contain"):
        firing_rates(model, torch.zeros(2, 3))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_rates_are_measured_in_evaluation_mode() -> None:
    model = Scaled(1.0, 0.25)  # nine of ten inputs would be dropped, and the rest grow
    assert firing_rates(model.train(), PICTURES) == firing_rates(model.eval(), PICTURES)


def test_rates_ask_for_no_gradient() -> None:
    model, seen = Scaled(1.0, 1.0), []
    model.second.register_forward_hook(lambda module, given, spikes: seen.append(spikes.requires_grad))
    firing_rates(model, PICTURES.clone().requires_grad_())
    assert seen == [False]


# Limits


def test_unrolled_refuses_double_precision() -> None:
    """There snntorch's thresholds, which are singles, would make other spikes."""
    with pytest.raises(TypeError, match="float32"):
        unrolled(Firing(1), torch.zeros(1, 1, 1, dtype=torch.float64))


def test_second_derivatives_are_refused() -> None:
    for dtype in (torch.float32, torch.float64):
        current = torch.tensor([[0.5], [0.7]], dtype=dtype, requires_grad=True)
        spikes = Firing(2, thresholds=(0.6,), surrogate=Surrogate("triangle"))(current)
        (gradient,) = torch.autograd.grad(spikes.square().sum(), current, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(gradient.sum(), current)
