"""What holds on every device: attacks, training and each defence do there what they do on the CPU.

The device is that of tests/pretend.py, once as CUDA is and once as MPS is, or the one that ``ADVDEF_TEST_DEVICE``
names. ``nox -s gpu`` says "cuda" there, has more images tried by ``ADVDEF_TEST_IMAGES``, and keeps what
``ADVDEF_TEST_RESULTS`` is a file for: the hits of each defence, image by image, on the CPU and on the device.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pretend
import pytest
import torch
from attack_table import ATTACKS
from contract import Seen, assert_leaves_no_trace, net, random_batch, seeded
from pretend import STATE, pretended
from regression import may_flip
from test_stacks import BUILD, EPS
from torch import Tensor, nn

from advdef.attacks import apgd, auto_pgd, gradient, pgd
from advdef.book.page import choose_device
from advdef.contract import borrowed
from advdef.data import Dataset, find_device, load
from advdef.devices import autocasting, forked, full_precision, has_float64, reduced_precision, wait_for
from advdef.evaluation import Outcome, adaptive, correct, direct, evaluate, threats
from advdef.store import write_atomically
from advdef.training import TrainingDiverged, fit, loop, train_at, train_standard, trained, weights

REAL = os.environ.get("ADVDEF_TEST_DEVICE", "")
KINDS = [REAL] if REAL else ["like CUDA", "like MPS"]
IMAGES = int(os.environ.get("ADVDEF_TEST_IMAGES", "10"))
RESULTS = os.environ.get("ADVDEF_TEST_RESULTS", "")


@pytest.fixture(params=KINDS)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if REAL:
        yield find_device(REAL)
        return
    try:
        pretend.install()
    except pretend.Missing as missing:
        pytest.skip(str(missing))
    with pretended(float64=request.param == "like CUDA") as found:
        yield found


@pytest.fixture
def small(digits: Dataset) -> Dataset:
    return digits.subset(train=200)


def test_a_device_is_found_by_its_name(device: torch.device) -> None:
    assert find_device(str(device)) == find_device(device) == choose_device(str(device)) == device
    with pytest.raises(ValueError, match=rf"no device 'tpu'; there are cpu, .*{device.type}"):
        find_device("tpu")


# Attacks


def test_each_attack_finds_what_it_finds_on_the_cpu(device: torch.device) -> None:
    """In float64, where rounding decides nothing; a device without it is told what is found in float32."""
    dtype = torch.float64 if has_float64(device) else torch.float32
    for name, row in ATTACKS.items():
        if row.library:
            pytest.importorskip(row.library)
            if dtype == torch.float32 and name not in ("deepfool", "fab"):
                continue  # a library's attacks are called alike, and each has been called with float64
        model, (images, labels) = net(row.shape).to(dtype), random_batch(shape=row.shape)
        here = row(model, images.to(dtype), labels, eps=row.eps, generator=seeded())
        model.to(device)
        there = row(model, images.to(device, dtype), labels.to(device), eps=row.eps, generator=seeded())
        assert (there.device.type, there.dtype, there.shape) == (device.type, dtype, images.shape), name
        assert float((there.cpu() - here).abs().max()) < 1e-6, name
        if REAL or dtype == torch.float32:
            there = assert_leaves_no_trace(
                row, net(row.shape).to(device), images.to(device), labels.to(device), eps=row.eps
            )
            assert there.device.type == device.type, name


@pytest.mark.parametrize("attack", [pgd, apgd])
def test_how_often_an_attack_asks_changes_nothing(attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that has reached its goal stays as it is, whether it leaves the batch at once, later, or never."""
    model, (images, labels) = net().double(), random_batch(20)
    found, seen = [], []
    for asks in (lambda step, device: True, lambda step, device: step % 10 == 9, lambda step, device: False):
        for module in (gradient, auto_pgd):
            monkeypatch.setattr(module, "asks_now", asks)
        shown: list[int] = []
        handle = model.register_forward_hook(lambda module, inputs, output, to=shown: to.append(len(inputs[0])))
        found.append(attack(model, images.double(), labels, eps=0.05, steps=25, stop_early=True, generator=seeded()))
        handle.remove()
        seen.append(sum(shown))
    assert seen[0] < seen[1] < seen[2] == 20 * 27
    assert all(float((other - found[0]).abs().max()) < 1e-9 for other in found[1:])
    assert 0 < int(correct(model, found[0], labels).sum()) < 20


class Moody(nn.Module):
    """Right in all passes but one."""

    def __init__(self, network: nn.Module, wrong: int) -> None:
        super().__init__()
        self.network, self.wrong, self.passes = network, wrong, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = self.network(images)
        return -logits if self.passes == self.wrong else logits


@pytest.mark.parametrize("attack", [pgd, apgd])
def test_one_lucky_pass_is_what_is_returned_however_seldom_an_attack_asks(
    attack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for asked in (True, False):
        for module in (gradient, auto_pgd):
            monkeypatch.setattr(module, "asks_now", lambda step, device, asked=asked: asked)
        model, (images, labels) = Moody(net(), wrong=5), random_batch()
        found.append(attack(model, images, labels, eps=0.01, steps=25, stop_early=True, generator=seeded()))
    assert torch.equal(*found)


@pytest.mark.skipif(bool(REAL), reason="only the device of tests/pretend.py counts")
def test_asking_does_not_grow_with_the_steps(device: torch.device) -> None:
    model, (images, labels) = net().to(device), random_batch()
    waits = []
    for attack in (pgd, apgd):
        for steps in (20, 60):
            before = STATE.waits
            run = partial(attack, steps=steps, stop_early=True, generator=seeded())
            run(model, images.to(device), labels.to(device), eps=0.001)
            waits.append(STATE.waits - before)
    assert waits[1] - waits[0] == waits[3] - waits[2] == 4  # one question in ten steps


class Apart(nn.Module):
    """Keeps a buffer where it was made, and takes it along when it is asked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", torch.full((2, 1, 1), 0.1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images + self.offset.to(images))
        return logits


def test_a_buffer_may_stay_on_the_cpu(device: torch.device) -> None:
    model, (images, labels) = Apart(net()), random_batch()
    here = correct(model, images, labels)
    model.network.to(device)
    assert torch.equal(correct(model, images.to(device), labels.to(device)).cpu(), here)
    model.offset[0] = float("nan")
    with pytest.raises(ValueError, match="offset of the model holds NaN"):
        correct(model, images.to(device), labels.to(device))


# Precision


class Told(nn.Module):
    """Notes how it is asked to compute."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, list[object]()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        self.seen.append((reduced_precision(), autocasting(), logits.dtype))
        return logits


def test_who_attacks_or_judges_computes_in_float32_whatever_the_caller_allows(device: torch.device) -> None:
    model, (images, labels) = Told(net()).to(device).eval(), (part.to(device) for part in random_batch())
    exact = ({}, (), torch.float32)
    before = reduced_precision()
    assert before  # cuDNN convolves in TF32 unless told otherwise
    with ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("medium")
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        allowed = reduced_precision(), autocasting()
        assert len(allowed[0]) > len(before)
        model(images)
        assert model.seen.pop() == (*allowed, torch.bfloat16)
        correct(model, images, labels)
        found = pgd(model, images, labels, eps=0.1, steps=3, generator=seeded())
        attempts = direct(nn_defence(model), {"PGD": partial(pgd, steps=2)})
        evaluate(nn_defence(model), attempts, images, labels, eps=0.1, generator=seeded())
        assert (reduced_precision(), autocasting()) == allowed
    assert {str(seen) for seen in model.seen} == {str(exact)}
    assert reduced_precision() == before
    assert torch.equal(found, pgd(model, images, labels, eps=0.1, steps=3, generator=seeded()))


def nn_defence(model: nn.Module) -> Any:
    return BUILD["undefended"](model)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch has the older settings alone")
def test_the_newer_settings_of_torch_are_heeded_too() -> None:
    before = torch.backends.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        with full_precision():
            assert not reduced_precision()
        assert {"cudnn.conv", "mkldnn.conv"} <= set(reduced_precision())
        with borrowed(net(), quiet=True, exact=False):
            assert reduced_precision()
    finally:
        torch.backends.fp32_precision = before
        for part in (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn):
            part.fp32_precision = "none"
        torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_training_takes_bfloat16_where_the_hardware_has_it(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T4 has 7.5, and torch says that it supports bfloat16, which it only emulates."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert loop.precision(torch.device("cuda")) == getattr(torch, expected)
    assert loop.precision(torch.device("cpu")) == loop.precision(torch.device("mps")) == torch.float32


# Training


def test_training_learns_there_what_it_learns_on_the_cpu(device: torch.device, small: Dataset) -> None:
    ends = []
    for where in (torch.device("cpu"), device):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "precision", lambda device: torch.float32)
            model, split = classifier().to(where), load("digits", device=where).subset(train=200).train
            losses = fit(model, split, epochs=2, shift=1, flip=True, generator=seeded())
        ends.append([torch.tensor(losses), *(value.detach().cpu() for value in model.parameters())])
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*ends, strict=True))


def classifier() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 10)
        )


@pytest.mark.filterwarnings("error")
def test_training_in_bfloat16_and_what_is_kept_of_it(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))
    for module in (loop, weights):
        monkeypatch.setattr(module, "precision", lambda device: torch.bfloat16)
    data = load("digits", device=device).subset(train=200)
    dtypes = Seen()

    def train(model: nn.Module, split: Any, *, generator: torch.Generator) -> None:
        handle = model[0].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))  # type: ignore[index]
        train_at(model, split, eps=0.05, steps=1, step_size=1.0, epochs=3, learning_rate=1e-2, generator=generator)
        handle.remove()

    found = [trained(classifier, train, data, seed=0) for _ in range(2)]
    assert [training.from_cache for training in found] == [False, True]
    assert set(dtypes) == {torch.bfloat16}
    states = [training.model.state_dict() for training in found]
    for name, value in states[0].items():
        assert value.device.type == states[1][name].device.type == device.type
        assert value.dtype != torch.bfloat16
        assert torch.equal(value, states[1][name])
    images, labels = data.train.float_images(), data.train.labels
    assert correct(found[1].model, images, labels).float().mean() > 0.3


def test_training_that_diverges_says_so(device: torch.device) -> None:
    split = load("digits", device=device).subset(train=200).train
    with pytest.raises(TrainingDiverged, match=r"not finite from step . of 2"):
        train_standard(classifier().to(device), split, epochs=1, learning_rate=1e30, generator=seeded())


def test_the_random_numbers_of_the_device_go_on_as_if_nothing_had_been_drawn(device: torch.device) -> None:
    torch.manual_seed(0)
    with forked(device):
        torch.manual_seed(9)
        expected = torch.rand(3, device=device)
    torch.rand(3, device=device)
    with forked(device):
        torch.manual_seed(9)
        again = torch.rand(3, device=device)
    assert torch.equal(expected, again)
    after = torch.rand(3, device=device)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(6, device=device)[3:], after)
    wait_for(device)


# Defences


def attacked(defence: Any, images: Tensor, labels: Tensor) -> Outcome:
    attempts = adaptive(defence, {"PGD": partial(pgd, steps=3, loss="margin")}, eps=EPS, steps=3)
    return evaluate(defence, attempts, images, labels, eps=EPS, generator=seeded(), draws=3)


def shown(outcome: Outcome) -> str:
    """A 1 for each image that withstands."""
    return "".join(map(str, outcome.robust.int().tolist()))


def test_each_defence_withstands_there_what_it_withstands_on_the_cpu(
    device: torch.device, network: nn.Module, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image by image, and on a GPU, which rounds otherwise, but for as many as a regression test lets flip."""
    monkeypatch.setattr(threats, "_DRAWS", 3)
    images, labels = digits.test.float_images()[:IMAGES], digits.test.labels[:IMAGES]
    told, wrong = {}, []
    kind = int(has_float64(device))
    for name, build in BUILD.items() if REAL else list(BUILD.items())[kind::2]:  # the other kind of device has the rest
        here = attacked(build(network).eval(), images, labels)
        moved = build(copy.deepcopy(network).to(device)).to(device).eval()
        there = attacked(moved, images.to(device), labels.to(device))
        flips = int((here.robust != there.robust.cpu()).sum())
        allowed = may_flip(0, len(images), 2 * len(BUILD)) if REAL else 0
        told[name] = {
            "flips": flips, "allowed": allowed, "flips of clean images": int((here.clean != there.clean.cpu()).sum()),
            "cpu": shown(here), "device": shown(there),
        }  # fmt: skip
        if flips > allowed or told[name]["flips of clean images"] > allowed:
            wrong.append(f"{name}: {told[name]}")
    if RESULTS:
        write_atomically(Path(RESULTS), json.dumps(told, indent=1).encode())
    assert not wrong, "\n".join(wrong)
