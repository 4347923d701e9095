"""What a run found, with its provenance: JSON files for the site, recorded values for prose and regression tests."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

import advdef
from advdef.data import Dataset
from advdef.evaluation import Outcome, Threat
from advdef.statistics import Interval, wilson
from advdef.store import tally, write_atomically
from advdef.store.files import naming

__all__ = ["Kind", "Run", "provenance", "record", "results_folder"]

Kind = Literal["hits", "count", "number", "text", "info"]
"""How a regression test compares a value, by how many images flip, exactly, by a tolerance, exactly, not at all."""

_PACKAGES = ("advdef", "torch", "torchvision", "snntorch", "numba", "numpy", "scikit-learn", "pyautoattack")
_PLAIN: dict[str, tuple[type, ...]] = {
    "count": (int,),
    "number": (float, int),
    "text": (str,),
    "info": (bool, int, float, str),
}


def record(name: str, value: Any, *, kind: Kind = "info", n: int | None = None) -> None:
    """Emit a value so that prose can paste it, a test can compare it, and it stays in the notebook file.

    The output has the form that myst-nb's ``glue`` writes, so ``{glue:text}`name` `` works; it needs IPython alone,
    does nothing visible, and nothing at all outside a notebook. "hits" are a boolean tensor (N,), N > 0, of what is
    right of N images: all are kept, and prose pastes their share, a float. The other kinds take plain values, of
    Python's own types alone: a "count" is an int, a "number" a float or an int, a "text" a str. "info" also takes
    objects with a rich display (a data frame, say), which are recorded with it. ``n`` says of how many images a
    "number" is a mean, so that a test allows it to move by what an image or two do. Raises TypeError for another type,
    which names the conversion, and ValueError for an unknown kind, no image, and a number that is not finite.
    """
    if kind != "hits" and kind not in _PLAIN:
        raise ValueError(f"{name}: no kind {kind!r}; there are hits, {', '.join(_PLAIN)}")
    kept: dict[str, Any] = {}
    if kind == "hits":
        kept = _packed(name, value)
        value = kept["value"]
    elif kind != "info" or _is_scalar(value):
        if type(value) not in _PLAIN[kind]:
            conversion = "float" if kind == "info" else _PLAIN[kind][0].__name__
            raise TypeError(f"{name}: record {conversion}(value), a plain Python value, not {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: {value} is no number to record")
        kept = {"value": value} if n is None else {"value": value, "n": n}
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import display

    formatter = InteractiveShell.instance().display_formatter if InteractiveShell.initialized() else None
    if formatter is None:
        return
    data, _ = formatter.format(value)
    metadata: dict[str, Any] = {"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}}
    if kept:
        metadata["advdef"] = {"kind": kind, **kept}
    bundle = {f"application/papermill.record/{mime}": content for mime, content in data.items()}
    display(bundle, raw=True, metadata=metadata)


def _is_scalar(value: Any) -> bool:
    """Whether a value is meant as one number, flag or text, of whatever library."""
    return isinstance(value, bool | int | float | str) or getattr(value, "shape", None) == ()


def _packed(name: str, hits: Any) -> dict[str, Any]:
    """The share of hits, how many there are, and all as the bits of a hexadecimal number, the first the highest."""
    if not (isinstance(hits, torch.Tensor) and hits.dtype == torch.bool and hits.dim() == 1):
        raise TypeError(f"{name}: hits are a boolean tensor (N,), one per image, not {type(hits).__name__}")
    if len(hits) == 0:
        raise ValueError(f"{name}: no hits, as there is no image")
    bits = "".join(map(str, hits.int().tolist()))
    share = bits.count("1") / len(bits)
    return {"value": share, "n": len(bits), "hits": f"{int(bits, 2):0{math.ceil(len(bits) / 4)}x}"}


def results_folder() -> Path:
    """Where record files go: ``$ADVDEF_RESULTS``, else ``advdef-results`` in the working folder."""
    return Path(os.environ.get("ADVDEF_RESULTS") or "advdef-results")


@dataclass
class Run:
    """What one notebook finds on one data set, for ``<results>/<paper>/<dataset>-<profile>.json``.

    Raises ValueError where ``advdef reproduce`` executes the notebook of another paper (``$ADVDEF_PAPER``).
    """

    paper: str
    profile: str
    data: Dataset
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        """Before any work: a copied notebook may still have the paper of its original."""
        self._check_paper()

    def _check_paper(self) -> None:
        executed = os.environ.get("ADVDEF_PAPER") or self.paper
        if executed != self.paper:
            raise ValueError(
                f"this is the notebook of {executed!r}, so its record cannot be one of {self.paper!r}: "
                f"write Run({executed!r}, ...) in it, or rename its files to NN_{self.paper}"
            )

    def add(
        self, outcome: Outcome, *, defence: str, threat: Threat, model: str, seed: int | None = None, **extra: Any
    ) -> None:
        """One row for the worst case under ``threat`` and one per attack there; each gets the ``extra`` columns."""
        shared = {
            "dataset": self.data.name,
            "model": model,
            "defence": defence,
            "threat": threat,
            "norm": outcome.norm,
            "eps": round(outcome.eps, 6) if math.isfinite(outcome.eps) else None,  # JSON knows no infinity
            "seed": self.seed if seed is None else seed,
        } | extra
        worst = _shown(outcome.interval, len(outcome.robust))
        self.rows.append(shared | {"attack": "worst case"} | worst)
        unique = outcome.unique_breaks()
        for finding in outcome.findings:
            tried, broken = int(finding.tried.sum()), int(finding.broken.sum())
            row = shared | {"attack": finding.name, "tried": tried, "broken": broken}
            if torch.equal(finding.tried, outcome.clean):  # else its accuracy alone is not known
                row |= _proportion(tried - broken, len(outcome.clean))
            row |= {"settings": finding.settings, "unique_breaks": unique[finding.name]}
            row |= {"seconds": round(finding.seconds, 3)}
            row |= {} if finding.gradient is None else {"gradient": round(finding.gradient, 3)}
            self.rows.append(row | {"forwards": finding.forwards, "backwards": finding.backwards})

    def add_clean(self, hits: torch.Tensor, *, defence: str, model: str, seed: int | None = None, **extra: Any) -> None:
        """One row for accuracy without an attack."""
        self.add_hits(hits, defence=defence, model=model, threat="clean", attack="none", eps=0.0, seed=seed, **extra)

    def add_hits(
        self,
        hits: torch.Tensor,
        *,
        defence: str,
        model: str,
        threat: Threat,
        attack: str,
        eps: float | None,
        seed: int | None = None,
        **extra: Any,
    ) -> None:
        """One row for what is right of (N,) images; ``eps`` is None for attacks that look for the smallest change."""
        row = {"dataset": self.data.name, "model": model, "defence": defence, "threat": threat, "attack": attack}
        row |= {"eps": eps if eps is None else round(eps, 6), "seed": self.seed if seed is None else seed} | extra
        self.rows.append(row | _proportion(int(hits.sum()), len(hits)))

    def save(self) -> Path:
        """Write the record atomically and return its path; it bears the id of the run, ``$ADVDEF_RUN``, if it has one.

        Raises ValueError where another paper's notebook is executed.
        """
        self._check_paper()
        path = results_folder() / self.paper / f"{self.data.name}-{self.profile}.json"
        wall = {"wall_seconds": round(time.perf_counter() - self.started, 1), "peak_memory_mib": _peak_memory_mib()}
        content = {
            "schema": 1,
            "paper": self.paper,
            "dataset": self.data.name,
            "profile": self.profile,
            "run": os.environ.get("ADVDEF_RUN") or None,
            "provenance": provenance(self.data, seed=self.seed) | wall,
            "values": self.values,
            "verdicts": self.verdicts,
            "rows": self.rows,
        }
        with naming(path):
            write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return path


def provenance(data: Dataset, *, seed: int) -> dict[str, Any]:
    """Seed, versions, device, data checksum, commit and date of a run, and what it took from stored results.

    "cached" counts those and gives the seconds that they had taken when they were made, which no wall time holds.
    """
    device = data.train.images.device
    entries, seconds = tally.total()
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
        "cached": {"entries": entries, "seconds": round(seconds, 1)},
    }


def _proportion(hits: int, n: int) -> dict[str, Any]:
    return _shown(wilson(hits, n), n)


def _shown(interval: Interval, n: int) -> dict[str, Any]:
    """A share of n images; of a random defence the images that are right need be no whole number."""
    correct = round(interval.value * n, 3)
    shares = {"accuracy": interval.value, "low": interval.low, "high": interval.high}
    whole = {"n": n, "correct": int(correct) if correct.is_integer() else correct}
    return whole | {name: round(share, 4) for name, share in shares.items()}


def _peak_memory_mib() -> int | None:
    """Largest resident size of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
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
