"""Attacks with equal numbers of passes: nobody spends more than is allowed, and the areas are what they are called."""

from __future__ import annotations

from functools import partial
from math import log

import pytest
import torch
from contract import Pair, seeded
from torch import Tensor, nn

from advdef.attacks import fgsm, pgd
from advdef.attacks.noise import uniform_noise
from advdef.evaluation import correct
from advdef.norms import BallNorm
from advdef.peers.budgets import Contestant, Spent, contestants, equal_budgets, local_optimality, strongest

EPS: dict[BallNorm, float] = {"Linf": 0.09, "L2": 1.4}
BUDGETS = (24, 80)


@pytest.fixture(scope="module")
def found(_trained_network: nn.Module, digits: object) -> list[Spent]:
    images, labels = digits.test.float_images()[:16], digits.test.labels[:16]  # type: ignore[attr-defined]
    return equal_budgets(
        _trained_network.eval(), images, labels, contestants(10), eps=EPS, budgets=BUDGETS, generator=seeded()
    )


def test_nobody_makes_more_passes_than_are_allowed(found: list[Spent]) -> None:
    assert {one.attack.library for one in found} == {"advdef", "foolbox", "pyautoattack"}
    for one in found:
        made = dict(zip(one.budgets, one.passes.tolist(), strict=True))
        # a library may look at an image or two more: at the first to count the classes, at all to be sure in the end
        allowed = 0.25 if one.attack.library == "advdef" else 3
        assert all(most / 4 < spent <= most + allowed for most, spent in made.items()), (one.attack.name, made)


def test_more_passes_leave_fewer_images_and_the_best_of_ours_keep_up(found: list[Spent]) -> None:
    for norm in EPS:
        ours, others = (
            min(
                float(one.left[-1])
                for one in found
                if one.attack.norm == norm and (one.attack.library == "advdef") is own
            )
            for own in (True, False)
        )
        assert ours <= others + 1 / 16
        assert 0 < ours < 1
    assert all(float(one.left[1]) <= float(one.left[0]) + 1 / 16 for one in found)


def test_an_image_counts_where_it_is_near_enough(network: nn.Module, batch: Pair) -> None:
    images, labels = batch[0][:30], batch[1][:30]
    right = correct(network, images, labels)

    def large(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        assert eps == float("inf")
        return pgd(model, images, labels, eps=0.3, steps=10, generator=generator)

    far = Contestant("far", "advdef", "Linf", lambda most: partial(large), closest=True)
    for eps, left in ((0.2, 1.0), (0.31, 0.0)):
        (one,) = equal_budgets(network, images, labels, [far], eps={"Linf": eps}, budgets=(10,), generator=seeded())
        assert one.robust.shape == (1, int(right.sum()))
        assert abs(float(one.left[0]) - left) < 0.15


def test_passes_are_counted(network: nn.Module, batch: Pair) -> None:
    one_step = Contestant("FGSM", "advdef", "Linf", lambda most: partial(fgsm))
    noise = Contestant("noise", "advdef", "Linf", lambda most: partial(uniform_noise, draws=most))
    found = equal_budgets(network, *batch, [one_step, noise], eps=EPS, budgets=(4, 7), generator=seeded())
    assert found[0].passes.tolist() == [4.0, 4.0]  # the first look, the step there and back, and where it leads
    assert found[1].passes.tolist() == [5.0, 8.0]
    with pytest.raises(ValueError, match="wrong on all images"):
        equal_budgets(network, batch[0], (batch[1] + 1) % 10, [noise], eps=EPS, budgets=(4,), generator=seeded())


def made(name: str, library: str, *rows: list[int]) -> Spent:
    contestant = Contestant(name, library, "Linf", lambda most: partial(fgsm))
    robust = torch.tensor(rows, dtype=torch.bool)
    return Spent(contestant, 0.1, (10, 100, 1000)[: len(rows)], torch.ones(len(rows)), robust)


def test_local_optimality_by_hand() -> None:
    # the envelope leaves 2, 1 and 1 of 4 images
    best, slow, never = (
        made("best", "advdef", [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]),
        made("slow", "foolbox", [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]),
        made("never", "foolbox", [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]),
    )
    whole = log(10) * ((0.5 + 0.75) / 2 + 0.75)
    beyond = log(10) * ((0.5 + 0.25) / 2 + 0.25 / 2)
    assert local_optimality([best, slow, never]) == pytest.approx([1.0, 1 - beyond / whole, 0.0])
    assert all(value != value for value in local_optimality([never]))


def test_the_strongest_by_hand() -> None:
    one, two = made("one", "advdef", [1, 1, 0, 0], [1, 0, 0, 0]), made("two", "advdef", [1, 1, 1, 0], [0, 1, 0, 0])
    three = made("three", "foolbox", [0, 0, 0, 0], [1, 1, 0, 0])
    assert strongest([one, two, three]) == [
        {"norm": "Linf", "passes": "10", "best of ours": "one", "ours leave, %": "50.0",
         "best of others": "three", "others leave, %": "0.0"},
        {"norm": "Linf", "passes": "100", "best of ours": "one, two", "ours leave, %": "25.0",
         "best of others": "three", "others leave, %": "50.0"},
    ]  # fmt: skip
    assert strongest([one])[0]["best of others"] == "–"
