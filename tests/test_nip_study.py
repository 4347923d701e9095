"""What NIP's page computes: it is kept as it was found, and its tasks are calls that the page makes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.data import Dataset
from advdef.defenses import Undefended
from advdef.evaluation import correct
from advdef.grid import Task
from advdef.papers.nip import judging, measure, price
from advdef.papers.nip.bank import fitted
from advdef.papers.nip.baselines import NoiseVote
from advdef.papers.nip.repair import repairs, repairs_in_turn
from advdef.papers.nip.study import InversePerturbation


@pytest.fixture(scope="module")
def model(_trained_network: nn.Sequential) -> nn.Sequential:
    network = copy.deepcopy(_trained_network).eval()
    network.taps = ("0", "1", "4")  # type: ignore[assignment]
    return network


def plain(found: Any) -> Any:
    """Something that == compares, without times."""
    if isinstance(found, Tensor):
        return found.tolist()
    if isinstance(found, dict):
        return [(name, plain(value)) for name, value in found.items()]
    if isinstance(found, tuple | list):
        return [plain(value) for value in found]
    return [] if isinstance(found, float) else plain(vars(found)) if hasattr(found, "__dict__") else found


def test_what_is_kept_is_what_was_found(model: nn.Sequential, digits: Dataset, tmp_path: Path) -> None:
    """A defence that draws random numbers begins anew each time, whatever it was asked before."""
    x, y = digits.test.float_images()[:12], digits.test.labels[:12]
    attacked = judging.pgd_min(trials=6, steps=5)(model, x, y, eps=1.0, generator=seeded())
    noise, bare = NoiseVote(model, 0.3), Undefended(model)
    sets = {"first": (x, {"PGD-min": attacked}, y), "again": (x, {"PGD-min": attacked}, y)}
    measured: dict[str, Callable[..., Any]] = {
        "repairs": partial(repairs_in_turn, noise, sets),
        "right": partial(price.right_on, [noise, bare], [x, attacked], y),
        "costs": partial(price.costs, {"none": bare, "noise": noise}, x, rounds=1),
        "oracle": partial(measure.oracle_by_step, model, x, attacked, y, steps=(0.1, 0.01), noises=2),
        "bank": partial(fitted, model, digits.train.head(500), per_class=4, kept=2),
    }
    for number, (name, measure_it) in enumerate(measured.items(), 1):
        found = [plain(measure_it(resume=folder)) for folder in (None, tmp_path, tmp_path)]
        assert found[0] == found[1] == found[2], name
        assert len(list(tmp_path.iterdir())) == number, name
    first, again = measured["repairs"]().values()
    assert not torch.equal(first["PGD-min"].defended, again["PGD-min"].defended)
    alone = repairs(NoiseVote(model, 0.3), x, {"PGD-min": attacked}, y)
    assert plain(alone["PGD-min"]) == plain(first["PGD-min"])
    assert torch.equal(measured["right"]()[1], torch.stack([correct(bare, version, y) for version in (x, attacked)]))
    kept = measured["costs"](resume=tmp_path)["noise"]
    assert astuple(kept) == astuple(measured["costs"](resume=tmp_path)["noise"])  # times and all


class Named(InversePerturbation):
    """It names the same on every network, without a look at results."""

    def named(self, kind: str) -> dict[str, str]:
        return {"variant": "V3 recovery", "baseline": "scrambled bank, mean-logit"}


@pytest.mark.parametrize("profile", list(InversePerturbation.profiles))
def test_tasks_are_calls_of_the_study_and_none_is_there_twice(digits: Dataset, profile: str) -> None:
    data = replace(digits, name="cifar10", shape=(3, 28, 28))
    study, elsewhere = (Named(data, InversePerturbation.profiles[profile], main=main) for main in (True, False))
    stages = [*study.stages()]
    there: dict[str, Task] = {}

    def add(task: Task) -> None:
        assert there.setdefault(task.label, task) == task  # the same call stands on the same
        inspect.signature(getattr(study, task.call)).bind(*task.arguments)
        for before in task.after:
            add(before)

    for stage in stages:
        assert len({task.label for task in stage}) == len(stage)
        for task in stage:
            add(task)
    # checks, the page and its verdicts ask at half the main budget
    assert all(s.half in s.sizes(*which) for s in (study, elsewhere) for which in s.cases().values())
    first, shards = study.kinds[0], range(2 if profile == "paper" else 1)
    assert {f"part({kind}, V3 recovery, 0, {i})" for kind in study.kinds for i in shards} <= there.keys()
    assert "checks(V2 majority)" in there
    other = {task.label for stage in elsewhere.stages() for task in stage}
    assert other < there.keys()
    assert not [label for label in other if label.startswith(("checks", "noise", "six_tests", "stopped"))]
    seeds = {task.arguments[1] for task in there.values() if task.call == "training" and task.arguments[0] == first}
    assert seeds == set(study.seeds)
