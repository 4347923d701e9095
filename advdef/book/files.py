"""Files and folders that take their place whole, and places that one process at a time may write to."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from advdef.book.repository import InputError

__all__ = ["explained", "held", "naming", "replace_folder", "replacing"]

_ADVICE = {
    errno.ENOSPC: "make room on that disk, then give the command again",
    errno.EDQUOT: "make room within your quota, then give the command again",
    errno.EROFS: "it cannot be written; work in a checkout on a disk that can",
    errno.EACCES: "you may not write there; change its permissions, or work in a checkout of your own",
    errno.EPERM: "you may not write there; change its permissions, or work in a checkout of your own",
}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; it takes the place of `path` when the block ends without an error."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder `new` in the place of `folder`: the old one is renamed aside and deleted last.

    Whoever looks finds the old one or the new one, whole; killed between the two renames it leaves none, but the old
    one is still there as ``.NAME.old``.
    """
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that names no file, as that of a full disk does, gets the path that was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def explained(error: OSError) -> str:
    """One line: the path, what is wrong with it, and what to do."""
    where = error.filename2 or error.filename
    advice = _ADVICE.get(error.errno or 0)
    return (f"{where}: " if where else "") + (error.strerror or str(error)) + (f"; {advice}" if advice else "")


@contextlib.contextmanager
def held(lock: Path, what: str, *, wait: float = 0) -> Iterator[None]:
    """Keep other processes from `what` while the block runs, by a file that names this one.

    A file that a dead process of this machine has left is taken over. Raises `InputError` that names the process where
    another one holds it, after `wait` seconds.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wait
    while True:
        with naming(lock):
            if _taken(lock):
                break
        owner = _owner(lock)
        if owner is None:
            continue  # it was released meanwhile
        host, pid = owner
        if host == socket.gethostname() and pid.isdecimal() and not _alive(int(pid)):
            _remove(lock, owner)
        elif time.monotonic() < end:
            time.sleep(0.5)
        else:
            raise InputError(
                f"{what} is being written by process {pid or '?'} on {host or '?'}: wait for it, or delete {lock} "
                "where that process is gone"
            )
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _taken(lock: Path) -> bool:
    """Whether the file did not exist and is ours now."""
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode())
    except OSError:
        lock.unlink()
        raise
    finally:
        os.close(descriptor)
    return True


def _owner(lock: Path) -> tuple[str, str] | None:
    """Host and process of a lock; empty where it does not say; None where there is no lock."""
    try:
        words = lock.read_text(encoding="utf-8", errors="replace").split()
    except FileNotFoundError:
        return None
    return (words[0], words[1]) if len(words) == 2 else ("", "")


def _remove(lock: Path, owner: tuple[str, str]) -> None:
    """Remove the lock of a dead process, unless another one has just done that and holds it now."""
    aside = lock.with_name(f".{lock.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(lock, aside)
        if _owner(aside) != owner:
            with contextlib.suppress(FileExistsError):
                os.link(aside, lock)
        aside.unlink()


def _alive(pid: int) -> bool:
    """Whether a process of this machine runs; on Windows, where to ask is to end it, it is said to."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True
