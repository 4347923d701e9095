"""The stabilised network as deployed: the network itself, with attacks that know which neurons are held."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from contract import seeded
from torch import Tensor

from advdef.attacks import describe, pgd
from advdef.data import Dataset, Split
from advdef.evaluation import adaptive, direct, evaluate, oblivious
from advdef.models import SmallResNet
from advdef.papers.sensitivity.defence import Stabilized
from advdef.papers.sensitivity.measure import make_pairs, sensitivity
from advdef.training import train_standard

EPS = 0.1


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> tuple[SmallResNet, dict[str, Tensor]]:
    """A network, and the sensitivity of its taps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallResNet(digits.shape, digits.num_classes, width=4)
    part = digits.train.head(400)
    train_standard(model, part, epochs=6, learning_rate=1e-2, batch_size=50, generator=seeded())
    images, labels = part.float_images()[:100], part.labels[:100]
    return model, sensitivity(model, make_pairs(model, images, labels, partial(pgd, steps=5), eps=EPS))


@pytest.fixture(scope="module")
def guides(digits: Dataset) -> Split:
    return digits.train.head(60)


@pytest.fixture
def defence(trained: tuple[SmallResNet, dict[str, Tensor]], guides: Split) -> Stabilized:
    return Stabilized(trained[0], sensitivity=trained[1], guides=guides)


def test_it_is_the_network_as_deployed(defence: Stabilized, digits: Dataset, guides: Split) -> None:
    images = digits.test.float_images()[:20]
    with torch.no_grad():
        assert torch.equal(defence(images), defence.network(images))
    assert defence.classifier is defence.network
    assert not defence.surrogates()
    assert defence.exact
    assert not defence.training
    twin = SmallResNet(digits.shape, digits.num_classes, width=4).eval()
    other = Stabilized(defence.network, sensitivity=defence.sensitivity, guides=guides, twin=twin)
    assert other.classifier is twin  # what an attacker who ignores the defence has
    assert other.network is defence.network
    with torch.no_grad():
        assert torch.equal(other(images), defence.network(images))


def test_routing_goes_around_what_training_held(defence: Stabilized, guides: Split) -> None:
    held = {"stem": torch.tensor([1]), "pool": torch.tensor([0, 3])}
    known = Stabilized(defence.network, sensitivity=defence.sensitivity, guides=guides, held=held)
    attacks = known.adaptive_attacks(EPS)
    assert attacks["routing, gamma 1, eta 0"].keywords["chosen"] == held
    aimed = attacks["neuron-targeted, sensitive units"].keywords["units"]
    assert torch.equal(aimed, defence.sensitive["pool"])  # the others aim at what is sensitive now
    with pytest.raises(ValueError, match="no layer 'conv9'"):
        Stabilized(defence.network, sensitivity=defence.sensitivity, guides=guides, held={"conv9": torch.tensor([0])})


def test_its_attacks_are_told_which_neurons_are_held(defence: Stabilized, guides: Split) -> None:
    attacks = defence.adaptive_attacks(EPS)
    routing = [attack.keywords for name, attack in attacks.items() if name.startswith("routing")]
    assert [(options["gamma"], options["eta"]) for options in routing] == [(0.1, 0), (1, 0), (10, 0), (1, 1)]
    for options in routing:
        assert list(options["chosen"]) == list(defence.network.taps)
        for name, rows in options["chosen"].items():
            held = torch.zeros(len(defence.sensitivity[name]), dtype=torch.bool)
            held[rows] = True
            assert int(held.sum()) == {4: 1, 8: 1, 16: 2}[len(held)]  # a tenth, rounded up
            assert defence.sensitivity[name][held].min() > defence.sensitivity[name][~held].max()
    single, several = (attacks[f"neuron-targeted, {units}"] for units in ("most sensitive unit", "sensitive units"))
    assert single.keywords["units"].tolist() == [int(defence.sensitivity["pool"].argmax())]
    assert several.keywords["units"].tolist() == routing[0]["chosen"]["pool"].tolist()
    assert torch.equal(single.keywords["head"], defence.network.head.weight)
    assert not single.keywords["head"].requires_grad
    adversary = attacks["feature adversary"].keywords
    assert adversary["layers"] == ("stages.2.0", "pool")
    assert torch.equal(adversary["guides"], guides.float_images())
    assert torch.equal(adversary["guide_labels"], guides.labels)
    wider = Stabilized(defence.network, sensitivity=defence.sensitivity, guides=guides, ratio=0.5)
    assert len(wider.adaptive_attacks(EPS)["routing, gamma 1, eta 0"].keywords["chosen"]["pool"]) == 8
    for attack in attacks.values():
        assert attack.keywords["network"] is defence.network
        assert len(describe(attack)) < 400


def test_only_the_layers_with_a_sensitivity_take_part(defence: Stabilized, guides: Split) -> None:
    alone = Stabilized(defence.network, sensitivity={"pool": defence.sensitivity["pool"]}, guides=guides)
    attacks = alone.adaptive_attacks(EPS)
    assert list(attacks["routing, gamma 1, eta 1"].keywords["chosen"]) == ["pool"]
    assert attacks["feature adversary"].keywords["layers"] == ("pool",)


def test_its_attacks_run_under_the_adaptive_threat_model(defence: Stabilized, digits: Dataset) -> None:
    images, labels, suite = digits.test.float_images()[:24], digits.test.labels[:24], {"PGD": partial(pgd, steps=3)}
    options: dict[str, Any] = {"eps": EPS, "generator": seeded()}
    known = evaluate(
        defence, [*oblivious(defence, {"replayed": suite["PGD"]}), *direct(defence, suite)], images, labels, **options
    )
    attempts = adaptive(defence, suite, eps=EPS, steps=3)
    assert [attempt.name for attempt in attempts] == ["PGD through defence", *defence.adaptive_attacks(EPS)]
    outcome = evaluate(defence, attempts, images, labels, known=known, exhaustive=True, **options)
    assert int(outcome.clean.sum()) > 20
    assert int(outcome.robust.sum()) < int(outcome.clean.sum()) / 2
    for finding in outcome.findings[1:]:  # its own attacks go on for a large margin
        assert int(finding.broken.sum()) > 0, finding.name
        assert finding.forwards > 3 * int(outcome.clean.sum())
    assert bool((outcome.robust <= known.robust).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "waist"}, "SmallResNet has no layer 'waist'; it has stem, "),
        ({"head": "tail"}, "SmallResNet has no layer 'tail'; it has stem, "),
        ({"sensitivity": {"pool": torch.ones(16), "waist": torch.ones(4)}}, "SmallResNet has no layer 'waist'"),
        ({"sensitivity": {"stem": torch.ones(4)}}, "no sensitivity of 'pool'; there is that of stem"),
    ],
    ids=["features", "head", "sensitivity", "features without sensitivity"],
)
def test_layers_that_do_not_fit_are_refused(
    defence: Stabilized, guides: Split, options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"sensitivity": defence.sensitivity, "guides": guides}
    with pytest.raises(ValueError, match=message):
        Stabilized(defence.network, **given | options)
