"""The defences of all papers around classifiers of one kind, trained with one budget: what the comparison judges."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Generator, Tensor, nn

from advdef.attacks import pgd
from advdef.contract import frozen
from advdef.data import Dataset, Split
from advdef.defenses import Defense, Undefended
from advdef.devices import exact
from advdef.evaluation import correct
from advdef.grid import Study, once
from advdef.models import ResNet18, SmallResNet
from advdef.papers.nip.bank import DirectionBank, fit_bank
from advdef.papers.nip.defence import NIPDictionary
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.qusecnets.training import train_quantized
from advdef.papers.sensitivity.defence import Stabilized
from advdef.papers.sensitivity.measure import make_pairs, sensitivity
from advdef.papers.sensitivity.training import train_sns
from advdef.papers.snn.defence import Purification
from advdef.papers.snn.purifier import Purifier
from advdef.papers.snn.surrogates import REDUCED
from advdef.papers.snn.training import train_purifier
from advdef.papers.trn.defence import Restoration
from advdef.papers.trn.maps import GradientMap
from advdef.papers.trn.models import SIZES, TwoStreamRestorer
from advdef.papers.trn.training import train_restorer
from advdef.store import Entry, kept, key
from advdef.training import Recipe, Training, train_at, train_standard, trained

__all__ = ["LineUp", "fitted_dictionary", "fitted_purifier", "fitted_restorer"]

Found = tuple[dict[str, Tensor], dict[str, Any]]

EPS = {1: 0.1, 3: 8 / 255}  # by channels: grey images, colour images
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "narrow ResNet": partial(SmallResNet, width=8), "small ResNet": SmallResNet, "ResNet-18": ResNet18,
}  # fmt: skip
_RESTORER_RATES = {"XS": 8e-3, "S": 3e-3, "B": 5e-4}
_COSTS_A_POINT = 0.01


class LineUp(Study):
    """The defences of the comparison on one data set, each trained and put together under its name.

    Attributes:
        names: The names, in the order of the page: the undefended classifier and adversarial training first. QuSecNets
            proposes two forms, constant (CQ) and trained thresholds (TQ).
        in_front: Those that stand in front of the undefended classifier.
        eps: The main budget in Linf. Adversarial training and SNS are trained for it; restorer and purifier see
            attacks of up to 1 and 1.5 times as much.
        colour: Whether images are in colour.
        images_of_classifiers: The training images of all classifiers: at most nine in ten.
        held_out: The training images that no classifier saw.
        probe: The training images by which NIP's step is chosen and SNS's neurons are measured.
    """

    names = ("undefended", "AT", "CQ", "TQ", "SNS", "NIP", "TRN", "purifier")
    in_front = ("NIP", "TRN", "purifier")

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        """Choose the images.

        ``settings`` are those of a profile: ``network`` by its name; ``train``, how many training images classifiers,
        restorer and purifier get (None: all that they may have), and ``epochs``, their epochs; ``inner``, the steps of
        the attack in adversarial training; ``per_class``, images of a class from which NIP learns; ``size``, that of
        the restorer; ``purifier``, its width, the width of its extractor and its time steps; ``derivatives``, how many
        stand-ins for the derivative of a spike the purifier's attackers try.
        """
        super().__init__(data, settings, **options)
        self.eps = settings.get("eps", EPS[data.shape[0]])
        self.colour, self.probe = data.shape[0] == 3, data.train.sample(500)
        whole = len(data.train)
        most = (whole - max(1, whole // 10), whole, whole)
        parts = (data.subset(train=min(n or m, m)) for n, m in zip(settings["train"], most, strict=True))
        self.images_of_classifiers, self._restored, self._purified = parts
        seen = len(self.images_of_classifiers.train)
        self.held_out = Split(data.train.images[seen:], data.train.labels[seen:])

    def network(self) -> nn.Module:
        """A classifier, untrained."""
        return NETWORKS[self.settings["network"]](self.data.shape, self.data.num_classes)

    def quantized(self, *, trainable: bool) -> nn.Module:
        """A classifier behind a quantiser, untrained."""
        return Quantized(self.network(), Quantizer(4 if self.colour else 2, trainable=trainable))

    @once
    def training(self, name: str) -> Training:
        """The classifier of a defence, its restorer or its purifier; NIP has none."""
        settings, stands = self.settings, {"eps": self.eps, "seed": self.seed}
        if name == "TRN":
            told: dict[str, Any] = stands | {"size": settings["size"], "epochs": settings["epochs"][1]}
            return fitted_restorer(self.classifier(), self._restored, **told)
        if name == "purifier":
            told = stands | {"epochs": settings["epochs"][2]}
            return fitted_purifier(self.classifier(), self._purified, settings["purifier"], **told)
        batches = -(-len(self.images_of_classifiers.train) // 128)
        least = -(-40 // batches)  # epochs for 40 steps, where there are few images
        budget: dict[str, Any] = {"epochs": max(self.settings["epochs"][0], least), "learning_rate": 2e-3}
        budget |= {"schedule": "one_cycle"}
        budget |= {"shift": 2, "flip": True} if self.colour else {}
        inner = self.settings["inner"]
        attacked = {"eps": self.eps, "steps": inner, "step_size": 1 / inner + 0.1}
        ways: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
            "undefended": (train_standard, {}),
            "AT": (train_at, attacked),
            "CQ": (train_quantized, {"scheme": "frozen"}),
            "TQ": (train_quantized, {}),
            "SNS": (train_sns, attacked | {"ramp": 2, "probe": 200, "probe_steps": 3}),
        }
        train, more = ways[name]
        build = partial(self.quantized, trainable=name == "TQ") if name in ("CQ", "TQ") else self.network
        return trained(build, train, self.images_of_classifiers, seed=self.seed, **budget, **more)

    @once
    def classifier(self) -> nn.Module:
        """The undefended classifier, frozen."""
        return frozen(self.training("undefended").model)

    @once
    def fitted(self, name: str) -> Entry:
        """What is measured on training images: NIP's directions and its step, or the sensitivities of SNS."""
        if name == "NIP":
            return _fit(_dictionary, self.classifier(), self.data.train, self.probe, **self._nip, resume=self.resume)
        model, draws = self.training("SNS").model, self._draws(1)
        return _fit(_sensitivities, model, self.probe, eps=self.eps, generator=draws, resume=self.resume)

    @once
    def defence(self, name: str) -> Defense:
        """What is attacked, as it is deployed."""
        plain = self.classifier()
        if name == "undefended":
            return Undefended(plain)
        if name == "NIP":
            return fitted_dictionary(plain, self.data.train, self.probe, **self._nip, resume=self.resume)
        model: Any = self.training(name).model
        if name == "TRN":
            return Restoration(plain, model, GradientMap(plain))
        if name == "purifier":
            derivatives = dict(list(REDUCED.items())[: self.settings["derivatives"]])
            return Purification(plain, model, derivatives=derivatives)
        if name == "SNS":
            tensors, layers = self.fitted("SNS").tensors, self.fitted("SNS").facts["layers"]
            found = {layer: tensors[layer] for layer in layers}
            return Stabilized(model, sensitivity=found, guides=self.probe, twin=plain, features=list(model.taps)[-1])
        if isinstance(model, Quantized):
            model.undefended = plain
            return model
        return Undefended(model, twin=plain)

    def further(self, name: str) -> nn.Module | None:
        """What a defence adds to a classifier, where that has weights."""
        model = None if name == "NIP" else self.training(name).model
        if isinstance(model, Quantized):
            return model.quantizer
        return model if name in self.in_front else None

    def seconds(self, name: str) -> float:
        """How long a defence took to train or to fit, what it stands on included."""
        own = self.fitted(name).seconds if name == "NIP" else self.training(name).seconds
        return own + (self.training("undefended").seconds if name in self.in_front else 0)

    @property
    def _nip(self) -> dict[str, Any]:
        return {"per_class": self.settings["per_class"], "scale": 1 if self.colour else 4}

    def _draws(self, use: int) -> Generator:
        """Random draws, other ones for each use."""
        return Generator().manual_seed(1_000 * self.seed + use)


def fitted_restorer(
    classifier: nn.Module, data: Dataset, *, eps: float, size: Literal["XS", "S", "B"], epochs: int, seed: int
) -> Training:
    """TRN's restorer for a frozen classifier with taps, trained on attacks of up to ``eps`` in Linf."""
    channels, widths = data.shape[0], dict[str, Any](SIZES[size])
    return trained(
        partial(TwoStreamRestorer, channels, channels, **widths), train_restorer, data, seed=seed,
        classifier=classifier, maps=GradientMap(classifier),
        recipe=Recipe(eps=tuple(eps * share for share in (0.25, 0.5, 0.75, 1.0)), attacks=("FGSM", "PGD-10")),
        epochs=epochs, learning_rate=_RESTORER_RATES[size],
    )  # fmt: skip


def fitted_purifier(
    classifier: nn.Module, data: Dataset, shape: Sequence[int], *, eps: float, epochs: int, seed: int
) -> Training:
    """The purifier for a frozen classifier; ``shape`` is its width, the extractor's width, and the time steps."""
    width, extractor, steps = shape
    recipe = Recipe(eps=tuple(eps * share for share in (0.5, 1.0, 1.5)), attacks=("FGSM",), clean=0.5, noise=0.0)
    return trained(
        partial(Purifier, data.shape[0], width=width, extractor_width=extractor, steps=steps), train_purifier, data,
        seed=seed, classifier=classifier, recipe=recipe, epochs=epochs, batch_size=32,
        learning_rate=1e-2 if width < 10 else 1e-3,
    )  # fmt: skip


def fitted_dictionary(
    classifier: nn.Module, train: Split, probe: Split, *, per_class: int, scale: int, resume: Path | None = None
) -> NIPDictionary:
    """NIP with the largest step of six that costs at most a point on the probe, else with the smallest.

    What is measured for it is kept in the folder ``resume``.
    """
    found = _fit(_dictionary, classifier, train, probe, per_class=per_class, scale=scale, resume=resume)
    bank = DirectionBank(found.facts["layer"], **found.tensors).to(probe.images.device)
    return NIPDictionary(classifier, bank, steps=(found.facts["step"],), rule="mean-logit")


def _fit(measure: Callable[..., Found], *given: Any, resume: Path | None, **settings: Any) -> Entry:
    """What a measurement gives, kept in the folder ``resume``."""
    if resume is not None:
        asked = key("fitted", by=measure, given=given, settings=settings)
        return kept(resume, asked, partial(measure, *given, **settings), label="fitted")
    started = time.perf_counter()
    tensors, facts = measure(*given, **settings)
    return Entry(tensors, facts, time.perf_counter() - started, from_store=False)


def _dictionary(classifier: nn.Module, train: Split, probe: Split, *, per_class: int, scale: int) -> Found:
    """NIP's bank, and the largest step of six that costs at most a point on the probe, else the smallest."""
    bank = fit_bank(classifier, train, per_class=per_class, kept=2)
    images, labels = probe.float_images(), probe.labels

    def accuracy(model: nn.Module) -> float:
        return exact(correct(model, images, labels)).mean().item()

    allowed = accuracy(classifier) - _COSTS_A_POINT
    steps = [scale * step for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)]
    made = {step: NIPDictionary(classifier, bank, steps=(step,), rule="mean-logit") for step in steps}
    chosen = next((step for step in reversed(steps) if accuracy(made[step]) >= allowed), steps[0])
    tensors = {name: value for name, value in vars(bank).items() if name != "layer"}
    return tensors, {"layer": bank.layer, "step": chosen}


def _sensitivities(model: nn.Module, probe: Split, *, eps: float, generator: Generator) -> Found:
    """How much each neuron changes under attack, by layer, and the order of the layers."""
    images, attack = probe.float_images(), partial(pgd, steps=10)
    found = sensitivity(model, make_pairs(model, images, probe.labels, attack, eps=eps, generator=generator))
    return found, {"layers": list(found)}
