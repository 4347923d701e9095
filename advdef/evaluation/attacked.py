"""Attacked images in a file, so that others can judge them again, without the run that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from torch import Tensor, nn

from advdef.contract import ask, borrowed
from advdef.data import Dataset
from advdef.defenses.base import is_random, reseed
from advdef.draws import seeded
from advdef.evaluation.outcomes import Outcome
from advdef.norms import Norm, size
from advdef.store import write_atomically
from advdef.store.files import naming

__all__ = [
    "AttackedImages", "AttackedImagesError", "Rejudged", "broken_images", "content_checksum", "read_attacked",
    "rejudge", "still_wrong", "surely_wrong",
]  # fmt: skip

_FORMAT = "advdef attacked images 1"
_TENSORS = ("attacked", "originals", "labels", "indices")
_SLACK = 1e-6  # of a budget, as evaluations allow it
_PASSES = 10  # that judge a random defence
_SURELY = 0.2  # of the passes of a random defence, at most, get a broken image right


class AttackedImagesError(ValueError):
    """A file does not hold attacked images; the message says why."""


@dataclass(frozen=True, eq=False)
class AttackedImages:
    """M images that an attacker broke.

    Attributes:
        attacked: (M, C, H, W), float32 in [0, 1].
        originals: (M, C, H, W), float32 in [0, 1].
        labels: (M,), int64.
        indices: (M,), int64: their places in the test set.
        eps: The budget, a size in ``norm``.
        norm: Its norm.
        of: How many were broken; these are all of them, or a sample.
        facts: What else is told: the data and their checksum, the defence, the network.
    """

    attacked: Tensor
    originals: Tensor
    labels: Tensor
    indices: Tensor
    eps: float
    norm: Norm
    of: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: Path, *, limit: int | None = None) -> None:
        """Write a safetensors file; where it would be larger than ``limit`` bytes, a random sample of the images.

        Images are kept as bytes where all of them are whole grey levels, else as float32. Raises OSError.
        """
        tensors = {"attacked": _compact(self.attacked), "originals": _compact(self.originals)}
        tensors |= {"labels": self.labels.cpu(), "indices": self.indices.cpu()}
        each = max(1, sum(t[:1].numel() * t.element_size() for t in tensors.values()))
        if limit is not None and len(self) * each > limit:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
            rows = order[: max(1, limit // each)].sort().values
            tensors = {name: tensor[rows] for name, tensor in tensors.items()}
        told = {"eps": self.eps, "norm": self.norm, "of": self.of, "facts": dict(self.facts)}
        said = json.dumps(told, sort_keys=True)
        metadata = {"format": _FORMAT, "told": said, "checksum": content_checksum(tensors, said)}
        with naming(path):
            write_atomically(path, safetensors.torch.save({n: t.contiguous() for n, t in tensors.items()}, metadata))


def broken_images(outcome: Outcome, images: Tensor, labels: Tensor, indices: Tensor, **facts: Any) -> AttackedImages:
    """What an attacker broke of images (N, C, H, W) that were right before, with their places in the test set (N,).

    Of a random defence, those that at most a fifth of the passes got right: others may change sides by luck.
    """
    fallen = ~outcome.robust if outcome.shares is None else surely_wrong(outcome.shares)
    rows = torch.nonzero(outcome.clean & fallen)[:, 0]
    return AttackedImages(
        outcome.adversarial[rows].cpu(), images[rows].cpu(), labels[rows].cpu(), indices[rows.cpu()].cpu(),
        outcome.eps, outcome.norm, len(rows), facts,
    )  # fmt: skip


def surely_wrong(shares: Tensor) -> Tensor:
    """Which images a random defence gets wrong in at least four fifths of its passes, given the shares that are right.

    Others may change sides by luck.
    """
    return shares <= _SURELY


def read_attacked(path: Path) -> AttackedImages:
    """The images in a file; raises AttackedImagesError for one that holds none, or is damaged, and OSError."""
    content = path.read_bytes()
    try:
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
        tensors = safetensors.torch.load(content)
    except Exception as failure:
        raise AttackedImagesError(f"{path} is no safetensors file, or cut off") from failure
    if metadata.get("format") != _FORMAT or set(tensors) != set(_TENSORS):
        raise AttackedImagesError(f"{path} holds no attacked images: it is of another format")
    if content_checksum({name: tensors[name] for name in _TENSORS}, metadata["told"]) != metadata["checksum"]:
        raise AttackedImagesError(f"{path} is damaged: its content does not fit its checksum")
    told = json.loads(metadata["told"])
    if told["norm"] not in get_args(Norm):
        raise AttackedImagesError(f"{path} has the unknown norm {told['norm']!r}")
    attacked, originals = (_floats(tensors[name]) for name in ("attacked", "originals"))
    return AttackedImages(attacked, originals, tensors["labels"], tensors["indices"], **told)


@dataclass(frozen=True)
class Rejudged:
    """How many of some attacked images keep what was promised; None where that could not be asked.

    Attributes:
        images: How many there are.
        within: Of these, how many are finite, in [0, 1] and within their budget.
        original: How many originals and labels are those of the data set.
        broken: How many the defence gets wrong.
        allowed: How many it may get right: one in fifty, by the rounding of another machine; of a random defence, one
            in ten.
    """

    images: int
    within: int
    original: int | None
    broken: int | None
    allowed: int = 0

    @property
    def holds(self) -> bool:
        """Whether all is as promised."""
        intact = self.within == self.images and self.original in (None, self.images)
        return intact and (self.broken is None or self.images - self.broken <= self.allowed)


def rejudge(images: AttackedImages, *, defence: nn.Module | None = None, data: Dataset | None = None) -> Rejudged:
    """Judge attacked images again: budget and range; with ``data``, the originals; with ``defence``, its decisions.

    A random defence is asked ten times about each image, with fresh draws; most passes count.
    """
    change = (images.attacked.double() - images.originals.double()).nan_to_num(nan=float("inf"))
    in_range = ((images.attacked >= 0) & (images.attacked <= 1)).flatten(1).all(1)
    # sums over pixels round by more than the slack in float32, so the change is measured in float64
    within = in_range & (size(change, images.norm) <= images.eps * (1 + _SLACK) + _SLACK)
    original = None
    if data is not None:
        known = images.indices < len(data.test)
        rows = images.indices.clamp(max=len(data.test) - 1).to(data.test.labels.device)
        same = data.test.images[rows].cpu().shape == images.originals.shape
        pixels = data.test.images[rows].cpu().float() / 255 if same else images.originals + 1
        equal = (pixels == images.originals).flatten(1).all(1) & (data.test.labels[rows].cpu() == images.labels)
        original = int((known & equal).sum())
    if defence is None:
        return Rejudged(len(images), int(within.sum()), original, None)
    allowed = len(images) // (10 if is_random(defence) else 50)
    return Rejudged(len(images), int(within.sum()), original, int(still_wrong(defence, images).sum()), allowed)


def still_wrong(defence: nn.Module, images: AttackedImages) -> Tensor:
    """Which of the images (M,) most passes of the defence get wrong, booleans."""
    device = next((p.device for p in defence.parameters()), torch.device("cpu"))
    passes = _PASSES if is_random(defence) else 1
    right = torch.zeros(len(images))
    with borrowed(defence, quiet=True), torch.no_grad(), seeded(0, device):
        reseed(defence, 0)
        for _ in range(passes):
            for rows in torch.arange(len(images)).split(250):
                logits = ask(defence, images.attacked[rows].to(device))
                right[rows] += (logits.argmax(1).cpu() == images.labels[rows]).float()
    return right <= passes / 2


def _compact(images: Tensor) -> Tensor:
    """The images as bytes, if that loses nothing."""
    levels = (images.cpu() * 255).round().to(torch.uint8)
    return levels if torch.equal(_floats(levels), images.cpu()) else images.cpu()


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def content_checksum(tensors: Mapping[str, Tensor], told: str) -> str:
    """SHA-256 of tensors, with their names, types and order, and of the facts that are stored beside them."""
    content = hashlib.sha256(told.encode())
    for name, tensor in tensors.items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
