"""What the grid costs and gains: workers against one, a task that does nothing, one with weights in it.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks/bench_grid.py

Page 01 in the smoke profile, on workers of a dask scheduler at the loopback address and on processes of this machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_grid import connected, dask

from advdef.book.cells import PageRun
from advdef.grid import processes, run
from advdef.grid.engine import planned
from advdef.papers import STUDIES

EMPTY, HEAVY = 300, 20


def nothing(content: bytes = b"") -> int:
    return len(content)


def test_workers_against_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, took = PageRun("qusecnets").cells("smoke"), {}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    for workers in (1, 2):
        folder = tmp_path / f"dask{workers}"
        folder.mkdir()
        monkeypatch.setenv("ADVDEF_CACHE", str(folder / "cache"))
        with dask(folder, *[{}] * workers) as (address, _), connected(address, workers) as found:
            started = time.perf_counter()
            assert not run(cells, found.executor).failed
            took[workers] = time.perf_counter() - started
            (walk,) = planned(cells)
            if workers == 2:
                pool = found.executor()
                started = time.perf_counter()
                assert not any(f.result() for f in [pool.submit(nothing) for _ in range(EMPTY)])
                empty = (time.perf_counter() - started) / EMPTY
                started = time.perf_counter()
                sent = [pool.submit(nothing, os.urandom(3_000_000)) for _ in range(HEAVY)]
                assert {f.result() for f in sent} == {3_000_000}
                heavy = (time.perf_counter() - started) / HEAVY
    again = time.perf_counter()
    assert all(item.state == "stored" for item in run(cells, lambda: processes(1)).items)
    again = time.perf_counter() - again
    total, longest, tasks = sum(i.seconds for i in walk.items.values()), walk.longest(), len(walk.items)
    print(f"\npage 01, smoke: {tasks} tasks, {total:.0f} s in all; the longest chain {longest:.1f} s")
    print(f"2 workers against 1: {took[1] / took[2]:.2f} times as fast; asked again: {again:.1f} s")
    print(f"a task that does nothing: {1e3 * empty:.1f} ms; with 3 MB in it: {1e3 * heavy:.0f} ms")
    for workers in (10, 100):
        ideal = max(longest, total / workers) + tasks * empty
        print(f"projected for {workers} workers: {ideal:.1f} s, {total / ideal:.0f} times as fast as one")
    (Path(os.environ.get("ADVDEF_BENCH", tmp_path)) / "grid.json").write_text(
        json.dumps({"ratio": took[1] / took[2], "empty": empty, "heavy": heavy, "total": total, "longest": longest})
    )


def test_the_longest_chain_of_each_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page alone takes the sum of its tasks; on many workers it takes its longest chain."""
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))
    for page in STUDIES:
        cells = PageRun(page).cells("smoke")
        assert not run(cells, lambda: processes(os.cpu_count() or 1)).failed
        walks = planned(cells)
        total, longest = sum(i.seconds for w in walks for i in w.items.values()), max(w.longest() for w in walks)
        print(
            f"{page}: {total:.0f} s in all, longest chain {longest:.1f} s: at most {total / longest:.1f} times as fast"
        )
