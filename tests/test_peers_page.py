"""What the page on other libraries compares attacks on, what searches find, and how it is told."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.attacks import fgsm
from advdef.evaluation import correct
from advdef.models import CleverhansCNN
from advdef.peers import tables
from advdef.peers.agreement import Comparison
from advdef.peers.closest import ClosestFound, search_closest
from advdef.peers.subjects import linear_subject, subject_network


def test_networks_fit_images_of_several_sizes() -> None:
    assert isinstance(subject_network((1, 28, 28), 10), CleverhansCNN)
    for shape in ((1, 10, 10), (1, 28, 28), (3, 32, 32), (1, 9, 11), (3, 48, 40)):
        small = subject_network(shape, 5, small=True)
        assert small(torch.zeros(2, *shape)).shape == (2, 5)


def test_a_linear_classifier_falls_at_its_distance() -> None:
    linear, by_norm = linear_subject(seeded())
    assert set(by_norm) == {"Linf", "L2"}
    for norm, (images, labels, distance) in by_norm.items():
        assert len(images) > 20
        assert correct(linear, images, labels).all()
        for factor, right in ((0.99, True), (1.01, False)):
            moved = fgsm(linear, images, labels, eps=factor * distance, norm=norm)
            assert bool((correct(linear, moved, labels) == right).all())


class Bright(nn.Module):
    """Tells images whose first pixel is bright."""

    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1)[:, 0]
        return torch.stack([0.5 - first, first - 0.5], 1)


def pushes(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    assert math.isinf(eps)
    moved = images.clone()
    moved[0, 0, 0, 0] = 0.6
    return moved


def missing(*given: Any, **options: Any) -> Tensor:
    raise ImportError("not here")


def test_a_search_is_told_by_what_it_broke() -> None:
    images = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.2, 0.0, 0.0, 0.0]]).reshape(2, 1, 2, 2)
    found = search_closest(pushes, Bright(), images, torch.zeros(2, dtype=torch.long), generator=seeded())
    assert found is not None
    assert found.broken.tolist() == [True, False]
    assert found.share == 0.5
    assert found.l2 == pytest.approx(0.6)
    assert found.stirred == pytest.approx(1 / 3)  # of the two black pixels and the white one of the first image
    assert list(tables.closest_row(found).values()) == ["50.0", "0.60", "33.3"]


def test_a_search_that_finds_nothing_has_no_size() -> None:
    images, labels = torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    found = search_closest(lambda model, x, y, **options: x, Bright(), images, labels, generator=seeded())
    assert found is not None
    assert found.share == 0
    assert math.isnan(found.l2)
    assert search_closest(missing, Bright(), images, labels, generator=seeded()) is None
    assert tables.closest_row(None) == {"broken %": "not installed here"}


def test_a_comparison_is_a_row() -> None:
    ours, theirs = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, True])
    both = Comparison("PGD", "Linf", 2 / 255, "foolbox", "3.3", ours, theirs, 0.5, 1.0, "same start")
    row = tables.comparison_row(both)
    assert row == {
        "attack": "PGD", "eps": "2/255 Linf", "peer": "foolbox", "ours %": "50.0", "peer %": "75.0",
        "difference": "-25.0", "only ours / peer": "2 / 1", "time ratio": "2.0", "note": "same start",
    }  # fmt: skip
    assert tables.comparison_row(replace(both, seconds=0.1))["time ratio"] == "–"
    assert tables.comparison_row(replace(both, norm="L2", eps=1.25))["eps"] == "1.25 L2"
    alone = tables.comparison_row(replace(both, theirs=None, their_seconds=None))
    assert alone["note"] == "peer not installed here"
    assert "peer %" not in alone


def test_a_found_share_is_of_all_images() -> None:
    assert ClosestFound(torch.tensor([True, False, False, True]), 1.0, 0.0).share == 0.5
