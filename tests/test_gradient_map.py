"""Gradient maps are what the algebra says, for each image alone, and leave no trace of how they were found."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from cases import each
from contract import seeded, tiny, watched
from torch import Tensor, nn

from advdef.contract import frozen
from advdef.evaluation import counted
from advdef.models import LeNet5, SmallResNet
from advdef.papers.trn.maps import GradientMap, MapLabel, MapScale, alignment, class_gradients, scaled

LABELS: tuple[MapLabel, ...] = get_args(MapLabel)
SCALES: tuple[MapScale, ...] = get_args(MapScale)
CLASSES, CHANNELS = 4, 2  # of tiny()


def smooth() -> nn.Module:
    """A classifier that has a second derivative everywhere, in float64."""
    return frozen(tiny(28)).double()


def random_images(n: int = 5, shape: tuple[int, int, int] = (2, 3, 3), *, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=seeded(seed), dtype=torch.float64)


def linear(bias: float, classes: int = 10) -> nn.Sequential:
    """Logits whose gradients are orthogonal and of equal norm, with ``bias`` on class 2; images (N, 1, 4, 4)."""
    layer = nn.Linear(16, classes).double()
    nn.init.orthogonal_(layer.weight, generator=seeded())
    nn.init.zeros_(layer.bias)
    layer.bias.data[2] = bias
    return nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)


def jacobian(classifier: nn.Module, image: Tensor) -> Tensor:
    """(K, C, H, W): derivative of one image's logits."""
    found: Tensor = torch.autograd.functional.jacobian(lambda x: classifier(x[None])[0], image)
    return found


def slope(classifier: nn.Module, image: Tensor, label: int) -> Tensor:
    """Gradient of the cross-entropy of one image to one class, as anyone would write it."""
    point = image[None].clone().requires_grad_()
    (found,) = torch.autograd.grad(F.cross_entropy(classifier(point), torch.tensor([label])), point)
    return found[0]


def close(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=tolerance, atol=tolerance)


# The algebra


def test_gradients_of_all_classes_weighted_by_their_probabilities_cancel() -> None:
    classifier, images = smooth(), random_images().requires_grad_()
    logits = classifier(images)
    found = class_gradients(logits, images)
    assert found.shape == (CLASSES, *images.shape)
    assert found.abs().amax((0, 2, 3, 4)).min() > 1e-2
    assert torch.einsum("nk,knchw->nchw", logits.softmax(1), found).abs().max() < 1e-14


def test_the_average_is_the_mean_of_the_stack_and_the_closed_form() -> None:
    classifier, images = smooth(), random_images()
    average = GradientMap(classifier, scale="none")(images)
    stack = GradientMap(classifier, "stack", scale="none")(images)
    assert close(average, stack.unflatten(1, (CLASSES, CHANNELS)).mean(1))
    for image, found in zip(images, average, strict=True):
        gap = classifier(image[None])[0].softmax(0) - 1 / CLASSES
        assert close(found, torch.einsum("k,kchw->chw", gap, jacobian(classifier, image)))


def test_the_stack_goes_class_by_class() -> None:
    classifier, images = smooth(), random_images()
    stack = GradientMap(classifier, "stack", scale="none")(images)
    assert stack.shape == (5, CLASSES * CHANNELS, 3, 3)
    for i, image in enumerate(images):
        for k in range(CLASSES):
            assert close(stack[i, k * CHANNELS : (k + 1) * CHANNELS], slope(classifier, image, k))


@pytest.mark.parametrize(("label", "rank"), [("predicted", 0), ("second", 1), ("least", -1)])
def test_a_single_class_is_chosen_by_its_rank_for_each_image(label: MapLabel, rank: int) -> None:
    classifier, images = smooth(), random_images(12)
    ranked = [sorted(range(CLASSES), key=row.__getitem__, reverse=True)[rank] for row in classifier(images).tolist()]
    assert len(set(ranked)) > 1
    found = GradientMap(classifier, label, scale="none")(images)
    assert close(found, torch.stack([slope(classifier, x, k) for x, k in zip(images, ranked, strict=True)]))


@pytest.mark.parametrize("classes", [3, 10])
def test_on_a_fooled_image_the_average_has_the_predicted_angle_to_the_true_gradient(classes: int) -> None:
    classifier, images = linear(40.0, classes), random_images(4, (1, 4, 4))
    for true in set(range(classes)) - {2}:
        truth = torch.stack([slope(classifier, image, true) for image in images])
        cosine, _ = alignment(GradientMap(classifier, scale="none")(images), truth)
        assert close(cosine, torch.full((4,), (2 * (1 - 1 / classes)) ** -0.5, dtype=torch.float64))


def test_the_predicted_map_vanishes_with_confidence_and_the_average_does_not() -> None:
    images = random_images(3, (1, 4, 4))
    biases = [5.0, 10.0, 20.0, 30.0, 60.0]
    sizes = {
        label: [float(GradientMap(linear(bias), label, scale="none")(images).abs().mean()) for bias in biases]
        for label in ("predicted", "average")
    }
    assert sizes["predicted"] == sorted(sizes["predicted"], reverse=True)
    assert 0 < sizes["predicted"][-1] < 1e-25
    assert min(sizes["average"]) > 0.5 * max(sizes["average"]) > 0


def test_the_predicted_map_points_away_from_a_runner_up_that_is_the_true_class() -> None:
    classifier = linear(10.0)
    classifier[1].bias.data[7] = 6.0
    images = random_images(3, (1, 4, 4))
    truth = torch.stack([slope(classifier, image, 7) for image in images])
    cosine, _ = alignment(GradientMap(classifier, "predicted")(images), truth)
    assert bool((cosine < -0.95).all())


@each("lead", [5.0, 20.0, 40.0, 60.0])
def test_float32_keeps_the_direction_of_the_predicted_map_of_a_very_sure_classifier(lead: float) -> None:
    classifier, images = linear(lead), random_images(3, (1, 4, 4))
    weight = classifier[1].weight
    rest = classifier(images).softmax(1)
    rest[:, 2] = 0  # 1 - p is what the others have together, which a difference would round away
    expected = (rest @ weight - rest.sum(1, keepdim=True) * weight[2]).reshape(images.shape)
    predicted = GradientMap(frozen(classifier).float(), "predicted", scale="none")
    stack = GradientMap(frozen(classifier).float(), "stack", scale="none")
    for found in (predicted(images.float()), stack(images.float())[:, 2:3]):
        assert bool((alignment(found, expected.float())[0] > 1 - 1e-6).all())
        assert torch.allclose(found.double() / expected, torch.ones_like(expected), rtol=1e-5)


@pytest.mark.parametrize(("label", "expected"), [("predicted", 0), ("second", 1), ("least", 39)])
def test_of_equal_logits_the_first_counts_as_the_largest(label: MapLabel, expected: int) -> None:
    layer = nn.Linear(16, 40).double()
    nn.init.normal_(layer.weight, generator=seeded())
    nn.init.zeros_(layer.bias)
    classifier, black = frozen(nn.Sequential(nn.Flatten(), layer)), torch.zeros(1, 1, 4, 4).double()
    assert int(classifier(black).argmax()) == 0
    assert close(GradientMap(classifier, label, scale="none")(black)[0], slope(classifier, black[0], expected))


# The second derivative


def directional(function: Callable[[Tensor], Tensor], images: Tensor, step: float = 1e-6) -> tuple[Tensor, Tensor]:
    """By autograd and by central differences, along a random direction."""
    direction = torch.randn(images.shape, generator=seeded(5), dtype=images.dtype)
    point = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(point), point)
    with torch.no_grad():
        difference = (function(images + step * direction) - function(images - step * direction)) / (2 * step)
    return (gradient * direction).sum(), difference


@each("label", LABELS)
def test_the_map_can_be_differentiated(label: MapLabel) -> None:
    for scale in ["mean", "range", "none"]:
        maps = GradientMap(smooth(), label, scale=scale)
        weights = torch.randn(5, CHANNELS * (CLASSES if label == "stack" else 1), 3, 3, generator=seeded(1)).double()
        exact, difference = directional(lambda x, m=maps, w=weights: (m(x) * w).sum(), random_images())
        assert exact.abs() > 1e-3
        assert torch.allclose(exact, difference, rtol=1e-6)


@pytest.mark.parametrize("label", ["average", "stack"])
@pytest.mark.parametrize("build", [SmallResNet, LeNet5])
def test_a_defence_can_be_differentiated_end_to_end(
    build: Callable[[tuple[int, int, int], int], nn.Module], label: MapLabel
) -> None:
    """Through max-pooling, batch normalisation and strided slicing, as an adaptive attack does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = frozen(build((1, 28, 28), 10)).double()
    for parameter in list(classifier.parameters())[-2:]:
        parameter.mul_(20)  # the logits of an untrained network are so close that its softmax hardly moves
    maps, images = GradientMap(classifier, label), random_images(2, (1, 28, 28))

    def loss(x: Tensor, *, through: bool) -> Tensor:
        found = maps(x if through else x.detach())[:, :1]  # of the stack, the map of the first class
        value: Tensor = classifier(x - 0.05 * found).logsumexp(1).sum()
        return value

    exact, difference = directional(partial(loss, through=True), images, 1e-7)
    partly, _ = directional(partial(loss, through=False), images)
    assert torch.allclose(exact, difference, rtol=1e-5)
    assert not torch.allclose(exact, partly, rtol=1e-2)  # the way through the map is part of it


@pytest.mark.parametrize("label", ["average", "stack"])
def test_a_saturated_network_of_relus_has_a_map_that_is_locally_constant(label: MapLabel) -> None:
    def relative(factor: float) -> Tensor:
        """Size of the map's derivative, relative to the map."""
        with torch.random.fork_rng():
            torch.manual_seed(3)
            layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).double()
        layers[3].weight.data *= factor
        layers[3].bias.data *= factor
        images = random_images(6, (1, 4, 4)).requires_grad_()
        found = GradientMap(frozen(layers), label, scale="none")(images)
        direction = torch.randn(found.shape, generator=seeded(1)).double()
        (derivative,) = torch.autograd.grad((found * direction).sum(), images)
        return derivative.flatten(1).norm(dim=1) / found.detach().flatten(1).norm(dim=1)

    assert bool((relative(1.0) > 1e-2).all())
    assert bool((relative(1000.0) < 1e-6).all())


# Each image alone, in any surroundings


def test_a_map_does_not_depend_on_the_batch() -> None:
    for label in LABELS:
        for scale in SCALES:
            maps, images = GradientMap(smooth(), label, scale=scale), random_images()
            together = maps(images)
            assert close(together, torch.cat([maps(image[None]) for image in images]))
            assert close(together[[3, 1]], maps(images[[3, 1]]))
            assert not torch.equal(together, together[:1].expand_as(together))


def test_an_empty_batch_has_no_maps() -> None:
    assert GradientMap(frozen(tiny(28)))(torch.rand(0, 2, 3, 3)).shape == (0, 2, 3, 3)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_surroundings_do_not_matter(name: str) -> None:
    for label in LABELS:
        maps = GradientMap(frozen(tiny(28)), label)
        images = random_images().float()
        expected = maps(images)
        with SURROUNDINGS[name]():
            found, own = maps(images), maps(images.clone())  # a clone made in inference mode is an inference tensor
        assert torch.equal(found, expected)
        assert torch.equal(own, expected)
        assert not found.requires_grad
        assert not found.is_inference()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_read_as_float32(dtype: torch.dtype) -> None:
    maps, images = GradientMap(frozen(tiny(28))), random_images().to(dtype)
    found = maps(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, maps(images.float()))
    point = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(maps(point).square().sum(), point)
    assert gradient.dtype == dtype
    assert bool((gradient != 0).any())


def test_a_map_is_differentiable_just_where_the_images_are() -> None:
    for label in LABELS:
        maps, images = GradientMap(smooth(), label), random_images()
        assert not maps(images).requires_grad
        leaf = images.clone().requires_grad_()
        inner = leaf * 1.0
        with torch.no_grad():
            assert not maps(inner).requires_grad
        for point in (leaf, inner):
            found = maps(point)
            assert found.requires_grad
            assert torch.equal(found, maps(images))
            (gradient,) = torch.autograd.grad(found.square().sum(), leaf)
            assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


def test_the_caller_finds_everything_as_it_was() -> None:
    for label in LABELS:
        for differentiable in [False, True]:
            maps, images = GradientMap(frozen(tiny(28)), label), random_images().float().requires_grad_(differentiable)
            images.grad = torch.full_like(images, 7.0) if differentiable else None
            kept, state = images.detach().clone(), {name: value.clone() for name, value in maps.state_dict().items()}
            maps(images)
            assert torch.equal(images.detach(), kept)
            assert images.requires_grad == differentiable
            assert images.is_leaf
            assert images.grad is None if not differentiable else bool((images.grad == 7.0).all())
            assert all(torch.equal(value, state[name]) for name, value in maps.state_dict().items())
            assert not any(module.training for module in maps.modules())
            assert all(p.grad is None and not p.requires_grad for p in maps.parameters())


def test_no_label_can_be_given() -> None:
    assert list(inspect.signature(GradientMap.forward).parameters) == ["self", "images"]


@each("label", [label for label in LABELS if label != "stack"])
def test_a_map_costs_one_pass_forward_and_one_backward(label: MapLabel) -> None:
    maps = GradientMap(frozen(tiny(28)), label)
    passes = {"forward": 0, "backward": 0}
    with counted(maps.classifier, passes):
        maps(random_images().float())
    assert passes == {"forward": 5, "backward": 5}


def test_the_stack_costs_one_pass_forward() -> None:
    maps = GradientMap(frozen(tiny(28)), "stack")
    with watched(maps.classifier) as seen:
        maps(random_images().float())
    assert [len(images) for images in seen] == [5]


def test_a_pipeline_with_a_map_can_be_trained() -> None:
    maps = GradientMap(frozen(tiny(28)))
    pipeline = nn.Sequential(maps, nn.BatchNorm2d(2))
    images = random_images().float()
    expected = maps(images)
    assert pipeline.train() is pipeline
    assert pipeline[1].training
    assert not any(module.training for module in maps.modules())
    assert torch.equal(maps.train()(images), expected)


def test_maps_are_told_apart_by_their_text() -> None:
    classifier = frozen(tiny(28))
    texts = {repr(GradientMap(classifier, label, scale=scale)) for label in LABELS for scale in SCALES}
    assert len(texts) == len(LABELS) * len(SCALES)


# Sizes


def test_each_scale_does_what_it_says() -> None:
    gradient = (
        torch.randn(3, 2, 4, 4, generator=seeded()).double() * torch.tensor([1e-6, 1.0, 1e6])[:, None, None, None]
    )
    gradient[:, 0, 0, 0] = 50 * gradient[:, 1, 1, 1]
    sizes = gradient.abs().mean((1, 2, 3), keepdim=True)
    mean = scaled(gradient, "mean")
    inside = mean.abs() < 4
    assert 0 < int((~inside).sum()) < 10
    assert torch.allclose((mean * sizes)[inside], gradient[inside], rtol=1e-5)
    assert torch.equal(mean[~inside], 4 * gradient[~inside].sign())
    assert torch.equal(scaled(gradient, "sign"), gradient.sign())
    ranged = scaled(gradient, "range")
    assert torch.allclose(ranged.amin((1, 2, 3)), torch.zeros(3).double())
    assert torch.allclose(ranged.amax((1, 2, 3)), torch.ones(3).double(), atol=1e-6)
    assert torch.equal(ranged.flatten(1).argsort(1), gradient.flatten(1).argsort(1))
    assert torch.equal(scaled(gradient, "none"), gradient)


@pytest.mark.parametrize("scale", ["mean", "sign", "range"])
def test_a_scaled_map_forgets_how_steep_the_loss_is(scale: MapScale) -> None:
    gradient = torch.randn(3, 2, 4, 4, generator=seeded()).double()
    assert torch.allclose(scaled(gradient, scale), scaled(1e-3 * gradient, scale), atol=1e-7)


@each("scale", SCALES)
def test_a_classifier_that_does_not_look_gives_zeros(scale: MapScale) -> None:
    classifier = frozen(tiny(28))
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    images = random_images().float().requires_grad_()
    found = GradientMap(classifier, scale=scale)(images)
    (gradient,) = torch.autograd.grad(found.sum(), images)
    assert torch.equal(found, torch.zeros_like(images))
    assert torch.equal(gradient, torch.zeros_like(images))


# Frozen classifiers, and those that are not


def test_frozen_is_a_copy() -> None:
    classifier = tiny(28).train()
    copied = frozen(classifier)
    assert classifier.training
    assert all(p.requires_grad for p in classifier.parameters())
    assert not any(module.training for module in copied.modules())
    images = random_images().float()
    expected = copied(images)
    classifier(images)  # in training mode: the statistics of the batch normalisation move
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(1.0)
    assert torch.equal(copied(images), expected)


def test_a_classifier_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        GradientMap(frozen(tiny(28)).train())


@pytest.mark.parametrize("part", [0, 4])
def test_a_part_that_comes_to_training_mode_later_is_refused(part: int) -> None:
    classifier = frozen(tiny(28))
    assert isinstance(classifier, nn.Sequential)
    maps = GradientMap(classifier)
    classifier[part].train()
    with pytest.raises(ValueError, match="training mode"):
        maps(random_images().float())


def test_a_trainable_classifier_is_refused() -> None:
    classifier = frozen(tiny(28))
    maps = GradientMap(classifier)
    next(classifier.parameters()).requires_grad_()
    with pytest.raises(ValueError, match="trainable parameters"):
        maps(random_images().float())
    with pytest.raises(ValueError, match=r"frozen\(classifier\)"):
        GradientMap(classifier)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no label 'true'; there are average, stack, predicted, second, least"):
        GradientMap(frozen(tiny(28)), "true")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no scale 'max'; there are mean, sign, range, none"):
        GradientMap(frozen(tiny(28)), scale="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no scale 'max'; there are mean, sign, range, none"):
        scaled(torch.ones(1, 1, 2, 2), "max")  # type: ignore[arg-type]


# Comparing maps


def test_alignment_of_known_maps() -> None:
    one = torch.tensor([[3.0, 4.0, 0.0], [3.0, 4.0, 0.0], [3.0, 4.0, 0.0], [1.0, 0.0, 0.0]])[:, None, None]
    other = torch.tensor([[30.0, 40.0, 0.0], [-3.0, -4.0, 0.0], [4.0, -3.0, 9.0], [0.0, 2.0, 0.0]])[:, None, None]
    cosine, agree = alignment(one, other)
    expected = [1.0, -1.0, 0.0, 0.0]
    assert torch.allclose(cosine, torch.tensor(expected).double(), atol=1e-12)
    assert agree[:3].tolist() == [1.0, 0.0, 0.5]
    assert bool(agree[3].isnan())  # no pixel where both say something


def test_alignment_of_random_maps() -> None:
    one, other = torch.randn(2, 6, 3, 5, 5, generator=seeded())
    cosine, agree = alignment(one, other)
    assert torch.allclose(cosine, F.cosine_similarity(one.flatten(1), other.flatten(1)).double(), atol=1e-6)
    assert torch.allclose(agree, (one * other > 0).double().mean((1, 2, 3)))


@each("size", [1e-30, 1e-15, 1e15, 1e30])
def test_the_size_of_a_map_does_not_matter_to_its_alignment(size: float) -> None:
    one, other = torch.randn(2, 6, 3, 5, 5, generator=seeded())
    for found, expected in zip(alignment(size * one, other), alignment(one, other), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_maps_of_unlike_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"maps of one shape are compared, not \(2, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        alignment(torch.ones(2, 3, 4, 4), torch.ones(1, 3, 4, 4))


def test_a_map_of_zeros_is_aligned_with_nothing() -> None:
    cosine, agree = alignment(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert bool(cosine.isnan().all())
    assert bool(agree.isnan().all())
