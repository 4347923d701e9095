"""Files and folders that take their place whole, and locks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from advdef.data.sources import write_bundle
from advdef.store.files import (
    HeldError,
    explained,
    held,
    naming,
    put_back,
    remove_left_over,
    replace_folder,
    replacing,
    scratch,
    temporary,
    write_atomically,
    write_first,
)


def test_temporary_names_are_those_of_no_other_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)  # as in two containers
    names = set()
    for _ in range(2):
        with replacing(tmp_path / "there/file") as partial:
            names.add(partial.name)
            partial.write_text("new")
    assert len(names) == 2
    seen: list[str] = []
    replace = os.replace

    def watched(old: Path, new: Path) -> None:
        seen.append(old.name)
        replace(old, new)

    monkeypatch.setattr("os.replace", watched)
    for _ in range(2):
        write_bundle(tmp_path / "it.npz", {"a": np.zeros(1)})
    assert len(set(seen)) == 2


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fails() -> None:
        with replacing(path) as partial:
            partial.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_an_error_of_the_disk_names_the_path() -> None:
    with pytest.raises(OSError, match=r"\[Errno 28\] No space: '/there'"), naming(Path("/there")):
        raise OSError(28, "No space")
    with pytest.raises(OSError, match="'/elsewhere'"), naming(Path("/there")):
        raise OSError(28, "No space", "/elsewhere")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "Full", "/a"), "/a: Full; make room on that disk, then give the command again"),
        (OSError(errno.EROFS, "Read-only", "/a", None, "/b"), "/b: Read-only; it cannot be written; work in a"),
        (OSError(errno.EIO, "Broken", "/a"), "/a: Broken"),
        (OSError("odd"), "odd"),
    ],
)
def test_an_error_of_the_disk_says_where_and_what_to_do(error: OSError, said: str) -> None:
    assert explained(error).startswith(said)


def test_a_full_disk_leaves_no_lock_that_nobody_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "Full")

    with monkeypatch.context() as full:
        full.setattr("os.write", write)
        with pytest.raises(OSError, match=r"'.*lock'"), held(tmp_path / "lock", "the run"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [False, True])
def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, left: bool) -> None:
    new, folder = tmp_path / "new", tmp_path / "folder"
    for path, names in ((new, "b"), (folder, "ab"), (tmp_path / ".folder.old", "x" if left else "")):
        for name in names:
            path.mkdir(exist_ok=True)
            (path / name).write_text(path.name)
    replace_folder(new, folder)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("b", "new")]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_whose_replacement_was_killed_returns(tmp_path: Path, there: bool) -> None:
    """Between the two renames there is none; after them the old one is still to be deleted."""
    folder, aside = tmp_path / "folder", tmp_path / ".folder.old"
    put_back(folder)
    assert list(tmp_path.iterdir()) == []
    for path in [aside, folder][: 1 + there]:
        path.mkdir()
        (path / "file").write_text(path.name)
    put_back(folder)
    assert (folder / "file").read_text() == ("folder" if there else ".folder.old")
    assert not aside.exists()


GONE = """
import os, pathlib, signal, sys
from advdef.store.files import scratch, temporary

with scratch() as own, temporary(pathlib.Path(sys.argv[1], "a file"), b"half"):
    print(own, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be asked for there")
def test_what_a_killed_process_left_goes_with_the_next_write_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", GONE, tmp_path], capture_output=True, text=True, check=False)
    own, (left,) = Path(dead.stdout.strip()), tmp_path.iterdir()
    assert own.is_dir()
    with temporary(tmp_path / "other") as living:  # which comes after the cleaning
        assert not left.exists()
        elsewhere = tmp_path / f"{left.name[:-32]}{'0' * 32}"  # another machine's
        others = [elsewhere, tmp_path / ".hidden", tmp_path / "file"]
        for path in others:
            path.touch()
        remove_left_over(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([living, *others])
        os.utime(elsewhere, (0, 0))
        remove_left_over(tmp_path)
        assert not elsewhere.exists()
    with scratch():
        assert not own.exists()


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronised: set[tuple[int, int]] = set()  # a file and its size
    named: list[bool] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synchronised.add((found.st_ino, found.st_size))
        sync(descriptor)

    def naming_by(function: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def call(old: Path, new: Path) -> None:
            files = [path for path in [Path(old), *Path(old).rglob("*")] if path.is_file()]
            named.extend((path.stat().st_ino, path.stat().st_size) in synchronised for path in files)
            function(old, new)

        return call

    monkeypatch.setattr(os, "fsync", watched)
    for name in ("link", "replace", "rename"):
        monkeypatch.setattr(os, name, naming_by(getattr(os, name)))
    write_atomically(tmp_path / "a", b"content")
    write_first(tmp_path / "b", b"content")
    with replacing(tmp_path / "c") as partial:
        partial.write_text("content")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/d").write_text("content")
    replace_folder(tmp_path / "new", tmp_path / "folder")
    assert named == [True] * 4


def test_one_process_at_a_time_is_let_in(tmp_path: Path) -> None:
    lock = tmp_path / "there/lock"
    with held(lock, "the run"):
        said = f"the run is being written by process {os.getpid()} on {re.escape(socket.gethostname())}: wait for it"
        with pytest.raises(HeldError, match=said), held(lock, "the run"):
            pass
        with pytest.raises(HeldError), held(lock, "the run", wait=0.1):
            pass
    assert not lock.exists()
    with pytest.raises(RuntimeError), held(lock, "the run"):
        raise RuntimeError
    assert not lock.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be asked for there")
def test_a_lock_of_a_dead_process_of_this_host_is_taken_over_and_no_other(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid, lock = int(dead.stdout), tmp_path / "lock"
    lock.write_text(f"{pid}\n{socket.gethostname()}\n")
    with held(lock, "the run"):
        assert lock.read_text().startswith(f"{os.getpid()}\n{socket.gethostname()}")
    for content in (f"{pid}\nanother-host\n", f"{os.getppid()}\n{socket.gethostname()}\n", ""):
        lock.write_text(content)
        with pytest.raises(HeldError, match=f"or delete {lock}"), held(lock, "the run"):
            pass
        assert lock.read_text() == content


def test_a_lock_whose_maker_was_killed_before_it_wrote_its_name_goes_after_a_minute(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    with pytest.raises(HeldError), held(lock, "the run"):
        pass
    os.utime(lock, (0, 0))
    with held(lock, "the run"):
        assert lock.read_text()


def _count(folder: Path, times: int) -> None:
    for _ in range(times):
        with held(folder / "lock", "the counter", wait=60):
            counter = folder / "counter"
            counter.write_text(str(int(counter.read_text()) + 1))


@pytest.mark.slow
def test_of_several_that_wait_each_gets_its_turn(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    (tmp_path / "lock").write_text(f"999999999\n{socket.gethostname()}\n")  # and all of them find a dead one's
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(tmp_path, 3)) for _ in range(2)]
    for worker in workers:
        worker.start()
    _count(tmp_path, 3)
    for worker in workers:
        worker.join()
    assert (tmp_path / "counter").read_text() == "9"
