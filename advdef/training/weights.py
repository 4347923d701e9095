"""Weights on disk, under a key of all that determines them, so that nothing is trained twice."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from advdef.data import Dataset
from advdef.devices import forked, seed_generators
from advdef.store import Entry, StoreWarning, cache_folder, identity, kept, key, place, write_atomically
from advdef.training.loop import LAYOUT, TrainingDiverged, precision

__all__ = ["Training", "digest", "trained"]


@dataclass(frozen=True)
class Training:
    """A trained model, with what its training function returned (on the CPU) and what the training took.

    ``seconds`` is the time of the training itself, also where ``from_cache`` says that the result was only read.
    """

    model: nn.Module
    history: dict[str, Tensor]
    seconds: float = field(metadata={"content": False})
    from_cache: bool = field(metadata={"content": False})


def trained(
    build: Callable[[], nn.Module],
    train: Callable[..., dict[str, Tensor] | None],
    data: Dataset,
    *,
    seed: int,
    **settings: Any,
) -> Training:
    """Call ``train(build(), data.train, generator=..., **settings)`` under ``seed``, or return what it once gave.

    The key of the result holds, all by content (see :func:`advdef.store.key`): the built model with its weights, the
    training function and its settings, the seed, the training images and labels, the name of the data set, the code
    that is reached from there, the device type, the precision of training, and the environment. The model comes back in
    evaluation mode.

    Where training diverges, the last good weights are kept, and TrainingDiverged names their file. Warns with
    StoreWarning, and keeps nothing, where training changed the model besides its weights. Raises TypeError for a
    setting that has no content, such as an open file.
    """
    split, folder = data.train, cache_folder("weights")
    device = split.images.device
    with forked(device):
        seed_generators(seed, device)
        # the layout that training leaves, so that a cached model computes the same floats as a trained one
        model = build().to(device).to(memory_format=LAYOUT)  # type: ignore[call-overload]
        given = {**(train.keywords if isinstance(train, partial) else {}), **settings}
        asked = key(
            "training",
            model=model,
            modes=[module.training for module in model.modules()],
            trainable=[parameter.requires_grad for parameter in model.parameters()],
            train=partial(train.func, *train.args) if isinstance(train, partial) else partial(train),
            settings=dict(sorted(given.items())),
            seed=seed,
            split=split,
            name=data.name,
            device=device.type,
            precision=precision(device),
        )
        before, label = _besides(model), f"{data.name}-{type(model).__name__.lower()}"

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            try:
                history = train(model, split, generator=torch.Generator().manual_seed(seed), **settings) or {}
            except TrainingDiverged as failure:
                file = place(folder, asked, label=label).with_suffix(".last-good.safetensors")
                where = f"kept in {file}" if _written(file, failure.checkpoint) else f"which {folder} cannot keep"
                raise TrainingDiverged(f"{failure}, {where}", failure.checkpoint, failure.epoch) from failure
            tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
            # a safetensors file does not keep the order of its tensors
            return tensors | {f"history.{n}": v for n, v in history.items()}, {"history": list(history)}

        def check(entry: Entry) -> str | None:
            wanted = {f"model.{name}": value.shape for name, value in model.state_dict().items()}
            found = {name: value.shape for name, value in entry.tensors.items() if name.startswith("model.")}
            whole = found == wanted and all(f"history.{name}" in entry.tensors for name in entry.facts["history"])
            return None if whole else "its tensors are not those of the model"

        entry = kept(folder, asked, make, label=label, check=check)
        if not entry.from_store and _besides(model) != before:
            place(folder, asked, label=label).unlink(missing_ok=True)
            what = (
                "training has changed the model besides its weights (an attribute, a buffer that is not saved, a dtype)"
            )
            warnings.warn(f"{what}: the result is returned but not kept", StoreWarning, stacklevel=2)
    if entry.from_store:
        model.load_state_dict({n.removeprefix("model."): v for n, v in entry.tensors.items() if n.startswith("model.")})
    history = {name: entry.tensors[f"history.{name}"] for name in entry.facts["history"]}
    return Training(model.eval(), history, entry.seconds, entry.from_store)


def _besides(model: nn.Module) -> str:
    """An identity of all that a model holds and a file of its weights does not."""
    held = {name: (value.dtype, tuple(value.shape)) for name, value in model.state_dict().items()}
    own = {*vars(nn.Module()), "training"}
    attributes = [[(n, v) for n, v in vars(m).items() if n not in own] for m in model.modules()]
    unsaved = [(name, value) for name, value in model.named_buffers() if name not in held]
    return identity([str(held), attributes, unsaved])


def _written(file: Path, weights: dict[str, Tensor]) -> bool:
    """Whether weights could be written to a file."""
    copies = {n: v.detach().cpu().clone(memory_format=torch.contiguous_format) for n, v in weights.items()}
    try:
        write_atomically(file, safetensors.torch.save(copies))
    except OSError:
        return False
    return True


def digest(model: nn.Module) -> str:
    """A hash of all weights and buffers of a model."""
    return identity(dict(model.state_dict()))
