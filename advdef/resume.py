"""Keeps what an evaluation has found so far, so that an interrupted one goes on at the next unfinished attack."""

import functools
import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from advdef.artifacts import digest, write_atomically
from advdef.outcomes import Finding

__all__ = ["State", "key", "load", "save"]

_LIBRARIES = ("torch", "foolbox", "pyautoattack")
_MODULE_PARTS = {*vars(nn.Module()), "training"}  # what every module has, and digests hold


@dataclass
class State:
    """Where an evaluation stands after some of its attempts, and the state of its generator then."""

    robust: Tensor
    adversarial: Tensor
    findings: list[Finding]
    generator: Tensor


def key(settings: Mapping[str, object], tensors: Iterable[Tensor], *parts: object) -> str:
    """A name for all that determines an evaluation.

    That is its settings, its images, and the ``parts``: modules (weights, attributes, code) and attacks with their
    settings, in nested lists; besides, the code of the whole package, the versions of the libraries and the device.
    """
    content = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    content.update(_code().encode())
    for tensor in tensors:
        content.update(f"{tensor.device.type}{tensor.dtype}{tuple(tensor.shape)}".encode())
        content.update(_bytes(tensor))
    content.update(_described(parts, {}).encode())
    return content.hexdigest()[:20]


def _described(part: object, seen: dict[int, int]) -> str:
    """Text that differs when something that matters differs; a module met again is named by its number."""
    if isinstance(part, nn.Module):
        if id(part) in seen:
            return f"module {seen[id(part)]}"
        seen[id(part)] = len(seen)
        inside = {name: value for name, value in vars(part).items() if name not in _MODULE_PARTS}
        children = list(part.named_children())
        return f"{_source(type(part))} {digest(part)} {_described([inside, children], seen)}"
    if isinstance(part, partial):
        return f"{_source(part.func)} {_described([part.args, part.keywords], seen)}"
    if isinstance(part, Tensor):
        return f"tensor {part.dtype} {tuple(part.shape)} {hashlib.sha256(_bytes(part)).hexdigest()}"
    if isinstance(part, Mapping):
        return _described(list(part.items()), seen)
    if isinstance(part, list | tuple):
        return f"[{', '.join(_described(value, seen) for value in part)}]"
    return _source(part) if callable(part) else repr(part)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data


def _source(code: Any) -> str:
    """The name of a class or function and, outside the package and torch, its code."""
    name = f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', type(code).__qualname__)}"
    if name.startswith(("advdef.", "torch.")):
        return name
    try:
        return f"{name} {inspect.getsource(code)}"
    except (OSError, TypeError):  # typed at a prompt, or an object that can be called
        return name


def load(path: Path, device: torch.device) -> State | None:
    """What a file holds; None where there is none, or one that cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            facts = json.loads(file.metadata()["findings"])
    except (OSError, SafetensorError):
        return None
    findings = [
        Finding(tried=tensors[f"{i}.tried"].to(device), broken=tensors[f"{i}.broken"].to(device), **fact)
        for i, fact in enumerate(facts)
    ]
    return State(tensors["robust"].to(device), tensors["adversarial"].to(device), findings, tensors["generator"])


def save(path: Path, state: State) -> None:
    """Write the state atomically."""
    tensors = {"robust": state.robust, "adversarial": state.adversarial, "generator": state.generator}
    facts = []
    for i, finding in enumerate(state.findings):
        fact = dict(vars(finding))
        tensors |= {f"{i}.tried": fact.pop("tried"), f"{i}.broken": fact.pop("broken")}
        facts.append(fact)
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, safetensors.torch.save(content, {"findings": json.dumps(facts)}))


@functools.cache
def _code() -> str:
    """Hash of all files of the package and of the versions that matter: a change makes earlier results incomparable."""
    versions = sorted((d.name, d.version) for d in importlib.metadata.distributions() if d.name in _LIBRARIES)
    content = hashlib.sha256(repr(versions).encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()
