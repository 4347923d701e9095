"""What the judge lets pass, and what belongs to the key of what it kept."""

from __future__ import annotations

import pytest
import torch

from advdef.evaluation import UnsoundAttack, check_sound
from advdef.norms import Norm
from advdef.store import environment


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("Linf", 1.0), ("L2", 0.5), ("L2", 20.0), ("L1", 300.0)])
def test_a_budget_is_kept_up_to_rounding(norm: Norm, eps: float) -> None:
    images = torch.zeros(1, 1, 28, 28)
    share = {"Linf": 1.0, "L2": 1 / 28, "L1": 1 / 784}[norm] * eps  # of each pixel
    check_sound("it", images, images + share, eps=eps, norm=norm)
    # float32 has a relative rounding of 1e-7: a millionth of the budget is rounding, ten of them are not
    check_sound("it", images, images + min(1.0, share * (1 + 5e-7)), eps=eps, norm=norm)
    if eps < 1 or norm != "Linf":
        with pytest.raises(UnsoundAttack, match=r"it moved .* \(eps "):
            check_sound("it", images, images + share * (1 + 1e-5) + 1e-6, eps=eps, norm=norm)


@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: torch.use_deterministic_algorithms(True),
    ],
    ids=["dtype", "threads", "matmul precision", "deterministic algorithms"],
)
def test_settings_that_change_floats_are_in_the_key(change: object) -> None:
    before, threads = environment(), torch.get_num_threads()
    try:
        change()  # type: ignore[operator]
        assert environment() != before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
    assert environment() == before
