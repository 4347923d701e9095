"""The weight cache: a hit is the same model, another question is a miss, and a file is there whole or not at all."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from advdef import artifacts
from advdef.adversarial_training import train_alp
from advdef.artifacts import Training, cache_folder, fingerprint, trained, write_atomically
from advdef.data import Dataset, Split
from advdef.defenses import Quantized, Quantizer, through_identity, train_quantized
from advdef.defenses.stabilizing import train_sns
from advdef.models import SmallResNet
from advdef.sensitivity import select
from advdef.training import TrainingDiverged, fit, train_adversarial, train_standard


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


calls: list[dict[str, Any]] = []


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
        (build_quantized, train_adversarial, {"epochs": 1, "eps": 0.1, "steps": 1, "target": through_identity}),
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


def test_the_cache_stands_where_it_is_told(small: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == cache
    trained(build, count, small, seed=0)
    (file,) = cache.iterdir()
    assert file.name.startswith("digits-sequential-")
    assert file.suffix == ".safetensors"
    monkeypatch.delenv("ADVDEF_CACHE")
    assert cache_folder().parts[-2:] == ("advdef", "weights")


def wider() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 5, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 8 * 8, 10))


def shifted() -> nn.Module:
    """Prints like `build`, but starts from other weights, as a model that was trained before does."""
    model = build()
    with torch.no_grad():
        model[3].bias.add_(1)
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
        {"data": lambda d: replace(d, checksum="0" * 16)},
        {"data": lambda d: d.subset(train=63)},
        {"data": lambda d: replace(d, name="other")},
        {"torch": "0.0.0"},
        {"code": "0" * 16},
    ],
    ids=lambda change: re.sub(" at 0x[0-9a-f]+", "", str(change)),  # the same in each process
)
def test_every_part_of_the_key_matters(small: Dataset, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    trained(build, count, small, seed=0, epochs=1)
    if "torch" in change:
        monkeypatch.setattr(torch, "__version__", change["torch"])
    if "code" in change:
        monkeypatch.setattr(artifacts, "fingerprint", lambda *objects: change["code"])
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
    assert trained(build, count, replace(small, test=small.test.head(5)), seed=0, epochs=1, rate=0.1).from_cache
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


def test_a_module_among_the_settings_counts_by_its_weights_its_print_and_its_code(
    small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    # and a module within a module is code that counts
    real = artifacts.inspect.getsource
    changed = sys.modules[SmallResNet.__module__]
    ask(nn.Sequential(build_kept()))
    assert ask(nn.Sequential(build_kept())).from_cache
    monkeypatch.setattr(artifacts.inspect, "getsource", lambda m: real(m) + "\nx = 1" * (m is changed))
    assert ask(Scaled(1)).from_cache
    assert not ask(nn.Sequential(build_kept())).from_cache


def build_kept() -> nn.Module:
    """The same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return build_residual()


def test_a_setting_without_a_name_is_refused(small: Dataset) -> None:
    for setting in (lambda model: model, partial(through_identity)):
        with pytest.raises(ValueError, match="module-level function"):
            trained(build, count, small, seed=0, target=setting)
    assert not calls


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
    assert not cache.exists()


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


# Files


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # readable by whom other files are readable


@pytest.mark.parametrize("name", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b"old")
    real = Path.write_bytes

    def fail(*arguments: Any) -> None:
        if name == "write_bytes":
            real(arguments[0], arguments[1][:1])
        raise OSError("no space left")

    monkeypatch.setattr(artifacts.os if name == "replace" else Path, name, fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    path, ready = tmp_path / "file.bin", tmp_path / "ready"
    program = f"""
        import os, pathlib, time
        from advdef.artifacts import write_atomically

        def hang(*arguments):
            pathlib.Path({str(ready)!r}).touch()
            time.sleep(60)

        os.replace = hang
        write_atomically(pathlib.Path({str(path)!r}), b"x" * 100)
    """
    root = str(Path(artifacts.__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=root) as process:
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    assert ready.exists()
    assert not path.exists()
    write_atomically(path, b"whole")  # and the next one is not in its way
    assert path.read_bytes() == b"whole"


# The fingerprint of the code

SOURCE = '''
"""A module."""

LIMIT = 3
"""What it is."""


class Thing:
    """A thing."""

    def double(self, x):
        """Twice."""
        # a comment
        return 2 * x


async def later():
    """Later."""
    return LIMIT
'''


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The fingerprint of a module advdef.made_up with this source."""

    def of(source: str) -> str:
        made_up = types.ModuleType("advdef.made_up")
        exec(source, made_up.__dict__)
        monkeypatch.setitem(sys.modules, "advdef.made_up", made_up)
        real = artifacts.inspect.getsource
        with monkeypatch.context() as patch:
            patch.setattr(artifacts.inspect, "getsource", lambda m: source if m is made_up else real(m))
            return fingerprint(made_up.Thing)

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another text."""'),
        ('"""A module."""\n', ""),
        ('    """A thing."""\n', '    """A thing\n\n    of beauty.\n    """\n'),
        ('        """Twice."""\n', ""),
        ('"""What it is."""', '"""Something else."""'),
        ('    """Later."""\n', ""),
        ("        # a comment\n", ""),
        ("2 * x", "(2\n                * x)"),
    ],
)
def test_the_fingerprint_ignores_words_and_layout(module: Callable[[str], str], old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert module(SOURCE.replace(old, new)) == module(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"), [("2 * x", "3 * x"), ("LIMIT = 3", "LIMIT = 4"), ("double(self, x)", "double(self, x=1)")]
)
def test_the_fingerprint_sees_code(module: Callable[[str], str], old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert module(SOURCE.replace(old, new)) != module(SOURCE)


def test_the_fingerprint_covers_what_all_training_runs_through(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(nn.Linear)  # lives elsewhere: its library's version is in the key
    assert before == fingerprint()
    assert fingerprint(Quantized) != before
    real = artifacts.inspect.getsource
    for name in ("training", "data", "attacks.gradient", "attacks.losses", "attacks.wrappers", "attacks._common"):
        changed = sys.modules[f"advdef.{name}"]
        with monkeypatch.context() as patch:
            patch.setattr(artifacts.inspect, "getsource", lambda m, c=changed: real(m) + "\nx = 1" * (m is c))
            assert fingerprint() != before, name


def test_the_fingerprint_of_a_function_follows_what_its_module_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    real = artifacts.inspect.getsource

    def changes(function: Callable[..., object], name: str) -> bool:
        """Whether another line in that module is seen."""
        with monkeypatch.context() as patch:
            changed = sys.modules[f"advdef.{name}"]
            patch.setattr(artifacts.inspect, "getsource", lambda m: real(m) + "\nx = 1" * (m is changed))
            return fingerprint(function) != before

    for function in (train_sns, train_alp):
        before = fingerprint(function)
        assert changes(function, function.__module__.removeprefix("advdef."))
        assert changes(function, "adversarial_training")
        assert changes(function, "taps")
    assert not changes(train_alp, "sensitivity")
    before = fingerprint(train_sns)
    assert changes(train_sns, "sensitivity")
    assert changes(train_sns, select.__module__.removeprefix("advdef."))
    assert not changes(train_sns, "artifacts")
