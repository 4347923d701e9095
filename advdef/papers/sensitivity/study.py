"""What the page about neuron sensitivity computes: besides its networks what attacks leave of them, and checks."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import product
from typing import Any

from torch import Generator, Tensor, nn

from advdef import checks
from advdef.attacks import apgd, fgsm, pgd, suites
from advdef.attacks.suites import Suite
from advdef.evaluation import Attempt, Outcome, Threat, adaptive, direct, evaluate, three_curves
from advdef.evaluation.outcomes import joined_curves
from advdef.grid import Task, once, seeded_name, shards
from advdef.papers.sensitivity.defence import Stabilized
from advdef.papers.sensitivity.methods import COMPARED, METHODS
from advdef.papers.sensitivity.migration import selections
from advdef.papers.sensitivity.networks import NOISE_OF_EPS, TRAINING_IMAGES, TRANSFERRED, MeasuredNetworks

__all__ = ["Stabilization"]

_PROFILES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        datasets=("digits",), networks=("SmallResNet-8",), train=450, epochs=4, batch=32,
        train_steps=1, train_step_size=1.0, ramp=1, probe=100, probe_steps=1, seeds=2,
        ablations=("weight 0",),
        pairs=60, measuring=4, substituted=20, draws=1, occluded=10, images=20,
        adaptive_images=8, steps=2, rounds=0, long=(5, 1), queries=10, alone=8, curve=1,
        checks="brief",
    ),
    "laptop": dict(
        datasets=("cifar10",), networks=("SmallResNet-16",), train=10_000, epochs=6, batch=128,
        train_steps=3, train_step_size=0.5, ramp=2, probe=500, probe_steps=5, seeds=5,
        ablations="all",
        pairs=1_000, measuring=20, substituted=300, draws=5, occluded=200, images=300,
        adaptive_images=300, steps=50, long=(50, 2), queries=500, rounds=3, alone=100, curve=4,
        checks="all",
    ),
    "gpu": dict(
        datasets=("cifar10",), networks=("ResNet18", "VGG16"), train=10_000, epochs=4, batch=128,
        train_steps=2, train_step_size=0.75, ramp=2, probe=500, probe_steps=5, seeds=2,
        ablations=("weight 0", "chosen once"),
        pairs=500, measuring=10, substituted=200, draws=2, occluded=100, images=300,
        adaptive_images=200, steps=20, long=(20, 2), queries=500, rounds=2, alone=100, curve=2,
        checks="fast",
    ),
    "paper": dict(
        datasets=("cifar10",), networks=("ResNet18", "VGG16"), train=None, epochs=5, batch=128,
        train_steps=10, train_step_size=0.25, ramp=2, probe=1_024, probe_steps=10, seeds=5,
        ablations=("weight 0", "weight 0.3", "chosen once", "random once", "relative"),
        pairs=2_000, measuring=20, substituted=1_000, draws=5, occluded=500, images=1_000,
        adaptive_images=1_000, steps=100, long=(100, 10), queries=1_000, rounds=4, alone=500, curve=4,
        checks="all",
    ),
}  # fmt: skip
_MEANINGS = {
    "datasets": "data sets",
    "networks": "architectures: the main one, and those for comparison",
    "train": "training images; None: all",
    "epochs": "of training",
    "batch": "images in a batch",
    "train_steps": "steps of the attack in training",
    "train_step_size": "its step, in eps",
    "ramp": "epochs over which SNS grows to its weight",
    "probe": "training images on which SNS chooses neurons",
    "probe_steps": "steps of the attack on them",
    "seeds": "trainings of what is compared",
    "ablations": "variants of SNS with one setting changed",
    "pairs": "images on which sensitivity is measured",
    "measuring": "steps of PGD on them",
    "substituted": "attacked images whose neurons are substituted",
    "draws": "sets of random neurons that are averaged",
    "occluded": "images on which neurons are occluded",
    "images": "test images under single attacks",
    "adaptive_images": "test images under the three attackers",
    "steps": "of strong attacks",
    "long": "steps and starts of the long PGD",
    "rounds": "how often the adaptive attacker may go on with twice the effort",
    "queries": "of Square, for each image",
    "alone": "test images under each attack made for neurons",
    "curve": "number of budgets of the three attackers",
    "checks": "sanity checks: all of them, or the fast ones (in brief)",
}

_SHARD = 250


class Stabilization(MeasuredNetworks):
    """What attacks leave of the networks.

    Attributes:
        met_alone: The trainings whose networks, of the first seed, meet each attack made for neurons alone.
        checked: Those whose networks have a row of checks.
        second: The trainings of networks of further architectures.
    """

    profiles = _PROFILES
    meanings = _MEANINGS
    met = "adaptive_images"
    fewer = ("images", "alone")
    fewest = 2
    farthest = 2.0
    met_alone = ("AT", "SNS", "SNS 0.1", "SNS α=1")
    checked = ("standard", "AT", "SNS", "SNS α=1")
    second = ("AT", "SNS", "SNS random")

    @cached_property
    def suite(self) -> Suite:
        """The single attacks."""
        long_steps, restarts = self.settings["long"]
        long = partial(pgd, steps=long_steps)
        return {
            "FGSM": partial(fgsm),
            "PGD": self.measuring,
            f"PGD-{long_steps} × {restarts}": partial(long, step_size=0.25, restarts=restarts),
            "C&W loss": partial(long, loss="margin"),
            "APGD": partial(apgd, steps=self.settings["steps"]),
        }

    @once
    def defence(self, name: str, seed: int, architecture: str | None = None) -> Stabilized:
        """What is attacked: a network, and what an attacker knows of its neurons."""
        training, sigma = self.training(name, seed, architecture), self.ranking(name, seed, architecture)
        known: dict[str, Any] = {}
        if architecture is None:
            known["held"] = next(reversed(selections(training.history)), None)
            known["twin"] = None if name == "standard" else self.training("standard", seed).model
        guides = self.data.train.sample(200)
        return Stabilized(training.model, sensitivity=sigma, guides=guides, features=list(sigma)[-1], **known)

    def single(self, name: str, seed: int) -> Outcome:
        """Each attack by itself on every image, directly."""
        return Outcome.joined([self.single_part(name, seed, i) for i in self._parts("images")])

    @once
    def single_part(self, name: str, seed: int, shard: int) -> Outcome:
        """The single attacks on one shard of the images; ablations meet two of them."""
        suite = self.suite if name in METHODS else {k: self.suite[k] for k in ("PGD", "C&W loss")}
        return self._every(name, seed, direct(self.defence(name, seed), suite), "images", shard)

    def alone(self, name: str) -> Outcome:
        """Each attack made for neurons alone on every image, first seed, beside PGD with the margin loss."""
        return Outcome.joined([self.alone_part(name, i) for i in self._parts("alone")])

    @once
    def alone_part(self, name: str, shard: int) -> Outcome:
        """The attacks made for neurons, on one shard of the images."""
        defence = self.defence(name, self.seed)
        tried = direct(defence, {"PGD, margin": partial(self.measuring, loss="margin")})
        tried += adaptive(defence, {}, eps=self.eps, steps=self.settings["steps"])
        return self._every(name, self.seed, tried, "alone", shard)

    def _every(self, name: str, seed: int, tried: list[Attempt], setting: str, shard: int) -> Outcome:
        rows, (images, labels) = self._shards(setting)[shard], self.images(setting)
        return evaluate(
            self.defence(name, seed), tried, images[rows], labels[rows], eps=self.eps, generator=self._draws(),
            exhaustive=True, resume=self.resume,
        )  # fmt: skip

    def cases(self) -> dict[str, tuple[Any, ...]]:
        """The networks that meet the three attackers, those of further architectures with the first seed."""
        jobs = [self._which(k, s, None) for k, s in self.jobs if k in METHODS]
        jobs += [(k, self.seed, kind) for kind in self.settings["networks"][1:] for k in self.second]
        return {seeded_name(", ".join((k, *kind)), s, self.seed): (k, s, *kind) for k, s, *kind in jobs}

    def attacked_images(self) -> tuple[Tensor, Tensor]:
        """The test images of the three attackers, and their labels."""
        return self.images()

    def relatives_of(self, *which: Any) -> dict[str, nn.Module]:
        """Networks of the first architecture, of another training and of another seed."""
        name, seed, *kind = which
        found = {} if kind else self.sources(name, seed)
        return {label: self.training(*network).model for label, network in found.items()}

    def _which(self, name: str, seed: int, architecture: str | None) -> tuple[Any, ...]:
        return (name, seed) if architecture is None else (name, seed, architecture)

    def curve(self, name: str, seed: int, architecture: str | None = None) -> dict[Threat, dict[float, Outcome]]:
        """What the three attackers leave of a network; those of the first seed meet several budgets."""
        found = joined_curves([self.part(name, seed, i, architecture) for i in self._parts("adaptive_images")])
        return self.with_later(found, *self._which(name, seed, architecture))

    @once
    def part(
        self, name: str, seed: int, shard: int, architecture: str | None = None
    ) -> dict[Threat, dict[float, Outcome]]:
        """The curve on one shard of the images."""
        settings, rows, (images, labels) = self.settings, self._shards("adaptive_images")[shard], self.images()
        several = seed == self.seed and architecture is None
        return three_curves(
            self.defence(name, seed, architecture), images[rows], labels[rows],
            budgets=self.curve_eps if several else (self.eps,), generator=Generator().manual_seed(seed),
            steps=settings["steps"], queries=settings["queries"], rounds=settings["rounds"], decisive=self.eps,
            transfer=self.relatives_of(*self._which(name, seed, architecture)),
            more=suites.standard(steps=settings["steps"], queries=0), resume=self.resume,
        )  # fmt: skip

    def sources(self, name: str, seed: int) -> dict[str, tuple[str, int]]:
        """The networks whose examples are tried on another: of two other trainings, and one of another seed."""
        found = {other: (other, seed) for other in [k for k in ("AT", "standard", "SNS") if k != name][:2]}
        if name in COMPARED and len(self.seeds) > 1:
            found[f"{name}, other seed"] = name, self.seeds[self.seeds.index(seed) - 1]
        return found

    @once
    def checks(self, name: str) -> list[checks.Check]:
        """The row of checks of the direct evaluation, first seed."""
        images, labels = self.images()
        told: dict[str, Any] = dict(
            goal="any wrong class", norm="Linf", knowledge="all", randomised="nothing", eps=self.eps
        )
        found: dict[str, Any] = {threat: curve[self.eps] for threat, curve in self.curve(name, self.seed).items()}
        return checks.row(
            self.defence(name, self.seed), images, labels, eps=self.eps, generator=self._draws(),
            single=self.single(name, self.seed), **found,
            card=told, seeds=len(self.seeds) if name in COMPARED else 1,
            resume=self.resume, **checks.asked_for(self.settings["checks"]),
        )  # fmt: skip

    def stages(self) -> Iterator[Sequence[Task]]:
        """Trainings, then what is measured on each network and done to it, then checks of that."""
        nets = {key: Task("training", key) for key in (*self.jobs, self.outsider)}
        transferred = Task("same_for_all", (TRANSFERRED,), (nets[self.outsider],))
        chosen = {key: Task("meter", (*key, TRAINING_IMAGES), (nets[key],)) for key in self.jobs}
        under: dict[tuple[str, int], tuple[str, ...]] = dict.fromkeys(self.jobs, ("PGD", NOISE_OF_EPS))
        under |= {(k, self.seed): (*self.overlaps, NOISE_OF_EPS) for k in self.plain}
        meters = [Task("meter", (*key, what), (nets[key],)) for key in self.jobs for what in under[key]]
        meters += [Task("meter", (*key, TRANSFERRED), (nets[key], transferred)) for key in self.jobs]
        own = {k: Task("pairs", (k,), (nets[k, self.seed],)) for k in self.plain}
        known = {k: (nets[k, self.seed], chosen[k, self.seed]) for k in self.plain}
        interventions = [Task("restored", (k, end), (*known[k], own[k])) for end, k in product(self.ends, self.plain)]
        interventions += [Task("occluded", (k,), known[k]) for k in self.plain]

        attackable = {(k, s): (nets[k, s], chosen[k, s], nets["standard", s]) for k, s in self.jobs}
        single = {
            key: [Task("single_part", (*key, i), after) for i in self._parts("images")]
            for key, after in attackable.items()
        }
        sources = {key: [nets[source] for source in self.sources(*key).values()] for key in self.jobs}
        curves = {
            key: [Task("part", (*key, i), (*attackable[key], *sources[key])) for i in self._parts("adaptive_images")]
            for key in self.jobs
            if key[0] in METHODS
        }
        alone = [
            Task("alone_part", (k, i), attackable[k, self.seed]) for k in self.met_alone for i in self._parts("alone")
        ]
        rows = [Task("checks", (k,), (*single[k, self.seed], *curves[k, self.seed])) for k in self.checked]

        second = []
        for kind, k in product(self.settings["networks"][1:], self.second):
            net = Task("training", (k, self.seed, kind))
            sigma = Task("meter", (k, self.seed, TRAINING_IMAGES, kind), (net,))
            parts = [Task("part", (k, self.seed, i, kind), (net, sigma)) for i in self._parts("adaptive_images")]
            second += [net, sigma, *parts]
        attacks = [task for tasks in (*single.values(), *curves.values()) for task in tasks]
        measured = [transferred, *chosen.values(), *own.values()]
        yield [*nets.values(), *measured, *interventions, *attacks, *alone, *meters, *rows, *second]

    def _shards(self, setting: str) -> list[slice]:
        return shards(min(self.settings[setting], len(self.data.test)), _SHARD)

    def _parts(self, setting: str) -> range:
        return range(len(self._shards(setting)))
