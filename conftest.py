"""The examples in docstrings draw the same random numbers in every run, as their networks are made at random."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded_examples(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        torch.manual_seed(0)
