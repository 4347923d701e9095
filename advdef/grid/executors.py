"""What computes the tasks of a grid: processes of this machine, or the workers of a cluster."""

from __future__ import annotations

import ipaddress
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from advdef.grid.worker import has

__all__ = ["Cluster", "NoCluster", "cluster", "end_with_the_parent", "processes"]


class NoCluster(RuntimeError):
    """A scheduler cannot be reached, or must not be."""


def end_with_the_parent() -> None:
    """End this process when the one that started it does, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


class _Processes(ProcessPoolExecutor):
    """Processes that end at once when nobody waits for them."""

    def __init__(self, jobs: int) -> None:
        fresh = multiprocessing.get_context("spawn")  # a fork of a process that has threads may hang
        super().__init__(jobs, mp_context=fresh, initializer=end_with_the_parent)
        self._others = set(multiprocessing.active_children())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process in () if wait else set(multiprocessing.active_children()) - self._others:
            process.terminate()


def processes(jobs: int) -> Executor:
    """So many processes, each of which ends when this one does."""
    return _Processes(jobs)


class Cluster:
    """The workers of a running dask scheduler.

    Attributes:
        client: dask's client.
        apart: Whether some worker keeps no folder together with this process.
    """

    def __init__(self, client: Any, *, apart: bool) -> None:
        self.client, self.apart = client, apart

    def executor(self) -> Executor:
        """The workers as an executor; where one dies, another does its task."""
        found: Executor = self.client.get_executor(pure=False, retries=3)
        return found


@contextmanager
def cluster(
    address: str, token: Path, *, security: Mapping[str, str] | None = None, wait_for: float = 60
) -> Iterator[Cluster]:
    """The cluster whose scheduler listens at an address.

    Whoever can reach its port can run code on all of its machines: dask unpickles what arrives there. So the address
    must be of this machine, or begin with tls://, where both sides show a certificate.

    Args:
        address: As ``tcp://127.0.0.1:8786`` or ``tls://head:8786``.
        token: A file in the store of this process; a worker that sees it shares that folder.
        security: For tls, the files ``ca``, ``cert`` and ``key``.
        wait_for: Seconds to wait for a worker.

    Raises NoCluster where dask is missing, the address is open to others, or nobody answers.
    """
    try:
        from distributed import Client, Security
    except ImportError as failure:
        raise NoCluster('a scheduler needs dask: pip install "dask[distributed]"') from failure
    parts = urlsplit(address)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
        raise NoCluster(f"{address} is no address of a scheduler, as tcp://127.0.0.1:8786 or tls://head:8786")
    if parts.scheme == "tcp" and not _of_this_machine(parts.hostname):
        raise NoCluster(
            f"{address} is open to whoever reaches it, and dask runs what arrives there: use tls:// with certificates "
            "(the book's page On a cluster shows how), or an SSH tunnel to tcp://127.0.0.1"
        )
    secured = None
    if parts.scheme == "tls":
        if missing := {"ca", "cert", "key"} - set(security or {}):
            raise NoCluster(f"{address} needs the files of --tls: {', '.join(sorted(missing))}")
        ca, cert, key = (dict(security or {})[name] for name in ("ca", "cert", "key"))
        secured = Security(require_encryption=True, tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
    try:
        client = Client(address, timeout=wait_for, security=secured)
        client.wait_for_workers(1, timeout=wait_for)
    except (OSError, TimeoutError, ValueError, RuntimeError) as failure:
        raise NoCluster(f"no scheduler with workers answers at {address}: {failure}") from failure
    try:
        yield Cluster(client, apart=not all(client.run(has, token.name).values()))
    finally:
        client.close()


def _of_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
