"""Pairs of attacked and clean images, from which a restorer learns: made in advance and kept, or batch by batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advdef.attacks.attack import Attack
from advdef.attacks.gradient import fgsm, pgd
from advdef.data import Split
from advdef.store import cache_folder, kept, key

__all__ = ["AttackedPairs", "Recipe", "attack_batch", "cached_pairs", "make_attacked_pairs"]

ATTACKS: Mapping[str, Attack] = {
    "FGSM": partial(fgsm),
    "PGD-5": partial(pgd, steps=5, step_size=0.5),
    "PGD-7": partial(pgd, steps=7, step_size=0.3),
    "PGD-10": partial(pgd, steps=10, step_size=0.25),
}


_TENSORS = ("attacked", "clean", "labels", "kinds", "eps")


@dataclass(frozen=True)
class Recipe:
    """What is done to an image before a restorer sees it; what, and how strongly, is drawn for each image.

    Raises ValueError for settings that make no sense.

    Attributes:
        eps: Budgets in pixel units, from which one is drawn for each image.
        attacks: Names in ``ATTACKS``, from which one is drawn for each image that is attacked.
        clean: Share of images that stay as they are.
        noise: Share of images that get uniform noise of size eps; all others are attacked.
        copies: How often each image is taken when pairs are made in advance.
        shift: By how many pixels, at most, images are moved before.
        flip: Whether images are mirrored before, each with probability 1/2.
    """

    eps: tuple[float, ...]
    attacks: tuple[str, ...] = ("FGSM", "PGD-10")
    clean: float = 0.25
    noise: float = 0.05
    copies: int = 1
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if not self.eps or not all(0 < eps <= 1 for eps in self.eps):
            raise ValueError(f"eps must be in pixels, above 0 and at most 1, not {self.eps}")
        if not self.attacks or not set(self.attacks) <= set(ATTACKS):
            raise ValueError(f"attacks must be some of {', '.join(ATTACKS)}, not {self.attacks}")
        if not (self.clean >= 0 and self.noise >= 0 and self.clean + self.noise < 1):
            raise ValueError(f"clean and noise must be shares that leave something, not {self.clean} and {self.noise}")
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, not {self.copies}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """All that may be done to an image, "clean", "noise" and the names of the attacks."""
        return ("clean", "noise", *self.attacks)


def attack_batch(
    classifier: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, *, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Do to images (N, C, H, W) what the recipe says, against ``classifier``.

    Returns the images, rounded to whole grey levels, and for each of them (N,) the index into ``recipe.kinds`` of what
    was done and the eps of it (0 for clean ones).
    """
    n, device = len(images), images.device
    share = (1 - recipe.clean - recipe.noise) / len(recipe.attacks)
    shares = torch.tensor([recipe.clean, recipe.noise, *[share] * len(recipe.attacks)])
    kinds = torch.multinomial(shares, n, replacement=True, generator=generator)
    eps = torch.tensor(recipe.eps)[torch.randint(len(recipe.eps), (n,), generator=generator)]
    eps = eps.masked_fill(kinds == 0, 0.0).to(device)
    noise = torch.rand(images.shape, generator=generator).to(device)
    found = images.clone()
    for number, kind in enumerate(recipe.kinds):
        rows = torch.nonzero(kinds == number)[:, 0].to(device)
        if kind == "clean" or len(rows) == 0:
            continue
        x, budget = images[rows], eps[rows]
        if kind == "noise":
            found[rows] = (x + (2 * noise[rows] - 1) * budget[:, None, None, None]).clamp(0, 1)
        else:
            found[rows] = ATTACKS[kind](classifier, x, labels[rows], eps=budget, generator=generator)
    return (255 * found).round() / 255, kinds.to(device), eps


@dataclass(frozen=True, eq=False)
class AttackedPairs:
    """Pairs of images: ``attacked`` and ``clean``, uint8 (M, C, H, W), with ``labels``, ``kinds`` and ``eps`` (M,).

    ``kinds`` are indices into :attr:`Recipe.kinds`.
    """

    attacked: Tensor
    clean: Tensor
    labels: Tensor
    kinds: Tensor
    eps: Tensor

    def split(self) -> Split:
        """The pairs as a split whose images (M, 2 C, H, W) hold both images of a pair, the attacked one first."""
        return Split(torch.cat([self.attacked, self.clean], 1), self.labels)


def make_attacked_pairs(
    classifier: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    batch_size: int = 500,
    progress: bool = False,
) -> AttackedPairs:
    """Make ``recipe.copies`` pairs of each image of the split, against a classifier."""
    parts: list[tuple[Tensor, ...]] = []
    bar = tqdm(total=recipe.copies * math.ceil(len(split) / batch_size), disable=not progress, leave=False)
    for _ in range(recipe.copies):
        for images, labels in split.batches(batch_size, generator=generator, shift=recipe.shift, flip=recipe.flip):
            found, kinds, eps = attack_batch(classifier, images, labels, recipe, generator=generator)
            parts.append((_bytes(found), _bytes(images), labels, kinds, eps))
            bar.update()
    bar.close()
    tensors = {name: torch.cat(column) for name, column in zip(_TENSORS, zip(*parts, strict=True), strict=True)}
    return AttackedPairs(**tensors)


def _bytes(images: Tensor) -> Tensor:
    return (255 * images).round().to(torch.uint8)


def cached_pairs(
    classifier: nn.Module, split: Split, recipe: Recipe, *, seed: int, progress: bool = False
) -> AttackedPairs:
    """The pairs of :func:`advdef.training.pairs.make_attacked_pairs`, made once and then read from the cache.

    They are kept under all that determines them (see :func:`advdef.store.key`).
    """

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        generator = torch.Generator().manual_seed(seed)
        return vars(make_attacked_pairs(classifier, split, recipe, generator=generator, progress=progress)), {}

    asked = key("pairs", make=make_attacked_pairs, classifier=classifier, split=split, recipe=recipe, seed=seed)
    tensors = kept(cache_folder("pairs"), asked, make).tensors
    return AttackedPairs(**{name: value.to(split.images.device) for name, value in tensors.items()})
