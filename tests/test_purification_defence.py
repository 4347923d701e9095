"""Purification as a defence: what the classifier sees, what the gate picks, and each gradient an attacker may take."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import seeded, tiny, watched
from torch import Tensor, nn

from advdef.attacks import describe, margin, pgd
from advdef.contract import frozen
from advdef.defenses.base import Defense
from advdef.evaluation import adaptive, correct, counted, direct, evaluate, oblivious
from advdef.papers.snn.classifiers import SmallSpikingResNet
from advdef.papers.snn.defence import GatedPurification, Purification, SpikingClassifier
from advdef.papers.snn.neurons import neurons_of
from advdef.papers.snn.purifier import NoiseMap, Purifier
from advdef.papers.snn.surrogates import ADAPTIVE, RECTANGLE, REDUCED, Surrogate
from advdef.store import key

SHAPE, CLASSES = (1, 8, 8), 4
TWO: Mapping[str, Surrogate] = {"wide": Surrogate("triangle", 2.0), "spread": Surrogate("membrane")}
MIXED = ["purifier straight-through", "purifier rate"]
KINDS = [("ANN", "ANN"), ("spiking", "ANN"), ("ANN", "spiking"), ("spiking", "spiking")]


@functools.cache
def _classifier(kind: str) -> nn.Module:
    """With the statistics of random images; it gives every label to some of them."""
    if kind == "ANN":
        model = tiny(4, SHAPE, CLASSES)
        model[0].running_mean, model[0].running_var = torch.full((1,), 0.5), torch.full((1,), 1 / 12)
        model[5].weight = nn.Parameter(5 * model[5].weight)
        return frozen(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        network = SmallSpikingResNet(SHAPE, CLASSES, steps=2, width=4)
        for _ in range(20):
            network(pixels(100))
    return frozen(network)


def classifier(kind: str = "ANN") -> nn.Module:
    return copy.deepcopy(_classifier(kind))


@functools.cache
def _purifier(kind: str, noise: NoiseMap, opened: float) -> Purifier:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = Purifier(1, width=4, extractor_width=3, steps=2, spiking=kind == "spiking", noise=noise)
        nn.init.normal_(made.restorer.out.weight, std=opened)
    return made


def purifier(kind: str = "spiking", *, noise: NoiseMap = "magnitude", opened: float = 0.2) -> Purifier:
    """One whose last convolution is not zero changes something."""
    return copy.deepcopy(_purifier(kind, noise, opened))


def pixels(n: int = 6, *, seed: int = 0) -> Tensor:
    return torch.rand(n, *SHAPE, generator=seeded(seed))


def build(kinds: tuple[str, str] = ("spiking", "ANN"), *, gated: bool = False, **options: Any) -> Purification:
    """Of a kind of purifier in front of a kind of classifier; the gate takes each branch for half of the images."""
    parts = classifier(kinds[1]), purifier(kinds[0], opened=options.pop("opened", 0.2))
    if not gated:
        return Purification(*parts, **options)
    with torch.no_grad():
        threshold = float(GatedPurification(*parts, 1.0).distance(pixels()).sort().values[2])
    return GatedPurification(*parts, threshold, **options)


def stand_ins_of(defence: Purification) -> dict[str, nn.Module]:
    """All, but of a gate the identity in place of the purifier, which has a test of its own."""
    found = defence.surrogates()
    if isinstance(defence, GatedPurification):
        del found[next(iter(found))]
    return found


def gradient(model: nn.Module, images: Tensor) -> Tensor:
    """Of a sum of logits that no softmax would leave alone."""
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    (found,) = torch.autograd.grad((logits * torch.linspace(-1, 2, CLASSES, dtype=logits.dtype)).sum(), leaf)
    return found


def by_hand(defence: Purification, images: Tensor) -> Tensor:
    """Purified images."""
    network: Any = defence.purifier
    noise = network.extractor(images)
    return (images + network.restorer(torch.cat([images, noise], 1))).clamp(0, 1)


FOR_SPIKES = ["SA-PGD, adaptive", "SA-PGD, derivatives in turn"]


# The value


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_the_classifier_sees_the_purified_image(kinds: tuple[str, str]) -> None:
    defence, images = build(kinds), pixels()
    expected = by_hand(defence, images)
    assert torch.equal(defence.prepare(images), expected)
    assert bool(((expected - images).abs().amax((1, 2, 3)) > 1e-2).all())
    assert torch.equal(defence(images), defence.classifier(expected))
    assert not torch.allclose(defence(images), defence.classifier(images))
    assert defence.network is defence.classifier
    assert defence.exact
    assert list(defence.adaptive_attacks(0.1)) == (FOR_SPIKES if "spiking" in kinds else [])
    alone = torch.cat([defence(image[None]) for image in images])
    assert torch.allclose(alone, defence(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_an_untrained_purifier_leaves_the_classifier_as_it_is(gated: bool) -> None:
    defence, images = build(gated=gated, opened=0.0), pixels()
    assert torch.equal(defence.prepare(images), images)
    assert torch.equal(defence(images), defence.classifier(images))


def test_purified_images_stay_images() -> None:
    prepared = build(opened=9.0).prepare(pixels()).detach()
    assert (float(prepared.min()), float(prepared.max())) == (0.0, 1.0)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("gated", [False, True])
def test_it_works_where_gradients_are_off(gated: bool, context: Callable[[], AbstractContextManager[None]]) -> None:
    defence = build(("spiking", "spiking"), gated=gated, derivatives=TWO)
    expected = defence(pixels()).detach()
    stand_ins = {"defence": defence, **stand_ins_of(defence)}
    with context():
        found = {name: stand_in(pixels()) for name, stand_in in stand_ins.items()}
    for logits in found.values():
        assert torch.equal(logits, expected)
        assert not logits.requires_grad


@pytest.mark.parametrize("gated", [False, True])
def test_it_stays_in_evaluation_mode_and_leaves_its_parts_alone(gated: bool) -> None:
    defence, images = build(gated=gated), pixels()
    expected, before = defence(images), {name: value.clone() for name, value in defence.state_dict().items()}
    for mode in (True, False):
        assert defence.train(mode) is defence
        assert not any(module.training for module in defence.modules())
    gradient(defence, images)
    assert torch.equal(defence(images), expected)
    assert all(torch.equal(value, before[name]) for name, value in defence.state_dict().items())
    assert all(parameter.grad is None for parameter in defence.parameters())
    assert not any(module.training for module in Purification(classifier(), purifier().train()).modules())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: tiny(4, SHAPE), "trainable parameters"),
        (lambda: classifier().train(), "in training mode"),
        (lambda: classifier("spiking").train(), "in training mode"),
    ],
    ids=range(3),
)
def test_a_classifier_that_is_not_frozen_is_refused(wrong: Callable[[], nn.Module], message: str) -> None:
    for make in [Purification, partial(GatedPurification, threshold=0.5)]:
        with pytest.raises(ValueError, match=message):
            make(wrong(), purifier())


# The gradients


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (("ANN", "ANN"), []),
        (("spiking", "ANN"), [*TWO, *MIXED]),
        (("ANN", "spiking"), [*TWO]),
        (("spiking", "spiking"), [*TWO, *MIXED]),
    ],
    ids=str,
)
@pytest.mark.parametrize("gated", [False, True])
def test_what_stands_in_for_the_gradient(kinds: tuple[str, str], names: list[str], gated: bool) -> None:
    _, *others = build(kinds, gated=gated, derivatives=TWO).surrogates()
    assert others == names


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_every_derivative_by_default_and_the_identity_besides(kinds: tuple[str, str]) -> None:
    """The surrogate of that name, for each spike, is another thing than the identity in place of the purifier."""
    found = build(kinds).surrogates()
    derivatives, mixed = (len(REDUCED) if "spiking" in kinds else 0), (2 if kinds[0] == "spiking" else 0)
    assert len(found) == 1 + derivatives + mixed


@pytest.mark.parametrize(
    ("kinds", "options"), [*((kinds, {"derivatives": TWO}) for kinds in KINDS), (KINDS[3], {})], ids=str
)
def test_one_stand_in_has_the_gradient_at_the_purified_image(kinds: tuple[str, str], options: dict[str, Any]) -> None:
    defence, images = build(kinds, **options), pixels()
    expected = gradient(defence.classifier, by_hand(defence, images).detach())
    assert float(expected.abs().max()) > 0
    same = [
        name for name, stand_in in defence.surrogates().items() if torch.equal(gradient(stand_in, images), expected)
    ]
    assert len(same) == 1


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_every_stand_in_has_the_value_of_the_defence(kinds: tuple[str, str], gated: bool) -> None:
    defence, images = build(kinds, gated=gated, derivatives=TWO), pixels().requires_grad_()
    expected = defence(images)
    if gated:
        bare, purified = (defence.classifier(x) for x in (images, defence.prepare(images)))
        taken = (expected == bare).all(1)
        assert 0 < int(taken.sum()) < len(images)
        assert torch.equal(expected[~taken], purified[~taken])
    wrong = [name for name, stand_in in stand_ins_of(defence).items() if not torch.equal(stand_in(images), expected)]
    assert wrong == []
    assert all(stand_in.network is defence.network for stand_in in defence.surrogates().values())


def test_the_identity_in_place_of_the_purifier_has_the_value_of_the_gate_too() -> None:
    defence, images = build(("ANN", "ANN"), gated=True), pixels()
    assert defence.exact
    for stand_in in defence.surrogates().values():
        assert torch.equal(stand_in(images), defence(images))


def altered(defence: Purification, rule: Surrogate, prefix: str = "") -> Purification:
    """Its neurons, those of a part or all, have another surrogate from now on, and the others that of training."""
    for name, neuron in neurons_of(defence).items():
        neuron.surrogate = rule if name.startswith(prefix) else RECTANGLE
    return defence


@pytest.mark.parametrize(("kinds", "gated"), [*((kinds, False) for kinds in KINDS[1:]), (KINDS[3], True)], ids=str)
def test_each_derivative_is_that_of_neurons_which_have_it(kinds: tuple[str, str], gated: bool) -> None:
    """Throughout, or in the purifier alone."""
    defence, other, images = build(kinds, gated=gated), build(kinds, gated=gated), pixels()
    found = {name: gradient(stand_in, images) for name, stand_in in defence.surrogates().items()}
    expected = {name: gradient(altered(other, rule), images) for name, rule in REDUCED.items()}
    del expected["straight-through"]  # has tests of its own
    if kinds[0] == "spiking":
        for rule in (Surrogate("straight-through"), Surrogate("rate")):
            expected[f"purifier {rule}"] = gradient(altered(other, rule, "purifier."), images)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert float(value.abs().max()) > 0, name
    assert torch.equal(found[str(RECTANGLE)], gradient(defence, images))  # what it was trained with
    # where a classifier does not spike, a rule in the purifier alone is the rule throughout
    distinct = [name for name in expected if kinds != ("spiking", "ANN") or name not in MIXED]
    for one, two in combinations(distinct, 2):
        assert not torch.allclose(expected[one], expected[two]), (one, two)
    assert {neuron.surrogate for neuron in neurons_of(defence).values()} == {RECTANGLE}


def test_plain_autograd_is_the_whole_derivative() -> None:
    """Of an ANN purifier; no part of it is a constant."""
    defence, images = build(("ANN", "ANN")), 0.3 + 0.4 * pixels().double()
    defence.double()
    direction = torch.randn(images.shape, generator=seeded(1), dtype=images.dtype)
    weights = torch.linspace(-1, 2, CLASSES, dtype=images.dtype)
    slope = float((gradient(defence, images) * direction).sum())
    with torch.no_grad():
        ahead, behind = ((defence(images + s * 1e-6 * direction) * weights).sum() for s in (1, -1))
    assert slope == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-4)
    straight = gradient(defence.surrogates()["BPDA"], images)
    assert float((straight * direction).sum()) != pytest.approx(slope, rel=1e-2)


# The cost


@pytest.mark.parametrize(("gated", "each"), [(False, 1), (True, 2)])
def test_passes_of_the_classifier_are_counted(gated: bool, each: int) -> None:
    defence, images = build(("spiking", "spiking"), gated=gated, derivatives=TWO), pixels(5)
    for name, stand_in in {"defence": defence, **stand_ins_of(defence)}.items():
        passes = Counter[str]()
        with torch.no_grad(), counted(stand_in, passes):
            stand_in(images)
        assert passes == Counter(forward=5 * each), name
        passes.clear()
        with counted(stand_in, passes):
            gradient(stand_in, images)
        assert passes == Counter(forward=5 * each, backward=5 * each), name


def names_of(defence: Defense, images: Tensor) -> dict[str, str]:
    """Under which an evaluation of an attack on each stand-in would be kept."""
    targets = {"defence": defence, **defence.surrogates()}
    return {
        name: key("it", images=images, defence=defence, attack=partial(pgd), target=target).digest
        for name, target in targets.items()
    }


def test_an_evaluation_is_kept_under_a_name_of_its_own() -> None:
    images = pixels(2)
    plain = names_of(build(derivatives=TWO), images)
    assert len(set(plain.values())) == len(plain) == 6
    assert names_of(build(derivatives=TWO), images) == plain  # made anew
    others = [
        build(derivatives=TWO, opened=0.3),
        Purification(classifier(), purifier(noise="signed"), derivatives=TWO),
        Purification(classifier("spiking"), purifier(), derivatives=TWO),
        GatedPurification(classifier(), purifier(), 0.5, derivatives=TWO),
        GatedPurification(classifier(), purifier(), 0.25, derivatives=TWO),
    ]
    seen = [set(plain.values()), *(set(names_of(other, images).values()) for other in others)]
    assert all(not one & other for one, other in combinations(seen, 2))
    gate = others[3]
    attacks = {
        name: key("it", images=images, defence=gate, attack=attack).digest
        for name, attack in gate.adaptive_attacks(0).items()
    }
    assert len(set(attacks.values())) == 5


def test_settings_of_the_own_attacks_are_a_line() -> None:
    for attack in build(gated=True).adaptive_attacks(0.1).values():
        assert "\n" not in describe(attack)
        assert len(describe(attack)) < 200


# The gate


class Affine(nn.Module):
    """Of a pixel x: 1/2 + scale (x - 1/2) + shift."""

    def __init__(self, scale: list[float], shift: float) -> None:
        super().__init__()
        self.scale, self.shift = torch.tensor(scale).double(), shift

    def forward(self, images: Tensor) -> Tensor:
        return (0.5 + self.scale * (images - 0.5) + self.shift).clamp(0, 1)


def plane(*weight: float, height: float = 0.0, steep: float = 1.0) -> nn.Module:
    """Of two classes, the lead of class 1 is steep * (weight @ (x - 1/2) - height)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 2)).double()
    with torch.no_grad():
        network[1].weight.copy_(steep * torch.tensor([[0.0] * len(weight), list(weight)]))
        network[1].bias.copy_(torch.tensor([0.0, -steep * (sum(weight) / 2 + height)]))
    return frozen(network)


def single(*values: float) -> Tensor:
    return torch.tensor(values).double().view(-1, 1, 1, 1)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_the_distance_by_hand() -> None:
    """The purifier takes 0.1 off; with two classes the largest difference is that of either."""
    gate = GatedPurification(plane(1.0, steep=10), Affine([1.0], -0.1), 0.5)  # type: ignore[arg-type]
    found = gate.distance(single(0.5, 0.6, 0.9, 0.05))
    expected = [sigmoid(10 * (x - 0.5)) - sigmoid(10 * (max(0, x - 0.1) - 0.5)) for x in (0.5, 0.6, 0.9, 0.05)]
    assert found.tolist() == pytest.approx(expected)


def test_the_distance_is_the_largest_difference_of_probabilities() -> None:
    gate, images = build(("ANN", "ANN"), gated=True), pixels()
    one, other = (gate.classifier(x).exp() for x in (images, by_hand(gate, images)))
    one, other = one / one.sum(1, keepdim=True), other / other.sum(1, keepdim=True)
    expected = torch.stack([(one[:, k] - other[:, k]).abs() for k in range(CLASSES)]).max(0).values
    assert torch.allclose(gate.distance(images), expected, rtol=1e-4, atol=1e-6)
    assert gate.distance(images).shape == (6,)


def test_each_image_takes_its_own_branch_and_at_the_threshold_the_bare_one() -> None:
    images = pixels()
    open_gate = GatedPurification(classifier(), purifier(), 0.0)
    bare, purified = open_gate.classifier(images), open_gate.classifier(open_gate.prepare(images))
    distance = open_gate.distance(images).detach()
    order = distance.argsort()
    assert bool((distance > 0).all())
    assert torch.equal(open_gate(images), purified)
    assert torch.equal(GatedPurification(classifier(), purifier(), 1.0)(images), bare)
    for rank in range(6):
        at = float(distance[order[rank]])
        below = float(torch.nextafter(distance[order[rank]], torch.zeros(())))
        for threshold, first in ((at, rank + 1), (below, rank)):
            found = GatedPurification(classifier(), purifier(), threshold)(images)
            assert torch.equal(found[order[:first]], bare[order[:first]])
            assert torch.equal(found[order[first:]], purified[order[first:]])


def test_a_gate_shows_its_threshold() -> None:
    assert "threshold=0.25" in repr(GatedPurification(classifier(), purifier(), 0.25))


@pytest.mark.parametrize("threshold", [-1e-9, 1.0001, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\], not"):
        GatedPurification(classifier(), purifier(), threshold)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_a_calibrated_gate_gives_as_many_false_alarms_as_were_asked_for(share: float) -> None:
    images = pixels(300)
    gate = GatedPurification.calibrated(classifier(), purifier("ANN"), images, false_alarms=share)
    with torch.no_grad():
        found = float((gate.distance(images) > gate.threshold).double().mean())
        fresh = float((gate.distance(pixels(300, seed=7)) > gate.threshold).double().mean())
    assert found == pytest.approx(share, abs=1 / 300)
    assert fresh == pytest.approx(share, abs=0.08)
    assert isinstance(gate, GatedPurification)
    turned = GatedPurification.calibrated(classifier(), purifier("ANN"), images.flip(0), false_alarms=share)
    assert turned.threshold == pytest.approx(gate.threshold, rel=1e-5)


def test_by_default_one_in_twenty_is_a_false_alarm() -> None:
    images = pixels(100)
    gates = [
        GatedPurification.calibrated(classifier(), purifier("ANN"), images, **options)
        for options in ({}, {"false_alarms": 0.05})
    ]
    assert gates[0].threshold == gates[1].threshold > 0


def test_a_threshold_is_kept_so_that_all_machines_have_the_same(tmp_path: Path) -> None:
    calibrated = partial(GatedPurification.calibrated, classifier(), purifier("ANN"), pixels(100))
    first, again = (calibrated(resume=tmp_path).threshold for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 1
    assert first == again == calibrated().threshold
    assert calibrated(resume=tmp_path, false_alarms=0.5).threshold < first


def test_where_nothing_is_changed_there_is_no_alarm() -> None:
    gate = GatedPurification.calibrated(classifier(), purifier(opened=0.0), pixels())
    assert gate.threshold == 0
    assert torch.equal(gate(pixels(seed=1)), gate.classifier(pixels(seed=1)))


def test_what_cannot_be_calibrated_is_refused() -> None:
    for share, n in [(0.0, 4), (1.0, 4), (-0.1, 4), (1.1, 4), (float("nan"), 4), (0.05, 0)]:
        with pytest.raises(ValueError, match=r"needs images and a share in \(0, 1\)"):
            GatedPurification.calibrated(classifier(), purifier(), pixels(n), false_alarms=share)


# Attacks on the gate: two pixels, which move from grey by (u, v)


GREY: dict[str, Any] = {"images": torch.full((1, 1, 1, 2), 0.5).double(), "labels": torch.tensor([0]), "eps": 0.1}


def crafted_alone(gate: GatedPurification) -> list[Tensor]:
    """By PGD on the bare classifier, and on the purified one."""
    plain = Purification(gate.classifier, gate.purifier)
    return [pgd(model, **GREY, loss="margin", steps=50, random_start=False) for model in (gate.classifier, plain)]


def test_both_branches_are_fooled_where_fooling_either_does_not_help() -> None:
    """The bare branch is wrong where u + v > 0.02, and the purified one where 0.28 (v - u) > 0.04.

    Where the bare one is surest it is given away, and where the other is wrong as it can be, the gate does not ask it.
    """
    network, shrinks = plane(1.0, 1.0, height=0.02, steep=20), Affine([-0.28, 0.28], -0.01)
    gate = GatedPurification(network, shrinks, 0.4)  # type: ignore[arg-type]
    assert bool(correct(gate, GREY["images"], GREY["labels"]))
    first, second = crafted_alone(gate)
    wrong = [
        [bool(branch(x).argmax(1)) for branch in (network, nn.Sequential(shrinks, network))] for x in (first, second)
    ]
    assert wrong == [[True, False], [False, True]]
    assert all(bool(correct(gate, found, GREY["labels"])) for found in (first, second))
    attack = gate.adaptive_attacks(0.1)["both branches"]
    found = attack(gate, **GREY, generator=seeded())
    assert not bool(correct(gate, found, GREY["labels"]))
    assert float((found - 0.5).abs().max()) <= 0.1 + 1e-9


def test_the_detector_is_kept_quiet_where_the_purified_branch_cannot_be_fooled() -> None:
    """It would be wrong where 0.1 (v - u) > 0.03, which no image is."""
    network, shrinks = plane(1.0, 1.0, height=0.02, steep=20), Affine([-0.1, 0.1], -0.005)
    gate = GatedPurification(network, shrinks, 0.3)  # type: ignore[arg-type]
    assert all(bool(correct(gate, found, GREY["labels"])) for found in crafted_alone(gate))
    corner = torch.tensor([0.4, 0.6]).double().view(1, 1, 1, 2)
    assert bool(correct(Purification(network, shrinks), corner, GREY["labels"]))  # type: ignore[arg-type]
    found = gate.adaptive_attacks(0.1)["unnoticed"](gate, **GREY, generator=seeded())
    assert not bool(correct(gate, found, GREY["labels"]))
    assert float(gate.distance(found)) <= 0.3


@pytest.mark.parametrize("name", ["both branches", "both branches, BPDA", "unnoticed"])
def test_the_own_attacks_are_judged_on_the_gate(name: str) -> None:
    """The iterate that the gate likes best is returned; it decides at every step, by its threshold."""
    gate, images = build(("ANN", "ANN"), gated=True), pixels(8)
    labels = gate(images).argmax(1)
    attack = partial(gate.adaptive_attacks(0.3)[name], stop_early=False, steps=8)
    with watched(gate) as seen:
        found = attack(gate, images, labels, eps=0.3, generator=seeded())
    assert len(seen) == 10
    scores = torch.stack([margin(gate(x).detach(), labels) for x in seen])
    assert torch.allclose(margin(gate(found).detach(), labels), scores.amax(0))
    assert int((~correct(gate, found, labels)).sum()) > 4
    branches = torch.stack([gate.distance(x).detach() > gate.threshold for x in seen])
    assert 0 < float(branches.double().mean()) < 1


def test_where_flagged_images_are_refused_what_slips_through_is_found() -> None:
    """An image comes back unflagged and wrong if it ever was so on the way; the gate would like other points more."""
    gate, images = build(("ANN", "ANN"), gated=True), pixels(40)
    labels = gate.classifier(images).argmax(1)
    attack = partial(gate.adaptive_attacks(0.02)["unnoticed"], eps=0.02, stop_early=False, steps=8)

    def slips(x: Tensor) -> Tensor:
        return (gate.classifier(x).argmax(1) != labels) & (gate.distance(x) <= gate.threshold)

    judge = gate.refusing()
    assert torch.equal(judge(images)[gate.distance(images) > gate.threshold].unique(), torch.zeros(1))
    with watched(judge) as seen:
        found = attack(judge, images, labels, generator=seeded())
    ever = torch.stack([slips(x) for x in seen]).any(0)
    assert torch.equal(slips(found), ever)
    of_the_gate = attack(gate, images, labels, generator=seeded())
    assert 0 < int(slips(of_the_gate).sum()) < int(ever.sum())


def test_the_own_attacks_know_the_threshold_and_take_steps() -> None:
    gate = build(gated=True)
    suite = gate.adaptive_attacks(0.1)
    assert list(suite) == [*FOR_SPIKES, "both branches", "both branches, BPDA", "unnoticed"]
    assert suite["unnoticed"].keywords["threshold"] == gate.threshold
    assert all(attack.keywords["stop_early"] for attack in suite.values())
    images = pixels(2)
    found = torch.stack([branch(images) for branch in suite["both branches"].keywords["branches"]])
    assert torch.equal(found, torch.stack([gate.classifier(x) for x in (images, by_hand(gate, images))]))
    labels = gate(images).argmax(1)
    for name, attack in suite.items():
        with watched(gate) as seen:
            attack(gate, images, labels, eps=0.0, steps=3, generator=seeded())
        assert len(seen) == (4 if name == FOR_SPIKES[1] else 5)  # the identity's turn asks not the gate, but its parts


# Evaluations


@pytest.mark.parametrize("gated", [False, True])
def test_the_evaluation_runs_every_stand_in(gated: bool, tmp_path: Path) -> None:
    """And goes on from what it has kept."""
    defence, images = build(gated=gated, derivatives={"wide": TWO["wide"]}), pixels(4)
    labels = defence(images).argmax(1)
    suite = {"PGD": partial(pgd, steps=2)}
    attempts = adaptive(defence, suite, eps=0.3, steps=2)
    names = list(defence.surrogates())
    assert names[1:] == ["wide", *MIXED]
    own = [*FOR_SPIKES, *(("both branches", "both branches, BPDA", "unnoticed") if gated else ())]
    assert [attempt.name for attempt in attempts] == [*(f"PGD through {name}" for name in names), *own]
    attempts = [*oblivious(defence, {"replayed": suite["PGD"]}), *direct(defence, suite), *attempts]
    run = partial(evaluate, defence, attempts, images, labels, eps=0.3, resume=tmp_path, exhaustive=True)
    with watched(defence.classifier) as seen:  # a hook is content: both runs have it
        defence(images)
        one = len(seen)
        report = run(generator=seeded())
        seen.clear()
        again = run(generator=seeded())
    assert len(seen) == 3 * one  # the clean images: does the defence repeat itself, and is it right?
    assert len(report.findings) == len(attempts)
    assert all(finding.forwards > 0 and finding.backwards > 0 for finding in report.findings)
    assert torch.equal(again.adversarial, report.adversarial)


def test_no_label_reaches_a_defence() -> None:
    """On images that hold nothing, with labels that have nothing to do with them, it is at chance."""
    images, labels = pixels(400), torch.randint(CLASSES, (400,), generator=seeded(1))
    for defence in (build(), build(gated=True), build(("ANN", "spiking")), SpikingClassifier(classifier("spiking"))):
        assert list(inspect.signature(defence.forward).parameters) == ["images"]
        hits = correct(defence, images, labels).double().mean()
        assert float(hits) == pytest.approx(1 / CLASSES, abs=0.09)


# A spiking classifier alone


def test_a_spiking_classifier_has_its_own_values_and_each_derivative() -> None:
    network, images = classifier("spiking"), pixels()
    defence = SpikingClassifier(network)
    assert torch.equal(defence(images), network(images))
    stand_ins = defence.surrogates()
    assert list(stand_ins) == list(REDUCED)
    found = {}
    for name, stand_in in stand_ins.items():
        assert torch.equal(stand_in(images), network(images))
        assert stand_in.network is network
        other = copy.deepcopy(network)
        for neuron in neurons_of(other).values():
            neuron.surrogate = REDUCED[name]
        found[name] = gradient(stand_in, images)
        assert torch.equal(found[name], gradient(other, images))
        assert float(found[name].abs().max()) > 0
        passes = Counter[str]()
        with counted(stand_in, passes):
            gradient(stand_in, images)
        assert passes == Counter(forward=6, backward=6)
    assert all(not torch.allclose(found[one], found[other]) for one, other in combinations(found, 2))
    assert torch.equal(found[str(RECTANGLE)], gradient(defence, images))
    assert list(SpikingClassifier(network, derivatives=TWO).surrogates()) == list(TWO)
    assert SpikingClassifier(network, derivatives={}).surrogates() == {}


def test_a_spiking_classifier_with_a_twin_is_attacked_itself() -> None:
    network, twin, images = classifier("spiking"), classifier("ANN"), pixels()
    defence = SpikingClassifier(network, twin=twin, derivatives=TWO)
    assert defence.classifier is twin
    assert defence.network is network
    assert SpikingClassifier(network).classifier is network
    for stand_in in (defence, *defence.surrogates().values()):
        assert torch.equal(stand_in(images), network(images))
    with watched(twin) as seen:
        for stand_in in defence.surrogates().values():
            gradient(stand_in, images)
    assert not seen


def test_stand_ins_of_a_defence_take_turns() -> None:
    """The attack for spikes follows each stand-in's gradient, and breaks what the defence's own gradient leaves."""
    for defence in (SpikingClassifier(classifier("spiking"), derivatives=TWO), build(derivatives=TWO)):
        attack, images = defence.adaptive_attacks(0.1)[FOR_SPIKES[1]], pixels(2)
        networks, labels = attack.keywords["networks"], defence(images).argmax(1)
        assert [type(network) for network in networks[:-1]] == [type(other) for other in defence.surrogates().values()]
        assert networks[-1].surrogates == ADAPTIVE
        with ExitStack() as stack:
            seen = [stack.enter_context(watched(network)) for network in networks]
            attack(defence, images, labels, eps=0.0, steps=len(networks) + 1, generator=seeded())
        assert [len(asked) for asked in seen] == [2, 2] + [1] * (len(networks) - 2)


def test_a_spiking_classifier_that_does_not_spike_is_refused() -> None:
    with pytest.raises(ValueError, match="has no spiking layer"):
        SpikingClassifier(classifier("ANN"), twin=classifier("spiking"))


def test_a_spiking_classifier_has_the_mode_of_its_network() -> None:
    network = SmallSpikingResNet(SHAPE, CLASSES, steps=1, width=2)
    assert SpikingClassifier(network).training
    assert not SpikingClassifier(network.eval()).training


def test_derivatives_of_a_spiking_classifier_are_told_apart() -> None:
    images = pixels(2)
    found = names_of(SpikingClassifier(classifier("spiking"), derivatives=TWO), images)
    assert len(set(found.values())) == 3
    assert found == names_of(SpikingClassifier(classifier("spiking"), derivatives=TWO), images)
