"""Writing files that others may read or write at the same time, on this host or another."""

import contextlib
import errno
import os
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["temporary", "write_atomically", "write_first"]

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


@contextlib.contextmanager
def temporary(path: Path, content: bytes) -> Iterator[Path]:
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
