"""Random numbers that belong to an image, not to its place in a batch.

Noise that is drawn for a batch in one block gives an image other numbers whenever the batch is cut elsewhere: with
another batch size, on another shard, after an interruption. Here every number is a function of a seed, of the image's
own pixels and of a counter. The function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014,
https://doi.org/10.1145/2660193.2660195) on integers modulo 2**64, so all devices and all batches give the same.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from advdef.devices import forked, seed_generators

__all__ = ["fresh_seed", "image_keys", "normal", "seeded", "uniform"]

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the odd number next to 2**64 over the golden ratio, as a signed integer
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def fresh_seed(generator: torch.Generator | None) -> int:
    """A seed below 2**62 drawn from ``generator``, by default torch's own; raises TypeError for anything else."""
    if generator is not None and not isinstance(generator, torch.Generator):
        made = "torch.Generator().manual_seed(0)"
        raise TypeError(f"generator must be a torch.Generator, such as {made}, not {generator!r}")
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device, dtype=torch.int64))


def image_keys(images: Tensor, seed: int, *counters: int) -> Tensor:
    """A key (N,), int64, for each image (N, ...), made of its pixels, the seed and the counters.

    A counter tells apart draws under one seed: the number of a restart, say.

    >>> images = torch.rand(5, 1, 2, 2)
    >>> torch.equal(image_keys(images, 0, 1)[3:], image_keys(images[3:], 0, 1))
    True
    """
    flat = images.detach().flatten(1) + 0.0  # minus zero becomes zero
    bits = flat.contiguous().view(torch.int64 if flat.dtype == torch.float64 else torch.int32).long()
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device)
    keys = (bits * (_mixed(places * _GOLDEN) | 1)).sum(1)
    for counter in (seed, *counters):
        keys = _mixed(keys + torch.tensor(counter + 1, device=keys.device) * _GOLDEN)
    return keys


def uniform(keys: Tensor, shape: torch.Size | tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in [0, 1) of shape ``(N, *shape)``, one row for each key (N,), on the device of the keys.

    >>> keys = image_keys(torch.rand(2, 1, 2, 2), 0)
    >>> torch.equal(uniform(keys, (3,))[1:], uniform(keys[1:], (3,)))
    True
    """
    count = torch.Size(shape).numel()
    places = torch.arange(1, count + 1, device=keys.device)
    bits = _mixed(keys[:, None] + places * _GOLDEN)
    digits = 53 if dtype == torch.float64 else 24
    numbers = _shifted(bits, 64 - digits).to(dtype) * 2.0**-digits
    return numbers.view(len(keys), *shape)


def normal(keys: Tensor, shape: torch.Size | tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers of shape ``(N, *shape)``, one row for each key (N,), by Box and Muller's transform."""
    radius, angle = uniform(keys, (2, *shape), dtype=dtype).unbind(1)
    return torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * torch.pi * angle)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the generators of Python, numpy and torch for the block; afterwards they are where they were before."""
    python, state = random.getstate(), np.random.get_state()
    with forked(device):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        seed_generators(seed, device)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(state)


def _shifted(values: Tensor, places: int) -> Tensor:
    """Shift to the right, filling up with zeros: torch's own shift of a signed integer repeats the sign."""
    return (values >> places).bitwise_and_((1 << (64 - places)) - 1)


def _mixed(values: Tensor) -> Tensor:
    """SplitMix64's finaliser: every bit of the input changes about half of those of the output."""
    for places, factor in ((30, _FIRST), (27, _SECOND)):
        values = _shifted(values, places).bitwise_xor_(values).mul_(factor)
    return _shifted(values, 31).bitwise_xor_(values)
