"""The trace of an attack: what the model said at each point, whoever attacks and however it splits the batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from attack_table import ATTACKS
from contract import net, random_batch, seeded
from torch import Tensor, nn

from advdef.attacks import Trace, each_class, fgsm, pgd, square, traced
from advdef.attacks.losses import LOSSES, margin
from advdef.attacks.suites import Attack
from advdef.draws import fresh_seed
from advdef.norms import Norm, size

EPS = 0.2


def by_hand(attack: Attack, images: Tensor, labels: Tensor, norm: Norm = "Linf") -> Trace:
    """One image after the other, with a model that keeps what it is asked about."""
    seed = fresh_seed(seeded())
    columns, found = [], []
    for row in range(len(images)):
        asked: list[Tensor] = []

        class Keeping(nn.Module):
            def __init__(self, network: nn.Module, asked: list[Tensor]) -> None:
                super().__init__()
                self.network, self.asked = network, asked

            def forward(self, points: Tensor) -> Tensor:
                self.asked.append(points.detach())
                logits: Tensor = self.network(points)
                return logits

        one, label = images[row : row + 1], labels[row : row + 1]
        draws = torch.Generator().manual_seed(seed)
        found.append(attack(Keeping(net(), asked).eval(), one, label, eps=EPS, generator=draws))
        points = torch.cat(asked)
        logits, same = net()(points).detach(), label.expand(len(points))
        columns.append((LOSSES["ce"](logits, same), margin(logits, same), size(points - one, norm)))
    pad = partial(nn.utils.rnn.pad_sequence, padding_value=torch.nan)
    loss, lead, far = (pad(list(column)) for column in zip(*columns, strict=True))
    return Trace(loss, lead, far, torch.cat(found))


@pytest.mark.parametrize(
    "attack",
    [
        partial(pgd, steps=7),
        partial(pgd, steps=7, stop_early=True, restarts=3),
        partial(each_class, attack=partial(pgd, steps=3), classes=2, stop_early=True),
        partial(square, queries=12),
        partial(fgsm, norm="L2"),
    ],
)
def test_it_is_what_each_image_goes_through(attack: Attack) -> None:
    images, labels = random_batch()
    norm: Norm = attack.keywords.get("norm", "Linf")
    found = traced(attack, net(), images, labels, eps=EPS, generator=seeded())
    expected = by_hand(attack, images, labels, norm)
    for name in ("loss", "margin", "size", "adversarial"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5, equal_nan=True), name
    assert float(found.size.nan_to_num().max()) <= EPS + 1e-6
    assert float(found.size[0].max()) == 0.0  # all begin by asking about the image


ASKING = [name for name, row in ATTACKS.items() if row.by_itself and not row.library and name != "level space"]


@pytest.mark.parametrize("name", ASKING)  # level space asks the network behind its quantiser, about levels
def test_every_attack_that_asks_the_model_has_a_trace(name: str) -> None:
    images, labels = random_batch(3)
    model = net()
    found = traced(partial(ATTACKS[name].attack), model, images, labels, eps=ATTACKS[name].eps, generator=seeded())
    assert len(found.loss) > 1
    assert found.margin.shape == found.loss.shape == found.size.shape
    reached = found.margin.nan_to_num(-torch.inf).amax(0)
    assert bool((margin(model(found.adversarial), labels) <= reached + 1e-5).all())  # it has seen what it returns


def test_the_model_and_the_generator_are_as_before() -> None:
    images, labels = random_batch()
    model, draws = net(), seeded()
    traced(partial(pgd, steps=3, stop_early=True), model, images, labels, eps=EPS, generator=draws)
    assert not model._forward_hooks
    expected = seeded()
    fresh_seed(expected)
    assert torch.equal(draws.get_state(), expected.get_state())

    def failing(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        traced(partial(failing), model, images, labels, eps=EPS)
    assert not model._forward_hooks


def test_an_attack_on_something_else_is_refused() -> None:
    images, labels = random_batch()

    def elsewhere(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        return fgsm(net(), images, labels, **options)

    with pytest.raises(ValueError, match="never asks this model"):
        traced(partial(elsewhere), net(), images, labels, eps=EPS)
