"""Numbers that belong to an image: the same in any batch, distributed as they should be, and nobody else's."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from contract import seeded
from scipy import stats
from torch import Tensor

from advdef.draws import _mixed, fresh_seed, image_keys, normal, uniform
from advdef.draws import seeded as under_seed


def images(n: int = 40) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=seeded())


def test_the_mixing_function_is_that_of_the_paper() -> None:
    """The first outputs of SplitMix64 for the seed 1234567, as its authors' code prints them."""
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + (n + 1) * golden) % 2**64 for n in range(3)]
    found = _mixed(torch.tensor([state - 2**64 if state >= 2**63 else state for state in states]))
    assert [int(value) % 2**64 for value in found] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
    ]  # fmt: skip


def test_a_key_is_of_the_image_the_seed_and_the_counters() -> None:
    batch = images()
    keys = image_keys(batch, 5, 1)
    order = torch.randperm(len(batch), generator=seeded(1))
    assert torch.equal(image_keys(batch[order], 5, 1), keys[order])
    assert torch.equal(image_keys(batch.to(memory_format=torch.channels_last), 5, 1), keys)
    nearly = batch.clone()
    nearly[:, 0, 0, 0] = torch.nextafter(nearly[:, 0, 0, 0], torch.tensor(2.0))
    blank = torch.zeros(2, 1, 4, 4)
    blank[1, 0, 2, 3] = 1 / 255
    others = [image_keys(batch, 5), image_keys(batch, 6, 1), image_keys(batch, 1, 5), image_keys(batch, 5, 1, 0)]
    everything = torch.cat([keys, image_keys(nearly, 5, 1), image_keys(batch.double(), 5, 1), *others])
    everything = torch.cat([everything, image_keys(blank, 0), image_keys(blank, 1)])
    assert len(set(everything.tolist())) == len(everything)
    assert torch.equal(image_keys(-blank[:1], 0), image_keys(blank[:1], 0))  # minus zero is zero


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_distributed_as_they_should_be(dtype: torch.dtype) -> None:
    keys = image_keys(images(200), 3)
    even, bell = uniform(keys, (50, 10), dtype=dtype), normal(keys, (50, 10), dtype=dtype)
    assert even.dtype == bell.dtype == dtype
    assert even.shape == bell.shape == (200, 50, 10)
    assert 0 <= float(even.min()) < 1e-4
    assert 1 - 1e-4 < float(even.max()) < 1
    assert bool(bell.isfinite().all())
    assert stats.kstest(even.flatten().double().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(bell.flatten().double().numpy(), "norm").pvalue > 1e-3
    # neither images nor places, nor the next seed, have to do with each other
    rows = torch.cat([even.flatten(1), uniform(image_keys(images(200), 4), (500,), dtype=dtype)]) - 0.5
    among = torch.corrcoef(rows.double()) - torch.eye(400)
    assert float(among.abs().max()) < 6 / 500**0.5
    assert float((torch.corrcoef(rows.T.double()) - torch.eye(500)).abs().max()) < 6 / 400**0.5


def test_a_seed_is_drawn_from_the_generator() -> None:
    generator = seeded(2)
    first, second = fresh_seed(generator), fresh_seed(generator)
    assert fresh_seed(seeded(2)) == first != second
    assert 0 <= first < 2**62
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, such as .*, not 3"):
        fresh_seed(3)  # type: ignore[arg-type]


def test_under_a_seed_all_generators_are_fixed_and_come_back() -> None:
    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    with under_seed(1):
        expected = drawn()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr,index]
    with under_seed(1):
        assert drawn() == expected
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[union-attr,index]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_seeding_gives_torchs_own_numbers_and_leaves_nothing_behind() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    waiting = len(torch.cuda._queued_calls)
    with under_seed(5):
        assert torch.equal(torch.rand(3), expected)
    assert len(torch.cuda._queued_calls) == waiting  # each would hold the call stack until CUDA is used
