"""Runs beside, after and instead of each other: page and records are always those of one run, of the notebook meant."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import checkout
import nbformat
import numpy as np
import pytest
from numba.core import caching

from advdef.book.execution import Execution
from advdef.book.notebookfile import read_executed, run_id
from advdef.book.publish import publish
from advdef.book.repository import InputError, Repository
from advdef.book.run import reproduce, reproduce_all
from advdef.papers.snn import cpu
from advdef.store.files import HeldError

# Writes its record, as GOOD does, and then waits where it is told to.
WAITS = checkout.GOOD.replace(
    "# %%\nseed + 1",
    """# %%
import time

pathlib.Path(os.environ["ADVDEF_RESULTS"], "at-work").write_text(str(os.getpid()))
while os.environ.get("WAIT") == str(seed):
    time.sleep(0.05)

# %%
seed + 1""",
)
RUNS = "from advdef.book.repository import find; from advdef.book.run import reproduce; reproduce(find(), 'good'"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return checkout.make(tmp_path, {"01_good": WAITS})


def seed_of(page: Path) -> str:
    """The seed that a page shows: it prints seed + 1."""
    return str(int(read_executed(page).cells[-1].outputs[0].data["text/plain"]) - 1)


class Waiting:
    """A run of "good" in another process that has written its record and is at work in the next cell."""

    def __init__(self, repository: Repository, seed: int) -> None:
        self.place = repository.run("smoke", "good", seed=seed)
        shutil.rmtree(self.place.attempt, ignore_errors=True)
        code = f"{RUNS}, parameters={{'seed': {seed}}})"
        environment = {**os.environ, "WAIT": str(seed)}
        self.process = subprocess.Popen([sys.executable, "-c", code], cwd=repository.root, env=environment)
        mark, end = self.place.attempt / "results/at-work", time.monotonic() + 60
        while not (mark.is_file() and mark.read_text()):
            assert time.monotonic() < end
            assert self.process.poll() is None
            time.sleep(0.05)
        self.kernel = int(mark.read_text())

    def kill(self) -> None:
        for pid in (self.process.pid, self.kernel):
            if self.process.poll() is None or pid == self.kernel:
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


posix = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")


@pytest.fixture
def waiting(repository: Repository) -> Iterator[Waiting]:
    run = Waiting(repository, 3)
    yield run
    if run.process.poll() is None:
        run.kill()


def ran(repository: Repository, seed: int) -> Execution:
    done = reproduce(repository, "good", parameters={"seed": seed})
    assert done.failure is None
    return done


@posix
def test_a_run_that_was_killed_leaves_page_and_record_of_the_earlier_one(repository: Repository) -> None:
    ran(repository, 2)
    Waiting(repository, 3).kill()
    page, copied = publish(repository, "good", profile="smoke")
    told = json.loads(copied.read_text())
    assert (seed_of(page), told["provenance"]["seed"]) == ("2", 2)
    assert run_id(read_executed(page)) == told["run"] != None  # noqa: E711 - the chain says that both are there


@posix
def test_a_second_attempt_that_was_killed_leaves_the_first_one_as_it_was(repository: Repository) -> None:
    place = repository.run("smoke", "good", seed=3)
    ran(repository, 3)
    before = {path: path.read_bytes() for path in place.finished.rglob("*") if path.is_file()}
    Waiting(repository, 3).kill()
    assert {path: path.read_bytes() for path in place.finished.rglob("*") if path.is_file()} == before
    assert len(before) == 4
    ran(repository, 3)  # the lock of the killed one is no obstacle
    assert not place.attempt.exists()


@posix
def test_a_second_run_of_the_same_cell_is_refused_and_another_seed_is_not(
    repository: Repository, waiting: Waiting
) -> None:
    place = waiting.place
    said = rf"good \(default-seed3, profile smoke\) is .* by process {waiting.process.pid} on {socket.gethostname()}"
    with pytest.raises(HeldError, match=said) as caught:
        reproduce(repository, "good", parameters={"seed": 3})
    assert "\n" not in str(caught.value)
    assert (place.attempt / "results/at-work").exists()
    assert ran(repository, 4).results == repository.run("smoke", "good", seed=4).results
    # among several notebooks it is the failure of this one
    checkout.put(repository.root, "02_bad", checkout.BAD)
    both = list(reproduce_all(repository, ["good", "bad"], parameters={"seed": 3}))
    assert [e.failure.cell for e in both if e.failure] == [None, 4]
    assert "by process" in both[0].failure.error  # type: ignore[union-attr]


def test_seeds_and_data_sets_keep_apart_and_record_takes_the_one_that_is_named(repository: Repository) -> None:
    ran(repository, 0)
    assert [run.name for run in repository.finished("smoke", "good")] == ["default-seed0"]
    assert seed_of(publish(repository, "good", profile="smoke")[0]) == "0"
    ran(repository, 1)
    assert reproduce(repository, "good", parameters={"dataset": "digits"}).failure is None
    with pytest.raises(InputError, match="several smoke runs: default-seed0, default-seed1, digits-seed0; choose one"):
        publish(repository, "good", profile="smoke")
    with pytest.raises(InputError, match="several smoke runs"):
        publish(repository, "good", profile="smoke", seed=0)
    with pytest.raises(InputError, match="no such smoke run; there are: default-seed0, default-seed1, digits-seed0"):
        publish(repository, "good", profile="smoke", seed=5)
    assert seed_of(publish(repository, "good", profile="smoke", seed=1)[0]) == "1"
    assert seed_of(publish(repository, "good", profile="smoke", dataset="default", seed=0)[0]) == "0"
    publish(repository, "good", profile="smoke", dataset="digits")


def test_page_and_record_of_different_runs_are_not_taken(repository: Repository) -> None:
    ran(repository, 1)
    ran(repository, 2)
    one, other = (
        repository.run("smoke", "good", seed=seed).results / f"good/digits-smoke-seed{seed}.json" for seed in (1, 2)
    )
    before = repository.notebooks["good"].read_bytes()
    content = json.loads(other.read_text())
    other.write_text(json.dumps(content | {"run": json.loads(one.read_text())["run"]}))
    with pytest.raises(InputError, match=r"digits-smoke-seed2\.json is of run 2.* and the page beside it of run 2"):
        publish(repository, "good", profile="smoke", seed=2)
    other.write_text(json.dumps(content | {"run": None}))
    with pytest.raises(InputError, match="is of run None"):
        publish(repository, "good", profile="smoke", seed=2)
    assert repository.notebooks["good"].read_bytes() == before
    assert not repository.committed_results.exists()


def test_a_page_that_was_not_executed_to_its_end_is_not_taken(repository: Repository) -> None:
    page = ran(repository, 1).notebook
    notebook = read_executed(page)
    notebook.cells[-1].execution_count = None
    nbformat.write(notebook, page)
    with pytest.raises(InputError, match="was not executed to its end: cell 5 was left out"):
        publish(repository, "good", profile="smoke")


# Notebooks of the same paper, and notebooks elsewhere


def test_two_notebooks_of_one_paper_are_refused(repository: Repository) -> None:
    checkout.put(repository.root, "22_good", checkout.GOOD)
    with pytest.raises(InputError, match="notebooks/01_good and notebooks/22_good both are 'good': give one another"):
        repository.select()


COPIED = f"""{checkout.PARAMETERS}
# %%
from advdef.data import load
from advdef.book.records import Run

run = Run("good", profile, load("digits"), seed)

# %%
run.save()
"""


def test_a_copied_notebook_cannot_write_the_record_of_its_original(repository: Repository) -> None:
    kept = repository.run("smoke", "good").results / "good/digits-smoke-seed0.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(before := b"of an earlier run")
    checkout.put(repository.root, "22_my_copy", COPIED)
    copied = reproduce(repository, "my_copy")
    assert copied.failure is not None
    assert copied.failure.cell == 2  # before any work
    assert "name 'my_copy' as its paper" in copied.failure.error
    assert kept.read_bytes() == before


def test_a_name_with_a_folder_means_that_very_file(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere/01_good.ipynb"
    elsewhere.parent.mkdir()
    shutil.copy(repository.notebooks["good"], elsewhere)
    for other, said in [("elsewhere/01_good.ipynb", "is not one of"), ("missing/01_good.py", "does not exist")]:
        with pytest.raises(InputError, match=f"{other} {said}"):
            repository.select([other])
    for own in ("notebooks/01_good.ipynb", "./notebooks/01_good.py", str(tmp_path / "notebooks/01_good"), "01_good.py"):
        assert list(repository.select([own])) == ["good"]
    monkeypatch.chdir(elsewhere.parent)
    with pytest.raises(InputError, match="is not one of"):
        repository.select(["./01_good.ipynb"])


# Ends that are none


@pytest.mark.parametrize(("end", "last"), [("import sys; sys.exit(0)", False), ("exit()", True)])
def test_a_cell_that_ends_the_run_is_a_failure_that_names_it(tmp_path: Path, end: str, last: bool) -> None:
    text = f"{checkout.PARAMETERS}\n# %%\n{end}\n" + ("" if last else "\n# %%\nprint('never')\n")
    done = reproduce(checkout.make(tmp_path, {"01_ends": text}), "ends", parameters={"seed": 1})
    assert done.failure is not None
    assert done.failure.cell == 2
    assert done.failure.error.startswith("the cell ends the run")
    assert done.notebook.name == "01_ends.failed.ipynb"


# The kernel


SHOWS = f"""{checkout.PARAMETERS}
# %%
import json, os, pathlib, sys

import matplotlib
import torch
from IPython import get_ipython

found = dict(
    backend=matplotlib.get_backend(),
    linewidth=matplotlib.rcParams["lines.linewidth"],
    dtype=str(torch.get_default_dtype()),
    profile=get_ipython().profile_dir.location,
    hash=hash("a word"),
    started="started" in globals(),
    optimised=sys.flags.optimize,
    threads=os.environ.get("OMP_NUM_THREADS"),
)
pathlib.Path(os.environ["ADVDEF_RESULTS"], "found.json").write_text(json.dumps(found))

# %%
import matplotlib.pyplot as plt

plt.plot([0, 1])
plt.show()
"""


def shown(repository: Repository) -> tuple[dict[str, object], str]:
    done = reproduce(repository, "shows")
    assert done.failure is None, done.failure
    assert done.results is not None
    return json.loads((done.results / "found.json").read_text()), checkout.outputs(done.notebook)


def test_settings_of_the_user_do_not_reach_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = checkout.make(tmp_path / "root", {"01_shows": SHOWS})
    profile = tmp_path / "ipython/profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup/00.py").write_text("import torch; torch.set_default_dtype(torch.float64); started = True\n")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nbackend: Agg\n")
    (tmp_path / "started.py").write_text("started = True\n")
    given = {
        "MPLBACKEND": "Agg", "IPYTHONDIR": tmp_path / "ipython", "MATPLOTLIBRC": tmp_path / "matplotlibrc",
        "PYTHONSTARTUP": tmp_path / "started.py", "PYTHONHASHSEED": "123", "PYTHONOPTIMIZE": "1",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found, outputs = shown(repository)
    assert "inline" in str(found["backend"])
    assert "image/png" in outputs
    assert str(tmp_path) not in str(found["profile"])
    expected = {"linewidth": 1.5, "dtype": "torch.float32", "started": False, "optimised": 0}
    assert {name: found[name] for name in expected} == expected
    assert int(str(found["threads"])) >= 1
    fixed = [sys.executable, "-c", "print(hash('a word'))"]
    told = subprocess.run(fixed, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True)
    assert int(told.stdout) == found["hash"]


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots = f"{checkout.PARAMETERS}\n# %%\nimport matplotlib.pyplot as plt\n\nplt.plot([0, 1])\nplt.show()\n"
    repository = checkout.make(tmp_path / "root", {"01_plots": plots})
    home = tmp_path / "file"
    home.touch()  # even for the superuser, nothing can be written below a file
    for name in ("MPLCONFIGDIR", "IPYTHONDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home / "home"))
    done = reproduce(repository, "plots")
    assert done.failure is None, done.failure
    assert "image/png" in checkout.outputs(done.notebook)


def test_compiled_functions_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where neither the package nor the home can be written: a copy of the module, with nowhere to keep anything."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    spec = importlib.util.spec_from_file_location("compiled_anew", cpu.__file__)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    out = np.empty((2, 3), np.float32)
    module.spikes(np.ones((2, 3), np.float32), out, np.float32([0.5]), np.float32(1))
    assert out.sum() == 6
