"""Executing notebooks: what is left behind when it goes well, when a cell fails, when the process is killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import checkout
import nbformat
import pytest

from advdef.book.execution import changed_parameters
from advdef.book.notebookfile import parameter_defaults, read_pair
from advdef.book.repository import InputError
from advdef.book.run import out_of_step, reproduce, reproduce_all, run_parameters

FOLDERS = f"""{checkout.PARAMETERS}
# %%
import os

print(os.environ["ADVDEF_DATA"], os.environ["ADVDEF_CACHE"])
"""

SLEEPS = f"""{checkout.PARAMETERS}
# %%
import os, pathlib, time

pathlib.Path(os.environ["ADVDEF_RESULTS"], "kernel-pid").write_text(str(os.getpid()))
print("started")

# %%
time.sleep(120)
"""

DIES = f"""{checkout.PARAMETERS}
# %%
import os, sys

os.write(2, b"out of memory, says the library\\n")
os._exit(3)
"""


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_default_run_leaves_the_notebook_its_records_and_no_injected_cell(tmp_path: Path) -> None:
    repository = checkout.make(tmp_path, {"01_good": checkout.GOOD})
    result = reproduce(repository, "good")
    assert result.failure is None
    place = tmp_path / "build/smoke/runs/good/default-seed0"
    assert result.notebook == place / "finished/01_good.ipynb"
    assert files(place) == {"finished"}
    assert files(result.notebook.parent) == {"01_good.ipynb", "01_good.log", "results"}
    assert "injected-parameters" not in checkout.tags(result.notebook)
    assert '"1"' in checkout.outputs(result.notebook)
    assert result.results == place / "finished/results"
    record = json.loads((result.results / "good/digits-smoke-seed0.json").read_text())
    assert record["verdicts"][0]["evidence"] == "seed 0"


def test_other_parameters_are_injected(tmp_path: Path) -> None:
    repository = checkout.make(tmp_path, {"01_good": checkout.GOOD})
    result = reproduce(repository, "good", profile="laptop", parameters={"seed": 7})
    cells = nbformat.read(result.notebook, as_version=4).cells
    (injected,) = (cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert injected.source.splitlines()[1:] == ['profile = "laptop"', "seed = 7"]
    place = repository.run("laptop", "good", seed=7)
    assert place.folder == tmp_path / "build/laptop/runs/good/default-seed7"
    assert (place.results / "good/digits-laptop-seed7.json").is_file()


KEEPS = f"""{checkout.PARAMETERS}
# %%
import os, pathlib

folder = os.environ["ADVDEF_RESUME"]
found = pathlib.Path(folder, "attack").is_file() if folder else None
if folder and not found:
    pathlib.Path(folder).mkdir(parents=True)
    pathlib.Path(folder, "attack").touch()
    raise KeyboardInterrupt
print("found", found)
"""


def test_evaluations_outlive_an_interrupted_run_but_not_a_finished_one(tmp_path: Path) -> None:
    repository = checkout.make(tmp_path, {"01_keeps": KEEPS})
    folder = repository.run("laptop", "keeps").resume
    assert reproduce(repository, "keeps", profile="laptop").failure is not None
    assert files(folder) == {"attack"}
    second = reproduce(repository, "keeps", profile="laptop")
    assert second.failure is None
    assert "found True" in checkout.outputs(second.notebook)
    assert not folder.exists()
    smoke = reproduce(repository, "keeps")  # which takes seconds and keeps nothing
    assert "found None" in checkout.outputs(smoke.notebook)


def test_the_kernel_is_this_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel that somebody registered under the same name must not be used.
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "Other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    text = f"{checkout.PARAMETERS}\n# %%\nimport os, sys\n\nprint(sys.executable, os.getcwd())\n"
    root = tmp_path / "root"
    result = reproduce(checkout.make(root, {"01_where": text}), "where")
    assert f"{sys.executable} {root / 'notebooks'}" in checkout.outputs(result.notebook)


def test_relative_folders_are_meant_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = checkout.make(tmp_path, {"01_folders": FOLDERS})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADVDEF_DATA", "bundles")
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path / "cache"))
    result = reproduce(repository, "folders")
    assert f"{tmp_path / 'bundles'} {tmp_path / 'cache'}" in checkout.outputs(result.notebook)


def test_a_failing_cell_keeps_what_was_executed(tmp_path: Path) -> None:
    repository = checkout.make(tmp_path, {"01_bad": checkout.BAD})
    result = reproduce(repository, "bad", parameters={"seed": 1})
    assert result.failure is not None
    assert result.failure.cell == 4  # the injected cell is not one of the source
    assert result.failure.error.endswith("ValueError: the third wheel")
    assert "\x1b" not in result.failure.error
    assert files(result.notebook.parent) == {"01_bad.failed.ipynb", "01_bad.log", "results"}
    assert "so far, so good" in checkout.outputs(result.notebook)
    assert "never" not in checkout.outputs(result.notebook)

    checkout.put(tmp_path, "01_bad", checkout.BAD.replace("raise ValueError", "print"))
    mended = reproduce(repository, "bad", parameters={"seed": 1})
    assert mended.failure is None
    assert files(mended.notebook.parent) == {"01_bad.ipynb", "01_bad.log", "results"}
    assert not result.notebook.exists()


def test_a_kernel_that_dies_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    result = reproduce(checkout.make(tmp_path, {"01_dies": DIES}), "dies")
    assert result.failure is not None
    assert "out of memory, says the library" in result.failure.error
    assert result.notebook.name == "01_dies.failed.ipynb"


def test_side_by_side_each_sees_the_other_at_work_and_has_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVDEF_DATA", str(tmp_path))

    def waits(mine: str, other: str) -> str:
        return f"""{checkout.PARAMETERS}
# %%
import os, pathlib, time

here = pathlib.Path(os.environ["ADVDEF_DATA"])
(here / "{mine}").touch()
end = time.monotonic() + 60
while not (here / "{other}").exists():
    assert time.monotonic() < end, "the other one never began"
    time.sleep(0.1)
assert os.environ["OMP_NUM_THREADS"] == "1"
"""

    repository = checkout.make(tmp_path, {"01_a": waits("a", "b"), "02_b": waits("b", "a")})
    done = list(reproduce_all(repository, ["a", "b"], jobs=2))
    assert {execution.paper for execution in done} == {"a", "b"}
    assert [execution.failure for execution in done] == [None, None]


def test_one_after_the_other_in_the_given_order(tmp_path: Path) -> None:
    repository = checkout.make(tmp_path, {"01_good": checkout.GOOD, "02_bad": checkout.BAD})
    done = list(reproduce_all(repository, ["bad", "good"], jobs=1))
    assert [(execution.paper, execution.failure is None) for execution in done] == [("bad", False), ("good", True)]
    with pytest.raises(InputError, match="jobs must be at least 1, not 0"):
        list(reproduce_all(repository, ["good"], jobs=0))


def test_the_text_runs_and_a_difference_is_noticed(tmp_path: Path) -> None:
    repository = checkout.make(tmp_path, {"01_good": checkout.GOOD})
    path = repository.notebooks["good"]
    assert out_of_step(path) is None
    path.with_suffix(".py").write_text(checkout.GOOD.replace("seed + 1", "seed + 2"))
    assert out_of_step(path) == 4
    assert read_pair(path).cells[3].source == "seed + 2"
    # Unchanged cells keep their ids; new ones have the same id each time.
    ids = [cell.id for cell in read_pair(path).cells]
    assert ids[:3] == ["cell-0", "cell-1", "cell-2"]
    assert ids == [cell.id for cell in read_pair(path).cells]


def test_parameters(tmp_path: Path) -> None:
    notebook = read_pair(checkout.make(tmp_path, {"01_good": checkout.GOOD}).notebooks["good"])
    assert parameter_defaults(notebook) == {"profile": "smoke", "dataset": None, "seed": 0, "device": None}
    assert changed_parameters(notebook, {"profile": "smoke", "seed": 3}) == {"seed": 3}
    with pytest.raises(
        InputError, match="unknown notebook parameter 'epochs'; parameters: profile, dataset, seed, device"
    ):
        changed_parameters(notebook, {"epochs": 3})


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", "", "4294967296"])
def test_seeds_that_are_not_possible(seed: str) -> None:
    with pytest.raises(InputError, match="whole numbers from 0"):
        run_parameters(seed=seed)
