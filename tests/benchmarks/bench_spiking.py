"""What a training step of a spiking classifier costs: beside snntorch's loop over time, and beside spikingjelly.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks/bench_spiking.py

A step is forward, cross-entropy, backward and SGD, with random images and weights, four time steps, LIF (one level) and
MLF3 (three). All sides share one set of weights, in channels_last, the layout that training leaves:

- "snntorch's loop", as its tutorials write it: the whole network once per time step, membranes as variables, one
  ``snn.Leaky`` per level.
- spikingjelly 2.0.0 in multi-step mode, one ``LIFNode`` per level, looked for in the folder of ADVDEF_PEERS. For it too
  the first convolution sees an image once. Its fused neuron has no rectangle; with a triangle, which it has, the step
  is measured again, and on CUDA, where that kernel may be one of Triton's, only printed.

tdBN takes its statistics over time, which a loop over time cannot. So the norms keep those of a first batch on all
sides, while gradients pass and their weights learn; beside it stands what our step takes with statistics of the batch.
Equal logits and gradients are asserted first. Then runs alternate and their medians are compared, on a CPU of the time
that the process itself was given: a shared machine's second core comes and goes. Our neurons use one thread, so that by
the clock of an idle machine with many cores the ratios can be smaller. With ADVDEF_BENCH_DEVICE=cuda all of it runs on
a GPU, in float32 without TF32, and our step in bfloat16 too; kernels are compiled in runs that do not count.

Measured ratios stand in book/speed.json. For the backward pass our network keeps the same for three levels as for one,
three numbers for each neuron and step; at four steps the loop keeps 2.4 (LIF) and 5.8 times as much (MLF3),
spikingjelly 1.5 and 3.0 times.

On one H100 a network of 6 blocks and width 32 met the goal of 3 times with MLF3; with LIF the test failed, and whether
by the ratio or by the comparison before it was not kept. A step there is bound by launching kernels, about 2 ms for
each spiking layer whatever the batch.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from stopwatch import CLOCK, DEVICE, seconds, tell
from torch import Tensor, nn

from advdef.papers.snn.classifiers import SmallSpikingResNet, SpikingResNet
from advdef.papers.snn.footprint import footprint
from advdef.papers.snn.neurons import LEVELS, Firing, leaky_neurons, neurons_of, unrolled
from advdef.papers.snn.surrogates import RECTANGLE, Surrogate

ON_CUDA = DEVICE.type == "cuda"
STEPS, CLASSES, SHAPE = 4, 10, (3, 32, 32)
GOAL = 3.0 if ON_CUDA else 1.3
TRIANGLE = Surrogate("triangle", 1.0)
JELLY_RULES = {RECTANGLE: "Rect", TRIANGLE: "PiecewiseQuadratic"}
FOLDER = Path(os.environ.get("ADVDEF_PEERS", ""))
FOUND = Path(FOLDER, "spikingjelly").is_dir()
NAMES = {1: "LIF", 3: "MLF3"}
SAME = "equal logits and gradients"
ROUNDS = 15 if ON_CUDA else 5

pytestmark = pytest.mark.filterwarnings("default")  # torch.compile warns of parts of torch itself
asks_spikingjelly = pytest.mark.skipif(not FOUND, reason="spikingjelly is not in the folder that ADVDEF_PEERS names")


class Case(NamedTuple):
    """A network, and how many images it sees at once."""

    build: Callable[..., SpikingResNet]
    images: int


def resnet(depth: int, width: int) -> Callable[..., SpikingResNet]:
    return partial(SpikingResNet, blocks=(depth,) * 3, width=width)


CASES = {"small": Case(SmallSpikingResNet, 64), "3 blocks, width 16": Case(resnet(1, 16), 16)}
if ON_CUDA:
    CASES = {
        "small": Case(SmallSpikingResNet, 512),
        "3 blocks, width 16": Case(resnet(1, 16), 256),
        "6 blocks, width 32": Case(resnet(2, 32), 256),
        "9 blocks, width 64": Case(resnet(3, 64), 128),
    }

cases = pytest.mark.parametrize("case", CASES)
levels = pytest.mark.parametrize("levels", list(NAMES), ids=list(NAMES.values()))


@pytest.fixture(autouse=True)
def _without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def batch(count: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.rand(count, *SHAPE, generator=draws), torch.randint(CLASSES, (count,), generator=draws)
    return images.to(DEVICE).contiguous(memory_format=torch.channels_last), labels.to(DEVICE)


def network(
    build: Callable[..., SpikingResNet], levels: int, *, steps: int = STEPS, surrogate: Surrogate = RECTANGLE
) -> SpikingResNet:
    """In the layout that training leaves, with norms that keep the statistics of a first batch."""
    torch.manual_seed(0)
    model = build(SHAPE, CLASSES, steps=steps, levels=levels)
    model.to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for neuron in neurons_of(model).values():
        neuron.surrogate = surrogate
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(batch(32)[0])
    for norm in norms:
        norm.eval()
    return model


def walk(model: SpikingResNet, images: Tensor, call: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """The maps after the last stage, if ``call`` is what a unit of convolution, norm and neurons does."""
    maps = call(model.stem, 2 * images - 1)
    for block in model.stages:
        seen = maps[..., :: block.stride, :: block.stride]
        maps = call(block.second, call(block.first, maps)) + (call(block.shortcut[0], seen) if block.shortcut else seen)
    return maps


def units(model: SpikingResNet) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "convolution")]


class Tutorial(nn.Module):
    """The same weights, run as snntorch's tutorials do: the whole network once per time step, its membranes at hand."""

    def __init__(self, model: SpikingResNet) -> None:
        super().__init__()
        self.model = model
        place = model.head.weight.device
        self.neurons = {unit: nn.ModuleList(leaky_neurons(unit.neurons)).to(place) for unit in units(model)}
        self.registered = nn.ModuleList(self.neurons.values())

    def forward(self, images: Tensor) -> Tensor:
        membranes = {unit: [level.init_leaky() for level in levels] for unit, levels in self.neurons.items()}

        def call(unit: Any, maps: Tensor) -> Tensor:
            current, fired = unit.norm(unit.convolution(maps)), []
            for k, level in enumerate(self.neurons[unit]):
                spikes, membranes[unit][k] = level(current, membranes[unit][k])
                fired.append(spikes)
            return sum(fired[1:], fired[0])

        logits = [self.model.head(walk(self.model, images, call).mean((2, 3))) for _ in range(self.model.steps)]
        return torch.stack(logits).mean(0)


class SpikingJelly(nn.Module):
    """The same weights in spikingjelly's multi-step mode: maps (T, N, ...), and the stem's convolution once."""

    def __init__(self, model: SpikingResNet) -> None:
        super().__init__()
        self.model, self.functional = model, jelly("functional")
        self.neurons = {unit: self.nodes(unit.neurons) for unit in units(model)}
        self.registered = nn.ModuleList(self.neurons.values())

    def nodes(self, neuron: Firing) -> nn.ModuleList:
        rule = getattr(jelly("surrogate"), JELLY_RULES[neuron.surrogate])(alpha=1.0)
        node = partial(
            jelly("neuron").LIFNode, tau=1 / (1 - neuron.decay), decay_input=False, v_reset=0.0,
            surrogate_function=rule, detach_reset=True, step_mode="m",
        )  # fmt: skip
        return nn.ModuleList(node(v_threshold=threshold) for threshold in neuron.thresholds)

    def forward(self, images: Tensor) -> Tensor:
        self.functional.reset_net(self)

        def call(unit: Any, maps: Tensor) -> Tensor:
            if maps.dim() == 4:
                currents = unit.norm(unit.convolution(maps)).expand(self.model.steps, -1, -1, -1, -1)
            else:
                currents = self.functional.seq_to_ann_forward(maps, [unit.convolution, unit.norm])
            fired = [node(currents) for node in self.neurons[unit]]
            return sum(fired[1:], fired[0])

        return self.model.head(walk(self.model, images, call).mean((0, 3, 4)))


def jelly(part: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"spikingjelly.activation_based.{part}")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of ADVDEF_PEERS can be imported, unless they are installed: nothing there shall replace those."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])


class StepByStep(nn.Module):
    """Our neurons, and what has no state called for one time step after the other."""

    def __init__(self, model: SpikingResNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        def call(unit: Any, maps: Tensor) -> Tensor:
            constant = unit is self.model.stem
            parts = [maps] if constant else maps.chunk(self.model.steps)
            return unit.neurons(torch.cat([unit.norm(unit.convolution(part)) for part in parts]), constant=constant)

        maps = walk(self.model, images, call)
        return self.model.head(maps.mean((2, 3)).unflatten(0, (self.model.steps, -1)).mean(0))


def step(model: nn.Module, images: Tensor, labels: Tensor, *, half: bool = False) -> Callable[[], None]:
    """A training step that changes nothing, so that all that share the weights go on from the same."""
    descent = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def run() -> None:
        descent.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        descent.step()

    return run


def results(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradients of all weights in one vector."""
    logits = model(images)
    grads = torch.autograd.grad(F.cross_entropy(logits, labels), list(model.parameters()))
    return logits.detach(), torch.cat([grad.flatten() for grad in grads])


def assert_same_step(
    kind: Callable[[SpikingResNet], nn.Module], ours: SpikingResNet, precision: torch.dtype = torch.float32
) -> None:
    """Equal logits and gradients on a CPU in a given precision, and logits as near as rounding lets them be as timed.

    Where a sum is rounded in another way, a spike comes or not, and others follow: weights that differ by one part in a
    million move the logits of these networks by up to 4 %.
    """
    images, labels = batch(2)
    twin = copy.deepcopy(ours).to("cpu", precision)
    (logits, grads), (others, other_grads) = (
        results(model, images.to("cpu", precision), labels.cpu()) for model in (twin, kind(twin))
    )
    torch.testing.assert_close(others, logits, atol=1e-5, rtol=0)
    assert (other_grads - grads).norm() <= 1e-5 * grads.norm()
    (logits, _), (others, _) = (results(model, images, labels) for model in (ours, kind(ours)))
    assert (others - logits).norm() <= 0.1 * logits.norm()


@cases
@levels
def test_a_step_is_faster_than_a_loop_over_time_with_snntorch(case: str, levels: int) -> None:
    build, count = CASES[case]
    ours, data = network(build, levels), batch(count)
    assert_same_step(Tutorial, ours)
    live = copy.deepcopy(ours).train()
    contestants = {
        "ours": step(ours, *data),
        "loop": step(Tutorial(ours), *data),
        "statistics of the batch": step(live, *data),
    }
    if ON_CUDA:
        contestants["bfloat16"] = step(ours, *data, half=True)
    took = seconds(contestants, ROUNDS, clock=CLOCK, warm_up=True)
    print(f"\n{case}, {NAMES[levels]}, {count} images, {DEVICE}: a step of snntorch's loop takes "
          f"{took['loop'] / took['ours']:.2f} x ours")  # fmt: skip
    for name in list(took)[2:]:
        print(f"  {name}: {took[name] / took['ours']:.2f} x ours")
    if case == "small":
        tell(f"snntorch {NAMES[levels]}", took["loop"] / took["ours"], took, SAME)
    assert took["loop"] >= GOAL * took["ours"]


@asks_spikingjelly
@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("rule", [RECTANGLE, TRIANGLE], ids=str)
@cases
@levels
def test_a_step_is_at_least_as_fast_as_in_spikingjellys_multi_step_mode(
    case: str, levels: int, rule: Surrogate
) -> None:
    """It has no fused neuron for the rectangle; for the triangle it has one, on CUDA a kernel."""
    build, count = CASES[case]
    ours, data = network(build, levels, surrogate=rule), batch(count)
    assert_same_step(SpikingJelly, ours, torch.float64)  # v - v / tau is rounded otherwise than v / 4
    took = seconds(
        {"ours": step(ours, *data), "theirs": step(SpikingJelly(ours), *data)}, ROUNDS, clock=CLOCK, warm_up=True
    )
    fused, version = ON_CUDA and rule == TRIANGLE, importlib.metadata.version("spikingjelly")
    kernel = jelly("functional").neuron_implementation("lif", DEVICE)["implementation"] if fused else "torch"
    print(f"\n{case}, {NAMES[levels]}, {rule}, {count} images, {DEVICE}: a step of spikingjelly {version} ({kernel}) "
          f"takes {took['theirs'] / took['ours']:.2f} x ours")  # fmt: skip
    if case == "small" and rule == RECTANGLE:
        tell(f"spikingjelly {NAMES[levels]}", took["theirs"] / took["ours"], took, SAME)
    assert fused or took["theirs"] >= took["ours"]


def peak(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Bytes for each image that a step allocates on CUDA beyond what was there before; kernels are compiled before."""
    run = step(model, images, labels)
    run()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / len(images)


@levels
def test_memory_grows_with_time_at_most_in_proportion(levels: int, peers: None) -> None:
    kinds: dict[str, Callable[[SpikingResNet], nn.Module]] = {"ours": lambda model: model, "snntorch's loop": Tutorial}
    if FOUND:
        kinds["spikingjelly"] = SpikingJelly
    times, data = (1, 2, 4, 8), batch(64 if ON_CUDA else 4)
    kept: dict[str, list[float]] = {}
    print(f"\n3 blocks, width 16, {NAMES[levels]}, {DEVICE}: MB for each image over {', '.join(map(str, times))} steps")
    for name, kind in kinds.items():
        models = [kind(network(resnet(1, 16), levels, steps=steps)) for steps in times]
        kept[name] = [footprint(model, data[0]).kept_bytes for model in models]
        rows = [f"kept {', '.join(f'{size / 1e6:.2f}' for size in kept[name])}"]
        if ON_CUDA:
            rows.append(f"at most allocated {', '.join(f'{peak(model, *data) / 1e6:.2f}' for model in models)}")
        print(f"  {name}: {'; '.join(rows)}")
    for steps, own, loop in zip(times, kept["ours"], kept["snntorch's loop"], strict=True):
        assert own <= 1.05 * steps * kept["ours"][0]
        assert own <= loop


@levels
def test_time_in_the_batch_beside_a_call_for_each_step(levels: int) -> None:
    for case, (build, count) in CASES.items():
        ours, data = network(build, levels), batch(count)
        assert_same_step(StepByStep, ours)
        took = seconds(
            {"ours": step(ours, *data), "calls": step(StepByStep(ours), *data)}, ROUNDS, clock=CLOCK, warm_up=True
        )
        print(f"\n{case}, {NAMES[levels]}, {count} images, {DEVICE}: convolutions and norms called once for each time "
              f"step, a step takes {took['calls'] / took['ours']:.2f} x ours")  # fmt: skip


@levels
def test_the_neuron_alone(levels: int) -> None:
    neuron, count = Firing(STEPS, thresholds=LEVELS[:levels]), 512 if ON_CUDA else 16
    draws = torch.Generator().manual_seed(0)
    currents, incoming = (torch.randn(STEPS * count, 16, 32, 32, generator=draws).to(DEVICE) for _ in range(2))
    currents.requires_grad_()

    def both(fire: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        spikes = fire(currents)
        return spikes.detach(), torch.autograd.grad(spikes, currents, incoming)[0]

    def loop(currents: Tensor) -> Tensor:
        return unrolled(neuron, currents.unflatten(0, (STEPS, -1)))[0].flatten(0, 1)

    ours, theirs = partial(both, neuron), partial(both, loop)
    (spikes, gradient), (others, other_gradient) = ours(), theirs()
    assert torch.equal(spikes, others)
    torch.testing.assert_close(gradient, other_gradient)
    took = seconds({"ours": ours, "loop": theirs}, ROUNDS, clock=CLOCK, warm_up=True)
    millions = currents[0].numel() * count / 1e6
    print(f"\n{NAMES[levels]} alone, {millions:.2f} million neurons, {DEVICE}: snntorch's take "
          f"{took['loop'] / took['ours']:.1f} x ours, forward and backward")  # fmt: skip
    assert took["loop"] >= took["ours"]
