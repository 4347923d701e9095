"""The weight cache: a hit is the same model, another question is a miss, and a file is there whole or not at all."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from contract import Seen
from torch import Tensor, nn

from advdef import store
from advdef.data import Dataset, Split
from advdef.models import SmallResNet
from advdef.papers.qusecnets.defence import Quantized, through_identity
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.qusecnets.training import train_quantized
from advdef.papers.sensitivity.training import train_sns
from advdef.store import StoreWarning
from advdef.training import Training, TrainingDiverged, fit, train_at, train_standard, trained
from advdef.training import weights as artifacts


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))
    return tmp_path / "weights"


@pytest.fixture
def small(digits: Dataset) -> Dataset:
    return digits.subset(train=64, test=10)


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))


def build_quantized() -> Quantized:
    return Quantized(build(), Quantizer(4, trainable=True))


def build_residual() -> nn.Module:
    return SmallResNet((1, 28, 28), 10, width=4)


calls = Seen()


def count(model: nn.Module, split: Split, *, generator: torch.Generator, **settings: Any) -> dict[str, Tensor]:
    """Training that takes no time and notes that it ran."""
    calls.append(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator))
    return {"noise": torch.rand(3, generator=generator)}


def count_too(model: nn.Module, split: Split, *, generator: torch.Generator, **settings: Any) -> dict[str, Tensor]:
    return count(model, split, generator=generator, **settings)


@pytest.fixture(autouse=True)
def _forget_calls() -> None:
    calls.clear()


def logits(training: Training, data: Dataset) -> Tensor:
    with torch.no_grad():
        return training.model(data.test.float_images())


@pytest.mark.parametrize(
    ("make", "train", "settings"),
    [
        (build, train_standard, {"epochs": 2}),
        (build_quantized, train_quantized, {"epochs": 3}),
        (build_quantized, train_at, {"epochs": 1, "eps": 0.1, "steps": 1, "through": through_identity}),
        (build_residual, train_sns, {"epochs": 2, "eps": 0.1, "steps": 1, "probe": 8, "ramp": 1, "optimizer": "sgd"}),
    ],
)
def test_a_hit_is_the_same_model(
    small: Dataset, make: Callable[[], nn.Module], train: Any, settings: dict[str, Any]
) -> None:
    state = torch.get_rng_state()
    first = trained(make, train, small, seed=3, **settings)
    again = trained(make, train, small, seed=3, **settings)
    assert (first.from_cache, again.from_cache) == (False, True)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.model is not first.model
    ours, theirs = first.model.state_dict(), again.model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(ours[name].stride() == theirs[name].stride() for name in ours)
    assert torch.equal(logits(first, small), logits(again, small))  # to the last bit, or a re-run would not agree
    assert list(first.history) == list(again.history)
    assert all(torch.equal(value, again.history[name]) for name, value in first.history.items())
    assert again.seconds == first.seconds > 0
    assert not again.model.training


def test_a_file_says_what_it_is_of(small: Dataset, cache: Path) -> None:
    trained(build, count, small, seed=0)
    (file,) = cache.iterdir()
    assert re.fullmatch(r"digits-sequential-[0-9a-f]{20}\.safetensors", file.name)


def wider() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 5, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 8 * 8, 10))


def shifted() -> nn.Module:
    """Prints like `build`, but starts from other weights, as a model that was trained before does."""
    model = build()
    with torch.no_grad():
        model[3].bias.add_(1)
    return model


def frozen() -> nn.Module:
    """The same weights, some of which are not trained."""
    model = build()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "change",
    [
        {"build": wider},
        {"build": shifted},
        {"train": count_too},
        {"train": partial(count, rate=1)},
        {"seed": 1},
        {"settings": {"epochs": 2}},
        {"settings": {"epochs": 1, "rate": 0.1}},
        {"settings": {"epochs": 1, "target": through_identity}},
        {"data": lambda d: replace(d, train=Split(d.train.images, d.train.labels.roll(1)))},
        {"data": lambda d: replace(d, train=Split(d.train.images ^ 1, d.train.labels))},
        {"data": lambda d: d.subset(train=63)},
        {"data": lambda d: replace(d, name="other")},
        {"build": frozen},
        {"environment": {}},
        {"precision": torch.bfloat16},
    ],
    ids=lambda change: re.sub(" at 0x[0-9a-f]+", "", str(change)),  # the same in each process
)
def test_every_part_of_the_key_matters(small: Dataset, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    trained(build, count, small, seed=0, epochs=1)
    if "environment" in change:
        monkeypatch.setattr(store, "environment", lambda: change["environment"])
    if "precision" in change:
        monkeypatch.setattr(artifacts, "precision", lambda device: change["precision"])
    other = trained(
        change.get("build", build),
        change.get("train", count),
        change.get("data", lambda d: d)(small),
        seed=change.get("seed", 0),
        **change.get("settings", {"epochs": 1}),
    )
    assert not other.from_cache
    assert len(calls) == 2


def test_what_does_not_matter_is_no_part_of_the_key(small: Dataset) -> None:
    trained(build, count, small, seed=0, epochs=1, rate=0.1)
    torch.manual_seed(99)
    assert trained(build, count, small, seed=0, rate=0.1, epochs=1).from_cache
    assert trained(build, partial(count, rate=0.1), small, seed=0, epochs=1).from_cache
    for data in (replace(small, test=small.test.head(5)), replace(small, checksum="0" * 16)):
        assert trained(build, count, data, seed=0, epochs=1, rate=0.1).from_cache
    assert len(calls) == 1


class Scaled(nn.Module):
    """A network with a setting that its weights do not hold."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by, self.network = by, build().requires_grad_(False)
        for number, parameter in enumerate(self.network.parameters()):
            nn.init.constant_(parameter, number)

    def extra_repr(self) -> str:
        return f"by={self.by}"


def test_a_module_among_the_settings_counts_by_its_weights_and_attributes(small: Dataset) -> None:
    def ask(setting: nn.Module | None) -> Training:
        return trained(build, count, small, seed=0, frozen=setting)

    first = ask(Scaled(1))
    assert calls[0]["frozen"].by == 1
    assert ask(Scaled(1)).from_cache
    other = Scaled(1)
    other.network[3].bias.data[0] = 7
    for setting in (other, Scaled(2), nn.Sequential(Scaled(1)), None):
        assert not ask(setting).from_cache
    assert trained(build, partial(count, frozen=other), small, seed=0).from_cache
    assert torch.equal(logits(ask(Scaled(1)), small), logits(first, small))


ONE_OF_MANY = torch.ones(1_001)
ONE_OF_MANY[500] = 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.ones(1_001), ONE_OF_MANY),
        (torch.ones(1_001).numpy(), ONE_OF_MANY.numpy()),
        (torch.tensor([0.123451]), torch.tensor([0.123452])),
        ([torch.ones(1_001)], [ONE_OF_MANY]),
        ({"a": {"b": torch.ones(1_001)}}, {"a": {"b": ONE_OF_MANY}}),
        (lambda model: model, lambda model: 2 * model),
        (partial(through_identity), partial(shifted)),
        ([lambda x: x + 1], [lambda x: x + 2]),
    ],
    ids=["tensor", "array", "fifth digit", "list", "dict", "lambda", "partial", "functions"],
)
def test_settings_that_print_alike_are_told_apart(small: Dataset, one: object, other: object) -> None:
    assert not trained(build, count, small, seed=0, weights=one).from_cache
    assert trained(build, count, small, seed=0, weights=copy.deepcopy(one)).from_cache
    assert not trained(build, count, small, seed=0, weights=other).from_cache


def test_a_setting_without_content_is_refused_before_training(small: Dataset) -> None:
    with pytest.raises(TypeError, match=r"^settings, \['log'\]: TextIOWrapper has no content"):
        trained(build, count, small, seed=0, log=sys.__stderr__)
    assert not calls


CELL = """
from torch import nn

SCALE = 1

def helper(x):
    return x * SCALE

class Network(nn.Sequential):
    def forward(self, x):
        return super().forward(helper(x))

def train(model, split, *, generator, again=lambda x: x):
    note(model)
    again(1)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * SCALE", "x + SCALE"), ("SCALE = 1", "SCALE = 2"), ("helper(x))", "helper(-x))"),
        ("again(1)", "again(2)"), ("lambda x: x", "lambda x: -x"), ("note(model)", "note(model.eval())"),
    ],
)  # fmt: skip
def test_an_edited_cell_trains_anew(small: Dataset, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Of a notebook, or a prompt: there is no file that its code could be read from."""
    seen = Seen()

    def run(cell: str) -> Training:
        main: dict[str, Any] = {"__name__": "__main__", "note": seen.append}
        exec(cell, main)
        return trained(lambda: main["Network"](*build()), main["train"], small, seed=0)

    assert [run(CELL).from_cache for _ in range(2)] == [False, True]
    assert run("\n\n# a comment\n" + CELL).from_cache
    assert CELL.count(old) == 1
    assert not run(CELL.replace(old, new)).from_cache
    assert len(seen) == 2


@pytest.mark.parametrize("damage", ["flipped", "zeroed", "cut off", "another training's"])
def test_a_damaged_file_is_trained_again(small: Dataset, cache: Path, damage: str) -> None:
    first = trained(build, count, small, seed=0)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if damage == "another training's":
        trained(build, count, small, seed=1)
        (other,) = (path for path in cache.iterdir() if path != file)
        file.write_bytes(other.read_bytes())
    elif damage == "flipped":
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    else:
        file.write_bytes(content[:-4_000] + bytes(4_000) if damage == "zeroed" else content[:-1])
    calls.clear()
    with pytest.warns(StoreWarning, match=rf"{file.name} is damaged .* aside as {file.name}.damaged"):
        again = trained(build, count, small, seed=0)
    assert not again.from_cache
    assert len(calls) == 1
    assert torch.equal(logits(again, small), logits(first, small))
    assert trained(build, count, small, seed=0).from_cache


def test_a_result_that_fits_another_model_is_not_loaded(small: Dataset, cache: Path) -> None:
    """As one of training code that renames a part of the model, by a rule that no key sees."""
    first = trained(build, count, small, seed=0)
    (file,) = cache.iterdir()
    content = store.read(file)
    tensors = {name: value for name, value in content.tensors.items() if name != "model.0.weight"}
    told = store.header(file)
    key = store.Key(told["key"], told["code"], (), {}, "training")
    file.write_bytes(store._file(store.Entry(tensors, content.facts, 1.0, False), key, ""))
    with pytest.warns(StoreWarning, match="its tensors are not those of the model"):
        assert torch.equal(logits(trained(build, count, small, seed=0), small), logits(first, small))


def test_a_cache_that_cannot_be_written_is_told_before_training_and_loses_no_model(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained(build, count, small, seed=0)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path / "file"))

    def noting(model: nn.Module, split: Split, *, generator: torch.Generator) -> dict[str, Tensor]:
        assert len(told) == 1
        return count(model, split, generator=generator)

    with pytest.warns(StoreWarning, match="file/weights cannot be written") as told:
        found = trained(build, noting, small, seed=0)
    assert torch.equal(logits(found, small), logits(first, small))
    assert torch.equal(found.history["noise"], first.history["noise"])
    with pytest.warns(StoreWarning), pytest.raises(TrainingDiverged, match=r"which .*file/weights cannot keep"):
        trained(build_residual, overflow, small, seed=0, steps=4)


def test_models_that_share_weights_can_be_kept(small: Dataset) -> None:
    def shared() -> nn.Module:
        network = build()
        return Quantized(network, Quantizer(4), undefended=network)

    first, again = (trained(shared, count, small, seed=0) for _ in range(2))
    assert again.from_cache
    assert torch.equal(logits(first, small), logits(again, small))


def test_a_failed_training_leaves_nothing(small: Dataset, cache: Path) -> None:
    def failing(model: nn.Module, split: Split, *, generator: torch.Generator) -> None:
        raise RuntimeError("the third wheel")

    with pytest.raises(RuntimeError, match="third wheel"):
        trained(build, failing, small, seed=0)
    assert not list(cache.iterdir())


def overflow(model: nn.Module, split: Split, *, generator: torch.Generator, steps: int) -> None:
    """Training that is well for two epochs of one step and then has a loss that is none."""
    seen = iter(range(steps))

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return model(images).square().mean() * (float("nan") if next(seen) == 2 else 1)

    fit(model, split, epochs=steps, generator=generator, objective=objective)


@pytest.mark.parametrize("make", [build_residual, build_quantized])
def test_a_training_that_diverges_leaves_its_last_good_weights(
    small: Dataset, cache: Path, make: Callable[[], nn.Module]
) -> None:
    with pytest.raises(TrainingDiverged, match=r"from step 1 of 1 in epoch 3 of 4: .* kept in ") as caught:
        trained(make, overflow, small, seed=0, steps=4)
    (file,) = cache.iterdir()
    assert file.name.endswith(".last-good.safetensors")
    assert str(caught.value).endswith(f"its weights after 2 epochs, kept in {file}")
    assert caught.value.epoch == 2
    kept = safetensors.torch.load_file(file)
    good = trained(make, overflow, small, seed=0, steps=2).model  # the same two epochs, with nothing after them
    assert kept.keys() == good.state_dict().keys()
    for name, value in good.state_dict().items():
        assert torch.equal(kept[name], value), name
        assert torch.equal(caught.value.checkpoint[name], value), name
    with pytest.raises(TrainingDiverged):  # it is no result, and not found as one
        trained(make, overflow, small, seed=0, steps=4)


def test_a_training_that_changes_more_than_weights_is_not_kept(
    digits: Dataset, tmp_path: Path, monkeypatch: Any
) -> None:
    """A file of weights could not bring it back."""
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))

    def changing(model: nn.Module, split: Split, *, generator: torch.Generator) -> None:
        model.scale = 7.0  # type: ignore[assignment]

    build = partial(nn.Linear, 3, 2)
    for _ in range(2):
        with pytest.warns(StoreWarning, match="changed the model besides its weights"):
            found = trained(build, changing, digits, seed=0)
        assert (found.model.scale, found.from_cache) == (7.0, False)
    assert not list(tmp_path.rglob("*.safetensors"))
