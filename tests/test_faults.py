"""What goes wrong while notebooks run: it is told, it ends, and nothing is left at work."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkout
import pytest
from typer.testing import CliRunner

from advdef.book.repository import Repository
from advdef.book.run import reproduce, reproduce_all
from advdef.book.site import SiteError, render
from advdef.cli import app
from advdef.grid.executors import end_with_the_parent

ROOT = Path(__file__).resolve().parents[1]

HANGS = f"{checkout.PARAMETERS}\n# %%\nimport time\n\n# %%\ntime.sleep(600)\n"
QUICK = f"{checkout.PARAMETERS}\n# %%\n1 + 1\n\n# %%\n2 + 2\n"
MARKS = """{parameters}
# %%
import os, pathlib, time

pathlib.Path(os.environ["ADVDEF_RESULTS"], "kernel").write_text(f"{{os.getpid()}} {{os.getppid()}}")
time.sleep(600)
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def at_work(repository: Repository, paper: str) -> tuple[int, int]:
    """The kernel of a running notebook and its parent, once its cell waits."""
    mark, end = repository.run("smoke", paper).attempt / "results/kernel", time.monotonic() + 60
    while not (mark.is_file() and mark.read_text().count(" ") == 1):
        assert time.monotonic() < end
        time.sleep(0.05)
    kernel, parent = map(int, mark.read_text().split())
    return kernel, parent


def ended(*pids: int, within: float) -> bool:
    end = time.monotonic() + within
    while any(map(checkout.alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(checkout.alive, pids))


@pytest.mark.parametrize("limit", ["cell_timeout", "timeout"])
def test_a_cell_that_hangs_is_a_failure_that_names_it(tmp_path: Path, limit: str) -> None:
    repository = checkout.make(tmp_path, {"01_hangs": HANGS, "02_quick": QUICK})
    limits: dict[str, float] = {limit: 4.0}
    hanging, quick = (reproduce(repository, paper, **limits) for paper in ("hangs", "quick"))  # type: ignore[arg-type]
    assert hanging.failure is not None
    assert hanging.failure.cell == 3
    assert "longer than it may" in hanging.failure.error
    assert 3 < hanging.seconds < 30
    assert quick.failure is None


def test_a_kernel_that_dies_at_its_start_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = checkout.make(tmp_path, {"01_quick": QUICK})
    monkeypatch.setattr("advdef.book.kernel.sys.executable", "/bin/false" if os.path.exists("/bin/false") else "false")
    failure = reproduce(repository, "quick").failure
    assert failure is not None
    assert failure.cell is None
    assert "the kernel ended with exit status 1" in failure.error


SLOW = """#!/bin/sh
echo start >> {mark}
[ "$(wc -l < {mark})" -gt {failing} ] || {end}
exec {python} "$@"
"""


@posix
@pytest.mark.parametrize(
    ("end", "failing", "told"),
    [("exit 1", 1, None), ("exec sleep 30", 2, "respond in 1 seconds")],
)
def test_a_kernel_that_dies_or_sleeps_at_its_start_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, failing: int, told: str | None
) -> None:
    repository = checkout.make(tmp_path, {"01_quick": QUICK})
    mark, python = tmp_path / "mark", tmp_path / "python"
    python.write_text(SLOW.format(mark=mark, failing=failing, end=end, python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setattr("advdef.book.kernel.sys.executable", str(python))
    if failing == 2:
        monkeypatch.setattr("advdef.book.execution._START", 1)
    failure = reproduce(repository, "quick").failure
    assert mark.read_text().count("start") == 2
    assert (failure is None) == (told is None)
    if failure is not None and told is not None:
        assert told in failure.error


@posix
def test_kernels_need_no_ports_which_others_could_take(tmp_path: Path) -> None:
    show = "import ipykernel.connect, json\n\nprint(json.loads(ipykernel.connect.get_connection_info())['transport'])"
    done = reproduce(checkout.make(tmp_path, {"01_shows": f"{checkout.PARAMETERS}\n# %%\n{show}\n"}), "shows")
    assert done.failure is None
    assert "ipc" in checkout.outputs(done.notebook)


def test_many_short_cells_may_not_take_longer_than_the_notebook(tmp_path: Path) -> None:
    cells = "\n# %%\nimport time\n\ntime.sleep(0.5)\n" * 40
    started = time.monotonic()
    failure = reproduce(checkout.make(tmp_path, {"01_many": checkout.PARAMETERS + cells}), "many", timeout=6).failure
    assert failure is not None
    assert failure.cell is not None
    assert "longer than it may" in failure.error
    assert time.monotonic() - started < 16


@posix
@pytest.mark.parametrize(("end", "told"), [("os.kill(os.getpid(), 9)", "SIGKILL"), ("os._exit(3)", "exit status 3")])
def test_a_kernel_that_is_killed_names_its_cell_and_the_signal(tmp_path: Path, end: str, told: str) -> None:
    text = f"{checkout.PARAMETERS}\n# %%\nimport os\n\n# %%\n{end}\n"
    failure = reproduce(checkout.make(tmp_path, {"01_dies": text}), "dies").failure
    assert failure is not None
    assert failure.cell == 3
    assert failure.error.endswith(f"the kernel ended with {told}")


@posix
def test_a_main_process_that_is_killed_takes_all_others_with_it(tmp_path: Path) -> None:
    text = MARKS.format(parameters=checkout.PARAMETERS)
    repository = checkout.make(tmp_path, {"01_a": text, "02_b": text})
    code = "from advdef.book.repository import find; from advdef.book.run import reproduce_all\n"
    code += "if __name__ == '__main__': list(reproduce_all(find(), ['a', 'b'], jobs=2))"
    script = tmp_path / "main.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True)
    try:
        pids = [*at_work(repository, "a"), *at_work(repository, "b")]
    finally:
        process.kill()
        process.wait()
    assert ended(*pids, within=5)
    assert not repository.run("smoke", "a").finished.exists()


@posix
def test_a_worker_that_is_killed_is_the_failure_of_its_notebook_alone(tmp_path: Path) -> None:
    text = MARKS.format(parameters=checkout.PARAMETERS).replace("time.sleep(600)", "time.sleep(3)")
    repository = checkout.make(tmp_path, {"01_a": text, "02_b": text})
    found = reproduce_all(repository, ["a", "b"], jobs=2)
    import threading

    def kill() -> None:
        os.kill(at_work(repository, "a")[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    failures = {execution.paper: execution.failure for execution in found}
    killer.join()
    assert failures["b"] is None
    assert failures["a"] is not None
    assert "was killed" in failures["a"].error


@posix
def test_an_interrupted_command_ends_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    text = MARKS.format(parameters=checkout.PARAMETERS)
    repository = checkout.make(tmp_path, {"01_a": text, "02_b": text})
    command = [sys.executable, "-m", "advdef.cli", "reproduce", "--jobs", "2"]
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as where the tests run in the background
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, ignored)
    pids = at_work(repository, "a")
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "advdef: interrupted; the same command goes on from what is finished"
    assert ended(*pids, within=5)


BUILDS = "import os, pathlib; pathlib.Path('pid').write_text(str(os.getpid())); "


@posix
def test_who_renders_the_site_ends_with_the_command(tmp_path: Path) -> None:
    repository = checkout.make(tmp_path, {"01_quick": QUICK})
    code = "from advdef.book import repository, site; import pathlib\n"
    code += f"site._JUPYTER_BOOK = {BUILDS + 'import time; time.sleep(60)'!r}\n"
    code += "site.render(repository.find(), pathlib.Path('out'))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    mark, end = tmp_path / "out/pid", time.monotonic() + 60
    while not (mark.is_file() and mark.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert ended(int(mark.read_text()), within=5)
    # and the next one is not in its way
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("advdef.book.site._JUPYTER_BOOK", f"{BUILDS}os.kill(os.getpid(), 9)")
        with pytest.raises(SiteError, match="it was ended by SIGKILL"):
            render(repository, tmp_path / "out")


def test_of_two_that_render_at_once_the_second_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = checkout.make(tmp_path, {"01_quick": QUICK})
    monkeypatch.setattr("advdef.book.site._JUPYTER_BOOK", checkout.STAND_IN)
    with ThreadPoolExecutor(2) as pool:
        pages = list(pool.map(lambda _: render(repository, tmp_path / "out"), range(2)))
    assert [page.read_text() for page in pages] == ["whole", "whole"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["site", "site.log", "source"]


def test_a_damaged_record_is_named_and_the_rest_of_the_site_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = checkout.make(tmp_path, {"01_good": checkout.GOOD, "02_quick": QUICK})
    done = reproduce(repository, "good")
    assert done.results is not None
    whole = repository.committed_results / "good/digits-smoke-seed0.json"
    shutil.copytree(done.results, repository.committed_results)
    damaged = whole.parent.parent / "quick/digits-smoke-seed0.json"
    damaged.parent.mkdir()
    damaged.write_bytes(whole.read_bytes()[:500])
    monkeypatch.setattr("advdef.book.site._JUPYTER_BOOK", checkout.STAND_IN)
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["book"])
    assert said.exit_code == 1
    assert f"{damaged} is not a record file" in said.stderr
    assert "the rest of the site is made" in said.stderr
    made = tmp_path / "build/committed"
    assert (made / "site/index.html").read_text() == "whole"
    assert "It works." in (made / "source/book/_generated/verdicts.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a process that adopts others")
@pytest.mark.thorough
def test_kills_lose_and_leave_nothing() -> None:
    kills = 24
    command = [sys.executable, "tests/faults.py", "--kills", str(kills), "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills in" in done.stdout


def test_what_is_guaranteed_is_held_by_tests_that_exist() -> None:
    page = " ".join((ROOT / "book/guaranteed.md").read_text("utf-8").split())
    parts = re.split(r" in `(tests/\w+\.py)`", page)
    named = [(file, name) for text, file in zip(parts[::2], parts[1::2], strict=False)
             for name in re.findall(r"(?<!\*)\*([a-z][^*]{9,})\*(?!\*)", text)]  # fmt: skip
    assert len(named) > 30
    for file, name in named:
        assert f"def test_{name.replace(' ', '_')}(" in (ROOT / file).read_text("utf-8"), (file, name)


def test_a_process_without_a_parent_of_ours_is_left_alone() -> None:
    end_with_the_parent()  # in the main process, which has none
