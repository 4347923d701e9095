"""How long each page of the profile gpu takes on one large GPU: an estimate from counted multiply-adds.

    python tests/gpu_estimate.py

- **Trainings**: the tasks of a page's study say which there are, and each says its network, its images, its epochs and
  the steps of its inner attack. A pass costs the counted multiply-adds of the network; a step three passes, and each
  step of an inner attack two. Where a scheme shows clean and attacked images, that is twice as much.
- **Attacks**: the passes that the committed record of the profile laptop counted, as many times as this profile has
  more images, steps, budgets, seeds and data sets; each costs the multiply-adds of this profile's network.
  Passes through derivatives of a spike that this profile lacks are left out.
- **Time**: both at the assumed rates below. An H100 can do 33 trillion multiply-adds a second in float32 and 490 in
  bfloat16; small networks reach a part of that. A spiking layer waits for the launch of its kernels, 2 ms in each step
  (tests/benchmarks/bench_spiking.py), and that comes on top; a step of an attack is a pass forwards and one back. None
  of it was measured with these pages.

Left out are restorers, purifiers and filters within attacks, checks, and what the CPU does.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn

from advdef.book.cells import study_of
from advdef.book.records import read_records
from advdef.data import DATASETS, Dataset, Split
from advdef.data.titles import data_name
from advdef.evaluation import multiply_adds
from advdef.grid.study import Task
from advdef.models import CleverhansCNN
from advdef.papers import STUDIES
from advdef.papers.nip.profiles import NETWORKS as OF_NIP
from advdef.papers.snn.neurons import Firing
from advdef.papers.trn.models import SIZES, TwoStreamRestorer
from advdef.papers.trn.networks import NETWORKS as OF_TRN
from advdef.report.example import _built

ROOT = Path(__file__).resolve().parents[1]
ATTACKING, TRAINING = 8e12, 20e12  # multiply-adds a second, assumed
LIMIT = 10.0  # minutes that a page may take
LAUNCH = 0.002  # seconds that a spiking layer takes in a step, however few its images
# settings that the passes of attacks are proportional to, by page
SCALED: Mapping[str, tuple[str, ...]] = {
    "qusecnets": ("adaptive_images", "steps", "seeds"),
    "neuron_sensitivity": ("images", "steps", "seeds"),
    "nip": ("images", "adaptive_steps"),
    "trn": ("images", "strong"),
    "snn_purification": ("few", "strong"),
    "five_defences": ("images", "steps"),
    "broken_on_purpose": ("images", "steps", "restarts"),
    "your_classifier": ("images", "steps"),
}
TRAINED = ("training", "layer", "classifier")  # calls of a study that train a network
BESIDE = ("restorer", "purifier")  # and those that train what stands in front of one
PAGES = (*STUDIES, "broken_on_purpose", "attack_agreement", "your_classifier")
IN_FRONT = ("TRN", "purifier")  # as the comparison names it


@dataclass(frozen=True)
class Work:
    """Multiply-adds of a page's trainings and of its attacks."""

    training: float
    attacking: float
    waiting: float = 0.0  # seconds for launches

    @property
    def minutes(self) -> float:
        """At the assumed rates."""
        return (self.training / TRAINING + self.attacking / ATTACKING + self.waiting) / 60


@cache
def made_up(name: str, images: int) -> Dataset:
    """A data set of that shape, with as many training images, all black."""
    info = DATASETS[name]
    labels = torch.arange(images) % info.num_classes

    def split(count: int) -> Split:
        return Split(torch.zeros(1, dtype=torch.uint8).expand(count, *info.shape), labels[:count])

    names = tuple(map(str, range(info.num_classes)))
    return Dataset(name, split(images), split(10_000), info.num_classes, info.shape, names, "0" * 16)


def all_tasks(tasks: Iterable[Task]) -> list[Task]:
    """These tasks and all that they stand on, each once."""
    found: dict[Task, None] = {}
    for task in tasks:
        found |= dict.fromkeys((*all_tasks(task.after), task))
    return list(found)


def one_pass(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """Multiply-adds of one image, counted once for all networks of the same layers."""
    key = f"{model} {shape}"
    if key not in _COUNTED:
        _COUNTED[key] = multiply_adds(model.eval(), torch.rand(2, *shape))
    return _COUNTED[key]


_COUNTED: dict[str, float] = {}


def counted(study: Any) -> float:
    """Multiply-adds of all trainings in a study, none of which is made."""
    total, data = 0.0, study.data

    def count(build: Any, train: Any, of: Dataset, *, seed: int, **settings: Any) -> Any:
        nonlocal total
        given = {**getattr(train, "keywords", {}), **settings}
        passes = 6 + 2 * given["steps"] if "steps" in given else 3
        total += len(of.train) * given["epochs"] * passes * one_pass(model := build(), data.shape)
        return SimpleNamespace(model=model.eval(), history={})

    modules = [m for n, m in sys.modules.items() if n.startswith("advdef.papers.") and hasattr(m, "trained")]
    tasks = all_tasks(next(iter(study.stages())))
    patches = [mock.patch.object(module, "trained", count) for module in modules]
    for patch in patches:
        patch.start()
    try:
        for task in tasks:
            if task.call in TRAINED and task.arguments[0] not in IN_FRONT:
                getattr(study, task.call)(*task.arguments)
    finally:
        for patch in patches:
            patch.stop()
    beside = sum(task.call in BESIDE or (task.call in TRAINED and task.arguments[0] in IN_FRONT) for task in tasks)
    return total + (beside * beside_a_classifier(study) if beside else 0.0)


def beside_a_classifier(study: Any) -> float:
    """Multiply-adds of one training of a restorer or a purifier, with those of the images that it learns from."""
    settings, shape = study.settings, study.data.shape
    if "restorer_epochs" in settings:
        images, epochs = settings["train"], settings["restorer_epochs"]
    elif "purifier_epochs" in settings:
        images, epochs = settings["pairs"], settings["purifier_epochs"]
    else:
        images, epochs = settings["train"][1], settings["epochs"][1]
    channels = shape[0]
    maps = torch.rand(2, channels, *shape[1:])
    restorer = TwoStreamRestorer(channels, channels, **SIZES[settings.get("size", "XS")])
    counter = _Both(restorer, maps)
    return images * (3 * epochs * one_pass(counter, shape) + (2 * 10 + 3 * epochs) * one_pass(network_of(study), shape))


class _Both(nn.Module):
    """A restorer that is given its maps."""

    def __init__(self, restorer: nn.Module, maps: torch.Tensor) -> None:
        super().__init__()
        self.restorer, self.maps = restorer, maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.restorer(images, self.maps)
        return found


def network_of(study: Any) -> nn.Module:
    """The network of a page in front of which everything stands."""
    shape, classes, settings = study.data.shape, study.data.num_classes, study.settings
    if hasattr(study, "untrained_classifier"):
        made: nn.Module = study.untrained_classifier(steps=settings["T"], levels=3, gated=True)
    elif type(study).__name__ == "InversePerturbation":
        made = OF_NIP[settings["datasets"][study.data.name][0]](shape, classes)
    elif type(study).__name__ == "Restorers":
        made = OF_TRN[settings["datasets"][study.data.name]](shape, classes)
    else:
        made = study.network()
    return made


def larger(page: str, now: Mapping[str, Any], then: Mapping[str, Any]) -> float:
    """How many times the passes of attacks are those of other settings."""
    times = 1.0
    for name in SCALED.get(page, ()):
        sizes = [value[0] if isinstance(value := settings[name], tuple) else value for settings in (now, then)]
        times *= sizes[0] / sizes[1]
    return times


def passes(page: str, settings: Mapping[str, Any]) -> float:
    """Passes that attacks on one data set of a page took in the profile laptop, as its committed records counted them.

    Those through derivatives of a spike that these settings lack are left out.
    The comparison with other libraries counts none: there, each row is an attack with both passes at each step.
    """
    records = [
        record for record in read_records(ROOT / "book" / "results", profile="laptop") if record["paper"] == page
    ]
    names = profiles_of(page)["laptop"].get("derivatives", ())
    left = [name for name in names if name not in settings["derivatives"]] if isinstance(names, tuple) else []
    most = [
        sum(
            row.get("forwards", 0) + row.get("backwards", 0)
            for row in record["results"]
            if not any(row["attack"].endswith(name) for name in left)
        )
        for record in records
    ]
    if page == "attack_agreement":
        return 2 * settings["images"] * settings["steps"] * max(len(record["results"]) for record in records)
    return max(most)


def profiles_of(page: str) -> dict[str, dict[str, Any]]:
    """The settings of a page, from its study or from its own code."""
    if page in STUDIES:
        return dict(study_of(page).profiles)
    (file,) = (ROOT / "notebooks").glob(f"[0-9]*_{page}.py")
    made = [line for line in ast.parse(file.read_text("utf-8")).body if ast.unparse(line).startswith("PROFILES = ")]
    found: dict[str, Any] = {}
    exec(compile(ast.Module(made, []), str(file), "exec"), found)
    profiles: dict[str, dict[str, Any]] = found["PROFILES"]
    return profiles


def work(page: str) -> Work:
    """The work of a page in the profile gpu, on all its data sets."""
    profiles, total = profiles_of(page), Work(0.0, 0.0)
    settings = profiles["gpu"]
    for name in settings["datasets"]:
        data = made_up(name, 30_000 if name == "gtsrb" else 50_000)
        if page in STUDIES:
            study = study_of(page)(data, settings)
            network, training = network_of(study), counted(study)
        else:
            network = (_built if page == "your_classifier" else plain_cnn)(*data.shape[:1], data.num_classes)
            epochs = settings["epochs"][data.shape[0]] if isinstance(settings["epochs"], dict) else settings["epochs"]
            # the undefended network, and adversarial training of one inner step where a page has it
            training = 8 * epochs * (settings["train"] or len(data.train)) * one_pass(network, data.shape)
        each = one_pass(network, data.shape)
        asked = passes(page, settings) * larger(page, settings, profiles["laptop"])
        layers = sum(isinstance(module, Firing) for module in network.modules())
        steps = asked / 2 / settings.get("few", 1) + training / (3 * each) / settings.get("batch", 1)
        waiting = LAUNCH * layers * steps if layers else 0.0
        total = Work(total.training + training, total.attacking + asked * each, total.waiting + waiting)
    return total


def plain_cnn(channels: int, classes: int) -> nn.Module:
    """The network of the pages that tell of attacks."""
    return CleverhansCNN((channels, 32, 32) if channels == 3 else (1, 28, 28), classes)


def table() -> list[str]:
    """A line for each page, as the page about re-running shows it."""
    lines = []
    for page in PAGES:
        found, data = work(page), profiles_of(page)["gpu"]["datasets"]
        shown = ", ".join(map(data_name, data))
        told = f"{1e-15 * found.training:.2f} | {1e-15 * found.attacking:.2f} | {found.minutes:.1f}"
        lines.append(f"| `{page}` | {shown} | {told} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
