"""What differs between devices: their random numbers, when they are done, and how exactly they compute unless told."""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "accelerators", "asks_now", "autocasting", "exact", "forked", "full_precision", "has_float64", "keep_freed_memory",
    "processor", "reduced_precision", "seed_generators", "wait_for",
]  # fmt: skip

# since torch 2.9, beside the older settings, which do not reach all of these once one of them has been set
_SETTINGS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


@contextmanager
def forked(device: torch.device | None = None) -> Iterator[None]:
    """After the block, torch's own generators, on the CPU and on ``device``, are where they were before it."""
    module, where = (None, ()) if device is None else (_module(device), _named(device))
    state = None if module is None else module.get_rng_state(*where)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            if module is not None:
                module.set_rng_state(state, *where)


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed torch's own generators, on the CPU and on ``device``.

    ``torch.manual_seed`` also asks each accelerator that may come later, and notes the whole call stack for it: a
    millisecond, thousands of times.
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and (module := _module(device)) is not None:
        (getattr(module, "manual_seed_all", None) or module.manual_seed)(seed)


def wait_for(device: torch.device) -> None:
    """Wait until a device has computed all that it was asked for: before that, a clock tells nothing of it."""
    if (module := _module(device)) is not None:
        module.synchronize(*_named(device))


def keep_freed_memory() -> bool:
    """Have this process keep up to 1 GiB that it has freed for what it allocates next; says whether that can be had.

    By default the C library of Linux gives freed memory back, and the maps of each layer of each step come from new
    pages, which costs up to as much as computing them. No result depends on it. Other C libraries are left as they are.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; an older C library takes at most 32 MiB for the first
    return tell is not None and bool((tell(-3, 1 << 30) or tell(-3, 1 << 25)) and tell(-1, 1 << 30))


def processor() -> str:
    """The name of the processor, as far as the system tells it, and its vector instructions, which decide rounding."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text("utf-8").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def asks_now(step: int, device: torch.device) -> bool:
    """Whether an attack asks, at this step, which images have reached their goal, to drop them from the batch.

    On the CPU at each step. Elsewhere the answer has to be waited for, so at every tenth. Until then, images that have
    reached it must be left as they are: an attack is as strong on one device as on another.
    """
    return device.type == "cpu" or step % 10 == 9


def has_float64(device: torch.device) -> bool:
    """Whether a device has numbers of 64 bits; MPS has none."""
    try:
        return torch.zeros((), dtype=torch.float64, device=device).dtype == torch.float64
    except (RuntimeError, TypeError):
        return False


def exact(values: Tensor) -> Tensor:
    """Values as float64: where they are or, where the device has no such numbers, on the CPU."""
    return values.detach().to("cpu" if not has_float64(values.device) else values.device).double()


def accelerators() -> dict[str, int]:
    """How many devices there are besides the CPU, by their type: "cuda", "mps", or another that torch was built for."""
    found = {"cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}
    found["mps"] = int(torch.backends.mps.is_available())
    other = getattr(torch, "accelerator", None)  # since torch 2.6
    if other is not None and other.is_available():
        found.setdefault(other.current_accelerator().type, other.device_count())
    return {kind: count for kind, count in found.items() if count}


def autocasting() -> tuple[str, ...]:
    """The types of devices on which autocast is on, "cpu" say."""
    kinds = dict.fromkeys(("cpu", "cuda", *accelerators()))
    try:
        return tuple(kind for kind in kinds if torch.is_autocast_enabled(kind))
    except TypeError:  # before torch 2.4
        enabled = {"cpu": torch.is_autocast_cpu_enabled(), "cuda": torch.is_autocast_enabled()}
        return tuple(kind for kind, on in enabled.items() if on)


def reduced_precision() -> dict[str, str]:
    """Those of torch's settings that allow less than float32 in products of float32 numbers, by name."""
    return {name: value for name, value in _settings().items() if value not in ("none", "ieee", "highest", "False")}


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, numbers are computed in the type that they have: without autocast and without TF32.

    TF32, in which an NVIDIA GPU convolves unless told otherwise, has 10 bits where float32 has 23.
    """
    with ExitStack() as stack:
        for kind in autocasting():
            stack.enter_context(torch.autocast(kind, enabled=False))
        if reduced_precision():
            stack.callback(_restore, _settings(), _older())
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
            for name in reduced_precision():
                attrgetter(name)(torch.backends).fp32_precision = "ieee"
        yield


def _settings() -> dict[str, str]:
    """What torch was told about products of float32 numbers, by the name of the setting."""
    if hasattr(torch.backends, "fp32_precision"):
        return {name: str(attrgetter(name)(torch.backends).fp32_precision) for name in _SETTINGS}
    return {"matmul": torch.get_float32_matmul_precision(), "cudnn": str(torch.backends.cudnn.allow_tf32)}


def _older() -> tuple[str, bool] | None:
    """The settings that torch has had for longer; None where it refuses to tell them beside the newer ones."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _restore(before: dict[str, str], older: tuple[str, bool] | None) -> None:
    if older is not None:
        torch.set_float32_matmul_precision(older[0])
        torch.backends.cudnn.allow_tf32 = older[1]
    if hasattr(torch.backends, "fp32_precision"):
        for name, value in before.items():
            if _settings()[name] != value:
                attrgetter(name)(torch.backends).fp32_precision = value


def _module(device: torch.device) -> Any:
    """torch's module for devices of this type, as ``torch.cuda``; None for the CPU."""
    return None if device.type in ("cpu", "meta") else getattr(torch, device.type)


def _named(device: torch.device) -> tuple[torch.device, ...]:
    """How a function of that module is told the device: MPS has one only, and its functions take no argument."""
    return () if device.type == "mps" else (device,)
