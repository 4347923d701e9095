"""Calls whose results are kept, and whose random draws go on as if each had been made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advdef.store import kept, key

__all__ = ["kept_call"]


def kept_call(
    folder: Path | None, function: Callable[..., dict[str, Tensor]], *, device: torch.device, **arguments: Any
) -> dict[str, Tensor]:
    """What ``function(**arguments)`` gives, tensors by name, or what it once gave; on a device, in the same order.

    The key of the result holds the function, the code that it reaches, and all arguments by content. Where these have a
    ``generator``, its state is one of them, and afterwards it is where the call would have left it. Without a folder
    nothing is kept. Raises ValueError for a ``generator`` that is None, whose draws no key could hold, and TypeError
    for an argument without content, such as an open file.
    """
    if folder is None:
        return function(**arguments)
    generator: torch.Generator | None = arguments.get("generator")
    if generator is None and "generator" in arguments:
        raise ValueError("what is kept needs a generator, such as torch.Generator().manual_seed(0)")

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = function(**arguments)
        drawn = {} if generator is None else {"generator": generator.get_state()}
        return {f"found {name}": value for name, value in found.items()} | drawn, {"names": list(found)}

    label = function.__name__.strip("_")
    entry = kept(folder, key(label, by=function, **arguments), make, label=label)
    if generator is not None:
        generator.set_state(entry.tensors["generator"])
    return {name: entry.tensors[f"found {name}"].to(device) for name in entry.facts["names"]}
