"""Regularised adversarial training: weights are drawn towards orthonormal rows; the rest is adversarial training."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.data import Split
from advdef.papers.snn.classifiers import SmallSpikingResNet
from advdef.papers.snn.training import orthogonalise, train_rat
from advdef.training import train_at

BRIEF: dict[str, Any] = {"eps": 0.05, "steps": 2, "epochs": 2, "batch_size": 16, "learning_rate": 3e-3}


def layer(rows: int, columns: int, *, scale: float = 0.2, seed: int = 0) -> nn.Linear:
    made = nn.Linear(columns, rows)
    with torch.no_grad():
        made.weight.copy_(scale * torch.randn(rows, columns, generator=seeded(seed)))
    return made


def apart(weight: Tensor) -> float:
    """||W W^T - I|| of the rows."""
    rows = weight.detach().flatten(1).double()
    return float((rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)).norm())


def by_hand(weight: Tensor, beta: float) -> Tensor:
    """Row by row: w_i + beta w_i - beta sum_j <w_i, w_j> w_j."""
    rows = weight.detach().double().reshape(len(weight), -1)
    found = []
    for one in rows:
        products = (rows * one).sum(1, keepdim=True)
        found.append(one + beta * one - beta * (products * rows).sum(0))
    return torch.stack(found).reshape(weight.shape)


# The step


def test_the_step_by_hand() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sequential(nn.Conv2d(4, 6, 1, groups=2)), nn.Linear(5, 7))
    model.to(memory_format=torch.channels_last)  # as training leaves it
    expected = [by_hand(module.weight, 0.3) for module in (model[0], model[1][0], model[2])]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    orthogonalise(model, 0.3)
    for module, wanted in zip((model[0], model[1][0], model[2]), expected, strict=True):
        assert torch.allclose(module.weight.detach().double(), wanted, rtol=1e-5, atol=1e-6)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.endswith("bias")


def test_rows_become_orthonormal() -> None:
    for model in (layer(8, 32), nn.Conv2d(4, 6, 3)):
        distances = [apart(model.weight)]
        for _ in range(60):
            orthogonalise(model, 0.1)
            distances.append(apart(model.weight))
        assert all(later < earlier or later < 1e-3 for earlier, later in pairwise(distances))
        assert distances[-1] < 0.05 < 0.5 < distances[0]


def test_orthonormal_rows_stay() -> None:
    for transposed in (False, True):  # rows, and columns of a tall matrix
        weight = torch.linalg.qr(torch.randn(12, 5, generator=seeded()))[0]
        model = nn.Linear(5, 12) if transposed else nn.Linear(12, 5)
        with torch.no_grad():
            model.weight.copy_(weight if transposed else weight.T)
        before = model.weight.clone()
        orthogonalise(model, 0.4)
        assert torch.allclose(model.weight, before, rtol=0, atol=1e-6)
        with torch.no_grad():
            model.weight.mul_(0.5)  # a singular value s becomes (1 + b) s - b s^3
        orthogonalise(model, 0.4)
        assert torch.allclose(model.weight, (1.4 * 0.5 - 0.4 * 0.5**3) * before, rtol=0, atol=1e-6)


def changed(one: Tensor, other: Tensor) -> Tensor:
    """Which rows differ."""
    return (one != other).flatten(1).any(1)


def test_of_a_large_linear_layer_three_tenths_of_the_rows_take_part() -> None:
    for rows, expected in ((199, 199), (200, 60), (333, 100)):
        model = layer(rows, 5)
        before = model.weight.detach().clone()
        orthogonalise(model, 0.01, generator=seeded())
        moved = changed(before, model.weight)
        assert int(moved.sum()) == expected
        # as if they were the whole matrix
        wanted = by_hand(before[moved], 0.01)
        assert torch.allclose(model.weight[moved].detach().double(), wanted, rtol=1e-4, atol=1e-6)


def test_the_rows_are_drawn_anew_from_the_generator() -> None:
    weights = [layer(250, 5).weight.detach()]
    model, again = layer(250, 5), layer(250, 5)
    state, generator = torch.get_rng_state(), seeded()
    for _ in range(3):
        orthogonalise(model, 0.01, generator=generator)
        weights.append(model.weight.detach().clone())
    drawn = [changed(one, other) for one, other in pairwise(weights)]
    assert all(int(rows.sum()) == 75 for rows in drawn)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert not bool(drawn[0][:75].all())
    orthogonalise(again, 0.01, generator=seeded())
    assert torch.equal(again.weight, weights[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_large_convolutions_and_other_layers() -> None:
    """A convolution takes part with all of its rows, and other layers do not."""
    model = nn.Sequential(nn.Conv2d(1, 220, 3), nn.BatchNorm2d(220), nn.Embedding(3, 4))
    before = [module.weight.detach().clone() for module in model]
    orthogonalise(model, 0.01)
    assert bool(changed(before[0], model[0].weight).all())
    assert all(torch.equal(module.weight, kept) for module, kept in zip(model[1:], before[1:], strict=True))


def test_no_beta_changes_nothing() -> None:
    model = nn.Sequential(layer(8, 32), layer(250, 5), nn.Conv2d(4, 6, 3))
    before = [module.weight.detach().clone() for module in model]
    orthogonalise(model, 0.0)
    assert all(torch.equal(module.weight, kept) for module, kept in zip(model, before, strict=True))


def test_weights_stay_what_the_optimiser_holds() -> None:
    model = nn.Sequential(layer(8, 32), layer(250, 5), nn.Conv2d(4, 6, 3))
    held = list(model.parameters())
    for parameter in held:
        parameter.grad = torch.full_like(parameter, 7.0)
    orthogonalise(model, 0.1)
    for one, other in zip(model.parameters(), held, strict=True):
        assert one is other
        assert one.is_leaf
        assert one.requires_grad
        assert one.grad is not None
        assert bool((one.grad == 7.0).all())


@pytest.mark.parametrize("beta", [-1e-3, float("nan"), float("inf")])
def test_a_beta_that_means_nothing_is_refused(beta: float) -> None:
    model = layer(3, 4)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=f"beta must be finite and not negative, not {beta}"):
        orthogonalise(model, beta)
    assert torch.equal(model.weight, before)
    with pytest.raises(ValueError, match="beta must be finite and not negative"):
        train_rat(network(), split_of(), generator=seeded(), beta=beta, **BRIEF)


# Training


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 24), nn.ReLU(),
            nn.Linear(24, 3),
        )  # fmt: skip


def split_of(n: int = 60) -> Split:
    """A bright bar in one of three places, and noise."""
    labels = torch.arange(n) % 3
    images = torch.randint(0, 90, (n, 1, 8, 8), generator=seeded(), dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        images[i, :, 1 + 2 * label : 3 + 2 * label] += 120
    return Split(images, labels)


def test_each_step_of_the_training_is_followed_by_one_on_the_weights() -> None:
    model, other = network(), network()
    history = train_rat(model, split_of(), generator=seeded(), beta=0.05, **BRIEF)
    expected = train_at(other, split_of(), generator=seeded(), after_step=partial(orthogonalise, other, 0.05), **BRIEF)
    assert torch.equal(history["loss"], expected["loss"])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_the_default_draws_weights_towards_orthonormal_rows() -> None:
    models = [network() for _ in range(3)]
    train_rat(models[0], split_of(), generator=seeded(), **BRIEF)
    train_rat(models[1], split_of(), generator=seeded(), beta=0.02, **BRIEF)
    train_at(models[2], split_of(), generator=seeded(), **BRIEF)
    for number in (4, 6):
        default, strong, none = (apart(model[number].weight) for model in models)
        assert strong < default < none


def test_no_beta_is_adversarial_training() -> None:
    model, other = network(), network()
    history = train_rat(model, split_of(), generator=seeded(), beta=0.0, alpha=0.5, **BRIEF)
    expected = train_at(other, split_of(), generator=seeded(), alpha=0.5, **BRIEF)
    assert torch.equal(history["loss"], expected["loss"])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_seed_reproduces_the_rows_that_are_drawn() -> None:
    def trained(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 220), nn.ReLU(), nn.Linear(220, 3))
        train_rat(model, split_of(), generator=seeded(seed), beta=0.05, **BRIEF)
        return model[1].weight.detach()

    state, first = torch.get_rng_state(), trained(0)
    assert torch.equal(trained(0), first)
    assert not torch.equal(trained(1), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_spiking_network_learns() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallSpikingResNet((1, 8, 8), 3, steps=2, width=4)
    split = split_of(90)
    history = train_rat(
        model, split, eps=0.02, steps=1, epochs=5, generator=seeded(), batch_size=15, learning_rate=1e-2
    )
    assert history["loss"].shape == (5,)
    assert float(history["loss"][-1]) < 0.7 * float(history["loss"][0])
    with torch.no_grad():
        assert float((model(split.float_images()).argmax(1) == split.labels).double().mean()) > 0.8
