"""One epoch of MNIST-shaped data: `Split.batches` against torchvision's MNIST in a DataLoader.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks

60,000 images of 28x28, batches of 128, shuffled, random crop with padding 2. The DataLoader has no workers or two,
whichever is faster, and its start-up counts, as it recurs in every epoch.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from advdef.data import Split, load
from advdef.data.torchvision_wheel import torchvision

BATCH, SHIFT, SIZES = 128, 2, {"train": 60_000, "t10k": 10}


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part, size in SIZES.items():
        images = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", rng.integers(0, 10, size))


def seconds(epoch: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]], repeats: int) -> float:
    """The best of a few epochs, so that another process on the machine does not decide."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        seen = sum(len(labels) for _, labels in epoch())
        best = min(best, time.perf_counter() - start)
        assert seen == SIZES["train"]
    return best


def loader(root: Path, *, workers: int, augment: bool) -> DataLoader[Any]:
    transforms = torchvision().transforms
    steps = [transforms.RandomCrop(28, padding=SHIFT)] * augment + [transforms.ToTensor()]
    dataset = torchvision().datasets.MNIST(root, transform=transforms.Compose(steps))
    return DataLoader(dataset, batch_size=BATCH, shuffle=augment, num_workers=workers)


# Python 3.12 and later warn when a process with threads starts workers by forking.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_batches_are_twenty_times_faster_than_a_dataloader(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    split: Split = load("mnist", root=tmp_path, download=False).train

    # Equal results first: the same batches, bit for bit, where no random number is involved.
    plain = loader(tmp_path, workers=0, augment=False)
    for (images, labels), (their_images, their_labels) in zip(split.batches(BATCH), plain, strict=True):
        assert torch.equal(images, their_images)
        assert torch.equal(labels, their_labels)

    # On one thread, which is all a DataLoader's process uses on single images: threads that wait for each other on a
    # busy machine would measure that machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = seconds(lambda: split.batches(BATCH, shuffle=True, shift=SHIFT), repeats=5)
        without = seconds(lambda: loader(tmp_path, workers=0, augment=True), repeats=2)
        with_two = seconds(lambda: loader(tmp_path, workers=2, augment=True), repeats=2)
    finally:
        torch.set_num_threads(threads)
    ratio = min(without, with_two) / ours
    print(f"\none epoch: Split.batches {ours:.3f} s; DataLoader {without:.2f} s, with 2 workers {with_two:.2f} s")
    print(f"Split.batches is {ratio:.0f} times faster than the faster DataLoader")
    assert ratio >= 20
