"""A search that goes on by need: nearest images first, in portions, twice the effort, until nothing breaks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdef.data import Dataset
from advdef.defenses import Undefended
from advdef.evaluation import Attempt, Outcome, evaluate, three_attackers, three_curves
from advdef.evaluation.escalation import escalate, nearest_targets
from advdef.evaluation.outcomes import SearchEffort, SearchEnd

EPS = 0.6


class Planted(nn.Module):
    """Right for class 0 by a margin that is the mean of the last row, unless the first pixel is 1."""

    def forward(self, images: Tensor) -> Tensor:
        sure = images[:, :, 1].mean((1, 2)) + 0.01
        return torch.stack([sure, torch.where(images[:, 0, 0, 0] == 1, 2.0, 0.0) * sure], 1)


IMAGES = (torch.arange(12)[:, None, None, None] / 24).expand(-1, 1, 2, 2) + 0.42
LABELS = torch.zeros(12, dtype=torch.int64)
DEFENCE = Undefended(Planted().eval())


def brighten(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, below: float, generator: torch.Generator
) -> Tensor:
    """Set the first pixel of the images that are darker than ``below`` to 1: all that it takes."""
    found = images.clone()
    found[images.mean((1, 2, 3)) < below, 0, 0, 0] = 1
    return found


def darken(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, by: float, generator: torch.Generator
) -> Tensor:
    return images - by * eps


def searched(fall: dict[int, int], *, images: Tensor = IMAGES, **options: int) -> tuple[Outcome, list[SearchEffort]]:
    """The end of a search whose attack, with so many steps, breaks images as dark as the first so many; its rounds."""
    asked = []

    def attempts(effort: SearchEffort) -> list[Attempt]:
        asked.append(effort)
        below = float(IMAGES[fall.get(effort.steps, 0) - 1].mean()) + 1e-3 if effort.steps in fall else 0.0
        return [Attempt(f"brighten {effort.steps}", partial(brighten, below=below), DEFENCE.network)]

    nothing = [Attempt("nothing", partial(brighten, below=0.0), DEFENCE.network)]
    first = evaluate(DEFENCE, nothing, images, LABELS, eps=EPS, generator=torch.Generator().manual_seed(1))
    settings = {"rounds": 3, "portion": 2} | options
    found = escalate(DEFENCE, first, attempts, images, LABELS, effort=SearchEffort(10, 5, 100), seed=1, **settings)
    return found, asked


def test_what_breaks_nothing_at_once_ends_the_search_at_one_portion() -> None:
    found, asked = searched({})
    assert asked == [SearchEffort(10, 5, 100)]
    assert found.search == SearchEnd(SearchEffort(10, 5, 100), images=2, broke=0)
    assert str(found.search) == "converged at 10 steps, 5 restarts, 100 queries: broke none of the nearest 2"
    # the darkest images are nearest to breaking
    assert found.findings[-1].tried.tolist() == [True] * 2 + [False] * 10


def test_where_a_portion_breaks_the_next_one_and_twice_the_effort_follow() -> None:
    found, asked = searched({10: 3, 20: 5})
    assert asked == [SearchEffort(10, 5, 100), SearchEffort(20, 10, 200), SearchEffort(40, 20, 400)]
    tried = {finding.name: int(finding.tried.sum()) for finding in found.findings}
    # at 10 steps three of six images fall, at 20 two of the next four, at 40 none of the two that are nearest then
    assert tried == {"nothing": 12, "brighten 10": 6, "brighten 20": 4, "brighten 40": 2}
    assert found.robust.tolist() == [False] * 5 + [True] * 7
    assert found.search is not None
    assert found.search.converged


def test_a_search_at_its_limit_is_not_called_converged() -> None:
    found, asked = searched({10: 1, 20: 12}, rounds=2)
    assert len(asked) == 2
    assert found.search == SearchEnd(SearchEffort(20, 10, 200), images=11, broke=11)
    assert str(found.search) == "still falling at 20 steps, 10 restarts, 200 queries: broke 11 of 11"


def test_without_rounds_or_images_there_is_nothing_to_say() -> None:
    assert searched({}, rounds=0)[0].search is None
    assert str(searched({10: 12}, portion=12)[0].search) == "nothing was left"


def test_searches_of_parts_are_one_search() -> None:
    bright = torch.full_like(IMAGES, 0.95)
    (late, _), (soon, _) = searched({10: 1}), searched({10: 1}, images=bright)
    together = Outcome.joined([late, soon])
    assert together.search == SearchEnd(SearchEffort(20, 10, 200), images=4, broke=0, at_most=True)
    assert {f.name: int(f.tried.sum()) for f in together.findings} == {
        "nothing": 24, "brighten 10": 6, "brighten 20": 2,
    }  # fmt: skip
    assert together.margin is not None
    assert len(together.robust) == len(together.margin) == 24
    falling, none = searched({10: 12}, rounds=1)[0], searched({10: 12}, rounds=1, images=bright)[0]
    assert str(Outcome.joined([none, falling]).search) == (
        "still falling at 10 steps, 5 restarts, 100 queries: broke 12 of 14"
    )
    assert Outcome.joined([soon, searched({}, rounds=0)[0]]).search is None


def test_the_search_goes_through_the_models_that_brought_most_images_nearest() -> None:
    models = {by: Planted().eval() for by in (0.1, 0.3, 0.2)}
    attempts = [Attempt(f"by {by}", partial(darken, by=by), model) for by, model in models.items()]
    outcome = evaluate(
        DEFENCE, attempts, IMAGES, LABELS, eps=EPS, generator=torch.Generator().manual_seed(1), exhaustive=True
    )
    assert nearest_targets(outcome, attempts, 1) == [models[0.3]]
    assert nearest_targets(outcome, attempts, 3) == list(models.values())
    assert outcome.margin == pytest.approx(0.3 * EPS - IMAGES.mean((1, 2, 3)) - 0.01)


class Masked(nn.Module):
    """A network whose gradient is cut off."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.detach())
        return logits + 0 * images.sum((1, 2, 3))[:, None]


@pytest.mark.filterwarnings("ignore:no gradient")
def test_a_masked_gradient_makes_square_go_on(network: nn.Module, digits: Dataset) -> None:
    asked = digits.test.float_images()[:20], digits.test.labels[:20]
    masked = Undefended(Masked(network).eval())
    judged = partial(three_attackers, masked, *asked, eps=0.15, steps=2, queries=10)
    short = judged(rounds=0, generator=torch.Generator().manual_seed(0))["adaptive"]
    found = judged(rounds=3, generator=torch.Generator().manual_seed(0))["adaptive"]
    broke = {f.name: int(f.broken.sum()) for f in found.findings if f.name.startswith("Square")}
    assert list(broke) == ["Square-10", "Square-100", "Square-200", "Square-400"][: len(broke)]
    assert broke["Square-100"] > 0
    assert int(found.robust.sum()) == int(short.robust.sum()) - sum(list(broke.values())[1:])


@pytest.mark.filterwarnings("ignore:no gradient")
def test_budgets_that_decide_nothing_get_one_round(network: nn.Module, digits: Dataset) -> None:
    images, labels = digits.test.float_images()[:10], digits.test.labels[:10]
    masked = Undefended(Masked(network).eval())

    def squares(**options: Any) -> dict[float, list[str]]:
        found = three_curves(
            masked, images, labels, budgets=(0.1, 0.15), steps=1, queries=10, rounds=2,
            generator=torch.Generator().manual_seed(0), **options,
        )["adaptive"]  # fmt: skip
        return {eps: [f.name for f in o.findings if f.name.startswith("Square")] for eps, o in found.items()}

    everywhere, decided = squares(), squares(decisive=0.15)
    assert decided[0.1] == ["Square-10", "Square-100"] == everywhere[0.1][:2]
    assert "Square-200" in everywhere[0.1]
    assert "Square-200" in decided[0.15]
