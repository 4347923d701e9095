"""The whole path on real images: load, train behind a quantiser, attack in three ways, compare. Needs ADVDEF_DATA."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from advdef.attacks import pgd
from advdef.data import load
from advdef.evaluation import accuracy, adaptive, direct, evaluate, oblivious
from advdef.models import LeNet5
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.qusecnets.training import train_quantized
from advdef.training import train_standard

FOLDER = os.environ.get("ADVDEF_DATA")

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.mark.parametrize(
    ("name", "levels", "eps", "expected"),
    [
        pytest.param("mnist", 2, 0.3, 0.85, marks=pytest.mark.thorough),
        pytest.param("fashion_mnist", 4, 0.1, 0.65, marks=pytest.mark.thorough),
        pytest.param("cifar10", 4, 8 / 255, 0.25, marks=pytest.mark.thorough),
    ],
)
def test_a_quantiser_hides_its_gradient_and_an_adaptive_attacker_finds_it(
    name: str, levels: int, eps: float, expected: float
) -> None:
    if not FOLDER or not (Path(FOLDER) / f"{name}.npz").is_file():
        pytest.skip(f"no bundle of {name}: ADVDEF_DATA names no folder that holds {name}.npz")
    data = load(name, root=FOLDER, download=False).subset(train=3_000)
    images, labels = data.test.head(100).float_images(), data.test.labels[:100]
    draws = torch.Generator().manual_seed(0)
    options = {"epochs": 5, "learning_rate": 3e-3, "schedule": "cosine", "generator": draws}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = LeNet5(data.shape, data.num_classes)
        defence = Quantized(LeNet5(data.shape, data.num_classes), Quantizer(levels), undefended=plain)
    train_standard(plain, data.train, **options)
    train_quantized(defence, data.train, scheme="frozen", **options)
    assert accuracy(defence, images, labels).value > expected

    draws = torch.Generator().manual_seed(0)
    suite = {"PGD": partial(pgd, steps=10, random_start=False)}
    attack = partial(evaluate, defence, images=images, labels=labels, eps=eps, generator=draws)
    naive = attack(direct(defence, suite))
    replayed = attack(oblivious(defence, suite))
    knowing = attack(adaptive(defence, suite, eps=eps, steps=10), known=naive)
    assert torch.equal(naive.robust, naive.clean)  # without a gradient nothing moves
    assert knowing.robust.sum() < naive.robust.sum()
    assert knowing.robust.sum() <= replayed.robust.sum()
