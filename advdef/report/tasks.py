"""What ``advdef judge --jobs`` gives to processes: each defence, on each part of the images, is a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from advdef.checks import Check
from advdef.data import Dataset, Split
from advdef.defenses import Defense
from advdef.evaluation import Outcome, Threat
from advdef.evaluation.outcomes import joined_curves
from advdef.grid import Cell, DataDiffer, Study, Task, once
from advdef.norms import BallNorm
from advdef.report.attacking import JudgingEffort, check_attack, image_parts, meet_attackers_on
from advdef.report.bring import Brought
from advdef.report.defences import TRAINED
from advdef.report.deployed import Deployed, deployed
from advdef.store import cache_folder

__all__ = ["JudgedDefences", "JudgingCell", "judging_cell"]

_CHECKED_IN = "Linf"


class JudgedDefences(Study):
    """Defences in front of somebody's network, as :func:`advdef.report.judging.robustness` judges each of them."""

    def __init__(self, data: Dataset, settings: Mapping[str, Any], **options: Any) -> None:
        super().__init__(data, settings, **options)
        self.effort, self.eps = JudgingEffort(**settings["effort"]), settings["eps"]
        self.norm: BallNorm = settings["norm"]

    @once
    def network(self) -> nn.Module:
        """The network that was brought."""
        return Brought(**self.settings["brought"]).network()

    @once
    def sources(self) -> tuple[nn.Module, ...]:
        """The networks that attacks are transferred from."""
        return Brought(**self.settings["brought"]).sources()

    @once
    def judged(self, name: str) -> Deployed:
        """A defence in front of it, trained where it needs to be."""
        return deployed(
            self.network(), self.data, eps=self.eps, norm=self.norm, defence=name, epochs=self.effort.epochs,
            seed=self.seed, transfer=self.sources(),
        )  # fmt: skip

    def cases(self) -> dict[str, tuple[Any, ...]]:
        """The defences that were asked for."""
        return {name: (name,) for name in self.settings["defences"]}

    def deployed(self, *which: Any) -> Defense:
        """One of them."""
        (name,) = which
        return self.judged(name).defence

    def relatives_of(self, *which: Any) -> Mapping[str, nn.Module]:
        """The networks that attacks are transferred from, by name."""
        (name,) = which
        return self.judged(name).transfer

    def attacked_images(self) -> tuple[Tensor, Tensor]:
        """The images that the attackers meet, and their labels."""
        test = self._sample(self.settings["defences"][0])
        return test.float_images(), test.labels

    def curve(self, name: str) -> dict[Threat, dict[float, Outcome]]:
        """What the three attackers leave of a defence."""
        return joined_curves([self.part(name, number) for number in range(len(self._parts()))])

    @once
    def part(self, name: str, number: int) -> dict[Threat, dict[float, Outcome]]:
        """The same on one part of the images."""
        attack = partial(meet_attackers_on, eps=self.eps, norm=self.norm, resume=self.resume)
        found = attack(self.judged(name), self._sample(name), self._parts()[number], self.effort)
        return {threat: {self.eps: outcome} for threat, outcome in found.items()}

    @once
    def checks(self, name: str) -> list[Check]:
        """The checks of the direct attacker."""
        found = {threat: curve[self.eps] for threat, curve in self.curve(name).items()}
        return check_attack(self.judged(name), self._sample(name), found, self.effort, resume=self.resume)

    def stages(self) -> Iterator[Sequence[Task]]:
        """What is trained, the attacks on each defence, and the checks of these."""
        tasks = []
        for name in self.settings["defences"]:
            made = (Task("judged", (name,)),) if name in TRAINED else ()
            attacks = tuple(Task("part", (name, number), made) for number in range(len(self._parts())))
            tasks += [*made, *attacks, *([Task("checks", (name,), attacks)] if self.norm == _CHECKED_IN else [])]
        yield tasks

    def _sample(self, name: str) -> Split:
        return self.judged(name).sample(self.settings["images"])[0]

    def _parts(self) -> list[slice]:
        return image_parts(min(self.settings["images"], len(self.data.test)))


@dataclass(frozen=True)
class JudgingCell(Cell):
    """Such a study by name; its settings say how its network and its data are found again."""

    def make(self, resume: Path | None) -> Study:
        """The study itself; raises DataDiffer where the data are others here, and what finding them raises."""
        data = Brought(**self.settings["brought"]).dataset()
        if data.checksum != self.checksum:
            raise DataDiffer(f"the data set {self.dataset} is another one here: {data.checksum}, not {self.checksum}")
        return self.kind(data, self.settings, seed=self.seed, resume=cache_folder("judged"))


def judging_cell(
    brought: Brought, data: Dataset, defences: Sequence[str], eps: float, norm: BallNorm, images: int,
    effort: JudgingEffort, content: str,
) -> JudgingCell:  # fmt: skip
    """What is to be judged, for a grid.

    Args:
        brought: The network, its data and the networks of transferred attacks, as a command names them.
        data: That data set.
        defences: Names of :mod:`advdef.report.defences`, or ``module:function``.
        eps: The budget, a size in ``norm``.
        norm: "Linf" or "L2".
        images: How many test images are attacked.
        effort: How much is tried.
        content: A hash of all networks and defences: what their names stand for now, and may not later.
    """
    settings = dict(
        brought=asdict(brought), defences=tuple(defences), eps=eps, norm=norm, images=images, effort=asdict(effort),
        content=content,
    )  # fmt: skip
    study = f"{JudgedDefences.__module__}:{JudgedDefences.__name__}"
    return JudgingCell("judge", study, brought.data, data.checksum, settings, effort.seed, brought.device)
