"""Is nothing lost? Kills work under way, and looks at what is left: ``python tests/faults.py --kills 200``.

What is killed (SIGKILL) is a training with attacks that go on where they were, and the commands ``reproduce``,
``record`` and ``book`` in a small checkout. Half of the kills come at random moments. The others are aimed: at a moment
just before or after a file or folder takes, changes or loses its name or is brought to the disk, or a process starts.
One to three kills in a row, then the same work is done to its end. After each kill no file under a final name may be
damaged, and no process may be at work after five seconds; at the end the result must be that of undisturbed work, and
nothing may be left over. Prints a table, and ends with 1 where anything was wrong. ``--short`` has a stand-in for
jupyter-book.

Each work is a fork of this process, which has imported everything, and which adopts whoever loses its parent, as the
first process of a desktop session does. That is Linux alone.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import checkout
import nbformat
import torch
import torch._dynamo
from networks import small_network
from tqdm import tqdm

from advdef import cli
from advdef.attacks import fgsm, pgd
from advdef.book import kernel, links, publish, run, site
from advdef.book.notebookfile import read_executed, run_id
from advdef.book.records import read_record
from advdef.book.repository import Repository
from advdef.data import load
from advdef.defenses.broken import RandomInput
from advdef.evaluation import direct, evaluate
from advdef.store import Damaged, read, write_atomically
from advdef.training import train_standard, trained
from advdef.training.weights import digest

PATIENCE = 5.0  # seconds until nothing may be at work any more
WATCHED = ("fsync", "link", "mkdir", "rename", "replace", "rmdir", "unlink")
NOTEBOOK = checkout.GOOD.replace("\nseed + 1\n", "\nimport time\n\ntime.sleep(0.2)\n\n# %%\nseed + 1\n")
STAND_IN = """
import pathlib, sys, time
pages = pathlib.Path(sys.argv[sys.argv.index("--path-output") + 1], "_build/html")
pages.mkdir(parents=True)
for name in ("a", "b", "index"):
    time.sleep(0.05)
    (pages / f"{name}.html").write_text("<p>whole</p>")
"""
DATA = load("digits").subset(train=200, test=20)
WARM = (kernel, links, publish, run, torch._dynamo)  # what is imported late


@dataclass
class Place:
    """What is killed: how it is prepared in a folder and done, what is wrong there, and what it has found."""

    name: str
    share: int  # of a hundred kills
    prepare: Callable[[Path], None]
    work: Callable[[Path], None]
    wrong: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    left: Callable[[Path], list[str]]
    kills: dict[str, int] = field(default_factory=lambda: {"random": 0, "aimed": 0})
    runs: int = 0
    longest: float = 0.0  # seconds that a process lived on
    faults: list[str] = field(default_factory=list)


def attack(root: Path) -> None:
    """Train two networks, and attack each behind a random defence, attack by attack."""
    images, labels = DATA.test.float_images(), DATA.test.labels
    suite = {"FGSM": partial(fgsm), "PGD 3": partial(pgd, steps=3), "PGD 9": partial(pgd, steps=9)}
    found = {}
    for seed in range(2):
        network = trained(small_network, train_standard, DATA, seed=seed, epochs=2).model
        defence = RandomInput(network, amount=0.2)
        draws = torch.Generator().manual_seed(seed)
        outcome = evaluate(
            defence, direct(defence, suite), images, labels, eps=0.1, generator=draws, draws=3, resume=root / "resume"
        )
        broken = [finding.broken.tolist() for finding in outcome.findings]
        found[seed] = [digest(network), outcome.robust.tolist(), broken]
    write_atomically(root / "record.json", json.dumps(found).encode())


def attack_wrong(root: Path) -> list[str]:
    found = [str(path) for path in root.rglob("*.damaged")]
    for path in root.rglob("*.safetensors"):
        try:
            if not path.name.startswith("."):
                read(path)
        except Damaged as failure:
            found.append(f"{path}: {failure}")
    record = root / "record.json"
    if record.is_file():
        json.loads(record.read_text())
    return found


def command(*words: str) -> Callable[[Path], None]:
    """One of the commands, given in the checkout."""

    def given(root: Path) -> None:
        os.chdir(root)
        try:
            cli.app(list(words))
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"advdef {' '.join(words)} ended with {end.code}") from end

    return given


def checkout_in(root: Path) -> None:
    checkout.make(root, {"01_good": NOTEBOOK})


def finished_in(root: Path) -> None:
    """A checkout with a run that is finished, and an earlier page and record on the site."""
    checkout_in(root)
    prepared("reproduce", root)
    command("record", "good", "--profile", "laptop")(root)
    prepared("reproduce", root)


def rendered_in(root: Path) -> None:
    """A checkout with an earlier site."""
    checkout_in(root)
    command("book")(root)


def prepared(name: str, root: Path) -> None:
    (place,) = (place for place in PLACES if place.name == name)
    place.work(root)


def pair_wrong(page: Path, record: Path, *, of_one_run: bool) -> list[str]:
    """What is wrong with a page and its record."""
    if not page.is_file():
        return [f"{record} without its page"] if record.is_file() else []
    nbformat.validate(notebook := read_executed(page))
    found = [] if record.is_file() else [f"{page} without its record"]
    if not found and read_record(record)["run"] != run_id(notebook) and of_one_run:
        found.append(f"{page} and its record are of two runs")
    return found


def run_of(root: Path) -> Any:
    return Repository(root).run("laptop", "good")


def reproduced_wrong(root: Path) -> list[str]:
    place = run_of(root)
    record = place.results / "good/digits-laptop-seed0.json"
    return pair_wrong(place.finished / "01_good.ipynb", record, of_one_run=True)


def recorded_wrong(root: Path) -> list[str]:
    record = root / "book/results/good/digits-laptop-seed0.json"
    return pair_wrong(root / "notebooks/01_good.ipynb", record, of_one_run=False)


def site_wrong(root: Path) -> list[str]:
    folder = root / "build/committed"
    whole = [(place / "index.html").is_file() for place in (folder / "site", folder / ".site.old")]
    return [] if any(whole) else ["there is no whole site"]


def without_run(file: Path) -> Any:
    record = json.loads(file.read_text())
    return {name: value for name, value in record.items() if name != "run"}


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def temporaries(root: Path) -> list[str]:
    """Whatever must not outlive the next run: files and folders under a passing name, locks, and all in ``tmp``."""
    passing = re.compile(r"\..+(\.[0-9a-f]{32}|\.old)|.*lock")
    return [name for name in names(root) if passing.fullmatch(Path(name).name)] + names(root / "tmp")


def more_than(folder: Callable[[Path], Path], wanted: set[str]) -> Callable[[Path], list[str]]:
    """Temporary files, and whatever else than the wanted names is in a folder."""
    return lambda root: temporaries(root) + sorted({path.name for path in folder(root).iterdir()} - wanted)


PLACES = (
    Place(
        "training and attacks", 65, lambda root: None, attack, attack_wrong,
        lambda root: json.loads((root / "record.json").read_text()), temporaries,
    ),
    Place(
        "reproduce", 20, checkout_in, command("reproduce", "good", "--profile", "laptop", "--no-site"),
        reproduced_wrong, lambda root: without_run(run_of(root).results / "good/digits-laptop-seed0.json"),
        more_than(lambda root: run_of(root).folder, {"finished"}),
    ),
    Place(
        "record", 10, finished_in, command("record", "good", "--profile", "laptop"), recorded_wrong,
        lambda root: without_run(root / "book/results/good/digits-laptop-seed0.json"), temporaries,
    ),
    Place(
        "book", 5, rendered_in, command("book"), site_wrong,
        lambda root: [name for name in names(root / "build/committed/site") if name.endswith(".html")],
        more_than(lambda root: root / "build/committed", {"site", "site.log", "source", "external-links.txt"}),
    ),
)  # fmt: skip


def forked(place: Place, work: Callable[[Path], None], root: Path, moment: int | None = None) -> int:
    """Do something in a process of its own, which may be killed at a moment; its number."""
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    if pid := os.fork():
        return pid
    _worker(place, work, root, moment)


def _worker(place: Place, work: Callable[[Path], None], root: Path, moment: int | None) -> NoReturn:
    end = 1
    said = os.open(root.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    try:
        os.environ |= {"TMPDIR": str(root / "tmp"), "ADVDEF_CACHE": str(root / "cache"), "HOME": str(root)}
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(root / "cache")  # else torch makes a folder of its own
        tempfile.tempdir = str(root / "tmp")  # to look for it leaves a file where it is killed
        passed = watch(moment)
        work(root)
        root.with_suffix(".moments").write_text(str(next(passed)))
        end = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the other process must hear of it
        traceback.print_exc()
    finally:
        os._exit(end)


def watch(moment: int | None) -> itertools.count[int]:
    """Count the moments at which files and processes change, and be killed at one of them."""
    passed = itertools.count()

    def here() -> None:
        if next(passed) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            here()
            result = function(*args, **options)
            here()
            return result

        return call

    for name in WATCHED:
        setattr(os, name, watched(getattr(os, name)))
    subprocess.Popen.__init__ = watched(subprocess.Popen.__init__)  # type: ignore[method-assign]
    return passed


def done(place: Place, root: Path) -> float:
    """Do the work to its end; returns its seconds. What goes wrong is a fault."""
    started = time.monotonic()
    status = os.waitpid(forked(place, place.work, root), 0)[1]
    place.runs += 1
    if status:
        place.faults.append(f"the next run ended with {status}: {root.with_suffix('.said').read_text()[-2000:]}")
    return time.monotonic() - started


def killed(place: Place, root: Path, dice: random.Random, length: float, moments: int) -> None:
    """Do the work until it is killed, at a random moment or an aimed one, and look at what is there."""
    kind = min(place.kills, key=lambda kind: place.kills[kind])
    moment, wait = (None, dice.uniform(0, length)) if kind == "random" else (dice.randrange(moments), 60.0)
    pid = forked(place, place.work, root, moment)
    status = end_of(pid, within=wait)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(status):
        return  # it came to its end before
    place.kills[kind] += 1
    orphans(place)
    place.faults += place.wrong(root)


def end_of(pid: int, *, within: float) -> int | None:
    """How a process ended; None where it has not."""
    end = time.monotonic() + within
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def orphans(place: Place) -> None:
    """Wait for the end of whoever has lost its parent."""
    started = time.monotonic()
    while time.monotonic() < started + PATIENCE:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
        except ChildProcessError:
            place.longest = max(place.longest, time.monotonic() - started)
            return
    for pid in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
        words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        place.faults.append(f"at work after {PATIENCE:.0f} s: {words[:200]}")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def tried(place: Place, kills: int, dice: random.Random, folder: Path, bar: tqdm[Any]) -> None:
    """Kill the work so many times."""
    ready = folder / "ready"
    ready.mkdir()
    if os.waitpid(forked(place, place.prepare, ready), 0)[1]:
        raise RuntimeError(ready.with_suffix(".said").read_text())
    shutil.copytree(ready, undisturbed := folder / "undisturbed")
    length = done(place, undisturbed)
    wanted, moments = place.result(undisturbed), int(undisturbed.with_suffix(".moments").read_text())
    while sum(place.kills.values()) < kills and not place.faults:
        shutil.copytree(ready, root := folder / "root")
        for _ in range(dice.randint(1, 3)):
            if (before := sum(place.kills.values())) < kills:
                killed(place, root, dice, length, moments)
                bar.update(sum(place.kills.values()) - before)
        done(place, root)
        place.faults += place.wrong(root) + [f"left over: {name}" for name in place.left(root)]
        if not place.faults and place.result(root) != wanted:
            place.faults.append("the result is another one")
        shutil.rmtree(root)


def main(arguments: list[str]) -> int:
    """Kill, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--short", action="store_true", help="without jupyter-book")
    chosen = parser.parse_args(arguments)
    if not sys.platform.startswith("linux"):
        parser.error("this needs Linux: a process that adopts others")
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    torch.set_num_threads(1)
    if chosen.short:
        site._JUPYTER_BOOK = STAND_IN
    dice, started = random.Random(chosen.seed), time.monotonic()
    with tqdm(total=chosen.kills, unit="kill", disable=None) as bar:
        for place in PLACES:
            with tempfile.TemporaryDirectory(prefix="faults-") as folder:
                tried(place, round(place.share * chosen.kills / 100), dice, Path(folder), bar)
    print("| work | kills at random | kills aimed | faults | runs to the end | last process ended after |")
    print("|---|---|---|---|---|---|")
    for place in PLACES:
        counts = f"{place.kills['random']} | {place.kills['aimed']} | {len(place.faults)} | {place.runs}"
        print(f"| {place.name} | {counts} | {place.longest:.1f} s |")
    total = sum(sum(place.kills.values()) for place in PLACES)
    print(f"\n{total} kills in {time.monotonic() - started:.0f} s.")
    for place in PLACES:
        print(*(f"{place.name}: {fault}" for fault in place.faults), sep="\n", end="")
    return int(total < chosen.kills or any(place.faults for place in PLACES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
