"""What the page about TRN computes: its sizes, networks, attacked images, evaluations, checks, each a task of its own.

"The bare classifier" is the standard one of a data set, without a defence. Seeds are those of restorers; classifiers
have the first one.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal

from torch import Tensor, nn

from advdef import attacks, checks
from advdef.attacks import Suite
from advdef.data import Dataset
from advdef.defenses import Defense, Undefended
from advdef.evaluation import ATTACKERS, Outcome, Threat, craft, direct, evaluate, three_curves
from advdef.evaluation.outcomes import joined_curves
from advdef.grid import Task, once, shards
from advdef.papers.trn import measure
from advdef.papers.trn.ladder import RUNGS, ladder
from advdef.papers.trn.maps import GradientMap
from advdef.papers.trn.networks import PURIFIED, Networks
from advdef.papers.trn.smoothing import matching_temperature, smoothed
from advdef.papers.trn.variants import VARIANTS, other_maps

__all__ = [
    "BLANK", "BY_EPS", "CHECKED", "FIVE", "JUDGED", "LEAKING", "SMALLEST", "STUDIED", "UNSEEN", "Restorers",
]  # fmt: skip

_PROFILES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        datasets={"digits": "LeNet-5"}, others=("small ResNet",), epochs=6, size="XS",
        train=300, restorer_epochs=4, attacks=("FGSM", "PGD-5"), copies=1, seeds=1,
        ablations=("image only", "shuffled map", "oracle map"),
        larger=None, images=40, clean=10_000, steps=5, strong=(5, 1), wide=20, ladder_images=16,
        ladder_steps=2, rounds=0, queries=10, classes=2, curve=1, checks="brief", timed=(32, 2), least=(3, 10),
    ),
    "laptop": dict(
        datasets={"fashion_mnist": "small ResNet", "cifar10": "SmallVGG"},
        others=("LeNet-5", "CleverHans CNN"), epochs=8, size="XS",
        train=10_000, restorer_epochs=8, attacks=("FGSM", "PGD-10"), copies=1, seeds=5,
        ablations=tuple(VARIANTS)[1:],
        larger="S", images=1_000, clean=10_000, steps=20, strong=(50, 1), wide=200, ladder_images=100, ladder_steps=50,
        queries=500, rounds=3, classes=3, curve=3, checks="fast", timed=(128, 5), least=(6, 150),
    ),
    "gpu": dict(
        datasets={"fashion_mnist": "ResNet-18"},
        others=("small ResNet", "LeNet-5"), epochs=6, size="XS",
        train=10_000, restorer_epochs=6, attacks=("FGSM", "PGD-10"), copies=1, seeds=2,
        ablations=("image only", "shuffled map", "oracle map", "concat", "HGD-style"),
        larger=None, images=1_000, clean=10_000, steps=20, strong=(50, 1), wide=200, ladder_images=100, ladder_steps=20,
        queries=500, rounds=2, classes=3, curve=2, checks="fast", timed=(256, 20), least=(6, 150),
    ),
    "paper": dict(
        datasets={"cifar10": "ResNet-18", "fashion_mnist": "ResNet-18", "svhn": "ResNet-18"},
        others=("small ResNet", "LeNet-5"), epochs=30, size="B",
        train=None, restorer_epochs=20, attacks=("FGSM", "PGD-10"), copies=1, seeds=5,
        ablations=tuple(VARIANTS)[1:],
        larger=None, images=10_000, clean=10_000, steps=20, strong=(100, 5), wide=1_000, ladder_images=1_000,
        ladder_steps=100, queries=1_000, rounds=4, classes=9, curve=3, checks="all", timed=(256, 20), least=(6, 500),
    ),
}  # fmt: skip
_MEANINGS = {
    "datasets": "classifiers, by data set",
    "others": "further classifiers, for TRN-7",
    "epochs": "of classifiers",
    "size": "of the restorers",
    "train": "images that restorers see; None: all",
    "restorer_epochs": "of restorers",
    "attacks": "those whose images restorers learn from",
    "copies": "attacked copies of a training image",
    "seeds": "restorers of what is compared",
    "ablations": "variants of the restorer",
    "larger": "size of a larger TRN",
    "images": "test images under attacks on the bare classifier",
    "clean": "test images without an attack, for TRN-6",
    "steps": "of PGD on the bare classifier",
    "strong": "steps and starts of APGD",
    "wide": "test images under slow attacks",
    "ladder_images": "test images under the ladder and the three attackers",
    "ladder_steps": "steps of their attacks",
    "rounds": "how often the adaptive attacker may go on with twice the effort",
    "queries": "of Square, for each image",
    "classes": "wrong classes that R5 aims at",
    "curve": "number of budgets in the ladder",
    "checks": "sanity checks: all of them, or the fast ones (in brief)",
    "timed": "batch and runs of the cost table",
    "least": "halvings and steps of C&W",
}

FIVE = ("FGSM", "FFGSM", "BIM", "MIM", "PGD")
"""The five attacks of the paper and of an article about it."""

UNSEEN = ("PGD, targeted", "APGD, CE", "APGD, DLR", "Square")
"""What training did not see, besides FFGSM, BIM and MIM; on fewer images."""

SMALLEST = ("C&W", "DeepFool")
"""They look for the smallest change in L2; on fewer images."""

BY_EPS = {f"PGD, {share} eps": share for share in (0.25, 0.5, 1.0, 1.5, 2.0)}
"""PGD at shares of the main eps."""

JUDGED: dict[str, tuple[str, ...]] = {
    "none": ("R0", "R2", "R5", "R7", "R8", "R9"),
    "image only": ("R0", "R1", "R2", "R5", "R7", "R8", "R9"),
    "TRN": tuple(RUNGS),
    "Fast-AT": ("R0", "R2", "R5", "R7", "R8", "R9"),
}
"""What meets attackers who know of it, and the rungs of the ladder that exist for it."""

STUDIED = (*FIVE, "PGD, 0.5 eps", "PGD, 1.5 eps")
"""The attacks whose maps are compared."""

LEAKING = ("image only", "TRN", "stack", "oracle map")
"""The variants that are asked for the labels of images that show nothing."""

BLANK: tuple[Literal["noise", "grey"], ...] = ("noise", "grey")
"""Those images."""

CHECKED = ("image only", "TRN", "Fast-AT")
"""The defences with a row of checks."""

_SHARD = 250


class Restorers(Networks):
    """What attackers leave of the restorers and of what they are compared with, on one data set.

    Attributes:
        budgets: The eps of each attack on the bare classifier; None for those that look for the smallest change.
        curve_eps: Those of the ladder.
    """

    profiles = _PROFILES
    meanings = _MEANINGS
    met = "ladder_images"
    fewer = ("images", "wide")
    farthest = 2.0

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(data, settings, **options)
        self.budgets = {"none": 0.0} | dict.fromkeys((*FIVE, *UNSEEN), self.eps) | dict.fromkeys(SMALLEST)
        self.budgets |= {name: share * self.eps for name, share in BY_EPS.items()}
        self.curve_eps = [self.eps / 2**i for i in reversed(range(settings["curve"] if self.main else 1))]

    @once
    def attacked(self, attack: str) -> Tensor:
        """What an attack on the bare classifier makes of the test images, or of the first of them."""
        group = next(i for i, names in enumerate((FIVE, UNSEEN, SMALLEST, BY_EPS)) if attack in names)
        name, eps = "PGD" if attack in BY_EPS else attack, self.budgets[attack]
        size: dict[str, Any] = dict(eps=float("inf"), norm="L2") if eps is None else dict(eps=eps)
        return craft(
            self.bare(), {name: self._attacks()[name]}, *self.images("wide" if group in (1, 2) else "images"), **size,
            generator=self.draws(group), resume=self.resume,
        )[name]  # fmt: skip

    def shown(self, *attacks: str) -> dict[str, Tensor]:
        """The test images without an attack, "none", and under each of these."""
        return {"none": self.images()[0]} | {attack: self.attacked(attack) for attack in attacks}

    @once
    def map_study(self, attack: str) -> measure.MapStudy | None:
        """How the maps of images that an attack fooled the classifier with compare; None for fewer than two."""
        (x, y), adversarial = self.images(), self.attacked(attack)
        fooled = measure.newly_wrong(self.bare(), x, y, adversarial)
        if fooled.sum() < 2:
            return None
        return measure.study_maps(self.bare(), x[fooled], y[fooled], adversarial[fooled], resume=self.resume)

    @once
    def quality(self, name: str) -> dict[str, tuple[float, float]]:
        """How near restored images are to the clean ones (first seed); see ``restored_quality``."""
        found = self.shown("FGSM", "PGD").items()
        restored = partial(measure.restored_quality, self.defence(name, self.seed), resume=self.resume)
        return {attack: restored(images, self.images()[0]) for attack, images in found}

    def replayed(self, name: str) -> tuple[str, ...]:
        """What was made on the bare classifier and is replayed on a defence."""
        if name == self.larger:
            return FIVE
        all_of_them = name in dict(self.defended())
        return (*FIVE, *UNSEEN, *SMALLEST, *BY_EPS) if all_of_them else (*FIVE, "PGD, 1.5 eps")

    @once
    def hits(self, name: str, seed: int) -> dict[str, Tensor]:
        """What a defence, or a variant, is right on, (n,) booleans: without an attack and under each replayed one."""
        shown = self.shown(*self.replayed(name))
        return measure.replay(self.defence(name, seed), shown, self.images()[1], resume=self.resume)

    @once
    def clean(self, name: str, seed: int) -> dict[str, Tensor]:
        """The same without an attack, on more images."""
        x, y = self.images("clean")
        return measure.replay(self.defence(name, seed), {"none": x}, y, resume=self.resume)

    @once
    def swapped(self) -> dict[str, dict[str, Tensor]]:
        """What TRN (first seed) is right on with other maps at test time, without an attack and under PGD."""
        trn, y = self.defence("TRN", self.seed), self.images()[1]
        right = partial(measure.right_with_maps, trn, labels=y, resume=self.resume)
        found = other_maps(self.bare()).items()
        return {k: {a: right(maps, x) for a, x in self.shown("PGD").items()} for k, maps in found}

    @once
    def leak(self, name: str, images: Literal["noise", "grey"]) -> Tensor:
        """Whether a variant (first seed) gives back the random labels of images that show nothing."""
        blank = partial(measure.blank_images, n=1_000, generator=self.draws(20))
        x, y = (t.to(self.images()[0].device) for t in blank(images, self.data.shape, self.data.num_classes))
        return measure.replay(self.defence(name, self.seed), {images: x}, y, resume=self.resume)[images]

    @once
    def moved(self, kind: str) -> dict[tuple[str, str | None, int], dict[str, Tensor]]:
        """Restorers in front of a classifier that they were not trained with, by name, whose map they use, and seed."""
        bare, (x, y) = self.bare(kind), self.images()
        stand: dict[tuple[str, str | None, int], nn.Module] = {
            ("none", None, self.seed): Undefended(bare),
            ("image only", None, self.seed): self.in_front_of(bare, "image only", self.seed, None),
        }
        for s in self.seeds:
            for whose, maps in {"its own": GradientMap(bare), "of the first": self.restorer("TRN", s)[0]}.items():
                stand["TRN", whose, s] = self.in_front_of(bare, "TRN", s, maps)
        pgd = {"PGD": self._attacks()["PGD"]}
        made = craft(bare, pgd, x, y, eps=self.eps, generator=self.draws(4), resume=self.resume)
        shown = {"none": x, **made}
        return {k: measure.replay(defence, shown, y, resume=self.resume) for k, defence in stand.items()}

    @once
    def relatives(self, name: str) -> dict[str, nn.Module]:
        """What fools these is replayed on a defence that climbs the ladder."""
        if name != "TRN":
            found = {"TRN": self.defence("TRN", self.seed)}
        else:
            found = {"image only": self.defence("image only", self.seed)}
            if len(self.seeds) > 1:
                found["TRN of another seed"] = self.defence("TRN", self.seeds[1])
        stand_ins = {k: d.surrogates().get("detached map", d) for k, d in found.items()}
        return stand_ins | {kind: self.classifier(kind).model for kind in self.others}

    @once
    def twin(self) -> nn.Module:
        """Maps of a smooth twin of the bare classifier, as sure of the ladder's images as 0.9 on average."""
        heat = matching_temperature(smoothed(self.bare()), self.images("ladder_images")[0])
        return GradientMap(smoothed(self.bare(), temperature=heat))

    def rung(self, name: str, eps: float, rung: str) -> Outcome:
        """What one rung of the ladder leaves of a defence."""
        return Outcome.joined([self.rung_part(name, eps, rung, i) for i in range(len(self._shards()))])

    @once
    def rung_part(self, name: str, eps: float, rung: str, shard: int) -> Outcome:
        """The same on one shard of the images."""
        defence, classes = self.defence(name, self.seed), self.settings["classes"]
        rungs = ladder(defence, eps=eps, classes=classes, twin=self.twin(), **self._effort(name))
        assert tuple(rungs) == JUDGED[name]
        return evaluate(defence, rungs[rung], *self._shard(shard), eps=eps, generator=self.draws(5), resume=self.resume)

    def cases(self) -> dict[str, tuple[Any, ...]]:
        """What meets attackers who know of it."""
        return {name: (name,) for name in JUDGED}

    def deployed(self, *which: Any) -> Defense:
        """One of them with the first seed."""
        (name,) = which
        found: Defense = self.defence(name, self.seed)
        return found

    def attacked_images(self) -> tuple[Tensor, Tensor]:
        """The test images that they meet it on, and their labels."""
        return self.images("ladder_images")

    def relatives_of(self, *which: Any) -> dict[str, nn.Module]:
        """What their ladder replays."""
        return self.relatives(*which)

    def curve(self, name: str) -> dict[Threat, dict[float, Outcome]]:
        """What the three attackers leave of a defence at each budget; the adaptive one has what every rung found."""
        return self.with_later(joined_curves([self.part(name, i) for i in range(len(self._shards()))]), name)

    @once
    def part(self, name: str, shard: int) -> dict[Threat, dict[float, Outcome]]:
        """The curve on one shard of the images."""
        climbed = [{eps: self.rung_part(name, eps, r, shard)} for eps in self.curve_eps for r in JUDGED[name]]
        return three_curves(
            self.defence(name, self.seed), *self._shard(shard), budgets=self.curve_eps, generator=self.draws(7),
            known=climbed, rounds=self.settings["rounds"], resume=self.resume, **self._effort(name),
        )  # fmt: skip

    def step_counts(self) -> list[int]:
        """The numbers of steps that are compared."""
        return [n for n in (1, 2, 5, 10, 20, 40, 100) if n <= self.settings["ladder_steps"]]

    @once
    def by_steps(self, steps: int, rung: str) -> Outcome:
        """What PGD of one rung leaves of TRN in so many steps, at half the main budget."""
        trn, eps = self.defence("TRN", self.seed), self.eps / 2
        (first, *_) = ladder(trn, eps=eps, steps=steps, twin=self.twin())[rung]
        images = self.images("ladder_images")
        return evaluate(trn, [first], *images, eps=eps, generator=self.draws(6), resume=self.resume)

    @once
    def single(self, name: str) -> Outcome:
        """FGSM and PGD through a defence, each on every image."""
        strong = partial(attacks.pgd, steps=self.settings["ladder_steps"])
        defence = self.defence(name, self.seed)
        plain = direct(defence, {"FGSM": partial(attacks.fgsm), "PGD": strong})
        return evaluate(
            defence, plain, *self.images("ladder_images"), eps=self.eps, generator=self.draws(8), exhaustive=True,
            resume=self.resume,
        )  # fmt: skip

    @once
    def checks(self, name: str) -> list[checks.Check]:
        """The row of checks of the evaluation."""
        told: dict[str, Any] = dict(
            goal="any wrong class", norm="Linf", knowledge="all", randomised="nothing", eps=self.eps
        )
        curves, (images, labels) = self.curve(name), self.images("ladder_images")
        three: dict[str, Any] = {threat: curves[threat][self.eps] for threat in ATTACKERS}
        return checks.row(
            self.defence(name, self.seed), images, labels, eps=self.eps, generator=self.draws(9),
            single=self.single(name), **three, card=told, seeds=1,
            resume=self.resume, **checks.asked_for(self.settings["checks"], "D3", "D4"),
        )  # fmt: skip

    def stages(self) -> Iterator[Sequence[Task]]:
        """Trainings, then attacks on what was trained, then checks of that."""
        shards, seeds = range(len(self._shards())), self.seeds
        nets = {k: Task("classifier", (k,)) for k in self.classifiers}
        bare = nets["standard"]
        pairs = {s: Task("pairs", (s,), (bare,)) for s in seeds}
        restorers = {(k, s): Task("restorer", (k, s), (bare, pairs[s])) for s in seeds for k in self.names}
        made = {k: Task("attacked", (k,), (bare,)) for k in self.budgets if k != "none"}
        trn = tuple(restorers["TRN", s] for s in seeds)

        def of(name: str, seed: int = self.seed) -> tuple[Task, ...]:
            """What a defence stands on."""
            return tuple(dict.fromkeys((bare, restorers.get((name, seed), nets.get(name, bare)))))

        tasks = [*nets.values(), *pairs.values(), *restorers.values(), *made.values()]
        relatives = (*nets.values(), restorers["image only", self.seed], *trn[:2])
        climbed: dict[str, list[Task]] = {}
        for k, i in product(JUDGED, shards):
            rungs = [Task("rung_part", (k, e, r, i), relatives) for e in self.curve_eps for r in JUDGED[k]]
            climbed.setdefault(k, []).extend([*rungs, Task("part", (k, i), (*relatives, *rungs))])
        tasks += [task for found in climbed.values() for task in found]
        for k, s in dict.fromkeys([*self.defended(), *restorers]):
            tasks.append(Task("hits", (k, s), (*of(k, s), *(made[a] for a in self.replayed(k)))))
        tasks += [Task("clean", (k, s), of(k, s)) for k, s in self.defended() if k in ("none", "TRN")]
        tasks += [Task("map_study", (k,), (bare, made[k])) for k in STUDIED]
        tasks += [Task("quality", (k,), (*of(k), made["FGSM"], made["PGD"])) for k in PURIFIED]
        tasks.append(Task("swapped", (), (*of("TRN"), made["PGD"])))
        if self.main:
            tasks += [Task("leak", (k, kind), of(k)) for k in LEAKING if k in self.variants for kind in BLANK]
            tasks += [Task("moved", (kind,), (nets[kind], *of("image only"), *trn)) for kind in self.others]
            tasks += [Task("by_steps", (n, r), of("TRN")) for n in self.step_counts() for r in tuple(RUNGS)[:5]]
            for k in CHECKED:
                single = Task("single", (k,), of(k))
                tasks += [single, Task("checks", (k,), (*relatives, *climbed[k], single))]
        yield tasks

    def _attacks(self) -> Suite:
        """The attacks on the bare classifier, by name."""
        many, restarts = self.settings["strong"]
        halvings, steps = self.settings["least"]
        pgd = partial(attacks.pgd, steps=self.settings["steps"])
        apgd = partial(attacks.apgd, steps=many, restarts=restarts)
        return {
            "FGSM": partial(attacks.fgsm),
            "FFGSM": partial(attacks.ffgsm),
            "BIM": partial(attacks.bim, steps=10, step_size=0.25),
            "MIM": partial(attacks.mim, steps=10),
            "PGD": partial(pgd, step_size=0.25),
            "PGD, targeted": partial(attacks.each_class, attack=pgd, classes=1),
            "APGD, CE": apgd,
            "APGD, DLR": partial(apgd, loss="dlr"),
            "Square": partial(attacks.square, queries=self.settings["queries"]),
            "C&W": partial(attacks.carlini_wagner, binary_search_steps=halvings, steps=steps),
            "DeepFool": partial(attacks.deepfool),
        }

    def _effort(self, name: str) -> dict[str, Any]:
        """How much is tried on each rung, and by the three attackers."""
        settings = self.settings
        effort = dict(steps=settings["ladder_steps"], restarts=settings["strong"][1], queries=settings["queries"])
        return effort | dict(transfer=self.relatives(name))

    def _shards(self) -> list[slice]:
        return shards(len(self.images("ladder_images")[0]), _SHARD)

    def _shard(self, number: int) -> tuple[Tensor, Tensor]:
        x, y = self.images("ladder_images")
        rows = self._shards()[number]
        return x[rows], y[rows]
