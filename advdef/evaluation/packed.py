"""The attacked images of all defences of a page in one small file: each image once, each perturbation once."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from torch import Tensor

from advdef.evaluation.answered import Answered
from advdef.evaluation.attacked import AttackedImages, AttackedImagesError, content_checksum, surely_wrong
from advdef.evaluation.outcomes import Outcome
from advdef.evaluation.threats import Threat
from advdef.norms import Norm
from advdef.store import write_atomically
from advdef.store.files import naming

__all__ = ["PACKED_FORMAT", "AttackedSet", "PackedImages", "attacked_sets", "is_packed", "pack", "read_packed"]

PACKED_FORMAT = "advdef attacked images of a record 1"
"""What the metadata of such a file call it."""

_TENSORS = ("originals", "labels", "indices", "steps", "step_image", "step_eps", "exact", "exact_image", "sets")
_SEEN = "seen: "  # and the name of a defence
_STEPS = 127  # of a budget, to each side
_CLEAN, _ROBUST, _BROKEN = 1, 2, 4


@dataclass(frozen=True, eq=False)
class AttackedSet:
    """What one attacker made of N images at one budget, and what one defence said to it.

    Attributes:
        defence: Its name on the page.
        threat: What the attacker knows.
        eps: The budget, a size in ``norm``.
        norm: Its norm.
        clean: (N,) booleans: right without an attack.
        robust: (N,) booleans: right under everything that was tried.
        broken: (N,) booleans: right without an attack, and wrong under what was found; of a random defence, in at least
            four fifths of its passes.
        attacked: (N, C, H, W), float32 in [0, 1]: what broke an image, else the image itself.
    """

    defence: str
    threat: Threat
    eps: float
    norm: Norm
    clean: Tensor
    robust: Tensor
    broken: Tensor
    attacked: Tensor


@dataclass(frozen=True, eq=False)
class PackedImages:
    """The first N images that the attackers of a page met, and what became of each of them.

    Attributes:
        originals: (N, C, H, W), float32 in [0, 1].
        labels: (N,), int64.
        indices: (N,), int64: their places in the test set.
        of: How many images they met; these are the first of them, or all.
        sets: What each attacker made of them, by defence and budget.
        facts: What else is told: page, data set and its checksum, profile, seed.
        answers: What all defences answer to the first few of the images; None where nobody asked.
    """

    originals: Tensor
    labels: Tensor
    indices: Tensor
    of: int
    sets: tuple[AttackedSet, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    answers: Answered | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def broken(self, one: AttackedSet) -> AttackedImages:
        """The images of a set that its attacker broke."""
        rows = torch.nonzero(one.broken)[:, 0]
        told = dict(self.facts) | {"defence": one.defence, "threat": one.threat}
        return AttackedImages(
            one.attacked[rows], self.originals[rows], self.labels[rows], self.indices[rows], one.eps, one.norm,
            len(rows), told,
        )  # fmt: skip


def attacked_sets(defence: str, curves: Mapping[Threat, Mapping[float, Outcome]]) -> list[AttackedSet]:
    """What attackers left of a defence at each budget, from the outcomes of an evaluation."""
    found = []
    for threat, curve in curves.items():
        for eps, outcome in sorted(curve.items()):
            wrong = ~outcome.robust if outcome.shares is None else surely_wrong(outcome.shares)
            clean, robust, broken = (t.cpu() for t in (outcome.clean, outcome.robust, outcome.clean & wrong))
            moved = outcome.adversarial.cpu()
            found.append(AttackedSet(defence, threat, eps, outcome.norm, clean, robust, broken, moved))
    return found


def pack(
    path: Path,
    images: PackedImages,
    wrong: Callable[[str, AttackedImages], Tensor],
    *,
    limit: int,
) -> PackedImages:
    """Write as many of the images as fit into ``limit`` bytes, the first ones, with all that became of them.

    A perturbation in Linf is kept in 1/127 of the budget that it was found with, a byte for each value. Where the
    defence does not get wrong what is read back, and in other norms, the attacked image is kept in full.

    Args:
        path: The file.
        images: All that the attackers met; their originals are whole grey levels.
        wrong: Which of some attacked images (M,) the defence of this name gets wrong, booleans.
        limit: The most bytes.

    Returns what was written. Raises ValueError for other originals, or where not even one image fits; OSError.
    """
    points = _Points(images)
    exact = torch.tensor([norm != "Linf" for norm in points.norm], dtype=torch.bool)
    count = _fitting(images, points, exact, limit)
    for defence, rows in points.by_defence():
        rows = rows[(points.image[rows] < count) & ~exact[rows]]
        if len(rows):
            at = points.image[rows]
            again = AttackedImages(
                points.decoded(rows), images.originals[at], images.labels[at], images.indices[at],
                max(points.eps[row] for row in rows.tolist()), "Linf", len(rows),
            )  # fmt: skip
            exact[rows[~wrong(defence, again)]] = True
    count = _fitting(images, points, exact, limit)
    content = _content(images, points, exact, count)
    with naming(path):
        write_atomically(path, content)
    return _read(content, path)


def is_packed(path: Path) -> bool:
    """Whether a file calls itself one of :func:`pack`; raises OSError."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return PACKED_FORMAT.encode() in stream.read(min(length, 10_000_000))


def read_packed(path: Path) -> PackedImages:
    """The images in a file; raises AttackedImagesError for one that holds none, or is damaged, and OSError."""
    return _read(path.read_bytes(), path)


class _Points:
    """The distinct attacked images of all sets: what a smaller budget broke, a larger one has again.

    Attributes:
        image: (P,), int64: the row of the original of each.
        eps: The smallest budget that has it; its norm is ``norm``, the defence ``defence``.
        attacked: What it is, (C, H, W) each.
        places: For each set and image the point, or -1: (S, N), int64.
    """

    def __init__(self, images: PackedImages) -> None:
        self.originals, known = images.originals, dict[tuple[str, int, str], int]()
        self.eps, self.norm, self.defence = list[float](), list[Norm](), list[str]()
        self.attacked, rows = list[Tensor](), list[int]()
        self.places = torch.full((len(images.sets), len(images)), -1)
        order = sorted(range(len(images.sets)), key=lambda i: images.sets[i].eps)
        for number in order:
            one = images.sets[number]
            for row in torch.nonzero(one.broken)[:, 0].tolist():
                moved = one.attacked[row].contiguous()
                place = known.setdefault((one.defence, row, hashlib.sha256(moved.numpy().data).hexdigest()), len(rows))
                if place == len(rows):
                    rows.append(row)
                    self.eps.append(one.eps)
                    self.norm.append(one.norm)
                    self.defence.append(one.defence)
                    self.attacked.append(moved)
                self.places[number, row] = place
        self.image = torch.tensor(rows, dtype=torch.int64)

    def by_defence(self) -> Iterator[tuple[str, Tensor]]:
        for defence in dict.fromkeys(self.defence):
            yield defence, torch.tensor([i for i, name in enumerate(self.defence) if name == defence])

    def steps(self, rows: Tensor) -> Tensor:
        """The perturbations in steps, (M, C, H, W), int8."""
        if not len(rows):
            return torch.zeros((0, *self.originals.shape[1:]), dtype=torch.int8)
        moved = torch.stack([self.attacked[row] for row in rows.tolist()])
        eps = torch.tensor([self.eps[row] for row in rows.tolist()], dtype=torch.float64)
        found = (moved.double() - self.originals[self.image[rows]].double()) / eps[:, None, None, None]
        return (_STEPS * found).round().clamp(-_STEPS, _STEPS).to(torch.int8)

    def decoded(self, rows: Tensor) -> Tensor:
        """The attacked images as a reader of the file gets them."""
        eps = torch.tensor([self.eps[row] for row in rows.tolist()], dtype=torch.float64)
        return _moved(self.originals[self.image[rows]], self.steps(rows), eps)


def _moved(originals: Tensor, steps: Tensor, eps: Tensor) -> Tensor:
    change = steps.double() * (eps / _STEPS)[:, None, None, None]
    return (originals.double() + change).clamp(0, 1).float()


def _fitting(images: PackedImages, points: _Points, exact: Tensor, limit: int) -> int:
    """How many of the images fit, from the first on; raises ValueError where none does."""
    fits = lambda count: len(_content(images, points, exact, count)) <= limit  # noqa: E731
    least, most = 0, len(images) + 1
    while most - least > 1:
        middle = min(max(1, 2 * least), (least + most) // 2)  # few first, as many take long
        least, most = (middle, most) if fits(middle) else (least, middle)
    if least == 0:
        raise ValueError(f"not even one attacked image fits into {limit:,} bytes")
    return least


def _content(images: PackedImages, points: _Points, exact: Tensor, count: int) -> bytes:
    """The file with the first so many images."""
    within = points.image < count
    packed, whole = torch.nonzero(within & ~exact)[:, 0], torch.nonzero(within & exact)[:, 0]
    renamed = torch.full((len(points.image) + 1,), -1)  # the last stands for no point
    renamed[packed], renamed[whole] = torch.arange(len(packed)), len(packed) + torch.arange(len(whole))
    marks = [_CLEAN * s.clean[:count] + _ROBUST * s.robust[:count] + _BROKEN * s.broken[:count] for s in images.sets]
    sets = torch.stack([torch.stack(marks), renamed[points.places[:, :count]]], 2)
    levels = (255 * images.originals[:count]).round().to(torch.uint8)
    if not torch.equal(levels.float() / 255, images.originals[:count]):
        raise ValueError("the originals are no whole grey levels, so they are not those of a data set")
    empty = torch.zeros((0, *levels.shape[1:]))
    tensors = {
        "originals": levels,
        "labels": images.labels[:count].cpu(),
        "indices": images.indices[:count].cpu(),
        "steps": _squeezed(points.steps(packed)),
        "step_image": points.image[packed].int(),
        "step_eps": torch.tensor([points.eps[row] for row in packed.tolist()], dtype=torch.float64),
        "exact": torch.stack([points.attacked[row] for row in whole.tolist()]) if len(whole) else empty,
        "exact_image": points.image[whole].int(),
        "sets": _squeezed(sets.int()),
    }
    answers = None if images.answers is None else images.answers.head(count)
    if answers is not None:
        tensors |= {"classes": _squeezed(answers.classes), "percent": _squeezed(answers.percent)}
        tensors |= {f"{_SEEN}{name}": _squeezed(seen) for name, seen in answers.seen.items()}
    told = {
        "asked": None if answers is None else [*answers.defences],
        "of": images.of, "facts": dict(images.facts),
        "sets": [{"defence": s.defence, "threat": s.threat, "eps": s.eps, "norm": s.norm} for s in images.sets],
    }  # fmt: skip
    said = json.dumps(told, sort_keys=True)
    metadata = {"format": PACKED_FORMAT, "told": said, "checksum": content_checksum(_ordered(tensors), said)}
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


def _read(content: bytes, path: Path) -> PackedImages:
    try:
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
        tensors = safetensors.torch.load(content)
    except Exception as failure:
        raise AttackedImagesError(f"{path} is no safetensors file, or cut off") from failure
    if metadata.get("format") != PACKED_FORMAT or not set(_TENSORS) <= set(tensors):
        raise AttackedImagesError(f"{path} holds no attacked images of a record: it is of another format")
    if content_checksum(_ordered(tensors), metadata["told"]) != metadata["checksum"]:
        raise AttackedImagesError(f"{path} is damaged: its content does not fit its checksum")
    told = json.loads(metadata["told"])
    originals, at = tensors["originals"].float() / 255, tensors["step_image"].long()
    count, shape = len(originals), originals.shape[1:]
    steps = _spread(tensors["steps"], torch.int8).reshape(-1, *shape)
    points = torch.cat([_moved(originals[at], steps, tensors["step_eps"]), tensors["exact"]])
    table = _spread(tensors["sets"], torch.int32).reshape(-1, count, 2).long()
    found = []
    for one, row in zip(told["sets"], table, strict=True):
        if one["norm"] not in get_args(Norm) or one["threat"] not in get_args(Threat):
            raise AttackedImagesError(f"{path} has an unknown norm or attacker: {one['norm']!r}, {one['threat']!r}")
        marks, place = row.unbind(1)
        attacked = originals.clone()
        attacked[place >= 0] = points[place[place >= 0]]
        clean, robust, broken = (marks & bit > 0 for bit in (_CLEAN, _ROBUST, _BROKEN))
        found.append(AttackedSet(**one, clean=clean, robust=robust, broken=broken, attacked=attacked))
    answers = _answers(told["asked"], tensors, len(found), shape)
    return PackedImages(
        originals, tensors["labels"], tensors["indices"], told["of"], tuple(found), told["facts"], answers
    )


def _answers(
    defences: Sequence[str] | None, tensors: Mapping[str, Tensor], sets: int, shape: torch.Size
) -> Answered | None:
    if defences is None:
        return None
    found = (1 + sets, len(defences), -1)
    classes = _spread(tensors["classes"], torch.int16).reshape(found)
    seen = {
        name: _spread(tensors[key], torch.uint8).reshape(-1, classes.shape[2], *shape)
        for name in defences
        if (key := f"{_SEEN}{name}") in tensors
    }
    return Answered(tuple(defences), classes, _spread(tensors["percent"], torch.uint8).reshape(found), seen)


def _ordered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the order in which they are summed up."""
    return {name: tensors[name] for name in (*_TENSORS, *sorted(set(tensors) - set(_TENSORS)))}


def _squeezed(values: Tensor) -> Tensor:
    """The bytes of a tensor as a zlib stream, (L,), uint8."""
    return torch.frombuffer(bytearray(zlib.compress(values.contiguous().numpy().tobytes())), dtype=torch.uint8)


def _spread(stream: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in a zlib stream, in one dimension."""
    content = zlib.decompress(stream.numpy().tobytes())
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.zeros(0, dtype=dtype)
