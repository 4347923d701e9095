"""The networks of TRN's page, each trained by a task of its own: classifiers, and the restorers in front of them."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

from torch import Generator, Tensor, nn

from advdef import models
from advdef.contract import frozen
from advdef.data import Dataset
from advdef.defenses import Undefended
from advdef.grid import Study, once
from advdef.papers.trn.models import Restorer
from advdef.papers.trn.training import restorer_pairs
from advdef.papers.trn.variants import TRANSFORMS, restoration, train_variant
from advdef.training import Recipe, Training, train_at, train_standard, trained

__all__ = ["BUDGETS", "CLASSIFIER_TRAINING", "DEFENCES", "NETWORKS", "PURIFIED", "Networks"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "small ResNet": models.SmallResNet, "SmallVGG": models.SmallVGG, "LeNet-5": models.LeNet5,
    "CleverHans CNN": models.CleverhansCNN, "ResNet-18": models.ResNet18,
}  # fmt: skip
"""The classifiers."""

BUDGETS = {"digits": 0.2, "fashion_mnist": 0.1, "mnist": 0.2}
"""The main eps; of all others it is 8/255."""

CLASSIFIER_TRAINING: dict[str, Any] = dict(learning_rate=2e-3, schedule="one_cycle", shift=2)
"""How classifiers are trained."""

PURIFIED = (*TRANSFORMS, "HGD-style", "image only", "TRN")
"""The defences that restore images."""

DEFENCES = ("none", *PURIFIED, "Fast-AT")
"""All that are compared."""

_RATES = {"XS": 8e-3, "S": 3e-3, "B": 5e-4}  # of learning, of restorers by their size


class Networks(Study):
    """Classifiers, and restorers in front of them, on one data set.

    Attributes:
        name: The name of the data set.
        kind: The architecture of its classifier.
        eps: The main budget, in Linf.
        seeds: The seeds of the restorers.
        others: The architectures of the further classifiers.
        classifiers: The names of all classifiers; a further one has that of its architecture.
        variants: The restorers that are compared.
        larger: The name of TRN with a larger network, if there is one.
        names: All restorers.
        seen: The data set with as many images as the restorers see.
    """

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(data, settings, **options)
        self.name, self.kind = data.name, settings["datasets"].get(data.name, "small ResNet")
        self.eps = settings.get("eps", BUDGETS.get(self.name, 8 / 255 if data.shape[0] == 3 else 0.1))
        self.seeds = [self.seed + i for i in range(settings["seeds"])]
        self.others = tuple(kind for kind in settings["others"] if self.main and kind != self.kind)
        self.classifiers = ("standard", "Fast-AT", *self.others)
        self.variants = ("TRN", *(settings["ablations"] if self.main else ("image only", "HGD-style")))
        self.larger = f"TRN-{settings['larger']}" if self.main and settings["larger"] else None
        self.names = (*self.variants, *([self.larger] if self.larger else []))
        most = len(data.train) if settings["train"] is None else min(settings["train"], len(data.train))
        most -= (most - round(0.1 * most)) % 128 == 1  # a shuffled map needs a neighbour in the last batch, too
        self.seen = data.subset(train=most)
        budgets = tuple(self.eps * share for share in (0.25, 0.5, 0.75, 1.0))
        self.recipe = Recipe(eps=budgets, attacks=settings["attacks"], copies=settings["copies"])

    @once
    def images(self, setting: str = "images") -> tuple[Tensor, Tensor]:
        """The first test images, as many as ``setting`` says of a fixed random order, and their labels."""
        chosen = self.data.test.sample(self.settings[setting])
        return chosen.float_images(), chosen.labels

    def draws(self, offset: int) -> Generator:
        """Random draws that depend on the seed alone; offsets keep uses apart."""
        return Generator().manual_seed(1_000 * self.seed + offset)

    @once
    def classifier(self, name: str) -> Training:
        """The "standard" classifier, the one of "Fast-AT", or a standard one of another form."""
        kind = name if name in self.others else self.kind
        build = partial(NETWORKS[kind], self.data.shape, self.data.num_classes)
        flip = dict(flip=True) if self.name == "cifar10" else {}
        budget = CLASSIFIER_TRAINING | dict(epochs=self.settings["epochs"]) | flip
        if name == "Fast-AT":
            fast = dict(eps=self.eps, steps=1, step_size=1.25)
            return trained(build, train_at, self.data, seed=self.seed, **budget, **fast)
        return trained(build, train_standard, self.data, seed=self.seed, **budget)

    @once
    def bare(self, name: str = "standard") -> nn.Module:
        """A classifier, frozen."""
        return frozen(self.classifier(name).model)

    def pairs(self, seed: int) -> None:
        """Make the pairs that the restorers with this seed learn from."""
        for held_out in (False, True):
            restorer_pairs(self.bare(), self.seen.train, self.recipe, held_out=held_out, seed=seed)

    @once
    def restorer(self, name: str, seed: int) -> tuple[nn.Module | None, Training]:
        """The maps and the trained network of a variant, or of the larger TRN."""
        larger = name == self.larger
        size = self.settings["larger" if larger else "size"]
        return train_variant(
            "TRN" if larger else name, self.bare(), self.seen, recipe=self.recipe, size=size, seed=seed,
            epochs=self.settings["restorer_epochs"], learning_rate=_RATES[size],
        )  # fmt: skip

    @once
    def defence(self, name: str, seed: int) -> Any:
        """What is attacked under this name: a defence, or the control that is told the label by its map."""
        bare = self.bare()
        if name == "none":
            return Undefended(bare)
        if name == "Fast-AT":
            return Undefended(self.classifier(name).model, twin=bare)
        if name in TRANSFORMS:
            return TRANSFORMS[name](bare)
        return self.in_front_of(bare, name, seed, self.restorer(name, seed)[0])

    def in_front_of(self, classifier: nn.Module, name: str, seed: int, maps: nn.Module | None) -> Any:
        """A trained restorer in front of a classifier, with these maps."""
        model = self.restorer(name, seed)[1].model
        assert isinstance(model, Restorer)
        return restoration(classifier, model, maps)

    def defended(self) -> list[tuple[str, int]]:
        """The defences that are compared, each with its seeds: all with the first, some restorers with all."""
        first = [(k, self.seed) for k in DEFENCES]
        return first + [(k, s) for k, s in product(PURIFIED[-3:], self.seeds) if s != self.seed]
