"""The gradient family and APGD: strong where strength has a closed form, step by step what their papers write."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import pytest
import torch
from attack_table import level_spaced
from contract import Pair, random_batch, seeded, tiny
from torch import Tensor, nn

from advdef.attacks import (
    LOSSES,
    bim,
    describe,
    expectation,
    fgsm,
    margin,
    mim,
    pgd,
    replace_gradient,
    sa_pgd,
    square,
    stopping,
    straight_through,
    suite,
)
from advdef.attacks.auto_pgd import apgd
from advdef.attacks.composed import each_class
from advdef.attacks.gradient import ffgsm
from advdef.attacks.suites import cleverhans, nip, quick, standard, strong
from advdef.contract import NoGradientWarning
from advdef.data import Dataset
from advdef.evaluation import correct
from advdef.norms import Norm, size
from advdef.papers.nip.attacks import precompensated
from advdef.papers.nip.baselines import AntiAdversary
from advdef.papers.qusecnets.attacks import level_space
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.snn.attacks import in_turn

LINEAR = {
    "fgsm": fgsm,
    "ffgsm": ffgsm,
    "bim": bim,
    "mim": mim,
    "pgd": partial(pgd, steps=5),
    "pgd from the image": partial(pgd, steps=5, random_start=False),
    "pgd, early": partial(pgd, steps=5, stop_early=True, loss="dlr"),
    "apgd": partial(apgd, steps=10),
    "sa pgd": partial(sa_pgd, steps=5),
    "sa pgd, early": partial(sa_pgd, steps=8, restarts=2, stop_early=True, loss="dlr"),
    "each class": partial(each_class, attack=partial(apgd, steps=5, loss="dlr"), classes=2),
    "fgsm in L2": partial(fgsm, norm="L2"),
    "bim in L2": partial(bim, norm="L2"),
    "mim in L2": partial(mim, norm="L2"),
    "pgd in L2": partial(pgd, norm="L2", steps=3, restarts=2, loss="margin"),
    "apgd in L2": partial(apgd, norm="L2", steps=10, loss="margin"),
    "each class in L2": partial(each_class, attack=partial(apgd, steps=5, norm="L2")),
}


# Strength


class Bump(nn.Module):
    """Two logits whose margin for label 0 is largest at a mean of 0.6 and falls steeply on both sides."""

    def forward(self, images: Tensor) -> Tensor:
        value = images.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(value), 1 - 10 * (value - 0.6).abs() - 2], 1)


def test_the_best_iterate_is_returned() -> None:
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    seen: list[float] = []

    class Watched(Bump):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            seen.extend((logits[:, 1] - logits[:, 0]).tolist())
            return logits

    # steps of 0.16 from 0.5 jump over the best point again and again
    found = pgd(Watched(), images, labels, eps=0.2, steps=6, step_size=0.8, random_start=False)
    logits = Bump()(found)
    assert float(logits[0, 1] - logits[0, 0]) == max(seen)
    assert seen[-1] < max(seen)


def test_stopping_early_succeeds_as_often(network: nn.Module, batch: Pair) -> None:
    images, labels = batch
    for attack in (bim, mim, partial(pgd, steps=10, restarts=2)):
        for eps in (0.05, 0.1):
            full = attack(network, images, labels, eps=eps, generator=seeded(), stop_early=False)
            early = attack(network, images, labels, eps=eps, generator=seeded(), stop_early=True)
            full_hits, early_hits = correct(network, full, labels), correct(network, early, labels)
            assert 0 < int(early_hits.sum()) < 100
            if attack is not bim and attack is not mim:  # restarts draw for fewer images: same success up to luck
                assert abs(int(full_hits.sum()) - int(early_hits.sum())) <= 2
            else:
                assert torch.equal(full_hits, early_hits)


def test_a_wrong_image_is_left_alone_when_stopping_early(network: nn.Module, batch: Pair) -> None:
    images, labels = batch
    wrong = (labels + 1) % 10
    assert torch.equal(bim(network, images, wrong, eps=0.1, stop_early=True), images)
    assert not torch.equal(bim(network, images, wrong, eps=0.1), images)


def linear(inputs: int, seed: int = 0, classes: int = 5) -> nn.Sequential:
    """Two classes that a plane divides, and others that no image comes near: they are there for targeted losses."""
    generator = seeded(seed)
    layer = nn.Linear(inputs, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, inputs, generator=generator))
        layer.weight[2:] = 0
        layer.bias.copy_(torch.tensor([0.0, 0.0] + [-50.0 - 0.1 * c for c in range(2, classes)]))
        # the plane passes through the middle of the cube, so that there are images on both sides
        layer.bias[1] = 0.5 * (layer.weight[0] - layer.weight[1]).sum()
    return nn.Sequential(nn.Flatten(), layer)


def optimal_distance(model: nn.Sequential, images: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """Smallest distance to another class, when no pixel meets the ends of [0, 1]: gap over dual norm of its slope."""
    weight, logits = model[1].weight.detach(), model(images).detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = weight[labels][:, None] - weight[None]
    distances = gaps / slopes.norm(p=1 if norm == "Linf" else 2, dim=2).clamp_min(1e-12)
    return distances.scatter(1, labels[:, None], float("inf")).amin(1)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_model_falls_just_beyond_its_optimal_distance(name: str) -> None:
    """At 1.25 times the closed-form optimum nothing stands, and below it nothing falls."""
    norm: Norm = "L2" if "L2" in name else "Linf"
    for shape, count in (((8, 1, 1), 1), ((1, 4, 6), 8), ((5, 7, 7), 3)):
        model = linear(inputs=shape[0] * shape[1] * shape[2], seed=count).double()
        images = 0.3 + 0.4 * torch.rand(60, *shape, generator=seeded(count), dtype=torch.float64)
        labels = model(images).argmax(1)
        distance = optimal_distance(model, images, labels, norm)
        keep = (distance > 1e-4) & (distance < 0.14)  # twice as far stays inside [0, 1]
        images, labels, distance = images[keep][:count], labels[keep][:count], distance[keep][:count]
        assert len(images) == count
        # a random start costs FFGSM a part of its single step
        eps = (2 if name == "ffgsm" else 1.25) * distance
        found = LINEAR[name](model, images, labels, eps=eps, generator=seeded())
        assert bool((size(found - images, norm) <= 1.000001 * eps).all())
        assert not bool(correct(model, found, labels).any())
        below = LINEAR[name](model, images, labels, eps=0.99 * distance, generator=seeded())
        assert bool(correct(model, below, labels).all())


# Targets


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "pgd", "pgd in L2", "apgd", "apgd in L2", "sa pgd"])
def test_a_target_is_reached(network: nn.Module, batch: Pair, name: str) -> None:
    images, labels = batch[0][:40], batch[1][:40]
    targets = (labels + 1) % 10
    found = LINEAR[name](network, images, labels, eps=5.0 if "L2" in name else 0.3, targets=targets, generator=seeded())
    before, after = (int(correct(network, x, targets).sum()) for x in (images, found))
    assert before == 0
    assert after >= (10 if name == "fgsm" else 30)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda y: y, ValueError, "own label"),
        (lambda y: y * 0 + 9, ValueError, r"0\.\.3; seen: 9"),
        (lambda y: y.float(), TypeError, "int64"),
        (lambda y: y[:2], TypeError, "like the labels"),
    ],
)
def test_bad_targets_are_refused(change: Callable[[Tensor], Tensor], error: type[Exception], message: str) -> None:
    images, labels = random_batch()
    for attack in (pgd, apgd):
        with pytest.raises(error, match=message):
            attack(tiny(), images, labels, eps=0.1, targets=change(labels))


def test_going_through_the_classes_is_never_weaker_than_its_first_class(network: nn.Module, batch: Pair) -> None:
    images, labels = batch
    attack = partial(apgd, steps=8, loss="dlr")
    left = [
        correct(
            network, each_class(network, images, labels, eps=0.12, attack=attack, classes=k, generator=seeded()), labels
        )
        for k in (1, 4)
    ]
    assert bool((left[1] <= left[0]).all())
    assert 0 < int(left[1].sum()) < int(left[0].sum())


def test_stopping_early_never_goes_on_to_the_next_class(
    network: nn.Module, batch: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = batch[0][:20], batch[1][:20]
    monkeypatch.setattr("advdef.attacks.composed.TOGETHER", 1)
    seen: list[int] = []

    def watched(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        seen.append(len(images))
        return apgd(model, images, labels, steps=10, **options)

    each_class(network, images, labels, eps=0.1, attack=partial(watched), classes=3, stop_early=True)
    assert seen[0] == int(correct(network, images, labels).sum())
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < seen[0]
    seen.clear()
    each_class(network, images, labels, eps=0.1, attack=partial(watched), classes=3)
    assert seen == [20, 20, 20]


# Models and options that are not as they should be


REFUSED: list[tuple[Any, ...]] = [
    (pgd, {"steps": 0}, "steps and restarts"),
    (pgd, {"restarts": 0}, "steps and restarts"),
    (pgd, {"step_size": 0.0}, "step_size"),
    (pgd, {"step_size": float("nan")}, "step_size"),
    (pgd, {"loss": "hinge"}, "ce, margin, dlr"),
    (pgd, {"norm": "L1"}, "Linf, L2"),
    (pgd, {"start": torch.zeros(1, 2, 3, 3)}, "shape of images"),
    (pgd, {"start": torch.full((6, 2, 3, 3), float("nan"))}, "start must be finite"),
    (apgd, {"steps": 0}, "steps and restarts"),
    (apgd, {"loss": "hinge"}, "ce, margin, dlr"),
    (apgd, {"norm": "L1"}, "Linf, L2"),
    (apgd, {"start": torch.zeros(1, 2, 3, 3)}, "shape of images"),
    (sa_pgd, {"steps": 0}, "steps and restarts"),
    (sa_pgd, {"step_size": 0.0}, "step_size must be positive and finite, not 0"),
    (in_turn, {"networks": ()}, "there must be a stand-in"),
    (in_turn, {"networks": (nn.Flatten(),), "step_size": float("inf")}, "step_size must be positive and finite"),
    (each_class, {"attack": partial(apgd), "classes": 0}, "classes must be"),
    (each_class, {"attack": partial(apgd), "order": "nearest"}, "likely, malt"),
    (level_spaced, {"steps": 0}, "steps and restarts"),
    (level_spaced, {"repairs": -1}, "repairs"),
]


def test_bad_options_are_refused() -> None:
    for attack, options, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            attack(tiny(), *random_batch(), eps=0.1, **options)


def test_sizes_by_hand() -> None:
    moved = torch.zeros(2, 2, 1, 3)
    moved[0, :, 0, 0] = torch.tensor([3.0, -4.0])  # one pixel, both channels
    found = {norm: size(moved, norm).tolist() for norm in ("Linf", "L2", "L1", "L0")}
    assert found == {"Linf": [4.0, 0.0], "L2": [5.0, 0.0], "L1": [7.0, 0.0], "L0": [1.0, 0.0]}
    with pytest.raises(ValueError, match="Linf, L2, L1, L0"):
        size(moved, "L3")  # type: ignore[arg-type]


def test_apgd_goes_on_from_its_best_point_with_half_the_step() -> None:
    """On a loss with a ridge, the points visited close in on it and the last ones lie nearer than the first step."""
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    seen: list[float] = []

    class Watched(Bump):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(float(images.detach().mean()))
            return super().forward(images)

    found = apgd(Watched(), images, labels, eps=0.3, steps=60, loss="margin", start=images)
    assert abs(float(found.mean()) - 0.6) < 1e-2
    assert abs(seen[2] - 0.6) > 0.1  # the first step, of twice eps, goes far beyond
    assert max(abs(value - 0.6) for value in seen[-5:]) < 0.05


class Seen(nn.Module):
    """Remembers the points at which it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.points = model, list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        self.points.append(images.detach().clone())
        logits: Tensor = self.model(images)
        return logits


def stable_adaptive(
    models: Sequence[nn.Module], image: Tensor, label: Tensor, eps: float, shares: list[float]
) -> Tensor:
    """The points of one run from an image (1, C, H, W), by the formulas of the method."""
    points, mean, square = [image], torch.zeros_like(image), torch.zeros_like(image)
    for step, share in enumerate(shares):
        point = points[-1].clone().requires_grad_()
        loss = nn.functional.cross_entropy(models[step % len(models)](point), label)
        (gradient,) = torch.autograd.grad(loss, point)
        mean = 0.5 * mean + gradient / gradient.abs().mean()
        square = 0.8 * square + gradient**2 / (gradient**2).mean()
        moved = points[-1] + eps * share * (mean / square.sqrt()).clamp(-1, 1)
        points.append(moved.clamp(image - eps, image + eps).clamp(0, 1))
    return torch.stack(points)


def test_the_steps_of_sa_pgd_are_those_of_its_formulas() -> None:
    images, labels = random_batch()
    # of 20 steps four are whole, three half, two a quarter, and from then on each is half of the one before
    sizes = [1.0] * 4 + [0.5] * 3 + [0.25] * 2 + [2.0**-k for k in range(3, 14)]
    for image, label in zip(images[:3].double().split(1), labels[:3].split(1), strict=True):
        seen = Seen(tiny().double())
        sa_pgd(seen, image, label, eps=0.2, steps=20, random_start=False)
        expected = stable_adaptive([seen.model], image, label, 0.2, sizes)
        assert torch.allclose(torch.stack(seen.points[1:]), expected, atol=1e-9)
        assert bool((expected[1:] - expected[:-1]).abs().flatten(1).amax(1)[-1] < 0.2 / 10)


def test_stand_ins_take_turns() -> None:
    images, labels = random_batch()
    model = tiny().double()
    networks = (Seen(model), Seen(straight_through(model, tiny(5).double())), Seen(model))
    image, label = images[:1].double(), labels[:1]
    in_turn(model, image, label, networks=networks, eps=0.2, steps=7, random_start=False)
    asked = [x for turn in zip_longest(*(network.points for network in networks)) for x in turn if x is not None]
    sizes = [1.0, *(2.0**-k for k in range(1, 7))]
    expected = stable_adaptive([network.model for network in networks], image, label, 0.2, sizes)
    assert torch.allclose(torch.stack(asked), expected, atol=1e-9)


def test_a_gradient_of_zero_moves_nothing_and_one_pixel_moves_alone() -> None:
    image, label = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 0])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        flat[1].weight.zero_()
        flat[1].bias.copy_(torch.tensor([2.0, 0.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoGradientWarning)
        assert torch.equal(sa_pgd(flat, image, label, eps=0.1, steps=3, random_start=False), image)
    with torch.no_grad():
        flat[1].weight[1, 2] = 1e-6
    moved = sa_pgd(flat.double(), image.double(), label, eps=0.1, steps=3, random_start=False) - image
    assert torch.allclose(moved.flatten(1), torch.tensor([0, 0, 0.1, 0], dtype=torch.float64).expand(2, 4))


def test_restarts_only_help(network: nn.Module, batch: Pair) -> None:
    images, labels = batch
    left = []
    for restarts in (1, 3):
        found = pgd(network, images, labels, eps=0.06, steps=3, restarts=restarts, generator=seeded())
        left.append(correct(network, found, labels))
    assert bool((left[1] <= left[0]).all())  # the first run is the same; what it broke stays broken


@pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
def test_restarts_attack_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdef.attacks.restarts.TOGETHER", 4)  # so all starts of four images are too many
    seen: list[int] = []

    class Watched(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            # image means above 0.5 are wrong and those below cannot be moved
            hopeless = (images.flatten(1).mean(1) > 0.5).float()
            return torch.stack([0 * images.flatten(1).sum(1), 2 * hopeless - 1], 1)

    images = torch.stack([torch.full((1, 2, 2), v) for v in (0.1, 0.9, 0.2, 0.8)])
    pgd(Watched(), images, torch.zeros(4, dtype=torch.int64), eps=0.01, steps=2, restarts=3, generator=seeded())
    assert seen == [4, *[4] * 3, *[2 * 2] * 3]  # the second and the third start of two images, together
    seen.clear()
    monkeypatch.undo()
    pgd(Watched(), images, torch.zeros(4, dtype=torch.int64), eps=0.01, steps=2, restarts=3, generator=seeded())
    assert seen == [4, *[4 * 3] * 3]


def test_pgd_starts_where_it_is_told() -> None:
    images, labels = random_batch()
    start = (images + 0.5).clamp(max=1)
    seen: list[Tensor] = []
    model = tiny().eval()
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    pgd(model, images, labels, eps=0.1, steps=1, start=start)
    assert torch.equal(seen[1], (images + 0.1).clamp(max=1).minimum(start))


def test_momentum_accumulates_normalised_gradients() -> None:
    """Two steps of MIM by hand: the second follows the sum of the L1-normalised gradients."""
    torch.manual_seed(0)
    model = tiny().double().eval()
    images, labels = random_batch()
    images = 0.3 + 0.4 * images.double()

    def gradient(point: Tensor) -> Tensor:
        point = point.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(point), labels, reduction="sum")
        return torch.autograd.grad(loss, point)[0]

    first = gradient(images)
    velocity = first / first.abs().mean((1, 2, 3), keepdim=True)
    point = images + 0.02 * velocity.sign()
    second = gradient(point)
    velocity = 0.5 * velocity + second / second.abs().mean((1, 2, 3), keepdim=True)
    expected = (point + 0.02 * velocity.sign()).clamp(images - 0.1, images + 0.1)
    found = mim(model, images, labels, eps=0.1, steps=2, step_size=0.2, decay=0.5)
    margins = torch.stack([margin(model(p), labels) for p in (images, point, expected)])
    path = torch.stack([images, point, expected])
    assert torch.allclose(found, path[margins.argmax(0), torch.arange(len(images))], atol=1e-9)


@pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
def test_square_breaks_what_has_no_gradient(network: nn.Module, batch: Pair) -> None:
    pytest.importorskip("pyautoattack")

    class Cut(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(images.detach())

    images, labels = batch[0][:40], batch[1][:40]
    assert torch.equal(bim(Cut(), images, labels, eps=0.2), images)
    left = correct(network, square(Cut(), images, labels, eps=0.2, queries=150, generator=seeded()), labels)
    assert left.float().mean() < 0.5


# Losses and suites


def test_losses_by_hand() -> None:
    logits, labels = torch.tensor([[2.0, 0.5, 1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])
    assert torch.allclose(LOSSES["margin"](logits, labels), torch.tensor([-1.0, 2.0]))
    assert torch.allclose(LOSSES["dlr"](logits, labels), torch.tensor([-1.0 / 1.5, 2.0 / 3.0]))
    expected = torch.logsumexp(logits, 1) - logits[[0, 1], labels]
    assert torch.allclose(LOSSES["ce"](logits, labels), expected)
    with pytest.raises(ValueError, match="3 classes"):
        LOSSES["dlr"](logits[:, :2], torch.tensor([0, 1]))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_suites_of_a_norm_stay_in_its_ball(network: nn.Module, batch: Pair, norm: Norm) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = batch[0][:10], batch[1][:10]
    eps = {"Linf": 0.1, "L2": 1.5}[norm]
    for made in (quick(norm=norm), standard(norm=norm, steps=4, queries=10), strong(norm=norm, steps=4, restarts=1)):
        for name, attack in (made | stopping(made)).items():
            found = attack(network, images, labels, eps=eps, generator=seeded())
            assert bool((size(found - images, norm) <= eps + 1e-6).all()), name


def test_stopping_early_is_switched_on_where_it_exists() -> None:
    early = stopping(cleverhans())
    assert [a.keywords.get("stop_early", False) for a in early.values()] == [False, True, True, True]
    assert cleverhans()["PGD"].keywords == {"norm": "Linf", "steps": 10, "step_size": 1 / 6}
    assert {n for n, a in stopping(standard()).items() if "stop_early" not in a.keywords} == {"FGSM", "Square-500"}


def test_suites_have_names() -> None:
    assert {name: list(suite(name)) for name in ("cleverhans", "nip")} == {
        "cleverhans": ["FGSM", "BIM", "MIM", "PGD"],
        "nip": ["FGSM", "BIM", "MI-FGSM", "PGD", "DeepFool", "JSMA", "UAP", "AUNA", "Pixel", "Pointwise", "Boundary"],
    }
    assert "Square-500" in suite("standard")
    assert "Square-500" not in standard(queries=0)
    with pytest.raises(ValueError, match="quick, standard, strong, thorough, cleverhans, nip"):
        suite("everything")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_attacks_that_nip_lists_run_without_a_bound(network: nn.Module, batch: Pair) -> None:
    """Those that look for the closest image return what fools the model or, where they find nothing, the image."""
    pytest.importorskip("foolbox")
    images, labels = batch[0][:6], batch[1][:6]
    assert bool(correct(network, images, labels).all())
    found = {
        name: attack(network, images, labels, eps=float("inf"), generator=seeded())
        for name, attack in nip(trials=8, levels=50, boundary_steps=100).items()
    }
    for name, adversarial in found.items():
        wrong = ~correct(network, adversarial, labels)
        moved = (adversarial != images).flatten(1).any(1)
        if name not in ("Pixel", "UAP"):  # which return what comes nearest to success
            assert torch.equal(wrong, moved), name
        if name not in ("AUNA", "Pixel", "UAP"):
            assert int(wrong.sum()) >= 5, name
    assert float(size(found["UAP"] - images, "Linf").max()) <= 10 / 255 + 1e-6
    assert float(size(found["Pixel"] - images, "L0").max()) <= 1
    assert float(size(found["PGD"] - images, "Linf").median()) < float(size(found["FGSM"] - images, "Linf").median())


def test_an_attack_is_described_with_its_settings() -> None:
    assert describe(partial(pgd, steps=3)) == "pgd(steps=3)"
    inner = partial(apgd, loss="dlr")
    assert describe(partial(each_class, attack=inner, classes=2)) == "each_class(attack=apgd(loss='dlr'), classes=2)"
    assert describe(partial(level_space, network=tiny(), quantizer=Quantizer(2))) == (
        "level_space(network=Sequential, quantizer=Quantizer)"
    )
    # where a function lies in memory is another place in every run
    offset = AntiAdversary(tiny(), step=0.1).offset
    assert describe(partial(precompensated, network=tiny(), offset=offset)) == (
        "precompensated(network=Sequential, offset=AntiAdversary.offset)"
    )
    assert describe(partial(precompensated, offset=random_batch, shares=(0.0, 1.0))) == (
        "precompensated(offset=random_batch, shares=(0.0, 1.0))"
    )


# Wrappers of the model


def test_straight_through_has_the_models_value_and_the_surrogates_gradient() -> None:
    images, _ = random_batch()
    model, surrogate = tiny(1).eval(), tiny(2).eval()
    weights = torch.rand(6, 4, generator=seeded(5))

    def gradient(module: nn.Module) -> Tensor:
        point = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad((module(point) * weights).sum(), point)
        return slope

    both = straight_through(model, surrogate)
    assert torch.equal(both(images), model(images))
    with torch.no_grad():
        assert torch.equal(both(images), model(images))
    assert torch.equal(gradient(both), gradient(surrogate))
    assert not torch.allclose(gradient(both), gradient(model))


def test_replace_gradient_is_exact() -> None:
    value, carrier = torch.tensor([1e-8, 1.0]), torch.tensor([1e8, 3.0], requires_grad=True)
    result = replace_gradient(value, carrier)
    assert torch.equal(result.detach(), value)  # value + carrier - carrier would not be
    result.sum().backward()
    assert carrier.grad is not None
    assert torch.equal(carrier.grad, torch.ones(2))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        replace_gradient(value, torch.zeros(3))


def test_expectation_averages_a_random_model() -> None:
    class Noisy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) + torch.randn(len(images), images[0].numel())

    images, _ = random_batch(n=4)
    torch.manual_seed(0)
    spread = float((expectation(Noisy(), 400)(images) - images.flatten(1)).std())
    assert 0.03 < spread < 0.07  # 1 / sqrt(400)
    assert torch.equal(expectation(tiny().eval(), 1)(images), tiny().eval()(images))
    with pytest.raises(ValueError, match="at least 1"):
        expectation(tiny(), 0)


@pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
def test_a_cut_graph_gives_no_gradient_and_an_unmoved_image() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny()

        def forward(self, images: Tensor) -> Tensor:
            return self.inner((images > 0.5).float())

    images, labels = random_batch()
    labels = Cut().eval()(images).argmax(1)
    assert torch.equal(bim(Cut(), images, labels, eps=1.0), images)
    # the same attack, made adaptive by the wrapper, moves
    through = straight_through(Cut(), tiny())
    assert not torch.equal(bim(through, images, labels, eps=1.0), images)


def test_starts_together_find_what_they_find_one_after_the_other(
    network: nn.Module, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = digits.test.float_images()[:40], digits.test.labels[:40]
    attacks = [
        partial(attack, eps=0.08, restarts=6, loss=loss, stop_early=early)
        for attack in (partial(pgd, steps=3), partial(apgd, steps=6))
        for loss in ("ce", "margin")
        for early in (False, True)
    ]
    together = [attack(network, images, labels, generator=seeded()) for attack in attacks]
    monkeypatch.setattr("advdef.attacks.restarts.TOGETHER", 1)
    for attack, found in zip(attacks, together, strict=True):
        alone = attack(network, images, labels, generator=seeded())
        assert torch.allclose(found, alone, atol=1e-6), attack
        with torch.no_grad():
            broken = network(found).argmax(1) != labels
            assert torch.equal(broken, network(alone).argmax(1) != labels)
        assert 0 < int(broken.sum()) < 40


@pytest.mark.parametrize("early", [False, True])
def test_classes_together_find_what_they_find_one_after_the_other(
    early: bool, network: nn.Module, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = digits.test.float_images()[:40], digits.test.labels[:40]
    inner = partial(apgd, steps=6, restarts=2, loss="dlr")

    def found() -> Tensor:
        return each_class(network, images, labels, eps=0.06, attack=inner, stop_early=early, generator=seeded())

    together = found()
    monkeypatch.setattr("advdef.attacks.composed.TOGETHER", 1)
    alone = found()
    # another batch size sums in another order, and pixels are float32 in [0, 1]: a few roundings of 1e-7
    assert torch.allclose(together, alone, atol=1e-6)
    assert 0 < int(correct(network, together, labels).sum()) < 40
