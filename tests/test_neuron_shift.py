"""Sets of neurons are followed through an attack, and the controls are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from contract import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advdef.papers.nip.shift import equal_norm_noise, features, matched, shift
from advdef.statistics import mean_interval


def net() -> nn.Sequential:
    """A random network with parts whose mode matters, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 4)
        )


def test_features_are_flattened_activations_in_evaluation_mode() -> None:
    model, images = net(), torch.rand(7, 1, 6, 6, generator=seeded())
    found = [features(model, images, layer, batch_size=3) for layer in ("2", "3", "4")]
    assert model.training
    assert not found[0].requires_grad
    with torch.no_grad():
        expected = model.eval()[:4](images)
    for values in found:
        torch.testing.assert_close(values, expected)
    torch.testing.assert_close(features(model.double(), images.double(), "5"), model(images.double()).detach())


class Unused(nn.Sequential):
    """Leaves out its last layer."""

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self[0](images)
        return found


def test_features_of_no_layer_and_of_one_that_takes_no_part_are_refused() -> None:
    images = torch.rand(2, 1, 6, 6)
    with pytest.raises(ValueError, match="has no layer '9'"):
        features(net(), images, "9")
    with pytest.raises(ValueError, match="a forward pass has no layer '1'"):
        features(Unused(nn.Flatten(), nn.ReLU()), images, "1")


def some_sets(sizes: list[int], width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations, half of them zero, and for each image a random set of its size."""
    activations = torch.randn(len(sizes), width, generator=seeded(seed)).relu()
    ranks = torch.rand(len(sizes), width, generator=seeded(seed + 1)).argsort(1).argsort(1)
    return activations, ranks < torch.tensor(sizes)[:, None]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30).flatmap(lambda w: st.tuples(st.just(w), st.lists(st.integers(0, w // 2), min_size=1))))
def test_a_match_is_as_large_as_the_set_and_shares_nothing_with_it(case: tuple[int, list[int]]) -> None:
    width, sizes = case
    activations, chosen = some_sets(sizes, width)
    before = activations.clone(), chosen.clone()
    control = matched(activations, chosen, generator=seeded())
    assert control.dtype == torch.bool
    assert control.sum(1).tolist() == sizes
    assert not bool((control & chosen).any())
    assert torch.equal(activations, before[0])
    assert torch.equal(chosen, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_neuron_is_matched_with_each_of_its_four_neighbours_alike(dtype: torch.dtype) -> None:
    order = torch.rand(4000, 21, generator=seeded()).argsort(1)  # neuron i of an image is its order[i]-th
    control = matched(order.to(dtype) ** 2, order == 10, generator=seeded())
    ranks, counts = order[control].unique(return_counts=True)
    assert ranks.tolist() == [8, 9, 11, 12]
    assert counts.tolist() == pytest.approx([1000] * 4, abs=4 * math.sqrt(1000 * 0.75))


def test_silent_neurons_are_matched_at_random_and_not_by_their_place() -> None:
    activations, chosen = torch.zeros(4000, 11), torch.zeros(4000, 11, dtype=torch.bool)
    chosen[:, 3] = True
    control = matched(activations, chosen, generator=seeded())
    assert control.sum(0).tolist() == pytest.approx([400 * (i != 3) for i in range(11)], abs=4 * math.sqrt(360))
    # of active neurons, two are there: a silent neuron among many silent ones has a silent match
    activations[:, :2] = 1
    assert int(matched(activations, chosen, generator=seeded())[:, :2].sum()) < 4000 * 0.25


def test_the_most_active_neurons_are_matched_with_the_next_ones() -> None:
    order = torch.rand(50, 40, generator=seeded()).argsort(1)
    for top, following in ((order >= 30, (order >= 20) & (order < 30)), (order < 10, (order >= 10) & (order < 20))):
        assert torch.equal(matched(order.exp(), top, generator=seeded()), following)


def test_a_crowd_is_matched_from_both_sides() -> None:
    order = torch.rand(200, 100, generator=seeded()).argsort(1).float()
    chosen = (order >= 40) & (order < 60)
    control = matched(order, chosen, generator=seeded())
    assert bool(((order[control] >= 26) & (order[control] < 74)).all())
    means = order[control].reshape(200, 20).mean(1)
    assert float(means.mean()) == pytest.approx(49.5, abs=0.25)
    assert float((means - 49.5).abs().max()) < 5


def test_a_match_repeats_under_a_seed_only() -> None:
    activations, chosen = some_sets([5] * 10, 40)
    first, again, other = (matched(activations, chosen, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert bool((first != other).any(1).all())


def test_no_more_than_half_of_the_neurons_have_a_match() -> None:
    activations, chosen = some_sets([2, 3], 5)
    with pytest.raises(ValueError, match="more than half of the neurons has no match"):
        matched(activations, chosen, generator=seeded())


def test_the_match_falls_as_the_set_does_where_nothing_but_chance_is_at_work() -> None:
    """Neurons chosen by activation times slope lose on the next draw; as active ones do too, random ones do not."""
    draws = torch.randn(2, 400, 300, generator=seeded()).relu()
    slopes = torch.randn(400, 300, generator=seeded(1))
    ranks = (draws[0] * slopes).argsort(1, descending=True).argsort(1)
    front, anything = ranks < 15, slopes.argsort(1).argsort(1) < 15
    lost = shift(draws[0], draws[1], front).mean()
    control = matched(draws[0], front, generator=seeded())
    assert float(lost) < -0.5
    assert float(shift(draws[0], draws[1], control).mean() / lost) == pytest.approx(1, abs=0.05)
    assert abs(float(shift(draws[0], draws[1], anything).mean() / lost)) < 0.05


def test_shift_by_hand() -> None:
    clean = torch.tensor([[4.0, 2.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    moved = torch.tensor([[1.0, 2.0, 7.0], [9.0, 2.0, 4.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    chosen = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0]]).bool()
    change, share = shift(clean, moved, chosen), shift(clean, moved, chosen, relative=True)
    assert change.dtype == share.dtype == torch.float64
    assert change[:2].tolist() == [-1.5, 3.0]
    assert float(share[0]) == -0.5
    assert share.isnan().tolist() == [False, True, True]  # silent when clean; no neurons at all
    assert change.isnan().tolist() == [False, False, True]
    assert mean_interval(change).value == 0.75


def test_sets_that_are_no_sets_of_these_neurons_are_refused() -> None:
    activations, chosen = some_sets([1, 1], 5)
    for call in (
        lambda values, sets: matched(values, sets, generator=seeded()),
        lambda values, sets: shift(values, values, sets),
        lambda values, sets: shift(activations, values, sets.expand(2, 5)),
    ):
        with pytest.raises(TypeError, match=r"must be boolean, not torch\.int64"):
            call(activations, chosen.long())
        with pytest.raises(ValueError, match=r"need \(N, D\) activations and sets, not \(2, 4\)"):
            call(activations[:, :4], chosen)
    with pytest.raises(ValueError, match=r"not \(2, 5\) and \(1, 5\)"):
        shift(activations, activations, chosen[:1])
    with pytest.raises(ValueError, match=r"not \(5,\) and \(5,\)"):
        matched(activations[0], chosen[0], generator=seeded())


@pytest.mark.parametrize("eps", [1e-3, 1 / 255, 0.1, 0.5])
def test_noise_has_the_norm_of_the_change_and_stays_in_the_unit_interval(eps: float) -> None:
    for black in [0.0, 0.8]:
        for dtype in [torch.float32, torch.float64]:
            images = torch.rand(20, 1, 16, 16, generator=seeded(), dtype=dtype)
            images[torch.rand(images.shape, generator=seeded(1)) < black] = 0
            reach = eps * torch.rand(20, 1, 1, 1, generator=seeded(2), dtype=dtype)  # each image its own
            partners = (images + reach * torch.randn(images.shape, generator=seeded(3), dtype=dtype).sign()).clamp(0, 1)
            noisy = equal_norm_noise(images, partners, generator=seeded())
            assert noisy.dtype == dtype
            assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1
            torch.testing.assert_close(
                (noisy - images).flatten(1).norm(dim=1), (partners - images).flatten(1).norm(dim=1), rtol=1e-3, atol=0
            )


def test_noise_is_gaussian_and_knows_nothing_of_the_change() -> None:
    images = torch.full((40, 3, 32, 32), 0.5)
    partners = images.clone()
    partners[:, 0] += 0.1
    noise = equal_norm_noise(images, partners, generator=seeded()) - images
    scores = (noise / (0.1 / math.sqrt(3))).flatten(1)
    assert float(scores.mean()) == pytest.approx(0, abs=0.01)
    assert float((scores**4).mean()) == pytest.approx(3, abs=0.05)  # 1 for signs, 1.8 for uniform noise
    assert float(torch.cosine_similarity(noise.flatten(1), (partners - images).flatten(1)).abs().max()) < 0.08
    assert float(torch.corrcoef(scores).fill_diagonal_(0).abs().max()) < 0.08  # each image has its own


def test_an_image_without_a_change_gets_no_noise() -> None:
    images = torch.rand(3, 1, 4, 4, generator=seeded())
    partners = images.clone()
    partners[1] = 0.9 * partners[1]
    noisy = equal_norm_noise(images, partners, generator=seeded())
    assert (noisy == images).flatten(1).all(1).tolist() == [True, False, True]
    assert torch.equal(noisy, equal_norm_noise(images, partners, generator=seeded()))
    assert not torch.equal(noisy, equal_norm_noise(images, partners, generator=seeded(1)))


def test_a_change_that_noise_cannot_match_is_refused() -> None:
    black = torch.zeros(2, 1, 8, 8)
    changed = black.clone()
    changed[1] = 1  # noise would lose what it takes below 0
    for images, partners in ((black, changed), (black, black / 0), (black - 0.1, black)):
        with pytest.raises(ValueError, match=r"noise within \[0, 1\] does not reach the norm"):
            equal_norm_noise(images, partners, generator=seeded())
    with pytest.raises(ValueError, match=r"must pair up, not \(2, 1, 8, 8\) and \(1, 1, 8, 8\)"):
        equal_norm_noise(black, black[:1], generator=seeded())
