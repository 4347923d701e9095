"""Finds what a command names: the function that builds a network, its weights in a file, a defence of one's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from advdef.data import Dataset, dataset_name, load
from advdef.data.own import read_channels, read_size
from advdef.data.torchvision_wheel import torchvision
from advdef.defenses import Defense
from advdef.models import Wrapped, wrap

__all__ = ["Brought", "load_weights", "made_by", "named_function"]

_NESTED = ("state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True)
class Brought:
    """A network and its data as a command names them, in plain values: any process may find them again.

    Attributes:
        data: The name of the data set, as :func:`advdef.data.load` takes it.
        model: ``module:function``, which builds the network.
        weights: A file of its weights.
        trust: Whether a pickled file of weights is read.
        mean: Of the normalisation, with commas between the channels.
        std: Likewise.
        output: Where the logits are in what the network returns: a name or a place.
        size: What pictures of a folder are resized to, "64" or "48x64".
        channels: How many they are read with, 1 or 3.
        device: Where all of it lives.
        transfer: ``module:function`` of each other network from which attacks are transferred.
    """

    data: str
    model: str
    weights: Path | None = None
    trust: bool = False
    mean: str | None = None
    std: str | None = None
    output: str | None = None
    size: str | None = None
    channels: int | None = None
    device: str = "cpu"
    transfer: tuple[str, ...] = ()

    def dataset(self) -> Dataset:
        """The data set; raises ValueError and DatasetUnavailable, in one line."""
        size, channels = read_size(self.size), read_channels(self.channels)
        return load(dataset_name(self.data), size=size, channels=channels, device=self.device)

    def network(self) -> nn.Module:
        """The network with its weights, normalised and on its device; raises ValueError, in one line."""
        built = _built(self.model)
        asked = any(value is not None for value in (self.mean, self.std, self.output))
        if asked and isinstance(built, Wrapped | Defense):
            raise ValueError(f"{self.model} returns a {type(built).__name__}: it has its own mean, std and output")
        if self.weights is not None:
            load_weights(built, self.weights, trust=self.trust)
            built.eval()  # built to hold weights that are trained
        return self._ready(built)

    def sources(self) -> tuple[nn.Module, ...]:
        """The networks that attacks are transferred from, on the device, with the weights that their functions give.

        A plain one is wrapped as the network is, with ``mean``, ``std`` and ``output``; a wrapped one stays as it is.
        Raises ValueError, in one line.
        """
        found = []
        for name in self.transfer:
            built = _built(name)
            try:
                found.append(self._ready(built))
            except ValueError as failure:
                raise ValueError(f"{name}: {failure}") from failure
        return tuple(found)

    def _ready(self, built: nn.Module) -> nn.Module:
        if not isinstance(built, Wrapped | Defense):
            where = int(self.output) if self.output is not None and self.output.isdecimal() else self.output
            built = wrap(built, mean=_numbers(self.mean, 0.0), std=_numbers(self.std, 1.0), output=where)
        return built.to(self.device)


def _built(name: str) -> nn.Module:
    built = made_by(name)
    if not isinstance(built, nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module, not {type(built).__name__}")
    return built


def _numbers(text: str | None, default: float) -> float | list[float]:
    """A number, or several with commas between them."""
    if text is None:
        return default
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} are no numbers with commas between them, such as 0.485,0.456,0.406") from None
    return found if len(found) > 1 else found[0]


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

    A pickled file can run any code when it is read. Of a wrapped network, the weights may be those of the network
    inside. Raises ValueError, in one line, for a file that is none, and for
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
    if isinstance(model, Wrapped) and not weights.keys() & model.state_dict().keys():
        model = model.model  # what is kept are mostly the weights of the network alone
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
