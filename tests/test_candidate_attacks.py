"""Attacks on defences that prepare the image follow their formulas, and reach what they were made for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attack_table import OFFSETS, PER_CLASS, added, both, led, looked_up, taken_off
from contract import Moved, assert_leaves_no_trace, net, random_batch, seeded, spoiled, tiny, watched
from torch import Tensor, nn

from advdef.attacks import each_class, pgd, straight_through
from advdef.contract import TrainingModeWarning
from advdef.evaluation import correct
from advdef.papers.nip.attacks import candidates, precompensated, two_conditions
from advdef.papers.trn.attacks import decoy

NAN, INF = float("nan"), float("inf")


class Deployed(nn.Module):
    """A defence that shows its network the image plus what it looks up, and tells nothing but the class."""

    def __init__(self, network: nn.Module, offset: Callable[[Tensor, Tensor], Tensor] = looked_up) -> None:
        super().__init__()
        self.network, self.offset = network, offset

    def decide(self, images: Tensor) -> Tensor:
        guess = self.network(images).argmax(1)
        return self.network((images + self.offset(images, guess)).clamp(0, 1)).argmax(1)

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        decision = self.decide(images)
        return 9 * F.one_hot(decision, self.network(images[:1]).shape[1]).to(images)


class Unanimous(Deployed):
    """Takes class 0 unless all candidates are of one other class or, if ``any_class``, of other classes."""

    def __init__(self, network: nn.Module, offsets: Tensor, *, any_class: bool) -> None:
        super().__init__(network)
        self.offsets, self.any_class = offsets, any_class

    def decide(self, images: Tensor) -> Tensor:
        found = torch.stack([self.network(images + offset).argmax(1) for offset in self.offsets])
        fooled = (found > 0).all(0) & ((found == found[0]).all(0) | self.any_class)
        return torch.where(fooled, found[0], 0)


REFUSED: list[tuple[Any, ...]] = [
    *[(attack, {"steps": 0}, "steps and restarts") for attack in (added, both, taken_off, led)],
    *[(attack, {"norm": "L1"}, "Linf, L2") for attack in (added, both, taken_off, led)],
    (added, {"step_size": 0.0}, "step_size"),
    (added, {"loss": "ce"}, "no loss 'ce'; there are sum, worst, agree"),
    (added, {"offsets": OFFSETS[0]}, r"must be \(J, 2, 3, 3\), not \(2, 3, 3\)"),
    (added, {"offsets": OFFSETS[:, :1]}, r"not \(3, 1, 3, 3\)"),
    (added, {"offsets": OFFSETS[:0]}, r"not \(0, 2, 3, 3\)"),
    (added, {"offsets": spoiled(OFFSETS, INF)}, "offsets must be finite"),
    (added, {"sampled": 0}, r"sampled must lie in 1\.\.3"),
    (added, {"sampled": 4}, r"sampled must lie in 1\.\.3, .* not 4"),
    (both, {"offset": lambda x, t: x[:, :1]}, r"\(6, 2, 3, 3\), not \(6, 1, 3, 3\)"),
    (both, {"classes": 0}, "classes must be at least 1, not 0"),
    (taken_off, {"offset": lambda x, t: x[:, :1]}, r"\(6, 2, 3, 3\), not \(6, 1, 3, 3\)"),
    (taken_off, {"shares": ()}, "shares must be finite and not negative"),
    (taken_off, {"shares": (1.0, -0.5)}, "shares must be finite and not negative"),
    (taken_off, {"shares": (NAN,)}, "shares must be finite and not negative"),
    (taken_off, {"shares": (INF,)}, "shares must be finite and not negative"),
    *[(led, {"weight": value}, "weight must be finite and not negative") for value in (-0.1, NAN, INF)],
    *[(led, {"lead": value}, "lead must be finite and not negative") for value in (-0.1, NAN, INF)],
]


def test_bad_options_are_refused() -> None:
    for attack, options, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            attack(net(), *random_batch(), eps=0.1, **options)


# The deployed model only judges


@pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
def test_later_classes_get_what_the_deployed_model_has_right() -> None:
    """Images brighter than 0.5 can be fooled and the others cannot; the network orders the three wrong classes."""

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            bright = (images.flatten(1).mean(1) > 0.5).float()
            return torch.stack([2 - 2 * bright, *[bright] * 3], 1)

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([4.0, 1.0, 3.0, 2.0]))
    asked: list[Tensor] = []

    def offset(points: Tensor, classes: Tensor) -> Tensor:
        asked.append(classes)
        return torch.zeros_like(points)

    images, labels = torch.stack([torch.full((1, 2, 2), v) for v in (0.1, 0.9, 0.2)]), torch.zeros(3).long()
    for attack in (two_conditions, precompensated):
        for classes, order in ((2, [2, 3]), (9, [2, 3, 1])):
            asked.clear()
            attack(Model(), images, labels, eps=0.01, network=network, offset=offset, classes=classes, steps=1)
            assert [x.tolist() for x in asked] == [[order[0]] * 3, *[[t] * 2 for t in order[1:]]]


# Candidates


@pytest.mark.parametrize(("loss", "plain"), [("sum", "ce"), ("worst", "margin")])
def test_one_candidate_without_an_offset_is_pgd(loss: Any, plain: Any) -> None:
    model, (images, labels) = net(), random_batch()
    options: dict[str, Any] = {"eps": 0.1, "steps": 7, "restarts": 2, "step_size": 0.3}
    nothing = torch.zeros(1, 2, 3, 3)
    found = candidates(model, images, labels, network=model, offsets=nothing, loss=loss, **options, generator=seeded())
    assert torch.equal(found, pgd(model, images, labels, loss=plain, **options, generator=seeded()))


def lead(logits: Tensor, target: int) -> Tensor:
    """Of the class over the best other one."""
    return logits[target] - torch.cat([logits[:target], logits[target + 1 :]]).max()


def by_hand(network: nn.Module, points: list[Tensor], value: Callable[[list[Tensor]], Tensor]) -> list[Tensor]:
    """Gradient of a function of the logits of some images, at each of them after it is clipped."""
    leaves = [point.clamp(0, 1).requires_grad_() for point in points]
    found = value([network(leaf[None])[0] for leaf in leaves])
    return [torch.zeros_like(g) if g is None else g for g in torch.autograd.grad(found, leaves, allow_unused=True)]


@pytest.mark.parametrize("loss", ["sum", "worst", "agree"])
def test_the_steps_on_candidates_by_hand(loss: Any) -> None:
    """Image by image and candidate by candidate; the offsets are large, so that many candidates are clipped."""
    network, (images, labels) = net().double(), random_batch(4)
    images, offsets = images.double(), 4 * OFFSETS.double()
    assert bool(((images[:, None] + offsets) > 1).any())

    def value(logits: list[Tensor], label: int, target: int) -> Tensor:
        if loss == "sum":
            return torch.stack([torch.logsumexp(z, 0) - z[label] for z in logits]).sum()
        return torch.stack([-lead(z, label) if loss == "worst" else lead(z, target) for z in logits]).min()

    with watched(model := nn.Sequential(network)) as seen:
        candidates(
            model, images, labels, eps=0.1, network=network, offsets=offsets, loss=loss, steps=3, step_size=0.2,
            generator=seeded(),
        )  # fmt: skip
    points = seen[-5:-1] if loss == "agree" else seen[-4:]  # the last look is at the best of them
    assert not torch.allclose(points[0], points[3])
    for i, label in enumerate(labels.tolist()):
        mean = torch.stack([network((images[i] + o).clamp(0, 1)[None])[0] for o in offsets]).mean(0)
        target = max((k for k in range(4) if k != label), key=mean.tolist().__getitem__)
        judged = partial(value, label=label, target=target)
        for before, after in pairwise(points):
            slope = torch.stack(by_hand(network, [before[i] + o for o in offsets], judged)).sum(0)
            expected = (before[i] + 0.02 * slope.sign()).clamp(images[i] - 0.1, images[i] + 0.1).clamp(0, 1)
            assert torch.allclose(after[i], expected, rtol=0, atol=1e-12)


def two_ways(height: float, *, second: float = 0.0) -> nn.Sequential:
    """Of pixels (a, b), from grey: class 1 asks for a + b > height, class 2 for b - a > height - second."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 1.0]]))
        network[1].bias.copy_(torch.tensor([0.0, -1.0 - height, second - height]))
    return network


def sideways(length: float) -> Tensor:
    return torch.tensor([length, 0.0, -length, 0.0]).double().view(2, 1, 1, 2)


GREY = {"images": torch.full((1, 1, 1, 2), 0.5).double(), "labels": torch.tensor([0]), "eps": 0.1}


def test_the_worst_candidate_decides_where_all_must_be_wrong() -> None:
    """The offsets bring each candidate near to another wrong class: what is better for one is worse for the other."""
    network, offsets = two_ways(0.15), sideways(0.1)
    deployed = Unanimous(network, offsets, any_class=True)
    attack = partial(candidates, deployed, **GREY, network=network, random_start=False)
    for alone in offsets:
        assert bool(correct(deployed, attack(offsets=alone[None], loss="worst"), GREY["labels"]))
    found = attack(offsets=offsets, loss="worst")
    assert not bool(correct(deployed, found, GREY["labels"]))
    # the network tells more than the decision, so the optimum is found: b at its bound, a in the middle
    soft = candidates(
        network, **GREY, network=network, offsets=offsets, loss="worst", steps=200, step_size=0.01, random_start=False
    )
    assert torch.allclose(soft, torch.tensor([0.5, 0.6]).double().view(1, 1, 1, 2), rtol=0, atol=0.002)


def test_candidates_agree_on_the_class_of_the_largest_mean_logit() -> None:
    """They are wrong more easily as two classes; that of the larger mean logit, class 2, wants a dark first pixel."""
    network, offsets = two_ways(0.1, second=0.001), sideways(0.07)
    deployed = Unanimous(network, offsets, any_class=False)
    attack = partial(candidates, deployed, **GREY, network=network, offsets=offsets, random_start=False)
    assert bool(correct(deployed, attack(loss="worst"), GREY["labels"]))
    found = attack(loss="agree")
    with torch.no_grad():
        assert int(deployed(found).argmax()) == 2
    lower = found.flatten()
    assert lower[0] < 0.5 - 0.07
    assert lower[1] > 0.5 + 0.07
    mirrored = candidates(
        Unanimous(network := two_ways(0.1, second=-0.001), offsets, any_class=False), **GREY, network=network,
        offsets=offsets, random_start=False, loss="agree",
    )  # fmt: skip
    assert mirrored.flatten()[0] > 0.5 + 0.07


def test_few_candidates_in_a_pass_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = net().double(), random_batch()
    for loss in ("sum", "worst", "agree"):
        attack = partial(added, model, images.double(), labels, eps=0.1, loss=loss)
        expected = attack(generator=seeded())
        with monkeypatch.context() as patch, watched(network := net().double()) as seen:
            patch.setattr(importlib.import_module("advdef.papers.nip.attacks"), "_FORWARD", 7)
            found = attack(network=network, generator=seeded())
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
        assert {len(x) for x in seen} == {6}  # two images with three candidates each


def test_sampled_candidates_are_drawn_anew_at_each_step() -> None:
    """Each of the offsets has a brightness of its own, by which it is known."""
    network, image, label = net().double(), torch.full((1, 2, 3, 3), 0.4).double(), torch.tensor([0])
    offsets = torch.arange(9).double().view(9, 1, 1, 1).expand(9, 2, 3, 3) / 100
    with watched(network) as seen:
        candidates(
            net().double(), image, label, eps=0.004, network=network, offsets=offsets, sampled=3, steps=20,
            generator=seeded(),
        )  # fmt: skip
    drawn = [frozenset(((x.mean((1, 2, 3)) - 0.4) * 100).round().int().tolist()) for x in seen]
    assert len(drawn) == 20
    assert {len(x) for x in drawn} == {3}
    assert frozenset().union(*drawn) == frozenset(range(9))
    attack = partial(added, net().double(), image, label, eps=0.1, offsets=offsets, random_start=False)
    assert torch.allclose(attack(sampled=9, generator=seeded()), attack(), rtol=0, atol=1e-12)


# Two conditions, and pre-compensation


def test_without_an_offset_both_conditions_are_one() -> None:
    model, (images, labels) = net().double(), random_batch()
    options: dict[str, Any] = {"eps": 0.1, "classes": 1}
    attack = partial(pgd, loss="margin", steps=7)
    expected = each_class(model, images.double(), labels, attack=attack, **options, generator=seeded())
    nothing = {"offset": lambda x, t: torch.zeros_like(x), "network": model}
    found = two_conditions(model, images.double(), labels, steps=7, **nothing, **options, generator=seeded())
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_the_steps_on_two_conditions_by_hand() -> None:
    network, (images, labels) = net().double(), random_batch(4)
    images, bank = images.double(), 3 * PER_CLASS.double()
    asked: list[Tensor] = []

    def offset(points: Tensor, classes: Tensor) -> Tensor:
        asked.append(points)
        return bank[classes] * points.mean((1, 2, 3), keepdim=True)  # of the point, but a constant of the gradient

    with watched(model := nn.Sequential(network)) as seen:
        two_conditions(
            model, images, labels, eps=0.1, network=network, offset=offset, classes=1, steps=3, step_size=0.2,
            generator=seeded(),
        )  # fmt: skip
    points = seen[-5:-1]  # the last look is at the best of them
    assert all(torch.equal(a, b) for a, b in zip(asked, points[:3], strict=True))
    for i, label in enumerate(labels.tolist()):
        clean = network(images[i : i + 1])[0]
        target = max((k for k in range(4) if k != label), key=clean.tolist().__getitem__)
        for before, after in pairwise(points):
            shown = [before[i], before[i] + bank[target] * before[i].mean()]
            slope = sum(by_hand(network, shown, lambda z, t=target: torch.minimum(lead(z[0], t), lead(z[1], t))))
            expected = (before[i] + 0.02 * slope.sign()).clamp(images[i] - 0.1, images[i] + 0.1).clamp(0, 1)
            assert torch.allclose(after[i], expected, rtol=0, atol=1e-12)


def slab(images: Tensor, width: float = 0.1) -> nn.Sequential:
    """Of one pixel: class 1 between 0.5 and 0.5 + width, class 0 below and class 2 above."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 3)).to(images)
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[-1.0], [0.0], [1.0]]))
        network[1].bias.copy_(torch.tensor([0.5, 0.0, -0.5 - width]))
    return network


def pushes_back(length: float) -> Callable[[Tensor, Tensor], Tensor]:
    """From class 1 by a little and from class 2 by a lot, both towards class 0."""
    table = torch.tensor([0.0, -length, -0.3]).double()
    return lambda points, classes: table[classes][:, None, None, None].expand_as(points)


DARK = {"images": torch.full((1, 1, 1, 1), 0.48).double(), "labels": torch.tensor([0]), "eps": 0.2}


def test_two_conditions_where_the_middle_of_a_class_is_pushed_out_of_it() -> None:
    """From 0.55, where the network is surest of class 1, to 0.47: class 0; only above 0.58 it stays in class 1."""
    network, offset = slab(DARK["images"]), pushes_back(0.08)
    deployed = Deployed(network, offset)
    crafted = pgd(network, **DARK, targets=torch.tensor([1]), loss="margin", steps=100, generator=seeded())
    assert network(crafted).argmax(1).tolist() == [1]
    assert bool(correct(deployed, crafted, DARK["labels"]))
    found = two_conditions(deployed, **DARK, network=network, offset=offset, generator=seeded())
    assert 0.58 < float(found) < 0.6
    assert network(found).argmax(1).tolist() == network(found - 0.08).argmax(1).tolist() == [1]
    assert not bool(correct(deployed, found, DARK["labels"]))


def test_half_of_the_offset_is_taken_off_where_the_whole_of_it_is_too_much() -> None:
    """0.55 is pushed out below, and 0.55 + 0.08 is above class 1; 0.55 + 0.04 becomes 0.55 - 0.04."""
    network, offset = slab(DARK["images"]), pushes_back(0.08)
    deployed = Deployed(network, offset)
    attack = partial(precompensated, deployed, **DARK, network=network, offset=offset)
    for shares, survives in (((0.0,), True), ((1.0,), True), ((0.0, 1.0), True), ((0.5,), False), ((0, 0.5, 1), False)):
        found = attack(shares=shares, generator=seeded())
        assert bool(correct(deployed, found, DARK["labels"])) == survives
    assert float(found) == pytest.approx(0.59, abs=0.005)


def test_what_is_submitted_and_the_offset_make_the_crafted_point() -> None:
    """On a linear network x* is a corner of the ball: an offset outwards can be taken off, one inwards cannot."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(18, 2)).double()
    images = 0.3 + 0.4 * random_batch(5)[0].double()
    labels = network(images).argmax(1)
    outwards = (network[1].weight[1] - network[1].weight[0]).sign().view(2, 3, 3)
    away = torch.where(labels == 0, 1, -1).view(5, 1, 1, 1) * outwards
    corner = images + 0.1 * away
    length = 0.15 * torch.rand(5, 2, 3, 3, generator=seeded(2)).double()

    def submitted(offset: Tensor) -> Tensor:
        class Model(nn.Module):
            """Prefers the corner, taken off or not, to the image: counts the pixels that moved."""

            def forward(self, points: Tensor) -> Tensor:
                moved = (points != images).flatten(1).sum(1).double() - 0.5
                return moved[:, None] * torch.where(F.one_hot(labels, 2) > 0, -1, 1)

        return precompensated(
            Model(), images, labels, eps=0.1, network=network, offset=lambda x, t: offset, shares=(1.0,), classes=1,
            steps=20, random_start=False,
        )  # fmt: skip

    assert torch.allclose(submitted(length * away) + length * away, corner, rtol=0, atol=1e-12)
    assert torch.allclose(submitted(-length * away), corner, rtol=0, atol=1e-12)


def test_the_offset_is_asked_once_at_the_crafted_point() -> None:
    network, asked = slab(DARK["images"]), []

    def offset(points: Tensor, classes: Tensor) -> Tensor:
        asked.append((float(points), classes.tolist()))
        return torch.zeros_like(points)

    precompensated(network, **DARK, network=network, offset=offset, classes=1, generator=seeded())
    assert asked == [(pytest.approx(0.55, abs=0.005), [1])]


# Decoys


def test_a_decoy_that_weighs_nothing_is_pgd_on_the_margin_of_the_stand_in() -> None:
    stand_in, (images, labels) = Moved(PER_CLASS[0], net()).eval(), random_batch()
    options: dict[str, Any] = {"eps": 0.1, "steps": 7, "restarts": 2, "step_size": 0.3}
    attack = partial(decoy, stand_in, images, labels, network=tiny(3), through=stand_in, **options)
    expected = pgd(stand_in, images, labels, loss="margin", **options, generator=seeded())
    assert torch.equal(attack(weight=0.0, generator=seeded()), expected)
    assert not torch.equal(attack(weight=1.0, generator=seeded()), expected)


def test_the_steps_of_a_decoy_by_hand() -> None:
    network, stand_in, (images, labels) = net().double(), tiny(3).double(), random_batch(4)
    images = images.double()
    with watched(model := nn.Sequential(network)) as seen:
        decoy(
            model, images, labels, eps=0.1, network=network, through=stand_in, weight=0.7, lead=0.03, steps=3,
            step_size=0.2, generator=seeded(),
        )  # fmt: skip
    points, held = seen[-4:], []
    for i, label in enumerate(labels.tolist()):
        for before, after in pairwise(points):
            (forwards,) = by_hand(stand_in, [before[i]], lambda z, k=label: -lead(z[0], k))
            (backwards,) = by_hand(network, [before[i]], lambda z, k=label: -lead(z[0], k))
            held.append(bool(-lead(network(before[i : i + 1])[0], label) > -0.03))
            slope = forwards - 0.7 * backwards * held[-1]
            expected = (before[i] + 0.02 * slope.sign()).clamp(images[i] - 0.1, images[i] + 0.1).clamp(0, 1)
            assert torch.allclose(after[i], expected, rtol=0, atol=1e-12)
    assert 0 < sum(held) < len(held)


def plane(weight: tuple[float, float], height: float) -> nn.Sequential:
    """Of pixels (a, b), from grey: class 1 where weight @ (a, b) > height, else class 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0, 0.0], weight]))
        network[1].bias.copy_(torch.tensor([0.0, -sum(weight) / 2 - height]))
    return network


class Undoing(nn.Module):
    """Is fooled with the stand-in, unless its network's lead for class 0 is small, which gives the attack away."""

    def __init__(self, network: nn.Module, stand_in: nn.Module, needed: float) -> None:
        super().__init__()
        self.network, self.stand_in, self.needed = network, stand_in, needed

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        looks_clean = lead(self.network(images).T, 0) > self.needed
        return 9 * F.one_hot(self.stand_in(images).argmax(1) * looks_clean, 2).to(images)


def test_a_decoy_fools_what_knows_an_attack_by_its_network() -> None:
    """From grey by (u, v): the network is wrong where u + v > 0.05, its stand-in where u + 3 v > 0.15."""
    network, stand_in = plane((1.0, 1.0), 0.05), plane((1.0, 3.0), 0.15)
    options: dict[str, Any] = {**GREY, "steps": 100, "random_start": False}
    plain = pgd(stand_in, **options, loss="margin")
    assert network(plain).argmax(1).tolist() == stand_in(plain).argmax(1).tolist() == [1]
    for needed, weight, claimed, survives in (
        (0.0, 2.0, 0.03, False),
        (0.0, 0.0, 0.03, True),  # every point on the way of plain PGD is given away
        (0.02, 2.0, 0.03, False),
        (0.02, 2.0, 0.0, True),
    ):
        deployed = Undoing(network, stand_in, needed)
        ignorant = pgd(straight_through(deployed, stand_in), **options, loss="margin")
        assert bool(correct(deployed, ignorant, GREY["labels"]))
        found = decoy(deployed, **options, network=network, through=stand_in, weight=weight, lead=claimed)
        assert bool(correct(deployed, found, GREY["labels"])) == survives
        if not survives:
            assert network(found).argmax(1).tolist() == [0]
            assert stand_in(found).argmax(1).tolist() == [1]


def test_a_decoy_ends_where_the_stand_in_is_surest_and_the_network_has_its_lead() -> None:
    """u + 3 v is largest at v = 0.1 and, for a lead of 0.02 on u + v < 0.05, at u = -0.07."""
    network, stand_in = plane((1.0, 1.0), 0.05), plane((1.0, 3.0), 0.15)
    with watched(judge := nn.Sequential(stand_in)) as seen:
        decoy(
            judge, **GREY, network=network, through=stand_in, weight=2.0, lead=0.02, steps=200, step_size=0.01,
            random_start=False,
        )  # fmt: skip
    assert torch.allclose(seen[-1], torch.tensor([0.43, 0.6]).double().view(1, 1, 1, 2), rtol=0, atol=0.003)


def test_a_stand_in_is_left_as_it_was() -> None:
    found = assert_leaves_no_trace(
        lambda stand_in, *batch, **options: led(net(), *batch, through=stand_in, **options),
        net(), *random_batch(), eps=0.1,
    )  # fmt: skip
    assert torch.equal(found, led(net(), *random_batch(), through=net(), eps=0.1, generator=seeded()))
    stand_in = net().train()
    with pytest.warns(TrainingModeWarning), pytest.raises(ValueError, match="steps and restarts"):
        led(net(), *random_batch(), through=stand_in, eps=0.1, steps=0)
    assert stand_in.training
