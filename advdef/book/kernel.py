"""The kernel that executes a notebook: this interpreter, in an environment that a user's settings do not reach.

papermill is called as a function. Its command, in a process of its own, would leave the kernel of a killed run at work,
take ``exit()`` in the last cell for success, and tell of a full disk by a traceback.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

__all__ = ["Ended", "ends_with_us", "environment_of", "how_it_ended", "kernel_manager", "refuse_to_end"]

_SOCKET = 90  # characters; the path of a socket has at most 103 on macOS and 107 on Linux

# The backend of plots (without it, inline), what runs before the notebook, asserts switched off, warnings hidden or
# turned into errors, and what a surrounding run has set.
_DROPPED = (
    "MPLBACKEND", "MATPLOTLIBRC", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONWARNINGS",
    "ADVDEF_RUN", "ADVDEF_PAPER",
)  # fmt: skip


def environment_of(own: Path) -> dict[str, str]:
    """This process's environment without a user's profile, start-up files and settings of plots.

    `own` is an empty folder that lives as long as the kernel. Libraries stay where they are found.
    """
    made = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    made |= {"IPYTHONDIR": str(own / "ipython"), "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"}
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        made["MATPLOTLIBRC"] = str(Path(matplotlib.origin).with_name("mpl-data") / "matplotlibrc")
    if "MPLCONFIGDIR" not in made and not os.access(Path.home(), os.W_OK):
        made["MPLCONFIGDIR"] = str(own / "matplotlib")
    if not made.get("OMP_NUM_THREADS"):
        import torch

        made["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    return made


def ends_with_us() -> str:
    """Python code for a process that we start: it ends when this one is gone, however that came.

    A kernel looks only once it has started, and then only for a parent that becomes the first process.
    """
    return (
        "import os, threading, time\n"
        f"def watch(parent={os.getpid()}):\n"
        "    while os.getppid() == parent:\n"
        "        time.sleep(0.5)\n"
        "    os._exit(1)\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
    )


def kernel_manager(environment: dict[str, str], output: int, own: Path) -> type[AsyncKernelManager]:
    """A kernel manager that always starts this interpreter, whatever kernels are registered on the machine.

    It talks to its kernel by files in the folder `own`. Ports of TCP, which are chosen here and opened by the kernel
    later, may be taken by others in between; they remain for Windows, and for a path that is too long for a socket.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    launch = "import runpy; runpy.run_module('ipykernel_launcher', run_name='__main__', alter_sys=True)"
    argv = [sys.executable, "-Xfrozen_modules=off", "-c", ends_with_us() + launch, "-f", "{connection_file}"]
    by_files = sys.platform != "win32" and len(os.fsencode(own)) < _SOCKET
    channel = {"transport": "ipc", "ip": str(own / "s")} if by_files else {}

    class KernelHere(AsyncKernelManager):
        process: subprocess.Popen[bytes] | None = None

        def __init__(self, **options: Any) -> None:
            super().__init__(**options, connection_file=str(own / "kernel.json"), **channel)

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]  # the base class has it so, too
            await super().start_kernel(**options, env=environment, stdout=output, stderr=output)
            KernelHere.process = getattr(self.provisioner, "process", None)

    return KernelHere


def how_it_ended(manager: type[AsyncKernelManager]) -> str:
    """The signal or the exit status of the kernel process that a class of :func:`kernel_manager` has started."""
    process = getattr(manager, "process", None)
    status = None if process is None else process.poll()
    if status is None:
        return "the kernel did not answer"
    return f"the kernel ended with {signal.Signals(-status).name if status < 0 else f'exit status {status}'}"


class Ended(Exception):
    """A cell that ends the kernel."""


def refuse_to_end(*, execute_reply: Mapping[str, Any], **_: Any) -> None:
    """What papermill takes for success: ``sys.exit(0)``, which ends the notebook, and ``exit()``, which soon does."""
    content = execute_reply["content"]
    asked = any(payload.get("source") == "ask_exit" for payload in content.get("payload", []))
    if asked or content.get("ename") == "SystemExit":
        raise Ended("the cell ends the run (exit, quit or sys.exit): what comes after it would be left out")
