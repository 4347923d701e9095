"""A bank holds what benign images of the given split say, by hand; its controls lose what they are meant to lose."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.data import Split
from advdef.norms import rms_normalised
from advdef.papers.nip.bank import (
    DirectionBank,
    fit_bank,
    phase_scrambled,
    random_bank,
)

TENSORS = ("weights", "directions", "samples", "mean", "deviation")


def net() -> nn.Sequential:
    """Images (1, 4, 4), 20 features after layer "2", three classes about equally often."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 3)).eval()
        model[4].bias -= model(torch.rand(200, 1, 4, 4)).mean(0)
    return model


def split(n: int = 90) -> Split:
    """Every third label is not what the network says."""
    images = torch.randint(256, (n, 1, 4, 4), generator=seeded(), dtype=torch.uint8)
    with torch.no_grad():
        labels = net()(images / 255).argmax(1)
    labels[::3] = (labels[::3] + 1) % 3
    return Split(images, labels)


@pytest.fixture(scope="module")
def bank() -> DirectionBank:
    return fit_bank(net(), split(), layer="2", share=0.2, per_class=6, kept=3)


def assert_same(one: DirectionBank, other: DirectionBank) -> None:
    assert one.layer == other.layer
    for name in TENSORS:
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype
        assert torch.equal(first, second), name


def test_a_bank_by_hand(bank: DirectionBank) -> None:
    model, data = net().requires_grad_(False), split()
    first, last = model[1], model[4]
    assert bank.layer == "2"
    for c in range(3):
        right = [
            i for i in range(len(data)) if data.labels[i] == c and model(data.images[i : i + 1] / 255).argmax() == c
        ]
        images = data.images[right[:6]].flatten(1) / 255
        features = (images @ first.weight.T + first.bias).relu()
        order = (features * last.weight[c]).mean(0).argsort()
        weights = torch.zeros(20)
        weights[order[-4:]], weights[order[:4]] = 1.0, -1.0
        assert torch.equal(bank.weights[c], weights)
        gradients = ((features > 0) * weights) @ first.weight
        directions = gradients / (gradients.square().mean(1, keepdim=True).sqrt() + 1e-5)
        assert torch.allclose(bank.samples[c].flatten(1), directions[:3], atol=1e-5)
        mean = directions.mean(0)
        assert torch.allclose(bank.directions[c].flatten(), mean / (mean.square().mean().sqrt() + 1e-5), atol=1e-5)
        sums = features @ weights
        assert float(bank.mean[c]) == pytest.approx(float(sums.mean()), abs=1e-5)
        assert float(bank.deviation[c]) == pytest.approx(float(sums.std()), abs=1e-5)
    assert not any(getattr(bank, name).requires_grad for name in TENSORS)


def test_only_the_first_correctly_classified_images_of_the_split_count(bank: DirectionBank) -> None:
    model, data = net(), split()
    options = {"layer": "2", "share": 0.2, "per_class": 6, "kept": 3}
    right = model(data.images / 255).argmax(1) == data.labels
    used = torch.cat([torch.nonzero(right & (data.labels == c))[:6, 0] for c in range(3)]).sort().values
    assert 0 < len(used) < int(right.sum()) < len(data)
    assert_same(bank, fit_bank(model, Split(data.images[used], data.labels[used]), **options))  # type: ignore[arg-type]
    spoiled = data.images.clone()
    rest = torch.ones(len(data)).index_fill_(0, used, 0.0).bool()
    spoiled[rest & ~right] = spoiled[rest & ~right].flip(0)
    labels = data.labels.clone()
    labels[rest] = (model(spoiled[rest] / 255).argmax(1) + 1) % 3
    assert_same(bank, fit_bank(model, Split(spoiled, labels), **options))  # type: ignore[arg-type]
    # and each of those does count
    for i in used.tolist():
        without = torch.arange(len(data)) != i
        other = fit_bank(model, Split(data.images[without], data.labels[without]), **options)  # type: ignore[arg-type]
        assert not torch.equal(other.mean, bank.mean)


def test_the_bank_depends_on_neither_the_batch_size_nor_the_mode_nor_switched_off_gradients(
    bank: DirectionBank,
) -> None:
    model = net().train()
    with torch.inference_mode():
        found = fit_bank(model, split(), layer="2", share=0.2, per_class=6, kept=3, batch_size=7)
    assert_same(bank, found)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_score_and_the_share_are_passed_on(bank: DirectionBank) -> None:
    by_probability = fit_bank(net(), split(), layer="2", share=0.2, per_class=6, kept=3, score="probability")
    assert not torch.equal(by_probability.weights, bank.weights)
    small = fit_bank(net(), split(), layer="2", share=0.05, per_class=6, kept=3)
    assert small.weights.abs().sum(1).tolist() == [2.0] * 3


def test_a_class_with_too_few_images_is_refused() -> None:
    model, data = net(), split()
    few = torch.nonzero((model(data.images / 255).argmax(1) == data.labels) & (data.labels == 1))[2:, 0]
    keep = torch.ones(len(data)).index_fill_(0, few, 0.0).bool()
    part = Split(data.images[keep], data.labels[keep])
    with pytest.raises(ValueError, match="class 1 has 2 correctly classified images, and a bank needs 3"):
        fit_bank(model, part, layer="2", share=0.2, kept=3)
    assert fit_bank(model, part, layer="2", share=0.2, kept=2).samples.shape[1] == 2


@pytest.mark.parametrize(("kept", "per_class"), [(0, 5), (6, 5), (1, 1)])
def test_a_number_of_samples_that_cannot_be_is_refused(kept: int, per_class: int) -> None:
    with pytest.raises(ValueError, match=f"need 1 <= kept <= per_class and per_class > 1, not {kept} of {per_class}"):
        fit_bank(net(), split(), layer="2", kept=kept, per_class=per_class)


def test_directions_have_root_mean_square_one(bank: DirectionBank) -> None:
    scrambled, drawn = phase_scrambled(bank, generator=seeded()), random_bank(bank, generator=seeded())
    for one in (bank, scrambled, drawn):
        for value in (one.directions, one.samples):
            assert float((value.square().mean((-3, -2, -1)).sqrt() - 1).abs().max()) < 1e-3


def test_what_does_not_fit_together_is_no_bank(bank: DirectionBank) -> None:
    for name, value in {
        "weights": bank.weights[0],
        "directions": bank.directions[..., 0],
        "samples": bank.samples[:, :0],
        "mean": bank.mean[:, None],
        "deviation": bank.deviation[:2],
    }.items():
        with pytest.raises(ValueError, match=f"{name} (of|must be)"):
            replace(bank, **{name: value})
    with pytest.raises(ValueError, match=r"samples must be \(K, M, 1, 4, 4\) with M > 0, not \(3, 3, 1, 4, 3\)"):
        replace(bank, samples=bank.samples[..., 1:])
    assert {field.name for field in fields(bank)} == {"layer", *TENSORS}
    assert repr(bank) == "DirectionBank(3 classes, 3 samples each of 1x4x4, layer '2')"


def test_a_bank_moves_with_its_layer(bank: DirectionBank) -> None:
    assert_same(bank, bank.to("cpu"))
    moved = bank.to("meta")
    assert moved.layer == "2"
    assert {getattr(moved, name).device.type for name in TENSORS} == {"meta"}


# Controls


def wide(*, colours: int = 3, height: int = 5, width: int = 6) -> DirectionBank:
    """Two classes, smooth coloured directions."""
    noise = torch.randn(2, 5, colours, height, width, generator=seeded()).cumsum(-1)
    noise[:, :, 0] += 1
    return DirectionBank(
        "x", torch.zeros(2, 4), rms_normalised(noise[:, 0]), rms_normalised(noise[:, 1:]), torch.zeros(2), torch.ones(2)
    )


@pytest.mark.parametrize("control", [random_bank, phase_scrambled])
def test_a_control_is_drawn_by_its_generator_and_changes_directions_only(control: type) -> None:
    bank = wide()
    found = control(bank, generator=seeded(1))
    assert_same(found, control(bank, generator=seeded(1)))
    other = control(bank, generator=seeded(2))
    for name in ("directions", "samples"):
        one, drawn = getattr(bank, name), getattr(found, name)
        assert drawn.shape == one.shape
        assert not torch.allclose(drawn, one, atol=0.1)
        assert not torch.allclose(drawn, getattr(other, name), atol=0.1)
    assert not torch.allclose(found.samples[:, 0], found.samples[:, 1], atol=0.1)
    for name in ("weights", "mean", "deviation"):
        assert torch.equal(getattr(found, name), getattr(bank, name))


def test_random_directions_are_white_and_normal() -> None:
    bank = wide(height=40, width=40)
    drawn = random_bank(bank, generator=seeded()).samples.flatten()
    assert len(drawn) == 2 * 4 * 3 * 1600
    assert float(drawn.mean()) == pytest.approx(0, abs=0.02)
    assert float((drawn.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)
    assert float((drawn[1:] * drawn[:-1]).mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 6), (6, 5), (5, 7)])
def test_scrambled_directions_keep_amplitudes_and_colours(height: int, width: int) -> None:
    bank = wide(height=height, width=width)
    found = phase_scrambled(bank, generator=seeded(1))

    def spectrum(value: Tensor) -> Tensor:
        return torch.fft.fft2(value.double())

    # each direction is divided by its RMS + 1e-5, so that one of RMS 1 is changed by that share
    for before, after in ((bank.directions, found.directions), (bank.samples, found.samples)):
        assert torch.allclose(spectrum(before).abs(), spectrum(after).abs(), rtol=2e-5, atol=1e-5)
        # one phase for all channels: products of channels, which hold their difference, stay
        products = [spectrum(value)[..., 0, :, :] * spectrum(value)[..., 1, :, :].conj() for value in (before, after)]
        assert torch.allclose(*products, rtol=4e-5, atol=1e-4)
