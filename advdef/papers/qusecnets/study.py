"""What the page about QuSecNets computes: its sizes, networks, evaluations and checks, each a task of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from torch import Generator, Tensor, nn

from advdef import checks
from advdef.attacks import suites
from advdef.data import Dataset
from advdef.defenses import Defense, Undefended
from advdef.evaluation import ATTACKERS, Attempt, Outcome, Threat, direct, evaluate, oblivious, three_curves
from advdef.evaluation.outcomes import joined_curves
from advdef.grid import Study, Task, once, seeded_name, shards
from advdef.models import CleverhansCNN
from advdef.papers.qusecnets.defence import Quantized, through_identity
from advdef.papers.qusecnets.quantizer import Quantizer, kmeans_thresholds
from advdef.papers.qusecnets.training import train_quantized
from advdef.training import Training, train_at, train_standard, trained

Curves = dict[Threat, dict[float, Outcome]]

__all__ = ["CLAIMED", "SCHEMES", "Quantization"]

_PROFILES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        datasets=("digits",), width=16, train=700, epochs={1: 3, 3: 3}, batch=32, seeds=2,
        robust_epochs=10, robust_steps=2, levels=(2, 4), level_seeds=1,
        images=60, adaptive_images=16, steps=4, queries=10, rounds=0,
        curve={1: (0.3,), 3: (8 / 255,)}, checks="brief",
    ),
    "laptop": dict(
        datasets=("mnist", "cifar10"), width=64, train=15_000, epochs={1: 3, 3: 6}, batch=128, seeds=5,
        robust_epochs=4, robust_steps=4, levels=(2, 4, 16), level_seeds=1,
        images=500, adaptive_images=200, steps=50, queries=500, rounds=3,
        curve={1: (0.1, 0.2, 0.3, 0.4), 3: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}, checks="all",
    ),
    "gpu": dict(
        datasets=("mnist", "cifar10"), width=64, train=25_000, epochs={1: 8, 3: 20}, batch=128, seeds=5,
        robust_epochs=12, robust_steps=7, levels=(2, 4, 16), level_seeds=2,
        images=1_000, adaptive_images=500, steps=50, queries=500, rounds=3,
        curve={1: (0.1, 0.2, 0.3, 0.4), 3: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}, checks="all",
    ),
    "paper": dict(
        datasets=("mnist", "cifar10"), width=64, train=None, epochs={1: 10, 3: 30}, batch=128, seeds=5,
        robust_epochs=20, robust_steps=10, levels=(2, 3, 4, 6, 8, 16, 32), level_seeds=3,
        images=1_000, adaptive_images=1_000, steps=100, queries=1_000, rounds=4,
        curve={1: (0.1, 0.2, 0.3, 0.4), 3: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}, checks="all",
    ),
}  # fmt: skip
# what depends on the kind of image stands under its channels, 1 or 3

_MEANINGS = {
    "datasets": "data sets",
    "width": "channels of the first convolution",
    "train": "training images; None: all",
    "epochs": "of training, by the channels of an image",
    "batch": "images in a batch",
    "seeds": "trainings of what is compared",
    "robust_epochs": "epochs of adversarial training",
    "robust_steps": "steps of the attack in it",
    "levels": "numbers of levels in the sweep",
    "level_seeds": "trainings in the sweep",
    "images": "test images under the attacks of Cleverhans",
    "adaptive_images": "test images under the three attackers",
    "steps": "of strong attacks",
    "rounds": "how often the adaptive attacker may go on with twice the effort",
    "queries": "of Square, for each image",
    "curve": "budgets of the three attackers, by the channels of an image",
    "checks": "sanity checks: all of them, or the fast ones (in brief)",
}

LEVELS = {1: 2, 3: 4}  # the released configuration has N = 2 on MNIST
_EPS = {1: 0.3, 3: 8 / 255}  # the main budget: Cleverhans' default on grey images, the usual one on colour images

CLAIMED = ("CQ", "TQ", "CQ released", "TQ released")
"""The layers that the claims are about."""

SCHEMES: dict[str, dict[str, Any]] = {
    "joint, h 10→200": dict(scheme="joint"),
    "joint, h = 20": dict(scheme="joint", hardness=(20.0, 20.0)),
    "alternating, h 10→200": dict(scheme="alternating"),
    "alternating, h = 20": dict(scheme="alternating", hardness=(20.0, 20.0)),
}
"""Ways to train thresholds."""

_AUGMENT = {1: {}, 3: dict(shift=2, flip=True)}
_LAYERS = ("CQ", "TQ", "k-means", "CQ released", "TQ released")
_SHARD = 250


class Quantization(Study):
    """Networks with and without a quantiser, on one data set."""

    profiles = _PROFILES
    meanings = _MEANINGS
    met = "adaptive_images"
    fewer = ("images",)
    fewest = 2
    farthest = 4 / 3

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        most = settings["train"]
        whole = data if most is None else data.subset(train=min(most, len(data.train)))
        super().__init__(whole, settings, **options)
        channels = data.shape[0]
        self.levels, usual, self.curve_eps = LEVELS[channels], _EPS[channels], settings["curve"][channels]
        self.eps = settings.get("eps", usual)
        if self.eps != usual:
            self.curve_eps = tuple(self.eps * (eps / usual) for eps in self.curve_eps)
        self.seeds = [self.seed + i for i in range(settings["seeds"])]
        epochs, batch = settings["epochs"][channels], settings["batch"]
        self.budget = dict(epochs=epochs, batch_size=batch, schedule="cosine", **_AUGMENT[channels])

    def network(self) -> nn.Module:
        """A network without a quantiser."""
        return CleverhansCNN(self.data.shape, self.data.num_classes, width=self.settings["width"])

    def names(self, seed: int) -> tuple[str, ...]:
        """The networks that are trained with this seed: with the first all, with others those that are compared."""
        return ("undefended", *_LAYERS, "AT", "AT + CQ") if seed == self.seed else ("undefended", "CQ", "TQ")

    @once
    def layer(self, name: str, levels: int, seed: int, scheme: str | None = None) -> Training:
        """A network behind a layer of so many levels; ``scheme`` is another way to train its thresholds."""
        soft: dict[str, Any] = dict(mode="soft", hardness=5, released=True)
        layers: dict[str, Callable[[], Quantizer]] = {
            "CQ": partial(Quantizer, levels),
            "TQ": partial(Quantizer, levels, trainable=True),
            "k-means": lambda: Quantizer(levels, thresholds=kmeans_thresholds(self.data.train, levels)),
            "CQ released": partial(Quantizer, levels, **soft),
            "TQ released": partial(Quantizer, levels, trainable=True, **soft),
        }
        ways: dict[str, dict[str, Any]] = {
            "TQ": dict(scheme="joint"),
            "TQ released": dict(scheme="joint", hardness=None),
        }
        way = ways.get(name, dict(scheme="frozen")) | (SCHEMES[scheme] if scheme else {})
        build = lambda: Quantized(self.network(), layers[name]())  # noqa: E731
        return trained(build, partial(train_quantized, **way), self.data, seed=seed, **self.budget)

    @once
    def training(self, name: str, seed: int) -> Training:
        """A network of the comparison."""
        if name in _LAYERS:
            return self.layer(name, self.levels, seed)
        if name == "undefended":
            return trained(self.network, train_standard, self.data, seed=seed, **self.budget)
        epochs, steps = self.settings["robust_epochs"], self.settings["robust_steps"]
        robust = dict(epochs=epochs, steps=steps, step_size=2.5 / steps, eps_ramp=epochs // 2, eps=self.eps)
        if name == "AT":
            return trained(self.network, train_at, self.data, seed=seed, **(self.budget | robust))
        build = lambda: Quantized(self.network(), Quantizer(self.levels))  # noqa: E731
        return trained(build, train_at, self.data, seed=seed, through=through_identity, **(self.budget | robust))

    @once
    def defence(self, name: str, seed: int) -> Defense:
        """What is attacked: a network, alone or behind its quantiser."""
        plain = self.training("undefended", seed).model
        if name == "undefended":
            return Undefended(plain)
        if name == "bit depth":
            made: nn.Module = Quantized(plain, Quantizer(self.levels)).to(self.data.train.images.device).eval()
        else:
            made = self.training(name, seed).model
            if not isinstance(made, Quantized):
                return Undefended(made, twin=plain)
        assert isinstance(made, Quantized)
        made.undefended = plain
        return made

    def defence_names(self, seed: int) -> tuple[str, ...]:
        """What is attacked with this seed."""
        return (*self.names(seed), "bit depth") if seed == self.seed else ("CQ", "TQ")

    def defences(self, seed: int) -> dict[str, Defense]:
        """All defences with this seed, by name, the network without one among them."""
        return {k: self.defence(k, seed) for k in dict.fromkeys((*self.names(seed), *self.defence_names(seed)))}

    def images(self, setting: str = "adaptive_images") -> tuple[Tensor, Tensor]:
        """The test images that are attacked, and their labels."""
        chosen = self.data.test.sample(self.settings[setting])
        return chosen.float_images(), chosen.labels

    @once
    def claimed(self, name: str) -> dict[Threat, Outcome]:
        """Each attack of Cleverhans on every image, by who attacks; first seed."""
        defence, draws = self.defence(name, self.seed), Generator().manual_seed(self.seed)
        images, labels = self.images("images")
        tried: dict[Threat, list[Attempt]] = {
            "oblivious": oblivious(defence, suites.cleverhans()),
            "direct": direct(defence, suites.cleverhans()),
        }
        return {
            threat: evaluate(
                defence, attempts, images, labels, eps=self.eps, generator=draws, exhaustive=True, resume=self.resume
            )
            for threat, attempts in tried.items()
        }

    attacked_images = images

    def cases(self) -> dict[str, tuple[Any, ...]]:
        """What is attacked, with each seed."""
        return {seeded_name(k, s, self.seed): (k, s) for s in self.seeds for k in self.defence_names(s)}

    def relatives_of(self, *which: Any) -> dict[str, nn.Module]:
        """Networks without a quantiser: of the same seed, adversarially trained, and of another seed."""
        return {label: self.defence(*network) for label, network in self.sources(*which).items()}

    def curve(self, name: str, seed: int) -> Curves:
        """What the three attackers leave of a defence at each budget."""
        found = joined_curves([self.part(name, seed, i) for i in range(len(self._shards()))])
        return self.with_later(found, name, seed)

    @once
    def part(self, name: str, seed: int, shard: int) -> Curves:
        """The curve on one shard of the images."""
        settings, (images, labels) = self.settings, self.images()
        rows = self._shards()[shard]
        return three_curves(
            self.defence(name, seed), images[rows], labels[rows], budgets=self.curve_eps,
            generator=Generator().manual_seed(seed), steps=settings["steps"], queries=settings["queries"],
            rounds=settings["rounds"], transfer=self.relatives_of(name, seed), resume=self.resume,
        )  # fmt: skip

    def sources(self, name: str, seed: int) -> dict[str, tuple[str, int]]:
        """The networks without a quantiser whose examples are tried on another: of its own seed, and of others."""
        found = {} if name == "undefended" else {"undefended twin": ("undefended", seed)}
        found |= {} if name == "AT" else {"AT": ("AT", self.seed)}
        others = [s for s in self.seeds if s != seed]
        return found | ({"undefended, other seed": ("undefended", others[0])} if others else {})

    @once
    def checks(self, name: str) -> list[checks.Check]:
        """The row of checks of the direct evaluation, first seed."""
        images, labels = self.images()
        told: dict[str, Any] = dict(
            goal="any wrong class", norm="Linf", knowledge="all", randomised="nothing", eps=self.eps
        )
        curves, several = self.curve(name, self.seed), name in self.names(self.seed + 1)
        found: dict[str, Any] = {threat: curves[threat][self.eps] for threat in ATTACKERS}
        return checks.row(
            self.defence(name, self.seed), images, labels, eps=self.eps, generator=Generator().manual_seed(self.seed),
            single=self.claimed(name)["direct"], **found,
            card=told, seeds=len(self.seeds) if several else 1,
            resume=self.resume, **checks.asked_for(self.settings["checks"]),
        )  # fmt: skip

    def stages(self) -> Iterator[Sequence[Task]]:
        """Trainings, then attacks on what was trained, then checks of that."""
        nets = {(k, s): Task("training", (k, s)) for s in self.seeds for k in self.names(s)}
        swept = product(("CQ", "TQ", "k-means"), self.settings["levels"], self.seeds[: self.settings["level_seeds"]])
        sweep = [Task("layer", (k, n, s)) for k, n, s in swept if n != self.levels]
        schemes = [Task("layer", ("TQ", 4, self.seed, scheme)) for scheme in SCHEMES]
        shards = range(len(self._shards()))
        curves = {}
        for s in self.seeds:
            for k in self.defence_names(s):
                behind = nets.get((k, s), nets["undefended", s]), *(nets[one] for one in self.sources(k, s).values())
                after = tuple(dict.fromkeys((nets["undefended", s], *behind)))
                curves[k, s] = [Task("part", (k, s, i), after) for i in shards]
        first = {k: (nets["undefended", self.seed], nets[k, self.seed]) for k in ("undefended", *CLAIMED, "AT")}
        claimed = {k: Task("claimed", (k,), tuple(dict.fromkeys(after))) for k, after in first.items()}
        rows = [Task("checks", (k,), (claimed[k], *curves[k, self.seed])) for k in claimed]
        attacks = [task for tasks in curves.values() for task in tasks]
        yield [*nets.values(), *sweep, *schemes, *claimed.values(), *attacks, *rows]

    def _shards(self) -> list[slice]:
        return shards(min(self.settings["adaptive_images"], len(self.data.test)), _SHARD)
