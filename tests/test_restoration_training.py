"""A restorer is trained on the loss that is written down, beside a classifier that stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import each
from contract import seeded, watched
from torch import Tensor, nn

from advdef.contract import frozen
from advdef.data import Dataset, Split
from advdef.papers.trn import training as restoration
from advdef.papers.trn.maps import GradientMap, OracleMap, RandomMap, ShuffledMap, SobelMap
from advdef.papers.trn.models import ImageRestorer, Restorer, TwoStreamRestorer
from advdef.papers.trn.training import map_of, train_restorer
from advdef.training import Recipe, TrainingDiverged, cached_pairs, fit, trained
from advdef.training.pairs import make_attacked_pairs

SHAPE, CLASSES = (1, 6, 6), 4
RECIPE = Recipe(eps=(0.1, 0.2), attacks=("FGSM", "PGD-5"), noise=0.2)
NOISE = Recipe(eps=(0.3,), attacks=("FGSM",), clean=0.05, noise=0.94)
BRIEF: dict[str, Any] = {"recipe": RECIPE, "epochs": 3, "batch_size": 16, "learning_rate": 3e-3}
History = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))


class Network(nn.Module):
    """A classifier with batch normalisation, which names its features."""

    taps = ("0", "3")

    def __init__(self, pixels: int, classes: int = CLASSES) -> None:
        super().__init__()
        parts = (nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(pixels, 12), nn.Tanh(), nn.Linear(12, classes))
        for number, part in enumerate(parts):
            self.add_module(str(number), part)

    def forward(self, images: Tensor) -> Tensor:
        for part in self.children():
            images = part(images)
        return images


def classifier(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return frozen(Network(36))


def restorer(map_channels: int = 0, *, opened: float = 0.0) -> Restorer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"width": 8, "streams": 1, "tail": 1}
        made = TwoStreamRestorer(1, map_channels, **size) if map_channels else ImageRestorer(1, **size)
        nn.init.normal_(made.out.weight, std=opened)
        return made


def split_of(n: int = 60, seed: int = 0) -> Split:
    """Images of one grey each: what departs from it was added."""
    levels = torch.randint(40, 216, (n, 1, 1, 1), generator=seeded(seed))
    labels = torch.randint(CLASSES, (n,), generator=seeded(seed + 1))
    return Split(levels.expand(-1, *SHAPE).to(torch.uint8).contiguous(), labels)


def train(model: Restorer | None = None, split: Split | None = None, **options: Any) -> tuple[Restorer, History]:
    model = restorer() if model is None else model
    given = {"classifier": classifier(), "generator": seeded()} | BRIEF | options
    return model, train_restorer(model, split_of() if split is None else split, **given)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def alike(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def same(one: tuple[Restorer, History], other: tuple[Restorer, History]) -> bool:
    return alike(one[0], other[0]) and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


def halves(split: Split, held: int) -> tuple[Split, Split]:
    return (
        Split(split.images[:-held], split.labels[:-held]),
        Split(split.images[-held:], split.labels[-held:]),
    )


def pairs_of(split: Split, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attacked images, clean ones, labels."""
    pairs = make_attacked_pairs(classifier(), split, recipe, generator=seeded(seed))
    return pairs.attacked.float() / 255, pairs.clean.float() / 255, pairs.labels


# What it learns


def test_training_lowers_the_loss_and_takes_noise_off() -> None:
    model, history = train(
        split=split_of(200), recipe=NOISE, epochs=12, learning_rate=1e-2, cross_entropy=0.0, feature=0.0, average=0.9
    )
    assert history["loss"].shape == history["validation"].shape == (12,)
    assert float(history["loss"][-1]) < 0.6 * float(history["loss"][0])
    assert float(history["validation"].min()) < 0.6 * float(history["validation"][0])
    attacked, clean, _ = pairs_of(split_of(200, seed=7), NOISE, 5)
    with torch.no_grad():
        restored = attacked - model(attacked)
    assert float((restored - clean).abs().mean()) < 0.5 * float((attacked - clean).abs().mean())
    assert not model.training


def test_the_classifier_stays_as_it_is() -> None:
    model, before = classifier(), weights(classifier())
    trained_restorer, _ = train(restorer(1), classifier=model, maps=GradientMap(model))
    assert not alike(trained_restorer, restorer(1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_seed_reproduces_training_and_nothing_else_has_a_part_in_it() -> None:
    state = torch.get_rng_state()
    first = train()
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert same(train(), first)
    assert not alike(train(generator=seeded(1))[0], first[0])  # the order of the batches
    assert not alike(train(pairs_seed=1)[0], first[0])  # the pairs
    fresh = train(fresh=True)
    assert same(train(fresh=True), fresh)
    assert not alike(fresh[0], first[0])


# The loss


TERMS: list[dict[str, float]] = [
    {"pixel": 1.0, "feature": 0.0, "cross_entropy": 0.0},
    {"pixel": 0.0, "feature": 1.0, "cross_entropy": 0.0},
    {"pixel": 0.0, "feature": 0.0, "cross_entropy": 1.0},
    {"pixel": 0.7, "feature": 0.3, "cross_entropy": 0.2},
    {},
]


def by_hand(
    model: Restorer, maps: nn.Module | None, pairs: tuple[Tensor, Tensor, Tensor], terms: dict[str, float]
) -> Tensor:
    attacked, clean, labels = pairs
    f = classifier()
    features = nn.Sequential(*list(f.children())[:4])
    head = list(f.children())[4]
    seen = None if maps is None else map_of(maps, attacked, labels)
    restored = attacked - model(attacked, seen)
    shown = restored.clamp(0, 1)
    parts = {
        "pixel": (restored - clean).abs().sum() / clean.numel(),
        "feature": (features(shown) - features(clean)).abs().sum() / (12 * len(clean)),
        "cross_entropy": -head(features(shown)).log_softmax(1)[torch.arange(len(labels)), labels].mean(),
    }
    if terms.get("pixel", 1.0):  # images leave [0, 1] here, so that it matters where they are clipped
        assert float(((shown - clean).abs().mean() / parts["pixel"]).detach()) < 0.95
    used = {"pixel": 1.0, "feature": 0.1, "cross_entropy": 0.05} | terms
    return torch.stack([used[name] * part for name, part in parts.items()]).sum()


@each(
    ("build", "terms"),
    [
        *((lambda f: None, terms) for terms in TERMS),
        *((maps, {}) for maps in (GradientMap, OracleMap, lambda f: SobelMap())),
    ],
    ids=["pixel", "feature", "cross-entropy", "all", "defaults", "gradient map", "oracle map", "Sobel map"],
)
def test_the_loss_and_its_gradient_are_those_of_the_formula(
    build: Callable[[nn.Module], nn.Module | None], terms: dict[str, float]
) -> None:
    """One step of plain descent on a single batch, of weights that change much."""
    split, rate, maps = split_of(40), 1e-3, build(classifier())
    start, model = (restorer(0 if maps is None else 1, opened=0.5) for _ in range(2))
    _, history = train(
        model, split, maps=maps, epochs=1, batch_size=36, optimizer="sgd", learning_rate=rate, average=0.0, **terms
    )
    head, tail = halves(split, 4)
    loss = by_hand(start, maps, pairs_of(head, RECIPE, 0), terms)
    assert float(history["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    expected = torch.autograd.grad(loss, list(start.parameters()))
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-2
    for old, new, gradient in zip(start.parameters(), model.parameters(), expected, strict=True):
        # the first step with Nesterov momentum 0.9; weights are rounded before and after it
        rounding = torch.finfo(old.dtype).eps * float(old.detach().abs().max()) / (1.9 * rate)
        assert torch.allclose((old - new).detach() / (1.9 * rate), gradient, rtol=1e-4, atol=rounding + 1e-5)
    with torch.no_grad():
        left = by_hand(model, maps, pairs_of(tail, RECIPE, 1), {"pixel": 0.0} | terms)
        left += 0 if "pixel" in terms else by_hand(model, maps, pairs_of(tail, RECIPE, 1), ONLY_PIXELS)
    assert float(history["validation"]) == pytest.approx(float(left), rel=1e-5)


ONLY_PIXELS = {"pixel": 1.0, "feature": 0.0, "cross_entropy": 0.0}


# Labels


def relabelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the attacks see the labels, and the training others."""
    real = cached_pairs

    def other(model: nn.Module, split: Split, recipe: Recipe, *, seed: int) -> Any:
        pairs = real(model, split, recipe, seed=seed)
        pairs.labels.copy_((pairs.labels + 1) % CLASSES)
        return pairs

    monkeypatch.setattr(restoration, "cached_pairs", other)


@pytest.mark.parametrize(
    ("options", "build", "matter"),
    [
        ({"cross_entropy": 0.0}, None, False),
        ({"cross_entropy": 0.0}, GradientMap, False),
        ({"cross_entropy": 0.0}, lambda f: GradientMap(f, "predicted"), False),
        ({"cross_entropy": 0.0}, lambda f: ShuffledMap(GradientMap(f)), False),
        ({"cross_entropy": 0.0}, OracleMap, True),
        ({}, GradientMap, True),
    ],
    ids=["image only", "average", "predicted", "shuffled", "oracle", "cross-entropy"],
)
def test_labels_enter_by_cross_entropy_and_an_oracle_alone(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, float],
    build: Callable[[nn.Module], nn.Module] | None,
    matter: bool,
) -> None:
    given: dict[str, Any] = options | {"maps": build and build(classifier())}
    # 3 epochs, as a two-stream restorer's map only counts once its last convolution has moved away from zero
    first = train(restorer(1 if build else 0, opened=0.1), **given)
    relabelled(monkeypatch)
    assert same(train(restorer(1 if build else 0, opened=0.1), **given), first) is not matter


class Told(OracleMap):
    """Keeps what it is told."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__(f)
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self, images: Tensor, *, labels: Tensor) -> Tensor:
        self.seen.append((images.clone(), labels.clone()))
        return super().forward(images, labels=labels)


def test_an_oracle_is_told_the_labels_of_its_images() -> None:
    oracle, split = Told(classifier()), split_of()
    train(restorer(1), split, maps=oracle, epochs=1)
    expected = [pairs_of(part, RECIPE, seed)[::2] for part, seed in zip(halves(split, 6), (0, 1), strict=True)]

    def counts(batches: list[tuple[Tensor, ...]]) -> Counter[tuple[bytes, int]]:
        return Counter(
            (image.contiguous().numpy().tobytes(), int(label))
            for images, labels in batches
            for image, label in zip(images, labels, strict=True)
        )

    assert counts(oracle.seen) == counts(expected)


def test_only_an_oracle_is_told() -> None:
    images, labels = split_of().float_images(), split_of().labels
    assert map_of(None, images, labels) is None
    oracle = OracleMap(classifier())
    assert torch.equal(map_of(oracle, images, labels), oracle(images, labels=labels))  # type: ignore[arg-type]
    for maps in (GradientMap(classifier()), SobelMap(), RandomMap(), ShuffledMap(SobelMap())):
        with watched(maps) as seen:
            found = map_of(maps, images, labels)
        assert len(seen) == 1
        assert torch.equal(found, maps(images))  # type: ignore[arg-type]


# The weights that are deployed


def watched_fit(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The split that is trained on, and the weights after each step, of the next training."""
    seen: dict[str, Any] = {"steps": []}

    def spy(model: nn.Module, split: Split, *, after_step: Callable[[], None], **options: Any) -> list[float]:
        def then() -> None:
            after_step()
            seen["steps"].append(weights(model))

        seen.update(split=split, options=options)
        return fit(model, split, after_step=then, **options)

    monkeypatch.setattr(restoration, "fit", spy)
    return seen


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.999])
def test_the_weights_are_an_average_after_the_best_epoch(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    seen = watched_fit(monkeypatch)
    split, epochs, per_epoch = split_of(), 6, 4
    start = restorer(opened=0.1)
    model, history = train(
        restorer(opened=0.1), split, epochs=epochs, average=factor, learning_rate=0.03, schedule="constant",
        cross_entropy=0.0, feature=0.0,
    )  # fmt: skip
    steps = seen["steps"]
    assert len(steps) == epochs * per_epoch
    running, averages = {name: value.double() for name, value in weights(start).items()}, []
    for count, now in enumerate(steps, start=1):
        keep = min(factor, (1 + count) / (10 + count))
        running = {name: keep * value + (1 - keep) * now[name].double() for name, value in running.items()}
        averages.append(running)
    attacked, clean, _ = pairs_of(halves(split, 6)[1], RECIPE, 1)
    probe, losses = restorer(), []
    for average in averages[per_epoch - 1 :: per_epoch]:
        probe.load_state_dict(average)
        with torch.no_grad():
            losses.append(float((attacked - probe(attacked) - clean).abs().mean()))
    assert history["validation"].tolist() == pytest.approx(losses, rel=1e-4)
    best = min(range(epochs), key=losses.__getitem__)
    assert int(history["epoch"]) == best + 1
    deployed = averages[(best + 1) * per_epoch - 1]
    for name, value in model.state_dict().items():
        assert torch.allclose(value.double(), deployed[name], rtol=1e-4, atol=1e-6)
    last = steps[(best + 1) * per_epoch - 1]
    assert all(torch.allclose(value, last[name]) for name, value in model.state_dict().items()) is (factor == 0)


def test_the_best_epoch_need_not_be_the_last() -> None:
    """With a learning rate that spoils what was learned."""
    model, history = train(restorer(opened=0.1), epochs=8, learning_rate=0.2, schedule="constant", average=0.0)
    best = int(history["epoch"])
    assert best < 8
    assert float(history["validation"][best - 1]) == float(history["validation"].min())
    assert alike(
        model, train(restorer(opened=0.1), epochs=best, learning_rate=0.2, schedule="constant", average=0.0)[0]
    )


# Data


@pytest.mark.parametrize("fresh", [False, True])
def test_held_out_images_are_not_trained_on(monkeypatch: pytest.MonkeyPatch, fresh: bool) -> None:
    seen = watched_fit(monkeypatch)
    split = split_of()
    _, history = train(split=split, fresh=fresh, validation=0.25)
    head, _ = halves(split, 15)
    images = seen["split"].images
    assert torch.equal(images if fresh else images[:, 1:], head.images)
    assert torch.equal(seen["split"].labels, head.labels)
    # others in their place change what is measured, and not what is learned
    images = split.images.clone()
    images[-15:] = 255 - images[-15:]
    _, other = train(split=Split(images, split.labels), fresh=fresh, validation=0.25)
    assert torch.equal(other["loss"], history["loss"])
    assert not torch.equal(other["validation"], history["validation"])


def test_fresh_attacks_are_made_for_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    real, found = restoration.attack_batch, []

    def count(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, **options: Any) -> Any:
        assert recipe is given
        result = real(model, images, labels, recipe, **options)
        found.append((images.clone(), result[0]))
        return result

    monkeypatch.setattr(restoration, "attack_batch", count)
    given = Recipe(eps=(0.2,), clean=0.2, shift=2, flip=True)
    train(recipe=given)
    assert not found
    seen = watched_fit(monkeypatch)
    train(recipe=given, fresh=True)
    assert len(found) == 3 * 4
    assert (seen["options"]["shift"], seen["options"]["flip"]) == (2, True)
    clean, attacked = (torch.cat(column).split(54) for column in zip(*found, strict=True))
    moved = [a - c for a, c in zip(attacked, clean, strict=True)]
    assert not any(torch.equal(one, other) for one, other in pairwise(moved))
    assert any(len(image.unique()) > 1 for image in clean[0])  # the black border that a shift brings in
    assert float(torch.stack(moved).abs().max()) <= 0.2 + 0.5 / 255 + 1e-6


def test_cached_pairs_are_attacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    options: dict[str, Any] = {"classifier": model, "cross_entropy": 0.0, "feature": 0.0}
    with watched(model) as first:
        train(**options)
    with watched(model) as again:
        train(**options)
    assert first
    assert not again


# What goes wrong


@each(
    ("wrong", "message"),
    [
        ({"classifier": Network(36).eval()}, "trainable parameters"),
        ({"classifier": classifier().train()}, "in training mode"),
        ({"pixel": -1.0}, r"must be weights, not \(-1.0, 0.05, 0.1\)"),
        ({"cross_entropy": -0.1}, "must be weights"),
        ({"pixel": 0.0, "cross_entropy": 0.0, "feature": 0.0}, "must be weights"),
        ({"average": 1.0}, r"average must lie in \[0, 1\), not 1.0"),
        ({"average": -0.1}, "not -0.1"),
        ({"average": float("nan")}, "not nan"),
        ({"validation": 0.0}, "images on both sides, not 0.0 of 60"),
        ({"validation": 1.0}, "images on both sides"),
        ({"validation": -0.5}, "images on both sides"),
        ({"maps": SobelMap()}, "built for 0 channels of maps"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"shift": 2}, "give shift and flip to the recipe"),
        ({"flip": True, "fresh": True}, "give shift and flip to the recipe"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(**wrong)


def test_a_training_that_diverges_gives_back_the_last_good_weights() -> None:
    model = restorer(opened=0.1)
    before = weights(model)
    with pytest.raises(TrainingDiverged, match=r"not finite .*lower learning_rate") as caught:
        train(model, learning_rate=1e30)
    assert caught.value.epoch == 0
    for kept in (model.state_dict(), caught.value.checkpoint):
        assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert not model.training


class Spoiled(nn.Module):
    """A map that is NaN for batches of as many images as are held out, from some batch on."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    def forward(self, images: Tensor) -> Tensor:
        held = len(images) == 6
        self.good -= held
        return images * (float("nan") if held and self.good < 0 else 1)


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_loss_on_held_out_images_that_is_not_finite_ends_it_too(epochs: int) -> None:
    """Also after the last epoch; there are left the weights that were best so far."""
    expected, _ = train(restorer(1, opened=0.1), maps=Spoiled(9), batch_size=27, epochs=1, schedule="constant")
    model = restorer(1, opened=0.1)
    with pytest.raises(TrainingDiverged, match=f"held-out images is not finite after epoch 2 of {epochs}") as caught:
        train(model, maps=Spoiled(1), batch_size=27, epochs=epochs, schedule="constant")
    assert caught.value.epoch == 1
    assert alike(model, expected)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in caught.value.checkpoint.items())
    assert not model.training


# The cache of weights


def test_the_cache_tells_classifiers_and_maps_apart(digits: Dataset) -> None:
    data = digits.subset(train=40, test=10)

    def network(seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return frozen(Network(784, 10))

    def ask(f: nn.Module, maps: nn.Module | None, **options: Any) -> Any:
        build = (lambda: TwoStreamRestorer(1, 1, width=4, streams=1, tail=1)) if maps is not None else (
            lambda: ImageRestorer(1, width=4, streams=1, tail=1)
        )  # fmt: skip
        settings = {"recipe": Recipe(eps=(0.2,), attacks=("FGSM",)), "epochs": 1} | options
        return trained(build, train_restorer, data, seed=0, classifier=f, maps=maps, **settings)

    f, g = network(), network(1)
    questions: list[tuple[nn.Module, nn.Module | None, dict[str, Any]]] = [
        (f, GradientMap(f), {}),
        (g, GradientMap(f), {}),
        (f, GradientMap(g), {}),
        (f, GradientMap(f, "predicted"), {}),
        (f, GradientMap(f, scale="sign"), {}),
        (f, OracleMap(f), {}),
        (f, SobelMap(), {}),
        (f, SobelMap(scale="none"), {}),
        (f, ShuffledMap(SobelMap()), {}),
        (f, RandomMap(), {}),
        (f, None, {}),
        (f, GradientMap(f), {"recipe": Recipe(eps=(0.1,), attacks=("FGSM",))}),
    ]
    found = [ask(f, maps, **options) for f, maps, options in questions]
    assert not any(training.from_cache for training in found)
    again = ask(network(), GradientMap(network()))
    assert again.from_cache
    assert alike(again.model, found[0].model)
    assert all(torch.equal(value, found[0].history[name]) for name, value in again.history.items())
    assert set(again.history) == {"loss", "validation", "epoch"}
    assert ask(f, ShuffledMap(SobelMap())).from_cache
