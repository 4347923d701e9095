"""The points at which a search begins: drawn, borrowed from images that fell, or reached on the way."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from advdef.attacks.auto_pgd import apgd
from advdef.draws import image_keys
from advdef.evaluation.crafting import craft
from advdef.evaluation.holes.climbs import Points
from advdef.evaluation.holes.ways import StartName
from advdef.norms import BallNorm, ball, size

__all__ = ["Sources", "begin"]

_STEPS = 50  # of the attack that leads to a start


@dataclass(frozen=True, eq=False)
class Sources:
    """What starts are made of.

    Attributes:
        images: (N, C, H, W): those that are searched, and ``labels`` (N,).
        labels: (N,), int64.
        best: (N, C, H, W): the best point that was found for each of them.
        donors: (M, C, H, W): other images that were broken, with their labels (M,) and what broke them.
        donor_labels: (M,), int64.
        broken: (M, C, H, W).
        guide: The model on which a smaller budget is tried.
        relatives: Other networks, by name.
        eps: The budget, a size in ``norm``.
        norm: Its norm.
    """

    images: Tensor
    labels: Tensor
    best: Tensor
    donors: Tensor
    donor_labels: Tensor
    broken: Tensor
    guide: nn.Module
    relatives: tuple[nn.Module, ...]
    eps: float
    norm: BallNorm

    def possible(self) -> tuple[StartName, ...]:
        """The starts that there are."""
        drawn: tuple[StartName, ...] = ("the image", "a random point", "a corner", "the best so far", "half the budget")
        near: tuple[StartName, ...] = ("a neighbour", "a neighbour's change") if len(self.donors) else ()
        return (*drawn, *near, *(("a relative",) if self.relatives else ()))


def begin(name: StartName, sources: Sources, seed: int) -> Points:
    """The points of a start, one for each of the images; the seed decides what is drawn.

    A neighbour is the nearest broken image of the same class, or of any class where there is none.
    """
    images, eps, norm = sources.images, sources.eps, sources.norm
    around = ball(images, torch.full((1, 1, 1, 1), eps, dtype=images.dtype, device=images.device), norm)
    if name == "the image":
        return Points(images, images)
    if name == "the best so far":
        return Points(images, sources.best)
    if name in ("a random point", "a corner"):
        drawn = around.sample(image_keys(images, seed)) - images
        if name == "a corner":  # all pixels at the edge of the budget
            drawn = eps * around.ascent(drawn) if norm == "L2" else eps * drawn.sign()
        return Points(images, around.project(images + drawn))
    if name in ("a neighbour", "a neighbour's change"):
        nearest = _nearest(sources)
        moved = sources.broken[nearest]
        moved = moved if name == "a neighbour" else images + moved - sources.donors[nearest]
        return Points(images, around.project(moved))
    half = name == "half the budget"
    model = sources.guide if half else sources.relatives[seed % len(sources.relatives)]
    suite = {"start": partial(apgd, norm=norm, steps=_STEPS, loss="margin")}
    made = craft(
        model, suite, images, sources.labels, eps=eps / 2 if half else eps, norm=norm,
        generator=torch.Generator().manual_seed(seed),
    )["start"]  # fmt: skip
    # twice the change that half of the budget allows
    return Points(images, around.project(2 * made - images) if half else made)


def _nearest(sources: Sources) -> Tensor:
    """For each image the place of its neighbour among the donors."""
    found = []
    for image, label in zip(sources.images, sources.labels, strict=True):
        far = size(sources.donors - image, "L2")
        other = sources.donor_labels != label
        found.append((far + (0 if bool(other.all()) else 1e6 * other)).argmin())
    return torch.stack(found)
