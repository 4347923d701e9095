"""Defences that edit the image: what they show the classifier, and that their surrogate undoes what hides gradients."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from cases import each
from contract import seeded, tiny
from PIL import Image
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.defenses import TotalVariation, Undefended
from advdef.defenses.transforms import BitDepth, GaussianBlur, Jpeg, Median, Preprocessed
from advdef.evaluation import adaptive, direct, evaluate
from advdef.papers.nip.baselines import AntiAdversary
from advdef.papers.nip.offset import AddedOffset

ALL: dict[str, Callable[[nn.Module], Preprocessed]] = {
    "bit depth": BitDepth,
    "median": Median,
    "blur": GaussianBlur,
    "JPEG": Jpeg,
    "total variation": TotalVariation,
    "anti-adversary": partial(AntiAdversary, step=0.05),
}


def net() -> nn.Sequential:
    """A random network with batch normalisation and dropout."""
    return tiny(3, (3, 8, 8))


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """Random images with some pixels at the ends of [0, 1]."""
    return (1.2 * torch.rand(*(shape or (5, 3, 8, 8)), generator=seeded(seed)) - 0.1).clamp(0, 1)


def linear(weights: Tensor) -> nn.Sequential:
    """Logits are products with the rows of ``weights`` (K, D)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weights.shape[1], len(weights), bias=False))
    model[1].weight = nn.Parameter(weights)
    return model


@pytest.fixture(params=list(ALL))
def build(request: pytest.FixtureRequest) -> Callable[[nn.Module], Preprocessed]:
    return ALL[request.param]


# Every one of them


def test_the_classifier_is_asked_about_the_prepared_images(build: Callable[[nn.Module], Preprocessed]) -> None:
    for dtype in [torch.float32, torch.float64]:
        model, images = net().to(dtype), pixels().to(dtype)
        defence, before = build(model), images.clone()
        prepared = defence.prepare(images)
        assert prepared.shape == images.shape
        assert prepared.dtype == dtype
        assert 0 <= float(prepared.min()) < float(prepared.max()) <= 1
        assert not torch.equal(prepared, images)
        assert torch.equal(images, before)
        assert torch.equal(defence(images), model(prepared))
        assert torch.equal(defence(images), defence(images))
        assert defence.classifier is model
        assert defence.exact
        assert list(defence.adaptive_attacks(0.1)) == (
            ["two conditions", "pre-compensated"] if isinstance(defence, AddedOffset) else []
        )
        assert not defence.training
        assert build(net().train()).training


def test_an_image_alone_is_prepared_as_in_a_batch(build: Callable[[nn.Module], Preprocessed]) -> None:
    defence, images = build(net().double()), pixels().double()
    alone = torch.cat([defence.prepare(image[None]) for image in images])
    assert torch.allclose(alone, defence.prepare(images), rtol=0, atol=1e-12)


def test_the_surrogate_has_the_value_of_the_defence_and_the_gradient_at_the_prepared_image(
    build: Callable[[nn.Module], Preprocessed],
) -> None:
    model, images = net(), pixels().requires_grad_()
    defence = build(model)
    ((name, surrogate),) = defence.surrogates().items()
    assert name == "straight-through"
    assert surrogate.network is model
    logits = surrogate(images)
    assert torch.equal(logits, defence(images))
    prepared = defence.prepare(images).detach().requires_grad_()
    (found,) = torch.autograd.grad(logits[:, 1].sum(), images)
    (expected,) = torch.autograd.grad(model(prepared)[:, 1].sum(), prepared)
    assert torch.equal(found, expected)
    assert bool((found != 0).all())  # also where a pixel was clipped
    with torch.no_grad():
        assert torch.equal(surrogate(images), logits)
    with torch.inference_mode():
        assert torch.equal(surrogate(images), logits)


def test_switching_gradients_off_changes_nothing(build: Callable[[nn.Module], Preprocessed]) -> None:
    model, images = net(), pixels()
    defence = build(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    expected = defence(images)
    assert expected.requires_grad
    with torch.no_grad():
        assert torch.equal(defence(images), expected)
    with torch.inference_mode():
        made_there = images * 1
        assert torch.equal(defence(made_there), expected)
    with torch.no_grad():  # a tensor of inference mode that has left it
        assert torch.equal(defence(made_there), expected)
    if isinstance(defence, AddedOffset):
        classes = torch.arange(len(images)) % 4
        with torch.inference_mode():
            classes_made_there = classes * 1
        assert torch.equal(defence.offset(images, classes_made_there), defence.offset(images, classes))
    assert all(bool((parameter.grad == 7.0).all()) for parameter in model.parameters())


@pytest.mark.parametrize("hides", [BitDepth, Jpeg])
def test_what_hides_the_gradient_falls_to_its_surrogate_only(hides: type[Preprocessed]) -> None:
    """Bright images against dark ones; a threshold at 0.5 leaves room for eps 0.2 around each image."""
    model = linear(torch.stack([torch.ones(64), -torch.ones(64)]))
    model[1].bias = nn.Parameter(torch.tensor([-32.0, 32.0]))
    images = torch.linspace(0.35, 0.65, 8)[:, None, None, None].expand(-1, 1, 8, 8).clone()
    defence = hides(model)
    labels = defence(images).argmax(1)
    assert set(labels.tolist()) == {0, 1}
    suite = {"PGD": partial(pgd, steps=5, random_start=False)}
    plain = evaluate(defence, direct(defence, suite), images, labels, eps=0.2, generator=seeded())
    through = adaptive(defence, suite, eps=0.2)
    assert [attempt.name for attempt in through] == ["PGD through straight-through"]
    assert plain.interval.value == 1
    assert evaluate(defence, through, images, labels, eps=0.2, generator=seeded()).interval.value == 0


# Bit depth, median, JPEG


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_bit_depth_rounds_as_numpy_does(bits: int) -> None:
    images, top = pixels(), 2**bits - 1
    images[0] = 0.5  # half a level away from two levels
    prepared = BitDepth(net(), bits).prepare(images)
    assert np.array_equal(prepared.numpy(), np.rint(images.numpy() * np.float32(top)) / np.float32(top))
    assert len(prepared.unique()) == 2**bits
    assert float((prepared - images).abs().max()) <= 0.5 / top + 1e-6


def test_eight_bits_keep_bytes() -> None:
    images = torch.arange(256).view(1, 1, 16, 16) / 255
    assert torch.equal(BitDepth(net(), 8).prepare(images), images)


@pytest.mark.parametrize("levels", [3, 1000])  # with and without ties
def test_the_median_is_that_of_scipy(levels: int) -> None:
    for shape in [(3, 8, 8), (1, 1, 5), (2, 7, 1), (1, 1, 1)]:
        images = torch.randint(levels, (4, *shape), generator=seeded()).double() / levels
        expected = scipy.ndimage.median_filter(images.numpy(), size=(1, 1, 2, 2), mode="reflect")
        assert np.array_equal(Median(net()).prepare(images).numpy(), expected)


@each("sigma", [0.1, 0.5, 1.0, 2.5])
def test_the_blur_is_that_of_scipy(sigma: float) -> None:
    for shape in [(3, 8, 8), (1, 5, 9), (2, 9, 5)]:
        images, reach = pixels(4, *shape).double(), max(1, round(3 * sigma))
        axes = {"axes": (2, 3), "mode": "nearest", "radius": reach}
        expected = scipy.ndimage.gaussian_filter(images.numpy(), sigma, **axes)
        found = GaussianBlur(net(), sigma).prepare(images)
        torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-12, rtol=0)


def test_a_blur_needs_a_width() -> None:
    for sigma in [0.0, -1.0, float("inf"), float("nan")]:
        with pytest.raises(ValueError, match="sigma must be positive and finite"):
            GaussianBlur(net(), sigma)


def test_the_gradient_of_the_median_is_that_of_the_pixels_it_picks() -> None:
    images = (torch.randperm(2 * 64, generator=seeded()).double() / 128).view(2, 1, 8, 8).requires_grad_()
    prepared = Median(net()).prepare(images)
    (found,) = torch.autograd.grad(prepared.sum(), images)
    picked = (prepared.flatten()[:, None] == images.flatten()).sum(0)
    assert torch.equal(found.flatten(), picked.double())


@pytest.mark.parametrize("quality", [10, 75])
def test_jpeg_is_that_of_pillow(quality: int) -> None:
    for channels in [1, 3]:
        images = pixels(3, channels, 16, 12)
        prepared = Jpeg(net(), quality).prepare(images)
        for image, found in zip(images, prepared, strict=True):
            raw = np.rint(255 * image.permute(1, 2, 0).numpy()).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(raw.squeeze()).save(file, format="JPEG", quality=quality)
            decoded = np.array(Image.open(file)).reshape(raw.shape)
            assert np.array_equal((255 * found).round().permute(1, 2, 0).numpy(), decoded)
            assert torch.equal(found, (255 * found).round() / 255)


# The anti-adversary


def test_its_offset_on_a_linear_network_is_the_row_of_the_class() -> None:
    weights = torch.randn(4, 12, generator=seeded())
    defence, images = AntiAdversary(linear(weights), step=0.03), 0.4 + 0.2 * torch.rand(6, 3, 2, 2, generator=seeded())
    rows = 0.03 * weights / (weights.square().mean(1, keepdim=True).sqrt() + 1e-5)
    predicted = (images.flatten(1) @ weights.T).argmax(1)
    assert len(predicted.unique()) > 1
    assert torch.allclose(defence.offset(images).flatten(1), rows[predicted])
    assert torch.allclose(defence.prepare(images).flatten(1), images.flatten(1) + rows[predicted])
    believed = torch.tensor([3, 3, 0, 1, 2, 0])
    assert torch.allclose(defence.offset(images, believed).flatten(1), rows[believed])
    assert defence.offset(images).square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx([0.03] * 6, rel=1e-3)


def test_its_offset_is_a_constant_to_autograd() -> None:
    model, images = net(), (0.4 + 0.2 * pixels()).requires_grad_()
    defence = AntiAdversary(model, step=0.02)
    assert not defence.offset(images).requires_grad
    (found,) = torch.autograd.grad(defence.prepare(images).sum(), images)
    assert torch.equal(found, torch.ones_like(images))


def test_no_gradient_gives_no_step_and_no_step_gives_the_classifier() -> None:
    class Blind(Undefended):
        """One image has no influence on its logits, and the graph may be cut altogether."""

        cut = False

        def forward(self, images: Tensor) -> Tensor:
            seen = images * torch.tensor([1.0, 0.0, 1.0])[:, None, None, None]
            return super().forward(seen.detach() if self.cut else seen)

    blind, images = Blind(net()), pixels(3, 3, 8, 8)
    offset = AntiAdversary(blind, step=0.1).offset(images)
    assert (offset != 0).flatten(1).any(1).tolist() == [True, False, True]
    assert bool(torch.isfinite(offset).all())
    blind.cut = True
    assert not bool(AntiAdversary(blind, step=0.1).offset(images).any())
    model = net()
    assert torch.equal(AntiAdversary(model, step=0.0)(images), model(images))


def test_a_step_for_the_predicted_class_makes_the_classifier_surer_of_it(
    network: nn.Sequential, batch: tuple[Tensor, Tensor]
) -> None:
    """Right or wrong, which is why no clean image is lost."""
    bare, defended = network(batch[0]), AntiAdversary(network, step=0.05)(batch[0])
    assert torch.equal(defended.argmax(1), bare.argmax(1))
    assert bool((defended.amax(1) > bare.amax(1)).all())
    assert not torch.equal(bare.argmax(1), batch[1])


@each(
    ("wrong", "message"),
    [
        (lambda: BitDepth(net(), 0), "bits must be a whole number from 1 to 8, not 0"),
        (lambda: BitDepth(net(), 9), "not 9"),
        (lambda: BitDepth(net(), 2.5), "not 2.5"),  # type: ignore[arg-type]
        (lambda: Jpeg(net(), 0), "quality must be a whole number from 1 to 100, not 0"),
        (lambda: Jpeg(net(), 101), "not 101"),
        (lambda: Jpeg(net()).prepare(torch.rand(1, 2, 8, 8)), "grey or RGB images, not 2 channels"),
        (lambda: AntiAdversary(net(), -0.1), "step must be finite and not negative, not -0.1"),
        (lambda: AntiAdversary(net(), float("nan")), "not nan"),
        (lambda: AntiAdversary(net(), 0.1).offset(pixels(), torch.zeros(4).long()), r"shape \(5,\), not \(4,\)"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("prepare", "found"),
    [(lambda x: x[:, :, ::2, ::2], r"\(2, 1, 2, 2\)"), (lambda x: None, "NoneType"), (lambda x: x.numpy(), "ndarray")],
    ids=["smaller", "nothing", "numpy"],
)
def test_a_prepare_that_returns_something_else_is_named(prepare: Callable[[Tensor], Any], found: str) -> None:
    class Odd(Preprocessed):
        def prepare(self, images: Tensor) -> Tensor:
            return prepare(images)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=rf"Odd\.prepare must return a tensor of shape \(2, 1, 4, 4\).*not {found}"):
        Odd(nn.Flatten())(torch.rand(2, 1, 4, 4))
