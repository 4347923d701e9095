"""What a defence costs: passes are counted by image, and time is that of its median call."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.defenses import Defense, Undefended
from advdef.evaluation import Cost, cost, multiply_adds
from advdef.evaluation import costs as module
from advdef.papers.nip.bank import DirectionBank
from advdef.papers.nip.defence import NIPDictionary, NIPSearch, NIPSelf


def net() -> nn.Sequential:
    """Images (1, 3, 3), eight features after layer "2", five classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5)).eval()


def bank() -> DirectionBank:
    directions = torch.randn(5, 3, 1, 3, 3, generator=seeded())
    return DirectionBank("2", torch.ones(5, 8), directions[:, 0], directions, torch.zeros(5), torch.ones(5))


PASSES: dict[str, tuple[Callable[[], Defense], float, float]] = {
    "none": (lambda: Undefended(net()), 1, 0),
    "self": (lambda: NIPSelf(net(), step=0.1, front=2, tail=2, layer="2"), 2, 1),
    "pred": (lambda: NIPDictionary(net(), bank(), steps=[0.1], rule="pred"), 2, 0),
    "mean logit": (lambda: NIPDictionary(net(), bank(), steps=[0.1]), 5, 0),
    "majority": (lambda: NIPDictionary(net(), bank(), steps=[0.1], rule="majority"), 5, 0),
    "mean logit, 3 steps": (lambda: NIPDictionary(net(), bank(), steps=[0.1, 0.2, 0.3]), 5 * 3 + 5, 0),
    "search": (lambda: NIPSearch(net(), bank(), steps=[0.1, 0.2], kept=2), 5 * 2 * 2 * 2 + 1, 0),
    "recovery": (lambda: NIPSearch(net(), bank(), steps=[0.1], score="recovery"), 5 * 3 * 2 * 1 + 1, 0),
}


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_counted_for_an_image(name: str) -> None:
    for images in [1, 7]:
        build, forwards, backwards = PASSES[name]
        found = cost(build(), torch.rand(images, 1, 3, 3, generator=seeded()), rounds=1)
        assert (found.forwards, found.backwards) == (forwards, backwards)
        assert found.alone > 0
        assert found.batched > 0


class Timed(Undefended):
    """Takes a second for each call, two more for the first, and ten more for the fourth."""

    def __init__(self) -> None:
        super().__init__(net())
        self.now, self.calls = 0.0, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append(len(images))
        self.now += 1 + 2 * (len(self.calls) == 1) + 10 * (len(self.calls) == 4)
        return super().forward(images)


def test_time_is_the_median_of_calls_after_one_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    defence = Timed().train()
    monkeypatch.setattr(time, "perf_counter", lambda: defence.now)
    assert module.time is time
    found = cost(defence, torch.rand(4, 1, 3, 3), rounds=3)
    assert found == Cost(alone=1000.0, batched=250.0, forwards=1.0, backwards=0.0)
    assert defence.calls == [4] + [1] * 4 + [4] * 4  # counted once, then timed
    assert defence.training


@pytest.mark.parametrize(("rounds", "images"), [(0, 3), (3, 0)])
def test_nothing_to_time_is_refused(rounds: int, images: int) -> None:
    with pytest.raises(ValueError, match=f"need at least one round and one image, not {rounds} and {images}"):
        cost(Undefended(net()), torch.rand(images, 1, 3, 3), rounds=rounds)


def test_multiply_adds_are_those_of_the_layers_and_of_inner_backward_passes() -> None:
    conv, linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 5 * 5, 10)
    network = nn.Sequential(conv, nn.Flatten(), linear)
    forward = 5 * 5 * 4 * 9 + 100 * 10
    images = torch.rand(3, 1, 5, 5)
    assert multiply_adds(network, images) == forward

    class Guided(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            with torch.enable_grad():
                point = given.detach().requires_grad_()
                (slope,) = torch.autograd.grad(network(point).sum(), point)
            logits: Tensor = network(given + slope)
            return logits

    network.requires_grad_(False)
    assert multiply_adds(Guided(), images) == 3 * forward  # a gradient for the image alone costs as much as a pass
    with pytest.raises(ValueError, match="at least one image"):
        multiply_adds(network, images[:0])
