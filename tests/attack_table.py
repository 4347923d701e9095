"""Every public attack with a configuration or two, and what the contract must know of each: one row is one attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from contract import Moved, Shape, seeded, tiny
from torch import Tensor, nn

from advdef.attacks import (
    apgd,
    autoattack,
    bim,
    boundary,
    carlini_wagner,
    ddn,
    deepfool,
    each_class,
    ead,
    fab,
    ffgsm,
    fgsm,
    hop_skip_jump,
    jsma,
    mim,
    minimal,
    pgd,
    pointwise,
    rfgsm,
    sa_pgd,
    single_pixel,
    spsa,
    square,
    straight_through,
    uniform_noise,
    universal,
    warm_started,
)
from advdef.contract import ask
from advdef.norms import Norm
from advdef.papers.nip.attacks import candidates, precompensated, two_conditions
from advdef.papers.qusecnets.attacks import level_space
from advdef.papers.qusecnets.defence import Quantized, annealed
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.sensitivity.attacks import feature_adversary, feature_routing, neuron_targeted
from advdef.papers.snn.attacks import both_branches, in_turn, unnoticed
from advdef.papers.trn.attacks import decoy

Attack = Callable[..., Tensor]

MUCH: Mapping[Norm, float] = {"Linf": 1.0, "L2": 4.0, "L1": 18.0, "L0": 9.0}
"""A budget that allows nearly everything, for images of (2, 3, 3)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An attack but for its eps, and where it differs from the others."""

    attack: Attack
    norm: Norm = "Linf"
    draws: bool | None = True  # another seed finds something else; None: it may
    follows: bool = True  # a gradient
    by_itself: bool = True  # what becomes of an image does not depend on its batch
    each_eps: bool = True  # every image may have its own
    unbounded: bool = False  # an infinite eps means something
    never_worse: bool = True  # for the attacker, on the model that it is given
    library: str = ""
    deployed: bool = False  # takes a ``network`` of its own, and the model only judges
    shape: Shape = (2, 3, 3)

    def __call__(self, *batch: Any, **options: Any) -> Tensor:
        return self.attack(*batch, **options)

    @property
    def eps(self) -> float:
        """A budget that breaks most images of the tiny network, or nearly."""
        return {"Linf": 0.2, "L2": 0.6, "L1": 6.0, "L0": 4.0}[self.norm]


# Attacks that were made for a defence, with the signature of the others


QUANTIZER = Quantizer(4)


def beside(images: Tensor, module: nn.Module) -> nn.Module:
    """A copy where the images are, with weights that gradients pass in every mode."""
    with torch.inference_mode(False):
        return deepcopy(module).to(images.device)


def level_spaced(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Behind a quantiser of four levels."""
    quantizer = beside(images, QUANTIZER)
    given = {"network": model, "quantizer": quantizer, "steps": 6, "repairs": 3}
    return level_space(Quantized(model, quantizer), images, labels, **{**given, **options})


def hardened(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Behind the same."""
    return annealed(Quantized(model, beside(images, QUANTIZER)), images, labels, steps=8, **options)


OFFSETS = 0.1 * torch.randn(3, 2, 3, 3, generator=seeded(5))
PER_CLASS = 0.1 * torch.randn(4, 2, 3, 3, generator=seeded(6))
OFFSET = 0.1 * torch.randn(2, 3, 3, generator=seeded(6))


def looked_up(points: Tensor, classes: Tensor) -> Tensor:
    return PER_CLASS.to(points)[classes]


def apart(one: nn.Module, other: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: (ask(one, images).softmax(1) - ask(other, images).softmax(1)).abs().amax(1)


def added(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return candidates(model, images, labels, **{"network": model, "offsets": OFFSETS, "steps": 6, **options})


def both(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return two_conditions(model, images, labels, **{"network": model, "offset": looked_up, "steps": 5, **options})


def taken_off(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return precompensated(model, images, labels, **{"network": model, "offset": looked_up, "steps": 5, **options})


def led(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    network = options.get("network", model)
    given = {"network": network, "through": Moved(PER_CLASS[0], network), "weight": 0.5, "lead": 0.03, "steps": 6}
    return decoy(model, images, labels, **{**given, **options})


def branched(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    network = options.pop("network", model)
    given = {"branches": (network, Moved(OFFSET, network)), "steps": 6}
    return both_branches(model, images, labels, **{**given, **options})


def turning(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    stand_ins = (model, straight_through(model, Moved(OFFSET, model)))
    return in_turn(model, images, labels, **{"networks": stand_ins, "steps": 5, **options})


def quiet(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    network = options.get("network", model)
    distance = apart(network, Moved(OFFSET, network))
    given = {"network": network, "distance": distance, "threshold": 0.02, "weight": 3.0, "steps": 6}
    return unnoticed(model, images, labels, **{**given, **options})


def shortened(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """AutoAttack with few steps in each of its four attacks; how strong it is, is asked in test_adapters."""
    from pyautoattack import AutoAttack

    whole = AutoAttack.run_standard_evaluation

    def few(attack: Any, *batch: Tensor, **more: Any) -> Any:
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = 10
        attack.apgd.n_restarts, attack.square.n_queries = 2, 20
        return whole(attack, *batch, **more)

    with patch.object(AutoAttack, "run_standard_evaluation", few):
        return autoattack(model, images, labels, **options)


CHOSEN = {"0": torch.tensor([1]), "3": torch.arange(5)}
UNITS = torch.tensor([0, 3, 7])
GUIDES = {"guides": torch.rand(8, 2, 3, 3, generator=seeded(9)), "guide_labels": torch.arange(8) % 4}


def routing(model: nn.Sequential, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return feature_routing(model, images, labels, **{"chosen": CHOSEN, "eta": 0.5, "steps": 6, **options})


def neurons(model: nn.Sequential, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    given = {"layer": "3", "head": model[5].weight, "units": UNITS, "classes": 2, "steps": 4}
    return neuron_targeted(model, images, labels, **{**given, **options})


def adversary(model: nn.Sequential, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    given = {"layers": ["0", "3"], "steps": 5, "restarts": 2, **GUIDES}
    return feature_adversary(model, images, labels, **{**given, **options})


SOURCES = {dtype: tiny(5).to(dtype) for dtype in (torch.float32, torch.float64)}


def begun(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    attack: Attack = pgd,
    first: Attack = partial(pgd, steps=2),  # noqa: B008
    generator: torch.Generator | None = None,
    **options: Any,
) -> Tensor:
    """Four more steps on the model, with the options, after two on another one."""
    return warm_started(
        model, images, labels, eps=eps, source=beside(images, SOURCES[images.dtype]), first=first,
        attack=partial(attack, steps=4, **options), generator=generator,
    )  # fmt: skip


# The table

SEARCH: Mapping[str, Any] = {"steps": 10, "binary_search_steps": 5, "step_size": 0.1}
_foolbox = partial(Row, library="foolbox", unbounded=True)
_by_decisions = partial(_foolbox, follows=False, by_itself=False)
_pyautoattack = partial(Row, library="pyautoattack", each_eps=False)
_deployed = partial(Row, deployed=True)

ATTACKS: Mapping[str, Row] = {
    "fgsm": Row(attack=fgsm, draws=False),
    "ffgsm": Row(attack=ffgsm),
    "rfgsm": Row(attack=rfgsm),
    "bim": Row(attack=partial(bim, stop_early=True), draws=False),
    "mim": Row(attack=mim, draws=False),
    "pgd": Row(attack=partial(pgd, steps=4, restarts=2, loss="margin")),
    "pgd in L2": Row(attack=partial(pgd, norm="L2", steps=5), norm="L2"),
    "apgd": Row(attack=partial(apgd, steps=5, restarts=2, stop_early=True, loss="dlr")),
    "apgd in L2": Row(attack=partial(apgd, norm="L2", steps=10, loss="margin"), norm="L2"),
    "sa pgd": Row(attack=partial(sa_pgd, steps=5, restarts=2, stop_early=True, loss="margin")),
    "each class": Row(attack=partial(each_class, attack=partial(apgd, steps=5, loss="dlr"), classes=2)),
    "each class, nearest first": Row(
        attack=partial(each_class, attack=partial(pgd, steps=3), classes=1, order="malt", stop_early=True)
    ),
    "minimal": Row(attack=partial(minimal, attack=partial(pgd, steps=3, stop_early=True), trials=5), unbounded=True),
    "minimal, upwards": Row(
        attack=partial(minimal, attack=partial(bim, steps=3, step_size=0.5, norm="L2"), search="upwards", trials=5),
        norm="L2", draws=False, unbounded=True,
    ),
    "minimal, outwards": Row(
        attack=partial(minimal, attack=partial(pgd, steps=3, stop_early=True), search="outwards", trials=5),
        unbounded=True,
    ),
    "warm started": Row(attack=partial(begun, restarts=2, stop_early=True)),
    "uniform noise": Row(attack=partial(uniform_noise, draws=20), follows=False),
    "uniform noise in L2, early": Row(
        attack=partial(uniform_noise, draws=20, norm="L2", stop_early=True), norm="L2", follows=False
    ),
    "jsma": Row(attack=jsma, norm="L0", draws=False, unbounded=True),
    "single pixel": Row(attack=partial(single_pixel, pixels=3), norm="L0", follows=False, unbounded=True),
    "spsa": Row(attack=partial(spsa, steps=4, samples=8, restarts=2, stop_early=True), follows=False),
    "universal": Row(
        attack=partial(universal, steps=5), draws=False, by_itself=False, each_eps=False, never_worse=False
    ),
    # libraries
    "carlini wagner": _foolbox(attack=partial(carlini_wagner, **SEARCH), norm="L2", draws=False),
    "ead": _foolbox(attack=partial(ead, **SEARCH), norm="L1", draws=False),
    "deepfool": _foolbox(attack=partial(deepfool, candidates=3), norm="L2", draws=False),
    "ddn": _foolbox(attack=partial(ddn, steps=20), norm="L2", draws=False),
    "boundary": _by_decisions(attack=partial(boundary, steps=20), norm="L2"),
    "hop skip jump": _by_decisions(attack=partial(hop_skip_jump, norm="Linf", steps=2, first_evaluations=10)),
    "pointwise": _by_decisions(attack=pointwise, norm="L0"),
    "square": _pyautoattack(attack=partial(square, queries=20), follows=False),
    "square in L2": _pyautoattack(
        attack=partial(square, norm="L2", queries=20), norm="L2", follows=False, shape=(2, 5, 5)
    ),
    "fab": _pyautoattack(attack=partial(fab, steps=5), draws=None, unbounded=True),
    "autoattack": _pyautoattack(attack=shortened, by_itself=False),
    # made for a defence
    "annealed": Row(attack=hardened, never_worse=False, follows=False),
    "level space": Row(attack=level_spaced, draws=None, never_worse=False),
    "candidates": _deployed(attack=partial(added, loss="worst", sampled=2, restarts=2, stop_early=True)),
    "candidates in L2": _deployed(attack=partial(added, norm="L2", loss="agree"), norm="L2"),
    "two conditions": _deployed(attack=partial(both, restarts=2, stop_early=True)),
    "precompensated": _deployed(attack=taken_off),
    "decoy": _deployed(attack=led),
    "in turn": Row(attack=turning),
    "both branches": _deployed(attack=branched),
    "unnoticed": _deployed(attack=quiet),
    "routing in L2": Row(attack=partial(routing, norm="L2", restarts=2, stop_early=True), norm="L2"),
    "neurons": Row(attack=neurons),
    "adversary": Row(attack=partial(adversary, random_start=True)),
}  # fmt: skip
