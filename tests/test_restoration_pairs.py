"""Pairs of attacked and clean images follow their recipe, and are kept for the classifier that they attack alone."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import each
from contract import seeded, tiny, watched
from torch import Tensor, nn

from advdef.attacks.gradient import pgd
from advdef.attacks.losses import margin
from advdef.data import Split
from advdef.store import StoreWarning
from advdef.training import Recipe, cached_pairs
from advdef.training import pairs as restoration_pairs
from advdef.training.pairs import ATTACKS, AttackedPairs, attack_batch, make_attacked_pairs

SHAPE = (2, 3, 3)
HALF_A_BYTE = 0.5 / 255 + 1e-6
RECIPE = Recipe(eps=(0.03, 0.1, 0.25), attacks=("FGSM", "PGD-5"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))
    return tmp_path / "pairs"


@pytest.fixture(scope="module")
def classifier() -> nn.Sequential:
    return tiny(28)


def split_of(n: int = 40, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Split:
    images = torch.randint(256, (n, *shape), generator=seeded(seed)).to(torch.uint8)
    return Split(images, torch.randint(4, (n,), generator=seeded(seed + 1)))


def taken(classifier: nn.Module, recipe: Recipe, n: int = 40) -> tuple[Tensor, ...]:
    """Images and labels, the same attacked, kinds and eps."""
    split = split_of(n)
    images, labels = split.float_images(), split.labels
    return images, labels, *attack_batch(classifier, images, labels, recipe, generator=seeded())


def same(one: AttackedPairs, other: AttackedPairs) -> bool:
    return all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items() if name != "classifier")


def distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().amax((1, 2, 3))


# What is drawn


def test_each_kind_and_each_eps_has_its_share(classifier: nn.Sequential) -> None:
    recipe = Recipe(eps=(0.1, 0.2), attacks=("FGSM", "PGD-5", "PGD-10"), clean=0.4, noise=0.15)
    *_, kinds, eps = taken(classifier, recipe, 4_000)
    assert recipe.kinds == ("clean", "noise", "FGSM", "PGD-5", "PGD-10")
    shares = torch.bincount(kinds, minlength=5) / 4_000
    assert shares.tolist() == pytest.approx([0.4, 0.15, 0.15, 0.15, 0.15], abs=0.03)
    for kind in range(1, 5):
        assert float((eps[kinds == kind] == 0.1).double().mean()) == pytest.approx(0.5, abs=0.08)


def test_each_image_keeps_its_own_eps_and_clean_ones_stay(classifier: nn.Sequential) -> None:
    images, _, found, kinds, eps = taken(classifier, RECIPE, 400)
    moved = distance(found, images)
    assert set(kinds.tolist()) == {0, 1, 2, 3}
    assert torch.equal(eps == 0, kinds == 0)
    assert torch.equal(found[kinds == 0], images[kinds == 0])
    assert torch.allclose(eps[kinds > 0].unique(), torch.tensor(RECIPE.eps))
    assert bool((moved <= eps + HALF_A_BYTE).all())
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    # and it is used: an attack goes to the border somewhere
    assert float((moved[kinds > 1] >= eps[kinds > 1] - HALF_A_BYTE).double().mean()) > 0.9


def test_noise_fills_its_box_and_an_attack_lowers_the_margin(classifier: nn.Sequential) -> None:
    images, labels, found, kinds, _ = taken(classifier, Recipe(eps=(0.2,), clean=0.1, noise=0.45), 1_000)
    inside = (images > 0.2) & (images < 0.8) & (kinds == 1)[:, None, None, None]
    relative = (found - images)[inside] / 0.2
    assert float(relative.mean()) == pytest.approx(0, abs=0.05)
    assert float(relative.std()) == pytest.approx(3**-0.5, abs=0.03)
    with torch.no_grad():
        gained = margin(classifier(found), labels) - margin(classifier(images), labels)
    assert float(gained[kinds >= 2].mean()) > 3 * float(gained[kinds == 1].abs().mean())
    assert float(gained[kinds >= 2].min()) > -0.1  # of rounding


def test_what_is_found_are_bytes(classifier: nn.Sequential) -> None:
    _, _, found, *_ = taken(classifier, RECIPE, 200)
    stored = (255 * found).round().to(torch.uint8)
    assert torch.equal(next(Split(stored, torch.zeros(200).long()).batches(200))[0], found)


@pytest.mark.parametrize(("name", "forward"), [("FGSM", 3), ("PGD-5", 7), ("PGD-10", 12)])
def test_the_attacks_take_as_many_steps_as_they_say(classifier: nn.Sequential, name: str, forward: int) -> None:
    """Besides a look at the clean image and one at the last iterate."""
    images, labels = split_of(4).float_images(), split_of(4).labels
    with watched(classifier) as seen:
        ATTACKS[name](classifier, images, labels, eps=0.1, generator=seeded())
    assert len(seen) == forward


def test_only_the_named_attacks_run_each_on_its_own_images_labels_and_eps(
    classifier: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, dict[str, Any]] = {}

    def fake(model: nn.Module, images: Tensor, labels: Tensor, *, name: str, level: float, **given: Any) -> Tensor:
        assert name not in calls
        assert model is classifier
        calls[name] = {"images": images, "labels": labels} | given
        return torch.full_like(images, level)

    levels = {"FGSM": 0.0, "PGD-5": 0.2, "PGD-10": 0.4, "other": 0.6}
    fakes = {name: partial(fake, name=name, level=level) for name, level in levels.items()}
    monkeypatch.setattr(restoration_pairs, "ATTACKS", fakes)
    recipe = Recipe(eps=(0.1, 0.2), attacks=("PGD-10", "FGSM"))
    split, draws = split_of(60), seeded()
    images, labels = split.float_images(), split.labels
    found, kinds, eps = attack_batch(classifier, images, labels, recipe, generator=draws)
    assert set(calls) == {"PGD-10", "FGSM"}
    for kind in (2, 3):
        rows, call = kinds == kind, calls[recipe.kinds[kind]]
        assert call["generator"] is draws
        assert torch.equal(call["images"], images[rows])
        assert torch.equal(call["labels"], labels[rows])
        assert torch.equal(call["eps"], eps[rows])
        assert bool((found[rows] == levels[recipe.kinds[kind]]).all())


def test_the_generator_alone_decides(classifier: nn.Sequential) -> None:
    split, before = split_of(), torch.get_rng_state()
    recipe = dataclasses.replace(RECIPE, shift=1, flip=True, copies=2)
    first = make_attacked_pairs(classifier, split, recipe, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert same(make_attacked_pairs(classifier, split, recipe, generator=seeded()), first)
    assert not same(make_attacked_pairs(classifier, split, recipe, generator=seeded(1)), first)


def test_no_gradients_around_it_change_nothing(classifier: nn.Sequential) -> None:
    with torch.no_grad():
        off = make_attacked_pairs(classifier, split_of(), RECIPE, generator=seeded())
    assert same(off, make_attacked_pairs(classifier, split_of(), RECIPE, generator=seeded()))


# Pairs


def test_copies_are_drawn_anew_in_the_order_of_the_images(classifier: nn.Sequential) -> None:
    split = split_of()
    pairs = make_attacked_pairs(
        classifier, split, dataclasses.replace(RECIPE, copies=3), generator=seeded(), batch_size=17
    )
    assert pairs.attacked.dtype == pairs.clean.dtype == torch.uint8
    assert torch.equal(pairs.clean, split.images.repeat(3, 1, 1, 1))
    assert torch.equal(pairs.labels, split.labels.repeat(3))
    one, two, three = pairs.attacked.chunk(3)
    assert not any(torch.equal(a, b) for a, b in ((one, two), (one, three), (two, three)))
    assert len({tuple(kinds.tolist()) for kinds in pairs.kinds.chunk(3)}) == 3
    assert bool((distance(pairs.attacked / 255, pairs.clean / 255) <= pairs.eps + HALF_A_BYTE).all())


def test_both_images_of_a_pair_are_moved_and_mirrored_alike(classifier: nn.Sequential) -> None:
    split = split_of()
    plain = Recipe(eps=(0.05,), clean=0.5)
    pairs = make_attacked_pairs(classifier, split, dataclasses.replace(plain, shift=1, flip=True), generator=seeded())
    padded = F.pad(split.images, (1, 1, 1, 1))
    places = [padded[:, :, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    fits = torch.stack([(pairs.clean == place).flatten(1).all(1) for place in places])
    mirrored = torch.stack([(pairs.clean == place.flip(-1)).flatten(1).all(1) for place in places])
    assert bool((fits | mirrored).any(0).all())
    assert int(fits.any(1).sum()) > 5
    assert 10 < int(mirrored.any(0).sum()) < 30
    assert bool((distance(pairs.attacked / 255, pairs.clean / 255) <= pairs.eps + HALF_A_BYTE).all())
    kept = pairs.kinds == 0
    assert torch.equal(pairs.attacked[kept], pairs.clean[kept])


def test_a_split_of_pairs_holds_the_attacked_image_and_then_the_clean_one(classifier: nn.Sequential) -> None:
    pairs = make_attacked_pairs(classifier, split_of(), RECIPE, generator=seeded())
    ((both, labels),) = pairs.split().batches(40)
    assert both.shape == (40, 4, 3, 3)
    assert torch.equal(both[:, :2], pairs.attacked.float() / 255)
    assert torch.equal(both[:, 2:], split_of().float_images())
    assert torch.equal(labels, split_of().labels)


def test_the_classifier_is_left_alone() -> None:
    classifier = tiny(28)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    make_attacked_pairs(classifier, split_of(), RECIPE, generator=seeded())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())
    assert not any(module.training for module in classifier.modules())


# Files


def rebuilt() -> nn.Sequential:
    """The same weights in another architecture."""
    model = tiny(28)
    model[3] = nn.ReLU()
    return model


def test_pairs_are_made_once(classifier: nn.Sequential, cache: Path) -> None:
    state = torch.get_rng_state()
    with watched(classifier) as first:
        made = cached_pairs(classifier, split_of(), RECIPE, seed=3)
    with watched(classifier) as again:
        assert same(cached_pairs(classifier, split_of(), RECIPE, seed=3), made)
    with watched(other := tiny(28)) as equal:
        assert same(cached_pairs(other, split_of(), dataclasses.replace(RECIPE), seed=3), made)
    assert first
    assert not again
    assert not equal
    assert same(make_attacked_pairs(classifier, split_of(), RECIPE, generator=seeded(3)), made)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"classifier": tiny(29)},
        {"classifier": rebuilt()},
        {"recipe": dataclasses.replace(RECIPE, clean=0.3)},
        {"recipe": dataclasses.replace(RECIPE, eps=(0.03, 0.1))},
        {"recipe": dataclasses.replace(RECIPE, copies=2)},
        {"seed": 1},
        {"split": split_of(39)},
        {"split": split_of(seed=5)},
        {"split": Split(split_of().images, split_of().labels.roll(1))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_pairs_are_made_for_everything_else(
    classifier: nn.Sequential, cache: Path, change: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"classifier": classifier, "split": split_of(), "recipe": RECIPE, "seed": 0}
    first = cached_pairs(**given)
    assert not same(cached_pairs(**(given | change)), first)
    assert len(list(cache.iterdir())) == 2
    assert same(cached_pairs(**given), first)


def test_other_attacks_of_the_same_name_make_other_pairs(
    classifier: nn.Sequential, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached_pairs(classifier, split_of(), RECIPE, seed=0)
    monkeypatch.setattr(restoration_pairs, "ATTACKS", ATTACKS | {"PGD-5": partial(pgd, steps=1)})
    assert not same(cached_pairs(classifier, split_of(), RECIPE, seed=0), first)


def test_a_damaged_file_is_named_and_its_pairs_made_again(classifier: nn.Sequential, cache: Path) -> None:
    first = cached_pairs(classifier, split_of(), RECIPE, seed=0)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(StoreWarning, match=f"{path.name} is damaged"):
        assert same(cached_pairs(classifier, split_of(), RECIPE, seed=0), first)
    assert {file.name for file in cache.iterdir()} == {path.name, f"{path.name}.damaged"}


@each(
    ("wrong", "message"),
    [
        ({"eps": ()}, r"eps must be in pixels.*not \(\)"),
        ({"eps": (0.1, 0.0)}, "above 0"),
        ({"eps": (8.0,)}, "at most 1"),
        ({"eps": (float("nan"),)}, "nan"),
        ({"attacks": ()}, "attacks must be some of FGSM, PGD-5, PGD-7, PGD-10"),
        ({"attacks": ("FGSM", "BIM")}, "BIM"),
        ({"clean": 1.0}, "shares that leave something, not 1.0 and 0.05"),
        ({"clean": 0.5, "noise": 0.5}, "shares"),
        ({"clean": -0.1}, "not -0.1"),
        ({"noise": float("nan")}, "nan"),
        ({"copies": 0}, "copies must be at least 1, not 0"),
    ],
    ids=str,
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**({"eps": (0.1,)} | wrong))
