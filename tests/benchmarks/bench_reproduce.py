"""How long all pages of the profile smoke take on this machine, with nothing stored and with all networks stored.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks/bench_reproduce.py

It takes all cores of the machine for some minutes, and means something only where nothing else runs. The site is not
rendered.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stopwatch import DEVICE, tell

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(DEVICE.type != "cpu", reason="it is about a machine without a GPU")
def test_all_pages_cold_and_warm(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "from advdef.cli import main; main()", "reproduce", "--no-site", "--device", "cpu")
    others = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    minutes = {}
    for state in ("cold", "warm"):
        started = time.perf_counter()
        environment = others | {"ADVDEF_CACHE": str(tmp_path)}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        minutes[state] = (time.perf_counter() - started) / 60
    print(f"\ncold takes {minutes['cold'] / minutes['warm']:.2f} x warm, on {os.cpu_count()} cores")
    for state, value in minutes.items():
        tell(f"reproduce {state}", value, {name: 60 * took for name, took in minutes.items()}, "both are complete")
