"""Random search, smallest budgets, few pixels, one perturbation for all: step by step, and strength where known."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from itertools import combinations
from math import inf
from typing import Any

import pytest
import torch
from contract import Pair, random_batch, seeded, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advdef.attacks import bim, fgsm, margin, mim, pgd
from advdef.attacks.composed import minimal
from advdef.attacks.noise import uniform_noise
from advdef.attacks.sparse import _best_pair, jsma, single_pixel
from advdef.attacks.universal_perturbation import universal
from advdef.evaluation import correct
from advdef.norms import BallNorm, size


def linear(weight: Tensor, bias: Tensor | float = 0.0) -> nn.Sequential:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.as_tensor(bias))
    return nn.Sequential(nn.Flatten(), layer)


def watch(model: nn.Module) -> list[Tensor]:
    """What the model will be shown, batch by batch."""
    seen: list[Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    return seen


# Options


REFUSED: list[tuple[Any, ...]] = [
    (uniform_noise, {"draws": 0}, ValueError, "draws"),
    (uniform_noise, {"norm": "L1"}, ValueError, "no ball in norm 'L1'"),
    (minimal, {"attack": bim}, TypeError, "must be a partial"),
    (minimal, {"attack": partial(bim, norm="L1")}, ValueError, "no eps in Linf or L2, but in L1"),
    (minimal, {"attack": partial(jsma)}, ValueError, "no eps in Linf or L2, but in no norm"),
    (minimal, {"attack": partial(bim), "search": "down"}, ValueError, "there are bisection, upwards, outwards"),
    (minimal, {"attack": partial(bim), "trials": 0}, ValueError, "trials"),
    (jsma, {"theta": 0.0}, ValueError, "theta"),
    (jsma, {"theta": 1.5}, ValueError, "theta"),
    (jsma, {"theta": float("nan")}, ValueError, "theta"),
    (jsma, {"targets": torch.tensor([9] * 6)}, ValueError, r"targets must lie in 0\.\.3"),
    (single_pixel, {"pixels": 0}, ValueError, "pixels"),
    (universal, {"norm": "L0"}, ValueError, "no ball in norm 'L0'"),
    (universal, {"steps": 0}, ValueError, "steps"),
    (universal, {"step_size": 0.0}, ValueError, "step_size"),
    (universal, {"step_size": inf}, ValueError, "step_size"),
    (universal, {"ceiling": float("nan")}, ValueError, "ceiling"),
]


def test_bad_options_are_refused() -> None:
    for attack, options, error, message in REFUSED:
        with pytest.raises(error, match=message):
            attack(tiny(), *random_batch(), **{"eps": 1.0, **options})


# Random search


def test_noise_keeps_the_best_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("advdef.attacks.noise"), "_FORWARD", 15)
    images, labels = random_batch()
    labels[:2] = (labels[:2] + 1) % 4  # wrong already, which is no reason to stop
    model = tiny()
    seen = watch(model)
    found = uniform_noise(model, images, labels, eps=0.3, draws=7, generator=seeded())
    assert [len(points) // len(images) for points in seen] == [1, 2, 2, 2, 1]  # the image, and seven draws in pairs
    tried = torch.cat(seen).unflatten(0, (8, 6))
    margins = margin(tiny()(tried.flatten(0, 1)), labels.repeat(8)).unflatten(0, (8, 6))
    assert torch.equal(found, tried[margins.argmax(0), torch.arange(6)])
    assert len(tried.flatten(0, 1).unique(dim=0)) == 48  # no draw is made twice


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_noise_fills_the_ball(norm: BallNorm) -> None:
    images, labels = torch.full((1, 2, 3, 3), 0.5), torch.tensor([0])
    model = tiny()
    seen = watch(model)
    uniform_noise(model, images, labels, eps=0.4, norm=norm, draws=2000, generator=seeded())
    distances = size(torch.cat(seen[1:]) - images, norm) / 0.4
    assert len(distances) == 2000
    assert float(distances.max()) <= 1 + 1e-6
    # uniform in 18 dimensions: radius^18 is uniform on [0, 1]
    assert abs(float((distances**18).mean()) - 0.5) < 0.02


def test_noise_that_stops_early_leaves_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("advdef.attacks.noise"), "_FORWARD", 1)

    class Gate(nn.Module):
        """Wrong from the start above 0.8; wrong on any second look between 0.5 and 0.8; never wrong below."""

        def forward(self, images: Tensor) -> Tensor:
            lost = (images.mean((1, 2, 3)) > (0.8 if len(seen) == 0 else 0.5)).float()
            return torch.stack([1 - lost, lost + 0.5], 1)

    images = torch.stack([torch.full((1, 2, 2), value) for value in (0.1, 0.9, 0.6, 0.2)])
    model = Gate()
    seen = watch(model)
    found = uniform_noise(
        model, images, torch.zeros(4, dtype=torch.int64), eps=0.01, draws=3, stop_early=True, generator=seeded()
    )
    assert [len(points) for points in seen] == [4, 3, 2, 2]
    assert torch.equal((found != images).flatten(1).any(1), torch.tensor([False, False, True, False]))


# The smallest budget


def nearest(model: nn.Sequential, images: Tensor, labels: Tensor, norm: BallNorm) -> tuple[Tensor, Tensor, Tensor]:
    """The closest other class of a linear model (N,), its distance (N,) and the step (N, D) that leads there."""
    weight, logits = model[1].weight.detach(), model(images).detach()
    normals = weight[None] - weight[labels][:, None]
    dual = normals.abs().sum(2) if norm == "Linf" else normals.norm(dim=2)
    gaps = logits.gather(1, labels[:, None]) - logits
    distance, other = (gaps / dual.clamp_min(1e-12)).scatter(1, labels[:, None], inf).min(1)
    normal = normals[torch.arange(len(images)), other]
    step = normal.sign() if norm == "Linf" else normal / normal.norm(dim=1, keepdim=True)
    return other, distance, distance[:, None] * step


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    "attack",
    [
        partial(fgsm),
        partial(bim, steps=20, stop_early=True),
        partial(mim, steps=20, stop_early=True),
        partial(pgd, steps=20, restarts=3, stop_early=True),  # one unlucky start misleads the search for good
    ],
    ids=lambda attack: attack.func.__name__,
)
def test_a_linear_model_falls_close_to_its_optimal_distance(attack: partial[Tensor], norm: BallNorm) -> None:
    for count, shape in ((1, (1, 2, 4)), (3, (3, 5, 5)), (8, (2, 3, 3))):
        # a sure classifier, else the cross-entropy aims between two classes; all meet in the middle of the images
        weight = 10 * torch.randn(3, shape[0] * shape[1] * shape[2], generator=seeded(count)).double()
        model = linear(weight, -weight.sum(1) / 2)
        images = 0.2 + 0.6 * torch.rand(100, *shape, generator=seeded()).double()
        labels = model(images).argmax(1)
        other, distance, step = nearest(model, images, labels, norm)
        optimum = images.flatten(1) + step
        fits = (distance > 1e-2) & ((optimum >= 0) & (optimum <= 1)).all(1)
        # and the closest class is the one that the gradient sees first
        kept = torch.nonzero(fits & (other == model(images).argsort(1)[:, 1]))[:count, 0]
        assert len(kept) == count
        images, labels, distance = images[kept], labels[kept], distance[kept]
        for way in ("bisection", "outwards"):
            search = partial(minimal, attack=partial(attack, norm=norm), search=way, trials=15, generator=seeded())
            found = search(model, images, labels, eps=inf)
            assert not bool(correct(model, found, labels).any())
            ratio = size(found - images, norm) / distance
            assert bool((ratio > 1 - 1e-6).all())
            assert bool((ratio < 1.25).all()), ratio
            # with less than the distance there is nothing to find
            assert torch.equal(search(model, images, labels, eps=0.99 * distance), images)


class Bright(nn.Module):
    """Class 1 from a mean of 0.7 on."""

    def forward(self, images: Tensor) -> Tensor:
        value = images.mean((1, 2, 3))
        return torch.stack([0.7 - value, value - 0.7], 1)


@pytest.mark.parametrize(
    ("options", "asked", "distance"),
    [
        (
            {"search": "bisection", "trials": 3},
            # after 0.7 the first has moved by 0.525, and after 0.39375 by 0.2953125
            [[0.7, 0.5, 0.4], [0.2625, 0.15], [0.39375, 0.225], [0.27890625, 0.159375]],
            [0.2953125, 0, 0, 0.16875],
        ),
        (
            {"search": "upwards", "trials": 4},
            [[0.175, 0.125, 0.1], [0.35, 0.25, 0.2], [0.525, 0.375], [0.5]],
            [0.39375, 0, 0, 0.15],
        ),
        (
            {"search": "outwards", "trials": 4},
            # the model is linear: 1.05 times the distance comes first, and is doubled once
            [[0.294, 0.5, 0.1365], [0.588, 0.273], [0.3675, 0.170625], [0.40425, 0.1876875]],
            [0.3031875, 0, 0, 0.140765625],
        ),
    ],
)
def test_the_search_tries_these_budgets(
    options: dict[str, Any], asked: list[list[float]], distance: list[float]
) -> None:
    log: list[Pair] = []

    def brighter(
        model: nn.Module, images: Tensor, labels: Tensor, *, eps: Tensor, norm: str = "Linf", generator: Any = None
    ) -> Tensor:
        log.append((images[:, 0, 0, 0], eps))
        return images + 0.75 * eps[:, None, None, None]

    # to be moved by 0.28, by 0.6 (which 0.75 * 0.5 is not), not at all (wrong already) and by 0.13
    images = torch.tensor([0.42, 0.1, 0.8, 0.57], dtype=torch.float64)[:, None, None, None].repeat(1, 1, 2, 2)
    eps = torch.tensor([0.7, 0.5, 0.7, 0.4], dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.int64)
    found = minimal(Bright(), images, labels, eps=eps, attack=partial(brighter), **options)
    assert [budgets.tolist() for _, budgets in log] == [pytest.approx(budgets) for budgets in asked]
    assert log[0][0].tolist() == [0.42, 0.1, 0.57]
    assert (found - images).amax((1, 2, 3)).tolist() == pytest.approx(distance)
    assert torch.equal(found[1:3], images[1:3])


def test_of_several_successes_the_closest_is_kept() -> None:
    """An attack that stops early may end closer to the image in a larger ball; the search then goes on beyond it."""
    moves, radii = [0.3, 0.05, 0.12, 0.13], list[float]()

    def wanders(
        model: nn.Module, images: Tensor, labels: Tensor, *, eps: Tensor, norm: str = "Linf", generator: Any = None
    ) -> Tensor:
        radii.append(float(eps))
        return images + moves[len(radii) - 1]

    image, label = torch.full((1, 1, 2, 2), 0.6, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    found = minimal(Bright(), image, label, eps=0.4, attack=partial(wanders), trials=3)
    assert radii == pytest.approx([0.4, 0.15, 0.225, 0.135])
    assert float((found - image).amax()) == pytest.approx(0.12)


def test_a_claim_of_success_counts_for_nothing() -> None:
    def boastful(
        model: nn.Module, images: Tensor, labels: Tensor, *, eps: Tensor, norm: str = "Linf", generator: Any = None
    ) -> Tensor:
        return images * 0.999

    images, labels = torch.full((3, 1, 2, 2), 0.2), torch.zeros(3, dtype=torch.int64)
    for options in ({}, {"search": "upwards"}, {"search": "outwards"}):
        assert torch.equal(minimal(Bright(), images, labels, eps=1.0, attack=partial(boastful), **options), images)


def test_the_closest_success_survives_rounding_elsewhere(network: nn.Module, batch: Pair) -> None:
    images, labels = batch
    found = minimal(network, images, labels, eps=inf, attack=partial(bim, stop_early=True))
    assert not bool(correct(network, found, labels).any())
    alone = torch.cat([correct(network, found[i : i + 1], labels[i : i + 1]) for i in range(100)])
    assert not bool(alone.any())
    with torch.no_grad():
        closeness = margin(network(found), labels)[correct(network, images, labels)]
    assert float(closeness.median()) < 1e-3  # and yet it is at the boundary


# Few pixels


def exhaustive(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """The best of all images with one pixel set to an end, the image itself included."""
    candidates = [image]
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            for value in (0.0, 1.0):
                candidate = image.clone()
                candidate[:, row, column] = value
                candidates.append(candidate)
    stacked = torch.stack(candidates)
    with torch.no_grad():
        return stacked[margin(model(stacked), label.repeat(len(stacked))).argmax()]


@pytest.mark.parametrize("forward", [512, 8])
def test_a_single_pixel_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch, forward: int) -> None:
    monkeypatch.setattr(import_module("advdef.attacks.sparse"), "_FORWARD", forward)
    for model in (tiny().double(), linear(torch.randn(4, 18, generator=seeded()).double())):
        images, labels = random_batch()[0].double(), torch.tensor([0, 1, 2, 3, 0, 1])
        seen = watch(model)
        found = single_pixel(model, images, labels, eps=1)
        assert max(len(points) for points in seen[1:]) <= forward
        assert torch.equal(found, torch.stack([exhaustive(model, *pair) for pair in zip(images, labels, strict=True)]))
        some = single_pixel(model, images, labels, eps=1, pixels=4, generator=seeded())
        with torch.no_grad():
            less, more = margin(model(some), labels), margin(model(found), labels)
        assert bool((less <= more + 1e-12).all())
        assert bool((less < more - 1e-12).any())


def test_a_single_pixel_needs_a_budget_of_one() -> None:
    images, labels = random_batch()
    found = single_pixel(tiny(), images, labels, eps=torch.tensor([0, 0.99, 1, 1.5, 7, inf]))
    assert size(found - images, "L0").tolist() == [0, 0, 1, 1, 1, 1]


def test_random_pixels_differ_between_images_and_do_not_repeat() -> None:
    model = linear(torch.zeros(2, 12))
    seen = watch(model)
    images = torch.full((4, 1, 3, 4), 0.5) + 1e-4 * torch.arange(4).view(
        4, 1, 1, 1
    )  # what is drawn belongs to an image
    single_pixel(model, images, torch.zeros(4, dtype=torch.int64), eps=1, pixels=5, generator=seeded())
    places = ((torch.cat(seen[1:]) - 0.5).abs() > 0.1).flatten(1).int().argmax(1).view(4, 5, 2)
    assert torch.equal(places[..., 0], places[..., 1])  # black and white
    assert all(len(set(own)) == 5 for own in places[..., 0].tolist())
    assert len({tuple(sorted(own)) for own in places[..., 0].tolist()}) > 1


@pytest.mark.parametrize(("theta", "end"), [(1.0, 1.0), (-1.0, 0.0)])
def test_jsma_chooses_this_pair_by_hand(theta: float, end: float) -> None:
    # for class 1, value by value: gain 3, 1, 2, -1; loss of the others 1, -2, -1, -5
    # products of pair sums: 01 4, 02 none (the others do not fall), 03 8, 12 9, 13 none, 23 6
    weight = torch.tensor([[0.4, -1.5, -0.2, -3.0], [3, 1, 2, -1], [0.6, -0.5, -0.8, -2.0]])
    model = linear(weight if theta > 0 else -weight, torch.tensor([9.0, 0, 0]))
    images, labels, targets = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), torch.tensor([1])
    seen = watch(model)
    found = jsma(model, images, labels, eps=inf, theta=theta, targets=targets)
    first, second = seen[2].flatten(), seen[3].flatten()
    assert first.tolist() == [0.5, end, end, 0.5]
    assert second.tolist() == [end] * 4  # of what is left, the pair 03
    assert len(seen) == 4  # nothing is left then
    assert torch.equal(found, seen[3])
    for eps, expected in ((1.9, images), (2, seen[2]), (3.9, seen[2]), (4, seen[3])):
        assert torch.equal(jsma(model, images, labels, eps=eps, theta=theta, targets=targets), expected)


def best_pair_by_brute_force(rise: list[float], fall: list[float]) -> float:
    sums = [(rise[p] + rise[q], fall[p] + fall[q]) for p, q in combinations(range(len(rise)), 2)]
    return max((up * down for up, down in sums if up > 0 and down > 0), default=0.0)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), count=st.integers(1, 3), values=st.integers(1, 12), pairs=st.sampled_from([1, 7, 10**6]))
def test_the_best_pair_is_the_best_of_all_pairs(data: st.DataObject, count: int, values: int, pairs: int) -> None:
    entry = st.integers(-4, 4).map(float) | st.just(-inf)  # small numbers: many ties
    drawn = data.draw(
        st.lists(st.lists(entry, min_size=values, max_size=values), min_size=2 * count, max_size=2 * count)
    )
    rise, fall = torch.tensor(drawn[:count]), torch.tensor(drawn[count:])
    fall = fall.masked_fill(rise == -inf, -inf)  # a value is in the search for both or for none
    rise = rise.masked_fill(fall == -inf, -inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("advdef.attacks.sparse"), "_PAIRS", pairs)
        pair, value = _best_pair(rise, fall)
    for i in range(count):
        assert float(value[i]) == best_pair_by_brute_force(rise[i].tolist(), fall[i].tolist())
        if value[i] > 0:
            assert pair[i, 0] != pair[i, 1]
            assert float(rise[i, pair[i]].sum() * fall[i, pair[i]].sum()) == float(value[i])


@pytest.mark.parametrize("seed", range(5))
def test_jsma_follows_the_saliency_map_of_a_network(seed: int) -> None:
    model = tiny(seed).double()
    images = torch.rand(4, 2, 3, 3, generator=seeded(seed)).double()
    images[images < 0.2] = 1  # nothing is left to raise there
    labels = model(images).argmax(1)
    targets = (labels + 1 + torch.arange(4) % 3) % 4
    seen = watch(model)
    jsma(model, images, labels, eps=inf, theta=0.1, targets=targets)
    # seen[0] serves to check the logits, seen[1] for the first saliency map
    for image, target, after in zip(images, targets, seen[2], strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], image).flatten(1)
        rise, fall = jacobian[target], jacobian[target] - jacobian.sum(0)
        free = torch.nonzero(image.flatten() < 1)[:, 0].tolist()
        products = {
            (p, q): float((rise[p] + rise[q]) * (fall[p] + fall[q]))
            for p, q in combinations(free, 2)
            if rise[p] + rise[q] > 0 and fall[p] + fall[q] > 0
        }
        moved = torch.nonzero((after - image).flatten())[:, 0].tolist()
        assert tuple(moved) == max(products, key=lambda pair: products[pair])
        assert torch.allclose(after.flatten()[moved], (image.flatten()[moved] + 0.1).clamp(max=1))


def test_jsma_stops_at_its_goal(network: nn.Module, batch: Pair) -> None:
    images, labels = batch[0][:20], batch[1][:20]
    targets = (labels + 3) % 10
    with torch.no_grad():
        aimed = jsma(network, images, labels, eps=inf, targets=targets)
        loose = jsma(network, images, labels, eps=inf)
        assert torch.equal(network(aimed).argmax(1), targets)
        assert not bool((network(loose).argmax(1) == labels).any())
        # one pair less, and it would not have been reached
        less = jsma(network, images, labels, eps=size(aimed - images, "L0") - 1, targets=targets)
        assert not bool((network(less).argmax(1) == targets).any())
        # wrong already: left alone
        assert torch.equal(jsma(network, images, targets, eps=inf), images)
        before = network(images).argmax(1)
        other = (before + 1) % 10
        assert torch.equal(jsma(network, images, other, eps=inf, targets=before), images)


def test_jsma_spends_no_pixel_where_there_is_no_room(network: nn.Module, batch: Pair) -> None:
    """Bytes such as 253 are next to white; to count them as free wastes the budget."""
    images, labels = batch[0][:20].clamp(max=0.995), batch[1][:20]
    found = jsma(network, images, labels, eps=20)
    moved = found != images
    assert bool(moved.any())
    assert bool((images > 0.99).any())
    assert not bool((moved & (images > 0.99)).any())


def test_jsma_breaks_more_with_more_pixels(network: nn.Module, batch: Pair) -> None:
    images, labels = batch[0][:40], batch[1][:40]
    left = [correct(network, jsma(network, images, labels, eps=eps), labels) for eps in (0, 20, 100)]
    assert bool((left[1] <= left[0]).all())
    assert bool((left[2] <= left[1]).all())
    assert int(left[0].sum()) > int(left[1].sum()) > int(left[2].sum())


# One perturbation for all


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.2), ("L2", 4.0)])
def test_one_perturbation_does_far_more_than_noise(network: nn.Module, batch: Pair, norm: BallNorm, eps: float) -> None:
    images, labels = batch
    noisy = uniform_noise(network, images, labels, eps=eps, norm=norm, draws=1, generator=seeded())
    shifted = universal(network, images, labels, eps=eps, norm=norm)
    assert int(correct(network, noisy, labels).sum()) > 90
    assert int(correct(network, shifted, labels).sum()) < 50


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.3)])
def test_the_perturbation_is_the_same_for_all_images(norm: BallNorm, eps: float) -> None:
    images = 0.4 + 0.2 * random_batch()[0].double()  # far from the ends of [0, 1]
    model = tiny().double()
    labels = model(images).argmax(1)
    shift = universal(model, images, labels, eps=eps, norm=norm) - images
    assert torch.allclose(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-12)
    assert 0.5 * eps < float(size(shift[:1], norm)) <= eps + 1e-12


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_ascent_is_this_one(norm: BallNorm) -> None:
    model, images = tiny().double(), random_batch()[0].double()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    seen = watch(model)
    universal(model, images, labels, eps=0.2, norm=norm, steps=6, step_size=0.7, ceiling=1.5)
    path, shift = seen[1:], torch.zeros(1, 2, 3, 3).double()
    assert len(path) == 7
    for points in path:
        assert torch.allclose(points, (images + shift).clamp(0, 1), rtol=0, atol=1e-6)
        points.requires_grad_()
        losses = nn.functional.cross_entropy(model(points), labels, reduction="none")
        gradient = torch.autograd.grad(losses[losses < 1.5].sum(), points)[0].sum(0, keepdim=True)
        if norm == "Linf":
            shift = (shift + 0.14 * gradient.sign()).clamp(-0.2, 0.2)
        else:
            shift = shift + 0.14 * gradient / gradient.norm()
            shift = shift * min(1, 0.2 / float(shift.norm()))


@pytest.mark.parametrize("eps", [0.15, 0.3])
def test_the_perturbation_that_fools_most_is_kept(network: nn.Module, batch: Pair, eps: float) -> None:
    images, labels = batch[0][:30], batch[1][:30]
    seen: list[Tensor] = []
    handle = network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    # steps of three times eps jump from end to end
    found = universal(network, images, labels, eps=eps, steps=8, step_size=3.0)
    handle.remove()
    assert len(seen) == 10  # one look to check the logits, then eight steps and where the last one led
    with torch.no_grad():
        logits = [network(points) for points in seen]
    errors = [int((margin(values, labels) > 0).sum()) for values in logits]
    losses = [
        float(nn.functional.cross_entropy(values, labels, reduction="none").clamp(max=9).sum()) for values in logits
    ]
    best = max(range(10), key=lambda i: (errors[i], losses[i]))
    assert torch.equal(found, seen[best])
    assert best < 9


def test_no_image_counts_for_more_than_the_ceiling() -> None:
    # class 1 from a mean of 0.5 on: the first image, wrong already, pulls into the dark, the second has to be brighter
    model = linear(torch.tensor([[0.0] * 4, [1.0] * 4]), torch.tensor([0.0, -2.0]))
    images = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.45)])
    labels = torch.tensor([1, 0])
    for ceiling, wrong in ((inf, [True, False]), (1.0, [True, True])):
        found = universal(model, images, labels, eps=0.1, ceiling=ceiling)
        assert (~correct(model, found, labels)).tolist() == wrong
