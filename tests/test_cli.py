"""The command line: exit codes, one-line errors, what it prints."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import checkout
import nbformat
import pytest
from cases import each
from typer.testing import CliRunner, Result

from advdef.book.notebookfile import difference_note
from advdef.book.records import read_records
from advdef.book.repository import Repository
from advdef.book.terminal import verdict_lines
from advdef.cli import app
from advdef.store.files import held


def advdef(*args: str) -> Result:
    return CliRunner().invoke(app, args)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.delenv("ADVDEF_ROOT", raising=False)
    made = checkout.make(tmp_path, {"01_bad": checkout.BAD, "02_good": checkout.GOOD})
    monkeypatch.chdir(tmp_path / "notebooks")
    return made


def write_record(
    folder: Path, dataset: str, profile: str, verdict: str, evidence: str = "0.9 against 0.5", seed: int = 0
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = [{"claim": "good-G1", "sentence": "s", "source": "paper", "verdict": verdict, "evidence": evidence}]
    verdicts = [found | {"attacker": "", "images": None, "seeds": None, "conditions": []} for found in verdicts]
    ran = {"seed": seed, "date": "d", "commit": None, "device_name": "x", "python": "3", "versions": {}}
    content = {
        "schema": 3,
        "networks": [],
        "paper": folder.name,
        "dataset": dataset,
        "profile": profile,
        "verdicts": verdicts,
    }
    content |= {"run": None, "provenance": ran | {"wall_seconds": 1}, "values": {}}
    content |= {"comparisons": [], "checks": [], "costs": [], "results": []}
    (folder / f"{dataset}-{profile}-seed{seed}.json").write_text(json.dumps(content))


@each(
    ("args", "message"),
    [
        (["reproduce", "nothing"], "unknown notebook 'nothing'; notebooks: bad, good"),
        (["reproduce", "--profile", "huge"], "unknown profile 'huge'; profiles: smoke, laptop, gpu, paper"),
        (["reproduce", "--dataset", "imagenet"], "no data set 'imagenet'; there are digits, mnist,"),
        (["reproduce", "--dataset", "folder:nowhere"], "nowhere: no such folder"),
        (["data", "fetch", "npz:nowhere.npz"], "nowhere.npz: no such file"),
        (["new", "os"], "'os' is a module of Python"),
        (["new", "mine", "--kind", "odd"], "no kind 'odd' of defences; there are deterministic, random, trained"),
        (["diff", "a.json", "b.json"], "a.json: no such file"),
        (["judge", "mine", "--data", "digits", "--eps", "1"], "'mine' names no function"),
        (["reproduce", "--device", "tpu"], "no device 'tpu'; there are cpu"),
        (["reproduce", "--seed", "-1"], "seed '-1' is not possible; seeds: whole numbers from 0 to 4294967295"),
        (["reproduce", "--seed", "one"], "seed 'one' is not possible"),
        (["record", "nothing"], "unknown notebook 'nothing'; notebooks: bad, good"),
        (["record"], "nothing to record"),
        (["record", "good"], "nothing to record for good"),
        (["verdicts", "--profile", "huge"], "unknown profile 'huge'"),
        (["data", "fetch", "imagenet"], "imagenet"),
        (["data", "export", "imagenet", "there"], "imagenet"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(repository: Repository, args: list[str], message: str) -> None:
    result = advdef(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("advdef: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not (repository.root / "build").exists()


@pytest.mark.parametrize("args", [["nonsense"], ["reproduce", "--nonsense"], ["data", "nonsense"]])
def test_unknown_commands_and_options(args: list[str]) -> None:
    assert advdef(*args).exit_code == 2


def test_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVDEF_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    result = advdef("verdicts")
    assert result.exit_code == 2
    assert "is not inside a checkout of advdef" in result.stderr
    monkeypatch.setenv("ADVDEF_ROOT", str(tmp_path))
    assert "ADVDEF_ROOT=" in advdef("verdicts").stderr
    checkout.make(tmp_path / "repository", {})
    monkeypatch.setenv("ADVDEF_ROOT", str(tmp_path / "repository"))
    assert advdef("verdicts").exit_code == 0


def test_reproduce_reports_a_failing_cell_and_goes_on(repository: Repository) -> None:
    result = advdef("reproduce", "--no-site")
    assert result.exit_code == 1
    assert "FAILED in cell 4" in result.stderr
    assert "ValueError: the third wheel" in result.stderr
    assert "01_bad.failed.ipynb" in result.stderr
    assert "02_good.ipynb" in result.stdout
    assert "good-G1  digits-smoke  supported  seed 0" in result.stdout
    assert "Traceback" not in result.stdout


def test_reproduce_one_paper_renders_it_beside_committed_ones(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advdef.book.site._JUPYTER_BOOK", checkout.STAND_IN)  # what is rendered is asked in test_site
    # The edited .py runs; its .ipynb is only compared.
    committed = nbformat.read(repository.notebooks["bad"], as_version=4)
    committed.cells[2].outputs = [nbformat.v4.new_output("stream", text="committed words")]
    committed.cells[2].execution_count = 1
    nbformat.write(committed, repository.notebooks["bad"])
    text = repository.notebooks["good"].with_suffix(".py")
    text.write_text(checkout.GOOD + '\n# %%\nprint("edited")\n')
    result = advdef("reproduce", "good", "--seed", "4")
    assert result.exit_code == 0, result.stderr
    assert "note: 02_good.py runs; 02_good.ipynb differs from it in cell 5" in result.stdout
    assert "seed 4" in result.stdout
    built = repository.build("smoke")
    assert f"site: {(built / 'site/index.html').as_uri()}" in result.stdout
    assert (built / "site/index.html").read_text() == "whole"
    assert "edited" in (built / "source/notebooks/02_good.ipynb").read_text()
    assert "committed words" in (built / "source/notebooks/01_bad.ipynb").read_text()


@pytest.mark.site
def test_book_renders_committed_notebooks_and_says_when_it_cannot(repository: Repository) -> None:
    repository.notebooks["bad"].unlink()
    result = advdef("book")
    assert result.exit_code == 1
    assert "neither an executed nor a committed notebooks/01_bad.ipynb" in result.stderr


def test_record_takes_what_was_run(repository: Repository) -> None:
    assert advdef("reproduce", "good", "--no-site").exit_code == 0
    result = advdef("record", "--profile", "smoke")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"recorded {Path('notebooks/02_good.ipynb')}",
        f"recorded {Path('book/results/good/digits-smoke-seed0.json')}",
    ]
    committed = advdef("verdicts", "--committed")
    assert "good-G1  digits-smoke  supported  seed 0" in committed.stdout


def test_verdicts_of_runs_and_of_committed_records(repository: Repository) -> None:
    assert "no verdicts" in advdef("verdicts").stdout
    write_record(repository.run("smoke", "good").results / "good", "digits", "smoke", "mixed")
    write_record(repository.run("laptop", "good").results / "good", "mnist", "laptop", "contradicted")
    write_record(repository.run("laptop", "good", seed=3).results / "good", "mnist", "laptop", "mixed", seed=3)
    write_record(repository.committed_results / "good", "cifar10", "laptop", "supported")
    both = advdef("verdicts").stdout
    assert "digits-smoke             mixed" in both
    assert "cifar10" not in both
    assert "digits" not in advdef("verdicts", "--profile", "laptop").stdout
    assert "mnist-laptop seeds 0, 3  contradicted" in both  # of runs without numbers the first one's word
    assert "cifar10-laptop  supported" in advdef("verdicts", "good", "--committed").stdout
    assert "no verdicts" in advdef("verdicts", "bad").stdout


def test_a_plan_is_made_from_local_runs_and_else_from_the_committed_record(repository: Repository) -> None:
    assert "no run of the profile laptop" in advdef("plan").stderr
    write_record(repository.committed_results / "good", "cifar10", "laptop", "undecided")
    assert "good-G1 on cifar10: 0.9 against 0.5" in advdef("plan").stdout
    write_record(repository.run("laptop", "good").results / "good", "mnist", "laptop", "supported")
    assert advdef("plan", "good").stdout == "every claim that these runs could test is decided\n"
    assert json.loads(advdef("plan", "--json").stdout) == []


def test_a_broken_record_is_named(repository: Repository) -> None:
    folder = repository.run("smoke", "good").results / "good"
    folder.mkdir(parents=True)
    (folder / "digits-smoke-seed0.json").write_text("{}")
    result = advdef("verdicts")
    assert result.exit_code == 2
    assert "digits-smoke-seed0.json is not a record file: it: 'schema' is a required property" in result.stderr


def test_the_table_of_verdicts_wraps_long_evidence(tmp_path: Path) -> None:
    write_record(tmp_path / "good", "mnist", "laptop", "not testable here", evidence="many words " * 40, seed=3)
    write_record(tmp_path / "other", "digits", "smoke", "supported", evidence="1.50")
    lines = verdict_lines(read_records(tmp_path)).splitlines()
    assert lines[0].split() == ["claim", "run", "verdict", "evidence"]
    assert lines[2].startswith("good-G1  mnist-laptop seed 3  not testable here  many words many words")
    assert lines[-1] == "good-G1  digits-smoke         supported          1.50"  # as it was written
    assert max(map(len, lines)) <= 100
    assert sum("many" in line for line in lines) > 5
    assert sum("good-G1" in line for line in lines) == 2


def test_data_list_export_and_errors(tmp_path: Path) -> None:
    listed = advdef("data", "list", "--root", str(tmp_path))
    assert listed.exit_code == 0
    assert listed.stdout.splitlines()[0] == f"in {tmp_path}:"
    assert "digits" in listed.stdout
    assert "missing" in listed.stdout
    (tmp_path / "mnist.npz").write_bytes(b"not a bundle")
    broken = advdef("data", "fetch", "mnist", "--root", str(tmp_path))
    assert broken.exit_code == 2
    assert broken.stderr.count("\n") == 1
    assert "mnist.npz" in broken.stderr
    exported = advdef("data", "export", "digits", str(tmp_path / "out"))
    assert exported.stdout.strip() == str(tmp_path / "out/digits.npz")


def test_an_unavailable_data_set_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advdef import data

    def unavailable(name: str, **_: object) -> None:
        raise data.DatasetUnavailable(f"{name} is not here,\nand there are three ways to get it")

    monkeypatch.setattr(data, "load", unavailable)
    result = advdef("data", "fetch", "svhn")
    assert result.exit_code == 1
    assert result.stderr == "advdef: svhn is not here, and there are three ways to get it\n"


HELP = """
import sys
from typer.testing import CliRunner
from advdef.cli import app

assert CliRunner().invoke(app, ["--help"]).exit_code == 0
assert CliRunner().invoke(app, ["reproduce", "--help"]).exit_code == 0
sys.exit("torch" in sys.modules)
"""


def test_help_is_quick_and_does_not_import_torch() -> None:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", HELP], check=True)
    assert time.monotonic() - started < 5  # alone it takes a quarter of a second; a busy machine is not a failure


# The disk and the terminal


def test_a_run_that_another_process_is_at_is_one_line_and_exit_code_1(repository: Repository) -> None:
    with held(repository.run("smoke", "good").lock, "this"):
        result = advdef("reproduce", "good", "--no-site")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"advdef: good (default-seed0, profile smoke) is being written by process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("number", "advice", "where"),
    [
        (errno.ENOSPC, "make room on that disk", "papermill"),
        (errno.EROFS, "it cannot be written", "mkdir"),
        (errno.EACCES, "permissions", "publishing"),
    ],
)
def test_a_disk_that_is_full_or_read_only_is_one_line_with_the_path(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, number: int, advice: str, where: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), *(["/there/folder"] if where != "papermill" else []))

    target = {
        "mkdir": "pathlib.Path.mkdir", "papermill": "papermill.execute.write_ipynb", "publishing": "os.rename",
    }[where]  # fmt: skip
    monkeypatch.setattr("papermill.engines.write_ipynb" if where == "papermill" else target, fails)
    monkeypatch.setattr(target, fails)
    result = advdef("reproduce", "good", "--no-site")
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    (line,) = result.stderr.splitlines()
    path = (
        repository.run("smoke", "good").attempt / "02_good.partial.ipynb" if where == "papermill" else "/there/folder"
    )
    assert line.startswith(f"advdef: {path}: {os.strerror(number)}; ")
    assert advice in line


def test_book_and_record_name_what_cannot_be_written(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    assert advdef("reproduce", "good", "--no-site").exit_code == 0
    before = repository.notebooks["good"].read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(*_: object, **__: object) -> None:
        raise full

    monkeypatch.setattr("nbformat.write", write)
    result = advdef("record", "good", "--profile", "smoke")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"advdef: {repository.notebooks['good']}: No space left on device; make room")
    assert repository.notebooks["good"].read_bytes() == before
    full.filename = None
    monkeypatch.setattr("shutil.copytree", write)
    result = advdef("book")
    assert result.exit_code == 1
    assert f"advdef: {repository.root / 'build/committed'}: No space left on device; make room" in result.stderr


def test_characters_that_a_terminal_lacks_do_not_stop_it(repository: Repository) -> None:
    write_record(repository.committed_results / "good", "mnist", "laptop", "supported", "– → \U0001d4d0")
    done = subprocess.run(
        [sys.executable, "-m", "advdef.cli", "verdicts", "--committed"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "ADVDEF_ROOT": str(repository.root)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"good-G1  mnist-laptop  supported" in done.stdout


# Notebooks and their texts


def test_the_note_on_a_difference_says_which_file_is_newer_and_how_to_take_either(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jupytext.cli import jupytext

    monkeypatch.chdir(repository.root)
    stored = repository.notebooks["good"]
    text = stored.with_suffix(".py")

    def edited(file: Path, old: str, new: str, age: int) -> None:
        file.write_text(file.read_text().replace(old, new))
        os.utime(file, (1_000_000 - age, 1_000_000 - age))

    def note() -> str:
        return str(difference_note(stored))

    def take(suffix: str) -> None:
        (command,) = (part for part in note().split("`") if part.startswith("jupytext") and part.endswith(suffix))
        with contextlib.redirect_stdout(io.StringIO()):
            jupytext(command.split()[1:])
        assert difference_note(stored) is None

    for age, newer in ((5, "02_good.py"), (15, "02_good.ipynb")):
        for suffix, kept in ((".py", "seed + 20"), (".ipynb", "seed + 30")):
            checkout.put(repository.root, "02_good", checkout.GOOD)
            edited(text, "seed + 1", "seed + 20", age)
            edited(stored, "seed + 1", "seed + 30", 10)
            assert f"in cell 4, and {newer} is the newer one" in note()
            assert "\n" not in note()
            take(suffix)
            assert kept in text.read_text()
            assert kept in stored.read_text()
