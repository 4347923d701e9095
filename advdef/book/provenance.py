"""Where a run came from: seed, versions, device, data, commit, and what it took from stored results."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import advdef
from advdef.data import DATASETS, Dataset
from advdef.devices import processor
from advdef.store import tally
from advdef.training.loop import precision

__all__ = ["provenance"]

_PACKAGES = ("advdef", "torch", "torchvision", "snntorch", "numba", "numpy", "scikit-learn", "pyautoattack")


def provenance(data: Dataset, *, seed: int) -> dict[str, Any]:
    """Seed, versions, device, data checksum, commit and date of a run, and what it took from stored results.

    "cached" counts those and gives the seconds that they had taken when they were made, which no wall time holds.
    """
    device = data.train.images.device
    entries, seconds = tally.total()
    return {
        "seed": seed,
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "training_precision": str(precision(device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "data_checksum": data.checksum,
        "data_as_published": _as_published(data),
        "train_images": len(data.train),
        "test_images": len(data.test),
        "commit": source_commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cached": {"entries": entries, "seconds": round(seconds, 1)},
    }


def _as_published(data: Dataset) -> bool | None:
    """Whether the images and labels are those that were published, in their order; None where that is not known."""
    known = DATASETS[data.name].checksum if data.name in DATASETS else ""
    return data.checksum == known if known else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_commit() -> str | None:
    """The commit of the repository that the package's own source is part of, with "+" for local changes.

    None outside of one; one that only surrounds the package, as that of a project around a virtual environment, does
    not count.
    """
    source = Path(advdef.__file__)
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in git's hooks
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=source.parent, env=environment, capture_output=True, text=True, encoding="utf-8", check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", source.name)
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
