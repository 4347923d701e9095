"""TRN as a defence: what it shows the classifier, and that each gradient an attacker may take of it is what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch
from cases import each
from contract import seeded, tiny
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.contract import frozen
from advdef.evaluation import adaptive, correct, counted, evaluate
from advdef.papers.trn.defence import OracleRestoration, Restoration
from advdef.papers.trn.maps import GradientMap, OracleMap, RandomMap, ShuffledMap, SobelMap
from advdef.papers.trn.models import ImageRestorer, Restorer, TwoStreamRestorer
from advdef.papers.trn.smoothing import smoothed

SHAPE, CLASSES = (2, 6, 5), 4
SIZE = {"width": 4, "streams": 1, "tail": 1}
MAPS: dict[str, Callable[[nn.Module], nn.Module | None]] = {
    "gradient": GradientMap,
    "stack": partial(GradientMap, label="stack"),
    "Sobel": lambda model: SobelMap(),
    "random": lambda model: RandomMap(),
    "none": lambda model: None,
}


def classifier() -> nn.Module:
    """With batch normalisation and dropout, and smooth; it gives every label to some image."""
    model = tiny(3, SHAPE, CLASSES)
    model[0].running_mean, model[0].running_var = torch.full((2,), 0.5), torch.full((2,), 1 / 12)
    return frozen(model).double()


def pixels(n: int = 5, *, seed: int = 0) -> Tensor:
    """Images that a small change leaves inside [0, 1]."""
    return 0.3 + 0.4 * torch.rand(n, *SHAPE, generator=seeded(seed), dtype=torch.float64)


def restorer(map_channels: int, *, opened: float = 0.003) -> Restorer:
    """One whose last convolution is not zero changes something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TwoStreamRestorer(2, map_channels, **SIZE) if map_channels else ImageRestorer(2, **SIZE)
        nn.init.normal_(made.out.weight, std=opened)
    return made.double()


def build(name: str = "gradient", *, opened: float = 0.003, model: nn.Module | None = None) -> Restoration:
    model = classifier() if model is None else model
    maps = MAPS[name](model)
    channels = 0 if maps is None else maps(pixels(2)).shape[1]
    return Restoration(model, restorer(channels, opened=opened), maps)


def gradient(output: Tensor, images: Tensor) -> Tensor:
    """Of a sum of logits that no softmax would leave alone."""
    weights = torch.linspace(-1, 2, CLASSES, dtype=output.dtype)
    (found,) = torch.autograd.grad((output * weights).sum(), images)
    return found


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=1e-12)


class Subtract(Restorer):
    """A restorer made by hand: it takes a part of the map off the image."""

    def __init__(self, channels: int, share: float) -> None:
        super().__init__(channels, channels, 1, 0)
        self.share = share

    def forward(self, images: Tensor, maps: Tensor | None = None) -> Tensor:
        assert maps is not None
        return self.share * maps


# The value


def test_an_untrained_restorer_leaves_the_classifier_as_it_is() -> None:
    for name in MAPS:
        defence, images = build(name, opened=0.0), pixels()
        assert torch.equal(defence.prepare(images), images)
        assert torch.equal(defence(images), defence.classifier(images))


@each("name", MAPS)
def test_the_classifier_sees_the_image_less_what_the_restorer_says(name: str) -> None:
    defence, images = build(name), pixels()
    maps = None if defence.maps is None else defence.maps(images)
    expected = images - defence.restorer(images, maps)
    prepared = defence.prepare(images)
    assert torch.equal(prepared, expected)
    assert bool(((prepared - images).abs().amax((1, 2, 3)) > 1e-4).all())
    assert torch.equal(defence(images), defence.classifier(prepared))
    if name != "none":
        assert maps is not None
        assert torch.equal(defence.prepare_with(images, maps), prepared)
        assert not torch.allclose(defence.prepare_with(images, -maps), prepared)
    alone = torch.cat([defence.prepare(image[None]) for image in images])
    assert torch.allclose(alone, prepared, rtol=0, atol=1e-9)
    assert defence.network is defence.classifier
    assert defence.exact


def test_restored_images_stay_images() -> None:
    for name in MAPS:
        prepared = build(name, opened=2.0).prepare(pixels()).detach()
        assert (float(prepared.min()), float(prepared.max())) == (0.0, 1.0)
        assert bool(((prepared > 0) & (prepared < 1)).any())


@each("name", MAPS)
def test_it_works_where_gradients_are_off(name: str) -> None:
    for context in [torch.no_grad, torch.inference_mode]:
        defence = build(name)
        expected = defence(pixels()).detach()
        stand_ins = [defence, *defence.surrogates().values()]
        if name == "gradient":
            stand_ins.append(defence.through(GradientMap(classifier())))
        with context():
            found = [stand_in(pixels()) for stand_in in stand_ins]
        for logits in found:
            assert torch.equal(logits, expected)
            assert not logits.requires_grad


@each("name", MAPS)
def test_it_stays_in_evaluation_mode_and_leaves_its_classifier_alone(name: str) -> None:
    defence, images = build(name), pixels().requires_grad_()
    expected, before = defence(images), {k: v.clone() for k, v in defence.state_dict().items()}
    assert defence.train() is defence
    assert not any(module.training for module in defence.modules())
    gradient(defence(images), images)
    assert torch.equal(defence(images), expected)
    assert all(torch.equal(value, before[k]) for k, value in defence.state_dict().items())
    assert all(parameter.grad is None for parameter in defence.parameters())


def test_a_classifier_that_is_put_into_training_mode_by_itself_is_told() -> None:
    defence = build()
    defence.classifier.train()
    with pytest.raises(ValueError, match="in training mode"):
        defence(pixels())


@each(
    ("wrong", "message"),
    [
        (lambda: Restoration(classifier(), restorer(2), OracleMap(classifier())), "needs the label is no defence"),
        (
            lambda: Restoration(classifier(), restorer(2), ShuffledMap(OracleMap(classifier()))),
            "needs the label is no defence",
        ),
        (lambda: Restoration(classifier(), restorer(2)), "takes 2 channels of maps, and maps is None"),
        (lambda: Restoration(classifier(), restorer(0), SobelMap()), "takes 0 channels of maps, and maps is SobelMap"),
        (lambda: Restoration(tiny(3, SHAPE), restorer(0)), "trainable parameters"),
        (lambda: Restoration(classifier().train(), restorer(0)), "in training mode"),
        (lambda: OracleRestoration(tiny(3, SHAPE), restorer(2), OracleMap(classifier())), "trainable parameters"),
        (
            lambda: Restoration(classifier(), restorer(3), GradientMap(classifier()))(pixels()),
            r"built for maps \(5, 3, 6, 5\)",
        ),
    ],
    ids=range(8),
)
def test_what_does_not_fit_together_is_refused(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


# The gradients


@each("name", MAPS)
def test_every_stand_in_has_the_value_of_the_defence(name: str) -> None:
    defence, images = build(name), pixels().requires_grad_()
    stand_ins = defence.surrogates()
    assert list(stand_ins) == ["straight-through", *(["detached map"] if name != "none" else [])]
    for stand_in in stand_ins.values():
        assert torch.equal(stand_in(images), defence(images))
        assert stand_in.network is defence.network  # type: ignore[comparison-overlap]


@each("name", MAPS)
def test_straight_through_is_the_gradient_at_the_restored_image(name: str) -> None:
    defence, images = build(name), pixels().requires_grad_()
    prepared = defence.prepare(images).detach().requires_grad_()
    found = gradient(defence.surrogates()["straight-through"](images), images)
    assert torch.equal(found, gradient(defence.classifier(prepared), prepared))


def by_hand(defence: Restoration, images: Tensor, maps: Tensor) -> Tensor:
    """Logits of the restored images, with these maps."""
    logits: Tensor = defence.classifier((images - defence.restorer(images, maps)).clamp(0, 1))
    return logits


@each("name", ["gradient", "stack", "Sobel", "random"])
def test_a_detached_map_is_a_constant_of_the_gradient(name: str) -> None:
    defence, images = build(name), pixels().requires_grad_()
    assert defence.maps is not None
    found = gradient(defence.surrogates()["detached map"](images), images)
    constant = defence.maps(images.detach())
    assert close(found, gradient(by_hand(defence, images, constant), images))
    whole = gradient(defence(images), images)
    assert close(found, whole) == (name == "random")  # which has no gradient to leave out


@each("name", ["gradient", "stack", "Sobel", "none"])
def test_plain_autograd_is_the_whole_derivative(name: str) -> None:
    """The second derivative of the classifier included."""
    defence, images = build(name), pixels()
    direction = torch.randn(images.shape, generator=seeded(1), dtype=images.dtype)
    weights = torch.linspace(-1, 2, CLASSES, dtype=images.dtype)
    point = images.clone().requires_grad_()
    slope = float((gradient(defence(point), point) * direction).sum())
    step = 1e-6
    with torch.no_grad():
        ahead, behind = ((defence(images + s * step * direction) * weights).sum() for s in (1, -1))
    measured = float(ahead - behind) / (2 * step)
    assert slope == pytest.approx(measured, rel=1e-5)
    if name != "none":
        detached = gradient(defence.surrogates()["detached map"](point), point)
        assert float((detached * direction).sum()) != pytest.approx(measured, rel=1e-3)


def kinked() -> nn.Sequential:
    """A classifier with ReLU, which a smooth twin can differ from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(60, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    return frozen(model.double())  # type: ignore[return-value]


def test_through_a_smooth_twin_the_value_is_deployed_and_the_map_has_the_gradient_of_the_twin() -> None:
    model = kinked()
    defence, twin = build(model=model), GradientMap(smoothed(model, beta=5, temperature=3))
    assert defence.maps is not None
    images = pixels().requires_grad_()
    stand_in = defence.through(twin)
    logits = stand_in(images)
    assert torch.equal(logits, defence(images))
    assert not torch.allclose(twin(images), defence.maps(images), rtol=1e-3)
    found = gradient(logits, images)
    # the chain rule: the map as a constant, and what the map adds, through the twin
    maps = defence.maps(images.detach()).requires_grad_()
    point = images.detach().requires_grad_()
    value = by_hand(defence, point, maps)
    constant, weights = gradient(value, point), gradient(by_hand(defence, point, maps), maps)
    (added,) = torch.autograd.grad((twin(images) * weights).sum(), images)
    assert close(found, constant + added)
    assert float(added.norm() / constant.norm()) > 1e-4
    assert not close(found, gradient(defence(images), images))
    # of its own map it is plain autograd
    own = gradient(defence.through(defence.maps)(images), images)
    assert torch.allclose(own, gradient(defence(images), images), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "forward", "backward"), [("gradient", 2, 1), ("stack", 2, 1), ("none", 1, 0)])
def test_a_map_costs_a_forward_and_a_backward_pass(name: str, forward: int, backward: int) -> None:
    defence, passes = build(name), Counter[str]()
    with torch.no_grad(), counted(defence, passes):
        defence(pixels(7))
    assert passes == Counter(forward=7 * forward, backward=7 * backward)
    stand_in, images = defence.surrogates()["straight-through"], pixels(7).requires_grad_()
    passes.clear()
    with counted(stand_in, passes):
        gradient(stand_in(images), images)
    assert passes == Counter(forward=7 * forward, backward=7 * (backward + 1))


# Attacks, and leaks


def test_its_own_attack_is_the_decoy_which_fools_it() -> None:
    defence = build()
    images = pixels(20)
    labels = defence(images).argmax(1)
    suite = defence.adaptive_attacks(0.1)
    assert list(suite) == ["decoy"]
    assert build("none").adaptive_attacks(0.1) == {}
    found = suite["decoy"](defence, images, labels, eps=0.1, steps=10, generator=seeded())
    assert bool((found != images).any())
    assert float((found - images).abs().max()) <= 0.1 + 1e-9
    assert float(correct(defence, found, labels).double().mean()) < 0.5


def test_the_evaluation_runs_every_stand_in() -> None:
    defence, images = build(), pixels(6)
    labels = defence(images).argmax(1)
    attempts = adaptive(defence, {"PGD": partial(pgd, steps=3)}, eps=0.2)
    names = {attempt.name for attempt in attempts}
    assert {"PGD through straight-through", "PGD through detached map"} < names
    assert any("decoy" in name for name in names)
    report = evaluate(defence, attempts, images, labels, eps=0.2, generator=seeded())
    assert report.interval.value < 1


def noise() -> tuple[Tensor, Tensor]:
    """Images that hold nothing, and labels that have nothing to do with them."""
    images = torch.rand(400, *SHAPE, generator=seeded(), dtype=torch.float64)
    return images, torch.randint(CLASSES, (400,), generator=seeded(1))


def test_on_noise_the_pipeline_is_at_chance() -> None:
    for name in MAPS:
        images, labels = noise()
        for opened in (0.0, 0.1):
            hits = correct(build(name, opened=opened), images, labels).double().mean()
            assert float(hits) == pytest.approx(1 / CLASSES, abs=0.09)


def test_only_an_oracle_reads_the_label_from_noise() -> None:
    images, labels = noise()
    model, steps = classifier(), Subtract(2, 0.3)
    assert len(model(images).argmax(1).unique()) == CLASSES
    blind = correct(Restoration(model, steps, GradientMap(model)), images, labels).double().mean()
    assert float(blind) == pytest.approx(1 / CLASSES, abs=0.09)
    told = OracleRestoration(model, steps, OracleMap(model))(images, labels=labels).argmax(1) == labels
    assert float(told.double().mean()) > 0.8


def test_an_oracle_restores_with_the_map_of_the_label() -> None:
    model, images, labels = classifier(), pixels(), torch.tensor([0, 1, 2, 3, 0])
    maps, network = OracleMap(model), restorer(2)
    oracle = OracleRestoration(model, network, maps)
    expected = model((images - network(images, maps(images, labels=labels))).clamp(0, 1))
    assert torch.equal(oracle(images, labels=labels), expected)
    assert not torch.allclose(oracle(images, labels=(labels + 1) % 4), expected)
    assert not any(module.training for module in oracle.train().modules())
    with pytest.raises(TypeError):
        oracle(images)
    assert not hasattr(oracle, "surrogates")  # it is no defence
