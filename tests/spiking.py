"""What the tests of spiking neurons share: currents, spikes and gradients by the written equations and by snntorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import snntorch
import torch
from contract import seeded
from torch import Tensor

from advdef.papers.snn.neurons import LEVELS, Firing
from advdef.papers.snn.surrogates import ENSEMBLE, RECTANGLE, Surrogate

EACH_KIND = {surrogate.kind: surrogate for surrogate in ENSEMBLE.values()}
POINTWISE = {name: surrogate for name, surrogate in ENSEMBLE.items() if surrogate.pointwise}
LAYOUTS = ("maps", "channels_last", "strided", "vectors")
STEPS = (1, 2, 4, 7)
IMAGES = 3

Slope = Callable[[list[Tensor], float], Tensor]


@pytest.fixture(autouse=True)
def no_neuron_outlives_its_test() -> Iterator[None]:
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
