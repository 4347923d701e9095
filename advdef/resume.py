"""Keeps what an evaluation has found so far, so that an interrupted one goes on at the next unfinished attack."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from advdef.artifacts import digest, write_atomically
from advdef.outcomes import Finding

__all__ = ["State", "key", "load", "save"]


@dataclass
class State:
    """Where an evaluation stands after some of its attempts, and the state of its generator then."""

    robust: Tensor
    adversarial: Tensor
    findings: list[Finding]
    generator: Tensor


def key(settings: Mapping[str, object], tensors: Iterable[Tensor], modules: Iterable[nn.Module]) -> str:
    """A name for all that determines an evaluation: settings, images, weights, and the code of the whole package."""
    content = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    content.update(_code().encode())
    for tensor in tensors:
        content.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    for module in modules:
        content.update(f"{module!r}{digest(module)}".encode())
    return content.hexdigest()[:20]


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
    """Hash of all files of the package: a change of any of them makes earlier results incomparable."""
    content = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()
