"""What computes spiking neurons, by numba, by torch and on a GPU, and what it keeps in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from contract import seeded
from spiking import (
    IMAGES,
    LAYOUTS,
    POINTWISE,
    STEPS,
    assert_close,
    currents_of,
    neuron_of,
    pulled_back,
    written,
    written_gradient,
)
from torch import Tensor, nn

from advdef.papers.snn import cpu as _cpu
from advdef.papers.snn import fused as _fused
from advdef.papers.snn.neurons import LEVELS, Firing
from advdef.papers.snn.surrogates import ENSEMBLE, RECTANGLE, REDUCED, Surrogate

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
