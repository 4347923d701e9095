"""The line-up of the page that compares all defences."""

from pathlib import Path

import pytest
import torch

from advdef.data import load
from advdef.papers.comparison import FiveDefences
from advdef.papers.line_up import LineUp
from advdef.training import Training


def untrained(study: LineUp, name: str) -> Training:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Training(study.network().eval(), {}, 0.0, from_cache=False)


def test_what_was_measured_comes_back_in_the_order_of_the_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SNS attacks the last layer but one, and a file of tensors keeps no order."""
    monkeypatch.setattr(LineUp, "training", untrained)
    data = load("digits")
    made, stored = (LineUp(data, FiveDefences.profiles["smoke"], resume=tmp_path) for _ in range(2))
    first, second = (dict(vars(study.defence("SNS"))["sensitivity"]) for study in (made, stored))
    assert stored.fitted("SNS").from_store
    assert list(first) == list(second) != sorted(first)
    assert all(torch.equal(first[layer], second[layer]) for layer in first)
