"""What a run found, with its provenance: JSON files for the site, recorded values for prose and regression tests."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from advdef.artifacts import write_atomically
from advdef.data import Dataset
from advdef.evaluation import Outcome, Threat
from advdef.statistics import wilson

__all__ = ["Kind", "Run", "record", "results_folder"]

Kind = Literal["accuracy", "count", "number", "text", "info"]
"""How a regression test compares a value: by interval, exactly, by a tolerance, exactly, not at all."""

_PACKAGES = ("advdef", "torch", "torchvision", "numpy", "scikit-learn", "pyautoattack")


def record(name: str, value: Any, *, kind: Kind = "info", n: int | None = None, tolerance: float | None = None) -> None:
    """Emit a value so that prose can paste it, a test can compare it, and it stays in the notebook file.

    The output has the form that myst-nb's ``glue`` writes, so ``{glue:text}`name` `` works; it needs IPython alone and
    does nothing visible. ``n`` is the sample size of an "accuracy" (a share in [0, 1]), ``tolerance`` the absolute
    tolerance of a "number". Raises ValueError when they are missing. Objects with a rich display (a data frame, say)
    are recorded with it, for pasting.
    """
    if (kind == "accuracy" and not n) or (kind == "number" and tolerance is None):
        raise ValueError(f"{name}: an accuracy needs n, a number needs tolerance")
    from IPython.core.formatters import format_display_data
    from IPython.display import display

    data, _ = format_display_data(value)
    metadata: dict[str, Any] = {"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}}
    if isinstance(value, str | int | float | bool):
        metadata["advdef"] = {"value": value, "kind": kind, "n": n, "tolerance": tolerance}
    display({f"application/papermill.record/{mime}": content for mime, content in data.items()}, raw=True, metadata=metadata)


def results_folder() -> Path:
    """Where record files go: ``$ADVDEF_RESULTS``, else ``advdef-results`` in the working folder."""
    return Path(os.environ.get("ADVDEF_RESULTS") or "advdef-results")


@dataclass
class Run:
    """Collects what one notebook finds on one data set and writes it as ``<results>/<paper>/<dataset>-<profile>.json``."""

    paper: str
    profile: str
    data: Dataset
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def add(self, outcome: Outcome, *, defence: str, threat: Threat, model: str, seed: int | None = None) -> None:
        """One row for the worst case under ``threat`` and one per attack tried there."""
        shared = {
            "dataset": self.data.name,
            "model": model,
            "defence": defence,
            "threat": threat,
            "eps": round(outcome.eps, 6),
            "seed": self.seed if seed is None else seed,
        }
        self.rows.append(shared | {"attack": "worst case"} | _proportion(int(outcome.robust.sum()), len(outcome.robust)))
        unique = outcome.unique_breaks()
        for finding in outcome.findings:
            tried = int(finding.tried.sum())
            row = shared | {"attack": finding.name, "tried": tried, "broken": int(finding.broken.sum())}
            if torch.equal(finding.tried, outcome.clean):  # else its accuracy alone is not known
                row |= _proportion(tried - row["broken"], len(outcome.clean))
            row |= {"unique_breaks": unique[finding.name], "seconds": round(finding.seconds, 3)}
            self.rows.append(row | {"forwards": finding.forwards, "backwards": finding.backwards})

    def add_clean(self, hits: torch.Tensor, *, defence: str, model: str, seed: int | None = None, **extra: Any) -> None:
        """One row for accuracy without an attack."""
        row = {"dataset": self.data.name, "model": model, "defence": defence, "threat": "clean", "attack": "none", "eps": 0.0}
        row |= {"seed": self.seed if seed is None else seed} | extra
        self.rows.append(row | _proportion(int(hits.sum()), len(hits)))

    def save(self) -> Path:
        """Write the record atomically and return its path."""
        path = results_folder() / self.paper / f"{self.data.name}-{self.profile}.json"
        content = {
            "schema": 1,
            "paper": self.paper,
            "dataset": self.data.name,
            "profile": self.profile,
            "provenance": provenance(self.data, seed=self.seed) | {"wall_seconds": round(time.perf_counter() - self.started, 1)},
            "values": self.values,
            "verdicts": self.verdicts,
            "rows": self.rows,
        }
        write_atomically(path, (json.dumps(content, indent=1, sort_keys=False) + "\n").encode())
        return path


def provenance(data: Dataset, *, seed: int) -> dict[str, Any]:
    """Seed, versions, device, data checksum, commit and date of a run."""
    device = data.train.images.device
    return {
        "seed": seed,
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "data_checksum": data.checksum,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _proportion(hits: int, n: int) -> dict[str, Any]:
    interval = wilson(hits, n)
    shares = {"accuracy": interval.value, "low": interval.low, "high": interval.high}
    return {"n": n, "correct": hits} | {name: round(share, 4) for name, share in shares.items()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that the package runs from, with "+" for local changes; None outside one."""
    folder = Path(__file__).parent

    def git(*arguments: Sequence[str] | str) -> str:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
