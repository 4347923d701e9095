"""Files and folders that take their place whole, and places that one process at a time may write to.

Others, on this host or another, may read and write them at the same time.
"""

import contextlib
import errno
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLock, Timeout

__all__ = [
    "HeldError", "explained", "held", "naming", "replace_folder", "replacing", "temporary", "write_atomically",
    "write_first",
]  # fmt: skip

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
    """A file with this content beside a path, safely on the disk, under a name that no other process or host has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"[^\w-]+", "-", socket.gethostname())[:40]
    name = path.with_name(f".{path.name}.{host}.{os.getpid()}.{uuid.uuid4().hex}")
    try:
        with name.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield name
        with contextlib.suppress(OSError):  # a folder cannot be synchronised everywhere
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        name.unlink(missing_ok=True)


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
        os.replace(name, path)


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder ``new`` in the place of ``folder``: the old one is renamed aside and deleted last.

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
    """Keep other processes from ``what`` while the block runs, by a file that names this one.

    A file that a dead process of this machine has left is taken over. Raises HeldError where another process holds it,
    after ``wait`` seconds.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
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
