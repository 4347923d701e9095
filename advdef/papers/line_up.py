"""The defences of all papers around classifiers of one kind, trained with one budget: what the comparison judges."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from advdef.attacks import pgd
from advdef.contract import frozen
from advdef.data import Dataset, Split
from advdef.defenses import Defense, Undefended
from advdef.evaluation import correct
from advdef.papers.nip.bank import fit_bank
from advdef.papers.nip.defence import NIPDictionary
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.qusecnets.training import train_quantized
from advdef.papers.sensitivity.defence import Stabilized
from advdef.papers.sensitivity.measure import make_pairs, sensitivity
from advdef.papers.sensitivity.training import train_sns
from advdef.papers.snn.defence import Purification
from advdef.papers.snn.purifier import Purifier
from advdef.papers.snn.surrogates import REDUCED
from advdef.papers.snn.training import train_purifier
from advdef.papers.trn.defence import Restoration
from advdef.papers.trn.maps import GradientMap
from advdef.papers.trn.models import SIZES, TwoStreamRestorer
from advdef.papers.trn.training import train_restorer
from advdef.training import Recipe, Training, train_at, train_standard, trained

__all__ = ["LineUp", "fitted_dictionary", "fitted_purifier", "fitted_restorer", "line_up"]

_RESTORER_RATES = {"XS": 8e-3, "S": 3e-3, "B": 5e-4}
_COSTS_A_POINT = 0.01
_STANDS_ON_THE_CLASSIFIER = ("NIP", "TRN", "purifier")


@dataclass(frozen=True)
class LineUp:
    """The defences of the comparison.

    Attributes:
        defences: The defences by name, the undefended classifier and adversarial training among them.
        classifier: The undefended classifier, frozen.
        step: The step that was chosen for NIP, root mean square in [0, 1].
        seconds: How long each took to train or to fit, what it stands on included.
        further: What a defence adds to a classifier, where that has weights.
    """

    defences: dict[str, Defense]
    classifier: nn.Module
    step: float
    seconds: dict[str, float]
    further: dict[str, nn.Module]


def line_up(
    network: Callable[[], nn.Module], data: Dataset, probe: Split, *, eps: float,
    train: Sequence[int | None], epochs: Sequence[int], inner: int, per_class: int, size: Literal["XS", "S", "B"],
    purifier: Sequence[int], derivatives: int, seed: int, generator: torch.Generator,
) -> LineUp:  # fmt: skip
    """Train and fit all defences.

    Args:
        network: Builds a classifier with taps.
        data: What all are trained on.
        probe: Training images (N, C, H, W) in [0, 1] by which NIP's step and SNS's neurons are chosen.
        eps: The budget in Linf that adversarial training and SNS are trained for, and the largest that restorer and
            purifier see.
        train: How many training images classifiers, restorer and purifier get; None are all.
        epochs: Their epochs.
        inner: Steps of the attack in adversarial training.
        per_class: Images of a class from which NIP learns.
        size: The restorer's.
        purifier: Width, width of the extractor, and time steps of the purifier.
        derivatives: How many stand-ins for the derivative of a spike the purifier's attackers try.
        seed: The seed of all trainings.
        generator: Draws of the attack that finds sensitive neurons.
    """
    colour = data.shape[0] == 3
    fewer, restored, purified = (data.subset(train=min(n or len(data.train), len(data.train))) for n in train)
    budget: dict[str, Any] = {"epochs": epochs[0], "learning_rate": 2e-3, "schedule": "one_cycle"}
    budget |= {"shift": 2, "flip": True} if colour else {}
    attacked = {"eps": eps, "steps": inner, "step_size": 1 / inner + 0.1}

    def fit(build: Callable[[], nn.Module], function: Callable[..., Any], **settings: Any) -> Training:
        return trained(build, function, fewer, seed=seed, **budget, **settings)

    done = {
        "undefended": fit(network, train_standard),
        "AT": fit(network, train_at, **attacked),
        "SNS": fit(network, train_sns, **attacked, ramp=2, probe=200, probe_steps=3),
    }
    plain = frozen(done["undefended"].model)
    levels = 4 if colour else 2
    done["TQ"] = fit(lambda: Quantized(network(), Quantizer(levels, trainable=True)), train_quantized)
    done["TRN"] = fitted_restorer(plain, restored, eps=eps, size=size, epochs=epochs[1], seed=seed)
    done["purifier"] = fitted_purifier(plain, purified, purifier, eps=eps, epochs=epochs[2], seed=seed)

    started = time.perf_counter()
    nip = fitted_dictionary(plain, data.train, probe, per_class=per_class, scale=1 if colour else 4)
    seconds = {name: training.seconds for name, training in done.items()} | {"NIP": time.perf_counter() - started}
    for name in _STANDS_ON_THE_CLASSIFIER:
        seconds[name] += seconds["undefended"]

    models: dict[str, Any] = {name: training.model.eval() for name, training in done.items()}
    sns, at, tq = models["SNS"], models["AT"], models["TQ"]
    images = probe.float_images()
    pairs = make_pairs(sns, images, probe.labels, partial(pgd, steps=10), eps=eps, generator=generator)
    tq.undefended = plain
    through = dict(list(REDUCED.items())[:derivatives])
    defences: dict[str, Defense] = {
        "undefended": Undefended(plain),
        "AT": Undefended(at, twin=plain),
        "TQ": tq,
        "SNS": Stabilized(
            sns, sensitivity=sensitivity(sns, pairs), guides=probe, twin=plain, features=list(sns.taps)[-1]
        ),
        "NIP": nip,
        "TRN": Restoration(plain, models["TRN"], GradientMap(plain)),
        "purifier": Purification(plain, models["purifier"], derivatives=through),
    }
    further = {"TQ": tq.quantizer, "TRN": models["TRN"], "purifier": models["purifier"]}
    return LineUp(defences, plain, nip.steps[0], seconds, further)


def fitted_restorer(
    classifier: nn.Module, data: Dataset, *, eps: float, size: Literal["XS", "S", "B"], epochs: int, seed: int
) -> Training:
    """TRN's restorer for a frozen classifier with taps, trained on attacks of up to ``eps`` in Linf."""
    channels, widths = data.shape[0], dict[str, Any](SIZES[size])
    return trained(
        partial(TwoStreamRestorer, channels, channels, **widths), train_restorer, data, seed=seed,
        classifier=classifier, maps=GradientMap(classifier),
        recipe=Recipe(eps=tuple(eps * share for share in (0.25, 0.5, 0.75, 1.0)), attacks=("FGSM", "PGD-10")),
        epochs=epochs, learning_rate=_RESTORER_RATES[size],
    )  # fmt: skip


def fitted_purifier(
    classifier: nn.Module, data: Dataset, shape: Sequence[int], *, eps: float, epochs: int, seed: int
) -> Training:
    """The purifier for a frozen classifier; ``shape`` is its width, the extractor's width, and the time steps."""
    width, extractor, steps = shape
    recipe = Recipe(eps=tuple(eps * share for share in (0.5, 1.0, 1.5)), attacks=("FGSM",), clean=0.5, noise=0.0)
    return trained(
        partial(Purifier, data.shape[0], width=width, extractor_width=extractor, steps=steps), train_purifier, data,
        seed=seed, classifier=classifier, recipe=recipe, epochs=epochs, batch_size=32,
        learning_rate=1e-2 if width < 10 else 1e-3,
    )  # fmt: skip


def fitted_dictionary(
    classifier: nn.Module, train: Split, probe: Split, *, per_class: int, scale: int
) -> NIPDictionary:
    """NIP with the largest step of six that costs at most a point on the probe, else with the smallest."""
    bank = fit_bank(classifier, train, per_class=per_class, kept=2)
    images, labels = probe.float_images(), probe.labels

    def accuracy(model: nn.Module) -> float:
        return correct(model, images, labels).double().mean().item()

    allowed = accuracy(classifier) - _COSTS_A_POINT
    steps = [scale * step for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)]
    made = [NIPDictionary(classifier, bank, steps=(step,), rule="mean-logit") for step in steps]
    return next((nip for nip in reversed(made) if accuracy(nip) >= allowed), made[0])
