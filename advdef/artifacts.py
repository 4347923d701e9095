"""Trained weights on disk, keyed by everything that determines them, so that an interrupted run trains nothing twice."""

import ast
import hashlib
import inspect
import json
import os
import sys
import tempfile
import time
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

__all__ = ["Training", "cache_folder", "fingerprint", "trained", "write_atomically"]


@dataclass(frozen=True)
class Training:
    """A trained model, what its training function returned, and what it cost when it really ran."""

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

    The key holds the built model (its repr and class), the training function and its settings, the seed, the data set's
    checksum and training size, the device type, the torch version, and the code of the modules involved (docstrings and
    comments aside). ``settings`` must print alike when they are alike. Weights are written atomically as safetensors.
    """
    device = data.train.images.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = build()
        function = train.func if isinstance(train, partial) else train
        fixed = train.keywords if isinstance(train, partial) else {}
        key = {
            "model": repr(model),
            "train": f"{function.__module__}.{function.__qualname__}",
            "settings": {name: repr(value) for name, value in sorted({**fixed, **settings}.items())},
            "seed": seed,
            "data": [data.name, data.checksum, len(data.train)],
            "device": device.type,
            "torch": torch.__version__,
            "code": fingerprint(function, *(type(module) for module in model.modules())),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
        path = cache_folder() / f"{data.name}-{type(model).__name__.lower()}-{digest}.safetensors"
        model.to(device)
        if path.exists():
            return _load(path, model, device)
        started = time.perf_counter()
        history = train(model, data.train, generator=torch.Generator().manual_seed(seed), **settings) or {}
        seconds = time.perf_counter() - started
    tensors = {f"model.{name}": value.contiguous().cpu() for name, value in model.state_dict().items()}
    tensors |= {f"history.{name}": value.contiguous().cpu() for name, value in history.items()}
    metadata = {"key": json.dumps(key, sort_keys=True), "seconds": repr(seconds)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))
    return Training(model, history, seconds, from_cache=False)


def _load(path: Path, model: nn.Module, device: torch.device) -> Training:
    with safe_open(path, framework="pt", device=str(device)) as file:
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
        seconds = float(file.metadata()["seconds"])
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    history = {n.removeprefix("history."): t for n, t in tensors.items() if n.startswith("history.")}
    return Training(model.eval(), history, seconds, from_cache=True)


def fingerprint(*objects: Any) -> str:
    """Hash of the code of the advdef modules that the objects live in, with training, data and gradient attacks.

    Docstrings, comments and layout do not count.
    """
    names = {"advdef.training", "advdef.data", "advdef.attacks.gradient"} | {inspect.getmodule(o).__name__ for o in objects}  # type: ignore[union-attr]
    digest = hashlib.sha256()
    for name in sorted(n for n in names if n.startswith("advdef.")):
        tree = ast.parse(inspect.getsource(sys.modules[name]))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename: it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
