"""The bar of an evaluation, where the standard error is a log and no terminal."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from advdef.attacks import fgsm
from advdef.defenses import Undefended
from advdef.evaluation import direct, evaluate, progress


@pytest.mark.parametrize(("seconds", "told"), [(30.0, False), (0.0, True)])
def test_a_log_hears_nothing_until_its_time_has_come(
    seconds: float, told: bool, network: nn.Module, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(progress, "_LOG_SECONDS", seconds)
    defence = Undefended(network)
    attempts = direct(defence, {"FGSM": partial(fgsm)})
    evaluate(
        defence, attempts, batch[0][:8], batch[1][:8], eps=0.1, generator=torch.Generator().manual_seed(0),
        progress=True,
    )  # fmt: skip
    assert ("FGSM" in capsys.readouterr().err) is told
