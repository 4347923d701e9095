"""Adapters to foolbox and pyautoattack: nothing is believed that was not checked, and each is near the optimum."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import contract
import pytest
import torch
from cases import each
from contract import Pair, Shape, seeded
from torch import Tensor, nn

from advdef.attacks.libraries.foolbox import boundary, carlini_wagner, ddn, deepfool, ead, hop_skip_jump, pointwise
from advdef.attacks.libraries.pyautoattack import autoattack, fab, square
from advdef.attacks.losses import margin
from advdef.evaluation import correct
from advdef.norms import Norm, size

Attack = Callable[..., Tensor]

pytest.importorskip("eagerpy", reason="foolbox is not installed")
pytest.importorskip("pyautoattack")

INF = float("inf")


def named(attack: Attack) -> str:
    return str(getattr(attack, "func", attack).__name__)


def tiny(seed: int = 0, shape: Shape = (2, 5, 5), classes: int = 4) -> nn.Sequential:
    """The random network, centred and without a bias, so that it uses all of its classes."""
    network = contract.tiny(seed, shape, classes, bias=False)
    network[0].running_mean.fill_(0.5)
    return network


def tiny_batch(n: int = 6, shape: Shape = (2, 5, 5)) -> Pair:
    """Images with pixels at both ends of [0, 1], and what ``tiny()`` says they are."""
    images = (1.4 * torch.rand(n, *shape, generator=seeded()) - 0.2).clamp(0, 1)
    return images, tiny(shape=shape)(images).argmax(1)


# What is kept of what a library finds


class Stuck(nn.Module):
    """Says 0 whatever it sees, except that it says 1 to a black image."""

    def forward(self, images: Tensor) -> Tensor:
        black = (images.flatten(1) == 0).all(1).float()
        return torch.stack([2 - black, 2 * black, 0 * black, 0 * black], 1)


SEARCH: dict[str, Any] = {"steps": 20, "binary_search_steps": 6, "step_size": 0.1}
CARLINI_WAGNER, EAD = partial(carlini_wagner, **SEARCH), partial(ead, **SEARCH)
BOUNDARY, HOP_SKIP_JUMP = partial(boundary, steps=20), partial(hop_skip_jump, steps=2, first_evaluations=10)


@each("attack", [CARLINI_WAGNER, EAD, deepfool, HOP_SKIP_JUMP, pointwise, square], ids=named)
@pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
def test_a_failed_attack_returns_the_image(attack: Attack) -> None:
    """Foolbox marks a failed search by a black image, which this model does misclassify."""
    images, labels = tiny_batch()[0], torch.zeros(6, dtype=torch.int64)
    eps = 0.5 if attack is square else INF
    assert torch.equal(attack(Stuck(), images, labels, eps=eps, generator=seeded()), images)


@pytest.mark.parametrize(("attack", "eps"), [(deepfool, 4.0), (pointwise, 50.0), (partial(square, queries=20), 0.5)])
def test_what_needs_no_attack_is_neither_attacked_nor_changed(attack: Attack, eps: float) -> None:
    images, labels = tiny_batch()
    labels[::2] = (labels[::2] + 1) % 4
    model, asked = tiny(), []
    model.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    found = attack(model, images, labels, eps=eps, generator=seeded())
    assert torch.equal(found[::2], images[::2])
    moved = (found != images).flatten(1).any(1)
    assert bool(moved.any())
    assert not bool(correct(tiny(), found, labels)[moved].any())
    assert asked[0] == asked[-1] == 6  # a first look and the verdict
    assert max(asked[1:-1]) <= 3
    asked.clear()
    assert torch.equal(attack(model, images, labels, eps=0.0, generator=seeded()), images)
    assert asked == [6]


@each(("attack", "norm"), [(deepfool, "L2"), (EAD, "L1"), (partial(deepfool, norm="Linf"), "Linf"), (pointwise, "L0")])
def test_what_is_farther_away_than_eps_does_not_count(attack: Attack, norm: Norm) -> None:
    images, labels = tiny_batch()
    unbounded = attack(tiny(), images, labels, eps=INF, generator=seeded())
    needed = size(unbounded - images, norm)
    assert bool((needed > 0).all())
    eps = needed * torch.tensor([0.999, 1, 1.001, INF, 0.5, 1])
    found = attack(tiny(), images, labels, eps=eps, generator=seeded())
    assert (found != images).flatten(1).any(1).tolist() == [False, True, True, True, False, True]
    assert torch.equal(found[eps >= needed], unbounded[eps >= needed])


@pytest.mark.parametrize(
    ("attack", "library"),
    [(deepfool, "foolbox"), (square, "pyautoattack"), (fab, "pyautoattack"), (autoattack, "pyautoattack")],
)
def test_a_missing_library_is_named(attack: Attack, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [library, *(m for m in sys.modules if m.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"needs {library}: pip install {library}"):
        attack(tiny(), *tiny_batch(), eps=0.1)


REFUSED: list[tuple[Any, ...]] = [
    (carlini_wagner, {"steps": 0}, "steps must be at least 1, not 0"),
    (carlini_wagner, {"binary_search_steps": 0}, "binary_search_steps must be"),
    (carlini_wagner, {"norm": "L3"}, "no norm 'L3'"),
    (deepfool, {"norm": "L1"}, "no DeepFool in norm 'L1'; there are L2, Linf"),
    (deepfool, {"candidates": 1}, "candidates must be at least 2"),
    (ead, {"steps": 0}, "steps must be"),
    (ddn, {"steps": 0}, "steps must be"),
    (boundary, {"steps": 0}, "steps must be"),
    (hop_skip_jump, {"norm": "L1"}, "no HopSkipJump in norm 'L1'; there are L2, Linf"),
    (hop_skip_jump, {"first_evaluations": 0}, "first_evaluations must be"),
    (autoattack, {"norm": "L1"}, "no ball in norm 'L1'"),
    (autoattack, {"version": "plus"}, "no version 'plus' of AutoAttack; there are standard, rand"),
    (autoattack, {"batch_size": 0}, "batch_size must be"),
    (square, {"queries": 0}, "queries must be"),
    (fab, {"steps": 0}, "steps must be"),
]


def test_bad_options_are_refused() -> None:
    for attack, options, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            attack(tiny(), *tiny_batch(), eps=0.1, **options)


# Targets


BY_DECISIONS = [BOUNDARY, HOP_SKIP_JUMP, pointwise]


@each("attack", [CARLINI_WAGNER, EAD, partial(ddn, steps=20), *BY_DECISIONS], ids=named)
def test_a_target_is_reached_or_the_image_returned(attack: Attack) -> None:
    images, labels = tiny_batch(8)
    targets = (labels + 1) % 4
    if attack in BY_DECISIONS:  # they start from an image of the target class
        targets = torch.where(torch.isin(targets, labels), targets, (labels + 2) % 4)
    found = attack(tiny(), images, labels, eps=INF, targets=targets, generator=seeded())
    moved = (found != images).flatten(1).any(1)
    assert bool(moved.any())
    assert torch.equal(tiny()(found).argmax(1)[moved], targets[moved])
    with pytest.raises(ValueError, match="own label"):
        attack(tiny(), images, labels, eps=INF, targets=labels)


@pytest.mark.parametrize("attack", [BOUNDARY, pointwise], ids=named)
def test_an_image_without_a_start_does_not_spoil_the_others(attack: Attack) -> None:
    class Never3(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = tiny()(images)
            return torch.cat([logits[:, :3], logits[:, 3:] - 100], 1)

    images = tiny_batch(10)[0]
    labels = Never3()(images).argmax(1)
    assert len(labels.unique()) == 3
    targets = (labels + 1) % 3
    targets[4] = 3
    found = attack(Never3(), images, labels, eps=INF, targets=targets, generator=seeded())
    moved = (found != images).flatten(1).any(1)
    assert moved.tolist() == [i != 4 for i in range(10)]


@pytest.mark.parametrize("attack", BY_DECISIONS, ids=named)
def test_an_attack_by_decisions_refuses_a_model_of_moods(attack: Attack) -> None:
    class Moody(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return tiny()(images) + 0.3 * torch.randn(len(images), 4)

    torch.manual_seed(0)
    images, labels = tiny_batch(30)
    with pytest.raises(ValueError, match="decides alike"):
        attack(Moody(), images, labels, eps=INF, generator=seeded())


# Strength


def linear(classes: int, shape: Shape) -> nn.Sequential:
    generator = seeded()
    layer = nn.Linear(shape[0] * shape[1] * shape[2], classes)
    with torch.no_grad():
        weight = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.copy_(weight - weight.mean(1, keepdim=True))  # so that brightness alone decides nothing
        layer.bias.copy_(torch.randn(classes, generator=generator) / 10)
    return nn.Sequential(nn.Flatten(), layer)


def smallest_distance(model: nn.Sequential, images: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """To the nearest other class, when no pixel meets the ends of [0, 1]: gap over the dual norm of the weights."""
    weight, logits = model[1].weight.detach(), model(images).detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    difference = weight[labels][:, None] - weight[None]
    dual = {"Linf": difference.abs().sum(2), "L2": difference.norm(dim=2), "L1": difference.abs().amax(2)}[norm]
    return (gaps / dual.clamp_min(1e-12)).scatter(1, labels[:, None], INF).amin(1)


def linear_batch(model: nn.Sequential, shape: Shape, norm: Norm, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images neither at a boundary nor so far from it that the ends of [0, 1] matter; labels; smallest distances."""
    images = 0.35 + 0.3 * torch.rand(300, *shape, generator=seeded(3))
    labels = model(images).argmax(1)
    distance = smallest_distance(model, images, labels, norm)
    low, high = {"Linf": (0.01, 0.2), "L2": (0.1, 0.4), "L1": (0.1, 0.3)}[norm]
    rows = ((distance > low) & (distance < high)).nonzero()[:n, 0]
    assert len(rows) == n
    return images[rows], labels[rows], distance[rows]


CLOSEST: dict[str, tuple[Attack, Norm]] = {
    "carlini_wagner": (partial(carlini_wagner, steps=80, step_size=0.02), "L2"),
    "deepfool": (deepfool, "L2"),
    "deepfool in Linf": (partial(deepfool, norm="Linf"), "Linf"),
    "ead": (partial(ead, steps=80), "L1"),
    "ddn": (ddn, "L2"),
    "fab": (partial(fab, steps=20), "Linf"),
    "fab in L2": (partial(fab, norm="L2", steps=20), "L2"),
    "fab, targeted": (partial(fab, norm="L2", targeted=True, steps=20), "L2"),  # the likeliest is also the nearest here
}


BATCHES: list[tuple[int, Shape]] = [(1, (1, 6, 6)), (3, (3, 5, 7))]


@each("name", list(CLOSEST))
def test_the_smallest_perturbation_of_a_linear_model_is_nearly_found(name: str) -> None:
    attack, norm = CLOSEST[name]
    for n, shape in BATCHES:
        model = linear(4, shape)
        images, labels, distance = linear_batch(model, shape, norm, n)
        found = attack(model, images, labels, eps=INF, generator=seeded())
        assert not bool(correct(model, found, labels).any())
        ratio = size(found - images, norm) / distance
        assert bool(((ratio > 0.9999) & (ratio < 1.25)).all()), ratio


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        (partial(boundary, steps=3500), "L2"),
        (partial(hop_skip_jump, steps=12), "L2"),
        (partial(hop_skip_jump, steps=12, norm="Linf"), "Linf"),
    ],
    ids=["boundary", "hop_skip_jump", "hop_skip_jump in Linf"],
)
def test_decisions_alone_lead_near_the_smallest_perturbation(attack: Attack, norm: Norm) -> None:
    # with two classes: among several an attack that sees decisions may settle on another than the nearest
    shape = (3, 5, 7)
    model = linear(2, shape)
    images, labels, distance = linear_batch(model, shape, norm, 3)
    found = attack(model, images, labels, eps=INF, generator=seeded())
    assert not bool(correct(model, found, labels).any())
    ratio = size(found - images, norm) / distance
    assert bool(((ratio > 0.9999) & (ratio < 1.25)).all()), ratio


def test_hop_skip_jump_is_as_good_on_many_images_as_on_few() -> None:
    model = linear(2, (1, 8, 8))
    images, labels, distance = linear_batch(model, (1, 8, 8), "L2", 60)
    attack = partial(hop_skip_jump, model, eps=INF, steps=4, generator=seeded())
    many = size(attack(images, labels) - images, "L2") / distance
    few = size(attack(images[:5], labels[:5]) - images[:5], "L2") / distance[:5]
    assert many.mean() < few.mean() + 0.1  # 1.12 and 1.11; 1.46 with foolbox's own estimate


def test_pointwise_leaves_no_value_that_it_could_reset() -> None:
    images, labels = tiny_batch(12)
    found = pointwise(tiny(), images, labels, eps=INF, generator=seeded())
    for image, near, label in zip(images, found, labels, strict=True):
        changed = (near != image).nonzero()
        assert 0 < len(changed) < image.numel() / 2
        for place in changed:
            reset = near.clone()
            reset[tuple(place)] = image[tuple(place)]
            assert bool(correct(tiny(), reset[None], label[None]))
    nearer = pointwise(tiny(), images, labels, eps=INF, norm="L1", generator=seeded())
    assert size(nearer - images, "L1").mean() < 0.9 * size(found - images, "L1").mean()


@each(
    ("attack", "norm", "factor"),
    [
        (autoattack, "Linf", 1.25),
        (partial(autoattack, norm="L2"), "L2", 1.25),
        (partial(autoattack, version="rand"), "Linf", 1.25),
        # squares fit random weights badly
        (partial(square, queries=1000), "Linf", 2.0),
        (partial(square, norm="L2", queries=1000), "L2", 4.0),
    ],
    ids=["autoattack", "autoattack in L2", "autoattack, rand", "square", "square in L2"],
)
def test_a_linear_model_falls_just_beyond_its_smallest_distance(attack: Attack, norm: Norm, factor: float) -> None:
    for n, shape in BATCHES:
        model = linear(4, shape)
        images, labels, distance = linear_batch(model, shape, norm, n)
        eps = factor * float(distance.max())
        found = attack(model, images, labels, eps=eps, generator=seeded())
        assert not bool(correct(model, found, labels).any())
        # float32 rounds x + eps by up to 6e-8
        assert bool((size((found - images).double(), norm) <= 1.000001 * eps + 6e-8).all())


def test_carlini_wagner_moves_pixels_at_the_ends() -> None:
    model = linear(4, (1, 6, 6))
    images = (torch.rand(8, 1, 6, 6, generator=seeded()) > 0.5).float()
    labels = model(images).argmax(1)
    search = dict(steps=60, binary_search_steps=4, step_size=0.03)
    found = carlini_wagner(model, images, labels, eps=INF, **search)
    assert not bool(correct(model, found, labels).any())
    for end in (0, 1):
        moved = (found - images).abs().where(images == end, torch.zeros(()))
        assert bool((moved.amax((1, 2, 3)) > 0.03).all())


def test_deepfool_fools_a_network_in_a_batch_and_one_by_one(network: nn.Module, batch: Pair) -> None:
    images, labels = batch
    found = deepfool(network, images, labels, eps=INF)
    assert not bool(correct(network, found, labels).any())
    assert not bool(correct(network, found, labels, batch_size=1).any())


def test_confidence_asks_carlini_wagner_for_a_lead() -> None:
    images, labels = tiny_batch()
    found = carlini_wagner(tiny(), images, labels, eps=INF, steps=50, step_size=0.05, confidence=0.1)
    assert bool((margin(tiny()(found), labels) > 0.0999).all())


# What is particular to a library


def test_autoattack_needs_enough_classes() -> None:
    images = tiny_batch()[0]
    three, two = tiny(classes=3), tiny(classes=2)
    with pytest.raises(ValueError, match=r"AutoAttack 'standard' needs at least 4 classes for its DLR loss, not 3"):
        autoattack(three, images, three(images).argmax(1), eps=0.5)
    with pytest.raises(ValueError, match=r"AutoAttack 'rand' needs at least 3 classes for its DLR loss, not 2"):
        autoattack(two, images, two(images).argmax(1), eps=0.5, version="rand")
    for model, attack in ((three, partial(autoattack, version="rand")), (two, fab), (two, partial(fab, targeted=True))):
        labels = model(images).argmax(1)
        assert not bool(correct(model, attack(model, images, labels, eps=0.5), labels).all())


def test_fab_goes_to_the_nearest_class_or_to_the_likeliest() -> None:
    model = linear(10, (1, 6, 6))
    images, labels, _ = linear_batch(model, (1, 6, 6), "L2", 10)
    likeliest = model(images).scatter(1, labels[:, None], -INF).argmax(1)
    arrived = [
        model(fab(model, images, labels, eps=INF, norm="L2", steps=10, targeted=targeted)).argmax(1)
        for targeted in (False, True)
    ]
    assert not torch.equal(arrived[0], likeliest)
    assert torch.equal(arrived[1], likeliest)


class Bright(nn.Module):
    """Says 1 to images brighter than 0.55 on average."""

    def forward(self, images: Tensor) -> Tensor:
        assert bool(images.isfinite().all())
        brightness = images.mean((1, 2, 3)) - 0.55
        return torch.stack([-brightness, brightness], 1)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (lambda x: x + 0.1, True),
        (lambda x: x + 0.5, True),  # moved back into the ball
        (lambda x: x * 0 + 7.0, True),
        (lambda x: x + 0.01, False),  # not misclassified
        (lambda x: x * float("nan"), False),
        (lambda x: -x, False),
    ],
)
def test_pyautoattack_is_not_taken_at_its_word(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Tensor], Tensor], kept: bool
) -> None:
    class Liar:
        random_choice = None

        def __init__(self, *args: Any, **options: Any) -> None: ...

        def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
            return answer(images)

    monkeypatch.setattr("pyautoattack.square.SquareAttack", Liar)
    images, labels = torch.full((2, 1, 5, 5), 0.5), torch.zeros(2, dtype=torch.int64)
    for norm, eps in (("Linf", 0.1), ("L2", 0.5)):
        found = square(Bright(), images, labels, eps=eps, norm=norm)
        assert torch.equal(found, images) != kept
        assert bool((size(found - images, norm) <= 1.000001 * eps).all())
        assert bool((correct(Bright(), found, labels) != kept).all())


def test_square_in_l2_takes_every_size_that_it_does_not_refuse(request: pytest.FixtureRequest) -> None:
    """All pairs of sides with --all; else squares, and one side of 5, 8 or 12."""
    refused = set()
    for height, width in product(range(3, 16), repeat=2):
        if request.config.getoption("all") or height == width or height in (5, 8, 12):
            images = torch.rand(2, 1, height, width, generator=seeded())
            model = linear(4, (1, height, width))
            try:
                square(model, images, model(images).argmax(1), eps=0.1, norm="L2", queries=2, generator=seeded())
            except ValueError:  # what pyautoattack itself raises is a RuntimeError or a ZeroDivisionError
                refused.add((height, width))
    assert {(12, 12), (14, 14), (4, 4)} <= refused
    assert not {(5, 5), (6, 6), (8, 8), (15, 15), (5, 7)} & refused


def test_square_neither_asks_about_no_image_nor_writes_into_the_logits() -> None:
    kept = torch.zeros(6, 3)

    class Tie(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) > 0
            return kept[: len(images)]

    images, labels = tiny_batch()[0], torch.zeros(6, dtype=torch.int64)
    assert torch.equal(square(Tie(), images, labels, eps=0.1, generator=seeded()), images)
    assert not bool(kept.any())


def test_autoattack_is_quiet_and_gives_the_tracer_back(caplog: pytest.LogCaptureFixture) -> None:
    images, labels = tiny_batch()
    before, calls = sys.gettrace(), []

    def tracer(frame: Any, event: str, argument: Any) -> None:
        calls.append(event)

    with caplog.at_level(logging.DEBUG):
        sys.settrace(tracer)
        try:
            autoattack(tiny(), images, labels, eps=0.5, generator=seeded())
            assert sys.gettrace() is tracer
        finally:
            sys.settrace(before)
    assert calls
    assert caplog.records == []
    assert not logging.getLogger("auto-attack").disabled


def test_foolbox_gives_the_root_logger_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    deepfool(tiny(), *tiny_batch(), eps=0.1)
    assert logging.getLogger().handlers == []
