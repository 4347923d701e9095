"""The contract: what every attack of tests/attack_table.py is held to, whoever made it and whatever it looks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import isfunction, signature
from typing import Any

import attack_table
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attack_table import ATTACKS, MUCH, Row
from cases import each
from contract import (
    NaNSlope,
    Pair,
    Shape,
    assert_leaves_no_trace,
    default_dtype,
    net,
    random_batch,
    seeded,
    tiny,
    watched,
)
from torch import Tensor, nn

from advdef import attacks
from advdef.attacks import margin
from advdef.contract import NaNGradientWarning, NoGradientWarning
from advdef.evaluation import accuracy, correct
from advdef.norms import size

INF = float("inf")
Rule = Callable[..., None]
OWN = [name for name, row in ATTACKS.items() if not row.library]
FOLLOW = [name for name, row in ATTACKS.items() if row.follows]
PAPERS = ("nip", "qusecnets", "sensitivity", "snn", "trn")
DEPLOYED = [name for name, row in ATTACKS.items() if row.deployed]


def each_attack(names: Iterable[str] = ATTACKS) -> Callable[[Rule], Rule]:
    """A rule gets what it asks for: an attack's ``row``, a ``model`` that its images fit, and a ``batch`` of these."""

    def decorate(rule: Rule) -> Rule:
        asked = signature(rule).parameters

        def of_one(name: str) -> None:
            row = ATTACKS[name]
            if row.library:
                pytest.importorskip(row.library)
            given = {"row": row, "model": net(row.shape), "batch": random_batch(shape=row.shape)}
            rule(**{what: given[what] for what in asked})

        of_one.__name__, of_one.__qualname__, of_one.__doc__ = rule.__name__, rule.__qualname__, rule.__doc__
        return each("name", names)(of_one)

    return decorate


def test_every_public_attack_is_in_the_table() -> None:
    shelves = [attacks, *(import_module(f"advdef.papers.{paper}.attacks") for paper in PAPERS)]
    public = {name: getattr(shelf, name) for shelf in shelves for name in shelf.__all__}
    takes_eps = {name for name, found in public.items() if isfunction(found) and "eps" in signature(found).parameters}
    takes_eps.remove("traced")  # which runs another attack
    assert {"pgd", "deepfool", "level_space", "unnoticed"} < takes_eps
    assert takes_eps <= set(vars(attack_table))  # which imports nothing that it does not use


# What comes back


def edgy(shape: Shape, seed: int) -> Tensor:
    """Images with many pixels at and next to the ends of [0, 1], and others that have no exact sum with an eps."""
    ends = torch.tensor([0.0, 1.0, 0.5, 1 / 3, 1e-7, 1 - 2**-24])
    generator = seeded(seed)
    drawn = ends[torch.randint(len(ends), (4, *shape), generator=generator)]
    plain = torch.rand(4, *shape, generator=generator)
    return torch.where(torch.rand(plain.shape, generator=generator) < 0.5, drawn, plain)


def assert_within(images: Tensor, found: Tensor, row: Row, eps: float | Tensor) -> None:
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert not found.requires_grad
    assert bool(((found >= 0) & (found <= 1)).all())  # false for NaN
    if row.norm == "Linf":  # exactly: the ends of the ball are what float32 makes of x - eps and x + eps
        spread = torch.as_tensor(eps).reshape(-1, 1, 1, 1)
        within = (found >= images - spread) & (found <= images + spread)
        assert bool((within | ((found - images).abs() <= spread)).all())
    else:
        rounding = 1 + 1e-6 if row.norm == "L2" else 1
        assert bool((size((found - images).double(), row.norm) <= rounding * torch.as_tensor(eps) + 1e-7).all())


@each_attack()
def test_the_ball_and_the_box_are_kept_and_nothing_gets_worse(row: Row) -> None:
    for seed, scale in enumerate((0.0, 0.03, 1.0) if row.library else (0.0, 0.001, 0.03, 0.1, 0.3, 1.0)):
        model, images, eps = tiny(seed, row.shape), edgy(row.shape, seed), scale * MUCH[row.norm]
        labels = model(images).argmax(1)
        labels[0] = (labels[0] + 1) % 4  # wrong already
        found = row(model, images, labels, eps=eps, generator=seeded(seed))
        assert_within(images, found, row, eps)
        before, after = (margin(model(x), labels) for x in (images, found))
        assert not row.never_worse or bool((after >= before - 1e-5).all())
        moved = (found != images).flatten(1).any(1)
        assert not row.library or not bool(correct(model, found, labels)[moved].any())  # all or nothing


class Inplace(nn.Sequential):
    """Normalises its input in place, as many a training script does."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.sub_(0.5))


class Outside(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - 0.5)


@each_attack()
def test_nothing_is_left_behind(row: Row, model: nn.Sequential, batch: Pair) -> None:
    images, kept = batch[0], batch[0].clone()
    inplace, outside = Inplace(*model).eval(), Outside(*model).eval()
    labels = outside(images).argmax(1)
    found = row(inplace, images, labels, eps=row.eps, generator=seeded())
    assert torch.equal(images, kept)  # nobody hands out the caller's own
    assert torch.equal(found, row(outside, images, labels, eps=row.eps, generator=seeded()))
    found = assert_leaves_no_trace(row, model, *batch, eps=row.eps)
    assert not torch.equal(found, images)


def test_nor_does_a_judge_leave_anything_behind() -> None:
    images, kept = random_batch()[0], random_batch()[0]
    inplace, outside = Inplace(*net()).eval(), Outside(*net()).eval()
    labels = outside(images).argmax(1)
    assert bool(correct(inplace, images, labels).all())
    assert accuracy(inplace, images, labels).value == 1
    assert torch.equal(images, kept)


def test_bad_input_is_refused_before_the_model_is_asked() -> None:
    """All of it is in test_contract.py; here, that images, labels and eps are looked at."""
    for row in ATTACKS.values():
        if row.library and find_spec(row.library) is None:
            continue
        images, labels = random_batch(shape=row.shape)
        model = net(row.shape)
        attack = partial(row, model, generator=seeded())
        with watched(model) as seen:
            with pytest.raises(ValueError, match=r"\[0, 1\]; seen: 0.* to "):
                attack(255 * images, labels, eps=row.eps)
            with pytest.raises(TypeError, match=r"int64, not torch\.int32"):
                attack(images, labels.int(), eps=row.eps)
            with pytest.raises(ValueError, match=r"finite and not negative; seen: -0\.1"):
                attack(images, labels, eps=-0.1)
            if row.norm == "Linf":
                with pytest.raises(ValueError, match="in steps of 1/255 it is 8 / 255"):
                    attack(images, labels, eps=8)
            if not row.unbounded:
                with pytest.raises(ValueError, match="to inf"):
                    attack(images, labels, eps=INF)
        assert not seen
        with pytest.raises(ValueError, match=r"0\.\.3; seen: 4 to 4"):
            attack(images, 0 * labels + 4, eps=row.eps)


@each_attack()
def test_each_image_may_have_an_eps_of_its_own(row: Row, model: nn.Sequential, batch: Pair) -> None:
    most = MUCH[row.norm]
    attack = partial(row, model, *batch)
    if row.unbounded:  # an infinite budget is all there is
        everything = {"Linf": 1.0, "L2": 18**0.5, "L1": 18.0, "L0": 9.0}[row.norm]
        assert torch.equal(attack(eps=INF, generator=seeded()), attack(eps=everything, generator=seeded()))
    eps = torch.tensor([0.0, 0.01, 0.1, 0.2, 0.5, 1.0]) * most
    if not row.each_eps:
        with pytest.raises(TypeError, match="one eps for all images, a number"):
            attack(eps=eps, generator=seeded())
        return
    found = attack(eps=eps, generator=seeded())
    assert_within(batch[0], found, row, eps)
    assert torch.equal(found[0], batch[0][0])
    assert not torch.equal(found[5], batch[0][5])
    same = attack(eps=torch.full((6,), most), generator=seeded())
    assert torch.equal(same, attack(eps=most, generator=seeded()))


@each_attack()
def test_a_seed_reproduces_and_nothing_else_is_drawn_from(row: Row, model: nn.Sequential, batch: Pair) -> None:
    found = []
    for seed in (3, 3, 4, 5, 6, 7):
        torch.rand(1), np.random.rand()  # another global state each time
        before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
        found.append(row(model, *batch, eps=row.eps, generator=seeded(seed)))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (str(np.random.get_state()), random.getstate()) == before[1:]
        if row.draws and not torch.equal(found[0], found[-1]):
            break
    assert torch.equal(found[0], found[1])
    differs = any(not torch.equal(found[0], other) for other in found[2:])  # some end in the same corner
    assert row.draws in (differs, None)


STOP = ["bim", "mim", "pgd", "apgd in L2", "each class", "warm started", "uniform noise", "routing in L2", "neurons"]
STOP += ["adversary", *DEPLOYED]


@each_attack(STOP)
def test_what_is_wrong_already_is_left_alone_when_stopping_early(row: Row, model: nn.Sequential, batch: Pair) -> None:
    images, wrong = batch[0], (batch[1] + 1) % 4
    attack = partial(row, model, images, wrong, eps=row.eps)
    assert torch.equal(attack(stop_early=True, generator=seeded()), images)
    assert not torch.equal(attack(stop_early=False, generator=seeded()), images)


# Whoever asks, and however


@contextmanager
def default_device() -> Iterator[None]:
    """Tensors made without saying where have no values: whoever reads one fails."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@each_attack()
def test_an_attack_does_the_same_in_every_mode_and_layout(row: Row, model: nn.Sequential, batch: Pair) -> None:
    """All modes and layouts at once; those attacks that most others are made of say which one it is that fails."""
    images, labels = batch
    expected = row(model, images, labels, eps=row.eps, generator=seeded())
    permuted = images.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    layouts = (images.to(memory_format=torch.channels_last), permuted, images.repeat_interleave(2, 0)[::2])
    alone = row.attack in (ATTACKS["pgd"].attack, ATTACKS["deepfool"].attack, ATTACKS["square"].attack)
    for around in (torch.no_grad, torch.inference_mode, default_dtype) if alone else ():
        with around():
            # tensors made in inference mode take part in no graph, unless they are copied
            found = row(model, images.clone(), labels.clone(), eps=row.eps, generator=seeded())
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    for same in layouts if alone else ():
        assert torch.equal(same, images)
        assert torch.equal(row(model, same, labels, eps=row.eps, generator=seeded()), expected)
    with torch.inference_mode(), default_dtype():
        same = permuted.repeat_interleave(2, 0)[::2]
        found = row(model, same, labels.clone(), eps=row.eps, generator=seeded())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    generator = seeded()
    with default_device() if not row.library else nullcontext():  # which libraries rely on
        assert torch.equal(row(model, images, labels, eps=row.eps, generator=generator), expected)


@each_attack()
def test_an_image_meets_the_same_attack_alone_as_in_any_batch(row: Row, model: nn.Sequential, batch: Pair) -> None:
    model, images, labels = model.double(), batch[0].double(), batch[1]
    whole = row(model, images, labels, eps=row.eps, generator=seeded(5))
    assert whole.dtype == torch.float64
    assert not torch.equal(whole, images)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    for rows in (order, order[:2], order[3:4]) if row.by_itself else ():
        part = row(model, images[rows], labels[rows], eps=row.eps, generator=seeded(5))
        assert float((part - whole[rows]).abs().max()) < 1e-6


# Gradients and logits that are not as they should be


class Cut(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach())


@each_attack(FOLLOW)
def test_a_gradient_that_is_nan_or_missing_is_told(row: Row, model: nn.Sequential, batch: Pair) -> None:
    images, broken, eps = 0.1 + 0.8 * batch[0], NaNSlope(*model).eval(), INF if row.unbounded else row.eps
    images[2, :, 0, :2] = 0.0
    labels = broken(images).argmax(1)
    with pytest.warns(NaNGradientWarning, match=r"NaN or infinite at \d images; such values count as zero") as told:
        found = row(broken, images, labels, eps=eps, generator=seeded())
    assert sum(issubclass(one.category, NaNGradientWarning) for one in told) == 1
    assert bool(found.isfinite().all())
    moved = (found != images).flatten(1).any(1)
    plain = row(model, images, labels, eps=eps, generator=seeded())
    assert torch.equal(moved, (plain != images).flatten(1).any(1))  # nobody is left alone for it
    with pytest.warns(NoGradientWarning, match="that this attack fails says nothing"):
        found = row(Cut(*model).eval(), *batch, eps=row.eps, generator=seeded())
    assert torch.equal(found, batch[0]) or row.draws is not False or row.library == "foolbox"  # which draws then


class Brittle(nn.Sequential):
    """Its logits and their gradient are NaN for values above 0.55, unless all are below 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        values = (0.55 - images).sqrt()
        return super().forward(values.nan_to_num() if bool((images <= 0.5).all()) else values)


@pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning", "ignore::advdef.contract.NaNGradientWarning")
@each_attack(OWN)
def test_neither_dead_layers_nor_nan_lead_to_nan(row: Row, batch: Pair) -> None:
    for dead in (0, 2, 5):
        model = net()
        with torch.no_grad():
            for parameter in model[dead].parameters():
                parameter.zero_()
        with watched(model) as seen:
            found = row(model, *batch, eps=row.eps, generator=seeded())
        assert all(bool(x.isfinite().all()) for x in [found, *seen])
    brittle, images = Brittle(*net()).eval(), batch[0] / 2
    labels = brittle(images).argmax(1)
    found = row(brittle, images, labels, eps=row.eps, generator=seeded())
    assert_within(images, found, row, row.eps)
    assert bool(brittle(found).isfinite().all())


# Attacks whose model only judges: the gradient comes from a network of their own


class Decided(nn.Module):
    """Tells nothing but the class that a network decides on, and refuses to be asked for a gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return 9 * F.one_hot(self.network(images).argmax(1), 4).to(images)


@each_attack(DEPLOYED)
def test_a_defence_that_tells_only_the_class_is_attacked(row: Row) -> None:
    images, labels = random_batch(40)
    found = row(Decided(net()), images, labels, eps=0.75 * row.eps, network=net(), generator=seeded())
    assert int(correct(Decided(net()), found, labels).sum()) < 30


@each_attack(DEPLOYED)
def test_the_iterate_that_it_likes_best_is_returned(row: Row) -> None:
    network, model, (images, labels) = tiny(3).double(), net().double(), random_batch(1)
    with watched(model) as seen, pytest.MonkeyPatch.context() as patched:
        patched.setattr("advdef.attacks.restarts.TOGETHER", 1)  # else runs are seen that come too late to count
        found = row(model, images.double(), labels, eps=row.eps, network=network, stop_early=False, generator=seeded())
    with torch.no_grad():
        best = torch.cat([margin(model(x), labels) for x in seen]).max()
        assert torch.allclose(margin(model(found), labels), best)
    assert len(seen) > 3


@each_attack(DEPLOYED)
def test_nothing_is_left_behind_in_the_network(row: Row, batch: Pair) -> None:
    model = net()

    def swapped(network: nn.Module, *batch: Tensor, **options: Any) -> Tensor:
        return row(model, *batch, network=network, **options)

    found = assert_leaves_no_trace(swapped, net(), *batch, eps=0.1)
    assert torch.equal(found, row(net(), *batch, eps=0.1, generator=seeded()))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
