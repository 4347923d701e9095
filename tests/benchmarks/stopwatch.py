"""How benchmarks take time: contestants run in turns and their medians are compared, so that another process on the
machine does not decide. With ADVDEF_BENCH_DEVICE=cuda all of it runs on a GPU."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch

from advdef.devices import keep_freed_memory, wait_for

keep_freed_memory()  # as pages do; all contestants share the process
DEVICE = torch.device(os.environ.get("ADVDEF_BENCH_DEVICE", "cpu"))


def seconds(
    contestants: dict[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: bool = False,
) -> dict[str, float]:
    """Median time of each by ``clock``, running in turns; with ``warm_up`` after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + warm_up):
        for name, run in contestants.items():
            start = clock()
            run()
            wait_for(DEVICE)
            times[name].append(clock() - start)
    return {name: statistics.median(values[warm_up:]) for name, values in times.items()}
