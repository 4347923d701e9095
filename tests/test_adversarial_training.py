"""Adversarial training and its relatives: each loss is its formula, and without its term it is the plain method."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
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
from advdef.training import Branches, fit, fit_pairs, train_alp, train_at, train_trades
from advdef.training import adversarial as adversarial_training
from advdef.training.adversarial import ascend

EPS = 0.1
BRIEF: dict[str, Any] = {"eps": EPS, "steps": 2, "epochs": 2, "batch_size": 64}
Trainer = Callable[..., dict[str, Tensor]]
Step = Callable[[nn.Module, Tensor, Tensor], Tensor]
Take = Callable[[Trainer], Step]


@pytest.fixture(scope="module")
def part(digits: Dataset) -> Split:
    return digits.train.head(200)


def small(seed: int = 0) -> SmallResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallResNet((1, 28, 28), 10, width=4)


def assert_same_training(split: Split, first: Trainer, second: Trainer) -> None:
    """To the last bit: the losses, the weights and buffers, and what is left of the random stream."""
    one, two, draws, others = small(), small(), seeded(), seeded()
    losses, expected = first(one, split, generator=draws)["loss"], second(two, split, generator=others)["loss"]
    assert torch.equal(losses, expected)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert torch.equal(draws.get_state(), others.get_state())


def plain(model: nn.Module, split: Split, *, generator: torch.Generator) -> dict[str, Tensor]:
    return {"loss": torch.tensor(fit(model, split, generator=generator, epochs=2, batch_size=64))}


class Recorder(nn.Module):
    """A network that keeps the batches of its passes, and whether it was training then."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.passes: list[tuple[bool, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.passes.append((self.training, images.detach().clone()))
        logits: Tensor = self.network(images)
        return logits


def linear(inputs: int = 784, classes: int = 10, *, scale: float = 1.0) -> nn.Sequential:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
        model[1].weight.mul_(scale)
    return model


steep = partial(linear, scale=4.0)  # which an attack moves far


def one_step(train: Trainer, split: Split, **options: Any) -> tuple[float, Tensor, Tensor, Tensor, Tensor]:
    """The loss of a training of one step, and what it was taken of: x, x' (as trained on), F(x), F(x')."""
    model = Recorder(steep())
    history = train(
        model, split, eps=EPS, steps=3, epochs=1, generator=seeded(), batch_size=len(split), learning_rate=1e-12,
        **options,
    )  # fmt: skip
    (batch,) = (images for training, images in model.passes if training)
    clean, adversarial = batch.chunk(2)
    with torch.no_grad():
        before, after = steep()(clean), steep()(adversarial)
    return float(history["loss"]), clean, adversarial, before, after


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([row.exp().sum().log() - row[y] for row, y in zip(logits, labels, strict=True)]).mean()


def labels_of(split: Split, images: Tensor) -> Tensor:
    """The labels of shuffled images."""
    all_images = split.float_images()
    return torch.stack([split.labels[int((all_images - image).abs().sum((1, 2, 3)).argmin())] for image in images])


@pytest.fixture
def taken(part: Split, monkeypatch: pytest.MonkeyPatch) -> Take:
    """Takes the objective out of a training, to be called by hand."""

    def take(train: Trainer) -> Step:
        found: list[Step] = []

        def fake(model: nn.Module, split: Split, *, objective: Step, before_epoch: Any, **options: Any) -> list[float]:
            before_epoch(0)
            found.append(objective)
            return [0.0]

        monkeypatch.setattr(adversarial_training, "fit", fake)
        train(linear(), part, epochs=1, generator=seeded())
        return found[0]

    return take


# What the methods have in common


@pytest.mark.parametrize(
    "train",
    [partial(train_at, alpha=1.0, **BRIEF), partial(train_trades, weight=0.0, **BRIEF)],
    ids=["alpha 1", "TRADES without its term"],
)
def test_without_adversarial_images_it_is_standard_training(part: Split, train: Trainer) -> None:
    assert_same_training(part, train, plain)


def test_alp_without_its_term_is_adversarial_training(part: Split) -> None:
    assert_same_training(part, partial(train_alp, weight=0.0, **BRIEF), partial(train_at, **BRIEF))


@pytest.mark.parametrize(
    "train", [train_at, partial(train_at, alpha=0.5), train_alp, train_trades], ids=["AT", "mixed", "ALP", "TRADES"]
)
def test_a_seed_reproduces_training_and_nothing_else_has_a_part_in_it(part: Split, train: Trainer) -> None:
    state = torch.get_rng_state()
    assert_same_training(part, partial(train, **BRIEF), partial(train, **BRIEF))
    assert torch.equal(torch.get_rng_state(), state)


def test_each_method_trains_something_else(part: Split) -> None:
    found = []
    for train in (train_at, partial(train_at, alpha=0.5), partial(train_at, alpha=1.0), train_alp, train_trades):
        model = small()
        train(model, part, generator=seeded(), **BRIEF)
        found.append(model.head.weight.detach())
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize(
    ("train", "step"),
    [
        (partial(train_at, alpha=1.0), [(True, 50)]),
        (train_at, [(False, 50)] * 3 + [(True, 50)]),
        (partial(train_at, alpha=0.5), [(False, 50)] * 3 + [(True, 100)]),
        (train_alp, [(False, 50)] * 3 + [(True, 100)]),
        (train_trades, [(False, 50)] * 4 + [(True, 100)]),  # the divergence is that from the clean logits
    ],
    ids=["standard", "AT", "mixed", "ALP", "TRADES"],
)
def test_the_attack_sees_evaluation_mode_and_both_branches_go_through_as_one_batch(
    part: Split, train: Trainer, step: list[tuple[bool, int]]
) -> None:
    model = Recorder(nn.Sequential(nn.BatchNorm2d(1), linear()))
    train(model, part, eps=EPS, steps=3, epochs=1, generator=seeded(), batch_size=50)
    assert [(training, len(images)) for training, images in model.passes] == step * 4
    assert int(model.network[0].num_batches_tracked) == 4  # the attack leaves the statistics alone
    assert not model.training


# The losses, from what a step was trained on


def test_adversarial_training_is_cross_entropy_on_the_partners_alone(part: Split) -> None:
    model = Recorder(steep())
    history = train_at(model, part, eps=EPS, steps=3, epochs=1, generator=seeded(), batch_size=200, learning_rate=1e-12)
    (partners,) = (images for training, images in model.passes if training)
    with torch.no_grad():
        loss = float(cross_entropy(steep()(partners), labels_of(part, partners)))
        clean = float(cross_entropy(steep()(part.float_images()), part.labels))
    assert float(history["loss"]) == pytest.approx(loss, rel=1e-4)
    assert loss > 1.2 * clean


def test_mixed_training_weighs_the_two_cross_entropies(part: Split) -> None:
    loss, clean, _, before, after = one_step(partial(train_at, alpha=0.3), part)
    labels = labels_of(part, clean)
    first, second = float(cross_entropy(before, labels)), float(cross_entropy(after, labels))
    assert second > 1.2 * first
    assert loss == pytest.approx(0.3 * first + 0.7 * second, rel=1e-4)


def test_alp_adds_the_squared_distance_of_the_logits(part: Split) -> None:
    loss, clean, _, before, after = one_step(partial(train_alp, weight=0.7), part)
    distance = sum(float((a - b) @ (a - b)) for a, b in zip(before, after, strict=True)) / len(part)
    assert distance > 0.1
    expected = float(cross_entropy(after, labels_of(part, clean))) + 0.7 * distance
    assert loss == pytest.approx(expected, rel=1e-4)
    assert one_step(train_alp, part)[0] == pytest.approx(expected - 0.2 * distance, rel=1e-4)  # the default is 0.5


def test_trades_adds_the_divergence_of_the_partners_from_the_clean_prediction(part: Split) -> None:
    loss, clean, adversarial, before, after = one_step(train_trades, part)

    def divergence(p: Tensor, q: Tensor) -> float:
        p, q = (z.double().exp() / z.double().exp().sum(1, keepdim=True) for z in (p, q))
        return float((p * (p / q).log()).sum(1).mean())

    assert divergence(before, after) != pytest.approx(divergence(after, before), rel=0.05)
    expected = float(cross_entropy(before, labels_of(part, clean))) + 6 * divergence(before, after)
    assert loss == pytest.approx(expected, rel=1e-4)
    # and its attack has ascended just that
    with torch.no_grad():
        near = steep()(clean + 0.001 * torch.randn(clean.shape, generator=seeded()))
    assert divergence(before, after) > 100 * divergence(before, near)
    assert float((adversarial - clean).abs().max()) == pytest.approx(0.001 * 4 + 0.75 * EPS, abs=0.003)


def hand_made(name: str, before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
    if name == "ALP":
        return F.cross_entropy(after, labels) + 0.5 * ((before - after) ** 2).sum(1).mean()
    p, q = before.softmax(1), after.softmax(1)
    return F.cross_entropy(before, labels) + 6 * (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize(("name", "train"), [("ALP", train_alp), ("TRADES", train_trades)])
def test_the_gradient_flows_through_both_branches(part: Split, taken: Take, name: str, train: Trainer) -> None:
    model = Recorder(steep()).train()
    loss = taken(partial(train, eps=EPS, steps=3))(model, part.float_images(), part.labels)
    before, after = model.network(model.passes[-1][1]).chunk(2)
    expected = hand_made(name, before, after, part.labels)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    for one, other in zip(ours, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_ramp_raises_the_weight_epoch_by_epoch(part: Split) -> None:
    seen: list[tuple[int, float]] = []

    def constant(branches: Branches) -> Tensor:
        return 0 * branches.clean.sum() + 1

    options: dict[str, Any] = {"eps": EPS, "steps": 1, "batch_size": 200, "learning_rate": 1e-12}
    losses = fit_pairs(
        linear(), part, generator=seeded(), weight=3.0, penalty=constant, ramp=3, alpha=1.0, epochs=5,
        before_epoch=lambda epoch, weight: seen.append((epoch, weight)), **options,
    )["loss"]  # fmt: skip
    weights = [0.0, 1.0, 2.0, 3.0, 3.0]
    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3, 4]
    assert [weight for _, weight in seen] == pytest.approx(weights)
    assert (losses - losses[0]).tolist() == pytest.approx(weights, abs=1e-4)
    seen.clear()
    train_alp(linear(), part, generator=seeded(), epochs=2, before_epoch=lambda *now: seen.append(now), **options)
    assert seen == [(0, 0.5), (1, 0.5)]  # and without a ramp it is there from the start


def test_the_attack_goes_through_a_stand_in_with_a_growing_budget(part: Split, monkeypatch: Any) -> None:
    seen: list[tuple[nn.Module, float]] = []

    def spy(model: nn.Module, images: Tensor, value: Any, *, eps: float, **options: Any) -> Tensor:
        seen.append((model, eps))
        return images

    monkeypatch.setattr(adversarial_training, "ascend", spy)
    model, stand_in = linear(), linear()
    train_at(
        model, part, eps=0.2, steps=2, epochs=4, generator=seeded(), batch_size=200, eps_ramp=2,
        through=lambda trained: stand_in if trained is model else trained,
    )  # fmt: skip
    assert [target is stand_in for target, _ in seen] == [True] * 4
    assert [eps for _, eps in seen] == pytest.approx([0.1, 0.2, 0.2, 0.2])


def test_a_penalty_sees_the_maps_of_both_branches(part: Split) -> None:
    model, seen = small(), []

    def penalty(branches: Branches) -> Tensor:
        seen.append(branches)
        return branches.adversarial_maps["pool"].mean()

    fit_pairs(
        model, part, eps=EPS, steps=1, epochs=1, generator=seeded(), weight=1.0, penalty=penalty, batch_size=200,
        layers=["stem", "pool"], learning_rate=1e-12,
    )  # fmt: skip
    (branches,) = seen
    shapes = {"stem": (200, 4, 14, 14), "pool": (200, 16)}
    for maps, logits in ((branches.clean_maps, branches.clean), (branches.adversarial_maps, branches.adversarial)):
        assert {name: tuple(value.shape) for name, value in maps.items()} == shapes
        assert torch.allclose(model.head(maps["pool"]), logits, atol=1e-5)  # its own branch's, not the other's
    assert not torch.allclose(branches.clean, branches.adversarial, atol=1e-3)


# The inner attack


def ce_to(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return partial(F.cross_entropy, target=labels, reduction="none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inner_attack_finds_the_corner_of_a_linear_model(dtype: torch.dtype) -> None:
    model = linear(16, 2).to(dtype)
    images = torch.rand(9, 1, 4, 4, dtype=dtype, generator=seeded())
    labels = torch.arange(9) % 2
    found = ascend(model, images, ce_to(labels), eps=0.2, steps=10, step_size=0.25, generator=seeded())
    weight = model[1].weight.detach()
    towards = (weight[1 - labels] - weight[labels]).sign().view_as(images)
    assert found.dtype == dtype
    assert torch.allclose(found, (images + 0.2 * towards).clamp(0, 1), atol=1e-6)


def test_the_inner_attack_stays_in_the_ball_raises_the_loss_and_leaves_no_trace(part: Split) -> None:
    model, images, labels = small(), part.float_images(), part.labels
    fit(model, part, epochs=3, generator=seeded(), batch_size=25, learning_rate=1e-2)
    model.train()
    model.head.eval()  # a mixed mode comes back mixed
    model.zero_grad()
    before, kept = {name: value.clone() for name, value in model.state_dict().items()}, images.clone()
    found = ascend(model, images, ce_to(labels), eps=EPS, steps=5, step_size=0.5, generator=seeded())
    assert model.training
    assert not model.head.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(images, kept)
    assert not found.requires_grad
    assert float((found - images).abs().max()) <= EPS + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    model.eval()
    with torch.no_grad():
        raised = ce_to(labels)(model(found)) - ce_to(labels)(model(images))
    assert float((raised > 0).float().mean()) > 0.95
    assert float(raised.mean()) > 0.3


def test_the_inner_attack_starts_where_it_is_told() -> None:
    model, images = linear(), torch.full((3, 1, 28, 28), 0.5)
    still = partial(ascend, model, images, ce_to(torch.arange(3)), eps=EPS, steps=1, step_size=1e-9)
    drawn = still(generator=seeded())
    assert torch.equal(drawn, still(generator=seeded()))
    assert not torch.equal(drawn, still(generator=seeded(1)))
    assert float((drawn - images).abs().max()) > 0.9 * EPS
    assert float((drawn - images).mean().abs()) < 0.1 * EPS
    start = torch.linspace(-2 * EPS, 2 * EPS, images.numel()).view_as(images)
    assert torch.allclose(still(start=start), images + start.clamp(-EPS, EPS), atol=1e-7)


@pytest.mark.parametrize("train", [train_at, train_alp, train_trades], ids=["AT", "ALP", "TRADES"])
def test_a_step_under_autocast_attacks_well_and_reaches_every_parameter(
    part: Split, taken: Take, train: Trainer
) -> None:
    """As on CUDA, where the objective runs under autocast to bfloat16."""
    model, images, labels = Recorder(small()).train(), part.float_images(), part.labels
    with torch.autocast("cpu", torch.bfloat16):
        loss = taken(partial(train, eps=EPS, steps=5))(model, images, labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients)
    found = model.passes[-1][1][-len(part) :]
    assert found.dtype == torch.float32
    assert float((found - images).abs().max()) <= EPS + 1e-6
    model.eval()
    with torch.no_grad():
        clean, moved = model(images), model(found)
        noisy = model((images + EPS * torch.randn(images.shape, generator=seeded()).sign()).clamp(0, 1))
    if train is train_trades:
        distance = partial(F.kl_div, target=clean.log_softmax(1), reduction="batchmean", log_target=True)
        assert float(distance(moved.log_softmax(1))) > 3 * float(distance(noisy.log_softmax(1)))
    else:
        raised = F.cross_entropy(moved, labels) - F.cross_entropy(clean, labels)
        assert float(raised) > 3 * float((F.cross_entropy(noisy, labels) - F.cross_entropy(clean, labels)).abs())


# What it is for


standard = partial(train_at, alpha=1.0)


@cache
def left_by_attacks(train: Trainer) -> float:
    """What share of striped images is right under attack after a training."""
    split, eps, model = stripes(), 0.15, linear(64, 2)
    images, labels = split.float_images(), split.labels
    train(model, split, eps=eps, steps=3, step_size=0.5, epochs=20, generator=seeded(), learning_rate=1e-2)
    found = pgd(model, images, labels, eps=eps, steps=10, generator=seeded())
    return float(correct(model, found, labels).float().mean())


@each(
    "train",
    [train_at, partial(train_at, eps_ramp=10), partial(train_at, alpha=0.5), train_alp, train_trades],
    ids=["AT", "AT with a growing budget", "mixed", "ALP", "TRADES"],
)
def test_training_raises_robust_accuracy(train: Trainer) -> None:
    assert left_by_attacks(standard) < 0.3
    assert left_by_attacks(train) > 0.9


# Settings that make no sense


@each(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\].*alpha 1\.5"),
        ({"alpha": -0.1}, r"alpha -0\.1"),
        ({"weight": -1.0}, r"weight, ramps and eps from 0.*weight -1\.0"),
        ({"ramp": -1}, r"ramp -1"),
        ({"eps_ramp": -1}, r"eps_ramp -1"),
        ({"eps": -0.1}, r"eps -0\.1"),
        ({"steps": 0}, r"steps from 1.*steps 0"),
        ({"step_size": 0.0}, r"step_size > 0.*step_size 0\.0"),
        ({"weight": 1.0}, "a weight needs a penalty"),
        ({"optimizer": "lion"}, "no optimizer 'lion'; there are adam, sgd"),
        ({"schedule": "steps"}, "no schedule 'steps'; there are constant, cosine, one_cycle"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(part: Split, options: dict[str, Any], message: str) -> None:
    model = linear()
    with pytest.raises(ValueError, match=message):
        fit_pairs(model, part, generator=seeded(), **BRIEF | options)
    assert torch.equal(model[1].weight, linear()[1].weight)


# Images held out


def test_the_weights_that_were_best_on_images_held_out_are_kept(network: nn.Module, digits: Dataset) -> None:
    model, kept = copy.deepcopy(network), adversarial_training._HeldOut(digits.test.head(60))
    look = partial(kept.look, model, model, eps=0.02, steps=2, step_size=0.5)
    for scale in (0.0, 1.0, 0.0):
        model.load_state_dict({name: scale * value for name, value in network.state_dict().items()})
        look()
    assert kept.robust[1] > 0.5 > kept.robust[0] == kept.robust[2]
    assert all(torch.equal(value, kept.best[name]) for name, value in network.state_dict().items())


def test_what_is_held_out_is_attacked_and_not_trained_on(part: Split) -> None:
    told = {"eps": EPS, "steps": 2, "epochs": 1, "batch_size": 64}
    found = train_at(one := small(), part, generator=seeded(), held=40, **told)
    expected = train_at(two := small(), part.head(160), generator=seeded(), **told)
    assert torch.equal(found["loss"], expected["loss"])
    images, labels = part.float_images()[160:], part.labels[160:]
    assert len(found["held"]) == 1
    loss = partial(F.cross_entropy, target=labels, reduction="none")
    attacked = ascend(two, images, loss, eps=EPS, steps=4, step_size=0.25, generator=seeded())
    assert found["held"].item() == pytest.approx(correct(two, attacked, labels).double().mean().item())
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert "held" not in expected
    for held in (-1, 200):
        with pytest.raises(ValueError, match="of 200 images from 0 to 199 can be held out"):
            train_at(small(), part, generator=seeded(), held=held, **told)
