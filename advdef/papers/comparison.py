"""What the page that compares all defences computes: its line-up, evaluations and checks, each a task of its own."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from advdef import checks
from advdef.attacks import fgsm, pgd, square, suites, uniform_noise
from advdef.data import Dataset
from advdef.devices import exact
from advdef.evaluation import ATTACKERS, Attempt, Outcome, Threat, adaptive, direct, evaluate, three_curves
from advdef.evaluation.outcomes import joined_curves
from advdef.grid import Task, once, shards
from advdef.papers import PAPERS
from advdef.papers.line_up import LineUp

__all__ = ["ATTACK_KINDS", "FiveDefences"]

_PROFILES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        datasets=("digits",), network="narrow ResNet", train=(800, 200, 200), epochs=(6, 6, 3),
        inner=2, per_class=20, size="XS", purifier=(4, 4, 2), derivatives=1, images=10, few=6, steps=3,
        queries=10, rounds=0, curve=(1.0,), checks="brief",
    ),
    "laptop": dict(
        datasets=("fashion_mnist",), network="small ResNet", train=(20_000, 10_000, 4_000), epochs=(8, 8, 6),
        inner=3, per_class=100, size="XS", purifier=(6, 8, 4), derivatives=7, images=200, few=60, steps=50,
        queries=500, rounds=3, curve=(0.25, 0.5, 1.0), checks="fast",
    ),
    "gpu": dict(
        datasets=("fashion_mnist",), network="ResNet-18", train=(20_000, 10_000, 4_000), epochs=(8, 8, 6),
        inner=3, per_class=100, size="XS", purifier=(8, 8, 4), derivatives=2, images=200, few=60, steps=20,
        queries=500, rounds=2, curve=(0.5, 1.0), checks="fast",
    ),
    "paper": dict(
        datasets=("cifar10",), network="ResNet-18", train=(None, None, None), epochs=(30, 20, 15),
        inner=7, per_class=200, size="B", purifier=(32, 32, 4), derivatives=7, images=1_000, few=200, steps=100,
        queries=1_000, rounds=4, curve=(0.25, 0.5, 1.0), checks="all",
    ),
}  # fmt: skip
_MEANINGS = {
    "datasets": "data sets",
    "network": "architecture of all classifiers",
    "train": "training images of classifiers, restorer, purifier; None: all",
    "epochs": "of each",
    "inner": "steps of the attack in adversarial training",
    "per_class": "training images of a class from which NIP learns",
    "size": "of the restorer",
    "purifier": "its channels, those of its extractor, time steps",
    "derivatives": "how many attackers try for a spike",
    "images": "test images under attack",
    "few": "test images on which every attack is tried",
    "steps": "of strong attacks",
    "rounds": "how often the adaptive attacker may go on with twice the effort",
    "queries": "of Square, for each image",
    "curve": "budgets, as shares of the main one",
    "checks": "sanity checks: all of them, or the fast ones (in brief)",
}

ATTACK_KINDS = ("replayed", "direct", "surrogates", "made for it", "Square", "noise")
"""The kinds of attack that are told apart; the name of an attempt begins with its kind."""

_SHARD = 100


class FiveDefences(LineUp):
    """All defences before the same attackers, on one data set.

    Attributes:
        budgets: Those of the curves, in Linf; the largest is the main one.
    """

    profiles = _PROFILES
    meanings = _MEANINGS
    fewer = ("few",)
    several = ()
    farthest = 1.5

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(data, settings, **options)
        self.budgets = [share * self.eps for share in settings["curve"]]

    def images(self) -> tuple[Tensor, Tensor]:
        """The test images that are attacked, and their labels."""
        chosen = self.data.test.sample(self.settings["images"])
        return chosen.float_images(), chosen.labels

    def sources(self) -> dict[str, nn.Module]:
        """The networks from which attacks are replayed on all others."""
        return {"undefended": self.classifier()} | {name: self.defence(name).network for name in ("AT", "SNS")}

    attacked_images = images

    def cases(self) -> dict[str, tuple[Any, ...]]:
        """The line-up."""
        return {name: (name,) for name in self.names}

    def relatives_of(self, *which: Any) -> dict[str, nn.Module]:
        """The sources but for the defence itself."""
        return {name: source for name, source in self.sources().items() if name not in which}

    def curve(self, name: str) -> dict[Threat, dict[float, Outcome]]:
        """What the three attackers leave of a defence at each budget."""
        return self.with_later(joined_curves([self.part(name, i) for i in range(len(self._shards()))]), name)

    @once
    def part(self, name: str, shard: int) -> dict[Threat, dict[float, Outcome]]:
        """The curve on one shard of the images."""
        settings, rows, (images, labels) = self.settings, self._shards()[shard], self.images()
        return three_curves(
            self.defence(name), images[rows], labels[rows], budgets=self.budgets, generator=self._draws(2),
            steps=settings["steps"], queries=settings["queries"], rounds=settings["rounds"], decisive=self.eps,
            transfer=self.relatives_of(name), resume=self.resume,
        )  # fmt: skip

    @once
    def kinds(self, name: str) -> Outcome:
        """One attack of every kind on each of a few images."""
        defence, steps = self.defence(name), self.settings["steps"]
        images, labels = (tensor[: self.settings["few"]] for tensor in self.images())
        strong = partial(pgd, steps=steps, loss="margin")
        through = [Attempt(f"surrogates: {k}", strong, target) for k, target in defence.surrogates().items()]
        own = [
            Attempt(f"made for it: {k}", partial(attack, steps=steps), defence)
            for k, attack in defence.adaptive_attacks(self.eps).items()
        ]
        attempts = [
            Attempt("replayed", strong, self.classifier()), Attempt("direct", strong, defence), *through, *own,
            Attempt("Square", partial(square, queries=self.settings["queries"]), defence),
            Attempt("noise", partial(uniform_noise, draws=20), defence),
        ]  # fmt: skip
        return evaluate(
            defence, attempts, images, labels, eps=self.eps, generator=self._draws(3), exhaustive=True,
            resume=self.resume,
        )  # fmt: skip

    @once
    def trial(self, name: str) -> Outcome:
        """What PGD through each surrogate and a defence's own attacks leave of training images that it never saw."""
        defence, steps = self.defence(name), self.settings["steps"]
        held_out = self.held_out.sample(self.settings["images"])
        attempts = adaptive(defence, {"PGD": partial(pgd, steps=steps, loss="margin")}, eps=self.eps, steps=steps)
        return evaluate(
            defence, attempts, held_out.float_images(), held_out.labels, eps=self.eps, generator=self._draws(6),
            resume=self.resume,
        )  # fmt: skip

    def chosen(self, forms: Sequence[str]) -> str:
        """The form of a defence that its owner would deploy, by the trial on training images: the most robust one.

        Of equally robust forms it is the one with more clean images right, then the first.
        """

        def merit(name: str) -> tuple[float, float]:
            found = self.trial(name)
            return exact(found.robust).mean().item(), exact(found.clean).mean().item()

        return max(forms, key=merit)

    @once
    def single(self, name: str) -> Outcome:
        """FGSM and PGD with the deployed defence's own gradient, each on every image."""
        suite = {"FGSM": partial(fgsm), "PGD": suites.cleverhans()["PGD"]}
        defence, (images, labels) = self.defence(name), self.images()
        return evaluate(
            defence, direct(defence, suite), images, labels, eps=self.eps, generator=self._draws(4), exhaustive=True,
            resume=self.resume,
        )  # fmt: skip

    @once
    def checks(self, name: str) -> list[checks.Check]:
        """The row of checks of the direct evaluation."""
        images, labels = self.images()
        told = dict(goal="any wrong class", norm="Linf", eps=self.eps, knowledge="all", randomised="nothing")
        curve = self.curve(name)
        found: dict[str, Any] = {threat: curve[threat][self.eps] for threat in ATTACKERS}
        return checks.row(
            self.defence(name), images, labels, eps=self.eps, generator=self._draws(5), single=self.single(name),
            **found, card=told, seeds=1, resume=self.resume,
            **checks.asked_for(self.settings["checks"], "D3", "D4"),
        )  # fmt: skip

    def stages(self) -> Iterator[Sequence[Task]]:
        """Trainings, what is measured for NIP and SNS, attacks on each defence, and checks of that."""
        plain = Task("training", ("undefended",))
        nets = {k: Task("training", (k,), (plain,) if k in self.in_front else ()) for k in self.names if k != "NIP"}
        nets["undefended"] = plain
        ready = nets | {k: Task("fitted", (k,), (nets.get(k, plain),)) for k in ("NIP", "SNS")}
        attacks, rows = list[Task](), list[Task]()
        for k in reversed(self.names):  # the dearest first, so that no process ends long after the others
            after = tuple(dict.fromkeys([plain, nets["AT"], nets["SNS"], ready[k]]))
            parts = [Task("part", (k, i), after) for i in range(len(self._shards()))]
            single = Task("single", (k,), after)
            attacks += [*parts, Task("kinds", (k,), after), single]
            attacks += [Task("trial", (k,), after)] if any(k in paper.forms for paper in PAPERS) else []
            rows.append(Task("checks", (k,), (*parts, single)))
        yield [*nets.values(), *ready.values(), *attacks, *rows]

    def _shards(self) -> list[slice]:
        return shards(min(self.settings["images"], len(self.data.test)), _SHARD)
