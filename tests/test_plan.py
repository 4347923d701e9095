"""What would decide the claims that runs could not."""

from __future__ import annotations

from typing import Any

import torch

from advdef.book.plan import plan, plan_lines
from advdef.claims import Claim, Condition, decide
from advdef.evaluation import Results

CLAIM = Claim("NIP-9", "nip", "It holds.", "paper")
ROW = {"attack": "PGD", "seconds": 60.0, "part": "worst", "dataset": "cifar10", "defence": "NIP"}


def record(*conditions: Condition, test_images: int = 10_000, cached: float = 0.0) -> dict[str, Any]:
    facts = {"wall_seconds": 100.0, "test_images": test_images, "cached": {"entries": 1, "seconds": cached}}
    return {
        "paper": "nip", "dataset": "cifar10", "provenance": facts, "results": Results([ROW]),
        "verdicts": [decide(CLAIM, "cifar10", conditions).as_record()],
    }  # fmt: skip


def hits(*right: int, n: int = 100) -> torch.Tensor:
    """Hits of networks, so many of n."""
    return torch.stack([torch.arange(n) < count for count in right])


UNSURE = Condition.compare("lead", hits(53)[0], hits(50)[0].flip(0))
SURE = Condition.compare("lead", hits(90)[0], hits(10)[0])


def test_a_claim_that_lacks_images_costs_longer_attacks_and_no_longer_training() -> None:
    (step,) = plan([record(SURE, UNSURE)])
    assert UNSURE.needed_images is not None
    assert (step.claim, step.images, step.needed_images, step.seeds) == ("NIP-9", 100, UNSURE.needed_images, 1)
    assert step.seconds == round(40 + 60 * UNSURE.needed_images / 100)
    assert step.possible
    assert f"{UNSURE.needed_images:,} images (now 100); the page then takes about" in plan_lines([step])


def test_a_claim_that_lacks_networks_costs_the_whole_page_for_each() -> None:
    unsure = Condition.compare("lead", hits(50, 60, 55, n=2000), hits(50, 50, 50, n=2000).roll(0), margin=0.002)
    (step,) = plan([record(unsure, cached=200.0)])
    assert unsure.needed_seeds is not None
    assert step.needed_seeds == unsure.needed_seeds
    assert step.seconds is not None
    assert step.seconds >= round(300 * unsure.needed_seeds / 3)


def test_what_no_data_set_is_large_enough_for_comes_last_and_says_so() -> None:
    near = Condition.compare("lead", hits(53)[0], hits(50)[0].flip(0), margin=0.15)
    small, large = record(UNSURE, test_images=500), record(near)
    assert [step.possible for step in plan([small, large])] == [True, False]
    assert "there are 500 test images, so this data set cannot decide it" in plan_lines(plan([small]))
    assert plan([small])[0].as_json()["possible"] is False


def test_decided_claims_need_no_plan_and_what_is_unknown_is_not_guessed() -> None:
    assert plan([record(SURE)]) == []
    nothing = Condition.half_given_back("PGD", hits(9)[0], bare=hits(9)[0], clean=hits(9)[0])
    (step,) = plan([record(nothing)])
    assert step.seconds is None
    assert not step.possible
    assert "nothing was taken" in plan_lines([step])


def test_the_number_that_needs_most_is_the_one_that_is_planned() -> None:
    many = Condition.compare("clean", hits(5030, n=9000)[0], hits(5000, n=9000)[0].flip(0), -0.002, margin=0.01)
    (step,) = plan([record(SURE, many)])
    assert many.needed_images is not None
    assert (step.images, step.needed_images) == (9000, many.needed_images)
