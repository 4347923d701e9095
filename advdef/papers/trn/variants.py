"""The restorers that are compared: TRN, and what differs from it in the map, the fusion or the losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from advdef.data import Dataset
from advdef.defenses import BitDepth, Jpeg, Median, Preprocessed, TotalVariation
from advdef.papers.trn.defence import OracleRestoration, Restoration
from advdef.papers.trn.maps import GradientMap, OracleMap, RandomMap, ShuffledMap, SobelMap
from advdef.papers.trn.models import SIZES, Fusion, ImageRestorer, Restorer, TwoStreamRestorer
from advdef.papers.trn.training import train_restorer
from advdef.training import Recipe, Training, trained

__all__ = ["TRANSFORMS", "VARIANTS", "MapKind", "Variant", "other_maps", "restoration", "train_variant"]

MapKind = Literal["average", "predicted", "stack", "random", "Sobel", "shuffled", "oracle", "none"]

_MAPS: Mapping[MapKind, Callable[[nn.Module], nn.Module | None]] = {
    "average": GradientMap,
    "predicted": partial(GradientMap, label="predicted"),
    "stack": partial(GradientMap, label="stack"),
    "random": lambda classifier: RandomMap(),
    "Sobel": lambda classifier: SobelMap(),
    "shuffled": lambda classifier: ShuffledMap(GradientMap(classifier)),
    "oracle": OracleMap,
    "none": lambda classifier: None,
}


@dataclass(frozen=True)
class Variant:
    """A choice of the map, the fusion and the weights of the losses (those of ``train_restorer`` unless given)."""

    maps: MapKind = "average"
    fusion: Fusion = "gated"
    losses: Mapping[str, float] = field(default_factory=dict)


VARIANTS: Mapping[str, Variant] = {
    "TRN": Variant(),
    "image only": Variant("none"),
    "random map": Variant("random"),
    "shuffled map": Variant("shuffled"),
    "Sobel map": Variant("Sobel"),
    "predicted": Variant("predicted"),
    "stack": Variant("stack"),
    "oracle map": Variant("oracle"),
    "early": Variant(fusion="early"),
    "sum": Variant(fusion="sum"),
    "concat": Variant(fusion="concat"),
    "heavy": Variant(fusion="heavy"),
    "pixel loss": Variant(losses={"cross_entropy": 0.0, "feature": 0.0}),
    "pixel + CE": Variant(losses={"feature": 0.0}),
    "pixel + feature": Variant(losses={"cross_entropy": 0.0}),
    "HGD-style": Variant("none", losses={"pixel": 0.0, "cross_entropy": 0.0, "feature": 1.0}),
}
"""TRN first, then what differs from it in one thing; HGD-style has no map and the features' loss alone."""


TRANSFORMS: Mapping[str, Callable[[nn.Module], Preprocessed]] = {
    "JPEG 75": Jpeg,
    "bit depth 3": partial(BitDepth, bits=3),
    "median 2x2": Median,
    "total variation": TotalVariation,
}
"""The defences without training that TRN is compared with."""


def train_variant(
    variant: str,
    classifier: nn.Module,
    data: Dataset,
    *,
    recipe: Recipe,
    size: str,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> tuple[nn.Module | None, Training]:
    """The maps of a variant in front of a frozen classifier, and its restorer, trained or from the cache.

    Args:
        variant: A name in ``VARIANTS``.
        classifier: The frozen classifier.
        data: The data set on whose training images it learns.
        recipe: What is done to images before the restorer sees them.
        size: A name in :data:`advdef.papers.trn.models.SIZES`.
        epochs: Passes over the images.
        learning_rate: That of the optimiser.
        seed: Seed of the first weights, the order of the images and the pairs.

    Raises what :func:`advdef.papers.trn.training.train_restorer` raises.
    """
    chosen, channels = VARIANTS[variant], data.shape[0]
    maps = _MAPS[chosen.maps](classifier)
    build: Callable[[], Restorer] = partial(ImageRestorer, channels, **SIZES[size])
    if maps is not None:
        seen = channels * (data.num_classes if chosen.maps == "stack" else 1)
        build = partial(TwoStreamRestorer, channels, seen, fusion=chosen.fusion, **SIZES[size])
    return maps, trained(
        build, train_restorer, data, seed=seed, classifier=classifier, recipe=recipe, maps=maps, epochs=epochs,
        learning_rate=learning_rate, pairs_seed=seed, **chosen.losses,
    )  # fmt: skip


def restoration(classifier: nn.Module, restorer: Restorer, maps: nn.Module | None) -> Restoration | OracleRestoration:
    """A restorer in front of the classifier: a defence, but for the oracle's, which is told the labels."""
    if isinstance(maps, OracleMap):
        return OracleRestoration(classifier, restorer, maps)
    return Restoration(classifier, restorer, maps)


def other_maps(classifier: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """What may take the place of TRN's map (N, C, H, W) at test time, by name; first "its own"."""
    own = GradientMap(classifier)
    return {
        "its own": own,
        "the neighbour's": ShuffledMap(own),
        "noise": RandomMap(),
        "zeros": torch.zeros_like,
        "Sobel": SobelMap(),
        "the same, sign turned": lambda images: -own(images),
    }
