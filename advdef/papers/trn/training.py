"""Trains a restorer in front of a frozen classifier, on pairs of attacked and clean images."""

import copy
import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.contract import borrowed, check_frozen
from advdef.data import Split
from advdef.papers.trn.maps import OracleMap
from advdef.papers.trn.models import Restorer
from advdef.taps import default_taps, tapped
from advdef.training import AttackedPairs, Recipe, TrainingDiverged, cached_pairs, fit
from advdef.training.pairs import attack_batch

__all__ = ["map_of", "restorer_pairs", "train_restorer"]


def map_of(maps: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor | None:
    """The maps (N, M, H, W) of images (N, C, H, W), or None without ``maps``; only an oracle gets to see the labels
    (N,).
    """
    if maps is None:
        return None
    found: Tensor = maps(images, labels=labels) if isinstance(maps, OracleMap) else maps(images)
    return found


def restorer_pairs(
    classifier: nn.Module, split: Split, recipe: Recipe, *, held_out: bool, seed: int = 0, validation: float = 0.1
) -> AttackedPairs:
    """The pairs that :func:`train_restorer` learns from, or those that it holds out: made once, then read.

    Raises ValueError for a share of held-out images that makes no sense.
    """
    return cached_pairs(classifier, _parts(split, validation)[held_out], recipe, seed=2 * seed + held_out)


def _parts(split: Split, validation: float) -> tuple[Split, Split]:
    """The images to learn from, and the last ones, which are held out."""
    held = round(validation * len(split))
    if not 0 < held < len(split):
        raise ValueError(f"validation must leave images on both sides, not {validation} of {len(split)}")
    return Split(split.images[:-held], split.labels[:-held]), Split(split.images[-held:], split.labels[-held:])


def train_restorer(
    model: Restorer,
    split: Split,
    *,
    generator: torch.Generator,
    classifier: nn.Module,
    recipe: Recipe,
    epochs: int,
    maps: nn.Module | None = None,
    fresh: bool = False,
    pixel: float = 1.0,
    cross_entropy: float = 0.05,
    feature: float = 0.1,
    average: float = 0.999,
    validation: float = 0.1,
    learning_rate: float = 1e-3,
    schedule: Any = "cosine",
    pairs_seed: int = 0,
    **options: Any,
) -> dict[str, Tensor]:
    """Minimise `pixel |T - x| + feature |phi(T) - phi(x)| + cross_entropy CE(f(T), y)` over the restorer alone.

    T is the restored image; in the last two terms it is clipped, as deployed, in the first not. phi is the last tapped
    layer of the frozen classifier f. Labels enter the last term and, unless ``maps`` is an
    :class:`advdef.papers.trn.maps.OracleMap`, nothing else. The recipe is ours, in the manner of HGD
    (https://arxiv.org/abs/1712.02976) and NRP (https://arxiv.org/abs/2006.04924).

    The deployed weights are a running average, taken after the epoch in which they did best on held-out images.

    Args:
        model: The restorer, trained in place.
        split: Clean training images and labels.
        generator: Source of all random numbers but those of cached pairs.
        classifier: The frozen classifier f.
        recipe: What is done to images before the restorer sees them.
        epochs: Passes over the images.
        maps: Makes the maps that the restorer sees; None for one without.
        fresh: Attack each batch when it is needed, in place of reading pairs from the cache.
        pixel: Weight of the first term.
        cross_entropy: Weight of the last term.
        feature: Weight of the second term.
        average: The largest factor, in [0, 1), of the running average in a step; it is smaller at first.
        validation: Share of the images, the last ones, that are held out.
        learning_rate: That of the optimiser.
        schedule: What happens to the learning rate; see :func:`advdef.training.fit`.
        pairs_seed: Seed of the cached pairs.
        **options: Go to :func:`advdef.training.fit`.

    Returns ``{"loss", "validation"}``, the losses of each epoch (epochs,), and ``{"epoch"}`` (), the one that was
    taken, counted from 1. Raises ValueError for a classifier that is not frozen, for weights or shares that make no
    sense, and for ``shift`` or ``flip``, which belong to the recipe; TrainingDiverged when a loss is not finite.
    """
    check_frozen(classifier)
    if min(pixel, cross_entropy, feature) < 0 or pixel + cross_entropy + feature <= 0:
        raise ValueError(f"pixel, cross_entropy and feature must be weights, not {(pixel, cross_entropy, feature)}")
    if not 0 <= average < 1:
        raise ValueError(f"average must lie in [0, 1), not {average}")
    if {"shift", "flip"} & options.keys():
        raise ValueError("images are moved and mirrored before they are attacked: give shift and flip to the recipe")
    layer = default_taps(classifier)[-1]

    def loss(network: nn.Module, images: Tensor, clean: Tensor, labels: Tensor) -> Tensor:
        # a map is an input here; f is frozen, so there is nothing to learn through it
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            seen = map_of(maps, images, labels)
        restored = images - network(images, seen).float()
        total = pixel * (restored - clean).abs().mean()
        if cross_entropy or feature:
            with tapped(classifier, [layer]) as features:
                with torch.no_grad():
                    classifier(clean)
                    wanted = features[layer].float()
                logits = classifier(restored.clamp(0, 1)).float()
                total = total + feature * (features[layer].float() - wanted).abs().mean()
            total = total + cross_entropy * F.cross_entropy(logits, labels)
        return total

    def cached(network: nn.Module, both: Tensor, labels: Tensor) -> Tensor:
        images, clean = both.chunk(2, 1)
        return loss(network, images, clean, labels)

    def on_the_fly(network: nn.Module, clean: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(clean.device.type, enabled=False):
            images = attack_batch(classifier, clean, labels, recipe, generator=generator)[0]
        return loss(network, images, clean, labels)

    pairs = partial(restorer_pairs, classifier, split, recipe, seed=pairs_seed, validation=validation)
    known = pairs(held_out=True).split()
    averaged, steps = copy.deepcopy(model), 0
    best = copy.deepcopy(model.state_dict())
    found: list[float] = []

    def follow() -> None:
        nonlocal steps
        steps += 1
        share = 1 - min(average, (1 + steps) / (10 + steps))  # closely at first, when there is little to average
        with torch.no_grad():
            for old, new in zip(averaged.parameters(), model.parameters(), strict=True):
                old.lerp_(new, share)

    def judge(epoch: int) -> None:
        if epoch == 0:
            return
        with torch.no_grad(), borrowed(averaged, quiet=True):
            sums = [cached(averaged, both, y) * len(y) for both, y in known.batches(500)]
        value = float(torch.stack(sums).sum()) / len(known)
        if not math.isfinite(value):
            model.load_state_dict(best)
            model.eval()
            raise TrainingDiverged(
                f"the loss on held-out images is not finite after epoch {epoch} of {epochs}: lower learning_rate; the "
                "model is back at its best weights",
                best,
                epoch - 1,
            )
        if value < min(found, default=math.inf):
            best.update(copy.deepcopy(averaged.state_dict()))
        found.append(value)

    if fresh:
        options |= {"shift": recipe.shift, "flip": recipe.flip}
    losses = fit(
        model,
        _parts(split, validation)[0] if fresh else pairs(held_out=False).split(),
        epochs=epochs,
        generator=generator,
        objective=on_the_fly if fresh else cached,
        learning_rate=learning_rate,
        schedule=schedule,
        before_epoch=judge,
        after_step=follow,
        **options,
    )
    judge(epochs)
    model.load_state_dict(best)
    chosen = torch.tensor(found.index(min(found)) + 1)
    return {"loss": torch.tensor(losses), "validation": torch.tensor(found), "epoch": chosen}
