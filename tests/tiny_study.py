"""A study of seconds, for the tests of the grid: three networks, an attack on each, and a choice among them.

It counts how often anything is really computed, in a file of its own for each call, so that processes can tell.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from advdef.attacks import pgd
from advdef.data import Split
from advdef.defenses import Undefended
from advdef.evaluation import Outcome, direct, evaluate
from advdef.grid import Study, Task, once, shards
from advdef.training import Training, train_standard, trained

PROFILES = {"smoke": dict(datasets=("digits",), images=60, shard=25, pause=0.0, seeds=3)}


def said(name: str) -> None:
    """Leave a file in $TINY_SAID, where that is set."""
    if folder := os.environ.get("TINY_SAID"):
        Path(folder).joinpath(f"{name}.{os.getpid()}.{uuid.uuid4().hex[:6]}").touch()


def train(model: nn.Module, split: Split, *, generator: Generator, name: str, pause: float) -> dict[str, Tensor]:
    said(f"train {name}")
    time.sleep(pause)
    train_standard(model, split, epochs=1, generator=generator)
    return {}


def slow(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, generator: Generator, name: str) -> Tensor:
    said(f"attack {name}, {float(images.sum()):.2f}")
    return pgd(model, images, labels, eps=eps, steps=3, generator=generator)


class Tiny(Study):
    """Linear networks with several seeds, attacked in shards."""

    profiles = PROFILES

    @once
    def network(self, seed: int) -> Training:
        data = self.data.subset(train=200)
        build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(data.train.images[0].numel(), 10))  # noqa: E731
        return trained(build, train, data, seed=seed, name=str(seed), pause=self.settings["pause"])

    def part(self, seed: int, shard: int) -> Outcome:
        images, rows = self.data.test.sample(self.settings["images"]), self.shards()[shard]
        attack = partial(slow, name=str(seed))
        defence = Undefended(self.network(seed).model)
        x, y = images.float_images()[rows], images.labels[rows]
        return evaluate(
            defence, direct(defence, {"PGD": attack}), x, y, eps=0.05, generator=Generator().manual_seed(0),
            resume=self.resume,
        )  # fmt: skip

    def robust(self, seed: int) -> Outcome:
        return Outcome.joined([self.part(seed, i) for i in range(len(self.shards()))])

    def fails(self) -> None:
        raise FloatingPointError("as it should")

    def best(self) -> int:
        """Which network is attacked once more depends on what was found."""
        return max(self.seeds(), key=lambda s: int(self.robust(s).robust.sum()))

    def again(self, seed: int) -> Outcome:
        defence = Undefended(self.network(seed).model)
        images = self.data.test.sample(10)
        attempts = direct(defence, {"PGD": partial(slow, name=f"{seed} again")})
        return evaluate(
            defence, attempts, images.float_images(), images.labels, eps=0.1, generator=Generator().manual_seed(1),
            resume=self.resume,
        )  # fmt: skip

    def seeds(self) -> list[int]:
        return [self.seed + i for i in range(self.settings["seeds"])]

    def shards(self) -> list[slice]:
        return shards(self.settings["images"], self.settings["shard"])

    def stages(self) -> Iterator[Sequence[Task]]:
        networks = {s: Task("network", (s,)) for s in self.seeds()}
        parts = [Task("part", (s, i), (networks[s],)) for s in networks for i in range(len(self.shards()))]
        failing = [Task("fails")] if self.settings.get("fails") else []
        yield [*parts, *failing, *([Task("again", (0,), (failing[0],))] if failing else [])]
        best = self.best()
        yield [Task("again", (best,), (networks[best],))]


def found(study: Tiny) -> dict[str, list[bool]]:
    """All that the study finds, image by image."""
    torch.set_num_threads(1)
    kept = {str(s): study.robust(s).robust.tolist() for s in study.seeds()}
    return kept | {"again": study.again(study.best()).robust.tolist()}
