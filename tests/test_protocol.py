"""The three attackers of every page: what each runs, and that the adaptive one has all that the others found."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdef.attacks import carlini_wagner, pgd, suites
from advdef.data import Dataset
from advdef.defenses import BitDepth, Undefended
from advdef.evaluation import Outcome, direct, evaluate, three_attackers, three_curves
from advdef.papers.nip.baselines import NoiseVote

CHEAP: dict[str, Any] = {"steps": 4, "queries": 20, "rounds": 0}


@pytest.fixture
def asked(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.test.float_images()[:30], digits.test.labels[:30]


def names(outcome: Outcome) -> list[str]:
    return [finding.name for finding in outcome.findings]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_attacker_has_more_ways_and_the_last_goes_on(network: nn.Module, asked: tuple[Tensor, Tensor]) -> None:
    ordinary, powerful = list(suites.cleverhans()), list(suites.strong(steps=4))
    replayed = [f"{name} from twin" for name in powerful]
    more = {"again": partial(pgd, steps=2)}
    for defence, through in {
        BitDepth(network, 3): "straight-through",
        Undefended(network): "defence",  # the direct attacker has had the strong ones
    }.items():
        found = three_attackers(
            defence,
            *asked,
            eps=0.05,
            generator=seeded(),
            transfer={"twin": network},
            more=more,
            **(CHEAP | {"rounds": 1}),
        )
        assert names(found["oblivious"]) == ordinary
        assert names(found["direct"]) == ordinary + powerful
        strong = [f"{name} through {through}" for name in powerful if through != "defence"]
        thorough = [f"{name} through {through}" for name in suites.thorough(steps=8)]
        dear = [*thorough, "Square-200"]
        assert names(found["adaptive"]) == [*strong, "noise", "again", "Square-20", *replayed, *dear]
        assert str(found["adaptive"].search).startswith(("converged at 8 steps, 5 restarts, 200 queries", "still"))


@pytest.mark.parametrize("random", [False, True])
def test_the_adaptive_attacker_has_what_the_others_found(
    network: nn.Module, asked: tuple[Tensor, Tensor], random: bool
) -> None:
    defence = NoiseVote(network, 0.1, draws=2) if random else Undefended(network)
    found = three_attackers(defence, *asked, eps=0.1, generator=seeded(), draws=3, **CHEAP)
    left = {threat: outcome.robust.double().mean() for threat, outcome in found.items()}
    assert left["adaptive"] <= min(left["oblivious"], left["direct"]) + (0.1 if random else 0)
    if not random:
        assert not bool((found["adaptive"].robust & ~found["direct"].robust).any())


def test_a_curve_falls_and_one_budget_is_a_point_of_it(network: nn.Module, asked: tuple[Tensor, Tensor]) -> None:
    curves = three_curves(Undefended(network), *asked, budgets=(0.1, 0.02), generator=seeded(), **CHEAP)
    for curve in curves.values():
        assert not bool((curve[0.1].robust & ~curve[0.02].robust).any())
    alone = three_attackers(Undefended(network), *asked, eps=0.02, generator=seeded(), **CHEAP)
    assert torch.equal(alone["oblivious"].robust, curves["oblivious"][0.02].robust)


def test_the_first_two_are_what_evaluate_gives(network: nn.Module, asked: tuple[Tensor, Tensor]) -> None:
    defence = BitDepth(network, 2)
    found = three_attackers(defence, *asked, eps=0.1, generator=seeded(3), **CHEAP)
    draws = seeded(3)
    torch.randint(2**62, (), generator=draws)  # the seed of the oblivious attacker
    alone = evaluate(
        defence,
        direct(defence, {**suites.cleverhans(), **suites.strong(steps=4, restarts=1)}),
        *asked,
        eps=0.1,
        generator=draws,
    )
    assert torch.equal(found["direct"].adversarial, alone.adversarial)


def test_the_adaptive_attacker_keeps_what_was_known(network: nn.Module, asked: tuple[Tensor, Tensor]) -> None:
    defence, budgets = BitDepth(network, 3), (0.02, 0.05, 0.1)
    curves = partial(three_curves, defence, *asked, budgets=budgets, **CHEAP)
    alone = curves(generator=seeded())
    one = evaluate(defence, direct(defence, "quick"), *asked, eps=0.05, generator=seeded())
    every_second = replace(one, robust=one.robust & (torch.arange(30) % 2 == 0))  # as if something had broken them
    found = curves(generator=seeded(), known=[{0.05: one}, {0.05: every_second}])
    for threat in ("oblivious", "direct"):
        assert all(torch.equal(found[threat][eps].robust, alone[threat][eps].robust) for eps in budgets)
    assert torch.equal(found["adaptive"][0.02].robust, alone["adaptive"][0.02].robust)
    for eps in (0.05, 0.1):
        assert not bool((found["adaptive"][eps].robust & ~every_second.robust).any())
        assert not any(
            bool((finding.tried & ~every_second.robust).any()) for finding in found["adaptive"][eps].findings
        )
        assert bool(alone["adaptive"][eps].robust[1::2].any())
    with pytest.raises(ValueError, match="another defence"):
        three_curves(Undefended(network), *asked, budgets=budgets, generator=seeded(), known=[{0.05: one}], **CHEAP)


def test_without_queries_no_gradient_free_search(network: nn.Module, asked: tuple[Tensor, Tensor]) -> None:
    found = three_attackers(Undefended(network), *asked, eps=0.1, generator=seeded(), steps=3, queries=0, rounds=0)
    assert not any("Square" in name for name in names(found["adaptive"]))


def test_every_attack_is_in_the_norm_that_was_asked_for(network: nn.Module, asked: tuple[Tensor, Tensor]) -> None:
    images, labels = asked
    found = three_attackers(Undefended(network), images, labels, eps=0.7, norm="L2", generator=seeded(), **CHEAP)
    for outcome in found.values():
        assert outcome.norm == "L2"
        assert float((outcome.adversarial - images).flatten(1).norm(dim=1).max()) <= 0.7 * (1 + 1e-5)
    with pytest.raises(ValueError, match="L2"):
        three_attackers(
            Undefended(network), images, labels, eps=0.1, generator=seeded(),
            more={"CW": partial(carlini_wagner, steps=2)}, **CHEAP,
        )  # fmt: skip
