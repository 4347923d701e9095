"""Networks of spiking neurons with other gradients and the same values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import seeded
from spiking import assert_close, pulled_back
from torch import Tensor, nn

from advdef.papers.snn.neurons import Firing, firing_rates, neurons_of, using
from advdef.papers.snn.surrogates import RECTANGLE, Surrogate
from advdef.papers.snn.through import Mixed, Through, spiking_stand_ins


class Net(nn.Module):
    """Neurons at four places, some of whose names begin alike, and logits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(6, 12), Firing(2), nn.Sequential(nn.Linear(12, 12), Firing(2)))
            self.body2 = nn.Sequential(nn.Linear(12, 12), Firing(2))
            self.last = Firing(2, surrogate=Surrogate("arctan"))
            self.head = nn.Linear(12, 3)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.head:
                with torch.no_grad():
                    module.weight *= 3

    def forward(self, images: Tensor) -> Tensor:
        spikes: Tensor = self.last(self.body2(self.body(images.repeat(2, 1))))
        logits: Tensor = self.head(spikes.unflatten(0, (2, -1)).mean(0))
        return logits


NAMES = ["body.1", "body.2.1", "body2.1", "last"]
OTHER = Surrogate("straight-through")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 6, generator=seeded(3))


def input_gradient(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    weights = torch.randn(model(images).shape, generator=seeded(4))
    return pulled_back(model, images, weights)


def kinds(model: nn.Module) -> list[str]:
    return [layer.surrogate.kind for layer in neurons_of(model).values()]


def test_neurons_by_name() -> None:
    net = Net()
    assert list(neurons_of(net)) == NAMES
    assert neurons_of(net)["body.2.1"] is net.body[2][1]
    alone = Firing(2)
    assert neurons_of(alone) == {"": alone}


def test_using_changes_gradients_and_no_value(images: Tensor) -> None:
    net = Net()
    values, gradient = net(images), input_gradient(net, images)
    with using(net, OTHER):
        assert kinds(net) == ["straight-through"] * 4
        assert torch.equal(net(images), values)
        other = input_gradient(net, images)
    assert kinds(net) == ["rectangle"] * 3 + ["arctan"]
    assert not torch.allclose(other, gradient)
    assert torch.equal(input_gradient(net, images), gradient)
    assert torch.equal(net(images), values)


def test_using_takes_the_layers_below_a_name() -> None:
    for chosen, expected in [
        ({"body": OTHER}, [1, 1, 0, 0]),
        ({"body2": OTHER}, [0, 0, 1, 0]),
        ({"body.2": OTHER}, [0, 1, 0, 0]),
        ({"body.2.1": OTHER, "last": OTHER}, [0, 1, 0, 1]),
        ({"": OTHER}, [1, 1, 1, 1]),
        ({}, [0, 0, 0, 0]),
    ]:
        net = Net()
        with using(net, chosen):
            assert [int(layer.surrogate is OTHER) for layer in neurons_of(net).values()] == expected
        assert kinds(net) == ["rectangle"] * 3 + ["arctan"]


@pytest.mark.parametrize("turn", [1, -1])
def test_the_longest_name_counts(turn: int) -> None:
    chosen = {"": Surrogate("rate"), "body": Surrogate("triangle"), "body.2": OTHER}
    net = Net()
    with using(net, dict(list(chosen.items())[::turn])):
        assert kinds(net) == ["triangle", "straight-through", "rate", "rate"]


def test_surrogates_come_back_after_an_exception() -> None:
    net = Net()

    def fail() -> None:
        with using(net, OTHER), using(net, {"body": Surrogate("rate")}):
            assert kinds(net) == ["rate", "rate", "straight-through", "straight-through"]
            raise RuntimeError("the third wheel")

    with pytest.raises(RuntimeError, match="third wheel"):
        fail()
    assert kinds(net) == ["rectangle"] * 3 + ["arctan"]


def test_the_gradient_may_be_taken_after_the_block(images: Tensor) -> None:
    net, point = Net(), images.clone().requires_grad_()
    with using(net, OTHER):
        expected = input_gradient(net, images)
        inside = net(point)
    weights = torch.randn(inside.shape, generator=seeded(4))
    (after,) = torch.autograd.grad(inside, point, weights)
    assert torch.equal(after, expected)
    # and that of values from before the block is not changed by it
    outside = net(point)
    with using(net, OTHER):
        (before,) = torch.autograd.grad(outside, point, weights)
    assert torch.equal(before, input_gradient(net, images))


def test_names_without_spiking_layers_are_refused() -> None:
    net = Net()
    for prefix in ("bod", "body.1.", "body.0", "head", "body.2.1.0", "Body"):
        message = f"no spiking layer lies in '{prefix}'; layers: body.1, body.2.1, body2.1, last"
        with pytest.raises(ValueError, match=message), using(net, {"body": OTHER, prefix: OTHER}):
            pass
        with pytest.raises(ValueError, match=message):
            Through(net, {"body": OTHER, prefix: OTHER})
        assert kinds(net) == ["rectangle"] * 3 + ["arctan"]


def test_models_without_spiking_layers_are_refused() -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(ValueError, match="Sequential has no spiking layer"):
        neurons_of(plain)
    with pytest.raises(ValueError, match="Sequential has no spiking layer"), using(plain, OTHER):
        pass
    with pytest.raises(ValueError, match="Sequential has no spiking layer"):
        Through(plain, OTHER)
    with pytest.raises(ValueError, match="Sequential has no spiking layer"):
        firing_rates(plain, torch.zeros(1, 2))
    assert spiking_stand_ins(plain, {"one": OTHER}) == {}


def test_a_stand_in_has_other_gradients_and_the_same_values(images: Tensor) -> None:
    net = Net()
    with using(net, OTHER):
        expected = input_gradient(net, images)
    through = Through(net, OTHER)
    assert torch.equal(through(images), net(images))
    assert torch.equal(input_gradient(through, images), expected)
    assert not torch.allclose(expected, input_gradient(net, images))
    assert kinds(net) == ["rectangle"] * 3 + ["arctan"]
    part = Through(net, {"body.2": OTHER})
    with using(net, {"body.2": OTHER}):
        assert torch.equal(input_gradient(part, images), input_gradient(net, images))
    assert not torch.allclose(input_gradient(part, images), expected)


def test_a_stand_in_shares_weights_and_mode() -> None:
    net = Net()
    weights = {id(parameter) for parameter in net.parameters()}
    assert {id(parameter) for parameter in Through(net, OTHER).parameters()} == weights
    assert Through(net, OTHER).training
    assert not Through(net.eval(), OTHER).training
    assert not net.training
    assert Through(net, OTHER).train().training
    assert net.training


class Defence(nn.Module):
    """A model around another, which it calls its network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(2 * images)
        return logits


def test_stand_ins_of_models_in_models(images: Tensor) -> None:
    net = Net()
    outer = Defence(net)
    with using(net, OTHER):
        expected = input_gradient(outer, images)
    assert not torch.allclose(expected, input_gradient(outer, images))
    for model in (Through(outer, OTHER), Defence(Through(net, OTHER)), Through(outer, {"network": OTHER})):
        assert torch.equal(model(images), outer(images))
        assert torch.equal(input_gradient(model, images), expected)
    some = Through(outer, {"network.body2": OTHER})
    with using(net, {"body2": OTHER}):
        assert torch.equal(input_gradient(some, images), input_gradient(outer, images))
    assert Through(outer, OTHER).network is net
    assert Through(net, OTHER).network is net


def test_a_mix_has_the_mean_of_the_gradients_and_the_same_values(images: Tensor) -> None:
    net = Net()
    mixed: list[Any] = [OTHER, RECTANGLE, Surrogate("membrane"), {"body": Surrogate("rate"), "last": OTHER}]
    found, pulled = Mixed(net, mixed), [input_gradient(Through(net, rules), images) for rules in mixed]
    sizes = [gradient.abs().mean(1, keepdim=True).clamp_min(1e-30) for gradient in pulled]
    assert max(float(size.max()) for size in sizes) > 2 * min(float(size.min()) for size in sizes)
    expected = torch.stack([gradient / size for gradient, size in zip(pulled, sizes, strict=True)]).mean(0)
    assert not pulled[1][0].any()  # this image has no gradient through the rectangle
    assert_close(input_gradient(found, images), expected)
    assert_close(found(images), net(images))  # but for rounding, as all copies are one batch
    with torch.no_grad():
        assert torch.equal(found(images), net(images))
    assert kinds(net) == ["rectangle"] * 3 + ["arctan"]
    assert found.network is net


def test_a_mix_of_one_and_of_an_image_without_gradient(images: Tensor) -> None:
    net = Net()
    alone = input_gradient(Through(net, OTHER), images)
    found = input_gradient(Mixed(net, [OTHER]), images)
    assert_close(found, alone / alone.abs().mean(1, keepdim=True))
    dead = input_gradient(Mixed(net, [Surrogate("rectangle", 1e-6)]), images)
    assert torch.equal(dead, torch.zeros_like(dead))
    with pytest.raises(ValueError, match="there must be a surrogate"):
        Mixed(net, [])


def test_stand_ins_by_name(images: Tensor) -> None:
    net = Net()
    found = spiking_stand_ins(net, {"one": OTHER, "two": {"last": Surrogate("rate")}})
    assert list(found) == ["one", "two"]
    gradients = [input_gradient(model, images) for model in (*found.values(), net)]
    assert torch.equal(gradients[0], input_gradient(Through(net, OTHER), images))
    assert torch.equal(gradients[1], input_gradient(Through(net, {"last": Surrogate("rate")}), images))
    assert not any(torch.allclose(gradients[i], gradients[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    with pytest.raises(ValueError, match="no spiking layer lies in 'first'"):
        spiking_stand_ins(net, {"one": {"first": OTHER}})
