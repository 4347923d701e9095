"""What the page about NIP computes on attacked images: banks, steps, repairs, attackers and checks, each a task."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, product
from typing import Any

from torch import Tensor, nn

from advdef import checks
from advdef.attacks import fgsm, pgd
from advdef.defenses import Defense, Undefended
from advdef.devices import exact
from advdef.evaluation import Attempt, Cost, Outcome, Threat, direct, evaluate, oblivious, three_curves
from advdef.evaluation.outcomes import joined_curves
from advdef.grid import Task, once, seeded_name, shards
from advdef.papers.nip import judging, measure, price
from advdef.papers.nip.attacked import PGD_MIN, AttackedNetworks, Target
from advdef.papers.nip.bank import DirectionBank, fitted, phase_scrambled, random_bank
from advdef.papers.nip.baselines import NoiseVote
from advdef.papers.nip.profiles import NIP_MEANINGS, NIP_PROFILES
from advdef.papers.nip.repair import Repair, repairs_in_turn
from advdef.papers.nip.variants import (
    ADDED,
    AT_ALL_BUDGETS,
    DRAWN,
    ELSEWHERE,
    MANY_STEPS,
    NOISES,
    SEEDED,
    STEPLESS,
    TESTED,
    V2,
    WATCHED,
    WITH_CHECKS,
    WITH_STEP,
)
from advdef.papers.nip.verdicts import BASELINES, LABEL_FREE, NOISE, name_the_best

__all__ = ["InversePerturbation"]

Curves = dict[Threat, dict[float, Outcome]]

_SHARD = 250


class InversePerturbation(AttackedNetworks):
    """Defences in front of networks, and what is left of them, on one data set."""

    profiles = NIP_PROFILES
    meanings = NIP_MEANINGS
    met = "adaptive_images"
    fewer = ("images", "eleven", "tested")
    farthest = 2.0

    @once
    def fitted_bank(self, kind: str, seed: int) -> tuple[DirectionBank, float]:
        """A network's bank of directions, and the seconds that fitting it took."""
        per_class, kept, known = self.settings["per_class"], self.settings["kept"], self.data.train
        return fitted(self.model(kind, seed), known, per_class=per_class, kept=kept, resume=self.resume)

    @once
    def bank(self, kind: str, seed: int, which: str) -> DirectionBank:
        """A network's bank of directions, "classes", or one of its controls, "random" and "scrambled"."""
        bank, _ = self.fitted_bank(kind, seed)
        if which == "random":
            return random_bank(bank, generator=self.draws(4))
        return phase_scrambled(bank, generator=self.draws(5)) if which == "scrambled" else bank

    def stepped(self, kind: str, name: str, seed: int, step: float) -> Defense:
        """A defence that adds something of this size (RMS, in pixel units)."""
        return WITH_STEP[name](self.model(kind, seed), partial(self.bank, kind, seed), step)

    @once
    def affordable(self, kind: str, name: str, seed: int) -> tuple[float, ...]:
        """The steps at which a defence costs at most a point on benign training images; 0: it has no step."""
        benign = self.data.train.sample(self.settings["images"])
        if name in STEPLESS:
            tried = {0.0: STEPLESS[name](self.model(kind, seed))}
        else:
            tried = {step: self.stepped(kind, name, seed, step) for step in self.steps}
        return price.affordable(self.model(kind, seed), tried, benign, resume=self.resume)

    def step(self, kind: str, name: str, seed: int) -> float:
        """The largest affordable step of a defence, the smallest of all where none is; 0 for one without steps."""
        return max(self.affordable(kind, name, seed), default=self.steps[0]) if name in WITH_STEP else 0.0

    @once
    def defence(self, kind: str, name: str, seed: int) -> Defense:
        """A defence, with the :meth:`step` that it gets if it has one."""
        model = self.model(kind, seed)
        if name == "AT":
            return Undefended(self.adversarial_training().model, twin=model)
        if name in STEPLESS:
            return STEPLESS[name](model)
        if name in MANY_STEPS:
            return MANY_STEPS[name](model, self.bank(kind, seed, "classes"), self.steps)
        return self.stepped(kind, name, seed, self.step(kind, name, seed))

    def names(self, kind: str) -> tuple[str, ...]:
        """The defences that meet attacks which ignore them; the expensive "V3 all steps" only on the first network."""
        return (*WITH_STEP, *STEPLESS, "V2 stable step", *(["V3 all steps"] if self.is_first(kind) else []))

    @once
    def restored(self, kind: str, attack: str, eps: float | None) -> dict[float, dict[str, Tensor]]:
        """What the released protocol and its controls restore of an attack's images that fool the network, by step."""
        (images, labels), attacked = self.images(), self.target(kind, attack, eps)
        steps, noises = sorted({*self.released, *self.steps}), self.settings["tried"]
        return measure.oracle_by_step(
            self.model(kind, self.seed), images, attacked, labels, steps=steps, noises=noises, resume=self.resume
        )

    @once
    def repaired(self, kind: str, name: str, seed: int) -> dict[str, dict[Target, Repair]]:
        """What a defence makes of the :meth:`targets`, of what stops early or late, and of the thirteen attacks."""
        (x, y), (few, few_y) = self.images(), self.images("eleven")
        sets = {"targets": (x, self.targets(kind, seed), y)}
        if seed == self.seed and name in WATCHED and self.is_first(kind):
            for label, (_, eps, _) in self.stops.items():
                sets[label] = few, {(label, eps): self.stopped(label)}, few_y
        if seed == self.seed and name not in MANY_STEPS:
            thirteen: dict[Target, Tensor] = {(attack, None): self.eleven(kind, attack) for attack in self.eleven_suite}
            thirteen |= {(attack, self.eps): self.fixed(kind, attack)[: len(few)] for attack in ADDED}
            sets["thirteen"] = few, thirteen, few_y
        return repairs_in_turn(self.defence(kind, name, seed), sets, resume=self.resume)

    @once
    def at_step(self, kind: str, name: str, step: float) -> dict[Target, Repair]:
        """What a defence with this step makes of PGD-min and of PGD with the main eps; for V2, with each eps."""
        (x, y), budgets = self.images(), self.budgets if name == V2 else [self.eps]
        chosen = {target: self.target(kind, *target) for target in (PGD_MIN, *(("PGD", eps) for eps in budgets))}
        defence = self.stepped(kind, name, self.seed, step)
        return repairs_in_turn(defence, {"": (x, chosen, y)}, resume=self.resume)[""]

    @once
    def score(self, kind: str, name: str) -> float:
        """The mean of three accuracies on training images: without an attack, under PGD-min, under PGD."""
        x, y = self.known_images()
        versions = [x, *(self.on_known_images(kind, attack) for attack in ("PGD-min", "PGD"))]
        right = price.right_on([self.defence(kind, name, self.seed)], versions, y, resume=self.resume)
        return exact(right).mean().item()

    def named(self, kind: str) -> dict[str, str]:
        """The names of the variant and of the baselines with the best :meth:`score`, by what they are named for."""
        scores = {name: self.score(kind, name) for name in (*LABEL_FREE, *BASELINES)}
        fair = [name for name in (*WITH_STEP, *STEPLESS) if self.affordable(kind, name, self.seed)]
        return name_the_best(scores, fair)

    @once
    def benign(self, kind: str, name: str) -> Tensor:
        """Which of 2,000 test images a defence has right."""
        test, defence = self.data.test.sample(2_000), self.defence(kind, name, self.seed)
        return price.right_on([defence], [test.float_images()], test.labels, resume=self.resume)[0, 0]

    @once
    def costs(self, kind: str) -> dict[str, Cost]:
        """What all defences cost, measured one after the other in one process; the first is no defence."""
        batch, rounds = self.settings["timed"]
        defences = {name: self.defence(kind, name, self.seed) for name in dict.fromkeys(("none", *self.names(kind)))}
        return price.costs(defences, self.images()[0][:batch], rounds=rounds, resume=self.resume)

    def judged(self, kind: str) -> tuple[str, ...]:
        """The defences that meet the three attackers, besides those of :meth:`named`."""
        names: tuple[str, ...] = (*AT_ALL_BUDGETS, "V2 majority")
        if self.settings["defences"] == "all":
            names = ("none", *LABEL_FREE, "V1 minus", "V2 stable step", NOISE, "random bank, max-confidence",
                     "anti-adversary", *list(STEPLESS)[1:])  # fmt: skip
        return (*names, "AT") if self.is_first(kind) else tuple(name for name in names if name in ELSEWHERE)

    def sizes(self, kind: str, name: str, seed: int) -> list[float]:
        """The budgets at which the three attackers meet a defence; the largest is for the figure alone."""
        grown = self.budgets[-self.settings["curve"] :]
        if not self.is_first(kind):
            return [self.half]
        if seed != self.seed:
            return [eps for eps in grown if eps <= self.half]
        return grown if name in AT_ALL_BUDGETS else grown[:-1]

    def cases(self) -> dict[str, tuple[Any, ...]]:
        """What meets the three attackers, as (network, defence, seed); on the first network also with other seeds."""
        first = [(kind, name, self.seed) for kind in self.kinds for name in self.judged(kind)]
        rest = [(self.kinds[0], name, s) for s in self.seeds[1:] if self.main for name in ("none", V2)]
        return {
            seeded_name(name if kind == self.kinds[0] else f"{name}, {kind}", s, self.seed): (kind, name, s)
            for kind, name, s in (*first, *rest)
        }

    def attacked_images(self) -> tuple[Tensor, Tensor]:
        """The test images of the three attackers, and their labels."""
        return self.images("adaptive_images")

    def relatives_of(self, *which: Any) -> dict[str, nn.Module]:
        """The bare network, the one of adversarial training, and those of another seed and of other kinds."""
        kind, name, seed = which
        found = {} if name == "none" else {"bare": self.model(kind, seed)}
        found |= {f"seed {s}": self.model(kind, s) for s in self._other_seeds(kind, seed)}
        found |= {other: self.model(other, self.seed) for other in self.kinds if other != kind}
        trained_on_attacks = name != "AT" and self.is_first(kind)
        return found | ({"AT": self.adversarial_training().model} if trained_on_attacks else {})

    def _other_seeds(self, kind: str, seed: int) -> list[int]:
        return [s for s in self.seeds if s != seed][: 1 if self.is_first(kind) else 0]

    def curve(self, kind: str, name: str, seed: int) -> Curves:
        """What the three attackers leave of a defence at each budget."""
        found = joined_curves([self.part(kind, name, seed, i) for i in range(len(self._shards()))])
        return self.with_later(found, kind, name, seed)

    @once
    def part(self, kind: str, name: str, seed: int, shard: int) -> Curves:
        """The curve on one shard of the images."""
        settings, (images, labels), rows = self.settings, self.images("adaptive_images"), self._shards()[shard]
        return three_curves(
            self.defence(kind, name, seed), images[rows], labels[rows], budgets=self.sizes(kind, name, seed),
            generator=self.draws(9), steps=settings["adaptive_steps"], queries=settings["queries"],
            rounds=settings["rounds"], transfer=self.relatives_of(kind, name, seed), resume=self.resume,
        )  # fmt: skip

    @once
    def noise(self, name: str, eps: float) -> dict[Threat, Outcome]:
        """What PGD on the bare network leaves of a noise defence, and what is left if PGD on its mean is tried, too."""
        kind, (images, labels) = self.kinds[0], self.images("adaptive_images")
        defence, attack = self.defence(kind, name, self.seed), partial(pgd, steps=self.settings["adaptive_steps"])
        step = self.step(kind, name, self.seed)
        averaged = Undefended(NoiseVote(self.model(kind, self.seed), step, draws=20, seed=1))
        plain = oblivious(defence, {"PGD": attack})
        knowing = [*plain, *oblivious(averaged, {"PGD on the average": attack})]
        tried: dict[Threat, list[Attempt]] = {"oblivious": plain, "adaptive": knowing}
        return {
            threat: evaluate(defence, attempts, images, labels, eps=eps, generator=self.draws(10), resume=self.resume)
            for threat, attempts in tried.items()
        }

    @once
    def six_tests(self, name: str) -> dict[str, tuple[bool, str]]:
        """What must hold if the attacks on a defence work."""
        kind, (images, labels) = self.kinds[0], self.images("tested")
        return judging.six_tests(
            self.defence(kind, name, self.seed), self.stepped(kind, name, self.seed, 0.0), images, labels,
            eps=self.half, huge=self.huge, steps=self.settings["long"], queries=self.settings["queries"],
            seed=self.draws(13).initial_seed(), resume=self.resume,
        )  # fmt: skip

    @once
    def checks(self, name: str) -> list[checks.Check]:
        """The row of checks of the direct evaluation at half the main eps."""
        kind, (images, labels) = self.kinds[0], self.images("adaptive_images")
        defence, quick = self.defence(kind, name, self.seed), {"FGSM": partial(fgsm)}
        quick |= {"PGD": partial(pgd, steps=self.settings["long"][0])}
        single = evaluate(
            defence, direct(defence, quick), images, labels, eps=self.half, generator=self.draws(14), exhaustive=True,
            resume=self.resume,
        )  # fmt: skip
        left: dict[str, Any] = {t: curve[self.half] for t, curve in self.curve(kind, name, self.seed).items()}
        told = dict(goal="any wrong class", norm="Linf", knowledge="all", eps=self.half, randomised="nothing")
        return checks.row(
            defence, images, labels, eps=self.half, generator=self.draws(15), single=single, **left, card=told,
            seeds=len(self.seeds), resume=self.resume, **checks.asked_for(self.settings["checks"], "D3", "D4"),
        )  # fmt: skip

    def stages(self) -> Iterator[Sequence[Task]]:
        """First what is attacked, and all that the choice of the named stands on; then the rest, long tasks first."""
        yield [task for kind in self.kinds for task in self._choices(kind)]
        yield [task for kind in self.kinds for task in self._rest(kind)]

    def _choices(self, kind: str) -> list[Task]:
        seed, made = self.seed, self._attacks(kind)
        nets = [Task("training", (kind, s)) for s in self.seeds] if self.is_first(kind) else []
        known = made["on_known_images", "PGD-min"], made["on_known_images", "PGD"]
        steps = [Task("affordable", (kind, name, seed), self._behind(kind, name, seed)) for name in STEPLESS]
        steps += [task for name in WITH_STEP for task in self._behind(kind, name, seed)]
        chosen = (*LABEL_FREE, *BASELINES)
        scores = [Task("score", (kind, name), (*self._behind(kind, name, seed), *known)) for name in chosen]
        return [*nets, *made.values(), *steps, *scores]

    def _rest(self, kind: str) -> list[Task]:
        seed, made, first = self.seed, self._attacks(kind), self.is_first(kind)
        behind = {name: self._behind(kind, name, seed) for name in self.names(kind)}
        targets = {PGD_MIN: made["smallest", seed]} | {("PGD", eps): made["pgd", eps] for eps in self.budgets}
        replayed = [*targets.values(), *(made["fixed", attack] for attack in ADDED)]
        replayed += [task for (call, _), task in made.items() if call in ("eleven", "stopped")]
        at_step = self._bank(kind, seed), *targets.values()
        judged = dict.fromkeys((*self.judged(kind), *self.named(kind).values()))
        tasks = [task for name in judged for task in self._parts(kind, name, seed)]
        tasks += [task for s in self.seeds[1:] if first for task in self._of_another_seed(kind, s)]
        tasks += [Task("checks", (name,), tuple(self._parts(kind, name, seed))) for name in WITH_CHECKS if first]
        tasks += [Task("six_tests", (name,), behind[name]) for name in TESTED if first]
        tasks += [Task("noise", one, behind[one[0]]) for one in product(NOISES, (self.half, self.eps)) if first]
        tasks += [Task("at_step", (kind, *one), at_step) for one in product(DRAWN if first else (V2,), self.steps)]
        tasks += [Task("repaired", (kind, name, seed), (*behind[name], *replayed)) for name in behind]
        tasks += [Task("restored", (kind, *target), (task,)) for target, task in targets.items()]
        tasks += [Task("benign", (kind, name), behind[name]) for name in ("none", *LABEL_FREE)]
        return [*tasks, Task("costs", (kind,), tuple(dict.fromkeys(chain(*behind.values()))))]

    def _of_another_seed(self, kind: str, seed: int) -> list[Task]:
        smallest = Task("smallest", (kind, seed), (Task("training", (kind, seed)),))
        parts = [task for name in ("none", V2) for task in self._parts(kind, name, seed)]
        behind = {name: self._behind(kind, name, seed) for name in SEEDED}
        return [*parts, *(Task("repaired", (kind, k, seed), (*before, smallest)) for k, before in behind.items())]

    def _attacks(self, kind: str) -> dict[tuple[str, Any], Task]:
        """What is made without regard to a defence, by the method and its last argument."""
        after = (Task("training", (kind, self.seed)),)
        asked: list[tuple[str, Any]] = [("smallest", self.seed), *product(("pgd",), self.budgets)]
        asked += product(("on_known_images",), ("PGD-min", "PGD"))
        asked += [*product(("fixed",), self.fixed_suite), *product(("eleven",), self.eleven_suite)]
        found = {(call, last): Task(call, (kind, last), after) for call, last in asked}
        stopped = self.stops if self.is_first(kind) else ()
        return found | {("stopped", label): Task("stopped", (label,), after) for label in stopped}

    def _bank(self, kind: str, seed: int) -> Task:
        return Task("fitted_bank", (kind, seed), (Task("training", (kind, seed)),))

    def _behind(self, kind: str, name: str, seed: int) -> tuple[Task, ...]:
        """What a defence stands on."""
        if name in WITH_STEP:
            return (Task("affordable", (kind, name, seed), (self._bank(kind, seed),)),)
        if name in MANY_STEPS:
            return (self._bank(kind, seed),)
        net = Task("training", (kind, seed))
        return (net, Task("adversarial_training")) if name == "AT" else (net,)

    def _parts(self, kind: str, name: str, seed: int) -> list[Task]:
        others = [Task("training", (kind, s)) for s in self._other_seeds(kind, seed)]
        after = tuple(dict.fromkeys((*self._behind(kind, name, seed), *others)))
        return [Task("part", (kind, name, seed, i), after) for i in range(len(self._shards()))]

    def _shards(self) -> list[slice]:
        return shards(min(self.settings["adaptive_images"], len(self.data.test)), _SHARD)
