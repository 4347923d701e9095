"""Files and folders that take their place whole, and places that one process at a time may write to.

Others, on this host or another, may read and write them at the same time.
"""

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLock, Timeout

__all__ = [
    "HeldError", "explained", "held", "naming", "put_back", "remove_left_over", "replace_folder", "replacing",
    "scratch", "temporary", "write_atomically", "write_first",
]  # fmt: skip

_LEFT_OVER = re.compile(r"\..+\.(?P<pid>\d{1,9})\.(?P<machine>[0-9a-f]{8})[0-9a-f]{24}")
_DAY = 86_400  # seconds; nobody writes to one file for so long
_EMPTY = 60  # seconds; a process that takes a lock writes its name into it at once

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_ADVICE = {
    errno.ENOSPC: "make room on that disk, then give the command again",
    errno.EDQUOT: "make room within your quota, then give the command again",
    errno.EROFS: "it cannot be written; work in a checkout on a disk that can",
    errno.EACCES: "you may not write there; change its permissions, or work in a checkout of your own",
    errno.EPERM: "you may not write there; change its permissions, or work in a checkout of your own",
}


class HeldError(OSError):
    """Another process is writing there; the message names it."""


@contextlib.contextmanager
def temporary(path: Path, content: bytes = b"") -> Iterator[Path]:
    """A file with this content beside a path, safely on the disk, under a name that no other process or host has.

    Files that killed processes have left there are deleted first (:func:`remove_left_over`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_over(path.parent)
    host = re.sub(r"[^\w-]+", "-", socket.gethostname())[:40]
    name = path.with_name(f".{path.name}.{host}.{os.getpid()}.{_machine()}{uuid.uuid4().hex[:24]}")
    try:
        with name.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield name
        _synchronise(path.parent)
    finally:
        name.unlink(missing_ok=True)


def remove_left_over(folder: Path) -> None:
    """Delete the temporary files in a folder whose writers are gone: processes of this machine that no longer live.

    Of other machines and containers those are deleted that are older than a day.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and (told := _LEFT_OVER.fullmatch(entry.name)):
                with contextlib.suppress(OSError):
                    gone = told["machine"] == _machine() and not _lives(int(told["pid"]))
                    if gone or time.time() - entry.stat().st_mtime > _DAY:
                        os.unlink(entry.path)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder with a short path, which goes with the block; those that killed processes have left go, too."""
    prefix = f"advdef-{_machine()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if re.fullmatch(r"\d{1,9}", pid) and not _lives(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", ignore_cleanup_errors=True) as own:
        yield Path(own)


@functools.cache
def _machine() -> str:
    """Eight digits for this machine since its start, or this container: elsewhere a number means another process."""
    told = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux alone has these
        told += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def _lives(pid: int) -> bool:
    """Whether a process of this machine may still be at work."""
    if sys.platform == "win32":  # where asking would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _synchronise(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename: it is there whole or not at all.

    What was there before is replaced; raises OSError, and leaves it as it was.
    """
    with temporary(path, content) as name:
        os.replace(name, path)


def write_first(path: Path, content: bytes) -> bool:
    """Write a file unless there is one; whether it was written."""
    with temporary(path, content) as name:
        try:
            os.link(name, path)
        except FileExistsError:
            return False
        except OSError as failure:
            if failure.errno not in _NO_LINKS:
                raise
            if path.exists():
                return False
            os.replace(name, path)
        return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file to write to; it takes the place of ``path`` when the block ends without an error."""
    with naming(path), temporary(path) as name:
        yield name
        _synchronise(name)
        os.replace(name, path)


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder ``new`` in the place of ``folder``: the old one is renamed aside and deleted last.

    Whoever looks finds the old one or the new one, whole. If the process is killed between the two renames, neither is
    there: the old one is ``.NAME.old`` then, and :func:`put_back` restores it. Only one process at a time may do this
    at a place.
    """
    for file in new.rglob("*"):
        if file.is_file():
            _synchronise(file)
    put_back(folder)
    old = _aside(folder)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    _synchronise(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Repair what a :func:`replace_folder` that was killed has left: the old folder returns, or is deleted at last."""
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.rename(_aside(folder), folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside the block, an OSError that names no file, such as that of a full disk, gets the path as its file name."""
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
    """Keep other processes from ``what`` while the block runs, by a file that names this one.

    A file that a dead process of this machine has left is taken over. Raises HeldError where another process holds it,
    after ``wait`` seconds.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # whoever made it was killed before it could write its name
        made = lock.stat()
        if made.st_size == 0 and time.time() - made.st_mtime > _EMPTY:
            lock.unlink()
    file = SoftFileLock(lock, timeout=max(wait, 0.2))  # one try may only remove what a dead process left
    try:
        with naming(lock):
            file.acquire()
    except Timeout as error:
        raise HeldError(
            f"{what} is being written by {_owner(lock)}: wait for it, or delete {lock} where that process is gone"
        ) from error
    try:
        yield
    finally:
        file.release()


def _owner(lock: Path) -> str:
    """The process that holds a lock."""
    try:
        pid, host, *_ = lock.read_text(encoding="utf-8", errors="replace").split()
    except (OSError, ValueError):
        return "another process"
    return f"process {pid} on {host}"
