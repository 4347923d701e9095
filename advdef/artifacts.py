"""Trained weights on disk, keyed by all that determines them, so that an interrupted run trains nothing twice."""

import ast
import hashlib
import inspect
import json
import os
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from advdef.data import Dataset
from advdef.training import LAYOUT, TrainingDiverged

__all__ = ["Training", "cache_folder", "digest", "fingerprint", "trained", "write_atomically"]

_ALWAYS = (
    "training",
    "data",
    "attacks.gradient",
    "attacks.losses",
    "attacks.wrappers",
    "attacks._balls",
    "attacks._restarts",
    "attacks._common",
)


@dataclass(frozen=True)
class Training:
    """A trained model, what its training function returned (on the CPU), and what it cost when it really ran."""

    model: nn.Module
    history: dict[str, Tensor]
    seconds: float
    from_cache: bool


def cache_folder() -> Path:
    """``$ADVDEF_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("ADVDEF_CACHE") or platformdirs.user_cache_dir("advdef")) / "weights"


def trained(
    build: Callable[[], nn.Module],
    train: Callable[..., dict[str, Tensor] | None],
    data: Dataset,
    *,
    seed: int,
    **settings: Any,
) -> Training:
    """``train(build(), data.train, generator=..., **settings)`` under ``seed``, or the weights of an earlier such call.

    The key holds the built model (its repr and its weights before training), the training function and its settings,
    the seed, the data set's checksum and training size, the device type, the torch version, and the code of the modules
    involved (docstrings and comments aside). ``settings`` must print alike when they are alike; of a module among them,
    the weights count too. Weights are written atomically as safetensors. Where training diverges, the last good ones
    are, and TrainingDiverged names the file.
    """
    device = data.train.images.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = build()
        function = train.func if isinstance(train, partial) else train
        given = {**(train.keywords if isinstance(train, partial) else {}), **settings}
        functions = [v for v in given.values() if callable(v) and not isinstance(v, nn.Module)]
        parts = [model, *(v for v in given.values() if isinstance(v, nn.Module))]
        key = {
            "model": repr(model),
            "start": digest(model),
            "train": f"{function.__module__}.{function.__qualname__}",
            "settings": {name: _printed(value) for name, value in sorted(given.items())},
            "seed": seed,
            "data": [data.name, data.checksum, len(data.train)],
            "device": device.type,
            "torch": torch.__version__,
            "code": fingerprint(function, *functions, *map(type, (m for part in parts for m in part.modules()))),
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
        path = cache_folder() / f"{data.name}-{type(model).__name__.lower()}-{name}.safetensors"
        # the layout that training leaves, so that a cached model computes the same floats as a trained one
        model.to(device).to(memory_format=LAYOUT)  # type: ignore[call-overload]
        if path.exists():
            return _load(path, model, device)
        started = time.perf_counter()
        try:
            history = train(model, data.train, generator=torch.Generator().manual_seed(seed), **settings) or {}
        except TrainingDiverged as failure:
            kept = path.with_suffix(".last-good.safetensors")
            write_atomically(kept, safetensors.torch.save({n: _saved(v) for n, v in failure.checkpoint.items()}))
            raise TrainingDiverged(f"{failure}, kept in {kept}", failure.checkpoint, failure.epoch) from failure
        seconds = time.perf_counter() - started
    tensors = {f"model.{name}": _saved(value) for name, value in model.state_dict().items()}
    tensors |= {f"history.{name}": _saved(value) for name, value in history.items()}
    # a safetensors file does not keep the order of its tensors
    metadata = {"key": json.dumps(key, sort_keys=True), "seconds": repr(seconds), "history": json.dumps(list(history))}
    write_atomically(path, safetensors.torch.save(tensors, metadata))
    return Training(model, {n: v.detach().cpu() for n, v in history.items()}, seconds, from_cache=False)


def _saved(value: Tensor) -> Tensor:
    """A tensor as safetensors wants it: contiguous, and sharing memory with no other."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def digest(model: nn.Module) -> str:
    """Hash of all weights and buffers."""
    content = hashlib.sha256()
    for name, value in model.state_dict().items():
        content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content.update(_saved(value).reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()[:16]


def _printed(value: Any) -> str:
    """A setting as text that is alike for alike settings; a function is named by where it stands."""
    if isinstance(value, nn.Module):
        return f"{value!r} {digest(value)}"
    if not callable(value):
        return repr(value)
    if "<" in getattr(value, "__qualname__", "<"):
        raise ValueError(f"{value!r} has no name that a cache key could hold: use a module-level function")
    return f"{value.__module__}.{value.__qualname__}"


def _load(path: Path, model: nn.Module, device: torch.device) -> Training:
    with safe_open(path, framework="pt", device=str(device)) as file:
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
        seconds, order = float(file.metadata()["seconds"]), json.loads(file.metadata().get("history", "[]"))
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    history = {n.removeprefix("history."): t.cpu() for n, t in tensors.items() if n.startswith("history.")}
    return Training(model.eval(), {name: history[name] for name in order or history}, seconds, from_cache=True)


def fingerprint(*objects: Any) -> str:
    """Hash of the code of the advdef modules that the objects live in, of what these import from others, and of those
    that all training runs through.

    Of a function that lives elsewhere, in a notebook say, its own code counts. Docstrings, comments and layout do not.
    """
    names = {f"advdef.{name}" for name in _ALWAYS} | {o.__module__ for o in objects}
    for home in {o.__module__ for o in objects if o.__module__.startswith("advdef.")}:
        names |= {str(getattr(value, "__module__", "")) for value in vars(sys.modules[home]).values()}
    sources = [inspect.getsource(sys.modules[name]) for name in sorted(names) if name.startswith("advdef.")]
    own = [o for o in objects if inspect.isfunction(o) and not o.__module__.startswith("advdef.")]
    sources += sorted(textwrap.dedent(inspect.getsource(function)) for function in own)
    content = hashlib.sha256()
    for source in sources:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(body := getattr(node, "body", None), list):
                node.body = [statement for statement in body if not _is_text(statement)]  # type: ignore[attr-defined]
        content.update(ast.dump(tree).encode())
    return content.hexdigest()[:16]


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename: it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
