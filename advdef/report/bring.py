"""Finds what a command names: the function that builds a network, its weights in a file, a defence of one's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from advdef.data.torchvision_wheel import torchvision

__all__ = ["load_weights", "made_by", "named_function"]

_NESTED = ("state_dict", "model_state_dict", "model", "net")


def named_function(name: str) -> Callable[..., Any]:
    """The function ``module:function``; modules of the working folder count. Raises ValueError, in one line."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"{name!r} names no function; write module:function, such as my_module:build")
    if module_name.endswith(".py"):
        raise ValueError(f"{name!r}: name the module, {Path(module_name).stem}:{function_name}, from its own folder")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = _imported(module_name)
    except Exception as failure:
        raise ValueError(f"{module_name} cannot be imported: {_told(failure)}") from failure
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [n for n, found in vars(module).items() if getattr(found, "__module__", None) == module.__name__]
        there = [found for found in own if callable(getattr(module, found)) and found[0] != "_"]
        raise ValueError(f"{module_name} has no function {function_name!r}; it has {', '.join(there[:12]) or 'none'}")
    found: Callable[..., Any] = function
    return found


def made_by(name: str, *arguments: Any) -> Any:
    """What the function ``module:function`` returns; raises ValueError, in one line, for what it raises."""
    function = named_function(name)
    try:
        return function(*arguments)
    except Exception as failure:
        raise ValueError(f"{name} failed: {_told(failure)}") from failure


def load_weights(model: nn.Module, path: Path, *, trust: bool = False) -> None:
    """Put weights from a safetensors file, or with ``trust`` from a pickled one (.pt, .pth, .bin), into a network.

    A pickled file can run any code when it is read. Raises ValueError, in one line, for a file that is none, and for
    weights that are not those of the network; OSError.
    """
    if path.suffix == ".safetensors":
        try:
            weights: Any = safetensors.torch.load(path.read_bytes())
        except OSError:
            raise
        except Exception as failure:
            raise ValueError(f"{path} is no safetensors file, or cut off") from failure
    elif not trust:
        raise ValueError(f"{path} is a pickled file, which can run any code when it is read: --trust, if you trust it")
    else:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=False)
        except OSError:
            raise
        except Exception as failure:
            raise ValueError(f"{path} cannot be read as weights: {_told(failure)}") from failure
    for name in _NESTED:
        if isinstance(weights, Mapping) and isinstance(weights.get(name), Mapping):
            weights = weights[name]
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} holds no weights by name (a state_dict)")
    weights = {name.removeprefix("module."): value for name, value in weights.items()}  # of nn.DataParallel
    try:
        model.load_state_dict(weights)
    except RuntimeError as failure:
        raise ValueError(f"{path} has weights of another network: {_told(failure)}") from failure


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except RuntimeError as failure:
        if "torchvision::" not in str(failure):
            raise
    torchvision()  # whose wheel does not load beside a CPU build of torch without help
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def _told(failure: BaseException) -> str:
    said = " ".join(str(failure).split())
    return f"{type(failure).__name__}: {said if len(said) < 200 else f'{said[:200]} ...'}"
