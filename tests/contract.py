"""What every attack is held to, shared by the test files of own attacks and of adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advdef.contract import TrainingModeWarning
from advdef.evaluation import correct
from advdef.norms import Norm, size

Pair = tuple[Tensor, Tensor]
Shape = tuple[int, int, int]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(seed: int = 0, shape: Shape = (2, 3, 3), classes: int = 4, *, bias: bool = True) -> nn.Sequential:
    """A random network with parts whose mode matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = shape[0] * shape[1] * shape[2]
        return nn.Sequential(
            nn.BatchNorm2d(shape[0]), nn.Flatten(), nn.Linear(inputs, 16), nn.Tanh(), nn.Dropout(0.5),
            nn.Linear(16, classes, bias=bias),
        ).eval()  # fmt: skip


def spoiled(images: Tensor, value: float) -> Tensor:
    """The images with one pixel of the second one replaced."""
    images = images.clone()
    images[1, 0, 0, 0] = value
    return images


def assert_leaves_no_trace(
    attack: Callable[..., Tensor], model: nn.Sequential, images: Tensor, labels: Tensor, eps: float
) -> Tensor:
    """The model's modes, weights, buffers and gradients and the images are as before; one warning of its mode."""
    model.train()
    model[4].eval()  # a mixed mode comes back mixed
    model[2].weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0) if parameter.requires_grad else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = images.clone(), labels.clone()
    with pytest.warns(TrainingModeWarning, match=r"call model\.eval\(\) first") as warned:
        found = attack(model, images, labels, eps=eps, generator=seeded())
    assert len(warned) == 1
    assert [m.training for m in model] == [True, True, True, True, False, True]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name != "2.weight")
        assert parameter.grad is None if name == "2.weight" else bool((parameter.grad == 7.0).all())
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    return found


def net() -> nn.Sequential:
    """A random network that gives every label to some image."""
    return tiny(28)


def random_batch(n: int = 6) -> Pair:
    """Images, with the labels that this network gives them."""
    images = torch.rand(n, 2, 3, 3, generator=seeded())
    return images, net()(images).argmax(1)


class Seen(list[Any]):
    """What was seen: equal to any other for a key, so that who looks on changes none."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Seen, ()


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """The images that the model is shown."""
    seen = Seen()
    handle = model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    yield seen
    handle.remove()


def norm_of(name: str) -> Norm:
    return "L2" if "L2" in name else "Linf"


class AttackContract:
    """What every ascent in a ball is held to, by its ``name``; a subclass names its ``attacks``.

    ``deterministic`` are those that draw nothing.
    """

    attacks: ClassVar[Mapping[str, Callable[..., Tensor]]]
    deterministic: ClassVar[Mapping[str, Callable[..., Tensor]]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        for argument, named in (("name", self.attacks), ("plain", self.deterministic)):
            if argument in metafunc.fixturenames:
                metafunc.parametrize(argument, list(named))

    @settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data(), seed=st.integers(0, 100), eps=st.sampled_from([0.0, 1e-3, 8 / 255, 0.3, 1.0]))
    def test_the_ball_and_the_box_are_kept_exactly(self, name: str, data: st.DataObject, seed: int, eps: float) -> None:
        pixels = st.sampled_from([0.0, 1.0, 0.5, 1 / 3, 1e-7, 1 - 2**-24]) | st.floats(0, 1, width=32)
        images = torch.tensor(data.draw(st.lists(pixels, min_size=36, max_size=36))).reshape(2, 2, 3, 3)
        labels = torch.tensor([seed % 4, 1])
        found = self.attacks[name](tiny(seed), images, labels, eps=eps, generator=seeded(seed))
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert bool((found >= 0).all())
        assert bool((found <= 1).all())
        if norm_of(name) == "L2":
            assert bool((size((found - images).double(), "L2") <= 1.000001 * eps + 1e-7).all())  # float32
        else:
            assert bool((found >= images - eps).all())
            assert bool((found <= images + eps).all())

    def test_eps_zero_returns_the_image(self, name: str) -> None:
        images, labels = random_batch()
        assert torch.equal(self.attacks[name](net(), images, labels, eps=0.0, generator=seeded()), images)

    def test_each_image_may_have_its_own_eps(self, name: str) -> None:
        images, labels = random_batch()
        attack = partial(self.attacks[name], net(), images, labels)
        eps = torch.tensor([0.0, 0.01, 0.05, 0.1, 0.3, 1.0])
        found = attack(eps=eps, generator=seeded())
        moved = size(found - images, norm_of(name))
        assert bool((moved <= eps + 1e-6).all())
        assert torch.equal(found[0], images[0])
        assert moved[5] > 0.1
        same = attack(eps=torch.full((6,), 0.1), generator=seeded())
        assert torch.equal(same, attack(eps=0.1, generator=seeded()))

    @pytest.mark.parametrize("stop_early", [False, True])
    def test_an_image_alone_fares_as_in_a_batch(self, plain: str, stop_early: bool) -> None:
        model, (images, labels) = net().double(), random_batch(12)
        attack = partial(self.deterministic[plain], model, eps=0.06, stop_early=stop_early)
        together = attack(images.double(), labels)
        assert 0 < int(correct(model, together, labels).sum()) < 12  # so some leave early
        for i in range(len(images)):
            alone = attack(images[i : i + 1].double(), labels[i : i + 1])
            assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-12)

    def test_a_seed_reproduces_and_another_one_differs(self, name: str) -> None:
        attack, batch, state = self.attacks[name], random_batch(), torch.get_rng_state()
        first, again, *others = (attack(net(), *batch, eps=0.2, generator=seeded(s)) for s in (3, 3, 4, 5, 6, 7))
        assert torch.equal(first, again)
        assert not all(torch.equal(first, other) for other in others)  # of a few steps some end in the same corner
        assert torch.equal(torch.get_rng_state(), state)  # nothing else is drawn from

    def test_attacks_work_where_gradients_are_switched_off(self, name: str) -> None:
        attack, (images, labels) = self.attacks[name], random_batch()
        expected = attack(net(), images, labels, eps=0.2, generator=seeded())
        with torch.no_grad():
            found = attack(net(), images, labels, eps=0.2, generator=seeded())
        assert torch.equal(found, expected)
        assert not torch.equal(found, images)

    def test_what_is_wrong_already_is_left_alone_when_stopping_early(self, plain: str) -> None:
        attack, (images, labels) = self.deterministic[plain], random_batch()
        wrong = (labels + 1) % 4
        assert torch.equal(attack(net(), images, wrong, eps=0.1, stop_early=True), images)
        assert not torch.equal(attack(net(), images, wrong, eps=0.1), images)

    @pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
    def test_dead_layers_and_constant_logits_give_no_nan(self, name: str) -> None:
        images, labels = random_batch()
        for dead in (0, 2, 5):
            model = net()
            with torch.no_grad():
                for parameter in model[dead].parameters():
                    parameter.zero_()
            with watched(model) as seen:
                found = self.attacks[name](model, images, labels, eps=0.1, generator=seeded())
            assert all(bool(torch.isfinite(x).all()) for x in [found, *seen])
