"""Sensitive Neuron Stabilizing: its loss is its formula, it holds the chosen neurons, and it is otherwise plain AT."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import each
from contract import seeded
from test_training import stripes
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.data import Dataset, Split
from advdef.evaluation import correct
from advdef.models import SmallResNet
from advdef.papers.sensitivity import training as stabilizing
from advdef.papers.sensitivity.measure import Pairs, make_pairs, select, sensitivity
from advdef.papers.sensitivity.training import Distance, stabilizing_loss, train_sns
from advdef.training import TrainingDiverged, fit, train_at

EPS = 0.1
BRIEF: dict[str, Any] = {"eps": EPS, "steps": 1, "batch_size": 100, "probe": 50, "probe_steps": 2}
DISTANCES: tuple[Distance, ...] = ("l1", "l2", "cosine")


@pytest.fixture(scope="module")
def part(digits: Dataset) -> Split:
    return digits.train.head(200)


def small(seed: int = 0) -> SmallResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallResNet((1, 28, 28), 10, width=4)


def perceptron(inputs: int = 784, hidden: int = 12, classes: int = 10) -> nn.Sequential:
    """One hidden layer, `2`; its outputs must not hang on the mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


# The loss, on maps made by hand: two images, three neurons

CLEAN = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]], [[5.0, 0.0]]], [[[0.0, 4.0]], [[1.0, 1.0]], [[6.0, 1.0]]]])
MOVED = torch.tensor([[[[2.0, 1.0]], [[2.0, 0.0]], [[0.0, 5.0]]], [[[0.0, 1.0]], [[3.0, 1.0]], [[6.0, 1.0]]]])


@each(
    ("chosen", "distance", "relative", "expected"),
    [
        ([0], "l1", False, (1 + 2 + 0 + 3) / 4),
        ([1], "l1", False, (0 + 2 + 2 + 0) / 4),
        ([0, 1], "l1", False, (6 / 4 + 4 / 4) / 2),
        ([0, 1, 2], "l1", False, (6 / 4 + 4 / 4 + 10 / 4) / 3),
        ([0, 2], "l2", False, ((1 + 4 + 0 + 9) / 4 + (25 + 25 + 0 + 0) / 4) / 2),
        # the clean means are 2, 1.5 and 3
        ([0, 1], "l1", True, (6 / 4 / 2.001 + 4 / 4 / 1.501) / 2),
        ([0, 2], "l2", True, (14 / 4 / 2.001**2 + 50 / 4 / 3.001**2) / 2),
        ([2], "cosine", False, 1 - (0 + 1) / 2),
        ([0, 1], "cosine", False, 1 - (5 / 50**0.5 + 1 + 1 / 2**0.5 + 4 / 20**0.5) / 4),
    ],
)
def test_the_loss_is_its_formula(chosen: list[int], distance: Distance, relative: bool, expected: float) -> None:
    rows = torch.tensor(chosen)
    loss = stabilizing_loss(CLEAN, MOVED, rows, distance=distance, relative=relative)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    wide = stabilizing_loss(CLEAN.double(), MOVED.double(), rows, distance=distance, relative=relative)
    assert wide.dtype == torch.float64
    assert float(wide) == pytest.approx(expected, rel=1e-5)
    units, partners = CLEAN[..., :1, :1], MOVED[..., :1, :1]  # a unit is a map of one pixel
    loss = stabilizing_loss(units[..., 0, 0], partners[..., 0, 0], rows, distance=distance, relative=relative)
    assert float(loss) == pytest.approx(
        float(stabilizing_loss(units, partners, rows, distance=distance, relative=relative))
    )


def test_the_plain_loss_is_the_mean_sensitivity_of_the_chosen(part: Split) -> None:
    model, rows = small().eval(), torch.tensor([1, 3])
    pairs = make_pairs(model, part.float_images(), part.labels, partial(pgd, steps=2), eps=EPS, keep="all")
    with torch.no_grad():
        loss = stabilizing_loss(model.stem(2 * pairs.images - 1), model.stem(2 * pairs.adversarial - 1), rows)
    assert float(loss) == pytest.approx(float(sensitivity(model, pairs)["stem"][rows].mean()), rel=1e-5)


def test_only_chosen_neurons_get_a_gradient() -> None:
    for distance, relative in [("l1", False), ("l2", False), ("cosine", False), ("l1", True), ("l2", True)]:
        for shape in ((5, 6, 3, 3), (5, 6)):
            if distance == "cosine" and len(shape) == 2:
                continue  # the direction of a single value hardly ever changes
            clean, moved = (torch.randn(shape, generator=seeded(i)).requires_grad_() for i in range(2))
            loss = stabilizing_loss(clean, moved, torch.tensor([1, 4]), distance=distance, relative=relative)
            for gradient in torch.autograd.grad(loss, [clean, moved]):
                assert not bool(gradient[:, [0, 2, 3, 5]].any())
                assert bool((gradient[:, [1, 4]] != 0).all())


def test_a_detached_clean_branch_gets_no_gradient() -> None:
    for distance, relative in [("l1", False), ("l2", False), ("cosine", False), ("l1", True), ("l2", True)]:
        clean, moved = (torch.rand(5, 6, 3, 3, generator=seeded(i)).requires_grad_() for i in range(2))
        measure = partial(stabilizing_loss, clean, moved, torch.arange(4), distance=distance, relative=relative)
        first, second = torch.autograd.grad(measure(detach_clean=True), [clean, moved], allow_unused=True)
        assert first is None
        attached = torch.autograd.grad(measure(), [clean, moved])
        assert torch.equal(second, attached[1])
        assert bool(attached[0].any())
        assert torch.equal(measure(detach_clean=True), measure())


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_relative_loss_does_not_hang_on_the_scale_of_a_channel(distance: Distance) -> None:
    clean, moved = (5 + torch.rand(5, 6, 3, 3, generator=seeded(i)) for i in range(2))
    scale = torch.tensor([1.0, 3.0, 0.5, 20.0, 1.0, 1.0])[:, None, None]
    measure = partial(stabilizing_loss, chosen=torch.arange(6), distance=distance)
    loss = float(measure(clean, moved, relative=True))
    assert float(measure(scale * clean, scale * moved, relative=True)) == pytest.approx(loss, rel=1e-4)
    assert float(measure(scale * clean, scale * moved)) > 2 * float(measure(clean, moved))
    silent = torch.zeros_like(clean)  # and where it divides by nothing, the floor keeps it finite
    assert float(measure(silent, silent + 1e-3, relative=True)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_shrinking_activations_gains_nothing_with_the_relative_loss(distance: Distance) -> None:
    clean, moved = (5 + torch.rand(4, 2, 3, 3, generator=seeded(i)) for i in range(2))
    scale = torch.ones((), requires_grad=True)
    slopes = []
    for relative in (False, True):
        loss = stabilizing_loss(scale * clean, scale * moved, torch.arange(2), distance=distance, relative=relative)
        (slope,) = torch.autograd.grad(loss, scale)
        slopes.append(float(slope / loss.detach()))
    assert slopes[0] == pytest.approx(1.0 if distance == "l1" else 2.0, rel=1e-4)
    assert abs(slopes[1]) < 1e-3  # but for the floor


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="no distance 'l3'; there are l1, l2, cosine"):
        stabilizing_loss(CLEAN, MOVED, torch.tensor([0]), distance="l3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a cosine is relative already: choose l1 or l2"):
        stabilizing_loss(CLEAN, MOVED, torch.tensor([0]), distance="cosine", relative=True)


# Training: what it is without its term


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_without_its_term_it_is_adversarial_training_bit_for_bit(part: Split, alpha: float) -> None:
    one, two, draws, others = small(), small(), seeded(), seeded()
    options: dict[str, Any] = {"eps": EPS, "steps": 2, "epochs": 2, "batch_size": 64, "alpha": alpha}
    history = train_sns(one, part, generator=draws, weight=0.0, **options)
    expected = train_at(two, part, generator=others, **options)
    assert list(history) == ["loss"]
    assert torch.equal(history["loss"], expected["loss"])
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert torch.equal(draws.get_state(), others.get_state())


def test_without_its_term_and_adversarial_images_it_is_standard_training(part: Split) -> None:
    one, two, draws, others = small(), small(), seeded(), seeded()
    history = train_sns(one, part, eps=EPS, steps=2, epochs=2, generator=draws, weight=0.0, alpha=1.0, batch_size=64)
    assert history["loss"].tolist() == pytest.approx(
        fit(two, part, epochs=2, generator=others, batch_size=64), rel=1e-7
    )
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert torch.equal(draws.get_state(), others.get_state())


# Training: the loss of a step, from known sensitivities

SIGMA = torch.tensor([0.3, 0.1, 0.0, 0.4, 0.2, 0.0, 0.0, 0.1, 0.1, 0.2, 0.1, 0.3])
TOP, BOTTOM = [0, 3, 11], [2, 5, 6]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Lets every measurement find ``SIGMA`` in the layer `2`, and notes how it was asked."""
    asked: list[dict[str, Any]] = []

    def fake(model: nn.Module, pairs: object, **options: Any) -> dict[str, Tensor]:
        asked.append(options)
        return {"2": SIGMA}

    monkeypatch.setattr(stabilizing, "sensitivity", fake)
    return asked


def one_step(split: Split, **options: Any) -> tuple[float, dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
    """The loss of a training of one step and its history; of both branches the hidden layer; both cross-entropies."""
    model, taken = perceptron(), []
    handle = model.register_forward_pre_hook(lambda module, inputs: taken.append((module.training, inputs[0].detach())))
    history = train_sns(
        model, split, **BRIEF | {"batch_size": len(split)}, epochs=1, generator=seeded(), layers=["2"],
        learning_rate=1e-12, ratio=0.25, **options,
    )  # fmt: skip
    handle.remove()
    (both,) = (images for training, images in taken if training)
    order = torch.randperm(len(split), generator=seeded())  # the first draw of training
    with torch.no_grad():
        hidden = perceptron()[:3](both)
        losses = [F.cross_entropy(logits, split.labels[order]) for logits in perceptron()[3](hidden).chunk(2)]
    return float(history["loss"]), history, *hidden.chunk(2), *losses


@pytest.mark.parametrize(
    ("options", "rows", "share"),
    [
        ({}, TOP, 1.0),
        ({"which": "bottom"}, BOTTOM, 100.0),  # they do not move at all: no more than a hundredfold
        ({"which": "all"}, list(range(12)), (1.0 / 3) / (1.8 / 12)),
        ({"which": "all", "match": False}, list(range(12)), 1.0),
        ({"which": "bottom", "match": False}, BOTTOM, 1.0),
    ],
    ids=str,
)
def test_a_step_adds_the_weighted_change_of_the_chosen(
    part: Split, known: list[dict[str, Any]], options: dict[str, Any], rows: list[int], share: float
) -> None:
    loss, history, clean, moved, _, attacked = one_step(part, weight=2.0, **options)
    assert history["chosen.2"].tolist() == [rows]
    change = float((clean - moved).abs()[:, rows].mean())
    assert change > 0.01
    assert loss == pytest.approx(float(attacked) + 2.0 * share * change, rel=1e-4)
    assert known == [{"definition": "absolute", "layers": ("2",)}]


def test_random_neurons_weigh_as_much_as_the_top_ones(part: Split, known: list[dict[str, Any]]) -> None:
    loss, history, clean, moved, _, attacked = one_step(part, which="random")
    (rows,) = history["chosen.2"].tolist()
    assert len(rows) == 3
    assert rows not in (TOP, BOTTOM)
    share = float(SIGMA[TOP].mean() / SIGMA[rows].mean())
    assert share > 1.1
    assert loss == pytest.approx(float(attacked) + share * float((clean - moved).abs()[:, rows].mean()), rel=1e-4)


def test_a_step_weighs_the_cross_entropies_and_takes_the_settings_of_the_loss(
    part: Split, known: list[dict[str, Any]]
) -> None:
    for distance in DISTANCES:
        options: dict[str, Any] = {"distance": distance, "relative": distance == "l1"}
        loss, _, clean, moved, first, second = one_step(part, alpha=0.3, weight=0.5, **options)
        term = stabilizing_loss(clean, moved, torch.tensor(TOP), **options)
        assert loss == pytest.approx(float(0.3 * first + 0.7 * second + 0.5 * term), rel=1e-4)
    assert [asked["definition"] for asked in known] == ["relative", "absolute", "absolute"]


def test_each_epoch_holds_the_neurons_chosen_last(part: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([SIGMA, 1 - SIGMA])
    monkeypatch.setattr(stabilizing, "sensitivity", lambda *args, **options: {"2": next(found)})
    epochs: list[list[int]] = []
    real = stabilizing_loss

    def spy(clean: Tensor, adversarial: Tensor, chosen: Tensor, **options: Any) -> Tensor:
        epochs.append(chosen.tolist())
        return real(clean, adversarial, chosen, **options)

    monkeypatch.setattr(stabilizing, "stabilizing_loss", spy)
    train_sns(perceptron(), part, epochs=2, generator=seeded(), layers=["2"], ratio=0.25, **BRIEF)
    assert epochs == [TOP, TOP, BOTTOM, BOTTOM]


def test_detaching_the_clean_branch_changes_training(part: Split) -> None:
    def trained(**options: Any) -> Tensor:
        model = small()
        train_sns(model, part, epochs=1, generator=seeded(), weight=5.0, **BRIEF, **options)
        return model.stem[0].weight.detach()

    assert torch.equal(trained(), trained())
    assert not torch.equal(trained(detach_clean=True), trained())


# Training: which neurons, and when


def counted(model: SmallResNet, monkeypatch: pytest.MonkeyPatch, steps_per_epoch: int) -> list[int]:
    """The epochs before which sensitivity is measured, as they come."""
    epochs: list[int] = []

    def spy(network: nn.Module, pairs: object, **options: Any) -> dict[str, Tensor]:
        assert network is model
        done = int(model.stem[1].num_batches_tracked)
        assert done % steps_per_epoch == 0
        epochs.append(done // steps_per_epoch)
        return sensitivity(network, pairs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stabilizing, "sensitivity", spy)
    return epochs


@pytest.mark.parametrize(
    ("reselect_every", "ramp", "epochs"),
    [
        (1, 0, [0, 1, 2, 3]),
        (2, 0, [0, 2]),
        (3, 0, [0, 3]),
        (None, 0, [0]),
        (1, 2, [1, 2, 3]),
        (2, 2, [1, 3]),
        (None, 2, [1]),
    ],
)
def test_neurons_are_chosen_anew_when_they_should(
    part: Split, monkeypatch: pytest.MonkeyPatch, reselect_every: int | None, ramp: int, epochs: list[int]
) -> None:
    model = small()
    measured = counted(model, monkeypatch, steps_per_epoch=2)
    history = train_sns(
        model, part, epochs=4, generator=seeded(), ramp=ramp, reselect_every=reselect_every, ratio=0.3, **BRIEF
    )
    assert measured == epochs
    channels = dict(zip(model.taps, (4, 4, 4, 8, 8, 16, 16, 16), strict=True))
    sizes = {4: 2, 8: 3, 16: 5}  # three tenths, rounded up
    assert set(history) == {"loss", *(f"{kind}.{name}" for kind in ("chosen", "sensitivity") for name in model.taps)}
    assert history["loss"].shape == (4,)
    for name, count in channels.items():
        chosen, sigma = history[f"chosen.{name}"], history[f"sensitivity.{name}"]
        assert chosen.dtype == torch.int64
        assert chosen.shape == (len(epochs), sizes[count])
        assert sigma.shape == (len(epochs), count)
        for now, rows in zip(sigma, chosen, strict=True):
            assert torch.equal(select({name: now}, ratio=0.3)[name], rows)


def first_choice(split: Split, **options: Any) -> dict[str, set[int]]:
    model = small()
    history = train_sns(model, split, epochs=1, generator=seeded(), **BRIEF | {"probe": 200} | options)
    return {name: set(history[f"chosen.{name}"][0].tolist()) for name in model.taps}


def test_the_chosen_are_those_asked_for(part: Split) -> None:
    model = small().eval()
    pairs = make_pairs(model, part.float_images(), part.labels, partial(pgd, steps=10), eps=EPS, keep="all")
    sigma = sensitivity(model, pairs)
    top, bottom, drawn, everything = (
        first_choice(part, which=which, ratio=0.25, probe_steps=10) for which in ("top", "bottom", "random", "all")
    )
    assert everything == {name: set(range(len(values))) for name, values in sigma.items()}
    assert top != drawn != bottom
    for name, values in sigma.items():
        assert len(top[name]) == len(bottom[name]) == len(drawn[name]) == len(values) // 4
        assert not top[name] & bottom[name]
        assert values[list(top[name])].mean() > 1.15 * values.mean()
        assert values[list(bottom[name])].mean() < values.mean() / 1.15
    # measured on the first images of training, by another attack, they are almost the same
    same = {name: set(rows.tolist()) for name, rows in select(sigma, ratio=0.25).items()}
    shared = sum(len(top[name] & same[name]) for name in top)
    assert shared >= 0.8 * sum(map(len, top.values()))


def test_the_choice_comes_from_the_first_images_and_the_attack_it_is_told(
    part: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, passes, seen = small(), [], []
    fit(model, part, epochs=3, generator=seeded(), batch_size=25, learning_rate=1e-2)  # so that it knows a class

    def spy(network: nn.Module, pairs: Pairs, **options: Any) -> dict[str, Tensor]:
        seen.append((pairs, passes.copy()))
        return sensitivity(network, pairs, **options)

    monkeypatch.setattr(stabilizing, "sensitivity", spy)
    model.register_forward_pre_hook(lambda module, inputs: passes.append((module.training, len(inputs[0]))))
    for options in ({"probe": 70, "probe_steps": 5}, {"probe": 1024, "probe_steps": 3}):
        passes.clear()
        train_sns(model, part, epochs=1, generator=seeded(), learning_rate=1e-12, **BRIEF | options)
    (pairs, five), (everything, three) = seen
    assert five == [(False, 70)] * 5
    assert three == [(False, 200)] * 3
    assert torch.equal(pairs.images, part.float_images()[:70])
    assert torch.equal(pairs.labels, part.labels[:70])
    assert torch.equal(everything.images, part.float_images())
    assert float((pairs.adversarial - pairs.images).abs().max()) <= EPS + 1e-6
    other = pgd(model, pairs.images, pairs.labels, eps=EPS, steps=5, step_size=0.25, generator=seeded())
    with torch.no_grad():
        clean, attacked, as_well = (
            float(F.cross_entropy(model(x), pairs.labels)) for x in (pairs.images, pairs.adversarial, other)
        )
    assert attacked - clean > 0.8 * (as_well - clean) > 0.1


def test_sensitivities_that_are_not_finite_stop_training_with_the_last_good_weights(part: Split) -> None:
    model = small()
    with pytest.raises(TrainingDiverged, match="the model is back at its weights after"):
        train_sns(
            model, part, eps=EPS, steps=1, epochs=3, generator=seeded(), optimizer="sgd", learning_rate=1e6,
            batch_size=50, probe=50, probe_steps=1,
        )  # fmt: skip
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_the_choice_leaves_the_random_stream_of_training_alone(part: Split) -> None:
    """Neither the batches nor the starts of the attack may hang on how often neurons are chosen, or on how many."""
    states, batches = [], []
    state = torch.get_rng_state()
    for options in (
        {"reselect_every": 1},
        {"reselect_every": None},
        {"probe": 20},
        {"which": "random"},
        {"weight": 0.0},
    ):
        model, draws, seen = small(), seeded(), []
        handle = model.register_forward_pre_hook(
            lambda m, inputs, seen=seen: seen.append(inputs[0]) if m.training else None
        )
        brief = BRIEF | {"alpha": 0.5, "batch_size": 40} | options
        train_sns(model, part.head(80), epochs=2, generator=draws, **brief)
        handle.remove()
        states.append(draws.get_state())
        batches.append(torch.stack([both[:40] for both in seen]))
    assert all(torch.equal(other, states[0]) for other in states)
    assert all(torch.equal(other, batches[0]) for other in batches)
    assert torch.equal(torch.get_rng_state(), state)


def test_random_neurons_are_drawn_from_the_seed(part: Split) -> None:
    def drawn(seed: int) -> list[list[int]]:
        history = train_sns(
            small(),
            part.head(60),
            epochs=2,
            generator=seeded(seed),
            which="random",
            layers=["pool"],
            ratio=0.25,
            **BRIEF,
        )
        return history["chosen.pool"].tolist()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert first == again != other
    assert first[0] != first[1]


# What it is for


def test_it_keeps_the_chosen_neurons_still(part: Split) -> None:
    def change(weight: float) -> float:
        """Of the neurons that would change most, in shares of their size."""
        model = small()
        train_sns(
            model, part, **BRIEF | {"batch_size": 50}, epochs=4, generator=seeded(), weight=weight, relative=True,
            learning_rate=1e-2, ratio=0.25,
        )  # fmt: skip
        pairs = make_pairs(model, part.float_images(), part.labels, partial(pgd, steps=5), eps=EPS, keep="all")
        sigma = sensitivity(model, pairs, definition="relative")
        return sum(float(sigma[name][rows].mean()) for name, rows in select(sigma, ratio=0.25).items())

    assert change(3.0) < 0.8 * change(0.0)


@each("options", [{}, {"relative": True, "detach_clean": True}, {"alpha": 0.5}, {"alpha": 1.0, "weight": 1.0}], ids=str)
def test_training_raises_robust_accuracy(options: dict[str, Any]) -> None:
    split, eps = stripes(), 0.15
    images, labels = split.float_images(), split.labels
    left = {}
    for name, chosen in {"standard": {"weight": 0.0, "alpha": 1.0}, "SNS": {"weight": 0.1} | options}.items():
        torch.manual_seed(3)
        # without a ReLU, which a small network that is trained on attacks switches off for good
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 2))
        train_sns(
            model, split, eps=eps, steps=3, step_size=0.5, epochs=15, generator=seeded(), learning_rate=1e-2,
            batch_size=50, layers=["1"], which="all", probe=100, probe_steps=3, **chosen,
        )  # fmt: skip
        found = pgd(model, images, labels, eps=eps, steps=10, generator=seeded())
        left[name] = float(correct(model, found, labels).float().mean())
    assert left["standard"] < 0.5
    assert left["SNS"] > 0.9


# Settings that make no sense


@each(
    ("options", "message"),
    [
        ({"layers": ["stem", "waist"]}, "SmallResNet has no layer 'waist'; it has stem, "),
        ({"layers": []}, "no layers; SmallResNet has stem, "),
        ({"ratio": 0.0}, r"ratio must lie in \(0, 1\], not 0.0"),
        ({"ratio": 1.5}, r"ratio must lie in \(0, 1\], not 1.5"),
        ({"which": "some"}, "no choice 'some' of neurons; there are top, bottom, random, all"),
        ({"distance": "l3"}, "no distance 'l3'; there are l1, l2, cosine"),
        ({"reselect_every": 0}, "reselect_every must be at least 1, or None for once, not 0"),
        ({"probe": 0}, "probe and probe_steps must be at least 1, not 0 and 2"),
        ({"probe_steps": 0}, "probe and probe_steps must be at least 1, not 50 and 0"),
        ({"weight": float("nan")}, "weight, ramps and eps from 0"),
        ({"weight": -1.0}, "weight, ramps and eps from 0"),
        ({"alpha": 2.0}, r"alpha must lie in \[0, 1\]"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_before_training(
    part: Split, options: dict[str, Any], message: str
) -> None:
    model = small()
    with pytest.raises(ValueError, match=message):  # at once, though with a ramp the first epoch has no term
        train_sns(model, part, epochs=2, generator=seeded(), ramp=1, **BRIEF | options)
    assert int(model.stem[1].num_batches_tracked) == 0


def test_a_model_without_taps_needs_layers(part: Split) -> None:
    train: Callable[..., object] = partial(train_sns, perceptron(), part, epochs=1, generator=seeded(), **BRIEF)
    with pytest.raises(ValueError, match="Sequential names no taps: pass layers, any of 0, 1, 2, 3"):
        train()
    train(layers=["2"])
