"""The attacks that a defence brings, whichever it is: how an evaluation may call them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pytest
import torch
from contract import seeded
from torch import Tensor, nn

import advdef.defenses
import advdef.papers
from advdef.attacks.losses import margin
from advdef.contract import frozen
from advdef.data import Split
from advdef.defenses import Defense
from advdef.norms import rms_normalised
from advdef.papers.nip.bank import DirectionBank
from advdef.papers.nip.baselines import AntiAdversary
from advdef.papers.nip.defence import NIPDictionary, NIPSearch, NIPSelf
from advdef.papers.qusecnets.defence import Quantized, annealed
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.sensitivity.defence import Stabilized
from advdef.papers.snn.classifiers import SmallSpikingResNet
from advdef.papers.snn.defence import GatedPurification, Purification, SpikingClassifier
from advdef.papers.snn.purifier import Purifier
from advdef.papers.trn.defence import Restoration
from advdef.papers.trn.maps import GradientMap
from advdef.papers.trn.models import TwoStreamRestorer

SHAPE, CLASSES, UNITS = (1, 8, 8), 4, 12
EPS = 0.1


def classifier() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, UNITS), nn.ReLU(), nn.Linear(UNITS, CLASSES)).eval()


def images(n: int = 12) -> Tensor:
    return torch.rand(n, *SHAPE, generator=seeded())


def bank() -> DirectionBank:
    directions = rms_normalised(torch.randn(CLASSES, *SHAPE, generator=seeded()))
    none = torch.zeros(CLASSES)
    return DirectionBank("2", torch.ones(CLASSES, UNITS), directions, directions[:, None], none, none + 1)


def stabilized() -> Defense:
    guides = Split((255 * images()).byte(), torch.arange(12) % CLASSES)
    inside = {"2": torch.arange(float(UNITS))}
    return Stabilized(classifier(), sensitivity=inside, guides=guides, features="2", head="3")


def restored() -> Defense:
    model, restorer = frozen(classifier()), TwoStreamRestorer(1, 1, width=4, streams=1, tail=1)
    nn.init.constant_(restorer.out.weight, 0.01)  # untrained it restores nothing
    return Restoration(model, restorer, GradientMap(model))


def spiking() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallSpikingResNet(SHAPE, CLASSES, steps=1, width=2).eval()


BUILD: Mapping[str, Callable[[], Defense]] = {
    "Quantized": lambda: Quantized(classifier(), Quantizer(3)),
    "Stabilized": stabilized,
    "NIPSelf": lambda: NIPSelf(classifier(), step=0.1, layer="2"),
    "NIPDictionary": lambda: NIPDictionary(classifier(), bank(), steps=[0.1], rule="pred"),
    "NIPSearch": lambda: NIPSearch(classifier(), bank(), steps=[0.1]),
    "AntiAdversary": lambda: AntiAdversary(classifier(), step=0.1),
    "Restoration": restored,
    "Purification": lambda: Purification(frozen(classifier()), Purifier(1, width=2, extractor_width=2, steps=1)),
    "SpikingClassifier": lambda: SpikingClassifier(spiking()),
    "GatedPurification": lambda: GatedPurification(
        frozen(classifier()), Purifier(1, width=2, extractor_width=2, steps=1), 0.1
    ),
}
"""One of every class that brings attacks, by its name."""


def every_class(kind: type[Defense] = Defense) -> Iterator[type[Defense]]:
    for known in kind.__subclasses__():
        yield known
        yield from every_class(known)


def test_every_defence_that_brings_attacks_is_here() -> None:
    for package in (advdef.defenses, advdef.papers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    ours = {kind for kind in every_class() if kind.__module__.startswith("advdef.")}
    bringing = {kind.__name__ for kind in ours if kind.adaptive_attacks is not Defense.adaptive_attacks}
    assert bringing - {"AddedOffset"} == set(BUILD)  # which is abstract
    for name, build in BUILD.items():
        assert type(build()).__name__ == name


@pytest.mark.parametrize("name", BUILD)
def test_each_attack_takes_steps_and_restarts(name: str) -> None:
    defence, points = BUILD[name](), images()
    with torch.no_grad():
        labels = defence(points).argmax(1)
    suite = defence.adaptive_attacks(EPS)
    assert suite
    for title, attack in suite.items():
        for restarts in (1, 3):
            again = partial(attack, steps=2, restarts=restarts)
            found = again(defence, points, labels, eps=EPS, generator=seeded())
            assert float((found - points).abs().max()) <= EPS + 1e-6, title
            assert torch.equal(found, again(defence, points, labels, eps=EPS, generator=seeded())), title
        with pytest.raises(ValueError, match="restarts"):
            attack(defence, points, labels, eps=EPS, restarts=0, generator=seeded())


def test_hardening_again_breaks_more_and_loses_nothing() -> None:
    defence, points = Quantized(classifier(), Quantizer(6)), images(200)
    with torch.no_grad():
        labels = defence(points).argmax(1)
    left = []
    for restarts in (1, 8):
        found = annealed(defence, points, labels, eps=0.15, steps=4, restarts=restarts, generator=seeded())
        left.append(margin(defence(found), labels) <= 0)
    assert not bool((left[1] & ~left[0]).any())
    assert int(left[1].sum()) < int(left[0].sum())
