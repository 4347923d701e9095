"""What a page computes on one data set, named so that any process on any machine can compute a part of it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Generator, Tensor, nn

from advdef.data import Dataset, find_device, load
from advdef.defenses import Defense
from advdef.evaluation import Outcome, Threat
from advdef.evaluation.holes import Judged, found_later, read_breaks
from advdef.store import Key, key, tally
from advdef.store.bytecode import packed

__all__ = ["Cell", "DataDiffer", "Study", "Task", "once", "seeded_name", "shards"]

Method = TypeVar("Method", bound=Callable[..., Any])


class DataDiffer(RuntimeError):
    """A data set is not the one that was asked for."""


@dataclass(frozen=True)
class Task:
    """One call of a study's method, and the tasks whose results it reads, of an earlier stage as well.

    What is not named in ``after`` may have to be computed once more, where workers have folders of their own.
    ``arguments`` are plain values: numbers, text, None, and tuples of them.
    """

    call: str
    arguments: tuple[Any, ...] = ()
    after: tuple[Task, ...] = field(default=(), repr=False, compare=False)

    @property
    def label(self) -> str:
        """The call, for people: ``curve(CQ, 0)``."""
        return f"{self.call}({', '.join(map(str, self.arguments))})"


class Study:
    """All that a page computes on one data set under one seed.

    A subclass has a method for each training, crafting, evaluation or row of checks. What such a method gives follows
    from the study and the arguments alone, and what took long is kept in the store: by what takes ``resume``, and
    by :func:`~advdef.training.trained`. So a grid calls the methods wherever there is a processor, in any order that
    :meth:`stages` allows, and a page that calls them afterwards finds all results there; a page without a grid computes
    them itself, by the same calls.

    Attributes:
        profiles: The settings of each size of the page, by its name; "datasets" are the names of its data sets.
        data: The data set.
        settings: Those of the page's profile; with "eps" where another main budget was asked for.
        seed: The first seed.
        main: Whether this is the page's first data set, on which some pages do more.
        resume: The folder that keeps evaluations; None keeps none.
        holes: The folder of what searches for holes have broken; None for none.
    """

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    meanings: ClassVar[Mapping[str, str]] = {}
    """What each setting of the profiles means, in a few words."""
    met: ClassVar[str] = "images"
    """The setting that says how many images the three attackers meet."""
    fewer: ClassVar[tuple[str, ...]] = ()
    """Further settings that count attacked test images."""
    several: ClassVar[tuple[str, ...]] = ("seeds",)
    """The settings that count the seeds over which it compares; none where it has one network of each kind."""
    fewest: ClassVar[int] = 1
    """Over how many seeds it compares at least."""
    farthest: ClassVar[float] = 1.0
    """The largest budget that is attacked with or trained for, in the main one."""

    # of the studies with :meth:`cases`, each with arguments of its own
    defence: Callable[..., Any]
    curve: Callable[..., dict[Threat, dict[float, Outcome]]]

    def __init__(
        self,
        data: Dataset,
        settings: Mapping[str, Any],
        *,
        seed: int = 0,
        main: bool = True,
        resume: Path | None = None,
        holes: Path | None = None,
    ) -> None:
        self.data, self.settings, self.seed, self.main, self.resume = data, settings, seed, main, resume
        self.holes = holes

    def stages(self) -> Iterator[Sequence[Task]]:
        """The tasks, in lists: each list is asked for when all of the lists before it are done.

        What to do next may so depend on what was found.
        """
        raise NotImplementedError

    def cases(self) -> Mapping[str, tuple[Any, ...]]:
        """What the three attackers meet, by a name: with which arguments ``curve`` says what they leave of it."""
        raise NotImplementedError

    def deployed(self, *which: Any) -> Defense:
        """The defence of a case, by the arguments of ``curve``."""
        found: Defense = self.defence(*which)
        return found

    def attacked_images(self) -> tuple[Tensor, Tensor]:
        """The images that they meet, and their labels."""
        raise NotImplementedError

    def relatives_of(self, *which: Any) -> Mapping[str, nn.Module]:
        """Other networks, by name, whose adversarial images may fool a case too."""
        return {}

    def case(self, name: str) -> Judged:
        """One of the :meth:`cases`, attacked; raises ValueError for a name that is none."""
        known = self.cases()
        if name not in known:
            raise ValueError(f"no defence {name!r}; there are {', '.join(known)}")
        which, (images, labels) = known[name], self.attacked_images()
        found = self.curve(*which)["adaptive"]
        return Judged(name, self.deployed(*which), images, labels, found, self.relatives_of(*which))

    def with_later(self, found: dict[Threat, dict[float, Outcome]], *which: Any) -> dict[Threat, dict[float, Outcome]]:
        """What the attackers found, and for the adaptive one also what a search for holes broke since.

        That is read from the folder :attr:`holes` and judged again here; ``which`` are the arguments of ``curve``.
        """
        name = next((name for name, known in self.cases().items() if known == which), None)
        if self.holes is None or name is None:
            return found
        breaks = read_breaks(self.holes, dataset=self.data.name, seed=self.seed, defence=name)
        if not breaks:
            return found
        draws = Generator().manual_seed(self.seed)
        adaptive = found_later(
            self.deployed(*which), *self.attacked_images(), found["adaptive"], breaks, generator=draws
        )
        return found | {"adaptive": adaptive}


def once(method: Method) -> Method:
    """Decorate a method of a study: it computes once for the same positional arguments, and then returns that result.

    It computes again where a file on which its result rests has gone from the store.
    """

    @functools.wraps(method)
    def remembered(self: Study, *arguments: Any) -> Any:
        known = vars(self).setdefault("_once", {})
        asked = (method.__name__, arguments)
        value, files = known.get(asked, (None, None))
        if files is None or not all(file.is_file() for file in files):
            with tally.touched() as seen:
                value = method(self, *arguments)
            known[asked] = value, tuple(dict.fromkeys(seen))
        else:
            for file in files:
                tally.touch(file)
        return value

    return remembered  # type: ignore[return-value]


def seeded_name(name: str, seed: int, first: int) -> str:
    """What a case is called that was trained with a seed: by its name alone where that is the first.

    >>> seeded_name("CQ", 0, 0), seeded_name("CQ", 3, 0)
    ('CQ', 'CQ, seed 3')
    """
    return name if seed == first else f"{name}, seed {seed}"


def shards(images: int, size: int) -> list[slice]:
    """The parts of an evaluation of so many images, of ``size`` images each.

    What one attack finds does not depend on them; the search by need looks at the nearest images of each part.

    >>> shards(500, 200)
    [slice(0, 200, None), slice(200, 400, None), slice(400, 500, None)]
    """
    return [slice(start, min(start + size, images)) for start in range(0, images, size)]


@dataclass(frozen=True)
class Cell:
    """A study by name: of one page, on one data set, with one seed.

    Attributes:
        page: What people call it.
        study: Its class, as "module:class".
        dataset: The data set, by its name.
        checksum: That of the data set; another one elsewhere is an error.
        settings: What the study is made with: the settings of its profile.
        seed: The first seed.
        device: Where it computes: "cpu" or "cuda:0", say.
        main: Whether this is the page's first data set, on which some pages do more.
    """

    page: str
    study: str
    dataset: str
    checksum: str
    settings: Mapping[str, Any]
    seed: int
    device: str
    main: bool = True

    @property
    def label(self) -> str:
        """The cell, for people."""
        return f"{self.page} {self.dataset} seed {self.seed}"

    def make(self, resume: Path | None) -> Study:
        """The study itself.

        Raises DatasetUnavailable, DataDiffer where the data set is another one here, and ValueError for a device that
        is not here.
        """
        data = load(self.dataset, device=find_device(self.device), download=False)
        if data.checksum != self.checksum:
            other = f"checksum {data.checksum}, not {self.checksum}"
            raise DataDiffer(f"the data set {self.dataset} is another one here: {other}")
        return self.kind(data, self.settings, seed=self.seed, main=self.main, resume=resume)

    @property
    def kind(self) -> type[Study]:
        """The class of the study."""
        module, _, name = self.study.partition(":")
        found: type[Study] = getattr(importlib.import_module(module), name)
        return found

    def key(self) -> Key:
        """All that determines its results: code, data, settings, seed, versions, kind of device."""
        told = dict(dataset=self.dataset, checksum=self.checksum, settings=dict(self.settings), seed=self.seed)
        return key("task", study=self.kind, main=self.main, device=self.device.partition(":")[0], **told)


def key_of(task: Task, cell: Key) -> Key:
    """The key of a task of the cell with this key."""
    return replace(cell, digest=packed(cell.digest, task.call.encode(), repr(task.arguments).encode()).hex())
