"""Runs a command under each setting that makes the same code round otherwise, as another processor would.

``python tests/variants.py [--variant NAME]... COMMAND``; ``nox -s processors`` gives it the tests. What such a setting
needs and the processor does not have is skipped by name. The command may be a pytest call or a script of Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "one thread": {},  # the reference
    "two threads": {"ADVDEF_TEST_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},  # spinning ones stall a busy machine
    "sse": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
    "channels first": {"ADVDEF_CHANNELS_LAST": "0"},
}
NEEDED = {"avx2": ("AVX512",), "avx512": ("AVX512",)}
"""What torch must call the capability of the processor; where AVX2 is its best, "avx2" would be the reference again."""
SETTINGS = tuple(dict.fromkeys(name for settings in VARIANTS.values() for name in settings))
THREADS = os.environ.get("ADVDEF_TEST_THREADS", "1")


def impossible(variant: str) -> str | None:
    """Why this processor cannot do the variant, or None."""
    import torch

    found = torch.backends.cpu.get_cpu_capability()
    return f"the processor is {found}" if found not in NEEDED.get(variant, (found,)) else None


def environment(variant: str) -> dict[str, str]:
    """The environment variables of a process of this variant."""
    own = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**own, **VARIANTS[variant]}


def kernel_settings(settings: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a notebook's kernel is told, so that it runs under a variant; without settings under that of the tests."""
    told = {name: settings[name] for name in SETTINGS if name in settings}
    threads = settings.get("ADVDEF_TEST_THREADS", "1")
    return {**told, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}


def main(arguments: list[str]) -> int:
    """Run the command under the chosen variants, and say how each ended."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only this one; may be repeated")
    options, command = parser.parse_known_args(arguments)
    ends = {}
    for variant in options.variant or VARIANTS:
        if why := impossible(variant):
            ends[variant] = f"skipped: {why}"
            continue
        print(f"== {variant}", flush=True)
        started = time.monotonic()
        code = subprocess.run([sys.executable, *command], env=environment(variant), check=False).returncode
        ends[variant] = f"{'passed' if code == 0 else f'FAILED ({code})'} in {time.monotonic() - started:.0f} s"
    for variant, end in ends.items():
        print(f"{variant:<16}{end}")
    return int(any("FAILED" in end for end in ends.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
