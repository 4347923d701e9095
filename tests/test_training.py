"""The fit loop: reproducible, honest about failure, with hooks where the schemes need them."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdef.data import Dataset, Split
from advdef.evaluation import correct
from advdef.training import TrainingDiverged, fit, train_standard


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def softmax_regression(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


@pytest.fixture(scope="module")
def part(digits: Dataset) -> Split:
    return digits.train.head(300)


def test_training_learns_and_returns_the_mean_loss(part: Split) -> None:
    model = softmax_regression()
    losses = fit(model, part, epochs=5, generator=seeded(), batch_size=64)
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    assert not model.training
    assert correct(model, part.float_images(), part.labels).float().mean() > 0.8
    # the mean is over images, not over batches of unequal size: 300 = 4 * 64 + 44
    still = softmax_regression()
    (loss,) = fit(still, part, epochs=1, generator=seeded(), batch_size=64, learning_rate=1e-12)
    expected = nn.functional.cross_entropy(softmax_regression()(part.float_images()), part.labels)
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_a_seed_reproduces_training(part: Split) -> None:
    def weights(seed: int) -> Tensor:
        model = softmax_regression()
        train_standard(model, part, epochs=2, generator=seeded(seed), shift=2, batch_size=64)
        return model[1].weight.detach()

    torch.manual_seed(5)  # the default generator has no part in it
    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_divergence_is_an_error(part: Split, value: float) -> None:
    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return model(images).sum() * value

    with pytest.raises(TrainingDiverged, match=r"the loss is not finite from step 1 of 3 in epoch 1 of 3: lower learn"):
        fit(softmax_regression(), part, epochs=3, generator=seeded(), objective=objective)


def with_statistics() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (3, 1), (2, 3)])
def test_divergence_names_its_step_and_leaves_the_last_good_weights(
    part: Split, optimizer: Any, step: int, epoch: int
) -> None:
    """With the statistics of batch normalisation, which one bad batch spoils for good."""
    model, passes = with_statistics(), 0

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        bad = passes == 3 * (epoch - 1) + step
        return nn.functional.cross_entropy(model(images * (float("nan") if bad else 1.0)), labels)

    options: dict[str, Any] = {"batch_size": 100, "optimizer": optimizer}
    with pytest.raises(TrainingDiverged) as caught:
        fit(model, part, epochs=4, generator=seeded(), objective=objective, **options)
    assert str(caught.value) == (
        f"the loss is not finite from step {step} of 3 in epoch {epoch} of 4: lower learning_rate; "
        f"the model is back at its weights after {epoch - 1} epochs"
    )
    good = with_statistics()
    if epoch > 1:
        fit(good, part, epochs=epoch - 1, generator=seeded(), **options)
    assert caught.value.epoch == epoch - 1
    assert caught.value.checkpoint.keys() == good.state_dict().keys()
    for name, value in good.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
        assert torch.equal(caught.value.checkpoint[name], value), name
    assert not model.training


def test_a_last_step_that_spoils_the_weights_is_divergence_too(part: Split) -> None:
    """Its loss was finite, and there is no later one that would not be."""
    steps = iter(range(3))

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        nothing = 0 * model(images).sum()
        return nothing if next(steps) < 2 else nothing.sqrt()  # also zero, with a slope of 0 * infinity

    model = softmax_regression()
    message = "the weights are not finite from step 3 of 3 in epoch 1 of 1: lower learning_rate"
    with pytest.raises(TrainingDiverged, match=message):
        fit(model, part, epochs=1, generator=seeded(), objective=objective, batch_size=100)
    assert torch.equal(model[1].weight, softmax_regression()[1].weight)


def test_a_look_before_an_epoch_can_stop_a_training_that_diverged(part: Split) -> None:
    model, seen = softmax_regression(), []

    def look(epoch: int) -> None:
        seen.append(model[1].weight.detach().clone())
        if epoch == 2:
            model[1].weight.data.fill_(float("nan"))
            raise FloatingPointError("sensitivities of layer 'stem' are not finite")

    expected = (
        "layer 'stem' are not finite before epoch 3 of 4: lower learning_rate; the model is back at its weights after 2"
    )
    with pytest.raises(TrainingDiverged, match=expected) as failure:
        fit(model, part, epochs=4, generator=seeded(), before_epoch=look)
    assert failure.value.epoch == 2
    assert torch.equal(model[1].weight, seen[2])
    assert not model.training


def test_no_epoch_is_an_error(part: Split) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        fit(softmax_regression(), part, epochs=0, generator=seeded())


def test_hooks_run_where_they_say(part: Split) -> None:
    model, events = softmax_regression(), []

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        assert model.training
        events.append("step")
        return nn.functional.cross_entropy(model(images), labels)

    def after_step() -> None:
        events.append("after")
        with torch.no_grad():
            model[1].bias.zero_()

    fit(
        model, part, epochs=2, generator=seeded(), objective=objective, batch_size=150,
        before_epoch=lambda epoch: events.append(epoch), after_step=after_step,
    )  # fmt: skip
    steps = ["step", "after"] * 2
    assert events == [0, *steps, 1, *steps]
    assert not bool(model[1].bias.any())  # the constraint holds after the last step too


def test_only_the_given_parameters_move_each_at_its_own_rate(part: Split) -> None:
    model = softmax_regression()
    weight, bias = model[1].weight.detach().clone(), model[1].bias.detach().clone()
    fit(model, part, epochs=1, generator=seeded(), parameters=[model[1].bias], batch_size=300)
    assert torch.equal(model[1].weight, weight)
    groups: list[dict[str, Any]] = [{"params": [model[1].weight]}, {"params": [model[1].bias], "lr": 0.1}]
    model[1].bias.data = bias.clone()
    fit(model, part, epochs=1, generator=seeded(), parameters=groups, batch_size=300, learning_rate=1e-3)
    # the first step of Adam is as long as the learning rate
    assert float((model[1].bias.detach() - bias).abs().max()) == pytest.approx(0.1, rel=1e-5)
    assert float((model[1].weight.detach() - weight).abs().max()) == pytest.approx(1e-3, rel=1e-5)


RATES = {
    "constant": [1.0] * 20,
    "cosine": [0.5 * (1 + math.cos(math.pi * i / 20)) for i in range(20)],
    "one_cycle": [1 / 4, 1 / 2, 3 / 4, 1.0, *(1 - i / 16 for i in range(16))],
}


@pytest.mark.parametrize("schedule", list(RATES))
def test_the_learning_rate_follows_its_schedule(part: Split, schedule: Any) -> None:
    model, path = softmax_regression(), []

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        path.append(model[1].bias.detach().clone())
        return model[1].bias.sum()  # a constant gradient: each step of Adam is as long as the learning rate

    fit(
        model, part, epochs=4, generator=seeded(), objective=objective, schedule=schedule, learning_rate=0.1,
        batch_size=60, parameters=[model[1].bias],
    )  # fmt: skip
    path.append(model[1].bias.detach())
    lengths = [float((a - b).mean()) for a, b in pairwise(path)]
    rounding = 2 * torch.finfo(torch.float32).eps  # of biases of up to 2
    assert lengths == pytest.approx([0.1 * rate for rate in RATES[schedule]], rel=1e-5, abs=rounding)


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_one_cycle_has_room_in_a_training_of_a_few_steps(part: Split, epochs: int) -> None:
    def moved(**options: Any) -> float:
        model = softmax_regression()
        fit(model, part, epochs=epochs, generator=seeded(), batch_size=300, **options)
        return float((model[1].weight.detach() - softmax_regression()[1].weight.detach()).abs().max())

    assert 0 < moved(schedule="one_cycle") <= moved() * 1.001


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_an_optimizer_steps_as_the_one_of_torch(part: Split, optimizer: Any, weight_decay: float) -> None:
    model, other = softmax_regression(), softmax_regression()
    fit(
        model, part, epochs=2, generator=seeded(), batch_size=100, optimizer=optimizer, learning_rate=0.05,
        weight_decay=weight_decay,
    )  # fmt: skip
    make = {"adam": torch.optim.Adam, "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True)}[optimizer]
    theirs = make(other.parameters(), lr=0.05, weight_decay=weight_decay)
    draws = seeded()
    for _ in range(2):
        for images, labels in part.batches(100, shuffle=True, generator=draws):
            theirs.zero_grad()
            nn.functional.cross_entropy(other(images), labels).backward()
            theirs.step()
    assert torch.equal(model[1].weight, other[1].weight)
    assert torch.equal(model[1].bias, other[1].bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "no optimizer 'lion'; there are adam, sgd"),
        ({"schedule": "steps"}, "no schedule 'steps'; there are constant, cosine, one_cycle"),
    ],
    ids=str,
)
def test_an_unknown_choice_is_refused_with_what_there_is(part: Split, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(softmax_regression(), part, epochs=1, generator=seeded(), **options)


def stripes(n: int = 400) -> Split:
    """One strong pixel and many weak ones tell two classes apart; only the strong one survives an eps of 0.15."""
    generator = seeded(3)
    labels = torch.randint(2, (n,), generator=generator)
    sign = 2 * labels[:, None] - 1
    images = 0.5 + 0.08 * sign * torch.ones(n, 64) + 0.02 * torch.randn(n, 64, generator=generator)
    strong = 0.5 + 0.35 * sign[:, 0] * torch.where(torch.rand(n, generator=generator) < 0.97, 1, -1)
    images[:, 0] = strong
    return Split((images.clamp(0, 1) * 255).round().byte().reshape(n, 1, 8, 8), labels)
