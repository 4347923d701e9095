"""The networks of NIP's page, and the images that attacks make of them without regard to a defence, as tasks."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Generator, Tensor, nn

from advdef.attacks import carlini_wagner, pgd, suites
from advdef.attacks.attack import Attack
from advdef.data import Dataset
from advdef.evaluation import craft
from advdef.grid import Study, once
from advdef.norms import Norm, show_eps
from advdef.papers.nip import judging, profiles
from advdef.training import Training, train_at, train_standard, trained

__all__ = ["PGD_MIN", "AttackedNetworks", "Target"]

Target = tuple[str, float | None]
"""An attack and its eps, None where it looks for the smallest perturbation."""

PGD_MIN: Target = ("PGD-min", None)
"""PGD that stops on the boundary."""


class AttackedNetworks(Study):
    """Networks and what attacks make on them, on one data set.

    Methods take the name of a network; those that take none are about the first one of the page.

    Attributes:
        kinds: The names of the networks.
        seeds: The seeds with which the first network is trained.
        eps: The main budget, in Linf.
        half: Half the main budget.
        huge: A budget at which nothing may be left.
        budgets: A quarter, half, one and two times the main budget.
        scale: The factor of all steps: 4 on grey images, 1 on colour images.
        steps: The sizes that are tried of what a defence adds (RMS, in pixel units).
        released: The same of the released scripts.
        fixed_suite: Attacks that use all of a budget.
        eleven_suite: The eleven attacks that the authors' group lists.
        stops: Attacks that stop early or late, by label, each with its eps and norm.
    """

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(data, settings, **options)
        channels = data.shape[0]
        self.kinds: tuple[str, ...] = settings["datasets"].get(data.name, profiles.OTHER)
        self.seeds = [self.seed + i for i in range(settings["seeds"])]
        self.eps, self.scale = settings.get("eps", profiles.EPS[channels]), profiles.SCALE[channels]
        self.huge = max(profiles.HUGE[channels], 2 * self.eps)
        self.half = self.eps / 2
        self.budgets = [self.eps / 4, self.eps / 2, self.eps, 2 * self.eps]
        self.steps = [self.scale * step for step in profiles.STEPS]
        self.released = [self.scale * step for step in profiles.RELEASED]
        self.recipe = profiles.TRAINING | (dict(flip=True) if data.name in profiles.FLIPPED else {})
        (trials, inner), steps = settings["minimal"], settings["steps"]
        self.pgd_min = judging.pgd_min(trials=trials, steps=inner)
        self.fixed_suite = judging.fixed_suite(steps=steps, queries=settings["queries"])
        self.eleven_suite = suites.nip(
            trials=trials, levels=settings["levels"], boundary_steps=settings["boundary"], universal_eps=0.1
        )
        (halvings, long), ball = settings["cw"], f"PGD {show_eps(self.eps)}"
        lead = partial(carlini_wagner, binary_search_steps=halvings, steps=long)
        self.stops: dict[str, tuple[Attack, float, Norm]] = {
            f"{ball}, stops at once": (partial(pgd, steps=steps, stop_early=True), self.eps, "Linf"),
            f"{ball}, all steps": (self.fixed_suite["PGD"], self.eps, "Linf"),
        }
        for kappa in (0, 1, 5, 10):
            self.stops[f"C&W, κ = {kappa}"] = partial(lead, confidence=kappa), float("inf"), "L2"

    def draws(self, offset: int = 0) -> Generator:
        """Random draws that depend on the seed alone; offsets keep uses apart."""
        return Generator().manual_seed(1_000 * self.seed + offset)

    def is_first(self, kind: str) -> bool:
        """Whether this is the first network of the page, on which more is done."""
        return self.main and kind == self.kinds[0]

    def network(self, kind: str) -> nn.Module:
        """An untrained network."""
        return profiles.NETWORKS[kind](self.data.shape, self.data.num_classes)

    @once
    def training(self, kind: str, seed: int) -> Training:
        """A network, trained on clean images."""
        few = max(8, -(-100 // -(-len(self.data.train) // 128)))  # 100 steps of few images
        epochs, build = self.settings["epochs"].get(self.data.name, few), partial(self.network, kind)
        return trained(build, train_standard, self.data, seed=seed, epochs=epochs, **self.recipe)

    @once
    def adversarial_training(self) -> Training:
        """The first network, trained on attacked images."""
        build, epochs = partial(self.network, self.kinds[0]), self.settings["at_epochs"]
        inner = dict(eps=self.eps, steps=3, step_size=0.5)
        return trained(build, train_at, self.data, seed=self.seed, epochs=epochs, **inner, **self.recipe)

    def model(self, kind: str, seed: int) -> nn.Module:
        """The network that was trained on clean images."""
        return self.training(kind, seed).model

    def images(self, setting: str = "images") -> tuple[Tensor, Tensor]:
        """The first test images, as many as ``setting`` says of a fixed random order, and their labels."""
        chosen = self.data.test.sample(self.settings[setting])
        return chosen.float_images(), chosen.labels

    def known_images(self) -> tuple[Tensor, Tensor]:
        """The training images on which choices are made, and their labels."""
        chosen = self.data.train.sample(self.settings["images"])
        return chosen.float_images(), chosen.labels

    @once
    def fixed(self, kind: str, attack: str) -> Tensor:
        """What an attack of ``fixed_suite`` makes of the test images with the main eps."""
        return self._crafted(kind, {attack: self.fixed_suite[attack]}, self.images(), eps=self.eps, offset=1)

    @once
    def pgd(self, kind: str, eps: float) -> Tensor:
        """What PGD makes of the test images with this eps."""
        return self._crafted(kind, {"PGD": self.fixed_suite["PGD"]}, self.images(), eps=eps, offset=2)

    @once
    def smallest(self, kind: str, seed: int) -> Tensor:
        """What PGD makes of each test image with the smallest eps that fools the network."""
        return self._crafted(kind, {"PGD-min": self.pgd_min}, self.images(), seed, eps=1.0, offset=0)

    @once
    def eleven(self, kind: str, attack: str) -> Tensor:
        """What one of the eleven attacks makes."""
        suite = {attack: self.eleven_suite[attack]}
        return self._crafted(kind, suite, self.images("eleven"), eps=float("inf"), offset=3)

    @once
    def stopped(self, label: str) -> Tensor:
        """What one of :attr:`stops` makes."""
        attack, eps, norm = self.stops[label]
        suite, images = {label: attack}, self.images("eleven")
        return self._crafted(self.kinds[0], suite, images, eps=eps, norm=norm, offset=8)

    @once
    def on_known_images(self, kind: str, attack: str) -> Tensor:
        """What "PGD-min", or "PGD" with the main eps, makes of training images."""
        if attack == "PGD-min":
            return self._crafted(kind, {attack: self.pgd_min}, self.known_images(), eps=1.0, offset=16)
        return self._crafted(kind, {attack: self.fixed_suite[attack]}, self.known_images(), eps=self.eps, offset=17)

    def target(self, kind: str, attack: str, eps: float | None) -> Tensor:
        """One of the :meth:`targets` of the first seed."""
        return self.smallest(kind, self.seed) if eps is None else self.pgd(kind, eps)

    def targets(self, kind: str, seed: int) -> dict[Target, Tensor]:
        """What the tables are about: PGD-min, and with the first seed PGD at each budget."""
        budgets = self.budgets if seed == self.seed else []
        return {PGD_MIN: self.smallest(kind, seed)} | {("PGD", eps): self.pgd(kind, eps) for eps in budgets}

    def _crafted(
        self, kind: str, suite: Mapping[str, Attack], on: tuple[Tensor, Tensor], seed: int | None = None, *,
        eps: float, offset: int, norm: Norm = "Linf",
    ) -> Tensor:  # fmt: skip
        model = self.model(kind, self.seed if seed is None else seed)
        (found,) = craft(
            model, dict(suite), *on, eps=eps, norm=norm, generator=self.draws(offset), resume=self.resume
        ).values()
        return found
