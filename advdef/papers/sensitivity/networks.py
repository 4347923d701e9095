"""The page's networks, how strongly their neurons change, and what becomes of them without some of these changes."""

from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from advdef.attacks import fgsm, pgd
from advdef.attacks.suites import Suite
from advdef.data import Dataset
from advdef.grid import Study, once
from advdef.papers.sensitivity.experiments import (
    Mode,
    occluded_accuracy,
    restored_accuracy,
    skip_occlusion,
    skip_restoration,
)
from advdef.papers.sensitivity.measure import Pairs, SensitivityMeter, make_pairs, measure, measure_under
from advdef.papers.sensitivity.methods import ABLATIONS, COMPARED, METHODS, MODELS, method
from advdef.papers.sensitivity.pairs import Keep
from advdef.training import Training, trained

__all__ = ["NOISE_OF_EPS", "TRAINING_IMAGES", "TRANSFERRED", "MeasuredNetworks"]

NOISE_OF_EPS = "noise of size eps"
TRANSFERRED = "transferred"
TRAINING_IMAGES = "training images"
"""What neurons are measured under besides attacks on their own network and held-out images."""


class MeasuredNetworks(Study):
    """Networks trained by SNS and its relatives, and how strongly their neurons change.

    A network is named by its training, its seed and its architecture; the last is by default the profile's first.

    Attributes:
        jobs: The networks of that architecture, by training and seed.
        outsider: One more, which only gives adversarial examples.
        plain: The trainings whose networks, of the first seed, are intervened on.
        overlaps: Under what attacks the sensitive neurons of ``plain`` are compared, to see whether they are the same.
        ends: When the attack stops whose examples are restored: after all steps, or once the decision has turned.
        shares: The shares of a layer's neurons that get their clean activations back.
        shares_lost: The shares of a layer's neurons that are occluded.
    """

    plain = ("standard", "AT")
    overlaps = (
        "PGD", "PGD, other start", "FGSM", "C&W loss", "PGD, eps / 4", "PGD, 2 eps", "classes, 1st half",
        "classes, 2nd half",
    )  # fmt: skip
    ends = ("", ", just turned")
    shares = (0.05, 0.1, 0.2, 0.3)
    shares_lost = (0.1, 0.2, 0.4)

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        most = settings["train"]
        whole = data if most is None else data.subset(train=min(most, len(data.train)))
        super().__init__(whole, settings, **options)
        colour = data.shape[0] == 3
        self.eps = settings.get("eps", 8 / 255 if colour else 0.1)
        self.curve_eps = [share * self.eps for share in (1, 0.5, 0.25, 2)][: settings["curve"]]
        self.seeds = [self.seed + i for i in range(settings["seeds"])]
        self.architecture: str = settings["networks"][0]
        self.taps: tuple[str, ...] = self.network().taps  # type: ignore[assignment]
        self.occluded_layers = [self.taps[i] for i in np.linspace(0, len(self.taps) - 1, 4).round().astype(int)]
        self.ablated: tuple[str, ...] = tuple(ABLATIONS) if settings["ablations"] == "all" else settings["ablations"]
        self.jobs = [(k, self.seed) for k in (*METHODS, *self.ablated)]
        self.jobs += [(k, s) for s in self.seeds[1:] for k in COMPARED]
        self.outsider = "standard", self.seeds[-1] + 1
        self.budget: dict[str, Any] = dict(
            epochs=settings["epochs"], batch_size=settings["batch"], optimizer="sgd", learning_rate=0.1,
            weight_decay=5e-4, schedule="one_cycle", **(dict(shift=2, flip=True) if colour else {}),
        )  # fmt: skip
        steps = settings["measuring"]
        self.measuring = partial(pgd, steps=steps, step_size=5 / steps)

    def network(self, architecture: str | None = None) -> nn.Module:
        """A network that is not trained."""
        return MODELS[architecture or self.architecture](self.data.shape, self.data.num_classes)

    @once
    def training(self, name: str, seed: int, architecture: str | None = None) -> Training:
        """A trained network; all but TRADES have one inner attack."""
        settings = self.settings
        function, own = method(
            name, self.taps, eps=self.eps, steps=settings["train_steps"], step_size=settings["train_step_size"],
            ramp=settings["ramp"], probe=settings["probe"], probe_steps=settings["probe_steps"],
        )  # fmt: skip
        return trained(partial(self.network, architecture), function, self.data, seed=seed, **self.budget, **own)

    def images(self, setting: str = "adaptive_images") -> tuple[Tensor, Tensor]:
        """As many test images as ``setting`` says, and their labels; neurons are measured on those of "pairs"."""
        chosen = self.data.test.sample(self.settings[setting])
        return chosen.float_images(), chosen.labels

    def probe(self) -> tuple[Tensor, Tensor]:
        """The training images that neurons are chosen on, and their labels."""
        chosen = self.data.train.sample(self.settings["pairs"])
        return chosen.float_images(), chosen.labels

    @once
    def same_for_all(self, under: str) -> Pairs:
        """Pairs that are the same for all networks: noise of size eps, or examples that are transferred."""
        x, y = self.images("pairs")
        if under == NOISE_OF_EPS:
            signs = torch.randint(2, x.shape, generator=self._draws()).to(x) * 2 - 1
            return Pairs(x, (x + self.eps * signs).clamp(0, 1), y)
        return self._pairs(*self.outsider, self.measuring, "all")

    @once
    def pairs(self, name: str, end: str = "", keep: Keep = "correct") -> Pairs:
        """A network's own pairs of held-out images, first seed, of an attack that ends as one of ``ends`` says."""
        attack = partial(self.measuring, stop_early=True) if end else self.measuring
        return self._pairs(name, self.seed, attack, keep)

    def _pairs(self, name: str, seed: int, attack: Any, keep: Keep) -> Pairs:
        return make_pairs(
            self.training(name, seed).model, *self.images("pairs"), attack, eps=self.eps, generator=self._draws(),
            keep=keep, resume=self.resume,
        )  # fmt: skip

    @once
    def meter(self, name: str, seed: int, under: str = "PGD", architecture: str | None = None) -> SensitivityMeter:
        """How much a network's neurons change on held-out images under one of ``overlaps``, or under what is the same
        for all networks; or on training images, under PGD.
        """
        model = self.training(name, seed, architecture).model
        if under in (NOISE_OF_EPS, TRANSFERRED):
            return measure(model, self.same_for_all(under), resume=self.resume)
        x, y = self.probe() if under == TRAINING_IMAGES else self.images("pairs")
        attack, eps, half = self.measuring, self.eps, y < self.data.num_classes // 2
        attacks: Suite = {"FGSM": partial(fgsm), "C&W loss": partial(attack, loss="margin")}
        budgets = {"PGD, eps / 4": eps / 4, "PGD, 2 eps": 2 * eps}
        rows = {"classes, 1st half": half, "classes, 2nd half": ~half}.get(under, half | ~half)
        return measure_under(
            model, x[rows], y[rows], attacks.get(under, attack), eps=budgets.get(under, eps),
            generator=self._draws(int(under == "PGD, other start")), resume=self.resume,
        )  # fmt: skip

    def ranking(self, name: str, seed: int, architecture: str | None = None) -> dict[str, Tensor]:
        """D1 of a network's neurons on training images, (C,) by layer, by which neurons are chosen."""
        return self.meter(name, seed, TRAINING_IMAGES, architecture).compute()

    @once
    def restored(self, name: str, end: str) -> dict[str, Tensor]:
        """What :func:`~advdef.papers.sensitivity.experiments.restored_accuracy` returns, with the first seed."""
        sigma, before = self.ranking(name, self.seed), list(product(self.ends, self.plain)).index((end, name))
        turned = self.pairs(name, end, "successful").of(slice(self.settings["substituted"]))
        return restored_accuracy(
            self.training(name, self.seed).model, turned, sigma, shares=self.shares, draws=self.settings["draws"],
            generator=self._intervening(sigma, restorations=before), resume=self.resume,
        )  # fmt: skip

    @once
    def occluded(self, name: str) -> dict[tuple[Mode, str], dict[str, Tensor]]:
        """What :func:`~advdef.papers.sensitivity.experiments.occluded_accuracy` returns, with the first seed.

        Only "AT" is attacked.
        """
        x, y = (part[: self.settings["occluded"]] for part in self.images("pairs"))
        sigma = self.ranking(name, self.seed)
        attack = partial(_attacked, images=x, labels=y, eps=self.eps, seed=self.seed)
        before = dict(restorations=len(self.plain) * len(self.ends), occlusions=self.plain.index(name))
        return occluded_accuracy(
            self.training(name, self.seed).model, x, y, {layer: sigma[layer] for layer in self.occluded_layers},
            shares=self.shares_lost, draws=self.settings["draws"], generator=self._intervening(sigma, **before),
            reference=self.probe()[0], attack=attack if name == "AT" else None, resume=self.resume,
        )  # fmt: skip

    def _intervening(self, sigma: dict[str, Tensor], *, restorations: int, occlusions: int = 0) -> Generator:
        """Draws of an intervention: all follow on one another, so those of the ones before are skipped."""
        draws, lost = self._draws(), {layer: sigma[layer] for layer in self.occluded_layers}
        told = dict(draws=self.settings["draws"], generator=draws)
        for _ in range(restorations):
            skip_restoration(sigma, shares=len(self.shares), **told)
        for _ in range(occlusions):
            skip_occlusion(lost, shares=len(self.shares_lost), **told)
        return draws

    def _draws(self, offset: int = 0) -> Generator:
        return Generator().manual_seed(self.seed + offset)


def _attacked(model: nn.Module, *, images: Tensor, labels: Tensor, eps: float, seed: int) -> Tensor:
    """A short attack, for networks without some neurons."""
    draws = Generator().manual_seed(seed)
    return pgd(model, images, labels, steps=10, loss="margin", stop_early=True, eps=eps, generator=draws)
