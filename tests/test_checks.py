"""Each check fires on a defence that is broken on purpose, and passes on an honest one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from advdef import checks
from advdef.attacks import bim, cleverhans
from advdef.defenses import Defense, Quantized, Quantizer, Undefended
from advdef.evaluation import Attempt, direct, evaluate, oblivious

Batch = tuple[Tensor, Tensor]


class Wrapped(Undefended):
    """A classifier whose logits pass through a function."""

    def __init__(self, classifier: nn.Module, change: object) -> None:
        super().__init__(classifier)
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.classifier(images))  # type: ignore[operator, no-any-return]


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def honest(network: nn.Module) -> Defense:
    return Undefended(network)


@pytest.fixture
def masked(network: nn.Module) -> Defense:
    """A hard quantiser: no gradient at all."""
    return Quantized(network, Quantizer(4), undefended=network).eval()


def test_randomness_fires(honest: Defense, network: nn.Module, batch: Batch) -> None:
    noisy = Wrapped(network, lambda logits: logits + torch.randn_like(logits))
    assert checks.deterministic(honest, batch[0]).status == "pass"
    assert checks.deterministic(noisy, batch[0]).status == "fire"


def test_probabilities_fire(honest: Defense, network: nn.Module, batch: Batch) -> None:
    assert checks.gives_logits(honest, batch[0]).status == "pass"
    assert checks.gives_logits(Wrapped(network, lambda z: z.softmax(1)), batch[0]).status == "fire"


def test_a_missing_or_saturated_gradient_fires(
    honest: Defense, masked: Defense, network: nn.Module, batch: Batch
) -> None:
    assert checks.nonzero_gradient(honest, *batch).status == "pass"
    assert "100 % (ce)" in checks.nonzero_gradient(masked, *batch).detail
    saturated = checks.nonzero_gradient(Wrapped(network, lambda z: 1e4 * z), *batch)
    assert saturated.status == "fire"
    assert "0 % (margin)" in saturated.detail  # the margin still has a gradient: that is the diagnosis
    assert checks.nonzero_gradient(Wrapped(network, lambda z: z.detach()), *batch).status == "fire"


def test_one_step_better_than_many_fires(honest: Defense, batch: Batch) -> None:
    images, labels = batch
    sound = evaluate(honest, direct(honest, cleverhans()), images, labels, eps=0.1, generator=draws(), exhaustive=True)
    assert checks.beats_one_step(sound).status == "pass"
    weak = [
        Attempt("FGSM", cleverhans()["FGSM"], honest),
        Attempt("PGD", partial(bim, steps=1, step_size=1e-6), honest),
    ]
    unsound = evaluate(honest, weak, images, labels, eps=0.1, generator=draws(), exhaustive=True)
    assert checks.beats_one_step(unsound).status == "fire"


def test_an_unbounded_attack_that_fails_fires(honest: Defense, masked: Defense, batch: Batch) -> None:
    assert checks.unbounded_attack_wins(honest, *batch, classes=10, generator=draws()).status == "pass"
    detached = Wrapped(honest.classifier, lambda z: z.detach())
    assert checks.unbounded_attack_wins(detached, *batch, classes=10, generator=draws()).status == "fire"


def test_the_row_shows_that_a_hard_quantiser_masks_and_a_plain_network_does_not(
    honest: Defense, masked: Defense, batch: Batch
) -> None:
    images, labels = batch
    fired = {}
    for name, defence in [("honest", honest), ("masked", masked)]:
        attack = partial(evaluate, defence, images=images, labels=labels, eps=0.2, generator=draws(), exhaustive=True)
        naive = attack(direct(defence, cleverhans()))
        row = checks.masking_checks(
            defence, images, labels, classes=10, single=naive, direct=naive,
            oblivious=attack(oblivious(defence, cleverhans())), generator=draws(),
        )  # fmt: skip
        assert [check.id for check in row] == ["B2", "B3", "B5", "C1", "C6", "C7", "C9"]
        fired[name] = {check.id for check in row if check.status == "fire"}
    assert fired["honest"] == set()
    assert {"B5", "C7", "C9"} <= fired["masked"]
