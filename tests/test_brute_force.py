"""Small networks behind a quantiser, with every image that it can show them: what is found, and what is proven."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.attacks.losses import margin
from advdef.papers.qusecnets.attacks import level_space
from advdef.papers.qusecnets.certificate import certified
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer

IMAGES, MOST = 100, 4096  # images of each network; combinations of levels, beyond which an image is left out
CASES = [
    ("linear", (2, 2, 3), 4, 0.2), ("linear", (1, 2, 3), 6, 0.2),
    ("mlp", (1, 2, 2), 3, 0.2), ("mlp", (2, 2, 2), 4, 0.1), ("mlp", (2, 2, 3), 6, 0.1), ("mlp", (2, 2, 3), 3, 0.2),
    ("mlp", (3, 2, 2), 2, 0.2), ("mlp", (3, 2, 3), 2, 0.1),
    ("conv", (1, 2, 2), 2, 0.1), ("conv", (1, 2, 2), 3, 0.1), ("conv", (2, 2, 2), 3, 0.2), ("conv", (2, 2, 2), 6, 0.2),
    ("conv", (1, 2, 3), 5, 0.2), ("conv", (3, 2, 2), 4, 0.1), ("conv", (3, 2, 3), 2, 0.1),
]  # fmt: skip
"""Network, shape, levels and eps; among them those where a search without pairs of pixels misses images."""


def network(kind: str, shape: tuple[int, int, int], seed: int = 0) -> nn.Sequential:
    channels, height, width = shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = {
            "linear": [nn.Flatten(), nn.Linear(prod(shape), 4)],
            "mlp": [nn.Flatten(), nn.Linear(prod(shape), 16), nn.ReLU(), nn.Linear(16, 4)],
            "conv": [
                nn.Conv2d(channels, 6, 2, padding=1), nn.ReLU(), nn.Flatten(),
                nn.Linear(6 * (height + 1) * (width + 1), 4),
            ],
        }[kind]  # fmt: skip
        model = nn.Sequential(*made).requires_grad_(False).eval()
        for parameter in model.parameters():
            parameter *= 3
        model[-1].bias -= model(torch.rand(500, *shape)).mean(0)
    return model


def worst_margins(model: nn.Module, low: Tensor, high: Tensor, labels: Tensor, steps: int) -> Tensor:
    """The largest margin (N,) over all combinations of levels between low and high; NaN where there are too many."""
    found = torch.full((len(low),), torch.nan)
    for row, (bottom, top) in enumerate(zip((low * steps).round(), (high * steps).round(), strict=True)):
        ranges = [torch.arange(int(a), int(b) + 1) for a, b in zip(bottom.flatten(), top.flatten(), strict=True)]
        if prod(map(len, ranges)) <= MOST:
            every = torch.cartesian_prod(*ranges).view(-1, *low.shape[1:]) / steps
            found[row] = margin(model(every), labels[row].expand(len(every))).max()
    return found


@pytest.mark.parametrize(("kind", "shape", "levels", "eps"), CASES)
def test_the_search_finds_all_that_there_is(kind: str, shape: tuple[int, int, int], levels: int, eps: float) -> None:
    model, quantizer = network(kind, shape), Quantizer(levels)
    images = torch.rand(IMAGES, *shape, generator=seeded(1))
    labels = model(quantizer(images)).argmax(1)
    low, high = quantizer.interval(images, eps)
    worst = worst_margins(model, low, high, labels, levels - 1)
    known, defence = ~worst.isnan(), Quantized(model, quantizer)
    assert int(known.sum()) >= 20
    batch = images[known], labels[known]
    found = level_space(defence, *batch, eps=eps, network=model, quantizer=quantizer, generator=seeded())
    broken = margin(defence(found), labels[known]) > 0
    breakable = worst[known] > 1e-5  # beyond rounding, which differs with the size of a batch
    assert bool(breakable.any())
    assert not bool((broken & (worst[known] < -1e-5)).any())
    assert not bool((certified(model, low, high, labels)[known] & (worst[known] >= 0)).any())
    assert int((breakable & ~broken).sum()) == 0


def test_the_cases_are_of_all_kinds() -> None:
    assert {kind for kind, *_ in CASES} == {"linear", "mlp", "conv"}
    assert {shape[1:] for _, shape, *_ in CASES} == {(2, 2), (2, 3)}
    assert set(product((1, 2, 3))) == {(shape[0],) for _, shape, *_ in CASES}
    assert {levels for _, _, levels, _ in CASES} == {2, 3, 4, 5, 6}
