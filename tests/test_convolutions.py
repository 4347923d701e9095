"""The faster gradient at the input of convolutions: that of torch but for rounding, however it is used."""

from __future__ import annotations

import platform
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from cases import each
from contract import seeded
from networks import small_network
from torch import Tensor, nn

from advdef import convolutions
from advdef.attacks import Attack, apgd, mim, pgd
from advdef.contract import borrowed
from advdef.convolutions import quick_gradients
from advdef.data import Dataset
from advdef.devices import keep_freed_memory
from advdef.evaluation import correct
from advdef.training import train_at, train_standard

LAYERS: dict[str, dict[str, Any]] = {
    "grey, stride 2": dict(in_channels=1, kernel_size=8, stride=2, padding=3),
    "colour": dict(in_channels=3, kernel_size=3, padding=1),
    "colour, uneven": dict(in_channels=3, kernel_size=(3, 5), stride=(1, 2), padding=(0, 2), dilation=(2, 1)),
    "no bias": dict(in_channels=2, kernel_size=5, stride=3, bias=False),
    "all of its input": dict(in_channels=5, kernel_size=14),
    "all of one channel": dict(in_channels=1, kernel_size=14, bias=False),
}


def layer_of(name: str) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(out_channels=6, **LAYERS[name])


def value(layer: nn.Module, images: Tensor) -> Tensor:
    return layer(images).square().sum((1, 2, 3))


@each("name", LAYERS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_output_and_all_gradients_are_those_of_torch(name: str, channels_last: bool) -> None:
    layer = layer_of(name)
    images = torch.rand(4, layer.in_channels, 14, 14, generator=seeded())
    if channels_last:
        images, layer = (part.to(memory_format=torch.channels_last) for part in (images, layer))  # type: ignore[call-overload]
    images.requires_grad_()
    wanted = [images, *layer.parameters()]
    expected, theirs = layer(images), torch.autograd.grad(value(layer, images).sum(), wanted)
    with quick_gradients(layer):
        found, ours = layer(images), torch.autograd.grad(value(layer, images).sum(), wanted)
        alone = torch.autograd.grad(value(layer, images).sum(), images)[0]
        value(layer, images).sum().backward()
    assert "_Convolution" in type(found.grad_fn).__name__
    assert torch.equal(found, expected)
    for other, own, kept in zip(theirs, ours, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max()))
        torch.testing.assert_close(kept.grad, own)
    torch.testing.assert_close(alone, ours[0])


@each("name", ["grey, stride 2", "all of its input"])
def test_it_can_be_differentiated_again_and_in_batches(name: str) -> None:
    layer = layer_of(name)
    images = torch.rand(2, layer.in_channels, 14, 14, generator=seeded()).requires_grad_()
    directions = torch.rand(3, *layer(images).shape, generator=seeded(1))

    def ends() -> list[Tensor]:
        (slope,) = torch.autograd.grad(value(layer, images).sum(), images, create_graph=True)
        at_weight, at_images = torch.autograd.grad(slope.square().sum(), [layer.weight, images])
        (batched,) = torch.autograd.grad(layer(images), images, directions, is_grads_batched=True)
        by_function = torch.func.grad(lambda x: value(layer, x).sum())(images.detach())
        return [slope, at_weight, at_images, batched, by_function]

    expected = ends()
    with quick_gradients(layer):
        found = ends()
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max()))


def test_a_gradient_that_nobody_wants_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []
    original = convolutions._is_wanted

    def told(ctx: Any, place: int) -> bool:
        asked.append((place, original(ctx, place)))
        return asked[-1][1]

    monkeypatch.setattr(convolutions, "_is_wanted", told)
    layer, images = layer_of("colour"), torch.rand(2, 3, 8, 8).requires_grad_()
    with quick_gradients(layer):
        torch.autograd.grad(value(layer, images).sum(), images)
        assert asked == [(0, True), (1, False), (2, False)]
        asked.clear()
        torch.autograd.grad(value(layer, images).sum(), layer.weight)
        assert asked == [(0, False), (1, True), (2, False)]


def test_grey_images_get_the_layout_of_the_weights() -> None:
    """Else the maps would be laid out anew in each pass."""
    images = torch.rand(2, 1, 8, 8)
    for layout in (torch.contiguous_format, torch.channels_last):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).to(memory_format=layout)  # type: ignore[call-overload]
        expected = model(images)
        with quick_gradients(model):
            for given in (images, images.clone().requires_grad_()):
                assert model[:2](given).is_contiguous(memory_format=layout)
                assert torch.equal(model(given), expected)


def test_many_channels_go_the_usual_way_unless_the_kernel_sees_all_of_them() -> None:
    layer = nn.Conv2d(5, 2, 3)
    with quick_gradients(layer):
        kinds = [type(layer(torch.rand(1, 5, side, side).requires_grad_()).grad_fn).__name__ for side in (4, 3)]
    assert kinds == ["ConvolutionBackward0", "_ConvolutionBackward"]


def test_layers_that_it_does_not_concern_stay_as_they_are() -> None:
    class Own(nn.Conv2d):
        pass

    others = nn.ModuleList(
        [
            Own(1, 2, 3), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, groups=2),
            nn.Conv2d(1, 2, 3, padding="same"), nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(1, 2, 3).double(), nn.Conv2d(1, 2, 3, device="meta"),
        ]
    )  # fmt: skip
    with quick_gradients(others):
        assert not any("forward" in vars(module) for module in others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of parts of itself
        plain = nn.Sequential(nn.Conv2d(1, 2, 3))
        made = torch.compile(plain), torch.jit.trace(plain, torch.rand(1, 1, 4, 4))
    for frozen in made:
        with quick_gradients(frozen):
            assert not any("forward" in vars(module) for module in frozen.modules() if type(module) is nn.Conv2d)


def test_afterwards_the_model_is_as_it_was_also_when_it_fails() -> None:
    model = small_network()

    def fail() -> None:
        with borrowed(model), borrowed(model):
            assert "forward" in vars(model[0])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not any("forward" in vars(module) for module in model)


ASKED: dict[str, Attack] = {
    "PGD": partial(pgd, steps=10),
    "MIM": partial(mim),
    "APGD, margin": partial(apgd, steps=20, loss="margin"),
    "L2": partial(pgd, steps=10, norm="L2"),
}


def test_hits_are_those_of_the_slow_path(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model, eps = small_network(), {"L2": 0.8}
    train_standard(model, digits.train, epochs=3, generator=seeded())
    images, labels = digits.test.float_images(), digits.test.labels

    def hits() -> dict[str, Tensor]:
        found = {}
        for name, attack in ASKED.items():
            attacked = attack(model, images, labels, eps=eps.get(name, 0.06), generator=seeded())
            found[name] = correct(model, attacked, labels)
        return found

    quick = hits()
    monkeypatch.setattr(convolutions, "_is_concerned", lambda layer: False)
    slow = hits()
    for name, found in quick.items():
        assert 0 < int(found.sum()) < len(labels), name
        assert torch.equal(found, slow[name]), name


def test_adversarial_training_learns_the_same(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def learned() -> list[float]:
        torch.manual_seed(0)
        options: dict[str, Any] = dict(eps=0.05, steps=2, epochs=1, generator=seeded())
        return train_at(small_network(), digits.subset(train=300).train, **options)["loss"].tolist()

    with torch.random.fork_rng():
        quick = learned()
        monkeypatch.setattr(convolutions, "_is_concerned", lambda layer: False)
        # three steps on: signs of gradients near zero turn with the rounding, and with them what is trained on
        assert quick == pytest.approx(learned(), rel=1e-3)


def test_freed_memory_is_kept_where_the_c_library_can_be_told() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
