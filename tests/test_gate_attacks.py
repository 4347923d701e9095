"""Attacks on a defence with a detector reach their optimum; R+FGSM follows its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attack_table import apart, branched, quiet
from contract import assert_leaves_no_trace, net, random_batch, seeded, tiny, watched
from torch import Tensor, nn

from advdef.attacks import margin, pgd, rfgsm
from advdef.contract import TrainingModeWarning
from advdef.evaluation import correct
from advdef.norms import size
from advdef.papers.snn.attacks import both_branches, unnoticed


def test_every_branch_is_left_as_it_was() -> None:
    for place in (0, 1):

        def through(branch: nn.Module, *batch: Tensor, place: int = place, **options: Any) -> Tensor:
            branches = [net(), net()]
            branches[place] = branch
            return both_branches(net(), *batch, branches=branches, steps=6, **options)

        found = assert_leaves_no_trace(through, net(), *random_batch(), eps=0.1)
        assert torch.equal(found, through(net(), *random_batch(), eps=0.1, generator=seeded()))
        branch = net().train()
        with pytest.warns(TrainingModeWarning), pytest.raises(ValueError, match="steps and restarts"):
            both_branches(net(), *random_batch(), eps=0.1, branches=[branch], steps=0)
        assert branch.training


REFUSED: list[tuple[Any, ...]] = [
    *[(attack, {"steps": 0}, "steps and restarts") for attack in (branched, quiet)],
    *[(attack, {"step_size": 0.0}, "step_size") for attack in (branched, quiet)],
    *[(attack, {"norm": "L1"}, "Linf, L2") for attack in (branched, quiet)],
    (branched, {"branches": ()}, "there must be a branch"),
    (quiet, {"weight": -0.1}, r"weight must be finite and not negative, not -0\.1"),
    (quiet, {"weight": math.nan}, "weight must be finite and not negative, not nan"),
    (quiet, {"weight": math.inf}, "weight must be finite and not negative, not inf"),
    (quiet, {"enough": 0.0}, r"enough must be positive, not 0\.0"),
    (quiet, {"enough": -1.0}, r"enough must be positive, not -1\.0"),
    (quiet, {"enough": math.nan}, "enough must be positive, not nan"),
]


def test_bad_options_are_refused() -> None:
    for attack, options, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            attack(net(), *random_batch(), eps=0.1, **options)


# The deployed model only judges


class Decided(nn.Module):
    """Tells nothing but the class that a function decides on, and refuses to be asked for a gradient."""

    def __init__(self, decide: Callable[[Tensor], Tensor], classes: int = 2) -> None:
        super().__init__()
        self.decide, self.classes = decide, classes

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return 9 * F.one_hot(self.decide(images).long(), self.classes).to(images)


# Steps by hand


def lead(logits: Tensor, label: int) -> Tensor:
    """Of the best wrong class over the label."""
    return torch.cat([logits[:label], logits[label + 1 :]]).max() - logits[label]


def gradient(value: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    leaf = point[None].clone().requires_grad_()
    return torch.autograd.grad(value(leaf), leaf)[0][0]


def follows(points: list[Tensor], images: Tensor, value: Callable[..., Tensor], labels: list[int]) -> None:
    """Each of the points is one step of 0.02 from the one before, along the sign of the gradient of a value."""
    for i, label in enumerate(labels):
        for before, after in pairwise(points):
            slope = gradient(partial(value, label=label), before[i])
            expected = (before[i] + 0.02 * slope.sign()).clamp(images[i] - 0.1, images[i] + 0.1).clamp(0, 1)
            assert torch.allclose(after[i], expected, rtol=0, atol=1e-12)


def test_the_steps_on_both_branches_by_hand() -> None:
    first, second, third, (images, labels) = net().double(), tiny(3).double(), tiny(4).double(), random_batch(6)
    images, smallest = images.double(), set()
    with watched(model := nn.Sequential(net().double())) as seen:
        both_branches(
            model, images, labels, eps=0.1, branches=(first, second, third), steps=3, step_size=0.2, generator=seeded()
        )

    def value(x: Tensor, label: int) -> Tensor:
        leads = [lead(branch(x)[0], label) for branch in (first, second, third)]
        smallest.add(min(range(3), key=lambda k: leads[k].item()))
        return min(leads)

    follows(seen[-4:], images, value, labels.tolist())
    assert len(smallest) > 1
    assert not torch.equal(seen[-4], images)  # a random start


def test_the_steps_unnoticed_by_hand() -> None:
    network, other, (images, labels) = net().double(), tiny(3).double(), random_batch(8)
    images, seen_terms = images.double(), []

    def distance(x: Tensor) -> Tensor:
        return other(x).softmax(1)[:, 0]

    threshold, enough = float(distance(images).detach().median()), 0.02
    with watched(model := nn.Sequential(network)) as seen:
        unnoticed(
            model, images, labels, eps=0.1, network=network, distance=distance, threshold=threshold, weight=0.7,
            enough=enough, steps=4, step_size=0.2, generator=seeded(),
        )  # fmt: skip

    def value(x: Tensor, label: int) -> Tensor:
        fooled, alarm = lead(network(x)[0], label), distance(x)[0] - threshold
        seen_terms.append((bool(fooled < enough), bool(alarm > 0)))
        parts = [0 * x.sum()]
        if fooled < enough:
            parts.append(fooled)
        if alarm > 0:
            parts.append(-0.7 * alarm)
        return torch.stack(parts).sum()

    follows(seen[-5:], images, value, labels.tolist())
    assert len(set(seen_terms)) == 4


# The optimum where it is known: images of two pixels, which move from grey by (u, v)


GREY: dict[str, Any] = {"images": torch.full((1, 1, 1, 2), 0.5).double(), "labels": torch.tensor([0]), "eps": 0.1}
FINE: dict[str, Any] = {**GREY, "steps": 60, "step_size": 0.02, "random_start": False}


def plane(weight: tuple[float, float], height: float) -> nn.Sequential:
    """Class 1 where weight @ (u, v) > height, else class 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0, 0.0], weight]))
        network[1].bias.copy_(torch.tensor([0.0, -sum(weight) / 2 - height]))
    return network


def at(u: float, v: float) -> Tensor:
    return torch.tensor([0.5 + u, 0.5 + v]).double().view(1, 1, 1, 2)


def test_both_branches_end_where_the_worse_one_is_best() -> None:
    """2 u + v - 0.15 and v - u - 0.03 are equal at v = 0.1 for u = 0.04; each alone pulls u to a bound of its own."""
    one, other = plane((2.0, 1.0), 0.15), plane((-1.0, 1.0), 0.03)
    deployed = Decided(lambda x: (one(x).argmax(1) == 1) & (other(x).argmax(1) == 1))
    for alone in (one, other):
        crafted = pgd(alone, **FINE, loss="margin")
        assert alone(crafted).argmax(1).tolist() == [1]
        assert bool(correct(deployed, crafted, GREY["labels"]))
    for branches in ((one, other), (other, one)):
        found = both_branches(deployed, **FINE, branches=branches)
        assert not bool(correct(deployed, found, GREY["labels"]))
        with watched(judge := nn.Sequential(one)) as seen:
            both_branches(judge, **FINE, branches=branches)
        assert torch.allclose(seen[-1], at(0.04, 0.1), rtol=0, atol=0.005)


def alarm(images: Tensor) -> Tensor:
    """v - u / 2."""
    moved = (images - 0.5).flatten(1)
    return moved[:, 1] - moved[:, 0] / 2


@pytest.mark.parametrize(("threshold", "v"), [(0.0, 0.05), (0.02, 0.07), (-0.03, 0.02), (1.0, 0.1)])
def test_unnoticed_ends_where_the_network_is_most_wrong_in_silence(threshold: float, v: float) -> None:
    network = plane((1.0, 1.0), 0.05)
    with watched(judge := nn.Sequential(network)) as seen:
        unnoticed(judge, **FINE, network=network, distance=alarm, threshold=threshold)
    assert torch.allclose(seen[-1], at(0.1, v), rtol=0, atol=0.005)


def test_unnoticed_fools_a_detector_that_knows_every_plain_attack() -> None:
    """The network is wrong where u + v > 0.12; on the way of plain PGD u = v, so that the alarm is on."""
    network = plane((1.0, 1.0), 0.12)
    deployed = Decided(lambda x: (network(x).argmax(1) == 1) & (alarm(x) <= 0))
    attack = partial(unnoticed, deployed, **FINE, network=network, distance=alarm)
    for options, survives in (
        ({"threshold": 0.0}, False),
        ({"threshold": 0.0, "weight": 0.0}, True),
        ({"threshold": 0.04}, True),  # a detector that is thought to be duller than it is
    ):
        assert bool(correct(deployed, attack(**options), GREY["labels"])) == survives


def test_once_the_network_is_wrong_enough_only_the_detector_counts() -> None:
    """With a weight of 1/100 the alarm never outweighs the margin, until that is enough."""
    network = plane((1.0, 1.0), 0.05)
    options: dict[str, Any] = {**FINE, "network": network, "distance": alarm, "threshold": 0.0, "weight": 0.01}
    for enough, expected in ((math.inf, (0.1, 0.1)), (0.06, (0.075, 0.0375))):
        with watched(judge := nn.Sequential(network)) as seen:
            unnoticed(judge, **options, enough=enough)
        assert torch.allclose(seen[-1], at(*expected), rtol=0, atol=0.006)


# What they are on a plain classifier


def test_one_branch_is_pgd_on_its_margin() -> None:
    model, branch, (images, labels) = net(), tiny(3), random_batch()
    options: dict[str, Any] = {"eps": 0.1, "steps": 7, "restarts": 2, "step_size": 0.3}
    expected = pgd(model, images, labels, loss="margin", **options, generator=seeded())
    attack = partial(both_branches, model, images, labels, **options)
    for branches in ((model,), [model, model]):
        assert torch.equal(attack(branches=branches, generator=seeded()), expected)
    assert not torch.equal(attack(branches=(model, branch), generator=seeded()), expected)


def test_unnoticed_without_weight_and_never_enough_is_pgd_on_the_margin() -> None:
    model, (images, labels) = net(), random_batch()
    options: dict[str, Any] = {"eps": 0.1, "steps": 7, "restarts": 2, "step_size": 0.3}
    expected = pgd(model, images, labels, loss="margin", **options, generator=seeded())
    attack = partial(
        unnoticed, model, images, labels, network=model, distance=apart(model, tiny(3)), threshold=0.0, **options
    )
    assert torch.equal(attack(weight=0.0, enough=math.inf, generator=seeded()), expected)
    assert not torch.equal(attack(weight=1.0, enough=math.inf, generator=seeded()), expected)
    assert not torch.equal(attack(weight=0.0, enough=1e-3, generator=seeded()), expected)


# R+FGSM


def linear(classes: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(18, classes)).double()


def middle(n: int = 40) -> Tensor:
    """Images that no step carries out of [0, 1]."""
    return 0.3 + 0.4 * torch.rand(n, 2, 3, 3, generator=seeded(1), dtype=torch.float64)


EPS = torch.cat([torch.full((20,), 0.1), torch.linspace(0.02, 0.2, 20)]).double()


@pytest.mark.parametrize("eps", [0.1, EPS], ids=["one eps", "an eps for each"])
def test_the_first_half_is_signs_by_chance(eps: float | Tensor) -> None:
    model, images = linear(2), middle()
    half = torch.as_tensor(eps, dtype=torch.float64).expand(40) / 2
    with watched(model) as seen:
        rfgsm(model, images, torch.zeros(40).long(), eps=eps, generator=seeded())
    assert len(seen) == 3  # the image, the point by chance, and the end
    moved = (seen[1] - images) / half.view(40, 1, 1, 1)
    assert torch.allclose(moved.abs(), torch.ones_like(moved), rtol=0, atol=1e-12)
    assert float((moved > 0).double().mean()) == pytest.approx(0.5, abs=0.06)  # of 720
    per_pixel = (moved > 0).double().mean(0)
    assert bool(((per_pixel > 0.2) & (per_pixel < 0.8)).all())
    assert len({tuple(row.flatten().tolist()) for row in moved > 0}) == 40  # each image has its own


@pytest.mark.parametrize("eps", [0.1, EPS], ids=["one eps", "an eps for each"])
def test_the_second_half_follows_the_gradient(eps: float | Tensor) -> None:
    """On two classes its sign is that of the difference of their weights, so that each pixel moves by 0 or eps."""
    model, images, labels = linear(2), middle(), torch.arange(40) % 2
    found = rfgsm(model, images, labels, eps=eps, generator=seeded())
    towards = (model[1].weight[1] - model[1].weight[0]).detach().sign().view(1, 2, 3, 3) * (1 - 2 * labels).view(
        40, 1, 1, 1
    )
    steps = (found - images) * towards / torch.as_tensor(eps, dtype=torch.float64).expand(40).view(40, 1, 1, 1)
    assert torch.allclose(steps, steps.round(), rtol=0, atol=1e-9)
    assert set(steps.round().unique().tolist()) == {0.0, 1.0}
    assert float(steps.mean()) == pytest.approx(0.5, abs=0.06)
    assert bool((margin(model(found), labels) >= margin(model(images), labels)).all())


def test_the_gradient_is_taken_at_the_point_by_chance() -> None:
    model, images = tiny(5).double(), middle(12)
    labels = model(images).argmax(1)
    with watched(model) as seen:
        rfgsm(model, images, labels, eps=0.3, generator=seeded())
    _, start, end = seen
    slopes = []
    for point in (start, images):
        leaf = point.clone().requires_grad_()
        slopes.append(torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)[0].sign())
    assert not torch.equal(*slopes)
    expected = (start + 0.15 * slopes[0]).clamp(0, 1)
    assert torch.allclose(end, expected, rtol=0, atol=1e-12)


def test_r_fgsm_goes_towards_its_targets() -> None:
    model, images = linear(4), middle()
    labels = model(images).argmax(1)
    targets = (labels + 1 + torch.arange(40) % 3) % 4
    with watched(model) as seen:
        found = rfgsm(model, images, labels, eps=0.1, targets=targets, generator=seeded())
    leaf = seen[1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(-F.cross_entropy(model(leaf), targets, reduction="sum"), leaf)
    assert torch.allclose(seen[2], seen[1] + 0.05 * slope.sign(), rtol=0, atol=1e-12)
    before, after = (margin(model(x), targets) for x in (images, found))
    assert bool((after <= before).all())
    assert int((after < 0).sum()) > int((before < 0).sum()) == 0
    with pytest.raises(ValueError, match="a target must not be the image's own label"):
        rfgsm(model, images, labels, eps=0.1, targets=labels)


class Ridge(nn.Module):
    """Class 1 is likeliest where the pixels sum to half of their number; a step may go over the ridge."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(images)).to(images), -(images - 0.5).flatten(1).sum(1).abs()], 1)


def test_r_fgsm_returns_the_best_of_its_three_points_all_in_the_box() -> None:
    images, labels = random_batch(60)[0].double(), torch.zeros(60).long()
    images[:, 0, 0] = torch.tensor([0.0, 1.0, 1e-3])
    with watched(model := Ridge()) as seen:
        found = rfgsm(model, images, labels, eps=0.1, generator=seeded())
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in seen)
    best = torch.stack([margin(model(x), labels) for x in seen]).argmax(0)
    assert best.unique().tolist() == [0, 1, 2]
    assert torch.equal(found, torch.stack(seen)[best, torch.arange(60)])
    assert bool((size(found - images, "Linf") <= 0.1 + 1e-12).all())
