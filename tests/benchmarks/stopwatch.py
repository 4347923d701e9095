"""How benchmarks take time: contestants run in turns and their medians are compared, so that another process on the
machine does not decide. With ADVDEF_BENCH_DEVICE=cuda all of it runs on a GPU.

On a CPU the clock is that of the time which the process itself was given, with one thread: a shared machine's second
core comes and goes. What is told ends in the file that ADVDEF_BENCH_RESULTS names, build/speed.json by default.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from advdef.book.speed import GOALS, keep_speed
from advdef.devices import keep_freed_memory, wait_for

DEVICE = torch.device(os.environ.get("ADVDEF_BENCH_DEVICE", "cpu"))
CLOCK = time.process_time if DEVICE.type == "cpu" else time.perf_counter
RESULTS = Path(os.environ.get("ADVDEF_BENCH_RESULTS", Path(__file__).parents[2] / "build" / "speed.json"))

keep_freed_memory()  # as pages do; all contestants share the process
torch.set_num_threads(1)


def seconds(
    contestants: dict[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = CLOCK,
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


def tell(name: str, value: float, took: Mapping[str, float], told: str) -> None:
    """Print a number of :data:`advdef.book.speed.GOALS` beside its goal, and keep it."""
    goal = GOALS[name]
    print(f"  {goal.what}: {value:.2f} {goal.unit}, wanted {goal.shown()}: {'' if goal.met(value) else 'not '}met")
    keep_speed(RESULTS, name, value, seconds=took, told=told, device=DEVICE)
