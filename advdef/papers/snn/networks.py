"""Spiking classifiers, purifiers, and defences made of both, as a page trains them on one data set."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

from torch import nn

from advdef.contract import frozen
from advdef.data import Dataset, Split
from advdef.defenses import BitDepth, Defense, GaussianBlur, Jpeg, Median
from advdef.grid import Study, once
from advdef.papers.snn.classifiers import SmallSpikingResNet, SpikingResNet
from advdef.papers.snn.defence import GatedPurification, Purification, SpikingClassifier
from advdef.papers.snn.purifier import Purifier
from advdef.papers.snn.surrogates import REDUCED
from advdef.papers.snn.training import Losses, train_purifier, train_rat
from advdef.training import Recipe, Training, cached_pairs, train_at, train_standard, trained
from advdef.training.pairs import AttackedPairs

__all__ = ["ARCHITECTURES", "FILTERS", "STACKED", "SpikingNetworks"]

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"small": SmallSpikingResNet, "DS-ResNet-20": SpikingResNet}
"""The kinds of classifier, by the setting "network"."""

FILTERS: dict[str, Callable[[nn.Module], Defense]] = {
    "JPEG 75": Jpeg,
    "bit depth 3": partial(BitDepth, bits=3),
    "median 2x2": Median,
    "Gaussian blur": GaussianBlur,
}
"""What cleans an image without having learned to, by name."""

STACKED = "purifier + FGSM-AT"
"""The purifier in front of a classifier that it has never seen."""

_EPS = {"digits": 0.05, "mnist": 0.1, "fashion_mnist": 0.05}
_LEVELS: dict[str, dict[str, Any]] = {
    "LIF": dict(levels=1),
    "MLF2": dict(levels=2),
    "MLF3": dict(levels=3),
    "SE-MLF3": dict(levels=3, gated=True),
}
_LAYERS: dict[str, dict[str, Any]] = {  # what a variant changes in the purifier
    "ANN purifier": dict(spiking=False),
    "no noise map": dict(noise="none"),
    "signed map": dict(noise="signed"),
}
_LEARNED = ("ANN purifier", "purifier", "PGD-7 pairs", "end to end")


class SpikingNetworks(Study):
    """Spiking classifiers and the purifiers in front of them, on one data set.

    The classifier "bare" is SE-MLF3; as a defence by itself it is called "none".

    Attributes:
        eps: The main budget, in Linf.
        seeds: The seeds of the purifiers.
        held: Training images (N, C, H, W) on which nothing is trained.
        learnt: The data that classifiers learn from.
        paired: The data that purifiers learn from.
        derivatives: The derivatives of a spike that attackers try, by name.
        untrained_classifier: Builds a classifier.
        untrained_purifier: Builds a purifier.
    """

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(data, settings, **options)
        if any(side % 4 for side in data.shape[1:]):
            size = " x ".join(map(str, data.shape[1:]))
            raise ValueError(f"the purifier takes images whose sides are multiples of 4, not {size} pixels")
        left = len(data.train) - min(settings["held"], len(data.train) // 5)
        usual = 8 / 255 if data.shape[0] == 3 else 0.1
        self.eps = settings.get("eps", _EPS.get(data.name, usual))
        self.seeds = [self.seed + i for i in range(settings["seeds"])]
        self.held = Split(data.train.images[left:], data.train.labels[left:]).float_images()
        self.learnt = data.subset(train=min(settings["train"] or left, left))
        self.paired = data.subset(train=min(settings["pairs"] or left, len(self.learnt.train)))
        self.derivatives = {k: REDUCED[k] for k in settings["derivatives"]}
        build = ARCHITECTURES[settings["network"]]
        self.untrained_classifier = partial(build, data.shape, data.num_classes, width=settings["width"])
        self.untrained_purifier = partial(
            Purifier, data.shape[0], width=settings["unet"], extractor_width=settings["extractor"], steps=settings["T"]
        )

    @property
    def classifiers(self) -> list[tuple[str, int]]:
        """The networks that are trained, each with a seed: all with the first, LIF and SE-MLF3 with several."""
        first = [(k, self.seed) for k in (*self.settings["levels"], *self.settings["trainings"])]
        return list(dict.fromkeys([*first, *self.compared]))

    @property
    def compared(self) -> list[tuple[str, int]]:
        """Those of :attr:`classifiers` that are compared with each other, trained on clean images."""
        further = range(self.seed + 1, self.seed + self.settings["networks"])
        return [(k, self.seed) for k in self.settings["levels"]] + list(product(("LIF", "SE-MLF3"), further))

    @once
    def classifier(self, name: str, seed: int) -> Training:
        """A spiking classifier with so many levels, or SE-MLF3 with adversarial training of that name."""
        settings, inner = self.settings, self.settings["inner"]
        one_step: dict[str, Any] = dict(eps=self.eps, steps=1, step_size=1.25)
        ways = {
            "FGSM-AT": partial(train_at, **one_step),
            "PGD-AT": partial(train_at, eps=self.eps, steps=inner, step_size=1 / inner + 0.1),
            "RAT": partial(train_rat, **one_step),
        }
        build = partial(self.untrained_classifier, steps=settings["T"], **_LEVELS.get(name, _LEVELS["SE-MLF3"]))
        return trained(
            build, ways.get(name, train_standard), self.learnt, seed=seed, epochs=settings["epochs"],
            learning_rate=settings["rate"], schedule="one_cycle", batch_size=settings["batch"], shift=2,
            flip=self.data.name in ("cifar10", "cifar100"),
        )  # fmt: skip

    @once
    def network(self, name: str, seed: int) -> nn.Module:
        """A trained classifier, frozen."""
        return frozen(self.classifier("SE-MLF3" if name == "bare" else name, seed).model)

    @property
    def purifiers(self) -> list[tuple[str, int]]:
        """The variants of the purifier that are trained, each with a seed."""
        both = ("purifier", "ANN purifier")
        others = [(k, self.seed) for k in self.settings["ablations"] if k not in both]
        return [*product(both, self.seeds), *others]

    def recipe(self, attack: str) -> Recipe:
        """What is done to the images that a purifier learns from."""
        return Recipe(eps=tuple(self.eps * s for s in (0.5, 1.0, 1.5)), attacks=(attack,), clean=0.5, noise=0.0)

    @once
    def pairs(self, seed: int) -> AttackedPairs:
        """The pairs that most purifiers with this seed learn from."""
        return cached_pairs(self.network("bare", self.seed), self.paired.train, self.recipe("FGSM"), seed=seed)

    @once
    def purifier(self, variant: str, seed: int) -> Training:
        """A purifier that was trained in front of the bare classifier."""
        settings = self.settings
        learning: dict[str, dict[str, Any]] = {  # what a variant changes in the training
            "no divergence": dict(losses=Losses(divergence=0)),
            "no asymmetry": dict(losses=Losses(asymmetric=0)),
            "no roughness": dict(losses=Losses(roughness=0)),
            "PGD-7 pairs": dict(recipe=self.recipe("PGD-7")),
            "end to end": dict(end_to_end=True),
        }
        given: dict[str, Any] = dict(
            classifier=self.network("bare", self.seed), recipe=self.recipe("FGSM"), pairs_seed=seed,
            epochs=settings["purifier_epochs"], batch_size=settings["purifier_batch"],
            learning_rate=settings["purifier_rate"],
        )  # fmt: skip
        build = partial(self.untrained_purifier, **_LAYERS.get(variant, {}))
        return trained(build, train_purifier, self.paired, seed=seed, **given | learning.get(variant, {}))

    def purified(self, variant: str, seed: int, base: str = "bare") -> Purification:
        """A purifier in front of a classifier with the first seed."""
        return Purification(self.network(base, self.seed), self._cleaner(variant, seed), derivatives=self.derivatives)

    @property
    def learned(self) -> list[str]:
        """The variants of the purifier that meet attackers who know them."""
        return [k for k in _LEARNED if (k, self.seed) in self.purifiers]

    @property
    def known(self) -> list[str]:
        """The defences that meet such attackers."""
        return ["none", *self.settings["trainings"], *self.learned, "gate", STACKED]

    @property
    def defences(self) -> list[str]:
        """All defences: networks alone, filters, purifiers."""
        alone = ("none", *self.settings["trainings"])
        return list(dict.fromkeys((*alone, *FILTERS, *self.known)))

    @once
    def defence(self, name: str) -> Defense:
        """What is attacked, first seed: a classifier alone, or what stands in front of one."""
        if name in FILTERS:
            return FILTERS[name](self.network("bare", self.seed))
        if name == "gate":
            return GatedPurification.calibrated(
                self.network("bare", self.seed), self._cleaner("purifier", self.seed), self.held,
                derivatives=self.derivatives, resume=self.resume,
            )  # fmt: skip
        if name == STACKED:
            return self.purified("purifier", self.seed, "FGSM-AT")
        if name in self.learned:
            return self.purified(name, self.seed)
        return SpikingClassifier(
            self.network("bare" if name == "none" else name, self.seed), derivatives=self.derivatives
        )

    def _cleaner(self, variant: str, seed: int) -> Purifier:
        model = self.purifier(variant, seed).model
        assert isinstance(model, Purifier)
        return model
