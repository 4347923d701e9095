"""Multi-level firing over all time steps as one differentiable function that keeps nothing but its input.

With the currents I[t], decay b and thresholds c[k], from rest:

    u[k, t] = b (1 - s[k, t-1]) u[k, t-1] + I[t]        s[k, t] = 1 if u[k, t] > c[k] else 0        o[t] = sum_k s[k, t]

and in the backward pass, with the surrogate h for ds/du and the reset taken for a constant, as snntorch does:

    e[k, t] = do[t] h(u[k, t] - c[k]) + b (1 - s[k, t]) e[k, t+1]        dI[t] = sum_k e[k, t]

A surrogate with ``reset`` does not take it for a constant: then do[t] - b u[k, t] e[k, t+1] stands in place of do[t].

Membranes are computed again in the backward pass: that is a few additions, where storing them would cost K + 1 further
tensors for each neuron. Everything is elementwise but for time and levels, so that each pass is one loop over neurons:
on CUDA compiled by PyTorch from the functions below, on a CPU written out for numba.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._triton import has_triton

from advdef.papers.snn.surrogates import RECTANGLE, Surrogate

__all__ = ["Unit", "fire"]


@dataclass(frozen=True)
class Unit:
    """What a spiking neuron is: its time steps, a threshold for each level, its decay, and the surrogate of its
    gradient.
    """

    steps: int
    thresholds: tuple[float, ...]
    decay: float
    surrogate: Surrogate


Pass = Callable[..., Tensor]


def fire(current: Tensor, unit: Unit) -> Tensor:
    """Spikes (T, M, ...) of M neurons, from currents (T, M, ...) or from a constant current (1, M, ...) for all T
    steps.

    It has no second derivative. For the surrogate "membrane", M counts groups, and the axes after it are the members of
    a group.
    """
    spikes: Tensor = _Fire.apply(current, unit)
    return spikes


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, unit: Unit) -> Tensor:
        ctx.save_for_backward(current)
        ctx.unit = unit
        return _spiking(current, unit)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (current,), unit = ctx.saved_tensors, ctx.unit
        if unit.surrogate.kind == "rate":
            fires = _spiking(current, unit).sum(0) > 0
            passed = torch.where(fires, grads[0], 0.0)
            return passed if len(current) == unit.steps else passed.sum(0, keepdim=True), None
        return _run(_BACKWARD.get(unit.surrogate.kind, _by_slope), unit, current.shape, current, grads[0]), None


def _spiking(current: Tensor, unit: Unit) -> Tensor:
    """Spikes, which do not depend on the surrogate: so one kernel serves for all surrogates."""
    return _run(_spikes, replace(unit, surrogate=RECTANGLE), (unit.steps, *current.shape[1:]), current)


def _run(function: Pass, unit: Unit, shape: tuple[int, ...], *inputs: Tensor) -> Tensor:
    """``function`` of inputs (T or 1, M, ...), on the device where they are; the result has the given shape."""
    current = inputs[0]
    static = _Static(unit, len(current) != unit.steps, torch.promote_types(current.dtype, torch.float32))
    if current.is_cuda:
        return _kernel(function, static, len(inputs))(*(x.detach().contiguous() for x in inputs))
    if current.device.type == "cpu" and current.dtype == torch.float32 and function is not _by_membrane:
        return _on_cpu(unit, shape, *inputs)
    return function(*inputs, static)


def _on_cpu(unit: Unit, shape: tuple[int, ...], *inputs: Tensor) -> Tensor:
    """The same by numba: spikes from currents or, from currents and the gradient at the spikes, that at currents."""
    from advdef.papers.snn import cpu as _cpu  # numba takes a second to import

    arrays = [x.detach().flatten(1).contiguous().numpy() for x in inputs]
    out = inputs[0].new_empty(shape)
    facts = np.array(unit.thresholds, np.float32), np.float32(unit.decay)
    if len(inputs) == 1:
        _cpu.spikes(*arrays, out.flatten(1).numpy(), *facts)
    else:
        rule = unit.surrogate
        kind, width, scale = _cpu.KINDS.index(rule.kind), np.float32(rule.width), np.float32(rule.scale)
        _cpu.gradient(*arrays, out.flatten(1).numpy(), *facts, kind, width, scale, rule.reset)
    return out


@dataclass(frozen=True)
class _Static:
    """What a kernel is compiled for: a neuron, whether its current is constant, and the type that it computes in."""

    unit: Unit
    constant: bool
    dtype: torch.dtype

    def rows(self, values: Tensor) -> list[Tensor]:
        """The currents of each step, as a list."""
        if self.constant:
            return [values[0].to(self.dtype)] * self.unit.steps
        return [values[t].to(self.dtype) for t in range(self.unit.steps)]


@lru_cache(maxsize=256)
def _kernel(function: Pass, static: _Static, inputs: int) -> Pass:
    """``function`` for CUDA: compiled to one kernel where Triton is there and it pays, else as it stands.

    A kernel takes seconds to compile. Constant currents, which only one layer of a network has, and surrogates that
    only attacks use do not run often enough to win that back.
    """
    if not has_triton() or static.constant or static.unit.surrogate != RECTANGLE:
        return lambda *inputs: function(*inputs, static)
    names = ("current", "gradient")[:inputs]
    # a graph of its own for each kernel: torch.compile counts the variants of one function, and stops at eight
    graph = torch.fx.Graph()
    tracer = torch.fx.proxy.GraphAppendingTracer(graph)
    traced: Any = function(*(torch.fx.Proxy(graph.placeholder(name), tracer) for name in names), static)
    graph.output(traced.node)
    kernel: Pass = torch.compile(torch.fx.GraphModule(torch.nn.Module(), graph), dynamic=True)
    return kernel


def _membranes(current: Tensor, static: _Static, threshold: float) -> list[Tensor]:
    """The membranes of one level: (M, ...) for each step."""
    found: list[Tensor] = []
    for now in static.rows(current):
        found.append(torch.where(found[-1] > threshold, 0.0, found[-1]) * static.unit.decay + now if found else now)
    return found


def _spikes(current: Tensor, static: _Static) -> Tensor:
    """(T, M, ...): at how many levels each neuron fires."""
    levels = []
    for threshold in static.unit.thresholds:
        levels.append([(u > threshold).to(current.dtype) for u in _membranes(current, static, threshold)])
    return torch.stack([sum(fired[1:], fired[0]) for fired in zip(*levels, strict=True)])


def _by_slope(current: Tensor, gradient: Tensor, static: _Static) -> Tensor:
    """Backpropagation through time with a slope that depends on the membrane alone."""
    rule = static.unit.surrogate
    return _through_time(current, gradient, static, lambda u, threshold: [rule.slope(v - threshold) for v in u])


def _by_membrane(current: Tensor, gradient: Tensor, static: _Static) -> Tensor:
    """Backpropagation through time with a slope that follows the spread of the membranes so far."""

    def slopes(u: list[Tensor], threshold: float) -> list[Tensor]:
        found = []
        mean = squares = u[0].new_zeros(())  # of the steps so far; squares are of the distances to the mean, summed
        for t, last in enumerate(u):
            members = last.flatten(1)
            of_step = members.mean(1, keepdim=True)
            apart = of_step - mean
            squares = squares + (members - of_step).square().sum(1, keepdim=True)
            squares = squares + apart.square() * members.shape[1] * t / (t + 1)
            mean = mean + apart / (t + 1)
            spread = (squares / ((t + 1) * members.shape[1])).sqrt().clamp_min(1e-6)
            far = (members - threshold - spread / 2) / spread
            found.append((torch.exp(-0.5 * far.square()) / (spread * (2 * torch.pi) ** 0.5)).reshape(last.shape))
        return found

    return _through_time(current, gradient, static, slopes)


def _by_distance(current: Tensor, gradient: Tensor, static: _Static) -> Tensor:
    """Backpropagation through time with a slope as wide as a neuron is far from its threshold."""
    steps, width = static.unit.steps, static.unit.surrogate.width

    def slopes(u: list[Tensor], threshold: float) -> list[Tensor]:
        far = [(v - threshold).abs() for v in u]
        mean = sum(far[1:], far[0]) / steps
        apart = [(v - mean).abs() for v in far]
        wide = width * (mean + 1.5 * (sum(apart[1:], apart[0]) / steps) + 1e-4)
        return [1 / (wide * (1 + (torch.pi * v / wide).square())) for v in far]

    return _through_time(current, gradient, static, slopes)


def _by_average(current: Tensor, gradient: Tensor, static: _Static) -> Tensor:
    """The mean over all steps of what passes a triangle, without backpropagation through time."""
    shape, steps = Surrogate("triangle", static.unit.surrogate.width), static.unit.steps
    passed = [
        gradient[t].to(static.dtype) * shape.slope(u - threshold)
        for threshold in static.unit.thresholds
        for t, u in enumerate(_membranes(current, static, threshold))
    ]
    total = sum(passed[1:], passed[0])[None]
    return (total if static.constant else (total / steps).expand(steps, *total.shape[1:])).to(current.dtype)


_BACKWARD: Mapping[str, Pass] = {"membrane": _by_membrane, "adaptive": _by_distance, "averaged": _by_average}


def _through_time(
    current: Tensor, gradient: Tensor, static: _Static, slopes: Callable[[list[Tensor], float], list[Tensor]]
) -> Tensor:
    total: list[Tensor] = []  # by step, from the last to the first
    decay, passed = static.unit.decay, static.unit.surrogate.reset
    incoming = [gradient[t].to(static.dtype) for t in range(static.unit.steps)]
    for threshold in static.unit.thresholds:
        u, carried = _membranes(current, static, threshold), None
        slope = slopes(u, threshold)
        for back, t in enumerate(reversed(range(static.unit.steps))):
            given = incoming[t] - decay * u[t] * carried if passed and carried is not None else incoming[t]
            error = given * slope[t]
            if carried is not None:
                error = error + torch.where(u[t] > threshold, 0.0, carried) * decay
            carried = error
            if threshold == static.unit.thresholds[0]:
                total.append(error)
            else:
                total[back] = total[back] + error
    if static.constant:
        return sum(total[1:], total[0])[None].to(current.dtype)
    return torch.stack(total[::-1]).to(current.dtype)
