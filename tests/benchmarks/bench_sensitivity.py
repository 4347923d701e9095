"""What measuring neuron sensitivity costs beside the forward passes it needs.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks

Networks with random weights, as speed does not depend on them. Runs alternate and their medians are compared, so that
another process on the machine does not decide. With ADVDEF_BENCH_DEVICE=cuda all of it runs on a GPU.
"""

from __future__ import annotations

import pytest
import torch
from stopwatch import DEVICE, seconds
from torch import Tensor, nn

from advdef.models import ResNet, SmallResNet
from advdef.papers.sensitivity.measure import Pairs, measure
from advdef.taps import default_taps, tapped

BATCH = 250


def by_loops(model: nn.Module, pairs: Pairs) -> dict[str, list[float]]:
    """The plain reading of the paper's sensitivity: one neuron, one pair at a time."""
    with tapped(model, default_taps(model)) as seen, torch.no_grad():
        model(pairs.images)
        clean = {layer: maps.double().cpu() for layer, maps in seen.items()}
        model(pairs.adversarial)
        adversarial = {layer: maps.double().cpu() for layer, maps in seen.items()}
    found = {}
    for layer, a in clean.items():
        sigma = [0.0] * a.shape[1]
        for i in range(len(pairs)):
            for m in range(a.shape[1]):
                change = (adversarial[layer][i, m] - a[i, m]).flatten()
                sigma[m] += float(change.abs().sum()) / len(change) / len(pairs)
        found[layer] = sigma
    return found


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("width", "count", "rounds"), [(16, 1_000, 15), (64, 100, 7)])
def test_measuring_costs_at_most_half_of_its_forward_passes(
    width: int, count: int, rounds: int, channels_last: bool
) -> None:
    """All definitions at once, with the taps: SmallResNet, and a network as wide as ResNet-18 and half as deep."""
    torch.manual_seed(0)
    shape = (3, 32, 32)
    model: nn.Module = SmallResNet(shape, 10) if width == 16 else ResNet(shape, 10, blocks=(1, 1, 1, 1), width=width)
    if channels_last:  # as a trained model comes
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(DEVICE).eval()
    images = torch.rand(count, *shape, device=DEVICE)
    adversarial = (images + (16 / 255) * (torch.rand_like(images) - 0.5)).clamp(0, 1)
    pairs = Pairs(images, adversarial, torch.zeros(count, dtype=torch.int64, device=DEVICE))

    def passes() -> None:
        with torch.no_grad():
            for part, partners in zip(images.split(BATCH), adversarial.split(BATCH), strict=True):
                model(part)
                model(partners)

    def measured() -> dict[str, Tensor]:
        return measure(model, pairs, batch_size=BATCH).compute()

    few = pairs.of(slice(3))
    expected, found = by_loops(model, few), measure(model, few).compute()
    assert {layer: len(values) for layer, values in found.items()} == {layer: len(v) for layer, v in expected.items()}
    for layer, values in found.items():
        assert values.tolist() == pytest.approx(expected[layer], rel=1e-4, abs=1e-7)
    took = seconds({"two forward passes": passes, "measuring": measured}, rounds)
    ratio = took["measuring"] / took["two forward passes"]
    print(f"\nwidth {width}{', channels last' if channels_last else ''}: {count} pairs, {len(found)} layers, {DEVICE}: "
          f"two forward passes {took['two forward passes']:.3f} s, measuring {took['measuring']:.3f} s, "
          f"{ratio:.2f} times as long")  # fmt: skip
    assert ratio <= 1.5
