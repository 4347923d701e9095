"""What a run found: values in the notebook's own file, rows and provenance in a JSON file."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import advdef
from advdef.book import records
from advdef.book.records import Run, provenance, record, results_folder
from advdef.claims import Claim, Condition, decide
from advdef.data import Dataset
from advdef.evaluation import Finding, Outcome
from advdef.statistics import wilson
from advdef.store import tally

PREFIX = "application/papermill.record/"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the notebook file, as (data, metadata); a real shell would leave its traces in this process."""
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.interactiveshell import InteractiveShell

    seen: list[dict[str, Any]] = []

    def publish(data: dict[str, Any], metadata: dict[str, Any] | None = None, **rest: Any) -> None:
        seen.append({"data": data, "metadata": metadata})

    shell = SimpleNamespace(display_formatter=DisplayFormatter(), display_pub=SimpleNamespace(publish=publish))
    monkeypatch.setattr(InteractiveShell, "initialized", lambda: True)
    monkeypatch.setattr(InteractiveShell, "instance", lambda: shell)
    return seen


def test_a_recorded_value_has_the_form_that_glue_reads(shown: list[dict[str, Any]]) -> None:
    record("images", 500, kind="count")
    record("loss", 0.25, kind="number")
    record("gain", 0.5, kind="number", n=40)
    record("verdict", "partly", kind="text")
    record("note", "anything")
    assert [s["metadata"]["scrapbook"] for s in shown] == [
        {"name": name, "mime_prefix": PREFIX} for name in ("images", "loss", "gain", "verdict", "note")
    ]
    assert [s["metadata"]["advdef"] for s in shown] == [
        {"kind": "count", "value": 500},
        {"kind": "number", "value": 0.25},
        {"kind": "number", "value": 0.5, "n": 40},
        {"kind": "text", "value": "partly"},
        {"kind": "info", "value": "anything"},
    ]
    # all under the prefix, so that nothing is visible where it is recorded
    assert [s["data"] for s in shown] == [
        {f"{PREFIX}text/plain": text} for text in ("500", "0.25", "0.5", "'partly'", "'anything'")
    ]
    json.dumps(shown)


def test_hits_are_kept_image_by_image_and_shown_as_their_share(shown: list[dict[str, Any]]) -> None:
    for hits in ([1, 1, 0, 1], [1], [0] * 5, [0, 0, 0, 0, 1, 0, 1, 1, 1]):
        record("robust", torch.tensor(hits).bool(), kind="hits")
    assert [s["metadata"]["advdef"] for s in shown] == [
        {"kind": "hits", "value": 0.75, "n": 4, "hits": "d"},
        {"kind": "hits", "value": 1.0, "n": 1, "hits": "1"},
        {"kind": "hits", "value": 0.0, "n": 5, "hits": "00"},
        {"kind": "hits", "value": 4 / 9, "n": 9, "hits": "017"},
    ]
    assert shown[0]["data"] == {f"{PREFIX}text/plain": "0.75"}
    json.dumps(shown)


def test_a_recorded_value_is_what_myst_nb_writes(shown: list[dict[str, Any]]) -> None:
    glue = pytest.importorskip("myst_nb").glue
    glue("x", 0.5, display=False)
    record("x", 0.5)
    theirs, ours = shown
    assert ours["data"] == theirs["data"]
    assert ours["metadata"]["scrapbook"] == theirs["metadata"]["scrapbook"]


def test_a_table_is_recorded_with_its_display(shown: list[dict[str, Any]]) -> None:
    record("table", pd.DataFrame({"a": [1]}))
    assert set(shown[0]["data"]) == {f"{PREFIX}text/plain", f"{PREFIX}text/html"}
    assert "<table" in shown[0]["data"][f"{PREFIX}text/html"]
    assert "advdef" not in shown[0]["metadata"]


@pytest.mark.parametrize(
    ("value", "options", "error", "message"),
    [
        (0.5, {"kind": "numbre"}, ValueError, "hits, count, number, text, info"),
        (0.5, {"kind": "count"}, TypeError, r"record int\(value\), .* not float"),
        (True, {"kind": "count"}, TypeError, r"int\(value\)"),
        (torch.tensor(5), {"kind": "count"}, TypeError, r"int\(value\), .*Tensor"),
        (np.int64(5), {"kind": "count"}, TypeError, r"int\(value\), .*int64"),
        (5, {"kind": "text"}, TypeError, r"str\(value\), .*int"),
        (np.str_("yes"), {"kind": "text"}, TypeError, r"str\(value\)"),
        (np.float64(0.15), {"kind": "number"}, TypeError, r"float\(value\), .*float64"),
        (torch.tensor(0.15), {"kind": "number"}, TypeError, r"float\(value\)"),
        (True, {"kind": "number"}, TypeError, r"float\(value\)"),
        (np.float64(0.15), {}, TypeError, r"float\(value\)"),
        (np.float32(0.15), {}, TypeError, r"float\(value\)"),
        (torch.tensor(0.15), {}, TypeError, r"float\(value\)"),
        (float("nan"), {"kind": "number"}, ValueError, "nan is no number"),
        (float("-inf"), {"kind": "number"}, ValueError, "-inf is no number"),
        (float("inf"), {}, ValueError, "inf is no number"),
        (0.5, {"kind": "hits"}, TypeError, "boolean tensor"),
        ([True, False], {"kind": "hits"}, TypeError, "boolean tensor"),
        (torch.ones(3), {"kind": "hits"}, TypeError, "boolean tensor"),
        (torch.ones(3, 1).bool(), {"kind": "hits"}, TypeError, "boolean tensor"),
        (torch.ones(0).bool(), {"kind": "hits"}, ValueError, "no hits"),
    ],
)
def test_a_value_that_no_test_could_compare_is_refused(
    shown: list[dict[str, Any]], value: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^it: .*{message}"):
        record("it", value, **options)
    assert not shown


def test_recording_outside_a_notebook_does_nothing(tmp_path: Path) -> None:
    program = (
        "from advdef.book.records import record\n"
        "record('x', 0.5, kind='number')\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "assert not InteractiveShell.initialized()\n"
    )
    root = Path(advdef.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Record files


def outcome() -> Outcome:
    def flags(*values: int) -> torch.Tensor:
        return torch.tensor(values).bool()

    findings = (
        Finding("FGSM", flags(1, 1, 1, 0), flags(1, 0, 0, 0), 0.1234567, 30, 10, "fgsm()"),
        Finding("PGD", flags(0, 1, 1, 0), flags(0, 1, 0, 0), 1.5, 60, 20, "pgd(steps=3)"),
    )
    return Outcome(8 / 255, flags(1, 1, 1, 0), flags(0, 0, 1, 0), torch.zeros(4, 1, 1, 1), findings)


@pytest.fixture
def run(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ADVDEF_RESULTS", str(tmp_path / "results"))
    return Run("qusecnets", "smoke", digits, seed=7)


def test_rows_of_an_outcome(run: Run) -> None:
    run.add(outcome(), defence="CQ", threat="direct", model="CleverhansCNN", levels=4)
    shared = {
        "dataset": "digits", "model": "CleverhansCNN", "defence": "CQ", "threat": "direct", "norm": "Linf",
        "eps": 0.031373, "seed": 7, "levels": 4,
    }  # fmt: skip
    low, high = round(wilson(1, 4).low, 4), round(wilson(1, 4).high, 4)
    worst, first, second = run.rows
    assert worst == shared | {"attack": "worst case", "n": 4, "correct": 1, "accuracy": 0.25, "low": low, "high": high}
    cost = {"settings": "fgsm()", "tried": 3, "broken": 1, "unique_breaks": 1, "seconds": 0.123}
    cost |= {"forwards": 30, "backwards": 10}
    single = {"n": 4, "correct": 2, "accuracy": 0.5, "low": 0.15, "high": 0.85}
    assert first == shared | {"attack": "FGSM"} | cost | single | {
        "low": round(wilson(2, 4).low, 4), "high": round(wilson(2, 4).high, 4),
    }  # fmt: skip
    # PGD saw only what FGSM left: its accuracy alone is not known, and none is given
    assert second == shared | {
        "attack": "PGD", "settings": "pgd(steps=3)", "tried": 2, "broken": 1, "unique_breaks": 1, "seconds": 1.5,
        "forwards": 60, "backwards": 20,
    }  # fmt: skip


def test_a_clean_row_and_another_seed(run: Run) -> None:
    run.add_clean(torch.tensor([True, True, False, True]), defence="none", model="m", seed=1, levels=2)
    assert run.rows[0] | {"low": 0, "high": 0} == {
        "dataset": "digits", "model": "m", "defence": "none", "threat": "clean", "attack": "none", "eps": 0.0,
        "seed": 1, "levels": 2, "n": 4, "correct": 3, "accuracy": 0.75, "low": 0, "high": 0,
    }  # fmt: skip


def test_a_row_of_hits_is_told_what_it_is_for(run: Run) -> None:
    hits = torch.tensor([True, False, False, True])
    shared = {"defence": "V0", "model": "m", "threat": "oblivious", "attack": "PGD"}
    run.add_hits(hits, **shared, eps=8 / 255, step=0.005)  # type: ignore[arg-type]
    run.add_hits(hits, **shared, eps=None, seed=3)  # type: ignore[arg-type]
    interval = wilson(2, 4)
    counted = {"n": 4, "correct": 2, "accuracy": 0.5, "low": round(interval.low, 4), "high": round(interval.high, 4)}
    first, second = run.rows
    assert first == {"dataset": "digits", **shared, "eps": 0.031373, "seed": 7, "step": 0.005, **counted}
    assert second == {"dataset": "digits", **shared, "eps": None, "seed": 3, **counted}
    assert json.loads(run.save().read_text())["rows"] == run.rows


def test_a_record_file_holds_everything(run: Run, digits: Dataset, tmp_path: Path) -> None:
    run.add(outcome(), defence="CQ", threat="direct", model="m")
    run.values["gain"] = 0.5
    claim = Claim("qusecnets-Q1", "qusecnets", "It works.", "paper", "by looking")
    run.verdicts.append(decide(claim, "digits", [Condition("it", True, "1")]).as_record())
    path = run.save()
    assert path == tmp_path / "results" / "qusecnets" / "digits-smoke.json"
    text = path.read_text()
    assert text.endswith("}\n")
    content = json.loads(text)
    assert list(content) == [
        "schema", "paper", "dataset", "profile", "run", "provenance", "values", "verdicts", "rows",
    ]  # fmt: skip
    assert (content["schema"], content["paper"], content["dataset"], content["profile"]) == (
        1, "qusecnets", "digits", "smoke",
    )  # fmt: skip
    assert content["rows"] == run.rows
    assert content["values"] == {"gain": 0.5}
    assert content["verdicts"] == run.verdicts
    facts = content["provenance"]
    assert set(facts) >= {
        "seed", "device", "device_name", "threads", "python", "versions", "data_checksum", "train_images",
        "test_images", "commit", "date", "wall_seconds",
    }  # fmt: skip
    assert facts["seed"] == 7
    assert facts["data_checksum"] == digits.checksum
    assert (facts["train_images"], facts["test_images"]) == (1297, 500)
    assert facts["versions"]["torch"] == importlib.metadata.version("torch")
    assert facts["wall_seconds"] >= 0
    run.rows.clear()
    assert run.save() == path
    assert json.loads(path.read_text())["rows"] == []
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_record_bears_the_id_of_its_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVDEF_RUN", raising=False)
    assert json.loads(run.save().read_text())["run"] is None
    monkeypatch.setenv("ADVDEF_RUN", "20270101T000000Z-abcdef")
    assert json.loads(run.save().read_text())["run"] == "20270101T000000Z-abcdef"


def test_a_notebook_writes_no_record_of_another_paper(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_PAPER", "qusecnets")
    before = run.save().read_bytes()
    monkeypatch.setenv("ADVDEF_PAPER", "my_copy")
    said = r"notebook of 'my_copy'.*'qusecnets': write Run\('my_copy', \.\.\.\)"
    with pytest.raises(ValueError, match=said):
        run.save()
    with pytest.raises(ValueError, match=said):
        Run("qusecnets", "smoke", run.data, seed=7)
    assert next(results_folder().glob("*/*.json")).read_bytes() == before


def test_the_record_counts_what_came_from_stored_results(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdef.store.tally._seconds", [])
    tally.note(1615.0)
    tally.note(0.25)
    assert json.loads(run.save().read_text())["provenance"]["cached"] == {"entries": 2, "seconds": 1615.2}


def test_a_full_disk_is_told_with_the_path(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "write_atomically", write)
    with pytest.raises(OSError, match=r"No space left on device: '.*digits-smoke\.json'"):
        run.save()


def test_results_go_where_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_RESULTS", "/somewhere")
    assert results_folder() == Path("/somewhere")
    monkeypatch.delenv("ADVDEF_RESULTS")
    assert results_folder() == Path("advdef-results")


def test_provenance_outside_a_checkout_has_no_commit(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advdef, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance(digits, seed=0)["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert provenance(digits, seed=0)["commit"] is None


def test_the_commit_of_a_project_around_the_installed_package_is_not_ours(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    (tmp_path / "project.py").touch()
    for command in (["init", "-q"], ["add", "project.py"], ["commit", "-qm", "one"]):
        subprocess.run(["git", *identity, *command], cwd=tmp_path, check=True)
    package = tmp_path / "venv/lib/advdef"
    package.mkdir(parents=True)
    monkeypatch.setattr(advdef, "__file__", str(package / "__init__.py"))
    (package / "__init__.py").touch()
    assert provenance(digits, seed=0)["commit"] is None
    # nor is that of a repository in whose hook this runs
    monkeypatch.undo()
    ours = provenance(digits, seed=0)["commit"]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert provenance(digits, seed=0)["commit"] == ours


def test_the_commit_says_whether_there_are_changes(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "__init__.py").write_text("1\n")
    git("add", "__init__.py")
    git("commit", "-qm", "one")
    monkeypatch.setattr(advdef, "__file__", str(tmp_path / "__init__.py"))
    head = git("rev-parse", "--short=12", "HEAD")
    assert provenance(digits, seed=0)["commit"] == head
    (tmp_path / "__init__.py").write_text("2\n")
    assert provenance(digits, seed=0)["commit"] == head + "+"
