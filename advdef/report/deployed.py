"""A network, its images and a defence, made ready to be judged; what would give a wrong number is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advdef.contract import ask, borrowed
from advdef.data import Dataset, Split, load
from advdef.defenses import Defense
from advdef.draws import seeded
from advdef.evaluation import bare
from advdef.models import Wrapped, wrap
from advdef.models.wrapped import check_mode
from advdef.norms import BallNorm
from advdef.report.bring import made_by
from advdef.report.defences import TRAINED, defended
from advdef.store import identity

__all__ = ["Deployed", "deployed", "facts_of"]


@dataclass(frozen=True)
class Deployed:
    """A defence ready to be judged, on the device of its network, and what is known of it.

    ``transfer`` are the other networks, by name, from which attacks are transferred.
    """

    defence: Defense
    data: Dataset
    name: str
    network: str
    device: torch.device
    notes: tuple[str, ...]
    transfer: Mapping[str, nn.Module]

    def sample(self, images: int) -> tuple[Split, Tensor]:
        """So many test images, or all, drawn at random but always the same, and their places in the test set (N,).

        Raises ValueError for no whole number of at least 1.
        """
        if type(images) is not int or images < 1:
            raise ValueError(f"images must be a whole number of at least 1, not {images!r}")
        test = self.data.test
        rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:images]
        at = rows.to(self.device)
        return Split(test.images[at], test.labels[at]), rows


def deployed(
    model: nn.Module, data: Dataset | Split | str, *, eps: float, norm: BallNorm = "Linf",
    defence: str | Callable[[nn.Module], Defense] = "undefended", name: str | None = None, epochs: int = 5,
    seed: int = 0, transfer: Sequence[nn.Module] = (),
) -> Deployed:  # fmt: skip
    """The defence that :func:`robustness` judges, and the data on its device.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K), in evaluation mode. A defence is judged as it is.
        data: A data set, its test images alone (a ``Split``), or a name as :func:`advdef.data.load` takes it.
        eps: The budget that trainings are for, a size in ``norm``.
        norm: "Linf" or "L2".
        defence: A name of :mod:`advdef.report.defences`, or a function that puts one's own in front of the model, given
            itself or as ``module:function``; modules of the working folder count.
        name: What the report calls the defence. Default: its name, of one's own that of its class.
        epochs: Of each training that the defence needs.
        seed: Of each training.
        transfer: Other networks for the same classes and image size, from which attacks are transferred.

    Raises TypeError and ValueError, as :func:`robustness` does, for a model, data, a defence or a network of
    ``transfer`` that would give a wrong number.
    """
    data = load(data) if isinstance(data, str) else data
    if not isinstance(data, Dataset | Split):
        what = "Split.from_loader(loader)" if hasattr(data, "__iter__") else "load(name)"
        raise TypeError(f"data must be a Dataset, a Split or a name, not {type(data).__name__}: {what} makes one")
    own = isinstance(model, Defense)
    ready: nn.Module = model if isinstance(model, Defense) else _wrapped(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    whole = data if isinstance(data, Dataset) else Dataset.from_splits(data)
    whole = _moved(whole, device)
    classes = _examined(ready, whole.test)
    if isinstance(data, Split):
        whole = Dataset.from_splits(whole.test, class_names=tuple(map(str, range(classes))))
    elif classes != data.num_classes:
        raise ValueError(f"the model has {classes} classes, and {data.name} has {data.num_classes}: not the same ones")
    if own and defence != "undefended":
        raise ValueError("the model is a defence already: judge it as it is, or give the network alone")
    sources = _sources(transfer, ready, whole.test, classes, device)
    if isinstance(ready, Defense):
        built, called = ready, type(model).__name__
    elif isinstance(defence, str) and ":" not in defence:
        built = defended(defence, ready, whole, eps=eps, norm=norm, epochs=epochs, seed=seed)
        called = defence
    else:
        made = made_by(defence, ready) if isinstance(defence, str) else defence(ready)
        if not isinstance(made, Defense):
            raise TypeError(f"defence must make a Defense (advdef.defenses), not {type(made).__name__}")
        built, called = made, type(made).__name__
    notes = []
    if isinstance(defence, str) and defence in TRAINED:
        spent = "" if defence == "nip" else f" ({epochs} epoch{'s' * (epochs > 1)})"
        notes.append(
            f"{name or defence} was made by advdef: {TRAINED[defence]}{spent}. Its authors' own training may do better."
        )
    return Deployed(built, whole, name or called, facts_of(model)["name"], device, tuple(notes), sources)


def facts_of(model: nn.Module) -> dict[str, Any]:
    """The class of a network, and how many parameters it has, by name."""
    inner = model.model if isinstance(model, Wrapped) else model
    return {"name": type(inner).__name__, "parameters": sum(p.numel() for p in model.parameters())}


def _wrapped(model: nn.Module) -> Wrapped:
    return model if isinstance(model, Wrapped) else wrap(model)


def _sources(
    transfer: Sequence[nn.Module], model: nn.Module, test: Split, classes: int, device: torch.device
) -> dict[str, nn.Module]:
    """The networks that attacks are transferred from, by name.

    Raises TypeError and ValueError for one from which a transferred attack would say nothing, or nothing new.
    """
    if not isinstance(transfer, Sequence) or isinstance(transfer, str):
        raise TypeError(f"transfer must be a list of networks, not {type(transfer).__name__}")
    found: dict[str, nn.Module] = {}
    known = {identity(_wrapped(bare(model))): "the model itself"}
    for number, given in enumerate(transfer, start=1):
        name = f"source {number}"
        if isinstance(given, Defense):
            raise ValueError(f"transfer {name} is a defence: give the network alone")
        try:
            source = _wrapped(given)
            where = next((p.device for p in source.parameters()), device)
            if where != device:
                raise ValueError(f"it is on {where}, and the model on {device}")
            own = _examined(source, test)
        except (TypeError, ValueError) as failure:
            kind = TypeError if isinstance(failure, TypeError) else ValueError
            raise kind(f"transfer {name}: {failure}") from failure
        if own != classes:
            raise ValueError(f"transfer {name} has {own} classes, and the model {classes}: not the same ones")
        content = identity(source)
        if content in known:
            raise ValueError(f"transfer {name} is {known[content]}: only another network adds something")
        found[name], known[content] = source, f"{name} again"
    return found


def _moved(data: Dataset, device: torch.device) -> Dataset:
    """The data set on a device."""
    if data.test.images.device == device:
        return data
    parts = {
        n: Split(s.images.to(device), s.labels.to(device)) for n, s in (("train", data.train), ("test", data.test))
    }
    return Dataset(
        data.name, parts["train"], parts["test"], data.num_classes, data.shape, data.class_names, data.checksum
    )


def _examined(model: nn.Module, test: Split) -> int:
    """How many classes a model has; raises ValueError, with what to do, for one of which no number would be right."""
    if not len(test):
        raise ValueError("the data set has no test images")
    images = test.head(min(16, len(test))).float_images()
    check_mode(model)
    try:
        with borrowed(model, quiet=True), torch.no_grad(), seeded(0, images.device):
            logits = ask(model, images)
    except (RuntimeError, IndexError) as failure:
        said = " ".join(str(failure).split())
        shape = " x ".join(map(str, images.shape[1:]))
        advice = "size and channels (--size, --channels) say how a folder's pictures are read"
        raise ValueError(f"the model does not take images of {shape} ({said:.160}); {advice}") from failure
    if logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ValueError(f"the model must return logits ({len(images)}, classes), not {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError("the model returns NaN or infinite logits: look at its weights, and at mean and std")
    if bool(((logits >= 0) & (logits <= 1)).all()):
        one = bool(((logits.sum(1) - 1).abs() < 1e-4).all())
        two = logits.shape[1] == 2 and bool((logits[:, 0] == 0).all())
        if one or two:
            what = "a softmax" if one else "a sigmoid"
            raise ValueError(f"the model seems to return probabilities: take {what} off its end; logits are needed")
    return logits.shape[1]
