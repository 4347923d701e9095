"""The grid gives what one process gives, computes nothing twice, and survives deaths: here, in shares, on a cluster."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_study import PROFILES, Tiny, found

from advdef.data import load
from advdef.grid import Cell, Cluster, NoCluster, Progress, WorkerDiffers, cluster, processes, run, run_share, worker
from advdef.grid.engine import planned
from advdef.grid.worker import ATTEMPTS, root, work
from advdef.store import cache_folder

SETTINGS = PROFILES["smoke"]
TASKS = 3 + 3 * 3 + 1


def cell(**changes: object) -> Cell:
    settings = SETTINGS | changes
    return Cell("tiny", "tiny_study:Tiny", "digits", load("digits").checksum, settings, 0, "cpu")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "said").mkdir()
    worker._study.cache_clear()
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TINY_SAID", str(tmp_path / "said"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bool]]:
    """What one process finds without a grid and without a store of evaluations."""
    before, threads = os.environ.get("ADVDEF_CACHE"), torch.get_num_threads()
    os.environ["ADVDEF_CACHE"] = str(tmp_path_factory.mktemp("alone"))
    try:
        return found(Tiny(load("digits"), SETTINGS))
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("ADVDEF_CACHE") if before is None else os.environ.update(ADVDEF_CACHE=before)


def done(folder: Path) -> Counter[str]:
    """How often what was really computed."""
    return Counter(file.name.rpartition(".")[0].rpartition(".")[0] for file in (folder / "said").iterdir())


def twice(folder: Path) -> dict[str, int]:
    """What was computed more than once."""
    return {name: count for name, count in done(folder).items() if count > 1}


def from_the_store(folder: Path) -> dict[str, list[bool]]:
    """What a page finds afterwards; it has to compute nothing."""
    before = done(folder)
    kept = found(Tiny(load("digits"), SETTINGS, resume=cache_folder(ATTEMPTS)))
    assert done(folder) == before
    return kept


def test_processes_give_what_one_process_gives(own_store: Path, alone: dict[str, list[bool]]) -> None:
    """Though one of them is killed, and one task fails: what does not stand on that is done, all else once."""
    killed: list[int] = []
    lines: list[str] = []

    def kill_one(progress: Progress) -> None:
        lines.append(progress.line())
        if not killed and sum(item.state == "done" for item in progress.items) >= 2:
            killed.append(multiprocessing.active_children()[0].pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    progress = run([cell(fails=True)], lambda: processes(2), report=kill_one)
    assert killed
    assert len(progress.workers) >= 2
    assert {failed.label: failed.error for failed in progress.failed} == {
        "tiny digits seed 0: fails()": "FloatingPointError: as it should",
        "tiny digits seed 0: again(0)": "a task that it stands on failed",
    }
    assert lines[-1] == f"{TASKS - 1} done, 0 from the store, 0 with the workers, 0 to do, 2 failed"
    assert any("s left" in line for line in lines)
    assert len(twice(own_store)) <= 2  # what was at work when one was killed
    # without the failing task the last stage is done as well, and all the rest is in the store
    opened = list[dict[int, multiprocessing.process.BaseProcess]]()

    def one() -> Executor:
        opened.append((pool := processes(1))._processes)  # type: ignore[attr-defined]
        return pool

    assert not run([cell()], one).failed
    assert [process.exitcode for pool in opened for process in pool.values()] == [0]  # they end by themselves
    assert from_the_store(own_store) == alone
    (walk,) = planned([cell()])
    assert Counter(item.state for item in walk.items.values()) == {"stored": TASKS}
    assert 0 < walk.longest() < sum(item.seconds for item in walk.items.values())


def test_shares_without_a_scheduler_wait_for_one_another(own_store: Path, alone: dict[str, list[bool]]) -> None:
    code = "from test_grid import cell; from advdef.grid import run_share; run_share([cell()], index=0, of=2)"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        progress = run_share([cell()], index=1, of=2)
    assert other.returncode == 0
    assert (len(progress.items), progress.failed) == (TASKS, [])
    assert twice(own_store) == {}
    assert from_the_store(own_store) == alone


def test_a_share_takes_over_what_a_dead_one_left(own_store: Path, alone: dict[str, list[bool]]) -> None:
    """The other two shares never began."""
    run_share([cell()], index=1, of=3, patience=0.1)
    assert from_the_store(own_store) == alone
    with pytest.raises(ValueError, match="shares 0 to 2, not 3"):
        run_share([cell()], index=3, of=3)


def test_a_worker_that_differs_is_named(own_store: Path) -> None:
    """Other versions, other code, another data set: no result of such a worker is taken."""
    walk = planned([cell()])[0]
    item = next(iter(walk.items.values()))
    told = item.order(1, send=False)
    host = r"worker .+ \(process \d+\)"
    with pytest.raises(WorkerDiffers, match=host + r" has torch .+, not 1\.0: install the same"):
        work(replace(told, versions={**told.versions, "torch": "1.0"}))
    with pytest.raises(WorkerDiffers, match=host + " has another code of advdef: check out the same commit"):
        work(replace(told, code="0" * 16))
    with pytest.raises(WorkerDiffers, match=host + ": the data set digits is another one here: checksum .+, not abc"):
        work(replace(told, cell=replace(told.cell, checksum="abc")))
    with pytest.raises(WorkerDiffers, match=host + ": .*svhn"):
        work(replace(told, cell=replace(told.cell, dataset="svhn")))
    with pytest.raises(WorkerDiffers, match=host + ": no device 'cuda:9'"):
        work(replace(told, cell=replace(told.cell, device="cuda:9")))


def test_a_task_whose_results_were_deleted_is_done_again(own_store: Path) -> None:
    (item, *_) = planned([cell()])[0].items.values()
    told = item.order(1, send=False)
    (file,) = work(told).files
    assert item.look()
    (own_store / "cache" / file).unlink()
    item.state = "waiting"
    assert not item.look()
    assert work(told).files == (file,)
    assert done(own_store) == {"train 0": 2}


@contextmanager
def dask(folder: Path, *workers: dict[str, str], tls: tuple[str, ...] = ()) -> Iterator[tuple[str, list[int]]]:
    """A scheduler on the loopback address, and a worker process for each environment; its address, their numbers."""
    pytest.importorskip("distributed")
    file, protocol = folder / "scheduler.json", "tls" if tls else "tcp"
    names = ("--tls-ca-file", "--tls-cert", "--tls-key")
    options = ["--no-dashboard", *(text for pair in zip(names, tls, strict=False) for text in pair)]
    listen = ["--host", f"{protocol}://127.0.0.1", "--port", "0", "--scheduler-file", str(file)]

    def start(kind: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        code = f"from distributed.cli.dask_{kind} import main; main()"
        command = [sys.executable, "-c", code, *arguments, *options]
        with (folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)

    started = [start("scheduler", *listen)]
    try:
        deadline = time.monotonic() + 60
        while not (file.is_file() and file.read_text().endswith("}")):
            assert time.monotonic() < deadline, (folder / "scheduler.log").read_text()
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        for number, environment in enumerate(workers):
            own = ["--no-nanny", "--nthreads", "1", "--local-directory", str(folder / f"worker{number}")]
            started.append(start("worker", address, *own, **environment))
        yield address, [process.pid for process in started[1:]]
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


@contextmanager
def connected(address: str, workers: int, tls: tuple[str, ...] = ()) -> Iterator[Cluster]:
    token = root() / ".shared"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    files = dict(zip(("ca", "cert", "key"), tls, strict=True)) if tls else None
    with cluster(address, token, security=files) as found:
        found.client.wait_for_workers(workers, timeout=60)
        yield found


def test_killed_clients_and_workers_lose_only_what_was_at_work(own_store: Path, alone: dict[str, list[bool]]) -> None:
    code = (
        "import sys; from test_grid import cell, connected; from advdef.grid import run\n"
        "with connected(sys.argv[1], 2) as found:\n"
        "    run([cell()], found.executor, report=lambda p: print(p.line(), flush=True))"
    )
    with dask(own_store, {}, {}) as (address, workers):
        with subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert any(int(line.split()[0]) >= 3 for line in client.stdout)  # which reads no further
            client.kill()
        with connected(address, 2) as found:
            assert not found.apart

            def kill(progress: Progress) -> None:
                if "at work" not in told and any(item.state == "done" for item in progress.items):
                    told["at work"] = os.kill(workers[0], signal.SIGKILL)

            told: dict[str, None] = {}
            progress = run([cell()], found.executor, report=kill)
    assert told
    assert not progress.failed
    assert sum(item.state == "stored" for item in progress.items) >= 3
    assert len(twice(own_store)) <= 4  # two of each
    assert from_the_store(own_store) == alone


@pytest.mark.thorough
def test_results_travel_where_workers_have_folders_of_their_own(
    own_store: Path, alone: dict[str, list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And both sides show certificates. A worker without the data ends the run, and is named."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which the page uses to make certificates, is not here")
    key, certificate = str(own_store / "key.pem"), str(own_store / "cert.pem")
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=advdef"]
    subprocess.run([openssl, *command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls, nothing = (certificate, certificate, key), str(own_store / "nothing")
    apart = [{"ADVDEF_CACHE": str(own_store / f"cache{i}"), "ADVDEF_DATA": nothing} for i in range(2)]
    with dask(own_store, *apart, tls=tls) as (address, _), connected(address, 2, tls) as found:
        assert address.startswith("tls://")
        assert found.apart
        progress = run([cell()], found.executor, send=found.apart)
        assert not progress.failed
        assert len(progress.workers) == 2
        assert twice(own_store) == {}
        asked = replace(cell(), dataset="mnist")
        with monkeypatch.context() as here:
            here.setattr(Cell, "make", lambda self, resume: Tiny(load("digits"), SETTINGS, resume=resume))
            with pytest.raises(WorkerDiffers, match=r"worker .+ \(process \d+\): .*mnist"):
                run([asked], found.executor, send=True)
    (walk,) = planned([cell()])
    assert Counter(item.state for item in walk.items.values()) == {"stored": TASKS}
    assert from_the_store(own_store) == alone


def test_a_port_that_others_can_reach_is_refused(own_store: Path) -> None:
    """Dask runs whatever arrives at its port."""
    for address, said in {
        "tcp://10.1.2.3:8786": "open to whoever reaches it",
        "tcp://head:8786": "open to whoever reaches it",
        "http://localhost:1": "is no address of a scheduler",
        "tls://head:8786": "needs the files of --tls: ca, cert, key",
        "tcp://127.0.0.1:9": "no scheduler with workers answers at",
    }.items():
        with pytest.raises(NoCluster, match=said), cluster(address, own_store / "token", wait_for=1):
            pass
