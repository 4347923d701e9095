"""What to do with a few minutes of a GPU: ``nox -s gpu -- --minutes 10``.

In this order: the tests of tests/test_devices.py, with more images, which say how far CPU and GPU agree on each
defence, image by image; the benchmarks; and as many pages as fit, those with the most undecided claims first. Whatever
was found by then goes into one archive. A page that did not get to its end goes on from there in the next session, when
the archive of the last one has been unpacked in the root of the checkout.

With ``--device pretend`` the session is rehearsed without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pretend

from advdef.book.records import read_records
from advdef.book.repository import Repository, check_profile
from advdef.data import find_device
from advdef.store import write_atomically

ROOT = Path(__file__).resolve().parents[1]
LAST = 20.0  # seconds for the archive


@dataclass(frozen=True)
class Step:
    """A command, and at most which share of the whole time it may take."""

    name: str
    command: Sequence[str]
    share: float = 1.0
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a step ended: "passed", "failed", "out of time", or "not begun"."""

    name: str
    how: str
    seconds: float = 0.0


def most_undecided(papers: Iterable[str], records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The papers, those first whose records leave the most claims undecided."""
    undecided = Counter(
        record["paper"] for record in records for verdict in record["verdicts"] if verdict["verdict"] == "undecided"
    )
    return sorted(papers, key=lambda paper: -undecided[paper])


def steps(device: str, profile: str, papers: Sequence[str], folder: Path, *, images: int) -> list[Step]:
    """All that a session does, in its order; on ``images`` of each defence the CPU and the device must agree."""
    python, real = sys.executable, device != pretend.NAME
    where = {"ADVDEF_CACHE": str(folder / "cache")} | ({} if real else pretend.environment("like CUDA"))
    tested = {"ADVDEF_TEST_IMAGES": str(images), "ADVDEF_TEST_RESULTS": str(folder / "agreement.json")}
    tested |= {"ADVDEF_TEST_DEVICE": device} if real else {}  # else the tests make one
    pytest = (python, "-m", "pytest", "-p", "no:xdist")
    bench = (*pytest, "-s", "--override-ini", "python_files=bench_*.py", "tests/benchmarks")
    speed = str(folder / "speed.json")
    page = (python, "-c", "from advdef.cli import main; main()", "reproduce", "--no-site", "--profile", profile)
    return [
        Step("tests", (*pytest, "tests/test_devices.py"), 0.3, tested),
        Step("benchmarks", bench, 0.25, where | {"ADVDEF_BENCH_DEVICE": device, "ADVDEF_BENCH_RESULTS": speed}),
        *(Step(f"page {paper}", (*page, "--device", device, paper), 1.0, where) for paper in papers),
    ]


def run(step: Step, folder: Path, *, limit: float) -> Ended:
    """Run a step for at most ``limit`` seconds; what it says goes to a file of its name."""
    if limit < 1:
        return Ended(step.name, "not begun")
    started = time.monotonic()
    with (folder / f"{step.name.replace(' ', '-')}.log").open("wb") as log:
        try:
            done = subprocess.run(
                step.command, cwd=ROOT, env={**os.environ, **step.environment}, stdout=log, stderr=subprocess.STDOUT,
                timeout=limit, check=False,
            )  # fmt: skip
            how = "failed" if done.returncode else "passed"
        except subprocess.TimeoutExpired:
            how = "out of time"
    return Ended(step.name, how, round(time.monotonic() - started, 1))


def session(todo: Iterable[Step], folder: Path, *, seconds: float, facts: Mapping[str, Any]) -> list[Ended]:
    """Run the steps in as many seconds; after each, ``session.json`` in the folder says how far it got."""
    until, ends = time.monotonic() + seconds, list[Ended]()
    for step in todo:
        ends.append(run(step, folder, limit=min(step.share * seconds, until - time.monotonic())))
        print(f"{ends[-1].how:<12}{ends[-1].seconds:7.1f} s  {step.name}", flush=True)
        told = {**facts, "seconds": seconds, "steps": [asdict(end) for end in ends]}
        write_atomically(folder / "session.json", (json.dumps(told, indent=1) + "\n").encode())
    return ends


def pack(archive: Path, places: Iterable[Path], root: Path = ROOT) -> None:
    """Everything in these places, by its path from the root, in one file."""
    with tarfile.open(archive, "w:gz") as packed:
        for place in places:
            if place.exists():
                packed.add(place, arcname=str(place.relative_to(root)))


def main(arguments: Sequence[str]) -> int:
    """Hold a session, and say where its archive is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it may take in all (default: 10)")
    parser.add_argument("--profile", help="of the pages (default: gpu; smoke on the pretended device)")
    parser.add_argument("--device", default="cuda", help='"cuda", "cuda:1", "mps", or "pretend" (default: cuda)')
    parser.add_argument("--images", type=int, default=100, help="on which each defence is compared (default: 100)")
    parser.add_argument("--archive", type=Path, default=ROOT / "build" / "gpu.tar.gz", help="(default: %(default)s)")
    parser.add_argument("paper", nargs="*", help="pages (default: all, those with the most undecided claims first)")
    chosen = parser.parse_args(arguments)
    repository, profile = Repository(ROOT), chosen.profile or ("smoke" if chosen.device == pretend.NAME else "gpu")
    check_profile(profile)
    if chosen.device != pretend.NAME:
        find_device(chosen.device)
    papers = list(repository.select(chosen.paper)) if chosen.paper else []
    papers = papers or most_undecided(sorted(repository.notebooks), read_records(repository.committed_results))
    folder = ROOT / "build" / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    facts = {"device": chosen.device, "profile": profile, "begun": begun}
    todo = steps(chosen.device, profile, papers, folder, images=chosen.images)
    try:
        ends = session(todo, folder, seconds=60 * chosen.minutes - LAST, facts=facts)
    finally:
        pack(chosen.archive, (folder, repository.build(profile) / "runs"))
        print(f"all of it is in {chosen.archive}; unpacked in {ROOT}, it lets the next session go on from there")
    return int(any(end.how == "failed" for end in ends))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
