"""Runs a function on images in batches, in smaller ones where memory is short."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from advdef.contract import MemoryWarning, out_of_memory

__all__ = ["Batches"]


class Batches:
    """Batches of at most ``batch_size`` images, halved whenever memory runs out; the first time gives a MemoryWarning.

    Results are the same where the function's result for an image does not depend on the other images of its batch.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.told = batch_size, False

    def __call__(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """``function`` of the rows (N,), joined. Raises what it raises; for want of memory only at a single row."""
        done: list[Tensor] = []
        size = self.batch_size
        while len(rows):
            try:
                done.append(function(rows[:size]))
            except (MemoryError, RuntimeError) as failure:
                if min(size, len(rows)) < 2 or not out_of_memory(failure):
                    raise
            else:
                rows = rows[size:]
                continue
            # here the failure is gone, and with it what it held
            tried = min(size, len(rows))
            size = (tried + 1) // 2
            if rows.is_cuda:
                torch.cuda.empty_cache()
            if not self.told:
                self.told = True
                warnings.warn(
                    f"memory is too short for {tried} images at a time: they are tried in halves, which changes no "
                    f"result; batch_size={size} avoids what failed",
                    MemoryWarning,
                    stacklevel=4,
                )
        return torch.cat(done)
