"""A purifier is trained on the losses that are written down, in front of a classifier that stays as it is."""

from __future__ import annotations

import copy
import functools
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract import seeded, watched
from torch import Tensor, nn

from advdef.attacks import fgsm
from advdef.contract import frozen
from advdef.data import Dataset, Split
from advdef.evaluation import correct
from advdef.papers.snn import training as purification
from advdef.papers.snn.neurons import Firing, neurons_of
from advdef.papers.snn.purifier import NoiseMap, Purifier
from advdef.papers.snn.training import Losses, asymmetric, charbonnier, roughness, train_purifier
from advdef.training import Recipe, Training, TrainingDiverged, cached_pairs, train_standard, trained
from advdef.training.pairs import make_attacked_pairs

SHAPE, CLASSES = (1, 8, 8), 4
RECIPE = Recipe(eps=(0.03, 0.1), attacks=("FGSM",), noise=0.2)
UNTOUCHED = Recipe(eps=(1e-5,), attacks=("FGSM",))  # less than half a byte
BRIEF: dict[str, Any] = {"recipe": RECIPE, "epochs": 1, "batch_size": 12, "learning_rate": 3e-3}
History = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))


def classifier(seed: int = 0, pixels: int = 64, classes: int = CLASSES) -> nn.Module:
    """With batch normalisation, whose statistics a training could spoil."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(pixels, 12), nn.Tanh(), nn.Linear(12, classes))
    with torch.no_grad():
        model[4].weight.mul_(5)
    return frozen(model)


@functools.cache
def drawn(spiking: bool, noise: NoiseMap, opened: float) -> Purifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Purifier(1, width=2, extractor_width=3, steps=2, spiking=spiking, noise=noise)
        nn.init.normal_(made.restorer.out.weight, std=opened)
    return made


def purifier(*, spiking: bool = True, noise: NoiseMap = "magnitude", opened: float = 0.0) -> Purifier:
    """One whose last convolution is not zero changes something."""
    return copy.deepcopy(drawn(spiking, noise, opened))


def split_of(n: int = 24, seed: int = 0) -> Split:
    images = torch.randint(256, (n, *SHAPE), generator=seeded(seed), dtype=torch.uint8)
    return Split(images, torch.randint(CLASSES, (n,), generator=seeded(seed + 1)))


def train(model: Purifier | None = None, split: Split | None = None, **options: Any) -> tuple[Purifier, History]:
    model = purifier() if model is None else model
    given = {"classifier": classifier(), "generator": seeded()} | BRIEF | options
    return model, train_purifier(model, split_of() if split is None else split, **given)


def loss_of(model: Purifier, losses: Losses, **options: Any) -> float:
    """On all pairs, by an epoch with steps too small to change a weight."""
    return float(train(model, losses=losses, **{"batch_size": 24, "learning_rate": 1e-30} | options)[1]["loss"])


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def alike(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def same(one: tuple[Purifier, History], other: tuple[Purifier, History]) -> bool:
    return alike(one[0], other[0]) and torch.equal(one[1]["loss"], other[1]["loss"])


def pairs_of(split: Split, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Attacked images and clean ones."""
    pairs = make_attacked_pairs(classifier(), split, RECIPE, generator=seeded(seed))
    return pairs.attacked.float() / 255, pairs.clean.float() / 255


# The losses


def test_charbonnier_by_hand() -> None:
    difference = torch.tensor([[3.0, -4.0], [0.0, 0.5]])
    expected = [math.sqrt(9 + 4), math.sqrt(16 + 4), 2.0, math.sqrt(0.25 + 4)]
    assert float(charbonnier(difference, eps=2.0)) == pytest.approx(sum(expected) / 4)
    assert float(charbonnier(difference)) == pytest.approx(7.5 / 4, abs=1e-3)  # far from zero the absolute value
    assert float(charbonnier(torch.zeros(5))) == pytest.approx(1e-3)


def test_charbonnier_is_round_at_zero_and_has_slope_one_far_off() -> None:
    for point, slope in ((0.0, 0.0), (1e-5, 1e-2), (0.5, 1.0), (-0.5, -1.0)):
        leaf = torch.tensor([point], requires_grad=True)
        charbonnier(leaf).backward()
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(slope, rel=1e-4)  # exactly 0.99995 times that at 1e-5


def test_too_small_an_estimate_costs_more() -> None:
    for estimate, truth, expected in [
        (0.0, 1.0, 0.7),
        (2.0, 1.0, 0.3),
        (0.5, 1.0, 0.7 * 0.25),
        (1.0, 1.0, 0.0),
        # signed maps: what counts is the magnitude
        (0.0, -1.0, 0.7),
        (-2.0, -1.0, 0.3),
        (-0.5, -1.0, 0.7 * 0.25),
        (0.5, -1.0, 0.7 * 2.25),
        (2.0, -1.0, 0.3 * 9),
        (-1.0, 1.0, 0.3 * 4),
        (1.0, 0.0, 0.3),
    ]:
        assert float(asymmetric(torch.tensor([estimate]), torch.tensor([truth]))) == pytest.approx(expected)


def test_the_asymmetric_loss_takes_alpha_and_the_mean() -> None:
    estimate, truth = torch.tensor([[0.0, 3.0], [1.0, -1.0]]), torch.tensor([[1.0, 1.0], [1.0, -2.0]])
    assert float(asymmetric(estimate, truth, 0.1)) == pytest.approx((0.9 + 0.1 * 4 + 0 + 0.9) / 4)
    assert float(asymmetric(estimate, truth, 0.49)) == pytest.approx((0.51 + 0.49 * 4 + 0 + 0.51) / 4)


def test_an_alpha_that_would_not_be_asymmetric_is_refused() -> None:
    for alpha in [0.0, -0.1, 0.5, 0.7, float("nan")]:
        with pytest.raises(ValueError, match=f"alpha must lie between 0 and 1/2, not {alpha}"):
            asymmetric(torch.ones(1), torch.ones(1), alpha)


def test_roughness_by_hand() -> None:
    maps = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]]).view(1, 1, 2, 3)
    across, down = (1 + 4 + 0 + 9) / 4, (1 + 4 + 1) / 3
    assert float(roughness(maps)) == pytest.approx(across + down)
    assert float(roughness(torch.full((2, 3, 4, 4), 0.7))) == 0
    # images and channels are no neighbours
    assert float(roughness(torch.arange(6.0).view(3, 2, 1, 1).expand(3, 2, 4, 4))) == 0


def test_the_losses_are_means_over_the_batch() -> None:
    """Unlike the sum over the batch in one re-implementation, whose weight grows with its size."""
    one, other = (torch.randn(2, 1, 4, 4, generator=seeded(s)) for s in (0, 1))
    many, others = one.repeat(8, 1, 1, 1), other.repeat(8, 1, 1, 1)
    assert float(charbonnier(many)) == pytest.approx(float(charbonnier(one)))
    assert float(asymmetric(many, others)) == pytest.approx(float(asymmetric(one, other)))
    assert float(roughness(many)) == pytest.approx(float(roughness(one)))


NAMES = ("charbonnier", "asymmetric", "roughness", "divergence")


def only(**given: float) -> Losses:
    return Losses(**(dict.fromkeys(NAMES, 0.0) | given))


@pytest.mark.parametrize("name", NAMES)
def test_no_term_depends_on_the_size_of_a_batch(name: str) -> None:
    losses = only(**{"charbonnier": 1e-30, name: 1.0})
    found = [loss_of(purifier(opened=0.5), losses, batch_size=size) for size in (24, 7)]
    assert found[0] > 1e-3
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_weights_of_the_losses_add_up() -> None:
    single = {name: loss_of(purifier(opened=0.5), only(**{"charbonnier": 1e-30, name: 1.0})) for name in NAMES}
    weighed = {"charbonnier": 0.5, "asymmetric": 0.25, "roughness": 2.0, "divergence": 3.0}
    total = sum(weight * single[name] for name, weight in weighed.items())
    assert loss_of(purifier(opened=0.5), Losses(**weighed)) == pytest.approx(total, rel=1e-4)
    default = single["charbonnier"] + 0.5 * single["asymmetric"] + 0.05 * single["roughness"]
    assert loss_of(purifier(opened=0.5), Losses()) == pytest.approx(default + 0.1 * single["divergence"], rel=1e-4)


def test_the_identity_loses_nothing_on_clean_images() -> None:
    """Charbonnier has its floor there, and the divergence is zero."""
    for noise in ("magnitude", "none"):
        assert loss_of(purifier(noise=noise), only(divergence=1.0), recipe=UNTOUCHED) == pytest.approx(0, abs=1e-6)
        assert loss_of(purifier(noise=noise), only(charbonnier=1.0), recipe=UNTOUCHED) == pytest.approx(1e-3)
    assert loss_of(purifier(), only(divergence=1.0)) > 1e-3
    assert loss_of(purifier(opened=0.5), only(divergence=1.0), recipe=UNTOUCHED) > 1e-3


def test_weights_that_mean_nothing_are_refused() -> None:
    for wrong in [
        *({name: value} for name in NAMES for value in (-0.1, float("nan"), float("inf"))),
        {"charbonnier": 0.0, "divergence": 0.0},
    ]:
        with pytest.raises(ValueError, match="weights must be finite and not negative, one of the images' above zero"):
            Losses(**wrong)
    for one in ("charbonnier", "divergence"):
        assert only(**{one: 0.1})  # either is enough


def by_hand(model: Purifier, pairs: tuple[Tensor, Tensor], losses: Losses) -> Tensor:
    attacked, clean = pairs
    f = classifier()
    extractor = model.extractor
    noise = torch.zeros_like(attacked) if extractor is None else extractor(attacked)
    unclipped = attacked + model.restorer(torch.cat([attacked, noise], 1))
    shown = unclipped.clamp(0, 1)
    assert not torch.equal(shown, unclipped)
    before, after = (f(x).log_softmax(1) for x in (clean, shown))
    total = losses.charbonnier * ((shown - clean) ** 2 + 1e-6).sqrt().sum() / clean.numel()
    total = total + losses.divergence * (before.exp() * (before - after)).sum() / len(clean)
    if extractor is not None:
        truth = (attacked - clean) * 255 / 8
        truth = truth.abs() if model.noise == "magnitude" else truth
        cost = torch.where(noise.abs() < truth.abs(), 0.7, 0.3)
        assert 0 < float((cost == 0.7).float().mean()) < 1
        total = total + losses.asymmetric * (cost * (noise - truth) ** 2).sum() / clean.numel()
        across, down = noise[..., 1:] - noise[..., :-1], noise[..., 1:, :] - noise[..., :-1, :]
        total = total + losses.roughness * (across.pow(2).mean() + down.pow(2).mean())
    return total


@pytest.mark.parametrize("noise", ["magnitude", "signed", "none"])
@pytest.mark.parametrize("spiking", [True, False], ids=["spiking", "ANN"])
def test_the_loss_and_its_gradient_are_those_of_the_formula(spiking: bool, noise: NoiseMap) -> None:
    """One step of plain descent on a single batch."""
    split, rate, losses = split_of(), 1e-3, Losses(1.0, 0.2, 0.3, 0.7)
    start, model = (purifier(spiking=spiking, noise=noise, opened=0.3) for _ in range(2))
    _, history = train(model, split, losses=losses, batch_size=24, optimizer="sgd", learning_rate=rate, pairs_seed=5)
    loss = by_hand(start, pairs_of(split, 5), losses)
    assert float(history["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    expected = torch.autograd.grad(loss, list(start.parameters()))
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert largest > 1e-2
    for old, new, gradient in zip(start.parameters(), model.parameters(), expected, strict=True):
        # the first step with Nesterov momentum 0.9; weights are rounded before and after it
        rounding = torch.finfo(old.dtype).eps * float(old.detach().abs().max()) / (1.9 * rate)
        assert torch.allclose((old - new).detach() / (1.9 * rate), gradient, rtol=1e-4, atol=rounding + 1e-5 * largest)


# What it learns


@pytest.fixture(scope="module")
def small_digits(digits: Dataset) -> tuple[Split, Split]:
    """Of 8 x 8 pixels, as they were before they were enlarged."""

    def shrunk(split: Split) -> Split:
        return Split(F.adaptive_avg_pool2d(split.images.float(), 8).round().to(torch.uint8), split.labels)

    return shrunk(digits.train), shrunk(digits.test)


@pytest.fixture(scope="module")
def learned(small_digits: tuple[Split, Split], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A classifier of digits, and for spiking purifiers and others what one is and how its loss went."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        f = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    train_standard(f, small_digits[0], epochs=4, learning_rate=5e-3, generator=seeded())
    found: dict[str, Any] = {"classifier": frozen(f)}
    recipe = Recipe(eps=(0.05, 0.1), attacks=("FGSM",), clean=0.3, noise=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVDEF_CACHE", str(tmp_path_factory.mktemp("cache")))
        for kind, epochs in (("spiking", 4), ("ANN", 2)):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = Purifier(1, width=4, extractor_width=4, steps=2, spiking=kind == "spiking")
            history = train_purifier(
                model, small_digits[0].head(250), generator=seeded(), classifier=found["classifier"], recipe=recipe,
                epochs=epochs, batch_size=25, learning_rate=1e-2,
            )  # fmt: skip
            found[kind] = model, history
    return found


@pytest.mark.parametrize("kind", ["spiking", "ANN"])
def test_training_lowers_the_loss(learned: dict[str, Any], kind: str) -> None:
    model, history = learned[kind]
    assert set(history) == {"loss"}
    assert history["loss"].shape == ((4,) if kind == "spiking" else (2,))
    assert float(history["loss"][-1]) < 0.85 * float(history["loss"][0])
    assert not any(module.training for module in model.modules())
    assert any(isinstance(module, Firing) for module in model.modules()) is (kind == "spiking")


def test_purified_images_are_nearer_to_clean_ones_and_better_classified(
    learned: dict[str, Any], small_digits: tuple[Split, Split]
) -> None:
    """Of images attacked by FGSM on the classifier alone, which the purifier did not see in training."""
    f, model = learned["classifier"], learned["spiking"][0]
    images, labels = small_digits[1].float_images(), small_digits[1].labels
    attacked = fgsm(f, images, labels, eps=0.1)

    def noise_ratio(x: Tensor) -> float:
        return float(-10 * (x - images).square().mean().log10())

    def hits(x: Tensor) -> float:
        return float(correct(f, x, labels).double().mean())

    with torch.no_grad():
        purified, clean = model(attacked), model(images)
    assert noise_ratio(purified) > noise_ratio(attacked) + 0.25
    assert hits(purified) > hits(attacked) + 0.03
    assert hits(clean) > hits(images) - 0.05


# The classifier, and labels


@pytest.mark.parametrize("end_to_end", [False, True])
def test_only_the_purifier_changes(end_to_end: bool) -> None:
    model, before = classifier(), weights(classifier())
    found, _ = train(classifier=model, end_to_end=end_to_end)
    for name, value in weights(purifier()).items():
        # where a first convolution is followed by few spikes, a single bias may stay; whole parts do not
        assert not torch.equal(value, found.state_dict()[name]) or name.endswith("bias"), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in found.parameters())


def test_labels_enter_by_the_attack_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first, real = train(), cached_pairs

    def relabelled(model: nn.Module, split: Split, recipe: Recipe, *, seed: int) -> Any:
        pairs = real(model, split, recipe, seed=seed)
        pairs.labels.copy_((pairs.labels + 1 + torch.arange(len(pairs.labels)) % 3) % CLASSES)
        return pairs

    with monkeypatch.context() as patch:
        patch.setattr(purification, "cached_pairs", relabelled)
        assert same(train(), first)
    other = split_of()
    other.labels.copy_((other.labels + 1) % CLASSES)
    assert not same(train(split=other), first)  # other attacks


def test_a_seed_reproduces_training_and_nothing_else_has_a_part_in_it() -> None:
    state = torch.get_rng_state()
    first = train(purifier(), end_to_end=False)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert same(train(), first)
    assert not alike(train(generator=seeded(1))[0], first[0])  # the order of the batches
    assert not alike(train(pairs_seed=1)[0], first[0])
    assert not alike(train(losses=Losses(divergence=0.2))[0], first[0])
    fresh = train(end_to_end=True)
    assert same(train(end_to_end=True), fresh)
    assert not alike(fresh[0], first[0])


def test_without_a_noise_map_there_are_no_losses_of_it() -> None:
    first = train(purifier(noise="none"), losses=Losses(asymmetric=0.0, roughness=0.0))
    assert same(train(purifier(noise="none"), losses=Losses(asymmetric=9.0, roughness=9.0)), first)
    assert not alike(first[0], purifier(noise="none"))
    assert not same(train(losses=Losses(asymmetric=9.0)), train(losses=Losses(asymmetric=0.0)))


# End to end


def test_end_to_end_each_batch_is_attacked_through_the_purifier_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    real, f, model, seen = purification.attack_batch, classifier(), purifier(), []

    def spy(target: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, **options: Any) -> Any:
        assert recipe is given
        assert not torch.is_autocast_enabled("cpu")
        shown = images.clone()
        with torch.no_grad():
            assert torch.equal(target(shown), f(model(shown)))
        generator = options["generator"].clone_state()
        result = real(target, images, labels, recipe, **options)
        # the same again, on a pipeline that is written out
        again = real(Pipeline(model, f), shown, labels, recipe, generator=generator)
        assert torch.equal(result[0], again[0])
        seen.append((shown, labels.clone(), result[0].clone(), weights(model)))
        return result

    given = Recipe(eps=(0.1,), attacks=("FGSM",), clean=0.1, noise=0.0)
    split = split_of()
    with monkeypatch.context() as patch:
        patch.setattr(purification, "attack_batch", spy)
        patch.setattr(purification, "cached_pairs", None)  # not asked
        train(model, split, classifier=f, recipe=given, end_to_end=True, epochs=2)
    assert len(seen) == 2 * 2
    assert all(not torch.equal(one[3]["restorer.out.bias"], two[3]["restorer.out.bias"]) for one, two in pairwise(seen))
    labels = {image.numpy().tobytes(): int(y) for image, y in zip(split.float_images(), split.labels, strict=True)}
    for images, told, found, _ in seen:
        assert [labels[image.contiguous().numpy().tobytes()] for image in images] == told.tolist()
        assert 0.05 < float((found - images).abs().max()) <= 0.1 + 0.5 / 255 + 1e-6


class Pipeline(nn.Module):
    def __init__(self, model: Purifier, f: nn.Module) -> None:
        super().__init__()
        self.model, self.f = model, f

    def forward(self, images: Tensor) -> Tensor:
        return self.f((images + self.model.restorer(torch.cat([images, self.model.extract(images)], 1))).clamp(0, 1))


def test_images_are_moved_and_mirrored_before_they_are_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = purification.fit, []

    def spy(model: nn.Module, split: Split, **options: Any) -> list[float]:
        seen.append((split.images.shape[1], options.get("shift", 0), options.get("flip", False)))
        return real(model, split, **options)

    monkeypatch.setattr(purification, "fit", spy)
    recipe = Recipe(eps=(0.1,), attacks=("FGSM",), shift=2, flip=True, copies=2)
    for end_to_end in (False, True):
        train(recipe=recipe, end_to_end=end_to_end, batch_size=24)
    assert seen == [(2, 0, False), (1, 2, True)]  # pairs, and images


def test_cached_pairs_are_attacked_once() -> None:
    model = classifier()
    for seed, asked in ((0, True), (0, False), (1, True)):
        with watched(model) as seen:
            train(classifier=model, losses=only(charbonnier=1.0), pairs_seed=seed, batch_size=24)
        assert bool(seen) is asked


# What goes wrong


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classifier": classifier().requires_grad_(True)}, "trainable parameters"),
        ({"classifier": classifier().train()}, "in training mode"),
        ({"shift": 2}, "give shift and flip to the recipe"),
        ({"flip": True}, "give shift and flip to the recipe"),
        ({"shift": 0, "end_to_end": True}, "give shift and flip to the recipe"),
        ({"flip": False, "end_to_end": True}, "give shift and flip to the recipe"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"split": Split(torch.zeros(4, 1, 6, 8, dtype=torch.uint8), torch.zeros(4).long())}, "multiple of 4"),
        ({"split": Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long())}, r"built for .* 1, H, W"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    given = dict(wrong)
    split = given.pop("split", None)
    if split is not None:
        pixels = split.images[0, 0].numel()
        given |= {"classifier": frozen(nn.Sequential(nn.Flatten(), nn.Linear(split.images.shape[1] * pixels, CLASSES)))}
    model = purifier()
    with pytest.raises(ValueError, match=message):
        train(model, split, **given)
    assert alike(model, purifier())


@pytest.mark.parametrize("spiking", [True, False], ids=["spiking", "ANN"])
def test_a_training_that_diverges_gives_back_the_last_good_weights(spiking: bool) -> None:
    model = purifier(spiking=spiking)
    before = weights(model)
    with pytest.raises(TrainingDiverged, match=r"not finite .*lower learning_rate") as caught:
        train(model, learning_rate=1e30)
    assert caught.value.epoch == 0
    for kept in (model.state_dict(), caught.value.checkpoint):
        assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert not any(module.training for module in model.modules())


def test_surrogates_stay_those_of_the_purifier() -> None:
    before = [str(neuron.surrogate) for neuron in neurons_of(purifier()).values()]
    assert [str(neuron.surrogate) for neuron in neurons_of(train(end_to_end=True)[0]).values()] == before


# The cache of weights


def asked(
    data: Dataset,
    *,
    noise: NoiseMap = "magnitude",
    steps: int = 1,
    seed: int = 0,
    divergence: float = 0.1,
    **options: Any,
) -> Training:
    def build() -> Purifier:
        return Purifier(1, width=1, extractor_width=1, steps=steps, noise=noise)

    given = {"recipe": Recipe(eps=(0.1,), attacks=("FGSM",)), "losses": Losses(divergence=divergence)} | options
    return trained(build, train_purifier, data, seed=0, classifier=classifier(seed, 784, 10), epochs=1, **given)


def test_the_cache_tells_trainings_apart(digits: Dataset) -> None:
    data = digits.subset(train=6, test=6)
    questions: list[dict[str, Any]] = [
        {},
        {"steps": 2},
        {"seed": 1},
        {"divergence": 0.2},
        {"end_to_end": True},
        {"pairs_seed": 1},
        {"recipe": Recipe(eps=(0.2,), attacks=("FGSM",))},
    ]
    found = [asked(data, **question) for question in questions]
    assert [question for question, training in zip(questions, found, strict=True) if training.from_cache] == []
    again = asked(data)
    assert again.from_cache
    assert alike(again.model, found[0].model)
    assert set(again.history) == {"loss"}


def test_the_cache_tells_noise_maps_apart(digits: Dataset) -> None:
    """Magnitudes and signed ones come from the same weights."""
    data = digits.subset(train=6, test=6)
    noises: tuple[NoiseMap, ...] = ("magnitude", "signed", "none")
    assert [asked(data, noise=noise).from_cache for noise in noises] == [False] * 3
