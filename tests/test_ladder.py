"""The ladder: which rungs a defence has, that each is the attack it says, and what the upper ones find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import each
from contract import seeded
from torch import Tensor, nn

from advdef.attacks import describe, square, warm_started
from advdef.attacks.attack import norm_of
from advdef.contract import frozen
from advdef.defenses import Defense, Jpeg, Undefended
from advdef.evaluation import Attempt, Outcome, correct, evaluate
from advdef.papers.trn.defence import Restoration
from advdef.papers.trn.ladder import RUNGS, ladder
from advdef.papers.trn.maps import GradientMap, SobelMap
from advdef.papers.trn.models import SIZES, ImageRestorer, Restorer, TwoStreamRestorer
from advdef.papers.trn.smoothing import smoothed

SHAPE, CLASSES, EPS = (1, 8, 8), 4, 0.1
SMALL: dict[str, Any] = {"eps": EPS, "steps": 3, "restarts": 2, "classes": 2, "queries": 5}


def classifier(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES)
        return frozen(nn.Sequential(*parts))


def restoration(maps: Callable[[nn.Module], nn.Module] | None = GradientMap, *, seed: int = 1) -> Restoration:
    """With a restorer that was not trained, and whose last convolution is not zero as in a new one."""
    model = classifier()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        restorer = ImageRestorer(1, **SIZES["XS"]) if maps is None else TwoStreamRestorer(1, 1, **SIZES["XS"])
        nn.init.normal_(restorer.out.weight, std=0.01)
    return Restoration(model, restorer, None if maps is None else maps(model))


def twin() -> GradientMap:
    return GradientMap(smoothed(classifier(), beta=5, temperature=2))


def relatives() -> dict[str, nn.Module]:
    return {"image only": restoration(None, seed=2), "another classifier": classifier(7)}


CASES: dict[str, tuple[Callable[[], Defense], bool, str]] = {
    "TRN": (restoration, True, "R0 R1 R2 R3 R4 R5 R6 R7 R8 R9"),
    "TRN without a twin": (restoration, False, "R0 R1 R2 R3 R5 R6 R7 R8 R9"),
    "Sobel map": (partial(restoration, lambda model: SobelMap()), True, "R0 R1 R2 R3 R5 R6 R7 R8 R9"),
    "image only": (partial(restoration, None), True, "R0 R1 R2 R5 R7 R8 R9"),
    "JPEG": (lambda: Jpeg(classifier()), True, "R0 R1 R2 R5 R7 R8 R9"),
    "none": (lambda: Undefended(classifier()), True, "R0 R2 R5 R7 R8 R9"),
    "Fast-AT": (lambda: Undefended(classifier(), twin=classifier(3)), True, "R0 R2 R5 R7 R8 R9"),
}


def climb(name: str) -> tuple[Defense, dict[str, list[Attempt]]]:
    build, smooth, _ = CASES[name]
    defence = build()
    return defence, ladder(defence, **SMALL, twin=twin() if smooth else None, transfer=relatives())


def pixels(n: int = 7) -> Tensor:
    return torch.rand(n, *SHAPE, generator=seeded())


def labelled(defence: Defense, n: int = 7) -> tuple[Tensor, Tensor]:
    """Images, most of which are right."""
    labels = defence(pixels(n)).argmax(1)
    labels[-1] = (labels[-1] + 1) % CLASSES
    return pixels(n), labels


# What there is


@each("name", CASES)
def test_each_defence_has_the_rungs_that_make_sense_for_it(name: str) -> None:
    defence, rungs = climb(name)
    assert list(rungs) == CASES[name][2].split()
    assert set(rungs) <= set(RUNGS)
    assert "R8" not in ladder(defence, **SMALL)
    assert all(len({attempt.name for attempt in attempts}) == len(attempts) for attempts in rungs.values())


def test_the_rungs_of_trn_are_these_attacks() -> None:
    defence, rungs = climb("TRN")
    described = {rung: {a.name: describe(a.attack) for a in attempts} for rung, attempts in rungs.items()}
    plain, stops = "pgd(steps=3)", "pgd(steps=3, stop_early=True)"
    begun = "attack=pgd(steps=3, loss='margin', stop_early=True)"
    assert described == {
        "R0": {"PGD": plain},
        "R1": {"PGD": stops, "PGD, margin": "pgd(steps=3, loss='margin', stop_early=True)"},
        "R2": {"PGD": stops},
        "R3": {"PGD": stops},
        "R4": {"PGD": stops},
        "R5": {
            "PGD, margin": "pgd(steps=3, loss='margin', stop_early=True)",
            "PGD, dlr": "pgd(steps=3, loss='dlr', stop_early=True)",
            "PGD, margin towards 2": (
                "each_class(attack=pgd(steps=3, loss='margin'), classes=2, stop_early=True)"  # which hands it on
            ),
        },
        "R6": {"decoy": "decoy(network=Sequential, through=_Mapped, stop_early=True, steps=3)"},
        "R7": {
            "APGD, ce": "apgd(steps=3, restarts=2, loss='ce', stop_early=True)",
            "APGD, dlr": "apgd(steps=3, restarts=2, loss='dlr', stop_early=True)",
            "PGD, margin from R0": f"warm_started(source=Sequential, first={plain}, {begun})",
            "PGD, margin from R1": f"warm_started(source=_StraightThrough, first={plain}, {begun})",
        },
        "R8": {"PGD from image only": plain, "PGD from another classifier": plain},
        "R9": {"noise": "uniform_noise(stop_early=True)", "Square-5": "square(queries=5)"},
    }
    sources = [a.attack.keywords["source"] for a in rungs["R7"] if a.attack.func is warm_started]
    assert sources == [defence.classifier, rungs["R1"][0].target]


def slope(target: nn.Module, images: Tensor) -> Tensor:
    point = images.clone().requires_grad_()
    (found,) = torch.autograd.grad((target(point) * torch.arange(CLASSES)).sum(), point)
    return found


def test_the_targets_of_trn_have_the_gradients_that_the_rungs_name() -> None:
    defence, rungs = climb("TRN")
    assert isinstance(defence, Restoration)
    smooth, images = twin(), pixels()
    expected = {
        "R0": slope(defence.classifier, images),
        "R1": slope(defence.classifier, defence.prepare(images).detach()),
        "R2": slope(defence.surrogates()["detached map"], images),
        "R3": slope(defence, images),
        "R4": slope(defence.through(smooth), images),
    }
    for rung, gradient in expected.items():
        for attempt in rungs[rung]:
            assert torch.allclose(slope(attempt.target, images), gradient)
        others = [value for other, value in expected.items() if other != rung]
        assert not any(torch.allclose(gradient, other, rtol=1e-3) for other in others)
    detached = rungs["R2"][0].target
    assert all(attempt.target is detached for attempt in [*rungs["R5"], *rungs["R7"]])
    assert all(attempt.target is defence for attempt in [*rungs["R3"], *rungs["R6"], *rungs["R9"]])


@each("name", ["image only", "JPEG", "none", "Fast-AT"])
def test_without_maps_plain_autograd_is_what_the_rungs_share(name: str) -> None:
    defence, rungs = climb(name)
    assert all(attempt.target is defence for rung in ("R2", "R5", "R7", "R9") for attempt in rungs[rung])


def test_an_adversarially_trained_network_meets_examples_of_its_twin_first() -> None:
    defence, rungs = climb("Fast-AT")
    assert torch.equal(rungs["R0"][0].target(pixels()), classifier(3)(pixels()))
    assert torch.equal(rungs["R2"][0].target(pixels()), classifier()(pixels()))
    begun = [a.attack.keywords["source"] for a in rungs["R7"] if a.attack.func is warm_started]
    assert begun == [rungs["R0"][0].target] == [defence.classifier]


# Where an attack may stop


@each("name", CASES)
def test_attacks_stop_early_just_where_the_model_has_the_values_of_the_defence(name: str) -> None:
    defence, rungs = climb(name)
    with torch.no_grad():
        value = defence(pixels())
        for rung, attempts in rungs.items():
            for attempt in attempts:
                attack = attempt.attack
                if attack.func is warm_started:
                    assert "stop_early" not in attack.keywords["first"].keywords  # it is on another model
                    attack = attack.keywords["attack"]
                judges = rung not in ("R0", "R8")
                bare = rung == "R0" and name == "none"  # the bare classifier is the defence
                assert torch.equal(attempt.target(pixels()), value) == (judges or bare)
                if attack.func is not square:  # which always stops
                    assert attack.keywords.get("stop_early", False) == judges


# What they do


def run(name: str, tmp_path: Path) -> tuple[list[Attempt], Outcome]:
    """Every attempt of every rung on every image that is right."""
    defence, rungs = climb(name)
    images, labels = labelled(defence)
    attempts = [replace(a, name=f"{rung} {a.name}") for rung, found in rungs.items() for a in found]
    return attempts, evaluate(
        defence, attempts, images, labels, eps=EPS, generator=seeded(), exhaustive=True, batch_size=4, resume=tmp_path
    )


@pytest.mark.parametrize("name", ["TRN", "Sobel map", "JPEG", "Fast-AT"])  # the others have rungs of these
def test_every_attempt_runs_and_stays_in_its_budget(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack")
    attempts, outcome = run(name, tmp_path)
    assert {norm_of(attempt.attack) for attempt in attempts} == {"Linf"}
    assert [finding.name for finding in outcome.findings] == [attempt.name for attempt in attempts]
    assert all(int(finding.tried.sum()) == 6 and finding.forwards > 0 for finding in outcome.findings)
    assert not any(" at 0x" in finding.settings for finding in outcome.findings)
    assert float((outcome.adversarial - pixels()).abs().max()) <= EPS + 1e-6
    assert int(outcome.robust.sum()) < 6
    # a ladder that is built anew is the same one: what was kept of it is taken
    _, again = run(name, tmp_path)
    assert [f.seconds for f in again.findings] == [f.seconds for f in outcome.findings]


# A restoration that hides its gradient from whoever takes it for the identity


class Mirror(Restorer):
    """Subtracts 2 (x - 1/2), which leaves 1 - x: a step that the identity finds good is a bad one."""

    def __init__(self, map_channels: int) -> None:
        super().__init__(1, map_channels, 1, 0)

    def forward(self, images: Tensor, maps: Tensor | None = None) -> Tensor:
        return 2 * (images - 0.5)


def brightness() -> nn.Module:
    """Class 1 where the mean of the pixels is above 0.5."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-1.0, 1.0, 0.0])[:, None].expand(-1, 64))
        model[1].bias.copy_(torch.tensor([32.0, -32.0, -100.0]))
    return frozen(model)


@pytest.mark.parametrize("mapped", [True, False])
def test_where_the_identity_leads_astray_autograd_succeeds(mapped: bool) -> None:
    """The mean is 0.06 away from where the class changes: noise of 0.1, whose mean is near 0, does not get there."""
    pytest.importorskip("pyautoattack")
    model = brightness()
    defence = Restoration(model, Mirror(int(mapped)), GradientMap(model) if mapped else None)
    images = 0.5 + torch.tensor([-0.06, 0.06, 0.06]).view(3, 1, 1, 1).expand(3, *SHAPE)
    labels = torch.tensor([1, 0, 0])
    assert bool(correct(defence, images, labels).all())
    left = {
        rung: int(evaluate(defence, attempts, images, labels, eps=EPS, generator=seeded()).robust.sum())
        for rung, attempts in ladder(defence, **SMALL | {"steps": 10}).items()
    }
    # the bare classifier takes dark for bright, so what fools it is right here
    assert left["R0"] == left["R1"] == 3
    assert not any(count for rung, count in left.items() if rung not in ("R0", "R1", "R9"))


def test_where_autograd_finds_no_gradient_the_identity_has_one() -> None:
    _, rungs = climb("JPEG")
    point = pixels().requires_grad_()
    assert not any(attempt.target(point).requires_grad for rung in ("R2", "R5", "R7") for attempt in rungs[rung])
    assert all(bool(slope(attempt.target, pixels()).any()) for attempt in rungs["R1"])
