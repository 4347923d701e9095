"""Is the device of tests/pretend.py one? It computes what the CPU computes, and refuses what a GPU refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pretend
import pytest
import torch
import torch.nn.functional as F
from cases import each
from contract import seeded, tiny
from pretend import STATE, Refused, pretended
from torch import Tensor

from advdef.draws import seeded as seeded_globally


@pytest.fixture
def device() -> Iterator[torch.device]:
    try:
        pretend.install()
    except pretend.Missing as missing:
        pytest.skip(str(missing))
    with pretended() as found:
        yield found


REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a sum": lambda here, there: here + there,
    "a sum in place": lambda here, there: there.add_(here),
    "a stack": lambda here, there: torch.stack([here, there]),
    "a number of the CPU in a stack": lambda here, there: torch.cat([here[None, 0, 0], there[0, :1]]),
    "a convolution": lambda here, there: F.conv2d(there[None, None], here[None, None]),
    "an index on the device": lambda here, there: here[there.argmax(0)],
    "values of the CPU": lambda here, there: there.index_put_((torch.tensor([0]),), here[:1]),
    "where": lambda here, there: torch.where(here > 0, there, 0.0),
    "numpy": lambda here, there: there.numpy(),
    "an array": lambda here, there: np.asarray(there),
    "a generator of the CPU": lambda here, there: torch.rand(3, device=there.device, generator=seeded()),
    "one that fills": lambda here, there: there.uniform_(generator=seeded()),
}


@each("what", REFUSED)
def test_what_a_gpu_refuses_is_refused(what: str, device: torch.device) -> None:
    here = torch.rand(3, 3)
    with pytest.raises((Refused, RuntimeError, TypeError), match=r"pretend|device|numpy"):
        REFUSED[what](here, here.to(device))


def test_what_a_gpu_takes_is_taken(device: torch.device) -> None:
    here = torch.rand(3, 3)
    there = here.to(device)
    rows = torch.tensor([2, 0])
    pairs = [
        (there + torch.tensor(2.0), here + 2),
        (there[rows], here[rows]),
        (there[there > 0.5], here[here > 0.5]),
        (torch.arange(5, device=device)[::2], torch.arange(5)[::2]),
        (torch.tensor([1.5, 2], device=device), torch.tensor([1.5, 2])),
        (torch.eye(2, device=device), torch.eye(2)),
        (there.clone().t_().squeeze_(), here.t()),
        (there.sort().values.cumsum(0), here.sort().values.cumsum(0)),
    ]
    for found, expected in pairs:
        assert found.device == device
        assert found.is_cuda
        assert found.shape == expected.shape
        assert found.stride() == expected.stride()
        assert torch.equal(found.cpu(), expected)
    view, kept = there[1], there.clone()
    view.mul_(2)
    assert torch.equal(there.cpu()[1], 2 * kept.cpu()[1])  # it shares its memory
    assert float(there.sum()) == float(there.cpu().sum())


def test_gradients_and_steps_are_those_of_the_cpu(device: torch.device) -> None:
    ends = []
    for where in (torch.device("cpu"), device):
        model, images = tiny().to(where).train(), torch.rand(5, 2, 3, 3, generator=seeded()).to(where)
        model[4].eval()
        descent = torch.optim.Adam(model.parameters(), 0.1)
        for _ in range(3):
            loss = F.cross_entropy(model(images.requires_grad_()), torch.arange(5, device=where) % 4)
            descent.zero_grad()
            loss.backward()
            descent.step()
        model.to(memory_format=torch.channels_last)
        ends.append([*(value.detach().cpu() for value in model.state_dict().values()), images.grad.cpu()])  # type: ignore[union-attr]
    assert all(map(torch.equal, *ends))


def test_autocast_casts_layers_and_keeps_losses_exact(device: torch.device) -> None:
    images = torch.rand(2, 3, 8, 8, device=device)
    weights = torch.rand(4, 3, 3, 3, device=device, requires_grad=True)
    with torch.autocast(device.type, torch.bfloat16):
        maps = F.conv2d(images, weights)
        loss = F.cross_entropy(maps.flatten(1), torch.zeros(2, dtype=torch.int64, device=device))
        with torch.autocast(device.type, enabled=False), pytest.raises(RuntimeError, match="type"):
            F.conv2d(maps, weights[:, [0, 1, 2, 0]])
    assert (maps.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    loss.backward()
    assert weights.grad is not None
    assert weights.grad.dtype == torch.float32
    assert F.conv2d(images, weights).dtype == torch.float32


def test_it_draws_from_a_state_of_its_own(device: torch.device) -> None:
    torch.manual_seed(3)
    first = torch.rand(4, device=device).cpu()
    torch.rand(100)  # on the CPU, which does not matter there
    second = torch.rand(4, device=device).cpu()
    torch.manual_seed(3)
    assert torch.equal(torch.rand(8).split(4)[0], first)
    assert torch.equal(torch.rand(4, device=device).cpu(), first)
    with seeded_globally(9, device):
        F.dropout(torch.ones(8, device=device))
    assert torch.equal(torch.rand(4, device=device).cpu(), second)  # as if nothing had been drawn in between


def test_without_float64_it_refuses_that_and_waits_are_counted(device: torch.device) -> None:
    there = torch.rand(3, device=device)
    before = STATE.waits
    there.mul_(2).sum().cpu()
    assert STATE.waits == before + 1
    with pretended(float64=False):
        assert not there.is_cuda
        for wide in (lambda: there.double(), lambda: torch.zeros(2, dtype=torch.float64, device=device)):
            with pytest.raises(Refused, match="no float64"):
                wide()
        assert there.cpu().double().dtype == torch.float64
