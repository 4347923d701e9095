"""What the page about SNN purification computes: its sizes, attacks on all networks, and checks, each a task."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from torch import Generator, Tensor, nn

from advdef import checks
from advdef.attacks import apgd, fgsm, pgd, rfgsm, square, stopping, uniform_noise
from advdef.attacks.suites import Attack
from advdef.data import Dataset
from advdef.evaluation import Attempt, Outcome, Threat, craft, direct, evaluate, evaluate_curve, three_curves
from advdef.evaluation.outcomes import joined_curves
from advdef.grid import Task, once, shards
from advdef.papers.snn.defence import GatedPurification, SpikingClassifier
from advdef.papers.snn.measure import hits
from advdef.papers.snn.networks import STACKED, SpikingNetworks
from advdef.papers.snn.surrogates import REDUCED

Curves = dict[Threat, dict[float, Outcome]]

__all__ = ["CURVED", "SHARES", "STEPPED", "SpikingPurification"]

_PROFILES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        datasets=("digits",), network="small", width=8, T=2, train=700, held=200, epochs=6, batch=32,
        rate=1e-2, inner=2, levels=("LIF", "SE-MLF3"), networks=1, trainings=("FGSM-AT",),
        unet=4, extractor=4, pairs=400, purifier_epochs=4, purifier_batch=32, purifier_rate=1e-2,
        seeds=1, ablations=("ANN purifier", "no divergence"), images=40, few=6, steps=3,
        strong=2, rounds=0, queries=10, curve=(1.0,), counts=(1, 4), checks="brief", timed=64,
        derivatives=("rate",),
    ),
    "laptop": dict(
        datasets=("fashion_mnist",), network="small", width=16, T=4, train=6_000, held=500, epochs=5, batch=64,
        rate=1e-2, inner=3, levels=("LIF", "MLF3", "SE-MLF3"), networks=3, trainings=("FGSM-AT", "RAT"),
        unet=6, extractor=8, pairs=3_000, purifier_epochs=5, purifier_batch=32, purifier_rate=1e-2,
        seeds=2, ablations=("ANN purifier", "no divergence", "no asymmetry", "no roughness",
                            "no noise map", "signed map", "PGD-7 pairs", "end to end"),
        images=1_000, few=100, steps=20, strong=50, queries=500, rounds=1, curve=(1.0, 2.0),
        counts=(1, 2, 5, 10, 20), checks="fast", timed=64, derivatives=tuple(REDUCED),
    ),
    "gpu": dict(
        datasets=("fashion_mnist",), network="DS-ResNet-20", width=16, T=4, train=15_000, held=500, epochs=6, batch=256,
        rate=1e-2, inner=3, levels=("LIF", "SE-MLF3"), networks=2, trainings=("FGSM-AT", "RAT"),
        unet=8, extractor=8, pairs=6_000, purifier_epochs=5, purifier_batch=128, purifier_rate=1e-2,
        seeds=2, ablations=("ANN purifier", "no divergence", "no noise map", "end to end"),
        images=500, few=100, steps=20, strong=12, queries=500, rounds=1, curve=(0.5, 1.0),
        counts=(1, 5, 20), checks="fast", timed=64, derivatives=("rate", "membrane"),
    ),
    "paper": dict(
        datasets=("cifar10",), network="DS-ResNet-20", width=32, T=4, train=None, held=1_000, epochs=20, batch=128,
        rate=5e-3, inner=3, levels=("LIF", "MLF2", "MLF3", "SE-MLF3"), networks=5,
        trainings=("FGSM-AT", "PGD-AT", "RAT"),
        unet=32, extractor=32, pairs=None, purifier_epochs=15, purifier_batch=128, purifier_rate=1e-3,
        seeds=3, ablations=("ANN purifier", "no divergence", "no asymmetry", "no roughness",
                            "no noise map", "signed map", "PGD-7 pairs", "end to end"),
        images=1_000, few=200, steps=20, strong=100, queries=1_000, rounds=4, curve=(0.25, 0.5, 1.0, 2.0),
        counts=(1, 2, 5, 10, 20, 50, 100), checks="fast", timed=64, derivatives=tuple(REDUCED),
    ),
}  # fmt: skip
_MEANINGS = {
    "datasets": "data sets",
    "network": "architecture of the classifier",
    "width": "its channels in the first stage",
    "T": "time steps",
    "train": "images of all trainings; None: all but the held ones",
    "held": "last training images, in nobody's training",
    "epochs": "of classifiers",
    "batch": "images in a batch of theirs",
    "rate": "learning rate of classifiers",
    "inner": "steps of PGD in adversarial training",
    "levels": "neurons that are compared",
    "networks": "trainings of LIF and SE-MLF3",
    "trainings": "adversarial trainings",
    "unet": "channels of the purifier's U-Net",
    "extractor": "channels of its extractor",
    "pairs": "images that purifiers learn from; None: all",
    "purifier_epochs": "of purifiers",
    "purifier_batch": "images in a batch of theirs",
    "purifier_rate": "learning rate of purifiers",
    "seeds": "purifiers of what is compared",
    "ablations": "variants of the purifier",
    "images": "test images under attacks on the bare classifier",
    "few": "test images under expensive attacks and the three attackers",
    "steps": "of the main PGD",
    "strong": "steps of APGD and of strong attacks by those who know the defence",
    "rounds": "how often the adaptive attacker may go on with twice the effort",
    "queries": "of Square, for each image",
    "curve": "budgets of the three attackers besides the main one, as shares of it",
    "counts": "steps of PGD that are compared",
    "checks": "sanity checks: all of them, or the fast ones (in brief)",
    "timed": "images of the cost table",
    "derivatives": "those that attackers try for a spike",
}

CURVED = ("none", "purifier", "ANN purifier", "FGSM-AT")
"""The defences that meet several budgets."""

STEPPED = ("none", "FGSM-AT", "purifier")
"""Those that meet PGD with ever more steps, and at large budgets."""

SHARES = (0.25, 0.5)
"""Budgets at which networks are compared, as shares of the main one."""

_STRANGERS = ("FGSM-AT", "LIF")  # with no weight of the bare classifier
_SOURCES = (*_STRANGERS, "SE-MLF3")  # from which attacks are replayed on the networks that are compared
_SHARD = 100  # of the few images: what runs through time is slow


class SpikingPurification(SpikingNetworks):
    """What attackers leave of spiking classifiers and of purifiers, on one data set.

    Attributes:
        images: The test images that are attacked, and ``labels``; expensive attacks see the first few.
        tested: Many more test images, which nobody attacks.
        pgd: The name of the main attack.
    """

    profiles = _PROFILES
    meanings = _MEANINGS
    met = "few"
    fewer = ("images",)
    several = ("seeds", "networks")
    farthest = 2.0

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(data, settings, **options)
        steps, strong, queries = (settings[k] for k in ("steps", "strong", "queries"))
        chosen = data.test.sample(settings["images"])
        self.images, self.labels, self.pgd = chosen.float_images(), chosen.labels, f"PGD-{steps}"
        self.tested = data.test.sample(4_000)
        self._cheap: dict[str, Attack] = {
            "noise": partial(uniform_noise, draws=1),
            "FGSM": partial(fgsm),
            "RFGSM": partial(rfgsm),
            "PGD-7": partial(pgd, steps=7, step_size=0.3),
            self.pgd: partial(pgd, steps=steps),
        }
        self._apgd: dict[str, Attack] = {
            "APGD, CE": partial(apgd, steps=strong),
            "APGD, DLR": partial(apgd, steps=strong, loss="dlr"),
        }
        self._square: dict[str, Attack] = {f"Square-{queries}": partial(square, queries=queries)}
        self._free: dict[str, Attack] = {"noise": partial(uniform_noise, draws=20), **self._square}

    @property
    def checked(self) -> list[str]:
        """The defences whose evaluation is checked: those of the paper, and what they are measured by."""
        return ["none", "purifier", *self.settings["trainings"]]

    @once
    def crafted(self, base: str) -> dict[str, Tensor]:
        """What each attack makes of the images on a classifier alone: (N, C, H, W), or fewer for expensive attacks."""
        model = self.network(base, self.seed)
        cheap = craft(
            model, self._cheap, self.images, self.labels, eps=self.eps, generator=self._draws(1), batch_size=500,
            resume=self.resume,
        )  # fmt: skip
        dear = craft(model, self._apgd | self._square, eps=self.eps, generator=self._draws(2), **self._on())
        return {**cheap, **dear}

    def replayed(self, base: str) -> dict[str, Tensor]:
        """Clean images, what was made of them on this classifier, and what was made on another one ("transfer")."""
        other = "FGSM-AT" if base == "bare" else "bare"
        return {"clean": self.images, **self.crafted(base), "transfer": self.crafted(other)[self.pgd]}

    @once
    def clean(self, name: str) -> Tensor:
        """Which of the ``tested`` images a classifier of the first seed, or the stacked defence, has right."""
        model = self.defence(name) if name == STACKED else self.network(name, self.seed)
        return hits(model, {"clean": self.tested.float_images()}, self.tested.labels, resume=self.resume)["clean"]

    @once
    def static(self, name: str) -> dict[str, Tensor]:
        """Which images a defence has right, by the attack that was run on its classifier alone."""
        base = "FGSM-AT" if name == STACKED else name if name in self.settings["trainings"] else "bare"
        return hits(self.defence(name), self.replayed(base), self.labels, resume=self.resume)

    @once
    def ablation(self, variant: str, seed: int) -> dict[str, Tensor]:
        """As :meth:`static`, of a variant of the purifier in front of the bare classifier, under fewer attacks."""
        made = {k: v for k, v in self.replayed("bare").items() if k in ("clean", "FGSM", self.pgd)}
        return hits(self.purified(variant, seed), made, self.labels, resume=self.resume)

    @once
    def short_part(self, name: str, shard: int) -> dict[str, Outcome]:
        """What short attacks leave of a defence on one shard of the few images."""
        defence, found, on = self.defence(name), dict[str, Outcome](), self._on(self._shards()[shard])
        main = self._cheap[self.pgd]
        if name in ("none", "purifier"):
            tried = [Attempt(n, attack, defence) for n, attack in stopping(self._free).items()]
            tried += [Attempt(f"{self.pgd} from {n}", main, self.network(n, self.seed)) for n in _STRANGERS]
            found["black box"] = evaluate(defence, tried, eps=self.eps, generator=self._draws(16), **on)
        if "BPDA" in (stand_ins := defence.surrogates()):
            tried = [Attempt(self.pgd, partial(main, stop_early=True), stand_ins["BPDA"])]
            found["identity"] = evaluate(defence, tried, eps=self.eps, generator=self._draws(15), **on)
        return found

    def short(self, name: str) -> dict[str, Outcome]:
        """What a "black box" leaves, and PGD that takes the purifier for the "identity", where these make sense."""
        parts = [self.short_part(name, i) for i in range(len(self._shards()))]
        return {kind: Outcome.joined([part[kind] for part in parts]) for kind in parts[0]}

    @once
    def part(self, name: str, shard: int) -> Curves:
        """The curve on one shard of the few images."""
        settings, budgets = self.settings, {1.0, *(self.settings["curve"] if name in CURVED else ())}
        relatives: dict[str, nn.Module] = {k: self.purified(*which) for k, which in self._relatives().items()}
        relatives |= {k: self.network(k, self.seed) for k in ("bare", "FGSM-AT")}
        return three_curves(
            self.defence(name), budgets=[s * self.eps for s in sorted(budgets)], generator=self._draws(5),
            steps=settings["strong"], rounds=settings["rounds"], decisive=self.eps, queries=settings["queries"],
            transfer={k: m for k, m in relatives.items() if k != name and (name, k) != ("none", "bare")},
            more=stopping({"APGD, DLR": self._apgd["APGD, DLR"]}),
            known=[{self.eps: outcome} for outcome in self.short_part(name, shard).values()],
            **self._on(self._shards()[shard]),
        )  # fmt: skip

    def curve(self, name: str) -> Curves:
        """What the three attackers leave of a defence at each budget."""
        return self.with_later(joined_curves([self.part(name, i) for i in range(len(self._shards()))]), name)

    def cases(self) -> dict[str, tuple[Any, ...]]:
        """What meets attackers who know it."""
        return {name: (name,) for name in self.known}

    def attacked_images(self) -> tuple[Tensor, Tensor]:
        """The test images of the three attackers, the first few, and their labels."""
        few = self.settings["few"]
        return self.images[:few], self.labels[:few]

    def relatives_of(self, *which: Any) -> dict[str, nn.Module]:
        """Other purifiers, and networks alone."""
        found: dict[str, nn.Module] = {k: self.purified(*known) for k, known in self._relatives().items()}
        found |= {k: self.network(k, self.seed) for k in ("bare", "FGSM-AT")}
        return {k: m for k, m in found.items() if k not in which and (*which, k) != ("none", "bare")}

    @once
    def steps(self, name: str) -> dict[tuple[Threat, int], Outcome]:
        """PGD with ever more steps at half of the main budget, on a defence, and replayed where a purifier is."""
        defence = self.defence(name)
        targets: dict[Threat, nn.Module] = {"direct": defence}
        if name == "purifier":
            targets["oblivious"] = self.network("bare", self.seed)
        found = {}
        for (threat, target), n in product(targets.items(), self.settings["counts"]):
            tried = [Attempt("PGD", partial(pgd, steps=n, stop_early=target is defence), target)]
            outcome = evaluate(defence, tried, eps=self.eps / 2, generator=self._draws(7), **self._on())
            found[threat, n] = outcome
        return found

    @once
    def large(self, name: str) -> dict[float, Outcome]:
        """PGD on a defence at budgets of up to eight times the main one."""
        defence, main = self.defence(name), {self.pgd: self._cheap[self.pgd]}
        tried = {s * self.eps: direct(defence, main) for s in (0.5, 1, 2, 4, 8) if s * self.eps <= 1}
        return evaluate_curve(defence, tried, generator=self._draws(8), **self._on())

    @once
    def core(self, name: str, seed: int, share: float) -> tuple[Outcome, Outcome]:
        """What is left of a network alone at a share of the main budget: by PGD through each derivative, and in all.

        Networks that are compared meet the same attacks; they do not go on by need, which costs as much as all others.
        """
        defence, eps = SpikingClassifier(self.network(name, seed), derivatives=self.derivatives), share * self.eps
        main = partial(self._cheap[self.pgd], stop_early=True)
        through = [Attempt(n, main, target) for n, target in defence.surrogates().items()]
        each = evaluate(defence, through, eps=eps, generator=self._draws(9), exhaustive=True, **self._on())
        found = three_curves(
            defence, budgets=[eps], generator=self._draws(10), steps=self.settings["strong"],
            rounds=0, queries=self.settings["queries"],
            more=stopping({"APGD, DLR": self._apgd["APGD, DLR"]}),
            transfer={k: self.network(k, self.seed) for k in _SOURCES if (k, self.seed) != (name, seed)},
            known=[{eps: each}], **self._on(),
        )  # fmt: skip
        return each, found["adaptive"][eps]

    @once
    def unnoticed(self) -> Tensor:
        """Few images (N, C, H, W) that fool the bare classifier and that the detector should not find."""
        gate = self.defence("gate")
        assert isinstance(gate, GatedPurification)
        quiet = partial(
            gate.adaptive_attacks(self.eps)["unnoticed"], steps=2 * self.settings["steps"], stop_early=False
        )
        draws = self._draws(11)
        return craft(gate.refusing(), {"unnoticed": quiet}, eps=self.eps, generator=draws, **self._on())["unnoticed"]

    @once
    def checks(self, name: str) -> list[checks.Check]:
        """The row of checks of a defence."""
        defence, on = self.defence(name), self._on()
        tried = direct(defence, {"FGSM": self._cheap["FGSM"], "PGD": self._cheap[self.pgd]})
        single = evaluate(defence, tried, eps=self.eps, generator=self._draws(13), exhaustive=True, **on)
        card = dict(goal="any wrong class", norm="Linf", knowledge="all", randomised="nothing", eps=self.eps)
        found: dict[str, Any] = {threat: curve[self.eps] for threat, curve in self.curve(name).items()}
        return checks.row(
            defence, eps=self.eps, generator=self._draws(14), single=single, **found, card=card, seeds=1,
            **checks.asked_for(self.settings["checks"], "D3", "D4"), **on,
        )  # fmt: skip

    def stages(self) -> Iterator[Sequence[Task]]:
        """All at once, what takes longest first: trainings, attacks on what was trained, then checks of that."""
        first, settings = self.seed, self.settings
        nets = {key: Task("classifier", key) for key in self.classifiers}
        bare, robust = nets["SE-MLF3", first], nets["FGSM-AT", first]
        pairs = {s: Task("pairs", (s,), (bare,)) for s in self.seeds}
        own = ("PGD-7 pairs", "end to end")  # they do not learn from those pairs
        purifiers = {(k, s): Task("purifier", (k, s), (bare if k in own else pairs[s],)) for k, s in self.purifiers}
        main = purifiers["purifier", first]
        gate = Task("defence", ("gate",), (main,))
        sources = [(k, first) for k in _SOURCES]
        defences = dict.fromkeys(self.defences, (bare,)) | {k: (nets[k, first],) for k in settings["trainings"]}
        defences |= {k: (purifiers[k, first],) for k in self.learned} | {"gate": (gate,), STACKED: (main, robust)}
        others = (bare, robust, nets["LIF", first], *(purifiers[which] for which in self._relatives().values()))
        curves = {
            k: [Task("part", (k, i), tuple(dict.fromkeys((*defences[k], *others)))) for i in range(len(self._shards()))]
            for k in reversed(self.known)
        }
        crafted = [Task("crafted", (k,), (nets.get((k, first), bare),)) for k in ("bare", *settings["trainings"])]
        alone = {k: (nets[k, first],) for k in (*settings["levels"], *settings["trainings"])}
        yield [
            *(task for parts in curves.values() for task in parts),
            *(Task("checks", (k,), tuple(curves[k])) for k in self.checked),
            Task("unnoticed", (), (gate,)),
            *(
                Task("core", (k, s, share), tuple(dict.fromkeys(nets[which] for which in ((k, s), *sources))))
                for (k, s), share in product(self.compared, SHARES)
            ),
            *(Task(call, (k,), (*defences[k], bare)) for k, call in product(STEPPED, ("steps", "large"))),
            *(Task("static", (k,), (*defences[k], *crafted)) for k in self.defences),
            *(Task("ablation", key, (task, *crafted)) for key, task in purifiers.items()),
            *(Task("clean", (k,), after) for k, after in (alone | {STACKED: defences[STACKED]}).items()),
        ]

    def _relatives(self) -> dict[str, tuple[str, int]]:
        """Purifiers on which images are made that may fool others."""
        found = {"ANN purifier": ("ANN purifier", self.seed)}
        return found | ({"another seed": ("purifier", self.seeds[1])} if len(self.seeds) > 1 else {})

    def _on(self, rows: slice = slice(None)) -> dict[str, Any]:
        """The few images that expensive attacks see, or a shard of them, and where what they found is kept."""
        few = self.settings["few"]
        return dict(images=self.images[:few][rows], labels=self.labels[:few][rows], resume=self.resume)

    def _shards(self) -> list[slice]:
        return shards(min(self.settings["few"], len(self.images)), _SHARD)

    def _draws(self, offset: int) -> Generator:
        """Those of the page."""
        return Generator().manual_seed(1_000 * self.seed + offset)
