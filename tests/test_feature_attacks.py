"""Attacks through features do with the features what they say."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from attack_table import CHOSEN, adversary, neurons, routing
from contract import Pair, net, random_batch, seeded, tiny, watched
from torch import Tensor, nn

from advdef.attacks import describe, each_class, margin, pgd
from advdef.defenses import Undefended
from advdef.evaluation import correct
from advdef.norms import Norm
from advdef.papers.sensitivity.attacks import feature_adversary, feature_routing, neuron_targeted
from advdef.taps import tapped


def features(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    with torch.no_grad(), tapped(model, [layer]) as seen:
        model(images)
    return seen[layer]


ATTACKS = {"routing": routing, "neurons": neurons, "adversary": partial(adversary, norm="L2")}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_iterate_of_largest_margin_is_returned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdef.attacks.composed.TOGETHER", 1)
    model, (images, labels) = net().double(), random_batch(1)
    with watched(model) as seen:
        found = ATTACKS[name](model, images.double(), labels, eps=0.2, generator=seeded(5))
    with torch.no_grad():
        visited = [x for x in seen if bool(((x - images).abs() <= 0.2 + 1e-7).all())]  # and no guide
        best = torch.stack([margin(model(x), labels) for x in visited]).max(0).values
        assert torch.allclose(margin(model(found), labels), best)
    assert len(visited) > 3


@pytest.mark.parametrize("name", ATTACKS)
def test_a_wrapped_network_is_attacked_like_the_network(name: str) -> None:
    model, (images, labels) = net(), random_batch()
    expected = ATTACKS[name](model, images, labels, eps=0.2, generator=seeded())

    class Wrapped(Undefended):
        """Looks like the sequence for the helpers of the table."""

        def __getitem__(self, i: int) -> Any:
            return model[i]

    found = ATTACKS[name](Wrapped(model), images, labels, eps=0.2, network=model, generator=seeded())
    assert torch.equal(found, expected)


def test_later_restarts_attack_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdef.attacks.restarts.TOGETHER", 4)  # so all starts of four images are too many

    class Model(nn.Module):
        """Images brighter than 0.5 are wrong, and those darker cannot be moved."""

        def __init__(self) -> None:
            super().__init__()
            self.units = nn.Flatten()

        def forward(self, images: Tensor) -> Tensor:
            units = self.units(images)
            hopeless = (units.mean(1) > 0.5).float()
            return torch.stack([0 * units.sum(1), 2 * hopeless - 1], 1)

    images, labels = torch.stack([torch.full((1, 2, 2), v) for v in (0.1, 0.9, 0.2, 0.8)]), torch.zeros(4).long()
    guides = {"guides": images, "guide_labels": torch.ones(4).long(), "layers": ["units"]}
    for attack in (partial(feature_routing, chosen={"units": labels}), partial(feature_adversary, **guides)):
        model = Model()
        with watched(model) as seen:
            attack(model, images, labels, eps=0.01, steps=2, restarts=3, generator=seeded())
        # the look at the model, then per run the features to compare with, two steps and the last point
        one_by_one = "guides" in attack.keywords
        assert [len(x) for x in seen] == [4, *[4] * 4, *([2] * 8 if one_by_one else [2 * 2] * 4)]


# Bad options


def test_layers_that_are_not_there_are_named() -> None:
    for attack, options in [
        (routing, {"chosen": {"7": torch.tensor([0])}}),
        (neurons, {"layer": "7"}),
        (adversary, {"layers": ["3", "7"]}),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="Sequential has no layer '7'; it has 0, 1, 2"):
            attack(net(), *random_batch(), eps=0.1, **options)
    with pytest.raises(ValueError, match="no layers"):
        routing(net(), *random_batch(), eps=0.1, chosen={})
    with pytest.raises(ValueError, match="'0' gives nothing: the network must run"):
        routing(net(), *random_batch(), eps=0.1, network=net())

    class Twice(nn.Module):
        """Asks about each image two times, in one pass."""

        def __init__(self) -> None:
            super().__init__()
            self.network = net()

        def forward(self, images: Tensor) -> Tensor:
            return self.network(torch.cat([images, images]))[: len(images)]

    model = Twice()
    with pytest.raises(ValueError, match="'0' gives 12 rows for 6 images: the network must run once"):
        routing(model, *random_batch(), eps=0.1, network=model.network)


REFUSED: list[tuple[Any, ...]] = [
    (routing, {"chosen": {"3": torch.tensor([16])}}, ValueError, r"'3' must lie in 0\.\.15; seen: 16 to 16"),
    (routing, {"chosen": {"3": torch.tensor([-1, 2])}}, ValueError, r"0\.\.15; seen: -1 to 2"),
    (routing, {"chosen": {"3": torch.tensor([True, False])}}, TypeError, "'3' must be int64"),
    (routing, {"chosen": {"3": torch.tensor(3)}}, TypeError, r"of shape \(\)"),
    (routing, {"gamma": -1.0}, ValueError, "gamma must be finite"),
    (routing, {"eta": float("nan")}, ValueError, "eta must be finite"),
    (routing, {"step_size": 0.0}, ValueError, "step_size"),
    (routing, {"steps": 0}, ValueError, "steps and restarts"),
    (routing, {"norm": "L1"}, ValueError, "Linf, L2"),
    (neurons, {"layer": "0"}, ValueError, r"'0' must give units \(N, C\), not maps \(\d+, 2, 3, 3\)"),
    (neurons, {"units": torch.tensor([0, 16])}, ValueError, r"units must lie in 0\.\.15; seen: 0 to 16"),
    (neurons, {"units": torch.tensor([0.0])}, TypeError, "units must be int64"),
    (neurons, {"units": torch.tensor([], dtype=torch.int64)}, ValueError, "no units"),
    (neurons, {"head": torch.zeros(16, 4)}, ValueError, r"head must have shape \(4, 16\), .*'3', not \(16, 4\)"),
    (neurons, {"head": torch.zeros(5, 16)}, ValueError, r"head must have shape \(4, 16\)"),
    (neurons, {"classes": 0}, ValueError, "classes"),
]


def test_bad_options_are_refused() -> None:
    for attack, options, error, message in REFUSED:
        with pytest.raises(error, match=message):
            attack(net(), *random_batch(), eps=0.1, **options)


def test_feature_adversary_refuses_guides_that_do_not_fit() -> None:
    (images, _), labels = random_batch(), torch.arange(6) % 4
    for options, message in [
        ({"guides": images, "guide_labels": torch.full((6,), 2)}, "all guides are of class 2"),
        ({"guides": images[..., :2], "guide_labels": labels}, r"\(2, 3, 3\), not \(2, 3, 2\)"),
        ({"guides": images + 1, "guide_labels": labels}, r"\[0, 1\]"),
        ({"guides": images, "guide_labels": labels[:4]}, r"\(6,\), not \(4,\)"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            adversary(net(), images, labels, eps=0.1, **options)


def test_the_neurons_of_a_layer_are_described_shortly() -> None:
    chosen = {"stem": torch.tensor([0, 5]), "pool": torch.arange(13)}
    assert describe(partial(feature_routing, chosen=chosen, eta=1.0)) == (
        "feature_routing(chosen={'stem': [0, 5], 'pool': 13 neurons}, eta=1.0)"
    )


# Feature routing


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_without_weights_routing_is_pgd_on_the_margin(network: nn.Module, batch: Pair, norm: Norm) -> None:
    # in float64: of slopes near 0, rounding in float32 turns the sign, and then the path
    network, images, labels = copy.deepcopy(network).double(), batch[0][:30].double(), batch[1][:30]
    eps = {"Linf": 0.05, "L2": 0.7}[norm]
    options: dict[str, Any] = {"eps": eps, "norm": norm, "steps": 12, "restarts": 2}
    expected = pgd(network, images, labels, loss="margin", **options, generator=seeded())
    found = feature_routing(
        network, images, labels, chosen={"1": torch.tensor([0])}, gamma=0.0, **options, generator=seeded()
    )
    with torch.no_grad():
        strength, plain = margin(network(found), labels), margin(network(expected), labels)
    assert torch.allclose(strength, plain, rtol=0, atol=1e-9)


def test_routing_with_all_or_no_neurons_chosen() -> None:
    """Where all are chosen none is free for gamma to move; where none is, there is none for eta to hold."""
    model, (images, labels) = net().double(), random_batch()
    attack = partial(feature_routing, model, images.double(), labels, eps=0.2, steps=9)
    everything, nothing = {"3": torch.arange(16)}, {"3": torch.arange(0)}
    plain = attack(chosen=everything, gamma=0.0, generator=seeded())
    assert torch.equal(attack(chosen=everything, gamma=1e6, generator=seeded()), plain)
    assert torch.equal(attack(chosen=nothing, gamma=0.0, eta=1e6, generator=seeded()), plain)
    assert not torch.equal(attack(chosen=everything, gamma=0.0, eta=1e6, generator=seeded()), plain)
    assert not torch.equal(attack(chosen=nothing, gamma=1e6, generator=seeded()), plain)


def test_routing_goes_through_the_free_neurons_and_then_along_the_margin() -> None:
    """Two pixels, a neuron each; the margin asks above all for the first, which is chosen."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 2)).double()
    with torch.no_grad():
        for parameter, value in zip(
            model.parameters(), ([[1, 0], [0, 1]], [0, 0], [[0, 0], [5, 1]], [10, 0]), strict=True
        ):
            parameter.copy_(torch.tensor(value))
    image, label = torch.full((1, 1, 1, 2), 0.5).double(), torch.tensor([0])
    path = {}
    for gamma, eta in ((1.0, 0.0), (10.0, 100.0)):
        with watched(model) as seen:
            feature_routing(
                model, image, label, eps=0.3, chosen={"1": torch.tensor([0])}, gamma=gamma, eta=eta, steps=30,
                step_size=0.1, random_start=False,
            )  # fmt: skip
        path[eta] = torch.cat(seen[2:]).flatten(1) - 0.5  # without the looks at the clean image
    assert torch.allclose(path[0.0][-1], torch.tensor([0.3, 0.3]).double())
    assert bool((path[100.0][:21, 0].abs() < 0.03 + 1e-9).all())  # not more than a step away
    assert path[100.0][20, 1] == pytest.approx(0.3)
    assert torch.allclose(path[100.0][-1], torch.tensor([0.3, 0.3]).double())  # ten steps along the margin


def test_the_steps_of_routing_by_hand() -> None:
    """Two steps along the formula, image by image and neuron by neuron, and one along the margin."""
    model, (images, labels) = net().double(), random_batch(4)
    images, gamma, eta = 0.3 + 0.4 * images.double(), 0.8, 0.3
    clean = {layer: features(model, images, layer) for layer in CHOSEN}

    def objective(point: Tensor, *, routed: bool) -> Tensor:
        with tapped(model, CHOSEN) as seen:
            logits = model(point)
        total = torch.zeros((), dtype=point.dtype)
        for i, label in enumerate(labels):
            wrong = torch.cat([logits[i, :label], logits[i, label + 1 :]]).max()
            total = total + (wrong - logits[i, label]) / (logits[i] - logits[i].mean()).abs().mean().detach()
            for layer, inside in CHOSEN.items() if routed else ():
                neurons = range(clean[layer].shape[1])
                moved = [(seen[layer][i, m] - clean[layer][i, m]).abs().mean() for m in neurons]
                free = torch.stack([moved[m] for m in neurons if m not in inside]).mean()
                held = torch.stack([moved[m] for m in neurons if m in inside]).mean()
                total = total + (gamma * free - eta * held) / clean[layer][i].abs().mean()
        return total

    with watched(model) as seen:
        feature_routing(
            model, images, labels, eps=0.1, chosen=CHOSEN, gamma=gamma, eta=eta, steps=3, step_size=0.2,
            generator=seeded(),
        )  # fmt: skip
    points = seen[2:]  # after the looks at the clean images
    for step in range(3):
        point = points[step].clone().requires_grad_()
        (slope,) = torch.autograd.grad(objective(point, routed=step < 2), point)
        expected = (points[step] + 0.02 * slope.sign()).clamp(images - 0.1, images + 0.1)
        assert torch.allclose(points[step + 1], expected, rtol=0, atol=1e-12)


def test_the_scale_of_a_layer_or_of_the_logits_does_not_matter() -> None:
    """Each layer times 8 and the next over 8 is the same network; powers of two leave no rounding."""
    images, labels = random_batch()
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 16), nn.ReLU(), nn.Linear(16, 4))
    attack = partial(
        feature_routing, model, images, labels, eps=0.2, chosen={"2": torch.arange(3)}, gamma=2.0, eta=1.0, steps=9
    )
    plain = attack(generator=seeded())
    for scales in ((8, 1 / 8), (1, 8), (8, 8)):
        scaled = nn.Sequential(nn.Flatten(), nn.Linear(18, 16), nn.ReLU(), nn.Linear(16, 4))
        scaled.load_state_dict(model.state_dict())
        with torch.no_grad():
            scaled[1].weight *= scales[0]
            scaled[1].bias *= scales[0]
            scaled[3].weight *= scales[1]
            scaled[3].bias *= scales[0] * scales[1]
        found = feature_routing(scaled, *attack.args[1:], **attack.keywords, generator=seeded())
        assert torch.equal(found, plain)


# The neuron-targeted attack


def linear(seed: int = 0) -> nn.Sequential:
    """Two linear layers, without biases."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(18, 8, bias=False), nn.Linear(8, 4, bias=False)).double()


def test_all_units_of_a_network_without_head_bias_are_the_lead_of_a_class() -> None:
    """With two classes the lead of the other one is the margin; in a linear network its optimum is known."""
    images, labels = random_batch()
    model = tiny(classes=2, bias=False).double()
    labels = model(images.double()).argmax(1)
    options: dict[str, Any] = {"eps": 0.1, "classes": 1}
    expected = each_class(
        model, images.double(), labels, attack=partial(pgd, loss="margin", steps=10), **options, generator=seeded()
    )
    found = neurons(model, images.double(), labels, units=torch.arange(16), steps=10, **options, generator=seeded())
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)

    model, images = linear(), 0.3 + 0.4 * images.double()
    labels = model(images).argmax(1)
    found = neuron_targeted(
        model, images, labels, eps=0.1, layer="1", head=model[2].weight, units=torch.arange(8), generator=seeded()
    )
    logits, slopes = model(images), model[2].weight @ model[1].weight
    own = torch.arange(len(labels)), labels
    leads = logits - logits[own][:, None] + 0.1 * (slopes - slopes[labels][:, None]).abs().sum(2).view(6, 4)
    leads[own] = float("-inf")
    assert torch.allclose(margin(model(found), labels), leads.amax(1))


def test_only_the_named_units_are_moved_and_towards_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdef.attacks.composed.TOGETHER", 1)
    model = linear()
    images = 0.3 + 0.4 * random_batch(1)[0].double()
    logits = model(images)
    (label,) = labels = logits.argmax(1)
    units = torch.tensor([5, 2])
    with watched(model) as seen:
        neuron_targeted(
            model, images, labels, eps=0.1, layer="1", head=model[2].weight, units=units, classes=2, steps=6,
            generator=seeded(),
        )  # fmt: skip
    reached = []
    for target in logits[0].argsort(descending=True)[1:3]:
        lead = (model[2].weight[target] - model[2].weight[label])[units] @ model[1].weight[units]
        reached.append(images + 0.1 * lead.sign().view_as(images))
    ends = [x for x in seen if any(torch.allclose(x, corner, rtol=0, atol=1e-12) for corner in reached)]
    assert any(torch.allclose(x, reached[0]) for x in ends)
    assert any(torch.allclose(x, reached[1]) for x in ends)
    assert not torch.allclose(reached[0], reached[1])


# The feature adversary


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_features_come_nearer_to_those_of_the_guide(network: nn.Module, batch: Pair, norm: Norm) -> None:
    images, labels = batch[0][:20], batch[1][:20]
    guide = {"guides": images[:1], "guide_labels": labels[:1]}
    rows = labels != labels[0]
    images, labels = images[rows], labels[rows]
    target = features(network, guide["guides"], "3")
    before = (features(network, images, "3") - target).flatten(1).norm(dim=1)
    left = []
    for eps in (0.05, 0.2, 1.0):
        with watched(network) as seen:
            found = feature_adversary(
                network, images, labels, eps=eps if norm == "Linf" else 28 * eps, layers=["3"], norm=norm, steps=60,
                **guide, generator=seeded(), restarts=1,
            )  # fmt: skip
        left.append((features(network, seen[-2], "3") - target).flatten(1).norm(dim=1) / before)
    assert torch.equal(seen[1], guide["guides"].expand_as(images))
    assert bool((left[0] < 0.95).all())
    assert bool((left[1] < left[0]).all())
    assert bool((left[2] < 0.2).all())
    assert not bool(correct(network, found, labels).any())


def test_a_guide_within_reach_is_reached() -> None:
    """On pixels themselves, up to the size of a step."""
    images, labels = random_batch(1)
    guides = torch.rand(1, 2, 3, 3, generator=seeded(1))
    model = nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(18, 4))
    with watched(model) as seen:
        feature_adversary(
            model, images, labels, eps=1.0, guides=guides, guide_labels=labels + 1, layers=["1"], steps=100, restarts=1
        )
    assert float((images - guides).abs().max()) > 0.5
    assert float((seen[-1] - guides).abs().max()) < 2.5 / 100


def test_each_layer_counts_relative_to_its_size_on_the_guide() -> None:
    """Two copies of the pixels, one 100 times as large, pull alike: the scale of a layer does not matter."""
    images, labels = random_batch()
    guides = {"guides": torch.rand(4, 2, 3, 3, generator=seeded(1)), "guide_labels": torch.arange(4)}
    found = []
    for scale in (1.0, 64.0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=seeded(i)))
            model[1].weight *= scale
            model[1].bias *= scale
            model[3].weight /= scale
        found.append(
            feature_adversary(
                model, images, labels, eps=0.3, layers=["2", "4"], steps=8, **guides, generator=seeded()
            )
        )  # fmt: skip
    assert torch.equal(found[0], found[1])


def test_guides_are_of_another_class_and_fresh_in_each_restart() -> None:
    model, (images, labels) = net(), random_batch(5)
    labels[0] = (labels[0] + 1) % 4  # wrong already, so no restart meets it
    guides, guide_labels = torch.rand(8, 2, 3, 3, generator=seeded(1)), torch.arange(8) % 4
    with watched(model) as seen:
        feature_adversary(
            model, images, labels, eps=1e-4, guides=guides, guide_labels=guide_labels, layers=["3"], steps=1,
            restarts=60, generator=seeded(),
        )  # fmt: skip
    drawn = [(x[:, None] == guides).flatten(2).all(2).int().argmax(1) for x in seen[1::3]]
    assert not bool((guide_labels[drawn[0]] == labels).any())
    later = torch.stack(drawn[1:])
    assert later.shape == (59, 4)
    for own, label in zip(later.T, labels[1:], strict=True):  # all that are allowed come up
        assert set(own.tolist()) == {g for g in range(8) if guide_labels[g] != label}
