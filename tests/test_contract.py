"""What attacks and judges refuse: input that means nothing, in one line that says what to pass instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import each
from contract import random_batch, seeded, spoiled, tiny
from torch import Tensor, nn

from advdef.attacks import fgsm, pgd, uniform_noise
from advdef.contract import ProbabilitiesWarning, TrainingModeWarning, validate
from advdef.defenses import Undefended
from advdef.evaluation import correct, direct, evaluate

NAN, INF = float("nan"), float("inf")


@each(
    ("change", "error", "message"),
    [
        ({"images": lambda x: 255 * x}, ValueError, r"\[0, 1\]; seen: \d.* to 2\d\d\."),
        ({"images": lambda x: x - 0.5}, ValueError, r"\[0, 1\]; seen: -0\."),
        ({"images": lambda x: x.clamp(max=0) + 1.0000001}, ValueError, r"seen: 1\.0000001\d* to 1\.0000001"),
        ({"images": lambda x: spoiled(x, NAN)}, ValueError, "seen: nan"),
        ({"images": lambda x: spoiled(x, INF)}, ValueError, "to inf"),
        ({"images": lambda x: x[:0], "labels": lambda y: y[:0]}, ValueError, r"\(N, C, H, W\) with N > 0"),
        ({"images": lambda x: x[0], "labels": lambda y: y[:1]}, ValueError, r"not \(2, 3, 3\)"),
        ({"images": lambda x: (255 * x).byte()}, TypeError, r"not torch\.uint8; divide bytes by 255"),
        ({"images": lambda x: x.half()}, TypeError, r"float32 or float64 in \[0, 1\], not torch\.float16; .*\.float"),
        ({"images": lambda x: x.bfloat16()}, TypeError, r"not torch\.bfloat16"),
        ({"images": lambda x: x.numpy()}, TypeError, r"torch\.Tensor, not numpy\.ndarray: torch\.as_tensor\(images\)"),
        ({"images": lambda x: torch.utils.data.DataLoader(x)}, TypeError, r"map\(torch\.cat, zip\(\*loader\)\)"),
        ({"labels": lambda y: y.numpy()}, TypeError, r"labels must be a torch\.Tensor, not numpy\.ndarray"),
        ({"labels": lambda y: y.tolist()}, TypeError, r"labels must be a torch\.Tensor, not builtins\.list"),
        ({"labels": lambda y: y.int()}, TypeError, r"int64, not torch\.int32: labels\.long"),
        ({"labels": lambda y: y.float()}, TypeError, r"int64, not torch\.float32"),
        ({"labels": lambda y: y[:3]}, ValueError, r"\(6,\), not \(3,\)"),
        ({"labels": lambda y: y[:, None]}, ValueError, r"\(6,\), not \(6, 1\)"),
        ({"labels": lambda y: y.to("meta")}, ValueError, "images are on cpu and labels on meta"),
        ({"eps": lambda e: -0.1}, ValueError, "finite and not negative; seen: -0.1 to -0.1"),
        ({"eps": lambda e: NAN}, ValueError, "seen: nan"),
        ({"eps": lambda e: INF}, ValueError, "to inf"),
        ({"eps": lambda e: "0.1"}, TypeError, "eps must be a number.* not '0.1'"),
        ({"eps": lambda e: True}, TypeError, "eps must be a number.* not True"),
        ({"eps": lambda e: 8}, ValueError, r"in steps of 1/255 it is 8 / 255"),
        ({"eps": lambda e: torch.full((6,), 2.0)}, ValueError, r"in steps of 1/255 it is 2 / 255"),
        ({"eps": lambda e: torch.tensor([0.1] * 5 + [NAN])}, ValueError, "seen: nan"),
        ({"eps": lambda e: torch.full((5,), 0.1)}, ValueError, r"\(6,\), not \(5,\)"),
        ({"eps": lambda e: torch.full((6, 1), 0.1)}, ValueError, r"not \(6, 1\)"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    images, labels = random_batch()
    given: dict[str, Any] = {"images": images, "labels": labels, "eps": 0.1}
    given |= {name: make(given[name]) for name, make in change.items()}
    with pytest.raises(error, match=message):
        validate(**given)
    with pytest.raises(error, match=message):
        pgd(tiny(), **given)
    if not isinstance(given["eps"], Tensor):  # which evaluate does not take
        defence = Undefended(tiny())
        with pytest.raises(error, match=message):
            evaluate(defence, direct(defence, "quick"), **given, generator=seeded())


def test_a_norm_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no norm 'L3'; there are Linf, L2, L1, L0"):
        validate(*random_batch(), 0.1, norm="L3")  # type: ignore[arg-type]


def test_what_is_valid_comes_back_as_copies() -> None:
    images, labels = random_batch()
    for eps, norm, shape in ((0.1, "Linf", (1, 1, 1, 1)), (8, "L2", (1, 1, 1, 1)), (torch.rand(6), "L1", (6, 1, 1, 1))):
        found = validate(images.double(), labels, eps, norm=norm)  # type: ignore[arg-type]
        assert torch.equal(found[0], images.double())
        assert torch.equal(found[1], labels)
        assert found[2].shape == shape
        assert found[2].dtype == torch.float64
        assert torch.equal(found[2].flatten(), torch.as_tensor(eps, dtype=torch.float64).flatten())
        for copy in found:
            copy.zero_()
    assert torch.equal(images, random_batch()[0])
    assert torch.equal(labels, random_batch()[1])
    assert validate(images, labels, INF, unbounded=True)[2].item() == INF


def test_a_seed_is_no_generator() -> None:
    message = r"generator must be a torch\.Generator, such as .*, not 0"
    defence = Undefended(tiny())
    with pytest.raises(TypeError, match=message):
        pgd(tiny(), *random_batch(), eps=0.1, generator=0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=message):
        evaluate(defence, direct(defence, "quick"), *random_batch(), eps=0.1, generator=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_name_no_logit_are_refused_and_the_mode_comes_back(label: int) -> None:
    images, labels = random_batch()
    labels[3] = label
    model = tiny().train()
    with pytest.raises(ValueError, match=rf"0\.\.3; seen: {min(label, 0)} to {max(label, 3)}"):  # noqa: SIM117
        with pytest.warns(TrainingModeWarning):
            fgsm(model, images, labels, eps=0.1)
    assert all(m.training for m in model.modules())
    with pytest.raises(ValueError, match=r"0\.\.3; seen"):
        correct(tiny(), images, labels)


class Fixed(nn.Module):
    """The same output for every image."""

    def __init__(self, *output: float) -> None:
        super().__init__()
        self.output = torch.tensor(output)

    def forward(self, images: Tensor) -> Tensor:
        return self.output.expand(len(images), -1) + 0 * images.flatten(1).sum(1, keepdim=True)


def test_a_model_that_gives_no_logits_is_named() -> None:
    images, labels = random_batch()
    for attack in (pgd, uniform_noise):
        for value in (NAN, -INF):
            with pytest.raises(ValueError, match="NaN or infinite logits"):
                attack(Fixed(0.0, value, 0.0, 0.0), images, labels, eps=0.1)
        with pytest.raises(ValueError, match=r"must return logits \(6, classes\), not \(6, 2, 3, 3\)"):
            attack(nn.Identity(), images, labels, eps=0.1)
        with pytest.warns(ProbabilitiesWarning, match="drop the softmax"):
            attack(nn.Sequential(tiny(), nn.Softmax(1)).eval(), images, labels, eps=0.1)
