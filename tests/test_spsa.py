"""SPSA: what differences estimate is the gradient, and they see over the borders of cells in which there is none."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from contract import random_batch, seeded, tiny
from torch import Tensor, nn

from advdef.attacks import fgsm, pgd, spsa
from advdef.contract import NoGradientWarning
from advdef.evaluation import correct


class Cells(nn.Module):
    """A network that sees pixels rounded down to multiples of a fifth."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((5 * images).floor() / 5)
        return logits


def left(model: nn.Module, found: Tensor, labels: Tensor) -> int:
    return int(correct(model, found, labels).sum())


def test_one_step_goes_where_the_gradient_of_a_linear_model_points() -> None:
    layer = nn.Linear(18, 3)
    net = nn.Sequential(nn.Flatten(), layer)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 18, generator=seeded()))
    images = 0.3 + 0.4 * torch.rand(6, 2, 3, 3, generator=seeded(1))
    labels = net(images).argmax(1)
    exact = (fgsm(net, images, labels, eps=0.1) - images).flatten(1)
    shares = []
    for samples in (1, 64, 1024):
        moved = spsa(
            net, images, labels, eps=1e-6, steps=1, step_size=1.0, samples=samples, loss="ce", generator=seeded()
        )
        shares.append(F.cosine_similarity((moved - images).flatten(1).sign(), exact.sign()).mean())
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.9


def test_it_breaks_a_model_without_a_gradient_where_its_reach_crosses_cells() -> None:
    network, (images, _) = tiny(28), random_batch(40)
    model = Cells(network).eval()
    labels = model(images).argmax(1)
    attack = partial(spsa, model, images, labels, eps=0.25, steps=15, generator=seeded())
    with pytest.warns(NoGradientWarning):
        blind = pgd(model, images, labels, eps=0.25, random_start=False)
    assert left(model, blind, labels) == 40
    far, near = (left(model, attack(reach=reach), labels) for reach in (0.1, 1e-4))
    assert far < 10
    assert far < near


@pytest.mark.parametrize(("option", "value"), [("samples", 0), ("reach", 0.0), ("reach", float("inf")), ("steps", 0)])
def test_settings_that_make_no_sense_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        spsa(tiny(), *random_batch(), eps=0.1, **{option: value})  # type: ignore[arg-type]


def test_it_asks_as_often_as_it_says() -> None:
    asked, model = [], tiny(28)
    handle = model.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    spsa(model, *random_batch(6), eps=0.05, steps=3, samples=4, generator=seeded())
    handle.remove()
    assert sum(asked) == 6 * (1 + 3 * (2 * 4 + 1) + 1)  # clean, each step, and the last point
